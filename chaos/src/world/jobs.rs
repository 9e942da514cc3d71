//! Jobs that the operator begins and gives up: clones are flattened, and volumes are written with zeroes.

use super::World;
use super::client::volume_name;
use super::clones::CloneProgress;
use crate::rng::Rng;
use ashlar_types::JobId;
use ashlar_types::control::{ControlRequest, Provision};
use ashlar_types::job::JobInfo;

/// What the operator knows of jobs.
#[derive(Debug, Default)]
pub struct Jobs {
    /// Some may be there.
    are_open: bool,
    known: Vec<JobId>,
    looked_at: crate::clock::Instant,
}

const EAGER_DISK_BYTES_MIN: u64 = 128 << 20;
const LOOK: crate::clock::Instant = 50 * crate::clock::MS;

impl World {
    /// Some clone is flattened, whatever its gateway does.
    pub fn flatten_a_clone(&mut self, rng: &mut Rng) {
        if !self.is_operator_idle() {
            return;
        }
        let made: Vec<u32> =
            self.operator.clones.iter().filter(|c| c.state != CloneProgress::Asked).map(|c| c.volume).collect();
        let Some(volume) = rng.choose(&made).copied() else { return };
        self.trace(|| format!("volume {volume} is flattened"));
        self.operator.jobs.are_open = true;
        // The slowest: what was read waits, and others write meanwhile.
        let rate = rng.permille(800).then_some(1 << 20);
        self.ask_as_operator(ControlRequest::VolumeFlatten { name: volume_name(volume), rate });
    }

    /// Some volume becomes eager, or thin again. A clone can't before it is flattened, and there may be no room.
    pub fn zero_a_volume(&mut self, rng: &mut Rng) {
        // Small disks have no room for zeroes beside clones and snapshots: thin volumes would meet full ones.
        if !self.is_operator_idle() || self.shape.disk_bytes < EAGER_DISK_BYTES_MIN {
            return;
        }
        let volume = u32::try_from(rng.below(u64::from(self.volume_count()))).expect("few");
        let provision = if rng.permille(700) { Provision::Eager } else { Provision::Thin };
        self.trace(|| format!("volume {volume} is to be {provision:?}"));
        self.operator.jobs.are_open = true;
        self.ask_as_operator(ControlRequest::VolumeSet { name: volume_name(volume), provision });
    }

    pub fn give_a_job_up(&mut self, rng: &mut Rng) {
        if !self.is_operator_idle() {
            return;
        }
        let Some(job) = rng.choose(&self.operator.jobs.known).copied() else { return };
        self.trace(|| format!("{job} is given up"));
        self.ask_as_operator(ControlRequest::JobCancel { job });
    }

    /// Asks now and then which jobs there are, until there is none.
    pub(super) fn drive_jobs(&mut self) {
        if !self.operator.jobs.are_open || !self.is_operator_idle() || self.now < self.operator.jobs.looked_at + LOOK {
            return;
        }
        self.operator.jobs.looked_at = self.now;
        self.ask_as_operator(ControlRequest::JobList);
    }

    pub(super) fn on_jobs(&mut self, jobs: &[JobInfo]) {
        self.operator.jobs.are_open = !jobs.is_empty();
        self.operator.jobs.known = jobs.iter().map(|job| job.id).collect();
    }

    pub(super) fn open_jobs(&self) -> Option<String> {
        self.operator.jobs.are_open.then(|| format!("jobs are not done: {:?}", self.operator.jobs.known))
    }
}
