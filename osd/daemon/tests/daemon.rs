//! The whole daemon with its real core, a file as its disk, and a metadata service that says yes.

mod fake_mds;

use ashlar_osd::{OsdDaemonConfig, OsdError, Shutdown, create_disk_file, mkfs, run};
use ashlar_types::control::{ControlError, ControlRequest, OsdHeartbeat};
use ashlar_types::view::{ClusterView, OsdInfo};
use ashlar_types::{BootId, ClusterId, OsdId, Revision};
use ashlar_wire::{ClientHello, Decoder, Hello, HelloReply, HelloStatus, Message, PeerHello, encode};
use fake_mds::{Asked, FakeMds};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::Duration;

const CLUSTER: ClusterId = ClusterId(0xabcd);
const OSD: OsdId = OsdId(1);
const DISK_BYTES: u64 = 256 << 20;

struct Daemon {
    config: OsdDaemonConfig,
    shutdown: Shutdown,
    thread: JoinHandle<Result<(), OsdError>>,
}

impl Daemon {
    fn start(config: &OsdDaemonConfig) -> Daemon {
        let (config, shutdown) = (config.clone(), Shutdown::new());
        let (moved, handle) = (config.clone(), shutdown.clone());
        let thread = std::thread::Builder::new().name("data".into()).spawn(move || {
            // A test that waits for what a daemon would say next shows why it says nothing.
            run(moved, handle).inspect_err(|error| eprintln!("the daemon has ended: {error}"))
        });
        Daemon { config, shutdown, thread: thread.expect("a thread") }
    }

    fn stop(self) -> OsdDaemonConfig {
        self.shutdown.trigger();
        self.thread.join().expect("no panic").expect("an orderly end");
        self.config
    }

    fn failure(self) -> OsdError {
        self.thread.join().expect("no panic").expect_err("a failure")
    }
}

fn view() -> ClusterView {
    let osd = OsdInfo {
        id: OSD,
        boot: BootId(1),
        up: true,
        address: "127.0.0.1:1".into(),
        host: "h".into(),
        capacity: DISK_BYTES,
    };
    ClusterView { cluster: CLUSTER, revision: Revision(7), osds: BTreeMap::from([(OSD, osd)]), ..Default::default() }
}

fn config(dir: &tempfile::TempDir, mds: &FakeMds) -> OsdDaemonConfig {
    let config = OsdDaemonConfig::new(dir.path().join("disk"), OSD, CLUSTER, vec![mds.address.to_string()]);
    OsdDaemonConfig { listen: "127.0.0.1:0".into(), log_bytes: Some(16 << 20), ..config }
}

/// A formatted disk and what else a daemon needs.
fn prepared() -> (tempfile::TempDir, FakeMds, OsdDaemonConfig) {
    let (dir, mds) = (tempfile::tempdir().expect("a folder"), FakeMds::start(view()));
    let config = config(&dir, &mds);
    create_disk_file(&config.disk, DISK_BYTES).expect("created");
    mkfs(&config, false).expect("formatted");
    (dir, mds, config)
}

/// The address and boot of the next registration.
fn registered(mds: &FakeMds) -> (String, BootId) {
    mds.hears(|asked| match asked {
        Asked::Request(ControlRequest::OsdRegister { osd: OSD, boot, address, capacity: DISK_BYTES, .. }) => {
            Some((address, boot))
        }
        _ => None,
    })
}

fn heartbeat(mds: &FakeMds) -> OsdHeartbeat {
    mds.hears(|asked| match asked {
        Asked::Heartbeat(heartbeat) => Some(heartbeat),
        _ => None,
    })
}

fn greet(address: &str, to: OsdId) -> HelloReply {
    let client = ClientHello {
        session: Default::default(),
        volume: Default::default(),
        attachment: Default::default(),
        generation: Default::default(),
        read_only: false,
    };
    let hello = Hello { cluster: CLUSTER, to, from: PeerHello::Client(client), connection: 1 };
    let frame = encode(&Message::Hello(hello), CLUSTER);
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket option");
    stream.write_all(&frame.head).expect("sent");
    let mut reply = [0; 512];
    stream.read_exact(&mut reply).expect("an answer");
    let mut decoder = Decoder::new(CLUSTER);
    decoder.buffer().extend_from_slice(&reply);
    match decoder.next() {
        Ok(Some(Message::HelloReply(reply))) => reply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_daemon_registers_beats_answers_and_stops_in_order() {
    let (_dir, mds, config) = prepared();
    let daemon = Daemon::start(&config);
    let (address, boot) = registered(&mds);
    let first = heartbeat(&mds);
    assert_eq!((first.osd, first.boot, first.suspects.len()), (OSD, boot, 0));
    assert!(first.usage.total > 0 && first.usage.used <= first.usage.total, "{:?}", first.usage);

    assert_eq!(greet(&address, OsdId(9)), HelloReply { osd: OSD, boot, status: HelloStatus::WrongOsd });
    assert_eq!(greet(&address, OSD), HelloReply { osd: OSD, boot, status: HelloStatus::Welcome });

    let config = daemon.stop();
    mds.hears(|asked| match asked {
        Asked::Request(ControlRequest::OsdStopping { osd: OSD, boot: b }) if b == boot => Some(()),
        _ => None,
    });

    // Again, from the same disk, as another process.
    let daemon = Daemon::start(&config);
    let (_, second_boot) = registered(&mds);
    assert_ne!(boot, second_boot);
    daemon.stop();
}

#[test]
fn a_process_that_the_service_forgot_registers_again() {
    let (_dir, mds, config) = prepared();
    let daemon = Daemon::start(&config);
    let first = registered(&mds);
    heartbeat(&mds);
    mds.forget_process();
    assert_eq!(registered(&mds), first);
    daemon.stop();
}

#[test]
fn a_process_that_was_replaced_ends() {
    let (_dir, mds, config) = prepared();
    mds.refuse_register(ControlError::Invalid("R7: osd.1 has been started again".into()));
    match Daemon::start(&config).failure() {
        OsdError::Refused { osd: OSD, source } => assert!(source.to_string().contains("started again")),
        other => panic!("{other}"),
    }
}

#[test]
fn a_disk_without_a_store_or_of_another_osd_is_named_and_left_alone() {
    let (dir, mds) = (tempfile::tempdir().expect("a folder"), FakeMds::start(view()));
    let config = config(&dir, &mds);
    create_disk_file(&config.disk, DISK_BYTES).expect("created");
    let empty = Daemon::start(&config).failure();
    assert!(matches!(empty, OsdError::Failed { .. }) && empty.to_string().contains("not an Ashlar OSD"), "{empty}");

    mkfs(&config, false).expect("formatted");
    let before = std::fs::read(&config.disk).expect("readable");
    let other = OsdDaemonConfig { osd: OsdId(2), ..config.clone() };
    let foreign = Daemon::start(&other).failure().to_string();
    assert!(foreign.contains("belongs to osd.1"), "{foreign}");
    assert!(before == std::fs::read(&config.disk).expect("readable"), "a foreign disk was changed");
}

#[test]
fn a_disk_in_use_is_not_opened_twice() {
    let (_dir, mds, config) = prepared();
    let daemon = Daemon::start(&config);
    registered(&mds);
    assert!(matches!(Daemon::start(&config).failure(), OsdError::InUse { .. }));
    assert!(matches!(mkfs(&config, true), Err(OsdError::InUse { .. })));
    daemon.stop();
}

/// Nanoseconds of CPU that the threads of this name have taken so far, all together.
fn cpu_of_threads(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let of_name = tasks.flatten().map(|t| t.path()).filter(|t| read(t.join("comm")).trim() == name);
    of_name.filter_map(|t| read(t.join("schedstat")).split(' ').next()?.parse::<u64>().ok()).sum()
}

#[test]
fn an_idle_daemon_costs_next_to_no_cpu() {
    let (_dir, mds, config) = prepared();
    let config = OsdDaemonConfig { host: "idle".into(), ..config };
    let (thread, shutdown) = (config.clone(), Shutdown::new());
    let handle = shutdown.clone();
    let daemon = std::thread::Builder::new().name("idle-data".into()).spawn(move || run(thread, handle));
    registered(&mds);
    heartbeat(&mds);
    let before = cpu_of_threads("idle-data");
    // Ten heartbeats: a second in which nothing else happens.
    (0..10).for_each(|_| drop(heartbeat(&mds)));
    let taken = cpu_of_threads("idle-data") - before;
    shutdown.trigger();
    daemon.expect("a thread").join().expect("no panic").expect("an orderly end");
    assert!(taken < 50_000_000, "{taken} ns of CPU in a second");
    println!("{taken} ns of CPU in an idle second");
}

/// The kernel lets go of what an io_uring used some time after its process has closed it: one in twenty of these found the disk in use.
#[test]
fn a_disk_can_be_opened_again_as_soon_as_it_was_closed() {
    let (_dir, _mds, config) = prepared();
    (0..100).for_each(|_| mkfs(&config, true).expect("nobody uses it"));
}
