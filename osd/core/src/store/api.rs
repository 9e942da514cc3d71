//! What the replication core asks of the store and hears from it. Plain data; the store itself is beside this file.

use crate::DiskError;
use ashlar_types::view::Fences;
use ashlar_types::{
    AttachmentId, BlockIndex, BlockRange, ChunkId, ClusterId, Crc, Epoch, Generation, OpNumber, OsdId, PgId, SessionId,
    Version, VolumeId,
};
use ashlar_wire::{BlockState, JoinMeta, PushedBlock, RetryId, WriteMeta};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// The caller's number for an operation; handed back when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    pub cluster: ClusterId,
    pub osd: OsdId,
    /// Bytes of the disk that the store uses; a multiple of 4096.
    pub capacity: u64,
    /// Bytes of the log ring, fixed when the store is made.
    pub log_bytes: u64,
    /// Bytes of index pages kept in memory.
    pub index_cache_bytes: u64,
    /// Whether the disk may lose writes that were not flushed. Without, no flush is sent.
    pub volatile_cache: bool,
    /// Whether few writes are better made durable each by itself than by a flush after them (docs/decisions/014).
    pub write_through: bool,
}

/// An operation that changes state. Its effect on what the store's queries answer is immediate and in the order of submission;
/// [`StoreEvent::Stored`] comes when it is durable, in the order of submission within one PG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOp {
    /// Logs a write as prepared: its data goes to fresh blocks, its record to the log. `write.prev` is the chunk's newest version (asserted, R9).
    /// A merge may have to read index pages first: it takes effect when they are here, its `Stored` may come after those of later operations, and
    /// it may be refused ([`StoreEvent::MergeRefused`]). Whatever changes the chunk below takes a prepared merge back.
    Prepare { pg: PgId, write: WriteMeta, payload: Bytes },
    /// Decides prepared writes: all up to `.1` of each chunk of `commit` become what reads see; all beyond `.1` of each chunk of `rollback` are
    /// undone, and recorded in [`PgState::rolled_back`] together with the versions in `rolled_back` (which this store may never have had).
    Resolve {
        pg: PgId,
        commit: Vec<(ChunkId, Version)>,
        rollback: Vec<(ChunkId, Version)>,
        rolled_back: Vec<(ChunkId, Version)>,
    },
    /// R3. Never downward (asserted). The same epoch again is a barrier: it ends when all before it in this PG is durable.
    Promise { pg: PgId, epoch: Epoch },
    /// Refuses more: raises floors, drops the retry ids of sessions below them or of volumes that are gone, and drops every chunk of the
    /// retired layers in this PG.
    RaiseFloor { pg: PgId, fences: Fences },
    /// R8, the start of a join: takes over `meta` (its fences as `RaiseFloor` does), rolls back every prepared write of the PG, and
    /// drops each chunk whose committed version is among `meta.rolled_back`, so that it is missing.
    Join { pg: PgId, meta: JoinMeta },
    /// R8: applies pushed blocks as one record; the chunk is at `from` with nothing prepared (asserted) and then committed at `to`.
    Push {
        pg: PgId,
        chunk: ChunkId,
        from: Version,
        to: Version,
        blocks: Vec<PushedBlock>,
        ids: Vec<RetryId>,
        payload: Bytes,
    },
    /// Drops a chunk that the PG's primary does not have.
    DropChunk { pg: PgId, chunk: ChunkId },
    /// Gives a committed block whose medium failed a good copy, if it still has this stamp and CRC (or if its state was lost with its
    /// index page, see [`ReadOutcome::bad`]); at a fresh place. May have to read first: its `Stored` may come after those of later operations.
    Repair { pg: PgId, chunk: ChunkId, block: BlockIndex, stamp: Version, crc: Crc, payload: Bytes },
    /// R11: all members are in sync: the list of rolled-back versions has served.
    ForgetRolledBack { pg: PgId },
    /// Every PG of this store has been joined anew, or was told apart otherwise, since damage was found. Until then each mount
    /// reports [`MountReport::damaged`] again, so a crash in between does not turn "cannot tell" into a veto (R4).
    ForgetDamage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadKind {
    /// The data too.
    Data,
    /// Stamps and CRCs only.
    States,
    /// Data read and verified, not handed over (scrub).
    Verify,
    /// The data of one prepared, undecided write, whose own range is asked for: a primary sends it on to a joining member (R12).
    /// All of it is `bad` if that version is not prepared (any more).
    Prepared(Version),
}

/// What the store reports. Collected by `Store::take_events`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    Mounted(MountReport),
    /// The operation is durable.
    Stored(Token),
    Read(Token, ReadOutcome),
    /// A merge was not prepared, and will not be.
    MergeRefused(Token, MergeRefusal),
    /// See [`Store::begin_wipe`](super::Store::begin_wipe).
    Wiped(super::WipeReport),
    /// The store has latched and does nothing more: the process must stop.
    Failed(StoreError),
}

/// Why a merge was not prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeRefusal {
    /// One of the two chunks is not at the version that was named.
    Mismatch,
    /// What an index page said of them is lost.
    Lost,
    /// A promise of a higher epoch, or a join, came before its pages.
    Cancelled,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct MountReport {
    /// Something that was durable is damaged: the log ends before what was known to be flushed, so this OSD cannot tell what it had
    /// beyond (R4), or an index page is lost. What lies before is good. Said again at each mount until [`StoreOp::ForgetDamage`].
    pub damaged: bool,
    /// Records replayed since the checkpoint.
    pub records: u64,
    /// Bytes of a torn, never acknowledged tail that were dropped.
    pub torn_bytes: u64,
    /// Prepared writes whose data failed its CRC.
    pub suspect: u64,
    /// For the log and for people.
    pub findings: Vec<String>,
}

/// The committed state of a range of blocks, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOutcome {
    pub chunk: ChunkId,
    pub range: BlockRange,
    pub committed: Version,
    /// One per block of the range.
    pub states: Vec<BlockState>,
    /// `ReadKind::Data`: one per block of the range: its 4096 bytes if present and good, else empty. Slices of what was read, not copies.
    pub data: Vec<Bytes>,
    /// Present blocks whose medium or CRC failed, in order (`Data`, `Verify`). With every kind also blocks whose state was lost with a damaged
    /// index page: their entry in `states` is `BlockState::default()` and says nothing. A `Repair` or a write makes such a block good
    /// again; a `Join` drops its chunk, so that it is pushed whole.
    pub bad: Vec<BlockIndex>,
}

/// A prepared, undecided write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedWrite {
    pub write: WriteMeta,
    /// After a crash: whether its data passed its CRC.
    pub data_good: bool,
}

/// The versions of one chunk. `newest >= committed`; equal when nothing is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ChunkVersions {
    pub committed: Version,
    pub newest: Version,
}

/// The durable state of a PG beside its chunks.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PgState {
    pub promised: Epoch,
    pub fences: Fences,
    pub rolled_back: BTreeSet<(ChunkId, Version)>,
    pub sessions: BTreeMap<SessionId, SessionState>,
}

/// The retry ids of one session in one PG (R10). An id is here from its prepare until the session says it has the answer
/// (`lowest_unanswered`), or the write is rolled back, or the session is fenced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState {
    pub volume: VolumeId,
    pub attachment: AttachmentId,
    pub generation: Generation,
    pub lowest_unanswered: OpNumber,
    pub writes: BTreeMap<OpNumber, (ChunkId, Version)>,
}

/// In blocks of 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Space {
    pub total: u64,
    /// Holding data, index or log.
    pub used: u64,
    /// What new writes may take now: free, less the reserve that keeps deletes, recovery and checkpoints working on a full disk.
    pub free: u64,
    /// What recovery may take: `free` and half of the reserve.
    pub recovery: u64,
    /// What volumes that have their size reserved may still take.
    pub unfilled: u64,
}

impl Space {
    /// What volumes may take now that have nothing reserved.
    pub fn open(&self) -> u64 {
        self.free.saturating_sub(self.unfilled)
    }
}

/// What the used blocks of the disk hold, in blocks of 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Accounting {
    /// Superblocks and log.
    pub fixed: u64,
    /// Index, directory and checkpoint.
    pub index: u64,
    /// Data of layers; of a block that was overwritten or dropped, until a checkpoint, the old one too.
    pub data: u64,
    /// The rest: undecided writes, and what is about to be free.
    pub garbage: u64,
}

impl Accounting {
    /// In use.
    pub fn used(&self) -> u64 {
        self.fixed + self.index + self.data + self.garbage
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("{op} of {len} bytes at {at} failed: {source}; the disk is taken out of service")]
    Device { op: &'static str, at: u64, len: u64, source: DiskError },
    #[error(
        "a checkpoint needs {need} blocks and {free} of {total} are free: the index has outgrown the reserve; this OSD cannot go on \
         before it is moved to a larger disk"
    )]
    Full { need: u64, free: u64, total: u64 },
    #[error("this disk is not an Ashlar OSD (no superblock): {detail}")]
    NotAnOsd { detail: String },
    #[error("this disk belongs to {found_osd} of cluster {found_cluster}, not to {osd} of {cluster}")]
    Foreign { cluster: ClusterId, osd: OsdId, found_cluster: ClusterId, found_osd: OsdId },
    #[error("the {structure} at {at} is damaged: {detail}")]
    Corrupt { structure: &'static str, at: u64, detail: String },
    #[error("format version {found} is not one that this program reads ({known})")]
    UnknownVersion { found: u32, known: u32 },
    #[error("the disk has {have} bytes, the store needs {need}")]
    TooSmall { have: u64, need: u64 },
}
