//! Wipes, of `ashlar_types::wipe`.

use super::view::{ranges_from_proto, ranges_to_proto};
use super::{ProtoError, name, required};
use crate::proto;
use ashlar_types::wipe::{FreedWipes, Wipe, WipeInfo, WipePart, WipeReport, WipeState};
use ashlar_types::{LayerId, OsdId, PoolId, VolumeId, WipeId};

impl From<Wipe> for proto::Wipe {
    fn from(w: Wipe) -> Self {
        let osds = w.osds.into_iter().map(|osd| osd.0).collect();
        proto::Wipe { id: w.id.0, volume: w.volume.0, pool: w.pool.0, osds }
    }
}

impl From<proto::Wipe> for Wipe {
    fn from(w: proto::Wipe) -> Self {
        let osds = w.osds.into_iter().map(OsdId).collect();
        Wipe { id: WipeId(w.id), volume: VolumeId(w.volume), pool: PoolId(w.pool), osds }
    }
}

impl From<FreedWipes> for proto::FreedWipes {
    fn from(wipes: FreedWipes) -> Self {
        let FreedWipes { layers, known_below, sweep } = wipes;
        proto::FreedWipes { layers: ranges_to_proto(&layers), known_below: known_below.0, sweep }
    }
}

impl From<proto::FreedWipes> for FreedWipes {
    fn from(wipes: proto::FreedWipes) -> Self {
        let proto::FreedWipes { layers, known_below, sweep } = wipes;
        FreedWipes { layers: ranges_from_proto(layers), known_below: LayerId(known_below), sweep }
    }
}

impl From<WipeReport> for proto::WipeReport {
    fn from(report: WipeReport) -> Self {
        let WipeReport { ended_at, overwritten, found_zero, unverified, damaged_pages } = report;
        proto::WipeReport { ended_at, overwritten, found_zero, unverified, damaged_pages }
    }
}

impl From<proto::WipeReport> for WipeReport {
    fn from(report: proto::WipeReport) -> Self {
        let proto::WipeReport { ended_at, overwritten, found_zero, unverified, damaged_pages } = report;
        WipeReport { ended_at, overwritten, found_zero, unverified, damaged_pages }
    }
}

impl From<WipeInfo> for proto::WipeInfo {
    fn from(w: WipeInfo) -> Self {
        let state = match w.state {
            WipeState::Kept => proto::WipeState::Kept,
            WipeState::Deleting => proto::WipeState::Deleting,
            WipeState::Wiping => proto::WipeState::Wiping,
            WipeState::Done => proto::WipeState::Done,
        };
        let part = |part: WipePart| proto::wipe_info::Part {
            osd: part.osd.0,
            up: part.up,
            report: part.report.map(Into::into),
            given_up: part.given_up,
        };
        proto::WipeInfo {
            id: w.id.0,
            volume: w.volume.0,
            volume_name: w.volume_name.into(),
            pool_name: w.pool_name.into(),
            size: w.size,
            asked_at: w.asked_at,
            state: state.into(),
            clones: w.clones,
            parts: w.parts.into_iter().map(part).collect(),
        }
    }
}

impl TryFrom<proto::WipeInfo> for WipeInfo {
    type Error = ProtoError;
    fn try_from(w: proto::WipeInfo) -> Result<Self, ProtoError> {
        let state = match w.state() {
            proto::WipeState::Kept => WipeState::Kept,
            proto::WipeState::Deleting => WipeState::Deleting,
            proto::WipeState::Wiping => WipeState::Wiping,
            proto::WipeState::Done => WipeState::Done,
            proto::WipeState::Unknown => return Err(ProtoError::Missing("WipeInfo.state")),
        };
        let part = |part: proto::wipe_info::Part| WipePart {
            osd: OsdId(part.osd),
            up: part.up,
            report: part.report.map(Into::into),
            given_up: part.given_up,
        };
        Ok(WipeInfo {
            id: WipeId(w.id),
            volume: VolumeId(w.volume),
            volume_name: name("WipeInfo.volume_name", &w.volume_name)?,
            pool_name: name("WipeInfo.pool_name", &w.pool_name)?,
            size: w.size,
            asked_at: w.asked_at,
            state,
            clones: w.clones,
            parts: w.parts.into_iter().map(part).collect(),
        })
    }
}

/// Of a request that means nothing without it.
pub(super) fn report(report: Option<proto::WipeReport>) -> Result<WipeReport, ProtoError> {
    required("WipeDone.report", report).map(Into::into)
}
