//! The cluster view: what the metadata service publishes to OSDs and gateways, by revision.

use crate::scrub::PgScrub;
use crate::wipe::{FreedWipes, Wipe};
use crate::{
    AttachmentId, BLOCKS_PER_CHUNK, BootId, ChunkIndex, ClusterId, Epoch, Generation, IdSet, LayerId, Name, OsdId,
    PgId, PoolId, Revision, StackRevision, VolumeId,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that the data path needs to know of the cluster. Also a difference: [`ClusterView::apply`] takes a view that holds
/// only what changed since an earlier revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    pub cluster: ClusterId,
    pub revision: Revision,
    pub osds: BTreeMap<OsdId, OsdInfo>,
    pub pools: BTreeMap<PoolId, PoolInfo>,
    pub pgs: BTreeMap<PgId, PgConfig>,
    /// Barriers not yet passed by all their PGs. Always complete, never a difference.
    pub barriers: Vec<Barrier>,
    /// Layers that are being merged into those above them. Always complete, like barriers.
    pub merges: Vec<Merge>,
    /// PGs that were scrubbed or are to be. Nothing is ever taken out.
    pub scrubs: BTreeMap<PgId, PgScrub>,
    /// Complete; in a difference `None` if it is as before.
    pub reservations: Option<Reservations>,
    /// OSDs that have to wipe their free space. Always complete.
    pub wipes: Vec<Wipe>,
    /// Complete; in a difference `None` if it is as before.
    pub wipe_freed: Option<FreedWipes>,
}

impl ClusterView {
    /// Takes over what `newer` holds. Ignored unless `newer` is of a later revision, so a late message does no harm.
    pub fn apply(&mut self, newer: ClusterView) -> bool {
        if newer.revision <= self.revision {
            return false;
        }
        self.cluster = newer.cluster;
        self.revision = newer.revision;
        self.osds.extend(newer.osds);
        self.pools.extend(newer.pools);
        for (pg, config) in newer.pgs {
            let known = self.pgs.get(&pg).map_or(Epoch(0), |c| c.epoch);
            assert!(config.epoch >= known, "R2: the epoch of {pg} went from {known} to {}", config.epoch);
            self.pgs.insert(pg, config);
        }
        self.barriers = newer.barriers;
        self.merges = newer.merges;
        self.wipes = newer.wipes;
        self.scrubs.extend(newer.scrubs);
        if newer.reservations.is_some() {
            self.reservations = newer.reservations;
        }
        if newer.wipe_freed.is_some() {
            self.wipe_freed = newer.wipe_freed;
        }
        true
    }

    /// The PG that serves a chunk of a volume (design.md §6): by the volume's placement key, so that all layers of one
    /// volume meet in one PG.
    pub fn pg_of(&self, pool: PoolId, placement_key: u64, chunk: ChunkIndex) -> Option<PgId> {
        let pg_count = self.pools.get(&pool)?.pg_count;
        Some(PgId { pool, index: place_chunk(placement_key, chunk, pg_count) })
    }

    /// Whether a PG of this pool keeps two copies on one host: then the pool survives the loss of OSDs, but not of hosts.
    pub fn shares_hosts(&self, pool: PoolId) -> bool {
        let host = |osd: &OsdId| self.osds.get(osd).map(|o| o.host.as_str());
        self.pgs.values().filter(|c| c.pg.pool == pool).any(|config| {
            let mut hosts: Vec<_> = config.members.iter().filter_map(host).collect();
            let copies = hosts.len();
            hosts.sort_unstable();
            hosts.dedup();
            hosts.len() < copies
        })
    }
}

/// What OSDs keep free for volumes that have their whole size reserved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservations {
    /// How many chunks of such volumes each PG serves; none is 0.
    pub chunks: BTreeMap<PgId, u64>,
    /// The volumes and their top layers.
    pub volumes: BTreeMap<VolumeId, LayerId>,
}

/// Blocks that are kept free for a chunk: its own, and its index pages twice, since a checkpoint writes new ones before it frees the old.
pub const RESERVED_BLOCKS_PER_CHUNK: u64 = BLOCKS_PER_CHUNK as u64 + 8;

/// Blocks that an OSD keeps free beside, if anything is reserved on it: what is overwritten is freed only after the new blocks are written, so a write
/// of a whole chunk, and one that waits for it, need room even where all that is reserved is full.
pub const RESERVED_HEADROOM_BLOCKS: u64 = 2 * BLOCKS_PER_CHUNK as u64;

/// Which of `pg_count` PGs serves a chunk. Linear hashing: growing `pg_count` by one splits exactly one PG in two.
pub fn place_chunk(placement_key: u64, chunk: ChunkIndex, pg_count: u32) -> u32 {
    assert!(pg_count > 0, "a pool has at least one PG");
    // The finalizer of splitmix64 (Steele, Lea, Flood 2014): spreads neighbouring chunks over all PGs.
    let mut x = placement_key.wrapping_add(u64::from(chunk.0).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let hash = (x ^ (x >> 31)) as u32;
    let wide = pg_count.next_power_of_two();
    let slot = hash & (wide - 1);
    if slot < pg_count { slot } else { slot & (wide / 2 - 1) }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OsdInfo {
    pub id: OsdId,
    /// Of its present or last process; `BootId(0)` before its first.
    pub boot: BootId,
    pub up: bool,
    /// `HOST:PORT` of the data protocol.
    pub address: String,
    /// Failure domain, innermost but the OSD itself.
    pub host: String,
    /// Bytes.
    pub capacity: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolInfo {
    pub id: PoolId,
    pub name: Name,
    pub replicas: u8,
    /// Writes need this many in-sync members (R12).
    pub min_size: u8,
    pub pg_count: u32,
}

/// The configuration of a PG. Changed only by a compare-and-set on `epoch` in the metadata service (R2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PgConfig {
    pub pg: PgId,
    pub epoch: Epoch,
    pub members: Vec<OsdId>,
    /// Subset of `members`; never empty once the PG was active.
    pub in_sync: Vec<OsdId>,
    /// One of `in_sync`; `None` while none of them is up.
    pub primary: Option<OsdId>,
    /// The process that may serve this epoch (R7).
    pub primary_boot: BootId,
    pub min_size: u8,
}

impl PgConfig {
    pub fn is_in_sync(&self, osd: OsdId) -> bool {
        self.in_sync.contains(&osd)
    }

    pub fn is_member(&self, osd: OsdId) -> bool {
        self.members.contains(&osd)
    }

    /// Members that are not in sync, in order.
    pub fn joining(&self) -> impl Iterator<Item = OsdId> + '_ {
        self.members.iter().copied().filter(|m| !self.is_in_sync(*m))
    }
}

/// The lowest generation that each attachment of a volume may have, and the lowest revision of its stack (design.md §7).
/// Floors only rise: [`Floor::raise`] takes the higher of each part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    pub stack_revision: StackRevision,
    /// Attachments older than this are refused unless `generations` lists them. Attachment ids rise.
    pub oldest_attachment: AttachmentId,
    pub generations: BTreeMap<AttachmentId, Generation>,
    /// The volume is being deleted: everything is refused.
    pub closed: bool,
}

impl Floor {
    pub fn raise(&mut self, other: &Floor) {
        self.stack_revision = self.stack_revision.max(other.stack_revision);
        self.oldest_attachment = self.oldest_attachment.max(other.oldest_attachment);
        for (attachment, generation) in &other.generations {
            let lowest = self.generations.entry(*attachment).or_default();
            *lowest = (*lowest).max(*generation);
        }
        self.closed |= other.closed;
    }

    /// Whether a request of this attachment generation lies below the floor.
    pub fn fences(&self, attachment: AttachmentId, generation: Generation) -> bool {
        self.closed
            || match self.generations.get(&attachment) {
                Some(lowest) => generation < *lowest,
                None => attachment < self.oldest_attachment && attachment != AttachmentId::FROZEN,
            }
    }
}

/// What a PG refuses for good (design.md §7). It only grows, and stays small however many volumes come and go: of a volume that
/// is gone only its place in a range of ids is kept (docs/decisions/023-volumes-that-are-gone.md).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fences {
    /// Of volumes that are not gone.
    pub floors: BTreeMap<VolumeId, Floor>,
    /// Everything that names one of these volumes is refused.
    pub gone: IdSet<VolumeId>,
    /// Layers of which nothing is kept, and nothing taken any more.
    pub retired: IdSet<LayerId>,
}

impl Fences {
    pub fn raise(&mut self, other: &Fences) {
        self.gone.extend(&other.gone);
        self.retired.extend(&other.retired);
        for (volume, floor) in &other.floors {
            self.floors.entry(*volume).or_default().raise(floor);
        }
        let gone = &self.gone;
        self.floors.retain(|volume, _| !gone.contains(*volume));
    }

    /// What of these is not in `known`: enough for somebody who has that.
    pub fn beyond(&self, known: &Fences) -> Fences {
        let is_new = |volume: VolumeId, floor: &Floor| {
            let mut raised = known.floors.get(&volume).cloned().unwrap_or_default();
            raised.raise(floor);
            !known.gone.contains(volume) && known.floors.get(&volume) != Some(&raised)
        };
        let floors = self.floors.iter().filter(|(volume, floor)| is_new(**volume, floor));
        Fences {
            floors: floors.map(|(volume, floor)| (*volume, floor.clone())).collect(),
            gone: self.gone.beyond(&known.gone),
            retired: self.retired.beyond(&known.retired),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.floors.is_empty() && self.gone.is_empty() && self.retired.is_empty()
    }

    /// The same in parts of at most `entries_max` floors, ranges and generations each (one floor is never parted).
    pub fn into_parts(self, entries_max: usize) -> Vec<Fences> {
        let mut parts = vec![Fences::default()];
        let mut entries = 0;
        let mut part = |parts: &mut Vec<Fences>, count: usize| {
            if entries > 0 && entries + count > entries_max {
                parts.push(Fences::default());
                entries = 0;
            }
            entries += count;
            parts.len() - 1
        };
        for (first, last) in self.gone.ranges() {
            let at = part(&mut parts, 1);
            parts[at].gone.insert(first, last);
        }
        for (first, last) in self.retired.ranges() {
            let at = part(&mut parts, 1);
            parts[at].retired.insert(first, last);
        }
        for (volume, floor) in self.floors {
            let at = part(&mut parts, 1 + floor.generations.len());
            parts[at].floors.insert(volume, floor);
        }
        parts
    }

    /// Whether a request of this attachment generation of the volume is to be refused.
    pub fn fences(&self, volume: VolumeId, attachment: AttachmentId, generation: Generation) -> bool {
        self.gone.contains(volume) || self.floors.get(&volume).is_some_and(|f| f.fences(attachment, generation))
    }
}

/// A floor that each named PG must make durable, and have no older write undecided, before the barrier is passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barrier {
    pub id: u64,
    pub volume: VolumeId,
    pub floor: Floor,
    /// Where the volume is being deleted: it, and the ids beside it that no volume of its pool has or will have.
    pub gone: IdSet<VolumeId>,
    /// Layers whose chunks each PG drops with the floor, with the ids beside them, likewise.
    pub retire: IdSet<LayerId>,
    /// Those that have not passed it yet.
    pub pgs: Vec<PgId>,
}

/// A frozen layer that nobody names any more and that has one child: each named PG moves what it has of it into that child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merge {
    pub id: u64,
    pub volume: VolumeId,
    pub from: LayerId,
    /// Its child.
    pub into: LayerId,
    /// Those that are not done yet.
    pub pgs: Vec<PgId>,
}

impl Barrier {
    /// What each of its PGs shall refuse.
    pub fn fences(&self) -> Fences {
        Fences {
            floors: BTreeMap::from([(self.volume, self.floor.clone())]),
            gone: self.gone.clone(),
            retired: self.retire.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_a_pool_by_one_splits_one_pg() {
        for count in 1..40 {
            for chunk in 0..500 {
                let old = place_chunk(7, ChunkIndex(chunk), count);
                let new = place_chunk(7, ChunkIndex(chunk), count + 1);
                assert!(new == old || new == count);
            }
        }
    }

    #[test]
    fn a_floor_fences_older_generations_and_unlisted_older_attachments() {
        let mut floor = Floor::default();
        assert!(!floor.fences(AttachmentId(1), Generation(1)));
        floor.raise(&Floor {
            oldest_attachment: AttachmentId(5),
            generations: BTreeMap::from([(AttachmentId(3), Generation(2))]),
            ..Floor::default()
        });
        assert!(floor.fences(AttachmentId(4), Generation(9)));
        assert!(floor.fences(AttachmentId(3), Generation(1)));
        assert!(!floor.fences(AttachmentId(3), Generation(2)));
        assert!(!floor.fences(AttachmentId(5), Generation(1)));
        assert!(!floor.fences(AttachmentId::FROZEN, Generation(0)), "what is frozen may be read by anybody");
        floor.closed = true;
        assert!(floor.fences(AttachmentId::FROZEN, Generation(0)));
    }

    #[test]
    fn fences_grow_by_what_is_new_in_whatever_parts() {
        let floor = |oldest| Floor {
            oldest_attachment: AttachmentId(oldest),
            generations: BTreeMap::from([(AttachmentId(3), Generation(oldest as u32))]),
            ..Floor::default()
        };
        let known = Fences {
            floors: (1..9).map(|v| (VolumeId(v), floor(1))).collect(),
            gone: IdSet::range(VolumeId(20), VolumeId(22)),
            retired: IdSet::range(LayerId(20), LayerId(22)),
        };
        assert!(known.beyond(&known).is_empty());
        let mut newer = known.clone();
        newer.floors.insert(VolumeId(2), floor(2));
        newer.gone.insert(VolumeId(7), VolumeId(8));
        newer.retired.insert(LayerId(30), LayerId(30));
        newer.raise(&Fences::default());
        let difference = newer.beyond(&known);
        assert_eq!(difference.floors.len(), 1);
        for parts in [vec![newer.clone()], difference.into_parts(1), newer.clone().into_parts(3)] {
            let mut raised = known.clone();
            parts.iter().for_each(|part| raised.raise(part));
            assert_eq!(raised, newer);
        }
        assert!(!newer.floors.contains_key(&VolumeId(7)) && newer.fences(VolumeId(7), AttachmentId(9), Generation(9)));
        let mut late = newer.clone();
        late.raise(&Fences { floors: BTreeMap::from([(VolumeId(7), floor(1))]), ..Fences::default() });
        assert_eq!(late, newer, "the floor of a volume that is gone says nothing new");
    }

    #[test]
    fn chunks_spread_evenly_over_pgs() {
        let mut load = [0u32; 32];
        for chunk in 0..32_000 {
            load[place_chunk(99, ChunkIndex(chunk), 32) as usize] += 1;
        }
        assert!(load.iter().all(|n| (850..1150).contains(n)), "{load:?}");
    }
}
