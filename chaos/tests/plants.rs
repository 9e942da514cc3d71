//! The simulator is itself tested: each planted bug is found. It takes minutes and wants a release build.

use ashlar_chaos::{Plant, find_plant};

const SEEDS_MAX: u64 = 5000;

#[test]
fn planted_bugs_are_found() {
    let jobs = std::thread::available_parallelism().map_or(2, usize::from);
    let mut missed = Vec::new();
    for plant in Plant::ALL {
        match find_plant(*plant, SEEDS_MAX, jobs) {
            Some((seeds, report)) => println!("{plant}: found after {seeds} seeds; {report}"),
            None => missed.push(plant.name()),
        }
    }
    assert!(missed.is_empty(), "not found in {SEEDS_MAX} seeds each: {missed:?}");
}
