//! Many clones read all of what they stand on, at the same time and through one gateway: its cache should have each block read from the disks once.

use super::control::Control;
use super::served::Served;
use super::{Found, MIB, Shape, fresh_cluster};
use crate::accounting::Snapshot;
use crate::error::BenchError;
use crate::figures::{Figure, Subject};
use crate::load::{Job, Until};
use crate::measure::{self, make_volume, sequential};
use crate::progress;
use crate::sandbox::Sandbox;
use crate::settings::Settings;
use ashlar_types::BLOCK_BYTES;
use serde_json::json;
use std::time::Instant;

/// Bytes.
const REQUEST: u32 = 1 << 20;

pub fn run(sandbox: &Sandbox, settings: &Settings, shape: &Shape) -> Result<Found, BenchError> {
    let cluster = fresh_cluster(sandbox, settings, shape, "clones that read the same through one gateway")?;
    let mut library = make_volume(&cluster, "golden", shape.shared_bytes)?;
    measure::fill(&mut library, true)?;
    let contents = library.detach()?;
    let control = Control::connect(cluster.mds())?;
    control.snapshot("golden", "base")?;
    let clones: Vec<String> = (0..shape.shared_clones).map(|nth| format!("clone-{nth}")).collect();
    control.clones("golden@base", &clones)?;
    let mut served = Served::connect(cluster.mds(), shape.cache_bytes)?;
    served.open(&clones, contents.as_ref())?;
    let blocks = shape.shared_bytes / u64::from(BLOCK_BYTES);
    let requests = shape.shared_bytes / u64::from(REQUEST);
    progress::say(&format!("{} clones read {} MiB each", clones.len(), shape.shared_bytes / MIB));
    let before = Snapshot::take(Some(&cluster));
    let begin = Instant::now();
    // What they read is compared with what was written.
    let job = Job { depth: 1, until: Until::Requests(requests), ..sequential(false, blocks, requests, true) };
    let outcome = served.run_on_all(&job)?;
    let seconds = begin.elapsed().as_secs_f64();
    let usage = before.until(&Snapshot::take(Some(&cluster)), 0.0);
    served.close()?;
    cluster.down()?;
    let ratio = usage.device_read_bytes.map(|bytes| bytes as f64 / shape.shared_bytes as f64);
    println!(
        "{} clones read {} MiB in {seconds:.1} s; the disks read {:.3} times what the parent has",
        clones.len(),
        outcome.reads * u64::from(REQUEST) / MIB,
        ratio.unwrap_or(f64::NAN),
    );
    let figure = ratio.map(|ratio| Figure::new(Subject::SharedParentBytes, ratio, usage.others_cores));
    let details = json!({ "clones": clones.len(), "parent_bytes": shape.shared_bytes, "cache_bytes": shape.cache_bytes,
        "seconds": seconds, "usage": usage });
    Ok(Found { figures: figure.into_iter().collect(), details })
}
