//! What is known of the snapshots of a history (C4): when each was made, what was read of it, and whether all of that could have been there at
//! one moment; the snapshots of a group together. That each single sector could, is checked with the other accesses of its register.

use super::history::{OpRef, SECTORS_PER_BLOCK, Violation};
use super::register::Value;
use std::collections::BTreeMap;

/// A snapshot of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotRef(usize);

#[derive(Clone, Debug)]
struct Snapshot {
    volume: u32,
    /// The first of those that were taken at the same moment.
    group: usize,
    asked: u64,
    /// `None`: it isn't known to be there.
    made: Option<u64>,
    /// By sector, with the read that saw it first.
    seen: BTreeMap<u64, (Value, OpRef)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Snapshots {
    all: Vec<Snapshot>,
}

/// A write of one sector.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub value: Value,
    pub invoked: u64,
    pub answered: Option<u64>,
}

impl Snapshots {
    pub(super) fn begin(&mut self, volumes: &[u32], asked: u64) -> Vec<SnapshotRef> {
        let group = self.all.len();
        self.all.extend(volumes.iter().map(|v| Snapshot {
            volume: *v,
            group,
            asked,
            made: None,
            seen: BTreeMap::new(),
        }));
        (group..self.all.len()).map(SnapshotRef).collect()
    }

    pub(super) fn end(&mut self, snapshot: SnapshotRef, made: u64) {
        self.all[snapshot.0].made.get_or_insert(made);
    }

    pub(super) fn volume(&self, snapshot: SnapshotRef) -> u32 {
        self.all[snapshot.0].volume
    }

    /// What a sector of it holds, as far as anybody has seen it.
    pub(super) fn seen(&self, snapshot: SnapshotRef, sector: u64) -> Option<Value> {
        self.all[snapshot.0].seen.get(&sector).map(|(value, _)| *value)
    }

    pub(super) fn count(&self) -> u64 {
        self.all.iter().filter(|s| s.made.is_some()).count() as u64
    }

    /// Between these positions its moment was.
    pub(super) fn window(&self, snapshot: SnapshotRef, now: u64) -> (u64, u64) {
        let of = &self.all[snapshot.0];
        (of.asked, of.made.unwrap_or(now))
    }

    /// Takes down what a read saw; what it saw otherwise before is a violation.
    pub(super) fn see(&mut self, snapshot: SnapshotRef, op: OpRef, first: u64, seen: &[Value]) -> Vec<Violation> {
        let of = &mut self.all[snapshot.0];
        let mut violations = Vec::new();
        for (sector, value) in (first..).zip(seen) {
            let (before, by) = *of.seen.entry(sector).or_insert((*value, op));
            if before != *value {
                let reason = format!(
                    "C4: snapshot {}: sector {sector} was {before:?} for operation {} and {value:?} for operation {}",
                    snapshot.0, by.0, op.0
                );
                violations.push(Violation { volume: of.volume, block: sector / SECTORS_PER_BLOCK, reason });
            }
        }
        violations
    }

    /// Whether there is one moment for all sectors of each snapshot, or group of them: not before any of what they hold was asked for, and not
    /// after the end of something that surely replaced it.
    pub(super) fn check_cuts(&self, written: &BTreeMap<(u32, u64), Vec<Written>>) -> Vec<Violation> {
        let groups = self.all.chunk_by(|one, next| one.group == next.group);
        groups.filter_map(|group| check_cut(group, written)).collect()
    }
}

fn check_cut(group: &[Snapshot], written: &BTreeMap<(u32, u64), Vec<Written>>) -> Option<Violation> {
    let first = group.first()?;
    // While one of a group is not there, what is written to its volume may still come into it.
    let made = group.iter().map(|of| of.made.unwrap_or(u64::MAX)).max()?;
    let (mut earliest, mut latest) = ((first.asked, None), (made, None));
    for of in group {
        for (sector, (value, _)) in of.seen.iter().filter(|(_, (value, _))| *value != Value::ZERO) {
            let place = (of.volume, *sector);
            let writes = written.get(&place).map_or(&[][..], Vec::as_slice);
            let Some(it) = writes.iter().find(|w| w.value == *value) else { continue };
            if it.invoked > earliest.0 {
                earliest = (it.invoked, Some(place));
            }
            let surely_later = writes.iter().filter(|w| it.answered.is_some_and(|end| w.invoked > end));
            for end in surely_later.filter_map(|w| w.answered) {
                if end < latest.0 {
                    latest = (end, Some(place));
                }
            }
        }
    }
    if earliest.0 <= latest.0 {
        return None;
    }
    let (volume, sector) = earliest.1.or(latest.1).unwrap_or_default();
    let reason = format!(
        "C4: snapshots {}.. hold in volume and sector {:?} what was asked at {}, and in {:?} what was replaced by {}",
        first.group, earliest.1, earliest.0, latest.1, latest.0
    );
    Some(Violation { volume, block: sector / SECTORS_PER_BLOCK, reason })
}

#[cfg(test)]
mod tests {
    use super::super::{ClientNumber, History, OpKind};
    use super::*;

    const CLIENT: ClientNumber = ClientNumber(1);

    fn write(history: &mut History, block: u64) -> (OpRef, Vec<u8>) {
        write_to(history, 0, block)
    }

    fn write_to(history: &mut History, volume: u32, block: u64) -> (OpRef, Vec<u8>) {
        let op = history.invoke(CLIENT, OpKind::Write, volume, block * SECTORS_PER_BLOCK, SECTORS_PER_BLOCK);
        let bytes = history.payload(op);
        history.answer(op);
        (op, bytes)
    }

    fn read(history: &mut History, of: SnapshotRef, block: u64, bytes: &[u8]) {
        let op = history.invoke_snapshot_read(CLIENT, of, block * SECTORS_PER_BLOCK, SECTORS_PER_BLOCK);
        history.answer_read(op, bytes);
    }

    fn made(history: &mut History) -> SnapshotRef {
        let of = history.begin_snapshot(0);
        history.end_snapshot(of);
        of
    }

    #[test]
    fn what_was_there_when_it_was_made_is_right_however_late_it_is_read() {
        let mut history = History::default();
        let (_, before) = write(&mut history, 0);
        let of = made(&mut history);
        write(&mut history, 0);
        read(&mut history, of, 0, &before);
        assert!(history.check().is_ok());
    }

    #[test]
    fn a_later_write_in_it_is_found() {
        let mut history = History::default();
        write(&mut history, 0);
        let of = made(&mut history);
        let (_, after) = write(&mut history, 0);
        read(&mut history, of, 0, &after);
        assert!(history.check().is_err());
    }

    #[test]
    fn an_earlier_write_that_is_not_in_it_is_found() {
        let mut history = History::default();
        let (_, old) = write(&mut history, 0);
        write(&mut history, 0);
        let of = made(&mut history);
        read(&mut history, of, 0, &old);
        assert!(history.check().is_err());
    }

    #[test]
    fn a_snapshot_that_changes_is_found() {
        let mut history = History::default();
        let of = history.begin_snapshot(0);
        let (_, bytes) = write(&mut history, 0);
        history.end_snapshot(of);
        read(&mut history, of, 0, &bytes);
        assert!(history.check().is_ok());
        read(&mut history, of, 0, &vec![0; bytes.len()]);
        assert!(history.check().is_err());
    }

    /// The second write was asked for when the first one was answered: whoever has the second has the first.
    #[test]
    fn a_snapshot_of_two_moments_is_found() {
        let mut history = History::default();
        let (_, old) = write(&mut history, 0);
        let of = history.begin_snapshot(0);
        write(&mut history, 0);
        let (_, late) = write(&mut history, 1);
        history.end_snapshot(of);
        read(&mut history, of, 1, &late);
        assert!(history.check().is_ok());
        read(&mut history, of, 0, &old);
        let found = history.check().expect_err("two moments");
        assert!(found.iter().any(|v| v.reason.contains("C4")), "{found:?}");
    }

    /// The same, where the first write went to another volume: of two single snapshots that says nothing.
    #[test]
    fn a_group_of_two_moments_is_found() {
        for is_group in [false, true] {
            let mut history = History::default();
            let (_, old) = write_to(&mut history, 0, 0);
            let of = match is_group {
                true => history.begin_snapshots(&[0, 1]),
                false => vec![history.begin_snapshot(0), history.begin_snapshot(1)],
            };
            write_to(&mut history, 0, 0);
            history.end_snapshot(of[0]);
            let (_, late) = write_to(&mut history, 1, 0);
            history.end_snapshot(of[1]);
            read(&mut history, of[1], 0, &late);
            assert!(history.check().is_ok());
            read(&mut history, of[0], 0, &old);
            assert_eq!(history.check().is_err(), is_group);
        }
    }
}
