//! Snapshots: a name for the layer that was a volume's top. Taking one puts a new top on it; reverting puts a new top on it again, and gives up
//! what nobody reads any more. Either way the stack is another one, and the barrier carries its revision to the PGs: once all have passed
//! it, nothing of an older stack is written any more, and the snapshot is available.
//! P1: a snapshot's layer is nobody's top. P2: a snapshot is available once the floor with its revision holds, and stays so.

use super::volume::VolumeRecord;
use super::{ClusterState, Outcome, exists, invalid, not_found};
use ashlar_types::control::{ControlError, ControlReply, SnapshotInfo, SnapshotState};
use ashlar_types::view::PgConfig;
use ashlar_types::{DiskName, LayerId, Name, STACK_LAYERS_MAX, SnapshotId, StackRevision, VolumeId};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotRecord {
    pub(super) id: SnapshotId,
    pub(super) name: Name,
    pub(super) layer: LayerId,
    /// Bytes that the volume had.
    pub(super) size: u64,
    /// By the clock of who asked for it.
    pub(super) taken_at: u64,
    /// The first stack of the volume in which it is frozen.
    pub(super) revision: StackRevision,
}

impl VolumeRecord {
    /// P2
    pub(super) fn snapshot_state(&self, snapshot: &SnapshotRecord) -> SnapshotState {
        match snapshot.revision <= self.settled {
            true => SnapshotState::Available,
            false => SnapshotState::Creating,
        }
    }

    pub(super) fn snapshot(&self, name: &Name) -> Result<&SnapshotRecord, ControlError> {
        let disk = || DiskName { volume: self.name.clone(), snapshot: Some(name.clone()) };
        self.snapshots.get(name).ok_or_else(|| not_found("snapshot", disk()))
    }

    pub(super) fn snapshot_by_id(&self, id: SnapshotId) -> &SnapshotRecord {
        let found = self.snapshots.values().find(|snapshot| snapshot.id == id);
        found.expect("an attached snapshot is not deleted")
    }
}

impl ClusterState {
    pub(super) fn snapshot_create(&mut self, volume: &Name, name: Name, taken_at: u64, thin: bool) -> Outcome {
        let volume = self.check_snapshot(volume, &name)?.id;
        if thin {
            self.unreserve(volume);
        }
        self.take_snapshot(volume, name.clone(), taken_at);
        let record = &self.volumes[&volume];
        Ok(ControlReply::Snapshot(self.snapshot_info(record, &record.snapshots[&name])))
    }

    /// The volume, if a snapshot of this name can be taken of it.
    pub(super) fn check_snapshot(&self, volume: &Name, name: &Name) -> Result<&VolumeRecord, ControlError> {
        let record = self.usable_volume(volume)?;
        if record.snapshots.contains_key(name) {
            return Err(exists("snapshot", DiskName { volume: volume.clone(), snapshot: Some(name.clone()) }));
        }
        self.check_persistent(record, "kept as a snapshot: what is written to it goes with its attachment")?;
        self.check_freeze(record, &format!("no snapshot can be taken of volume {volume}"))?;
        Ok(record)
    }

    /// Whether the top can be frozen, and another one put on it.
    pub(super) fn check_freeze(&self, volume: &VolumeRecord, refusal: &str) -> Result<(), ControlError> {
        if self.chain(volume.top).count() >= STACK_LAYERS_MAX {
            let most = format!("it has {STACK_LAYERS_MAX} layers, which is the most that one is made of");
            return Err(invalid(format!("{refusal}: {most}")));
        }
        self.check_new_top(volume)?;
        self.check_all_serve(volume, refusal)
    }

    /// Freezes the top. The caller has checked that it can.
    pub(super) fn take_snapshot(&mut self, volume: VolumeId, name: Name, taken_at: u64) -> SnapshotId {
        let size = self.volumes[&volume].size;
        let (layer, revision) = self.freeze_top(volume);
        let id = SnapshotId(self.next.snapshot);
        self.next.snapshot += 1;
        let snapshot = SnapshotRecord { id, name: name.clone(), layer, size, taken_at, revision };
        let record = self.volumes.get_mut(&volume).expect("looked up above");
        record.snapshots.insert(name, snapshot);
        id
    }

    /// The layer that is frozen now, and the first stack in which it is. The caller has checked that it can, and sees to it that somebody reads it.
    pub(super) fn freeze_top(&mut self, volume: VolumeId) -> (LayerId, StackRevision) {
        let layer = self.volumes[&volume].top;
        let revision = self.put_top(volume, Some(layer));
        self.revise_reserve(volume, true);
        self.raise_floor(volume, |_| {});
        (layer, revision)
    }

    /// The volume is what its snapshot is. Newer snapshots stay as they are.
    pub(super) fn volume_revert(&mut self, volume: &Name, snapshot: &Name, force: bool) -> Outcome {
        let record = self.open_volume(volume)?;
        let snapshot = record.snapshot(snapshot)?;
        self.check_persistent(record, "reverted: it falls back by itself when it is detached")?;
        if record.snapshot_state(snapshot) == SnapshotState::Creating {
            let state = "is still being created; revert to it when it is available";
            return Err(invalid(format!("snapshot {volume}@{} {state}", snapshot.name)));
        }
        let holder = record.own_attachments().next();
        if let Some(holder) = holder.filter(|_| !force) {
            return Err(ControlError::Attached { name: volume.to_string(), holder: holder.gateway.clone() });
        }
        self.check_new_top(record)?;
        self.check_reserved_size(record.id, snapshot.size)?;
        let (id, layer, size) = (record.id, snapshot.layer, snapshot.size);
        let used_before = self.layers_in_use(record);
        self.put_top(id, Some(layer));
        let record = self.volumes.get_mut(&id).expect("looked up above");
        record.size = size;
        self.revise_reserve(id, false);
        let used_now = self.layers_in_use(&self.volumes[&id]);
        let record = self.volumes.get_mut(&id).expect("looked up above");
        record.retiring.extend(used_before.difference(&used_now));
        let ended: Vec<_> = record.own_attachments().map(|attachment| attachment.id).collect();
        self.end_attachments(id, &ended);
        self.raise_floor(id, |_| {});
        self.revise_merges(id);
        self.zero_from(id, 0);
        Ok(ControlReply::Volume(self.volume_info(&self.volumes[&id])))
    }

    fn check_new_top(&self, volume: &VolumeRecord) -> Result<(), ControlError> {
        if volume.stack_revision == StackRevision(u32::MAX) {
            return Err(invalid(format!("volume {} has had all the stacks that can be counted", volume.name)));
        }
        self.check_room_for_layers(volume.pool, 1)
    }

    /// A barrier waits for each PG; one without a primary would hold up the snapshot, and the writes of those who share the volume.
    fn check_all_serve(&self, volume: &VolumeRecord, refusal: &str) -> Result<(), ControlError> {
        let trouble = |config: &PgConfig| match (config.primary, config.in_sync.len(), usize::from(config.min_size)) {
            (None, ..) => Some("has no primary".to_owned()),
            (_, have, need) if have < need => {
                Some(format!("has {have} members in sync of the {need} that a write needs"))
            }
            _ => None,
        };
        let of_pool = self.pgs.values().map(|pg| &pg.value).filter(|config| config.pg.pool == volume.pool);
        let in_trouble = of_pool.filter_map(|config| trouble(config).map(|trouble| (config.pg, trouble))).next();
        in_trouble
            .map_or(Ok(()), |(pg, trouble)| Err(invalid(format!("{refusal} now: {pg} {trouble}; see `ashlar status`"))))
    }

    /// Gives a volume a new, empty top. The caller has checked that it can, and raises the floor.
    pub(super) fn put_top(&mut self, volume: VolumeId, parent: Option<LayerId>) -> StackRevision {
        let top = self.add_layer(volume, parent);
        let record = self.volumes.get_mut(&volume).expect("the caller looked it up");
        record.top = top;
        record.stack_revision = StackRevision(record.stack_revision.0 + 1);
        record.stack_revision
    }

    pub(super) fn snapshot_show(&self, volume: &Name, name: &Name) -> Outcome {
        let record = self.volume(volume)?;
        Ok(ControlReply::Snapshot(self.snapshot_info(record, record.snapshot(name)?)))
    }

    /// In the order in which they were taken, volume by volume.
    pub(super) fn snapshot_list(&self, volume: Option<&Name>) -> Outcome {
        let volumes = match volume {
            Some(name) => vec![self.volume(name)?],
            None => self.listed_volumes().collect(),
        };
        Ok(ControlReply::Snapshots(volumes.into_iter().flat_map(|record| self.snapshot_infos(record)).collect()))
    }

    /// In the order in which they were taken.
    pub(super) fn snapshot_infos(&self, volume: &VolumeRecord) -> Vec<SnapshotInfo> {
        let mut snapshots: Vec<&SnapshotRecord> = volume.snapshots.values().collect();
        snapshots.sort_by_key(|snapshot| snapshot.id);
        snapshots.into_iter().map(|snapshot| self.snapshot_info(volume, snapshot)).collect()
    }

    pub(super) fn snapshot_info(&self, volume: &VolumeRecord, snapshot: &SnapshotRecord) -> SnapshotInfo {
        SnapshotInfo {
            id: snapshot.id,
            name: snapshot.name.clone(),
            volume: volume.id,
            volume_name: volume.name.clone(),
            size: snapshot.size,
            taken_at: snapshot.taken_at,
            state: volume.snapshot_state(snapshot),
            layers: self.stack(snapshot.layer),
            group: self.group_of(volume, snapshot).cloned(),
        }
    }
}
