//! Shell: the data thread. Turns completions into events, actions into operations, and has no opinion about the protocol.
//! S1: all that a wake-up brought is handled as one batch, then whoever asked is answered, then the core is polled once, then everything
//! is started with one enter.
//! S2: messages to one receiver leave in the order of their actions. S3: every queue is bounded: a connection whose peer doesn't read is
//! no longer read from, and closed when more than that piles up.
//! One thread, no lock; the control thread talks to it by a channel and an eventfd.

mod network;
mod perf;
mod storage;

use crate::clock;
use crate::connection::Connection;
use crate::counters::{Counters, add};
use crate::disk::Disk;
use crate::error::OsdError;
use crate::ring::{Completion, Descriptor, Looked, Op, Ring};
use ashlar_osd_core::{Action, Event, IoId, Moment, Perf, SpaceNews};
use ashlar_types::control::{ControlError, ControlReply, ControlRequest, OsdUsage};
use ashlar_types::perf::PerfReport;
use ashlar_types::view::ClusterView;
use ashlar_types::{BootId, BusyPoll, ClusterId, Duration, OsdId, Tick};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

/// How long a new connection may take for its hello.
const GREETING_TIME: Duration = Duration::from_millis(5000);
/// How long a connection that the core closed may take to read what was said last.
const CLOSING_TIME: Duration = Duration::from_millis(2000);
/// How long no connection is accepted after the system refused one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long operations may take to end at an orderly stop.
const STOP_TIME: Duration = Duration::from_millis(5000);
/// For so many ends of what was started together the thread waits before it wakes,
const ENDS_AWAITED_MAX: usize = 4;
/// but only so long: what comes meanwhile must not wait for a slow disk or peer.
const ENDS_AWAITED_TIME: std::time::Duration = std::time::Duration::from_micros(100);
/// While the thread looks for ends, others may have its processor for so long: less than a time slice, more than what the kernel does
/// for a device or a socket, or another OSD for a few requests.
const YIELD_MAX: std::time::Duration = std::time::Duration::from_micros(200);
const CONNECTIONS_MAX: usize = 4096;
/// Bytes queued for one connection from which on it is not read from.
const QUEUED_BYTES_PAUSE: usize = 2 << 20;
/// Bytes queued for one connection that end it.
const QUEUED_BYTES_MAX: usize = 128 << 20;
/// Bytes queued for all connections, beyond which the pause ends a connection.
const QUEUED_BYTES_ALL: usize = 256 << 20;

/// What the shell drives: the OSD core, or a smaller one in tests.
pub(crate) trait Core {
    fn step(&mut self, now: Tick, event: Event, actions: &mut Vec<Action>);
    fn poll(&mut self, now: Tick, actions: &mut Vec<Action>);
    fn usage(&self) -> OsdUsage;
    fn space_news(&mut self) -> SpaceNews;
    fn on_space_news_lost(&mut self, news: &SpaceNews);
    fn perf(&mut self) -> &mut Perf;
}

/// From the control thread.
#[derive(Debug)]
pub(crate) enum ToData {
    View(ClusterView),
    ControlAnswer(u64, Result<ControlReply, ControlError>),
    Connected {
        osd: OsdId,
        serial: u64,
        result: io::Result<OwnedFd>,
    },
    /// Asks for a sign of life: the number is written to `Alive`.
    Beat(u64),
    Stop,
}

/// To the control thread.
#[derive(Debug)]
pub(crate) enum ToControl {
    Mounted {
        damaged: bool,
    },
    Ask(u64, ControlRequest),
    Connect {
        osd: OsdId,
        serial: u64,
        address: String,
    },
    /// The connection to this process broke.
    Suspect(OsdId, BootId),
    /// It stands again.
    Trust(OsdId),
    /// Histograms that have changed.
    Perf(PerfReport),
    /// With each beat.
    Space(SpaceNews),
}

/// Where the control thread leaves messages for the data thread.
#[derive(Clone, Debug)]
pub(crate) struct DataPort {
    sender: mpsc::SyncSender<ToData>,
    event: Descriptor,
}

impl DataPort {
    /// Messages that may wait; the data thread takes all of them at each wake-up.
    const WAITING_MAX: usize = 1024;

    pub(crate) fn new() -> io::Result<(DataPort, mpsc::Receiver<ToData>)> {
        let (sender, receiver) = mpsc::sync_channel(Self::WAITING_MAX);
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        Ok((DataPort { sender, event: Arc::new(event) }, receiver))
    }

    /// False once the data thread has ended.
    pub(crate) fn send(&self, message: ToData) -> bool {
        self.sender.send(message).is_ok() && rustix::io::write(&self.event, &1u64.to_ne_bytes()).is_ok()
    }
}

/// What both threads see.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub counters: Counters,
    /// The last `ToData::Beat` that the data thread handled.
    pub alive: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum Tag {
    Accept,
    Wake,
    Receive(u64),
    Send(u64),
    /// An operation, and when it was given to the disk.
    Disk(IoId, Moment),
    Clock(Tick),
}

/// The newest attempt to reach another OSD.
#[derive(Debug)]
struct LinkState {
    boot: BootId,
    serial: u64,
    /// Its connection, once there is one.
    key: Option<u64>,
}

/// What a shell is made of.
pub(crate) struct Parts<C> {
    pub core: C,
    pub osd: OsdId,
    pub cluster: ClusterId,
    pub disk: Disk,
    pub listener: Descriptor,
    pub port: DataPort,
    pub inbox: mpsc::Receiver<ToData>,
    pub outbox: tokio::sync::mpsc::Sender<ToControl>,
    pub shared: Arc<Shared>,
}

pub(crate) struct Shell<C> {
    core: C,
    osd: OsdId,
    cluster: ClusterId,
    disk: Disk,
    can_discard: bool,
    is_host_full: bool,
    listener: Descriptor,
    accept_again_at: Option<Tick>,
    event: Descriptor,
    inbox: mpsc::Receiver<ToData>,
    outbox: tokio::sync::mpsc::Sender<ToControl>,
    shared: Arc<Shared>,
    ring: Ring<Tag>,
    now: Tick,
    /// By number; an inbound one's is its `ConnId`.
    connections: HashMap<u64, Connection>,
    last_key: u64,
    links: BTreeMap<OsdId, LinkState>,
    last_serial: u64,
    deadlines: BTreeSet<(Tick, u64)>,
    /// Connections with something new to send.
    touched: Vec<u64>,
    queued_bytes: usize,
    wake_at: Option<Tick>,
    /// When the timers under way end.
    clocks: BTreeSet<Tick>,
    /// Disk operations under way.
    disk_ops: usize,
    /// Disk writes, and requests to other OSDs, since the last wait.
    started: usize,
    scrub: ScrubSchedule,
    busy_poll: BusyPoll,
    actions: Vec<Action>,
    /// Events that actions have caused; handled with the next batch.
    deferred: Vec<Event>,
    stop_at: Option<Tick>,
}

/// Design.md §5: digests daily, the medium weekly, of the PGs that this OSD leads. Counts from the process's start, spread by OSD id so
/// that not all of them begin together.
struct ScrubSchedule {
    next: Tick,
    count: u32,
}

impl ScrubSchedule {
    const DAY: Duration = Duration::from_millis(24 * 60 * 60 * 1000);
    const SPREAD: Duration = Duration::from_millis(11 * 60 * 1000);
    const DEEP_EVERY: u32 = 7;

    fn new(now: Tick, osd: OsdId) -> ScrubSchedule {
        let offset = Duration::from_micros(Self::SPREAD.as_micros() * u64::from(osd.0 % 100));
        ScrubSchedule { next: now + Self::DAY + offset, count: 0 }
    }

    /// Whether the one that is due is deep.
    fn due(&mut self, now: Tick) -> Option<bool> {
        if now < self.next {
            return None;
        }
        self.next = now + Self::DAY;
        self.count += 1;
        Some(self.count.is_multiple_of(Self::DEEP_EVERY))
    }
}

impl<C: Core> Shell<C> {
    /// To be called on the data thread: the ring belongs to it.
    pub(crate) fn new(parts: Parts<C>) -> Result<Shell<C>, OsdError> {
        let ring = Ring::new().map_err(|source| OsdError::Ring { source })?;
        tracing::info!(osd = parts.osd.0, mode = ring.mode(), direct = parts.disk.is_direct, "data thread starts");
        Ok(Shell {
            core: parts.core,
            osd: parts.osd,
            cluster: parts.cluster,
            disk: parts.disk,
            can_discard: true,
            is_host_full: false,
            listener: parts.listener,
            accept_again_at: None,
            event: parts.port.event,
            inbox: parts.inbox,
            outbox: parts.outbox,
            shared: parts.shared,
            ring,
            now: clock::now(),
            connections: HashMap::new(),
            last_key: 0,
            links: BTreeMap::new(),
            last_serial: 0,
            deadlines: BTreeSet::new(),
            touched: Vec::new(),
            queued_bytes: 0,
            wake_at: None,
            clocks: BTreeSet::new(),
            disk_ops: 0,
            started: 0,
            scrub: ScrubSchedule::new(clock::now(), parts.osd),
            busy_poll: BusyPoll::default(),
            actions: Vec::new(),
            deferred: vec![Event::Start],
            stop_at: None,
        })
    }

    /// Runs until the control thread says stop (or has ended), or the core fails.
    pub(crate) fn run(mut self) -> Result<(), OsdError> {
        self.accept();
        self.ring.submit(Tag::Wake, Op::WaitEvent { event: self.event.clone() });
        let mut completions = Vec::new();
        loop {
            self.batch(&mut completions)?;
            if self.stop_at.is_some() {
                return self.stop();
            }
            self.wait().map_err(|source| OsdError::System { what: "io_uring_enter", source })?;
            self.ring.completions(&mut completions);
        }
    }

    /// Starts everything and waits for something to do.
    fn wait(&mut self) -> io::Result<()> {
        let (count, timeout) = self.patience();
        if timeout == Some(std::time::Duration::ZERO) {
            return self.ring.enter(count, timeout);
        }
        if self.busy_poll.is_on(self.now) {
            let span = std::time::Duration::from_micros(BusyPoll::SPAN.as_micros());
            match self.ring.look(span, YIELD_MAX)? {
                Looked::Found => {
                    self.busy_poll.on_news(Duration::ZERO);
                    return Ok(());
                }
                Looked::Nothing => {}
                Looked::Contended(others) => {
                    let others = u64::try_from(others.as_micros()).unwrap_or(u64::MAX);
                    self.busy_poll.on_yielded(clock::now(), Duration::from_micros(others));
                }
            }
        }
        let begin = clock::now();
        self.ring.enter(count, timeout)?;
        self.busy_poll.on_news(clock::now() - begin);
        Ok(())
    }

    /// S1.
    fn batch(&mut self, completions: &mut Vec<Completion<Tag>>) -> Result<(), OsdError> {
        self.now = clock::now();
        add(&self.shared.counters.batches_total, 1);
        for event in std::mem::take(&mut self.deferred) {
            self.event(event);
        }
        for completion in completions.drain(..) {
            self.on_completion(completion);
        }
        self.on_time();
        // Whoever is answered goes on while the rest of the batch is seen to. What goes to other OSDs waits: commits ride on it.
        self.act_on_all()?;
        self.answer();
        self.core.poll(self.now, &mut self.actions);
        self.act_on_all()?;
        self.core.perf().on_turn_end(clock::now());
        self.flush_touched();
        Ok(())
    }

    fn act_on_all(&mut self) -> Result<(), OsdError> {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            self.act(action)?;
        }
        self.actions = actions;
        Ok(())
    }

    fn event(&mut self, event: Event) {
        add(&self.shared.counters.events_total, 1);
        self.core.step(self.now, event, &mut self.actions);
    }

    /// How many completions to wait for, and how long. `None` where only completions bring something to do.
    fn patience(&mut self) -> (usize, Option<std::time::Duration>) {
        if !self.deferred.is_empty() {
            return (1, Some(std::time::Duration::ZERO));
        }
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let next = [self.wake_at, self.accept_again_at, deadline, Some(self.scrub.next)].into_iter().flatten().min();
        if let Some(next) = next {
            self.keep_clock(next);
        }
        // A batch of the log, its data and the other members' answers come at nearly the same time, and nothing follows from the first of them.
        match std::mem::take(&mut self.started) {
            0 | 1 => (1, None),
            started => (started.min(ENDS_AWAITED_MAX), Some(ENDS_AWAITED_TIME)),
        }
    }

    /// Sees to it that the thread wakes at this time. A timer that is set for later goes on; one that is set for earlier does it: waits
    /// come many times as often as deadlines, and a time limit for each costs two settings of the processor's timer.
    fn keep_clock(&mut self, next: Tick) {
        if self.clocks.first().is_none_or(|at| *at > next) {
            self.clocks.insert(next);
            let span = std::time::Duration::from_micros((next - clock::now()).as_micros());
            self.ring.submit(Tag::Clock(next), Op::Timer { span });
        }
    }

    /// What is due by the clock.
    fn on_time(&mut self) {
        if self.wake_at.is_some_and(|at| at <= self.now) {
            self.wake_at = None;
            self.event(Event::Timer);
        }
        if self.accept_again_at.is_some_and(|at| at <= self.now) {
            self.accept();
        }
        if let Some(deep) = self.scrub.due(self.now) {
            tracing::info!(osd = self.osd.0, deep, "time for a scrub");
            self.event(Event::Scrub { deep });
        }
        while let Some((at, key)) = self.deadlines.first().copied().filter(|(at, _)| *at <= self.now) {
            self.deadlines.remove(&(at, key));
            if self.connections.get(&key).is_some_and(|c| c.deadline() == Some(at)) {
                self.end(key, "took too long");
            }
        }
    }

    fn on_completion(&mut self, completion: Completion<Tag>) {
        match (completion.tag, completion.op) {
            (Tag::Accept, _) => self.on_accepted(completion.result),
            (Tag::Wake, Op::WaitEvent { event }) => {
                self.ring.submit(Tag::Wake, Op::WaitEvent { event });
                while let Ok(message) = self.inbox.try_recv() {
                    self.on_message(message);
                }
            }
            (Tag::Receive(key), Op::Receive { buffer, .. }) => {
                if let Some(connection) = self.connections.get_mut(&key) {
                    connection.on_received(buffer);
                    self.on_received(key, completion.result);
                }
            }
            (Tag::Clock(at), _) => {
                self.clocks.remove(&at);
            }
            (Tag::Send(key), _) => self.on_sent(key, completion.result),
            (Tag::Disk(id, begun), op) => self.on_disk(id, begun, op, completion.result),
            (tag, op) => unreachable!("the ring gives back what was submitted, not {tag:?} with {op:?}"),
        }
    }

    // ---- The control thread.

    fn on_message(&mut self, message: ToData) {
        match message {
            ToData::View(view) => self.event(Event::View(view)),
            ToData::ControlAnswer(id, answer) => self.event(Event::ControlAnswer(id, answer)),
            ToData::Connected { osd, serial, result } => self.on_connected(osd, serial, result),
            ToData::Beat(number) => {
                self.shared.counters.set_usage(self.core.usage());
                self.tell_space();
                self.shared.alive.store(number, Ordering::Release);
                self.tell_perf();
            }
            ToData::Stop => self.stop_at = Some(self.now + STOP_TIME),
        }
    }

    fn tell(&mut self, message: ToControl) -> bool {
        let told = self.outbox.try_send(message).is_ok();
        if !told {
            self.shared.counters.control_dropped_total.fetch_add(1, Ordering::Relaxed);
        }
        told
    }

    // ---- Actions.

    fn act(&mut self, action: Action) -> Result<(), OsdError> {
        match action {
            Action::Disk(id, op) => self.start_disk(id, op),
            Action::Send(conn, message) => self.push(conn.0, &message),
            Action::Close(conn) => self.close_when_sent(conn.0),
            Action::Link { osd, boot, address } => self.link(osd, boot, address),
            Action::LinkSend(osd, message) => {
                if let Some(key) = self.links.get(&osd).and_then(|link| link.key) {
                    self.started += usize::from(message.is_answered());
                    self.push(key, &message);
                }
            }
            Action::Control(id, request) => {
                self.tell(ToControl::Ask(id, request));
            }
            Action::WakeAt(at) => self.wake_at = Some(at),
            Action::Mounted { damaged } => {
                self.shared.counters.set_usage(self.core.usage());
                self.tell(ToControl::Mounted { damaged });
            }
            Action::Fail(reason) => return Err(self.failure(reason)),
            Action::Warn(text) => tracing::warn!(osd = self.osd.0, "{text}"),
        }
        Ok(())
    }

    fn failure(&self, reason: String) -> OsdError {
        let disk = self.disk.path.clone();
        if self.is_host_full { OsdError::HostFull { disk } } else { OsdError::Failed { disk, reason } }
    }

    /// Ends connections and waits for what the disk has under way, within a bound.
    fn stop(mut self) -> Result<(), OsdError> {
        let keys: Vec<u64> = self.connections.keys().copied().collect();
        keys.into_iter().for_each(|key| self.kill(key));
        let until = clock::now() + STOP_TIME;
        let mut completions = Vec::new();
        let mut has_cancelled = false;
        while self.ring.in_flight() > 0 && clock::now() < until {
            // What is left beside the disk's operations (the accept, the eventfd, timers) ends only so.
            if !has_cancelled && self.disk_ops == 0 {
                self.ring.cancel_all();
                has_cancelled = true;
            }
            let wait = std::time::Duration::from_millis(50);
            self.ring.enter(1, Some(wait)).map_err(|source| OsdError::System { what: "io_uring_enter", source })?;
            self.ring.completions(&mut completions);
            let disk_ops = completions.drain(..).filter(|c: &Completion<Tag>| matches!(c.tag, Tag::Disk(..))).count();
            self.disk_ops -= disk_ops;
        }
        let counters = self.shared.counters.list();
        tracing::info!(osd = self.osd.0, left = self.ring.in_flight(), ?counters, "data thread stopped");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
