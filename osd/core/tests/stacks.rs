//! Reads and writes through a stack of layers, and what changes when the stack does (design.md §1.1, §7).

mod support;

use ashlar_osd_core::{DiskOp, Event};
use ashlar_types::view::{Fences, Floor};
use ashlar_types::{
    AttachmentId, BLOCK_BYTES, BlockIndex, BlockRange, ChunkId, Crc, Epoch, Generation, IdSet, LayerId, OpId, OpNumber,
    SessionId, StackRevision, Version, VolumeId,
};
use ashlar_wire::{Change, CreditRequest, IoKind, IoStatus, Message, Prepare, RaiseFloor, WriteMeta};
use bytes::Bytes;
use support::MIB;
use support::node::{Node, PG, chunk};

fn in_layer(layer: u64) -> ChunkId {
    ChunkId { layer: LayerId(layer), ..chunk(0) }
}

/// Leads alone, with blocks 0 to 3 written in layer 1, under a second layer that has nothing yet.
fn snapshotted() -> Node {
    let mut node = Node::new(16 * MIB);
    node.lead(1, &[7], &[7], 1);
    assert_eq!(node.request(in_layer(1), IoKind::Write, 0..4, 1), Some(IoStatus::Ok));
    node.raise_stack(2, IdSet::default());
    node.name_stack(2, &[2, 1]);
    node
}

/// The first byte of each block that is present, and how many there are.
fn read(node: &mut Node, top: ChunkId, blocks: std::ops::Range<u32>) -> Vec<u8> {
    let number = node.ask(PG, top, IoKind::Read, blocks, 0);
    node.pass(100);
    assert_eq!(node.answers.get(&number), Some(&IoStatus::Ok));
    node.payloads[&number].chunks_exact(BLOCK_BYTES as usize).map(|block| block[0]).collect()
}

#[test]
fn what_the_top_layer_lacks_is_read_from_below_and_what_it_has_is_not() {
    let mut node = snapshotted();
    assert_eq!(read(&mut node, in_layer(2), 0..6), [1, 1, 1, 1]);
    assert_eq!(node.request(in_layer(2), IoKind::Write, 1..2, 2), Some(IoStatus::Ok));
    assert_eq!(node.request(in_layer(2), IoKind::Write, 4..5, 3), Some(IoStatus::Ok));
    assert_eq!(read(&mut node, in_layer(2), 0..6), [1, 2, 1, 1, 3]);
    node.raise_stack(3, IdSet::default());
    node.name_stack(3, &[3, 2, 1]);
    assert_eq!(node.request(in_layer(3), IoKind::Write, 0..1, 4), Some(IoStatus::Ok));
    assert_eq!(read(&mut node, in_layer(3), 0..6), [4, 2, 1, 1, 3]);
}

#[test]
fn a_frozen_layer_is_what_it_was() {
    let mut node = snapshotted();
    assert_eq!(node.request(in_layer(2), IoKind::Write, 0..6, 2), Some(IoStatus::Ok));
    node.name_stack(2, &[1]);
    assert_eq!(read(&mut node, in_layer(1), 0..6), [1, 1, 1, 1]);
}

#[test]
fn a_discard_hides_what_lies_below_and_only_there() {
    let mut node = snapshotted();
    assert_eq!(node.request(in_layer(2), IoKind::Zero, 1..3, 0), Some(IoStatus::Ok));
    let number = node.ask(PG, in_layer(2), IoKind::Read, 0..4, 0);
    node.pass(100);
    assert_eq!(node.payloads[&number].len(), 2 * BLOCK_BYTES as usize, "two of the four are absent");
    node.name_stack(2, &[1]);
    assert_eq!(read(&mut node, in_layer(1), 0..4).len(), 4);
}

#[test]
fn a_discard_where_no_layer_has_anything_leaves_no_record() {
    let mut node = snapshotted();
    assert_eq!(node.request(in_layer(2), IoKind::Zero, 512..1024, 0), Some(IoStatus::Ok));
    assert_eq!(node.versions(in_layer(2)), Version::NONE);
}

#[test]
fn a_part_of_a_block_is_laid_over_what_lies_below() {
    let mut node = snapshotted();
    let bytes = BLOCK_BYTES + 100..2 * BLOCK_BYTES + 200;
    let number = node.ask_bytes(PG, in_layer(2), IoKind::Write, bytes, 9);
    node.pass(100);
    assert_eq!(node.answers.get(&number), Some(&IoStatus::Ok));
    let number = node.ask(PG, in_layer(2), IoKind::Read, 1..3, 0);
    node.pass(100);
    let (first, second) = node.payloads[&number].split_at(BLOCK_BYTES as usize);
    assert!(first[..100].iter().all(|b| *b == 1) && first[100..].iter().all(|b| *b == 9));
    assert!(second[..200].iter().all(|b| *b == 9) && second[200..].iter().all(|b| *b == 1));
}

#[test]
fn a_stack_that_was_not_named_is_refused() {
    let mut node = snapshotted();
    node.stack.0 = 1;
    node.name_stack(2, &[3, 1]);
    assert_eq!(node.request(in_layer(2), IoKind::Read, 0..1, 0), Some(IoStatus::Invalid), "another top layer");
    let mut node = Node::new(16 * MIB);
    node.lead(1, &[7], &[7], 1);
    node.stack.0 = 2;
    assert_eq!(node.request(in_layer(1), IoKind::Read, 0..1, 0), Some(IoStatus::Invalid), "another revision");
}

#[test]
fn an_older_stack_is_refused_as_soon_as_a_newer_one_is_known() {
    let mut node = snapshotted();
    node.stack.0 = 1;
    for kind in [IoKind::Read, IoKind::Write, IoKind::Zero] {
        assert_eq!(node.request(in_layer(1), kind, 0..1, 5), Some(IoStatus::StaleStack));
    }
}

/// Lost where it was only half done: written again into the new layer, it would be in both.
#[test]
fn a_write_that_came_into_the_older_layer_is_answered_when_it_is_repeated() {
    let mut node = Node::new(16 * MIB);
    node.lead(1, &[7], &[7], 1);
    let bytes = 0..BLOCK_BYTES;
    let number = node.ask_bytes(PG, in_layer(1), IoKind::Write, bytes.clone(), 1);
    node.pass(100);
    node.raise_stack(2, IdSet::default());
    node.answers.clear();
    node.ask_as(number, PG, in_layer(1), IoKind::Write, bytes.clone(), 1);
    assert_eq!(node.answers.get(&number), Some(&IoStatus::Ok));
    node.ask_as(OpNumber(number.0 + 1), PG, in_layer(1), IoKind::Write, bytes, 1);
    assert_eq!(node.answers.get(&OpNumber(number.0 + 1)), Some(&IoStatus::StaleStack));
}

/// L2: whoever was told of the new stack first must not write what another, who reads by the old one, does not see.
#[test]
fn a_newer_stack_is_served_when_every_member_refuses_the_older_one() {
    let mut node = Node::new(16 * MIB);
    node.lead(1, &[7, 8], &[7, 8], 2);
    node.name_stack(2, &[2, 1]);
    assert_eq!(node.request(in_layer(2), IoKind::Write, 0..1, 5), Some(IoStatus::Retry), "no barrier is known");
    node.script = Box::new(|_, m| matches!(m, Message::RaiseFloor(_)).then(Vec::new));
    node.raise_stack(2, IdSet::default());
    assert_eq!(node.request(in_layer(2), IoKind::Write, 0..1, 5), Some(IoStatus::Retry), "a member has not answered");
    assert_eq!(node.request(in_layer(2), IoKind::Read, 0..1, 5), Some(IoStatus::Retry));
    assert!(!node.has_passed(2));
    node.script = Box::new(|_, _| None);
    node.lead(2, &[7, 8], &[7, 8], 2);
    assert!(node.has_passed(2));
    assert_eq!(node.request(in_layer(2), IoKind::Write, 0..1, 5), Some(IoStatus::Ok));
}

/// L1.
#[test]
fn a_barrier_with_a_new_stack_waits_for_what_was_admitted_by_the_old_one() {
    let mut node = Node::new(16 * MIB);
    node.script = Box::new(|_, m| matches!(m, Message::Prepare(_)).then(Vec::new));
    node.lead(1, &[7, 8], &[7, 8], 2);
    let number = node.ask(PG, in_layer(1), IoKind::Write, 0..1, 5);
    node.pass(10);
    node.raise_stack(2, IdSet::default());
    node.pass(100);
    assert!(!node.has_passed(2) && !node.answers.contains_key(&number));
    node.script = Box::new(|_, _| None);
    node.lead(2, &[7, 8], &[7, 8], 2);
    node.pass(1000);
    assert!(node.has_passed(2), "it is decided now: {:?}", node.warnings);
    node.name_stack(2, &[2, 1]);
    assert!(read(&mut node, in_layer(2), 0..1).is_empty(), "the other member did not have it");
}

/// It was committed and answered elsewhere; this member has heard of the new stack, and not of the commit.
#[test]
fn what_is_undecided_below_after_a_failover_is_not_read_past() {
    let mut node = Node::new(16 * MIB);
    let primary = node.follow(8, 1, &[7, 8], 2);
    let payload = Bytes::from(vec![5; BLOCK_BYTES as usize]);
    let version = Version::NONE.successor(Epoch(1)).expect("the first");
    let range = BlockRange::new(BlockIndex(0), 1).expect("a block");
    let write = WriteMeta {
        chunk: in_layer(1),
        version,
        prev: Version::NONE,
        op: OpId { session: SessionId(9), number: OpNumber(1) },
        lowest_unanswered: OpNumber(1),
        volume: VolumeId(1),
        attachment: AttachmentId(1),
        generation: Generation(1),
        change: Change::Write { range, crcs: vec![Crc::of(&payload)] },
    };
    let credit = CreditRequest { pg: PG, epoch: Epoch(1), wanted_total: 100, is_return: false };
    node.step(Event::Received(primary, Message::CreditRequest(credit)));
    let prepare = Prepare { pg: PG, epoch: Epoch(1), write, payload };
    node.step(Event::Received(primary, Message::Prepare(prepare)));
    let floor = Floor { stack_revision: StackRevision(2), ..Floor::default() };
    let fences = Fences { floors: [(VolumeId(1), floor)].into(), ..Fences::default() };
    let raise = RaiseFloor { pg: PG, epoch: Epoch(1), barrier: 2, fences };
    node.step(Event::Received(primary, Message::RaiseFloor(raise)));
    node.pass(100);
    assert_eq!(node.versions(in_layer(1)), version, "it is prepared");
    node.lead(2, &[7, 8], &[7], 2);
    node.name_stack(2, &[2, 1]);
    assert_eq!(node.request(in_layer(2), IoKind::Read, 0..1, 0), Some(IoStatus::Retry));
    assert_eq!(node.request(in_layer(2), IoKind::Read, 1..2, 0), Some(IoStatus::Ok), "beside it");
}

/// Nobody needs it, so nobody waits for it or fails.
#[test]
fn a_damaged_block_that_a_layer_above_hides_does_no_harm() {
    let mut node = snapshotted();
    assert_eq!(node.request(in_layer(2), IoKind::Write, 1..2, 2), Some(IoStatus::Ok));
    let at = node.find_on_disk(1)[1];
    let rotten = Bytes::from(vec![9; BLOCK_BYTES as usize]);
    node.disk.perform([DiskOp::Write { at, data: vec![rotten], through: false }]);
    assert_eq!(read(&mut node, in_layer(2), 0..4), [1, 2, 1, 1]);
}

#[test]
fn layers_that_are_dropped_give_their_space_back_and_the_others_stay() {
    let mut node = snapshotted();
    assert_eq!(node.request(in_layer(2), IoKind::Write, 0..8, 2), Some(IoStatus::Ok));
    node.raise_stack(3, IdSet::range(LayerId(2), LayerId(2)));
    node.name_stack(3, &[3, 1]);
    assert_eq!(node.versions(in_layer(2)), Version::NONE);
    assert_eq!(read(&mut node, in_layer(3), 0..8), [1, 1, 1, 1]);
}

#[test]
fn a_damaged_block_below_is_said_to_be_lost_only_if_nobody_has_it() {
    let mut node = snapshotted();
    let place = node.find_on_disk(1)[1];
    node.disk.make_unreadable(place);
    assert_eq!(node.request(in_layer(2), IoKind::Read, 0..4, 0), Some(IoStatus::Medium));
    assert_eq!(node.request(in_layer(2), IoKind::Write, 0..4, 3), Some(IoStatus::Ok));
    assert_eq!(read(&mut node, in_layer(2), 0..4), [3, 3, 3, 3], "what hides it is good");
}
