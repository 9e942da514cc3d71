//! G1 to G3: what deleting a snapshot gives up, what it merges, and what cancels that.

use super::*;
use ashlar_types::LayerId;
use ashlar_types::view::Merge;

impl Cluster {
    pub(super) fn snapshot_delete(&mut self, volume: &str, snapshot: &str) -> Outcome {
        self.ask(ControlRequest::SnapshotDelete { volume: name(volume), name: name(snapshot) })
    }

    fn merges(&self) -> Vec<Merge> {
        self.state.view_since(Revision(0)).merges
    }

    /// As layers, from and into.
    pub(super) fn pairs(&self) -> Vec<(u64, u64)> {
        self.merges().iter().map(|merge| (merge.from.0, merge.into.0)).collect()
    }

    pub(super) fn do_merges(&mut self) {
        for _ in 0..100 {
            let Some(merge) = self.merges().first().cloned() else { return };
            self.ask(ControlRequest::MergeDone { merge: merge.id, pgs: merge.pgs }).expect("never refused");
        }
        panic!("merges never end");
    }

    pub(super) fn layers(&self) -> Vec<u64> {
        self.show("v").expect("it is there").layers.iter().map(|layer| layer.0).collect()
    }

    /// Snapshots of these names, one after the other, each with its own layer: 1, 2 and so on.
    fn with_snapshots(names: &[&str]) -> Cluster {
        let mut cluster = Cluster::with_volume(1, 1);
        for snapshot in names {
            cluster.snapshot("v", snapshot).expect("taken");
            cluster.pass_barriers();
        }
        cluster
    }
}

#[test]
fn the_layer_of_a_deleted_snapshot_goes_into_the_one_above_and_then_out_of_the_stack() {
    let mut cluster = Cluster::with_snapshots(&["a", "b"]);
    cluster.snapshot_delete("v", "a").expect("nobody has it");
    assert!(cluster.snapshot_delete("v", "a").is_err(), "its name is gone");
    assert_eq!((cluster.pairs(), cluster.layers()), (vec![(1, 2)], vec![3, 2, 1]));
    let merge = cluster.merges().remove(0);
    let (first, rest) = merge.pgs.split_first().expect("a pool has PGs");
    cluster.ask(ControlRequest::MergeDone { merge: merge.id, pgs: vec![*first] }).expect("never refused");
    assert_eq!(cluster.merges()[0].pgs, rest, "it is told what is left");
    let before = cluster.show("v").expect("it is there").stack_revision;
    cluster.do_merges();
    assert_eq!((cluster.pairs(), cluster.layers()), (vec![], vec![3, 2]));
    assert_eq!(cluster.show("v").expect("it is there").stack_revision, before, "who names the old stack may");
    let [barrier] = &cluster.state.view_since(Revision(0)).barriers[..] else { panic!("one barrier is pending") };
    assert!(barrier.retire.contains(LayerId(1)) && !barrier.retire.contains(LayerId(2)));
    cluster.pass_barriers();
    assert!(!cluster.state.layers.contains_key(&LayerId(1)));
    cluster.ask(ControlRequest::MergeDone { merge: merge.id, pgs: merge.pgs }).expect("late, and no harm");
}

#[test]
fn snapshots_are_deleted_in_any_order() {
    let names = ["a", "b", "c", "d"];
    for first in 0..4 {
        for second in (0..4).filter(|n| *n != first) {
            for at_once in [false, true] {
                let mut cluster = Cluster::with_snapshots(&names);
                cluster.snapshot_delete("v", names[first]).expect("nobody has it");
                if !at_once {
                    cluster.do_merges();
                }
                cluster.snapshot_delete("v", names[second]).expect("nobody has it");
                cluster.do_merges();
                assert_eq!(cluster.layers().len(), 3, "two snapshots and the top are left");
                for rest in names.iter().filter(|n| **n != names[first] && **n != names[second]) {
                    cluster.snapshot_delete("v", rest).expect("nobody has it");
                }
                cluster.do_merges();
                cluster.pass_barriers();
                assert_eq!(cluster.layers(), [5]);
                assert_eq!(cluster.state.layers.len(), 1);
            }
        }
    }
}

#[test]
fn neighbours_are_merged_one_after_the_other_the_newest_first() {
    let mut cluster = Cluster::with_snapshots(&["a", "b", "c"]);
    cluster.snapshot_delete("v", "b").expect("nobody has it");
    cluster.snapshot_delete("v", "a").expect("nobody has it");
    assert_eq!(cluster.pairs(), [(2, 3)], "1 would go into 2, which goes itself");
    cluster.do_merges();
    assert_eq!(cluster.layers(), [4, 3]);
}

#[test]
fn a_layer_with_two_children_stays_until_it_has_one() {
    let mut cluster = Cluster::with_snapshots(&["a", "b"]);
    cluster.revert("v", "a", false).expect("nobody has it");
    cluster.pass_barriers();
    cluster.snapshot_delete("v", "a").expect("nobody has it");
    assert_eq!(cluster.pairs(), [], "b and the top stand on it");
    cluster.snapshot_delete("v", "b").expect("nobody has it");
    assert_eq!(cluster.pairs(), [(1, 4)]);
    let [barrier] = &cluster.state.view_since(Revision(0)).barriers[..] else { panic!("one barrier is pending") };
    assert!(barrier.retire.contains(LayerId(2)), "a leaf is given up at once");
    cluster.do_merges();
    cluster.pass_barriers();
    assert_eq!(cluster.layers(), [4]);
}

#[test]
fn a_snapshot_that_is_taken_meanwhile_freezes_what_is_merged_into() {
    let mut cluster = Cluster::with_snapshots(&["a"]);
    cluster.snapshot_delete("v", "a").expect("nobody has it");
    cluster.snapshot("v", "b").expect("taken");
    assert_eq!((cluster.pairs(), cluster.layers()), (vec![(1, 2)], vec![3, 2, 1]));
    cluster.do_merges();
    cluster.pass_barriers();
    assert_eq!(cluster.layers(), [3, 2]);
}

#[test]
fn what_is_given_up_is_not_merged() {
    let mut cluster = Cluster::with_snapshots(&["a", "b"]);
    cluster.snapshot_delete("v", "b").expect("nobody has it");
    assert_eq!(cluster.pairs(), [(2, 3)]);
    cluster.revert("v", "a", false).expect("nobody has it");
    assert_eq!(cluster.pairs(), []);
    let mut cluster = Cluster::with_snapshots(&["a", "b"]);
    cluster.snapshot_delete("v", "a").expect("nobody has it");
    cluster.ask(ControlRequest::VolumeDelete { name: name("v"), with_snapshots: true }).expect("free");
    assert_eq!(cluster.pairs(), []);
    cluster.pass_barriers();
    assert!(cluster.show("v").is_err() && cluster.state.layers.is_empty());
}

#[test]
fn an_attached_snapshot_is_not_deleted() {
    let mut cluster = Cluster::with_snapshots(&["a"]);
    cluster.attach_disk("v@a", "g").expect("free");
    let text = refusal(cluster.snapshot_delete("v", "a"));
    assert!(text.contains("v@a is attached to g") && text.contains("volume detach v@a"), "{text}");
    cluster.ask(ControlRequest::Detach { name: disk("v@a"), gateway: None }).expect("it was");
    cluster.snapshot_delete("v", "a").expect("nobody has it");
    assert!(matches!(cluster.snapshot_delete("v", "none"), Err(ControlError::NotFound { .. })));
}

#[test]
fn a_layer_with_clones_is_merged_when_the_last_of_them_is_gone() {
    let mut cluster = Cluster::with_snapshots(&["a", "b"]);
    for clone in ["x", "y"] {
        let (source, names) = (disk("v@a"), vec![name(clone)]);
        cluster.ask(ControlRequest::VolumeClone { source, names, pool: None }).expect("cloned");
    }
    cluster.snapshot_delete("v", "a").expect("nobody has it");
    assert_eq!((cluster.pairs(), cluster.layers()), (vec![], vec![3, 2, 1]));
    for (clone, pairs) in [("x", vec![]), ("y", vec![(1, 2)])] {
        cluster.ask(ControlRequest::VolumeDelete { name: name(clone), with_snapshots: false }).expect("free");
        assert_eq!(cluster.pairs(), [], "a read of {clone} may still be under way");
        cluster.pass_barriers();
        assert_eq!(cluster.pairs(), pairs);
    }
    cluster.do_merges();
    assert_eq!(cluster.layers(), [3, 2]);
}

#[test]
fn of_a_deleted_volume_that_clones_need_the_snapshots_below_are_merged() {
    let mut cluster = Cluster::with_snapshots(&["a", "b"]);
    let (source, names) = (disk("v@b"), vec![name("x")]);
    cluster.ask(ControlRequest::VolumeClone { source, names, pool: None }).expect("cloned");
    cluster.ask(ControlRequest::VolumeDelete { name: name("v"), with_snapshots: true }).expect("free");
    assert_eq!(cluster.pairs(), [(1, 2)]);
    cluster.do_merges();
    cluster.pass_barriers();
    assert!(!cluster.state.layers.contains_key(&LayerId(1)) && cluster.state.layers.contains_key(&LayerId(2)));
    cluster.ask(ControlRequest::VolumeDelete { name: name("x"), with_snapshots: false }).expect("free");
    cluster.pass_barriers();
    cluster.pass_barriers();
    assert!(cluster.state.layers.is_empty() && cluster.merges().is_empty());
}

#[test]
fn of_many_merges_some_wait_for_others() {
    let mut cluster = Cluster::with_pool(1, 1);
    let volumes: Vec<String> = (0..70).map(|n| format!("v{n}")).collect();
    for volume in &volumes {
        cluster.volume(volume, 512).expect("made");
        cluster.snapshot(volume, "a").expect("taken");
        cluster.pass_barriers();
        cluster.snapshot_delete(volume, "a").expect("nobody has it");
    }
    assert_eq!(cluster.merges().len(), 64);
    let mut done = 0;
    while let Some(merge) = cluster.merges().first().cloned() {
        cluster.ask(ControlRequest::MergeDone { merge: merge.id, pgs: merge.pgs }).expect("never refused");
        done += 1;
    }
    assert_eq!(done, 70);
}
