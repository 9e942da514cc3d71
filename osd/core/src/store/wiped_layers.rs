//! Layers of volumes that wipe as they free (docs/decisions/039-wipe-freed.md): what they give up is overwritten soon after it is free.
//! F1: a block that such a layer gives up is marked where that becomes known, by whoever knows the layer; the mark goes with it until it is free.
//! F2: in doubt a layer is one of them: if it is newer than what the metadata service has told, or dropped by a join, since its volume
//! may be gone and not told of any more. F3: one that is not told any more stays one until what was dropped before has been found by checkpoints.
//! Nothing of it is on disk: after a start all that is free is looked at (`store::wipe`). Called by `State` and `Checkpoint`.

use ashlar_types::{IdSet, LayerId};

/// The one that may be running, the next, which finds what that one leaves, and one that purges what was dropped meanwhile.
const CHECKPOINTS_REMEMBERED: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct WipedLayers {
    told: IdSet<LayerId>,
    /// F2
    known_below: LayerId,
    /// There is, or was, such a volume.
    is_on: bool,
    /// F3
    past: IdSet<LayerId>,
    checkpoints_left: u32,
    is_joining: bool,
    /// Blocks that the next checkpoint may find to be replaced or dropped, at most.
    held: u64,
    /// Likewise, of the one that runs.
    held_by_running: u64,
    /// Plant `REPLACED_NOT_WIPED`.
    forgets_replaced: bool,
}

impl WipedLayers {
    pub(super) fn new(forgets_replaced: bool) -> WipedLayers {
        WipedLayers { forgets_replaced, ..WipedLayers::default() }
    }

    pub(super) fn tell(&mut self, layers: &IdSet<LayerId>, known_below: LayerId, is_on: bool) {
        let past = self.told.beyond(layers);
        if !past.is_empty() {
            self.past.extend(&past);
            self.checkpoints_left = CHECKPOINTS_REMEMBERED;
        }
        (self.told, self.known_below, self.is_on) = (layers.clone(), known_below, is_on);
    }

    pub(super) fn has(&self, layer: LayerId) -> bool {
        self.is_on
            && (self.is_joining || layer >= self.known_below || self.told.contains(layer) || self.past.contains(layer))
    }

    /// Whether a block of it is wiped that a checkpoint finds to be replaced.
    pub(super) fn wipe_replaced(&self, layer: LayerId) -> bool {
        !self.forgets_replaced && self.has(layer)
    }

    /// So many blocks of it, at most, are free with the next checkpoint only. Says whether they are wiped then.
    pub(super) fn wipe_held(&mut self, layer: LayerId, blocks: usize) -> bool {
        let wipe = self.has(layer);
        if wipe {
            self.held += blocks as u64;
        }
        wipe
    }

    /// Blocks to be wiped that wait for a checkpoint to find them, at most.
    pub(super) fn held(&self) -> u64 {
        self.held + self.held_by_running
    }

    /// Whether a checkpoint has to begin for that.
    pub(super) fn wants_checkpoint(&self) -> bool {
        self.held > 0
    }

    pub(super) fn checkpoint_begins(&mut self) {
        self.held_by_running = std::mem::take(&mut self.held);
    }

    pub(super) fn checkpoint_ends(&mut self) {
        self.held_by_running = 0;
        self.checkpoints_left = self.checkpoints_left.saturating_sub(1);
        if self.checkpoints_left == 0 {
            self.past = IdSet::default();
        }
    }

    /// F2: what a running checkpoint finds of it later is marked too.
    pub(super) fn chunk_dropped(&mut self, layer: LayerId) {
        if self.is_on && self.is_joining {
            self.past.insert(layer, layer);
            self.checkpoints_left = CHECKPOINTS_REMEMBERED;
        }
    }

    pub(super) fn join_begins(&mut self) {
        self.is_joining = true;
    }

    pub(super) fn join_ends(&mut self) {
        self.is_joining = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(first: u64, last: u64) -> IdSet<LayerId> {
        IdSet::range(LayerId(first), LayerId(last))
    }

    #[test]
    fn without_such_a_volume_no_layer_is_wiped() {
        let mut layers = WipedLayers::default();
        assert!(!layers.has(LayerId(7)));
        layers.join_begins();
        assert!(!layers.has(LayerId(7)) && !layers.wipe_held(LayerId(7), 9));
        assert_eq!(layers.held(), 0);
    }

    #[test]
    fn in_doubt_a_layer_is_wiped() {
        let mut layers = WipedLayers::default();
        layers.tell(&ids(3, 4), LayerId(10), true);
        let wiped = |layers: &WipedLayers| (1..12).filter(|id| layers.has(LayerId(*id))).collect::<Vec<_>>();
        assert_eq!(wiped(&layers), [3, 4, 10, 11]);
        layers.join_begins();
        assert!(layers.has(LayerId(1)));
        layers.chunk_dropped(LayerId(2));
        layers.join_ends();
        assert!(!layers.has(LayerId(1)));
        assert!(layers.has(LayerId(2)), "a checkpoint may find more of it");
    }

    #[test]
    fn a_layer_that_is_gone_is_remembered_until_checkpoints_have_found_what_it_had() {
        let mut layers = WipedLayers::default();
        layers.tell(&ids(3, 3), LayerId(10), true);
        layers.tell(&IdSet::default(), LayerId(10), true);
        for _ in 0..CHECKPOINTS_REMEMBERED {
            assert!(layers.has(LayerId(3)));
            layers.checkpoint_begins();
            layers.checkpoint_ends();
        }
        assert!(!layers.has(LayerId(3)));
    }
}
