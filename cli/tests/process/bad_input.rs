//! What people and broken machines do wrong: one clear line, nothing destroyed.

use crate::support::nbd::{EINVAL, EPERM, Nbd};
use crate::support::tools::{missing, skipped};
use crate::support::{Cluster, run, run_ok};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

#[test]
fn sizes_names_and_duplicates_are_refused_in_one_line() {
    let cluster = Cluster::up(&[]);
    for size in ["0", "-1", "ten", "1.2.3G", "10Q", "99999999999P", "513", "", " "] {
        let line = cluster.fails(&["volume", "create", "v", "--size", size]);
        assert!(line.len() < 300, "{line}");
    }
    for size in ["10G", "1.5TiB", "4096"] {
        cluster.ok(&["volume", "create", &format!("size-{size}"), "--size", size]);
    }
    for name in ["a b", "", "-x", ".x", "a/b", "a@b", "ä", &"x".repeat(256)] {
        cluster.fails(&["volume", "create", "--size", "1GiB", "--", name]);
        cluster.fails(&["pool", "create", "--replicas", "3", "--", name]);
    }
    cluster.ok(&["volume", "create", "v", "--size", "1GiB"]);
    assert!(cluster.fails(&["volume", "create", "v", "--size", "1GiB"]).contains("exists already"));
    assert!(cluster.fails(&["volume", "show", "w"]).contains("does not exist"));
    assert!(cluster.fails(&["volume", "delete", "w"]).contains("does not exist"));
    assert!(cluster.fails(&["volume", "attach", "w"]).contains("does not exist"));
    assert!(cluster.fails(&["volume", "create", "w", "--size", "1G", "--pool", "none"]).contains("does not exist"));
    cluster.fails(&["volume", "extend", "v", "--size", "512MiB"]);
    cluster.fails(&["pool", "create", "p", "--replicas", "0"]);
    cluster.fails(&["pool", "create", "p", "--replicas", "9"]);
    cluster.fails(&["pool", "create", "p", "--replicas", "3", "--min-size", "4"]);
    assert!(cluster.fails(&["pool", "create", "default", "--replicas", "3"]).contains("exists already"));
}

#[test]
fn an_attached_volume_is_not_deleted_nor_attached_twice() {
    let cluster = Cluster::up(&[]);
    cluster.volume("v", "64MiB");
    assert!(cluster.fails(&["volume", "attach", "v"]).contains("is attached to"));
    cluster.fails(&["volume", "delete", "v"]);
    cluster.ok(&["volume", "detach", "v"]);
    cluster.fails(&["volume", "detach", "v"]);
    cluster.ok(&["volume", "delete", "v"]);
}

#[test]
fn a_read_only_attachment_refuses_writes() {
    let cluster = Cluster::up(&[]);
    cluster.ok(&["volume", "create", "v", "--size", "64MiB"]);
    let volume = cluster.attach(&["v", "--read-only"]);
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    assert_eq!(nbd.flags & 2, 2, "NBD_FLAG_READ_ONLY");
    assert_eq!(nbd.write(0, &[1; 512]).expect("connected"), Err(EPERM));
    assert!(nbd.read(0, 512).expect("connected").is_ok());
    assert_eq!(nbd.read(64 << 20, 512).expect("connected").err(), Some(EINVAL));
}

/// A stopped cluster whose osd.1 has its disk spoilt, and what `up` says then. The disk must not be touched.
fn up_with_spoilt_disk(spoil: impl Fn(&Path)) -> String {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "64MiB");
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    (0..64).for_each(|n| nbd.write(n << 20, &[n as u8 + 1; 65536]).expect("connected").expect("written"));
    nbd.disconnect();
    cluster.ok(&["down"]);
    let disk = cluster.dir().join("osd.1/disk");
    spoil(&disk);
    let before = std::fs::read(&disk).expect("readable");
    let line = cluster.fails(&["up"]);
    assert!(line.contains("osd.1") || line.contains("osd.1/disk"), "{line}");
    assert!(std::fs::read(&disk).expect("readable") == before, "the disk was written: {line}");
    // The others serve, and nothing is lost.
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served by the others");
    (0..64).for_each(|n| {
        let data = nbd.read(n << 20, 65536).expect("connected").expect("read");
        assert!(data == vec![n as u8 + 1; 65536], "block {n}");
    });
    line
}

#[test]
fn a_wiped_disk_is_named_and_left_alone() {
    let line = up_with_spoilt_disk(|disk| {
        let file = std::fs::OpenOptions::new().write(true).open(disk).expect("ours");
        let len = file.metadata().expect("ours").len();
        file.set_len(0).and_then(|()| file.set_len(len)).expect("sparse");
    });
    assert!(line.contains("superblock") || line.contains("holds no"), "{line}");
}

#[test]
fn a_foreign_disk_is_named_and_left_alone() {
    let line = up_with_spoilt_disk(|disk| {
        let file = std::fs::OpenOptions::new().write(true).open(disk).expect("ours");
        let len = file.metadata().expect("ours").len();
        file.set_len(0).and_then(|()| file.set_len(len)).expect("sparse");
        file.write_all_at(b"this is somebody's file system", 1080).expect("ours");
        file.write_all_at(&[0xab; 8192], 0).expect("ours");
    });
    assert!(line.contains("superblock"), "{line}");
}

#[test]
fn another_osds_disk_is_named_and_left_alone() {
    let cluster = Cluster::up(&[]);
    cluster.ok(&["down"]);
    let (one, two) = (cluster.dir().join("osd.1/disk"), cluster.dir().join("osd.2/disk"));
    let spare = cluster.dir().join("spare");
    std::fs::rename(&one, &spare)
        .and_then(|()| std::fs::rename(&two, &one))
        .and_then(|()| std::fs::rename(&spare, &two))
        .expect("ours");
    let line = cluster.fails(&["up"]);
    assert!(line.contains("osd.1") && line.contains("osd.2"), "{line}");
}

/// A file that begins as an ext4 file system does.
fn file_with_ext4(path: &Path) {
    let file = std::fs::File::create(path).expect("ours");
    file.set_len(1 << 30).and_then(|()| file.write_all_at(&[0x53, 0xef], 0x438)).expect("sparse");
}

#[test]
fn a_refused_disk_uses_up_no_osd_id() {
    let cluster = Cluster::up(&["--osds", "1"]);
    let foreign = cluster.dir().join("foreign");
    file_with_ext4(&foreign);
    let foreign = foreign.display().to_string();
    let fresh = cluster.dir().join("fresh").display().to_string();
    assert!(cluster.fails(&["osd", "create", "--disk", &foreign]).contains("ext2/3/4"));
    assert!(cluster.fails(&["osd", "create", "--disk", &foreign, "--size", "1GiB"]).contains("ext2/3/4"));
    assert!(cluster.fails(&["osd", "create", "--disk", &fresh, "--size", "16MiB"]).contains("the store needs"));
    assert!(cluster.fails(&["osd", "create", "--disk", &fresh]).contains("/fresh"));
    assert!(!Path::new(&fresh).exists(), "nothing was made for nothing");
    assert_eq!(cluster.json(&["osd", "list"]).as_array().map(Vec::len), Some(1));
    assert_eq!(cluster.json(&["osd", "create", "--disk", &fresh, "--size", "1GiB"])["osd"], 2);
}

#[test]
fn a_disk_that_up_refuses_keeps_nothing_else_down() {
    let cluster = Cluster::nothing();
    cluster.keep_ports();
    let foreign = cluster.dir().join("foreign");
    file_with_ext4(&foreign);
    let foreign = foreign.display().to_string();
    // Of a cluster that isn't there yet, nothing is begun.
    assert!(cluster.fails(&["up", "--osd-size", "16MiB"]).contains("--osd-size 16MiB"));
    assert!(cluster.fails(&["up", "--disk", &foreign]).contains("ext2/3/4"));
    assert_eq!(cluster.pids(), vec![]);
    cluster.up_again(&["--osds", "1"]);
    let theirs = Cluster::up(&["--osds", "1"]);
    theirs.ok(&["down"]);
    let other = theirs.dir().join("osd.1/disk").display().to_string();

    // A healthy one stays so, is brought up again, and grows as if nobody had asked.
    assert!(cluster.fails(&["up", "--disk", &foreign]).contains("ext2/3/4"));
    assert!(cluster.fails(&["up", "--osds", "2", "--osd-size", "16MiB"]).contains("--osd-size 16MiB"));
    cluster.kill_everything();
    assert!(cluster.fails(&["up", "--disk", &other]).contains("osd.1 of cluster"));
    assert_eq!(cluster.pids().len(), 3, "a metadata node, an OSD, a gateway run all the same");
    assert_eq!(cluster.up_again(&[])["started"].as_array().map(Vec::len), Some(0));
    cluster.wait_in_sync(Duration::from_secs(20));
    assert_eq!(cluster.status()["healthy"], true);
    let up = cluster.up_again(&["--osds", "2", "--osd-size", "1GiB"]);
    assert_eq!(up["osds"][1]["id"], 2, "no id was used up");
}

#[test]
fn a_disk_that_is_spoilt_after_it_was_noted_down_gives_its_id_to_the_next() {
    let cluster = Cluster::up(&["--osds", "1"]);
    let foreign = cluster.dir().join("foreign");
    file_with_ext4(&foreign);
    for id in [2, 3] {
        let disk = cluster.dir().join(format!("x-{id}")).display().to_string();
        assert_eq!(cluster.json(&["osd", "create", "--disk", &disk, "--size", "1GiB"])["osd"], id);
    }
    // What an `up` leaves that was interrupted between the id and the disk: another's disk, and a file that is too small.
    let file = cluster.dir().join("cluster.toml");
    let text = std::fs::read_to_string(&file).expect("written by up");
    let pending = format!(
        "\n[[pending]]\nid = 2\ndisk = \"{}\"\n\n[[pending]]\nid = 3\nbytes = {}\n",
        foreign.display(),
        16 << 20
    );
    std::fs::write(&file, text + &pending).expect("ours");
    assert!(cluster.fails(&["up"]).contains("ext2/3/4"));
    cluster.up_again(&[]);
    let up = cluster.up_again(&["--osds", "3", "--osd-size", "1GiB"]);
    assert_eq!((&up["osds"][1]["id"], &up["osds"][2]["id"]), (&2.into(), &3.into()));
    assert_eq!(cluster.json(&["osd", "list"]).as_array().map(Vec::len), Some(3));
}

#[test]
fn a_read_only_file_is_named() {
    if rustix::process::geteuid().is_root() {
        // Root may write it all the same, so make the file immutable, where the file system can.
        let cluster = Cluster::up(&["--osds", "1"]);
        cluster.ok(&["down"]);
        let disk = cluster.dir().join("osd.1/disk");
        if missing("a_read_only_file_is_named", &["chattr"]) || !run(Command::new("chattr").arg("+i").arg(&disk)).ok {
            skipped("a_read_only_file_is_named", "no immutable files here");
            return;
        }
        let line = cluster.fails(&["up"]);
        run_ok(Command::new("chattr").arg("-i").arg(&disk));
        assert!(line.contains("osd.1/disk"), "{line}");
        cluster.up_again(&[]);
        return;
    }
    let cluster = Cluster::up(&["--osds", "1"]);
    cluster.ok(&["down"]);
    let disk = cluster.dir().join("osd.1/disk");
    std::fs::set_permissions(&disk, std::fs::Permissions::from_mode(0o444)).expect("ours");
    let line = cluster.fails(&["up"]);
    assert!(line.contains("osd.1/disk") && line.contains("read-only"), "{line}");
}

#[test]
fn a_full_host_disk_is_said_and_nothing_is_lost() {
    let test = "a_full_host_disk_is_said_and_nothing_is_lost";
    if !rustix::process::geteuid().is_root() {
        return skipped(test, "mounting a small file system needs root");
    }
    if missing(test, &["mount", "umount"]) {
        return;
    }
    let cluster = Cluster::nothing();
    let small = SmallDisk::mount(&cluster.dir().join("small"), "256m");
    let disk = small.0.join("disk");
    std::fs::File::create(&disk).and_then(|file| file.set_len(1 << 30)).expect("sparse");
    cluster.up_again(&["--disk", &disk.display().to_string()]);
    let volume = cluster.volume("v", "900MiB");
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    nbd.stream.set_read_timeout(Some(Duration::from_secs(3))).expect("a socket");
    let mut written = 0;
    for n in 0..800u64 {
        match nbd.write(n << 20, &vec![n as u8; 1 << 20]) {
            Ok(Ok(())) => written = n + 1,
            // The OSD has stopped, or refuses.
            _ => break,
        }
    }
    assert!((50..400).contains(&written), "{written} MiB fit into 256");
    let log = std::fs::read_to_string(cluster.dir().join("logs/osd.1.log")).expect("the OSD's log");
    assert!(log.contains("full") || log.contains("No space left"), "{}", cluster.logs());
    // Room is made; everything acknowledged is there.
    run_ok(Command::new("mount").args(["-o", "remount,size=2g"]).arg(&small.0));
    cluster.kill_everything();
    cluster.up_again(&[]);
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    for n in 0..written {
        let data = nbd.read(n << 20, 1 << 20).expect("connected").expect("read");
        assert!(data.iter().all(|byte| *byte == n as u8), "MiB {n}");
    }
    drop(nbd);
    cluster.kill_everything();
}

/// A file system in memory, unmounted when dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(path: &Path, size: &str) -> SmallDisk {
        std::fs::create_dir(path).expect("ours");
        run_ok(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(path));
        SmallDisk(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

#[test]
fn configurations_are_checked_whole_and_printed() {
    let cluster = Cluster::up(&["--osds", "1"]);
    for (daemon, file) in [("mds", "mds.1"), ("osd", "osd.1"), ("gateway", "gateway")] {
        let path = cluster.dir().join(file).join("config.toml");
        let path_text = path.display().to_string();
        let printed = cluster.ok(&[daemon, "--config", &path_text, "--print-config"]);
        assert!(printed.contains('='), "{printed}");
        cluster.json(&[daemon, "--config", &path_text, "--print-config"]);
        let spoilt = cluster.dir().join("spoilt.toml");
        let text = std::fs::read_to_string(&path).expect("written by up");
        std::fs::write(&spoilt, format!("surprise = 1\n{text}")).expect("ours");
        let line = cluster.fails(&[daemon, "--config", &spoilt.display().to_string(), "--print-config"]);
        assert!(line.contains("spoilt.toml") && line.contains("surprise"), "{line}");
    }
}
