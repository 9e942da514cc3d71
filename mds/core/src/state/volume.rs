//! Volumes: names and sizes, and their end. Their layers: layer.rs, snapshot.rs.

use super::attachment::AttachmentRecord;
use super::snapshot::SnapshotRecord;
use super::{ClusterState, Outcome, exists, invalid, not_found, placement};
use ashlar_types::control::{ControlError, ControlReply, VolumeInfo, VolumeState};
use ashlar_types::view::Floor;
use ashlar_types::{AttachmentId, DiskName, LayerId, Name, PoolId, SECTOR_BYTES, StackRevision, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

const VOLUMES_MAX: usize = 1_000_000;
/// A PG keeps a floor for each volume of its pool that was ever fenced, and the gaps between their ids; all of it travels in one frame
/// of the data protocol (docs/decisions/023-volumes-that-are-gone.md).
const VOLUMES_PER_POOL_MAX: usize = 40_000;
/// 16 PiB: chunk indexes have 32 bits.
const VOLUME_BYTES_MAX: u64 = 1 << 54;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VolumeRecord {
    pub(super) id: VolumeId,
    pub(super) name: Name,
    /// Bytes.
    pub(super) size: u64,
    pub(super) pool: PoolId,
    pub(super) placement_key: u64,
    pub(super) stack_revision: StackRevision,
    /// The layer that takes what is written.
    pub(super) top: LayerId,
    pub(super) snapshots: BTreeMap<Name, SnapshotRecord>,
    /// Layers that the PGs drop when they pass `barrier` (L3).
    pub(super) retiring: BTreeSet<LayerId>,
    /// The stack that all PGs hold to: nothing is done on an older one.
    pub(super) settled: StackRevision,
    /// Of the volume and of its snapshots.
    pub(super) attachments: BTreeMap<AttachmentId, AttachmentRecord>,
    /// What its PGs shall refuse. Only rises.
    pub(super) floor: Floor,
    /// The barrier that carries `floor` to the PGs, until all have passed it (S2).
    pub(super) barrier: Option<u64>,
}

impl VolumeRecord {
    /// Those of the volume itself, not of its snapshots.
    pub(super) fn own_attachments(&self) -> impl Iterator<Item = &AttachmentRecord> {
        self.attachments.values().filter(|attachment| attachment.snapshot.is_none())
    }

    /// What an attachment is of.
    pub(super) fn disk_name(&self, attachment: &AttachmentRecord) -> DiskName {
        let snapshot = attachment.snapshot.map(|id| self.snapshot_by_id(id).name.clone());
        DiskName { volume: self.name.clone(), snapshot }
    }
}

impl ClusterState {
    pub(super) fn volume_create(&mut self, name: Name, size: u64, pool: Option<Name>) -> Outcome {
        if let Some(id) = self.volume_names.get(&name) {
            let deleting = self.volumes.get(id).is_some_and(|v| v.floor.closed);
            return Err(exists(if deleting { "volume (being deleted)" } else { "volume" }, name));
        }
        check_size(size)?;
        if self.volumes.len() >= VOLUMES_MAX {
            return Err(invalid(format!("there are {VOLUMES_MAX} volumes already, which is the most a cluster has")));
        }
        let pool = self.pool_for_volume(pool.as_ref())?;
        if self.volumes.values().filter(|v| v.pool == pool).count() >= VOLUMES_PER_POOL_MAX {
            let most = "which is the most one has; make another pool";
            return Err(invalid(format!("there are {VOLUMES_PER_POOL_MAX} volumes in the pool already, {most}")));
        }
        self.check_room_for_layer(pool)?;
        let id = VolumeId(self.next.volume);
        self.next.volume += 1;
        let top = self.add_layer(id, None);
        // Mixed with the cluster's identity only so that two clusters don't place alike.
        let cluster = (self.cluster.0 as u64) ^ ((self.cluster.0 >> 64) as u64);
        let record = VolumeRecord {
            id,
            name: name.clone(),
            size,
            pool,
            placement_key: placement::mix(id.0 ^ cluster),
            stack_revision: StackRevision(1),
            top,
            snapshots: BTreeMap::new(),
            retiring: BTreeSet::new(),
            settled: StackRevision(1),
            attachments: BTreeMap::new(),
            floor: Floor::default(),
            barrier: None,
        };
        let info = self.volume_info(&record);
        self.volumes.insert(id, record);
        self.volume_names.insert(name, id);
        Ok(ControlReply::Volume(info))
    }

    /// Closes the volume; its PGs drop its layers as they pass the barrier. Its name is free when the last one has.
    pub(super) fn volume_delete(&mut self, name: &Name, with_snapshots: bool) -> Outcome {
        let volume = self.volume(name)?;
        if volume.floor.closed {
            return self.unchanged();
        }
        if let Some(attachment) = volume.own_attachments().next() {
            return Err(ControlError::Attached { name: name.to_string(), holder: attachment.gateway.clone() });
        }
        if let Some(attachment) = volume.attachments.values().next() {
            let (disk, gateway) = (volume.disk_name(attachment), &attachment.gateway);
            let way = format!("`volume detach {disk}` takes it from there");
            return Err(invalid(format!("snapshot {disk} is attached to {gateway}; {way}")));
        }
        let snapshots = volume.snapshots.len();
        if snapshots > 0 && !with_snapshots {
            let plural = if snapshots == 1 { "" } else { "s" };
            let way = "`volume delete --snapshots` deletes them with it";
            return Err(invalid(format!("volume {name} has {snapshots} snapshot{plural}; {way}")));
        }
        let (id, layers) = (volume.id, self.layers_in_use(volume));
        let record = self.volumes.get_mut(&id).expect("looked up above");
        record.snapshots.clear();
        record.retiring.extend(layers);
        self.raise_floor(id, |floor| floor.closed = true);
        self.forget_merges(id);
        self.done()
    }

    pub(super) fn volume_extend(&mut self, name: &Name, size: u64) -> Outcome {
        let volume = self.open_volume(name)?;
        check_size(size)?;
        if size < volume.size {
            return Err(invalid(format!("volume {name} has {} bytes; it can grow but not shrink", volume.size)));
        }
        if volume.settled < volume.stack_revision && size > volume.size {
            // Who still has the old stack could write beyond the snapshot's end into the layer that it freezes.
            let why = "a snapshot or a revert of it is under way; extend it when that is done";
            return Err(invalid(format!("volume {name} keeps its size for now: {why}")));
        }
        let id = volume.id;
        let record = self.volumes.get_mut(&id).expect("looked up above");
        record.size = size;
        let info = self.volume_info(&self.volumes[&id]);
        Ok(ControlReply::Volume(info))
    }

    pub(super) fn volume(&self, name: &Name) -> Result<&VolumeRecord, ControlError> {
        let id = self.volume_names.get(name).ok_or_else(|| not_found("volume", name))?;
        Ok(self.volumes.get(id).expect("every name leads to a volume"))
    }

    /// A volume that isn't being deleted.
    pub(super) fn open_volume(&self, name: &Name) -> Result<&VolumeRecord, ControlError> {
        let volume = self.volume(name)?;
        if volume.floor.closed {
            return Err(invalid(format!("volume {name} is being deleted")));
        }
        Ok(volume)
    }

    pub(super) fn volume_info(&self, volume: &VolumeRecord) -> VolumeInfo {
        let state = match (volume.floor.closed, volume.own_attachments().next().is_none()) {
            (true, _) => VolumeState::Deleting,
            (false, true) => VolumeState::Available,
            (false, false) => VolumeState::Attached,
        };
        let pool = self.pools.get(&volume.pool).expect("a pool with volumes is not deleted");
        VolumeInfo {
            id: volume.id,
            name: volume.name.clone(),
            size: volume.size,
            pool: volume.pool,
            pool_name: pool.value.info.name.clone(),
            state,
            placement_key: volume.placement_key,
            stack_revision: volume.stack_revision,
            layers: self.stack(volume.top),
            attachments: volume.attachments.values().map(|a| self.attachment_info(volume, a)).collect(),
        }
    }
}

fn check_size(size: u64) -> Result<(), ControlError> {
    if size == 0 || size > VOLUME_BYTES_MAX {
        return Err(invalid(format!("a volume has 512 bytes to 16 PiB, not {size} bytes")));
    }
    if !size.is_multiple_of(u64::from(SECTOR_BYTES)) {
        return Err(invalid(format!("{size} bytes: a volume's size is a multiple of {SECTOR_BYTES} bytes")));
    }
    Ok(())
}
