//! Three OSD cores and the client's in one process: what a request costs all of them and the codec between them.
//! Each process handles all that has come for it as one batch, as its shell does, and is polled once; then what it has to say leaves
//! together. Disks have done everything by the next batch. Time is handed in: a round of requests takes what it would on a fast cluster, so
//! that leases, commits and everything else that time brings happen as often as there.

use crate::memory_disk::MemoryDisk;
use crate::stream::Stream;
use ashlar_client::core::{ClientAction, ClientEvent, ClientLimits, VolumeClient};
use ashlar_osd_core::store::Store;
use ashlar_osd_core::store::api::StoreConfig;
use ashlar_osd_core::{Action, ConnId, DiskResult, Event, Honest, IoId, Osd, OsdConfig};
use ashlar_types::control::AttachGrant;
use ashlar_types::view::{ClusterView, OsdInfo, PgConfig, PoolInfo};
use ashlar_types::{
    AttachmentId, BLOCK_BYTES, BlockOp, BlockReply, BlockRequest, BootId, CHUNK_BYTES, ClusterId, Duration, Epoch,
    Generation, LayerId, Name, OsdId, PgId, PoolId, Revision, SessionId, StackRevision, Tick, VolumeId,
    aligned_payload,
};
use bytes::{BufMut, Bytes};
use std::collections::BTreeMap;
use std::sync::Arc;

const OSDS: usize = 3;
/// The client's place among those who open connections, behind the OSDs.
const CLIENT: usize = OSDS;
const CLUSTER: ClusterId = ClusterId(0xa5);
const POOL: PoolId = PoolId(1);
/// What the metadata service gives a pool on three OSDs.
const PGS: u32 = 32;
const MIB: u64 = 1 << 20;
/// Chunks that are written before anything is measured, a power of two.
const CHUNKS: u64 = 16;
const BLOCKS: u64 = CHUNKS * CHUNK_BYTES as u64 / BLOCK_BYTES as u64;
const DISK_BYTES: u64 = 512 * MIB;
/// What a small disk gets. A checkpoint begins when half of it is full: after about 2,000 writes at depth 1, 30,000 at depth 32.
const LOG_BYTES: u64 = 16 * MIB;
/// The time that goes by for each request, at a rate that a fast cluster has,
const TIME_PER_REQUEST: Duration = Duration::from_micros(20);
/// and for each round of requests.
const TIME_PER_ROUND: Duration = Duration::from_micros(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    Write,
    Read,
}

/// A process of an OSD, its shell left out.
#[derive(Debug)]
struct Process {
    osd: Osd<Honest>,
    disk: MemoryDisk,
    done: Vec<(IoId, DiskResult)>,
    deferred: Vec<Event>,
    wake: Option<Tick>,
    actions: Vec<Action>,
}

/// A connection and both its directions.
#[derive(Debug)]
struct Connection {
    requests: Stream,
    replies: Stream,
}

impl Connection {
    fn new() -> Connection {
        Connection { requests: Stream::new(CLUSTER), replies: Stream::new(CLUSTER) }
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct Cores {
    now: Tick,
    processes: Vec<Process>,
    client: VolumeClient,
    client_deferred: Vec<ClientEvent>,
    client_wake: Option<Tick>,
    client_actions: Vec<ClientAction>,
    /// By who opened it and by the OSD at its other end.
    connections: Vec<Vec<Connection>>,
    completed: u64,
    /// What is written, a slice of it.
    contents: Bytes,
    /// Requests so far; decides where the next one goes.
    walked: u64,
}

fn osd_id(index: usize) -> OsdId {
    OsdId(u32::try_from(index).expect("three") + 1)
}

fn index_of(osd: OsdId) -> usize {
    osd.0 as usize - 1
}

fn boot_of(osd: OsdId) -> BootId {
    BootId(u64::from(osd.0) * 10)
}

fn view() -> ClusterView {
    let ids: Vec<OsdId> = (0..OSDS).map(osd_id).collect();
    let info = |id: OsdId| {
        let (address, host) = (format!("h{}:1", id.0), format!("h{}", id.0));
        (id, OsdInfo { id, boot: boot_of(id), up: true, address, host, capacity: DISK_BYTES })
    };
    let config = |index: u32| {
        let pg = PgId { pool: POOL, index };
        let primary = osd_id(index as usize % OSDS);
        let mut members = ids.clone();
        members.rotate_left(index as usize % OSDS);
        let in_sync = members.clone();
        let primary_boot = boot_of(primary);
        (pg, PgConfig { pg, epoch: Epoch(1), members, in_sync, primary: Some(primary), primary_boot, min_size: 2 })
    };
    let name = Name::new("pool").expect("a good name");
    let pool = PoolInfo { id: POOL, name, replicas: 3, min_size: 2, pg_count: PGS };
    ClusterView {
        cluster: CLUSTER,
        revision: Revision(1),
        osds: ids.iter().copied().map(info).collect(),
        pools: BTreeMap::from([(POOL, pool)]),
        pgs: (0..PGS).map(config).collect(),
        ..ClusterView::default()
    }
}

fn grant(size: u64) -> AttachGrant {
    AttachGrant {
        volume: VolumeId(1),
        name: Name::new("disk").expect("a good name"),
        attachment: AttachmentId(1),
        generation: Generation(1),
        session: SessionId(1),
        pool: POOL,
        placement_key: 42,
        stack_revision: StackRevision(1),
        layers: vec![LayerId(1)],
        size,
        read_only: false,
    }
}

/// Something that compresses to nothing else.
fn contents() -> Bytes {
    let mut bytes = aligned_payload(CHUNK_BYTES as usize);
    for word in 0..u64::from(CHUNK_BYTES) / 8 {
        bytes.put_u64_le(word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    bytes.freeze()
}

impl Process {
    fn new(osd: OsdId, now: Tick) -> Process {
        let store = StoreConfig {
            cluster: CLUSTER,
            osd,
            capacity: DISK_BYTES,
            log_bytes: LOG_BYTES,
            index_cache_bytes: 48 * MIB,
            volatile_cache: true,
            write_through: true,
        };
        let mut disk = MemoryDisk::new(DISK_BYTES);
        for op in Store::<Honest>::format(&store).expect("the configuration is good") {
            disk.perform(op).expect("memory does not fail");
        }
        let osd = Osd::new(OsdConfig { store, boot: boot_of(osd), unix_at_tick_0: 0 }, now);
        Process { osd, disk, done: vec![], deferred: vec![Event::Start], wake: None, actions: vec![] }
    }

    fn step(&mut self, now: Tick, event: Event) {
        self.osd.step(now, event, &mut self.actions);
    }
}

impl Default for Cores {
    fn default() -> Cores {
        Cores::new()
    }
}

impl Cores {
    /// A volume whose blocks are all written, with their index on the disks and in the caches.
    pub fn new() -> Cores {
        let now = Tick(1);
        let volume_bytes = (CHUNKS + 1) * u64::from(CHUNK_BYTES);
        let mut cores = Cores {
            now,
            processes: (0..OSDS).map(|index| Process::new(osd_id(index), now)).collect(),
            client: VolumeClient::new(grant(volume_bytes), ClientLimits::default()),
            client_deferred: vec![],
            client_wake: None,
            client_actions: vec![],
            connections: (0..=CLIENT).map(|_| (0..OSDS).map(|_| Connection::new()).collect()).collect(),
            completed: 0,
            contents: contents(),
            walked: 0,
        };
        cores.settle();
        for process in &mut cores.processes {
            process.deferred.push(Event::View(view()));
        }
        cores.client_deferred.push(ClientEvent::View(Arc::new(view())));
        // What earlier processes may have granted has run out.
        cores.pass(Duration::from_millis(1000));
        let active: usize = cores.processes.iter().map(|p| p.osd.active_pgs().count()).sum();
        assert!(active == PGS as usize, "every placement group is active");
        cores.fill();
        cores
    }

    fn fill(&mut self) {
        for chunk in 0..=CHUNKS {
            let data = self.contents.clone();
            self.submit(BlockOp::Write { offset: chunk * u64::from(CHUNK_BYTES), data });
            self.settle();
            self.pass(Duration::from_millis(10));
        }
        // A store writes its index down when so much was zeroed and nothing else is to be done.
        let len = u64::from(CHUNK_BYTES);
        self.submit(BlockOp::Discard { offset: CHUNKS * len, len });
        self.pass(Duration::from_millis(1000));
        for process in &self.processes {
            assert!(process.osd.store().stats().checkpoints > 0, "the index is on the disk");
        }
        for _ in 0..BLOCKS / 256 {
            self.turn(Job::Read, 1);
            self.turn(Job::Write, 4);
        }
        assert!(self.completed == CHUNKS + 2 + self.walked, "every request has its answer");
    }

    /// So many 4 KiB requests at once, until all are answered, and a little more time.
    #[inline(never)] // callgrind collects by this name
    pub fn round(&mut self, job: Job, depth: u64) {
        self.turn(job, depth);
    }

    fn turn(&mut self, job: Job, depth: u64) {
        let before = self.completed;
        for _ in 0..depth {
            let op = self.next_op(job);
            self.submit(op);
        }
        self.settle();
        assert!(self.completed - before == depth, "every request has its answer");
        self.now = self.now + TIME_PER_ROUND.max(Duration(TIME_PER_REQUEST.0 * depth));
        self.settle();
    }

    /// Walks over the volume in strides of about the golden section: no block comes again before all others came, and neighbours in
    /// time are far from each other.
    fn next_op(&mut self, job: Job) -> BlockOp {
        self.walked += 1;
        let block = self.walked.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - BLOCKS.trailing_zeros());
        let offset = block * u64::from(BLOCK_BYTES);
        let at = (offset % u64::from(CHUNK_BYTES)) as usize;
        match job {
            Job::Write => BlockOp::Write { offset, data: self.contents.slice(at..at + BLOCK_BYTES as usize) },
            Job::Read => BlockOp::Read { offset, len: BLOCK_BYTES },
        }
    }

    fn submit(&mut self, op: BlockOp) {
        let request = BlockRequest { tag: 0, op };
        self.client.step(self.now, ClientEvent::Submit(request), &mut self.client_actions);
    }

    /// Until nobody has anything to do at this time.
    fn settle(&mut self) {
        loop {
            let mut is_busy = self.client_batch();
            for index in 0..OSDS {
                is_busy |= self.osd_batch(index);
            }
            if !is_busy {
                return;
            }
        }
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        self.settle();
        let next = |cores: &Cores| cores.processes.iter().map(|p| p.wake).chain([cores.client_wake]).flatten().min();
        while let Some(at) = next(self).filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.settle();
        }
        self.now = end;
        self.settle();
    }

    /// Returns whether there was any reason to wake.
    fn client_batch(&mut self) -> bool {
        let (now, actions) = (self.now, &mut self.client_actions);
        let mut is_awake = !actions.is_empty();
        for event in self.client_deferred.drain(..) {
            is_awake = true;
            self.client.step(now, event, actions);
        }
        for (index, connection) in self.connections[CLIENT].iter_mut().enumerate() {
            while let Some(message) = connection.replies.next() {
                is_awake = true;
                self.client.step(now, ClientEvent::Received(osd_id(index), message), actions);
            }
        }
        if self.client_wake.is_some_and(|at| at <= now) {
            is_awake = true;
            self.client_wake = None;
            self.client.step(now, ClientEvent::Timer, actions);
        }
        let mut actions = std::mem::take(&mut self.client_actions);
        for action in actions.drain(..) {
            self.act_for_client(action);
        }
        self.client_actions = actions;
        self.connections[CLIENT].iter_mut().for_each(|c| c.requests.send());
        is_awake
    }

    fn act_for_client(&mut self, action: ClientAction) {
        match action {
            ClientAction::Link { osd, .. } => self.client_deferred.push(ClientEvent::LinkUp(osd)),
            ClientAction::LinkSend(osd, message) => self.connections[CLIENT][index_of(osd)].requests.push(&message),
            ClientAction::Complete(_, Ok(reply)) => self.complete(&reply),
            ClientAction::WakeAt(at) => self.client_wake = Some(at),
            other @ (ClientAction::Complete(..) | ClientAction::WantView | ClientAction::Fenced) => {
                panic!("nothing fails here, but the client says {other:?}")
            }
        }
    }

    fn complete(&mut self, reply: &BlockReply) {
        self.completed += 1;
        if let BlockReply::Data(pieces) = reply {
            let bytes: usize = pieces.iter().map(Bytes::len).sum();
            assert!(bytes == BLOCK_BYTES as usize, "the whole block was read");
        }
    }

    /// Returns whether there was any reason to wake.
    fn osd_batch(&mut self, index: usize) -> bool {
        let now = self.now;
        let process = &mut self.processes[index];
        let mut is_awake = !(process.deferred.is_empty() && process.done.is_empty());
        for event in std::mem::take(&mut process.deferred) {
            process.step(now, event);
        }
        let mut done = std::mem::take(&mut process.done);
        for (io, result) in done.drain(..) {
            process.step(now, Event::Disk(io, result));
        }
        process.done = done;
        for (opener, connections) in self.connections.iter_mut().enumerate() {
            while let Some(message) = connections[index].requests.next() {
                is_awake = true;
                process.step(now, Event::Received(ConnId(opener as u64), message));
            }
        }
        for (peer, connection) in self.connections[index].iter_mut().enumerate() {
            while let Some(message) = connection.replies.next() {
                is_awake = true;
                process.step(now, Event::LinkReceived(osd_id(peer), message));
            }
        }
        if process.wake.is_some_and(|at| at <= now) {
            is_awake = true;
            process.wake = None;
            process.step(now, Event::Timer);
        }
        if is_awake {
            process.osd.poll(now, &mut process.actions);
            self.act_for_osd(index);
        }
        is_awake
    }

    fn act_for_osd(&mut self, index: usize) {
        let process = &mut self.processes[index];
        for action in process.actions.drain(..) {
            match action {
                Action::Disk(io, op) => process.done.push((io, process.disk.perform(op))),
                Action::Send(ConnId(opener), message) => {
                    self.connections[opener as usize][index].replies.push(&message);
                }
                Action::Link { osd, .. } => process.deferred.push(Event::LinkUp(osd)),
                Action::LinkSend(osd, message) => self.connections[index][index_of(osd)].requests.push(&message),
                Action::WakeAt(at) => process.wake = Some(at),
                Action::Mounted { damaged } => assert!(!damaged, "memory keeps what it was given"),
                other @ (Action::Close(_) | Action::Control(..) | Action::Fail(_) | Action::Warn(_)) => {
                    panic!("nothing fails here, but {} says {other:?}", osd_id(index))
                }
            }
        }
        self.connections[index].iter_mut().for_each(|c| c.requests.send());
        self.connections.iter_mut().for_each(|c| c[index].replies.send());
    }

    /// Disk writes and flushes of all OSDs, and bytes of them, since the start.
    pub fn device_writes(&self) -> (u64, u64) {
        let stats = self.processes.iter().map(|p| p.osd.store().stats());
        stats.fold((0, 0), |(writes, bytes), s| (writes + s.device_writes + s.flushes, bytes + s.device_bytes_written))
    }
}
