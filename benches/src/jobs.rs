//! The jobs on one kind of disks, all beside the raw disk, and what they come to.

use crate::accept::Verdict;
use crate::accounting;
use crate::ceph::{self, Ceph};
use crate::cluster::Cluster;
use crate::disks::{Disks, Medium, RAM};
use crate::error::BenchError;
use crate::figures::{Figure, Subject};
use crate::measure::{self, Idle};
use crate::report::{self, Path, Row};
use crate::sandbox::Sandbox;
use crate::settings::Settings;
use serde_json::{Value, json};
use std::time::Duration;

const MIB: f64 = (1 << 20) as f64;

#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub raw: bool,
    pub nbd: bool,
    pub verify: bool,
}

impl Wanted {
    pub fn all() -> Wanted {
        Wanted { raw: true, nbd: true, verify: false }
    }
}

/// Name, bytes now, bytes at most.
type Memory = Vec<(String, u64, u64)>;

pub fn run(sandbox: &Sandbox, settings: &Settings, wanted: &Wanted) -> Result<Verdict, BenchError> {
    let keep = sandbox.len();
    let time = Duration::from_secs(settings.seconds);
    let bytes = settings.volume_bytes;
    let disks =
        Disks::make(sandbox, settings.medium, &settings.file_parent, measure::COPIES, settings.osd_bytes, bytes)?;
    println!("\n== three OSDs, three copies, on {}; load {}", disks.description, accounting::load_average());
    let mut rows = if wanted.raw { measure::raw(sandbox, &disks.raw, bytes, time)? } else { Vec::new() };
    let cluster = Cluster::up(sandbox, &settings.ashlar, &disks)?;
    let mut library = measure::make_volume(&cluster, "bench", bytes)?;
    measure::fill(&mut library, wanted.verify)?;
    let idle = measure::idle(&cluster, time.min(Duration::from_secs(5)));
    rows.extend(measure::library(&cluster, &mut library, time, wanted.verify)?);
    library.detach()?;
    if wanted.nbd {
        let uri = measure::attach_nbd(&cluster, "bench")?;
        rows.extend(measure::nbd(&cluster, &uri, bytes, time)?);
    }
    let memory = cluster.memory();
    cluster.down()?;
    // Ceph's disks take the memory that ours have.
    sandbox.clean_to(keep);
    let ceph = vs_ceph(sandbox, settings)?;
    rows.extend(ceph.iter().flat_map(|ceph| ceph.rows.iter().cloned()));
    measure::compare(&mut rows);
    print(&rows, &idle, &memory);
    // What is wanted is wanted of disks in RAM: of others it says nothing.
    let figures = match settings.medium {
        Medium::Ram => figures(&rows, &idle, &memory, ceph.and_then(|ceph| ceph.osd_mib)),
        Medium::File => Vec::new(),
    };
    let memory: Vec<Value> =
        memory.iter().map(|(name, now, most)| json!({ "daemon": name, "bytes": now, "bytes_most": most })).collect();
    let details = json!({ "disks": disks.description, "rows": rows, "idle": idle, "memory": memory });
    Ok(Verdict { bars: Vec::new(), figures, details })
}

/// Beside disks in RAM, whatever ours are on otherwise.
fn vs_ceph(sandbox: &Sandbox, settings: &Settings) -> Result<Option<Ceph>, BenchError> {
    let Some(scripts) = settings.ceph_scripts.as_deref().filter(|_| settings.medium == Medium::Ram) else {
        return Ok(None);
    };
    let shape = ceph::Shape {
        osds: measure::COPIES,
        osd_bytes: settings.osd_bytes,
        volume_bytes: settings.volume_bytes,
        seconds: settings.seconds,
    };
    ceph::measure(sandbox, scripts, std::path::Path::new(RAM), &shape).map(Some)
}

fn print(rows: &[Row], idle: &Idle, memory: &Memory) {
    print!("{}", report::table(rows));
    println!(
        "cpu us/io: of all processes, client included; kernel: kernel threads of the machine; others: processors busy with other work"
    );
    println!(
        "idle: {:.4} cores ({:.4} OSDs, {:.4} mds, {:.4} gateway)",
        idle.cores_all, idle.cores_osds, idle.cores_mds, idle.cores_gateway
    );
    for (name, now, most) in memory {
        println!("memory: {name} {:.0} MiB, at most {:.0}", *now as f64 / MIB, *most as f64 / MIB);
    }
}

/// The library's rows beside those of the raw device, and NBD's beside the library's.
fn figures(rows: &[Row], idle: &Idle, memory: &Memory, ceph_osd_mib: Option<f64>) -> Vec<Figure> {
    let find = |path: Path, job: &str| rows.iter().find(|row| row.path == path && row.job == job);
    let mut figures = Vec::new();
    let mut add = |subject: Subject, job: &str, raw_job: &str, value: fn(&Row) -> Option<f64>| {
        let row = find(Path::Library, job);
        figures.extend(row.and_then(|row| Some(Figure::new(subject, value(row)?, row.disturbance()))).map(|figure| {
            let raw = find(Path::Raw, raw_job);
            figure.beside_raw(raw.and_then(value)).beside_ceph(find(Path::Ceph, job).and_then(value))
        }));
    };
    let durable = measure::DURABLE.name;
    add(Subject::CpuWrite, "4k write QD32", "4k write QD32", |row| Some(row.cpu.all));
    add(Subject::CpuRead, "4k read QD32", "4k read QD32", |row| Some(row.cpu.all));
    add(Subject::IopsWrite, "4k write QD32", "4k write QD32", |row| Some(row.iops));
    add(Subject::IopsRead, "4k read QD32", "4k read QD32", |row| Some(row.iops));
    // A write of ours is durable, so it stands beside one of the device that is.
    add(Subject::WallWrite, "4k write QD1", durable, |row| Some(row.wall_us()));
    add(Subject::WallRead, "4k read QD1", "4k read QD1", |row| Some(row.wall_us()));
    add(Subject::SpeedWrite, "1M write QD8", "1M write QD8", |row| Some(row.mb_per_s));
    add(Subject::SpeedRead, "1M read QD8", "1M read QD8", |row| Some(row.mb_per_s));
    // The raw device writes what it is given.
    let device_bytes = |row: &Row| match row.path {
        Path::Raw => Some(1.0),
        _ => row.device_bytes_per_client_byte_per_copy,
    };
    add(Subject::DeviceBytesQd1, "4k write QD1", durable, device_bytes);
    add(Subject::DeviceBytesQd32, "4k write QD32", "4k write QD32", device_bytes);
    add(Subject::DeviceBytes1M, "1M write QD8", "1M write QD8", device_bytes);
    // A checkpoint flushes too, a few times in thousands of writes: that isn't on a write's way.
    add(Subject::FlushesQd1, "4k write QD1", durable, |row| match row.path {
        Path::Raw => Some(1.0),
        _ => row.flushes_per_write_per_copy.map(|flushes| (flushes * 10.0).round() / 10.0),
    });
    let most = |daemon: &str| {
        let of = memory.iter().filter(|(name, ..)| name.starts_with(daemon));
        of.map(|(_, _, most)| *most as f64 / MIB).reduce(f64::max)
    };
    figures.extend(most("osd").map(|most| Figure::new(Subject::MemoryOsd, most, 0.0).beside_ceph(ceph_osd_mib)));
    let nbd = |job: &str| find(Path::Nbd, job);
    // A gateway that served nothing says nothing.
    let gateway = most("gateway").filter(|_| nbd("1M read QD8").is_some());
    figures.extend(gateway.map(|most| Figure::new(Subject::MemoryGateway, most, 0.0)));
    figures.push(Figure::new(Subject::Idle, idle.cores_all, 0.0));
    for (subject, job) in [(Subject::NbdAddedWrite, "4k write QD1"), (Subject::NbdAddedRead, "4k read QD1")] {
        let Some((nbd, library)) = nbd(job).zip(find(Path::Library, job)) else { continue };
        let others = nbd.disturbance().max(library.disturbance());
        figures.push(Figure::new(subject, nbd.wall_us() - library.wall_us(), others));
    }
    figures.extend(nbd("4k read QD32").map(|row| {
        let raw = find(Path::Raw, "4k read QD32").map(|raw| raw.iops);
        Figure::new(Subject::NbdIopsRead, row.iops, row.disturbance()).beside_raw(raw)
    }));
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::Usage;
    use crate::figures::Judgement;

    fn row(job: &str, path: Path, requests: u64, others_cores: f64) -> Row {
        let usage = Usage {
            seconds: 1.0,
            osds: requests as f64 * 50e-6,
            device_bytes: Some(requests * 4096 * 6),
            flushes: Some(requests * 3 + 10),
            others_cores,
            ..Usage::default()
        };
        let row = Row::new(job, path, 1, requests, requests * 4096, 1.0, &usage);
        if path == Path::Raw { row } else { row.with_writes(requests, requests * 4096, 3, &usage) }
    }

    #[test]
    fn each_figure_stands_beside_its_row_of_the_raw_device() {
        let rows = [
            row("4k write QD1", Path::Raw, 60_000, 0.0),
            row(measure::DURABLE.name, Path::Raw, 20_000, 0.0),
            row("4k write QD1", Path::Library, 10_000, 0.0),
            row("4k write QD32", Path::Library, 40_000, 0.2),
            row("4k write QD1", Path::Nbd, 8_000, 0.0),
        ];
        let idle = Idle { cores_all: 0.005, cores_osds: 0.0, cores_mds: 0.0, cores_gateway: 0.0 };
        let figures =
            figures(&rows, &idle, &vec![("osd.1".to_owned(), 1, 100 << 20), ("osd.2".to_owned(), 1, 1)], None);
        let judged = |subject: Subject| figures.iter().find(|figure| figure.subject == subject).map(|f| f.judgement);
        assert_eq!(judged(Subject::WallWrite), Some(Judgement::Least), "100 us");
        assert_eq!(judged(Subject::IopsWrite), Some(Judgement::NotJudged));
        assert_eq!(judged(Subject::CpuWrite), Some(Judgement::Least), "50 us, whatever others did");
        assert_eq!(judged(Subject::DeviceBytesQd1), Some(Judgement::Goal));
        assert_eq!(judged(Subject::FlushesQd1), Some(Judgement::Goal), "a checkpoint's are let pass");
        assert_eq!(judged(Subject::MemoryOsd), Some(Judgement::Goal), "100 MiB");
        assert_eq!(judged(Subject::NbdAddedWrite), Some(Judgement::Least), "125 us instead of 100");
        assert_eq!(judged(Subject::NbdAddedRead), None);
        let wall = serde_json::to_value(figures.iter().find(|figure| figure.subject == Subject::WallWrite));
        let of_raw = wall.expect("plain data")["of_raw"].as_f64().expect("measured");
        assert!((of_raw - 2.0).abs() < 1e-9, "100 us beside the 50 of a durable write: {of_raw}");
    }
}
