//! What clones stand on, as their gateways read it: a session of the volume library for each base of each client. In a gateway it is a part of the
//! client's process; here a process of its own, that ends with it.

use super::{Input, Process, Purpose, World};
use crate::net::{NetEvent, ProcId};
use ashlar_client::core::{ClientAction, ClientEvent, ClientLimits, VolumeClient};
use ashlar_types::control::{AttachGrant, BaseLayer, ControlError, ControlReply, ControlRequest};
use ashlar_types::{BlockOp, BlockRequest, SessionId};
use std::sync::Arc;

#[derive(Debug)]
pub struct BaseProcess {
    pub process: Process,
    /// Who reads it: a client, or a base that stands on it.
    reader: ProcId,
    layer: BaseLayer,
    /// `None` while its grant is asked for.
    session: Option<Box<VolumeClient>>,
    /// Asked before the session was there.
    waiting: Vec<(u64, BlockOp)>,
    /// What it stands on itself.
    below: Option<u32>,
}

impl World {
    /// A client, or a base, was granted something that stands on a base.
    pub(super) fn begin_base(&mut self, reader: ProcId, layer: BaseLayer) -> u32 {
        let id = u32::try_from(self.bases.len()).expect("few") + 1;
        let mut process = Process::new(self.new_clock());
        process.begin();
        let (session, waiting, below) = (None, Vec::new(), None);
        self.bases.insert(id, BaseProcess { process, reader, layer, session, waiting, below });
        self.open_base(id);
        id
    }

    /// Its reader is gone.
    pub(super) fn end_base(&mut self, id: u32) {
        let Some(base) = self.bases.get_mut(&id).filter(|b| b.process.is_up) else { return };
        base.process.end();
        base.session = None;
        let below = base.below.take();
        self.net.on_process_end(self.now, ProcId::Base(id), false);
        below.into_iter().for_each(|below| self.end_base(below));
    }

    fn open_base(&mut self, id: u32) {
        let BaseLayer { volume, layer, .. } = self.bases[&id].layer;
        self.call(ProcId::Base(id), Purpose::Shell, ControlRequest::BaseGrant { volume, layer });
    }

    pub(super) fn read_base(&mut self, id: u32, key: u64, op: BlockOp) {
        let Some(base) = self.bases.get_mut(&id) else { return };
        if base.session.is_none() {
            base.waiting.push((key, op));
            return;
        }
        self.step_base(id, ClientEvent::Submit(BlockRequest { tag: key, op }));
    }

    pub(super) fn on_base_input(&mut self, id: u32, input: Input) {
        match input {
            Input::Net(NetEvent::LinkUp(osd)) => self.step_base(id, ClientEvent::LinkUp(osd)),
            Input::Net(NetEvent::LinkDown(osd)) => self.step_base(id, ClientEvent::LinkDown(osd)),
            Input::Net(NetEvent::LinkReceived(osd, message)) => {
                self.step_base(id, ClientEvent::Received(osd, message));
            }
            Input::Wake(_) => self.step_base(id, ClientEvent::Timer),
            Input::Answer { call, result } => {
                if let Some((purpose, _, result)) = self.on_answer(ProcId::Base(id), call, *result) {
                    self.on_base_answer(id, purpose, result);
                }
            }
            Input::CallTimeout(of) => self.on_call_timeout(ProcId::Base(id), of),
            Input::CallAgain(of) => self.on_call_again(ProcId::Base(id), of),
            Input::WatchAgain if self.bases[&id].session.is_none() => self.open_base(id),
            Input::WatchAgain => self.watch(ProcId::Base(id)),
            _ => {}
        }
    }

    fn on_base_answer(&mut self, id: u32, purpose: Purpose, result: Result<ControlReply, ControlError>) {
        let base = self.bases.get_mut(&id).expect("inputs are for processes that exist");
        match (purpose, result) {
            (Purpose::Watch, Ok(ControlReply::View(view))) if view.revision > base.process.revision => {
                base.process.revision = view.revision;
                self.step_base(id, ClientEvent::View(Arc::from(view)));
            }
            (Purpose::Shell, Ok(ControlReply::Opened(grant))) if base.session.is_some() => {
                let (revision, layers, base) = (grant.stack_revision, grant.layers, grant.base);
                self.step_base(id, ClientEvent::Stack { revision, layers, base });
            }
            (Purpose::Shell, Err(ControlError::NotFound { .. })) if base.session.is_some() => {
                self.step_base(id, ClientEvent::Gone);
            }
            (Purpose::Shell, Ok(ControlReply::Opened(grant))) => {
                let session = SessionId::drawn(self.rng.next_u64());
                self.trace(|| format!("base {id} opened {grant:?} as {session}"));
                let below = grant.base.map(|layer| self.begin_base(ProcId::Base(id), layer));
                let client = VolumeClient::new(AttachGrant { session, ..grant }, ClientLimits::default());
                let base = self.bases.get_mut(&id).expect("it was just there");
                base.below = below;
                base.session = Some(Box::new(client));
                let waiting = std::mem::take(&mut base.waiting);
                self.watch(ProcId::Base(id));
                for (key, op) in waiting {
                    self.read_base(id, key, op);
                }
            }
            // Busy; or, of the present stack, gone meanwhile: the clone is being deleted. Asked again where it matters.
            (Purpose::Shell, Err(error)) if base.session.is_none() => {
                self.trace(|| format!("base {id} is not granted: {error}"));
                let at = self.now + self.rng.between(5, 30) * crate::clock::MS;
                self.put(at, ProcId::Base(id), Input::WatchAgain);
            }
            _ => {}
        }
    }

    fn step_base(&mut self, id: u32, event: ClientEvent) {
        let now = self.tick_of(ProcId::Base(id));
        let Some(session) = self.bases.get_mut(&id).and_then(|b| b.session.as_mut()) else { return };
        let mut actions = Vec::new();
        session.step(now, event, &mut actions);
        for action in actions {
            self.on_base_action(id, action);
        }
    }

    fn on_base_action(&mut self, id: u32, action: ClientAction) {
        let me = ProcId::Base(id);
        match action {
            ClientAction::Link { osd, .. } => self.net.open(self.now, me, osd),
            ClientAction::LinkSend(osd, message) => {
                self.trace(|| format!("base {id} -> {osd} {}", super::trace::brief(&message)));
                self.net.send_on_link(self.now, me, osd, &message);
            }
            ClientAction::Complete(key, result) => {
                let event = ClientEvent::BaseRead { key, result };
                match self.bases[&id].reader {
                    ProcId::Client(client) => self.step_client(client, event),
                    ProcId::Base(reader) => self.step_base(reader, event),
                    ProcId::Worker(worker) => self.step_worker(worker, event),
                    _ => unreachable!("clients, workers and bases read bases"),
                }
            }
            ClientAction::ReadBase { key, op } => {
                let below = self.bases[&id].below.expect("its grant named it");
                self.read_base(below, key, op);
            }
            ClientAction::Held => {}
            ClientAction::WantView => self.watch(me),
            ClientAction::WantStack => self.open_base(id),
            ClientAction::WakeAt(tick) => self.wake_at(me, tick),
            ClientAction::Fenced => self.trace(|| format!("base {id} is closed")),
        }
    }
}
