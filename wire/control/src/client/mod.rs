//! Clients of the metadata service: daemons and the command line.
//! C1: a request that changes state is sent again only if it had no effect (nobody was reached, or a node said so) or if
//! doing it twice is the same as once. C2: it ends by its deadline. C3: cheap to clone; all clones share connections.

mod heartbeats;
mod nodes;
mod watch;

pub use heartbeats::HeartbeatStream;

use crate::{ProtoError, proto};
use ashlar_types::Revision;
use ashlar_types::control::{ControlError, ControlReply, ControlRequest};
use ashlar_types::view::ClusterView;
use nodes::Nodes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long a request is tried if nobody says otherwise. Longer than an election and the service's own limit (5 s).
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two rounds over all nodes.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum ControlClientError {
    /// The metadata service answered, with a refusal.
    #[error(transparent)]
    Refused(#[from] ControlError),
    #[error("no metadata node could be reached within {} ms; tried {}", .waited.as_millis(), .tried.join(", "))]
    Unreachable { tried: Vec<String>, waited: Duration },
    /// Only for requests that must not be sent twice.
    #[error("the connection to {address} broke before an answer came; the request may have taken effect ({source})")]
    Broken { address: String, source: Box<tonic::Status> },
    #[error("an answer of {address} is not readable: {source}")]
    Protocol { address: String, source: ProtoError },
    #[error("{address:?} is not an address like HOST:PORT")]
    Address { address: String },
}

/// See the header of this file.
#[derive(Clone, Debug)]
pub struct ControlClient {
    nodes: Arc<Nodes>,
}

/// What one attempt at one node came to.
enum Attempt {
    Decided(Result<ControlReply, ControlClientError>),
    /// It had no effect, or may be repeated.
    Again,
}

impl ControlClient {
    /// `addresses`: `HOST:PORT` of metadata nodes, at least one; others are learned from the answers. Connects when it is
    /// first used.
    pub fn new(addresses: impl IntoIterator<Item = String>) -> Result<ControlClient, ControlClientError> {
        Ok(ControlClient { nodes: Arc::new(Nodes::new(addresses)?) })
    }

    pub async fn request(&self, request: ControlRequest) -> Result<ControlReply, ControlClientError> {
        self.request_within(request, DEADLINE).await
    }

    pub async fn request_within(
        &self,
        request: ControlRequest,
        limit: Duration,
    ) -> Result<ControlReply, ControlClientError> {
        let deadline = Instant::now() + limit;
        loop {
            let attempt = tokio::time::timeout_at(deadline, self.attempt(&request)).await;
            match attempt {
                Ok(Attempt::Decided(result)) => return result,
                Ok(Attempt::Again) if Instant::now() + PAUSE < deadline => tokio::time::sleep(PAUSE).await,
                Ok(Attempt::Again) => return Err(self.unreachable(limit)),
                Err(_) if is_repeatable(&request) => return Err(self.unreachable(limit)),
                Err(_) => return Err(ControlError::Undecided.into()),
            }
        }
    }

    /// Views from `from` on, for as long as the receiver lives: each is a difference for [`ClusterView::apply`]. Follows the
    /// leader and reconnects by itself. Has to be called within a tokio runtime.
    pub fn watch(&self, from: Revision) -> mpsc::Receiver<ClusterView> {
        watch::start(self.nodes.clone(), from)
    }

    /// The heartbeats of one OSD process.
    pub fn heartbeats(&self) -> HeartbeatStream {
        HeartbeatStream::new(self.nodes.clone())
    }

    fn unreachable(&self, waited: Duration) -> ControlClientError {
        ControlClientError::Unreachable { tried: self.nodes.addresses(), waited }
    }

    /// Tries the supposed leader and goes on to another node where that is the way.
    async fn attempt(&self, request: &ControlRequest) -> Attempt {
        let (address, connected) = self.nodes.connect().await;
        let Ok(mut client) = connected else {
            self.nodes.try_next(&address);
            return Attempt::Again;
        };
        let message = proto::ControlRequest::from(request.clone());
        match client.request(message).await {
            Ok(answer) => self.judge(request, address, answer.into_inner()),
            Err(source) => {
                self.nodes.forget(&address);
                if is_repeatable(request) {
                    return Attempt::Again;
                }
                Attempt::Decided(Err(ControlClientError::Broken { address, source: Box::new(source) }))
            }
        }
    }

    fn judge(&self, request: &ControlRequest, address: String, answer: proto::ControlAnswer) -> Attempt {
        let result: Result<ControlReply, ControlError> = match answer.try_into() {
            Ok(result) => result,
            Err(source) => return Attempt::Decided(Err(ControlClientError::Protocol { address, source })),
        };
        match result {
            Err(ControlError::NotLeader { leader }) => {
                self.nodes.follow(&address, leader);
                Attempt::Again
            }
            Err(ControlError::Busy) => Attempt::Again,
            Err(ControlError::Undecided) if is_repeatable(request) => Attempt::Again,
            decided => Attempt::Decided(decided.map_err(Into::into)),
        }
    }
}

/// Whether doing it twice is the same as doing it once, for the state and for who asks.
fn is_repeatable(request: &ControlRequest) -> bool {
    use ControlRequest as R;
    match request {
        R::PoolList
        | R::VolumeList
        | R::VolumeShow { .. }
        | R::SnapshotList { .. }
        | R::SnapshotShow { .. }
        | R::SnapshotGroupList
        | R::SnapshotGroupShow { .. }
        | R::BinList
        | R::WipeList
        | R::WipeDone { .. }
        | R::AttachmentList { .. }
        | R::ViewSince { .. }
        | R::ServiceStatus
        | R::PerfStatus
        | R::SpaceUse { .. }
        | R::VolumeExtend { .. }
        | R::VolumeSet { .. }
        | R::VolumeSetMode { .. }
        | R::VolumeSetWipeFreed { .. }
        | R::VolumeShrink { .. }
        | R::PoolSet { .. }
        | R::PoolKeepDeleted { .. }
        | R::OpenAttachment { .. }
        | R::SessionGrant { .. }
        | R::BaseGrant { .. }
        | R::RegisterGateway { .. }
        | R::OsdRegister { .. }
        | R::OsdHeartbeat(_)
        | R::OsdStopping { .. }
        | R::PgChange { .. }
        | R::BarrierPassed { .. }
        | R::MergeDone { .. }
        | R::VolumeFlatten { .. }
        | R::JobList
        | R::JobSet { .. }
        | R::JobGrant { .. }
        | R::JobProgress { .. }
        // While it is under way it is the same one.
        | R::ShrinkStart { .. }
        // A second wish takes the place of the first.
        | R::ScrubStart { .. }
        | R::ScrubCancel { .. }
        | R::ScrubDone { .. } => true,
        R::PoolCreate { .. }
        | R::VolumeCreate { .. }
        | R::VolumeCreateWiping { .. }
        | R::VolumeDelete { .. }
        | R::SnapshotCreate { .. }
        | R::SnapshotDelete { .. }
        | R::SnapshotGroupCreate { .. }
        | R::SnapshotGroupDelete { .. }
        | R::VolumeToBin { .. }
        | R::BinRestore { .. }
        | R::BinPurge { .. }
        | R::BinPurgeExpired { .. }
        | R::VolumeWipe { .. }
        | R::BinWipe { .. }
        | R::WipeForget { .. }
        | R::VolumeRevert { .. }
        | R::VolumeClone { .. }
        | R::Attach { .. }
        | R::Detach { .. }
        | R::JobCancel { .. }
        | R::JobTake { .. }
        | R::JobDone { .. }
        | R::ShrinkEnd { .. }
        | R::OsdCreate { .. } => false,
    }
}
