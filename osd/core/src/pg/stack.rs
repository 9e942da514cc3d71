//! Reads through a stack of layers (design.md §1.1): what the top layer has never written is looked for in the layers below, one after the
//! other, all in this OSD, since the layers of a volume share its placement key.
//! The layers below are frozen and have nothing undecided (L1), so the moment of such a read is the one at which the top layer was read. After a
//! failover below `min_size` they may: a write that was committed elsewhere and is only prepared here. Then the read waits (R6).
//! Which layers are looked at the store's resolved index says, as far as it is in memory (store/resolved.rs).

use super::repair::Waiting;
use super::{Pending, Pg};
use crate::env::Env;
use crate::net::Below;
use crate::policy::Policy;
use crate::store::NextBelow;
use crate::store::api::{ReadKind, ReadOutcome, Token};
use ashlar_types::{BlockIndex, BlockRange, ChunkId, ChunkIndex, LayerId, Version};
use ashlar_wire::IoStatus;
use std::sync::Arc;

/// What is known so far of a read that goes through more than one layer.
#[derive(Debug)]
pub(super) struct StackRead {
    kind: ReadKind,
    below: Arc<[LayerId]>,
    /// How many of `below` were looked at.
    looked_at: usize,
    /// From the top layer, with what those below have added.
    found: Option<ReadOutcome>,
    /// For each block of `found` how many layers lie above the one that it was found in.
    depths: Vec<u16>,
    index: ChunkIndex,
    /// A block that is in the layer which is being read, by the resolved index.
    expected: Option<BlockIndex>,
    /// A merge has moved blocks from one of its layers to another.
    is_outdated: bool,
}

impl StackRead {
    pub(super) fn new(kind: ReadKind, top: ChunkId, below: Arc<[LayerId]>) -> StackRead {
        StackRead {
            kind,
            below,
            looked_at: 0,
            found: None,
            depths: Vec::new(),
            index: top.index,
            expected: None,
            is_outdated: false,
        }
    }

    /// M2 in merge.rs: the chunk is gone, and what it had is in one above.
    pub(super) fn on_merged(&mut self, lower: ChunkId) {
        self.is_outdated |= self.index == lower.index && self.below.contains(&lower.layer);
    }

    /// Whether a block is one that no layer above has.
    fn needs(&self, outcome: &ReadOutcome, block: BlockIndex) -> bool {
        let state = |found: &ReadOutcome| found.states.get(usize::from(block.0 - found.range.first().0)).copied();
        match &self.found {
            None => true,
            Some(found) if found.range.contains(block) => state(found).is_none_or(|s| s.stamp == Version::NONE),
            Some(_) => outcome.range.contains(block),
        }
    }

    /// Takes over what another layer has of the blocks that none above it had.
    fn add(&mut self, outcome: ReadOutcome) {
        let Some(found) = &mut self.found else {
            self.depths = vec![0; outcome.states.len()];
            self.found = Some(outcome);
            return;
        };
        let from = usize::from(outcome.range.first().0 - found.range.first().0);
        let depth = u16::try_from(self.looked_at).expect("a stack has few layers");
        let mut data = outcome.data.into_iter();
        for (at, state) in (from..).zip(outcome.states) {
            let block = data.next();
            if found.states[at].stamp != Version::NONE {
                continue;
            }
            found.states[at] = state;
            self.depths[at] = depth;
            if let (Some(block), Some(place)) = (block, found.data.get_mut(at)) {
                *place = block;
            }
        }
    }

    /// The blocks that no layer so far has written.
    fn unknown(&self) -> impl Iterator<Item = BlockIndex> {
        let found = self.found.iter().flat_map(|found| found.range.iter().zip(&found.states));
        found.filter(|(_, state)| state.stamp == Version::NONE).map(|(block, _)| block)
    }

    /// The layer just read should have had this block: what it had was dropped since the index was asked.
    fn is_missed(&self) -> bool {
        self.expected.is_some_and(|expected| self.unknown().any(|block| block == expected))
    }
}

impl Pg {
    /// A part of a read has ended. Gives what was found when it is all there, or when a block was bad: that outcome names the layer whose block it
    /// is. `None`: it goes on in a layer below.
    pub(super) fn look_below<P: Policy>(
        &mut self,
        token: Token,
        pending: &Pending,
        outcome: ReadOutcome,
        env: &mut Env<P>,
    ) -> Option<ReadOutcome> {
        let pg = self.id;
        let Some(reads) = self.primary().map(|p| &mut p.stack_reads).filter(|reads| !reads.is_empty()) else {
            return Some(outcome);
        };
        let Some(read) = reads.get_mut(&token) else { return Some(outcome) };
        if read.is_outdated {
            reads.remove(&token);
            self.read_anew(token, pending, env);
            return None;
        }
        if outcome.bad.iter().any(|block| read.needs(&outcome, *block)) {
            reads.remove(&token);
            return Some(outcome);
        }
        let index = outcome.chunk.index;
        let hidden = (!outcome.bad.is_empty()).then(|| outcome.clone());
        let chunk = outcome.chunk;
        read.add(outcome);
        if read.is_missed() {
            env.store.forget_resolved(pg, chunk);
            reads.remove(&token);
            self.read_anew(token, pending, env);
            return None;
        }
        let next = env.store.next_below(pg, &read.below, read.looked_at, index, read.unknown());
        let next = next.map(|NextBelow { nth, range, is_resolved }| {
            read.looked_at = nth + 1;
            read.expected = is_resolved.then_some(range.first());
            (ChunkId { layer: read.below[nth], index }, range, read.kind)
        });
        let ended = if next.is_none() { reads.remove(&token) } else { None };
        let found = ended.and_then(|StackRead { found, depths, .. }| {
            if let Some(op) = self.primary().and_then(|p| p.reads.get_mut(&token)) {
                op.depths = depths;
            }
            found
        });
        if let Some(damaged) = hidden {
            // Of blocks that a layer above has anew: mended, and not waited for.
            self.repair_for(Waiting::Nobody, &damaged, env);
        }
        let Some((chunk, range, kind)) = next else { return found };
        if self.primary().is_some_and(|p| p.is_undecided(chunk, range)) {
            self.put_off(token, pending, env);
        } else if self.primary().is_some_and(|p| p.stack_reads.contains_key(&token)) {
            env.read_on(token, pg, chunk, range, kind, pending.clone());
        }
        None
    }

    /// What is below isn't decided: the client asks again.
    fn put_off<P: Policy>(&mut self, token: Token, pending: &Pending, env: &mut Env<P>) {
        let Some(primary) = self.primary() else { return };
        primary.stack_reads.remove(&token);
        match pending {
            Pending::ClientRead { .. } => {
                if let Some(read) = primary.reads.remove(&token) {
                    self.fail_read(&read.queued, IoStatus::Retry, env);
                }
            }
            Pending::Merge { chunk, op, .. } => {
                if let Some(ops) = primary.chunks.get_mut(chunk) {
                    ops.merging.remove(op);
                }
                self.fail_write(*chunk, *op, IoStatus::Retry, env);
            }
            _ => unreachable!("nothing else reads through a stack"),
        }
    }

    /// The smallest part of a range in which any layer of the stack was ever written, by whole quarters of a chunk.
    pub(super) fn touched<P: Policy>(
        &self,
        top: ChunkId,
        below: &Below,
        range: BlockRange,
        env: &Env<P>,
    ) -> Option<BlockRange> {
        let chunks = below.iter().flat_map(|layers| layers.iter()).map(|layer| ChunkId { layer: *layer, ..top });
        let touched = std::iter::once(top).chain(chunks).filter_map(|chunk| env.store.touched(self.id, chunk, range));
        touched.reduce(|a, b| {
            let (first, end) = (a.first().min(b.first()), a.end().max(b.end()));
            BlockRange::new(first, end - first.0).expect("both lie in the range")
        })
    }
}
