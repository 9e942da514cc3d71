//! Reads: of committed state, at one moment. The index pages are brought into memory first; then, at once, states and places are
//! taken for the whole range, and the data read and verified. A block that fails is reported as bad, never handed over.

use super::api::{ReadKind, ReadOutcome, StoreEvent, Token};
use super::cache::{CachedPage, PageCache};
use super::device::{Device, Purpose};
use super::log::DataUnderWay;
use super::state::{State, quarters};
use crate::format::index_page::{IndexPage, PagePlace, Slot, slot_of};
use crate::format::{BlockAddr, Identity, PAGE_BYTES};
use crate::{DiskOp, DiskResult};
use ashlar_types::{BLOCK_BYTES, BlockIndex, BlockRange, ChunkId, Crc, PgId, Version};
use ashlar_wire::{BlockState, Change};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// Neighbouring blocks are read together up to this many.
const BLOCKS_PER_READ_MAX: u16 = 256;

#[derive(Debug)]
struct ReadOp {
    token: Token,
    pg: PgId,
    kind: ReadKind,
    outcome: ReadOutcome,
    /// Pages brought in for it, kept until it has all.
    pages: Vec<(BlockAddr, CachedPage)>,
    outstanding: u32,
}

#[derive(Debug, Default)]
pub(super) struct Reads {
    active: BTreeMap<u64, ReadOp>,
    /// Reads that wait for a page.
    loading: BTreeMap<BlockAddr, Vec<u64>>,
    next: u64,
}

/// The parts of the store that reads use.
pub(super) struct ReadContext<'a> {
    pub identity: Identity,
    pub state: &'a mut State,
    pub cache: &'a mut PageCache,
    pub device: &'a mut Device,
    pub events: &'a mut VecDeque<StoreEvent>,
    pub under_way: &'a DataUnderWay,
}

impl Reads {
    /// The number that the next read will have.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// All reads with lower numbers have ended.
    pub(super) fn oldest(&self) -> u64 {
        self.active.first_key_value().map_or(self.next, |(number, _)| *number)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.active.is_empty()
    }

    pub(super) fn start(
        &mut self,
        cx: &mut ReadContext<'_>,
        token: Token,
        pg: PgId,
        chunk: ChunkId,
        range: BlockRange,
        kind: ReadKind,
    ) {
        let outcome = ReadOutcome {
            chunk,
            range,
            committed: Version::NONE,
            states: Vec::new(),
            data: Vec::new(),
            bad: Vec::new(),
        };
        let number = self.next;
        self.next += 1;
        self.active.insert(number, ReadOp { token, pg, kind, outcome, pages: Vec::new(), outstanding: 0 });
        self.resolve_when_ready(cx, number);
    }

    /// Goes on if every page is at hand; else asks for those that are not.
    fn resolve_when_ready(&mut self, cx: &mut ReadContext<'_>, number: u64) {
        let op = self.active.get_mut(&number).expect("an active read");
        let (chunk, pg) = (op.outcome.chunk, op.pg);
        let mut missing = 0;
        let pages = quarters(op.outcome.range).filter(|_| !matches!(op.kind, ReadKind::Prepared(_)));
        for (quarter, _, _) in pages {
            let Some(page) = cx.state.view(pg, chunk, quarter).map(|v| v.page).filter(|p| !p.is_none()) else {
                continue;
            };
            if op.pages.iter().any(|(addr, _)| *addr == page.addr()) {
                continue;
            }
            if let Some(cached) = cx.cache.get(page.addr()) {
                op.pages.push((page.addr(), cached));
                continue;
            }
            missing += 1;
            let waiting = self.loading.entry(page.addr()).or_default();
            waiting.push(number);
            if waiting.len() == 1 {
                let place = PagePlace { chunk, quarter, checkpoint: page.checkpoint() };
                let read = DiskOp::Read { at: page.addr().byte_offset(), len: PAGE_BYTES as u32 };
                cx.device.start(Purpose::Page { pg, addr: page.addr(), place }, read);
            }
        }
        op.outstanding = missing;
        if missing == 0 {
            self.resolve(cx, number);
        }
    }

    /// A page has come.
    pub(super) fn on_page(
        &mut self,
        cx: &mut ReadContext<'_>,
        pg: PgId,
        addr: BlockAddr,
        place: PagePlace,
        result: DiskResult,
    ) {
        let page = check_page(result, cx.identity, place);
        if page == CachedPage::Damaged {
            cx.device.stats.bad_pages += 1;
            let mem = cx.state.pg_mut(pg);
            if mem.directory.get(place.chunk).is_some_and(|e| e.pages[usize::from(place.quarter)].addr() == addr) {
                mem.directory.get_mut(place.chunk).expect("it was just found").set_lost();
            }
        }
        cx.cache.insert(addr, page.clone());
        for number in self.loading.remove(&addr).unwrap_or_default() {
            let op = self.active.get_mut(&number).expect("a read that waits is active");
            op.pages.push((addr, page.clone()));
            op.outstanding -= 1;
            if op.outstanding == 0 {
                self.resolve_when_ready(cx, number);
            }
        }
    }

    /// Takes states and places of all blocks at this moment, and starts reading.
    fn resolve(&mut self, cx: &mut ReadContext<'_>, number: u64) {
        let op = self.active.get_mut(&number).expect("an active read");
        let outcome = &mut op.outcome;
        outcome.committed = cx.state.versions(op.pg, outcome.chunk).committed;
        let count = usize::from(outcome.range.count());
        let addrs = match op.kind {
            ReadKind::Prepared(version) => prepared_states(cx.state, op.pg, version, outcome),
            ReadKind::Data | ReadKind::States | ReadKind::Verify => {
                committed_states(cx.state, op.pg, &op.pages, outcome)
            }
        };
        op.pages = Vec::new();
        match op.kind {
            ReadKind::Data | ReadKind::Prepared(_) => op.outcome.data = vec![Bytes::new(); count],
            ReadKind::States | ReadKind::Verify => {}
        }
        if op.kind != ReadKind::States {
            let mut addrs = addrs;
            for (at, place) in addrs.iter_mut().enumerate() {
                let Some(bytes) = place.and_then(|addr| cx.under_way.get(addr)) else { continue };
                *place = None;
                if let Some(data) = op.outcome.data.get_mut(at) {
                    *data = bytes;
                }
            }
            for (first, count, at) in runs_to_read(&addrs) {
                op.outstanding += 1;
                let read = DiskOp::Read { at: at.byte_offset(), len: u32::from(count) * BLOCK_BYTES };
                cx.device.start(Purpose::Data { read: number, first, count }, read);
            }
        }
        self.finish_when_done(cx, number);
    }

    pub(super) fn on_data(
        &mut self,
        cx: &mut ReadContext<'_>,
        number: u64,
        first: u16,
        count: u16,
        result: DiskResult,
    ) {
        let op = self.active.get_mut(&number).expect("a read under way is active");
        op.outstanding -= 1;
        let bytes = result.ok().filter(|b| b.len() == usize::from(count) * BLOCK_BYTES as usize);
        for i in 0..count {
            let at = usize::from(first + i);
            let expected = op.outcome.states[at].crc.expect("only present blocks are read");
            let from = usize::from(i) * BLOCK_BYTES as usize;
            let block = bytes.as_ref().map(|b| b.slice(from..from + BLOCK_BYTES as usize));
            match block.filter(|b| Crc::of(b) == expected) {
                Some(_) if op.outcome.data.is_empty() => {}
                Some(good) => op.outcome.data[at] = good,
                None => op.outcome.bad.push(BlockIndex(op.outcome.range.first().0 + first + i)),
            }
        }
        self.finish_when_done(cx, number);
    }

    fn finish_when_done(&mut self, cx: &mut ReadContext<'_>, number: u64) {
        if self.active[&number].outstanding > 0 {
            return;
        }
        let mut op = self.active.remove(&number).expect("it was just looked at");
        op.outcome.bad.sort_unstable();
        cx.device.stats.bad_blocks += op.outcome.bad.len() as u64;
        cx.events.push_back(StoreEvent::Read(op.token, op.outcome));
    }
}

/// Fills in the states of a range and says where its blocks are.
fn committed_states(
    state: &State,
    pg: PgId,
    pages: &[(BlockAddr, CachedPage)],
    outcome: &mut ReadOutcome,
) -> Vec<Option<BlockAddr>> {
    let mut addrs = Vec::with_capacity(outcome.range.count().into());
    for (quarter, first, blocks) in quarters(outcome.range) {
        let view = state.view(pg, outcome.chunk, quarter);
        let page = view.and_then(|v| pages.iter().find(|(addr, _)| *addr == v.page.addr()));
        for block in u16::from(first)..u16::from(first) + blocks {
            let slot = match view {
                None => Slot::Never,
                Some(view) => view.get(block as u8).unwrap_or_else(|| match page {
                    None => Slot::Never,
                    Some((_, CachedPage::Good(bytes))) => slot_of(bytes, usize::from(block)),
                    Some((_, CachedPage::Damaged)) => Slot::Lost,
                }),
            };
            if slot == Slot::Lost {
                outcome.bad.push(BlockIndex(outcome.range.first().0 + addrs.len() as u16));
            }
            addrs.push(slot.addr());
            outcome.states.push(match slot {
                Slot::Never | Slot::Lost => BlockState::default(),
                Slot::Absent { stamp } => BlockState { stamp, crc: None },
                Slot::Present { crc, stamp, .. } => BlockState { stamp, crc: Some(crc) },
            });
        }
    }
    addrs
}

/// The same for a prepared write; all bad if it is not there.
fn prepared_states(state: &State, pg: PgId, version: Version, outcome: &mut ReadOutcome) -> Vec<Option<BlockAddr>> {
    let entry = state.pgs.get(&pg).and_then(|m| m.prepared.get(&(outcome.chunk, version)));
    match entry.map(|e| (&e.public.write.change, &e.runs)) {
        Some((Change::Write { range, crcs }, runs)) if *range == outcome.range => {
            outcome.states.extend(crcs.iter().map(|crc| BlockState { stamp: version, crc: Some(*crc) }));
            runs.iter().flat_map(|run| run.blocks()).map(Some).collect()
        }
        // A merge has no data of its own.
        Some((Change::Zero { range }, _)) if *range == outcome.range => {
            outcome.states = vec![BlockState { stamp: version, crc: None }; range.count().into()];
            vec![None; range.count().into()]
        }
        _ => {
            outcome.states = vec![BlockState::default(); outcome.range.count().into()];
            outcome.bad = outcome.range.iter().collect();
            vec![None; outcome.range.count().into()]
        }
    }
}

/// What was read from a page's place, checked.
pub(super) fn check_page(result: DiskResult, identity: Identity, place: PagePlace) -> CachedPage {
    match result {
        Ok(bytes) if IndexPage::decode(&bytes, identity, place).is_ok() => CachedPage::Good(bytes.slice(..PAGE_BYTES)),
        _ => CachedPage::Damaged,
    }
}

/// Neighbours in the range that are neighbours on disk: first, count, where.
fn runs_to_read(addrs: &[Option<BlockAddr>]) -> Vec<(u16, u16, BlockAddr)> {
    let mut runs: Vec<(u16, u16, BlockAddr)> = Vec::new();
    for (i, addr) in addrs.iter().enumerate() {
        let Some(addr) = addr else { continue };
        match runs.last_mut() {
            Some((first, count, at))
                if usize::from(*first + *count) == i
                    && at.0 + u64::from(*count) == addr.0
                    && *count < BLOCKS_PER_READ_MAX =>
            {
                *count += 1;
            }
            _ => runs.push((i as u16, 1, *addr)),
        }
    }
    runs
}
