//! Log records: what was done, in order. A record is a kind, the length of its body, and the body.

use super::codec::{CHUNK_VERSION_BYTES, PUSHED_BLOCK_BYTES, Put, RETRY_ID_BYTES, Reader};
use super::moved::{self, MovedBlock};
use super::{BlockAddr, FormatError, Run};
use ashlar_types::view::{Fences, Floor};
use ashlar_types::{
    AttachmentId, BlockIndex, ChunkId, Crc, Epoch, Generation, IdSet, Numbered, PgId, StackRevision, Version, VolumeId,
};
use ashlar_wire::{Change, JoinMeta, PushedBlock, RetryId, WriteMeta};
use bytes::{BufMut, BytesMut};

/// Kind u8, three zero bytes, length u32.
pub const RECORD_HEADER_BYTES: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Prepare {
        pg: PgId,
        write: WriteMeta,
        /// Where its blocks are; together as many as it writes.
        runs: Vec<Run>,
    },
    /// A prepared write that is a merge, with what replay could not know without reading index pages.
    PrepareMerge {
        pg: PgId,
        write: WriteMeta,
        /// In order.
        moved: Vec<MovedBlock>,
    },
    Resolve {
        pg: PgId,
        commit: Vec<(ChunkId, Version)>,
        rollback: Vec<(ChunkId, Version)>,
        rolled_back: Vec<(ChunkId, Version)>,
    },
    Promise {
        pg: PgId,
        epoch: Epoch,
    },
    RaiseFloor {
        pg: PgId,
        fences: Fences,
    },
    Join {
        pg: PgId,
        meta: JoinMeta,
    },
    Push {
        pg: PgId,
        chunk: ChunkId,
        from: Version,
        to: Version,
        blocks: Vec<PushedBlock>,
        ids: Vec<RetryId>,
        runs: Vec<Run>,
    },
    DropChunk {
        pg: PgId,
        chunk: ChunkId,
    },
    Repair {
        pg: PgId,
        chunk: ChunkId,
        block: BlockIndex,
        stamp: Version,
        crc: Crc,
        at: BlockAddr,
    },
    ForgetRolledBack {
        pg: PgId,
    },
    ForgetDamage,
}

const PREPARE: u8 = 1;
const RESOLVE: u8 = 2;
const PROMISE: u8 = 3;
const RAISE_FLOOR: u8 = 4;
const JOIN: u8 = 5;
const PUSH: u8 = 6;
const DROP_CHUNK: u8 = 7;
const REPAIR: u8 = 8;
const FORGET_ROLLED_BACK: u8 = 9;
const FORGET_DAMAGE: u8 = 10;
/// Not written any more.
const PREPARE_MERGE_LISTED: u8 = 11;
const PREPARE_MERGE: u8 = 12;

/// Adds a record of some kind whose body `body` writes.
fn put_record(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_u64_le(u64::from(kind));
    body(out);
    let len = out.len() - at - RECORD_HEADER_BYTES;
    super::codec::put_u32_at(out, at + 4, u32::try_from(len).expect("a record fits a batch"));
}

pub fn encode_prepare(out: &mut BytesMut, pg: PgId, write: &WriteMeta, runs: &[Run]) {
    put_record(out, PREPARE, |out| {
        out.put_pg(pg);
        out.put_write_meta(write);
        out.put_runs(runs);
    });
}

pub fn encode_prepare_merge(out: &mut BytesMut, pg: PgId, write: &WriteMeta, moved: &[MovedBlock]) {
    put_record(out, PREPARE_MERGE, |out| {
        out.put_pg(pg);
        out.put_write_meta(write);
        moved::put_runs(out, moved);
    });
}

pub fn encode_resolve(
    out: &mut BytesMut,
    pg: PgId,
    commit: &[(ChunkId, Version)],
    rollback: &[(ChunkId, Version)],
    rolled_back: &[(ChunkId, Version)],
) {
    put_record(out, RESOLVE, |out| {
        out.put_pg(pg);
        out.put_chunk_versions(commit.iter().copied());
        out.put_chunk_versions(rollback.iter().copied());
        out.put_chunk_versions(rolled_back.iter().copied());
    });
}

pub fn encode_promise(out: &mut BytesMut, pg: PgId, epoch: Epoch) {
    put_record(out, PROMISE, |out| {
        out.put_pg(pg);
        out.put_u32_le(epoch.0);
    });
}

pub fn encode_raise_floor(out: &mut BytesMut, pg: PgId, fences: &Fences) {
    put_record(out, RAISE_FLOOR, |out| {
        out.put_pg(pg);
        put_fences(out, fences);
    });
}

pub fn encode_join(out: &mut BytesMut, pg: PgId, meta: &JoinMeta) {
    put_record(out, JOIN, |out| {
        out.put_pg(pg);
        put_fences(out, &meta.fences);
        out.put_chunk_versions(meta.rolled_back.iter().copied());
    });
}

#[expect(clippy::too_many_arguments, reason = "the fields of one record")]
pub fn encode_push(
    out: &mut BytesMut,
    pg: PgId,
    chunk: ChunkId,
    from: Version,
    to: Version,
    blocks: &[PushedBlock],
    ids: &[RetryId],
    runs: &[Run],
) {
    put_record(out, PUSH, |out| {
        out.put_pg(pg);
        out.put_chunk(chunk);
        out.put_u64_le(from.to_bits());
        out.put_u64_le(to.to_bits());
        out.put_count(blocks.len());
        blocks.iter().for_each(|block| out.put_pushed_block(block));
        out.put_count(ids.len());
        ids.iter().for_each(|id| out.put_retry_id(id));
        out.put_runs(runs);
    });
}

pub fn encode_drop_chunk(out: &mut BytesMut, pg: PgId, chunk: ChunkId) {
    put_record(out, DROP_CHUNK, |out| {
        out.put_pg(pg);
        out.put_chunk(chunk);
    });
}

pub fn encode_repair(
    out: &mut BytesMut,
    pg: PgId,
    chunk: ChunkId,
    block: BlockIndex,
    stamp: Version,
    crc: Crc,
    at: BlockAddr,
) {
    put_record(out, REPAIR, |out| {
        out.put_pg(pg);
        out.put_chunk(chunk);
        out.put_u16_le(block.0);
        out.put_u16_le(0);
        out.put_u64_le(stamp.to_bits());
        out.put_u32_le(crc.0);
        out.put_runs(&[Run::one(at)]);
    });
}

pub fn encode_forget_rolled_back(out: &mut BytesMut, pg: PgId) {
    put_record(out, FORGET_ROLLED_BACK, |out| out.put_pg(pg));
}

pub fn encode_forget_damage(out: &mut BytesMut) {
    put_record(out, FORGET_DAMAGE, |_| {});
}

impl Record {
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Record::Prepare { pg, write, runs } => encode_prepare(out, *pg, write, runs),
            Record::PrepareMerge { pg, write, moved } => encode_prepare_merge(out, *pg, write, moved),
            Record::Resolve { pg, commit, rollback, rolled_back } => {
                encode_resolve(out, *pg, commit, rollback, rolled_back);
            }
            Record::Promise { pg, epoch } => encode_promise(out, *pg, *epoch),
            Record::RaiseFloor { pg, fences } => encode_raise_floor(out, *pg, fences),
            Record::Join { pg, meta } => encode_join(out, *pg, meta),
            Record::Push { pg, chunk, from, to, blocks, ids, runs } => {
                encode_push(out, *pg, *chunk, *from, *to, blocks, ids, runs);
            }
            Record::DropChunk { pg, chunk } => encode_drop_chunk(out, *pg, *chunk),
            Record::Repair { pg, chunk, block, stamp, crc, at } => {
                encode_repair(out, *pg, *chunk, *block, *stamp, *crc, *at);
            }
            Record::ForgetRolledBack { pg } => encode_forget_rolled_back(out, *pg),
            Record::ForgetDamage => encode_forget_damage(out),
        }
    }

    /// Takes one record off the front of `bytes`.
    pub fn decode(bytes: &mut &[u8]) -> Result<Record, FormatError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8()?;
        reader.zero(3)?;
        let len = reader.u32()? as usize;
        let mut body = Reader::new(reader.take(len)?);
        let record = Record::decode_body(kind, &mut body)?;
        if !body.is_empty() {
            return Err(FormatError::Invalid("a record longer than its contents"));
        }
        *bytes = &bytes[RECORD_HEADER_BYTES + len..];
        Ok(record)
    }

    fn decode_body(kind: u8, r: &mut Reader<'_>) -> Result<Record, FormatError> {
        if kind == FORGET_DAMAGE {
            return Ok(Record::ForgetDamage);
        }
        let pg = r.pg()?;
        Ok(match kind {
            PREPARE => {
                let (write, runs) = (r.write_meta()?, r.runs()?);
                if write.change.is_merge() {
                    return Err(FormatError::Invalid("a merge that does not say what it moves"));
                }
                check_blocks(&runs, blocks_written(&write))?;
                Record::Prepare { pg, write, runs }
            }
            PREPARE_MERGE | PREPARE_MERGE_LISTED => {
                let write = r.write_meta()?;
                let moved = if kind == PREPARE_MERGE { moved::runs(r)? } else { moved::list(r)? };
                check_merge(&write)?;
                Record::PrepareMerge { pg, write, moved }
            }
            RESOLVE => Record::Resolve {
                pg,
                commit: r.counted(CHUNK_VERSION_BYTES, Reader::chunk_version)?,
                rollback: r.counted(CHUNK_VERSION_BYTES, Reader::chunk_version)?,
                rolled_back: r.counted(CHUNK_VERSION_BYTES, Reader::chunk_version)?,
            },
            PROMISE => Record::Promise { pg, epoch: Epoch(r.u32()?) },
            RAISE_FLOOR => Record::RaiseFloor { pg, fences: fences(r)? },
            JOIN => {
                let fences = fences(r)?;
                let rolled_back = r.counted(CHUNK_VERSION_BYTES, Reader::chunk_version)?;
                Record::Join { pg, meta: JoinMeta { fences, rolled_back } }
            }
            PUSH => Self::decode_push(pg, r)?,
            DROP_CHUNK => Record::DropChunk { pg, chunk: r.chunk()? },
            REPAIR => {
                let (chunk, block) = (r.chunk()?, BlockIndex(r.u16()?));
                r.zero(2)?;
                let (stamp, crc, runs) = (r.version()?, Crc(r.u32()?), r.runs()?);
                check_blocks(&runs, 1)?;
                if u32::from(block.0) >= ashlar_types::BLOCKS_PER_CHUNK {
                    return Err(FormatError::Invalid("a block past the end of its chunk"));
                }
                Record::Repair { pg, chunk, block, stamp, crc, at: runs[0].first }
            }
            FORGET_ROLLED_BACK => Record::ForgetRolledBack { pg },
            _ => return Err(FormatError::Invalid("a record of an unknown kind")),
        })
    }

    fn decode_push(pg: PgId, r: &mut Reader<'_>) -> Result<Record, FormatError> {
        let (chunk, from, to) = (r.chunk()?, r.version()?, r.version()?);
        let blocks = r.counted(PUSHED_BLOCK_BYTES, Reader::pushed_block)?;
        let ids = r.counted(RETRY_ID_BYTES, Reader::retry_id)?;
        let runs = r.runs()?;
        if !blocks.is_sorted_by(|a, b| a.block < b.block) {
            return Err(FormatError::Invalid("pushed blocks out of order"));
        }
        check_blocks(&runs, blocks.iter().filter(|b| b.state.crc.is_some()).count())?;
        Ok(Record::Push { pg, chunk, from, to, blocks, ids, runs })
    }
}

/// How many blocks of data a write has.
pub fn blocks_written(write: &WriteMeta) -> usize {
    match &write.change {
        Change::Write { range, .. } => range.count().into(),
        Change::Zero { .. } | Change::Merge { .. } => 0,
    }
}

pub(super) fn check_merge(write: &WriteMeta) -> Result<(), FormatError> {
    match write.merged_chunk() {
        Some(below) if below.layer < write.chunk.layer => Ok(()),
        _ => Err(FormatError::Invalid("a merge of a layer that is not below")),
    }
}

pub(super) fn check_blocks(runs: &[Run], expected: usize) -> Result<(), FormatError> {
    if runs.iter().map(|run| run.count as usize).sum::<usize>() != expected {
        return Err(FormatError::Invalid("a write with a wrong number of blocks"));
    }
    Ok(())
}

fn put_floor(out: &mut impl BufMut, volume: VolumeId, floor: &Floor) {
    out.put_u64_le(volume.0);
    out.put_u32_le(floor.stack_revision.0);
    out.put_u32_le(u32::from(floor.closed));
    out.put_u64_le(floor.oldest_attachment.0);
    out.put_count(floor.generations.len());
    for (attachment, generation) in &floor.generations {
        out.put_u64_le(attachment.0);
        out.put_u32_le(generation.0);
    }
}

fn floor(r: &mut Reader<'_>) -> Result<(VolumeId, Floor), FormatError> {
    let volume = VolumeId(r.u64()?);
    let stack_revision = StackRevision(r.u32()?);
    let closed = match r.u32()? {
        0 => false,
        1 => true,
        _ => return Err(FormatError::Reserved),
    };
    let oldest_attachment = AttachmentId(r.u64()?);
    let generations = r.counted(12, |r| Ok((AttachmentId(r.u64()?), Generation(r.u32()?))))?;
    Ok((volume, Floor { stack_revision, oldest_attachment, generations: generations.into_iter().collect(), closed }))
}

pub(super) fn put_fences(out: &mut impl BufMut, fences: &Fences) {
    out.put_count(fences.floors.len());
    fences.floors.iter().for_each(|(volume, floor)| put_floor(out, *volume, floor));
    put_ids(out, &fences.gone);
    put_ids(out, &fences.retired);
}

pub(super) fn fences(r: &mut Reader<'_>) -> Result<Fences, FormatError> {
    Ok(Fences { floors: r.counted(28, floor)?.into_iter().collect(), gone: ids(r)?, retired: ids(r)? })
}

fn put_ids<T: Numbered>(out: &mut impl BufMut, ids: &IdSet<T>) {
    out.put_count(ids.ranges().len());
    for (first, last) in ids.ranges() {
        out.put_u64_le(first.number());
        out.put_u64_le(last.number());
    }
}

fn ids<T: Numbered>(r: &mut Reader<'_>) -> Result<IdSet<T>, FormatError> {
    let ranges = r.counted(16, |r| Ok((T::of(r.u64()?), T::of(r.u64()?))))?;
    IdSet::from_ranges(ranges).ok_or(FormatError::Invalid("ranges of ids that overlap or touch"))
}
