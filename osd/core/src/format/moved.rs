//! What a merge moves from the chunk below to the one above, as the log and the checkpoint's body have it. A list has sixteen bytes for each block;
//! runs, which the log has since record kind 12, little more than the CRCs where the data was written in order.

use super::codec::Reader;
use super::{BlockAddr, FormatError};
use ashlar_types::{BLOCKS_PER_CHUNK, BlockIndex, Crc};
use bytes::BufMut;

/// A block that a merge moves. Its data stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovedBlock {
    pub block: BlockIndex,
    /// `None`: it was zeroed.
    pub data: Option<(BlockAddr, Crc)>,
}

impl MovedBlock {
    /// Whether `next` belongs to the run that this one, its `nth` block, is part of.
    fn is_followed_by(&self, next: &MovedBlock) -> bool {
        let is_beside = match (self.data, next.data) {
            (Some((here, _)), Some((there, _))) => here.0 + 1 == there.0,
            (None, None) => true,
            _ => false,
        };
        is_beside && self.block.0 + 1 == next.block.0
    }
}

const LISTED_BYTES: usize = 16;
const OUT_OF_ORDER: FormatError = FormatError::Invalid("moved blocks out of order");

pub(super) fn put_list(out: &mut impl BufMut, moved: &[MovedBlock]) {
    put_count(out, moved.len());
    for MovedBlock { block, data } in moved {
        let (addr, crc) = data.unwrap_or((BlockAddr::NONE, Crc::default()));
        out.put_u16_le(block.0);
        out.put_u16_le(u16::from(data.is_some()));
        out.put_u32_le(crc.0);
        out.put_u64_le(addr.0);
    }
}

pub(super) fn list(r: &mut Reader<'_>) -> Result<Vec<MovedBlock>, FormatError> {
    let moved = r.counted(LISTED_BYTES, listed)?;
    if moved.is_sorted_by(|a, b| a.block < b.block) { Ok(moved) } else { Err(OUT_OF_ORDER) }
}

fn listed(r: &mut Reader<'_>) -> Result<MovedBlock, FormatError> {
    let (block, present, crc, addr) = (r.u16()?, r.u16()?, r.u32()?, BlockAddr(r.u64()?));
    check_end(block.into())?;
    let data = match (present, crc, addr.0) {
        (0, 0, 0) => None,
        (1, crc, 1..) if addr <= BlockAddr::MAX => Some((addr, Crc(crc))),
        _ => return Err(FormatError::Invalid("a moved block neither present nor absent")),
    };
    Ok(MovedBlock { block: BlockIndex(block), data })
}

pub(super) fn put_runs(out: &mut impl BufMut, moved: &[MovedBlock]) {
    let runs = || moved.chunk_by(MovedBlock::is_followed_by);
    put_count(out, runs().count());
    for run in runs() {
        out.put_u16_le(run[0].block.0);
        out.put_u16_le(u16::try_from(run.len()).expect("a chunk's blocks"));
        out.put_u64_le(run[0].data.map_or(BlockAddr::NONE, |(addr, _)| addr).0);
        run.iter().filter_map(|moved| moved.data).for_each(|(_, crc)| out.put_u32_le(crc.0));
    }
}

pub(super) fn runs(r: &mut Reader<'_>) -> Result<Vec<MovedBlock>, FormatError> {
    let mut moved: Vec<MovedBlock> = Vec::new();
    // However many it says there are, each has a block of its own.
    for _ in 0..r.u32()? {
        let (first, count, addr) = (r.u16()?, r.u16()?, r.u64()?);
        let last = u32::from(first) + u32::from(count.checked_sub(1).ok_or(FormatError::Invalid("an empty run"))?);
        check_end(last)?;
        if moved.last().is_some_and(|before| before.block.0 >= first) {
            return Err(OUT_OF_ORDER);
        }
        if addr > BlockAddr::MAX.0 - u64::from(count - 1) {
            return Err(FormatError::Invalid("a moved block past the end of every disk"));
        }
        for nth in 0..count {
            let data = match addr {
                0 => None,
                addr => Some((BlockAddr(addr + u64::from(nth)), Crc(r.u32()?))),
            };
            moved.push(MovedBlock { block: BlockIndex(first + nth), data });
        }
    }
    Ok(moved)
}

fn check_end(block: u32) -> Result<(), FormatError> {
    match block < BLOCKS_PER_CHUNK {
        true => Ok(()),
        false => Err(FormatError::Invalid("a block past the end of its chunk")),
    }
}

fn put_count(out: &mut impl BufMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("a chunk's blocks"));
}
