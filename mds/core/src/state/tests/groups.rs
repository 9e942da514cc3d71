//! U1 and U2: what a snapshot group is of, who waits for its cut, and what ends it.

use super::*;
use ashlar_types::control::{SnapshotGroupInfo, SnapshotState};

impl Cluster {
    fn with_volumes(volumes: &[&str]) -> Cluster {
        let mut cluster = Cluster::with_pool(1, 1);
        for volume in volumes {
            cluster.volume(volume, 1 << 30).expect("made");
        }
        cluster
    }

    pub(super) fn group(&mut self, group: &str, volumes: &[&str]) -> Result<SnapshotGroupInfo, ControlError> {
        let volumes = volumes.iter().map(|volume| name(volume)).collect();
        match self.ask(ControlRequest::SnapshotGroupCreate { name: name(group), volumes, taken_at: 5 })? {
            ControlReply::SnapshotGroup(info) => Ok(info),
            other => panic!("{other:?}"),
        }
    }

    fn shown_group(&self, group: &str) -> Result<SnapshotGroupInfo, ControlError> {
        match self.state.query(&ControlRequest::SnapshotGroupShow { name: name(group) }).expect("a read")? {
            ControlReply::SnapshotGroup(info) => Ok(info),
            other => panic!("{other:?}"),
        }
    }

    fn groups(&self) -> Vec<String> {
        match self.state.query(&ControlRequest::SnapshotGroupList).expect("a read") {
            Ok(ControlReply::SnapshotGroups(groups)) => groups.iter().map(|g| g.name.to_string()).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn delete_group(&mut self, group: &str) -> Outcome {
        self.ask(ControlRequest::SnapshotGroupDelete { name: name(group) })
    }

    fn opened(&mut self, volume: &str) -> AttachGrant {
        self.attach_disk(volume, "g").expect("free");
        self.open_disk(volume, "g", 1).expect("fresh")
    }

    fn grant(&self, volume: &str, session: ashlar_types::SessionId) -> Result<AttachGrant, ControlError> {
        match self.state.query(&ControlRequest::SessionGrant { name: disk(volume), session }).expect("a read")? {
            ControlReply::Opened(grant) => Ok(grant),
            other => panic!("{other:?}"),
        }
    }

    /// The barrier of one volume, and of no other.
    fn pass_barrier_of(&mut self, volume: &str) {
        let volume = self.show(volume).expect("exists").id;
        let barriers = self.state.view_since(Revision(0)).barriers;
        let barrier = barriers.into_iter().find(|b| b.volume == volume).expect("pending");
        self.ask(ControlRequest::BarrierPassed { barrier: barrier.id, pgs: barrier.pgs }).expect("never refused");
    }
}

fn names_of(group: &SnapshotGroupInfo) -> Vec<String> {
    group.snapshots.iter().map(|s| format!("{}@{}", s.volume_name, s.name)).collect()
}

fn is_fencing<T>(result: &Result<T, ControlError>) -> bool {
    matches!(result, Err(ControlError::Fencing { .. }))
}

#[test]
fn a_group_is_a_snapshot_of_each_volume_and_available_when_all_are() {
    let mut cluster = Cluster::with_volumes(&["a", "b", "c"]);
    let group = cluster.group("g", &["b", "a"]).expect("taken");
    assert_eq!((names_of(&group), group.state), (vec!["a@g".into(), "b@g".into()], SnapshotState::Creating));
    assert!(group.snapshots.iter().all(|s| s.group == Some(name("g")) && s.taken_at == 5));
    cluster.pass_barrier_of("a");
    let group = cluster.shown_group("g").expect("there");
    let states: Vec<SnapshotState> = group.snapshots.iter().map(|s| s.state).collect();
    assert_eq!(states, [SnapshotState::Available, SnapshotState::Creating]);
    assert_eq!(group.state, SnapshotState::Creating);
    cluster.pass_barrier_of("b");
    assert_eq!(cluster.shown_group("g").expect("there").state, SnapshotState::Available);
    let single = cluster.snapshot("c", "g").expect("another volume may have one of that name");
    assert_eq!(single.group, None);
}

/// Without this a write that is acknowledged by the new stack of one volume may be followed by one into the old stack of the other: the snapshots
/// would hold the second and not the first.
#[test]
fn nobody_is_granted_a_volume_of_the_group_until_all_refuse_their_old_stacks() {
    let mut cluster = Cluster::with_volumes(&["a", "b", "c"]);
    let (a, b, c) = (cluster.opened("a"), cluster.opened("b"), cluster.opened("c"));
    cluster.group("g", &["a", "b"]).expect("taken");
    cluster.pass_barrier_of("a");
    assert!(is_fencing(&cluster.grant("a", a.session)) && is_fencing(&cluster.grant("b", b.session)));
    assert!(is_fencing(&cluster.open_disk("a", "g", 1)), "asking for it anew is no way around");
    assert!(cluster.grant("c", c.session).is_ok(), "who isn't frozen goes on");
    cluster.pass_barrier_of("b");
    for (volume, before) in [("a", a), ("b", b)] {
        let now = cluster.grant(volume, before.session).expect("the cut is over");
        assert_eq!((now.stack_revision, now.layers.len()), (StackRevision(2), 2));
    }
}

#[test]
fn who_is_given_a_volume_anew_waits_for_the_cut_as_well() {
    let mut cluster = Cluster::with_volumes(&["a", "b"]);
    cluster.opened("a");
    cluster.group("g", &["a", "b"]).expect("taken");
    cluster.pass_barrier_of("a");
    cluster.revert("a", "g", true).expect("its own snapshot is available");
    cluster.pass_barrier_of("a");
    cluster.attach_disk("a", "h").expect("free");
    assert!(is_fencing(&cluster.open_disk("a", "h", 2)), "b can still be written by its old stack");
    let text = refusal(cluster.open_disk("a", "h", 2).map(|_| ControlReply::Pools(vec![])));
    assert!(text.contains("pg.1.0"), "{text}");
    cluster.pass_barrier_of("b");
    assert_eq!(cluster.open_disk("a", "h", 2).expect("the cut is over").stack_revision, StackRevision(3));
}

#[test]
fn reading_what_is_frozen_does_not_wait_for_the_other_volumes() {
    let mut cluster = Cluster::with_volumes(&["a", "b"]);
    cluster.group("g", &["a", "b"]).expect("taken");
    cluster.pass_barrier_of("a");
    cluster.attach_disk("a@g", "r").expect("by many");
    assert!(cluster.open_disk("a@g", "r", 1).is_ok());
}

#[test]
fn cuts_of_several_groups_are_waited_for_one_and_all() {
    let mut cluster = Cluster::with_volumes(&["a", "b", "c"]);
    let grants: Vec<AttachGrant> = ["a", "b", "c"].into_iter().map(|volume| cluster.opened(volume)).collect();
    cluster.group("g", &["a", "b"]).expect("taken");
    cluster.group("h", &["b", "c"]).expect("while another's barrier is pending, as a single one");
    let waits = |cluster: &Cluster| {
        let of = |nth: usize, volume| is_fencing(&cluster.grant(volume, grants[nth].session));
        [of(0, "a"), of(1, "b"), of(2, "c")]
    };
    cluster.pass_barrier_of("a");
    assert_eq!(waits(&cluster), [true; 3]);
    cluster.pass_barrier_of("b");
    assert_eq!(waits(&cluster), [false, true, true], "b's barrier carries both floors");
    cluster.pass_barrier_of("c");
    assert_eq!(waits(&cluster), [false; 3]);
    cluster.group("i", &["a", "b"]).expect("taken");
    cluster.group("j", &["a", "c"]).expect("taken");
    for (volume, is_closed) in [("a", true), ("b", false)] {
        cluster.ask(ControlRequest::Detach { name: disk(volume), gateway: None }).expect("attached");
        let delete = ControlRequest::VolumeDelete { name: name(volume), with_snapshots: true };
        cluster.ask(delete).expect("nobody has it");
        assert_eq!(is_fencing(&cluster.grant("c", grants[2].session)), is_closed || cluster.groups() == ["h", "j"]);
    }
}

#[test]
fn a_group_is_refused_whole() {
    let mut cluster = Cluster::with_volumes(&["a", "b", "c"]);
    cluster.snapshot("b", "s").expect("taken");
    cluster.pass_barriers();
    cluster.ask(ControlRequest::VolumeDelete { name: name("c"), with_snapshots: false }).expect("free");
    let before = cluster.state.clone();
    let many: Vec<String> = (0..65).map(|n| format!("v{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (group, volumes, reason) in [
        ("s", &["a", "b"][..], "snapshot \"b@s\" exists already"),
        ("g", &["a", "none"], "volume \"none\" does not exist"),
        ("g", &["a", "c"], "volume c is being deleted"),
        ("g", &["a", "b", "a"], "volume a is named twice"),
        ("g", &[], "a snapshot group is of 1 to 64 volumes, not 0"),
        ("g", &many, "a snapshot group is of 1 to 64 volumes, not 65"),
    ] {
        assert_eq!(cluster.group(group, volumes).expect_err("refused").to_string(), reason);
    }
    let unchanged = ClusterState { applied: cluster.state.applied, ..before };
    assert_eq!(cluster.state, unchanged, "S3");
    cluster.group("g", &["a"]).expect("taken");
    assert_eq!(cluster.group("g", &["b"]).expect_err("twice").to_string(), "snapshot group \"g\" exists already");
    cluster.down(1);
    assert!(cluster.group("h", &["a", "b"]).expect_err("it would wait").to_string().contains("has no primary"));
}

#[test]
fn members_leave_one_by_one_and_the_last_takes_the_group_along() {
    let mut cluster = Cluster::with_volumes(&["a", "b", "c"]);
    cluster.group("g", &["a", "b", "c"]).expect("taken");
    cluster.pass_barriers();
    cluster.snapshot_delete("b", "g").expect("nobody has it");
    assert_eq!(names_of(&cluster.shown_group("g").expect("there")), ["a@g", "c@g"]);
    cluster.snapshot("b", "g").expect("the name is free");
    assert_eq!(names_of(&cluster.shown_group("g").expect("there")), ["a@g", "c@g"], "it is none of the group");
    cluster.ask(ControlRequest::VolumeDelete { name: name("a"), with_snapshots: true }).expect("nobody has it");
    cluster.snapshot_delete("c", "g").expect("nobody has it");
    assert!(cluster.groups().is_empty());
    assert_eq!(cluster.shown_group("g").expect_err("gone").to_string(), "snapshot group \"g\" does not exist");
}

#[test]
fn deleting_a_group_deletes_what_is_left_of_it_or_nothing() {
    let mut cluster = Cluster::with_volumes(&["a", "b"]);
    cluster.group("g", &["a", "b"]).expect("taken");
    cluster.group("h", &["a", "b"]).expect("taken");
    cluster.pass_barriers();
    cluster.attach_disk("b@g", "r").expect("by many");
    let refused = refusal(cluster.delete_group("g"));
    assert_eq!(refused, "snapshot b@g is attached to r; `volume detach b@g` takes it from there");
    assert_eq!(names_of(&cluster.shown_group("g").expect("there")).len(), 2);
    cluster.ask(ControlRequest::Detach { name: disk("b@g"), gateway: None }).expect("attached");
    cluster.delete_group("g").expect("nobody has one");
    assert_eq!(cluster.groups(), ["h"]);
    assert!(matches!(cluster.delete_group("g"), Err(ControlError::NotFound { .. })));
}

/// The way out where a placement group doesn't pass.
#[test]
fn deleting_a_group_while_it_is_being_made_lets_its_volumes_go_on() {
    let mut cluster = Cluster::with_volumes(&["a", "b"]);
    let a = cluster.opened("a");
    cluster.group("g", &["a", "b"]).expect("taken");
    cluster.pass_barrier_of("a");
    assert!(is_fencing(&cluster.grant("a", a.session)));
    cluster.delete_group("g").expect("nobody has one");
    assert!(cluster.grant("a", a.session).is_ok());
}

#[test]
fn clones_of_a_group_keep_its_layers_when_it_is_deleted() {
    let mut cluster = Cluster::with_volumes(&["a", "b"]);
    cluster.group("g", &["a", "b"]).expect("taken");
    cluster.pass_barriers();
    let (source, names) = (disk("a@g"), vec![name("x")]);
    cluster.ask(ControlRequest::VolumeClone { source, names, pool: None }).expect("cloned");
    cluster.ask(ControlRequest::VolumeDelete { name: name("a"), with_snapshots: true }).expect("hidden");
    assert_eq!(names_of(&cluster.shown_group("g").expect("there")), ["b@g"]);
}
