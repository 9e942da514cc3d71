//! One metadata node: tikv's Raft around [`ClusterState`], as a state machine without I/O.
//! N1: what waits for the disk is said only while handling [`NodeEvent::Persisted`]; the order of actions means nothing.
//! N2: a write is answered when its entry is applied; a read when a majority has confirmed the leader after it arrived
//! (read index, not a clock lease: no assumption about clocks) and everything committed before it is applied.
//! N3: the failure detector lives in the leader's memory; a new leader gives every OSD a full grace period.
//! N4: same configuration, durable state and events, same actions. Raft draws election timeouts at random; they are set
//! after each step to a function of {seed, id, term}.
//! Disk: durable.rs. Requests: requests.rs. Raft's Ready cycle: ready.rs. Detector: detector.rs. Jobs: work.rs. What expires: bin.rs. Barriers: passes.rs.

mod bin;
mod config;
mod detector;
mod durable;
mod mirror;
mod passes;
mod ready;
mod requests;
mod space;
mod work;

#[cfg(test)]
mod tests;

pub use bin::{DailyWindow, WindowError};
pub use config::{ConfigError, NodeConfig};
pub use durable::{DurableState, HardState, LogEntry, Persist, SnapshotRecord};

use crate::state::{ClusterState, FormatError};
use ashlar_types::control::{ControlError, ControlReply, ControlRequest, OsdUsage};
use ashlar_types::view::ClusterView;
use ashlar_types::{BootId, MdsId, OsdId, Revision, Tick};
use detector::Detector;
use mirror::LogMirror;
use raft::eraftpb::{Message, MessageType};
use raft::{RawNode, StateRole};
use raft_prost::Message as _;
use ready::DiskQueue;
use requests::Requests;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// The time that [`NodeAction::NextTimer`] asked for has come. Also the first event of a node's life.
    Timer,
    /// `bytes` of [`NodeAction::Send`] at node `from`.
    RaftMessage { from: MdsId, bytes: Vec<u8> },
    /// Messages to this peer don't arrive. Optional: Raft finds out by itself, later.
    PeerUnreachable { peer: MdsId },
    /// This [`Persist`] of this life of the node, and so every earlier one, is durable.
    Persisted { token: u64 },
    /// Answered by exactly one [`NodeAction::Reply`] with the same id.
    Request { id: u64, request: ControlRequest },
    /// Seconds since 1970, about each second. Only what expires and what is stamped depends on it, nothing of the protocol; it may jump.
    WallClock { unix: u64 },
    /// The heartbeat stream of an OSD process broke: starts detection, proves nothing.
    OsdConnectionLost { osd: OsdId, boot: BootId },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAction {
    /// Make this durable, then say [`NodeEvent::Persisted`]. Each whole or not at all; in the order they are given.
    Persist(Persist),
    /// May be lost, late, doubled or out of order.
    Send {
        to: MdsId,
        bytes: Vec<u8>,
    },
    Reply {
        id: u64,
        result: Result<ControlReply, ControlError>,
    },
    /// [`MetadataNode::view_since`] has news.
    ViewChanged {
        revision: Revision,
    },
    /// Who leads, as far as this node knows. Watches are served by the leader only.
    LeaderChanged {
        leader: Option<MdsId>,
    },
    /// Say [`NodeEvent::Timer`] at this time. Replaces the one asked for before.
    NextTimer(Tick),
    /// The node cannot go on and ignores every later event; the process has to stop and say why.
    Failed(NodeError),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the snapshot at index {index} is not readable: {source}")]
    Snapshot { index: u64, source: FormatError },
    #[error("the log entry at index {index} is not readable: {source}")]
    LogEntry { index: u64, source: FormatError },
    #[error("the log does not go on at index {expected} but at {found}")]
    Gap { expected: u64, found: u64 },
    #[error("this is the state of cluster {found}, not of {expected}")]
    Cluster { expected: ashlar_types::ClusterId, found: ashlar_types::ClusterId },
    #[error("the state was made for the metadata nodes {found:?}, the configuration names {expected:?}")]
    Voters { expected: Vec<MdsId>, found: Vec<MdsId> },
    #[error("raft: {0}")]
    Raft(String),
}

/// See the header of this file.
pub struct MetadataNode {
    config: NodeConfig,
    raft: RawNode<LogMirror>,
    state: ClusterState,
    disk: DiskQueue,
    requests: Requests,
    detector: Detector,
    wall: bin::Wall,
    passes: passes::Passes,
    /// `None` until the first event.
    next_tick: Option<Tick>,
    leader: Option<MdsId>,
    failed: bool,
}

impl std::fmt::Debug for MetadataNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetadataNode")
            .field("id", &self.config.id)
            .field("term", &self.raft.raft.term)
            .field("role", &self.raft.raft.state)
            .field("applied", &self.disk.applied)
            .finish_non_exhaustive()
    }
}

impl MetadataNode {
    /// A node with what its disk holds: [`DurableState::bootstrap`] the first time, later what the [`Persist`]s made of it.
    /// Nothing happens until the first event.
    pub fn restore(config: NodeConfig, durable: DurableState) -> Result<MetadataNode, NodeError> {
        config.check()?;
        let state = durable.check(&config)?;
        let applied = durable.snapshot.index;
        let hard = durable.hard_state_within_log();
        let mirror = LogMirror::new(durable, hard);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raft = RawNode::new(&config.raft(applied), mirror, &logger).map_err(|e| NodeError::Raft(e.to_string()))?;
        let mut node = MetadataNode {
            raft,
            state,
            disk: DiskQueue::new(applied, hard),
            requests: Requests::default(),
            detector: Detector::default(),
            wall: bin::Wall::default(),
            passes: passes::Passes::default(),
            next_tick: None,
            leader: None,
            failed: false,
            config,
        };
        node.set_election_timeout();
        Ok(node)
    }

    /// The only way in. Times never fall.
    pub fn step(&mut self, now: Tick, event: NodeEvent, actions: &mut Vec<NodeAction>) {
        if self.failed {
            return;
        }
        if self.next_tick.is_none() {
            self.start(now, actions);
        }
        match event {
            NodeEvent::Timer => {}
            NodeEvent::RaftMessage { from, bytes } => self.on_raft_message(from, &bytes),
            NodeEvent::PeerUnreachable { peer } => self.raft.report_unreachable(peer.0),
            NodeEvent::Persisted { token } => self.on_persisted(token, actions),
            NodeEvent::Request { id, request } => self.on_request(now, id, request, actions),
            NodeEvent::WallClock { unix } => self.on_wall_clock(unix),
            NodeEvent::OsdConnectionLost { osd, boot } => self.detector.on_suspicion(&self.state, osd, boot),
        }
        if self.next_tick.is_none_or(|at| now >= at) {
            self.on_tick(now, actions);
        }
        self.set_election_timeout();
        self.process_ready(actions);
        self.set_election_timeout();
    }

    /// Whether this node believes that it leads. Another may have replaced it already: use it for hints only.
    pub fn is_leader(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    pub fn id(&self) -> MdsId {
        self.config.id
    }

    /// The leader as far as this node knows.
    pub fn leader(&self) -> Option<MdsId> {
        self.leader
    }

    /// What this node has applied: never wrong, perhaps not the newest.
    pub fn state(&self) -> &ClusterState {
        &self.state
    }

    /// For watches: what this node knows to have changed after `revision`. Perhaps not the newest, but nothing in it is ever
    /// taken back.
    pub fn view_since(&self, revision: Revision) -> ClusterView {
        self.state.view_since(revision)
    }

    /// What OSDs last told of their space; the leader's memory only.
    pub fn osd_usage(&self) -> impl Iterator<Item = (OsdId, OsdUsage)> + '_ {
        self.detector.usage()
    }

    fn start(&mut self, now: Tick, actions: &mut Vec<NodeAction>) {
        self.schedule_tick(now, actions);
        // A group of one has nobody to wait for.
        if self.config.peers.len() == 1 {
            self.campaign();
        }
    }

    fn campaign(&mut self) {
        // Refused where this node leads already or may not vote; then there is nothing to do.
        let _ = self.raft.campaign();
    }

    fn schedule_tick(&mut self, now: Tick, actions: &mut Vec<NodeAction>) {
        // A node that slept does not make up for the ticks it missed: nobody's silence is proven by its own.
        let next = now + self.config.tick;
        self.next_tick = Some(next);
        actions.push(NodeAction::NextTimer(next));
    }

    fn on_tick(&mut self, now: Tick, actions: &mut Vec<NodeAction>) {
        self.schedule_tick(now, actions);
        self.raft.tick();
        self.requests.expire(now, actions);
        self.retry_snapshots();
        if self.is_leader() {
            self.propose_early_passes();
            self.watch_workers();
            let mut commands = self.detector.check(&self.state, self.config.tick, &self.config);
            commands.extend(self.detector.rebalance(&self.state, &self.config));
            commands.extend(self.silent_shrinks());
            for command in commands {
                self.propose_own(command);
            }
        }
    }

    fn on_raft_message(&mut self, from: MdsId, bytes: &[u8]) {
        let Ok(message) = Message::decode(bytes) else {
            return;
        };
        if message.from != from.0 || message.to != self.config.id.0 || !self.config.peers.contains_key(&from) {
            return;
        }
        if message.msg_type() == MessageType::MsgSnapshot && !self.is_snapshot_readable(&message) {
            return;
        }
        // An error is a message that this role or term has no use for.
        let _ = self.raft.step(message);
        self.keep_next_above_matched();
    }

    /// Raft asserts on a snapshot that it has accepted, so one that cannot be used is dropped before.
    fn is_snapshot_readable(&self, message: &Message) -> bool {
        let snapshot = message.get_snapshot();
        let voters = &snapshot.get_metadata().get_conf_state().voters;
        voters.iter().eq(self.config.peers.keys().map(|id| &id.0))
            && ClusterState::decode(&snapshot.data).is_ok_and(|s| s.cluster() == self.config.cluster)
    }

    /// What raft 0.7.0 lacks and its repository has (#557): a late rejection must not move a follower's `next_idx` down to
    /// what it is known to have.
    fn keep_next_above_matched(&mut self) {
        for peer in self.config.peers.keys() {
            if let Some(progress) = self.raft.raft.mut_prs().get_mut(peer.0) {
                progress.next_idx = progress.next_idx.max(progress.matched + 1);
            }
        }
    }

    /// A follower that was sent a snapshot gets nothing else until it answers; if it or its answer was lost, try again.
    fn retry_snapshots(&mut self) {
        if !self.is_leader() {
            self.disk.snapshot_waits.clear();
            return;
        }
        for peer in self.config.peers.keys() {
            let sending = self.raft.raft.prs().get(peer.0).is_some_and(|p| p.state == raft::ProgressState::Snapshot);
            if !sending {
                self.disk.snapshot_waits.remove(peer);
                continue;
            }
            let ticks = self.disk.snapshot_waits.entry(*peer).or_insert(0);
            *ticks += 1;
            if *ticks > self.config.snapshot_resend_ticks {
                *ticks = 0;
                self.raft.report_snapshot(peer.0, raft::SnapshotStatus::Failure);
            }
        }
    }

    /// N4: replaces what Raft drew.
    fn set_election_timeout(&mut self) {
        let timeout = self.config.election_timeout_ticks(self.raft.raft.term);
        self.raft.raft.set_randomized_election_timeout(timeout);
    }
}
