//! What a clone reads of its base, and when it asks for it.

use super::*;
use ashlar_types::control::BaseLayer;
use ashlar_types::{BLOCK_BYTES, BlockRange};
use ashlar_wire::OverReply;
use bytes::Bytes;

const BLOCK: u32 = BLOCK_BYTES;
/// It ends within the third block.
const BASE_BYTES: u64 = 2 * BLOCK as u64 + 512;

fn clone() -> Rig {
    let base = BaseLayer { volume: VolumeId(1), layer: LayerId(2), size: BASE_BYTES };
    let mut rig = Rig::new(AttachGrant { base: Some(base), ..grant(MIB) }, ClientLimits::default());
    rig.step(ClientEvent::View(Arc::new(view(1, 1, 1, Some(0)))));
    rig.submit(0, BlockOp::Read { offset: 0, len: BLOCK });
    rig.welcome(0);
    rig
}

/// One of which a read has needed the base, so that the next one is expected to.
fn unwritten_clone() -> Rig {
    let mut rig = clone();
    unwritten(&mut rig);
    assert_eq!(base_reads(&mut rig).len(), 1);
    rig.step(ClientEvent::BaseRead { key: last_key(&rig), result: Ok(data(1, BLOCK)) });
    assert_eq!(read_data(&mut rig), [(0, vec![1; BLOCK as usize])]);
    rig
}

/// The key of the newest question.
fn last_key(rig: &Rig) -> u64 {
    rig.keys.last().copied().expect("asked")
}

fn base_reads(rig: &mut Rig) -> Vec<(u64, u32)> {
    let reads = std::mem::take(&mut rig.base_reads).into_iter().map(|(key, op)| {
        let BlockOp::Read { offset, len } = op else { panic!("not {op:?}") };
        rig.keys.push(key);
        (offset, len)
    });
    reads.collect()
}

fn request(rig: &mut Rig) -> IoRequest {
    let (_, over) = rig.over.pop().expect("sent");
    over.request
}

/// The clone answers the last request: it has nothing there.
fn unwritten(rig: &mut Rig) {
    let request = request(rig);
    let range = BlockRange::covering(request.offset, request.len).expect("inside its chunk");
    let reply = OverReply { reply: ok(&request), unwritten: vec![range] };
    rig.step(ClientEvent::Received(OsdId(0), Message::OverReply(reply)));
}

/// The clone answers the last request: `own` in the blocks where there is some, nothing in the others.
fn partly_own(rig: &mut Rig, own: &[Option<u8>]) {
    let request = request(rig);
    let first = BlockRange::covering(request.offset, request.len).expect("inside its chunk").first().0;
    let blocks: Vec<Option<Bytes>> = own.iter().map(|own| own.map(block)).collect();
    let unwritten = (first..)
        .zip(own)
        .filter(|(_, own)| own.is_none())
        .map(|(at, _)| BlockRange::new(ashlar_types::BlockIndex(at), 1).expect("inside its chunk"));
    let unwritten: Vec<BlockRange> = unwritten.collect();
    let payload = blocks.iter().flatten().flatten().copied().collect();
    let crcs = blocks.iter().map(|block| block.as_ref().map(|block| ashlar_types::Crc::of(block))).collect();
    let reply = IoReply { blocks: crcs, payload, ..ok(&request) };
    let message = match unwritten.is_empty() {
        true => Message::IoReply(reply),
        false => Message::OverReply(OverReply { reply, unwritten }),
    };
    rig.step(ClientEvent::Received(OsdId(0), message));
}

fn block(value: u8) -> Bytes {
    Bytes::from(vec![value; BLOCK as usize])
}

fn data(value: u8, len: u32) -> BlockReply {
    BlockReply::Data(vec![Bytes::from(vec![value; len as usize])])
}

fn read_data(rig: &mut Rig) -> Vec<(u64, Vec<u8>)> {
    let bytes = |result| match result {
        Ok(BlockReply::Data(pieces)) => pieces.concat(),
        other => panic!("not {other:?}"),
    };
    std::mem::take(&mut rig.completed).into_iter().map(|(tag, result)| (tag, bytes(result))).collect()
}

fn read(rig: &mut Rig, tag: u64, first: u32, blocks: u32) {
    rig.submit(tag, BlockOp::Read { offset: (first * BLOCK).into(), len: blocks * BLOCK });
}

#[test]
fn a_read_of_a_chunk_of_which_nothing_is_known_asks_the_clone_first() {
    let mut rig = clone();
    assert!(rig.base_reads.is_empty());
    unwritten(&mut rig);
    assert_eq!(base_reads(&mut rig), [(0, BLOCK)]);
}

#[test]
fn where_the_clone_had_nothing_the_base_is_asked_at_the_same_time() {
    let mut rig = unwritten_clone();
    read(&mut rig, 1, 1, 1);
    assert_eq!(base_reads(&mut rig), [(BLOCK.into(), BLOCK)], "the clone has not answered");
    rig.step(ClientEvent::BaseRead { key: last_key(&rig), result: Ok(data(7, BLOCK)) });
    assert!(rig.completed.is_empty(), "what counts is what the clone says");
    unwritten(&mut rig);
    assert_eq!(read_data(&mut rig), [(1, vec![7; BLOCK as usize])]);
    assert!(base_reads(&mut rig).is_empty(), "asked once");
}

#[test]
fn a_base_that_answers_after_the_clone_is_waited_for() {
    let mut rig = unwritten_clone();
    read(&mut rig, 1, 1, 1);
    assert_eq!(base_reads(&mut rig).len(), 1);
    unwritten(&mut rig);
    assert!(rig.completed.is_empty() && base_reads(&mut rig).is_empty(), "it is under way");
    rig.step(ClientEvent::BaseRead { key: last_key(&rig), result: Ok(data(7, BLOCK)) });
    assert_eq!(read_data(&mut rig), [(1, vec![7; BLOCK as usize])]);
}

#[test]
fn what_the_clone_has_itself_wins_whichever_answer_comes_first() {
    for base_first in [true, false] {
        let mut rig = unwritten_clone();
        read(&mut rig, 1, 1, 1);
        assert_eq!(base_reads(&mut rig).len(), 1);
        let key = last_key(&rig);
        let of_base = ClientEvent::BaseRead { key, result: Ok(data(7, BLOCK)) };
        if base_first {
            rig.step(of_base.clone());
        }
        partly_own(&mut rig, &[Some(3)]);
        if !base_first {
            rig.step(of_base);
        }
        assert_eq!(read_data(&mut rig), [(1, vec![3; BLOCK as usize])]);
        read(&mut rig, 2, 1, 1);
        assert!(base_reads(&mut rig).is_empty(), "it is not expected any more");
    }
}

#[test]
fn of_a_guess_only_what_the_clone_calls_unwritten_is_used() {
    for base_first in [true, false] {
        let mut rig = unwritten_clone();
        read(&mut rig, 1, 0, 4);
        assert_eq!(base_reads(&mut rig), [(0, BASE_BYTES as u32)], "B2: what the base has of it");
        let pieces = vec![block(10), block(11), Bytes::from(vec![12; 512])];
        let of_base = ClientEvent::BaseRead { key: last_key(&rig), result: Ok(BlockReply::Data(pieces)) };
        if base_first {
            rig.step(of_base.clone());
        }
        partly_own(&mut rig, &[None, Some(3), None, None]);
        if !base_first {
            rig.step(of_base);
        }
        let expected = [vec![10; 4096], vec![3; 4096], vec![12; 512], vec![0; 4096 - 512 + 4096]].concat();
        assert_eq!(read_data(&mut rig), [(1, expected)]);
    }
}

#[test]
fn a_guess_that_fails_is_asked_again_when_the_clone_has_answered() {
    let failures = [Err(BlockError::Fenced), Err(BlockError::OutOfRange), Ok(data(7, 512)), Ok(BlockReply::Done)];
    for (nth, failure) in failures.into_iter().enumerate() {
        let mut rig = unwritten_clone();
        read(&mut rig, 1, 1, 1);
        assert_eq!(base_reads(&mut rig).len(), 1);
        let of_base = ClientEvent::BaseRead { key: last_key(&rig), result: failure };
        if nth % 2 == 0 {
            rig.step(of_base);
            unwritten(&mut rig);
        } else {
            unwritten(&mut rig);
            rig.step(of_base);
        }
        assert_eq!(base_reads(&mut rig), [(BLOCK.into(), BLOCK)]);
        rig.step(ClientEvent::BaseRead { key: last_key(&rig), result: Ok(data(7, BLOCK)) });
        assert_eq!(read_data(&mut rig), [(1, vec![7; BLOCK as usize])]);
    }
}

#[test]
fn a_base_that_is_gone_sends_the_read_to_the_clone_once_more_and_asks_nothing_at_once() {
    let mut rig = unwritten_clone();
    read(&mut rig, 1, 1, 1);
    assert_eq!(base_reads(&mut rig).len(), 1);
    rig.step(ClientEvent::BaseRead { key: last_key(&rig), result: Err(BlockError::Fenced) });
    unwritten(&mut rig);
    base_reads(&mut rig);
    rig.step(ClientEvent::BaseRead { key: last_key(&rig), result: Err(BlockError::Fenced) });
    assert!(rig.base_reads.is_empty() && rig.completed.is_empty());
    partly_own(&mut rig, &[Some(5)]);
    assert_eq!(read_data(&mut rig), [(1, vec![5; BLOCK as usize])]);
}

#[test]
fn beyond_the_end_of_the_base_and_for_long_reads_nothing_is_asked_at_once() {
    let mut rig = unwritten_clone();
    read(&mut rig, 1, 3, 1);
    assert!(base_reads(&mut rig).is_empty());
    unwritten(&mut rig);
    assert_eq!(read_data(&mut rig), [(1, vec![0; BLOCK as usize])]);
    read(&mut rig, 2, 0, 64);
    assert!(base_reads(&mut rig).is_empty());
}

#[test]
fn a_flattened_clone_asks_its_base_nothing_at_once() {
    let mut rig = unwritten_clone();
    rig.step(ClientEvent::Stack { revision: StackRevision(2), layers: vec![LayerId(7)], base: None });
    read(&mut rig, 1, 1, 1);
    assert!(base_reads(&mut rig).is_empty());
}
