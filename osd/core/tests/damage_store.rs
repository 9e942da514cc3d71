//! Disks that lie, rot and fail: never a wrong answer, never a crash of the program, never silently less.

mod support;

use ashlar_osd_core::store::Store;
use ashlar_osd_core::store::api::{ReadKind, StoreConfig, StoreError, StoreOp};
use ashlar_osd_core::store::fsck::fsck;
use ashlar_osd_core::store::inspect::{InspectWhat, inspect};
use ashlar_osd_core::{DiskOp, Honest, Policy};
use ashlar_sim_disk::{Fault, Rng, SimDisk};
use ashlar_types::{BlockIndex, BlockRange, ChunkId, ChunkIndex, ClusterId, LayerId, OsdId, PgId, PoolId};
use ashlar_wire::JoinMeta;
use support::model::{Model, Op, check, contents, crc_of};
use support::workload::Workload;
use support::{MIB, Rig, config, formatted};

const PG: PgId = PgId { pool: PoolId(1), index: 0 };
const CHUNK: ChunkId = ChunkId { layer: LayerId(1), index: ChunkIndex(0) };
const LOG_AT: u64 = 128 << 10;

struct Bench {
    rig: Rig<Honest>,
    model: Model,
    workload: Workload,
}

impl Bench {
    fn new(config: StoreConfig) -> Bench {
        let disk = formatted(&config);
        Bench { rig: Rig::mount(config, disk, 1), model: Model::default(), workload: Workload::new(1) }
    }

    fn submit(&mut self, op: Op) {
        self.model.apply(&op);
        self.rig.submit(op.op);
    }

    /// Writes one block and commits it; each write and each commit its own batch.
    fn write(&mut self, block: u16, tag: u64) {
        let range = BlockRange::new(BlockIndex(block), 1).expect("inside");
        let op = self.workload.prepare_of(&self.model, PG, CHUNK, range, vec![tag]);
        self.submit(op);
        self.rig.run();
        let newest = self.rig.store.versions(PG, CHUNK).newest;
        let commit = StoreOp::Resolve { pg: PG, commit: vec![(CHUNK, newest)], rollback: vec![], rolled_back: vec![] };
        self.submit(Op { op: commit, tags: vec![] });
        self.rig.run();
    }

    /// Many records, until a checkpoint has been made.
    fn write_until_checkpoint(&mut self) {
        let before = self.rig.store.stats().checkpoints;
        for i in 0.. {
            self.write(i as u16 % 1024, 1_000_000 + i);
            if self.rig.store.stats().checkpoints > before {
                return;
            }
        }
    }
}

fn small() -> StoreConfig {
    config(16 * MIB, MIB / 4, true)
}

#[test]
fn damage_to_a_durable_batch_is_reported_and_remembered_until_it_is_forgotten() {
    for batch in [0u64, 3, 10] {
        let mut bench = Bench::new(small());
        (0..10).for_each(|i| bench.write(i, 100 + u64::from(i)));
        bench.rig.disk.rot(LOG_AT + batch * 4096 + 200, 3);
        assert!(!fsck(&mut |at, len| bench.rig.disk.read_now(at, len), true).is_clean());
        let mut rig = bench.rig.restarted(2);
        let report = rig.mounted.clone().expect("it mounts");
        assert!(report.damaged && !report.findings.is_empty(), "{report:?}");
        assert_eq!(report.records, batch, "what lies before the damage is served");
        // Cut durably, and still said after another start.
        rig = rig.restarted(3);
        assert!(rig.mounted.as_ref().is_some_and(|r| r.damaged));
        assert!(fsck(&mut |at, len| rig.disk.read_now(at, len), true).is_clean());
        rig.submit(StoreOp::ForgetDamage);
        rig.run();
        rig = rig.restarted(4);
        assert!(rig.mounted.is_some_and(|r| !r.damaged));
    }
}

#[test]
fn damage_is_reported_whatever_older_damage_the_log_forgets() {
    let mut bench = Bench::new(small());
    bench.rig.submit(StoreOp::ForgetDamage);
    bench.rig.run();
    (0..10).for_each(|i| bench.write(i, 100 + u64::from(i)));
    bench.rig.disk.rot(LOG_AT + 5 * 4096 + 200, 3);
    let rig = bench.rig.restarted(2);
    let report = rig.mounted.clone().expect("it mounts");
    assert!(report.damaged && report.records >= 5, "{report:?}");
    assert!(rig.restarted(3).mounted.is_some_and(|r| r.damaged), "still said after another start");
}

#[derive(Debug)]
struct Vetoes;
impl Policy for Vetoes {
    const DAMAGED_TAIL_VETOES: bool = true;
}

#[test]
fn the_plant_hides_damage() {
    let mut bench = Bench::new(small());
    (0..5).for_each(|i| bench.write(i, 100 + u64::from(i)));
    bench.rig.disk.rot(LOG_AT + 2 * 4096 + 200, 3);
    let rig: Rig<Vetoes> = Rig::mount(bench.rig.config, bench.rig.disk, 2);
    assert!(rig.mounted.is_some_and(|r| !r.damaged));
}

#[test]
fn rotten_data_is_bad_and_can_be_repaired() {
    let mut bench = Bench::new(small());
    bench.write_until_checkpoint();
    // Whatever block of data the first block of the chunk is in: rot them all but one bit each.
    let detail = inspect(&mut |at, len| bench.rig.disk.read_now(at, len), InspectWhat::Chunk(CHUNK)).to_string();
    let line = detail.lines().find(|l| l.trim_start().starts_with("block 0 ")).expect("it is written").to_owned();
    let addr: u64 =
        line.split("at block ").nth(1).and_then(|r| r.split(',').next()).expect("a place").parse().expect("a number");
    bench.rig.disk.rot(addr * 4096 + 77, 1);
    let range = BlockRange::new(BlockIndex(0), 2).expect("inside");
    let outcome = bench.rig.read(PG, CHUNK, range, ReadKind::Data);
    assert_eq!(outcome.bad, [BlockIndex(0)]);
    assert!(outcome.data[0].is_empty() && !outcome.data[1].is_empty());
    let (stamp, crc) = (outcome.states[0].stamp, outcome.states[0].crc.expect("present"));
    let tag = bench.model.pgs[&PG].chunks[&CHUNK].blocks[&0].tag.expect("present");
    assert_eq!(crc, crc_of(tag));
    let block = BlockIndex(0);
    bench.rig.submit(StoreOp::Repair { pg: PG, chunk: CHUNK, block, stamp, crc, payload: contents(&[tag]) });
    bench.rig.run();
    check(&mut bench.rig, &bench.model, &|_, _, _, _| false).expect("as before");
    let mut rig = bench.rig.restarted(9);
    check(&mut rig, &bench.model, &|_, _, _, _| false).expect("as before");
}

#[test]
fn a_damaged_index_page_makes_its_blocks_bad_and_a_join_drops_the_chunk() {
    let mut bench = Bench::new(small());
    bench.write_until_checkpoint();
    let detail = inspect(&mut |at, len| bench.rig.disk.read_now(at, len), InspectWhat::Chunk(CHUNK)).to_string();
    let line = detail.lines().find(|l| l.contains("quarter 0")).expect("it has a page").to_owned();
    let addr: u64 = line.split("at block ").nth(1).expect("a place").trim().parse().expect("a number");
    bench.rig.disk.rot(addr * 4096 + 700, 1);
    let mut rig = bench.rig.restarted(2);
    let report = rig.mounted.clone().expect("it mounts");
    assert!(report.damaged, "{report:?}");
    let outcome = rig.read(PG, CHUNK, BlockRange::new(BlockIndex(250), 12).expect("inside"), ReadKind::Data);
    assert_eq!(outcome.bad, (250..256).map(BlockIndex).collect::<Vec<_>>(), "only the blocks of the damaged quarter");
    let states = rig.read(PG, CHUNK, BlockRange::new(BlockIndex(0), 4).expect("inside"), ReadKind::States);
    assert_eq!(states.bad.len(), 4);
    rig.store.assert_invariants();
    rig.submit(StoreOp::Join { pg: PG, meta: JoinMeta::default() });
    rig.run();
    assert_eq!(rig.store.versions(PG, CHUNK), Default::default());
    rig = rig.restarted(3);
    assert_eq!(rig.store.versions(PG, CHUNK), Default::default());
}

#[test]
fn lost_and_misdirected_writes_are_never_believed() {
    for seed in 0..60 {
        let mut bench = Bench::new(small());
        let mut rng = Rng::new(seed);
        (0..5).for_each(|i| bench.write(i, 100 + u64::from(i)));
        let to = LOG_AT + MIB / 4 + 4096 * rng.below(100);
        let fault = if rng.one_in(2) { Fault::Lose } else { Fault::Misdirect { to } };
        bench.rig.disk.inject(rng.below(6), fault);
        (0..5).for_each(|i| bench.write(i, 200 + u64::from(i)));
        // The running store knows what it wrote; what reads bring is right or bad.
        check(&mut bench.rig, &bench.model, &|_, _, _, _| true).expect("right or bad");
        let Bench { rig, model, .. } = bench;
        let mut rig: Rig<Honest> = Rig::new(rig.config, rig.disk, seed);
        rig.run();
        let Some(report) = rig.mounted.clone() else { continue };
        if !report.damaged {
            // Nothing of the log is missing but, at most, the last batches, of which nothing later told.
            let now = rig.store.versions(PG, CHUNK).committed;
            let newest = model.pgs[&PG].chunks[&CHUNK].committed;
            assert!(now.seq().0 + 1 >= newest.seq().0, "seed {seed}: {now} of {newest}");
        }
    }
}

#[test]
fn a_failed_write_or_flush_latches_the_store() {
    for nth in 0..3 {
        let mut bench = Bench::new(small());
        bench.write(0, 1);
        bench.rig.stored.clear();
        bench.rig.disk.inject(nth, Fault::Fail);
        let range = BlockRange::new(BlockIndex(0), 1).expect("inside");
        let op = bench.workload.prepare_of(&bench.model, PG, CHUNK, range, vec![2]);
        bench.rig.submit(op.op);
        bench.rig.run();
        assert!(matches!(bench.rig.failed, Some(StoreError::Device { .. })), "{:?}", bench.rig.failed);
        assert!(bench.rig.stored.is_empty());
        bench.rig.submit(StoreOp::ForgetRolledBack { pg: PG });
        bench.rig.run();
        assert!(bench.rig.stored.is_empty() && bench.rig.disk.is_idle());
    }
}

fn failure_of(config: StoreConfig, disk: SimDisk) -> StoreError {
    let mut rig: Rig<Honest> = Rig::new(config, disk, 1);
    rig.run();
    rig.failed.expect("it does not mount")
}

#[test]
fn foreign_blank_and_shrunken_disks_are_refused_by_name() {
    let config = small();
    let disk = formatted(&config);
    assert!(matches!(failure_of(config.clone(), SimDisk::new(config.capacity, true)), StoreError::NotAnOsd { .. }));
    let other = StoreConfig { cluster: ClusterId(0xbad), ..config.clone() };
    assert!(matches!(failure_of(other, disk.clone()), StoreError::Foreign { .. }));
    let other = StoreConfig { osd: OsdId(8), ..config.clone() };
    assert!(matches!(failure_of(other, disk.clone()), StoreError::Foreign { found_osd: OsdId(7), .. }));
    let other = StoreConfig { capacity: 8 * MIB, ..config.clone() };
    assert!(matches!(failure_of(other, disk), StoreError::TooSmall { .. }));
    let tiny = StoreConfig { capacity: MIB, ..config };
    assert!(matches!(Store::<Honest>::format(&tiny), Err(StoreError::TooSmall { .. })));
}

#[test]
fn a_lost_superblock_is_not_replaced_by_its_predecessor() {
    let mut bench = Bench::new(small());
    bench.write_until_checkpoint();
    bench.write(5, 77);
    let seq = bench.rig.store.stats().checkpoints;
    let slot = if seq.is_multiple_of(2) { 0 } else { 64 << 10 };
    bench.rig.disk.rot(slot + 40, 0);
    let error = failure_of(bench.rig.config, bench.rig.disk);
    assert!(matches!(error, StoreError::Corrupt { structure: "superblock", .. }), "{error}");
}

/// Random bytes changed anywhere: the store mounts or refuses, and what it says of an intact block is right.
#[test]
fn random_damage_is_refused_reported_or_found_when_read() {
    let mut bench = Bench::new(small());
    bench.write_until_checkpoint();
    (0..20).for_each(|i| bench.write(i * 3, 5000 + u64::from(i)));
    let stored: Vec<u64> = (0..bench.rig.config.capacity / 4096)
        .filter(|b| bench.rig.disk.read_now(b * 4096, 4096).is_ok_and(|d| d.iter().any(|x| *x != 0)))
        .collect();
    let (mut refused, mut damaged) = (0, 0);
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let mut disk = bench.rig.disk.clone();
        for _ in 0..1 + rng.below(3) {
            let block = stored[rng.below(stored.len() as u64) as usize];
            disk.rot(block * 4096 + rng.below(4096), rng.below(8) as u8);
        }
        let report = fsck(&mut |at, len| disk.read_now(at, len), true);
        for what in [
            InspectWhat::Superblock,
            InspectWhat::Log,
            InspectWhat::Checkpoint,
            InspectWhat::Directory,
            InspectWhat::Pgs,
        ] {
            let _ = inspect(&mut |at, len| disk.read_now(at, len), what).to_string();
        }
        let mut rig: Rig<Honest> = Rig::new(bench.rig.config.clone(), disk, seed);
        rig.run();
        match rig.mounted.clone() {
            None => {
                assert!(rig.failed.is_some());
                assert!(!report.is_clean(), "seed {seed}: {:?} {report}", rig.failed);
                refused += 1;
            }
            Some(found) if found.damaged => {
                assert!(!report.is_clean(), "seed {seed}: {found:?} {report}");
                damaged += 1;
            }
            Some(_) => {
                let newest = bench.model.pgs[&PG].chunks[&CHUNK].committed;
                if rig.store.versions(PG, CHUNK).committed == newest {
                    check(&mut rig, &bench.model, &|_, _, _, _| true).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                }
            }
        }
    }
    assert!(refused > 0 && damaged > 20, "{refused} {damaged}");
}

#[test]
fn a_discard_that_the_device_refuses_is_not_asked_again() {
    let mut bench = Bench::new(config(32 * MIB, MIB / 4, true));
    for tag in 0..3u64 {
        let op = bench.workload.prepare_of(
            &bench.model,
            PG,
            CHUNK,
            BlockRange::WHOLE,
            (0..1024).map(|i| tag * 2000 + i).collect(),
        );
        bench.submit(op);
        bench.rig.run();
        let newest = bench.rig.store.versions(PG, CHUNK).newest;
        let commit = StoreOp::Resolve { pg: PG, commit: vec![(CHUNK, newest)], rollback: vec![], rolled_back: vec![] };
        bench.submit(Op { op: commit, tags: vec![] });
        bench.rig.run();
    }
    bench.submit(Op { op: StoreOp::DropChunk { pg: PG, chunk: CHUNK }, tags: vec![] });
    bench.rig.run();
    let mut refused = 0;
    for _ in 0..10 {
        bench.rig.store.trim();
        bench.rig.poll();
        let discard = bench.rig.disk.pending().find(|(_, op)| matches!(op, DiskOp::Discard { .. })).map(|(io, _)| io);
        let Some(io) = discard else { continue };
        bench.rig.disk.complete(io).expect("no fault");
        let error = ashlar_osd_core::DiskError { kind: std::io::ErrorKind::Unsupported, code: Some(95) };
        bench.rig.store.on_disk(io, Err(error));
        bench.rig.poll();
        refused += 1;
    }
    assert_eq!((refused, bench.rig.store.untrimmed_blocks()), (1, 0));
    assert_eq!(bench.rig.failed, None);
    assert!(bench.rig.store.space().free > 5000, "{:?}", bench.rig.store.space());
}
