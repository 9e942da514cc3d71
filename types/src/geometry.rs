//! Blocks, chunks and how a byte range of a volume falls onto them.

use crate::ChunkIndex;
use serde::{Deserialize, Serialize};

/// The unit of checksums, of sharing and of allocation, in bytes.
pub const BLOCK_BYTES: u32 = 4096;
/// The unit of placement and of versions, in bytes.
pub const CHUNK_BYTES: u32 = 4 << 20;
/// Layers of one stack: what a top layer does not have is looked for in each layer below it.
pub const STACK_LAYERS_MAX: usize = 1024;
pub const BLOCKS_PER_CHUNK: u32 = CHUNK_BYTES / BLOCK_BYTES;
/// The smallest unit that a guest may write, in bytes.
pub const SECTOR_BYTES: u32 = 512;

/// A block of a chunk, `0..BLOCKS_PER_CHUNK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockIndex(pub u16);

/// A run of neighbouring blocks of one chunk; never empty, never past the chunk's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockRange {
    first: u16,
    count: u16,
}

impl BlockRange {
    /// `None` unless `1 <= count` and the run ends within the chunk.
    pub fn new(first: BlockIndex, count: u16) -> Option<BlockRange> {
        let end = u32::from(first.0) + u32::from(count);
        (count > 0 && end <= BLOCKS_PER_CHUNK).then_some(BlockRange { first: first.0, count })
    }

    /// The blocks that hold the bytes `offset..offset + len` of a chunk; `None` where that is empty or past its end.
    pub fn covering(offset: u32, len: u32) -> Option<BlockRange> {
        let end = offset.checked_add(len)?;
        if len == 0 || end > CHUNK_BYTES {
            return None;
        }
        let first = offset / BLOCK_BYTES;
        let last = (end - 1) / BLOCK_BYTES;
        BlockRange::new(BlockIndex(u16::try_from(first).ok()?), u16::try_from(last - first + 1).ok()?)
    }

    /// All blocks of a chunk.
    pub const WHOLE: BlockRange = BlockRange { first: 0, count: BLOCKS_PER_CHUNK as u16 };

    pub fn first(self) -> BlockIndex {
        BlockIndex(self.first)
    }

    pub fn count(self) -> u16 {
        self.count
    }

    /// One past the last block's index.
    pub fn end(self) -> u16 {
        self.first + self.count
    }

    pub fn bytes(self) -> u32 {
        u32::from(self.count) * BLOCK_BYTES
    }

    /// The offset of its first byte in the chunk.
    pub fn byte_offset(self) -> u32 {
        u32::from(self.first) * BLOCK_BYTES
    }

    pub fn overlaps(self, other: BlockRange) -> bool {
        self.first < other.end() && other.first < self.end()
    }

    pub fn contains(self, block: BlockIndex) -> bool {
        self.first <= block.0 && block.0 < self.end()
    }

    pub fn iter(self) -> impl Iterator<Item = BlockIndex> {
        (self.first..self.end()).map(BlockIndex)
    }
}

/// The part of a volume's byte range that falls into one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSlice {
    pub chunk: ChunkIndex,
    /// Byte offset in the chunk.
    pub offset: u32,
    /// Bytes; at least 1, at most [`CHUNK_BYTES`].
    pub len: u32,
    /// Where the slice begins in the range that was split, in bytes.
    pub position: u64,
}

/// Cuts the bytes `offset..offset + len` of a volume at chunk borders. The caller has checked the range against the
/// volume's size, which keeps chunk indexes within `u32`.
pub fn split_by_chunk(offset: u64, len: u64) -> impl Iterator<Item = ChunkSlice> {
    let end = offset.checked_add(len).expect("a range inside a volume does not wrap");
    let mut at = offset;
    std::iter::from_fn(move || {
        if at == end {
            return None;
        }
        let within = (at % u64::from(CHUNK_BYTES)) as u32;
        let take = u64::from(CHUNK_BYTES - within).min(end - at) as u32;
        let slice = ChunkSlice {
            chunk: ChunkIndex(u32::try_from(at / u64::from(CHUNK_BYTES)).expect("checked against the volume's size")),
            offset: within,
            len: take,
            position: at - offset,
        };
        at += u64::from(take);
        Some(slice)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_at_chunk_borders() {
        let slices: Vec<_> = split_by_chunk(u64::from(CHUNK_BYTES) - 512, 1024).collect();
        assert_eq!(slices.len(), 2);
        assert_eq!((slices[0].chunk.0, slices[0].offset, slices[0].len), (0, CHUNK_BYTES - 512, 512));
        assert_eq!((slices[1].chunk.0, slices[1].offset, slices[1].len, slices[1].position), (1, 0, 512, 512));
    }

    #[test]
    fn partial_blocks_are_covered_whole() {
        let range = BlockRange::covering(4095, 2).expect("inside the chunk");
        assert_eq!((range.first().0, range.count()), (0, 2));
        assert!(BlockRange::covering(CHUNK_BYTES - 1, 2).is_none());
        assert!(BlockRange::covering(0, 0).is_none());
    }
}
