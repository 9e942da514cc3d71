//! State: what the records say, applied in order. The running store and replay after a crash use the same functions, so they agree.
//! S1: a block of data is in exactly one place: a prepared write, an active delta, a frozen delta, or an index page (where a newer delta
//! may lie over it). S2: a chunk with deltas or prepared writes has a directory entry. S3: prepared writes of a chunk form a chain (R9).
//! S4: what a prepared merge moves belongs to the chunk below until it commits, and is there as the merge says; whatever else changes that chunk
//! takes the merge back. Merges: merge.rs.
//! Blocks whose last mention went away are put into `released`; who freed them decides when they may be used again.

use super::api::{ChunkVersions, PgState, PreparedWrite, SessionState};
use super::counts::Counts;
use super::delta::FreedRun;
use super::delta::{BlockSet, Delta, Deltas, Freed};
use super::directory::{Directory, Entry};
use super::resolved::Resolved;
use super::wiped_layers::WipedLayers;
use crate::format::directory_page::PageRef;
use crate::format::index_page::{QUARTERS, SLOTS, Slot};
use crate::format::log_record::Record;
use crate::format::moved::MovedBlock;
use crate::format::{BlockAddr, FormatError, Run};
use ashlar_types::view::Fences;
use ashlar_types::{BlockIndex, BlockRange, ChunkId, Crc, LayerId, OpNumber, PgId, SessionId, Version};
use ashlar_wire::{Change, JoinMeta, PushedBlock, RetryId, WriteMeta};
use std::collections::BTreeMap;

/// An index page whose chunk is gone: the next checkpoint reads it to learn which blocks it frees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Purge {
    pub chunk: ChunkId,
    pub quarter: u8,
    pub page: PageRef,
    /// Those of its blocks that a merge has moved away.
    pub kept: BlockSet,
    /// Whether the others are wiped when they are free.
    pub wipe: bool,
}

#[derive(Debug)]
pub(super) struct PreparedEntry {
    pub public: PreparedWrite,
    pub runs: Vec<Run>,
    /// What a merge moves.
    pub moved: Vec<MovedBlock>,
}

#[derive(Debug, Default)]
pub(super) struct PgMem {
    pub state: PgState,
    pub directory: Directory,
    pub prepared: BTreeMap<(ChunkId, Version), PreparedEntry>,
    /// Changes since the beginning of the last checkpoint.
    pub active: Deltas,
    /// Changes that the running checkpoint is merging into pages.
    pub frozen: Deltas,
    /// By the chunk below: the prepared merge that takes it over.
    pub merges: BTreeMap<ChunkId, (ChunkId, Version)>,
    /// Of quarters in `frozen` whose chunk was merged away: the blocks that were moved.
    pub moved_away: BTreeMap<(ChunkId, u8), BlockSet>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub pgs: BTreeMap<PgId, PgMem>,
    /// Something durable was lost (see `MountReport::damaged`).
    pub damaged: bool,
    pub freed: Freed,
    pub purge: Vec<Purge>,
    /// Rises with each checkpoint begun in this process.
    pub generation: u32,
    /// Whether a checkpoint is running, so that frozen deltas count.
    pub is_merging: bool,
    /// Blocks that the next checkpoint may free, at most.
    pub reclaimable: u64,
    /// Blocks that were zeroed since the last checkpoint began.
    pub zeroed: u64,
    pub active_pages: usize,
    /// Quarters that prepared writes may add to those, each write by itself.
    pub prepared_pages: usize,
    /// Plant `FORGOTTEN_RETRY_ID`.
    pub retry_ids_max: Option<usize>,
    pub counts: Counts,
    /// Somebody lacks space that a checkpoint may give back.
    pub is_space_wanted: bool,
    pub resolved: Resolved,
    pub wiped_layers: WipedLayers,
}

/// Where to look for the state of a quarter of a chunk, newest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct QuarterView<'a> {
    pub active: Option<&'a Delta>,
    pub frozen: Option<&'a Delta>,
    pub page: PageRef,
}

impl QuarterView<'_> {
    /// Nothing of this quarter was ever written, discarded or pushed.
    pub(super) fn is_empty(&self) -> bool {
        self.active.is_none() && self.frozen.is_none() && self.page.is_none()
    }

    /// `None`: ask the page.
    pub(super) fn get(&self, block: u8) -> Option<Slot> {
        self.active.and_then(|d| d.get(block)).or_else(|| self.frozen.and_then(|d| d.get(block)))
    }
}

/// The blocks of a range by quarter: quarter, first slot in it, count.
pub(super) fn quarters(range: BlockRange) -> impl Iterator<Item = (u8, u8, u16)> {
    let mut at = range.first().0;
    std::iter::from_fn(move || {
        if at >= range.end() {
            return None;
        }
        let (quarter, slot) = (at / SLOTS as u16, at % SLOTS as u16);
        let count = (SLOTS as u16 - slot).min(range.end() - at);
        at += count;
        Some((quarter as u8, slot as u8, count))
    })
}

impl PgMem {
    pub(super) fn versions(&self, chunk: ChunkId) -> ChunkVersions {
        let committed = self.directory.get(chunk).map(|e| e.committed).unwrap_or_default();
        let last = self.prepared.range((chunk, Version::NONE)..=(chunk, Version::from_bits(u64::MAX))).next_back();
        ChunkVersions { committed, newest: last.map_or(committed, |((_, version), _)| *version) }
    }

    pub(super) fn prepared_of(&self, chunk: ChunkId) -> impl Iterator<Item = &PreparedWrite> {
        let range = (chunk, Version::NONE)..=(chunk, Version::from_bits(u64::MAX));
        self.prepared.range(range).map(|(_, p)| &p.public)
    }

    /// Whether a new delta of a quarter stands over a page, or over one that is being merged into a page.
    fn has_older(&self, chunk: ChunkId, quarter: u8) -> bool {
        let has_page = |entry: &Entry| !entry.pages[usize::from(quarter)].is_none();
        self.directory.get(chunk).is_some_and(has_page) || self.frozen.contains_key(&(chunk, quarter))
    }

    fn drop_ids_of(&mut self, chunk: ChunkId) {
        for session in self.state.sessions.values_mut() {
            session.writes.retain(|_, (of, _)| *of != chunk);
        }
    }

    fn forget_id(&mut self, write: &WriteMeta) {
        let Some(session) = self.state.sessions.get_mut(&write.op.session) else { return };
        if session.writes.get(&write.op.number) == Some(&(write.chunk, write.version)) {
            session.writes.remove(&write.op.number);
        }
    }

    fn remember_id(&mut self, id: &RetryId, ids_max: Option<usize>) {
        let session = self.state.sessions.entry(id.op.session).or_insert_with(|| SessionState {
            volume: id.volume,
            attachment: id.attachment,
            generation: id.generation,
            lowest_unanswered: OpNumber(0),
            writes: BTreeMap::new(),
        });
        if id.lowest_unanswered > session.lowest_unanswered {
            session.lowest_unanswered = id.lowest_unanswered;
            session.writes = session.writes.split_off(&id.lowest_unanswered);
        }
        if id.op.number >= session.lowest_unanswered {
            session.writes.insert(id.op.number, (id.chunk, id.version));
        }
        while ids_max.is_some_and(|max| session.writes.len() > max) {
            session.writes.pop_first();
        }
    }

    pub(super) fn retry_id(
        session: SessionId,
        state: &SessionState,
        number: OpNumber,
        at: (ChunkId, Version),
    ) -> RetryId {
        RetryId {
            op: ashlar_types::OpId { session, number },
            lowest_unanswered: state.lowest_unanswered,
            chunk: at.0,
            version: at.1,
            volume: state.volume,
            attachment: state.attachment,
            generation: state.generation,
        }
    }
}

impl State {
    pub(super) fn pg_mut(&mut self, pg: PgId) -> &mut PgMem {
        self.pgs.entry(pg).or_default()
    }

    pub(super) fn versions(&self, pg: PgId, chunk: ChunkId) -> ChunkVersions {
        self.pgs.get(&pg).map(|m| m.versions(chunk)).unwrap_or_default()
    }

    pub(super) fn view(&self, pg: PgId, chunk: ChunkId, quarter: u8) -> Option<QuarterView<'_>> {
        let mem = self.pgs.get(&pg)?;
        let entry = mem.directory.get(chunk)?;
        let is_frozen = self.is_merging && !entry.is_born_in(self.generation);
        Some(QuarterView {
            active: mem.active.get(&(chunk, quarter)),
            frozen: if is_frozen { mem.frozen.get(&(chunk, quarter)) } else { None },
            page: entry.pages[usize::from(quarter)],
        })
    }

    /// Whether anything was ever written in a quarter, or is about to be by a prepared write.
    fn is_touched(&self, pg: PgId, chunk: ChunkId, quarter: u8) -> bool {
        let slots = SLOTS as u16;
        let whole = BlockRange::new(BlockIndex(u16::from(quarter) * slots), slots).expect("a quarter of a chunk");
        let is_prepared = |mem: &PgMem| mem.prepared_of(chunk).any(|p| p.write.change.range().overlaps(whole));
        self.view(pg, chunk, quarter).is_some_and(|view| !view.is_empty()) || self.pgs.get(&pg).is_some_and(is_prepared)
    }

    /// The smallest part of a range in which anything was ever written, by whole quarters; `None`: nothing was.
    pub(super) fn touched(&self, pg: PgId, chunk: ChunkId, range: BlockRange) -> Option<BlockRange> {
        let mut touched = quarters(range).filter(|(quarter, ..)| self.is_touched(pg, chunk, *quarter));
        let (quarter, slot, count) = touched.next()?;
        let (last, last_slot, count) = touched.last().unwrap_or((quarter, slot, count));
        let at = |quarter: u8, slot: u16| u16::from(quarter) * SLOTS as u16 + slot;
        let (first, end) = (at(quarter, slot.into()), at(last, u16::from(last_slot) + count));
        BlockRange::new(BlockIndex(first), end - first)
    }

    pub(super) fn untouched_quarters(&self, pg: PgId, chunk: ChunkId, range: BlockRange) -> u64 {
        quarters(range).filter(|(quarter, ..)| !self.is_touched(pg, chunk, *quarter)).count() as u64
    }

    /// `moved`: of a merge.
    pub(super) fn prepare(
        &mut self,
        pg: PgId,
        write: WriteMeta,
        runs: Vec<Run>,
        moved: Vec<MovedBlock>,
        data_good: bool,
    ) {
        self.take_back_merge_of(pg, write.chunk);
        self.resolved.forget(pg, write.chunk);
        let (generation, ids_max) = (self.generation, self.retry_ids_max);
        let mem = self.pg_mut(pg);
        assert_eq!(mem.versions(write.chunk).newest, write.prev, "R9: {} of {}", write.version, write.chunk);
        assert!(write.version > write.prev, "R9: versions rise");
        mem.directory.entry(write.chunk, generation);
        let id = RetryId {
            op: write.op,
            lowest_unanswered: write.lowest_unanswered,
            chunk: write.chunk,
            version: write.version,
            volume: write.volume,
            attachment: write.attachment,
            generation: write.generation,
        };
        // Nobody asks for a merge, so nobody asks again.
        if !write.change.is_merge() {
            mem.remember_id(&id, ids_max);
        }
        let pages = pages_of(&write);
        mem.insert_prepared(PreparedEntry { public: PreparedWrite { write, data_good }, runs, moved });
        self.prepared_pages += pages;
    }

    pub(super) fn resolve(
        &mut self,
        pg: PgId,
        commit: &[(ChunkId, Version)],
        rollback: &[(ChunkId, Version)],
        rolled_back: &[(ChunkId, Version)],
    ) {
        for (chunk, upto) in commit {
            self.commit(pg, *chunk, *upto);
        }
        for (chunk, beyond) in rollback {
            self.roll_back(pg, *chunk, *beyond, true);
        }
        self.pg_mut(pg).state.rolled_back.extend(rolled_back.iter().copied());
    }

    fn commit(&mut self, pg: PgId, chunk: ChunkId, upto: Version) {
        let mut committed = None;
        loop {
            let mem = self.pgs.entry(pg).or_default();
            let range = (chunk, Version::NONE)..=(chunk, upto);
            let Some((&key, _)) = mem.prepared.range(range).next() else { break };
            let entry = mem.remove_prepared(&key).expect("it was just found");
            committed = Some(key.1);
            self.prepared_pages -= pages_of(&entry.public.write);
            let stamp = key.1;
            match &entry.public.write.change {
                Change::Write { range, crcs } => {
                    let addrs = entry.runs.iter().flat_map(|run| run.blocks());
                    let slots = addrs.zip(crcs).map(|(addr, crc)| Slot::Present { addr, crc: *crc, stamp });
                    self.set_slots(pg, chunk, *range, slots);
                }
                Change::Zero { range } => {
                    let slots = std::iter::repeat_n(Slot::Absent { stamp }, range.count().into());
                    self.set_slots(pg, chunk, *range, slots);
                    self.zeroed += u64::from(range.count());
                }
                Change::Merge { .. } => self.merge(pg, &entry.public.write, &entry.moved),
            }
        }
        if let Some(version) = committed {
            let mem = self.pg_mut(pg);
            mem.directory.get_mut(chunk).expect("S2").committed = version;
        }
    }

    /// Puts new states over the blocks of a range.
    fn set_slots(&mut self, pg: PgId, chunk: ChunkId, range: BlockRange, mut slots: impl Iterator<Item = Slot>) {
        self.resolved.forget(pg, chunk);
        let mem = self.pgs.entry(pg).or_default();
        let mut more = 0;
        let is_reserved = self.counts.reservation.has(chunk.layer);
        let wipe = self.wiped_layers.has(chunk.layer);
        for (quarter, first, count) in quarters(range) {
            if (is_reserved || wipe) && mem.has_older(chunk, quarter) {
                if is_reserved {
                    self.counts.reservation.add_doubles(count.into());
                }
                self.wiped_layers.wipe_held(chunk.layer, count.into());
            }
            let delta = mem.active.entry((chunk, quarter)).or_insert_with(|| {
                self.active_pages += 1;
                Delta::default()
            });
            self.reclaimable += u64::from(count);
            let before = delta.present();
            let set = delta.set(first, slots.by_ref().take(count.into()), &mut self.freed, wipe);
            assert_eq!(set, usize::from(count), "a state for each block");
            more += i64::from(delta.present()) - i64::from(before);
        }
        self.counts.add(chunk.layer, more);
    }

    pub(super) fn roll_back(&mut self, pg: PgId, chunk: ChunkId, beyond: Version, record: bool) {
        let wipe = self.wiped_layers.has(chunk.layer);
        let mem = self.pgs.entry(pg).or_default();
        loop {
            let range = (chunk, Version::NONE)..=(chunk, Version::from_bits(u64::MAX));
            let Some((&key, _)) = mem.prepared.range(range).next_back() else { break };
            if key.1 <= beyond {
                break;
            }
            let entry = mem.remove_prepared(&key).expect("it was just found");
            mem.forget_id(&entry.public.write);
            self.prepared_pages -= pages_of(&entry.public.write);
            self.freed.released.extend(entry.runs.into_iter().map(|run| FreedRun { run, wipe }));
            if record {
                mem.state.rolled_back.insert(key);
            }
        }
        if mem.versions(chunk) == ChunkVersions::default() && mem.directory.get(chunk).is_some() {
            mem.directory.remove(chunk);
        }
    }

    pub(super) fn raise_floor(&mut self, pg: PgId, raised: &Fences) {
        let state = &mut self.pg_mut(pg).state;
        let retired = raised.retired.beyond(&state.fences.retired);
        state.fences.raise(raised);
        let fences = &state.fences;
        state.sessions.retain(|_, s| !fences.fences(s.volume, s.attachment, s.generation));
        for (first, last) in retired.ranges() {
            let before = first
                .0
                .checked_sub(1)
                .map(|l| ChunkId { layer: LayerId(l), index: ashlar_types::ChunkIndex(u32::MAX) });
            let listed = self.pg_mut(pg).directory.iter_after(before).map(Entry::chunk);
            let chunks: Vec<ChunkId> = listed.take_while(|c| c.layer <= last).collect();
            for chunk in chunks {
                self.drop_chunk(pg, chunk);
            }
        }
    }

    /// Does not look at `Entry::is_lost`: that is found out at run time, so replay could not do the same (`Store::submit` drops those).
    pub(super) fn join(&mut self, pg: PgId, meta: &JoinMeta) {
        self.wiped_layers.join_begins();
        self.apply_join(pg, meta);
        self.wiped_layers.join_ends();
    }

    fn apply_join(&mut self, pg: PgId, meta: &JoinMeta) {
        self.raise_floor(pg, &meta.fences);
        let mem = self.pg_mut(pg);
        mem.state.rolled_back.extend(meta.rolled_back.iter().copied());
        let mut undecided: Vec<ChunkId> = mem.prepared.keys().map(|(chunk, _)| *chunk).collect();
        undecided.dedup();
        for chunk in undecided {
            self.roll_back(pg, chunk, Version::NONE, false);
        }
        for (chunk, version) in &meta.rolled_back {
            let mem = self.pg_mut(pg);
            if *version != Version::NONE && mem.directory.get(*chunk).is_some_and(|e| e.committed == *version) {
                self.drop_chunk(pg, *chunk);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one record")]
    pub(super) fn push(
        &mut self,
        pg: PgId,
        chunk: ChunkId,
        from: Version,
        to: Version,
        blocks: &[PushedBlock],
        ids: &[RetryId],
        runs: &[Run],
    ) {
        self.take_back_merge_of(pg, chunk);
        let (generation, ids_max) = (self.generation, self.retry_ids_max);
        let mem = self.pgs.entry(pg).or_default();
        let expected = ChunkVersions { committed: from, newest: from };
        assert_eq!(mem.versions(chunk), expected, "R8: a push to {chunk}");
        assert!(to >= from && to > Version::NONE, "R8: only upward");
        mem.directory.entry(chunk, generation).committed = to;
        let mut addrs = runs.iter().flat_map(|run| run.blocks());
        for pushed in blocks {
            let slot = match pushed.state {
                ashlar_wire::BlockState { stamp, crc: Some(crc) } => {
                    Slot::Present { addr: addrs.next().expect("a block for each pushed one"), crc, stamp }
                }
                ashlar_wire::BlockState { stamp: Version::NONE, crc: None } => Slot::Never,
                ashlar_wire::BlockState { stamp, crc: None } => Slot::Absent { stamp },
            };
            let range = BlockRange::new(pushed.block, 1).expect("checked when it was decoded");
            self.set_slots(pg, chunk, range, std::iter::once(slot));
        }
        let mem = self.pg_mut(pg);
        for id in ids {
            mem.remember_id(id, ids_max);
        }
    }

    /// Whether a write is undecided of which mount found the record but not the data.
    pub(super) fn has_suspects(&self) -> bool {
        self.pgs.values().any(|mem| mem.prepared.values().any(|entry| !entry.public.data_good))
    }

    pub(super) fn drop_chunk(&mut self, pg: PgId, chunk: ChunkId) {
        self.take_back_merge_of(pg, chunk);
        self.resolved.forget(pg, chunk);
        self.roll_back(pg, chunk, Version::NONE, false);
        let (is_merging, generation) = (self.is_merging, self.generation);
        let mem = self.pgs.entry(pg).or_default();
        mem.drop_ids_of(chunk);
        let Some(entry) = mem.directory.remove(chunk) else { return };
        self.wiped_layers.chunk_dropped(chunk.layer);
        let has_frozen = is_merging && !entry.is_born_in(generation);
        for quarter in 0..QUARTERS as u8 {
            let page = entry.pages[usize::from(quarter)];
            // What is being merged now gets a new page; the end of the checkpoint finds its chunk gone and purges that.
            let is_merged_now = has_frozen && mem.frozen.contains_key(&(chunk, quarter));
            if !page.is_none() && !is_merged_now {
                let wipe = self.wiped_layers.wipe_held(chunk.layer, SLOTS);
                self.purge.push(Purge { chunk, quarter, page, kept: BlockSet::default(), wipe });
            }
            if let Some(delta) = mem.active.remove(&(chunk, quarter)) {
                self.active_pages -= 1;
                self.counts.add(chunk.layer, -i64::from(delta.present()));
                let wipe = self.wiped_layers.has(chunk.layer);
                delta.iter().for_each(|(block, slot)| delta.free(block, slot, &mut self.freed, wipe));
            }
        }
    }

    pub(super) fn repair(
        &mut self,
        pg: PgId,
        chunk: ChunkId,
        block: BlockIndex,
        stamp: Version,
        crc: Crc,
        at: BlockAddr,
    ) {
        assert!(self.pg_mut(pg).directory.get(chunk).is_some(), "S2: a repair of {chunk}");
        let range = BlockRange::new(block, 1).expect("checked when it was decoded");
        self.set_slots(pg, chunk, range, std::iter::once(Slot::Present { addr: at, crc, stamp }));
        self.pg_mut(pg).repair_moved(chunk, block, at, crc);
    }

    /// Applies a record from the log. What contradicts the state is damage, not our bug.
    pub(super) fn replay(&mut self, record: Record, data_good: bool) -> Result<(), FormatError> {
        self.check_replay(&record)?;
        match record {
            Record::Prepare { pg, write, runs } => self.prepare(pg, write, runs, Vec::new(), data_good),
            Record::PrepareMerge { pg, write, moved } => self.prepare(pg, write, Vec::new(), moved, true),
            Record::Resolve { pg, commit, rollback, rolled_back } => self.resolve(pg, &commit, &rollback, &rolled_back),
            Record::Promise { pg, epoch } => self.pg_mut(pg).state.promised = epoch,
            Record::RaiseFloor { pg, fences } => self.raise_floor(pg, &fences),
            Record::Join { pg, meta } => self.join(pg, &meta),
            Record::Push { pg, chunk, from, to, blocks, ids, runs } => {
                self.push(pg, chunk, from, to, &blocks, &ids, &runs);
            }
            Record::DropChunk { pg, chunk } => self.drop_chunk(pg, chunk),
            Record::Repair { pg, chunk, block, stamp, crc, at } => self.repair(pg, chunk, block, stamp, crc, at),
            Record::ForgetRolledBack { pg } => self.pg_mut(pg).state.rolled_back.clear(),
            Record::ForgetDamage => self.damaged = false,
        }
        Ok(())
    }

    fn check_replay(&self, record: &Record) -> Result<(), FormatError> {
        let versions = |pg: &PgId, chunk| self.versions(*pg, chunk);
        let fits = match record {
            Record::Prepare { pg, write, .. } => {
                versions(pg, write.chunk).newest == write.prev && write.version > write.prev
            }
            Record::PrepareMerge { pg, write, .. } => self.merge_fits(*pg, write),
            Record::Push { pg, chunk, from, to, .. } => {
                versions(pg, *chunk) == (ChunkVersions { committed: *from, newest: *from })
                    && to >= from
                    && *to > Version::NONE
            }
            Record::Repair { pg, chunk, .. } => self.pgs.get(pg).is_some_and(|m| m.directory.get(*chunk).is_some()),
            Record::Promise { pg, epoch } => self.pgs.get(pg).is_none_or(|m| m.state.promised <= *epoch),
            _ => true,
        };
        if fits { Ok(()) } else { Err(FormatError::Invalid("a record that contradicts those before it")) }
    }

    /// Every block of data that the records (not the pages) name.
    pub(super) fn blocks_in_memory(&self) -> impl Iterator<Item = BlockAddr> {
        self.pgs.values().flat_map(|mem| {
            let deltas = mem.active.values().chain(mem.frozen.values());
            let in_deltas = deltas.flat_map(Delta::iter).filter_map(|(_, slot)| slot.addr());
            in_deltas.chain(mem.prepared.values().flat_map(|p| p.runs.iter().flat_map(|run| run.blocks())))
        })
    }

    pub(super) fn assert_invariants(&self) {
        let (mut pages, mut prepared_pages) = (0, 0);
        for (pg, mem) in &self.pgs {
            prepared_pages += mem.prepared.values().map(|p| pages_of(&p.public.write)).sum::<usize>();
            mem.directory.assert_invariants();
            pages += mem.active.len();
            assert!(mem.active.keys().all(|(c, _)| mem.directory.get(*c).is_some()), "S2: {pg}");
            let mut last: Option<(ChunkId, Version)> = None;
            for ((chunk, version), entry) in &mem.prepared {
                let committed = mem.directory.get(*chunk).expect("S2").committed;
                let before = last.filter(|(c, _)| c == chunk).map_or(committed, |(_, v)| v);
                assert_eq!(entry.public.write.prev, before, "S3: {chunk} {version}");
                last = Some((*chunk, *version));
            }
            self.assert_merges(*pg, mem);
        }
        assert_eq!(pages, self.active_pages, "the number of deltas");
        assert_eq!(prepared_pages, self.prepared_pages, "the quarters of prepared writes");
    }
}

pub(super) fn pages_of(write: &WriteMeta) -> usize {
    quarters(write.change.range()).count()
}
