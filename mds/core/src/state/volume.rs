//! Volumes: names and sizes, and their end. Their layers: layer.rs, snapshot.rs, clone.rs.

use super::attachment::AttachmentRecord;
use super::snapshot::SnapshotRecord;
use super::{ClusterState, Outcome, exists, invalid, not_found, placement};
use ashlar_types::control::{BaseLayer, ControlError, ControlReply, Provision, VolumeInfo, VolumeState};
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
    /// Of a clone: what it stands on.
    pub(super) origin: Option<BaseLayer>,
    /// Who stands on which of its layers, as their origins say (O1).
    pub(super) clones: BTreeMap<LayerId, BTreeSet<VolumeId>>,
    /// Deleted, and kept for those who stand on it (O3).
    pub(super) hidden: bool,
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
    /// The layers at which somebody begins to read, each together with the chain below it: the top, those of snapshots, those on which clones
    /// stand, and the one that a non-persistent volume falls back to. What no tip reaches is given up (L2); a tip that is not the top keeps its
    /// contents as they are.
    pub(super) fn tips<'a>(&'a self, volume: &'a VolumeRecord) -> impl Iterator<Item = LayerId> + 'a {
        let snapshots = volume.snapshots.values().map(|snapshot| snapshot.layer);
        snapshots.chain(volume.clones.keys().copied()).chain(self.mode_base(volume.id)).chain([volume.top])
    }

    pub(super) fn volume_create(
        &mut self,
        name: Name,
        size: u64,
        pool: Option<Name>,
        provision: Provision,
        wipes_freed: bool,
    ) -> Outcome {
        self.check_new_name(&name)?;
        check_size(size)?;
        let pool = self.pool_for_volume(pool.as_ref())?;
        self.check_room_for_volumes(pool, 1)?;
        self.check_promise(pool, size)?;
        if provision != Provision::Thin {
            self.check_reserve(size)?;
        }
        if provision == Provision::Eager {
            self.check_room_for_jobs()?;
        }
        let id = self.add_volume(name, size, pool, None);
        if wipes_freed {
            self.wipe_from_the_start(id);
        }
        if provision != Provision::Thin {
            self.reserve_new(id);
        }
        if provision == Provision::Eager {
            self.set_eager(id, true);
        }
        Ok(ControlReply::Volume(self.volume_info(&self.volumes[&id])))
    }

    pub(super) fn check_new_name(&self, name: &Name) -> Result<(), ControlError> {
        let Some(id) = self.volume_names.get(name) else { return Ok(()) };
        let deleting = self.volumes.get(id).is_some_and(|v| v.floor.closed);
        Err(exists(if deleting { "volume (being deleted)" } else { "volume" }, name))
    }

    /// Whether the cluster and the pool have room for so many more, each with a layer. Those that are kept for their clones count: PGs keep
    /// floors for them as for any.
    pub(super) fn check_room_for_volumes(&self, pool: PoolId, more: usize) -> Result<(), ControlError> {
        let all = self.volumes.len();
        if all + more > VOLUMES_MAX {
            let kept = self.kept_text(|_| true);
            let most = format!("a cluster has at most {VOLUMES_MAX}");
            return Err(invalid(format!("there are {all} volumes already{kept} and no room for {more} more: {most}")));
        }
        let in_pool = self.volumes.values().filter(|v| v.pool == pool).count();
        if in_pool + more > VOLUMES_PER_POOL_MAX {
            let kept = self.kept_text(|v| v.pool == pool);
            let most = format!("one has at most {VOLUMES_PER_POOL_MAX}; make another pool");
            let have = format!("there are {in_pool} volumes in the pool already{kept}");
            return Err(invalid(format!("{have} and no room for {more} more: {most}")));
        }
        self.check_room_for_layers(pool, more)
    }

    /// For people who count fewer volumes in the list.
    fn kept_text(&self, wanted: impl Fn(&VolumeRecord) -> bool) -> String {
        match self.volumes.values().filter(|v| !self.is_listed(v) && wanted(v)).count() {
            0 => String::new(),
            kept => format!(", {kept} of them deleted and kept for their clones or in the bin,"),
        }
    }

    /// A volume of one empty layer. The caller has checked everything.
    pub(super) fn add_volume(&mut self, name: Name, size: u64, pool: PoolId, origin: Option<BaseLayer>) -> VolumeId {
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
            origin,
            clones: BTreeMap::new(),
            hidden: false,
        };
        self.volumes.insert(id, record);
        self.volume_names.insert(name, id);
        id
    }

    /// The floor that closed it holds, and its layers are gone.
    pub(super) fn remove_volume(&mut self, volume: VolumeId) {
        let is_listed = self.is_listed(&self.volumes[&volume]);
        let record = self.volumes.remove(&volume).expect("the caller looked it up");
        // The name of one that was hidden or in the bin may be another's by now.
        if is_listed {
            self.volume_names.remove(&record.name);
        }
        self.leave_bin(volume);
        self.begin_wipe(volume);
        self.forget_wipe_freed(volume);
        if let Some(origin) = record.origin {
            self.clone_gone(volume, origin);
        }
    }

    /// Closes the volume; its PGs drop its layers as they pass the barrier. Its name is free when the last one has. A volume on which clones
    /// stand is hidden instead, and closed when the last of them is gone.
    pub(super) fn volume_delete(&mut self, name: &Name, with_snapshots: bool) -> Outcome {
        let volume = self.volume(name)?;
        if volume.floor.closed {
            return self.unchanged();
        }
        self.check_delete(volume, with_snapshots)?;
        self.end(volume.id);
        self.done()
    }

    pub(super) fn check_delete(&self, volume: &VolumeRecord, with_snapshots: bool) -> Result<(), ControlError> {
        self.check_free(volume)?;
        let (name, snapshots) = (&volume.name, volume.snapshots.len());
        if snapshots > 0 && !with_snapshots {
            let plural = if snapshots == 1 { "" } else { "s" };
            let way = "`volume delete --snapshots` deletes them with it";
            return Err(invalid(format!("volume {name} has {snapshots} snapshot{plural}; {way}")));
        }
        Ok(())
    }

    /// Neither it nor one of its snapshots is attached.
    pub(super) fn check_free(&self, volume: &VolumeRecord) -> Result<(), ControlError> {
        if let Some(attachment) = volume.own_attachments().next() {
            return Err(ControlError::Attached { name: volume.name.to_string(), holder: attachment.gateway.clone() });
        }
        volume.snapshots.values().try_for_each(|snapshot| self.check_detached(volume, snapshot))
    }

    /// Deletes a volume for good. The caller has checked that it is free.
    pub(super) fn end(&mut self, volume: VolumeId) {
        if self.volumes[&volume].clones.is_empty() {
            self.close(volume);
        } else {
            self.hide(volume);
        }
    }

    /// The volume ends: nobody has it or stands on it.
    pub(super) fn close(&mut self, volume: VolumeId) {
        let layers = self.layers_in_use(&self.volumes[&volume]);
        let record = self.volumes.get_mut(&volume).expect("the caller looked it up");
        assert!(record.clones.is_empty(), "O2: nobody stands on {volume}");
        let snapshots = std::mem::take(&mut record.snapshots);
        record.retiring.extend(layers);
        self.leave_groups(volume, snapshots.values());
        self.raise_floor(volume, |floor| floor.closed = true);
        self.forget_merges(volume);
        self.unreserve(volume);
        self.drop_job(volume);
        self.forget_mode(volume);
    }

    pub(super) fn volume_extend(&mut self, name: &Name, size: u64) -> Outcome {
        let volume = self.open_volume(name)?;
        check_size(size)?;
        self.check_not_shrinking(volume)?;
        if size < volume.size {
            let way = "`volume set --size … --shrink` makes it smaller";
            return Err(invalid(format!("volume {name} has {} bytes, which is more; {way}", volume.size)));
        }
        if volume.settled < volume.stack_revision && size > volume.size {
            // Who still has the old stack could write beyond the snapshot's end into the layer that it freezes.
            let why = "a snapshot or a revert of it is under way; extend it when that is done";
            return Err(invalid(format!("volume {name} keeps its size for now: {why}")));
        }
        let (id, pool, before, more) = (volume.id, volume.pool, volume.size, size - volume.size);
        if more > 0 {
            self.check_promise(pool, more)?;
        }
        self.check_reserved_size(id, size)?;
        let record = self.volumes.get_mut(&id).expect("looked up above");
        record.size = size;
        if more > 0 {
            self.revise_reserve(id, true);
            self.zero_from(id, before);
        }
        let info = self.volume_info(&self.volumes[&id]);
        Ok(ControlReply::Volume(info))
    }

    pub(super) fn volume_shrink(&mut self, name: &Name, size: u64, gateway: &str) -> Outcome {
        let volume = self.usable_volume(name)?;
        check_size(size)?;
        if size > volume.size {
            return Err(invalid(format!("volume {name} has {} bytes: shrinking makes it no larger", volume.size)));
        }
        let (id, is_smaller) = (volume.id, size < volume.size);
        if is_smaller {
            self.check_persistent(volume, "shrunk: what it falls back to holds its end")?;
            self.check_not_shrinking(volume)?;
            let holders: Vec<&AttachmentRecord> = volume.own_attachments().collect();
            let is_theirs = matches!(holders[..], [a] if a.gateway == gateway && !a.read_only && a.active);
            if !is_theirs {
                let how = "is shrunk by the gateway that alone has it";
                return Err(invalid(format!("volume {name} {how}; {gateway} has it not")));
            }
            self.volumes.get_mut(&id).expect("looked up above").size = size;
            self.revise_reserve(id, false);
            self.zero_from(id, size);
        }
        Ok(ControlReply::Volume(self.volume_info(&self.volumes[&id])))
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

    /// A volume that is neither being made nor being deleted.
    pub(super) fn usable_volume(&self, name: &Name) -> Result<&VolumeRecord, ControlError> {
        let volume = self.open_volume(name)?;
        if self.is_being_created(volume.id) {
            return Err(invalid(format!("volume {name} is being created: its space is being reserved")));
        }
        Ok(volume)
    }

    /// Those that people see.
    pub(super) fn listed_volumes(&self) -> impl Iterator<Item = &VolumeRecord> {
        self.volumes.values().filter(|volume| self.is_listed(volume))
    }

    /// Deleted volumes that are kept for their clones.
    pub fn volumes_kept(&self) -> u64 {
        self.volumes.values().filter(|volume| volume.hidden).count() as u64
    }

    pub(super) fn volume_info(&self, volume: &VolumeRecord) -> VolumeInfo {
        let state = match (volume.floor.closed, volume.own_attachments().next().is_none()) {
            _ if self.is_being_created(volume.id) => VolumeState::Creating,
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
            origin: self.base_of(volume).map(|origin| Box::new(self.origin_info(origin))),
            clones: volume.clone_count(),
            provision: self.provision_of(volume.id),
            is_reserving: self.is_reserving(volume.id),
            disk_mode: self.mode_of(volume.id),
            wipe_freed: self.wipes_freed(volume.id),
        }
    }
}

pub(super) fn check_size(size: u64) -> Result<(), ControlError> {
    if size == 0 || size > VOLUME_BYTES_MAX {
        return Err(invalid(format!("a volume has 512 bytes to 16 PiB, not {size} bytes")));
    }
    if !size.is_multiple_of(u64::from(SECTOR_BYTES)) {
        return Err(invalid(format!("{size} bytes: a volume's size is a multiple of {SECTOR_BYTES} bytes")));
    }
    Ok(())
}
