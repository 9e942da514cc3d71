//! Requests on their way to an answer. See N2 in mod.rs.

use super::{MetadataNode, NodeAction};
use crate::state::Command;
use ashlar_types::control::{ControlError, ControlReply, ControlRequest, OsdHeartbeat, ServiceStatus};
use ashlar_types::{MdsId, Tick};
use raft::ReadState;
use std::collections::{BTreeMap, VecDeque};

/// Requests that wait at the same time. More are refused with [`ControlError::Busy`].
const REQUESTS_MAX: usize = 4096;

struct Write {
    term: u64,
    id: u64,
    deadline: Tick,
}

struct Read {
    id: u64,
    request: ControlRequest,
    deadline: Tick,
}

#[derive(Default)]
pub(super) struct Requests {
    /// By the index of their entry.
    writes: BTreeMap<u64, Write>,
    /// Not yet asked about: the leader has to commit an entry of its term first.
    new_reads: Vec<Read>,
    /// A majority is asked whether this node still leads; by the context of the question.
    asked_reads: BTreeMap<u64, Vec<Read>>,
    /// May be answered once this index is applied.
    confirmed_reads: VecDeque<(u64, Vec<Read>)>,
    last_context: u64,
}

impl Requests {
    fn len(&self) -> usize {
        let asked: usize = self.asked_reads.values().map(Vec::len).sum();
        let confirmed: usize = self.confirmed_reads.iter().map(|(_, reads)| reads.len()).sum();
        self.writes.len() + self.new_reads.len() + asked + confirmed
    }

    pub(super) fn expire(&mut self, now: Tick, actions: &mut Vec<NodeAction>) {
        let mut undecided = |id| actions.push(NodeAction::Reply { id, result: Err(ControlError::Undecided) });
        self.writes.retain(|_, w| keep(w.deadline > now, w.id, &mut undecided));
        let confirmed = self.confirmed_reads.iter_mut().map(|(_, reads)| reads);
        for reads in self.asked_reads.values_mut().chain(confirmed).chain([&mut self.new_reads]) {
            reads.retain(|r| keep(r.deadline > now, r.id, &mut undecided));
        }
    }

    fn take_reads(&mut self) -> Vec<Read> {
        let mut reads = std::mem::take(&mut self.new_reads);
        reads.extend(std::mem::take(&mut self.asked_reads).into_values().flatten());
        reads.extend(std::mem::take(&mut self.confirmed_reads).into_iter().flat_map(|(_, reads)| reads));
        reads
    }
}

fn keep(wanted: bool, id: u64, otherwise: &mut impl FnMut(u64)) -> bool {
    if !wanted {
        otherwise(id);
    }
    wanted
}

impl MetadataNode {
    pub(super) fn on_request(&mut self, now: Tick, id: u64, request: ControlRequest, actions: &mut Vec<NodeAction>) {
        if !self.is_leader() {
            return self.reply(id, Err(self.not_leader()), actions);
        }
        if let ControlRequest::OsdHeartbeat(heartbeat) = request {
            let result = self.on_heartbeat(heartbeat);
            return self.reply(id, result, actions);
        }
        if request == ControlRequest::ServiceStatus {
            return self.reply(id, Ok(ControlReply::Status(self.status())), actions);
        }
        if request == ControlRequest::PerfStatus {
            return self.reply(id, Ok(ControlReply::Perf(self.detector.perf().collect())), actions);
        }
        if let ControlRequest::SpaceUse { volume } = &request {
            let result = self.space_use(volume.as_ref());
            return self.reply(id, result, actions);
        }
        if let ControlRequest::BarrierPassed { barrier, pgs } = &request {
            return self.on_barrier_passed(id, *barrier, pgs, actions);
        }
        if let Err(error) = self.check_space(&request) {
            return self.reply(id, Err(error), actions);
        }
        if self.requests.len() >= REQUESTS_MAX {
            return self.reply(id, Err(ControlError::Busy), actions);
        }
        let request = self.stamped(request);
        let deadline = now + self.config.request_timeout;
        match request {
            ControlRequest::JobTake { gateway, boot, shrinks_only } => {
                return self.on_job_take(id, (gateway, boot), shrinks_only, deadline, actions);
            }
            ControlRequest::BinPurgeExpired { volume, secure } => {
                return self.on_purge_expired(id, volume, secure, deadline, actions);
            }
            ControlRequest::JobProgress { session, .. } | ControlRequest::JobGrant { session, .. } => {
                self.on_worker_heard(session);
            }
            _ => {}
        }
        if self.state.query(&request).is_some() {
            self.requests.new_reads.push(Read { id, request, deadline });
        } else {
            self.propose(id, Command::Request(request), deadline, actions);
        }
    }

    /// When something was deleted is said by the clock that says when its time in the bin is over.
    fn stamped(&self, mut request: ControlRequest) -> ControlRequest {
        use ControlRequest as R;
        if let (R::VolumeToBin { at, .. } | R::VolumeWipe { at, .. } | R::BinWipe { at, .. }, Some(unix)) =
            (&mut request, self.wall.unix)
        {
            *at = unix;
        }
        request
    }

    pub(super) fn propose(&mut self, id: u64, command: Command, deadline: Tick, actions: &mut Vec<NodeAction>) {
        let data = command.encode();
        if self.raft.propose(Vec::new(), data).is_err() {
            // Dropped before it entered the log: leadership is on its way to another node.
            return self.reply(id, Err(self.not_leader()), actions);
        }
        let index = self.raft.raft.raft_log.last_index();
        let write = Write { term: self.raft.raft.term, id, deadline };
        if let Some(replaced) = self.requests.writes.insert(index, write) {
            // Its entry was overwritten by another leader's before this node led again: it never takes effect.
            self.reply(replaced.id, Err(self.not_leader()), actions);
        }
    }

    /// What the leader finds by itself; nobody waits for the answer.
    pub(super) fn propose_own(&mut self, command: Command) {
        // Dropped where leadership is being lost; the next leader detects by itself.
        let _ = self.raft.propose(Vec::new(), command.encode());
    }

    /// What only a leader knows. It may have lost the lead without having heard of it; the answer is for people.
    fn status(&self) -> ServiceStatus {
        let (volumes_in_bin, bin_bytes) = self.state.bin_usage();
        let address = self.config.peers.get(&self.config.id).cloned().unwrap_or_default();
        ServiceStatus {
            leader: self.config.id,
            address,
            usage: self.osd_usage().collect(),
            volumes_kept: self.state.volumes_kept(),
            volumes_in_bin,
            bin_bytes,
        }
    }

    fn on_heartbeat(&mut self, heartbeat: OsdHeartbeat) -> Result<ControlReply, ControlError> {
        let (osd, boot) = (heartbeat.osd, heartbeat.boot);
        if !self.state.is_present(osd, boot) {
            return Err(ControlError::Invalid(format!("{osd} is not registered as {boot}; register first")));
        }
        if let Some(command) = self.detector.on_heartbeat(&self.state, heartbeat, &self.config) {
            self.propose_own(command);
        }
        self.judge_reserves();
        Ok(ControlReply::Done { revision: self.state.view_revision() })
    }

    /// The entry at `index` is committed and, unless it carried no command, applied.
    pub(super) fn on_applied(
        &mut self,
        index: u64,
        term: u64,
        result: Option<Result<ControlReply, ControlError>>,
        actions: &mut Vec<NodeAction>,
    ) {
        let Some(write) = self.requests.writes.remove(&index) else {
            return;
        };
        match result {
            Some(result) if write.term == term => self.reply(write.id, result, actions),
            // Another leader's entry took this place, so the request never takes effect.
            _ => self.reply(write.id, Err(self.not_leader()), actions),
        }
    }

    /// Asks a majority whether this node leads, for all reads that wait for it, in one question.
    pub(super) fn submit_reads(&mut self) {
        if self.requests.new_reads.is_empty() || !self.is_leader() || !self.raft.raft.commit_to_current_term() {
            return;
        }
        self.requests.last_context += 1;
        let context = self.requests.last_context;
        let reads = std::mem::take(&mut self.requests.new_reads);
        self.requests.asked_reads.insert(context, reads);
        // Unique among all nodes and their lives: nobody takes a late answer for one to another question.
        let mut bytes = context.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.raft.raft.term.to_le_bytes());
        bytes.extend_from_slice(&self.config.id.0.to_le_bytes());
        self.raft.read_index(bytes);
    }

    pub(super) fn on_read_states(&mut self, states: Vec<ReadState>, actions: &mut Vec<NodeAction>) {
        for state in states {
            let context = state.request_ctx.first_chunk().map(|c| u64::from_le_bytes(*c));
            if let Some(reads) = context.and_then(|c| self.requests.asked_reads.remove(&c)) {
                self.requests.confirmed_reads.push_back((state.index, reads));
            }
        }
        self.answer_reads(actions);
    }

    /// Answers the confirmed reads whose index is applied.
    pub(super) fn answer_reads(&mut self, actions: &mut Vec<NodeAction>) {
        while self.requests.confirmed_reads.front().is_some_and(|(index, _)| *index <= self.disk.applied) {
            let (_, reads) = self.requests.confirmed_reads.pop_front().expect("it was just seen");
            for read in reads {
                match self.state.query(&read.request) {
                    Some(Ok(ControlReply::Jobs(jobs))) => {
                        let jobs = self.with_silent_workers(jobs);
                        self.reply(read.id, Ok(ControlReply::Jobs(jobs)), actions);
                    }
                    Some(result) => self.reply(read.id, result, actions),
                    // What could be answered when it came needs a change of state by now.
                    None => self.propose(read.id, Command::Request(read.request), read.deadline, actions),
                }
            }
        }
    }

    /// Raft says that the leader or this node's role changed.
    pub(super) fn on_leadership(&mut self, actions: &mut Vec<NodeAction>) {
        let leader = Some(self.raft.raft.leader_id).filter(|id| *id != 0).map(MdsId);
        if leader != self.leader {
            self.leader = leader;
            actions.push(NodeAction::LeaderChanged { leader });
            // N3: nothing that was heard or not heard before counts.
            self.detector = super::Detector::default();
            self.passes = super::passes::Passes::default();
        }
        if !self.is_leader() {
            // Reads can be asked again elsewhere. Writes may still take effect: they wait for their entry or their deadline.
            for read in self.requests.take_reads() {
                self.reply(read.id, Err(self.not_leader()), actions);
            }
        }
    }

    fn not_leader(&self) -> ControlError {
        ControlError::NotLeader { leader: self.config.address_of(self.leader) }
    }

    pub(super) fn reply(&self, id: u64, result: Result<ControlReply, ControlError>, actions: &mut Vec<NodeAction>) {
        actions.push(NodeAction::Reply { id, result });
    }
}
