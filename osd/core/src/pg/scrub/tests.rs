//! What one look at a chunk after the other leads to.

use super::*;
use ashlar_types::{ChunkIndex, Epoch, LayerId, Seq};

const CHUNK: ChunkId = ChunkId { layer: LayerId(1), index: ChunkIndex(7) };
const ME: OsdId = OsdId(1);
const OTHER: OsdId = OsdId(2);

fn entry(committed: u32, digest: u32, bad: u16) -> DigestEntry {
    let committed = Version::new(Epoch(1), Seq(committed));
    DigestEntry { chunk: CHUNK, committed, digest: Crc(digest), bad, next: None }
}

fn look(check: &mut Check, mine: DigestEntry, theirs: DigestEntry) -> Option<u64> {
    check.answers = BTreeMap::from([(ME, mine), (OTHER, theirs)]);
    match check.judge(CHUNK, ME, true, Tick(0)) {
        Verdict::Again => None,
        Verdict::Done(left_bad) => Some(left_bad),
    }
}

fn found(check: &Check) -> u64 {
    check.bad.values().sum()
}

#[test]
fn copies_that_say_the_same_are_done_at_once() {
    let mut check = Check::default();
    assert_eq!(look(&mut check, entry(5, 9, 0), entry(5, 9, 0)), Some(0));
    assert_eq!((found(&check), check.mismatch), (0, None));
}

#[test]
fn copies_that_differ_at_one_version_are_named() {
    let mut check = Check::default();
    assert_eq!(look(&mut check, entry(5, 9, 0), entry(5, 8, 0)), Some(0));
    let text = check.mismatch.expect("found");
    assert!(text.contains("osd.2 and osd.1 differ in layer.1/chunk.7"), "{text}");
}

#[test]
fn a_chunk_that_goes_on_changing_is_looked_at_again_and_then_held() {
    let mut check = Check::default();
    for looks in 1..LOOKS_MAX {
        assert_eq!(look(&mut check, entry(5, 9, 0), entry(6, 8, 0)), None);
        assert_eq!(check.is_held, looks >= LOOKS_BEFORE_HOLD);
    }
    let mut settled = Check { looks: LOOKS_BEFORE_HOLD, is_held: true, ..Check::default() };
    assert_eq!(look(&mut settled, entry(6, 8, 0), entry(6, 8, 0)), Some(0));
    assert!(!settled.is_held && settled.mismatch.is_none());
    assert_eq!(look(&mut check, entry(5, 9, 0), entry(6, 8, 0)), Some(0));
    assert!(!check.is_held && check.mismatch.is_some(), "nothing moves any more, and they differ");
}

#[test]
fn a_chunk_that_only_a_member_has_is_found_behind_the_one_before_it() {
    let mut check = Check::default();
    let theirs = DigestEntry { next: Some(CHUNK), ..entry(5, 9, 0) };
    for _ in 1..LOOKS_MAX {
        assert_eq!(look(&mut check, entry(5, 9, 0), theirs), None);
    }
    assert_eq!(look(&mut check, entry(5, 9, 0), theirs), Some(0));
    assert!(check.mismatch.is_some());
}

#[test]
fn damage_counts_as_repaired_when_a_later_look_is_good() {
    let mut check = Check::default();
    assert_eq!(look(&mut check, entry(5, 9, 2), entry(5, 9, 1)), None);
    assert_eq!(look(&mut check, entry(5, 9, 0), entry(5, 9, 1)), None);
    assert_eq!(look(&mut check, entry(5, 9, 0), entry(5, 9, 0)), Some(0));
    assert_eq!((found(&check), check.mismatch), (3, None));
}

#[test]
fn damage_that_stays_is_given_up_and_counted() {
    let mut check = Check::default();
    for _ in 0..REPAIR_LOOKS_MAX {
        assert_eq!(look(&mut check, entry(5, 9, 0), entry(5, 9, 4)), None);
    }
    assert_eq!(look(&mut check, entry(5, 9, 0), entry(5, 9, 4)), Some(4));
    assert_eq!(found(&check), 4);
}

#[test]
fn a_lost_state_is_no_mismatch_while_it_may_be_brought_back() {
    let mut check = Check::default();
    assert_eq!(look(&mut check, entry(5, 9, 0), entry(5, 1, 1)), None);
    assert_eq!(look(&mut check, entry(5, 9, 0), entry(5, 9, 0)), Some(0));
    assert_eq!(check.mismatch, None);
}

#[test]
fn a_held_look_says_nothing_of_the_medium() {
    let mut check = Check { is_held: true, looks: 3, bad: BTreeMap::from([(OTHER, 2)]), ..Check::default() };
    assert_eq!(look(&mut check, entry(5, 9, 0), entry(5, 9, 0)), None, "compared, to be read once more");
    assert!(!check.is_held);
    assert_eq!(look(&mut check, entry(6, 9, 0), entry(7, 8, 0)), Some(0), "comparing it is over");
    assert_eq!((found(&check), check.mismatch), (2, None));
}
