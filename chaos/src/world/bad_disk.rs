//! Disks that fail: what goes wrong with one operation, or with all of them for a while, and what must come of it.
//!
//! B1: a write or flush that failed is the last that its process does: the store is latched, the core stops, its supervisor starts another.
//! B2: wrong or missing data is noticed by its checksum, an index page by its identity too, and repaired from a peer.
//! Writes of the log and of checkpoints are not lost or misdirected here: of the newest of them nobody could tell that they ever were.

use super::World;
use crate::clock::{Instant, MS};
use crate::rng::Rng;
use crate::run::Reason;
use ashlar_osd_core::format::{index_page, superblock};
use ashlar_osd_core::{DiskOp, IoId};
use ashlar_sim_disk::Fault;
use ashlar_types::OsdId;
use std::collections::BTreeSet;

const BLOCK: u64 = ashlar_types::BLOCK_BYTES as u64;
/// Reads and writes that a fault waits for hit within this time, or it is taken back.
const ARMED_MAX: Instant = 2_000 * MS;

/// What will happen to the next operation of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// A read behind the log fails, once.
    FailedRead,
    /// It brings another block's data.
    MisdirectedRead,
    /// Clients' data is said to be written, and isn't.
    LostWrite,
    /// It lands on other data.
    MisdirectedWrite,
    FailedWrite,
    FailedFlush,
}

impl DiskFault {
    pub const ALL: [DiskFault; 6] = [
        DiskFault::FailedRead,
        DiskFault::MisdirectedRead,
        DiskFault::LostWrite,
        DiskFault::MisdirectedWrite,
        DiskFault::FailedWrite,
        DiskFault::FailedFlush,
    ];
}

/// The troubles of one OSD's disk.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// Hits the next operation that it is for, unless that comes too late.
    armed: Option<(DiskFault, Instant)>,
    /// Until then every write and flush fails.
    broken_until: Instant,
    /// Writes and flushes that will fail when they end.
    failing: BTreeSet<IoId>,
    /// Something has failed that may make this process stop itself.
    may_stop: bool,
}

impl Trouble {
    /// Another process begins; the disk is the same.
    pub(super) fn on_start(&mut self) {
        self.failing.clear();
        self.may_stop = false;
    }
}

impl World {
    /// Something will go wrong soon.
    pub fn arm_disk(&mut self, osd: OsdId, fault: DiskFault) {
        self.trace(|| format!("{osd}: its disk is going to do a {fault:?}"));
        let until = self.now + ARMED_MAX;
        if let Some(o) = self.osds.get_mut(&osd) {
            o.trouble.armed = Some((fault, until));
        }
    }

    /// No write or flush succeeds any more: each process of this OSD stops at its first.
    pub fn break_disk(&mut self, osd: OsdId, span: Instant) {
        self.trace(|| format!("{osd}: nothing can be written to its disk for {} ms", span / MS));
        let until = self.now + span;
        if let Some(o) = self.osds.get_mut(&osd) {
            o.trouble.broken_until = until;
        }
    }

    /// All disks are as good as new (but for what they hold).
    pub(super) fn mend_disks(&mut self) {
        for osd in self.osds.values_mut() {
            osd.trouble.armed = None;
            osd.trouble.broken_until = 0;
        }
    }

    /// Some blocks of clients' data cannot be read until they are written again.
    pub fn make_unreadable(&mut self, osd: OsdId, rng: &mut Rng) {
        let places = self.blocks_that(osd, super::osd::is_data);
        let count = rng.between(1, 3);
        for _ in 0..count {
            let (Some(at), Some(o)) = (rng.choose(&places).copied(), self.osds.get_mut(&osd)) else { return };
            o.disk.make_unreadable(at);
            self.damaged.insert(osd);
        }
        self.trace(|| format!("{osd}: {count} blocks cannot be read"));
    }

    /// Pages of the index are damaged; whether they are in use or were replaced since, nobody knows.
    pub fn rot_index(&mut self, osd: OsdId, rng: &mut Rng) {
        let places = self.blocks_that(osd, |block| block[..8] == index_page::MAGIC.to_le_bytes());
        let count = rng.between(1, 4);
        for _ in 0..count {
            let (Some(at), Some(o)) = (rng.choose(&places).copied(), self.osds.get_mut(&osd)) else { return };
            o.disk.rot(at + rng.below(BLOCK), 2);
            self.damaged.insert(osd);
        }
        self.trace(|| format!("{osd}: {count} index pages rot"));
    }

    /// Blocks behind the log whose contents are such.
    pub(super) fn blocks_that(&self, osd: OsdId, is_such: impl Fn(&[u8]) -> bool) -> Vec<u64> {
        let Some(o) = self.osds.get(&osd) else { return Vec::new() };
        let behind_log = superblock::LOG_AT + self.shape.log_bytes;
        o.disk.blocks_from(behind_log).filter(|(_, block)| is_such(block)).map(|(at, _)| at).collect()
    }

    /// The disk takes an operation: it is this one's turn to go wrong, or not.
    pub(super) fn trouble_for(&mut self, osd: OsdId, io: IoId, op: &DiskOp) {
        let (now, behind_log) = (self.now, superblock::LOG_AT + self.shape.log_bytes);
        let o = self.osds.get_mut(&osd).expect("it has just acted");
        let is_write = matches!(op, DiskOp::Write { .. } | DiskOp::Flush);
        if is_write && now < o.trouble.broken_until {
            o.trouble.failing.insert(io);
            return o.disk.inject(0, Fault::Fail);
        }
        let Some((fault, until)) = o.trouble.armed else { return };
        if now > until {
            o.trouble.armed = None;
            return;
        }
        let is_client_write = matches!(op, DiskOp::Write { at, data, .. } if *at >= behind_log && data.iter().all(|d| super::osd::is_data(d)));
        let one_block = match op {
            DiskOp::Write { data, .. } if is_client_write && data.len() == 1 && data[0].len() as u64 == BLOCK => {
                data.first()
            }
            _ => None,
        };
        // A process that begins reads what it cannot do without; that is for the faults that stop it.
        let is_read = matches!(op, DiskOp::Read { at, .. } if *at >= behind_log) && o.is_mounted;
        let is_hit = match fault {
            DiskFault::FailedRead | DiskFault::MisdirectedRead => is_read,
            DiskFault::LostWrite => is_client_write,
            DiskFault::MisdirectedWrite => one_block.is_some(),
            DiskFault::FailedWrite => matches!(op, DiskOp::Write { .. }),
            DiskFault::FailedFlush => *op == DiskOp::Flush,
        };
        if !is_hit {
            return;
        }
        o.trouble.armed = None;
        let injected = match fault {
            DiskFault::FailedRead => Fault::Fail,
            DiskFault::FailedWrite | DiskFault::FailedFlush => {
                o.trouble.failing.insert(io);
                Fault::Fail
            }
            DiskFault::LostWrite => Fault::Lose,
            DiskFault::MisdirectedRead | DiskFault::MisdirectedWrite => {
                let others = self.blocks_that(osd, super::osd::is_data);
                let Some(to) = self.rng.choose(&others).copied() else { return };
                match one_block {
                    // At once: later the place may have been given to a page of the directory, without which there is no mount.
                    Some(data) => {
                        self.osds.get_mut(&osd).expect("it has just acted").disk.overwrite(to, data);
                        Fault::Lose
                    }
                    None => Fault::Misdirect { to },
                }
            }
        };
        self.trace(|| format!("{osd}: {fault:?} is {injected:?} at {}", described(op)));
        self.damaged.insert(osd);
        self.osds.get_mut(&osd).expect("it has just acted").disk.inject(0, injected);
    }

    /// An operation is about to end. Returns whether it is one of those that must end its process (B1).
    pub(super) fn is_fatal(&mut self, osd: OsdId, io: IoId) -> bool {
        let o = self.osds.get_mut(&osd).expect("inputs are for processes that exist");
        let is_fatal = o.trouble.failing.remove(&io);
        o.trouble.may_stop |= is_fatal;
        is_fatal
    }

    /// B1: after that nothing more may come of this process.
    pub(super) fn check_stopped(&mut self, osd: OsdId) {
        if self.osds[&osd].machine.is_some() {
            self.fail(Reason::Stopped(format!("{osd} goes on after a write or flush has failed (B1)")));
        }
    }

    /// The core asks its shell to stop the process.
    pub(super) fn on_core_failed(&mut self, osd: OsdId, text: &str) {
        self.trace(|| format!("{osd} stops: {text}"));
        if !self.osds[&osd].trouble.may_stop {
            return self.fail(Reason::Stopped(format!("{osd}: {text}")));
        }
        let pause = self.rng.between(20, 600) * MS;
        self.crash_osd_for(osd, false, pause);
    }
}

fn described(op: &DiskOp) -> String {
    match op {
        DiskOp::Write { at, data, .. } => {
            format!("write at {at}, {} bytes", data.iter().map(bytes::Bytes::len).sum::<usize>())
        }
        DiskOp::Read { at, len } => format!("read at {at}, {len} bytes"),
        DiskOp::Flush => "flush".to_owned(),
        DiskOp::Discard { at, len } => format!("discard at {at}, {len} bytes"),
    }
}
