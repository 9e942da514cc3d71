//! The way from a disk of a chain of clones down to where its blocks are, by presence maps (D3, D4 in the module above).

use super::super::presence::Map;
use super::{BaseDisk, IN_CHUNK};
use crate::core::{Level, Place, place};
use std::sync::Arc;

/// The disks of a chain from one on down, as far as the maps of a chunk lead.
pub(super) struct Route<'a> {
    pub(super) chunk: u64,
    /// Not empty. All but the last have maps.
    pub(super) disks: Vec<(&'a Arc<BaseDisk>, Option<Arc<Map>>)>,
}

impl<'a> Route<'a> {
    pub(super) fn new(top: &'a Arc<BaseDisk>, chunk: u64) -> Route<'a> {
        let mut route = Route { chunk, disks: Vec::new() };
        let mut next = Some(top);
        while let Some(disk) = next {
            let stack = disk.volume.stack();
            // D4.
            let has_map = stack.has_base || !route.disks.is_empty();
            let map = if has_map { disk.maps.get(disk.layer, chunk, stack) } else { None };
            next = disk.below.as_ref().filter(|_| map.as_ref().is_some_and(|map| map.stack.has_base));
            route.disks.push((disk, map));
        }
        route
    }

    /// Where each block from `first` to before `end` is read.
    pub(super) fn places(&self, first: u64, end: u64) -> Vec<Place> {
        let levels: Vec<Level<'_>> = self.disks.iter().map(|(disk, map)| disk.level(map.as_deref())).collect();
        let place = |block| {
            // A read is of one part, so of one chunk; of others nothing is known here.
            if block / IN_CHUNK == self.chunk { place(&levels, block) } else { Place::Level(0) }
        };
        (first..end).map(place).collect()
    }

    /// Nothing is known of the first disk, and it stands on something.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.disks[..], [(disk, None)] if disk.volume.stack().has_base)
    }

    pub(super) fn disk(&self, level: usize) -> &'a Arc<BaseDisk> {
        self.disks[level].0
    }

    /// Asks for the maps that are missing: of the last disk, and of all those below it.
    pub(super) fn ask_for_maps(&self) {
        let Some((disk, None)) = self.disks.last() else { return };
        if self.disks.len() == 1 && !self.is_open() {
            // D4.
            return;
        }
        if !disk.ask_for_maps(self.chunk) {
            // On its way, and so are the others.
            return;
        }
        let (mut more, others) = disk.lock().ahead.on_missing(self.chunk);
        for chunk in others {
            if more > 0 && disk.ask_for_maps(chunk) {
                more -= 1;
            }
        }
    }
}
