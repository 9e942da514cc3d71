//! What each operation does when it is submitted: takes its blocks, encodes its record, applies it.

use super::allocator::Near;
use super::api::{StoreOp, Token};
use super::cache::{CachedPage, PageCache};
use super::device::{Device, Purpose};
use super::merge::{self, WaitingMerge};
use super::read::check_page;
use super::running::Running;
use super::state::State;
use crate::format::index_page::{PagePlace, SLOTS, Slot, slot_of};
use crate::format::{BlockAddr, Identity, PAGE_BYTES, log_record};
use crate::{DiskOp, DiskResult};
use ashlar_types::{BlockIndex, ChunkId, Crc, PgId, Version};
use ashlar_wire::{JoinMeta, WriteMeta};
use bytes::Bytes;

pub(super) struct SubmitContext<'a> {
    pub state: &'a mut State,
    pub cache: &'a mut PageCache,
    pub device: &'a mut Device,
    pub running: &'a mut Running,
}

/// A repair that waits for its index page.
#[derive(Debug)]
pub(super) struct WaitingRepair {
    token: Token,
    pg: PgId,
    chunk: ChunkId,
    block: BlockIndex,
    stamp: Version,
    crc: Crc,
    payload: Bytes,
    place: PagePlace,
    addr: BlockAddr,
    page: Option<CachedPage>,
}

impl WaitingRepair {
    pub(super) fn token(&self) -> Token {
        self.token
    }

    pub(super) fn on_page(&mut self, identity: Identity, result: DiskResult) {
        self.page = Some(check_page(result, identity, self.place));
    }
}

pub(super) fn submit(cx: &mut SubmitContext<'_>, token: Token, op: StoreOp) {
    let state = &mut *cx.state;
    match op {
        StoreOp::Prepare { pg, write, .. } if write.change.is_merge() => {
            return merge::advance(cx, WaitingMerge::new(token, pg, write));
        }
        StoreOp::Prepare { pg, write, payload } => return prepare(cx, token, pg, write, payload),
        StoreOp::Push { .. } => return push(cx, token, op),
        StoreOp::Repair { pg, chunk, block, stamp, crc, payload } => {
            return repair(cx, token, pg, chunk, block, (stamp, crc), payload, None);
        }
        StoreOp::Join { pg, meta } => return join(cx, token, pg, &meta),
        StoreOp::Resolve { pg, commit, rollback, rolled_back } => {
            state.resolve(pg, &commit, &rollback, &rolled_back);
            let bytes = &mut cx.running.log.open_batch().bytes;
            log_record::encode_resolve(bytes, pg, &commit, &rollback, &rolled_back);
        }
        StoreOp::Promise { pg, epoch } => {
            let promised = &mut state.pg_mut(pg).state.promised;
            assert!(epoch >= *promised, "R3: {pg} promised {promised}, not {epoch}");
            if epoch > *promised {
                merge::cancel_merges(cx.running, pg);
            }
            *promised = epoch;
            log_record::encode_promise(&mut cx.running.log.open_batch().bytes, pg, epoch);
        }
        StoreOp::RaiseFloor { pg, fences } => {
            state.raise_floor(pg, &fences);
            log_record::encode_raise_floor(&mut cx.running.log.open_batch().bytes, pg, &fences);
        }
        StoreOp::DropChunk { pg, chunk } => {
            state.drop_chunk(pg, chunk);
            log_record::encode_drop_chunk(&mut cx.running.log.open_batch().bytes, pg, chunk);
        }
        StoreOp::ForgetRolledBack { pg } => {
            state.pg_mut(pg).state.rolled_back.clear();
            log_record::encode_forget_rolled_back(&mut cx.running.log.open_batch().bytes, pg);
        }
        StoreOp::ForgetDamage => {
            state.damaged = false;
            log_record::encode_forget_damage(&mut cx.running.log.open_batch().bytes);
        }
    }
    added(cx, Some(token));
}

/// Nobody waits for it, so it doesn't make its batch leave.
pub(super) fn commit(cx: &mut SubmitContext<'_>, pg: PgId, commit: &[(ChunkId, Version)]) {
    cx.state.resolve(pg, commit, &[], &[]);
    log_record::encode_resolve(&mut cx.running.log.open_batch().bytes, pg, commit, &[], &[]);
    cx.running.log.current().added_lazily(&mut cx.state.freed.released);
    cx.device.stats.records += 1;
}

/// A record was encoded; what it freed is freed when it is durable.
pub(super) fn added(cx: &mut SubmitContext<'_>, token: Option<Token>) {
    cx.running.log.current().added(token, &mut cx.state.freed.released);
    cx.device.stats.records += 1;
}

fn prepare(cx: &mut SubmitContext<'_>, token: Token, pg: PgId, write: WriteMeta, payload: Bytes) {
    let blocks = log_record::blocks_written(&write);
    assert_eq!(payload.len(), blocks * PAGE_BYTES, "a payload fills its blocks");
    let runs = cx.running.space.allocate_data(blocks as u32, cx.running.log.near());
    let batch = cx.running.log.open_batch();
    log_record::encode_prepare(&mut batch.bytes, pg, &write, &runs);
    cx.running.log.add_data(&runs, &payload);
    cx.device.stats.client_bytes += payload.len() as u64;
    cx.state.prepare(pg, write, runs, Vec::new(), true);
    added(cx, Some(token));
}

fn push(cx: &mut SubmitContext<'_>, token: Token, op: StoreOp) {
    let StoreOp::Push { pg, chunk, from, to, blocks, ids, payload } = op else { unreachable!("the caller looked") };
    assert!(blocks.is_sorted_by(|a, b| a.block < b.block), "pushed blocks are in order");
    let present = blocks.iter().filter(|b| b.state.crc.is_some()).count();
    assert_eq!(payload.len(), present * PAGE_BYTES, "a payload fills its blocks");
    let runs = cx.running.space.allocate_data(present as u32, Near::Last);
    let batch = cx.running.log.open_batch();
    log_record::encode_push(&mut batch.bytes, pg, chunk, from, to, &blocks, &ids, &runs);
    cx.running.log.add_data(&runs, &payload);
    cx.device.stats.client_bytes += payload.len() as u64;
    cx.state.push(pg, chunk, from, to, &blocks, &ids, &runs);
    added(cx, Some(token));
}

/// Chunks some of whose states are lost are dropped as well, so that they are pushed whole; by records of their own, since replay does not
/// know what this process found out.
fn join(cx: &mut SubmitContext<'_>, token: Token, pg: PgId, meta: &JoinMeta) {
    merge::cancel_merges(cx.running, pg);
    cx.state.join(pg, meta);
    log_record::encode_join(&mut cx.running.log.open_batch().bytes, pg, meta);
    added(cx, None);
    let lost: Vec<ChunkId> =
        cx.state.pg_mut(pg).directory.iter().filter(|e| e.is_lost()).map(super::directory::Entry::chunk).collect();
    for chunk in lost {
        cx.state.drop_chunk(pg, chunk);
        log_record::encode_drop_chunk(&mut cx.running.log.open_batch().bytes, pg, chunk);
        added(cx, None);
    }
    cx.running.log.current().answer(token);
}

#[expect(clippy::too_many_arguments, reason = "the fields of one operation")]
fn repair(
    cx: &mut SubmitContext<'_>,
    token: Token,
    pg: PgId,
    chunk: ChunkId,
    block: BlockIndex,
    (stamp, crc): (Version, Crc),
    payload: Bytes,
    brought: Option<(BlockAddr, CachedPage)>,
) {
    assert_eq!(payload.len(), PAGE_BYTES, "a repair is of one block");
    assert_eq!(Crc::of(&payload), crc, "a repair brings a good copy");
    let (quarter, slot) = ((usize::from(block.0) / SLOTS) as u8, usize::from(block.0) % SLOTS);
    let Some(view) = cx.state.view(pg, chunk, quarter) else { return cx.running.log.open_batch().answer(token) };
    let addr = view.page.addr();
    let known = view.get(slot as u8).or_else(|| {
        if view.page.is_none() {
            return Some(Slot::Never);
        }
        let brought = brought.as_ref().filter(|(at, _)| *at == addr).map(|(_, page)| page.clone());
        Some(match brought.or_else(|| cx.cache.get(addr))? {
            CachedPage::Good(bytes) => slot_of(&bytes, slot),
            CachedPage::Damaged => Slot::Lost,
        })
    });
    match known {
        None => {
            let place = PagePlace { chunk, quarter, checkpoint: view.page.checkpoint() };
            let read = DiskOp::Read { at: addr.byte_offset(), len: PAGE_BYTES as u32 };
            cx.device.start(Purpose::RepairPage(token), read);
            let waiting = WaitingRepair { token, pg, chunk, block, stamp, crc, payload, place, addr, page: None };
            cx.running.repairs.push(waiting);
        }
        Some(now) if now == Slot::Lost || is_same(now, stamp, crc) => {
            let runs = cx.running.space.allocate_data(1, Near::Last);
            let batch = cx.running.log.open_batch();
            log_record::encode_repair(&mut batch.bytes, pg, chunk, block, stamp, crc, runs[0].first);
            cx.running.log.add_data(&runs, &payload);
            cx.device.stats.client_bytes += payload.len() as u64;
            cx.state.repair(pg, chunk, block, stamp, crc, runs[0].first);
            added(cx, Some(token));
        }
        Some(_) => cx.running.log.open_batch().answer(token),
    }
}

fn is_same(slot: Slot, stamp: Version, crc: Crc) -> bool {
    matches!(slot, Slot::Present { crc: c, stamp: s, .. } if c == crc && s == stamp)
}

/// Goes on with repairs whose page has come.
pub(super) fn retry_repairs(cx: &mut SubmitContext<'_>) {
    let (ready, waiting) = std::mem::take(&mut cx.running.repairs).into_iter().partition(|r| r.page.is_some());
    cx.running.repairs = waiting;
    let ready: Vec<WaitingRepair> = ready;
    for r in ready {
        let brought = r.page.map(|page| (r.addr, page));
        repair(cx, r.token, r.pg, r.chunk, r.block, (r.stamp, r.crc), r.payload, brought);
    }
}
