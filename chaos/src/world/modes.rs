//! Disk modes as the operator changes them, and what he knows of them (docs/decisions/035-disk-modes.md).
//!
//! What one attachment of a non-persistent volume reads and writes is a *register* of its own for the checker: a clone of what the volume was when it
//! became non-persistent. So nothing that an attachment has written may be seen by another one, or in the volume when it is persistent again; and all
//! of them find the same where they write nothing. Each attachment has a gateway with a name of its own, and keeps its register while that gateway's
//! processes come and go.

use super::client::volume_name;
use super::{Phase, World};
use crate::aim::Aim;
use crate::check::SnapshotRef;
use crate::clock::MS;
use crate::rng::Rng;
use crate::run::Reason;
use ashlar_types::control::{AttachMode, ControlRequest, DiskMode};
use ashlar_types::{AttachmentId, Name};
use std::collections::BTreeMap;

/// Behind all volumes.
const FIRST_REGISTER: u32 = 1000;

/// What the operator knows of the modes of volumes: he asks for one thing after the other.
#[derive(Debug, Default)]
pub struct Modes {
    /// Of those that are not dependent, with what a non-persistent one falls back to.
    of: BTreeMap<u32, (DiskMode, Option<SnapshotRef>)>,
    /// What becomes that if the mode is set that is being asked for.
    frozen: BTreeMap<u32, SnapshotRef>,
    last_register: u32,
    /// The attachments that the faults have left were ended once more, or are not to be.
    are_last_ended: bool,
}

impl Modes {
    pub fn is_independent(&self, volume: u32) -> bool {
        self.of.contains_key(&volume)
    }

    /// Volumes that have something to fall back to.
    pub fn bases(&self) -> usize {
        self.of.values().filter(|(_, base)| base.is_some()).count()
    }

    fn base(&self, volume: u32) -> Option<SnapshotRef> {
        self.of.get(&volume).and_then(|(_, base)| *base)
    }
}

impl World {
    /// Before anybody has had the volume: it falls back to nothing then.
    pub(super) fn push_first_mode(&mut self, volume: u32) {
        if self.aim() != Some(Aim::DiskModes) {
            return;
        }
        let mode = match self.rng.below(4) {
            0 => DiskMode::IndependentNonpersistent,
            1 => DiskMode::IndependentPersistent,
            _ => return,
        };
        let request = ControlRequest::VolumeSetMode { names: vec![volume_name(volume)], mode };
        self.operator.script.push_back(request);
    }

    /// Whoever has the volume loses it, or is told to take it anew.
    pub fn end_attachment(&mut self, volume: u32, rng: &mut Rng) {
        if !self.is_operator_idle() {
            return;
        }
        match rng.below(10) {
            0..=2 => self.take_over(volume),
            3 => self.take_again(volume),
            _ => self.detach_and_attach(volume, rng),
        }
    }

    /// The gateway that has it takes it over from itself: its process is fenced, its attachment goes on.
    fn take_again(&mut self, volume: u32) {
        let mut holders = self.clients.values().filter(|c| c.volume == volume && c.snapshot.is_none());
        let Some(gateway) = holders.rfind(|c| c.is_running()).map(|c| c.gateway.clone()) else { return };
        self.trace(|| format!("{gateway} takes volume {volume} again"));
        let (name, mode) = (volume_name(volume).into(), AttachMode::Force);
        self.ask_as_operator(ControlRequest::Attach { name, gateway, mode, read_only: false });
    }

    fn detach_and_attach(&mut self, volume: u32, rng: &mut Rng) {
        self.trace(|| format!("volume {volume} is detached"));
        self.ask_as_operator(ControlRequest::Detach { name: volume_name(volume).into(), gateway: None });
        let mode = match rng.below(10) {
            0..=3 => Some(DiskMode::IndependentNonpersistent),
            4 => Some(DiskMode::IndependentPersistent),
            5 | 6 => Some(DiskMode::Dependent),
            _ => None,
        };
        if let Some(mode) = mode {
            let names = vec![volume_name(volume)];
            self.ask_as_operator(ControlRequest::VolumeSetMode { names, mode });
        }
        self.push_attach(volume, AttachMode::Exclusive);
    }

    /// All that was acknowledged until it is asked for, and nothing after its first attachment, is in what a volume falls back to.
    pub(super) fn before_mode(&mut self, request: &ControlRequest) {
        let ControlRequest::VolumeSetMode { names, mode: DiskMode::IndependentNonpersistent } = request else { return };
        for volume in self.numbers_of(names) {
            let modes = &self.operator.modes;
            if modes.base(volume).is_none() && !modes.frozen.contains_key(&volume) {
                let of = self.history.begin_snapshot(volume);
                self.operator.modes.frozen.insert(volume, of);
            }
        }
    }

    pub(super) fn on_mode_set(&mut self, names: &[Name], mode: DiskMode) {
        for volume in self.numbers_of(names) {
            self.trace(|| format!("volume {volume} is {}", mode.word()));
            let modes = &mut self.operator.modes;
            let frozen = modes.frozen.remove(&volume);
            match mode {
                DiskMode::Dependent => drop(modes.of.remove(&volume)),
                DiskMode::IndependentPersistent => drop(modes.of.insert(volume, (mode, None))),
                // It may have been that already.
                DiskMode::IndependentNonpersistent => {
                    let base = modes.base(volume).or(frozen);
                    modes.of.insert(volume, (mode, base));
                }
            }
        }
    }

    pub(super) fn on_mode_refused(&mut self, names: &[Name]) {
        for volume in self.numbers_of(names) {
            self.operator.modes.frozen.remove(&volume);
        }
    }

    fn numbers_of(&self, names: &[Name]) -> Vec<u32> {
        (0..self.volume_count()).filter(|volume| names.contains(&volume_name(*volume))).collect()
    }

    /// Groups leave out just the independent ones.
    pub(super) fn judge_left_out(&mut self, volumes: &[Name], left_out: &[Name]) {
        let independent = |volume: &u32| self.operator.modes.is_independent(*volume);
        let expected: Vec<Name> = self.numbers_of(volumes).into_iter().filter(independent).map(volume_name).collect();
        if expected.len() != left_out.len() || expected.iter().any(|name| !left_out.contains(name)) {
            self.fail(Reason::Answers(format!("a group left {left_out:?} out, independent are {expected:?}")));
        }
    }

    /// What a new attachment of a volume reads and writes, and what that is at first if it isn't the volume.
    pub(super) fn new_register(&mut self, volume: u32) -> (u32, Option<SnapshotRef>) {
        let modes = &mut self.operator.modes;
        let Some(base) = modes.base(volume) else { return (volume, None) };
        let register = FIRST_REGISTER + modes.last_register;
        modes.last_register += 1;
        self.history.clone_volume(register, base);
        self.trace(|| format!("register {register} is what is attached of volume {volume}"));
        (register, Some(base))
    }

    /// A gateway has taken the volume over from itself. It is another attachment only if a late copy of a request had detached it.
    pub(super) fn attached_again(&mut self, id: u32, attachment: Option<AttachmentId>) {
        let client = &self.clients[&id];
        if client.attachment != attachment {
            let (register, base) = self.new_register(client.volume);
            let client = self.clients.get_mut(&id).expect("it was just there");
            (client.register, client.falls_back_to, client.attachment) = (register, base, attachment);
        }
        self.crash_client(id);
        let pause = self.rng.below(100) * MS;
        self.restart_client_in(id, pause);
    }

    /// Where the last reads are to find what the volumes fall back to, the attachments end that the faults have left. Says whether they do.
    pub(super) fn end_last_attachments(&mut self) -> bool {
        let is_done = std::mem::replace(&mut self.operator.modes.are_last_ended, true);
        if is_done || self.phase != Phase::Heal || self.aim() != Some(Aim::DiskModes) || self.rng.permille(400) {
            return false;
        }
        for volume in 0..self.volume_count() {
            self.take_over(volume);
        }
        true
    }
}
