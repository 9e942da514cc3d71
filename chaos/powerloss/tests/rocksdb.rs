//! RocksDB on the file system: the metadata service's store keeps what it synced, whatever a power loss does to the rest.
//! The writer is a process of its own (this test binary again), as RocksDB may abort when its disk goes away.

mod support;

use ashlar_powerloss::{NewFileEntry, Options, PowerLossFs};
use rocksdb::{DB, WriteOptions};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::fuse_is_missing;

/// Tells the child where its store is and with which record to go on.
const CHILD_STORE: &str = "POWERLOSS_TEST_STORE";
const CHILD_FIRST: &str = "POWERLOSS_TEST_FIRST";

fn open(path: &Path) -> Result<DB, rocksdb::Error> {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    // Small, so that a short run also writes tables and manifests, and changes logs.
    options.set_write_buffer_size(64 << 10);
    options.set_max_total_wal_size(256 << 10);
    DB::open(&options, path)
}

fn value(record: u64) -> Vec<u8> {
    vec![record as u8; 500]
}

#[test]
#[ignore = "the child process of the other tests; does nothing by itself"]
fn child_writes_until_the_power_fails() {
    let Ok(store) = std::env::var(CHILD_STORE) else { return };
    let first: u64 = std::env::var(CHILD_FIRST).expect("set beside the store").parse().expect("a number");
    let Ok(db) = open(Path::new(&store)) else { return }; // the power may fail before it is open
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    for record in first.. {
        if db.put_opt(record.to_be_bytes(), value(record), &synced).is_err() {
            return;
        }
        println!("acknowledged {record}");
    }
}

/// Runs the child until the armed loss stops it; gives the last record it acknowledged, if any.
fn write_until_loss(store: &Path, first: u64) -> Option<u64> {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "child_writes_until_the_power_fails", "--ignored", "--nocapture"])
        .env(CHILD_STORE, store)
        .env(CHILD_FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the child starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let last = lines
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("acknowledged ").and_then(|record| record.parse().ok()))
        .last();
    child.wait().expect("it ends, one way or another");
    last
}

struct Outcome {
    acknowledged: u64,
    /// Why the store broke its promise.
    broken: Option<String>,
}

/// Three losses in a row on one disk.
fn run(seed: u64, options: Options, honour_sync: bool) -> Outcome {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mounted = PowerLossFs::new(options).mount(folder.path()).expect("root or fusermount3 can mount");
    mounted.fs().honour_sync(honour_sync);
    let store = folder.path().join("store");
    let mut acknowledged = 0;
    for round in 0..3 {
        mounted.fs().arm((seed * 131 + round * 977) % 2500, seed + round);
        acknowledged = write_until_loss(&store, acknowledged + 1).unwrap_or(acknowledged);
        mounted.fs().wait_for_loss(Duration::from_secs(10)).expect("it stopped the child");
        mounted.power_on();
        if acknowledged == 0 {
            continue;
        }
        let broken = match open(&store) {
            Err(error) => Some(error.to_string()),
            Ok(db) => (1..=acknowledged)
                .find(|record| !matches!(db.get(record.to_be_bytes()), Ok(Some(found)) if found == value(*record)))
                .map(|record| format!("record {record} of {acknowledged}")),
        };
        if broken.is_some() {
            return Outcome { acknowledged, broken };
        }
    }
    Outcome { acknowledged, broken: None }
}

#[test]
fn synced_records_survive_even_where_only_directory_syncs_keep_names() {
    if fuse_is_missing() {
        return;
    }
    let mut acknowledged = 0;
    for seed in 0..12 {
        let entry = if seed % 2 == 0 { NewFileEntry::WithFile } else { NewFileEntry::WithDirectory };
        let outcome = run(seed, Options { new_file_entry: entry, ..Options::default() }, true);
        assert_eq!(outcome.broken, None, "seed {seed}");
        acknowledged += outcome.acknowledged;
    }
    assert!(acknowledged > 1000, "{acknowledged}");
}

#[test]
fn a_disk_that_lies_about_syncs_is_caught() {
    if fuse_is_missing() {
        return;
    }
    let caught = (0..4).filter(|&seed| run(seed + 5, Options::default(), false).broken.is_some()).count();
    assert!(caught >= 3, "{caught} of 4");
}
