//! Index page: what a quarter of a chunk (256 blocks) looks like: where each block is, its CRC and the version that wrote it.

use super::codec::{check_zero, pack_version, put_u32_at, put_u64_at, u32_at, u64_at, unpack_version};
use super::{BlockAddr, FormatError, Identity, PAGE_BYTES, prefix};
use ashlar_types::{BLOCKS_PER_CHUNK, ChunkId, ChunkIndex, Crc, LayerId, Version};

pub const MAGIC: u64 = u64::from_le_bytes(*b"ASHLindx");
/// Blocks of a chunk that one page describes.
pub const SLOTS: usize = 256;
/// Pages of a chunk.
pub const QUARTERS: usize = BLOCKS_PER_CHUNK as usize / SLOTS;

pub(super) const LAYER_AT: usize = prefix::PREFIX_BYTES;
pub(super) const CHUNK_AT: usize = 48;
pub(super) const QUARTER_AT: usize = 52;
pub(super) const CHECKPOINT_AT: usize = 56;
const END: usize = 64;
pub(super) const ENTRIES_AT: usize = 256;
pub(super) const ENTRY_BYTES: usize = 15;
const _: () = assert!(ENTRIES_AT + SLOTS * ENTRY_BYTES == PAGE_BYTES && END <= ENTRIES_AT && QUARTERS == 4);

/// What is known of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Slot {
    /// Never written; reads as zeroes.
    #[default]
    Never,
    /// Zeroed by the write `stamp`; reads as zeroes.
    Absent {
        stamp: Version,
    },
    Present {
        addr: BlockAddr,
        crc: Crc,
        stamp: Version,
    },
    /// The page that said so was damaged: neither its state nor its data is known. Never answered from.
    Lost,
}

impl Slot {
    pub fn addr(self) -> Option<BlockAddr> {
        match self {
            Slot::Present { addr, .. } => Some(addr),
            Slot::Never | Slot::Absent { .. } | Slot::Lost => None,
        }
    }

    fn encode(self) -> [u8; ENTRY_BYTES] {
        let (addr, flags, crc, stamp) = match self {
            Slot::Never => (0, NEVER, 0, Version::NONE),
            Slot::Absent { stamp } => (0, ABSENT, 0, stamp),
            Slot::Present { addr, crc, stamp } => {
                assert!(addr <= BlockAddr::MAX && !addr.is_none(), "an address fits its entry");
                (addr.0, PRESENT, crc.0, stamp)
            }
            Slot::Lost => (0, LOST, 0, Version::NONE),
        };
        let mut entry = [0; ENTRY_BYTES];
        entry[..5].copy_from_slice(&(addr | flags << 36).to_le_bytes()[..5]);
        entry[5..9].copy_from_slice(&crc.to_le_bytes());
        entry[9..].copy_from_slice(&pack_version(stamp).to_le_bytes()[..6]);
        entry
    }

    fn decode(entry: &[u8; ENTRY_BYTES]) -> Result<Slot, FormatError> {
        let (mut low, mut high) = ([0; 8], [0; 8]);
        low[..5].copy_from_slice(&entry[..5]);
        high[..6].copy_from_slice(&entry[9..]);
        let (word, crc) = (u64::from_le_bytes(low), u32_at(entry, 5));
        let (addr, flags) = (word & BlockAddr::MAX.0, word >> 36);
        let stamp = unpack_version(u64::from_le_bytes(high));
        match (flags, addr, crc) {
            (NEVER, 0, 0) if stamp == Version::NONE => Ok(Slot::Never),
            (LOST, 0, 0) if stamp == Version::NONE => Ok(Slot::Lost),
            (ABSENT, 0, 0) => Ok(Slot::Absent { stamp }),
            (PRESENT, 1.., _) => Ok(Slot::Present { addr: BlockAddr(addr), crc: Crc(crc), stamp }),
            _ => Err(FormatError::Invalid("an index entry that contradicts itself")),
        }
    }
}

const NEVER: u64 = 0;
const ABSENT: u64 = 1;
const PRESENT: u64 = 2;
const LOST: u64 = 3;

/// Which page it is. `checkpoint` tells a page from its own predecessor at the same place, whose rewriting was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagePlace {
    pub chunk: ChunkId,
    pub quarter: u8,
    pub checkpoint: u64,
}

/// The part of a checkpoint's number that the directory keeps of each page.
pub const CHECKPOINT_MASK: u64 = (1 << 28) - 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexPage {
    pub place: PagePlace,
    pub slots: Box<[Slot; SLOTS]>,
}

impl IndexPage {
    pub fn encode(&self, identity: Identity, page: &mut [u8]) {
        assert_eq!(page.len(), PAGE_BYTES, "a page");
        page[..ENTRIES_AT].fill(0);
        put_u64_at(page, LAYER_AT, self.place.chunk.layer.0);
        put_u32_at(page, CHUNK_AT, self.place.chunk.index.0);
        put_u32_at(page, QUARTER_AT, u32::from(self.place.quarter));
        put_u64_at(page, CHECKPOINT_AT, self.place.checkpoint);
        for (entry, slot) in page[ENTRIES_AT..].chunks_exact_mut(ENTRY_BYTES).zip(self.slots.iter()) {
            entry.copy_from_slice(&slot.encode());
        }
        prefix::seal(page, MAGIC, identity);
    }

    /// The page of this chunk and quarter; of `checkpoint`, only the bits of [`CHECKPOINT_MASK`] are compared.
    pub fn decode(page: &[u8], identity: Identity, place: PagePlace) -> Result<IndexPage, FormatError> {
        let found = IndexPage::decode_any(page, identity)?;
        let same = |what, expected: u64, found: u64| {
            if expected == found { Ok(()) } else { Err(FormatError::Place { what, expected, found }) }
        };
        same("layer", place.chunk.layer.0, found.place.chunk.layer.0)?;
        same("chunk", place.chunk.index.0.into(), found.place.chunk.index.0.into())?;
        same("quarter", place.quarter.into(), found.place.quarter.into())?;
        same("checkpoint", place.checkpoint & CHECKPOINT_MASK, found.place.checkpoint & CHECKPOINT_MASK)?;
        Ok(found)
    }

    /// Any index page of this disk.
    pub fn decode_any(page: &[u8], identity: Identity) -> Result<IndexPage, FormatError> {
        let page = page.get(..PAGE_BYTES).ok_or(FormatError::Short { need: PAGE_BYTES, have: page.len() })?;
        prefix::open(page, MAGIC, identity)?;
        check_zero(&page[END..ENTRIES_AT])?;
        let quarter = u32_at(page, QUARTER_AT);
        if quarter as usize >= QUARTERS {
            return Err(FormatError::Invalid("a chunk has four quarters"));
        }
        let mut slots = Box::new([Slot::Never; SLOTS]);
        for (entry, slot) in page[ENTRIES_AT..].chunks_exact(ENTRY_BYTES).zip(slots.iter_mut()) {
            *slot = Slot::decode(entry.try_into().expect("chunks_exact"))?;
        }
        let place = PagePlace {
            chunk: ChunkId { layer: LayerId(u64_at(page, LAYER_AT)), index: ChunkIndex(u32_at(page, CHUNK_AT)) },
            quarter: quarter as u8,
            checkpoint: u64_at(page, CHECKPOINT_AT),
        };
        Ok(IndexPage { place, slots })
    }
}

/// One entry of a page whose bytes were checked when they were read.
pub fn slot_of(page: &[u8], slot: usize) -> Slot {
    let at = ENTRIES_AT + slot * ENTRY_BYTES;
    Slot::decode(page[at..at + ENTRY_BYTES].try_into().expect("an entry"))
        .expect("the page was checked when it was read")
}
