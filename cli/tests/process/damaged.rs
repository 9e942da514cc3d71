//! A disk that was damaged while its OSD was down: the daemon says what and where, destroys nothing, and has its peers repair it.

use crate::support::Cluster;
use crate::support::history::{BLOCK, History};
use crate::support::nbd::{CMD_WRITE_ZEROES, Nbd};
use crate::support::tools::wait_until;
use ashlar_osd_core::format::superblock::LOG_AT;
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// More zeroed blocks than this make an idle store write its index.
const ZEROED: u64 = 2048;

struct Damaged {
    cluster: Cluster,
    address: String,
    history: History,
}

impl Damaged {
    /// A cluster whose disks hold some data; OSD 1 will be damaged.
    fn new() -> Damaged {
        let cluster = Cluster::up(&[]);
        let address = cluster.volume("v", "64MiB").address;
        let mut damaged = Damaged { cluster, address, history: History::default() };
        damaged.write(3000);
        damaged
    }

    /// Blocks all over the first 16 MiB.
    fn write(&mut self, count: u64) {
        let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut nbd = Nbd::connect(&self.address, "v").expect("served");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                wait_until("enough is written", PATIENCE, || match written.load(Ordering::Relaxed) {
                    enough if enough >= count => Ok(()),
                    few => Err(format!("{few} writes")),
                });
                stop.store(true, Ordering::Relaxed);
            });
            self.history.write_until(&mut nbd, 0, 4096, &stop, &written).expect("OSDs that live serve the volume");
        });
    }

    fn disk(&self) -> PathBuf {
        let text = std::fs::read_to_string(self.cluster.dir().join("osd.1/config.toml")).expect("written by up");
        let line = text.lines().find_map(|line| line.strip_prefix("disk = ")).expect("it has a disk");
        line.trim_matches('"').into()
    }

    fn inspect(&self, what: &[&str]) -> Value {
        let disk = self.disk();
        let mut arguments = vec!["osd", "inspect", disk.to_str().expect("UTF-8")];
        arguments.extend(what);
        self.cluster.json(&arguments)
    }

    /// The block where a page of the index lies.
    fn an_index_page(&self) -> Option<u64> {
        let directory = self.inspect(&["directory"]);
        // "BLOCK@CHECKPOINT" for each quarter of a chunk that has one.
        let pages = directory["items"].as_array()?.iter().filter_map(|item| field(item, "index pages"));
        pages.flat_map(|text| text.split(' ')).find_map(|text| text.split_once('@')?.0.parse().ok())
    }

    fn flip(&self, at: u64) {
        let file = std::fs::File::options().read(true).write(true).open(self.disk()).expect("ours");
        let mut bytes = [0; 16];
        file.read_exact_at(&mut bytes, at).expect("within the disk");
        bytes.iter_mut().for_each(|byte| *byte ^= 0x40);
        file.write_all_at(&bytes, at).expect("within the disk");
    }

    /// The OSD starts and says `what`; it is repaired, and everything that was written is there.
    fn start_and_check(&mut self, what: &str) {
        self.cluster.ok(&["osd", "start", "1"]);
        let log = self.cluster.dir().join("logs/osd.1.log");
        wait_until("the damage is told", PATIENCE, || {
            let text = std::fs::read_to_string(&log).expect("the daemon writes it");
            let told = text.lines().any(|line| line.contains("WARN") && line.contains(what));
            if told { Ok(()) } else { Err(format!("no {what:?} in\n{text}")) }
        });
        self.cluster.wait_in_sync(PATIENCE);
        let address = self.address.clone();
        let check = |history: &mut History| {
            let mut nbd = Nbd::connect(&address, "v").expect("served");
            history.check(&mut nbd).unwrap_or_else(|wrong| panic!("{wrong}"));
        };
        check(&mut self.history);
        // With another member away, the repaired one has to have it all.
        self.cluster.ok(&["osd", "kill", "2"]);
        check(&mut self.history);
        self.cluster.ok(&["osd", "start", "2"]);
        self.cluster.wait_in_sync(PATIENCE);
        self.cluster.ok(&["down"]);
        self.cluster.fsck_all();
    }
}

/// A field of one of the things that `inspect` lists.
fn field<'a>(item: &'a Value, name: &str) -> Option<&'a str> {
    let fields = item["fields"].as_array()?;
    fields.iter().find(|field| field[0] == name).and_then(|field| field[1].as_str())
}

fn number(item: &Value, name: &str) -> u64 {
    field(item, name).and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{name} in {item}"))
}

#[test]
fn a_damaged_log_is_told_and_repaired_from_peers() {
    let mut damaged = Damaged::new();
    damaged.cluster.ok(&["osd", "kill", "1"]);
    let superblocks = damaged.inspect(&["superblock"]);
    let log_bytes = number(&superblocks["items"][0], "log bytes");
    let log = damaged.inspect(&["log"]);
    let batches: Vec<&Value> =
        log["items"].as_array().expect("a list").iter().filter(|item| field(item, "position").is_some()).collect();
    assert!(batches.len() > 20, "{} batches", batches.len());
    // Of the last ones nobody could tell whether they were durable.
    let batch = batches[batches.len() / 2];
    let position = number(batch, "position");
    damaged.flip(LOG_AT + position % log_bytes + 100);
    // The tools say so too, and read only.
    let disk = damaged.disk();
    let verdict = damaged.cluster.run(&["osd", "fsck", disk.to_str().expect("UTF-8")]);
    assert!(!verdict.ok && verdict.stdout.contains(&format!("position {position}")), "{verdict:?}");
    // Meanwhile the others go on.
    damaged.write(500);
    damaged.start_and_check(&format!("at position {position} is damaged"));
}

#[test]
fn a_damaged_index_page_is_told_and_repaired_from_peers() {
    let mut damaged = Damaged::new();
    // Zeroes at a place of their own, so that the index is written.
    let mut nbd = Nbd::connect(&damaged.address, "v").expect("served");
    for block in (0..ZEROED).step_by(256) {
        let offset = (32 << 20) + block * BLOCK as u64;
        nbd.write(offset, &vec![1; 256 * BLOCK]).expect("connected").expect("written");
        nbd.send(CMD_WRITE_ZEROES, 0, offset, 256 * BLOCK as u32, &[]).expect("connected");
        assert_eq!(nbd.receive().expect("connected").1, 0);
    }
    nbd.disconnect();
    wait_until("an index page is written", PATIENCE, || {
        damaged.an_index_page().map(|_| ()).ok_or_else(|| "none yet".to_owned())
    });
    damaged.cluster.ok(&["osd", "kill", "1"]);
    // Asked again: it may have moved.
    let page = damaged.an_index_page().expect("an index that was written stays written");
    damaged.flip(page * BLOCK as u64 + 1000);
    let disk = damaged.disk();
    let verdict = damaged.cluster.run(&["osd", "fsck", disk.to_str().expect("UTF-8")]);
    assert!(!verdict.ok && verdict.stdout.contains(&format!("block {page}")), "{verdict:?}");
    damaged.write(500);
    damaged.start_and_check(&format!("at block {page} is damaged"));
}
