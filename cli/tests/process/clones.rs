//! Linked clones as the metadata service knows them: made one by one and by the thousand, listed, drawn, and deleted in whatever order.

use crate::support::Cluster;
use crate::support::tools::wait_until;
use serde_json::{Value, json};
use std::time::Duration;

/// One OSD, and a volume with a snapshot.
fn cluster_with_snapshot() -> Cluster {
    let cluster = Cluster::up(&["--osds", "1"]);
    cluster.ok(&["volume", "create", "golden", "--size", "64MiB"]);
    cluster.ok(&["snapshot", "create", "golden@base"]);
    cluster
}

fn listed(cluster: &Cluster) -> Vec<String> {
    let volumes = cluster.json(&["volume", "list"]);
    let name = |volume: &Value| volume["name"].as_str().expect("a name").to_owned();
    volumes.as_array().expect("a list").iter().map(name).collect()
}

fn wait_gone(cluster: &Cluster) {
    wait_until("volumes are left", Duration::from_secs(20), || {
        let status = cluster.status();
        let (volumes, kept) = (&status["volumes"], &status["volumes_kept"]);
        if *volumes == 0 && *kept == 0 { Ok(()) } else { Err(format!("{volumes} volumes, {kept} kept")) }
    });
}

#[test]
fn a_clone_says_what_it_stands_on_and_the_tree_shows_it() {
    let cluster = cluster_with_snapshot();
    let said = cluster.ok(&["volume", "clone", "golden@base", "one"]);
    assert_eq!(said.trim_end(), "volume one cloned from golden@base: 64MiB in pool default");
    cluster.ok(&["snapshot", "create", "one@mine"]);
    let made = cluster.json(&["volume", "clone", "one@mine", "two"]);
    assert_eq!((&made["name"], &made["origin"]["snapshot"]), (&json!("two"), &json!("mine")));
    let shown = cluster.json(&["volume", "show", "one"]);
    let origin = json!({ "volume": "golden", "volume_id": 1, "snapshot": "base", "layer": 1, "size": 64 << 20, "deleted": false });
    assert_eq!((&shown["origin"], &shown["clones"]), (&origin, &json!(1)));
    let text = cluster.ok(&["volume", "show", "one"]);
    assert!(text.contains("clone of    golden@base, layer.1, 64MiB") && text.contains("clones      1"), "{text}");
    let list = cluster.ok(&["volume", "list"]);
    assert!(list.contains("CLONE OF") && list.contains("golden@base") && list.contains("one@mine"), "{list}");
    let tree = cluster.ok(&["volume", "tree", "golden"]);
    assert_eq!(tree, "golden  64MiB\n  layer.1  golden@base\n  ├─ clone one\n  └─ layer.2  (top)\n");
    let tree = cluster.ok(&["volume", "tree", "one"]);
    assert!(tree.starts_with("one  64MiB  clone of golden@base\n") && tree.contains("├─ clone two"), "{tree}");
    // It is a volume as any other.
    cluster.ok(&["volume", "extend", "one", "--size", "128MiB"]);
    assert_eq!(cluster.json(&["snapshot", "revert", "one@mine"])["size"], 64 << 20);
    assert_eq!(cluster.json(&["volume", "show", "one"])["origin"], origin);
    cluster.kill_everything();
    cluster.up_again(&[]);
    assert_eq!(cluster.json(&["volume", "show", "one"])["origin"], origin);
}

/// The command for many, with so many and what else is wanted.
fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["volume", "clone", "golden@base", "--name-template", "vdi-%04d", "--count"][..], more].concat()
}

#[test]
fn many_clones_are_made_by_a_template_in_several_requests() {
    let cluster = cluster_with_snapshot();
    cluster.ok(&["pool", "create", "other", "--replicas", "1"]);
    let said = cluster.ok(&with(&["2500", "--pool", "other"]));
    let expected = "2500 volumes cloned from golden@base, vdi-0001 to vdi-2500: 64MiB each in pool other";
    assert_eq!(said.trim_end(), expected);
    assert_eq!(cluster.json(&["volume", "show", "golden"])["clones"], 2500);
    assert_eq!(listed(&cluster).len(), 2501);
    // The first request is refused as a whole, and nothing is left of it.
    let line = cluster.fails(&with(&["10", "--first", "2495"]));
    assert!(line.contains("volume \"vdi-2495\" exists already"), "{line}");
    assert_eq!(listed(&cluster).len(), 2501);
    // A later one: what was made before it stays, and the line says where to go on.
    cluster.ok(&["volume", "create", "vdi-4002", "--size", "1MiB"]);
    let line = cluster.fails(&with(&["2000", "--first", "3000"]));
    assert!(line.contains("1000 of 2000 clones are made, up to vdi-3999"), "{line}");
    assert!(line.contains("`--first 4000 --count 1000`") && line.contains("volume \"vdi-4002\" exists"), "{line}");
    assert_eq!(listed(&cluster).len(), 3502);
    let made = cluster.json(&with(&["1", "--first", "0"]));
    assert_eq!((made.as_array().map(Vec::len), &made[0]["name"]), (Some(1), &json!("vdi-0000")));
}

#[test]
fn a_deleted_volume_is_gone_for_people_and_kept_for_its_clones() {
    let cluster = cluster_with_snapshot();
    cluster.ok(&["volume", "clone", "golden@base", "one"]);
    cluster.ok(&["snapshot", "create", "one@mine"]);
    cluster.ok(&["volume", "clone", "one@mine", "two"]);
    assert!(cluster.fails(&["volume", "delete", "golden"]).contains("has 1 snapshot"));
    cluster.ok(&["volume", "delete", "golden", "--snapshots"]);
    assert_eq!(listed(&cluster), ["one", "two"]);
    assert!(!cluster.ok(&["snapshot", "list"]).contains("golden"));
    for command in
        [&["volume", "show", "golden"][..], &["volume", "tree", "golden"], &["volume", "clone", "golden@base", "x"]]
    {
        assert!(cluster.fails(command).contains("volume \"golden\" does not exist"));
    }
    cluster.ok(&["volume", "create", "golden", "--size", "1MiB"]);
    assert_eq!(cluster.json(&["volume", "show", "one"])["origin"]["deleted"], true);
    cluster.ok(&["volume", "delete", "one", "--snapshots"]);
    let status = cluster.ok(&["status"]);
    assert!(status.contains("volumes  2, 65MiB in all; 2 deleted volumes are kept for their clones"), "{status}");
    let tree = cluster.ok(&["volume", "tree"]);
    for drawn in [
        "two  64MiB  clone of one (deleted)\n",
        "golden  (deleted, kept for its clones)\n  layer.1\n  └─ clone one (deleted)\n",
        "one  (deleted, kept for its clones)\n  layer.3\n  └─ clone two\n",
    ] {
        assert!(tree.contains(drawn), "{drawn} in {tree}");
    }
    cluster.ok(&["volume", "delete", "golden"]);
    cluster.ok(&["volume", "delete", "two"]);
    wait_gone(&cluster);
    cluster.ok(&["volume", "create", "two", "--size", "1MiB"]);
}

#[test]
fn mistakes_with_clones_make_one_clear_line() {
    let cluster = cluster_with_snapshot();
    let line = cluster.fails(&["volume", "clone", "golden", "c"]);
    assert!(line.contains("only a snapshot of it") && line.contains("`snapshot create golden@NAME`"), "{line}");
    assert!(
        cluster.fails(&["volume", "clone", "golden@none", "c"]).contains("snapshot \"golden@none\" does not exist")
    );
    assert!(cluster.fails(&["volume", "clone", "none@base", "c"]).contains("volume \"none\" does not exist"));
    assert!(cluster.fails(&["volume", "clone", "golden@base", "golden"]).contains("exists already"));
    assert!(cluster.fails(&["volume", "clone", "golden@base", "c", "--pool", "none"]).contains("pool \"none\""));
    for name in ["a b", "", "-x", "a@b", &"x".repeat(256)] {
        cluster.fails(&["volume", "clone", "golden@base", "--", name]);
    }
    for (count, template) in
        [("0", "c%d"), ("-1", "c%d"), ("40001", "c%d"), ("ten", "c%d"), ("3", "c"), ("3", "c%s"), ("3", "a b%d")]
    {
        cluster.fails(&["volume", "clone", "golden@base", "--count", count, "--name-template", template]);
    }
    let long = format!("{}%d", "x".repeat(254));
    let line = cluster.fails(&["volume", "clone", "golden@base", "--count", "10", "--name-template", &long]);
    assert!(line.contains("--name-template makes a name that is none"), "{line}");
    cluster.fails(&["volume", "clone", "golden@base"]);
    assert_eq!(listed(&cluster), ["golden"]);
}
