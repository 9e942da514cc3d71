use super::*;
use ashlar_types::CHUNK_BYTES;
use bytes::Bytes;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A disk in memory, of which a question tells only the first few blocks.
struct Disk {
    data: Vec<u8>,
    present: Vec<bool>,
    ops: Vec<BlockOp>,
}

impl Disk {
    fn new(blocks: usize, written: &[usize]) -> Disk {
        let mut disk = Disk { data: vec![0; blocks * BLOCK as usize], present: vec![false; blocks], ops: Vec::new() };
        for block in written {
            disk.present[*block] = true;
            disk.data[*block * BLOCK as usize..][..BLOCK as usize].fill(7);
        }
        disk
    }

    fn size(&self) -> u64 {
        self.data.len() as u64
    }

    fn run(&mut self, op: BlockOp) -> Result<BlockReply, BlockError> {
        self.ops.push(op.clone());
        match op {
            BlockOp::Read { offset, len } => {
                let data = Bytes::copy_from_slice(&self.data[offset as usize..][..len as usize]);
                let cut = data.len() / 2;
                Ok(BlockReply::Data(vec![data.slice(..cut), data.slice(cut..)]))
            }
            BlockOp::Discard { offset, len } => {
                self.data[offset as usize..][..len as usize].fill(0);
                Ok(BlockReply::Done)
            }
            BlockOp::Extents { offset, len } => {
                assert!(offset.is_multiple_of(BLOCK), "what is in part was looked at before");
                let blocks = (offset / BLOCK..(offset + len) / BLOCK).take(3);
                let extent = |block: u64| {
                    let present = self.present[block as usize];
                    Extent { len: BLOCK, allocated: present, zero: !present }
                };
                Ok(BlockReply::Extents(blocks.map(extent).collect()))
            }
            BlockOp::Flush => Ok(BlockReply::Done),
            other => panic!("a shrink doesn't ask {other:?}"),
        }
    }

    fn shrink(&mut self, end: u64, force: bool) -> (Shrinker, Result<(), ShrinkRefusal>) {
        let (mut shrinker, first) = Shrinker::new(end, self.size(), force);
        assert!(matches!(first, ShrinkAction::Hold(at) if at == end), "K1");
        let mut next = shrinker.on_held();
        while let Some(action) = next {
            let ShrinkAction::Submit(op) = action else { panic!("{action:?}") };
            next = shrinker.on_done(self.run(op));
        }
        let outcome = shrinker.outcome().expect("it is over").clone();
        (shrinker, outcome)
    }
}

#[test]
fn what_is_empty_is_only_looked_at() {
    let mut disk = Disk::new(20, &[0, 4]);
    let (shrinker, outcome) = disk.shrink(5 * BLOCK, false);
    assert_eq!((outcome, shrinker.position(), shrinker.discarded()), (Ok(()), 15 * BLOCK, 0));
    assert!(disk.ops.iter().all(|op| matches!(op, BlockOp::Extents { .. } | BlockOp::Flush)), "{:?}", disk.ops);
}

#[test]
fn data_behind_the_end_is_named_and_left() {
    let mut disk = Disk::new(20, &[0, 12]);
    let (_, outcome) = disk.shrink(5 * BLOCK, false);
    let says = "has data behind 20480 bytes, the first at 49152; --force shrinks it all the same";
    assert_eq!(outcome.expect_err("data").to_string(), says);
    assert!(disk.ops.iter().all(|op| matches!(op, BlockOp::Extents { .. })), "K2: {:?}", disk.ops);
}

#[test]
fn by_force_all_behind_the_end_is_discarded_and_nothing_before_it() {
    let mut disk = Disk::new(20, &[0, 4, 5, 6, 12, 19]);
    let end = 5 * BLOCK + 512;
    let (shrinker, outcome) = disk.shrink(end, true);
    assert_eq!((outcome, shrinker.position()), (Ok(()), disk.size() - end));
    assert_eq!(shrinker.discarded(), BLOCK - 512 + 3 * BLOCK);
    assert!(disk.data[end as usize..].iter().all(|byte| *byte == 0), "K3");
    assert!(disk.data[4 * BLOCK as usize..end as usize].iter().all(|byte| *byte == 7));
}

#[test]
fn of_the_block_in_which_the_end_lies_only_what_is_behind_it_counts() {
    let mut disk = Disk::new(2, &[0]);
    disk.data[1024..BLOCK as usize].fill(0);
    assert_eq!(disk.shrink(1024, false).1, Ok(()));
    assert_eq!(disk.shrink(512, false).1, Err(ShrinkRefusal::Data { end: 512, at: 512 }));
    // All of the disk lies in one block.
    let mut small = Disk::new(1, &[0]);
    small.data.truncate(2048);
    assert_eq!(small.shrink(512, true).1, Ok(()));
    assert_eq!(small.data[..512], [7; 512]);
    assert!(small.data[512..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_disk_that_fails_keeps_its_size() {
    let size = u64::from(CHUNK_BYTES);
    for failing in 0..4 {
        let (mut shrinker, _) = Shrinker::new(512, size, true);
        let mut next = shrinker.on_held();
        for step in 0.. {
            let Some(ShrinkAction::Submit(op)) = next.take() else { break };
            next = shrinker.on_done(match op {
                _ if step == failing => Err(BlockError::NoSpace),
                BlockOp::Read { len, .. } => Ok(BlockReply::Data(vec![Bytes::from(vec![1; len as usize])])),
                BlockOp::Extents { len, .. } => {
                    Ok(BlockReply::Extents(vec![Extent { len, allocated: true, zero: false }]))
                }
                _ => Ok(BlockReply::Done),
            });
        }
        assert_eq!(shrinker.outcome(), Some(&Err(ShrinkRefusal::Failed(BlockError::NoSpace))));
        assert!(shrinker.on_done(Ok(BlockReply::Done)).is_none(), "it stays so");
    }
}
