//! The store core over a simulated disk far larger than its index cache: what a uniform 4 KiB write costs in device bytes.
//!
//! The disk is filled through the store, chunk by chunk, so that each index page is on it. Then come single blocks, each at
//! random, so many at a time: first until nothing is left of the order of filling that the store could live on for a while,
//! then measured, from the end of a checkpoint to the end of a later one, so that what a checkpoint writes is in it whole.
//! The disk does everything at once, so a checkpoint ends before the next write comes; a real one runs beside them.

mod disk;
mod driver;
mod pack;

use crate::accept::Verdict;
use crate::error::BenchError;
use crate::figures::{Figure, Subject};
use crate::progress;
use crate::report::render;
use crate::settings::StoreArgs;
use ashlar_types::{BLOCK_BYTES, BLOCKS_PER_CHUNK, format_bytes};
use disk::Written;
use driver::Driver;
use serde_json::json;

/// Of a chunk, and the pages that describe it.
const CHUNK_SPACE: u64 = (BLOCKS_PER_CHUNK as u64 + 4) * BLOCK_BYTES as u64;
/// The measured phase is shown in so many parts: whether they differ says whether it was steady.
const PARTS: u64 = 5;

#[derive(Clone, Debug)]
pub struct Shape {
    pub capacity: u64,
    pub log_bytes: u64,
    pub index_cache_bytes: u64,
    pub fill_percent: u64,
    /// Writes that are prepared together.
    pub depth: u64,
    pub warm_up_writes: u64,
    /// At least.
    pub writes: u64,
}

impl From<StoreArgs> for Shape {
    fn from(args: StoreArgs) -> Shape {
        Shape {
            capacity: args.capacity,
            log_bytes: args.log,
            index_cache_bytes: args.index_cache,
            fill_percent: args.fill,
            depth: args.depth,
            warm_up_writes: args.warm_up_writes,
            writes: args.writes,
        }
    }
}

pub fn run(shape: &Shape) -> Result<Verdict, BenchError> {
    println!(
        "\n== the store core on a simulated disk of {}, {} % full; index cache {}, log {}, {} writes at a time",
        format_bytes(shape.capacity),
        shape.fill_percent,
        format_bytes(shape.index_cache_bytes),
        format_bytes(shape.log_bytes),
        shape.depth,
    );
    let mut driver = Driver::new(shape)?;
    let chunks = u32::try_from(shape.capacity / CHUNK_SPACE * shape.fill_percent / 100)
        .map_err(|_| BenchError::Wrong("the disk is too large to be simulated".to_owned()))?;
    for tenth in 0..10u64 {
        progress::say(&format!("filling {} chunks, {} %", chunks, tenth * 10));
        let part = |tenth: u64| (u64::from(chunks) * tenth / 10) as u32;
        driver.fill(part(tenth)..part(tenth + 1))?;
    }
    progress::say(&format!("{} writes to warm up", shape.warm_up_writes));
    driver.overwrite(shape.warm_up_writes, shape.depth)?;
    driver.overwrite_to_checkpoint(shape.depth)?;
    let begin = driver.counts();
    let mut ends = vec![begin];
    for part in 1..=PARTS {
        progress::say(&format!("{} writes, part {part} of {PARTS}", shape.writes / PARTS));
        driver.overwrite(shape.writes / PARTS, shape.depth)?;
        driver.overwrite_to_checkpoint(shape.depth)?;
        ends.push(driver.counts());
    }
    let parts: Vec<Counts> = ends.windows(2).map(|ends| ends[1].since(&ends[0])).collect();
    let all = driver.counts().since(&begin);
    print!("{}", table(&parts, &all));
    let (stats, pages) = (driver.stats(), driver.disk_memory());
    println!(
        "{} checkpoints; {} chunks; store's memory: directory {}, allocator {}, deltas {}, index cache {}; index {}; disk's memory {}",
        all.checkpoints,
        stats.chunks,
        format_bytes(stats.memory_directory_bytes),
        format_bytes(stats.memory_allocator_bytes),
        format_bytes(stats.memory_delta_bytes),
        format_bytes(stats.memory_cache_bytes),
        format_bytes(stats.chunks * 4 * u64::from(BLOCK_BYTES)),
        format_bytes(pages),
    );
    let figure = Figure::new(Subject::DeviceBytesStore, all.each(all.written.all()), 0.0).beside_raw(Some(1.0));
    let details = json!({
        "capacity": shape.capacity, "log_bytes": shape.log_bytes, "index_cache_bytes": shape.index_cache_bytes,
        "chunks": stats.chunks, "depth": shape.depth, "writes": all.writes, "checkpoints": all.checkpoints,
        "device_bytes": all.written.all(), "device_bytes_of_data": all.written.data, "device_bytes_of_log": all.written.log,
        "device_bytes_of_index_pages": all.index_bytes(), "device_bytes_read": all.read_bytes,
        "per_client_byte_by_part": parts.iter().map(|part| part.each(part.written.all())).collect::<Vec<_>>(),
    });
    Ok(Verdict { bars: Vec::new(), figures: vec![figure], details })
}

/// Since the beginning; or between two moments.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    writes: u64,
    checkpoints: u64,
    index_pages: u64,
    written: Written,
    read_bytes: u64,
}

impl Counts {
    fn since(&self, earlier: &Counts) -> Counts {
        Counts {
            writes: self.writes - earlier.writes,
            checkpoints: self.checkpoints - earlier.checkpoints,
            index_pages: self.index_pages - earlier.index_pages,
            written: self.written.since(&earlier.written),
            read_bytes: self.read_bytes - earlier.read_bytes,
        }
    }

    fn index_bytes(&self) -> u64 {
        self.index_pages * u64::from(BLOCK_BYTES)
    }

    /// For each byte that the client wrote.
    fn each(&self, bytes: u64) -> f64 {
        bytes as f64 / (self.writes * u64::from(BLOCK_BYTES)) as f64
    }
}

fn table(parts: &[Counts], all: &Counts) -> String {
    let header = ["bytes for each byte", "", "data", "log", "index pages", "other", "written", "read", "writes"];
    let mut cells = vec![header.map(str::to_owned).to_vec()];
    let named = parts.iter().zip(1..).map(|(part, nth)| (format!("part {nth}"), part));
    for (name, counts) in named.chain([("all".to_owned(), all)]) {
        let other = counts.written.other.saturating_sub(counts.index_bytes());
        let bytes = [
            counts.written.data,
            counts.written.log,
            counts.index_bytes(),
            other,
            counts.written.all(),
            counts.read_bytes,
        ];
        let mut line = vec![name, String::new()];
        line.extend(bytes.map(|bytes| format!("{:.3}", counts.each(bytes))));
        line.push(counts.writes.to_string());
        cells.push(line);
    }
    render(&cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_small_disk_is_filled_and_measured_and_every_byte_is_accounted_for() {
        let shape = Shape {
            capacity: 512 * MIB,
            log_bytes: 4 * MIB,
            index_cache_bytes: MIB / 4,
            fill_percent: 80,
            depth: 32,
            warm_up_writes: 2_000,
            writes: 20_000,
        };
        let verdict = run(&shape).expect("nothing fails in memory");
        let bytes = |name: &str| verdict.details[name].as_u64().expect("counted");
        let client_bytes = bytes("writes") * u64::from(BLOCK_BYTES);
        assert_eq!(bytes("device_bytes_of_data"), client_bytes, "data is written once");
        assert!(bytes("checkpoints") >= PARTS && bytes("device_bytes_of_index_pages") > 0, "{}", verdict.details);
        assert!(bytes("device_bytes_of_log") > 0 && bytes("device_bytes_read") > 0, "{}", verdict.details);
        assert!(bytes("device_bytes") > client_bytes);
    }
}
