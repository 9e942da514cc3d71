//! Answers to the question which layer has what: told by an OSD as depths in the stack that the question named, given to the caller as layers; and what of
//! a large, mostly empty volume needn't be asked for at all.
//!
//! E1: a chunk is passed over only if its PG has said, while the request was under way, that no layer of the stack has anything there.

use super::base::Stretch;
use super::data::{DamagedReply, range_of};
use super::request::PartOutput;
use ashlar_types::view::place_chunk;
use ashlar_types::{BLOCK_BYTES, ChunkIndex, LayerExtent, LayerId, LayerPlace};
use ashlar_wire::LayerRun;
use std::collections::BTreeMap;

/// Parts of one question that are under way at a time: what the others know when they are made saves some of them.
pub(super) const PARTS_MAX: usize = 64;
/// Stretches after which an answer ends early, beside those of the parts that are under way then.
pub(super) const EXTENTS_MAX: usize = 64 << 10;

/// How chunks fall to PGs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement {
    pub(super) key: u64,
    pub(super) pg_count: u32,
}

impl Placement {
    fn pg(self, chunk: ChunkIndex) -> u32 {
        place_chunk(self.key, chunk, self.pg_count)
    }
}

/// What the PGs have told of chunks that were not asked for.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    /// By PG, the first chunk that may have something, of those behind the ones that were asked for. A PG that splits keeps some of its chunks and gets none.
    next: BTreeMap<u32, u64>,
}

impl Unwritten {
    pub(super) fn learn(&mut self, asked: ChunkIndex, next: Option<ChunkIndex>, placement: Placement) {
        let next = next.map_or(u64::MAX, |chunk| u64::from(chunk.0));
        let known = self.next.entry(placement.pg(asked)).or_default();
        *known = next.max(*known);
    }

    /// Of a chunk behind all that were asked for.
    pub(super) fn contains(&self, chunk: ChunkIndex, placement: Placement) -> bool {
        self.next.get(&placement.pg(chunk)).is_some_and(|next| u64::from(chunk.0) < *next)
    }
}

pub(super) fn in_no_layer(len: u64) -> LayerExtent {
    LayerExtent { len, layer: None, has_data: false }
}

/// The bytes `offset..offset + len` of a chunk, by an answer to a question with this stack.
pub(super) fn verified_layers(
    offset: u32,
    len: u32,
    runs: &[LayerRun],
    stack: &[LayerId],
) -> Result<Vec<LayerExtent>, DamagedReply> {
    let range = range_of(offset, len, runs.iter().map(|run| usize::from(run.count)).sum())?;
    let mut at = range.byte_offset();
    let mut extents = Vec::with_capacity(runs.len());
    for run in runs {
        let (start, end) = (at.max(offset), (at + u32::from(run.count) * BLOCK_BYTES).min(offset + len));
        at += u32::from(run.count) * BLOCK_BYTES;
        let layer = match run.depth.map(|depth| (depth, stack.get(usize::from(depth)))) {
            None => None,
            Some((depth, Some(id))) => Some(LayerPlace { id: *id, depth: depth.into() }),
            Some((_, None)) => return Err(DamagedReply::Layer { layers: stack.len() }),
        };
        extents.push(LayerExtent { len: u64::from(end - start), layer, has_data: run.has_data });
    }
    Ok(extents)
}

/// Leaves open what is in no layer: the base may have it.
pub(super) fn open_layers(offset: u32, extents: Vec<LayerExtent>) -> Vec<Stretch> {
    let mut at = offset;
    let stretch = |extent: LayerExtent| {
        let len = u32::try_from(extent.len).expect("inside a chunk");
        let offset = at;
        at += len;
        match extent.layer {
            Some(_) => Stretch::Own(PartOutput::Layers { extents: vec![extent], next: None }),
            None => Stretch::Base { offset, len },
        }
    };
    extents.into_iter().map(stretch).collect()
}

/// What the base has told of a stretch, below so many layers of the volume itself.
pub(super) fn below(layers: u32, mut extents: Vec<LayerExtent>) -> Vec<LayerExtent> {
    extents.iter_mut().filter_map(|extent| extent.layer.as_mut()).for_each(|layer| layer.depth += layers);
    extents
}

/// One list out of the lists of neighbouring parts; equal neighbours become one.
pub(super) fn join_layers(parts: impl IntoIterator<Item = Vec<LayerExtent>>) -> Vec<LayerExtent> {
    let mut joined: Vec<LayerExtent> = Vec::new();
    for extent in parts.into_iter().flatten() {
        match joined.last_mut() {
            Some(last) if (last.layer, last.has_data) == (extent.layer, extent.has_data) => last.len += extent.len,
            _ => joined.push(extent),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    const STACK: [LayerId; 2] = [LayerId(9), LayerId(4)];

    fn run(count: u16, depth: Option<u16>, has_data: bool) -> LayerRun {
        LayerRun { count, depth, has_data }
    }

    #[test]
    fn runs_become_extents_of_the_layers_that_the_question_named() {
        let runs = [run(1, Some(1), true), run(2, None, false), run(1, Some(0), false)];
        let extents = verified_layers(100, 4 * BLOCK_BYTES - 107, &runs, &STACK).expect("as many blocks as asked for");
        let place = |id, depth| Some(LayerPlace { id: LayerId(id), depth });
        let expected = [
            LayerExtent { len: 4096 - 100, layer: place(4, 1), has_data: true },
            in_no_layer(8192),
            LayerExtent { len: 4096 - 7, layer: place(9, 0), has_data: false },
        ];
        assert_eq!(extents, expected);
        assert_eq!(join_layers([extents.clone(), vec![in_no_layer(0)]]).len(), 4);
        let stretches = open_layers(100, extents);
        assert!(matches!(stretches[1], Stretch::Base { offset: 4096, len: 8192 }));
    }

    #[test]
    fn answers_with_other_blocks_or_layers_than_there_are_are_refused() {
        let short = verified_layers(0, 3 * BLOCK_BYTES, &[run(2, None, false)], &STACK);
        assert_eq!(short, Err(DamagedReply::BlockCount { expected: 3, found: 2 }));
        let deep = verified_layers(0, BLOCK_BYTES, &[run(1, Some(2), true)], &STACK);
        assert_eq!(deep, Err(DamagedReply::Layer { layers: 2 }));
    }

    #[test]
    fn chunks_are_passed_over_up_to_the_next_one_of_their_pg() {
        let placement = Placement { key: 5, pg_count: 4 };
        let of_pg = |pg| (0..1000).map(ChunkIndex).filter(move |chunk| placement.pg(*chunk) == pg);
        let chunks: Vec<ChunkIndex> = of_pg(2).collect();
        let mut unwritten = Unwritten::default();
        assert!(!unwritten.contains(chunks[1], placement));
        unwritten.learn(chunks[0], Some(chunks[10]), placement);
        assert!(chunks[1..10].iter().all(|chunk| unwritten.contains(*chunk, placement)));
        assert!(!unwritten.contains(chunks[10], placement));
        assert!(of_pg(1).all(|chunk| !unwritten.contains(chunk, placement)), "of others it says nothing");
        unwritten.learn(chunks[10], None, placement);
        assert!(chunks[11..].iter().all(|chunk| unwritten.contains(*chunk, placement)));
        unwritten.learn(chunks[3], Some(chunks[5]), placement);
        assert!(unwritten.contains(chunks[11], placement), "an answer that comes late");
    }
}
