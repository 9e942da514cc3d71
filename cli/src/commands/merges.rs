//! Layers that are being merged into those above them, as the view tells it.

use ashlar_types::view::ClusterView;
use ashlar_types::{LayerId, VolumeId};
use serde_json::{Value, json};

/// A layer on its way into another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merging {
    pub from: LayerId,
    pub into: LayerId,
    /// Placement groups that are done, of all of the pool.
    pub done: usize,
    pub all: usize,
}

pub fn of(view: &ClusterView, volume: VolumeId) -> Vec<Merging> {
    let own = view.merges.iter().filter(|merge| merge.volume == volume);
    own.map(|merge| {
        let pool = merge.pgs.first().and_then(|pg| view.pools.get(&pg.pool));
        let all = pool.map_or(merge.pgs.len(), |pool| pool.pg_count as usize);
        Merging { from: merge.from, into: merge.into, done: all.saturating_sub(merge.pgs.len()), all }
    })
    .collect()
}

pub fn describe(merge: &Merging) -> String {
    let Merging { from, into, done, all } = merge;
    format!("{from} into {into}, {done} of {all} placement groups done")
}

pub fn merge_json(merge: &Merging) -> Value {
    json!({ "from": merge.from.0, "into": merge.into.0, "pgs_done": merge.done, "pgs": merge.all })
}
