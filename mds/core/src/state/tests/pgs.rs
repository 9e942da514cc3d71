//! R2 and R7: who is in sync, who leads, and what raises an epoch.

use super::*;

#[test]
fn a_lost_member_leaves_at_the_next_epoch_and_its_pgs_are_shared_out() {
    let mut cluster = Cluster::with_pool(3, 3);
    cluster.down(1);
    let mut taken_over = [0, 0];
    for index in 0..32 {
        let pg = cluster.pg(index);
        assert_eq!((pg.epoch, pg.in_sync.len()), (Epoch(2), 2));
        let primary = pg.primary.expect("two are left");
        taken_over[primary.0 as usize - 2] += 1;
    }
    assert_eq!(taken_over, [16, 16]);
}

#[test]
fn the_last_in_sync_member_stays_and_nobody_else_is_elected() {
    let mut cluster = Cluster::with_pool(3, 3);
    cluster.down(1);
    cluster.down(2);
    cluster.down(3);
    let pg = cluster.pg(0);
    assert_eq!((pg.in_sync.clone(), pg.primary, pg.epoch), (vec![OsdId(3)], None, Epoch(4)));
    cluster.register(1, 21).expect("registered");
    cluster.register(2, 22).expect("registered");
    assert_eq!(cluster.pg(0), pg, "R2: those who were removed wait");
    cluster.register(3, 23).expect("registered");
    let pg = cluster.pg(0);
    assert_eq!((pg.primary, pg.primary_boot, pg.epoch), (Some(OsdId(3)), BootId(23), Epoch(5)));
}

#[test]
fn a_restarted_process_never_serves_an_epoch_it_held() {
    let mut cluster = Cluster::with_pool(3, 3);
    let led: Vec<u32> = (0..32).filter(|i| cluster.pg(*i).primary == Some(OsdId(1))).collect();
    cluster.register(1, 21).expect("registered");
    for index in 0..32 {
        let pg = cluster.pg(index);
        assert_eq!((pg.epoch, pg.in_sync.len()), (Epoch(2), 3), "R7: it stays in sync, at a new epoch");
        assert!(!led.contains(&index) || pg.primary != Some(OsdId(1)), "another member takes over");
    }
    let mut alone = Cluster::with_pool(1, 1);
    alone.register(1, 21).expect("registered");
    let pg = alone.pg(0);
    assert_eq!((pg.epoch, pg.primary, pg.primary_boot), (Epoch(2), Some(OsdId(1)), BootId(21)));
}

#[test]
fn a_joining_members_restart_leaves_the_epoch_alone() {
    let mut cluster = Cluster::with_pool(3, 3);
    cluster.down(1);
    let before = cluster.pg(0);
    cluster.register(1, 21).expect("registered");
    assert_eq!(cluster.pg(0), before);
    assert_eq!(before.joining().collect::<Vec<_>>(), [OsdId(1)]);
}

#[test]
fn a_joiner_is_added_by_the_primary_only_while_it_is_up() {
    let mut cluster = Cluster::with_pool(3, 3);
    let index = (0..32).find(|i| cluster.pg(*i).members[0] == OsdId(1)).expect("OSD 1 leads some");
    cluster.down(1);
    let primary = cluster.pg(index).primary.expect("two are left");
    let other = if primary == OsdId(2) { OsdId(3) } else { OsdId(2) };
    assert!(refusal(cluster.change(index, primary, PgChange::Add(OsdId(1)))).contains("is down"));
    cluster.register(1, 21).expect("registered");
    assert!(refusal(cluster.change(index, other, PgChange::Add(OsdId(1)))).contains("not the primary"));
    assert!(cluster.change(index, primary, PgChange::Add(OsdId(9))).is_err(), "no member");
    assert!(cluster.change(index, primary, PgChange::Add(other)).is_err(), "in sync already");
    cluster.change(index, primary, PgChange::Add(OsdId(1))).expect("added");
    let pg = cluster.pg(index);
    assert_eq!((pg.epoch, pg.in_sync.len()), (Epoch(3), 3));
    assert_eq!((pg.primary, pg.primary_boot), (Some(OsdId(1)), BootId(21)), "the load goes back to where it was");
}

#[test]
fn changes_are_compare_and_set_on_the_epoch() {
    let mut cluster = Cluster::with_pool(3, 3);
    let pg = cluster.pg(0);
    let (primary, pg_id) = (pg.primary.expect("up"), pg.pg);
    let other = pg.members[1];
    cluster.change(0, primary, PgChange::Remove(other)).expect("removed");
    let repeat =
        ControlRequest::PgChange { pg: pg_id, epoch: Epoch(1), from: primary, change: PgChange::Remove(other) };
    let expected = ControlError::WrongEpoch { pg: pg_id, request: Epoch(1), current: Epoch(2) };
    assert_eq!(cluster.ask(repeat), Err(expected));
    let unknown = PgId { pool: PoolId(9), index: 0 };
    let request = ControlRequest::PgChange { pg: unknown, epoch: Epoch(1), from: primary, change: PgChange::NextEpoch };
    assert!(matches!(cluster.ask(request), Err(ControlError::NotFound { .. })));
}

#[test]
fn nobody_removes_the_last_in_sync_member() {
    let mut cluster = Cluster::with_pool(2, 2);
    let pg = cluster.pg(0);
    cluster.change(0, pg.members[0], PgChange::Remove(pg.members[1])).expect("one is left");
    assert!(refusal(cluster.change(0, pg.members[0], PgChange::Remove(pg.members[0]))).contains("R2"));
    assert_eq!(cluster.pg(0).in_sync, [pg.members[0]]);
}

#[test]
fn a_damaged_member_removes_itself_and_a_damaged_primary_hands_over() {
    let mut cluster = Cluster::with_pool(3, 3);
    let [first, second, third] = cluster.pg(0).members[..] else { panic!("three members") };
    assert!(cluster.change(0, second, PgChange::Remove(third)).is_err(), "only the primary removes others");
    cluster.change(0, first, PgChange::Resign).expect("two others are in sync");
    let pg = cluster.pg(0);
    assert!(pg.primary != Some(first) && pg.is_in_sync(first));
    let primary = pg.primary.expect("two are up");
    let other = if primary == second { third } else { second };
    cluster.change(0, other, PgChange::Remove(other)).expect("a member may leave");
    cluster.change(0, first, PgChange::Remove(first)).expect("a member may leave");
    let before = cluster.pg(0);
    cluster.change(0, primary, PgChange::Resign).expect("it stays, being the last");
    assert_eq!(cluster.pg(0), before);
}

#[test]
fn next_epoch_changes_nothing_else() {
    let mut cluster = Cluster::with_pool(3, 3);
    let before = cluster.pg(0);
    cluster.change(0, before.members[0], PgChange::NextEpoch).expect("asked by the primary");
    assert_eq!(cluster.pg(0), PgConfig { epoch: Epoch(2), ..before });
}

#[test]
fn a_replaced_process_never_comes_back() {
    let mut cluster = Cluster::with_pool(3, 3);
    cluster.register(1, 21).expect("registered");
    let state = cluster.state.clone();
    assert!(refusal(cluster.register(1, 11)).contains("R7"));
    cluster.command(Command::OsdDown { osd: OsdId(1), boot: BootId(11) }).expect("ignored");
    let stopping = ControlRequest::OsdStopping { osd: OsdId(1), boot: BootId(11) };
    assert!(cluster.ask(stopping).is_err());
    assert_eq!(cluster.state.pgs, state.pgs);
    assert!(cluster.state.is_up(OsdId(1)));
}

#[test]
fn a_process_heard_again_takes_over_only_where_nobody_else_can() {
    let mut cluster = Cluster::with_pool(2, 2);
    cluster.down(1);
    cluster.down(2);
    let before = cluster.pg(0);
    cluster.command(Command::OsdUp { osd: OsdId(1), boot: BootId(11) }).expect("noted");
    assert_eq!(cluster.pg(0), before, "it is not in sync");
    cluster.command(Command::OsdUp { osd: OsdId(2), boot: BootId(12) }).expect("noted");
    assert_eq!((cluster.pg(0).primary, cluster.pg(0).epoch), (Some(OsdId(2)), Epoch(4)));
}

#[test]
fn a_process_that_stopped_is_not_taken_for_up() {
    let mut cluster = Cluster::with_pool(2, 2);
    cluster.ask(ControlRequest::OsdStopping { osd: OsdId(1), boot: BootId(11) }).expect("noted");
    assert_eq!(cluster.pg(0).in_sync, [OsdId(2)]);
    cluster.command(Command::OsdUp { osd: OsdId(1), boot: BootId(11) }).expect("ignored");
    assert!(!cluster.state.is_up(OsdId(1)));
    assert!(cluster.register(1, 11).is_err(), "a late message");
    cluster.register(1, 21).expect("a new process");
    assert!(cluster.state.is_up(OsdId(1)));
}

#[test]
fn epochs_that_are_used_up_end_in_a_refusal() {
    let mut cluster = Cluster::with_pool(1, 1);
    let pg = cluster.pg(0).pg;
    cluster.state.pgs.get_mut(&pg).expect("exists").value.epoch = Epoch(Epoch::MAX.0 - 1);
    assert!(refusal(cluster.change(0, OsdId(1), PgChange::NextEpoch)).contains("used up"));
    cluster.down(1);
    cluster.register(1, 50).expect("nothing panics");
    assert_eq!(cluster.pg(0).epoch, Epoch::MAX);
}

#[test]
fn primaries_go_back_once_all_members_are_in_sync() {
    let mut cluster = Cluster::with_pool(3, 3);
    for osd in 1..=3 {
        cluster.register(osd, 20 + u64::from(osd)).expect("all were killed and started again");
    }
    let led = |cluster: &Cluster, osd| (0..32).filter(|i| cluster.pg(*i).primary == Some(OsdId(osd))).count();
    assert_eq!(led(&cluster, 3), 0, "whoever starts last leads nothing");
    let out_of_place: Vec<_> = cluster.state.out_of_place().collect();
    let (stale, fresh) = out_of_place.split_first().expect("some are");
    let mut pgs = fresh.to_vec();
    pgs.push((stale.0, Epoch(1)));
    cluster.command(Command::Rebalance { pgs }).expect("never refused");
    assert_eq!(cluster.state.out_of_place().collect::<Vec<_>>(), [*stale], "compare-and-set on the epoch");
    assert!(led(&cluster, 3) >= 9);
    cluster.down(1);
    assert_eq!(cluster.state.out_of_place().count(), 0, "not while a member is missing");
}
