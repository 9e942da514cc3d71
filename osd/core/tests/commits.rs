//! Members hear of every commit, whatever becomes of the connections (design.md §5).

mod support;

use ashlar_osd_core::Event;
use ashlar_types::{ChunkId, OsdId};
use ashlar_wire::{IoKind, Message};
use std::collections::BTreeSet;
use support::MIB;
use support::node::{Node, PG, chunk, good_answers};

const PEER: OsdId = OsdId(8);
const WRITES: u32 = 700;

fn told(node: &Node) -> BTreeSet<ChunkId> {
    let commits = node.sent.iter().filter_map(|(_, m)| if let Message::Commit(c) = m { Some(c) } else { None });
    commits.flat_map(|c| c.committed.iter().map(|(chunk, _)| *chunk)).collect()
}

#[test]
fn every_commit_that_a_broken_link_may_have_lost_is_told_again() {
    let mut node = Node::new(32 * MIB);
    node.script = Box::new(|_, m| matches!(m, Message::Prepare(_)).then(Vec::new));
    node.lead(1, &[7, 8], &[7, 8], 2);
    for index in 0..WRITES {
        node.ask(PG, chunk(index), IoKind::Write, 0..1, 1);
    }
    node.pass(10);
    let prepares = std::mem::take(&mut node.sent);
    for answer in prepares.iter().filter(|(_, m)| matches!(m, Message::Prepare(_))).flat_map(|(_, m)| good_answers(m)) {
        node.step(Event::LinkReceived(PEER, answer));
    }
    node.pass(10);
    assert_eq!(node.answers.len(), WRITES as usize);
    assert_eq!(told(&node).len(), WRITES as usize);
    node.sent.clear();
    node.step(Event::LinkDown(PEER));
    node.pass(100);
    assert_eq!(told(&node).len(), WRITES as usize, "told again on the new link");
    // Who answers a later write on this link has heard of all that was told before.
    node.script = Box::new(|_, _| None);
    node.request(chunk(WRITES), IoKind::Write, 0..1, 1);
    node.sent.clear();
    node.step(Event::LinkDown(PEER));
    node.pass(100);
    assert_eq!(told(&node), BTreeSet::from([chunk(WRITES)]));
}
