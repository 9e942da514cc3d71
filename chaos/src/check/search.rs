//! Linearizability of a register to which zeroes were written, so that values are not unique: search over everything that
//! may have happened so far (after Lowe, "Testing for linearizability", 2017).
//!
//! A *possibility* is what the register holds and which of the operations under way have taken effect. An operation is
//! made to take effect as late as possible: when its answer comes. Few operations are under way at one block at one time, so there
//! are few possibilities; where there are not, the answer is [`Verdict::Unknown`] and counted.

use super::Contradiction;
use super::register::{Access, RegisterOp, Value};
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// Too many possibilities; nothing was found wrong.
    Unknown,
}

const POSSIBILITIES_MAX: usize = 20_000;
/// Bits of the set of operations under way.
const UNDER_WAY_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Possibility {
    holds: Value,
    done: u64,
}

struct Search<'a> {
    ops: &'a [RegisterOp],
    /// Slots of operations under way; the bit of an operation in `done` is its slot.
    slots: [Option<usize>; UNDER_WAY_MAX],
    possible: BTreeSet<Possibility>,
}

pub fn check(ops: &[RegisterOp]) -> Result<Verdict, Contradiction> {
    let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(ops.len() * 2);
    for (i, op) in ops.iter().enumerate() {
        moments.push((op.invoked, false, i));
        if op.until != u64::MAX {
            moments.push((op.until, true, i));
        }
    }
    moments.sort_unstable();
    let start = Possibility { holds: Value::ZERO, done: 0 };
    let mut search = Search { ops, slots: [None; UNDER_WAY_MAX], possible: BTreeSet::from([start]) };
    for (at, ends, i) in moments {
        if !ends {
            let Some(free) = search.slots.iter().position(Option::is_none) else { return Ok(Verdict::Unknown) };
            search.slots[free] = Some(i);
            continue;
        }
        let slot = search.slots.iter().position(|s| *s == Some(i)).expect("it was put there when it began");
        if !search.finish(slot) {
            return Ok(Verdict::Unknown);
        }
        if search.possible.is_empty() {
            let text =
                format!("{:?}, asked at {}, answered at {at}, fits nothing before", ops[i].access, ops[i].invoked);
            return Err(Contradiction { at, text });
        }
        search.slots[slot] = None;
    }
    Ok(Verdict::Linearizable)
}

impl Search<'_> {
    /// The operation in `slot` ends now: it has taken effect in every possibility (or, unanswered, may have). False: too many.
    fn finish(&mut self, slot: usize) -> bool {
        let must = self.ops[self.slots[slot].expect("asked for a used slot")].answered;
        let bit = 1u64 << slot;
        let mut after = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut todo: Vec<Possibility> = std::mem::take(&mut self.possible).into_iter().collect();
        while let Some(p) = todo.pop() {
            if !seen.insert(p) {
                continue;
            }
            if seen.len() > POSSIBILITIES_MAX {
                return false;
            }
            let is_done = p.done & bit != 0;
            if is_done || !must {
                after.insert(Possibility { done: p.done & !bit, ..p });
            }
            if is_done {
                continue;
            }
            todo.extend((0..UNDER_WAY_MAX).filter_map(|s| self.take_effect(p, s)));
        }
        self.possible = after;
        true
    }

    fn take_effect(&self, p: Possibility, slot: usize) -> Option<Possibility> {
        let i = self.slots[slot]?;
        let bit = 1u64 << slot;
        if p.done & bit != 0 {
            return None;
        }
        match self.ops[i].access {
            Access::Read(value) if value != p.holds => None,
            Access::Read(_) => Some(Possibility { done: p.done | bit, ..p }),
            Access::Write(value) => Some(Possibility { holds: value, done: p.done | bit }),
        }
    }
}
