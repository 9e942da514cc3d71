//! The programs that people use: qemu-img, nbdcopy, fio, qemu-io, nbdinfo.

use crate::support::cluster::Export;
use crate::support::nbd::Nbd;
use crate::support::tools::wait_until;
use crate::support::{Cluster, missing, run, run_ok};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const IMAGE: &str = "256M";
const IMAGE_SIZE: &str = "256MiB";

/// An ext4 file system with the files of a Debian package, or this machine's documentation.
fn make_image(folder: &Path) -> PathBuf {
    let content = folder.join("content");
    std::fs::create_dir(&content).expect("ours");
    let fetched = run(Command::new("apt-get").args(["download", "-qq", "manpages"]).current_dir(folder));
    let package = std::fs::read_dir(folder)
        .expect("ours")
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "deb"));
    match package.filter(|_| fetched.ok) {
        Some(package) => drop(run_ok(Command::new("dpkg").arg("-x").arg(package).arg(&content))),
        None => drop(run(Command::new("cp").args(["-a", "/usr/share/doc/."]).arg(&content))),
    }
    let image = folder.join("image.raw");
    run_ok(Command::new("mkfs.ext4").args(["-q", "-d"]).arg(&content).arg(&image).arg(IMAGE));
    image
}

fn assert_same_and_clean(image: &Path, copy: &Path) {
    let sum = |path: &Path| run_ok(Command::new("sha256sum").arg(path)).split(' ').next().map(str::to_owned);
    assert_eq!(sum(image), sum(copy), "{} came back changed", copy.display());
    run_ok(Command::new("e2fsck").arg("-fn").arg(copy));
}

#[test]
fn an_image_goes_in_and_comes_out_the_same() {
    if missing("an_image_goes_in_and_comes_out_the_same", &["qemu-img", "nbdcopy", "mkfs.ext4", "e2fsck"]) {
        return;
    }
    let cluster = Cluster::up(&[]);
    let image = make_image(cluster.dir());
    let qcow = cluster.dir().join("image.qcow2");
    run_ok(Command::new("qemu-img").args(["convert", "-O", "qcow2"]).arg(&image).arg(&qcow));

    // In with qemu-img over TCP, out with nbdcopy over the socket.
    let one = cluster.volume("one", IMAGE_SIZE);
    run_ok(Command::new("qemu-img").args(["convert", "-n", "-f", "qcow2", "-O", "raw"]).arg(&qcow).arg(&one.uri));
    let out = cluster.dir().join("one.raw");
    run_ok(Command::new("nbdcopy").arg(&one.unix_uri).arg(&out));
    assert_same_and_clean(&image, &out);

    // In with nbdcopy and several connections, out with qemu-img, after a restart of everything.
    let two = cluster.volume("two", IMAGE_SIZE);
    run_ok(Command::new("nbdcopy").args(["--connections=4", "--flush"]).arg(&image).arg(&two.uri));
    cluster.ok(&["down"]);
    cluster.up_again(&[]);
    let out = cluster.dir().join("two.raw");
    run_ok(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "raw"]).arg(&two.unix_uri).arg(&out));
    assert_same_and_clean(&image, &out);
    cluster.wait_in_sync(Duration::from_secs(30));
    cluster.ok(&["down"]);
    cluster.fsck_all();
}

#[test]
fn fio_verifies_while_osds_are_killed_and_restarted() {
    let test = "fio_verifies_while_osds_are_killed_and_restarted";
    if missing(test, &["fio"]) {
        return;
    }
    if !run(Command::new("fio").arg("--enghelp")).stdout.contains("nbd") {
        return crate::support::tools::skipped(test, "this fio has no nbd engine");
    }
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "256MiB");
    let mut fio = Command::new("fio")
        .args(["--name=verify", "--ioengine=nbd", "--rw=randwrite", "--bs=4k", "--iodepth=16", "--size=160M"])
        // Slow enough to still be writing at the second kill.
        .args(["--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--rate_iops=4000", "--randseed=7"])
        .arg(format!("--uri={}", volume.uri))
        .current_dir(cluster.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fio");
    let is_in_sync = |cluster: &Cluster| {
        let pgs = cluster.status()["pgs"].clone();
        pgs["active"] == pgs["total"]
    };
    for osd in ["1", "2"] {
        cluster.ok(&["osd", "kill", osd]);
        wait_until("the loss is noticed", Duration::from_secs(20), || match is_in_sync(&cluster) {
            true => Err("in sync".into()),
            false => Ok(()),
        });
        assert!(fio.try_wait().expect("our child").is_none(), "fio ended before osd.{osd} was restarted");
        cluster.ok(&["osd", "start", osd]);
        cluster.wait_in_sync(Duration::from_secs(60));
    }
    let output = fio.wait_with_output().expect("our child");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "fio: {}\n{out}\n{err}", output.status);
    assert!(!err.contains("verify"), "{err}");
    cluster.wait_in_sync(Duration::from_secs(60));
    cluster.ok(&["down"]);
    cluster.fsck_all();
}

/// Runs qemu-io commands; all must succeed.
fn qemu_io(export: &Export, options: &[&str], commands: &[&str]) -> String {
    let mut command = Command::new("qemu-io");
    command.args(["-f", "raw"]).args(options);
    for one in commands {
        command.args(["-c", one]);
    }
    let out = run_ok(command.arg(&export.uri));
    for bad in ["failed", "error", "Pattern verification"] {
        assert!(!out.contains(bad), "{commands:?}: {out}");
    }
    out
}

#[test]
fn qemu_io_writes_zeroes_discards_and_misaligned_pieces() {
    if missing("qemu_io_writes_zeroes_discards_and_misaligned_pieces", &["qemu-io"]) {
        return;
    }
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "256MiB");
    qemu_io(&volume, &[], &["write -f -P 0x11 0 1M", "read -P 0x11 0 1M", "flush"]);
    qemu_io(&volume, &[], &["write -z 64k 64k", "read -P 0 64k 64k", "read -P 0x11 0 64k", "read -P 0x11 128k 64k"]);
    qemu_io(&volume, &[], &["write -z -u 256k 64k", "read -P 0 256k 64k"]);
    qemu_io(&volume, &[], &["discard 512k 128k", "read -P 0 512k 128k", "read -P 0x11 640k 384k"]);
    // Pieces of sectors and of blocks, over the border between chunks.
    qemu_io(
        &volume,
        &[],
        &["write -P 0x22 512 512", "read -P 0x22 512 512", "read -P 0x11 0 512", "read -P 0x11 1k 3k"],
    );
    qemu_io(&volume, &[], &["write -P 0x33 4194200 300", "read -P 0x33 4194200 300", "read -P 0 4193280 920"]);
    qemu_io(&volume, &[], &["write -P 0x44 3M 40M", "read -P 0x44 3M 40M"]);
    qemu_io(&volume, &[], &["write -z 5000 9000000", "read -P 0 5000 9000000"]);
    qemu_io(&volume, &["-r"], &["read -P 0x22 512 512"]);
    let refused = run(Command::new("qemu-io").args(["-r", "-f", "raw", "-c", "write 0 512"]).arg(&volume.uri));
    assert!(!(refused.stdout + &refused.stderr).contains("wrote"), "a read-only opening refuses writes");
    // The end of the volume.
    qemu_io(&volume, &[], &["write -P 0x55 268434944 512", "read -P 0x55 268434944 512"]);
}

#[test]
fn holes_and_zeroes_are_reported() {
    if missing("holes_and_zeroes_are_reported", &["nbdinfo", "qemu-io"]) {
        return;
    }
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "64MiB");
    qemu_io(&volume, &[], &["write -P 1 8M 4M"]);
    let info: serde_json::Value =
        serde_json::from_str(&run_ok(Command::new("nbdinfo").arg("--json").arg(&volume.uri))).expect("JSON");
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], 64 << 20);
    for can in ["can_fua", "can_flush", "can_trim", "can_zero", "can_df", "can_multi_conn"] {
        assert_eq!(export[can], true, "{can} of {export}");
    }
    let map: serde_json::Value =
        serde_json::from_str(&run_ok(Command::new("nbdinfo").args(["--map", "--json"]).arg(&volume.uri)))
            .expect("JSON");
    let data: u64 = map
        .as_array()
        .expect("a list")
        .iter()
        .filter(|extent| extent["type"] == 0)
        .filter_map(|extent| extent["length"].as_u64())
        .sum();
    assert_eq!(data, 4 << 20, "{map}");
    let listed = run_ok(Command::new("nbdinfo").args(["--list", "--json"]).arg(format!("nbd://{}", volume.address)));
    assert!(listed.contains("\"export-name\": \"v\""), "{listed}");
}

#[test]
fn a_taken_over_volume_obeys_only_its_new_holder() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "64MiB");
    let mut old = Nbd::connect(&volume.address, "v").expect("served");
    old.write(0, &[1; 4096]).expect("connected").expect("written");
    let line = cluster.fails(&["volume", "attach", "v"]);
    assert!(line.contains("--force"), "{line}");
    old.write(0, &[2; 4096]).expect("connected").expect("a refused attach disturbs nobody");
    old.flush().expect("connected").expect("flushed");
    cluster.attach(&["v", "--force"]);
    let mut new = Nbd::connect(&volume.address, "v").expect("served again");
    new.write(0, &[3; 4096]).expect("connected").expect("written");
    assert!(!matches!(old.write(0, &[4; 4096]), Ok(Ok(()))), "the old holder is fenced");
    assert!(new.read(0, 4096).expect("connected").expect("read") == [3; 4096]);
    // Detached, nobody writes.
    cluster.ok(&["volume", "detach", "v"]);
    assert!(!matches!(new.write(0, &[5; 4096]), Ok(Ok(()))), "nobody has it");
    assert!(Nbd::connect(&volume.address, "v").is_err(), "it is not attached");
    cluster.attach(&["v"]);
    let mut again = Nbd::connect(&volume.address, "v").expect("served");
    assert!(again.read(0, 4096).expect("connected").expect("read") == [3; 4096]);
}

#[test]
fn an_extended_volume_is_larger_for_who_connects() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "64MiB");
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    assert_eq!(nbd.size, 64 << 20);
    nbd.write((64 << 20) - 4096, &[1; 4096]).expect("connected").expect("written");
    nbd.disconnect();
    cluster.ok(&["volume", "extend", "v", "--size", "128MiB"]);
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    assert_eq!(nbd.size, 128 << 20);
    assert!(nbd.read((64 << 20) - 4096, 4096).expect("connected").expect("read") == [1; 4096]);
    nbd.write(100 << 20, &[2; 4096]).expect("connected").expect("written");
}
