//! Time as cores see it: a number handed in by the shell.

use serde::{Deserialize, Serialize};
use std::ops::{Add, Sub};

/// A point of one process's clock, in microseconds. Shells read `CLOCK_BOOTTIME` (it goes on while a machine sleeps, which
/// leases need, R5); the simulator makes it up. Ticks of two processes are never compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tick(pub u64);

/// A span of time in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Duration(pub u64);

impl Duration {
    pub const ZERO: Duration = Duration(0);

    pub const fn from_micros(us: u64) -> Duration {
        Duration(us)
    }

    pub const fn from_millis(ms: u64) -> Duration {
        Duration(ms * 1000)
    }

    pub const fn as_micros(self) -> u64 {
        self.0
    }
}

impl Tick {
    /// The first time from this one on that is a multiple of `raster`, which is not 0.
    #[must_use]
    pub fn up_to_multiple_of(self, raster: Duration) -> Tick {
        Tick(self.0.checked_next_multiple_of(raster.0).unwrap_or(u64::MAX))
    }
}

impl Add<Duration> for Tick {
    type Output = Tick;
    fn add(self, span: Duration) -> Tick {
        Tick(self.0.saturating_add(span.0))
    }
}

impl Sub<Tick> for Tick {
    type Output = Duration;
    /// Zero where the other is later.
    fn sub(self, earlier: Tick) -> Duration {
        Duration(self.0.saturating_sub(earlier.0))
    }
}
