//! Cost against size: what a request costs in a cluster with many volumes, and on disks that are nearly full after everything
//! was overwritten many times, each beside a fresh cluster in the same run.

use crate::accept::Verdict;
use crate::cluster::Cluster;
use crate::disks::Disks;
use crate::error::BenchError;
use crate::figures::{Figure, Subject};
use crate::library::{Library, create_volumes};
use crate::load::{Job, Until};
use crate::measure::{self, COPIES, KINDS, Kind, make_volume};
use crate::noise::Repeated;
use crate::progress;
use crate::report::render;
use crate::sandbox::Sandbox;
use crate::settings::Settings;
use ashlar_types::BLOCK_BYTES;
use serde::Serialize;
use serde_json::json;
use std::time::{Duration, Instant};

/// How far from what was wanted disks may be full.
const FULL_SLACK_PERCENT: f64 = 3.0;
/// A run whose repetitions differ by more tells nothing of a tenth.
const NOISE_PERCENT_MAX: f64 = 10.0;
/// OSDs tell how full they are with their heartbeats, a few each second.
const USAGE_AGE_MAX: Duration = Duration::from_secs(2);
const USAGE_PATIENCE: Duration = Duration::from_secs(20);
/// A page of the index for 256 blocks.
const INDEX_SHARE: f64 = 257.0 / 256.0;
/// Requests under way while everything is overwritten.
const OVERWRITE_DEPTH: usize = 64;
const MIB: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub struct Shape {
    pub osd_bytes: u64,
    /// The volume that is measured.
    pub volume_bytes: u64,
    pub volumes: u32,
    pub full_percent: f64,
    /// How often every byte is overwritten, on average.
    pub overwrites: u32,
    pub rounds: usize,
    pub time: Duration,
    pub verify: bool,
}

impl Shape {
    /// Two clusters are up at a time, so their disks are smaller than those of the jobs.
    pub fn whole(settings: &Settings, volumes: u32, overwrites: u32, rounds: usize) -> Shape {
        Shape {
            osd_bytes: 2 << 30,
            volume_bytes: 512 * MIB,
            volumes,
            full_percent: 90.0,
            overwrites,
            rounds,
            time: Duration::from_secs(settings.seconds),
            verify: false,
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    job: &'static str,
    /// Microseconds of processor time.
    fresh: Repeated,
    large: Repeated,
    more_percent: f64,
    others_cores: f64,
}

pub fn run(sandbox: &Sandbox, settings: &Settings, shape: &Shape) -> Result<Verdict, BenchError> {
    let keep = sandbox.len();
    let many = beside_fresh(sandbox, settings, shape, "many volumes", &mut |cluster, _| {
        progress::say(&format!("making {} volumes", shape.volumes));
        let names = (0..shape.volumes).map(|nth| format!("many-{nth}")).collect();
        create_volumes(cluster.mds(), names, 1 << 30)
    })?;
    sandbox.clean_to(keep);
    let full = beside_fresh(sandbox, settings, shape, "nearly full, overwritten", &mut |cluster, library| {
        fill_and_overwrite(cluster, library, shape)
    })?;
    sandbox.clean_to(keep);
    let subjects = [
        (Subject::ManyVolumesWrite, &many[0]),
        (Subject::ManyVolumesRead, &many[1]),
        (Subject::FullWrite, &full[0]),
        (Subject::FullRead, &full[1]),
    ];
    let figures = subjects.map(|(subject, row)| judge(subject, row)).to_vec();
    let details = json!({
        "volumes": shape.volumes, "many_volumes": many,
        "full_percent": shape.full_percent, "overwrites": shape.overwrites, "full": full,
    });
    Ok(Verdict { bars: Vec::new(), figures, details })
}

pub fn judge(subject: Subject, row: &Compared) -> Figure {
    let figure = Figure::new(subject, row.more_percent, row.others_cores);
    let noise_percent = row.fresh.spread_percent.max(row.large.spread_percent);
    if noise_percent > NOISE_PERCENT_MAX { figure.not_judged() } else { figure }
}

struct Side {
    cluster: Cluster,
    library: Library,
}

pub type Prepare<'a> = dyn FnMut(&Cluster, &mut Library) -> Result<(), BenchError> + 'a;

/// Two clusters, one of them made large; both measured in turns: a write's cost, then a read's.
pub fn beside_fresh(
    sandbox: &Sandbox,
    settings: &Settings,
    shape: &Shape,
    what: &str,
    make_large: &mut Prepare<'_>,
) -> Result<[Compared; 2], BenchError> {
    println!("\n== cost against size: {what}");
    let mut fresh = side(sandbox, settings, shape)?;
    let mut large = side(sandbox, settings, shape)?;
    make_large(&large.cluster, &mut large.library)?;
    let rows = [compare(shape, &WRITE, &mut fresh, &mut large)?, compare(shape, &READ, &mut fresh, &mut large)?];
    for side in [fresh, large] {
        let Side { cluster, mut library } = side;
        if shape.verify {
            measure::read_back(&mut library)?;
        }
        library.detach()?;
        cluster.down()?;
    }
    print!("{}", table(&rows));
    Ok(rows)
}

const WRITE: Kind = KINDS[1];
const READ: Kind = KINDS[3];
const _: () = assert!(WRITE.is_write && WRITE.depth == 32 && WRITE.request_bytes == BLOCK_BYTES);
const _: () = assert!(!READ.is_write && READ.depth == 32 && READ.request_bytes == BLOCK_BYTES);

fn side(sandbox: &Sandbox, settings: &Settings, shape: &Shape) -> Result<Side, BenchError> {
    let disks =
        Disks::make(sandbox, settings.medium, &settings.file_parent, COPIES, shape.osd_bytes, measure::RAW_UNUSED)?;
    let cluster = Cluster::up(sandbox, &settings.ashlar, &disks)?;
    let mut library = make_volume(&cluster, "bench", shape.volume_bytes)?;
    measure::fill(&mut library, shape.verify)?;
    Ok(Side { cluster, library })
}

fn compare(shape: &Shape, kind: &Kind, fresh: &mut Side, large: &mut Side) -> Result<Compared, BenchError> {
    let (mut of_fresh, mut of_large, mut others) = (Vec::new(), Vec::new(), 0.0f64);
    for round in 1..=shape.rounds {
        progress::say(&format!("{}, round {round} of {}", kind.name, shape.rounds));
        let mut once = |side: &mut Side, costs: &mut Vec<f64>| -> Result<(), BenchError> {
            let job = kind.job(side.library.blocks(), shape.time, shape.verify);
            let row = measure::library_row(&side.cluster, &mut side.library, kind.name, job)?;
            costs.push(row.cpu.all);
            others = others.max(row.disturbance());
            Ok(())
        };
        // Neither is always the first.
        if round % 2 == 1 {
            once(fresh, &mut of_fresh)?;
        }
        once(large, &mut of_large)?;
        if round % 2 == 0 {
            once(fresh, &mut of_fresh)?;
        }
    }
    let (fresh, large) = (Repeated::of(of_fresh), Repeated::of(of_large));
    let more_percent = (large.median / fresh.median - 1.0) * 100.0;
    Ok(Compared { job: kind.name, fresh, large, more_percent, others_cores: others })
}

/// Another volume takes the space up to the wanted share; then both are overwritten, block by block in no order.
fn fill_and_overwrite(cluster: &Cluster, measured: &mut Library, shape: &Shape) -> Result<(), BenchError> {
    let mut filler = make_volume(cluster, "filler", shape.osd_bytes)?;
    let bytes = bytes_to_write(&filler, shape.full_percent)?;
    progress::say(&format!("writing {} MiB more", bytes / MIB));
    let blocks = bytes / u64::from(BLOCK_BYTES);
    filler.run(measure::sequential(true, blocks, bytes / MIB, shape.verify))?;
    wait_until_full(&filler, shape.full_percent)?;
    for nth in 1..=shape.overwrites {
        progress::say(&format!("overwriting everything, {nth} of {}", shape.overwrites));
        for (library, blocks) in [(&mut filler, blocks), (&mut *measured, shape.volume_bytes / u64::from(BLOCK_BYTES))]
        {
            library.run(overwrite(blocks, nth, shape.verify))?;
        }
    }
    let used = filler.watcher().usage()?.into_iter().map(|(used, total)| used as f64 / total as f64 * 100.0);
    let used: Vec<String> = used.map(|percent| format!("{percent:.1} %")).collect();
    println!("used: {}; blocks that the next checkpoint frees included", used.join(", "));
    if shape.verify {
        measure::read_back(&mut filler)?;
    }
    filler.detach().map(|_| ())
}

fn overwrite(blocks: u64, nth: u32, verify: bool) -> Job {
    Job {
        write_percent: 100,
        request_bytes: BLOCK_BYTES,
        depth: OVERWRITE_DEPTH,
        rate: None,
        random: true,
        verify,
        blocks: 0..blocks,
        until: Until::Requests(blocks),
        slow: Duration::from_secs(1),
        seed: u64::from(nth),
    }
}

/// Of the fullest OSD, in whole MiB.
fn bytes_to_write(library: &Library, full_percent: f64) -> Result<u64, BenchError> {
    std::thread::sleep(USAGE_AGE_MAX);
    let usage = library.watcher().usage()?;
    let free = usage.iter().map(|(used, total)| *total as f64 * full_percent / 100.0 - *used as f64);
    let bytes = free.fold(f64::INFINITY, f64::min) / INDEX_SHARE;
    if !bytes.is_finite() || bytes < MIB as f64 {
        return Err(BenchError::Wrong(format!("there is no space to fill up to {full_percent} %: {usage:?}")));
    }
    Ok(bytes as u64 / MIB * MIB)
}

fn wait_until_full(library: &Library, full_percent: f64) -> Result<(), BenchError> {
    let (watcher, begin) = (library.watcher(), Instant::now());
    loop {
        let usage = watcher.usage()?;
        let is_full = |&(used, total): &(u64, u64)| {
            (used as f64 / total as f64 * 100.0 - full_percent).abs() <= FULL_SLACK_PERCENT
        };
        if !usage.is_empty() && usage.iter().all(is_full) {
            return Ok(());
        }
        if begin.elapsed() > USAGE_PATIENCE {
            return Err(BenchError::Wrong(format!("the OSDs are not {full_percent} % full: {usage:?} (used, total)")));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn table(rows: &[Compared]) -> String {
    let header = ["cpu us/io", "", "fresh", "spread %", "large", "spread %", "more by %", "others"];
    let mut cells = vec![header.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(|row| {
        vec![
            row.job.to_owned(),
            String::new(),
            format!("{:.1}", row.fresh.median),
            format!("{:.1}", row.fresh.spread_percent),
            format!("{:.1}", row.large.median),
            format!("{:.1}", row.large.spread_percent),
            format!("{:.1}", row.more_percent),
            format!("{:.2}", row.others_cores),
        ]
    }));
    render(&cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Judgement;

    #[test]
    fn what_differs_less_than_its_own_repetitions_is_not_judged() {
        let judged = |fresh: [f64; 3], large: [f64; 3]| {
            let (fresh, large) = (Repeated::of(fresh.to_vec()), Repeated::of(large.to_vec()));
            let more_percent = (large.median / fresh.median - 1.0) * 100.0;
            let row = Compared { job: WRITE.name, fresh, large, more_percent, others_cores: 3.0 };
            judge(Subject::FullWrite, &row).judgement
        };
        assert_eq!(judged([50.0, 51.0, 52.0], [53.0, 54.0, 55.0]), Judgement::Goal);
        assert_eq!(judged([50.0, 51.0, 52.0], [60.0, 61.0, 62.0]), Judgement::Missed);
        assert_eq!(judged([40.0, 51.0, 62.0], [60.0, 61.0, 62.0]), Judgement::NotJudged);
    }
}
