//! Replay: the checkpoint and then the log's records, applied; and the judgement of data that was never known to be flushed (M3).

use super::api::{PreparedWrite, StoreError};
use super::counts::Counts;
use super::directory::Directory;
use super::log_scan::{LogScan, Ring};
use super::state::{PgMem, PreparedEntry, State, pages_of};
use crate::DiskResult;
use crate::format::checkpoint::{CheckpointBody, LeafRef, PreparedRecord};
use crate::format::log_record::Record;
use crate::format::superblock::{LOG_AT, Superblock};
use crate::format::{BlockAddr, FormatError, Run};
use ashlar_types::{BLOCK_BYTES, ChunkId, Crc, PgId};
use ashlar_wire::Change;
use std::collections::{BTreeMap, BTreeSet};

/// A record: the sequence of its batch and its number there.
type RecordId = (u64, usize);

/// A block whose data was sent with a record that is not known to be flushed.
#[derive(Debug, Clone, Copy)]
struct Unproven {
    record: RecordId,
    addr: BlockAddr,
    crc: Crc,
}

/// What the data said.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    /// Prepared writes with bad data.
    pub suspect: Vec<String>,
    /// Pushes and repairs with bad data: undone.
    pub undone: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Replay {
    ring: Vec<u8>,
    scan: LogScan,
    body: CheckpointBody,
    /// The checkpoint's directories, to begin again from.
    directories: Vec<(PgId, Directory)>,
    /// Records that are passed over.
    skip: BTreeSet<RecordId>,
    records: u64,
    unproven: Vec<Unproven>,
}

impl Replay {
    /// `state` has the checkpoint's directories.
    pub(super) fn new(ring: Vec<u8>, scan: LogScan, body: CheckpointBody, state: &State) -> Replay {
        let directories = state.pgs.iter().map(|(pg, mem)| (*pg, mem.directory.clone())).collect();
        Replay { ring, scan, body, directories, skip: BTreeSet::new(), records: 0, unproven: Vec::new() }
    }

    pub(super) fn records(&self) -> u64 {
        self.records
    }

    pub(super) fn scan(&self) -> &LogScan {
        &self.scan
    }

    pub(super) fn into_parts(self) -> (Vec<u8>, LogScan) {
        (self.ring, self.scan)
    }

    pub(super) fn leaves(&self) -> impl Iterator<Item = BlockAddr> {
        self.body.leaves.iter().map(|LeafRef { addr, .. }| *addr)
    }

    /// Makes the state from the checkpoint and the records behind it.
    pub(super) fn run(&mut self, superblock: &Superblock, state: &mut State) -> Result<(), StoreError> {
        state.pgs.clear();
        state.freed.clear();
        state.purge.clear();
        state.counts = Counts::default();
        (state.reclaimable, state.zeroed, state.active_pages, state.prepared_pages) = (0, 0, 0, 0);
        state.damaged = superblock.damaged;
        for (pg, directory) in &self.directories {
            state.pgs.insert(*pg, PgMem { directory: directory.clone(), ..PgMem::default() });
        }
        for (pg, pg_state) in &self.body.pgs {
            state.pg_mut(*pg).state = pg_state.clone();
        }
        for PreparedRecord { pg, data_good, write, runs, moved } in &self.body.prepared {
            state.prepared_pages += pages_of(write);
            let mem = state.pg_mut(*pg);
            let fits = mem.directory.get(write.chunk).is_some() && mem.versions(write.chunk).newest == write.prev;
            if !fits {
                let at = superblock.checkpoint.byte_offset();
                let detail = format!("a prepared write of {} does not follow the one before it", write.chunk);
                return Err(StoreError::Corrupt { structure: "checkpoint", at, detail });
            }
            let public = PreparedWrite { write: write.clone(), data_good: *data_good };
            mem.insert_prepared(PreparedEntry { public, runs: runs.clone(), moved: moved.clone() });
        }
        self.records = 0;
        self.unproven.clear();
        let ring = Ring(&self.ring);
        let mut undone = Undone::default();
        for batch in &self.scan.batches {
            let corrupt = |e: FormatError| StoreError::Corrupt {
                structure: "log batch",
                at: LOG_AT + batch.header.position % superblock.log_bytes,
                detail: format!("batch {}: {e}", batch.header.seq),
            };
            for (nth, record) in ring.records(batch).map_err(corrupt)?.into_iter().enumerate() {
                let id = (batch.header.seq, nth);
                self.records += 1;
                if batch.header.seq > self.scan.flushed {
                    note_unproven(id, &record, &mut self.unproven);
                }
                if let Some(record) = passed_over(id, record, &self.skip, &mut undone) {
                    state.replay(record, true).map_err(corrupt)?;
                }
            }
        }
        // Last: a record that forgets damage was written before this one, and means an older one.
        state.damaged |= self.scan.damage.is_some();
        Ok(())
    }

    /// The reads that prove the data which is not known to be flushed and which something still names.
    pub(super) fn unproven(&mut self, state: &State, capacity: u64) -> Vec<(u64, u32)> {
        if self.unproven.is_empty() {
            return Vec::new();
        }
        let named: BTreeSet<BlockAddr> = state.blocks_in_memory().collect();
        self.unproven.retain(|u| named.contains(&u.addr) && u.addr.byte_offset() < capacity);
        // A block that was used twice belongs to its last record.
        let mut last = BTreeMap::new();
        self.unproven.drain(..).for_each(|u| {
            last.insert(u.addr, u);
        });
        self.unproven = last.into_values().collect();
        self.unproven.iter().map(|u| (u.addr.byte_offset(), BLOCK_BYTES)).collect()
    }

    /// Looks at what the reads brought. Replays again where something has to be undone.
    pub(super) fn judge(
        &mut self,
        superblock: &Superblock,
        state: &mut State,
        results: &[DiskResult],
    ) -> Result<Suspicion, StoreError> {
        let is_good = |u: &Unproven, r: &DiskResult| {
            r.as_ref().is_ok_and(|b| b.len() == BLOCK_BYTES as usize && Crc::of(b) == u.crc)
        };
        let bad: BTreeSet<RecordId> =
            self.unproven.iter().zip(results).filter(|(u, r)| !is_good(u, r)).map(|(u, _)| u.record).collect();
        let mut suspicion = Suspicion::default();
        if bad.is_empty() {
            return Ok(suspicion);
        }
        let mut suspects = Vec::new();
        let ring = Ring(&self.ring);
        for batch in self.scan.batches.iter().filter(|b| bad.iter().any(|(seq, _)| *seq == b.header.seq)) {
            for (nth, record) in ring.records(batch).unwrap_or_default().into_iter().enumerate() {
                if !bad.contains(&(batch.header.seq, nth)) {
                    continue;
                }
                match record {
                    Record::Prepare { pg, write, .. } => suspects.push((pg, write.chunk, write.version)),
                    Record::Push { chunk, to, .. } => {
                        self.skip.insert((batch.header.seq, nth));
                        suspicion.undone.push(format!("the push of {chunk} to {to} was not complete: undone"));
                    }
                    Record::Repair { chunk, block, .. } => {
                        self.skip.insert((batch.header.seq, nth));
                        suspicion
                            .undone
                            .push(format!("the repair of block {} of {chunk} was not complete: undone", block.0));
                    }
                    _ => {}
                }
            }
        }
        if !self.skip.is_empty() {
            self.run(superblock, state)?;
        }
        for (pg, chunk, version) in suspects {
            // One that was committed meanwhile is found bad by whoever reads it.
            if let Some(entry) = state.pg_mut(pg).prepared.get_mut(&(chunk, version)) {
                entry.public.data_good = false;
                suspicion.suspect.push(format!("the data of the prepared write {version} of {chunk} ({pg}) is bad"));
            }
        }
        Ok(suspicion)
    }
}

/// Chunks of which something was undone.
#[derive(Debug, Default)]
struct Undone {
    /// A push, and so all that followed.
    pushes: BTreeSet<(PgId, ChunkId)>,
    /// A repair: a later merge names a place that is nothing now.
    repairs: BTreeSet<(PgId, ChunkId)>,
}

/// Whether a record counts: not if its data was bad, nor if it builds on such a push, nor if it is a merge that moves such data.
fn passed_over(id: RecordId, record: Record, skip: &BTreeSet<RecordId>, undone: &mut Undone) -> Option<Record> {
    let about = match &record {
        Record::Prepare { pg, write, .. } => (*pg, write.chunk),
        Record::PrepareMerge { pg, write, .. } => {
            let about = (*pg, write.chunk);
            let below = (*pg, write.merged_chunk().unwrap_or(write.chunk));
            if undone.pushes.contains(&below) || undone.repairs.contains(&below) {
                undone.pushes.extend([about, below]);
            }
            about
        }
        Record::Push { pg, chunk, .. } | Record::Repair { pg, chunk, .. } => (*pg, *chunk),
        Record::DropChunk { pg, chunk } => {
            undone.pushes.remove(&(*pg, *chunk));
            undone.repairs.remove(&(*pg, *chunk));
            return Some(record);
        }
        _ => return Some(record),
    };
    if skip.contains(&id) {
        match record {
            Record::Push { .. } => undone.pushes.insert(about),
            _ => undone.repairs.insert(about),
        };
        return None;
    }
    if undone.pushes.contains(&about) { None } else { Some(record) }
}

fn note_unproven(record: RecordId, what: &Record, unproven: &mut Vec<Unproven>) {
    let mut note = |runs: &[Run], crcs: &mut dyn Iterator<Item = Crc>| {
        let addrs = runs.iter().flat_map(|run| run.blocks());
        unproven.extend(addrs.zip(crcs).map(|(addr, crc)| Unproven { record, addr, crc }));
    };
    match what {
        Record::Prepare { write, runs, .. } => {
            if let Change::Write { crcs, .. } = &write.change {
                note(runs, &mut crcs.iter().copied());
            }
        }
        Record::Push { blocks, runs, .. } => note(runs, &mut blocks.iter().filter_map(|b| b.state.crc)),
        Record::Repair { crc, at, .. } => note(&[Run::one(*at)], &mut std::iter::once(*crc)),
        _ => {}
    }
}
