//! What this OSD does for volumes that wipe as they free (docs/decisions/039-wipe-freed.md): what their layers give up the store marks; here it is said when
//! that is wiped.
//! H1: what a process before this one left is not known, nor what a volume gave up before it was one of those: so each sweep that the view counts wipes all
//! that is free. H2: a block that only a checkpoint finds to be given up is found within [`CHECKPOINT_WITHIN`]. H3: clients come first, but the more is
//! owed the less they do. Called by `Osd`.

use crate::env::Env;
use crate::policy::Policy;
use ashlar_types::{Duration, Tick};

/// Between two looks whether something is to be wiped.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between two looks while nothing of the disk calls.
const STEP_EVERY: Duration = Duration::from_millis(10);
/// H2
const CHECKPOINT_WITHIN: Duration = Duration::from_millis(10_000);
/// A client that asked for something so long ago is still there.
const CLIENT_IS_NEAR: Duration = Duration::from_millis(200);
const SLOWLY: Duration = Duration::from_millis(50);
/// H3: with so many blocks owed it goes on every [`STEP_EVERY`] all the same.
const OWED_MANY: u64 = 8192;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnderWay {
    Sweep(u64),
    Owed,
}

#[derive(Debug, Default)]
pub(crate) struct WipingFreed {
    /// The last one that this process has ended.
    sweep: u64,
    under_way: Option<UnderWay>,
    look_at: Tick,
    step_at: Tick,
    /// When a checkpoint begins if no other has.
    checkpoint_at: Option<Tick>,
    /// Blocks that were overwritten and not read back, by sweeps.
    unverified: u64,
}

impl WipingFreed {
    /// Before the store is polled. `gives_way`: a wipe that was asked for waits for the store.
    pub(crate) fn act<P: Policy>(&mut self, env: &mut Env<P>, gives_way: bool) {
        if !is_wanted(env) {
            return;
        }
        if self.under_way == Some(UnderWay::Owed) && env.store.wipe_left().is_none() {
            self.under_way = None;
        }
        if self.under_way.is_none() && !gives_way && self.look_at <= env.now {
            self.look_at = env.now + LOOK_EVERY;
            self.begin(env);
        }
        if self.under_way.is_some() && self.step_at <= env.now {
            let is_near = env.client_at + CLIENT_IS_NEAR > env.now && env.client_at > Tick(0);
            let are_many =
                self.under_way == Some(UnderWay::Owed) && env.store.wipe_left().is_some_and(|left| left > OWED_MANY);
            self.step_at = match (is_near, are_many) {
                (true, false) => env.now + SLOWLY,
                (true, true) => env.now + STEP_EVERY,
                (false, _) => env.now,
            };
            env.store.wipe_more();
        }
        if !env.store.wants_checkpoint_for_wipe() {
            self.checkpoint_at = None;
        } else if *self.checkpoint_at.get_or_insert(env.now + CHECKPOINT_WITHIN) <= env.now {
            self.checkpoint_at = None;
            env.store.reclaim();
        }
    }

    fn begin<P: Policy>(&mut self, env: &mut Env<P>) {
        let wished = env.view.wipe_freed.as_ref().map_or(0, |wiped| wiped.sweep);
        // One that waits for undecided writes would hold up what is owed.
        if self.sweep < wished && !env.store.has_suspects() && env.store.begin_wipe() {
            self.under_way = Some(UnderWay::Sweep(wished));
            self.step_at = env.now;
        } else if env.store.begin_owed_wipe() {
            self.under_way = Some(UnderWay::Owed);
            self.step_at = env.now;
        }
    }

    /// The store has wiped all that was free when it began, for whomever.
    pub(crate) fn on_wiped(&mut self, unverified: u64) {
        if let Some(UnderWay::Sweep(sweep)) = self.under_way {
            self.sweep = sweep;
            self.under_way = None;
            self.unverified += unverified;
        }
    }

    /// After the store was polled: when to be called again.
    pub(crate) fn next<P: Policy>(&self, env: &Env<P>) -> Option<Tick> {
        if !is_wanted(env) {
            return None;
        }
        let is_due = self.has_sweep_due(env) || env.store.owed() > 0;
        let look_at = (self.under_way.is_none() && is_due).then_some(self.look_at.max(env.now + STEP_EVERY));
        let step_at = self.under_way.is_some().then(|| self.step_at.max(env.now + STEP_EVERY));
        let checkpoint = env.store.wants_checkpoint_for_wipe();
        let checkpoint_at =
            checkpoint.then(|| self.checkpoint_at.unwrap_or(env.now + LOOK_EVERY).max(env.now + STEP_EVERY));
        look_at.into_iter().chain(step_at).chain(checkpoint_at).min()
    }

    fn has_sweep_due<P: Policy>(&self, env: &Env<P>) -> bool {
        env.view.wipe_freed.as_ref().is_some_and(|wiped| wiped.sweep > self.sweep)
    }

    /// Blocks that such volumes may have given up and that are not wiped yet, about; before the first sweep has ended, all that may hold anything.
    pub(crate) fn unwiped<P: Policy>(&self, env: &Env<P>) -> u64 {
        if !is_wanted(env) {
            return 0;
        }
        let under_way = self.under_way.and_then(|_| env.store.wipe_left()).unwrap_or(0);
        let all = if self.has_sweep_due(env) && under_way == 0 { env.store.unwiped() } else { 0 };
        env.store.owed() + env.store.held_for_wipe() + under_way.max(all)
    }

    pub(crate) fn unverified<P: Policy>(&self, env: &Env<P>) -> u64 {
        self.unverified + env.store.wiped_owed().unverified
    }
}

/// There is, or was, such a volume.
fn is_wanted<P: Policy>(env: &Env<P>) -> bool {
    env.mounted && env.view.wipe_freed.as_ref().is_some_and(|wiped| wiped.sweep > 0)
}
