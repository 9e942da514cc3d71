//! Read leases, the granter's side (R5): what this OSD has promised to primaries, and until when it must not promise a newer epoch to others.
//! L1: a grant runs longer by this OSD's clock than its lease does by the holder's, for any drift the failure model allows.
//! L2: a grant is to one process (boot); the metadata service's word that a newer boot runs ends it.
//! The holder's side is in `pg::read`.

use ashlar_types::view::ClusterView;
use ashlar_types::{BootId, Duration, OsdId, PgId, Tick};
use std::collections::BTreeMap;

/// How long a lease lasts by the holder's clock, counted from when it asked.
pub(crate) const LEASE: Duration = Duration::from_millis(200);
/// How long the granter keeps its word by its own clock, counted from when it granted: 1.2 times the lease (R5).
pub(crate) const GRANT: Duration = Duration::from_millis(240);

#[derive(Clone, Copy, Debug)]
struct Grant {
    holder: OsdId,
    boot: BootId,
    until: Tick,
}

#[derive(Debug)]
pub(crate) struct Grants {
    /// What an earlier process of this OSD may have granted has run out by then.
    started_until: Tick,
    by_pg: BTreeMap<PgId, Vec<Grant>>,
}

impl Grants {
    pub(crate) fn new(started: Tick) -> Grants {
        Grants { started_until: started + GRANT, by_pg: BTreeMap::new() }
    }

    pub(crate) fn grant(&mut self, pg: PgId, holder: OsdId, boot: BootId, now: Tick) {
        let grants = self.by_pg.entry(pg).or_default();
        grants.retain(|g| g.until > now && !(g.holder == holder && g.boot == boot));
        grants.push(Grant { holder, boot, until: now + GRANT });
    }

    /// Until when a promise of a new epoch to `primary` must be withheld; `None` if it need not be.
    pub(crate) fn withheld_until(
        &self,
        pg: PgId,
        primary: (OsdId, BootId),
        now: Tick,
        view: &ClusterView,
    ) -> Option<Tick> {
        let is_dead = |g: &Grant| view.osds.get(&g.holder).is_some_and(|info| info.boot != g.boot);
        let granted = self.by_pg.get(&pg).into_iter().flatten();
        let last = granted
            .filter(|g| (g.holder, g.boot) != primary && !is_dead(g))
            .map(|g| g.until)
            .chain(std::iter::once(self.started_until))
            .max()?;
        (last > now).then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::view::OsdInfo;

    const OLD: (OsdId, BootId) = (OsdId(1), BootId(11));
    const NEW: (OsdId, BootId) = (OsdId(2), BootId(22));

    fn view_with(holder: OsdId, boot: BootId) -> ClusterView {
        let info = OsdInfo { id: holder, boot, up: true, address: String::new(), host: String::new(), capacity: 0 };
        ClusterView { osds: BTreeMap::from([(holder, info)]), ..ClusterView::default() }
    }

    #[test]
    fn a_promise_to_another_primary_waits_until_the_grant_has_run_out() {
        let (pg, view) = (PgId::default(), view_with(OLD.0, OLD.1));
        let mut grants = Grants::new(Tick(0));
        let now = Tick(1_000_000);
        grants.grant(pg, OLD.0, OLD.1, now);
        assert_eq!(grants.withheld_until(pg, NEW, now, &view), Some(now + GRANT));
        assert_eq!(grants.withheld_until(pg, NEW, now + GRANT, &view), None);
        assert_eq!(grants.withheld_until(pg, OLD, now, &view), None, "the holder itself may go on at once");
    }

    #[test]
    fn a_newer_boot_of_the_holder_ends_its_grant() {
        let mut grants = Grants::new(Tick(0));
        let (pg, now) = (PgId::default(), Tick(1_000_000));
        grants.grant(pg, OLD.0, OLD.1, now);
        assert_eq!(grants.withheld_until(pg, NEW, now, &view_with(OLD.0, BootId(12))), None);
    }

    #[test]
    fn after_a_restart_every_promise_waits_a_full_grant() {
        let grants = Grants::new(Tick(500));
        let view = ClusterView::default();
        assert_eq!(grants.withheld_until(PgId::default(), NEW, Tick(600), &view), Some(Tick(500) + GRANT));
    }
}
