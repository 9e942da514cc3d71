//! One golden image and a thousand desks: a root file system becomes a volume, clones of it are written, snapshotted, reverted and deleted, and then
//! everything is as it was before, to the block.

use crate::support::Cluster;
use crate::support::tools::{missing, run, run_ok, skipped, wait_until};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const CLONES: usize = 1000;
const WRITTEN: usize = 20;
/// Commands at a time.
const DELETERS: usize = 4;

/// An ext4 file system of the programs of this machine.
fn root_file_system(folder: &Path) -> PathBuf {
    let tree = folder.join("root");
    std::fs::create_dir_all(tree.join("usr")).expect("ours");
    for from in ["/usr/share/zoneinfo", "/etc/ssl", "/bin/sh"].iter().map(Path::new).filter(|from| from.exists()) {
        run_ok(Command::new("cp").args(["-rL"]).arg(from).arg(tree.join("usr")));
    }
    let image = folder.join("root.img");
    run_ok(Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).arg(&tree).arg(&image).arg("64M"));
    image
}

/// What all layers have on all OSDs, as far as they have told.
fn data(cluster: &Cluster) -> Option<u64> {
    let status = cluster.status();
    let osds = status["osds"].as_array().expect("a list");
    osds.iter().map(|osd| osd["space"]["data"].as_u64()).sum()
}

/// OSDs tell with heartbeats; nothing was overwritten, so that is exact.
fn settled_data(cluster: &Cluster) -> u64 {
    let (mut last, mut same) = (None, 0);
    wait_until("what is used goes on changing", Duration::from_secs(60), || {
        let now = data(cluster);
        same = if now == last { same + 1 } else { 0 };
        last = now;
        std::thread::sleep(Duration::from_millis(300));
        if now.is_some() && same >= 4 { Ok(()) } else { Err(format!("{now:?}")) }
    });
    last.expect("it was told")
}

fn wait_for_data(cluster: &Cluster, bytes: u64) {
    wait_until("not all space has come back", Duration::from_secs(60), || match data(cluster) {
        Some(now) if now == bytes => Ok(()),
        now => Err(format!("{now:?} bytes instead of {bytes}")),
    });
}

fn assert_is(cluster: &Cluster, disk: &str, image: &Path) {
    let copy = cluster.dir().join("copy.img");
    cluster.ok(&["volume", "export", disk, copy.to_str().expect("a good path"), "--force"]);
    run_ok(Command::new("cmp").arg(image).arg(&copy));
}

#[test]
fn a_thousand_clones_of_a_file_system_come_and_go_without_a_trace() {
    let test = "a_thousand_clones_of_a_file_system_come_and_go_without_a_trace";
    if missing(test, &["mkfs.ext4", "fio", "cmp"]) {
        return;
    }
    if !run(Command::new("fio").arg("--enghelp")).stdout.contains("nbd") {
        return skipped(test, "this fio has no nbd engine");
    }
    let cluster = Cluster::up(&[]);
    wait_for_data(&cluster, 0);
    let image = root_file_system(cluster.dir());
    cluster.ok(&["volume", "import", image.to_str().expect("a good path"), "golden"]);
    cluster.ok(&["snapshot", "create", "golden@base"]);
    let before = settled_data(&cluster);
    assert!(before > 0);
    let count = CLONES.to_string();
    cluster.ok(&["volume", "clone", "golden@base", "--count", &count, "--name-template", "vdi-%04d"]);
    let names: Vec<String> = (1..=CLONES).map(|number| format!("vdi-{number:04}")).collect();
    let written: Vec<&String> = names.iter().step_by(CLONES / WRITTEN).collect();
    for name in &written {
        let export = cluster.attach(&[name.as_str()]);
        let fio = |size: &str, seed: &str| {
            let mut fio = Command::new("fio");
            fio.args(["--name=verify", "--ioengine=nbd", "--rw=randwrite", "--bsrange=512-16k", "--iodepth=8"])
                .args(["--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--offset=8M"])
                .args([format!("--size={size}"), format!("--randseed={seed}"), format!("--uri={}", export.uri)])
                .current_dir(cluster.dir());
            run_ok(&mut fio);
        };
        fio("2M", "7");
        cluster.ok(&["snapshot", "create", &format!("{name}@mine")]);
        fio("3M", "8");
        cluster.ok(&["volume", "detach", name]);
        cluster.ok(&["snapshot", "revert", &format!("{name}@mine")]);
    }
    assert!(settled_data(&cluster) > before);
    assert_is(&cluster, "vdi-0002", &image);
    assert_is(&cluster, "golden@base", &image);
    std::thread::scope(|scope| {
        for some in names.chunks(CLONES / DELETERS) {
            let cluster = &cluster;
            scope.spawn(move || {
                some.iter().for_each(|name| drop(cluster.ok(&["volume", "delete", name, "--snapshots"])))
            });
        }
    });
    // What clones had is free, what they stood on is as it was.
    wait_for_data(&cluster, before);
    assert_is(&cluster, "golden", &image);
    cluster.ok(&["volume", "delete", "golden", "--snapshots"]);
    wait_for_data(&cluster, 0);
    cluster.wait_in_sync(Duration::from_secs(30));
    cluster.ok(&["down"]);
    cluster.fsck_all();
}
