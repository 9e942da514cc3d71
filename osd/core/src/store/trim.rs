//! What of the free space the device doesn't know to be free yet. One bit for each [`UNIT_BLOCKS`], resident, set when a block of it is freed;
//! nothing of it is on disk, so what was freed before a restart is trimmed only after its next use. A trim is a hint: it is right to
//! forget one, and to give one for what was given back before. Called by `store::space`.

use super::allocator::Allocator;
use crate::format::{BlockAddr, Run};

/// Pieces smaller than this (64 KiB) are not worth a discard.
const UNIT_BLOCKS: u64 = 16;
const WORD_UNITS: u64 = 64;
/// Units that one call looks at.
const LOOKED_AT_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct TrimMap {
    /// Grows to the highest block that was freed.
    words: Vec<u64>,
    /// Bits set.
    units: u64,
    /// The unit to look at next.
    cursor: u64,
    is_given_up: bool,
}

impl TrimMap {
    pub(super) fn blocks(&self) -> u64 {
        self.units * UNIT_BLOCKS
    }

    pub(super) fn freed(&mut self, run: Run) {
        if self.is_given_up {
            return;
        }
        for unit in run.first.0 / UNIT_BLOCKS..run.end().div_ceil(UNIT_BLOCKS) {
            let (word, bit) = ((unit / WORD_UNITS) as usize, 1 << (unit % WORD_UNITS));
            if self.words.len() <= word {
                self.words.resize(word + 1, 0);
            }
            self.units += u64::from(self.words[word] & bit == 0);
            self.words[word] |= bit;
        }
    }

    /// The next run of whole free units, at most `blocks_max` long. Forgets it, and those on the way that are in use again.
    pub(super) fn next(&mut self, allocator: &Allocator, blocks_max: u32) -> Option<Run> {
        let units_max = u64::from(blocks_max) / UNIT_BLOCKS;
        if units_max == 0 {
            return None;
        }
        for _ in 0..LOOKED_AT_MAX {
            let first = self.take_next()?;
            if !is_free(allocator, first) {
                continue;
            }
            let mut end = first + 1;
            while end - first < units_max && self.is_set(end) && is_free(allocator, end) {
                self.clear(end);
                end += 1;
            }
            self.cursor = end;
            let count = u32::try_from((end - first) * UNIT_BLOCKS).expect("at most blocks_max");
            return Some(Run { first: BlockAddr(first * UNIT_BLOCKS), count });
        }
        None
    }

    /// The device takes no discards.
    pub(super) fn give_up(&mut self) {
        *self = TrimMap { is_given_up: true, ..TrimMap::default() };
    }

    fn is_set(&self, unit: u64) -> bool {
        self.words.get((unit / WORD_UNITS) as usize).is_some_and(|w| w & 1 << (unit % WORD_UNITS) != 0)
    }

    fn clear(&mut self, unit: u64) {
        self.words[(unit / WORD_UNITS) as usize] &= !(1 << (unit % WORD_UNITS));
        self.units -= 1;
    }

    /// The next set bit at or after the cursor, or from the start; cleared.
    fn take_next(&mut self) -> Option<u64> {
        if self.units == 0 {
            return None;
        }
        let unit = self.find(self.cursor).or_else(|| self.find(0))?;
        self.clear(unit);
        self.cursor = unit + 1;
        Some(unit)
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

/// Whether all blocks of a unit are free, and on the disk.
fn is_free(allocator: &Allocator, unit: u64) -> bool {
    let blocks = unit * UNIT_BLOCKS..(unit + 1) * UNIT_BLOCKS;
    blocks.end <= allocator.blocks() && blocks.into_iter().all(|b| allocator.is_free(BlockAddr(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u32) -> Run {
        Run { first: BlockAddr(first), count }
    }

    #[test]
    fn whole_free_units_are_trimmed_once_and_others_not() {
        let mut allocator = Allocator::new(10_000);
        assert!(allocator.take_run(run(100, 1)));
        let mut map = TrimMap::default();
        map.freed(run(10, 200));
        map.freed(run(9_990, 10));
        let mut trimmed = Vec::new();
        while let Some(piece) = map.next(&allocator, 64) {
            trimmed.push(piece);
        }
        // Unit 6 (blocks 96 to 111) holds a used block; the last, of 16 blocks, reaches beyond the disk's 10,000.
        assert_eq!(trimmed, [run(0, 64), run(64, 32), run(112, 64), run(176, 48), run(9_984, 16)]);
        assert_eq!(map.blocks(), 0);
    }

    #[test]
    fn a_unit_that_is_freed_again_is_trimmed_again() {
        let mut allocator = Allocator::new(1024);
        assert!(allocator.take_run(run(16, 16)));
        let mut map = TrimMap::default();
        map.freed(run(16, 1));
        assert_eq!(map.next(&allocator, 1024), None);
        allocator.give_back(run(16, 16));
        map.freed(run(16, 16));
        assert_eq!(map.next(&allocator, 1024), Some(run(16, 16)));
        assert_eq!(map.next(&allocator, 1024), None);
    }

    #[test]
    fn a_device_without_discards_is_left_alone() {
        let allocator = Allocator::new(1024);
        let mut map = TrimMap::default();
        map.freed(run(0, 1024));
        map.give_up();
        map.freed(run(0, 1024));
        assert_eq!((map.blocks(), map.next(&allocator, 1024)), (0, None));
    }
}
