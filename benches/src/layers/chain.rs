//! One read at a time through clones of clones, beside a volume that has the same itself: cold, each block for the first time in this gateway, and
//! warm, when it has what the clones stand on in its cache. Each clone has written a few blocks of its own.

use super::control::Control;
use super::depth::reads;
use super::served::Served;
use super::turns::{self, Compared};
use super::{Found, MIB, Shape, fresh_cluster};
use crate::accounting::Snapshot;
use crate::cluster::Cluster;
use crate::contents::Contents;
use crate::error::BenchError;
use crate::figures::Subject;
use crate::library::Library;
use crate::load::{Job, Outcome, Until};
use crate::measure::{self, make_volume, sequential};
use crate::progress;
use crate::sandbox::Sandbox;
use crate::settings::Settings;
use ashlar_types::BLOCK_BYTES;
use serde_json::json;
use std::ops::Range;

/// Where a chain is read from disk to disk each one keeps its own copy, so there is room for all of what is read warm, in each of them.
const CACHE_BYTES: u64 = 1 << 30;
/// Of the volume, what is read to have all connections, and then again and again: warm.
const WARM_SHARE: u64 = 16;
/// In no order, before anything is measured in a session.
const FIRST_READS: u64 = 256;
const WRITES_PER_CLONE: u64 = 64;

pub fn run(sandbox: &Sandbox, settings: &Settings, shape: &Shape) -> Result<Found, BenchError> {
    let cluster = fresh_cluster(sandbox, settings, shape, "reads through clones of clones")?;
    let control = Control::connect(cluster.mds())?;
    let mut volumes = vec!["flat".to_owned()];
    for name in ["flat", "golden"] {
        let mut library = make_volume(&cluster, name, shape.read_bytes)?;
        measure::fill(&mut library, true)?;
        let contents = library.detach()?;
        if let (true, Some(contents)) = (name == "golden", contents) {
            make_chain(&cluster, &control, shape, contents)?;
        }
    }
    volumes.extend(shape.levels.iter().map(|level| format!("level-{level}")));
    let blocks = shape.read_bytes / u64::from(BLOCK_BYTES);
    progress::say(&format!("{} volumes read in turns, {} rounds", volumes.len(), shape.rounds));
    let before = Snapshot::take(Some(&cluster));
    let mut warm = vec![Vec::new(); volumes.len()];
    let cold = turns::take(shape.rounds, volumes.len(), |round, thing| {
        let (cold, warm_us) = in_a_fresh_gateway(&cluster, shape, &volumes[thing], blocks, round as u64)?;
        warm[thing].push(warm_us);
        Ok(cold)
    })?;
    let usage = before.until(&Snapshot::take(Some(&cluster)), 0.0);
    cluster.down()?;
    let others = usage.others_cores + usage.steal_cores;
    let subjects = [
        ("cold", &cold, [Subject::ReadClones1Cold, Subject::ReadClones16Cold]),
        ("warm", &warm, [Subject::ReadClones1Warm, Subject::ReadClones16Warm]),
    ];
    let (mut rows, mut figures) = (Vec::new(), Vec::new());
    for (state, runs, subjects) in subjects {
        for (nth, (level, subject)) in shape.levels.iter().zip(subjects).enumerate() {
            let compared = Compared::of(format!("{level} clones below, {state}"), &runs[0], &runs[1 + nth]);
            figures.push(compared.figure(subject, 1.0, others));
            rows.push(compared);
        }
    }
    print!("{}", turns::table("us", &rows));
    let details = json!({ "rows": rows, "cold_us": cold, "warm_us": warm, "others_cores": others,
        "volume_mib": shape.read_bytes / MIB, "writes_per_clone": WRITES_PER_CLONE });
    Ok(Found { figures, details })
}

/// `level-1` is a clone of `golden`, `level-2` one of `level-1`, and so on.
fn make_chain(cluster: &Cluster, control: &Control, shape: &Shape, mut contents: Contents) -> Result<(), BenchError> {
    let deepest = shape.levels.iter().copied().max().unwrap_or(0);
    progress::say(&format!("{deepest} clones of clones"));
    let mut below = "golden".to_owned();
    for level in 1..=deepest {
        control.snapshot(&below, "base")?;
        let name = format!("level-{level}");
        control.clones(&format!("{below}@base"), std::slice::from_ref(&name))?;
        let mut library = Library::attach(cluster.mds(), &name, Some(contents))?;
        let write =
            Job { write_percent: 100, verify: true, until: Until::Requests(WRITES_PER_CLONE), ..one(library.blocks()) };
        library.run(Job { seed: level as u64, ..write })?;
        if shape.levels.contains(&level) {
            measure::read_back(&mut library)?;
        }
        let left = library.detach()?;
        contents = left.ok_or_else(|| BenchError::Wrong(format!("what {name} holds is not known any more")))?;
        below = name;
    }
    Ok(())
}

fn one(blocks: u64) -> Job {
    reads(blocks, std::time::Duration::ZERO, 1)
}

/// Medians in microseconds: of what was never read in this gateway, and of what was.
fn in_a_fresh_gateway(
    cluster: &Cluster,
    shape: &Shape,
    volume: &str,
    blocks: u64,
    seed: u64,
) -> Result<(f64, f64), BenchError> {
    let mut served = Served::connect(cluster.mds(), CACHE_BYTES)?;
    served.open(&[volume.to_owned()], None)?;
    let warm: Range<u64> = 0..blocks / WARM_SHARE;
    let first = Job { until: Until::Requests(FIRST_READS), blocks: warm.clone(), ..one(blocks) };
    served.run(0, first)?;
    let random = |blocks: Range<u64>| Job { blocks, ..reads(0, shape.turn, seed) };
    let cold_us = median_us(&served.run(0, random(warm.end..blocks))?);
    served.run(0, sequential(false, warm.end, warm.end * u64::from(BLOCK_BYTES) / MIB, false))?;
    let warm_us = median_us(&served.run(0, random(warm))?);
    served.close()?;
    Ok((cold_us, warm_us))
}

fn median_us(outcome: &Outcome) -> f64 {
    outcome.latency.value_at_quantile(0.5) as f64 / 1e3
}
