//! What a metadata node keeps on its disk, and how it changes.
//! D1: the log goes on right after the snapshot, or begins before it (entries are kept for slow followers); no gaps.
//! The shell chooses where the parts lie (the daemon: RocksDB); [`DurableState::apply`] says what a [`Persist`] means.

use super::{NodeConfig, NodeError};
use crate::state::ClusterState;
use ashlar_types::MdsId;
use std::ops::Range;

/// Raft's promise: the term it has seen, the vote it gave in it, and how far it knows the log to be committed (a hint).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: u64,
    /// 0: none.
    pub vote: u64,
    pub commit: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub index: u64,
    pub term: u64,
    /// [`Command::encode`](crate::state::Command::encode), or empty for the entry with which a leader begins its term.
    pub data: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    pub index: u64,
    pub term: u64,
    pub voters: Vec<MdsId>,
    /// [`ClusterState::encode`].
    pub data: Vec<u8>,
}

/// One change of the disk: atomic, and durable (synced) before [`NodeEvent::Persisted`](super::NodeEvent::Persisted).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    pub token: u64,
    /// Replaces the one before.
    pub hard_state: HardState,
    /// Replaces the one before.
    pub snapshot: Option<SnapshotRecord>,
    /// Old entries at other indexes are removed...
    pub keep: Range<u64>,
    /// ...and these appended, from `keep.end` on unless nothing is kept.
    pub entries: Vec<LogEntry>,
}

/// All that a node has on its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurableState {
    pub hard_state: HardState,
    pub snapshot: SnapshotRecord,
    /// In order of their indexes.
    pub entries: Vec<LogEntry>,
}

impl DurableState {
    /// What every node of a new cluster begins with. Index 1 and term 1 are the same empty state at all of them.
    pub fn bootstrap(config: &NodeConfig) -> DurableState {
        DurableState {
            hard_state: HardState { term: 1, vote: 0, commit: 1 },
            snapshot: SnapshotRecord {
                index: 1,
                term: 1,
                voters: config.voters(),
                data: ClusterState::new(config.cluster).encode(),
            },
            entries: Vec::new(),
        }
    }

    pub fn apply(&mut self, persist: Persist) {
        self.hard_state = persist.hard_state;
        if let Some(snapshot) = persist.snapshot {
            self.snapshot = snapshot;
        }
        self.entries.retain(|e| persist.keep.contains(&e.index));
        self.entries.extend(persist.entries);
    }

    /// Reads the snapshot and checks that all of it belongs together and to this configuration.
    pub(super) fn check(&self, config: &NodeConfig) -> Result<ClusterState, NodeError> {
        let index = self.snapshot.index;
        let state =
            ClusterState::decode(&self.snapshot.data).map_err(|source| NodeError::Snapshot { index, source })?;
        if state.cluster() != config.cluster {
            return Err(NodeError::Cluster { expected: config.cluster, found: state.cluster() });
        }
        if self.snapshot.voters != config.voters() {
            return Err(NodeError::Voters { expected: config.voters(), found: self.snapshot.voters.clone() });
        }
        let first = self.entries.first().map_or(index + 1, |e| e.index);
        if first > index + 1 {
            return Err(NodeError::Gap { expected: index + 1, found: first });
        }
        for (expected, entry) in (first..).zip(&self.entries) {
            if entry.index != expected {
                return Err(NodeError::Gap { expected, found: entry.index });
            }
        }
        let end = first + self.entries.len() as u64;
        if end < index + 1 {
            return Err(NodeError::Gap { expected: index, found: end });
        }
        Ok(state)
    }

    /// The hard state with its hint made to fit: the log may be longer or, after a snapshot, begin later than it says.
    pub(super) fn hard_state_within_log(&self) -> HardState {
        let last = self.entries.last().map_or(self.snapshot.index, |e| e.index);
        HardState { commit: self.hard_state.commit.clamp(self.snapshot.index, last), ..self.hard_state }
    }
}
