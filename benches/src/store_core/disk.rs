//! A disk that keeps only what the store reads back: its own pages, packed, and its log. Of data it remembers nothing, since
//! nobody reads it here; a read of what is not kept fails.
//! Told apart by contents: a block of data is one of [`Disk::data_block`].

use super::pack::{pack, unpack};
use ashlar_osd_core::format::superblock::LOG_AT;
use ashlar_osd_core::{DiskError, DiskOp, DiskResult};
use ashlar_types::{BLOCK_BYTES, aligned_payload};
use bytes::Bytes;
use std::collections::HashMap;
use std::io::ErrorKind;

const BLOCK: usize = BLOCK_BYTES as usize;

/// Bytes written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    pub data: u64,
    /// The ring and the superblocks before it.
    pub log: u64,
    /// What checkpoints write, but for the superblock.
    pub other: u64,
}

impl Written {
    pub fn all(&self) -> u64 {
        self.data + self.log + self.other
    }

    pub fn since(&self, earlier: &Written) -> Written {
        Written { data: self.data - earlier.data, log: self.log - earlier.log, other: self.other - earlier.other }
    }
}

pub struct Disk {
    data_block: Bytes,
    log_end: u64,
    /// By the number of the block.
    kept: HashMap<u64, Box<[u8]>>,
    pub written: Written,
    pub read_bytes: u64,
}

impl Disk {
    pub fn new(data_block: Bytes, log_bytes: u64) -> Disk {
        let (written, kept) = (Written::default(), HashMap::new());
        Disk { data_block, log_end: LOG_AT + log_bytes, kept, written, read_bytes: 0 }
    }

    pub fn perform(&mut self, op: DiskOp) -> DiskResult {
        match op {
            DiskOp::Write { at, data, .. } => self.write(at, &data)?,
            DiskOp::Read { at, len } => return self.read(at, len),
            DiskOp::Discard { at, len } => {
                for block in at / BLOCK as u64..(at + len) / BLOCK as u64 {
                    self.kept.remove(&block);
                }
            }
            DiskOp::Flush => {}
        }
        Ok(Bytes::new())
    }

    fn write(&mut self, at: u64, data: &[Bytes]) -> Result<(), DiskError> {
        let len: usize = data.iter().map(Bytes::len).sum();
        if !at.is_multiple_of(BLOCK as u64) || !len.is_multiple_of(BLOCK) {
            return Err(DiskError { kind: ErrorKind::InvalidInput, code: None });
        }
        // Pieces of data are whole blocks; a batch of the log may come in others.
        if data.iter().all(|piece| piece.len().is_multiple_of(BLOCK)) {
            let blocks = data.iter().flat_map(|piece| piece.chunks_exact(BLOCK));
            (at / BLOCK as u64..).zip(blocks).for_each(|(block, bytes)| self.write_block(block, bytes));
        } else {
            let whole = data.concat();
            (at / BLOCK as u64..)
                .zip(whole.chunks_exact(BLOCK))
                .for_each(|(block, bytes)| self.write_block(block, bytes));
        }
        Ok(())
    }

    fn write_block(&mut self, block: u64, bytes: &[u8]) {
        let is_log = block * (BLOCK as u64) < self.log_end;
        if !is_log && bytes == self.data_block {
            self.written.data += BLOCK as u64;
            self.kept.remove(&block);
            return;
        }
        let written = if is_log { &mut self.written.log } else { &mut self.written.other };
        *written += BLOCK as u64;
        self.kept.insert(block, pack(bytes));
    }

    fn read(&mut self, at: u64, len: u32) -> DiskResult {
        let mut data = aligned_payload(len as usize);
        data.resize(len as usize, 0);
        for (block, bytes) in (at / BLOCK as u64..).zip(data.chunks_exact_mut(BLOCK)) {
            let kept = self.kept.get(&block).ok_or(DiskError { kind: ErrorKind::NotFound, code: None })?;
            unpack(kept, bytes);
        }
        self.read_bytes += u64::from(len);
        Ok(data.freeze())
    }

    /// What is kept takes, but for the map's own.
    pub fn memory_bytes(&self) -> u64 {
        self.kept.values().map(|page| (page.len() + size_of::<Box<[u8]>>()) as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(at: u64, data: Vec<Bytes>) -> DiskOp {
        DiskOp::Write { at, data, through: false }
    }

    #[test]
    fn pages_are_kept_and_data_is_only_counted() {
        let data = Bytes::from(vec![9; BLOCK]);
        let mut disk = Disk::new(data.clone(), 1 << 20);
        let at = LOG_AT + (1 << 20);
        let page = Bytes::from((0..BLOCK).map(|n| (n % 253) as u8).collect::<Vec<u8>>());
        disk.perform(write(at, vec![page.clone(), data.clone()])).expect("written");
        disk.perform(write(LOG_AT, vec![page.slice(..100), page.slice(100..)])).expect("written");
        assert_eq!(disk.perform(DiskOp::Read { at, len: BLOCK as u32 }).expect("kept"), page);
        assert_eq!(disk.perform(DiskOp::Read { at: LOG_AT, len: BLOCK as u32 }).expect("kept"), page);
        assert!(disk.perform(DiskOp::Read { at, len: 2 * BLOCK as u32 }).is_err(), "data is not kept");
        let Written { data: data_bytes, log, other } = disk.written;
        assert_eq!((data_bytes, log, other), (4096, 4096, 4096));
        disk.perform(write(at, vec![data])).expect("written");
        assert!(disk.perform(DiskOp::Read { at, len: BLOCK as u32 }).is_err(), "the page was written over");
    }

    #[test]
    fn what_was_discarded_is_gone_and_half_blocks_are_refused() {
        let mut disk = Disk::new(Bytes::from(vec![9; BLOCK]), 1 << 20);
        disk.perform(write(2 << 20, vec![Bytes::from(vec![1; 2 * BLOCK])])).expect("written");
        disk.perform(DiskOp::Discard { at: 2 << 20, len: BLOCK as u64 }).expect("done");
        assert!(disk.perform(DiskOp::Read { at: 2 << 20, len: BLOCK as u32 }).is_err());
        assert!(disk.perform(DiskOp::Read { at: (2 << 20) + BLOCK as u64, len: BLOCK as u32 }).is_ok());
        assert!(disk.perform(write(0, vec![Bytes::from(vec![1; 512])])).is_err());
    }
}
