//! Checkpoint: a chain of pages whose payloads together list the directory's pages, the PGs' state and the prepared writes.

use super::codec::{CHUNK_VERSION_BYTES, Put, Reader, check_zero, put_u32_at, put_u64_at, u32_at, u64_at};
use super::log_record::{blocks_written, check_blocks, check_merge, fences, put_fences};
use super::moved::{self, MovedBlock};
use super::{BlockAddr, FormatError, Identity, PAGE_BYTES, Run, prefix};
use crate::store::api::{PgState, SessionState};
use ashlar_types::{AttachmentId, Crc, Epoch, Generation, OpNumber, PgId, SessionId, VolumeId};
use ashlar_wire::WriteMeta;
use bytes::BufMut;

pub const MAGIC: u64 = u64::from_le_bytes(*b"ASHLckpt");

pub(super) const CHECKPOINT_AT: usize = prefix::PREFIX_BYTES;
pub(super) const NEXT_AT: usize = 48;
pub(super) const NUMBER_AT: usize = 56;
pub(super) const USED_AT: usize = 60;
pub(super) const PAYLOAD_AT: usize = 64;
/// Bytes of the checkpoint in each page.
pub const PAYLOAD_BYTES: usize = PAGE_BYTES - PAYLOAD_AT;

/// One page of the chain. The payload is `page[64..64 + used]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainPage {
    pub checkpoint: u64,
    /// From 0.
    pub number: u32,
    pub used: u32,
    /// The page after it; none after the last.
    pub next: BlockAddr,
}

impl ChainPage {
    pub fn encode(&self, payload: &[u8], identity: Identity, page: &mut [u8]) {
        assert_eq!(page.len(), PAGE_BYTES, "a page");
        assert!(payload.len() <= PAYLOAD_BYTES && payload.len() == self.used as usize, "a payload fits its page");
        page.fill(0);
        put_u64_at(page, CHECKPOINT_AT, self.checkpoint);
        put_u64_at(page, NEXT_AT, self.next.0);
        put_u32_at(page, NUMBER_AT, self.number);
        put_u32_at(page, USED_AT, self.used);
        page[PAYLOAD_AT..PAYLOAD_AT + payload.len()].copy_from_slice(payload);
        prefix::seal(page, MAGIC, identity);
    }

    /// Page `number` of the checkpoint `checkpoint`, and its payload.
    pub fn decode(
        page: &[u8],
        identity: Identity,
        checkpoint: u64,
        number: u32,
    ) -> Result<(ChainPage, &[u8]), FormatError> {
        let page = page.get(..PAGE_BYTES).ok_or(FormatError::Short { need: PAGE_BYTES, have: page.len() })?;
        prefix::open(page, MAGIC, identity)?;
        let found = ChainPage {
            checkpoint: u64_at(page, CHECKPOINT_AT),
            number: u32_at(page, NUMBER_AT),
            used: u32_at(page, USED_AT),
            next: BlockAddr(u64_at(page, NEXT_AT)),
        };
        if found.checkpoint != checkpoint {
            return Err(FormatError::Place { what: "checkpoint", expected: checkpoint, found: found.checkpoint });
        }
        if found.number != number {
            return Err(FormatError::Place { what: "page", expected: number.into(), found: found.number.into() });
        }
        let used = found.used as usize;
        if used > PAYLOAD_BYTES || found.next > BlockAddr::MAX {
            return Err(FormatError::Invalid("a checkpoint page with an impossible length"));
        }
        check_zero(&page[PAYLOAD_AT + used..])?;
        Ok((found, &page[PAYLOAD_AT..PAYLOAD_AT + used]))
    }
}

/// Where a directory page is and what it must be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafRef {
    pub pg: PgId,
    pub addr: BlockAddr,
    pub crc: Crc,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedRecord {
    pub pg: PgId,
    pub data_good: bool,
    pub write: WriteMeta,
    /// Empty for a merge.
    pub runs: Vec<Run>,
    /// What a merge moves.
    pub moved: Vec<MovedBlock>,
}

/// What the payloads say, joined.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CheckpointBody {
    pub pgs: Vec<(PgId, PgState)>,
    pub prepared: Vec<PreparedRecord>,
    /// Within one PG in order of chunk.
    pub leaves: Vec<LeafRef>,
}

/// The parts in the order in which they are written: PGs, prepared writes, directory pages; each after its count.
pub fn put_pg_count(out: &mut Vec<u8>, count: usize) {
    out.put_count(count);
}

pub fn put_pg(out: &mut Vec<u8>, pg: PgId, state: &PgState) {
    out.put_pg(pg);
    out.put_u32_le(state.promised.0);
    put_fences(out, &state.fences);
    out.put_chunk_versions(state.rolled_back.iter().copied());
    out.put_count(state.sessions.len());
    for (id, session) in &state.sessions {
        out.put_u64_le(id.0);
        out.put_u64_le(session.volume.0);
        out.put_u64_le(session.attachment.0);
        out.put_u32_le(session.generation.0);
        out.put_u64_le(session.lowest_unanswered.0);
        out.put_count(session.writes.len());
        for (number, (chunk, version)) in &session.writes {
            out.put_u64_le(number.0);
            out.put_chunk(*chunk);
            out.put_u64_le(version.to_bits());
        }
    }
}

pub fn put_prepared(
    out: &mut Vec<u8>,
    pg: PgId,
    data_good: bool,
    write: &WriteMeta,
    runs: &[Run],
    moved: &[MovedBlock],
) {
    out.put_pg(pg);
    out.put_u32_le(u32::from(data_good));
    out.put_write_meta(write);
    if write.change.is_merge() {
        moved::put_list(out, moved);
    } else {
        out.put_runs(runs);
    }
}

pub fn put_leaves(out: &mut Vec<u8>, leaves: &[LeafRef]) {
    out.put_count(leaves.len());
    for leaf in leaves {
        out.put_pg(leaf.pg);
        out.put_u64_le(leaf.addr.0);
        out.put_u32_le(leaf.crc.0);
    }
}

impl CheckpointBody {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_pg_count(&mut out, self.pgs.len());
        self.pgs.iter().for_each(|(pg, state)| put_pg(&mut out, *pg, state));
        out.put_count(self.prepared.len());
        self.prepared.iter().for_each(|p| put_prepared(&mut out, p.pg, p.data_good, &p.write, &p.runs, &p.moved));
        put_leaves(&mut out, &self.leaves);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<CheckpointBody, FormatError> {
        let r = &mut Reader::new(bytes);
        let pgs = r.counted(32, |r| Ok((r.pg()?, pg_state(r)?)))?;
        let prepared = r.counted(80, prepared)?;
        let leaves = r.counted(20, |r| Ok(LeafRef { pg: r.pg()?, addr: BlockAddr(r.u64()?), crc: Crc(r.u32()?) }))?;
        if !r.is_empty() {
            return Err(FormatError::Invalid("a checkpoint longer than its contents"));
        }
        if leaves.iter().any(|leaf| leaf.addr.is_none() || leaf.addr > BlockAddr::MAX) {
            return Err(FormatError::Invalid("a directory page without an address"));
        }
        Ok(CheckpointBody { pgs, prepared, leaves })
    }
}

fn pg_state(r: &mut Reader<'_>) -> Result<PgState, FormatError> {
    Ok(PgState {
        promised: Epoch(r.u32()?),
        fences: fences(r)?,
        rolled_back: r.counted(CHUNK_VERSION_BYTES, Reader::chunk_version)?.into_iter().collect(),
        sessions: r.counted(40, |r| Ok((SessionId(r.u64()?), session(r)?)))?.into_iter().collect(),
    })
}

fn session(r: &mut Reader<'_>) -> Result<SessionState, FormatError> {
    Ok(SessionState {
        volume: VolumeId(r.u64()?),
        attachment: AttachmentId(r.u64()?),
        generation: Generation(r.u32()?),
        lowest_unanswered: OpNumber(r.u64()?),
        writes: r.counted(28, |r| Ok((OpNumber(r.u64()?), r.chunk_version()?)))?.into_iter().collect(),
    })
}

fn prepared(r: &mut Reader<'_>) -> Result<PreparedRecord, FormatError> {
    let pg = r.pg()?;
    let data_good = match r.u32()? {
        0 => false,
        1 => true,
        _ => return Err(FormatError::Reserved),
    };
    let write = r.write_meta()?;
    if write.change.is_merge() {
        check_merge(&write)?;
        return Ok(PreparedRecord { pg, data_good, write, runs: Vec::new(), moved: moved::list(r)? });
    }
    let runs = r.runs()?;
    check_blocks(&runs, blocks_written(&write))?;
    Ok(PreparedRecord { pg, data_good, write, runs, moved: Vec::new() })
}

/// The count of prepared writes, before them.
pub fn put_prepared_count(out: &mut Vec<u8>, count: usize) {
    out.put_count(count);
}
