//! Who works on jobs, by what this leader has heard: a worker of which it has heard nothing for a while has its job taken away, when somebody
//! else has time for it. A new leader waits as long before it takes any (N3).

use super::{MetadataNode, NodeAction};
use crate::state::{Command, NO_GATEWAY};
use ashlar_types::control::ControlReply;
use ashlar_types::job::{JobInfo, JobState};
use ashlar_types::{BootId, JobId, SessionId, Tick};
use std::collections::BTreeSet;

impl MetadataNode {
    pub(super) fn on_worker_heard(&mut self, worker: SessionId) {
        self.detector.worker_heard(worker);
    }

    /// So that the time of a worker runs, whether or not anybody asks for its job.
    pub(super) fn watch_workers(&mut self) {
        let workers: Vec<SessionId> = self.state.jobs_to_take().filter_map(|(_, worker)| worker).collect();
        self.detector.forget_workers_but(workers.into_iter());
    }

    /// Nobody works on a job whose worker is silent, though it stays his until somebody else has time for it; and what he told last is no news.
    pub(super) fn with_silent_workers(&self, mut jobs: Vec<JobInfo>) -> Vec<JobInfo> {
        let patience = self.config.worker_silence_max;
        let is_silent = |worker: Option<SessionId>| worker.is_some_and(|w| self.detector.is_worker_silent(w, patience));
        let silent: BTreeSet<JobId> =
            self.state.jobs_to_take().filter(|(_, worker)| is_silent(*worker)).map(|(job, _)| job).collect();
        for job in jobs.iter_mut().filter(|job| silent.contains(&job.id)) {
            (job.state, job.gateway, job.trouble) = (JobState::Waiting, None, None);
            job.waits_for.get_or_insert_with(|| NO_GATEWAY.to_owned());
        }
        jobs
    }

    pub(super) fn on_job_take(
        &mut self,
        id: u64,
        gateway: String,
        boot: BootId,
        deadline: Tick,
        actions: &mut Vec<NodeAction>,
    ) {
        self.watch_workers();
        let jobs: Vec<_> = self.state.jobs_to_take().collect();
        let patience = self.config.worker_silence_max;
        let is_free =
            |worker: Option<SessionId>| worker.is_none_or(|worker| self.detector.is_worker_silent(worker, patience));
        match jobs.into_iter().find(|(_, worker)| is_free(*worker)) {
            Some((job, replaces)) => {
                self.propose(id, Command::JobTake { job, replaces, gateway, boot }, deadline, actions);
            }
            None => self.reply(id, Ok(ControlReply::JobTaken(None)), actions),
        }
    }
}
