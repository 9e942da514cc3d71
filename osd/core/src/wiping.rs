//! Wipes of this OSD (docs/decisions/036-secure-delete.md): the view asks for them, the store does them, the metadata service is told.
//! G1: a wipe begins when no PG here has anything of the volume left: each that has data of its pool refuses everything of it, for good. A
//! PG that was absent hears that when it joins.
//! Whoever crashes in the middle is still asked by the view, and begins anew. Called by `Osd`.

use crate::env::Env;
use crate::policy::Policy;
use crate::store::WipeReport as Blocks;
use ashlar_types::control::ControlRequest;
use ashlar_types::wipe::{Wipe, WipeReport};
use ashlar_types::{BLOCK_BYTES, Duration, OsdId, Tick, WipeId};
use std::collections::{BTreeMap, BTreeSet};

/// Between two looks while nothing of the disk calls.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Between two looks whether the PGs here have heard that a volume is gone.
const GONE_EVERY: Duration = Duration::from_millis(100);
/// A client that asked for something so long ago is still there: the next few MiB wait.
const CLIENT_IS_NEAR: Duration = Duration::from_millis(200);
const SLOWLY: Duration = Duration::from_millis(50);
/// A report that the view does not show yet is told again.
const TELL_AGAIN: Duration = Duration::from_millis(1000);

#[derive(Debug, Default)]
pub(crate) struct Wiping {
    /// What the view asks of this OSD.
    wished: Vec<Wipe>,
    /// When it is looked again whether one of those can begin.
    look_at: Tick,
    /// One could begin if the store were not at another.
    is_held_up: bool,
    /// What the wipe under way is for.
    under_way: BTreeSet<WipeId>,
    next_at: Tick,
    /// Told, or to be told, until the view doesn't ask any more.
    done: BTreeMap<WipeId, WipeReport>,
    tell_at: Tick,
}

impl Wiping {
    pub(crate) fn on_view(&mut self, me: OsdId, wipes: &[Wipe], now: Tick) {
        if wipes.is_empty() && self.wished.is_empty() {
            return;
        }
        self.wished = wipes.iter().filter(|wipe| wipe.osds.contains(&me)).cloned().collect();
        let ids: BTreeSet<WipeId> = self.wished.iter().map(|wipe| wipe.id).collect();
        self.done.retain(|id, _| ids.contains(id));
        self.look_at = now;
    }

    /// Whether something is asked for that is neither done nor under way.
    fn is_wanted(&self) -> bool {
        self.under_way.is_empty() && self.done.len() < self.wished.len()
    }

    /// Whether it waits for a wipe that nobody asked for.
    pub(crate) fn is_held_up(&self) -> bool {
        self.is_held_up && self.is_wanted()
    }

    /// Before the store is polled.
    pub(crate) fn act<P: Policy>(&mut self, env: &mut Env<P>) {
        if self.is_wanted() && self.look_at <= env.now && env.mounted {
            self.look_at = env.now + GONE_EVERY;
            let is_ready = |wipe: &&Wipe| !self.done.contains_key(&wipe.id) && is_gone(wipe, env);
            let ready: BTreeSet<WipeId> = self.wished.iter().filter(is_ready).map(|wipe| wipe.id).collect();
            if !ready.is_empty() && P::WIPE_TOLD_EARLY {
                self.under_way = ready;
                self.on_wiped(Blocks::default(), env);
            } else if !ready.is_empty() && env.store.begin_wipe() {
                self.under_way = ready;
                self.next_at = env.now;
                self.is_held_up = false;
            } else {
                self.is_held_up = !ready.is_empty();
            }
        }
        if !self.under_way.is_empty() && self.next_at <= env.now {
            let is_near = env.client_at + CLIENT_IS_NEAR > env.now && env.client_at > Tick(0);
            self.next_at = if is_near { env.now + SLOWLY } else { env.now };
            env.store.wipe_more();
        }
        if !self.done.is_empty() && self.tell_at <= env.now {
            self.tell_at = env.now + TELL_AGAIN;
            self.tell(env);
        }
    }

    /// One request for those that one wipe was for.
    fn tell<P: Policy>(&self, env: &mut Env<P>) {
        let mut told: Vec<(WipeReport, Vec<WipeId>)> = Vec::new();
        for (id, report) in &self.done {
            match told.iter_mut().find(|(of, _)| of == report) {
                Some((_, ids)) => ids.push(*id),
                None => told.push((*report, vec![*id])),
            }
        }
        for (report, wipes) in told {
            let osd = env.me();
            env.control(ControlRequest::WipeDone { osd, wipes, report });
        }
    }

    /// The store has wiped all that was free when it began.
    pub(crate) fn on_wiped<P: Policy>(&mut self, blocks: Blocks, env: &mut Env<P>) {
        let bytes = |blocks: u64| blocks * u64::from(BLOCK_BYTES);
        let report = WipeReport {
            ended_at: env.config.unix_at_tick_0 + env.now.0 / 1_000_000,
            overwritten: bytes(blocks.overwritten),
            found_zero: bytes(blocks.found_zero),
            unverified: bytes(blocks.unverified),
            damaged_pages: blocks.damaged_pages,
        };
        let ended = std::mem::take(&mut self.under_way);
        // One that was given up meanwhile is told to nobody.
        self.done.extend(self.wished.iter().filter(|wipe| ended.contains(&wipe.id)).map(|wipe| (wipe.id, report)));
        self.tell_at = env.now;
        // What was asked for meanwhile.
        self.look_at = env.now;
    }

    /// After the store was polled: when to be called again.
    pub(crate) fn next(&self, now: Tick) -> Option<Tick> {
        let next_look = (!self.under_way.is_empty()).then(|| self.next_at.max(now + LOOK_EVERY));
        let tell_at = (!self.done.is_empty()).then_some(self.tell_at);
        let look_at = self.is_wanted().then(|| self.look_at.max(now + LOOK_EVERY));
        next_look.into_iter().chain(tell_at).chain(look_at).min()
    }
}

/// G1
fn is_gone<P: Policy>(wipe: &Wipe, env: &Env<P>) -> bool {
    let of_pool = env.store.pgs().filter(|pg| pg.pool == wipe.pool);
    of_pool.filter_map(|pg| env.store.pg(pg)).all(|state| state.fences.gone.contains(wipe.volume))
}
