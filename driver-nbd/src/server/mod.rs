//! The server: listens, admits connections, runs the protocol core over sockets. It has no opinion about the protocol.
//!
//! V1: a connection costs two tasks, whatever it asks; a request costs none.
//! V2: memory per connection is bounded by [`Limits`], and so is the number of connections. What ended ones still have at a
//!     device is bounded for each export.
//! V3: a client waits for nobody but itself and the device, unless it has more than a MiB under way: then it may wait for
//!     other clients, each of which must go on within [`Limits::stall_time`].

mod accounts;
mod connection;
mod flight;
mod listen;
mod pace;
mod pool;
mod reader;
mod registry;
mod writer;

pub use crate::protocol::OpenError;

use accounts::Accounts;
use ashlar_types::BlockDevice;
use registry::Registry;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub type ExportFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, OpenError>> + Send + 'a>>;

/// The devices that can be had, by name. Asked anew by each connection, so that what exists may change.
pub trait Exports: Send + Sync + 'static {
    /// For `NBD_OPT_LIST`; an error (`Busy`, say) where listing is not allowed.
    fn list(&self) -> ExportFuture<'_, Vec<ExportEntry>>;

    /// The empty name asks for the default export, if there is one. The connection drops the device when it ends.
    fn open<'a>(&'a self, name: &'a str) -> ExportFuture<'a, Arc<dyn BlockDevice>>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportEntry {
    pub name: String,
    /// One line for people; may be empty.
    pub description: String,
}

/// What clients may take. None of these changes while the server runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time. A further one pushes out one that is still in the handshake, so that idle ones keep nobody from
    /// connecting; or one that has ended, or was not read for `stall_time`, and waits for its device. If there is none, it is
    /// closed at once. Default 4,096.
    pub connections_max: usize,
    /// Of them, connections to one export, including those that have ended and of which the device still has requests: an
    /// export whose device does not answer must not take all. Default 1,024.
    pub connections_per_export_max: usize,
    /// From the connection to the transmission phase, opening the export included. Default 30 s.
    pub handshake_time: Duration,
    /// Requests of a connection under way; no more are read until one is answered. Default 256.
    pub requests_max: usize,
    /// Payload bytes of a connection's requests under way, read or written; a single request may exceed it.
    /// Default 64 MiB.
    pub payload_bytes_max: usize,
    /// The same of all connections together, beyond the first MiB of each, which nobody can take from it. Default 1 GiB.
    pub payload_bytes_shared: usize,
    /// Of those, bytes of connections to one export. A request that is longer takes all of them. Default 256 MiB.
    pub payload_bytes_per_export: usize,
    /// Who has some of those and sends nothing of a payload, or takes nothing of a reply, for this long is closed, so that it
    /// can't keep them from others. Default 30 s.
    pub stall_time: Duration,
    /// At shutdown: how long clients that have nothing under way are still told `NBD_ESHUTDOWN`. Default 200 ms.
    pub shutdown_linger: Duration,
    /// At shutdown: how long requests under way may take. Default 10 s.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 4096,
            connections_per_export_max: 1024,
            handshake_time: Duration::from_secs(30),
            requests_max: 256,
            payload_bytes_max: 64 << 20,
            payload_bytes_shared: 1 << 30,
            payload_bytes_per_export: 256 << 20,
            stall_time: Duration::from_secs(30),
            shutdown_linger: Duration::from_millis(200),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}

/// An NBD server; a handle, clones are the same server, which runs until [`Server::shutdown`]. It needs a tokio runtime with
/// time and I/O.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    exports: Arc<dyn Exports>,
    limits: Limits,
    registry: Arc<Registry>,
    accounts: Arc<Accounts>,
    /// True once the server shuts down.
    shutdown: watch::Sender<bool>,
    /// Socket files of ours, removed at shutdown.
    socket_files: Mutex<Vec<PathBuf>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("limits", &self.shared.limits)
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

impl Server {
    pub fn new(exports: Arc<dyn Exports>, limits: Limits) -> Server {
        let shared = Shared {
            exports,
            registry: Arc::new(Registry::new(limits.connections_max)),
            accounts: Arc::new(Accounts::new(
                limits.connections_per_export_max,
                limits.payload_bytes_per_export,
                limits.payload_bytes_shared,
            )),
            limits,
            shutdown: watch::Sender::new(false),
            socket_files: Mutex::default(),
        };
        Server { shared: Arc::new(shared) }
    }

    /// Serves TCP connections from now on; returns the address, with its port where 0 was asked for.
    pub async fn listen_tcp(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        listen::accept_tcp(self.shared.clone(), listener);
        Ok(address)
    }

    /// Serves connections to a Unix socket from now on. A socket file that nobody listens on is replaced; it is removed
    /// again at shutdown.
    pub async fn listen_unix(&self, path: &Path) -> io::Result<()> {
        let listener = listen::bind_unix(path).await?;
        self.shared.socket_files.lock().expect("nobody panics with it").push(path.to_owned());
        listen::accept_unix(self.shared.clone(), listener);
        Ok(())
    }

    /// Connections now, handshakes included.
    pub fn connections(&self) -> usize {
        self.shared.registry.connections()
    }

    /// Stops listening; requests under way are answered, further ones refused with `NBD_ESHUTDOWN`; then every connection
    /// is closed. Returns when all are, soon after [`Limits::shutdown_grace`] at the latest.
    pub async fn shutdown(&self) {
        self.shared.shutdown.send_replace(true);
        for path in self.shared.socket_files.lock().expect("nobody panics with it").drain(..) {
            // Somebody else may have removed it already, which is as good.
            let _ = std::fs::remove_file(path);
        }
        let (registry, limits) = (&self.shared.registry, &self.shared.limits);
        if tokio::time::timeout(limits.shutdown_linger, registry.wait_until_empty()).await.is_ok() {
            return;
        }
        // They have nothing under way, and may say nothing for long.
        registry.abort_handshakes();
        if tokio::time::timeout(limits.shutdown_grace, registry.wait_until_empty()).await.is_err() {
            registry.abort_all();
            registry.wait_until_empty().await;
        }
    }
}
