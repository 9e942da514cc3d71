//! O1 to O4: clones, what their grants say, and what is left when volumes go in whatever order.

use super::*;
use ashlar_types::control::{BaseLayer, OriginInfo};
use ashlar_types::{AttachmentId, IdSet, SessionId, VolumeId};

impl Cluster {
    /// With a volume `v` and its snapshot `v@s`, which is available.
    fn with_snapshot() -> Cluster {
        let mut cluster = Cluster::with_volume(1, 1);
        cluster.snapshot("v", "s").expect("taken");
        cluster.pass_barriers();
        cluster
    }

    fn clone_into(
        &mut self,
        source: &str,
        names: &[&str],
        pool: Option<&str>,
    ) -> Result<Vec<VolumeInfo>, ControlError> {
        let names = names.iter().map(|n| name(n)).collect();
        match self.ask(ControlRequest::VolumeClone { source: disk(source), names, pool: pool.map(name) })? {
            ControlReply::Volumes(infos) => Ok(infos),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn clone_one(&mut self, source: &str, clone: &str) -> Result<VolumeInfo, ControlError> {
        Ok(self.clone_into(source, &[clone], None)?.remove(0))
    }

    /// A clone, and a snapshot of it that is available.
    fn clone_with_snapshot(&mut self, source: &str, clone: &str) {
        self.clone_one(source, clone).expect("cloned");
        self.snapshot(clone, "s").expect("taken");
        self.pass_barriers();
    }

    pub(super) fn delete_all_of(&mut self, volume: &str) -> Outcome {
        self.ask(ControlRequest::VolumeDelete { name: name(volume), with_snapshots: true })
    }

    /// Until none is left: one that is passed may close a volume below.
    pub(super) fn pass_all_barriers(&mut self) {
        for _ in 0..100 {
            if self.state.view_since(Revision(0)).barriers.is_empty() {
                return;
            }
            self.pass_barriers();
        }
        panic!("barriers come without end");
    }

    fn base_grant(&self, volume: VolumeId, layer: u64) -> Result<AttachGrant, ControlError> {
        match self.state.query(&ControlRequest::BaseGrant { volume, layer: LayerId(layer) }).expect("a read")? {
            ControlReply::Opened(grant) => Ok(grant),
            other => panic!("{other:?}"),
        }
    }

    fn listed_names(&self) -> Vec<String> {
        match self.state.query(&ControlRequest::VolumeList).expect("a read") {
            Ok(ControlReply::Volumes(infos)) => infos.iter().map(|v| v.name.to_string()).collect(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn assert_nothing_left(&self) {
        assert!(self.state.volumes.is_empty() && self.state.layers.is_empty(), "{:?}", self.state.volumes);
        assert!(self.state.volume_names.is_empty() && self.state.barriers.is_empty());
    }

    pub(super) fn layer_ids(&self) -> Vec<u64> {
        self.state.layers.keys().map(|id| id.0).collect()
    }
}

fn base(volume: u64, layer: u64, size: u64) -> BaseLayer {
    BaseLayer { volume: VolumeId(volume), layer: LayerId(layer), size }
}

fn layers(numbers: &[u64]) -> Vec<LayerId> {
    numbers.iter().map(|number| LayerId(*number)).collect()
}

fn ids(set: &IdSet<LayerId>) -> Vec<u64> {
    (0..50).filter(|id| set.contains(LayerId(*id))).collect()
}

#[test]
fn a_clone_begins_with_an_empty_layer_of_its_own_on_a_snapshots_layer() {
    let mut cluster = Cluster::with_snapshot();
    cluster.ask(ControlRequest::VolumeExtend { name: name("v"), size: 2 << 30 }).expect("grown");
    let revision = cluster.state.view_revision();
    let clone = cluster.clone_one("v@s", "c").expect("cloned");
    assert_eq!((clone.size, &clone.layers, clone.pool), (1 << 30, &layers(&[3]), PoolId(1)));
    let parent = cluster.show("v").expect("exists");
    assert_ne!(clone.placement_key, parent.placement_key, "its chunks lie elsewhere");
    let origin =
        OriginInfo { base: base(1, 1, 1 << 30), volume_name: name("v"), snapshot: Some(name("s")), deleted: false };
    assert_eq!((clone.origin, clone.clones), (Some(Box::new(origin)), 0));
    assert_eq!((parent.origin, parent.clones), (None, 1));
    assert_eq!(cluster.state.view_revision(), revision, "OSDs need not hear of it");
}

#[test]
fn grants_of_a_clone_and_of_its_snapshots_name_what_it_stands_on() {
    let mut cluster = Cluster::with_snapshot();
    cluster.clone_with_snapshot("v@s", "c");
    for disk in ["c", "c@s"] {
        cluster.attach_disk(disk, "g").expect("free");
        let grant = cluster.open_disk(disk, "g", 1).expect("fresh");
        assert_eq!(grant.base, Some(base(1, 1, 1 << 30)), "{disk}");
    }
    cluster.attach_disk("v", "g").expect("free");
    assert_eq!(cluster.open_disk("v", "g", 1).expect("fresh").base, None);
}

#[test]
fn a_frozen_layer_with_clones_is_read_without_an_attachment() {
    let mut cluster = Cluster::with_snapshot();
    let unknown = |result: Result<AttachGrant, ControlError>| match result {
        Err(ControlError::NotFound { name, .. }) => name,
        other => panic!("{other:?}"),
    };
    assert_eq!(unknown(cluster.base_grant(VolumeId(1), 1)), "layer.1 of vol.1", "no clone stands there");
    cluster.snapshot("v", "t").expect("taken");
    cluster.pass_barriers();
    cluster.clone_with_snapshot("v@t", "c");
    cluster.clone_one("c@s", "d").expect("cloned");
    let grant = cluster.base_grant(VolumeId(1), 2).expect("a clone stands there");
    let expected = AttachGrant {
        volume: VolumeId(1),
        name: disk("v"),
        attachment: AttachmentId::FROZEN,
        generation: Generation(0),
        session: SessionId(0),
        pool: PoolId(1),
        placement_key: cluster.show("v").expect("exists").placement_key,
        stack_revision: StackRevision(3),
        layers: layers(&[2, 1]),
        size: 1 << 30,
        read_only: true,
        base: None,
    };
    assert_eq!(grant, expected);
    let above = cluster.base_grant(VolumeId(2), 4).expect("a clone of a clone");
    assert_eq!((above.layers, above.base), (layers(&[4]), Some(base(1, 2, 1 << 30))));
    for (volume, layer) in [(1, 1), (1, 3), (2, 2), (9, 1), (3, 6)] {
        unknown(cluster.base_grant(VolumeId(volume), layer));
    }
    // While a barrier is pending too: a PG that knows of it takes nothing by the older stack.
    cluster.snapshot("v", "u").expect("taken");
    assert_eq!(cluster.base_grant(VolumeId(1), 2).expect("as before").stack_revision, StackRevision(4));
}

#[test]
fn many_clones_are_made_at_once_in_the_order_of_their_names_or_none() {
    let mut cluster = Cluster::with_snapshot();
    cluster.pool("q", 1).expect("made");
    let made = cluster.clone_into("v@s", &["z", "a", "m"], Some("q")).expect("cloned");
    let told: Vec<_> = made.iter().map(|v| (v.name.as_str(), v.pool_name.as_str())).collect();
    assert_eq!(told, [("z", "q"), ("a", "q"), ("m", "q")]);
    assert_eq!(cluster.show("v").expect("exists").clones, 3);
    let before = cluster.state.clone();
    for (names, text) in [
        (&["b", "a"][..], "volume \"a\" exists already"),
        (&["b", "v"], "volume \"v\" exists already"),
        (&["b", "c", "b"], "two of the clones would be named b"),
        (&[], "a request makes 1 to 1000 clones, not 0"),
    ] {
        assert_eq!(cluster.clone_into("v@s", names, None).expect_err("refused").to_string(), text);
    }
    let many: Vec<String> = (0..=1000).map(|n| format!("c{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let refused = cluster.clone_into("v@s", &many, None).expect_err("one too many").to_string();
    assert_eq!(refused, "a request makes 1 to 1000 clones, not 1001");
    let nowhere = cluster.clone_into("v@s", &["b"], Some("none"));
    assert!(matches!(nowhere, Err(ControlError::NotFound { what, .. }) if what == "pool"));
    assert_eq!((before.volumes, before.layers), (cluster.state.volumes.clone(), cluster.state.layers.clone()));
    assert_eq!(before.next, cluster.state.next, "S3: a refusal leaves no trace");
    cluster.clone_into("v@s", &many[..1000], None).expect("cloned");
}

#[test]
fn only_an_available_snapshot_is_cloned() {
    let mut cluster = Cluster::with_volume(1, 1);
    let refused = |cluster: &mut Cluster, source| cluster.clone_one(source, "c").expect_err("refused").to_string();
    let way = "take one with `snapshot create v@NAME` and clone that";
    let text = refused(&mut cluster, "v");
    assert_eq!(text, format!("volume v itself can't be cloned, only a snapshot of it; {way}"));
    assert_eq!(refused(&mut cluster, "w@s"), "volume \"w\" does not exist");
    assert_eq!(refused(&mut cluster, "v@s"), "snapshot \"v@s\" does not exist");
    cluster.snapshot("v", "s").expect("taken");
    assert_eq!(refused(&mut cluster, "v@s"), "snapshot v@s is still being created; clone it when it is available");
    cluster.pass_barriers();
    cluster.clone_one("v@s", "c").expect("available");
    cluster.delete_all_of("c").expect("nobody has it");
    assert_eq!(refused(&mut cluster, "v@s"), "volume (being deleted) \"c\" exists already");
    cluster.pass_barriers();
    cluster.delete_all_of("v").expect("nobody stands on it");
    assert_eq!(refused(&mut cluster, "v@s"), "volume v is being deleted");
}

#[test]
fn clones_of_clones_end_at_some_height() {
    let mut cluster = Cluster::with_snapshot();
    let mut source = "v@s".to_owned();
    for level in 1..=64 {
        let clone = format!("c{level}");
        cluster.clone_with_snapshot(&source, &clone);
        source = format!("{clone}@s");
    }
    let refused = cluster.clone_one(&source, "more").expect_err("too high").to_string();
    assert!(refused.starts_with("snapshot c64@s can't be cloned: volume c64 stands on 64 volumes"), "{refused}");
    cluster.clone_one("c63@s", "beside").expect("as high as may be");
    // The bottom first, so that all of them are hidden, and the last one takes them all along.
    cluster.delete_all_of("v").expect("hidden");
    (1..=63).for_each(|level| drop(cluster.delete_all_of(&format!("c{level}")).expect("hidden")));
    cluster.pass_all_barriers();
    assert_eq!(cluster.listed_names(), ["c64", "beside"]);
    assert_eq!(cluster.state.volumes_kept(), 64);
    for last in ["beside", "c64"] {
        cluster.delete_all_of(last).expect("nobody has it");
    }
    cluster.pass_all_barriers();
    cluster.assert_nothing_left();
}

#[test]
fn a_deleted_volume_with_clones_leaves_the_lists_and_keeps_only_what_they_need() {
    let mut cluster = Cluster::with_snapshot();
    cluster.snapshot("v", "t").expect("taken");
    cluster.snapshot("v", "u").expect("taken");
    cluster.pass_barriers();
    cluster.clone_one("v@t", "c").expect("cloned");
    let refused = refusal(cluster.ask(ControlRequest::VolumeDelete { name: name("v"), with_snapshots: false }));
    assert!(refused.contains("volume v has 3 snapshots"), "{refused}");
    cluster.delete_all_of("v").expect("nobody has it");
    // At once, before any barrier has passed.
    assert_eq!(cluster.listed_names(), ["c"]);
    assert!(matches!(cluster.show("v"), Err(ControlError::NotFound { .. })));
    let snapshots = cluster.state.query(&ControlRequest::SnapshotList { volume: None }).expect("a read");
    assert_eq!(snapshots, Ok(ControlReply::Snapshots(vec![])));
    assert!(matches!(cluster.clone_one("v@t", "d"), Err(ControlError::NotFound { .. })), "nor is it cloned");
    assert!(matches!(cluster.delete_all_of("v"), Err(ControlError::NotFound { .. })));
    assert_eq!(cluster.state.volumes_kept(), 1);
    let Ok(ControlReply::Volume(again)) = cluster.volume("v", 512) else { panic!("its name is free") };
    let barrier = cluster.state.view_since(Revision(0)).barriers.remove(0);
    assert!(!barrier.floor.closed && barrier.gone.is_empty(), "its floor stays open for those who read");
    assert_eq!((barrier.floor.stack_revision, ids(&barrier.retire)), (StackRevision(5), vec![3, 4]));
    let grant = cluster.base_grant(VolumeId(1), 2).expect("c stands there");
    assert_eq!((grant.stack_revision, grant.layers), (StackRevision(5), layers(&[2, 1])));
    cluster.pass_all_barriers();
    assert_eq!(cluster.layer_ids(), [1, 2, 5, 6, 7], "those below c, c's, an empty top, and another volume's");
    let origin = cluster.show("c").expect("exists").origin.expect("a clone");
    assert_eq!((origin.snapshot, origin.deleted, origin.volume_name), (None, true, name("v")));
    cluster.delete_all_of("c").expect("nobody has it");
    cluster.pass_barriers();
    let [barrier] = &cluster.state.view_since(Revision(0)).barriers[..] else { panic!("the kept one is closed") };
    assert!(barrier.floor.closed && barrier.volume == VolumeId(1) && barrier.gone.contains(VolumeId(1)));
    assert!([1, 2, 6].iter().all(|id| barrier.retire.contains(LayerId(*id))));
    cluster.pass_barriers();
    assert_eq!(cluster.show("v").expect("the other one").id, again.id, "it keeps its name");
    assert_eq!(cluster.layer_ids(), [again.layers[0].0]);
}

/// The space that a clone's reads need is there until nothing of the clone is under way.
#[test]
fn what_a_clone_stands_on_stays_until_its_own_barrier_has_passed() {
    let mut cluster = Cluster::with_snapshot();
    cluster.clone_one("v@s", "c").expect("cloned");
    cluster.delete_all_of("v").expect("hidden");
    cluster.pass_all_barriers();
    cluster.delete_all_of("c").expect("nobody has it");
    assert!(cluster.base_grant(VolumeId(1), 1).is_ok());
    assert!(cluster.state.layers.contains_key(&LayerId(1)));
    cluster.pass_barriers();
    assert!(cluster.base_grant(VolumeId(1), 1).is_err(), "then it is being dropped");
}

#[test]
fn clones_on_several_layers_give_them_up_one_by_one() {
    let mut cluster = Cluster::with_snapshot();
    cluster.snapshot("v", "t").expect("taken");
    cluster.pass_barriers();
    cluster.clone_into("v@s", &["a", "b"], None).expect("cloned");
    cluster.clone_one("v@t", "c").expect("cloned");
    cluster.delete_all_of("v").expect("hidden");
    cluster.pass_all_barriers();
    let revision = cluster.base_grant(VolumeId(1), 1).expect("a stands there").stack_revision;
    cluster.delete_all_of("c").expect("nobody has it");
    cluster.pass_all_barriers();
    assert!(!cluster.state.layers.contains_key(&LayerId(2)) && cluster.state.layers.contains_key(&LayerId(1)));
    let now = cluster.base_grant(VolumeId(1), 1).expect("a stands there").stack_revision;
    assert_eq!(now, revision, "whose stack is the same need not ask again");
    for last in ["a", "b"] {
        assert!(cluster.state.layers.contains_key(&LayerId(1)));
        cluster.delete_all_of(last).expect("nobody has it");
        cluster.pass_all_barriers();
    }
    cluster.assert_nothing_left();
}

#[test]
fn deleting_in_every_order_leaves_nothing() {
    // v, b and c stand one on the other; d stands on b too.
    let names = ["v", "b", "c", "d"];
    for number in 0..names.len().pow(4) {
        let order: Vec<usize> = (0..4).map(|place| number / names.len().pow(place) % names.len()).collect();
        let all: std::collections::BTreeSet<_> = order.iter().collect();
        if all.len() < names.len() {
            continue;
        }
        for passes in 0..1 << names.len() {
            let mut cluster = Cluster::with_snapshot();
            cluster.clone_with_snapshot("v@s", "b");
            cluster.clone_with_snapshot("b@s", "c");
            cluster.clone_one("b@s", "d").expect("cloned");
            for (at, volume) in order.iter().enumerate() {
                cluster.delete_all_of(names[*volume]).expect("nobody has it");
                // Barriers pass between two deletions, or later together.
                if passes & 1 << at != 0 {
                    cluster.pass_all_barriers();
                }
            }
            cluster.pass_all_barriers();
            cluster.assert_nothing_left();
            names.iter().for_each(|free| drop(cluster.volume(free, 512).expect("the name is free")));
        }
    }
}

#[test]
fn a_clone_is_reverted_to_its_own_snapshots_and_grows() {
    let mut cluster = Cluster::with_snapshot();
    cluster.clone_with_snapshot("v@s", "c");
    let origin = cluster.show("c").expect("exists").origin;
    cluster.ask(ControlRequest::VolumeExtend { name: name("c"), size: 2 << 30 }).expect("grown");
    let reverted = cluster.revert("c", "s", false).expect("nobody has it");
    assert_eq!((reverted.size, &reverted.origin), (1 << 30, &origin));
    assert!(cluster.revert("c", "none", false).is_err());
    cluster.pass_barriers();
    // The volume below may be reverted, too: what clones stand on is frozen.
    cluster.revert("v", "s", false).expect("nobody has it");
    cluster.pass_barriers();
    assert_eq!(cluster.base_grant(VolumeId(1), 1).expect("c stands there").layers, layers(&[1]));
}

#[test]
fn a_full_pool_makes_no_clones_and_deletes_all_the_same() {
    let mut cluster = Cluster { state: Cluster::with_snapshot().state };
    // Without the checks of Cluster::ask, which look at everything each time.
    let apply = |state: &mut ClusterState, request| {
        let index = state.applied() + 1;
        state.apply(index, Command::Request(request))
    };
    let clones = |from: u64, count: u64| ControlRequest::VolumeClone {
        source: disk("v@s"),
        names: (from..from + count).map(|n| name(&format!("c{n}"))).collect(),
        pool: None,
    };
    for batch in 0..39 {
        apply(&mut cluster.state, clones(batch * 1000, 1000)).expect("there is room");
    }
    let refused = refusal(apply(&mut cluster.state, clones(39_000, 1000)));
    let text = "there are 39001 volumes in the pool already and no room for 1000 more: one has at most 40000; make another pool";
    assert_eq!(refused, text);
    apply(&mut cluster.state, clones(39_000, 999)).expect("there is room for them");
    let delete = |text: &str| ControlRequest::VolumeDelete { name: name(text), with_snapshots: true };
    apply(&mut cluster.state, delete("v")).expect("hidden");
    let create = ControlRequest::VolumeCreate { name: name("v"), size: 512, pool: None, provision: Provision::Thin };
    let refused = refusal(apply(&mut cluster.state, create));
    assert!(
        refused.contains("40000 volumes in the pool already, 1 of them deleted and kept for their clones"),
        "{refused}"
    );
    apply(&mut cluster.state, delete("c5")).expect("nobody has it");
    cluster.state.assert_invariants();
    assert_eq!(ClusterState::decode(&cluster.state.encode()), Ok(cluster.state));
}
