//! Tests of the state machine, by rule. Random sequences: tests/model_state.rs.

use super::*;
use ashlar_types::control::{
    AttachGrant, AttachMode, DiskMode, OverCommit, PgChange, Provision, VolumeInfo, VolumeState,
};
use ashlar_types::scrub::{PgScrub, ScrubReport, ScrubTarget, ScrubWish};
use ashlar_types::wipe::WipeReport;
use ashlar_types::{
    AttachmentId, BootId, DiskName, Epoch, Generation, JobId, LayerId, SessionId, StackRevision, WipeId,
};

mod attachments;
mod bin;
mod clones;
mod groups;
mod jobs;
mod merges;
mod modes;
mod pgs;
mod reserves;
mod scrubs;
mod shrinks;
mod snapshots;
mod wipe_freed;
mod wipes;

/// Applies commands one after the other and checks every state between.
struct Cluster {
    state: ClusterState,
}

impl Cluster {
    fn new() -> Cluster {
        Cluster { state: ClusterState::new(ClusterId(7)) }
    }

    /// OSDs 1..=count, all on their own host, started with boot 10 + id.
    fn with_osds(count: u32) -> Cluster {
        let mut cluster = Cluster::new();
        for osd in 1..=count {
            cluster.ask(ControlRequest::OsdCreate { host: format!("host{osd}") }).expect("created");
            cluster.register(osd, 10 + u64::from(osd)).expect("registered");
        }
        cluster
    }

    fn with_pool(osds: u32, replicas: u8) -> Cluster {
        let mut cluster = Cluster::with_osds(osds);
        cluster.pool("p", replicas).expect("made");
        cluster
    }

    fn with_volume(osds: u32, replicas: u8) -> Cluster {
        let mut cluster = Cluster::with_pool(osds, replicas);
        cluster.volume("v", 1 << 30).expect("made");
        cluster
    }

    fn command(&mut self, command: Command) -> Outcome {
        let before = self.state.clone();
        let result = self.state.apply(self.state.applied() + 1, command);
        self.state.assert_invariants();
        let mut view = before.view_since(Revision(0));
        view.apply(self.state.view_since(view.revision));
        assert_eq!(view, self.state.view_since(Revision(0)), "a difference leads to the whole");
        for (pg, config) in &before.pgs {
            assert!(self.state.pgs[pg].value.epoch >= config.value.epoch, "R2: epochs never fall");
            assert!(self.state.pgs[pg].value.epoch.0 <= config.value.epoch.0 + 1, "one change, one epoch");
        }
        result
    }

    fn ask(&mut self, request: ControlRequest) -> Outcome {
        self.command(Command::Request(request))
    }

    fn register(&mut self, osd: u32, boot: u64) -> Outcome {
        self.ask(ControlRequest::OsdRegister {
            osd: OsdId(osd),
            boot: BootId(boot),
            address: format!("host{osd}:7000"),
            host: format!("host{osd}"),
            capacity: 1 << 40,
        })
    }

    fn down(&mut self, osd: u32) {
        let boot = self.state.boot_of(OsdId(osd));
        self.command(Command::OsdDown { osd: OsdId(osd), boot }).expect("never refused");
    }

    fn pool(&mut self, pool: &str, replicas: u8) -> Outcome {
        self.ask(ControlRequest::PoolCreate { name: name(pool), replicas, min_size: None, over_commit: None })
    }

    fn volume(&mut self, volume: &str, size: u64) -> Outcome {
        self.ask(ControlRequest::VolumeCreate { name: name(volume), size, pool: None, provision: Provision::Thin })
    }

    fn show(&self, volume: &str) -> Result<VolumeInfo, ControlError> {
        match self.state.query(&ControlRequest::VolumeShow { name: name(volume) }).expect("a read")? {
            ControlReply::Volume(info) => Ok(info),
            other => panic!("{other:?}"),
        }
    }

    fn pg(&self, index: u32) -> PgConfig {
        self.state.pgs[&PgId { pool: PoolId(1), index }].value.clone()
    }

    fn change(&mut self, index: u32, from: OsdId, change: PgChange) -> Outcome {
        let PgConfig { pg, epoch, .. } = self.pg(index);
        self.ask(ControlRequest::PgChange { pg, epoch, from, change })
    }

    fn pass_barriers(&mut self) {
        for barrier in self.state.view_since(Revision(0)).barriers {
            self.ask(ControlRequest::BarrierPassed { barrier: barrier.id, pgs: barrier.pgs }).expect("never refused");
        }
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a good name")
}

fn disk(text: &str) -> DiskName {
    text.parse().expect("a good name")
}

fn refusal(outcome: Outcome) -> String {
    outcome.expect_err("refused").to_string()
}

#[test]
fn a_pool_needs_as_many_started_osds_as_copies() {
    let mut cluster = Cluster::with_osds(2);
    cluster.ask(ControlRequest::OsdCreate { host: "third".into() }).expect("created, never started");
    let text = refusal(cluster.pool("p", 3));
    assert!(text.contains("need 3 OSDs, but only 2 have started"), "{text}");
    assert!(cluster.pool("p", 2).is_ok());
    assert!(matches!(cluster.pool("p", 2), Err(ControlError::Exists { .. })));
}

#[test]
fn min_size_is_one_less_than_the_copies_but_at_least_one() {
    let mut cluster = Cluster::with_osds(5);
    for (replicas, expected) in [(1, 1), (2, 1), (3, 2), (5, 4)] {
        let Ok(ControlReply::Pool(info)) = cluster.pool(&format!("p{replicas}"), replicas) else { panic!("made") };
        assert_eq!(info.min_size, expected);
    }
    let mut ask = |replicas, min_size| {
        cluster.ask(ControlRequest::PoolCreate {
            name: name("q"),
            replicas,
            min_size: Some(min_size),
            over_commit: None,
        })
    };
    assert!(ask(3, 0).is_err() && ask(3, 4).is_err() && ask(0, 1).is_err() && ask(6, 2).is_err());
}

#[test]
fn a_new_pool_serves_at_once_and_shares_out_its_primaries() {
    let cluster = Cluster::with_pool(3, 3);
    let mut primaries = BTreeMap::new();
    for pg in cluster.state.pgs.values().map(|p| &p.value) {
        assert_eq!((pg.epoch, pg.in_sync.len(), pg.min_size), (Epoch(1), 3, 2));
        *primaries.entry(pg.primary.expect("all are up")).or_insert(0) += 1;
    }
    assert!(primaries.values().all(|n| (10..=11).contains(n)), "{primaries:?}");
    assert_eq!(cluster.state.failure_domain(PoolId(1)), Some(FailureDomain::Host));
}

#[test]
fn a_volume_goes_to_the_only_pool_or_to_default_or_says_which_there_are() {
    let mut cluster = Cluster::with_osds(1);
    assert!(refusal(cluster.volume("v", 512)).contains("ashlar pool create"));
    cluster.pool("fast", 1).expect("made");
    assert!(cluster.volume("a", 512).is_ok());
    cluster.pool("slow", 1).expect("made");
    assert!(refusal(cluster.volume("b", 512)).contains("fast, slow"));
    cluster.pool("default", 1).expect("made");
    let Ok(ControlReply::Volume(info)) = cluster.volume("b", 512) else { panic!("made") };
    assert_eq!(info.pool_name, name("default"));
    let pool = Some(name("none"));
    let request = ControlRequest::VolumeCreate { name: name("c"), size: 512, pool, provision: Provision::Thin };
    assert!(matches!(cluster.ask(request), Err(ControlError::NotFound { .. })));
}

#[test]
fn sizes_are_checked_and_volumes_only_grow() {
    let mut cluster = Cluster::with_volume(1, 1);
    for size in [0, 513, (1 << 54) + 512, u64::MAX] {
        assert!(matches!(cluster.volume("w", size), Err(ControlError::Invalid(_))), "{size}");
    }
    assert!(matches!(cluster.volume("v", 512), Err(ControlError::Exists { .. })));
    let mut extend = |size| cluster.ask(ControlRequest::VolumeExtend { name: name("v"), size });
    assert!(refusal(extend(1 << 29)).contains("cannot shrink") || extend(1 << 29).is_err());
    assert!(extend(2 << 30).is_ok());
    assert_eq!(cluster.show("v").expect("exists").size, 2 << 30);
}

#[test]
fn a_deleted_volume_is_gone_when_its_pgs_have_dropped_it() {
    let mut cluster = Cluster::with_volume(1, 1);
    let layers = cluster.show("v").expect("exists").layers;
    cluster.ask(ControlRequest::VolumeDelete { name: name("v"), with_snapshots: false }).expect("free");
    assert_eq!(cluster.show("v").expect("still there").state, VolumeState::Deleting);
    assert!(cluster.volume("v", 512).is_err(), "its name is not free yet");
    let attach =
        ControlRequest::Attach { name: disk("v"), gateway: "g".into(), mode: AttachMode::Force, read_only: false };
    assert!(refusal(cluster.ask(attach)).contains("being deleted"));
    let barrier = cluster.state.view_since(Revision(0)).barriers.remove(0);
    assert!(barrier.floor.closed && layers.iter().all(|l| barrier.retire.contains(*l)));
    let (first, rest) = barrier.pgs.split_first().expect("a pool has PGs");
    cluster.ask(ControlRequest::BarrierPassed { barrier: barrier.id, pgs: rest.to_vec() }).expect("noted");
    assert!(cluster.show("v").is_ok());
    cluster.ask(ControlRequest::BarrierPassed { barrier: barrier.id, pgs: vec![*first] }).expect("noted");
    assert!(matches!(cluster.show("v"), Err(ControlError::NotFound { .. })));
    let Ok(ControlReply::Volume(again)) = cluster.volume("v", 512) else { panic!("the name is free") };
    assert!(again.layers[0] > layers[0], "layer ids are never used again");
}

#[test]
fn texts_that_are_kept_are_bounded_and_printable() {
    let mut cluster = Cluster::new();
    for host in ["", "a\nb", &"x".repeat(300)] {
        assert!(cluster.ask(ControlRequest::OsdCreate { host: host.to_owned() }).is_err());
    }
}

#[test]
fn a_snapshot_holds_everything() {
    let mut cluster = Cluster::with_volume(3, 3);
    cluster.ask(ControlRequest::VolumeDelete { name: name("v"), with_snapshots: false }).expect("free");
    let bytes = cluster.state.encode();
    assert_eq!(ClusterState::decode(&bytes), Ok(cluster.state));
}

#[test]
fn damaged_bytes_are_told_apart() {
    let good = Command::OsdDown { osd: OsdId(3), boot: BootId(4) }.encode();
    let damage = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Command::decode(&bytes)
    };
    assert!(matches!(damage(0, b'x'), Err(FormatError::Magic { .. })));
    assert!(matches!(damage(2, 9), Err(FormatError::Version { found: 9, .. })));
    assert!(matches!(damage(9, 77), Err(FormatError::Checksum { .. })));
    assert!(matches!(Command::decode(&good[..7]), Err(FormatError::Short { len: 7, .. })));
    assert!(ClusterState::decode(&good).is_err());
}

/// Never edit: logs in the field hold these bytes. A change of the types is a new version in format.rs.
#[test]
fn golden_bytes_of_log_entries() {
    let hex = |command: &Command| command.encode().iter().map(|b| format!("{b:02x}")).collect::<String>();
    let golden = include_str!("../../golden/command-v8.hex");
    let mut commands = golden_commands_until_version_7();
    commands.extend(golden_commands_of_version_8());
    let encoded: Vec<String> = commands.iter().map(hex).collect();
    assert!(golden.lines().eq(&encoded), "log entries are not the golden ones:\n{}", encoded.join("\n"));
    for command in commands {
        assert_eq!(Command::decode(&command.encode()), Ok(command));
    }
}

#[test]
fn log_entries_of_older_versions_are_read() {
    let version_1 = (include_str!("../../golden/command-v1.hex"), golden_commands());
    let commands: Vec<Command> = golden_commands().into_iter().chain(golden_commands_of_version_2()).collect();
    let version_2 = (include_str!("../../golden/command-v2.hex"), commands);
    let version_3 = (include_str!("../../golden/command-v3.hex"), golden_commands_until_version_3());
    let version_4 = (include_str!("../../golden/command-v4.hex"), golden_commands_until_version_4());
    let version_5 = (include_str!("../../golden/command-v5.hex"), golden_commands_until_version_5());
    let version_6 = (include_str!("../../golden/command-v6.hex"), golden_commands_until_version_6());
    let version_7 = (include_str!("../../golden/command-v7.hex"), golden_commands_until_version_7());
    for (golden, commands) in [version_1, version_2, version_3, version_4, version_5, version_6, version_7] {
        assert_eq!(golden.lines().count(), commands.len());
        for (line, command) in golden.lines().zip(commands) {
            assert_eq!(Command::decode(&bytes_of(line)), Ok(command));
        }
    }
}

/// Never edit: snapshots in the field hold these bytes. A change of the types is a new version in format.rs.
#[test]
fn golden_bytes_of_a_snapshot() {
    let golden: String = include_str!("../../golden/snapshot-v7.hex").lines().collect();
    let mut cluster = golden_cluster_of_version_6();
    cluster.set_wipe_freed(&["a", "x"], true).expect("there");
    let encoded: String = cluster.state.encode().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(encoded, golden, "snapshots are not the golden one");
    assert_eq!(ClusterState::decode(&bytes_of(&golden)), Ok(cluster.state));
}

fn golden_cluster_of_version_6() -> Cluster {
    let mut cluster = golden_cluster_of_version_5();
    cluster.volume("m", 512).expect("made");
    cluster.volume("n", 512).expect("made");
    let first = cluster.wipe("m", false).expect("nobody has it").id;
    cluster.pass_barriers();
    cluster.wipe_done(1, &[first]).expect("noted");
    cluster.wipe("n", false).expect("nobody has it");
    cluster.volume("a", 1 << 20).expect("made");
    cluster.volume("b", 1 << 20).expect("made");
    cluster.set_mode("a", DiskMode::IndependentPersistent).expect("nobody has it");
    for volume in ["b", "x"] {
        cluster.set_mode(volume, DiskMode::IndependentNonpersistent).expect("nobody has it");
    }
    cluster
}

fn golden_cluster_of_version_5() -> Cluster {
    let mut cluster = golden_cluster_of_version_4();
    cluster.ask(ControlRequest::VolumeFlatten { name: name("x"), rate: Some(1 << 20) }).expect("a clone");
    cluster.ask(ControlRequest::VolumeSet { name: name("z"), provision: Provision::Eager }).expect("lazy");
    for (job, boot) in [(JobId(1), BootId(8)), (JobId(2), BootId(9))] {
        let take = Command::JobTake { job, replaces: None, gateway: "g".into(), boot };
        cluster.command(take).expect("nobody has it");
    }
    let session = SessionId(3);
    let (job, position, filled, trouble) = (JobId(2), 1 << 19, 1 << 18, Some("the pool is full".into()));
    cluster.ask(ControlRequest::JobProgress { job, session, position, filled, trouble }).expect("he has it");
    cluster.ask(ControlRequest::JobCancel { job: JobId(1) }).expect("is there");
    cluster.set_retention("p", 7 * 86_400).expect("set");
    cluster.put_in_bin("y", None).expect("nobody has it");
    cluster
}

fn golden_cluster_of_version_4() -> Cluster {
    let mut cluster = golden_cluster_of_version_3();
    cluster.volume("z", 1 << 20).expect("made");
    cluster.group("nightly", &["x", "z"]).expect("taken");
    cluster.pass_barriers();
    cluster.group("hourly", &["y", "z"]).expect("taken");
    cluster.ask(ControlRequest::VolumeSet { name: name("z"), provision: Provision::Lazy }).expect("thin");
    cluster.ask(ControlRequest::PoolSet { name: name("p"), over_commit: Some(OverCommit(250)) }).expect("a pool");
    cluster
}

fn golden_cluster_of_version_3() -> Cluster {
    let mut cluster = golden_cluster_of_version_2();
    for clone in ["x", "y"] {
        let (source, names) = (disk("w@two"), vec![name(clone)]);
        cluster.ask(ControlRequest::VolumeClone { source, names, pool: None }).expect("cloned");
    }
    for snapshot in ["one", "two", "three"] {
        cluster.snapshot("x", snapshot).expect("taken");
        cluster.pass_barriers();
    }
    cluster.snapshot_delete("x", "two").expect("nobody has it");
    cluster.ask(ControlRequest::Detach { name: disk("w@one"), gateway: None }).expect("attached");
    cluster.ask(ControlRequest::VolumeDelete { name: name("w"), with_snapshots: true }).expect("hidden");
    cluster
}

fn golden_cluster_of_version_2() -> Cluster {
    let mut cluster = golden_cluster_of_version_1();
    cluster.volume("w", 1 << 20).expect("made");
    cluster.snapshot("w", "one").expect("taken");
    cluster.snapshot("w", "two").expect("taken");
    cluster.pass_barriers();
    cluster.attach_disk("w@one", "g").expect("attached");
    cluster.open_disk("w@one", "g", 7).expect("opened");
    cluster.revert("w", "one", false).expect("nobody has it");
    cluster
}

fn golden_cluster_of_version_1() -> Cluster {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.ask(ControlRequest::VolumeDelete { name: name("v"), with_snapshots: false }).expect("free");
    cluster.ask(ControlRequest::ScrubStart { target: ScrubTarget::All, deep: true }).expect("in sync");
    cluster
}

#[test]
fn snapshots_of_older_versions_are_read() {
    let golden: String = include_str!("../../golden/snapshot-v1.hex").lines().collect();
    assert_eq!(ClusterState::decode(&bytes_of(&golden)), Ok(golden_cluster_of_version_1().state));
    let golden: String = include_str!("../../golden/snapshot-v2.hex").lines().collect();
    assert_eq!(ClusterState::decode(&bytes_of(&golden)), Ok(golden_cluster_of_version_2().state));
    let golden: String = include_str!("../../golden/snapshot-v3.hex").lines().collect();
    assert_eq!(ClusterState::decode(&bytes_of(&golden)), Ok(golden_cluster_of_version_3().state));
    let golden: String = include_str!("../../golden/snapshot-v4.hex").lines().collect();
    assert_eq!(ClusterState::decode(&bytes_of(&golden)), Ok(golden_cluster_of_version_4().state));
    let golden: String = include_str!("../../golden/snapshot-v5.hex").lines().collect();
    assert_eq!(ClusterState::decode(&bytes_of(&golden)), Ok(golden_cluster_of_version_5().state));
    let golden: String = include_str!("../../golden/snapshot-v6.hex").lines().collect();
    assert_eq!(ClusterState::decode(&bytes_of(&golden)), Ok(golden_cluster_of_version_6().state));
}

fn bytes_of(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex"))
        .collect()
}

fn golden_commands_of_version_2() -> Vec<Command> {
    use ControlRequest as R;
    let (osd, pg) = (OsdId(3), PgId { pool: PoolId(2), index: 300 });
    let start = |target, deep| R::ScrubStart { target, deep };
    let requests = [
        start(ScrubTarget::All, true),
        start(ScrubTarget::Pool(name("vm-1")), false),
        start(ScrubTarget::Osd(osd), false),
        start(ScrubTarget::Pgs(vec![pg]), true),
        R::ScrubCancel { target: ScrubTarget::All },
        R::ScrubDone { pg, epoch: Epoch(9), from: osd, report: scrubs::report(7, true) },
    ];
    requests.into_iter().map(Command::Request).collect()
}

fn golden_commands_of_version_3() -> Vec<Command> {
    use ControlRequest as R;
    let (n, s, gateway) = (|| name("vm-1"), || name("before"), || "gw".to_owned());
    let requests = [
        R::VolumeDelete { name: n(), with_snapshots: true },
        R::SnapshotCreate { volume: n(), name: s(), taken_at: 1_800_000_000, thin: false },
        R::VolumeRevert { volume: n(), snapshot: s(), force: true },
        R::Attach { name: disk("vm-1@before"), gateway: gateway(), mode: AttachMode::Shared, read_only: true },
        R::Detach { name: disk("vm-1@before"), gateway: None },
        R::OpenAttachment { name: disk("vm-1@before"), gateway: gateway(), boot: BootId(9) },
    ];
    requests.into_iter().map(Command::Request).collect()
}

fn golden_commands_of_version_4() -> Vec<Command> {
    use ControlRequest as R;
    let names = || vec![name("vdi-0001"), name("vdi-0002")];
    let requests = [
        R::VolumeClone { source: disk("vm-1@before"), names: names(), pool: None },
        R::VolumeClone { source: disk("vm-1@before"), names: names(), pool: Some(name("fast")) },
        R::SnapshotDelete { volume: name("vm-1"), name: name("before") },
        R::MergeDone { merge: 300, pgs: vec![PgId { pool: PoolId(2), index: 300 }] },
    ];
    requests.into_iter().map(Command::Request).collect()
}

fn golden_commands_of_version_5() -> Vec<Command> {
    use ControlRequest as R;
    let volumes = vec![name("vm-1"), name("vm-2")];
    let requests = [
        R::SnapshotGroupCreate { name: name("nightly"), volumes, taken_at: 1_800_000_000 },
        R::SnapshotGroupDelete { name: name("nightly") },
        R::PoolCreate { name: name("fast"), replicas: 3, min_size: None, over_commit: Some(OverCommit(250)) },
        R::PoolSet { name: name("fast"), over_commit: None },
        R::VolumeCreate { name: name("vm-1"), size: 10 << 30, pool: None, provision: Provision::Lazy },
        R::VolumeSet { name: name("vm-1"), provision: Provision::Lazy },
        R::VolumeShrink { name: name("vm-1"), size: 5 << 30, gateway: "gw".into() },
        R::SnapshotCreate { volume: name("vm-1"), name: name("before"), taken_at: 1_800_000_000, thin: true },
    ];
    let verdict = Verdict { volume: VolumeId(300), since: Revision(400), is_kept: true };
    requests.into_iter().map(Command::Request).chain([Command::ReserveJudged(verdict)]).collect()
}

fn golden_commands_of_version_6() -> Vec<Command> {
    use ControlRequest as R;
    let (job, session) = (JobId(300), SessionId(400));
    let trouble = Some("the pool is full".to_owned());
    let requests = [
        R::VolumeCreate { name: name("vm-1"), size: 10 << 30, pool: None, provision: Provision::Eager },
        R::VolumeFlatten { name: name("vm-1"), rate: Some(50 << 20) },
        R::JobSet { job, rate: None, paused: true },
        R::JobCancel { job },
        R::JobProgress { job, session, position: 5 << 30, filled: 1 << 30, trouble },
        R::JobProgress { job, session, position: 5 << 30, filled: 1 << 30, trouble: None },
        R::JobDone { job, session },
        R::PoolKeepDeleted { name: name("fast"), retention: 7 * 86_400 },
        R::VolumeToBin { name: name("vm-1"), with_snapshots: true, retention: None, at: 1_800_000_000 },
        R::VolumeToBin { name: name("vm-1"), with_snapshots: false, retention: Some(60), at: 1_800_000_000 },
        R::BinRestore { volume: VolumeId(300), name: None },
        R::BinRestore { volume: VolumeId(300), name: Some(name("vm-2")) },
        R::BinPurge { volume: VolumeId(300) },
    ];
    let boot = BootId(9);
    let takes = [None, Some(session)].map(|replaces| Command::JobTake { job, replaces, gateway: "gw".into(), boot });
    let expire = Command::BinExpire { volumes: vec![VolumeId(3), VolumeId(300)], now: 1_800_000_000 };
    requests.into_iter().map(Command::Request).chain(takes).chain([expire]).collect()
}

fn golden_commands_of_version_7() -> Vec<Command> {
    use ControlRequest as R;
    let report =
        WipeReport { ended_at: 1_800_000_000, overwritten: 1 << 30, found_zero: 2, unverified: 3, damaged_pages: 4 };
    let requests = [
        R::VolumeWipe { name: name("vm-1"), with_snapshots: true, at: 1_800_000_000 },
        R::BinWipe { volume: VolumeId(300), at: 1_800_000_000 },
        R::WipeDone { osd: OsdId(3), wipes: vec![WipeId(1), WipeId(300)], report },
        R::WipeForget { wipe: WipeId(300), give_up: true },
    ];
    let modes = [DiskMode::Dependent, DiskMode::IndependentPersistent, DiskMode::IndependentNonpersistent];
    let set = |mode| R::VolumeSetMode { names: vec![name("vm-1"), name("vm-2")], mode };
    requests.into_iter().chain(modes.map(set)).map(Command::Request).collect()
}

fn golden_commands_of_version_8() -> Vec<Command> {
    use ControlRequest as R;
    let set = |on| R::VolumeSetWipeFreed { names: vec![name("vm-1"), name("vm-2")], on };
    let create = |pool| R::VolumeCreateWiping { name: name("vm-1"), size: 1 << 30, pool, provision: Provision::Lazy };
    let end = |refusal| R::ShrinkEnd { job: JobId(3), session: SessionId(1 << 40), disk: SessionId(9), refusal };
    let requests = [
        set(true),
        set(false),
        create(None),
        create(Some(name("fast"))),
        R::ShrinkStart { name: name("vm-1"), size: 5 << 30, force: true },
        end(None),
        end(Some("has data".to_owned())),
    ];
    requests.map(Command::Request).to_vec()
}

fn golden_commands_until_version_7() -> Vec<Command> {
    golden_commands_until_version_6().into_iter().chain(golden_commands_of_version_7()).collect()
}

fn golden_commands_until_version_6() -> Vec<Command> {
    golden_commands_until_version_5().into_iter().chain(golden_commands_of_version_6()).collect()
}

fn golden_commands_until_version_5() -> Vec<Command> {
    golden_commands_until_version_4().into_iter().chain(golden_commands_of_version_5()).collect()
}

fn golden_commands_until_version_4() -> Vec<Command> {
    golden_commands_until_version_3().into_iter().chain(golden_commands_of_version_4()).collect()
}

fn golden_commands_until_version_3() -> Vec<Command> {
    let older = golden_commands().into_iter().chain(golden_commands_of_version_2());
    older.chain(golden_commands_of_version_3()).collect()
}

fn golden_commands() -> Vec<Command> {
    use ControlRequest as R;
    let (osd, boot, pg) = (OsdId(3), BootId(0x1122_3344_5566_7788), PgId { pool: PoolId(2), index: 300 });
    let (n, gateway) = (|| name("vm-1"), || "gw".to_owned());
    let change = |change| R::PgChange { pg, epoch: Epoch(9), from: osd, change };
    let attach = |mode| R::Attach { name: n().into(), gateway: gateway(), mode, read_only: true };
    let requests = vec![
        R::PoolCreate { name: n(), replicas: 3, min_size: Some(2), over_commit: None },
        R::VolumeCreate { name: n(), size: 10 << 30, pool: None, provision: Provision::Thin },
        R::VolumeDelete { name: n(), with_snapshots: false },
        R::VolumeExtend { name: n(), size: 20 << 30 },
        attach(AttachMode::Exclusive),
        attach(AttachMode::Shared),
        attach(AttachMode::Force),
        R::Detach { name: n().into(), gateway: Some(gateway()) },
        R::OpenAttachment { name: n().into(), gateway: gateway(), boot },
        R::RegisterGateway { gateway: gateway(), boot, nbd_address: "a:1".into(), nbd_socket: "/s".into() },
        R::OsdCreate { host: "h".into() },
        R::OsdRegister { osd, boot, address: "a:1".into(), host: "h".into(), capacity: 1 << 40 },
        R::OsdStopping { osd, boot },
        change(PgChange::Remove(osd)),
        change(PgChange::Add(osd)),
        change(PgChange::NextEpoch),
        change(PgChange::Resign),
        R::BarrierPassed { barrier: 5, pgs: vec![pg] },
    ];
    let mut commands: Vec<_> = requests.into_iter().map(Command::Request).collect();
    commands.extend([Command::OsdDown { osd, boot }, Command::OsdUp { osd, boot }]);
    commands.push(Command::Rebalance { pgs: vec![(pg, Epoch(9))] });
    commands
}
