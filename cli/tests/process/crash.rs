//! Everything dies at once: by SIGKILL, which keeps the page cache, and by a power loss, which doesn't. Every acknowledged
//! write is there afterwards.

use crate::support::Cluster;
use crate::support::cluster::Daemons;
use crate::support::history::History;
use crate::support::nbd::Nbd;
use crate::support::tools::{rounds, skipped, wait_until};
use ashlar_powerloss::{Mounted, Options, PowerLossFs};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const WRITERS: u64 = 4;
const BLOCKS_PER_WRITER: u64 = 2000;
/// Acknowledged writes before the lights go out.
const WRITES_BEFORE: u64 = 3000;

/// Lets writers write until `crash`, which breaks their connections. Histories say what must be there.
fn crash_under_load(address: &str, histories: &mut [History], crash: impl FnOnce()) {
    let written = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (writer, history) in (0..).zip(histories.iter_mut()) {
            let (written, stop, failures) = (&written, &stop, &failures);
            scope.spawn(move || {
                let mut nbd = match Nbd::connect(address, "v") {
                    Ok(nbd) => nbd,
                    Err(error) => return failures.lock().expect("no panics").push(error.to_string()),
                };
                let before = history.acknowledged();
                // Ends with an error: that is what the crash is for.
                let _ = history.write_until(&mut nbd, writer * BLOCKS_PER_WRITER, BLOCKS_PER_WRITER, stop, written);
                assert!(history.acknowledged() >= before);
            });
        }
        wait_until("enough is written", Duration::from_secs(60), || match written.load(Ordering::Relaxed) {
            enough if enough >= WRITES_BEFORE => Ok(()),
            few => Err(format!("{few} writes; {:?}", failures.lock().expect("no panics"))),
        });
        crash();
        stop.store(true, Ordering::Relaxed);
    });
}

fn check_all(address: &str, histories: &mut [History]) -> Result<(), String> {
    let mut nbd = Nbd::connect(address, "v").map_err(|error| error.to_string())?;
    histories.iter_mut().try_for_each(|history| history.check(&mut nbd))
}

#[test]
fn everything_killed_under_load_loses_no_acknowledged_write() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "64MiB");
    let mut histories: Vec<History> = (0..WRITERS).map(|_| History::default()).collect();
    for round in 0..2 * rounds() {
        crash_under_load(&volume.address, &mut histories, || cluster.kill_everything());
        cluster.up_again(&[]);
        check_all(&volume.address, &mut histories)
            .unwrap_or_else(|lost| panic!("round {round}: {lost}\n{}", cluster.logs()));
    }
    cluster.wait_in_sync(Duration::from_secs(60));
    cluster.ok(&["down"]);
    cluster.fsck_all();
}

/// A disk that can lose its power, if this machine can mount one.
fn power_loss_disk(test: &str, at: &Path) -> Option<Mounted> {
    std::fs::create_dir_all(at).expect("ours");
    match PowerLossFs::new(Options::default()).mount(at) {
        Ok(mounted) => Some(mounted),
        Err(error) => {
            skipped(test, &error.to_string());
            None
        }
    }
}

/// A cluster whose OSD disks and metadata lie below `disks`.
fn cluster_on(cluster: &Cluster, disks: &Path) {
    cluster.keep_ports();
    let mds = disks.join("mds.1");
    std::fs::create_dir(&mds).expect("ours");
    std::os::unix::fs::symlink(&mds, cluster.dir().join("mds.1")).expect("ours");
    let paths: Vec<String> = (1..=3)
        .map(|n| {
            let path = disks.join(format!("disk-{n}"));
            let file = std::fs::File::create(&path).expect("ours");
            file.set_len(1 << 30).and_then(|()| file.sync_all()).expect("sparse");
            path.display().to_string()
        })
        .collect();
    cluster.up_again(&["--disk", &paths[0], "--disk", &paths[1], "--disk", &paths[2]]);
}

#[test]
fn a_power_loss_under_load_loses_no_acknowledged_write() {
    let test = "a_power_loss_under_load_loses_no_acknowledged_write";
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disks = folder.path().join("disks");
    let Some(mounted) = power_loss_disk(test, &disks) else { return };
    // Dropped before the disks.
    let cluster = Cluster::nothing();
    cluster_on(&cluster, &disks);
    let volume = cluster.volume("v", "64MiB");
    let mut histories: Vec<History> = (0..WRITERS).map(|_| History::default()).collect();
    for seed in 0..3 * rounds() {
        let mut report = None;
        crash_under_load(&volume.address, &mut histories, || {
            report = Some(mounted.power_loss(seed));
            cluster.kill_everything();
        });
        mounted.power_on();
        let report = report.expect("the power was lost");
        cluster.up_again(&[]);
        check_all(&volume.address, &mut histories)
            .unwrap_or_else(|lost| panic!("seed {seed}: {lost}\n{report}\n{}", cluster.logs()));
    }
    cluster.wait_in_sync(Duration::from_secs(60));
    cluster.ok(&["down"]);
    cluster.fsck_all();
}

/// The OSDs of a cluster, replaced by ones that never flush.
fn without_flushes(cluster: &Cluster, program: &Path) -> Daemons {
    let mut daemons = Daemons::default();
    for id in ["1", "2", "3"] {
        cluster.ok(&["osd", "kill", id]);
        let log = std::fs::File::create(cluster.dir().join(format!("logs/no-flush-{id}.log"))).expect("ours");
        let config = std::fs::read_to_string(cluster.dir().join(format!("osd.{id}/config.toml")));
        let config = config.expect("written by up");
        // Its old port may be somebody's by now.
        let others = config.lines().filter(|line| !line.starts_with("listen = "));
        let config: Vec<&str> = others.chain(["listen = \"127.0.0.1:0\""]).collect();
        let path = cluster.dir().join(format!("no-flush-{id}.toml"));
        std::fs::write(&path, config.join("\n")).expect("ours");
        daemons.start(id, std::process::Command::new(program).arg(path).stderr(log));
    }
    cluster.wait_in_sync(Duration::from_secs(60));
    daemons
}

#[test]
fn a_power_loss_finds_the_osd_that_does_not_flush() {
    let test = "a_power_loss_finds_the_osd_that_does_not_flush";
    let program = crate::support::cluster::binary().with_file_name("examples").join("osd_no_flush");
    if !program.exists() {
        return skipped(test, "the example osd_no_flush is not built; `cargo test` without --test builds it");
    }
    // Whatever is lost, within a few tries it has to show.
    for seed in 0..5 {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disks = folder.path().join("disks");
        let Some(mounted) = power_loss_disk(test, &disks) else { return };
        let cluster = Cluster::nothing();
        cluster_on(&cluster, &disks);
        let volume = cluster.volume("v", "64MiB");
        let mut daemons = without_flushes(&cluster, &program);
        let mut histories: Vec<History> = (0..WRITERS).map(|_| History::default()).collect();
        crash_under_load(&volume.address, &mut histories, || {
            mounted.power_loss(seed);
            cluster.kill_everything();
            daemons.kill_all();
        });
        mounted.power_on();
        // Honest daemons again: either a disk is beyond them, or an acknowledged write is gone.
        if !cluster.run(&["up"]).ok || check_all(&volume.address, &mut histories).is_err() {
            return;
        }
    }
    panic!("five power losses without a flush went unnoticed");
}
