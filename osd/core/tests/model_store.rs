//! Random operations against a model, with restarts; and the store's properties over long runs.

mod support;

use ashlar_osd_core::Honest;
use ashlar_osd_core::store::NextBelow;
use ashlar_osd_core::store::api::ReadKind;
use ashlar_types::{BlockIndex, ChunkId, ChunkIndex, LayerId, Version};
use std::sync::Arc;
use support::model::{Model, check};
use support::workload::Workload;
use support::{MIB, Rig, config, formatted};

/// Operations, completions in any order, checks and restarts.
fn run(seed: u64, steps: u32, capacity: u64, volatile_cache: bool, cache_pages: u64) {
    let mut config = config(capacity, MIB / 4, volatile_cache);
    config.index_cache_bytes = cache_pages * 4096;
    config.write_through = seed % 4 < 2;
    let disk = formatted(&config);
    let mut rig: Rig<Honest> = Rig::mount(config, disk, seed);
    let (mut workload, mut model) = (Workload::new(seed), Model::default());
    let mut submitted = 0;
    for step in 0..steps {
        for _ in 0..workload.rng.below(4) {
            let op = workload.next(&model);
            model.apply(&op);
            rig.submit_some_lazily(op.op);
            submitted += 1;
        }
        rig.poll();
        for _ in 0..workload.rng.below(8) {
            rig.step();
        }
        if workload.rng.one_in(40) {
            check(&mut rig, &model, &|_, _, _, _| false).unwrap_or_else(|e| panic!("seed {seed} step {step}: {e}"));
        }
        if workload.rng.one_in(10) {
            rig.store.trim();
        }
        if workload.rng.one_in(10) {
            rig.store.reclaim();
        }
        if workload.rng.one_in(20) {
            rig.store.settle();
        }
        if workload.rng.one_in(100) {
            rig.run();
            assert_eq!(rig.stored.len(), submitted, "seed {seed} step {step}: everything is stored in the end");
            (submitted, rig) = (0, rig.restarted(seed + u64::from(step)));
            check(&mut rig, &model, &|_, _, _, _| false)
                .unwrap_or_else(|e| panic!("seed {seed} restart at {step}: {e}"));
        }
        assert_eq!(rig.failed, None, "seed {seed}");
    }
    rig.run();
    check(&mut rig, &model, &|_, _, _, _| false).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
}

#[test]
fn the_store_does_what_the_model_does() {
    for seed in 0..12 {
        run(seed, 600, 16 * MIB, seed % 2 == 0, if seed % 3 == 0 { 2 } else { 256 });
    }
}

/// Many beginnings, each of its own kind: what a long history seldom comes back to.
#[test]
fn the_store_does_what_the_model_does_in_ten_thousand_short_histories() {
    for seed in 10_000..20_000 {
        run(seed, 4 + seed as u32 % 16, 8 * MIB, seed % 2 == 0, if seed % 3 == 0 { 2 } else { 256 });
    }
}

/// What the resolved index has said.
#[derive(Debug, Default)]
struct Told {
    resolved: usize,
    unresolved: usize,
}

/// Goes through a stack of all layers there are, as a read does whose top layer has nothing.
fn walk_down(rig: &mut Rig<Honest>, workload: &mut Workload, model: &Model, told: &mut Told) {
    let (pg, index) = (workload.pg(), ChunkIndex(workload.rng.below(u64::from(workload.chunks)) as u32));
    let Some(chunks) = model.pgs.get(&pg).map(|of| &of.chunks) else { return };
    let mut layers: Vec<LayerId> = chunks.keys().map(|chunk| chunk.layer).collect();
    layers.sort_unstable_by(|a, b| b.cmp(a));
    layers.dedup();
    // The top one is above all of them, or is the first.
    layers.drain(..layers.len().min(workload.rng.below(2) as usize));
    if layers.is_empty() {
        return;
    }
    let below: Arc<[LayerId]> = layers.into();
    let has = |nth: usize, block: BlockIndex| {
        let chunk = chunks.get(&ChunkId { layer: below[nth], index });
        chunk.and_then(|chunk| chunk.blocks.get(&block.0)).is_some_and(|block| block.stamp != Version::NONE)
    };
    let is_settled =
        |nth: usize| chunks.get(&ChunkId { layer: below[nth], index }).is_none_or(|chunk| chunk.prepared.is_empty());
    let mut wanted: Vec<BlockIndex> = workload.range().iter().filter(|_| !workload.rng.one_in(4)).collect();
    let mut from = 0;
    while let Some(next) = rig.store.next_below(pg, &below, from, index, wanted.iter().copied()) {
        let NextBelow { nth, range, is_resolved } = next;
        assert!(nth >= from && wanted.contains(&range.first()), "{next:?}");
        assert!(wanted.iter().all(|block| (from..nth).all(|passed| !has(passed, *block))), "passed over: {next:?}");
        assert!((from..nth).all(is_settled), "passed over what is undecided: {next:?}");
        assert!(!is_resolved || has(nth, range.first()), "not there: {next:?}");
        assert!(wanted.iter().all(|block| range.contains(*block) || !has(nth, *block)), "left out: {next:?}");
        if is_resolved {
            told.resolved += 1;
        } else {
            told.unresolved += 1;
            // Its page comes into memory.
            let chunk = ChunkId { layer: below[nth], index };
            let _ = rig.read(pg, chunk, range, ReadKind::States);
        }
        wanted.retain(|block| !has(nth, *block));
        from = nth + 1;
    }
    assert!(wanted.iter().all(|block| (from..below.len()).all(|nth| !has(nth, *block))), "nothing found of {wanted:?}");
}

#[test]
fn the_resolved_index_passes_over_no_layer_that_has_a_block() {
    let mut told = Told::default();
    for seed in 100..112 {
        let mut config = config(16 * MIB, MIB / 4, false);
        // Of the maps one each is kept of the smaller ones.
        config.index_cache_bytes = if seed % 3 == 0 { 4096 } else { MIB };
        let disk = formatted(&config);
        let mut rig: Rig<Honest> = Rig::mount(config, disk, seed);
        let (mut workload, mut model) = (Workload::new(seed), Model::default());
        workload.layers = 5;
        for _ in 0..1500 {
            for _ in 0..workload.rng.below(3) {
                let op = workload.next(&model);
                model.apply(&op);
                rig.submit_some_lazily(op.op);
            }
            rig.poll();
            for _ in 0..workload.rng.below(8) {
                rig.step();
            }
            for _ in 0..2 {
                walk_down(&mut rig, &mut workload, &model, &mut told);
            }
            assert_eq!(rig.failed, None, "seed {seed}");
        }
    }
    assert!(told.resolved > 5000 && told.unresolved > 1000, "both are there: {told:?}");
}
