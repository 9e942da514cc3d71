//! The state in version 1, as it was: each volume with the list of its layers, of which there was one. Frozen, as command_v2.rs is.

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
use crate::state::volume::VolumeRecord;
use crate::state::wipe::Wipes;
use crate::state::wipe_freed::WipingVolumes;
use crate::state::{ClusterState, NextIds, PoolRecord, Revised};
use ashlar_types::view::{Barrier, Floor, PgConfig};
use ashlar_types::{
    AttachmentId, BootId, ClusterId, Generation, LayerId, Name, OsdId, PgId, PoolId, Revision, SessionId,
    StackRevision, VolumeId,
};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
pub(super) struct StateV1 {
    cluster: ClusterId,
    applied: u64,
    view_revision: Revision,
    osds: BTreeMap<OsdId, Revised<OsdRecord>>,
    pools: BTreeMap<PoolId, Revised<PoolRecord>>,
    pgs: BTreeMap<PgId, Revised<PgConfig>>,
    volumes: BTreeMap<VolumeId, VolumeV1>,
    volume_names: BTreeMap<Name, VolumeId>,
    gateways: BTreeMap<String, GatewayRecord>,
    barriers: BTreeMap<u64, Barrier>,
    next: NextIdsV1,
    scrubs: Scrubs,
}

#[derive(Deserialize)]
struct NextIdsV1 {
    osd: u32,
    pool: u32,
    volume: u64,
    layer: u64,
    attachment: u64,
    session: u64,
    barrier: u64,
}

#[derive(Deserialize)]
struct VolumeV1 {
    id: VolumeId,
    name: Name,
    size: u64,
    pool: PoolId,
    placement_key: u64,
    stack_revision: StackRevision,
    layers: Vec<LayerId>,
    attachments: BTreeMap<AttachmentId, AttachmentV1>,
    floor: Floor,
    barrier: Option<u64>,
}

#[derive(Deserialize)]
struct AttachmentV1 {
    id: AttachmentId,
    gateway: String,
    generation: Generation,
    shared: bool,
    read_only: bool,
    boot: BootId,
    session: SessionId,
    opened: bool,
    active: bool,
    replaced: BTreeSet<BootId>,
}

/// `None` for a volume that has not exactly one layer: none was ever written so.
pub(super) fn upgrade(old: StateV1) -> Option<ClusterState> {
    let mut layers = BTreeMap::new();
    let mut volumes = BTreeMap::new();
    for (id, volume) in old.volumes {
        let [top] = volume.layers[..] else { return None };
        layers.insert(top, LayerRecord { volume: volume.id, parent: None });
        volumes.insert(id, upgrade_volume(volume, top));
    }
    let NextIdsV1 { osd, pool, volume, layer, attachment, session, barrier } = old.next;
    Some(ClusterState {
        cluster: old.cluster,
        applied: old.applied,
        view_revision: old.view_revision,
        osds: old.osds,
        pools: old.pools,
        pgs: old.pgs,
        volumes,
        volume_names: old.volume_names,
        layers,
        gateways: old.gateways,
        barriers: old.barriers,
        next: NextIds { osd, pool, volume, layer, snapshot: 1, attachment, session, barrier },
        scrubs: old.scrubs,
        merges: Merges::default(),
        reserves: Reserves::default(),
        groups: Groups::default(),
        jobs: Jobs::default(),
        bin: Bin::default(),
        wipes: Wipes::default(),
        modes: Modes::default(),
        wiping: WipingVolumes::default(),
    })
}

fn upgrade_volume(old: VolumeV1, top: LayerId) -> VolumeRecord {
    VolumeRecord {
        id: old.id,
        name: old.name,
        size: old.size,
        pool: old.pool,
        placement_key: old.placement_key,
        stack_revision: old.stack_revision,
        top,
        snapshots: BTreeMap::new(),
        retiring: if old.floor.closed { BTreeSet::from([top]) } else { BTreeSet::new() },
        settled: old.stack_revision,
        attachments: old.attachments.into_iter().map(|(id, a)| (id, upgrade_attachment(a))).collect(),
        floor: old.floor,
        barrier: old.barrier,
        origin: None,
        clones: BTreeMap::new(),
        hidden: false,
    }
}

fn upgrade_attachment(old: AttachmentV1) -> AttachmentRecord {
    AttachmentRecord {
        id: old.id,
        gateway: old.gateway,
        snapshot: None,
        generation: old.generation,
        shared: old.shared,
        read_only: old.read_only,
        boot: old.boot,
        session: old.session,
        opened: old.opened,
        active: old.active,
        replaced: old.replaced,
    }
}
