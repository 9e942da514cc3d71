//! What the OSD asks of the store about wiping: of all that is free (docs/decisions/036), and of what volumes that wipe as they free have given up (039).

use super::{Phase, Store, WipeReport};
use crate::format::BlockAddr;
use crate::policy::Policy;
use ashlar_types::BLOCK_BYTES;
use ashlar_types::wipe::FreedWipes;

impl<P: Policy> Store<P> {
    /// Begins to wipe whatever was freed, or dropped by a record, before now; ended by [`StoreEvent::Wiped`](super::api::StoreEvent::Wiped). One at a
    /// time: while one is under way this does nothing and returns false.
    pub fn begin_wipe(&mut self) -> bool {
        match &mut self.phase {
            Phase::Running(running) => running.begin_wipe(),
            Phase::New | Phase::Mounting(_) | Phase::Failed => false,
        }
    }

    /// Wipes the next few MiB, unless some are under way.
    pub fn wipe_more(&mut self) {
        if let Phase::Running(running) = &mut self.phase {
            running.wipe_more(&mut self.device);
        }
    }

    /// Blocks that the wipe under way still has to look at, about.
    pub fn wipe_left(&self) -> Option<u64> {
        match &self.phase {
            Phase::Running(running) => running.wipe_left(),
            Phase::New | Phase::Mounting(_) | Phase::Failed => None,
        }
    }

    /// Whether a write is undecided whose data is not there: a wipe that begins now waits for it (W5).
    pub fn has_suspects(&self) -> bool {
        self.state.has_suspects()
    }

    /// Of which layers what they give up from now on is to be wiped.
    pub fn set_wiped_layers(&mut self, told: &FreedWipes) {
        self.state.wiped_layers.tell(&told.layers, told.known_below, told.sweep > 0);
    }

    /// Begins to wipe what those layers have given up and is free, unless a wipe is under way or something is being trimmed, or there is nothing. Its end
    /// is that of [`Store::wipe_left`].
    pub fn begin_owed_wipe(&mut self) -> bool {
        match &mut self.phase {
            Phase::Running(running) => running.begin_owed_wipe(),
            Phase::New | Phase::Mounting(_) | Phase::Failed => false,
        }
    }

    /// Blocks that those layers have given up and that are free, about.
    pub fn owed(&self) -> u64 {
        match &self.phase {
            Phase::Running(running) => running.space.unwiped.owed.blocks(),
            Phase::New | Phase::Mounting(_) | Phase::Failed => 0,
        }
    }

    /// Blocks that those layers may have given up, at most, and that are not free before a checkpoint has found them; [`Store::reclaim`] sees to it.
    pub fn held_for_wipe(&self) -> u64 {
        self.state.wiped_layers.held() + self.state.freed.deferred_to_wipe
    }

    /// Whether a checkpoint has to begin for some of those.
    pub fn wants_checkpoint_for_wipe(&self) -> bool {
        self.state.wiped_layers.wants_checkpoint() || self.state.freed.deferred_to_wipe > 0
    }

    /// Blocks that may hold what was there before, whosever it was, about.
    pub fn unwiped(&self) -> u64 {
        match &self.phase {
            Phase::Running(running) => running.space.unwiped.blocks(),
            Phase::New | Phase::Mounting(_) | Phase::Failed => 0,
        }
    }

    /// Whether nobody has the block in which this byte of the disk lies. For who searches disks.
    pub fn is_free(&self, at: u64) -> bool {
        let block = BlockAddr(at / u64::from(BLOCK_BYTES));
        match &self.phase {
            Phase::Running(running) => {
                let allocator = &running.space.allocator;
                block.0 < allocator.blocks() && allocator.is_free(block)
            }
            Phase::New | Phase::Mounting(_) | Phase::Failed => false,
        }
    }

    /// What wipes of [`Store::begin_owed_wipe`] did since the process began.
    pub fn wiped_owed(&self) -> WipeReport {
        match &self.phase {
            Phase::Running(running) => running.wiped_owed,
            Phase::New | Phase::Mounting(_) | Phase::Failed => WipeReport::default(),
        }
    }
}
