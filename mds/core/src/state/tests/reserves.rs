//! V1 to V3: reservations and what pools may promise.

use super::*;
use ashlar_types::view::{RESERVED_BLOCKS_PER_CHUNK, Reservations};

const CHUNK: u64 = 4 << 20;

impl Cluster {
    pub(super) fn lazy(&mut self, volume: &str, size: u64) -> Outcome {
        self.ask(ControlRequest::VolumeCreate { name: name(volume), size, pool: None, provision: Provision::Lazy })
    }

    pub(super) fn set(&mut self, volume: &str, provision: Provision) -> Outcome {
        self.ask(ControlRequest::VolumeSet { name: name(volume), provision })
    }

    /// All that is asked for.
    pub(super) fn judge(&mut self, is_kept: bool) {
        let asked: Vec<_> = self.state.asked_reserves().map(|(volume, since, _)| (volume, since)).collect();
        for (volume, since) in asked {
            self.command(Command::ReserveJudged(Verdict { volume, since, is_kept })).expect("never refused");
        }
    }

    fn reservations(&self) -> Reservations {
        self.state.view_since(Revision(0)).reservations.unwrap_or_default()
    }

    fn reserved_chunks(&self) -> u64 {
        self.reservations().chunks.values().sum()
    }
}

#[test]
fn a_reserved_volume_cannot_be_used_before_all_osds_keep_it_free() {
    let mut cluster = Cluster::with_pool(3, 3);
    cluster.lazy("v", 10 * CHUNK + 512).expect("made");
    assert_eq!(cluster.show("v").expect("is there").state, VolumeState::Creating);
    assert_eq!(cluster.reserved_chunks(), 11, "whole chunks");
    assert!(refusal(cluster.attach_disk("v", "g")).contains("is being created"));
    assert!(cluster.snapshot("v", "s").expect_err("refused").to_string().contains("is being created"));
    let (volume, _, osds) = cluster.state.asked_reserves().next().expect("asked");
    assert_eq!((volume, osds.len()), (VolumeId(1), 3));
    cluster.judge(true);
    let info = cluster.show("v").expect("is there");
    assert_eq!((info.state, info.provision, info.is_reserving), (VolumeState::Available, Provision::Lazy, false));
    cluster.attach_disk("v", "g").expect("free");
}

#[test]
fn a_volume_that_finds_no_room_is_gone_and_its_reservation_with_it() {
    let mut cluster = Cluster::with_pool(3, 3);
    cluster.lazy("v", 10 * CHUNK).expect("made");
    cluster.judge(false);
    assert_eq!(cluster.reserved_chunks(), 0);
    cluster.pass_barriers();
    assert!(matches!(cluster.show("v"), Err(ControlError::NotFound { .. })));
    assert_eq!(cluster.reservations(), Reservations::default());
}

#[test]
fn a_late_verdict_says_nothing_of_another_reservation() {
    let mut cluster = Cluster::with_volume(3, 3);
    cluster.set("v", Provision::Lazy).expect("thin");
    let (volume, since, _) = cluster.state.asked_reserves().next().expect("asked");
    cluster.set("v", Provision::Thin).expect("asked for");
    cluster.set("v", Provision::Lazy).expect("thin");
    cluster.command(Command::ReserveJudged(Verdict { volume, since, is_kept: true })).expect("never refused");
    assert!(cluster.show("v").expect("is there").is_reserving);
}

#[test]
fn a_thin_volume_that_finds_no_room_stays_thin() {
    let mut cluster = Cluster::with_volume(3, 3);
    cluster.set("v", Provision::Lazy).expect("thin");
    assert_eq!(cluster.reserved_chunks(), 256);
    cluster.judge(false);
    let info = cluster.show("v").expect("is there");
    assert_eq!((info.provision, info.state), (Provision::Thin, VolumeState::Available));
    assert_eq!(cluster.reserved_chunks(), 0);
}

#[test]
fn what_is_reserved_follows_the_size_and_the_top_layer() {
    let mut cluster = Cluster::with_pool(3, 3);
    cluster.lazy("v", 10 * CHUNK).expect("made");
    cluster.judge(true);
    cluster.ask(ControlRequest::VolumeExtend { name: name("v"), size: 20 * CHUNK }).expect("larger");
    assert_eq!(cluster.reserved_chunks(), 20);
    let top = |cluster: &Cluster| cluster.show("v").expect("is there").layers[0];
    assert_eq!(cluster.reservations().volumes[&VolumeId(1)], top(&cluster));
    cluster.judge(true);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    assert_eq!(cluster.reservations().volumes[&VolumeId(1)], top(&cluster));
    cluster.judge(true);
    cluster.ask(ControlRequest::VolumeExtend { name: name("v"), size: 40 * CHUNK }).expect("larger");
    cluster.judge(true);
    cluster.revert("v", "s", false).expect("nobody has it");
    assert_eq!(cluster.reserved_chunks(), 20);
    cluster.judge(false);
    assert_eq!(cluster.show("v").expect("is there").provision, Provision::Lazy, "what it has given up comes back");
    cluster.pass_barriers();
    cluster.ask(ControlRequest::VolumeDelete { name: name("v"), with_snapshots: true }).expect("free");
    assert_eq!(cluster.reservations(), Reservations::default());
}

#[test]
fn a_volume_is_shrunk_only_by_the_gateway_that_alone_has_it() {
    let mut cluster = Cluster::with_pool(3, 3);
    cluster.lazy("v", 10 * CHUNK).expect("made");
    cluster.judge(true);
    let shrink = |size, gateway: &str| ControlRequest::VolumeShrink { name: name("v"), size, gateway: gateway.into() };
    assert!(refusal(cluster.ask(shrink(CHUNK, "g"))).contains("has it not"));
    cluster.attach_disk("v", "g").expect("free");
    assert!(refusal(cluster.ask(shrink(CHUNK, "g"))).contains("has it not"), "it has not opened it");
    cluster.open_disk("v", "g", 7).expect("its own");
    cluster.pass_barriers();
    assert!(refusal(cluster.ask(shrink(CHUNK, "h"))).contains("has it not"));
    assert!(refusal(cluster.ask(shrink(11 * CHUNK, "g"))).contains("no larger"));
    assert!(refusal(cluster.ask(shrink(100, "g"))).contains("multiple of 512"));
    cluster.ask(shrink(CHUNK, "g")).expect("its own");
    assert_eq!((cluster.show("v").expect("is there").size, cluster.reserved_chunks()), (CHUNK, 1));
}

/// So that others keep what they were told that they have.
#[test]
fn a_reserved_volume_that_finds_no_room_for_more_becomes_thin() {
    for extends in [false, true] {
        let mut cluster = Cluster::with_pool(3, 3);
        cluster.lazy("v", 10 * CHUNK).expect("made");
        cluster.judge(true);
        if extends {
            cluster.ask(ControlRequest::VolumeExtend { name: name("v"), size: 20 * CHUNK }).expect("larger");
        } else {
            cluster.snapshot("v", "s").expect("taken");
        }
        cluster.judge(false);
        assert_eq!(cluster.show("v").expect("is there").provision, Provision::Thin);
        assert_eq!(cluster.reserved_chunks(), 0);
    }
}

/// What is reserved is reckoned chunk by chunk.
#[test]
fn a_reserved_volume_gets_no_larger_than_a_reservation_may_be() {
    let mut cluster = Cluster::with_pool(3, 3);
    cluster.volume("v", 1 << 54).expect("thin");
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    cluster.attach_disk("v", "g").expect("free");
    cluster.open_disk("v", "g", 7).expect("its own");
    cluster.pass_barriers();
    let shrink = ControlRequest::VolumeShrink { name: name("v"), size: CHUNK, gateway: "g".into() };
    cluster.ask(shrink).expect("its own");
    cluster.ask(ControlRequest::Detach { name: disk("v"), gateway: None }).expect("attached");
    cluster.pass_barriers();
    cluster.set("v", Provision::Lazy).expect("small enough");
    cluster.judge(true);
    let text = cluster.revert("v", "s", false).expect_err("too large").to_string();
    assert!(text.contains("at most 64 TiB"), "{text}");
    let text = refusal(cluster.ask(ControlRequest::VolumeExtend { name: name("v"), size: 1 << 54 }));
    assert!(text.contains("at most 64 TiB"), "{text}");
    cluster.set("v", Provision::Thin).expect("always");
    cluster.revert("v", "s", false).expect("thin");
}

#[test]
fn a_thin_snapshot_gives_the_reservation_up() {
    let mut cluster = Cluster::with_pool(3, 3);
    cluster.lazy("v", 10 * CHUNK).expect("made");
    cluster.judge(true);
    let request = ControlRequest::SnapshotCreate { volume: name("v"), name: name("s"), taken_at: 5, thin: true };
    cluster.ask(request).expect("taken");
    assert_eq!(cluster.show("v").expect("is there").provision, Provision::Thin);
    assert_eq!(cluster.reserved_chunks(), 0);
}

#[test]
fn a_deleted_volume_that_is_kept_for_its_clones_has_nothing_reserved() {
    let mut cluster = Cluster::with_pool(3, 3);
    cluster.lazy("v", 10 * CHUNK).expect("made");
    cluster.judge(true);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    let clone = ControlRequest::VolumeClone { source: disk("v@s"), names: vec![name("c")], pool: None };
    cluster.ask(clone).expect("made");
    assert_eq!(cluster.show("c").expect("is there").provision, Provision::Thin);
    cluster.ask(ControlRequest::VolumeDelete { name: name("v"), with_snapshots: true }).expect("free");
    assert_eq!(cluster.reservations(), Reservations::default());
}

#[test]
fn a_demand_is_what_each_osd_has_to_keep_more() {
    let mut cluster = Cluster::with_pool(3, 3);
    cluster.lazy("v", 64 * CHUNK).expect("made");
    let (demand, _) = cluster.state.demand_of_size(&name("v"), 100 * CHUNK).expect("is there");
    assert_eq!(demand.len(), 3);
    assert!(demand.values().all(|blocks| *blocks == 36 * RESERVED_BLOCKS_PER_CHUNK), "{demand:?}");
    let demand = cluster.state.demand_of_new(None, 3 * CHUNK);
    assert!(demand.values().all(|blocks| *blocks == 3 * RESERVED_BLOCKS_PER_CHUNK), "not more than all: {demand:?}");
}

#[test]
fn a_pool_promises_no_more_than_its_ratio_allows() {
    let mut cluster = Cluster::with_pool(3, 3);
    let ratio = |over_commit| ControlRequest::PoolSet { name: name("p"), over_commit };
    cluster.ask(ratio(Some(OverCommit(150)))).expect("a good ratio");
    let tib = 1 << 40;
    cluster.volume("a", tib).expect("fits");
    let text = refusal(cluster.volume("b", tib));
    assert!(text.contains("over-commit ratio of 1.5") && text.contains("pool set p --over-commit"), "{text}");
    cluster.volume("b", tib / 2).expect("fits");
    let text = refusal(cluster.ask(ControlRequest::VolumeExtend { name: name("b"), size: tib / 2 + 512 }));
    assert!(text.contains("over-commit") && !text.contains("bin"), "{text}");
    cluster.put_in_bin("a", Some(60)).expect("nobody has it");
    let text = refusal(cluster.volume("d", tib));
    assert!(text.contains(&format!("{tib} of them to volumes in the bin (`bin purge` gives them back)")), "{text}");
    let space = cluster.state.space_report(None, &BTreeMap::new()).expect("of all").pools[0].1;
    assert_eq!((space.in_bin, space.provisioned), (3 * tib, 9 * tib / 2));
    cluster.snapshot("b", "s").expect("taken");
    cluster.pass_barriers();
    let clone = ControlRequest::VolumeClone { source: disk("b@s"), names: vec![name("c")], pool: None };
    assert!(refusal(cluster.ask(clone.clone())).contains("over-commit"));
    cluster.ask(ratio(None)).expect("no ratio");
    cluster.ask(clone).expect("any number");
    for wrong in [0, 1_000_001] {
        assert!(refusal(cluster.ask(ratio(Some(OverCommit(wrong))))).contains("0.01 to 10000"));
    }
}
