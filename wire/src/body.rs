//! The body of each kind of message: which fields, in which order. The order here is the format; the order in message.rs means nothing.
//! Tags of choices are numbered by hand and never used twice (W3). Payloads are not part of a body; what a body says about its
//! payload is checked here, except for a client's request: the core answers that with `Invalid`.

use crate::error::FrameError;
use crate::field::{Field, Reader};
use crate::frame::Kind;
use crate::message::{
    BlockState, Change, ClientHello, Commit, CreditGrant, CreditRequest, Decide, Decided, Decision, DigestEntry,
    DigestReply, DigestRequest, FetchReply, FetchRequest, FloorRaised, Hello, HelloReply, HelloStatus, IoKind, IoReply,
    IoRequest, IoStatus, JoinChunks, JoinMeta, JoinStart, LayerRun, LayersReply, LayersRequest, LeaseGrant,
    LeaseRequest, Message, Outcome, OverReply, OverRequest, PeerHello, Prepare, Prepared, Promise, PromiseReply, Push,
    Pushed, PushedBlock, RaiseFloor, Report, ReportedChunk, ReportedWrite, ReservedGrant, ReservedRequest, RetryId,
    Stack, WriteMeta,
};
use ashlar_types::view::{Fences, Floor, PgConfig};
use ashlar_types::{
    AttachmentId, BLOCK_BYTES, BLOCKS_PER_CHUNK, BlockIndex, BlockRange, BootId, ChunkId, ChunkIndex, ClusterId, Crc,
    Epoch, Generation, IdSet, LayerId, OpId, OpNumber, OsdId, PgId, PoolId, STACK_LAYERS_MAX, SessionId, StackRevision,
    Tick, Version, VolumeId,
};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;

/// Appends the body of a message; gives back its payload.
pub(crate) fn put(message: &Message, out: &mut BytesMut) -> Bytes {
    let no_payload = Bytes::new();
    match message {
        Message::Hello(m) => m.put(out),
        Message::HelloReply(m) => m.put(out),
        Message::IoRequest(m) => {
            m.put(out);
            return m.payload.clone();
        }
        Message::IoReply(m) => {
            m.put(out);
            return m.payload.clone();
        }
        Message::OverRequest(m) => {
            m.put(out);
            return m.request.payload.clone();
        }
        Message::OverReply(m) => {
            m.put(out);
            return m.reply.payload.clone();
        }
        Message::LayersRequest(m) => m.put(out),
        Message::LayersReply(m) => m.put(out),
        Message::Prepare(m) => {
            m.put(out);
            return m.payload.clone();
        }
        Message::Stack(m) => m.put(out),
        Message::Prepared(m) => m.put(out),
        Message::Commit(m) => m.put(out),
        Message::LeaseRequest(m) => m.put(out),
        Message::LeaseGrant(m) => m.put(out),
        Message::CreditRequest(m) => m.put(out),
        Message::CreditGrant(m) => m.put(out),
        Message::ReservedRequest(m) => m.put(out),
        Message::ReservedGrant(m) => m.put(out),
        Message::Promise(m) => m.put(out),
        Message::PromiseReply(m) => m.put(out),
        Message::Decide(m) => m.put(out),
        Message::Decided(m) => m.put(out),
        Message::RaiseFloor(m) => m.put(out),
        Message::FloorRaised(m) => m.put(out),
        Message::JoinStart(m) => m.put(out),
        Message::JoinChunks(m) => m.put(out),
        Message::Push(m) => {
            m.put(out);
            return m.payload.clone();
        }
        Message::Pushed(m) => m.put(out),
        Message::FetchRequest(m) => m.put(out),
        Message::FetchReply(m) => {
            m.put(out);
            return m.payload.clone();
        }
        Message::DigestRequest(m) => m.put(out),
        Message::DigestReply(m) => m.put(out),
    }
    no_payload
}

/// Reads a body, all of it, and gives the message its payload.
pub(crate) fn get(kind: Kind, body: &[u8], payload: Bytes) -> Result<Message, FrameError> {
    let from = &mut Reader::new(kind, body);
    let message = match kind {
        Kind::Hello => Message::Hello(Field::get(from)?),
        Kind::HelloReply => Message::HelloReply(Field::get(from)?),
        Kind::IoRequest => Message::IoRequest(IoRequest { payload, ..IoRequest::get(from)? }),
        Kind::IoReply => Message::IoReply(IoReply { payload, ..IoReply::get(from)? }),
        Kind::OverRequest => {
            let OverRequest { request, base } = Field::get(from)?;
            Message::OverRequest(OverRequest { request: IoRequest { payload, ..request }, base })
        }
        Kind::OverReply => {
            let OverReply { reply, unwritten } = Field::get(from)?;
            Message::OverReply(OverReply { reply: IoReply { payload, ..reply }, unwritten })
        }
        Kind::LayersRequest => Message::LayersRequest(Field::get(from)?),
        Kind::LayersReply => Message::LayersReply(Field::get(from)?),
        Kind::Prepare => Message::Prepare(Prepare { payload, ..Prepare::get(from)? }),
        Kind::Stack => Message::Stack(Field::get(from)?),
        Kind::Prepared => Message::Prepared(Field::get(from)?),
        Kind::Commit => Message::Commit(Field::get(from)?),
        Kind::LeaseRequest => Message::LeaseRequest(Field::get(from)?),
        Kind::LeaseGrant => Message::LeaseGrant(Field::get(from)?),
        Kind::CreditRequest => Message::CreditRequest(Field::get(from)?),
        Kind::CreditGrant => Message::CreditGrant(Field::get(from)?),
        Kind::ReservedRequest => Message::ReservedRequest(Field::get(from)?),
        Kind::ReservedGrant => Message::ReservedGrant(Field::get(from)?),
        Kind::Promise => Message::Promise(Field::get(from)?),
        Kind::PromiseReply => Message::PromiseReply(Field::get(from)?),
        Kind::Decide => Message::Decide(Field::get(from)?),
        Kind::Decided => Message::Decided(Field::get(from)?),
        Kind::RaiseFloor => Message::RaiseFloor(Field::get(from)?),
        Kind::FloorRaised => Message::FloorRaised(Field::get(from)?),
        Kind::JoinStart => Message::JoinStart(Field::get(from)?),
        Kind::JoinChunks => Message::JoinChunks(Field::get(from)?),
        Kind::Push => Message::Push(Push { payload, ..Push::get(from)? }),
        Kind::Pushed => Message::Pushed(Field::get(from)?),
        Kind::FetchRequest => Message::FetchRequest(Field::get(from)?),
        Kind::FetchReply => Message::FetchReply(FetchReply { payload, ..FetchReply::get(from)? }),
        Kind::DigestRequest => Message::DigestRequest(Field::get(from)?),
        Kind::DigestReply => Message::DigestReply(Field::get(from)?),
    };
    match contradiction(&message) {
        Some(what) => Err(from.contradiction(what)),
        None => from.finish().map(|()| message),
    }
}

/// The same of the runs of one answer.
fn runs_contradiction(runs: &[LayerRun]) -> Option<&'static str> {
    let blocks: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
    if blocks > u64::from(BLOCKS_PER_CHUNK) || runs.iter().any(|run| run.count == 0) {
        return Some("runs of no blocks, or of more than a chunk has");
    }
    if runs.iter().any(|run| run.depth.is_none() && run.has_data) {
        return Some("data in no layer");
    }
    let is_deep = |run: &LayerRun| run.depth.is_some_and(|depth| usize::from(depth) >= STACK_LAYERS_MAX);
    runs.iter().any(is_deep).then_some("a layer below all that a stack has")
}

/// What a message says about its payload and lists that isn't so.
fn contradiction(message: &Message) -> Option<&'static str> {
    let block = BLOCK_BYTES as usize;
    match message {
        Message::IoRequest(m)
        | Message::OverRequest(OverRequest { request: m, .. })
        | Message::LayersRequest(LayersRequest { request: m })
            if m.crcs.len() > BLOCKS_PER_CHUNK as usize =>
        {
            Some("more CRCs than a chunk has blocks")
        }
        Message::OverRequest(m) if m.base.len() > 2 => Some("a base for more blocks than a write has ends"),
        Message::OverReply(m) if !m.unwritten.is_sorted_by(|a, b| a.end() < b.first().0) => {
            Some("the unwritten ranges do not rise or touch")
        }
        Message::IoReply(m) | Message::OverReply(OverReply { reply: m, .. }) => {
            let present = m.blocks.iter().flatten().count();
            let is_right = m.payload.is_empty() || m.payload.len() == present * block;
            (!is_right).then_some("the payload isn't the present blocks")
        }
        Message::LayersReply(m) => runs_contradiction(&m.runs),
        Message::Stack(m) if m.layers.is_empty() => Some("a stack without layers"),
        Message::Stack(m) if m.layers.len() > STACK_LAYERS_MAX => Some("more layers than a stack has"),
        Message::Prepare(m) => match &m.write.change {
            Change::Write { range, crcs } => {
                let is_right = m.payload.len() == range.bytes() as usize && crcs.len() == usize::from(range.count());
                (!is_right).then_some("the payload or its CRCs aren't those of the range")
            }
            Change::Zero { .. } => (!m.payload.is_empty()).then_some("a zero with a payload"),
            Change::Merge { .. } if !m.payload.is_empty() => Some("a merge with a payload"),
            Change::Merge { from, .. } => {
                (*from >= m.write.chunk.layer).then_some("a merge of a layer that isn't below")
            }
        },
        Message::Push(m) => {
            let present = m.blocks.iter().filter(|b| b.state.crc.is_some()).count();
            if m.payload.len() != present * block {
                return Some("the payload isn't the present blocks");
            }
            (!m.blocks.is_sorted_by(|a, b| a.block < b.block)).then_some("the blocks do not rise")
        }
        Message::FetchReply(m) => {
            let expected = if m.outcome == Outcome::Ok { block } else { 0 };
            (m.payload.len() != expected).then_some("the payload isn't what the outcome says")
        }
        _ => None,
    }
}

/// Writes down the fields of a struct in the order of the format, once for both directions, so that they cannot differ.
/// `+ payload`: the struct has one, which is not in the body.
macro_rules! layout {
    ($($name:ident { $($field:ident: $type:ty),* $(,)? } $(+ $payload:ident)?)*) => {$(
        impl Field for $name {
            const MIN_BYTES: usize = 0 $(+ <$type as Field>::MIN_BYTES)*;
            fn put(&self, out: &mut BytesMut) {
                $(<$type as Field>::put(&self.$field, out);)*
            }
            fn get(from: &mut Reader<'_>) -> Result<$name, FrameError> {
                $(let $field = <$type as Field>::get(from)?;)*
                Ok($name { $($field,)* $($payload: Bytes::new())? })
            }
        }
        #[cfg(test)]
        impl crate::tests::sample::Sample for $name {
            fn sample(rng: &mut crate::tests::sample::Rng) -> $name {
                $(let $field = <$type as crate::tests::sample::Sample>::sample(rng);)*
                $name { $($field,)* $($payload: Bytes::new())? }
            }
        }
    )*};
}

/// The same for newtypes.
macro_rules! newtype {
    ($($name:ident($inner:ty))*) => {$(
        impl Field for $name {
            const MIN_BYTES: usize = <$inner as Field>::MIN_BYTES;
            fn put(&self, out: &mut BytesMut) {
                self.0.put(out);
            }
            fn get(from: &mut Reader<'_>) -> Result<$name, FrameError> {
                <$inner as Field>::get(from).map($name)
            }
        }
        #[cfg(test)]
        impl crate::tests::sample::Sample for $name {
            fn sample(rng: &mut crate::tests::sample::Rng) -> $name {
                $name(crate::tests::sample::Sample::sample(rng))
            }
        }
    )*};
}

/// The same for choices without fields: one byte.
macro_rules! tags {
    ($($name:ident { $($variant:ident = $number:literal),* $(,)? })*) => {$(
        impl Field for $name {
            const MIN_BYTES: usize = 1;
            fn put(&self, out: &mut BytesMut) {
                let tag: u8 = match self { $($name::$variant => $number,)* };
                tag.put(out);
            }
            fn get(from: &mut Reader<'_>) -> Result<$name, FrameError> {
                match u8::get(from)? {
                    $($number => Ok($name::$variant),)*
                    other => Err(from.bad_tag(stringify!($name), other)),
                }
            }
        }
        #[cfg(test)]
        impl crate::tests::sample::Sample for $name {
            fn sample(rng: &mut crate::tests::sample::Rng) -> $name {
                *rng.pick(&[$($name::$variant),*])
            }
        }
    )*};
}

newtype! {
    AttachmentId(u64) BootId(u64) ChunkIndex(u32) ClusterId(u128) Crc(u32) Epoch(u32) Generation(u32) LayerId(u64)
    OpNumber(u64) OsdId(u32) PoolId(u32) SessionId(u64) StackRevision(u32) Tick(u64) VolumeId(u64)
}

tags! {
    HelloStatus { Welcome = 1, WrongCluster = 2, WrongOsd = 3, Stale = 4, Starting = 5 }
    IoKind { Read = 1, Write = 2, Zero = 3, Extents = 4, Fill = 5 }
    IoStatus {
        Ok = 1, WrongEpoch = 2, Retry = 3, NoSpace = 4, Fenced = 5, StaleStack = 6, LayerGone = 7, StaleOp = 8,
        Invalid = 9, Medium = 10, BadChecksum = 11, NeedsBase = 12, Written = 13, OkBusy = 14,
    }
}

layout! {
    PgId { pool: PoolId, index: u32 }
    ChunkId { layer: LayerId, index: ChunkIndex }
    OpId { session: SessionId, number: OpNumber }
    Floor {
        stack_revision: StackRevision, oldest_attachment: AttachmentId,
        generations: BTreeMap<AttachmentId, Generation>, closed: bool,
    }
    Fences { floors: BTreeMap<VolumeId, Floor>, gone: IdSet<VolumeId>, retired: IdSet<LayerId> }
    PgConfig {
        pg: PgId, epoch: Epoch, members: Vec<OsdId>, in_sync: Vec<OsdId>, primary: Option<OsdId>, primary_boot: BootId,
        min_size: u8,
    }

    Hello { cluster: ClusterId, to: OsdId, from: PeerHello, connection: u64 }
    ClientHello {
        session: SessionId, volume: VolumeId, attachment: AttachmentId, generation: Generation, read_only: bool,
    }
    HelloReply { osd: OsdId, boot: BootId, status: HelloStatus }

    IoRequest {
        op: OpId, lowest_unanswered: OpNumber, pg: PgId, epoch: Epoch, volume: VolumeId, attachment: AttachmentId,
        generation: Generation, stack_revision: StackRevision, chunk: ChunkId, offset: u32, len: u32, kind: IoKind,
        crcs: Vec<Crc>,
    } + payload
    IoReply { op: OpId, status: IoStatus, epoch: Epoch, blocks: Vec<Option<Crc>> } + payload

    Stack { revision: StackRevision, layers: Vec<LayerId> }
    OverRequest { request: IoRequest, base: Vec<Crc> }
    OverReply { reply: IoReply, unwritten: Vec<BlockRange> }
    LayersRequest { request: IoRequest }
    LayersReply { op: OpId, epoch: Epoch, runs: Vec<LayerRun>, next: Option<ChunkIndex> }
    LayerRun { count: u16, depth: Option<u16>, has_data: bool }

    WriteMeta {
        chunk: ChunkId, version: Version, prev: Version, op: OpId, lowest_unanswered: OpNumber, volume: VolumeId,
        attachment: AttachmentId, generation: Generation, change: Change,
    }
    Prepare { pg: PgId, epoch: Epoch, write: WriteMeta } + payload
    Prepared { pg: PgId, epoch: Epoch, chunk: ChunkId, version: Version, outcome: Outcome }
    Commit { pg: PgId, epoch: Epoch, committed: Vec<(ChunkId, Version)> }
    LeaseRequest { asked_at: Tick, pgs: Vec<(PgId, Epoch)> }
    LeaseGrant { asked_at: Tick, pgs: Vec<(PgId, Epoch)> }
    CreditRequest { pg: PgId, epoch: Epoch, wanted_total: u64, is_return: bool }
    CreditGrant { pg: PgId, epoch: Epoch, wanted_total: u64, granted_total: u64 }
    ReservedRequest { pg: PgId, epoch: Epoch, wanted_total: u64 }
    ReservedGrant { pg: PgId, epoch: Epoch, wanted_total: u64, granted_total: u64, is_reclaiming: bool }

    Promise { config: PgConfig, undecided: Vec<ChunkId> }
    PromiseReply { pg: PgId, epoch: Epoch, outcome: Outcome, report: Option<Report> }
    Report { damaged: bool, chunks: Vec<ReportedChunk>, fences: Fences }
    ReportedChunk { chunk: ChunkId, committed: Version, undecided: Vec<ReportedWrite> }
    ReportedWrite { version: Version, prev: Version, data_good: bool }
    Decide { pg: PgId, epoch: Epoch, decisions: Vec<Decision>, fences: Fences }
    Decision { chunk: ChunkId, keep: Version, commit: Version, rolled_back: Vec<Version> }
    Decided { pg: PgId, epoch: Epoch, outcome: Outcome }
    RaiseFloor { pg: PgId, epoch: Epoch, barrier: u64, fences: Fences }
    FloorRaised { pg: PgId, epoch: Epoch, barrier: u64, outcome: Outcome }

    JoinStart { pg: PgId, epoch: Epoch, join: u32, after: Option<ChunkId>, meta: Option<JoinMeta> }
    JoinMeta { fences: Fences, rolled_back: Vec<(ChunkId, Version)> }
    JoinChunks {
        pg: PgId, epoch: Epoch, join: u32, outcome: Outcome, after: Option<ChunkId>, chunks: Vec<(ChunkId, Version)>,
        last: bool,
    }
    Push {
        pg: PgId, epoch: Epoch, join: u32, chunk: ChunkId, from: Version, to: Version, blocks: Vec<PushedBlock>,
        ids: Vec<RetryId>,
    } + payload
    PushedBlock { block: BlockIndex, state: BlockState }
    BlockState { stamp: Version, crc: Option<Crc> }
    RetryId {
        op: OpId, lowest_unanswered: OpNumber, chunk: ChunkId, version: Version, volume: VolumeId,
        attachment: AttachmentId, generation: Generation,
    }
    Pushed { pg: PgId, epoch: Epoch, join: u32, chunk: ChunkId, to: Version, outcome: Outcome }
    FetchRequest { pg: PgId, epoch: Epoch, chunk: ChunkId, block: BlockIndex, stamp: Version, crc: Crc }
    FetchReply { pg: PgId, epoch: Epoch, chunk: ChunkId, block: BlockIndex, stamp: Version, outcome: Outcome } + payload

    DigestRequest { pg: PgId, epoch: Epoch, round: u64, chunks: Vec<ChunkId>, deep: bool }
    DigestReply { pg: PgId, epoch: Epoch, round: u64, outcome: Outcome, entries: Vec<DigestEntry> }
    DigestEntry { chunk: ChunkId, committed: Version, digest: Crc, bad: u16, next: Option<ChunkId> }
}

impl Field for Version {
    const MIN_BYTES: usize = 8;
    fn put(&self, out: &mut BytesMut) {
        self.to_bits().put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Version, FrameError> {
        u64::get(from).map(Version::from_bits)
    }
}

impl Field for BlockIndex {
    const MIN_BYTES: usize = 2;
    fn put(&self, out: &mut BytesMut) {
        self.0.put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<BlockIndex, FrameError> {
        match u16::get(from)? {
            index if u32::from(index) < BLOCKS_PER_CHUNK => Ok(BlockIndex(index)),
            other => Err(from.bad_tag("block of a chunk", other)),
        }
    }
}

impl Field for BlockRange {
    const MIN_BYTES: usize = 4;
    fn put(&self, out: &mut BytesMut) {
        self.first().put(out);
        self.count().put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<BlockRange, FrameError> {
        let (first, count) = (BlockIndex::get(from)?, u16::get(from)?);
        BlockRange::new(first, count).ok_or(from.bad_tag("number of blocks from there", count))
    }
}

impl Field for PeerHello {
    const MIN_BYTES: usize = 1;
    fn put(&self, out: &mut BytesMut) {
        match self {
            PeerHello::Osd { id, boot } => {
                1u8.put(out);
                id.put(out);
                boot.put(out);
            }
            PeerHello::Client(client) => {
                2u8.put(out);
                client.put(out);
            }
        }
    }
    fn get(from: &mut Reader<'_>) -> Result<PeerHello, FrameError> {
        match u8::get(from)? {
            1 => Ok(PeerHello::Osd { id: Field::get(from)?, boot: Field::get(from)? }),
            2 => Ok(PeerHello::Client(Field::get(from)?)),
            other => Err(from.bad_tag("peer", other)),
        }
    }
}

impl Field for Change {
    const MIN_BYTES: usize = 5;
    fn put(&self, out: &mut BytesMut) {
        match self {
            Change::Write { range, crcs } => {
                1u8.put(out);
                range.put(out);
                crcs.put(out);
            }
            Change::Zero { range } => {
                2u8.put(out);
                range.put(out);
            }
            Change::Merge { from, at } => {
                3u8.put(out);
                from.put(out);
                at.put(out);
            }
        }
    }
    fn get(from: &mut Reader<'_>) -> Result<Change, FrameError> {
        match u8::get(from)? {
            1 => Ok(Change::Write { range: Field::get(from)?, crcs: Field::get(from)? }),
            2 => Ok(Change::Zero { range: Field::get(from)? }),
            3 => Ok(Change::Merge { from: Field::get(from)?, at: Field::get(from)? }),
            other => Err(from.bad_tag("change", other)),
        }
    }
}

impl Field for Outcome {
    const MIN_BYTES: usize = 1;
    fn put(&self, out: &mut BytesMut) {
        match self {
            Outcome::Ok => 1u8.put(out),
            Outcome::WrongEpoch { promised } => {
                2u8.put(out);
                promised.put(out);
            }
            Outcome::Mismatch { newest } => {
                3u8.put(out);
                newest.put(out);
            }
            Outcome::NoSpace => 4u8.put(out),
            Outcome::BadChecksum => 5u8.put(out),
            Outcome::NotYet => 6u8.put(out),
            Outcome::Missing => 7u8.put(out),
        }
    }
    fn get(from: &mut Reader<'_>) -> Result<Outcome, FrameError> {
        match u8::get(from)? {
            1 => Ok(Outcome::Ok),
            2 => Ok(Outcome::WrongEpoch { promised: Field::get(from)? }),
            3 => Ok(Outcome::Mismatch { newest: Field::get(from)? }),
            4 => Ok(Outcome::NoSpace),
            5 => Ok(Outcome::BadChecksum),
            6 => Ok(Outcome::NotYet),
            7 => Ok(Outcome::Missing),
            other => Err(from.bad_tag("outcome", other)),
        }
    }
}
