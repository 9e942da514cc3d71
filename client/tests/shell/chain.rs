//! Clones of clones: what is read through them, and of whom it is asked.

use super::fake::{Asked, Caller, grant};
use super::{MIB, Setup};
use ashlar_types::control::{AttachGrant, BaseLayer};
use ashlar_types::{LayerId, SessionId, StackRevision, VolumeId};
use ashlar_wire::IoKind;
use tokio::time::timeout;

const BLOCK: u32 = 4096;
/// The clone that is attached; what it stands on has the numbers behind it.
const CLONE: VolumeId = VolumeId(3);
const LEVELS: u64 = 4;
const SIZE: u64 = 4 * MIB;

fn base(level: u64) -> VolumeId {
    VolumeId(CLONE.0 + level)
}

fn layer(level: u64) -> LayerId {
    LayerId(7 + level)
}

/// What the disk stands on that lies so many levels below the clone.
fn below(level: u64, size: u64) -> Option<BaseLayer> {
    (level < LEVELS).then(|| BaseLayer { volume: base(level + 1), layer: layer(level + 1), size })
}

fn base_grant(level: u64, size: u64) -> AttachGrant {
    let (volume, layers) = (base(level), vec![layer(level)]);
    AttachGrant { volume, layers, session: SessionId(0), read_only: true, base: below(level, size), ..grant(1, size) }
}

struct Chain {
    setup: Setup,
    reader: Caller,
}

impl Chain {
    /// A clone on four disks; each has one block, that of its number, full of its number.
    async fn new(size: u64) -> Chain {
        let setup = Setup::new(size).await;
        setup.mds.will_grant([Ok(AttachGrant { base: below(0, size), ..grant(11, size) })]);
        (1..=LEVELS).for_each(|level| setup.mds.set_base(base(level), Some(base_grant(level, size))));
        for level in 1..=LEVELS {
            setup.lock().put(base(level), level, level as u8);
        }
        let reader = Caller::new(setup.volume().await);
        Chain { setup, reader }
    }

    async fn block(&self, block: u64) -> u8 {
        let data = timeout(super::PATIENCE, self.reader.read(block * u64::from(BLOCK), BLOCK)).await.expect("in time");
        assert!(data.iter().all(|byte| *byte == data[0]), "one block");
        data[0]
    }

    /// Reads blocks of the first chunk that nobody has, until it is known of one.
    async fn know_the_chunk(&self) {
        for block in 500..1000 {
            self.forget();
            assert_eq!(self.block(block).await, 0);
            if self.readers() == [0] {
                return self.forget();
            }
        }
        panic!("maps of the chunk are asked for");
    }

    fn forget(&self) {
        self.setup.lock().asked.clear();
    }

    /// Who was asked for data since, top first.
    fn readers(&self) -> Vec<u64> {
        let store = self.setup.lock();
        let reads = store.asked.iter().filter(|(_, asked)| *asked == Asked::Io(IoKind::Read));
        let mut levels: Vec<u64> = reads.map(|(volume, _)| volume.0 - CLONE.0).collect();
        levels.sort_unstable();
        levels
    }
}

#[tokio::test]
async fn what_lies_deep_is_asked_of_the_clone_and_of_the_disk_that_has_it() {
    let chain = Chain::new(SIZE).await;
    chain.know_the_chunk().await;
    for level in 1..=LEVELS {
        assert_eq!(u64::from(chain.block(level).await), level);
        assert_eq!(chain.readers(), [0, level]);
        chain.forget();
        assert_eq!(u64::from(chain.block(level).await), level);
        assert_eq!(chain.readers(), [0], "it is in the cache");
        chain.forget();
    }
    assert_eq!(chain.block(77).await, 0);
    assert_eq!(chain.readers(), [0], "nobody has it");
}

#[tokio::test]
async fn a_read_of_many_blocks_is_put_together_of_those_that_have_them() {
    let chain = Chain::new(SIZE).await;
    chain.know_the_chunk().await;
    let data = timeout(super::PATIENCE, chain.reader.read(0, 8 * BLOCK)).await.expect("in time");
    let values: Vec<u8> = data.chunks(BLOCK as usize).map(|block| block[17]).collect();
    assert_eq!(values, [0, 1, 2, 3, 4, 0, 0, 0]);
    assert_eq!(chain.readers(), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn a_chain_is_read_right_before_anything_is_known_of_it() {
    let chain = Chain::new(SIZE).await;
    let data = timeout(super::PATIENCE, chain.reader.read(0, 8 * BLOCK)).await.expect("in time");
    let values: Vec<u8> = data.chunks(BLOCK as usize).map(|block| block[17]).collect();
    assert_eq!(values, [0, 1, 2, 3, 4, 0, 0, 0]);
}

#[tokio::test]
async fn a_disk_in_the_middle_that_was_flattened_is_asked_itself_when_those_below_it_are_gone() {
    let chain = Chain::new(SIZE).await;
    chain.know_the_chunk().await;
    {
        // All of what lies below is in the second now, and that is gone; nobody was told.
        let mut store = chain.setup.lock();
        (3..=LEVELS).for_each(|level| store.put(base(2), level, level as u8));
        store.floors.insert(base(2), StackRevision(2));
        (3..=LEVELS).for_each(|level| _ = store.closed.insert(base(level)));
    }
    let flattened = AttachGrant { base: None, stack_revision: StackRevision(2), ..base_grant(2, SIZE) };
    chain.setup.mds.set_base(base(2), Some(flattened));
    (3..=LEVELS).for_each(|level| chain.setup.mds.set_base(base(level), None));
    for level in (1..=LEVELS).rev() {
        assert_eq!(u64::from(chain.block(level).await), level);
    }
    assert_eq!(chain.block(5).await, 0);
    chain.forget();
    assert_eq!(chain.block(6).await, 0);
    assert!(chain.readers().iter().all(|level| *level <= 2), "those are let go of");
}

#[tokio::test]
async fn a_map_is_forgotten_with_its_stack() {
    let chain = Chain::new(SIZE).await;
    chain.know_the_chunk().await;
    // A snapshot of the second was taken or deleted: its stack has another revision.
    chain.setup.lock().floors.insert(base(2), StackRevision(2));
    let newer = AttachGrant { stack_revision: StackRevision(2), ..base_grant(2, SIZE) };
    chain.setup.mds.set_base(base(2), Some(newer));
    assert_eq!(chain.block(2).await, 2, "it is told so when it is asked");
    chain.forget();
    assert_eq!(chain.block(4).await, 4);
    let asked = |wanted| chain.setup.lock().asked.contains(&wanted);
    assert!(asked((base(2), Asked::Layers)) && !asked((base(3), Asked::Layers)), "only its map is asked for anew");
}
