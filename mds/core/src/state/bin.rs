//! The bin: volumes that were deleted and are kept for a while, with their snapshots (docs/decisions/032-the-bin.md). Such a volume is as it was, but that nothing
//! leads to it: it has no name, and whoever asks by name doesn't find it. Restored it gets a name again; purged it is deleted as any other.
//! It keeps its reservation, so that bringing it back meets no full disk, and counts for what its pool has promised. A job on it rests.
//! B1: who is in the bin has no name and no attachments, nobody works on it, and it isn't hidden. B2: it expires after it was deleted.
//! No clock here: who puts one in says when that is, and the leader says what time it is when it purges.

use super::volume::VolumeRecord;
use super::{ClusterState, Outcome, invalid, not_found};
use ashlar_types::control::{BinInfo, ControlError, ControlReply};
use ashlar_types::{Name, PoolId, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Ten years, in seconds: who keeps something longer than that doesn't delete it.
pub(super) const RETENTION_MAX: u64 = 3650 * 24 * 60 * 60;

/// Seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct BinRecord {
    deleted_at: u64,
    expires_at: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bin {
    volumes: BTreeMap<VolumeId, BinRecord>,
    /// Seconds; of pools that keep what is deleted.
    retention: BTreeMap<PoolId, u64>,
}

impl ClusterState {
    /// Whether people see it: it is neither in the bin nor kept for its clones alone.
    pub(super) fn is_listed(&self, volume: &VolumeRecord) -> bool {
        !volume.hidden && !self.bin.volumes.contains_key(&volume.id)
    }

    /// Being purged it is not in the bin any more, but still without a name.
    fn bin_record(&self, volume: VolumeId) -> Option<&BinRecord> {
        self.bin.volumes.get(&volume).filter(|_| !self.volumes[&volume].floor.closed)
    }

    pub(super) fn is_in_bin(&self, volume: VolumeId) -> bool {
        self.bin_record(volume).is_some()
    }

    /// It is restored, hidden or gone.
    pub(super) fn leave_bin(&mut self, volume: VolumeId) {
        self.bin.volumes.remove(&volume);
    }

    pub(super) fn retention_of(&self, pool: PoolId) -> u64 {
        self.bin.retention.get(&pool).copied().unwrap_or(0)
    }

    pub(super) fn pool_keep_deleted(&mut self, name: &Name, retention: u64) -> Outcome {
        let pool = self.pool_for_volume(Some(name))?;
        match check_retention(retention)? {
            0 => self.bin.retention.remove(&pool),
            seconds => self.bin.retention.insert(pool, seconds),
        };
        self.done()
    }

    /// `retention` in seconds; `None` is what the pool says, and where that is nothing the volume is deleted for good.
    pub(super) fn volume_to_bin(
        &mut self,
        name: &Name,
        with_snapshots: bool,
        retention: Option<u64>,
        at: u64,
    ) -> Outcome {
        let volume = self.volume(name)?;
        if volume.floor.closed {
            return self.unchanged();
        }
        let of_pool = self.retention_of(volume.pool);
        let retention = match retention {
            Some(0) => return Err(invalid("a volume is kept in the bin for at least a second")),
            Some(seconds) => check_retention(seconds)?,
            None if of_pool == 0 => return self.volume_delete(name, with_snapshots),
            None => of_pool,
        };
        // Nothing was ever written to it, and whether it gets its space isn't known.
        if self.is_being_created(volume.id) {
            return self.volume_delete(name, with_snapshots);
        }
        self.check_free(volume)?;
        let id = volume.id;
        self.bin.volumes.insert(id, BinRecord { deleted_at: at, expires_at: at.saturating_add(retention) });
        self.volume_names.remove(name);
        self.end_worker(id);
        Ok(ControlReply::Bin(self.bin_info(&self.volumes[&id]).into_iter().collect()))
    }

    /// By when they were deleted.
    pub(super) fn bin_list(&self) -> Outcome {
        let mut infos: Vec<BinInfo> =
            self.bin.volumes.keys().filter_map(|id| self.bin_info(&self.volumes[id])).collect();
        infos.sort_by_key(|info| (info.deleted_at, info.id));
        Ok(ControlReply::Bin(infos))
    }

    fn bin_info(&self, volume: &VolumeRecord) -> Option<BinInfo> {
        let bin = self.bin_record(volume.id)?;
        let pool = self.pools.get(&volume.pool).expect("a pool with volumes is not deleted");
        Some(BinInfo {
            id: volume.id,
            name: volume.name.clone(),
            size: volume.size,
            pool_name: pool.value.info.name.clone(),
            deleted_at: bin.deleted_at,
            expires_at: bin.expires_at,
            snapshots: volume.snapshots.len() as u64,
            clones: volume.clone_count(),
            volume: Some(Box::new(self.volume_info(volume))),
            own: self.snapshot_infos(volume),
        })
    }

    /// How many there are, and their sizes together.
    pub fn bin_usage(&self) -> (u64, u64) {
        let there = self.bin.volumes.keys().filter(|id| self.bin_record(**id).is_some());
        let sizes = there.map(|id| self.volumes[id].size);
        sizes.fold((0, 0), |(count, bytes), size| (count + 1, u64::saturating_add(bytes, size)))
    }

    /// The sizes of those of a pool.
    pub(super) fn bin_bytes_of(&self, pool: PoolId) -> u64 {
        let there = self.bin.volumes.keys().filter(|id| self.bin_record(**id).is_some()).map(|id| &self.volumes[id]);
        there.filter(|volume| volume.pool == pool).map(|volume| volume.size).fold(0, u64::saturating_add)
    }

    /// Under the name that it had, or another one.
    pub(super) fn bin_restore(&mut self, id: VolumeId, name: Option<Name>) -> Outcome {
        let record = self.binned(id)?;
        let name = name.unwrap_or_else(|| record.name.clone());
        self.check_new_name(&name)?;
        let record = self.volumes.get_mut(&id).expect("looked up above");
        record.name = name.clone();
        self.volume_names.insert(name, id);
        self.leave_bin(id);
        Ok(ControlReply::Volume(self.volume_info(&self.volumes[&id])))
    }

    pub(super) fn bin_purge(&mut self, id: VolumeId) -> Outcome {
        self.binned(id)?;
        self.end(id);
        self.done()
    }

    /// The leader's clock says that these have expired. Answered with those that had.
    pub(super) fn bin_expire(&mut self, volumes: &[VolumeId], now: u64) -> Outcome {
        let mut purged = Vec::new();
        for id in volumes {
            // Restored meanwhile, or purged before: nothing to do.
            let bin = self.bin.volumes.contains_key(id).then(|| self.bin_record(*id)).flatten();
            if bin.is_some_and(|bin| bin.expires_at <= now) {
                purged.extend(self.bin_info(&self.volumes[id]));
                self.end(*id);
            }
        }
        Ok(ControlReply::Bin(purged))
    }

    pub fn is_expired(&self, volume: VolumeId, now: u64) -> bool {
        // Who is in there is in the state too.
        self.bin.volumes.contains_key(&volume) && self.bin_record(volume).is_some_and(|bin| bin.expires_at <= now)
    }

    /// So many of those that have expired, the oldest ids first.
    pub fn bin_expired(&self, now: u64, most: usize) -> Vec<VolumeId> {
        let is_due = |id: &&VolumeId| self.bin_record(**id).is_some_and(|bin| bin.expires_at <= now);
        self.bin.volumes.keys().filter(is_due).copied().take(most).collect()
    }

    pub(super) fn binned(&self, id: VolumeId) -> Result<&VolumeRecord, ControlError> {
        let found = self.volumes.get(&id).filter(|volume| self.bin_record(volume.id).is_some());
        found.ok_or_else(|| not_found("volume in the bin", id))
    }

    pub(super) fn assert_bin(&self) {
        for (id, bin) in &self.bin.volumes {
            let volume = self.volumes.get(id).expect("B1: what is in the bin exists");
            let name = &volume.name;
            assert!(!volume.hidden, "B1: {name} is not only kept for its clones");
            assert!(volume.attachments.is_empty(), "B1: nobody has {name} while it is in the bin");
            assert!(bin.deleted_at <= bin.expires_at, "B2: {name} expires after it was deleted");
        }
        assert!(self.bin.retention.keys().all(|pool| self.pools.contains_key(pool)), "pools that there are keep it");
    }
}

pub(super) fn check_retention(seconds: u64) -> Result<u64, ControlError> {
    if seconds > RETENTION_MAX {
        return Err(invalid(format!("{seconds} s are longer than the bin keeps anything: at most {RETENTION_MAX} s")));
    }
    Ok(seconds)
}
