//! Other people's clients against the server, over a device in memory.

mod support;
use ashlar_driver_nbd::Limits;
use ashlar_driver_nbd::memory::{Completing, MemoryDevice};
use ashlar_types::BlockError;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use support::{Dice, MIB, Running, has, run, skipped, succeed, works};

fn start(completing: Completing) -> (Running, Arc<MemoryDevice>) {
    let running = Running::new(Limits::default());
    let device = running.add("disk", 64 * MIB, false, completing);
    (running, device)
}

/// A file with data, zeroes and holes.
fn image(running: &Running, seed: u64) -> (String, Vec<u8>) {
    let mut dice = Dice(seed);
    let mut contents = vec![0; 64 << 20];
    for _ in 0..200 {
        let len = 1 + dice.below(200_000) as usize;
        let at = dice.below((contents.len() - len) as u64) as usize;
        contents[at..at + len].copy_from_slice(&dice.bytes(len));
    }
    let path = running.path("image.raw");
    std::fs::write(&path, &contents).expect("room for an image");
    (path, contents)
}

/// The interpreter that knows libnbd; Debian's own, where another stands first in the path.
fn python() -> Option<&'static str> {
    let knows = |python: &&str| works(python, &["-c", "import nbd"]);
    let python = ["python3", "/usr/bin/python3"].into_iter().find(knows);
    if python.is_none() {
        skipped("no python3 here knows libnbd (Debian: python3-libnbd)");
    }
    python
}

#[test]
fn qemu_img_copies_an_image_in_and_out() {
    if !has("qemu-img", &["--version"]) {
        return;
    }
    let (running, device) = start(Completing::Later { seed: 1 });
    let (path, contents) = image(&running, 1);
    for uri in [running.unix_uri("disk"), running.tcp_uri("disk")] {
        succeed("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &path, &uri]);
        assert!(device.contents(0, contents.len()) == contents, "the device holds the image");
        let back = running.path("back.raw");
        succeed("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, &back]);
        assert!(std::fs::read(&back).expect("written") == contents, "the copy is the image");
        let compared = succeed("qemu-img", &["compare", "-f", "raw", "-F", "raw", &path, &uri]);
        assert!(compared.contains("identical"), "{compared}");
    }
    let map = succeed("qemu-img", &["map", "--output=json", "-f", "raw", &running.unix_uri("disk")]);
    assert!(map.contains("\"data\": false") && map.contains("\"data\": true"), "holes and data are seen: {map}");
}

#[test]
fn nbdcopy_copies_an_image_in_and_out_over_several_connections() {
    if !has("nbdcopy", &["--version"]) {
        return;
    }
    let (running, device) = start(Completing::Later { seed: 2 });
    let (path, contents) = image(&running, 2);
    let uri = running.unix_uri("disk");
    succeed("nbdcopy", &["--connections=4", &path, &uri]);
    assert!(device.contents(0, contents.len()) == contents, "the device holds the image");
    let back = running.path("back.raw");
    succeed("nbdcopy", &["--connections=4", &uri, &back]);
    assert!(std::fs::read(&back).expect("written") == contents, "the copy is the image");
}

#[test]
fn nbdinfo_shows_what_there_is() {
    if !has("nbdinfo", &["--version"]) || !has("qemu-img", &["--version"]) {
        return;
    }
    let (running, _device) = start(Completing::AtOnce);
    running.add("frozen", MIB, true, Completing::AtOnce);
    let info = succeed("nbdinfo", &["--json", &running.unix_uri("disk")]);
    for expected in [
        "\"protocol\": \"newstyle-fixed\"",
        "\"structured\": true",
        "\"description\": \"a disk in memory\"",
        "\"export-size\": 67108864",
        "\"base:allocation\"",
        "\"qemu:allocation-depth\"",
        "\"is_read_only\": false",
        "\"can_multi_conn\": true",
        "\"can_fua\": true",
        "\"can_flush\": true",
        "\"can_trim\": true",
        "\"can_zero\": true",
        "\"can_df\": true",
        "\"can_cache\": false",
        "\"block_size_minimum\": 1,",
        "\"block_size_preferred\": 4096",
        "\"block_size_maximum\": 33554432",
    ] {
        assert!(info.contains(expected), "{expected} in {info}");
    }
    let list = succeed("nbdinfo", &["--list", &running.unix_uri("")]);
    assert!(list.contains("export=\"disk\"") && list.contains("export=\"frozen\""), "{list}");
    assert!(succeed("nbdinfo", &[&running.tcp_uri("frozen")]).contains("is_read_only: true"));
    let map = succeed("nbdinfo", &["--map", &running.unix_uri("disk")]);
    assert!(map.contains("hole,zero"), "{map}");
    let map = succeed("nbdinfo", &["--map=qemu:allocation-depth", &running.unix_uri("disk")]);
    assert!(map.contains("0  absent"), "{map}");
    for name in ["nothing", "busy"] {
        assert!(!run("nbdinfo", &[&running.unix_uri(name)]).status.success(), "{name} can't be opened");
    }
    let said = run("qemu-img", &["info", &running.unix_uri("nothing")]);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("no volume is called \"nothing\""), "QEMU passes our reason on: {said}");
}

#[test]
fn nbd_client_lists_the_exports() {
    let (running, _device) = start(Completing::AtOnce);
    let tool = ["nbd-client", "/usr/sbin/nbd-client"].into_iter().find(|tool| works(tool, &["-V"]));
    let Some(tool) = tool else { return skipped("nbd-client does not work here") };
    let port = running.tcp.port().to_string();
    let list = succeed(tool, &["-l", "127.0.0.1", "-p", &port]);
    assert!(list.contains("disk"), "{list}");
}

#[test]
fn qemu_io_writes_fua_zeroes_discards_and_odd_ranges() {
    if !has("qemu-io", &["--version"]) {
        return;
    }
    let (running, device) = start(Completing::Later { seed: 3 });
    let uri = running.unix_uri("disk");
    let script = [
        "write -P 0x11 0 1M",
        "write -f -P 0x22 64k 64k",
        "write -P 0x33 4097 513",
        "read -P 0x33 4097 513",
        "read -P 0x11 4096 1",
        "read -P 0x11 4610 100",
        "write -z 128k 64k",
        "read -P 0 128k 64k",
        "write -z -u 192k 64k",
        "read -P 0 192k 64k",
        "write -z -f 300001 999",
        "read -P 0 300001 999",
        "discard 512k 256k",
        "read -P 0 512k 256k",
        "flush",
        "aio_write -P 0x44 2M 1M",
        "aio_write -P 0x55 3M 1M",
        "aio_flush",
        "read -P 0x44 2M 1M",
        "read -P 0x55 3M 1M",
        "read 67108352 512",
    ];
    let mut arguments = vec!["-f", "raw"];
    script.iter().for_each(|line| arguments.extend(["-c", line]));
    arguments.push(&uri);
    let text = succeed("qemu-io", &arguments);
    assert!(!text.contains("failed") && !text.contains("error"), "{text}");
    let asked = device.submitted();
    for kind in ["read", "write", "flush", "discard", "zeroes", "zeroes kept", "extents"] {
        assert!(asked.contains(&kind) || kind == "extents", "{kind} reached the device: {asked:?}");
    }
    let past = run("qemu-io", &["-f", "raw", "-c", "write 64M 512", &uri]);
    assert!(String::from_utf8_lossy(&past.stdout).contains("failed") || !past.status.success(), "past the end");
}

#[test]
fn qemu_io_hears_the_devices_errors() {
    if !has("qemu-io", &["--version"]) {
        return;
    }
    let (running, device) = start(Completing::AtOnce);
    let uri = running.unix_uri("disk");
    for (error, text) in [
        (BlockError::NoSpace, "No space left on device"),
        (BlockError::Medium { detail: "all copies are bad".to_owned() }, "Input/output error"),
        (BlockError::Fenced, "Input/output error"),
    ] {
        device.fail_with(Some(error));
        let output = run("qemu-io", &["-f", "raw", "-c", "write 0 4k", &uri]);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(said.contains(text), "{text} in {said}");
    }
    device.fail_with(None);
    running.add("frozen", MIB, true, Completing::AtOnce);
    let frozen = run("qemu-io", &["-f", "raw", "-c", "write 0 4k", &running.unix_uri("frozen")]);
    assert!(!frozen.status.success(), "a read-only export can't be opened for writing");
    succeed("qemu-io", &["-r", "-f", "raw", "-c", "read -P 0 0 4k", &running.unix_uri("frozen")]);
}

#[test]
fn libnbd_finds_every_command_and_error_as_specified() {
    let Some(python) = python() else { return };
    let (running, _device) = start(Completing::Later { seed: 4 });
    running.add("frozen", MIB, true, Completing::AtOnce);
    let script = running.path("conformance.py");
    std::fs::write(&script, include_str!("conformance.py")).expect("a script");
    for structured in ["1", "0"] {
        for connection in [running.unix_uri("%s"), running.tcp_uri("%s")] {
            let text = succeed(python, &[&script, &connection, structured]);
            assert!(text.contains("all as specified"), "{text}");
        }
    }
}

#[test]
fn fio_verifies_what_it_wrote() {
    if !has("fio", &["--enghelp=nbd"]) {
        return;
    }
    let (running, _device) = start(Completing::Later { seed: 5 });
    let text = succeed(
        "fio",
        &[
            "--name=verify",
            "--ioengine=nbd",
            &format!("--uri={}", running.unix_uri("disk")),
            "--rw=randwrite",
            "--bsrange=512-64k",
            "--iodepth=32",
            "--size=32M",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--do_verify=1",
            "--verify_state_save=0",
        ],
    );
    assert!(text.contains("err= 0"), "{text}");
}

#[test]
fn the_nbd_crate_reads_what_it_wrote() {
    let (running, device) = start(Completing::AtOnce);
    let mut stream = std::net::TcpStream::connect(running.tcp).expect("the server listens");
    let export = nbd::client::handshake(&mut stream, b"disk").expect("an export");
    assert_eq!(export.size, 64 * MIB);
    let mut client = nbd::client::NbdClient::new(&mut stream, &export);
    let payload = Dice(6).bytes(10_000);
    client.seek(SeekFrom::Start(12_345)).expect("inside");
    client.write_all(&payload).expect("written");
    let mut back = vec![0; payload.len()];
    client.seek(SeekFrom::Start(12_345)).expect("inside");
    client.read_exact(&mut back).expect("read");
    assert_eq!(back, payload);
    assert_eq!(device.contents(12_345, payload.len()), payload);
}
