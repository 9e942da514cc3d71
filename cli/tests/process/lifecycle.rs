//! `up`, `down`, `osd kill` and `start`: again, interrupted, side by side, grown, contradicted.

use crate::support::cluster::{Daemons, binary, free_port, signal};
use crate::support::nbd::{CMD_WRITE, Nbd};
use crate::support::tools::wait_until;
use crate::support::{Cluster, run};
use rustix::process::Signal;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PATTERN: [u8; 4096] = [0x5a; 4096];

fn write_pattern(address: &str, export: &str) {
    let mut nbd = Nbd::connect(address, export).expect("the export is served");
    nbd.write(4096, &PATTERN).expect("connected").expect("written");
    nbd.disconnect();
}

fn assert_pattern(address: &str, export: &str) {
    let mut nbd = Nbd::connect(address, export).expect("the export is served");
    let data = nbd.read(4096, 4096).expect("connected").expect("read");
    assert!(data == PATTERN, "what was written is there");
    nbd.disconnect();
}

#[test]
fn from_nothing_to_an_attached_volume_within_ten_seconds() {
    let begin = Instant::now();
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "1GiB");
    let took = begin.elapsed();
    write_pattern(&volume.address, "v");
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    cluster.wait_in_sync(Duration::from_secs(20));
    assert_eq!(cluster.status()["healthy"], true);
}

#[test]
fn up_again_changes_nothing() {
    let cluster = Cluster::up(&[]);
    let pids = cluster.pids();
    let again = cluster.up_again(&[]);
    assert_eq!(again["started"].as_array().map(Vec::len), Some(0));
    assert_eq!(cluster.pids(), pids);
    assert_eq!(pids.len(), 5, "a metadata node, three OSDs, a gateway: {pids:?}");
}

#[test]
fn down_keeps_data_and_up_brings_the_same_ports_back() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "64MiB");
    write_pattern(&volume.address, "v");
    let before = std::fs::read_to_string(cluster.dir().join("cluster.toml")).expect("written by up");
    cluster.ok(&["down"]);
    assert_eq!(cluster.pids(), vec![]);
    cluster.ok(&["down"]);
    let line = cluster.fails(&["status"]);
    assert!(line.contains("is down; `ashlar up` brings it back"), "{line}");
    cluster.up_again(&[]);
    let after = std::fs::read_to_string(cluster.dir().join("cluster.toml")).expect("written by up");
    assert_eq!(before, after);
    assert_pattern(&volume.address, "v");
}

#[test]
fn everything_killed_comes_back() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "64MiB");
    write_pattern(&volume.address, "v");
    cluster.kill_everything();
    cluster.up_again(&[]);
    assert_pattern(&volume.address, "v");
    cluster.wait_in_sync(Duration::from_secs(30));
}

#[test]
fn clusters_side_by_side_have_ports_of_their_own() {
    let clusters: Vec<Cluster> = std::thread::scope(|scope| {
        let starting: Vec<_> = (0..3).map(|_| scope.spawn(|| Cluster::up_at_usual_ports(&["--osds", "1"]))).collect();
        starting.into_iter().map(|thread| thread.join().expect("up")).collect()
    });
    for (at, cluster) in clusters.iter().enumerate() {
        cluster.ok(&["volume", "create", &format!("v{at}"), "--size", "64MiB"]);
    }
    for (at, cluster) in clusters.iter().enumerate() {
        let volumes = cluster.json(&["volume", "list"]);
        assert_eq!(volumes.as_array().map(Vec::len), Some(1));
        assert_eq!(volumes[0]["name"], format!("v{at}"));
    }
}

#[test]
fn a_taken_port_is_replaced_by_a_free_one() {
    let cluster = Cluster::up(&["--osds", "1"]);
    let volume = cluster.volume("v", "64MiB");
    write_pattern(&volume.address, "v");
    cluster.ok(&["down"]);
    let squatter = TcpListener::bind(&volume.address).expect("the gateway has left it");
    let up = cluster.up_again(&[]);
    assert_ne!(up["nbd_address"], volume.address);
    drop(squatter);
    let address = up["nbd_address"].as_str().expect("an address").to_owned();
    assert_pattern(&address, "v");
    let attachments = cluster.status()["attachments"].clone();
    assert_eq!(attachments[0]["nbd_address"], address, "the cluster knows where its gateway is now");
}

/// Takes the address of a process that was killed, as soon as the kernel has closed its sockets.
fn squat(address: &str) -> TcpListener {
    let mut squatter = None;
    wait_until("the address is free", Duration::from_secs(10), || {
        squatter = Some(TcpListener::bind(address).map_err(|error| error.to_string())?);
        Ok(())
    });
    squatter.expect("bound above")
}

#[test]
fn a_metadata_node_is_not_moved_away_from_daemons_that_look_for_it() {
    let cluster = Cluster::up(&["--osds", "1"]);
    let volume = cluster.volume("v", "64MiB");
    write_pattern(&volume.address, "v");
    let mut client = Nbd::connect(&volume.address, "v").expect("the export is served");
    let mds = cluster.up_again(&[])["mds"][0].as_str().expect("an address").to_owned();
    signal(cluster.pid("mds.1").expect("runs"), Signal::KILL);
    let squatter = squat(&mds);
    let line = cluster.run(&["up"]).stderr;
    assert!(line.contains(&format!("{mds} is taken by another program, and osd.1, gateway look for it")), "{line}");
    assert!(client.read(4096, 4096).expect("connected").expect("read") == PATTERN, "its clients are not disturbed");
    drop(squatter);
    assert_eq!(cluster.up_again(&[])["mds"][0], mds);
    cluster.wait_in_sync(Duration::from_secs(20));
    // With nobody left who was told the address, it moves.
    cluster.kill_everything();
    let squatter = squat(&mds);
    assert_ne!(cluster.up_again(&[])["mds"][0], mds);
    drop(squatter);
    assert_pattern(&volume.address, "v");
}

#[test]
fn more_osds_are_added_and_contradictions_refused() {
    let cluster = Cluster::up(&["--osds", "1", "--osd-size", "1GiB"]);
    let pools = cluster.json(&["pool", "list"]);
    assert_eq!(pools[0]["replicas"], 1, "one OSD holds one copy");
    let up = cluster.up_again(&["--osds", "3"]);
    assert_eq!(up["osds"].as_array().map(Vec::len), Some(3));
    cluster.ok(&["pool", "create", "three", "--replicas", "3"]);
    let line = cluster.fails(&["up", "--osds", "2"]);
    assert!(line.contains("this cluster has 3 OSDs"), "{line}");
    let line = cluster.fails(&["up", "--osd-size", "3GiB"]);
    assert!(line.contains("--osd-size 3GiB"), "{line}");
    let line = cluster.fails(&["up", "--disk", "/nonexistent/disk"]);
    assert!(line.contains("/nonexistent/disk"), "{line}");
}

#[test]
fn given_files_become_disks() {
    let cluster = Cluster::nothing();
    let disks: Vec<String> = (0..3)
        .map(|n| {
            let path = cluster.dir().join(format!("disk-{n}"));
            std::fs::File::create(&path).and_then(|file| file.set_len(1 << 30)).expect("a sparse file");
            path.display().to_string()
        })
        .collect();
    let options = ["--disk", &disks[0], "--disk", &disks[1], "--disk", &disks[2]];
    cluster.up_again(&options);
    let volume = cluster.volume("v", "64MiB");
    write_pattern(&volume.address, "v");
    cluster.ok(&["down"]);
    cluster.up_again(&options);
    assert_pattern(&volume.address, "v");
}

#[test]
fn a_killed_osd_stays_down_until_started() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "64MiB");
    let before = cluster.pid("osd.2").expect("runs");
    cluster.ok(&["osd", "kill", "2"]);
    assert_eq!(cluster.pid("osd.2"), None);
    write_pattern(&volume.address, "v");
    wait_until("osd.2 is seen down", Duration::from_secs(20), || {
        let osds = cluster.json(&["osd", "list"]);
        if osds[1]["up"] == false { Ok(()) } else { Err(osds.to_string()) }
    });
    let text = cluster.ok(&["status"]);
    assert!(text.contains("osd.2") && text.contains("ashlar osd start 2"), "{text}");
    assert_pattern(&volume.address, "v");
    cluster.ok(&["osd", "start", "2"]);
    cluster.wait_in_sync(Duration::from_secs(30));
    assert_ne!(cluster.pid("osd.2"), Some(before));
    let again = cluster.json(&["osd", "start", "2"]);
    assert_eq!(again["started"], false);
    let line = cluster.fails(&["osd", "kill", "17"]);
    assert!(line.contains("osd.17 is not of this folder; it has osd.1, osd.2, osd.3"), "{line}");
}

#[test]
fn a_reused_pid_is_never_signalled() {
    let cluster = Cluster::up(&["--osds", "1"]);
    cluster.ok(&["osd", "kill", "1"]);
    // A stranger who got the dead OSD's pid.
    let mut stranger = Command::new("sleep").arg("60").spawn().expect("sleep");
    std::fs::write(cluster.dir().join("run/osd.1.pid"), format!("{} 1\n", stranger.id())).expect("writable");
    let killed = cluster.json(&["osd", "kill", "1"]);
    assert_eq!(killed["killed"], false);
    cluster.ok(&["down"]);
    assert!(stranger.try_wait().expect("waitable").is_none(), "the stranger lives");
    stranger.kill().and_then(|()| stranger.wait()).expect("our own child");
}

#[test]
fn in_the_foreground_what_dies_is_restarted_and_the_end_stops_everything() {
    let cluster = Cluster::nothing();
    cluster.keep_ports();
    let mut command = cluster.command(&["up", "--foreground", "--osds", "1", "--osd-size", "1GiB"]);
    let mut up = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("ashlar");
    wait_until("the cluster runs", Duration::from_secs(30), || {
        if run(&mut cluster.command(&["status"])).ok { Ok(()) } else { Err(cluster.logs()) }
    });
    wait_until("the gateway runs", Duration::from_secs(30), || {
        cluster.pid("gateway").map(|_| ()).ok_or("not yet".into())
    });
    let killed_comes_back = || {
        let gateway = cluster.pid("gateway").expect("runs");
        signal(gateway, Signal::KILL);
        wait_until("the gateway is back", Duration::from_secs(30), || match cluster.pid("gateway") {
            Some(pid) if pid != gateway => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    killed_comes_back();
    // What is in the folder may be spoilt for a while.
    let file = cluster.dir().join("cluster.toml");
    let text = std::fs::read_to_string(&file).expect("written by up");
    std::fs::write(&file, "version = ").expect("ours");
    killed_comes_back();
    std::fs::write(&file, text).expect("ours");
    cluster.ok(&["down"]);
    assert!(up.wait().expect("our own child").success());
    assert_eq!(cluster.pids(), vec![]);
}

#[test]
fn a_signal_during_the_first_start_stops_what_was_started() {
    let cluster = Cluster::nothing();
    cluster.keep_ports();
    let mut command = cluster.command(&["up", "--foreground", "--osd-size", "1GiB"]);
    let mut up = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("ashlar");
    wait_until("the first daemon runs", Duration::from_secs(30), || {
        cluster.pid("mds.1").map(|_| ()).ok_or_else(|| cluster.logs())
    });
    signal(i32::try_from(up.id()).expect("a pid"), Signal::TERM);
    assert!(up.wait().expect("our own child").success());
    assert_eq!(cluster.pids(), vec![]);
}

#[test]
fn down_ends_a_gateway_whose_writes_are_stalled_without_killing_it() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "64MiB");
    write_pattern(&volume.address, "v");
    cluster.ok(&["osd", "kill", "2"]);
    cluster.ok(&["osd", "kill", "3"]);
    // One copy is fewer than a write needs: it waits.
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    nbd.send(CMD_WRITE, 0, 8192, 4096, &PATTERN).expect("connected");
    let ended = cluster.json(&["down"]);
    assert_eq!(ended["killed"], serde_json::json!([]), "{}", cluster.logs());
    assert!(!cluster.dir().join("gateway/nbd.sock").exists(), "it has cleaned up");
    assert!(nbd.receive().map_or(true, |(_, error)| error != 0), "nobody may call this write done");
    // Not acknowledged, and nothing else is lost.
    cluster.up_again(&[]);
    assert_pattern(&volume.address, "v");
}

#[test]
fn a_volume_is_attached_to_a_gateway_that_cannot_be_reached_from_here() {
    let cluster = Cluster::up(&["--osds", "1"]);
    let mds = cluster.up_again(&[])["mds"][0].as_str().expect("an address").to_owned();
    // Where a gateway listens on its own machine's 127.0.0.1, here is somebody else, or nobody, as at this port.
    let config = format!(
        "name = \"elsewhere\"\nmds = [\"{mds}\"]\nnbd_listen = \"127.0.0.1:{}\"\nnbd_advertise = \"127.0.0.1:1\"\nnbd_socket = \"{}\"\n",
        free_port(),
        cluster.dir().join("elsewhere.sock").display()
    );
    let path = cluster.dir().join("elsewhere.toml");
    std::fs::write(&path, config).expect("ours");
    let mut daemons = Daemons::default();
    daemons.start("gateway", Command::new(binary()).arg("gateway").arg("--config").arg(&path).stderr(Stdio::null()));
    cluster.ok(&["volume", "create", "v", "--size", "64MiB"]);
    // Until it has registered, there is no address to tell.
    wait_until("attached", Duration::from_secs(30), || {
        let attached = cluster.run(&["volume", "attach", "v", "--shared", "--gateway", "elsewhere"]);
        if !attached.ok {
            return Err(attached.stderr);
        }
        assert_eq!(attached.stdout.lines().next(), Some("nbd://127.0.0.1:1/v"));
        assert!(attached.stderr.contains("volume v is attached"), "{}", attached.stderr);
        Ok(())
    });
}

#[test]
fn a_reader_that_goes_away_is_no_reason_to_panic() {
    let cluster = Cluster::up(&["--osds", "1"]);
    for arguments in [&["status"][..], &["volume", "list"], &["--help"], &["osd", "list", "--json"]] {
        let mut child = Command::new(binary())
            .args(arguments)
            .env("ASHLAR_CLUSTER", cluster.dir())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ashlar");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("our own child");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!errors.contains("panicked"), "{arguments:?}: {errors}");
    }
}

#[test]
fn every_command_speaks_json() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.json(&["volume", "create", "v", "--size", "64MiB"]);
    assert_eq!(volume["size"], 64 << 20);
    assert_eq!(cluster.json(&["volume", "extend", "v", "--size", "1.5GiB"])["size"], 3u64 << 29);
    assert_eq!(cluster.json(&["volume", "show", "v"])["state"], "available");
    assert_eq!(cluster.json(&["pool", "list"])[0]["name"], "default");
    assert_eq!(cluster.json(&["pool", "create", "p", "--replicas", "2"])["replicas"], 2);
    let attached = cluster.json(&["volume", "attach", "v", "--nbd"]);
    assert!(attached["uri"].as_str().is_some_and(|uri| uri.starts_with("nbd://127.0.0.1:") && uri.ends_with("/v")));
    assert!(attached["unix_uri"].as_str().is_some_and(|uri| uri.starts_with("nbd+unix:///v?socket=/")));
    assert_eq!(cluster.json(&["volume", "detach", "v"])["detached"], true);
    assert_eq!(cluster.json(&["volume", "delete", "v"])["deleted"], true);
    let status = cluster.json(&["status"]);
    assert_eq!(status["osds"].as_array().map(Vec::len), Some(3));
    assert!(status["mds_leader"].is_string());
    let address = cluster.up_again(&[])["mds"][0].as_str().expect("an address").to_owned();
    let elsewhere = run(Command::new(binary()).args(["volume", "list", "--json", "--cluster", &address]));
    assert!(elsewhere.ok, "by address: {}", elsewhere.stderr);
}
