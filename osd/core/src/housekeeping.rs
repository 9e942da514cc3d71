//! What the store does when nobody waits for it: sends records that found no company, gives free space back to the device, and frees what was
//! overwritten.
//! Called by `Osd::poll`.

use crate::policy::Policy;
use crate::store::Store;
use ashlar_types::{Duration, Tick};

/// How long a commit record may wait for another record to leave with.
const SETTLE_AFTER: Duration = Duration::from_millis(50);
/// Between two looks at what is to be trimmed.
const TRIM_EVERY: Duration = Duration::from_millis(50);
/// Looks, one after the other, at which nothing was written since the last one, before trims begin: one second.
const QUIET_LOOKS_MIN: u32 = 20;
/// While clients write, trims begin only when this part of the disk is free and not trimmed, and then come at every n-th look.
const TRIM_BACKLOG_PART: u64 = 2;
const TRIM_SLOWLY: u32 = 4;

/// Between two looks at whether something overwritten waits for a checkpoint that nothing else begins.
const TIDY_EVERY: Duration = Duration::from_millis(1000);
/// What is dropped comes seldom alone (a merge drops its layer chunk by chunk): a checkpoint may wait so long for more of it.
const DROPPED_WAIT: Duration = Duration::from_millis(250);
/// Looks, one after the other, at which nothing was written since the last one.
const TIDY_QUIET_LOOKS: u32 = 4;

#[derive(Debug, Default)]
pub(crate) struct Housekeeping {
    settle_at: Option<Tick>,
    trim_at: Option<Tick>,
    /// Records that the store had written at the last look.
    records: u64,
    /// Looks since the last trim.
    looks: u32,
    /// Looks since the last write.
    quiet_looks: u32,
    tidy: Tidy,
    dropped_at: Option<Tick>,
}

#[derive(Debug, Default)]
struct Tidy {
    at: Option<Tick>,
    /// Records that the store had written at the last look.
    records: u64,
    /// Looks since the last write.
    quiet_looks: u32,
}

impl Tidy {
    fn act<P: Policy>(&mut self, now: Tick, store: &mut Store<P>) {
        if self.at.is_none_or(|at| at > now) {
            return;
        }
        self.at = None;
        let records = store.records();
        self.quiet_looks = if self.records == records { self.quiet_looks + 1 } else { 0 };
        self.records = records;
        if self.quiet_looks >= TIDY_QUIET_LOOKS {
            self.quiet_looks = 0;
            store.reclaim();
        }
    }

    fn next<P: Policy>(&mut self, now: Tick, store: &Store<P>) -> Option<Tick> {
        if store.has_overwritten() {
            self.at.get_or_insert(now + TIDY_EVERY);
        }
        self.at
    }
}

impl Housekeeping {
    /// Before the store is polled.
    pub(crate) fn act<P: Policy>(&mut self, now: Tick, store: &mut Store<P>) {
        if self.settle_at.is_some_and(|at| at <= now) {
            self.settle_at = None;
            store.settle();
        }
        if self.trim_at.is_some_and(|at| at <= now) {
            self.trim_at = None;
            self.looks += 1;
            let records = store.records();
            self.quiet_looks = if self.records == records { self.quiet_looks.saturating_add(1) } else { 0 };
            self.records = records;
            let is_quiet = self.quiet_looks >= QUIET_LOOKS_MIN;
            let is_long_due = store.untrimmed_blocks() > store.space().total / TRIM_BACKLOG_PART;
            if is_quiet || (is_long_due && self.looks >= TRIM_SLOWLY) {
                self.looks = 0;
                store.trim();
            }
        }
        self.tidy.act(now, store);
        if self.dropped_at.is_some_and(|at| at <= now) {
            self.dropped_at = None;
            if store.has_dropped() {
                store.reclaim();
            }
        }
    }

    /// After it was polled: when to be called again.
    pub(crate) fn next<P: Policy>(&mut self, now: Tick, store: &Store<P>) -> Option<Tick> {
        if store.has_unsettled() {
            self.settle_at.get_or_insert(now + SETTLE_AFTER);
        } else {
            self.settle_at = None;
        }
        if store.untrimmed_blocks() > 0 {
            self.trim_at.get_or_insert(now + TRIM_EVERY);
        }
        if store.has_dropped() {
            self.dropped_at.get_or_insert(now + DROPPED_WAIT);
        }
        self.settle_at.into_iter().chain(self.trim_at).chain(self.dropped_at).chain(self.tidy.next(now, store)).min()
    }
}
