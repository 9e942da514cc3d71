//! Reading and writing the words that structures are made of. Little-endian throughout.

use super::{BlockAddr, FormatError, Run};
use ashlar_types::{
    AttachmentId, BlockIndex, BlockRange, ChunkId, ChunkIndex, Crc, Epoch, Generation, LayerId, OpId, OpNumber, PgId,
    PoolId, SessionId, Version, VolumeId,
};
use ashlar_wire::{BlockState, Change, PushedBlock, RetryId, WriteMeta};
use bytes::BufMut;

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(super) fn put_u16_at(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u32_at(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u64_at(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn check_zero(bytes: &[u8]) -> Result<(), FormatError> {
    if bytes.iter().all(|b| *b == 0) { Ok(()) } else { Err(FormatError::Reserved) }
}

/// Takes words off the front of some bytes.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes }
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        if self.bytes.len() < len {
            return Err(FormatError::Short { need: len, have: self.bytes.len() });
        }
        let (front, rest) = self.bytes.split_at(len);
        self.bytes = rest;
        Ok(front)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(u16_at(self.take(2)?, 0))
    }

    pub(super) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32_at(self.take(4)?, 0))
    }

    pub(super) fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64_at(self.take(8)?, 0))
    }

    pub(super) fn u128(&mut self) -> Result<u128, FormatError> {
        Ok(u128::from_le_bytes(self.take(16)?.try_into().expect("sixteen bytes")))
    }

    pub(super) fn zero(&mut self, len: usize) -> Result<(), FormatError> {
        check_zero(self.take(len)?)
    }

    /// `count` items of at least `least` bytes each; refused before anything is allocated if they cannot be there.
    pub(super) fn list<T>(
        &mut self,
        count: usize,
        least: usize,
        mut item: impl FnMut(&mut Reader<'a>) -> Result<T, FormatError>,
    ) -> Result<Vec<T>, FormatError> {
        let need = count.saturating_mul(least);
        if self.bytes.len() < need {
            return Err(FormatError::Short { need, have: self.bytes.len() });
        }
        (0..count).map(|_| item(self)).collect()
    }

    /// As [`Reader::list`], after its count as a u32.
    pub(super) fn counted<T>(
        &mut self,
        least: usize,
        item: impl FnMut(&mut Reader<'a>) -> Result<T, FormatError>,
    ) -> Result<Vec<T>, FormatError> {
        let count = self.u32()? as usize;
        self.list(count, least, item)
    }

    pub(super) fn pg(&mut self) -> Result<PgId, FormatError> {
        Ok(PgId { pool: PoolId(self.u32()?), index: self.u32()? })
    }

    pub(super) fn chunk(&mut self) -> Result<ChunkId, FormatError> {
        Ok(ChunkId { layer: LayerId(self.u64()?), index: ChunkIndex(self.u32()?) })
    }

    pub(super) fn version(&mut self) -> Result<Version, FormatError> {
        let version = Version::from_bits(self.u64()?);
        if version.epoch() > Epoch::MAX || version.seq().0 > ashlar_types::Seq::MAX.0 {
            return Err(FormatError::Invalid("a version that no index entry can hold"));
        }
        Ok(version)
    }

    pub(super) fn chunk_version(&mut self) -> Result<(ChunkId, Version), FormatError> {
        Ok((self.chunk()?, self.version()?))
    }

    pub(super) fn range(&mut self) -> Result<BlockRange, FormatError> {
        let (first, count) = (self.u16()?, self.u16()?);
        BlockRange::new(BlockIndex(first), count).ok_or(FormatError::Invalid("a range past the end of its chunk"))
    }

    pub(super) fn runs(&mut self) -> Result<Vec<Run>, FormatError> {
        let count = usize::from(self.u16()?);
        self.list(count, 8, |r| {
            let word = r.u64()?;
            let run = Run { first: BlockAddr(word & ((1 << 48) - 1)), count: (word >> 48) as u32 };
            if run.count == 0 || run.first.is_none() || run.end() > BlockAddr::MAX.0 + 1 {
                return Err(FormatError::Invalid("a run outside every disk"));
            }
            Ok(run)
        })
    }

    pub(super) fn op(&mut self) -> Result<OpId, FormatError> {
        Ok(OpId { session: SessionId(self.u64()?), number: OpNumber(self.u64()?) })
    }

    pub(super) fn write_meta(&mut self) -> Result<WriteMeta, FormatError> {
        let chunk = self.chunk()?;
        let (version, prev) = (self.version()?, self.version()?);
        let op = self.op()?;
        let lowest_unanswered = OpNumber(self.u64()?);
        let volume = VolumeId(self.u64()?);
        let attachment = AttachmentId(self.u64()?);
        let generation = Generation(self.u32()?);
        let kind = self.u32()?;
        let range = self.range()?;
        let change = match kind {
            WRITE => Change::Write { range, crcs: self.list(range.count().into(), 4, |r| Ok(Crc(r.u32()?)))? },
            ZERO => Change::Zero { range },
            MERGE if range == BlockRange::WHOLE => Change::Merge { from: LayerId(self.u64()?), at: self.version()? },
            MERGE => return Err(FormatError::Invalid("a merge of a part of a chunk")),
            _ => return Err(FormatError::Invalid("a change of an unknown kind")),
        };
        Ok(WriteMeta { chunk, version, prev, op, lowest_unanswered, volume, attachment, generation, change })
    }

    pub(super) fn pushed_block(&mut self) -> Result<PushedBlock, FormatError> {
        let (block, present, crc) = (self.u16()?, self.u16()?, self.u32()?);
        let stamp = self.version()?;
        if u32::from(block) >= ashlar_types::BLOCKS_PER_CHUNK {
            return Err(FormatError::Invalid("a block past the end of its chunk"));
        }
        let crc = match (present, crc) {
            (0, 0) => None,
            (1, crc) => Some(Crc(crc)),
            _ => return Err(FormatError::Invalid("a block neither present nor absent")),
        };
        Ok(PushedBlock { block: BlockIndex(block), state: BlockState { stamp, crc } })
    }

    pub(super) fn retry_id(&mut self) -> Result<RetryId, FormatError> {
        Ok(RetryId {
            op: self.op()?,
            lowest_unanswered: OpNumber(self.u64()?),
            chunk: self.chunk()?,
            version: self.version()?,
            volume: VolumeId(self.u64()?),
            attachment: AttachmentId(self.u64()?),
            generation: Generation(self.u32()?),
        })
    }
}

const WRITE: u32 = 1;
const ZERO: u32 = 2;
const MERGE: u32 = 3;

pub(super) const CHUNK_VERSION_BYTES: usize = 20;
pub(super) const PUSHED_BLOCK_BYTES: usize = 16;
pub(super) const RETRY_ID_BYTES: usize = 64;

/// The counterpart of [`Reader`].
pub(super) trait Put: BufMut {
    fn put_count(&mut self, count: usize) {
        self.put_u32_le(u32::try_from(count).expect("lists in memory are shorter than 2^32"));
    }

    fn put_pg(&mut self, pg: PgId) {
        self.put_u32_le(pg.pool.0);
        self.put_u32_le(pg.index);
    }

    fn put_chunk(&mut self, chunk: ChunkId) {
        self.put_u64_le(chunk.layer.0);
        self.put_u32_le(chunk.index.0);
    }

    fn put_chunk_versions(&mut self, list: impl ExactSizeIterator<Item = (ChunkId, Version)>) {
        self.put_count(list.len());
        for (chunk, version) in list {
            self.put_chunk(chunk);
            self.put_u64_le(version.to_bits());
        }
    }

    fn put_runs(&mut self, runs: &[Run]) {
        self.put_u16_le(u16::try_from(runs.len()).expect("a chunk has 1024 blocks"));
        for run in runs {
            assert!(run.first <= BlockAddr::MAX && run.count > 0 && run.count <= 1024, "a run of one chunk");
            self.put_u64_le(run.first.0 | u64::from(run.count) << 48);
        }
    }

    fn put_op(&mut self, op: OpId) {
        self.put_u64_le(op.session.0);
        self.put_u64_le(op.number.0);
    }

    fn put_range(&mut self, range: BlockRange) {
        self.put_u16_le(range.first().0);
        self.put_u16_le(range.count());
    }

    fn put_write_meta(&mut self, write: &WriteMeta) {
        self.put_chunk(write.chunk);
        self.put_u64_le(write.version.to_bits());
        self.put_u64_le(write.prev.to_bits());
        self.put_op(write.op);
        self.put_u64_le(write.lowest_unanswered.0);
        self.put_u64_le(write.volume.0);
        self.put_u64_le(write.attachment.0);
        self.put_u32_le(write.generation.0);
        match &write.change {
            Change::Write { range, crcs } => {
                assert_eq!(crcs.len(), usize::from(range.count()), "a CRC for each block");
                self.put_u32_le(WRITE);
                self.put_range(*range);
                crcs.iter().for_each(|crc| self.put_u32_le(crc.0));
            }
            Change::Zero { range } => {
                self.put_u32_le(ZERO);
                self.put_range(*range);
            }
            Change::Merge { from, at } => {
                self.put_u32_le(MERGE);
                self.put_range(BlockRange::WHOLE);
                self.put_u64_le(from.0);
                self.put_u64_le(at.to_bits());
            }
        }
    }

    fn put_pushed_block(&mut self, block: &PushedBlock) {
        self.put_u16_le(block.block.0);
        self.put_u16_le(u16::from(block.state.crc.is_some()));
        self.put_u32_le(block.state.crc.unwrap_or_default().0);
        self.put_u64_le(block.state.stamp.to_bits());
    }

    fn put_retry_id(&mut self, id: &RetryId) {
        self.put_op(id.op);
        self.put_u64_le(id.lowest_unanswered.0);
        self.put_chunk(id.chunk);
        self.put_u64_le(id.version.to_bits());
        self.put_u64_le(id.volume.0);
        self.put_u64_le(id.attachment.0);
        self.put_u32_le(id.generation.0);
    }
}

impl<B: BufMut> Put for B {}

/// A version in 48 bits, as index entries hold it: 20 bits of epoch, 28 of sequence.
pub(super) fn pack_version(version: Version) -> u64 {
    assert!(version.epoch() <= Epoch::MAX && version.seq() <= ashlar_types::Seq::MAX, "a version fits its entry");
    u64::from(version.epoch().0) << 28 | u64::from(version.seq().0)
}

pub(super) fn unpack_version(packed: u64) -> Version {
    Version::new(Epoch((packed >> 28) as u32 & ((1 << 20) - 1)), ashlar_types::Seq((packed & ((1 << 28) - 1)) as u32))
}
