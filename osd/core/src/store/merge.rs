//! Merges: a chunk of a frozen layer is taken over by the chunk of the layer above it. Its index entries move; its data stays where it is.
//! S4 (state.rs). What replay must know of the entries stands in the record of the prepare, so that it reads no pages: whoever submits a merge
//! waits for the pages of both chunks first ([`gather`]).
//!
//! Who owns a block afterwards: what the chunk below had in a delta is in the upper one's delta, and was named by the log only; what it had in a
//! page is *borrowed*: the page may be part of what the last superblock leads to, so the block is not used again before a checkpoint without
//! it is durable (K1), and the checkpoint that purges the page leaves the block alone. What the upper chunk hides is freed as if the lower one had been
//! dropped. Why so: docs/decisions/027-merging-layers.md.

use super::api::{MergeRefusal, Token};
use super::cache::{CachedPage, PageCache};
use super::delta::{BlockSet, Delta};
use super::device::{Device, Purpose};
use super::read::check_page;
use super::running::Running;
use super::state::{PgMem, PreparedEntry, Purge, QuarterView, State};
use super::submit::{SubmitContext, added};
use crate::format::directory_page::PageRef;
use crate::format::index_page::{PagePlace, QUARTERS, SLOTS, Slot, slot_of};
use crate::format::log_record;
use crate::format::moved::MovedBlock;
use crate::format::{BlockAddr, Identity, PAGE_BYTES};
use crate::{DiskOp, DiskResult};
use ashlar_types::{BlockIndex, ChunkId, Crc, PgId, Version};
use ashlar_wire::{Change, WriteMeta};

/// A prepare of a merge that waits for index pages, or for room.
#[derive(Debug)]
pub(super) struct WaitingMerge {
    token: Token,
    pg: PgId,
    write: WriteMeta,
    /// What was brought in for it, or was in the cache, until it has all.
    pages: Vec<(PageRef, CachedPage)>,
    outstanding: u32,
}

/// What is to be moved, if all pages are here.
enum Gathered {
    Moved(Vec<MovedBlock>),
    Missing,
    /// What an index page said of a block is lost.
    Lost,
}

impl WaitingMerge {
    pub(super) fn new(token: Token, pg: PgId, write: WriteMeta) -> WaitingMerge {
        WaitingMerge { token, pg, write, pages: Vec::new(), outstanding: 0 }
    }

    pub(super) fn token(&self) -> Token {
        self.token
    }

    pub(super) fn is_of(&self, pg: PgId, chunk: ChunkId, version: Version) -> bool {
        self.pg == pg && self.write.chunk == chunk && self.write.version == version
    }

    pub(super) fn on_page(&mut self, identity: Identity, page: PageRef, place: PagePlace, result: DiskResult) {
        self.pages.push((page, check_page(result, identity, place)));
        self.outstanding -= 1;
    }

    /// The page, if it is here; else it is asked for.
    fn page(
        &mut self,
        cache: &mut PageCache,
        device: &mut Device,
        chunk: ChunkId,
        quarter: u8,
        page: PageRef,
    ) -> Option<CachedPage> {
        if let Some((_, known)) = self.pages.iter().find(|(at, _)| *at == page) {
            return Some(known.clone());
        }
        if let Some(cached) = cache.get(page.addr()) {
            self.pages.push((page, cached.clone()));
            return Some(cached);
        }
        self.outstanding += 1;
        let place = PagePlace { chunk, quarter, checkpoint: page.checkpoint() };
        let read = DiskOp::Read { at: page.addr().byte_offset(), len: PAGE_BYTES as u32 };
        device.start(Purpose::MergePage { token: self.token, page, place }, read);
        None
    }

    /// Compares both chunks at this moment.
    fn gather(&mut self, state: &mut State, cache: &mut PageCache, device: &mut Device) -> Gathered {
        let (pg, upper) = (self.pg, self.write.chunk);
        let below = self.write.merged_chunk().expect("only merges wait here");
        let mut moved = Vec::new();
        let mut lost = Vec::new();
        for quarter in 0..QUARTERS as u8 {
            let Some(lower_view) = state.view(pg, below, quarter).filter(|view| !view.is_empty()) else { continue };
            let upper_view = state.view(pg, upper, quarter);
            let mut page_of = |chunk, view: &QuarterView<'_>| match view.page.is_none() {
                true => Some(None),
                false => self.page(cache, device, chunk, quarter, view.page).map(Some),
            };
            let lower_page = page_of(below, &lower_view);
            let upper_page = upper_view.as_ref().map_or(Some(None), |view| page_of(upper, view));
            let (Some(lower_page), Some(upper_page)) = (lower_page, upper_page) else { continue };
            for (chunk, page) in [(below, &lower_page), (upper, &upper_page)] {
                if *page == Some(CachedPage::Damaged) {
                    lost.push(chunk);
                }
            }
            for slot in 0..SLOTS {
                let block = BlockIndex((usize::from(quarter) * SLOTS + slot) as u16);
                let above = upper_view.map_or(Slot::Never, |view| known(&view, upper_page.as_ref(), slot));
                // What is prepared above stands before the merge in the chain: it hides the block as if it were committed.
                let is_hidden = || state.pgs[&pg].writes_to(upper, block);
                let data = match (known(&lower_view, lower_page.as_ref(), slot), above) {
                    (Slot::Never, _) | (_, Slot::Present { .. } | Slot::Absent { .. }) => continue,
                    (_, Slot::Never) if is_hidden() => continue,
                    (Slot::Present { addr, crc, .. }, Slot::Never) => Some((addr, crc)),
                    (Slot::Absent { .. }, Slot::Never) => None,
                    (Slot::Lost, _) | (_, Slot::Lost) => return Gathered::Lost,
                };
                moved.push(MovedBlock { block, data });
            }
        }
        for chunk in lost {
            device.stats.bad_pages += 1;
            state.pg_mut(pg).directory.get_mut(chunk).into_iter().for_each(super::directory::Entry::set_lost);
        }
        if self.outstanding > 0 { Gathered::Missing } else { Gathered::Moved(moved) }
    }
}

/// What is known of one block of a quarter.
fn known(view: &QuarterView<'_>, page: Option<&CachedPage>, slot: usize) -> Slot {
    view.get(slot as u8).unwrap_or_else(|| match page {
        None => Slot::Never,
        Some(CachedPage::Good(bytes)) => slot_of(bytes, slot),
        Some(CachedPage::Damaged) => Slot::Lost,
    })
}

/// Goes on with a merge if it has nothing to wait for.
pub(super) fn advance(cx: &mut SubmitContext<'_>, mut waiting: WaitingMerge) {
    if waiting.outstanding > 0 {
        return cx.running.merges.push(waiting);
    }
    let (pg, token) = (waiting.pg, waiting.token);
    if !cx.state.merge_fits(pg, &waiting.write) {
        return cx.running.refused_merges.push((token, MergeRefusal::Mismatch));
    }
    match waiting.gather(cx.state, cx.cache, cx.device) {
        Gathered::Missing => cx.running.merges.push(waiting),
        Gathered::Lost => cx.running.refused_merges.push((token, MergeRefusal::Lost)),
        Gathered::Moved(_) if !has_room(cx.running, cx.state) => cx.running.merges.push(waiting),
        Gathered::Moved(moved) => {
            log_record::encode_prepare_merge(&mut cx.running.log.open_batch().bytes, pg, &waiting.write, &moved);
            cx.state.prepare(pg, waiting.write, Vec::new(), moved, true);
            added(cx, Some(token));
        }
    }
}

/// A merge takes no credit, for it gives at least as many pages back as it makes due; but only when the checkpoint has ended. Until then they come
/// out of what is free anyway, or like those of a zero out of half of the reserve.
fn has_room(running: &Running, state: &State) -> bool {
    let pages = QUARTERS as u64;
    running.space(state).free >= running.space.reserve() + pages || running.has_reserve_for(pages, state)
}

/// Goes on with merges whose pages have come.
pub(super) fn retry_merges(cx: &mut SubmitContext<'_>) {
    for waiting in std::mem::take(&mut cx.running.merges) {
        advance(cx, waiting);
    }
}

/// What was asked for in an older epoch or before a join is not done later (R3, R4).
pub(super) fn cancel_merges(running: &mut Running, pg: PgId) {
    let (cancelled, others) = std::mem::take(&mut running.merges).into_iter().partition(|m| m.pg == pg);
    running.merges = others;
    let cancelled: Vec<WaitingMerge> = cancelled;
    running.refused_merges.extend(cancelled.into_iter().map(|m| (m.token, MergeRefusal::Cancelled)));
}

impl PgMem {
    pub(super) fn insert_prepared(&mut self, entry: PreparedEntry) {
        let write = &entry.public.write;
        let key = (write.chunk, write.version);
        if let Some(below) = write.merged_chunk() {
            self.merges.insert(below, key);
        }
        self.prepared.insert(key, entry);
    }

    pub(super) fn remove_prepared(&mut self, key: &(ChunkId, Version)) -> Option<PreparedEntry> {
        let entry = self.prepared.remove(key)?;
        if let Some(below) = entry.public.write.merged_chunk() {
            self.merges.remove(&below);
        }
        Some(entry)
    }

    /// Whether a prepared write of the chunk changes this block.
    fn writes_to(&self, chunk: ChunkId, block: BlockIndex) -> bool {
        let range = (chunk, Version::NONE)..=(chunk, Version::from_bits(u64::MAX));
        self.prepared.range(range).any(|(_, entry)| match &entry.public.write.change {
            Change::Merge { .. } => entry.moved.binary_search_by_key(&block, |m| m.block).is_ok(),
            change => change.range().contains(block),
        })
    }

    /// S4: a block of the chunk below has a new place.
    pub(super) fn repair_moved(&mut self, below: ChunkId, block: BlockIndex, at: BlockAddr, crc: Crc) {
        let Some(entry) = self.merges.get(&below).and_then(|key| self.prepared.get_mut(key)) else { return };
        if let Ok(nth) = entry.moved.binary_search_by_key(&block, |m| m.block) {
            entry.moved[nth].data = Some((at, crc));
        }
    }
}

impl State {
    /// Whether a merge's predecessor is the chunk's newest version, and the chunk below is the one that is meant, with nothing undecided and
    /// no other merge of it prepared.
    pub(super) fn merge_fits(&self, pg: PgId, write: &WriteMeta) -> bool {
        let (Change::Merge { from, at }, Some(below)) = (&write.change, write.merged_chunk()) else { return false };
        let lower = self.versions(pg, below);
        let is_taken = self.pgs.get(&pg).is_some_and(|mem| mem.merges.contains_key(&below));
        self.versions(pg, write.chunk).newest == write.prev
            && write.version > write.prev
            && *from < write.chunk.layer
            && !is_taken
            && (lower.committed, lower.newest) == (*at, *at)
    }

    /// S4: the chunk below becomes another one.
    pub(super) fn take_back_merge_of(&mut self, pg: PgId, below: ChunkId) {
        let mem = self.pg_mut(pg);
        let Some(key) = mem.merges.get(&below) else { return };
        let write = &mem.prepared.get(key).expect("S4").public.write;
        let (chunk, prev) = (write.chunk, write.prev);
        self.roll_back(pg, chunk, prev, false);
    }

    /// Commits a merge: what it moves is the upper chunk's, the rest of the chunk below is dropped.
    pub(super) fn merge(&mut self, pg: PgId, write: &WriteMeta, moved: &[MovedBlock]) {
        let (upper, stamp) = (write.chunk, write.version);
        let below = write.merged_chunk().expect("the caller looked");
        let (is_merging, generation) = (self.is_merging, self.generation);
        self.resolved.forget(pg, upper);
        self.resolved.forget(pg, below);
        let mem = self.pgs.entry(pg).or_default();
        // R10: who repeats a write that came into the chunk below is to hear that it is done.
        for at in mem.state.sessions.values_mut().flat_map(|session| session.writes.values_mut()) {
            if at.0 == below {
                *at = (upper, stamp);
            }
        }
        let Some(entry) = mem.directory.remove(below) else { return };
        let has_frozen = is_merging && !entry.is_born_in(generation);
        let wipe = self.wiped_layers.has(below.layer) || self.wiped_layers.has(upper.layer);
        for (quarter, page) in (0..).zip(entry.pages) {
            let is_here = |m: &&MovedBlock| usize::from(m.block.0) / SLOTS == usize::from(quarter);
            let lower = mem.active.remove(&(below, quarter));
            self.active_pages -= usize::from(lower.is_some());
            self.counts.add(below.layer, -i64::from(lower.as_ref().map_or(0, Delta::present)));
            let (mut taken, mut kept) = (BlockSet::default(), BlockSet::default());
            for moved in moved.iter().filter(is_here) {
                let block = (usize::from(moved.block.0) % SLOTS) as u8;
                taken.insert(block);
                let is_borrowed = match lower.as_ref().filter(|delta| delta.has(block)) {
                    Some(delta) => delta.is_borrowed(block),
                    None => {
                        kept.insert(block);
                        self.counts.add(below.layer, -i64::from(moved.data.is_some()));
                        true
                    }
                };
                let slot = match moved.data {
                    Some((addr, crc)) => Slot::Present { addr, crc, stamp },
                    None => Slot::Absent { stamp },
                };
                let delta = mem.active.entry((upper, quarter)).or_insert_with(|| {
                    self.active_pages += 1;
                    Delta::default()
                });
                let before = delta.present();
                delta.take_over(block, slot, is_borrowed, &mut self.freed, wipe);
                self.counts.add(upper.layer, i64::from(delta.present()) - i64::from(before));
            }
            if let Some(delta) = lower {
                delta.iter().filter(|(b, _)| !taken.has(*b)).for_each(|(b, s)| delta.free(b, s, &mut self.freed, wipe));
            }
            // As in `drop_chunk`: what is being merged into a page now is purged with that.
            if has_frozen && mem.frozen.contains_key(&(below, quarter)) {
                mem.moved_away.insert((below, quarter), kept);
            } else if !page.is_none() {
                self.wiped_layers.wipe_held(below.layer, SLOTS);
                self.purge.push(Purge { chunk: below, quarter, page, kept, wipe });
            }
        }
    }

    pub(super) fn assert_merges(&self, pg: PgId, mem: &PgMem) {
        let merges = mem.prepared.iter().filter_map(|(key, p)| Some((p.public.write.merged_chunk()?, *key)));
        assert!(merges.clone().count() == mem.merges.len(), "S4: {pg}");
        merges.for_each(|(below, key)| assert!(mem.merges.get(&below) == Some(&key), "S4: {below} of {pg}"));
        for (below, key) in &mem.merges {
            for moved in &mem.prepared[key].moved {
                let (quarter, block) = (usize::from(moved.block.0) / SLOTS, usize::from(moved.block.0) % SLOTS);
                let slot = |chunk| self.view(pg, chunk, quarter as u8).and_then(|view| view.get(block as u8));
                let addr = moved.data.map(|(addr, _)| addr);
                assert!(slot(*below).is_none_or(|s| s.addr() == addr), "S4: {below} of {pg}");
                assert!(slot(key.0).is_none_or(|s| s == Slot::Never), "S4: {} of {pg}", key.0);
            }
        }
    }
}
