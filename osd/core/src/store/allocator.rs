//! Allocator: which blocks of the disk are free. One bit per block, resident; nothing of it is on disk (docs/decisions/012).
//! A1: a block is handed out only while its bit is clear. A2: a block is given back only while its bit is set.
//! Called by `store::Store` and its checkpoint. Knows nothing of logs or reads: whoever frees a block has made sure that nobody needs it.

use crate::format::{BlockAddr, Run};

const WORD_BITS: u64 = 64;
/// Blocks whose free ones are counted together, so that full parts of the disk are passed over.
const GROUP_BITS: u64 = 4096;
const GROUP_WORDS: usize = (GROUP_BITS / WORD_BITS) as usize;
/// A run of neighbouring blocks is looked for in this many groups; then pieces are taken.
const GROUPS_SEARCHED_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Allocator {
    /// Set: in use.
    words: Vec<u64>,
    group_free: Vec<u16>,
    free: u64,
    blocks: u64,
    /// Where the last allocation ended: neighbours in time become neighbours on disk.
    cursor: u64,
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
        };
        for block in blocks..groups as u64 * GROUP_BITS {
            assert!(allocator.take(BlockAddr(block)), "A1");
        }
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
    pub(super) fn allocate(&mut self, count: u32, out: &mut Vec<Run>) {
        assert!(u64::from(count) <= self.free, "space was promised that is not there: {count} of {}", self.free);
        if count == 0 {
            return;
        }
        if let Some(first) = self.find(count) {
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
        allocator.allocate(3, &mut runs);
        allocator.allocate(1024, &mut runs);
        assert_eq!(runs, [Run { first: BlockAddr(0), count: 3 }, Run { first: BlockAddr(3), count: 1024 }]);
        assert_eq!(allocator.free_blocks(), 10_000 - 1027);
    }

    #[test]
    fn the_last_block_is_found_wherever_it_is() {
        for blocks in [4095, 4096, 4097, 20_000] {
            for hole in [0, 1, 63, 64, blocks / 2, blocks - 1] {
                let mut allocator = Allocator::new(blocks);
                allocator.allocate(blocks as u32, &mut Vec::new());
                allocator.give_back(Run::one(BlockAddr(hole)));
                let mut runs = Vec::new();
                allocator.allocate(1, &mut runs);
                assert_eq!(runs, [Run::one(BlockAddr(hole))]);
                assert_eq!(allocator.free_blocks(), 0);
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
        allocator.allocate(100, &mut runs);
        assert_eq!(runs.len(), 100);
        assert!(runs.iter().all(|r| r.count == 1 && r.first.0 % 2 == 1));
    }
}
