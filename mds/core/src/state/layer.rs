//! Layers: which exist, and what lies below each (design.md §1.1). A volume's layers are a tree: its top and its snapshots each name one, and
//! what is read there is that layer and the chain of its parents, the stack.
//! L1: a parent is older than its child, of the same volume, and frozen: nobody's top. L2: each layer is in the stack of a tip (the top, a
//! snapshot's layer, one on which clones stand, or the base of a non-persistent volume), or is being retired. L3: a layer that is being retired stays known until its volume's barrier has passed, and is in no stack.

use super::volume::VolumeRecord;
use super::{ClusterState, invalid};
use ashlar_types::control::ControlError;
use ashlar_types::{IdSet, LayerId, PoolId, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ops::Bound;

/// A PG keeps the gaps between the ids of its pool's layers, 16 bytes each, and tells them in one frame
/// (docs/decisions/023-volumes-that-are-gone.md).
const LAYERS_PER_POOL_MAX: usize = 100_000;
const LAYERS_MAX: usize = 2_000_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    pub(super) volume: VolumeId,
    pub(super) parent: Option<LayerId>,
}

impl ClusterState {
    /// Whether the pool has room for so many more.
    pub(super) fn check_room_for_layers(&self, pool: PoolId, more: usize) -> Result<(), ControlError> {
        let all = self.layers.len();
        if all + more > LAYERS_MAX {
            let most = format!("a cluster has at most {LAYERS_MAX}");
            return Err(invalid(format!("there are {all} layers already and no room for {more} more: {most}")));
        }
        // Counted only where it can matter: a pool has no more than all of them.
        if all + more <= LAYERS_PER_POOL_MAX {
            return Ok(());
        }
        let in_pool = self.layers.values().filter(|layer| self.pool_of(layer) == pool).count();
        if in_pool + more > LAYERS_PER_POOL_MAX {
            let most = format!("one has at most {LAYERS_PER_POOL_MAX}; delete volumes with snapshots");
            return Err(invalid(format!(
                "there are {in_pool} layers in the pool already and no room for {more} more: {most}"
            )));
        }
        Ok(())
    }

    pub(super) fn add_layer(&mut self, volume: VolumeId, parent: Option<LayerId>) -> LayerId {
        let id = LayerId(self.next.layer);
        self.next.layer += 1;
        self.layers.insert(id, LayerRecord { volume, parent });
        self.layer_made();
        id
    }

    /// A layer and what lies below it, in order.
    pub(super) fn stack(&self, top: LayerId) -> Vec<LayerId> {
        self.chain(top).collect()
    }

    pub(super) fn chain(&self, top: LayerId) -> impl Iterator<Item = LayerId> + '_ {
        let parent = |id: &LayerId| self.layers.get(id).expect("L2: what is in a stack exists").parent;
        std::iter::successors(Some(top), parent)
    }

    /// All layers of a volume that somebody reads.
    pub(super) fn layers_in_use(&self, volume: &VolumeRecord) -> BTreeSet<LayerId> {
        let mut used = BTreeSet::new();
        for tip in self.tips(volume) {
            // Where a chain joins one that was followed before, the rest is known.
            for layer in self.chain(tip) {
                if !used.insert(layer) {
                    break;
                }
            }
        }
        used
    }

    /// The ids of the layers that a volume gives up, and those beside them, as far as no other layer of the pool has them. Told so
    /// generously, what PGs keep of the dead are the gaps between the living, however many there were. Those that other volumes are giving up
    /// count as living: what is still under way to them ends with the barriers of those.
    pub(super) fn retired_ids(&self, volume: &VolumeRecord) -> IdSet<LayerId> {
        let stays = |(id, layer): &(&LayerId, &LayerRecord)| {
            self.pool_of(layer) == volume.pool && !volume.retiring.contains(id)
        };
        let mut ids = IdSet::default();
        for layer in &volume.retiring {
            if ids.contains(*layer) {
                continue;
            }
            let before = self.layers.range(..layer).rfind(stays).map_or(0, |(id, _)| id.0);
            let behind = (Bound::Excluded(*layer), Bound::Unbounded);
            let after = self.layers.range(behind).find(stays).map_or(self.next.layer, |(id, _)| id.0);
            ids.insert(LayerId(before + 1), LayerId(after - 1));
        }
        ids
    }

    fn pool_of(&self, layer: &LayerRecord) -> PoolId {
        self.volumes.get(&layer.volume).expect("L1: a layer's volume exists").pool
    }
}
