//! What a write waits for between its being prepared and its answer.

use super::primary::InFlight;
use crate::perf::{Lap, Perf};
use ashlar_types::Tick;
use ashlar_types::perf::Stage;

impl InFlight {
    /// One of those who are awaited has it durable. The wait for this OSD's own store comes first; that for the others is what they take longer.
    pub(super) fn on_prepared(&mut self, is_own: bool, perf: &mut Perf, now: Tick) {
        let Some(watch) = &mut self.watch else { return };
        if !is_own {
            perf.on_done(Stage::PeerPrepare, self.sent, now);
        }
        if self.waiting.is_empty() {
            watch.come(Lap::Answer, perf, now);
        } else if is_own {
            watch.come(Lap::Members, perf, now);
        }
    }
}
