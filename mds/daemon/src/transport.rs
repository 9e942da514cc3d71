//! Raft's messages to the other nodes: a task and a stream per peer. What cannot be sent soon is dropped; Raft repeats.

use crate::node_thread::NodeHandle;
use ashlar_mds_core::node::{NodeConfig, NodeEvent};
use ashlar_types::{ClusterId, MdsId};
use ashlar_wire_control::MESSAGE_BYTES_MAX;
use ashlar_wire_control::convert::cluster_to_bytes;
use ashlar_wire_control::proto::RaftMessage;
use ashlar_wire_control::proto::raft_transport_client::RaftTransportClient;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

/// Messages that wait for one peer.
const MESSAGES_MAX: usize = 1024;
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A peer that is stopped but not closed is given up after twice this.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(100);

/// The node's side.
pub(crate) struct Outgoing {
    peers: BTreeMap<MdsId, mpsc::Sender<Vec<u8>>>,
}

impl Outgoing {
    pub(crate) fn send(&self, to: MdsId, bytes: Vec<u8>) {
        if let Some(peer) = self.peers.get(&to) {
            let _ = peer.try_send(bytes);
        }
    }
}

/// Keeps the tasks; they end when it is dropped.
pub(crate) struct Transport {
    _tasks: JoinSet<()>,
    node: Arc<OnceLock<NodeHandle>>,
}

impl Transport {
    /// Whom to tell of peers that cannot be reached.
    pub(crate) fn attach(&self, node: NodeHandle) {
        let _ = self.node.set(node);
    }
}

pub(crate) fn start(config: &NodeConfig) -> (Outgoing, Transport) {
    let node = Arc::new(OnceLock::new());
    let mut tasks = JoinSet::new();
    let mut peers = BTreeMap::new();
    for (id, address) in config.peers.iter().filter(|(id, _)| **id != config.id) {
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        peers.insert(*id, sender);
        let peer = Peer { us: config.id, them: *id, cluster: config.cluster, address: address.clone() };
        tasks.spawn(peer.run(receiver, node.clone()));
    }
    (Outgoing { peers }, Transport { _tasks: tasks, node })
}

struct Peer {
    us: MdsId,
    them: MdsId,
    cluster: ClusterId,
    address: String,
}

impl Peer {
    async fn run(self, mut messages: mpsc::Receiver<Vec<u8>>, node: Arc<OnceLock<NodeHandle>>) {
        let mut reachable = true;
        // Ends with the node: nobody sends any more.
        while let Some(first) = messages.recv().await {
            match self.deliver(first, &mut messages).await {
                Ok(()) => reachable = true,
                Err(error) => {
                    if reachable {
                        tracing::warn!(mds = self.us.0, peer = self.them.0, address = %self.address, %error, "peer is lost");
                    }
                    reachable = false;
                }
            }
            if let Some(node) = node.get() {
                node.event(NodeEvent::PeerUnreachable { peer: self.them });
            }
            tokio::time::sleep(PAUSE).await;
            // What waited this long is of no use any more.
            while messages.try_recv().is_ok() {}
        }
    }

    /// One stream, for as long as it lasts.
    async fn deliver(
        &self,
        first: Vec<u8>,
        messages: &mut mpsc::Receiver<Vec<u8>>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?
            .connect_timeout(CONNECT_LIMIT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        let mut client =
            RaftTransportClient::new(endpoint.connect().await?).max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (sender, receiver) = mpsc::channel(16);
        let call = client.deliver(ReceiverStream::new(receiver));
        tokio::pin!(call);
        let mut next = Some(first);
        loop {
            let message = match next.take() {
                Some(message) => message,
                None => tokio::select! {
                    ended = &mut call => { ended?; return Ok(()); }
                    message = messages.recv() => match message {
                        Some(message) => message,
                        None => return Ok(()),
                    },
                },
            };
            let message =
                RaftMessage { from: self.us.0, to: self.them.0, cluster: cluster_to_bytes(self.cluster), message };
            tokio::select! {
                ended = &mut call => { ended?; return Ok(()); }
                sent = sender.send(message) => if sent.is_err() { return Ok(()); },
            }
        }
    }
}
