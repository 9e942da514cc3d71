//! A mounted store at work: when batches, flushes and checkpoints start, and what follows when they end.

use super::api::{Accounting, MergeRefusal, Space, StoreError, StoreEvent, Token};
use super::cache::PageCache;
use super::checkpoint::{Checkpoint, CheckpointContext, Root};
use super::delta::FreedRun;
use super::device::{Device, Purpose};
use super::log::{FlushUnderWay, Log, Sending, data_writes};
use super::merge::WaitingMerge;
use super::mount::{Mounted, Pending};
use super::read::Reads;
use super::space::{SpaceKeeper, fixed_blocks};
use super::state::State;
use super::submit::WaitingRepair;
use super::wipe::{Moment, Wipe, WipeReport};
use crate::format::superblock::Superblock;
use crate::format::{BlockAddr, Identity};
use crate::{DiskOp, DiskResult};
use std::collections::VecDeque;

/// This many zeroed blocks are worth a checkpoint of their own when nothing else is going on.
const ZEROED_WORTH: u64 = 1024;
/// Blocks that a dropped index page may bring back: its own and 256.
const PAGE_WORTH: u64 = 257;

/// What a mounted store has.
#[derive(Debug)]
pub(super) struct Running {
    pub superblock: Superblock,
    root: Root,
    pub log: Log,
    pub space: SpaceKeeper,
    pub reads: Reads,
    pub checkpoint: Option<Checkpoint>,
    /// Records that had no place in the ring when the running checkpoint began: it contains them, and answers them. Until then no
    /// batch is sent, since a replay from the old superblock would miss them.
    subsumed: Option<Subsumed>,
    flush: Option<FlushUnderWay>,
    /// Waits for what mount left to be made durable before anybody hears of it.
    pub report: Option<Box<Pending>>,
    pub repairs: Vec<WaitingRepair>,
    pub merges: Vec<WaitingMerge>,
    /// To be told with the next poll.
    pub refused_merges: Vec<(Token, MergeRefusal)>,
    wipe: Option<Wipe>,
    /// What was wiped without being asked for.
    pub wiped_owed: WipeReport,
}

#[derive(Debug, Default)]
struct Subsumed {
    /// Where the runs of their data begin.
    data: Vec<BlockAddr>,
    tokens: Vec<Token>,
    released: Vec<FreedRun>,
}

impl Running {
    pub(super) fn new(mounted: Mounted) -> Running {
        let Mounted { superblock, root, log, allocator, pending } = mounted;
        Running {
            superblock,
            root,
            log,
            space: SpaceKeeper::new(allocator),
            reads: Reads::default(),
            checkpoint: None,
            subsumed: None,
            flush: None,
            report: Some(Box::new(pending)),
            repairs: Vec::new(),
            merges: Vec::new(),
            refused_merges: Vec::new(),
            wipe: None,
            wiped_owed: WipeReport::default(),
        }
    }

    pub(super) fn checkpoint_mut(&mut self) -> &mut Checkpoint {
        self.checkpoint.as_mut().expect("its operation was under way")
    }

    pub(super) fn settle_log(&mut self, upto: u64, events: &mut VecDeque<StoreEvent>) {
        let settled = self.log.on_durable(upto);
        events.extend(settled.tokens.into_iter().map(StoreEvent::Stored));
        self.space.free_after_reads(self.reads.next(), settled.released);
    }

    pub(super) fn on_flushed(&mut self, events: &mut VecDeque<StoreEvent>) {
        let flush = self.flush.take().expect("one flush is under way");
        self.settle_log(flush.upto, events);
        if flush.for_checkpoint {
            self.checkpoint_mut().on_flushed();
        }
        if let Some(pending) = &mut self.report {
            pending.is_flushed = true;
        }
    }

    /// Index pages that are to be written: by the running checkpoint, by the next one, and for prepared writes when they commit.
    fn pages_due(&self, state: &State) -> u64 {
        let running = self.checkpoint.as_ref().map_or(0, Checkpoint::pages_left);
        (running + state.active_pages + state.prepared_pages) as u64
    }

    /// What is free beyond the index pages that are due.
    pub(super) fn space(&self, state: &State) -> Space {
        Space { unfilled: state.counts.reservation.unfilled(), ..self.space.space(self.pages_due(state)) }
    }

    /// Whether space will come back without anybody's doing; begins what has to be done for it.
    pub(super) fn reclaim(&mut self, state: &mut State) -> bool {
        state.is_space_wanted = state.reclaimable > 0 || !state.purge.is_empty() || !state.freed.deferred.is_empty();
        let is_on_its_way = || self.accounting(state).garbage > state.blocks_in_no_layer();
        state.is_space_wanted || self.checkpoint.is_some() || is_on_its_way()
    }

    /// Whether little is going on, and what was dropped since the last checkpoint began is worth one.
    pub(super) fn has_dropped(&self, state: &State) -> bool {
        let has_some = !state.purge.is_empty() || !state.freed.deferred.is_empty() || state.zeroed >= ZEROED_WORTH;
        has_some && self.log.is_idle() && self.checkpoint.is_none()
    }

    fn moment(&self, state: &State) -> Moment {
        Moment {
            checkpoint: self.superblock.seq,
            checkpoint_runs: self.checkpoint.is_some(),
            next_read: self.reads.next(),
            has_suspects: state.has_suspects(),
        }
    }

    pub(super) fn begin_wipe(&mut self) -> bool {
        if self.wipe.is_some() {
            return false;
        }
        self.wipe = Some(Wipe::begin());
        self.space.is_wiping = true;
        true
    }

    /// Not while something is trimmed: what is out of the allocator for that would be passed over.
    pub(super) fn begin_owed_wipe(&mut self) -> bool {
        if self.wipe.is_some() || self.space.is_trimming() || self.space.unwiped.owed.blocks() == 0 {
            return false;
        }
        self.wipe = Some(Wipe::begin_owed(&mut self.space));
        self.space.is_wiping = true;
        true
    }

    pub(super) fn wipe_more(&mut self, device: &mut Device) {
        if let Some(wipe) = &mut self.wipe {
            wipe.next_round(&mut self.space, device);
        }
    }

    pub(super) fn wipe_left(&self) -> Option<u64> {
        self.wipe.as_ref().map(|wipe| wipe.left(&self.space))
    }

    pub(super) fn on_wipe_step(&mut self, nth: usize, result: &DiskResult, device: &mut Device, uses_flush: bool) {
        let wipe = self.wipe.as_mut().expect("its operation was under way");
        wipe.on_done(nth, result, &mut self.space, device, uses_flush);
    }

    pub(super) fn advance_wipe(&mut self, state: &mut State, device: &Device, events: &mut VecDeque<StoreEvent>) {
        if self.wipe.is_none() {
            return;
        }
        let now = self.moment(state);
        let Some(wipe) = &mut self.wipe else { return };
        if let Some(mut report) = wipe.advance(now, &mut self.space) {
            let is_of_owed = wipe.is_of_owed;
            self.wipe = None;
            self.space.is_wiping = false;
            if is_of_owed {
                self.wiped_owed.add(report);
                return;
            }
            report.damaged_pages = device.stats.bad_pages;
            events.push_back(StoreEvent::Wiped(report));
        } else if wipe.wants_checkpoint(now) {
            state.is_space_wanted = true;
        }
    }

    /// N1, and the rest.
    pub(super) fn accounting(&self, state: &State) -> Accounting {
        let fixed = fixed_blocks(self.superblock.log_bytes);
        let index = state.counts.index_pages() + (self.root.leaves.len() + self.root.chain.len()) as u64;
        let data = state.counts.total();
        let used = self.space.space(0).used;
        Accounting { fixed, index, data, garbage: used.saturating_sub(fixed + index + data) }
    }

    /// Whether so many pages more can come out of the reserve for a while, which keeps the other half for directory and checkpoint.
    pub(super) fn has_reserve_for(&self, pages: u64, state: &State) -> bool {
        self.pages_due(state) + pages <= self.space.reserve() / 2
    }

    pub(super) fn send_batches(&mut self, state: &State, device: &mut Device, through: bool) {
        // On a disk that is nearly full nobody is refused for blocks that a record in memory would free.
        if self.space(state).free < self.space.reserve() {
            self.log.settle();
        }
        // While a checkpoint runs, the pages that the next one must write stay within the reserve.
        let is_held = self.checkpoint.is_some() && state.active_pages as u64 > self.space.reserve() / 4;
        if !is_held {
            self.send(device, Sending::Ready { through });
        }
    }

    fn send(&mut self, device: &mut Device, how: Sending) {
        if self.subsumed.is_some() {
            return;
        }
        let mut ops = Vec::new();
        while self.log.send(self.superblock.seq, how, |seq, op| ops.push((seq, op))) {
            device.stats.batches += 1;
        }
        for (seq, op) in ops {
            device.start(Purpose::Batch(seq), op);
        }
    }

    /// The log is half full, or much space may come back, or somebody wants what there is.
    fn checkpoint_is_due(&self, state: &State) -> bool {
        if let Some(pending) = &self.report {
            return pending.wants_checkpoint;
        }
        let deferred: u64 = state.freed.deferred.iter().map(|freed| u64::from(freed.run.count)).sum();
        let purgeable = PAGE_WORTH * state.purge.len() as u64 + deferred;
        let free = self.space(state).free;
        self.log.used_bytes() > self.log.ring_bytes() / 2
            || self.log.is_blocked()
            || state.active_pages as u64 > self.space.reserve() / 8
            || state.reclaimable + purgeable > free
            || state.is_space_wanted
    }

    pub(super) fn maybe_begin_checkpoint(&mut self, state: &mut State, device: &mut Device) {
        if self.checkpoint.is_some() || !self.checkpoint_is_due(state) {
            return;
        }
        // Its moment is the end of a batch, since an open one has applied its records already.
        self.send(device, Sending::All);
        let mut checkpoint = Checkpoint::begin(state, self.superblock.seq + 1, self.log.head());
        if self.log.has_open() {
            let mut subsumed = Subsumed::default();
            for batch in self.log.take_open() {
                subsumed.data.extend(batch.data.iter().map(|(run, _)| run.first));
                subsumed.tokens.extend(batch.tokens);
                subsumed.released.extend(batch.released);
                for op in data_writes(batch.data) {
                    checkpoint.adopt_write();
                    device.start(Purpose::CheckpointWrite, op);
                }
            }
            self.subsumed = Some(subsumed);
        }
        self.checkpoint = Some(checkpoint);
    }

    pub(super) fn advance_checkpoint(
        &mut self,
        identity: Identity,
        state: &mut State,
        cache: &mut PageCache,
        device: &mut Device,
        events: &mut VecDeque<StoreEvent>,
        uses_flush: bool,
    ) -> Result<(), StoreError> {
        let Some(checkpoint) = &mut self.checkpoint else { return Ok(()) };
        let mut cx = CheckpointContext {
            identity,
            state,
            cache,
            device,
            space: &mut self.space,
            superblock: &self.superblock,
            written: self.log.written(),
        };
        checkpoint.advance(&mut cx)?;
        while checkpoint.wants_flush() && !uses_flush {
            checkpoint.on_flushed();
            checkpoint.advance(&mut cx)?;
        }
        if checkpoint.is_done() {
            self.finish_checkpoint(state, cache, device, events);
        }
        Ok(())
    }

    fn finish_checkpoint(
        &mut self,
        state: &mut State,
        cache: &mut PageCache,
        device: &mut Device,
        events: &mut VecDeque<StoreEvent>,
    ) {
        let checkpoint = self.checkpoint.take().expect("it is done");
        self.superblock = checkpoint.superblock(&self.superblock);
        self.log.trim(self.superblock.log_position);
        let (root, freed) = checkpoint.finish(state, cache, &self.root);
        self.root = root;
        self.space.free_after_reads(self.reads.next(), freed);
        if let Some(subsumed) = self.subsumed.take() {
            self.log.under_way.arrived(&subsumed.data);
            events.extend(subsumed.tokens.into_iter().map(StoreEvent::Stored));
            self.space.free_after_reads(self.reads.next(), subsumed.released);
        }
        if let Some(pending) = &mut self.report {
            pending.wants_checkpoint = false;
            pending.is_flushed = true;
        }
        device.stats.checkpoints += 1;
    }

    /// One flush at a time; everything written when it starts rides on it.
    pub(super) fn maybe_flush(&mut self, device: &mut Device, uses_flush: bool) {
        let for_checkpoint = self.checkpoint.as_ref().is_some_and(Checkpoint::wants_flush);
        let for_mount = self.report.as_ref().is_some_and(|p| !p.is_flushed && !p.wants_checkpoint);
        let upto = self.log.written();
        if uses_flush && self.flush.is_none() && (upto > self.log.durable() || for_checkpoint || for_mount) {
            device.start(Purpose::Flush, DiskOp::Flush);
            self.flush = Some(FlushUnderWay { upto, for_checkpoint });
        }
    }

    /// Tells of the mount when what it read is on stable storage: a record that it found may have been in the disk's volatile cache only.
    pub(super) fn finish_mount(&mut self, events: &mut VecDeque<StoreEvent>, uses_flush: bool, hides_damage: bool) {
        let Some(pending) = &mut self.report else { return };
        if pending.wants_checkpoint || (uses_flush && !pending.is_flushed) {
            return;
        }
        let mut report = self.report.take().expect("it was just looked at").report;
        report.damaged &= !hides_damage;
        events.push_back(StoreEvent::Mounted(report));
    }
}
