//! Snapshots through the programs that people use: what they hold, reverting, deleting, and what goes wrong.

use crate::support::Cluster;
use crate::support::cluster::Export;
use crate::support::nbd::{CMD_WRITE_ZEROES, EPERM, Nbd};
use crate::support::tools::wait_until;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const BLOCK: u32 = 4096;

fn content(number: u8) -> Vec<u8> {
    vec![number; BLOCK as usize]
}

/// Where the tests write: within a chunk, across its end, and far away.
const PLACES: [u64; 4] = [0, 4 * MIB - 4096, 4 * MIB, 40 * MIB];

fn write_all(nbd: &mut Nbd, number: u8) {
    for at in PLACES {
        nbd.write(at, &content(number)).expect("connected").expect("written");
    }
}

fn assert_holds(export: &Export, name: &str, number: u8) {
    let mut nbd = Nbd::connect(&export.address, name).expect("served");
    for at in PLACES {
        let data = nbd.read(at, BLOCK).expect("connected").expect("read");
        assert!(data == content(number), "{name} at {at}: {} instead of {number}", data[0]);
    }
    nbd.disconnect();
}

#[test]
fn a_snapshot_keeps_what_was_written_before_it_and_the_volume_goes_on() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "64MiB");
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    write_all(&mut nbd, 1);
    let made = cluster.json(&["snapshot", "create", "v", "one"]);
    assert_eq!((&made["state"], &made["size"]), (&"available".into(), &(64 * MIB).into()));
    // The connection is the one from before.
    write_all(&mut nbd, 2);
    cluster.ok(&["snapshot", "create", "v@two"]);
    write_all(&mut nbd, 3);
    for (name, number) in [("v@one", 1), ("v@two", 2)] {
        let snapshot = cluster.attach(&[name]);
        assert!(snapshot.uri.ends_with(name), "{}", snapshot.uri);
        assert_holds(&snapshot, name, number);
        let mut reader = Nbd::connect(&snapshot.address, name).expect("served");
        assert_eq!(reader.flags & 2, 2, "NBD_FLAG_READ_ONLY");
        assert_eq!(reader.write(0, &content(9)).expect("connected"), Err(EPERM));
        reader.disconnect();
    }
    assert_holds(&volume, "v", 3);
    write_all(&mut nbd, 4);
    assert_holds(&volume, "v@one", 1);
    let shown = cluster.json(&["volume", "show", "v"]);
    assert_eq!(shown["state"], "attached");
    assert_eq!(shown["snapshots"].as_array().map(Vec::len), Some(2));
    assert_eq!(shown["layers"].as_array().map(Vec::len), Some(3));
    cluster.ok(&["volume", "detach", "v"]);
    assert_eq!(cluster.json(&["volume", "show", "v"])["state"], "available", "its snapshots don't count");
    assert!(cluster.fails(&["volume", "delete", "v", "--snapshots"]).contains("v@"), "they are attached");
    cluster.kill_everything();
    cluster.up_again(&[]);
    assert_holds(&volume, "v@two", 2);
}

#[test]
fn zeroes_hide_what_a_snapshot_holds_and_leave_it_there() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "64MiB");
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    write_all(&mut nbd, 1);
    cluster.ok(&["snapshot", "create", "v", "s"]);
    // NBD_CMD_TRIM is 4.
    for (command, at) in [(CMD_WRITE_ZEROES, PLACES[0]), (4, PLACES[2])] {
        nbd.send(command, 0, at, BLOCK, &[]).expect("connected");
        assert_eq!(nbd.receive().expect("connected").1, 0);
        let data = nbd.read(at, BLOCK).expect("connected").expect("read");
        assert!(data == content(0), "command {command} leaves zeroes");
    }
    // Part of a block: the rest of it comes from below.
    nbd.write(PLACES[3], &[7; 512]).expect("connected").expect("written");
    let data = nbd.read(PLACES[3], BLOCK).expect("connected").expect("read");
    assert!(data[..512] == [7; 512] && data[512..] == content(1)[512..]);
    let snapshot = cluster.attach(&["v@s"]);
    assert_holds(&snapshot, "v@s", 1);
}

#[test]
fn reverting_brings_back_what_was_there_and_keeps_newer_snapshots() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "64MiB");
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    write_all(&mut nbd, 1);
    cluster.ok(&["snapshot", "create", "v", "one"]);
    write_all(&mut nbd, 2);
    cluster.ok(&["snapshot", "create", "v", "two"]);
    write_all(&mut nbd, 3);
    let line = cluster.fails(&["snapshot", "revert", "v@one"]);
    assert!(line.contains("is attached to") && line.contains("snapshot revert --force"), "{line}");
    nbd.disconnect();
    cluster.ok(&["volume", "detach", "v"]);
    cluster.ok(&["volume", "extend", "v", "--size", "128MiB"]);
    let reverted = cluster.json(&["snapshot", "revert", "v@one"]);
    assert_eq!(reverted["size"], 64 * MIB);
    let volume = cluster.attach(&["v"]);
    assert_holds(&volume, "v", 1);
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    assert_eq!(nbd.size, 64 * MIB);
    write_all(&mut nbd, 4);
    let tree = cluster.ok(&["volume", "tree", "v"]);
    assert!(tree.contains("├─ ") && tree.contains("v@two") && tree.contains("(top)"), "{tree}");
    cluster.ok(&["snapshot", "revert", "v", "two", "--force"]);
    assert!(nbd.write(0, &content(5)).map_or(true, |answer| answer.is_err()), "who had it is fenced");
    let volume = cluster.attach(&["v"]);
    assert_holds(&volume, "v", 2);
}

#[test]
fn deleting_with_snapshots_gives_all_space_back() {
    let cluster = Cluster::up(&[]);
    cluster.ok(&["volume", "create", "other", "--size", "64MiB"]);
    let volume = cluster.volume("v", "64MiB");
    let before = cluster.used_bytes();
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    for number in 1..=3_u8 {
        for at in (0..16 * MIB).step_by(1 << 20) {
            nbd.write(at, &vec![number; 1 << 20]).expect("connected").expect("written");
        }
        cluster.ok(&["snapshot", "create", "v", &format!("s{number}")]);
    }
    nbd.disconnect();
    cluster.ok(&["volume", "detach", "v"]);
    // A branch too.
    cluster.ok(&["snapshot", "revert", "v@s1"]);
    let line = cluster.fails(&["volume", "delete", "v"]);
    assert!(line.contains("has 3 snapshots") && line.contains("--snapshots"), "{line}");
    wait_until("the space is used", Duration::from_secs(20), || {
        let used = cluster.used_bytes();
        if used >= before + 3 * 3 * 16 * MIB { Ok(()) } else { Err(format!("{used} bytes, {before} before")) }
    });
    cluster.ok(&["volume", "delete", "v", "--snapshots"]);
    wait_until("the volume is gone", Duration::from_secs(20), || {
        match cluster.json(&["volume", "list"]).as_array().map(Vec::len) {
            Some(1) => Ok(()),
            found => Err(format!("{found:?} volumes")),
        }
    });
    assert_eq!(cluster.json(&["snapshot", "list"]).as_array().map(Vec::len), Some(0));
    wait_until("the space is free", Duration::from_secs(30), || {
        let used = cluster.used_bytes();
        // Logs and checkpoints take what they take.
        if used <= before + 4 * MIB { Ok(()) } else { Err(format!("{used} bytes, {before} before")) }
    });
}

#[test]
fn mistakes_with_snapshots_make_one_clear_line() {
    let cluster = Cluster::up(&["--osds", "1"]);
    cluster.ok(&["volume", "create", "v", "--size", "64MiB"]);
    cluster.ok(&["snapshot", "create", "v", "s"]);
    assert!(cluster.fails(&["snapshot", "create", "v@s"]).contains("snapshot \"v@s\" exists already"));
    assert!(cluster.fails(&["snapshot", "create", "v"]).contains("name it v@NAME"));
    assert!(cluster.fails(&["snapshot", "create", "v@s", "t"]).contains("one name too many"));
    assert!(cluster.fails(&["snapshot", "create", "w@s"]).contains("volume \"w\" does not exist"));
    for command in ["show", "revert"] {
        assert!(cluster.fails(&["snapshot", command, "v@t"]).contains("snapshot \"v@t\" does not exist"));
    }
    for bad in ["v@", "@s", "v@a b", "v@s@t"] {
        cluster.fails(&["snapshot", "create", bad]);
        cluster.fails(&["volume", "attach", bad]);
    }
    assert!(cluster.fails(&["snapshot", "list", "w"]).contains("does not exist"));
    assert!(cluster.fails(&["volume", "attach", "v@t"]).contains("does not exist"));
    assert!(cluster.fails(&["volume", "detach", "v@s"]).contains("does not exist"));
    assert!(cluster.fails(&["volume", "delete", "v@s"]).contains("a name takes letters"));
    assert!(cluster.fails(&["volume", "delete", "v"]).contains("has 1 snapshot"));
    let listed = cluster.json(&["snapshot", "list", "v"]);
    assert_eq!((&listed[0]["name"], &listed[0]["volume"]), (&"s".into(), &"v".into()));
    let listed = cluster.ok(&["snapshot", "list"]);
    assert!(listed.contains("v@s") && listed.contains("available"), "{listed}");
    cluster.ok(&["volume", "delete", "v", "--snapshots"]);
}

#[test]
fn a_snapshot_that_cannot_be_finished_says_what_it_waits_for() {
    let cluster = Cluster::up(&["--osds", "1"]);
    cluster.ok(&["volume", "create", "v", "--size", "64MiB"]);
    cluster.ok(&["osd", "kill", "1"]);
    let line = cluster.fails(&["snapshot", "create", "v@s", "--timeout", "1"]);
    if line.contains("has no primary") {
        // The metadata service has heard of it sooner than of the wish: then nothing is begun.
        assert!(!cluster.ok(&["snapshot", "list"]).contains("v@s"));
        return;
    }
    assert!(line.contains("waiting for pg.1.0") && line.contains("snapshot show v@s"), "{line}");
    assert_eq!(cluster.json(&["snapshot", "show", "v@s"])["state"], "creating");
    assert!(cluster.fails(&["snapshot", "revert", "v@s"]).contains("still being created"));
    cluster.ok(&["osd", "start", "1"]);
    wait_until("it is available", Duration::from_secs(30), || {
        let state = cluster.json(&["snapshot", "show", "v@s"])["state"].clone();
        if state == "available" { Ok(()) } else { Err(state.to_string()) }
    });
}

/// Blocks that only one of them has, and some that all have.
fn write_its_own(nbd: &mut Nbd, number: u8) {
    write_all(nbd, number);
    for at in 0..64 {
        let place = 8 * MIB + u64::from(number) * MIB + at * u64::from(BLOCK);
        nbd.write(place, &content(number)).expect("connected").expect("written");
    }
}

fn assert_holds_its_own(export: &Export, name: &str, number: u8) {
    assert_holds(export, name, number);
    let mut nbd = Nbd::connect(&export.address, name).expect("served");
    for of in 1..=4u8 {
        let place = 8 * MIB + u64::from(of) * MIB;
        let expected = content(if of <= number { of } else { 0 });
        for at in [0, 63 * u64::from(BLOCK)] {
            let data = nbd.read(place + at, BLOCK).expect("connected").expect("read");
            assert!(data == expected, "{name} at {}: {}", place + at, data[0]);
        }
    }
    nbd.disconnect();
}

fn wait_until_merged(cluster: &Cluster, layers: usize) {
    wait_until("the layers are merged", Duration::from_secs(60), || {
        let shown = cluster.json(&["volume", "show", "v"]);
        let (now, merges) =
            (shown["layers"].as_array().map_or(0, Vec::len), shown["merges"].as_array().map_or(0, Vec::len));
        if now == layers && merges == 0 { Ok(()) } else { Err(format!("{now} layers, {merges} merges")) }
    });
}

#[test]
fn snapshots_are_deleted_in_any_order_and_their_space_comes_back() {
    for (nth, order) in [[1, 2, 3], [3, 2, 1], [2, 1, 3]].into_iter().enumerate() {
        let cluster = Cluster::up(&[]);
        let volume = cluster.volume("v", "64MiB");
        let empty = cluster.used_bytes();
        let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
        for number in 1..=3u8 {
            write_its_own(&mut nbd, number);
            cluster.ok(&["snapshot", "create", &format!("v@s{number}")]);
        }
        write_its_own(&mut nbd, 4);
        let reader = cluster.attach(&["v@s3"]);
        let line = cluster.fails(&["snapshot", "delete", "v@s3"]);
        assert!(line.contains("v@s3 is attached to"), "{line}");
        cluster.ok(&["volume", "detach", "v@s3"]);
        drop(reader);
        let mut left = vec![1, 2, 3u8];
        for number in order {
            let name = format!("s{number}");
            assert!(cluster.ok(&["snapshot", "delete", "v", &name]).contains(&format!("v@{name} deleted")));
            assert!(cluster.fails(&["snapshot", "show", "v", &name]).contains(&name));
            left.retain(|n| *n != number);
            if nth == 1 {
                // In the middle of it, all processes end.
                cluster.kill_everything();
                cluster.up_again(&[]);
            }
            for number in &left {
                let name = format!("v@s{number}");
                let snapshot = cluster.attach(&[&name]);
                assert_holds_its_own(&snapshot, &name, *number);
                cluster.ok(&["volume", "detach", &name]);
            }
            assert_holds_its_own(&volume, "v", 4);
        }
        wait_until_merged(&cluster, 1);
        assert_holds_its_own(&volume, "v", 4);
        // 4 places, and 4 times 64 blocks, on each OSD.
        let most = empty + 3 * (4 + 4 * 64 + 48) * u64::from(BLOCK);
        wait_until("the space comes back", Duration::from_secs(60), || {
            let used = cluster.used_bytes();
            if used <= most { Ok(()) } else { Err(format!("{used} bytes are used, {empty} were, {most} may be")) }
        });
        cluster.kill_everything();
        cluster.fsck_all();
    }
}

/// The documented bound (docs/volumes.md), and one more.
#[test]
fn a_volume_of_1024_layers_is_read_and_written_and_gets_no_more() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "16MiB");
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    let written = |nth: u64| (nth * 3 % 4096 * u64::from(BLOCK), (nth % 251) as u8 + 1);
    for nth in 1..1024 {
        if nth % 64 == 1 {
            let (at, number) = written(nth);
            nbd.write(at, &content(number)).expect("connected").expect("written");
        }
        cluster.ok(&["snapshot", "create", &format!("v@s{nth}")]);
    }
    assert_eq!(cluster.json(&["volume", "show", "v"])["layers"].as_array().map(Vec::len), Some(1024));
    nbd.write(0, &content(255)).expect("connected").expect("written");
    let line = cluster.fails(&["snapshot", "create", "v@more"]);
    assert!(line.contains("it has 1024 layers, which is the most that one is made of"), "{line}");
    let clone = cluster.ok(&["volume", "clone", "v@s1023", "clone"]);
    assert!(clone.contains("cloned"), "{clone}");
    for (name, export, top) in [("v", &volume, 255), ("clone", &cluster.attach(&["clone"]), 0)] {
        let mut nbd = Nbd::connect(&export.address, name).expect("served");
        for (at, number) in std::iter::once((0, top)).chain((1..1024).step_by(64).map(written)) {
            let data = nbd.read(at, BLOCK).expect("connected").expect("read");
            assert!(data == content(number), "{name} at {at}: {} instead of {number}", data[0]);
        }
        nbd.disconnect();
    }
    let line = cluster.ok(&["snapshot", "delete", "v@s500"]);
    assert!(line.contains("deleted"), "{line}");
    wait_until_merged(&cluster, 1023);
    cluster.ok(&["snapshot", "create", "v@more"]);
    cluster.kill_everything();
    cluster.fsck_all();
}
