//! Snapshot groups: several volumes frozen at one moment (docs/decisions/031-snapshot-groups.md). One command puts a new top on each of them; the
//! *cut* is under way until the floors of all have passed everywhere.
//! U1: a member of a group is a snapshot of the group's name; a group has members. U2: while a cut is under way nobody is granted any of its
//! volumes. So nothing is answered by a new stack of one of them while something can still be written by an old stack of another: else that
//! would be in the snapshots, and what was answered before it was sent would not.

use super::snapshot::SnapshotRecord;
use super::volume::VolumeRecord;
use super::{ClusterState, Outcome, exists, invalid, not_found};
use ashlar_types::control::{ControlError, ControlReply, SnapshotGroupInfo, SnapshotState};
use ashlar_types::{Name, SnapshotId, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Each has a barrier, and every OSD and gateway is told all of them with each change of the view.
const VOLUMES_PER_GROUP_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GroupRecord {
    members: BTreeMap<VolumeId, SnapshotId>,
    /// By the clock of who asked for it.
    taken_at: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Groups {
    by_name: BTreeMap<Name, GroupRecord>,
    /// Those whose cut is under way.
    cutting: BTreeSet<Name>,
}

impl ClusterState {
    pub(super) fn snapshot_group_create(&mut self, name: Name, volumes: Vec<Name>, taken_at: u64) -> Outcome {
        let (volumes, left_out) = self.check_group(&name, &volumes)?;
        let members =
            volumes.into_iter().map(|volume| (volume, self.take_snapshot(volume, name.clone(), taken_at))).collect();
        self.groups.by_name.insert(name.clone(), GroupRecord { members, taken_at });
        self.groups.cutting.insert(name.clone());
        let info = self.group_info(&name, &self.groups.by_name[&name]);
        Ok(ControlReply::SnapshotGroup(SnapshotGroupInfo { left_out, ..info }))
    }

    /// The volumes of which snapshots are taken, and those that are independent disks.
    fn check_group(&self, name: &Name, volumes: &[Name]) -> Result<(BTreeSet<VolumeId>, Vec<Name>), ControlError> {
        if self.groups.by_name.contains_key(name) {
            return Err(exists("snapshot group", name));
        }
        if volumes.is_empty() || volumes.len() > VOLUMES_PER_GROUP_MAX {
            let most = format!("a snapshot group is of 1 to {VOLUMES_PER_GROUP_MAX} volumes");
            return Err(invalid(format!("{most}, not {}", volumes.len())));
        }
        let (mut ids, mut named, mut left_out) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for volume in volumes {
            let record = self.usable_volume(volume)?;
            if !named.insert(volume) {
                return Err(invalid(format!("volume {volume} is named twice")));
            }
            if self.is_independent(record.id) {
                left_out.push(volume.clone());
                continue;
            }
            self.check_snapshot(volume, name)?;
            ids.insert(record.id);
            // As if all were of one pool: so near to a pool's limit that this matters, few of them could be taken one by one either.
            self.check_room_for_layers(record.pool, volumes.len())?;
        }
        if ids.is_empty() {
            let names: Vec<&str> = left_out.iter().map(Name::as_str).collect();
            let why = "independent disks are left out, and there is no other";
            return Err(invalid(format!("nothing of {} can be in snapshot group {name}: {why}", names.join(", "))));
        }
        Ok((ids, left_out))
    }

    pub(super) fn snapshot_group_show(&self, name: &Name) -> Outcome {
        let group = self.groups.by_name.get(name).ok_or_else(|| not_found("snapshot group", name))?;
        Ok(ControlReply::SnapshotGroup(self.group_info(name, group)))
    }

    pub(super) fn snapshot_group_list(&self) -> Outcome {
        let groups = self.groups.by_name.iter().map(|(name, group)| self.group_info(name, group));
        Ok(ControlReply::SnapshotGroups(groups.collect()))
    }

    fn group_info(&self, name: &Name, group: &GroupRecord) -> SnapshotGroupInfo {
        let state = match self.groups.cutting.contains(name) {
            true => SnapshotState::Creating,
            false => SnapshotState::Available,
        };
        let members = group.members.keys().map(|volume| self.member(name, *volume));
        let listed = members.filter(|(volume, _)| self.is_listed(volume));
        let snapshots: Vec<_> = listed.map(|(volume, snapshot)| self.snapshot_info(volume, snapshot)).collect();
        let in_bin = (group.members.len() - snapshots.len()) as u64;
        SnapshotGroupInfo {
            name: name.clone(),
            taken_at: group.taken_at,
            state,
            snapshots,
            in_bin,
            left_out: Vec::new(),
        }
    }

    /// A member of a group.
    fn member(&self, group: &Name, volume: VolumeId) -> (&VolumeRecord, &SnapshotRecord) {
        let volume = self.volumes.get(&volume).expect("U1: the volume of a member exists");
        (volume, volume.snapshots.get(group).expect("U1: a member is a snapshot of the group's name"))
    }

    pub(super) fn snapshot_group_delete(&mut self, name: &Name) -> Outcome {
        let group = self.groups.by_name.get(name).ok_or_else(|| not_found("snapshot group", name))?;
        let volumes: Vec<VolumeId> = group.members.keys().copied().collect();
        for volume in &volumes {
            let (volume, snapshot) = self.member(name, *volume);
            self.check_detached(volume, snapshot)?;
        }
        for volume in volumes {
            if self.is_listed(&self.volumes[&volume]) {
                self.drop_snapshot(volume, name);
            }
        }
        // What is in the bin can be brought back with all that it had.
        self.groups.by_name.remove(name);
        self.end_cuts();
        self.done()
    }

    /// With which others a snapshot was taken.
    pub(super) fn group_of(&self, volume: &VolumeRecord, snapshot: &SnapshotRecord) -> Option<&Name> {
        let (name, group) = self.groups.by_name.get_key_value(&snapshot.name)?;
        (group.members.get(&volume.id) == Some(&snapshot.id)).then_some(name)
    }

    /// Snapshots of a volume have been deleted. The others of their groups need not wait for them any more.
    pub(super) fn leave_groups<'a>(
        &mut self,
        volume: VolumeId,
        snapshots: impl IntoIterator<Item = &'a SnapshotRecord>,
    ) {
        for snapshot in snapshots {
            let Some(group) = self.groups.by_name.get_mut(&snapshot.name) else { continue };
            if group.members.get(&volume) == Some(&snapshot.id) {
                group.members.remove(&volume);
            }
            if group.members.is_empty() {
                self.groups.by_name.remove(&snapshot.name);
            }
        }
        self.end_cuts();
    }

    /// After a floor has passed, or members have left.
    pub(super) fn end_cuts(&mut self) {
        let cutting = std::mem::take(&mut self.groups.cutting);
        self.groups.cutting = cutting.into_iter().filter(|name| self.unsettled(name).is_some()).collect();
    }

    /// A member of a group whose volume's PGs don't all hold to its new stack yet.
    fn unsettled(&self, group: &Name) -> Option<&VolumeRecord> {
        let members = self.groups.by_name.get(group)?.members.keys().map(|volume| self.member(group, *volume));
        let is_creating = |(volume, snapshot): &(&VolumeRecord, &SnapshotRecord)| {
            volume.snapshot_state(snapshot) == SnapshotState::Creating
        };
        members.into_iter().find(is_creating).map(|(volume, _)| volume)
    }

    /// U2: what a volume waits for that is frozen together with others.
    pub(super) fn cut_waits_for(&self, volume: VolumeId) -> Option<String> {
        let is_in = |group: &&Name| self.groups.by_name[*group].members.contains_key(&volume);
        let unsettled = self.groups.cutting.iter().filter(is_in).find_map(|group| self.unsettled(group))?;
        unsettled.barrier.map(|barrier| self.waiting_for(barrier))
    }

    pub(super) fn assert_groups(&self) {
        for (name, group) in &self.groups.by_name {
            assert!(!group.members.is_empty(), "U1: group {name} has members");
            for (volume, id) in &group.members {
                let (_, snapshot) = self.member(name, *volume);
                assert!(snapshot.id == *id, "U1: {name} of {volume} is the one that was taken with the group");
                assert!(snapshot.taken_at == group.taken_at, "U1: {name} of {volume} is of the group's moment");
            }
            assert!(
                self.groups.cutting.contains(name) == self.unsettled(name).is_some(),
                "U2: the cut of {name} is under way until all its snapshots are available"
            );
        }
        assert!(
            self.groups.cutting.iter().all(|name| self.groups.by_name.contains_key(name)),
            "U2: cuts are of groups"
        );
    }
}
