//! Who works on jobs, by what this leader has heard: a worker of which it has heard nothing for a while has its job taken away, when somebody
//! else has time for it. A new leader waits as long before it takes any (N3).

use super::{MetadataNode, NodeAction};
use crate::state::{Command, NO_GATEWAY};
use ashlar_types::control::{ControlReply, ControlRequest};
use ashlar_types::job::{JobInfo, JobState};
use ashlar_types::{BootId, JobId, SessionId, Tick};
use std::collections::BTreeSet;

impl MetadataNode {
    pub(super) fn on_worker_heard(&mut self, worker: SessionId) {
        self.detector.worker_heard(worker);
    }

    /// So that the time of a worker runs, whether or not anybody asks for its job.
    pub(super) fn watch_workers(&mut self) {
        let shrinks = self.state.shrinks().map(|(_, worker)| worker);
        let workers: Vec<SessionId> =
            self.state.jobs_to_take().filter_map(|(_, worker)| worker).chain(shrinks).collect();
        self.detector.forget_workers_but(workers.into_iter());
    }

    /// Nobody else can shrink a volume that a gateway has; so where nothing is heard of that, the volume keeps its size.
    pub(super) fn silent_shrinks(&mut self) -> Vec<Command> {
        let patience = self.config.worker_silence_max;
        let silent: Vec<_> =
            self.state.shrinks().filter(|(_, worker)| self.detector.is_worker_silent(*worker, patience)).collect();
        let end = |(job, session)| {
            // Not again before that has had its time.
            self.detector.worker_heard(session);
            let heard = patience.as_micros() / 1_000_000;
            let refusal = Some(format!("the volume keeps its size: its gateway was not heard of for {heard} s"));
            Command::Request(ControlRequest::ShrinkEnd { job, session, disk: SessionId(0), refusal })
        };
        silent.into_iter().map(end).collect()
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
        (gateway, boot): (String, BootId),
        shrinks_only: bool,
        deadline: Tick,
        actions: &mut Vec<NodeAction>,
    ) {
        self.watch_workers();
        if let Some(job) = self.state.shrink_to_take(&gateway, boot) {
            return self.propose(id, Command::JobTake { job, replaces: None, gateway, boot }, deadline, actions);
        }
        if shrinks_only {
            return self.reply(id, Ok(ControlReply::JobTaken(None)), actions);
        }
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
