//! Fills: writes that are done where nothing was ever written, and nowhere else (design.md §6).

mod support;

use ashlar_types::view::Floor;
use ashlar_types::{AttachmentId, BLOCK_BYTES, ChunkId, IdSet, LayerId};
use ashlar_wire::{CreditGrant, IoKind, IoStatus, Message};
use support::MIB;
use support::node::{Node, PG, chunk};

/// After which nobody is at work.
const QUIET_MS: u64 = 200;

fn in_layer(layer: u64) -> ChunkId {
    ChunkId { layer: LayerId(layer), ..chunk(0) }
}

/// Leads alone, with block 2 written and block 4 discarded in the lowest of two layers.
fn node() -> Node {
    let mut node = Node::new(16 * MIB);
    node.lead(1, &[7], &[7], 1);
    assert_eq!(node.request(in_layer(1), IoKind::Write, 2..3, 1), Some(IoStatus::Ok));
    assert_eq!(node.request(in_layer(1), IoKind::Write, 4..5, 1), Some(IoStatus::Ok));
    assert_eq!(node.request(in_layer(1), IoKind::Zero, 4..5, 0), Some(IoStatus::Ok));
    node.pass(QUIET_MS);
    node
}

fn read(node: &mut Node, top: ChunkId, blocks: std::ops::Range<u32>) -> Vec<u8> {
    let number = node.ask(PG, top, IoKind::Read, blocks, 0);
    node.pass(100);
    assert_eq!(node.answers.get(&number), Some(&IoStatus::Ok));
    node.payloads[&number].chunks_exact(BLOCK_BYTES as usize).map(|block| block[0]).collect()
}

#[test]
fn what_was_never_written_is_filled() {
    let mut node = node();
    assert_eq!(node.request(in_layer(1), IoKind::Fill, 0..2, 7), Some(IoStatus::Ok));
    assert_eq!(read(&mut node, in_layer(1), 0..4), [7, 7, 1]);
}

#[test]
fn what_was_written_or_discarded_is_not_filled_nor_is_what_lies_beside_it() {
    let mut node = node();
    for blocks in [1..3, 2..3, 3..5, 0..8] {
        assert_eq!(node.request(in_layer(1), IoKind::Fill, blocks, 7), Some(IoStatus::Written));
    }
    assert_eq!(read(&mut node, in_layer(1), 0..8), [1]);
}

#[test]
fn what_a_layer_below_has_is_not_filled() {
    let mut node = node();
    node.raise_stack(2, IdSet::default());
    node.name_stack(2, &[2, 1]);
    for blocks in [2..3, 4..5] {
        assert_eq!(node.request(in_layer(2), IoKind::Fill, blocks, 7), Some(IoStatus::Written));
    }
    assert_eq!(node.request(in_layer(2), IoKind::Fill, 5..6, 7), Some(IoStatus::Ok));
    assert_eq!(read(&mut node, in_layer(2), 0..8), [1, 7]);
}

/// As a clone's lowest layer is filled, whatever those above have.
#[test]
fn a_layer_is_filled_below_others() {
    let mut node = node();
    node.raise_stack(2, IdSet::default());
    node.name_stack(2, &[2, 1]);
    assert_eq!(node.request(in_layer(2), IoKind::Write, 0..1, 3), Some(IoStatus::Ok));
    node.name_stack(2, &[1]);
    node.pass(QUIET_MS);
    assert_eq!(node.request(in_layer(1), IoKind::Fill, 0..2, 7), Some(IoStatus::Ok));
    node.name_stack(2, &[2, 1]);
    assert_eq!(read(&mut node, in_layer(2), 0..4), [3, 7, 1]);
}

/// Its turn decides, not its arrival.
#[test]
fn a_fill_behind_a_write_finds_it() {
    let mut node = node();
    let write = node.ask(PG, in_layer(1), IoKind::Write, 0..1, 5);
    let fill = node.ask(PG, in_layer(1), IoKind::Fill, 0..2, 7);
    node.pass(100);
    assert_eq!((node.answers[&write], node.answers[&fill]), (IoStatus::Ok, IoStatus::Written));
    let fill = node.ask(PG, in_layer(1), IoKind::Fill, 8..10, 7);
    let write = node.ask(PG, in_layer(1), IoKind::Write, 9..10, 5);
    node.pass(100);
    assert_eq!((node.answers[&fill], node.answers[&write]), (IoStatus::OkBusy, IoStatus::Ok));
    assert_eq!(read(&mut node, in_layer(1), 8..10), [7, 5]);
}

#[test]
fn a_fill_that_was_done_is_answered_again_as_done() {
    let mut node = node();
    let fill = node.ask(PG, in_layer(1), IoKind::Fill, 0..1, 7);
    node.pass(100);
    node.answers.clear();
    node.ask_as(fill, PG, in_layer(1), IoKind::Fill, 0..BLOCK_BYTES, 7);
    node.pass(100);
    assert_eq!(node.answers.get(&fill), Some(&IoStatus::Ok), "R10");
}

/// So that who fills can leave room for them: whoever writes or reads a little, but not who fills or moves much.
#[test]
fn a_fill_is_told_of_others_small_requests() {
    let mut node = node();
    let mut fill = |others: &dyn Fn(&mut Node), at: u32| {
        node.pass(QUIET_MS);
        others(&mut node);
        node.request(in_layer(1), IoKind::Fill, at..at + 1, 7)
    };
    let ask = |kind, blocks: std::ops::Range<u32>| {
        move |node: &mut Node| {
            node.ask(PG, in_layer(1), kind, blocks.clone(), 5);
            node.pass(100);
        }
    };
    assert_eq!(fill(&|_| {}, 10), Some(IoStatus::Ok));
    assert_eq!(fill(&ask(IoKind::Read, 0..1), 11), Some(IoStatus::OkBusy));
    assert_eq!(fill(&ask(IoKind::Write, 0..1), 12), Some(IoStatus::OkBusy));
    assert_eq!(fill(&ask(IoKind::Read, 0..64), 13), Some(IoStatus::Ok), "256 KiB");
    assert_eq!(fill(&ask(IoKind::Fill, 500..501), 14), Some(IoStatus::Ok));
}

#[test]
fn a_fill_of_parts_of_blocks_is_invalid() {
    let mut node = node();
    for bytes in [100..BLOCK_BYTES, 0..BLOCK_BYTES + 512] {
        let number = node.ask_bytes(PG, in_layer(1), IoKind::Fill, bytes, 7);
        node.pass(100);
        assert_eq!(node.answers.get(&number), Some(&IoStatus::Invalid));
    }
}

#[test]
fn a_fenced_worker_fills_nothing() {
    let mut node = node();
    let floor = Floor { oldest_attachment: AttachmentId(2), ..Floor::default() };
    node.raise_floor(floor, IdSet::default());
    assert_eq!(node.request(in_layer(1), IoKind::Fill, 0..1, 7), Some(IoStatus::Fenced));
}

/// What is kept free is for what the volume itself writes, in its top layer.
#[test]
fn a_layer_below_is_not_filled_out_of_what_is_reserved() {
    let mut node = Node::new(64 * MIB);
    node.script = Box::new(|_, m| match m {
        Message::CreditRequest(m) if !m.is_return => {
            let (pg, epoch, wanted_total) = (m.pg, m.epoch, m.wanted_total);
            Some(vec![Message::CreditGrant(CreditGrant { pg, epoch, wanted_total, granted_total: 0 })])
        }
        _ => None,
    });
    node.lead(1, &[7, 8], &[7, 8], 2);
    node.reserve(1, 99, 1);
    assert_eq!(node.request(in_layer(1), IoKind::Fill, 0..4, 1), Some(IoStatus::NoSpace));
    node.reserve(1, 1, 1);
    assert_eq!(node.request(in_layer(1), IoKind::Fill, 0..4, 1), Some(IoStatus::Ok));
}
