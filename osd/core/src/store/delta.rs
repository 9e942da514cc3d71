//! Delta: what has changed in a quarter of a chunk since its index page was written. In the order of the blocks.

use crate::format::index_page::{SLOTS, Slot};
use crate::format::{BlockAddr, Run};
use ashlar_types::ChunkId;
use std::collections::BTreeMap;

/// The deltas of one PG by chunk and quarter.
pub(super) type Deltas = BTreeMap<(ChunkId, u8), Delta>;

const WORD_BITS: usize = 64;

/// Some blocks of a quarter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BlockSet([u64; SLOTS.div_ceil(WORD_BITS)]);

impl BlockSet {
    pub(super) fn has(&self, block: u8) -> bool {
        let block = usize::from(block);
        self.0[block / WORD_BITS] & 1 << (block % WORD_BITS) != 0
    }

    pub(super) fn insert(&mut self, block: u8) {
        self.0[usize::from(block) / WORD_BITS] |= 1 << (usize::from(block) % WORD_BITS);
    }

    fn remove(&mut self, block: u8) {
        self.0[usize::from(block) / WORD_BITS] &= !(1 << (usize::from(block) % WORD_BITS));
    }
}

/// Blocks that nobody names any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FreedRun {
    pub run: Run,
    /// Whether they are wiped when they are free (store/wiped_layers.rs).
    pub wipe: bool,
}

/// Blocks of data whose last mention went away.
#[derive(Debug, Default)]
pub(super) struct Freed {
    /// Only the log named them: free when the record that dropped them is durable.
    pub released: Vec<FreedRun>,
    /// A page of a chunk that was merged away may name them still, to which the last superblock leads (K1): free with a checkpoint that begins
    /// later.
    pub deferred: Vec<FreedRun>,
    /// Blocks of the latter that are wiped then.
    pub deferred_to_wipe: u64,
}

impl Freed {
    pub(super) fn clear(&mut self) {
        self.released.clear();
        self.deferred.clear();
        self.deferred_to_wipe = 0;
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    /// Which blocks have changed.
    changed: BlockSet,
    /// What those are now, in their order.
    slots: Vec<Slot>,
    /// Those whose data a merge took over from a page, not from a delta.
    borrowed: Option<Box<BlockSet>>,
    /// How many of the slots have data.
    present: u16,
}

impl Delta {
    pub(super) fn has(&self, block: u8) -> bool {
        self.changed.has(block)
    }

    pub(super) fn is_borrowed(&self, block: u8) -> bool {
        self.borrowed.as_ref().is_some_and(|set| set.has(block))
    }

    /// Frees the data of a block, unless it is told otherwise.
    pub(super) fn free(&self, block: u8, slot: Slot, freed: &mut Freed, wipe: bool) {
        let Some(addr) = slot.addr() else { return };
        if self.is_borrowed(block) {
            release(&mut freed.deferred, addr, wipe);
            freed.deferred_to_wipe += u64::from(wipe);
        } else {
            release(&mut freed.released, addr, wipe);
        }
    }

    /// What a merge moves here, into a block that nothing was known of.
    pub(super) fn take_over(&mut self, block: u8, slot: Slot, is_borrowed: bool, freed: &mut Freed, wipe: bool) {
        self.set(block, std::iter::once(slot), freed, wipe);
        if is_borrowed && slot.addr().is_some() {
            self.borrowed.get_or_insert_default().insert(block);
        }
    }

    /// How many blocks before this one have changed.
    fn rank(&self, block: u8) -> usize {
        let (word, bit) = (usize::from(block) / WORD_BITS, usize::from(block) % WORD_BITS);
        let below = self.changed.0[word] & ((1 << bit) - 1);
        let words = self.changed.0[..word].iter().chain(std::iter::once(&below));
        words.map(|w| w.count_ones() as usize).sum()
    }

    pub(super) fn get(&self, block: u8) -> Option<Slot> {
        self.has(block).then(|| self.slots[self.rank(block)])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u8, Slot)> {
        let blocks = (0..=u8::MAX).filter(|block| self.has(*block));
        blocks.zip(self.slots.iter().copied())
    }

    /// Blocks that have data.
    pub(super) fn present(&self) -> u16 {
        self.present
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }

    /// Replaces neighbouring blocks from `first` on; the data of what was there is released. Returns how many.
    pub(super) fn set(&mut self, first: u8, new: impl Iterator<Item = Slot>, freed: &mut Freed, wipe: bool) -> usize {
        let begin = self.rank(first);
        let mut at = begin;
        for (block, slot) in (first..=u8::MAX).zip(new) {
            self.present += u16::from(slot.addr().is_some());
            if self.has(block) {
                let old = std::mem::replace(&mut self.slots[at], slot);
                self.present -= u16::from(old.addr().is_some());
                self.free(block, old, freed, wipe);
                self.borrowed.iter_mut().for_each(|set| set.remove(block));
            } else {
                self.slots.insert(at, slot);
                self.changed.insert(block);
            }
            at += 1;
        }
        at - begin
    }
}

/// Adds a block to a list of runs, joining it to the last where it goes on.
pub(super) fn release(released: &mut Vec<FreedRun>, addr: BlockAddr, wipe: bool) {
    match released.last_mut() {
        Some(last) if last.wipe == wipe && last.run.end() == addr.0 && last.run.count < 1024 => last.run.count += 1,
        _ => released.push(FreedRun { run: Run::one(addr), wipe }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::{Crc, Version};

    fn wiped(at: u64) -> FreedRun {
        FreedRun { run: Run::one(BlockAddr(at)), wipe: true }
    }

    fn slot(n: u64) -> Slot {
        Slot::Present { addr: BlockAddr(n), crc: Crc(n as u32), stamp: Version::from_bits(n) }
    }

    #[test]
    fn holds_what_a_map_would_hold() {
        let (mut delta, mut map) = (Delta::default(), BTreeMap::new());
        let (mut freed, mut expected) = (Freed::default(), Vec::new());
        let mut random = 1u64;
        for round in 0..500 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (first, count) = ((random >> 56) as u8, 1 + (random >> 40) % 8);
            let count = count.min(SLOTS as u64 - u64::from(first));
            let new: Vec<Slot> = (0..count).map(|i| slot(1000 * round + 3 * i + 1)).collect();
            for (i, slot) in new.iter().enumerate() {
                expected.extend(map.insert(first + i as u8, *slot).and_then(Slot::addr));
            }
            assert_eq!(delta.set(first, new.into_iter(), &mut freed, false) as u64, count);
            assert!(delta.iter().eq(map.iter().map(|(block, slot)| (*block, *slot))));
            assert_eq!(usize::from(delta.present()), map.values().filter(|slot| slot.addr().is_some()).count());
        }
        assert!((0..=u8::MAX).all(|block| delta.get(block) == map.get(&block).copied()));
        assert!(freed.released.iter().flat_map(|freed| freed.run.blocks()).eq(expected));
        assert!(map.len() > 200, "not all of it is empty");
    }

    #[test]
    fn what_was_borrowed_is_freed_later() {
        let (mut delta, mut freed) = (Delta::default(), Freed::default());
        delta.take_over(7, slot(70), true, &mut freed, true);
        delta.take_over(8, slot(80), false, &mut freed, true);
        assert!(delta.is_borrowed(7) && !delta.is_borrowed(8));
        delta.set(7, [slot(71), slot(81)].into_iter(), &mut freed, true);
        assert_eq!((freed.deferred.as_slice(), freed.released.as_slice()), (&[wiped(70)][..], &[wiped(80)][..]));
        delta.set(7, std::iter::once(slot(72)), &mut freed, true);
        assert_eq!(freed.released.last(), Some(&wiped(71)), "what came after it is its own");
    }
}
