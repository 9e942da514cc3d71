//! Real daemons in one process, over loopback and temporary folders.

use ashlar_mds::{MdsConfig, MdsError, PeerConfig, bin_window_default, run};
use ashlar_types::control::{ControlError, ControlReply, ControlRequest, OsdHeartbeat, OsdUsage, Provision};
use ashlar_types::perf::PerfReport;
use ashlar_types::view::ClusterView;
use ashlar_types::{BootId, Name, OsdId, Revision};
use ashlar_wire_control::{ControlClient, ControlClientError};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(20);

struct Daemon {
    config: MdsConfig,
    running: Option<Running>,
}

struct Running {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), MdsError>>,
}

impl Daemon {
    fn start(&mut self) {
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        self.running = Some(Running { stop, ended: tokio::spawn(run(self.config.clone(), shutdown)) });
    }

    async fn stop(&mut self) {
        let Running { stop, ended } = self.running.take().expect("running");
        let _ = stop.send(());
        ended.await.expect("no panic").expect("a clean end");
    }
}

/// Ports that were free a moment ago, each given once to this process.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    listeners.iter().map(|l| l.local_addr().expect("bound").port()).collect()
}

fn group(folder: &Path, size: usize) -> Vec<Daemon> {
    let peers: Vec<_> =
        (1..).zip(free_ports(size)).map(|(id, port)| PeerConfig { id, address: format!("127.0.0.1:{port}") }).collect();
    let config = |peer: &PeerConfig| MdsConfig {
        id: peer.id,
        data_dir: folder.join(format!("mds.{}", peer.id)),
        listen: peer.address.clone(),
        peers: peers.clone(),
        cluster: Some("000000000000000000000000000000c1".into()),
        bin_window: bin_window_default(),
    };
    peers.iter().map(|peer| Daemon { config: config(peer), running: None }).collect()
}

fn client(daemons: &[Daemon]) -> ControlClient {
    ControlClient::new(daemons.iter().map(|d| d.config.listen.clone())).expect("good addresses")
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a good name")
}

fn create_osd() -> ControlRequest {
    ControlRequest::OsdCreate { host: "h".into() }
}

fn register(osd: u32, boot: u64) -> ControlRequest {
    ControlRequest::OsdRegister {
        osd: OsdId(osd),
        boot: BootId(boot),
        address: "127.0.0.1:1".into(),
        host: "h".into(),
        capacity: 1 << 30,
    }
}

async fn view(client: &ControlClient) -> ClusterView {
    let request = ControlRequest::ViewSince { revision: Revision(0) };
    match client.request_within(request, PATIENCE).await {
        Ok(ControlReply::View(view)) => *view,
        other => panic!("{other:?}"),
    }
}

/// Asks for an OSD until one is made; says how long that took.
async fn create_osd_somehow(client: &ControlClient) -> Duration {
    let begin = Instant::now();
    loop {
        match client.request_within(create_osd(), PATIENCE).await {
            Ok(ControlReply::OsdCreated { .. }) => return begin.elapsed(),
            // Not safe to repeat for others; here one OSD more does no harm.
            Err(ControlClientError::Broken { .. } | ControlClientError::Refused(ControlError::Undecided)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_one_answers_and_restarts_with_its_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut daemons = group(folder.path(), 1);
    daemons[0].start();
    let client = client(&daemons);
    let begin = Instant::now();
    client.request(create_osd()).await.expect("made");
    assert!(begin.elapsed() < Duration::from_secs(3), "a group of one waits for nobody: {:?}", begin.elapsed());
    client.request(register(1, 11)).await.expect("registered");
    let pool = ControlRequest::PoolCreate { name: name("p"), replicas: 1, min_size: None, over_commit: None };
    client.request(pool).await.expect("made");
    let volume =
        ControlRequest::VolumeCreate { name: name("v"), size: 1 << 30, pool: None, provision: Provision::Thin };
    let ControlReply::Volume(made) = client.request(volume.clone()).await.expect("made") else { panic!("a volume") };
    let before = view(&client).await;
    daemons[0].stop().await;
    daemons[0].start();
    assert_eq!(view(&client).await, before);
    let shown = client.request(ControlRequest::VolumeShow { name: name("v") }).await.expect("kept");
    assert_eq!(shown, ControlReply::Volume(made));
    let again = client.request(volume).await;
    assert!(matches!(again, Err(ControlClientError::Refused(ControlError::Exists { .. }))), "{again:?}");
    daemons[0].stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_survive_the_loss_of_any_and_catch_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut daemons = group(folder.path(), 3);
    daemons.iter_mut().for_each(Daemon::start);
    let client = client(&daemons);
    create_osd_somehow(&client).await;
    for (victim, daemon) in daemons.iter_mut().enumerate() {
        let known = view(&client).await.osds.len();
        daemon.stop().await;
        let outage = create_osd_somehow(&client).await;
        assert!(outage < Duration::from_secs(5), "an election took {outage:?}");
        assert!(view(&client).await.osds.len() > known, "nothing acknowledged is lost");
        // More than the log keeps, so that who was away needs a snapshot (once for the three of them is enough).
        for _ in 0..if victim == 0 { 2200 } else { 20 } {
            client.request(register_gateway(victim)).await.expect("two of three are enough");
        }
        daemon.start();
    }
    let expected = view(&client).await;
    // Each alone with one other: whoever leads has everything.
    daemons[1].stop().await;
    assert_eq!(view(&client).await, expected);
    daemons[1].start();
    daemons[2].stop().await;
    assert_eq!(view(&client).await, expected);
    daemons[0].stop().await;
    daemons[1].stop().await;
}

/// A change of state that makes the state no larger.
fn register_gateway(victim: usize) -> ControlRequest {
    ControlRequest::RegisterGateway {
        gateway: format!("g{victim}"),
        boot: BootId(1),
        nbd_address: String::new(),
        nbd_socket: String::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_follow_the_leader() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut daemons = group(folder.path(), 3);
    daemons.iter_mut().for_each(Daemon::start);
    let client = client(&daemons);
    let mut changes = client.watch(Revision(0));
    let mut watched = ClusterView::default();
    for daemon in &mut daemons {
        create_osd_somehow(&client).await;
        let expected = view(&client).await;
        while watched != expected {
            let change = tokio::time::timeout(PATIENCE, changes.recv()).await.expect("in time").expect("no end");
            watched.apply(change);
        }
        daemon.stop().await;
        create_osd_somehow(&client).await;
        daemon.start();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_osd_whose_heartbeats_break_off_goes_down_soon() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut daemons = group(folder.path(), 1);
    daemons[0].start();
    let client = client(&daemons);
    client.request(create_osd()).await.expect("made");
    let mut heartbeats = client.heartbeats();
    let heartbeat = || {
        let (usage, perf) = (Box::new(OsdUsage::default()), PerfReport::new());
        OsdHeartbeat {
            osd: OsdId(1),
            boot: BootId(11),
            suspects: vec![],
            usage,
            view: Revision(0),
            layers: vec![],
            perf,
        }
    };
    let early = heartbeats.send(heartbeat()).await;
    assert!(matches!(early, Err(ControlClientError::Refused(ControlError::Invalid(_)))), "{early:?}");
    client.request(register(1, 11)).await.expect("registered");
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(2) {
        // A busy machine may be late with one answer; the next heartbeat makes up for it.
        let _ = heartbeats.send(heartbeat()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    heartbeats.send(heartbeat()).await.expect("answered");
    assert!(view(&client).await.osds[&OsdId(1)].up, "it was heard longer than silence is borne");
    let mut changes = client.watch(view(&client).await.revision);
    let broken = Instant::now();
    drop(heartbeats);
    let change = tokio::time::timeout(PATIENCE, changes.recv()).await.expect("in time").expect("no end");
    assert!(!change.osds[&OsdId(1)].up);
    let took = broken.elapsed().as_millis();
    assert!(
        (200..1400).contains(&took),
        "a broken stream is followed up after the grace, not after silence: {took} ms"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_start_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut daemons = group(folder.path(), 1);
    let good = daemons[0].config.clone();
    daemons[0].start();
    create_osd_somehow(&client(&daemons)).await;
    let refused = run(MdsConfig { data_dir: folder.path().join("other"), ..good.clone() }, std::future::pending());
    assert!(matches!(refused.await, Err(MdsError::Listen { .. })), "the port is taken");
    daemons[0].stop().await;
    let other_cluster = MdsConfig { cluster: Some("000000000000000000000000000000c2".into()), ..good.clone() };
    let text = run(other_cluster, std::future::pending()).await.expect_err("refused").to_string();
    assert!(text.contains("belongs to mds.1 of cluster 000000000000000000000000000000c1"), "{text}");
    let grown = group(folder.path(), 3).remove(0).config;
    let text = run(grown, std::future::pending()).await.expect_err("refused").to_string();
    assert!(text.contains("was made for the metadata nodes [mds.1]"), "{text}");
    let nobody = ControlClient::new([good.listen]).expect("a good address");
    let error = nobody.request_within(ControlRequest::PoolList, Duration::from_millis(300)).await;
    assert!(matches!(error, Err(ControlClientError::Unreachable { .. })), "{error:?}");
}
