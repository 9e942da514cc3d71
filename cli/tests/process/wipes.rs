//! Deleting securely through the programs that people use, and then looking for what was written on the disks themselves.

use crate::support::Cluster;
use crate::support::nbd::Nbd;
use crate::support::tools::wait_until;
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

pub const MIB: u64 = 1 << 20;
const SECRET: &[u8; 16] = b"a secret 7f3a91c";

pub fn secret(len: u64) -> Vec<u8> {
    SECRET.iter().copied().cycle().take(len as usize).collect()
}

fn disks(cluster: &Cluster) -> Vec<PathBuf> {
    let disk = |n: u32| cluster.dir().join(format!("osd.{n}")).join("disk");
    (1..=3).map(disk).collect()
}

/// Blocks on all disks that begin with what was written.
pub fn secrets_on_disks(cluster: &Cluster) -> u64 {
    let count = |path: PathBuf| {
        let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let len = file.metadata().expect("a file").len();
        let mut found = 0;
        let mut piece = vec![0; MIB as usize];
        for at in (0..len / MIB * MIB).step_by(MIB as usize) {
            file.read_exact_at(&mut piece, at).expect("within the file");
            found += piece.chunks_exact(4096).filter(|block| block.starts_with(SECRET)).count() as u64;
        }
        found
    };
    disks(cluster).into_iter().map(count).sum()
}

/// Written, overwritten, discarded in part, and with a snapshot: its blocks lie in all kinds of places.
fn write_secrets(cluster: &Cluster, name: &str) {
    let volume = cluster.volume(name, "64MiB");
    let mut nbd = Nbd::connect(&volume.address, name).expect("served");
    for round in 0..2 {
        for at in (0..8 * MIB).step_by(1 << 20) {
            nbd.write(at, &secret(MIB)).expect("connected").expect("written");
        }
        if round == 0 {
            cluster.ok(&["snapshot", "create", &format!("{name}@s")]);
        }
    }
    nbd.write(0, &vec![0; 1 << 20]).expect("connected").expect("written");
    nbd.flush().expect("connected").expect("flushed");
    nbd.disconnect();
    cluster.ok(&["volume", "detach", name]);
}

fn wipe_of(cluster: &Cluster, id: &str) -> Value {
    cluster.json(&["wipe", "show", id])
}

#[test]
fn nothing_of_a_volume_that_is_deleted_securely_is_left_on_any_disk() {
    let cluster = Cluster::up(&["--osd-size", "1GiB"]);
    write_secrets(&cluster, "v");
    write_secrets(&cluster, "w");
    assert!(secrets_on_disks(&cluster) > 3 * 2 * 2048, "they are on the disks");
    assert!(cluster.fails(&["volume", "delete", "v", "--secure"]).contains("--snapshots"));
    // Deleted as usual, long before: its blocks are free, and nobody's.
    cluster.ok(&["volume", "delete", "w", "--snapshots", "--now"]);
    let said = cluster.ok(&["volume", "delete", "v", "--secure", "--snapshots"]);
    assert!(said.contains("volume v is wiped: 3 OSDs overwrote and read back"), "{said}");
    assert_eq!(secrets_on_disks(&cluster), 0);
    let listed = cluster.json(&["wipe", "list"]);
    assert_eq!((&listed[0]["volume"], &listed[0]["state"]), (&json!("v"), &json!("done")));
    let overwritten = |osd: &Value| osd["overwritten"].as_u64().expect("told") >= 16 * MIB;
    let osds = listed[0]["osds"].as_array().expect("a list");
    assert!(osds.len() == 3 && osds.iter().all(overwritten), "{listed}");
    // The record outlives everybody.
    cluster.kill_everything();
    cluster.up_again(&[]);
    assert_eq!(wipe_of(&cluster, "1")["state"], "done");
    assert!(cluster.status()["healthy"].as_bool().expect("said"));
    cluster.ok(&["wipe", "forget", "wipe.1"]);
    assert_eq!(cluster.json(&["wipe", "list"]), json!([]));
    cluster.kill_everything();
    cluster.fsck_all();
}

#[test]
fn an_osd_that_was_away_wipes_when_it_is_back_and_one_that_dies_in_the_middle_begins_anew() {
    let cluster = Cluster::up(&["--osd-size", "1GiB"]);
    write_secrets(&cluster, "v");
    cluster.ok(&["osd", "kill", "3"]);
    wait_until("it is known to be down", Duration::from_secs(30), || {
        let osds = cluster.status()["osds"].clone();
        if osds[2]["up"] == false { Ok(()) } else { Err(osds.to_string()) }
    });
    let said = cluster.ok(&["volume", "delete", "v", "--secure", "--snapshots", "--no-wait"]);
    assert!(said.contains("(wipe.1)"), "{said}");
    cluster.ok(&["osd", "kill", "2"]);
    cluster.ok(&["osd", "start", "2"]);
    wait_until("both that are there have wiped", Duration::from_secs(60), || {
        let wipe = wipe_of(&cluster, "wipe.1");
        let done = |n: usize| wipe["osds"][n]["ended_at"].is_u64();
        if done(0) && done(1) { Ok(()) } else { Err(wipe.to_string()) }
    });
    assert_eq!(wipe_of(&cluster, "wipe.1")["state"], "wiping");
    let status = cluster.ok(&["status"]);
    assert!(status.contains("wipe.1 (volume v) waits for osd.3, down now"), "{status}");
    assert!(cluster.fails(&["wipe", "forget", "1"]).contains("waits for osd.3"));
    assert!(secrets_on_disks(&cluster) > 0, "what is on the disk of the one that is away");
    cluster.ok(&["osd", "start", "3"]);
    wait_until("it has wiped too", Duration::from_secs(60), || {
        let wipe = wipe_of(&cluster, "wipe.1");
        if wipe["state"] == "done" { Ok(()) } else { Err(wipe.to_string()) }
    });
    assert_eq!(secrets_on_disks(&cluster), 0);
    cluster.wait_in_sync(Duration::from_secs(30));
}

#[test]
fn what_a_clone_shares_is_wiped_when_the_clone_is_gone() {
    let cluster = Cluster::up(&["--osd-size", "1GiB"]);
    write_secrets(&cluster, "v");
    cluster.ok(&["volume", "clone", "v@s", "c"]);
    let said = cluster.ok(&["volume", "delete", "v", "--secure", "--snapshots"]);
    assert!(said.contains("clones stand on it (1), and it is wiped when the last is gone (wipe.1)"), "{said}");
    let export = cluster.attach(&["c"]);
    let mut nbd = Nbd::connect(&export.address, "c").expect("served");
    assert_eq!(nbd.read(MIB, 4096).expect("connected").expect("read"), secret(4096));
    nbd.disconnect();
    cluster.ok(&["volume", "detach", "c"]);
    cluster.ok(&["volume", "delete", "c", "--now"]);
    wait_until("it is wiped", Duration::from_secs(60), || {
        let wipe = wipe_of(&cluster, "wipe.1");
        if wipe["state"] == "done" { Ok(()) } else { Err(wipe.to_string()) }
    });
    assert_eq!(secrets_on_disks(&cluster), 0);
}
