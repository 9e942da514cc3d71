//! The micro-benchmarks by the clock, with Criterion: what instructions alone don't tell (caches, branches, waiting for memory).

#![forbid(unsafe_code)]

use ashlar_micro::benchmark;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// The one of the daemons.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn all(criterion: &mut Criterion) {
    for benchmark in benchmark::all() {
        let mut group = criterion.benchmark_group("data path");
        group.throughput(Throughput::Elements(benchmark.operations));
        group.bench_function(benchmark.name, |bencher| bencher.iter((benchmark.make)()));
        group.finish();
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
