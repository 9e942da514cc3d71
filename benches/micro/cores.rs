//! Three OSD cores and the client's in one process: what a request costs all of them and the codec between them.
//! Each process handles all that has come for it as one batch, as its shell does, and is polled once; then what it has to say leaves
//! together. Disks have done everything by the next batch. Time is handed in: a round of requests takes what it would on a fast cluster, so
//! that leases, commits and everything else that time brings happen as often as there.

use crate::benchmark::{Benchmark, Call};
use crate::memory_disk::MemoryDisk;
use crate::scatter::scattered;
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
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark { name: "cores/write-4k/depth-1", operations: 1, calls: 256, make: || rounds(Job::Write, 1) },
    Benchmark { name: "cores/write-4k/depth-32", operations: 32, calls: 8, make: || rounds(Job::Write, 32) },
    Benchmark { name: "cores/read-4k/depth-1", operations: 1, calls: 256, make: || rounds(Job::Read, 1) },
    Benchmark { name: "cores/read-4k/depth-32", operations: 32, calls: 8, make: || rounds(Job::Read, 32) },
];

fn rounds(job: Job, depth: u64) -> Call {
    let mut cores = Cores::new(COUNTED_LOG_BYTES);
    Box::new(move || cores.round(job, depth))
}

const OSDS: usize = 3;
/// The client's place among those who open connections, behind the OSDs.
const CLIENT: usize = OSDS;
const CLUSTER: ClusterId = ClusterId(0xa5);
const POOL: PoolId = PoolId(1);
/// What the metadata service gives a pool on three OSDs.
const PGS: u32 = 32;
const MIB: u64 = 1 << 20;
const CHUNKS: u64 = 16;
/// What one index page is about.
const QUARTERS: u64 = 4 * CHUNKS;
const QUARTER_BYTES: u64 = CHUNK_BYTES as u64 / 4;
/// Written at the beginning of each quarter before anything is measured; the rest stays empty.
const FILLED_BYTES: u64 = 256 << 10;
const FILLED_BLOCKS: u64 = FILLED_BYTES / BLOCK_BYTES as u64;
/// Of a disk beside its log: so much that there is no checkpoint for want of space while every index page changes.
const ROOM_BYTES: u64 = 512 * MIB;
/// A checkpoint begins when half of it is full: after 500 writes at depth 1, more than are counted. A larger one takes long to mount under callgrind.
const COUNTED_LOG_BYTES: u64 = 4 * MIB;
/// The time that goes by for each request, at a rate that a fast cluster has,
const TIME_PER_REQUEST: Duration = Duration::from_micros(20);
/// and for each round of requests.
const TIME_PER_ROUND: Duration = Duration::from_micros(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    Write,
    Read,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskFigures {
    pub writes: u64,
    pub flushes: u64,
    pub bytes_written: u64,
    pub checkpoints: u64,
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
    /// For whom something has come since its last batch: the OSDs, then the client.
    has_news: [bool; CLIENT + 1],
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
        (id, OsdInfo { id, boot: boot_of(id), up: true, address, host, capacity: ROOM_BYTES })
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
        name: Name::new("disk").expect("a good name").into(),
        attachment: AttachmentId(1),
        generation: Generation(1),
        session: SessionId(1),
        pool: POOL,
        placement_key: 42,
        stack_revision: StackRevision(1),
        layers: vec![LayerId(1)],
        size,
        read_only: false,
        base: None,
    }
}

/// Something that compresses to nothing else.
fn contents() -> Bytes {
    let mut bytes = aligned_payload(CHUNK_BYTES as usize);
    bytes.resize(CHUNK_BYTES as usize, 0);
    for (word, at) in (0u64..).zip(bytes.chunks_exact_mut(8)) {
        at.copy_from_slice(&word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    bytes.freeze()
}

impl Process {
    fn new(osd: OsdId, log_bytes: u64, now: Tick) -> Process {
        let capacity = log_bytes + ROOM_BYTES;
        let store = StoreConfig {
            cluster: CLUSTER,
            osd,
            capacity,
            log_bytes,
            index_cache_bytes: 48 * MIB,
            volatile_cache: true,
            write_through: true,
        };
        let mut disk = MemoryDisk::new(capacity);
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

impl Cores {
    /// A volume whose blocks are all written, with their index on the disks and in the caches.
    pub fn new(log_bytes: u64) -> Cores {
        let now = Tick(1);
        let volume_bytes = (CHUNKS + 1) * u64::from(CHUNK_BYTES);
        let mut cores = Cores {
            now,
            processes: (0..OSDS).map(|index| Process::new(osd_id(index), log_bytes, now)).collect(),
            client: VolumeClient::new(grant(volume_bytes), ClientLimits::default()),
            client_deferred: vec![],
            client_wake: None,
            client_actions: vec![],
            has_news: [true; CLIENT + 1],
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
        cores.has_news = [true; CLIENT + 1];
        // What earlier processes may have granted has run out.
        cores.pass(Duration::from_millis(1000));
        let active: usize = cores.processes.iter().map(|p| p.osd.active_pgs().count()).sum();
        assert!(active == PGS as usize, "every placement group is active");
        cores.fill();
        cores
    }

    fn fill(&mut self) {
        let scrap = CHUNKS * u64::from(CHUNK_BYTES);
        let quarters = (0..QUARTERS).map(|quarter| (quarter * QUARTER_BYTES, FILLED_BYTES));
        let writes: Vec<(u64, u64)> = quarters.chain([(scrap, u64::from(CHUNK_BYTES))]).collect();
        for (offset, len) in &writes {
            let data = self.contents.slice(..*len as usize);
            self.submit(BlockOp::Write { offset: *offset, data });
            self.pass(Duration::from_millis(5));
        }
        // A store writes its index down when so much was zeroed and nothing else is to be done.
        self.submit(BlockOp::Discard { offset: scrap, len: u64::from(CHUNK_BYTES) });
        self.pass(Duration::from_millis(1000));
        for process in &self.processes {
            assert!(process.osd.store().stats().checkpoints > 0, "the index is on the disk");
        }
        // Every index page is in the caches then, and has changed since.
        for job in [Job::Read, Job::Write] {
            (0..QUARTERS / 8).for_each(|_| self.turn(job, 32));
            (0..8).for_each(|_| self.turn(job, 1));
        }
        assert!(self.completed == writes.len() as u64 + 1 + self.walked, "every request has its answer");
    }

    /// So many 4 KiB requests at once, until all are answered, and a little more time.
    #[inline(never)] // callgrind can collect by this name
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

    fn next_op(&mut self, job: Job) -> BlockOp {
        self.walked += 1;
        let block = scattered(self.walked, QUARTERS * FILLED_BLOCKS);
        let at = block % FILLED_BLOCKS * u64::from(BLOCK_BYTES);
        let offset = block / FILLED_BLOCKS * QUARTER_BYTES + at;
        match job {
            Job::Write => {
                let data = self.contents.slice(at as usize..at as usize + BLOCK_BYTES as usize);
                BlockOp::Write { offset, data }
            }
            Job::Read => BlockOp::Read { offset, len: BLOCK_BYTES },
        }
    }

    fn submit(&mut self, op: BlockOp) {
        let request = BlockRequest { tag: 0, op };
        self.client.step(self.now, ClientEvent::Submit(request), &mut self.client_actions);
        self.has_news[CLIENT] = true;
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
        let is_due = self.client_wake.is_some_and(|at| at <= now);
        if !std::mem::take(&mut self.has_news[CLIENT]) && !is_due {
            return false;
        }
        for event in self.client_deferred.drain(..) {
            self.client.step(now, event, actions);
        }
        for (index, connection) in self.connections[CLIENT].iter_mut().enumerate() {
            connection.replies.receive(|message| {
                self.client.step(now, ClientEvent::Received(osd_id(index), message), actions);
            });
        }
        if is_due {
            self.client_wake = None;
            self.client.step(now, ClientEvent::Timer, actions);
        }
        let mut actions = std::mem::take(&mut self.client_actions);
        for action in actions.drain(..) {
            self.act_for_client(action);
        }
        self.client_actions = actions;
        self.connections[CLIENT].iter_mut().for_each(|c| c.requests.send());
        true
    }

    fn act_for_client(&mut self, action: ClientAction) {
        match action {
            ClientAction::Link { osd, .. } => {
                self.client_deferred.push(ClientEvent::LinkUp(osd));
                self.has_news[CLIENT] = true;
            }
            ClientAction::LinkSend(osd, message) => {
                self.connections[CLIENT][index_of(osd)].requests.push(&message);
                self.has_news[index_of(osd)] = true;
            }
            ClientAction::Complete(_, Ok(reply)) => self.complete(&reply),
            ClientAction::WakeAt(at) => self.client_wake = Some(at),
            other @ (ClientAction::Complete(..)
            | ClientAction::ReadBase { .. }
            | ClientAction::WantView
            | ClientAction::WantStack
            | ClientAction::Held
            | ClientAction::Fenced) => {
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
        let is_due = process.wake.is_some_and(|at| at <= now);
        if !std::mem::take(&mut self.has_news[index]) && !is_due {
            return false;
        }
        for event in std::mem::take(&mut process.deferred) {
            process.step(now, event);
        }
        let mut done = std::mem::take(&mut process.done);
        for (io, result) in done.drain(..) {
            process.step(now, Event::Disk(io, result));
        }
        process.done = done;
        for (opener, connections) in self.connections.iter_mut().enumerate() {
            let conn = ConnId(opener as u64);
            connections[index].requests.receive(|message| process.step(now, Event::Received(conn, message)));
        }
        for (peer, connection) in self.connections[index].iter_mut().enumerate() {
            let peer = osd_id(peer);
            connection.replies.receive(|message| process.step(now, Event::LinkReceived(peer, message)));
        }
        if is_due {
            process.wake = None;
            process.step(now, Event::Timer);
        }
        process.osd.poll(now, &mut process.actions);
        self.act_for_osd(index);
        self.processes[index].osd.perf().on_turn_end(now);
        true
    }

    fn act_for_osd(&mut self, index: usize) {
        let process = &mut self.processes[index];
        for action in process.actions.drain(..) {
            match action {
                Action::Disk(io, op) => process.done.push((io, process.disk.perform(op))),
                Action::Send(ConnId(opener), message) => {
                    self.connections[opener as usize][index].replies.push(&message);
                    self.has_news[opener as usize] = true;
                }
                Action::Link { osd, .. } => process.deferred.push(Event::LinkUp(osd)),
                Action::LinkSend(osd, message) => {
                    self.connections[index][index_of(osd)].requests.push(&message);
                    self.has_news[index_of(osd)] = true;
                }
                Action::WakeAt(at) => process.wake = Some(at),
                Action::Mounted { damaged } => assert!(!damaged, "memory keeps what it was given"),
                other @ (Action::Close(_) | Action::Control(..) | Action::Fail(_) | Action::Warn(_)) => {
                    panic!("nothing fails here, but {} says {other:?}", osd_id(index))
                }
            }
        }
        self.has_news[index] |= !(process.done.is_empty() && process.deferred.is_empty());
        self.connections[index].iter_mut().for_each(|c| c.requests.send());
        self.connections.iter_mut().for_each(|c| c[index].replies.send());
    }

    /// Since the start, of all OSDs.
    pub fn disk_figures(&self) -> DiskFigures {
        let mut sum = DiskFigures::default();
        for stats in self.processes.iter().map(|p| p.osd.store().stats()) {
            sum.writes += stats.device_writes;
            sum.flushes += stats.flushes;
            sum.bytes_written += stats.device_bytes_written;
            sum.checkpoints += stats.checkpoints;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_checkpoint_falls_into_what_is_counted() {
        for benchmark in BENCHMARKS.iter().filter(|b| b.name.contains("write")) {
            let mut cores = Cores::new(COUNTED_LOG_BYTES);
            let before = cores.disk_figures();
            (0..benchmark.calls).for_each(|_| cores.round(Job::Write, benchmark.operations));
            let after = cores.disk_figures();
            assert_eq!(after.checkpoints, before.checkpoints, "{}", benchmark.name);
            assert!(after.writes > before.writes);
        }
    }
}
