//! The state in version 5, as it was: no wipes and no disk modes. Frozen, as command_v2.rs is.

use crate::state::attachment::GatewayRecord;
use crate::state::bin::Bin;
use crate::state::group::Groups;
use crate::state::job::Jobs;
use crate::state::layer::LayerRecord;
use crate::state::merge::Merges;
use crate::state::mode::Modes;
use crate::state::osd::OsdRecord;
use crate::state::reserve::Reserves;
use crate::state::scrub::Scrubs;
use crate::state::volume::VolumeRecord;
use crate::state::wipe::Wipes;
use crate::state::wipe_freed::WipingVolumes;
use crate::state::{ClusterState, NextIds, PoolRecord, Revised};
use ashlar_types::view::{Barrier, PgConfig};
use ashlar_types::{ClusterId, LayerId, Name, OsdId, PgId, PoolId, Revision, VolumeId};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
pub(super) struct StateV5 {
    cluster: ClusterId,
    applied: u64,
    view_revision: Revision,
    osds: BTreeMap<OsdId, Revised<OsdRecord>>,
    pools: BTreeMap<PoolId, Revised<PoolRecord>>,
    pgs: BTreeMap<PgId, Revised<PgConfig>>,
    volumes: BTreeMap<VolumeId, VolumeRecord>,
    volume_names: BTreeMap<Name, VolumeId>,
    layers: BTreeMap<LayerId, LayerRecord>,
    gateways: BTreeMap<String, GatewayRecord>,
    barriers: BTreeMap<u64, Barrier>,
    next: NextIds,
    scrubs: Scrubs,
    merges: Merges,
    reserves: Reserves,
    groups: Groups,
    jobs: Jobs,
    bin: Bin,
}

impl From<StateV5> for ClusterState {
    fn from(old: StateV5) -> ClusterState {
        ClusterState {
            cluster: old.cluster,
            applied: old.applied,
            view_revision: old.view_revision,
            osds: old.osds,
            pools: old.pools,
            pgs: old.pgs,
            volumes: old.volumes,
            volume_names: old.volume_names,
            layers: old.layers,
            gateways: old.gateways,
            barriers: old.barriers,
            next: old.next,
            scrubs: old.scrubs,
            merges: old.merges,
            reserves: old.reserves,
            groups: old.groups,
            jobs: old.jobs,
            bin: old.bin,
            wipes: Wipes::default(),
            modes: Modes::default(),
            wiping: WipingVolumes::default(),
        }
    }
}
