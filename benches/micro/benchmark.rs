//! What a benchmark is, and the list of all.

use crate::{checksum, cores, frames, store};

/// Called again and again; each call does the same.
pub type Call = Box<dyn FnMut()>;

#[derive(Clone, Copy, Debug)]
pub struct Benchmark {
    /// Part, thing and size; the key of its recorded figure.
    pub name: &'static str,
    /// Operations of one call. Figures are for each operation.
    pub operations: u64,
    /// How many calls are counted, one behind the other: enough that what comes with every n-th call is in the figure.
    pub calls: u64,
    /// Sets everything up.
    pub make: fn() -> Call,
}

/// In the order in which they are printed.
pub fn all() -> Vec<Benchmark> {
    [frames::BENCHMARKS, checksum::BENCHMARKS, store::BENCHMARKS, cores::BENCHMARKS].concat()
}

/// The calls that are counted. Callgrind collects what happens under this name, and writes down each time it is left.
#[inline(never)]
pub fn counted(call: &mut Call, calls: u64) {
    for _ in 0..calls {
        call();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_benchmark_runs_under_a_name_of_its_own() {
        let mut names = BTreeSet::new();
        for benchmark in all() {
            assert!(names.insert(benchmark.name), "{} is there twice", benchmark.name);
            counted(&mut (benchmark.make)(), 2);
        }
    }
}
