//! One attachment session as a state machine: requests of a disk in, messages to OSDs out, answers in, completions out.
//! No I/O, no clock, the same inputs give the same outputs.
//!
//! V1: each request gets exactly one completion. V2: a part keeps its number until it is answered, and an answered number is
//! never sent again (R10). V3: requests that overlap, one of them writing, take effect in the order of submission.
//! V4: a reconfiguration is never seen by the caller; it takes time, that is all. V5: behind a hold nothing is begun but by who asked for it.
//! Called by the shell's engine and by the simulator. Knows nothing of sockets, tasks or how the view is fetched.

mod base;
mod data;
mod fill;
mod hint;
mod lane;
mod layers;
mod limits;
mod link;
mod presence;
mod range_lock;
mod request;
mod router;
mod shrink;
mod stacks;
mod window;

#[cfg(test)]
mod tests;

pub(crate) use data::{is_zeroes, zeroes};
pub use fill::{FillAction, FillKind, Filler};
pub use limits::ClientLimits;
pub(crate) use presence::{Ahead, Level, Place, Presence, StackState, place};
pub use shrink::{ShrinkAction, ShrinkRefusal, Shrinker};

use ashlar_types::control::{AttachGrant, BaseLayer};
use ashlar_types::view::ClusterView;
use ashlar_types::{
    BlockError, BlockOp, BlockReply, BlockRequest, BootId, LayerId, OpNumber, OsdId, StackRevision, Tick,
};
use ashlar_wire::{Message, OverReply};
use base::{Base, Fetched};
use request::{Finished, Part, PartOutput, Requests};
use router::{Router, Verdict};
use std::sync::Arc;

/// What a session needs to know.
#[derive(Clone, Debug)]
pub enum ClientEvent {
    /// Its tag comes back in [`ClientAction::Complete`]; it needn't be unique.
    Submit(BlockRequest),
    /// A view or a difference to an earlier one; a late or repeated one does no harm. Shared by all sessions of a gateway.
    View(Arc<ClusterView>),
    /// The connection asked for by the newest [`ClientAction::Link`] stands.
    LinkUp(OsdId),
    /// It broke, or couldn't be made.
    LinkDown(OsdId),
    /// From the connection that stands; what comes from dropped ones is better left out, and does no harm.
    Received(OsdId, Message),
    /// The volume has this many bytes now.
    Resized(u64),
    /// What reaches behind this byte is refused from now on, as what is outside of the volume; [`ClientAction::Held`] says when nothing of it is under
    /// way any more. One at a time.
    Hold(u64),
    /// As `Submit`, of who has asked for the hold.
    SubmitBehind(BlockRequest),
    /// The hold ends, and the volume has this many bytes.
    Release(u64),
    /// The layers of the volume, top first, and what it stands on, as of this revision: the answer to [`ClientAction::WantStack`]. An older one does
    /// no harm. A clone that was flattened stands on nothing from this revision on; no volume begins to stand on something.
    Stack { revision: StackRevision, layers: Vec<LayerId>, base: Option<BaseLayer> },
    /// The metadata service knows the session no more: another answer to [`ClientAction::WantStack`]. Who waits for a stack sends nothing, so no
    /// OSD would tell it.
    Gone,
    /// The answer to [`ClientAction::ReadBase`].
    BaseRead { key: u64, result: Result<BlockReply, BlockError> },
    /// The time of the newest [`ClientAction::WakeAt`] has come. An early or spurious one does no harm.
    Timer,
}

/// What a session wants done, in order for each OSD.
#[derive(Clone, Debug)]
pub enum ClientAction {
    /// Open a connection, dropping the one that stands; answered by `LinkUp` or `LinkDown`.
    Link { osd: OsdId, boot: BootId, address: String },
    /// Over the connection that stands; lost if it is broken, `LinkDown` tells.
    LinkSend(OsdId, Message),
    /// Read that of the disk that the volume stands on ([`AttachGrant::base`]); answered by [`ClientEvent::BaseRead`] with the same key.
    ReadBase { key: u64, op: BlockOp },
    /// The answer to the request with this tag.
    Complete(u64, Result<BlockReply, BlockError>),
    /// The view seems stale: fetch what is newer now. An answer without news needn't be handed in.
    WantView,
    /// Nobody's request reaches behind what [`ClientEvent::Hold`] has said.
    Held,
    /// The volume has another stack than this session knows: ask for the grant again, and hand in what it says. Said again after a while.
    WantStack,
    /// One timer, replaced by each of these.
    WakeAt(Tick),
    /// The session is over for good; all requests have failed and will fail. Drop its connections.
    Fenced,
}

/// How far the numbers of a session have got. Who gives up a client and makes another for the same session in the same
/// process hands it on, since no number may be used twice (R10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionProgress {
    next_number: u64,
    next_connection: u64,
}

impl Default for SessionProgress {
    fn default() -> SessionProgress {
        SessionProgress { next_number: 1, next_connection: 1 }
    }
}

/// The client side of one attachment session.
#[derive(Debug)]
pub struct VolumeClient {
    requests: Requests,
    router: Router,
    base: Base,
    fenced: bool,
    /// A hold was asked for, and not yet said to be there.
    awaits_hold: bool,
}

impl VolumeClient {
    /// For a session that was never used.
    ///
    /// # Panics
    /// If the grant names no layer.
    pub fn new(grant: AttachGrant, limits: ClientLimits) -> VolumeClient {
        VolumeClient::resume(grant, limits, SessionProgress::default())
    }

    /// For a session of which an earlier client of this process gives its progress.
    ///
    /// # Panics
    /// If the grant names no layer.
    pub fn resume(grant: AttachGrant, limits: ClientLimits, progress: SessionProgress) -> VolumeClient {
        let requests = Requests::new(grant.size, grant.read_only, grant.base.is_some(), &limits);
        let base = Base::new(grant.base);
        VolumeClient { requests, base, router: Router::new(grant, limits, progress), fenced: false, awaits_hold: false }
    }

    pub fn progress(&self) -> SessionProgress {
        self.router.progress()
    }

    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Whether every request has its completion.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// Requests without completion.
    pub fn pending(&self) -> usize {
        self.requests.len()
    }

    /// The parts that have a number and no answer (R10), lowest first.
    pub fn unanswered(&self) -> impl Iterator<Item = OpNumber> {
        self.router.window().iter().map(|(number, _)| number)
    }

    /// The newest stack that it knows.
    pub(crate) fn stack(&self) -> StackState {
        self.router.stack()
    }

    /// Bytes of the volume.
    pub fn size(&self) -> u64 {
        self.requests.size()
    }

    /// The only way in.
    pub fn step(&mut self, now: Tick, event: ClientEvent, actions: &mut Vec<ClientAction>) {
        match event {
            ClientEvent::Submit(request) => self.on_submit(request, false, actions),
            ClientEvent::SubmitBehind(request) => self.on_submit(request, true, actions),
            _ if self.fenced => {}
            ClientEvent::View(view) => self.router.on_view(now, &view, actions),
            ClientEvent::LinkUp(osd) => self.router.on_link_up(now, osd, actions),
            ClientEvent::LinkDown(osd) => self.router.on_link_down(now, osd, actions),
            ClientEvent::Received(osd, message) => self.on_received(now, osd, message, actions),
            ClientEvent::Resized(size) => self.requests.resize(size),
            ClientEvent::Hold(end) => {
                self.requests.hold(Some(end));
                self.awaits_hold = true;
            }
            ClientEvent::Release(size) => {
                self.requests.hold(None);
                self.requests.resize(size);
                self.awaits_hold = false;
            }
            ClientEvent::Stack { revision, layers, base } => {
                self.router.on_stack(now, revision, layers, base, actions);
                self.requests.set_has_base(self.router.has_base());
            }
            ClientEvent::Gone => self.on_fenced(actions),
            ClientEvent::BaseRead { key, result } => {
                let fetched = self.base.on_answer(key, result, actions);
                self.on_fetched(now, fetched, actions);
            }
            ClientEvent::Timer => self.router.on_timer(now, actions),
        }
        if self.awaits_hold && self.requests.is_held() {
            self.awaits_hold = false;
            actions.push(ClientAction::Held);
        }
        if !self.fenced {
            self.send_ready(now, actions);
            self.router.arm(actions);
            self.router.assert_invariants();
        }
    }

    fn on_submit(&mut self, request: BlockRequest, is_behind: bool, actions: &mut Vec<ClientAction>) {
        if self.fenced {
            actions.push(ClientAction::Complete(request.tag, Err(BlockError::Fenced)));
        } else if let Some(refused) = self.requests.submit(request, is_behind) {
            complete(refused, actions);
        }
    }

    fn on_received(&mut self, now: Tick, from: OsdId, message: Message, actions: &mut Vec<ClientAction>) {
        let verdict = match message {
            Message::IoReply(reply) => self.router.on_io_reply(now, from, reply, &[], actions),
            Message::OverReply(OverReply { reply, unwritten }) => {
                self.router.on_io_reply(now, from, reply, &unwritten, actions)
            }
            Message::LayersReply(reply) => self.router.on_layers_reply(now, from, &reply, actions),
            Message::HelloReply(reply) => {
                self.router.on_hello_reply(now, from, &reply, actions);
                None
            }
            // Nothing else is for a client.
            _ => None,
        };
        self.on_verdict(now, verdict, actions);
    }

    fn on_verdict(&mut self, now: Tick, verdict: Option<Verdict>, actions: &mut Vec<ClientAction>) {
        match verdict {
            None => {}
            Some(Verdict::Fenced) => self.on_fenced(actions),
            Some(Verdict::Settled(mut part, result)) => {
                self.base.on_own(&mut part, result.is_ok());
                self.settle(&part, result, actions);
            }
            Some(Verdict::Open(part, stretches)) => {
                let fetched = self.base.complete(part, stretches, actions);
                self.on_fetched(now, fetched, actions);
            }
            Some(Verdict::NeedsBase(number)) => {
                let part = self.router.window().get(number).expect("R10: it keeps its number");
                let fetched = self.base.fetch(number, part, actions);
                self.on_fetched(now, fetched, actions);
            }
        }
    }

    fn on_fetched(&mut self, now: Tick, fetched: Option<Fetched>, actions: &mut Vec<ClientAction>) {
        let verdict = match fetched {
            None => None,
            Some(Fetched::Read(part, Err(BlockError::Fenced))) => self.router.ask_anew(part),
            Some(Fetched::Read(part, result)) => return self.settle(&part, result, actions),
            Some(Fetched::Write(number, blocks)) => self.router.resend(now, number, blocks, actions),
        };
        if verdict.is_some() {
            self.on_verdict(now, verdict, actions);
        }
    }

    fn settle(&mut self, part: &Part, result: Result<PartOutput, BlockError>, actions: &mut Vec<ClientAction>) {
        if let Some(finished) = self.requests.settle(part, result, self.router.placement()) {
            complete(finished, actions);
        }
    }

    fn on_fenced(&mut self, actions: &mut Vec<ClientAction>) {
        self.fenced = true;
        // What was under way is over now because nobody is served any more.
        self.awaits_hold = false;
        self.base.clear();
        for finished in self.requests.fail_all(&BlockError::Fenced) {
            complete(finished, actions);
        }
        actions.push(ClientAction::Fenced);
    }

    fn send_ready(&mut self, now: Tick, actions: &mut Vec<ClientAction>) {
        if !self.router.knows_pool() && self.requests.has_ready() {
            self.router.want_view(now, actions);
        }
        while self.router.has_room() {
            let part = self.router.next_restart().or_else(|| self.requests.next_part(self.router.placement()));
            let Some(mut part) = part else { return };
            if self.router.has_base() {
                self.base.guess(&mut part, actions);
            }
            self.router.take(now, part, actions);
        }
    }
}

fn complete(finished: Finished, actions: &mut Vec<ClientAction>) {
    actions.push(ClientAction::Complete(finished.tag, finished.result));
}
