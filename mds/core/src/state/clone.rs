//! Linked clones: a volume that stands on a frozen layer of another one, its origin, and reads there what none of its own layers has. The clone
//! names its origin, and the origin's volume names who stands on which layer: those layers are tips as snapshots are (L2).
//! O1: a clone's origin is a frozen layer of an older volume, which names the clone there; nobody else is named. O2: a volume on which clones stand
//! is not closed. O3: deleted while they do it is *hidden*: it has no name, no snapshots, no attachments and an empty top, and is closed when
//! the last clone is gone. A clone that is being deleted stands on its origin until its PGs have passed its barrier: till then a read may be
//! under way. O4: there are at most [`LEVELS_MAX`] volumes below a clone.
//! What is frozen changes for nobody, so it is read without an attachment: docs/decisions/028-linked-clones.md.

use super::volume::VolumeRecord;
use super::{ClusterState, Outcome, invalid, not_found};
use ashlar_types::control::{
    AttachGrant, BaseLayer, ControlError, ControlReply, OriginInfo, SnapshotState, VolumeInfo,
};
use ashlar_types::{AttachmentId, DiskName, Generation, LayerId, Name, PoolId, SessionId, StackRevision, VolumeId};
use std::collections::BTreeSet;

/// In one request: its answer tells of each.
const CLONES_PER_REQUEST_MAX: usize = 1_000;
/// Volumes below a clone: what nobody has written is looked for in each, one after the other.
pub(super) const LEVELS_MAX: usize = 64;

impl VolumeRecord {
    pub(super) fn clone_count(&self) -> u64 {
        self.clones.values().map(|clones| clones.len() as u64).sum()
    }
}

impl ClusterState {
    pub(super) fn volume_clone(&mut self, source: &DiskName, names: Vec<Name>, pool: Option<&Name>) -> Outcome {
        let (base, pool) = self.check_clone_source(source, pool)?;
        self.check_clone_names(&names)?;
        self.check_room_for_volumes(pool, names.len())?;
        self.check_promise(pool, base.size.saturating_mul(names.len() as u64))?;
        let made: Vec<VolumeId> =
            names.into_iter().map(|name| self.add_volume(name, base.size, pool, Some(base))).collect();
        let below = self.volumes.get_mut(&base.volume).expect("looked up above");
        below.clones.entry(base.layer).or_default().extend(&made);
        made.iter().for_each(|clone| self.inherit_wipe_freed(*clone, base.volume));
        let infos: Vec<VolumeInfo> = made.iter().map(|id| self.volume_info(&self.volumes[id])).collect();
        Ok(ControlReply::Volumes(infos))
    }

    /// What the clones will stand on, and their pool.
    fn check_clone_source(&self, source: &DiskName, pool: Option<&Name>) -> Result<(BaseLayer, PoolId), ControlError> {
        let volume = self.open_volume(&source.volume)?;
        let Some(snapshot) = &source.snapshot else {
            let way = format!("take one with `snapshot create {source}@NAME` and clone that");
            return Err(invalid(format!("volume {source} itself can't be cloned, only a snapshot of it; {way}")));
        };
        let snapshot = volume.snapshot(snapshot)?;
        if volume.snapshot_state(snapshot) == SnapshotState::Creating {
            return Err(invalid(format!("snapshot {source} is still being created; clone it when it is available")));
        }
        let levels = self.origins(volume).count() + 1;
        if levels > LEVELS_MAX {
            let most = format!("volume {} stands on {LEVELS_MAX} volumes, one on the other", source.volume);
            let way = "which is the most below a clone; clone one of those, or copy the data into a new volume";
            return Err(invalid(format!("snapshot {source} can't be cloned: {most}, {way}")));
        }
        let base = BaseLayer { volume: volume.id, layer: snapshot.layer, size: snapshot.size };
        let pool = match pool {
            Some(_) => self.pool_for_volume(pool)?,
            None => volume.pool,
        };
        Ok((base, pool))
    }

    fn check_clone_names(&self, names: &[Name]) -> Result<(), ControlError> {
        if names.is_empty() || names.len() > CLONES_PER_REQUEST_MAX {
            let most = format!("a request makes 1 to {CLONES_PER_REQUEST_MAX} clones");
            return Err(invalid(format!("{most}, not {}", names.len())));
        }
        let mut known = BTreeSet::new();
        for name in names {
            self.check_new_name(name)?;
            if !known.insert(name) {
                return Err(invalid(format!("two of the clones would be named {name}")));
            }
        }
        Ok(())
    }

    /// What a volume stands on, what that stands on, and so on.
    pub(super) fn origins<'a>(&'a self, volume: &VolumeRecord) -> impl Iterator<Item = BaseLayer> + use<'a> {
        let below = |origin: &BaseLayer| self.volumes.get(&origin.volume).expect("O1: an origin exists").origin;
        std::iter::successors(volume.origin, below)
    }

    pub(super) fn origin_info(&self, base: BaseLayer) -> OriginInfo {
        let volume = self.volumes.get(&base.volume).expect("O1: an origin exists");
        let named = volume.snapshots.values().filter(|_| self.is_listed(volume));
        let snapshot = named.into_iter().find(|snapshot| snapshot.layer == base.layer);
        OriginInfo {
            base,
            volume_name: volume.name.clone(),
            snapshot: snapshot.map(|snapshot| snapshot.name.clone()),
            deleted: !self.is_listed(volume),
        }
    }

    /// The newest stack revision, whether its barrier is passed or not: a PG that knows of the barrier takes nothing by an older one, and serves
    /// the new one as soon as it has passed. Who shares a volume waits for all of them, since a write of one may cause a write of another
    /// (docs/decisions/026-stacks-are-named-by-clients.md); here nothing is written.
    pub(super) fn base_grant(&self, volume: VolumeId, layer: LayerId) -> Outcome {
        let unknown = || not_found("frozen layer with clones", format!("{layer} of {volume}"));
        let record = self.volumes.get(&volume).ok_or_else(unknown)?;
        let clone = record.clones.get(&layer).and_then(BTreeSet::first).ok_or_else(unknown)?;
        let origin = self.volumes.get(clone).and_then(|clone| clone.origin).expect("O1: a clone names its origin");
        Ok(ControlReply::Opened(AttachGrant {
            volume,
            name: record.name.clone().into(),
            attachment: AttachmentId::FROZEN,
            generation: Generation(0),
            session: SessionId(0),
            pool: record.pool,
            placement_key: record.placement_key,
            stack_revision: record.stack_revision,
            layers: self.stack(layer),
            size: origin.size,
            read_only: true,
            base: self.base_of(record),
        }))
    }

    /// Deletes a volume on which clones stand, as far as none of them needs it (O3). The caller has checked that nobody has it.
    pub(super) fn hide(&mut self, volume: VolumeId) {
        self.drop_job(volume);
        self.unreserve(volume);
        let used_before = self.layers_in_use(&self.volumes[&volume]);
        // In the place of the old top, which is given up: so a pool that is full of layers has one more only until the barrier has passed,
        // and deleting is never refused for it.
        let top = self.add_layer(volume, None);
        // One in the bin has no name any more; it may be another's.
        let is_listed = self.is_listed(&self.volumes[&volume]);
        self.leave_bin(volume);
        let record = self.volumes.get_mut(&volume).expect("the caller looked it up");
        if is_listed {
            self.volume_names.remove(&record.name);
        }
        record.hidden = true;
        let snapshots = std::mem::take(&mut record.snapshots);
        self.forget_mode(volume);
        let record = self.volumes.get_mut(&volume).expect("the caller looked it up");
        record.top = top;
        record.stack_revision = StackRevision(record.stack_revision.0.saturating_add(1));
        self.leave_groups(volume, snapshots.values());
        self.retire_unreached(volume, &used_before);
        self.raise_floor(volume, |_| {});
        self.revise_merges(volume);
    }

    /// A clone is deleted and all its PGs have dropped it: nothing that it still had under way is answered any more.
    pub(super) fn clone_gone(&mut self, clone: VolumeId, origin: BaseLayer) {
        let used_before = self.layers_in_use(&self.volumes[&origin.volume]);
        let record = self.volumes.get_mut(&origin.volume).expect("O1: an origin exists");
        let clones = record.clones.get_mut(&origin.layer).expect("O1: who stands on a layer is named there");
        let was_named = clones.remove(&clone);
        assert!(was_named, "O1: {clone} is named by its origin");
        if !clones.is_empty() {
            return;
        }
        record.clones.remove(&origin.layer);
        let is_last = record.hidden && record.clones.is_empty();
        let gives_up = self.retire_unreached(origin.volume, &used_before);
        if is_last {
            return self.close(origin.volume);
        }
        if gives_up {
            self.raise_floor(origin.volume, |_| {});
        }
        self.revise_merges(origin.volume);
    }

    /// Tips of a volume have gone: the layers that no other tip reaches are given up, with the barrier that the caller begins. Says whether there
    /// are any.
    pub(super) fn retire_unreached(&mut self, volume: VolumeId, used_before: &BTreeSet<LayerId>) -> bool {
        let used_now = self.layers_in_use(&self.volumes[&volume]);
        let record = self.volumes.get_mut(&volume).expect("the caller looked it up");
        record.retiring.extend(used_before.difference(&used_now));
        used_now.len() < used_before.len()
    }
}
