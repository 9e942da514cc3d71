//! The resolved index of stacks of layers: for the blocks of a quarter of a chunk, which of the layers below the top one has them first. So a read
//! costs the same however many layers it goes through. Made from what index pages say while they are in memory, as far down as they are; kept
//! within a budget and never on disk.
//!
//! X1: a map says what the layers that it has taken in say now: whatever is prepared, changed or dropped in one of their chunks forgets the map, and
//! nothing is taken in of a chunk with a write that is prepared. X2: what no layer taken in has is unknown, never absent, while there are
//! more below.

use super::cache::{CachedPage, PageCache};
use super::state::State;
use crate::format::index_page::{SLOTS, Slot, slot_of};
use ashlar_types::{BlockIndex, BlockRange, ChunkId, ChunkIndex, LayerId, PgId, Version};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Stacks with fewer layers below the top one are as fast without.
const LAYERS_MIN: usize = 2;
/// In no layer so far.
const UNKNOWN: u16 = u16::MAX;

/// The stack by its first layer below the top one.
type Key = (PgId, ChunkIndex, u8, LayerId);

#[derive(Debug)]
struct Map {
    below: Arc<[LayerId]>,
    /// How many of them are taken in, from the first.
    taken_in: usize,
    /// For each block which of them has it.
    layers: Box<[u16; SLOTS]>,
    unknown: u16,
    is_used: bool,
}

/// What a map takes, about.
const MAP_BYTES: u64 = (SLOTS * 2 + size_of::<(Key, Map)>() + 16) as u64;

fn quarter_of(block: &BlockIndex) -> u8 {
    (usize::from(block.0) / SLOTS) as u8
}

/// Where a read through a stack has to look next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextBelow {
    /// Which of the layers below the top one.
    pub nth: usize,
    /// From the first to the last of the wanted blocks that it may have.
    pub range: BlockRange,
    /// The first of them is in this layer, as far as is known.
    pub is_resolved: bool,
}

#[derive(Debug, Default)]
pub(super) struct Resolved {
    maps: BTreeMap<Key, Map>,
    maps_max: usize,
    /// Those up to here were looked at last when room was needed (CLOCK).
    hand: Option<Key>,
}

impl Resolved {
    pub(super) fn new(bytes: u64) -> Resolved {
        let maps_max = usize::try_from(bytes / MAP_BYTES).unwrap_or(usize::MAX).max(1);
        Resolved { maps: BTreeMap::new(), maps_max, hand: None }
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.maps.len() as u64 * MAP_BYTES
    }

    /// X1
    pub(super) fn forget(&mut self, pg: PgId, chunk: ChunkId) {
        if self.maps.is_empty() {
            return;
        }
        let of_index = (pg, chunk.index, 0, LayerId(0))..=(pg, chunk.index, u8::MAX, LayerId(u64::MAX));
        let has_it = |map: &Map| map.below.contains(&chunk.layer);
        let stale: Vec<Key> = self.maps.range(of_index).filter(|(_, map)| has_it(map)).map(|(key, _)| *key).collect();
        for key in stale {
            self.maps.remove(&key);
        }
    }

    fn make_room(&mut self) {
        while self.maps.len() >= self.maps_max.max(1) {
            use std::ops::Bound::{Excluded, Unbounded};
            let behind = self.hand.map_or(Unbounded, Excluded);
            self.hand = self.maps.range((behind, Unbounded)).next().map(|(key, _)| *key);
            let Some(key) = self.hand else { continue };
            let map = self.maps.get_mut(&key).expect("it was just found");
            if !std::mem::take(&mut map.is_used) {
                self.maps.remove(&key);
            }
        }
    }

    /// The map of a quarter, with all that can be known of it now.
    fn map(&mut self, stack: &Stack<'_>, quarter: u8, cache: &mut PageCache) -> &Map {
        let key = (stack.pg, stack.index, quarter, stack.below[0]);
        let is_fit = |map: &Map| Arc::ptr_eq(&map.below, stack.below) || map.below == *stack.below;
        if !self.maps.get(&key).is_some_and(is_fit) {
            self.maps.remove(&key);
            self.make_room();
            self.maps.insert(key, Map::new(stack.below.clone()));
        }
        let map = self.maps.get_mut(&key).expect("it is there or was just made");
        map.is_used = true;
        while map.taken_in < map.below.len() && map.take_in(stack, quarter, cache) {}
        map
    }
}

/// The layers that a read goes through below the top one.
pub(super) struct Stack<'a> {
    pub state: &'a State,
    pub pg: PgId,
    pub below: &'a Arc<[LayerId]>,
    pub index: ChunkIndex,
}

impl Stack<'_> {
    fn chunk(&self, nth: usize) -> ChunkId {
        ChunkId { layer: self.below[nth], index: self.index }
    }

    /// The first layer from there on that has anything in the chunk, or is about to.
    fn first_with_any(&self, from: usize) -> Option<usize> {
        let has_any = |nth: &usize| self.state.versions(self.pg, self.chunk(*nth)).newest != Version::NONE;
        (from..self.below.len()).find(has_any)
    }

    /// Of `wanted`, in order, which none of the first `from` layers has: where the first of the others may be that has any. `None`: none has.
    pub(super) fn next(
        &self,
        resolved: &mut Resolved,
        cache: &mut PageCache,
        from: usize,
        wanted: impl Iterator<Item = BlockIndex>,
    ) -> Option<NextBelow> {
        let uses_maps = self.below.len() >= LAYERS_MIN;
        let mut found: Option<(usize, u16, u16, bool)> = None;
        let mut wanted = wanted.peekable();
        while let Some(quarter) = wanted.peek().map(quarter_of) {
            let map = if uses_maps { Some(resolved.map(self, quarter, cache)) } else { None };
            let unresolved = self.first_with_any(from.max(map.map_or(0, |map| map.taken_in)));
            while let Some(BlockIndex(block)) = wanted.next_if(|block| quarter_of(block) == quarter) {
                let layer = map.map(|map| map.layers[usize::from(block) % SLOTS]).filter(|layer| *layer != UNKNOWN);
                let Some(nth) = layer.map_or(unresolved, |layer| Some(from.max(layer.into()))) else { continue };
                found = match found {
                    Some((best, first, _, is_resolved)) if best == nth => Some((best, first, block, is_resolved)),
                    Some(better) if better.0 < nth => Some(better),
                    _ => Some((nth, block, block, layer.is_some())),
                };
            }
        }
        let (nth, first, last, is_resolved) = found?;
        let range = BlockRange::new(BlockIndex(first), last - first + 1).expect("blocks of one chunk in order");
        Some(NextBelow { nth, range, is_resolved })
    }
}

impl Map {
    fn new(below: Arc<[LayerId]>) -> Map {
        Map { below, taken_in: 0, layers: Box::new([UNKNOWN; SLOTS]), unknown: SLOTS as u16, is_used: false }
    }

    /// Takes in the next layer; false where it cannot be known now what it has.
    fn take_in(&mut self, stack: &Stack<'_>, quarter: u8, cache: &mut PageCache) -> bool {
        if self.unknown == 0 {
            self.taken_in = self.below.len();
            return true;
        }
        let (nth, chunk) = (self.taken_in, stack.chunk(self.taken_in));
        let Ok(layer) = u16::try_from(nth) else { return false };
        let Some(mem) = stack.state.pgs.get(&stack.pg) else { return false };
        if layer == UNKNOWN || mem.prepared_of(chunk).next().is_some() {
            return false;
        }
        let Some(view) = stack.state.view(stack.pg, chunk, quarter).filter(|view| !view.is_empty()) else {
            self.taken_in += 1;
            return true;
        };
        let page = match view.page.is_none() {
            true => None,
            false => match cache.get(view.page.addr()) {
                Some(CachedPage::Good(bytes)) => Some(bytes),
                Some(CachedPage::Damaged) | None => return false,
            },
        };
        let mut has = [false; SLOTS];
        for (slot, has) in has.iter_mut().enumerate().filter(|(slot, _)| self.layers[*slot] == UNKNOWN) {
            let in_page = || page.as_ref().map_or(Slot::Never, |bytes| slot_of(bytes, slot));
            *has = match view.get(slot as u8).unwrap_or_else(in_page) {
                Slot::Never => false,
                Slot::Absent { .. } | Slot::Present { .. } => true,
                Slot::Lost => return false,
            };
        }
        for (known, _) in self.layers.iter_mut().zip(has).filter(|(_, has)| *has) {
            *known = layer;
            self.unknown -= 1;
        }
        self.taken_in += 1;
        true
    }
}
