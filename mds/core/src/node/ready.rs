//! Raft's Ready cycle: what it wants written, sent and applied.
//! N1: messages of a follower or candidate wait in the [`DiskQueue`] until what they promise is durable. A leader's go out
//! at once: its own disk counts as one vote like any other (Raft thesis, 10.2.1).

use super::durable::{HardState, LogEntry, Persist, SnapshotRecord};
use super::{MetadataNode, NodeAction, NodeError};
use crate::state::{ClusterState, Command};
use ashlar_types::MdsId;
use raft::eraftpb::{Entry, Message, Snapshot};
use raft_prost::Message as _;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// A Ready of Raft, or a snapshot of our own, on its way to the disk.
struct InFlight {
    /// `None` where the Ready has nothing to write and only waits for those before it.
    token: Option<u64>,
    /// Raft's number of the Ready.
    number: Option<u64>,
    messages: Vec<Message>,
}

pub(super) struct DiskQueue {
    queue: VecDeque<InFlight>,
    last_token: u64,
    /// The newest; part of every [`Persist`]. A change of `commit` alone is not worth a write.
    hard_state: HardState,
    /// Up to this index the state contains the log.
    pub(super) applied: u64,
    /// For how many ticks a follower has not answered a snapshot.
    pub(super) snapshot_waits: BTreeMap<MdsId, u32>,
}

impl DiskQueue {
    pub(super) fn new(applied: u64, hard_state: HardState) -> DiskQueue {
        DiskQueue { queue: VecDeque::new(), last_token: 0, hard_state, applied, snapshot_waits: BTreeMap::new() }
    }

    fn next_token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }
}

impl MetadataNode {
    pub(super) fn on_persisted(&mut self, token: u64, actions: &mut Vec<NodeAction>) {
        assert!(token <= self.disk.last_token, "N1: only what was asked for becomes durable");
        self.finish_durable(token, actions);
    }

    /// Everything of the queue up to `token` is durable, and what has nothing to write right behind it.
    fn finish_durable(&mut self, token: u64, actions: &mut Vec<NodeAction>) {
        while self.disk.queue.front().is_some_and(|f| f.token.is_none_or(|t| t <= token)) {
            let done = self.disk.queue.pop_front().expect("it was just seen");
            if let Some(number) = done.number {
                self.raft.on_persist_ready(number);
            }
            self.send(done.messages, actions);
        }
        self.tell_applied();
    }

    pub(super) fn process_ready(&mut self, actions: &mut Vec<NodeAction>) {
        let view_before = self.state.view_revision();
        self.submit_reads();
        while !self.failed && self.raft.has_ready() {
            self.process_one(actions);
            self.submit_reads();
        }
        if !self.failed {
            self.take_snapshot_if_due(actions);
        }
        let revision = self.state.view_revision();
        if revision != view_before {
            actions.push(NodeAction::ViewChanged { revision });
        }
    }

    fn process_one(&mut self, actions: &mut Vec<NodeAction>) {
        let mut ready = self.raft.ready();
        let leader_changed = ready.ss().is_some();
        if let Some(hard) = ready.hs() {
            self.disk.hard_state = HardState { term: hard.term, vote: hard.vote, commit: hard.commit };
        }
        let messages = ready.take_messages();
        let waiting = ready.take_persisted_messages();
        let entries = ready.take_entries();
        let committed = ready.take_committed_entries();
        let reads = ready.take_read_states();
        let must_write = ready.must_sync();
        let number = ready.number();

        let snapshot = ready.snapshot();
        let installed = if snapshot.is_empty() { None } else { Some(from_raft(snapshot)) };
        if let Some(snapshot) = &installed {
            self.install(snapshot, actions);
        }
        let mut keep = self.raft.mut_store().append(&entries);
        if installed.is_some() {
            keep = 0..0;
        }
        self.raft.advance_append_async(ready);

        self.send(messages, actions);
        let token = must_write.then(|| self.persist(installed, keep, entries, actions));
        self.disk.queue.push_back(InFlight { token, number: Some(number), messages: waiting });
        self.finish_durable(0, actions);
        if leader_changed {
            self.on_leadership(actions);
        }
        self.apply(committed, actions);
        self.tell_applied();
        self.on_read_states(reads, actions);
    }

    fn persist(
        &mut self,
        snapshot: Option<SnapshotRecord>,
        keep: Range<u64>,
        entries: Vec<Entry>,
        actions: &mut Vec<NodeAction>,
    ) -> u64 {
        let token = self.disk.next_token();
        let hard_state = self.disk.hard_state;
        let entries = entries.into_iter().map(|e| LogEntry { index: e.index, term: e.term, data: e.data }).collect();
        actions.push(NodeAction::Persist(Persist { token, hard_state, snapshot, keep, entries }));
        token
    }

    fn send(&mut self, messages: Vec<Message>, actions: &mut Vec<NodeAction>) {
        for message in messages {
            let to = MdsId(message.to);
            actions.push(NodeAction::Send { to, bytes: message.encode_to_vec() });
        }
    }

    fn apply(&mut self, entries: Vec<Entry>, actions: &mut Vec<NodeAction>) {
        for entry in entries {
            assert!(entry.index > self.disk.applied, "entries are applied once, in order");
            if !entry.data.is_empty() {
                let command = match Command::decode(&entry.data) {
                    Ok(command) => command,
                    Err(source) => return self.fail(NodeError::LogEntry { index: entry.index, source }, actions),
                };
                let result = self.state.apply(entry.index, command);
                self.on_applied(entry.index, entry.term, Some(result), actions);
            } else {
                self.on_applied(entry.index, entry.term, None, actions);
            }
            self.disk.applied = entry.index;
        }
        self.answer_reads(actions);
    }

    /// Raft takes an index as applied only once it is durable here as well.
    fn tell_applied(&mut self) {
        let log = &self.raft.raft.raft_log;
        let durable = self.disk.applied.min(log.persisted).min(log.committed);
        if durable > log.applied {
            self.raft.advance_apply_to(durable);
        }
    }

    fn install(&mut self, snapshot: &SnapshotRecord, actions: &mut Vec<NodeAction>) {
        self.raft.mut_store().install(snapshot.clone());
        match ClusterState::decode(&snapshot.data) {
            Ok(state) => {
                self.state = state;
                self.disk.applied = snapshot.index;
            }
            Err(source) => self.fail(NodeError::Snapshot { index: snapshot.index, source }, actions),
        }
    }

    fn take_snapshot_if_due(&mut self, actions: &mut Vec<NodeAction>) {
        let index = self.raft.raft.raft_log.applied;
        if index != self.disk.applied || index < self.raft.store().snapshot_index() + self.config.snapshot_entries {
            return;
        }
        // A state that contradicts itself must not replace the log that could explain it.
        self.state.assert_invariants();
        let term = raft::Storage::term(self.raft.store(), index).expect("an applied entry is in the log");
        let voters = self.raft.store().voters();
        let snapshot = SnapshotRecord { index, term, voters, data: self.state.encode() };
        let keep = self.raft.mut_store().compact(snapshot.clone(), self.config.log_entries_kept);
        let token = self.persist(Some(snapshot), keep, Vec::new(), actions);
        self.disk.queue.push_back(InFlight { token: Some(token), number: None, messages: Vec::new() });
    }

    fn fail(&mut self, error: NodeError, actions: &mut Vec<NodeAction>) {
        self.failed = true;
        actions.push(NodeAction::Failed(error));
    }
}

fn from_raft(snapshot: &Snapshot) -> SnapshotRecord {
    let metadata = snapshot.get_metadata();
    let voters = metadata.get_conf_state().voters.iter().map(|v| MdsId(*v)).collect();
    SnapshotRecord { index: metadata.index, term: metadata.term, voters, data: snapshot.data.clone() }
}
