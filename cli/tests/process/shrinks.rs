//! Volumes that shrink and grow on a real cluster while clients use them, and while their gateway dies.

use crate::support::cluster::{Export, signal};
use crate::support::nbd::{EINVAL, ENOSPC, Nbd};
use crate::support::tools::{skipped, wait_until};
use crate::support::{Cluster, missing, run};
use rustix::process::Signal;
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

fn connect(export: &Export) -> Nbd {
    Nbd::connect(&export.address, "v").expect("served")
}

fn write(nbd: &mut Nbd, at: u64, number: u8) -> Result<(), u32> {
    nbd.write(at, &vec![number; 64 << 10]).expect("connected")
}

fn byte(nbd: &mut Nbd, at: u64) -> Result<u8, u32> {
    nbd.read(at, 4096).expect("connected").map(|data| data[0])
}

fn set(size: &str, more: &[&'static str]) -> Vec<String> {
    ["volume", "set", "v", "--size", size].iter().chain(more).map(|text| (*text).to_owned()).collect()
}

/// `volume set v --size SIZE …`, as it says it in JSON.
fn sized(cluster: &Cluster, size: &str, more: &[&'static str]) -> u64 {
    let arguments = set(size, more);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    cluster.json(&arguments)["size"].as_u64().expect("bytes")
}

fn refused(cluster: &Cluster, size: &str, more: &[&'static str]) -> String {
    let arguments = set(size, more);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    cluster.fails(&arguments)
}

fn jobs(cluster: &Cluster) -> Vec<Value> {
    cluster.json(&["job", "list"]).as_array().expect("a list").clone()
}

fn size(cluster: &Cluster) -> u64 {
    cluster.json(&["volume", "show", "v"])["size"].as_u64().expect("bytes")
}

fn gateway(cluster: &Cluster) -> i32 {
    let found = cluster.pids().into_iter().find(|(name, _)| name.starts_with("gateway"));
    found.expect("it runs").1
}

/// Of the first 24 MiB.
fn fio(cluster: &Cluster, export: &Export) -> Child {
    Command::new("fio")
        .args(["--name=verify", "--ioengine=nbd", "--rw=randwrite", "--bs=4k", "--iodepth=8", "--size=24M"])
        .args(["--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--rate_iops=500", "--randseed=7"])
        .arg(format!("--uri={}", export.uri))
        .current_dir(cluster.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fio")
}

#[test]
fn a_volume_shrinks_and_grows_under_fio_and_who_connects_again_sees_it() {
    let test = "a_volume_shrinks_and_grows_under_fio_and_who_connects_again_sees_it";
    if missing(test, &["fio"]) {
        return;
    }
    if !run(Command::new("fio").arg("--enghelp")).stdout.contains("nbd") {
        return skipped(test, "this fio has no nbd engine");
    }
    let cluster = Cluster::up(&[]);
    let export = cluster.volume("v", "128MiB");
    let mut fio = fio(&cluster, &export);
    let mut old = connect(&export);
    for round in 1..=3u8 {
        assert_eq!([40, 64, 100].map(|mib| write(&mut old, mib * MIB, round)), [Ok(()); 3], "round {round}");
        // There is data, so it stays, and goes on being written.
        let line = refused(&cluster, "64MiB", &["--shrink"]);
        assert!(line.contains("volume v has data behind 67108864 bytes, the first at 67108864; --force"), "{line}");
        assert_eq!((byte(&mut old, 100 * MIB), write(&mut old, 127 * MIB, round)), (Ok(round), Ok(())));
        assert_eq!(sized(&cluster, "64MiB", &["--shrink", "--force"]), 64 * MIB);
        // Who was connected all the while hears of it as of any place behind the end.
        assert_eq!((byte(&mut old, 100 * MIB), write(&mut old, 64 * MIB, 9)), (Err(EINVAL), Err(ENOSPC)));
        assert_eq!(write(&mut old, 64 * MIB - 4096, 9), Err(ENOSPC), "over the end");
        assert_eq!((byte(&mut old, 40 * MIB), write(&mut old, 63 * MIB, round)), (Ok(round), Ok(())));
        let mut new = connect(&export);
        assert_eq!((new.size, byte(&mut new, 64 * MIB)), (64 * MIB, Err(EINVAL)));
        assert_eq!(sized(&cluster, "128MiB", &[]), 128 * MIB);
        let mut again = connect(&export);
        assert_eq!((again.size, byte(&mut again, 63 * MIB)), (128 * MIB, Ok(round)));
        for mib in [64, 100, 127] {
            assert_eq!(byte(&mut again, mib * MIB), Ok(0), "what was cut off does not come back");
        }
        // The protocol has no word for it, so that who keeps a connection has both sizes in turn.
        assert_eq!((byte(&mut new, 64 * MIB), byte(&mut old, 100 * MIB)), (Ok(0), Ok(0)));
        [new, again].into_iter().for_each(Nbd::disconnect);
    }
    assert!(fio.try_wait().expect("our child").is_none(), "all of that was under load");
    let output = fio.wait_with_output().expect("our child");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !err.contains("verify"), "fio: {}\n{out}\n{err}", output.status);
    assert!(jobs(&cluster).iter().all(|job| job["state"] == "failed"), "{:?}", jobs(&cluster));
}

/// Killed at some moment between the asking and the end: the volume has one size or the other, and nothing of what was cut off comes back.
#[test]
fn a_gateway_that_is_killed_while_it_shrinks_leaves_one_size_or_the_other() {
    let cluster = Cluster::up(&[]);
    let export = cluster.volume("v", "64MiB");
    let mut shrunk = 0;
    for round in 1..=6u64 {
        let number = u8::try_from(round).expect("few");
        let mut nbd = connect(&export);
        assert_eq!([3, 31, 40, 63].map(|mib| write(&mut nbd, mib * MIB, number)), [Ok(()); 4], "round {round}");
        let arguments = set("32MiB", &["--shrink", "--force", "--no-wait"]);
        cluster.ok(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        // Gateways ask every other second.
        std::thread::sleep(Duration::from_millis(400 * round));
        signal(gateway(&cluster), Signal::KILL);
        cluster.up_again(&[]);
        let mut nbd = connect(&export);
        wait_until("the shrink does not end", PATIENCE, || match jobs(&cluster) {
            jobs if jobs.iter().all(|job| job["state"] == "failed") => Ok(()),
            jobs => Err(format!("{jobs:?}")),
        });
        nbd.disconnect();
        nbd = connect(&export);
        assert_eq!((nbd.size, [3, 31].map(|mib| byte(&mut nbd, mib * MIB))), (size(&cluster), [Ok(number); 2]));
        if nbd.size == 32 * MIB {
            shrunk += 1;
            assert_eq!(byte(&mut nbd, 40 * MIB), Err(EINVAL));
            assert_eq!(sized(&cluster, "64MiB", &[]), 64 * MIB);
            nbd.disconnect();
            nbd = connect(&export);
            assert_eq!([32, 40, 63].map(|mib| byte(&mut nbd, mib * MIB)), [Ok(0); 3], "round {round}");
        } else {
            assert_eq!(nbd.size, 64 * MIB);
            let job = jobs(&cluster).pop().expect("it is kept");
            assert!(job["trouble"].as_str().is_some_and(|why| why.contains("keeps its size")), "{job}");
            // What --force allowed may be gone; what is there is what was.
            for mib in [40, 63] {
                assert!([Ok(0), Ok(number)].contains(&byte(&mut nbd, mib * MIB)), "round {round}");
            }
        }
        assert_eq!(write(&mut nbd, 63 * MIB, number), Ok(()), "it serves its whole size");
        nbd.disconnect();
    }
    assert!(shrunk > 0, "one of them was in time");
}

#[test]
fn a_shrink_is_shown_given_up_and_refused_as_other_jobs_are_and_fails_without_its_gateway() {
    let cluster = Cluster::up(&[]);
    let export = cluster.volume("v", "64MiB");
    let mut nbd = connect(&export);
    assert_eq!(write(&mut nbd, 50 * MIB, 5), Ok(()));
    for (size, says) in [("0", "more than 0"), ("1000", "multiple of 512"), ("65MiB", "without --shrink")] {
        let line = refused(&cluster, size, &["--shrink"]);
        assert!(line.contains(says), "{line}");
    }
    assert!(refused(&cluster, "32MiB", &[]).contains("--shrink makes it smaller"));
    assert!(refused(&cluster, "32MiB", &["--shrink", "--rate", "1MiB"]).contains("--rate"));
    let pid = gateway(&cluster);
    signal(pid, Signal::STOP);
    let arguments = set("32MiB", &["--shrink", "--force", "--no-wait"]);
    let said = cluster.ok(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(said.contains("; job.1 shrinks it"), "{said}");
    let job = jobs(&cluster).remove(0);
    assert_eq!((&job["kind"], &job["new_size"]), (&Value::from("shrink"), &Value::from(32 * MIB)));
    assert!(cluster.ok(&["job", "show", "1"]).contains("new size    32MiB"));
    assert!(cluster.ok(&["status"]).contains("shrinking"));
    assert!(refused(&cluster, "16MiB", &["--shrink"]).contains("volume v is being shrunk (job.1)"));
    assert!(refused(&cluster, "1GiB", &[]).contains("volume v is being shrunk (job.1)"));
    assert!(cluster.fails(&["job", "pause", "1"]).contains("can be given up"));
    cluster.ok(&["job", "cancel", "1"]);
    signal(pid, Signal::CONT);
    assert_eq!((size(&cluster), jobs(&cluster).len()), (64 * MIB, 0));
    assert_eq!((byte(&mut nbd, 50 * MIB), write(&mut nbd, 60 * MIB, 5)), (Ok(5), Ok(())));

    signal(pid, Signal::STOP);
    let line = refused(&cluster, "32MiB", &["--shrink", "--force"]);
    assert!(line.contains("its gateway was not heard of for 10 s"), "{line}");
    signal(pid, Signal::CONT);
    let job = jobs(&cluster).remove(0);
    assert_eq!(job["state"], "failed");
    assert_eq!(cluster.status()["jobs"], Value::Array(vec![]), "nothing is to be done");
    assert_eq!((byte(&mut nbd, 50 * MIB), write(&mut nbd, 62 * MIB, 5)), (Ok(5), Ok(())));
    cluster.ok(&["snapshot", "create", "v@s"]);
    assert_eq!(sized(&cluster, "32MiB", &["--shrink", "--force"]), 32 * MIB);
    assert!(jobs(&cluster).is_empty(), "the one before gave way to it");
    let mut snapshot = Nbd::connect(&cluster.attach(&["v@s"]).address, "v@s").expect("served");
    assert_eq!((snapshot.size, byte(&mut snapshot, 50 * MIB)), (64 * MIB, Ok(5)), "the snapshot keeps its own");
}
