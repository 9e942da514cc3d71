//! `ashlar-bench`: one command that measures a cluster of its own beside the raw disk and prints one table, and JSON.
//!
//! - [`jobs`] and [`measure`] have the jobs, [`ceph`] puts another system beside them, [`accept`] has the acceptance measurements.
//! - [`scaling`], [`size`] and [`store_core`] say how cost grows with a cluster; [`layers`] measures snapshots and clones; [`smoke`] is the short run for CI.
//! - [`figures`] says what is wanted of each figure, and judges.
//! - [`load`] makes the load over the library, [`contents`] knows what a volume should hold; [`load_command`] does so on others' clusters.
//! - [`accounting`] says what it cost, [`sandbox`] takes everything away again.

#![forbid(unsafe_code)]

mod accept;
mod accounting;
mod ceph;
mod cluster;
mod contents;
mod disks;
mod error;
mod figures;
mod fio;
mod jobs;
mod joined;
mod layers;
mod library;
mod load;
mod load_command;
mod measure;
mod noise;
mod process;
mod progress;
mod report;
mod sandbox;
mod scaling;
mod settings;
mod size;
mod smoke;
mod store_core;

/// The one of the gateway, since the client code that is measured runs here.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

use accept::Verdict;
use disks::Medium;
use error::BenchError;
use figures::{Figure, Judgement};
use jobs::Wanted;
use sandbox::Sandbox;
use serde_json::{Value, json};
use settings::{Command, CommandLine, Common, Settings, StoreArgs};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    let sandbox = match Sandbox::guarded() {
        Ok(sandbox) => sandbox,
        Err(error) => return failed(&error),
    };
    let result = run(&sandbox, command_line);
    sandbox.clean();
    match (sandbox.signal(), result) {
        // What was under way was ended by that, and failed for no other reason.
        (Some(signal), _) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
        (None, Ok(())) => ExitCode::SUCCESS,
        (None, Err(error)) => failed(&error),
    }
}

fn failed(error: &BenchError) -> ExitCode {
    eprintln!("ashlar-bench: {error}");
    ExitCode::FAILURE
}

fn run(sandbox: &Sandbox, CommandLine { common, command }: CommandLine) -> Result<(), BenchError> {
    if let Some(Command::Load(args)) = &command {
        return load_command::run(sandbox, args, common.seconds);
    }
    let settings = settings(sandbox, &common)?;
    if common.smoke {
        return smoke::run(sandbox, &settings);
    }
    println!("{}", machine_line());
    let mut report = json!({ "machine": machine(), "seconds_per_job": common.seconds });
    let mut bars = Vec::new();
    let mut figures: Vec<Figure> = Vec::new();
    let mut take = |name: &str, verdict: Verdict| {
        if !verdict.bars.is_empty() {
            print!("{}", report::bars(&verdict.bars));
        }
        report[name] = json!({ "bars": verdict.bars, "figures": verdict.details, "judged": verdict.figures });
        bars.extend(verdict.bars);
        figures.extend(verdict.figures);
    };
    let keep = sandbox.len();
    match command.unwrap_or(Command::All) {
        Command::All => {
            let media = common.medium.map_or(vec![Medium::Ram, Medium::File], |medium| vec![medium]);
            for medium in media {
                let verdict = jobs::run(sandbox, &Settings { medium, ..settings.clone() }, &Wanted::all())?;
                take(&format!("jobs on {medium:?}").to_lowercase(), verdict);
                sandbox.clean_to(keep);
            }
            take("scaling", scaling::run(sandbox, &settings, &scaling::Shape::whole(&settings, 3))?);
            sandbox.clean_to(keep);
            take("size", size::run(sandbox, &settings, &size::Shape::whole(&settings, 10_000, 10, 3))?);
            sandbox.clean_to(keep);
            take("store", store_core::run(&StoreArgs::default().into())?);
            take("start", accept::start(sandbox, &settings)?);
            sandbox.clean_to(keep);
            take("kill-stall", accept::kill_stall(sandbox, &settings, 20)?);
            sandbox.clean_to(keep);
            take("resync", accept::resync(sandbox, &settings, 1 << 30)?);
        }
        Command::Jobs { no_nbd, no_raw, verify } => {
            take("jobs", jobs::run(sandbox, &settings, &Wanted { nbd: !no_nbd, raw: !no_raw, verify })?);
        }
        Command::KillStall { kills } => take("kill-stall", accept::kill_stall(sandbox, &settings, kills as usize)?),
        Command::Resync { bytes } => take("resync", accept::resync(sandbox, &settings, bytes)?),
        Command::Start => take("start", accept::start(sandbox, &settings)?),
        Command::Scaling { rounds } => {
            let shape = scaling::Shape::whole(&settings, rounds as usize);
            take("scaling", scaling::run(sandbox, &settings, &shape)?);
        }
        Command::Size { volumes, overwrites, rounds } => {
            let shape = size::Shape::whole(&settings, volumes, overwrites, rounds as usize);
            take("size", size::run(sandbox, &settings, &shape)?);
        }
        Command::Layers(args) => {
            take("layers", layers::run(sandbox, &settings, &layers::Shape::whole(&settings, &args))?)
        }
        Command::Store(args) => take("store", store_core::run(&args.into())?),
        Command::Load(_) => unreachable!("done above"),
    }
    if !figures.is_empty() {
        println!("\n== what is wanted, and what is");
        print!("{}", figures::table(&figures));
    }
    write_json(&common, &report)?;
    let missed_figures = figures.iter().filter(|figure| figure.judgement == Judgement::Missed).map(Figure::name);
    let missed: Vec<&str> =
        bars.iter().filter(|bar| !bar.met).map(|bar| bar.what.as_str()).chain(missed_figures).collect();
    if common.assert && !missed.is_empty() {
        return Err(BenchError::Missed(missed.join("; ")));
    }
    Ok(())
}

fn settings(sandbox: &Sandbox, common: &Common) -> Result<Settings, BenchError> {
    let ceph_scripts = common.vs_ceph.then(|| common.peers.clone());
    ceph_scripts.as_deref().map_or(Ok(()), ceph::check)?;
    Ok(Settings {
        ashlar: find_ashlar(sandbox, common)?,
        medium: common.medium.unwrap_or(Medium::Ram),
        file_parent: common.file_parent.clone().unwrap_or_else(std::env::temp_dir),
        osd_bytes: common.osd_size,
        volume_bytes: common.volume_size,
        seconds: common.seconds,
        ceph_scripts,
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
        // The folder has the profile's name, but for that of `dev`.
        if let Some(profile) = own.parent().and_then(|folder| folder.file_name()).filter(|name| *name != "debug") {
            command.arg("--profile").arg(profile);
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
