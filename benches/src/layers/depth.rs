//! One read at a time of what lies under snapshots, beside a volume without any: with layers above it that hold nothing, and with ones that hold a
//! few blocks each.

use super::control::Control;
use super::turns::{self, Compared};
use super::{Found, MIB, Shape, fresh_cluster};
use crate::accounting::Snapshot;
use crate::cluster::Cluster;
use crate::error::BenchError;
use crate::figures::Subject;
use crate::library::Library;
use crate::load::{Job, Until};
use crate::measure::{self, make_volume};
use crate::progress;
use crate::sandbox::Sandbox;
use crate::settings::Settings;
use ashlar_types::BLOCK_BYTES;
use serde_json::json;
use std::time::Duration;

/// Blocks that each layer of the second kind holds, anywhere.
const WRITES_PER_LAYER: u64 = 64;
const EMPTY: [Subject; 3] = [Subject::ReadDepth1, Subject::ReadDepth16, Subject::ReadDepth256];
const WRITTEN: [Subject; 3] = [Subject::ReadWritten1, Subject::ReadWritten16, Subject::ReadWritten256];

pub fn run(sandbox: &Sandbox, settings: &Settings, shape: &Shape) -> Result<Found, BenchError> {
    let cluster = fresh_cluster(sandbox, settings, shape, "reads under snapshots")?;
    let control = Control::connect(cluster.mds())?;
    let mut volumes = vec![volume(&cluster, &control, shape, 0, 0)?];
    for writes in [0, WRITES_PER_LAYER] {
        for depth in shape.depths {
            volumes.push(volume(&cluster, &control, shape, depth, writes)?);
        }
    }
    progress::say(&format!("{} volumes read in turns, {} rounds", volumes.len(), shape.rounds));
    let before = Snapshot::take(Some(&cluster));
    let mut means = vec![Vec::new(); volumes.len()];
    let medians = turns::take(shape.rounds, volumes.len(), |round, thing| {
        let library = &mut volumes[thing];
        let outcome = library.run(reads(library.blocks(), shape.turn, round as u64))?;
        means[thing].push(outcome.latency.mean() / 1e3);
        Ok(outcome.latency.value_at_quantile(0.5) as f64 / 1e3)
    })?;
    let usage = before.until(&Snapshot::take(Some(&cluster)), 0.0);
    volumes.into_iter().try_for_each(|library| library.detach().map(|_| ()))?;
    cluster.down()?;
    let others = usage.others_cores + usage.steal_cores;
    let (mut rows, mut figures) = (Vec::new(), Vec::new());
    for (nth, (subject, depth)) in EMPTY.iter().chain(&WRITTEN).zip(shape.depths.iter().cycle()).enumerate() {
        let kind = if nth < shape.depths.len() { "empty" } else { "written" };
        let compared = Compared::of(format!("{depth} {kind} layers above"), &medians[0], &medians[1 + nth]);
        figures.push(compared.figure(*subject, 1.0, others));
        rows.push(compared);
    }
    print!("{}", turns::table("us", &rows));
    let details = json!({ "rows": rows, "medians_us": medians, "means_us": means, "others_cores": others,
        "volume_mib": shape.read_bytes / MIB, "writes_per_layer": WRITES_PER_LAYER });
    Ok(Found { figures, details })
}

/// Written whole, then so many snapshots, each followed by so many writes.
fn volume(
    cluster: &Cluster,
    control: &Control,
    shape: &Shape,
    depth: usize,
    writes: u64,
) -> Result<Library, BenchError> {
    progress::say(&format!("a volume under {depth} snapshots, {writes} writes after each"));
    let name = format!("depth-{depth}-{writes}");
    let mut library = make_volume(cluster, &name, shape.read_bytes)?;
    measure::fill(&mut library, true)?;
    for nth in 0..depth {
        control.snapshot(&name, &format!("s{nth}"))?;
        if writes > 0 {
            let job =
                Job { write_percent: 100, verify: true, until: Until::Requests(writes), ..some(library.blocks(), 8) };
            library.run(Job { seed: nth as u64, ..job })?;
        }
    }
    measure::read_back(&mut library)?;
    Ok(library)
}

/// Reads at random, one at a time.
pub fn reads(blocks: u64, time: Duration, seed: u64) -> Job {
    Job { until: Until::Elapsed(time), seed, ..some(blocks, 1) }
}

fn some(blocks: u64, depth: usize) -> Job {
    Job {
        write_percent: 0,
        request_bytes: BLOCK_BYTES,
        depth,
        rate: None,
        random: true,
        verify: false,
        blocks: 0..blocks,
        until: Until::Requests(1),
        slow: Duration::from_secs(1),
        seed: 1,
    }
}
