//! Scrubs in the simulation: at random moments while things break, and of everything at the end.
//! What a scrub reports while things break may be incomplete only in one way: not at all. A mismatch is a finding at any time.

use super::{Phase, World};
use crate::aim::Aim;
use crate::clock::{Instant, SECOND};
use crate::net::ProcId;
use crate::rng::Rng;
use crate::run::Reason;
use ashlar_osd_core::Event;
use ashlar_types::OsdId;
use ashlar_types::control::ControlRequest;
use ashlar_types::scrub::ScrubTarget;
use ashlar_types::view::ClusterView;

/// By when everything is scrubbed, without faults and clients.
const SCRUB_TIME: Instant = 30 * SECOND;

#[derive(Debug)]
pub struct Scrubs {
    rng: Rng,
    /// How often one begins while things break, in thousandths of fault ticks.
    permille: u64,
    /// The number of the one of everything at the end.
    last: Option<u64>,
}

impl Scrubs {
    pub(super) fn new(mut rng: Rng, aim: Aim) -> Scrubs {
        let permille = match aim {
            // Its episodes begin them.
            Aim::Scrub => 0,
            Aim::BitRot => rng.between(0, 4),
            _ if rng.permille(300) => rng.between(1, 4),
            _ => 0,
        };
        Scrubs { rng, permille, last: None }
    }
}

impl World {
    /// An operator asks for one, or it is time at an OSD.
    pub(super) fn scrub_at_random(&mut self) {
        let permille = self.scrubs.permille;
        if !self.scrubs.rng.permille(permille) {
            return;
        }
        let deep = self.scrubs.rng.permille(500);
        if self.scrubs.rng.permille(500) {
            return self.start_scrub(deep);
        }
        let osds: Vec<OsdId> = self.osds.keys().copied().collect();
        let Some(osd) = self.scrubs.rng.choose(&osds).copied() else { return };
        let now = self.now;
        if self.process(ProcId::Osd(osd)).is_some_and(|p| p.is_up && p.paused_until <= now) {
            self.trace(|| format!("{osd}: time for a scrub"));
            self.step_osd(osd, Event::Scrub { deep });
        }
    }

    pub fn start_scrub(&mut self, deep: bool) {
        if self.is_operator_idle() {
            self.trace(|| format!("a scrub is asked for, deep: {deep}"));
            self.ask_as_operator(ControlRequest::ScrubStart { target: ScrubTarget::All, deep });
        }
    }

    pub fn cancel_scrubs(&mut self) {
        self.ask_as_operator(ControlRequest::ScrubCancel { target: ScrubTarget::All });
    }

    pub(super) fn on_scrub_wished(&mut self, number: u64) {
        if self.phase == Phase::Scrub {
            self.scrubs.last = Some(number);
        }
    }

    pub(super) fn begin_last_scrub(&mut self) {
        self.phase = Phase::Scrub;
        self.phase_until = self.now + SCRUB_TIME;
        self.start_scrub(true);
    }

    /// What the scrub of everything waits for.
    pub(super) fn unscrubbed(&self) -> Option<String> {
        let Some(last) = self.scrubs.last else { return Some("the last scrub is not wished for".to_owned()) };
        let is_missing = |pg: &_| self.truth.scrubs.get(pg).is_none_or(|scrub| scrub.done() < last);
        let missing: Vec<_> = self.truth.pgs.keys().filter(|pg| is_missing(pg)).collect();
        let first = missing.first()?;
        Some(format!(
            "{} PGs are not scrubbed {} s after the last request, {first} is one",
            missing.len(),
            SCRUB_TIME / SECOND
        ))
    }

    /// Copies never differ, whatever breaks.
    pub(super) fn judge_scrubs(&mut self, news: &ClusterView) {
        for (pg, scrub) in news.scrubs.iter().filter(|(_, scrub)| scrub.mismatches() > 0) {
            self.fail(Reason::Stores(format!("the scrub of {pg} found {:?}", scrub.last)));
        }
    }

    /// Nothing is damaged any more when everything was read.
    pub(super) fn judge_last_scrub(&mut self) {
        let left = self.truth.scrubs.iter().find(|(_, scrub)| scrub.unrepaired_blocks() > 0);
        if let Some((pg, scrub)) = left {
            let text = format!("the last scrub of {pg} left damage: {:?}", scrub.last_deep);
            self.fail(Reason::Stores(text));
        }
    }
}
