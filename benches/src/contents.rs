//! What a volume should hold. Each block's bytes follow from its number and how often it was written, so that data of another
//! block, or of an older write, is never taken for the right one.

use crate::error::BenchError;
use ashlar_types::BLOCK_BYTES;
use bytes::{Bytes, BytesMut};
use std::ops::Range;

const BLOCK: usize = BLOCK_BYTES as usize;
const WORD: usize = 8;
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A block whose contents nobody knows: written by something else than this.
const UNKNOWN: u32 = u32::MAX;

/// How often each block was written; 0 reads as zeroes.
#[derive(Clone, Debug)]
pub struct Contents {
    seed: u64,
    writes: Vec<u32>,
}

impl Contents {
    /// Of a fresh volume.
    pub fn new(seed: u64, blocks: u64) -> Contents {
        Contents { seed, writes: vec![0; usize::try_from(blocks).expect("a volume for tests")] }
    }

    /// Of a volume that others may have written.
    pub fn unknown(blocks: u64) -> Contents {
        let mut contents = Contents::new(0, blocks);
        contents.writes.fill(UNKNOWN);
        contents
    }

    pub fn blocks(&self) -> u64 {
        self.writes.len() as u64
    }

    /// Whether it is known of any of these blocks what it holds.
    pub fn knows_any(&self, blocks: Range<u64>) -> bool {
        self.writes[blocks.start as usize..blocks.end as usize].iter().any(|writes| *writes != UNKNOWN)
    }

    /// The data of the next write to these blocks.
    pub fn write(&mut self, first: u64, count: u32) -> Bytes {
        let mut data = BytesMut::with_capacity(count as usize * BLOCK);
        for block in first..first + u64::from(count) {
            let writes = &mut self.writes[block as usize];
            *writes = if *writes >= UNKNOWN - 1 { 1 } else { *writes + 1 };
            fill(&mut data, self.seed, block, *writes);
        }
        data.freeze()
    }

    /// Something else is about to write them.
    pub fn forget(&mut self, first: u64, count: u32) {
        self.writes[first as usize..(first + u64::from(count)) as usize].fill(UNKNOWN);
    }

    /// What a read that is sent now has to bring.
    pub fn expect(&self, first: u64, count: u32) -> &[u32] {
        &self.writes[first as usize..(first + u64::from(count)) as usize]
    }

    /// Compares what a read brought with what [`Contents::expect`] said when it was sent.
    pub fn check(&self, first: u64, expected: &[u32], pieces: &[Bytes]) -> Result<(), BenchError> {
        let len: usize = pieces.iter().map(Bytes::len).sum();
        if len != expected.len() * BLOCK {
            return Err(BenchError::Wrong(format!("a read of {} blocks brought {len} bytes", expected.len())));
        }
        let mut found = Blocks { pieces, piece: 0, at: 0, scratch: Vec::with_capacity(BLOCK) };
        for (block, writes) in (first..).zip(expected) {
            self.check_block(block, *writes, found.next())?;
        }
        Ok(())
    }

    fn check_block(&self, block: u64, writes: u32, found: &[u8]) -> Result<(), BenchError> {
        let is_right = match writes {
            UNKNOWN => true,
            0 => found.iter().all(|byte| *byte == 0),
            _ => words(self.seed, block, writes)
                .zip(found.chunks_exact(WORD))
                .all(|(word, bytes)| bytes == word.to_le_bytes()),
        };
        if is_right {
            return Ok(());
        }
        let word = |index: usize| {
            let bytes = found.get(index * WORD..(index + 1) * WORD).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_le_bytes)
        };
        let found = match found.iter().all(|byte| *byte == 0) {
            true => "zeroes".to_owned(),
            false => format!("what looks like write {} of block {}", word(1), word(0)),
        };
        let expected = format!("write {writes} of it");
        Err(BenchError::WrongData { block, found, expected })
    }
}

/// The words of a block: its number, the number of the write, and then words that depend on both.
fn words(seed: u64, block: u64, writes: u32) -> impl Iterator<Item = u64> {
    let base = (seed ^ block.wrapping_mul(GOLDEN)).wrapping_add(u64::from(writes)).wrapping_mul(GOLDEN) | 1;
    let body = (2..(BLOCK / WORD) as u64).map(move |index| base.wrapping_mul(index) ^ (base >> 29));
    [block, u64::from(writes)].into_iter().chain(body)
}

fn fill(data: &mut BytesMut, seed: u64, block: u64, writes: u32) {
    words(seed, block, writes).for_each(|word| data.extend_from_slice(&word.to_le_bytes()));
}

/// Cuts pieces of any length into blocks.
struct Blocks<'a> {
    pieces: &'a [Bytes],
    piece: usize,
    at: usize,
    scratch: Vec<u8>,
}

impl Blocks<'_> {
    /// The caller has counted the bytes.
    fn next(&mut self) -> &[u8] {
        while self.at == self.pieces[self.piece].len() {
            (self.piece, self.at) = (self.piece + 1, 0);
        }
        if self.pieces[self.piece].len() - self.at >= BLOCK {
            self.at += BLOCK;
            return &self.pieces[self.piece][self.at - BLOCK..self.at];
        }
        self.scratch.clear();
        while self.scratch.len() < BLOCK {
            let piece = &self.pieces[self.piece][self.at..];
            let take = piece.len().min(BLOCK - self.scratch.len());
            self.scratch.extend_from_slice(&piece[..take]);
            self.at += take;
            if self.scratch.len() < BLOCK {
                (self.piece, self.at) = (self.piece + 1, 0);
            }
        }
        &self.scratch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_recognised_in_any_pieces() {
        let mut contents = Contents::new(7, 16);
        let data = contents.write(4, 3);
        let expected = contents.expect(4, 3).to_vec();
        for cut in [1, 511, 4096, 5000, data.len() - 1] {
            let pieces = [data.slice(..cut), Bytes::new(), data.slice(cut..)];
            contents.check(4, &expected, &pieces).expect("the same");
        }
        assert!(contents.check(4, &expected, &[data.slice(1..)]).is_err());
    }

    #[test]
    fn older_data_other_blocks_and_flipped_bits_are_noticed() {
        let mut contents = Contents::new(7, 16);
        let old = contents.write(3, 1);
        let new = contents.write(3, 1);
        let expected = contents.expect(3, 1).to_vec();
        contents.check(3, &expected, std::slice::from_ref(&new)).expect("the newest");
        let error = contents.check(3, &expected, &[old]).expect_err("older").to_string();
        assert!(error.contains("write 1 of block 3"), "{error}");
        assert!(contents.check(3, &expected, &[Bytes::from(vec![0; BLOCK])]).is_err());
        let mut flipped = new.to_vec();
        flipped[4000] ^= 1;
        assert!(contents.check(3, &expected, &[flipped.into()]).is_err());
        let other = contents.write(2, 1);
        assert!(contents.check(3, &expected, &[other]).is_err());
    }

    #[test]
    fn fresh_blocks_are_zeroes_and_forgotten_ones_anything() {
        let mut contents = Contents::new(1, 4);
        contents.check(0, contents.expect(0, 1), &[Bytes::from(vec![0; BLOCK])]).expect("zeroes");
        assert!(contents.check(0, contents.expect(0, 1), &[Bytes::from(vec![1; BLOCK])]).is_err());
        assert!(contents.knows_any(0..1));
        contents.forget(0, 1);
        assert!(!contents.knows_any(0..1) && contents.knows_any(0..2) && !Contents::unknown(4).knows_any(0..4));
        contents.check(0, contents.expect(0, 1), &[Bytes::from(vec![1; BLOCK])]).expect("anything");
    }
}
