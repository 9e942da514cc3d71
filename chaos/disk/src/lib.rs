//! A simulated disk: a volatile cache that loses, tears and reorders what was not flushed, and faults on demand. Deterministic: what it
//! does is decided by the operations, the moments at which the caller completes them, and the [`Rng`] that the caller hands in.
//!
//! Operations are [`submitted`](SimDisk::submit) and take effect when the caller [`completes`](SimDisk::complete) them, in any order.
//! A flush covers the writes that were completed when it was submitted. After [`SimDisk::crash`], each write that no flush covered,
//! completed or not, is kept, dropped or torn at 512-byte sectors, each independently of the others.

#![forbid(unsafe_code)]

pub mod rng;

pub use rng::Rng;

use ashlar_osd_core::{DiskError, DiskOp, DiskResult, IoId};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};

const BLOCK: u64 = 4096;
const SECTOR: usize = 512;

/// What happens to an operation instead of what should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and does nothing.
    Fail,
    /// A write that reports success and does nothing.
    Lose,
    /// A write that lands at another multiple of 4096, or a read that brings what is there; and reports success.
    Misdirect { to: u64 },
}

#[derive(Clone, Debug)]
struct UnflushedWrite {
    at: u64,
    data: Bytes,
    /// Covered by the flush with this number, when that ends.
    completed: bool,
}

#[derive(Clone, Debug)]
struct UnderWay {
    op: DiskOp,
    fault: Option<Fault>,
    /// A flush: the writes that it covers. A write: its own number, so that a crash can catch it half done.
    writes: Vec<u64>,
}

/// See the head of this file.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    capacity: u64,
    volatile_cache: bool,
    /// What reads see. Blocks that are missing are zeroes.
    current: BTreeMap<u64, Bytes>,
    /// What a power failure leaves, beside the unflushed writes.
    durable: BTreeMap<u64, Bytes>,
    /// By number, which rises with the order of submission.
    unflushed: BTreeMap<u64, UnflushedWrite>,
    next_write: u64,
    under_way: BTreeMap<IoId, UnderWay>,
    /// Faults for operations to come, by the number of operations from now.
    faults: BTreeMap<u64, Fault>,
    submitted: u64,
    bad_blocks: BTreeSet<u64>,
}

impl SimDisk {
    /// All zeroes. Without a volatile cache, what completed is durable; what is under way at a crash is still torn.
    pub fn new(capacity: u64, volatile_cache: bool) -> SimDisk {
        assert!(capacity.is_multiple_of(BLOCK), "disks have whole blocks");
        SimDisk { capacity, volatile_cache, ..SimDisk::default() }
    }

    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Performs operations at once and durably (for `mkfs`).
    pub fn perform(&mut self, ops: impl IntoIterator<Item = DiskOp>) {
        for op in ops {
            let io = IoId(u64::MAX);
            self.submit(io, op);
            self.complete(io).expect("an operation without fault succeeds");
        }
        self.submit(IoId(u64::MAX), DiskOp::Flush);
        self.complete(IoId(u64::MAX)).expect("a flush without fault succeeds");
    }

    /// Takes an operation; it takes effect at [`SimDisk::complete`].
    pub fn submit(&mut self, io: IoId, op: DiskOp) {
        let fault = self.faults.remove(&self.submitted);
        self.submitted += 1;
        let writes = match &op {
            DiskOp::Write { at, data, .. } => {
                let len: u64 = data.iter().map(|d| d.len() as u64).sum();
                assert!(at.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK) && len > 0, "writes are of whole blocks");
                assert!(at + len <= self.capacity, "a write past the end of the disk");
                assert!(data.iter().all(|d| d.len().is_multiple_of(SECTOR)), "pieces are whole sectors");
                let at = match fault {
                    Some(Fault::Fail | Fault::Lose) => None,
                    Some(Fault::Misdirect { to }) => Some(to.min(self.capacity - len)),
                    None => Some(*at),
                };
                at.map(|at| self.remember(at, join(data))).into_iter().collect()
            }
            DiskOp::Flush => self.unflushed.iter().filter(|(_, w)| w.completed).map(|(number, _)| *number).collect(),
            DiskOp::Read { at, len } => {
                assert!(at.is_multiple_of(BLOCK) && u64::from(*len).is_multiple_of(BLOCK), "reads are of whole blocks");
                assert!(at + u64::from(*len) <= self.capacity, "a read past the end of the disk");
                Vec::new()
            }
            DiskOp::Discard { at, len } => {
                assert!(at.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK), "discards are of whole blocks");
                assert!(at + len <= self.capacity, "a discard past the end of the disk");
                Vec::new()
            }
        };
        let before = self.under_way.insert(io, UnderWay { op, fault, writes });
        assert!(before.is_none(), "an operation number is used twice at a time");
    }

    fn remember(&mut self, at: u64, data: Bytes) -> u64 {
        let number = self.next_write;
        self.next_write += 1;
        self.unflushed.insert(number, UnflushedWrite { at, data, completed: false });
        number
    }

    /// The operations that are under way, in order of number.
    pub fn pending(&self) -> impl Iterator<Item = (IoId, &DiskOp)> {
        self.under_way.iter().map(|(io, u)| (*io, &u.op))
    }

    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Lets an operation take effect; the caller hands the result to the store when it likes.
    ///
    /// # Panics
    /// If no such operation is under way.
    pub fn complete(&mut self, io: IoId) -> DiskResult {
        let UnderWay { op, fault, writes } = self.under_way.remove(&io).expect("the operation is under way");
        if fault == Some(Fault::Fail) {
            return Err(io_error());
        }
        match op {
            DiskOp::Write { through, .. } => {
                for number in writes {
                    self.complete_write(number);
                    if through && self.volatile_cache {
                        self.write_through(number);
                    }
                }
                Ok(Bytes::new())
            }
            DiskOp::Flush => {
                for number in writes {
                    self.make_durable(number);
                }
                Ok(Bytes::new())
            }
            DiskOp::Read { at, len } => match fault {
                Some(Fault::Misdirect { to }) => self.read(to.min(self.capacity - u64::from(len)), len),
                _ => self.read(at, len),
            },
            DiskOp::Discard { at, len } => {
                let blocks = at / BLOCK..(at + len) / BLOCK;
                for block in blocks {
                    self.current.remove(&block);
                    self.durable.remove(&block);
                }
                // What was to be written there is forgotten as well.
                let end = at + len;
                self.unflushed.retain(|_, w| !w.completed || w.at + w.data.len() as u64 <= at || w.at >= end);
                Ok(Bytes::new())
            }
        }
    }

    fn make_durable(&mut self, number: u64) {
        if let Some(write) = self.unflushed.remove(&number) {
            put(&mut self.durable, write.at, &write.data, |_| true);
        }
    }

    /// What lies in the cache for the same place from before is older than what is on the medium now.
    fn write_through(&mut self, number: u64) {
        let write = &self.unflushed[&number];
        let (at, end) = (write.at, write.at + write.data.len() as u64);
        let overlaps = |w: &UnflushedWrite| w.completed && w.at < end && w.at + w.data.len() as u64 > at;
        let older: Vec<u64> =
            self.unflushed.range(..number).filter(|(_, w)| overlaps(w)).map(|(number, _)| *number).collect();
        for number in older {
            self.make_durable(number);
        }
        self.make_durable(number);
    }

    fn complete_write(&mut self, number: u64) {
        let write = self.unflushed.get_mut(&number).expect("it is remembered until it is flushed");
        write.completed = true;
        put(&mut self.current, write.at, &write.data, |_| true);
        for block in write.at / BLOCK..(write.at + write.data.len() as u64) / BLOCK {
            self.bad_blocks.remove(&block);
        }
        if !self.volatile_cache {
            let write = self.unflushed.remove(&number).expect("it was just looked at");
            put(&mut self.durable, write.at, &write.data, |_| true);
        }
    }

    fn read(&self, at: u64, len: u32) -> DiskResult {
        let blocks = at / BLOCK..(at + u64::from(len)) / BLOCK;
        if blocks.clone().any(|b| self.bad_blocks.contains(&b)) {
            return Err(io_error());
        }
        if u64::from(len) == BLOCK {
            return Ok(self.current.get(&(at / BLOCK)).cloned().unwrap_or_else(zero_block));
        }
        let mut bytes = BytesMut::with_capacity(len as usize);
        for block in blocks {
            match self.current.get(&block) {
                Some(data) => bytes.extend_from_slice(data),
                None => bytes.resize(bytes.len() + BLOCK as usize, 0),
            }
        }
        Ok(bytes.freeze())
    }

    /// The power fails: nothing is under way any more, and what no flush covered is kept, dropped or torn.
    pub fn crash(&mut self, rng: &mut Rng) {
        for write in std::mem::take(&mut self.unflushed).into_values() {
            match rng.below(3) {
                0 => {}
                1 => put(&mut self.durable, write.at, &write.data, |_| true),
                _ => {
                    let mut kept = BTreeSet::new();
                    for sector in 0..write.data.len() / SECTOR {
                        if rng.below(2) == 0 {
                            kept.insert(sector);
                        }
                    }
                    put(&mut self.durable, write.at, &write.data, |sector| kept.contains(&sector));
                }
            }
        }
        self.current = self.durable.clone();
        self.under_way.clear();
    }

    /// The process dies, the machine does not: what is under way is done or not; the cache stays.
    pub fn kill(&mut self, rng: &mut Rng) {
        for (_, UnderWay { op, writes, .. }) in std::mem::take(&mut self.under_way) {
            for number in writes {
                if !matches!(op, DiskOp::Write { .. }) {
                    continue;
                }
                if rng.below(2) == 0 {
                    self.complete_write(number);
                } else {
                    self.unflushed.remove(&number);
                }
            }
        }
    }

    /// The `nth` operation from now (0: the next) goes wrong.
    pub fn inject(&mut self, nth: u64, fault: Fault) {
        self.faults.insert(self.submitted + nth, fault);
    }

    /// Flips a bit of what is stored at a byte of the disk, cache and medium alike.
    pub fn rot(&mut self, at: u64, bit: u8) {
        for blocks in [&mut self.current, &mut self.durable] {
            let mut data = BytesMut::from(&blocks.get(&(at / BLOCK)).cloned().unwrap_or_else(zero_block)[..]);
            data[(at % BLOCK) as usize] ^= 1 << (bit % 8);
            blocks.insert(at / BLOCK, data.freeze());
        }
    }

    /// Somebody else's write lands on this block, in cache and medium alike.
    pub fn overwrite(&mut self, at: u64, data: &Bytes) {
        assert!(at.is_multiple_of(BLOCK) && data.len() as u64 == BLOCK, "one whole block");
        self.current.insert(at / BLOCK, data.clone());
        self.durable.insert(at / BLOCK, data.clone());
    }

    /// Reads of this block fail until it is written again.
    pub fn make_unreadable(&mut self, at: u64) {
        self.bad_blocks.insert(at / BLOCK);
    }

    /// What reads see now, for offline tools.
    pub fn read_now(&self, at: u64, len: u32) -> std::io::Result<Vec<u8>> {
        if !at.is_multiple_of(BLOCK) || at + u64::from(len) > self.capacity {
            return Err(std::io::Error::from(std::io::ErrorKind::InvalidInput));
        }
        self.read(at, len).map(|b| b.to_vec()).map_err(|e| std::io::Error::from(e.kind))
    }

    /// Blocks that hold something, from a byte of the disk on, as reads see them.
    pub fn blocks_from(&self, at: u64) -> impl Iterator<Item = (u64, &Bytes)> {
        self.current.range(at.div_ceil(BLOCK)..).map(|(block, data)| (block * BLOCK, data))
    }

    /// Blocks that hold something, lost or kept.
    pub fn blocks_stored(&self) -> usize {
        self.current.len()
    }
}

fn io_error() -> DiskError {
    const EIO: i32 = 5;
    DiskError { kind: std::io::ErrorKind::Other, code: Some(EIO) }
}

fn zero_block() -> Bytes {
    static ZERO: [u8; BLOCK as usize] = [0; BLOCK as usize];
    Bytes::from_static(&ZERO)
}

fn join(pieces: &[Bytes]) -> Bytes {
    if let [one] = pieces {
        return one.clone();
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|p| all.extend_from_slice(p));
    all.freeze()
}

/// Puts the sectors of `data` that `keep` names at a byte of a disk.
fn put(blocks: &mut BTreeMap<u64, Bytes>, at: u64, data: &Bytes, keep: impl Fn(usize) -> bool) {
    const SECTORS: usize = BLOCK as usize / SECTOR;
    for i in 0..data.len() / BLOCK as usize {
        let block = at / BLOCK + i as u64;
        let new = data.slice(i * BLOCK as usize..(i + 1) * BLOCK as usize);
        let kept: Vec<usize> = (0..SECTORS).filter(|s| keep(i * SECTORS + s)).collect();
        if kept.len() == SECTORS {
            blocks.insert(block, new);
        } else if !kept.is_empty() {
            let mut mixed = BytesMut::from(&blocks.get(&block).cloned().unwrap_or_else(zero_block)[..]);
            for sector in kept {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                mixed[range.clone()].copy_from_slice(&new[range]);
            }
            blocks.insert(block, mixed.freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(at: u64, fill: u8) -> DiskOp {
        DiskOp::Write { at, data: vec![Bytes::from(vec![fill; BLOCK as usize])], through: false }
    }

    #[test]
    fn what_a_flush_covers_survives_and_the_rest_may_not() {
        let (mut dropped, mut torn) = (0, 0);
        for seed in 0..200 {
            let mut disk = SimDisk::new(1 << 20, true);
            disk.submit(IoId(1), write(0, 1));
            disk.complete(IoId(1)).expect("no fault");
            disk.submit(IoId(2), DiskOp::Flush);
            disk.submit(IoId(3), write(BLOCK, 2));
            disk.complete(IoId(3)).expect("no fault");
            disk.complete(IoId(2)).expect("no fault");
            disk.crash(&mut Rng::new(seed));
            assert_eq!(disk.read_now(0, 4096).expect("readable"), vec![1; 4096]);
            let second = disk.read_now(BLOCK, 4096).expect("readable");
            dropped += u32::from(second.iter().all(|b| *b == 0));
            torn += u32::from(second.contains(&2) && second.contains(&0));
        }
        assert!(dropped > 20 && torn > 20, "{dropped} {torn}");
    }

    #[test]
    fn faults_hit_the_operation_they_are_meant_for() {
        let mut disk = SimDisk::new(1 << 20, false);
        disk.inject(1, Fault::Lose);
        disk.inject(2, Fault::Misdirect { to: 8 * BLOCK });
        disk.inject(3, Fault::Fail);
        for (i, fill) in [1, 2, 3, 4].into_iter().enumerate() {
            disk.submit(IoId(i as u64), write(i as u64 * BLOCK, fill));
        }
        let results: Vec<bool> = (0..4).map(|i| disk.complete(IoId(i)).is_ok()).collect();
        assert_eq!(results, [true, true, true, false]);
        let first = |block: u64| disk.read_now(block * BLOCK, 4096).expect("readable")[0];
        assert_eq!([first(0), first(1), first(2), first(3), first(8)], [1, 0, 0, 0, 3]);
        disk.inject(0, Fault::Misdirect { to: 8 * BLOCK });
        disk.submit(IoId(9), DiskOp::Read { at: 0, len: 4096 });
        assert_eq!(disk.complete(IoId(9)).expect("it seems to succeed")[0], 3);
    }
}
