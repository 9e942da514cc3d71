//! The model: what the store must mean, in the simplest words.

use super::Rig;
use ashlar_osd_core::Policy;
use ashlar_osd_core::store::api::{ChunkVersions, PgState, ReadKind, SessionState, StoreOp};
use ashlar_types::{BlockRange, ChunkId, Crc, OpNumber, PgId, Version};
use ashlar_wire::{Change, RetryId, WriteMeta};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The contents of a block: a number that is written all over it. Each is used once.
pub type Tag = u64;

pub fn contents(tags: &[Tag]) -> Bytes {
    let mut bytes = ashlar_types::aligned_payload(tags.len() * 4096);
    for tag in tags {
        (0..512).for_each(|_| bytes.extend_from_slice(&tag.to_le_bytes()));
    }
    BytesMut::freeze(bytes)
}

pub fn crc_of(tag: Tag) -> Crc {
    Crc::of(&contents(&[tag]))
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    pub stamp: Version,
    pub tag: Option<Tag>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    pub write: WriteMeta,
    pub tags: Vec<Tag>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    pub committed: Version,
    pub blocks: BTreeMap<u16, Block>,
    pub prepared: Vec<Prepared>,
}

impl Chunk {
    pub fn newest(&self) -> Version {
        self.prepared.last().map_or(self.committed, |p| p.write.version)
    }

    fn take_over(&mut self, below: &Chunk, stamp: Version) {
        for (block, Block { tag, .. }) in below.blocks.iter().filter(|(_, b)| b.stamp != Version::NONE) {
            let now = self.blocks.entry(*block).or_default();
            if now.stamp == Version::NONE {
                *now = Block { stamp, tag: *tag };
            }
        }
    }

    fn commit_first(&mut self) {
        let Prepared { write, tags } = self.prepared.remove(0);
        self.committed = write.version;
        if write.change.is_merge() {
            return;
        }
        for (i, block) in write.change.range().iter().enumerate() {
            self.blocks.insert(block.0, Block { stamp: write.version, tag: tags.get(i).copied() });
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pg {
    pub state: PgState,
    pub chunks: BTreeMap<ChunkId, Rc<Chunk>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub pgs: BTreeMap<PgId, Pg>,
}

/// An operation and what the blocks of its payload are.
#[derive(Clone, Debug)]
pub struct Op {
    pub op: StoreOp,
    pub tags: Vec<Tag>,
}

impl Pg {
    pub fn chunk(&mut self, chunk: ChunkId) -> &mut Chunk {
        Rc::make_mut(self.chunks.entry(chunk).or_default())
    }

    fn remember(&mut self, id: &RetryId) {
        let session = self.state.sessions.entry(id.op.session).or_insert(SessionState {
            volume: id.volume,
            attachment: id.attachment,
            generation: id.generation,
            lowest_unanswered: OpNumber(0),
            writes: BTreeMap::new(),
        });
        session.lowest_unanswered = session.lowest_unanswered.max(id.lowest_unanswered);
        session.writes.insert(id.op.number, (id.chunk, id.version));
        let lowest = session.lowest_unanswered;
        session.writes.retain(|number, _| *number >= lowest);
    }

    fn forget(&mut self, what: impl Fn(ChunkId, Version) -> bool) {
        for session in self.state.sessions.values_mut() {
            session.writes.retain(|_, (chunk, version)| !what(*chunk, *version));
        }
    }

    fn roll_back(&mut self, chunk: ChunkId, beyond: Version, record: bool) {
        let Some(entry) = self.chunks.get_mut(&chunk) else { return };
        let entry = Rc::make_mut(entry);
        let keep = entry.prepared.iter().take_while(|p| p.write.version <= beyond).count();
        let gone: Vec<Version> = entry.prepared.drain(keep..).map(|p| p.write.version).collect();
        if entry.newest() == Version::NONE {
            self.chunks.remove(&chunk);
        }
        self.forget(|c, v| c == chunk && gone.contains(&v));
        if record {
            self.state.rolled_back.extend(gone.into_iter().map(|v| (chunk, v)));
        }
    }

    /// What changes a chunk takes a prepared merge of it back.
    fn take_back_merge_of(&mut self, below: ChunkId) {
        let merge = self.chunks.iter().find_map(|(chunk, c)| {
            let merge = c.prepared.iter().find(|p| p.write.merged_chunk() == Some(below))?;
            Some((*chunk, merge.write.prev))
        });
        if let Some((chunk, prev)) = merge {
            self.roll_back(chunk, prev, false);
        }
    }

    fn commit(&mut self, chunk: ChunkId, upto: Version) {
        while let Some(write) = self
            .chunks
            .get(&chunk)
            .and_then(|c| c.prepared.first())
            .map(|p| p.write.clone())
            .filter(|w| w.version <= upto)
        {
            self.chunk(chunk).commit_first();
            let Some(below) = write.merged_chunk() else { continue };
            for at in self.state.sessions.values_mut().flat_map(|s| s.writes.values_mut()).filter(|at| at.0 == below) {
                *at = (chunk, write.version);
            }
            if let Some(lower) = self.chunks.remove(&below) {
                self.chunk(chunk).take_over(&lower, write.version);
            }
        }
    }

    fn drop_chunk(&mut self, chunk: ChunkId) {
        self.take_back_merge_of(chunk);
        self.chunks.remove(&chunk);
        self.forget(|c, _| c == chunk);
    }

    fn raise_floor(&mut self, fences: &ashlar_types::view::Fences) {
        self.state.fences.raise(fences);
        let known = &self.state.fences;
        self.state.sessions.retain(|_, s| !known.fences(s.volume, s.attachment, s.generation));
        let is_retired = |c: &&ChunkId| fences.retired.contains(c.layer);
        let gone: Vec<ChunkId> = self.chunks.keys().filter(is_retired).copied().collect();
        gone.into_iter().for_each(|c| self.drop_chunk(c));
    }
}

impl Model {
    pub fn pg(&mut self, pg: PgId) -> &mut Pg {
        self.pgs.entry(pg).or_default()
    }

    pub fn apply(&mut self, op: &Op) {
        match &op.op {
            StoreOp::Prepare { pg, write, .. } => {
                let pg = self.pg(*pg);
                pg.take_back_merge_of(write.chunk);
                let id = RetryId {
                    op: write.op,
                    lowest_unanswered: write.lowest_unanswered,
                    chunk: write.chunk,
                    version: write.version,
                    volume: write.volume,
                    attachment: write.attachment,
                    generation: write.generation,
                };
                if !write.change.is_merge() {
                    pg.remember(&id);
                }
                pg.chunk(write.chunk).prepared.push(Prepared { write: write.clone(), tags: op.tags.clone() });
            }
            StoreOp::Resolve { pg, commit, rollback, rolled_back } => {
                let pg = self.pg(*pg);
                for (chunk, upto) in commit {
                    pg.commit(*chunk, *upto);
                }
                for (chunk, beyond) in rollback {
                    pg.roll_back(*chunk, *beyond, true);
                }
                pg.state.rolled_back.extend(rolled_back);
            }
            StoreOp::Promise { pg, epoch } => self.pg(*pg).state.promised = *epoch,
            StoreOp::RaiseFloor { pg, fences } => self.pg(*pg).raise_floor(fences),
            StoreOp::Join { pg, meta } => {
                let pg = self.pg(*pg);
                pg.raise_floor(&meta.fences);
                pg.state.rolled_back.extend(&meta.rolled_back);
                let chunks: Vec<ChunkId> = pg.chunks.keys().copied().collect();
                for chunk in chunks {
                    pg.roll_back(chunk, Version::NONE, false);
                    if pg.chunks.get(&chunk).is_some_and(|c| meta.rolled_back.contains(&(chunk, c.committed))) {
                        pg.drop_chunk(chunk);
                    }
                }
            }
            StoreOp::Push { pg, chunk, to, blocks, ids, .. } => {
                let pg = self.pg(*pg);
                pg.take_back_merge_of(*chunk);
                let entry = pg.chunk(*chunk);
                entry.committed = *to;
                let mut tags = op.tags.iter();
                for pushed in blocks {
                    let tag = pushed.state.crc.map(|_| *tags.next().expect("a tag for each"));
                    entry.blocks.insert(pushed.block.0, Block { stamp: pushed.state.stamp, tag });
                }
                ids.iter().for_each(|id| pg.remember(id));
            }
            StoreOp::DropChunk { pg, chunk } => self.pg(*pg).drop_chunk(*chunk),
            StoreOp::Repair { .. } | StoreOp::ForgetDamage => {}
            StoreOp::ForgetRolledBack { pg } => self.pg(*pg).state.rolled_back.clear(),
        }
    }
}

/// What must be so of blocks whose data was not surely durable at a crash.
pub type MayBeBad<'a> = &'a dyn Fn(PgId, ChunkId, u16, &Block) -> bool;

/// The store says of everything what the model says, and its data is right.
pub fn check<P: Policy>(rig: &mut Rig<P>, model: &Model, may_be_bad: MayBeBad<'_>) -> Result<(), String> {
    rig.store.assert_invariants();
    let pgs: Vec<PgId> = rig.store.pgs().collect();
    for pg in pgs.iter().chain(model.pgs.keys()) {
        let expected = model.pgs.get(pg).cloned().unwrap_or_default();
        check_pg(rig, *pg, &expected)?;
        for (chunk, entry) in &expected.chunks {
            check_chunk(rig, *pg, *chunk, entry, may_be_bad)?;
        }
    }
    Ok(())
}

/// Everything but the blocks.
pub fn check_pg<P: Policy>(rig: &Rig<P>, pg: PgId, expected: &Pg) -> Result<(), String> {
    let state = rig.store.pg(pg).cloned().unwrap_or_default();
    if state != expected.state {
        return Err(format!("{pg}: {state:?} instead of {:?}", expected.state));
    }
    let chunks: Vec<(ChunkId, ChunkVersions)> = rig.store.chunks(pg, None, usize::MAX);
    let versions = |c: &Chunk| ChunkVersions { committed: c.committed, newest: c.newest() };
    let wanted: Vec<_> = expected.chunks.iter().map(|(id, c)| (*id, versions(c))).collect();
    if chunks != wanted {
        return Err(format!("{pg}: chunks {chunks:?} instead of {wanted:?}"));
    }
    for (chunk, entry) in &expected.chunks {
        let prepared: Vec<WriteMeta> = rig.store.prepared_of(pg, *chunk).map(|p| p.write.clone()).collect();
        if !prepared.iter().eq(entry.prepared.iter().map(|p| &p.write)) {
            return Err(format!("{pg} {chunk}: prepared {prepared:?} instead of {:?}", entry.prepared));
        }
        let mut ids: Vec<_> = rig.store.ids_of(pg, *chunk).iter().map(|id| (id.op, id.version)).collect();
        ids.sort_unstable();
        let sessions = expected.state.sessions.iter();
        let all = sessions.flat_map(|(id, s)| s.writes.iter().map(move |(n, at)| (*id, *n, *at)));
        let wanted: Vec<_> = all
            .filter(|(.., at)| at.0 == *chunk)
            .map(|(session, number, at)| (ashlar_types::OpId { session, number }, at.1))
            .collect();
        if ids != wanted {
            return Err(format!("{pg} {chunk}: retry ids {ids:?} instead of {wanted:?}"));
        }
    }
    Ok(())
}

pub fn check_chunk<P: Policy>(
    rig: &mut Rig<P>,
    pg: PgId,
    chunk: ChunkId,
    expected: &Chunk,
    may_be_bad: MayBeBad<'_>,
) -> Result<(), String> {
    let outcome = rig.read(pg, chunk, BlockRange::WHOLE, ReadKind::Data);
    if outcome.committed != expected.committed {
        return Err(format!("{pg} {chunk}: read at {} instead of {}", outcome.committed, expected.committed));
    }
    for block in BlockRange::WHOLE.iter() {
        let at = usize::from(block.0);
        let wanted = expected.blocks.get(&block.0).copied().unwrap_or_default();
        let state = outcome.states[at];
        if (state.stamp, state.crc) != (wanted.stamp, wanted.tag.map(crc_of)) {
            return Err(format!("{pg} {chunk} block {}: {state:?} instead of {wanted:?}", block.0));
        }
        let data = &outcome.data[at];
        if outcome.bad.contains(&block) {
            if !may_be_bad(pg, chunk, block.0, &wanted) {
                return Err(format!("{pg} {chunk} block {}: bad data of {wanted:?}", block.0));
            }
        } else if *data != wanted.tag.map(|t| contents(&[t])).unwrap_or_default() {
            return Err(format!("{pg} {chunk} block {}: wrong data of {wanted:?}", block.0));
        }
    }
    let prepared: Vec<_> = rig.store.prepared_of(pg, chunk).map(|p| (p.write.clone(), p.data_good)).collect();
    for ((write, data_good), wanted) in prepared.iter().zip(&expected.prepared) {
        let outcome = rig.read(pg, chunk, write.change.range(), ReadKind::Prepared(write.version));
        // A merge has no data of its own.
        let is_good = outcome.bad.is_empty() || write.change.is_merge();
        if *data_good && !is_good {
            return Err(format!("{pg} {chunk} {}: said to be good, is bad", write.version));
        }
        let is_right = match write.change {
            Change::Write { .. } => outcome.data.concat() == contents(&wanted.tags)[..],
            Change::Zero { .. } => outcome.data.iter().all(Bytes::is_empty),
            Change::Merge { .. } => true,
        };
        if is_good && !is_right {
            return Err(format!("{pg} {chunk} {}: wrong data", write.version));
        }
    }
    Ok(())
}
