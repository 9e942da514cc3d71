//! Merges: a frozen layer that is no tip any more, and that has one child, is taken apart: each PG moves what it has of it into the child
//! (docs/decisions/027-merging-layers.md). When all have, the layer is given up like one that a revert leaves behind. The stack of the volume keeps
//! its revision: whoever still names the layer finds nothing in it, and all of it in the child.
//! G1: a pending merge is of two layers in use, parent and only child, the parent not a tip; so who reads the parent reads it through the
//! child. G2: no layer is in two pending merges. G3: a merge of layers that are given up is given up.

use super::snapshot::SnapshotRecord;
use super::volume::VolumeRecord;
use super::{ClusterState, Outcome, invalid};
use ashlar_types::control::ControlError;
use ashlar_types::view::Merge;
use ashlar_types::{LayerId, Name, PgId, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Every OSD and gateway is told all pending merges with each change of the view.
const MERGES_MAX: usize = 64;
const MERGES_PER_VOLUME_MAX: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Merges {
    /// The id to be given out next.
    next: u64,
    pub(super) pending: BTreeMap<u64, Merge>,
    /// Volumes that have layers to merge, when others are done.
    waiting: BTreeSet<VolumeId>,
}

impl Default for Merges {
    fn default() -> Merges {
        Merges { next: 1, pending: BTreeMap::new(), waiting: BTreeSet::new() }
    }
}

impl ClusterState {
    /// The name is gone at once; what only it held follows.
    pub(super) fn snapshot_delete(&mut self, volume: &Name, name: &Name) -> Outcome {
        let record = self.open_volume(volume)?;
        self.check_detached(record, record.snapshot(name)?)?;
        self.drop_snapshot(record.id, name);
        self.done()
    }

    pub(super) fn check_detached(&self, volume: &VolumeRecord, snapshot: &SnapshotRecord) -> Result<(), ControlError> {
        let Some(attachment) = volume.attachments.values().find(|a| a.snapshot == Some(snapshot.id)) else {
            return Ok(());
        };
        let (disk, gateway) = (volume.disk_name(attachment), &attachment.gateway);
        let way = format!("`volume detach {disk}` takes it from there");
        Err(invalid(format!("snapshot {disk} is attached to {gateway}; {way}")))
    }

    /// The caller has checked that nobody has it.
    pub(super) fn drop_snapshot(&mut self, volume: VolumeId, name: &Name) {
        let used_before = self.layers_in_use(&self.volumes[&volume]);
        let record = self.volumes.get_mut(&volume).expect("the caller looked it up");
        let snapshot = record.snapshots.remove(name).expect("the caller looked it up");
        self.leave_groups(volume, [&snapshot]);
        if self.retire_unreached(volume, &used_before) {
            self.raise_floor(volume, |_| {});
        }
        self.revise_merges(volume);
    }

    /// After a change of a volume's layers or of their names.
    pub(super) fn revise_merges(&mut self, volume: VolumeId) {
        // G3
        let retiring = self.volumes.get(&volume).map(|record| record.retiring.clone()).unwrap_or_default();
        let before = self.merges.pending.len();
        let is_over = |m: &Merge| m.volume == volume && (retiring.contains(&m.from) || retiring.contains(&m.into));
        self.merges.pending.retain(|_, merge| !is_over(merge));
        if self.merges.pending.len() < before {
            self.touch_view();
        }
        self.merges.waiting.insert(volume);
        self.plan_merges();
    }

    /// Begins what there is room for.
    fn plan_merges(&mut self) {
        while self.merges.pending.len() < MERGES_MAX {
            let Some(volume) = self.merges.waiting.pop_first() else { return };
            for (from, into) in self.mergeable(volume) {
                if self.merges.pending.len() == MERGES_MAX {
                    self.merges.waiting.insert(volume);
                    return;
                }
                self.begin_merge(volume, from, into);
            }
        }
    }

    fn begin_merge(&mut self, volume: VolumeId, from: LayerId, into: LayerId) {
        self.touch_view();
        let pool = self.volumes[&volume].pool;
        let pg_count = self.pools.get(&pool).expect("a pool with volumes is not deleted").value.info.pg_count;
        let pgs = (0..pg_count).map(|index| PgId { pool, index }).collect();
        let id = self.merges.next;
        self.merges.next += 1;
        self.merges.pending.insert(id, Merge { id, volume, from, into, pgs });
    }

    /// Pairs of parent and child to be merged now, the newest first: of neighbouring layers that go, each block is moved once then.
    fn mergeable(&self, volume: VolumeId) -> Vec<(LayerId, LayerId)> {
        let Some(record) = self.volumes.get(&volume).filter(|record| !record.floor.closed) else { return Vec::new() };
        let tips: BTreeSet<LayerId> = self.tips(record).collect();
        let used = self.layers_in_use(record);
        let mut children: BTreeMap<LayerId, Vec<LayerId>> = BTreeMap::new();
        for layer in &used {
            if let Some(parent) = self.layers[layer].parent {
                children.entry(parent).or_default().push(*layer);
            }
        }
        let own = self.merges.pending.values().filter(|merge| merge.volume == volume);
        let mut busy: BTreeSet<LayerId> = own.flat_map(|merge| [merge.from, merge.into]).collect();
        let mut pairs = Vec::new();
        let may_go = |layer: &&LayerId| !tips.contains(layer) && !self.is_being_filled(volume, **layer);
        for layer in used.iter().rev().filter(may_go) {
            if busy.len() / 2 >= MERGES_PER_VOLUME_MAX {
                break;
            }
            let Some([child]) = children.get(layer).map(Vec::as_slice) else { continue };
            if !busy.contains(layer) && !busy.contains(child) {
                busy.extend([*layer, *child]);
                pairs.push((*layer, *child));
            }
        }
        pairs
    }

    /// Whether it is being taken apart.
    pub(super) fn is_merging(&self, layer: LayerId) -> bool {
        self.merges.pending.values().any(|merge| merge.from == layer)
    }

    /// Whether the lowest layer would be taken apart if it were not being filled (Z3).
    pub(super) fn has_merge_held_back(&self, volume: VolumeId) -> bool {
        let record = &self.volumes[&volume];
        let lowest = self.lowest_layer(record);
        let is_tip = self.tips(record).any(|tip| tip == lowest);
        let used = self.layers_in_use(record);
        let children = used.iter().filter(|layer| self.layers[layer].parent == Some(lowest)).count();
        !is_tip && children == 1 && !self.is_merging(lowest)
    }

    /// A merge that isn't known was done or given up before: the answer to a late or repeated message is the same.
    pub(super) fn merge_done(&mut self, id: u64, pgs: &[PgId]) -> Outcome {
        let done: BTreeSet<&PgId> = pgs.iter().collect();
        let Some(merge) = self.merges.pending.get_mut(&id) else {
            return self.unchanged();
        };
        let before = merge.pgs.len();
        merge.pgs.retain(|pg| !done.contains(pg));
        if merge.pgs.len() == before {
            return self.unchanged();
        }
        if merge.pgs.is_empty() {
            let Merge { volume, from, into, .. } = merge.clone();
            self.merges.pending.remove(&id);
            self.take_out_merged(volume, from, into);
        }
        self.touch_view();
        self.done()
    }

    /// Nothing is left of `from`: its child stands where it stood, and the PGs are told to forget it.
    fn take_out_merged(&mut self, volume: VolumeId, from: LayerId, into: LayerId) {
        let below = self.layers[&from].parent;
        self.layers.get_mut(&into).expect("G1").parent = below;
        self.volumes.get_mut(&volume).expect("G1").retiring.insert(from);
        self.raise_floor(volume, |_| {});
        self.revise_merges(volume);
    }

    /// A deleted volume has nothing to merge any more.
    pub(super) fn forget_merges(&mut self, volume: VolumeId) {
        self.merges.waiting.remove(&volume);
        self.merges.pending.retain(|_, merge| merge.volume != volume);
        self.plan_merges();
    }

    pub(super) fn assert_merges(&self) {
        let mut busy = BTreeSet::new();
        assert!(self.merges.pending.len() <= MERGES_MAX, "no more merges than are told");
        for (id, merge) in &self.merges.pending {
            let volume = self.volumes.get(&merge.volume).expect("G1: the volume of a merge exists");
            let used = self.layers_in_use(volume);
            let in_use = |layer: &LayerId| used.contains(layer) && !volume.retiring.contains(layer);
            assert!(*id == merge.id && *id < self.merges.next, "merge {id} was given out");
            assert!(!volume.floor.closed, "G3: {} is deleted", volume.name);
            assert!(in_use(&merge.from) && in_use(&merge.into), "G1: both layers of merge {id} are in use");
            assert!(self.layers[&merge.into].parent == Some(merge.from), "G1: merge {id} is of parent and child");
            let children = used.iter().filter(|layer| self.layers[layer].parent == Some(merge.from)).count();
            assert!(children == 1, "G1: merge {id} is into the only child");
            assert!(self.tips(volume).all(|tip| tip != merge.from), "G1: merge {id} takes no tip apart");
            assert!(busy.insert(merge.from) && busy.insert(merge.into), "G2: merge {id}");
            assert!(!merge.pgs.is_empty(), "a merge that is done is not pending");
        }
    }
}
