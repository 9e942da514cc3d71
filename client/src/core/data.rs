//! Bytes and checksums of one part: fragments of a write, blocks of a read, stretches of an extents answer. Nothing
//! here copies a payload.

use super::base::Stretch;
use super::request::PartOutput;
use ashlar_types::{BLOCK_BYTES, BlockIndex, BlockRange, CHUNK_BYTES, Crc, Extent};
use bytes::Bytes;
use std::sync::LazyLock;

/// As many zero bytes as a part can have. Never written, so the kernel backs it with its one page of zeroes.
static ZERO_CHUNK: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; CHUNK_BYTES as usize]));
static ZERO_BLOCK_CRC: LazyLock<Crc> = LazyLock::new(|| Crc::of(&ZERO_CHUNK[..BLOCK_BYTES as usize]));

/// `len` zero bytes, shared by all.
pub(crate) fn zeroes(len: u32) -> Bytes {
    ZERO_CHUNK.slice(..len as usize)
}

/// Whether these are the zero bytes that are shared by all: then they take no memory.
pub(crate) fn is_zeroes(bytes: &Bytes) -> bool {
    let (shared, these) = (ZERO_CHUNK.as_ptr_range(), bytes.as_ptr_range());
    shared.start <= these.start && these.end <= shared.end
}

/// How `len` bytes from `offset` fall onto blocks: the length of each fragment, in order.
fn fragment_lengths(offset: u64, len: u64) -> impl Iterator<Item = u32> {
    let mut at = offset;
    let end = offset + len;
    std::iter::from_fn(move || {
        if at == end {
            return None;
        }
        let within = at % u64::from(BLOCK_BYTES);
        let take = (u64::from(BLOCK_BYTES) - within).min(end - at);
        at += take;
        Some(u32::try_from(take).expect("at most a block"))
    })
}

/// The CRC of each fragment of `data`, which begins at byte `offset` of its volume or chunk.
pub(super) fn fragment_crcs(offset: u64, data: &[u8]) -> Vec<Crc> {
    let mut rest = data;
    fragment_lengths(offset, data.len() as u64)
        .map(|len| {
            let (fragment, after) = rest.split_at(len as usize);
            rest = after;
            Crc::of(fragment)
        })
        .collect()
}

/// [`fragment_crcs`] of zeroes, without looking at them block by block.
pub(super) fn zero_crcs(offset: u32, len: u32) -> Vec<Crc> {
    fragment_lengths(u64::from(offset), u64::from(len))
        .map(|len| if len == BLOCK_BYTES { *ZERO_BLOCK_CRC } else { Crc::of(&ZERO_CHUNK[..len as usize]) })
        .collect()
}

/// What is wrong with an answer that doesn't say what was asked or whose data isn't what its checksums say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DamagedReply {
    #[error("an answer with {found} blocks where {expected} were asked for")]
    BlockCount { expected: usize, found: usize },
    #[error("an answer with {found} bytes where its blocks have {expected}")]
    PayloadLength { expected: usize, found: usize },
    #[error("block {block} is said to be unwritten and to be there")]
    Unwritten { block: u16 },
    #[error("an answer to another question")]
    Form,
    #[error("an answer that names a layer below the {layers} of the stack")]
    Layer { layers: usize },
    #[error("block {block}: checksum {found}, expected {expected}")]
    Checksum { block: u16, expected: Crc, found: Crc },
}

/// The bytes `offset..offset + len` of a chunk out of a read's answer, every block verified: slices of the payload, and
/// shared zeroes for absent blocks. Neighbouring blocks of one sort are one piece.
pub(super) fn verified_read(
    offset: u32,
    len: u32,
    blocks: &[Option<Crc>],
    payload: &Bytes,
) -> Result<Vec<Bytes>, DamagedReply> {
    let range = verify(offset, len, blocks, payload)?;
    Ok(read_pieces(offset, len, range, blocks, payload))
}

/// [`verified_read`] of a volume over a base: what is unwritten is left open.
pub(super) fn verified_read_over(
    offset: u32,
    len: u32,
    blocks: &[Option<Crc>],
    unwritten: &[BlockRange],
    payload: &Bytes,
) -> Result<Vec<Stretch>, DamagedReply> {
    let range = verify(offset, len, blocks, payload)?;
    let mut taken = 0;
    stretches(offset, len, range, blocks, unwritten, |start, end, range, blocks| {
        let own = payload.slice(taken..);
        taken += blocks.iter().flatten().count() * BLOCK_BYTES as usize;
        PartOutput::Data(read_pieces(start, end - start, range, blocks, &own))
    })
}

/// [`verified_extents`] of a volume over a base.
pub(super) fn verified_extents_over(
    offset: u32,
    len: u32,
    blocks: &[Option<Crc>],
    unwritten: &[BlockRange],
) -> Result<Vec<Stretch>, DamagedReply> {
    let range = checked_range(offset, len, blocks)?;
    stretches(offset, len, range, blocks, unwritten, |start, end, range, blocks| {
        PartOutput::Extents(extents(start, end - start, range, blocks))
    })
}

/// Parts a range into what is unwritten and what is the volume's own, which `own` is called for: with first byte, end, blocks and their CRCs.
fn stretches(
    offset: u32,
    len: u32,
    range: BlockRange,
    blocks: &[Option<Crc>],
    unwritten: &[BlockRange],
    mut own: impl FnMut(u32, u32, BlockRange, &[Option<Crc>]) -> PartOutput,
) -> Result<Vec<Stretch>, DamagedReply> {
    let is_unwritten = |block: u16| unwritten.iter().any(|run| run.contains(BlockIndex(block)));
    let indexes: Vec<(u16, bool)> = range.iter().map(|block| (block.0, is_unwritten(block.0))).collect();
    let mut stretches = Vec::new();
    for run in indexes.chunk_by(|a, b| a.1 == b.1) {
        let (first, of_base) = run[0];
        let count = u16::try_from(run.len()).expect("a chunk has fewer blocks");
        let run = BlockRange::new(BlockIndex(first), count).expect("inside the range");
        let start = run.byte_offset().max(offset);
        let end = (run.byte_offset() + run.bytes()).min(offset + len);
        let from = usize::from(first - range.first().0);
        let blocks = &blocks[from..from + usize::from(count)];
        if !of_base {
            stretches.push(Stretch::Own(own(start, end, run, blocks)));
            continue;
        }
        if let Some(at) = blocks.iter().position(Option::is_some) {
            return Err(DamagedReply::Unwritten { block: first + at as u16 });
        }
        stretches.push(Stretch::Base { offset: start, len: end - start });
    }
    Ok(stretches)
}

/// Looks at every block of an answer.
fn verify(offset: u32, len: u32, blocks: &[Option<Crc>], payload: &Bytes) -> Result<BlockRange, DamagedReply> {
    let range = checked_range(offset, len, blocks)?;
    let expected = blocks.iter().flatten().count() * BLOCK_BYTES as usize;
    if payload.len() != expected {
        return Err(DamagedReply::PayloadLength { expected, found: payload.len() });
    }
    let mut data = payload.chunks_exact(BLOCK_BYTES as usize);
    for (block, crc) in range.iter().zip(blocks) {
        let Some(expected) = *crc else { continue };
        let found = Crc::of(data.next().expect("as many blocks of payload as of checksums"));
        if found != expected {
            return Err(DamagedReply::Checksum { block: block.0, expected, found });
        }
    }
    Ok(range)
}

fn read_pieces(offset: u32, len: u32, range: BlockRange, blocks: &[Option<Crc>], payload: &Bytes) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(1);
    let mut taken = 0;
    for (run_start, run_len, present) in runs(range, blocks) {
        let start = run_start.max(offset);
        let end = (run_start + run_len).min(offset + len);
        if present {
            let from = taken + (start - run_start) as usize;
            pieces.push(payload.slice(from..from + (end - start) as usize));
            taken += run_len as usize;
        } else {
            pieces.push(zeroes(end - start));
        }
    }
    pieces
}

/// The bytes `offset..offset + len` of a chunk as extents.
pub(super) fn verified_extents(offset: u32, len: u32, blocks: &[Option<Crc>]) -> Result<Vec<Extent>, DamagedReply> {
    let range = checked_range(offset, len, blocks)?;
    Ok(extents(offset, len, range, blocks))
}

fn extents(offset: u32, len: u32, range: BlockRange, blocks: &[Option<Crc>]) -> Vec<Extent> {
    let extent = |(run_start, run_len, present): (u32, u32, bool)| {
        let start = run_start.max(offset);
        let end = (run_start + run_len).min(offset + len);
        Extent { len: u64::from(end - start), allocated: present, zero: !present }
    };
    runs(range, blocks).map(extent).collect()
}

fn checked_range(offset: u32, len: u32, blocks: &[Option<Crc>]) -> Result<BlockRange, DamagedReply> {
    range_of(offset, len, blocks.len())
}

/// The blocks of a part, if an answer tells of as many.
pub(super) fn range_of(offset: u32, len: u32, found: usize) -> Result<BlockRange, DamagedReply> {
    let range = BlockRange::covering(offset, len).expect("a part lies inside its chunk");
    let expected = usize::from(range.count());
    if found == expected { Ok(range) } else { Err(DamagedReply::BlockCount { expected, found }) }
}

/// Runs of blocks that are all present or all absent: (first byte in the chunk, bytes, present).
fn runs(range: BlockRange, blocks: &[Option<Crc>]) -> impl Iterator<Item = (u32, u32, bool)> {
    let mut at = range.byte_offset();
    blocks.chunk_by(|a, b| a.is_some() == b.is_some()).map(move |run| {
        let start = at;
        let len = run.len() as u32 * BLOCK_BYTES;
        at += len;
        (start, len, run[0].is_some())
    })
}

/// One list out of the lists of neighbouring parts; equal neighbours become one.
pub(super) fn join_extents(parts: Vec<Vec<Extent>>) -> Vec<Extent> {
    let mut joined: Vec<Extent> = Vec::new();
    for extent in parts.into_iter().flatten() {
        match joined.last_mut() {
            Some(last) if last.allocated == extent.allocated && last.zero == extent.zero => last.len += extent.len,
            _ => joined.push(extent),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(fill: u8) -> Vec<u8> {
        vec![fill; BLOCK_BYTES as usize]
    }

    #[test]
    fn a_read_is_trimmed_and_absent_blocks_are_zeroes() {
        let payload = Bytes::from([block(1), block(2), block(3)].concat());
        let crc = |fill| Some(Crc::of(&block(fill)));
        let blocks = [crc(1), None, None, crc(2), crc(3)];
        let offset = 2 * BLOCK_BYTES + 100;
        let len = 5 * BLOCK_BYTES - 100 - 7;
        let pieces = verified_read(offset, len, &blocks, &payload).expect("all is as it says");
        assert_eq!(pieces.len(), 3, "one piece a run");
        let whole = [block(1), block(0), block(0), block(2), block(3)].concat();
        assert_eq!(pieces.concat(), whole[100..whole.len() - 7]);
        assert_eq!(pieces[0].as_ptr(), payload[100..].as_ptr(), "no copy");
    }

    #[test]
    fn a_read_whose_data_or_shape_is_wrong_is_refused() {
        let payload = Bytes::from(block(1));
        let good = Crc::of(&payload);
        let bad = Crc(good.0 ^ 1);
        assert_eq!(
            verified_read(0, 10, &[Some(bad)], &payload),
            Err(DamagedReply::Checksum { block: 0, expected: bad, found: good })
        );
        assert_eq!(
            verified_read(0, 10, &[None], &payload),
            Err(DamagedReply::PayloadLength { expected: 0, found: 4096 })
        );
        assert_eq!(
            verified_read(0, 10, &[None, None], &Bytes::new()),
            Err(DamagedReply::BlockCount { expected: 1, found: 2 })
        );
    }

    #[test]
    fn fragments_follow_block_borders() {
        let data: Vec<u8> = (0..9000u32).map(|i| i as u8).collect();
        let crcs = fragment_crcs(4000, &data);
        assert_eq!(
            crcs,
            [Crc::of(&data[..96]), Crc::of(&data[96..4192]), Crc::of(&data[4192..8288]), Crc::of(&data[8288..])]
        );
        assert_eq!(zero_crcs(4000, 9000), fragment_crcs(4000, &[0; 9000]));
    }

    #[test]
    fn extents_are_joined_across_parts() {
        let present = Some(Crc(1));
        let first = verified_extents(100, 2 * BLOCK_BYTES - 100, &[None, present]).expect("two blocks");
        let second = verified_extents(0, 10, &[present]).expect("one block");
        let joined = join_extents(vec![first, second]);
        assert_eq!(
            joined,
            [
                Extent { len: 3996, allocated: false, zero: true },
                Extent { len: 4096 + 10, allocated: true, zero: false }
            ]
        );
    }
}
