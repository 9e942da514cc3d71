//! Who works on jobs, by what this leader has heard: a worker of which it has heard nothing for a while has its job taken away, when somebody
//! else has time for it. A new leader waits as long before it takes any (N3).

use super::{MetadataNode, NodeAction};
use crate::state::Command;
use ashlar_types::control::ControlReply;
use ashlar_types::{BootId, SessionId, Tick};

impl MetadataNode {
    pub(super) fn on_worker_heard(&mut self, worker: SessionId) {
        self.detector.worker_heard(worker);
    }

    pub(super) fn on_job_take(
        &mut self,
        id: u64,
        gateway: String,
        boot: BootId,
        deadline: Tick,
        actions: &mut Vec<NodeAction>,
    ) {
        let jobs: Vec<_> = self.state.jobs_to_take().collect();
        self.detector.forget_workers_but(jobs.iter().filter_map(|(_, worker)| *worker));
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
