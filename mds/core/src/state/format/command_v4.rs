//! Log entries of version 4, as they were: no reservations, and no limits of pools. Frozen, as command_v2.rs is.

use crate::state::Command;
use ashlar_types::control::{AttachMode, ControlRequest, OsdHeartbeat, PgChange, Provision};
use ashlar_types::scrub::{ScrubReport, ScrubTarget};
use ashlar_types::{BootId, DiskName, Epoch, LayerId, Name, OsdId, PgId, Revision, SessionId, VolumeId};
use serde::Deserialize;

#[derive(Deserialize)]
pub(super) enum CommandV4 {
    Request(RequestV4),
    OsdDown { osd: OsdId, boot: BootId },
    OsdUp { osd: OsdId, boot: BootId },
    Rebalance { pgs: Vec<(PgId, Epoch)> },
}

/// Those that are only read never were in a log; they keep their places.
#[derive(Deserialize)]
pub(super) enum RequestV4 {
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
    VolumeClone { source: DiskName, names: Vec<Name>, pool: Option<Name> },
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
    BaseGrant { volume: VolumeId, layer: LayerId },
    SessionGrant { name: DiskName, session: SessionId },
    SnapshotDelete { volume: Name, name: Name },
    MergeDone { merge: u64, pgs: Vec<PgId> },
}

impl From<CommandV4> for Command {
    fn from(old: CommandV4) -> Command {
        match old {
            CommandV4::Request(request) => Command::Request(request.into()),
            CommandV4::OsdDown { osd, boot } => Command::OsdDown { osd, boot },
            CommandV4::OsdUp { osd, boot } => Command::OsdUp { osd, boot },
            CommandV4::Rebalance { pgs } => Command::Rebalance { pgs },
        }
    }
}

impl From<RequestV4> for ControlRequest {
    fn from(old: RequestV4) -> ControlRequest {
        use ControlRequest as R;
        use RequestV4 as V4;
        match old {
            V4::PoolCreate { name, replicas, min_size } => {
                R::PoolCreate { name, replicas, min_size, over_commit: None }
            }
            V4::PoolList => R::PoolList,
            V4::VolumeCreate { name, size, pool } => R::VolumeCreate { name, size, pool, provision: Provision::Thin },
            V4::VolumeList => R::VolumeList,
            V4::VolumeShow { name } => R::VolumeShow { name },
            V4::VolumeDelete { name, with_snapshots } => R::VolumeDelete { name, with_snapshots },
            V4::VolumeExtend { name, size } => R::VolumeExtend { name, size },
            V4::SnapshotCreate { volume, name, taken_at } => R::SnapshotCreate { volume, name, taken_at, thin: false },
            V4::SnapshotList { volume } => R::SnapshotList { volume },
            V4::SnapshotShow { volume, name } => R::SnapshotShow { volume, name },
            V4::VolumeRevert { volume, snapshot, force } => R::VolumeRevert { volume, snapshot, force },
            V4::VolumeClone { source, names, pool } => R::VolumeClone { source, names, pool },
            V4::Attach { name, gateway, mode, read_only } => R::Attach { name, gateway, mode, read_only },
            V4::Detach { name, gateway } => R::Detach { name, gateway },
            V4::OpenAttachment { name, gateway, boot } => R::OpenAttachment { name, gateway, boot },
            V4::AttachmentList { gateway } => R::AttachmentList { gateway },
            V4::RegisterGateway { gateway, boot, nbd_address, nbd_socket } => {
                R::RegisterGateway { gateway, boot, nbd_address, nbd_socket }
            }
            V4::OsdCreate { host } => R::OsdCreate { host },
            V4::OsdRegister { osd, boot, address, host, capacity } => {
                R::OsdRegister { osd, boot, address, host, capacity }
            }
            V4::OsdHeartbeat(heartbeat) => R::OsdHeartbeat(heartbeat),
            V4::OsdStopping { osd, boot } => R::OsdStopping { osd, boot },
            V4::PgChange { pg, epoch, from, change } => R::PgChange { pg, epoch, from, change },
            V4::BarrierPassed { barrier, pgs } => R::BarrierPassed { barrier, pgs },
            V4::ViewSince { revision } => R::ViewSince { revision },
            V4::ServiceStatus => R::ServiceStatus,
            V4::ScrubStart { target, deep } => R::ScrubStart { target, deep },
            V4::ScrubCancel { target } => R::ScrubCancel { target },
            V4::ScrubDone { pg, epoch, from, report } => R::ScrubDone { pg, epoch, from, report },
            V4::PerfStatus => R::PerfStatus,
            V4::BaseGrant { volume, layer } => R::BaseGrant { volume, layer },
            V4::SessionGrant { name, session } => R::SessionGrant { name, session },
            V4::SnapshotDelete { volume, name } => R::SnapshotDelete { volume, name },
            V4::MergeDone { merge, pgs } => R::MergeDone { merge, pgs },
        }
    }
}
