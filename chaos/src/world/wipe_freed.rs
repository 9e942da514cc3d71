//! Volumes that wipe as they free: in some seeds all are such, and when all is quiet no free block of a disk holds anything that a client wrote.

use super::{Shape, World};
use crate::clock::{Instant, SECOND};
use crate::run::Reason;
use ashlar_types::Name;
use ashlar_types::control::ControlRequest;

/// After the last write it takes a checkpoint, of each OSD, to find what was overwritten.
pub(super) const WITHIN: Instant = 40 * SECOND;

/// Not drawn, so that seeds go on being what they were.
pub(super) fn shape(shape: &mut Shape) {
    if matches!(shape.load_time / SECOND, 5 | 11) {
        shape.wipes_freed = true;
        // All of it is read whenever an OSD starts.
        shape.disk_bytes = shape.disk_bytes.min(64 << 20);
    }
}

impl World {
    /// Before anybody writes to it.
    pub(super) fn wipe_what_it_frees(&mut self, volume: Name) {
        if self.shape.wipes_freed {
            self.ask_as_operator(ControlRequest::VolumeSetWipeFreed { names: vec![volume], on: true });
        }
    }

    /// Whether an OSD says that something waits to be wiped.
    pub(super) fn is_owed_a_wipe(&self) -> bool {
        self.shape.wipes_freed && self.osds.values().flat_map(|osd| &osd.machine).any(|osd| osd.usage().unwiped > 0)
    }

    /// At once when they say that nothing does: what is trimmed later looks as if it had been wiped.
    pub(super) fn check_freed(&mut self) -> Result<(), Reason> {
        if !self.shape.wipes_freed {
            return Ok(());
        }
        // What a damaged index page named is free only after a start.
        let honest: Vec<_> = self.osds.keys().copied().filter(|osd| !self.damaged.contains(osd)).collect();
        for osd in honest {
            let aside = self.mount_aside(osd)?;
            let left: Vec<u64> = self.blocks_that(osd, super::osd::is_data);
            let free: Vec<u64> = left.into_iter().filter(|at| aside.is_free(*at)).collect();
            if let Some(first) = free.first() {
                let count = free.len();
                return Err(Reason::Stores(format!("{osd}: {count} free blocks are not wiped, the first at {first}")));
            }
        }
        Ok(())
    }
}
