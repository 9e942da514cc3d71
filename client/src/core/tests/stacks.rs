use super::*;
use ashlar_types::BLOCK_BYTES;
use ashlar_types::view::{Barrier, Floor};
use ashlar_wire::Stack;
use bytes::Bytes;

const OLD: StackRevision = StackRevision::FIRST;
const NEW: StackRevision = StackRevision(2);

fn write(block: u64) -> BlockOp {
    let data = Bytes::from(vec![1; BLOCK_BYTES as usize]);
    BlockOp::Write { offset: block * u64::from(BLOCK_BYTES), data }
}

fn read(block: u64) -> BlockOp {
    BlockOp::Read { offset: block * u64::from(BLOCK_BYTES), len: BLOCK_BYTES }
}

fn newer() -> ClientEvent {
    ClientEvent::Stack { revision: NEW, layers: vec![LayerId(8), LayerId(7)], base: None }
}

fn stacks_of(requests: &[IoRequest]) -> Vec<(StackRevision, LayerId)> {
    requests.iter().map(|r| (r.stack_revision, r.chunk.layer)).collect()
}

/// A view in which the volume's stack has become newer.
fn snapshot_under_way(revision: u64) -> ClusterView {
    let floor = Floor { stack_revision: NEW, ..Floor::default() };
    let (gone, retire, pgs) = Default::default();
    let barrier = Barrier { id: 1, volume: grant(MIB).volume, floor, gone, retire, pgs };
    ClusterView { barriers: vec![barrier], ..view(revision, 1, 1, Some(0)) }
}

#[test]
fn a_connection_is_told_the_stack_once_before_what_names_it() {
    let mut rig = Rig::connected(MIB);
    let first = Stack { revision: OLD, layers: vec![LayerId(7)] };
    assert_eq!(rig.stacks, [(OsdId(0), first.clone())]);
    rig.submit(1, write(0));
    assert_eq!(rig.stacks.len(), 1);
    rig.step(ClientEvent::LinkDown(OsdId(0)));
    rig.sleep();
    rig.welcome(0);
    assert_eq!(rig.stacks[1..], [(OsdId(0), first)], "a new connection knows none");
    rig.step(newer());
    rig.submit(2, write(1));
    assert_eq!(rig.stacks[2..], [(OsdId(0), Stack { revision: NEW, layers: vec![LayerId(8), LayerId(7)] })]);
}

#[test]
fn what_was_sent_keeps_its_stack_and_what_comes_later_has_the_newest() {
    let mut rig = Rig::connected(MIB);
    rig.submit(1, write(0));
    rig.submit(2, read(1));
    let first = rig.sent();
    assert_eq!(stacks_of(&first), [(OLD, LayerId(7)); 2]);
    rig.step(newer());
    rig.submit(3, write(2));
    assert_eq!(stacks_of(&rig.sent()), [(NEW, LayerId(8))]);
    rig.step(ClientEvent::LinkDown(OsdId(0)));
    rig.sleep();
    rig.welcome(0);
    let mut again = rig.sent();
    again.sort_by_key(|request| request.op.number);
    assert_eq!(stacks_of(&again), [(OLD, LayerId(7)), (OLD, LayerId(7)), (NEW, LayerId(8))]);
    assert_eq!(again[0].op, first[0].op, "R10: it may be done already");
}

#[test]
fn a_write_whose_stack_is_too_old_goes_anew_under_another_number() {
    let mut rig = Rig::connected(MIB);
    rig.submit(1, write(0));
    let first = rig.sent().remove(0);
    rig.step(newer());
    rig.reply(0, refusal(&first, IoStatus::StaleStack, 1));
    let again = rig.sent().remove(0);
    assert_eq!(stacks_of(std::slice::from_ref(&again)), [(NEW, LayerId(8))]);
    assert!(again.op.number > first.op.number && again.lowest_unanswered == again.op.number);
    assert_eq!((again.payload.clone(), again.offset), (first.payload, first.offset));
    rig.reply(0, ok(&again));
    assert!(matches!(rig.completed[..], [(1, Ok(BlockReply::Done))]));
}

#[test]
fn what_is_refused_before_the_new_stack_is_known_waits_for_it() {
    let mut rig = Rig::connected(MIB);
    rig.submit(1, write(0));
    rig.submit(2, read(1));
    let first = rig.sent();
    for request in &first {
        rig.reply(0, refusal(request, IoStatus::StaleStack, 1));
    }
    assert!(rig.requests.is_empty() && rig.completed.is_empty());
    assert_eq!(rig.stacks_wanted, 1, "asked for once");
    rig.sleep();
    assert_eq!(rig.stacks_wanted, 2, "and again after a while");
    rig.step(newer());
    assert_eq!(stacks_of(&rig.sent()), [(NEW, LayerId(8)); 2]);
}

#[test]
fn what_waits_for_a_stack_fails_when_the_session_is_gone() {
    let mut rig = Rig::connected(MIB);
    rig.submit(1, write(0));
    let first = rig.sent().remove(0);
    rig.reply(0, refusal(&first, IoStatus::StaleStack, 1));
    assert!(rig.completed.is_empty() && rig.stacks_wanted == 1);
    rig.step(ClientEvent::Gone);
    rig.submit(2, read(0));
    assert!(rig.fenced && rig.sent().is_empty());
    assert!(matches!(rig.completed[..], [(1, Err(BlockError::Fenced)), (2, Err(BlockError::Fenced))]));
}

#[test]
fn a_barrier_with_a_newer_stack_makes_it_wanted_at_once_and_once() {
    let mut rig = Rig::connected(MIB);
    rig.step(ClientEvent::View(Arc::new(snapshot_under_way(2))));
    assert_eq!(rig.stacks_wanted, 1);
    rig.step(newer());
    rig.step(ClientEvent::View(Arc::new(snapshot_under_way(3))));
    assert_eq!(rig.stacks_wanted, 1, "it is known");
}

#[test]
fn a_late_stack_changes_nothing() {
    let mut rig = Rig::connected(MIB);
    rig.step(newer());
    rig.step(ClientEvent::Stack { revision: OLD, layers: vec![LayerId(7)], base: None });
    rig.submit(1, write(0));
    assert_eq!(stacks_of(&rig.sent()), [(NEW, LayerId(8))]);
}
