//! A block whose medium failed is fetched from another member, when that can be had.

mod support;

use ashlar_types::{BLOCK_BYTES, Crc};
use ashlar_wire::{FetchReply, IoKind, IoStatus, Message, Outcome};
use bytes::Bytes;
use std::cell::Cell;
use std::rc::Rc;
use support::MIB;
use support::node::{Node, PG, chunk};

#[derive(Clone, Copy, PartialEq)]
enum Peer {
    Silent,
    Lacking,
    Good,
}

/// In sync with a peer; the block with this data is bad here.
fn with_bad_block(tag: u8, peer: &Rc<Cell<Peer>>) -> Node {
    let mut node = Node::new(16 * MIB);
    let peer = peer.clone();
    node.script = Box::new(move |_, m| {
        let Message::FetchRequest(m) = m else { return None };
        let payload = Bytes::from(vec![tag; BLOCK_BYTES as usize]);
        assert_eq!(m.crc, Crc::of(&payload));
        let (outcome, payload) = match peer.get() {
            Peer::Silent => return Some(vec![]),
            Peer::Lacking => (Outcome::Missing, Bytes::new()),
            Peer::Good => (Outcome::Ok, payload),
        };
        let (pg, epoch, chunk, block, stamp) = (m.pg, m.epoch, m.chunk, m.block, m.stamp);
        Some(vec![Message::FetchReply(FetchReply { pg, epoch, chunk, block, stamp, outcome, payload })])
    });
    node.lead(1, &[7, 8], &[7, 8], 2);
    assert_eq!(node.request(chunk(0), IoKind::Write, 0..1, tag), Some(IoStatus::Ok));
    let at = node.find_on_disk(tag);
    node.disk.make_unreadable(at[0]);
    node
}

#[test]
fn a_member_that_says_nothing_is_waited_for() {
    let peer = Rc::new(Cell::new(Peer::Silent));
    let mut node = with_bad_block(5, &peer);
    let read = node.ask(PG, chunk(0), IoKind::Read, 0..1, 0);
    node.pass(4000);
    assert_eq!(node.answers.get(&read), None);
    peer.set(Peer::Good);
    node.pass(1000);
    assert_eq!(node.answers.get(&read), Some(&IoStatus::Ok));
    assert_eq!(node.payloads[&read], vec![5; 4096]);
    assert_eq!(node.osd.usage().repaired_blocks, 1);
}

#[test]
fn a_block_that_no_member_has_is_lost() {
    let peer = Rc::new(Cell::new(Peer::Lacking));
    let mut node = with_bad_block(5, &peer);
    assert_eq!(node.request(chunk(0), IoKind::Read, 0..1, 0), Some(IoStatus::Medium));
    assert_eq!(node.osd.usage().lost_blocks, 1);
}
