//! The store of one disk (design.md §4): log, index, blocks, as a state machine without I/O.
//! O1: `Stored` is told only when the operation's records and data are on stable storage. O2: what reads see is committed.
//! O3: after a failed write or flush nothing more is done. The letters L, S, K, P, D, A, C stand in the files of the parts.
//! Called by the replication core (`pg`), which also hands the disk's completions in.
//!
//! A write's way: [`Store::submit`] takes blocks (`space`), encodes the record into the open batch (`log`) and applies it (`state`);
//! [`Store::poll`] sends the batch with its data; [`Store::on_disk`] hears that both are written, then that a flush covers them, and
//! tells [`StoreEvent::Stored`].

pub mod api;
pub mod fsck;
pub mod inspect;

mod allocator;
mod cache;
mod checkpoint;
mod counts;
mod delta;
mod device;
mod directory;
mod log;
mod log_scan;
mod merge;
mod mount;
mod offline;
mod owed;
mod read;
mod replay;
mod reserve;
mod resolved;
mod running;
mod space;
mod state;
mod stats;
mod submit;
mod trim;
mod units;
mod wipe;
mod wipe_api;
mod wiped_layers;

pub use offline::ReadAt;
pub use resolved::NextBelow;
pub use stats::StoreStats;
pub use wipe::WipeReport;

use crate::format::superblock::{LOG_AT, Superblock};
use crate::format::{BlockAddr, Identity, PAGE_BYTES};
use crate::policy::{Honest, Policy};
use crate::{Action, DiskOp, DiskResult, IoId};
use api::{
    Accounting, ChunkVersions, PgState, PreparedWrite, ReadKind, Space, StoreConfig, StoreError, StoreEvent, StoreOp,
    Token,
};
use ashlar_types::{BlockIndex, BlockRange, ChunkId, ChunkIndex, Crc, LayerId, PgId, Version};
use ashlar_wire::{RetryId, WriteMeta};
use bytes::Bytes;
use cache::PageCache;
use device::{Device, Purpose};
use mount::Mount;
use read::ReadContext;
use resolved::{Resolved, Stack};
use running::Running;
use state::State;
use std::collections::{BTreeSet, VecDeque};
use std::marker::PhantomData;
use std::sync::Arc;
use wiped_layers::WipedLayers;

/// The smallest log: room for one record of the largest write several times.
pub const LOG_BYTES_MIN: u64 = 256 << 10;
/// The smallest disk beside its log, in blocks.
const DATA_BLOCKS_MIN: u64 = 512;

#[derive(Debug)]
enum Phase {
    New,
    Mounting(Box<Mount>),
    Running(Box<Running>),
    Failed,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Store<P = Honest> {
    config: StoreConfig,
    phase: Phase,
    state: State,
    cache: PageCache,
    device: Device,
    events: VecDeque<StoreEvent>,
    policy: PhantomData<P>,
}

impl<P: Policy> Store<P> {
    /// What makes a disk a store: perform in order, then flush. Takes the disk's contents for nothing.
    pub fn format(config: &StoreConfig) -> Result<Vec<DiskOp>, StoreError> {
        let block = PAGE_BYTES as u64;
        let need = LOG_AT + LOG_BYTES_MIN.max(config.log_bytes) + DATA_BLOCKS_MIN * block;
        if config.capacity < need || config.capacity / block > BlockAddr::MAX.0 {
            return Err(StoreError::TooSmall { have: config.capacity, need });
        }
        let superblock = Superblock {
            identity: Identity { cluster: config.cluster, osd: config.osd },
            seq: 0,
            capacity: config.capacity / block * block,
            log_bytes: config.log_bytes.max(LOG_BYTES_MIN) / block * block,
            log_position: 0,
            log_seq: 1,
            log_previous: Crc::default(),
            checkpoint: BlockAddr::NONE,
            damaged: false,
        };
        // An older store's batches must not be taken for this one's: an OSD's identity may be the same.
        const ZEROES: usize = 1 << 20;
        let zeroes = Bytes::from(vec![0; ZEROES]);
        let mut ops = Vec::new();
        let mut at = 0;
        while at < LOG_AT + superblock.log_bytes {
            let len = (LOG_AT + superblock.log_bytes - at).min(ZEROES as u64);
            ops.push(DiskOp::Write { at, data: vec![zeroes.slice(..len as usize)], through: false });
            at += len;
        }
        ops.push(DiskOp::Flush);
        let page = Bytes::from(superblock.encode());
        ops.push(DiskOp::Write { at: superblock.slot(), data: vec![page], through: false });
        Ok(ops)
    }

    pub fn new(config: StoreConfig) -> Store<P> {
        let cache = PageCache::new(config.index_cache_bytes);
        let resolved = Resolved::new(config.index_cache_bytes / 8);
        let wiped_layers = WipedLayers::new(P::REPLACED_NOT_WIPED);
        let retry_ids_max = if P::FORGOTTEN_RETRY_ID { Some(4) } else { None };
        Store {
            config,
            phase: Phase::New,
            state: State { retry_ids_max, resolved, wiped_layers, ..State::default() },
            cache,
            device: Device::default(),
            events: VecDeque::new(),
            policy: PhantomData,
        }
    }

    fn identity(&self) -> Identity {
        Identity { cluster: self.config.cluster, osd: self.config.osd }
    }

    fn uses_flush(&self) -> bool {
        self.config.volatile_cache && !P::NO_FLUSH
    }

    fn writes_through(&self) -> bool {
        self.config.write_through && self.uses_flush()
    }

    /// Whether [`StoreEvent::Mounted`] was told and nothing has failed since.
    pub fn is_mounted(&self) -> bool {
        matches!(&self.phase, Phase::Running(r) if r.report.is_none())
    }

    /// An operation that changes state. `Store` is mounted; see [`StoreOp`] for what else is asserted.
    pub fn submit(&mut self, token: Token, op: StoreOp) {
        match &mut self.phase {
            Phase::Failed => {}
            Phase::Running(running) => {
                assert!(running.report.is_none(), "nothing is submitted before the store is mounted");
                let mut cx = submit::SubmitContext {
                    state: &mut self.state,
                    cache: &mut self.cache,
                    device: &mut self.device,
                    running,
                };
                submit::submit(&mut cx, token, op);
            }
            Phase::New | Phase::Mounting(_) => panic!("nothing is submitted before the store is mounted"),
        }
    }

    /// Decides prepared writes as committed (see [`StoreOp::Resolve`]). Nobody waits for that to be durable: its record goes out with the next
    /// that somebody waits for, or at [`Store::settle`]. A crash before leaves the writes undecided, as one before this call.
    pub fn commit(&mut self, pg: PgId, commit: &[(ChunkId, Version)]) {
        match &mut self.phase {
            Phase::Failed => {}
            Phase::Running(running) => {
                let mut cx = submit::SubmitContext {
                    state: &mut self.state,
                    cache: &mut self.cache,
                    device: &mut self.device,
                    running,
                };
                submit::commit(&mut cx, pg, commit);
            }
            Phase::New | Phase::Mounting(_) => panic!("nothing is committed before the store is mounted"),
        }
    }

    /// Whether records wait for company, with the blocks that they free.
    pub fn has_unsettled(&self) -> bool {
        matches!(&self.phase, Phase::Running(r) if r.log.has_open())
    }

    /// Sends them with the next `poll`.
    pub fn settle(&mut self) {
        if let Phase::Running(running) = &mut self.phase {
            running.log.settle();
        }
    }

    /// Records encoded since the process started.
    pub fn records(&self) -> u64 {
        self.device.stats.records
    }

    /// Blocks that were freed since they were last trimmed, about.
    pub fn untrimmed_blocks(&self) -> u64 {
        match &self.phase {
            Phase::Running(r) => r.space.untrimmed_blocks(),
            Phase::New | Phase::Mounting(_) | Phase::Failed => 0,
        }
    }

    /// Gives one more piece of the free space back to the device, unless one is under way. To be called at times when nobody is disturbed.
    pub fn trim(&mut self) {
        if let Phase::Running(running) = &mut self.phase
            && let Some(run) = running.space.next_trim()
        {
            let op = DiskOp::Discard { at: run.first.byte_offset(), len: run.bytes() };
            self.device.start(Purpose::Discard(run), op);
        }
    }

    /// Reads committed state; answered by [`StoreEvent::Read`]. A chunk that is missing is read as never written.
    pub fn read(&mut self, token: Token, pg: PgId, chunk: ChunkId, range: BlockRange, kind: ReadKind) {
        let identity = self.identity();
        if let Phase::Running(running) = &mut self.phase {
            let mut cx = ReadContext {
                identity,
                state: &mut self.state,
                cache: &mut self.cache,
                device: &mut self.device,
                events: &mut self.events,
                under_way: &running.log.under_way,
            };
            running.reads.start(&mut cx, token, pg, chunk, range, kind);
        }
    }

    /// Of `wanted`, blocks of one chunk in order that none of the first `from` layers of `below` has: in which of the others the first of them is, or may
    /// be. `None`: none has any. As of this moment; a layer with a write that is prepared is always looked at.
    pub fn next_below(
        &mut self,
        pg: PgId,
        below: &Arc<[LayerId]>,
        from: usize,
        index: ChunkIndex,
        wanted: impl Iterator<Item = BlockIndex>,
    ) -> Option<NextBelow> {
        let mut resolved = std::mem::take(&mut self.state.resolved);
        let next = Stack { state: &self.state, pg, below, index }.next(&mut resolved, &mut self.cache, from, wanted);
        self.state.resolved = resolved;
        next
    }

    /// What [`Store::next_below`] knows of the stacks that this chunk is part of is found out anew.
    pub fn forget_resolved(&mut self, pg: PgId, chunk: ChunkId) {
        self.state.resolved.forget(pg, chunk);
    }

    /// An operation that `poll` asked for has ended.
    pub fn on_disk(&mut self, io: IoId, result: DiskResult) {
        if matches!(self.phase, Phase::Failed) {
            return;
        }
        let Some((purpose, error)) = self.device.finish(io) else { return };
        let is_read = matches!(
            purpose,
            Purpose::Mount(_)
                | Purpose::Page { .. }
                | Purpose::RepairPage(_)
                | Purpose::MergePage { .. }
                | Purpose::Data { .. }
                | Purpose::CheckpointRead(_)
                | Purpose::Discard(_)
                | Purpose::WipeRead(_)
        );
        let result = match result {
            Err(source) if !is_read => return self.fail(error(source)),
            other => other,
        };
        let (identity, uses_flush) = (self.identity(), self.uses_flush());
        match &mut self.phase {
            Phase::Mounting(mount) => {
                let Purpose::Mount(nth) = purpose else { unreachable!("only mount reads before it is done") };
                mount.on_read(nth, result, error);
            }
            Phase::Running(running) => {
                let mut cx = ReadContext {
                    identity,
                    state: &mut self.state,
                    cache: &mut self.cache,
                    device: &mut self.device,
                    events: &mut self.events,
                    under_way: &running.log.under_way,
                };
                match purpose {
                    Purpose::Mount(_) => unreachable!("mount is done"),
                    Purpose::Page { pg, addr, place } => running.reads.on_page(&mut cx, pg, addr, place, result),
                    Purpose::RepairPage(token) => {
                        let waiting = running.repairs.iter_mut().find(|r| r.token() == token);
                        waiting.expect("it waits for this").on_page(identity, result);
                    }
                    Purpose::MergePage { token, page, place } => {
                        // It may have been cancelled meanwhile.
                        let waiting = running.merges.iter_mut().find(|m| m.token() == token);
                        waiting.into_iter().for_each(|m| m.on_page(identity, page, place, result.clone()));
                    }
                    Purpose::Data { read, first, count } => running.reads.on_data(&mut cx, read, first, count, result),
                    Purpose::Discard(run) => running.space.trimmed(run, result.is_ok()),
                    Purpose::Batch(seq) => self.on_batch_written(seq),
                    Purpose::Flush => running.on_flushed(&mut self.events),
                    Purpose::CheckpointRead(nth) => running.checkpoint_mut().on_read(identity, nth, result),
                    Purpose::CheckpointWrite => running.checkpoint_mut().on_written(),
                    Purpose::Superblock => running.checkpoint_mut().on_superblock_written(),
                    Purpose::WipeRead(nth) | Purpose::WipeWrite(nth) => {
                        running.on_wipe_step(nth, &result, &mut self.device, uses_flush);
                    }
                    Purpose::WipeFlush => running.on_wipe_step(0, &result, &mut self.device, uses_flush),
                }
            }
            Phase::New | Phase::Failed => unreachable!("nothing is under way"),
        }
    }

    fn fail(&mut self, error: StoreError) {
        self.phase = Phase::Failed;
        self.events.push_back(StoreEvent::Failed(error));
    }

    fn on_batch_written(&mut self, seq: u64) {
        let needs_flush = self.uses_flush();
        let Phase::Running(running) = &mut self.phase else { return };
        running.log.on_written(seq);
        if P::ACK_BEFORE_FLUSH {
            let tokens = running.log.take_written_tokens();
            self.events.extend(tokens.into_iter().map(StoreEvent::Stored));
        }
        let upto = if needs_flush { running.log.durable_by_itself() } else { running.log.written() };
        if upto > running.log.durable() {
            running.settle_log(upto, &mut self.events);
        }
    }

    /// Starts what can start. Called once for each batch of events: all that was submitted since goes into one batch of the log.
    pub fn poll(&mut self, actions: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::New => {
                self.phase = Phase::Mounting(Box::new(Mount::begin(&self.config, &mut self.device)));
            }
            Phase::Mounting(mount) => {
                let mut cx = mount::MountContext {
                    config: &self.config,
                    state: &mut self.state,
                    cache: &mut self.cache,
                    device: &mut self.device,
                };
                match mount.advance(&mut cx) {
                    Ok(None) => {}
                    Ok(Some(mounted)) => self.run(*mounted),
                    Err(error) => self.fail(error),
                }
            }
            Phase::Running(_) | Phase::Failed => {}
        }
        if matches!(self.phase, Phase::Running(_)) {
            self.poll_running();
        }
        if !matches!(self.phase, Phase::Failed) {
            self.device.drain(actions);
        }
    }

    /// Everything is in memory; what was found may have to be made durable before anybody hears of it.
    fn run(&mut self, mounted: mount::Mounted) {
        self.phase = Phase::Running(Box::new(Running::new(mounted)));
    }

    fn poll_running(&mut self) {
        let (uses_flush, writes_through) = (self.uses_flush(), self.writes_through());
        let identity = self.identity();
        let Phase::Running(running) = &mut self.phase else { return };
        let mut cx =
            submit::SubmitContext { state: &mut self.state, cache: &mut self.cache, device: &mut self.device, running };
        submit::retry_repairs(&mut cx);
        merge::retry_merges(&mut cx);
        let refused = running.refused_merges.drain(..);
        self.events.extend(refused.map(|(token, why)| StoreEvent::MergeRefused(token, why)));
        running.finish_mount(&mut self.events, uses_flush, P::DAMAGED_TAIL_VETOES);
        running.advance_wipe(&mut self.state, &self.device, &mut self.events);
        running.send_batches(&self.state, &mut self.device, writes_through);
        running.maybe_begin_checkpoint(&mut self.state, &mut self.device);
        let (state, cache, device) = (&mut self.state, &mut self.cache, &mut self.device);
        if let Err(full) = running.advance_checkpoint(identity, state, cache, device, &mut self.events, uses_flush) {
            return self.fail(full);
        }
        // A finished checkpoint makes room in the ring, or lets mount end.
        running.send_batches(&self.state, &mut self.device, writes_through);
        running.finish_mount(&mut self.events, uses_flush, P::DAMAGED_TAIL_VETOES);
        running.maybe_flush(&mut self.device, uses_flush);
        running.space.settle(running.reads.oldest());
        running.advance_wipe(&mut self.state, &self.device, &mut self.events);
    }

    /// Moves what has been reported to `events`.
    pub fn take_events(&mut self, events: &mut Vec<StoreEvent>) {
        events.extend(self.events.drain(..));
    }

    pub fn pg(&self, pg: PgId) -> Option<&PgState> {
        self.state.pgs.get(&pg).map(|m| &m.state)
    }

    /// In order.
    pub fn pgs(&self) -> impl Iterator<Item = PgId> {
        self.state.pgs.keys().copied()
    }

    pub fn versions(&self, pg: PgId, chunk: ChunkId) -> ChunkVersions {
        self.state.versions(pg, chunk)
    }

    /// All undecided writes of a PG, each chunk's in the order of their chain.
    pub fn prepared(&self, pg: PgId) -> impl Iterator<Item = &PreparedWrite> {
        self.state.pgs.get(&pg).into_iter().flat_map(|m| m.prepared.values().map(|p| &p.public))
    }

    pub fn prepared_of(&self, pg: PgId, chunk: ChunkId) -> impl Iterator<Item = &PreparedWrite> {
        self.state.pgs.get(&pg).into_iter().flat_map(move |m| m.prepared_of(chunk))
    }

    /// Whether a merge can be prepared: both chunks are at the versions that it names, and of the one below nothing is undecided.
    pub fn merge_fits(&self, pg: PgId, write: &WriteMeta) -> bool {
        self.state.merge_fits(pg, write)
    }

    /// Whether a merge was submitted and has not taken effect yet.
    pub fn awaits_merge(&self, pg: PgId, chunk: ChunkId, version: Version) -> bool {
        match &self.phase {
            Phase::Running(running) => running.merges.iter().any(|m| m.is_of(pg, chunk, version)),
            Phase::New | Phase::Mounting(_) | Phase::Failed => false,
        }
    }

    /// The smallest part of a range, by whole quarters of the chunk, outside of which no block has ever been written, discarded or pushed, nor
    /// is about to be by a prepared write; `None`: there is none such in the range.
    pub fn touched(&self, pg: PgId, chunk: ChunkId, range: BlockRange) -> Option<BlockRange> {
        self.state.touched(pg, chunk, range)
    }

    /// Quarters of the range in which nothing was ever written: each gets an index page that stays if it is written now.
    pub fn untouched_quarters(&self, pg: PgId, chunk: ChunkId, range: BlockRange) -> u64 {
        self.state.untouched_quarters(pg, chunk, range)
    }

    /// How many index pages a change to these blocks makes due, at most: what a write costs beside its data.
    pub fn pages_of(range: BlockRange) -> u64 {
        state::quarters(range).count() as u64
    }

    /// In order of id, those behind `after`; at most `limit`.
    pub fn chunks(&self, pg: PgId, after: Option<ChunkId>, limit: usize) -> Vec<(ChunkId, ChunkVersions)> {
        let Some(mem) = self.state.pgs.get(&pg) else { return Vec::new() };
        mem.directory.iter_after(after).take(limit).map(|e| (e.chunk(), mem.versions(e.chunk()))).collect()
    }

    /// R10: the retry ids of a chunk's writes.
    pub fn ids_of(&self, pg: PgId, chunk: ChunkId) -> Vec<RetryId> {
        let Some(mem) = self.state.pgs.get(&pg) else { return Vec::new() };
        let sessions = mem.state.sessions.iter();
        let all = sessions.flat_map(|(id, s)| s.writes.iter().map(move |(number, at)| (*id, s, *number, *at)));
        all.filter(|(.., at)| at.0 == chunk)
            .map(|(id, s, number, at)| state::PgMem::retry_id(id, s, number, at))
            .collect()
    }

    pub fn space(&self) -> Space {
        match &self.phase {
            Phase::Running(running) => running.space(&self.state),
            Phase::New | Phase::Mounting(_) | Phase::Failed => Space::default(),
        }
    }

    /// How much volumes with reserved space may have here in all, and the layers that they write to. Until it is told that is nothing.
    pub fn set_reserved(&mut self, blocks: u64, layers: BTreeSet<LayerId>) {
        self.state.set_reserved(blocks, layers);
    }

    /// Whether space is on its way back, of what was overwritten or dropped. Sees to it that it is.
    pub fn reclaim(&mut self) -> bool {
        match &mut self.phase {
            Phase::Running(running) => running.reclaim(&mut self.state),
            Phase::New | Phase::Mounting(_) | Phase::Failed => false,
        }
    }

    /// Whether something was written since the last checkpoint began that may have replaced something.
    pub fn has_overwritten(&self) -> bool {
        self.state.reclaimable > 0
    }

    /// Whether layers or much of one were given up, and nothing is going on that a checkpoint would be in the way of.
    pub fn has_dropped(&self) -> bool {
        match &self.phase {
            Phase::Running(running) => running.has_dropped(&self.state),
            Phase::New | Phase::Mounting(_) | Phase::Failed => false,
        }
    }

    /// What the used space holds.
    pub fn accounting(&self) -> Accounting {
        match &self.phase {
            Phase::Running(running) => running.accounting(&self.state),
            Phase::New | Phase::Mounting(_) | Phase::Failed => Accounting::default(),
        }
    }

    /// Blocks of data that a layer has here, over all PGs. Of those that were overwritten since the last checkpoint, both count.
    pub fn layer_blocks(&self, layer: LayerId) -> u64 {
        self.state.counts.of(layer)
    }

    /// Blocks of the layers of which that is another number than was told by this, at most `limit` of them; 0 of one that is gone.
    pub fn take_changed_layers(&mut self, limit: usize) -> Vec<(LayerId, u64)> {
        self.state.counts.take_changed(limit)
    }

    /// What [`Store::take_changed_layers`] gave was lost.
    pub fn on_changed_layers_lost(&mut self, told: &[(LayerId, u64)]) {
        self.state.counts.on_lost(told.iter().map(|(layer, _)| *layer));
    }

    /// Whether a discard may make so many index pages due without space for them: they replace others when the checkpoint ends.
    pub fn has_reserve_for(&self, pages: u64) -> bool {
        match &self.phase {
            Phase::Running(running) => running.has_reserve_for(pages, &self.state),
            Phase::New | Phase::Mounting(_) | Phase::Failed => false,
        }
    }

    /// Nothing is under way and nothing waits; what was freed is free again.
    pub fn is_idle(&self) -> bool {
        match &self.phase {
            Phase::Running(r) => {
                self.device.is_idle()
                    && r.log.is_idle()
                    && r.checkpoint.is_none()
                    && r.reads.is_idle()
                    && r.repairs.is_empty()
                    && r.merges.is_empty()
            }
            Phase::New | Phase::Mounting(_) => false,
            Phase::Failed => true,
        }
    }

    pub fn stats(&self) -> StoreStats {
        let mut stats = self.device.stats;
        for mem in self.state.pgs.values() {
            stats.chunks += mem.directory.len() as u64;
            stats.memory_directory_bytes += mem.directory.memory_bytes();
            let deltas = mem.active.values().chain(mem.frozen.values());
            stats.memory_delta_bytes += deltas.map(|d| d.memory_bytes() as u64 + 64).sum::<u64>();
        }
        stats.memory_cache_bytes = self.cache.memory_bytes() + self.state.resolved.memory_bytes();
        if let Phase::Running(running) = &self.phase {
            stats.memory_allocator_bytes =
                running.space.allocator.memory_bytes() + running.space.unwiped.memory_bytes();
        }
        stats
    }

    /// All of them; O(everything in memory).
    pub fn assert_invariants(&self) {
        if let Phase::Running(running) = &self.phase {
            self.state.assert_invariants();
            running.log.assert_invariants();
            for addr in self.state.blocks_in_memory() {
                assert!(!running.space.allocator.is_free(addr), "A1: {addr} is in use and free");
            }
            // Of damaged pages nobody knows what they named.
            if self.is_idle() && self.device.stats.bad_pages == 0 {
                let Accounting { garbage, .. } = self.accounting();
                assert_eq!(garbage, self.state.blocks_in_no_layer(), "N1: {:?}", self.accounting());
            }
        }
    }
}
