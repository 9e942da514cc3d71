//! Discards of what was never written cost nothing, on no disk (docs/decisions/015).

mod support;

use ashlar_types::{BlockIndex, BlockRange};
use ashlar_wire::{Change, IoKind, IoStatus, Message};
use support::MIB;
use support::node::{Node, PG, chunk};

fn prepared(node: &Node) -> Vec<Change> {
    let changes = node.sent.iter();
    changes.filter_map(|(_, m)| if let Message::Prepare(p) = m { Some(p.write.change.clone()) } else { None }).collect()
}

#[test]
fn a_discard_of_what_was_never_written_is_answered_without_a_record() {
    let mut node = Node::new(16 * MIB);
    node.lead(1, &[7, 8], &[7, 8], 2);
    let empty = node.osd.store().space();
    for index in 0..2000 {
        assert_eq!(node.request(chunk(index), IoKind::Zero, 0..1024, 0), Some(IoStatus::Ok), "chunk {index}");
        assert_eq!(node.request(chunk(index), IoKind::Zero, 7..9, 0), Some(IoStatus::Ok), "chunk {index}");
    }
    assert_eq!(prepared(&node), []);
    assert_eq!(node.osd.store().space(), empty);
    assert_eq!(node.failed, None);
}

#[test]
fn only_the_quarters_in_which_something_was_written_are_discarded() {
    let mut node = Node::new(16 * MIB);
    node.lead(1, &[7, 8], &[7, 8], 2);
    assert_eq!(node.request(chunk(0), IoKind::Write, 300..301, 1), Some(IoStatus::Ok));
    assert_eq!(node.request(chunk(0), IoKind::Zero, 0..1024, 0), Some(IoStatus::Ok));
    assert_eq!(node.request(chunk(0), IoKind::Zero, 0..300, 0), Some(IoStatus::Ok));
    assert_eq!(node.request(chunk(0), IoKind::Zero, 600..1024, 0), Some(IoStatus::Ok));
    let zero = |first, count| Change::Zero { range: BlockRange::new(BlockIndex(first), count).expect("inside") };
    assert_eq!(prepared(&node)[1..], [zero(256, 256), zero(256, 44)]);
}

/// R5: another primary may serve the PG, and have written there, when a member does not say otherwise.
#[test]
fn a_discard_that_changes_nothing_waits_for_leases() {
    let mut node = Node::new(16 * MIB);
    node.script = Box::new(|_, m| matches!(m, Message::LeaseRequest(_)).then(Vec::new));
    node.lead(1, &[7, 8], &[7, 8], 2);
    assert_eq!(node.request(chunk(0), IoKind::Zero, 0..1024, 0), None);
    let behind = node.ask(PG, chunk(0), IoKind::Write, 5..6, 1);
    node.pass(300);
    assert_eq!(node.answers.get(&behind), None, "it waits behind the zero to the same block (W2)");
    let asked = node.controls.len();
    node.pass(3000);
    assert!(node.controls.len() > asked, "the member's removal is asked for");
    node.script = Box::new(|_, _| None);
    node.pass(300);
    assert_eq!(node.answers.len(), 2);
    assert!(node.answers.values().all(|status| *status == IoStatus::Ok));
    assert_eq!(node.answers.get(&behind), Some(&IoStatus::Ok));
}
