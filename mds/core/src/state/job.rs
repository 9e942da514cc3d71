//! Jobs (design.md §6): filling clones with what they read from their bases, and volumes with zeroes. A worker is a gateway's process; each has an
//! attachment of its own, of which nobody else ever has the id, and a new one is granted nothing before the last one is fenced.
//! Z1: a volume has at most one job; one that is deleted, or only kept for its clones, has none. Z2: a worker has the layers that it fills once the
//! floor holds that fences those before it. Z3: from the lowest layer of a clone that is being flattened nothing is merged away. Z4: a clone that
//! is flattened stands on its origin until all its PGs hold to the stack of those who don't know of the origin any more; till then an older answer
//! may lead there.
//! A volume that is non-persistent has no zeroes written; a clone that is has a base before it is flattened, in which what is filled stays (mode.rs).
//! Whether a worker still works is what the leader has heard (node/work.rs); here one simply replaces another.

use super::volume::VolumeRecord;
use super::{ClusterState, Outcome, check_text, invalid, not_found};
use ashlar_types::control::{AttachGrant, BaseLayer, ControlError, ControlReply, Provision};
use ashlar_types::job::{JobInfo, JobKind, JobState, JobWork, Shrink};
use ashlar_types::{
    AttachmentId, BLOCK_BYTES, BootId, Generation, JobId, LayerId, Name, SessionId, StackRevision, VolumeId,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

const JOBS_MAX: usize = 10_000;
/// What a job waits for on which nobody works.
pub(crate) const NO_GATEWAY: &str = "a gateway";
/// Below that a worker would wait for seconds for each of its writes.
const RATE_MIN: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum End {
    Done,
    GivenUp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Worker {
    attachment: AttachmentId,
    session: SessionId,
    gateway: String,
    pub(super) boot: BootId,
    /// Z2
    active: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JobRecord {
    pub(super) id: JobId,
    pub(super) kind: JobKind,
    pub(super) volume: VolumeId,
    position: u64,
    total: u64,
    /// Bytes: by those who worked on it before, and by the present worker.
    filled_before: u64,
    filled: u64,
    rate: Option<u64>,
    paused: bool,
    pub(super) trouble: Option<String>,
    pub(super) worker: Option<Worker>,
    /// Ends when the floor holds that fences its last worker.
    ending: Option<End>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Jobs {
    next: u64,
    /// Z1
    all: BTreeMap<VolumeId, JobRecord>,
    /// Volumes with reservations of which every block is to be written.
    eager: BTreeSet<VolumeId>,
}

impl Default for Jobs {
    fn default() -> Jobs {
        Jobs { next: 1, all: BTreeMap::new(), eager: BTreeSet::new() }
    }
}

impl JobRecord {
    /// Kept only so that people can read of it; another one may take its place.
    fn has_failed(&self) -> bool {
        matches!(self.kind, JobKind::Shrink(Shrink { failed: true, .. }))
    }

    /// A process takes it that has the volume attached, by that attachment.
    fn is_shrink(&self) -> bool {
        matches!(self.kind, JobKind::Shrink(_))
    }
}

impl Jobs {
    pub(super) fn of(&self, volume: VolumeId) -> Option<&JobRecord> {
        self.all.get(&volume).filter(|job| !job.has_failed())
    }

    pub(super) fn of_mut(&mut self, volume: VolumeId) -> Option<&mut JobRecord> {
        self.all.get_mut(&volume).filter(|job| !job.has_failed())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &JobRecord> {
        self.all.values().filter(|job| !job.has_failed())
    }

    pub(super) fn get(&self, id: JobId) -> Option<&JobRecord> {
        self.all.values().find(|job| job.id == id)
    }

    fn get_mut(&mut self, id: JobId) -> Option<&mut JobRecord> {
        self.all.values_mut().find(|job| job.id == id)
    }
}

impl ClusterState {
    /// What a volume still stands on for those who read it from now on.
    pub(super) fn base_of(&self, volume: &VolumeRecord) -> Option<BaseLayer> {
        volume.origin.filter(|_| !self.is_flattened(volume.id))
    }

    fn is_flattened(&self, volume: VolumeId) -> bool {
        let is_done = |job: &JobRecord| (job.kind, job.ending) == (JobKind::Flatten, Some(End::Done));
        self.jobs.of(volume).is_some_and(is_done)
    }

    pub(super) fn is_eager(&self, volume: VolumeId) -> bool {
        self.jobs.eager.contains(&volume)
    }

    /// Z3
    pub(super) fn is_being_filled(&self, volume: VolumeId, layer: LayerId) -> bool {
        self.layers[&layer].parent.is_none() && self.jobs.of(volume).is_some_and(|job| job.kind == JobKind::Flatten)
    }

    /// That a process works with on the volume beside those that have it attached.
    pub(super) fn worker_attachment(&self, volume: VolumeId) -> Option<AttachmentId> {
        let job = self.jobs.of(volume).filter(|job| !job.is_shrink())?;
        Some(job.worker.as_ref()?.attachment)
    }

    pub(super) fn volume_flatten(&mut self, name: &Name, rate: Option<u64>) -> Outcome {
        let volume = self.usable_volume(name)?;
        check_rate(rate)?;
        if let Some(job) = self.jobs.of(volume.id) {
            return match (job.kind, job.ending) {
                (JobKind::Flatten, None | Some(End::Done)) => self.job_reply(job.id),
                _ => Err(self.has_a_job(volume, job)),
            };
        }
        let Some(origin) = volume.origin else {
            return Err(invalid(format!("volume {name} stands on no other: there is nothing to flatten")));
        };
        if volume.stack_revision == StackRevision(u32::MAX) {
            return Err(invalid(format!("volume {name} has had all the stacks that can be counted")));
        }
        self.check_room_for_jobs()?;
        self.check_base(volume)?;
        let (volume, total) = (volume.id, whole_blocks(origin.size));
        self.give_base(volume);
        let id = self.begin_job(JobKind::Flatten, volume, 0, total, rate);
        self.job_reply(id)
    }

    /// Why nothing can be made of a volume whose zeroes are being written.
    pub(super) fn check_not_zeroing(&self, volume: &VolumeRecord) -> Result<(), ControlError> {
        match self.jobs.of(volume.id).filter(|job| job.kind == JobKind::Zero) {
            Some(job) => Err(self.has_a_job(volume, job)),
            None => Ok(()),
        }
    }

    pub(super) fn check_no_job(&self, volume: &VolumeRecord) -> Result<(), ControlError> {
        self.jobs.of(volume.id).map_or(Ok(()), |job| Err(self.has_a_job(volume, job)))
    }

    pub(super) fn has_job(&self, volume: VolumeId) -> bool {
        self.jobs.of(volume).is_some()
    }

    fn has_a_job(&self, volume: &VolumeRecord, job: &JobRecord) -> ControlError {
        let what = match job.kind {
            JobKind::Flatten => "being flattened",
            JobKind::Zero => "being written with zeroes",
            JobKind::Shrink(_) => "being shrunk",
        };
        invalid(format!("volume {} is {what} ({}); wait for that, or end it with `job cancel`", volume.name, job.id))
    }

    pub(super) fn check_room_for_jobs(&self) -> Result<(), ControlError> {
        match self.jobs.all().count() >= JOBS_MAX {
            true => Err(invalid(format!("there are {JOBS_MAX} jobs already, which is the most a cluster has"))),
            false => Ok(()),
        }
    }

    /// In the place of one that has failed.
    pub(super) fn begin_job(
        &mut self,
        kind: JobKind,
        volume: VolumeId,
        position: u64,
        total: u64,
        rate: Option<u64>,
    ) -> JobId {
        let id = JobId(self.jobs.next);
        self.jobs.next += 1;
        let job = JobRecord {
            id,
            kind,
            volume,
            position,
            total,
            filled_before: 0,
            filled: 0,
            rate,
            paused: false,
            trouble: None,
            worker: None,
            ending: None,
        };
        self.jobs.all.insert(volume, job);
        id
    }

    // ---- eager volumes

    /// Whether a volume can be made eager.
    pub(super) fn check_eager(&self, volume: &VolumeRecord) -> Result<(), ControlError> {
        if self.base_of(volume).is_some() {
            let way = "which zeroes would hide; `volume flatten` it first";
            return Err(invalid(format!(
                "volume {} is a clone: what it has not written it reads from its origin, {way}",
                volume.name
            )));
        }
        self.check_persistent(volume, "made eager: zeroes would go with its attachment as all that is written")?;
        match self.jobs.of(volume.id) {
            Some(job) if job.kind != JobKind::Zero => Err(self.has_a_job(volume, job)),
            Some(_) => Ok(()),
            None => self.check_room_for_jobs(),
        }
    }

    /// The caller has checked it, and reserves its space.
    pub(super) fn set_eager(&mut self, volume: VolumeId, is_eager: bool) {
        if !is_eager {
            if self.jobs.eager.remove(&volume) && self.jobs.of(volume).is_some_and(|job| job.kind == JobKind::Zero) {
                self.drop_job(volume);
            }
        } else if self.jobs.eager.insert(volume) {
            self.zero_from(volume, 0);
        }
    }

    /// An eager volume has another size or another top layer: what was never written from there on is to be written. Without effect on others.
    pub(super) fn zero_from(&mut self, volume: VolumeId, position: u64) {
        if !self.is_eager(volume) {
            return;
        }
        let total = whole_blocks(self.volumes[&volume].size);
        let position = (position - position % u64::from(BLOCK_BYTES)).min(total);
        match self.jobs.of_mut(volume) {
            // Its worker knows the old size; another one goes on.
            Some(job) => {
                (job.position, job.total, job.ending) = (job.position.min(position), total, None);
                self.end_worker(volume);
            }
            None if position < total => {
                self.begin_job(JobKind::Zero, volume, position, total, None);
            }
            None => {}
        }
    }

    // ---- workers

    /// Jobs that somebody may take, with the worker that he would replace.
    pub(crate) fn jobs_to_take(&self) -> impl Iterator<Item = (JobId, Option<SessionId>)> + '_ {
        let open = self.jobs.all.values().filter(|job| self.is_open(job));
        open.map(|job| (job.id, job.worker.as_ref().map(|worker| worker.session)))
    }

    /// While its volume is in the bin a job rests.
    fn is_open(&self, job: &JobRecord) -> bool {
        job.ending.is_none() && !job.paused && !job.is_shrink() && !self.is_in_bin(job.volume)
    }

    /// `replaces`: the worker that the job had when the leader decided.
    pub(super) fn job_take(
        &mut self,
        job: JobId,
        replaces: Option<SessionId>,
        gateway: String,
        boot: BootId,
    ) -> Outcome {
        check_text("the gateway's name", &gateway, false)?;
        if let Some((attachment, session)) = self.shrink_for(job, &gateway, boot) {
            let record = self.jobs.get_mut(job).expect("it was just found");
            if record.worker.is_some() {
                return Ok(ControlReply::JobTaken(None));
            }
            record.worker = Some(Worker { attachment, session, gateway, boot, active: true });
            return Ok(ControlReply::JobTaken(Some((job, session))));
        }
        let Some(record) = self.jobs.get(job).filter(|job| self.is_open(job)) else {
            return Ok(ControlReply::JobTaken(None));
        };
        if record.worker.as_ref().map(|worker| worker.session) != replaces {
            return Ok(ControlReply::JobTaken(None));
        }
        let volume = record.volume;
        self.end_worker(volume);
        let (attachment, session) = (AttachmentId(self.next.attachment), SessionId(self.next.session));
        self.next.attachment += 1;
        self.next.session += 1;
        let active = self.volumes[&volume].barrier.is_none();
        let record = self.jobs.get_mut(job).expect("looked up above");
        record.worker = Some(Worker { attachment, session, gateway, boot, active });
        Ok(ControlReply::JobTaken(Some((job, session))))
    }

    /// The job stays; its worker is fenced.
    pub(super) fn end_worker(&mut self, volume: VolumeId) {
        let Some(job) = self.jobs.of_mut(volume) else { return };
        job.filled_before += std::mem::take(&mut job.filled);
        job.trouble = None;
        let is_shrink = job.is_shrink();
        // Who shrinks a volume works with the attachment of its clients, which stays theirs.
        let Some(worker) = job.worker.take().filter(|_| !is_shrink) else { return };
        self.raise_floor(volume, |floor| {
            floor.generations.insert(worker.attachment, Generation(2));
        });
    }

    fn working(&self, job: JobId, session: SessionId) -> Result<(&JobRecord, &Worker), ControlError> {
        let found = self.jobs.get(job).and_then(|job| Some((job, job.worker.as_ref()?)));
        found
            .filter(|(_, worker)| worker.session == session)
            .ok_or_else(|| not_found("worker", format!("{session} of {job}")))
    }

    pub(super) fn job_grant(&self, job: JobId, session: SessionId) -> Outcome {
        let (job, worker) = self.working(job, session)?;
        if let Some(waiting_for) = self.job_waits_for(job) {
            return Err(ControlError::Fencing { waiting_for });
        }
        let volume = &self.volumes[&job.volume];
        if job.is_shrink() {
            // Told, and not granted anew: it works by what its gateway has attached, and opens that as for any client.
            let attachment = volume.attachments.get(&worker.attachment).expect("H1");
            let grant = self.grant(volume, attachment);
            return Ok(ControlReply::JobWork(Box::new(JobWork { job: self.job_info(job), grant })));
        }
        let lowest = self.lowest_layer(volume);
        let (layers, base) = match job.kind {
            JobKind::Flatten => (vec![lowest], volume.origin),
            JobKind::Zero => (self.stack(volume.top), None),
            JobKind::Shrink(_) => unreachable!("answered above"),
        };
        let grant = AttachGrant {
            volume: volume.id,
            name: volume.name.clone().into(),
            attachment: worker.attachment,
            generation: Generation(1),
            session: worker.session,
            pool: volume.pool,
            placement_key: volume.placement_key,
            stack_revision: volume.stack_revision,
            layers,
            size: job.total,
            read_only: false,
            base,
        };
        Ok(ControlReply::JobWork(Box::new(JobWork { job: self.job_info(job), grant })))
    }

    pub(super) fn lowest_layer(&self, volume: &VolumeRecord) -> LayerId {
        self.chain(volume.top).last().expect("L2: a volume has a layer")
    }

    /// Why its worker is granted nothing yet, or would not be.
    fn job_waits_for(&self, job: &JobRecord) -> Option<String> {
        let volume = &self.volumes[&job.volume];
        let is_active = job.worker.as_ref().is_none_or(|worker| worker.active);
        match (job.kind, volume.barrier) {
            (_, Some(barrier)) if !is_active => Some(self.waiting_for(barrier)),
            (JobKind::Flatten, _) if self.is_merging(self.lowest_layer(volume)) => {
                Some("a merge of its lowest layer".to_owned())
            }
            (JobKind::Zero, _) if self.is_reserving(volume.id) => Some("its reservation".to_owned()),
            _ => None,
        }
    }

    pub(super) fn job_progress(
        &mut self,
        job: JobId,
        session: SessionId,
        position: u64,
        filled: u64,
        trouble: Option<String>,
    ) -> Outcome {
        self.working(job, session)?;
        if let Some(trouble) = &trouble {
            check_text("what is wrong", trouble, false)?;
        }
        let record = self.jobs.get_mut(job).expect("looked up above");
        record.position = record.position.max(position.min(record.total));
        record.filled = filled;
        record.trouble = trouble;
        self.job_reply(job)
    }

    pub(super) fn job_done(&mut self, job: JobId, session: SessionId) -> Outcome {
        if self.working(job, session)?.0.is_shrink() {
            return Err(invalid(format!("{job} ends with what was found behind the new end of its volume")));
        }
        let record = self.jobs.get_mut(job).expect("looked up above");
        record.position = record.total;
        self.end_job(job, End::Done);
        self.done()
    }

    // ---- operators

    pub(super) fn job_set(&mut self, job: JobId, rate: Option<u64>, paused: bool) -> Outcome {
        check_rate(rate)?;
        let record = self.jobs.get_mut(job).ok_or_else(|| not_found("job", job))?;
        if record.is_shrink() {
            return Err(invalid(format!(
                "{job} shrinks a volume: it can be given up, but not be paused or slowed down"
            )));
        }
        (record.rate, record.paused) = (rate, paused);
        let volume = record.volume;
        if paused {
            self.end_worker(volume);
        }
        self.job_reply(job)
    }

    pub(super) fn job_cancel(&mut self, job: JobId) -> Outcome {
        let record = self.jobs.get(job).ok_or_else(|| not_found("job", job))?;
        if record.ending == Some(End::Done) {
            return Err(invalid(format!("{job} is done already, and is ending")));
        }
        let (kind, volume, is_shrink) = (record.kind, record.volume, record.is_shrink());
        if is_shrink {
            // Its gateway hears of it with the next that it says, and serves the volume as it was.
            self.jobs.all.remove(&volume);
            return self.done();
        }
        if kind == JobKind::Zero {
            // It has its space reserved all the same.
            self.jobs.eager.remove(&volume);
        }
        self.end_job(job, End::GivenUp);
        self.done()
    }

    // ---- ends

    fn end_job(&mut self, job: JobId, how: End) {
        let record = self.jobs.get_mut(job).expect("the caller looked it up");
        record.ending = Some(how);
        let volume = record.volume;
        if self.is_flattened(volume) {
            // Z4
            let volume = self.volumes.get_mut(&volume).expect("Z1");
            volume.stack_revision = StackRevision(volume.stack_revision.0 + 1);
            let id = volume.id;
            self.raise_floor(id, |_| {});
        }
        self.end_worker(volume);
        if self.volumes[&volume].barrier.is_none() {
            self.finish_job(volume);
        }
    }

    /// The floor of the volume holds.
    pub(super) fn jobs_go_on(&mut self, volume: VolumeId) {
        let Some(job) = self.jobs.of_mut(volume) else { return };
        if let Some(worker) = &mut job.worker {
            worker.active = true;
        }
        if job.ending.is_some() {
            self.finish_job(volume);
        }
    }

    fn finish_job(&mut self, volume: VolumeId) {
        let is_flattened = self.is_flattened(volume);
        self.jobs.all.remove(&volume);
        if is_flattened {
            let record = self.volumes.get_mut(&volume).expect("Z1");
            let origin = record.origin.take().expect("Z4");
            self.clone_gone(volume, origin);
        }
        self.revise_merges(volume);
    }

    /// The volume is being deleted, or hidden, or needs no job any more.
    pub(super) fn drop_job(&mut self, volume: VolumeId) {
        self.end_worker(volume);
        self.jobs.all.remove(&volume);
    }

    // ---- telling

    pub(super) fn job_reply(&self, job: JobId) -> Outcome {
        let job = self.jobs.get(job).ok_or_else(|| not_found("job", job))?;
        Ok(ControlReply::Job(Box::new(self.job_info(job))))
    }

    pub(super) fn job_list(&self) -> Outcome {
        let mut jobs: Vec<JobInfo> = self.jobs.all.values().map(|job| self.job_info(job)).collect();
        jobs.sort_by_key(|job| job.id);
        Ok(ControlReply::Jobs(jobs))
    }

    fn job_info(&self, job: &JobRecord) -> JobInfo {
        let state = match &job.worker {
            _ if job.has_failed() => JobState::Failed,
            _ if job.ending.is_some() => JobState::Ending,
            _ if job.paused || self.is_in_bin(job.volume) => JobState::Paused,
            Some(worker) if worker.active => JobState::Running,
            _ => JobState::Waiting,
        };
        JobInfo {
            id: job.id,
            kind: job.kind,
            volume: job.volume,
            volume_name: self.volumes[&job.volume].name.clone(),
            state,
            position: job.position,
            total: job.total,
            filled: job.filled_before + job.filled,
            rate: job.rate,
            gateway: job.worker.as_ref().map(|worker| worker.gateway.clone()),
            trouble: self.job_trouble(job),
            paused: job.paused,
            waits_for: self.job_rests_for(job),
        }
    }

    /// What its worker has told, and what only the state knows of it: deleting snapshots of a clone gives no space back while it is flattened.
    fn job_trouble(&self, job: &JobRecord) -> Option<String> {
        let trouble = job.trouble.as_ref()?;
        let is_in_the_way = job.kind == JobKind::Flatten && self.has_merge_held_back(job.volume);
        let also = if is_in_the_way { "; what deleted snapshots held is freed when this job has ended" } else { "" };
        Some(format!("{trouble}{also}"))
    }

    /// Nobody need do anything for it, but for a volume in the bin and where no gateway runs.
    fn job_rests_for(&self, job: &JobRecord) -> Option<String> {
        if job.has_failed() {
            return None;
        }
        if job.ending.is_some() {
            return self.volumes[&job.volume].barrier.map(|barrier| self.waiting_for(barrier));
        }
        if self.is_in_bin(job.volume) {
            return Some("its volume to be restored from the bin".to_owned());
        }
        if job.paused {
            return None;
        }
        let gateway = || job.worker.is_none().then(|| NO_GATEWAY.to_owned());
        self.job_waits_for(job).or_else(gateway)
    }

    pub(super) fn assert_jobs(&self) {
        let mut ids = BTreeSet::new();
        for (id, job) in &self.jobs.all {
            let volume = self.volumes.get(id).expect("Z1: the volume of a job exists");
            assert!(*id == job.volume, "a job is filed where it belongs");
            let id = job.id;
            assert!(ids.insert(id) && id.0 < self.jobs.next, "{id} was given out once");
            assert!(!volume.floor.closed && !volume.hidden, "Z1: {} has no job any more", volume.name);
            assert!(job.position <= job.total, "{id} is within its volume");
            assert!(job.ending.is_none() || job.worker.is_none(), "what ends has no worker");
            assert!(job.ending.is_none() || volume.barrier.is_some(), "{id} ends with a barrier");
            match &job.kind {
                JobKind::Flatten => assert!(volume.origin.is_some(), "Z4: {} stands on something", volume.name),
                JobKind::Zero => assert!(
                    self.is_eager(volume.id) || job.ending == Some(End::GivenUp),
                    "zeroes are written to eager volumes"
                ),
                JobKind::Shrink(shrink) => self.assert_shrink(volume, shrink),
            }
            if let Some(worker) = &job.worker {
                assert!(worker.attachment.0 < self.next.attachment && worker.session.0 < self.next.session, "A1");
                assert!(worker.active || volume.barrier.is_some(), "Z2: a worker waits for a floor");
                assert!(!self.is_in_bin(volume.id), "B1: nobody works on {} in the bin", volume.name);
                assert!(worker.attachment >= volume.floor.oldest_attachment, "{id}'s worker isn't fenced by its age");
            }
        }
        for volume in &self.jobs.eager {
            assert!(self.provision_of(*volume) == Provision::Eager, "{volume} has its space reserved");
        }
    }
}

fn check_rate(rate: Option<u64>) -> Result<(), ControlError> {
    match rate {
        Some(rate) if rate < RATE_MIN => Err(invalid("a job's rate is at least 1 MiB a second".to_owned())),
        _ => Ok(()),
    }
}

fn whole_blocks(bytes: u64) -> u64 {
    bytes.next_multiple_of(u64::from(BLOCK_BYTES))
}
