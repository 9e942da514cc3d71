//! What the library that reads qcow2 doesn't say: whether the file is whole. What is missing at its end would be read as zeroes.
//! The format: <https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.rst>, "Header" and "Cluster mapping".

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

pub const MAGIC: [u8; 4] = *b"QFI\xfb";
const HEADER_BYTES: usize = 72;
/// What QEMU takes: 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// What QEMU takes: 32 MiB.
const L1_ENTRIES_MAX: u32 = 32 << 17;
const L2_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Of an entry of a second-level table.
const COMPRESSED: u64 = 1 << 62;
const SECTOR: u64 = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub is_encrypted: bool,
    /// Bytes.
    pub cluster: u64,
    l1_entries: u32,
    l1_offset: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    #[error("its header is damaged: {0}")]
    Damaged(&'static str),
    #[error("it uses {0}, which is not understood here")]
    Unsupported(&'static str),
    #[error("it reaches byte {needed}, the file ends at byte {has}")]
    Truncated { needed: u64, has: u64 },
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Header {
    pub fn read(file: &File, file_len: u64) -> Result<Header, HeaderError> {
        let mut bytes = [0; HEADER_BYTES];
        if file_len < HEADER_BYTES as u64 {
            return Err(HeaderError::Truncated { needed: HEADER_BYTES as u64, has: file_len });
        }
        file.read_exact_at(&mut bytes, 0)?;
        let mut features = [0; 8];
        if bytes[4..8] >= [0, 0, 0, 3][..] && file_len >= HEADER_BYTES as u64 + 8 {
            file.read_exact_at(&mut features, HEADER_BYTES as u64)?;
        }
        let features = u64::from_be_bytes(features);
        for (bit, what) in
            [(0, "the mark of a writer that did not end well"), (3, "another compression"), (4, "extended tables")]
        {
            if features >> bit & 1 == 1 {
                return Err(HeaderError::Unsupported(what));
            }
        }
        if features >> 1 & 1 == 1 {
            return Err(HeaderError::Damaged("it says so itself"));
        }
        let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let cluster_bits = u32_at(20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(HeaderError::Damaged("no size of clusters"));
        }
        let header = Header {
            is_encrypted: u32_at(32) != 0,
            cluster: 1 << cluster_bits,
            l1_entries: u32_at(36),
            l1_offset: u64::from_be_bytes(bytes[40..48].try_into().expect("eight bytes")),
        };
        if header.l1_entries > L1_ENTRIES_MAX {
            return Err(HeaderError::Damaged("a table larger than there may be"));
        }
        // A disk of many EiB of nothing takes as long to look through as one that has them.
        let size = u64::from_be_bytes(bytes[24..32].try_into().expect("eight bytes"));
        let reaches = u128::from(header.l1_entries) * u128::from(header.cluster / 8) * u128::from(header.cluster);
        if u128::from(size) > reaches {
            return Err(HeaderError::Damaged("a table too small for the size of the disk"));
        }
        Ok(header)
    }

    /// That all tables are in the file.
    pub fn check_tables(&self, file: &File, file_len: u64) -> Result<(), HeaderError> {
        let is_inside = |from: u64, len: u64| {
            let needed = from.checked_add(len).ok_or(HeaderError::Damaged("a table beyond everything"))?;
            if needed <= file_len { Ok(()) } else { Err(HeaderError::Truncated { needed, has: file_len }) }
        };
        let mut table = vec![0; self.l1_entries as usize * 8];
        is_inside(self.l1_offset, table.len() as u64)?;
        file.read_exact_at(&mut table, self.l1_offset)?;
        let (entries, _) = table.as_chunks::<8>();
        let mut table = vec![0; usize::try_from(self.cluster).expect("2 MiB at most")];
        for offset in entries.iter().map(|entry| u64::from_be_bytes(*entry) & L2_OFFSET).filter(|offset| *offset != 0) {
            is_inside(offset, self.cluster)?;
            file.read_exact_at(&mut table, offset)?;
            let (entries, _) = table.as_chunks::<8>();
            let entries = entries.iter().map(|entry| u64::from_be_bytes(*entry));
            entries
                .filter(|entry| entry & COMPRESSED != 0)
                .try_for_each(|entry| is_inside(0, self.compressed_end(entry)))?;
        }
        Ok(())
    }

    /// Where the sectors of a compressed cluster end. A byte less, and it could not be told from one that is whole: what is missing would be
    /// decompressed as zeroes. QEMU writes whole sectors.
    fn compressed_end(&self, entry: u64) -> u64 {
        let bits = 62 - (self.cluster.ilog2() - 8);
        let (offset, more) = (entry & ((1 << bits) - 1), (entry & (COMPRESSED - 1)) >> bits);
        (offset / SECTOR + more + 1) * SECTOR
    }

    /// Where the file ends at least if such a run of clusters is in it: of the last one only what was ever written need be there.
    pub fn least_end(&self, offset: u64, len: u64) -> u64 {
        offset + len.saturating_sub(1) / self.cluster * self.cluster + 1
    }
}
