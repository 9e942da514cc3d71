//! What is in the bin, of `ashlar_types::control`.

use super::{ProtoError, each, name};
use crate::proto;
use ashlar_types::VolumeId;
use ashlar_types::control::BinInfo;

impl From<BinInfo> for proto::BinInfo {
    fn from(b: BinInfo) -> Self {
        proto::BinInfo {
            id: b.id.0,
            name: b.name.into(),
            size: b.size,
            pool_name: b.pool_name.into(),
            deleted_at: b.deleted_at,
            expires_at: b.expires_at,
            snapshots: b.snapshots,
            clones: b.clones,
            volume: b.volume.map(|volume| (*volume).into()),
            own: b.own.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::BinInfo> for BinInfo {
    type Error = ProtoError;
    fn try_from(b: proto::BinInfo) -> Result<Self, ProtoError> {
        Ok(BinInfo {
            id: VolumeId(b.id),
            name: name("BinInfo.name", &b.name)?,
            size: b.size,
            pool_name: name("BinInfo.pool_name", &b.pool_name)?,
            deleted_at: b.deleted_at,
            expires_at: b.expires_at,
            snapshots: b.snapshots,
            clones: b.clones,
            volume: b.volume.map(|volume| Ok(Box::new(volume.try_into()?))).transpose()?,
            own: each(b.own)?,
        })
    }
}
