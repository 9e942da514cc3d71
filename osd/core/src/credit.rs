//! Space credit, the granter's side: how much of this disk each placement group may still fill (design.md §4).
//! C1: the free blocks of the store are never fewer than what is granted and not yet used.
//! So a prepare within its credit never fails for space, on any member.

use ashlar_types::{Epoch, PgId};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    epoch: Epoch,
    granted: u64,
    used: u64,
}

#[derive(Debug, Default)]
pub(crate) struct CreditLedger {
    accounts: BTreeMap<PgId, Account>,
    /// Sum of what is granted and not used, in blocks.
    outstanding: u64,
}

impl CreditLedger {
    /// Ends what was granted in older epochs.
    pub(crate) fn begin_epoch(&mut self, pg: PgId, epoch: Epoch) {
        let account = self.accounts.entry(pg).or_default();
        if account.epoch < epoch {
            self.outstanding -= account.granted - account.used;
            *account = Account { epoch, granted: 0, used: 0 };
        }
    }

    /// Ends what was granted in this epoch: the member joins anew, and its primary begins to count anew with it. What the primary took out
    /// for messages that never arrived would stay promised to nobody.
    pub(crate) fn restart(&mut self, pg: PgId, epoch: Epoch) {
        self.begin_epoch(pg, epoch);
        if let Some(account) = self.accounts.get_mut(&pg).filter(|a| a.epoch == epoch) {
            self.outstanding -= account.granted - account.used;
            *account = Account { epoch, granted: 0, used: 0 };
        }
    }

    /// Grants up to `wanted_total`, as far as `free` blocks go; returns the total granted in this epoch.
    pub(crate) fn request(&mut self, pg: PgId, epoch: Epoch, wanted_total: u64, free: u64) -> u64 {
        self.begin_epoch(pg, epoch);
        let available = self.available(free);
        let account = self.accounts.entry(pg).or_default();
        if account.epoch != epoch {
            return 0;
        }
        let more = wanted_total.saturating_sub(account.granted).min(available);
        account.granted += more;
        self.outstanding += more;
        account.granted
    }

    /// Takes back what was granted beyond `kept_total` and not used.
    pub(crate) fn give_back(&mut self, pg: PgId, epoch: Epoch, kept_total: u64) {
        let Some(account) = self.accounts.get_mut(&pg).filter(|a| a.epoch == epoch) else { return };
        let kept = kept_total.max(account.used).min(account.granted);
        self.outstanding -= account.granted - kept;
        account.granted = kept;
    }

    /// Takes blocks out of a PG's credit; `false` if it has not got them.
    #[must_use]
    pub(crate) fn spend(&mut self, pg: PgId, epoch: Epoch, blocks: u64) -> bool {
        let Some(account) = self.accounts.get_mut(&pg).filter(|a| a.epoch == epoch) else { return blocks == 0 };
        if account.granted - account.used < blocks {
            return false;
        }
        account.used += blocks;
        self.outstanding -= blocks;
        true
    }

    /// Takes what a write needs out of a PG's credit, and what that lacks out of what nobody was promised: a primary of another version may
    /// reckon otherwise than this OSD.
    #[must_use]
    pub(crate) fn spend_or_take(&mut self, pg: PgId, epoch: Epoch, blocks: u64, free: u64) -> bool {
        let account = self.accounts.get(&pg).filter(|a| a.epoch == epoch);
        let left = account.map_or(0, |a| a.granted - a.used).min(blocks);
        blocks - left <= self.available(free) && self.spend(pg, epoch, left)
    }

    /// What is granted and not used.
    pub(crate) fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// What is free and not granted to anybody.
    pub(crate) fn available(&self, free: u64) -> u64 {
        free.saturating_sub(self.outstanding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_never_exceeds_what_is_free_and_repeats_do_no_harm() {
        let (a, b) = (PgId::default(), PgId { index: 1, ..PgId::default() });
        let mut ledger = CreditLedger::default();
        assert_eq!(ledger.request(a, Epoch(1), 60, 100), 60);
        assert_eq!(ledger.request(a, Epoch(1), 60, 100), 60);
        assert_eq!(ledger.request(b, Epoch(1), 60, 100), 40);
        assert!(ledger.spend(a, Epoch(1), 60));
        assert!(!ledger.spend(a, Epoch(1), 1));
        assert!(!ledger.spend(a, Epoch(2), 1));
        assert_eq!(ledger.available(40), 0);
    }

    #[test]
    fn what_credit_lacks_is_taken_from_what_nobody_was_promised() {
        let (a, b) = (PgId::default(), PgId { index: 1, ..PgId::default() });
        let mut ledger = CreditLedger::default();
        ledger.request(a, Epoch(1), 10, 100);
        ledger.request(b, Epoch(1), 80, 100);
        assert!(ledger.spend_or_take(a, Epoch(1), 6, 100));
        assert!(ledger.spend_or_take(a, Epoch(1), 14, 94));
        assert_eq!(ledger.outstanding(), 80);
        assert!(!ledger.spend_or_take(a, Epoch(1), 1, 80), "the rest is promised");
        assert!(ledger.spend_or_take(a, Epoch(1), 0, 0));
    }

    #[test]
    fn a_join_begins_a_new_account() {
        let pg = PgId::default();
        let mut ledger = CreditLedger::default();
        ledger.request(pg, Epoch(1), 60, 100);
        assert!(ledger.spend(pg, Epoch(1), 20));
        ledger.restart(pg, Epoch(1));
        assert_eq!(ledger.available(80), 80);
        assert!(!ledger.spend(pg, Epoch(1), 1));
        assert_eq!(ledger.request(pg, Epoch(1), 30, 80), 30, "it counts from nothing");
        ledger.restart(pg, Epoch(0));
        assert_eq!(ledger.outstanding(), 30, "an older epoch ends nothing");
    }

    #[test]
    fn a_new_epoch_takes_unused_credit_back() {
        let pg = PgId::default();
        let mut ledger = CreditLedger::default();
        ledger.request(pg, Epoch(1), 60, 100);
        ledger.begin_epoch(pg, Epoch(2));
        assert_eq!(ledger.available(100), 100);
        assert_eq!(ledger.request(pg, Epoch(1), 60, 100), 0, "an older epoch gets nothing");
    }
}
