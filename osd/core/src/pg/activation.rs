//! R4: before a primary serves an epoch, every in-sync member has promised it and reported, and what was undecided is decided
//! and durable at all of them.
//!
//! A1: a write committed at any in-sync member is kept.
//! A2: an undecided one is kept if every in-sync member has its record and one has its data good.
//! A3: below `min_size` what is kept stays undecided (R12).
//! A4: a member that lost something durable never vetoes: it is taken out of `in_sync` first, unless it is the last.
//!
//! The floor plays no part in A2: a write that every in-sync member holds may have been acknowledged, to whomever
//! (docs/decisions/020-floor-does-not-veto.md).

use super::primary::Primary;
use super::{Pending, Pg, Role, promised};
use crate::env::Env;
use crate::policy::Policy;
use crate::store::api::StoreOp;
use ashlar_types::control::PgChange;
use ashlar_types::view::Fences;
use ashlar_types::{ChunkId, Duration, Epoch, IdSet, LayerId, OsdId, Tick, Version};
use ashlar_wire::{Decide, Decision, Message, Outcome, Promise, PromiseReply, Report, ReportedChunk};
use std::collections::{BTreeMap, BTreeSet};

/// How long a member that the metadata service takes for up may leave a promise or a decision unanswered before its removal is asked for.
/// Longer than a withheld promise (R5) and the detection of a dead process together.
const PATIENCE: Duration = Duration::from_millis(1500);

#[derive(Debug)]
enum Stage {
    /// This OSD's own promise, withheld or being written.
    OwnPromise {
        submitted: bool,
    },
    Promises {
        undecided: Vec<ChunkId>,
        reports: BTreeMap<OsdId, Report>,
    },
    Decisions {
        decide: Decide,
        missing: BTreeSet<OsdId>,
    },
    /// Waits for a configuration without a damaged member, or with another primary.
    Stuck {
        change: PgChange,
    },
}

#[derive(Debug)]
pub(super) struct Activation {
    epoch: Epoch,
    since: Tick,
    wake_at: Tick,
    stage: Stage,
}

impl Pg {
    pub(super) fn begin_activation<P: Policy>(&mut self, env: &mut Env<P>) {
        let epoch = self.config.epoch;
        let stage = Stage::OwnPromise { submitted: false };
        self.role = Role::Activating(Box::new(Activation { epoch, since: env.now, wake_at: Tick(0), stage }));
        self.joining = None;
        for member in self.others_in_sync(env) {
            env.want_link(self.id, member);
        }
        self.drive_activation(env);
    }

    pub(super) fn others_in_sync<P: Policy>(&self, env: &Env<P>) -> Vec<OsdId> {
        let me = env.me();
        self.config.in_sync.iter().copied().filter(|m| *m != me).collect()
    }

    /// Goes on where an activation waits for time or for others.
    pub(super) fn drive_activation<P: Policy>(&mut self, env: &mut Env<P>) {
        let Role::Activating(activation) = &mut self.role else { return };
        let epoch = activation.epoch;
        match &mut activation.stage {
            Stage::OwnPromise { submitted: true } => {}
            Stage::OwnPromise { submitted } => {
                let promise = Promise { config: self.config.clone(), undecided: vec![] };
                *submitted = true;
                if epoch > promised(env, self.id) && self.withhold_own(promise, env) {
                    if let Role::Activating(activation) = &mut self.role {
                        activation.stage = Stage::OwnPromise { submitted: false };
                    }
                    return;
                }
                env.credit.begin_epoch(self.id, epoch);
                env.store(self.id, StoreOp::Promise { pg: self.id, epoch }, Pending::OwnPromise { epoch });
            }
            Stage::Promises { reports, .. } => {
                let missing: Vec<_> =
                    self.config.in_sync.iter().copied().filter(|m| !reports.contains_key(m)).collect();
                self.lose_patience(missing, env);
            }
            Stage::Decisions { missing, .. } => {
                let missing = missing.iter().copied().collect();
                self.lose_patience(missing, env);
            }
            Stage::Stuck { change } => {
                let change = *change;
                env.ask(self.id, epoch, change);
            }
        }
    }

    /// R2: only the metadata service takes out a member that does not answer.
    fn lose_patience<P: Policy>(&mut self, missing: Vec<OsdId>, env: &mut Env<P>) {
        let Role::Activating(activation) = &self.role else { return };
        let (since, epoch, me) = (activation.since, activation.epoch, env.me());
        let missing: Vec<OsdId> = missing.into_iter().filter(|m| *m != me).collect();
        for member in &missing {
            env.want_link(self.id, *member);
        }
        if since + PATIENCE <= env.now
            && let Some(change) = self.without(&missing, env)
        {
            env.ask(self.id, epoch, change);
            return;
        }
        if let Role::Activating(activation) = &mut self.role
            && activation.wake_at <= env.now
        {
            activation.wake_at = (since + PATIENCE).max(env.now + Duration::from_millis(100));
            env.wake(self.id, activation.wake_at);
        }
    }

    pub(super) fn on_own_promise<P: Policy>(&mut self, epoch: Epoch, env: &mut Env<P>) {
        let mine = self.report(&[], env);
        let others = self.others_in_sync(env);
        let Role::Activating(activation) = &mut self.role else { return };
        if activation.epoch != epoch || !matches!(activation.stage, Stage::OwnPromise { .. }) {
            return;
        }
        if mine.damaged && !others.is_empty() {
            activation.stage = Stage::Stuck { change: PgChange::Resign };
            self.drive_activation(env);
            return;
        }
        let undecided: Vec<_> = mine.chunks.iter().map(|c| c.chunk).collect();
        activation.stage = Stage::Promises { undecided, reports: BTreeMap::from([(env.me(), mine)]) };
        activation.since = env.now;
        for member in others {
            self.resend_activation(member, env);
        }
        env.wake_in(self.id, PATIENCE);
        self.decide_if_all_reported(env);
    }

    /// Sends a member what it has not answered.
    pub(super) fn resend_activation<P: Policy>(&mut self, member: OsdId, env: &mut Env<P>) {
        let Role::Activating(activation) = &self.role else { return };
        if !self.config.is_in_sync(member) || member == env.me() {
            return;
        }
        match &activation.stage {
            Stage::Promises { undecided, reports } if !reports.contains_key(&member) => {
                let promise = Promise { config: self.config.clone(), undecided: undecided.clone() };
                env.send(self.id, member, Message::Promise(promise));
            }
            Stage::Decisions { decide, missing } if missing.contains(&member) => {
                env.send(self.id, member, Message::Decide(decide.clone()));
            }
            _ => {}
        }
    }

    pub(crate) fn on_promise_reply<P: Policy>(&mut self, from: OsdId, reply: PromiseReply, env: &mut Env<P>) {
        let Role::Activating(activation) = &mut self.role else { return };
        if activation.epoch != reply.epoch || !self.config.is_in_sync(from) {
            return;
        }
        let Stage::Promises { reports, .. } = &mut activation.stage else { return };
        match (reply.outcome, reply.report) {
            (Outcome::Ok, Some(report)) => {
                reports.insert(from, report);
                self.decide_if_all_reported(env);
            }
            // It waits for a lease to run out, which is no reason to lose patience with it.
            (Outcome::NotYet, _) => activation.since = env.now,
            // A higher epoch exists; the view will tell.
            _ => {}
        }
    }

    fn decide_if_all_reported<P: Policy>(&mut self, env: &mut Env<P>) {
        let me = env.me();
        let Role::Activating(activation) = &mut self.role else { return };
        let Stage::Promises { reports, .. } = &mut activation.stage else { return };
        if P::SKIP_RECONCILE {
            reports.retain(|member, _| *member == me);
        } else if reports.len() < self.config.in_sync.len() {
            return;
        }
        if !P::DAMAGED_TAIL_VETOES
            && let Some((member, _)) = reports.iter().find(|(m, r)| **m != me && r.damaged)
        {
            activation.stage = Stage::Stuck { change: PgChange::Remove(*member) };
            self.drive_activation(env);
            return;
        }
        let reports = std::mem::take(reports);
        let is_enough = self.config.in_sync.len() >= usize::from(self.config.min_size) || P::MIN_SIZE_AT_ADMISSION_ONLY;
        let own_committed = |chunk| env.store.versions(self.id, chunk).committed;
        let verdict = reconcile(me, &reports, is_enough, own_committed);
        let decisions = match verdict {
            Ok(decisions) => decisions,
            Err(lost) => {
                // It lacks what it had acknowledged, and did not notice: as good as damaged (A4).
                env.warn(format!("{lost} lacks a committed write of {}: taking it out of in_sync", self.id));
                let change = if lost == me { PgChange::Resign } else { PgChange::Remove(lost) };
                activation.stage = Stage::Stuck { change };
                self.drive_activation(env);
                return;
            }
        };
        let decide = Decide { pg: self.id, epoch: self.config.epoch, decisions, fences: highest_fences(&reports) };
        let missing: BTreeSet<OsdId> =
            if P::SKIP_RECONCILE { BTreeSet::from([me]) } else { self.config.in_sync.iter().copied().collect() };
        activation.stage = Stage::Decisions { decide: decide.clone(), missing };
        activation.since = env.now;
        let epoch = activation.epoch;
        for member in self.others_in_sync(env) {
            self.resend_activation(member, env);
        }
        self.apply_decisions(&decide, Pending::OwnDecision { epoch }, env);
    }

    pub(crate) fn on_decided<P: Policy>(&mut self, from: OsdId, epoch: Epoch, outcome: Outcome, env: &mut Env<P>) {
        let Role::Activating(activation) = &mut self.role else { return };
        if activation.epoch != epoch || outcome != Outcome::Ok {
            return;
        }
        let Stage::Decisions { missing, .. } = &mut activation.stage else { return };
        missing.remove(&from);
        if !missing.is_empty() {
            return;
        }
        if self.config.in_sync.len() == 1 {
            // The last one's word stands (R4).
            self.in_doubt = false;
        }
        self.role = Role::Active(Box::new(Primary::new(epoch)));
        self.begin_primary(env);
    }
}

/// A1 to A3. `Err` names a member that lacks what another has committed.
fn reconcile(
    me: OsdId,
    reports: &BTreeMap<OsdId, Report>,
    is_enough: bool,
    own_committed: impl Fn(ChunkId) -> Version,
) -> Result<Vec<Decision>, OsdId> {
    // Who has heard that a layer is retired has dropped its chunks; who has not will, with the decisions.
    let mut retired: IdSet<LayerId> = IdSet::default();
    reports.values().for_each(|r| retired.extend(&r.fences.retired));
    let listed = reports.values().flat_map(|r| r.chunks.iter().map(|c| c.chunk));
    let chunks: BTreeSet<ChunkId> = listed.filter(|c| !retired.contains(c.layer)).collect();
    let mut decisions = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let views: Vec<(OsdId, &ReportedChunk)> =
            reports.iter().filter_map(|(m, r)| r.chunks.iter().find(|c| c.chunk == chunk).map(|c| (*m, c))).collect();
        let committed = views.iter().map(|(_, c)| c.committed).chain([own_committed(chunk)]).max().unwrap_or_default();
        // A member that does not list the chunk has nothing undecided of it, and this primary neither (it would have asked).
        let has = |view: &ReportedChunk, version: Version| {
            version <= view.committed || view.undecided.iter().any(|w| w.version == version)
        };
        if let Some((lacking, _)) = views.iter().find(|(_, view)| !has(view, committed)) {
            return Err(*lacking);
        }
        let everyone_listed = views.len() == reports.len();
        let mut keep = committed;
        if everyone_listed {
            while let Some(next) = next_kept(&views, keep) {
                keep = next;
            }
        } else if !views.iter().any(|(m, _)| *m == me) && own_committed(chunk) < committed {
            return Err(me);
        }
        let rolled_back: BTreeSet<Version> =
            views.iter().flat_map(|(_, c)| c.undecided.iter().map(|w| w.version)).filter(|v| *v > keep).collect();
        decisions.push(Decision {
            chunk,
            keep,
            commit: if is_enough { keep } else { committed },
            rolled_back: rolled_back.into_iter().collect(),
        });
    }
    Ok(decisions)
}

/// A2: the write after `keep` that every member has, with good data at one of them.
fn next_kept(views: &[(OsdId, &ReportedChunk)], keep: Version) -> Option<Version> {
    let candidates: BTreeSet<Version> = views
        .iter()
        .flat_map(|(_, c)| c.undecided.iter().filter(|w| w.prev == keep && w.version > keep).map(|w| w.version))
        .collect();
    candidates.into_iter().find(|version| {
        let copies: Vec<_> = views.iter().map(|(_, c)| c.undecided.iter().find(|w| w.version == *version)).collect();
        copies.iter().all(Option::is_some) && copies.iter().flatten().any(|w| w.data_good)
    })
}

fn highest_fences(reports: &BTreeMap<OsdId, Report>) -> Fences {
    let mut highest = Fences::default();
    reports.values().for_each(|r| highest.raise(&r.fences));
    highest
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::{ChunkIndex, Seq};
    use ashlar_wire::ReportedWrite;

    fn v(seq: u32) -> Version {
        Version::new(Epoch(1), Seq(seq))
    }

    fn chunk() -> ChunkId {
        ChunkId { layer: LayerId(1), index: ChunkIndex(0) }
    }

    fn report(committed: u32, undecided: &[(u32, bool)]) -> Report {
        let at = |seq| if seq == 0 { Version::NONE } else { v(seq) };
        let undecided = undecided
            .iter()
            .map(|(seq, data_good)| ReportedWrite { version: v(*seq), prev: at(*seq - 1), data_good: *data_good })
            .collect();
        Report {
            chunks: vec![ReportedChunk { chunk: chunk(), committed: at(committed), undecided }],
            ..Report::default()
        }
    }

    fn decide(reports: Vec<Report>, is_enough: bool) -> Result<Vec<Decision>, OsdId> {
        let own = reports[0].chunks.first().map_or(Version::NONE, |c| c.committed);
        let reports = reports.into_iter().enumerate().map(|(i, r)| (OsdId(i as u32 + 1), r)).collect();
        reconcile(OsdId(1), &reports, is_enough, |_| own)
    }

    #[test]
    fn a_write_that_all_have_is_kept_and_one_that_somebody_lacks_is_rolled_back() {
        let both = decide(vec![report(1, &[(2, true), (3, true)]), report(1, &[(2, true)])], true)
            .expect("nobody lost anything");
        assert_eq!((both[0].keep, both[0].commit, &both[0].rolled_back[..]), (v(2), v(2), &[v(3)][..]));
    }

    #[test]
    fn a_write_committed_anywhere_is_kept() {
        let decisions = decide(vec![report(1, &[(2, true)]), report(2, &[])], true).expect("nobody lost anything");
        assert_eq!((decisions[0].keep, decisions[0].commit), (v(2), v(2)));
    }

    #[test]
    fn a_write_without_good_data_anywhere_is_rolled_back() {
        let decisions =
            decide(vec![report(1, &[(2, false)]), report(1, &[(2, false)])], true).expect("nobody lost anything");
        assert_eq!((decisions[0].keep, &decisions[0].rolled_back[..]), (v(1), &[v(2)][..]));
        let decisions =
            decide(vec![report(1, &[(2, false)]), report(1, &[(2, true)])], true).expect("nobody lost anything");
        assert_eq!(decisions[0].keep, v(2));
    }

    #[test]
    fn below_min_size_what_is_kept_stays_undecided() {
        let decisions = decide(vec![report(1, &[(2, true)])], false).expect("nobody lost anything");
        assert_eq!((decisions[0].keep, decisions[0].commit), (v(2), v(1)));
    }

    #[test]
    fn a_member_without_a_committed_write_is_named() {
        assert_eq!(decide(vec![report(2, &[]), report(1, &[])], true), Err(OsdId(2)));
    }

    #[test]
    fn a_write_that_the_primary_never_had_is_rolled_back() {
        let empty = Report::default();
        let decisions = decide(vec![empty, report(0, &[(1, true)])], true).expect("nobody lost anything");
        assert_eq!((decisions[0].keep, &decisions[0].rolled_back[..]), (Version::NONE, &[v(1)][..]));
    }
}
