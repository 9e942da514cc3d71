//! Linearizability of a register to which zeroes were written, so that values are not unique: search over everything that
//! may have happened so far (after Lowe, "Testing for linearizability", 2017).
//!
//! A *possibility* is what the register holds and which of the operations under way have taken effect. An operation is
//! made to take effect as late as possible: when its answer comes. But a read that fits takes effect at once: it changes nothing, so nothing
//! that is possible without it is lost. So does a write that nobody reads as soon as any other does, just before that one, which leaves nothing of
//! it. The writes that are left and under way at one block at one time are few, so there are few possibilities; where there are not, the
//! answer is [`Verdict::Unknown`] and counted.

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
    /// The bits of writes under way whose value nobody reads.
    unread: u64,
    read_values: BTreeSet<Value>,
    possible: BTreeSet<Possibility>,
}

pub fn check(initial: Value, ops: &[RegisterOp]) -> Result<Verdict, Contradiction> {
    let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(ops.len() * 2);
    for (i, op) in ops.iter().enumerate() {
        moments.push((op.invoked, false, i));
        if op.until != u64::MAX {
            moments.push((op.until, true, i));
        }
    }
    moments.sort_unstable();
    let start = Possibility { holds: initial, done: 0 };
    let read = |op: &RegisterOp| if let Access::Read(value) = op.access { Some(value) } else { None };
    let read_values = ops.iter().filter_map(read).collect();
    let (slots, possible) = ([None; UNDER_WAY_MAX], BTreeSet::from([start]));
    let mut search = Search { ops, slots, unread: 0, read_values, possible };
    for (at, ends, i) in moments {
        if !ends {
            let Some(free) = search.slots.iter().position(Option::is_none) else { return Ok(Verdict::Unknown) };
            search.begin(free, i);
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
        search.unread &= !(1 << slot);
    }
    Ok(Verdict::Linearizable)
}

impl Search<'_> {
    /// An operation begins: everything that is possible goes on with the reads that fit it done.
    fn begin(&mut self, slot: usize, i: usize) {
        self.slots[slot] = Some(i);
        if let Access::Write(value) = self.ops[i].access
            && value != Value::ZERO
            && !self.read_values.contains(&value)
        {
            self.unread |= 1 << slot;
        }
        let possible = std::mem::take(&mut self.possible);
        self.possible = possible.into_iter().map(|p| self.with_reads(p)).collect();
    }

    fn with_reads(&self, p: Possibility) -> Possibility {
        let fits = |i: &usize| self.ops[*i].access == Access::Read(p.holds);
        let bits = self.slots.iter().enumerate().filter(|(_, i)| i.as_ref().is_some_and(fits));
        bits.fold(p, |p, (slot, _)| Possibility { done: p.done | 1 << slot, ..p })
    }

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
            // If it fitted, it would be done.
            Access::Read(_) => None,
            Access::Write(value) => {
                Some(self.with_reads(Possibility { holds: value, done: p.done | bit | self.unread }))
            }
        }
    }
}
