//! What linked clones hold, through NBD: what their snapshot held, what was written to them, and nothing of each other.

use crate::support::Cluster;
use crate::support::cluster::Export;
use crate::support::nbd::{CMD_WRITE_ZEROES, Nbd};
use crate::support::tools::{missing, rounds, run_ok, wait_until};
use std::process::Command;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const BLOCK: u32 = 4096;
/// Within a chunk, across its end, and far away.
const PLACES: [u64; 4] = [0, 4 * MIB - 4096, 4 * MIB, 40 * MIB];

fn content(number: u8) -> Vec<u8> {
    vec![number; BLOCK as usize]
}

fn connect(export: &Export) -> Nbd {
    let name = export.uri.rsplit('/').next().expect("a name");
    Nbd::connect(&export.address, name).expect("served")
}

fn write_all(nbd: &mut Nbd, number: u8) {
    for at in PLACES {
        nbd.write(at, &content(number)).expect("connected").expect("written");
    }
}

fn read(nbd: &mut Nbd, at: u64, len: u32) -> Vec<u8> {
    nbd.read(at, len).expect("connected").expect("read")
}

fn assert_holds(nbd: &mut Nbd, number: u8) {
    for at in PLACES {
        let data = read(nbd, at, BLOCK);
        assert!(data == content(number), "at {at}: {} instead of {number}", data[0]);
    }
}

/// A volume whose snapshot `golden@base` holds 1 in some blocks, and which holds 2 there by now.
fn golden() -> (Cluster, Export) {
    let cluster = Cluster::up(&[]);
    let golden = cluster.volume("golden", "64MiB");
    let mut nbd = connect(&golden);
    write_all(&mut nbd, 1);
    cluster.ok(&["snapshot", "create", "golden@base"]);
    write_all(&mut nbd, 2);
    nbd.disconnect();
    (cluster, golden)
}

#[test]
fn a_clone_holds_what_its_snapshot_held_and_what_is_written_to_it() {
    let (cluster, golden) = golden();
    cluster.ok(&["volume", "clone", "golden@base", "one"]);
    cluster.ok(&["volume", "clone", "golden@base", "two"]);
    let mut one = connect(&cluster.attach(&["one"]));
    assert_eq!(one.size, 64 * MIB);
    assert_holds(&mut one, 1);
    assert!(read(&mut one, 20 * MIB, BLOCK) == content(0), "nobody wrote there");
    write_all(&mut one, 3);
    assert_holds(&mut one, 3);
    assert_holds(&mut connect(&cluster.attach(&["two"])), 1);
    assert_holds(&mut connect(&golden), 2);
    // A clone of a clone, which stands on two others.
    cluster.ok(&["snapshot", "create", "one@mine"]);
    cluster.ok(&["volume", "clone", "one@mine", "three"]);
    one.write(PLACES[0], &content(4)).expect("connected").expect("written");
    let mut three = connect(&cluster.attach(&["three"]));
    assert_holds(&mut three, 3);
    three.write(PLACES[0], &content(5)).expect("connected").expect("written");
    assert!(read(&mut one, PLACES[0], BLOCK) == content(4));
    cluster.kill_everything();
    cluster.up_again(&[]);
    let mut three = connect(&cluster.attach(&["three", "--force"]));
    assert!(read(&mut three, PLACES[0], BLOCK) == content(5) && read(&mut three, PLACES[1], BLOCK) == content(3));
}

#[test]
fn parts_of_blocks_zeroes_and_what_lies_beyond_are_right_in_a_clone() {
    let (cluster, _) = golden();
    cluster.ok(&["volume", "clone", "golden@base", "one"]);
    cluster.ok(&["volume", "extend", "one", "--size", "128MiB"]);
    let mut one = connect(&cluster.attach(&["one"]));
    one.write(PLACES[0] + 512, &[7; 512]).expect("connected").expect("written");
    let data = read(&mut one, PLACES[0], BLOCK);
    assert!(data[..512] == [1; 512] && data[512..1024] == [7; 512] && data[1024..] == content(1)[1024..]);
    // From the middle of one block of the base to the middle of another, across chunks.
    one.write(PLACES[1] + 100, &content(8)).expect("connected").expect("written");
    let data = read(&mut one, PLACES[1], 2 * BLOCK);
    assert!(data[..100] == [1; 100] && data[100..4196] == content(8)[..] && data[4196..] == content(1)[100..]);
    // NBD_CMD_TRIM is 4.
    for (command, at) in [(CMD_WRITE_ZEROES, PLACES[2]), (4, PLACES[3])] {
        one.send(command, 0, at, BLOCK, &[]).expect("connected");
        assert_eq!(one.receive().expect("connected").1, 0);
        assert!(read(&mut one, at, BLOCK) == content(0), "command {command} hides what the base has");
    }
    assert!(read(&mut one, 100 * MIB, BLOCK) == content(0), "beyond the end of the base");
    one.write(100 * MIB + 10, &[9; 10]).expect("connected").expect("written");
    let data = read(&mut one, 100 * MIB, BLOCK);
    assert!(data[..10] == [0; 10] && data[10..20] == [9; 10] && data[20..] == content(0)[20..]);
}

#[test]
fn a_clone_outlives_what_it_stands_on_and_gives_its_space_back() {
    let cluster = Cluster::up(&[]);
    let before = cluster.used_bytes();
    let golden = cluster.volume("golden", "64MiB");
    let mut nbd = connect(&golden);
    for at in (0..16 * MIB).step_by(1 << 20) {
        nbd.write(at, &vec![1; 1 << 20]).expect("connected").expect("written");
    }
    cluster.ok(&["snapshot", "create", "golden@base"]);
    nbd.disconnect();
    cluster.ok(&["volume", "clone", "golden@base", "one"]);
    let mut one = connect(&cluster.attach(&["one"]));
    one.write(0, &content(3)).expect("connected").expect("written");
    cluster.ok(&["volume", "detach", "golden"]);
    cluster.ok(&["volume", "delete", "golden", "--snapshots"]);
    assert_eq!(cluster.status()["volumes_kept"], 1);
    assert!(read(&mut one, 0, BLOCK) == content(3) && read(&mut one, 15 * MIB, BLOCK) == content(1));
    one.disconnect();
    cluster.ok(&["volume", "detach", "one"]);
    let mut one = connect(&cluster.attach(&["one"]));
    assert!(read(&mut one, 8 * MIB, BLOCK) == content(1), "opened anew");
    one.disconnect();
    cluster.ok(&["volume", "detach", "one"]);
    cluster.ok(&["volume", "delete", "one"]);
    wait_until("the space is free", Duration::from_secs(30), || {
        let (used, kept) = (cluster.used_bytes(), cluster.status()["volumes_kept"].clone());
        // Logs and checkpoints take what they take.
        if used <= before + 4 * MIB && kept == 0 { Ok(()) } else { Err(format!("{used} bytes, {before} before")) }
    });
    cluster.ok(&["down"]);
    cluster.fsck_all();
}

/// The snapshot's layer is merged into the next when the last clone has gone, and not before.
#[test]
fn a_snapshot_with_clones_loses_its_name_and_they_read_on() {
    let (cluster, golden) = golden();
    cluster.ok(&["volume", "clone", "golden@base", "one"]);
    let mut one = connect(&cluster.attach(&["one"]));
    one.write(PLACES[1], &content(3)).expect("connected").expect("written");
    cluster.ok(&["snapshot", "delete", "golden@base"]);
    assert!(cluster.ok(&["volume", "list"]).contains("golden (the snapshot is deleted)"));
    assert!(cluster.ok(&["volume", "tree", "golden"]).contains("clone one"));
    let layers = || cluster.json(&["volume", "show", "golden"])["layers"].as_array().map_or(0, Vec::len);
    assert_eq!(layers(), 2);
    assert!(read(&mut one, PLACES[0], BLOCK) == content(1) && read(&mut one, PLACES[1], BLOCK) == content(3));
    cluster.kill_everything();
    cluster.up_again(&[]);
    let mut one = connect(&cluster.attach(&["one", "--force"]));
    assert!(read(&mut one, PLACES[3], BLOCK) == content(1) && read(&mut one, PLACES[1], BLOCK) == content(3));
    one.disconnect();
    cluster.ok(&["volume", "detach", "one"]);
    cluster.ok(&["volume", "delete", "one"]);
    wait_until("the layer is merged", Duration::from_secs(60), || {
        if layers() == 1 { Ok(()) } else { Err(format!("{} layers", layers())) }
    });
    assert_holds(&mut connect(&golden), 2);
    cluster.ok(&["down"]);
    cluster.fsck_all();
}

/// A file system is cloned many times (a thousand with ten rounds); some clones are written, snapshotted, reverted and deleted.
#[test]
fn clones_of_a_file_system_come_and_go() {
    if missing("clones_of_a_file_system_come_and_go", &["mkfs.ext4", "e2fsck", "qemu-img", "fio"]) {
        return;
    }
    let cluster = Cluster::up(&[]);
    let before = cluster.used_bytes();
    let count = (100 * rounds()).min(1000);
    let image = cluster.dir().join("root.img");
    let image = image.to_str().expect("text");
    run_ok(Command::new("mkfs.ext4").args(["-q", "-d", concat!(env!("CARGO_MANIFEST_DIR"), "/src"), image, "96M"]));
    let golden = cluster.volume("golden", "96MiB");
    run_ok(Command::new("qemu-img").args(["convert", "-n", "-f", "raw", "-O", "raw", image, &golden.uri]));
    cluster.ok(&["snapshot", "create", "golden@base"]);
    cluster.ok(&["volume", "clone", "golden@base", "--count", &count.to_string(), "--name-template", "vdi-%04d"]);
    for number in [1, count / 2, count] {
        let name = format!("vdi-{number:04}");
        let export = cluster.attach(&[&name]);
        run_ok(Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw", image, &export.uri]));
        cluster.ok(&["snapshot", "create", &format!("{name}@fresh")]);
        let fio =
            ["--name=verify", "--ioengine=nbd", "--rw=randwrite", "--bsrange=512-64k", "--size=8M", "--iodepth=8"];
        let checks =
            ["--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--offset=16M", "--blocksize_unaligned=0"];
        run_ok(
            Command::new("fio").args(fio).args(checks).arg(format!("--uri={}", export.uri)).current_dir(cluster.dir()),
        );
        cluster.ok(&["volume", "detach", &name]);
        cluster.ok(&["snapshot", "revert", &format!("{name}@fresh")]);
        let export = cluster.attach(&[&name]);
        run_ok(Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw", image, &export.uri]));
        let copy = cluster.dir().join("copy.img");
        let copy = copy.to_str().expect("text");
        run_ok(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "raw", &export.uri, copy]));
        run_ok(Command::new("e2fsck").args(["-fn", copy]));
        cluster.ok(&["volume", "detach", &name]);
        cluster.ok(&["volume", "delete", &name, "--snapshots"]);
    }
    cluster.ok(&["volume", "detach", "golden"]);
    cluster.ok(&["volume", "delete", "golden", "--snapshots"]);
    let listed = cluster.json(&["volume", "list"]);
    for volume in listed.as_array().expect("a list") {
        let name = volume["name"].as_str().expect("a name");
        if volume["state"] != "deleting" {
            cluster.ok(&["volume", "delete", name]);
        }
    }
    wait_until("everything is gone", Duration::from_secs(60), || {
        let (status, used) = (cluster.status(), cluster.used_bytes());
        let is_gone = status["volumes"] == 0 && status["volumes_kept"] == 0 && used <= before + 4 * MIB;
        if is_gone { Ok(()) } else { Err(format!("{} volumes, {used} bytes, {before} before", status["volumes"])) }
    });
}
