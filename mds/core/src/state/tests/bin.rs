//! B1 and B2: what goes into the bin, what is left of it for others, and the ways out.

use super::*;
use ashlar_types::control::BinInfo;
use ashlar_types::job::JobState;

const NOW: u64 = 1_800_000_000;

impl Cluster {
    pub(super) fn put_in_bin(&mut self, volume: &str, retention: Option<u64>) -> Result<Vec<BinInfo>, ControlError> {
        let request = ControlRequest::VolumeToBin { name: name(volume), with_snapshots: false, retention, at: NOW };
        match self.ask(request)? {
            ControlReply::Bin(infos) => Ok(infos),
            ControlReply::Done { .. } => Ok(Vec::new()),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn set_retention(&mut self, pool: &str, seconds: u64) -> Outcome {
        self.ask(ControlRequest::PoolKeepDeleted { name: name(pool), retention: seconds })
    }

    fn bin(&self) -> Vec<BinInfo> {
        match self.state.query(&ControlRequest::BinList).expect("a read") {
            Ok(ControlReply::Bin(infos)) => infos,
            other => panic!("{other:?}"),
        }
    }

    fn restore(&mut self, id: VolumeId, under: Option<&str>) -> Result<VolumeInfo, ControlError> {
        match self.ask(ControlRequest::BinRestore { volume: id, name: under.map(name) })? {
            ControlReply::Volume(info) => Ok(info),
            other => panic!("{other:?}"),
        }
    }

    fn expire(&mut self, now: u64) -> Vec<VolumeId> {
        let volumes = self.state.bin_expired(now, 16);
        self.command(Command::BinExpire { volumes: volumes.clone(), now }).expect("never refused");
        volumes
    }

    fn listed_volumes(&self) -> Vec<String> {
        match self.state.query(&ControlRequest::VolumeList).expect("a read") {
            Ok(ControlReply::Volumes(volumes)) => volumes.iter().map(|v| v.name.to_string()).collect(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_volume_in_the_bin_is_in_no_list_and_its_name_is_free() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    let before = cluster.show("v").expect("exists");
    let [info] = &cluster.put_in_bin("v", Some(60)).expect("nobody has it")[..] else { panic!("one") };
    assert_eq!((info.id, info.deleted_at, info.expires_at, info.snapshots), (before.id, NOW, NOW + 60, 1));
    assert_eq!((info.volume.as_deref(), info.own.len()), (Some(&before), 1), "as it was, for who draws it");
    assert!(cluster.listed_volumes().is_empty());
    assert_eq!(cluster.bin(), std::slice::from_ref(info));
    assert_eq!(cluster.state.bin_usage(), (1, 1 << 30));
    let unknown = "volume \"v\" does not exist";
    for refused in [
        cluster.attach_disk("v", "g"),
        cluster.attach_disk("v@s", "g"),
        cluster.snapshot("v", "t").map(|_| ControlReply::Pools(vec![])),
        cluster.revert("v", "s", false).map(|_| ControlReply::Pools(vec![])),
        cluster.ask(ControlRequest::VolumeClone { source: disk("v@s"), names: vec![name("c")], pool: None }),
        cluster.ask(ControlRequest::VolumeDelete { name: name("v"), with_snapshots: true }),
        cluster.ask(ControlRequest::SnapshotList { volume: Some(name("v")) }),
    ] {
        assert_eq!(refusal(refused), unknown);
    }
    let Ok(ControlReply::Snapshots(all)) =
        cluster.state.query(&ControlRequest::SnapshotList { volume: None }).expect("a read")
    else {
        panic!("a list")
    };
    assert!(all.is_empty());
    cluster.volume("v", 512).expect("the name is free");
    assert_eq!(cluster.restore(before.id, None).expect_err("taken").to_string(), "volume \"v\" exists already");
    let back = cluster.restore(before.id, Some("w")).expect("under another name");
    assert_eq!((back.id, back.layers.clone(), back.name.clone()), (before.id, before.layers, name("w")));
    cluster.attach_disk("w@s", "g").expect("its snapshots are back with it");
    assert!(cluster.bin().is_empty());
    let gone = cluster.restore(before.id, None).expect_err("it is back").to_string();
    assert_eq!(gone, format!("volume in the bin \"{}\" does not exist", before.id));
}

#[test]
fn what_is_attached_does_not_go_into_the_bin() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    for attached in ["v", "v@s"] {
        cluster.attach_disk(attached, "g").expect("free");
        assert!(cluster.put_in_bin("v", Some(60)).expect_err("in use").to_string().contains("is attached to g"));
        cluster.ask(ControlRequest::Detach { name: disk(attached), gateway: None }).expect("attached");
    }
    cluster.put_in_bin("v", Some(60)).expect("nobody has it");
}

#[test]
fn the_pool_says_how_long_unless_the_request_does() {
    let mut cluster = Cluster::with_pool(1, 1);
    for volume in ["a", "b", "c", "d"] {
        cluster.volume(volume, 512).expect("made");
    }
    assert!(cluster.put_in_bin("a", None).expect("free").is_empty(), "deleted for good");
    cluster.set_retention("p", 3600).expect("set");
    let expires = |infos: Vec<BinInfo>| infos[0].expires_at;
    assert_eq!(cluster.put_in_bin("b", None).map(expires), Ok(NOW + 3600));
    assert_eq!(cluster.put_in_bin("c", Some(7)).map(expires), Ok(NOW + 7));
    cluster.ask(ControlRequest::VolumeDelete { name: name("d"), with_snapshots: false }).expect("for good");
    assert_eq!(cluster.bin().len(), 2);
    cluster.set_retention("p", 0).expect("none");
    assert_eq!(cluster.bin().len(), 2, "what is in it stays as long as was said");
    let most = 3650 * 86_400;
    assert!(refusal(cluster.set_retention("p", most + 1)).contains("longer than the bin keeps anything"));
    cluster.volume("e", 512).expect("made");
    for wrong in [0, most + 1] {
        assert!(cluster.put_in_bin("e", Some(wrong)).is_err());
    }
    assert!(matches!(cluster.set_retention("none", 1), Err(ControlError::NotFound { .. })));
}

#[test]
fn a_volume_with_snapshots_is_refused_only_where_they_would_be_lost() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    assert!(cluster.put_in_bin("v", None).expect_err("for good").to_string().contains("has 1 snapshot"));
    cluster.set_retention("p", 60).expect("set");
    assert_eq!(cluster.put_in_bin("v", None).expect("they are kept with it").len(), 1);
}

#[test]
fn what_has_expired_is_purged_and_nothing_else() {
    let mut cluster = Cluster::with_pool(1, 1);
    for (volume, retention) in [("a", 10), ("b", 20), ("c", 10)] {
        cluster.volume(volume, 512).expect("made");
        cluster.put_in_bin(volume, Some(retention)).expect("free");
    }
    let ids: Vec<VolumeId> = cluster.bin().iter().map(|info| info.id).collect();
    assert!(cluster.expire(NOW + 9).is_empty());
    let due = cluster.state.bin_expired(NOW + 10, 16);
    cluster.restore(due[0], None).expect("just in time");
    cluster.command(Command::BinExpire { volumes: due.clone(), now: NOW + 10 }).expect("never refused");
    assert_eq!(cluster.listed_volumes(), ["a"]);
    assert_eq!(cluster.bin().iter().map(|info| info.name.to_string()).collect::<Vec<_>>(), ["b"]);
    // One that isn't due is left alone, whoever says so.
    cluster.command(Command::BinExpire { volumes: ids, now: NOW + 19 }).expect("never refused");
    assert_eq!(cluster.bin().len(), 1);
    cluster.volume("c", 512).expect("the name of what is being purged is free");
    cluster.pass_barriers();
    assert_eq!(cluster.listed_volumes(), ["a", "c"], "and stays the other volume's");
    assert_eq!(cluster.state.volumes.len(), 3);
}

#[test]
fn a_purged_volume_takes_its_snapshots_and_layers_along() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    let id = cluster.put_in_bin("v", Some(60)).expect("free")[0].id;
    let purge = || ControlRequest::BinPurge { volume: id };
    cluster.ask(purge()).expect("in the bin");
    assert!(cluster.bin().is_empty() && cluster.listed_volumes().is_empty());
    assert!(matches!(cluster.ask(purge()), Err(ControlError::NotFound { .. })));
    assert!(cluster.restore(id, None).is_err(), "too late");
    cluster.pass_barriers();
    assert!(cluster.state.layers.is_empty() && cluster.state.volumes.is_empty());
}

#[test]
fn clones_go_on_reading_what_is_in_the_bin_and_after_it_was_purged() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    let (source, names) = (disk("v@s"), vec![name("c")]);
    cluster.ask(ControlRequest::VolumeClone { source, names, pool: None }).expect("cloned");
    let info = cluster.put_in_bin("v", Some(60)).expect("free").remove(0);
    assert_eq!(info.clones, 1);
    let origin = |cluster: &Cluster| *cluster.show("c").expect("exists").origin.expect("a clone");
    let of = origin(&cluster);
    assert!(of.deleted && of.snapshot.is_none(), "no list has it");
    let base = |cluster: &Cluster| {
        let (volume, layer) = (of.base.volume, of.base.layer);
        cluster.state.query(&ControlRequest::BaseGrant { volume, layer }).expect("a read").is_ok()
    };
    assert!(base(&cluster));
    cluster.restore(info.id, None).expect("free");
    assert_eq!(origin(&cluster).snapshot, Some(name("s")));
    cluster.put_in_bin("v", Some(60)).expect("free");
    cluster.ask(ControlRequest::BinPurge { volume: info.id }).expect("in the bin");
    assert!(base(&cluster) && cluster.bin().is_empty());
    assert_eq!(cluster.state.volumes_kept(), 1);
    cluster.pass_barriers();
    cluster.ask(ControlRequest::VolumeDelete { name: name("c"), with_snapshots: false }).expect("free");
    cluster.pass_barriers();
    cluster.pass_barriers();
    assert!(cluster.state.volumes.is_empty());
}

#[test]
fn a_clone_in_the_bin_keeps_what_it_stands_on() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    let (source, names) = (disk("v@s"), vec![name("c")]);
    cluster.ask(ControlRequest::VolumeClone { source, names, pool: None }).expect("cloned");
    cluster.put_in_bin("c", Some(60)).expect("free");
    cluster.ask(ControlRequest::VolumeDelete { name: name("v"), with_snapshots: true }).expect("hidden");
    cluster.pass_barriers();
    let id = cluster.bin()[0].id;
    assert!(cluster.restore(id, None).expect("free").origin.is_some());
}

#[test]
fn snapshots_in_the_bin_stay_in_their_group_until_it_is_deleted() {
    let mut cluster = Cluster::with_pool(1, 1);
    for volume in ["a", "b"] {
        cluster.volume(volume, 512).expect("made");
    }
    let shown = |cluster: &Cluster| match cluster.state.query(&ControlRequest::SnapshotGroupShow { name: name("g") }) {
        Some(Ok(ControlReply::SnapshotGroup(group))) => (group.snapshots.len(), group.in_bin),
        other => panic!("{other:?}"),
    };
    cluster.group("g", &["a", "b"]).expect("taken");
    let id = cluster.put_in_bin("a", Some(60)).expect("free")[0].id;
    assert_eq!(shown(&cluster), (1, 1));
    cluster.pass_barriers();
    cluster.restore(id, None).expect("free");
    assert_eq!(shown(&cluster), (2, 0));
    cluster.put_in_bin("a", Some(60)).expect("free");
    cluster.ask(ControlRequest::SnapshotGroupDelete { name: name("g") }).expect("nobody has one");
    let Ok(ControlReply::Volume(info)) = cluster.ask(ControlRequest::BinRestore { volume: id, name: None }) else {
        panic!("free")
    };
    assert_eq!(info.layers.len(), 2, "what is in the bin is brought back with all");
    cluster.group("g", &["b"]).expect("the name is free");
    assert_eq!(shown(&cluster), (1, 0));
}

#[test]
fn what_is_in_the_bin_keeps_its_reservation_and_counts_for_its_pool() {
    let mut cluster = Cluster::with_pool(1, 1);
    cluster.volume("v", 8 << 20).expect("made");
    cluster.ask(ControlRequest::VolumeSet { name: name("v"), provision: Provision::Lazy }).expect("thin");
    let pool = |cluster: &Cluster| cluster.state.space_report(None, &BTreeMap::new()).expect("a read").pools[0].1;
    let reserved = |cluster: &Cluster| cluster.state.reservations_since(Revision(0)).expect("since ever").chunks;
    let (before, kept) = (pool(&cluster), reserved(&cluster));
    assert!(before.used.reserved > 0 && !kept.is_empty());
    let id = cluster.put_in_bin("v", Some(60)).expect("free")[0].id;
    let after = pool(&cluster);
    assert_eq!((after.used, after.provisioned), (before.used, before.provisioned));
    assert_eq!(reserved(&cluster), kept);
    assert_eq!(cluster.restore(id, None).expect("free").provision, Provision::Lazy);
    cluster.put_in_bin("v", Some(60)).expect("free");
    cluster.ask(ControlRequest::BinPurge { volume: id }).expect("in the bin");
    assert!(reserved(&cluster).is_empty(), "nobody is promised it any more");
    assert_eq!(pool(&cluster).provisioned, 0);
}

#[test]
fn a_volume_whose_space_is_still_being_reserved_is_deleted_for_good() {
    let mut cluster = Cluster::with_pool(1, 1);
    let (pool, provision) = (None, Provision::Lazy);
    cluster.ask(ControlRequest::VolumeCreate { name: name("v"), size: 8 << 20, pool, provision }).expect("made");
    assert!(cluster.put_in_bin("v", Some(60)).expect("free").is_empty());
    assert!(cluster.bin().is_empty());
    cluster.pass_barriers();
    assert!(cluster.state.volumes.is_empty());
}

#[test]
fn a_job_rests_while_its_volume_is_in_the_bin() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    let (source, names) = (disk("v@s"), vec![name("c")]);
    cluster.ask(ControlRequest::VolumeClone { source, names, pool: None }).expect("cloned");
    cluster.ask(ControlRequest::VolumeFlatten { name: name("c"), rate: None }).expect("a clone");
    let take = |cluster: &mut Cluster, boot| {
        let take = Command::JobTake { job: JobId(1), replaces: None, gateway: "g".into(), boot: BootId(boot) };
        match cluster.command(take) {
            Ok(ControlReply::JobTaken(taken)) => taken,
            other => panic!("{other:?}"),
        }
    };
    let (job, session) = take(&mut cluster, 1).expect("nobody has it");
    let grant = ControlRequest::JobGrant { job, session };
    assert!(cluster.state.query(&grant).expect("a read").is_ok());
    let id = cluster.put_in_bin("c", Some(60)).expect("free")[0].id;
    assert!(matches!(cluster.state.query(&grant), Some(Err(ControlError::NotFound { .. }))), "he is fenced");
    assert!(cluster.state.jobs_to_take().next().is_none() && take(&mut cluster, 2).is_none());
    cluster.pass_barriers();
    let Some(Ok(ControlReply::Jobs(jobs))) = cluster.state.query(&ControlRequest::JobList) else { panic!("a list") };
    assert_eq!(jobs[0].state, JobState::Paused);
    cluster.restore(id, None).expect("free");
    let (job, session) = take(&mut cluster, 2).expect("it goes on");
    cluster.ask(ControlRequest::JobDone { job, session }).expect("he has it");
    // It is at its end when the volume goes away again: that is waited for in the bin too.
    cluster.put_in_bin("c", Some(60)).expect("free");
    cluster.pass_barriers();
    assert!(cluster.restore(id, None).expect("free").origin.is_none(), "flattened");
}

#[test]
fn purging_begun_by_one_leader_and_begun_again_by_the_next_is_done_once() {
    let mut cluster = Cluster::with_pool(1, 1);
    cluster.volume("v", 512).expect("made");
    let id = cluster.put_in_bin("v", Some(1)).expect("free")[0].id;
    let expire = Command::BinExpire { volumes: vec![id, id], now: NOW + 1 };
    cluster.command(expire.clone()).expect("never refused");
    // The next leader has this state from a snapshot, with the barrier still pending, and the same command twice in its log.
    cluster.state = ClusterState::decode(&cluster.state.encode()).expect("its own bytes");
    cluster.command(expire.clone()).expect("never refused");
    assert!(cluster.state.bin_expired(NOW + 1, 16).is_empty());
    cluster.pass_barriers();
    cluster.command(expire).expect("never refused");
    assert!(cluster.state.volumes.is_empty());
    cluster.volume("v", 512).expect("the name was never lost");
}
