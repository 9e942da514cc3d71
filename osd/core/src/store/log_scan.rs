//! What a log ring says after a crash. Tells three cases apart (design.md §4): a torn tail, which was never acknowledged and is dropped;
//! records beyond the last known flush, whose data must be looked at; and damage to what was durable, which is reported.
//! Used by mount, `inspect` and `fsck`.

use crate::format::log_batch::{BatchHeader, HEADER_BYTES};
use crate::format::log_record::Record;
use crate::format::superblock::Superblock;
use crate::format::{FormatError, PAGE_BYTES};
use ashlar_types::Crc;
use std::borrow::Cow;

/// A good batch in its chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScannedBatch {
    pub header: BatchHeader,
    pub bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct LogScan {
    pub batches: Vec<ScannedBatch>,
    /// Where the next batch goes if nothing is cut.
    pub position: u64,
    pub seq: u64,
    pub previous: Crc,
    /// Batches up to here were known to be on stable storage, with their data.
    pub flushed: u64,
    /// Why the chain ends before something that was durable.
    pub damage: Option<String>,
    /// Bytes of batches behind the end of the chain.
    pub torn_bytes: u64,
    /// The highest sequence and end position of any batch seen, in the chain or behind it.
    pub seq_seen: u64,
    pub position_seen: u64,
    /// The latest checkpoint that any batch knew to be durable.
    pub checkpoint_seen: u64,
}

/// The log's ring in memory.
#[derive(Debug)]
pub(super) struct Ring<'a>(pub &'a [u8]);

impl<'a> Ring<'a> {
    /// `len` bytes from a logical position on.
    pub(super) fn slice(&self, position: u64, len: usize) -> Cow<'a, [u8]> {
        let at = (position % self.0.len() as u64) as usize;
        match self.0.get(at..at + len) {
            Some(whole) => Cow::Borrowed(whole),
            None => Cow::Owned([&self.0[at..], &self.0[..len - (self.0.len() - at)]].concat()),
        }
    }

    /// The good batch at a position, if there is one.
    fn batch_at(&self, superblock: &Superblock, position: u64) -> Option<(BatchHeader, Crc, usize)> {
        let len = BatchHeader::peek_len(&self.slice(position, PAGE_BYTES)).filter(|len| *len <= self.0.len())?;
        let (header, crc) = BatchHeader::decode(&self.slice(position, len), superblock.identity).ok()?;
        (header.position == position).then_some((header, crc, len))
    }

    /// The records of a good batch.
    pub(super) fn records(&self, batch: &ScannedBatch) -> Result<Vec<Record>, FormatError> {
        let bytes = self.slice(batch.header.position, batch.bytes);
        let mut rest = &bytes[HEADER_BYTES..batch.header.used as usize];
        let mut records = Vec::new();
        while !rest.is_empty() {
            records.push(Record::decode(&mut rest)?);
        }
        if records.len() != batch.header.records as usize {
            return Err(FormatError::Invalid("a batch with another number of records"));
        }
        Ok(records)
    }
}

/// Follows the chain from where the superblock says, then looks at what lies behind its end.
pub(super) fn scan(ring: &Ring<'_>, superblock: &Superblock) -> LogScan {
    let mut scan = LogScan {
        position: superblock.log_position,
        seq: superblock.log_seq,
        previous: superblock.log_previous,
        flushed: superblock.log_seq - 1,
        seq_seen: superblock.log_seq - 1,
        position_seen: superblock.log_position,
        ..LogScan::default()
    };
    let end = superblock.log_position + ring.0.len() as u64;
    while let Some((header, crc, bytes)) = ring.batch_at(superblock, scan.position) {
        let fits = scan.position + bytes as u64 <= end;
        if header.seq != scan.seq || header.previous != scan.previous || !fits {
            break;
        }
        scan.batches.push(ScannedBatch { header, bytes });
        scan.position += bytes as u64;
        scan.seq += 1;
        scan.previous = crc;
        scan.saw(&header, bytes);
        scan.flushed = scan.flushed.max(header.flushed);
        if scan.position == end {
            break;
        }
    }
    look_behind(ring, superblock, &mut scan, end);
    scan
}

impl LogScan {
    fn saw(&mut self, header: &BatchHeader, bytes: usize) {
        self.seq_seen = self.seq_seen.max(header.seq);
        self.position_seen = self.position_seen.max(header.position + bytes as u64);
        self.checkpoint_seen = self.checkpoint_seen.max(header.checkpoint);
    }
}

/// Batches behind the end of the chain were sent after the one that is missing. If one of them knew it to be durable, something
/// durable was lost.
fn look_behind(ring: &Ring<'_>, superblock: &Superblock, scan: &mut LogScan, end: u64) {
    let chain_end = scan.position;
    let mut position = chain_end;
    while position < end {
        let Some((header, _, bytes)) = ring.batch_at(superblock, position) else {
            position += PAGE_BYTES as u64;
            continue;
        };
        if header.seq >= scan.seq {
            scan.saw(&header, bytes);
            scan.torn_bytes += bytes as u64;
            if header.flushed >= scan.seq && scan.damage.is_none() {
                scan.damage = Some(format!(
                    "log batch {} at position {chain_end} is damaged or missing, but batch {} knows that {} was on stable storage",
                    scan.seq, header.seq, header.flushed
                ));
            }
        }
        position += bytes as u64;
    }
    let torn = ring.slice(chain_end, PAGE_BYTES);
    if chain_end < end
        && ring.batch_at(superblock, chain_end).is_none()
        && BatchHeader::peek_seq(&torn) == Some(scan.seq)
    {
        scan.torn_bytes += BatchHeader::peek_len(&torn).map_or(0, |len| len.min(ring.0.len()) as u64);
    }
}
