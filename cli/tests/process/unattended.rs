//! Whatever runs in the background at the same time ends by itself, whoever dies meanwhile: a merge, a secure delete, a purge, a flatten and zeroing.

use crate::support::Cluster;
use crate::support::cluster::{Export, signal};
use crate::support::nbd::Nbd;
use crate::support::tools::wait_until;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(90);

fn write(export: &Export, name: &str, mib: std::ops::Range<u64>, number: u8) {
    let mut nbd = Nbd::connect(&export.address, name).expect("served");
    for mib in mib {
        nbd.write(mib * MIB, &vec![number; MIB as usize]).expect("connected").expect("written");
    }
    nbd.disconnect();
}

fn assert_holds(export: &Export, name: &str, expected: &[(std::ops::Range<u64>, u8)]) {
    let mut nbd = Nbd::connect(&export.address, name).expect("served");
    for (range, number) in expected {
        for mib in range.clone() {
            let data = nbd.read(mib * MIB, MIB as u32).expect("connected").expect("read");
            assert!(data.iter().all(|byte| byte == number), "{name}, MiB {mib}: {}", data[0]);
        }
    }
    nbd.disconnect();
}

/// What is not over yet.
fn left(cluster: &Cluster) -> Vec<Value> {
    let list = |command: &[&str]| cluster.json(command).as_array().expect("a list").clone();
    let mut left = list(&["job", "list"]);
    left.extend(list(&["wipe", "list"]).into_iter().filter(|wipe| wipe["state"] != "done"));
    left.extend(list(&["bin", "list"]));
    let merged = cluster.json(&["volume", "show", "merged"]);
    left.extend(merged["merges"].as_array().expect("a list").iter().cloned());
    left
}

#[test]
fn all_that_runs_in_the_background_ends_whoever_is_killed_in_the_middle_of_it() {
    for victims in [["mds.1", "osd.1"], ["osd.2", "mds.1"], ["gateway", "osd.3"]] {
        let cluster = Cluster::up(&["--osd-size", "1GiB"]);
        for (name, number) in [("merged", 1), ("golden", 2), ("secret", 3), ("binned", 4)] {
            write(&cluster.volume(name, "64MiB"), name, 0..24, number);
            cluster.ok(&["volume", "detach", name]);
            cluster.ok(&["snapshot", "create", &format!("{name}@s1")]);
        }
        write(&cluster.attach(&["merged"]), "merged", 8..32, 5);
        cluster.ok(&["volume", "detach", "merged"]);
        cluster.ok(&["snapshot", "create", "merged@s2"]);
        cluster.ok(&["volume", "clone", "golden@s1", "clone"]);
        cluster.ok(&["volume", "delete", "binned", "--defer", "1h"]);

        cluster.ok(&["volume", "flatten", "clone", "--rate", "4MiB", "--no-wait"]);
        let eager = ["volume", "create", "eager", "--size", "64MiB", "--provision", "eager", "--rate", "8MiB"];
        cluster.ok(&[&eager[..], &["--no-wait"]].concat());
        cluster.ok(&["volume", "delete", "secret", "--secure", "--snapshots", "--no-wait"]);
        cluster.ok(&["bin", "purge", "binned"]);
        cluster.ok(&["snapshot", "delete", "merged@s1"]);
        for victim in victims {
            let pids = cluster.pids();
            let (_, pid) = pids.iter().find(|(name, _)| name.starts_with(victim)).expect("it runs");
            signal(*pid, Signal::KILL);
            std::thread::sleep(Duration::from_millis(300));
            cluster.up_again(&[]);
        }
        assert!(!left(&cluster).is_empty(), "they were killed in the middle");
        wait_until("what runs in the background ends", PATIENCE, || {
            let left = left(&cluster);
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        assert_eq!(cluster.json(&["wipe", "list"])[0]["state"], "done");
        assert_eq!(cluster.json(&["volume", "show", "eager"])["provision"], json!("eager"));
        assert!(cluster.json(&["volume", "show", "clone"])["origin"].is_null());
        let names: Vec<Value> = cluster.json(&["volume", "list"]).as_array().expect("a list").clone();
        let mut names: Vec<&str> = names.iter().filter_map(|volume| volume["name"].as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["clone", "eager", "golden", "merged"]);
        let merged = [(0..8, 1), (8..32, 5), (32..64, 0)];
        assert_holds(&cluster.attach(&["merged"]), "merged", &merged);
        assert_holds(&cluster.attach(&["merged@s2"]), "merged@s2", &merged);
        assert_holds(&cluster.attach(&["clone"]), "clone", &[(0..24, 2), (24..64, 0)]);
        assert_holds(&cluster.attach(&["eager"]), "eager", &[(0..64, 0)]);
        cluster.wait_in_sync(Duration::from_secs(30));
        cluster.kill_everything();
        cluster.fsck_all();
    }
}
