//! The OSD daemon: one data thread with one io_uring for disk and network, one control thread for everything slow, around
//! `ashlar_osd_core::Osd`.
//!
//! [`run`] is the daemon, [`mkfs`] prepares a disk for it. Nothing here knows the replication protocol or the disk's layout.

mod clock;
mod config;
mod connection;
mod control;
mod counters;
mod disk;
mod error;
mod mkfs;
mod perf_outbox;
mod ring;
mod shell;
mod signature;
mod space_outbox;

pub use config::OsdDaemonConfig;
pub use control::Shutdown;
pub use counters::Counters;
pub use error::OsdError;
pub use mkfs::{check_disk, check_size, create_disk_file, mkfs};

use ashlar_osd_core::{Action, Event, Honest, Osd, OsdConfig, Perf, Policy, SpaceNews};
use ashlar_types::control::OsdUsage;
use ashlar_types::{BootId, Tick};
use ashlar_wire_control::ControlClient;
use control::{Control, Identity};
use disk::Disk;
use shell::{Core, DataPort, Parts, Shared, Shell};
use std::net::TcpListener;
use std::sync::Arc;

/// Messages that may wait for the control thread.
const CONTROL_WAITING_MAX: usize = 4096;

const LISTEN_BACKLOG: i32 = 4096;

impl<P: Policy> Core for Osd<P> {
    fn step(&mut self, now: Tick, event: Event, actions: &mut Vec<Action>) {
        Osd::step(self, now, event, actions);
    }

    fn poll(&mut self, now: Tick, actions: &mut Vec<Action>) {
        Osd::poll(self, now, actions);
    }

    fn usage(&self) -> OsdUsage {
        Osd::usage(self)
    }

    fn space_news(&mut self) -> SpaceNews {
        Osd::space_news(self)
    }

    fn on_space_news_lost(&mut self, news: &SpaceNews) {
        Osd::on_space_news_lost(self, news);
    }

    fn perf(&mut self) -> &mut Perf {
        Osd::perf(self)
    }
}

/// Serves one disk until `shutdown` is triggered or the OSD must give up. The calling thread becomes the data thread.
pub fn run(config: OsdDaemonConfig, shutdown: Shutdown) -> Result<(), OsdError> {
    run_planted::<Honest>(config, shutdown)
}

/// [`run`] with a bug planted in the core: only for the tests that have to find it. No shipped program calls this.
pub fn run_planted<P: Policy>(config: OsdDaemonConfig, shutdown: Shutdown) -> Result<(), OsdError> {
    config.check()?;
    tracing::info!(osd = config.osd.0, ?config, "configuration");
    allow_many_descriptors();
    let disk = Disk::open(&config.disk)?;
    let store = mkfs::store_config(&config, &disk)?;
    let boot = draw_boot_id()?;
    let (listener, bound) = listen(&config)?;
    let identity = Identity {
        osd: config.osd,
        boot,
        address: config.advertised(bound),
        host: config.host.clone(),
        capacity: store.capacity,
    };
    tracing::info!(osd = config.osd.0, %boot, address = identity.address, disk = %config.disk.display(), "starts");

    let client = ControlClient::new(config.mds.clone()).map_err(|source| OsdError::Control { source })?;
    let (port, inbox) = DataPort::new().map_err(|source| OsdError::System { what: "eventfd", source })?;
    let (outbox, control_inbox) = tokio::sync::mpsc::channel(CONTROL_WAITING_MAX);
    let shared = Arc::new(Shared::default());
    let control = Control::new(identity, client, port.clone(), shared.clone());
    let control = std::thread::Builder::new()
        .name("control".into())
        .spawn(move || control.run(control_inbox, shutdown))
        .map_err(|source| OsdError::System { what: "the control thread", source })?;

    let core = Osd::<P>::new(OsdConfig { store, boot, unix_at_tick_0: clock::unix_at_tick_0() }, clock::now());
    let (osd, cluster) = (config.osd, config.cluster);
    let parts = Parts { core, osd, cluster, disk, listener: Arc::new(listener.into()), port, inbox, outbox, shared };
    let served = Shell::new(parts).and_then(Shell::run);
    // The data thread's end of the channel is gone now, so the control thread ends too.
    let controlled = control.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    served.and(controlled)
}

fn listen(config: &OsdDaemonConfig) -> Result<(TcpListener, std::net::SocketAddr), OsdError> {
    let address = config.listen_address()?;
    let failed = |source| OsdError::Listen { address: config.listen.clone(), source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    // The standard library asks for 128 waiting connections; all clients of a restarted OSD come at once.
    rustix::net::listen(&listener, LISTEN_BACKLOG).map_err(|e| failed(e.into()))?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// At random, so that no two processes ever share one (R7); zero stands for none.
fn draw_boot_id() -> Result<BootId, OsdError> {
    let mut bytes = [0; 8];
    let failed = |e: rustix::io::Errno| OsdError::System { what: "random numbers", source: e.into() };
    let drawn = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(failed)?;
    assert!(drawn == bytes.len(), "R7: up to 256 bytes come whole");
    Ok(BootId(u64::from_ne_bytes(bytes).max(1)))
}

/// Each connection takes a descriptor; the soft limit is often 1024.
fn allow_many_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files stays low");
    }
}
