//! Merges at the primary (docs/decisions/027-merging-layers.md): the chunks of a frozen layer that nobody names any more are taken over, one after
//! the other, by those of the layer above it. Each is a replicated write of the upper chunk; that nothing is left of the layer below is told
//! to the metadata service.
//!
//! M1: a merge begins when nothing else is under way on either chunk, in an epoch in which all members are in sync: so no member is pushed
//!     anything meanwhile, and all have the same two chunks. What changed hands is never undecided and pushed at once.
//! M2: it changes no byte that anybody reads, so reads don't wait for it (R6). But one that goes through the stack may have looked at the upper
//!     chunk before and at the lower one after: those that were under way when a merge is committed begin anew.
//! M3: clients come first: one chunk at a time in each PG, with rests while they work. Nothing new begins before a barrier of the volume
//!     is passed here, so what is merged is frozen.
//! M4: nobody begins to read at a layer that is given up or merged into another. Those that had it as a snapshot are fenced by the floor;
//!     who stood on it with a clone is not, but its clone is gone, and what it may still ask for late is refused: parts of it have moved.

use super::floor::FloorOp;
use super::primary::{InFlight, ReadOp};
use super::repair::Waiting;
use super::{Pending, Pg, Role};
use crate::env::Env;
use crate::policy::Policy;
use crate::store::api::{MergeRefusal, StoreOp, Token};
use ashlar_types::control::PgChange;
use ashlar_types::view::Merge;
use ashlar_types::{
    AttachmentId, ChunkId, ChunkIndex, Duration, Generation, LayerId, OpId, OpNumber, SessionId, Tick, Version,
    VolumeId,
};
use ashlar_wire::{Change, IoStatus, Message, Outcome, Prepare, Prepared, WriteMeta};
use bytes::Bytes;
use std::collections::BTreeMap;

/// How long new writes to a chunk wait for those under way to end, before its merge is put off.
const HOLD_MAX: Duration = Duration::from_millis(100);
/// After which it is tried again.
const PUT_OFF: Duration = Duration::from_millis(500);
/// Between two chunks rests so many times as long as the last took, while clients work.
const REST_FACTOR: u64 = 4;
const REST_MAX: Duration = Duration::from_millis(1000);
/// Clients work if one has asked for something within this time.
const CLIENTS_LATELY: Duration = Duration::from_millis(1000);
/// That a PG is done is told again after this time, while the view still waits for it.
const TELL_AGAIN: Duration = Duration::from_millis(300);
/// How long a member may leave a merge unanswered: it may have to read eight index pages, or wait for a checkpoint.
pub(super) const MERGE_PATIENCE: Duration = Duration::from_millis(6000);
/// Merges are nobody's requests.
const NO_OP: OpId = OpId { session: SessionId(0), number: OpNumber(0) };

/// What a primary merges.
#[derive(Debug, Default)]
pub(super) struct Merges {
    now: Option<MergeOp>,
    rest_until: Tick,
    /// When the metadata service was last told that this PG is done with a merge.
    told: BTreeMap<u64, Tick>,
}

#[derive(Debug)]
struct MergeOp {
    volume: VolumeId,
    upper: ChunkId,
    lower: ChunkId,
    since: Tick,
    /// Prepared; until then it waits for what is under way on the chunk.
    has_begun: bool,
}

impl Merges {
    pub(super) fn has_slot(&self) -> bool {
        self.now.is_some()
    }
}

impl Pg {
    /// Begins what can begin, and tells what is done.
    pub(super) fn drive_merges<P: Policy>(&mut self, env: &mut Env<P>) {
        let (pg, now) = (self.id, env.now);
        if self.primary().is_none_or(|p| p.merges.now.is_none()) && env.view.merges.is_empty() {
            return;
        }
        // Without the PGs, of which there may be many.
        let brief = |m: &Merge| Merge { pgs: Vec::new(), ..*m };
        let wanted: Vec<Merge> = env.view.merges.iter().filter(|m| m.pgs.contains(&pg)).map(brief).collect();
        let Some(primary) = self.primary() else { return };
        primary.merges.told.retain(|id, _| wanted.iter().any(|m| m.id == *id));
        if let Some(op) = &primary.merges.now {
            let is_wanted = wanted.iter().any(|m| m.from == op.lower.layer && m.into == op.upper.layer);
            if !op.has_begun && (!is_wanted || op.since + HOLD_MAX <= now) {
                self.put_off_merge(env);
            } else {
                self.begin_held_merge(env);
            }
            return;
        }
        for merge in wanted {
            if !self.is_barred(merge.volume) {
                match next_chunk(pg, merge.from, env) {
                    None => self.tell_merged(merge.id, env),
                    Some(_) if P::LAYER_PURGED_EARLY => self.tell_merged(merge.id, env),
                    Some(lower) if self.start_merge(&merge, lower, env) => break,
                    Some(_) => {}
                }
            }
        }
        self.keep_timer(env);
    }

    pub(super) fn has_merges_to_do<P: Policy>(&self, env: &Env<P>) -> bool {
        env.view.merges.iter().any(|m| m.pgs.contains(&self.id))
    }

    /// M3
    fn is_barred(&mut self, volume: VolumeId) -> bool {
        let is_pending = |op: &FloorOp| op.volume() == volume && !op.is_passed();
        self.primary().is_none_or(|p| p.floors.values().any(is_pending))
    }

    /// M1
    fn may_merge<P: Policy>(&mut self) -> bool {
        let is_whole = self.config.in_sync.len() == self.config.members.len();
        let has_nobody_joining = self.primary().is_some_and(|p| p.joins.is_empty() && p.pending_add.is_empty());
        is_whole && has_nobody_joining && self.has_min_size::<P>(false)
    }

    /// Returns whether the PG is busy with it now, or has to rest first.
    fn start_merge<P: Policy>(&mut self, merge: &Merge, lower: ChunkId, env: &mut Env<P>) -> bool {
        let (pg, now) = (self.id, env.now);
        if !self.may_merge::<P>() {
            return false;
        }
        let Some(primary) = self.primary() else { return false };
        if primary.merges.rest_until > now {
            let until = primary.merges.rest_until;
            env.wake(pg, until);
            return true;
        }
        if !env.take_merge_slot(pg) {
            return true;
        }
        let upper = ChunkId { layer: merge.into, ..lower };
        primary.chunks.entry(upper).or_default().is_held_for_merge = true;
        primary.merges.now = Some(MergeOp { volume: merge.volume, upper, lower, since: now, has_begun: false });
        self.begin_held_merge(env);
        true
    }

    /// The upper chunk is held; if nothing is under way any more the merge begins.
    pub(super) fn begin_held_merge<P: Policy>(&mut self, env: &mut Env<P>) {
        let (pg, epoch, now) = (self.id, self.config.epoch, env.now);
        let Some(primary) = self.primary() else { return };
        let Some((volume, upper, lower)) =
            primary.merges.now.as_ref().filter(|op| !op.has_begun).map(|op| (op.volume, op.upper, op.lower))
        else {
            return;
        };
        let is_quiet = primary.chunks.get(&upper).is_some_and(|ops| ops.is_quiet())
            && primary.chunks.get(&lower).is_none_or(|ops| ops.is_idle());
        if !is_quiet || self.is_barred(volume) || !self.may_merge::<P>() {
            return;
        }
        let versions = env.store.versions(pg, lower);
        if versions.committed != versions.newest || versions.newest == Version::NONE {
            return self.put_off_merge(env);
        }
        let prev = env.store.versions(pg, upper).newest;
        let Some(version) = prev.successor(epoch) else {
            env.ask(pg, epoch, PgChange::NextEpoch);
            return self.put_off_merge(env);
        };
        let write = WriteMeta {
            chunk: upper,
            version,
            prev,
            op: NO_OP,
            lowest_unanswered: OpNumber(0),
            volume,
            attachment: AttachmentId(0),
            generation: Generation(0),
            change: Change::Merge { from: lower.layer, at: versions.committed },
        };
        // Who is told of the merge must have both chunks as they are here.
        self.tell_commits_now(env);
        for member in self.others_in_sync(env) {
            let prepare = Prepare { pg, epoch, write: write.clone(), payload: Bytes::new() };
            env.send(pg, member, Message::Prepare(prepare));
        }
        let op = StoreOp::Prepare { pg, write: write.clone(), payload: Bytes::new() };
        env.store(pg, op, Pending::OwnPrepare { epoch, chunk: upper, version });
        let waiting = self.config.in_sync.iter().copied().collect();
        let sent = env.perf.when_sent(now);
        let Some(primary) = self.primary() else { return };
        let telling = primary.tellings;
        let in_flight = InFlight {
            write,
            payload: Bytes::new(),
            is_loaded: true,
            waiting,
            since: now,
            unread: None,
            telling,
            watch: None,
            sent,
        };
        primary.chunks.entry(upper).or_default().chain.push_back(in_flight);
        if let Some(op) = &mut primary.merges.now {
            op.has_begun = true;
        }
        self.keep_timer(env);
    }

    /// What was under way on the chunk did not end, or is not wanted any more: its writes go on.
    fn put_off_merge<P: Policy>(&mut self, env: &mut Env<P>) {
        let until = env.now + PUT_OFF;
        let Some(primary) = self.primary() else { return };
        primary.merges.rest_until = until;
        self.end_merge(env);
    }

    fn end_merge<P: Policy>(&mut self, env: &mut Env<P>) -> Option<Tick> {
        let primary = self.primary()?;
        let op = primary.merges.now.take()?;
        if let Some(ops) = primary.chunks.get_mut(&op.upper) {
            ops.is_held_for_merge = false;
        }
        env.release_merge_slot();
        env.wake(self.id, env.now);
        self.start_queued(op.upper, env);
        Some(op.since)
    }

    /// A merge is committed, in this primary's memory at least, before anything else is done.
    pub(super) fn on_merged<P: Policy>(&mut self, upper: ChunkId, lower: ChunkId, env: &mut Env<P>) {
        let now = env.now;
        if !P::READ_ACROSS_MERGE {
            self.begin_reads_anew(lower);
        }
        for waiting in self.repairs.take_chunk(lower) {
            self.go_on_with(waiting, env);
        }
        let is_it = |op: &MergeOp| op.upper == upper && op.lower == lower;
        if !self.primary().and_then(|p| p.merges.now.as_ref()).is_some_and(is_it) {
            // Kept from an earlier epoch.
            return;
        }
        let Some(since) = self.end_merge(env) else { return };
        let took = Duration::from_micros(now.0.saturating_sub(since.0) * REST_FACTOR);
        let is_rest_due = env.client_at + CLIENTS_LATELY > now;
        if let Some(primary) = self.primary().filter(|_| is_rest_due) {
            primary.merges.rest_until = now + took.min(REST_MAX);
        }
        self.drive_merges(env);
    }

    /// M2: what is under way through the stack may have missed what has changed hands.
    fn begin_reads_anew(&mut self, lower: ChunkId) {
        let Some(primary) = self.primary() else { return };
        primary.stack_reads.values_mut().for_each(|read| read.on_merged(lower));
    }

    /// A read through the stack that M2 concerns has ended; it begins anew.
    pub(super) fn read_anew<P: Policy>(&mut self, token: Token, pending: &Pending, env: &mut Env<P>) {
        let Some(primary) = self.primary() else { return };
        match pending {
            Pending::ClientRead { .. } => {
                if let Some(ReadOp { queued, .. }) = primary.reads.remove(&token) {
                    self.go_on_with(Waiting::Read(queued), env);
                }
            }
            Pending::Merge { chunk, op, .. } => {
                let merging = primary.chunks.get_mut(chunk).and_then(|ops| ops.merging.remove(op));
                if let Some(merging) = merging {
                    self.begin_write(merging.queued, env);
                }
            }
            _ => unreachable!("nothing else reads through a stack"),
        }
    }

    fn go_on_with<P: Policy>(&mut self, waiting: Waiting, env: &mut Env<P>) {
        match waiting {
            Waiting::Read(queued) => match self.judge_standing(&queued.request, env) {
                Ok(()) => {
                    // Back through the queue: a write may have come between (R6).
                    let chunk = queued.request.chunk;
                    let Some(primary) = self.primary() else { return };
                    primary.chunks.entry(chunk).or_default().queue.push_back(queued);
                    self.start_queued(chunk, env);
                }
                Err(status) => self.fail_read(&queued, status, env),
            },
            Waiting::Merge(queued) => self.begin_write(queued, env),
            Waiting::Joiner | Waiting::Nobody => {}
        }
    }

    fn tell_merged<P: Policy>(&mut self, merge: u64, env: &mut Env<P>) {
        let (pg, now) = (self.id, env.now);
        let Some(primary) = self.primary() else { return };
        if primary.merges.told.get(&merge).is_none_or(|at| *at + TELL_AGAIN <= now) {
            primary.merges.told.insert(merge, now);
            env.merged(merge, pg);
        }
    }

    /// The store could not prepare a merge, and will not.
    pub(crate) fn on_merge_refused<P: Policy>(&mut self, pending: &Pending, why: MergeRefusal, env: &mut Env<P>) {
        let (pg, own_epoch) = (self.id, self.config.epoch);
        if why == MergeRefusal::Lost {
            self.doubt(env);
        }
        match *pending {
            Pending::MemberPrepare { epoch, chunk, version, attempt, .. } => {
                let is_last = self.preparing.get(&(chunk, version)).is_some_and(|(_, last)| *last == attempt);
                let answer_on = if is_last { self.preparing.remove(&(chunk, version)) } else { None };
                if let (Some((conn, _)), MergeRefusal::Mismatch) = (answer_on, why) {
                    let outcome = Outcome::Mismatch { newest: env.store.versions(pg, chunk).newest };
                    env.reply(conn, Message::Prepared(Prepared { pg, epoch, chunk, version, outcome }));
                }
            }
            Pending::OwnPrepare { epoch, chunk, .. } if epoch == own_epoch && why == MergeRefusal::Mismatch => {
                env.warn(format!("{pg}: the primary itself cannot merge into {chunk}; beginning another epoch"));
                env.ask(pg, epoch, PgChange::NextEpoch);
            }
            _ => {}
        }
    }

    /// Whether a request may be answered, also after it has waited: below the floor, or of a layer that was dropped meanwhile, it may not.
    pub(super) fn judge_standing<P: Policy>(
        &self,
        request: &ashlar_wire::IoRequest,
        env: &Env<P>,
    ) -> Result<(), IoStatus> {
        self.judge_floors(request, env)?;
        if self.is_given_up(request.chunk.layer, env) { Err(IoStatus::LayerGone) } else { Ok(()) }
    }

    /// M4
    fn is_given_up<P: Policy>(&self, layer: LayerId, env: &Env<P>) -> bool {
        let Role::Active(primary) = &self.role else { return true };
        env.store.pg(self.id).is_some_and(|s| s.fences.retired.contains(layer))
            || primary.floors.values().any(|floor| floor.retires_layer(layer))
            || env.view.merges.iter().any(|merge| merge.from == layer)
    }

    /// Whether a member must hear of commits before anything else: of a merge's predecessors, or before what it has merged is dropped.
    pub(super) fn hears_commits_first(&mut self) -> bool {
        self.primary().is_some_and(|p| {
            p.chunks.values().flat_map(|c| &c.chain).any(|w| w.write.change.is_merge())
                || p.floors.values().any(FloorOp::retires)
        })
    }
}

/// The first chunk of a layer that is left.
fn next_chunk<P: Policy>(pg: ashlar_types::PgId, layer: LayerId, env: &Env<P>) -> Option<ChunkId> {
    let before = layer.0.checked_sub(1).map(|l| ChunkId { layer: LayerId(l), index: ChunkIndex(u32::MAX) });
    let first = env.store.chunks(pg, before, 1).first().map(|(chunk, _)| *chunk);
    first.filter(|chunk| chunk.layer == layer)
}
