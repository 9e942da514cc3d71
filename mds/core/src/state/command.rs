//! The commands of the Raft log.

use ashlar_types::control::ControlRequest;
use ashlar_types::{BootId, Epoch, JobId, OsdId, PgId, Revision, SessionId, VolumeId};
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
    /// All OSDs have told whether they keep what is reserved.
    ReserveJudged(Verdict),
    /// A gateway process gets a job, in the place of the worker that the leader has not heard of for too long. Ignored unless that is still its worker.
    JobTake { job: JobId, replaces: Option<SessionId>, gateway: String, boot: BootId },
    /// The leader's clock says that it is `now`, in seconds since 1970: these are purged, as far as they are in the bin and have expired.
    BinExpire { volumes: Vec<VolumeId>, now: u64 },
}

/// Ignored unless the volume is still asked for by the view of this revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub volume: VolumeId,
    pub since: Revision,
    pub is_kept: bool,
}
