//! Chunks of a frozen layer that are merged into those of the layer above it: what is read, who waits, and what a failure leaves.

mod support;

use ashlar_osd_core::Event;
use ashlar_types::control::{ControlRequest, PgChange};
use ashlar_types::{
    AttachmentId, BLOCK_BYTES, ChunkId, Epoch, Generation, IdSet, LayerId, OpId, OpNumber, OsdId, SessionId, Version,
    VolumeId,
};
use ashlar_wire::{Change, IoKind, IoStatus, Message, Outcome, Prepare, WriteMeta};
use bytes::Bytes;
use support::MIB;
use support::node::{Node, PG, chunk};

fn in_layer(layer: u64) -> ChunkId {
    ChunkId { layer: LayerId(layer), ..chunk(0) }
}

/// Blocks 0 to 3 written in layer 1; over it a layer in which 1 is written anew, 2 is zeroed, and 6 is new.
fn stacked(members: &[u32], in_sync: &[u32]) -> Node {
    let mut node = Node::new(16 * MIB);
    node.lead(1, members, in_sync, 1);
    assert_eq!(node.request(in_layer(1), IoKind::Write, 0..4, 1), Some(IoStatus::Ok));
    node.raise_stack(2, IdSet::default());
    node.name_stack(2, &[2, 1]);
    assert_eq!(node.request(in_layer(2), IoKind::Write, 1..2, 2), Some(IoStatus::Ok));
    assert_eq!(node.request(in_layer(2), IoKind::Zero, 2..3, 0), Some(IoStatus::Ok));
    assert_eq!(node.request(in_layer(2), IoKind::Write, 6..7, 3), Some(IoStatus::Ok));
    node
}

/// The first byte of each block that is present.
fn read(node: &mut Node, top: u64, blocks: std::ops::Range<u32>) -> Vec<u8> {
    let number = node.ask(PG, in_layer(top), IoKind::Read, blocks, 0);
    node.pass(100);
    assert_eq!(node.answers.get(&number), Some(&IoStatus::Ok));
    node.payloads[&number].chunks_exact(BLOCK_BYTES as usize).map(|block| block[0]).collect()
}

fn holds_all(node: &mut Node) {
    assert_eq!(read(node, 2, 0..8), [1, 2, 1, 3]);
}

fn is_merge(message: &Message) -> bool {
    matches!(message, Message::Prepare(prepare) if prepare.write.change.is_merge())
}

#[test]
fn the_chunk_above_has_all_afterwards_and_no_data_has_moved() {
    let mut node = stacked(&[7], &[7]);
    holds_all(&mut node);
    let places = node.find_on_disk(1);
    node.want_merge(1, 1, 2);
    node.pass(2000);
    assert!(node.has_merged(1), "{:?}", node.warnings);
    assert_eq!(node.versions(in_layer(1)), Version::NONE);
    holds_all(&mut node);
    node.name_stack(2, &[2]);
    holds_all(&mut node);
    assert_eq!(node.find_on_disk(1), places, "the data lies where it lay");
    assert_eq!(node.request(in_layer(2), IoKind::Write, 0..1, 4), Some(IoStatus::Ok));
    assert_eq!(read(&mut node, 2, 0..8), [4, 2, 1, 3]);
}

#[test]
fn a_chunk_that_the_layer_above_never_had_goes_up_whole() {
    let mut node = Node::new(16 * MIB);
    node.lead(1, &[7], &[7], 1);
    assert_eq!(node.request(in_layer(1), IoKind::Write, 0..4, 1), Some(IoStatus::Ok));
    node.raise_stack(2, IdSet::default());
    node.want_merge(1, 1, 2);
    node.pass(2000);
    assert!(node.has_merged(1));
    node.name_stack(2, &[2]);
    assert_eq!(read(&mut node, 2, 0..8), [1, 1, 1, 1]);
}

/// Merged or not, it was done: written again it would come after what was written since.
#[test]
fn a_write_that_came_into_the_layer_below_is_answered_when_it_is_repeated() {
    let mut node = Node::new(16 * MIB);
    node.lead(1, &[7], &[7], 1);
    let bytes = 0..BLOCK_BYTES;
    let number = node.ask_bytes(PG, in_layer(1), IoKind::Write, bytes.clone(), 1);
    node.pass(100);
    node.raise_stack(2, IdSet::default());
    node.want_merge(1, 1, 2);
    node.pass(2000);
    assert!(node.has_merged(1));
    node.answers.clear();
    node.stack.0 = 1;
    node.ask_as(number, PG, in_layer(1), IoKind::Write, bytes, 1);
    assert_eq!(node.answers.get(&number), Some(&IoStatus::Ok));
}

/// M2, and that an undecided merge which not everybody has is rolled back (R4) and begun again.
#[test]
fn while_a_member_does_not_answer_reads_go_on_and_writes_wait_and_nothing_is_lost() {
    let mut node = stacked(&[7, 8], &[7, 8]);
    let before = node.versions(in_layer(2));
    node.script = Box::new(|_, m| is_merge(m).then(Vec::new));
    node.want_merge(1, 1, 2);
    node.pass(200);
    assert!(node.sent.iter().any(|(_, m)| is_merge(m)) && node.versions(in_layer(2)) > before, "it is prepared");
    holds_all(&mut node);
    let write = node.ask(PG, in_layer(2), IoKind::Write, 0..1, 4);
    node.pass(300);
    assert!(!node.answers.contains_key(&write) && !node.has_merged(1));
    assert_eq!(read(&mut node, 2, 1..8), [2, 1, 3], "beside the write, whose order with a read counts");
    node.script = Box::new(|_, _| None);
    node.lead(2, &[7, 8], &[7, 8], 1);
    node.pass(3000);
    assert!(node.has_merged(1), "{:?}", node.warnings);
    assert_eq!(node.versions(in_layer(1)), Version::NONE);
    holds_all(&mut node);
}

#[test]
fn nothing_is_merged_while_a_member_is_not_in_sync() {
    let mut node = stacked(&[7, 8], &[7]);
    node.script = Box::new(|_, m| matches!(m, Message::JoinStart(_)).then(Vec::new));
    node.want_merge(1, 1, 2);
    node.pass(3000);
    assert!(!node.has_merged(1) && node.versions(in_layer(1)) != Version::NONE);
    holds_all(&mut node);
    node.lead(2, &[7, 8], &[7, 8], 1);
    node.pass(3000);
    assert!(node.has_merged(1) && node.versions(in_layer(1)) == Version::NONE);
}

/// M4: whose clone stood on it has gone, but may not have heard.
#[test]
fn nobody_begins_to_read_at_a_layer_that_is_merged() {
    let mut node = stacked(&[7, 8], &[7, 8]);
    node.script = Box::new(|_, m| is_merge(m).then(Vec::new));
    node.name_stack(2, &[1]);
    assert_eq!(read(&mut node, 1, 0..4), [1, 1, 1, 1]);
    node.want_merge(1, 1, 2);
    assert_eq!(node.request(in_layer(1), IoKind::Read, 0..4, 0), Some(IoStatus::LayerGone));
    node.script = Box::new(|_, _| None);
    node.lead(2, &[7, 8], &[7, 8], 1);
    node.pass(3000);
    assert!(node.has_merged(1), "{:?}", node.warnings);
    assert_eq!(node.request(in_layer(1), IoKind::Read, 0..4, 0), Some(IoStatus::LayerGone));
    node.name_stack(2, &[2, 1]);
    holds_all(&mut node);
}

/// M3: else a write by the old stack could still come into what is merged.
#[test]
fn nothing_is_merged_before_a_barrier_of_the_volume_is_passed() {
    let mut node = Node::new(16 * MIB);
    node.lead(1, &[7, 8], &[7, 8], 1);
    assert_eq!(node.request(in_layer(1), IoKind::Write, 0..4, 1), Some(IoStatus::Ok));
    node.script = Box::new(|_, m| matches!(m, Message::RaiseFloor(_)).then(Vec::new));
    node.raise_stack(2, IdSet::default());
    node.want_merge(1, 1, 2);
    node.pass(1000);
    assert!(!node.has_passed(2) && !node.has_merged(1) && !node.sent.iter().any(|(_, m)| is_merge(m)));
}

#[test]
fn a_pg_without_anything_of_the_layer_is_done_at_once() {
    let mut node = Node::new(16 * MIB);
    node.lead(1, &[7], &[7], 1);
    node.want_merge(9, 1, 2);
    assert!(node.has_merged(9));
}

fn merge_of(prev: Version, at: Version) -> Message {
    let write = WriteMeta {
        chunk: in_layer(2),
        version: prev.successor(Epoch(1)).expect("not used up"),
        prev,
        op: OpId { session: SessionId(0), number: OpNumber(0) },
        lowest_unanswered: OpNumber(0),
        volume: VolumeId(1),
        attachment: AttachmentId(0),
        generation: Generation(0),
        change: Change::Merge { from: LayerId(1), at },
    };
    Message::Prepare(Prepare { pg: PG, epoch: Epoch(1), write, payload: Bytes::new() })
}

#[test]
fn a_member_without_the_chunk_below_as_it_is_meant_takes_no_merge() {
    let mut node = Node::new(16 * MIB);
    let primary = node.follow(8, 1, &[7, 8], 1);
    let at = Version::NONE.successor(Epoch(1)).expect("the first");
    node.step(Event::Received(primary, merge_of(Version::NONE, at)));
    node.pass(100);
    assert_eq!(node.versions(in_layer(2)), Version::NONE);
}

#[test]
fn a_member_that_refuses_a_merge_is_taken_out_of_in_sync() {
    let mut node = stacked(&[7, 8], &[7, 8]);
    node.script = Box::new(|_, m| {
        let Message::Prepare(prepare) = m else { return None };
        let outcome = Outcome::Mismatch { newest: Version::NONE };
        let (pg, epoch, chunk, version) = (prepare.pg, prepare.epoch, prepare.write.chunk, prepare.write.version);
        let refusal = ashlar_wire::Prepared { pg, epoch, chunk, version, outcome };
        is_merge(m).then(|| vec![Message::Prepared(refusal)])
    });
    node.want_merge(1, 1, 2);
    node.pass(300);
    let is_it = |c: &ControlRequest| matches!(c, ControlRequest::PgChange { change: PgChange::Remove(OsdId(8)), .. });
    assert!(node.controls.iter().any(is_it));
    holds_all(&mut node);
}
