//! Figures, on demand: `cargo test --release -p ashlar-driver-nbd --test throughput -- --ignored --nocapture`.

mod support;
use ashlar_driver_nbd::Limits;
use ashlar_driver_nbd::memory::Completing;
use ashlar_types::{BlockDevice, BlockOp, BlockReply, BlockRequest, Completions, DeviceInfo};
use bytes::Bytes;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use support::{MIB, Running, has, succeed};

/// Does nothing, so that what is measured is the front end alone.
struct Null {
    zeroes: Bytes,
}

impl BlockDevice for Null {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { size: 64 * MIB, read_only: false, description: String::new() }
    }

    fn submit(&self, request: BlockRequest, completions: &Arc<dyn Completions>) {
        let reply = match request.op {
            BlockOp::Read { len, .. } => BlockReply::Data(vec![self.zeroes.slice(..len as usize)]),
            _ => BlockReply::Done,
        };
        completions.complete(request.tag, Ok(reply));
    }
}

/// CPU microseconds that a process has used (in units of 10 ms, as the kernel counts them).
fn cpu_us(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("Linux");
    let fields = stat.rsplit_once(')').expect("a name in parentheses").1.split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() * 10_000.0
}

fn nbdkit(socket: &str, plugin: &[&str]) -> Child {
    let child = Command::new("nbdkit").args(["-f", "-U", socket]).args(plugin).stdin(Stdio::null()).spawn();
    while !std::path::Path::new(socket).exists() {
        std::thread::yield_now();
    }
    child.expect("nbdkit starts")
}

/// One job; prints its figures. `server` is the process that serves it.
fn measure(label: &str, uri: &str, server: &str, job: [&str; 3]) {
    let seconds = std::env::var("FIO_SECONDS").unwrap_or_else(|_| "4".to_owned());
    let [mode, block, depth] = job;
    let uri = format!("--uri={uri}");
    let (rw, bs) = (format!("--rw={mode}"), format!("--bs={block}"));
    let (iodepth, runtime) = (format!("--iodepth={depth}"), format!("--runtime={seconds}"));
    let fixed = ["--name=job", "--ioengine=nbd", "--size=64M", "--time_based", "--norandommap", "--minimal"];
    let before = cpu_us(server);
    let text = succeed("fio", &[&fixed[..], &[&uri, &rw, &bs, &iodepth, &runtime]].concat());
    let used = cpu_us(server) - before;
    // fio's terse output, version 3: KiB and IOPS of reads at 5 and 7, of writes at 46 and 48 (fields from 0).
    let line = text.lines().find(|line| line.starts_with("3;")).expect("a terse line");
    let fields: Vec<f64> = line.split(';').map(|field| field.parse().unwrap_or(0.0)).collect();
    let at = if mode.ends_with("read") { 5 } else { 46 };
    let ios = fields[at] / if block == "4k" { 4.0 } else { 1024.0 };
    println!(
        "{mode:>9} {block} QD{depth:<2} {label:<20} {:>7.0} IOPS, {:>6.1} us of the server's CPU each",
        fields[at + 2],
        used / ios
    );
}

/// 4 KiB reads and writes at depth 1 and 32, and 1 MiB ones, over a Unix socket and TCP, beside nbdkit in the same run.
#[test]
#[ignore = "a measurement of some minutes"]
fn iops_beside_nbdkit() {
    if !has("fio", &["--enghelp=nbd"]) || !has("nbdkit", &["--version"]) {
        return;
    }
    let running = Running::new(Limits::default());
    running.add("memory", 64 * MIB, false, Completing::AtOnce);
    running.add("threaded", 64 * MIB, false, Completing::Later { seed: 1 });
    running.add_device("null", Arc::new(Null { zeroes: vec![0; MIB as usize].into() }));
    let sockets = [running.path("memory.sock"), running.path("null.sock")];
    let mut peers = [nbdkit(&sockets[0], &["memory", "64M"]), nbdkit(&sockets[1], &["null", "64M"])];
    let uris = sockets.map(|socket| format!("nbd+unix:///?socket={socket}"));
    let ids = [0, 1].map(|peer: usize| peers[peer].id().to_string());
    for job in [
        ["randwrite", "4k", "1"],
        ["randwrite", "4k", "32"],
        ["randread", "4k", "1"],
        ["randread", "4k", "32"],
        ["write", "1M", "8"],
        ["read", "1M", "8"],
    ] {
        for device in ["null", "memory", "threaded"] {
            measure(&format!("ours, unix, {device}"), &running.unix_uri(device), "self", job);
        }
        measure("ours, tcp, null", &running.tcp_uri("null"), "self", job);
        measure("nbdkit, unix, null", &uris[1], &ids[1], job);
        measure("nbdkit, unix, memory", &uris[0], &ids[0], job);
    }
    for peer in &mut peers {
        peer.kill().expect("nbdkit runs");
        peer.wait().expect("nbdkit ends");
    }
}
