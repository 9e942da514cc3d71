//! Pools: made with all their PGs, each at epoch 1.

use super::bin::check_retention;
use super::{ClusterState, Outcome, PoolRecord, Revised, exists, invalid, placement};
use ashlar_types::control::{ControlError, ControlReply};
use ashlar_types::view::{OsdInfo, PgConfig, PoolInfo};
use ashlar_types::{BootId, Epoch, Name, OsdId, PgId, PoolId};
use std::collections::BTreeMap;

const POOLS_MAX: usize = 256;
const REPLICAS_MAX: u8 = 5;
/// The pool that is meant where a request names none and there are several.
const DEFAULT_POOL: &str = "default";

impl ClusterState {
    /// `min_size` is one less than `replicas` unless given, but at least 1: one failure costs no availability (R12: 2 of 3).
    pub(super) fn pool_create(&mut self, name: Name, replicas: u8, min_size: Option<u8>) -> Outcome {
        let min_size = min_size.unwrap_or(replicas.saturating_sub(1).max(1));
        let osds = self.check_pool(&name, replicas, min_size)?;
        let id = PoolId(self.next.pool);
        let pg_count = placement::pg_count(osds.len(), replicas);
        let existing = self.pgs.values().map(|p| &p.value);
        let (failure_domain, map) = placement::place(id, pg_count, replicas, &osds, existing);
        let info = PoolInfo { id, name, replicas, min_size, pg_count, bin_retention: 0 };

        self.next.pool += 1;
        let modified = self.touch_view();
        for (index, members) in (0..).zip(map) {
            let pg = PgId { pool: id, index };
            let config = first_config(pg, members, min_size, &osds);
            self.pgs.insert(pg, Revised { modified, value: config });
        }
        self.pools.insert(id, Revised { modified, value: PoolRecord { info: info.clone(), failure_domain } });
        Ok(ControlReply::Pool(info))
    }

    pub(super) fn pool_set(&mut self, name: &Name, bin_retention: u64) -> Outcome {
        let id = self.pool_for_volume(Some(name))?;
        let bin_retention = check_retention(bin_retention)?;
        let modified = self.touch_view();
        let pool = self.pools.get_mut(&id).expect("looked up above");
        pool.value.info.bin_retention = bin_retention;
        pool.modified = modified;
        Ok(ControlReply::Pool(pool.value.info.clone()))
    }

    /// The OSDs that a new pool may use: those that have started at least once. One that was only given an id has no disk yet.
    fn check_pool(&self, name: &Name, replicas: u8, min_size: u8) -> Result<BTreeMap<OsdId, OsdInfo>, ControlError> {
        if self.pools.values().any(|p| p.value.info.name == *name) {
            return Err(exists("pool", name));
        }
        if !(1..=REPLICAS_MAX).contains(&replicas) {
            return Err(invalid(format!("a pool keeps 1 to {REPLICAS_MAX} copies, not {replicas}")));
        }
        if !(1..=replicas).contains(&min_size) {
            return Err(invalid(format!("min_size must be 1 to {replicas} (the number of copies), not {min_size}")));
        }
        if self.pools.len() >= POOLS_MAX {
            return Err(invalid(format!("there are {POOLS_MAX} pools already, which is the most a cluster has")));
        }
        let started = self.osds.values().filter(|o| o.value.info.boot != BootId(0));
        let osds: BTreeMap<_, _> = started.map(|o| (o.value.info.id, o.value.info.clone())).collect();
        if osds.len() < usize::from(replicas) {
            return Err(invalid(format!(
                "{replicas} copies need {replicas} OSDs, but only {} have started; start more OSDs or use fewer copies",
                osds.len()
            )));
        }
        Ok(osds)
    }

    /// The pool that a request means: the named one, else the only one, else the one named `default`.
    pub(super) fn pool_for_volume(&self, name: Option<&Name>) -> Result<PoolId, ControlError> {
        let by_name =
            |wanted: &str| self.pools.values().map(|p| &p.value.info).find(|p| p.name.as_str() == wanted).map(|p| p.id);
        if let Some(name) = name {
            return by_name(name.as_str()).ok_or_else(|| super::not_found("pool", name));
        }
        let mut pools = self.pools.keys();
        match (pools.next(), pools.next()) {
            (None, _) => Err(invalid("there is no pool; make one with `ashlar pool create`")),
            (Some(only), None) => Ok(*only),
            _ => by_name(DEFAULT_POOL).ok_or_else(|| {
                let names: Vec<_> = self.pools.values().map(|p| p.value.info.name.as_str()).collect();
                invalid(format!("there are several pools; say which with --pool: {}", names.join(", ")))
            }),
        }
    }
}

/// Nothing was ever written to a new PG, so any of its members is in sync; those that are down join when they return (S1).
fn first_config(pg: PgId, members: Vec<OsdId>, min_size: u8, osds: &BTreeMap<OsdId, OsdInfo>) -> PgConfig {
    let is_up = |id: &OsdId| osds.get(id).is_some_and(|o| o.up);
    let up: Vec<OsdId> = members.iter().copied().filter(is_up).collect();
    let primary = up.first().copied();
    let primary_boot = primary.and_then(|p| osds.get(&p)).map_or(BootId(0), |o| o.boot);
    let in_sync = if up.is_empty() { members.clone() } else { up };
    PgConfig { pg, epoch: Epoch(1), members, in_sync, primary, primary_boot, min_size }
}
