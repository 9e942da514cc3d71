//! What an OSD does for volumes that wipe as they free.

mod support;

use ashlar_types::{IdSet, LayerId};
use ashlar_wire::{IoKind, IoStatus};
use support::MIB;
use support::node::{Node, chunk};

const OLD: u8 = 0x5a;
const NEW: u8 = 0x3c;

fn layer_1() -> IdSet<LayerId> {
    IdSet::range(LayerId(1), LayerId(1))
}

/// With a volume that has written some blocks, alone in its PG.
fn with_data(wipes: bool) -> Node {
    let mut node = Node::new(16 * MIB);
    node.lead(1, &[7], &[7], 1);
    if wipes {
        node.wipe_freed(layer_1(), 1);
        node.pass(5_000);
    }
    assert_eq!(node.request(chunk(0), IoKind::Write, 0..100, OLD), Some(IoStatus::Ok));
    assert!(node.find_on_disk(OLD).len() >= 100);
    node
}

#[test]
fn what_is_overwritten_is_gone_soon_and_what_is_not_stays() {
    let mut node = with_data(true);
    assert_eq!(node.request(chunk(0), IoKind::Write, 0..60, NEW), Some(IoStatus::Ok));
    node.pass(15_000);
    assert_eq!(node.find_on_disk(OLD).len(), 40);
    assert_eq!(node.find_on_disk(NEW).len(), 60);
    assert_eq!((node.osd.usage().unwiped, node.osd.usage().wipe_unverified), (0, 0));
}

#[test]
fn a_deleted_volume_is_gone_from_the_disk_without_being_asked_for() {
    let mut node = with_data(true);
    node.delete_volume();
    // The metadata service does not tell of its layer any more.
    node.wipe_freed(IdSet::default(), 1);
    node.pass(15_000);
    assert_eq!(node.find_on_disk(OLD), Vec::<u64>::new());
}

#[test]
fn of_other_volumes_nothing_is_overwritten() {
    let mut node = with_data(false);
    node.wipe_freed(IdSet::range(LayerId(7), LayerId(9)), 1);
    node.pass(5_000);
    assert_eq!(node.request(chunk(0), IoKind::Write, 0..60, NEW), Some(IoStatus::Ok));
    let before = node.osd.store().wiped_owed();
    node.pass(15_000);
    assert_eq!(node.osd.store().wiped_owed(), before);
}

#[test]
fn what_a_volume_gave_up_before_it_was_such_a_one_is_wiped_by_the_sweep() {
    let mut node = with_data(false);
    assert_eq!(node.request(chunk(0), IoKind::Write, 0..60, NEW), Some(IoStatus::Ok));
    node.wipe_freed(layer_1(), 1);
    assert!(node.osd.usage().unwiped > 0, "nobody knows what is on the disk");
    node.pass(15_000);
    assert_eq!(node.find_on_disk(OLD).len(), 40);
    assert_eq!(node.osd.usage().unwiped, 0);
    // The next sweep is for one that is taken in later.
    assert_eq!(node.request(chunk(0), IoKind::Write, 60..80, NEW), Some(IoStatus::Ok));
    node.wipe_freed(layer_1(), 2);
    node.pass(15_000);
    assert_eq!(node.find_on_disk(OLD).len(), 20);
}

#[test]
fn a_wipe_that_is_asked_for_is_not_held_up() {
    let mut node = with_data(true);
    node.delete_volume();
    node.want_wipe(3, &[7]);
    for _ in 0..100 {
        if node.osd.usage().wipe_left > 0 || !node.controls.is_empty() {
            break;
        }
        node.pass(50);
    }
    node.pass(15_000);
    assert_eq!(node.find_on_disk(OLD), Vec::<u64>::new());
    let is_told =
        |c: &ashlar_types::control::ControlRequest| matches!(c, ashlar_types::control::ControlRequest::WipeDone { .. });
    assert!(node.controls.iter().any(is_told));
}
