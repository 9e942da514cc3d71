//! Delta: what has changed in a quarter of a chunk since its index page was written. Sorted by block.

use crate::format::index_page::Slot;
use crate::format::{BlockAddr, Run};
use ashlar_types::ChunkId;
use std::collections::BTreeMap;

/// The deltas of one PG by chunk and quarter.
pub(super) type Deltas = BTreeMap<(ChunkId, u8), Delta>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    slots: Vec<(u8, Slot)>,
}

impl Delta {
    pub(super) fn get(&self, block: u8) -> Option<Slot> {
        self.slots.binary_search_by_key(&block, |s| s.0).ok().map(|at| self.slots[at].1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u8, Slot)> {
        self.slots.iter().copied()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<(u8, Slot)>()
    }

    /// Replaces neighbouring blocks from `first` on; the data of what was there is released.
    pub(super) fn set(&mut self, first: u8, new: impl ExactSizeIterator<Item = Slot>, released: &mut Vec<Run>) {
        let end = usize::from(first) + new.len();
        let from = self.slots.partition_point(|s| s.0 < first);
        let to = self.slots.partition_point(|s| usize::from(s.0) < end);
        for (_, old) in &self.slots[from..to] {
            if let Some(addr) = old.addr() {
                release(released, addr);
            }
        }
        let new = new.enumerate().map(|(i, slot)| (first + i as u8, slot));
        self.slots.splice(from..to, new);
    }
}

/// Adds a block to a list of runs, joining it to the last where it goes on.
pub(super) fn release(released: &mut Vec<Run>, addr: BlockAddr) {
    match released.last_mut() {
        Some(last) if last.end() == addr.0 && last.count < 1024 => last.count += 1,
        _ => released.push(Run::one(addr)),
    }
}
