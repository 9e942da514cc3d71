//! Floors and barriers (design.md §7): a volume's floor rises, and a barrier carries it to all PGs of its pool.
//! A volume has at most one pending barrier. Where the floor rises meanwhile, a new barrier over all PGs takes its place:
//! its floor includes the old one, and so do the layers to drop, so nothing is forgotten.

use super::volume::VolumeRecord;
use super::{ClusterState, Outcome};
use ashlar_types::view::{Barrier, Floor};
use ashlar_types::{BootId, IdSet, PgId, VolumeId};
use std::collections::BTreeSet;
use std::ops::Bound;

impl ClusterState {
    /// Raises the floor of a volume and starts the barrier that makes it hold.
    pub(super) fn raise_floor(&mut self, volume: VolumeId, raise: impl FnOnce(&mut Floor)) {
        self.touch_view();
        let record = self.volumes.get_mut(&volume).expect("the caller looked it up");
        raise(&mut record.floor);
        record.floor.stack_revision = record.floor.stack_revision.max(record.stack_revision);
        let pool = self.pools.get(&record.pool).expect("a pool with volumes is not deleted");
        let (pool, pg_count) = (record.pool, pool.value.info.pg_count);
        let id = self.next.barrier;
        self.next.barrier += 1;
        if let Some(replaced) = record.barrier.replace(id) {
            self.barriers.remove(&replaced);
        }
        let floor = record.floor.clone();
        let gone = if floor.closed { self.ids_gone_with(volume) } else { IdSet::default() };
        let retire = self.retired_ids(&self.volumes[&volume]);
        let pgs = (0..pg_count).map(|index| PgId { pool, index }).collect();
        self.barriers.insert(id, Barrier { id, volume, floor, gone, retire, pgs });
    }

    /// The ids that no volume of the pool has or will have once `volume` is gone, as far as they lie beside its own.
    /// Told so generously, what PGs keep of the dead are the gaps between the living, however many there were. Those being deleted
    /// count as living: what they still have under way ends with their own barriers.
    fn ids_gone_with(&self, volume: VolumeId) -> IdSet<VolumeId> {
        let ended = &self.volumes[&volume];
        let in_pool = |(_, v): &(&VolumeId, &VolumeRecord)| v.pool == ended.pool;
        let before = self.volumes.range(..volume).rfind(in_pool).map_or(0, |(id, _)| id.0);
        let behind = (Bound::Excluded(volume), Bound::Unbounded);
        let after = self.volumes.range(behind).find(in_pool).map_or(self.next.volume, |(id, _)| id.0);
        IdSet::range(VolumeId(before + 1), VolumeId(after - 1))
    }

    /// A barrier that isn't known was passed or replaced before: the answer to a late or repeated message is the same.
    pub(super) fn barrier_passed(&mut self, id: u64, pgs: &[PgId]) -> Outcome {
        let passed: BTreeSet<&PgId> = pgs.iter().collect();
        let Some(barrier) = self.barriers.get_mut(&id) else {
            return self.unchanged();
        };
        let before = barrier.pgs.len();
        barrier.pgs.retain(|pg| !passed.contains(pg));
        if barrier.pgs.len() == before {
            return self.unchanged();
        }
        if barrier.pgs.is_empty() {
            let volume = barrier.volume;
            self.barriers.remove(&id);
            self.floor_holds(volume);
        }
        self.touch_view();
        self.done()
    }

    /// The PGs that have not passed it. `None` for one that is not known: it was passed, or another has taken its place.
    pub fn barrier_waits_for(&self, id: u64) -> Option<&[PgId]> {
        self.barriers.get(&id).map(|barrier| &barrier.pgs[..])
    }

    /// All PGs refuse what lies below the floor: attachments that waited for it may start; layers that were given up are dropped, and a
    /// deleted volume is gone.
    fn floor_holds(&mut self, volume: VolumeId) {
        let record = self.volumes.get_mut(&volume).expect("S2: a barrier's volume exists");
        record.barrier = None;
        record.settled = record.floor.stack_revision;
        for layer in std::mem::take(&mut record.retiring) {
            self.layers.remove(&layer);
        }
        if record.floor.closed {
            self.remove_volume(volume);
            return;
        }
        for attachment in record.attachments.values_mut() {
            attachment.active = attachment.boot != BootId(0);
        }
        // The PGs keep what they were told of ended attachments; here only the living need to be known.
        let living = &record.attachments;
        record.floor.generations.retain(|id, _| living.contains_key(id));
        self.end_cuts();
        self.jobs_go_on(volume);
    }

    /// For people: what a pending barrier waits for.
    pub(super) fn waiting_for(&self, id: u64) -> String {
        const NAMED: usize = 3;
        let pgs = self.barriers.get(&id).map_or(&[][..], |b| &b.pgs);
        let name = |pg: &PgId| match self.pgs.get(pg).and_then(|p| p.value.primary) {
            Some(primary) => format!("{pg} (primary {primary})"),
            None => format!("{pg} (no primary)"),
        };
        let mut names: Vec<String> = pgs.iter().take(NAMED).map(name).collect();
        if pgs.len() > NAMED {
            names.push(format!("{} more", pgs.len() - NAMED));
        }
        names.join(", ")
    }
}
