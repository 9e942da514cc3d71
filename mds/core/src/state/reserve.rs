//! Reservations: volumes whose whole size every OSD keeps free for them, and how much more than there is the volumes of a pool may be promised.
//! The view says how many chunks of reserved volumes each PG serves; who keeps it keeps room for them (docs/decisions/033-reservations.md).
//! V1: what is reserved of a PG is the sum over the reserved volumes. V2: a volume that is being deleted, or only kept for its clones, has nothing
//! reserved. V3: a reservation is asked for until the leader has heard of all OSDs whether it is kept; a volume that was made with it cannot be
//! used before.

use super::command::Verdict;
use super::volume::VolumeRecord;
use super::{ClusterState, Outcome, invalid};
use ashlar_types::control::{ControlError, ControlReply, OverCommit, PoolSpace, Provision, SpaceReport, SpaceUse};
use ashlar_types::view::{RESERVED_BLOCKS_PER_CHUNK, Reservations, place_chunk};
use ashlar_types::{BLOCK_BYTES, CHUNK_BYTES, ChunkIndex, LayerId, Name, OsdId, PgId, PoolId, Revision, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Each OSD is told all of them with each change of one.
const RESERVED_VOLUMES_MAX: usize = 10_000;
/// 64 TiB: which PG serves a chunk is reckoned chunk by chunk.
const RESERVED_BYTES_MAX: u64 = 1 << 46;
const OVER_COMMIT_MAX: OverCommit = OverCommit(1_000_000);

/// What becomes of a volume whose space cannot be kept free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum OtherwiseIs {
    /// It was made with it.
    Gone,
    /// It was thin, or wants more than it had: so others keep what they have.
    Thin,
    /// It needs no more than before, or will not when what it has given up is freed.
    Kept,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reserve {
    /// Whole chunks that its size takes.
    chunks: u32,
    /// `None`: all OSDs keep it. Else what they are asked for since the view of this revision.
    asked: Option<(Revision, OtherwiseIs)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reserves {
    modified: Revision,
    volumes: BTreeMap<VolumeId, Reserve>,
    chunks: BTreeMap<PgId, u64>,
    over_commit: BTreeMap<PoolId, OverCommit>,
}

/// What a request would take of each OSD, in blocks.
pub(crate) type Demand = BTreeMap<OsdId, u64>;

impl ClusterState {
    pub(super) fn reservations_since(&self, revision: Revision) -> Option<Reservations> {
        let reserves = &self.reserves;
        let tops = reserves.volumes.keys().map(|volume| (*volume, self.volumes[volume].top));
        (reserves.modified > revision)
            .then(|| Reservations { chunks: reserves.chunks.clone(), volumes: tops.collect() })
    }

    pub(super) fn provision_of(&self, volume: VolumeId) -> Provision {
        match self.reserves.volumes.contains_key(&volume) {
            true if self.is_eager(volume) => Provision::Eager,
            true => Provision::Lazy,
            false => Provision::Thin,
        }
    }

    pub(super) fn is_reserving(&self, volume: VolumeId) -> bool {
        self.reserves.volumes.get(&volume).is_some_and(|reserve| reserve.asked.is_some())
    }

    /// V3
    pub(super) fn is_being_created(&self, volume: VolumeId) -> bool {
        let asked = self.reserves.volumes.get(&volume).and_then(|reserve| reserve.asked);
        asked.is_some_and(|(_, otherwise)| otherwise == OtherwiseIs::Gone)
    }

    /// Of a volume that has its space reserved, before it gets another size.
    pub(super) fn check_reserved_size(&self, volume: VolumeId, size: u64) -> Result<(), ControlError> {
        match self.provision_of(volume) {
            Provision::Thin => Ok(()),
            Provision::Lazy | Provision::Eager => check_bytes(size),
        }
    }

    /// Whether one more volume can have its space reserved.
    pub(super) fn check_reserve(&self, size: u64) -> Result<(), ControlError> {
        check_bytes(size)?;
        if self.reserves.volumes.len() >= RESERVED_VOLUMES_MAX {
            let most = format!("at most {RESERVED_VOLUMES_MAX} volumes of a cluster have their space reserved");
            return Err(invalid(format!("{most}; make a thin one")));
        }
        Ok(())
    }

    /// A new volume has its space reserved.
    pub(super) fn reserve_new(&mut self, volume: VolumeId) {
        self.set_reserve(volume, Some(OtherwiseIs::Gone));
    }

    pub(super) fn volume_set(&mut self, name: &Name, provision: Provision) -> Outcome {
        let volume = self.open_volume(name)?;
        let id = volume.id;
        if self.is_being_created(id) {
            return Err(invalid(format!("volume {name} is still being created")));
        }
        let was = self.provision_of(id);
        if provision == Provision::Eager && was != Provision::Eager {
            self.check_eager(volume)?;
        }
        match (was == Provision::Thin, provision == Provision::Thin) {
            (true, false) => {
                self.check_reserve(volume.size)?;
                self.set_reserve(id, Some(OtherwiseIs::Thin));
            }
            (false, true) => self.unreserve(id),
            (true, true) | (false, false) => {}
        }
        self.set_eager(id, provision == Provision::Eager);
        Ok(ControlReply::Volume(self.volume_info(&self.volumes[&id])))
    }

    /// The size of a volume, or the layer that takes its writes, is another one.
    pub(super) fn revise_reserve(&mut self, volume: VolumeId, wants_more: bool) {
        if let Some(reserve) = self.reserves.volumes.get(&volume) {
            let otherwise = if wants_more { OtherwiseIs::Thin } else { OtherwiseIs::Kept };
            let otherwise = reserve.asked.map_or(otherwise, |(_, before)| before);
            self.set_reserve(volume, Some(otherwise));
        }
    }

    /// The view in which what is reserved changed last.
    pub(crate) fn reserves_modified(&self) -> Revision {
        self.reserves.modified
    }

    pub(super) fn unreserve(&mut self, volume: VolumeId) {
        self.set_eager(volume, false);
        self.set_reserve(volume, None);
    }

    fn set_reserve(&mut self, volume: VolumeId, otherwise: Option<OtherwiseIs>) {
        if let Some(before) = self.reserves.volumes.remove(&volume) {
            self.reserves.modified = self.touch_view();
            for (pg, count) in self.chunks_by_pg(&self.volumes[&volume], before.chunks) {
                let reserved = self.reserves.chunks.get_mut(&pg).expect("V1");
                *reserved -= count;
                if *reserved == 0 {
                    self.reserves.chunks.remove(&pg);
                }
            }
        }
        let Some(otherwise) = otherwise else { return };
        let since = self.touch_view();
        let record = &self.volumes[&volume];
        let chunks = chunks_of(record.size);
        for (pg, count) in self.chunks_by_pg(record, chunks) {
            *self.reserves.chunks.entry(pg).or_default() += count;
        }
        self.reserves.modified = since;
        self.reserves.volumes.insert(volume, Reserve { chunks, asked: Some((since, otherwise)) });
    }

    fn chunks_by_pg(&self, volume: &VolumeRecord, chunks: u32) -> BTreeMap<PgId, u64> {
        let (pool, key) = (volume.pool, volume.placement_key);
        let pg_count = self.pools.get(&pool).expect("a pool with volumes is not deleted").value.info.pg_count;
        let mut counts = vec![0u64; pg_count as usize];
        (0..chunks).for_each(|index| counts[place_chunk(key, ChunkIndex(index), pg_count) as usize] += 1);
        let by_pg = (0..).zip(counts).filter(|(_, count)| *count > 0);
        by_pg.map(|(index, count)| (PgId { pool, index }, count)).collect()
    }

    /// What OSDs are asked to keep: volumes, since which view, and of whom it is asked. The leader tells by [`Verdict`] what it has heard.
    pub(crate) fn asked_reserves(&self) -> impl Iterator<Item = (VolumeId, Revision, BTreeSet<OsdId>)> {
        self.reserves.volumes.iter().filter_map(|(id, reserve)| {
            let (since, _) = reserve.asked?;
            let pool = self.volumes[id].pool;
            let members =
                self.pgs.iter().filter(|(pg, _)| pg.pool == pool).flat_map(|(_, config)| &config.value.members);
            let up = members.copied().filter(|osd| self.is_up(*osd));
            Some((*id, since, up.collect()))
        })
    }

    pub(super) fn reserve_judged(&mut self, verdict: &Verdict) -> Outcome {
        let Verdict { volume, since, is_kept } = *verdict;
        let asked = self.reserves.volumes.get(&volume).and_then(|reserve| reserve.asked);
        let Some((_, otherwise)) = asked.filter(|(of, _)| *of == since) else {
            return self.unchanged();
        };
        match (is_kept, otherwise) {
            (true, _) | (false, OtherwiseIs::Kept) => {
                self.reserves.volumes.get_mut(&volume).expect("just seen").asked = None;
            }
            (false, OtherwiseIs::Thin) => self.unreserve(volume),
            (false, OtherwiseIs::Gone) => {
                self.unreserve(volume);
                self.close(volume);
            }
        }
        self.done()
    }

    /// What making a volume takes; nothing of a pool that isn't there.
    pub(crate) fn demand_of_new(&self, pool: Option<&Name>, size: u64) -> Demand {
        let Ok(pool) = self.pool_for_volume(pool) else { return Demand::new() };
        let pgs: Vec<_> = self.pgs.iter().filter(|(pg, _)| pg.pool == pool).map(|(_, config)| &config.value).collect();
        // Where its chunks will be isn't known before it has an id. They spread evenly, the more there are the better.
        let chunks = u64::from(chunks_of(size.min(RESERVED_BYTES_MAX)));
        let each = chunks.div_ceil(pgs.len().max(1) as u64);
        let mut demand = Demand::new();
        for osd in pgs.iter().flat_map(|config| &config.members) {
            *demand.entry(*osd).or_default() += each * RESERVED_BLOCKS_PER_CHUNK;
        }
        demand.values_mut().for_each(|blocks| *blocks = (*blocks).min(chunks * RESERVED_BLOCKS_PER_CHUNK));
        demand
    }

    /// What it takes that an existing volume has so many bytes reserved, beyond what it has reserved; and its top layer.
    pub(crate) fn demand_of_size(&self, name: &Name, size: u64) -> Option<(Demand, LayerId)> {
        let volume = self.volume(name).ok()?;
        let before = self.reserves.volumes.get(&volume.id).map_or(0, |reserve| reserve.chunks);
        let mut demand = self.demand(volume, chunks_of(size.min(RESERVED_BYTES_MAX)));
        for (osd, blocks) in self.demand(volume, before) {
            let left = demand.entry(osd).or_default();
            *left = left.saturating_sub(blocks);
        }
        Some((demand, volume.top))
    }

    fn demand(&self, volume: &VolumeRecord, chunks: u32) -> Demand {
        let mut demand = Demand::new();
        for (pg, count) in self.chunks_by_pg(volume, chunks) {
            for osd in &self.pgs[&pg].value.members {
                *demand.entry(*osd).or_default() += count * RESERVED_BLOCKS_PER_CHUNK;
            }
        }
        demand
    }

    /// The top layer and the size of a volume that has its space reserved.
    pub(crate) fn reserved_top(&self, name: &Name) -> Option<(LayerId, u64)> {
        let volume = self.volume(name).ok()?;
        self.reserves.volumes.contains_key(&volume.id).then_some((volume.top, volume.size))
    }

    pub(crate) fn snapshot_size(&self, volume: &Name, snapshot: &Name) -> Option<u64> {
        Some(self.volume(volume).ok()?.snapshot(snapshot).ok()?.size)
    }

    pub(crate) fn size_of(&self, name: &Name) -> Option<u64> {
        Some(self.volume(name).ok()?.size)
    }

    pub(super) fn set_over_commit(&mut self, pool: PoolId, over_commit: Option<OverCommit>) {
        match over_commit {
            Some(over_commit) => self.reserves.over_commit.insert(pool, over_commit),
            None => self.reserves.over_commit.remove(&pool),
        };
    }

    pub(super) fn pool_set(&mut self, name: &Name, over_commit: Option<OverCommit>) -> Outcome {
        let pool = self.pool_for_volume(Some(name))?;
        check_over_commit(over_commit)?;
        self.set_over_commit(pool, over_commit);
        self.done()
    }

    /// Whether volumes of so many bytes more may be promised.
    pub(super) fn check_promise(&self, pool: PoolId, more: u64) -> Result<(), ControlError> {
        let Some(over_commit) = self.reserves.over_commit.get(&pool) else { return Ok(()) };
        let space = self.pool_space(pool);
        let replicas = u64::from(self.pools.get(&pool).expect("the caller looked it up").value.info.replicas);
        let most = over_commit.of(space.capacity) / replicas;
        let promised = space.provisioned / replicas;
        if promised.saturating_add(more) <= most {
            return Ok(());
        }
        let name = &self.pools[&pool].value.info.name;
        let ratio = f64::from(over_commit.0) / 100.0;
        let in_bin = match space.in_bin / replicas {
            0 => String::new(),
            bytes => format!(", {bytes} of them to volumes in the bin (`bin purge` gives them back),"),
        };
        Err(invalid(format!(
            "{more} bytes more are too many for pool {name}: {promised} are promised already{in_bin} and its over-commit ratio of {ratio} allows \
             {most}; `pool set {name} --over-commit` sets it"
        )))
    }

    /// Without what is used.
    fn pool_space(&self, pool: PoolId) -> PoolSpace {
        let info = &self.pools[&pool].value.info;
        let sizes = self.volumes.values().filter(|v| v.pool == pool && !v.hidden && !v.floor.closed).map(|v| v.size);
        let provisioned = sizes.fold(0u64, u64::saturating_add).saturating_mul(info.replicas.into());
        let members = self.pgs.iter().filter(|(pg, _)| pg.pool == pool).flat_map(|(_, config)| &config.value.members);
        let osds: BTreeSet<&OsdId> = members.collect();
        let capacity = osds.iter().map(|osd| self.osds[osd].value.info.capacity).fold(0u64, u64::saturating_add);
        let over_commit = self.reserves.over_commit.get(&pool).copied();
        let retention = self.retention_of(pool);
        let in_bin = self.bin_bytes_of(pool).saturating_mul(info.replicas.into());
        PoolSpace { used: SpaceUse::default(), provisioned, capacity, over_commit, retention, in_bin }
    }

    /// `blocks`: what all OSDs together have of each layer.
    pub(crate) fn space_report(
        &self,
        name: Option<&Name>,
        blocks: &BTreeMap<LayerId, u64>,
    ) -> Result<SpaceReport, ControlError> {
        let wanted = name.map(|name| self.volume(name)).transpose()?.map(|volume| volume.id);
        let mut report = SpaceReport::default();
        let mut pools: BTreeMap<PoolId, PoolSpace> =
            self.pools.keys().map(|pool| (*pool, self.pool_space(*pool))).collect();
        for volume in self.volumes.values() {
            let used = self.space_use(volume, blocks);
            let of_pool = &mut pools.get_mut(&volume.pool).expect("a pool with volumes is not deleted").used;
            add(of_pool, &used);
            if wanted == Some(volume.id) {
                report.volumes.push((volume.id, used));
            }
        }
        report.pools = pools.into_iter().collect();
        let orphans = blocks.iter().filter(|(layer, _)| !self.layers.contains_key(layer));
        report.orphaned = bytes(orphans.map(|(_, blocks)| blocks).sum());
        Ok(report)
    }

    fn space_use(&self, volume: &VolumeRecord, blocks: &BTreeMap<LayerId, u64>) -> SpaceUse {
        let of = |layer: &LayerId| bytes(blocks.get(layer).copied().unwrap_or(0));
        if volume.floor.closed {
            let garbage = volume.retiring.iter().map(of).sum();
            return SpaceUse { garbage, ..SpaceUse::default() };
        }
        let shared: BTreeSet<LayerId> = volume.clones.keys().flat_map(|layer| self.chain(*layer)).collect();
        let top = of(&volume.top);
        // A snapshot that is taken later freezes neither: it isn't taken of a volume that has a base.
        let base = self.mode_base(volume.id);
        let is_live = |layer: &LayerId| *layer == volume.top || Some(*layer) == base;
        let live = top + base.as_ref().map_or(0, of);
        let frozen = self.layers_in_use(volume).into_iter().filter(|layer| !is_live(layer) && !shared.contains(layer));
        let replicas = u64::from(self.pools[&volume.pool].value.info.replicas);
        let reserved = self.reserves.volumes.get(&volume.id).map_or(0, |reserve| {
            bytes(u64::from(reserve.chunks) * RESERVED_BLOCKS_PER_CHUNK * replicas).saturating_sub(top)
        });
        SpaceUse {
            live,
            snapshots: frozen.map(|layer| of(&layer)).sum(),
            shared: shared.iter().map(of).sum(),
            garbage: volume.retiring.iter().map(of).sum(),
            reserved,
        }
    }

    pub(super) fn assert_reserves(&self) {
        let mut chunks: BTreeMap<PgId, u64> = BTreeMap::new();
        for (id, reserve) in &self.reserves.volumes {
            let volume = self.volumes.get(id).expect("V2: a volume with a reservation exists");
            assert!(!volume.floor.closed && !volume.hidden, "V2: {} has nothing reserved", volume.name);
            assert!(reserve.chunks == chunks_of(volume.size), "all of {} is reserved", volume.name);
            for (pg, count) in self.chunks_by_pg(volume, reserve.chunks) {
                *chunks.entry(pg).or_default() += count;
            }
        }
        assert!(chunks == self.reserves.chunks, "V1: what is reserved of PGs");
        assert!(self.reserves.over_commit.keys().all(|pool| self.pools.contains_key(pool)), "ratios are of pools");
    }
}

fn check_bytes(size: u64) -> Result<(), ControlError> {
    match size > RESERVED_BYTES_MAX {
        true => Err(invalid("a volume can have at most 64 TiB reserved; a thin one can be larger")),
        false => Ok(()),
    }
}

pub(super) fn check_over_commit(over_commit: Option<OverCommit>) -> Result<(), ControlError> {
    match over_commit {
        Some(ratio) if ratio.0 == 0 || ratio > OVER_COMMIT_MAX => {
            Err(invalid("an over-commit ratio is 0.01 to 10000; without one a pool has no limit".to_owned()))
        }
        _ => Ok(()),
    }
}

fn chunks_of(size: u64) -> u32 {
    u32::try_from(size.div_ceil(u64::from(CHUNK_BYTES))).expect("a volume's chunks have indexes of 32 bits")
}

fn bytes(blocks: u64) -> u64 {
    blocks.saturating_mul(u64::from(BLOCK_BYTES))
}

fn add(sum: &mut SpaceUse, more: &SpaceUse) {
    let SpaceUse { live, snapshots, shared, garbage, reserved } = more;
    sum.live += live;
    sum.snapshots += snapshots;
    sum.shared += shared;
    sum.garbage += garbage;
    sum.reserved += reserved;
}
