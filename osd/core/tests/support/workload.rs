//! Random operations that a replication core could submit.

use super::model::{Block, Model, Op, Tag, contents, crc_of};
use ashlar_osd_core::store::api::StoreOp;
use ashlar_sim_disk::Rng;
use ashlar_types::view::{Fences, Floor};
use ashlar_types::{
    AttachmentId, BlockIndex, BlockRange, ChunkId, ChunkIndex, Epoch, Generation, LayerId, OpId, OpNumber, PgId,
    PoolId, SessionId, StackRevision, Version, VolumeId,
};
use ashlar_wire::{BlockState, Change, JoinMeta, PushedBlock, RetryId, WriteMeta};
use std::collections::BTreeMap;

pub struct Workload {
    pub rng: Rng,
    next_tag: Tag,
    next_number: u64,
    next_layer: u64,
    pub pgs: u32,
    pub chunks: u32,
    /// So many layers are alive at a time; older ones are only merged.
    pub layers: u64,
    /// The longest write, in blocks.
    pub blocks_max: u16,
    /// Whether chunks are merged into those of the layer above.
    pub has_merges: bool,
}

impl Workload {
    pub fn new(seed: u64) -> Workload {
        Workload {
            rng: Rng::new(seed ^ 0x5eed),
            next_tag: 1,
            next_number: 1,
            next_layer: 1,
            pgs: 2,
            chunks: 3,
            layers: 2,
            blocks_max: 12,
            has_merges: true,
        }
    }

    fn tags(&mut self, count: usize) -> Vec<Tag> {
        self.next_tag += count as u64;
        (self.next_tag - count as u64..self.next_tag).collect()
    }

    pub fn pg(&mut self) -> PgId {
        PgId { pool: PoolId(1), index: self.rng.below(u64::from(self.pgs)) as u32 }
    }

    pub fn chunk(&mut self) -> ChunkId {
        let layer = LayerId(self.next_layer + self.rng.below(self.layers));
        ChunkId { layer, index: ChunkIndex(self.rng.below(u64::from(self.chunks)) as u32) }
    }

    /// Mostly where quarters meet, so that blocks are written again and pages are crossed.
    pub fn range(&mut self) -> BlockRange {
        let count = 1 + self.rng.below(u64::from(self.blocks_max)) as u16;
        let first = match self.rng.below(4) {
            0 => self.rng.below(8) as u16,
            1 => 256 - count.min(250) / 2,
            2 => 1024 - count,
            _ => self.rng.below(u64::from(1024 - count) + 1) as u16,
        };
        BlockRange::new(BlockIndex(first), count).expect("within the chunk")
    }

    pub fn next(&mut self, model: &Model) -> Op {
        let pg = self.pg();
        let chunk = self.chunk();
        match self.rng.below(100) {
            0..48 => self.prepare(model, pg, chunk),
            48..73 => self.resolve(model, pg),
            73..76 => Op { op: StoreOp::Promise { pg, epoch: Epoch(epoch(model, pg).0 + 1) }, tags: Vec::new() },
            76..79 => self.raise_floor(pg),
            79..81 => self.join(model, pg),
            81..90 => self.push(model, pg, chunk),
            90..93 if self.has_merges => self.merge(model, pg).unwrap_or_else(|| self.prepare(model, pg, chunk)),
            90..94 => Op { op: StoreOp::DropChunk { pg, chunk }, tags: Vec::new() },
            94..98 => self.repair(model, pg, chunk).unwrap_or_else(|| self.prepare(model, pg, chunk)),
            _ => Op { op: StoreOp::ForgetRolledBack { pg }, tags: Vec::new() },
        }
    }

    pub fn prepare(&mut self, model: &Model, pg: PgId, chunk: ChunkId) -> Op {
        let range = self.range();
        let tags = if self.rng.one_in(6) { Vec::new() } else { self.tags(range.count().into()) };
        self.prepare_of(model, pg, chunk, range, tags)
    }

    /// Zeroes where there are no tags.
    pub fn prepare_of(&mut self, model: &Model, pg: PgId, chunk: ChunkId, range: BlockRange, tags: Vec<Tag>) -> Op {
        let prev = model.pgs.get(&pg).and_then(|p| p.chunks.get(&chunk)).map(|c| c.newest()).unwrap_or_default();
        let change = match &tags[..] {
            [] => Change::Zero { range },
            tags => Change::Write { range, crcs: tags.iter().map(|t| crc_of(*t)).collect() },
        };
        let id = self.id(chunk, prev.successor(epoch(model, pg).max(prev.epoch())).expect("not used up"));
        let write = WriteMeta {
            chunk,
            version: id.version,
            prev,
            op: id.op,
            lowest_unanswered: id.lowest_unanswered,
            volume: id.volume,
            attachment: id.attachment,
            generation: id.generation,
            change,
        };
        Op { op: StoreOp::Prepare { pg, write, payload: contents(&tags) }, tags }
    }

    /// A chunk that has one below it with nothing undecided.
    fn merge(&mut self, model: &Model, pg: PgId) -> Option<Op> {
        let chunks = &model.pgs.get(&pg)?.chunks;
        let upper = LayerId(self.next_layer + self.layers - 1);
        let prepared = chunks.values().flat_map(|c| &c.prepared);
        let taken: Vec<ChunkId> = prepared.filter_map(|p| p.write.merged_chunk()).collect();
        let settled = |(c, entry): &(&ChunkId, &std::rc::Rc<super::model::Chunk>)| {
            let is_free = c.layer < upper && entry.prepared.is_empty() && !taken.contains(c);
            is_free && entry.committed != Version::NONE
        };
        let settled: Vec<_> = chunks.iter().filter(settled).collect();
        let (below, lower) = *settled.get(self.rng.below(settled.len().max(1) as u64) as usize)?;
        let chunk = ChunkId { layer: upper, ..*below };
        let prev = chunks.get(&chunk).map(|c| c.newest()).unwrap_or_default();
        let write = WriteMeta {
            chunk,
            version: prev.successor(epoch(model, pg).max(prev.epoch())).expect("not used up"),
            prev,
            op: OpId { session: SessionId(0), number: OpNumber(0) },
            lowest_unanswered: OpNumber(0),
            volume: VolumeId(1),
            attachment: AttachmentId(0),
            generation: Generation(0),
            change: Change::Merge { from: below.layer, at: lower.committed },
        };
        Some(Op { op: StoreOp::Prepare { pg, write, payload: contents(&[]) }, tags: Vec::new() })
    }

    fn id(&mut self, chunk: ChunkId, version: Version) -> RetryId {
        let session = 1 + self.rng.below(3);
        self.next_number += 1;
        RetryId {
            op: OpId { session: SessionId(session), number: OpNumber(self.next_number) },
            lowest_unanswered: OpNumber(self.next_number.saturating_sub(self.rng.below(30))),
            chunk,
            version,
            volume: VolumeId(1 + session % 2),
            attachment: AttachmentId(session),
            generation: Generation(1 + (self.next_number / 50) as u32),
        }
    }

    pub fn resolve(&mut self, model: &Model, pg: PgId) -> Op {
        let (mut commit, mut rollback, mut rolled_back) = (Vec::new(), Vec::new(), Vec::new());
        for (chunk, entry) in model.pgs.get(&pg).into_iter().flat_map(|p| &p.chunks) {
            if entry.prepared.is_empty() || self.rng.one_in(3) {
                continue;
            }
            let nth = self.rng.below(entry.prepared.len() as u64) as usize;
            let upto = entry.prepared[nth].write.version;
            if self.rng.one_in(8) {
                rollback.push((*chunk, if self.rng.one_in(2) { upto } else { entry.committed }));
            }
            if !self.rng.one_in(10) {
                commit.push((*chunk, upto));
            }
        }
        if self.rng.one_in(10) {
            rolled_back.push((self.chunk(), Version::new(epoch(model, pg), ashlar_types::Seq(1000))));
        }
        Op { op: StoreOp::Resolve { pg, commit, rollback, rolled_back }, tags: Vec::new() }
    }

    fn floor(&mut self) -> (VolumeId, Floor) {
        let attachment = AttachmentId(1 + self.rng.below(3));
        let generation = Generation(1 + (self.next_number / 50) as u32);
        let floor = Floor {
            stack_revision: StackRevision(self.rng.below(5) as u32),
            oldest_attachment: AttachmentId(0),
            generations: BTreeMap::from([(attachment, generation)]),
            closed: false,
        };
        (VolumeId(1 + attachment.0 % 2), floor)
    }

    fn fences(&mut self) -> Fences {
        let mut fences = Fences { floors: BTreeMap::from([self.floor()]), ..Fences::default() };
        if self.rng.one_in(4) {
            self.next_layer += 1;
            fences.retired.insert(LayerId(self.next_layer - 1), LayerId(self.next_layer - 1));
        }
        if self.rng.one_in(8) {
            // Most volumes that go are not those that are written to.
            let volume = self.rng.below(40);
            fences.gone.insert(VolumeId(volume), VolumeId(volume + self.rng.below(3)));
        }
        fences
    }

    fn raise_floor(&mut self, pg: PgId) -> Op {
        Op { op: StoreOp::RaiseFloor { pg, fences: self.fences() }, tags: Vec::new() }
    }

    fn join(&mut self, model: &Model, pg: PgId) -> Op {
        let mut meta = JoinMeta { fences: self.fences(), rolled_back: Vec::new() };
        for (chunk, entry) in model.pgs.get(&pg).into_iter().flat_map(|p| &p.chunks) {
            if self.rng.one_in(3) && entry.committed != Version::NONE {
                meta.rolled_back.push((*chunk, entry.committed));
            }
        }
        Op { op: StoreOp::Join { pg, meta }, tags: Vec::new() }
    }

    pub fn push(&mut self, model: &Model, pg: PgId, chunk: ChunkId) -> Op {
        let entry = model.pgs.get(&pg).and_then(|p| p.chunks.get(&chunk));
        if entry.is_some_and(|e| !e.prepared.is_empty()) {
            return self.prepare(model, pg, chunk);
        }
        let from = entry.map(|e| e.committed).unwrap_or_default();
        let epoch = epoch(model, pg).max(from.epoch());
        let to = Version::new(epoch, ashlar_types::Seq(from.seq().0 + 1 + self.rng.below(5) as u32));
        let to = if to > from { to } else { from.successor(epoch).expect("not used up") };
        let (range, mut tags, mut blocks) = (self.range(), Vec::new(), Vec::new());
        for block in range.iter() {
            let crc = match self.rng.below(4) {
                0 => None,
                _ => {
                    tags.extend(self.tags(1));
                    tags.last().map(|t| crc_of(*t))
                }
            };
            blocks.push(PushedBlock { block, state: BlockState { stamp: to, crc } });
        }
        let ids = (0..self.rng.below(3)).map(|_| self.id(chunk, to)).collect();
        let payload = contents(&tags);
        Op { op: StoreOp::Push { pg, chunk, from, to, blocks, ids, payload }, tags }
    }

    fn repair(&mut self, model: &Model, pg: PgId, chunk: ChunkId) -> Option<Op> {
        let entry = model.pgs.get(&pg)?.chunks.get(&chunk)?;
        let present = entry.blocks.iter().filter_map(|(b, Block { stamp, tag })| Some((*b, *stamp, (*tag)?)));
        let present: Vec<_> = present.collect();
        let (block, stamp, tag) = *present.get(self.rng.below(present.len().max(1) as u64) as usize)?;
        let stamp = if self.rng.one_in(4) { Version::new(Epoch(1), ashlar_types::Seq(999_999)) } else { stamp };
        let (block, crc, payload) = (BlockIndex(block), crc_of(tag), contents(&[tag]));
        Some(Op { op: StoreOp::Repair { pg, chunk, block, stamp, crc, payload }, tags: vec![tag] })
    }
}

fn epoch(model: &Model, pg: PgId) -> Epoch {
    model.pgs.get(&pg).map(|p| p.state.promised).unwrap_or_default().max(Epoch(1))
}
