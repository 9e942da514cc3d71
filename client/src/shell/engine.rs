//! The task of one volume: takes requests out of the queue in batches, runs the core, writes and reads its connections, keeps
//! its clock. Everything that happened since it last ran is taken in before anything is written, so that many requests
//! ride on one write. It has no opinion about the protocol.

use super::base::{BaseDisk, ReplyTo};
use super::cluster::Cluster;
use super::connection::{Connection, LinkError, Open};
use super::volume::{Shared, request_stack};
use crate::core::{ClientAction, ClientEvent, SessionProgress, VolumeClient};
use ashlar_types::control::{AttachGrant, ControlError};
use ashlar_types::view::ClusterView;
use ashlar_types::{BlockError, BlockReply, BlockRequest, Completions, OsdId, Tick};
use ashlar_wire::Message;
use ashlar_wire_control::ControlClientError;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc::WeakUnboundedSender;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

const COMMANDS_PER_BATCH: usize = 256;

pub(super) enum Command {
    Submit(BlockRequest, Arc<dyn Completions>),
    View(Arc<ClusterView>),
    Resized(u64),
    /// Holds off what reaches behind this byte; answered when nothing of it is under way. Dropped without an answer when the session ends.
    Hold {
        end: u64,
        held: oneshot::Sender<()>,
    },
    /// Of who holds off the others.
    SubmitBehind(BlockRequest, Arc<dyn Completions>),
    /// Ends the hold; the volume has this many bytes.
    Release(u64),
    /// What the volume stands on has answered.
    BaseRead {
        key: u64,
        result: Result<BlockReply, BlockError>,
    },
    /// Ends the engine when all requests are done, or at the deadline; those that aren't done then fail.
    Close {
        deadline: Instant,
        closed: oneshot::Sender<SessionProgress>,
    },
}

pub(super) struct Engine {
    core: VolumeClient,
    shared: Arc<Shared>,
    cluster: Cluster,
    base: Option<Arc<BaseDisk>>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// Leads to `commands`, for answers of the base; weak, so that the engine ends when nobody else can submit.
    own: WeakUnboundedSender<Command>,
    batch: Vec<Command>,
    waiting: Waiting,
    connections: BTreeMap<OsdId, Connection>,
    inbox: Vec<Message>,
    actions: Vec<ClientAction>,
    started: Instant,
    wake_at: Option<Tick>,
    sleep: Pin<Box<Sleep>>,
    /// Whether `sleep` is to be waited for.
    armed: bool,
    /// The question for the present stack, while it is under way.
    asked: Option<JoinHandle<Option<ClientEvent>>>,
    closing: Option<(Instant, oneshot::Sender<SessionProgress>)>,
    /// Who waits for a hold.
    holding: Option<oneshot::Sender<()>>,
    /// Nobody can submit any more.
    abandoned: bool,
}

impl Engine {
    pub(super) fn new(
        core: VolumeClient,
        shared: Arc<Shared>,
        cluster: Cluster,
        base: Option<Arc<BaseDisk>>,
        (own, commands): (WeakUnboundedSender<Command>, mpsc::UnboundedReceiver<Command>),
    ) -> Engine {
        let started = Instant::now();
        Engine {
            core,
            shared,
            cluster,
            base,
            commands,
            own,
            batch: Vec::with_capacity(COMMANDS_PER_BATCH),
            waiting: Waiting::default(),
            connections: BTreeMap::new(),
            inbox: Vec::new(),
            actions: Vec::new(),
            started,
            wake_at: None,
            sleep: Box::pin(tokio::time::sleep_until(started)),
            armed: false,
            asked: None,
            closing: None,
            holding: None,
            abandoned: false,
        }
    }

    pub(super) async fn run(mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
        self.connections.clear();
        self.refuse_the_rest();
        if let Some((_, closed)) = self.closing.take() {
            // Who asked may have gone.
            let _ = closed.send(self.core.progress());
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut busy = self.poll_commands(cx);
            busy |= self.poll_connections(cx);
            busy |= self.poll_clock(cx);
            // Behind those whose steps may ask, so that a new question is polled before the task sleeps.
            busy |= self.poll_stack(cx);
            busy |= self.flush(cx);
            if self.is_over() {
                return Poll::Ready(());
            }
            if !busy {
                return Poll::Pending;
            }
        }
    }

    fn is_over(&self) -> bool {
        match &self.closing {
            Some((deadline, _)) => self.core.is_idle() || Instant::now() >= *deadline,
            None => self.abandoned,
        }
    }

    // ---- what happens

    fn poll_commands(&mut self, cx: &mut Context<'_>) -> bool {
        let mut busy = false;
        while !self.abandoned {
            let mut batch = std::mem::take(&mut self.batch);
            match self.commands.poll_recv_many(cx, &mut batch, COMMANDS_PER_BATCH) {
                Poll::Pending => {}
                Poll::Ready(0) => self.abandoned = true,
                Poll::Ready(_) => busy = true,
            }
            let full = batch.len() == COMMANDS_PER_BATCH;
            for command in batch.drain(..) {
                self.on_command(command);
            }
            self.batch = batch;
            if !full {
                break;
            }
        }
        busy
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Submit(mut request, completions) => {
                if self.closing.is_some() {
                    return completions.complete(request.tag, Err(BlockError::ShuttingDown));
                }
                request.tag = self.waiting.put(request.tag, completions);
                self.step(ClientEvent::Submit(request));
            }
            Command::SubmitBehind(request, completions) if self.closing.is_some() => {
                completions.complete(request.tag, Err(BlockError::ShuttingDown));
            }
            Command::SubmitBehind(mut request, completions) => {
                request.tag = self.waiting.put(request.tag, completions);
                self.step(ClientEvent::SubmitBehind(request));
            }
            // Who asks hears that there is nothing to hold.
            Command::Hold { .. } if self.core.is_fenced() => {}
            Command::Hold { end, held } => {
                self.holding = Some(held);
                self.step(ClientEvent::Hold(end));
            }
            Command::Release(size) => {
                self.holding = None;
                self.step(ClientEvent::Release(size));
            }
            Command::View(view) => self.step(ClientEvent::View(view)),
            // Who told of a smaller size last was late: without a hold volumes only grow.
            Command::Resized(size) if size <= self.core.size() => {}
            Command::Resized(size) => self.step(ClientEvent::Resized(size)),
            Command::BaseRead { key, result } => self.step(ClientEvent::BaseRead { key, result }),
            Command::Close { deadline, closed } => {
                self.closing = Some((deadline, closed));
                self.arm();
            }
        }
    }

    fn poll_connections(&mut self, cx: &mut Context<'_>) -> bool {
        let mut busy = false;
        let osds: Vec<OsdId> = self.connections.keys().copied().collect();
        for osd in osds {
            let Some(connection) = self.connections.get_mut(&osd) else { continue };
            match connection {
                Connection::Dialing(dial) => match dial.as_mut().poll(cx) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(stream)) => {
                        *connection = Connection::Open(Box::new(Open::new(stream, self.cluster.id())));
                        self.step(ClientEvent::LinkUp(osd));
                        busy = true;
                    }
                    Poll::Ready(Err(error)) => {
                        self.on_link_error(osd, &error.into());
                        busy = true;
                    }
                },
                Connection::Open(open) => {
                    let mut inbox = std::mem::take(&mut self.inbox);
                    let result = open.poll_receive(cx, &mut inbox);
                    for message in inbox.drain(..) {
                        self.step(ClientEvent::Received(osd, message));
                        busy = true;
                    }
                    self.inbox = inbox;
                    if let Err(error) = result {
                        self.on_link_error(osd, &error);
                        busy = true;
                    }
                }
            }
        }
        busy
    }

    fn poll_clock(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.armed || self.sleep.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.armed = false;
        if self.wake_at.is_some_and(|at| at <= self.now()) {
            self.wake_at = None;
            self.step(ClientEvent::Timer);
        }
        self.arm();
        self.armed
    }

    fn poll_stack(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(asked) = &mut self.asked else { return false };
        let Poll::Ready(answer) = Pin::new(asked).poll(cx) else { return false };
        self.asked = None;
        // What did not come, the core asks for again.
        if let Ok(Some(event)) = answer {
            self.step(event);
        }
        true
    }

    /// In a task of its own: the metadata service may take its time, and requests to other blocks go on. One at a time.
    fn ask_for_stack(&mut self) {
        if self.asked.is_some() {
            return;
        }
        let (cluster, shared) = (self.cluster.clone(), self.shared.clone());
        self.asked = Some(tokio::spawn(async move {
            match request_stack(&cluster, &shared).await {
                Ok(grant) => grant.map(|AttachGrant { stack_revision: revision, layers, base, .. }| {
                    tracing::debug!(volume = %shared.name, %revision, layers = layers.len(), "another stack");
                    ClientEvent::Stack { revision, layers, base }
                }),
                Err(ControlClientError::Refused(ControlError::NotFound { .. })) => Some(ClientEvent::Gone),
                Err(error) => {
                    tracing::debug!(volume = %shared.name, %error, "no newer stack");
                    None
                }
            }
        }));
    }

    /// True if a connection broke, which the core has to hear of now.
    fn flush(&mut self, cx: &mut Context<'_>) -> bool {
        let mut broken = Vec::new();
        for (osd, connection) in &mut self.connections {
            if let Connection::Open(open) = connection
                && let Err(error) = open.poll_flush(cx)
            {
                broken.push((*osd, error));
            }
        }
        for (osd, error) in &broken {
            self.on_link_error(*osd, error);
        }
        !broken.is_empty()
    }

    fn on_link_error(&mut self, osd: OsdId, error: &LinkError) {
        match error {
            LinkError::Io(_) | LinkError::Closed => {
                tracing::debug!(volume = %self.shared.name, %osd, %error, "connection lost");
            }
            LinkError::Frame(_) => tracing::warn!(volume = %self.shared.name, %osd, %error, "connection closed"),
        }
        self.connections.remove(&osd);
        self.step(ClientEvent::LinkDown(osd));
    }

    // ---- the core

    fn now(&self) -> Tick {
        let elapsed = self.started.elapsed();
        // Not 0, which the core takes for "never".
        Tick(u64::try_from(elapsed.as_micros()).expect("a process doesn't live for 500,000 years") + 1)
    }

    fn step(&mut self, event: ClientEvent) {
        let now = self.now();
        let mut actions = std::mem::take(&mut self.actions);
        let is_stack = matches!(event, ClientEvent::Stack { .. });
        self.core.step(now, event, &mut actions);
        if is_stack {
            // Before anything is completed that was asked with it (X2 in core/presence.rs).
            self.shared.stack.store(self.core.stack().to_bits(), Ordering::Release);
        }
        for action in actions.drain(..) {
            self.perform(action);
        }
        self.actions = actions;
    }

    fn perform(&mut self, action: ClientAction) {
        match action {
            ClientAction::Link { osd, address, .. } => {
                tracing::debug!(volume = %self.shared.name, %osd, address, "connecting");
                self.connections.insert(osd, Connection::dial(address));
            }
            ClientAction::LinkSend(osd, message) => {
                if let Some(Connection::Open(open)) = self.connections.get_mut(&osd) {
                    open.send(&message);
                }
            }
            ClientAction::ReadBase { key, op } => match &self.base {
                Some(base) => base.submit(op, ReplyTo::Clone { key, engine: self.own.clone() }),
                None => unreachable!("who is granted a volume over a base opens the base first"),
            },
            ClientAction::Complete(key, result) => self.waiting.complete(key, result),
            ClientAction::WantView => self.cluster.want_view(),
            ClientAction::WantStack => self.ask_for_stack(),
            // Who asked may have gone.
            ClientAction::Held => _ = self.holding.take().map(|held| held.send(())),
            ClientAction::WakeAt(at) => {
                self.wake_at = Some(at);
                self.arm();
            }
            ClientAction::Fenced => {
                tracing::warn!(volume = %self.shared.name, "fenced: the attachment was taken over, or the volume deleted");
                self.shared.fenced.store(true, Ordering::Release);
                self.connections.clear();
                self.holding = None;
            }
        }
    }

    /// Sets the one timer to what comes first: what the core asked for, or the end.
    fn arm(&mut self) {
        let wake = self.wake_at.map(|at| self.started + Duration::from_micros(at.0));
        let end = self.closing.as_ref().map(|(deadline, _)| *deadline);
        if let Some(at) = wake.into_iter().chain(end).min() {
            self.sleep.as_mut().reset(at);
            self.armed = true;
        }
    }

    /// Every request gets its completion, also those that came too late.
    fn refuse_the_rest(&mut self) {
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Submit(request, completions) | Command::SubmitBehind(request, completions) = command {
                completions.complete(request.tag, Err(BlockError::ShuttingDown));
            }
        }
        self.waiting.fail_all();
    }
}

impl Drop for Engine {
    /// A runtime that is shut down drops the task wherever it is.
    fn drop(&mut self) {
        if let Some(asked) = self.asked.take() {
            asked.abort();
        }
        self.refuse_the_rest();
    }
}

/// Who waits for which request: tags of different connections may be equal, so the core gets keys of our own.
#[derive(Default)]
struct Waiting {
    entries: Vec<Option<(u64, Arc<dyn Completions>)>>,
    free: Vec<usize>,
}

impl Waiting {
    fn put(&mut self, tag: u64, completions: Arc<dyn Completions>) -> u64 {
        let entry = Some((tag, completions));
        let index = match self.free.pop() {
            Some(index) => {
                self.entries[index] = entry;
                index
            }
            None => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
        };
        index as u64
    }

    fn complete(&mut self, key: u64, result: Result<BlockReply, BlockError>) {
        let index = usize::try_from(key).expect("our own key");
        let (tag, completions) = self.entries[index].take().expect("V1: one completion for each request");
        self.free.push(index);
        completions.complete(tag, result);
    }

    fn fail_all(&mut self) {
        for (tag, completions) in self.entries.drain(..).flatten() {
            completions.complete(tag, Err(BlockError::ShuttingDown));
        }
        self.free.clear();
    }
}
