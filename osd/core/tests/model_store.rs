//! Random operations against a model, with restarts; and the store's properties over long runs.

mod support;

use ashlar_osd_core::Honest;
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
