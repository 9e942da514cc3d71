//! Wiping: writes zeroes over what is free, so that nothing of what was ever freed is left on the disk (docs/decisions/036).
//! W1: a block is overwritten only while it is out of the allocator: nobody has it. W2: what is told as wiped was read from the disk as zeroes, if
//! it was written after a flush. W3: a wipe covers whatever was freed, or dropped by a record, before it began: it begins with a checkpoint that begins later,
//! since that frees what was dropped, and with it ends every read that looked at it. W4: it ends with another such checkpoint: who took a
//! block meanwhile, instead of its being wiped, has written it.
//! W5: it begins when no write is undecided whose data had not arrived when the process before ended: in the blocks of such a one lies what was there before, and
//! they are free when it is undone.
//! A wipe of what is owed alone (docs/decisions/039-wipe-freed.md) keeps W1 and W2 and needs none of the others: it is of blocks that are free already, and
//! whoever takes one writes over it or ends with this process, after which all that is free is looked at.
//! What was freed before this process began is not known from what was never in use: all that is free is read, and overwritten unless it is
//! zero. Driven by `store::Store::poll`; each round is asked for from outside, so that clients are not disturbed.

use super::allocator::Allocator;
use super::device::{Device, Purpose};
use super::owed::Owed;
use super::space::SpaceKeeper;
use super::units::{UNIT_BLOCKS, UnitSet, blocks_of};
use crate::format::{PAGE_BYTES, Run};
use crate::{DiskOp, DiskResult};
use ashlar_types::aligned_payload;
use bytes::Bytes;

/// The most that is written in one piece.
const PIECE_BLOCKS_MAX: u32 = 256;
/// The most that is out of the allocator at a time, on a disk that can spare it.
const ROUND_BLOCKS_MAX: u64 = 1024;
const ROUND_PIECES_MAX: usize = 64;
/// Units that one round looks at: of a full disk few blocks are free.
const LOOKED_AT_MAX: usize = 4096;

/// What a wipe did, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WipeReport {
    /// Overwritten, and read as zeroes afterwards.
    pub overwritten: u64,
    /// Read as zeroes before, and left alone.
    pub found_zero: u64,
    /// Overwritten, but the disk could not read them, or read something else.
    pub unverified: u64,
    /// Index pages that were damaged since this process began: the blocks that they named are free only after the next start.
    pub damaged_pages: u64,
}

impl WipeReport {
    pub(super) fn add(&mut self, other: WipeReport) {
        self.overwritten += other.overwritten;
        self.found_zero += other.found_zero;
        self.unverified += other.unverified;
        self.damaged_pages += other.damaged_pages;
    }
}

/// Units whose free blocks may hold what was there before.
#[derive(Debug, Default)]
pub(super) struct Unwiped {
    /// Something in them was freed by this process.
    freed: UnitSet,
    /// Not looked at since it began.
    unknown: UnitSet,
    /// Blocks in those units that are wiped without being asked for.
    pub owed: Owed,
}

impl Unwiped {
    pub(super) fn new(blocks: u64) -> Unwiped {
        Unwiped { unknown: UnitSet::all(blocks), ..Unwiped::default() }
    }

    pub(super) fn freed(&mut self, run: Run) {
        self.freed.insert(run);
    }

    fn take(&mut self) -> Unwiped {
        let all = std::mem::take(self);
        Unwiped { owed: Owed::default(), ..all }
    }

    fn take_owed(&mut self) -> Unwiped {
        let (owed, freed) = self.owed.take();
        Unwiped { freed, unknown: UnitSet::default(), owed }
    }

    /// In all that may hold something; what is owed is in there.
    pub(super) fn blocks(&self) -> u64 {
        self.freed.blocks() + self.unknown.blocks()
    }

    fn is_empty(&self) -> bool {
        self.blocks() + self.owed.blocks() == 0
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.freed.memory_bytes() + self.unknown.memory_bytes() + self.owed.memory_bytes()
    }

    /// Free blocks of the next units, out of the allocator, and whether they have to be looked at first.
    fn take_round(&mut self, allocator: &mut Allocator, blocks_max: u64) -> (Vec<Run>, bool) {
        if self.owed.blocks() > 0 {
            let runs = self.owed.next_round(allocator, blocks_max, ROUND_PIECES_MAX, PIECE_BLOCKS_MAX);
            runs.iter().for_each(|run| assert!(allocator.take_run(*run), "W1: what is wiped is free"));
            return (runs, false);
        }
        let is_unknown = self.freed.is_empty();
        let set = if is_unknown { &mut self.unknown } else { &mut self.freed };
        let mut runs: Vec<Run> = Vec::new();
        let mut blocks = 0;
        for _ in 0..LOOKED_AT_MAX {
            if blocks + UNIT_BLOCKS > blocks_max || runs.len() + UNIT_BLOCKS as usize > ROUND_PIECES_MAX {
                break;
            }
            let Some(unit) = set.take_next() else { break };
            for block in blocks_of(unit, allocator).filter(|block| allocator.is_free(*block)) {
                blocks += 1;
                match runs.last_mut() {
                    Some(last) if last.end() == block.0 && last.count < PIECE_BLOCKS_MAX => last.count += 1,
                    _ => runs.push(Run::one(block)),
                }
            }
        }
        runs.iter().for_each(|run| assert!(allocator.take_run(*run), "W1: what is wiped is free"));
        (runs, is_unknown)
    }
}

/// Waits for a checkpoint that begins later, and for all reads under way when it ends.
#[derive(Debug)]
struct Settling {
    checkpoint: u64,
    next_read: Option<u64>,
}

#[derive(Debug)]
enum Phase {
    /// W5
    Waits,
    /// W3
    Begins(Settling),
    Wipes,
    /// W4
    Ends(Settling),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Looking,
    Writing,
    Flushing,
    Verifying,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    run: Run,
    is_written: bool,
    is_zero: bool,
}

#[derive(Debug)]
struct Round {
    pieces: Vec<Piece>,
    step: Step,
    outstanding: usize,
}

#[derive(Debug)]
pub(super) struct Wipe {
    phase: Phase,
    /// It is of what is owed alone.
    pub is_of_owed: bool,
    /// To be wiped by this one.
    left: Unwiped,
    round: Option<Round>,
    report: WipeReport,
    zeroes: Bytes,
}

/// What a wipe has to know of the rest of the store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// The last checkpoint that is durable.
    pub checkpoint: u64,
    pub checkpoint_runs: bool,
    /// The number that the next read will have.
    pub next_read: u64,
    /// Whether a write is undecided whose data is not there.
    pub has_suspects: bool,
}

impl Settling {
    fn begin(now: Moment) -> Settling {
        Settling { checkpoint: now.checkpoint + 1 + u64::from(now.checkpoint_runs), next_read: None }
    }

    fn is_done(&mut self, now: Moment, space: &SpaceKeeper) -> bool {
        now.checkpoint >= self.checkpoint && space.has_settled(*self.next_read.get_or_insert(now.next_read))
    }
}

impl Wipe {
    pub(super) fn begin() -> Wipe {
        Wipe::new(Phase::Waits, Unwiped::default(), false)
    }

    /// Of what is owed.
    pub(super) fn begin_owed(space: &mut SpaceKeeper) -> Wipe {
        Wipe::new(Phase::Wipes, space.unwiped.take_owed(), true)
    }

    fn new(phase: Phase, left: Unwiped, is_of_owed: bool) -> Wipe {
        let mut zeroes = aligned_payload(PIECE_BLOCKS_MAX as usize * PAGE_BYTES);
        zeroes.resize(PIECE_BLOCKS_MAX as usize * PAGE_BYTES, 0);
        Wipe { phase, is_of_owed, left, round: None, report: WipeReport::default(), zeroes: zeroes.freeze() }
    }

    /// Whether a checkpoint has to begin for it to go on.
    pub(super) fn wants_checkpoint(&self, now: Moment) -> bool {
        match &self.phase {
            Phase::Begins(settling) | Phase::Ends(settling) => {
                now.checkpoint < settling.checkpoint && !now.checkpoint_runs
            }
            Phase::Waits | Phase::Wipes => false,
        }
    }

    /// Blocks that it still has to look at, about; before it knows them all that there are.
    pub(super) fn left(&self, space: &SpaceKeeper) -> u64 {
        match &self.phase {
            Phase::Waits | Phase::Begins(_) => space.unwiped.blocks(),
            Phase::Wipes | Phase::Ends(_) => self.left.blocks() + self.left.owed.blocks(),
        }
    }

    /// Goes from one phase to the next; the report when it has ended.
    pub(super) fn advance(&mut self, now: Moment, space: &mut SpaceKeeper) -> Option<WipeReport> {
        match &mut self.phase {
            Phase::Waits => {
                if !now.has_suspects {
                    self.phase = Phase::Begins(Settling::begin(now));
                }
                None
            }
            Phase::Begins(settling) => {
                if settling.is_done(now, space) && !space.is_trimming() {
                    self.left = space.unwiped.take();
                    self.phase = Phase::Wipes;
                }
                None
            }
            Phase::Wipes => {
                if self.round.is_some() || !self.left.is_empty() {
                    return None;
                }
                if self.is_of_owed {
                    return Some(self.report);
                }
                self.phase = Phase::Ends(Settling::begin(now));
                None
            }
            Phase::Ends(settling) => settling.is_done(now, space).then_some(self.report),
        }
    }

    /// Begins the next round, unless one is under way or there is nothing to do now.
    pub(super) fn next_round(&mut self, space: &mut SpaceKeeper, device: &mut Device) {
        if !matches!(self.phase, Phase::Wipes) || self.round.is_some() || self.left.is_empty() {
            return;
        }
        // While it is away, writes can go on.
        let most = (space.reserve() / 4).min(ROUND_BLOCKS_MAX);
        let (runs, is_unknown) = self.left.take_round(&mut space.allocator, most);
        space.set_wiping(runs.iter().map(|run| u64::from(run.count)).sum());
        if runs.is_empty() {
            return;
        }
        let pieces = runs.into_iter().map(|run| Piece { run, is_written: false, is_zero: false }).collect();
        let mut round = Round { pieces, step: Step::Looking, outstanding: 0 };
        match is_unknown {
            true => round.read(device),
            false => round.write(device, &self.zeroes),
        }
        self.round = Some(round);
    }

    /// An operation of the present round has ended.
    pub(super) fn on_done(
        &mut self,
        nth: usize,
        result: &DiskResult,
        space: &mut SpaceKeeper,
        device: &mut Device,
        uses_flush: bool,
    ) {
        let round = self.round.as_mut().expect("its operation was under way");
        round.outstanding -= 1;
        if matches!(round.step, Step::Looking | Step::Verifying) {
            round.pieces[nth].is_zero = result.as_ref().is_ok_and(|bytes| is_zero(bytes, round.pieces[nth].run));
        }
        if round.outstanding > 0 {
            return;
        }
        match round.step {
            Step::Looking => round.write(device, &self.zeroes),
            Step::Writing if uses_flush => round.flush(device),
            Step::Writing | Step::Flushing => round.read(device),
            Step::Verifying => {}
        }
        if round.outstanding > 0 {
            return;
        }
        for Piece { run, is_written, is_zero } in self.round.take().expect("looked at above").pieces {
            let blocks = u64::from(run.count);
            match (is_written, is_zero) {
                (true, true) => self.report.overwritten += blocks,
                (false, _) => self.report.found_zero += blocks,
                (true, false) => self.report.unverified += blocks,
            }
            space.wiped(run, is_zero);
        }
        space.set_wiping(0);
    }
}

impl Round {
    /// Looks at all of them, or, once some were written, at those.
    fn read(&mut self, device: &mut Device) {
        self.step = if self.step == Step::Looking { Step::Looking } else { Step::Verifying };
        let wanted = |piece: &Piece| self.step == Step::Looking || piece.is_written;
        for (nth, piece) in self.pieces.iter().enumerate().filter(|(_, piece)| wanted(piece)) {
            let read = DiskOp::Read { at: piece.run.first.byte_offset(), len: piece.run.count * PAGE_BYTES as u32 };
            device.start(Purpose::WipeRead(nth), read);
            self.outstanding += 1;
        }
    }

    fn write(&mut self, device: &mut Device, zeroes: &Bytes) {
        self.step = Step::Writing;
        for (nth, piece) in self.pieces.iter_mut().enumerate().filter(|(_, piece)| !piece.is_zero) {
            let data = vec![zeroes.slice(..piece.run.count as usize * PAGE_BYTES)];
            let write = DiskOp::Write { at: piece.run.first.byte_offset(), data, through: false };
            device.start(Purpose::WipeWrite(nth), write);
            piece.is_written = true;
            self.outstanding += 1;
        }
    }

    fn flush(&mut self, device: &mut Device) {
        self.step = Step::Flushing;
        device.start(Purpose::WipeFlush, DiskOp::Flush);
        self.outstanding += 1;
    }
}

fn is_zero(bytes: &Bytes, run: Run) -> bool {
    // In pieces that the compiler looks at with wide registers.
    let has_none = |piece: &[u8]| piece.iter().fold(0, |any, byte| any | byte) == 0;
    bytes.len() == run.count as usize * PAGE_BYTES && bytes.chunks_exact(PAGE_BYTES).all(has_none)
}
