//! A disk in memory that has done everything at once. It copies, as a device does; instructions of that are not counted.

use ashlar_osd_core::{DiskOp, DiskResult};
use ashlar_types::aligned_payload;
use bytes::Bytes;

const PIECE_BYTES: usize = 64 << 10;

/// See the head of this file. Holds memory only for what was written, so that a large empty disk is made in no time under callgrind too.
#[derive(Debug)]
pub struct MemoryDisk {
    pieces: Vec<Option<Box<[u8]>>>,
}

fn index(at: u64) -> usize {
    usize::try_from(at).expect("a disk that fits memory")
}

/// The parts of a range that lie in one piece each: which, where in it, and how long.
fn parts(mut at: usize, mut len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    std::iter::from_fn(move || {
        let (piece, from) = (at / PIECE_BYTES, at % PIECE_BYTES);
        let part = len.min(PIECE_BYTES - from);
        at += part;
        len -= part;
        (part > 0).then_some((piece, from, part))
    })
}

impl MemoryDisk {
    pub fn new(capacity: u64) -> MemoryDisk {
        MemoryDisk { pieces: vec![None; index(capacity).div_ceil(PIECE_BYTES)] }
    }

    /// # Panics
    /// Past the end of the disk.
    pub fn perform(&mut self, op: DiskOp) -> DiskResult {
        match op {
            DiskOp::Write { at, data, .. } => {
                let mut at = index(at);
                for bytes in data {
                    self.stand_in_for_write(at, &bytes);
                    at += bytes.len();
                }
                Ok(Bytes::new())
            }
            // Into a buffer that the shell allocates.
            DiskOp::Read { at, len } => {
                let mut bytes = aligned_payload(len as usize);
                bytes.resize(len as usize, 0);
                self.stand_in_for_read(index(at), &mut bytes);
                Ok(bytes.freeze())
            }
            // What may be forgotten may be kept.
            DiskOp::Flush | DiskOp::Discard { .. } => Ok(Bytes::new()),
        }
    }

    /// What a device does and no instruction of ours: callgrind stops to collect while this runs.
    #[inline(never)]
    pub fn stand_in_for_write(&mut self, at: usize, mut bytes: &[u8]) {
        for (piece, from, len) in parts(at, bytes.len()) {
            let piece = self.pieces[piece].get_or_insert_with(|| vec![0; PIECE_BYTES].into());
            let (now, later) = bytes.split_at(len);
            piece[from..from + len].copy_from_slice(now);
            bytes = later;
        }
    }

    /// Likewise. `bytes` are zeroes before.
    #[inline(never)]
    pub fn stand_in_for_read(&self, at: usize, mut bytes: &mut [u8]) {
        for (piece, from, len) in parts(at, bytes.len()) {
            let (now, later) = bytes.split_at_mut(len);
            if let Some(piece) = &self.pieces[piece] {
                now.copy_from_slice(&piece[from..from + len]);
            }
            bytes = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_the_rest_is_zero() {
        let mut disk = MemoryDisk::new(1 << 20);
        let data: Vec<u8> = (0..150_000 / 4096 * 4096).map(|at| (at % 251) as u8 + 1).collect();
        let pieces = vec![Bytes::copy_from_slice(&data[..512]), Bytes::copy_from_slice(&data[512..])];
        disk.perform(DiskOp::Write { at: 61_440, data: pieces, through: true }).expect("done");
        let all = disk.perform(DiskOp::Read { at: 0, len: 1 << 20 }).expect("done");
        assert_eq!(all[61_440..61_440 + data.len()], data[..]);
        assert!(all[..61_440].iter().chain(&all[61_440 + data.len()..]).all(|byte| *byte == 0));
    }
}
