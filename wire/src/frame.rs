//! Frame: the bytes of one message. Header, body, zeroes up to 512, payload, zeroes up to 512.
//! W1: a frame is a multiple of 512 bytes long, so in a stream received into an aligned buffer every payload is aligned.
//! W2: header and body are covered by one CRC; the payload by CRCs of its blocks in the body, else by one in the header.
//! W3: numbers of kinds, statuses and outcomes are never used twice.
//! Called by both ends' shells. Never looks into a payload that carries its CRCs in the body: the core checks those.
//! Bytes of each body: body.rs. Reading a stream: decoder.rs. Why: docs/protocol.md.

use crate::body;
use crate::error::FrameError;
use crate::message::Message;
use ashlar_types::{BLOCK_BYTES, CHUNK_BYTES, ClusterId, Crc};
use bytes::{BufMut, Bytes, BytesMut};

/// What each version of the data protocol changed. A frame names the one that gave its kind the form it has, so what didn't change is read by
/// older receivers, and what they would misread is refused by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum DataVersion {
    /// The first one.
    V1 = 1,
    /// `Stack`: a client names the layers of its volume before it asks for anything.
    V2 = 2,
    /// `OverRequest`, `OverReply`: volumes that stand on layers of others (linked clones).
    V3 = 3,
    /// `LayersRequest`, `LayersReply`: which layer has each block (differences between snapshots). `ReservedRequest`, `ReservedGrant`: space that is
    /// reserved.
    V4 = 4,
}

impl DataVersion {
    pub const NEWEST: DataVersion = DataVersion::V4;
}

/// Every part of a frame is filled up to this, in bytes.
pub const FRAME_ALIGN: usize = 512;
pub const HEADER_BYTES: usize = 64;
/// The longest body; header and body together take at most 4 MiB.
pub const MAX_BODY_BYTES: usize = (4 << 20) - HEADER_BYTES;
/// The longest payload: a whole chunk.
pub const MAX_PAYLOAD_BYTES: usize = CHUNK_BYTES as usize;
/// The longest frame.
pub const MAX_FRAME_BYTES: usize = HEADER_BYTES + MAX_BODY_BYTES + MAX_PAYLOAD_BYTES + MAX_BASE_BYTES;
/// Of a write of nearly a whole chunk, what its base has at its first and at its last block.
const MAX_BASE_BYTES: usize = 2 * BLOCK_BYTES as usize;

const MAGIC: [u8; 4] = *b"ASHD";
const CRC_AT: usize = HEADER_BYTES - 4;
static ZEROES: [u8; FRAME_ALIGN] = [0; FRAME_ALIGN];

const _: () = assert!(HEADER_BYTES < FRAME_ALIGN && FRAME_ALIGN.is_power_of_two());
const _: () = assert!(MAX_FRAME_BYTES.is_multiple_of(FRAME_ALIGN));

/// The number of a message's kind in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Kind {
    Hello = 1,
    HelloReply = 2,
    IoRequest = 3,
    IoReply = 4,
    Prepare = 5,
    Prepared = 6,
    Commit = 7,
    LeaseRequest = 8,
    LeaseGrant = 9,
    CreditRequest = 10,
    CreditGrant = 11,
    Promise = 12,
    PromiseReply = 13,
    Decide = 14,
    Decided = 15,
    RaiseFloor = 16,
    FloorRaised = 17,
    JoinStart = 18,
    JoinChunks = 19,
    Push = 20,
    Pushed = 21,
    FetchRequest = 22,
    FetchReply = 23,
    DigestRequest = 24,
    DigestReply = 25,
    Stack = 26,
    OverRequest = 27,
    OverReply = 28,
    LayersRequest = 29,
    LayersReply = 30,
    ReservedRequest = 31,
    ReservedGrant = 32,
}

impl Kind {
    pub const ALL: [Kind; 32] = [
        Kind::Hello,
        Kind::HelloReply,
        Kind::IoRequest,
        Kind::IoReply,
        Kind::Prepare,
        Kind::Prepared,
        Kind::Commit,
        Kind::LeaseRequest,
        Kind::LeaseGrant,
        Kind::CreditRequest,
        Kind::CreditGrant,
        Kind::Promise,
        Kind::PromiseReply,
        Kind::Decide,
        Kind::Decided,
        Kind::RaiseFloor,
        Kind::FloorRaised,
        Kind::JoinStart,
        Kind::JoinChunks,
        Kind::Push,
        Kind::Pushed,
        Kind::FetchRequest,
        Kind::FetchReply,
        Kind::DigestRequest,
        Kind::DigestReply,
        Kind::Stack,
        Kind::OverRequest,
        Kind::OverReply,
        Kind::LayersRequest,
        Kind::LayersReply,
        Kind::ReservedRequest,
        Kind::ReservedGrant,
    ];

    fn from_number(number: u16) -> Result<Kind, FrameError> {
        let index = usize::from(number).checked_sub(1);
        let kind = index.and_then(|i| Kind::ALL.get(i)).copied().ok_or(FrameError::Kind { found: number })?;
        assert!(kind as u16 == number, "W3: Kind::ALL is in the order of the numbers");
        Ok(kind)
    }

    pub fn of(message: &Message) -> Kind {
        match message {
            Message::Hello(_) => Kind::Hello,
            Message::HelloReply(_) => Kind::HelloReply,
            Message::IoRequest(_) => Kind::IoRequest,
            Message::IoReply(_) => Kind::IoReply,
            Message::Prepare(_) => Kind::Prepare,
            Message::Prepared(_) => Kind::Prepared,
            Message::Commit(_) => Kind::Commit,
            Message::LeaseRequest(_) => Kind::LeaseRequest,
            Message::LeaseGrant(_) => Kind::LeaseGrant,
            Message::CreditRequest(_) => Kind::CreditRequest,
            Message::CreditGrant(_) => Kind::CreditGrant,
            Message::Promise(_) => Kind::Promise,
            Message::PromiseReply(_) => Kind::PromiseReply,
            Message::Decide(_) => Kind::Decide,
            Message::Decided(_) => Kind::Decided,
            Message::RaiseFloor(_) => Kind::RaiseFloor,
            Message::FloorRaised(_) => Kind::FloorRaised,
            Message::JoinStart(_) => Kind::JoinStart,
            Message::JoinChunks(_) => Kind::JoinChunks,
            Message::Push(_) => Kind::Push,
            Message::Pushed(_) => Kind::Pushed,
            Message::FetchRequest(_) => Kind::FetchRequest,
            Message::FetchReply(_) => Kind::FetchReply,
            Message::DigestRequest(_) => Kind::DigestRequest,
            Message::DigestReply(_) => Kind::DigestReply,
            Message::Stack(_) => Kind::Stack,
            Message::OverRequest(_) => Kind::OverRequest,
            Message::OverReply(_) => Kind::OverReply,
            Message::LayersRequest(_) => Kind::LayersRequest,
            Message::LayersReply(_) => Kind::LayersReply,
            Message::ReservedRequest(_) => Kind::ReservedRequest,
            Message::ReservedGrant(_) => Kind::ReservedGrant,
        }
    }

    pub fn version(self) -> DataVersion {
        match self {
            Kind::Stack => DataVersion::V2,
            Kind::OverRequest | Kind::OverReply => DataVersion::V3,
            Kind::LayersRequest | Kind::LayersReply | Kind::ReservedRequest | Kind::ReservedGrant => DataVersion::V4,
            _ => DataVersion::V1,
        }
    }

    /// The longest payload of this kind.
    fn payload_bytes_max(self) -> usize {
        match self {
            Kind::IoRequest | Kind::IoReply | Kind::OverReply | Kind::Prepare | Kind::Push => MAX_PAYLOAD_BYTES,
            Kind::OverRequest => MAX_PAYLOAD_BYTES + MAX_BASE_BYTES,
            Kind::FetchReply => BLOCK_BYTES as usize,
            _ => 0,
        }
    }

    /// Whether the header holds the payload's CRC, because the body doesn't (W2).
    fn has_payload_crc(self) -> bool {
        self == Kind::FetchReply
    }

    /// Hellos are read whatever cluster they come from, so that their receiver can say what is wrong.
    pub fn is_greeting(self) -> bool {
        matches!(self, Kind::Hello | Kind::HelloReply)
    }
}

/// A header whose fields are within their limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub kind: Kind,
    pub cluster: ClusterId,
    body_bytes: usize,
    payload_bytes: usize,
    payload_crc: Crc,
    crc: Crc,
}

/// Cuts a fixed-size field out of a header.
fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    *header[at..].first_chunk::<N>().expect("offsets are constants within the header")
}

impl Header {
    pub(crate) fn read(bytes: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
        let magic = field::<4>(bytes, 0);
        if magic != MAGIC {
            return Err(FrameError::Magic { found: magic });
        }
        let version = u16::from_le_bytes(field(bytes, 4));
        if version == 0 || version > DataVersion::NEWEST as u16 {
            return Err(FrameError::Version { found: version, known: DataVersion::NEWEST as u16 });
        }
        let kind = Kind::from_number(u16::from_le_bytes(field(bytes, 6)))?;
        if version != kind.version() as u16 {
            return Err(FrameError::Version { found: version, known: kind.version() as u16 });
        }
        let length = |at, what, most: usize| {
            let found = u32::from_le_bytes(field(bytes, at)) as usize;
            match found <= most {
                true => Ok(found),
                false => Err(FrameError::TooLong { kind, what, found: found as u64, most: most as u64 }),
            }
        };
        let header = Header {
            kind,
            cluster: ClusterId(u128::from_le_bytes(field(bytes, 8))),
            body_bytes: length(24, "body", MAX_BODY_BYTES)?,
            payload_bytes: length(28, "payload", kind.payload_bytes_max())?,
            payload_crc: Crc(u32::from_le_bytes(field(bytes, 32))),
            crc: Crc(u32::from_le_bytes(field(bytes, CRC_AT))),
        };
        if bytes[36..CRC_AT] != ZEROES[36..CRC_AT] || (!kind.has_payload_crc() && header.payload_crc != Crc(0)) {
            return Err(FrameError::Reserved { kind });
        }
        Ok(header)
    }

    /// Header, body and padding.
    pub(crate) fn head_bytes(&self) -> usize {
        (HEADER_BYTES + self.body_bytes).next_multiple_of(FRAME_ALIGN)
    }

    pub(crate) fn frame_bytes(&self) -> usize {
        self.head_bytes() + self.payload_bytes.next_multiple_of(FRAME_ALIGN)
    }

    /// The message in a whole frame; its payload is a slice of it.
    pub(crate) fn read_message(&self, mut frame: Bytes) -> Result<Message, FrameError> {
        assert!(frame.len() == self.frame_bytes(), "W1: the decoder cuts whole frames");
        let kind = self.kind;
        let mut payload = frame.split_off(self.head_bytes());
        let (covered, padding) = frame.split_at(HEADER_BYTES + self.body_bytes);
        let (header, body) = covered.split_at(HEADER_BYTES);
        check_crc(kind, "header and body", self.crc, Crc::of(&header[..CRC_AT]).append(body))?;
        let payload_padding = payload.split_off(self.payload_bytes);
        if [padding, &payload_padding].iter().any(|p| **p != ZEROES[..p.len()]) {
            return Err(FrameError::Reserved { kind });
        }
        if kind.has_payload_crc() {
            check_crc(kind, "payload", self.payload_crc, Crc::of(&payload))?;
        }
        body::get(kind, body, payload)
    }
}

fn check_crc(kind: Kind, what: &'static str, expected: Crc, found: Crc) -> Result<(), FrameError> {
    match expected == found {
        true => Ok(()),
        false => Err(FrameError::Checksum { kind, what, expected, found }),
    }
}

/// One frame ready to be sent: `head`, `payload`, then [`EncodedFrame::tail`], as three parts of one vectored write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFrame {
    pub head: Bytes,
    /// The message's own payload, not a copy.
    pub payload: Bytes,
}

impl EncodedFrame {
    /// The zeroes behind the payload.
    pub fn tail(&self) -> &'static [u8] {
        tail_of(&self.payload)
    }

    /// Bytes in all.
    pub fn frame_bytes(&self) -> usize {
        self.head.len() + self.payload.len() + self.tail().len()
    }
}

fn tail_of(payload: &Bytes) -> &'static [u8] {
    &ZEROES[..payload.len().next_multiple_of(FRAME_ALIGN) - payload.len()]
}

/// Turns a message into a frame.
///
/// # Panics
/// When the message breaks a limit of this file: cores keep far below them.
pub fn encode(message: &Message, cluster: ClusterId) -> EncodedFrame {
    let mut head = BytesMut::with_capacity(FRAME_ALIGN);
    let payload = put_head(message, cluster, &mut head);
    EncodedFrame { head: head.freeze(), payload }
}

/// Appends header, body and padding; gives back the payload that follows them.
fn put_head(message: &Message, cluster: ClusterId, out: &mut BytesMut) -> Bytes {
    let kind = Kind::of(message);
    let start = out.len();
    out.put_bytes(0, HEADER_BYTES);
    let payload = body::put(message, out);
    let body_bytes = out.len() - start - HEADER_BYTES;
    assert!(body_bytes <= MAX_BODY_BYTES, "a core made {kind:?} of {body_bytes} bytes");
    assert!(payload.len() <= kind.payload_bytes_max(), "a core made {kind:?} with {} bytes of payload", payload.len());
    let payload_crc = if kind.has_payload_crc() { Crc::of(&payload) } else { Crc(0) };

    let mut header = &mut out[start..start + HEADER_BYTES];
    header.put_slice(&MAGIC);
    header.put_u16_le(kind.version() as u16);
    header.put_u16_le(kind as u16);
    header.put_u128_le(cluster.0);
    header.put_u32_le(u32::try_from(body_bytes).expect("at most MAX_BODY_BYTES"));
    header.put_u32_le(u32::try_from(payload.len()).expect("at most what its kind may have"));
    header.put_u32_le(payload_crc.0);
    let crc = Crc::of(&out[start..start + CRC_AT]).append(&out[start + HEADER_BYTES..]);
    out[start + CRC_AT..start + HEADER_BYTES].copy_from_slice(&crc.0.to_le_bytes());

    let filled = out.len() - start;
    out.put_bytes(0, filled.next_multiple_of(FRAME_ALIGN) - filled);
    payload
}

/// Collects many frames for one connection into few pieces for one vectored write: heads and small payloads are written one
/// behind the other into one buffer, larger payloads are passed by handle.
#[derive(Debug)]
pub struct Encoder {
    cluster: ClusterId,
    heads: BytesMut,
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl Encoder {
    /// Payloads up to this are copied behind their head: a piece more in a vectored write costs as much.
    const COPIED_PAYLOAD_BYTES: usize = 512;
    const BUFFER_BYTES: usize = 16 << 10;

    pub fn new(cluster: ClusterId) -> Encoder {
        Encoder { cluster, heads: BytesMut::new(), pieces: Vec::new(), bytes: 0 }
    }

    /// Appends a message; see [`encode`].
    pub fn push(&mut self, message: &Message) {
        if self.heads.capacity() - self.heads.len() < FRAME_ALIGN {
            self.cut();
            self.heads.reserve(Self::BUFFER_BYTES);
        }
        let before = self.heads.len();
        let payload = put_head(message, self.cluster, &mut self.heads);
        let tail = tail_of(&payload);
        self.bytes += self.heads.len() - before + payload.len() + tail.len();
        if payload.len() <= Self::COPIED_PAYLOAD_BYTES {
            self.heads.put_slice(&payload);
        } else {
            self.cut();
            self.pieces.push(payload);
        }
        self.heads.put_slice(tail);
    }

    fn cut(&mut self) {
        if !self.heads.is_empty() {
            self.pieces.push(self.heads.split().freeze());
        }
    }

    /// Bytes collected.
    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Moves what was collected to the end of `pieces`, in order.
    pub fn take(&mut self, pieces: &mut impl Extend<Bytes>) {
        self.cut();
        pieces.extend(self.pieces.drain(..));
        self.bytes = 0;
    }
}
