//! One OSD on a simulated disk, in a cluster that the test plays: the view, its peers, a client. Time stands still but in `pass`.

use super::config;
use ashlar_osd_core::store::Store;
use ashlar_osd_core::{Action, ConnId, Event, Honest, Osd, OsdConfig};
use ashlar_sim_disk::SimDisk;
use ashlar_types::control::ControlRequest;
use ashlar_types::view::{Barrier, ClusterView, Floor, Merge, OsdInfo, PgConfig, Reservations};
use ashlar_types::wipe::{FreedWipes, Wipe};
use ashlar_types::{
    AttachmentId, BLOCK_BYTES, BootId, CHUNK_BYTES, ChunkId, ChunkIndex, ClusterId, Crc, Duration, Epoch, Generation,
    IdSet, LayerId, OpId, OpNumber, OsdId, PgId, PoolId, Revision, SessionId, StackRevision, Tick, Version, VolumeId,
    WipeId,
};
use ashlar_wire::{
    ClientHello, CreditGrant, Decided, FloorRaised, Hello, HelloReply, HelloStatus, IoKind, IoRequest, IoStatus,
    JoinChunks, LayerRun, LayersRequest, LeaseGrant, Message, Outcome, OverReply, OverRequest, PeerHello, Prepared,
    Promise, PromiseReply, Pushed, Report, ReservedGrant, Stack,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

pub const ME: OsdId = OsdId(7);
pub const PG: PgId = PgId { pool: PoolId(1), index: 0 };
const CLUSTER: ClusterId = ClusterId(0xc1);
const CLIENT: ConnId = ConnId(1);
const SESSION: SessionId = SessionId(9);

pub fn chunk(index: u32) -> ChunkId {
    ChunkId { layer: LayerId(1), index: ChunkIndex(index) }
}

/// What a peer says to a message instead of what a good one would; `None`: what a good one says.
pub type Script = Box<dyn FnMut(OsdId, &Message) -> Option<Vec<Message>>>;

pub struct Node {
    pub osd: Osd<Honest>,
    pub disk: SimDisk,
    pub now: Tick,
    pub script: Script,
    /// What was sent to peers, in order.
    pub sent: Vec<(OsdId, Message)>,
    pub answers: BTreeMap<OpNumber, IoStatus>,
    /// Of reads.
    pub payloads: BTreeMap<OpNumber, Bytes>,
    /// Of reads of a volume that stands on a base.
    pub unwritten: BTreeMap<OpNumber, Vec<std::ops::Range<u16>>>,
    /// Of questions which layer has what: runs, and the next chunk that has anything.
    pub layers: BTreeMap<OpNumber, (Vec<LayerRun>, Option<ChunkIndex>)>,
    pub warnings: Vec<String>,
    pub controls: Vec<ControlRequest>,
    pub closed: BTreeSet<ConnId>,
    pub failed: Option<String>,
    wake: Option<Tick>,
    view: ClusterView,
    last_op: u64,
    /// What the client's requests name.
    pub stack: StackRevision,
}

fn fragment_crcs(offset: u32, payload: &[u8]) -> Vec<Crc> {
    let first = (BLOCK_BYTES - offset % BLOCK_BYTES).min(payload.len() as u32) as usize;
    let (head, rest) = payload.split_at(first);
    std::iter::once(head).chain(rest.chunks(BLOCK_BYTES as usize)).map(Crc::of).collect()
}

/// What a member that has nothing and refuses nothing says.
pub fn good_answers(message: &Message) -> Vec<Message> {
    let answer = match message {
        Message::Promise(m) => {
            let (pg, epoch) = (m.config.pg, m.config.epoch);
            Message::PromiseReply(PromiseReply { pg, epoch, outcome: Outcome::Ok, report: Some(Report::default()) })
        }
        Message::Decide(m) => Message::Decided(Decided { pg: m.pg, epoch: m.epoch, outcome: Outcome::Ok }),
        Message::Prepare(m) => {
            let (chunk, version) = (m.write.chunk, m.write.version);
            Message::Prepared(Prepared { pg: m.pg, epoch: m.epoch, chunk, version, outcome: Outcome::Ok })
        }
        Message::LeaseRequest(m) => Message::LeaseGrant(LeaseGrant { asked_at: m.asked_at, pgs: m.pgs.clone() }),
        Message::CreditRequest(m) if !m.is_return => {
            let (wanted_total, granted_total) = (m.wanted_total, m.wanted_total);
            let (pg, epoch) = (m.pg, m.epoch);
            Message::CreditGrant(CreditGrant { pg, epoch, wanted_total, granted_total })
        }
        Message::ReservedRequest(m) => {
            let (pg, epoch, is_reclaiming) = (m.pg, m.epoch, false);
            let (wanted_total, granted_total) = (m.wanted_total, m.wanted_total);
            Message::ReservedGrant(ReservedGrant { pg, epoch, wanted_total, granted_total, is_reclaiming })
        }
        Message::RaiseFloor(m) => {
            let (pg, epoch, barrier) = (m.pg, m.epoch, m.barrier);
            Message::FloorRaised(FloorRaised { pg, epoch, barrier, outcome: Outcome::Ok })
        }
        Message::JoinStart(m) => {
            let (pg, epoch, join, after) = (m.pg, m.epoch, m.join, m.after);
            Message::JoinChunks(JoinChunks { pg, epoch, join, outcome: Outcome::Ok, after, chunks: vec![], last: true })
        }
        Message::Push(m) => {
            let (pg, epoch, join, chunk, to) = (m.pg, m.epoch, m.join, m.chunk, m.to);
            Message::Pushed(Pushed { pg, epoch, join, chunk, to, outcome: Outcome::Ok })
        }
        _ => return vec![],
    };
    vec![answer]
}

impl Node {
    /// Mounted, in a view of `ME` and OSDs 8 and 9, without a PG.
    pub fn new(capacity: u64) -> Node {
        let store = config(capacity, 1 << 20, true);
        let mut disk = SimDisk::new(capacity, true);
        disk.perform(Store::<Honest>::format(&store).expect("the configuration is good"));
        let now = Tick(1);
        let osd = Osd::new(OsdConfig { store, boot: BootId(70), unix_at_tick_0: 0 }, now);
        let info = |id: u32| {
            let (address, host) = (format!("h{id}:1"), format!("h{id}"));
            let id = OsdId(id);
            (id, OsdInfo { id, boot: BootId(u64::from(id.0) * 10), up: true, address, host, capacity })
        };
        let view = ClusterView { cluster: CLUSTER, osds: [7, 8, 9].map(info).into(), ..ClusterView::default() };
        let mut node = Node {
            osd,
            disk,
            now,
            script: Box::new(|_, _| None),
            sent: vec![],
            answers: BTreeMap::new(),
            payloads: BTreeMap::new(),
            unwritten: BTreeMap::new(),
            layers: BTreeMap::new(),
            warnings: vec![],
            controls: vec![],
            closed: BTreeSet::new(),
            failed: None,
            wake: None,
            view,
            last_op: 0,
            stack: StackRevision::FIRST,
        };
        node.step(Event::Start);
        // What an earlier process may have granted has run out.
        node.pass(1000);
        node.hello(CLIENT, 1);
        node.name_stack(1, &[1]);
        node
    }

    /// Makes this OSD the primary of `PG`, in this epoch, with these members.
    pub fn lead(&mut self, epoch: u32, members: &[u32], in_sync: &[u32], min_size: u8) {
        self.lead_pg(PG, epoch, members, in_sync, min_size);
        self.pass(1000);
    }

    pub fn lead_pg(&mut self, pg: PgId, epoch: u32, members: &[u32], in_sync: &[u32], min_size: u8) {
        let ids = |of: &[u32]| of.iter().map(|id| OsdId(*id)).collect();
        let (members, in_sync) = (ids(members), ids(in_sync));
        let (epoch, primary) = (Epoch(epoch), Some(ME));
        let config = PgConfig { pg, epoch, members, in_sync, primary, primary_boot: BootId(70), min_size };
        self.view.pgs.insert(pg, config);
        self.view.revision = Revision(self.view.revision.0 + 1);
        self.step(Event::View(self.view.clone()));
    }

    /// Makes another OSD the primary of `PG`, and gives it a connection to this one.
    pub fn follow(&mut self, primary: u32, epoch: u32, members: &[u32], min_size: u8) -> ConnId {
        let members: Vec<OsdId> = members.iter().map(|id| OsdId(*id)).collect();
        let boot = BootId(u64::from(primary) * 10);
        let id = OsdId(primary);
        let config = PgConfig {
            pg: PG,
            epoch: Epoch(epoch),
            members: members.clone(),
            in_sync: members,
            primary: Some(id),
            primary_boot: boot,
            min_size,
        };
        self.view.pgs.insert(PG, config.clone());
        self.view.revision = Revision(self.view.revision.0 + 1);
        self.step(Event::View(self.view.clone()));
        let conn = ConnId(100 + u64::from(primary));
        let hello = Hello { cluster: CLUSTER, to: ME, from: PeerHello::Osd { id, boot }, connection: 1 };
        self.step(Event::Received(conn, Message::Hello(hello)));
        self.step(Event::Received(conn, Message::Promise(Promise { config, undecided: vec![] })));
        self.pass(500);
        conn
    }

    pub fn hello(&mut self, conn: ConnId, connection: u64) {
        let client = ClientHello {
            session: SessionId(SESSION.0 + conn.0 - 1),
            volume: VolumeId(1),
            attachment: AttachmentId(1),
            generation: Generation(1),
            read_only: false,
        };
        let hello = Hello { cluster: CLUSTER, to: ME, from: PeerHello::Client(client), connection };
        self.step(Event::Received(conn, Message::Hello(hello)));
    }

    /// The client says which layers its volume has, top first, and goes on with them.
    pub fn name_stack(&mut self, revision: u32, layers: &[u64]) {
        self.stack = StackRevision(revision);
        let stack = Stack { revision: self.stack, layers: layers.iter().map(|l| LayerId(*l)).collect() };
        self.step(Event::Received(CLIENT, Message::Stack(stack)));
    }

    /// The view has a barrier that brings this stack, and that drops these layers.
    pub fn raise_stack(&mut self, revision: u32, retire: IdSet<LayerId>) {
        self.raise_floor(Floor { stack_revision: StackRevision(revision), ..Floor::default() }, retire);
    }

    pub fn raise_floor(&mut self, floor: Floor, retire: IdSet<LayerId>) {
        let (id, gone, pgs) = (floor.stack_revision.0.into(), IdSet::default(), vec![PG]);
        self.view.barriers = vec![Barrier { id, volume: VolumeId(1), floor, gone, retire, pgs }];
        self.view.revision = Revision(self.view.revision.0 + 1);
        self.step(Event::View(self.view.clone()));
        self.settle();
    }

    /// The view wants a layer merged into another.
    pub fn want_merge(&mut self, id: u64, from: u64, into: u64) {
        let (volume, pgs) = (VolumeId(1), vec![PG]);
        self.view.merges = vec![Merge { id, volume, from: LayerId(from), into: LayerId(into), pgs }];
        self.view.revision = Revision(self.view.revision.0 + 1);
        self.step(Event::View(self.view.clone()));
        self.settle();
    }

    /// The view has so many chunks reserved in `PG`, for a volume with this top layer.
    pub fn reserve(&mut self, volume: u64, top: u64, chunks: u64) {
        let volumes = BTreeMap::from([(VolumeId(volume), LayerId(top))]);
        self.view.reservations = Some(Reservations { chunks: BTreeMap::from([(PG, chunks)]), volumes });
        self.view.revision = Revision(self.view.revision.0 + 1);
        self.step(Event::View(self.view.clone()));
        self.settle();
    }

    /// The volume is gone: closed, and its layer dropped.
    pub fn delete_volume(&mut self) {
        let floor = Floor { closed: true, stack_revision: StackRevision(1), ..Floor::default() };
        let gone = IdSet::range(VolumeId(1), VolumeId(1));
        let retire = IdSet::range(LayerId(1), LayerId(1));
        self.view.barriers = vec![Barrier { id: 9, volume: VolumeId(1), floor, gone, retire, pgs: vec![PG] }];
        self.show_view();
        self.pass(100);
        self.view.barriers.clear();
        self.show_view();
    }

    /// The view wants these OSDs to wipe what was free when the volume was gone.
    pub fn want_wipe(&mut self, id: u64, osds: &[u32]) {
        let osds = osds.iter().map(|osd| OsdId(*osd)).collect();
        self.view.wipes.push(Wipe { id: WipeId(id), volume: VolumeId(1), pool: PG.pool, osds });
        self.show_view();
    }

    pub fn forget_wipes(&mut self) {
        self.view.wipes.clear();
        self.show_view();
    }

    /// The view names layers of volumes that wipe as they free, and the number of the sweep.
    pub fn wipe_freed(&mut self, layers: IdSet<LayerId>, sweep: u64) {
        self.view.wipe_freed = Some(FreedWipes { layers, known_below: LayerId(100), sweep });
        self.show_view();
    }

    fn show_view(&mut self) {
        self.view.revision = Revision(self.view.revision.0 + 1);
        self.step(Event::View(self.view.clone()));
    }

    pub fn has_merged(&self, id: u64) -> bool {
        let is_it = |c: &ControlRequest| matches!(c, ControlRequest::MergeDone { merge, .. } if *merge == id);
        self.controls.iter().any(is_it)
    }

    pub fn has_passed(&self, revision: u32) -> bool {
        let is_it = |c: &ControlRequest| matches!(c, ControlRequest::BarrierPassed { barrier, .. } if *barrier == u64::from(revision));
        self.controls.iter().any(is_it)
    }

    /// Asks without waiting.
    pub fn ask(&mut self, pg: PgId, chunk: ChunkId, kind: IoKind, blocks: std::ops::Range<u32>, tag: u8) -> OpNumber {
        self.ask_bytes(pg, chunk, kind, blocks.start * BLOCK_BYTES..blocks.end * BLOCK_BYTES, tag)
    }

    pub fn ask_bytes(
        &mut self,
        pg: PgId,
        chunk: ChunkId,
        kind: IoKind,
        bytes: std::ops::Range<u32>,
        tag: u8,
    ) -> OpNumber {
        self.last_op += 1;
        self.ask_as(OpNumber(self.last_op), pg, chunk, kind, bytes, tag)
    }

    /// Under a number that may have been used.
    pub fn ask_as(
        &mut self,
        number: OpNumber,
        pg: PgId,
        chunk: ChunkId,
        kind: IoKind,
        bytes: std::ops::Range<u32>,
        tag: u8,
    ) -> OpNumber {
        let request = self.request_as(number, pg, chunk, kind, bytes, tag);
        self.step(Event::Received(CLIENT, Message::IoRequest(request)));
        number
    }

    /// Asks which layer has each block of a chunk.
    pub fn ask_layers(&mut self, chunk: ChunkId, kind: IoKind) -> OpNumber {
        self.last_op += 1;
        let number = OpNumber(self.last_op);
        let request = self.request_as(number, PG, chunk, kind, 0..CHUNK_BYTES, 0);
        self.step(Event::Received(CLIENT, Message::LayersRequest(LayersRequest { request })));
        number
    }

    /// Asks for a volume that stands on a base, bringing these blocks of it along, each filled with a byte.
    pub fn ask_over(
        &mut self,
        chunk: ChunkId,
        kind: IoKind,
        bytes: std::ops::Range<u32>,
        tag: u8,
        base: &[u8],
    ) -> OpNumber {
        self.last_op += 1;
        let number = OpNumber(self.last_op);
        self.ask_over_as(number, chunk, kind, bytes, tag, base)
    }

    pub fn ask_over_as(
        &mut self,
        number: OpNumber,
        chunk: ChunkId,
        kind: IoKind,
        bytes: std::ops::Range<u32>,
        tag: u8,
        base: &[u8],
    ) -> OpNumber {
        let mut request = self.request_as(number, PG, chunk, kind, bytes, tag);
        let blocks: Vec<Vec<u8>> = base.iter().map(|fill| vec![*fill; BLOCK_BYTES as usize]).collect();
        let base = blocks.iter().map(|block| Crc::of(block)).collect();
        request.payload = [request.payload.to_vec(), blocks.concat()].concat().into();
        self.step(Event::Received(CLIENT, Message::OverRequest(OverRequest { request, base })));
        number
    }

    fn request_as(
        &self,
        number: OpNumber,
        pg: PgId,
        chunk: ChunkId,
        kind: IoKind,
        bytes: std::ops::Range<u32>,
        tag: u8,
    ) -> IoRequest {
        let (offset, len) = (bytes.start, bytes.end - bytes.start);
        let is_write = kind.carries_data();
        let payload = if is_write { Bytes::from(vec![tag; len as usize]) } else { Bytes::new() };
        IoRequest {
            op: OpId { session: SESSION, number },
            lowest_unanswered: OpNumber(1),
            pg,
            epoch: self.view.pgs[&pg].epoch,
            volume: VolumeId(1),
            attachment: AttachmentId(1),
            generation: Generation(1),
            stack_revision: self.stack,
            chunk,
            offset,
            len,
            kind,
            crcs: if is_write { fragment_crcs(offset, &payload) } else { vec![] },
            payload,
        }
    }

    /// Asks and gives it some time.
    pub fn request(&mut self, chunk: ChunkId, kind: IoKind, blocks: std::ops::Range<u32>, tag: u8) -> Option<IoStatus> {
        let number = self.ask(PG, chunk, kind, blocks, tag);
        self.pass(100);
        self.answers.get(&number).copied()
    }

    pub fn versions(&self, chunk: ChunkId) -> Version {
        self.osd.store().versions(PG, chunk).newest
    }

    /// Where a block that carries this data lies on the disk, the log excepted.
    pub fn find_on_disk(&self, tag: u8) -> Vec<u64> {
        let is_it = |bytes: &Bytes| bytes.iter().all(|b| *b == tag);
        self.disk.blocks_from(0).filter(|(_, bytes)| is_it(bytes)).map(|(at, _)| at).collect()
    }

    /// Pushes and prepares, by chunk, that were sent to a peer.
    pub fn pushed_to(&self, peer: u32) -> Vec<ChunkId> {
        let pushes = self.sent.iter().filter(|(to, _)| *to == OsdId(peer));
        pushes.filter_map(|(_, m)| if let Message::Push(push) = m { Some(push.chunk) } else { None }).collect()
    }

    pub fn step(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.osd.step(self.now, event, &mut actions);
        self.osd.poll(self.now, &mut actions);
        self.osd.perf().on_turn_end(self.now);
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<Action>) {
        let mut follow: Vec<Event> = Vec::new();
        for action in actions {
            match action {
                Action::Disk(io, op) => self.disk.submit(io, op),
                Action::Send(_, Message::OverReply(OverReply { reply, unwritten })) => {
                    self.answers.insert(reply.op.number, reply.status);
                    let runs = unwritten.iter().map(|run| run.first().0..run.end()).collect();
                    self.unwritten.insert(reply.op.number, runs);
                    self.payloads.insert(reply.op.number, reply.payload);
                }
                Action::Send(_, Message::LayersReply(reply)) => {
                    self.answers.insert(reply.op.number, IoStatus::Ok);
                    self.layers.insert(reply.op.number, (reply.runs, reply.next));
                }
                Action::Send(_, Message::IoReply(reply)) => {
                    self.answers.insert(reply.op.number, reply.status);
                    self.payloads.insert(reply.op.number, reply.payload);
                }
                Action::Send(..) => {}
                Action::Close(conn) => {
                    self.closed.insert(conn);
                }
                Action::Link { osd, .. } => follow.push(Event::LinkUp(osd)),
                Action::LinkSend(osd, message) => {
                    let answers = match &message {
                        Message::Hello(_) => {
                            let (boot, status) = (BootId(u64::from(osd.0) * 10), HelloStatus::Welcome);
                            vec![Message::HelloReply(HelloReply { osd, boot, status })]
                        }
                        other => (self.script)(osd, other).unwrap_or_else(|| good_answers(other)),
                    };
                    self.sent.push((osd, message));
                    follow.extend(answers.into_iter().map(|m| Event::LinkReceived(osd, m)));
                }
                Action::Control(_, request) => self.controls.push(request),
                Action::WakeAt(at) => self.wake = Some(at),
                Action::Mounted { .. } => {}
                Action::Fail(text) => self.failed = Some(text),
                Action::Warn(text) => self.warnings.push(text),
            }
        }
        for event in follow {
            self.step(event);
        }
    }

    /// Completes what the disk has under way, and what follows from it.
    pub fn settle(&mut self) {
        loop {
            let next = self.disk.pending().next().map(|(io, _)| io);
            let Some(io) = next else { return };
            let result = self.disk.complete(io);
            self.step(Event::Disk(io, result));
        }
    }

    /// Lets time go by; the disk takes none.
    pub fn pass(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        self.settle();
        while let Some(at) = self.wake.take().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.step(Event::Timer);
            self.settle();
        }
        self.now = end;
        self.step(Event::Timer);
        self.settle();
    }
}
