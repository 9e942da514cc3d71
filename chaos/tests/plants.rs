//! The simulator is itself tested: each planted bug is found. It takes minutes and wants a release build.

use ashlar_chaos::{Plant, find_plant};

const SEEDS_MAX: u64 = 5000;

/// Where the search begins: for a bug that few seeds show, shortly before one that does, else it alone takes ten minutes of two processors.
fn first_seed(plant: Plant) -> u64 {
    match plant {
        Plant::NoReadLease => 1500,
        _ => 0,
    }
}

#[test]
fn planted_bugs_are_found() {
    let jobs = std::thread::available_parallelism().map_or(2, usize::from);
    let mut missed = Vec::new();
    for plant in Plant::ALL {
        let first = first_seed(*plant);
        match find_plant(*plant, first..first + SEEDS_MAX, jobs) {
            Some((seeds, report)) => println!("{plant}: found after {seeds} seeds; {report}"),
            None => missed.push(plant.name()),
        }
    }
    assert!(missed.is_empty(), "not found in {SEEDS_MAX} seeds each: {missed:?}");
}
