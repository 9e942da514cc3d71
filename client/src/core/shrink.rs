//! The end of a disk is taken away while clients use it: what lies behind the new end is held off, looked at, and discarded where that is allowed. No
//! I/O and no clock; it asks for the operations of the disk, one after the other.
//!
//! K1: nothing is looked at before all requests of clients that reach behind the new end have ended, and new ones are refused: so what was found stays
//! as it was found. K2: nothing is discarded that isn't allowed to be. K3: who is done has seen, or made, all of it unwritten or zeroes, so that a disk
//! that grows again reads as zeroes there.

use ashlar_types::{BLOCK_BYTES, BlockError, BlockOp, BlockReply, Extent};
use std::collections::VecDeque;

/// Looked at, and discarded, at a time.
const STEP_BYTES: u64 = 1 << 30;

/// What is wanted of the disk.
#[derive(Clone, Debug)]
pub enum ShrinkAction {
    /// Hold off all that reaches behind this byte; answered by [`Shrinker::on_held`] when nothing of that is under way any more.
    Hold(u64),
    /// Answered by [`Shrinker::on_done`], before anything else is asked.
    Submit(BlockOp),
}

/// Why the disk keeps its size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShrinkRefusal {
    #[error("has data behind {end} bytes, the first at {at}; --force shrinks it all the same")]
    Data { end: u64, at: u64 },
    #[error("keeps its size: what lies behind the new end cannot be discarded: {0}")]
    Failed(BlockError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Hold,
    /// The rest of the block in which the new end lies.
    ReadRest,
    ClearRest,
    Look,
    Discard(u64),
    Flush,
}

/// See the header of this file.
#[derive(Debug)]
pub struct Shrinker {
    end: u64,
    size: u64,
    force: bool,
    step: Step,
    /// All before it is clear.
    at: u64,
    /// What was found behind `at`.
    found: VecDeque<Extent>,
    discarded: u64,
    outcome: Option<Result<(), ShrinkRefusal>>,
}

impl Shrinker {
    /// Takes a disk of `size` bytes down to `end`, and gives what is to be done first.
    ///
    /// # Panics
    /// If `end` isn't less.
    pub fn new(end: u64, size: u64, force: bool) -> (Shrinker, ShrinkAction) {
        assert!(end < size, "a disk that is shrunk is larger");
        let (step, found, outcome) = (Step::Hold, VecDeque::new(), None);
        (Shrinker { end, size, force, step, at: end, found, discarded: 0, outcome }, ShrinkAction::Hold(end))
    }

    /// Bytes behind the new end that are clear.
    pub fn position(&self) -> u64 {
        self.at - self.end
    }

    pub fn discarded(&self) -> u64 {
        self.discarded
    }

    /// Once it is over.
    pub fn outcome(&self) -> Option<&Result<(), ShrinkRefusal>> {
        self.outcome.as_ref()
    }

    /// K1
    pub fn on_held(&mut self) -> Option<ShrinkAction> {
        if self.step != Step::Hold {
            return None;
        }
        let rest = self.rest();
        if rest == 0 {
            return self.go_on();
        }
        self.step = Step::ReadRest;
        Some(ShrinkAction::Submit(BlockOp::Read { offset: self.end, len: rest }))
    }

    /// Of what was submitted last.
    pub fn on_done(&mut self, result: Result<BlockReply, BlockError>) -> Option<ShrinkAction> {
        if self.outcome.is_some() {
            return None;
        }
        match (self.step, result) {
            (_, Err(error)) => self.refuse(ShrinkRefusal::Failed(error)),
            (Step::ReadRest, Ok(BlockReply::Data(pieces))) => self.on_rest(&pieces.concat()),
            (Step::ClearRest, Ok(_)) => {
                self.discarded += u64::from(self.rest());
                self.pass_rest()
            }
            (Step::Look, Ok(BlockReply::Extents(extents))) => {
                self.found = extents.into();
                self.go_on()
            }
            (Step::Discard(len), Ok(_)) => {
                (self.discarded, self.at) = (self.discarded + len, self.at + len);
                self.go_on()
            }
            (Step::Flush, Ok(_)) => {
                self.outcome = Some(Ok(()));
                None
            }
            (step, Ok(reply)) => unreachable!("{step:?} is not answered with {reply:?}"),
        }
    }

    /// Bytes between the new end and the end of its block.
    fn rest(&self) -> u32 {
        let whole = self.end.next_multiple_of(BLOCK_BYTES.into()).min(self.size);
        u32::try_from(whole - self.end).expect("less than a block")
    }

    fn on_rest(&mut self, data: &[u8]) -> Option<ShrinkAction> {
        match data.iter().position(|byte| *byte != 0) {
            None => self.pass_rest(),
            Some(first) if !self.force => {
                self.refuse(ShrinkRefusal::Data { end: self.end, at: self.end + first as u64 })
            }
            Some(_) => {
                self.step = Step::ClearRest;
                Some(ShrinkAction::Submit(BlockOp::Discard { offset: self.end, len: self.rest().into() }))
            }
        }
    }

    fn pass_rest(&mut self) -> Option<ShrinkAction> {
        self.at = self.end + u64::from(self.rest());
        self.go_on()
    }

    /// The next of what was found, or looks what there is.
    fn go_on(&mut self) -> Option<ShrinkAction> {
        while let Some(extent) = self.found.pop_front() {
            let len = extent.len.min(self.size - self.at);
            if extent.zero {
                self.at += len;
            } else if !self.force {
                return self.refuse(ShrinkRefusal::Data { end: self.end, at: self.at });
            } else if len > 0 {
                self.step = Step::Discard(len);
                return Some(ShrinkAction::Submit(BlockOp::Discard { offset: self.at, len }));
            }
        }
        if self.at < self.size {
            self.step = Step::Look;
            let len = (self.size - self.at).min(STEP_BYTES);
            return Some(ShrinkAction::Submit(BlockOp::Extents { offset: self.at, len }));
        }
        self.step = Step::Flush;
        Some(ShrinkAction::Submit(BlockOp::Flush))
    }

    fn refuse(&mut self, why: ShrinkRefusal) -> Option<ShrinkAction> {
        self.outcome = Some(Err(why));
        None
    }
}

#[cfg(test)]
mod tests;
