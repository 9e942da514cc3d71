//! A metadata service in memory and OSDs on loopback TCP that share one store, which makes every one of them a good primary.

use ashlar_client::{Control, shell::ControlFuture};
use ashlar_types::control::{AttachGrant, ControlError, ControlReply, ControlRequest};
use ashlar_types::view::{ClusterView, OsdInfo, PgConfig, PoolInfo};
use ashlar_types::{
    AttachmentId, BLOCK_BYTES, BlockDevice, BlockError, BlockIndex, BlockOp, BlockRange, BlockReply, BlockRequest,
    BootId, ChunkIndex, ClusterId, Completions, Crc, DiskName, Epoch, Generation, LayerId, Name, OpNumber, OsdId, PgId,
    PoolId, Revision, SessionId, StackRevision, VolumeId,
};
use ashlar_wire::{Decoder, HelloReply, HelloStatus, IoKind, IoReply, IoRequest, IoStatus, Message, PeerHello, encode};
use ashlar_wire_control::ControlClientError;
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

pub const CLUSTER: ClusterId = ClusterId(77);
const POOL: PoolId = PoolId(1);

pub fn name() -> DiskName {
    "disk".parse().expect("a good name")
}

pub fn grant(session: u64, size: u64) -> AttachGrant {
    AttachGrant {
        volume: VolumeId(3),
        name: name(),
        attachment: AttachmentId(5),
        generation: Generation(2),
        session: SessionId(session),
        pool: POOL,
        placement_key: 42,
        stack_revision: StackRevision(1),
        layers: vec![LayerId(7)],
        size,
        read_only: false,
        base: None,
    }
}

// ---- the metadata service

#[derive(Default)]
struct MdsState {
    view: ClusterView,
    watchers: Vec<mpsc::Sender<ClusterView>>,
    /// Answers to `OpenAttachment`; the last one stays.
    grants: VecDeque<Result<AttachGrant, ControlError>>,
}

#[derive(Default)]
pub struct FakeMds {
    state: Mutex<MdsState>,
    hangs: AtomicBool,
    /// Requests that it has left without an answer.
    pub unanswered: AtomicUsize,
}

impl FakeMds {
    /// The next configuration: these OSDs are up, and one of them serves all PGs.
    pub fn configure(&self, osds: &[&FakeOsd], primary: Option<OsdId>) {
        let mut state = self.state.lock().expect("no panic");
        let revision = state.view.revision.0 + 1;
        let infos = osds.iter().map(|osd| {
            let (address, host) = (osd.address.to_string(), format!("host-{}", osd.id));
            (osd.id, OsdInfo { id: osd.id, boot: osd.boot, up: true, address, host, capacity: 1 << 40 })
        });
        let members: Vec<OsdId> = osds.iter().map(|osd| osd.id).collect();
        let primary_boot = osds.iter().find(|osd| Some(osd.id) == primary).map_or(BootId(0), |osd| osd.boot);
        let pgs = (0..8).map(|index| PgId { pool: POOL, index }).map(|pg| {
            let epoch = Epoch(u32::try_from(revision).expect("few"));
            let (members, in_sync) = (members.clone(), members.clone());
            (pg, PgConfig { pg, epoch, members, in_sync, primary, primary_boot, min_size: 1 })
        });
        let pool_name = Name::new("pool").expect("a good name");
        let pool = PoolInfo { id: POOL, name: pool_name, replicas: 3, min_size: 1, pg_count: 8 };
        let view = ClusterView {
            cluster: CLUSTER,
            revision: Revision(revision),
            osds: infos.collect(),
            pools: BTreeMap::from([(POOL, pool)]),
            pgs: pgs.collect(),
            barriers: Vec::new(),
            merges: Vec::new(),
            scrubs: BTreeMap::new(),
            reservations: None,
            wipes: vec![],
        };
        state.watchers.retain(|watcher| watcher.try_send(view.clone()).is_ok());
        state.view = view;
    }

    pub fn epoch(&self) -> u32 {
        u32::try_from(self.state.lock().expect("no panic").view.revision.0).expect("few")
    }

    pub fn will_grant(&self, answers: impl IntoIterator<Item = Result<AttachGrant, ControlError>>) {
        self.state.lock().expect("no panic").grants = answers.into_iter().collect();
    }

    /// Answers no request from now on. Watches go on: they may have another node.
    pub fn hang(&self) {
        self.hangs.store(true, Ordering::SeqCst);
    }

    fn answer(&self, request: &ControlRequest) -> Result<ControlReply, ControlError> {
        let mut state = self.state.lock().expect("no panic");
        match request {
            ControlRequest::ViewSince { .. } => Ok(ControlReply::View(Box::new(state.view.clone()))),
            ControlRequest::OpenAttachment { .. } => {
                let next = state.grants.front().cloned().expect("a grant was prepared");
                if state.grants.len() > 1 {
                    state.grants.pop_front();
                }
                next.map(ControlReply::Opened)
            }
            ControlRequest::AttachmentList { .. } => Ok(ControlReply::Attachments(Vec::new())),
            other => panic!("the library doesn't ask {other:?}"),
        }
    }
}

impl Control for FakeMds {
    fn request(&self, request: ControlRequest) -> ControlFuture<'_> {
        Box::pin(async move {
            if self.hangs.load(Ordering::SeqCst) {
                self.unanswered.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
            self.answer(&request).map_err(ControlClientError::Refused)
        })
    }

    fn watch(&self, _from: Revision) -> mpsc::Receiver<ClusterView> {
        let (sender, receiver) = mpsc::channel(100);
        self.state.lock().expect("no panic").watchers.push(sender);
        receiver
    }
}

// ---- OSDs

/// What all fake OSDs share.
#[derive(Default)]
pub struct FakeStore {
    blocks: BTreeMap<(ChunkIndex, BlockIndex), Bytes>,
    done: BTreeSet<(SessionId, OpNumber)>,
    pub fenced: bool,
    /// Takes requests and says nothing.
    pub mute: bool,
    /// Requests seen, each number once.
    pub numbers: BTreeSet<(SessionId, OpNumber)>,
    pub hellos: Vec<(SessionId, u64)>,
    /// Sent instead of the next answer.
    pub garbage: Option<Bytes>,
}

pub type SharedStore = Arc<Mutex<FakeStore>>;

pub struct FakeOsd {
    pub id: OsdId,
    pub boot: BootId,
    pub address: SocketAddr,
    acceptor: tokio::task::JoinHandle<()>,
    /// Connections end when this is dropped.
    alive: tokio::sync::watch::Sender<()>,
}

impl FakeOsd {
    pub async fn start(id: u32, mds_epoch: impl Fn() -> u32 + Send + Sync + 'static, store: &SharedStore) -> FakeOsd {
        let (id, boot) = (OsdId(id), BootId(1000 + u64::from(id)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (alive, watching) = tokio::sync::watch::channel(());
        let (store, epoch) = (store.clone(), Arc::new(mds_epoch));
        let acceptor = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (store, epoch, mut watching) = (store.clone(), epoch.clone(), watching.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = serve(stream, id, boot, store, move || epoch()) => {}
                        _ = watching.changed() => {}
                    }
                });
            }
        });
        FakeOsd { id, boot, address, acceptor, alive }
    }

    pub fn kill(self) {
        self.acceptor.abort();
        drop(self.alive);
    }
}

async fn serve(mut stream: TcpStream, osd: OsdId, boot: BootId, store: SharedStore, epoch: impl Fn() -> u32) {
    let mut decoder = Decoder::greeting_first(CLUSTER);
    while let Ok(1..) = stream.read_buf(decoder.buffer()).await {
        let mut out = BytesMut::new();
        while let Some(message) = decoder.next().expect("the client sends good frames") {
            let reply = match message {
                Message::Hello(hello) => {
                    assert_eq!((hello.cluster, hello.to), (CLUSTER, osd));
                    let PeerHello::Client(client) = hello.from else { panic!("a client's hello") };
                    store.lock().expect("no panic").hellos.push((client.session, hello.connection));
                    Some(Message::HelloReply(HelloReply { osd, boot, status: HelloStatus::Welcome }))
                }
                Message::Stack(_) => None,
                Message::IoRequest(request) => handle(&request, &store, epoch()).map(Message::IoReply),
                other => panic!("a client doesn't send {other:?}"),
            };
            let Some(reply) = reply else { continue };
            if let Some(garbage) = store.lock().expect("no panic").garbage.take() {
                out.extend_from_slice(&garbage);
                continue;
            }
            let frame = encode(&reply, CLUSTER);
            out.extend_from_slice(&frame.head);
            out.extend_from_slice(&frame.payload);
            out.extend_from_slice(frame.tail());
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
    }
}

fn handle(request: &IoRequest, store: &SharedStore, epoch: u32) -> Option<IoReply> {
    let mut store = store.lock().expect("no panic");
    let id = (request.op.session, request.op.number);
    store.numbers.insert(id);
    let reply =
        |status, blocks, payload| Some(IoReply { op: request.op, status, epoch: Epoch(epoch), blocks, payload });
    if store.mute {
        return None;
    }
    if store.fenced {
        return reply(IoStatus::Fenced, Vec::new(), Bytes::new());
    }
    if request.epoch != Epoch(epoch) {
        return reply(IoStatus::WrongEpoch, Vec::new(), Bytes::new());
    }
    let range = BlockRange::covering(request.offset, request.len).expect("inside its chunk");
    if request.kind.is_write() {
        if store.done.insert(id) {
            store.write(request, range);
        }
        return reply(IoStatus::Ok, Vec::new(), Bytes::new());
    }
    let mut payload = BytesMut::new();
    let mut blocks = Vec::new();
    for block in range.iter() {
        let data = store.blocks.get(&(request.chunk.index, block));
        blocks.push(data.map(|data| Crc::of(data)));
        if let (Some(data), IoKind::Read) = (data, request.kind) {
            payload.extend_from_slice(data);
        }
    }
    reply(IoStatus::Ok, blocks, payload.freeze())
}

impl FakeStore {
    fn write(&mut self, request: &IoRequest, range: BlockRange) {
        for block in range.iter() {
            let key = (request.chunk.index, block);
            let mut data = self.blocks.get(&key).map_or(vec![0; BLOCK_BYTES as usize], |old| old.to_vec());
            let start = u32::from(block.0) * BLOCK_BYTES;
            let from = start.max(request.offset);
            let to = (start + BLOCK_BYTES).min(request.offset + request.len);
            let target = &mut data[(from - start) as usize..(to - start) as usize];
            match request.kind {
                IoKind::Write | IoKind::Fill => {
                    let source = (from - request.offset) as usize..(to - request.offset) as usize;
                    target.copy_from_slice(&request.payload[source]);
                }
                _ => target.fill(0),
            }
            self.blocks.insert(key, Bytes::from(data));
        }
    }
}

// ---- callers

type Answer = Result<BlockReply, BlockError>;

/// Hands each completion to who waits for it.
#[derive(Default)]
struct Answers {
    next: Mutex<(u64, BTreeMap<u64, oneshot::Sender<Answer>>)>,
}

impl Completions for Answers {
    fn complete(&self, tag: u64, result: Answer) {
        let waiting = self.next.lock().expect("no panic").1.remove(&tag).expect("one completion for each request");
        // The test may have ended.
        let _ = waiting.send(result);
    }
}

/// A caller of a device, as a connection of a front end would be one.
pub struct Caller {
    device: Arc<dyn BlockDevice>,
    answers: Arc<Answers>,
}

impl Caller {
    pub fn new(device: Arc<dyn BlockDevice>) -> Caller {
        Caller { device, answers: Arc::default() }
    }

    pub fn submit(&self, op: BlockOp) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        let tag = {
            let mut next = self.answers.next.lock().expect("no panic");
            next.0 += 1;
            let tag = next.0;
            next.1.insert(tag, sender);
            tag
        };
        let completions: Arc<dyn Completions> = self.answers.clone();
        self.device.submit(BlockRequest { tag, op }, &completions);
        receiver
    }

    pub async fn run(&self, op: BlockOp) -> Answer {
        self.submit(op).await.expect("every request gets its completion")
    }

    pub async fn write(&self, offset: u64, data: impl Into<Bytes>) {
        let result = self.run(BlockOp::Write { offset, data: data.into() }).await;
        assert!(matches!(result, Ok(BlockReply::Done)), "{result:?}");
    }

    pub async fn read(&self, offset: u64, len: u32) -> Vec<u8> {
        match self.run(BlockOp::Read { offset, len }).await {
            Ok(BlockReply::Data(pieces)) => pieces.concat(),
            other => panic!("a read gave {other:?}"),
        }
    }
}
