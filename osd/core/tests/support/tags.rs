//! What lies on a disk, where each block that is ever written holds a number of its own; and wipes, to the end.

use super::Rig;
use super::model::{Model, Tag};
use ashlar_osd_core::Policy;
use ashlar_osd_core::store::WipeReport;
use ashlar_osd_core::store::api::{ReadKind, StoreOp};
use ashlar_sim_disk::SimDisk;
use ashlar_types::{BlockIndex, BlockRange};
use std::collections::BTreeSet;

/// The number that is written all over a block, if one is.
pub fn tag_of(bytes: &[u8]) -> Option<Tag> {
    let (first, _) = bytes.split_first_chunk::<8>()?;
    let is_all = *first != [0; 8] && bytes.chunks_exact(8).all(|eight| eight == first);
    is_all.then(|| Tag::from_le_bytes(*first))
}

pub fn tags_on(disk: &SimDisk) -> BTreeSet<Tag> {
    disk.blocks_from(0).filter_map(|(_, bytes)| tag_of(bytes)).collect()
}

/// What reads see, and what may still become that.
pub fn tags_in(model: &Model) -> BTreeSet<Tag> {
    let chunks = || model.pgs.values().flat_map(|pg| pg.chunks.values());
    let committed = chunks().flat_map(|chunk| chunk.blocks.values()).filter_map(|block| block.tag);
    let prepared = chunks().flat_map(|chunk| &chunk.prepared).flat_map(|write| write.tags.iter().copied());
    committed.chain(prepared).collect()
}

/// The same of a store, by reading all of it.
pub fn tags_in_store(rig: &mut Rig<impl Policy>) -> BTreeSet<Tag> {
    let mut tags = BTreeSet::new();
    let whole = BlockRange::new(BlockIndex(0), 1024).expect("a chunk");
    for pg in rig.store.pgs().collect::<Vec<_>>() {
        let mut reads = Vec::new();
        for (chunk, _) in rig.store.chunks(pg, None, usize::MAX) {
            reads.push((chunk, whole, ReadKind::Data));
            let prepared = rig.store.prepared_of(pg, chunk).filter(|p| p.data_good && !p.write.change.is_merge());
            reads.extend(prepared.map(|p| (chunk, p.write.change.range(), ReadKind::Prepared(p.write.version))));
        }
        for (chunk, range, kind) in reads {
            let outcome = rig.read(pg, chunk, range, kind);
            tags.extend(outcome.data.iter().filter_map(|bytes| tag_of(bytes)));
        }
    }
    tags
}

/// On the disk now and needed by nobody, or about to be freed.
pub fn dead(rig: &Rig<impl Policy>, model: &Model, written: &BTreeSet<Tag>) -> BTreeSet<Tag> {
    let needed = tags_in(model);
    tags_on(&rig.disk).union(written).filter(|tag| !needed.contains(*tag)).copied().collect()
}

pub fn check_gone(disk: &SimDisk, dead: &BTreeSet<Tag>) -> Result<(), String> {
    let left: Vec<Tag> = tags_on(disk).intersection(dead).copied().collect();
    if left.is_empty() { Ok(()) } else { Err(format!("{} of {} are still there: {left:?}", left.len(), dead.len())) }
}

/// Wipes to the end while nothing else goes on.
pub fn wipe(rig: &mut Rig<impl Policy>) -> WipeReport {
    rig.wiped = None;
    assert!(rig.store.begin_wipe());
    for _ in 0..1_000_000 {
        rig.run();
        if let Some(report) = rig.wiped.take() {
            assert_eq!(rig.store.wipe_left(), None);
            return report;
        }
        rig.store.wipe_more();
    }
    panic!("the wipe never ends: {:?} blocks left", rig.store.wipe_left());
}

/// Undoes the writes whose data did not arrive, as who is asked for them would; a wipe that was begun before waits for that.
pub fn decide_suspects(rig: &mut Rig<impl Policy>) {
    let mut suspects = Vec::new();
    for pg in rig.store.pgs().collect::<Vec<_>>() {
        for (chunk, versions) in rig.store.chunks(pg, None, usize::MAX) {
            if rig.store.prepared_of(pg, chunk).any(|write| !write.data_good) {
                suspects.push((pg, chunk, versions.committed));
            }
        }
    }
    if suspects.is_empty() {
        return;
    }
    rig.wiped = None;
    assert!(rig.store.begin_wipe());
    for _ in 0..20 {
        rig.run();
        rig.store.wipe_more();
        assert_eq!(rig.wiped, None, "W5");
    }
    for (pg, chunk, committed) in suspects {
        let (commit, rolled_back) = (vec![], vec![]);
        rig.submit(StoreOp::Resolve { pg, commit, rollback: vec![(chunk, committed)], rolled_back });
    }
    for _ in 0..1_000_000 {
        if rig.wiped.is_some() {
            return;
        }
        rig.run();
        rig.store.wipe_more();
    }
    panic!("the wipe never ends");
}
