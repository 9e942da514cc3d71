//! `ashlar perf` on real clusters: it counts just the requests that were made, the parts add up, a process begins from nothing.

use crate::support::Cluster;
use crate::support::nbd::Nbd;
use crate::support::tools::wait_until;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

const BLOCK: u64 = 4096;
/// In each of so many chunks, so that every OSD leads some of them.
const CHUNKS: u64 = 16;
const CHUNK: u64 = 4 << 20;
const WRITES: u64 = 60;
const READS: u64 = 25;
/// OSDs tell once a second, and this machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

const WHOLES: [(&str, &[&str]); 3] = [
    ("write", &["write.admit", "write.store", "write.members", "write.answer"]),
    ("read", &["read.admit", "read.lease", "read.store", "read.answer"]),
    ("member", &["member.admit", "member.store", "member.answer"]),
];

fn number(stages: &Value, stage: &str, field: &str) -> u64 {
    stages[stage][field].as_u64().unwrap_or_else(|| panic!("{field} of {stage} in {stages}"))
}

fn count(stages: &Value, stage: &str) -> u64 {
    number(stages, stage, "count")
}

fn osds(perf: &Value) -> &Vec<Value> {
    perf["osds"].as_array().unwrap_or_else(|| panic!("no OSDs in {perf}"))
}

fn write(nbd: &mut Nbd, index: u64) {
    let at = index % CHUNKS * CHUNK + index / CHUNKS * BLOCK;
    nbd.write(at, &[index as u8 + 1; BLOCK as usize]).expect("connected").expect("written");
}

/// All that was done is told, and no more than that.
fn wait_for(cluster: &Cluster, writes: u64, reads: u64) -> Value {
    let mut perf = Value::Null;
    wait_until("the histograms are not told", PATIENCE, || {
        perf = cluster.json(&["perf"]);
        let all = &perf["cluster"];
        let told = ["write", "read", "member"].map(|stage| count(all, stage));
        assert!(told[0] <= writes && told[1] <= reads && told[2] <= 2 * writes, "{told:?}");
        if told == [writes, reads, 2 * writes] { Ok(()) } else { Err(format!("{told:?}")) }
    });
    perf
}

#[test]
fn requests_are_counted_once_and_a_restarted_osd_begins_from_nothing() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "64MiB");
    let mut nbd = Nbd::connect(&volume.address, "v").expect("the export is served");
    (0..WRITES).for_each(|index| write(&mut nbd, index));
    (0..READS).for_each(|index| drop(nbd.read(index % CHUNKS * CHUNK, 4096).expect("connected").expect("read")));
    let perf = wait_for(&cluster, WRITES, READS);

    let all = &perf["cluster"];
    for (whole, parts) in WHOLES {
        assert!(parts.iter().all(|part| count(all, part) == count(all, whole)), "{whole}: {all}");
        let sum: u64 = parts.iter().map(|part| number(all, part, "sum")).sum();
        assert_eq!(sum, number(all, whole, "sum"), "{whole}: {all}");
        let quantiles = ["p50", "p99", "p999", "max"].map(|field| number(all, whole, field));
        assert!(quantiles.is_sorted() && quantiles[0] > 0, "{whole}: {all}");
    }
    assert_eq!(count(all, "peer.prepare"), 2 * WRITES);
    let sum = |stage| number(all, stage, "sum");
    assert!(sum("peer.prepare") >= sum("member"), "who is asked has the answer later than it was given: {all}");
    assert!(count(all, "disk.write") >= 3 && count(all, "turn.messages") > 0, "{all}");
    // The whole is that of its parts over the OSDs too.
    for stage in ["write", "read", "member", "disk.write"] {
        let sum: u64 = osds(&perf).iter().map(|osd| count(&osd["stages"], stage)).sum();
        assert_eq!(sum, count(all, stage), "{stage}: {perf}");
    }
    let text = cluster.ok(&["perf"]);
    assert!(text.contains("cluster, since each OSD's start") && text.contains("osd.3, since its start"), "{text}");
    assert!(text.contains("  write.members  60 "), "{text}");
    let one = cluster.json(&["perf", "--osd", "2"]);
    assert_eq!((osds(&one).len(), &one["osds"][0]["id"], one.get("cluster")), (1, &Value::from(2), None), "{one}");

    let before = one["osds"][0].clone();
    cluster.ok(&["osd", "kill", "2"]);
    cluster.ok(&["osd", "start", "2"]);
    cluster.wait_in_sync(Duration::from_secs(60));
    let mut after = Value::Null;
    wait_until("the new process has not told", PATIENCE, || {
        after = cluster.json(&["perf", "--osd", "2"])["osds"][0].clone();
        if after["boot"] != before["boot"] { Ok(()) } else { Err(after["boot"].to_string()) }
    });
    let (before, after) = (&before["stages"], &after["stages"]);
    assert!(count(before, "write") + count(before, "member") >= WRITES, "{before}");
    assert_eq!((count(after, "write"), count(after, "read"), count(after, "member")), (0, 0, 0), "{after}");
}

#[test]
fn an_interval_shows_what_came_in_it() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "64MiB");
    let mut nbd = Nbd::connect(&volume.address, "v").expect("the export is served");
    (0..WRITES).for_each(|index| write(&mut nbd, index));
    wait_for(&cluster, WRITES, 0);
    let mut watching = cluster.command(&["perf", "--watch", "2", "--times", "3", "--json"]);
    let mut watching = watching.stdout(Stdio::piped()).spawn().expect("started");
    let mut written = 0;
    while watching.try_wait().expect("ours").is_none() {
        write(&mut nbd, written % WRITES);
        written += 1;
    }
    let lines: Vec<String> =
        BufReader::new(watching.stdout.take().expect("piped")).lines().collect::<Result<_, _>>().expect("text");
    let told = |line: &String| serde_json::from_str::<Value>(line).map(|perf| count(&perf["cluster"], "write"));
    let counts: Vec<u64> = lines.iter().map(told).collect::<Result<_, _>>().expect("JSON");
    assert_eq!(counts.len(), 3, "{lines:?}");
    let sum: u64 = counts.iter().sum();
    assert!(sum > 0 && sum <= written, "{counts:?} of {written} writes");
    assert!(counts.iter().all(|count| *count < WRITES + written), "none has what came before it: {counts:?}");
}

#[test]
fn what_is_asked_wrongly_is_said_and_a_reader_that_goes_away_ends_it() {
    let cluster = Cluster::up(&["--osds", "1"]);
    let line = cluster.fails(&["perf", "--osd", "9"]);
    assert!(line.contains("osd.9 does not exist; the cluster has osd.1"), "{line}");
    assert!(cluster.fails(&["perf", "--osd", "x"]).contains("'x'"));
    assert!(cluster.fails(&["perf", "--watch", "0"]).contains("not in 1..=86400"));
    assert!(cluster.fails(&["perf", "--times", "3"]).contains("--watch"));
    let mut watching = cluster.command(&["perf", "--watch", "1"]).stdout(Stdio::piped()).spawn().expect("started");
    let mut first = String::new();
    BufReader::new(watching.stdout.take().expect("piped")).read_line(&mut first).expect("text");
    assert!(first.starts_with("cluster"), "{first}");
    wait_until("it goes on though nobody reads", PATIENCE, || match watching.try_wait().expect("ours") {
        Some(status) if status.success() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    cluster.kill_everything();
    let line = cluster.fails(&["perf"]);
    assert!(line.contains("is down; `ashlar up` brings it back"), "{line}");
}
