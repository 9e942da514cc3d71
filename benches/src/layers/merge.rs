//! What the disks write when a snapshot in the middle is deleted whose layer holds data that the next one still reads: it is merged into that.

use super::control::Control;
use super::{Found, MIB, PATIENCE, Shape, fresh_cluster};
use crate::accounting::{Snapshot, Usage};
use crate::cluster::Cluster;
use crate::error::BenchError;
use crate::figures::{Figure, Subject};
use crate::load::{Job, Until};
use crate::measure::{self, COPIES, make_volume};
use crate::progress;
use crate::sandbox::Sandbox;
use crate::settings::Settings;
use serde_json::json;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(20);
/// Blocks of the layers above, so that they are not empty.
const WRITES_ABOVE: u64 = 256;

pub fn run(sandbox: &Sandbox, settings: &Settings, shape: &Shape) -> Result<Found, BenchError> {
    let cluster = fresh_cluster(sandbox, settings, shape, "deleting a snapshot that holds data")?;
    let control = Control::connect(cluster.mds())?;
    let mut library = make_volume(&cluster, "merged", shape.volume_bytes)?;
    for (snapshot, writes) in
        [("below", None), ("middle", None), ("above", Some(WRITES_ABOVE)), ("", Some(WRITES_ABOVE))]
    {
        progress::say(&format!("writing what snapshot {snapshot:?} will hold"));
        match writes {
            None => measure::fill(&mut library, true)?,
            Some(count) => {
                let job =
                    Job { random: true, request_bytes: 4096, ..measure::sequential(true, library.blocks(), 1, true) };
                library.run(Job { until: Until::Requests(count), ..job }).map(|_| ())?;
            }
        }
        if !snapshot.is_empty() {
            control.snapshot("merged", snapshot)?;
        }
    }
    begin_anew(&cluster, shape.settle)?;
    let idle = over(&cluster, || {
        std::thread::sleep(shape.settle);
        Ok(())
    })?
    .0;
    let layers = control.volume("merged")?.layers.len();
    progress::say("deleting the middle one");
    let begin = Instant::now();
    let (usage, seconds) = over(&cluster, || {
        control.delete_snapshot("merged", "middle")?;
        control.wait_for("merging a layer", PAUSE, |control| {
            let is_gone = control.volume("merged")?.layers.len() < layers && control.view()?.merges.is_empty();
            Ok(is_gone.then_some(()))
        })?;
        let seconds = begin.elapsed().as_secs_f64();
        std::thread::sleep(shape.settle);
        Ok(seconds)
    })?;
    measure::read_back(&mut library)?;
    library.detach()?;
    cluster.down()?;
    let data = shape.volume_bytes * COPIES as u64;
    let percent = usage.device_bytes.map_or(f64::NAN, |bytes| bytes as f64 / data as f64 * 100.0);
    let mib = |bytes: Option<u64>| bytes.map_or(f64::NAN, |bytes| bytes as f64 / MIB as f64);
    println!(
        "{} MiB in three copies merged in {seconds:.2} s: the disks wrote {:.1} MiB and read {:.1}; in {} s of nothing, {:.2}",
        shape.volume_bytes / MIB,
        mib(usage.device_bytes),
        mib(usage.device_read_bytes),
        idle.seconds.round(),
        mib(idle.device_bytes),
    );
    // Files in RAM are counted by nobody.
    let figures = usage.device_bytes.map(|_| Figure::new(Subject::MergeBytes, percent, usage.others_cores));
    let details = json!({ "data_bytes": data, "seconds": seconds, "merge": usage, "idle": idle });
    Ok(Found { figures: figures.into_iter().collect(), details })
}

/// An OSD that has started has written a checkpoint: pages of the index that what was written before has made due are not written during the merge.
fn begin_anew(cluster: &Cluster, settle: Duration) -> Result<(), BenchError> {
    for osd in cluster.osds() {
        cluster.kill_osd(osd)?;
        cluster.start_osd(osd)?;
        cluster.wait_in_sync(PATIENCE)?;
    }
    std::thread::sleep(settle);
    Ok(())
}

fn over<T>(cluster: &Cluster, act: impl FnOnce() -> Result<T, BenchError>) -> Result<(Usage, T), BenchError> {
    let before = Snapshot::take(Some(cluster));
    let result = act()?;
    Ok((before.until(&Snapshot::take(Some(cluster)), 0.0), result))
}
