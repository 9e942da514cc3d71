//! Configurations of PGs: the only code that changes `in_sync` or a primary (R2).
//! Every change raises the epoch by one and names the boot of the primary's present process (R7). The last in-sync
//! member is never removed; nobody else is ever made primary (R2). `min_size` is the primary's business (R12).

use super::{ClusterState, Outcome, invalid, not_found};
use ashlar_types::control::{ControlError, PgChange};
use ashlar_types::view::PgConfig;
use ashlar_types::{BootId, Epoch, OsdId, PgId};
use std::collections::BTreeMap;

/// Changes that are asked for end this many epochs before the last, so that failures can still be answered for years.
const EPOCHS_RESERVED: u32 = 1 << 16;

/// A new configuration as far as the event that causes it decides it. The rest follows from who is up.
struct Wanted {
    in_sync: Vec<OsdId>,
    /// Becomes the primary if it is up and in sync.
    prefer: Option<OsdId>,
    /// Stays or becomes the primary only if nobody else can.
    avoid: Option<OsdId>,
    /// The next epoch even if nothing else changes.
    next_epoch: bool,
}

/// How many PGs each OSD leads, so that a failed OSD's PGs are shared out evenly.
pub(super) type PrimaryCounts = BTreeMap<OsdId, u32>;

impl ClusterState {
    pub(super) fn pg_change(&mut self, pg: PgId, epoch: Epoch, from: OsdId, change: PgChange) -> Outcome {
        let config = &self.pgs.get(&pg).ok_or_else(|| not_found("placement group", pg))?.value;
        if config.epoch != epoch {
            return Err(ControlError::WrongEpoch { pg, request: epoch, current: config.epoch });
        }
        if epoch.0 >= Epoch::MAX.0 - EPOCHS_RESERVED {
            return Err(invalid(format!("{pg} has used up its epochs at {epoch}; it needs to be rebuilt")));
        }
        let Some(wanted) = self.wanted_by_request(config, from, change)? else {
            return self.unchanged();
        };
        let mut counts = self.primary_counts();
        let changed = self.reconfigure(pg, wanted, &mut counts);
        assert!(changed, "R2: an accepted change gives a new epoch");
        self.done()
    }

    /// Checks a request against the configuration it was made for. `None`: right, but there is nothing to change.
    fn wanted_by_request(
        &self,
        config: &PgConfig,
        from: OsdId,
        change: PgChange,
    ) -> Result<Option<Wanted>, ControlError> {
        let pg = config.pg;
        let in_sync = config.in_sync.clone();
        // A member that finds itself damaged may leave; anything else is the primary's to ask.
        let leaves = change == PgChange::Remove(from);
        if config.primary != Some(from) && !leaves {
            return Err(invalid(format!("{from} is not the primary of {pg} at {}", config.epoch)));
        }
        let wanted = Wanted { in_sync, prefer: None, avoid: None, next_epoch: true };
        match change {
            PgChange::NextEpoch => Ok(Some(wanted)),
            PgChange::Resign if config.in_sync.len() == 1 => Ok(None),
            PgChange::Resign => Ok(Some(Wanted { avoid: Some(from), ..wanted })),
            PgChange::Remove(osd) => {
                if !config.is_in_sync(osd) {
                    return Err(invalid(format!("{osd} is not in sync in {pg} at {}", config.epoch)));
                }
                if config.in_sync.len() == 1 {
                    return Err(invalid(format!("R2: {osd} is the last in-sync member of {pg} and stays")));
                }
                let in_sync = config.in_sync.iter().copied().filter(|m| *m != osd).collect();
                Ok(Some(Wanted { in_sync, ..wanted }))
            }
            PgChange::Add(osd) => {
                if !config.is_member(osd) || config.is_in_sync(osd) {
                    return Err(invalid(format!("{osd} is not a joining member of {pg} at {}", config.epoch)));
                }
                if !self.is_up(osd) {
                    return Err(invalid(format!("{osd} is down and cannot become in sync in {pg}")));
                }
                let joined = |m: &OsdId| *m == osd || config.is_in_sync(*m);
                let in_sync = config.members.iter().copied().filter(joined).collect();
                // The epoch changes anyway: a good time for the load of primaries to go back to where placement put it.
                Ok(Some(Wanted { in_sync, prefer: config.members.first().copied(), ..wanted }))
            }
        }
    }

    /// A process of `osd` began. Where it is in sync it held the old epochs, which no process may hold twice (R7); a joining
    /// member contributes nothing (R8), its primary sees the new boot in the view.
    pub(super) fn pgs_on_new_boot(&mut self, osd: OsdId) {
        let mut counts = self.primary_counts();
        for pg in self.pgs_in_sync_at(osd) {
            let config = &self.pgs[&pg].value;
            let in_sync = self.those_up(&config.in_sync);
            self.reconfigure(pg, Wanted { in_sync, prefer: None, avoid: Some(osd), next_epoch: true }, &mut counts);
        }
    }

    /// A process is back that was taken for dead, with all it knew: it takes over where nobody else can.
    pub(super) fn pgs_on_up_again(&mut self, osd: OsdId) {
        let mut counts = self.primary_counts();
        for pg in self.pgs_in_sync_at(osd) {
            let in_sync = self.those_up(&self.pgs[&pg].value.in_sync);
            self.reconfigure(pg, Wanted { in_sync, prefer: None, avoid: None, next_epoch: false }, &mut counts);
        }
    }

    /// `osd` is down: it leaves `in_sync` where somebody else remains (R2), and leads nothing.
    pub(super) fn pgs_on_down(&mut self, osd: OsdId) {
        let mut counts = self.primary_counts();
        for pg in self.pgs_in_sync_at(osd) {
            let mut in_sync = self.pgs[&pg].value.in_sync.clone();
            if in_sync.iter().any(|m| self.is_up(*m)) {
                in_sync.retain(|m| *m != osd);
            }
            self.reconfigure(pg, Wanted { in_sync, prefer: None, avoid: None, next_epoch: false }, &mut counts);
        }
    }

    /// PGs whose members are all in sync but whose primary is not the one that placement meant, with their epochs. Restarts
    /// move primaries away and only this moves them back.
    pub(crate) fn out_of_place(&self) -> impl Iterator<Item = (PgId, Epoch)> + '_ {
        let whole = |c: &&PgConfig| c.in_sync.len() == c.members.len() && c.epoch.0 < Epoch::MAX.0 - EPOCHS_RESERVED;
        let led_elsewhere = |c: &&PgConfig| c.primary.is_some() && c.primary != c.members.first().copied();
        self.pgs.values().map(|p| &p.value).filter(whole).filter(led_elsewhere).map(|c| (c.pg, c.epoch))
    }

    pub(super) fn rebalance(&mut self, pgs: &[(PgId, Epoch)]) -> Outcome {
        let wanted: BTreeMap<PgId, Epoch> = pgs.iter().copied().collect();
        let present: Vec<_> = self.out_of_place().filter(|(pg, epoch)| wanted.get(pg) == Some(epoch)).collect();
        let mut counts = self.primary_counts();
        for (pg, _) in &present {
            let config = &self.pgs[pg].value;
            let (in_sync, prefer) = (config.in_sync.clone(), config.members.first().copied());
            self.reconfigure(*pg, Wanted { in_sync, prefer, avoid: None, next_epoch: false }, &mut counts);
        }
        if present.is_empty() { self.unchanged() } else { self.done() }
    }

    /// Makes the next configuration if it differs from the present one. Says whether it does.
    fn reconfigure(&mut self, pg: PgId, wanted: Wanted, counts: &mut PrimaryCounts) -> bool {
        let now = &self.pgs[&pg].value;
        let primary = self.choose_primary(now, &wanted, counts);
        let primary_boot = primary.map_or(BootId(0), |p| self.boot_of(p));
        let same = now.in_sync == wanted.in_sync && now.primary == primary && now.primary_boot == primary_boot;
        // At the very last epoch the PG stands still; `EPOCHS_RESERVED` makes that a matter of 65,536 failures.
        if (same && !wanted.next_epoch) || now.epoch >= Epoch::MAX {
            return false;
        }
        assert!(!wanted.in_sync.is_empty(), "R2: the last in-sync member is never removed");
        assert!(primary.is_none_or(|p| wanted.in_sync.contains(&p)), "R2: only an in-sync member is made primary");
        if let Some(old) = now.primary {
            counts.entry(old).and_modify(|n| *n -= 1);
        }
        if let Some(new) = primary {
            *counts.entry(new).or_default() += 1;
        }
        let modified = self.touch_view();
        let record = self.pgs.get_mut(&pg).expect("looked up above");
        record.modified = modified;
        record.value.epoch = record.value.epoch.next();
        record.value.in_sync = wanted.in_sync;
        record.value.primary = primary;
        record.value.primary_boot = primary_boot;
        true
    }

    fn choose_primary(&self, now: &PgConfig, wanted: &Wanted, counts: &PrimaryCounts) -> Option<OsdId> {
        let able: Vec<OsdId> = self.those_up_or_none(&wanted.in_sync);
        if let Some(preferred) = wanted.prefer.filter(|p| able.contains(p)) {
            return Some(preferred);
        }
        let willing = |osd: &OsdId| wanted.avoid != Some(*osd);
        if let Some(present) = now.primary.filter(|p| able.contains(p) && willing(p)) {
            return Some(present);
        }
        let load = |osd: &OsdId| counts.get(osd).copied().unwrap_or(0);
        able.iter().filter(|o| willing(o)).min_by_key(|o| load(o)).or(able.first()).copied()
    }

    /// Those of `in_sync` that are up; all of them where none is, since the last are never removed.
    fn those_up(&self, in_sync: &[OsdId]) -> Vec<OsdId> {
        let up = self.those_up_or_none(in_sync);
        if up.is_empty() { in_sync.to_vec() } else { up }
    }

    fn those_up_or_none(&self, osds: &[OsdId]) -> Vec<OsdId> {
        osds.iter().copied().filter(|o| self.is_up(*o)).collect()
    }

    fn pgs_in_sync_at(&self, osd: OsdId) -> Vec<PgId> {
        self.pgs.values().filter(|p| p.value.is_in_sync(osd)).map(|p| p.value.pg).collect()
    }

    fn primary_counts(&self) -> PrimaryCounts {
        let mut counts = PrimaryCounts::new();
        for primary in self.pgs.values().filter_map(|p| p.value.primary) {
            *counts.entry(primary).or_default() += 1;
        }
        counts
    }
}
