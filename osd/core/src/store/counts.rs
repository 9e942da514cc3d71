//! How many blocks of data each layer has on this disk, without a look at the index.
//! N1: at every moment, the count of a layer is that of the slots with data in its chunks' index pages, in its active deltas, and in those frozen
//! deltas that the running checkpoint has not merged into a page yet; less those that a merge has moved to another layer. So a block that a newer
//! one replaces is counted until a checkpoint has compared the two, and a dropped chunk's until one has read its pages.
//! A damaged page says nothing of what it named: until the next mount that is counted on.

use super::reserve::Reservation;
use super::state::State;
use ashlar_types::LayerId;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// In replay, before the pages have been looked at, a count may be below zero.
    layers: BTreeMap<LayerId, i64>,
    /// Of live and of dropped chunks; a page and the one that replaces it count as one.
    index_pages: u64,
    /// Layers whose count is another one than was told.
    changed: BTreeSet<LayerId>,
    pub reservation: Reservation,
}

impl Counts {
    pub(super) fn add(&mut self, layer: LayerId, blocks: i64) {
        if blocks == 0 {
            return;
        }
        self.reservation.add(layer, blocks);
        self.changed.insert(layer);
        let count = self.layers.entry(layer).or_default();
        *count += blocks;
        if *count == 0 {
            self.layers.remove(&layer);
        }
    }

    pub(super) fn add_page(&mut self) {
        self.index_pages += 1;
    }

    pub(super) fn remove_page(&mut self) {
        self.index_pages = self.index_pages.saturating_sub(1);
    }

    pub(super) fn index_pages(&self) -> u64 {
        self.index_pages
    }

    /// Blocks of one layer.
    pub(super) fn of(&self, layer: LayerId) -> u64 {
        self.layers.get(&layer).map_or(0, |count| u64::try_from(*count).unwrap_or(0))
    }

    /// Some of those that have changed since they were told, with what they have now.
    pub(super) fn take_changed(&mut self, limit: usize) -> Vec<(LayerId, u64)> {
        let mut told = Vec::new();
        while told.len() < limit
            && let Some(layer) = self.changed.pop_first()
        {
            told.push((layer, self.of(layer)));
        }
        told
    }

    pub(super) fn on_lost(&mut self, told: impl Iterator<Item = LayerId>) {
        self.changed.extend(told);
    }

    /// In order of layer, those behind `after`.
    pub(super) fn iter_after(&self, after: Option<LayerId>) -> impl Iterator<Item = (LayerId, u64)> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let layers = self.layers.range((from, std::ops::Bound::Unbounded));
        layers.filter_map(|(layer, count)| Some((*layer, u64::try_from(*count).ok()?)))
    }

    pub(super) fn total(&self) -> u64 {
        self.iter_after(None).map(|(_, count)| count).sum()
    }
}

impl State {
    /// Blocks that are in use and counted for no layer: of prepared writes, and of a merge's leftovers.
    pub(super) fn blocks_in_no_layer(&self) -> u64 {
        let prepared = self.pgs.values().flat_map(|mem| mem.prepared.values()).flat_map(|entry| &entry.runs);
        let freed = self.freed.released.iter().chain(&self.freed.deferred);
        prepared.chain(freed.map(|freed| &freed.run)).map(|run| u64::from(run.count)).sum()
    }

    /// At the end of a mount: `pages` has what the index pages name. What replay has counted is of pages that it did not read.
    pub(super) fn count_anew(&mut self, pages: Counts) {
        let reservation = std::mem::take(&mut self.counts.reservation);
        assert!(reservation == Reservation::default(), "nothing is reserved before the mount");
        self.counts = pages;
        for mem in self.pgs.values() {
            for ((chunk, _), delta) in &mem.active {
                self.counts.add(chunk.layer, delta.present().into());
            }
        }
    }
}
