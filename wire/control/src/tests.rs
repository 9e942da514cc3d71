//! Every message goes to its proto form, through bytes, and comes back the same; and what is wrong is refused by field.

use crate::{ProtoError, proto};
use ashlar_types::control::*;
use ashlar_types::job::*;
use ashlar_types::perf::*;
use ashlar_types::scrub::*;
use ashlar_types::view::*;
use ashlar_types::wipe::{FreedWipes, Wipe, WipeInfo, WipePart, WipeReport, WipeState};
use ashlar_types::*;
use prost::Message;
use std::collections::BTreeMap;
use std::fmt::Debug;

fn name(text: &str) -> Name {
    Name::new(text).expect("a good name")
}

fn disk(text: &str) -> DiskName {
    text.parse().expect("a good name")
}

/// Plain, proto, bytes, proto, plain.
fn round_trip<T, P>(value: T)
where
    T: Clone + PartialEq + Debug + TryFrom<P, Error = ProtoError>,
    P: From<T> + Message + Default,
{
    let bytes = P::from(value.clone()).encode_to_vec();
    let proto = P::decode(&bytes[..]).expect("what was written is read");
    assert_eq!(T::try_from(proto), Ok(value));
}

const PG: PgId = PgId { pool: PoolId(3), index: 70_000 };
const BASE: BaseLayer = BaseLayer { volume: VolumeId(9), layer: LayerId(u64::MAX), size: 1 << 54 };
const BOOT: BootId = BootId(u64::MAX);
const CLUSTER: ClusterId = ClusterId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);

fn floor() -> Floor {
    Floor {
        stack_revision: StackRevision(4),
        oldest_attachment: AttachmentId(5),
        generations: BTreeMap::from([(AttachmentId(6), Generation(7)), (AttachmentId(8), Generation(9))]),
        closed: true,
    }
}

fn view() -> ClusterView {
    let pool = PoolInfo { id: PoolId(3), name: name("p"), replicas: 3, min_size: 2, pg_count: 32 };
    let osd =
        OsdInfo { id: OsdId(1), boot: BOOT, up: true, address: "h:1".into(), host: "h".into(), capacity: u64::MAX };
    let config = |primary| PgConfig {
        pg: PG,
        epoch: Epoch::MAX,
        members: vec![OsdId(2), OsdId(1)],
        in_sync: vec![OsdId(1)],
        primary,
        primary_boot: BOOT,
        min_size: 2,
    };
    let other = PgId { index: 1, ..PG };
    let gone = IdSet::range(VolumeId(1), VolumeId(3));
    let retire = IdSet::range(LayerId(2), LayerId(2));
    let barrier = Barrier { id: 9, volume: VolumeId(1), floor: floor(), gone, retire, pgs: vec![PG] };
    let scrub =
        PgScrub { wish: Some(ScrubWish { number: 9, deep: true }), last: Some(scrub_report()), last_deep: None };
    ClusterView {
        cluster: CLUSTER,
        revision: Revision(77),
        osds: BTreeMap::from([(OsdId(1), osd)]),
        pools: BTreeMap::from([(PoolId(3), pool)]),
        pgs: BTreeMap::from([(PG, config(Some(OsdId(1)))), (other, PgConfig { pg: other, ..config(None) })]),
        barriers: vec![barrier],
        merges: vec![Merge { id: 10, volume: VolumeId(1), from: LayerId(2), into: LayerId(3), pgs: vec![PG] }],
        scrubs: BTreeMap::from([
            (PG, scrub),
            (other, PgScrub { last_deep: Some(scrub_report()), ..PgScrub::default() }),
        ]),
        reservations: Some(Reservations {
            chunks: BTreeMap::from([(PG, u64::MAX), (other, 1)]),
            volumes: BTreeMap::from([(VolumeId(1), LayerId(2))]),
        }),
        wipes: vec![Wipe { id: WipeId(3), volume: VolumeId(4), pool: PoolId(5), osds: vec![OsdId(6), OsdId(7)] }],
        wipe_freed: Some(FreedWipes {
            layers: IdSet::range(LayerId(4), LayerId(9)),
            known_below: LayerId(12),
            sweep: 3,
        }),
    }
}

fn scrub_report() -> ScrubReport {
    ScrubReport {
        number: 1,
        deep: true,
        ended_at: 2,
        copies: 3,
        chunks: 4,
        mismatches: 5,
        bad_blocks: 6,
        repaired_blocks: u64::MAX,
    }
}

fn perf() -> PerfReport {
    let mut histogram = Histogram::default();
    [0, 1, 1, 17, 1000, 1 << 20, u64::MAX >> 1].iter().for_each(|value| histogram.add(*value));
    Stage::ALL
        .into_iter()
        .map(|stage| (stage, histogram.clone()))
        .chain([(Stage::Read, Histogram::default())])
        .collect()
}

fn attachment() -> AttachmentInfo {
    AttachmentInfo {
        id: AttachmentId(1),
        volume: VolumeId(2),
        name: disk("v@s"),
        gateway: "g".into(),
        generation: Generation(3),
        shared: true,
        read_only: true,
        active: true,
        nbd_address: "127.0.0.1:10809".into(),
        nbd_socket: "/run/s".into(),
    }
}

fn snapshot(state: SnapshotState) -> SnapshotInfo {
    SnapshotInfo {
        id: SnapshotId(4),
        name: name("s"),
        volume: VolumeId(2),
        volume_name: name("v"),
        size: 1 << 54,
        taken_at: 1_800_000_000,
        state,
        layers: vec![LayerId(2), LayerId(1)],
        group: (state == SnapshotState::Available).then(|| name("g")),
    }
}

const SHRINK: Shrink =
    Shrink { size: 512, force: true, attachment: AttachmentId(7), session: SessionId(8), failed: false };

fn job(kind: JobKind, state: JobState) -> JobInfo {
    let is_running = state == JobState::Running;
    JobInfo {
        id: JobId(1),
        kind,
        volume: VolumeId(2),
        volume_name: name("v"),
        state,
        position: 3,
        total: 4,
        filled: 5,
        rate: is_running.then_some(6),
        gateway: is_running.then(|| "g".to_owned()),
        trouble: (!is_running).then(|| "the pool is full".to_owned()),
        paused: state == JobState::Paused,
        waits_for: (state == JobState::Waiting).then(|| "a gateway".to_owned()),
    }
}

fn group(state: SnapshotState) -> SnapshotGroupInfo {
    let (name, left_out) = (name("g"), vec![name("v"), name("w")]);
    SnapshotGroupInfo { name, taken_at: 1_800_000_000, state, snapshots: vec![snapshot(state)], in_bin: 2, left_out }
}

fn binned() -> BinInfo {
    BinInfo {
        id: VolumeId(7),
        name: name("v"),
        size: 1 << 54,
        pool_name: name("p"),
        deleted_at: 1_800_000_000,
        expires_at: u64::MAX,
        snapshots: 3,
        clones: 4,
        volume: Some(Box::new(volume(VolumeState::Available))),
        own: vec![snapshot(SnapshotState::Available)],
    }
}

fn wipe_report() -> WipeReport {
    WipeReport { ended_at: 1, overwritten: 2, found_zero: 3, unverified: 4, damaged_pages: u64::MAX }
}

fn wipe(state: WipeState) -> WipeInfo {
    let report = (state == WipeState::Done).then(wipe_report);
    WipeInfo {
        id: WipeId(7),
        volume: VolumeId(8),
        volume_name: name("v"),
        pool_name: name("p"),
        size: 1 << 54,
        asked_at: 1_800_000_000,
        state,
        clones: 9,
        parts: vec![WipePart { osd: OsdId(1), up: true, report, given_up: report.is_none() }],
    }
}

fn origin(snapshot: Option<Name>) -> OriginInfo {
    let deleted = snapshot.is_none();
    OriginInfo { base: BASE, volume_name: name("golden"), snapshot, deleted }
}

fn volume(state: VolumeState) -> VolumeInfo {
    VolumeInfo {
        id: VolumeId(1),
        name: name("v"),
        size: 1 << 54,
        pool: PoolId(3),
        pool_name: name("p"),
        state,
        placement_key: u64::MAX,
        stack_revision: StackRevision(1),
        layers: vec![LayerId(1), LayerId(2)],
        attachments: vec![attachment()],
        origin: Some(Box::new(origin(Some(name("s"))))),
        clones: 1_000,
        provision: Provision::Lazy,
        is_reserving: true,
        disk_mode: DiskMode::IndependentPersistent,
        wipe_freed: true,
    }
}

#[test]
fn requests_come_back_the_same() {
    use ControlRequest as R;
    let gateway = || "g".to_owned();
    let osd = OsdId(7);
    let usage = Box::new(OsdUsage {
        total: 1,
        used: 2,
        repaired_blocks: 3,
        lost_blocks: 4,
        free: 5,
        unfilled: 6,
        fixed: 7,
        index: 8,
        data: 9,
        wipe_left: 10,
        unwiped: 11,
        wipe_unverified: 12,
    });
    let suspects = vec![(OsdId(1), BOOT), (OsdId(2), BootId(1))];
    let mut requests = vec![
        R::PoolCreate { name: name("p"), replicas: 3, min_size: None, over_commit: None },
        R::PoolCreate { name: name("p"), replicas: 3, min_size: Some(1), over_commit: None },
        R::PoolList,
        R::VolumeCreate { name: name("v"), size: 512, pool: None, provision: Provision::Thin },
        R::VolumeCreate { name: name("v"), size: 512, pool: Some(name("p")), provision: Provision::Thin },
        R::VolumeList,
        R::VolumeShow { name: name("v") },
        R::VolumeDelete { name: name("v"), with_snapshots: false },
        R::VolumeDelete { name: name("v"), with_snapshots: true },
        R::SnapshotCreate { volume: name("v"), name: name("s"), taken_at: u64::MAX, thin: false },
        R::SnapshotList { volume: None },
        R::SnapshotList { volume: Some(name("v")) },
        R::SnapshotShow { volume: name("v"), name: name("s") },
        R::VolumeRevert { volume: name("v"), snapshot: name("s"), force: false },
        R::VolumeRevert { volume: name("v"), snapshot: name("s"), force: true },
        R::VolumeClone { source: disk("v@s"), names: vec![name("a"), name("b")], pool: None },
        R::VolumeClone { source: disk("v"), names: vec![], pool: Some(name("p")) },
        R::BaseGrant { volume: VolumeId(3), layer: LayerId(u64::MAX) },
        R::VolumeExtend { name: name("v"), size: u64::MAX },
        R::Detach { name: disk("v"), gateway: None },
        R::Detach { name: disk("v@s"), gateway: Some(gateway()) },
        R::OpenAttachment { name: disk("v"), gateway: gateway(), boot: BOOT },
        R::OpenAttachment { name: disk("v@s"), gateway: gateway(), boot: BOOT },
        R::SessionGrant { name: disk("v@s"), session: SessionId(5) },
        R::SnapshotDelete { volume: name("v"), name: name("s") },
        R::MergeDone { merge: 4, pgs: vec![PG] },
        R::SnapshotGroupCreate { name: name("g"), volumes: vec![name("a"), name("b")], taken_at: u64::MAX },
        R::SnapshotGroupCreate { name: name("g"), volumes: vec![], taken_at: 0 },
        R::SnapshotGroupList,
        R::SnapshotGroupShow { name: name("g") },
        R::SnapshotGroupDelete { name: name("g") },
        R::PoolKeepDeleted { name: name("p"), retention: u64::MAX },
        R::VolumeToBin { name: name("v"), with_snapshots: true, retention: None, at: u64::MAX },
        R::VolumeToBin { name: name("v"), with_snapshots: false, retention: Some(0), at: 0 },
        R::BinList,
        R::BinRestore { volume: VolumeId(7), name: None },
        R::BinRestore { volume: VolumeId(u64::MAX), name: Some(name("w")) },
        R::BinPurge { volume: VolumeId(7) },
        R::BinPurgeExpired { volume: VolumeId(7), secure: false },
        R::BinPurgeExpired { volume: VolumeId(7), secure: true },
        R::VolumeWipe { name: name("v"), with_snapshots: true, at: u64::MAX },
        R::BinWipe { volume: VolumeId(7), at: 1 },
        R::WipeList,
        R::WipeDone { osd, wipes: vec![WipeId(1), WipeId(u64::MAX)], report: wipe_report() },
        R::WipeForget { wipe: WipeId(1), give_up: true },
        R::VolumeCreateWiping { name: name("v"), size: 512, pool: Some(name("p")), provision: Provision::Lazy },
        R::VolumeSetWipeFreed { names: vec![name("v"), name("w")], on: true },
        R::AttachmentList { gateway: None },
        R::AttachmentList { gateway: Some(String::new()) },
        R::RegisterGateway { gateway: gateway(), boot: BOOT, nbd_address: "a".into(), nbd_socket: "s".into() },
        R::OsdCreate { host: "h".into() },
        R::OsdRegister { osd, boot: BOOT, address: "a".into(), host: "h".into(), capacity: 9 },
        R::OsdHeartbeat(OsdHeartbeat {
            osd,
            boot: BOOT,
            suspects: suspects.clone(),
            usage: usage.clone(),
            view: Revision(7),
            layers: vec![(LayerId(5), 6), (LayerId(u64::MAX), 0)],
            perf: perf(),
        }),
        R::OsdHeartbeat(OsdHeartbeat {
            osd,
            boot: BOOT,
            suspects,
            usage,
            view: Revision(0),
            layers: vec![],
            perf: PerfReport::new(),
        }),
        R::VolumeCreate { name: name("v"), size: 512, pool: None, provision: Provision::Lazy },
        R::VolumeSet { name: name("v"), provision: Provision::Lazy },
        R::VolumeSet { name: name("v"), provision: Provision::Thin },
        R::VolumeShrink { name: name("v"), size: 512, gateway: gateway() },
        R::PoolCreate { name: name("p"), replicas: 3, min_size: None, over_commit: Some(OverCommit(150)) },
        R::PoolSet { name: name("p"), over_commit: Some(OverCommit(u32::MAX)) },
        R::PoolSet { name: name("p"), over_commit: None },
        R::VolumeCreate { name: name("v"), size: 512, pool: None, provision: Provision::Eager },
        R::VolumeFlatten { name: name("v"), rate: None },
        R::VolumeFlatten { name: name("v"), rate: Some(u64::MAX) },
        R::JobList,
        R::JobSet { job: JobId(1), rate: None, paused: true },
        R::JobSet { job: JobId(u64::MAX), rate: Some(5), paused: false },
        R::JobCancel { job: JobId(2) },
        R::JobTake { gateway: "g".into(), boot: BootId(3), shrinks_only: false },
        R::JobGrant { job: JobId(2), session: SessionId(4) },
        R::JobProgress { job: JobId(2), session: SessionId(4), position: 5, filled: 6, trouble: None },
        R::JobProgress { job: JobId(2), session: SessionId(4), position: 5, filled: 6, trouble: Some("full".into()) },
        R::JobDone { job: JobId(2), session: SessionId(4) },
        R::JobTake { gateway: "g".into(), boot: BootId(3), shrinks_only: true },
        R::ShrinkStart { name: name("v"), size: 512, force: true },
        R::ShrinkStart { name: name("v"), size: u64::MAX, force: false },
        R::ShrinkEnd { job: JobId(2), session: SessionId(4), disk: SessionId(5), refusal: None },
        R::ShrinkEnd { job: JobId(2), session: SessionId(4), disk: SessionId(0), refusal: Some("data".into()) },
        R::SpaceUse { volume: None },
        R::SpaceUse { volume: Some(name("v")) },
        R::SnapshotCreate { volume: name("v"), name: name("s"), taken_at: 1, thin: true },
        R::PerfStatus,
        R::OsdStopping { osd, boot: BOOT },
        R::BarrierPassed { barrier: 4, pgs: vec![PG] },
        R::ViewSince { revision: Revision(5) },
        R::ServiceStatus,
        R::ScrubCancel { target: ScrubTarget::All },
        R::ScrubDone { pg: PG, epoch: Epoch(8), from: osd, report: scrub_report() },
    ];
    for mode in [DiskMode::Dependent, DiskMode::IndependentPersistent, DiskMode::IndependentNonpersistent] {
        requests.push(R::VolumeSetMode { names: vec![name("v"), name("w")], mode });
    }
    for target in [
        ScrubTarget::All,
        ScrubTarget::Pool(name("p")),
        ScrubTarget::Osd(osd),
        ScrubTarget::Pgs(vec![]),
        ScrubTarget::Pgs(vec![PG]),
    ] {
        requests.push(R::ScrubStart { target, deep: true });
    }
    for mode in [AttachMode::Exclusive, AttachMode::Shared, AttachMode::Force] {
        requests.push(R::Attach { name: disk("v@s"), gateway: gateway(), mode, read_only: true });
    }
    for change in [PgChange::Remove(OsdId(0)), PgChange::Add(osd), PgChange::NextEpoch, PgChange::Resign] {
        requests.push(R::PgChange { pg: PG, epoch: Epoch(8), from: osd, change });
    }
    for request in requests {
        round_trip::<ControlRequest, proto::ControlRequest>(request);
    }
}

fn space_report() -> SpaceReport {
    let used = SpaceUse { live: 1, snapshots: 2, shared: 3, garbage: 4, reserved: 5 };
    let over_commit = Some(OverCommit(8));
    let pool = PoolSpace { used, provisioned: 6, capacity: 7, over_commit, retention: 9, in_bin: 12 };
    SpaceReport {
        volumes: vec![(VolumeId(9), used)],
        pools: vec![(PoolId(3), pool), (PoolId(4), PoolSpace::default())],
        orphaned: 10,
        osds: vec![(OsdId(1), OsdUsage { unfilled: 11, ..OsdUsage::default() })],
    }
}

#[test]
fn answers_come_back_the_same() {
    use ControlError as E;
    use ControlReply as R;
    let grant = AttachGrant {
        volume: VolumeId(1),
        name: disk("v@s"),
        attachment: AttachmentId(2),
        generation: Generation(3),
        session: SessionId(4),
        pool: PoolId(5),
        placement_key: u64::MAX - 1,
        stack_revision: StackRevision(6),
        layers: vec![LayerId(7)],
        size: 512,
        read_only: true,
        base: None,
    };
    let of_clone = AttachGrant { base: Some(BASE), ..grant.clone() };
    let of_deleted = VolumeInfo { origin: Some(Box::new(origin(None))), ..volume(VolumeState::Available) };
    let no_clone = VolumeInfo { origin: None, clones: 0, ..volume(VolumeState::Available) };
    let pool = view().pools[&PoolId(3)].clone();
    let text = || "t".to_owned();
    let states = [VolumeState::Creating, VolumeState::Available, VolumeState::Attached, VolumeState::Deleting];
    let answers: Vec<Result<ControlReply, ControlError>> = vec![
        Ok(R::Done { revision: Revision(1) }),
        Ok(R::Pool(pool.clone())),
        Ok(R::Pools(vec![pool])),
        Ok(R::Volume(volume(VolumeState::Attached))),
        Ok(R::Volumes(states.map(volume).to_vec())),
        Ok(R::Snapshot(snapshot(SnapshotState::Creating))),
        Ok(R::Snapshots(vec![snapshot(SnapshotState::Available)])),
        Ok(R::SnapshotGroup(group(SnapshotState::Creating))),
        Ok(R::Job(Box::new(job(JobKind::Zero, JobState::Waiting)))),
        Ok(R::Job(Box::new(job(JobKind::Shrink(SHRINK), JobState::Running)))),
        Ok(R::Job(Box::new(job(JobKind::Shrink(Shrink { failed: true, ..SHRINK }), JobState::Failed)))),
        Ok(R::Jobs(vec![job(JobKind::Flatten, JobState::Paused), job(JobKind::Flatten, JobState::Ending)])),
        Ok(R::JobTaken(None)),
        Ok(R::JobTaken(Some((JobId(1), SessionId(2))))),
        Ok(R::JobWork(Box::new(JobWork { job: job(JobKind::Flatten, JobState::Running), grant: grant.clone() }))),
        Ok(R::SnapshotGroups(vec![group(SnapshotState::Available), group(SnapshotState::Creating)])),
        Ok(R::Bin(vec![])),
        Ok(R::Bin(vec![binned(), BinInfo { volume: None, own: vec![], ..binned() }])),
        Ok(R::Wipes(vec![])),
        Ok(R::Wipes([WipeState::Kept, WipeState::Deleting, WipeState::Wiping, WipeState::Done].map(wipe).to_vec())),
        Ok(R::Attachment(attachment())),
        Ok(R::Attachments(vec![attachment(), attachment()])),
        Ok(R::Volumes(vec![of_deleted, no_clone])),
        Ok(R::Opened(grant)),
        Ok(R::Opened(of_clone)),
        Ok(R::OsdCreated { osd: OsdId(1), cluster: CLUSTER }),
        Ok(R::View(Box::new(view()))),
        Ok(R::Status(ServiceStatus {
            leader: MdsId(2),
            address: text(),
            usage: vec![(OsdId(1), OsdUsage { total: 4, used: 3, ..OsdUsage::default() })],
            volumes_kept: 5,
            volumes_in_bin: 6,
            bin_bytes: u64::MAX,
        })),
        Ok(R::Scrub { number: 3, pgs: vec![PG] }),
        Ok(R::Space(SpaceReport::default())),
        Ok(R::Space(space_report())),
        Ok(R::Perf(vec![])),
        Ok(R::Perf(vec![OsdPerf { osd: OsdId(1), boot: BOOT, stages: perf() }])),
        Err(E::NotFound { what: text(), name: text() }),
        Err(E::Exists { what: text(), name: text() }),
        Err(E::Invalid(text())),
        Err(E::Attached { name: text(), holder: text() }),
        Err(E::Fencing { waiting_for: text() }),
        Err(E::WrongEpoch { pg: PG, request: Epoch(1), current: Epoch(2) }),
        Err(E::NotLeader { leader: None }),
        Err(E::NotLeader { leader: Some(text()) }),
        Err(E::Undecided),
        Err(E::Busy),
    ];
    for answer in answers {
        let bytes = proto::ControlAnswer::from(answer.clone()).encode_to_vec();
        let proto = proto::ControlAnswer::decode(&bytes[..]).expect("what was written is read");
        assert_eq!(Result::<ControlReply, ControlError>::try_from(proto), Ok(answer));
    }
    round_trip::<ClusterView, proto::ClusterView>(view());
}

#[test]
fn what_is_wrong_is_refused_by_field() {
    let request = |kind| ControlRequest::try_from(proto::ControlRequest { request: Some(kind) });
    use proto::control_request::Request as Kind;
    let missing = ControlRequest::try_from(proto::ControlRequest { request: None });
    assert_eq!(missing, Err(ProtoError::Missing("ControlRequest.request")));
    let create = proto::PoolCreate { name: "p".into(), replicas: 300, ..Default::default() };
    assert_eq!(request(Kind::PoolCreate(create)), Err(ProtoError::Range { field: "PoolCreate.replicas", found: 300 }));
    let show = request(Kind::VolumeShow(proto::VolumeShow { name: "a b".into() }));
    assert!(matches!(show, Err(ProtoError::Name { field: "VolumeShow.name", .. })));
    let attach = proto::Attach { name: "v".into(), mode: 99, ..Default::default() };
    assert_eq!(request(Kind::Attach(attach)), Err(ProtoError::Missing("Attach.mode")));
    let attach = request(Kind::Attach(proto::Attach { name: "v@".into(), ..Default::default() }));
    assert!(matches!(attach, Err(ProtoError::Name { field: "Attach.name", .. })));
    let state = SnapshotInfo::try_from(proto::SnapshotInfo { state: 9, ..snapshot(SnapshotState::Creating).into() });
    assert_eq!(state, Err(ProtoError::Missing("SnapshotInfo.state")));
    let of =
        SnapshotGroupInfo::try_from(proto::SnapshotGroupInfo { state: 9, ..group(SnapshotState::Creating).into() });
    assert_eq!(of, Err(ProtoError::Missing("SnapshotGroupInfo.state")));
    let create = proto::SnapshotGroupCreate { name: "g".into(), volumes: vec!["v@s".into()], taken_at: 0 };
    let create = request(Kind::SnapshotGroupCreate(create));
    assert!(matches!(create, Err(ProtoError::Name { field: "SnapshotGroupCreate.volumes", .. })));
    let restore = request(Kind::BinRestore(proto::BinRestore { volume: 1, name: Some("v@s".into()) }));
    assert!(matches!(restore, Err(ProtoError::Name { field: "BinRestore.name", .. })));
    let mode = request(Kind::VolumeSetMode(proto::VolumeSetMode { names: vec!["v".into()], mode: 9 }));
    assert_eq!(mode, Err(ProtoError::Range { field: "VolumeSetMode.mode", found: 9 }));
    let clone = proto::VolumeClone { source: "v@s".into(), names: vec!["a".into(), "b c".into()], pool: None };
    let clone = request(Kind::VolumeClone(clone));
    assert!(matches!(clone, Err(ProtoError::Name { field: "VolumeClone.names", .. })));
    let clone = request(Kind::VolumeClone(proto::VolumeClone { source: "v@".into(), ..Default::default() }));
    assert!(matches!(clone, Err(ProtoError::Name { field: "VolumeClone.source", .. })));
    let mut info = proto::VolumeInfo::from(volume(VolumeState::Available));
    info.origin = Some(proto::OriginInfo { volume_name: "v".into(), ..Default::default() });
    assert_eq!(VolumeInfo::try_from(info), Err(ProtoError::Missing("OriginInfo.base")));
    let change = proto::PgChange { pg: None, epoch: 1, from: 1, change: None };
    assert_eq!(request(Kind::PgChange(change)), Err(ProtoError::Missing("PgChange.pg")));
    let start = proto::ScrubStart { target: Some(proto::ScrubTarget { target: None }), deep: false };
    assert_eq!(request(Kind::ScrubStart(start)), Err(ProtoError::Missing("ScrubTarget.target")));
    let done = proto::ScrubDone { pg: Some(proto::PgId::default()), ..Default::default() };
    assert_eq!(request(Kind::ScrubDone(done)), Err(ProtoError::Missing("ScrubDone.report")));
    let mut wrong = proto::ClusterView::from(view());
    wrong.cluster.pop();
    let length = ProtoError::Length { field: "ClusterView.cluster", found: 15, expected: 16 };
    assert_eq!(ClusterView::try_from(wrong), Err(length));
    let mut wrong = proto::ClusterView::from(view());
    wrong.pgs[0].epoch = u32::MAX;
    assert!(matches!(ClusterView::try_from(wrong), Err(ProtoError::Range { field: "PgConfig.epoch", .. })));
}

#[test]
fn histograms_of_other_versions_are_taken_as_far_as_they_are_understood() {
    // Of an older peer there are none.
    let old = proto::OsdHeartbeat { osd: 1, boot: 2, ..Default::default() };
    assert_eq!(OsdHeartbeat::from(old).perf, PerfReport::new());
    let of = |stage, steps: &[u32], counts: &[u64]| {
        let (steps, counts) = (steps.to_vec(), counts.to_vec());
        proto::StageHistogram { stage, sum: 5, max: 4, steps, counts }
    };
    let perf = vec![of(u32::MAX, &[1], &[1]), of(0, &[], &[]), of(1, &[u32::MAX, u32::MAX, 9], &[1, u64::MAX])];
    let heartbeat = OsdHeartbeat::from(proto::OsdHeartbeat { perf, ..Default::default() });
    let counts: Vec<_> = heartbeat.perf.iter().map(|(stage, histogram)| (*stage, histogram.count())).collect();
    assert_eq!(counts, [(Stage::Write, u64::MAX)]);
}

/// Who doesn't know clones would take the grant of one for that of an empty volume.
#[test]
fn the_grant_of_a_clone_is_told_in_a_field_of_its_own() {
    use proto::control_reply::Reply as Kind;
    let grant = |base| AttachGrant {
        volume: VolumeId(1),
        name: disk("v"),
        attachment: AttachmentId(2),
        generation: Generation(3),
        session: SessionId(4),
        pool: PoolId(5),
        placement_key: 6,
        stack_revision: StackRevision(7),
        layers: vec![LayerId(8)],
        size: 512,
        read_only: false,
        base,
    };
    let reply = |base| proto::ControlReply::from(ControlReply::Opened(grant(base))).reply;
    assert!(matches!(reply(None), Some(Kind::Opened(_))));
    let Some(Kind::OpenedClone(of_clone)) = reply(Some(BASE)) else { panic!("in a field of its own") };
    let without = Kind::OpenedClone(proto::AttachGrant { base: None, ..of_clone });
    let refused = ControlReply::try_from(proto::ControlReply { reply: Some(without) });
    assert_eq!(refused, Err(ProtoError::Missing("AttachGrant.base")));
}

/// A change of golden/control-v1.hex is a change of the protocol: only ever add to it, and say so in the commit's first line.
#[test]
fn the_descriptor_is_the_golden_one() {
    let descriptor = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
    let hex: String = descriptor.iter().map(|b| format!("{b:02x}")).collect();
    let lines: Vec<&str> = hex.as_bytes().chunks(120).map(|c| std::str::from_utf8(c).expect("hex")).collect();
    let golden = include_str!("../golden/control-v1.hex");
    assert!(
        golden.lines().eq(lines.iter().copied()),
        "proto/control.proto is not the golden one:\n{}",
        lines.join("\n")
    );
}
