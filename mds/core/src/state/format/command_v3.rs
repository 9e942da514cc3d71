//! Log entries of version 3, as they were: no clones, and what came behind `VolumeRevert` one place earlier. Frozen, as command_v2.rs is.

use crate::state::Command;
use ashlar_types::control::{AttachMode, ControlRequest, OsdHeartbeat, PgChange, Provision};
use ashlar_types::scrub::{ScrubReport, ScrubTarget};
use ashlar_types::{BootId, DiskName, Epoch, Name, OsdId, PgId, Revision, SessionId};
use serde::Deserialize;

#[derive(Deserialize)]
pub(super) enum CommandV3 {
    Request(RequestV3),
    OsdDown { osd: OsdId, boot: BootId },
    OsdUp { osd: OsdId, boot: BootId },
    Rebalance { pgs: Vec<(PgId, Epoch)> },
}

/// Those that are only read never were in a log; they keep their places.
#[derive(Deserialize)]
pub(super) enum RequestV3 {
    PoolCreate { name: Name, replicas: u8, min_size: Option<u8> },
    PoolList,
    VolumeCreate { name: Name, size: u64, pool: Option<Name> },
    VolumeList,
    VolumeShow { name: Name },
    VolumeDelete { name: Name, with_snapshots: bool },
    VolumeExtend { name: Name, size: u64 },
    SnapshotCreate { volume: Name, name: Name, taken_at: u64 },
    SnapshotList { volume: Option<Name> },
    SnapshotShow { volume: Name, name: Name },
    VolumeRevert { volume: Name, snapshot: Name, force: bool },
    Attach { name: DiskName, gateway: String, mode: AttachMode, read_only: bool },
    Detach { name: DiskName, gateway: Option<String> },
    OpenAttachment { name: DiskName, gateway: String, boot: BootId },
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
    SessionGrant { name: DiskName, session: SessionId },
}

impl From<CommandV3> for Command {
    fn from(old: CommandV3) -> Command {
        match old {
            CommandV3::Request(request) => Command::Request(request.into()),
            CommandV3::OsdDown { osd, boot } => Command::OsdDown { osd, boot },
            CommandV3::OsdUp { osd, boot } => Command::OsdUp { osd, boot },
            CommandV3::Rebalance { pgs } => Command::Rebalance { pgs },
        }
    }
}

impl From<RequestV3> for ControlRequest {
    fn from(old: RequestV3) -> ControlRequest {
        use ControlRequest as R;
        use RequestV3 as V3;
        match old {
            V3::PoolCreate { name, replicas, min_size } => {
                R::PoolCreate { name, replicas, min_size, over_commit: None }
            }
            V3::PoolList => R::PoolList,
            V3::VolumeCreate { name, size, pool } => R::VolumeCreate { name, size, pool, provision: Provision::Thin },
            V3::VolumeList => R::VolumeList,
            V3::VolumeShow { name } => R::VolumeShow { name },
            V3::VolumeDelete { name, with_snapshots } => R::VolumeDelete { name, with_snapshots },
            V3::VolumeExtend { name, size } => R::VolumeExtend { name, size },
            V3::SnapshotCreate { volume, name, taken_at } => R::SnapshotCreate { volume, name, taken_at, thin: false },
            V3::SnapshotList { volume } => R::SnapshotList { volume },
            V3::SnapshotShow { volume, name } => R::SnapshotShow { volume, name },
            V3::VolumeRevert { volume, snapshot, force } => R::VolumeRevert { volume, snapshot, force },
            V3::Attach { name, gateway, mode, read_only } => R::Attach { name, gateway, mode, read_only },
            V3::Detach { name, gateway } => R::Detach { name, gateway },
            V3::OpenAttachment { name, gateway, boot } => R::OpenAttachment { name, gateway, boot },
            V3::AttachmentList { gateway } => R::AttachmentList { gateway },
            V3::RegisterGateway { gateway, boot, nbd_address, nbd_socket } => {
                R::RegisterGateway { gateway, boot, nbd_address, nbd_socket }
            }
            V3::OsdCreate { host } => R::OsdCreate { host },
            V3::OsdRegister { osd, boot, address, host, capacity } => {
                R::OsdRegister { osd, boot, address, host, capacity }
            }
            V3::OsdHeartbeat(heartbeat) => R::OsdHeartbeat(heartbeat),
            V3::OsdStopping { osd, boot } => R::OsdStopping { osd, boot },
            V3::PgChange { pg, epoch, from, change } => R::PgChange { pg, epoch, from, change },
            V3::BarrierPassed { barrier, pgs } => R::BarrierPassed { barrier, pgs },
            V3::ViewSince { revision } => R::ViewSince { revision },
            V3::ServiceStatus => R::ServiceStatus,
            V3::ScrubStart { target, deep } => R::ScrubStart { target, deep },
            V3::ScrubCancel { target } => R::ScrubCancel { target },
            V3::ScrubDone { pg, epoch, from, report } => R::ScrubDone { pg, epoch, from, report },
            V3::PerfStatus => R::PerfStatus,
            V3::SessionGrant { name, session } => R::SessionGrant { name, session },
        }
    }
}
