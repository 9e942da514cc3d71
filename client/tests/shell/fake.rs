//! A metadata service in memory and OSDs on loopback TCP that share one store, which makes every one of them a good primary.

use ashlar_client::{Control, shell::ControlFuture};
use ashlar_types::control::{AttachGrant, ControlError, ControlReply, ControlRequest};
use ashlar_types::job::{JobInfo, JobKind, JobState, JobWork, Shrink};
use ashlar_types::view::{ClusterView, OsdInfo, PgConfig, PoolInfo};
use ashlar_types::{
    AttachmentId, BLOCK_BYTES, BlockDevice, BlockError, BlockIndex, BlockOp, BlockRange, BlockReply, BlockRequest,
    BootId, ChunkIndex, ClusterId, Completions, Crc, DiskName, Epoch, Generation, JobId, LayerId, Name, OpNumber,
    OsdId, PgId, PoolId, Revision, SessionId, StackRevision, VolumeId,
};
use ashlar_wire::{
    Decoder, HelloReply, HelloStatus, IoKind, IoReply, IoRequest, IoStatus, LayerRun, LayersReply, Message, OverReply,
    PeerHello, encode,
};
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
    /// What clones stand on.
    bases: BTreeMap<VolumeId, AttachGrant>,
    shrink: Option<FakeShrink>,
}

/// A job, and what became of it.
#[derive(Clone, Debug)]
pub struct FakeShrink {
    pub size: u64,
    pub force: bool,
    /// It was given up.
    pub is_gone: bool,
    /// Who says how it ended is heard, and told that it is over already.
    pub loses_answer: bool,
    pub is_taken: bool,
    pub ended: Option<(SessionId, Option<String>)>,
}

impl FakeShrink {
    pub fn to(size: u64, force: bool) -> FakeShrink {
        FakeShrink { size, force, is_gone: false, loses_answer: false, is_taken: false, ended: None }
    }

    fn info(&self) -> JobInfo {
        let (attachment, session) = (AttachmentId(5), SessionId(99));
        let shrink = Shrink { size: self.size, force: self.force, attachment, session, failed: false };
        JobInfo {
            id: JobId(1),
            kind: JobKind::Shrink(shrink),
            volume: VolumeId(3),
            volume_name: Name::new("disk").expect("a good name"),
            state: JobState::Running,
            position: 0,
            total: 1,
            filled: 0,
            rate: None,
            gateway: None,
            trouble: None,
            paused: false,
            waits_for: None,
        }
    }

    fn answer(&mut self, request: &ControlRequest) -> Option<Result<ControlReply, ControlError>> {
        let gone = || Err(ControlError::NotFound { what: "worker".to_owned(), name: "job.1".to_owned() });
        Some(match request {
            ControlRequest::JobTake { .. } if std::mem::replace(&mut self.is_taken, true) => {
                Ok(ControlReply::JobTaken(None))
            }
            ControlRequest::JobTake { .. } => Ok(ControlReply::JobTaken(Some((JobId(1), SessionId(99))))),
            ControlRequest::JobGrant { .. } => {
                Ok(ControlReply::JobWork(Box::new(JobWork { job: self.info(), grant: grant(99, 1) })))
            }
            ControlRequest::JobProgress { .. } if self.is_gone => gone(),
            ControlRequest::JobProgress { .. } => Ok(ControlReply::Job(Box::new(self.info()))),
            ControlRequest::ShrinkEnd { .. } if self.is_gone => gone(),
            ControlRequest::ShrinkEnd { disk, refusal, .. } => {
                self.ended = Some((*disk, refusal.clone()));
                if self.loses_answer { gone() } else { Ok(ControlReply::Done { revision: Revision(1) }) }
            }
            _ => return None,
        })
    }
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
            wipe_freed: None,
        };
        state.watchers.retain(|watcher| watcher.try_send(view.clone()).is_ok());
        state.view = view;
    }

    pub fn epoch(&self) -> u32 {
        u32::try_from(self.state.lock().expect("no panic").view.revision.0).expect("few")
    }

    pub fn will_shrink(&self, shrink: FakeShrink) {
        self.state.lock().expect("no panic").shrink = Some(shrink);
    }

    pub fn change_shrink(&self, change: impl FnOnce(&mut FakeShrink)) {
        change(self.state.lock().expect("no panic").shrink.as_mut().expect("there is one"));
    }

    pub fn shrink(&self) -> FakeShrink {
        self.state.lock().expect("no panic").shrink.clone().expect("there is one")
    }

    pub fn will_grant(&self, answers: impl IntoIterator<Item = Result<AttachGrant, ControlError>>) {
        self.state.lock().expect("no panic").grants = answers.into_iter().collect();
    }

    /// What clones stand on; `None`: on this no clone stands any more.
    pub fn set_base(&self, volume: VolumeId, grant: Option<AttachGrant>) {
        let bases = &mut self.state.lock().expect("no panic").bases;
        match grant {
            Some(grant) => bases.insert(volume, grant),
            None => bases.remove(&volume),
        };
    }

    /// Answers no request from now on. Watches go on: they may have another node.
    pub fn hang(&self) {
        self.hangs.store(true, Ordering::SeqCst);
    }

    fn answer(&self, request: &ControlRequest) -> Result<ControlReply, ControlError> {
        let mut state = self.state.lock().expect("no panic");
        let size = state.shrink.as_ref().map(|shrink| shrink.size);
        if let Some(answer) = state.shrink.as_mut().and_then(|shrink| shrink.answer(request)) {
            let is_done = state.shrink.as_ref().is_some_and(|shrink| matches!(shrink.ended, Some((_, None))));
            if let Some(size) = size.filter(|_| is_done) {
                state.grants = VecDeque::from([Ok(grant(11, size))]);
            }
            return answer;
        }
        match request {
            ControlRequest::ViewSince { .. } => Ok(ControlReply::View(Box::new(state.view.clone()))),
            ControlRequest::OpenAttachment { .. } => {
                let next = state.grants.front().cloned().expect("a grant was prepared");
                if state.grants.len() > 1 {
                    state.grants.pop_front();
                }
                next.map(ControlReply::Opened)
            }
            ControlRequest::BaseGrant { volume, .. } => {
                let gone = || ControlError::NotFound { what: "base".to_owned(), name: volume.to_string() };
                state.bases.get(volume).cloned().map(ControlReply::Opened).ok_or_else(gone)
            }
            ControlRequest::SessionGrant { .. } => {
                state.grants.front().cloned().expect("a grant was prepared").map(ControlReply::Opened)
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
    blocks: BTreeMap<(VolumeId, ChunkIndex, BlockIndex), Bytes>,
    /// Stacks below this one are refused.
    pub floors: BTreeMap<VolumeId, StackRevision>,
    /// Nobody is served there any more.
    pub closed: BTreeSet<VolumeId>,
    /// What was asked of each volume, in order.
    pub asked: Vec<(VolumeId, Asked)>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Io(IoKind),
    Layers,
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
                Message::IoRequest(request) => {
                    handle(&request, Asked::Io(request.kind), &store, epoch()).map(Message::IoReply)
                }
                Message::OverRequest(over) => {
                    let reply = handle(&over.request, Asked::Io(over.request.kind), &store, epoch());
                    reply.map(|reply| store.lock().expect("no panic").over(&over.request, reply))
                }
                Message::LayersRequest(asked) => {
                    let request = IoRequest { kind: IoKind::Extents, ..asked.request };
                    let reply = handle(&request, Asked::Layers, &store, epoch());
                    reply.map(|reply| FakeStore::layers(&request, reply))
                }
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

fn handle(request: &IoRequest, asked: Asked, store: &SharedStore, epoch: u32) -> Option<IoReply> {
    let mut store = store.lock().expect("no panic");
    let id = (request.op.session, request.op.number);
    store.numbers.insert(id);
    let reply =
        |status, blocks, payload| Some(IoReply { op: request.op, status, epoch: Epoch(epoch), blocks, payload });
    if store.mute {
        return None;
    }
    store.asked.push((request.volume, asked));
    if store.floors.get(&request.volume).is_some_and(|floor| request.stack_revision < *floor) {
        return reply(IoStatus::StaleStack, Vec::new(), Bytes::new());
    }
    if store.fenced || store.closed.contains(&request.volume) {
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
        let data = store.blocks.get(&(request.volume, request.chunk.index, block));
        blocks.push(data.map(|data| Crc::of(data)));
        if let (Some(data), IoKind::Read) = (data, request.kind) {
            payload.extend_from_slice(data);
        }
    }
    reply(IoStatus::Ok, blocks, payload.freeze())
}

impl FakeStore {
    /// Writes a block of a volume as a snapshot of it has it.
    pub fn put(&mut self, volume: VolumeId, block: u64, value: u8) {
        let blocks_per_chunk = u64::from(ashlar_types::BLOCKS_PER_CHUNK);
        let chunk = ChunkIndex(u32::try_from(block / blocks_per_chunk).expect("a small volume"));
        let index = BlockIndex(u16::try_from(block % blocks_per_chunk).expect("less than a chunk"));
        self.blocks.insert((volume, chunk, index), Bytes::from(vec![value; BLOCK_BYTES as usize]));
    }

    fn unwritten(&self, request: &IoRequest) -> Vec<BlockRange> {
        let range = BlockRange::covering(request.offset, request.len).expect("inside its chunk");
        let is_there = |block: &BlockIndex| self.blocks.contains_key(&(request.volume, request.chunk.index, *block));
        let absent: Vec<BlockIndex> = range.iter().filter(|block| !is_there(block)).collect();
        let run = |run: &[BlockIndex]| BlockRange::new(run[0], run.len() as u16).expect("inside its chunk");
        absent.chunk_by(|a, b| a.0 + 1 == b.0).map(run).collect()
    }

    fn over(&self, request: &IoRequest, reply: IoReply) -> Message {
        let unwritten = self.unwritten(request);
        match request.kind.is_write() || reply.status != IoStatus::Ok || unwritten.is_empty() {
            true => Message::IoReply(reply),
            false => Message::OverReply(OverReply { reply, unwritten }),
        }
    }

    fn layers(request: &IoRequest, reply: IoReply) -> Message {
        if reply.status != IoStatus::Ok {
            return Message::IoReply(reply);
        }
        let run = |crc: &Option<Crc>| LayerRun { count: 1, depth: crc.map(|_| 0), has_data: crc.is_some() };
        let runs = reply.blocks.iter().map(run).collect();
        Message::LayersReply(LayersReply { op: request.op, epoch: reply.epoch, runs, next: None })
    }

    fn write(&mut self, request: &IoRequest, range: BlockRange) {
        for block in range.iter() {
            let key = (request.volume, request.chunk.index, block);
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
