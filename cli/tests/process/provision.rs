//! When volumes get their space, what pools may promise, and where space is said to be.

use crate::support::Cluster;
use crate::support::nbd::{CMD_TRIM, ENOSPC, Nbd};
use crate::support::tools::wait_until;
use serde_json::Value;
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn write(nbd: &mut Nbd, from: u64, to: u64, number: u8) -> Result<(), u32> {
    (from..to).step_by(MIB as usize).try_for_each(|at| nbd.write(at, &vec![number; MIB as usize]).expect("connected"))
}

fn space(cluster: &Cluster, volume: &str) -> Value {
    cluster.json(&["volume", "show", volume])["space"].clone()
}

/// What OSDs tell comes with heartbeats, and what was overwritten is freed when nothing else is going on.
fn wait_for(cluster: &Cluster, what: &str, volume: &str, wanted: impl Fn(&Value) -> bool) {
    wait_until(what, Duration::from_secs(30), || match space(cluster, volume) {
        space if wanted(&space) => Ok(()),
        space => Err(space.to_string()),
    });
}

#[test]
fn a_lazy_volume_finds_its_space_on_disks_that_others_have_filled() {
    let cluster = Cluster::up(&["--osd-size", "320MiB"]);
    let text = cluster.ok(&["volume", "create", "lazy", "--size", "64MiB", "--provision", "lazy"]);
    assert!(text.contains("all of it reserved"), "{text}");
    let shown = cluster.json(&["volume", "show", "lazy"]);
    assert_eq!((&shown["provision"], &shown["state"]), (&"lazy".into(), &"available".into()));
    assert!(shown["space"]["reserved"].as_u64() >= Some(3 * 64 * MIB), "{shown}");
    let thin = cluster.volume("thin", "1GiB");
    let mut nbd = Nbd::connect(&thin.address, "thin").expect("served");
    assert_eq!(write(&mut nbd, 0, 1024 * MIB, 1), Err(ENOSPC));
    let lazy = cluster.attach(&["lazy"]);
    let mut nbd = Nbd::connect(&lazy.address, "lazy").expect("served");
    for number in 1..=3 {
        assert_eq!(write(&mut nbd, 0, 64 * MIB, number), Ok(()), "round {number}");
    }
    let line = cluster.fails(&["volume", "create", "more", "--size", "64MiB", "--provision", "lazy"]);
    assert!(line.contains("no room to reserve for volume more") && line.contains("are needed there"), "{line}");
    assert_eq!(cluster.json(&["volume", "list"]).as_array().map(Vec::len), Some(2), "nothing is left of it");
    let line = cluster.fails(&["volume", "set", "thin", "--provision", "lazy"]);
    assert!(line.contains("no room to reserve"), "{line}");
    let line = cluster.fails(&["snapshot", "create", "lazy@s"]);
    assert!(line.contains("--thin-snapshots"), "{line}");
    cluster.ok(&["snapshot", "create", "lazy@s", "--thin-snapshots"]);
    assert_eq!(cluster.json(&["volume", "show", "lazy"])["provision"], "thin");
}

#[test]
fn a_volume_is_made_lazy_and_thin_again_while_it_is_written() {
    let cluster = Cluster::up(&[]);
    let export = cluster.volume("v", "64MiB");
    let mut nbd = Nbd::connect(&export.address, "v").expect("served");
    assert_eq!(write(&mut nbd, 0, 16 * MIB, 1), Ok(()));
    assert_eq!(cluster.json(&["volume", "set", "v", "--provision", "lazy"])["provision"], "lazy");
    assert_eq!(write(&mut nbd, 0, 32 * MIB, 2), Ok(()));
    wait_for(&cluster, "32 MiB are filled", "v", |space| space["live"] == 3 * 32 * MIB);
    let left = space(&cluster, "v")["reserved"].as_u64().expect("a number");
    assert!((3 * 32 * MIB..3 * 33 * MIB).contains(&left), "{left}");
    cluster.ok(&["volume", "extend", "v", "--size", "128MiB"]);
    wait_for(&cluster, "more is reserved", "v", |space| space["reserved"].as_u64() > Some(3 * 95 * MIB));
    cluster.kill_everything();
    cluster.up_again(&[]);
    assert_eq!(cluster.json(&["volume", "show", "v"])["provision"], "lazy");
    assert_eq!(cluster.json(&["volume", "set", "v", "--provision", "thin"])["provision"], "thin");
    assert_eq!(space(&cluster, "v")["reserved"], 0);
}

#[test]
fn a_volume_is_shrunk_only_where_nothing_is_lost_or_by_force_and_grows_again_with_zeroes() {
    let cluster = Cluster::up(&["--osds", "1"]);
    let export = cluster.volume("v", "64MiB");
    let mut nbd = Nbd::connect(&export.address, "v").expect("served");
    assert_eq!(write(&mut nbd, 0, 4 * MIB, 1), Ok(()));
    assert_eq!(write(&mut nbd, 20 * MIB, 21 * MIB, 2), Ok(()));
    nbd.disconnect();
    cluster.ok(&["snapshot", "create", "v@s"]);
    let set = |size, more: &[&'static str]| [&["volume", "set", "v", "--size", size][..], more].concat();
    cluster.ok(&["volume", "detach", "v"]);
    assert!(cluster.fails(&set("32MiB", &[])).contains("--shrink makes it smaller"));
    assert_eq!(cluster.json(&set("32MiB", &["--shrink"]))["size"], 32 * MIB);
    let line = cluster.fails(&set("2MiB", &["--shrink"]));
    assert!(line.contains("has data behind 2097152 bytes, the first at 2097152") && line.contains("--force"), "{line}");
    let line = cluster.fails(&set("10MiB", &["--shrink"]));
    assert!(line.contains("the first at 20971520"), "{line}");
    assert_eq!(cluster.json(&set("2MiB", &["--shrink", "--force"]))["size"], 2 * MIB);
    assert_eq!(cluster.json(&set("64MiB", &[]))["size"], 64 * MIB);
    let export = cluster.attach(&["v"]);
    let mut nbd = Nbd::connect(&export.address, "v").expect("served");
    let byte = |nbd: &mut Nbd, at| nbd.read(at, 4096).expect("connected").expect("read")[0];
    assert_eq!([0, 2 * MIB, 20 * MIB].map(|at| byte(&mut nbd, at)), [1, 0, 0]);
    // The end within a block: what lies before it is no reason to refuse, and what lies behind it in that block is cleared alone.
    let odd = 30 * MIB + 512;
    nbd.write(30 * MIB, &[5; 512]).expect("connected").expect("written");
    nbd.disconnect();
    cluster.ok(&["volume", "detach", "v"]);
    let odd_size = odd.to_string();
    assert_eq!(cluster.json(&["volume", "set", "v", "--size", &odd_size, "--shrink"])["size"], odd);
    let less = (odd - 256 - 256).to_string();
    assert!(cluster.fails(&["volume", "set", "v", "--size", &less, "--shrink"]).contains("the first at 31457280"));
    let before = cluster.attach(&["v@s"]);
    let mut nbd = Nbd::connect(&before.address, "v@s").expect("served");
    assert_eq!([0, 2 * MIB, 20 * MIB].map(|at| byte(&mut nbd, at)), [1, 1, 2], "the snapshot keeps it");
}

#[test]
fn a_pool_promises_no_more_than_it_is_allowed_to() {
    let cluster = Cluster::up(&[]);
    cluster.ok(&["pool", "create", "small", "--replicas", "3", "--over-commit", "1.5"]);
    cluster.ok(&["volume", "create", "a", "--size", "2GiB", "--pool", "small"]);
    assert_eq!(cluster.status()["problems"].as_array().map(Vec::len), Some(0), "{}", cluster.status());
    cluster.ok(&["volume", "create", "b", "--size", "512MiB", "--pool", "small"]);
    let problems = cluster.status()["problems"].to_string();
    assert!(problems.contains("volumes of pool small are promised 7.5GiB of the 9GiB"), "{problems}");
    let line = cluster.fails(&["volume", "create", "c", "--size", "1GiB", "--pool", "small"]);
    assert!(line.contains("over-commit ratio of 1.5") && line.contains("pool set small"), "{line}");
    cluster.ok(&["volume", "delete", "b", "--defer", "1d"]);
    let line = cluster.fails(&["volume", "create", "c", "--size", "1GiB", "--pool", "small"]);
    assert!(line.contains("536870912 of them to volumes in the bin (`bin purge`"), "{line}");
    let shown = cluster.ok(&["pool", "show", "small"]);
    assert!(shown.contains("1.5GiB of what is promised are in it"), "{shown}");
    assert!(cluster.status()["problems"].to_string().contains("empty the bin, which has 1.5GiB of them"));
    cluster.ok(&["bin", "restore", "b"]);
    cluster.ok(&["pool", "set", "small", "--over-commit", "none"]);
    cluster.ok(&["volume", "create", "c", "--size", "1GiB", "--pool", "small"]);
    let shown = cluster.json(&["pool", "show", "small"]);
    assert_eq!(
        (&shown["space"]["provisioned"], &shown["space"]["over_commit"]),
        (&(3 * 3584 * MIB).into(), &Value::Null)
    );
    assert!(cluster.fails(&["pool", "show", "nothing"]).contains("\"nothing\" does not exist"));
}

#[test]
fn clones_and_imports_have_their_space_at_once_or_are_not_made() {
    let cluster = Cluster::up(&["--osd-size", "320MiB"]);
    let golden = cluster.volume("golden", "16MiB");
    let mut nbd = Nbd::connect(&golden.address, "golden").expect("served");
    assert_eq!(write(&mut nbd, 0, 4 * MIB, 9), Ok(()));
    nbd.disconnect();
    cluster.ok(&["volume", "detach", "golden"]);
    cluster.ok(&["snapshot", "create", "golden@s"]);
    let provision = |name: &str| cluster.json(&["volume", "show", name])["provision"].clone();
    let clones = ["volume", "clone", "golden@s", "--provision", "lazy", "--count"];
    let text = cluster.ok(&[&clones[..], &["3", "--name-template", "c-%d"]].concat());
    assert!(text.contains("3 volumes cloned") && text.contains("all of it reserved"), "{text}");
    assert!((1..=3).all(|nth| provision(&format!("c-{nth}")) == "lazy"));
    let line = cluster.fails(&[&clones[..], &["40", "--name-template", "d-%d"]].concat());
    assert!(line.contains("no clone is made: there is no room to reserve for volume d-"), "{line}");
    let volumes = |cluster: &Cluster| cluster.json(&["volume", "list"]).as_array().map_or(0, Vec::len);
    wait_until("some clones are left", Duration::from_secs(30), || match volumes(&cluster) {
        4 => Ok(()),
        count => Err(format!("{count} volumes")),
    });
    assert_eq!(cluster.json(&["bin", "list"]).as_array().map(Vec::len), Some(0));
    // OSDs tell a moment later that what was reserved for the others is free again.
    wait_until("there is room again", Duration::from_secs(30), || {
        let ran = cluster.run(&["volume", "clone", "golden@s", "eager", "--provision", "eager"]);
        if ran.ok { Ok(()) } else { Err(ran.stderr) }
    });
    let eager = cluster.json(&["volume", "show", "eager"]);
    assert_eq!((&eager["provision"], &eager["origin"]), (&"eager".into(), &Value::Null));
    let mut nbd = Nbd::connect(&cluster.attach(&["eager"]).address, "eager").expect("served");
    assert_eq!(nbd.read(0, 4096).expect("connected").expect("read"), vec![9; 4096]);
    let image = cluster.dir().join("image");
    std::fs::write(&image, vec![7; 3 * MIB as usize]).expect("made");
    let image = image.to_str().expect("a plain path");
    for (name, how) in [("i", "lazy"), ("j", "eager")] {
        cluster.ok(&["volume", "import", image, name, "--size", "8MiB", "--provision", how]);
        assert_eq!(provision(name), how);
    }
    wait_for(&cluster, "not all is written", "j", |space| space["live"].as_u64() == Some(3 * 8 * MIB));
    let line = cluster.fails(&["volume", "import", image, "k", "--size", "1GiB", "--provision", "lazy"]);
    assert!(line.contains("no room to reserve for volume k"), "{line}");
    assert!(cluster.fails(&["volume", "show", "k"]).contains("does not exist"), "nothing is left of it");
    let line = cluster.fails(&[
        "volume",
        "import",
        image,
        "k",
        "--provision",
        "eager",
        "--disk-mode",
        "independent-nonpersistent",
    ]);
    assert!(line.contains("can't be eager"), "{line}");
}

/// Each block is in one part, and the parts are all that the OSDs have in use.
#[test]
fn what_is_used_is_told_to_the_block_and_comes_back_to_the_block() {
    let cluster = Cluster::up(&[]);
    let export = cluster.volume("v", "64MiB");
    let data = |cluster: &Cluster| -> u64 {
        let osds = cluster.status()["osds"].as_array().cloned().unwrap_or_default();
        osds.iter().map(|osd| osd["space"]["data"].as_u64().unwrap_or(u64::MAX / 8)).sum()
    };
    wait_until("nothing is used", Duration::from_secs(20), || match data(&cluster) {
        0 => Ok(()),
        bytes => Err(bytes.to_string()),
    });
    let mut nbd = Nbd::connect(&export.address, "v").expect("served");
    assert_eq!(write(&mut nbd, 0, 10 * MIB, 1), Ok(()));
    cluster.ok(&["snapshot", "create", "v@one"]);
    assert_eq!(write(&mut nbd, 4 * MIB, 8 * MIB, 2), Ok(()));
    assert_eq!(write(&mut nbd, 4 * MIB, 8 * MIB, 3), Ok(()), "over what is live");
    wait_for(&cluster, "live and snapshots", "v", |s| s["live"] == 12 * MIB && s["snapshots"] == 30 * MIB);
    cluster.ok(&["volume", "clone", "v@one", "c"]);
    wait_for(&cluster, "shared", "v", |s| s["shared"] == 30 * MIB && s["snapshots"] == 0 && s["live"] == 12 * MIB);
    assert_eq!(space(&cluster, "c")["live"], 0);
    let pool = cluster.json(&["pool", "show", "default"])["space"].clone();
    let parts = ["live", "snapshots", "shared", "garbage"].map(|part| pool[part].as_u64().expect("a number"));
    assert_eq!(parts.iter().sum::<u64>(), data(&cluster), "{pool}");
    nbd.send(CMD_TRIM, 0, 4 * MIB, 4 * MIB as u32, &[]).expect("connected");
    assert_eq!(nbd.receive().expect("connected").1, 0);
    wait_for(&cluster, "trimmed", "v", |s| s["live"] == 0);
    cluster.ok(&["volume", "delete", "c"]);
    nbd.disconnect();
    cluster.ok(&["volume", "detach", "v"]);
    cluster.ok(&["volume", "delete", "v", "--snapshots"]);
    wait_until("everything is free again", Duration::from_secs(30), || match data(&cluster) {
        0 => Ok(()),
        bytes => Err(format!("{bytes} bytes")),
    });
}
