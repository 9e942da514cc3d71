//! `ashlar-cores`: so many 4 KiB requests through three OSD cores and a client core in one thread, for a profiler to look at.

#![forbid(unsafe_code)]

use ashlar_micro::cores::{Cores, Job};
use clap::{Parser, ValueEnum};
use std::time::Instant;

/// The one of the daemons.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum JobName {
    Write,
    Read,
}

/// Loops 4 KiB requests through three OSD cores and a client core, without sockets, disks and clocks.
///
/// A profile by function: valgrind --tool=callgrind --toggle-collect='*Cores*round*' ashlar-cores write --depth 32 --requests 640
#[derive(Debug, Parser)]
struct CommandLine {
    job: JobName,
    /// Requests that are submitted together; the next ones when all of them are answered.
    #[arg(long, default_value_t = 1)]
    depth: u64,
    #[arg(long, default_value_t = 10_000)]
    requests: u64,
    /// Each OSD's log. A checkpoint begins when half of it is full.
    #[arg(long, default_value_t = 64)]
    log_mib: u64,
}

fn main() {
    let CommandLine { job, depth, requests, log_mib } = CommandLine::parse();
    let job = match job {
        JobName::Write => Job::Write,
        JobName::Read => Job::Read,
    };
    let depth = depth.max(1);
    let mut cores = Cores::new(log_mib << 20);
    let before = cores.disk_figures();
    let begin = Instant::now();
    let rounds = requests.div_ceil(depth);
    for _ in 0..rounds {
        cores.round(job, depth);
    }
    let requests = (rounds * depth) as f64;
    let us = begin.elapsed().as_secs_f64() * 1e6 / requests;
    let after = cores.disk_figures();
    let of_each = |before: u64, after: u64| (after - before) as f64 / requests;
    println!(
        "{requests} requests at depth {depth}: {us:.2} us each; all OSDs for each: {:.2} disk writes, {:.2} flushes, {:.0} bytes; {} checkpoints",
        of_each(before.writes, after.writes),
        of_each(before.flushes, after.flushes),
        of_each(before.bytes_written, after.bytes_written),
        after.checkpoints - before.checkpoints
    );
}
