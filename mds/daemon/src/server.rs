//! The gRPC services: messages in, events to the node, answers out.

use crate::node_thread::{NodeHandle, Published};
use ashlar_mds_core::node::{NodeConfig, NodeEvent};
use ashlar_types::control::{ControlError, ControlReply, ControlRequest, OsdHeartbeat};
use ashlar_types::{BootId, ClusterId, MdsId, OsdId, Revision};
use ashlar_wire_control::convert::cluster_from_bytes;
use ashlar_wire_control::proto;
use ashlar_wire_control::proto::control_server::Control;
use ashlar_wire_control::proto::raft_transport_server::RaftTransport;
use std::pin::Pin;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Items of a stream that wait for the client. A slow client gets one larger difference later.
const ITEMS_WAITING_MAX: usize = 2;

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(crate) struct ControlService {
    node: NodeHandle,
    config: NodeConfig,
}

impl ControlService {
    pub(crate) fn new(node: NodeHandle, config: NodeConfig) -> ControlService {
        ControlService { node, config }
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn request(&self, request: Request<proto::ControlRequest>) -> Result<Response<proto::ControlAnswer>, Status> {
        let request = ControlRequest::try_from(request.into_inner());
        let request = request.map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(Response::new(self.node.request(request).await.into()))
    }

    type WatchStream = BoxStream<proto::WatchItem>;

    async fn watch(&self, request: Request<proto::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (items, stream) = mpsc::channel(ITEMS_WAITING_MAX);
        let from = Revision(request.into_inner().revision);
        let watcher = Watcher { node: self.node.clone(), config: self.config.clone(), items };
        tokio::spawn(watcher.run(from));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type HeartbeatsStream = BoxStream<proto::HeartbeatAnswer>;

    async fn heartbeats(
        &self,
        request: Request<Streaming<proto::OsdHeartbeat>>,
    ) -> Result<Response<Self::HeartbeatsStream>, Status> {
        let (answers, stream) = mpsc::channel(ITEMS_WAITING_MAX);
        tokio::spawn(listen(self.node.clone(), request.into_inner(), answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// One watch. Only a leader serves it: a node that is cut off would never learn that its view is old.
struct Watcher {
    node: NodeHandle,
    config: NodeConfig,
    items: mpsc::Sender<Result<proto::WatchItem, Status>>,
}

impl Watcher {
    async fn run(self, mut from: Revision) {
        let mut published = self.node.published();
        loop {
            let Published { view_revision, is_leader, leader } = *published.borrow_and_update();
            if !is_leader {
                let leader = leader.and_then(|id| self.config.peers.get(&id)).cloned();
                let error = proto::ControlError::from(ControlError::NotLeader { leader });
                let _ = self.send(proto::watch_item::Item::Error(error)).await;
                return;
            }
            if view_revision > from {
                let Some(view) = self.node.view_since(from).await else { return };
                from = view.revision;
                if self.send(proto::watch_item::Item::View(view.into())).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                changed = published.changed() => if changed.is_err() { return },
                () = self.items.closed() => return,
            }
        }
    }

    async fn send(&self, item: proto::watch_item::Item) -> Result<(), ()> {
        self.items.send(Ok(proto::WatchItem { item: Some(item) })).await.map_err(|_| ())
    }
}

/// The heartbeats of one OSD process. Their end is told to the detector, whatever its cause.
async fn listen(
    node: NodeHandle,
    mut heartbeats: Streaming<proto::OsdHeartbeat>,
    answers: mpsc::Sender<Result<proto::HeartbeatAnswer, Status>>,
) {
    let mut heard: Option<(OsdId, BootId)> = None;
    let mut published = node.published();
    loop {
        let heartbeat = tokio::select! {
            heartbeat = heartbeats.message() => heartbeat,
            // The node has stopped: the OSD has to find another.
            changed = published.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let Ok(Some(heartbeat)) = heartbeat else { break };
        let heartbeat = OsdHeartbeat::from(heartbeat);
        let from = (heartbeat.osd, heartbeat.boot);
        let result = node.request(ControlRequest::OsdHeartbeat(heartbeat)).await;
        let answer = match result {
            Ok(ControlReply::Done { revision }) => {
                heard = Some(from);
                proto::heartbeat_answer::Answer::Revision(revision.0)
            }
            Ok(_) => proto::heartbeat_answer::Answer::Revision(0),
            Err(error) => proto::heartbeat_answer::Answer::Error(error.into()),
        };
        if answers.send(Ok(proto::HeartbeatAnswer { answer: Some(answer) })).await.is_err() {
            break;
        }
    }
    if let Some((osd, boot)) = heard {
        node.event(NodeEvent::OsdConnectionLost { osd, boot });
    }
}

pub(crate) struct RaftService {
    node: NodeHandle,
    id: MdsId,
    cluster: ClusterId,
}

impl RaftService {
    pub(crate) fn new(node: NodeHandle, id: MdsId, cluster: ClusterId) -> RaftService {
        RaftService { node, id, cluster }
    }

    fn check(&self, message: &proto::RaftMessage) -> Result<(), Status> {
        let cluster = cluster_from_bytes("RaftMessage.cluster", &message.cluster);
        if cluster.as_ref() != Ok(&self.cluster) || message.to != self.id.0 {
            return Err(Status::failed_precondition(format!("this is {} of cluster {}", self.id, self.cluster)));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl RaftTransport for RaftService {
    async fn deliver(
        &self,
        request: Request<Streaming<proto::RaftMessage>>,
    ) -> Result<Response<proto::RaftEnd>, Status> {
        let mut messages = request.into_inner();
        let mut published = self.node.published();
        loop {
            let message = tokio::select! {
                message = messages.message() => message?,
                changed = published.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return Err(Status::unavailable("the node has stopped")),
                },
            };
            let Some(message) = message else { return Ok(Response::new(proto::RaftEnd {})) };
            self.check(&message)?;
            self.node.event(NodeEvent::RaftMessage { from: MdsId(message.from), bytes: message.message });
        }
    }
}
