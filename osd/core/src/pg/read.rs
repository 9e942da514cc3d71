//! Reads at the primary. R5: served only under unexpired leases of everybody who is awaited by writes, checked when the data
//! is in hand. R6: never past an undecided write to the same blocks (`start_queued` sees to it).

use super::over;
use super::primary::{Proposal, Queued, ReadOp, refusal};
use super::repair::Waiting;
use super::stack::StackRead;
use super::{Pending, Pg};
use crate::env::Env;
use crate::lease::LEASE;
use crate::perf::{Job, Lap};
use crate::policy::Policy;
use crate::store::api::{ReadKind, ReadOutcome, Token};
use ashlar_types::{BLOCK_BYTES, Duration, Epoch, OsdId, Tick, aligned_payload};
use ashlar_wire::{IoKind, IoReply, IoStatus, Message, OverReply};
use bytes::Bytes;

/// An unanswered request for a lease is repeated after this time.
const ASK_AGAIN: Duration = Duration::from_millis(50);

impl Pg {
    pub(super) fn begin_read<P: Policy>(&mut self, mut queued: Queued, env: &mut Env<P>) {
        let now = env.now;
        if !self.has_leases::<P>(env.me(), now) {
            queued.watch.come(Lap::Lease, &env.perf, now);
            if let Some(primary) = self.primary() {
                if !primary.awaits_leases() {
                    primary.unleased_since = now;
                }
                primary.unleased.push_back(queued);
            }
            self.ask_leases(env);
            self.keep_timer(env);
            return;
        }
        self.renew_leases(env);
        queued.watch.go(Lap::Store, &env.perf, now);
        let epoch = self.config.epoch;
        let kind = if queued.request.kind == IoKind::Read { ReadKind::Data } else { ReadKind::States };
        let token = env.read(self.id, queued.request.chunk, queued.range, kind, Pending::ClientRead { epoch });
        if let Some(primary) = self.primary() {
            if let Some(below) = &queued.below {
                primary.stack_reads.insert(token, StackRead::new(kind, queued.request.chunk, below.clone()));
            }
            primary.reads.insert(token, ReadOp { queued, depths: Vec::new() });
        }
    }

    /// Members whose leases a read needs: in sync or about to be, other than this OSD.
    fn lessors(&self, me: OsdId) -> impl Iterator<Item = OsdId> + '_ {
        self.config.members.iter().copied().filter(move |m| *m != me && self.is_awaited(*m))
    }

    fn has_leases<P: Policy>(&self, me: OsdId, now: Tick) -> bool {
        let super::Role::Active(primary) = &self.role else { return false };
        P::NO_READ_LEASE || self.lessors(me).all(|m| primary.leases.get(&m).is_some_and(|until| now < *until))
    }

    /// Asks for leases that are missing.
    pub(super) fn ask_leases<P: Policy>(&mut self, env: &mut Env<P>) {
        if self.primary().is_none_or(|p| !p.awaits_leases()) {
            return;
        }
        let lessors: Vec<OsdId> = self.lessors(env.me()).collect();
        for member in lessors {
            self.ask_lease(member, env);
        }
    }

    /// Asks early for leases that are in use, so that readers don't wait.
    fn renew_leases<P: Policy>(&mut self, env: &mut Env<P>) {
        let half = Duration::from_micros(LEASE.as_micros() / 2);
        let now = env.now;
        let lessors: Vec<OsdId> = self.lessors(env.me()).collect();
        for member in lessors {
            let is_fresh =
                |p: &mut super::primary::Primary| p.leases.get(&member).is_some_and(|until| now + half < *until);
            if !self.primary().is_some_and(is_fresh) {
                self.ask_lease(member, env);
            }
        }
    }

    fn ask_lease<P: Policy>(&mut self, member: OsdId, env: &mut Env<P>) {
        let (pg, now, epoch) = (self.id, env.now, self.config.epoch);
        let Some(primary) = self.primary() else { return };
        if primary.lease_asked.get(&member).is_some_and(|at| now < *at + ASK_AGAIN) {
            return;
        }
        primary.lease_asked.insert(member, now);
        env.want_link(pg, member);
        env.ask_lease(member, pg, epoch);
    }

    pub(super) fn retry_unleased<P: Policy>(&mut self, env: &mut Env<P>) {
        if !self.has_leases::<P>(env.me(), env.now) {
            return;
        }
        let Some(primary) = self.primary() else { return };
        for queued in std::mem::take(&mut primary.unleased) {
            // Back through the queue: a write may have come between (R6).
            let Some(primary) = self.primary() else { return };
            let chunk = queued.request.chunk;
            primary.chunks.entry(chunk).or_default().queue.push_back(queued);
            self.start_queued(chunk, env);
        }
        let zeroes = self.primary().map(|p| std::mem::take(&mut p.idle_zeroes)).unwrap_or_default();
        for zero in zeroes {
            self.propose(zero, env);
        }
    }

    /// Answers a zero in whose range nothing was ever written: it changes nothing, so nobody need have it. But as with a read it takes leases to
    /// know that nobody else has written there meanwhile (R5). Repeated after its answer was lost it is judged anew, which does no harm: it
    /// then takes effect there and then.
    pub(super) fn answer_idle_zero<P: Policy>(&mut self, zero: Proposal, env: &mut Env<P>) {
        let now = env.now;
        if self.has_leases::<P>(env.me(), now) {
            self.renew_leases(env);
            let (chunk, op) = (zero.request.chunk, zero.request.op);
            self.finish_begun(chunk, op, IoStatus::Ok, env);
            return;
        }
        let Some(primary) = self.primary() else { return };
        if !primary.awaits_leases() {
            primary.unleased_since = now;
        }
        primary.idle_zeroes.push(zero);
        self.ask_leases(env);
        self.keep_timer(env);
    }

    pub(super) fn on_client_read<P: Policy>(
        &mut self,
        token: Token,
        epoch: Epoch,
        outcome: ReadOutcome,
        env: &mut Env<P>,
    ) {
        let Some(primary) = self.primary().filter(|p| p.epoch == epoch) else { return };
        let Some(read) = primary.reads.remove(&token) else { return };
        if !outcome.bad.is_empty() {
            self.repair_for(Waiting::Read(read.queued), &outcome, env);
            return;
        }
        if !self.has_leases::<P>(env.me(), env.now) {
            // R5: the data is in hand, but it may be old by now.
            self.begin_read(read.queued, env);
            return;
        }
        let ReadOp { mut queued, depths } = read;
        // L2: a layer below may have been dropped while it was read.
        let standing = if queued.below.is_some() { self.judge_standing(&queued.request, env) } else { Ok(()) };
        if let Err(status) = standing {
            self.fail_read(&queued, status, env);
            return;
        }
        if queued.is_layers {
            self.answer_layers(&queued, &outcome.states, &depths, env);
            return;
        }
        self.answer_read(&queued, outcome, env);
        if queued.request.kind == IoKind::Read {
            queued.watch.come(Lap::Answer, &env.perf, env.now);
            env.perf.finish(Job::Read, queued.watch);
        }
    }

    fn answer_read<P: Policy>(&mut self, queued: &Queued, outcome: ReadOutcome, env: &mut Env<P>) {
        let blocks: Vec<_> = outcome.states.iter().map(|s| s.crc).collect();
        let payload = if queued.request.kind == IoKind::Read { join_pieces(outcome.data) } else { Bytes::new() };
        let reply = IoReply { op: queued.request.op, status: IoStatus::Ok, epoch: self.config.epoch, blocks, payload };
        let unwritten = if queued.over.is_some() { over::unwritten(queued.range, &outcome.states) } else { vec![] };
        let message = match unwritten.is_empty() {
            true => Message::IoReply(reply),
            false => Message::OverReply(OverReply { reply, unwritten }),
        };
        env.reply(queued.conn, message);
    }

    pub(super) fn fail_read<P: Policy>(&mut self, queued: &Queued, status: IoStatus, env: &mut Env<P>) {
        env.reply(queued.conn, refusal(queued.request.op, status, self.config.epoch));
    }
}

/// The present blocks one behind the other; a single one isn't copied.
pub(super) fn join_pieces(pieces: Vec<Bytes>) -> Bytes {
    let mut present: Vec<Bytes> = pieces.into_iter().filter(|p| !p.is_empty()).collect();
    if present.len() <= 1 {
        return present.pop().unwrap_or_default();
    }
    let mut joined = aligned_payload(present.len() * BLOCK_BYTES as usize);
    present.iter().for_each(|piece| joined.extend_from_slice(piece));
    joined.freeze()
}
