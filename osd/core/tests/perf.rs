//! Histograms of a primary: each request counts once, in its whole and in every part, with the time that it waited for what.

mod support;

use ashlar_osd_core::Event;
use ashlar_types::perf::Stage;
use ashlar_types::{Duration, OsdId};
use ashlar_wire::{IoKind, IoStatus, Message};
use support::MIB;
use support::node::{Node, PG, chunk, good_answers};

const PEER: OsdId = OsdId(8);

/// Count and sum of each.
fn figures(node: &mut Node, stages: &[Stage]) -> Vec<(u64, u64)> {
    let of = |stage: &Stage| {
        let histogram = node.osd.perf().of(*stage);
        (histogram.count(), histogram.sum())
    };
    stages.iter().map(of).collect()
}

#[test]
fn each_request_is_counted_once_in_its_whole_and_in_each_part() {
    let mut node = Node::new(32 * MIB);
    node.lead(1, &[7, 8], &[7, 8], 2);
    for index in 0..20 {
        assert_eq!(node.request(chunk(index), IoKind::Write, 0..2, 1), Some(IoStatus::Ok));
        assert_eq!(node.request(chunk(index), IoKind::Read, 0..1, 0), Some(IoStatus::Ok));
    }
    // What is answered without a record, or is no data, or is refused, is not counted.
    assert_eq!(node.request(chunk(90), IoKind::Zero, 0..2, 0), Some(IoStatus::Ok));
    assert_eq!(node.request(chunk(0), IoKind::Extents, 0..2, 0), Some(IoStatus::Ok));
    assert_eq!(node.request(chunk(0), IoKind::Read, 1023..1025, 0), Some(IoStatus::Invalid));
    let writes = [Stage::Write, Stage::WriteAdmit, Stage::WriteStore, Stage::WriteMembers, Stage::WriteAnswer];
    let reads = [Stage::Read, Stage::ReadAdmit, Stage::ReadLease, Stage::ReadStore, Stage::ReadAnswer];
    for stages in [&writes, &reads] {
        let figures = figures(&mut node, stages);
        assert!(figures.iter().all(|(count, _)| *count == 20), "{stages:?}: {figures:?}");
        assert_eq!(figures[0].1, figures[1..].iter().map(|(_, sum)| sum).sum::<u64>());
    }
    assert_eq!(figures(&mut node, &[Stage::PeerPrepare])[0].0, 20);
}

#[test]
fn the_wait_for_a_member_and_that_for_an_overlapping_write_are_told_apart() {
    let mut node = Node::new(32 * MIB);
    node.script = Box::new(|_, m| matches!(m, Message::Prepare(_)).then(Vec::new));
    node.lead(1, &[7, 8], &[7, 8], 2);
    node.ask(PG, chunk(0), IoKind::Write, 0..1, 1);
    node.ask(PG, chunk(0), IoKind::Write, 0..1, 2);
    node.pass(30);
    let answer_to = |node: &mut Node| {
        let prepares: Vec<Message> = std::mem::take(&mut node.sent).into_iter().map(|(_, m)| m).collect();
        for answer in prepares.iter().filter(|m| matches!(m, Message::Prepare(_))).flat_map(good_answers) {
            node.step(Event::LinkReceived(PEER, answer));
        }
    };
    answer_to(&mut node);
    node.pass(40);
    answer_to(&mut node);
    let (first, second) = (Duration::from_millis(30).as_micros(), Duration::from_millis(40).as_micros());
    let waited = [Stage::Write, Stage::WriteAdmit, Stage::WriteStore, Stage::WriteMembers, Stage::WriteAnswer];
    let expected = [(2, 2 * first + second), (2, first), (2, 0), (2, first + second), (2, 0)];
    assert_eq!(figures(&mut node, &waited), expected);
    assert_eq!(figures(&mut node, &[Stage::PeerPrepare]), [(2, first + second)]);
}

#[test]
fn the_wait_for_a_lease_is_the_lease_s() {
    let mut node = Node::new(32 * MIB);
    node.lead(1, &[7, 8], &[7, 8], 2);
    node.script = Box::new(|_, m| matches!(m, Message::LeaseRequest(_)).then(Vec::new));
    let before = node.now;
    assert_eq!(node.request(chunk(0), IoKind::Read, 0..1, 0), None);
    node.script = Box::new(|_, _| None);
    node.pass(300);
    assert_eq!(node.answers.len(), 1);
    let figures = figures(&mut node, &[Stage::Read, Stage::ReadAdmit, Stage::ReadLease, Stage::ReadStore]);
    let (count, whole) = figures[0];
    assert!(count == 1 && whole >= 100_000 && whole <= (node.now - before).as_micros(), "{figures:?}");
    assert_eq!(figures[1..], [(1, 0), (1, whole), (1, 0)]);
}
