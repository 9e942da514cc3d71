//! Snapshots and groups of them, of `ashlar_types::control`.

use super::{ProtoError, each, name, names};
use crate::proto;
use ashlar_types::control::{SnapshotGroupInfo, SnapshotInfo, SnapshotState};
use ashlar_types::{LayerId, SnapshotId, VolumeId};

impl From<SnapshotState> for proto::SnapshotState {
    fn from(state: SnapshotState) -> Self {
        match state {
            SnapshotState::Creating => proto::SnapshotState::Creating,
            SnapshotState::Available => proto::SnapshotState::Available,
        }
    }
}

fn state(field: &'static str, state: proto::SnapshotState) -> Result<SnapshotState, ProtoError> {
    match state {
        proto::SnapshotState::Unspecified => Err(ProtoError::Missing(field)),
        proto::SnapshotState::Creating => Ok(SnapshotState::Creating),
        proto::SnapshotState::Available => Ok(SnapshotState::Available),
    }
}

impl From<SnapshotInfo> for proto::SnapshotInfo {
    fn from(s: SnapshotInfo) -> Self {
        proto::SnapshotInfo {
            id: s.id.0,
            name: s.name.into(),
            volume: s.volume.0,
            volume_name: s.volume_name.into(),
            size: s.size,
            taken_at: s.taken_at,
            state: proto::SnapshotState::from(s.state).into(),
            layers: s.layers.into_iter().map(|l| l.0).collect(),
            group: s.group.map(Into::into),
        }
    }
}

impl TryFrom<proto::SnapshotInfo> for SnapshotInfo {
    type Error = ProtoError;
    fn try_from(s: proto::SnapshotInfo) -> Result<Self, ProtoError> {
        let state = state("SnapshotInfo.state", s.state())?;
        Ok(SnapshotInfo {
            id: SnapshotId(s.id),
            name: name("SnapshotInfo.name", &s.name)?,
            volume: VolumeId(s.volume),
            volume_name: name("SnapshotInfo.volume_name", &s.volume_name)?,
            size: s.size,
            taken_at: s.taken_at,
            state,
            layers: s.layers.into_iter().map(LayerId).collect(),
            group: s.group.map(|group| name("SnapshotInfo.group", &group)).transpose()?,
        })
    }
}

impl From<SnapshotGroupInfo> for proto::SnapshotGroupInfo {
    fn from(g: SnapshotGroupInfo) -> Self {
        proto::SnapshotGroupInfo {
            name: g.name.into(),
            taken_at: g.taken_at,
            state: proto::SnapshotState::from(g.state).into(),
            snapshots: g.snapshots.into_iter().map(Into::into).collect(),
            in_bin: g.in_bin,
            left_out: g.left_out.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::SnapshotGroupInfo> for SnapshotGroupInfo {
    type Error = ProtoError;
    fn try_from(g: proto::SnapshotGroupInfo) -> Result<Self, ProtoError> {
        let state = state("SnapshotGroupInfo.state", g.state())?;
        Ok(SnapshotGroupInfo {
            name: name("SnapshotGroupInfo.name", &g.name)?,
            taken_at: g.taken_at,
            state,
            snapshots: each(g.snapshots)?,
            in_bin: g.in_bin,
            left_out: names("SnapshotGroupInfo.left_out", &g.left_out)?,
        })
    }
}
