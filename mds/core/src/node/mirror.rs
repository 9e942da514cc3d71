//! Raft's view of the log: what is durable and what is on its way to the disk, in memory. The log is kept short by
//! snapshots, so this is bounded.

use super::durable::{DurableState, HardState, LogEntry, SnapshotRecord};
use ashlar_types::MdsId;
use raft::eraftpb::{ConfState, Entry, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::collections::VecDeque;
use std::ops::Range;

#[derive(Debug)]
pub(super) struct LogMirror {
    /// As it was at the start; Raft asks for it once.
    initial: HardState,
    snapshot: SnapshotRecord,
    /// Neighbouring indexes; they end at or after the snapshot.
    entries: VecDeque<Entry>,
    /// Of the entry before the first kept one, which Raft compares with a follower's.
    before_first: (u64, u64),
}

impl LogMirror {
    pub(super) fn new(durable: DurableState, initial: HardState) -> LogMirror {
        // Where entries before the snapshot are kept, the term before the first of them is not known any more: so the first
        // of them only serves as the term before the second.
        let mut entries: VecDeque<Entry> = durable.entries.into_iter().map(to_raft).collect();
        let snapshot_at = (durable.snapshot.index, durable.snapshot.term);
        let before_first = match entries.front() {
            Some(first) if first.index <= snapshot_at.0 => {
                let first = entries.pop_front().expect("it was just seen");
                (first.index, first.term)
            }
            _ => snapshot_at,
        };
        LogMirror { initial, snapshot: durable.snapshot, entries, before_first }
    }

    /// Takes new entries in; they replace those from their first index on. Gives the range of old entries that stay.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Range<u64> {
        let first = self.first();
        if let Some(new) = entries.first() {
            assert!(new.index >= first && new.index <= self.last() + 1, "D1: the log has no gaps");
            self.entries.truncate(usize::try_from(new.index - first).expect("the log fits memory"));
        }
        let kept = self.on_disk_from()..self.last() + 1;
        self.entries.extend(entries.iter().cloned());
        kept
    }

    /// A snapshot from the leader replaces everything.
    pub(super) fn install(&mut self, snapshot: SnapshotRecord) {
        self.entries.clear();
        self.before_first = (snapshot.index, snapshot.term);
        self.snapshot = snapshot;
    }

    /// A snapshot of our own: entries more than `kept` before it are dropped. Gives the range of old entries that stay.
    pub(super) fn compact(&mut self, snapshot: SnapshotRecord, kept: u64) -> Range<u64> {
        while self.entries.front().is_some_and(|e| e.index + kept <= snapshot.index) {
            let dropped = self.entries.pop_front().expect("it was just seen");
            self.before_first = (dropped.index, dropped.term);
        }
        self.snapshot = snapshot;
        self.on_disk_from()..self.last() + 1
    }

    pub(super) fn snapshot_index(&self) -> u64 {
        self.snapshot.index
    }

    pub(super) fn voters(&self) -> Vec<MdsId> {
        self.snapshot.voters.clone()
    }

    fn first(&self) -> u64 {
        self.before_first.0 + 1
    }

    fn last(&self) -> u64 {
        self.before_first.0 + self.entries.len() as u64
    }

    /// One entry more stays on the disk than in memory: it tells the term before the first (see `new`).
    fn on_disk_from(&self) -> u64 {
        self.before_first.0
    }
}

impl Storage for LogMirror {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let hard =
            raft::eraftpb::HardState { term: self.initial.term, vote: self.initial.vote, commit: self.initial.commit };
        Ok(RaftState::new(hard, conf_state(&self.snapshot.voters)))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last() + 1, "Raft asks for entries that it has");
        let range = (low - self.first()) as usize..(high - self.first()) as usize;
        let mut found: Vec<Entry> = self.entries.range(range).cloned().collect();
        raft::util::limit_size(&mut found, max_size.into());
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.before_first.0 {
            return Ok(self.before_first.1);
        }
        if index == self.snapshot.index {
            return Ok(self.snapshot.term);
        }
        if index < self.before_first.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let entry = self.entries.get((index - self.first()) as usize);
        entry.map(|e| e.term).ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.snapshot.index < request_index {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot { data: self.snapshot.data.clone(), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        metadata.index = self.snapshot.index;
        metadata.term = self.snapshot.term;
        *metadata.mut_conf_state() = conf_state(&self.snapshot.voters);
        Ok(snapshot)
    }
}

fn conf_state(voters: &[MdsId]) -> ConfState {
    ConfState { voters: voters.iter().map(|v| v.0).collect(), ..ConfState::default() }
}

fn to_raft(entry: LogEntry) -> Entry {
    Entry { index: entry.index, term: entry.term, data: entry.data, ..Entry::default() }
}
