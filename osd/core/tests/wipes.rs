//! What an OSD does when the view asks it to wipe a volume that is gone.

mod support;

use ashlar_types::control::ControlRequest;
use ashlar_types::wipe::WipeReport;
use ashlar_types::{OsdId, WipeId};
use ashlar_wire::{IoKind, IoStatus};
use support::MIB;
use support::node::{Node, chunk};

const TAG: u8 = 0x5a;

/// With a volume that has written some blocks, alone in its PG.
fn with_data() -> Node {
    let mut node = Node::new(16 * MIB);
    node.lead(1, &[7], &[7], 1);
    assert_eq!(node.request(chunk(0), IoKind::Write, 0..100, TAG), Some(IoStatus::Ok));
    // Overwritten, so that there are earlier versions.
    assert_eq!(node.request(chunk(0), IoKind::Write, 0..50, TAG), Some(IoStatus::Ok));
    assert!(node.find_on_disk(TAG).len() >= 150);
    node
}

fn told(node: &Node) -> Vec<(Vec<WipeId>, WipeReport)> {
    let done = node.controls.iter().filter_map(|request| match request {
        ControlRequest::WipeDone { osd: OsdId(7), wipes, report } => Some((wipes.clone(), *report)),
        _ => None,
    });
    done.collect()
}

#[test]
fn nothing_of_a_volume_is_left_when_its_wipe_is_told() {
    let mut node = with_data();
    node.delete_volume();
    assert!(!node.find_on_disk(TAG).is_empty(), "deleted is not wiped");
    node.want_wipe(3, &[7, 8]);
    for _ in 0..100 {
        if !told(&node).is_empty() {
            break;
        }
        node.pass(50);
    }
    let (wipes, report) = told(&node)[0].clone();
    assert_eq!(wipes, [WipeId(3)]);
    assert!(report.overwritten >= 150 * 4096 && report.is_clean(), "{report:?}");
    assert_eq!(node.find_on_disk(TAG), Vec::<u64>::new());
    assert_eq!(node.osd.usage().wipe_left, 0);
}

#[test]
fn it_is_told_again_until_the_view_does_not_ask_any_more() {
    let mut node = with_data();
    node.delete_volume();
    node.want_wipe(3, &[7]);
    node.pass(10_000);
    let before = told(&node).len();
    node.pass(5_000);
    assert!(told(&node).len() >= before + 3, "{before}");
    node.forget_wipes();
    node.pass(1_500);
    let before = told(&node).len();
    node.pass(5_000);
    assert_eq!(told(&node).len(), before);
}

#[test]
fn a_wipe_waits_until_the_volume_is_gone_here() {
    let mut node = with_data();
    node.want_wipe(3, &[7]);
    node.pass(5_000);
    assert!(told(&node).is_empty(), "this OSD has not heard yet that the volume is deleted");
    assert!(node.find_on_disk(TAG).len() >= 100, "and keeps what is its");
    node.delete_volume();
    node.pass(10_000);
    assert!(!told(&node).is_empty());
    assert_eq!(node.find_on_disk(TAG), Vec::<u64>::new());
}

#[test]
fn one_that_is_given_up_in_the_middle_does_not_hold_up_the_next() {
    let mut node = with_data();
    node.delete_volume();
    node.want_wipe(3, &[7]);
    node.forget_wipes();
    node.want_wipe(4, &[7]);
    node.pass(20_000);
    let all: Vec<WipeId> = told(&node).into_iter().flat_map(|(wipes, _)| wipes).collect();
    assert!(all.contains(&WipeId(4)) && !all.contains(&WipeId(3)), "{all:?}");
}

#[test]
fn who_is_not_asked_wipes_nothing() {
    let mut node = with_data();
    node.delete_volume();
    node.want_wipe(3, &[8, 9]);
    // Shorter than it takes until freed space is trimmed.
    node.pass(500);
    assert!(told(&node).is_empty());
    assert!(!node.find_on_disk(TAG).is_empty());
}

#[test]
fn a_wipe_asked_for_while_another_runs_is_told_by_one_that_began_later() {
    let mut node = with_data();
    node.delete_volume();
    node.want_wipe(3, &[7]);
    node.want_wipe(4, &[7]);
    node.want_wipe(5, &[7]);
    node.pass(20_000);
    let first: Vec<Vec<WipeId>> = told(&node).into_iter().map(|(wipes, _)| wipes).collect();
    assert!(first[0] == [WipeId(3)], "it began before the others were asked for: {first:?}");
    let all: Vec<WipeId> = first.concat();
    assert!(all.contains(&WipeId(4)) && all.contains(&WipeId(5)), "{first:?}");
}
