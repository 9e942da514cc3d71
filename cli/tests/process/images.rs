//! Disk images become volumes and volumes become disk images; QEMU's own tools say whether they hold the same.

use crate::support::Cluster;
use crate::support::tools::{missing, run_ok, wait_until};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

const MIB: u64 = 1 << 20;
const TOOLS: [&str; 1] = ["qemu-img"];

fn path(cluster: &Cluster, name: &str) -> String {
    cluster.dir().join(name).to_str().expect("text").to_owned()
}

/// 40 MiB and some sectors: data at the beginning, across a chunk, and at the very end; holes between.
fn image(cluster: &Cluster) -> String {
    let path = path(cluster, "disk.raw");
    let file = File::create(&path).expect("made");
    file.set_len(40 * MIB + 1024).expect("made longer");
    let noise: Vec<u8> = (0..3 * MIB).map(|n| (n.wrapping_mul(2_654_435_761) >> 7) as u8 | 1).collect();
    for at in [0, 15 * MIB + 4096, 37 * MIB + 1024] {
        file.write_all_at(&noise, at).expect("written");
    }
    path
}

fn qemu_img(arguments: &[&str]) {
    run_ok(Command::new("qemu-img").args(arguments));
}

/// What the volume has behind the end of the image is zero, which the comparison wants.
fn assert_holds(cluster: &Cluster, name: &str, image: &str) {
    let export = cluster.attach(&[name]);
    qemu_img(&["compare", "-f", "raw", "-F", "raw", image, &export.uri]);
    cluster.ok(&["volume", "detach", name]);
}

#[test]
fn images_become_volumes() {
    if missing("images_become_volumes", &TOOLS) {
        return;
    }
    let cluster = Cluster::up(&[]);
    let raw = image(&cluster);
    let (plain, packed) = (path(&cluster, "plain.qcow2"), path(&cluster, "packed.qcow2"));
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", &raw, &plain]);
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", &raw, &packed]);
    let told = cluster.ok(&["volume", "import", &raw, "raw"]);
    assert!(told.contains("volume raw imported from a raw image: 40MiB, 9"), "{told}");
    cluster.ok(&["volume", "import", &plain, "plain"]);
    let told = cluster.json(&["volume", "import", &packed, "packed", "--size", "64MiB"]);
    assert_eq!((&told["size"], &told["format"]), (&(64 * MIB).into(), &"qcow2".into()));
    let mut stream = cluster.command(&["volume", "import", "-", "stream", "--size", &(40 * MIB + 1024).to_string()]);
    let stream = stream.stdin(File::open(&raw).expect("there")).output().expect("started");
    assert!(stream.status.success(), "{}", String::from_utf8_lossy(&stream.stderr));
    for name in ["raw", "plain", "packed", "stream"] {
        assert_holds(&cluster, name, &raw);
    }
    assert!(cluster.json(&["volume", "list"]).as_array().expect("a list").iter().all(|v| v["state"] == "available"));
}

#[test]
fn what_cannot_be_imported_leaves_nothing() {
    if missing("what_cannot_be_imported_leaves_nothing", &TOOLS) {
        return;
    }
    let cluster = Cluster::up(&["--osd-size", "256MiB"]);
    let raw = image(&cluster);
    let make = |name: &str, arguments: &[&str]| {
        let to = path(&cluster, name);
        let mut all = arguments.to_vec();
        all.push(&to);
        qemu_img(&all);
        to
    };
    let whole = make("whole.qcow2", &["convert", "-f", "raw", "-O", "qcow2", &raw]);
    let packed = make("packed.qcow2", &["convert", "-c", "-f", "raw", "-O", "qcow2", &raw]);
    let above = make("above.qcow2", &["create", "-q", "-f", "qcow2", "-b", &whole, "-F", "qcow2"]);
    let vmdk = make("disk.vmdk", &["convert", "-f", "raw", "-O", "vmdk", &raw]);
    let halve = |from: &str, to: &str| {
        let to = path(&cluster, to);
        let len = std::fs::copy(from, &to).expect("copied");
        File::options().write(true).open(&to).and_then(|file| file.set_len(len / 2)).expect("cut");
        to
    };
    let (half, few) = (halve(&whole, "half.qcow2"), halve(&packed, "few.qcow2"));
    for (file, word) in [
        (half.as_str(), "truncated"),
        (&few, "not imported"),
        (&above, "stands on another image"),
        (&vmdk, "VMDK"),
        ("/nowhere/disk.raw", "/nowhere/disk.raw"),
    ] {
        let line = cluster.fails(&["volume", "import", file, "v"]);
        assert!(line.contains(word), "{line}");
    }
    assert!(cluster.fails(&["volume", "import", &raw, "v", "--size", "1MiB"]).contains("--size is 1MiB"));
    assert!(cluster.fails(&["volume", "import", "-", "v"]).contains("--size"));
    assert!(cluster.fails(&["volume", "import", "-", "v", "--size", "1MiB"]).contains("ended after 0 of"));
    assert!(cluster.fails(&["volume", "import", &raw, "v", "--resume"]).contains("\"v\" does not exist"));
    // More than the pool has room for.
    let large = path(&cluster, "large.raw");
    let mut file = File::create(&large).expect("made");
    let noise: Vec<u8> = (0..MIB).map(|n| n as u8 | 1).collect();
    (0..400).for_each(|_| file.write_all(&noise).expect("written"));
    let line = cluster.fails(&["volume", "import", &large, "v"]);
    assert!(line.contains("the pool is full") && line.contains("deleted again"), "{line}");
    wait_until("nothing is left", Duration::from_secs(60), || {
        let volumes = cluster.json(&["volume", "list"]);
        if volumes == serde_json::json!([]) { Ok(()) } else { Err(volumes.to_string()) }
    });
    cluster.ok(&["volume", "import", &raw, "v"]);
    assert!(cluster.fails(&["volume", "import", &raw, "v"]).contains("exists"));
    assert_holds(&cluster, "v", &raw);
}

#[test]
fn an_import_that_was_killed_goes_on() {
    if missing("an_import_that_was_killed_goes_on", &TOOLS) {
        return;
    }
    let cluster = Cluster::up(&[]);
    let raw = image(&cluster);
    let bytes = std::fs::read(&raw).expect("there");
    let mut command = cluster.command(&["volume", "import", "-", "v", "--size", &bytes.len().to_string()]);
    let mut import = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("started");
    let mut pipe = import.stdin.take().expect("a pipe");
    pipe.write_all(&bytes[..20 << 20]).expect("taken");
    // What was written is known to the cluster at once.
    wait_until("half of it is written", Duration::from_secs(30), || {
        let used = cluster.used_bytes();
        if used > 3 * 3 * MIB { Ok(()) } else { Err(format!("{used} bytes")) }
    });
    import.kill().expect("ours");
    import.wait().expect("ours");
    assert!(cluster.fails(&["volume", "import", &raw, "v"]).contains("exists"));
    let told = cluster.ok(&["volume", "import", &raw, "v", "--resume"]);
    assert!(told.contains("volume v imported"), "{told}");
    assert_holds(&cluster, "v", &raw);
    let told = cluster.json(&["volume", "import", &raw, "v", "--resume"]);
    assert_eq!(told["written_bytes"], 0, "nothing differs");
    let other = path(&cluster, "other.raw");
    File::create(&other).and_then(|file| file.set_len(bytes.len() as u64 + 512)).expect("made");
    assert!(cluster.fails(&["volume", "import", &other, "v", "--resume"]).contains("not made for this image"));
    File::create(&other)
        .and_then(|file| {
            file.set_len(bytes.len() as u64)?;
            file.write_all_at(&bytes[5000..90_000], 30 * MIB)
        })
        .expect("made");
    cluster.ok(&["volume", "import", &other, "v", "--resume"]);
    assert_holds(&cluster, "v", &other);
    let short = path(&cluster, "short.raw");
    std::fs::write(&short, &bytes[..1 << 20]).expect("made");
    cluster.ok(&["volume", "import", &short, "v", "--resume", "--size", &bytes.len().to_string()]);
    assert_holds(&cluster, "v", &short);
}

#[test]
fn volumes_and_snapshots_become_images() {
    if missing("volumes_and_snapshots_become_images", &["qemu-img", "qemu-io"]) {
        return;
    }
    let cluster = Cluster::up(&[]);
    let raw = image(&cluster);
    cluster.ok(&["volume", "import", &raw, "v"]);
    cluster.ok(&["snapshot", "create", "v@s"]);
    let used = cluster.attach(&["v"]);
    run_ok(Command::new("qemu-io").args(["-f", "raw", "-c", "write -P 0x77 0 1M", &used.uri]));
    let compare = |format: &str, file: &str| qemu_img(&["compare", "-f", "raw", "-F", format, &raw, file]);
    for (name, format) in [("s.raw", "raw"), ("s.qcow2", "qcow2")] {
        let to = path(&cluster, name);
        let told = cluster.json(&["volume", "export", "v@s", &to]);
        assert_eq!((&told["format"], &told["size"]), (&format.into(), &(40 * MIB + 1024).into()));
        compare(format, &to);
        let allocated = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&to).expect("there")) * 512;
        assert!(allocated < 12 * MIB, "{allocated} bytes on the medium, for 9 MiB of data");
        assert!(cluster.fails(&["volume", "export", "v@s", &to]).contains("--force"));
        cluster.ok(&["volume", "export", "v@s", &to, "--force"]);
    }
    qemu_img(&["check", "-q", &path(&cluster, "s.qcow2")]);
    let to = path(&cluster, "stream.raw");
    let mut stream = cluster.command(&["volume", "export", "v@s", "-"]);
    let stream = stream.stdout(File::create(&to).expect("made")).output().expect("started");
    assert!(stream.status.success(), "{}", String::from_utf8_lossy(&stream.stderr));
    assert!(std::fs::read(&to).expect("there") == std::fs::read(&raw).expect("there"));
    assert!(cluster.fails(&["volume", "export", "v", &path(&cluster, "v.raw")]).contains("attached to"));
    assert!(cluster.fails(&["volume", "export", "v@s", "/dev/full"]).contains("No space left"));
    assert!(cluster.fails(&["volume", "export", "v@s", "/nowhere/s.raw"]).contains("/nowhere/s.raw"));
    cluster.ok(&["volume", "detach", "v"]);
    cluster.ok(&["volume", "export", "v", &path(&cluster, "v.raw")]);
    let left: Vec<PathBuf> =
        std::fs::read_dir(cluster.dir()).expect("there").map(|e| e.expect("read").path()).collect();
    assert!(left.iter().all(|path| path.extension().is_none_or(|e| e != "partial")), "{left:?}");
    // Nobody is attached any more.
    cluster.ok(&["volume", "delete", "v", "--snapshots"]);
}
