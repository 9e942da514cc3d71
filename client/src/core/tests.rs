//! The session against scripted answers (`scripted`), and against a small cluster that loses and refuses (`model`).

mod base;
mod fake;
mod layers;
mod model;
mod scripted;
mod shrinks;
mod stacks;

use super::*;
use ashlar_types::view::{OsdInfo, PgConfig, PoolInfo};
use ashlar_types::{
    AttachmentId, BlockOp, ClusterId, Epoch, Generation, LayerId, Name, PgId, PoolId, Revision, SessionId,
    StackRevision, VolumeId,
};
use ashlar_wire::{HelloReply, HelloStatus, IoReply, IoRequest, IoStatus, OverRequest};
use std::collections::BTreeMap;

const POOL: PoolId = PoolId(1);
const SESSION: SessionId = SessionId(11);
const MIB: u64 = 1 << 20;

fn grant(size: u64) -> AttachGrant {
    AttachGrant {
        volume: VolumeId(3),
        name: Name::new("disk").expect("a good name").into(),
        attachment: AttachmentId(5),
        generation: Generation(2),
        session: SESSION,
        pool: POOL,
        placement_key: 42,
        stack_revision: StackRevision(1),
        layers: vec![LayerId(7)],
        size,
        read_only: false,
        base: None,
    }
}

fn boot_of(osd: OsdId) -> BootId {
    BootId(1000 + u64::from(osd.0))
}

/// Three OSDs; every PG has the same primary and epoch.
fn view(revision: u64, pg_count: u32, epoch: u32, primary: Option<u32>) -> ClusterView {
    let primary = primary.map(OsdId);
    let osds = (0..3).map(OsdId).map(|id| {
        let info = OsdInfo {
            id,
            boot: boot_of(id),
            up: true,
            address: format!("host:{}", id.0),
            host: format!("h{}", id.0),
            capacity: 1 << 40,
        };
        (id, info)
    });
    let members: Vec<OsdId> = (0..3).map(OsdId).collect();
    let pgs = (0..pg_count).map(|index| PgId { pool: POOL, index }).map(|pg| {
        let config = PgConfig {
            pg,
            epoch: Epoch(epoch),
            members: members.clone(),
            in_sync: members.clone(),
            primary,
            primary_boot: primary.map_or(BootId(0), boot_of),
            min_size: 2,
        };
        (pg, config)
    });
    let name = Name::new("pool").expect("a good name");
    let pool = PoolInfo { id: POOL, name, replicas: 3, min_size: 2, pg_count };
    ClusterView {
        cluster: ClusterId(99),
        revision: Revision(revision),
        osds: osds.collect(),
        pools: BTreeMap::from([(POOL, pool)]),
        pgs: pgs.collect(),
        barriers: Vec::new(),
        merges: Vec::new(),
        scrubs: BTreeMap::new(),
        reservations: None,
        wipes: vec![],
        wipe_freed: None,
    }
}

/// A client and what it wants done, sorted.
struct Rig {
    now: Tick,
    client: VolumeClient,
    links: Vec<OsdId>,
    hellos: Vec<(OsdId, ashlar_wire::Hello)>,
    stacks: Vec<(OsdId, ashlar_wire::Stack)>,
    requests: Vec<(OsdId, IoRequest)>,
    over: Vec<(OsdId, OverRequest)>,
    layers: Vec<(OsdId, IoRequest)>,
    base_reads: Vec<(u64, BlockOp)>,
    /// Of the questions to the base that were looked at.
    keys: Vec<u64>,
    completed: Vec<(u64, Result<BlockReply, BlockError>)>,
    views_wanted: usize,
    stacks_wanted: usize,
    holds: usize,
    wake: Option<Tick>,
    fenced: bool,
}

impl Rig {
    fn new(grant: AttachGrant, limits: ClientLimits) -> Rig {
        Rig {
            now: Tick(1_000_000),
            client: VolumeClient::new(grant, limits),
            links: Vec::new(),
            hellos: Vec::new(),
            stacks: Vec::new(),
            requests: Vec::new(),
            over: Vec::new(),
            layers: Vec::new(),
            base_reads: Vec::new(),
            keys: Vec::new(),
            completed: Vec::new(),
            views_wanted: 0,
            stacks_wanted: 0,
            holds: 0,
            wake: None,
            fenced: false,
        }
    }

    /// With a view in which `osd.0` is primary of one PG, and greeted by it.
    fn connected(size: u64) -> Rig {
        let mut rig = Rig::new(grant(size), ClientLimits::default());
        rig.step(ClientEvent::View(Arc::new(view(1, 1, 1, Some(0)))));
        rig.submit(u64::MAX, BlockOp::Read { offset: 0, len: 1 });
        rig.welcome(0);
        let (_, request) = rig.requests.pop().expect("sent after the greeting");
        rig.reply(0, ok(&request));
        rig.completed.clear();
        rig
    }

    fn step(&mut self, event: ClientEvent) {
        let mut actions = Vec::new();
        self.client.step(self.now, event, &mut actions);
        for action in actions {
            match action {
                ClientAction::Link { osd, boot, address } => {
                    assert_eq!((boot, address), (boot_of(osd), format!("host:{}", osd.0)));
                    self.links.push(osd);
                }
                ClientAction::LinkSend(osd, Message::Hello(hello)) => self.hellos.push((osd, hello)),
                ClientAction::LinkSend(osd, Message::Stack(stack)) => self.stacks.push((osd, stack)),
                ClientAction::LinkSend(osd, Message::IoRequest(request)) => self.requests.push((osd, request)),
                ClientAction::LinkSend(osd, Message::OverRequest(request)) => self.over.push((osd, request)),
                ClientAction::LinkSend(osd, Message::LayersRequest(asked)) => self.layers.push((osd, asked.request)),
                ClientAction::LinkSend(_, message) => panic!("a client doesn't send {message:?}"),
                ClientAction::ReadBase { key, op } => self.base_reads.push((key, op)),
                ClientAction::Complete(tag, result) => self.completed.push((tag, result)),
                ClientAction::WantView => self.views_wanted += 1,
                ClientAction::WantStack => self.stacks_wanted += 1,
                ClientAction::Held => self.holds += 1,
                ClientAction::WakeAt(at) => self.wake = Some(at),
                ClientAction::Fenced => self.fenced = true,
            }
        }
    }

    fn submit(&mut self, tag: u64, op: BlockOp) {
        self.step(ClientEvent::Submit(BlockRequest { tag, op }));
    }

    /// Lets the link that was asked for come up and be greeted.
    fn welcome(&mut self, osd: u32) {
        let osd = OsdId(osd);
        assert_eq!(self.links.pop(), Some(osd), "a link was asked for");
        self.step(ClientEvent::LinkUp(osd));
        assert_eq!(self.hellos.last().map(|(to, _)| *to), Some(osd));
        self.hello_reply(osd, HelloStatus::Welcome);
    }

    fn hello_reply(&mut self, osd: OsdId, status: HelloStatus) {
        let reply = HelloReply { osd, boot: boot_of(osd), status };
        self.step(ClientEvent::Received(osd, Message::HelloReply(reply)));
    }

    fn reply(&mut self, osd: u32, reply: IoReply) {
        self.step(ClientEvent::Received(OsdId(osd), Message::IoReply(reply)));
    }

    /// Moves the clock to the time that the client asked for.
    fn sleep(&mut self) {
        let at = self.wake.take().expect("the client asked for the clock");
        self.now = self.now.max(at);
        self.step(ClientEvent::Timer);
    }

    fn sent(&mut self) -> Vec<IoRequest> {
        std::mem::take(&mut self.requests).into_iter().map(|(_, request)| request).collect()
    }
}

/// The answer of an OSD that did it, whose chunks are empty.
fn ok(request: &IoRequest) -> IoReply {
    let count = ashlar_types::BlockRange::covering(request.offset, request.len).expect("inside its chunk").count();
    let reads = matches!(request.kind, ashlar_wire::IoKind::Read | ashlar_wire::IoKind::Extents);
    let blocks = if reads { vec![None; usize::from(count)] } else { Vec::new() };
    IoReply { op: request.op, status: IoStatus::Ok, epoch: request.epoch, blocks, payload: bytes::Bytes::new() }
}

fn refusal(request: &IoRequest, status: IoStatus, epoch: u32) -> IoReply {
    IoReply { op: request.op, status, epoch: Epoch(epoch), blocks: Vec::new(), payload: bytes::Bytes::new() }
}
