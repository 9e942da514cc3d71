//! The shell's disk: the core's operations on the ring, and their results as events.

use super::{Core, Shell, Tag};
use crate::counters::add;
use crate::ring::{Done, Op};
use ashlar_osd_core::{DiskError, DiskOp, Event, IoId, Moment};
use ashlar_types::aligned_payload;
use ashlar_types::perf::Stage;
use bytes::Bytes;
use std::io;

impl<C: Core> Shell<C> {
    // ---- The disk.

    pub(super) fn start_disk(&mut self, id: IoId, op: DiskOp) {
        let counters = &self.shared.counters;
        let file = self.disk.file.clone();
        let inside = |at: u64, len: u64| at.checked_add(len).is_some_and(|end| end <= self.disk.size);
        let op = match op {
            DiskOp::Write { at, data, through } => {
                let bytes: usize = data.iter().map(Bytes::len).sum();
                assert!(inside(at, bytes as u64), "the store stays within its disk");
                self.started += 1;
                let (pieces, copied) = self.disk.aligned(data);
                add(&counters.disk_writes_total, 1);
                add(&counters.disk_write_bytes_total, bytes as u64);
                add(&counters.disk_write_copied_bytes_total, copied as u64);
                Op::Write { file, at, pieces, through }
            }
            DiskOp::Read { at, len } => {
                assert!(inside(at, u64::from(len)), "the store stays within its disk");
                add(&counters.disk_reads_total, 1);
                add(&counters.disk_read_bytes_total, u64::from(len));
                Op::Read { file, at, len: len as usize, buffer: aligned_payload(len as usize) }
            }
            DiskOp::Flush => {
                add(&counters.disk_flushes_total, 1);
                Op::Flush { file }
            }
            DiskOp::Discard { at, len } => {
                assert!(inside(at, len), "the store stays within its disk");
                if !self.can_discard {
                    return self.deferred.push(Event::Disk(id, Ok(Bytes::new())));
                }
                add(&counters.disk_discards_total, 1);
                Op::Discard { file, at, len }
            }
        };
        self.disk_ops += 1;
        let begun = self.core.perf().when_sent(self.now);
        self.ring.submit(Tag::Disk(id, begun), op);
    }

    pub(super) fn on_disk(&mut self, id: IoId, begun: Moment, op: Op, result: io::Result<Done>) {
        self.disk_ops -= 1;
        if let Some(stage) = stage_of(&op) {
            self.core.perf().on_done(stage, begun, self.now);
        }
        let result = match (result, op) {
            (Ok(_), Op::Read { buffer, .. }) => Ok(buffer.freeze()),
            (Ok(_), _) => Ok(Bytes::new()),
            (Err(error), Op::Discard { .. })
                if error.kind() == io::ErrorKind::Unsupported || is_unsupported(&error) =>
            {
                tracing::info!(osd = self.osd.0, disk = %self.disk.path.display(), "the disk takes no discards");
                self.can_discard = false;
                Ok(Bytes::new())
            }
            (Err(error), op) => {
                add(&self.shared.counters.disk_errors_total, 1);
                self.is_host_full |= error.kind() == io::ErrorKind::StorageFull && !self.disk.is_block_device;
                tracing::error!(osd = self.osd.0, "{}", self.disk.describe(&format!("{op:?}"), &error));
                Err(DiskError { kind: error.kind(), code: error.raw_os_error() })
            }
        };
        self.event(Event::Disk(id, result));
    }
}

fn stage_of(op: &Op) -> Option<Stage> {
    match op {
        Op::Write { .. } => Some(Stage::DiskWrite),
        Op::Read { .. } => Some(Stage::DiskRead),
        Op::Flush { .. } => Some(Stage::DiskFlush),
        _ => None,
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV))
}
