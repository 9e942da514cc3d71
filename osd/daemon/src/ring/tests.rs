use super::{Completion, Done, Looked, MAX_PIECES, Op, Ring};
use ashlar_types::aligned_payload;
use bytes::{Bytes, BytesMut};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Waits for the completion of one operation.
fn run(ring: &mut Ring<u32>, op: Op) -> Completion<u32> {
    ring.submit(1, op);
    let mut completions = Vec::new();
    while completions.is_empty() {
        ring.enter(1, None).expect("io_uring works");
        ring.completions(&mut completions);
    }
    assert_eq!((completions.len(), ring.in_flight()), (1, 0));
    completions.remove(0)
}

fn bytes_of(completion: &Completion<u32>) -> usize {
    match &completion.result {
        Ok(Done::Bytes(bytes)) => *bytes,
        other => panic!("{other:?}"),
    }
}

fn file() -> Arc<OwnedFd> {
    Arc::new(tempfile::tempfile().expect("a temporary file").into())
}

#[test]
fn what_is_written_in_pieces_is_read_back_whole() {
    let (mut ring, file) = (Ring::new().expect("a ring"), file());
    let pieces: Vec<Bytes> = (0..MAX_PIECES).map(|i| Bytes::from(vec![i as u8; 512])).collect();
    let write = Op::Write { file: file.clone(), at: 4096, pieces: pieces.clone(), through: false };
    assert_eq!(bytes_of(&run(&mut ring, write)), 512 * MAX_PIECES);
    assert_eq!(bytes_of(&run(&mut ring, Op::Flush { file: file.clone() })), 0);
    let read = Op::Read { file, at: 4096, len: 512 * MAX_PIECES, buffer: aligned_payload(512 * MAX_PIECES) };
    let Completion { op: Op::Read { buffer, .. }, result: Ok(_), .. } = run(&mut ring, read) else {
        panic!("the read failed")
    };
    assert_eq!(buffer, pieces.concat());
}

#[test]
fn a_read_past_the_end_fails_instead_of_being_short() {
    let (mut ring, file) = (Ring::new().expect("a ring"), file());
    run(
        &mut ring,
        Op::Write { file: file.clone(), at: 0, pieces: vec![Bytes::from_static(&[1; 512])], through: false },
    );
    let read = run(&mut ring, Op::Read { file, at: 0, len: 4096, buffer: aligned_payload(4096) });
    assert_eq!(read.result.expect_err("short").kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_discarded_range_reads_as_zeroes() {
    let (mut ring, file) = (Ring::new().expect("a ring"), file());
    run(&mut ring, Op::Write { file: file.clone(), at: 0, pieces: vec![Bytes::from(vec![7; 8192])], through: false });
    let discard = run(&mut ring, Op::Discard { file: file.clone(), at: 0, len: 4096 });
    if discard.result.is_err() {
        return; // a file system without holes
    }
    let Op::Read { buffer, .. } = run(&mut ring, Op::Read { file, at: 0, len: 8192, buffer: aligned_payload(8192) }).op
    else {
        panic!("a read gives its buffer back")
    };
    assert!(buffer[..4096].iter().all(|b| *b == 0) && buffer[4096..].iter().all(|b| *b == 7));
}

#[test]
fn a_send_to_a_slow_reader_is_sent_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let reader = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("connected");
        let (mut all, mut part) = (Vec::new(), [0; 50_000]);
        loop {
            match stream.read(&mut part).expect("readable") {
                0 => return all,
                n => all.extend_from_slice(&part[..n]),
            }
        }
    });
    let mut ring = Ring::new().expect("a ring");
    let accept = run(&mut ring, Op::Accept { listener: Arc::new(listener.into()) });
    let Ok(Done::Accepted(socket)) = accept.result else { panic!("{accept:?}") };
    let pieces: Vec<Bytes> = (0..1000).map(|i| Bytes::from(vec![i as u8; 20_000])).collect();
    let sent = run(&mut ring, Op::Send { socket: Arc::new(socket), pieces: pieces.clone() });
    assert_eq!(bytes_of(&sent), 20_000_000);
    drop(sent);
    assert_eq!(reader.join().expect("the reader ends"), pieces.concat());
}

#[test]
fn a_receive_appends_and_an_end_is_zero() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    let socket: Arc<OwnedFd> = Arc::new(listener.accept().expect("a connection").0.into());
    let mut ring = Ring::new().expect("a ring");
    peer.write_all(b"hello").expect("sent");
    let mut buffer = BytesMut::with_capacity(100);
    buffer.extend_from_slice(b"> ");
    let received = run(&mut ring, Op::Receive { socket: socket.clone(), buffer, is_drained: false });
    assert_eq!(bytes_of(&received), 5);
    let Op::Receive { buffer, .. } = received.op else { panic!("a receive gives its buffer back") };
    assert_eq!(&buffer[..], b"> hello");
    drop(peer);
    assert_eq!(bytes_of(&run(&mut ring, Op::Receive { socket, buffer, is_drained: true })), 0);
}

#[test]
fn waiting_ends_at_its_time_and_cancelled_operations_complete() {
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("an eventfd");
    let mut ring = Ring::new().expect("a ring");
    ring.submit(7, Op::WaitEvent { event: Arc::new(event) });
    let start = Instant::now();
    ring.enter(1, Some(Duration::from_millis(20))).expect("io_uring works");
    assert!(start.elapsed() >= Duration::from_millis(15));
    let mut completions = Vec::new();
    ring.completions(&mut completions);
    assert!(completions.is_empty());
    ring.cancel_all();
    while completions.is_empty() {
        ring.enter(1, None).expect("io_uring works");
        ring.completions(&mut completions);
    }
    assert_eq!(completions[0].tag, 7);
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn more_operations_than_the_queue_holds_all_complete() {
    let (mut ring, file) = (Ring::new().expect("a ring"), file());
    for i in 0..5000u32 {
        ring.submit(
            i,
            Op::Write {
                file: file.clone(),
                at: u64::from(i) * 512,
                pieces: vec![vec![i as u8; 512].into()],
                through: false,
            },
        );
    }
    let mut completions = Vec::new();
    while completions.len() < 5000 {
        ring.enter(1, None).expect("io_uring works");
        ring.completions(&mut completions);
    }
    let mut tags: Vec<u32> = completions.iter().map(|c| c.tag).collect();
    tags.sort_unstable();
    assert!(tags.into_iter().eq(0..5000));
    assert!(completions.iter().all(|c| c.result.is_ok()));
}

#[test]
fn a_look_finds_what_comes_from_elsewhere_meanwhile() {
    let mut ring = Ring::new().expect("a ring");
    let event = Arc::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("an eventfd"));
    ring.submit(1, Op::WaitEvent { event: event.clone() });
    let sender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        rustix::io::write(&event, &1u64.to_ne_bytes())
    });
    let long = Duration::from_secs(60);
    assert_eq!(ring.look(long, long).expect("io_uring works"), Looked::Found);
    let mut completions = Vec::new();
    ring.completions(&mut completions);
    assert_eq!(completions.iter().map(bytes_of).collect::<Vec<_>>(), [0]);
    sender.join().expect("no panic").expect("written");
}

#[test]
fn a_look_in_vain_ends_and_what_it_started_goes_on() {
    let mut ring = Ring::new().expect("a ring");
    ring.submit(1, Op::Timer { span: Duration::from_millis(30) });
    let looked = ring.look(Duration::from_micros(50), Duration::from_secs(60)).expect("io_uring works");
    assert_eq!(looked, Looked::Nothing);
    let mut completions = Vec::new();
    while completions.is_empty() {
        ring.enter(1, None).expect("io_uring works");
        ring.completions(&mut completions);
    }
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn a_look_ends_when_others_have_the_processor_for_longer_than_allowed() {
    let mut ring = Ring::new().expect("a ring");
    ring.submit(1, Op::Timer { span: Duration::from_millis(1) });
    // Letting others run always takes longer than no time at all.
    let looked = ring.look(Duration::from_secs(60), Duration::ZERO).expect("io_uring works");
    assert!(matches!(looked, Looked::Contended(_)), "{looked:?}");
}
