//! Log: the only thing that decides what happened. A ring of checksummed batches; all records submitted since the last batch form the next.
//! L1: a batch's seq is its predecessor's plus one. L2: `durable <= written < next seq`. L3: a batch is never written over one that
//! the last durable checkpoint does not contain. L4: `Stored` is told in order, when the batch and its data are durable.
//! A batch may go out while an earlier flush is under way; one flush at a time; what was written when it starts rides on it.
//! L5: a batch that is written through is sent only when all before it are durable or written through: it is durable when they are.
//! Bytes: format/log_batch.rs. Called by `store::Store`.

use super::allocator::Near;
use super::api::Token;
use super::delta::FreedRun;
use crate::DiskOp;
use crate::format::log_batch::{BatchHeader, HEADER_BYTES, padded};
use crate::format::superblock::LOG_AT;
use crate::format::{BlockAddr, Identity, PAGE_BYTES, Run};
use ashlar_types::{Crc, aligned_payload};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};

/// Batches that may be under way: few, so that records gather while the disk is busy.
const BATCHES_IN_FLIGHT_MAX: usize = 4;
/// A batch takes no further record when it has this many bytes (less in a small ring).
const BATCH_BYTES: usize = 128 << 10;
/// A batch of few writes is written through, if the disk is better at that: with more of them one flush is cheaper.
const THROUGH_WRITES_MAX: usize = 3;
/// Room that a new batch gets: enough for ~37 writes of one block.
const FIRST_BYTES: usize = 2 * PAGE_BYTES;
/// Batches over which it is reckoned how many blocks go out together.
const BLOCKS_MEAN_OF: u64 = 16;
/// Up to this mean each write goes out by itself.
const BLOCKS_ALONE_MAX: u64 = 2;
/// Data of neighbouring blocks goes out as one write of at most this many bytes.
const WRITE_BYTES_MAX: u64 = 1 << 20;

/// Which batches are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// Those that somebody waits for, while not too many are under way.
    Ready {
        /// Whether the disk takes writes that are durable by themselves.
        through: bool,
    },
    /// All, for a checkpoint.
    All,
}

/// Records that wait for their batch to be sent.
#[derive(Debug)]
pub(super) struct OpenBatch {
    pub bytes: BytesMut,
    /// Whether somebody waits for it.
    is_awaited: bool,
    records: u32,
    pub tokens: Vec<Token>,
    /// Data that goes out with it.
    pub data: Vec<(Run, Bytes)>,
    /// Blocks that its records free.
    pub released: Vec<FreedRun>,
}

/// Data that is on its way to the disk, or waits to be sent: read from here, since it may not be there yet.
#[derive(Debug, Default)]
pub(super) struct DataUnderWay {
    runs: BTreeMap<BlockAddr, Bytes>,
}

impl DataUnderWay {
    fn add(&mut self, run: Run, bytes: Bytes) {
        self.runs.insert(run.first, bytes);
    }

    pub(super) fn arrived(&mut self, runs: &[BlockAddr]) {
        for first in runs {
            self.runs.remove(first);
        }
    }

    pub(super) fn get(&self, addr: BlockAddr) -> Option<Bytes> {
        let (first, bytes) = self.runs.range(..=addr).next_back()?;
        let from = (addr.0 - first.0) as usize * PAGE_BYTES;
        (from < bytes.len()).then(|| bytes.slice(from..from + PAGE_BYTES))
    }
}

/// A batch under way or not yet durable.
#[derive(Debug)]
struct Sent {
    seq: u64,
    outstanding: u32,
    /// Its writes are durable when they complete.
    through: bool,
    /// Where the runs of its data begin.
    data: Vec<BlockAddr>,
    tokens: Vec<Token>,
    released: Vec<FreedRun>,
}

#[derive(Debug)]
pub(super) struct Log {
    identity: Identity,
    ring_bytes: u64,
    open: VecDeque<OpenBatch>,
    pub under_way: DataUnderWay,
    sent: VecDeque<Sent>,
    next_seq: u64,
    /// Logical position of the next batch.
    head: u64,
    /// Of the first batch that the last durable checkpoint does not contain.
    tail: u64,
    previous: Crc,
    /// All batches up to here are written, with their data.
    written: u64,
    /// All batches up to here are on stable storage, with their data.
    durable: u64,
    batch_bytes: usize,
    /// Blocks of data of the last batches, times [`BLOCKS_MEAN_OF`].
    blocks_mean: u64,
}

/// Where the log goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogPoint {
    pub position: u64,
    pub seq: u64,
    pub previous: Crc,
}

/// What became durable.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub tokens: Vec<Token>,
    pub released: Vec<FreedRun>,
}

impl Log {
    pub(super) fn new(identity: Identity, ring_bytes: u64, tail: u64, head: LogPoint) -> Log {
        Log {
            identity,
            ring_bytes,
            open: VecDeque::new(),
            under_way: DataUnderWay::default(),
            sent: VecDeque::new(),
            next_seq: head.seq,
            head: head.position,
            tail,
            previous: head.previous,
            written: head.seq - 1,
            durable: head.seq - 1,
            batch_bytes: BATCH_BYTES.min((ring_bytes / 16) as usize),
            blocks_mean: 0,
        }
    }

    /// The batch that takes the next record.
    pub(super) fn open_batch(&mut self) -> &mut OpenBatch {
        if self.open.back().is_none_or(|b| b.bytes.len() >= self.batch_bytes) {
            self.open.push_back(OpenBatch::new());
        }
        self.open.back_mut().expect("there is one now")
    }

    /// The batch that a record was just encoded into.
    pub(super) fn current(&mut self) -> &mut OpenBatch {
        self.open.back_mut().expect("a record was encoded into it")
    }

    /// Data that goes out with the record that was just encoded.
    pub(super) fn add_data(&mut self, runs: &[Run], payload: &Bytes) {
        let batch = self.open.back_mut().expect("a record was encoded into it");
        batch.add_data(runs, payload, &mut self.under_way);
    }

    pub(super) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty() && self.sent.is_empty()
    }

    /// Where the data of the next write had best be, by how many went out together lately.
    pub(super) fn near(&self) -> Near {
        if self.blocks_mean <= BLOCKS_ALONE_MAX * BLOCKS_MEAN_OF { Near::Anything } else { Near::Last }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.head - self.tail
    }

    pub(super) fn ring_bytes(&self) -> u64 {
        self.ring_bytes
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Where a batch sent next would be.
    pub(super) fn head(&self) -> LogPoint {
        LogPoint { position: self.head, seq: self.next_seq, previous: self.previous }
    }

    /// Whoever's records wait for company: they leave now.
    pub(super) fn settle(&mut self) {
        self.open.iter_mut().for_each(|batch| batch.is_awaited = true);
    }

    /// The batches that were not sent, for a checkpoint that makes their records needless.
    pub(super) fn take_open(&mut self) -> Vec<OpenBatch> {
        self.open.drain(..).collect()
    }

    /// The next open batch has no place in the ring before a checkpoint has freed some.
    pub(super) fn is_blocked(&self) -> bool {
        self.open.front().is_some_and(|b| !self.fits(b))
    }

    fn fits(&self, batch: &OpenBatch) -> bool {
        self.used_bytes() + padded(batch.bytes.len()) as u64 <= self.ring_bytes
    }

    /// Sends the next open batch: its write and those of its data.
    pub(super) fn send(&mut self, checkpoint: u64, how: Sending, mut write: impl FnMut(u64, DiskOp)) -> bool {
        let is_ready = match how {
            Sending::All => true,
            Sending::Ready { .. } => {
                let in_flight = self.sent.iter().filter(|s| s.outstanding > 0).count();
                let is_awaited = self.open.len() > 1 || self.open.front().is_some_and(|b| b.is_awaited);
                is_awaited && in_flight < BATCHES_IN_FLIGHT_MAX
            }
        };
        if !is_ready || !self.open.front().is_some_and(|b| self.fits(b)) {
            return false;
        }
        let mut batch = self.open.pop_front().expect("it was just looked at");
        let used = batch.bytes.len();
        assert!(padded(used) as u64 <= self.ring_bytes / 2, "one record is larger than half of the log");
        let header = BatchHeader {
            seq: self.next_seq,
            position: self.head,
            flushed: self.durable,
            checkpoint,
            previous: self.previous,
            records: batch.records,
            used: u32::try_from(used).expect("bounded by the ring"),
        };
        let mut bytes = aligned(batch.bytes, padded(used));
        self.previous = header.seal(&mut bytes, self.identity);
        let mut outstanding = 0;
        let blocks: u64 = batch.data.iter().map(|(run, _)| u64::from(run.count)).sum();
        if blocks > 0 {
            self.blocks_mean += blocks;
            self.blocks_mean -= self.blocks_mean / BLOCKS_MEAN_OF;
        }
        let data = batch.data.iter().map(|(run, _)| run.first).collect();
        let mut ops = data_writes(std::mem::take(&mut batch.data));
        ops.extend(self.ring_writes(bytes.freeze()));
        let through = how == Sending::Ready { through: true }
            && ops.len() <= THROUGH_WRITES_MAX
            && self.sent.iter().all(|s| s.through);
        for mut op in ops {
            if let DiskOp::Write { through: is_through, .. } = &mut op {
                *is_through = through;
            }
            outstanding += 1;
            write(self.next_seq, op);
        }
        let OpenBatch { tokens, released, .. } = batch;
        self.sent.push_back(Sent { seq: self.next_seq, outstanding, through, data, tokens, released });
        self.next_seq += 1;
        self.head += padded(used) as u64;
        assert!(self.used_bytes() <= self.ring_bytes, "L3");
        true
    }

    /// One write, or two around the end of the ring.
    fn ring_writes(&self, bytes: Bytes) -> Vec<DiskOp> {
        let at = self.head % self.ring_bytes;
        let first = ((self.ring_bytes - at) as usize).min(bytes.len());
        let mut ops = vec![DiskOp::Write { at: LOG_AT + at, data: vec![bytes.slice(..first)], through: false }];
        if first < bytes.len() {
            ops.push(DiskOp::Write { at: LOG_AT, data: vec![bytes.slice(first..)], through: false });
        }
        ops
    }

    /// A write of batch `seq` is done.
    pub(super) fn on_written(&mut self, seq: u64) {
        let front = self.sent.front().expect("a write under way has its batch").seq;
        let batch = &mut self.sent[(seq - front) as usize];
        batch.outstanding -= 1;
        if batch.outstanding == 0 {
            self.under_way.arrived(&std::mem::take(&mut batch.data));
        }
        while let Some(next) = self.sent.get((self.written + 1 - front) as usize)
            && next.outstanding == 0
        {
            self.written += 1;
        }
        assert!(self.written < self.next_seq, "L2");
    }

    /// All batches up to here are on stable storage without a flush (L5).
    pub(super) fn durable_by_itself(&self) -> u64 {
        let through = self.sent.iter().take_while(|s| s.through && s.seq <= self.written).last();
        through.map_or(self.durable, |s| s.seq)
    }

    /// Everything up to `upto` is on stable storage.
    pub(super) fn on_durable(&mut self, upto: u64) -> Settled {
        assert!(upto <= self.written, "L2");
        self.durable = self.durable.max(upto);
        let mut settled = Settled::default();
        while self.sent.front().is_some_and(|s| s.seq <= upto) {
            let sent = self.sent.pop_front().expect("it was just looked at");
            settled.tokens.extend(sent.tokens);
            settled.released.extend(sent.released);
        }
        settled
    }

    /// Plant `ACK_BEFORE_FLUSH`: the tokens of what is written, durable or not.
    pub(super) fn take_written_tokens(&mut self) -> Vec<Token> {
        let written = self.written;
        self.sent.iter_mut().take_while(|s| s.seq <= written).flat_map(|s| std::mem::take(&mut s.tokens)).collect()
    }

    /// A durable checkpoint contains everything before this position.
    pub(super) fn trim(&mut self, position: u64) {
        assert!(self.tail <= position && position <= self.head, "L3");
        self.tail = position;
    }

    pub(super) fn assert_invariants(&self) {
        assert!(self.durable <= self.written && self.written < self.next_seq, "L2");
        assert!(self.used_bytes() <= self.ring_bytes, "L3");
        assert!(self.sent.iter().zip(self.sent.iter().skip(1)).all(|(a, b)| a.seq + 1 == b.seq), "L1");
    }
}

impl OpenBatch {
    fn new() -> OpenBatch {
        let mut bytes = aligned_payload(FIRST_BYTES);
        bytes.resize(HEADER_BYTES, 0);
        OpenBatch { bytes, is_awaited: false, records: 0, tokens: Vec::new(), data: Vec::new(), released: Vec::new() }
    }

    /// A record was encoded into `bytes`.
    pub(super) fn added(&mut self, token: Option<Token>, released: &mut Vec<FreedRun>) {
        self.added_lazily(released);
        self.tokens.extend(token);
        self.is_awaited = true;
    }

    /// The same for a record that waits for company.
    pub(super) fn added_lazily(&mut self, released: &mut Vec<FreedRun>) {
        self.records += 1;
        self.released.append(released);
    }

    /// The token of an operation that needed no record; it is answered with those before it.
    pub(super) fn answer(&mut self, token: Token) {
        self.tokens.push(token);
        self.is_awaited = true;
    }

    fn add_data(&mut self, runs: &[Run], payload: &Bytes, under_way: &mut DataUnderWay) {
        let mut at = 0;
        for run in runs {
            let end = at + run.bytes() as usize;
            self.data.push((*run, payload.slice(at..end)));
            under_way.add(*run, payload.slice(at..end));
            at = end;
        }
        assert_eq!(at, payload.len(), "a payload fills its blocks");
    }
}

/// Pads a batch; moves it where it outgrew its aligned buffer.
fn aligned(mut bytes: BytesMut, len: usize) -> BytesMut {
    if bytes.capacity() >= len && (bytes.as_ptr() as usize).is_multiple_of(crate::format::PAGE_BYTES) {
        bytes.resize(len, 0);
        return bytes;
    }
    let mut moved = aligned_payload(len);
    moved.extend_from_slice(&bytes);
    moved.resize(len, 0);
    moved
}

/// Writes for blocks in the order in which they were handed out; neighbours together.
pub(super) fn data_writes(data: Vec<(Run, Bytes)>) -> Vec<DiskOp> {
    let mut ops: Vec<(u64, u64, Vec<Bytes>)> = Vec::new();
    for (run, bytes) in data {
        match ops.last_mut() {
            Some((_, end, pieces)) if *end == run.first.0 && pieces_bytes(pieces) + run.bytes() <= WRITE_BYTES_MAX => {
                *end = run.end();
                pieces.push(bytes);
            }
            _ => ops.push((run.first.byte_offset(), run.end(), vec![bytes])),
        }
    }
    ops.into_iter().map(|(at, _, data)| DiskOp::Write { at, data, through: false }).collect()
}

fn pieces_bytes(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|p| p.len() as u64).sum()
}

/// The flush that is under way.
#[derive(Debug)]
pub(super) struct FlushUnderWay {
    /// Batches that it covers.
    pub upto: u64,
    /// Whether it covers the writes of a checkpoint's step.
    pub for_checkpoint: bool,
}
