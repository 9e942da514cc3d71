//! A disk in memory that has done everything at once: what is counted is what the core does about it. It copies, as a device does.

use ashlar_osd_core::{DiskOp, DiskResult};
use ashlar_types::aligned_payload;
use bytes::Bytes;

#[derive(Debug)]
pub struct MemoryDisk {
    bytes: Vec<u8>,
}

fn index(at: u64) -> usize {
    usize::try_from(at).expect("a disk that fits memory")
}

impl MemoryDisk {
    pub fn new(capacity: u64) -> MemoryDisk {
        MemoryDisk { bytes: vec![0; index(capacity)] }
    }

    /// # Panics
    /// Past the end of the disk.
    #[inline(never)] // a line of its own in a profile
    pub fn perform(&mut self, op: DiskOp) -> DiskResult {
        match op {
            DiskOp::Write { at, data, .. } => {
                let mut at = index(at);
                for piece in data {
                    self.bytes[at..at + piece.len()].copy_from_slice(&piece);
                    at += piece.len();
                }
                Ok(Bytes::new())
            }
            DiskOp::Read { at, len } => {
                let (at, len) = (index(at), len as usize);
                let mut bytes = aligned_payload(len);
                bytes.extend_from_slice(&self.bytes[at..at + len]);
                Ok(bytes.freeze())
            }
            // What may be forgotten may be kept.
            DiskOp::Flush | DiskOp::Discard { .. } => Ok(Bytes::new()),
        }
    }
}
