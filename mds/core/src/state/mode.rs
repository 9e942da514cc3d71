//! Disk modes (docs/decisions/035-disk-modes.md): independent disks are left out of snapshot groups, and what is written to a non-persistent one goes with
//! the attachment by which it was. Such a volume has a *base*, the layer that was its top when it was made non-persistent, and above that the layer that
//! its attachment writes. When the attachment ends that layer is given up for a new one, as a revert does it. Kept beside the volumes, as the bin is.
//! M1: only volumes that are there are independent, neither closed nor hidden ones. M2: the top of a non-persistent volume stands on its base, which is a
//! tip (L2). One that nobody had ever written has none, no snapshots and no clones: its top stands on nothing. M3: it has one attachment of its own at
//! most, of which a process may have written into the top: without one the top is empty. M4: nobody writes zeroes to it, and who flattens it fills
//! what lies below its top.

use super::volume::VolumeRecord;
use super::{ClusterState, Outcome, invalid};
use ashlar_types::control::{AttachMode, ControlError, ControlReply, DiskMode, Provision};
use ashlar_types::view::Floor;
use ashlar_types::{LayerId, Name, StackRevision, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// In one request: each may have a barrier, and every OSD and gateway is told all of them with each change of the view.
const VOLUMES_PER_REQUEST_MAX: usize = 64;
/// Between the beginning of an attachment and its end a volume gets two new stacks at most: when it has been flattened, and at the end itself.
const STACKS_PER_ATTACHMENT: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ModeRecord {
    mode: DiskMode,
    /// M2
    base: Option<LayerId>,
}

/// Those that are not dependent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Modes {
    of: BTreeMap<VolumeId, ModeRecord>,
}

impl ClusterState {
    pub(super) fn mode_of(&self, volume: VolumeId) -> DiskMode {
        self.modes.of.get(&volume).map_or(DiskMode::Dependent, |record| record.mode)
    }

    /// Whether snapshot groups leave it out.
    pub(super) fn is_independent(&self, volume: VolumeId) -> bool {
        self.mode_of(volume) != DiskMode::Dependent
    }

    pub(super) fn is_nonpersistent(&self, volume: VolumeId) -> bool {
        self.mode_of(volume) == DiskMode::IndependentNonpersistent
    }

    /// M2
    pub(super) fn mode_base(&self, volume: VolumeId) -> Option<LayerId> {
        self.modes.of.get(&volume)?.base
    }

    pub(super) fn volume_set_mode(&mut self, names: &[Name], mode: DiskMode) -> Outcome {
        let volumes = self.check_set_mode(names, mode)?;
        volumes.iter().for_each(|volume| self.set_mode(*volume, mode));
        let infos = volumes.iter().map(|volume| self.volume_info(&self.volumes[volume]));
        Ok(ControlReply::Volumes(infos.collect()))
    }

    fn check_set_mode(&self, names: &[Name], mode: DiskMode) -> Result<Vec<VolumeId>, ControlError> {
        if names.is_empty() || names.len() > VOLUMES_PER_REQUEST_MAX {
            let most = format!("a request sets the mode of 1 to {VOLUMES_PER_REQUEST_MAX} volumes");
            return Err(invalid(format!("{most}, not {}", names.len())));
        }
        let (mut named, mut ids) = (BTreeSet::new(), Vec::new());
        for name in names {
            let volume = self.usable_volume(name)?;
            if !named.insert(name) {
                return Err(invalid(format!("volume {name} is named twice")));
            }
            if self.mode_of(volume.id) != mode {
                self.check_mode(volume, mode)?;
            }
            if mode == DiskMode::IndependentNonpersistent {
                // As snapshot groups do it (group.rs).
                self.check_room_for_layers(volume.pool, names.len())?;
            }
            ids.push(volume.id);
        }
        Ok(ids)
    }

    fn check_mode(&self, volume: &VolumeRecord, mode: DiskMode) -> Result<(), ControlError> {
        let name = &volume.name;
        if let Some(holder) = volume.own_attachments().next() {
            let way =
                format!("it becomes {} when nobody has it; `volume detach {name}` takes it from there", mode.word());
            return Err(invalid(format!("volume {name} is attached to {}; {way}", holder.gateway)));
        }
        if mode != DiskMode::IndependentNonpersistent {
            return Ok(());
        }
        if self.provision_of(volume.id) == Provision::Eager {
            let way = format!("`volume set {name} --provision lazy` leaves it its space");
            return Err(invalid(format!("volume {name} is eager, and can't be {} as well; {way}", mode.word())));
        }
        self.check_not_zeroing(volume)?;
        match self.was_ever_written(volume) {
            true => self.check_freeze(volume, &format!("volume {name} can't become {}", mode.word())),
            false => Ok(()),
        }
    }

    fn set_mode(&mut self, volume: VolumeId, mode: DiskMode) {
        if self.mode_of(volume) == mode {
            return;
        }
        if mode == DiskMode::IndependentNonpersistent {
            let base = self.was_ever_written(&self.volumes[&volume]).then(|| self.freeze_top(volume).0);
            self.modes.of.insert(volume, ModeRecord { mode, base });
            return;
        }
        if mode == DiskMode::Dependent {
            self.modes.of.remove(&volume);
        } else {
            self.modes.of.insert(volume, ModeRecord { mode, base: None });
        }
        // What was its base is no tip any more, and is merged into the top as the layer of a deleted snapshot is.
        self.revise_merges(volume);
    }

    /// As far as the metadata knows: whoever was given it has been fenced, or is to be. A thousand clones that nobody has used yet become
    /// non-persistent without a barrier.
    fn was_ever_written(&self, volume: &VolumeRecord) -> bool {
        let is_new = volume.stack_revision == StackRevision(1) && volume.floor == Floor::default();
        !is_new || volume.barrier.is_some() || !volume.attachments.is_empty() || self.has_job(volume.id)
    }

    /// For people: why something that would last can't be done with a volume whose writes don't.
    pub(super) fn check_persistent(&self, volume: &VolumeRecord, what: &str) -> Result<(), ControlError> {
        if !self.is_nonpersistent(volume.id) {
            return Ok(());
        }
        let name = &volume.name;
        let way = format!("`volume set {name} --disk-mode dependent` makes it one that can");
        Err(invalid(format!("volume {name} is independent-nonpersistent and can't be {what}; {way}")))
    }

    /// M3
    pub(super) fn check_attach_mode(&self, volume: &VolumeRecord, mode: AttachMode) -> Result<(), ControlError> {
        if !self.is_nonpersistent(volume.id) {
            return Ok(());
        }
        let name = &volume.name;
        if mode == AttachMode::Shared {
            let why = "what is written to it belongs to one attachment";
            let way = format!(
                "attach it without --shared, or clones of a snapshot of it to each; `volume set {name} --disk-mode dependent` makes it one that is shared"
            );
            return Err(invalid(format!(
                "volume {name} is independent-nonpersistent and can't be shared: {why}; {way}"
            )));
        }
        if volume.stack_revision.0 > u32::MAX - STACKS_PER_ATTACHMENT {
            return Err(invalid(format!("volume {name} has had all the stacks that can be counted")));
        }
        Ok(())
    }

    /// An attachment of the volume itself, which may have written, is ending; the caller raises the floor. Says whether there is a new top. In the place of
    /// the old one, which is given up: so a pool that is full of layers has one more only until the barrier has passed, and detaching is never
    /// refused for it.
    pub(super) fn drop_written(&mut self, volume: VolumeId) -> bool {
        if !self.is_nonpersistent(volume) {
            return false;
        }
        let used_before = self.layers_in_use(&self.volumes[&volume]);
        self.put_top(volume, self.mode_base(volume));
        self.revise_reserve(volume, false);
        self.retire_unreached(volume, &used_before);
        true
    }

    /// Whether a volume that is to be flattened has, or can get, something below its top in which what is filled stays.
    pub(super) fn check_base(&self, volume: &VolumeRecord) -> Result<(), ControlError> {
        if !self.wants_base(volume.id) {
            return Ok(());
        }
        let name = &volume.name;
        if let Some(holder) = volume.own_attachments().next() {
            let way = format!("flatten it when nobody has it; `volume detach {name}` takes it from there");
            return Err(invalid(format!(
                "volume {name} is attached to {}, and all it has goes then; {way}",
                holder.gateway
            )));
        }
        self.check_freeze(volume, &format!("volume {name} can't be flattened"))
    }

    /// The caller has checked that it can.
    pub(super) fn give_base(&mut self, volume: VolumeId) {
        if self.wants_base(volume) {
            let base = Some(self.freeze_top(volume).0);
            self.modes.of.insert(volume, ModeRecord { mode: DiskMode::IndependentNonpersistent, base });
        }
    }

    fn wants_base(&self, volume: VolumeId) -> bool {
        self.is_nonpersistent(volume) && self.mode_base(volume).is_none()
    }

    /// It is being deleted, or is kept for its clones alone.
    pub(super) fn forget_mode(&mut self, volume: VolumeId) {
        self.modes.of.remove(&volume);
    }

    /// Whether the request freezes the top of this volume, so that one that has its space reserved needs as much again.
    pub(crate) fn is_frozen_by_mode(&self, name: &Name, mode: DiskMode) -> bool {
        let becomes_nonpersistent = |volume: &VolumeRecord| {
            mode == DiskMode::IndependentNonpersistent
                && self.mode_of(volume.id) != mode
                && self.was_ever_written(volume)
        };
        self.volume(name).is_ok_and(becomes_nonpersistent)
    }

    /// Whether a snapshot group takes a snapshot of it.
    pub(crate) fn is_dependent(&self, name: &Name) -> bool {
        self.volume(name).is_ok_and(|volume| !self.is_independent(volume.id))
    }

    pub(super) fn assert_modes(&self) {
        for (id, record) in &self.modes.of {
            let volume = self.volumes.get(id).expect("M1: an independent volume exists");
            let name = &volume.name;
            assert!(!volume.floor.closed && !volume.hidden, "M1: {name} is there");
            assert!(record.mode != DiskMode::Dependent, "M1: {name} is not as all are");
            if record.mode != DiskMode::IndependentNonpersistent {
                assert!(record.base.is_none(), "M2: {name} falls back to nothing");
                continue;
            }
            assert!(self.layers[&volume.top].parent == record.base, "M2: the top of {name} stands on its base");
            match record.base {
                Some(base) => assert!(self.layers[&base].volume == *id, "M2: the base of {name} is its own"),
                None => {
                    let is_bare = volume.snapshots.is_empty() && volume.clones.is_empty() && !self.has_job(*id);
                    assert!(is_bare, "M2, M4: {name} stands on nothing, and so does nobody else");
                }
            }
            let mut own = volume.own_attachments();
            assert!(own.next().is_none_or(|a| !a.shared) && own.next().is_none(), "M3: one has {name}");
            assert!(
                !self.is_eager(*id) && self.check_not_zeroing(volume).is_ok(),
                "M4: nobody writes zeroes to {name}"
            );
        }
    }
}
