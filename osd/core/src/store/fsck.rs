//! fsck: every invariant of a disk that is not mounted. Reads only.
//! Nothing on disk says which blocks are free, so none can leak: what nothing names is free at the next mount.

use super::offline::{Offline, ReadAt};
use super::state::State;
use crate::format::index_page::{IndexPage, PagePlace, QUARTERS, SLOTS, Slot};
use crate::format::superblock::{LOG_AT, Superblock};
use crate::format::{BlockAddr, PAGE_BYTES};
use ashlar_types::{BLOCK_BYTES, ChunkId, Crc, PgId, Version};
use ashlar_wire::Change;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FsckReport {
    /// What is not as it must be. None: the disk is clean.
    pub problems: Vec<String>,
    /// What a crash may leave, and what is remembered.
    pub notes: Vec<String>,
    pub pgs: u64,
    pub chunks: u64,
    pub index_pages: u64,
    pub prepared_writes: u64,
    pub log_batches: u64,
    /// In blocks of 4096 bytes.
    pub blocks_total: u64,
    /// Holding data that something names.
    pub blocks_data: u64,
    /// Superblocks, log, directory, checkpoint and index pages.
    pub blocks_structure: u64,
    /// Whose contents were read and compared with their checksums.
    pub blocks_verified: u64,
}

impl FsckReport {
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for FsckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "problem: {problem}")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        writeln!(
            f,
            "{} PGs, {} chunks, {} index pages, {} prepared writes, {} log batches",
            self.pgs, self.chunks, self.index_pages, self.prepared_writes, self.log_batches
        )?;
        writeln!(
            f,
            "{} blocks: {} data ({} verified), {} structures, {} free",
            self.blocks_total,
            self.blocks_data,
            self.blocks_verified,
            self.blocks_structure,
            self.blocks_total.saturating_sub(self.blocks_data + self.blocks_structure)
        )?;
        write!(f, "{}", if self.is_clean() { "clean" } else { "NOT CLEAN" })
    }
}

/// Who names a block.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Structure(&'static str),
    Index(PgId, ChunkId, u16),
    Prepared(PgId, ChunkId, Version),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Structure(what) => write!(f, "{what}"),
            Owner::Index(pg, chunk, block) => write!(f, "block {block} of {chunk} ({pg})"),
            Owner::Prepared(pg, chunk, version) => write!(f, "prepared write {version} of {chunk} ({pg})"),
        }
    }
}

struct Checker<'a> {
    read: ReadAt<'a>,
    report: FsckReport,
    owners: BTreeMap<BlockAddr, Owner>,
    /// Data to be verified: its CRC, and whether a crash may have left it bad.
    data: Vec<(BlockAddr, Crc, bool)>,
    /// What prepared merges move, until it was found in the chunk below (S4): PG, chunk, block; where it is.
    moved: BTreeMap<(PgId, ChunkId, u16), Option<BlockAddr>>,
    superblock: Superblock,
}

/// Checks a disk. With `check_data`, every block of data is read and compared with its checksum.
pub fn fsck(read: ReadAt<'_>, check_data: bool) -> FsckReport {
    let offline = Offline::load(read);
    let Some(superblock) = offline.superblock else {
        return FsckReport { problems: offline.problems, notes: offline.notes, ..FsckReport::default() };
    };
    let mut checker = Checker {
        read,
        report: FsckReport {
            problems: offline.problems.clone(),
            notes: offline.notes.clone(),
            ..FsckReport::default()
        },
        owners: BTreeMap::new(),
        data: Vec::new(),
        moved: BTreeMap::new(),
        superblock,
    };
    checker.report.blocks_total = superblock.capacity / PAGE_BYTES as u64;
    checker.report.log_batches = offline.scan.batches.len() as u64;
    checker.structures(&offline);
    checker.state(&offline.state);
    if check_data {
        checker.verify_data();
    }
    checker.report
}

impl Checker<'_> {
    fn problem(&mut self, what: String) {
        self.report.problems.push(what);
    }

    fn own(&mut self, addr: BlockAddr, owner: Owner) {
        let first = (LOG_AT + self.superblock.log_bytes) / PAGE_BYTES as u64;
        if addr.0 < first || addr.byte_offset() >= self.superblock.capacity {
            return self.problem(format!("{owner} is said to be at {addr}, which is no block for it"));
        }
        if let Some(other) = self.owners.insert(addr, owner) {
            return self.problem(format!("{addr} belongs to {other} and to {owner}"));
        }
        match owner {
            Owner::Structure(_) => self.report.blocks_structure += 1,
            Owner::Index(..) | Owner::Prepared(..) => self.report.blocks_data += 1,
        }
    }

    fn structures(&mut self, offline: &Offline) {
        self.report.blocks_structure = (LOG_AT + self.superblock.log_bytes) / PAGE_BYTES as u64;
        offline.chain.iter().for_each(|addr| self.own(*addr, Owner::Structure("a checkpoint page")));
        for leaf in &offline.body.leaves {
            self.own(leaf.addr, Owner::Structure("a directory page"));
        }
    }

    fn state(&mut self, state: &State) {
        for (pg, mem) in &state.pgs {
            self.report.pgs += 1;
            let mut newest: BTreeMap<ChunkId, Version> = BTreeMap::new();
            for ((chunk, version), entry) in &mem.prepared {
                self.report.prepared_writes += 1;
                let committed = mem.directory.get(*chunk).map(|e| e.committed).unwrap_or_default();
                let before = newest.insert(*chunk, *version).unwrap_or(committed);
                if entry.public.write.prev != before {
                    self.problem(format!(
                        "prepared write {version} of {chunk} ({pg}) follows {}, not {before}",
                        entry.public.write.prev
                    ));
                }
                let crcs = match &entry.public.write.change {
                    Change::Write { crcs, .. } => &crcs[..],
                    Change::Zero { .. } | Change::Merge { .. } => &[],
                };
                if let Some(below) = entry.public.write.merged_chunk() {
                    self.moved
                        .extend(entry.moved.iter().map(|m| ((*pg, below, m.block.0), m.data.map(|(addr, _)| addr))));
                }
                for (addr, crc) in entry.runs.iter().flat_map(|run| run.blocks()).zip(crcs) {
                    self.own(addr, Owner::Prepared(*pg, *chunk, *version));
                    self.data.push((addr, *crc, true));
                }
            }
            for entry in mem.directory.iter() {
                self.report.chunks += 1;
                if entry.is_lost() {
                    self.report.notes.push(format!("{} ({pg}) has blocks whose state was lost", entry.chunk()));
                }
                for quarter in 0..QUARTERS as u8 {
                    self.quarter(state, *pg, entry.chunk(), entry.committed, quarter);
                }
            }
        }
        for (pg, chunk, block) in std::mem::take(&mut self.moved).into_keys() {
            self.problem(format!("a prepared merge moves block {block} of {chunk} ({pg}), which is not as it says"));
        }
    }

    fn quarter(&mut self, state: &State, pg: PgId, chunk: ChunkId, committed: Version, quarter: u8) {
        let view = state.view(pg, chunk, quarter).expect("the directory names the chunk");
        let mut page_slots = None;
        if !view.page.is_none() {
            self.report.index_pages += 1;
            let addr = view.page.addr();
            self.own(addr, Owner::Structure("an index page"));
            let place = PagePlace { chunk, quarter, checkpoint: view.page.checkpoint() };
            let bytes = (self.read)(addr.byte_offset(), PAGE_BYTES as u32).map_err(|e| e.to_string());
            let page =
                bytes.and_then(|b| IndexPage::decode(&b, self.superblock.identity, place).map_err(|e| e.to_string()));
            match page {
                Ok(page) => page_slots = Some(page.slots),
                Err(why) => self.problem(format!("index page of quarter {quarter} of {chunk} ({pg}) at {addr}: {why}")),
            }
        }
        for slot in 0..SLOTS {
            let block = u16::from(quarter) * SLOTS as u16 + slot as u16;
            let in_page = page_slots.as_ref().map(|s| s[slot]).unwrap_or_default();
            let in_delta = view.get(slot as u8);
            let now = in_delta.unwrap_or(in_page);
            if now != Slot::Never && self.moved.get(&(pg, chunk, block)) == Some(&now.addr()) {
                self.moved.remove(&(pg, chunk, block));
            }
            // A newer state lies over an older one, whose block is kept until the next checkpoint.
            for (is_current, slot) in [(in_delta.is_none(), Some(in_page)), (true, in_delta)] {
                let Some(Slot::Present { addr, crc, stamp }) = slot else { continue };
                self.own(addr, Owner::Index(pg, chunk, block));
                if stamp > committed {
                    self.problem(format!("block {block} of {chunk} ({pg}) is of {stamp}, the chunk at {committed}"));
                }
                if is_current {
                    self.data.push((addr, crc, in_delta.is_some()));
                }
            }
        }
    }

    fn verify_data(&mut self) {
        let mut unproven = 0;
        for (addr, crc, is_recent) in std::mem::take(&mut self.data) {
            let found = (self.read)(addr.byte_offset(), BLOCK_BYTES).map_err(|e| e.to_string());
            self.report.blocks_verified += 1;
            let why = match found {
                Ok(bytes) if Crc::of(&bytes) == crc => continue,
                Ok(bytes) => format!("checksum {}, expected {crc}", Crc::of(&bytes)),
                Err(why) => why,
            };
            let owner = self.owners.get(&addr).map(ToString::to_string).unwrap_or_default();
            if is_recent {
                // Written since the last checkpoint: after a crash it may never have been acknowledged; mount tells.
                unproven += 1;
                self.report.notes.push(format!("{owner} at {addr}: {why}"));
            } else {
                self.problem(format!("{owner} at {addr}: {why}"));
            }
        }
        if unproven > 0 {
            self.report.notes.push(format!(
                "{unproven} blocks written since the last checkpoint are bad, as a power failure may leave them"
            ));
        }
    }
}
