//! The state in version 2, as it was: no volume a clone, and nothing merged. Frozen, as command_v2.rs is.

use crate::state::attachment::{AttachmentRecord, GatewayRecord};
use crate::state::bin::Bin;
use crate::state::group::Groups;
use crate::state::job::Jobs;
use crate::state::layer::LayerRecord;
use crate::state::merge::Merges;
use crate::state::mode::Modes;
use crate::state::osd::OsdRecord;
use crate::state::reserve::Reserves;
use crate::state::scrub::Scrubs;
use crate::state::snapshot::SnapshotRecord;
use crate::state::volume::VolumeRecord;
use crate::state::wipe::Wipes;
use crate::state::wipe_freed::WipingVolumes;
use crate::state::{ClusterState, NextIds, PoolRecord, Revised};
use ashlar_types::view::{Barrier, Floor, PgConfig};
use ashlar_types::{AttachmentId, ClusterId, LayerId, Name, OsdId, PgId, PoolId, Revision, StackRevision, VolumeId};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
pub(super) struct StateV2 {
    cluster: ClusterId,
    applied: u64,
    view_revision: Revision,
    osds: BTreeMap<OsdId, Revised<OsdRecord>>,
    pools: BTreeMap<PoolId, Revised<PoolRecord>>,
    pgs: BTreeMap<PgId, Revised<PgConfig>>,
    volumes: BTreeMap<VolumeId, VolumeV2>,
    volume_names: BTreeMap<Name, VolumeId>,
    layers: BTreeMap<LayerId, LayerRecord>,
    gateways: BTreeMap<String, GatewayRecord>,
    barriers: BTreeMap<u64, Barrier>,
    next: NextIds,
    scrubs: Scrubs,
}

#[derive(Deserialize)]
struct VolumeV2 {
    id: VolumeId,
    name: Name,
    size: u64,
    pool: PoolId,
    placement_key: u64,
    stack_revision: StackRevision,
    top: LayerId,
    snapshots: BTreeMap<Name, SnapshotRecord>,
    retiring: BTreeSet<LayerId>,
    settled: StackRevision,
    attachments: BTreeMap<AttachmentId, AttachmentRecord>,
    floor: Floor,
    barrier: Option<u64>,
}

impl From<StateV2> for ClusterState {
    fn from(old: StateV2) -> ClusterState {
        ClusterState {
            cluster: old.cluster,
            applied: old.applied,
            view_revision: old.view_revision,
            osds: old.osds,
            pools: old.pools,
            pgs: old.pgs,
            volumes: old.volumes.into_iter().map(|(id, volume)| (id, volume.into())).collect(),
            volume_names: old.volume_names,
            layers: old.layers,
            gateways: old.gateways,
            barriers: old.barriers,
            next: old.next,
            scrubs: old.scrubs,
            merges: Merges::default(),
            reserves: Reserves::default(),
            groups: Groups::default(),
            jobs: Jobs::default(),
            bin: Bin::default(),
            wipes: Wipes::default(),
            modes: Modes::default(),
            wiping: WipingVolumes::default(),
        }
    }
}

impl From<VolumeV2> for VolumeRecord {
    fn from(old: VolumeV2) -> VolumeRecord {
        VolumeRecord {
            id: old.id,
            name: old.name,
            size: old.size,
            pool: old.pool,
            placement_key: old.placement_key,
            stack_revision: old.stack_revision,
            top: old.top,
            snapshots: old.snapshots,
            retiring: old.retiring,
            settled: old.settled,
            attachments: old.attachments,
            floor: old.floor,
            barrier: old.barrier,
            origin: None,
            clones: BTreeMap::new(),
            hidden: false,
        }
    }
}
