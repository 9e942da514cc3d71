//! The honest cluster survives a few seeds of everything, and a seed means always the same.

use ashlar_chaos::{Options, run, run_seed};

/// Enough to notice that something is broken; `ashlar chaos sim --seeds 2000` looks properly.
const SEEDS: u64 = 40;

#[test]
fn the_honest_cluster_passes() {
    let summary = run(0, SEEDS, Options::default(), 2, |_| {});
    let lines: Vec<String> = summary.failures.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{summary}\n{}", lines.join("\n"));
    assert!(summary.requests > SEEDS * 100, "the workload hardly runs: {} requests", summary.requests);
    assert!(summary.crashes > SEEDS, "hardly anything fails: {} crashes", summary.crashes);
    assert!(summary.unknown * 100 <= summary.registers, "{} of {} undecided", summary.unknown, summary.registers);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 100..106 {
        let first = run_seed(seed, Options::default());
        let second = run_seed(seed, Options::default());
        assert_eq!(first.stats, second.stats, "seed {seed}");
        assert_eq!(first.failure, second.failure, "seed {seed}");
    }
}

#[test]
fn behind_the_last_seed_there_is_none() {
    assert_eq!(run(u64::MAX, 2, Options::default(), 1, |_| {}).seeds, 1);
}
