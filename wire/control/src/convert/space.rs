//! What is used and what is reserved.

use super::{ProtoError, pg_required, pg_to_proto};
use crate::proto;
use ashlar_types::control::{OsdUsage, OverCommit, PoolSpace, Provision, SpaceReport, SpaceUse};
use ashlar_types::view::Reservations;
use ashlar_types::{LayerId, OsdId, PgId, PoolId, VolumeId};

pub(super) fn osd_usage_to_proto((osd, usage): (OsdId, OsdUsage)) -> proto::service_status::Usage {
    proto::service_status::Usage { osd: osd.0, usage: Some(usage.into()) }
}

pub(super) fn osd_usage_from_proto(of: proto::service_status::Usage) -> (OsdId, OsdUsage) {
    (OsdId(of.osd), of.usage.unwrap_or_default().into())
}

/// What only a newer version knows is refused: taken for thin it would promise less than was asked for.
pub(super) fn provision(field: &'static str, value: i32) -> Result<Provision, ProtoError> {
    match proto::Provision::try_from(value) {
        Ok(proto::Provision::Thin) => Ok(Provision::Thin),
        Ok(proto::Provision::Lazy) => Ok(Provision::Lazy),
        Ok(proto::Provision::Eager) => Ok(Provision::Eager),
        Err(_) => Err(ProtoError::Range { field, found: u64::from(value.unsigned_abs()) }),
    }
}

impl From<Provision> for proto::Provision {
    fn from(provision: Provision) -> Self {
        match provision {
            Provision::Thin => proto::Provision::Thin,
            Provision::Lazy => proto::Provision::Lazy,
            Provision::Eager => proto::Provision::Eager,
        }
    }
}

impl From<SpaceUse> for proto::SpaceUse {
    fn from(used: SpaceUse) -> Self {
        let SpaceUse { live, snapshots, shared, garbage, reserved } = used;
        proto::SpaceUse { live, snapshots, shared, garbage, reserved }
    }
}

impl From<proto::SpaceUse> for SpaceUse {
    fn from(used: proto::SpaceUse) -> Self {
        let proto::SpaceUse { live, snapshots, shared, garbage, reserved } = used;
        SpaceUse { live, snapshots, shared, garbage, reserved }
    }
}

impl From<SpaceReport> for proto::SpaceReport {
    fn from(report: SpaceReport) -> Self {
        use proto::space_report::{Pool, Volume};
        let volume = |(id, used): (VolumeId, SpaceUse)| Volume { volume: id.0, used: Some(used.into()) };
        let pool = |(id, space): (PoolId, PoolSpace)| Pool {
            pool: id.0,
            used: Some(space.used.into()),
            provisioned: space.provisioned,
            capacity: space.capacity,
            over_commit: space.over_commit.map(|ratio| ratio.0),
            retention: space.retention,
            in_bin: space.in_bin,
        };
        proto::SpaceReport {
            volumes: report.volumes.into_iter().map(volume).collect(),
            pools: report.pools.into_iter().map(pool).collect(),
            orphaned: report.orphaned,
            osds: report.osds.into_iter().map(osd_usage_to_proto).collect(),
        }
    }
}

impl From<proto::SpaceReport> for SpaceReport {
    fn from(report: proto::SpaceReport) -> Self {
        use proto::space_report::{Pool, Volume};
        let volume = |of: Volume| (VolumeId(of.volume), of.used.unwrap_or_default().into());
        let pool = |of: Pool| {
            let space = PoolSpace {
                used: of.used.unwrap_or_default().into(),
                provisioned: of.provisioned,
                capacity: of.capacity,
                over_commit: of.over_commit.map(OverCommit),
                retention: of.retention,
                in_bin: of.in_bin,
            };
            (PoolId(of.pool), space)
        };
        SpaceReport {
            volumes: report.volumes.into_iter().map(volume).collect(),
            pools: report.pools.into_iter().map(pool).collect(),
            orphaned: report.orphaned,
            osds: report.osds.into_iter().map(osd_usage_from_proto).collect(),
        }
    }
}

impl From<Reservations> for proto::Reservations {
    fn from(reserved: Reservations) -> Self {
        use proto::reservations::{Pg, Volume};
        let pg = |(pg, chunks): (PgId, u64)| Pg { pg: Some(pg_to_proto(pg)), chunks };
        let volume = |(volume, layer): (VolumeId, LayerId)| Volume { volume: volume.0, layer: layer.0 };
        proto::Reservations {
            pgs: reserved.chunks.into_iter().map(pg).collect(),
            volumes: reserved.volumes.into_iter().map(volume).collect(),
        }
    }
}

impl TryFrom<proto::Reservations> for Reservations {
    type Error = ProtoError;
    fn try_from(reserved: proto::Reservations) -> Result<Self, ProtoError> {
        let pg = |of: proto::reservations::Pg| Ok((pg_required("Reservations.pgs", of.pg)?, of.chunks));
        Ok(Reservations {
            chunks: reserved.pgs.into_iter().map(pg).collect::<Result<_, ProtoError>>()?,
            volumes: reserved.volumes.into_iter().map(|of| (VolumeId(of.volume), LayerId(of.layer))).collect(),
        })
    }
}
