mod toy;

use super::{ToControl, ToData};
use crate::disk::Disk;
use crate::error::OsdError;
use ashlar_osd_core::{Action, DiskOp, IoId};
use ashlar_types::{BootId, OsdId, Tick};
use ashlar_wire::IoKind;
use bytes::Bytes;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use toy::{GREEDY, Heard, bytes_of, hello, request, start};

fn extents(number: u64) -> ashlar_wire::Message {
    request(number, IoKind::Extents, 0, 4096, Bytes::new())
}

#[test]
fn what_is_written_is_read_back_through_the_disk() {
    let shell = start(Vec::new());
    let mut client = shell.client();
    let data = Bytes::from((0..128 * 1024u32).map(|i| (i / 512) as u8).collect::<Vec<u8>>());
    client.send(&request(1, IoKind::Write, 8192, data.len() as u32, data.clone()));
    client.reply();
    client.send(&request(2, IoKind::Read, 8192, data.len() as u32, Bytes::new()));
    assert_eq!(client.reply().payload, data);
    assert_eq!(shell.count("disk_write_copied_bytes_total"), 0, "a received payload goes to the disk as it is");
    client.send(&request(3, IoKind::Zero, 8192, 4096, Bytes::new()));
    client.reply();
    shell.stop();
}

#[test]
fn a_burst_of_requests_is_answered_in_order_with_few_sends() {
    let shell = start(Vec::new());
    let mut client = shell.client();
    const REQUESTS: u64 = 20_000;
    let mut sender = client.stream.try_clone().expect("a second handle");
    let writer = std::thread::spawn(move || {
        let burst: Vec<u8> = (1..=REQUESTS).flat_map(|n| bytes_of(&extents(n))).collect();
        sender.write_all(&burst).expect("sent");
    });
    for number in 1..=REQUESTS {
        assert_eq!(client.reply().op.number.0, number);
    }
    writer.join().expect("the writer ends");
    assert!(shell.count("sends_total") < REQUESTS / 4, "{} sends", shell.count("sends_total"));
    shell.stop();
}

#[test]
fn bytes_that_trickle_in_make_a_request() {
    let shell = start(Vec::new());
    let mut client = shell.client();
    let payload = Bytes::from(vec![9; 4096]);
    for byte in bytes_of(&request(1, IoKind::Write, 0, 4096, payload)).chunks(7) {
        client.stream.write_all(byte).expect("sent");
    }
    client.reply();
    shell.stop();
}

#[test]
fn garbage_closes_that_connection_and_no_other() {
    let shell = start(Vec::new());
    let mut good = shell.client();
    for garbage in [
        &[0xff; 600][..],
        &bytes_of(&extents(1))[..],
        b"GET / HTTP/1.1\r\n\r\n............................................................",
    ] {
        let mut stranger = shell.stranger();
        stranger.stream.write_all(garbage).expect("sent");
        assert!(stranger.receive().is_none(), "closed");
    }
    // A connection that the core knows is told to it.
    let mut bad = shell.client();
    bad.stream.write_all(&[7; 512]).expect("sent");
    assert!(bad.receive().is_none());
    shell.hears(Heard::Closed);
    assert_eq!(shell.count("connections_malformed_total"), 4);
    good.send(&extents(1));
    good.reply();
    shell.stop();
}

#[test]
fn a_thousand_connections_are_served() {
    let shell = start(Vec::new());
    let mut clients: Vec<_> = (0..1000).map(|_| shell.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&extents(number as u64));
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.reply().op.number.0, number as u64);
    }
    assert_eq!(shell.count("connections_open"), 1000);
    drop(clients);
    for _ in 0..1000 {
        shell.hears(Heard::Closed);
    }
    shell.stop();
}

#[test]
fn a_client_that_does_not_read_is_not_read_from_and_others_are_served() {
    let shell = start(Vec::new());
    let mut slow = shell.client();
    const REQUESTS: u64 = 4000;
    let mut sender = slow.stream.try_clone().expect("a second handle");
    let writer = std::thread::spawn(move || {
        for number in 1..=REQUESTS {
            sender.write_all(&bytes_of(&request(number, IoKind::Read, 0, 65536, Bytes::new()))).expect("sent");
        }
    });
    // Until it is no longer read from: then nothing more is received.
    let mut before = (0, Instant::now());
    while before.1.elapsed() < Duration::from_millis(300) {
        let received = shell.count("messages_received_total");
        if received != before.0 {
            before = (received, Instant::now());
        }
        std::thread::yield_now();
    }
    assert!(before.0 < REQUESTS, "it reads on without end");
    let mut other = shell.client();
    other.send(&extents(1));
    other.reply();
    for number in 1..=REQUESTS {
        assert_eq!(slow.reply().payload.len(), 65536, "reply {number}");
    }
    writer.join().expect("the writer ends");
    shell.stop();
}

#[test]
fn a_connection_that_the_core_closes_hears_the_last_message() {
    let shell = start(Vec::new());
    let mut client = shell.client();
    client.send(&request(5, IoKind::Extents, 0, 13, Bytes::new()));
    assert_eq!(client.reply().op.number.0, 5);
    assert!(client.receive().is_none());
    shell.stop();
}

#[test]
fn a_link_comes_up_carries_messages_and_goes_down() {
    let peer = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (osd, boot) = (OsdId(2), BootId(9));
    let link = Action::Link { osd, boot, address: "peer".into() };
    // A link that is asked for twice is one link: the first attempt is forgotten.
    let mut shell = start(vec![link.clone(), link]);
    let mut serials = Vec::new();
    for _ in 0..2 {
        match shell.outbox.blocking_recv() {
            Some(ToControl::Connect { serial, .. }) => serials.push(serial),
            other => panic!("{other:?}"),
        }
    }
    let refused = Err(std::io::ErrorKind::ConnectionRefused.into());
    shell.port.send(ToData::Connected { osd, serial: serials[0], result: refused });
    let socket = std::net::TcpStream::connect(peer.local_addr().expect("bound")).expect("connected");
    shell.port.send(ToData::Connected { osd, serial: serials[1], result: Ok(socket.into()) });
    shell.hears(Heard::LinkUp);
    assert!(matches!(shell.outbox.blocking_recv(), Some(ToControl::Trust(o)) if o == osd));

    let (mut stream, _) = peer.accept().expect("a connection");
    let expected = bytes_of(&hello(1));
    let mut received = vec![0; expected.len()];
    stream.read_exact(&mut received).expect("the hello");
    assert_eq!(received, expected);
    let reply = ashlar_wire::HelloReply { osd, boot, status: ashlar_wire::HelloStatus::Welcome };
    stream.write_all(&bytes_of(&ashlar_wire::Message::HelloReply(reply))).expect("sent");
    shell.hears(Heard::LinkReceived);
    drop(stream);
    shell.hears(Heard::LinkDown);
    assert!(matches!(shell.outbox.blocking_recv(), Some(ToControl::Suspect(o, b)) if (o, b) == (osd, boot)));
    shell.stop();
}

#[test]
fn replies_on_a_link_are_read_while_its_requests_wait() {
    let peer = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut shell = start(vec![Action::Link { osd: GREEDY, boot: BootId(9), address: "peer".into() }]);
    let Some(ToControl::Connect { serial, .. }) = shell.outbox.blocking_recv() else { panic!("it connects") };
    let socket = std::net::TcpStream::connect(peer.local_addr().expect("bound")).expect("connected");
    shell.port.send(ToData::Connected { osd: GREEDY, serial, result: Ok(socket.into()) });
    shell.hears(Heard::LinkUp);
    // It answers without having read anything.
    let (mut stream, _) = peer.accept().expect("a connection");
    let reply = ashlar_wire::HelloReply { osd: GREEDY, boot: BootId(9), status: ashlar_wire::HelloStatus::Welcome };
    for _ in 0..3 {
        stream.write_all(&bytes_of(&ashlar_wire::Message::HelloReply(reply.clone()))).expect("sent");
        shell.hears(Heard::LinkReceived);
    }
    shell.stop();
}

#[test]
fn timers_ring_and_beats_are_answered() {
    let soon = Tick(crate::clock::now().0 + 30_000);
    let shell = start(vec![Action::WakeAt(Tick(u64::MAX)), Action::WakeAt(soon)]);
    shell.hears(Heard::Timer);
    assert!(crate::clock::now() >= soon);
    assert!(shell.port.send(ToData::Beat(41)));
    shell.port.send(ToData::View(Default::default()));
    shell.hears(Heard::View);
    assert_eq!(shell.shared.alive.load(Ordering::Acquire), 41);
    assert_eq!(shell.shared.counters.usage().used, 4096);
    shell.stop();
}

#[test]
fn an_idle_shell_sleeps() {
    let shell = start(Vec::new());
    let mut client = shell.client();
    client.send(&extents(1));
    client.reply();
    let start_count = shell.count("batches_total");
    // Longer than any period that a busy loop or a forgotten timer would have.
    assert!(shell.heard.recv_timeout(Duration::from_millis(300)).is_err());
    assert!(shell.count("batches_total") <= start_count + 2);
    shell.stop();
}

#[test]
fn a_stopped_shell_gives_the_disk_back() {
    let shell = start(Vec::new());
    let path = shell.path.clone();
    let mut client = shell.client();
    assert!(matches!(Disk::open(&path), Err(OsdError::InUse { .. })));
    let copy = path.with_extension("kept");
    std::fs::hard_link(&path, &copy).expect("a second name");
    shell.stop();
    assert!(client.receive().is_none());
    let opened = Disk::open(&copy);
    std::fs::remove_file(&copy).expect("removed");
    assert!(opened.is_ok());
}

#[test]
fn a_disk_error_reaches_the_core_and_its_failure_ends_the_shell() {
    let shell = start(vec![Action::Disk(IoId(1), DiskOp::Read { at: 0, len: 4096 })]);
    // Shortened behind its back: what lies beyond cannot be read.
    let file = std::fs::OpenOptions::new().write(true).open(&shell.path).expect("opened");
    file.set_len(4096).expect("shortened");
    let mut client = shell.client();
    client.send(&request(1, IoKind::Read, 1 << 20, 4096, Bytes::new()));
    shell.hears(Heard::DiskFailed(std::io::ErrorKind::UnexpectedEof));
    let path = shell.path.clone();
    match shell.failure() {
        OsdError::Failed { disk, reason } => assert_eq!((disk, reason.as_str()), (path, "the toy's disk failed")),
        other => panic!("{other}"),
    }
}

#[test]
fn many_writers_at_once_are_all_served() {
    let shell = start(Vec::new());
    let writers: Vec<_> = (0..4u32)
        .map(|w| {
            let mut client = shell.client();
            std::thread::spawn(move || {
                for round in 0..200u32 {
                    for i in 0..32u32 {
                        let offset = (w * 32 + i) * 4096;
                        let payload = Bytes::from(vec![(round + i) as u8; 4096]);
                        client.send(&request(u64::from(round * 32 + i), IoKind::Write, offset, 4096, payload));
                    }
                    (0..32).for_each(|_| drop(client.reply()));
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|w| w.join().expect("all replies came"));
    assert_eq!(shell.count("disk_writes_total"), 4 * 200 * 32);
    assert_eq!(shell.count("disk_write_copied_bytes_total"), 0);
    shell.stop();
}
