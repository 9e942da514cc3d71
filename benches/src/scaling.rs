//! Scaling: 4 KiB writes by more and more clients, and to more and more volumes. Each client, and each volume, brings its own
//! load along, and what all of them get must not fall.
//!
//! All sets of volumes hold equally many bytes, so that only their number differs. The measurements are repeated in turns, so
//! that what changes on the machine changes all of them, and what one differs from itself is the noise to compare with.

use crate::accept::Verdict;
use crate::accounting::Snapshot;
use crate::cluster::Cluster;
use crate::disks::Disks;
use crate::error::BenchError;
use crate::figures::{Figure, Subject};
use crate::library::{Attachments, Library, create_volumes};
use crate::load::{Job, Until};
use crate::load_command::run_together;
use crate::measure::{self, COPIES};
use crate::noise::{Repeated, worst_fall};
use crate::progress;
use crate::report::render;
use crate::sandbox::Sandbox;
use crate::settings::Settings;
use ashlar_types::BLOCK_BYTES;
use ashlar_types::control::AttachMode;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

/// More than this and a run tells no fall from noise.
const NOISE_PERCENT_MAX: f64 = 20.0;

/// How much of it is measured.
#[derive(Clone, Debug)]
pub struct Shape {
    pub clients: Vec<usize>,
    pub volumes: Vec<usize>,
    pub depth_per_client: usize,
    pub depth_per_volume: usize,
    /// Of all volumes of a set together; each is a multiple of 1 MiB.
    pub set_bytes: u64,
    pub osd_bytes: u64,
    pub rounds: usize,
    pub time: Duration,
    pub verify: bool,
}

impl Shape {
    pub fn whole(settings: &Settings, rounds: usize) -> Shape {
        Shape {
            clients: vec![1, 2, 4, 8],
            volumes: vec![8, 64, 512],
            depth_per_client: 32,
            depth_per_volume: 4,
            set_bytes: 512 << 20,
            osd_bytes: settings.osd_bytes,
            rounds,
            time: Duration::from_secs(settings.seconds),
            verify: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// So many, each with a volume and connections of its own.
    Clients,
    /// So many, with one client.
    Volumes,
}

#[derive(Clone, Debug, Serialize)]
struct Level {
    kind: Kind,
    count: usize,
    depth: usize,
    iops: Repeated,
    /// The most of any run.
    others_cores: f64,
}

pub fn run(sandbox: &Sandbox, settings: &Settings, shape: &Shape) -> Result<Verdict, BenchError> {
    let disks =
        Disks::make(sandbox, settings.medium, &settings.file_parent, COPIES, shape.osd_bytes, measure::RAW_UNUSED)?;
    println!("\n== scaling, on {}", disks.description);
    let cluster = Cluster::up(sandbox, &settings.ashlar, &disks)?;
    let sets: BTreeSet<usize> = shape.clients.iter().chain(&shape.volumes).copied().collect();
    for count in sets {
        fill_set(&cluster, shape, count)?;
    }
    let wanted = |kind, counts: &[usize]| counts.iter().map(move |count| (kind, *count)).collect::<Vec<_>>();
    let mut turns = [wanted(Kind::Clients, &shape.clients), wanted(Kind::Volumes, &shape.volumes)].concat();
    let mut runs: Vec<(Kind, usize, f64, f64)> = Vec::new();
    for round in 1..=shape.rounds {
        for &(kind, count) in &turns {
            progress::say(&format!("round {round} of {}: {count} {kind:?}", shape.rounds).to_lowercase());
            let (iops, others) = measure_once(&cluster, shape, kind, count)?;
            runs.push((kind, count, iops, others));
        }
        // There and back: what grows over the run is then in no level more than in others.
        turns.reverse();
    }
    cluster.down()?;
    let level = |kind: Kind, count: usize| {
        let of = || runs.iter().filter(move |run| (run.0, run.1) == (kind, count));
        Level {
            kind,
            count,
            depth: depth(shape, kind, count),
            iops: Repeated::of(of().map(|run| run.2).collect()),
            others_cores: of().map(|run| run.3).fold(0.0, f64::max),
        }
    };
    let clients: Vec<Level> = shape.clients.iter().map(|count| level(Kind::Clients, *count)).collect();
    let volumes: Vec<Level> = shape.volumes.iter().map(|count| level(Kind::Volumes, *count)).collect();
    print!("{}", table(clients.iter().chain(&volumes)));
    let figures = [(Subject::ScalingClients, &clients), (Subject::ScalingVolumes, &volumes)];
    let figures = figures.into_iter().filter_map(|(subject, levels)| judge(subject, levels)).collect();
    Ok(Verdict { bars: Vec::new(), figures, details: json!({ "clients": clients, "volumes": volumes }) })
}

fn judge(subject: Subject, levels: &[Level]) -> Option<Figure> {
    let fall = worst_fall(&levels.iter().map(|level| level.iops.clone()).collect::<Vec<_>>())?;
    let others = levels.iter().map(|level| level.others_cores).fold(0.0, f64::max);
    let figure = Figure::with_bar(subject, fall.percent, fall.noise_percent, others);
    Some(if fall.noise_percent > NOISE_PERCENT_MAX { figure.not_judged() } else { figure })
}

fn depth(shape: &Shape, kind: Kind, count: usize) -> usize {
    match kind {
        Kind::Clients => shape.depth_per_client * count,
        Kind::Volumes => shape.depth_per_volume * count,
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|nth| format!("set-{count}-{nth}")).collect()
}

/// Makes so many volumes and writes all of them.
fn fill_set(cluster: &Cluster, shape: &Shape, count: usize) -> Result<(), BenchError> {
    progress::say(&format!("making and writing a set of {count} volumes"));
    let bytes = shape.set_bytes / count as u64;
    create_volumes(cluster.mds(), names(count), bytes)?;
    let mut library = attach(cluster, &names(count))?;
    measure::fill(&mut library, shape.verify)?;
    if shape.verify {
        measure::read_back(&mut library)?;
    }
    library.detach().map(|_| ())
}

fn attach(cluster: &Cluster, names: &[String]) -> Result<Library, BenchError> {
    Library::attach_all(&Attachments::new(cluster.mds(), names), AttachMode::Exclusive, None)
}

/// IOPS, and the processors that others had.
fn measure_once(cluster: &Cluster, shape: &Shape, kind: Kind, count: usize) -> Result<(f64, f64), BenchError> {
    let names = names(count);
    let mut clients = match kind {
        Kind::Clients => names.chunks(1).map(|name| attach(cluster, name)).collect::<Result<Vec<_>, _>>()?,
        Kind::Volumes => vec![attach(cluster, &names)?],
    };
    let depth = depth(shape, kind, count) / clients.len();
    let jobs = clients.iter().zip(1..).map(|(client, seed)| job(shape, client.blocks(), depth, seed)).collect();
    let before = Snapshot::take(Some(cluster));
    let outcome = run_together(&mut clients, jobs)?;
    let usage = before.until(&Snapshot::take(Some(cluster)), 0.0);
    if shape.verify {
        clients.iter_mut().try_for_each(measure::read_back)?;
    }
    clients.into_iter().try_for_each(|client| client.detach().map(|_| ()))?;
    let iops = outcome.requests() as f64 / outcome.elapsed.as_secs_f64();
    Ok((iops, usage.others_cores + usage.steal_cores))
}

fn job(shape: &Shape, blocks: u64, depth: usize, seed: u64) -> Job {
    Job {
        write_percent: 100,
        request_bytes: BLOCK_BYTES,
        depth,
        rate: None,
        random: true,
        verify: shape.verify,
        blocks: 0..blocks,
        until: Until::Elapsed(shape.time),
        slow: Duration::from_secs(1),
        seed,
    }
}

fn table<'a>(levels: impl Iterator<Item = &'a Level>) -> String {
    let mut cells =
        vec![["4k writes", "with", "depth", "IOPS, median", "spread %", "others"].map(str::to_owned).to_vec()];
    cells.extend(levels.map(|level| {
        vec![
            format!("{} {:?}", level.count, level.kind).to_lowercase(),
            if level.kind == Kind::Clients { "a volume each" } else { "one client" }.to_owned(),
            level.depth.to_string(),
            format!("{:.0}", level.iops.median),
            format!("{:.1}", level.iops.spread_percent),
            format!("{:.2}", level.others_cores),
        ]
    }));
    render(&cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Judgement;

    fn level(count: usize, iops: [f64; 3], others_cores: f64) -> Level {
        Level { kind: Kind::Clients, count, depth: count, iops: Repeated::of(iops.to_vec()), others_cores }
    }

    #[test]
    fn a_fall_beyond_the_noise_is_missed_and_one_within_it_is_not() {
        let judged = |levels: &[Level]| judge(Subject::ScalingClients, levels).expect("two levels").judgement;
        let one = level(1, [99.0, 100.0, 101.0], 0.0);
        assert_eq!(judged(&[one.clone(), level(2, [97.0, 99.0, 100.0], 0.0)]), Judgement::Goal);
        assert_eq!(judged(&[one.clone(), level(2, [89.0, 90.0, 91.0], 0.0)]), Judgement::Missed);
        assert_eq!(judged(&[one.clone(), level(2, [89.0, 90.0, 91.0], 0.5)]), Judgement::NotJudged);
        assert_eq!(judged(&[one, level(2, [60.0, 90.0, 120.0], 0.0)]), Judgement::NotJudged, "too noisy");
    }
}
