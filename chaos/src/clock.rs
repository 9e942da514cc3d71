//! The clocks of processes: each runs at its own rate (up to 200 ppm off) and may jump forward. Never backward, as
//! CLOCK_BOOTTIME never does.

use ashlar_types::Tick;

/// Simulated time in microseconds since the simulation began; no process can see it.
pub type Instant = u64;

pub const MS: u64 = 1_000;
pub const SECOND: u64 = 1_000_000;

#[derive(Clone, Debug)]
pub struct Clock {
    set_at: Instant,
    shown_then: u64,
    drift_ppm: i64,
}

impl Clock {
    pub fn new(shown_at_zero: u64, drift_ppm: i64) -> Clock {
        assert!(drift_ppm.abs() <= 1000, "a clock that is off by more than the design allows for");
        Clock { set_at: 0, shown_then: shown_at_zero, drift_ppm }
    }

    pub fn read(&self, now: Instant) -> Tick {
        let passed = i64::try_from(now.saturating_sub(self.set_at)).expect("a simulation is short");
        let shown = passed + passed * self.drift_ppm / 1_000_000;
        Tick(self.shown_then + u64::try_from(shown).expect("a clock does not run backward"))
    }

    /// When this clock will show `tick`, if it doesn't jump before.
    pub fn when(&self, now: Instant, tick: Tick) -> Instant {
        let Some(left) = tick.0.checked_sub(self.read(now).0) else { return now };
        // One more than exact, so that rounding never wakes a process before its time for ever.
        let left = i64::try_from(left.min(1 << 50)).expect("bounded above");
        now + u64::try_from(left - left * self.drift_ppm / 1_000_000).expect("drift is small") + 1
    }

    pub fn jump(&mut self, now: Instant, forward: u64) {
        let shown = self.read(now).0;
        *self = Clock { set_at: now, shown_then: shown + forward, drift_ppm: self.drift_ppm };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_clock_shows_a_tick_sooner() {
        let fast = Clock::new(500, 200);
        assert_eq!(fast.read(1_000_000), Tick(1_000_700));
        let when = fast.when(0, Tick(1_000_700));
        assert!((999_990..1_000_010).contains(&when), "{when}");
        assert!(fast.read(when) >= Tick(1_000_699));
    }

    #[test]
    fn a_jump_is_seen_at_once() {
        let mut clock = Clock::new(0, -200);
        clock.jump(1_000_000, 300);
        assert_eq!(clock.read(1_000_000), Tick(999_800 + 300));
    }
}
