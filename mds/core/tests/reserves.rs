//! Reservations as the leader judges them: by what OSDs have told, and by which view.

mod support;

use ashlar_types::control::{
    AttachMode, ControlError, ControlReply, ControlRequest, DiskMode, OsdHeartbeat, OsdUsage, Provision, VolumeInfo,
    VolumeState,
};
use ashlar_types::perf::PerfReport;
use ashlar_types::{BLOCK_BYTES, BootId, Duration, LayerId, MdsId, Name, OsdId, Revision};
use support::Group;

const MIB: u64 = 1 << 20;
/// Of one chunk with its index, and of what an OSD keeps beside.
const CHUNK: u64 = 1032 * 4096;
const HEADROOM: u64 = 8 * MIB;

fn name(text: &str) -> Name {
    Name::new(text).expect("a good name")
}

/// A pool of one OSD.
fn group(seed: u64) -> Group {
    let mut group = Group::new(1, seed, |c| c.osd_silence_max = Duration::from_millis(60_000));
    group.request(ControlRequest::OsdCreate { host: "h".into() }).expect("made");
    let (osd, boot, address, host) = (OsdId(1), BootId(11), "h:1".to_owned(), "h".to_owned());
    group.request(ControlRequest::OsdRegister { osd, boot, address, host, capacity: 1 << 30 }).expect("known");
    let pool = ControlRequest::PoolCreate { name: name("p"), replicas: 1, min_size: None, over_commit: None };
    group.request(pool).expect("made");
    group
}

fn revision(group: &mut Group) -> Revision {
    match group.request(ControlRequest::ViewSince { revision: Revision(0) }) {
        Ok(ControlReply::View(view)) => view.revision,
        other => panic!("{other:?}"),
    }
}

/// The OSD tells, by this view; then what follows from it is decided.
fn tell(group: &mut Group, view: Revision, free: u64, unfilled: u64, layers: Vec<(LayerId, u64)>) {
    let (osd, boot, perf) = (OsdId(1), BootId(11), PerfReport::new());
    let usage = Box::new(OsdUsage { total: 1 << 30, free, unfilled, ..OsdUsage::default() });
    let heartbeat = OsdHeartbeat { osd, boot, suspects: vec![], usage, view, layers, perf };
    group.request(ControlRequest::OsdHeartbeat(heartbeat)).expect("its process is the present one");
    group.run(Duration::from_millis(50));
}

fn lazy(group: &mut Group, volume: &str, size: u64) -> Result<ControlReply, ControlError> {
    let (name, pool, provision) = (name(volume), None, Provision::Lazy);
    group.request(ControlRequest::VolumeCreate { name, size, pool, provision })
}

fn show(group: &mut Group, volume: &str) -> Option<VolumeInfo> {
    match group.request(ControlRequest::VolumeShow { name: name(volume) }) {
        Ok(ControlReply::Volume(info)) => Some(info),
        Err(ControlError::NotFound { .. }) => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reservation_is_judged_by_what_is_told_with_the_view_that_has_it() {
    let mut group = group(1);
    tell(&mut group, Revision(1), 100 * MIB, 0, vec![]);
    let before = revision(&mut group);
    lazy(&mut group, "v", 40 * MIB).expect("there is room");
    tell(&mut group, before, 100 * MIB, 0, vec![]);
    assert_eq!(show(&mut group, "v").expect("is there").state, VolumeState::Creating, "that was of an older view");
    let with_it = revision(&mut group);
    tell(&mut group, with_it, 50 * MIB, 10 * CHUNK + HEADROOM, vec![]);
    assert_eq!(show(&mut group, "v").expect("is there").state, VolumeState::Available);
}

#[test]
fn of_two_that_do_not_fit_together_the_older_one_stays() {
    let mut group = group(2);
    tell(&mut group, Revision(1), 100 * MIB, 0, vec![]);
    lazy(&mut group, "a", 60 * MIB).expect("there is room");
    lazy(&mut group, "b", 60 * MIB).expect("there is, as far as was told");
    let both = revision(&mut group);
    tell(&mut group, both, 100 * MIB, 30 * CHUNK + HEADROOM, vec![]);
    assert!(show(&mut group, "b").is_none_or(|b| b.state == VolumeState::Deleting), "the newer one goes");
    tell(&mut group, both, 100 * MIB, 30 * CHUNK + HEADROOM, vec![]);
    assert_eq!(show(&mut group, "a").expect("is there").state, VolumeState::Creating, "that was with the other one");
    let one = revision(&mut group);
    tell(&mut group, one, 100 * MIB, 15 * CHUNK + HEADROOM, vec![]);
    assert_eq!(show(&mut group, "a").expect("is there").state, VolumeState::Available);
}

#[test]
fn what_has_no_room_is_refused_before_it_is_made() {
    let mut group = group(3);
    tell(&mut group, Revision(1), 50 * MIB, 0, vec![]);
    let error = lazy(&mut group, "v", 60 * MIB).expect_err("no room").to_string();
    assert!(error.contains("volume v: osd.1 has 52428800 bytes"), "{error}");
    assert_eq!(show(&mut group, "v"), None);
}

#[test]
fn a_leader_that_has_heard_nobody_yet_reserves_nothing() {
    let mut group = group(6);
    tell(&mut group, Revision(1), 100 * MIB, 0, vec![]);
    group.crash(MdsId(1));
    group.start(MdsId(1));
    group.run(Duration::from_millis(500));
    assert_eq!(lazy(&mut group, "v", 4 * MIB), Err(ControlError::Busy));
    tell(&mut group, Revision(1), 100 * MIB, 0, vec![]);
    lazy(&mut group, "v", 4 * MIB).expect("there is room");
}

/// What is in the top layer may be overwritten all of it, so that much has to be free again.
#[test]
fn a_snapshot_of_a_reserved_volume_needs_as_much_again_as_it_has_written() {
    let mut group = group(4);
    tell(&mut group, Revision(1), 100 * MIB, 0, vec![]);
    lazy(&mut group, "v", 40 * MIB).expect("there is room");
    let view = revision(&mut group);
    let top = show(&mut group, "v").expect("is there").layers[0];
    let written = 20 * MIB / u64::from(BLOCK_BYTES);
    let unfilled = 10 * CHUNK + HEADROOM - 20 * MIB;
    tell(&mut group, view, unfilled + 20 * MIB, unfilled, vec![(top, written)]);
    let snapshot = |thin| ControlRequest::SnapshotCreate { volume: name("v"), name: name("s"), taken_at: 1, thin };
    let error = group.request(snapshot(false)).expect_err("no room for that and the headroom").to_string();
    assert!(error.contains("--thin-snapshots"), "{error}");
    tell(&mut group, view, unfilled + 28 * MIB, unfilled, vec![]);
    group.request(snapshot(false)).expect("there is room");
}

/// As after a snapshot: what its base has may all be overwritten.
#[test]
fn a_reserved_volume_becomes_nonpersistent_where_what_it_has_written_has_room_again() {
    let mut group = group(8);
    tell(&mut group, Revision(1), 100 * MIB, 0, vec![]);
    lazy(&mut group, "v", 40 * MIB).expect("there is room");
    let view = revision(&mut group);
    let top = show(&mut group, "v").expect("is there").layers[0];
    let unfilled = 10 * CHUNK + HEADROOM - 20 * MIB;
    tell(&mut group, view, 10 * CHUNK + HEADROOM, 10 * CHUNK + HEADROOM, vec![]);
    let set = |mode| ControlRequest::VolumeSetMode { names: vec![name("v")], mode };
    let gateway = || "g".to_owned();
    let attach = ControlRequest::Attach {
        name: name("v").into(),
        gateway: gateway(),
        mode: AttachMode::Exclusive,
        read_only: false,
    };
    group.request(attach).expect("free");
    group
        .request(ControlRequest::OpenAttachment { name: name("v").into(), gateway: gateway(), boot: BootId(3) })
        .expect("his");
    group.request(ControlRequest::Detach { name: name("v").into(), gateway: None }).expect("attached");
    let view = revision(&mut group);
    tell(&mut group, view, unfilled + 20 * MIB, unfilled, vec![(top, 20 * MIB / u64::from(BLOCK_BYTES))]);
    let error = group.request(set(DiskMode::IndependentNonpersistent)).expect_err("no room").to_string();
    let what = "no room to reserve for what volume v overwrites after it is non-persistent (`volume set --provision thin` lets one become thin)";
    assert!(error.contains(what), "{error}");
    group.request(set(DiskMode::IndependentPersistent)).expect("overwrites nothing");
    tell(&mut group, view, unfilled + 28 * MIB, unfilled, vec![]);
    group.request(set(DiskMode::IndependentNonpersistent)).expect("there is room");
}

#[test]
fn of_a_group_the_sum_has_to_have_room() {
    let mut group = group(7);
    tell(&mut group, Revision(1), 200 * MIB, 0, vec![]);
    let (mut tops, written) = (Vec::new(), 10 * MIB / u64::from(BLOCK_BYTES));
    for volume in ["a", "b"] {
        lazy(&mut group, volume, 20 * MIB).expect("there is room");
        tops.push((show(&mut group, volume).expect("is there").layers[0], written));
    }
    let view = revision(&mut group);
    tell(&mut group, view, 59 * MIB, 32 * MIB, tops);
    let snapshot = |volumes: &[&str]| ControlRequest::SnapshotGroupCreate {
        name: name("g"),
        volumes: volumes.iter().map(|volume| name(volume)).collect(),
        taken_at: 1,
    };
    let error =
        group.request(snapshot(&["a", "b"])).expect_err("10, 10 and the headroom of 8 are more than 27").to_string();
    assert!(error.contains("what volume a, b overwrites"), "{error}");
    tell(&mut group, view, 62 * MIB, 32 * MIB, vec![]);
    group.request(snapshot(&["a", "b"])).expect("there is room");
}

#[test]
fn space_is_told_by_what_it_is_for() {
    let mut group = group(5);
    tell(&mut group, Revision(1), 100 * MIB, 0, vec![]);
    let create =
        ControlRequest::VolumeCreate { name: name("v"), size: 40 * MIB, pool: None, provision: Provision::Thin };
    group.request(create).expect("made");
    let top = show(&mut group, "v").expect("is there").layers[0];
    tell(&mut group, Revision(1), 100 * MIB, 0, vec![(top, 5), (LayerId(99), 7)]);
    match group.request(ControlRequest::SpaceUse { volume: Some(name("v")) }) {
        Ok(ControlReply::Space(report)) => {
            assert_eq!((report.volumes[0].1.live, report.orphaned), (5 * 4096, 7 * 4096));
            assert_eq!(report.pools[0].1.used.live, 5 * 4096);
        }
        other => panic!("{other:?}"),
    }
    tell(&mut group, Revision(1), 100 * MIB, 0, vec![(LayerId(99), 0)]);
    match group.request(ControlRequest::SpaceUse { volume: None }) {
        Ok(ControlReply::Space(report)) => assert_eq!(report.orphaned, 0),
        other => panic!("{other:?}"),
    }
}
