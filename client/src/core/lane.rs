//! The lane of one PG for reads or for writes: the parts that wait, and the pace at which the PG is tried. When it refuses,
//! one part at a time tries again, after a pause that doubles; when that one gets through, the others follow. So a PG
//! that is being reconfigured sees one request now and then, however much is waiting.

use super::ClientLimits;
use super::limits::Backoff;
use ashlar_types::{OpNumber, Tick};
use std::collections::BTreeSet;

/// Reads and writes don't share a lane: below `min_size` (R12) a PG takes the ones and not the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LaneId {
    /// The PG's index in the volume's pool.
    pub(super) pg: u32,
    pub(super) writes: bool,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Parts that aren't being done, lowest number first.
    pub(super) waiting: BTreeSet<OpNumber>,
    pub(super) gate: Gate,
    backoff: Backoff,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Gate {
    /// Parts go as they come.
    #[default]
    Open,
    /// Nothing goes until then; then one.
    Paused { until: Tick },
    /// One may go and find out.
    Probe,
    /// That one is being done. Refusals come at once, so no answer by `until` is none: a write may lawfully take long.
    Probing { number: OpNumber, until: Tick },
}

impl Lane {
    /// Whether a new part may go at once.
    pub(super) fn is_free(&self) -> bool {
        self.gate == Gate::Open && self.waiting.is_empty()
    }

    /// Takes in a part that isn't being done.
    pub(super) fn wait(&mut self, number: OpNumber) {
        self.waiting.insert(number);
    }

    /// A part that is no longer on its way: if the lane was waiting for it, another goes.
    pub(super) fn probe_lost(&mut self, part: OpNumber) {
        if matches!(self.gate, Gate::Probing { number, .. } if number == part) {
            self.gate = Gate::Probe;
        }
    }

    /// The PG refused a part. Several refusals of one burst are one reason to pause.
    pub(super) fn refused(&mut self, now: Tick, limits: &ClientLimits) {
        match self.gate {
            Gate::Paused { .. } | Gate::Probing { .. } => {}
            Gate::Open | Gate::Probe => {
                self.gate = Gate::Paused { until: now + self.backoff.pause(limits.retry_min, limits.retry_max) };
            }
        }
    }

    /// The PG answered a part.
    pub(super) fn answered(&mut self, part: OpNumber) {
        if matches!(self.gate, Gate::Probing { number, .. } if number == part) {
            self.gate = Gate::Open;
            self.backoff.reset();
        }
    }

    /// There is a new configuration: try it at once, all at once if it is the first that is known.
    pub(super) fn reconfigured(&mut self, first: bool) {
        self.gate = if first { Gate::Open } else { Gate::Probe };
        self.backoff.reset();
    }
}
