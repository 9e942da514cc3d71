//! Listening sockets.

use super::Shared;
use super::connection;
use rustix::net::sockopt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::AbortHandle;

/// After a failed accept (no file descriptors left, say) before the next; else the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A silent client's host is asked whether it lives, and given up after two minutes without an answer.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

pub(super) fn accept_tcp(shared: Arc<Shared>, listener: TcpListener) {
    let mut shutdown = shared.shutdown.subscribe();
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = shutdown.wait_for(|shutdown| *shutdown) => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    // Fails if the peer is gone already.
                    if prepare(&stream).is_ok() {
                        admit(&shared, &peer, |place| {
                            let (read, write) = stream.into_split();
                            tokio::spawn(connection::serve(shared.clone(), place, read, write)).abort_handle()
                        });
                    }
                }
                Err(error) => pause(error).await,
            }
        }
    });
}

/// "both the client and server SHOULD disable Nagle's algorithm". Keep-alive finds hosts that vanished without a word, whose
/// connections would hold their devices for ever.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}

pub(super) fn accept_unix(shared: Arc<Shared>, listener: UnixListener) {
    let mut shutdown = shared.shutdown.subscribe();
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = shutdown.wait_for(|shutdown| *shutdown) => return,
            };
            match accepted {
                Ok((stream, peer)) => admit(&shared, &peer, |place| {
                    let (read, write) = stream.into_split();
                    tokio::spawn(connection::serve(shared.clone(), place, read, write)).abort_handle()
                }),
                Err(error) => pause(error).await,
            }
        }
    });
}

fn admit(shared: &Arc<Shared>, peer: &dyn std::fmt::Debug, spawn: impl FnOnce(super::registry::Place) -> AbortHandle) {
    if !shared.registry.admit(spawn) {
        tracing::info!(?peer, connections_max = shared.limits.connections_max, "NBD connection refused: too many");
    }
}

async fn pause(error: io::Error) {
    tracing::warn!(%error, "an NBD connection could not be accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Binds, replacing a socket file that a process left behind.
pub(super) async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            match UnixStream::connect(path).await {
                Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
                _ => return Err(error),
            }
            UnixListener::bind(path)
        }
        bound => bound,
    }
}
