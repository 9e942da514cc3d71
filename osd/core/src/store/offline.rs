//! A disk seen offline: everything that mount would read, without changing a byte, going on where something is damaged. What is not
//! right is collected as problems. Used by [`inspect`](super::inspect) and [`fsck`](super::fsck).

use super::directory::Stored;
use super::log_scan::{LogScan, Ring, scan};
use super::replay::Replay;
use super::state::State;
use crate::format::checkpoint::{ChainPage, CheckpointBody};
use crate::format::directory_page::DirectoryPage;
use crate::format::superblock::{LOG_AT, SLOTS, Superblock};
use crate::format::{BlockAddr, FormatError, Identity, PAGE_BYTES};
use std::collections::BTreeSet;
use std::io;

/// Reads that many bytes at a byte of the disk. Both are multiples of 4096.
pub type ReadAt<'a> = &'a mut dyn FnMut(u64, u32) -> io::Result<Vec<u8>>;

const LOG_READ_BYTES: u64 = 1 << 20;

/// What was found. Later parts are empty where an earlier one could not be read.
pub(super) struct Offline {
    /// Each slot's superblock, or why there is none.
    pub slots: [Result<Superblock, String>; 2],
    pub superblock: Option<Superblock>,
    pub chain: Vec<BlockAddr>,
    pub body: CheckpointBody,
    pub leaves: Vec<(BlockAddr, DirectoryPage)>,
    pub ring: Vec<u8>,
    pub scan: LogScan,
    /// After replay; as far as it went.
    pub state: State,
    pub problems: Vec<String>,
    pub notes: Vec<String>,
}

impl Offline {
    pub(super) fn load(read: ReadAt<'_>) -> Offline {
        let slots = SLOTS.map(|at| {
            let page = read(at, PAGE_BYTES as u32).map_err(|e| e.to_string())?;
            let superblock = Superblock::decode(&page).map_err(|e| e.to_string())?;
            if superblock.slot() == at { Ok(superblock) } else { Err("it belongs into the other slot".to_owned()) }
        });
        let superblock = slots.iter().flatten().max_by_key(|s| s.seq).copied();
        let mut offline = Offline {
            slots,
            superblock,
            chain: Vec::new(),
            body: CheckpointBody::default(),
            leaves: Vec::new(),
            ring: Vec::new(),
            scan: LogScan::default(),
            state: State::default(),
            problems: Vec::new(),
            notes: Vec::new(),
        };
        match superblock {
            Some(superblock) => offline.load_from(read, superblock),
            None => offline
                .problems
                .push("there is no good superblock: this is not an Ashlar OSD, or its beginning is lost".into()),
        }
        offline
    }

    pub(super) fn identity(&self) -> Option<Identity> {
        self.superblock.map(|s| s.identity)
    }

    fn load_from(&mut self, read: ReadAt<'_>, superblock: Superblock) {
        for (slot, at) in self.slots.iter().zip(SLOTS) {
            if let Err(why) = slot
                && superblock.seq > 0
            {
                self.notes.push(format!("the superblock slot at {at} holds none: {why}"));
            }
        }
        self.state.damaged = superblock.damaged;
        if superblock.damaged {
            self.notes
                .push("the store remembers damage that its placement groups have not all been repaired from".into());
        }
        if !superblock.checkpoint.is_none() && self.load_chain(read, superblock) {
            self.load_leaves(read, superblock);
        }
        self.load_log(read, superblock);
        self.replay(superblock);
    }

    /// False if the checkpoint cannot be read whole.
    fn load_chain(&mut self, read: ReadAt<'_>, superblock: Superblock) -> bool {
        let (mut next, mut payload) = (superblock.checkpoint, Vec::new());
        let mut seen = BTreeSet::new();
        while !next.is_none() {
            let page = read(next.byte_offset(), PAGE_BYTES as u32).map_err(|e| e.to_string());
            let number = self.chain.len() as u32;
            let decoded = page.and_then(|page| {
                let (page, bytes) =
                    ChainPage::decode(&page, superblock.identity, superblock.seq, number).map_err(|e| e.to_string())?;
                payload.extend_from_slice(bytes);
                Ok(page.next)
            });
            self.chain.push(next);
            match decoded {
                Ok(_) if !seen.insert(next) => {
                    self.problems.push(format!("checkpoint page {number} at {next} is in the chain twice"));
                    return false;
                }
                Ok(after) => next = after,
                Err(why) => {
                    self.problems.push(format!("checkpoint page {number} at {next}: {why}"));
                    return false;
                }
            }
        }
        match CheckpointBody::decode(&payload) {
            Ok(body) => self.body = body,
            Err(why) => self.problems.push(format!("checkpoint {}: {why}", superblock.seq)),
        }
        true
    }

    fn load_leaves(&mut self, read: ReadAt<'_>, superblock: Superblock) {
        for leaf in self.body.leaves.clone() {
            let page = read(leaf.addr.byte_offset(), PAGE_BYTES as u32).map_err(|e| e.to_string());
            let decoded =
                page.and_then(|page| DirectoryPage::decode(&page, superblock.identity).map_err(|e| e.to_string()));
            let page = match decoded {
                Ok((page, crc)) if crc == leaf.crc && page.pg == leaf.pg => page,
                Ok(_) => {
                    self.problems
                        .push(format!("directory page at {}: it is not the one that the checkpoint names", leaf.addr));
                    continue;
                }
                Err(why) => {
                    self.problems.push(format!("directory page at {}: {why}", leaf.addr));
                    continue;
                }
            };
            let entries = page.entries.iter().map(|e| (*e).into()).collect();
            if !self.state.pg_mut(leaf.pg).directory.append(entries, Stored { addr: leaf.addr, crc: leaf.crc }) {
                self.problems.push(format!("directory page at {}: its chunks are out of order", leaf.addr));
            }
            self.leaves.push((leaf.addr, page));
        }
    }

    fn load_log(&mut self, read: ReadAt<'_>, superblock: Superblock) {
        let mut at = 0;
        while at < superblock.log_bytes {
            let len = (superblock.log_bytes - at).min(LOG_READ_BYTES);
            match read(LOG_AT + at, len as u32) {
                Ok(bytes) if bytes.len() as u64 == len => self.ring.extend_from_slice(&bytes),
                _ => self.load_log_pieces(read, LOG_AT + at, len),
            }
            at += len;
        }
        self.scan = scan(&Ring(&self.ring), &superblock);
        if let Some(damage) = &self.scan.damage {
            self.problems.push(damage.clone());
        } else if self.scan.torn_bytes > 0 {
            self.notes.push(format!("{} bytes of a torn tail of the log, never acknowledged", self.scan.torn_bytes));
        }
        if self.scan.checkpoint_seen > superblock.seq {
            let seen = self.scan.checkpoint_seen;
            self.problems.push(format!("the log knows checkpoint {seen}, the best superblock {}", superblock.seq));
        }
    }

    fn load_log_pieces(&mut self, read: ReadAt<'_>, from: u64, len: u64) {
        for at in (from..from + len).step_by(PAGE_BYTES) {
            match read(at, PAGE_BYTES as u32) {
                Ok(bytes) if bytes.len() == PAGE_BYTES => self.ring.extend_from_slice(&bytes),
                _ => {
                    self.problems.push(format!("the log cannot be read at {at}"));
                    self.ring.resize(self.ring.len() + PAGE_BYTES, 0);
                }
            }
        }
    }

    fn replay(&mut self, superblock: Superblock) {
        let (ring, scan) = (std::mem::take(&mut self.ring), std::mem::take(&mut self.scan));
        let mut replay = Replay::new(ring, scan, self.body.clone(), &self.state);
        if let Err(error) = replay.run(&superblock, &mut self.state) {
            self.problems.push(format!("replay stops: {error}"));
        }
        (self.ring, self.scan) = replay.into_parts();
    }

    /// Records of each good batch of the log.
    pub(super) fn records(&self, nth: usize) -> Result<Vec<crate::format::log_record::Record>, FormatError> {
        Ring(&self.ring).records(&self.scan.batches[nth])
    }
}
