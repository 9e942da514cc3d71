//! Decoder: a stream of bytes becomes messages whose payloads are slices of the buffer they were received into.
//! D1: the buffer begins with a frame, at a multiple of 512 in memory; so every payload is aligned. D2: only the part of a frame
//! that straddles the end of a buffer is moved. D3: memory grows with what has arrived, not with what a header promises.
//! Does no I/O: the shell receives into `buffer`, then calls `next` until it has nothing more.

use crate::error::FrameError;
use crate::frame::{FRAME_ALIGN, HEADER_BYTES, Header};
use crate::message::Message;
use ashlar_types::{ClusterId, aligned_payload};
use bytes::BytesMut;

/// Sizes of receive buffers, in bytes: a quiet connection holds little, a busy one receives much at once.
const BUFFER_BYTES_MIN: usize = 16 << 10;
const BUFFER_BYTES_MAX: usize = 256 << 10;
/// Buffers kept for use again once nobody holds a slice of them.
const SPENT_BUFFERS: usize = 2;
/// Less room than this isn't worth a receive.
const ROOM_BYTES_MIN: usize = 4096;
const PAGE_BYTES: usize = 4096;

#[derive(Debug)]
pub struct Decoder {
    cluster: ClusterId,
    is_greeted: bool,
    buffer: BytesMut,
    /// The first frame's header, once its bytes are there.
    header: Option<Header>,
    /// What the buffer was made with.
    buffer_bytes: usize,
    /// The next buffer's size.
    size: usize,
    /// The most that was received at once since the buffer was made.
    received_max: usize,
    /// Bytes in the buffer when it was handed out.
    len_before: usize,
    spent: Vec<BytesMut>,
}

impl Decoder {
    pub fn new(cluster: ClusterId) -> Decoder {
        Decoder {
            cluster,
            is_greeted: true,
            buffer: BytesMut::new(),
            header: None,
            buffer_bytes: 0,
            size: BUFFER_BYTES_MIN,
            received_max: 0,
            len_before: 0,
            spent: Vec::new(),
        }
    }

    /// A decoder that takes nothing but a hello (or its reply) as the first frame, so that strangers cannot make it hold much.
    pub fn greeting_first(cluster: ClusterId) -> Decoder {
        Decoder { is_greeted: false, ..Decoder::new(cluster) }
    }

    /// Where to receive: append to it, up to its capacity, for example with tokio's `read_buf`. There is always room.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.make_room();
        self.len_before = self.buffer.len();
        &mut self.buffer
    }

    /// The same buffer by value, for a kernel that writes into it while it is elsewhere; hand it back with [`Decoder::put_buffer`].
    pub fn take_buffer(&mut self) -> BytesMut {
        std::mem::take(self.buffer())
    }

    /// Takes back the buffer of [`Decoder::take_buffer`], with what was received appended.
    pub fn put_buffer(&mut self, buffer: BytesMut) {
        assert!(self.buffer.is_empty() && self.buffer.capacity() == 0, "D1: one buffer at a time");
        self.buffer = buffer;
    }

    /// Bytes that are waiting for the rest of their frame.
    pub fn pending_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The next message, or `None` until more is received. After an error the stream is lost.
    ///
    /// Named like an iterator's method, but an end is never the end.
    #[allow(clippy::should_implement_trait)] // `None` means "not yet"
    pub fn next(&mut self) -> Result<Option<Message>, FrameError> {
        self.received_max = self.received_max.max(self.buffer.len().saturating_sub(self.len_before));
        let Some(header) = self.read_header()? else { return Ok(None) };
        if self.buffer.len() < header.frame_bytes() {
            return Ok(None);
        }
        self.header = None;
        let frame = self.buffer.split_to(header.frame_bytes()).freeze();
        self.len_before = self.buffer.len();
        debug_assert!((frame.as_ptr() as usize).is_multiple_of(FRAME_ALIGN), "D1");
        let message = header.read_message(frame)?;
        self.is_greeted = true;
        Ok(Some(message))
    }

    /// Reads and checks the first frame's header as soon as it is there.
    fn read_header(&mut self) -> Result<Option<Header>, FrameError> {
        if self.header.is_none()
            && let Some(bytes) = self.buffer.first_chunk::<HEADER_BYTES>()
        {
            let header = Header::read(bytes)?;
            let kind = header.kind;
            if !kind.is_greeting() {
                if !self.is_greeted {
                    return Err(FrameError::NotGreeted { kind });
                }
                if header.cluster != self.cluster {
                    return Err(FrameError::WrongCluster { expected: self.cluster, found: header.cluster });
                }
            }
            if kind.is_greeting() && header.frame_bytes() > FRAME_ALIGN {
                let (found, most) = (header.frame_bytes() as u64, FRAME_ALIGN as u64);
                return Err(FrameError::TooLong { kind, what: "frame", found, most });
            }
            self.header = Some(header);
        }
        Ok(self.header)
    }

    /// Bytes of the first frame that are still to come, if that is known.
    fn missing_bytes(&self) -> usize {
        self.header.map_or(0, |h| h.frame_bytes().saturating_sub(self.buffer.len()))
    }

    fn make_room(&mut self) {
        let (held, missing) = (self.buffer.len(), self.missing_bytes());
        let room = self.buffer.capacity() - held;
        let fits = if missing > 0 { room >= missing } else { room >= ROOM_BYTES_MIN };
        if fits {
            return;
        }
        // D3: at most four times what has arrived.
        let whole = held + missing.max(ROOM_BYTES_MIN);
        let wanted = whole.min(self.size.max(held * 4)).max(held + ROOM_BYTES_MIN);
        let is_worth_moving = wanted >= whole || wanted >= 2 * self.buffer.capacity();
        if room >= ROOM_BYTES_MIN && !is_worth_moving {
            return;
        }
        self.adapt_size();
        let wanted = wanted.max(self.size);
        let mut fresh = self.fresh_buffer(wanted);
        fresh.extend_from_slice(&self.buffer);
        let mut old = std::mem::replace(&mut self.buffer, fresh);
        let old_bytes = std::mem::replace(&mut self.buffer_bytes, wanted);
        if old.capacity() > 0 && old_bytes <= BUFFER_BYTES_MAX && self.spent.len() < SPENT_BUFFERS {
            old.clear();
            self.spent.push(old);
        }
    }

    fn adapt_size(&mut self) {
        if self.received_max >= self.size / 2 {
            self.size = (self.size * 2).min(BUFFER_BYTES_MAX);
        } else if self.received_max < self.size / 8 {
            self.size = (self.size / 2).max(BUFFER_BYTES_MIN);
        }
        self.received_max = 0;
    }

    /// An empty buffer that begins at a page: one that is no longer in use, else a new one.
    fn fresh_buffer(&mut self, bytes: usize) -> BytesMut {
        for i in 0..self.spent.len() {
            // What lies before the first page's start in the allocation is lost again, hence the page more.
            if self.spent[i].try_reclaim(bytes + PAGE_BYTES - 1) {
                let mut buffer = self.spent.swap_remove(i);
                let skip = buffer.as_ptr().align_offset(PAGE_BYTES);
                buffer.resize(skip, 0);
                let _ = buffer.split_to(skip);
                return buffer;
            }
        }
        if self.spent.len() == SPENT_BUFFERS {
            self.spent.remove(0);
        }
        aligned_payload(bytes)
    }
}
