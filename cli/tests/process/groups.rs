//! Snapshots of several volumes at one moment, through the programs that people use.

use crate::support::Cluster;
use crate::support::cluster::Export;
use crate::support::nbd::Nbd;
use crate::support::tools::wait_until;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const BLOCK: u32 = 4096;
/// In one chunk, and far away in another PG.
const PLACES: [u64; 2] = [0, 40 << 20];

fn put(nbd: &mut Nbd, place: u64, number: u64) {
    let mut data = vec![0; BLOCK as usize];
    data[..8].copy_from_slice(&number.to_le_bytes());
    nbd.write(place, &data).expect("connected").expect("written");
}

fn get(nbd: &mut Nbd, place: u64) -> u64 {
    let data = nbd.read(place, BLOCK).expect("connected").expect("read");
    u64::from_le_bytes(data[..8].try_into().expect("eight"))
}

/// Counts up: each number goes to both places of the first volume, and when that is acknowledged to those of the second.
fn count_up(volumes: &[(&Export, &str)], is_over: &AtomicBool) -> u64 {
    let mut nbds: Vec<Nbd> =
        volumes.iter().map(|(export, name)| Nbd::connect(&export.address, name).expect("served")).collect();
    let mut number = 0;
    while !is_over.load(Ordering::Relaxed) {
        number += 1;
        for nbd in &mut nbds {
            PLACES.iter().for_each(|place| put(nbd, *place, number));
        }
    }
    nbds.into_iter().for_each(Nbd::disconnect);
    number
}

#[test]
fn no_snapshot_of_a_group_holds_an_effect_without_its_cause() {
    let cluster = Cluster::up(&[]);
    cluster.ok(&["pool", "create", "other", "--replicas", "2"]);
    let first = cluster.volume("a", "64MiB");
    cluster.ok(&["volume", "create", "b", "--size", "64MiB", "--pool", "other"]);
    let second = cluster.attach(&["b"]);
    let is_over = AtomicBool::new(false);
    let groups: Vec<String> = (1..=8).map(|n| format!("g{n}")).collect();
    let last = std::thread::scope(|scope| {
        let counting = scope.spawn(|| count_up(&[(&first, "a"), (&second, "b")], &is_over));
        for group in &groups {
            std::thread::sleep(Duration::from_millis(50));
            let made = cluster.json(&["snapshot", "group", "create", group, "--volumes", "b,a"]);
            assert_eq!(made["state"], "available");
        }
        is_over.store(true, Ordering::Relaxed);
        counting.join().expect("it counts")
    });
    let mut before = 0;
    for group in &groups {
        let numbers: Vec<u64> = ["a", "b"]
            .iter()
            .flat_map(|volume| {
                let name = format!("{volume}@{group}");
                let snapshot = cluster.attach(&[&name]);
                let mut nbd = Nbd::connect(&snapshot.address, &name).expect("served");
                PLACES.map(|place| get(&mut nbd, place))
            })
            .collect();
        // Each was written when the one before it had its number, and the first of the next round when the last had.
        assert!(numbers.is_sorted_by(|one, next| one >= next), "{group}: {numbers:?}");
        assert!(numbers[0] <= numbers[3] + 1, "{group}: {numbers:?}");
        assert!(numbers[3] >= before && numbers[0] <= last, "{group}: {numbers:?} after {before}");
        before = numbers[3];
    }
    assert!(before > 0, "something was written between them");
}

fn groups_of(cluster: &Cluster) -> Value {
    let groups = cluster.json(&["snapshot", "group", "list"]);
    let describe = |group: &Value| {
        let snapshots = group["snapshots"].as_array().expect("a list").iter();
        json!([group["name"], snapshots.map(|s| s["volume"].clone()).collect::<Vec<_>>()])
    };
    groups.as_array().expect("a list").iter().map(describe).collect()
}

#[test]
fn groups_are_listed_shown_and_deleted_and_outlive_every_process() {
    let cluster = Cluster::up(&["--osds", "1"]);
    for volume in ["a", "b", "c"] {
        cluster.ok(&["volume", "create", volume, "--size", "64MiB"]);
    }
    let said = cluster.ok(&["snapshot", "group", "create", "nightly", "--volumes", "c,a,b"]);
    assert_eq!(said.trim_end(), "snapshot group nightly created: a@nightly, b@nightly, c@nightly");
    cluster.ok(&["snapshot", "group", "create", "hourly", "--volumes", "a"]);
    assert_eq!(groups_of(&cluster), json!([["hourly", ["a"]], ["nightly", ["a", "b", "c"]]]));
    assert!(cluster.ok(&["snapshot", "show", "b@nightly"]).contains("group       nightly"));
    let listed = cluster.ok(&["snapshot", "list"]);
    assert!(listed.contains("GROUP") && listed.contains("c@nightly"), "{listed}");
    cluster.ok(&["snapshot", "delete", "b@nightly"]);
    cluster.kill_everything();
    cluster.up_again(&[]);
    let shown = cluster.ok(&["snapshot", "group", "show", "nightly"]);
    assert!(shown.contains("state       available") && shown.contains("snapshot    a@nightly, 64MiB"), "{shown}");
    assert_eq!(groups_of(&cluster), json!([["hourly", ["a"]], ["nightly", ["a", "c"]]]));
    let said = cluster.ok(&["snapshot", "group", "delete", "nightly"]);
    assert_eq!(said.trim_end(), "snapshot group nightly deleted, with its snapshots");
    cluster.ok(&["volume", "delete", "a", "--snapshots"]);
    assert_eq!(groups_of(&cluster), json!([]));
    assert!(!cluster.ok(&["snapshot", "list"]).contains("nightly"));
}

#[test]
fn mistakes_with_groups_make_one_clear_line_and_leave_nothing() {
    let cluster = Cluster::up(&["--osds", "1"]);
    for volume in ["a", "b"] {
        cluster.ok(&["volume", "create", volume, "--size", "64MiB"]);
    }
    cluster.ok(&["snapshot", "create", "b@s"]);
    let group = ["snapshot", "group"];
    for (arguments, reason) in [
        (&["create", "s", "--volumes", "a,b"][..], "snapshot \"b@s\" exists already"),
        (&["create", "g", "--volumes", "a,none"], "volume \"none\" does not exist"),
        (&["create", "g", "--volumes", "a,b,a"], "volume a is named twice"),
        (&["create", "g", "--volumes", "a,,b"], "name"),
        (&["create", "g"], "--volumes"),
        (&["show", "g"], "snapshot group \"g\" does not exist"),
        (&["delete", "g"], "snapshot group \"g\" does not exist"),
    ] {
        let line = cluster.fails(&[&group[..], arguments].concat());
        assert!(line.contains(reason), "{line}");
    }
    assert_eq!(cluster.json(&["snapshot", "list"]).as_array().map(Vec::len), Some(1));
    cluster.ok(&["snapshot", "group", "create", "g", "--volumes", "a,b"]);
    let line = cluster.fails(&["snapshot", "group", "create", "g", "--volumes", "a"]);
    assert!(line.contains("snapshot group \"g\" exists already"), "{line}");
    cluster.attach(&["b@g"]);
    assert!(cluster.fails(&["snapshot", "group", "delete", "g"]).contains("snapshot b@g is attached to"));
    assert_eq!(groups_of(&cluster), json!([["g", ["a", "b"]]]));
}

#[test]
fn a_group_that_cannot_be_finished_says_what_it_waits_for_and_can_be_given_up() {
    let cluster = Cluster::up(&["--osds", "1"]);
    let volume = cluster.volume("a", "64MiB");
    cluster.ok(&["volume", "create", "b", "--size", "64MiB"]);
    cluster.ok(&["osd", "kill", "1"]);
    let line = cluster.fails(&["snapshot", "group", "create", "g", "--volumes", "a,b", "--timeout", "1"]);
    if line.contains("has no primary") {
        // The metadata service has heard of it sooner than of the wish: then nothing is begun.
        assert_eq!(groups_of(&cluster), json!([]));
        return;
    }
    assert!(line.contains("waiting for pg.1.0") && line.contains("snapshot group show g"), "{line}");
    assert_eq!(cluster.json(&["snapshot", "group", "show", "g"])["state"], "creating");
    cluster.ok(&["snapshot", "group", "delete", "g"]);
    assert_eq!(groups_of(&cluster), json!([]));
    cluster.ok(&["osd", "start", "1"]);
    let mut nbd = Nbd::connect(&volume.address, "a").expect("served");
    wait_until("it is written again", Duration::from_secs(30), || {
        put(&mut nbd, 0, 7);
        if get(&mut nbd, 0) == 7 { Ok(()) } else { Err("other contents".to_owned()) }
    });
}
