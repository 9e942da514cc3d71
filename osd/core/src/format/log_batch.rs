//! Log batch: the records that became durable together. A multiple of 4096 bytes, at its logical position modulo the ring's size.

use super::codec::{check_zero, put_u32_at, put_u64_at, u32_at, u64_at};
use super::{FormatError, Identity, PAGE_BYTES, prefix};
use ashlar_types::Crc;

pub const MAGIC: u64 = u64::from_le_bytes(*b"ASHLbtch");
/// Records begin here.
pub const HEADER_BYTES: usize = 96;

pub(super) const SEQ_AT: usize = prefix::PREFIX_BYTES;
pub(super) const POSITION_AT: usize = 48;
pub(super) const FLUSHED_AT: usize = 56;
pub(super) const CHECKPOINT_AT: usize = 64;
pub(super) const PREVIOUS_AT: usize = 72;
pub(super) const RECORDS_AT: usize = 76;
pub(super) const USED_AT: usize = 80;
const END: usize = 84;
const _: () = assert!(END <= HEADER_BYTES && HEADER_BYTES < PAGE_BYTES);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// One more than that of the batch before.
    pub seq: u64,
    /// Logical: rises for ever.
    pub position: u64,
    /// All batches up to this one, and their data, were on stable storage when this one was sent.
    pub flushed: u64,
    /// The last checkpoint that was durable when this batch was sent: proves a superblock of that sequence to have existed.
    pub checkpoint: u64,
    /// The CRC of the batch before.
    pub previous: Crc,
    pub records: u32,
    /// Bytes of header and records; the rest up to a multiple of 4096 is zero.
    pub used: u32,
}

/// Bytes that a batch with `used` bytes takes in the ring.
pub fn padded(used: usize) -> usize {
    used.next_multiple_of(PAGE_BYTES)
}

impl BatchHeader {
    /// Completes a batch: `bytes` holds the records from `HEADER_BYTES` on and zero padding.
    pub fn seal(&self, bytes: &mut [u8], identity: Identity) -> Crc {
        assert_eq!(bytes.len(), padded(self.used as usize), "a batch is padded");
        put_u64_at(bytes, SEQ_AT, self.seq);
        put_u64_at(bytes, POSITION_AT, self.position);
        put_u64_at(bytes, FLUSHED_AT, self.flushed);
        put_u64_at(bytes, CHECKPOINT_AT, self.checkpoint);
        put_u32_at(bytes, PREVIOUS_AT, self.previous.0);
        put_u32_at(bytes, RECORDS_AT, self.records);
        put_u32_at(bytes, USED_AT, self.used);
        bytes[END..HEADER_BYTES].fill(0);
        prefix::seal(bytes, MAGIC, identity)
    }

    /// The length of the batch that seems to begin here, unchecked; `None` where surely none does.
    pub fn peek_len(bytes: &[u8]) -> Option<usize> {
        if bytes.len() < HEADER_BYTES || u64_at(bytes, 0) != MAGIC {
            return None;
        }
        let used = u32_at(bytes, USED_AT) as usize;
        (used >= HEADER_BYTES).then(|| padded(used))
    }

    /// The sequence of the batch that seems to begin here, unchecked.
    pub fn peek_seq(bytes: &[u8]) -> Option<u64> {
        BatchHeader::peek_len(bytes).map(|_| u64_at(bytes, SEQ_AT))
    }

    /// `bytes` is the whole batch, [`BatchHeader::peek_len`] long. The records are `bytes[HEADER_BYTES..used]`.
    pub fn decode(bytes: &[u8], identity: Identity) -> Result<(BatchHeader, Crc), FormatError> {
        if bytes.len() < HEADER_BYTES {
            return Err(FormatError::Short { need: HEADER_BYTES, have: bytes.len() });
        }
        let crc = prefix::open(bytes, MAGIC, identity)?;
        check_zero(&bytes[END..HEADER_BYTES])?;
        let header = BatchHeader {
            seq: u64_at(bytes, SEQ_AT),
            position: u64_at(bytes, POSITION_AT),
            flushed: u64_at(bytes, FLUSHED_AT),
            checkpoint: u64_at(bytes, CHECKPOINT_AT),
            previous: Crc(u32_at(bytes, PREVIOUS_AT)),
            records: u32_at(bytes, RECORDS_AT),
            used: u32_at(bytes, USED_AT),
        };
        let used = header.used as usize;
        if used < HEADER_BYTES || padded(used) != bytes.len() {
            return Err(FormatError::Invalid("a batch of another length"));
        }
        check_zero(&bytes[used..])?;
        if header.flushed >= header.seq {
            return Err(FormatError::Invalid("a batch that was flushed before it was written"));
        }
        Ok((header, crc))
    }
}
