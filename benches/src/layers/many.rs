//! What a request costs in a cluster with many layers, beside a fresh one: as [`size`] does it with many volumes.

use super::control::Control;
use super::{Found, Shape};
use crate::error::BenchError;
use crate::figures::Subject;
use crate::library::create_volumes;
use crate::progress;
use crate::sandbox::Sandbox;
use crate::settings::Settings;
use crate::size;
use serde_json::json;
use std::time::Instant;

/// Of each volume: that on top, and those of its snapshots.
const LAYERS_PER_VOLUME: usize = 100;
/// Snapshots that all volumes get before it is told how far that is.
const STEP: usize = 9;

pub fn run(sandbox: &Sandbox, settings: &Settings, shape: &Shape) -> Result<Found, BenchError> {
    let of_size = size::Shape {
        volume_bytes: 2 * shape.read_bytes,
        rounds: shape.many_rounds,
        time: shape.many_time,
        ..size::Shape::whole(settings, 0, 0, 0)
    };
    let (mut made_in, mut made) = (0.0, 0);
    let rows = size::beside_fresh(sandbox, settings, &of_size, "many layers", &mut |cluster, _| {
        let begin = Instant::now();
        made = make_layers(cluster.mds(), shape.layers)?;
        made_in = begin.elapsed().as_secs_f64();
        println!("{made} layers of {} volumes were made in {made_in:.0} s", made / LAYERS_PER_VOLUME);
        Ok(())
    })?;
    let figures = [(Subject::ManyLayersWrite, &rows[0]), (Subject::ManyLayersRead, &rows[1])];
    let figures = figures.map(|(subject, row)| size::judge(subject, row)).to_vec();
    Ok(Found { figures, details: json!({ "layers": made, "made_in_s": made_in, "rows": rows }) })
}

/// Together with the layer of the measured volume not more than `wanted`, which is what a pool may have; how many.
fn make_layers(mds: &[String], wanted: usize) -> Result<usize, BenchError> {
    let control = Control::connect(mds)?;
    let volumes: Vec<String> = (0..(wanted - 1) / LAYERS_PER_VOLUME).map(|nth| format!("many-{nth}")).collect();
    create_volumes(mds, volumes.clone(), 1 << 30)?;
    let snapshots: Vec<String> = (1..LAYERS_PER_VOLUME).map(|nth| format!("s{nth}")).collect();
    for (step, names) in snapshots.chunks(STEP).enumerate() {
        progress::say(&format!("{} volumes, {} of {} layers each", volumes.len(), 1 + step * STEP, LAYERS_PER_VOLUME));
        control.snapshots(&volumes, names)?;
    }
    Ok(volumes.len() * LAYERS_PER_VOLUME)
}
