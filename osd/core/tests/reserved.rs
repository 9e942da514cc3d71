//! Space that is reserved for some volumes: others don't get it, they do, and what they overwrite comes back in time (docs/decisions/033).

mod support;

use ashlar_osd_core::Event;
use ashlar_types::Epoch;
use ashlar_types::view::{RESERVED_BLOCKS_PER_CHUNK, RESERVED_HEADROOM_BLOCKS};
use ashlar_wire::{CreditGrant, CreditRequest, IoKind, IoStatus, Message, ReservedRequest};
use support::MIB;
use support::node::{Node, PG, chunk};

/// The client's volume, and its top layer.
const OWN: (u64, u64) = (1, 1);
const OTHER: (u64, u64) = (2, 50);
const BLOCKS_PER_WRITE: u32 = 128;

/// Writes chunk by chunk until one is refused; returns how many were done.
fn fill(node: &mut Node, chunks: std::ops::Range<u32>) -> u32 {
    let mut done = 0;
    for index in chunks {
        for at in (0..1024).step_by(BLOCKS_PER_WRITE as usize) {
            match node.request(chunk(index), IoKind::Write, at..at + BLOCKS_PER_WRITE, 1) {
                Some(IoStatus::Ok) => done += 1,
                other => {
                    assert_eq!(other, Some(IoStatus::NoSpace));
                    return done;
                }
            }
        }
    }
    done
}

#[test]
fn what_is_reserved_for_another_volume_is_not_written_full() {
    let mut node = Node::new(64 * MIB);
    node.lead(1, &[7, 8], &[7, 8], 2);
    node.reserve(OTHER.0, OTHER.1, 5);
    let before = node.osd.store().space();
    assert_eq!(before.unfilled, 5 * RESERVED_BLOCKS_PER_CHUNK + RESERVED_HEADROOM_BLOCKS);
    fill(&mut node, 0..100);
    let space = node.osd.store().space();
    let left = space.free - node.osd.promised_blocks();
    assert!(left >= space.unfilled, "{left} of {} are left", space.unfilled);
    assert!(space.open() < u64::from(2 * BLOCKS_PER_WRITE), "the rest was given out: {space:?}");
    node.reserve(OTHER.0, OTHER.1, 0);
    assert!(fill(&mut node, 0..100) > 0, "what is not reserved any more is");
}

/// All of it, and again, until each block has been overwritten several times on a disk without room for anything else.
#[test]
fn a_reserved_volume_is_never_refused_on_a_disk_that_others_have_filled() {
    let mut node = Node::new(64 * MIB);
    node.lead(1, &[7, 8], &[7, 8], 2);
    node.reserve(OTHER.0, OTHER.1, 4);
    fill(&mut node, 10..100);
    // Here the others' data is in the same layer, so it is told that what is reserved is for another one, which stays empty.
    node.reserve(OWN.0, OTHER.1, 4);
    let space = node.osd.store().space();
    assert!(space.open() < u64::from(2 * BLOCKS_PER_WRITE), "{space:?}");
    for round in 0..6 {
        for index in 0..4 {
            for at in (0..1024).step_by(32) {
                let status = node.request(chunk(index), IoKind::Write, at..at + 32, round);
                assert_eq!(
                    status,
                    Some(IoStatus::Ok),
                    "round {round}, chunk {index}, block {at}: {:?}",
                    node.osd.store().space()
                );
            }
        }
    }
}

#[test]
fn what_is_written_is_not_kept_free_twice() {
    let mut node = Node::new(64 * MIB);
    node.lead(1, &[7, 8], &[7, 8], 2);
    node.reserve(OWN.0, OWN.1, 4);
    assert_eq!(fill(&mut node, 0..2), 16);
    let half = 2 * 1024 + 4 * 8 + RESERVED_HEADROOM_BLOCKS;
    assert_eq!(node.osd.store().space().unfilled, half);
    // Each block may be counted twice until a checkpoint, so none counts as filled more than once (V1).
    fill(&mut node, 0..2);
    let unfilled = node.osd.store().space().unfilled;
    let all = 4 * RESERVED_BLOCKS_PER_CHUNK + RESERVED_HEADROOM_BLOCKS;
    assert!((half..=all).contains(&unfilled), "{unfilled}");
    node.reserve(OWN.0, 99, 4);
    assert_eq!(node.osd.store().space().unfilled, all, "a snapshot: its new top has nothing");
}

#[test]
fn a_member_grants_what_is_reserved_only_to_those_who_have_it() {
    let mut node = Node::new(64 * MIB);
    let primary = node.follow(8, 1, &[8, 7], 2);
    node.reserve(OTHER.0, OTHER.1, 10);
    let space = node.osd.store().space();
    assert!(space.open() > 0 && space.unfilled > 0);
    let (pg, epoch, wanted_total) = (PG, Epoch(1), 1 << 30);
    let open = CreditRequest { pg, epoch, wanted_total, is_return: false };
    node.step(Event::Received(primary, Message::CreditRequest(open)));
    assert_eq!(node.osd.promised_blocks(), space.open());
    node.step(Event::Received(primary, Message::ReservedRequest(ReservedRequest { pg, epoch, wanted_total })));
    assert_eq!(node.osd.promised_blocks(), space.free);
}

/// The primary asks a full member again, for that part.
#[test]
fn a_member_without_open_space_is_asked_for_what_is_reserved() {
    let mut node = Node::new(64 * MIB);
    node.script = Box::new(|_, m| match m {
        Message::CreditRequest(m) if !m.is_return => {
            let (pg, epoch, wanted_total) = (m.pg, m.epoch, m.wanted_total);
            Some(vec![Message::CreditGrant(CreditGrant { pg, epoch, wanted_total, granted_total: 0 })])
        }
        _ => None,
    });
    node.lead(1, &[7, 8], &[7, 8], 2);
    assert_eq!(node.request(chunk(0), IoKind::Write, 0..4, 1), Some(IoStatus::NoSpace), "it has nothing reserved");
    node.reserve(OWN.0, OWN.1, 1);
    assert_eq!(node.request(chunk(0), IoKind::Write, 0..4, 1), Some(IoStatus::Ok));
    assert_eq!(node.request(chunk(0), IoKind::Write, 4..9, 1), Some(IoStatus::Ok));
}
