//! The jobs, on the raw device, through the library and through NBD, each beside what it cost.

use crate::accounting::Snapshot;
use crate::cluster::Cluster;
use crate::contents::Contents;
use crate::disks::Disk;
use crate::error::BenchError;
use crate::fio;
use crate::library::Library;
use crate::load::{Job, Until};
use crate::progress;
use crate::report::{Latency, Path, Row};
use crate::sandbox::Sandbox;
use ashlar_types::BLOCK_BYTES;
use serde::Serialize;
use std::time::Duration;

pub const COPIES: usize = 3;
/// Size of the raw disk where none is measured.
pub const RAW_UNUSED: u64 = 1 << 20;
const MIB: u32 = 1 << 20;

/// After load, until what it leaves behind (checkpoints, discards) is done.
const CALM: Duration = Duration::from_secs(3);

/// What is measured: a block size, a direction and a depth.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub name: &'static str,
    pub is_write: bool,
    pub request_bytes: u32,
    pub depth: usize,
    pub random: bool,
}

const fn kind(name: &'static str, is_write: bool, request_bytes: u32, depth: usize) -> Kind {
    Kind { name, is_write, request_bytes, depth, random: request_bytes == BLOCK_BYTES }
}

pub const KINDS: [Kind; 6] = [
    kind("4k write QD1", true, BLOCK_BYTES, 1),
    kind("4k write QD32", true, BLOCK_BYTES, 32),
    kind("4k read QD1", false, BLOCK_BYTES, 1),
    kind("4k read QD32", false, BLOCK_BYTES, 32),
    kind("1M write QD8", true, MIB, 8),
    kind("1M read QD8", false, MIB, 8),
];

/// On the raw device only: what a durable write costs there.
pub const DURABLE: Kind = kind("4k write QD1 + fdatasync", true, BLOCK_BYTES, 1);

impl Kind {
    pub fn job(&self, volume_blocks: u64, time: Duration, verify: bool) -> Job {
        Job {
            write_percent: if self.is_write { 100 } else { 0 },
            request_bytes: self.request_bytes,
            depth: self.depth,
            rate: None,
            random: self.random,
            verify,
            blocks: 0..volume_blocks,
            until: Until::Elapsed(time),
            slow: Duration::from_secs(1),
            seed: u64::from(self.request_bytes) + self.depth as u64,
        }
    }

    fn fio_args(&self, bytes: u64, time: Duration) -> Vec<String> {
        let rw = match (self.random, self.is_write) {
            (true, true) => "randwrite",
            (true, false) => "randread",
            (false, true) => "write",
            (false, false) => "read",
        };
        vec![
            format!("--rw={rw}"),
            format!("--bs={}", self.request_bytes),
            format!("--iodepth={}", self.depth),
            format!("--size={bytes}"),
            format!("--runtime={}", time.as_secs().max(1)),
            "--time_based".to_owned(),
            "--randrepeat=0".to_owned(),
            "--norandommap".to_owned(),
        ]
    }
}

/// The raw device under fio's io_uring engine; written once before, so that reads find data.
pub fn raw(sandbox: &Sandbox, disk: &Disk, bytes: u64, time: Duration) -> Result<Vec<Row>, BenchError> {
    let device =
        ["--ioengine=io_uring".to_owned(), "--direct=1".to_owned(), format!("--filename={}", disk.path.display())];
    let fill: Vec<String> = ["--rw=write", "--bs=1M", "--iodepth=8"].map(str::to_owned).to_vec();
    fio::run(sandbox, &[&device[..], &fill, &[format!("--size={bytes}"), "--end_fsync=1".to_owned()]].concat())?;
    let mut rows = Vec::new();
    for kind in KINDS.iter().chain([&DURABLE]) {
        let mut args = [&device[..], &kind.fio_args(bytes, time)].concat();
        if kind.name == DURABLE.name {
            args.push("--fdatasync=1".to_owned());
        }
        rows.push(fio_row(sandbox, None, kind, Path::Raw, &args)?);
    }
    Ok(rows)
}

/// Through NBD, over the gateway's Unix socket.
pub fn nbd(cluster: &Cluster, uri: &str, bytes: u64, time: Duration) -> Result<Vec<Row>, BenchError> {
    let args = |kind: &Kind| [&nbd_device(uri)[..], &kind.fio_args(bytes, time)].concat();
    KINDS.iter().map(|kind| fio_row(cluster.sandbox(), Some(cluster), kind, Path::Nbd, &args(kind))).collect()
}

pub fn nbd_device(uri: &str) -> [String; 2] {
    ["--ioengine=nbd".to_owned(), format!("--uri={uri}")]
}

fn fio_row(
    sandbox: &Sandbox,
    cluster: Option<&Cluster>,
    kind: &Kind,
    path: Path,
    args: &[String],
) -> Result<Row, BenchError> {
    progress::say(&format!("{}: {}", path.name(), kind.name));
    let before = Snapshot::take(cluster);
    let outcome = fio::run(sandbox, args)?;
    let usage = before.until(&Snapshot::take(cluster), outcome.cpu_seconds);
    let row = Row::new(kind.name, path, kind.depth, outcome.requests, outcome.bytes, outcome.seconds, &usage);
    let writes = if kind.is_write { outcome.requests } else { 0 };
    Ok(Row { latency: Latency::from(&outcome), ..row.with_writes(writes, outcome.bytes, COPIES, &usage) })
}

/// Through the library, on a volume that was written whole.
pub fn library(cluster: &Cluster, library: &mut Library, time: Duration, verify: bool) -> Result<Vec<Row>, BenchError> {
    let mut rows = Vec::new();
    for kind in &KINDS {
        progress::say(&format!("{}: {}", Path::Library.name(), kind.name));
        let job = kind.job(library.blocks(), time, verify);
        rows.push(library_row(cluster, library, kind.name, job)?);
    }
    Ok(rows)
}

pub fn library_row(cluster: &Cluster, library: &mut Library, name: &str, job: Job) -> Result<Row, BenchError> {
    let (depth, request_bytes) = (job.depth, u64::from(job.request_bytes));
    let before = Snapshot::take(Some(cluster));
    let outcome = library.run(job)?;
    let usage = before.until(&Snapshot::take(Some(cluster)), 0.0);
    let bytes = outcome.requests() * request_bytes;
    let seconds = outcome.elapsed.as_secs_f64();
    let row = Row::new(name, Path::Library, depth, outcome.requests(), bytes, seconds, &usage);
    let row = row.with_writes(outcome.writes, outcome.writes * request_bytes, COPIES, &usage);
    Ok(Row { latency: Latency::from(&outcome), ..row })
}

/// Writes the whole volume, in order.
pub fn fill(library: &mut Library, verify: bool) -> Result<(), BenchError> {
    let requests = library.blocks() * u64::from(BLOCK_BYTES) / u64::from(MIB);
    library.run(sequential(true, library.blocks(), requests, verify)).map(|_| ())
}

/// Reads the whole volume and compares it with what it should hold.
pub fn read_back(library: &mut Library) -> Result<(), BenchError> {
    let requests = library.blocks() * u64::from(BLOCK_BYTES) / u64::from(MIB);
    library.run(sequential(false, library.blocks(), requests, true)).map(|_| ())
}

pub fn sequential(is_write: bool, blocks: u64, requests: u64, verify: bool) -> Job {
    Job {
        write_percent: if is_write { 100 } else { 0 },
        request_bytes: MIB,
        depth: 8,
        rate: None,
        random: false,
        verify,
        blocks: 0..blocks,
        until: Until::Requests(requests),
        slow: Duration::from_secs(1),
        seed: 1,
    }
}

/// Puts beside each row how it compares with the raw device.
pub fn compare(rows: &mut [Row]) {
    let raw: Vec<(String, f64)> =
        rows.iter().filter(|row| row.path == Path::Raw).map(|row| (row.job.clone(), row.iops)).collect();
    for row in rows.iter_mut().filter(|row| row.path != Path::Raw) {
        row.of_raw = raw.iter().find(|(job, _)| *job == row.job).map(|(_, iops)| row.iops / iops);
    }
}

/// What the cluster costs while nobody asks anything of it.
#[derive(Clone, Debug, Serialize)]
pub struct Idle {
    pub cores_all: f64,
    pub cores_osds: f64,
    pub cores_mds: f64,
    pub cores_gateway: f64,
}

pub fn idle(cluster: &Cluster, time: Duration) -> Idle {
    progress::say("idle");
    std::thread::sleep(CALM);
    let before = Snapshot::take(Some(cluster));
    std::thread::sleep(time);
    let usage = before.until(&Snapshot::take(Some(cluster)), 0.0);
    let cores = |seconds: f64| seconds / usage.seconds;
    Idle {
        cores_all: cores(usage.osds + usage.mds + usage.gateway),
        cores_osds: cores(usage.osds),
        cores_mds: cores(usage.mds),
        cores_gateway: cores(usage.gateway),
    }
}

/// A volume of the cluster, attached to the library.
pub fn make_volume(cluster: &Cluster, name: &str, bytes: u64) -> Result<Library, BenchError> {
    cluster.ashlar(&["volume", "create", name, "--size", &bytes.to_string()])?;
    let contents = Contents::new(std::process::id().into(), bytes / u64::from(BLOCK_BYTES));
    Library::attach(cluster.mds(), name, Some(contents))
}

/// Attaches a volume to the cluster's own gateway; the URI of its Unix socket.
pub fn attach_nbd(cluster: &Cluster, name: &str) -> Result<String, BenchError> {
    let told = cluster.ashlar(&["volume", "attach", name, "--nbd"])?;
    let uri = told["unix_uri"].as_str().map(str::to_owned);
    uri.ok_or_else(|| BenchError::Output { command: "ashlar volume attach".to_owned(), reason: told.to_string() })
}
