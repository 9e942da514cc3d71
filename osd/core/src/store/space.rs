//! Space: what may be written, what waits to be free, what waits to be trimmed.
//! P1: a freed block is handed out again only when the record or checkpoint that freed it is durable and every read that was under way
//! then has ended. P2: writes leave a reserve that checkpoints live on, so deletes and recovery work on a full disk.

use super::allocator::{Allocator, Near};
use super::api::{Space, StoreError};
use super::delta::FreedRun;
use super::trim::TrimMap;
use super::wipe::Unwiped;
use crate::format::{BlockAddr, Run};
use std::collections::VecDeque;

/// The most that one discard gives back: what a device does in a few milliseconds.
const TRIM_BLOCKS_MAX: u64 = 1024;

#[derive(Debug)]
pub(super) struct SpaceKeeper {
    pub allocator: Allocator,
    reserve: u64,
    /// Freed, with the number of the first read that began after.
    limbo: VecDeque<(u64, FreedRun)>,
    trim: TrimMap,
    /// Taken from the allocator while they are being trimmed.
    trimming_blocks: u64,
    pub unwiped: Unwiped,
    /// Likewise, while they are being wiped.
    wiping_blocks: u64,
    /// Nothing is trimmed while something is wiped: what is out of the allocator for it would be passed over.
    pub is_wiping: bool,
}

/// Blocks that writes leave free: 1/64 of the disk, between 512 KiB and 256 MiB.
pub(super) fn reserve_blocks(blocks: u64) -> u64 {
    (blocks / 64).clamp(128, 65_536)
}

impl SpaceKeeper {
    pub(super) fn new(allocator: Allocator) -> SpaceKeeper {
        let reserve = reserve_blocks(allocator.blocks());
        let unwiped = Unwiped::new(allocator.blocks());
        SpaceKeeper {
            allocator,
            reserve,
            limbo: VecDeque::new(),
            trim: TrimMap::default(),
            trimming_blocks: 0,
            unwiped,
            wiping_blocks: 0,
            is_wiping: false,
        }
    }

    pub(super) fn reserve(&self) -> u64 {
        self.reserve
    }

    /// `pages_due`: index pages that checkpoints may have to add.
    pub(super) fn space(&self, pages_due: u64) -> Space {
        let free = self.allocator.free_blocks() + self.trimming_blocks + self.wiping_blocks;
        Space {
            total: self.allocator.blocks(),
            used: self.allocator.blocks() - free,
            free: free.saturating_sub(self.reserve + pages_due),
            recovery: free.saturating_sub(self.reserve / 2 + pages_due),
            unfilled: 0,
        }
    }

    /// For data. What was promised as free is there, however many pages have come due since: they are in the reserve.
    pub(super) fn allocate_data(&mut self, blocks: u32, near: Near) -> Vec<Run> {
        if blocks == 0 {
            return Vec::new();
        }
        let free = self.allocator.free_blocks();
        assert!(u64::from(blocks) + self.reserve / 4 <= free, "P2: {blocks} blocks beyond the space that was promised");
        let mut runs = Vec::with_capacity(1);
        self.allocator.allocate(blocks, near, &mut runs);
        runs
    }

    /// For a checkpoint, from the reserve if need be.
    ///
    /// # Errors
    /// Not even the reserve has them. What is on the disk stays as it is.
    pub(super) fn allocate_pages(&mut self, pages: usize) -> Result<Vec<Run>, StoreError> {
        let (free, total) = (self.allocator.free_blocks(), self.allocator.blocks());
        let need = pages as u64;
        let Some(count) = u32::try_from(pages).ok().filter(|_| need <= free) else {
            return Err(StoreError::Full { need, free, total });
        };
        let mut runs = Vec::with_capacity(1);
        self.allocator.allocate(count, Near::Last, &mut runs);
        Ok(runs)
    }

    /// What freed them is durable; reads numbered below `next_read` may still look at them.
    pub(super) fn free_after_reads(&mut self, next_read: u64, runs: impl IntoIterator<Item = FreedRun>) {
        self.limbo.extend(runs.into_iter().map(|run| (next_read, run)));
    }

    /// All reads below `oldest_read` have ended.
    pub(super) fn settle(&mut self, oldest_read: u64) {
        while self.limbo.front().is_some_and(|(until, _)| *until <= oldest_read) {
            let (_, FreedRun { run, wipe }) = self.limbo.pop_front().expect("it was just looked at");
            self.allocator.give_back(run);
            self.trim.freed(run);
            self.unwiped.freed(run);
            if wipe {
                self.unwiped.owed.insert(run);
            }
        }
    }

    /// Whether all that was freed before the read of this number is free.
    pub(super) fn has_settled(&self, next_read: u64) -> bool {
        self.limbo.front().is_none_or(|(until, _)| *until > next_read)
    }

    pub(super) fn is_trimming(&self) -> bool {
        self.trimming_blocks > 0
    }

    /// So many are out of the allocator to be wiped.
    pub(super) fn set_wiping(&mut self, blocks: u64) {
        self.wiping_blocks = blocks;
    }

    /// A run that was out to be wiped is free again, and what was zeroed may be trimmed.
    pub(super) fn wiped(&mut self, run: Run, is_zero: bool) {
        self.allocator.give_back(run);
        self.trim.freed(run);
        if !is_zero {
            self.unwiped.freed(run);
        }
    }

    pub(super) fn untrimmed_blocks(&self) -> u64 {
        self.trim.blocks()
    }

    /// A run to discard now: taken out of the allocator until [`SpaceKeeper::trimmed`].
    pub(super) fn next_trim(&mut self) -> Option<Run> {
        if self.is_trimming() || self.is_wiping {
            return None;
        }
        // While it is away, writes can go on.
        let most = (self.reserve / 4).min(TRIM_BLOCKS_MAX);
        let run = self.trim.next(&self.allocator, most as u32)?;
        assert!(self.allocator.take_run(run), "A1: what is trimmed is free");
        self.trimming_blocks = u64::from(run.count);
        Some(run)
    }

    /// A discard has ended. A device that refuses one is not asked again.
    pub(super) fn trimmed(&mut self, run: Run, is_ok: bool) {
        self.allocator.give_back(run);
        self.trimming_blocks = 0;
        if !is_ok {
            self.trim.give_up();
        }
    }
}

/// The blocks that are never handed out: superblocks and log.
pub(super) fn fixed_blocks(log_bytes: u64) -> u64 {
    (crate::format::superblock::LOG_AT + log_bytes) / u64::from(ashlar_types::BLOCK_BYTES)
}

pub(super) fn take_fixed(allocator: &mut Allocator, log_bytes: u64) {
    for block in 0..fixed_blocks(log_bytes) {
        assert!(allocator.take(BlockAddr(block)), "A1");
    }
}
