//! Scrubs: what is wished, and what was found last. The metadata service starts and judges nothing: the primary of a PG sees the wish in the
//! view, and whoever is primary then fulfils it.
//! C1: a wish has a higher number than any report of its PG; a report of its number or a higher one takes it away.

use super::{ClusterState, Outcome, Revised, changed, invalid, not_found};
use ashlar_types::control::{ControlError, ControlReply};
use ashlar_types::scrub::{PgScrub, ScrubReport, ScrubTarget, ScrubWish};
use ashlar_types::{Epoch, OsdId, PgId, Revision};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Scrubs {
    last_number: u64,
    pgs: BTreeMap<PgId, Revised<PgScrub>>,
}

impl Scrubs {
    pub(super) fn since(&self, revision: Revision) -> BTreeMap<PgId, PgScrub> {
        changed(&self.pgs, revision, PgScrub::clone)
    }
}

impl ClusterState {
    pub(super) fn scrub_start(&mut self, target: &ScrubTarget, deep: bool) -> Outcome {
        let pgs = self.pgs_to_scrub(target)?;
        if pgs.is_empty() {
            return Ok(ControlReply::Scrub { number: self.scrubs.last_number, pgs });
        }
        self.scrubs.last_number += 1;
        let number = self.scrubs.last_number;
        for pg in &pgs {
            let before = self.scrubs.pgs.get(pg).map(|s| s.value).unwrap_or_default();
            // Who wished for a deep one before still gets it.
            let deep = deep || before.wish.is_some_and(|wish| wish.deep);
            self.set_scrub(*pg, PgScrub { wish: Some(ScrubWish { number, deep }), ..before });
        }
        Ok(ControlReply::Scrub { number, pgs })
    }

    pub(super) fn scrub_cancel(&mut self, target: &ScrubTarget) -> Outcome {
        let mut pgs = self.pgs_to_scrub(target)?;
        pgs.retain(|pg| self.scrubs.pgs.get(pg).is_some_and(|s| s.value.wish.is_some()));
        for pg in &pgs {
            let before = self.scrubs.pgs[pg].value;
            self.set_scrub(*pg, PgScrub { wish: None, ..before });
        }
        Ok(ControlReply::Scrub { number: self.scrubs.last_number, pgs })
    }

    /// Only of the present epoch: in an older one other members were compared, and its primary may not know that it was replaced.
    pub(super) fn scrub_done(&mut self, pg: PgId, epoch: Epoch, from: OsdId, report: ScrubReport) -> Outcome {
        let config = &self.pgs.get(&pg).ok_or_else(|| not_found("placement group", pg))?.value;
        if config.epoch != epoch {
            return Err(ControlError::WrongEpoch { pg, request: epoch, current: config.epoch });
        }
        if config.primary != Some(from) {
            return Err(invalid(format!("{from} is not the primary of {pg} at {epoch}")));
        }
        if report.number == 0 || report.number > self.scrubs.last_number {
            return Err(invalid(format!("nobody has asked for scrub {}", report.number)));
        }
        let before = self.scrubs.pgs.get(&pg).map(|s| s.value).unwrap_or_default();
        if report.number <= before.done() {
            return self.unchanged();
        }
        if before.wish.is_some_and(|wish| wish.number == report.number && wish.deep && !report.deep) {
            return Err(invalid(format!("scrub {} of {pg} has to be a deep one", report.number)));
        }
        let wish = before.wish.filter(|wish| wish.number > report.number);
        let last_deep = if report.deep { Some(report) } else { before.last_deep };
        self.set_scrub(pg, PgScrub { wish, last: Some(report), last_deep });
        self.done()
    }

    fn set_scrub(&mut self, pg: PgId, value: PgScrub) {
        let modified = self.touch_view();
        self.scrubs.pgs.insert(pg, Revised { modified, value });
    }

    fn pgs_to_scrub(&self, target: &ScrubTarget) -> Result<Vec<PgId>, ControlError> {
        let configs = self.pgs.values().map(|pg| &pg.value);
        Ok(match target {
            ScrubTarget::All => self.pgs.keys().copied().collect(),
            ScrubTarget::Pool(name) => {
                let mut pools = self.pools.values().map(|pool| &pool.value.info);
                let pool = pools.find(|pool| pool.name == *name).ok_or_else(|| not_found("pool", name))?.id;
                configs.map(|config| config.pg).filter(|pg| pg.pool == pool).collect()
            }
            ScrubTarget::Osd(osd) if !self.osds.contains_key(osd) => return Err(not_found("OSD", osd)),
            ScrubTarget::Osd(osd) => configs.filter(|c| c.is_member(*osd)).map(|c| c.pg).collect(),
            ScrubTarget::Pgs(pgs) => {
                let wanted: BTreeSet<PgId> = pgs.iter().copied().collect();
                match wanted.iter().find(|pg| !self.pgs.contains_key(pg)) {
                    Some(unknown) => return Err(not_found("placement group", unknown)),
                    None => wanted.into_iter().collect(),
                }
            }
        })
    }

    pub(super) fn assert_scrubs(&self) {
        for (pg, scrub) in &self.scrubs.pgs {
            let PgScrub { wish, last, last_deep } = scrub.value;
            assert!(self.pgs.contains_key(pg), "C1: what is scrubbed exists");
            assert!(scrub.modified <= self.view_revision, "the scrub of {pg} is in the view");
            let numbers = wish.map(|w| w.number).into_iter().chain(last.map(|r| r.number));
            assert!(numbers.max().unwrap_or(0) <= self.scrubs.last_number, "C1: numbers rise");
            assert!(wish.is_none_or(|w| w.number > scrub.value.done()), "C1: a fulfilled wish is gone");
            assert!(last_deep.is_none_or(|r| r.deep && r.number <= scrub.value.done()), "C1: the last is the last");
        }
    }
}
