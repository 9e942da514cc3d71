//! Every constant of a metadata node, with its reason.

use super::DailyWindow;
use ashlar_types::{ClusterId, Duration, MdsId};
use std::collections::BTreeMap;

/// [`NodeConfig::new`] gives the values that daemons use; the simulator may choose others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    pub id: MdsId,
    /// All nodes of the group, this one included, with the addresses at which clients reach them. The keys are the voters.
    pub peers: BTreeMap<MdsId, String>,
    pub cluster: ClusterId,
    /// Decides election timeouts, together with id and term.
    pub seed: u64,
    /// The unit of Raft's time. 50 ms: far above a loopback round trip and a flush, fine enough for the detector.
    pub tick: Duration,
    /// A leader says this often that it lives. 2 ticks.
    pub heartbeat_ticks: usize,
    /// A follower that heard nothing campaigns after this many ticks at the earliest (10: five missed heartbeats), and
    /// before `election_ticks_max` (20). At least `heartbeat_ticks + 1`.
    pub election_ticks_min: usize,
    pub election_ticks_max: usize,
    /// A request not decided within this time is answered `Undecided`. 5 s: several elections.
    pub request_timeout: Duration,
    /// An OSD that was not heard for this long is down. 1,500 ms: ten missed heartbeats.
    pub osd_silence_max: Duration,
    /// A suspected OSD (a peer's or its own connection broke) that is not heard for this long afterwards is down. 250 ms:
    /// a missed heartbeat and some delay; together with activation it keeps a client's stall below 1 s.
    pub osd_suspect_grace: Duration,
    /// A worker of a job that was not heard for this long has the job taken away, if somebody else has time for it. 10 s: it tells each second.
    pub worker_silence_max: Duration,
    /// Primaries go back to where placement put them, some at a time, after nothing has changed for this long. 20 s: it costs
    /// their PGs an activation, so not while anything is being recovered.
    pub rebalance_after: Duration,
    /// A snapshot of the state is taken after this many log entries. 1,000.
    pub snapshot_entries: u64,
    /// Log entries kept before the snapshot, so that a follower that was away shortly needs no snapshot. 1,000.
    pub log_entries_kept: u64,
    /// A snapshot sent to a follower that did not answer within this many ticks is sent again. 40: 2 s.
    pub snapshot_resend_ticks: u32,
    /// When what has expired in the bin is purged. The whole day.
    pub bin_window: DailyWindow,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct ConfigError {
    pub key: &'static str,
    pub reason: &'static str,
}

impl NodeConfig {
    pub fn new(id: MdsId, peers: BTreeMap<MdsId, String>, cluster: ClusterId, seed: u64) -> NodeConfig {
        NodeConfig {
            id,
            peers,
            cluster,
            seed,
            tick: Duration::from_millis(50),
            heartbeat_ticks: 2,
            election_ticks_min: 10,
            election_ticks_max: 20,
            request_timeout: Duration::from_millis(5000),
            osd_silence_max: Duration::from_millis(1500),
            osd_suspect_grace: Duration::from_millis(250),
            worker_silence_max: Duration::from_millis(10_000),
            rebalance_after: Duration::from_millis(20_000),
            snapshot_entries: 1000,
            log_entries_kept: 1000,
            snapshot_resend_ticks: 40,
            bin_window: DailyWindow::WHOLE_DAY,
        }
    }

    pub fn check(&self) -> Result<(), ConfigError> {
        let require = |holds: bool, key, reason| if holds { Ok(()) } else { Err(ConfigError { key, reason }) };
        require(!self.peers.contains_key(&MdsId(0)), "peers", "metadata nodes are numbered from 1")?;
        require(self.peers.contains_key(&self.id), "peers", "this node's own id is not among them")?;
        require(matches!(self.peers.len(), 1 | 3 | 5), "peers", "a group has 1, 3 or 5 nodes")?;
        require(self.tick > Duration::ZERO, "tick", "must be more than 0")?;
        require(self.heartbeat_ticks > 0, "heartbeat_ticks", "must be more than 0")?;
        require(self.election_ticks_min > self.heartbeat_ticks, "election_ticks_min", "must exceed heartbeat_ticks")?;
        require(
            self.election_ticks_max > self.election_ticks_min,
            "election_ticks_max",
            "must exceed election_ticks_min",
        )?;
        require(self.osd_silence_max > self.osd_suspect_grace, "osd_silence_max", "must exceed osd_suspect_grace")?;
        require(self.snapshot_entries > 0, "snapshot_entries", "must be more than 0")
    }

    pub(super) fn raft(&self, applied: u64) -> raft::Config {
        raft::Config {
            id: self.id.0,
            election_tick: self.election_ticks_min,
            min_election_tick: self.election_ticks_min,
            max_election_tick: self.election_ticks_max,
            heartbeat_tick: self.heartbeat_ticks,
            applied,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 64,
            check_quorum: true,
            pre_vote: true,
            read_only_option: raft::ReadOnlyOption::Safe,
            ..raft::Config::default()
        }
    }

    pub(super) fn election_timeout_ticks(&self, term: u64) -> usize {
        let span = (self.election_ticks_max - self.election_ticks_min) as u64;
        let drawn = crate::state::mix(self.seed ^ crate::state::mix(self.id.0 << 32 ^ term)) % span;
        self.election_ticks_min + drawn as usize
    }

    /// How clients reach a node of the group.
    pub(super) fn address_of(&self, id: Option<MdsId>) -> Option<String> {
        id.filter(|id| *id != self.id).and_then(|id| self.peers.get(&id)).cloned()
    }

    pub(super) fn voters(&self) -> Vec<MdsId> {
        self.peers.keys().copied().collect()
    }
}
