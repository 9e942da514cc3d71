//! The daemon's clock: CLOCK_BOOTTIME, which goes on while the machine sleeps, as leases need (R5).

use ashlar_types::Tick;

/// When this machine started, in seconds since 1970, as far as its clock knows now.
pub(crate) fn unix_at_tick_0() -> u64 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since_1970.as_secs().saturating_sub(now().0 / 1_000_000)
}

pub(crate) fn now() -> Tick {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).expect("time since boot is positive");
    Tick(seconds * 1_000_000 + u64::try_from(time.tv_nsec).expect("nanoseconds are positive") / 1000)
}
