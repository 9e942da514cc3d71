//! `ashlar_types::control::ControlReply`, and an answer: a reply or a refusal.

use super::job::{taken_from_proto, taken_to_proto};
use super::mode::disk_mode;
use super::space::{osd_usage_from_proto, osd_usage_to_proto, provision};
use super::{
    ProtoError, cluster_from_bytes, cluster_to_bytes, disk_name, each, name, pg_from_proto, pg_to_proto, required,
};
use crate::proto;
use crate::proto::control_reply::Reply as Kind;
use ashlar_types::control::{
    AttachGrant, AttachmentInfo, BaseLayer, ControlError, ControlReply, OriginInfo, ServiceStatus, VolumeInfo,
    VolumeState,
};
use ashlar_types::{
    AttachmentId, Generation, LayerId, MdsId, OsdId, PoolId, Revision, SessionId, StackRevision, VolumeId,
};

impl From<Result<ControlReply, ControlError>> for proto::ControlAnswer {
    fn from(result: Result<ControlReply, ControlError>) -> Self {
        use proto::control_answer::Answer;
        let answer = match result {
            Ok(reply) => Answer::Reply(reply.into()),
            Err(error) => Answer::Error(error.into()),
        };
        proto::ControlAnswer { answer: Some(answer) }
    }
}

impl TryFrom<proto::ControlAnswer> for Result<ControlReply, ControlError> {
    type Error = ProtoError;
    fn try_from(answer: proto::ControlAnswer) -> Result<Self, ProtoError> {
        use proto::control_answer::Answer;
        match required("ControlAnswer.answer", answer.answer)? {
            Answer::Reply(reply) => Ok(Ok(reply.try_into()?)),
            Answer::Error(error) => Ok(Err(error.try_into()?)),
        }
    }
}

impl From<ControlReply> for proto::ControlReply {
    fn from(reply: ControlReply) -> Self {
        use ControlReply as R;
        let kind = match reply {
            R::Done { revision } => Kind::Done(proto::Done { revision: revision.0 }),
            R::Pool(pool) => Kind::Pool(pool.into()),
            R::Pools(pools) => Kind::Pools(proto::Pools { pools: pools.into_iter().map(Into::into).collect() }),
            R::Volume(volume) => Kind::Volume(volume.into()),
            R::Volumes(volumes) => {
                Kind::Volumes(proto::Volumes { volumes: volumes.into_iter().map(Into::into).collect() })
            }
            R::Snapshot(snapshot) => Kind::Snapshot(snapshot.into()),
            R::Snapshots(snapshots) => {
                Kind::Snapshots(proto::Snapshots { snapshots: snapshots.into_iter().map(Into::into).collect() })
            }
            R::SnapshotGroup(group) => Kind::SnapshotGroup(group.into()),
            R::Job(job) => Kind::Job((*job).into()),
            R::Jobs(jobs) => Kind::Jobs(proto::Jobs { jobs: jobs.into_iter().map(Into::into).collect() }),
            R::JobTaken(taken) => Kind::JobTaken(taken_to_proto(taken)),
            R::JobWork(work) => Kind::JobWork((*work).into()),
            R::SnapshotGroups(groups) => {
                Kind::SnapshotGroups(proto::SnapshotGroups { groups: groups.into_iter().map(Into::into).collect() })
            }
            R::Wipes(wipes) => Kind::Wipes(proto::Wipes { wipes: wipes.into_iter().map(Into::into).collect() }),
            R::Bin(volumes) => Kind::Bin(proto::Bin { volumes: volumes.into_iter().map(Into::into).collect() }),
            R::Attachment(attachment) => Kind::Attachment(attachment.into()),
            R::Attachments(attachments) => {
                Kind::Attachments(proto::Attachments { attachments: attachments.into_iter().map(Into::into).collect() })
            }
            R::Opened(grant) if grant.base.is_some() => Kind::OpenedClone(grant.into()),
            R::Opened(grant) => Kind::Opened(grant.into()),
            R::OsdCreated { osd, cluster } => {
                Kind::OsdCreated(proto::OsdCreated { osd: osd.0, cluster: cluster_to_bytes(cluster) })
            }
            R::View(view) => Kind::View((*view).into()),
            R::Status(status) => Kind::Status(status.into()),
            R::Scrub { number, pgs } => {
                Kind::Scrub(proto::Scrubs { number, pgs: pgs.into_iter().map(pg_to_proto).collect() })
            }
            R::Space(report) => Kind::Space(report.into()),
            R::Perf(osds) => Kind::Perf(proto::PerfReports { osds: osds.into_iter().map(Into::into).collect() }),
        };
        proto::ControlReply { reply: Some(kind) }
    }
}

impl TryFrom<proto::ControlReply> for ControlReply {
    type Error = ProtoError;
    fn try_from(reply: proto::ControlReply) -> Result<Self, ProtoError> {
        use ControlReply as R;
        Ok(match required("ControlReply.reply", reply.reply)? {
            Kind::Done(done) => R::Done { revision: Revision(done.revision) },
            Kind::Pool(pool) => R::Pool(pool.try_into()?),
            Kind::Pools(pools) => R::Pools(each(pools.pools)?),
            Kind::Volume(volume) => R::Volume(volume.try_into()?),
            Kind::Volumes(volumes) => R::Volumes(each(volumes.volumes)?),
            Kind::Snapshot(snapshot) => R::Snapshot(snapshot.try_into()?),
            Kind::Snapshots(snapshots) => R::Snapshots(each(snapshots.snapshots)?),
            Kind::SnapshotGroup(group) => R::SnapshotGroup(group.try_into()?),
            Kind::Job(job) => R::Job(Box::new(job.try_into()?)),
            Kind::Jobs(jobs) => R::Jobs(each(jobs.jobs)?),
            Kind::JobTaken(taken) => R::JobTaken(taken_from_proto(taken)),
            Kind::JobWork(work) => R::JobWork(Box::new(work.try_into()?)),
            Kind::SnapshotGroups(groups) => R::SnapshotGroups(each(groups.groups)?),
            Kind::Wipes(wipes) => R::Wipes(each(wipes.wipes)?),
            Kind::Bin(bin) => R::Bin(each(bin.volumes)?),
            Kind::Attachment(attachment) => R::Attachment(attachment.try_into()?),
            Kind::Attachments(attachments) => R::Attachments(each(attachments.attachments)?),
            Kind::Opened(grant) => R::Opened(grant.try_into()?),
            Kind::OpenedClone(grant) if grant.base.is_none() => return Err(ProtoError::Missing("AttachGrant.base")),
            Kind::OpenedClone(grant) => R::Opened(grant.try_into()?),
            Kind::OsdCreated(created) => R::OsdCreated {
                osd: OsdId(created.osd),
                cluster: cluster_from_bytes("OsdCreated.cluster", &created.cluster)?,
            },
            Kind::View(view) => R::View(Box::new(view.try_into()?)),
            Kind::Status(status) => R::Status(status.into()),
            Kind::Scrub(scrub) => {
                R::Scrub { number: scrub.number, pgs: scrub.pgs.into_iter().map(pg_from_proto).collect() }
            }
            Kind::Space(report) => R::Space(report.into()),
            Kind::Perf(perf) => R::Perf(perf.osds.into_iter().map(Into::into).collect()),
        })
    }
}

impl From<ServiceStatus> for proto::ServiceStatus {
    fn from(status: ServiceStatus) -> Self {
        proto::ServiceStatus {
            leader: status.leader.0,
            address: status.address,
            usage: status.usage.into_iter().map(osd_usage_to_proto).collect(),
            volumes_kept: status.volumes_kept,
            volumes_in_bin: status.volumes_in_bin,
            bin_bytes: status.bin_bytes,
        }
    }
}

impl From<proto::ServiceStatus> for ServiceStatus {
    fn from(status: proto::ServiceStatus) -> Self {
        ServiceStatus {
            leader: MdsId(status.leader),
            address: status.address,
            usage: status.usage.into_iter().map(osd_usage_from_proto).collect(),
            volumes_kept: status.volumes_kept,
            volumes_in_bin: status.volumes_in_bin,
            bin_bytes: status.bin_bytes,
        }
    }
}

impl From<VolumeInfo> for proto::VolumeInfo {
    fn from(v: VolumeInfo) -> Self {
        let state = match v.state {
            VolumeState::Creating => proto::VolumeState::Creating,
            VolumeState::Available => proto::VolumeState::Available,
            VolumeState::Attached => proto::VolumeState::Attached,
            VolumeState::Deleting => proto::VolumeState::Deleting,
        };
        proto::VolumeInfo {
            id: v.id.0,
            name: v.name.into(),
            size: v.size,
            pool: v.pool.0,
            pool_name: v.pool_name.into(),
            state: state.into(),
            placement_key: v.placement_key,
            stack_revision: v.stack_revision.0,
            layers: v.layers.into_iter().map(|l| l.0).collect(),
            attachments: v.attachments.into_iter().map(Into::into).collect(),
            origin: v.origin.map(|origin| (*origin).into()),
            clones: v.clones,
            provision: proto::Provision::from(v.provision).into(),
            is_reserving: v.is_reserving,
            disk_mode: proto::DiskMode::from(v.disk_mode).into(),
            wipe_freed: v.wipe_freed,
        }
    }
}

impl TryFrom<proto::VolumeInfo> for VolumeInfo {
    type Error = ProtoError;
    fn try_from(v: proto::VolumeInfo) -> Result<Self, ProtoError> {
        let state = match v.state() {
            proto::VolumeState::Unspecified => return Err(ProtoError::Missing("VolumeInfo.state")),
            proto::VolumeState::Creating => VolumeState::Creating,
            proto::VolumeState::Available => VolumeState::Available,
            proto::VolumeState::Attached => VolumeState::Attached,
            proto::VolumeState::Deleting => VolumeState::Deleting,
        };
        Ok(VolumeInfo {
            id: VolumeId(v.id),
            name: name("VolumeInfo.name", &v.name)?,
            size: v.size,
            pool: PoolId(v.pool),
            pool_name: name("VolumeInfo.pool_name", &v.pool_name)?,
            state,
            placement_key: v.placement_key,
            stack_revision: StackRevision(v.stack_revision),
            layers: v.layers.into_iter().map(LayerId).collect(),
            attachments: each(v.attachments)?,
            origin: v.origin.map(|origin| Ok(Box::new(origin.try_into()?))).transpose()?,
            clones: v.clones,
            provision: provision("VolumeInfo.provision", v.provision)?,
            is_reserving: v.is_reserving,
            disk_mode: disk_mode("VolumeInfo.disk_mode", v.disk_mode)?,
            wipe_freed: v.wipe_freed,
        })
    }
}

impl From<OriginInfo> for proto::OriginInfo {
    fn from(o: OriginInfo) -> Self {
        proto::OriginInfo {
            base: Some(o.base.into()),
            volume_name: o.volume_name.into(),
            snapshot: o.snapshot.map(Into::into),
            deleted: o.deleted,
        }
    }
}

impl TryFrom<proto::OriginInfo> for OriginInfo {
    type Error = ProtoError;
    fn try_from(o: proto::OriginInfo) -> Result<Self, ProtoError> {
        Ok(OriginInfo {
            base: required("OriginInfo.base", o.base)?.into(),
            volume_name: name("OriginInfo.volume_name", &o.volume_name)?,
            snapshot: o.snapshot.map(|s| name("OriginInfo.snapshot", &s)).transpose()?,
            deleted: o.deleted,
        })
    }
}

impl From<BaseLayer> for proto::BaseLayer {
    fn from(base: BaseLayer) -> Self {
        proto::BaseLayer { volume: base.volume.0, layer: base.layer.0, size: base.size }
    }
}

impl From<proto::BaseLayer> for BaseLayer {
    fn from(base: proto::BaseLayer) -> Self {
        BaseLayer { volume: VolumeId(base.volume), layer: LayerId(base.layer), size: base.size }
    }
}

impl From<AttachmentInfo> for proto::AttachmentInfo {
    fn from(a: AttachmentInfo) -> Self {
        proto::AttachmentInfo {
            id: a.id.0,
            volume: a.volume.0,
            volume_name: a.name.to_string(),
            gateway: a.gateway,
            generation: a.generation.0,
            shared: a.shared,
            read_only: a.read_only,
            active: a.active,
            nbd_address: a.nbd_address,
            nbd_socket: a.nbd_socket,
        }
    }
}

impl TryFrom<proto::AttachmentInfo> for AttachmentInfo {
    type Error = ProtoError;
    fn try_from(a: proto::AttachmentInfo) -> Result<Self, ProtoError> {
        Ok(AttachmentInfo {
            id: AttachmentId(a.id),
            volume: VolumeId(a.volume),
            name: disk_name("AttachmentInfo.volume_name", &a.volume_name)?,
            gateway: a.gateway,
            generation: Generation(a.generation),
            shared: a.shared,
            read_only: a.read_only,
            active: a.active,
            nbd_address: a.nbd_address,
            nbd_socket: a.nbd_socket,
        })
    }
}

impl From<AttachGrant> for proto::AttachGrant {
    fn from(g: AttachGrant) -> Self {
        proto::AttachGrant {
            volume: g.volume.0,
            name: g.name.to_string(),
            attachment: g.attachment.0,
            generation: g.generation.0,
            session: g.session.0,
            pool: g.pool.0,
            placement_key: g.placement_key,
            stack_revision: g.stack_revision.0,
            layers: g.layers.into_iter().map(|l| l.0).collect(),
            size: g.size,
            read_only: g.read_only,
            base: g.base.map(Into::into),
        }
    }
}

impl TryFrom<proto::AttachGrant> for AttachGrant {
    type Error = ProtoError;
    fn try_from(g: proto::AttachGrant) -> Result<Self, ProtoError> {
        Ok(AttachGrant {
            volume: VolumeId(g.volume),
            name: disk_name("AttachGrant.name", &g.name)?,
            attachment: AttachmentId(g.attachment),
            generation: Generation(g.generation),
            session: SessionId(g.session),
            pool: PoolId(g.pool),
            placement_key: g.placement_key,
            stack_revision: StackRevision(g.stack_revision),
            layers: g.layers.into_iter().map(LayerId).collect(),
            size: g.size,
            read_only: g.read_only,
            base: g.base.map(Into::into),
        })
    }
}
