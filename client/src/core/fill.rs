//! The worker of a job that fills a disk (design.md §6): chunk by chunk it looks what was never written, and fills that with what a clone's base has
//! there, or with zeroes. No I/O and no clock; it asks for the operations of a disk.
//!
//! J1: whatever anybody writes meanwhile stays: each fill is done only where nothing is written, by the OSD's own judgement. J2: all below
//! [`Filler::position`] is filled; who goes on from there, in another process, misses nothing. J3: a chunk is looked at again after a failure
//! of any kind, so what was done before it isn't done twice. J4: while others' small requests are served where it fills, it fills gently: little
//! at a time, one after the other, and rests as long as it worked.

use ashlar_types::{BLOCK_BYTES, BlockError, BlockOp, BlockReply, CHUNK_BYTES, Duration, LayerExtent, Tick};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::data::zeroes;

/// Chunks that are worked on at a time.
const CHUNKS_AT_A_TIME: usize = 4;
const BLOCK: u64 = BLOCK_BYTES as u64;
/// Bytes of one fill.
const PIECE_BYTES: u64 = 1 << 20;
/// Bytes of one fill beside others: of what a small request may have to wait for behind it.
const GENTLE_BYTES: usize = 64 << 10;
/// How long it goes on gently after it was told that others are at work.
const GENTLE_TIME: Duration = Duration::from_millis(500);
/// Rests no shorter and no longer than this; what a fill took that waited for a sick OSD is no measure.
const REST_MIN: Duration = Duration::from_millis(1);
const REST_MAX: Duration = Duration::from_millis(100);
/// A read of fewer bytes is small for an OSD, and after this worker's own nobody can tell whose they were.
const SMALL_READ_BYTES: u64 = 256 << 10;
/// After which time a chunk is tried again that could not be filled.
const AGAIN: Duration = Duration::from_millis(5000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillKind {
    /// What is in none of the disk's own layers is filled with what its base has; where that has nothing, it stays unwritten.
    Base {
        /// Layers of the disk itself.
        own_layers: u32,
    },
    /// What was never written is written with zeroes.
    Zeroes,
}

/// What a worker wants done.
#[derive(Clone, Debug)]
pub enum FillAction {
    /// Answered by [`Filler::on_done`] with the same tag.
    Submit { tag: u64, op: BlockOp },
    /// [`Filler::on_timer`] at this time; one timer, replaced by each of these.
    WakeAt(Tick),
}

#[derive(Debug)]
enum Step {
    Look,
    Read,
    Fill(Bytes),
}

/// A chunk that is worked on.
#[derive(Debug)]
struct Chunk {
    /// What is left to be filled of what was found when it was looked at.
    pieces: VecDeque<Range<u64>>,
    step: Step,
    /// Since when the step is being done.
    began: Option<Tick>,
    /// Bytes of the fill that is being done: as much of its data.
    sent: usize,
    not_before: Tick,
}

/// See the header of this file.
#[derive(Debug)]
pub struct Filler {
    kind: FillKind,
    /// Bytes of the disk.
    size: u64,
    chunks: BTreeMap<u64, Chunk>,
    next_chunk: u64,
    filled: u64,
    trouble: Option<BlockError>,
    /// Bytes a second; `None`: as fast as it goes.
    rate: Option<u64>,
    /// By the rate nothing is filled before then.
    rate_not_before: Tick,
    /// J4: until then gently.
    gentle_until: Tick,
    /// J4: nothing is filled before then.
    rest_until: Tick,
    /// Until then others that are told of may be this worker itself.
    own_reads_until: Tick,
}

impl Filler {
    /// Begins at byte `position` of a disk of `size` bytes, both multiples of a block.
    pub fn new(kind: FillKind, position: u64, size: u64, rate: Option<u64>) -> Filler {
        let next_chunk = position / u64::from(CHUNK_BYTES);
        Filler {
            kind,
            size,
            chunks: BTreeMap::new(),
            next_chunk,
            filled: 0,
            trouble: None,
            rate,
            rate_not_before: Tick(0),
            gentle_until: Tick(0),
            rest_until: Tick(0),
            own_reads_until: Tick(0),
        }
    }

    /// J2. Bytes.
    pub fn position(&self) -> u64 {
        let chunk = self.chunks.keys().next().copied().unwrap_or(self.next_chunk);
        (chunk * u64::from(CHUNK_BYTES)).min(self.size)
    }

    /// Bytes that this worker has filled.
    pub fn filled(&self) -> u64 {
        self.filled
    }

    pub fn is_done(&self) -> bool {
        self.position() == self.size
    }

    /// Why it doesn't get on at present.
    pub fn trouble(&self) -> Option<&BlockError> {
        self.trouble.as_ref()
    }

    pub fn set_rate(&mut self, rate: Option<u64>) {
        if self.rate != rate {
            self.rate = rate;
            self.rate_not_before = Tick(0);
        }
    }

    /// At the beginning, and whenever its time has come.
    pub fn on_timer(&mut self, now: Tick, actions: &mut Vec<FillAction>) {
        self.advance(now, actions);
    }

    /// `tag` as it was given with the operation.
    pub fn on_done(
        &mut self,
        now: Tick,
        tag: u64,
        result: Result<BlockReply, BlockError>,
        actions: &mut Vec<FillAction>,
    ) {
        if let Some(mut chunk) = self.chunks.remove(&tag) {
            let took = chunk.began.take().map_or(REST_MIN, |began| now - began);
            self.heed(now, took, &result);
            if !self.take_result(now, tag, &mut chunk, result) {
                self.chunks.insert(tag, chunk);
            }
        }
        self.advance(now, actions);
    }

    /// J4
    fn heed(&mut self, now: Tick, took: Duration, result: &Result<BlockReply, BlockError>) {
        let Ok(BlockReply::Filled { is_busy }) = result else { return };
        if *is_busy && now >= self.own_reads_until {
            self.gentle_until = now + GENTLE_TIME;
        }
        if now < self.gentle_until {
            self.rest_until = now + took.clamp(REST_MIN, REST_MAX);
        }
    }

    /// Whether the chunk is done.
    fn take_result(
        &mut self,
        now: Tick,
        index: u64,
        chunk: &mut Chunk,
        result: Result<BlockReply, BlockError>,
    ) -> bool {
        match (&chunk.step, result) {
            (Step::Look, Ok(BlockReply::Layers(extents))) if said(&extents) == self.len(index) => {
                chunk.pieces = self.unfilled(index * u64::from(CHUNK_BYTES), &extents).collect();
            }
            (Step::Read, Ok(BlockReply::Data(data)))
                if chunk.pieces.front().is_some_and(|p| len_of(&data) == len(p)) =>
            {
                chunk.step = Step::Fill(joined(data));
                return false;
            }
            (Step::Fill(data), Ok(BlockReply::Filled { .. })) => {
                self.filled += chunk.sent as u64;
                self.trouble = None;
                let rest = data.slice(chunk.sent..);
                match chunk.pieces.front_mut() {
                    Some(piece) if !rest.is_empty() => {
                        piece.start += chunk.sent as u64;
                        chunk.step = Step::Fill(rest);
                        return false;
                    }
                    _ => _ = chunk.pieces.pop_front(),
                }
            }
            // Somebody was faster: J3.
            (_, Err(BlockError::Written)) => {
                chunk.step = Step::Look;
                return false;
            }
            // An answer that is short, or to another question, says nothing.
            (_, result) => {
                let strange = || BlockError::Medium { detail: "an answer to another question".to_owned() };
                self.trouble = Some(result.err().unwrap_or_else(strange));
                chunk.step = Step::Look;
                chunk.not_before = now + AGAIN;
                return false;
            }
        }
        let Some(piece) = chunk.pieces.front() else { return true };
        chunk.step = match self.kind {
            FillKind::Base { .. } => Step::Read,
            FillKind::Zeroes => Step::Fill(zeroes(u32::try_from(len(piece)).expect("a part of a chunk"))),
        };
        false
    }

    fn len(&self, chunk: u64) -> u64 {
        u64::from(CHUNK_BYTES).min(self.size - chunk * u64::from(CHUNK_BYTES))
    }

    /// What is to be filled, by what its layers have: whole blocks. What a base has ends where it ends, which need not be at the end of a block; the disk
    /// reads as zeroes from there, and such a block is filled with them.
    fn unfilled(&self, start: u64, extents: &[LayerExtent]) -> impl Iterator<Item = Range<u64>> + use<> {
        let kind = self.kind;
        let is_unfilled = move |extent: &LayerExtent| match kind {
            FillKind::Base { own_layers } => extent.has_data && extent.layer.is_some_and(|l| l.depth >= own_layers),
            FillKind::Zeroes => extent.layer.is_none(),
        };
        let mut at = start;
        let mut runs: Vec<Range<u64>> = Vec::new();
        for extent in extents {
            let (first, end) = (at - at % BLOCK, (at + extent.len).next_multiple_of(BLOCK));
            at += extent.len;
            if !is_unfilled(extent) {
                continue;
            }
            let run = first..end;
            match runs.last_mut() {
                Some(last) if last.end >= run.start => last.end = run.end,
                _ => runs.push(run),
            }
        }
        runs.into_iter().flat_map(|run| {
            let starts = run.clone().step_by(PIECE_BYTES as usize);
            starts.map(move |start| start..(start + PIECE_BYTES).min(run.end))
        })
    }

    /// Does what can be done now, and asks for the clock where something has to wait.
    fn advance(&mut self, now: Tick, actions: &mut Vec<FillAction>) {
        while self.chunks.len() < CHUNKS_AT_A_TIME && self.next_chunk * u64::from(CHUNK_BYTES) < self.size {
            let chunk = Chunk { pieces: VecDeque::new(), step: Step::Look, began: None, sent: 0, not_before: Tick(0) };
            self.chunks.insert(self.next_chunk, chunk);
            self.next_chunk += 1;
        }
        let mut wake: Option<Tick> = None;
        let (size, rate) = (self.size, self.rate);
        let chunk_bytes = u64::from(CHUNK_BYTES);
        let is_gentle = now < self.gentle_until;
        let mut is_filling = self.chunks.values().any(|c| c.began.is_some() && matches!(c.step, Step::Fill(_)));
        for (tag, chunk) in self.chunks.iter_mut().filter(|(_, chunk)| chunk.began.is_none()) {
            let fills = matches!(chunk.step, Step::Fill(_));
            if fills && is_gentle && is_filling {
                // The fill that is under way wakes it.
                continue;
            }
            let paced = if fills { self.rate_not_before.max(self.rest_until) } else { Tick(0) };
            let at = chunk.not_before.max(paced);
            if now < at {
                wake = Some(wake.map_or(at, |wake| wake.min(at)));
                continue;
            }
            let op = match &chunk.step {
                Step::Look => {
                    let offset = tag * chunk_bytes;
                    let len = chunk_bytes.min(size - offset);
                    BlockOp::Layers { offset, len, with_base: true }
                }
                Step::Read => {
                    let piece = chunk.pieces.front().expect("a chunk without pieces is done");
                    if len(piece) < SMALL_READ_BYTES {
                        self.own_reads_until = now + GENTLE_TIME;
                    }
                    let len = u32::try_from(len(piece)).expect("a part of a chunk");
                    BlockOp::Read { offset: piece.start, len }
                }
                Step::Fill(data) => {
                    is_filling = true;
                    chunk.sent = if is_gentle { data.len().min(GENTLE_BYTES) } else { data.len() };
                    let data = data.slice(..chunk.sent);
                    let offset = chunk.pieces.front().expect("a chunk without pieces is done").start;
                    if let Some(rate) = rate {
                        let takes = data.len() as u64 * 1_000_000 / rate.max(1);
                        self.rate_not_before = self.rate_not_before.max(now) + Duration::from_micros(takes);
                    }
                    BlockOp::Fill { offset, data }
                }
            };
            chunk.began = Some(now);
            actions.push(FillAction::Submit { tag: *tag, op });
        }
        if let Some(at) = wake {
            actions.push(FillAction::WakeAt(at));
        }
    }
}

fn said(extents: &[LayerExtent]) -> u64 {
    extents.iter().map(|extent| extent.len).sum()
}

fn len(piece: &Range<u64>) -> u64 {
    piece.end - piece.start
}

fn len_of(data: &[Bytes]) -> u64 {
    data.iter().map(|piece| piece.len() as u64).sum()
}

/// In one piece, whole blocks.
fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| all.extend_from_slice(piece));
    debug_assert!(all.len().is_multiple_of(BLOCK_BYTES as usize), "a disk that is filled has whole blocks");
    all.freeze()
}

#[cfg(test)]
mod tests;
