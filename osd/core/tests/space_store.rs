//! Space and the long run: a full disk takes deletes and gives back what they free; tiny logs and disks wrap and reuse for ever; what is
//! resident stays small.

mod support;

use ashlar_osd_core::Honest;
use ashlar_osd_core::store::api::{ReadKind, StoreError, StoreOp};
use ashlar_osd_core::store::fsck::fsck;
use ashlar_types::{BlockIndex, BlockRange, ChunkId, ChunkIndex, Epoch, LayerId, PgId, PoolId, Seq, Version};
use ashlar_wire::{BlockState, PushedBlock};
use bytes::Bytes;
use support::model::{Model, Op, check, contents, crc_of};
use support::workload::Workload;
use support::{MIB, Rig, config, formatted};

const PG: PgId = PgId { pool: PoolId(1), index: 0 };

fn chunk(index: u32) -> ChunkId {
    ChunkId { layer: LayerId(1), index: ChunkIndex(index) }
}

fn write(
    rig: &mut Rig<Honest>,
    model: &mut Model,
    workload: &mut Workload,
    to: ChunkId,
    range: BlockRange,
    tags: Vec<u64>,
) {
    let op = workload.prepare_of(model, PG, to, range, tags);
    model.apply(&op);
    rig.submit(op.op);
    rig.run();
    let newest = rig.store.versions(PG, to).newest;
    let op = StoreOp::Resolve { pg: PG, commit: vec![(to, newest)], rollback: vec![], rolled_back: vec![] };
    model.apply(&Op { op: op.clone(), tags: vec![] });
    rig.submit(op);
    rig.run();
}

#[test]
fn a_full_disk_takes_overwrites_discards_and_deletes_and_gives_back_what_they_free() {
    let config = config(16 * MIB, MIB / 4, true);
    let disk = formatted(&config);
    let mut rig: Rig<Honest> = Rig::mount(config, disk, 1);
    let (mut model, mut workload) = (Model::default(), Workload::new(1));
    let empty = rig.store.space();
    let (mut tag, mut discards) = (0, 0);
    for round in 0..6 {
        let mut filled = 0;
        // Ever smaller pieces, until nothing fits.
        while rig.store.space().free > 0 {
            let count = rig.store.space().free.min(64) as u16;
            let first = BlockIndex((filled % 1024) as u16);
            let range = BlockRange::new(first, count.min(1024 - first.0)).expect("inside");
            let tags = (tag..tag + u64::from(range.count())).collect();
            tag += u64::from(range.count());
            write(&mut rig, &mut model, &mut workload, chunk(filled / 1024), range, tags);
            filled += u32::from(range.count());
        }
        assert!(filled > 3000, "round {round}: {filled} blocks fit; {:?}", rig.store.space());
        // Zeroes need no space but their record; they bring space back.
        let zeroed = chunk(0);
        write(
            &mut rig,
            &mut model,
            &mut workload,
            zeroed,
            BlockRange::new(BlockIndex(0), 200).expect("inside"),
            vec![],
        );
        assert!(rig.store.space().free >= 190, "round {round}: {:?}", rig.store.space());
        let again = BlockRange::new(BlockIndex(300), 100).expect("inside");
        for _ in 0..20 {
            let tags = (tag..tag + 100).collect();
            tag += 100;
            write(&mut rig, &mut model, &mut workload, zeroed, again, tags);
            assert!(rig.store.space().free >= 60, "an overwritten block comes back: {:?}", rig.store.space());
        }
        check(&mut rig, &model, &|_, _, _, _| false).unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert!(fsck(&mut |at, len| rig.disk.read_now(at, len), true).is_clean());
        for index in 0..=filled / 1024 {
            let op = StoreOp::DropChunk { pg: PG, chunk: chunk(index) };
            model.apply(&Op { op: op.clone(), tags: vec![] });
            rig.submit(op);
        }
        rig.run();
        let space = rig.store.space();
        assert!(space.free + 16 >= empty.free, "round {round}: {space:?} of {empty:?}");
        while rig.store.untrimmed_blocks() > 0 {
            rig.store.trim();
            rig.run();
        }
        assert_eq!(rig.store.space(), space, "what was trimmed is free again");
        discards += rig.store.stats().discards;
        if round % 2 == 1 {
            rig = rig.restarted(round);
            assert!(rig.store.space().free + 16 >= empty.free, "a restart leaks nothing");
        }
    }
    assert!(discards > 0);
}

/// Absences take index pages, too. The placement groups ask for no more than there is room for; if they ever do, the disk says so and stays
/// as it is.
#[test]
fn a_disk_that_is_full_of_index_pages_is_taken_out_of_service() {
    let config = config(4 * MIB, MIB / 4, true);
    let disk = formatted(&config);
    let mut rig: Rig<Honest> = Rig::mount(config, disk, 1);
    let (mut model, mut workload) = (Model::default(), Workload::new(1));
    for index in 0..2000 {
        let op = workload.prepare_of(&model, PG, chunk(index), BlockRange::WHOLE, vec![]);
        model.apply(&op);
        rig.submit(op.op);
        rig.run();
        if rig.failed.is_some() {
            break;
        }
        let newest = rig.store.versions(PG, chunk(index)).newest;
        let commit = vec![(chunk(index), newest)];
        rig.submit(StoreOp::Resolve { pg: PG, commit, rollback: vec![], rolled_back: vec![] });
        rig.run();
    }
    assert!(matches!(rig.failed, Some(StoreError::Full { .. })), "{:?}", rig.failed);
    let report = fsck(&mut |at, len| rig.disk.read_now(at, len), true);
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_tiny_store_runs_for_ever() {
    let mut config = config(4 * MIB, MIB / 4, true);
    config.index_cache_bytes = 4 * 4096;
    let disk = formatted(&config);
    let mut rig: Rig<Honest> = Rig::mount(config, disk, 5);
    let (mut model, mut workload) = (Model::default(), Workload::new(5));
    let (mut checkpoints, mut batches) = (0, 0);
    for step in 0..30_000u32 {
        let op = workload.next(&model);
        let needs = match &op.op {
            StoreOp::Prepare { payload, .. } | StoreOp::Push { payload, .. } => payload.len() as u64 / 4096,
            _ => 0,
        };
        if needs <= rig.store.space().free {
            model.apply(&op);
            rig.submit(op.op);
        }
        rig.poll();
        for _ in 0..rig.rng.below(6) {
            rig.step();
        }
        if step % 64 == 0 {
            rig.run();
        }
        if step % 3000 == 2999 {
            let prepared: usize = model.pgs.values().flat_map(|p| p.chunks.values()).map(|c| c.prepared.len()).sum();
            check(&mut rig, &model, &|_, _, _, _| false).unwrap_or_else(|e| panic!("step {step}: {e}"));
            (checkpoints, batches) = (checkpoints + rig.store.stats().checkpoints, batches + rig.store.stats().batches);
            rig.run();
            let report = fsck(&mut |at, len| rig.disk.read_now(at, len), true);
            assert!(report.is_clean(), "step {step}, {prepared} prepared: {report}");
            rig = rig.restarted(u64::from(step));
        }
        assert_eq!(rig.failed, None);
    }
    assert!(checkpoints > 1000 && batches > 64 * 50, "{checkpoints} checkpoints, {batches} batches");
}

/// A push of a whole chunk that costs the test no memory: every block is the same.
fn whole_chunk(payload: &Bytes, index: u32) -> StoreOp {
    let to = Version::new(Epoch(1), Seq(1));
    let state = BlockState { stamp: to, crc: Some(crc_of(1)) };
    let blocks = BlockRange::WHOLE.iter().map(|block| PushedBlock { block, state }).collect();
    let (chunk, from, ids, payload) = (chunk(index), Version::NONE, Vec::new(), payload.clone());
    StoreOp::Push { pg: PG, chunk, from, to, blocks, ids, payload }
}

fn filled(chunks: u32) -> Rig<Honest> {
    let mut config = config(u64::from(chunks) * 5 * MIB + 64 * MIB, 16 * MIB, true);
    config.index_cache_bytes = 4 * MIB;
    let disk = formatted(&config);
    let mut rig: Rig<Honest> = Rig::mount(config, disk, 1);
    let payload = contents(&[1; 1024]);
    for index in 0..chunks {
        rig.submit(whole_chunk(&payload, index));
        rig.run();
    }
    rig
}

#[test]
fn memory_for_each_chunk_is_small_and_a_mount_reads_each_index_page_once() {
    let chunks = 300;
    let rig = filled(chunks);
    let stats = rig.store.stats();
    let each = stats.memory_directory_bytes as f64 / f64::from(chunks);
    assert!(each <= 64.0, "{each} bytes for each chunk");
    assert!(stats.memory_cache_bytes <= 5 * MIB, "{}", stats.memory_cache_bytes);
    let written = stats.device_bytes_written as f64 / stats.client_bytes as f64;
    assert!(written < 1.1, "{written} bytes written for each byte stored");
    let mut rig = rig.restarted(2);
    let reads = rig.store.stats().device_bytes_read;
    assert!(reads < 16 * MIB + u64::from(chunks) * 4 * 4096 + 4 * MIB, "{reads}");
    let outcome = rig.read(PG, chunk(chunks / 2), BlockRange::WHOLE, ReadKind::Verify);
    assert!(outcome.bad.is_empty() && outcome.data.is_empty());
}

/// For docs/decisions/012: run with --release --ignored --nocapture.
#[test]
#[ignore = "a measurement of some minutes"]
fn measure_mount() {
    for chunks in [512, 1024, 2048] {
        let rig = filled(chunks);
        let space = rig.store.stats();
        let start = std::time::Instant::now();
        let rig = rig.restarted(2);
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{chunks} chunks ({} GiB): mount {seconds:.3} s, {} reads of {} MiB, allocator {} KiB, directory {} bytes a chunk",
            chunks / 256,
            rig.store.stats().device_reads,
            rig.store.stats().device_bytes_read / MIB,
            space.memory_allocator_bytes / 1024,
            space.memory_directory_bytes / u64::from(chunks)
        );
    }
}

/// Figures for docs/decisions/010: 4 KiB random writes at a queue depth; each answered write is replaced by another.
#[test]
fn device_bytes_for_each_client_byte_stay_low() {
    for (depth, most) in [(1u32, 3.2), (32, 1.8)] {
        let config = config(256 * MIB, 16 * MIB, true);
        let disk = formatted(&config);
        let mut rig: Rig<Honest> = Rig::mount(config, disk, 1);
        let (mut model, mut workload) = (Model::default(), Workload::new(1));
        let before = rig.store.stats();
        let (mut answered, mut commits) = (0u32, Vec::new());
        let mut under_way = std::collections::BTreeMap::new();
        while answered < 20_000 {
            while (under_way.len() as u32) < depth {
                let chunk = chunk(rig.rng.below(32) as u32);
                let range = BlockRange::new(BlockIndex(rig.rng.below(1024) as u16), 1).expect("inside");
                let op = workload.prepare_of(&model, PG, chunk, range, vec![u64::from(answered)]);
                model.apply(&op);
                let token = rig.submit(op.op);
                under_way.insert(token, (chunk, rig.store.versions(PG, chunk).newest));
            }
            if !commits.is_empty() {
                let commit = std::mem::take(&mut commits);
                let op = StoreOp::Resolve { pg: PG, commit, rollback: vec![], rolled_back: vec![] };
                model.apply(&Op { op: op.clone(), tags: vec![] });
                rig.submit(op);
            }
            rig.poll();
            while rig.stored.is_empty() {
                assert!(rig.step());
            }
            for token in std::mem::take(&mut rig.stored) {
                if let Some(commit) = under_way.remove(&token) {
                    answered += 1;
                    commits.push(commit);
                }
            }
        }
        let stats = rig.store.stats();
        let bytes = (stats.device_bytes_written - before.device_bytes_written) as f64 / stats.client_bytes as f64;
        let flushes = stats.flushes as f64 / f64::from(answered);
        println!(
            "QD{depth}: {bytes:.2} device bytes for each client byte, {flushes:.2} flushes and {:.2} writes for each write, {} checkpoints",
            stats.device_writes as f64 / f64::from(answered),
            stats.checkpoints
        );
        assert!(bytes < most, "QD{depth}: {bytes}");
    }
}
