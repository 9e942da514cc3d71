//! The cache of what bases hold (D1 in the module above).

use super::BLOCK;
use crate::core::is_zeroes;
use ashlar_types::LayerId;
use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// What an entry takes beside its data, as far as it can be known.
const ENTRY_BYTES: u64 = 96;

type BlockKey = (LayerId, u64);

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<BlockKey, Bytes> for Weight {
    fn weight(&self, _: &BlockKey, block: &Bytes) -> u64 {
        // Zeroes are one page for all.
        ENTRY_BYTES + if is_zeroes(block) { 0 } else { block.len() as u64 }
    }
}

/// Blocks of frozen layers, by layer and place in the volume; the same for all exports of a process.
#[derive(Debug)]
pub(super) struct BlockCache {
    blocks: Cache<BlockKey, Bytes, Weight>,
}

impl BlockCache {
    pub(super) fn new(bytes: u64) -> BlockCache {
        let blocks = usize::try_from(bytes / (BLOCK + ENTRY_BYTES)).unwrap_or(usize::MAX);
        BlockCache { blocks: Cache::with_weighter(blocks, bytes, Weight) }
    }

    pub(super) fn get(&self, layer: LayerId, block: u64) -> Option<Bytes> {
        self.blocks.get(&(layer, block))
    }

    /// Keeps a copy: a slice of an answer would hold all of it.
    pub(super) fn put(&self, layer: LayerId, block: u64, data: &Bytes) {
        let kept = if is_zeroes(data) { data.clone() } else { Bytes::copy_from_slice(data) };
        self.blocks.insert((layer, block), kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::BLOCK_BYTES;

    #[test]
    fn the_cache_keeps_within_its_bytes_and_zeroes_cost_nearly_nothing() {
        let cache = BlockCache::new(100 * (BLOCK + ENTRY_BYTES));
        let zero = crate::core::zeroes(BLOCK_BYTES);
        (0..1000).for_each(|block| cache.put(LayerId(1), block, &zero));
        assert!((0..1000).all(|block| cache.get(LayerId(1), block).is_some()));
        let data = Bytes::from(vec![1; BLOCK_BYTES as usize]);
        (0..1000).for_each(|block| cache.put(LayerId(2), block, &data));
        assert!(cache.blocks.weight() <= 100 * (BLOCK + ENTRY_BYTES));
        assert!((0..1000).any(|block| cache.get(LayerId(2), block).is_some()));
    }
}
