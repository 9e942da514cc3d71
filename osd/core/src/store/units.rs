//! Units: a set of pieces of the disk, one bit for each [`UNIT_BLOCKS`]. Resident, and as long as the highest that was ever in it.
//! For what is free but still has to be dealt with: `store::trim`, `store::wipe`.

use super::allocator::Allocator;
use crate::format::{BlockAddr, Run};

/// 64 KiB.
pub(super) const UNIT_BLOCKS: u64 = 16;
const WORD_UNITS: u64 = 64;

#[derive(Debug, Default)]
pub(super) struct UnitSet {
    words: Vec<u64>,
    len: u64,
    /// Where the next search begins.
    cursor: u64,
}

impl UnitSet {
    /// Every unit of a disk of so many blocks, the last of which may be a part of one.
    pub(super) fn all(blocks: u64) -> UnitSet {
        let mut set = UnitSet::default();
        let units = blocks.div_ceil(UNIT_BLOCKS);
        set.words = vec![u64::MAX; units.div_ceil(WORD_UNITS) as usize];
        if let Some(last) = set.words.last_mut()
            && !units.is_multiple_of(WORD_UNITS)
        {
            *last = (1 << (units % WORD_UNITS)) - 1;
        }
        set.len = units;
        set
    }

    /// As if each unit were whole.
    pub(super) fn blocks(&self) -> u64 {
        self.len * UNIT_BLOCKS
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.words.capacity() as u64 * 8
    }

    /// Whatever the run touches.
    pub(super) fn insert(&mut self, run: Run) {
        for unit in run.first.0 / UNIT_BLOCKS..run.end().div_ceil(UNIT_BLOCKS) {
            self.insert_unit(unit);
        }
    }

    pub(super) fn insert_unit(&mut self, unit: u64) {
        let (word, bit) = ((unit / WORD_UNITS) as usize, 1 << (unit % WORD_UNITS));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.len += u64::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
    }

    pub(super) fn has(&self, unit: u64) -> bool {
        self.words.get((unit / WORD_UNITS) as usize).is_some_and(|w| w & 1 << (unit % WORD_UNITS) != 0)
    }

    pub(super) fn remove(&mut self, unit: u64) {
        if self.has(unit) {
            self.words[(unit / WORD_UNITS) as usize] &= !(1 << (unit % WORD_UNITS));
            self.len -= 1;
        }
    }

    /// The next unit, going round; taken out.
    pub(super) fn take_next(&mut self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        let unit = self.find(self.cursor).or_else(|| self.find(0))?;
        self.remove(unit);
        self.cursor = unit + 1;
        Some(unit)
    }

    pub(super) fn skip_to(&mut self, unit: u64) {
        self.cursor = unit;
    }

    fn find(&self, from: u64) -> Option<u64> {
        let mut word = (from / WORD_UNITS) as usize;
        let mut bits = self.words.get(word)? & (u64::MAX << (from % WORD_UNITS));
        while bits == 0 {
            word += 1;
            bits = *self.words.get(word)?;
        }
        Some(word as u64 * WORD_UNITS + u64::from(bits.trailing_zeros()))
    }
}

/// The blocks of a unit that are on the disk.
pub(super) fn blocks_of(unit: u64, allocator: &Allocator) -> impl Iterator<Item = BlockAddr> + use<> {
    (unit * UNIT_BLOCKS..((unit + 1) * UNIT_BLOCKS).min(allocator.blocks())).map(BlockAddr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_units_of_a_disk_are_taken_once_each() {
        for blocks in [1, 15, 16, 17, 1023, 1024, 1025, 16 * 64 * 3 + 5] {
            let mut set = UnitSet::all(blocks);
            assert_eq!(set.blocks(), blocks.div_ceil(UNIT_BLOCKS) * UNIT_BLOCKS);
            let taken: Vec<u64> = std::iter::from_fn(|| set.take_next()).collect();
            assert_eq!(taken, (0..blocks.div_ceil(UNIT_BLOCKS)).collect::<Vec<_>>());
            assert!(set.is_empty());
        }
    }
}
