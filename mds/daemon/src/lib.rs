//! The metadata daemon: a thread that runs [`MetadataNode`], RocksDB under it, gRPC in front.
//! It has no opinion about the protocol: it turns calls and completed writes into events, and actions into writes, messages
//! and answers.
//!
//! [`run`] is everything; [`MdsConfig`] is what it takes.

mod config;
mod node_thread;
mod server;
mod store;
mod transport;

pub use config::{ConfigError, MdsConfig, PeerConfig, bin_window_default};
pub use store::StoreError;

use ashlar_mds_core::node::{MetadataNode, NodeError};
use ashlar_wire_control::MESSAGE_BYTES_MAX;
use ashlar_wire_control::proto::control_server::ControlServer;
use ashlar_wire_control::proto::raft_transport_server::RaftTransportServer;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

#[derive(Debug, thiserror::Error)]
pub enum MdsError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the control server ended: {source}")]
    Server { source: tonic::transport::Error },
    #[error("the node's thread could not start: {source}")]
    Thread { source: io::Error },
    #[error("the node's thread panicked")]
    Panicked,
}

/// How long calls get to end once the node has stopped.
const GOODBYE: Duration = Duration::from_millis(500);

/// Runs a metadata node until `shutdown` is ready, or until it cannot go on. Begins a new data folder if there is none.
/// Returns `Ok` once everything is stopped and the folder is closed.
pub async fn run(config: MdsConfig, shutdown: impl Future<Output = ()>) -> Result<(), MdsError> {
    let settings = config.check()?;
    let opened = store::open(&settings)?;
    let cluster = opened.node_config.cluster;
    let node = MetadataNode::restore(opened.node_config.clone(), opened.durable)?;
    // Bound before the node starts: a node that cannot be reached must not take part in elections.
    let incoming = bind(settings.listen)?;
    tracing::info!(mds = settings.id.0, %cluster, listen = %settings.listen, "metadata node starts");

    let (raft_out, transport) = transport::start(&opened.node_config);
    let (handle, mut done) =
        node_thread::start(node, opened.store, raft_out).map_err(|source| MdsError::Thread { source })?;
    transport.attach(handle.clone());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let control = server::ControlService::new(handle.clone(), opened.node_config.clone());
    let raft = server::RaftService::new(handle.clone(), settings.id, cluster);
    let server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        // Requests are small, so tonic's own limit (4 MiB) holds for them; Raft's snapshots are not.
        .add_service(ControlServer::new(control))
        .add_service(RaftTransportServer::new(raft).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .serve_with_incoming_shutdown(incoming, async {
            // Told to stop, or nobody is left who could tell: the same.
            let _ = stopped.await;
        });
    let mut server = tokio::spawn(server);

    let ended = tokio::select! {
        () = shutdown => None,
        result = &mut done => Some(result.unwrap_or(Err(MdsError::Panicked))),
        result = &mut server => Some(match result {
            Ok(Err(source)) => Err(MdsError::Server { source }),
            Ok(Ok(())) | Err(_) => Err(MdsError::Panicked),
        }),
    };
    // The node first: its end ends the calls that wait for it, and those would keep the server.
    handle.stop();
    let result = match ended {
        Some(result) => result,
        None => done.await.unwrap_or(Err(MdsError::Panicked)),
    };
    drop(transport);
    let _ = stop.send(());
    // A client that does not hang up is left behind.
    let _ = tokio::time::timeout(GOODBYE, &mut server).await;
    server.abort();
    tracing::info!(mds = settings.id.0, "metadata node stopped");
    result
}

fn bind(address: SocketAddr) -> Result<TcpIncoming, MdsError> {
    // Without TCP_NODELAY a call takes 40 ms and more.
    let incoming = TcpIncoming::bind(address).map_err(|source| MdsError::Listen { address, source })?;
    Ok(incoming.with_nodelay(Some(true)))
}
