//! Wipes: the end of volumes that were deleted securely. When such a volume is gone, every OSD overwrites all its free space, in which the blocks lie that
//! the volume ever had, and reads it back; and its record says so.

use crate::{IdSet, LayerId, Name, OsdId, PoolId, VolumeId, WipeId};
use serde::{Deserialize, Serialize};

/// A wish in the view: these OSDs have not told yet that nothing of the volume is left on them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wipe {
    pub id: WipeId,
    pub volume: VolumeId,
    pub pool: PoolId,
    pub osds: Vec<OsdId>,
}

/// What one OSD did. All but the last in bytes, and of all its free space: whose a freed block was nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WipeReport {
    /// In seconds since 1970 by its clock.
    pub ended_at: u64,
    /// Overwritten with zeroes, and read back as zeroes.
    pub overwritten: u64,
    /// Read as zeroes before.
    pub found_zero: u64,
    /// Overwritten, but the disk could not read it back.
    pub unverified: u64,
    /// Pages of its index that were damaged: what they named is free, and wiped, only after its next start.
    pub damaged_pages: u64,
}

impl WipeReport {
    pub fn is_clean(&self) -> bool {
        self.unverified == 0 && self.damaged_pages == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WipeState {
    /// Clones stand on the volume; its layers go with the last of them.
    Kept,
    /// Its layers are being dropped.
    Deleting,
    Wiping,
    Done,
}

/// Volumes that wipe as they free (docs/decisions/039-wipe-freed.md): each OSD overwrites what their layers give up, by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreedWipes {
    /// All of their layers, and perhaps some that are gone.
    pub layers: IdSet<LayerId>,
    /// Of layers from this one on nothing is said.
    pub known_below: LayerId,
    /// Rises whenever every OSD has to wipe all that is free once more; so does one that begins. 0: there never was such a volume.
    pub sweep: u64,
}

/// The record of a wipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WipeInfo {
    pub id: WipeId,
    pub volume: VolumeId,
    /// That it had.
    pub volume_name: Name,
    pub pool_name: Name,
    /// Bytes.
    pub size: u64,
    /// Seconds since 1970.
    pub asked_at: u64,
    pub state: WipeState,
    /// Volumes that stood on it then, whose blocks it shared: those were kept until the last of them was gone.
    pub clones: u64,
    /// From the moment when its layers are dropped everywhere.
    pub parts: Vec<WipePart>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WipePart {
    pub osd: OsdId,
    pub up: bool,
    /// `None`: it has not told yet.
    pub report: Option<WipeReport>,
    /// Nobody waits for it any more: the operator has given it up.
    pub given_up: bool,
}
