//! `ashlar scrub` on real disks: it reads everything, finds what is damaged, has it repaired, and outlives every process.

use crate::support::Cluster;
use crate::support::nbd::Nbd;
use crate::support::tools::wait_until;
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const BLOCK: usize = 4096;
const CHUNK: u64 = 4 << 20;
const CHUNKS: u64 = 16;

/// A volume with something in each of its chunks.
fn written(cluster: &Cluster) {
    let volume = cluster.volume("v", "64MiB");
    let mut nbd = Nbd::connect(&volume.address, "v").expect("the export is served");
    for chunk in 0..CHUNKS {
        let block = [chunk as u8 + 1; BLOCK];
        nbd.write(chunk * CHUNK + 8 * BLOCK as u64, &block).expect("connected").expect("written");
    }
    nbd.disconnect();
    cluster.wait_in_sync(Duration::from_secs(30));
}

fn disk_of(cluster: &Cluster, osd: u32) -> PathBuf {
    cluster.dir().join(format!("osd.{osd}/disk"))
}

/// Where on its disk a stopped OSD keeps the first block that was written: in bytes. Of the last ones a disk could not know that they
/// were durable.
fn place_of(cluster: &Cluster, disk: &Path) -> u64 {
    let blocks = cluster.json(&["osd", "inspect", &disk.display().to_string(), "chunk", "1/0"]);
    let fields = blocks["items"][0]["fields"].as_array().unwrap_or_else(|| panic!("no fields in {blocks}"));
    let present = fields.iter().filter_map(|field| field[1].as_str()?.strip_prefix("at block "));
    let number = present.filter_map(|text| text.split(',').next()?.parse::<u64>().ok()).next();
    number.unwrap_or_else(|| panic!("no block in {blocks}")) * BLOCK as u64
}

fn flip(disk: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(disk).expect("ours");
    let mut block = [0; BLOCK];
    file.read_exact_at(&mut block, at).expect("within the disk");
    assert!(block.iter().any(|byte| *byte != 0), "there is data at {at}");
    block[100..110].iter_mut().for_each(|byte| *byte ^= 0xff);
    file.write_all_at(&block, at).and_then(|()| file.sync_all()).expect("ours");
}

fn pgs(cluster: &Cluster) -> Value {
    cluster.status()["pgs"]["total"].clone()
}

#[test]
fn a_deep_scrub_compares_every_chunk_and_status_remembers_it() {
    let cluster = Cluster::up(&[]);
    written(&cluster);
    let scrub = cluster.json(&["scrub", "--deep", "--wait"]);
    assert_eq!((&scrub["chunks"], &scrub["done"]), (&Value::from(CHUNKS), &pgs(&cluster)), "{scrub}");
    assert_eq!((&scrub["mismatches"], &scrub["bad_blocks"]), (&Value::from(0), &Value::from(0)), "{scrub}");
    let status = cluster.status();
    assert_eq!((&status["healthy"], &status["scrub"]["to_go"]), (&Value::from(true), &Value::from(0)), "{status}");
    let of_pgs = status["scrub"]["pgs"].as_array().expect("a list");
    assert!(of_pgs.iter().all(|pg| pg["last_deep"]["copies"] == 3 && pg["last_deep"]["ended_at"] != 0), "{status}");
    assert!(cluster.ok(&["status"]).contains("deep: all within"));
    let light = cluster.json(&["scrub", "--pool", "default", "--wait"]);
    assert_eq!((&light["chunks"], &light["deep"]), (&Value::from(CHUNKS), &Value::from(false)), "{light}");
    let one = cluster.json(&["scrub", "--pg", "pg.1.0", "--wait"]);
    assert_eq!(one["done"], 1, "{one}");
    let line = cluster.fails(&["scrub", "--pool", "none"]);
    assert!(line.contains("pool \"none\" does not exist"), "{line}");
    let line = cluster.fails(&["scrub", "--osd", "9"]);
    assert!(line.contains("osd.9"), "{line}");
}

#[test]
fn a_damaged_block_is_found_and_repaired_from_another_copy() {
    let cluster = Cluster::up(&[]);
    written(&cluster);
    cluster.ok(&["osd", "kill", "2"]);
    let disk = disk_of(&cluster, 2);
    flip(&disk, place_of(&cluster, &disk));
    cluster.ok(&["osd", "start", "2"]);
    cluster.wait_in_sync(Duration::from_secs(30));
    let scrub = cluster.json(&["scrub", "--deep", "--wait"]);
    assert_eq!((&scrub["bad_blocks"], &scrub["repaired_blocks"]), (&Value::from(1), &Value::from(1)), "{scrub}");
    let again = cluster.json(&["scrub", "--deep", "--osd", "2", "--wait"]);
    assert_eq!((&again["bad_blocks"], &again["mismatches"]), (&Value::from(0), &Value::from(0)), "{again}");
    assert_eq!(cluster.status()["healthy"], true);
    cluster.ok(&["down"]);
    cluster.fsck_all();
}

#[test]
fn damage_that_no_copy_can_mend_fails_the_scrub_and_shows_in_status() {
    let cluster = Cluster::up(&["--osds", "1"]);
    written(&cluster);
    cluster.ok(&["osd", "kill", "1"]);
    let disk = disk_of(&cluster, 1);
    flip(&disk, place_of(&cluster, &disk));
    cluster.ok(&["osd", "start", "1"]);
    cluster.wait_in_sync(Duration::from_secs(30));
    let ran = cluster.run(&["scrub", "--deep", "--wait", "--json"]);
    assert!(!ran.ok && ran.stderr.contains("inconsistencies are left in pg.1."), "{ran:?}");
    assert!(ran.stdout.contains("\"unrepaired_blocks\":1"), "{ran:?}");
    let status = cluster.status();
    assert_eq!(status["healthy"], false);
    assert!(
        status["problems"][0]["what"].as_str().is_some_and(|what| what.contains("damaged blocks are left")),
        "{status}"
    );
}

#[test]
fn a_wish_outlives_every_process_and_can_be_withdrawn() {
    let cluster = Cluster::up(&[]);
    written(&cluster);
    ["1", "2", "3"].iter().for_each(|osd| drop(cluster.ok(&["osd", "kill", osd])));
    let asked = cluster.json(&["scrub", "--deep"]);
    assert_eq!(asked["pgs"], pgs(&cluster));
    let withdrawn = cluster.json(&["scrub", "--cancel"]);
    assert_eq!(withdrawn["withdrawn"], asked["pgs"]);
    assert_eq!(cluster.status()["scrub"]["to_go"], 0);
    cluster.ok(&["scrub", "--deep"]);
    cluster.kill_everything();
    cluster.up_again(&[]);
    wait_until("not scrubbed", Duration::from_secs(60), || {
        let scrub = &cluster.status()["scrub"];
        let all_deep = scrub["pgs"].as_array().is_some_and(|pgs| pgs.iter().all(|pg| pg["last_deep"]["number"] == 2));
        if scrub["to_go"] == 0 && all_deep { Ok(()) } else { Err(scrub["to_go"].to_string()) }
    });
}
