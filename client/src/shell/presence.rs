//! The presence maps of all bases of a process (core/presence.rs says what they are and when they count), in memory that is bounded: which one is
//! dropped for room is no matter, it is asked for again.

use crate::core::{Presence, StackState};
use ashlar_types::LayerId;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::Arc;

/// What all maps of a process may take. 146 GiB of one base whose chunks all have holes, and nearly three times as much of one without.
const MAPS_BYTES: u64 = 8 << 20;
/// What an entry takes beside its bits, as far as it can be known.
const ENTRY_BYTES: u64 = 96;

/// Of one chunk of one base.
#[derive(Debug)]
pub(super) struct Map {
    pub(super) stack: StackState,
    pub(super) presence: Presence,
}

/// The layer of a base is frozen under one id, which is never used again.
type MapKey = (LayerId, u64);

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<MapKey, Arc<Map>> for Weight {
    fn weight(&self, _: &MapKey, map: &Arc<Map>) -> u64 {
        ENTRY_BYTES + map.presence.heap_bytes()
    }
}

/// By the base's layer and the number of the chunk.
#[derive(Debug)]
pub(super) struct Maps {
    maps: Cache<MapKey, Arc<Map>, Weight>,
}

impl Default for Maps {
    fn default() -> Maps {
        Maps::new(MAPS_BYTES)
    }
}

impl Maps {
    fn new(bytes: u64) -> Maps {
        let maps = usize::try_from(bytes / (2 * ENTRY_BYTES)).unwrap_or(usize::MAX);
        Maps { maps: Cache::with_weighter(maps, bytes, Weight) }
    }

    /// The map, if it is of this stack; one of another stack is forgotten (X2).
    pub(super) fn get(&self, layer: LayerId, chunk: u64, stack: StackState) -> Option<Arc<Map>> {
        let map = self.maps.get(&(layer, chunk))?;
        if map.stack != stack {
            self.forget(layer, chunk);
            return None;
        }
        Some(map)
    }

    pub(super) fn put(&self, layer: LayerId, chunk: u64, map: Map) {
        self.maps.insert((layer, chunk), Arc::new(map));
    }

    pub(super) fn forget(&self, layer: LayerId, chunk: u64) {
        self.maps.remove(&(layer, chunk));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::{LayerExtent, StackRevision};

    fn stack(revision: u32) -> StackState {
        StackState { revision: StackRevision(revision), has_base: true }
    }

    #[test]
    fn a_map_counts_with_its_own_stack_only() {
        let maps = Maps::default();
        maps.put(LayerId(1), 5, Map { stack: stack(2), presence: Presence::Nothing });
        assert!(maps.get(LayerId(1), 5, stack(2)).is_some());
        assert!(maps.get(LayerId(2), 5, stack(2)).is_none() && maps.get(LayerId(1), 4, stack(2)).is_none());
        let flattened = StackState { has_base: false, ..stack(2) };
        assert!(maps.get(LayerId(1), 5, flattened).is_none(), "it told what has to be read below");
        maps.put(LayerId(1), 5, Map { stack: stack(2), presence: Presence::Nothing });
        assert!(maps.get(LayerId(1), 5, stack(3)).is_none() && maps.get(LayerId(1), 5, stack(2)).is_none());
    }

    #[test]
    fn maps_keep_within_their_bytes() {
        let hole = LayerExtent { len: 4096, layer: None, has_data: false };
        let presence = Presence::told(&[hole]);
        let maps = Maps::new(100 * (ENTRY_BYTES + presence.heap_bytes()));
        for chunk in 0..1000 {
            maps.put(LayerId(1), chunk, Map { stack: stack(1), presence: presence.clone() });
        }
        assert!(maps.maps.weight() <= 100 * (ENTRY_BYTES + 128));
        assert!((0..1000).any(|chunk| maps.get(LayerId(1), chunk, stack(1)).is_some()));
    }
}
