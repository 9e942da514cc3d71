//! The control thread: everything that is slow or rare. Registers the OSD, sends heartbeats, watches the view, carries the core's requests to
//! the metadata service, opens connections to other OSDs.
//! T1: a heartbeat leaves only if the data thread has shown life since the last one: a daemon whose data path hangs is not alive.
//! T2: nothing here blocks the data thread; what doesn't fit into a bounded queue is dropped, and the core asks again.

use crate::error::OsdError;
use crate::perf_outbox::PerfOutbox;
use crate::shell::{DataPort, Shared, ToControl, ToData};
use crate::space_outbox::SpaceOutbox;
use ashlar_osd_core::SpaceNews;
use ashlar_types::control::{ControlError, ControlRequest, OsdHeartbeat};
use ashlar_types::{BootId, OsdId, Revision};
use ashlar_wire_control::{ControlClient, ControlClientError};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc, watch};

/// Within the grace of a suspected OSD (`osd_suspect_grace`) one comes, even if it is 100 ms late. Shorter costs: each wakes half a dozen
/// threads of a cluster that is idle otherwise.
const HEARTBEAT_PERIOD: Duration = Duration::from_millis(150);
/// Between two attempts of a heartbeat that failed.
const HEARTBEAT_RETRY: Duration = Duration::from_millis(20);
/// Signs of life of the data thread that may be late before an operator hears of it.
const MISSED_BEATS: u32 = 5;
/// How long the core's requests are tried; it asks again by itself.
const REQUEST_LIMIT: Duration = Duration::from_secs(3);
/// How long an orderly end waits for the metadata service to know of it.
const STOPPING_LIMIT: Duration = Duration::from_secs(2);
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Requests and connections under way.
const TASKS_MAX: usize = 256;

/// Tells a running daemon to end in order. Clones mean the same daemon.
#[derive(Clone, Debug)]
pub struct Shutdown {
    sender: Arc<watch::Sender<bool>>,
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown::new()
    }
}

impl Shutdown {
    pub fn new() -> Shutdown {
        Shutdown { sender: Arc::new(watch::Sender::new(false)) }
    }

    /// May be called from any thread, and more than once; not from within a signal handler.
    pub fn trigger(&self) {
        self.sender.send_replace(true);
    }
}

/// Who this process is, as the metadata service hears it.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub osd: OsdId,
    pub boot: BootId,
    pub address: String,
    pub host: String,
    /// Bytes.
    pub capacity: u64,
}

pub(crate) struct Control {
    identity: Identity,
    client: ControlClient,
    port: DataPort,
    shared: Arc<Shared>,
    /// Processes whose connections broke.
    suspects: Mutex<BTreeMap<OsdId, BootId>>,
    suspected: Notify,
    perf: Mutex<PerfOutbox>,
    space: Mutex<SpaceOutbox>,
    tasks: Arc<Semaphore>,
}

/// How the control thread ended.
enum Ending {
    Shutdown,
    DataThreadEnded,
    Refused(ControlError),
}

impl Control {
    pub(crate) fn new(identity: Identity, client: ControlClient, port: DataPort, shared: Arc<Shared>) -> Arc<Control> {
        let tasks = Arc::new(Semaphore::new(TASKS_MAX));
        Arc::new(Control {
            identity,
            client,
            port,
            shared,
            suspects: Mutex::default(),
            suspected: Notify::new(),
            perf: Mutex::default(),
            space: Mutex::default(),
            tasks,
        })
    }

    /// Runs until the daemon is to end, then sees to it that the data thread ends.
    pub(crate) fn run(self: Arc<Self>, inbox: mpsc::Receiver<ToControl>, shutdown: Shutdown) -> Result<(), OsdError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let result = match runtime {
            Ok(runtime) => runtime.block_on(self.clone().serve(inbox, shutdown)),
            Err(source) => Err(OsdError::System { what: "the control thread's runtime", source }),
        };
        self.port.send(ToData::Stop);
        result
    }

    async fn serve(self: Arc<Self>, mut inbox: mpsc::Receiver<ToControl>, shutdown: Shutdown) -> Result<(), OsdError> {
        let mut views = self.client.watch(Revision(0));
        let mut stop = shutdown.sender.subscribe();
        let mut alive = None;
        let ending = loop {
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(ToControl::Mounted { damaged }) => {
                        if damaged {
                            tracing::warn!(osd = self.identity.osd.0, "the log is damaged: other members decide what is kept");
                        }
                        alive = Some(tokio::spawn(self.clone().stay_registered()));
                    }
                    Some(message) => self.on_message(message),
                    None => break Ending::DataThreadEnded,
                },
                Some(view) = views.recv() => {
                    self.port.send(ToData::View(view));
                }
                refused = ended(&mut alive) => break Ending::Refused(refused),
                _ = stop.wait_for(|stop| *stop) => break Ending::Shutdown,
            }
        };
        if alive.is_some() && !matches!(ending, Ending::Refused(_)) {
            self.say_goodbye().await;
        }
        match ending {
            Ending::Shutdown | Ending::DataThreadEnded => Ok(()),
            Ending::Refused(source) => Err(OsdError::Refused { osd: self.identity.osd, source }),
        }
    }

    fn on_message(self: &Arc<Self>, message: ToControl) {
        match message {
            ToControl::Mounted { .. } => unreachable!("handled by serve"),
            ToControl::Ask(id, request) => self.spawn(self.clone().ask(id, request)),
            ToControl::Connect { osd, serial, address } => self.spawn(self.clone().connect(osd, serial, address)),
            ToControl::Suspect(osd, boot) => {
                self.suspects().insert(osd, boot);
                self.suspected.notify_one();
            }
            ToControl::Trust(osd) => {
                self.suspects().remove(&osd);
            }
            ToControl::Perf(news) => self.perf().add(news),
            ToControl::Space(news) => self.space().add(news),
        }
    }

    fn suspects(&self) -> std::sync::MutexGuard<'_, BTreeMap<OsdId, BootId>> {
        // A map is never left half changed.
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn perf(&self) -> std::sync::MutexGuard<'_, PerfOutbox> {
        // As with the map of suspects.
        self.perf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn space(&self) -> std::sync::MutexGuard<'_, SpaceOutbox> {
        // As with the map of suspects.
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task; drops it where too many run (T2).
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self.tasks.clone().try_acquire_owned() {
            Ok(permit) => {
                tokio::spawn(async move {
                    task.await;
                    drop(permit);
                });
            }
            Err(_) => {
                self.shared.counters.control_dropped_total.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    async fn ask(self: Arc<Self>, id: u64, request: ControlRequest) {
        let answer = match self.client.request_within(request, REQUEST_LIMIT).await {
            Ok(reply) => Ok(reply),
            Err(ControlClientError::Refused(error)) => Err(error),
            Err(error) => {
                tracing::debug!(osd = self.identity.osd.0, %error, "a request to the metadata service was lost");
                return;
            }
        };
        self.port.send(ToData::ControlAnswer(id, answer));
    }

    async fn connect(self: Arc<Self>, osd: OsdId, serial: u64, address: String) {
        let result = match tokio::time::timeout(CONNECT_LIMIT, connect_to(&address)).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        self.port.send(ToData::Connected { osd, serial, result });
    }

    /// Registers, then sends heartbeats, and registers again where the metadata service asks for it. Ends when it is refused for good.
    async fn stay_registered(self: Arc<Self>) -> ControlError {
        loop {
            if let Err(refused) = self.register().await {
                return refused;
            }
            self.send_heartbeats().await;
        }
    }

    async fn register(&self) -> Result<(), ControlError> {
        let Identity { osd, boot, address, host, capacity } = self.identity.clone();
        let request = ControlRequest::OsdRegister { osd, boot, address, host, capacity };
        let mut has_warned = false;
        loop {
            match self.client.request(request.clone()).await {
                Ok(_) => {
                    tracing::info!(osd = osd.0, %boot, "registered");
                    return Ok(());
                }
                Err(ControlClientError::Refused(
                    error @ (ControlError::Invalid(_) | ControlError::NotFound { .. }),
                )) => {
                    return Err(error);
                }
                Err(error) if !has_warned => {
                    tracing::warn!(osd = osd.0, %error, "cannot register yet");
                    has_warned = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(HEARTBEAT_PERIOD).await;
        }
    }

    /// Until the metadata service says that it doesn't know this process.
    async fn send_heartbeats(&self) {
        let mut stream = self.client.heartbeats();
        self.perf().send_all();
        self.space().send_all();
        let mut ticker = tokio::time::interval(HEARTBEAT_PERIOD);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut beat = self.shared.alive.load(Ordering::Acquire) + 1;
        self.port.send(ToData::Beat(beat));
        let mut missed = 0;
        loop {
            tokio::select! {
                _ = ticker.tick() => {}
                _ = self.suspected.notified() => {}
            }
            if self.shared.alive.load(Ordering::Acquire) < beat {
                missed += 1;
                if missed == MISSED_BEATS {
                    tracing::warn!(osd = self.identity.osd.0, "the data thread is busy or hangs: no heartbeat is sent");
                }
                continue;
            }
            missed = 0;
            beat += 1;
            self.port.send(ToData::Beat(beat));
            if !self.send_heartbeat(&mut stream).await {
                return;
            }
        }
    }

    /// False if this process isn't the registered one.
    async fn send_heartbeat(&self, stream: &mut ashlar_wire_control::HeartbeatStream) -> bool {
        let suspects = self.suspects().iter().map(|(osd, boot)| (*osd, *boot)).collect();
        let Identity { osd, boot, .. } = self.identity;
        let (SpaceNews { view, usage, layers }, perf) = (self.space().take(), self.perf().take());
        let usage = Box::new(usage);
        let heartbeat = OsdHeartbeat { osd, boot, suspects, usage, view, layers, perf };
        let sent = stream.send(heartbeat).await;
        if sent.is_err() {
            self.perf().send_all();
            self.space().send_all();
        }
        match sent {
            Err(ControlClientError::Refused(ControlError::Invalid(_) | ControlError::NotFound { .. })) => false,
            Err(error) => {
                tracing::debug!(osd = osd.0, %error, "a heartbeat was lost");
                tokio::time::sleep(HEARTBEAT_RETRY).await;
                true
            }
            Ok(_) => true,
        }
    }

    /// Tells the metadata service that this process ends, so that nobody waits for its silence.
    async fn say_goodbye(&self) {
        let Identity { osd, boot, .. } = self.identity;
        let request = ControlRequest::OsdStopping { osd, boot };
        match self.client.request_within(request, STOPPING_LIMIT).await {
            Ok(_) => tracing::info!(osd = osd.0, %boot, "stopping"),
            Err(error) => tracing::info!(osd = osd.0, %boot, %error, "stopping; the metadata service was not told"),
        }
    }
}

/// Waits for the task that keeps the OSD registered, if it runs.
async fn ended(alive: &mut Option<tokio::task::JoinHandle<ControlError>>) -> ControlError {
    match alive {
        // Aborted only with the runtime; a panic ends the process.
        Some(task) => task.await.unwrap_or(ControlError::Undecided),
        None => std::future::pending().await,
    }
}

async fn connect_to(address: &str) -> io::Result<OwnedFd> {
    let stream = tokio::net::TcpStream::connect(address).await?.into_std()?;
    // io_uring waits by itself; on a non-blocking socket it would answer EAGAIN instead.
    stream.set_nonblocking(false)?;
    Ok(stream.into())
}
