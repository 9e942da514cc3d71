//! Barriers at the primary (design.md §7): from the moment a barrier is known nothing below its floor is admitted; it is passed when no
//! older write is undecided and the floor is durable on everybody who is awaited.
//!
//! Below `min_size` older writes cannot be decided. They need not be waited for then: all in-sync members hold them already, nothing below
//! the floor can be prepared any more, and R6 lets nobody read past them, so they count as written before the barrier. Not so where a layer is
//! frozen or dropped.
//!
//! L1: a frozen layer has no undecided write: a barrier that brings a new stack waits for all that was admitted by the old one. (A member that
//! alone survives a failover may still have one undecided that was committed elsewhere; `stack` doesn't read past it.) L2: a PG serves a
//! stack only when its barrier is passed here, and from the moment that the barrier is known nothing by an older one: so all clients of a
//! volume see the same stack, whoever has heard of it first.

use super::primary::{MEMBER_PATIENCE, Queued, judge_floor, refusal};
use super::{Pending, Pg};
use crate::env::Env;
use crate::policy::Policy;
use crate::store::api::StoreOp;
use ashlar_types::view::{Barrier, Floor};
use ashlar_types::{Duration, Epoch, LayerId, OsdId, StackRevision, Tick, VolumeId};
use ashlar_wire::{IoStatus, Message, Outcome, RaiseFloor, WriteMeta};
use std::collections::BTreeSet;

/// A passed barrier is told again after this time, while the view still waits for it.
const TELL_AGAIN: Duration = Duration::from_millis(300);

#[derive(Debug)]
pub(super) struct FloorOp {
    barrier: Barrier,
    /// It brings a stack that this PG has not served.
    raises_stack: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Older writes are still undecided.
    Draining,
    Raising {
        missing: BTreeSet<OsdId>,
        since: Tick,
    },
    Passed {
        told: Tick,
    },
}

impl FloorOp {
    pub(super) fn volume(&self) -> VolumeId {
        self.barrier.volume
    }

    pub(super) fn floor(&self) -> &Floor {
        &self.barrier.floor
    }

    /// L2: whether requests of this revision of the stack have to wait for it.
    pub(super) fn is_raising(&self, revision: StackRevision) -> bool {
        self.raises_stack
            && self.barrier.floor.stack_revision >= revision
            && !matches!(self.stage, Stage::Passed { .. })
    }

    pub(super) fn is_passed(&self) -> bool {
        matches!(self.stage, Stage::Passed { .. })
    }

    pub(super) fn retires_layer(&self, layer: LayerId) -> bool {
        self.barrier.retire.contains(layer)
    }

    /// Whether layers are dropped with it.
    pub(super) fn retires(&self) -> bool {
        !self.barrier.retire.is_empty()
    }

    /// Whether a write is older than the floor: of a fenced attachment, or of an older stack; what was admitted before the barrier was
    /// known is all of that. A merge must be decided in any case: the layer below may be dropped with the floor.
    fn outdates(&self, write: &WriteMeta) -> bool {
        let floor = &self.barrier.floor;
        let is_outdated =
            || self.raises_stack || write.change.is_merge() || floor.fences(write.attachment, write.generation);
        write.volume == self.barrier.volume && is_outdated()
    }

    /// Members that have left the floor unanswered for too long.
    pub(super) fn late(&self, now: Tick) -> Vec<OsdId> {
        match &self.stage {
            Stage::Raising { missing, since } if *since + MEMBER_PATIENCE <= now => missing.iter().copied().collect(),
            _ => vec![],
        }
    }

    fn message(&self, pg: ashlar_types::PgId, epoch: Epoch) -> Message {
        Message::RaiseFloor(RaiseFloor { pg, epoch, barrier: self.barrier.id, fences: self.barrier.fences() })
    }
}

impl Pg {
    /// Takes up new barriers, goes on with those under way, forgets those that the view has forgotten.
    pub(super) fn drive_floors<P: Policy>(&mut self, env: &mut Env<P>) {
        let pg = self.id;
        if env.view.barriers.is_empty() && self.primary().is_none_or(|p| p.floors.is_empty()) {
            return;
        }
        let wanted: Vec<Barrier> = env.view.barriers.iter().filter(|b| b.pgs.contains(&pg)).cloned().collect();
        let Some(primary) = self.primary() else { return };
        // Another barrier may take the place of one that was under way here.
        let is_raising = |f: &FloorOp| f.is_raising(StackRevision::FIRST);
        let raising: BTreeSet<VolumeId> =
            primary.floors.values().filter(|f| is_raising(f)).map(FloorOp::volume).collect();
        primary.floors.retain(|id, _| wanted.iter().any(|b| b.id == *id));
        let mut fresh = Vec::new();
        for barrier in wanted {
            let known = env.store.pg(pg).and_then(|s| s.fences.floors.get(&barrier.volume)).map(|f| f.stack_revision);
            let is_new = barrier.floor.stack_revision > known.unwrap_or_default().max(StackRevision::FIRST);
            let raises_stack = is_new || raising.contains(&barrier.volume);
            if P::FLOOR_SKIPPED {
                env.barrier_passed(barrier.id, pg);
                continue;
            }
            let Some(primary) = self.primary() else { return };
            primary.floors.entry(barrier.id).or_insert_with(|| {
                fresh.push((barrier.volume, barrier.floor.clone()));
                FloorOp { barrier, raises_stack, stage: Stage::Draining }
            });
        }
        for (volume, floor) in fresh {
            self.refuse_below(volume, &floor, env);
        }
        let ids: Vec<u64> = self.primary().map(|p| p.floors.keys().copied().collect()).unwrap_or_default();
        for id in ids {
            self.drive_floor(id, env);
        }
        self.keep_timer(env);
    }

    /// Queued requests below the floor will never start.
    fn refuse_below<P: Policy>(&mut self, volume: VolumeId, floor: &Floor, env: &mut Env<P>) {
        let epoch = self.config.epoch;
        let is_below = |q: &Queued| q.request.volume == volume && judge_floor::<P>(floor, &q.request).is_err();
        let Some(primary) = self.primary() else { return };
        let mut refused = Vec::new();
        for ops in primary.chunks.values_mut() {
            refused.extend(ops.queue.iter().filter(|q| is_below(q)).cloned());
            ops.queue.retain(|q| !is_below(q));
        }
        refused.extend(primary.unleased.iter().filter(|q| is_below(q)).cloned());
        primary.unleased.retain(|q| !is_below(q));
        for queued in refused {
            primary.ops.remove(&queued.request.op);
            let status = judge_floor::<P>(floor, &queued.request).err().unwrap_or(IoStatus::Fenced);
            env.reply(queued.conn, refusal(queued.request.op, status, epoch));
        }
        let chunks: Vec<_> = primary.chunks.keys().copied().collect();
        for chunk in chunks {
            self.start_queued(chunk, env);
        }
    }

    fn drive_floor<P: Policy>(&mut self, id: u64, env: &mut Env<P>) {
        let (pg, now, me, epoch) = (self.id, env.now, env.me(), self.config.epoch);
        let has_min_size = self.has_min_size::<P>(false);
        let in_sync = self.config.in_sync.clone();
        let Some(primary) = self.primary() else { return };
        let Some(op) = primary.floors.get(&id) else { return };
        match &op.stage {
            Stage::Draining => {
                // What has begun and is not in a chain yet meets the floor in `propose`.
                let must_drain = has_min_size || op.raises_stack || !op.barrier.retire.is_empty();
                let is_undecided = primary.chunks.values().flat_map(|c| &c.chain).any(|w| op.outdates(&w.write));
                if must_drain && is_undecided {
                    return;
                }
                let message = op.message(pg, epoch);
                let joining: Vec<OsdId> = primary.joins.keys().copied().collect();
                let missing: BTreeSet<OsdId> = in_sync.iter().chain(&primary.pending_add).copied().collect();
                let barrier = op.barrier.clone();
                if let Some(op) = primary.floors.get_mut(&id) {
                    op.stage = Stage::Raising { missing, since: now };
                }
                // Who knows the floor knows what was decided before it.
                self.tell_commits_now(env);
                let mut told: BTreeSet<OsdId> = in_sync.into_iter().chain(joining).collect();
                told.remove(&me);
                for member in told {
                    env.send(pg, member, message.clone());
                }
                let fences = barrier.fences();
                env.drop_fenced_sessions(&fences);
                env.store(pg, StoreOp::RaiseFloor { pg, fences }, Pending::OwnFloor { epoch, barrier: id });
            }
            Stage::Raising { .. } => {}
            Stage::Passed { told } if *told + TELL_AGAIN <= now => {
                if let Some(op) = primary.floors.get_mut(&id) {
                    op.stage = Stage::Passed { told: now };
                }
                env.barrier_passed(id, pg);
            }
            Stage::Passed { .. } => {}
        }
    }

    pub(crate) fn on_floor_raised<P: Policy>(
        &mut self,
        from: OsdId,
        epoch: Epoch,
        barrier: u64,
        outcome: Outcome,
        env: &mut Env<P>,
    ) {
        let (pg, now) = (self.id, env.now);
        let Some(primary) = self.primary().filter(|p| p.epoch == epoch) else { return };
        let Some(op) = primary.floors.get_mut(&barrier) else { return };
        let Stage::Raising { missing, .. } = &mut op.stage else { return };
        if outcome != Outcome::Ok {
            return;
        }
        missing.remove(&from);
        if missing.is_empty() {
            op.stage = Stage::Passed { told: now };
            env.barrier_passed(barrier, pg);
        }
    }

    /// A member that was proposed for `in_sync` must have every floor before its barrier is passed (§7).
    pub(super) fn await_floors_of<P: Policy>(&mut self, member: OsdId, env: &mut Env<P>) {
        let Some(primary) = self.primary() else { return };
        for op in primary.floors.values_mut() {
            if let Stage::Raising { missing, .. } = &mut op.stage {
                missing.insert(member);
            }
        }
        self.resend_floors(member, env);
    }

    pub(super) fn resend_floors<P: Policy>(&mut self, member: OsdId, env: &mut Env<P>) {
        let (pg, epoch) = (self.id, self.config.epoch);
        let Some(primary) = self.primary() else { return };
        for op in primary.floors.values() {
            if matches!(&op.stage, Stage::Raising { missing, .. } if missing.contains(&member)) {
                env.net.send(member, op.message(pg, epoch), env.now, &mut env.actions);
            }
        }
    }
}
