//! Linked clones that the operator makes: each is a volume more, with a gateway of its own, and may be snapshotted and cloned like the others.

use super::World;
use super::client::volume_name;
use crate::check::SnapshotRef;
use crate::rng::Rng;
use ashlar_types::control::{AttachMode, ControlRequest};
use ashlar_types::{DiskName, Name};

/// Clones of one simulation.
const CLONES_MAX: usize = 4;

#[derive(Clone, Debug)]
pub struct Clone {
    /// Its number among the volumes: behind those that were made at first.
    pub volume: u32,
    pub state: CloneProgress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloneProgress {
    Asked,
    /// A gateway is to have it.
    Made,
    Attached,
}

impl World {
    /// Volumes that somebody has, or has had: those made at first, and clones.
    pub fn volume_count(&self) -> u32 {
        let attached = self.operator.clones.iter().take_while(|c| c.state == CloneProgress::Attached).count();
        self.shape.volumes + u32::try_from(attached).expect("few")
    }

    /// A snapshot that is there is cloned.
    pub fn clone_a_snapshot(&mut self, rng: &mut Rng) {
        if self.operator.clones.len() == CLONES_MAX || !self.is_operator_idle() {
            return;
        }
        let there: Vec<(DiskName, SnapshotRef)> = self.snapshots_that_are_there();
        let Some((source, of)) = rng.choose(&there).cloned() else { return };
        let volume = self.shape.volumes + u32::try_from(self.operator.clones.len()).expect("few");
        self.trace(|| format!("{source} is cloned: volume {volume}"));
        self.history.clone_volume(volume, of);
        self.operator.clones.push(Clone { volume, state: CloneProgress::Asked });
        self.ask_as_operator(ControlRequest::VolumeClone { source, names: vec![volume_name(volume)], pool: None });
    }

    fn clone_mut(&mut self, name: &Name) -> Option<&mut Clone> {
        self.operator.clones.iter_mut().find(|c| volume_name(c.volume) == *name)
    }

    pub(super) fn on_cloned(&mut self, names: &[Name]) {
        for name in names {
            if let Some(clone) = self.clone_mut(name) {
                clone.state = CloneProgress::Made;
                let volume = clone.volume;
                self.push_attach(volume, AttachMode::Exclusive);
            }
        }
    }

    /// It was refused: nothing was made.
    pub(super) fn on_not_cloned(&mut self, names: &[Name]) {
        self.operator.clones.retain(|c| !names.contains(&volume_name(c.volume)));
    }

    pub(super) fn on_clone_attached(&mut self, name: &Name) {
        if let Some(clone) = self.clone_mut(name) {
            clone.state = CloneProgress::Attached;
        }
    }
}
