//! The bytes on an OSD's disk: one file per structure, hand-written little-endian, fixed sizes (conventions §3).
//! F1: every structure begins with the same [`prefix`]: magic, version, CRC32C of the whole, cluster, OSD. F2: it carries its own place
//! or sequence too, so that a misdirected or lost write is caught. F3: reserved bytes are zero and checked. F4: `decode` never panics and
//! allocates nothing from an unchecked length.
//! Called by `store`; no other module knows an offset or a magic. Why it is so: docs/formats.md.

pub mod checkpoint;
pub mod directory_page;
pub mod index_page;
pub mod log_batch;
pub mod log_record;
pub mod moved;
pub mod prefix;
pub mod superblock;

mod codec;
mod layout;
#[cfg(test)]
mod tests;

pub use layout::layout;

use ashlar_types::{BLOCK_BYTES, ClusterId, Crc, OsdId};

/// Bytes of a block and of every structure but a log batch, which has a multiple of it.
pub const PAGE_BYTES: usize = BLOCK_BYTES as usize;

/// The format version that this program writes, and the only one that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The disk that a structure must belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub osd: OsdId,
}

/// A block of the disk: byte offset / 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockAddr(pub u64);

impl BlockAddr {
    /// Where nothing is: the first superblock has this address, so no data and no page ever does.
    pub const NONE: BlockAddr = BlockAddr(0);
    /// An index entry has 36 bits for an address: 256 TiB.
    pub const MAX: BlockAddr = BlockAddr((1 << 36) - 1);

    pub fn byte_offset(self) -> u64 {
        self.0 * u64::from(BLOCK_BYTES)
    }

    pub fn is_none(self) -> bool {
        self == BlockAddr::NONE
    }
}

impl std::fmt::Display for BlockAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "block {}", self.0)
    }
}

/// Neighbouring blocks of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    pub first: BlockAddr,
    pub count: u32,
}

impl Run {
    pub fn one(first: BlockAddr) -> Run {
        Run { first, count: 1 }
    }

    pub fn end(self) -> u64 {
        self.first.0 + u64::from(self.count)
    }

    pub fn blocks(self) -> impl Iterator<Item = BlockAddr> {
        (self.first.0..self.end()).map(BlockAddr)
    }

    pub fn bytes(self) -> u64 {
        u64::from(self.count) * u64::from(BLOCK_BYTES)
    }
}

/// Why some bytes are not the structure that was looked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("{have} bytes where {need} are needed")]
    Short { need: usize, have: usize },
    #[error("magic {found:016x} instead of {expected:016x}")]
    Magic { expected: u64, found: u64 },
    #[error("format version {found}")]
    Version { found: u32 },
    #[error("checksum {found}, calculated {calculated}")]
    Checksum { found: Crc, calculated: Crc },
    #[error("written by {osd} of cluster {cluster}")]
    Foreign { cluster: ClusterId, osd: OsdId },
    #[error("its {what} is {found}, not {expected}")]
    Place { what: &'static str, expected: u64, found: u64 },
    #[error("reserved bytes are not zero")]
    Reserved,
    #[error("{0}")]
    Invalid(&'static str),
}
