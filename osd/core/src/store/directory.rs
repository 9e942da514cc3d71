//! Directory of one PG: its chunks, resident, 56 bytes each, in leaves that are the pages on disk (docs/decisions/011).
//! D1: leaves are in order, no leaf is empty or holds more than a page. D2: a leaf with a place on disk is as it is there.
//! A checkpoint takes the leaves by reference count; what changes meanwhile is copied, so it sees one moment.

use crate::format::BlockAddr;
use crate::format::directory_page::{DirectoryEntry, ENTRIES_MAX, PageRef};
use crate::format::index_page::QUARTERS;
use ashlar_types::{ChunkId, ChunkIndex, Crc, LayerId, Version};
use std::collections::BTreeMap;
use std::sync::Arc;

/// As a [`DirectoryEntry`], smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    layer: LayerId,
    index: ChunkIndex,
    /// Bit 0: lost. Above: the checkpoint generation in which the chunk came to be.
    flags: u32,
    pub committed: Version,
    pub pages: [PageRef; QUARTERS],
}

const _: () = assert!(size_of::<Entry>() == 56, "design.md §4: at most 64 bytes for each chunk");

impl Entry {
    pub(super) fn new(chunk: ChunkId, generation: u32) -> Entry {
        let pages = [PageRef::NONE; QUARTERS];
        Entry { layer: chunk.layer, index: chunk.index, flags: generation << 1, committed: Version::NONE, pages }
    }

    pub(super) fn chunk(&self) -> ChunkId {
        ChunkId { layer: self.layer, index: self.index }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.flags & 1 != 0
    }

    pub(super) fn set_lost(&mut self) {
        self.flags |= 1;
    }

    /// Whether the chunk came to be in this generation.
    pub(super) fn is_born_in(&self, generation: u32) -> bool {
        self.flags >> 1 == generation & (u32::MAX >> 1)
    }
}

impl From<DirectoryEntry> for Entry {
    fn from(e: DirectoryEntry) -> Entry {
        let flags = u32::from(e.lost);
        Entry { layer: e.chunk.layer, index: e.chunk.index, flags, committed: e.committed, pages: e.pages }
    }
}

impl From<Entry> for DirectoryEntry {
    fn from(e: Entry) -> DirectoryEntry {
        DirectoryEntry { chunk: e.chunk(), lost: e.is_lost(), committed: e.committed, pages: e.pages }
    }
}

/// Where a leaf's page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub addr: BlockAddr,
    pub crc: Crc,
}

#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub entries: Arc<Vec<Entry>>,
    /// `None`: changed since it was written, or never written.
    pub stored: Option<Stored>,
}

/// Room that a growing leaf takes at a time: keeps the slack far below that of doubling.
const GROWTH: usize = 8;

#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    /// By a lower bound of its chunks.
    leaves: BTreeMap<ChunkId, Leaf>,
    len: usize,
}

impl Directory {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        let leaf = (size_of::<ChunkId>() + size_of::<Leaf>() + size_of::<Vec<Entry>>() + 16) as u64;
        self.leaves.values().map(|l| leaf + (l.entries.capacity() * size_of::<Entry>()) as u64).sum()
    }

    pub(super) fn leaves(&self) -> impl Iterator<Item = &Leaf> {
        self.leaves.values()
    }

    fn leaf_key(&self, chunk: ChunkId) -> Option<ChunkId> {
        let before = self.leaves.range(..=chunk).next_back();
        before.or_else(|| self.leaves.first_key_value()).map(|(key, _)| *key)
    }

    pub(super) fn leaf_of(&self, chunk: ChunkId) -> Option<&Leaf> {
        self.leaf_key(chunk).and_then(|key| self.leaves.get(&key))
    }

    /// The leaf of a chunk, for a checkpoint to set what it has written.
    pub(super) fn leaf_of_mut(&mut self, chunk: ChunkId) -> Option<&mut Leaf> {
        let key = self.leaf_key(chunk)?;
        self.leaves.get_mut(&key)
    }

    pub(super) fn get(&self, chunk: ChunkId) -> Option<&Entry> {
        let leaf = self.leaf_of(chunk)?;
        let at = leaf.entries.binary_search_by_key(&chunk, Entry::chunk).ok()?;
        Some(&leaf.entries[at])
    }

    /// Counts as a change.
    pub(super) fn get_mut(&mut self, chunk: ChunkId) -> Option<&mut Entry> {
        let key = self.leaf_key(chunk)?;
        let leaf = self.leaves.get_mut(&key)?;
        let at = leaf.entries.binary_search_by_key(&chunk, Entry::chunk).ok()?;
        leaf.stored = None;
        Some(&mut Arc::make_mut(&mut leaf.entries)[at])
    }

    /// The entry of a chunk, made if it is missing.
    pub(super) fn entry(&mut self, chunk: ChunkId, generation: u32) -> &mut Entry {
        if self.get(chunk).is_none() {
            self.insert(Entry::new(chunk, generation));
        }
        self.get_mut(chunk).expect("it was just inserted")
    }

    fn insert(&mut self, entry: Entry) {
        self.len += 1;
        let Some(key) = self.leaf_key(entry.chunk()) else {
            self.leaves.insert(entry.chunk(), Leaf { entries: Arc::new(vec![entry]), stored: None });
            return;
        };
        let key = if entry.chunk() < key { self.lower_first(key, entry.chunk()) } else { key };
        let leaf = self.leaves.get_mut(&key).expect("leaf_key finds what is there");
        leaf.stored = None;
        let entries = Arc::make_mut(&mut leaf.entries);
        let at = entries.binary_search_by_key(&entry.chunk(), Entry::chunk).expect_err("the chunk is missing");
        if entries.len() == entries.capacity() {
            entries.reserve_exact(GROWTH);
        }
        entries.insert(at, entry);
        if entries.len() > ENTRIES_MAX {
            // Chunks mostly come in rising order: then the left leaf stays full.
            let keep = if at == ENTRIES_MAX { ENTRIES_MAX } else { ENTRIES_MAX / 2 };
            let right = entries.split_off(keep);
            entries.shrink_to_fit();
            self.leaves.insert(right[0].chunk(), Leaf { entries: Arc::new(right), stored: None });
        }
    }

    /// The first leaf gets a chunk below its bound.
    fn lower_first(&mut self, key: ChunkId, to: ChunkId) -> ChunkId {
        let leaf = self.leaves.remove(&key).expect("leaf_key finds what is there");
        self.leaves.insert(to, leaf);
        to
    }

    pub(super) fn remove(&mut self, chunk: ChunkId) -> Option<Entry> {
        let key = self.leaf_key(chunk)?;
        let leaf = self.leaves.get_mut(&key)?;
        let at = leaf.entries.binary_search_by_key(&chunk, Entry::chunk).ok()?;
        leaf.stored = None;
        let entry = Arc::make_mut(&mut leaf.entries).remove(at);
        if leaf.entries.is_empty() {
            self.leaves.remove(&key);
        }
        self.len -= 1;
        Some(entry)
    }

    /// At mount, leaf by leaf in order; false where it is out of order.
    pub(super) fn append(&mut self, entries: Vec<Entry>, stored: Stored) -> bool {
        let Some(first) = entries.first().map(Entry::chunk) else { return false };
        if self.leaves.last_key_value().and_then(|(_, l)| l.entries.last()).is_some_and(|last| last.chunk() >= first) {
            return false;
        }
        self.len += entries.len();
        self.leaves.insert(first, Leaf { entries: Arc::new(entries), stored: Some(stored) });
        true
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.leaves.values().flat_map(|l| l.entries.iter())
    }

    /// In order, those behind `after`.
    pub(super) fn iter_after(&self, after: Option<ChunkId>) -> impl Iterator<Item = &Entry> {
        let from = after.and_then(|chunk| self.leaf_key(chunk));
        let leaves = match from {
            Some(key) => self.leaves.range(key..),
            None => self.leaves.range(..),
        };
        leaves.flat_map(|(_, l)| l.entries.iter()).skip_while(move |e| after.is_some_and(|a| e.chunk() <= a))
    }

    pub(super) fn assert_invariants(&self) {
        let mut last = None;
        for leaf in self.leaves.values() {
            assert!((1..=ENTRIES_MAX).contains(&leaf.entries.len()), "D1");
            for entry in leaf.entries.iter() {
                assert!(last < Some(entry.chunk()), "D1");
                last = Some(entry.chunk());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(index: u32) -> ChunkId {
        ChunkId { layer: LayerId(1), index: ChunkIndex(index) }
    }

    #[test]
    fn is_a_sorted_map_whatever_the_order_of_changes() {
        let mut directory = Directory::default();
        let mut model = BTreeMap::new();
        let mut x = 12345u32;
        for step in 0..20_000u32 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let index = (x >> 8) % 2000;
            if x.is_multiple_of(3) {
                assert_eq!(directory.remove(chunk(index)).is_some(), model.remove(&chunk(index)).is_some());
            } else {
                directory.entry(chunk(index), 0).committed = Version::from_bits(step.into());
                model.insert(chunk(index), Version::from_bits(step.into()));
            }
            if step % 500 == 0 {
                directory.assert_invariants();
                assert!(directory.iter().map(|e| (e.chunk(), e.committed)).eq(model.iter().map(|(c, v)| (*c, *v))));
                let after = chunk(index);
                let rest = model.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded));
                assert!(directory.iter_after(Some(after)).map(Entry::chunk).eq(rest.map(|(c, _)| *c)));
            }
        }
        assert_eq!(directory.len(), model.len());
    }

    #[test]
    fn a_chunk_costs_at_most_64_bytes_resident() {
        let mut rising = Directory::default();
        (0..100_000).for_each(|i| {
            rising.entry(chunk(i), 0);
        });
        let mut scattered = Directory::default();
        (0..100_000u32).for_each(|i| {
            scattered.entry(chunk(i.wrapping_mul(2_654_435_761)), 0);
        });
        for (name, directory) in [("rising", rising), ("scattered", scattered)] {
            let each = directory.memory_bytes() as f64 / directory.len() as f64;
            assert!(each <= 66.0, "{name}: {each} bytes for each chunk");
        }
    }
}
