//! Disk operations under way: their numbers, what each is for, and what has gone to the disk.

use super::api::{StoreError, Token};
use super::stats::StoreStats;
use crate::format::{BlockAddr, Run, directory_page::PageRef, index_page::PagePlace};
use crate::{Action, DiskError, DiskOp, IoId};
use ashlar_types::PgId;
use std::collections::BTreeMap;

/// What an operation was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The n-th read of the mount's present step.
    Mount(usize),
    /// Part of a batch or of its data.
    Batch(u64),
    Flush,
    Discard(Run),
    /// An index page that reads wait for.
    Page {
        pg: PgId,
        addr: BlockAddr,
        place: PagePlace,
    },
    /// The index page that a repair waits for.
    RepairPage(Token),
    /// An index page that a merge waits for.
    MergePage {
        token: Token,
        page: PageRef,
        place: PagePlace,
    },
    /// Blocks of a read: the `first` of its range, `count` of them.
    Data {
        read: u64,
        first: u16,
        count: u16,
    },
    /// The n-th page that the checkpoint's present step needs.
    CheckpointRead(usize),
    CheckpointWrite,
    Superblock,
    /// The n-th piece of the present round of a wipe.
    WipeRead(usize),
    WipeWrite(usize),
    WipeFlush,
}

#[derive(Debug)]
struct UnderWay {
    purpose: Purpose,
    name: &'static str,
    at: u64,
    len: u64,
}

#[derive(Debug, Default)]
pub(super) struct Device {
    next: u64,
    under_way: BTreeMap<IoId, UnderWay>,
    actions: Vec<Action>,
    pub stats: StoreStats,
}

impl Device {
    /// Queues an operation; it leaves with the next [`Device::drain`].
    pub(super) fn start(&mut self, purpose: Purpose, op: DiskOp) -> IoId {
        let io = IoId(self.next);
        self.next += 1;
        let (name, at, len) = match &op {
            DiskOp::Write { at, data, .. } => ("write", *at, data.iter().map(|d| d.len() as u64).sum()),
            DiskOp::Read { at, len } => ("read", *at, u64::from(*len)),
            DiskOp::Flush => ("flush", 0, 0),
            DiskOp::Discard { at, len } => ("discard", *at, *len),
        };
        let stats = &mut self.stats;
        match &op {
            DiskOp::Write { .. } => {
                stats.device_writes += 1;
                stats.device_bytes_written += len;
            }
            DiskOp::Read { .. } => {
                stats.device_reads += 1;
                stats.device_bytes_read += len;
            }
            DiskOp::Flush => stats.flushes += 1,
            DiskOp::Discard { .. } => {
                stats.discards += 1;
                stats.discarded_bytes += len;
            }
        }
        self.under_way.insert(io, UnderWay { purpose, name, at, len });
        self.actions.push(Action::Disk(io, op));
        io
    }

    pub(super) fn drain(&mut self, actions: &mut Vec<Action>) {
        actions.append(&mut self.actions);
    }

    /// What a finished operation was for, and the error it would be; `None` for a number that is not under way.
    pub(super) fn finish(&mut self, io: IoId) -> Option<(Purpose, impl FnOnce(DiskError) -> StoreError + use<>)> {
        let UnderWay { purpose, name, at, len } = self.under_way.remove(&io)?;
        Some((purpose, move |source| StoreError::Device { op: name, at, len, source }))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }
}
