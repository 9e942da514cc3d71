//! Barriers are passed PG by PG, and told OSD by OSD; an entry for each teller would be an entry and a change of the view one after the
//! other for each OSD, and whoever waits for the barrier waits for the last. So the leader keeps in memory what it is told, until all that a
//! barrier waits for has been told, or until its next tick.
//! N5: what is told here is answered before it is committed, and may be forgotten with the lead: an OSD tells it again while the view still
//! waits for it.

use super::{MetadataNode, NodeAction};
use crate::state::Command;
use ashlar_types::PgId;
use ashlar_types::control::{ControlReply, ControlRequest};
use std::collections::{BTreeMap, BTreeSet};

/// By barrier; only PGs that the state waits for, so it is no larger than what the state has.
#[derive(Default)]
pub(super) struct Passes(BTreeMap<u64, BTreeSet<PgId>>);

impl MetadataNode {
    pub(super) fn on_barrier_passed(&mut self, id: u64, barrier: u64, pgs: &[PgId], actions: &mut Vec<NodeAction>) {
        if let Some(awaited) = self.state.barrier_waits_for(barrier) {
            let told = self.passes.0.entry(barrier).or_default();
            // They are in order from the barrier's beginning.
            told.extend(pgs.iter().filter(|pg| awaited.binary_search(pg).is_ok()));
            if awaited.iter().all(|pg| told.contains(pg)) {
                let told = self.passes.0.remove(&barrier).unwrap_or_default();
                self.propose_passed(barrier, told);
            }
        }
        let revision = self.state.view_revision();
        self.reply(id, Ok(ControlReply::Done { revision }), actions);
    }

    /// Someone is late: what the others have passed stays passed if they or this leader die, and `status` names him alone.
    pub(super) fn propose_early_passes(&mut self) {
        for (barrier, told) in std::mem::take(&mut self.passes.0) {
            if !told.is_empty() {
                self.propose_passed(barrier, told);
            }
        }
    }

    fn propose_passed(&mut self, barrier: u64, pgs: BTreeSet<PgId>) {
        let pgs = pgs.into_iter().collect();
        self.propose_own(Command::Request(ControlRequest::BarrierPassed { barrier, pgs }));
    }
}
