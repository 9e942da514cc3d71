//! Linearizability of a register whose writes all have different values, in O(n log n): Gibbons and Korach, "Testing
//! shared memories", SIAM J. Comput. 26 (1997), §4.2.
//!
//! The *zone* of a value reaches from the first answer to the last request among its write and its reads. If that is
//! forward in time, the register surely held the value throughout; two such zones must not overlap. Otherwise the operations
//! all fit on one moment between, which must not lie wholly inside another value's forward zone.

use super::Contradiction;
use super::register::{Access, RegisterOp, Value};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug)]
struct Cluster {
    write_invoked: Option<u64>,
    first_answer: u64,
    last_request: u64,
}

pub fn check(ops: &[RegisterOp]) -> Result<(), Contradiction> {
    let clusters = clusters(ops)?;
    let mut forward: Vec<(u64, u64, Value)> = clusters
        .iter()
        .filter(|(_, c)| c.first_answer < c.last_request)
        .map(|(value, c)| (c.first_answer, c.last_request, *value))
        .collect();
    forward.sort_unstable();
    for pair in forward.windows(2) {
        let [(_, end, a), (start, _, b)] = pair else { unreachable!("windows of two") };
        if start < end {
            let text = format!("{a:?} was there until {end}, but {b:?} was already there at {start}");
            return Err(Contradiction { at: *end, text });
        }
    }
    for (value, c) in clusters.iter().filter(|(_, c)| c.first_answer > c.last_request) {
        // The last forward zone that begins before this backward zone; they don't overlap, so only it can contain it.
        let before = forward.partition_point(|(start, _, _)| *start < c.last_request);
        let Some((start, end, holder)) = before.checked_sub(1).map(|i| forward[i]) else { continue };
        if c.first_answer < end {
            let (from, to) = (c.last_request, c.first_answer);
            let text = format!(
                "{value:?} took effect between {from} and {to}, but {holder:?} was there from {start} to {end}"
            );
            return Err(Contradiction { at: end, text });
        }
    }
    Ok(())
}

fn clusters(ops: &[RegisterOp]) -> Result<BTreeMap<Value, Cluster>, Contradiction> {
    let mut clusters = BTreeMap::new();
    // Zero was written before anything.
    clusters.insert(Value::ZERO, Cluster { write_invoked: Some(0), first_answer: 0, last_request: 0 });
    for op in ops {
        let (Access::Read(value) | Access::Write(value)) = op.access;
        let cluster =
            clusters.entry(value).or_insert(Cluster { write_invoked: None, first_answer: u64::MAX, last_request: 0 });
        cluster.first_answer = cluster.first_answer.min(op.until);
        cluster.last_request = cluster.last_request.max(op.invoked);
        if matches!(op.access, Access::Write(_)) {
            assert!(cluster.write_invoked.is_none(), "the workload wrote {value:?} twice");
            cluster.write_invoked = Some(op.invoked);
        }
    }
    for (value, cluster) in &clusters {
        match cluster.write_invoked {
            None => {
                let text = format!("{value:?} was read but never written here");
                return Err(Contradiction { at: cluster.first_answer, text });
            }
            Some(written) if cluster.first_answer < written => {
                let text = format!("{value:?} was read before {written}, when it was written");
                return Err(Contradiction { at: written, text });
            }
            Some(_) => {}
        }
    }
    Ok(clusters)
}
