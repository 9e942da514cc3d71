//! A metadata service that says yes to everything but what a test tells it to refuse, and notes what it is asked.

use ashlar_types::Revision;
use ashlar_types::control::{ControlError, ControlReply, ControlRequest, OsdHeartbeat};
use ashlar_types::view::ClusterView;
use ashlar_wire_control::proto;
use ashlar_wire_control::proto::control_server::{Control, ControlServer};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

#[derive(Clone, Debug)]
pub enum Asked {
    Request(ControlRequest),
    Heartbeat(OsdHeartbeat),
    Watch,
}

#[derive(Default)]
struct Behaviour {
    refuse_register: Option<ControlError>,
    forget_process: bool,
}

struct Service {
    asked: mpsc::Sender<Asked>,
    behaviour: Arc<Mutex<Behaviour>>,
    view: ClusterView,
}

impl Service {
    fn note(&self, asked: Asked) {
        // A test that has seen enough hangs up.
        let _ = self.asked.send(asked);
    }
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Control for Service {
    async fn request(&self, request: Request<proto::ControlRequest>) -> Result<Response<proto::ControlAnswer>, Status> {
        let request = ControlRequest::try_from(request.into_inner()).expect("a readable request");
        let refused = match &request {
            ControlRequest::OsdRegister { .. } => {
                let mut behaviour = self.behaviour.lock().expect("no panic");
                behaviour.forget_process = false;
                behaviour.refuse_register.clone()
            }
            _ => None,
        };
        self.note(Asked::Request(request));
        let answer: Result<ControlReply, ControlError> =
            refused.map_or(Ok(ControlReply::Done { revision: Revision(7) }), Err);
        Ok(Response::new(answer.into()))
    }

    type WatchStream = Answers<proto::WatchItem>;
    async fn watch(&self, _: Request<proto::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.note(Asked::Watch);
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let view = proto::watch_item::Item::View(self.view.clone().into());
        tokio::spawn(async move {
            let _ = sender.send(Ok(proto::WatchItem { item: Some(view) })).await;
            sender.closed().await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    type HeartbeatsStream = Answers<proto::HeartbeatAnswer>;
    async fn heartbeats(
        &self,
        request: Request<Streaming<proto::OsdHeartbeat>>,
    ) -> Result<Response<Self::HeartbeatsStream>, Status> {
        let (asked, behaviour) = (self.asked.clone(), self.behaviour.clone());
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let mut heartbeats = request.into_inner();
        tokio::spawn(async move {
            while let Some(Ok(heartbeat)) = heartbeats.next().await {
                let _ = asked.send(Asked::Heartbeat(heartbeat.into()));
                let answer = match behaviour.lock().expect("no panic").forget_process {
                    true => proto::heartbeat_answer::Answer::Error(ControlError::Invalid("who is that".into()).into()),
                    false => proto::heartbeat_answer::Answer::Revision(7),
                };
                let _ = sender.send(Ok(proto::HeartbeatAnswer { answer: Some(answer) })).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

pub struct FakeMds {
    pub address: SocketAddr,
    asked: mpsc::Receiver<Asked>,
    behaviour: Arc<Mutex<Behaviour>>,
    /// Ends the service when dropped.
    _runtime: tokio::runtime::Runtime,
}

impl FakeMds {
    pub fn start(view: ClusterView) -> FakeMds {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("bound");
        let (sender, asked) = mpsc::channel();
        let behaviour = Arc::<Mutex<Behaviour>>::default();
        let service = Service { asked: sender, behaviour: behaviour.clone(), view };
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        runtime.spawn(
            tonic::transport::Server::builder().add_service(ControlServer::new(service)).serve_with_incoming(incoming),
        );
        FakeMds { address, asked, behaviour, _runtime: runtime }
    }

    pub fn refuse_register(&self, error: ControlError) {
        self.behaviour.lock().expect("no panic").refuse_register = Some(error);
    }

    /// Until the next registration.
    pub fn forget_process(&self) {
        self.behaviour.lock().expect("no panic").forget_process = true;
    }

    /// Waits for something that it is asked.
    pub fn hears<T>(&self, mut wanted: impl FnMut(Asked) -> Option<T>) -> T {
        loop {
            let asked = self.asked.recv_timeout(Duration::from_secs(20)).expect("it is asked in time");
            if let Some(found) = wanted(asked) {
                return found;
            }
        }
    }
}
