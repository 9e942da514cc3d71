//! What the server promises whatever its clients do.

mod support;
use ashlar_driver_nbd::memory::Completing;
use ashlar_driver_nbd::protocol::spec::*;
use ashlar_driver_nbd::{Limits, Server};
use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::raw::{Raw, option, request};
use support::{MIB, Running};

const DISC: u16 = NBD_CMD_DISC;

/// Waits, by asking again, for what another thread is about to do.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}: not yet");
        std::thread::yield_now();
    }
}

#[test]
fn a_half_closed_client_gets_all_it_asked_for() {
    for ends_with_disconnect in [false, true] {
        let running = Running::new(Limits::default());
        let device = running.add("disk", MIB, false, Completing::WhenReleased);
        let mut client = Raw::open(&running, "disk");
        for cookie in 0..3 {
            client.send(&request(0, NBD_CMD_READ, cookie, 0, 4096));
        }
        if ends_with_disconnect {
            client.send(&request(0, DISC, 9, 0, 0));
        } else {
            client.half_close();
        }
        until("all at the device", || device.waiting() == 3);
        device.release();
        for cookie in 0..3 {
            assert_eq!(client.reply(), (0, cookie));
            client.receive(4096);
        }
        assert!(client.is_closed());
        until("the connection is gone", || running.server.connections() == 0);
    }
}

#[test]
fn a_vanished_client_leaves_nothing_behind() {
    let running = Running::new(Limits::default());
    let device = running.add("disk", MIB, false, Completing::WhenReleased);
    let mut client = Raw::open(&running, "disk");
    client.send(&request(0, NBD_CMD_READ, 1, 0, MIB as u32));
    client.send(&request(0, NBD_CMD_WRITE, 2, 0, 4096));
    client.send(&[0; 100]); // and no more of the payload
    until("the read is at the device", || device.waiting() == 1);
    drop(client);
    device.release();
    until("the connection is gone", || running.server.connections() == 0);
    assert_eq!(device.submitted(), ["read"], "half a payload is not written");
}

#[test]
fn a_client_that_stops_reading_blocks_only_itself() {
    let limits = Limits { payload_bytes_max: 8 << 20, requests_max: 64, ..Limits::default() };
    let running = Running::new(limits);
    let greedy_device = running.add("greedy", 2 * MIB, false, Completing::AtOnce);
    running.add("other", MIB, false, Completing::AtOnce);
    let mut greedy = Raw::open(&running, "greedy");
    greedy.socket.set_nonblocking(true).expect("a socket");
    let reads = request(0, NBD_CMD_READ, 7, 0, MIB as u32).repeat(1000);
    // Asks until the server takes no more: its limits and both sockets' buffers are full.
    let (mut sent, mut refusals) = (0, 0);
    while refusals < 1000 && sent < 1000 * reads.len() {
        match greedy.socket.write(&reads[sent % reads.len()..]) {
            Ok(count) => (sent, refusals) = (sent + count, 0),
            Err(_) => {
                refusals += 1;
                std::thread::yield_now();
            }
        }
    }
    assert!(sent < 1000 * reads.len(), "the server stopped reading");
    let asked = greedy_device.submitted().len();
    assert!(asked < 64, "{asked} reads of 1 MiB were begun for a client that reads nothing");
    let mut other = Raw::open(&running, "other");
    other.send(&request(0, NBD_CMD_READ, 1, 0, 512));
    assert_eq!(other.reply(), (0, 1));
    greedy.socket.set_nonblocking(false).expect("a socket");
    for _ in 0..100 {
        assert_eq!(greedy.reply(), (0, 7), "it may go on any time");
        greedy.receive(MIB as usize);
    }
}

#[test]
fn requests_under_way_are_bounded() {
    let limits = Limits { requests_max: 4, ..Limits::default() };
    let running = Running::new(limits);
    let device = running.add("disk", MIB, false, Completing::WhenReleased);
    let mut client = Raw::open(&running, "disk");
    for cookie in 0..10 {
        client.send(&request(0, NBD_CMD_FLUSH, cookie, 0, 0));
    }
    let mut answered = 0;
    while answered < 10 {
        until("requests at the device", || device.waiting() == 4.min(10 - answered));
        answered += device.release();
    }
    (0..10).for_each(|cookie| assert_eq!(client.reply(), (0, cookie)));
}

#[test]
fn a_thousand_idle_connections_keep_nobody_out() {
    let running = Running::new(Limits { connections_max: 101, ..Limits::default() });
    running.add("disk", MIB, false, Completing::AtOnce);
    let mut first = Raw::open(&running, "disk");
    let mut idle: Vec<Raw> = Vec::new();
    for number in 0..1000 {
        idle.push(Raw::connect(&running));
        if idle.len() > 600 {
            idle.remove(0); // what the server pushed out long ago: this process has few file descriptors
        }
        if number % 100 == 0 {
            let mut client = Raw::open(&running, "disk");
            client.send(&request(0, NBD_CMD_READ, number, 0, 512));
            assert_eq!(client.reply(), (0, number));
        }
    }
    until("the oldest are pushed out", || running.server.connections() <= 101);
    first.send(&request(0, NBD_CMD_FLUSH, 5, 0, 0));
    assert_eq!(first.reply(), (0, 5), "an established connection is never pushed out");
}

#[test]
fn a_client_whose_export_opens_slowly_is_not_pushed_out() {
    let running = Running::new(Limits { connections_max: 6, ..Limits::default() });
    running.add("slow", MIB, false, Completing::AtOnce);
    let mut client = Raw::connect(&running);
    client.send(&[&3u32.to_be_bytes()[..], &option(NBD_OPT_EXPORT_NAME, b"slow")].concat());
    client.receive(18);
    until("it is opened", || running.shelf.slow_waits.load(Ordering::SeqCst) == 1);
    let mut idle: Vec<Raw> = (0..50).map(|_| Raw::connect(&running)).collect();
    idle[49].receive(18);
    until("the oldest are pushed out", || running.server.connections() == 6);
    running.shelf.slow.add_permits(1);
    client.receive(10);
    client.send(&request(0, NBD_CMD_FLUSH, 5, 0, 0));
    assert_eq!(client.reply(), (0, 5));
}

#[test]
fn connections_beyond_the_limit_are_closed_at_once() {
    let running = Running::new(Limits { connections_max: 2, ..Limits::default() });
    running.add("disk", MIB, false, Completing::AtOnce);
    let mut kept = [Raw::open(&running, "disk"), Raw::open(&running, "disk")];
    assert!(Raw::connect(&running).is_closed());
    for client in &mut kept {
        client.send(&request(0, NBD_CMD_FLUSH, 5, 0, 0));
        assert_eq!(client.reply(), (0, 5));
    }
    drop(kept);
    until("room again", || running.server.connections() == 0);
    Raw::open(&running, "disk");
}

#[test]
fn a_handshake_has_its_time() {
    let running = Running::new(Limits { handshake_time: Duration::from_millis(50), ..Limits::default() });
    running.add("disk", MIB, false, Completing::AtOnce);
    let mut silent = Raw::connect(&running);
    let mut half = Raw::connect(&running);
    half.send(&[0, 0, 0, 3, 0x49]);
    for client in [&mut silent, &mut half] {
        client.receive(18);
        assert!(client.is_closed());
    }
}

#[test]
fn bad_magic_closes_the_connection_after_what_is_owed() {
    let running = Running::new(Limits::default());
    let device = running.add("disk", MIB, false, Completing::WhenReleased);
    let mut client = Raw::open(&running, "disk");
    client.send(&request(0, NBD_CMD_FLUSH, 1, 0, 0));
    client.send(b"GET ");
    until("the flush is at the device", || device.waiting() == 1);
    device.release();
    assert_eq!(client.reply(), (0, 1));
    assert!(client.is_closed());
}

#[test]
fn an_unknown_export_or_option_says_so_and_the_handshake_goes_on() {
    let running = Running::new(Limits::default());
    running.add("disk", MIB, false, Completing::AtOnce);
    let mut client = Raw::connect(&running);
    client.send(&3u32.to_be_bytes());
    client.receive(18);
    for (name, expected) in [("nothing", NBD_REP_ERR_UNKNOWN), ("busy", NBD_REP_ERR_POLICY)] {
        let data = [&(name.len() as u32).to_be_bytes()[..], name.as_bytes(), &[0, 0]].concat();
        client.send(&option(NBD_OPT_GO, &data));
        let reply = client.receive(20);
        assert_eq!(reply[12..16], expected.to_be_bytes());
        let len = u32::from_be_bytes(reply[16..].try_into().expect("four bytes"));
        assert!(len > 0, "with a reason");
        client.receive(len as usize);
    }
    client.send(&option(NBD_OPT_EXPORT_NAME, b"disk"));
    client.receive(10);
    let mut refused = Raw::connect(&running);
    refused.send(&[&3u32.to_be_bytes()[..], &option(NBD_OPT_EXPORT_NAME, b"nothing")].concat());
    refused.receive(18);
    assert!(refused.is_closed(), "NBD_OPT_EXPORT_NAME can't say no");
}

#[test]
fn a_device_may_grow_and_shrink_under_its_clients() {
    let running = Running::new(Limits::default());
    let device = running.add("disk", MIB, false, Completing::AtOnce);
    let mut client = Raw::open(&running, "disk");
    client.send(&request(0, NBD_CMD_READ, 1, MIB, 512));
    assert_eq!(client.reply(), (NBD_EINVAL, 1));
    device.resize(2 * MIB);
    client.send(&request(0, NBD_CMD_READ, 2, MIB, 512));
    assert_eq!(client.reply(), (0, 2));
    client.receive(512);
    device.resize(MIB);
    client.send(&request(0, NBD_CMD_READ, 3, MIB, 512));
    assert_eq!(client.reply(), (NBD_EINVAL, 3));
    client.send(&request(0, NBD_CMD_WRITE_ZEROES, 4, MIB, 512));
    assert_eq!(client.reply(), (NBD_ENOSPC, 4));
}

#[test]
fn shutdown_answers_what_is_under_way_refuses_the_rest_and_closes() {
    let limits = Limits { shutdown_linger: Duration::from_secs(2), ..Limits::default() };
    let running = Running::new(limits);
    let device = running.add("disk", MIB, false, Completing::WhenReleased);
    let mut client = Raw::open(&running, "disk");
    client.send(&request(0, NBD_CMD_FLUSH, 1, 0, 0));
    until("the flush is at the device", || device.waiting() == 1);
    let server: Server = running.server.clone();
    let shutdown = running.runtime.spawn(async move { server.shutdown().await });
    // Asks until it is refused; before that, requests still reach the device.
    let mut refused = false;
    let mut cookie = 1;
    while !refused {
        cookie += 1;
        client.send(&request(0, NBD_CMD_READ, cookie, 0, 512));
        let waiting_before = device.waiting();
        until("an answer or a wait", || {
            refused = client.has_reply();
            refused || device.waiting() > waiting_before
        });
    }
    assert_eq!(client.reply(), (NBD_ESHUTDOWN, cookie));
    device.release();
    assert_eq!(client.reply(), (0, 1), "what was under way is answered");
    for cookie in 2..cookie {
        assert_eq!(client.reply(), (0, cookie));
        client.receive(512);
    }
    client.send(&request(0, DISC, 0, 0, 0));
    assert!(client.is_closed());
    running.runtime.block_on(shutdown).expect("it ends");
    assert_eq!(running.server.connections(), 0);
    assert!(std::net::TcpStream::connect(running.tcp).is_err(), "nobody listens");
    assert!(!running.unix.exists(), "the socket file is removed");
}

#[test]
fn shutdown_waits_neither_for_handshakes_nor_for_idle_clients() {
    let grace = Duration::from_secs(600);
    let running =
        Running::new(Limits { shutdown_linger: Duration::from_millis(1), shutdown_grace: grace, ..Limits::default() });
    running.add("disk", MIB, false, Completing::AtOnce);
    let mut silent = Raw::connect(&running);
    silent.receive(18);
    let mut idle = Raw::open(&running, "disk");
    let start = std::time::Instant::now();
    running.runtime.block_on(running.server.shutdown());
    assert!(start.elapsed() < grace / 10);
    assert!(silent.is_closed() && idle.is_closed());
}

#[test]
fn what_others_have_under_way_leaves_each_connection_its_own() {
    let running = Running::new(Limits { payload_bytes_shared: 8 << 20, ..Limits::default() });
    let device = running.add("disk", 8 * MIB, false, Completing::WhenReleased);
    let read = |cookie, len| request(0, NBD_CMD_READ, cookie, 0, len);
    let mut greedy = Raw::open(&running, "disk");
    (0..20).for_each(|cookie| greedy.send(&read(cookie, MIB as u32)));
    until("the pool is empty", || device.waiting() == 9); // its own, and 8 MiB
    let mut other = Raw::open(&running, "disk");
    (0..20).for_each(|cookie| other.send(&read(cookie, MIB as u32 / 4)));
    until("its own is used", || device.waiting() == 9 + 4);
    let mut third = Raw::open(&running, "disk");
    third.send(&read(1, 8 * MIB as u32));
    let mut fourth = Raw::open(&running, "disk");
    fourth.send(&read(1, MIB as u32));
    until("its own", || device.waiting() == 9 + 4 + 1);
    drop(greedy);
    until("there is room for the long one", || device.release() == 0 && third.has_reply());
    assert_eq!(third.reply(), (0, 1));
    third.receive(8 << 20);
    for cookie in 0..20 {
        until("the next reply", || device.release() > 0 || other.has_reply());
        assert_eq!(other.reply(), (0, cookie));
        other.receive(MIB as usize / 4);
    }
}

#[test]
fn who_holds_shared_memory_and_does_not_go_on_is_closed_and_nobody_starves() {
    let limits = Limits {
        payload_bytes_shared: 32 << 20,
        stall_time: Duration::from_secs(1),
        requests_max: 8,
        ..Limits::default()
    };
    let running = Running::new(limits);
    running.add("disk", 32 * MIB, false, Completing::AtOnce);
    let long = 32 * MIB as u32;
    let mut idle = Raw::open(&running, "disk");
    let mut small = Raw::open(&running, "disk");
    small.send(&request(0, NBD_CMD_WRITE, 1, 0, MIB as u32));
    let mut stalled: Vec<Raw> = (0..3).map(|_| Raw::open(&running, "disk")).collect();
    for (client, kind) in stalled.iter_mut().zip([NBD_CMD_WRITE, NBD_CMD_READ, NBD_CMD_WRITE]) {
        client.send(&request(0, kind, 1, 0, long));
        client.send(&[0; 27]); // and no more of a payload or of a further request
    }
    let mut honest = Raw::open(&running, "disk");
    honest.send(&request(0, NBD_CMD_READ, 7, 0, long));
    assert_eq!(honest.reply(), (0, 7), "those before it are gone");
    honest.receive(32 << 20);
    for client in &mut stalled {
        let mut rest = Vec::new();
        // A reset or an end, whichever its unread bytes make of it.
        let _ = client.socket.read_to_end(&mut rest);
        assert!(rest.len() < 32 << 20, "closed, and not served");
    }
    small.send(&[0; 1 << 20]);
    assert_eq!(small.reply(), (0, 1), "who takes nothing from others has all the time it wants");
    idle.send(&request(0, NBD_CMD_FLUSH, 5, 0, 0));
    assert_eq!(idle.reply(), (0, 5));
}

#[test]
fn clients_of_a_device_that_does_not_answer_keep_nobody_else_out() {
    let running = Running::new(Limits { connections_max: 4, connections_per_export_max: 6, ..Limits::default() });
    let stuck = running.add("stuck", MIB, false, Completing::WhenReleased);
    running.add("other", MIB, false, Completing::AtOnce);
    // Connected and greeted, so not refused; until the server has seen that others are gone, it may be.
    let admitted = || {
        let mut client = None;
        until("a place", || {
            let mut raw = Raw::connect(&running);
            let is_greeted = raw.socket.read_exact(&mut [0; 18]).is_ok();
            client = is_greeted.then_some(raw);
            is_greeted
        });
        client.expect("admitted")
    };
    let choose = |name: &str| [&3u32.to_be_bytes()[..], &option(NBD_OPT_EXPORT_NAME, name.as_bytes())].concat();
    for number in 0..6 {
        let mut client = admitted();
        client.send(&choose("stuck"));
        client.receive(10);
        client.send(&request(0, NBD_CMD_READ, 1, 0, 4096));
        until("the read is at the device", || stuck.waiting() == number + 1);
    }
    let mut refused = admitted();
    refused.send(&choose("stuck"));
    assert!(refused.is_closed(), "what ended connections have at the device counts");
    let mut others: Vec<Raw> = Vec::new();
    for _ in 0..4 {
        let mut client = admitted();
        client.send(&choose("other"));
        client.receive(10);
        client.send(&request(0, NBD_CMD_FLUSH, 5, 0, 0));
        assert_eq!(client.reply(), (0, 5));
        others.push(client);
    }
    others.clear();
    assert_eq!(stuck.release(), 6);
    let mut client = admitted();
    client.send(&choose("stuck"));
    client.receive(10);
}

#[test]
fn a_client_that_can_not_be_read_keeps_nobody_out() {
    let stall_time = Duration::from_millis(50);
    let limits = Limits { connections_max: 1, requests_max: 2, stall_time, ..Limits::default() };
    let running = Running::new(limits);
    let stuck = running.add("stuck", MIB, false, Completing::WhenReleased);
    let mut client = Raw::open(&running, "stuck");
    (0..3).for_each(|cookie| client.send(&request(0, NBD_CMD_FLUSH, cookie, 0, 0)));
    until("all that may be at the device", || stuck.waiting() == 2);
    drop(client); // which the server can't see behind the third request
    until("a place", || Raw::connect(&running).socket.read_exact(&mut [0; 18]).is_ok());
}

#[test]
fn shutdown_does_not_wait_for_ever() {
    let running = Running::new(Limits {
        shutdown_linger: Duration::from_millis(1),
        shutdown_grace: Duration::from_millis(50),
        ..Limits::default()
    });
    let device = running.add("disk", MIB, false, Completing::WhenReleased);
    let mut client = Raw::open(&running, "disk");
    client.send(&request(0, NBD_CMD_FLUSH, 1, 0, 0));
    until("the flush is at the device", || device.waiting() == 1);
    running.runtime.block_on(running.server.shutdown());
    assert!(client.is_closed(), "the device never answered, and the server ended");
    device.release(); // and a late answer troubles nobody
}

#[test]
fn a_socket_file_left_behind_is_replaced_and_one_in_use_is_not() {
    let running = Running::new(Limits::default());
    let other = Server::new(running.shelf.clone(), Limits::default());
    running.runtime.block_on(async {
        let taken = other.listen_unix(&running.unix).await.expect_err("somebody listens there");
        assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
        let left = running.folder.path().join("left.sock");
        drop(std::os::unix::net::UnixListener::bind(&left).expect("free"));
        assert!(left.exists());
        other.listen_unix(&left).await.expect("replaced");
        other.shutdown().await;
    });
}
