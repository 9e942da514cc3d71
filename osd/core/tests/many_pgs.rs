//! Many placement groups fill a small disk: the last writes are refused for space, nothing is ever promised that is not there
//! (docs/decisions/015).

mod support;

use ashlar_osd_core::store::fsck::fsck;
use ashlar_types::{PgId, PoolId};
use ashlar_wire::{IoKind, IoStatus};
use std::collections::BTreeMap;
use support::MIB;
use support::node::{Node, chunk};

const PGS: u32 = 40;

fn pg(index: u32) -> PgId {
    PgId { pool: PoolId(1), index }
}

/// Every request goes to quarters of its own, so each block costs an index page too. All PGs ask at once.
#[test]
fn many_placement_groups_fill_a_small_disk_to_the_last_block_and_not_beyond() {
    for (capacity, at_once) in [(8, 4), (16, 16), (24, 1)] {
        let mut node = Node::new(capacity * MIB);
        for index in 0..PGS {
            node.lead_pg(pg(index), 1, &[7], &[7], 1);
        }
        node.pass(100);
        let (mut written, mut rounds) = (0, 0u32);
        loop {
            let mut asked = BTreeMap::new();
            for index in 0..PGS * at_once {
                let first = rounds % 4 * 256;
                let number = node.ask(
                    pg(index % PGS),
                    chunk(index / PGS + rounds / 4 * at_once),
                    IoKind::Write,
                    first..first + 1,
                    1,
                );
                asked.insert(number, index);
            }
            node.pass(150);
            assert_eq!(node.failed, None, "{capacity} MiB");
            assert!(asked.keys().all(|number| node.answers.contains_key(number)), "{capacity} MiB: all are answered");
            let refused = asked.keys().filter(|n| node.answers[n] == IoStatus::NoSpace).count();
            written += asked.len() - refused;
            rounds += 1;
            if refused == asked.len() {
                break;
            }
        }
        let blocks = capacity as usize * 256;
        assert!(written > blocks / 4, "{written} of {blocks} blocks, and as many index pages");
        // What is there can be discarded, and there is room again.
        for round in 0..rounds.div_ceil(4) * at_once {
            let mut left: Vec<u32> = (0..PGS).collect();
            for _ in 0..200 {
                let asked: Vec<_> =
                    left.iter().map(|i| (*i, node.ask(pg(*i), chunk(round), IoKind::Zero, 0..1024, 0))).collect();
                node.pass(20);
                assert_eq!(node.failed, None, "{capacity} MiB");
                left =
                    asked.iter().filter(|(_, n)| node.answers.get(n) != Some(&IoStatus::Ok)).map(|(i, _)| *i).collect();
            }
            assert!(left.is_empty(), "{capacity} MiB: {left:?}");
        }
        node.pass(3000);
        let report = fsck(&mut |at, len| node.disk.read_now(at, len), true);
        assert!(report.is_clean(), "{report}");
        assert!(node.osd.store().space().free as usize > written / 2, "{:?}", node.osd.store().space());
        assert_eq!(node.osd.promised_blocks(), 0);
    }
}
