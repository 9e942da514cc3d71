//! The commands of the Raft log.

use ashlar_types::control::ControlRequest;
use ashlar_types::{BootId, Epoch, OsdId, PgId, VolumeId};
use serde::{Deserialize, Serialize};

/// An entry of the Raft log. Its bytes: [`Command::encode`] in format.rs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A request of the control protocol that changes state.
    Request(ControlRequest),
    /// The leader's failure detector no longer hears this process. Ignored unless `boot` is the OSD's present one.
    OsdDown { osd: OsdId, boot: BootId },
    /// The leader hears again a process that was taken for dead. Ignored unless `boot` is the OSD's present one, or if the
    /// process said that it stops.
    OsdUp { osd: OsdId, boot: BootId },
    /// The cluster has been quiet: these PGs get the primary that placement meant them to have. Each only if its epoch is
    /// still this one.
    Rebalance { pgs: Vec<(PgId, Epoch)> },
    /// The leader's clock says that it is `now`, in seconds since 1970: these are purged, as far as they are in the bin and have expired.
    BinExpire { volumes: Vec<VolumeId>, now: u64 },
}
