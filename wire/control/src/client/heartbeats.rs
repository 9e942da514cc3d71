//! The heartbeats of an OSD process: one stream to the leader, opened again where it breaks.

use super::ControlClientError;
use super::nodes::Nodes;
use crate::proto;
use ashlar_types::Revision;
use ashlar_types::control::{ControlError, OsdHeartbeat};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// An answer that takes longer means that this node is of no use; three of them fit into the service's patience.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);

/// Sends one heartbeat at a time. Dropping it ends the stream, which the metadata service takes for a hint that the
/// process died.
#[derive(Debug)]
pub struct HeartbeatStream {
    nodes: Arc<Nodes>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    address: String,
    sender: mpsc::Sender<proto::OsdHeartbeat>,
    answers: tonic::Streaming<proto::HeartbeatAnswer>,
}

impl HeartbeatStream {
    pub(super) fn new(nodes: Arc<Nodes>) -> HeartbeatStream {
        HeartbeatStream { nodes, open: None }
    }

    /// Sends one heartbeat and waits for its answer: the revision of the view at the leader, or its refusal. On failure the
    /// next call tries the next node; call again at once until it succeeds. Giving up the call keeps the stream.
    pub async fn send(&mut self, heartbeat: OsdHeartbeat) -> Result<Revision, ControlClientError> {
        let result = match tokio::time::timeout(ANSWER_LIMIT, self.exchange(heartbeat)).await {
            Ok(result) => result,
            Err(_) => Err(self.unreachable()),
        };
        match &result {
            Ok(_) => {}
            Err(ControlClientError::Refused(ControlError::NotLeader { leader })) => {
                if let Some(open) = self.open.take() {
                    self.nodes.follow(&open.address, leader.clone());
                }
            }
            Err(ControlClientError::Refused(_)) => {}
            Err(_) => match self.open.take() {
                Some(open) => self.nodes.forget(&open.address),
                None => self.nodes.skip(),
            },
        }
        result
    }

    async fn exchange(&mut self, heartbeat: OsdHeartbeat) -> Result<Revision, ControlClientError> {
        if self.open.is_none() {
            self.open = Some(self.connect().await?);
        }
        let tried = self.unreachable();
        let open = self.open.as_mut().expect("opened above");
        // The receiving half lives in the call; if that ended, the answer below says so.
        let _ = open.sender.send(heartbeat.into()).await;
        let answer = match open.answers.message().await {
            Ok(Some(proto::HeartbeatAnswer { answer: Some(answer) })) => answer,
            _ => return Err(tried),
        };
        match answer {
            proto::heartbeat_answer::Answer::Revision(revision) => Ok(Revision(revision)),
            proto::heartbeat_answer::Answer::Error(error) => {
                let address = || open.address.clone();
                let error = ControlError::try_from(error);
                Err(error.map_err(|source| ControlClientError::Protocol { address: address(), source })?.into())
            }
        }
    }

    async fn connect(&self) -> Result<Open, ControlClientError> {
        let (address, connected) = self.nodes.connect().await;
        let mut client = connected.map_err(|_| self.unreachable())?;
        let (sender, receiver) = mpsc::channel(1);
        match client.heartbeats(ReceiverStream::new(receiver)).await {
            Ok(answers) => Ok(Open { address, sender, answers: answers.into_inner() }),
            Err(_) => Err(self.unreachable()),
        }
    }

    fn unreachable(&self) -> ControlClientError {
        ControlClientError::Unreachable { tried: self.nodes.addresses(), waited: ANSWER_LIMIT }
    }
}
