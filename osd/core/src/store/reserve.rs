//! What is kept free for volumes that have their whole size reserved (docs/decisions/033). The metadata service says how much all of them may ever take on
//! this disk; what their top layers have already is not missing any more.
//! V1: `unfilled` is never less than the blocks that these volumes may still take. Of a block that a newer one replaces both are counted
//! until a checkpoint (N1), so blocks that may be such doubles do not count as filled.

use super::state::State;
use ashlar_types::{ChunkId, ChunkIndex, LayerId};
use std::collections::BTreeSet;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reservation {
    /// For all volumes, full or empty.
    blocks: u64,
    /// That these volumes write to.
    layers: BTreeSet<LayerId>,
    /// What is counted for those.
    present: i64,
    /// Blocks of theirs that were set over something since the last checkpoint began,
    doubles: u64,
    /// and those before, while it runs.
    merging_doubles: u64,
}

impl Reservation {
    pub(super) fn has(&self, layer: LayerId) -> bool {
        !self.layers.is_empty() && self.layers.contains(&layer)
    }

    /// Its count has changed.
    pub(super) fn add(&mut self, layer: LayerId, blocks: i64) {
        if self.has(layer) {
            self.present += blocks;
        }
    }

    pub(super) fn add_doubles(&mut self, blocks: u64) {
        self.doubles += blocks;
    }

    pub(super) fn checkpoint_begins(&mut self) {
        self.merging_doubles = std::mem::take(&mut self.doubles);
    }

    pub(super) fn checkpoint_ends(&mut self) {
        self.merging_doubles = 0;
    }

    pub(super) fn unfilled(&self) -> u64 {
        let filled = u64::try_from(self.present).unwrap_or(0);
        self.blocks.saturating_sub(filled.saturating_sub(self.doubles + self.merging_doubles))
    }
}

impl State {
    /// From now on.
    pub(super) fn set_reserved(&mut self, blocks: u64, layers: BTreeSet<LayerId>) {
        let known = &self.counts.reservation;
        let present = layers.iter().map(|layer| self.counts.of(*layer) as i64).sum();
        let more: u64 =
            layers.iter().filter(|layer| !known.has(**layer)).map(|layer| self.possible_doubles(*layer)).sum();
        let (doubles, merging_doubles) = (known.doubles + more, known.merging_doubles);
        self.counts.reservation = Reservation { blocks, layers, present, doubles, merging_doubles };
    }

    /// Changed blocks of a layer that may stand over others.
    fn possible_doubles(&self, layer: LayerId) -> u64 {
        let chunk = |index| ChunkId { layer, index: ChunkIndex(index) };
        let range = (chunk(0), 0)..=(chunk(u32::MAX), u8::MAX);
        let deltas =
            self.pgs.values().flat_map(|mem| mem.active.range(range.clone()).chain(mem.frozen.range(range.clone())));
        deltas.map(|(_, delta)| u64::from(delta.present())).sum()
    }
}
