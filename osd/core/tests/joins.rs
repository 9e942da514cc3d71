//! A primary brings members back (R8), also when its own disk or the member's makes trouble.

mod support;

use ashlar_osd_core::DiskOp;
use ashlar_types::OsdId;
use ashlar_types::control::{ControlRequest, PgChange};
use ashlar_wire::{CreditGrant, IoKind, IoStatus, Message};
use support::MIB;
use support::node::{Node, chunk};

fn is_proposed(node: &Node, member: u32) -> bool {
    let add = PgChange::Add(OsdId(member));
    node.controls.iter().any(|c| matches!(c, ControlRequest::PgChange { change, .. } if *change == add))
}

/// Where the only copy of a block with this data is.
fn place_of(node: &Node, tag: u8) -> u64 {
    let places = node.find_on_disk(tag);
    assert_eq!(places.len(), 1, "one copy of {tag}");
    places[0]
}

#[test]
fn chunks_that_cannot_be_read_do_not_keep_the_others_from_a_joiner() {
    let mut node = Node::new(16 * MIB);
    node.lead(1, &[7], &[7], 1);
    for index in 0..6 {
        assert_eq!(node.request(chunk(index), IoKind::Write, 3..4, 100 + index as u8), Some(IoStatus::Ok));
    }
    for tag in [100, 101, 102] {
        let at = place_of(&node, tag);
        node.disk.make_unreadable(at);
    }
    node.lead(2, &[7, 8], &[7], 1);
    assert_eq!(node.pushed_to(8), [chunk(3), chunk(4), chunk(5)]);
    let said = node.warnings.iter().filter(|w| w.contains("cannot join")).count();
    assert_eq!(said, 3, "once for each chunk: {:?}", node.warnings);
    assert_eq!(node.osd.usage().lost_blocks, 3);
    node.pass(60_000);
    assert!(!is_proposed(&node, 8));
    assert_eq!(node.osd.usage().lost_blocks, 3, "counted once");
    for index in 0..3 {
        assert_eq!(node.request(chunk(index), IoKind::Write, 3..4, 110), Some(IoStatus::Ok), "written anew");
    }
    node.pass(10_000);
    assert_eq!(node.pushed_to(8).len(), 6);
    assert!(is_proposed(&node, 8));
}

/// R12: below min_size a write stays undecided, and whoever joins must have it.
#[test]
fn an_undecided_write_that_cannot_be_read_at_once_is_read_again() {
    let mut node = Node::new(16 * MIB);
    node.script = Box::new(|_, m| matches!(m, Message::Prepare(_)).then(Vec::new));
    node.lead(1, &[7, 8], &[7, 8], 2);
    assert_eq!(node.request(chunk(0), IoKind::Write, 0..1, 5), None);
    let at = place_of(&node, 5);
    let good = node.disk.read_now(at, 4096).expect("it is there");
    node.disk.make_unreadable(at);
    node.script = Box::new(|_, _| None);
    node.lead(2, &[7, 8], &[7], 2);
    node.pass(5000);
    assert!(!is_proposed(&node, 8));
    assert_eq!(node.warnings.iter().filter(|w| w.contains("undecided")).count(), 1, "{:?}", node.warnings);
    node.disk.perform([DiskOp::Write { at, data: vec![good.into()], through: false }]);
    node.pass(10_000);
    assert!(is_proposed(&node, 8));
}

/// A member that grants nothing, and takes no push of the last chunk.
fn full_joiner() -> support::node::Script {
    Box::new(|_, m| match m {
        Message::CreditRequest(m) if !m.is_return => {
            let (pg, epoch, wanted_total) = (m.pg, m.epoch, m.wanted_total);
            Some(vec![Message::CreditGrant(CreditGrant { pg, epoch, wanted_total, granted_total: 0 })])
        }
        Message::Push(m) if m.chunk == chunk(1) => Some(vec![]),
        _ => None,
    })
}

#[test]
fn a_full_member_that_joins_refuses_no_write() {
    let mut node = Node::new(16 * MIB);
    node.lead(1, &[7], &[7], 1);
    for index in 0..2 {
        assert_eq!(node.request(chunk(index), IoKind::Write, 0..1, 5), Some(IoStatus::Ok));
    }
    node.script = full_joiner();
    node.lead(2, &[7, 8], &[7], 1);
    assert_eq!(node.pushed_to(8), [chunk(0), chunk(1)]);
    assert_eq!(node.request(chunk(0), IoKind::Write, 1..2, 5), Some(IoStatus::Ok));
}

#[test]
fn a_full_member_is_not_asked_for_credit_without_end() {
    let mut node = Node::new(16 * MIB);
    node.script = Box::new(|_, m| matches!(m, Message::Prepare(_)).then(Vec::new));
    node.lead(1, &[7, 8], &[7, 8], 2);
    assert_eq!(node.request(chunk(0), IoKind::Write, 0..1, 5), None);
    node.script = full_joiner();
    node.sent.clear();
    node.lead(2, &[7, 8], &[7], 2);
    node.pass(5000);
    let asked = node.sent.iter().filter(|(_, m)| matches!(m, Message::CreditRequest(_))).count();
    assert!((2..20).contains(&asked), "{asked} times");
}
