//! Where the time of requests goes: a histogram for each stage, kept here, filled by the placement groups and by the shell.
//! Nothing of it is ever looked at by the core itself.
//!
//! The core knows the time at which each turn of the shell's loop began; the shell says when all of it is handled, with one more look at the
//! clock, before it gives to the kernel what leaves: whoever that wakes must not be able to have done something before it was asked.
//! M1: what comes (a request, a completion) comes at the beginning of its turn; what goes (an answer, an operation, a message) goes at the
//! end of its turn, but for answers that the shell sends before. So the time that this process works on a turn is in the stage that ends
//! with it, and not in what it waits for next.

mod stopwatch;

pub(crate) use stopwatch::{Job, Lap, Stopwatch};

use ashlar_types::perf::{PerfReport, Stage};
use ashlar_types::{Duration, Histogram, Tick};

/// Turns whose end is remembered. What began earlier has taken so long that the length of one turn tells nothing.
const TURNS: u64 = 256;
/// Requests that may wait for the end of their turn; with more, those that there are have ended.
const FINISHED_MAX: usize = 1024;
/// How often histograms are told at most.
const TELL: Duration = Duration::from_millis(1000);

/// When something began: at a time, or at the end of the turn that began then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    at: Tick,
    /// `NO_TURN` where it is not the end of one.
    turn: u64,
}

const NO_TURN: u64 = u64::MAX;

#[derive(Debug)]
pub struct Perf {
    histograms: Box<[Histogram; Stage::COUNT]>,
    /// Stages that were added to since they were last told, one bit each.
    changed: u32,
    tell_at: Tick,
    turn: u64,
    turn_began: Tick,
    /// Of the last turns, each at its number modulo `TURNS`.
    ends: Box<[Tick; TURNS as usize]>,
    messages: u64,
    /// Whether this turn had anything to do with I/O: a process that only keeps itself alive has nothing to tell.
    has_io: bool,
    finished: Vec<(Job, Stopwatch)>,
}

const _: () = assert!(Stage::COUNT <= u32::BITS as usize, "a bit for each stage");

impl Perf {
    pub fn new(now: Tick) -> Perf {
        Perf {
            histograms: Box::new(std::array::from_fn(|_| Histogram::default())),
            changed: 0,
            tell_at: now,
            turn: 0,
            turn_began: now,
            ends: Box::new([Tick(0); TURNS as usize]),
            messages: 0,
            has_io: false,
            finished: Vec::new(),
        }
    }

    /// A message has been received in the turn that began at `now`.
    pub(crate) fn on_message(&mut self, now: Tick) {
        self.turn_began = now;
        self.messages += 1;
        self.has_io = true;
    }

    /// What the present turn, which began at `now`, gives to others leaves at its end (M1).
    pub fn when_sent(&self, now: Tick) -> Moment {
        Moment { at: now, turn: self.turn }
    }

    /// An operation or an answer that was begun or asked for then is there in the turn that began at `now`.
    pub fn on_done(&mut self, stage: Stage, begun: Moment, now: Tick) {
        self.turn_began = now;
        self.has_io = true;
        let span = now - self.time_of(begun);
        self.add(stage, span.as_micros());
    }

    /// The answers that this turn has given so far leave, ahead of its end.
    pub fn on_answered(&mut self, now: Tick) {
        self.settle(now);
    }

    /// All of the turn is handled, and what it has given leaves. Whoever drives a core without saying so gets spans that are short by the time of turns.
    pub fn on_turn_end(&mut self, now: Tick) {
        self.ends[(self.turn % TURNS) as usize] = now;
        self.turn += 1;
        if !self.finished.is_empty() {
            self.settle(now);
        }
        if std::mem::take(&mut self.has_io) {
            self.add(Stage::TurnBusy, (now - self.turn_began).as_micros());
            self.add(Stage::TurnMessages, self.messages);
        }
        self.messages = 0;
    }

    /// What has changed since it was last told, each stage whole; nothing more often than each second.
    pub fn news(&mut self, now: Tick) -> Option<PerfReport> {
        if self.changed == 0 || now < self.tell_at {
            return None;
        }
        self.tell_at = now + TELL;
        let changed = std::mem::take(&mut self.changed);
        let stages = Stage::ALL.into_iter().filter(|stage| changed & bit(*stage) != 0);
        Some(stages.map(|stage| (stage, self.of(stage).clone())).collect())
    }

    /// What [`Perf::news`] gave was lost.
    pub fn on_news_lost(&mut self, news: &PerfReport) {
        self.changed |= news.keys().fold(0, |bits, stage| bits | bit(*stage));
    }

    /// Since the start.
    pub fn of(&self, stage: Stage) -> &Histogram {
        &self.histograms[stage as usize]
    }

    /// The request is answered; its last lap runs until the answer leaves.
    pub(crate) fn finish(&mut self, job: Job, watch: Stopwatch) {
        self.finished.push((job, watch));
        if self.finished.len() >= FINISHED_MAX {
            self.settle(self.turn_began);
        }
    }

    fn settle(&mut self, now: Tick) {
        let mut finished = std::mem::take(&mut self.finished);
        for (job, watch) in finished.drain(..) {
            watch.stop(job, self, now);
        }
        self.finished = finished;
    }

    #[inline]
    fn add(&mut self, stage: Stage, value: u64) {
        self.histograms[stage as usize].add(value);
        self.changed |= bit(stage);
    }

    fn time_of(&self, moment: Moment) -> Tick {
        // Neither the present turn nor one that is long gone.
        if moment.turn < self.turn && self.turn - moment.turn <= TURNS {
            self.ends[(moment.turn % TURNS) as usize].max(moment.at)
        } else {
            moment.at
        }
    }
}

fn bit(stage: Stage) -> u32 {
    1 << stage as u32
}

#[cfg(test)]
mod tests;
