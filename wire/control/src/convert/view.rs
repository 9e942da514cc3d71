//! `ashlar_types::view`.

use super::scrub::{scrub_from_proto, scrub_to_proto};
use super::{ProtoError, byte, cluster_from_bytes, cluster_to_bytes, each, name, pg_from_proto, pg_required};
use super::{pg_to_proto, required};
use crate::proto;
use ashlar_types::view::{Barrier, ClusterView, Floor, Merge, OsdInfo, PgConfig, PoolInfo};
use ashlar_types::{
    AttachmentId, BootId, Epoch, Generation, IdSet, LayerId, Numbered, OsdId, PoolId, Revision, StackRevision, VolumeId,
};

impl From<ClusterView> for proto::ClusterView {
    fn from(v: ClusterView) -> Self {
        proto::ClusterView {
            cluster: cluster_to_bytes(v.cluster),
            revision: v.revision.0,
            osds: v.osds.into_values().map(Into::into).collect(),
            pools: v.pools.into_values().map(Into::into).collect(),
            pgs: v.pgs.into_values().map(Into::into).collect(),
            barriers: v.barriers.into_iter().map(Into::into).collect(),
            scrubs: v.scrubs.into_iter().map(scrub_to_proto).collect(),
            merges: v.merges.into_iter().map(Into::into).collect(),
            reservations: v.reservations.map(Into::into),
            wipes: v.wipes.into_iter().map(Into::into).collect(),
            wipe_freed: v.wipe_freed.map(Into::into),
        }
    }
}

impl TryFrom<proto::ClusterView> for ClusterView {
    type Error = ProtoError;
    fn try_from(v: proto::ClusterView) -> Result<Self, ProtoError> {
        Ok(ClusterView {
            cluster: cluster_from_bytes("ClusterView.cluster", &v.cluster)?,
            revision: Revision(v.revision),
            osds: v.osds.into_iter().map(|o| (OsdId(o.id), o.into())).collect(),
            pools: each::<_, PoolInfo>(v.pools)?.into_iter().map(|p| (p.id, p)).collect(),
            pgs: each::<_, PgConfig>(v.pgs)?.into_iter().map(|p| (p.pg, p)).collect(),
            barriers: each(v.barriers)?,
            merges: v.merges.into_iter().map(Into::into).collect(),
            scrubs: v.scrubs.into_iter().map(scrub_from_proto).collect::<Result<_, _>>()?,
            reservations: v.reservations.map(TryInto::try_into).transpose()?,
            wipes: v.wipes.into_iter().map(Into::into).collect(),
            wipe_freed: v.wipe_freed.map(Into::into),
        })
    }
}

impl From<OsdInfo> for proto::OsdInfo {
    fn from(o: OsdInfo) -> Self {
        proto::OsdInfo { id: o.id.0, boot: o.boot.0, up: o.up, address: o.address, host: o.host, capacity: o.capacity }
    }
}

impl From<proto::OsdInfo> for OsdInfo {
    fn from(o: proto::OsdInfo) -> Self {
        OsdInfo {
            id: OsdId(o.id),
            boot: BootId(o.boot),
            up: o.up,
            address: o.address,
            host: o.host,
            capacity: o.capacity,
        }
    }
}

impl From<PoolInfo> for proto::PoolInfo {
    fn from(p: PoolInfo) -> Self {
        proto::PoolInfo {
            id: p.id.0,
            name: p.name.into(),
            replicas: p.replicas.into(),
            min_size: p.min_size.into(),
            pg_count: p.pg_count,
        }
    }
}

impl TryFrom<proto::PoolInfo> for PoolInfo {
    type Error = ProtoError;
    fn try_from(p: proto::PoolInfo) -> Result<Self, ProtoError> {
        if p.pg_count == 0 {
            return Err(ProtoError::Range { field: "PoolInfo.pg_count", found: 0 });
        }
        Ok(PoolInfo {
            id: PoolId(p.id),
            name: name("PoolInfo.name", &p.name)?,
            replicas: byte("PoolInfo.replicas", p.replicas)?,
            min_size: byte("PoolInfo.min_size", p.min_size)?,
            pg_count: p.pg_count,
        })
    }
}

impl From<PgConfig> for proto::PgConfig {
    fn from(c: PgConfig) -> Self {
        proto::PgConfig {
            pg: Some(pg_to_proto(c.pg)),
            epoch: c.epoch.0,
            members: c.members.into_iter().map(|m| m.0).collect(),
            in_sync: c.in_sync.into_iter().map(|m| m.0).collect(),
            primary: c.primary.map(|p| p.0),
            primary_boot: c.primary_boot.0,
            min_size: c.min_size.into(),
        }
    }
}

impl TryFrom<proto::PgConfig> for PgConfig {
    type Error = ProtoError;
    fn try_from(c: proto::PgConfig) -> Result<Self, ProtoError> {
        if c.epoch > Epoch::MAX.0 {
            return Err(ProtoError::Range { field: "PgConfig.epoch", found: c.epoch.into() });
        }
        Ok(PgConfig {
            pg: pg_required("PgConfig.pg", c.pg)?,
            epoch: Epoch(c.epoch),
            members: c.members.into_iter().map(OsdId).collect(),
            in_sync: c.in_sync.into_iter().map(OsdId).collect(),
            primary: c.primary.map(OsdId),
            primary_boot: BootId(c.primary_boot),
            min_size: byte("PgConfig.min_size", c.min_size)?,
        })
    }
}

impl From<Floor> for proto::Floor {
    fn from(f: Floor) -> Self {
        let lowest = |(a, g): (AttachmentId, Generation)| proto::floor::Lowest { attachment: a.0, generation: g.0 };
        proto::Floor {
            stack_revision: f.stack_revision.0,
            oldest_attachment: f.oldest_attachment.0,
            generations: f.generations.into_iter().map(lowest).collect(),
            closed: f.closed,
        }
    }
}

impl From<proto::Floor> for Floor {
    fn from(f: proto::Floor) -> Self {
        Floor {
            stack_revision: StackRevision(f.stack_revision),
            oldest_attachment: AttachmentId(f.oldest_attachment),
            generations: f
                .generations
                .into_iter()
                .map(|l| (AttachmentId(l.attachment), Generation(l.generation)))
                .collect(),
            closed: f.closed,
        }
    }
}

impl From<Barrier> for proto::Barrier {
    fn from(b: Barrier) -> Self {
        proto::Barrier {
            id: b.id,
            volume: b.volume.0,
            floor: Some(b.floor.into()),
            pgs: b.pgs.into_iter().map(pg_to_proto).collect(),
            gone: ranges_to_proto(&b.gone),
            retire: ranges_to_proto(&b.retire),
        }
    }
}

impl TryFrom<proto::Barrier> for Barrier {
    type Error = ProtoError;
    fn try_from(b: proto::Barrier) -> Result<Self, ProtoError> {
        Ok(Barrier {
            id: b.id,
            volume: VolumeId(b.volume),
            floor: required("Barrier.floor", b.floor)?.into(),
            pgs: b.pgs.into_iter().map(pg_from_proto).collect(),
            gone: ranges_from_proto(b.gone),
            retire: ranges_from_proto(b.retire),
        })
    }
}

impl From<Merge> for proto::Merge {
    fn from(m: Merge) -> Self {
        let pgs = m.pgs.into_iter().map(pg_to_proto).collect();
        proto::Merge { id: m.id, volume: m.volume.0, from: m.from.0, into: m.into.0, pgs }
    }
}

impl From<proto::Merge> for Merge {
    fn from(m: proto::Merge) -> Self {
        let pgs = m.pgs.into_iter().map(pg_from_proto).collect();
        Merge { id: m.id, volume: VolumeId(m.volume), from: LayerId(m.from), into: LayerId(m.into), pgs }
    }
}

pub(super) fn ranges_to_proto<T: Numbered>(ids: &IdSet<T>) -> Vec<proto::IdRange> {
    ids.ranges().map(|(first, last)| proto::IdRange { first: first.number(), last: last.number() }).collect()
}

/// In whatever order: the set is the same.
pub(super) fn ranges_from_proto<T: Numbered>(ranges: Vec<proto::IdRange>) -> IdSet<T> {
    let mut ids = IdSet::default();
    ranges.into_iter().for_each(|r| ids.insert(T::of(r.first), T::of(r.last)));
    ids
}
