//! Superblock: where everything begins. Two slots, written alternately, one per checkpoint; the valid one with the higher sequence counts.

use super::codec::{check_zero, put_u32_at, put_u64_at, u32_at, u64_at};
use super::{BlockAddr, FormatError, Identity, PAGE_BYTES, prefix};
use ashlar_types::Crc;

pub const MAGIC: u64 = u64::from_le_bytes(*b"ASHLsupr");
/// Byte offsets of the two slots on the disk.
pub const SLOTS: [u64; 2] = [0, 64 << 10];
/// Byte offset of the log ring.
pub const LOG_AT: u64 = 128 << 10;

pub(super) const SEQ_AT: usize = prefix::PREFIX_BYTES;
pub(super) const CAPACITY_AT: usize = 48;
pub(super) const LOG_BYTES_AT: usize = 56;
pub(super) const LOG_POSITION_AT: usize = 64;
pub(super) const LOG_SEQ_AT: usize = 72;
pub(super) const CHECKPOINT_AT: usize = 80;
pub(super) const LOG_PREVIOUS_AT: usize = 88;
pub(super) const FLAGS_AT: usize = 92;
const END: usize = 96;
const _: () = assert!(END <= PAGE_BYTES && LOG_AT.is_multiple_of(PAGE_BYTES as u64));

const DAMAGED: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub identity: Identity,
    /// The number of the checkpoint that it names, from 1. Its slot is `seq % 2`.
    pub seq: u64,
    /// Bytes of the disk that are the store's.
    pub capacity: u64,
    pub log_bytes: u64,
    /// The first batch that the checkpoint does not contain: its logical position (physical: modulo `log_bytes`), its sequence, and the
    /// CRC of the batch before it.
    pub log_position: u64,
    pub log_seq: u64,
    pub log_previous: Crc,
    /// The first page of the checkpoint; none in an empty store.
    pub checkpoint: BlockAddr,
    /// Something durable was lost here, and the PGs have not all been joined again since.
    pub damaged: bool,
}

impl Superblock {
    pub fn slot(&self) -> u64 {
        SLOTS[(self.seq % 2) as usize]
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut page = vec![0; PAGE_BYTES];
        put_u64_at(&mut page, SEQ_AT, self.seq);
        put_u64_at(&mut page, CAPACITY_AT, self.capacity);
        put_u64_at(&mut page, LOG_BYTES_AT, self.log_bytes);
        put_u64_at(&mut page, LOG_POSITION_AT, self.log_position);
        put_u64_at(&mut page, LOG_SEQ_AT, self.log_seq);
        put_u64_at(&mut page, CHECKPOINT_AT, self.checkpoint.0);
        put_u32_at(&mut page, LOG_PREVIOUS_AT, self.log_previous.0);
        put_u32_at(&mut page, FLAGS_AT, if self.damaged { DAMAGED } else { 0 });
        prefix::seal(&mut page, MAGIC, self.identity);
        page
    }

    /// Whoever wrote it: the caller compares `identity`, so that it can name the stranger.
    pub fn decode(page: &[u8]) -> Result<Superblock, FormatError> {
        let page = page.get(..PAGE_BYTES).ok_or(FormatError::Short { need: PAGE_BYTES, have: page.len() })?;
        prefix::open_any(page, MAGIC)?;
        check_zero(&page[END..])?;
        let flags = u32_at(page, FLAGS_AT);
        if flags & !DAMAGED != 0 {
            return Err(FormatError::Reserved);
        }
        let superblock = Superblock {
            identity: prefix::owner(page)?,
            seq: u64_at(page, SEQ_AT),
            capacity: u64_at(page, CAPACITY_AT),
            log_bytes: u64_at(page, LOG_BYTES_AT),
            log_position: u64_at(page, LOG_POSITION_AT),
            log_seq: u64_at(page, LOG_SEQ_AT),
            checkpoint: BlockAddr(u64_at(page, CHECKPOINT_AT)),
            log_previous: Crc(u32_at(page, LOG_PREVIOUS_AT)),
            damaged: flags & DAMAGED != 0,
        };
        superblock.check()?;
        Ok(superblock)
    }

    fn check(&self) -> Result<(), FormatError> {
        let page = PAGE_BYTES as u64;
        let log_end =
            LOG_AT.checked_add(self.log_bytes).ok_or(FormatError::Invalid("a log past the end of the disk"))?;
        if !self.capacity.is_multiple_of(page) || !self.log_bytes.is_multiple_of(page) || self.log_bytes == 0 {
            return Err(FormatError::Invalid("a size that is no multiple of 4096"));
        }
        if log_end > self.capacity || self.capacity / page > BlockAddr::MAX.0 + 1 {
            return Err(FormatError::Invalid("a log past the end of the disk"));
        }
        if self.checkpoint.0 >= self.capacity / page {
            return Err(FormatError::Invalid("a checkpoint past the end of the disk"));
        }
        if self.log_seq == 0
            || self.log_seq.max(self.seq) > u64::MAX / 2
            || !self.log_position.is_multiple_of(page)
            || self.log_position > u64::MAX / 2
        {
            return Err(FormatError::Invalid("a log that begins nowhere"));
        }
        Ok(())
    }
}
