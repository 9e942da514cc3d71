//! The thread that owns the node and its disk. Everybody else talks to it by messages.
//! All events that wait are stepped through before the disk is written, so one flush serves them all.

use crate::MdsError;
use crate::store::Store;
use crate::transport::Outgoing;
use ashlar_mds_core::node::{MetadataNode, NodeAction, NodeEvent, Persist};
use ashlar_types::control::{ControlError, ControlReply, ControlRequest};
use ashlar_types::view::ClusterView;
use ashlar_types::{Duration, MdsId, Revision, Tick};
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{oneshot, watch};

/// Messages that wait for the thread.
const INPUTS_MAX: usize = 8192;
/// Events stepped through before the disk is written.
const BATCH_MAX: usize = 256;
const CLOCK_PERIOD: Duration = Duration::from_millis(1000);

type Answer = Result<ControlReply, ControlError>;

pub(crate) enum Input {
    Event(NodeEvent),
    Request { request: ControlRequest, answer: oneshot::Sender<Answer> },
    View { since: Revision, answer: oneshot::Sender<ClusterView> },
    Stop,
}

/// What the node tells everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) view_revision: Revision,
    pub(crate) is_leader: bool,
    pub(crate) leader: Option<MdsId>,
}

#[derive(Clone, Debug)]
pub(crate) struct NodeHandle {
    inputs: SyncSender<Input>,
    published: watch::Receiver<Published>,
}

impl NodeHandle {
    pub(crate) async fn request(&self, request: ControlRequest) -> Answer {
        let (answer, answered) = oneshot::channel();
        match self.inputs.try_send(Input::Request { request, answer }) {
            Ok(()) => answered.await.unwrap_or(Err(ControlError::Undecided)),
            Err(TrySendError::Full(_)) => Err(ControlError::Busy),
            Err(TrySendError::Disconnected(_)) => Err(ControlError::NotLeader { leader: None }),
        }
    }

    /// `None` when the node has stopped, or has too much to do.
    pub(crate) async fn view_since(&self, since: Revision) -> Option<ClusterView> {
        let (answer, answered) = oneshot::channel();
        self.inputs.try_send(Input::View { since, answer }).ok()?;
        answered.await.ok()
    }

    /// Events that may be lost are, where too many wait.
    pub(crate) fn event(&self, event: NodeEvent) {
        let _ = self.inputs.try_send(Input::Event(event));
    }

    pub(crate) fn published(&self) -> watch::Receiver<Published> {
        self.published.clone()
    }

    pub(crate) fn stop(&self) {
        // Where the queue is full the thread is behind, not gone: it takes this as soon as it has room.
        let inputs = self.inputs.clone();
        std::thread::spawn(move || inputs.send(Input::Stop));
    }
}

/// Starts the thread. The receiver hears its end.
pub(crate) fn start(
    node: MetadataNode,
    store: Store,
    raft_out: Outgoing,
) -> std::io::Result<(NodeHandle, oneshot::Receiver<Result<(), MdsError>>)> {
    let (inputs, receiver) = sync_channel(INPUTS_MAX);
    let first = Published { view_revision: node.state().view_revision(), is_leader: false, leader: None };
    let (publish, published) = watch::channel(first);
    let (ended, done) = oneshot::channel();
    let thread = NodeThread {
        node,
        store,
        raft_out,
        publish,
        answers: HashMap::new(),
        last_request: 0,
        timer: now(),
        clock_told: None,
        unsynced: Vec::new(),
        failed: None,
    };
    std::thread::Builder::new().name("mds-node".into()).spawn(move || {
        let result = thread.run(&receiver);
        // Closed before its end is told, so that whoever hears of it can open the folder.
        drop(receiver);
        let _ = ended.send(result);
    })?;
    Ok((NodeHandle { inputs, published }, done))
}

struct NodeThread {
    node: MetadataNode,
    store: Store,
    raft_out: Outgoing,
    publish: watch::Sender<Published>,
    /// By the id given to the node; never iterated.
    answers: HashMap<u64, oneshot::Sender<Answer>>,
    last_request: u64,
    timer: Tick,
    /// When the node was told the wall clock's time last.
    clock_told: Option<Tick>,
    unsynced: Vec<Persist>,
    failed: Option<MdsError>,
}

impl NodeThread {
    fn run(mut self, inputs: &Receiver<Input>) -> Result<(), MdsError> {
        self.step(NodeEvent::Timer);
        loop {
            self.tell_time();
            self.sync()?;
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            self.tell();
            let wait = std::time::Duration::from_micros((self.timer - now()).as_micros());
            match inputs.recv_timeout(wait) {
                Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Ok(input) => self.take(input),
                Err(RecvTimeoutError::Timeout) => self.step(NodeEvent::Timer),
            }
            for input in inputs.try_iter().take(BATCH_MAX) {
                if matches!(input, Input::Stop) {
                    return Ok(());
                }
                self.take(input);
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Event(event) => self.step(event),
            Input::Request { request, answer } => {
                self.last_request += 1;
                self.answers.insert(self.last_request, answer);
                self.step(NodeEvent::Request { id: self.last_request, request });
            }
            Input::View { since, answer } => {
                // Nobody waits any more: nothing to do.
                let _ = answer.send(self.node.view_since(since));
            }
            Input::Stop => {}
        }
    }

    fn step(&mut self, event: NodeEvent) {
        let mut actions = Vec::new();
        self.node.step(now(), event, &mut actions);
        for action in actions {
            match action {
                NodeAction::Persist(persist) => self.unsynced.push(persist),
                NodeAction::Send { to, bytes } => self.raft_out.send(to, bytes),
                NodeAction::Reply { id, result } => {
                    if let Some(answer) = self.answers.remove(&id) {
                        let _ = answer.send(result);
                    }
                }
                NodeAction::NextTimer(at) => self.timer = at,
                NodeAction::LeaderChanged { leader } => {
                    tracing::info!(mds = self.node.id().0, leader = leader.map(|l| l.0), "leader changed");
                }
                NodeAction::ViewChanged { .. } => {}
                NodeAction::Failed(error) => self.failed = Some(error.into()),
            }
        }
    }

    /// The node's timer comes more often than this is due.
    fn tell_time(&mut self) {
        if self.clock_told.is_some_and(|told| now() - told < CLOCK_PERIOD) {
            return;
        }
        self.clock_told = Some(now());
        // A machine whose clock stands before 1970 doesn't know the time.
        if let Ok(since) = SystemTime::now().duration_since(UNIX_EPOCH) {
            self.step(NodeEvent::WallClock { unix: since.as_secs() });
        }
    }

    /// Writes until the node asks for nothing more: what it says once a write is durable may need another.
    fn sync(&mut self) -> Result<(), MdsError> {
        while let Some(token) = self.unsynced.last().map(|p| p.token) {
            let persists = std::mem::take(&mut self.unsynced);
            self.store.persist(persists)?;
            self.step(NodeEvent::Persisted { token });
        }
        Ok(())
    }

    fn tell(&self) {
        let news = Published {
            view_revision: self.node.state().view_revision(),
            is_leader: self.node.is_leader(),
            leader: self.node.leader(),
        };
        self.publish.send_if_modified(|old| {
            let changed = *old != news;
            *old = news;
            changed
        });
    }
}

/// CLOCK_BOOTTIME: it goes on while the machine sleeps.
fn now() -> Tick {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_nsec).unwrap_or(0) / 1000;
    Tick(seconds * 1_000_000 + micros)
}
