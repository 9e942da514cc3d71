//! Wishes for scrubs, and who may take them away.

use super::*;

const PG: PgId = PgId { pool: PoolId(1), index: 0 };

pub(super) fn report(number: u64, deep: bool) -> ScrubReport {
    ScrubReport { number, deep, ended_at: 99, copies: 3, chunks: 8, mismatches: 0, bad_blocks: 2, repaired_blocks: 1 }
}

impl Cluster {
    fn scrub(&mut self, target: ScrubTarget, deep: bool) -> (u64, usize) {
        match self.ask(ControlRequest::ScrubStart { target, deep }) {
            Ok(ControlReply::Scrub { number, pgs }) => (number, pgs.len()),
            other => panic!("{other:?}"),
        }
    }

    fn scrubbed(&mut self, number: u64, deep: bool) -> Outcome {
        let PgConfig { pg, epoch, primary, .. } = self.pg(0);
        let from = primary.expect("somebody leads");
        self.ask(ControlRequest::ScrubDone { pg, epoch, from, report: report(number, deep) })
    }

    fn scrub_of(&self, pg: PgId) -> PgScrub {
        self.state.view_since(Revision(0)).scrubs.get(&pg).copied().unwrap_or_default()
    }
}

#[test]
fn a_scrub_is_wished_for_all_or_a_pool_or_an_osd_or_some_pgs() {
    let mut cluster = Cluster::with_pool(4, 3);
    cluster.pool("q", 1).expect("made");
    let all = cluster.state.pgs.len();
    let of = |wanted: &dyn Fn(&PgConfig) -> bool, cluster: &Cluster| {
        cluster.state.pgs.values().filter(|p| wanted(&p.value)).count()
    };
    assert_eq!(cluster.scrub(ScrubTarget::All, false), (1, all));
    let in_pool = of(&|c| c.pg.pool == PoolId(2), &cluster);
    assert_eq!(cluster.scrub(ScrubTarget::Pool(name("q")), false), (2, in_pool));
    let on_osd = of(&|c| c.is_member(OsdId(4)), &cluster);
    assert_eq!(cluster.scrub(ScrubTarget::Osd(OsdId(4)), false), (3, on_osd));
    assert_eq!(cluster.scrub(ScrubTarget::Pgs(vec![PG, PG]), true), (4, 1));
    assert_eq!(cluster.scrub_of(PG).wish, Some(ScrubWish { number: 4, deep: true }));
    for target in [
        ScrubTarget::Pool(name("none")),
        ScrubTarget::Osd(OsdId(9)),
        ScrubTarget::Pgs(vec![PG, PgId { pool: PoolId(9), index: 0 }]),
    ] {
        let refused = cluster.ask(ControlRequest::ScrubStart { target, deep: true });
        assert!(matches!(refused, Err(ControlError::NotFound { .. })), "{refused:?}");
    }
    assert_eq!(cluster.scrub(ScrubTarget::Pgs(vec![]), true), (4, 0), "nothing is nothing");
}

#[test]
fn a_wish_stays_until_a_scrub_that_began_after_it_is_reported() {
    let mut cluster = Cluster::with_pool(3, 3);
    cluster.scrub(ScrubTarget::Pgs(vec![PG]), false);
    cluster.scrub(ScrubTarget::Pgs(vec![PG]), false);
    cluster.scrubbed(1, false).expect("the first");
    assert_eq!(cluster.scrub_of(PG).wish, Some(ScrubWish { number: 2, deep: false }));
    cluster.scrubbed(2, false).expect("the second");
    let done = PgScrub { wish: None, last: Some(report(2, false)), last_deep: None };
    assert_eq!(cluster.scrub_of(PG), done);
    cluster.scrubbed(1, true).expect("late, and said again");
    assert_eq!(cluster.scrub_of(PG), done);
    assert!(cluster.scrubbed(3, false).is_err(), "nobody has asked for it");
}

#[test]
fn a_light_wish_does_not_take_a_deep_one_away() {
    let mut cluster = Cluster::with_pool(3, 3);
    cluster.scrub(ScrubTarget::All, true);
    cluster.scrub(ScrubTarget::All, false);
    assert_eq!(cluster.scrub_of(PG).wish, Some(ScrubWish { number: 2, deep: true }));
    assert!(refusal(cluster.scrubbed(2, false)).contains("deep"));
    cluster.scrubbed(2, true).expect("done");
    let PgScrub { wish, last, last_deep } = cluster.scrub_of(PG);
    assert_eq!((wish, last, last_deep), (None, Some(report(2, true)), Some(report(2, true))));
    cluster.scrub(ScrubTarget::All, false);
    cluster.scrubbed(3, false).expect("done");
    assert_eq!(cluster.scrub_of(PG).last_deep, Some(report(2, true)));
    assert_eq!(cluster.scrub_of(PG).unrepaired_blocks(), 1);
}

#[test]
fn only_the_present_primary_reports() {
    let mut cluster = Cluster::with_pool(3, 3);
    cluster.scrub(ScrubTarget::All, true);
    let PgConfig { pg, epoch, primary, members, .. } = cluster.pg(0);
    let other = members.into_iter().find(|m| Some(*m) != primary).expect("three members");
    let done = |epoch, from| ControlRequest::ScrubDone { pg, epoch, from, report: report(1, true) };
    assert!(matches!(cluster.ask(done(epoch, other)), Err(ControlError::Invalid(_))));
    let primary = primary.expect("somebody leads");
    cluster.down(primary.0);
    assert!(matches!(cluster.ask(done(epoch, primary)), Err(ControlError::WrongEpoch { .. })));
    assert!(cluster.scrub_of(pg).wish.is_some(), "the next primary scrubs it");
}

#[test]
fn what_is_not_done_can_be_withdrawn() {
    let mut cluster = Cluster::with_pool(3, 3);
    cluster.scrub(ScrubTarget::All, true);
    cluster.scrubbed(1, true).expect("done");
    let cancelled = cluster.ask(ControlRequest::ScrubCancel { target: ScrubTarget::All });
    let Ok(ControlReply::Scrub { pgs, .. }) = cancelled else { panic!("{cancelled:?}") };
    assert_eq!(pgs.len(), cluster.state.pgs.len() - 1);
    assert!(cluster.state.view_since(Revision(0)).scrubs.values().all(|s| s.wish.is_none()));
    assert_eq!(cluster.scrub_of(PG).done(), 1);
    let nothing = cluster.ask(ControlRequest::ScrubCancel { target: ScrubTarget::All });
    assert_eq!(nothing, Ok(ControlReply::Scrub { number: 1, pgs: vec![] }));
}
