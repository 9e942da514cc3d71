//! Disk modes through the programs that people use: what is left of what was written, and when; and who is in snapshot groups.

use crate::support::Cluster;
use crate::support::cluster::{Daemons, Export, binary, free_port, signal};
use crate::support::nbd::Nbd;
use crate::support::run;
use crate::support::tools::wait_until;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::Duration;

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
const NONPERSISTENT: &str = "independent-nonpersistent";
/// In several chunks.
const PLACES: [u64; 3] = [0, 5 * MIB, 40 * MIB];

fn connect(export: &Export, name: &str) -> Nbd {
    Nbd::connect(&export.address, name).expect("served")
}

fn write(nbd: &mut Nbd, number: u8) {
    PLACES.iter().for_each(|place| nbd.write(*place, &[number; 4096]).expect("connected").expect("written"));
    nbd.flush().expect("connected").expect("flushed");
}

/// What lies at all places.
fn read(nbd: &mut Nbd) -> u8 {
    let blocks = PLACES.map(|place| nbd.read(place, 4096).expect("connected").expect("read"));
    let number = blocks[0][0];
    assert!(blocks.iter().all(|block| block.iter().all(|byte| *byte == number)), "all of it or nothing");
    number
}

fn read_by(cluster: &Cluster, attach: &[&str]) -> u8 {
    let mut nbd = connect(&cluster.attach(attach), attach[0]);
    let number = read(&mut nbd);
    nbd.disconnect();
    number
}

/// A volume `v` that holds the number 1, detached.
fn written(cluster: &Cluster) {
    let mut nbd = connect(&cluster.volume("v", "64MiB"), "v");
    write(&mut nbd, 1);
    nbd.disconnect();
    cluster.ok(&["volume", "detach", "v"]);
}

fn wait_for(cluster: &Cluster, what: &str, volume: &str, wanted: impl Fn(&Value) -> bool) {
    wait_until(what, PATIENCE, || match cluster.json(&["volume", "show", volume]) {
        shown if wanted(&shown) => Ok(()),
        shown => Err(shown.to_string()),
    });
}

#[test]
fn what_is_written_to_a_nonpersistent_disk_outlives_every_process_and_goes_when_it_is_detached() {
    let cluster = Cluster::up(&[]);
    written(&cluster);
    // Of all three OSDs, which tell it one after the other.
    let live = PLACES.len() * 4096 * 3;
    wait_for(&cluster, "what was written is counted", "v", |shown| shown["space"]["live"] == live);
    let said = cluster.ok(&["volume", "set", "v", "--disk-mode", NONPERSISTENT]);
    assert_eq!(said.trim_end(), "volume v is thin and independent-nonpersistent now and has 64MiB");
    assert!(cluster.ok(&["volume", "show", "v"]).contains("disk mode   independent-nonpersistent\n"));
    assert!(cluster.ok(&["volume", "tree", "v"]).contains("(base)"));
    let export = cluster.attach(&["v"]);
    let mut nbd = connect(&export, "v");
    assert_eq!(read(&mut nbd), 1);
    write(&mut nbd, 2);
    drop(nbd);
    signal(cluster.pid("gateway").expect("runs"), Signal::KILL);
    cluster.up_again(&[]);
    let mut nbd = connect(&export, "v");
    assert_eq!(read(&mut nbd), 2, "it belongs to the attachment, not to the process");
    drop(nbd);
    cluster.kill_everything();
    cluster.up_again(&[]);
    let mut nbd = connect(&export, "v");
    assert_eq!(read(&mut nbd), 2);
    nbd.disconnect();
    assert_eq!(read_by(&cluster, &["v", "--force"]), 2, "the gateway has the attachment that it had");
    cluster.ok(&["volume", "detach", "v"]);
    assert_eq!(read_by(&cluster, &["v"]), 1);
    cluster.ok(&["volume", "detach", "v"]);
    wait_for(&cluster, "the space comes back", "v", |shown| {
        shown["space"]["live"] == live && shown["space"]["garbage"] == 0 && shown["space"]["snapshots"] == 0
    });
    // Once more persistent it is one layer, which is written for good.
    cluster.ok(&["volume", "set", "v", "--disk-mode", "dependent"]);
    wait_for(&cluster, "the layers are merged", "v", |shown| shown["layers"].as_array().map(Vec::len) == Some(1));
    let mut nbd = connect(&cluster.attach(&["v"]), "v");
    assert_eq!(read(&mut nbd), 1);
    write(&mut nbd, 3);
    nbd.disconnect();
    cluster.ok(&["volume", "detach", "v"]);
    assert_eq!(read_by(&cluster, &["v"]), 3);
}

#[test]
fn another_host_that_takes_a_nonpersistent_disk_over_finds_what_it_was() {
    let cluster = Cluster::up(&[]);
    written(&cluster);
    cluster.ok(&["volume", "set", "v", "--disk-mode", NONPERSISTENT]);
    let mds = cluster.up_again(&[])["mds"][0].as_str().expect("an address").to_owned();
    let config = format!(
        "name = \"other\"\nmds = [\"{mds}\"]\nnbd_listen = \"127.0.0.1:{}\"\nnbd_socket = \"{}\"\n",
        free_port(),
        cluster.dir().join("other.sock").display()
    );
    let path = cluster.dir().join("other.toml");
    std::fs::write(&path, config).expect("ours");
    let mut daemons = Daemons::default();
    daemons.start("gateway", Command::new(binary()).arg("gateway").arg("--config").arg(&path).stderr(Stdio::null()));
    let mut nbd = connect(&cluster.attach(&["v"]), "v");
    write(&mut nbd, 2);
    let mut taken = Value::Null;
    wait_until("taken over", PATIENCE, || {
        let attached = run(&mut cluster.command(&["volume", "attach", "v", "--force", "--gateway", "other", "--json"]));
        if !attached.ok {
            return Err(attached.stderr);
        }
        taken = serde_json::from_str(&attached.stdout).map_err(|error| error.to_string())?;
        Ok(())
    });
    let address = taken["nbd_address"].as_str().expect("it has registered");
    let mut other = Nbd::connect(address, "v").expect("served");
    assert_eq!(read(&mut other), 1);
    write(&mut other, 3);
    // The gateway that had it may have told its clients already.
    assert!(nbd.write(0, &[4; 4096]).is_ok_and(|written| written.is_err()) || nbd.flush().is_err(), "it is fenced");
    assert_eq!(read(&mut other), 3);
    other.disconnect();
    cluster.ok(&["volume", "detach", "v"]);
    assert_eq!(read_by(&cluster, &["v"]), 1);
}

#[test]
fn clones_and_images_are_nonpersistent_from_the_beginning() {
    let cluster = Cluster::up(&[]);
    written(&cluster);
    cluster.ok(&["snapshot", "create", "v@base"]);
    let many = ["volume", "clone", "v@base", "--count", "70", "--name-template", "desk-%02d"];
    let clones = cluster.json(&[&many[..], &["--disk-mode", NONPERSISTENT]].concat());
    let modes = clones.as_array().expect("a list").iter().map(|clone| clone["disk_mode"].as_str());
    assert_eq!(modes.filter(|mode| *mode == Some(NONPERSISTENT)).count(), 70);
    for number in [2, 3] {
        let mut nbd = connect(&cluster.attach(&["desk-70"]), "desk-70");
        assert_eq!(read(&mut nbd), 1);
        write(&mut nbd, number);
        assert_eq!(read(&mut nbd), number);
        nbd.disconnect();
        cluster.ok(&["volume", "detach", "desk-70"]);
    }
    // What a clone is filled with stays.
    cluster.ok(&["volume", "flatten", "desk-70"]);
    assert!(cluster.json(&["volume", "show", "desk-70"])["origin"].is_null());
    assert_eq!(read_by(&cluster, &["desk-70"]), 1);
    let image = cluster.dir().join("image.raw");
    std::fs::write(&image, vec![7; 41 << 20]).expect("ours");
    let image = image.to_str().expect("a path");
    cluster.ok(&["volume", "import", image, "image", "--disk-mode", NONPERSISTENT]);
    let mut nbd = connect(&cluster.attach(&["image"]), "image");
    assert_eq!(read(&mut nbd), 7);
    write(&mut nbd, 8);
    nbd.disconnect();
    cluster.ok(&["volume", "detach", "image"]);
    let line = cluster.fails(&["volume", "import", image, "image", "--resume"]);
    assert!(line.contains("volume image is independent-nonpersistent"), "{line}");
    let out = cluster.dir().join("out.raw");
    cluster.ok(&["volume", "export", "image", out.to_str().expect("a path")]);
    assert!(std::fs::read(&out).expect("exported").iter().all(|byte| *byte == 7), "what it falls back to");
    let made = cluster.json(&["volume", "create", "empty", "--size", "64MiB", "--disk-mode", NONPERSISTENT]);
    assert_eq!(made["disk_mode"], NONPERSISTENT);
    let mut nbd = connect(&cluster.attach(&["empty"]), "empty");
    write(&mut nbd, 9);
    nbd.disconnect();
    cluster.ok(&["volume", "detach", "empty"]);
    assert_eq!(read_by(&cluster, &["empty"]), 0);
}

#[test]
fn independent_disks_are_left_out_of_snapshot_groups() {
    let cluster = Cluster::up(&["--osds", "1"]);
    for (volume, mode) in [("a", "dependent"), ("b", "independent-persistent"), ("c", NONPERSISTENT)] {
        cluster.ok(&["volume", "create", volume, "--size", "64MiB", "--disk-mode", mode]);
    }
    let made = cluster.run(&["snapshot", "group", "create", "g", "--volumes", "c,a,b"]);
    assert!(made.ok && made.stdout.trim_end() == "snapshot group g created: a@g", "{}", made.stdout);
    assert!(made.stderr.contains("volume c is an independent disk, and left out"), "{}", made.stderr);
    let made = cluster.json(&["snapshot", "group", "create", "h", "--volumes", "c,a,b"]);
    assert_eq!((&made["left_out"], made["snapshots"].as_array().map(Vec::len)), (&json!(["c", "b"]), Some(1)));
    let line = cluster.fails(&["snapshot", "group", "create", "i", "--volumes", "b,c"]);
    assert!(line.contains("nothing of b, c can be in snapshot group i: independent disks are left out"), "{line}");
    cluster.ok(&["snapshot", "create", "b@alone"]);
    assert_eq!(cluster.json(&["snapshot", "list"]).as_array().map(Vec::len), Some(3));
}

#[test]
fn mistakes_with_modes_make_one_clear_line_and_change_nothing() {
    let cluster = Cluster::up(&["--osds", "1"]);
    cluster.ok(&["volume", "create", "v", "--size", "64MiB"]);
    cluster.ok(&["snapshot", "create", "v@s"]);
    cluster.ok(&["volume", "create", "eager", "--size", "1MiB", "--provision", "eager"]);
    cluster.ok(&["volume", "set", "v", "--disk-mode", NONPERSISTENT]);
    let dependent = "`volume set v --disk-mode dependent`";
    for (arguments, reasons) in [
        (&["snapshot", "create", "v@t"][..], ["can't be kept as a snapshot", dependent]),
        (&["snapshot", "revert", "v@s"], ["can't be reverted", dependent]),
        (&["volume", "attach", "v", "--shared"], ["can't be shared", dependent]),
        (&["volume", "set", "v", "--provision", "eager"], ["can't be made eager", dependent]),
        (&["volume", "set", "v", "--size", "32MiB", "--shrink"], ["can't be shrunk", "--disk-mode dependent"]),
        (&["volume", "set", "eager", "--disk-mode", NONPERSISTENT], ["is eager", "--provision lazy"]),
        (
            &["volume", "create", "w", "--size", "1MiB", "--provision", "eager", "--disk-mode", NONPERSISTENT],
            ["can't be eager", ""],
        ),
        (&["volume", "set", "none", "--disk-mode", "dependent"], ["volume \"none\" does not exist", ""]),
    ] {
        let line = cluster.fails(arguments);
        assert!(reasons.iter().all(|reason| line.contains(reason)), "{arguments:?}: {line}");
    }
    cluster.attach(&["v"]);
    let line = cluster.fails(&["volume", "set", "v", "--disk-mode", "dependent"]);
    assert!(line.contains("volume v is attached to") && line.contains("`volume detach v`"), "{line}");
    assert_eq!(cluster.json(&["volume", "show", "v"])["disk_mode"], NONPERSISTENT);
    assert_eq!(cluster.json(&["volume", "list"]).as_array().map(Vec::len), Some(2));
    cluster.ok(&["volume", "detach", "v"]);
    // Persistent first, then smaller.
    let set = cluster.json(&["volume", "set", "v", "--disk-mode", "dependent", "--size", "32MiB", "--shrink"]);
    assert_eq!((&set["disk_mode"], &set["size"]), (&json!("dependent"), &json!(32 * MIB)));
}
