//! A core for tests: keeps blocks on the disk at their chunk's offset, answers `Extents` at once, and notes what it hears.

use super::super::{Core, DataPort, Parts, Shared, Shell, ToControl, ToData};
use crate::disk::Disk;
use crate::error::OsdError;
use ashlar_osd_core::{Action, ConnId, DiskOp, Event, IoId, Perf, SpaceNews};
use ashlar_types::control::OsdUsage;
use ashlar_types::{
    AttachmentId, BLOCK_BYTES, BootId, ChunkId, ClusterId, Crc, Epoch, Generation, OpId, OpNumber, OsdId, PgId, Tick,
};
use ashlar_wire::{
    ClientHello, Decoder, Hello, HelloReply, HelloStatus, IoKind, IoReply, IoRequest, IoStatus, Message, PeerHello,
    encode,
};
use bytes::Bytes;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

pub(super) const CLUSTER: ClusterId = ClusterId(77);
pub(super) const OSD: OsdId = OsdId(1);
/// A link to this OSD is flooded with requests.
pub(super) const GREEDY: OsdId = OsdId(3);
pub(super) const DISK_BYTES: u64 = 64 << 20;

/// What a test hears of the core's events.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Heard {
    Closed,
    LinkUp,
    LinkDown,
    LinkReceived,
    Timer,
    View,
    DiskFailed(std::io::ErrorKind),
}

pub(super) struct Toy {
    pub heard: mpsc::Sender<Heard>,
    /// Done at the start.
    pub first: Vec<Action>,
    last_io: u64,
    /// Requests that wait for the disk.
    pending: HashMap<IoId, (ConnId, IoRequest)>,
    perf: Perf,
}

impl Toy {
    pub(super) fn new(heard: mpsc::Sender<Heard>) -> Toy {
        Toy { heard, first: Vec::new(), last_io: 1000, pending: HashMap::new(), perf: Perf::new(Tick(0)) }
    }

    fn on_request(&mut self, conn: ConnId, request: IoRequest, actions: &mut Vec<Action>) {
        let at = u64::from(request.offset);
        let op = match request.kind {
            IoKind::Extents => return actions.push(Action::Send(conn, reply(request.op, Bytes::new()))),
            IoKind::Read => DiskOp::Read { at, len: request.len },
            IoKind::Write | IoKind::Fill => DiskOp::Write { at, data: vec![request.payload.clone()], through: false },
            IoKind::Zero => DiskOp::Discard { at, len: u64::from(request.len) },
        };
        self.last_io += 1;
        self.pending.insert(IoId(self.last_io), (conn, request));
        actions.push(Action::Disk(IoId(self.last_io), op));
    }

    fn note(&self, heard: Heard) {
        // A test that has seen enough hangs up.
        let _ = self.heard.send(heard);
    }
}

fn reply(op: OpId, payload: Bytes) -> Message {
    let blocks = payload.chunks(BLOCK_BYTES as usize).map(|b| Some(Crc::of(b))).collect();
    Message::IoReply(IoReply { op, status: IoStatus::Ok, epoch: Epoch(1), blocks, payload })
}

impl Core for Toy {
    fn step(&mut self, _now: Tick, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Start => actions.append(&mut self.first),
            Event::Received(conn, Message::Hello(_)) => {
                let reply = HelloReply { osd: OSD, boot: BootId(1), status: HelloStatus::Welcome };
                actions.push(Action::Send(conn, Message::HelloReply(reply)));
            }
            Event::Received(conn, Message::IoRequest(request))
                if request.kind == IoKind::Extents && request.len == 13 =>
            {
                actions.push(Action::Send(conn, reply(request.op, Bytes::new())));
                actions.push(Action::Close(conn));
            }
            Event::Received(conn, Message::IoRequest(request)) => self.on_request(conn, request, actions),
            Event::Received(..) => {}
            Event::Disk(id, Ok(data)) => {
                if let Some((conn, request)) = self.pending.remove(&id) {
                    actions.push(Action::Send(conn, reply(request.op, data)));
                }
            }
            Event::Disk(_, Err(error)) => {
                self.note(Heard::DiskFailed(error.kind));
                actions.push(Action::Fail("the toy's disk failed".into()));
            }
            Event::Closed(_) => self.note(Heard::Closed),
            Event::LinkUp(osd) => {
                self.note(Heard::LinkUp);
                actions.push(Action::LinkSend(osd, hello(1)));
                let chunk = Bytes::from(vec![0; if osd == GREEDY { 1 << 20 } else { 0 }]);
                let flood = (1..64).map(|n| request(n, IoKind::Write, 0, chunk.len() as u32, chunk.clone()));
                actions.extend(flood.filter(|_| !chunk.is_empty()).map(|m| Action::LinkSend(osd, m)));
            }
            Event::LinkDown(_) => self.note(Heard::LinkDown),
            Event::LinkReceived(..) => self.note(Heard::LinkReceived),
            Event::Timer => self.note(Heard::Timer),
            Event::View(_) => self.note(Heard::View),
            Event::ControlAnswer(..) | Event::Scrub { .. } => {}
        }
    }

    fn poll(&mut self, _now: Tick, _actions: &mut Vec<Action>) {}

    fn space_news(&mut self) -> SpaceNews {
        SpaceNews { usage: self.usage(), ..SpaceNews::default() }
    }

    fn on_space_news_lost(&mut self, _: &SpaceNews) {}

    fn usage(&self) -> OsdUsage {
        OsdUsage { total: DISK_BYTES, used: 4096, ..OsdUsage::default() }
    }

    fn perf(&mut self) -> &mut Perf {
        &mut self.perf
    }
}

pub(super) fn hello(connection: u64) -> Message {
    let client = ClientHello {
        session: Default::default(),
        volume: Default::default(),
        attachment: AttachmentId(1),
        generation: Generation(1),
        read_only: false,
    };
    Message::Hello(Hello { cluster: CLUSTER, to: OSD, from: PeerHello::Client(client), connection })
}

pub(super) fn request(number: u64, kind: IoKind, offset: u32, len: u32, payload: Bytes) -> Message {
    Message::IoRequest(IoRequest {
        op: OpId { session: Default::default(), number: OpNumber(number) },
        lowest_unanswered: OpNumber(1),
        pg: PgId::default(),
        epoch: Epoch(1),
        volume: Default::default(),
        attachment: AttachmentId(1),
        generation: Generation(1),
        stack_revision: Default::default(),
        chunk: ChunkId::default(),
        offset,
        len,
        kind,
        crcs: payload.chunks(BLOCK_BYTES as usize).map(Crc::of).collect(),
        payload,
    })
}

/// A running shell on a thread of its own.
pub(super) struct Running {
    pub address: SocketAddr,
    pub port: DataPort,
    pub shared: Arc<Shared>,
    pub outbox: tokio::sync::mpsc::Receiver<ToControl>,
    pub heard: mpsc::Receiver<Heard>,
    pub path: PathBuf,
    thread: std::thread::JoinHandle<Result<(), OsdError>>,
    /// Removed at the end.
    _file: tempfile::NamedTempFile,
}

pub(super) fn start(first: Vec<Action>) -> Running {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.as_file().set_len(DISK_BYTES).expect("sparse");
    let path = file.path().to_owned();
    let disk = Disk::open(&path).expect("opened");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let (port, inbox) = DataPort::new().expect("an eventfd");
    let (outbox_in, outbox) = tokio::sync::mpsc::channel(64);
    let (heard_in, heard) = mpsc::channel();
    let shared = Arc::new(Shared::default());
    let parts = Parts {
        core: Toy { first, ..Toy::new(heard_in) },
        osd: OSD,
        cluster: CLUSTER,
        disk,
        listener: Arc::new(listener.into()),
        port: port.clone(),
        inbox,
        outbox: outbox_in,
        shared: shared.clone(),
    };
    let thread = std::thread::spawn(move || Shell::new(parts)?.run());
    Running { address, port, shared, outbox, heard, path, thread, _file: file }
}

impl Running {
    pub(super) fn client(&self) -> Client {
        let mut client = self.stranger();
        client.send(&hello(1));
        assert!(matches!(client.receive(), Some(Message::HelloReply(r)) if r.status == HelloStatus::Welcome));
        client
    }

    pub(super) fn stranger(&self) -> Client {
        let stream = TcpStream::connect(self.address).expect("connected");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket option");
        Client { stream, decoder: Decoder::new(CLUSTER) }
    }

    pub(super) fn hears(&self, expected: Heard) {
        let heard = self.heard.recv_timeout(Duration::from_secs(20)).expect("something is heard");
        assert_eq!(heard, expected);
    }

    pub(super) fn count(&self, name: &str) -> u64 {
        let list = self.shared.counters.list();
        list.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no counter {name}")).1
    }

    /// Stops it in order.
    pub(super) fn stop(self) {
        assert!(self.port.send(ToData::Stop));
        self.thread.join().expect("no panic").expect("an orderly stop");
    }

    /// Waits for it to give up.
    pub(super) fn failure(self) -> OsdError {
        self.thread.join().expect("no panic").expect_err("a failure")
    }
}

/// A blocking client of the data protocol.
pub(super) struct Client {
    pub stream: TcpStream,
    decoder: Decoder,
}

pub(super) fn bytes_of(message: &Message) -> Vec<u8> {
    let frame = encode(message, CLUSTER);
    [&frame.head[..], &frame.payload[..], frame.tail()].concat()
}

impl Client {
    pub(super) fn send(&mut self, message: &Message) {
        self.stream.write_all(&bytes_of(message)).expect("sent");
    }

    /// The next message, or `None` when the connection was closed.
    pub(super) fn receive(&mut self) -> Option<Message> {
        let mut part = [0; 65536];
        loop {
            if let Some(message) = self.decoder.next().expect("good frames") {
                return Some(message);
            }
            let buffer = self.decoder.buffer();
            let room = (buffer.capacity() - buffer.len()).min(part.len());
            match self.stream.read(&mut part[..room]) {
                Ok(0) => return None,
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return None,
                n => buffer.extend_from_slice(&part[..n.expect("received within the timeout")]),
            }
        }
    }

    pub(super) fn reply(&mut self) -> IoReply {
        match self.receive() {
            Some(Message::IoReply(reply)) => reply,
            other => panic!("no reply but {other:?}"),
        }
    }
}
