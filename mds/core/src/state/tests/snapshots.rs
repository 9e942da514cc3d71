//! L1 to L3, P1 and P2: snapshots, what reverting gives up, and who may have what.

use super::*;
use ashlar_types::control::{SnapshotInfo, SnapshotState};
use ashlar_types::view::Barrier;

impl Cluster {
    pub(super) fn snapshot(&mut self, volume: &str, snapshot: &str) -> Result<SnapshotInfo, ControlError> {
        let request =
            ControlRequest::SnapshotCreate { volume: name(volume), name: name(snapshot), taken_at: 5, thin: false };
        match self.ask(request)? {
            ControlReply::Snapshot(info) => Ok(info),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn revert(&mut self, volume: &str, snapshot: &str, force: bool) -> Result<VolumeInfo, ControlError> {
        match self.ask(ControlRequest::VolumeRevert { volume: name(volume), snapshot: name(snapshot), force })? {
            ControlReply::Volume(info) => Ok(info),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn attach_disk(&mut self, text: &str, gateway: &str) -> Outcome {
        let mode = AttachMode::Exclusive;
        self.ask(ControlRequest::Attach { name: disk(text), gateway: gateway.into(), mode, read_only: false })
    }

    pub(super) fn open_disk(&mut self, text: &str, gateway: &str, boot: u64) -> Result<AttachGrant, ControlError> {
        let request = ControlRequest::OpenAttachment { name: disk(text), gateway: gateway.into(), boot: BootId(boot) };
        match self.ask(request)? {
            ControlReply::Opened(grant) => Ok(grant),
            other => panic!("{other:?}"),
        }
    }

    fn detach_disk(&mut self, text: &str) -> Outcome {
        self.ask(ControlRequest::Detach { name: disk(text), gateway: None })
    }

    fn delete(&mut self, volume: &str, with_snapshots: bool) -> Outcome {
        self.ask(ControlRequest::VolumeDelete { name: name(volume), with_snapshots })
    }

    fn shown(&self, volume: &str, snapshot: &str) -> Result<SnapshotInfo, ControlError> {
        let request = ControlRequest::SnapshotShow { volume: name(volume), name: name(snapshot) };
        match self.state.query(&request).expect("a read")? {
            ControlReply::Snapshot(info) => Ok(info),
            other => panic!("{other:?}"),
        }
    }

    fn listed(&self, volume: Option<&str>) -> Result<Vec<String>, ControlError> {
        let request = ControlRequest::SnapshotList { volume: volume.map(name) };
        match self.state.query(&request).expect("a read")? {
            ControlReply::Snapshots(infos) => {
                Ok(infos.iter().map(|s| format!("{}@{}", s.volume_name, s.name)).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    fn barriers(&self) -> Vec<Barrier> {
        self.state.view_since(Revision(0)).barriers
    }

    fn only_barrier(&self) -> Barrier {
        let [barrier] = &self.barriers()[..] else { panic!("one barrier is pending") };
        barrier.clone()
    }
}

fn is_fencing<T: std::fmt::Debug>(result: &Result<T, ControlError>) -> bool {
    matches!(result, Err(ControlError::Fencing { .. }))
}

fn layers(numbers: &[u64]) -> Vec<LayerId> {
    numbers.iter().map(|number| LayerId(*number)).collect()
}

#[test]
fn a_snapshot_freezes_the_top_and_is_available_when_all_pgs_hold_to_the_new_stack() {
    let mut cluster = Cluster::with_volume(3, 3);
    let info = cluster.snapshot("v", "s").expect("taken");
    assert_eq!((info.state, info.layers.clone(), info.size), (SnapshotState::Creating, layers(&[1]), 1 << 30));
    assert_eq!(info.taken_at, 5);
    let volume = cluster.show("v").expect("exists");
    assert_eq!((volume.layers, volume.stack_revision), (layers(&[2, 1]), StackRevision(2)));
    let barrier = cluster.only_barrier();
    assert_eq!(barrier.floor.stack_revision, StackRevision(2));
    assert!(barrier.retire.is_empty() && barrier.gone.is_empty(), "nothing is given up");
    let (first, rest) = barrier.pgs.split_first().expect("a pool has PGs");
    cluster.ask(ControlRequest::BarrierPassed { barrier: barrier.id, pgs: rest.to_vec() }).expect("noted");
    assert_eq!(cluster.shown("v", "s").expect("there").state, SnapshotState::Creating, "one PG may still write to it");
    cluster.ask(ControlRequest::BarrierPassed { barrier: barrier.id, pgs: vec![*first] }).expect("noted");
    assert_eq!(cluster.shown("v", "s").expect("there").state, SnapshotState::Available);
}

#[test]
fn a_later_snapshot_makes_no_earlier_one_unavailable() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    cluster.snapshot("v", "t").expect("taken");
    assert_eq!(cluster.shown("v", "s").expect("there").state, SnapshotState::Available);
    assert_eq!(cluster.shown("v", "t").expect("there").state, SnapshotState::Creating);
    cluster.snapshot("v", "u").expect("while another's barrier is pending");
    cluster.pass_barriers();
    for (snapshot, stack) in [("s", &[1][..]), ("t", &[2, 1]), ("u", &[3, 2, 1])] {
        let info = cluster.shown("v", snapshot).expect("there");
        assert_eq!((info.state, info.layers), (SnapshotState::Available, layers(stack)));
    }
}

#[test]
fn names_of_snapshots_are_unique_in_their_volume() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.volume("w", 512).expect("made");
    let first = cluster.snapshot("v", "s").expect("taken");
    let twice = cluster.snapshot("v", "s").expect_err("twice");
    assert_eq!(twice.to_string(), "snapshot \"v@s\" exists already");
    let other = cluster.snapshot("w", "s").expect("of another volume");
    assert!(other.id > first.id);
    assert!(matches!(cluster.snapshot("none", "s"), Err(ControlError::NotFound { .. })));
    assert_eq!(cluster.shown("v", "none").expect_err("none").to_string(), "snapshot \"v@none\" does not exist");
    cluster.snapshot("v", "a").expect("taken");
    assert_eq!(cluster.listed(None).expect("all"), ["v@s", "v@a", "w@s"], "in the order in which they were taken");
    assert_eq!(cluster.listed(Some("w")).expect("one"), ["w@s"]);
    assert!(matches!(cluster.listed(Some("x")), Err(ControlError::NotFound { .. })));
}

#[test]
fn a_stack_has_so_many_layers_and_no_more() {
    let mut cluster = Cluster { state: Cluster::with_volume(1, 1).state };
    let mut number = 0;
    let refused = loop {
        number += 1;
        // Without the checks of Cluster::ask, which look at everything each time.
        let request = ControlRequest::SnapshotCreate {
            volume: name("v"),
            name: name(&format!("s{number}")),
            taken_at: 0,
            thin: false,
        };
        let index = cluster.state.applied() + 1;
        if let Err(refusal) = cluster.state.apply(index, Command::Request(request)) {
            break refusal.to_string();
        }
    };
    cluster.state.assert_invariants();
    assert_eq!(number, 1024);
    let most = "no snapshot can be taken of volume v: it has 1024 layers, which is the most that one is made of";
    assert_eq!(refused, most);
    cluster.pass_barriers();
    let reverted = cluster.revert("v", "s1023", false).expect("its stack is as high as may be");
    assert_eq!(reverted.layers.len(), 1024);
    cluster.revert("v", "s1", false).expect("available");
    cluster.snapshot("v", "more").expect("the stack is low again");
}

#[test]
fn reverting_gives_up_what_was_written_since_and_nothing_else() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    let refused = cluster.revert("v", "s", false).expect_err("not yet");
    assert_eq!(refused.to_string(), "snapshot v@s is still being created; revert to it when it is available");
    cluster.pass_barriers();
    cluster.snapshot("v", "t").expect("taken");
    cluster.pass_barriers();
    cluster.ask(ControlRequest::VolumeExtend { name: name("v"), size: 2 << 30 }).expect("grown");
    let volume = cluster.revert("v", "s", false).expect("nobody has it");
    assert_eq!((volume.layers, volume.size), (layers(&[4, 1]), 1 << 30));
    let barrier = cluster.only_barrier();
    let retired: Vec<u64> = (0..9).filter(|id| barrier.retire.contains(LayerId(*id))).collect();
    assert_eq!(retired, [3], "the old top; the newer snapshot stays");
    cluster.pass_barriers();
    assert_eq!(cluster.shown("v", "t").expect("stays").layers, layers(&[2, 1]));
    assert_eq!(cluster.revert("v", "t", false).expect("on the other branch").layers, layers(&[5, 2, 1]));
    assert!(matches!(cluster.revert("v", "none", false), Err(ControlError::NotFound { .. })));
}

#[test]
fn what_a_replaced_barrier_gave_up_goes_with_the_new_one() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    cluster.revert("v", "s", false).expect("nobody has it");
    cluster.snapshot("v", "t").expect("at once");
    cluster.revert("v", "s", false).expect("and again");
    let barrier = cluster.only_barrier();
    let retired: Vec<u64> = (0..9).filter(|id| barrier.retire.contains(LayerId(*id))).collect();
    assert_eq!(retired, [2, 4], "1 is of s, 3 of t, 5 is the top, 6 is to come");
    cluster.delete("v", true).expect("nobody has it");
    let barrier = cluster.only_barrier();
    assert!((1..=5).all(|id| barrier.retire.contains(LayerId(id))) && barrier.floor.closed);
    cluster.pass_barriers();
    assert!(cluster.state.layers.is_empty() && cluster.show("v").is_err());
}

#[test]
fn layers_beside_the_given_up_are_told_only_if_nobody_has_them() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    cluster.volume("w", 512).expect("made");
    cluster.pass_barriers();
    cluster.revert("v", "s", false).expect("nobody has it");
    // While the barrier of v is pending, its old top counts as living for w.
    cluster.delete("w", false).expect("nobody has it");
    let barriers = cluster.barriers();
    let retired = |b: &Barrier| (0..9).filter(|id| b.retire.contains(LayerId(*id))).collect::<Vec<u64>>();
    assert_eq!(barriers.iter().map(retired).collect::<Vec<_>>(), [vec![2], vec![3]]);
    cluster.pass_barriers();
    cluster.revert("v", "s", false).expect("nobody has it");
    assert_eq!(retired(&cluster.only_barrier()), [2, 3, 4], "the gap between 1 and the top");
}

#[test]
fn reverting_an_attached_volume_is_refused_or_fences() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.attach_disk("v", "g").expect("free");
    let old = cluster.open_disk("v", "g", 1).expect("fresh");
    cluster.snapshot("v", "s").expect("an attached one too");
    cluster.pass_barriers();
    cluster.attach_disk("v@s", "h").expect("beside it");
    let reader = cluster.open_disk("v@s", "h", 2).expect("fresh");
    assert!(matches!(cluster.revert("v", "s", false), Err(ControlError::Attached { holder, .. }) if holder == "g"));
    let volume = cluster.revert("v", "s", true).expect("fenced");
    assert_eq!(volume.attachments.len(), 1, "who reads a snapshot stays");
    let floor = cluster.only_barrier().floor;
    assert!(floor.fences(old.attachment, old.generation) && !floor.fences(reader.attachment, reader.generation));
    let again = cluster.open_disk("v@s", "h", 2).expect("at once");
    assert_eq!(again, AttachGrant { stack_revision: StackRevision(3), ..reader });
    cluster.attach_disk("v", "g").expect("free");
    assert!(is_fencing(&cluster.open_disk("v", "g", 1)));
    cluster.pass_barriers();
    assert_eq!(cluster.open_disk("v", "g", 1).expect("fenced").layers, layers(&[3, 1]));
}

#[test]
fn who_has_a_volume_is_told_its_new_stack_while_the_barrier_is_pending() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.attach_disk("v", "g").expect("free");
    let before = cluster.open_disk("v", "g", 1).expect("fresh");
    cluster.snapshot("v", "s").expect("taken");
    let now = AttachGrant { stack_revision: StackRevision(2), layers: layers(&[2, 1]), ..before };
    assert_eq!(cluster.open_disk("v", "g", 1), Ok(now));
    assert!(is_fencing(&cluster.open_disk("v", "g", 2)), "A3: another process waits");
    assert!(matches!(cluster.open_disk("v", "g", 1), Err(ControlError::Attached { .. })), "and has replaced the first");
}

/// Else one of them might write, by the new stack, what makes another write by the old one.
#[test]
fn who_shares_a_volume_is_told_its_new_stack_when_nobody_can_use_the_old_one() {
    let mut cluster = Cluster::with_volume(1, 1);
    for gateway in ["g", "h"] {
        let (name, mode) = (disk("v"), AttachMode::Shared);
        let request = ControlRequest::Attach { name, gateway: gateway.into(), mode, read_only: false };
        cluster.ask(request).expect("by many");
        cluster.open_disk("v", gateway, 1).expect("fresh");
    }
    cluster.snapshot("v", "s").expect("taken");
    assert!(is_fencing(&cluster.open_disk("v", "g", 1)));
    cluster.pass_barriers();
    assert_eq!(cluster.open_disk("v", "g", 1).expect("passed").layers, layers(&[2, 1]));
}

#[test]
fn no_snapshot_is_begun_while_a_pg_has_no_primary() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.down(1);
    let refused = cluster.snapshot("v", "s").expect_err("it would wait").to_string();
    assert!(refused.contains("has no primary"), "{refused}");
    assert!(cluster.listed(None).expect("read").is_empty() && cluster.barriers().is_empty());
}

/// A process that was replaced, and doesn't know it, asks for the stack when it hears of the snapshot.
#[test]
fn asking_for_the_stack_of_an_ended_session_takes_nothing_back() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.attach_disk("v", "g").expect("free");
    let old = cluster.open_disk("v", "g", 1).expect("fresh");
    cluster.detach_disk("v").expect("detached");
    cluster.pass_barriers();
    cluster.attach_disk("v", "g").expect("free");
    let new = cluster.open_disk("v", "g", 2).expect("fresh");
    cluster.snapshot("v", "s").expect("taken");
    let ask = |cluster: &Cluster, session| {
        cluster.state.query(&ControlRequest::SessionGrant { name: disk("v"), session }).expect("a read")
    };
    assert!(matches!(ask(&cluster, old.session), Err(ControlError::NotFound { .. })));
    let Ok(ControlReply::Opened(grant)) = ask(&cluster, new.session) else { panic!("it has it") };
    assert_eq!((grant.layers, grant.stack_revision), (layers(&[2, 1]), StackRevision(2)));
    assert_eq!(cluster.open_disk("v", "g", 2).expect("still").generation, new.generation);
}

#[test]
fn no_snapshot_is_begun_while_a_pg_cannot_write() {
    let mut cluster = Cluster::with_volume(3, 3);
    cluster.down(1);
    cluster.snapshot("v", "with-two").expect("two of three can write");
    cluster.pass_barriers();
    cluster.down(2);
    let refused = cluster.snapshot("v", "with-one").expect_err("it would wait").to_string();
    assert!(refused.contains("members in sync of the 2"), "{refused}");
}

#[test]
fn a_volume_keeps_its_size_while_a_snapshot_is_being_made() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    let extend = ControlRequest::VolumeExtend { name: name("v"), size: 2 << 30 };
    assert!(refusal(cluster.ask(extend.clone())).contains("keeps its size"));
    cluster.pass_barriers();
    cluster.ask(extend).expect("it is there");
}

#[test]
fn who_is_being_fenced_is_told_no_stack() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.attach_disk("v", "g").expect("free");
    cluster.open_disk("v", "g", 1).expect("fresh");
    let request =
        ControlRequest::Attach { name: disk("v"), gateway: "g".into(), mode: AttachMode::Force, read_only: false };
    cluster.ask(request).expect("taken over, for the same gateway");
    cluster.snapshot("v", "s").expect("taken");
    assert!(is_fencing(&cluster.open_disk("v", "g", 1)), "its generation has risen");
    assert!(is_fencing(&cluster.open_disk("v", "g", 1)), "asking again doesn't help");
    cluster.pass_barriers();
    assert_eq!(cluster.open_disk("v", "g", 1).expect("fenced").generation, Generation(2));
}

#[test]
fn a_snapshot_is_attached_read_only_by_many_and_makes_no_volume_attached() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    let Ok(ControlReply::Attachment(info)) = cluster.attach_disk("v@s", "g") else { panic!("attached") };
    assert!(info.read_only && info.name == disk("v@s"));
    assert!(is_fencing(&cluster.open_disk("v@s", "g", 1)), "P2: it may still change");
    cluster.pass_barriers();
    let grant = cluster.open_disk("v@s", "g", 1).expect("available");
    assert_eq!((grant.layers, grant.read_only, grant.name), (layers(&[1]), true, disk("v@s")));
    assert_eq!(grant.stack_revision, StackRevision(2), "the volume's");
    cluster.attach_disk("v@s", "h").expect("by many");
    let Ok(ControlReply::Attachment(same)) = cluster.attach_disk("v@s", "g") else { panic!("attached") };
    assert_eq!(same.id, info.id);
    let volume = cluster.show("v").expect("exists");
    assert_eq!((volume.state, volume.attachments.len()), (VolumeState::Available, 2));
    cluster.attach_disk("v", "g").expect("nobody has the volume itself");
    assert!(cluster.attach_disk("v", "h").is_err());
    let force =
        ControlRequest::Attach { name: disk("v"), gateway: "h".into(), mode: AttachMode::Force, read_only: false };
    cluster.ask(force).expect("taken over");
    assert_eq!(cluster.show("v").expect("exists").attachments.len(), 3, "the snapshot's stay");
    cluster.detach_disk("v").expect("attached");
    assert_eq!(cluster.show("v").expect("exists").attachments.len(), 2);
    cluster.detach_disk("v@s").expect("attached");
    assert!(cluster.detach_disk("v@s").is_err() && cluster.detach_disk("v@t").is_err());
    assert!(matches!(cluster.attach_disk("v@t", "g"), Err(ControlError::NotFound { .. })));
    assert!(matches!(cluster.open_disk("v@s", "g", 1), Err(ControlError::NotFound { .. })));
}

#[test]
fn what_was_extended_since_is_no_part_of_a_snapshot() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    cluster.ask(ControlRequest::VolumeExtend { name: name("v"), size: 2 << 30 }).expect("grown");
    cluster.attach_disk("v@s", "g").expect("attached");
    assert_eq!(cluster.open_disk("v@s", "g", 1).expect("available").size, 1 << 30);
    assert_eq!(cluster.show("v").expect("exists").size, 2 << 30);
}

#[test]
fn a_volume_with_snapshots_is_deleted_only_with_them_and_when_nobody_has_one() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    let refused = refusal(cluster.delete("v", false));
    assert_eq!(refused, "volume v has 1 snapshot; `volume delete --snapshots` deletes them with it");
    cluster.attach_disk("v@s", "g").expect("attached");
    let refused = refusal(cluster.delete("v", true));
    assert_eq!(refused, "snapshot v@s is attached to g; `volume detach v@s` takes it from there");
    cluster.detach_disk("v@s").expect("attached");
    cluster.delete("v", true).expect("nobody has it");
    assert!(cluster.listed(None).expect("a list").is_empty());
    for refused in [cluster.snapshot("v", "t").map(|_| ()), cluster.revert("v", "s", true).map(|_| ())] {
        assert!(refused.expect_err("too late").to_string().contains("being deleted"));
    }
    cluster.pass_barriers();
    assert!(cluster.show("v").is_err() && cluster.state.layers.is_empty());
}
