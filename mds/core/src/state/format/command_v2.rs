//! Log entries of versions 1 and 2, as they were: names of volumes where disks are named now, and no snapshots. Frozen: the order and the fields
//! are the format. Types that have not changed since are used as they are; whoever changes one of them freezes it here first.

use crate::state::Command;
use ashlar_types::control::{AttachMode, ControlRequest, OsdHeartbeat, PgChange, Provision};
use ashlar_types::scrub::{ScrubReport, ScrubTarget};
use ashlar_types::{BootId, Epoch, Name, OsdId, PgId, Revision};
use serde::Deserialize;

#[derive(Deserialize)]
pub(super) enum CommandV2 {
    Request(RequestV2),
    OsdDown { osd: OsdId, boot: BootId },
    OsdUp { osd: OsdId, boot: BootId },
    Rebalance { pgs: Vec<(PgId, Epoch)> },
}

/// Those that are only read never were in a log; they keep their places.
#[derive(Deserialize)]
pub(super) enum RequestV2 {
    PoolCreate { name: Name, replicas: u8, min_size: Option<u8> },
    PoolList,
    VolumeCreate { name: Name, size: u64, pool: Option<Name> },
    VolumeList,
    VolumeShow { name: Name },
    VolumeDelete { name: Name },
    VolumeExtend { name: Name, size: u64 },
    Attach { name: Name, gateway: String, mode: AttachMode, read_only: bool },
    Detach { name: Name, gateway: Option<String> },
    OpenAttachment { name: Name, gateway: String, boot: BootId },
    AttachmentList { gateway: Option<String> },
    RegisterGateway { gateway: String, boot: BootId, nbd_address: String, nbd_socket: String },
    OsdCreate { host: String },
    OsdRegister { osd: OsdId, boot: BootId, address: String, host: String, capacity: u64 },
    OsdHeartbeat(OsdHeartbeat),
    OsdStopping { osd: OsdId, boot: BootId },
    PgChange { pg: PgId, epoch: Epoch, from: OsdId, change: PgChange },
    BarrierPassed { barrier: u64, pgs: Vec<PgId> },
    ViewSince { revision: Revision },
    ServiceStatus,
    ScrubStart { target: ScrubTarget, deep: bool },
    ScrubCancel { target: ScrubTarget },
    ScrubDone { pg: PgId, epoch: Epoch, from: OsdId, report: ScrubReport },
    PerfStatus,
}

impl From<CommandV2> for Command {
    fn from(old: CommandV2) -> Command {
        match old {
            CommandV2::Request(request) => Command::Request(request.into()),
            CommandV2::OsdDown { osd, boot } => Command::OsdDown { osd, boot },
            CommandV2::OsdUp { osd, boot } => Command::OsdUp { osd, boot },
            CommandV2::Rebalance { pgs } => Command::Rebalance { pgs },
        }
    }
}

impl From<RequestV2> for ControlRequest {
    fn from(old: RequestV2) -> ControlRequest {
        use ControlRequest as R;
        use RequestV2 as V2;
        match old {
            V2::PoolCreate { name, replicas, min_size } => {
                R::PoolCreate { name, replicas, min_size, over_commit: None }
            }
            V2::PoolList => R::PoolList,
            V2::VolumeCreate { name, size, pool } => R::VolumeCreate { name, size, pool, provision: Provision::Thin },
            V2::VolumeList => R::VolumeList,
            V2::VolumeShow { name } => R::VolumeShow { name },
            V2::VolumeDelete { name } => R::VolumeDelete { name, with_snapshots: false },
            V2::VolumeExtend { name, size } => R::VolumeExtend { name, size },
            V2::Attach { name, gateway, mode, read_only } => R::Attach { name: name.into(), gateway, mode, read_only },
            V2::Detach { name, gateway } => R::Detach { name: name.into(), gateway },
            V2::OpenAttachment { name, gateway, boot } => R::OpenAttachment { name: name.into(), gateway, boot },
            V2::AttachmentList { gateway } => R::AttachmentList { gateway },
            V2::RegisterGateway { gateway, boot, nbd_address, nbd_socket } => {
                R::RegisterGateway { gateway, boot, nbd_address, nbd_socket }
            }
            V2::OsdCreate { host } => R::OsdCreate { host },
            V2::OsdRegister { osd, boot, address, host, capacity } => {
                R::OsdRegister { osd, boot, address, host, capacity }
            }
            V2::OsdHeartbeat(heartbeat) => R::OsdHeartbeat(heartbeat),
            V2::OsdStopping { osd, boot } => R::OsdStopping { osd, boot },
            V2::PgChange { pg, epoch, from, change } => R::PgChange { pg, epoch, from, change },
            V2::BarrierPassed { barrier, pgs } => R::BarrierPassed { barrier, pgs },
            V2::ViewSince { revision } => R::ViewSince { revision },
            V2::ServiceStatus => R::ServiceStatus,
            V2::ScrubStart { target, deep } => R::ScrubStart { target, deep },
            V2::ScrubCancel { target } => R::ScrubCancel { target },
            V2::ScrubDone { pg, epoch, from, report } => R::ScrubDone { pg, epoch, from, report },
            V2::PerfStatus => R::PerfStatus,
        }
    }
}
