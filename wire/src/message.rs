//! The messages of the data protocol, grouped by who speaks: clients, then OSDs among themselves. The R-numbers are
//! the invariants of design.md §5.

use ashlar_types::view::{Fences, PgConfig};
use ashlar_types::{
    AttachmentId, BlockIndex, BlockRange, BootId, ChunkId, ChunkIndex, ClusterId, Crc, Epoch, Generation, LayerId,
    OpId, OpNumber, OsdId, PgId, SessionId, StackRevision, Tick, Version, VolumeId,
};
use bytes::Bytes;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Hello(Hello),
    HelloReply(HelloReply),

    IoRequest(IoRequest),
    IoReply(IoReply),
    /// Has no reply: it stands before the requests that need it.
    Stack(Stack),
    OverRequest(OverRequest),
    OverReply(OverReply),
    LayersRequest(LayersRequest),
    LayersReply(LayersReply),

    Prepare(Prepare),
    Prepared(Prepared),
    /// Has no reply: a commit that is not heard of is told again by R4.
    Commit(Commit),
    LeaseRequest(LeaseRequest),
    LeaseGrant(LeaseGrant),
    CreditRequest(CreditRequest),
    CreditGrant(CreditGrant),
    ReservedRequest(ReservedRequest),
    ReservedGrant(ReservedGrant),
    Promise(Promise),
    PromiseReply(PromiseReply),
    Decide(Decide),
    Decided(Decided),
    RaiseFloor(RaiseFloor),
    FloorRaised(FloorRaised),
    JoinStart(JoinStart),
    JoinChunks(JoinChunks),
    Push(Push),
    Pushed(Pushed),
    FetchRequest(FetchRequest),
    FetchReply(FetchReply),
    DigestRequest(DigestRequest),
    DigestReply(DigestReply),
}

impl Message {
    /// Whether whoever receives it says something in return. Of a reply, false.
    pub fn is_answered(&self) -> bool {
        match self {
            Message::Hello(_)
            | Message::IoRequest(_)
            | Message::OverRequest(_)
            | Message::LayersRequest(_)
            | Message::Prepare(_)
            | Message::LeaseRequest(_)
            | Message::CreditRequest(_)
            | Message::ReservedRequest(_)
            | Message::Promise(_)
            | Message::Decide(_)
            | Message::RaiseFloor(_)
            | Message::JoinStart(_)
            | Message::Push(_)
            | Message::FetchRequest(_)
            | Message::DigestRequest(_) => true,
            Message::Commit(_)
            | Message::Stack(_)
            | Message::HelloReply(_)
            | Message::IoReply(_)
            | Message::OverReply(_)
            | Message::LayersReply(_)
            | Message::Prepared(_)
            | Message::LeaseGrant(_)
            | Message::CreditGrant(_)
            | Message::ReservedGrant(_)
            | Message::PromiseReply(_)
            | Message::Decided(_)
            | Message::FloorRaised(_)
            | Message::JoinChunks(_)
            | Message::Pushed(_)
            | Message::FetchReply(_)
            | Message::DigestReply(_) => false,
        }
    }
}

/// The first message on every connection; nothing else is taken before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub cluster: ClusterId,
    /// The OSD that the caller means to reach.
    pub to: OsdId,
    pub from: PeerHello,
    /// Rises with each connection that the same process opens to the same OSD. Older connections are closed, and what
    /// is still in them is refused (R10).
    pub connection: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerHello {
    Osd { id: OsdId, boot: BootId },
    Client(ClientHello),
}

/// What a gateway may do, as the metadata service granted it. Signed in a later version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    pub session: SessionId,
    pub volume: VolumeId,
    pub attachment: AttachmentId,
    pub generation: Generation,
    pub read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloReply {
    pub osd: OsdId,
    pub boot: BootId,
    pub status: HelloStatus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloStatus {
    Welcome,
    WrongCluster,
    /// This is another OSD than was meant.
    WrongOsd,
    /// A newer connection or a newer boot of the same peer is known.
    Stale,
    /// Not ready to serve yet (mounting); try again.
    Starting,
}

/// One request of a client for a part of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoRequest {
    pub op: OpId,
    /// Every request of this session with a lower number has been answered to its caller (R10).
    pub lowest_unanswered: OpNumber,
    pub pg: PgId,
    pub epoch: Epoch,
    pub volume: VolumeId,
    pub attachment: AttachmentId,
    pub generation: Generation,
    pub stack_revision: StackRevision,
    /// Of the top layer of the [`Stack`] that this connection was told with this revision.
    pub chunk: ChunkId,
    /// Bytes in the chunk, `offset + len <= CHUNK_BYTES`, `len > 0`.
    pub offset: u32,
    pub len: u32,
    pub kind: IoKind,
    /// `Write`, `Fill`: the CRC of each fragment, that is of the payload's part in each block that the range touches, in order. Else empty.
    pub crcs: Vec<Crc>,
    /// `Write`, `Fill`: `len` bytes. Else empty.
    pub payload: Bytes,
}

/// A request for a volume that stands on a base: a layer of another volume, which this PG doesn't have (a linked clone, design.md §6). Where no layer of
/// its own was ever written, the block is the base's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverRequest {
    /// Its payload ends with the blocks that `base` is of.
    pub request: IoRequest,
    /// Of a `Write` or `Zero` that covers its first or last block only partly, the CRCs of what the base has there, whole blocks in order: used only
    /// where the block is unwritten. Either all of them or none; without them such a write is answered [`IoStatus::NeedsBase`]. At most two.
    pub base: Vec<Crc>,
}

/// The answer to an [`OverRequest`] that reads where not all is written; where all is, an `IoReply` answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverReply {
    /// Its absent blocks read as zeroes, but for those:
    pub reply: IoReply,
    /// blocks that no layer was ever written in, which are the base's. Rising, none touches another.
    pub unwritten: Vec<BlockRange>,
}

/// Which layer has each block: what a read would give is not asked for, but where it would come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayersRequest {
    /// Of kind `Extents`.
    pub request: IoRequest,
}

/// The answer to a [`LayersRequest`] that was done; an `IoReply` refuses one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayersReply {
    pub op: OpId,
    pub epoch: Epoch,
    /// Of the blocks that the request touches, in order.
    pub runs: Vec<LayerRun>,
    /// The next chunk of this PG behind the one asked for in which any layer of the stack has anything, `None` if there is none: so that whoever
    /// looks through a large and mostly empty volume needn't ask for each chunk.
    pub next: Option<ChunkIndex>,
}

/// Neighbouring blocks that the same layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerRun {
    /// Blocks, at least one.
    pub count: u16,
    /// The place in the stack, 0 for the top, of the highest layer in which the block was ever written; `None` where it was in none.
    pub depth: Option<u16>,
    /// Whether that layer has data; else it says that the block reads as zeroes.
    pub has_data: bool,
}

/// The layers of the session's volume, or of its snapshot, as of one revision. Told on each connection before the first request that names the
/// revision; the last few are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    pub revision: StackRevision,
    /// Top first; at most [`ashlar_types::STACK_LAYERS_MAX`].
    pub layers: Vec<LayerId>,
}

/// Stacks that an OSD keeps of a connection, the last ones it was told. A client needs the newest, and those of writes that it sent with an older
/// one and that have no answer yet.
pub const STACKS_KEPT: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoKind {
    Read,
    Write,
    /// Discard and write-zeroes: the range reads as zeroes; whole blocks give their space back.
    Zero,
    /// Which blocks are present; like `Read` without the data.
    Extents,
    /// A `Write` of whole blocks that is done if none of them was ever written in any layer of the stack, and else not at all.
    Fill,
}

impl IoKind {
    /// Whether it changes the chunk, if it is done.
    pub fn is_write(self) -> bool {
        match self {
            IoKind::Write | IoKind::Zero | IoKind::Fill => true,
            IoKind::Read | IoKind::Extents => false,
        }
    }

    /// Whether a request of this kind has a payload.
    pub fn carries_data(self) -> bool {
        matches!(self, IoKind::Write | IoKind::Fill)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoReply {
    pub op: OpId,
    pub status: IoStatus,
    /// The epoch that the OSD knows of this PG, `Epoch(0)` if none.
    pub epoch: Epoch,
    /// `Read`, `Extents`: for each block that the range touches its CRC, or `None` where no layer has it and it reads as zeroes.
    pub blocks: Vec<Option<Crc>>,
    /// `Read`: the present blocks, whole, one after the other.
    pub payload: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoStatus {
    Ok,
    /// The request's epoch isn't the PG's, or this OSD isn't its primary, or it isn't active yet: look at the view, ask again.
    WrongEpoch,
    /// Nothing was done, because the configuration changed meanwhile or a bound was reached: ask again with the same number.
    Retry,
    /// The pool is full; nothing was done.
    NoSpace,
    /// Below the floor (design.md §7).
    Fenced,
    /// The stack revision is below the floor: fetch the new stack.
    StaleStack,
    /// The layer was retired.
    LayerGone,
    /// The number lies below what the session said it has answers for (R10).
    StaleOp,
    /// The request contradicts itself or its capability.
    Invalid,
    /// No good copy of a block in the range is left.
    Medium,
    /// A fragment's CRC doesn't match its payload: it was damaged on the way.
    BadChecksum,
    /// Nothing was done: the write covers an unwritten block only partly. Ask again with the same number, and with what the base has there.
    NeedsBase,
    /// Nothing was done: a block that was to be filled is written already.
    Written,
    /// A `Fill` was done, and others want small things of this OSD, who wait for nobody gladly: fill gently.
    OkBusy,
}

/// What a replicated write does to its chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Whole blocks; the payload has `range.bytes()` bytes.
    Write {
        range: BlockRange,
        crcs: Vec<Crc>,
    },
    Zero {
        range: BlockRange,
    },
    /// Takes over what the chunk of a frozen layer below has of the blocks that this one never had written, and drops that chunk. No byte
    /// that a client reads changes, and none is copied.
    Merge {
        from: LayerId,
        /// The version of the chunk below, of which nothing is undecided: who has another is not in the same history (R9).
        at: Version,
    },
}

impl Change {
    pub fn range(&self) -> BlockRange {
        match self {
            Change::Write { range, .. } | Change::Zero { range } => *range,
            Change::Merge { .. } => BlockRange::WHOLE,
        }
    }

    pub fn is_merge(&self) -> bool {
        matches!(self, Change::Merge { .. })
    }
}

impl WriteMeta {
    /// The chunk that a merge takes over.
    pub fn merged_chunk(&self) -> Option<ChunkId> {
        match &self.change {
            Change::Merge { from, .. } => Some(ChunkId { layer: *from, ..self.chunk }),
            Change::Write { .. } | Change::Zero { .. } => None,
        }
    }
}

/// Everything about a replicated write but its data. It is what a member logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteMeta {
    pub chunk: ChunkId,
    pub version: Version,
    /// The version before it of this chunk (R9).
    pub prev: Version,
    pub op: OpId,
    pub lowest_unanswered: OpNumber,
    pub volume: VolumeId,
    pub attachment: AttachmentId,
    pub generation: Generation,
    pub change: Change,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepare {
    pub pg: PgId,
    pub epoch: Epoch,
    pub write: WriteMeta,
    pub payload: Bytes,
}

/// Why a member did not do as it was told, or that it did. Part of most replies between OSDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done and durable.
    Ok,
    /// R3: a higher epoch was promised.
    WrongEpoch { promised: Epoch },
    /// R9: the chunk's newest version is another than the named predecessor.
    Mismatch { newest: Version },
    /// No credit was granted for it, or the disk is full.
    NoSpace,
    /// The payload doesn't match its checksums.
    BadChecksum,
    /// R5: it cannot answer yet, because a lease that it granted still runs; it will answer by itself.
    NotYet,
    /// It has no such thing (any more).
    Missing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    pub pg: PgId,
    pub epoch: Epoch,
    pub chunk: ChunkId,
    pub version: Version,
    pub outcome: Outcome,
}

/// These versions, and all before them of their chunks, are committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    pub pg: PgId,
    pub epoch: Epoch,
    pub committed: Vec<(ChunkId, Version)>,
}

/// R5. Asked by a primary for the PGs it serves, of one other OSD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// The asker's clock; handed back, so that the lease counts from the time of asking.
    pub asked_at: Tick,
    pub pgs: Vec<(PgId, Epoch)>,
}

/// The PGs for which the grant holds: those whose promised epoch is the one asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseGrant {
    pub asked_at: Tick,
    pub pgs: Vec<(PgId, Epoch)>,
}

/// Space credit, cumulative in one epoch of one PG, in blocks; so a repeated message does no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreditRequest {
    pub pg: PgId,
    pub epoch: Epoch,
    pub wanted_total: u64,
    /// The primary is idle and gives back what lies beyond `wanted_total`. It has no other request of this line under way.
    pub is_return: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreditGrant {
    pub pg: PgId,
    pub epoch: Epoch,
    /// As in the request.
    pub wanted_total: u64,
    /// What was wanted (or what was granted before, if that is more), or less if space is short.
    pub granted_total: u64,
}

/// As [`CreditRequest`], for a write to a volume that has its space reserved: may be taken out of what is. In the same account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedRequest {
    pub pg: PgId,
    pub epoch: Epoch,
    /// Just what that write needs, and those behind it of such volumes.
    pub wanted_total: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedGrant {
    pub pg: PgId,
    pub epoch: Epoch,
    /// As in the request.
    pub wanted_total: u64,
    /// As in [`CreditGrant`].
    pub granted_total: u64,
    /// It is short, and more will be there in a moment: to be asked for again.
    pub is_reclaiming: bool,
}

/// R3, R4: a new primary, or the same one in a new epoch, asks every in-sync member to promise its epoch and to report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    pub config: PgConfig,
    /// Chunks of which the primary has undecided writes: the member reports these too.
    pub undecided: Vec<ChunkId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromiseReply {
    pub pg: PgId,
    pub epoch: Epoch,
    pub outcome: Outcome,
    /// With `Outcome::Ok`.
    pub report: Option<Report>,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Report {
    /// Its log was damaged: it cannot tell what it had beyond (R4).
    pub damaged: bool,
    /// Every chunk with undecided writes, and those that the primary named.
    pub chunks: Vec<ReportedChunk>,
    /// What it refuses; the primary takes the highest of all.
    pub fences: Fences,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedChunk {
    pub chunk: ChunkId,
    pub committed: Version,
    /// In the order of their chain.
    pub undecided: Vec<ReportedWrite>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedWrite {
    pub version: Version,
    pub prev: Version,
    /// Whether its data is known to be good. After a crash, data beyond the last known flush may fail its CRC (*suspect*).
    pub data_good: bool,
}

/// R4: what becomes of the undecided writes. Durable at every in-sync member before the primary is active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decide {
    pub pg: PgId,
    pub epoch: Epoch,
    pub decisions: Vec<Decision>,
    pub fences: Fences,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub chunk: ChunkId,
    /// The chunk's newest version from now on; what lies beyond is rolled back.
    pub keep: Version,
    /// What is prepared up to here is committed; less than `keep` while fewer than `min_size` members are in sync (R12).
    pub commit: Version,
    /// Versions that are rolled back at any member.
    pub rolled_back: Vec<Version>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    pub pg: PgId,
    pub epoch: Epoch,
    pub outcome: Outcome,
}

/// A barrier's floor (and the volume and layers that end with it), told by the primary to the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaiseFloor {
    pub pg: PgId,
    pub epoch: Epoch,
    pub barrier: u64,
    pub fences: Fences,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloorRaised {
    pub pg: PgId,
    pub epoch: Epoch,
    pub barrier: u64,
    pub outcome: Outcome,
}

/// Opens a join session (R8). The member promises the epoch, takes over `meta`, rolls back every undecided write of the PG and drops every
/// chunk whose version is in `meta.rolled_back`, all durably; then it answers with its chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinStart {
    pub pg: PgId,
    pub epoch: Epoch,
    /// The number of this join session in the epoch.
    pub join: u32,
    /// The list goes on after this chunk; `None` begins the session.
    pub after: Option<ChunkId>,
    /// With `after == None`.
    pub meta: Option<JoinMeta>,
}

/// The state of a PG that isn't in its chunks.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct JoinMeta {
    pub fences: Fences,
    /// Versions that R4 has rolled back since all members were last in sync.
    pub rolled_back: Vec<(ChunkId, Version)>,
}

/// A page of a joining member's chunks, in order of id, with the newest version it has of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinChunks {
    pub pg: PgId,
    pub epoch: Epoch,
    pub join: u32,
    pub outcome: Outcome,
    pub after: Option<ChunkId>,
    pub chunks: Vec<(ChunkId, Version)>,
    /// Whether this page is the last.
    pub last: bool,
}

/// R8: brings one chunk of a joining member from one version to another, as one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    pub pg: PgId,
    pub epoch: Epoch,
    pub join: u32,
    pub chunk: ChunkId,
    pub from: Version,
    pub to: Version,
    /// The blocks that differ, in order.
    pub blocks: Vec<PushedBlock>,
    /// The chunk's retry ids (R10).
    pub ids: Vec<RetryId>,
    /// The present ones of `blocks`, whole, one after the other.
    pub payload: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushedBlock {
    pub block: BlockIndex,
    pub state: BlockState,
}

/// What a chunk's index says of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BlockState {
    /// The version that wrote (or zeroed) it; `Version::NONE` if none did.
    pub stamp: Version,
    /// `None`: absent, reads as zeroes.
    pub crc: Option<Crc>,
}

/// A write that must not be done twice (R10), with what its session said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryId {
    pub op: OpId,
    pub lowest_unanswered: OpNumber,
    pub chunk: ChunkId,
    pub version: Version,
    pub volume: VolumeId,
    pub attachment: AttachmentId,
    pub generation: Generation,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    pub pg: PgId,
    pub epoch: Epoch,
    pub join: u32,
    pub chunk: ChunkId,
    pub to: Version,
    pub outcome: Outcome,
}

/// Asks another in-sync member for a good copy of one block, to repair one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    pub pg: PgId,
    pub epoch: Epoch,
    pub chunk: ChunkId,
    pub block: BlockIndex,
    /// The version and checksum that the copy must have.
    pub stamp: Version,
    pub crc: Crc,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchReply {
    pub pg: PgId,
    pub epoch: Epoch,
    pub chunk: ChunkId,
    pub block: BlockIndex,
    pub stamp: Version,
    pub outcome: Outcome,
    /// The block, with `Outcome::Ok`.
    pub payload: Bytes,
}

/// Scrub: asks a member for a digest of each of these chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestRequest {
    pub pg: PgId,
    pub epoch: Epoch,
    pub round: u64,
    pub chunks: Vec<ChunkId>,
    /// Read every block from the medium too and verify it.
    pub deep: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestReply {
    pub pg: PgId,
    pub epoch: Epoch,
    pub round: u64,
    pub outcome: Outcome,
    pub entries: Vec<DigestEntry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestEntry {
    pub chunk: ChunkId,
    pub committed: Version,
    /// CRC32C over (index, stamp, CRC or absence) of all blocks with a stamp, in order.
    pub digest: Crc,
    /// Blocks whose medium failed (deep only).
    pub bad: u16,
    /// The first chunk behind it of which something is committed: so that one that only a member has is noticed.
    pub next: Option<ChunkId>,
}
