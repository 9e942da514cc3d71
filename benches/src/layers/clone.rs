//! How long clones take: one, hundreds and a thousand at once.

use super::control::Control;
use super::turns::worst;
use super::{Found, Shape, fresh_cluster};
use crate::accounting::Snapshot;
use crate::error::BenchError;
use crate::figures::{Figure, Subject};
use crate::measure::{self, make_volume};
use crate::noise::median;
use crate::progress;
use crate::sandbox::Sandbox;
use crate::settings::Settings;
use serde_json::json;
use std::time::Duration;

const ONES: usize = 30;
/// Of hundreds, and of a thousand.
const TIMES: usize = 3;

pub fn run(sandbox: &Sandbox, settings: &Settings, shape: &Shape) -> Result<Found, BenchError> {
    let cluster = fresh_cluster(sandbox, settings, shape, "clones")?;
    let mut library = make_volume(&cluster, "golden", shape.volume_bytes)?;
    measure::fill(&mut library, true)?;
    library.detach()?;
    let control = Control::connect(cluster.mds())?;
    control.snapshot("golden", "base")?;
    let before = Snapshot::take(Some(&cluster));
    let make = |kind: &str, count: usize| -> Result<f64, BenchError> {
        let names: Vec<String> = (0..count).map(|nth| format!("{kind}-{nth:04}")).collect();
        control.clones("golden@base", &names).map(|took: Duration| took.as_secs_f64())
    };
    let mut times = Vec::new();
    for (kind, count, repeats) in [("one", 1, ONES), ("some", shape.clones[0], TIMES), ("many", shape.clones[1], TIMES)]
    {
        progress::say(&format!("{repeats} times {count} clones"));
        let took = (0..repeats).map(|nth| make(&format!("{kind}-{nth}"), count)).collect::<Result<Vec<f64>, _>>()?;
        times.push(took);
    }
    let usage = before.until(&Snapshot::take(Some(&cluster)), 0.0);
    let others = usage.others_cores + usage.steal_cores;
    cluster.down()?;
    let (one_ms, one_worst) = (median(&times[0]) * 1e3, worst(&times[0]) * 1e3);
    println!("one clone: {one_ms:.1} ms, at most {one_worst:.1}, of {ONES}");
    for (count, took) in shape.clones.iter().zip(&times[1..]) {
        println!("{count} clones: {:.3} s, at most {:.3}, of {TIMES}", median(took), worst(took));
    }
    let figures = vec![
        Figure::new(Subject::CloneOne, one_ms, others),
        Figure::new(Subject::CloneHundreds, worst(&times[1]), others),
        Figure::new(Subject::CloneThousand, worst(&times[2]), others),
    ];
    let details = json!({ "counts": [1, shape.clones[0], shape.clones[1]], "seconds": times, "others_cores": others });
    Ok(Found { figures, details })
}
