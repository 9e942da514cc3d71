//! A gateway that shrinks a volume while its clients use it.

use super::fake::{Caller, FakeShrink, grant};
use super::{MIB, PATIENCE, Setup, pattern};
use ashlar_client::{Gateway, OpenVolume};
use ashlar_types::{BlockDevice, BlockError, BlockOp, BlockReply, SessionId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Of 2 MiB, with data in both; the gateway works on jobs.
async fn serving(shrink: FakeShrink) -> (Setup, Gateway, Arc<OpenVolume>, Caller) {
    let setup = Setup::new(2 * MIB).await;
    let gateway = setup.gateway(PATIENCE).await;
    let open = gateway.open("disk").await.expect("attached");
    let caller = Caller::new(open.clone());
    caller.write(0, pattern(4096, 1)).await;
    caller.write(MIB + 8192, pattern(4096, 2)).await;
    setup.mds.will_shrink(shrink);
    let worker = gateway.clone();
    tokio::spawn(async move { worker.work().await });
    (setup, gateway, open, caller)
}

async fn ended(setup: &Setup) -> (SessionId, Option<String>) {
    let ended = async {
        loop {
            if let Some(ended) = setup.mds.shrink().ended {
                return ended;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, ended).await.expect("in time")
}

async fn reaches(open: &OpenVolume, size: u64) {
    let served = async {
        while open.info().size != size {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, served).await.expect("in time");
}

/// Or not held any more. A request for nothing is answered at once, by what may be reached alone.
async fn until_held(caller: &Caller, is_held: bool) {
    let seen = async {
        while is_outside(&caller.run(BlockOp::Discard { offset: 2 * MIB, len: 0 }).await) != is_held {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, seen).await.expect("in time");
}

fn is_outside(answer: &Result<BlockReply, BlockError>) -> bool {
    matches!(answer, Err(BlockError::OutOfRange))
}

#[tokio::test]
async fn a_volume_shrinks_under_its_connections_and_grows_again_with_zeroes() {
    for loses_answer in [false, true] {
        let shrink = FakeShrink { loses_answer, ..FakeShrink::to(MIB, true) };
        let (setup, gateway, open, caller) = serving(shrink).await;
        assert_eq!(ended(&setup).await, (SessionId(11), None), "by the session of the disk");
        reaches(&open, MIB).await;
        let behind = BlockOp::Read { offset: MIB + 8192, len: 4096 };
        assert!(is_outside(&caller.run(behind.clone()).await));
        let second = gateway.open("disk").await.expect("attached");
        assert_eq!(second.info().size, MIB);
        setup.mds.will_grant([Ok(grant(11, 2 * MIB))]);
        let third = gateway.open("disk").await.expect("attached");
        assert_eq!((third.info().size, open.info().size), (2 * MIB, 2 * MIB));
        assert_eq!(caller.read(MIB + 8192, 4096).await, vec![0; 4096], "nothing comes back");
        assert_eq!(caller.read(0, 4096).await, pattern(4096, 1));
    }
}

#[tokio::test]
async fn data_behind_the_new_end_is_told_and_served_on() {
    let (setup, _gateway, open, caller) = serving(FakeShrink::to(MIB, false)).await;
    let says = format!("volume disk has data behind {MIB} bytes, the first at {}; --force", MIB + 8192);
    let (_, refusal) = ended(&setup).await;
    assert!(refusal.as_ref().is_some_and(|text| text.starts_with(&says)), "{refusal:?}");
    until_held(&caller, false).await;
    assert_eq!((open.info().size, caller.read(MIB + 8192, 4096).await), (2 * MIB, pattern(4096, 2)));
}

/// Its data cannot be looked at: what is under way there waits for an OSD.
#[tokio::test]
async fn a_shrink_that_is_given_up_while_it_waits_lets_its_clients_go_on() {
    let mut shrink = FakeShrink::to(MIB, true);
    shrink.is_taken = true;
    let (mut setup, _gateway, open, caller) = serving(shrink).await;
    setup.osds.remove(0).kill();
    let waiting = caller.submit(BlockOp::Read { offset: MIB + 8192, len: 4096 });
    setup.mds.change_shrink(|shrink| shrink.is_taken = false);
    until_held(&caller, true).await;
    setup.mds.change_shrink(|shrink| shrink.is_gone = true);
    until_held(&caller, false).await;
    setup.mds.configure(&[&setup.osds[0]], Some(ashlar_types::OsdId(1)));
    let answer = timeout(PATIENCE, waiting).await.expect("in time").expect("completed");
    assert!(matches!(answer, Ok(BlockReply::Data(_))), "{answer:?}");
    assert_eq!((open.info().size, caller.read(MIB + 8192, 4096).await), (2 * MIB, pattern(4096, 2)));
    assert!(setup.mds.shrink().ended.is_none());
}
