//! Groups of one and of three: leaders lost, disks that forget, followers that were away.

mod support;

use ashlar_mds_core::node::NodeEvent;
use ashlar_types::control::{ControlError, ControlReply, ControlRequest, OsdHeartbeat, OsdUsage};
use ashlar_types::perf::{OsdPerf, PerfReport, Stage};
use ashlar_types::{BootId, Duration, Histogram, MdsId, Name, OsdId, Revision};
use support::Group;

fn name(text: &str) -> Name {
    Name::new(text).expect("a good name")
}

fn create_osd() -> ControlRequest {
    ControlRequest::OsdCreate { host: "host".into() }
}

fn register(osd: u32, boot: u64) -> ControlRequest {
    ControlRequest::OsdRegister {
        osd: OsdId(osd),
        boot: BootId(boot),
        address: format!("host:{}", 7000 + osd),
        host: "host".into(),
        capacity: 1 << 30,
    }
}

fn heartbeat(osd: u32, boot: u64, suspects: Vec<(OsdId, BootId)>) -> ControlRequest {
    let usage = Box::new(OsdUsage { total: 10, used: 3, ..OsdUsage::default() });
    ControlRequest::OsdHeartbeat(OsdHeartbeat {
        osd: OsdId(osd),
        boot: BootId(boot),
        suspects,
        usage,
        view: Revision(0),
        layers: vec![],
        perf: PerfReport::new(),
    })
}

fn osd_count(group: &mut Group) -> usize {
    match group.request(ControlRequest::ViewSince { revision: Revision(0) }) {
        Ok(ControlReply::View(view)) => view.osds.len(),
        other => panic!("{other:?}"),
    }
}

fn is_up(group: &mut Group, osd: u32) -> bool {
    match group.request(ControlRequest::ViewSince { revision: Revision(0) }) {
        Ok(ControlReply::View(view)) => view.osds[&OsdId(osd)].up,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_group_of_one_leads_as_soon_as_its_vote_is_durable() {
    let mut group = Group::new(1, 1, |_| {});
    group.run(Duration::from_millis(30));
    assert_eq!(group.leader(), Some(MdsId(1)));
    let id = group.send_request(MdsId(1), create_osd());
    assert_eq!(group.answer(id), None, "N1: nothing is answered before it is durable");
    group.run(Duration::from_millis(30));
    assert!(matches!(group.answer(id), Some(Ok(ControlReply::OsdCreated { osd: OsdId(1), .. }))));
}

#[test]
fn a_group_of_one_has_everything_after_a_restart() {
    let mut group = Group::new(1, 2, |c| (c.snapshot_entries, c.log_entries_kept) = (7, 3));
    for expected in 1..=40 {
        let reply = group.request(create_osd());
        assert!(matches!(reply, Ok(ControlReply::OsdCreated { osd, .. }) if osd == OsdId(expected)), "{reply:?}");
        if expected % 5 == 0 {
            group.crash(MdsId(1));
            group.start(MdsId(1));
        }
    }
    assert!(group.machines[&MdsId(1)].disk.entries.len() < 20, "snapshots keep the log short");
    assert_eq!(osd_count(&mut group), 40);
}

#[test]
fn a_committed_command_survives_the_loss_of_its_leader() {
    for seed in 0..20 {
        let mut group = Group::new(3, seed, |_| {});
        for round in 0..4 {
            assert!(group.request(create_osd()).is_ok());
            let leader = group.wait_for_leader();
            group.crash(leader);
            assert!(osd_count(&mut group) > round, "seed {seed}");
            group.start(leader);
            group.run(Duration::from_millis(500));
        }
    }
}

#[test]
fn three_nodes_agree_under_loss_and_restarts() {
    for seed in 100..130 {
        let mut group = Group::new(3, seed, |c| (c.snapshot_entries, c.log_entries_kept) = (10, 5));
        group.loss = 10;
        let mut acknowledged = 0;
        for _ in 0..30 {
            let victim = MdsId(1 + group.dice.roll(3));
            if group.dice.roll(3) == 0 {
                group.crash(victim);
                let span = Duration::from_millis(group.dice.roll(800));
                group.run(span);
                group.start(victim);
            }
            if let Ok(ControlReply::OsdCreated { .. }) = group.request(create_osd()) {
                acknowledged += 1;
            }
            assert!(osd_count(&mut group) >= acknowledged, "seed {seed}: an acknowledged command is there");
        }
        group.loss = 0;
        group.run(Duration::from_millis(5000));
        let states: Vec<_> = group.machines.values().filter_map(|m| m.node.as_ref()).map(|n| n.state()).collect();
        assert_eq!(states.len(), 3);
        assert!(states.windows(2).all(|w| w[0] == w[1]), "seed {seed}: all nodes reach the same state");
    }
}

#[test]
fn a_follower_that_was_away_long_gets_a_snapshot() {
    let mut group = Group::new(3, 5, |c| (c.snapshot_entries, c.log_entries_kept) = (10, 2));
    let leader = group.wait_for_leader();
    let away = group.machines.keys().copied().find(|id| *id != leader).expect("three nodes");
    group.crash(away);
    for _ in 0..40 {
        group.request(create_osd()).expect("two of three are enough");
    }
    group.start(away);
    group.run(Duration::from_millis(3000));
    assert!(group.snapshots_sent > 0);
    let applied = |id: MdsId| group.machines[&id].node.as_ref().expect("started").state().applied();
    assert_eq!(applied(away), applied(leader));
    group.crash(away);
    group.start(away);
    group.run(Duration::from_millis(3000));
    assert_eq!(osd_count(&mut group), 40);
}

#[test]
fn a_leader_that_is_cut_off_answers_no_read() {
    let mut group = Group::new(3, 6, |_| {});
    group.request(create_osd()).expect("decided");
    let old = group.wait_for_leader();
    group.cut = vec![old];
    let read = group.send_request(old, ControlRequest::ViewSince { revision: Revision(0) });
    let write = group.send_request(old, create_osd());
    group.request(create_osd()).expect("the others go on");
    group.run(Duration::from_millis(6000));
    assert!(matches!(group.answer(read), Some(Err(ControlError::NotLeader { .. } | ControlError::Undecided))));
    assert!(matches!(group.answer(write), Some(Err(ControlError::NotLeader { .. } | ControlError::Undecided))));
    group.cut.clear();
    assert_eq!(osd_count(&mut group), 2, "the cut off leader's command was overwritten");
}

#[test]
fn followers_name_the_leader() {
    let mut group = Group::new(3, 7, |_| {});
    let leader = group.wait_for_leader();
    group.run(Duration::from_millis(500));
    let follower = group.machines.keys().copied().find(|id| *id != leader).expect("three nodes");
    let id = group.send_request(follower, create_osd());
    let expected = Some(format!("node{}:7400", leader.0));
    assert_eq!(group.answer(id), Some(Err(ControlError::NotLeader { leader: expected })));
}

#[test]
fn the_same_seed_gives_the_same_actions() {
    let run = || {
        let mut group = Group::new(3, 99, |_| {});
        group.loss = 20;
        for _ in 0..5 {
            let _ = group.request(create_osd());
        }
        group.trace
    };
    let (first, second) = (run(), run());
    assert!(first == second, "N4");
}

#[test]
fn a_silent_osd_goes_down_and_a_heard_one_stays_up() {
    let mut group = Group::new(1, 8, |_| {});
    for osd in 1..=3 {
        group.request(create_osd()).expect("decided");
        group.request(register(osd, 10 + u64::from(osd))).expect("decided");
    }
    group
        .request(ControlRequest::PoolCreate { name: name("p"), replicas: 3, min_size: None, over_commit: None })
        .expect("decided");
    for _ in 0..20 {
        group.send_request(MdsId(1), heartbeat(1, 11, vec![]));
        group.send_request(MdsId(1), heartbeat(2, 12, vec![]));
        group.run(Duration::from_millis(100));
    }
    assert!(is_up(&mut group, 1) && is_up(&mut group, 2) && !is_up(&mut group, 3));
    group.request(heartbeat(3, 13, vec![])).expect("its process is the present one");
    group.run(Duration::from_millis(50));
    assert!(is_up(&mut group, 3), "who is heard again is up again");
}

#[test]
fn a_suspected_osd_goes_down_soon_unless_it_is_heard() {
    let mut group = Group::new(1, 9, |_| {});
    for osd in 1..=2 {
        group.request(create_osd()).expect("decided");
        group.request(register(osd, 10 + u64::from(osd))).expect("decided");
    }
    group.request(heartbeat(1, 11, vec![(OsdId(2), BootId(12))])).expect("heard");
    group.request(heartbeat(2, 12, vec![])).expect("heard");
    group.run(Duration::from_millis(400));
    assert!(is_up(&mut group, 2), "it was heard after the suspicion");
    group.step(MdsId(1), NodeEvent::OsdConnectionLost { osd: OsdId(2), boot: BootId(12) });
    group.run(Duration::from_millis(400));
    assert!(!is_up(&mut group, 2));
    group.step(MdsId(1), NodeEvent::OsdConnectionLost { osd: OsdId(1), boot: BootId(99) });
    group.run(Duration::from_millis(400));
    assert!(is_up(&mut group, 1), "a connection of another process says nothing");
}

/// An OSD, its boot, and how much each of its histograms counts.
type Told = (u32, u64, Vec<(Stage, u64)>);

/// What the leader knows of each OSD's histograms.
fn perf(group: &mut Group) -> Vec<Told> {
    let counts = |stages: PerfReport| stages.into_iter().map(|(stage, of)| (stage, of.count())).collect();
    match group.request(ControlRequest::PerfStatus) {
        Ok(ControlReply::Perf(osds)) => {
            osds.into_iter().map(|OsdPerf { osd, boot, stages }| (osd.0, boot.0, counts(stages))).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn tell(group: &mut Group, boot: u64, stages: &[(Stage, u64)]) {
    let histogram = |count: u64| {
        let mut histogram = Histogram::default();
        (0..count).for_each(|value| histogram.add(value));
        histogram
    };
    let perf = stages.iter().map(|(stage, count)| (*stage, histogram(*count))).collect();
    let (osd, boot, usage) = (OsdId(1), BootId(boot), Box::new(OsdUsage::default()));
    let heartbeat = OsdHeartbeat { osd, boot, suspects: vec![], usage, view: Revision(0), layers: vec![], perf };
    group.request(ControlRequest::OsdHeartbeat(heartbeat)).expect("its process is the present one");
}

#[test]
fn histograms_are_kept_by_stage_and_end_with_their_process() {
    let mut group = Group::new(1, 14, |_| {});
    group.request(create_osd()).expect("decided");
    group.request(register(1, 11)).expect("decided");
    assert_eq!(perf(&mut group), []);
    tell(&mut group, 11, &[(Stage::Write, 2), (Stage::Read, 3)]);
    tell(&mut group, 11, &[(Stage::Read, 4)]);
    tell(&mut group, 11, &[]);
    assert_eq!(perf(&mut group), [(1, 11, vec![(Stage::Write, 2), (Stage::Read, 4)])]);
    group.request(register(1, 12)).expect("decided");
    tell(&mut group, 12, &[]);
    assert_eq!(perf(&mut group), [(1, 12, vec![])]);
}

#[test]
fn a_new_leader_gives_every_osd_a_full_grace_period() {
    let mut group = Group::new(3, 10, |_| {});
    group.request(create_osd()).expect("decided");
    group.request(register(1, 11)).expect("decided");
    let old = group.wait_for_leader();
    group.run(Duration::from_millis(1000));
    group.crash(old);
    group.wait_for_leader();
    group.run(Duration::from_millis(1000));
    assert!(is_up(&mut group, 1));
    group.run(Duration::from_millis(1500));
    assert!(!is_up(&mut group, 1));
}

#[test]
fn a_node_that_slept_blames_nobody_for_it() {
    let mut group = Group::new(1, 11, |_| {});
    group.request(create_osd()).expect("decided");
    group.request(register(1, 11)).expect("decided");
    group.now = group.now + Duration::from_millis(60_000);
    group.run(Duration::from_millis(100));
    assert!(is_up(&mut group, 1), "F1");
}

#[test]
fn primaries_are_put_back_when_the_cluster_is_quiet() {
    let mut group = Group::new(1, 12, |_| {});
    for boot in [10, 20] {
        for osd in 1..=3 {
            if boot == 10 {
                group.request(create_osd()).expect("decided");
            }
            group.request(register(osd, boot + u64::from(osd))).expect("decided");
        }
        if boot == 10 {
            let pool = ControlRequest::PoolCreate { name: name("p"), replicas: 3, min_size: None, over_commit: None };
            group.request(pool).expect("decided");
        }
    }
    let led_by_third = |group: &Group| {
        let node = group.machines[&MdsId(1)].node.as_ref().expect("started");
        node.view_since(Revision(0)).pgs.values().filter(|c| c.primary == Some(OsdId(3))).count()
    };
    assert_eq!(led_by_third(&group), 0);
    for _ in 0..900 {
        for osd in 1..=3 {
            group.send_request(MdsId(1), heartbeat(osd, 20 + u64::from(osd), vec![]));
        }
        group.run(Duration::from_millis(100));
    }
    assert!(led_by_third(&group) >= 10, "{}", led_by_third(&group));
}
