//! The client against services that do as they are told: C1 (what is sent twice) and C2 (deadlines).

use ashlar_types::control::{ControlError, ControlReply, ControlRequest};
use ashlar_types::view::ClusterView;
use ashlar_types::{ClusterId, Name, OsdId, Revision};
use ashlar_wire_control::proto::control_server::{Control, ControlServer};
use ashlar_wire_control::{ControlClient, ControlClientError, proto};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// What a node does with a request.
type Script = Arc<dyn Fn(usize, ControlRequest) -> Act + Send + Sync>;

enum Act {
    Answer(Result<ControlReply, ControlError>),
    /// The connection breaks instead of an answer.
    Break,
    Silence,
}

#[derive(Clone)]
struct Node {
    script: Script,
    asked: Arc<Mutex<usize>>,
}

impl Node {
    async fn start(script: impl Fn(usize, ControlRequest) -> Act + Send + Sync + 'static) -> (String, Node) {
        let node = Node { script: Arc::new(script), asked: Arc::default() };
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let address = incoming.local_addr().expect("bound").to_string();
        let server = tonic::transport::Server::builder().add_service(ControlServer::new(node.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        (address, node)
    }

    fn asked(&self) -> usize {
        *self.asked.lock().expect("no panic")
    }
}

#[tonic::async_trait]
impl Control for Node {
    async fn request(&self, request: Request<proto::ControlRequest>) -> Result<Response<proto::ControlAnswer>, Status> {
        let request = ControlRequest::try_from(request.into_inner()).expect("readable");
        let number = {
            let mut asked = self.asked.lock().expect("no panic");
            *asked += 1;
            *asked
        };
        match (self.script)(number, request) {
            Act::Answer(result) => Ok(Response::new(result.into())),
            Act::Break => Err(Status::unavailable("gone")),
            Act::Silence => std::future::pending().await,
        }
    }

    type WatchStream = ReceiverStream<Result<proto::WatchItem, Status>>;

    /// Gives one view, of the next revision, then breaks off.
    async fn watch(&self, request: Request<proto::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (items, stream) = tokio::sync::mpsc::channel(2);
        let revision = Revision(request.into_inner().revision + 1);
        let view = ClusterView { cluster: ClusterId(1), revision, ..ClusterView::default() };
        let item = proto::WatchItem { item: Some(proto::watch_item::Item::View(view.into())) };
        items.send(Ok(item)).await.expect("room for two");
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type HeartbeatsStream = ReceiverStream<Result<proto::HeartbeatAnswer, Status>>;

    async fn heartbeats(
        &self,
        _: Request<Streaming<proto::OsdHeartbeat>>,
    ) -> Result<Response<Self::HeartbeatsStream>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }
}

fn done() -> Act {
    Act::Answer(Ok(ControlReply::Done { revision: Revision(1) }))
}

fn create() -> ControlRequest {
    ControlRequest::OsdCreate { host: "h".into() }
}

#[tokio::test]
async fn the_leader_named_by_another_node_is_followed_and_remembered() {
    let (leader, leading) = Node::start(|_, _| done()).await;
    let named = leader.clone();
    let (first, asked) =
        Node::start(move |_, _| Act::Answer(Err(ControlError::NotLeader { leader: Some(named.clone()) }))).await;
    let client = ControlClient::new([first]).expect("a good address");
    for _ in 0..3 {
        client.request(create()).await.expect("done");
    }
    assert_eq!((asked.asked(), leading.asked()), (1, 3));
}

#[tokio::test]
async fn a_node_that_is_down_is_passed_over() {
    let down = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound").to_string()
    };
    let (up, node) = Node::start(|_, _| done()).await;
    let client = ControlClient::new([down, up]).expect("good addresses");
    client.request(create()).await.expect("nobody was reached before");
    assert_eq!(node.asked(), 1);
}

#[tokio::test]
async fn a_broken_request_is_repeated_only_where_that_is_safe() {
    let script = |number, _| if number == 1 { Act::Break } else { done() };
    let (address, node) = Node::start(script).await;
    let client = ControlClient::new([address]).expect("a good address");
    let read = client.request(ControlRequest::ViewSince { revision: Revision(0) }).await;
    assert!(read.is_ok() && node.asked() == 2);

    let (address, node) = Node::start(script).await;
    let client = ControlClient::new([address]).expect("a good address");
    let made = client.request(create()).await;
    assert!(matches!(made, Err(ControlClientError::Broken { .. })), "{made:?}");
    assert_eq!(node.asked(), 1);
}

#[tokio::test]
async fn an_undecided_answer_is_asked_again_only_where_that_is_safe() {
    let script = |number, _| if number == 1 { Act::Answer(Err(ControlError::Undecided)) } else { done() };
    let (address, node) = Node::start(script).await;
    let client = ControlClient::new([address]).expect("a good address");
    let extend = ControlRequest::VolumeExtend { name: Name::new("v").expect("good"), size: 512 };
    assert!(client.request(extend).await.is_ok() && node.asked() == 2);

    let (address, node) = Node::start(script).await;
    let client = ControlClient::new([address]).expect("a good address");
    let made = client.request(create()).await;
    assert!(matches!(made, Err(ControlClientError::Refused(ControlError::Undecided))), "{made:?}");
    assert_eq!(node.asked(), 1);
}

#[tokio::test]
async fn every_request_ends_by_its_deadline() {
    let (address, _node) = Node::start(|_, _| Act::Silence).await;
    let client = ControlClient::new([address]).expect("a good address");
    let limit = Duration::from_millis(300);
    let begin = Instant::now();
    let write = client.request_within(create(), limit).await;
    assert!(matches!(write, Err(ControlClientError::Refused(ControlError::Undecided))), "{write:?}");
    let read = client.request_within(ControlRequest::PoolList, limit).await;
    assert!(matches!(read, Err(ControlClientError::Unreachable { .. })), "{read:?}");
    assert!(begin.elapsed() < 3 * limit);
}

#[tokio::test]
async fn refusals_keep_their_kind_and_a_busy_node_is_asked_again() {
    let (address, node) = Node::start(|number, _| match number {
        1 => Act::Answer(Err(ControlError::Busy)),
        2 => Act::Answer(Ok(ControlReply::OsdCreated { osd: OsdId(4), cluster: ClusterId(1) })),
        _ => Act::Answer(Err(ControlError::Exists { what: "volume".into(), name: "v".into() })),
    })
    .await;
    let client = ControlClient::new([address]).expect("a good address");
    assert!(matches!(client.request(create()).await, Ok(ControlReply::OsdCreated { osd: OsdId(4), .. })));
    assert_eq!(node.asked(), 2);
    let refused = client.request(create()).await;
    assert!(matches!(refused, Err(ControlClientError::Refused(ControlError::Exists { .. }))), "{refused:?}");
}

#[tokio::test]
async fn a_watch_goes_on_where_its_stream_broke() {
    let (address, _node) = Node::start(|_, _| done()).await;
    let client = ControlClient::new([address]).expect("a good address");
    let mut views = client.watch(Revision(5));
    for expected in 6..10 {
        let view = views.recv().await.expect("never ends by itself");
        assert_eq!(view.revision, Revision(expected));
    }
}

#[test]
fn addresses_are_checked_before_anything_is_asked() {
    for bad in ["", "host", "host:", ":7400", "host:99999", "ho st:1"] {
        let client = ControlClient::new([bad.to_owned()]);
        assert!(matches!(client, Err(ControlClientError::Address { .. })), "{bad:?}");
    }
    assert!(ControlClient::new([]).is_err());
}
