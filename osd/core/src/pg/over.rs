//! Requests for a volume that stands on a base, a layer of another volume that this PG doesn't have (a linked clone, design.md §6): what was never written
//! is the base's, and only the client can get it from there. So a read says which blocks that are, and a write that covers such a block partly brings the
//! base's block along, used only if the block is still unwritten when the write's turn comes.

use super::write::edges;
use ashlar_types::{BLOCK_BYTES, BlockIndex, BlockRange, Crc, Version};
use ashlar_wire::{BlockState, IoRequest};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Of a request over a base the base's blocks that came with it; `None` where there is no base, and what is unwritten reads as zeroes.
pub(super) type Over = Option<BTreeMap<BlockIndex, Bytes>>;

/// The blocks of a base as they came with a request.
#[derive(Debug, Default)]
pub(super) struct SentBase {
    crcs: Vec<Crc>,
    data: Bytes,
    indexes: Vec<BlockIndex>,
}

/// Cuts the base's blocks off the end of the payload; `None`: it is shorter than they are.
pub(super) fn split(request: &mut IoRequest, crcs: Vec<Crc>) -> Option<SentBase> {
    if crcs.is_empty() {
        return Some(SentBase::default());
    }
    let at = request.payload.len().checked_sub(crcs.len() * BLOCK_BYTES as usize)?;
    let data = request.payload.split_off(at);
    let range = BlockRange::covering(request.offset, request.len);
    let writes = request.kind.is_write();
    let indexes = range.filter(|_| writes).map(|range| edges(request, range).into_iter().collect());
    Some(SentBase { crcs, data, indexes: indexes.unwrap_or_default() })
}

impl SentBase {
    /// Whether it is there for all blocks that need it, and for no others; or not at all.
    pub(super) fn fits(&self) -> bool {
        self.crcs.is_empty() || self.crcs.len() == self.indexes.len()
    }

    pub(super) fn is_undamaged(&self) -> bool {
        self.data.chunks_exact(BLOCK_BYTES as usize).map(Crc::of).eq(self.crcs.iter().copied())
    }

    pub(super) fn into_blocks(self) -> BTreeMap<BlockIndex, Bytes> {
        let block = BLOCK_BYTES as usize;
        let data = (0..self.indexes.len()).map(|at| self.data.slice(at * block..(at + 1) * block));
        self.indexes.iter().copied().zip(data).collect()
    }
}

/// The blocks of a range that no layer was ever written in, as runs.
pub(super) fn unwritten(range: BlockRange, states: &[BlockState]) -> Vec<BlockRange> {
    let mut runs = Vec::new();
    let mut at = range.first().0;
    for run in states.chunk_by(|a, b| (a.stamp == Version::NONE) == (b.stamp == Version::NONE)) {
        let count = u16::try_from(run.len()).expect("a chunk has fewer blocks");
        if run[0].stamp == Version::NONE {
            runs.extend(BlockRange::new(BlockIndex(at), count));
        }
        at += count;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unwritten_is_told_in_runs() {
        let state = |seq| BlockState { stamp: Version::from_bits(seq), crc: None };
        let range = BlockRange::new(BlockIndex(7), 6).expect("inside");
        let states = [state(0), state(0), state(3), state(0), state(4), state(5)];
        let runs: Vec<_> = unwritten(range, &states).iter().map(|r| (r.first().0, r.count())).collect();
        assert_eq!(runs, [(7, 2), (10, 1)]);
    }
}
