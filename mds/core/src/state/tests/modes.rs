//! M1 to M4: which disks groups leave out, what an attachment of a non-persistent one leaves behind, and what is refused of it.

use super::*;
use DiskMode::{Dependent, IndependentNonpersistent as Nonpersistent, IndependentPersistent as Persistent};
use ashlar_types::control::{SnapshotState, SpaceUse};
use ashlar_types::job::JobState;

impl Cluster {
    fn set_modes(&mut self, volumes: &[&str], mode: DiskMode) -> Outcome {
        self.ask(ControlRequest::VolumeSetMode { names: volumes.iter().map(|n| name(n)).collect(), mode })
    }

    pub(super) fn set_mode(&mut self, volume: &str, mode: DiskMode) -> Outcome {
        self.set_modes(&[volume], mode)
    }

    /// A volume `v` whose layer 1 somebody has written; then it was made non-persistent. Its top is layer 2.
    fn with_nonpersistent() -> Cluster {
        let mut cluster = Cluster::with_volume(1, 1);
        cluster.use_once();
        cluster.set_mode("v", Nonpersistent).expect("nobody has it");
        cluster.pass_barriers();
        cluster
    }

    /// Gateway `g` has had it for a while.
    fn use_once(&mut self) {
        self.attach("g", AttachMode::Exclusive).expect("free");
        self.open("g", 1).expect("nobody is before him");
        self.detach(None).expect("attached");
        self.pass_barriers();
    }

    fn space(&self, volume: &str, blocks: &[(u64, u64)]) -> SpaceUse {
        let blocks = blocks.iter().map(|(layer, blocks)| (LayerId(*layer), *blocks)).collect();
        self.state.space_report(Some(&name(volume)), &blocks).expect("is there").volumes[0].1
    }
}

#[test]
fn a_volume_is_dependent_until_it_is_told_otherwise() {
    let mut cluster = Cluster::with_volume(1, 1);
    assert_eq!(cluster.show("v").expect("is there").disk_mode, Dependent);
    for mode in [Persistent, Nonpersistent, Persistent, Dependent] {
        let Ok(ControlReply::Volumes(infos)) = cluster.set_mode("v", mode) else { panic!("nobody has it") };
        assert_eq!(infos[0].disk_mode, mode);
        assert_eq!(cluster.show("v").expect("is there").disk_mode, mode);
    }
    assert_eq!(cluster.state.modes, Modes::default(), "nothing is kept of those that are as all are");
}

#[test]
fn what_an_attachment_has_written_ends_with_it() {
    let mut cluster = Cluster::with_nonpersistent();
    let before = cluster.show("v").expect("is there").stack_revision;
    assert_eq!(cluster.layers(), [2, 1]);
    cluster.attach("g", AttachMode::Exclusive).expect("free");
    let grant = cluster.open("g", 2).expect("the floor holds");
    assert_eq!((grant.layers, grant.stack_revision), (vec![LayerId(2), LayerId(1)], before));
    cluster.detach(Some("g")).expect("attached");
    assert_eq!(cluster.layers(), [3, 1], "on what it was");
    let barrier = cluster.state.view_since(Revision(0)).barriers.remove(0);
    assert!(barrier.retire.contains(LayerId(2)) && !barrier.retire.contains(LayerId(1)));
    assert!(barrier.floor.stack_revision > before, "nothing is written into what was given up");
    cluster.attach("g", AttachMode::Exclusive).expect("free");
    assert!(matches!(cluster.open("g", 2), Err(ControlError::Fencing { .. })), "A3");
    cluster.pass_barriers();
    assert_eq!(cluster.layer_ids(), [1, 3]);
    assert_eq!(cluster.open("g", 2).expect("the floor holds").layers, [LayerId(3), LayerId(1)]);
}

#[test]
fn the_layer_outlives_the_gateways_processes() {
    let mut cluster = Cluster::with_nonpersistent();
    cluster.attach("g", AttachMode::Exclusive).expect("free");
    cluster.open("g", 2).expect("the floor holds");
    assert!(cluster.open("g", 3).is_err(), "the first is fenced");
    cluster.pass_barriers();
    assert_eq!(cluster.open("g", 3).expect("the floor holds").layers, [LayerId(2), LayerId(1)]);
    cluster.attach("g", AttachMode::Force).expect("its own");
    cluster.pass_barriers();
    assert_eq!(
        cluster.open("g", 4).expect("the floor holds").layers,
        [LayerId(2), LayerId(1)],
        "it keeps its attachment"
    );
}

#[test]
fn another_host_that_takes_it_over_finds_what_it_was() {
    let mut cluster = Cluster::with_nonpersistent();
    cluster.attach("g", AttachMode::Exclusive).expect("free");
    cluster.open("g", 2).expect("the floor holds");
    cluster.attach("h", AttachMode::Force).expect("taken");
    assert_eq!(cluster.layers(), [3, 1]);
    assert!(matches!(cluster.open("h", 1), Err(ControlError::Fencing { .. })));
    cluster.pass_barriers();
    assert_eq!(cluster.open("h", 1).expect("the floor holds").layers, [LayerId(3), LayerId(1)]);
    assert_eq!(cluster.layer_ids(), [1, 3]);
}

#[test]
fn an_attachment_that_nobody_opened_leaves_the_layer_as_it_is() {
    let mut cluster = Cluster::with_nonpersistent();
    cluster.attach("g", AttachMode::Exclusive).expect("free");
    cluster.detach(None).expect("attached");
    assert_eq!(cluster.layers(), [2, 1]);
}

#[test]
fn one_that_nobody_ever_wrote_needs_no_barrier_and_falls_back_to_nothing() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    let names: Vec<String> = (0..64).map(|number| format!("c{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.iter().for_each(|clone| drop(cluster.clone_one("v@s", clone).expect("cloned")));
    cluster.set_modes(&names, Nonpersistent).expect("nobody has them");
    assert!(cluster.state.view_since(Revision(0)).barriers.is_empty());
    let layers = cluster.show("c0").expect("is there").layers;
    assert_eq!(layers.len(), 1);
    cluster.attach_disk("c0", "g").expect("free");
    cluster.open_disk("c0", "g", 1).expect("nobody is before him");
    cluster.ask(ControlRequest::Detach { name: disk("c0"), gateway: None }).expect("attached");
    cluster.pass_barriers();
    let now = cluster.show("c0").expect("is there");
    assert!(now.layers.len() == 1 && now.layers != layers && now.origin.is_some(), "its origin is what it was");
    cluster.set_mode("c0", Dependent).expect("nobody has it");
    assert_eq!((cluster.show("c0").expect("is there").layers, cluster.pairs()), (now.layers, vec![]));
}

#[test]
fn one_that_is_made_persistent_again_is_one_layer_when_that_is_merged() {
    for mode in [Dependent, Persistent] {
        let mut cluster = Cluster::with_nonpersistent();
        cluster.use_once();
        assert_eq!((cluster.layers(), cluster.pairs()), (vec![3, 1], vec![]), "the base is a tip");
        cluster.set_mode("v", mode).expect("nobody has it");
        assert_eq!(cluster.pairs(), [(1, 3)]);
        cluster.do_merges();
        cluster.pass_barriers();
        assert_eq!((cluster.layers(), cluster.layer_ids()), (vec![3], vec![3]));
    }
}

#[test]
fn a_mode_is_changed_while_nobody_has_the_volume() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.attach("g", AttachMode::Exclusive).expect("free");
    for mode in [Persistent, Nonpersistent] {
        let text = refusal(cluster.set_mode("v", mode));
        assert!(text.starts_with("volume v is attached to g; it becomes independent-"), "{text}");
        assert!(text.ends_with("when nobody has it; `volume detach v` takes it from there"), "{text}");
    }
    cluster.set_mode("v", Dependent).expect("it is that");
    cluster.detach(None).expect("attached");
    cluster.set_mode("v", Nonpersistent).expect("nobody has it");
    cluster.attach("g", AttachMode::Exclusive).expect("free");
    assert!(refusal(cluster.set_mode("v", Dependent)).contains("it becomes dependent when nobody has it"));
    cluster.set_mode("v", Nonpersistent).expect("it is that");
}

#[test]
fn a_request_sets_all_modes_or_none() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.volume("w", 512).expect("made");
    assert!(refusal(cluster.set_modes(&["w", "x"], Persistent)).contains("\"x\" does not exist"));
    assert_eq!(refusal(cluster.set_modes(&["w", "w"], Persistent)), "volume w is named twice");
    assert_eq!(refusal(cluster.set_modes(&[], Persistent)), "a request sets the mode of 1 to 64 volumes, not 0");
    assert!(refusal(cluster.set_modes(&["w"; 65], Persistent)).contains("not 65"));
    cluster.ask(ControlRequest::VolumeDelete { name: name("v"), with_snapshots: false }).expect("free");
    assert_eq!(refusal(cluster.set_modes(&["w", "v"], Persistent)), "volume v is being deleted");
    assert_eq!(cluster.show("w").expect("is there").disk_mode, Dependent);
    cluster.lazy("l", 512).expect("made");
    assert!(refusal(cluster.set_mode("l", Persistent)).contains("is being created"));
}

#[test]
fn what_would_last_is_refused_of_a_nonpersistent_volume() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    cluster.set_mode("v", Nonpersistent).expect("nobody has it");
    cluster.pass_barriers();
    let shared = cluster.attach("g", AttachMode::Shared);
    cluster.attach("g", AttachMode::Exclusive).expect("free");
    cluster.open("g", 1).expect("the floor holds");
    let shrink = ControlRequest::VolumeShrink { name: name("v"), size: 512, gateway: "g".into() };
    for (refused, what) in [
        (shared, "can't be shared: what is written to it belongs to one attachment"),
        (cluster.snapshot("v", "t").map(ControlReply::Snapshot), "can't be kept as a snapshot"),
        (cluster.revert("v", "s", true).map(ControlReply::Volume), "can't be reverted"),
        (cluster.ask(shrink), "can't be shrunk"),
        (cluster.set("v", Provision::Eager), "can't be made eager"),
    ] {
        let text = refusal(refused);
        assert!(text.starts_with("volume v is independent-nonpersistent and ") && text.contains(what), "{text}");
        assert!(text.contains("`volume set v --disk-mode dependent` makes it one that "), "{text}");
    }
    assert_eq!(cluster.show("v").expect("is there").attachments.len(), 1);
}

#[test]
fn its_size_stays_when_what_was_written_goes() {
    let mut cluster = Cluster::with_nonpersistent();
    cluster.attach("g", AttachMode::Exclusive).expect("free");
    cluster.open("g", 2).expect("the floor holds");
    cluster.ask(ControlRequest::VolumeExtend { name: name("v"), size: 2 << 30 }).expect("larger");
    cluster.detach(None).expect("attached");
    assert_eq!(cluster.show("v").expect("is there").size, 2 << 30);
}

#[test]
fn its_older_snapshots_are_read_cloned_and_deleted() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    cluster.snapshot("v", "t").expect("taken");
    cluster.pass_barriers();
    cluster.set_mode("v", Nonpersistent).expect("nobody has it");
    cluster.pass_barriers();
    cluster.attach("g", AttachMode::Exclusive).expect("free");
    cluster.open("g", 1).expect("the floor holds");
    cluster.attach_disk("v@s", "g").expect("to read");
    cluster.clone_one("v@t", "c").expect("cloned");
    cluster.ask(ControlRequest::Detach { name: disk("v@s"), gateway: None }).expect("attached");
    assert_eq!(cluster.layers(), [4, 3, 2, 1], "nothing of the volume itself has ended");
    cluster.snapshot_delete("v", "s").expect("nobody has it");
    assert_eq!(cluster.pairs(), [(1, 2)]);
    cluster.do_merges();
    cluster.detach(None).expect("attached");
    assert_eq!(cluster.layers(), [6, 3, 2], "5 is the clone's");
    cluster.delete_all_of("v").expect("nobody has it");
    cluster.pass_all_barriers();
    assert_eq!(cluster.state.modes, Modes::default(), "M1: hidden it is no disk any more");
    assert_eq!(cluster.show("c").expect("is there").disk_mode, Dependent);
    cluster.delete_all_of("c").expect("nobody has it");
    cluster.pass_all_barriers();
    cluster.assert_nothing_left();
}

#[test]
fn it_keeps_its_mode_in_the_bin_and_nothing_is_left_when_it_is_purged() {
    let mut cluster = Cluster::with_nonpersistent();
    let id = cluster.show("v").expect("is there").id;
    cluster.put_in_bin("v", Some(60)).expect("nobody has it");
    cluster.ask(ControlRequest::BinRestore { volume: id, name: None }).expect("in the bin");
    assert_eq!((cluster.show("v").expect("is there").disk_mode, cluster.layers()), (Nonpersistent, vec![2, 1]));
    cluster.use_once();
    assert_eq!(cluster.layers(), [3, 1]);
    cluster.put_in_bin("v", Some(60)).expect("nobody has it");
    cluster.ask(ControlRequest::BinPurge { volume: id }).expect("in the bin");
    cluster.pass_all_barriers();
    cluster.assert_nothing_left();
    assert_eq!(cluster.state.modes, Modes::default());
}

#[test]
fn independent_disks_are_left_out_of_snapshot_groups() {
    let mut cluster = Cluster::with_nonpersistent();
    for volume in ["a", "b", "c"] {
        cluster.volume(volume, 1 << 20).expect("made");
    }
    cluster.set_mode("b", Persistent).expect("nobody has it");
    let group = cluster.group("g", &["v", "a", "b", "c"]).expect("taken");
    assert_eq!(group.left_out, [name("v"), name("b")]);
    let members: Vec<&Name> = group.snapshots.iter().map(|snapshot| &snapshot.volume_name).collect();
    assert_eq!(members, [&name("a"), &name("c")]);
    cluster.pass_barriers();
    let Ok(ControlReply::SnapshotGroup(shown)) = cluster.ask(ControlRequest::SnapshotGroupShow { name: name("g") })
    else {
        panic!("is there")
    };
    assert!(shown.left_out.is_empty() && shown.state == SnapshotState::Available);
    let text = cluster.group("h", &["v", "b"]).expect_err("refused").to_string();
    assert_eq!(
        text,
        "nothing of v, b can be in snapshot group h: independent disks are left out, and there is no other"
    );
    assert_eq!(cluster.group("h", &["a", "b", "b"]).expect_err("refused").to_string(), "volume b is named twice");
    cluster.snapshot("b", "alone").expect("of itself");
}

#[test]
fn it_reserves_what_it_overwrites_as_after_a_snapshot() {
    const BLOCKS: u64 = 256;
    let mut cluster = Cluster::with_pool(1, 1);
    cluster.lazy("v", BLOCKS * 4096).expect("made");
    cluster.judge(true);
    cluster.use_once();
    let full = cluster.space("v", &[(1, 0)]).reserved;
    assert_eq!(cluster.space("v", &[(1, BLOCKS)]).reserved, full - BLOCKS * 4096);
    cluster.set_mode("v", Nonpersistent).expect("nobody has it");
    assert!(cluster.show("v").expect("is there").is_reserving, "what layer 1 has may all be overwritten");
    cluster.judge(true);
    cluster.pass_barriers();
    let used = cluster.space("v", &[(1, BLOCKS), (2, 10)]);
    assert_eq!((used.live, used.snapshots, used.reserved), ((BLOCKS + 10) * 4096, 0, full - 10 * 4096));
    cluster.attach("g", AttachMode::Exclusive).expect("free");
    cluster.open("g", 2).expect("the floor holds");
    cluster.detach(None).expect("attached");
    cluster.judge(false);
    let info = cluster.show("v").expect("is there");
    assert_eq!((info.provision, info.is_reserving), (Provision::Lazy, false), "what was given up is freed");
    let used = cluster.space("v", &[(1, BLOCKS), (2, 10)]);
    assert_eq!((used.live, used.garbage, used.reserved), (BLOCKS * 4096, 10 * 4096, full));
}

#[test]
fn without_room_for_what_it_overwrites_it_becomes_thin() {
    let mut cluster = Cluster::with_pool(1, 1);
    cluster.lazy("v", 1 << 20).expect("made");
    cluster.judge(true);
    cluster.use_once();
    cluster.set_mode("v", Nonpersistent).expect("nobody has it");
    cluster.judge(false);
    let info = cluster.show("v").expect("is there");
    assert_eq!((info.provision, info.disk_mode), (Provision::Thin, Nonpersistent));
}

#[test]
fn an_eager_volume_is_not_made_nonpersistent() {
    let mut cluster = Cluster::with_pool(1, 1);
    cluster.eager("v", 1 << 20).expect("made");
    cluster.keep_reserves();
    let text = refusal(cluster.set_mode("v", Nonpersistent));
    let way = "`volume set v --provision lazy` leaves it its space";
    assert_eq!(text, format!("volume v is eager, and can't be independent-nonpersistent as well; {way}"));
    cluster.set_mode("v", Persistent).expect("it is written all the same");
    cluster.set("v", Provision::Lazy).expect("asked for");
    cluster.set_mode("v", Nonpersistent).expect("nobody writes zeroes to it");
}

#[test]
fn what_fills_a_nonpersistent_clone_lies_below_what_goes() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    cluster.clone_one("v@s", "c").expect("cloned");
    cluster.set_mode("c", Nonpersistent).expect("nobody has it");
    cluster.attach_disk("c", "g").expect("free");
    let text = cluster.flatten("c").expect_err("refused").to_string();
    assert!(text.contains("all it has goes then; flatten it when nobody has it"), "{text}");
    cluster.ask(ControlRequest::Detach { name: disk("c"), gateway: None }).expect("attached");
    let job = cluster.flatten("c").expect("nobody has it");
    let layers = cluster.show("c").expect("is there").layers;
    assert_eq!(layers.len(), 2, "the lower one is filled");
    cluster.pass_barriers();
    let session = cluster.take(job.id, None).expect("nobody has it");
    assert_eq!(cluster.work(job.id, session).expect("nobody is before him").grant.layers, layers[1..]);
    cluster.attach_disk("c", "g").expect("free");
    cluster.open_disk("c", "g", 1).expect("the floor holds");
    cluster.ask(ControlRequest::Detach { name: disk("c"), gateway: None }).expect("attached");
    assert_eq!(cluster.work(job.id, session).expect("it works on").grant.layers, layers[1..]);
    cluster.ask(ControlRequest::JobDone { job: job.id, session }).expect("he has it");
    cluster.pass_barriers();
    let info = cluster.show("c").expect("is there");
    assert!(info.origin.is_none() && info.layers.len() == 2 && info.layers[1] == layers[1]);
    assert_eq!(info.disk_mode, Nonpersistent);
    assert!(cluster.state.jobs_to_take().next().is_none() && job.state == JobState::Waiting);
}

#[test]
fn a_volume_that_has_had_all_stacks_can_be_detached_but_not_attached() {
    let mut cluster = Cluster::with_nonpersistent();
    cluster.state.volumes.get_mut(&VolumeId(1)).expect("is there").stack_revision = StackRevision(u32::MAX - 2);
    cluster.state.raise_floor(VolumeId(1), |_| {});
    cluster.pass_barriers();
    for revision in [u32::MAX - 1, u32::MAX] {
        let attached = cluster.attach("g", AttachMode::Exclusive);
        if revision == u32::MAX {
            assert!(refusal(attached).contains("has had all the stacks that can be counted"));
            return;
        }
        cluster.open("g", 5).expect("the floor holds");
        cluster.detach(None).expect("attached");
        cluster.pass_barriers();
        assert_eq!(cluster.show("v").expect("is there").stack_revision, StackRevision(revision));
    }
}

#[test]
fn its_bytes_are_read_again() {
    let mut cluster = Cluster::with_nonpersistent();
    cluster.volume("w", 512).expect("made");
    cluster.volume("x", 512).expect("made");
    cluster.set_mode("w", Persistent).expect("nobody has it");
    cluster.set_mode("x", Nonpersistent).expect("nobody has it");
    assert_eq!(ClusterState::decode(&cluster.state.encode()), Ok(cluster.state));
}
