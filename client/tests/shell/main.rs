//! The volume library on real sockets: tokio, loopback TCP, the data protocol's frames; OSDs and metadata service are fakes.

mod chain;
mod fake;
mod shrinks;

use ashlar_client::{Cluster, Gateway, GatewayOptions, OpenError, Volume};
use ashlar_types::control::ControlError;
use ashlar_types::{BlockDevice, BlockError, BlockOp, BlockReply, BootId, OsdId};
use bytes::Bytes;
use fake::{Caller, FakeMds, FakeOsd, SharedStore, grant, name};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;

const MIB: u64 = 1 << 20;
const BOOT: BootId = BootId(9);
/// No test takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(20);

struct Setup {
    store: SharedStore,
    mds: Arc<FakeMds>,
    osds: Vec<FakeOsd>,
}

impl Setup {
    async fn new(size: u64) -> Setup {
        let store = SharedStore::default();
        let mds = Arc::new(FakeMds::default());
        let mut osds = Vec::new();
        for id in 0..2 {
            let epoch = mds.clone();
            osds.push(FakeOsd::start(id, move || epoch.epoch(), &store).await);
        }
        mds.configure(&[&osds[0], &osds[1]], Some(OsdId(0)));
        mds.will_grant([Ok(grant(11, size))]);
        Setup { store, mds, osds }
    }

    async fn volume(&self) -> Arc<Volume> {
        let cluster = Cluster::connect(self.mds.clone()).await.expect("a view");
        Volume::open(&cluster, &name(), "gw", BOOT, PATIENCE).await.expect("granted")
    }

    async fn gateway(&self, close_after: Duration) -> Gateway {
        let options = GatewayOptions { close_after, ..GatewayOptions::default() };
        Gateway::connect(self.mds.clone(), "gw".to_owned(), BOOT, options).await.expect("a view")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, fake::FakeStore> {
        self.store.lock().expect("no panic")
    }
}

fn pattern(len: u64, seed: u64) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31).wrapping_add(i >> 9).wrapping_add(seed)) as u8).collect()
}

#[tokio::test]
async fn what_was_written_is_read_at_any_size_and_alignment() {
    let setup = Setup::new(100 * MIB).await;
    let volume = setup.volume().await;
    assert_eq!((volume.info().size, volume.info().read_only), (100 * MIB, false));
    let caller = Caller::new(volume.clone());
    let big = pattern(32 * MIB, 1);
    caller.write(3 * MIB + 512, big.clone()).await;
    caller.write(5, vec![9; 3]).await;
    assert!(caller.read(3 * MIB + 512, 32 << 20).await == big);
    assert_eq!(caller.read(0, 12).await, [0, 0, 0, 0, 0, 9, 9, 9, 0, 0, 0, 0]);
    let done = caller.run(BlockOp::Discard { offset: 4 * MIB, len: 4 * MIB }).await;
    assert!(matches!(done, Ok(BlockReply::Done)));
    assert!(caller.read(4 * MIB, 4 << 20).await.iter().all(|byte| *byte == 0));
    assert!(matches!(caller.run(BlockOp::Flush).await, Ok(BlockReply::Done)));
    assert!(volume.close(PATIENCE).await.is_some());
    assert_eq!(setup.lock().hellos.len(), 1, "one connection carried it all");
}

#[tokio::test]
async fn many_requests_under_way_all_come_back_right() {
    let setup = Setup::new(64 * MIB).await;
    let caller = Caller::new(setup.volume().await);
    let writes: Vec<_> = (0..2000u64)
        .map(|i| caller.submit(BlockOp::Write { offset: i * 4096 * 3, data: Bytes::from(pattern(4096, i)) }))
        .collect();
    let reads: Vec<_> =
        (0..2000u64).map(|i| caller.submit(BlockOp::Read { offset: i * 4096 * 3, len: 4096 })).collect();
    for write in writes {
        assert!(matches!(write.await, Ok(Ok(BlockReply::Done))));
    }
    for (i, read) in (0..).zip(reads) {
        let Ok(Ok(BlockReply::Data(pieces))) = read.await else { panic!("read {i}") };
        assert!(pieces.concat() == pattern(4096, i), "a read follows the write before it");
    }
}

#[tokio::test]
async fn a_primary_that_dies_under_load_is_not_noticed() {
    let mut setup = Setup::new(64 * MIB).await;
    let caller = Caller::new(setup.volume().await);
    let mut answers = Vec::new();
    for i in 0..400u64 {
        answers.push(caller.submit(BlockOp::Write { offset: i * 8192, data: Bytes::from(pattern(8192, i)) }));
        if i == 200 {
            tokio::task::yield_now().await;
            setup.osds.remove(0).kill();
        }
        if i == 300 {
            tokio::time::sleep(Duration::from_millis(30)).await;
            setup.mds.configure(&[&setup.osds[0]], Some(OsdId(1)));
        }
    }
    for answer in answers {
        let answer = timeout(PATIENCE, answer).await.expect("in time").expect("completed");
        assert!(matches!(answer, Ok(BlockReply::Done)), "{answer:?}");
    }
    for i in 0..400u64 {
        assert!(caller.read(i * 8192, 8192).await == pattern(8192, i));
    }
}

#[tokio::test]
async fn a_view_from_the_watch_is_used_while_a_demand_for_it_hangs() {
    let mut setup = Setup::new(64 * MIB).await;
    let caller = Caller::new(setup.volume().await);
    caller.write(0, pattern(4096, 1)).await;
    setup.mds.hang();
    setup.osds.remove(0).kill();
    let answer = caller.submit(BlockOp::Read { offset: 0, len: 4096 });
    let demand = async {
        while setup.mds.unanswered.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, demand).await.expect("the volume wants a newer view");
    setup.mds.configure(&[&setup.osds[0]], Some(OsdId(1)));
    let answer = timeout(PATIENCE, answer).await.expect("in time").expect("completed");
    assert!(matches!(answer, Ok(BlockReply::Data(_))), "{answer:?}");
}

#[tokio::test]
async fn garbage_from_an_osd_costs_a_connection_and_nothing_else() {
    let setup = Setup::new(64 * MIB).await;
    let caller = Caller::new(setup.volume().await);
    caller.write(0, pattern(4096, 1)).await;
    setup.lock().garbage = Some(Bytes::from(vec![0xa5; 4096]));
    assert!(caller.read(0, 4096).await == pattern(4096, 1));
    let hellos = setup.lock().hellos.clone();
    assert_eq!(hellos.iter().map(|(_, connection)| *connection).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn opening_waits_while_the_older_holder_is_fenced() {
    let setup = Setup::new(MIB).await;
    let fencing = || Err(ControlError::Fencing { waiting_for: "pg.1.0".to_owned() });
    setup.mds.will_grant([fencing(), fencing(), Ok(grant(11, MIB))]);
    setup.volume().await;

    setup.mds.will_grant([fencing()]);
    let cluster = Cluster::connect(setup.mds.clone()).await.expect("a view");
    let error =
        Volume::open(&cluster, &name(), "gw", BOOT, Duration::from_millis(120)).await.expect_err("still fencing");
    assert_eq!(error.to_string(), "volume disk is still being taken over: waiting for pg.1.0");

    setup.mds.will_grant([Err(ControlError::Attached { name: "disk".to_owned(), holder: "gw-2".to_owned() })]);
    let error = Volume::open(&cluster, &name(), "gw", BOOT, PATIENCE).await.expect_err("attached elsewhere");
    assert!(matches!(error, OpenError::NotAttached { .. }), "{error}");
}

#[tokio::test]
async fn a_closed_volume_waits_for_requests_then_fails_them_and_later_ones() {
    let setup = Setup::new(MIB).await;
    let volume = setup.volume().await;
    let caller = Caller::new(volume.clone());
    caller.write(0, vec![1; 512]).await;
    setup.lock().mute = true;
    let stuck = caller.submit(BlockOp::Write { offset: 0, data: Bytes::from(vec![2; 512]) });
    let closing = volume.close(Duration::from_millis(50));
    assert!(timeout(PATIENCE, closing).await.expect("by its deadline").is_some());
    assert!(matches!(stuck.await, Ok(Err(BlockError::ShuttingDown))));
    let late = caller.run(BlockOp::Read { offset: 0, len: 512 }).await;
    assert!(matches!(late, Err(BlockError::ShuttingDown)));
    assert!(volume.close(PATIENCE).await.is_none(), "it is closed");
}

#[test]
fn a_runtime_that_ends_leaves_no_request_without_completion() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (caller, stuck) = runtime.block_on(async {
        let setup = Setup::new(MIB).await;
        setup.lock().mute = true;
        let caller = Caller::new(setup.volume().await);
        let stuck = caller.submit(BlockOp::Read { offset: 0, len: 512 });
        tokio::task::yield_now().await;
        (caller, stuck)
    });
    drop(runtime);
    assert!(matches!(stuck.blocking_recv(), Ok(Err(BlockError::ShuttingDown))));
    let late = caller.submit(BlockOp::Flush);
    assert!(matches!(late.blocking_recv(), Ok(Err(BlockError::ShuttingDown))));
}

#[tokio::test]
async fn connections_share_a_session_and_one_that_is_opened_again_uses_no_number_twice() {
    let setup = Setup::new(MIB).await;
    let gateway = setup.gateway(Duration::from_millis(20)).await;
    let mut seen = 0;
    for round in 1..4u64 {
        let first = gateway.open("disk").await.expect("attached");
        let second = gateway.open("disk").await.expect("attached");
        Caller::new(first.clone()).write(0, vec![1; 512]).await;
        drop(first);
        Caller::new(second.clone()).write(4096, vec![2; 512]).await;
        assert_eq!(setup.lock().numbers.len(), seen + 2, "each write had a number of its own");
        seen += 2;
        let hellos = setup.lock().hellos.clone();
        assert_eq!(hellos.last().map(|(_, connection)| *connection), Some(round));
        assert_eq!(hellos.len() as u64, round, "one connection for both");
        drop(second);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(Caller::new(gateway.open("disk").await.expect("attached")).read(0, 1).await, [1]);
}

#[tokio::test]
async fn a_fenced_volume_is_refused_until_it_is_attached_anew() {
    let setup = Setup::new(MIB).await;
    let gateway = setup.gateway(PATIENCE).await;
    let open = gateway.open("disk").await.expect("attached");
    let caller = Caller::new(open.clone());
    caller.write(0, vec![1; 512]).await;
    setup.lock().fenced = true;
    let answer = caller.run(BlockOp::Read { offset: 0, len: 512 }).await;
    assert!(matches!(answer, Err(BlockError::Fenced)));
    assert!(open.is_fenced());
    let error = gateway.open("disk").await.expect_err("fenced");
    assert!(matches!(error, OpenError::Fenced { .. }));
    assert!(error.to_string().contains("attach it again"), "{error}");

    setup.mds.will_grant([Ok(grant(12, 2 * MIB))]);
    setup.lock().fenced = false;
    let again = gateway.open("disk").await.expect("attached anew");
    assert_eq!(again.info().size, 2 * MIB);
    assert_eq!(Caller::new(again).read(0, 1).await, [1]);
    let answer = caller.run(BlockOp::Read { offset: 0, len: 512 }).await;
    assert!(matches!(answer, Err(BlockError::Fenced)), "the older session stays fenced");
}

#[tokio::test]
async fn an_extended_volume_is_seen_with_its_size_at_the_next_open() {
    let setup = Setup::new(MIB).await;
    let gateway = setup.gateway(PATIENCE).await;
    let first = gateway.open("disk").await.expect("attached");
    let caller = Caller::new(first.clone());
    let beyond = || BlockOp::Read { offset: MIB, len: 512 };
    assert!(matches!(caller.run(beyond()).await, Err(BlockError::OutOfRange)));
    setup.mds.will_grant([Ok(grant(11, 2 * MIB))]);
    let second = gateway.open("disk").await.expect("attached");
    assert!(matches!(caller.run(beyond()).await, Ok(BlockReply::Data(_))));
    assert_eq!((first.info().size, second.info().size), (2 * MIB, 2 * MIB));
}

#[tokio::test]
async fn an_open_volume_is_shared_at_once_by_all_who_come_while_the_metadata_service_hangs() {
    let setup = Setup::new(MIB).await;
    let options = GatewayOptions { renew_patience: Duration::from_millis(50), ..GatewayOptions::default() };
    let gateway = Gateway::connect(setup.mds.clone(), "gw".to_owned(), BOOT, options).await.expect("a view");
    let first = gateway.open("disk").await.expect("attached");
    Caller::new(first).write(0, vec![1; 512]).await;
    setup.mds.hang();
    let opening: Vec<_> = (0..500)
        .map(|_| {
            let gateway = gateway.clone();
            tokio::spawn(async move { gateway.open("disk").await })
        })
        .collect();
    for open in opening {
        let open = timeout(PATIENCE, open).await.expect("nobody waits for another").expect("no panic");
        assert_eq!(Caller::new(open.expect("it is open")).read(0, 1).await, [1]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sees_a_new_size_can_use_it() {
    const STEPS: u64 = 500_000;
    let setup = Setup::new(MIB).await;
    let volume = setup.volume().await;
    let grower = {
        let volume = volume.clone();
        std::thread::spawn(move || (1..=STEPS).for_each(|step| volume.resize(MIB + step * 512, volume.size_mark())))
    };
    let caller = Caller::new(volume.clone());
    let (mut seen, mut answers) = (MIB, Vec::new());
    while seen < MIB + STEPS * 512 {
        let size = volume.info().size;
        if size > seen {
            seen = size;
            // Of nothing, so that it is answered at once, by the size alone.
            answers.push(caller.submit(BlockOp::Discard { offset: size, len: 0 }));
        }
    }
    for answer in answers {
        let answer = answer.await.expect("completed");
        assert!(matches!(answer, Ok(BlockReply::Done)), "{answer:?}");
    }
    grower.join().expect("it does not panic");
    volume.resize(MIB, volume.size_mark());
    assert_eq!(volume.info().size, seen, "news of a smaller size is old");
    assert!(matches!(caller.run(BlockOp::Read { offset: seen - 512, len: 512 }).await, Ok(BlockReply::Data(_))));
}

#[tokio::test]
async fn a_gateway_that_ends_closes_its_volumes_and_opens_none() {
    let setup = Setup::new(MIB).await;
    let gateway = setup.gateway(PATIENCE).await;
    let open = gateway.open("disk").await.expect("attached");
    assert!(matches!(gateway.open("a name").await, Err(OpenError::Name(_))));
    gateway.shutdown().await;
    let answer = Caller::new(open).run(BlockOp::Read { offset: 0, len: 512 }).await;
    assert!(matches!(answer, Err(BlockError::ShuttingDown)));
    assert!(matches!(gateway.open("disk").await, Err(OpenError::ShuttingDown)));
}
