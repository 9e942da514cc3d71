use ashlar_types::Revision;
use ashlar_types::control::{ControlReply, ControlRequest};
use ashlar_types::view::ClusterView;
use ashlar_wire_control::{ControlClient, ControlClientError};
use std::future::Future;
use std::pin::Pin;
use tokio::sync::mpsc;

pub type ControlFuture<'a> = Pin<Box<dyn Future<Output = Result<ControlReply, ControlClientError>> + Send + 'a>>;

/// What the library asks of the metadata service. Only what may be asked twice.
pub trait Control: Send + Sync + 'static {
    fn request(&self, request: ControlRequest) -> ControlFuture<'_>;

    /// Views from `from` on, each a difference, for as long as the receiver lives. Called within a tokio runtime.
    fn watch(&self, from: Revision) -> mpsc::Receiver<ClusterView>;
}

impl Control for ControlClient {
    fn request(&self, request: ControlRequest) -> ControlFuture<'_> {
        Box::pin(ControlClient::request(self, request))
    }

    fn watch(&self, from: Revision) -> mpsc::Receiver<ClusterView> {
        ControlClient::watch(self, from)
    }
}
