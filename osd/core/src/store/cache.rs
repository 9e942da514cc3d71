//! Cache of index pages, by address, within a budget. CLOCK: a page that was used since the hand passed gets another round.
//! C1: a page is in the cache only as it is on disk; a freed address is forgotten before it is used again.

use crate::format::{BlockAddr, PAGE_BYTES};
use bytes::Bytes;
use std::collections::HashMap;

/// A page that was checked when it was read, or found damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CachedPage {
    Good(Bytes),
    Damaged,
}

#[derive(Debug)]
struct Place {
    addr: BlockAddr,
    page: CachedPage,
    is_used: bool,
}

#[derive(Debug)]
pub(super) struct PageCache {
    places: Vec<Place>,
    by_addr: HashMap<BlockAddr, usize>,
    hand: usize,
    places_max: usize,
}

impl PageCache {
    pub(super) fn new(bytes: u64) -> PageCache {
        let places_max = usize::try_from(bytes / PAGE_BYTES as u64).unwrap_or(usize::MAX).max(1);
        PageCache { places: Vec::new(), by_addr: HashMap::new(), hand: 0, places_max }
    }

    pub(super) fn is_full(&self) -> bool {
        self.places.len() >= self.places_max
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        (self.places.len() * (PAGE_BYTES + size_of::<Place>() + 24)) as u64
    }

    pub(super) fn get(&mut self, addr: BlockAddr) -> Option<CachedPage> {
        let place = &mut self.places[*self.by_addr.get(&addr)?];
        place.is_used = true;
        Some(place.page.clone())
    }

    pub(super) fn insert(&mut self, addr: BlockAddr, page: CachedPage) {
        if let Some(at) = self.by_addr.get(&addr) {
            self.places[*at].page = page;
            return;
        }
        let place = Place { addr, page, is_used: false };
        if self.places.len() < self.places_max {
            self.by_addr.insert(addr, self.places.len());
            self.places.push(place);
            return;
        }
        while self.places[self.hand].is_used {
            self.places[self.hand].is_used = false;
            self.hand = (self.hand + 1) % self.places.len();
        }
        self.by_addr.remove(&self.places[self.hand].addr);
        self.by_addr.insert(addr, self.hand);
        self.places[self.hand] = place;
        self.hand = (self.hand + 1) % self.places.len();
    }

    pub(super) fn remove(&mut self, addr: BlockAddr) {
        let Some(at) = self.by_addr.remove(&addr) else { return };
        self.places.swap_remove(at);
        if let Some(moved) = self.places.get(at) {
            self.by_addr.insert(moved.addr, at);
        }
        if self.hand >= self.places.len() {
            self.hand = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_used_and_no_more_than_its_budget() {
        let mut cache = PageCache::new(10 * PAGE_BYTES as u64);
        cache.insert(BlockAddr(1), CachedPage::Damaged);
        for addr in 2..100 {
            assert_eq!(cache.get(BlockAddr(1)), Some(CachedPage::Damaged));
            cache.insert(BlockAddr(addr), CachedPage::Good(Bytes::new()));
            if addr % 7 == 0 {
                cache.remove(BlockAddr(addr - 1));
                assert_eq!(cache.get(BlockAddr(addr - 1)), None);
            }
            assert!(cache.places.len() <= 10 && cache.by_addr.len() == cache.places.len());
        }
    }
}
