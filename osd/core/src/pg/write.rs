//! The path of a write through its primary: merge what covers blocks only partly, get credit (credit.rs), number it, prepare it everywhere,
//! commit it, answer (R1, R9, R12).

use super::primary::{InFlight, Proposal, Queued, refusal};
use super::stack::StackRead;
use super::{Pending, Pg};
use crate::env::Env;
use crate::perf::{Job, Lap};
use crate::policy::Policy;
use crate::store::Store;
use crate::store::api::{ReadKind, ReadOutcome, StoreOp, Token};
use ashlar_types::control::PgChange;
use ashlar_types::{
    BLOCK_BYTES, BlockIndex, BlockRange, ChunkId, Crc, Duration, Epoch, OpId, OsdId, Version, aligned_payload,
};
use ashlar_wire::{Change, IoKind, IoRequest, IoStatus, Message, Outcome, Prepare, Prepared, WriteMeta};
use bytes::Bytes;
use std::collections::BTreeSet;

/// After how long the data of a write kept from an earlier epoch is read again that could not be read; twice as long after each attempt.
const ADOPTED_AGAIN: Duration = Duration::from_millis(200);
const ADOPTED_DOUBLINGS_MAX: u32 = 5;

/// A write that waits for the old contents of its first or last block, or a fill that is to find nothing.
#[derive(Debug)]
pub(super) struct Merging {
    pub queued: Queued,
    /// Reads of this attempt that have not ended; those of an earlier one are passed over.
    pub awaited: BTreeSet<Token>,
    pub old: Vec<(BlockIndex, Bytes)>,
}

/// The parts of a request's payload that fall into each block, with where they begin in it.
fn fragments(request: &IoRequest) -> impl Iterator<Item = (u32, &[u8])> {
    let mut at = request.offset;
    let end = request.offset + request.len;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let within = at % BLOCK_BYTES;
        let len = (BLOCK_BYTES - within).min(end - at);
        let from = (at - request.offset) as usize;
        at += len;
        Some((within, &request.payload[from..from + len as usize]))
    })
}

/// Whether every fragment of a write has its CRC. The lengths have been checked.
pub(super) fn fragments_match(request: &IoRequest) -> bool {
    let mut crcs = request.crcs.iter();
    let all = fragments(request).all(|(_, bytes)| crcs.next().is_some_and(|crc| Crc::of(bytes) == *crc));
    all && crcs.next().is_none()
}

/// The blocks at the ends of its range that a write covers only partly.
pub(super) fn edges(request: &IoRequest, range: BlockRange) -> BTreeSet<BlockIndex> {
    let mut edges = BTreeSet::new();
    if !request.offset.is_multiple_of(BLOCK_BYTES) {
        edges.insert(range.first());
    }
    if !(request.offset + request.len).is_multiple_of(BLOCK_BYTES) {
        edges.insert(BlockIndex(range.end() - 1));
    }
    edges
}

impl Pg {
    /// The request's blocks are taken (`ChunkOps::begun`).
    pub(super) fn begin_write<P: Policy>(&mut self, queued: Queued, env: &mut Env<P>) {
        if !self.has_min_size::<P>(false) {
            self.end_begun(queued.request.chunk, queued.request.op, env);
            self.answer(queued.request.op, IoStatus::Retry, env);
            return;
        }
        let request = &queued.request;
        if request.kind == IoKind::Fill {
            self.read_first(queued, ReadKind::States, env);
            return;
        }
        if edges(request, queued.range).is_empty() {
            let change = match request.kind {
                IoKind::Zero => Change::Zero { range: queued.range },
                _ => Change::Write { range: queued.range, crcs: request.crcs.clone() },
            };
            let payload = request.payload.clone();
            let Queued { request, below, over, watch, .. } = queued;
            self.propose(Proposal { request, change, payload, below, is_over: over.is_some(), watch }, env);
            return;
        }
        self.read_first(queued, ReadKind::Data, env);
    }

    /// R12.
    pub(super) fn has_min_size<P: Policy>(&self, at_answer: bool) -> bool {
        self.config.in_sync.len() >= usize::from(self.config.min_size) || (at_answer && P::MIN_SIZE_AT_ADMISSION_ONLY)
    }

    /// What has to be known before the write: the data of the blocks that it covers only partly, or whether what it fills is unwritten.
    fn read_first<P: Policy>(&mut self, queued: Queued, kind: ReadKind, env: &mut Env<P>) {
        let ranges: Vec<BlockRange> = match kind {
            ReadKind::Data => {
                let edges = edges(&queued.request, queued.range).into_iter();
                edges.filter_map(|block| BlockRange::new(block, 1)).collect()
            }
            _ => vec![queued.range],
        };
        let pg = self.id;
        let (chunk, op) = (queued.request.chunk, queued.request.op);
        let Some(primary) = self.primary() else { return };
        let epoch = primary.epoch;
        let ops = primary.chunks.entry(chunk).or_default();
        let mut awaited = BTreeSet::new();
        for range in ranges {
            let token = env.read(pg, chunk, range, kind, Pending::Merge { epoch, chunk, op });
            awaited.insert(token);
            if let Some(below) = &queued.below {
                primary.stack_reads.insert(token, StackRead::new(kind, chunk, below.clone()));
            }
        }
        ops.merging.insert(op, Merging { queued, awaited, old: vec![] });
    }

    pub(super) fn on_merge_read<P: Policy>(
        &mut self,
        token: Token,
        epoch: Epoch,
        chunk: ChunkId,
        op: OpId,
        outcome: ReadOutcome,
        env: &mut Env<P>,
    ) {
        let Some(primary) = self.primary().filter(|p| p.epoch == epoch) else { return };
        let Some(ops) = primary.chunks.get_mut(&chunk) else { return };
        if !ops.merging.get(&op).is_some_and(|m| m.awaited.contains(&token)) {
            return;
        }
        if !outcome.bad.is_empty() {
            // Repaired from another member, then the edges are read again.
            let Some(merging) = ops.merging.remove(&op) else { return };
            let queued = merging.queued;
            self.repair_for(super::repair::Waiting::Merge(queued), &outcome, env);
            return;
        }
        let Some(merging) = ops.merging.get_mut(&op) else { return };
        if merging.queued.request.kind == IoKind::Fill {
            return self.on_fill_read(chunk, op, &outcome, env);
        }
        let block = outcome.range.first();
        let is_unwritten = outcome.states.first().is_none_or(|state| state.stamp == Version::NONE);
        let old = match &merging.queued.over {
            Some(base) if is_unwritten && !P::FORGOTTEN_BASE => match base.get(&block) {
                Some(old) => old.clone(),
                None => {
                    ops.merging.remove(&op);
                    self.fail_write(chunk, op, IoStatus::NeedsBase, env);
                    return;
                }
            },
            _ => outcome.data.into_iter().next().unwrap_or_default(),
        };
        merging.old.push((block, old));
        merging.awaited.remove(&token);
        if !merging.awaited.is_empty() {
            return;
        }
        let Some(merging) = ops.merging.remove(&op) else { return };
        let proposal = merge(merging);
        self.propose(proposal, env);
    }

    /// What a fill would be written over, if it is.
    fn on_fill_read<P: Policy>(&mut self, chunk: ChunkId, op: OpId, outcome: &ReadOutcome, env: &mut Env<P>) {
        let Some(ops) = self.primary().and_then(|primary| primary.chunks.get_mut(&chunk)) else { return };
        let Some(Merging { queued, .. }) = ops.merging.remove(&op) else { return };
        if outcome.states.iter().any(|state| state.stamp != Version::NONE) && !P::STALE_JOB_WORKER {
            self.fail_write(chunk, op, IoStatus::Written, env);
            return;
        }
        let Queued { request, range, below, over, watch, .. } = queued;
        let change = Change::Write { range, crcs: request.crcs.clone() };
        let payload = request.payload.clone();
        self.propose(Proposal { request, change, payload, below, is_over: over.is_some(), watch }, env);
    }

    /// Old contents or space could not be had: nothing was done.
    pub(super) fn fail_write<P: Policy>(&mut self, chunk: ChunkId, op: OpId, status: IoStatus, env: &mut Env<P>) {
        self.finish_begun(chunk, op, status, env);
    }

    /// Answers a begun request that leaves no record.
    pub(super) fn finish_begun<P: Policy>(&mut self, chunk: ChunkId, op: OpId, status: IoStatus, env: &mut Env<P>) {
        self.end_begun(chunk, op, env);
        self.answer(op, status, env);
    }

    /// Gives a begun request's blocks free for others. Does nothing for one that is in the chain already.
    fn end_begun<P: Policy>(&mut self, chunk: ChunkId, op: OpId, env: &mut Env<P>) {
        let Some(primary) = self.primary() else { return };
        if let Some(ops) = primary.chunks.get_mut(&chunk) {
            ops.begun.retain(|(o, _)| *o != op);
        }
        self.start_queued(chunk, env);
    }

    pub(super) fn answer<P: Policy>(&mut self, op: OpId, status: IoStatus, env: &mut Env<P>) {
        let epoch = self.config.epoch;
        if let Some(to) = self.primary().and_then(|p| p.ops.remove(&op)) {
            let status = if status == IoStatus::Ok && to.is_fill && env.is_busy() { IoStatus::OkBusy } else { status };
            env.reply(to.conn, refusal(op, status, epoch));
        }
    }

    /// Everybody who must have the write: in sync, about to be, or joining with this chunk already pushed (R1).
    pub(super) fn participants(&mut self, chunk: ChunkId, has_honest_joiners: bool) -> (Vec<OsdId>, Vec<OsdId>) {
        let in_sync = self.config.in_sync.clone();
        let Some(primary) = self.primary() else { return (vec![], vec![]) };
        let joiners: Vec<OsdId> = primary
            .joins
            .iter()
            .filter(|(_, join)| join.covers(chunk) || !has_honest_joiners)
            .map(|(member, _)| *member)
            .filter(|m| !in_sync.contains(m))
            .collect();
        (in_sync, joiners)
    }

    /// A whole-block change whose blocks are taken.
    pub(super) fn propose<P: Policy>(&mut self, mut proposal: Proposal, env: &mut Env<P>) {
        if self.is_fenced_off(&proposal, env) {
            return;
        }
        if let Change::Zero { range } = &mut proposal.change
            && !proposal.is_over
        {
            // What was never written, in no layer, needs no record that it is absent: whoever discards a whole new volume would fill the index with them.
            match self.touched(proposal.request.chunk, &proposal.below, *range, env) {
                Some(touched) => *range = touched,
                None => return self.answer_idle_zero(proposal, env),
            }
        }
        let blocks = self.cost_of(proposal.request.chunk, &proposal.change, env);
        let now = env.now;
        if let Change::Zero { range } = proposal.change {
            // On a full disk discards give space back, but only as fast as checkpoints can follow.
            let pages = Store::<P>::pages_of(range);
            if env.credit.available(env.store.space().free) < pages && !env.store.has_reserve_for(pages) {
                self.fail_write(proposal.request.chunk, proposal.request.op, IoStatus::Retry, env);
                return;
            }
        }
        let is_first = self.primary().is_some_and(|p| p.uncredited.is_empty());
        if blocks == 0 || (is_first && self.take_credit(&proposal, blocks, env)) {
            self.replicate(proposal, env);
        } else if let Some(primary) = self.primary() {
            if primary.uncredited.is_empty() {
                primary.uncredited_since = now;
            }
            primary.uncredited.push_back(proposal);
            self.keep_timer(env);
        }
    }

    /// The space credit that a change needs at each participant, who all reckon the same: the blocks of a write and the index pages that it
    /// makes due; of a zero the pages that nobody had, for the others replace one when the checkpoint ends, within the reserve.
    pub(super) fn cost_of<P: Policy>(&self, chunk: ChunkId, change: &Change, env: &Env<P>) -> u64 {
        match change {
            Change::Write { range, .. } => u64::from(range.count()) + Store::<P>::pages_of(*range),
            Change::Zero { range } => env.store.untouched_quarters(self.id, chunk, *range),
            // The store itself sees to it that its pages have room.
            Change::Merge { .. } => 0,
        }
    }

    /// A floor may have been raised while this write merged or waited for credit. Looked at before it takes credit, which only
    /// what is prepared uses up.
    pub(super) fn is_fenced_off<P: Policy>(&mut self, proposal: &Proposal, env: &mut Env<P>) -> bool {
        let Err(status) = self.judge_floors(&proposal.request, env) else { return false };
        self.fail_write(proposal.request.chunk, proposal.request.op, status, env);
        true
    }

    /// Numbers the write and has it prepared, here and at everybody else at once.
    pub(super) fn replicate<P: Policy>(&mut self, proposal: Proposal, env: &mut Env<P>) {
        let (pg, me, now) = (self.id, env.me(), env.now);
        let Proposal { request, change, payload, mut watch, .. } = proposal;
        watch.go(Lap::Store, &env.perf, now);
        let (chunk, op) = (request.chunk, request.op);
        let prev = env.store.versions(pg, chunk).newest;
        let epoch = self.config.epoch;
        let Some(version) = prev.successor(epoch) else {
            env.ask(pg, epoch, PgChange::NextEpoch);
            self.fail_write(chunk, op, IoStatus::Retry, env);
            return;
        };
        let write = WriteMeta {
            chunk,
            version,
            prev,
            op,
            lowest_unanswered: request.lowest_unanswered,
            volume: request.volume,
            attachment: request.attachment,
            generation: request.generation,
            change,
        };
        let (in_sync, joiners) = self.participants(chunk, !P::WRITE_ON_MISSING_CHUNK);
        let mut waiting: BTreeSet<OsdId> = in_sync.iter().copied().collect();
        if !P::JOINER_NOT_AWAITED {
            waiting.extend(&joiners);
        }
        for member in in_sync.into_iter().chain(joiners).filter(|m| *m != me) {
            let prepare = Prepare { pg, epoch, write: write.clone(), payload: payload.clone() };
            env.send(pg, member, Message::Prepare(prepare));
        }
        let op = StoreOp::Prepare { pg, write: write.clone(), payload: payload.clone() };
        env.store(pg, op, Pending::OwnPrepare { epoch, chunk, version });
        let Some(primary) = self.primary() else { return };
        let ops = primary.chunks.entry(chunk).or_default();
        ops.begun.retain(|(o, _)| *o != write.op);
        let telling = primary.tellings;
        let (watch, sent) = (Some(watch), env.perf.when_sent(now));
        let (since, unread) = (now, None);
        ops.chain.push_back(InFlight { write, payload, is_loaded: true, waiting, since, unread, telling, watch, sent });
        self.keep_timer(env);
    }

    pub(crate) fn on_prepared<P: Policy>(&mut self, from: OsdId, answer: &Prepared, env: &mut Env<P>) {
        self.on_prepared_by(from, answer.epoch, answer.chunk, answer.version, answer.outcome, env);
    }

    pub(super) fn on_prepared_by<P: Policy>(
        &mut self,
        from: OsdId,
        epoch: Epoch,
        chunk: ChunkId,
        version: Version,
        outcome: Outcome,
        env: &mut Env<P>,
    ) {
        let Some(primary) = self.primary().filter(|p| p.epoch == epoch) else { return };
        if outcome != Outcome::Ok {
            self.on_prepare_refused(from, outcome, env);
            return;
        }
        let Some(ops) = primary.chunks.get_mut(&chunk) else { return };
        let Some(in_flight) = ops.chain.iter_mut().find(|w| w.write.version == version) else { return };
        if in_flight.waiting.remove(&from) {
            in_flight.on_prepared(from == env.config.store.osd, &mut env.perf, env.now);
        }
        let telling = in_flight.telling;
        self.has_heard(from, telling);
        self.try_commit(chunk, env);
    }

    /// R9: a member that cannot take the next write of a chunk has lost its place; it is brought back by a join.
    fn on_prepare_refused<P: Policy>(&mut self, from: OsdId, outcome: Outcome, env: &mut Env<P>) {
        let (pg, epoch) = (self.id, self.config.epoch);
        match outcome {
            // Another primary has taken over, or the member has not heard of this epoch: the view will tell.
            Outcome::Ok | Outcome::WrongEpoch { .. } | Outcome::NotYet | Outcome::Missing => {}
            Outcome::BadChecksum => {
                env.warn(format!("{pg}: what {from} received was damaged on the way; opening a new connection"));
                env.net.reset(from, env.now);
                env.want_link(pg, from);
            }
            Outcome::Mismatch { .. } | Outcome::NoSpace if self.config.is_in_sync(from) => {
                env.warn(format!("{pg}: {from} refused a write ({outcome:?}); taking it out of in_sync"));
                env.ask(pg, epoch, PgChange::Remove(from));
            }
            Outcome::Mismatch { .. } | Outcome::NoSpace => {
                if self.primary().is_some_and(|p| p.pending_add.contains(&from)) {
                    env.ask(pg, epoch, PgChange::NextEpoch);
                } else {
                    self.lose_joiner(from, env);
                }
            }
        }
    }

    /// W1, R1, R12: commits the front of the chain as far as everybody has it, and answers.
    pub(super) fn try_commit<P: Policy>(&mut self, chunk: ChunkId, env: &mut Env<P>) {
        if !self.has_min_size::<P>(true) {
            return;
        }
        let (pg, me) = (self.id, env.me());
        let others: Vec<OsdId> = self.config.in_sync.iter().copied().filter(|m| *m != me).collect();
        let (mut answered, mut merged) = (Vec::new(), Vec::new());
        let Some(primary) = self.primary() else { return };
        let joining: Vec<OsdId> = primary.joins.keys().copied().collect();
        let Some(ops) = primary.chunks.get_mut(&chunk) else { return };
        if ops.pinned > 0 {
            return;
        }
        let mut newest = None;
        while ops.chain.front().is_some_and(|w| w.waiting.is_empty()) {
            let Some(done) = ops.chain.pop_front() else { break };
            newest = Some(done.write.version);
            merged.extend(done.write.merged_chunk());
            answered.push((done.write.op, done.watch));
        }
        let Some(newest) = newest else { return };
        for member in others.into_iter().chain(joining) {
            primary.untold.entry(member).or_default().insert(chunk, newest);
        }
        primary.untold_since.get_or_insert(env.now);
        env.dirty.insert(pg);
        env.store.commit(pg, &[(chunk, newest)]);
        for lower in merged {
            self.on_merged(chunk, lower, env);
        }
        for (op, watch) in answered {
            self.answer(op, IoStatus::Ok, env);
            watch.into_iter().for_each(|watch| env.perf.finish(Job::Write, watch));
        }
        self.start_queued(chunk, env);
        self.drive_floors(env);
    }

    pub(super) fn on_adopted_data<P: Policy>(
        &mut self,
        epoch: Epoch,
        chunk: ChunkId,
        version: Version,
        outcome: ReadOutcome,
        env: &mut Env<P>,
    ) {
        let Some(primary) = self.primary().filter(|p| p.epoch == epoch) else { return };
        let Some(ops) = primary.chunks.get_mut(&chunk) else { return };
        let Some(write) = ops.chain.iter_mut().find(|w| w.write.version == version) else { return };
        if !outcome.bad.is_empty() {
            // It may have been acknowledged, so it is not given up. A disk's error may pass.
            let tries = write.unread.map_or(0, |(tries, _)| tries);
            let span = ADOPTED_AGAIN.as_micros() << tries.min(ADOPTED_DOUBLINGS_MAX);
            write.unread = Some((tries + 1, env.now + Duration::from_micros(span)));
            if tries == 0 {
                env.warn(format!(
                    "{}: the data of undecided write {version} of {chunk} cannot be read; trying again, nobody can join before",
                    self.id
                ));
            }
            self.keep_timer(env);
            return;
        }
        write.unread = None;
        let mut payload = aligned_payload(outcome.range.bytes() as usize);
        outcome.data.iter().for_each(|block| payload.extend_from_slice(block));
        write.payload = payload.freeze();
        write.is_loaded = true;
        self.drive_joins(env);
    }
}

/// Lays a request's fragments over the old contents of the blocks that it covers only partly.
fn merge(merging: Merging) -> Proposal {
    let request = merging.queued.request;
    let range = merging.queued.range;
    let block = BLOCK_BYTES as usize;
    let mut payload = aligned_payload(range.bytes() as usize);
    payload.resize(range.bytes() as usize, 0);
    for (index, old) in &merging.old {
        let at = usize::from(index.0 - range.first().0) * block;
        payload[at..at + old.len()].copy_from_slice(old);
    }
    let from = (request.offset - range.byte_offset()) as usize;
    let to = from + request.len as usize;
    match request.kind {
        IoKind::Write => payload[from..to].copy_from_slice(&request.payload),
        _ => payload[from..to].fill(0),
    }
    let crcs = payload.chunks_exact(block).map(Crc::of).collect();
    let Queued { below, over, watch, .. } = merging.queued;
    let (change, payload) = (Change::Write { range, crcs }, payload.freeze());
    Proposal { change, payload, request, below, is_over: over.is_some(), watch }
}
