//! Volumes that wipe as they free, through the programs that people use, and then looking for what was written on the disks themselves.

use crate::support::Cluster;
use crate::support::nbd::{CMD_TRIM, Nbd};
use crate::support::tools::wait_until;
use crate::wipes::{MIB, secret, secrets_on_disks};
use serde_json::json;
use std::time::Duration;

fn write(nbd: &mut Nbd, from: u64, to: u64, bytes: &[u8]) {
    for at in (from..to).step_by(MIB as usize) {
        nbd.write(at, bytes).expect("connected").expect("written");
    }
    nbd.flush().expect("connected").expect("flushed");
}

fn wait_until_left(cluster: &Cluster, blocks: u64) {
    wait_until("what was given up is overwritten", Duration::from_secs(90), || {
        let left = secrets_on_disks(cluster);
        if left == blocks { Ok(()) } else { Err(format!("{left} blocks, not {blocks}: {}", cluster.ok(&["status"]))) }
    });
}

fn wait_until_wiped(cluster: &Cluster) {
    wait_until("status says so", Duration::from_secs(60), || {
        let status = cluster.status();
        if status["unwiped"] == json!([]) { Ok(()) } else { Err(status["unwiped"].to_string()) }
    });
}

#[test]
fn what_a_volume_overwrites_discards_and_deletes_is_gone_from_all_disks_soon() {
    let cluster = Cluster::up(&["--osd-size", "1GiB"]);
    cluster.ok(&["volume", "create", "v", "--size", "64MiB", "--wipe-freed"]);
    assert_eq!(cluster.json(&["volume", "show", "v"])["wipe_freed"], true);
    let export = cluster.attach(&["v"]);
    let mut nbd = Nbd::connect(&export.address, "v").expect("served");
    write(&mut nbd, 0, 8 * MIB, &secret(MIB));
    assert_eq!(secrets_on_disks(&cluster), 3 * 8 * 256);
    cluster.ok(&["snapshot", "create", "v@s"]);
    // Of the first half the snapshot has the only copy now; then it is deleted.
    write(&mut nbd, 0, 4 * MIB, &vec![7; MIB as usize]);
    cluster.ok(&["snapshot", "delete", "v@s"]);
    wait_until_left(&cluster, 3 * 4 * 256);
    nbd.send(CMD_TRIM, 0, 4 * MIB, 2 << 20, &[]).expect("connected");
    assert_eq!(nbd.receive().expect("answered").1, 0);
    wait_until_left(&cluster, 3 * 2 * 256);
    wait_until_wiped(&cluster);
    let shown = cluster.ok(&["volume", "show", "v"]);
    assert!(shown.contains("wipe freed  on; nothing waits to be overwritten"), "{shown}");
    // What lives is what it was.
    assert_eq!(nbd.read(6 * MIB, 4096).expect("connected").expect("read"), secret(4096));
    assert_eq!(nbd.read(MIB, 4096).expect("connected").expect("read"), vec![7; 4096]);
    nbd.disconnect();
    cluster.ok(&["volume", "detach", "v"]);
    cluster.ok(&["volume", "delete", "v", "--now"]);
    wait_until_left(&cluster, 0);
    assert!(cluster.status()["healthy"].as_bool().expect("said"));
    cluster.kill_everything();
    cluster.fsck_all();
}

#[test]
fn an_osd_that_was_away_and_all_that_were_killed_wipe_what_they_find() {
    let cluster = Cluster::up(&["--osd-size", "1GiB"]);
    let export = cluster.volume("v", "64MiB");
    let mut nbd = Nbd::connect(&export.address, "v").expect("served");
    write(&mut nbd, 0, 4 * MIB, &secret(MIB));
    write(&mut nbd, 0, MIB, &vec![7; MIB as usize]);
    // Earlier versions from before go too.
    let said = cluster.ok(&["volume", "set", "v", "--wipe-freed", "on"]);
    assert!(said.contains("what it frees is overwritten"), "{said}");
    wait_until_left(&cluster, 3 * 3 * 256);
    cluster.ok(&["osd", "kill", "3"]);
    wait_until("it is known to be down", Duration::from_secs(30), || {
        let osds = cluster.status()["osds"].clone();
        if osds[2]["up"] == false { Ok(()) } else { Err(osds.to_string()) }
    });
    write(&mut nbd, MIB, 2 * MIB, &vec![7; MIB as usize]);
    nbd.disconnect();
    let status = cluster.ok(&["status"]);
    assert!(status.contains("osd.3 is down and wipes when it is back"), "{status}");
    cluster.ok(&["volume", "detach", "v"]);
    cluster.ok(&["volume", "delete", "v", "--now"]);
    cluster.ok(&["osd", "kill", "2"]);
    cluster.ok(&["osd", "start", "2"]);
    cluster.ok(&["osd", "start", "3"]);
    wait_until_left(&cluster, 0);
    wait_until_wiped(&cluster);
    cluster.wait_in_sync(Duration::from_secs(30));
}
