//! What of the free space the device doesn't know to be free yet. One bit for each [`UNIT_BLOCKS`], resident, set when a block of it is freed;
//! nothing of it is on disk, so what was freed before a restart is trimmed only after its next use. A trim is a hint: it is right to
//! forget one, and to give one for what was given back before. Called by `store::space`.

use super::allocator::Allocator;
use super::units::{UNIT_BLOCKS, UnitSet, blocks_of};
use crate::format::{BlockAddr, Run};

/// Units that one call looks at.
const LOOKED_AT_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct TrimMap {
    freed: UnitSet,
    is_given_up: bool,
}

impl TrimMap {
    pub(super) fn blocks(&self) -> u64 {
        self.freed.blocks()
    }

    /// Pieces smaller than a unit are not worth a discard.
    pub(super) fn freed(&mut self, run: Run) {
        if !self.is_given_up {
            self.freed.insert(run);
        }
    }

    /// The next run of whole free units, at most `blocks_max` long. Forgets it, and those on the way that are in use again.
    pub(super) fn next(&mut self, allocator: &Allocator, blocks_max: u32) -> Option<Run> {
        let units_max = u64::from(blocks_max) / UNIT_BLOCKS;
        if units_max == 0 {
            return None;
        }
        for _ in 0..LOOKED_AT_MAX {
            let first = self.freed.take_next()?;
            if !is_free(allocator, first) {
                continue;
            }
            let mut end = first + 1;
            while end - first < units_max && self.freed.has(end) && is_free(allocator, end) {
                self.freed.remove(end);
                end += 1;
            }
            self.freed.skip_to(end);
            let count = u32::try_from((end - first) * UNIT_BLOCKS).expect("at most blocks_max");
            return Some(Run { first: BlockAddr(first * UNIT_BLOCKS), count });
        }
        None
    }

    /// The device takes no discards.
    pub(super) fn give_up(&mut self) {
        *self = TrimMap { is_given_up: true, ..TrimMap::default() };
    }
}

/// Whether all blocks of a unit are free, and on the disk.
fn is_free(allocator: &Allocator, unit: u64) -> bool {
    (unit + 1) * UNIT_BLOCKS <= allocator.blocks() && blocks_of(unit, allocator).all(|block| allocator.is_free(block))
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
