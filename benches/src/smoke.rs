//! A few seconds over everything that the measurements use. Right or wrong is asserted, time isn't.

use crate::accept::Verdict;
use crate::cluster::Cluster;
use crate::disks::Disks;
use crate::error::BenchError;
use crate::figures::Figure;
use crate::fio;
use crate::layers;
use crate::library::create_volumes;
use crate::load::{Job, Until};
use crate::load_command;
use crate::measure::{self, attach_nbd, make_volume, nbd_device};
use crate::report::{Row, table};
use crate::sandbox::Sandbox;
use crate::scaling;
use crate::settings::{LoadArgs, Settings, StoreArgs};
use crate::size;
use crate::store_core;
use ashlar_types::BLOCK_BYTES;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const VOLUME_BYTES: u64 = 64 * MIB;
const OSD_BYTES: u64 = 1 << 30;
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(sandbox: &Sandbox, settings: &Settings) -> Result<(), BenchError> {
    let keep = sandbox.len();
    one_cluster(sandbox, settings)?;
    sandbox.clean_to(keep);
    let time = Duration::from_millis(300);
    let shape = scaling::Shape {
        clients: vec![1, 2],
        volumes: vec![2, 8],
        depth_per_client: 8,
        depth_per_volume: 4,
        set_bytes: 16 * MIB,
        osd_bytes: OSD_BYTES,
        rounds: 1,
        time,
        verify: true,
    };
    check_figures(&scaling::run(sandbox, settings, &shape)?, 2)?;
    sandbox.clean_to(keep);
    let shape = size::Shape {
        osd_bytes: 256 * MIB,
        volume_bytes: 16 * MIB,
        volumes: 200,
        full_percent: 50.0,
        overwrites: 1,
        rounds: 1,
        time,
        verify: true,
    };
    check_figures(&size::run(sandbox, settings, &shape)?, 4)?;
    sandbox.clean_to(keep);
    check_layers(&layers::run(sandbox, settings, &layers::Shape::smoke())?)?;
    let args = StoreArgs {
        capacity: 512 * MIB,
        log: 4 * MIB,
        index_cache: MIB,
        warm_up_writes: 1000,
        writes: 10_000,
        ..StoreArgs::default()
    };
    check_figures(&store_core::run(&args.into())?, 1)?;
    println!("smoke: all data was right");
    Ok(())
}

/// Load of every kind on one cluster, also while an OSD is killed and comes back.
fn one_cluster(sandbox: &Sandbox, settings: &Settings) -> Result<(), BenchError> {
    let disks = Disks::make(sandbox, settings.medium, &settings.file_parent, 3, OSD_BYTES, VOLUME_BYTES)?;
    let cluster = Cluster::up(sandbox, &settings.ashlar, &disks)?;
    let mut library = make_volume(&cluster, "smoke", VOLUME_BYTES)?;
    println!("contents: new blocks are zeroes, what is written is read");
    measure::read_back(&mut library)?;
    measure::fill(&mut library, true)?;
    let mut rows: Vec<Row> = Vec::new();
    for (name, write_percent, request_bytes, depth) in [
        ("4k mixed QD1", 50, BLOCK_BYTES, 1),
        ("4k mixed QD32", 70, BLOCK_BYTES, 32),
        ("64k mixed QD8", 50, 16 * BLOCK_BYTES, 8),
    ] {
        let job = mixed(write_percent, request_bytes, depth, library.blocks());
        rows.push(measure::library_row(&cluster, &mut library, name, job)?);
    }
    check_accounting(&rows)?;
    println!("an OSD is killed under load and comes back");
    let osds: Vec<u32> = cluster.osds().collect();
    let victim = osds[0];
    let (killed, outcome) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            cluster.kill_osd(victim)
        });
        let job = Job { until: Until::Elapsed(Duration::from_secs(2)), ..mixed(70, BLOCK_BYTES, 32, library.blocks()) };
        let outcome = library.run(job);
        (killer.join(), outcome)
    });
    killed.map_err(|_| BenchError::Wrong("the killing thread panicked".to_owned()))??;
    outcome?;
    cluster.start_osd(victim)?;
    cluster.wait_in_sync(PATIENCE)?;
    measure::read_back(&mut library)?;
    library.detach()?;
    println!("fio over NBD, verified");
    let uri = attach_nbd(&cluster, "smoke")?;
    let mut args = nbd_device(&uri).to_vec();
    args.extend(["--rw=randwrite", "--bs=4k", "--iodepth=16", "--size=16M", "--verify=crc32c"].map(str::to_owned));
    fio::run(sandbox, &args)?;
    println!("several clients and volumes, at a rate");
    let names = ["load-a", "load-b"].map(str::to_owned).to_vec();
    create_volumes(cluster.mds(), names.clone(), 16 * MIB)?;
    let mds = cluster.mds().first().cloned().unwrap_or_default();
    load_command::run(sandbox, &loads(mds, names), 1)?;
    cluster.down()?;
    print!("{}", table(&rows));
    Ok(())
}

fn mixed(write_percent: u32, request_bytes: u32, depth: usize, blocks: u64) -> Job {
    Job {
        write_percent,
        request_bytes,
        depth,
        rate: None,
        random: true,
        verify: true,
        blocks: 0..blocks,
        until: Until::Elapsed(Duration::from_secs(1)),
        slow: Duration::from_secs(1),
        seed: u64::from(write_percent),
    }
}

fn loads(mds: String, volume: Vec<String>) -> LoadArgs {
    LoadArgs {
        mds,
        volume,
        request_size: u64::from(BLOCK_BYTES),
        depth: 8,
        write_percent: 70,
        sequential: false,
        rate: Some(500),
        clients: 2,
        size: Some(24 * MIB),
        verify: true,
    }
}

fn check_figures(verdict: &Verdict, count: usize) -> Result<(), BenchError> {
    match verdict.figures.len() == count && verdict.figures.iter().all(Figure::is_measured) {
        true => Ok(()),
        false => Err(BenchError::Wrong(format!("figures are missing: {:?}", verdict.figures))),
    }
}

/// Two of them are counts of disks, which nobody counts where they are files in RAM.
fn check_layers(verdict: &Verdict) -> Result<(), BenchError> {
    check_figures(verdict, verdict.figures.len().max(20))
}

/// What the figures stand on: requests were made, processes were found, disks counted.
fn check_accounting(rows: &[Row]) -> Result<(), BenchError> {
    let is_whole = |row: &Row| {
        let bytes = row.device_bytes_per_client_byte_per_copy;
        row.iops > 0.0 && row.cpu.osds > 0.0 && row.cpu.client > 0.0 && bytes.is_none_or(|bytes| bytes >= 1.0)
    };
    match rows.iter().find(|row| !is_whole(row)) {
        Some(row) => Err(BenchError::Wrong(format!("the accounting of {:?} is not plausible: {row:?}", row.job))),
        None => Ok(()),
    }
}
