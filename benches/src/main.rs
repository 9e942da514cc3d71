//! `ashlar-bench`: one command that measures a cluster of its own beside the raw disk and prints one table, and JSON.
//!
//! - [`measure`] has the jobs, [`accept`] the acceptance measurements, [`smoke`] the short run for CI.
//! - [`load`] makes the load over the library, [`contents`] knows what a volume should hold.
//! - [`accounting`] says what it cost, [`sandbox`] takes everything away again.

#![forbid(unsafe_code)]

mod accept;
mod accounting;
mod cluster;
mod contents;
mod disks;
mod error;
mod fio;
mod joined;
mod library;
mod load;
mod load_command;
mod measure;
mod process;
mod progress;
mod report;
mod sandbox;
mod settings;
mod smoke;

/// The one of the gateway, since the client code that is measured runs here.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

use accept::Verdict;
use cluster::Cluster;
use disks::{Disks, Medium};
use error::BenchError;
use report::{Bar, Path, Row};
use sandbox::Sandbox;
use serde_json::{Value, json};
use settings::{Command, CommandLine, Common, Settings};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    let result = Sandbox::guarded().and_then(|sandbox| {
        let result = run(&sandbox, command_line);
        sandbox.clean();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ashlar-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(sandbox: &Sandbox, CommandLine { common, command }: CommandLine) -> Result<(), BenchError> {
    if let Some(Command::Load(args)) = &command {
        return load_command::run(args, common.seconds);
    }
    let settings = settings(sandbox, &common)?;
    if common.smoke {
        return smoke::run(sandbox, &settings);
    }
    println!("{}", machine_line());
    let mut report = json!({ "machine": machine(), "seconds_per_job": common.seconds });
    let mut bars = Vec::new();
    let mut take = |name: &str, verdict: Verdict| {
        print!("{}", report::bars(&verdict.bars));
        report[name] = json!({ "bars": verdict.bars, "figures": verdict.details });
        bars.extend(verdict.bars);
    };
    let keep = sandbox.len();
    match command.unwrap_or(Command::All) {
        Command::All => {
            let media = common.medium.map_or(vec![Medium::Ram, Medium::File], |medium| vec![medium]);
            for medium in media {
                let verdict = jobs(sandbox, &Settings { medium, ..settings.clone() }, &Wanted::all())?;
                take(&format!("jobs on {medium:?}").to_lowercase(), verdict);
                sandbox.clean_to(keep);
            }
            take("start", accept::start(sandbox, &settings)?);
            sandbox.clean_to(keep);
            take("kill-stall", accept::kill_stall(sandbox, &settings, 20)?);
            sandbox.clean_to(keep);
            take("resync", accept::resync(sandbox, &settings, 1 << 30)?);
        }
        Command::Jobs { no_nbd, no_raw, verify } => {
            take("jobs", jobs(sandbox, &settings, &Wanted { nbd: !no_nbd, raw: !no_raw, verify })?);
        }
        Command::KillStall { kills } => take("kill-stall", accept::kill_stall(sandbox, &settings, kills as usize)?),
        Command::Resync { bytes } => take("resync", accept::resync(sandbox, &settings, bytes)?),
        Command::Start => take("start", accept::start(sandbox, &settings)?),
        Command::Load(_) => unreachable!("done above"),
    }
    write_json(&common, &report)?;
    let missed: Vec<&str> = bars.iter().filter(|bar| !bar.met).map(|bar| bar.what.as_str()).collect();
    if common.assert && !missed.is_empty() {
        return Err(BenchError::Missed(missed.join("; ")));
    }
    Ok(())
}

fn settings(sandbox: &Sandbox, common: &Common) -> Result<Settings, BenchError> {
    Ok(Settings {
        ashlar: find_ashlar(sandbox, common)?,
        medium: common.medium.unwrap_or(Medium::Ram),
        file_parent: common.file_parent.clone().unwrap_or_else(std::env::temp_dir),
        osd_bytes: common.osd_size,
        volume_bytes: common.volume_size,
        seconds: common.seconds,
    })
}

/// The binary beside this one. Under `cargo run`, cargo builds it first, so that both are of the same source.
fn find_ashlar(sandbox: &Sandbox, common: &Common) -> Result<PathBuf, BenchError> {
    if let Some(path) = &common.ashlar {
        return std::path::absolute(path).map_err(BenchError::file("find", path));
    }
    let own = std::env::current_exe().map_err(BenchError::file("find", "this program"))?;
    let beside = own.with_file_name("ashlar");
    if let (Some(cargo), Some(package)) = (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR")) {
        let mut command = std::process::Command::new(cargo);
        command.args(["build", "--quiet", "--package", "ashlar"]).current_dir(package);
        if own.parent().and_then(|folder| folder.file_name()).is_some_and(|name| name == "release") {
            command.arg("--release");
        }
        sandbox.run(&mut command)?;
    }
    match beside.exists() {
        true => Ok(beside),
        false => Err(BenchError::Wrong(format!(
            "{} does not exist; build it with `cargo build --release`, or name it with --ashlar",
            beside.display()
        ))),
    }
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    raw: bool,
    nbd: bool,
    verify: bool,
}

impl Wanted {
    fn all() -> Wanted {
        Wanted { raw: true, nbd: true, verify: false }
    }
}

/// The jobs on one kind of disks.
fn jobs(sandbox: &Sandbox, settings: &Settings, wanted: &Wanted) -> Result<Verdict, BenchError> {
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
    measure::compare(&mut rows);
    let memory = cluster.memory();
    print!("{}", report::table(&rows));
    println!(
        "cpu us/io: of all processes, client included; kernel: kernel threads of the machine; others: processors busy with other work"
    );
    println!(
        "idle: {:.4} cores ({:.4} OSDs, {:.4} mds, {:.4} gateway)",
        idle.cores_all, idle.cores_osds, idle.cores_mds, idle.cores_gateway
    );
    let in_mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for (name, now, most) in &memory {
        println!("memory: {name} {:.0} MiB, at most {:.0}", in_mib(*now), in_mib(*most));
    }
    let bars = bars_of_issue_2(&rows, &memory);
    let memory: Vec<Value> =
        memory.iter().map(|(name, now, most)| json!({ "daemon": name, "bytes": now, "bytes_most": most })).collect();
    cluster.down()?;
    let details = json!({ "disks": disks.description, "rows": rows, "idle": idle, "memory": memory });
    Ok(Verdict { bars, details })
}

fn bars_of_issue_2(rows: &[Row], memory: &[(String, u64, u64)]) -> Vec<Bar> {
    let mut bars = Vec::new();
    let name = |path: Path| if path == Path::Library { "library" } else { "NBD" };
    for path in [Path::Library, Path::Nbd] {
        let find = |job: &str| rows.iter().find(|row| row.path == path && row.job == job);
        let label = |text: &str| format!("{}: {text}", name(path));
        if let Some(row) = find("4k write QD1") {
            bars.push(Bar::at_most(label("4k write QD1, wall"), row.wall_us(), 250.0, "us"));
        }
        if let Some(row) = find("4k write QD32") {
            bars.push(Bar::at_least(label("4k write QD32"), row.iops, 10_000.0, "IOPS"));
            let bytes = row.device_bytes_per_client_byte_per_copy;
            bars.extend(bytes.map(|b| Bar::at_most(label("device bytes per byte and copy, QD32"), b, 2.5, "x")));
        }
        if let Some(row) = find("4k read QD32") {
            bars.push(Bar::at_least(label("4k read QD32"), row.iops, 40_000.0, "IOPS"));
        }
    }
    let most = memory.iter().filter(|(name, ..)| name.starts_with("osd")).map(|(_, _, most)| *most).max();
    bars.extend(
        most.map(|most| Bar::at_most("memory per OSD, at most", most as f64 / f64::from(1 << 20), 150.0, "MiB")),
    );
    bars
}

fn write_json(common: &Common, report: &Value) -> Result<(), BenchError> {
    let Some(path) = &common.json else { return Ok(()) };
    std::fs::write(path, format!("{report:#}\n")).map_err(BenchError::file("write", path))
}

fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let memory = read("/proc/meminfo").lines().next().and_then(|line| {
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib as f64 / f64::from(1 << 20))
    });
    json!({
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "memory_gib": memory,
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_average": accounting::load_average(),
    })
}

fn machine_line() -> String {
    let machine = machine();
    format!(
        "{} processors, {:.0} GiB, Linux {}, load {}",
        machine["processors"],
        machine["memory_gib"].as_f64().unwrap_or(0.0),
        machine["kernel"].as_str().unwrap_or("?"),
        machine["load_average"].as_str().unwrap_or("?"),
    )
}
