//! The primary brings members back (R8): it learns what a joining member has, pushes the blocks that differ chunk by chunk, sends it new
//! writes to what is pushed, and proposes it for `in_sync` when nothing is left.
//!
//! J1: a chunk's committed state doesn't change between reading what a member lacks and sending it (`ChunkOps::pinned`); undecided and
//!     new writes of the chunk follow the push in the same stream.
//! J2: once its chunk is sent a member is awaited by the chunk's writes (R1).
//! J3: once proposed a member is awaited until the epoch ends, whatever becomes of it: the proposal may still take effect.

use super::primary::{InFlight, Primary};
use super::{Pending, Pg};
use crate::env::Env;
use crate::policy::Policy;
use crate::store::api::{ReadKind, ReadOutcome, Token};
use ashlar_types::control::PgChange;
use ashlar_types::{BlockIndex, BlockRange, BootId, ChunkId, Duration, Epoch, OsdId, Tick, Version};
use ashlar_wire::{
    BlockState, Change, JoinChunks, JoinMeta, JoinStart, Message, Outcome, Prepare, Push, Pushed, PushedBlock,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Chunks on the way to one member at a time.
const WINDOW: usize = 2;
const BACK_OFF: Duration = Duration::from_millis(200);
/// A member that answers nothing for so long begins again: it may not have known this PG yet.
const PATIENCE: Duration = Duration::from_millis(5000);
const BACK_OFF_SPACE: Duration = Duration::from_millis(1000);
/// A chunk that could not be read is tried again after this time, twice as long after each attempt.
const UNREADABLE_AGAIN: Duration = Duration::from_millis(200);
const UNREADABLE_DOUBLINGS_MAX: u32 = 5;

#[derive(Debug)]
pub(super) struct Join {
    number: u32,
    boot: BootId,
    stage: Stage,
    /// When the member last answered.
    heard: Tick,
    /// Chunks that differ, with the version that the member has.
    todo: BTreeMap<ChunkId, Version>,
    /// Those of `todo` that could not be read here: how often, and when they are tried again. Others go first.
    unreadable: BTreeMap<ChunkId, (u32, Tick)>,
    /// The credit that undecided writes need before their chunk can be pushed, if the member has not given it.
    lacks: u64,
    reading: BTreeMap<ChunkId, Reading>,
    /// Sent and not answered.
    sent: BTreeMap<ChunkId, Sent>,
}

#[derive(Debug)]
enum Stage {
    Listing { theirs: BTreeMap<ChunkId, Version> },
    Pushing,
    BackOff { until: Tick },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    from: Version,
    /// `Version::NONE`: the member drops the chunk.
    to: Version,
}

#[derive(Debug)]
struct Reading {
    from: Version,
    to: Version,
    blocks: Vec<PushedBlock>,
    data: BTreeMap<BlockIndex, Bytes>,
    /// Reads of this attempt that have not ended; those of an earlier one are passed over.
    awaited: BTreeSet<Token>,
}

impl Join {
    fn new(number: u32, boot: BootId, stage: Stage, heard: Tick) -> Join {
        let (todo, unreadable, lacks, reading, sent) = Default::default();
        Join { number, boot, stage, heard, todo, unreadable, lacks, reading, sent }
    }

    /// Whether writes to this chunk go to the member: it has what came before, or that is on the way in the same stream.
    pub(super) fn covers(&self, chunk: ChunkId) -> bool {
        matches!(self.stage, Stage::Pushing)
            && !self.todo.contains_key(&chunk)
            && !self.reading.contains_key(&chunk)
            // Being dropped, to be pushed from nothing.
            && self.sent.get(&chunk).is_none_or(|sent| sent.to != Version::NONE)
    }

    /// Whether the member has not answered the beginning of the join: what it granted belongs to an older account.
    pub(super) fn is_beginning(&self) -> bool {
        matches!(self.stage, Stage::Listing { .. })
    }

    pub(super) fn slots(&self) -> usize {
        self.reading.len() + self.sent.len()
    }
}

impl Pg {
    /// Begins with every member that is up, linked and not in sync.
    pub(super) fn begin_joins<P: Policy>(&mut self, env: &mut Env<P>) {
        let (pg, epoch, now) = (self.id, self.config.epoch, env.now);
        let joining: Vec<OsdId> = self.config.joining().collect();
        for member in joining {
            let Some(info) = env.view.osds.get(&member).filter(|o| o.up) else { continue };
            let boot = info.boot;
            env.want_link(pg, member);
            let Some(primary) = self.primary() else { return };
            if let Some(join) = primary.joins.get(&member) {
                let is_over = match join.stage {
                    Stage::BackOff { until } => until <= now,
                    _ => {
                        join.boot != boot
                            || (join.slots() > 0 || matches!(join.stage, Stage::Listing { .. }))
                                && join.heard + PATIENCE <= now
                    }
                };
                if !is_over {
                    continue;
                }
                if primary.pending_add.contains(&member) {
                    // J3
                    env.ask(pg, epoch, PgChange::NextEpoch);
                    continue;
                }
                self.lose_joiner(member, env);
            }
            if !env.net.is_ready(member) {
                continue;
            }
            let Some(primary) = self.primary() else { return };
            primary.joins_begun += 1;
            let number = primary.joins_begun;
            // The member begins a new account with the join.
            primary.credit.remove(&member);
            let join = Join::new(number, boot, Stage::Listing { theirs: BTreeMap::new() }, now);
            primary.joins.insert(member, join);
            let state = env.store.pg(pg).cloned().unwrap_or_default();
            let meta = JoinMeta { fences: state.fences, rolled_back: state.rolled_back.into_iter().collect() };
            let start = JoinStart { pg, epoch, join: number, after: None, meta: Some(meta) };
            env.send(pg, member, Message::JoinStart(start));
        }
        self.keep_timer(env);
    }

    /// The member is gone or must begin again. Nobody waits for it any more, unless it was proposed (J3).
    pub(super) fn lose_joiner<P: Policy>(&mut self, member: OsdId, env: &mut Env<P>) {
        let Some(primary) = self.primary() else { return };
        if primary.pending_add.contains(&member) {
            return;
        }
        let Some(join) = primary.joins.remove(&member) else { return };
        env.release_push_slots(join.slots());
        for chunk in join.reading.keys() {
            if let Some(ops) = primary.chunks.get_mut(chunk) {
                ops.pinned -= 1;
            }
        }
        let mut freed: Vec<ChunkId> = join.reading.into_keys().collect();
        for (chunk, ops) in &mut primary.chunks {
            for in_flight in &mut ops.chain {
                if in_flight.waiting.remove(&member) {
                    freed.push(*chunk);
                }
            }
        }
        for chunk in freed {
            self.try_commit(chunk, env);
            self.start_queued(chunk, env);
        }
        self.repeat_credit(env);
    }

    /// A member that is not in sync has less space than a write or a push needs. That is no reason to refuse the write, which has room where it must
    /// be; the member begins again later. Returns whether it was so.
    pub(super) fn back_off_full_joiner<P: Policy>(&mut self, member: OsdId, env: &mut Env<P>) -> bool {
        if self.config.is_in_sync(member) {
            return false;
        }
        let Some(primary) = self.primary() else { return false };
        let Some(join) = primary.joins.get(&member) else { return false };
        let left = primary.credit.get(&member).map_or(0, |line| line.granted - line.used);
        let mut needs = join.lacks;
        let waiting = primary.uncredited.iter().filter(|p| join.covers(p.request.chunk));
        let waiting: Vec<_> = waiting.map(|p| (p.request.chunk, p.change.clone())).collect();
        for (chunk, change) in waiting {
            needs = needs.max(self.cost_of(chunk, &change, env));
        }
        let is_short = left < needs;
        if is_short {
            self.back_off(member, BACK_OFF_SPACE, env);
        }
        is_short
    }

    fn back_off<P: Policy>(&mut self, member: OsdId, span: Duration, env: &mut Env<P>) {
        let (pg, epoch, until) = (self.id, self.config.epoch, env.now + span);
        let Some(primary) = self.primary() else { return };
        if primary.pending_add.contains(&member) {
            env.ask(pg, epoch, PgChange::NextEpoch);
            return;
        }
        let Some(join) = primary.joins.get(&member) else { return };
        let (number, boot) = (join.number, join.boot);
        self.lose_joiner(member, env);
        let Some(primary) = self.primary() else { return };
        primary.joins.insert(member, Join::new(number, boot, Stage::BackOff { until }, env.now));
        env.wake(pg, until);
    }

    fn join_of(&mut self, member: OsdId, epoch: Epoch, number: u32) -> Option<&mut Join> {
        let primary = self.primary().filter(|p| p.epoch == epoch)?;
        primary.joins.get_mut(&member).filter(|j| j.number == number)
    }

    pub(crate) fn on_join_chunks<P: Policy>(&mut self, member: OsdId, page: JoinChunks, env: &mut Env<P>) {
        let JoinChunks { pg, epoch, join: number, outcome, chunks, last, .. } = page;
        let now = env.now;
        let Some(join) = self.join_of(member, epoch, number) else { return };
        join.heard = now;
        let Stage::Listing { theirs } = &mut join.stage else { return };
        if outcome != Outcome::Ok {
            self.back_off(member, BACK_OFF, env);
            return;
        }
        let after = chunks.last().map(|(chunk, _)| *chunk);
        theirs.extend(chunks);
        if !last {
            let start = JoinStart { pg, epoch, join: number, after, meta: None };
            env.send(pg, member, Message::JoinStart(start));
            return;
        }
        let theirs = std::mem::take(theirs);
        let todo = self.differences(theirs, env);
        let Some(join) = self.join_of(member, epoch, number) else { return };
        join.todo = todo;
        join.stage = Stage::Pushing;
        self.drive_joins(env);
    }

    /// Every chunk of which the member has another version than this primary's newest.
    fn differences<P: Policy>(
        &self,
        mut theirs: BTreeMap<ChunkId, Version>,
        env: &Env<P>,
    ) -> BTreeMap<ChunkId, Version> {
        const PAGE: usize = 4096;
        let mut todo = BTreeMap::new();
        let mut after = None;
        loop {
            let page = env.store.chunks(self.id, after, PAGE);
            for (chunk, versions) in &page {
                let has = theirs.remove(chunk).unwrap_or(Version::NONE);
                if has != versions.newest {
                    todo.insert(*chunk, has);
                }
            }
            after = page.last().map(|(chunk, _)| *chunk);
            if page.len() < PAGE {
                break;
            }
        }
        // What is left this primary does not have at all.
        todo.extend(theirs);
        todo
    }

    /// Keeps pushes going, and proposes who needs no more.
    pub(super) fn drive_joins<P: Policy>(&mut self, env: &mut Env<P>) {
        let (pg, epoch) = (self.id, self.config.epoch);
        let members: Vec<OsdId> = self.primary().map(|p| p.joins.keys().copied().collect()).unwrap_or_default();
        for member in members {
            while let Some((chunk, from)) = self.next_push(member, env) {
                if !self.start_push(member, chunk, from, env) {
                    break;
                }
            }
            let Some(primary) = self.primary() else { return };
            let Some(join) = primary.joins.get(&member) else { continue };
            // A write kept from an older epoch may have been acknowledged there: the member must have it before it is proposed (R1).
            // Writes of this epoch are not answered without it.
            let lacks_adopted = primary
                .chunks
                .values()
                .flat_map(|c| &c.chain)
                .any(|w| w.write.version.epoch() < epoch && w.waiting.contains(&member));
            let is_done = matches!(join.stage, Stage::Pushing)
                && join.todo.is_empty()
                && join.slots() == 0
                && (!lacks_adopted || P::JOINER_NOT_AWAITED);
            if is_done {
                if primary.pending_add.insert(member) {
                    self.await_floors_of(member, env);
                }
                env.ask(pg, epoch, PgChange::Add(member));
            }
        }
    }

    /// The member has the chunk at `from`, and is to have nothing of it.
    fn send_drop<P: Policy>(&mut self, member: OsdId, chunk: ChunkId, from: Version, env: &mut Env<P>) {
        let (pg, epoch, to) = (self.id, self.config.epoch, Version::NONE);
        let Some(join) = self.primary().and_then(|p| p.joins.get_mut(&member)) else { return };
        join.sent.insert(chunk, Sent { from, to });
        let (join, blocks, ids) = (join.number, vec![], vec![]);
        let push = Push { pg, epoch, join, chunk, from, to, blocks, ids, payload: Bytes::new() };
        env.send(pg, member, Message::Push(push));
    }

    /// The writes that followed a refused push were refused too; nobody waits for the member with them.
    fn forget_sent_after<P: Policy>(&mut self, member: OsdId, chunk: ChunkId, env: &mut Env<P>) {
        if let Some(ops) = self.primary().and_then(|p| p.chunks.get_mut(&chunk)) {
            for in_flight in &mut ops.chain {
                in_flight.waiting.remove(&member);
            }
        }
        self.try_commit(chunk, env);
    }

    fn next_push<P: Policy>(&mut self, member: OsdId, env: &mut Env<P>) -> Option<(ChunkId, Version)> {
        let (pg, now) = (self.id, env.now);
        let primary = self.primary()?;
        let join = primary.joins.get(&member).filter(|j| matches!(j.stage, Stage::Pushing))?;
        if join.slots() >= WINDOW {
            return None;
        }
        let is_loaded = |chunk: &ChunkId| primary.chunks.get(chunk).is_none_or(|c| c.chain.iter().all(|w| w.is_loaded));
        let mut readable = join.todo.iter().filter(|(c, _)| !join.unreadable.contains_key(c));
        let again =
            join.unreadable.iter().filter(|(c, (_, at))| *at <= now && join.todo.contains_key(c) && is_loaded(c));
        let (chunk, from) = match readable.find(|(chunk, _)| is_loaded(chunk)) {
            Some((chunk, from)) => (*chunk, *from),
            None => {
                let (chunk, _) = again.min_by_key(|(_, (_, at))| *at)?;
                (*chunk, *join.todo.get(chunk)?)
            }
        };
        env.take_push_slot(pg).then_some((chunk, from))
    }

    /// Holds a push slot. Returns whether to go on with further chunks.
    fn start_push<P: Policy>(&mut self, member: OsdId, chunk: ChunkId, from: Version, env: &mut Env<P>) -> bool {
        let (pg, epoch) = (self.id, self.config.epoch);
        let committed = env.store.versions(pg, chunk).committed;
        let Some(primary) = self.primary() else { return false };
        let Some(join) = primary.joins.get_mut(&member) else { return false };
        let number = join.number;
        if join.slots() == 0 {
            join.heard = env.now;
        }
        join.todo.remove(&chunk);
        if from > committed {
            // Not in this PG's history: dropped first, then pushed from nothing.
            self.send_drop(member, chunk, from, env);
            return true;
        }
        let blocks = vec![];
        join.reading
            .insert(chunk, Reading { from, to: committed, blocks, data: BTreeMap::new(), awaited: BTreeSet::new() });
        primary.chunks.entry(chunk).or_default().pinned += 1;
        if from == committed {
            return self.finish_push(member, chunk, env);
        } else {
            let pending = Pending::PushStates { epoch, member, join: number };
            let token = env.read(pg, chunk, BlockRange::WHOLE, ReadKind::States, pending);
            if let Some(reading) = join_reading(self.primary(), member, chunk) {
                reading.awaited.insert(token);
            }
        }
        true
    }

    pub(super) fn on_push_states<P: Policy>(
        &mut self,
        token: Token,
        epoch: Epoch,
        member: OsdId,
        number: u32,
        outcome: ReadOutcome,
        env: &mut Env<P>,
    ) {
        let (pg, chunk) = (self.id, outcome.chunk);
        let Some(join) = self.join_of(member, epoch, number) else { return };
        let Some(reading) = join.reading.get_mut(&chunk).filter(|r| r.awaited.contains(&token)) else { return };
        reading.awaited.clear();
        if !outcome.bad.is_empty() {
            // What this primary's index said of the chunk is lost: it cannot bring anybody back.
            self.on_unreadable(member, &outcome, env);
            return;
        }
        if outcome.committed != reading.to {
            // Nothing commits while the chunk is pinned (J1), but its layer may have been retired: the member is told so too.
            assert!(outcome.committed == Version::NONE, "J1: {chunk} moved while it was pinned");
            self.cancel_push(member, chunk, false, env);
            env.wake(pg, env.now);
            return;
        }
        reading.blocks = outcome
            .range
            .iter()
            .zip(&outcome.states)
            .filter(|(_, state)| state.stamp > reading.from)
            .map(|(block, state)| PushedBlock { block, state: *state })
            .collect();
        let runs = present_runs(&reading.blocks);
        if runs.is_empty() {
            self.finish_push(member, chunk, env);
            return;
        }
        for run in runs {
            let token = env.read(pg, chunk, run, ReadKind::Data, Pending::PushData { epoch, member, join: number });
            if let Some(reading) = join_reading(self.primary(), member, chunk) {
                reading.awaited.insert(token);
            }
        }
    }

    pub(super) fn on_push_data<P: Policy>(
        &mut self,
        token: Token,
        epoch: Epoch,
        member: OsdId,
        number: u32,
        outcome: ReadOutcome,
        env: &mut Env<P>,
    ) {
        let chunk = outcome.chunk;
        let Some(join) = self.join_of(member, epoch, number) else { return };
        let Some(reading) = join.reading.get_mut(&chunk).filter(|r| r.awaited.contains(&token)) else { return };
        if outcome.committed != reading.to {
            // Its layer was retired meanwhile.
            self.cancel_push(member, chunk, false, env);
            env.wake(self.id, env.now);
            return;
        }
        if !outcome.bad.is_empty() {
            self.on_unreadable(member, &outcome, env);
            return;
        }
        reading.data.extend(outcome.range.iter().zip(outcome.data));
        reading.awaited.remove(&token);
        if reading.awaited.is_empty() {
            self.finish_push(member, chunk, env);
        }
    }

    /// A chunk cannot be read here. The member gets every other chunk first, and this one when it is repaired, or written anew.
    fn on_unreadable<P: Policy>(&mut self, member: OsdId, outcome: &ReadOutcome, env: &mut Env<P>) {
        let (pg, now, chunk) = (self.id, env.now, outcome.chunk);
        self.cancel_push(member, chunk, true, env);
        let Some(join) = self.primary().and_then(|p| p.joins.get_mut(&member)) else { return };
        let (tries, at) = join.unreadable.entry(chunk).or_default();
        let again = now + Duration::from_micros(UNREADABLE_AGAIN.as_micros() << (*tries).min(UNREADABLE_DOUBLINGS_MAX));
        *tries += 1;
        *at = again;
        let is_first = *tries == 1;
        if is_first {
            let blocks = outcome.bad.len();
            env.warn(format!(
                "{pg}: {blocks} blocks of {chunk} cannot be read: {member} cannot join before they are good"
            ));
        }
        let waiting = if is_first { super::repair::Waiting::Joiner } else { super::repair::Waiting::Nobody };
        self.repair_for(waiting, outcome, env);
        env.wake(pg, again);
        self.drive_joins(env);
    }

    /// Gives up what was read of a chunk for a member, before it was sent; `again`: the chunk is pushed later.
    fn cancel_push<P: Policy>(&mut self, member: OsdId, chunk: ChunkId, again: bool, env: &mut Env<P>) {
        let Some(join) = self.primary().and_then(|p| p.joins.get_mut(&member)) else { return };
        let Some(reading) = join.reading.remove(&chunk) else { return };
        if again {
            join.todo.insert(chunk, reading.from);
        }
        env.release_push_slots(1);
        self.unpin(chunk, env);
    }

    fn unpin<P: Policy>(&mut self, chunk: ChunkId, env: &mut Env<P>) {
        if let Some(ops) = self.primary().and_then(|p| p.chunks.get_mut(&chunk)) {
            ops.pinned -= 1;
        }
        self.try_commit(chunk, env);
        self.start_queued(chunk, env);
    }

    /// Sends the push, and behind it the chunk's undecided writes; from now on the member is awaited (J1, J2). `false`: it must wait for credit.
    fn finish_push<P: Policy>(&mut self, member: OsdId, chunk: ChunkId, env: &mut Env<P>) -> bool {
        let (pg, epoch) = (self.id, self.config.epoch);
        if !self.credit_for_chain(member, chunk, env) {
            return false;
        }
        let Some(primary) = self.primary() else { return false };
        let Some(join) = primary.joins.get_mut(&member) else { return false };
        let Some(reading) = join.reading.remove(&chunk) else { return false };
        let Reading { from, to, blocks, data, .. } = reading;
        join.unreadable.remove(&chunk);
        if from == to {
            env.release_push_slots(1);
        } else {
            join.sent.insert(chunk, Sent { from, to });
            let payload = super::read::join_pieces(data.into_values().collect());
            let ids = env.store.ids_of(pg, chunk);
            let ids = ids.into_iter().filter(|id| id.version <= to).collect();
            let push = Push { pg, epoch, join: join.number, chunk, from, to, blocks, ids, payload };
            env.net.send(member, Message::Push(push), env.now, &mut env.actions);
        }
        if let Some(ops) = primary.chunks.get_mut(&chunk) {
            for in_flight in &mut ops.chain {
                if !P::JOINER_NOT_AWAITED {
                    in_flight.waiting.insert(member);
                    in_flight.since = env.now;
                }
                let InFlight { write, payload, .. } = in_flight;
                let prepare = Prepare { pg, epoch, write: write.clone(), payload: payload.clone() };
                env.net.send(member, Message::Prepare(prepare), env.now, &mut env.actions);
            }
        }
        self.unpin(chunk, env);
        env.wake(pg, env.now);
        true
    }

    /// The undecided writes of a chunk need credit at the member too. Without it the chunk goes back to `todo` until it has come.
    fn credit_for_chain<P: Policy>(&mut self, member: OsdId, chunk: ChunkId, env: &mut Env<P>) -> bool {
        let Some(primary) = self.primary() else { return false };
        let chain = primary.chunks.get(&chunk).into_iter().flat_map(|c| &c.chain);
        let blocks: u64 = chain
            .map(|w| {
                if matches!(w.write.change, Change::Write { .. }) {
                    u64::from(w.write.change.range().count())
                } else {
                    0
                }
            })
            .sum();
        let line = primary.credit.entry(member).or_default();
        let suffices = line.granted - line.used >= blocks;
        if suffices {
            line.used += blocks;
        }
        if let Some(join) = primary.joins.get_mut(&member) {
            join.lacks = if suffices { 0 } else { blocks };
        }
        if suffices {
            return true;
        }
        self.ask_credit(member, blocks, env);
        self.cancel_push(member, chunk, true, env);
        false
    }

    pub(crate) fn on_pushed<P: Policy>(&mut self, member: OsdId, answer: &Pushed, env: &mut Env<P>) {
        let Pushed { epoch, join: number, chunk, to, outcome, .. } = *answer;
        let newest = env.store.versions(self.id, chunk).newest;
        let now = env.now;
        let Some(join) = self.join_of(member, epoch, number) else { return };
        join.heard = now;
        let Some(sent) = join.sent.get(&chunk).copied().filter(|sent| sent.to == to) else { return };
        let is_planted = P::WRITE_ON_MISSING_CHUNK && matches!(outcome, Outcome::Mismatch { newest } if newest >= to);
        match outcome {
            Outcome::Ok => {}
            _ if is_planted => {}
            Outcome::NoSpace if sent.from != Version::NONE => {
                // What it has of the chunk takes the room: it drops that first (R8: missing), then takes the chunk from nothing.
                self.forget_sent_after(member, chunk, env);
                self.send_drop(member, chunk, sent.from, env);
                return;
            }
            Outcome::NoSpace => {
                self.back_off(member, BACK_OFF_SPACE, env);
                return;
            }
            Outcome::BadChecksum => {
                env.net.reset(member, env.now);
                self.back_off(member, BACK_OFF, env);
                return;
            }
            _ => {
                self.back_off(member, BACK_OFF, env);
                return;
            }
        }
        join.sent.remove(&chunk);
        if to == Version::NONE && newest != Version::NONE {
            join.todo.insert(chunk, Version::NONE);
        }
        env.release_push_slots(1);
        self.drive_joins(env);
    }
}

fn join_reading(primary: Option<&mut Primary>, member: OsdId, chunk: ChunkId) -> Option<&mut Reading> {
    primary?.joins.get_mut(&member)?.reading.get_mut(&chunk)
}

/// Runs of neighbouring blocks that carry data.
fn present_runs(blocks: &[PushedBlock]) -> Vec<BlockRange> {
    let mut runs: Vec<BlockRange> = Vec::new();
    for PushedBlock { block, state: BlockState { crc, .. } } in blocks {
        if crc.is_none() {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end() == block.0 => {
                *run = BlockRange::new(run.first(), run.count() + 1).expect("blocks of one chunk");
            }
            _ => runs.push(BlockRange::new(*block, 1).expect("a block of the chunk")),
        }
    }
    runs
}
