//! The accesses of one register (a block or a sector), and what becomes of writes that were never answered.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What was written: unique for each write of a register, but for zero, which every block holds at first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub u64);

impl Value {
    pub const ZERO: Value = Value(0);
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read(Value),
    Write(Value),
}

/// Times are positions in the history: no two are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterOp {
    pub access: Access,
    pub invoked: u64,
    /// The latest moment at which it can have taken effect: its answer, a fence, or `u64::MAX`.
    pub until: u64,
    /// Whether it was answered with success. An unanswered write may never take effect; unanswered reads don't belong here.
    pub answered: bool,
}

/// Reads of one value in one span of time are one: reads of a snapshot are all of the moment at which it was taken.
pub fn without_repetitions(ops: &[RegisterOp]) -> Vec<RegisterOp> {
    let mut seen = BTreeSet::new();
    let is_new = |op: &&RegisterOp| match op.access {
        Access::Read(value) => seen.insert((op.invoked, op.until, value)),
        Access::Write(_) => true,
    };
    ops.iter().filter(is_new).copied().collect()
}

/// The same accesses of a register that at first holds zero, where none of them writes zero.
pub fn beginning_with_zero(initial: Value, mut ops: Vec<RegisterOp>) -> Vec<RegisterOp> {
    const NOWHERE: Value = Value(u64::MAX);
    for op in &mut ops {
        op.access = match op.access {
            Access::Read(value) if value == initial => Access::Read(Value::ZERO),
            Access::Read(Value::ZERO) => Access::Read(NOWHERE),
            access => access,
        };
    }
    ops
}

/// An unanswered write with a value of its own either was seen, then it did happen, before the first who saw it was done;
/// or it wasn't, then nobody can tell and it is left out. Unanswered zeroes stay as they are.
pub fn settle_unanswered(ops: &[RegisterOp]) -> Vec<RegisterOp> {
    let mut first_seen: BTreeMap<Value, u64> = BTreeMap::new();
    for op in ops {
        if let Access::Read(value) = op.access {
            let seen = first_seen.entry(value).or_insert(op.until);
            *seen = (*seen).min(op.until);
        }
    }
    ops.iter()
        .filter_map(|op| match op.access {
            Access::Write(value) if !op.answered && value != Value::ZERO => {
                let seen = *first_seen.get(&value)?;
                Some(RegisterOp { until: op.until.min(seen), answered: true, ..*op })
            }
            _ => Some(*op),
        })
        .collect()
}
