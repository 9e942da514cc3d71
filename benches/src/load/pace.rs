//! Sending at a rate: when each request is due, and something that wakes the sender then.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

const SECOND_NS: u64 = 1_000_000_000;
/// Requests that are due closer to each other go out together.
const TICK_NS_MIN: u64 = 50_000;
/// The end of a job is noticed at a tick.
const TICK_NS_MAX: u64 = 10_000_000;

/// Requests a second, evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub NonZeroU64);

impl Rate {
    /// After the beginning, when the nth request (from 0) is to be sent.
    pub fn due(self, nth: u64) -> Duration {
        let ns = u128::from(nth) * u128::from(SECOND_NS) / u128::from(self.0.get());
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    /// How many are to be sent in this time.
    pub fn requests(self, time: Duration) -> u64 {
        let requests = (time.as_nanos() * u128::from(self.0.get())).div_ceil(u128::from(SECOND_NS));
        u64::try_from(requests).unwrap_or(u64::MAX)
    }

    /// Between two ticks; requests are due at ticks as far as [`TICK_NS_MIN`] allows.
    fn tick(self) -> Duration {
        let between = SECOND_NS / self.0;
        Duration::from_nanos((between / between.div_ceil(TICK_NS_MAX).max(1)).max(TICK_NS_MIN))
    }
}

/// A thread that wakes a task at each tick, since the runtime's own timers are a millisecond coarse. It ends with this.
#[derive(Debug)]
pub struct Ticks {
    tick: Arc<Notify>,
}

impl Ticks {
    pub fn start(rate: Rate, begin: Instant) -> Ticks {
        let tick = Arc::new(Notify::new());
        let task = Arc::downgrade(&tick);
        std::thread::spawn(move || {
            // Without, each sleep is up to 50 us too long; then only that.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
            let mut next = begin;
            while let Some(tick) = task.upgrade() {
                tick.notify_one();
                drop(tick);
                // Ticks that were slept through are not made up for: one wakes for all that is due.
                let now = Instant::now();
                while next <= now {
                    next += rate.tick();
                }
                std::thread::sleep(next.duration_since(now));
            }
        });
        Ticks { tick }
    }

    /// Also one that came since the last was waited for.
    pub async fn next(&self) {
        self.tick.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u64) -> Rate {
        Rate(NonZeroU64::new(per_second).expect("not 0"))
    }

    #[test]
    fn requests_are_due_evenly_and_as_many_as_were_asked_for() {
        assert_eq!(rate(4).due(0), Duration::ZERO);
        assert_eq!(rate(4).due(6), Duration::from_millis(1500));
        assert_eq!(rate(4).requests(Duration::from_secs(3)), 12);
        assert_eq!(rate(4).requests(Duration::from_millis(10)), 1, "the first is due at once");
        assert_eq!(rate(u64::MAX).due(u64::MAX), Duration::from_secs(1), "nothing overflows");
    }

    #[test]
    fn requests_are_due_at_ticks_that_are_neither_long_nor_short() {
        assert_eq!(rate(1000).tick(), Duration::from_millis(1));
        assert_eq!(rate(10).tick(), Duration::from_millis(10));
        assert_eq!(rate(3).tick(), Duration::from_nanos(333_333_333 / 34));
        assert_eq!(rate(1_000_000).tick(), Duration::from_micros(50));
        assert_eq!(rate(u64::MAX).tick(), Duration::from_micros(50));
    }
}
