//! Gateway processes, one attachment each: the volume library's core, a workload on it, and the history of both.

use super::{Happening, Input, Phase, Process, Purpose, World};
use crate::aim::Aim;
use crate::check::{ClientNumber, OpKind, OpRef, SnapshotRef};
use crate::clock::{Instant, MS};
use crate::net::{NetEvent, ProcId};
use crate::run::Reason;
use crate::workload::{Request, Workload};
use ashlar_client::core::{ClientAction, ClientEvent, ClientLimits, VolumeClient};
use ashlar_types::control::{ControlError, ControlReply, ControlRequest};
use ashlar_types::{
    AttachmentId, BlockError, BlockOp, BlockReply, BlockRequest, BootId, DiskName, Name, PoolId, SECTOR_BYTES,
    SessionId,
};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug)]
pub enum ClientState {
    Down,
    /// It asks for its attachment.
    Opening,
    Running(Box<VolumeClient>),
    /// It was fenced, or has no attachment any more.
    Over,
}

#[derive(Debug)]
pub struct ClientProcess {
    pub process: Process,
    pub gateway: String,
    pub volume: u32,
    /// Of which it reads a snapshot, instead of the volume.
    pub snapshot: Option<(Name, SnapshotRef)>,
    /// What it reads and writes, for the checker: its volume, or what it alone has of a non-persistent one (modes.rs).
    pub register: u32,
    /// What that is at first.
    pub(super) falls_back_to: Option<SnapshotRef>,
    /// What the operator was given for it.
    pub(super) attachment: Option<AttachmentId>,
    pub state: ClientState,
    boot: BootId,
    session: SessionId,
    /// Of its present session.
    pub number: ClientNumber,
    pub in_flight: BTreeMap<u64, OpRef>,
    workload: Workload,
    is_submit_coming: bool,
    /// What it still has to read in the end, as blocks.
    pub last_reads: Vec<u64>,
    /// What it still has to discard so that others have room, as blocks.
    pub discards: Vec<u64>,
    /// What its volume stands on, if that is a clone.
    base: Option<u32>,
    /// Of its volume, once it is known: pool and placement key.
    pub placement: Option<(PoolId, u64)>,
}

impl ClientProcess {
    fn disk_name(&self) -> DiskName {
        DiskName { volume: volume_name(self.volume), snapshot: self.snapshot.as_ref().map(|(name, _)| name.clone()) }
    }

    pub fn is_running(&self) -> bool {
        matches!(self.state, ClientState::Running(_))
    }
}

pub fn volume_name(volume: u32) -> Name {
    Name::new(&format!("volume-{volume}")).expect("a good name")
}

impl World {
    /// A gateway that was given an attachment; it starts to serve it.
    pub(super) fn add_client(
        &mut self,
        gateway: String,
        volume: u32,
        snapshot: Option<(Name, SnapshotRef)>,
        attachment: Option<AttachmentId>,
    ) -> u32 {
        let id = u32::try_from(self.clients.len()).expect("few") + 1;
        let process = Process::new(self.new_clock());
        let workload = Workload::new(self.rng.fork(u64::from(id)), self.workload.clone());
        let (register, falls_back_to) = if snapshot.is_some() { (volume, None) } else { self.new_register(volume) };
        let client = ClientProcess {
            process,
            gateway,
            volume,
            snapshot,
            register,
            falls_back_to,
            attachment,
            state: ClientState::Down,
            boot: BootId(0),
            session: SessionId(0),
            number: ClientNumber(0),
            in_flight: BTreeMap::new(),
            workload,
            is_submit_coming: false,
            last_reads: Vec::new(),
            discards: Vec::new(),
            base: None,
            placement: None,
        };
        self.clients.insert(id, client);
        self.queue.put(self.now, Happening::StartClient(id));
        id
    }

    pub(super) fn start_client(&mut self, id: u32) {
        let boot = BootId(self.rng.next_u64() | 1);
        let number = self.next_client_number();
        let Some(client) = self.clients.get_mut(&id).filter(|c| !c.process.is_up) else { return };
        client.process.begin();
        client.boot = boot;
        client.number = number;
        client.state = ClientState::Opening;
        client.is_submit_coming = false;
        let (gateway, volume) = (client.gateway.clone(), client.volume);
        self.trace(|| format!("client {id} starts: {gateway} for volume {volume}"));
        self.open_attachment(id);
    }

    fn open_attachment(&mut self, id: u32) {
        let client = &self.clients[&id];
        let request = ControlRequest::OpenAttachment {
            name: client.disk_name(),
            gateway: client.gateway.clone(),
            boot: client.boot,
        };
        self.call(ProcId::Client(id), Purpose::Shell, request);
    }

    pub fn crash_client(&mut self, id: u32) {
        let Some(client) = self.clients.get_mut(&id).filter(|c| c.process.is_up) else { return };
        client.process.end();
        client.state = ClientState::Down;
        client.in_flight.clear();
        let base = client.base.take();
        base.into_iter().for_each(|base| self.end_base(base));
        self.stats.crashes += 1;
        self.trace(|| format!("client {id} crashes"));
        self.net.on_process_end(self.now, ProcId::Client(id), false);
    }

    pub fn restart_client_in(&mut self, id: u32, span: Instant) {
        self.queue.put(self.now + span, Happening::StartClient(id));
    }

    pub(super) fn on_client_input(&mut self, id: u32, input: Input) {
        match input {
            Input::Net(event) => self.on_client_net(id, event),
            Input::Wake(_) => self.step_client(id, ClientEvent::Timer),
            Input::Answer { call, result } => {
                if let Some((purpose, _, result)) = self.on_answer(ProcId::Client(id), call, *result) {
                    self.on_client_answer(id, purpose, result);
                }
            }
            Input::CallTimeout(of) => self.on_call_timeout(ProcId::Client(id), of),
            Input::CallAgain(of) => self.on_call_again(ProcId::Client(id), of),
            Input::WatchAgain => match self.clients[&id].state {
                ClientState::Opening => self.open_attachment(id),
                ClientState::Running(_) => self.watch(ProcId::Client(id)),
                ClientState::Down | ClientState::Over => {}
            },
            Input::Submit => self.on_submit(id),
            _ => {}
        }
    }

    fn on_client_net(&mut self, id: u32, event: NetEvent) {
        let event = match event {
            NetEvent::LinkUp(osd) => ClientEvent::LinkUp(osd),
            NetEvent::LinkDown(osd) => ClientEvent::LinkDown(osd),
            NetEvent::LinkReceived(osd, message) => {
                self.trace(|| format!("client {id} <- {osd} {}", super::trace::brief(&message)));
                ClientEvent::Received(osd, message)
            }
            NetEvent::Received(..) | NetEvent::Closed(_) => return,
        };
        self.step_client(id, event);
    }

    fn on_client_answer(&mut self, id: u32, purpose: Purpose, result: Result<ControlReply, ControlError>) {
        let aim = self.aim();
        let client = self.clients.get_mut(&id).expect("inputs are for processes that exist");
        match (purpose, result) {
            (Purpose::Watch, Ok(ControlReply::View(view))) => {
                if view.revision > client.process.revision {
                    client.process.revision = view.revision;
                    self.step_client(id, ClientEvent::View(Arc::from(view)));
                }
            }
            (Purpose::Shell, Ok(ControlReply::Opened(grant))) => {
                if client.is_running() && client.session == grant.session {
                    let (revision, layers, base) = (grant.stack_revision, grant.layers, grant.base);
                    return self.step_client(id, ClientEvent::Stack { revision, layers, base });
                }
                if !matches!(client.state, ClientState::Opening) {
                    return;
                }
                let (volume, gateway) = (client.volume, client.gateway.clone());
                if client.attachment.is_some_and(|known| known != grant.attachment) && aim == Some(Aim::DiskModes) {
                    client.state = ClientState::Over;
                    return self.trace(|| format!("client {id} was attached again by a late copy of a request"));
                }
                client.falls_back_to.into_iter().for_each(|base| self.history.end_snapshot(base));
                self.trace(|| format!("client {id} opened {grant:?}"));
                self.fence_others(id, volume, &gateway);
                let client = self.clients.get_mut(&id).expect("it was just there");
                client.placement = Some((grant.pool, grant.placement_key));
                client.session = grant.session;
                let base = grant.base.map(|layer| self.begin_base(ProcId::Client(id), layer));
                let client = self.clients.get_mut(&id).expect("it was just there");
                client.base = base;
                let session = VolumeClient::new(grant, ClientLimits::default());
                client.state = ClientState::Running(Box::new(session));
                self.watch(ProcId::Client(id));
                self.submit_in(id, 0);
            }
            (Purpose::Shell, Err(ControlError::NotFound { .. })) if client.is_running() => {
                self.trace(|| format!("client {id} has no attachment any more"));
                self.step_client(id, ClientEvent::Gone);
            }
            // It asked for the stack, and asks again.
            (Purpose::Shell, Err(_)) if client.is_running() => {}
            (Purpose::Shell, Err(ControlError::Fencing { .. } | ControlError::Busy)) => {
                let at = self.now + self.rng.between(5, 30) * MS;
                self.put(at, ProcId::Client(id), Input::WatchAgain);
            }
            (Purpose::Shell, Err(error)) => {
                self.trace(|| format!("client {id} has no attachment: {error}"));
                self.clients.get_mut(&id).expect("it was just there").state = ClientState::Over;
            }
            (Purpose::Shell, Ok(other)) => self.fail(Reason::Setup(format!("client {id} was answered {other:?}"))),
            (Purpose::Watch | Purpose::Core(_) | Purpose::Heartbeat, _) => {}
        }
    }

    /// C2: an attachment is active: who had it before, in an earlier life or at another gateway, is fenced.
    fn fence_others(&mut self, id: u32, volume: u32, gateway: &str) {
        if self.clients[&id].snapshot.is_some() {
            return;
        }
        let is_shared = self.shape.sharers > 1;
        let own = self.clients[&id].number;
        let others = self.operator.sessions.iter();
        let fenced: Vec<ClientNumber> = others
            .filter(|(number, v, g)| *v == volume && *number != own && (!is_shared || g == gateway))
            .map(|(number, ..)| *number)
            .collect();
        fenced.into_iter().for_each(|number| self.history.fence(number));
        self.operator.sessions.push((own, volume, gateway.to_owned()));
    }

    pub(super) fn submit_in(&mut self, id: u32, span: Instant) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if !std::mem::replace(&mut client.is_submit_coming, true) {
            self.put(self.now + span, ProcId::Client(id), Input::Submit);
        }
    }

    fn on_submit(&mut self, id: u32) {
        let phase = self.phase;
        let client = self.clients.get_mut(&id).expect("inputs are for processes that exist");
        client.is_submit_coming = false;
        if !client.is_running() {
            return;
        }
        let request = match phase {
            Phase::Load if client.in_flight.len() < client.workload.in_flight_max() => client.workload.next_request(),
            Phase::Heal => {
                let Some(block) = client.discards.pop() else { return };
                Request { kind: OpKind::Zero, first_sector: block * 8, sectors: 8 }
            }
            Phase::LastReads => {
                let Some(block) = client.last_reads.pop() else { return };
                Request { kind: OpKind::Read, first_sector: block * 8, sectors: 8 }
            }
            _ => return,
        };
        let pause = if phase == Phase::Load { client.workload.next_pause() } else { 100 };
        self.submit(id, request);
        self.submit_in(id, pause);
    }

    fn submit(&mut self, id: u32, request: Request) {
        let client = self.clients.get_mut(&id).expect("the caller looked it up");
        let Request { mut kind, first_sector, sectors } = request;
        let op = match &client.snapshot {
            None => self.history.invoke(client.number, kind, client.register, first_sector, sectors),
            Some((_, of)) => {
                kind = OpKind::Read;
                self.history.invoke_snapshot_read(client.number, *of, first_sector, sectors)
            }
        };
        client.in_flight.insert(op.0, op);
        self.stats.requests += 1;
        let (offset, len) = (first_sector * u64::from(SECTOR_BYTES), sectors * u64::from(SECTOR_BYTES));
        let block_op = match kind {
            OpKind::Read => BlockOp::Read { offset, len: u32::try_from(len).expect("small") },
            OpKind::Write => BlockOp::Write { offset, data: Bytes::from(self.history.payload(op)) },
            OpKind::Zero if op.0.is_multiple_of(2) => BlockOp::Discard { offset, len },
            OpKind::Zero => BlockOp::WriteZeroes { offset, len, keep_allocated: false },
        };
        self.trace(|| format!("client {id} asks: operation {} {kind:?} sectors {first_sector}+{sectors}", op.0));
        self.step_client(id, ClientEvent::Submit(BlockRequest { tag: op.0, op: block_op }));
    }

    pub(super) fn step_client(&mut self, id: u32, event: ClientEvent) {
        let now = self.tick_of(ProcId::Client(id));
        let Some(client) = self.clients.get_mut(&id) else { return };
        let ClientState::Running(session) = &mut client.state else { return };
        let mut actions = Vec::new();
        session.step(now, event, &mut actions);
        for action in actions {
            self.on_client_action(id, action);
        }
    }

    fn on_client_action(&mut self, id: u32, action: ClientAction) {
        let me = ProcId::Client(id);
        match action {
            ClientAction::Link { osd, .. } => self.net.open(self.now, me, osd),
            ClientAction::LinkSend(osd, message) => {
                self.trace(|| format!("client {id} -> {osd} {}", super::trace::brief(&message)));
                self.net.send_on_link(self.now, me, osd, &message);
            }
            ClientAction::Complete(tag, result) => self.on_complete(id, tag, result),
            // The watch asks often enough; asking at once only makes it more lively.
            ClientAction::WantView => {
                if self.rng.permille(500) {
                    self.watch(me);
                }
            }
            ClientAction::WantStack => {
                let client = &self.clients[&id];
                let request = ControlRequest::SessionGrant { name: client.disk_name(), session: client.session };
                self.call(me, Purpose::Shell, request);
            }
            ClientAction::Held => {}
            ClientAction::ReadBase { key, op } => {
                let base = self.clients[&id].base.expect("its grant named it");
                self.read_base(base, key, op);
            }
            ClientAction::WakeAt(tick) => self.wake_at(me, tick),
            ClientAction::Fenced => {
                self.trace(|| format!("client {id} is fenced"));
                self.net.on_process_end(self.now, me, false);
                let client = self.clients.get_mut(&id).expect("it has just acted");
                client.state = ClientState::Over;
                let base = client.base.take();
                base.into_iter().for_each(|base| self.end_base(base));
            }
        }
    }

    fn on_complete(&mut self, id: u32, tag: u64, result: Result<BlockReply, BlockError>) {
        let client = self.clients.get_mut(&id).expect("it has just acted");
        let Some(op) = client.in_flight.remove(&tag) else {
            return self.fail(Reason::Answers(format!("client {id} completed operation {tag} twice")));
        };
        self.stats.answered += 1;
        let pause = client.workload.next_pause();
        self.submit_in(id, pause);
        match result {
            Ok(BlockReply::Data(pieces)) => {
                let mut bytes = BytesMut::new();
                pieces.iter().for_each(|p| bytes.extend_from_slice(p));
                self.trace(|| format!("client {id}: operation {tag} read {:?}", values(&bytes)));
                self.history.answer_read(op, &bytes);
            }
            Ok(_) => {
                self.trace(|| format!("client {id}: operation {tag} done"));
                self.history.answer(op);
            }
            Err(error) => {
                self.trace(|| format!("client {id}: operation {tag} failed: {error}"));
                self.on_refused(id, tag, &error);
            }
        }
    }

    fn on_refused(&mut self, id: u32, tag: u64, error: &BlockError) {
        let is_expected = match error {
            BlockError::Fenced => true,
            BlockError::NoSpace => {
                let is_lazy = self.clients.get(&id).is_some_and(|client| self.is_lazy(client.volume));
                self.aim() == Some(Aim::FullDisk) && !is_lazy
            }
            _ => false,
        };
        if !is_expected {
            self.fail(Reason::Answers(format!("client {id}: operation {tag} failed: {error}")));
        }
    }
}

/// The first word of each sector: the operation that wrote it.
fn values(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks_exact(SECTOR_BYTES as usize)
        .map(|s| u64::from_le_bytes(s[..8].try_into().expect("eight bytes")))
        .collect()
}
