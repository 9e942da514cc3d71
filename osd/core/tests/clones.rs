//! Volumes that stand on a base, a layer of another volume (linked clones, design.md §6).

mod support;

use ashlar_types::{BLOCK_BYTES, OpNumber, Version};
use ashlar_wire::{IoKind, IoStatus};
use support::MIB;
use support::node::{Node, PG, chunk};

const BLOCK: usize = BLOCK_BYTES as usize;

/// Leads alone, with block 2 of the clone written.
fn clone() -> Node {
    let mut node = Node::new(16 * MIB);
    node.lead(1, &[7], &[7], 1);
    assert_eq!(node.request(chunk(0), IoKind::Write, 2..3, 1), Some(IoStatus::Ok));
    node
}

fn over(node: &mut Node, kind: IoKind, bytes: std::ops::Range<u32>, base: &[u8]) -> (OpNumber, Option<IoStatus>) {
    let number = node.ask_over(chunk(0), kind, bytes, 5, base);
    node.pass(100);
    (number, node.answers.get(&number).copied())
}

/// The blocks that are unwritten.
fn unwritten(node: &mut Node, blocks: std::ops::Range<u32>) -> Vec<std::ops::Range<u16>> {
    let (number, status) = over(node, IoKind::Read, blocks.start * BLOCK_BYTES..blocks.end * BLOCK_BYTES, &[]);
    assert_eq!(status, Some(IoStatus::Ok));
    node.unwritten.get(&number).cloned().unwrap_or_default()
}

#[test]
fn a_read_says_what_is_unwritten() {
    let mut node = clone();
    assert_eq!(unwritten(&mut node, 0..6), [0..2, 3..6]);
    assert!(unwritten(&mut node, 2..3).is_empty());
    assert_eq!(unwritten(&mut node, 600..602), vec![600..602; 1]);
}

#[test]
fn a_discard_is_written_down_wherever_it_is() {
    let mut node = clone();
    let (_, status) = over(&mut node, IoKind::Zero, 600 * BLOCK_BYTES..604 * BLOCK_BYTES, &[]);
    assert_eq!(status, Some(IoStatus::Ok));
    assert_eq!(unwritten(&mut node, 599..605), [599..600, 604..605]);
}

#[test]
fn a_write_of_a_part_of_an_unwritten_block_needs_the_base() {
    for kind in [IoKind::Write, IoKind::Zero] {
        let mut node = clone();
        let bytes = 4 * BLOCK_BYTES + 100..4 * BLOCK_BYTES + 200;
        let (number, status) = over(&mut node, kind, bytes.clone(), &[]);
        assert_eq!(status, Some(IoStatus::NeedsBase));
        assert_eq!(unwritten(&mut node, 4..5), vec![4..5; 1], "nothing was done");
        node.ask_over_as(number, chunk(0), kind, bytes, 5, &[3]);
        node.pass(100);
        assert_eq!(node.answers.get(&number), Some(&IoStatus::Ok), "under the same number");
        let number = node.ask(PG, chunk(0), IoKind::Read, 4..5, 0);
        node.pass(100);
        let block = &node.payloads[&number];
        let written = if kind == IoKind::Write { 5 } else { 0 };
        assert!(block[100..200].iter().all(|b| *b == written), "{kind:?}");
        assert!(block[..100].iter().chain(&block[200..]).all(|b| *b == 3));
    }
}

#[test]
fn the_base_is_used_only_where_nothing_is_written() {
    let mut node = clone();
    let (_, status) = over(&mut node, IoKind::Write, 2 * BLOCK_BYTES + 100..4 * BLOCK_BYTES + 200, &[8, 9]);
    assert_eq!(status, Some(IoStatus::Ok));
    let number = node.ask(PG, chunk(0), IoKind::Read, 2..5, 0);
    node.pass(100);
    let read = &node.payloads[&number];
    assert_eq!((read[0], read[100], read[2 * BLOCK + 199], read[2 * BLOCK + 200]), (1, 5, 5, 9));
    let (_, status) = over(&mut node, IoKind::Zero, 0..2 * BLOCK_BYTES, &[]);
    assert_eq!(status, Some(IoStatus::Ok));
    let (_, status) = over(&mut node, IoKind::Write, 0..100, &[]);
    assert_eq!(status, Some(IoStatus::Ok), "zeroes are written too");
}

#[test]
fn a_part_of_a_block_that_a_layer_below_has_needs_no_base() {
    let mut node = clone();
    node.raise_stack(2, Default::default());
    node.name_stack(2, &[2, 1]);
    let top = ashlar_types::ChunkId { layer: ashlar_types::LayerId(2), ..chunk(0) };
    let number = node.ask_over(top, IoKind::Write, 2 * BLOCK_BYTES..2 * BLOCK_BYTES + 10, 5, &[]);
    node.pass(100);
    assert_eq!(node.answers.get(&number), Some(&IoStatus::Ok));
}

#[test]
fn a_base_that_fits_nowhere_is_refused() {
    let mut node = clone();
    let part = 4 * BLOCK_BYTES + 100..4 * BLOCK_BYTES + 200;
    assert_eq!(
        over(&mut node, IoKind::Write, part.clone(), &[1, 2]).1,
        Some(IoStatus::Invalid),
        "more than it has ends"
    );
    assert_eq!(
        over(&mut node, IoKind::Write, 0..BLOCK_BYTES, &[1]).1,
        Some(IoStatus::Invalid),
        "whole blocks need none"
    );
    assert_eq!(over(&mut node, IoKind::Read, part, &[1]).1, Some(IoStatus::Invalid), "a read needs none");
    assert_eq!(node.versions(chunk(1)), Version::NONE);
}
