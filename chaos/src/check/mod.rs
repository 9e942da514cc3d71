//! Whether what clients saw could have come from one disk that does one thing at a time (linearizability), block by block.
//!
//! C1: an answered write takes effect once, between its request and its answer; an unanswered one once or never, at any later time.
//! C2: a write of a fenced attachment takes effect before the fence or never.
//! C3: a block written whole is never seen torn; between blocks no order is promised.
//! C4: a snapshot is what the volume was at one moment between the request for it and the answer, and stays that; those of a group are of the same
//! moment.
//! C5: a clone is at first what its snapshot is.

mod history;
mod register;
mod search;
mod snapshots;
mod zones;

pub use history::{ClientNumber, History, OpKind, OpRef, SECTORS_PER_BLOCK, Violation, sector_value};
pub use register::{Access, RegisterOp, Value};
pub use search::Verdict;
pub use snapshots::SnapshotRef;

/// What does not fit, and where in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    pub at: u64,
    pub text: String,
}

/// Checks the accesses of one register, which at first holds `initial`: what nobody writes, or zero.
///
/// # Errors
/// Says which operations contradict each other.
pub fn check_register(initial: Value, ops: &[RegisterOp]) -> Result<Verdict, Contradiction> {
    let ops = register::settle_unanswered(&register::without_repetitions(ops));
    if ops.iter().any(|op| matches!(op.access, Access::Write(Value::ZERO))) {
        search::check(initial, &ops)
    } else {
        zones::check(&register::beginning_with_zero(initial, ops)).map(|()| Verdict::Linearizable)
    }
}

#[cfg(test)]
mod tests;
