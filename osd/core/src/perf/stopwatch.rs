//! The laps of one request. They add up to the whole, since each begins where the one before it ended.

use super::{Moment, NO_TURN, Perf};
use ashlar_types::perf::Stage;
use ashlar_types::{Duration, Tick};

/// What is measured as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    Write,
    Read,
    /// A prepare at a member.
    Member,
}

/// What a request is doing or waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lap {
    /// Until its operations and messages leave: what stands in its way, old contents of its blocks, space; and the work itself.
    Admit,
    Lease,
    /// This OSD's own store.
    Store,
    /// The other members, after the own store.
    Members,
    /// Until the answer leaves.
    Answer,
}

const LAPS: usize = 5;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch {
    lap: Lap,
    /// The lap before it, to which the rest of the turn belongs at whose end this one began.
    before: Lap,
    since: Moment,
    /// Microseconds of each so far; more than an hour is an hour.
    laps: [u32; LAPS],
}

impl Stopwatch {
    /// Has been received in the turn that began at `now`.
    pub(crate) fn start(now: Tick) -> Stopwatch {
        Stopwatch { lap: Lap::Admit, before: Lap::Admit, since: Moment { at: now, turn: NO_TURN }, laps: [0; LAPS] }
    }

    /// The next lap begins with what has come in the turn that began at `now`.
    pub(crate) fn come(&mut self, next: Lap, perf: &Perf, now: Tick) {
        let begun = perf.time_of(self.since);
        self.add(self.before, begun - self.since.at);
        self.add(self.lap, now - begun);
        (self.before, self.lap) = (self.lap, next);
        self.since = Moment { at: now.max(begun), turn: NO_TURN };
    }

    /// The next lap begins when what this turn gives leaves (M1).
    pub(crate) fn go(&mut self, next: Lap, perf: &Perf, now: Tick) {
        self.come(next, perf, now);
        self.since = perf.when_sent(self.since.at);
    }

    fn add(&mut self, lap: Lap, span: Duration) {
        let micros = u32::try_from(span.as_micros()).unwrap_or(u32::MAX);
        let lap = &mut self.laps[lap as usize];
        *lap = lap.saturating_add(micros);
    }

    pub(super) fn stop(mut self, job: Job, perf: &mut Perf, now: Tick) {
        self.come(self.lap, perf, now);
        let [admit, lease, store, members, answer] = self.laps.map(u64::from);
        match job {
            Job::Write => {
                perf.add(Stage::Write, admit + store + members + answer);
                perf.add(Stage::WriteAdmit, admit);
                perf.add(Stage::WriteStore, store);
                perf.add(Stage::WriteMembers, members);
                perf.add(Stage::WriteAnswer, answer);
            }
            Job::Read => {
                perf.add(Stage::Read, admit + lease + store + answer);
                perf.add(Stage::ReadAdmit, admit);
                perf.add(Stage::ReadLease, lease);
                perf.add(Stage::ReadStore, store);
                perf.add(Stage::ReadAnswer, answer);
            }
            Job::Member => {
                perf.add(Stage::Member, admit + store + answer);
                perf.add(Stage::MemberAdmit, admit);
                perf.add(Stage::MemberStore, store);
                perf.add(Stage::MemberAnswer, answer);
            }
        }
    }
}
