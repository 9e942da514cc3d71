//! The checksum of a block, which each block passes at every hop.

use crate::benchmark::Benchmark;
use ashlar_types::{BLOCK_BYTES, Crc};
use std::hint::black_box;

pub const BENCHMARKS: &[Benchmark] =
    &[Benchmark { name: "checksum/4k", operations: 1, calls: 64, make: || Box::new(of_a_block()) }];

fn of_a_block() -> impl FnMut() {
    let block: Vec<u8> = (0..BLOCK_BYTES).map(|at| (at % 251) as u8).collect();
    move || {
        black_box(Crc::of(black_box(&block)));
    }
}
