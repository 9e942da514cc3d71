//! Clients that break the rules, or do nothing: none disturbs another, and the gateway's memory stays bounded.

use crate::support::Cluster;
use crate::support::nbd::{CMD_READ, CMD_WRITE, IHAVEOPT, Nbd, greet, read_option_reply, send_option};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Resident memory of a process, in bytes.
fn resident_bytes(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("proc(5)");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

/// A well-behaved client works, and the gateway is the process it was.
fn assert_undisturbed(cluster: &Cluster, address: &str, pid: i32) {
    let mut nbd = Nbd::connect(address, "v").expect("a good client is served");
    nbd.write(8192, &[3; 4096]).expect("connected").expect("written");
    assert!(nbd.read(8192, 4096).expect("connected").expect("read") == [3; 4096]);
    nbd.disconnect();
    assert_eq!(cluster.pid("gateway"), Some(pid), "{}", cluster.logs());
}

#[test]
fn garbage_and_half_handshakes_disturb_nobody() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "64MiB");
    let pid = cluster.pid("gateway").expect("runs");
    let connect = || {
        let stream = TcpStream::connect(&volume.address).expect("listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        stream
    };
    // Nothing, or a little, and gone.
    for prefix in 0..6 {
        let mut stream = connect();
        stream.write_all(&[0xff; 6][..prefix]).expect("connected");
    }
    // Noise of every length, in place of the client's flags and options.
    let mut state = 0x1234_5678_9abc_def1u64;
    for len in [1usize, 4, 20, 100, 4096, 65536] {
        let mut noise = vec![0u8; len];
        noise.iter_mut().for_each(|byte| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        });
        let mut stream = connect();
        // It may close in the middle.
        let _ = stream.write_all(&noise);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    // An option that claims 4 GiB.
    let mut stream = connect();
    greet(&mut stream).expect("an NBD server");
    let mut huge = IHAVEOPT.to_be_bytes().to_vec();
    huge.extend(7u32.to_be_bytes());
    huge.extend(u32::MAX.to_be_bytes());
    stream.write_all(&huge).expect("connected");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    // An option whose data contradicts itself gets an error, not an export.
    let mut stream = connect();
    greet(&mut stream).expect("an NBD server");
    send_option(&mut stream, 7, &[0xff; 10]).expect("connected");
    let (reply, _) = read_option_reply(&mut stream).expect("an answer");
    assert_eq!(reply >> 31, 1, "an error");
    // Unknown volumes are refused by name.
    let refused = Nbd::connect(&volume.address, "nosuch").expect_err("there is none").to_string();
    assert!(refused.contains("nosuch"), "{refused}");
    assert_undisturbed(&cluster, &volume.address, pid);
}

#[test]
fn requests_that_break_the_protocol_close_only_their_connection() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "64MiB");
    let pid = cluster.pid("gateway").expect("runs");
    // Wrong magic.
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    nbd.stream.write_all(&[0xee; 28]).expect("connected");
    assert!(nbd.receive().is_err(), "closed");
    // A write that claims 4 GiB, a read beyond the end, a command nobody knows.
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    nbd.send(CMD_WRITE, 0, 0, u32::MAX, &[0; 512]).expect("connected");
    assert!(!matches!(nbd.receive(), Ok((_, 0))), "refused or closed");
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    nbd.send(CMD_READ, 0, u64::MAX - 100, 4096, &[]).expect("connected");
    assert!(!matches!(nbd.receive(), Ok((_, 0))), "refused or closed");
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    nbd.send(99, 0, 0, 4096, &[]).expect("connected");
    assert!(!matches!(nbd.receive(), Ok((_, 0))), "refused or closed");
    // Half a write, then gone.
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    nbd.send(CMD_WRITE, 0, 0, 1 << 20, &[9; 1000]).expect("connected");
    drop(nbd);
    assert_undisturbed(&cluster, &volume.address, pid);
}

#[test]
fn a_client_that_stops_reading_costs_bounded_memory_and_stalls_nobody() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "256MiB");
    let pid = cluster.pid("gateway").expect("runs");
    let mut nbd = Nbd::connect(&volume.address, "v").expect("served");
    (0..64u64).for_each(|n| nbd.write(n << 20, &vec![7; 1 << 20]).expect("connected").expect("written"));
    let before = resident_bytes(pid);
    // Asks for 4 GiB and reads none of it.
    let mut greedy = Nbd::connect(&volume.address, "v").expect("served");
    greedy.stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a socket");
    for n in 0..4096u64 {
        if greedy.send(CMD_READ, 0, (n % 64) << 20, 1 << 20, &[]).is_err() {
            break;
        }
    }
    for n in 0..200u64 {
        nbd.write((n % 64) << 20, &[8; 4096]).expect("connected").expect("written");
    }
    let grown = resident_bytes(pid).saturating_sub(before);
    assert!(grown < 512 << 20, "the gateway grew by {grown} bytes");
    drop(greedy);
    assert_undisturbed(&cluster, &volume.address, pid);
}

#[test]
fn a_thousand_connections_are_served_at_once() {
    let cluster = Cluster::up(&[]);
    let volume = cluster.volume("v", "64MiB");
    let pid = cluster.pid("gateway").expect("runs");
    raise_open_files_limit();
    let mut connections: Vec<Nbd> = (0..1000)
        .map(|n| Nbd::connect(&volume.address, "v").unwrap_or_else(|e| panic!("connection {n}: {e}")))
        .collect();
    for (n, nbd) in connections.iter_mut().enumerate() {
        nbd.write(n as u64 * 4096, &[n as u8; 4096]).expect("connected").expect("written");
    }
    for (n, nbd) in connections.iter_mut().enumerate() {
        assert!(nbd.read(n as u64 * 4096, 4096).expect("connected").expect("read") == [n as u8; 4096]);
    }
    let used = resident_bytes(pid);
    assert!(used < 1 << 30, "the gateway uses {used} bytes");
    drop(connections);
    assert_undisturbed(&cluster, &volume.address, pid);
}

/// A thousand sockets of ours need more than the usual soft limit.
fn raise_open_files_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the hard limit");
}
