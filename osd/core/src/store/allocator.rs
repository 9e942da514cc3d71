//! Allocator: which blocks of the disk are free. One bit per block, resident; nothing of it is on disk (docs/decisions/012).
//! A1: a block is handed out only while its bit is clear. A2: a block is given back only while its bit is set.
//! What was in use before is used again before what never was: a file, a thin device or a flash disk stays as small as what it holds, and
//! writes to blocks that it has already are cheaper for it. But runs come first: what is written together should stay together.
//! Called by `store::Store` and its checkpoint. Knows nothing of logs or reads: whoever frees a block has made sure that nobody needs it.

use crate::format::{BlockAddr, Run};

const WORD_BITS: u64 = 64;
/// Blocks whose free ones are counted together, so that full parts of the disk are passed over.
const GROUP_BITS: u64 = 4096;
const GROUP_WORDS: usize = (GROUP_BITS / WORD_BITS) as usize;
/// A run of neighbouring blocks is looked for in this many groups; then pieces are taken.
const GROUPS_SEARCHED_MAX: usize = 64;
/// So much is taken from the space that was never in use before runs that became free are looked for again.
const FRONTIER_STEP: u64 = 1024;
/// Allocations of at most so many blocks are worth a hole between others, where the caller says that few blocks are written together.
const HOLE_BLOCKS_MAX: u32 = 2;
/// Holes looked at for one allocation.
const HOLES_SEARCHED_MAX: usize = 16;

/// Where an allocation had best be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Near {
    /// Behind the one before, as far as it goes: they are written together.
    Last,
    /// Anywhere: it is written alone.
    Anything,
}

#[derive(Debug)]
pub(super) struct Allocator {
    /// Set: in use.
    words: Vec<u64>,
    group_free: Vec<u16>,
    free: u64,
    blocks: u64,
    /// Where the last allocation ended: neighbours in time become neighbours on disk.
    cursor: u64,
    /// Up to here the cursor goes on in what it has found.
    extent_end: u64,
    /// Blocks from here on have not been in use since mount.
    frontier: u64,
    /// The word where extents are looked for.
    extent_cursor: u64,
    /// Where holes are looked for.
    hole_cursor: u64,
}

impl Allocator {
    /// All blocks free.
    pub(super) fn new(blocks: u64) -> Allocator {
        let groups = blocks.div_ceil(GROUP_BITS) as usize;
        let mut allocator = Allocator {
            words: vec![0; groups * GROUP_WORDS],
            group_free: vec![GROUP_BITS as u16; groups],
            free: groups as u64 * GROUP_BITS,
            blocks,
            cursor: 0,
            extent_end: 0,
            frontier: 0,
            extent_cursor: 0,
            hole_cursor: 0,
        };
        for block in blocks..groups as u64 * GROUP_BITS {
            assert!(allocator.take(BlockAddr(block)), "A1");
        }
        allocator.frontier = 0;
        allocator
    }

    pub(super) fn free_blocks(&self) -> u64 {
        self.free
    }

    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        (self.words.capacity() * 8 + self.group_free.capacity() * 2) as u64
    }

    pub(super) fn is_free(&self, block: BlockAddr) -> bool {
        self.words[(block.0 / WORD_BITS) as usize] & 1 << (block.0 % WORD_BITS) == 0
    }

    /// Marks one block as used; false if it was already, or lies outside the disk.
    pub(super) fn take(&mut self, block: BlockAddr) -> bool {
        let (word, bit) = ((block.0 / WORD_BITS) as usize, 1 << (block.0 % WORD_BITS));
        match self.words.get_mut(word) {
            Some(w) if *w & bit == 0 => *w |= bit,
            _ => return false,
        }
        self.group_free[(block.0 / GROUP_BITS) as usize] -= 1;
        self.free -= 1;
        self.frontier = self.frontier.max(block.0 + 1);
        true
    }

    /// Marks a run as used if all of it is free.
    pub(super) fn take_run(&mut self, run: Run) -> bool {
        let free = run.end() <= self.blocks && run.blocks().all(|b| self.is_free(b));
        if free {
            run.blocks().for_each(|b| assert!(self.take(b), "A1"));
        }
        free
    }

    pub(super) fn give_back(&mut self, run: Run) {
        for block in run.blocks() {
            let (word, bit) = ((block.0 / WORD_BITS) as usize, 1 << (block.0 % WORD_BITS));
            assert!(self.words[word] & bit != 0, "A2: {block} is free already");
            self.words[word] &= !bit;
            self.group_free[(block.0 / GROUP_BITS) as usize] += 1;
        }
        self.free += u64::from(run.count);
    }

    /// Takes `count` blocks, in as few runs as a bounded search finds.
    ///
    /// # Panics
    /// If fewer are free: callers account for space before they promise it (design.md §4).
    pub(super) fn allocate(&mut self, count: u32, near: Near, out: &mut Vec<Run>) {
        assert!(u64::from(count) <= self.free, "space was promised that is not there: {count} of {}", self.free);
        if count == 0 {
            return;
        }
        if near == Near::Anything
            && count <= HOLE_BLOCKS_MAX
            && let Some(first) = self.find_hole(count)
        {
            let run = Run { first: BlockAddr(first), count };
            assert!(self.take_run(run), "A1");
            self.hole_cursor = run.end();
            out.push(run);
            return;
        }
        if let Some(first) = self.find_in_extent(count).or_else(|| self.find(count)) {
            self.take_and_move(Run { first: BlockAddr(first), count });
            out.push(Run { first: BlockAddr(first), count });
            return;
        }
        let mut left = count;
        while left > 0 {
            let run = self.next_free_run(left);
            self.take_and_move(run);
            left -= run.count;
            out.push(run);
        }
    }

    fn take_and_move(&mut self, run: Run) {
        assert!(self.take_run(run), "A1");
        self.cursor = if run.end() < self.blocks { run.end() } else { 0 };
    }

    /// A free place for `count` blocks among those that were in use before.
    fn find_hole(&mut self, count: u32) -> Option<u64> {
        for _ in 0..HOLES_SEARCHED_MAX {
            let Some(free) = self.next_free(self.hole_cursor).filter(|free| *free < self.frontier) else {
                self.hole_cursor = 0;
                return None;
            };
            let length = self.free_length(free, count);
            if length >= count && free + u64::from(count) <= self.frontier {
                return Some(free);
            }
            self.hole_cursor = free + u64::from(length);
        }
        None
    }

    /// A place for `count` blocks: where the cursor is, as long as the extent that it is in lasts; then in the next extent that became
    /// free; then where nothing was yet. `None`: there are only pieces.
    fn find_in_extent(&mut self, count: u32) -> Option<u64> {
        let fits = |at: u64, end: u64| at + u64::from(count) <= end && self.free_length(at, count) == count;
        if fits(self.cursor, self.extent_end) {
            return Some(self.cursor);
        }
        if let Some(first) = self.next_extent(count) {
            let most = u32::try_from(FRONTIER_STEP).unwrap_or(count).max(count);
            self.extent_end = first + u64::from(self.free_length(first, most));
            return Some(first);
        }
        let end = self.frontier + u64::from(count);
        (end <= self.blocks).then(|| {
            self.extent_end = (self.frontier + FRONTIER_STEP).max(end).min(self.blocks);
            self.frontier
        })
    }

    /// A whole word of free blocks below the frontier with room for `count`. Goes on where the last search ended.
    fn next_extent(&mut self, count: u32) -> Option<u64> {
        let words = self.frontier / WORD_BITS;
        for _ in 0..GROUPS_SEARCHED_MAX.min((words / GROUP_WORDS as u64) as usize + 2) {
            let word = if self.extent_cursor < words { self.extent_cursor } else { 0 };
            let group = word / GROUP_WORDS as u64;
            let end = (group + 1) * GROUP_WORDS as u64;
            if u64::from(self.group_free[group as usize]) >= WORD_BITS {
                for at in (word..end.min(words)).filter(|at| self.words[*at as usize] == 0) {
                    let before = at.checked_sub(1).map_or(0, |b| self.words[b as usize].leading_zeros());
                    let first = at * WORD_BITS - u64::from(before);
                    if self.free_length(first, count) == count {
                        self.extent_cursor = at + 1;
                        return Some(first);
                    }
                }
            }
            self.extent_cursor = end;
        }
        None
    }

    /// The first block of `count` free neighbours, if one is near.
    fn find(&self, count: u32) -> Option<u64> {
        let mut at = self.cursor;
        let mut searched = 0;
        let mut wrapped = false;
        while searched < GROUPS_SEARCHED_MAX {
            let Some(free) = self.next_free(at) else {
                if wrapped {
                    return None;
                }
                (at, wrapped) = (0, true);
                continue;
            };
            let length = self.free_length(free, count);
            if length >= count {
                return Some(free);
            }
            let next = free + u64::from(length);
            searched += 1 + (next / GROUP_BITS - at / GROUP_BITS) as usize;
            at = next;
        }
        None
    }

    /// The next free run at or after the cursor, at most `most` long.
    fn next_free_run(&self, most: u32) -> Run {
        let first = self.next_free(self.cursor).or_else(|| self.next_free(0)).expect("free blocks were counted");
        Run { first: BlockAddr(first), count: self.free_length(first, most) }
    }

    fn next_free(&self, from: u64) -> Option<u64> {
        let mut at = from;
        while at < self.blocks {
            let group = (at / GROUP_BITS) as usize;
            if self.group_free[group] == 0 {
                at = (group as u64 + 1) * GROUP_BITS;
                continue;
            }
            let word = !self.words[(at / WORD_BITS) as usize] >> (at % WORD_BITS);
            if word != 0 {
                return Some(at + u64::from(word.trailing_zeros()));
            }
            at = (at / WORD_BITS + 1) * WORD_BITS;
        }
        None
    }

    /// How many blocks from `first` on are free, at most `most`.
    fn free_length(&self, first: u64, most: u32) -> u32 {
        let mut length = 0;
        while length < most {
            let at = first + u64::from(length);
            if at >= self.blocks {
                break;
            }
            let word = self.words[(at / WORD_BITS) as usize] >> (at % WORD_BITS);
            let free = word.trailing_zeros().min((WORD_BITS - at % WORD_BITS) as u32);
            length += free.min(most - length);
            if word != 0 && u64::from(free) < WORD_BITS - at % WORD_BITS {
                break;
            }
        }
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_time_are_neighbours_on_disk() {
        let mut allocator = Allocator::new(10_000);
        let mut runs = Vec::new();
        allocator.allocate(3, Near::Last, &mut runs);
        allocator.allocate(1024, Near::Last, &mut runs);
        assert_eq!(runs, [Run { first: BlockAddr(0), count: 3 }, Run { first: BlockAddr(3), count: 1024 }]);
        assert_eq!(allocator.free_blocks(), 10_000 - 1027);
    }

    #[test]
    fn the_last_block_is_found_wherever_it_is() {
        for blocks in [4095, 4096, 4097, 20_000] {
            for hole in [0, 1, 63, 64, blocks / 2, blocks - 1] {
                let mut allocator = Allocator::new(blocks);
                allocator.allocate(blocks as u32, Near::Last, &mut Vec::new());
                for near in [Near::Last, Near::Anything] {
                    allocator.give_back(Run::one(BlockAddr(hole)));
                    let mut runs = Vec::new();
                    allocator.allocate(1, near, &mut runs);
                    assert_eq!(runs, [Run::one(BlockAddr(hole))]);
                    assert_eq!(allocator.free_blocks(), 0);
                }
            }
        }
    }

    #[test]
    fn pieces_are_taken_where_no_run_is_long_enough() {
        let mut allocator = Allocator::new(4096);
        for block in (0..4096).step_by(2) {
            assert!(allocator.take(BlockAddr(block)));
        }
        let mut runs = Vec::new();
        allocator.allocate(100, Near::Last, &mut runs);
        assert_eq!(runs.len(), 100);
        assert!(runs.iter().all(|r| r.count == 1 && r.first.0 % 2 == 1));
    }

    fn allocate(allocator: &mut Allocator, count: u32, near: Near) -> Run {
        let mut runs = Vec::new();
        allocator.allocate(count, near, &mut runs);
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs[0]
    }

    #[test]
    fn what_became_free_is_used_before_what_never_was() {
        let mut allocator = Allocator::new(1_000_000);
        allocate(&mut allocator, 5000, Near::Last);
        allocator.give_back(Run { first: BlockAddr(1000), count: 300 });
        allocator.extent_end = 0;
        assert_eq!(allocate(&mut allocator, 256, Near::Last).first, BlockAddr(1000));
        assert_eq!(allocate(&mut allocator, 40, Near::Last).first, BlockAddr(1256), "the same run");
        assert_eq!(
            allocate(&mut allocator, 20, Near::Last).first,
            BlockAddr(5000),
            "a hole breaks up what is written together"
        );
        assert_eq!(allocate(&mut allocator, 1, Near::Anything).first, BlockAddr(1296), "not what is written alone");
        assert_eq!(allocate(&mut allocator, 2, Near::Anything).first, BlockAddr(1297));
    }

    #[test]
    fn without_holes_a_lone_block_goes_where_others_go() {
        let mut allocator = Allocator::new(10_000);
        allocate(&mut allocator, 100, Near::Last);
        assert_eq!(allocate(&mut allocator, 1, Near::Anything).first, BlockAddr(100));
        assert_eq!(allocate(&mut allocator, 1, Near::Last).first, BlockAddr(101));
    }

    #[test]
    fn a_used_up_disk_is_searched_everywhere() {
        let mut allocator = Allocator::new(300_000);
        let all = allocate(&mut allocator, 300_000, Near::Last);
        assert_eq!(allocator.free_blocks(), 0);
        for block in all.blocks().step_by(3) {
            allocator.give_back(Run::one(block));
        }
        for round in 0..100_000 {
            let near = if round % 2 == 0 { Near::Last } else { Near::Anything };
            allocate(&mut allocator, 1, near);
        }
        assert_eq!(allocator.free_blocks(), 0);
    }
}
