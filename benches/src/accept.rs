//! The acceptance measurements: how long a client waits when a disk dies, how soon a disk that was away is whole again, and
//! how soon somebody new has a volume.

use crate::accounting::Snapshot;
use crate::cluster::Cluster;
use crate::disks::{Disks, Medium};
use crate::error::BenchError;
use crate::figures::Figure;
use crate::fio;
use crate::library::{Library, Watcher, is_in_sync};
use crate::load::{Job, Outcome, Until};
use crate::measure::{self, attach_nbd, make_volume, nbd_device};
use crate::report::Bar;
use crate::sandbox::Sandbox;
use crate::settings::Settings;
use ashlar_types::{BLOCK_BYTES, OsdId};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);
/// Between a healed cluster and the next kill, so that a stall belongs to its kill.
const CALM: Duration = Duration::from_millis(1500);
const STALL_BAR_S: f64 = 1.0;
const RESYNC_BAR_S: f64 = 10.0;
const START_BAR_S: f64 = 10.0;
/// The log, the index and what goes on beside; rewriting whole chunks would be far above it.
const REWRITTEN_BAR: f64 = 1.25;

/// Figures and what was asked of them.
#[derive(Debug)]
pub struct Verdict {
    pub bars: Vec<Bar>,
    pub figures: Vec<Figure>,
    pub details: Value,
}

/// From a built binary to the first attached volume, on fresh files as `ashlar up` makes them.
pub fn start(sandbox: &Sandbox, settings: &Settings) -> Result<Verdict, BenchError> {
    let mut runs = Vec::new();
    for _ in 0..3 {
        let keep = sandbox.len();
        let disks = Disks::make(sandbox, Medium::File, &settings.file_parent, 0, 0, 1 << 20)?;
        let begin = Instant::now();
        let cluster = Cluster::up(sandbox, &settings.ashlar, &disks)?;
        let up = begin.elapsed().as_secs_f64();
        cluster.ashlar(&["volume", "create", "first", "--size", "1GiB"])?;
        let uri = attach_nbd(&cluster, "first")?;
        let attached = begin.elapsed().as_secs_f64();
        let mut args = nbd_device(&uri).to_vec();
        args.extend(["--rw=write", "--bs=4k", "--size=64k", "--verify=crc32c"].map(str::to_owned));
        fio::run(sandbox, &args)?;
        runs.push(json!({ "up_s": up, "attached_s": attached, "written_and_read_s": begin.elapsed().as_secs_f64() }));
        cluster.down()?;
        sandbox.clean_to(keep);
    }
    let worst = runs.iter().filter_map(|run| run["attached_s"].as_f64()).fold(0.0, f64::max);
    let bar = Bar::at_most("start: first attached volume, worst of 3", worst, START_BAR_S, "s");
    Ok(Verdict { bars: vec![bar], figures: Vec::new(), details: json!({ "start": runs }) })
}

#[derive(Clone, Debug, Serialize)]
struct Kill {
    osd: u32,
    /// How many PGs it was the primary of.
    primary_of: usize,
    /// The longest that a write took from the kill to the restart, in seconds.
    stall_s: f64,
    /// From the restart until all was in sync again.
    stall_at_return_s: f64,
    in_sync_after_s: f64,
}

struct Times {
    kill: Kill,
    killed: Instant,
    started: Instant,
    healed: Instant,
}

/// SIGKILL of the OSDs in turn under 4 KiB writes, one at a time, each verified afterwards.
pub fn kill_stall(sandbox: &Sandbox, settings: &Settings, kills: usize) -> Result<Verdict, BenchError> {
    let (cluster, mut library) = fresh(sandbox, settings, 256 << 20)?;
    measure::fill(&mut library, true)?;
    let stop = Arc::new(AtomicBool::new(false));
    let job = Job {
        write_percent: 100,
        request_bytes: BLOCK_BYTES,
        depth: 1,
        rate: None,
        random: true,
        verify: true,
        blocks: 0..library.blocks(),
        until: Until::Told(stop.clone()),
        slow: Duration::from_millis(1),
        seed: 11,
    };
    let watcher = library.watcher();
    let (outcome, times) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let times = kill_in_turn(&cluster, &watcher, kills, &stop);
            stop.store(true, Ordering::Relaxed);
            times
        });
        let outcome = library.run(job);
        // Should the load have failed, the kills end too.
        stop.store(true, Ordering::Relaxed);
        let times = killer.join().unwrap_or_else(|_| Err(BenchError::Wrong("the killing thread panicked".to_owned())));
        (outcome, times)
    });
    let (outcome, times) = (outcome?, times?);
    measure::read_back(&mut library)?;
    let kills: Vec<Kill> = times.into_iter().map(|times| with_stalls(times, &outcome)).collect();
    let worst = |f: fn(&Kill) -> f64| kills.iter().map(f).fold(0.0, f64::max);
    let calm = f64::from(u32::try_from(outcome.latency.value_at_quantile(0.5)).unwrap_or(u32::MAX)) / 1e3;
    let bars = vec![
        Bar::at_most(format!("kill-stall: worst of {} kills", kills.len()), worst(|k| k.stall_s), STALL_BAR_S, "s"),
        Bar::at_most("kill-stall: worst while it returns", worst(|k| k.stall_at_return_s), STALL_BAR_S, "s"),
    ];
    let details = json!({ "kill_stall": kills, "writes": outcome.writes, "median_write_us": calm, "verified": true });
    Ok(Verdict { bars, figures: Vec::new(), details })
}

fn kill_in_turn(
    cluster: &Cluster,
    watcher: &Watcher,
    kills: usize,
    stop: &AtomicBool,
) -> Result<Vec<Times>, BenchError> {
    let osds: Vec<u32> = cluster.osds().collect();
    let mut times = Vec::new();
    for round in (0..kills).take_while(|_| !stop.load(Ordering::Relaxed)) {
        watcher.wait_in_sync(PATIENCE)?;
        std::thread::sleep(CALM);
        let osd = osds[round % osds.len()];
        let view = watcher.view()?;
        let primary_of = view.pgs.values().filter(|pg| pg.primary == Some(OsdId(osd))).count();
        let killed = Instant::now();
        cluster.kill_osd(osd)?;
        let is_without = |view: &ashlar_types::view::ClusterView| {
            view.pgs.values().all(|pg| !pg.is_in_sync(OsdId(osd)) && pg.primary.is_some_and(|primary| primary.0 != osd))
        };
        watcher.wait_for(&format!("going on without osd.{osd}"), PATIENCE, is_without)?;
        std::thread::sleep(CALM);
        let started = Instant::now();
        cluster.start_osd(osd)?;
        watcher.wait_in_sync(PATIENCE)?;
        let healed = Instant::now();
        let kill = Kill {
            osd,
            primary_of,
            stall_s: 0.0,
            stall_at_return_s: 0.0,
            in_sync_after_s: healed.duration_since(started).as_secs_f64(),
        };
        times.push(Times { kill, killed, started, healed });
    }
    std::thread::sleep(CALM);
    Ok(times)
}

/// A write belongs to a span if it was under way at any moment of it.
fn with_stalls(times: Times, outcome: &Outcome) -> Kill {
    let longest = |from: Instant, to: Instant| {
        let touches = |slow: &&crate::load::Slow| slow.sent < to && slow.sent + slow.took > from;
        outcome.slow.iter().filter(touches).map(|slow| slow.took.as_secs_f64()).fold(0.0, f64::max)
    };
    Kill {
        stall_s: longest(times.killed, times.started),
        stall_at_return_s: longest(times.started, times.healed),
        ..times.kill
    }
}

/// A volume is rewritten while one OSD is away. How soon it has everything again, and what it wrote for that.
pub fn resync(sandbox: &Sandbox, settings: &Settings, bytes: u64) -> Result<Verdict, BenchError> {
    let (cluster, mut library) = fresh(sandbox, settings, bytes)?;
    measure::fill(&mut library, true)?;
    let osds: Vec<u32> = cluster.osds().collect();
    let watcher = library.watcher();
    watcher.wait_in_sync(PATIENCE)?;
    let away = osds[osds.len() / 2];
    cluster.kill_osd(away)?;
    measure::fill(&mut library, true)?;
    let before = Snapshot::take(Some(&cluster));
    let begin = Instant::now();
    cluster.start_osd(away)?;
    let started = begin.elapsed().as_secs_f64();
    watcher.wait_for("getting all PGs in sync", PATIENCE, is_in_sync)?;
    let seconds = begin.elapsed().as_secs_f64();
    let usage = before.until(&Snapshot::take(Some(&cluster)), 0.0);
    cluster.wait_in_sync(PATIENCE)?;
    let index = osds.iter().position(|osd| *osd == away).unwrap_or(0);
    let written = usage.device_bytes_by_osd.as_ref().and_then(|by_osd| by_osd.get(index).copied());
    let ratio = written.map(|written| written as f64 / bytes as f64);
    let scrub = scrub(&cluster)?;
    let verified = begin.elapsed().as_secs_f64();
    // Nothing changed once more: an OSD that was only restarted has nothing to fetch.
    let restarted = restart_unchanged(&cluster, &watcher, away, index)?;
    let checked = verify_copies(&cluster, library, &watcher, away)?;
    let mib = bytes >> 20;
    let mut bars =
        vec![Bar::at_most(format!("resync: {mib} MiB rewritten, all in sync after"), seconds, RESYNC_BAR_S, "s")];
    bars.push(Bar::at_most("resync: inconsistencies that a deep scrub finds", scrub.inconsistencies, 0.0, ""));
    bars.extend(
        ratio.map(|ratio| Bar::at_most("resync: bytes written by that OSD / bytes changed", ratio, REWRITTEN_BAR, "x")),
    );
    let details = json!({ "resync": {
        "mib": mib, "seconds": seconds, "osd_up_after_s": started, "bytes_written_by_osd": written,
        "written_per_changed": ratio, "osd_cpu_seconds": usage.osds, "others_cores": usage.others_cores,
        "deep_scrub_seconds": scrub.seconds, "verified_by_scrub_after_s": verified, "deep_scrub": scrub.told,
        "restart_without_changes": restarted, "verified": checked,
    } });
    Ok(Verdict { bars, figures: Vec::new(), details })
}

struct Scrubbed {
    seconds: f64,
    /// Copies that differ, and damaged blocks, repaired or not: nobody has damaged anything.
    inconsistencies: f64,
    told: Value,
}

/// Compares all copies and reads them from the medium.
fn scrub(cluster: &Cluster) -> Result<Scrubbed, BenchError> {
    let begin = Instant::now();
    let told = cluster.ashlar(&["scrub", "--deep", "--wait"])?;
    let seconds = begin.elapsed().as_secs_f64();
    let count = |field: &str| told[field].as_f64().unwrap_or(f64::INFINITY);
    if told["done"] != told["pgs"] || told["chunks"].as_u64().unwrap_or(0) == 0 {
        return Err(BenchError::Wrong(format!("a deep scrub did not compare everything: {told}")));
    }
    Ok(Scrubbed { seconds, inconsistencies: count("mismatches") + count("bad_blocks"), told })
}

fn restart_unchanged(cluster: &Cluster, watcher: &Watcher, osd: u32, index: usize) -> Result<Value, BenchError> {
    cluster.kill_osd(osd)?;
    let is_without = |view: &ashlar_types::view::ClusterView| view.pgs.values().all(|pg| !pg.is_in_sync(OsdId(osd)));
    // Without writes nobody misses it before its heartbeats do.
    watcher.wait_for(&format!("going on without osd.{osd}"), PATIENCE, is_without)?;
    let before = Snapshot::take(Some(cluster));
    let begin = Instant::now();
    cluster.start_osd(osd)?;
    watcher.wait_in_sync(PATIENCE)?;
    let seconds = begin.elapsed().as_secs_f64();
    let usage = before.until(&Snapshot::take(Some(cluster)), 0.0);
    let written = usage.device_bytes_by_osd.as_ref().and_then(|by_osd| by_osd.get(index).copied());
    Ok(json!({ "seconds": seconds, "bytes_written_by_osd": written }))
}

/// Reads the whole volume with the copies of `away` alone, then checks all stores offline, block checksums included.
fn verify_copies(cluster: &Cluster, mut library: Library, watcher: &Watcher, away: u32) -> Result<Value, BenchError> {
    for osd in cluster.osds().filter(|osd| *osd != away) {
        cluster.kill_osd(osd)?;
        let is_without = |view: &ashlar_types::view::ClusterView| {
            view.pgs.values().all(|pg| pg.primary.is_some_and(|primary| primary.0 != osd))
        };
        watcher.wait_for(&format!("going on without osd.{osd}"), PATIENCE, is_without)?;
    }
    measure::read_back(&mut library)?;
    for osd in cluster.osds().filter(|osd| *osd != away) {
        cluster.start_osd(osd)?;
    }
    watcher.wait_in_sync(PATIENCE)?;
    measure::read_back(&mut library)?;
    library.detach()?;
    cluster.down()?;
    let mut checked = Vec::new();
    for (name, disk) in cluster.disks() {
        let told = cluster.ashlar(&["osd", "fsck", &disk.path.display().to_string()])?;
        checked.push(json!({ "osd": name, "fsck": told }));
    }
    Ok(json!({ "read_from_restarted_osd_alone": true, "fsck": checked }))
}

fn fresh(sandbox: &Sandbox, settings: &Settings, bytes: u64) -> Result<(Cluster, Library), BenchError> {
    let disks = Disks::make(sandbox, settings.medium, &settings.file_parent, 3, settings.osd_bytes, 1 << 20)?;
    let cluster = Cluster::up(sandbox, &settings.ashlar, &disks)?;
    let library = make_volume(&cluster, "bench", bytes)?;
    cluster.wait_in_sync(PATIENCE)?;
    Ok((cluster, library))
}
