//! The bin through the programs that people use: in, out again with everything, and emptied by hand and by the clock.

use crate::support::Cluster;
use crate::support::nbd::Nbd;
use crate::support::tools::wait_until;
use serde_json::{Value, json};
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn names(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().map(|each| each["name"].as_str().expect("a name")).collect()
}

fn wait_for_space(cluster: &Cluster, most: u64) {
    wait_until("the space comes back", Duration::from_secs(30), || {
        let used = cluster.used_bytes();
        if used <= most { Ok(()) } else { Err(format!("{used} bytes, {most} may be")) }
    });
}

#[test]
fn a_deleted_volume_comes_back_with_its_data_and_snapshots() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "64MiB");
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    nbd.write(0, &[1; 4096]).expect("connected").expect("written");
    cluster.ok(&["snapshot", "create", "v@s"]);
    nbd.write(0, &[2; 4096]).expect("connected").expect("written");
    nbd.disconnect();
    assert!(cluster.fails(&["volume", "delete", "v", "--defer", "7d"]).contains("is attached to"));
    cluster.ok(&["volume", "detach", "v"]);
    let said = cluster.ok(&["volume", "delete", "v", "--defer", "7d"]);
    assert!(said.contains("volume v is in the bin until") && said.contains("`ashlar bin restore vol.1`"), "{said}");
    assert!(!cluster.ok(&["volume", "list"]).contains("v ") && !cluster.ok(&["snapshot", "list"]).contains("v@s"));
    for command in [
        &["volume", "show", "v"][..],
        &["volume", "attach", "v"],
        &["snapshot", "create", "v@t"],
        &["volume", "clone", "v@s", "c"],
    ] {
        assert!(cluster.fails(command).contains("volume \"v\" does not exist"));
    }
    let status = cluster.ok(&["status"]);
    assert!(status.contains("volumes  0, 0B in all; 1 in the bin, 64MiB"), "{status}");
    cluster.kill_everything();
    cluster.up_again(&[]);
    let listed = cluster.json(&["bin", "list"]);
    assert_eq!((names(&listed), &listed[0]["snapshots"]), (vec!["v"], &json!(1)));
    let span = |field: &str| listed[0][field].as_u64().expect("a time");
    assert_eq!(span("expires_at") - span("deleted_at"), 7 * 86_400);
    // The name is free for another volume.
    cluster.ok(&["volume", "create", "v", "--size", "1MiB"]);
    let line = cluster.fails(&["bin", "restore", "v"]);
    assert!(line.contains("volume \"v\" exists already") && line.contains("--name"), "{line}");
    let said = cluster.ok(&["bin", "restore", "v", "--name", "w"]);
    assert_eq!(said.trim_end(), "volume w is back: 64MiB in pool default");
    for (name, number) in [("w", 2), ("w@s", 1)] {
        let export = cluster.attach(&[name]);
        let mut nbd = Nbd::connect(&export.address, name).expect("served");
        assert_eq!(nbd.read(0, 4096).expect("connected").expect("read"), vec![number; 4096]);
        nbd.disconnect();
    }
    assert_eq!(cluster.json(&["bin", "list"]), json!([]));
}

#[test]
fn the_bin_is_emptied_by_hand_and_by_the_clock() {
    let cluster = Cluster::up(&[]);
    cluster.ok(&["volume", "create", "other", "--size", "1MiB"]);
    let before = cluster.used_bytes();
    for name in ["a", "b"] {
        let volume = cluster.volume(name, "64MiB");
        let mut nbd = Nbd::connect(&volume.address, name).expect("served");
        for at in (0..16 * MIB).step_by(1 << 20) {
            nbd.write(at, &vec![7; 1 << 20]).expect("connected").expect("written");
        }
        nbd.disconnect();
        cluster.ok(&["volume", "detach", name]);
        cluster.ok(&["snapshot", "create", &format!("{name}@s")]);
    }
    cluster.ok(&["volume", "delete", "a", "--defer", "1h"]);
    cluster.ok(&["volume", "delete", "b", "--defer", "1s"]);
    wait_until("the one whose time is over is gone", Duration::from_secs(30), || {
        let listed = cluster.json(&["bin", "list"]);
        if names(&listed) == ["a"] { Ok(()) } else { Err(listed.to_string()) }
    });
    wait_for_space(&cluster, before + 3 * 16 * MIB + 8 * MIB);
    for how in [&["bin", "purge", "--expired"][..], &["bin", "purge", "--expired", "--secure"]] {
        assert_eq!(cluster.ok(how).trim_end(), "nothing to purge");
    }
    assert_eq!(cluster.ok(&["bin", "purge", "a"]).trim_end(), "volume a (vol.2) deleted");
    wait_for_space(&cluster, before + 8 * MIB);
    for name in ["c", "d"] {
        cluster.ok(&["volume", "create", name, "--size", "1MiB"]);
        cluster.ok(&["volume", "delete", name, "--defer", "1d"]);
    }
    assert_eq!(cluster.ok(&["bin", "purge", "--all"]).trim_end(), "2 volumes deleted");
    assert_eq!(cluster.json(&["bin", "list"]), json!([]));
    cluster.kill_everything();
    cluster.fsck_all();
}

#[test]
fn pools_say_how_long_their_volumes_are_kept() {
    let cluster = Cluster::up(&["--osds", "1"]);
    let said = cluster.ok(&["pool", "create", "kept", "--replicas", "1", "--bin-retention", "7d"]);
    assert!(said.contains("pool kept created") && said.contains("kept in the bin for 7d"), "{said}");
    let create = |name: &str| cluster.ok(&["volume", "create", name, "--size", "1MiB", "--pool", "kept"]);
    for name in ["a", "b", "c"] {
        create(name);
    }
    assert!(cluster.ok(&["volume", "delete", "a"]).contains("is in the bin until"));
    assert_eq!(cluster.ok(&["volume", "delete", "b", "--now"]).trim_end(), "volume b deleted");
    assert!(cluster.ok(&["pool", "show", "kept"]).contains("kept for 7d"));
    let said = cluster.ok(&["pool", "set", "kept", "--bin-retention", "0"]);
    assert_eq!(said.trim_end(), "deleted volumes of pool kept are not kept");
    assert_eq!(cluster.ok(&["volume", "delete", "c"]).trim_end(), "volume c deleted");
    assert_eq!(names(&cluster.json(&["bin", "list"])), ["a"]);
    cluster.kill_everything();
    cluster.up_again(&[]);
    assert_eq!(names(&cluster.json(&["bin", "list"])), ["a"]);
}

#[test]
fn mistakes_with_the_bin_make_one_clear_line() {
    let cluster = Cluster::up(&["--osds", "1"]);
    for _ in 0..2 {
        cluster.ok(&["volume", "create", "v", "--size", "1MiB"]);
        cluster.ok(&["volume", "delete", "v", "--defer", "1d"]);
    }
    let several = "2 volumes in the bin were named v; say which by its id: vol.1, vol.2";
    for command in ["restore", "purge"] {
        assert!(cluster.fails(&["bin", command, "v"]).contains(several));
        assert!(cluster.fails(&["bin", command, "w"]).contains("volume \"w\" is not in the bin"));
    }
    assert!(cluster.fails(&["volume", "delete", "v", "--defer", "1d"]).contains("does not exist"));
    assert!(cluster.fails(&["volume", "delete", "v", "--defer", "soon"]).contains("\"soon\" is not a time"));
    assert!(cluster.fails(&["volume", "delete", "v", "--defer", "1d", "--now"]).contains("--now"));
    cluster.ok(&["volume", "create", "v", "--size", "1MiB"]);
    for (span, reason) in [("0s", "at least a second"), ("99999d", "longer than the bin keeps anything")] {
        assert!(cluster.fails(&["volume", "delete", "v", "--defer", span]).contains(reason));
    }
    assert!(cluster.fails(&["pool", "set", "none", "--bin-retention", "1d"]).contains("pool \"none\" does not exist"));
    assert!(cluster.fails(&["pool", "set", "default", "--bin-retention", "99999d"]).contains("longer than"));
    assert!(cluster.fails(&["bin", "purge"]).contains("<NAME|ID>"));
    cluster.ok(&["bin", "restore", "vol.2", "--name", "back"]);
    assert_eq!(names(&cluster.json(&["volume", "list"])), ["back", "v"]);
}

/// What a clone reads is there whatever becomes of the volume that it stands on.
#[test]
fn clones_read_on_while_their_volume_is_in_the_bin() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("golden", "64MiB");
    let mut nbd = Nbd::connect(&volume.address, "golden").expect("served");
    nbd.write(4096, &[5; 4096]).expect("connected").expect("written");
    nbd.disconnect();
    cluster.ok(&["snapshot", "create", "golden@base"]);
    cluster.ok(&["volume", "clone", "golden@base", "one"]);
    cluster.ok(&["volume", "detach", "golden"]);
    cluster.ok(&["volume", "delete", "golden", "--defer", "1d"]);
    assert!(cluster.ok(&["volume", "list"]).contains("golden (deleted)"));
    let tree = cluster.ok(&["volume", "tree"]);
    assert!(tree.contains("golden  64MiB  (vol.1 in the bin until "), "{tree}");
    for name in ["golden", "vol.1"] {
        let tree = cluster.ok(&["volume", "tree", name]);
        assert!(tree.contains("golden@base") && tree.contains("clone one"), "{tree}");
    }
    assert!(cluster.fails(&["volume", "tree", "nothing"]).contains("does not exist"));
    let reads = || {
        let clone = cluster.attach(&["one"]);
        let mut nbd = Nbd::connect(&clone.address, "one").expect("served");
        assert_eq!(nbd.read(4096, 4096).expect("connected").expect("read"), vec![5; 4096]);
        nbd.disconnect();
        cluster.ok(&["volume", "detach", "one"]);
    };
    reads();
    cluster.ok(&["bin", "purge", "golden"]);
    reads();
    assert!(cluster.ok(&["volume", "tree"]).contains("golden  (deleted, kept for its clones)"));
    assert!(cluster.ok(&["status"]).contains("1 deleted volume is kept for its clones"));
}
