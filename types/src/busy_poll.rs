//! Adaptive busy polling: whether a thread that has nothing to do looks for news for a while before it sleeps.
//!
//! Sleeping costs more than the sleeper's time: a processor that has gone idle is slow to come back, most of all a virtual one, and whoever
//! wakes it pays for the interrupt. So as long as news comes a moment after the last, it is looked for; where it doesn't, nothing is.
//! Where that was measured: docs/performance.md.

use crate::{Duration, Tick};

/// One thread's (or task's) decision. It reads no clock: who slept says how long it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusyPoll {
    /// Of the last sleeps, those that were short in a row; a long one takes [`SHORT_SLEEPS_MIN`] away.
    short_sleeps: u32,
    /// Until then others need the processor.
    off_until: Tick,
}

/// Short sleeps in a row before news is looked for. Twice as many are remembered, so that one long sleep among short ones changes nothing.
const SHORT_SLEEPS_MIN: u32 = 4;

/// Less than a time slice of the system's, more than a batch of requests takes.
const SLICE: Duration = Duration::from_micros(1500);
/// For how long nothing is looked for then.
const OFF: Duration = Duration::from_millis(200);

impl BusyPoll {
    /// For how long news is looked for before the thread sleeps: longer than a device or a peer nearby takes to answer.
    pub const SPAN: Duration = Duration::from_micros(200);

    /// Whether to look now.
    pub fn is_on(&self, now: Tick) -> bool {
        self.short_sleeps >= SHORT_SLEEPS_MIN && now >= self.off_until
    }

    /// While news was looked for, others had the processor for this long at once. Neither the kernel nor another process of the data path
    /// takes it for a time slice: somebody computes there, so the processor is awake, and who sleeps gets it sooner than who yields.
    pub fn on_yielded(&mut self, now: Tick, others: Duration) {
        if others >= SLICE {
            self.off_until = now + OFF;
        }
    }

    /// News has come after the thread has slept this long; zero if it was found awake.
    pub fn on_news(&mut self, slept: Duration) {
        self.short_sleeps = if slept <= Self::SPAN {
            (self.short_sleeps + 1).min(2 * SHORT_SLEEPS_MIN)
        } else {
            self.short_sleeps.saturating_sub(SHORT_SLEEPS_MIN)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(20);
    const LONG: Duration = Duration::from_millis(3);
    const NOW: Tick = Tick(1_000_000);

    fn after(sleeps: &[Duration]) -> BusyPoll {
        let mut poll = BusyPoll::default();
        sleeps.iter().for_each(|slept| poll.on_news(*slept));
        poll
    }

    #[test]
    fn begins_when_news_comes_in_quick_succession() {
        assert!(!after(&[]).is_on(NOW));
        assert!(!after(&[SHORT; 3]).is_on(NOW));
        assert!(after(&[SHORT; 4]).is_on(NOW));
    }

    #[test]
    fn one_long_sleep_in_a_busy_time_changes_nothing() {
        let mut poll = after(&[SHORT; 100]);
        poll.on_news(LONG);
        assert!(poll.is_on(NOW));
    }

    #[test]
    fn ends_when_nothing_more_comes() {
        let mut poll = after(&[SHORT; 100]);
        poll.on_news(LONG);
        poll.on_news(LONG);
        assert!(!poll.is_on(NOW));
    }

    #[test]
    fn never_begins_where_news_is_far_between() {
        assert!(
            (0..1000)
                .scan(BusyPoll::default(), |poll, _| {
                    poll.on_news(LONG);
                    Some(!poll.is_on(NOW))
                })
                .all(|is_off| is_off)
        );
    }

    #[test]
    fn pauses_where_somebody_computes_and_comes_back_by_itself() {
        let mut poll = after(&[SHORT; 100]);
        poll.on_yielded(NOW, Duration::from_micros(300));
        assert!(poll.is_on(NOW), "others of the data path");
        poll.on_yielded(NOW, LONG);
        assert!(!poll.is_on(NOW) && !poll.is_on(NOW + Duration::from_millis(199)));
        assert!(poll.is_on(NOW + OFF));
    }
}
