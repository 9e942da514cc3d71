//! Checkpoint: writes down, on fresh blocks, what the state was at one point of the log, so that the log before it may go.
//! K1: nothing that the last durable superblock leads to is overwritten or freed before the next one is durable.
//! K2: the superblock is written after everything that it leads to, and every batch before its log point, is on stable storage.
//! Runs in the background in bounded steps: deltas are merged into index pages window by window, then the pages of dropped chunks are read
//! for the blocks they free, then directory pages, then the chain of checkpoint pages, then the superblock.
//! Called by `store::Store::poll` and `on_disk`. Why so: docs/decisions/011-store-index-and-checkpoints.md.

use super::api::StoreError;
use super::cache::{CachedPage, PageCache};
use super::delta::{BlockSet, Delta, FreedRun, release};
use super::device::{Device, Purpose};
use super::directory::{Entry, Leaf, Stored};
use super::log::{LogPoint, data_writes};
use super::read::check_page;
use super::space::SpaceKeeper;
use super::state::{Purge, State};
use crate::format::checkpoint::{
    ChainPage, LeafRef, PAYLOAD_BYTES, put_leaves, put_pg, put_pg_count, put_prepared, put_prepared_count,
};
use crate::format::directory_page::{self, PageRef};
use crate::format::index_page::{IndexPage, PagePlace, SLOTS, Slot, slot_of};
use crate::format::superblock::Superblock;
use crate::format::{BlockAddr, Identity, PAGE_BYTES, Run};
use crate::{DiskOp, DiskResult};
use ashlar_types::{ChunkId, PgId, aligned_payload};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Pages that are read, merged and written together.
const WINDOW_PAGES: usize = 64;
/// Windows whose writes may be under way.
const WRITES_IN_FLIGHT_MAX: usize = 4 * WINDOW_PAGES;

/// The blocks that the durable superblock leads to, but for index pages and data.
#[derive(Debug, Default)]
pub(super) struct Root {
    /// Sorted.
    pub leaves: Vec<BlockAddr>,
    pub chain: Vec<BlockAddr>,
}

/// A leaf as it was at the checkpoint's moment.
#[derive(Debug)]
struct Snapshot {
    pg: PgId,
    original: Arc<Vec<Entry>>,
    /// With the places of merged pages.
    updated: Arc<Vec<Entry>>,
    stored: Option<Stored>,
}

/// A page to be merged or purged.
#[derive(Debug)]
struct Wanted {
    pg: PgId,
    chunk: ChunkId,
    quarter: u8,
    old: PageRef,
    page: Option<CachedPage>,
    /// Of a page to be purged: blocks that are somebody else's.
    kept: BlockSet,
    /// Of such a page: whether its blocks are wiped.
    wipe: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Merging,
    Purging,
    Leaves,
    Chain,
    /// For its writes and the batches before its log point to be written.
    Writes,
    /// For a flush that covers them.
    Flush,
    Superblock,
    SuperblockSent,
    /// For a flush that covers the superblock.
    LastFlush,
    Done,
}

#[derive(Debug)]
pub(super) struct Checkpoint {
    number: u64,
    point: LogPoint,
    damaged: bool,
    step: Step,
    snapshot: Vec<Snapshot>,
    /// Of the first entry of each snapshot leaf.
    order: BTreeMap<(PgId, ChunkId), usize>,
    body: Vec<u8>,
    /// The last frozen delta that was taken.
    cursor: Option<(PgId, ChunkId, u8)>,
    /// Index pages that are not written yet.
    pages_left: usize,
    window: Vec<Wanted>,
    loading: usize,
    purge: Vec<Purge>,
    next_leaf: usize,
    /// Data freed when the superblock is durable.
    freed: Vec<FreedRun>,
    /// Index pages, too.
    freed_pages: Vec<BlockAddr>,
    writes: usize,
    chain: Vec<BlockAddr>,
}

/// The parts of the store that a checkpoint uses.
pub(super) struct CheckpointContext<'a> {
    pub identity: Identity,
    pub state: &'a mut State,
    pub cache: &'a mut PageCache,
    pub device: &'a mut Device,
    pub space: &'a mut SpaceKeeper,
    pub superblock: &'a Superblock,
    /// All batches up to here are written.
    pub written: u64,
}

impl Checkpoint {
    /// Takes the state of this moment; `point` is where the next batch will be.
    pub(super) fn begin(state: &mut State, number: u64, point: LogPoint) -> Checkpoint {
        assert!(!state.is_merging, "one checkpoint at a time");
        state.generation = state.generation.wrapping_add(1) & (u32::MAX >> 1);
        state.is_merging = true;
        let pages_left = state.active_pages;
        (state.reclaimable, state.zeroed, state.active_pages) = (0, 0, 0);
        state.wiped_layers.checkpoint_begins();
        state.freed.deferred_to_wipe = 0;
        state.is_space_wanted = false;
        state.counts.reservation.checkpoint_begins();
        let mut body = Vec::new();
        put_pg_count(&mut body, state.pgs.len());
        state.pgs.iter().for_each(|(pg, mem)| put_pg(&mut body, *pg, &mem.state));
        put_prepared_count(&mut body, state.pgs.values().map(|m| m.prepared.len()).sum());
        let (mut snapshot, mut order) = (Vec::new(), BTreeMap::new());
        for (pg, mem) in &mut state.pgs {
            assert!(mem.frozen.is_empty(), "the last checkpoint has ended");
            mem.frozen = std::mem::take(&mut mem.active);
            assert!(mem.moved_away.is_empty(), "the last checkpoint has ended");
            for entry in mem.prepared.values() {
                put_prepared(&mut body, *pg, entry.public.data_good, &entry.public.write, &entry.runs, &entry.moved);
            }
            for Leaf { entries, stored } in mem.directory.leaves() {
                order.insert((*pg, entries[0].chunk()), snapshot.len());
                let (original, updated) = (entries.clone(), entries.clone());
                snapshot.push(Snapshot { pg: *pg, original, updated, stored: *stored });
            }
        }
        Checkpoint {
            number,
            point,
            damaged: state.damaged,
            step: Step::Merging,
            snapshot,
            order,
            body,
            cursor: None,
            pages_left,
            window: Vec::new(),
            loading: 0,
            purge: std::mem::take(&mut state.purge),
            next_leaf: 0,
            freed: std::mem::take(&mut state.freed.deferred),
            freed_pages: Vec::new(),
            writes: 0,
            chain: Vec::new(),
        }
    }

    pub(super) fn pages_left(&self) -> usize {
        self.pages_left
    }

    pub(super) fn wants_flush(&self) -> bool {
        matches!(self.step, Step::Flush | Step::LastFlush)
    }

    pub(super) fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    /// A flush that began after it was wanted has ended (or none is needed).
    pub(super) fn on_flushed(&mut self) {
        self.step = match self.step {
            Step::Flush => Step::Superblock,
            Step::LastFlush => Step::Done,
            other => other,
        };
    }

    pub(super) fn on_read(&mut self, identity: Identity, nth: usize, result: DiskResult) {
        let wanted = &mut self.window[nth];
        let place = PagePlace { chunk: wanted.chunk, quarter: wanted.quarter, checkpoint: wanted.old.checkpoint() };
        wanted.page = Some(check_page(result, identity, place));
        self.loading -= 1;
    }

    pub(super) fn on_written(&mut self) {
        self.writes -= 1;
    }

    /// A write that the checkpoint waits for was started elsewhere.
    pub(super) fn adopt_write(&mut self) {
        self.writes += 1;
    }

    pub(super) fn on_superblock_written(&mut self) {
        self.step = Step::LastFlush;
    }

    /// Does what can be done now: until something must come from the disk, or a window's worth.
    ///
    /// # Errors
    /// The disk is full beyond its reserve; this checkpoint goes no further.
    pub(super) fn advance(&mut self, cx: &mut CheckpointContext<'_>) -> Result<(), StoreError> {
        loop {
            if self.loading > 0 || self.writes > WRITES_IN_FLIGHT_MAX {
                return Ok(());
            }
            match self.step {
                Step::Merging => {
                    if self.window.is_empty() && !self.fill_with_frozen(cx) {
                        self.step = Step::Purging;
                    } else if self.loading == 0 {
                        return self.merge_window(cx);
                    }
                }
                Step::Purging => {
                    if self.window.is_empty() && !self.fill_with_purged(cx) {
                        self.step = Step::Leaves;
                    } else if self.loading == 0 {
                        self.purge_window(cx.state);
                    }
                }
                Step::Leaves => {
                    if !self.write_leaves(cx)? {
                        self.step = Step::Chain;
                    }
                }
                Step::Chain => {
                    self.write_chain(cx)?;
                    self.step = Step::Writes;
                }
                Step::Writes if self.writes == 0 && cx.written + 1 >= self.point.seq => self.step = Step::Flush,
                Step::Superblock => {
                    let page = Bytes::from(self.superblock(cx.superblock).encode());
                    let at = self.superblock(cx.superblock).slot();
                    cx.device.start(Purpose::Superblock, DiskOp::Write { at, data: vec![page], through: false });
                    self.step = Step::SuperblockSent;
                    return Ok(());
                }
                Step::Writes | Step::Flush | Step::SuperblockSent | Step::LastFlush | Step::Done => return Ok(()),
            }
        }
    }

    /// What names this checkpoint.
    pub(super) fn superblock(&self, last: &Superblock) -> Superblock {
        Superblock {
            seq: self.number,
            log_position: self.point.position,
            log_seq: self.point.seq,
            log_previous: self.point.previous,
            checkpoint: self.chain[0],
            damaged: self.damaged,
            ..*last
        }
    }

    fn want(
        &mut self,
        cx: &mut CheckpointContext<'_>,
        pg: PgId,
        chunk: ChunkId,
        quarter: u8,
        old: PageRef,
        (kept, wipe): (BlockSet, bool),
    ) {
        let page = if old.is_none() { None } else { cx.cache.get(old.addr()) };
        if !old.is_none() && page.is_none() {
            self.loading += 1;
            let read = DiskOp::Read { at: old.addr().byte_offset(), len: PAGE_BYTES as u32 };
            cx.device.start(Purpose::CheckpointRead(self.window.len()), read);
        }
        self.window.push(Wanted { pg, chunk, quarter, old, page, kept, wipe });
    }

    /// Takes the next window of frozen deltas; false when there are no more.
    fn fill_with_frozen(&mut self, cx: &mut CheckpointContext<'_>) -> bool {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let from_pg = self.cursor.map_or(Unbounded, |(pg, ..)| Included(pg));
        let mut keys = Vec::with_capacity(WINDOW_PAGES);
        for (pg, mem) in cx.state.pgs.range((from_pg, Unbounded)) {
            let from = match self.cursor {
                Some((at, chunk, quarter)) if at == *pg => Excluded((chunk, quarter)),
                _ => Unbounded,
            };
            let room = WINDOW_PAGES - keys.len();
            keys.extend(mem.frozen.range((from, Unbounded)).take(room).map(|((chunk, q), _)| (*pg, *chunk, *q)));
            if keys.len() == WINDOW_PAGES {
                break;
            }
        }
        self.cursor = keys.last().copied().or(self.cursor);
        for (pg, chunk, quarter) in &keys {
            let old = self.entry(*pg, *chunk).pages[usize::from(*quarter)];
            self.want(cx, *pg, *chunk, *quarter, old, (BlockSet::default(), false));
        }
        !keys.is_empty()
    }

    fn fill_with_purged(&mut self, cx: &mut CheckpointContext<'_>) -> bool {
        let from = self.purge.len().saturating_sub(WINDOW_PAGES);
        for purge in self.purge.split_off(from) {
            // Its PG is of no interest any more.
            let what = (purge.kept, purge.wipe);
            self.want(cx, PgId::default(), purge.chunk, purge.quarter, purge.page, what);
        }
        !self.window.is_empty()
    }

    fn place_of(&self, pg: PgId, chunk: ChunkId) -> (usize, usize) {
        let (_, leaf) = self.order.range(..=(pg, chunk)).next_back().expect("S2");
        let at = self.snapshot[*leaf].updated.binary_search_by_key(&chunk, Entry::chunk).expect("S2");
        (*leaf, at)
    }

    fn entry(&self, pg: PgId, chunk: ChunkId) -> &Entry {
        let (leaf, at) = self.place_of(pg, chunk);
        &self.snapshot[leaf].updated[at]
    }

    /// All pages of the window are here: writes new ones, with the deltas over them, to neighbouring blocks.
    fn merge_window(&mut self, cx: &mut CheckpointContext<'_>) -> Result<(), StoreError> {
        let window = std::mem::take(&mut self.window);
        let runs = cx.space.allocate_pages(window.len())?;
        let mut bytes = aligned_payload(window.len() * PAGE_BYTES);
        bytes.resize(window.len() * PAGE_BYTES, 0);
        let addrs: Vec<BlockAddr> = runs.iter().flat_map(|run| run.blocks()).collect();
        for (i, wanted) in window.into_iter().enumerate() {
            let at = i * PAGE_BYTES..(i + 1) * PAGE_BYTES;
            self.merge(cx, &wanted, addrs[i], &mut bytes[at.clone()]);
            cx.cache.insert(addrs[i], CachedPage::Good(Bytes::copy_from_slice(&bytes[at])));
        }
        cx.device.stats.index_pages_written += addrs.len() as u64;
        self.pages_left -= addrs.len();
        self.write(cx, &runs, bytes);
        Ok(())
    }

    fn merge(&mut self, cx: &mut CheckpointContext<'_>, wanted: &Wanted, addr: BlockAddr, out: &mut [u8]) {
        let Wanted { pg, chunk, quarter, old, page, .. } = wanted;
        let mem = cx.state.pgs.get(pg).expect("its delta is there");
        let delta: &Delta = mem.frozen.get(&(*chunk, *quarter)).expect("it stays until the checkpoint ends");
        let mut slots = base(page.as_ref());
        let wipe = cx.state.wiped_layers.wipe_replaced(chunk.layer);
        let mut replaced = 0;
        for (block, slot) in delta.iter() {
            if let Some(freed) = slots[usize::from(block)].addr() {
                release(&mut self.freed, freed, wipe);
                replaced += 1;
            }
            slots[usize::from(block)] = slot;
        }
        let place = PagePlace { chunk: *chunk, quarter: *quarter, checkpoint: self.number };
        IndexPage { place, slots }.encode(cx.identity, out);
        if old.is_none() {
            cx.state.counts.add_page();
        } else {
            self.freed_pages.push(old.addr());
        }
        cx.state.counts.add(chunk.layer, -replaced);
        let (leaf, at) = self.place_of(*pg, *chunk);
        let entry = &mut Arc::make_mut(&mut self.snapshot[leaf].updated)[at];
        entry.pages[usize::from(*quarter)] = PageRef::new(addr, self.number);
        if *page == Some(CachedPage::Damaged) {
            entry.set_lost();
        }
        self.snapshot[leaf].stored = None;
    }

    /// Learns what blocks dropped chunks had.
    fn purge_window(&mut self, state: &mut State) {
        for wanted in std::mem::take(&mut self.window) {
            let slots = base(wanted.page.as_ref());
            let left = (0..=u8::MAX).zip(slots.iter()).filter(|(block, _)| !wanted.kept.has(*block));
            let mut dropped = 0;
            for addr in left.filter_map(|(_, slot)| slot.addr()) {
                release(&mut self.freed, addr, wanted.wipe);
                dropped += 1;
            }
            state.counts.add(wanted.chunk.layer, -dropped);
            state.counts.remove_page();
            self.freed_pages.push(wanted.old.addr());
        }
    }

    /// Writes a window of changed leaves; false when there are no more.
    fn write_leaves(&mut self, cx: &mut CheckpointContext<'_>) -> Result<bool, StoreError> {
        let mut dirty = Vec::with_capacity(WINDOW_PAGES);
        while self.next_leaf < self.snapshot.len() && dirty.len() < WINDOW_PAGES {
            if self.snapshot[self.next_leaf].stored.is_none() {
                dirty.push(self.next_leaf);
            }
            self.next_leaf += 1;
        }
        if dirty.is_empty() {
            return Ok(false);
        }
        let runs = cx.space.allocate_pages(dirty.len())?;
        let mut bytes = aligned_payload(dirty.len() * PAGE_BYTES);
        bytes.resize(dirty.len() * PAGE_BYTES, 0);
        let addrs = runs.iter().flat_map(|run| run.blocks());
        for ((leaf, addr), page) in dirty.into_iter().zip(addrs).zip(bytes.chunks_exact_mut(PAGE_BYTES)) {
            let leaf = &mut self.snapshot[leaf];
            let entries = leaf.updated.iter().map(|e| (*e).into());
            let crc = directory_page::encode(leaf.pg, self.number, entries, cx.identity, page);
            leaf.stored = Some(Stored { addr, crc });
        }
        self.write(cx, &runs, bytes);
        Ok(true)
    }

    fn write_chain(&mut self, cx: &mut CheckpointContext<'_>) -> Result<(), StoreError> {
        let leaves: Vec<LeafRef> = self
            .snapshot
            .iter()
            .map(|s| (s.pg, s.stored.expect("all leaves are written")))
            .map(|(pg, Stored { addr, crc })| LeafRef { pg, addr, crc })
            .collect();
        let mut body = std::mem::take(&mut self.body);
        put_leaves(&mut body, &leaves);
        let pages = body.len().div_ceil(PAYLOAD_BYTES);
        let runs = cx.space.allocate_pages(pages)?;
        self.chain = runs.iter().flat_map(|run| run.blocks()).collect();
        let mut bytes = aligned_payload(pages * PAGE_BYTES);
        bytes.resize(pages * PAGE_BYTES, 0);
        for (i, payload) in body.chunks(PAYLOAD_BYTES).enumerate() {
            let page = ChainPage {
                checkpoint: self.number,
                number: i as u32,
                used: payload.len() as u32,
                next: self.chain.get(i + 1).copied().unwrap_or(BlockAddr::NONE),
            };
            page.encode(payload, cx.identity, &mut bytes[i * PAGE_BYTES..(i + 1) * PAGE_BYTES]);
        }
        self.write(cx, &runs, bytes);
        Ok(())
    }

    fn write(&mut self, cx: &mut CheckpointContext<'_>, runs: &[Run], bytes: BytesMut) {
        let bytes = bytes.freeze();
        let mut at = 0;
        let mut data = Vec::with_capacity(runs.len());
        for run in runs {
            let end = at + run.bytes() as usize;
            data.push((*run, bytes.slice(at..end)));
            at = end;
        }
        for op in data_writes(data) {
            self.writes += 1;
            cx.device.start(Purpose::CheckpointWrite, op);
        }
    }

    /// The superblock is durable: tells the live state where things are now; returns the new root and what may be freed.
    pub(super) fn finish(self, state: &mut State, cache: &mut PageCache, old: &Root) -> (Root, Vec<FreedRun>) {
        let generation = state.generation;
        let mut freed = self.freed;
        let mut leaves = Vec::with_capacity(self.snapshot.len());
        for leaf in self.snapshot {
            let stored = leaf.stored.expect("all leaves are written");
            leaves.push(stored.addr);
            let mem = state.pgs.get_mut(&leaf.pg).expect("a PG is never forgotten");
            let live = mem.directory.leaf_of_mut(leaf.original[0].chunk());
            match live {
                Some(live) if Arc::ptr_eq(&live.entries, &leaf.original) => {
                    *live = Leaf { entries: leaf.updated, stored: Some(stored) };
                }
                _ => {
                    for (before, now) in leaf.original.iter().zip(leaf.updated.iter()).filter(|(b, n)| b != n) {
                        adopt_pages(state, leaf.pg, generation, before, now);
                    }
                }
            }
        }
        for mem in state.pgs.values_mut() {
            mem.frozen.clear();
            assert!(mem.moved_away.is_empty(), "what was moved out of a new page was taken up with it");
        }
        state.is_merging = false;
        state.counts.reservation.checkpoint_ends();
        state.wiped_layers.checkpoint_ends();
        leaves.sort_unstable();
        // Nothing in them is of a client.
        let own = |addr: BlockAddr| FreedRun { run: Run::one(addr), wipe: false };
        freed.extend(old.leaves.iter().filter(|a| leaves.binary_search(a).is_err()).map(|a| own(*a)));
        freed.extend(old.chain.iter().map(|a| own(*a)));
        for page in self.freed_pages {
            cache.remove(page);
            freed.push(own(page));
        }
        (Root { leaves, chain: self.chain }, freed)
    }
}

/// What a page said; nothing where there was none.
fn base(page: Option<&CachedPage>) -> Box<[Slot; SLOTS]> {
    let mut slots = Box::new([Slot::Never; SLOTS]);
    match page {
        None => {}
        Some(CachedPage::Damaged) => slots.fill(Slot::Lost),
        Some(CachedPage::Good(bytes)) => {
            for (i, slot) in slots.iter_mut().enumerate() {
                *slot = slot_of(bytes, i);
            }
        }
    }
    slots
}

/// The merged pages of a chunk whose leaf has changed since: the chunk takes them, or they are purged if it is gone.
fn adopt_pages(state: &mut State, pg: PgId, generation: u32, before: &Entry, now: &Entry) {
    let chunk = now.chunk();
    let mem = state.pgs.get_mut(&pg).expect("a PG is never forgotten");
    let lives = mem.directory.get(chunk).is_some_and(|e| !e.is_born_in(generation));
    for quarter in (0..now.pages.len()).filter(|q| before.pages[*q] != now.pages[*q]) {
        if lives {
            let entry = mem.directory.get_mut(chunk).expect("it lives");
            entry.pages[quarter] = now.pages[quarter];
            if now.is_lost() {
                entry.set_lost();
            }
        } else {
            let quarter = quarter as u8;
            let kept = mem.moved_away.remove(&(chunk, quarter)).unwrap_or_default();
            let wipe = state.wiped_layers.wipe_held(chunk.layer, SLOTS);
            state.purge.push(Purge { chunk, quarter, page: now.pages[usize::from(quarter)], kept, wipe });
        }
    }
}
