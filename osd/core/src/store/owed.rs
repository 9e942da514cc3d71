//! Blocks that are free and owed a wipe, since a volume that wipes as it frees gave them up: each by itself, so that nothing else is overwritten, until
//! there are too many of them; then as units. Whoever takes one before it is wiped writes over it; so those that are not free are passed over.
//! Called by `store::wipe`.

use super::allocator::Allocator;
use super::units::UnitSet;
use crate::format::{BlockAddr, Run};

/// 1 MiB of memory.
const RUNS_MAX: usize = 65_536;
/// Blocks that one round looks at.
const LOOKED_AT_MAX: u64 = 65_536;

#[derive(Debug, Default)]
pub(super) struct Owed {
    runs: Vec<Run>,
    /// In `runs`; what was freed twice counts twice.
    blocks: u64,
    /// What had no place in `runs`.
    units: UnitSet,
}

impl Owed {
    pub(super) fn insert(&mut self, run: Run) {
        let is_full = self.runs.len() == RUNS_MAX;
        match self.runs.last_mut() {
            Some(last) if last.end() == run.first.0 && last.count.checked_add(run.count).is_some() => {
                last.count += run.count;
            }
            _ if is_full => return self.units.insert(run),
            _ => self.runs.push(run),
        }
        self.blocks += u64::from(run.count);
    }

    /// About.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks + self.units.blocks()
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        (self.runs.capacity() * size_of::<Run>()) as u64 + self.units.memory_bytes()
    }

    /// All of it: the runs in order of their address, each block once; and the units.
    pub(super) fn take(&mut self) -> (Owed, UnitSet) {
        let Owed { mut runs, units, .. } = std::mem::take(self);
        runs.sort_unstable_by_key(|run| run.first);
        let mut whole: Vec<Run> = Vec::with_capacity(runs.len());
        for run in runs {
            match whole.last_mut() {
                Some(last) if last.end() >= run.end() => {}
                Some(last) if last.end() >= run.first.0 && u32::try_from(run.end() - last.first.0).is_ok() => {
                    last.count = (run.end() - last.first.0) as u32;
                }
                _ => whole.push(run),
            }
        }
        let blocks = whole.iter().map(|run| u64::from(run.count)).sum();
        // The next one is the last.
        whole.reverse();
        (Owed { runs: whole, blocks, units: UnitSet::default() }, units)
    }

    /// Of the next ones those that are free, in pieces; taken out of here.
    pub(super) fn next_round(
        &mut self,
        allocator: &Allocator,
        blocks_max: u64,
        pieces_max: usize,
        piece_blocks_max: u32,
    ) -> Vec<Run> {
        let (mut pieces, mut blocks, mut looked_at): (Vec<Run>, u64, u64) = (Vec::new(), 0, 0);
        while looked_at < LOOKED_AT_MAX
            && blocks < blocks_max
            && let Some(run) = self.runs.last_mut()
        {
            let block = run.first;
            let is_free = block.0 < allocator.blocks() && allocator.is_free(block);
            let is_full = pieces.len() == pieces_max;
            match pieces.last_mut() {
                _ if !is_free => {}
                Some(last) if last.end() == block.0 && last.count < piece_blocks_max => last.count += 1,
                _ if is_full => break,
                _ => pieces.push(Run::one(block)),
            }
            blocks += u64::from(is_free);
            looked_at += 1;
            *run = Run { first: BlockAddr(block.0 + 1), count: run.count - 1 };
            if run.count == 0 {
                self.runs.pop();
            }
        }
        self.blocks -= looked_at;
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u32) -> Run {
        Run { first: BlockAddr(first), count }
    }

    #[test]
    fn each_block_that_is_free_is_given_once_in_order_and_no_other() {
        let mut allocator = Allocator::new(10_000);
        assert!(allocator.take_run(run(102, 2)));
        let mut owed = Owed::default();
        for piece in [run(500, 3), run(100, 5), run(501, 1), run(104, 6), run(503, 1)] {
            owed.insert(piece);
        }
        let (mut owed, units) = owed.take();
        assert!(units.is_empty());
        assert_eq!(owed.blocks(), 14);
        let mut all = Vec::new();
        while owed.blocks() > 0 {
            all.push(owed.next_round(&allocator, 5, 64, 4));
        }
        assert_eq!(all, [vec![run(100, 2), run(104, 3)], vec![run(107, 3), run(500, 2)], vec![run(502, 2)]]);
    }

    #[test]
    fn a_round_has_no_more_pieces_than_it_may() {
        let allocator = Allocator::new(10_000);
        let mut owed = Owed::default();
        (0..10).for_each(|n| owed.insert(run(n * 2, 1)));
        let (mut owed, _) = owed.take();
        assert_eq!(owed.next_round(&allocator, 100, 4, 4).len(), 4);
        assert_eq!(owed.blocks(), 6);
    }

    #[test]
    fn what_has_no_place_is_owed_as_whole_units() {
        let mut owed = Owed::default();
        (0..RUNS_MAX as u64 + 3).for_each(|n| owed.insert(run(n * 32, 1)));
        let (owed, units) = owed.take();
        assert_eq!((owed.blocks(), units.blocks()), (RUNS_MAX as u64, 3 * 16));
    }
}
