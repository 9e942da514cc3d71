//! Directory page: up to 70 neighbouring chunks of one PG: their versions and where their index pages are.

use super::codec::{check_zero, put_u16_at, put_u32_at, put_u64_at, u16_at, u32_at, u64_at};
use super::index_page::{CHECKPOINT_MASK, QUARTERS};
use super::{BlockAddr, FormatError, Identity, PAGE_BYTES, prefix};
use ashlar_types::{ChunkId, ChunkIndex, Crc, LayerId, PgId, PoolId, Version};

pub const MAGIC: u64 = u64::from_le_bytes(*b"ASHLdirp");
/// Chunks in a page.
pub const ENTRIES_MAX: usize = 70;

pub(super) const POOL_AT: usize = prefix::PREFIX_BYTES;
pub(super) const PG_AT: usize = 44;
pub(super) const CHECKPOINT_AT: usize = 48;
pub(super) const COUNT_AT: usize = 56;
const END: usize = 58;
pub(super) const ENTRIES_AT: usize = 128;
pub(super) const ENTRY_BYTES: usize = 56;
const _: () = assert!(ENTRIES_AT + ENTRIES_MAX * ENTRY_BYTES <= PAGE_BYTES && END <= ENTRIES_AT);

/// Where an index page is, and the low 28 bits of the number of the checkpoint that wrote it. Zero: there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PageRef(u64);

impl PageRef {
    pub const NONE: PageRef = PageRef(0);

    pub fn new(addr: BlockAddr, checkpoint: u64) -> PageRef {
        assert!(!addr.is_none() && addr <= BlockAddr::MAX, "an address fits its entry");
        PageRef(addr.0 | (checkpoint & CHECKPOINT_MASK) << 36)
    }

    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    pub fn addr(self) -> BlockAddr {
        BlockAddr(self.0 & BlockAddr::MAX.0)
    }

    pub fn checkpoint(self) -> u64 {
        self.0 >> 36
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    pub chunk: ChunkId,
    /// Some blocks' states were lost with a damaged index page.
    pub lost: bool,
    pub committed: Version,
    pub pages: [PageRef; QUARTERS],
}

impl DirectoryEntry {
    fn encode(&self, bytes: &mut [u8]) {
        put_u64_at(bytes, 0, self.chunk.layer.0);
        put_u32_at(bytes, 8, self.chunk.index.0);
        put_u32_at(bytes, 12, u32::from(self.lost));
        put_u64_at(bytes, 16, self.committed.to_bits());
        for (i, page) in self.pages.iter().enumerate() {
            put_u64_at(bytes, 24 + 8 * i, page.0);
        }
    }

    fn decode(bytes: &[u8]) -> Result<DirectoryEntry, FormatError> {
        let lost = match u32_at(bytes, 12) {
            0 => false,
            1 => true,
            _ => return Err(FormatError::Reserved),
        };
        let mut pages = [PageRef::NONE; QUARTERS];
        for (i, page) in pages.iter_mut().enumerate() {
            *page = PageRef(u64_at(bytes, 24 + 8 * i));
            if page.addr().is_none() && !page.is_none() {
                return Err(FormatError::Invalid("a page without an address"));
            }
        }
        Ok(DirectoryEntry {
            chunk: ChunkId { layer: LayerId(u64_at(bytes, 0)), index: ChunkIndex(u32_at(bytes, 8)) },
            lost,
            committed: super::codec::Reader::new(&bytes[16..24]).version()?,
            pages,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryPage {
    pub pg: PgId,
    pub checkpoint: u64,
    /// In order of chunk; not empty.
    pub entries: Vec<DirectoryEntry>,
}

/// Encodes a page; returns its CRC, which the checkpoint keeps beside its address.
pub fn encode(
    pg: PgId,
    checkpoint: u64,
    entries: impl ExactSizeIterator<Item = DirectoryEntry>,
    identity: Identity,
    page: &mut [u8],
) -> Crc {
    assert_eq!(page.len(), PAGE_BYTES, "a page");
    assert!((1..=ENTRIES_MAX).contains(&entries.len()), "a directory page is neither empty nor too full");
    page.fill(0);
    put_u32_at(page, POOL_AT, pg.pool.0);
    put_u32_at(page, PG_AT, pg.index);
    put_u64_at(page, CHECKPOINT_AT, checkpoint);
    put_u16_at(page, COUNT_AT, entries.len() as u16);
    for (i, entry) in entries.enumerate() {
        entry.encode(&mut page[ENTRIES_AT + i * ENTRY_BYTES..][..ENTRY_BYTES]);
    }
    prefix::seal(page, MAGIC, identity)
}

impl DirectoryPage {
    /// Also returns the page's CRC.
    pub fn decode(page: &[u8], identity: Identity) -> Result<(DirectoryPage, Crc), FormatError> {
        let page = page.get(..PAGE_BYTES).ok_or(FormatError::Short { need: PAGE_BYTES, have: page.len() })?;
        let crc = prefix::open(page, MAGIC, identity)?;
        let count = usize::from(u16_at(page, COUNT_AT));
        if count == 0 || count > ENTRIES_MAX {
            return Err(FormatError::Invalid("a directory page with an impossible number of chunks"));
        }
        check_zero(&page[END..ENTRIES_AT])?;
        check_zero(&page[ENTRIES_AT + count * ENTRY_BYTES..])?;
        let entries: Vec<_> = page[ENTRIES_AT..]
            .chunks_exact(ENTRY_BYTES)
            .take(count)
            .map(DirectoryEntry::decode)
            .collect::<Result<_, _>>()?;
        if !entries.is_sorted_by(|a, b| a.chunk < b.chunk) {
            return Err(FormatError::Invalid("a directory page out of order"));
        }
        let pg = PgId { pool: PoolId(u32_at(page, POOL_AT)), index: u32_at(page, PG_AT) };
        Ok((DirectoryPage { pg, checkpoint: u64_at(page, CHECKPOINT_AT), entries }, crc))
    }
}
