//! The state in version 3, as it was: no snapshot groups and no bin. Frozen, as command_v2.rs is.

use crate::state::attachment::{AttachmentRecord, GatewayRecord};
use crate::state::group::Groups;
use crate::state::layer::LayerRecord;
use crate::state::merge::Merges;
use crate::state::osd::OsdRecord;
use crate::state::scrub::Scrubs;
use crate::state::snapshot::SnapshotRecord;
use crate::state::volume::VolumeRecord;
use crate::state::{ClusterState, FailureDomain, NextIds, PoolRecord, Revised};
use ashlar_types::control::BaseLayer;
use ashlar_types::view::{Barrier, Floor, PgConfig, PoolInfo};
use ashlar_types::{AttachmentId, ClusterId, LayerId, Name, OsdId, PgId, PoolId, Revision, StackRevision, VolumeId};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
pub(super) struct StateV3 {
    cluster: ClusterId,
    applied: u64,
    view_revision: Revision,
    osds: BTreeMap<OsdId, Revised<OsdRecord>>,
    pools: BTreeMap<PoolId, Revised<PoolV3>>,
    pgs: BTreeMap<PgId, Revised<PgConfig>>,
    volumes: BTreeMap<VolumeId, VolumeV3>,
    volume_names: BTreeMap<Name, VolumeId>,
    layers: BTreeMap<LayerId, LayerRecord>,
    gateways: BTreeMap<String, GatewayRecord>,
    barriers: BTreeMap<u64, Barrier>,
    next: NextIds,
    scrubs: Scrubs,
    merges: Merges,
}

/// Of versions 1 and 2 too.
#[derive(Deserialize)]
pub(super) struct PoolV3 {
    info: PoolInfoV3,
    failure_domain: FailureDomain,
}

#[derive(Deserialize)]
struct PoolInfoV3 {
    id: PoolId,
    name: Name,
    replicas: u8,
    min_size: u8,
    pg_count: u32,
}

#[derive(Deserialize)]
struct VolumeV3 {
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
    origin: Option<BaseLayer>,
    clones: BTreeMap<LayerId, BTreeSet<VolumeId>>,
    hidden: bool,
}

impl From<StateV3> for ClusterState {
    fn from(old: StateV3) -> ClusterState {
        ClusterState {
            cluster: old.cluster,
            applied: old.applied,
            view_revision: old.view_revision,
            osds: old.osds,
            pools: upgrade_pools(old.pools),
            pgs: old.pgs,
            volumes: old.volumes.into_iter().map(|(id, volume)| (id, volume.into())).collect(),
            volume_names: old.volume_names,
            layers: old.layers,
            gateways: old.gateways,
            barriers: old.barriers,
            next: old.next,
            scrubs: old.scrubs,
            merges: old.merges,
            groups: Groups::default(),
        }
    }
}

pub(super) fn upgrade_pools(old: BTreeMap<PoolId, Revised<PoolV3>>) -> BTreeMap<PoolId, Revised<PoolRecord>> {
    let upgrade = |old: Revised<PoolV3>| Revised { modified: old.modified, value: old.value.into() };
    old.into_iter().map(|(id, pool)| (id, upgrade(pool))).collect()
}

impl From<PoolV3> for PoolRecord {
    fn from(old: PoolV3) -> PoolRecord {
        let PoolInfoV3 { id, name, replicas, min_size, pg_count } = old.info;
        let info = PoolInfo { id, name, replicas, min_size, pg_count, bin_retention: 0 };
        PoolRecord { info, failure_domain: old.failure_domain }
    }
}

impl From<VolumeV3> for VolumeRecord {
    fn from(old: VolumeV3) -> VolumeRecord {
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
            origin: old.origin,
            clones: old.clones,
            hidden: old.hidden,
            bin: None,
        }
    }
}
