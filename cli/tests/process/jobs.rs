//! Jobs on a real cluster: clones that are flattened and volumes that are zeroed, while they are used and while daemons die.

use crate::support::Cluster;
use crate::support::cluster::{Export, signal};
use crate::support::nbd::Nbd;
use crate::support::tools::wait_until;
use rustix::process::Signal;
use serde_json::Value;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(60);

fn connect(export: &Export) -> Nbd {
    let name = export.uri.rsplit('/').next().expect("a name");
    Nbd::connect(&export.address, name).expect("served")
}

fn write(nbd: &mut Nbd, at: u64, number: u8, len: u64) {
    nbd.write(at, &vec![number; len as usize]).expect("connected").expect("written");
}

/// The bytes of each block that differ from the first, or the first.
fn numbers(nbd: &mut Nbd, at: u64, len: u64) -> Vec<u8> {
    let data = nbd.read(at, u32::try_from(len).expect("small")).expect("connected").expect("read");
    let mut numbers: Vec<u8> = data.chunks(BLOCK as usize).map(|block| block[0]).collect();
    assert!(data.chunks(BLOCK as usize).all(|block| block.iter().all(|byte| *byte == block[0])), "whole blocks");
    numbers.dedup();
    numbers
}

/// With `golden@base` of 64 MiB, of which 48 MiB have a number by each MiB; and a clone of it, `clone`.
fn with_clone() -> Cluster {
    let cluster = Cluster::up(&[]);
    let golden = cluster.volume("golden", "64MiB");
    let mut nbd = connect(&golden);
    for mib in 0..48 {
        write(&mut nbd, mib * MIB, mib as u8 + 1, MIB);
    }
    nbd.disconnect();
    cluster.ok(&["volume", "detach", "golden"]);
    cluster.ok(&["snapshot", "create", "golden@base"]);
    cluster.ok(&["volume", "clone", "golden@base", "clone"]);
    cluster
}

fn jobs(cluster: &Cluster) -> Vec<Value> {
    cluster.json(&["job", "list"]).as_array().expect("a list").clone()
}

fn wait_for_jobs(cluster: &Cluster) {
    wait_until("a job doesn't end", PATIENCE, || match jobs(cluster) {
        jobs if jobs.is_empty() => Ok(()),
        jobs => Err(format!("{jobs:?}")),
    });
}

/// It has done something, and has something left.
fn wait_for_the_middle(cluster: &Cluster) -> u64 {
    let mut position = 0;
    wait_until("the job is not at work", PATIENCE, || {
        let jobs = jobs(cluster);
        position = jobs.first().and_then(|job| job["position"].as_u64()).ok_or("it is over")?;
        if position > 0 { Ok(()) } else { Err(format!("{jobs:?}")) }
    });
    position
}

fn origin(cluster: &Cluster, volume: &str) -> Value {
    cluster.json(&["volume", "show", volume])["origin"].clone()
}

#[test]
fn a_clone_is_flattened_while_it_is_written_and_its_origin_can_go() {
    let cluster = with_clone();
    let export = cluster.attach(&["clone"]);
    let mut nbd = connect(&export);
    write(&mut nbd, 3 * MIB, 200, 8 * BLOCK);
    cluster.ok(&["snapshot", "create", "clone@before"]);
    cluster.ok(&["volume", "flatten", "clone", "--rate", "12MiB", "--no-wait"]);
    // The guest goes on: over what is filled, and before that.
    let mut written = Vec::new();
    let mut at = 0;
    while !jobs(&cluster).is_empty() {
        at = (at * 5 + 7) % (48 * 256);
        write(&mut nbd, at * BLOCK, 201, BLOCK);
        nbd.write(at * BLOCK + 512, &[202; 512]).expect("connected").expect("written");
        written.push(at);
    }
    assert!(written.len() > 20, "it took its time");
    assert!(origin(&cluster, "clone").is_null());
    cluster.ok(&["volume", "delete", "golden", "--snapshots"]);
    wait_until("the origin is kept", PATIENCE, || match cluster.status()["volumes_kept"].as_u64() {
        Some(0) => Ok(()),
        kept => Err(format!("{kept:?}")),
    });
    let mut before = connect(&cluster.attach(&["clone@before"]));
    for mib in 0..64u64 {
        let number = if mib < 48 { mib as u8 + 1 } else { 0 };
        if mib != 3 {
            assert_eq!(numbers(&mut before, mib * MIB, MIB), [number], "the snapshot is as it was");
        }
        for block in mib * 256..(mib + 1) * 256 {
            let data = nbd.read(block * BLOCK, BLOCK as u32).expect("connected").expect("read");
            let is_old = mib == 3 && block % 256 < 8;
            let (number, hole) = match written.contains(&block) {
                true => (201, 202),
                false if is_old => (200, 200),
                false => (number, number),
            };
            assert!(data[..512].iter().chain(&data[1024..]).all(|byte| *byte == number), "block {block}");
            assert!(data[512..1024].iter().all(|byte| *byte == hole), "block {block}");
        }
    }
}

/// Sizes are multiples of 512: the last block of an origin may be its own in part only.
#[test]
fn a_clone_whose_origin_ends_inside_of_a_block_is_flattened() {
    let cluster = Cluster::up(&[]);
    for (name, size) in [("small", MIB + 512), ("large", 4 * MIB + 5632)] {
        let export = cluster.volume(name, &size.to_string());
        let mut nbd = connect(&export);
        write(&mut nbd, 0, 9, size);
        nbd.disconnect();
        cluster.ok(&["volume", "detach", name]);
        let (base, clone) = (format!("{name}@base"), format!("{name}-clone"));
        cluster.ok(&["snapshot", "create", &base]);
        cluster.ok(&["volume", "clone", &base, &clone]);
        cluster.ok(&["volume", "extend", &clone, "--size", "8MiB"]);
        cluster.ok(&["volume", "flatten", &clone]);
        assert!(origin(&cluster, &clone).is_null());
        let mut nbd = connect(&cluster.attach(&[&clone]));
        let data = nbd.read(0, 8 * MIB as u32).expect("connected").expect("read");
        let (own, beyond) = data.split_at(size as usize);
        assert!(own.iter().all(|byte| *byte == 9), "{name} is as it was");
        assert!(beyond.iter().all(|byte| *byte == 0), "{name} has nothing behind it");
        nbd.disconnect();
    }
}

#[test]
fn a_flatten_outlives_its_gateway_an_osd_and_the_metadata_service() {
    let cluster = with_clone();
    cluster.ok(&["volume", "flatten", "clone", "--rate", "4MiB", "--no-wait"]);
    for daemon in ["gateway", "osd.2", "mds.1"] {
        let position = wait_for_the_middle(&cluster);
        let (_, pid) = cluster
            .pids()
            .into_iter()
            .find(|(name, _)| name.starts_with(daemon))
            .unwrap_or_else(|| panic!("{daemon} runs"));
        signal(pid, Signal::KILL);
        cluster.up_again(&[]);
        wait_until("the job doesn't go on", PATIENCE, || {
            let jobs = jobs(&cluster);
            let now = jobs.first().and_then(|job| job["position"].as_u64()).ok_or("it is over")?;
            assert!(now >= position, "what was done is done");
            if now > position { Ok(()) } else { Err(format!("{jobs:?}")) }
        });
    }
    cluster.ok(&["job", "rate", "job.1", "none"]);
    wait_for_jobs(&cluster);
    assert!(origin(&cluster, "clone").is_null());
    cluster.ok(&["volume", "delete", "golden", "--snapshots"]);
    let mut nbd = connect(&cluster.attach(&["clone"]));
    for mib in 0..64 {
        assert_eq!(numbers(&mut nbd, mib * MIB, MIB), [if mib < 48 { mib as u8 + 1 } else { 0 }]);
    }
}

#[test]
fn a_job_is_paused_resumed_and_given_up() {
    let cluster = with_clone();
    cluster.ok(&["volume", "flatten", "clone", "--rate", "4MiB", "--no-wait"]);
    wait_for_the_middle(&cluster);
    cluster.ok(&["job", "pause", "job.1"]);
    let position = jobs(&cluster)[0]["position"].clone();
    let paused = jobs(&cluster).remove(0);
    assert_eq!((&paused["state"], &paused["paused"]), (&Value::from("paused"), &Value::from(true)));
    assert!(cluster.ok(&["job", "show", "job.1"]).contains("`ashlar job resume job.1` goes on"));
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(jobs(&cluster)[0]["position"], position);
    cluster.ok(&["job", "resume", "job.1"]);
    wait_until("it doesn't go on", PATIENCE, || match jobs(&cluster).remove(0) {
        job if job["position"].as_u64() > position.as_u64() => Ok(()),
        job => Err(job.to_string()),
    });
    assert!(cluster.ok(&["status"]).contains("flattening"));
    cluster.ok(&["job", "cancel", "1"]);
    wait_for_jobs(&cluster);
    assert_eq!(origin(&cluster, "clone")["volume"], "golden");
    assert!(cluster.fails(&["job", "show", "job.1"]).contains("does not exist"));
    let text = cluster.ok(&["volume", "flatten", "clone"]);
    assert!(text.contains("is flattened: no clone of golden@base any more"), "{text}");
    assert!(cluster.fails(&["volume", "flatten", "clone"]).contains("stands on no other"));
}

#[test]
fn a_job_rests_while_its_volume_is_in_the_bin_and_another_rate_does_not_pause_it() {
    let cluster = with_clone();
    cluster.ok(&["volume", "flatten", "clone", "--rate", "4MiB", "--no-wait"]);
    wait_for_the_middle(&cluster);
    cluster.ok(&["volume", "delete", "clone", "--defer", "1d"]);
    let rests = jobs(&cluster).remove(0);
    assert_eq!((&rests["state"], &rests["paused"]), (&Value::from("paused"), &Value::from(false)));
    assert!(cluster.ok(&["job", "list"]).contains("its volume to be restored from the bin"));
    assert_eq!(cluster.status()["problems"].as_array().map(Vec::len), Some(0), "{}", cluster.status());
    let said = cluster.ok(&["job", "rate", "job.1", "none"]);
    assert!(said.contains("once its volume is out of the bin"), "{said}");
    cluster.ok(&["bin", "restore", "clone"]);
    wait_for_jobs(&cluster);
    assert!(origin(&cluster, "clone").is_null());
}

#[test]
fn a_job_whose_gateway_is_gone_is_shown_as_waiting_for_one() {
    let cluster = with_clone();
    cluster.ok(&["volume", "flatten", "clone", "--rate", "4MiB", "--no-wait"]);
    wait_for_the_middle(&cluster);
    assert!(jobs(&cluster)[0]["gateway"].is_string() && jobs(&cluster)[0]["waits_for"].is_null());
    let (_, pid) = cluster.pids().into_iter().find(|(name, _)| name.starts_with("gateway")).expect("it runs");
    signal(pid, Signal::KILL);
    wait_until("its worker is taken for alive", PATIENCE, || match jobs(&cluster).remove(0) {
        job if job["state"] == "waiting" && job["gateway"].is_null() && job["waits_for"] == "a gateway" => Ok(()),
        job => Err(job.to_string()),
    });
    cluster.up_again(&[]);
    cluster.ok(&["job", "rate", "job.1", "none"]);
    wait_for_jobs(&cluster);
    assert!(origin(&cluster, "clone").is_null());
}

#[test]
fn an_eager_volume_is_written_whole_and_reads_as_zeroes() {
    let cluster = Cluster::up(&[]);
    cluster.ok(&["volume", "create", "eager", "--size", "40MiB", "--provision", "eager"]);
    let show = cluster.json(&["volume", "show", "eager"]);
    assert_eq!((&show["provision"], &show["job"]), (&Value::from("eager"), &Value::Null));
    let live = |cluster: &Cluster| cluster.json(&["volume", "show", "eager"])["space"]["live"].as_u64();
    let wait_for = |mib: u64| {
        wait_until("not all is written", PATIENCE, || match live(&cluster) {
            Some(live) if live == 3 * mib * MIB => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    wait_for(40);
    let mut nbd = connect(&cluster.attach(&["eager"]));
    write(&mut nbd, 5 * MIB, 7, MIB);
    // It goes on in the background where it grows.
    cluster.ok(&["volume", "extend", "eager", "--size", "44MiB"]);
    wait_for_jobs(&cluster);
    wait_for(44);
    assert_eq!(numbers(&mut nbd, 0, 5 * MIB), [0]);
    assert_eq!(numbers(&mut nbd, 5 * MIB, MIB), [7]);
    let refused = cluster.fails(&["volume", "create", "thin", "--size", "1MiB", "--rate", "10MiB"]);
    assert!(refused.contains("--provision eager"), "{refused}");
}

/// It is told, and goes on when there is room.
#[test]
fn a_flatten_that_finds_no_room_waits_for_it() {
    let cluster = Cluster::up(&["--osd-size", "256MiB"]);
    let golden = cluster.volume("golden", "96MiB");
    let mut nbd = connect(&golden);
    (0..96).for_each(|mib| write(&mut nbd, mib * MIB, 5, MIB));
    nbd.disconnect();
    cluster.ok(&["volume", "detach", "golden"]);
    cluster.ok(&["snapshot", "create", "golden@base"]);
    cluster.ok(&["volume", "clone", "golden@base", "clone"]);
    let filler = cluster.volume("filler", "64MiB");
    let mut nbd = connect(&filler);
    (0..64).for_each(|mib| write(&mut nbd, mib * MIB, 6, MIB));
    nbd.disconnect();
    cluster.ok(&["volume", "detach", "filler"]);
    cluster.ok(&["volume", "flatten", "clone", "--no-wait"]);
    wait_until("nothing is said", PATIENCE, || match cluster.ok(&["status"]) {
        text if text.contains("the pool is full") => Ok(()),
        text => Err(text),
    });
    let told = cluster.ok(&["job", "list"]);
    for part in ["the pool is full (default)", "`ashlar bin purge`", "add OSDs", "`ashlar job cancel job.1`"] {
        assert!(told.contains(part), "{told}");
    }
    cluster.ok(&["volume", "delete", "filler"]);
    wait_for_jobs(&cluster);
    assert!(origin(&cluster, "clone").is_null());
    let mut nbd = connect(&cluster.attach(&["clone"]));
    (0..96).for_each(|mib| assert_eq!(numbers(&mut nbd, mib * MIB, MIB), [5]));
}

#[test]
fn shrinking_a_volume_while_it_is_zeroed_leaves_nothing_behind_its_end() {
    let cluster = Cluster::up(&[]);
    cluster.ok(&["volume", "create", "other", "--size", "1MiB"]);
    let before = cluster.used_bytes();
    cluster.ok(&["volume", "create", "v", "--size", "256MiB", "--provision", "eager", "--rate", "64MiB", "--no-wait"]);
    wait_for_the_middle(&cluster);
    cluster.ok(&["volume", "set", "v", "--size", "4MiB", "--shrink", "--force"]);
    wait_for_jobs(&cluster);
    wait_until("what lay behind its end stays", PATIENCE, || {
        let more = cluster.used_bytes().saturating_sub(before);
        if more <= 3 * 5 * MIB { Ok(()) } else { Err(format!("{more} bytes more than before")) }
    });
    assert_eq!(cluster.json(&["volume", "show", "v"])["size"], 4 * MIB);
}
