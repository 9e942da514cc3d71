//! Random commands, sensible and senseless: no panic, every invariant after each, and one property on top of them all:
//! whoever is given an exclusive volume, every PG refuses everybody who had it before; and what anybody is given to read is kept by
//! every PG, in a stack that none refuses. What one attachment of a non-persistent volume could write no other is given. Who is given a volume that was frozen with others: all PGs refuse the old stacks of all of them. So is all that a clone stands on, however many deletions later; and when everybody is deleted,
//! nothing is kept.

use ashlar_mds_core::state::{ClusterState, Command, Verdict};
use ashlar_types::control::{
    AttachGrant, AttachMode, ControlError, ControlReply, ControlRequest, DiskMode, OverCommit, PgChange, Provision,
    SnapshotGroupInfo, VolumeInfo,
};
use ashlar_types::job::JobKind;
use ashlar_types::scrub::{ScrubReport, ScrubTarget};
use ashlar_types::view::{ClusterView, Floor};
use ashlar_types::wipe::WipeReport;
use ashlar_types::{
    AttachmentId, BootId, ClusterId, DiskName, Epoch, IdSet, JobId, LayerId, Name, OsdId, PgId, PoolId, Revision,
    SessionId, SnapshotId, StackRevision, VolumeId, WipeId,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Reads one random number as many small ones.
struct Digits(u64);

impl Digits {
    fn next(&mut self, below: u64) -> u64 {
        let digit = self.0 % below;
        self.0 /= below;
        digit
    }

    fn small(&mut self, below: u64) -> u32 {
        u32::try_from(self.next(below)).expect("a small number")
    }

    fn name(&mut self) -> Name {
        Name::new(["a", "a", "a", "b", "c", "d"][self.next(6) as usize]).expect("a good name")
    }

    fn clones(&mut self) -> Vec<Name> {
        let count = 1 + self.next(2);
        (0..count).map(|_| Name::new(["b", "c", "d"][self.next(3) as usize]).expect("a good name")).collect()
    }

    fn snapshot(&mut self) -> Name {
        Name::new(["s", "t", "u"][self.next(3) as usize]).expect("a good name")
    }

    fn disk(&mut self) -> DiskName {
        let volume = self.name();
        let snapshot = (self.next(3) == 0).then(|| self.snapshot());
        DiskName { volume, snapshot }
    }

    fn size(&mut self) -> u64 {
        let unit = [512, 512, 4 << 20][self.next(3) as usize];
        unit * self.next(4)
    }

    fn provision(&mut self) -> Provision {
        [Provision::Thin, Provision::Lazy, Provision::Eager][self.next(3) as usize]
    }

    fn mode(&mut self) -> DiskMode {
        [DiskMode::Dependent, DiskMode::IndependentPersistent, DiskMode::IndependentNonpersistent]
            [self.next(3).max(self.next(2)) as usize]
    }

    /// Seldom one, since the disks are small.
    fn over_commit(&mut self) -> Option<OverCommit> {
        (self.next(8) == 0).then_some(OverCommit(1_000_000))
    }

    fn gateway(&mut self) -> String {
        ["g1", "g2"][self.next(2) as usize].to_owned()
    }

    fn osd(&mut self) -> OsdId {
        OsdId(1 + self.small(5))
    }

    fn volume(&mut self) -> VolumeId {
        VolumeId(1 + self.next(8))
    }

    fn boot(&mut self) -> BootId {
        BootId(self.next(5))
    }
}

fn target(d: &mut Digits) -> ScrubTarget {
    match d.next(4) {
        0 => ScrubTarget::All,
        1 => ScrubTarget::Pool(d.name()),
        2 => ScrubTarget::Osd(d.osd()),
        _ => ScrubTarget::Pgs(vec![PgId { pool: PoolId(1 + d.small(2)), index: d.small(9) }]),
    }
}

/// Of one volume again and again, so that attachments begin, are opened and end while its mode is the same.
fn use_of_one(d: &mut Digits, view: &ClusterView) -> ControlRequest {
    use ControlRequest as R;
    let name = || Name::new("a").expect("a good name");
    let attach = |gateway, mode| R::Attach { name: name().into(), gateway, mode, read_only: false };
    match d.next(13) {
        10 | 11 => R::ShrinkStart { name: name(), size: d.size(), force: d.next(2) == 0 },
        12 => {
            let (job, session, disk) = (JobId(1 + d.next(3)), SessionId(1 + d.next(6)), SessionId(1 + d.next(6)));
            R::ShrinkEnd { job, session, disk, refusal: (d.next(4) == 0).then(|| "data".to_owned()) }
        }
        0 => R::VolumeSetMode { names: vec![name()], mode: DiskMode::IndependentNonpersistent },
        1 => attach(d.gateway(), AttachMode::Exclusive),
        2 => attach(d.gateway(), AttachMode::Force),
        3..=5 => R::OpenAttachment { name: name().into(), gateway: d.gateway(), boot: BootId(1 + d.next(4)) },
        6 => R::Detach { name: name().into(), gateway: None },
        _ => match view.barriers.first() {
            Some(barrier) => R::BarrierPassed { barrier: barrier.id, pgs: barrier.pgs.clone() },
            None => R::VolumeShow { name: name() },
        },
    }
}

fn command(number: u64, view: &ClusterView) -> Command {
    use ControlRequest as R;
    let mut d = Digits(number);
    let request = match d.next(97) {
        95 => {
            let (pool, provision) = (None, Provision::Thin);
            R::VolumeCreateWiping { name: d.name(), size: d.size(), pool, provision }
        }
        94 => R::VolumeSetWipeFreed { names: vec![d.name()], on: d.next(3) > 0 },
        60..62 => {
            let retention = (d.next(2) == 0).then(|| d.next(3));
            R::VolumeToBin { name: d.name(), with_snapshots: d.next(2) == 0, retention, at: d.next(5) }
        }
        62 => R::BinRestore { volume: d.volume(), name: (d.next(2) == 0).then(|| d.name()) },
        63 => R::BinPurge { volume: d.volume() },
        64 => {
            let volumes = (0..d.next(3)).map(|_| d.volume()).collect();
            return Command::BinExpire { volumes, now: d.next(8) };
        }
        66 => R::VolumeWipe { name: d.name(), with_snapshots: d.next(2) == 0, at: d.next(5) },
        67 => R::BinWipe { volume: d.volume(), at: d.next(5) },
        68 => {
            let wipes = (0..d.next(3)).map(|_| WipeId(1 + d.next(4))).collect();
            let report = WipeReport { ended_at: 1, overwritten: 2, found_zero: 3, unverified: 0, damaged_pages: 0 };
            R::WipeDone { osd: d.osd(), wipes, report }
        }
        69 => R::WipeForget { wipe: WipeId(1 + d.next(4)), give_up: d.next(2) == 0 },
        70..73 => {
            let names = (0..1 + d.next(2)).map(|_| d.name()).collect();
            R::VolumeSetMode { names, mode: d.mode() }
        }
        73.. => use_of_one(&mut d, view),
        65 => R::PoolKeepDeleted { name: d.name(), retention: d.next(3) },
        51 => R::VolumeFlatten { name: d.name(), rate: (d.next(2) == 0).then_some(1 << 20) },
        52 => R::JobSet { job: JobId(1 + d.next(6)), rate: None, paused: d.next(2) == 0 },
        53 => R::JobCancel { job: JobId(1 + d.next(6)) },
        54..60 => {
            // Sessions are given out to all, one after the other.
            let (job, session) = (JobId(1 + d.next(6)), SessionId(1 + d.next(12)));
            match d.next(9) {
                6 | 7 => R::ShrinkStart { name: d.name(), size: d.size(), force: d.next(2) == 0 },
                8 => {
                    let (disk, is_refused) = (SessionId(1 + d.next(12)), d.next(3) == 0);
                    R::ShrinkEnd { job, session, disk, refusal: is_refused.then(|| "data".to_owned()) }
                }
                0 => R::JobDone { job, session },
                1 => R::JobProgress { job, session, position: d.size(), filled: d.size(), trouble: None },
                2 | 3 => R::JobGrant { job, session },
                _ => {
                    let replaces = (d.next(2) == 0).then_some(session);
                    return Command::JobTake { job, replaces, gateway: d.gateway(), boot: d.boot() };
                }
            }
        }
        21 => R::ScrubStart { target: target(&mut d), deep: d.next(2) == 0 },
        22 => R::ScrubCancel { target: target(&mut d) },
        23 => {
            let pg = PgId { pool: PoolId(1 + d.small(2)), index: d.small(9) };
            let known = view.pgs.get(&pg);
            let from = known.and_then(|c| c.primary).filter(|_| d.next(4) > 0).unwrap_or(d.osd());
            let epoch = known.map(|c| c.epoch).filter(|_| d.next(4) > 0).unwrap_or(Epoch(1));
            let wish = view.scrubs.get(&pg).and_then(|s| s.wish).map_or(1, |w| w.number);
            let (number, deep) = (wish + d.next(3) - 1, d.next(2) == 0);
            let report = ScrubReport {
                number,
                deep,
                ended_at: 1,
                copies: 2,
                chunks: 3,
                mismatches: 0,
                bad_blocks: 1,
                repaired_blocks: 1,
            };
            R::ScrubDone { pg, epoch, from, report }
        }
        24 | 25 => {
            R::SnapshotCreate { volume: d.name(), name: d.snapshot(), taken_at: d.next(3), thin: d.next(2) == 0 }
        }
        32..35 => R::SnapshotDelete { volume: d.name(), name: d.snapshot() },
        35..38 => {
            let Some(merge) = view.merges.get(d.next(2) as usize) else {
                return Command::Request(R::MergeDone { merge: d.next(9), pgs: vec![] });
            };
            let some = d.next(merge.pgs.len() as u64 + 1) as usize;
            R::MergeDone { merge: merge.id, pgs: merge.pgs[..some].to_vec() }
        }
        38..41 => {
            let volumes = (0..1 + d.next(2)).map(|_| d.name()).collect();
            R::SnapshotGroupCreate { name: d.snapshot(), volumes, taken_at: d.next(3) }
        }
        41 => R::SnapshotGroupDelete { name: d.snapshot() },
        26 | 27 => R::VolumeRevert { volume: d.name(), snapshot: d.snapshot(), force: d.next(2) == 0 },
        28..=31 => {
            let snapshot = (d.next(8) > 0).then(|| d.snapshot());
            let source = DiskName { volume: d.name(), snapshot };
            let pool = (d.next(3) == 0).then(|| d.name());
            R::VolumeClone { source, names: d.clones(), pool }
        }
        20 => {
            let pgs = view.pgs.values().filter(|_| d.next(2) == 0).map(|c| (c.pg, c.epoch)).collect();
            return Command::Rebalance { pgs };
        }
        0 => R::OsdCreate { host: "h".into() },
        1 | 2 => R::OsdRegister {
            osd: d.osd(),
            boot: d.boot(),
            address: "a:1".into(),
            host: d.gateway(),
            capacity: d.next(3),
        },
        3 | 4 => return Command::OsdDown { osd: d.osd(), boot: d.boot() },
        5 => return Command::OsdUp { osd: d.osd(), boot: d.boot() },
        6 => R::OsdStopping { osd: d.osd(), boot: d.boot() },
        7 => {
            let (replicas, min_size) = (d.next(5) as u8, Some(d.next(4) as u8));
            R::PoolCreate { name: d.name(), replicas, min_size, over_commit: d.over_commit() }
        }
        8 | 9 => R::VolumeCreate { name: d.name(), size: d.size(), pool: Some(d.name()), provision: d.provision() },
        46 => R::VolumeShrink { name: d.name(), size: d.size(), gateway: d.gateway() },
        47 => R::PoolSet { name: d.name(), over_commit: d.over_commit() },
        48..51 => R::VolumeSet { name: d.name(), provision: d.provision() },
        42..46 => {
            // The volumes are made one after the other, and what is asked for is of a view that was.
            let since = Revision(view.revision.0.saturating_sub(d.next(3)));
            let volume = VolumeId(1 + d.next(12));
            return Command::ReserveJudged(Verdict { volume, since, is_kept: d.next(2) == 0 });
        }
        10 => R::VolumeDelete { name: d.name(), with_snapshots: d.next(2) == 0 },
        11 => R::VolumeExtend { name: d.name(), size: d.size() },
        12 | 13 => {
            let mode = [AttachMode::Exclusive, AttachMode::Shared, AttachMode::Force][d.next(3) as usize];
            R::Attach { name: d.disk(), gateway: d.gateway(), mode, read_only: false }
        }
        14 => R::Detach { name: d.disk(), gateway: (d.next(2) == 0).then(|| "g1".to_owned()) },
        15 | 16 => R::OpenAttachment { name: d.disk(), gateway: d.gateway(), boot: d.boot() },
        17 | 18 => {
            let pg = PgId { pool: PoolId(1 + d.small(2)), index: d.small(9) };
            let known = view.pgs.get(&pg);
            let from = known.and_then(|c| c.primary).filter(|_| d.next(4) > 0).unwrap_or(d.osd());
            let epoch = known.map(|c| c.epoch).filter(|_| d.next(4) > 0).unwrap_or(Epoch(1));
            let osd = d.osd();
            let change =
                [PgChange::Remove(osd), PgChange::Add(osd), PgChange::NextEpoch, PgChange::Resign][d.next(4) as usize];
            R::PgChange { pg, epoch, from, change }
        }
        _ => {
            let Some(barrier) = view.barriers.get(d.next(2) as usize) else {
                return Command::Request(R::BarrierPassed { barrier: d.next(9), pgs: vec![] });
            };
            let some = if d.next(2) == 0 { barrier.pgs.len() } else { barrier.pgs.len().div_ceil(2) };
            R::BarrierPassed { barrier: barrier.id, pgs: barrier.pgs[..some].to_vec() }
        }
    };
    Command::Request(request)
}

/// A cluster with a pool and a volume, so that most random commands mean something.
fn prelude() -> Vec<Command> {
    use ControlRequest as R;
    let name = || Name::new("a").expect("a good name");
    let osd =
        |id| R::OsdRegister { osd: OsdId(id), boot: BootId(1), address: "a:1".into(), host: "h".into(), capacity: 1 };
    let created = || R::OsdCreate { host: "h".into() };
    let pool = R::PoolCreate { name: name(), replicas: 2, min_size: None, over_commit: None };
    let volume = R::VolumeCreate { name: name(), size: 512, pool: None, provision: Provision::Thin };
    let requests = [created(), created(), created(), osd(1), osd(2), osd(3), pool, volume];
    requests.into_iter().map(Command::Request).collect()
}

/// What PGs and gateways know, followed from outside.
#[derive(Default)]
struct World {
    floors: BTreeMap<(PgId, VolumeId), Floor>,
    /// Dropped by some PG of the pool.
    retired: BTreeMap<PoolId, IdSet<LayerId>>,
    grants: Vec<AttachGrant>,
    /// Those of workers.
    work: Vec<AttachGrant>,
    /// Of each group that was ever taken: the snapshots, and the first stacks in which they are frozen.
    cuts: Vec<Vec<(VolumeId, SnapshotId, StackRevision)>>,
    /// The layers into which attachments of non-persistent volumes could write.
    fresh: BTreeMap<LayerId, AttachmentId>,
}

impl World {
    fn before(&mut self, command: &Command, view: &ClusterView) {
        let Command::Request(ControlRequest::BarrierPassed { barrier, pgs }) = command else { return };
        for barrier in view.barriers.iter().filter(|b| b.id == *barrier) {
            for pg in pgs {
                self.floors.entry((*pg, barrier.volume)).or_default().raise(&barrier.floor);
                self.retired.entry(pg.pool).or_default().extend(&barrier.retire);
            }
        }
    }

    fn on_group(&mut self, group: &SnapshotGroupInfo, state: &ClusterState) {
        let revisions: BTreeMap<_, _> = volumes(state).into_iter().map(|v| (v.id, v.stack_revision)).collect();
        self.cuts.push(group.snapshots.iter().map(|s| (s.volume, s.id, revisions[&s.volume])).collect());
    }

    /// What is granted of a volume that was frozen with others is granted when none of those, as far as their snapshots are still there, is
    /// served by its old stack anywhere.
    fn assert_cut(&self, grant: &AttachGrant, state: &ClusterState, view: &ClusterView) {
        let ControlReply::Snapshots(snapshots) = ask(state, ControlRequest::SnapshotList { volume: None }) else {
            panic!("a list");
        };
        let pools: BTreeMap<VolumeId, PoolId> = volumes(state).into_iter().map(|v| (v.id, v.pool)).collect();
        let is_there = |id: &SnapshotId| snapshots.iter().any(|s| s.id == *id);
        let is_of_it = |cut: &&Vec<(VolumeId, SnapshotId, StackRevision)>| {
            cut.iter().any(|(volume, id, _)| *volume == grant.volume && is_there(id))
        };
        for (volume, _, revision) in self.cuts.iter().filter(is_of_it).flatten().filter(|(_, id, _)| is_there(id)) {
            for pg in view.pgs.keys().filter(|pg| pg.pool == pools[volume]) {
                let floor = self.floors.get(&(*pg, *volume));
                let passed = floor.is_some_and(|floor| floor.stack_revision >= *revision);
                assert!(passed, "U2: {pg} takes what is written to {volume} by its old stack beside {grant:?}");
            }
        }
    }

    /// A non-persistent volume's attachment has one layer of its own as long as it lasts, and what an earlier one had is in no stack any more.
    fn assert_fresh(&mut self, grant: &AttachGrant, mode: DiskMode) {
        let of_others =
            grant.layers.iter().filter(|layer| self.fresh.get(layer).is_some_and(|a| *a != grant.attachment));
        assert!(of_others.count() == 0, "{grant:?} is of layers that went with their attachments");
        if mode == DiskMode::IndependentNonpersistent {
            let own = self.fresh.iter().find(|(_, attachment)| **attachment == grant.attachment);
            assert!(
                own.is_none_or(|(layer, _)| *layer == grant.layers[0]),
                "{grant:?} is what the attachment had before"
            );
            self.fresh.insert(grant.layers[0], grant.attachment);
        }
    }

    fn on_grant(&mut self, grant: AttachGrant, shared: bool, view: &ClusterView) {
        let pgs: Vec<_> = view.pgs.keys().filter(|pg| pg.pool == grant.pool).collect();
        let retired = self.retired.entry(grant.pool).or_default();
        assert!(grant.layers.iter().all(|layer| !retired.contains(*layer)), "{grant:?} is of layers that are kept");
        for pg in &pgs {
            let floor = self.floors.entry((**pg, grant.volume)).or_default();
            assert!(floor.stack_revision <= grant.stack_revision, "{pg} serves the stack that was given");
            assert!(!floor.fences(grant.attachment, grant.generation), "{pg} serves who was given the volume");
        }
        let is_older = |g: &&AttachGrant| {
            g.volume == grant.volume && g.name.snapshot == grant.name.snapshot && g.session != grant.session
        };
        for older in self.grants.iter().filter(is_older) {
            for pg in &pgs {
                let floor = self.floors.entry((**pg, grant.volume)).or_default();
                let fenced = floor.fences(older.attachment, older.generation);
                assert!(fenced || shared, "{pg} still serves {older:?} beside {grant:?}");
            }
        }
        if !self.grants.contains(&grant) {
            let is_same = |g: &AttachGrant| (g.attachment, g.generation) == (grant.attachment, grant.generation);
            assert!(self.grants.iter().all(|g| g.session != grant.session || is_same(g)), "A1");
            self.grants.push(grant);
        }
    }
}

impl World {
    /// Whoever works on a job finds all earlier workers fenced, and what he fills, and reads for it, kept.
    fn on_work(&mut self, grant: AttachGrant, view: &ClusterView) {
        let retired = self.retired.entry(grant.pool).or_default();
        assert!(grant.layers.iter().all(|layer| !retired.contains(*layer)), "{grant:?} is of layers that are kept");
        let is_older = |g: &&AttachGrant| g.volume == grant.volume && g.session != grant.session;
        for pg in view.pgs.keys().filter(|pg| pg.pool == grant.pool) {
            let floor = self.floors.entry((*pg, grant.volume)).or_default();
            assert!(!floor.fences(grant.attachment, grant.generation), "{pg} serves who works");
            assert!(floor.stack_revision <= grant.stack_revision, "{pg} serves the stack that was given");
            for older in self.work.iter().filter(is_older) {
                assert!(floor.fences(older.attachment, older.generation), "Z2: {pg} serves {older:?} beside {grant:?}");
            }
        }
        assert!(view.merges.iter().all(|m| grant.base.is_none() || m.from != grant.layers[0]), "Z3: {grant:?}");
        if !self.work.contains(&grant) {
            self.work.push(grant);
        }
    }
}

fn ask(state: &ClusterState, request: ControlRequest) -> ControlReply {
    state.query(&request).expect("a read").unwrap_or_else(|refusal| panic!("{request:?}: {refusal}"))
}

fn volumes(state: &ClusterState) -> Vec<VolumeInfo> {
    match ask(state, ControlRequest::VolumeList) {
        ControlReply::Volumes(volumes) => volumes,
        other => panic!("{other:?}"),
    }
}

/// What clones stand on can be read by everybody, all the way down.
fn assert_bases(state: &ClusterState, world: &World, view: &ClusterView) {
    for volume in volumes(state) {
        let mut next = volume.origin.map(|origin| origin.base);
        while let Some(base) = next {
            let ControlReply::Opened(grant) =
                ask(state, ControlRequest::BaseGrant { volume: base.volume, layer: base.layer })
            else {
                panic!("{base:?} is granted");
            };
            assert_eq!((grant.layers.first(), grant.size), (Some(&base.layer), base.size));
            let retired = world.retired.get(&grant.pool);
            let is_kept = |layer: &LayerId| retired.is_none_or(|retired| !retired.contains(*layer));
            assert!(grant.layers.iter().all(is_kept), "{grant:?} of {} is of layers that are kept", volume.name);
            for pg in view.pgs.keys().filter(|pg| pg.pool == grant.pool) {
                let Some(floor) = world.floors.get(&(*pg, grant.volume)) else { continue };
                assert!(floor.stack_revision <= grant.stack_revision, "{pg} serves the stack that was given");
                assert!(!floor.fences(grant.attachment, grant.generation), "{pg} serves who reads what is frozen");
            }
            next = grant.base;
        }
    }
}

/// Deletes all volumes, whoever has them.
fn delete_everything(state: &mut ClusterState) {
    let mut apply = |request| {
        let index = state.applied() + 1;
        let reply = state.apply(index, Command::Request(request));
        state.assert_invariants();
        reply
    };
    let ControlReply::Attachments(attachments) = apply(ControlRequest::AttachmentList { gateway: None }).expect("read")
    else {
        panic!("a list");
    };
    for attachment in attachments {
        let gateway = Some(attachment.gateway);
        apply(ControlRequest::Detach { name: attachment.name, gateway }).expect("attached");
    }
    let ControlReply::Volumes(volumes) = apply(ControlRequest::VolumeList).expect("read") else { panic!("a list") };
    for volume in volumes {
        apply(ControlRequest::VolumeDelete { name: volume.name, with_snapshots: true }).expect("nobody has it");
    }
    let ControlReply::Bin(binned) = apply(ControlRequest::BinList).expect("read") else { panic!("a list") };
    for volume in binned {
        apply(ControlRequest::BinPurge { volume: volume.id }).expect("in the bin");
    }
    // A volume that is kept is closed when the barrier of the last clone on it has passed.
    for _ in 0..1000 {
        let ControlReply::View(view) = apply(ControlRequest::ViewSince { revision: Revision(0) }).expect("read") else {
            panic!("a view");
        };
        let Some(barrier) = view.barriers.first() else { return };
        apply(ControlRequest::BarrierPassed { barrier: barrier.id, pgs: barrier.pgs.clone() }).expect("noted");
    }
    panic!("barriers come without end");
}

fn mode_of(state: &ClusterState, name: &Name) -> DiskMode {
    match ask(state, ControlRequest::VolumeShow { name: name.clone() }) {
        ControlReply::Volume(info) => info.disk_mode,
        other => panic!("{other:?}"),
    }
}

fn is_shared(state: &ClusterState, name: &Name) -> bool {
    match state.query(&ControlRequest::VolumeShow { name: name.clone() }) {
        Some(Ok(ControlReply::Volume(info))) => {
            info.attachments.iter().filter(|a| a.name.snapshot.is_none()).all(|a| a.shared)
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn invariants_hold_after_any_commands(numbers in prop::collection::vec(any::<u64>(), 1..400)) {
        let mut state = ClusterState::new(ClusterId(1));
        let mut watcher = state.view_since(Revision(0));
        let mut world = World::default();
        let start = prelude();
        for index in 0..start.len() + numbers.len() {
            let command = start.get(index).cloned().unwrap_or_else(|| command(numbers[index - start.len()], &watcher));
            world.before(&command, &watcher);
            let coded = Command::decode(&command.encode()).expect("what was written is read");
            prop_assert_eq!(&coded, &command);
            let result = state.apply(index as u64 + 2, command);
            state.assert_invariants();
            if let Err(error) = &result {
                prop_assert!(!error.to_string().is_empty());
            }
            if !matches!(result, Ok(_) | Err(ControlError::Fencing { .. })) {
                prop_assert_eq!(state.view_since(watcher.revision).revision, watcher.revision, "S3: a refusal leaves no trace");
            }
            watcher.apply(state.view_since(watcher.revision));
            prop_assert_eq!(&watcher, &state.view_since(Revision(0)), "differences lead to the whole");
            assert_bases(&state, &world, &watcher);
            if let Ok(ControlReply::SnapshotGroup(group)) = &result {
                world.on_group(group, &state);
            }
            // Who shrinks a volume works with the attachment of its clients.
            if let Ok(ControlReply::JobWork(work)) = &result
                && !matches!(work.job.kind, JobKind::Shrink(_))
            {
                world.on_work(work.grant.clone(), &watcher);
            }
            if let Ok(ControlReply::Opened(grant)) = result {
                if grant.name.snapshot.is_none() {
                    world.assert_fresh(&grant, mode_of(&state, &grant.name.volume));
                    world.assert_cut(&grant, &state, &watcher);
                }
                let shared = grant.name.snapshot.is_some() || is_shared(&state, &grant.name.volume);
                world.on_grant(grant, shared, &watcher);
            }
        }
        let decoded = ClusterState::decode(&state.encode());
        prop_assert_eq!(decoded.as_ref(), Ok(&state));
        delete_everything(&mut state);
        prop_assert_eq!(ask(&state, ControlRequest::JobList), ControlReply::Jobs(vec![]));
        prop_assert!(volumes(&state).is_empty() && state.volumes_kept() == 0, "nothing is kept for nobody");
        prop_assert_eq!(state.bin_usage(), (0, 0));
    }
}
