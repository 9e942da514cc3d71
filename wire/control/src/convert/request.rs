//! `ashlar_types::control::ControlRequest`.

use super::mode::disk_mode;
use super::perf::{stages_from_proto, stages_to_proto};
use super::space::provision;
use super::{ProtoError, byte, disk_name, name, names, pg_from_proto, pg_required, pg_to_proto, required};
use crate::proto;
use crate::proto::control_request::Request as Kind;
use ashlar_types::control::{AttachMode, ControlRequest, OsdHeartbeat, OsdUsage, OverCommit, PgChange, Provision};
use ashlar_types::{BootId, Epoch, JobId, LayerId, Name, OsdId, Revision, SessionId, VolumeId, WipeId};

impl From<ControlRequest> for proto::ControlRequest {
    fn from(request: ControlRequest) -> Self {
        use ControlRequest as R;
        let kind = match request {
            R::PoolCreate { name, replicas, min_size, over_commit } => Kind::PoolCreate(proto::PoolCreate {
                name: name.into(),
                replicas: replicas.into(),
                min_size: min_size.map(Into::into),
                over_commit: over_commit.map(|ratio| ratio.0),
            }),
            R::PoolSet { name, over_commit } => {
                Kind::PoolSet(proto::PoolSet { name: name.into(), over_commit: over_commit.map(|ratio| ratio.0) })
            }
            R::PoolList => Kind::PoolList(proto::PoolList {}),
            R::VolumeCreate { name, size, pool, provision } => {
                Kind::VolumeCreate(create_to_proto(name, size, pool, provision))
            }
            R::VolumeCreateWiping { name, size, pool, provision } => {
                Kind::VolumeCreateWiping(create_to_proto(name, size, pool, provision))
            }
            R::VolumeSet { name, provision } => Kind::VolumeSet(proto::VolumeSet {
                name: name.into(),
                provision: proto::Provision::from(provision).into(),
            }),
            R::VolumeSetMode { names, mode } => Kind::VolumeSetMode(proto::VolumeSetMode {
                names: names.into_iter().map(Into::into).collect(),
                mode: proto::DiskMode::from(mode).into(),
            }),
            R::VolumeShrink { name, size, gateway } => {
                Kind::VolumeShrink(proto::VolumeShrink { name: name.into(), size, gateway })
            }
            R::SpaceUse { volume } => Kind::SpaceUse(proto::SpaceUseRequest { volume: volume.map(Into::into) }),
            R::VolumeList => Kind::VolumeList(proto::VolumeList {}),
            R::VolumeShow { name } => Kind::VolumeShow(proto::VolumeShow { name: name.into() }),
            R::VolumeDelete { name, with_snapshots } => {
                Kind::VolumeDelete(proto::VolumeDelete { name: name.into(), with_snapshots })
            }
            R::VolumeExtend { name, size } => Kind::VolumeExtend(proto::VolumeExtend { name: name.into(), size }),
            R::SnapshotCreate { volume, name, taken_at, thin } => {
                Kind::SnapshotCreate(proto::SnapshotCreate { volume: volume.into(), name: name.into(), taken_at, thin })
            }
            R::SnapshotList { volume } => Kind::SnapshotList(proto::SnapshotList { volume: volume.map(Into::into) }),
            R::SnapshotShow { volume, name } => {
                Kind::SnapshotShow(proto::SnapshotShow { volume: volume.into(), name: name.into() })
            }
            R::VolumeRevert { volume, snapshot, force } => {
                Kind::VolumeRevert(proto::VolumeRevert { volume: volume.into(), snapshot: snapshot.into(), force })
            }
            R::VolumeClone { source, names, pool } => Kind::VolumeClone(proto::VolumeClone {
                source: source.to_string(),
                names: names.into_iter().map(Into::into).collect(),
                pool: pool.map(Into::into),
            }),
            R::Attach { name, gateway, mode, read_only } => Kind::Attach(proto::Attach {
                name: name.to_string(),
                gateway,
                mode: proto::AttachMode::from(mode).into(),
                read_only,
            }),
            R::Detach { name, gateway } => Kind::Detach(proto::Detach { name: name.to_string(), gateway }),
            R::OpenAttachment { name, gateway, boot } => {
                Kind::OpenAttachment(proto::OpenAttachment { name: name.to_string(), gateway, boot: boot.0 })
            }
            R::SessionGrant { name, session } => {
                Kind::SessionGrant(proto::SessionGrant { name: name.to_string(), session: session.0 })
            }
            R::BaseGrant { volume, layer } => Kind::BaseGrant(proto::BaseGrant { volume: volume.0, layer: layer.0 }),
            R::SnapshotDelete { volume, name } => {
                Kind::SnapshotDelete(proto::SnapshotDelete { volume: volume.into(), name: name.into() })
            }
            R::MergeDone { merge, pgs } => {
                Kind::MergeDone(proto::MergeDone { merge, pgs: pgs.into_iter().map(pg_to_proto).collect() })
            }
            R::SnapshotGroupCreate { name, volumes, taken_at } => {
                Kind::SnapshotGroupCreate(proto::SnapshotGroupCreate {
                    name: name.into(),
                    volumes: volumes.into_iter().map(Into::into).collect(),
                    taken_at,
                })
            }
            R::SnapshotGroupList => Kind::SnapshotGroupList(proto::SnapshotGroupList {}),
            R::SnapshotGroupShow { name } => Kind::SnapshotGroupShow(proto::SnapshotGroupShow { name: name.into() }),
            R::SnapshotGroupDelete { name } => {
                Kind::SnapshotGroupDelete(proto::SnapshotGroupDelete { name: name.into() })
            }
            R::PoolKeepDeleted { name, retention } => {
                Kind::PoolKeepDeleted(proto::PoolKeepDeleted { name: name.into(), retention })
            }
            R::VolumeToBin { name, with_snapshots, retention, at } => {
                Kind::VolumeToBin(proto::VolumeToBin { name: name.into(), with_snapshots, retention, at })
            }
            R::BinList => Kind::BinList(proto::BinList {}),
            R::BinRestore { volume, name } => {
                Kind::BinRestore(proto::BinRestore { volume: volume.0, name: name.map(Into::into) })
            }
            R::BinPurge { volume } => Kind::BinPurge(proto::BinPurge { volume: volume.0 }),
            R::BinPurgeExpired { volume, secure } => {
                Kind::BinPurgeExpired(proto::BinPurgeExpired { volume: volume.0, secure })
            }
            R::VolumeWipe { name, with_snapshots, at } => {
                Kind::VolumeWipe(proto::VolumeWipe { name: name.into(), with_snapshots, at })
            }
            R::BinWipe { volume, at } => Kind::BinWipe(proto::BinWipe { volume: volume.0, at }),
            R::WipeList => Kind::WipeList(proto::WipeList {}),
            R::WipeDone { osd, wipes, report } => {
                let wipes = wipes.into_iter().map(|wipe| wipe.0).collect();
                Kind::WipeDone(proto::WipeDone { osd: osd.0, wipes, report: Some(report.into()) })
            }
            R::VolumeSetWipeFreed { names, on } => Kind::VolumeSetWipeFreed(proto::VolumeSetWipeFreed {
                names: names.into_iter().map(Into::into).collect(),
                on,
            }),
            R::WipeForget { wipe, give_up } => Kind::WipeForget(proto::WipeForget { wipe: wipe.0, give_up }),
            R::AttachmentList { gateway } => Kind::AttachmentList(proto::AttachmentList { gateway }),
            R::RegisterGateway { gateway, boot, nbd_address, nbd_socket } => {
                Kind::RegisterGateway(proto::RegisterGateway { gateway, boot: boot.0, nbd_address, nbd_socket })
            }
            R::OsdCreate { host } => Kind::OsdCreate(proto::OsdCreate { host }),
            R::OsdRegister { osd, boot, address, host, capacity } => {
                Kind::OsdRegister(proto::OsdRegister { osd: osd.0, boot: boot.0, address, host, capacity })
            }
            R::OsdHeartbeat(heartbeat) => Kind::OsdHeartbeat(heartbeat.into()),
            R::OsdStopping { osd, boot } => Kind::OsdStopping(proto::OsdStopping { osd: osd.0, boot: boot.0 }),
            R::PgChange { pg, epoch, from, change } => Kind::PgChange(proto::PgChange {
                pg: Some(pg_to_proto(pg)),
                epoch: epoch.0,
                from: from.0,
                change: Some(change.into()),
            }),
            R::BarrierPassed { barrier, pgs } => {
                Kind::BarrierPassed(proto::BarrierPassed { barrier, pgs: pgs.into_iter().map(pg_to_proto).collect() })
            }
            R::ViewSince { revision } => Kind::ViewSince(proto::ViewSince { revision: revision.0 }),
            R::ServiceStatus => Kind::ServiceStatus(proto::ServiceStatusRequest {}),
            R::ScrubStart { target, deep } => Kind::ScrubStart(proto::ScrubStart { target: Some(target.into()), deep }),
            R::ScrubCancel { target } => Kind::ScrubCancel(proto::ScrubCancel { target: Some(target.into()) }),
            R::ScrubDone { pg, epoch, from, report } => Kind::ScrubDone(proto::ScrubDone {
                pg: Some(pg_to_proto(pg)),
                epoch: epoch.0,
                from: from.0,
                report: Some(report.into()),
            }),
            R::PerfStatus => Kind::PerfStatus(proto::PerfStatus {}),
            R::VolumeFlatten { name, rate } => Kind::VolumeFlatten(proto::VolumeFlatten { name: name.into(), rate }),
            R::JobList => Kind::JobList(proto::JobList {}),
            R::JobSet { job, rate, paused } => Kind::JobSet(proto::JobSet { job: job.0, rate, paused }),
            R::JobCancel { job } => Kind::JobCancel(proto::JobCancel { job: job.0 }),
            R::JobTake { gateway, boot, shrinks_only } => {
                Kind::JobTake(proto::JobTake { gateway, boot: boot.0, shrinks_only })
            }
            R::ShrinkStart { name, size, force } => {
                Kind::ShrinkStart(proto::ShrinkStart { name: name.into(), size, force })
            }
            R::ShrinkEnd { job, session, disk, refusal } => {
                Kind::ShrinkEnd(proto::ShrinkEnd { job: job.0, session: session.0, disk: disk.0, refusal })
            }
            R::JobGrant { job, session } => Kind::JobGrant(proto::JobGrant { job: job.0, session: session.0 }),
            R::JobProgress { job, session, position, filled, trouble } => {
                let (job, session) = (job.0, session.0);
                Kind::JobProgress(proto::JobProgress { job, session, position, filled, trouble })
            }
            R::JobDone { job, session } => Kind::JobDone(proto::JobDone { job: job.0, session: session.0 }),
        };
        proto::ControlRequest { request: Some(kind) }
    }
}

fn create_to_proto(name: Name, size: u64, pool: Option<Name>, provision: Provision) -> proto::VolumeCreate {
    let provision = proto::Provision::from(provision).into();
    proto::VolumeCreate { name: name.into(), size, pool: pool.map(Into::into), provision }
}

fn create_from_proto(r: proto::VolumeCreate) -> Result<(Name, u64, Option<Name>, Provision), ProtoError> {
    let pool = r.pool.map(|pool| name("VolumeCreate.pool", &pool)).transpose()?;
    Ok((name("VolumeCreate.name", &r.name)?, r.size, pool, provision("VolumeCreate.provision", r.provision)?))
}

impl TryFrom<proto::ControlRequest> for ControlRequest {
    type Error = ProtoError;
    fn try_from(request: proto::ControlRequest) -> Result<Self, ProtoError> {
        use ControlRequest as R;
        Ok(match required("ControlRequest.request", request.request)? {
            Kind::PoolCreate(r) => R::PoolCreate {
                name: name("PoolCreate.name", &r.name)?,
                replicas: byte("PoolCreate.replicas", r.replicas)?,
                min_size: r.min_size.map(|m| byte("PoolCreate.min_size", m)).transpose()?,
                over_commit: r.over_commit.map(OverCommit),
            },
            Kind::PoolSet(r) => {
                R::PoolSet { name: name("PoolSet.name", &r.name)?, over_commit: r.over_commit.map(OverCommit) }
            }
            Kind::PoolList(_) => R::PoolList,
            Kind::VolumeCreate(r) => {
                let (name, size, pool, provision) = create_from_proto(r)?;
                R::VolumeCreate { name, size, pool, provision }
            }
            Kind::VolumeCreateWiping(r) => {
                let (name, size, pool, provision) = create_from_proto(r)?;
                R::VolumeCreateWiping { name, size, pool, provision }
            }
            Kind::VolumeSet(r) => R::VolumeSet {
                name: name("VolumeSet.name", &r.name)?,
                provision: provision("VolumeSet.provision", r.provision)?,
            },
            Kind::VolumeSetMode(r) => R::VolumeSetMode {
                names: names("VolumeSetMode.names", &r.names)?,
                mode: disk_mode("VolumeSetMode.mode", r.mode)?,
            },
            Kind::VolumeShrink(r) => {
                R::VolumeShrink { name: name("VolumeShrink.name", &r.name)?, size: r.size, gateway: r.gateway }
            }
            Kind::SpaceUse(r) => {
                R::SpaceUse { volume: r.volume.map(|v| name("SpaceUseRequest.volume", &v)).transpose()? }
            }
            Kind::VolumeList(_) => R::VolumeList,
            Kind::VolumeShow(r) => R::VolumeShow { name: name("VolumeShow.name", &r.name)? },
            Kind::VolumeDelete(r) => {
                R::VolumeDelete { name: name("VolumeDelete.name", &r.name)?, with_snapshots: r.with_snapshots }
            }
            Kind::SnapshotCreate(r) => R::SnapshotCreate {
                volume: name("SnapshotCreate.volume", &r.volume)?,
                name: name("SnapshotCreate.name", &r.name)?,
                taken_at: r.taken_at,
                thin: r.thin,
            },
            Kind::SnapshotList(r) => {
                R::SnapshotList { volume: r.volume.map(|v| name("SnapshotList.volume", &v)).transpose()? }
            }
            Kind::SnapshotShow(r) => R::SnapshotShow {
                volume: name("SnapshotShow.volume", &r.volume)?,
                name: name("SnapshotShow.name", &r.name)?,
            },
            Kind::VolumeRevert(r) => R::VolumeRevert {
                volume: name("VolumeRevert.volume", &r.volume)?,
                snapshot: name("VolumeRevert.snapshot", &r.snapshot)?,
                force: r.force,
            },
            Kind::VolumeClone(r) => R::VolumeClone {
                source: disk_name("VolumeClone.source", &r.source)?,
                names: names("VolumeClone.names", &r.names)?,
                pool: r.pool.map(|p| name("VolumeClone.pool", &p)).transpose()?,
            },
            Kind::VolumeExtend(r) => R::VolumeExtend { name: name("VolumeExtend.name", &r.name)?, size: r.size },
            Kind::Attach(r) => R::Attach {
                name: disk_name("Attach.name", &r.name)?,
                mode: r.mode().try_into()?,
                gateway: r.gateway,
                read_only: r.read_only,
            },
            Kind::Detach(r) => R::Detach { name: disk_name("Detach.name", &r.name)?, gateway: r.gateway },
            Kind::OpenAttachment(r) => R::OpenAttachment {
                name: disk_name("OpenAttachment.name", &r.name)?,
                gateway: r.gateway,
                boot: BootId(r.boot),
            },
            Kind::SessionGrant(r) => {
                R::SessionGrant { name: disk_name("SessionGrant.name", &r.name)?, session: SessionId(r.session) }
            }
            Kind::BaseGrant(r) => R::BaseGrant { volume: VolumeId(r.volume), layer: LayerId(r.layer) },
            Kind::SnapshotDelete(r) => R::SnapshotDelete {
                volume: name("SnapshotDelete.volume", &r.volume)?,
                name: name("SnapshotDelete.name", &r.name)?,
            },
            Kind::MergeDone(r) => R::MergeDone { merge: r.merge, pgs: r.pgs.into_iter().map(pg_from_proto).collect() },
            Kind::SnapshotGroupCreate(r) => R::SnapshotGroupCreate {
                name: name("SnapshotGroupCreate.name", &r.name)?,
                volumes: names("SnapshotGroupCreate.volumes", &r.volumes)?,
                taken_at: r.taken_at,
            },
            Kind::SnapshotGroupList(_) => R::SnapshotGroupList,
            Kind::SnapshotGroupShow(r) => R::SnapshotGroupShow { name: name("SnapshotGroupShow.name", &r.name)? },
            Kind::SnapshotGroupDelete(r) => R::SnapshotGroupDelete { name: name("SnapshotGroupDelete.name", &r.name)? },
            Kind::VolumeFlatten(r) => R::VolumeFlatten { name: name("VolumeFlatten.name", &r.name)?, rate: r.rate },
            Kind::JobList(_) => R::JobList,
            Kind::JobSet(r) => R::JobSet { job: JobId(r.job), rate: r.rate, paused: r.paused },
            Kind::JobCancel(r) => R::JobCancel { job: JobId(r.job) },
            Kind::JobTake(r) => R::JobTake { gateway: r.gateway, boot: BootId(r.boot), shrinks_only: r.shrinks_only },
            Kind::ShrinkStart(r) => {
                R::ShrinkStart { name: name("ShrinkStart.name", &r.name)?, size: r.size, force: r.force }
            }
            Kind::ShrinkEnd(r) => {
                let (job, session, disk) = (JobId(r.job), SessionId(r.session), SessionId(r.disk));
                R::ShrinkEnd { job, session, disk, refusal: r.refusal }
            }
            Kind::JobGrant(r) => R::JobGrant { job: JobId(r.job), session: SessionId(r.session) },
            Kind::JobProgress(r) => R::JobProgress {
                job: JobId(r.job),
                session: SessionId(r.session),
                position: r.position,
                filled: r.filled,
                trouble: r.trouble,
            },
            Kind::JobDone(r) => R::JobDone { job: JobId(r.job), session: SessionId(r.session) },
            Kind::PoolKeepDeleted(r) => {
                R::PoolKeepDeleted { name: name("PoolKeepDeleted.name", &r.name)?, retention: r.retention }
            }
            Kind::VolumeToBin(r) => R::VolumeToBin {
                name: name("VolumeToBin.name", &r.name)?,
                with_snapshots: r.with_snapshots,
                retention: r.retention,
                at: r.at,
            },
            Kind::BinList(_) => R::BinList,
            Kind::BinRestore(r) => R::BinRestore {
                volume: VolumeId(r.volume),
                name: r.name.map(|n| name("BinRestore.name", &n)).transpose()?,
            },
            Kind::BinPurge(r) => R::BinPurge { volume: VolumeId(r.volume) },
            Kind::BinPurgeExpired(r) => R::BinPurgeExpired { volume: VolumeId(r.volume), secure: r.secure },
            Kind::VolumeWipe(r) => {
                R::VolumeWipe { name: name("VolumeWipe.name", &r.name)?, with_snapshots: r.with_snapshots, at: r.at }
            }
            Kind::BinWipe(r) => R::BinWipe { volume: VolumeId(r.volume), at: r.at },
            Kind::WipeList(_) => R::WipeList,
            Kind::WipeDone(r) => R::WipeDone {
                osd: OsdId(r.osd),
                wipes: r.wipes.into_iter().map(WipeId).collect(),
                report: super::wipe::report(r.report)?,
            },
            Kind::VolumeSetWipeFreed(r) => {
                R::VolumeSetWipeFreed { names: names("VolumeSetWipeFreed.names", &r.names)?, on: r.on }
            }
            Kind::WipeForget(r) => R::WipeForget { wipe: WipeId(r.wipe), give_up: r.give_up },
            Kind::AttachmentList(r) => R::AttachmentList { gateway: r.gateway },
            Kind::RegisterGateway(r) => R::RegisterGateway {
                gateway: r.gateway,
                boot: BootId(r.boot),
                nbd_address: r.nbd_address,
                nbd_socket: r.nbd_socket,
            },
            Kind::OsdCreate(r) => R::OsdCreate { host: r.host },
            Kind::OsdRegister(r) => R::OsdRegister {
                osd: OsdId(r.osd),
                boot: BootId(r.boot),
                address: r.address,
                host: r.host,
                capacity: r.capacity,
            },
            Kind::OsdHeartbeat(r) => R::OsdHeartbeat(r.into()),
            Kind::OsdStopping(r) => R::OsdStopping { osd: OsdId(r.osd), boot: BootId(r.boot) },
            Kind::PgChange(r) => R::PgChange {
                pg: pg_required("PgChange.pg", r.pg)?,
                epoch: Epoch(r.epoch),
                from: OsdId(r.from),
                change: required("PgChange.change", r.change)?.into(),
            },
            Kind::BarrierPassed(r) => {
                R::BarrierPassed { barrier: r.barrier, pgs: r.pgs.into_iter().map(pg_from_proto).collect() }
            }
            Kind::ViewSince(r) => R::ViewSince { revision: Revision(r.revision) },
            Kind::ServiceStatus(_) => R::ServiceStatus,
            Kind::ScrubStart(r) => {
                R::ScrubStart { target: required("ScrubStart.target", r.target)?.try_into()?, deep: r.deep }
            }
            Kind::ScrubCancel(r) => R::ScrubCancel { target: required("ScrubCancel.target", r.target)?.try_into()? },
            Kind::ScrubDone(r) => R::ScrubDone {
                pg: pg_required("ScrubDone.pg", r.pg)?,
                epoch: Epoch(r.epoch),
                from: OsdId(r.from),
                report: required("ScrubDone.report", r.report)?.try_into()?,
            },
            Kind::PerfStatus(_) => R::PerfStatus,
        })
    }
}

impl From<AttachMode> for proto::AttachMode {
    fn from(mode: AttachMode) -> Self {
        match mode {
            AttachMode::Exclusive => proto::AttachMode::Exclusive,
            AttachMode::Shared => proto::AttachMode::Shared,
            AttachMode::Force => proto::AttachMode::Force,
        }
    }
}

impl TryFrom<proto::AttachMode> for AttachMode {
    type Error = ProtoError;
    fn try_from(mode: proto::AttachMode) -> Result<Self, ProtoError> {
        match mode {
            proto::AttachMode::Unspecified => Err(ProtoError::Missing("Attach.mode")),
            proto::AttachMode::Exclusive => Ok(AttachMode::Exclusive),
            proto::AttachMode::Shared => Ok(AttachMode::Shared),
            proto::AttachMode::Force => Ok(AttachMode::Force),
        }
    }
}

impl From<PgChange> for proto::pg_change::Change {
    fn from(change: PgChange) -> Self {
        use proto::pg_change::Change;
        match change {
            PgChange::Remove(osd) => Change::Remove(osd.0),
            PgChange::Add(osd) => Change::Add(osd.0),
            PgChange::NextEpoch => Change::NextEpoch(proto::Nothing {}),
            PgChange::Resign => Change::Resign(proto::Nothing {}),
        }
    }
}

impl From<proto::pg_change::Change> for PgChange {
    fn from(change: proto::pg_change::Change) -> Self {
        use proto::pg_change::Change;
        match change {
            Change::Remove(osd) => PgChange::Remove(OsdId(osd)),
            Change::Add(osd) => PgChange::Add(OsdId(osd)),
            Change::NextEpoch(_) => PgChange::NextEpoch,
            Change::Resign(_) => PgChange::Resign,
        }
    }
}

impl From<OsdHeartbeat> for proto::OsdHeartbeat {
    fn from(h: OsdHeartbeat) -> Self {
        let suspect = |(osd, boot): (OsdId, BootId)| proto::osd_heartbeat::Suspect { osd: osd.0, boot: boot.0 };
        let layer = |(layer, blocks): (LayerId, u64)| proto::osd_heartbeat::Layer { layer: layer.0, blocks };
        proto::OsdHeartbeat {
            osd: h.osd.0,
            boot: h.boot.0,
            suspects: h.suspects.into_iter().map(suspect).collect(),
            usage: Some((*h.usage).into()),
            view: h.view.0,
            layers: h.layers.into_iter().map(layer).collect(),
            perf: stages_to_proto(h.perf),
        }
    }
}

impl From<proto::OsdHeartbeat> for OsdHeartbeat {
    fn from(h: proto::OsdHeartbeat) -> Self {
        OsdHeartbeat {
            osd: OsdId(h.osd),
            boot: BootId(h.boot),
            suspects: h.suspects.into_iter().map(|s| (OsdId(s.osd), BootId(s.boot))).collect(),
            usage: Box::new(h.usage.unwrap_or_default().into()),
            view: Revision(h.view),
            layers: h.layers.into_iter().map(|of| (LayerId(of.layer), of.blocks)).collect(),
            perf: stages_from_proto(h.perf),
        }
    }
}

impl From<OsdUsage> for proto::OsdUsage {
    fn from(usage: OsdUsage) -> Self {
        proto::OsdUsage {
            total: usage.total,
            used: usage.used,
            repaired_blocks: usage.repaired_blocks,
            lost_blocks: usage.lost_blocks,
            free: usage.free,
            unfilled: usage.unfilled,
            fixed: usage.fixed,
            index: usage.index,
            data: usage.data,
            wipe_left: usage.wipe_left,
            unwiped: usage.unwiped,
            wipe_unverified: usage.wipe_unverified,
        }
    }
}

impl From<proto::OsdUsage> for OsdUsage {
    fn from(usage: proto::OsdUsage) -> Self {
        OsdUsage {
            total: usage.total,
            used: usage.used,
            repaired_blocks: usage.repaired_blocks,
            lost_blocks: usage.lost_blocks,
            free: usage.free,
            unfilled: usage.unfilled,
            fixed: usage.fixed,
            index: usage.index,
            data: usage.data,
            wipe_left: usage.wipe_left,
            unwiped: usage.unwiped,
            wipe_unverified: usage.wipe_unverified,
        }
    }
}
