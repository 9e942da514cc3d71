//! Content: the bytes of one file, twice: as running processes see them, and as they are on stable storage.
//! Between the two lie *versions*: what each unsynced write made of a page. C1: a page without versions is the same in both.
//! C2: in both, bytes past the size are zero. C3: a page that is zero is not stored, so sparse files cost nothing.
//! Pages are shared between the images, so a sync copies pointers and a write copies at most one page per page touched.

use crate::fate::{Fate, WriteFate};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

pub(crate) const SECTOR_BYTES: usize = 512;
pub(crate) const PAGE_BYTES: usize = 4096;
/// More versions of one page are merged from the oldest on: a log appended to in small steps and never synced would
/// otherwise keep a page per step.
const VERSIONS_MAX: usize = 8;
/// More remembered sizes are forgotten from the oldest on; it only takes away candidates for the size after a loss.
const RESIZES_MAX: usize = 1024;

/// `None`: zeroes.
type Page = Option<Arc<[u8]>>;

/// What one unsynced write made of one page.
#[derive(Debug)]
struct Version {
    write: u64,
    /// The sectors it wrote.
    sectors: u8,
    /// The whole page as it was after the write; only `sectors` of it count.
    page: Page,
}

#[derive(Debug, Default)]
struct Slot {
    now: Page,
    durable: Page,
    /// Oldest first.
    versions: Vec<Version>,
}

#[derive(Clone, Copy, Debug)]
struct Resize {
    write: u64,
    to: u64,
    shrinks: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Content {
    slots: BTreeMap<u64, Slot>,
    /// The pages that have versions.
    dirty: BTreeSet<u64>,
    size: u64,
    durable_size: u64,
    resizes: VecDeque<Resize>,
}

/// What a loss did to one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContentLoss {
    pub kept: u64,
    pub dropped: u64,
    pub torn: u64,
    pub unsynced_bytes: u64,
    pub lost_bytes: u64,
}

impl Content {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that occupy memory, counted once for both images.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.slots.len() as u64 * PAGE_BYTES as u64
    }

    /// By how much a write there would raise [`stored_bytes`](Self::stored_bytes) at most.
    pub(crate) fn bytes_added_by(&self, offset: u64, len: u64) -> u64 {
        let pages = pages_of(offset, len).filter(|(page, _, _)| !self.slots.contains_key(page));
        pages.count() as u64 * PAGE_BYTES as u64
    }

    /// Bytes, in whole sectors, that a power loss may take.
    pub(crate) fn unsynced_bytes(&self) -> u64 {
        let sectors: u64 = self.dirty.iter().map(|page| u64::from(self.slots[page].unsynced().count_ones())).sum();
        sectors * SECTOR_BYTES as u64
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.dirty.is_empty() && self.resizes.is_empty()
    }

    pub(crate) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let len = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
        let mut bytes = Vec::with_capacity(len);
        for (page, from, to) in pages_of(offset, len as u64) {
            match self.slots.get(&page).and_then(|slot| slot.now.as_deref()) {
                Some(stored) => bytes.extend_from_slice(&stored[from..to]),
                None => bytes.resize(bytes.len() + (to - from), 0),
            }
        }
        bytes
    }

    pub(crate) fn write(&mut self, write: u64, offset: u64, data: &[u8]) {
        let mut rest = data;
        for (page, from, to) in pages_of(offset, data.len() as u64) {
            let (piece, tail) = rest.split_at(to - from);
            rest = tail;
            self.put(write, page, from, to, Some(piece));
        }
        self.grow(write, offset + data.len() as u64);
    }

    /// The range reads as zeroes afterwards; the size stays. Costs only what is stored there.
    pub(crate) fn zero(&mut self, write: u64, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.size);
        if offset >= end {
            return;
        }
        let pages = offset / PAGE_BYTES as u64..=(end - 1) / PAGE_BYTES as u64;
        let stored: Vec<u64> = self.slots.range(pages).map(|(page, _)| *page).collect();
        for page in stored {
            let start = page * PAGE_BYTES as u64;
            let from = offset.saturating_sub(start) as usize;
            let to = (end - start).min(PAGE_BYTES as u64) as usize;
            self.put(write, page, from, to, None);
        }
    }

    pub(crate) fn grow(&mut self, write: u64, to: u64) {
        if to > self.size {
            self.resize(Resize { write, to, shrinks: false });
        }
    }

    pub(crate) fn truncate(&mut self, write: u64, to: u64) {
        if to < self.size {
            self.zero(write, to, self.size - to);
            self.resize(Resize { write, to, shrinks: true });
        } else {
            self.grow(write, to);
        }
    }

    fn resize(&mut self, resize: Resize) {
        self.size = resize.to;
        self.resizes.push_back(resize);
        if self.resizes.len() > RESIZES_MAX && !self.resizes[0].shrinks && !self.resizes[1].shrinks {
            self.resizes.pop_front();
        }
    }

    /// Writes `piece`, or zeroes, to the bytes `from..to` of a page.
    fn put(&mut self, write: u64, page: u64, from: usize, to: usize, piece: Option<&[u8]>) {
        let slot = self.slots.entry(page).or_default();
        let new: Page = match piece {
            None if to - from == PAGE_BYTES => None,
            Some(whole) if whole.len() == PAGE_BYTES => stored(whole),
            _ => {
                let mut bytes = [0; PAGE_BYTES];
                if let Some(old) = slot.now.as_deref() {
                    bytes.copy_from_slice(old);
                }
                match piece {
                    Some(piece) => bytes[from..to].copy_from_slice(piece),
                    None => bytes[from..to].fill(0),
                }
                stored(&bytes)
            }
        };
        slot.now = new.clone();
        slot.push(Version { write, sectors: sectors_of(from, to), page: new });
        self.dirty.insert(page);
    }

    /// All bytes and the size become durable.
    pub(crate) fn sync(&mut self) {
        for page in std::mem::take(&mut self.dirty) {
            let slot = self.slots.get_mut(&page).expect("C1: a dirty page has a slot");
            slot.durable = slot.now.clone();
            slot.versions.clear();
            if slot.now.is_none() {
                self.slots.remove(&page);
            }
        }
        self.durable_size = self.size;
        self.resizes.clear();
    }

    /// What O_DSYNC asks for: these bytes, and as much of the size as is needed to read them, become durable. Other
    /// unsynced writes stay so, except that a pending truncation takes everything with it: they share the inode.
    pub(crate) fn sync_range(&mut self, offset: u64, len: u64) {
        if self.resizes.iter().any(|resize| resize.shrinks) {
            return self.sync();
        }
        for (page, from, to) in pages_of(offset, len) {
            let Some(slot) = self.slots.get_mut(&page) else { continue };
            let sectors = sectors_of(from, to);
            slot.durable = overlay(&slot.durable, &slot.now, sectors);
            for version in &mut slot.versions {
                version.sectors &= !sectors;
            }
            slot.versions.retain(|version| version.sectors != 0);
            if slot.versions.is_empty() {
                self.dirty.remove(&page);
                if slot.now.is_none() {
                    self.slots.remove(&page);
                }
            }
        }
        self.durable_size = self.durable_size.max(offset + len);
        let durable_size = self.durable_size;
        self.resizes.retain(|resize| resize.to > durable_size);
    }

    /// The power fails: what survives becomes both images.
    ///
    /// Of several surviving writes to a sector the newest wins, since a cache holds one version of it; any of them may
    /// be the newest that survived. A size change survives on its own: without the data (the file ends in zeroes, as
    /// after a crash on XFS), or the data without it (cut off). A truncation that did not survive takes all later writes
    /// to the file with it: the blocks they went to were not the file's yet.
    pub(crate) fn lose(&mut self, fate: &Fate) -> ContentLoss {
        let mut loss = ContentLoss { unsynced_bytes: self.unsynced_bytes(), ..ContentLoss::default() };
        let shrunk: BTreeSet<u64> = self.resizes.iter().filter(|r| r.shrinks).map(|r| r.write).collect();
        let end_of_history = shrunk.iter().copied().find(|&write| !fate.coin(write)).unwrap_or(u64::MAX);
        let size = self.surviving_size(fate, end_of_history);

        let mut writes = BTreeMap::new();
        for page in std::mem::take(&mut self.dirty) {
            let slot = self.slots.get_mut(&page).expect("C1: a dirty page has a slot");
            let mut survivor = slot.durable.clone();
            for version in std::mem::take(&mut slot.versions) {
                let fate_of_write = if version.write >= end_of_history {
                    WriteFate::Dropped
                } else if shrunk.contains(&version.write) {
                    WriteFate::Kept
                } else {
                    fate.of_write(version.write)
                };
                writes.insert(version.write, fate_of_write);
                let sectors = match fate_of_write {
                    WriteFate::Kept => version.sectors,
                    WriteFate::Dropped => 0,
                    WriteFate::Torn => version.sectors & fate.torn_sectors(version.write, page),
                };
                survivor = overlay(&survivor, &version.page, sectors);
            }
            let survivor = cut_off(survivor, size.saturating_sub(page * PAGE_BYTES as u64));
            loss.lost_bytes += differing_sectors(&slot.now, &survivor) * SECTOR_BYTES as u64;
            slot.durable = survivor.clone();
            slot.now = survivor;
            if slot.now.is_none() {
                self.slots.remove(&page);
            }
        }
        self.size = size;
        self.durable_size = size;
        self.resizes.clear();
        for fate_of_write in writes.into_values() {
            match fate_of_write {
                WriteFate::Kept => loss.kept += 1,
                WriteFate::Dropped => loss.dropped += 1,
                WriteFate::Torn => loss.torn += 1,
            }
        }
        loss
    }

    fn surviving_size(&self, fate: &Fate, end_of_history: u64) -> u64 {
        let mut size = self.durable_size;
        for resize in self.resizes.iter().take_while(|resize| resize.write < end_of_history) {
            if resize.shrinks {
                size = resize.to;
            } else if fate.coin(resize.write) {
                size = size.max(resize.to);
            }
        }
        size
    }
}

impl Slot {
    fn unsynced(&self) -> u8 {
        self.versions.iter().fold(0, |sectors, version| sectors | version.sectors)
    }

    fn push(&mut self, version: Version) {
        if self.versions.len() == VERSIONS_MAX {
            // The next version's page holds the same sectors, or newer ones: nothing is lost but a choice.
            let oldest = self.versions.remove(0);
            self.versions[0].sectors |= oldest.sectors;
        }
        self.versions.push(version);
    }
}

/// The pages that a byte range touches, with the range's part in each.
fn pages_of(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let page_bytes = PAGE_BYTES as u64;
    let end = offset.saturating_add(len);
    let pages = offset / page_bytes..end.div_ceil(page_bytes).max(offset / page_bytes);
    pages.map(move |page| {
        let start = page * page_bytes;
        (page, offset.saturating_sub(start) as usize, (end - start).min(page_bytes) as usize)
    })
}

/// The sectors that the bytes `from..to` of a page touch.
fn sectors_of(from: usize, to: usize) -> u8 {
    (from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES)).fold(0, |sectors, sector| sectors | 1 << sector)
}

fn stored(bytes: &[u8]) -> Page {
    bytes.iter().any(|&byte| byte != 0).then(|| Arc::from(bytes))
}

/// `base` with some sectors taken from `top`.
fn overlay(base: &Page, top: &Page, sectors: u8) -> Page {
    match sectors {
        0 => base.clone(),
        0xff => top.clone(),
        _ => {
            let mut bytes = [0; PAGE_BYTES];
            if let Some(base) = base.as_deref() {
                bytes.copy_from_slice(base);
            }
            for sector in (0..8).filter(|sector| sectors & 1 << sector != 0) {
                let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                match top.as_deref() {
                    Some(top) => bytes[range.clone()].copy_from_slice(&top[range]),
                    None => bytes[range].fill(0),
                }
            }
            stored(&bytes)
        }
    }
}

/// The page with everything from `len` on zeroed (C2).
fn cut_off(page: Page, len: u64) -> Page {
    match page {
        Some(page) if len < PAGE_BYTES as u64 => {
            let mut bytes = page.to_vec();
            bytes[len as usize..].fill(0);
            stored(&bytes)
        }
        page => page,
    }
}

fn differing_sectors(a: &Page, b: &Page) -> u64 {
    const ZEROES: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
    let a = a.as_deref().unwrap_or(&ZEROES);
    let b = b.as_deref().unwrap_or(&ZEROES);
    let pairs = a.chunks(SECTOR_BYTES).zip(b.chunks(SECTOR_BYTES));
    pairs.filter(|(a, b)| a != b).count() as u64
}

#[cfg(test)]
#[path = "content/tests.rs"]
mod tests;
