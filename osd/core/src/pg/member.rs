//! What every member does when a primary tells it: prepare, commit, promise and report, decide, raise floors, begin to join,
//! take pushes, grant leases and credit.

use super::{Pending, Pg, Withheld, payload_matches, promised};
use crate::ConnId;
use crate::env::Env;
use crate::perf::{Job, Lap, Stopwatch};
use crate::policy::Policy;
use crate::store::Store;
use crate::store::api::{ReadKind, StoreOp};
use ashlar_types::view::Fences;
use ashlar_types::{BLOCK_BYTES, BlockRange, ChunkId, Epoch, OsdId, Version};
use ashlar_wire::{
    Change, Commit, CreditGrant, CreditRequest, Decide, Decided, FloorRaised, JoinChunks, JoinMeta, JoinStart, Message,
    Outcome, Prepare, Prepared, Promise, PromiseReply, Push, Pushed, RaiseFloor, Report, ReportedChunk, ReportedWrite,
    ReservedGrant, ReservedRequest,
};
use std::collections::BTreeMap;

/// How many chunks one page of a joining member's list names.
const JOIN_PAGE: usize = 4096;
/// How much of what a PG refuses goes into one record of the log: a few tens of KiB.
const FENCES_PER_RECORD: usize = 1024;

impl Pg {
    /// R1, R3, R8, R9: logs a write as prepared, or says why not.
    pub(crate) fn on_prepare<P: Policy>(&mut self, conn: ConnId, prepare: Prepare, env: &mut Env<P>) {
        let Prepare { pg, epoch, mut write, payload } = prepare;
        let (chunk, version) = (write.chunk, write.version);
        if write.change.is_merge()
            && env.store.awaits_merge(pg, chunk, version)
            && epoch == promised(env, pg)
            && let Some((answer_on, _)) = self.preparing.get_mut(&(chunk, version))
        {
            // Told again while its pages are read.
            *answer_on = conn;
            return;
        }
        if let Err(outcome) = self.judge_prepare(epoch, &mut write, &payload, env) {
            if outcome == Outcome::Ok
                && let Some((answer_on, _)) = self.preparing.get_mut(&(chunk, version))
            {
                // Told again while it is under way: the answer goes to the newer connection.
                *answer_on = conn;
                return;
            }
            env.reply(conn, Message::Prepared(Prepared { pg, epoch, chunk, version, outcome }));
            return;
        }
        if self.config.epoch == epoch && self.config.in_sync.len() == self.config.members.len() {
            self.forget_rolled_back(env);
        }
        self.attempts += 1;
        let attempt = self.attempts;
        self.preparing.insert((chunk, version), (conn, attempt));
        let mut watch = Stopwatch::start(env.now);
        watch.go(Lap::Store, &env.perf, env.now);
        let pending = Pending::MemberPrepare { epoch, chunk, version, attempt, watch };
        env.store(pg, StoreOp::Prepare { pg, write, payload }, pending);
    }

    fn judge_prepare<P: Policy>(
        &mut self,
        epoch: Epoch,
        write: &mut ashlar_wire::WriteMeta,
        payload: &[u8],
        env: &mut Env<P>,
    ) -> Result<(), Outcome> {
        let promised = promised(env, self.id);
        if epoch != promised && !(P::STALE_EPOCH_ACCEPTED && epoch < promised) {
            return Err(Outcome::WrongEpoch { promised });
        }
        let newest = env.store.versions(self.id, write.chunk).newest;
        if write.version <= newest {
            return Err(if self.has_version(write.chunk, write.version, env) {
                Outcome::Ok
            } else {
                Outcome::Mismatch { newest }
            });
        }
        if write.prev != newest {
            if !P::WRITE_ON_MISSING_CHUNK && !P::STALE_EPOCH_ACCEPTED {
                return Err(Outcome::Mismatch { newest });
            }
            write.prev = newest;
        }
        match &write.change {
            Change::Write { range, crcs } => {
                if crcs.len() != usize::from(range.count()) || !payload_matches(payload, crcs) {
                    return Err(Outcome::BadChecksum);
                }
            }
            Change::Zero { .. } => {}
            Change::Merge { .. } => {
                if !env.store.merge_fits(self.id, write) {
                    return Err(Outcome::Mismatch { newest });
                }
            }
        };
        let (blocks, free) = (self.cost_of(write.chunk, &write.change, env), env.store.space().free);
        if env.credit.spend_or_take(self.id, epoch, blocks, free)
            || (epoch != promised && blocks <= env.store.space().free)
        {
            Ok(())
        } else {
            Err(Outcome::NoSpace)
        }
    }

    /// Whether a version not above the chunk's newest is one that this member holds.
    fn has_version<P: Policy>(&self, chunk: ChunkId, version: Version, env: &Env<P>) -> bool {
        version <= env.store.versions(self.id, chunk).committed
            || env.store.prepared_of(self.id, chunk).any(|p| p.write.version == version)
    }

    pub(super) fn answer_prepare<P: Policy>(
        &mut self,
        epoch: Epoch,
        chunk: ChunkId,
        version: Version,
        attempt: u64,
        mut watch: Stopwatch,
        env: &mut Env<P>,
    ) {
        // The same version may have been rolled back by a join and prepared again: only the last attempt's end counts.
        let is_last = |(_, last): &mut (ConnId, u64)| *last == attempt;
        if self.preparing.get_mut(&(chunk, version)).is_some_and(is_last)
            && let Some((conn, _)) = self.preparing.remove(&(chunk, version))
        {
            let answer = Prepared { pg: self.id, epoch, chunk, version, outcome: Outcome::Ok };
            env.reply(conn, Message::Prepared(answer));
            watch.come(Lap::Answer, &env.perf, env.now);
            env.perf.finish(Job::Member, watch);
        }
    }

    /// The primary says what is decided. What this member doesn't have prepared (it is joining, or it was told again) is passed over.
    pub(crate) fn on_commit<P: Policy>(&mut self, commit: Commit, env: &mut Env<P>) {
        if commit.epoch != promised(env, self.id) {
            return;
        }
        let mut known = commit.committed;
        known.retain(|(chunk, version)| {
            env.store.versions(self.id, *chunk).committed < *version
                && env.store.prepared_of(self.id, *chunk).any(|p| p.write.version == *version)
        });
        if !known.is_empty() {
            env.store.commit(self.id, &known);
        }
    }

    /// R3 to R5: promise, unless a higher epoch was promised or a lease still runs.
    pub(crate) fn on_promise<P: Policy>(&mut self, conn: ConnId, promise: Promise, env: &mut Env<P>) {
        let epoch = promise.config.epoch;
        let promised = promised(env, self.id);
        if epoch < promised || !promise.config.is_in_sync(env.me()) {
            let outcome = Outcome::WrongEpoch { promised };
            env.reply(conn, Message::PromiseReply(PromiseReply { pg: self.id, epoch, outcome, report: None }));
            return;
        }
        self.wanted = self.wanted.max(epoch);
        if epoch > promised
            && let Some(until) = self.withheld_until(&promise, env)
        {
            let older = self.withheld.as_ref().map_or(Epoch(0), |w| w.promise.config.epoch);
            if epoch >= older {
                self.withheld = Some(Withheld { until, conn: Some(conn), promise });
                env.wake(self.id, until);
            }
            let reply = PromiseReply { pg: self.id, epoch, outcome: Outcome::NotYet, report: None };
            env.reply(conn, Message::PromiseReply(reply));
            return;
        }
        self.accept_promise(conn, promise, env);
    }

    fn withheld_until<P: Policy>(&self, promise: &Promise, env: &Env<P>) -> Option<ashlar_types::Tick> {
        let primary = (promise.config.primary?, promise.config.primary_boot);
        env.grants.withheld_until(self.id, primary, env.now, &env.view)
    }

    pub(super) fn retry_withheld<P: Policy>(&mut self, env: &mut Env<P>) {
        let Some(withheld) = self.withheld.take_if(|w| w.until <= env.now) else { return };
        match withheld.conn {
            Some(conn) => self.on_promise(conn, withheld.promise, env),
            None => self.drive_activation(env),
        }
    }

    /// As primary: waits for what this OSD itself has granted to its predecessor. Returns whether the promise must wait.
    pub(super) fn withhold_own<P: Policy>(&mut self, promise: Promise, env: &mut Env<P>) -> bool {
        let Some(until) = self.withheld_until(&promise, env) else { return false };
        let is_higher = |w: &Withheld| w.promise.config.epoch > promise.config.epoch;
        if !self.withheld.as_ref().is_some_and(is_higher) {
            self.withheld = Some(Withheld { until, conn: None, promise });
        }
        env.wake(self.id, until);
        true
    }

    fn accept_promise<P: Policy>(&mut self, conn: ConnId, promise: Promise, env: &mut Env<P>) {
        let epoch = promise.config.epoch;
        self.yield_to(&promise.config, env);
        self.joining = None;
        env.credit.begin_epoch(self.id, epoch);
        if P::LATE_PREPARE_AFTER_REPORT {
            self.answer_promise(conn, promise.clone(), env);
            env.store(self.id, StoreOp::Promise { pg: self.id, epoch }, Pending::Nothing);
            return;
        }
        env.store(self.id, StoreOp::Promise { pg: self.id, epoch }, Pending::MemberPromise { conn, promise });
    }

    /// R4: the promise is durable, and with it, in the order of the log, every prepare accepted before.
    pub(super) fn answer_promise<P: Policy>(&mut self, conn: ConnId, promise: Promise, env: &mut Env<P>) {
        let epoch = promise.config.epoch;
        let reply = if epoch < promised(env, self.id) {
            let outcome = Outcome::WrongEpoch { promised: promised(env, self.id) };
            PromiseReply { pg: self.id, epoch, outcome, report: None }
        } else {
            let report = self.report(&promise.undecided, env);
            PromiseReply { pg: self.id, epoch, outcome: Outcome::Ok, report: Some(report) }
        };
        env.reply(conn, Message::PromiseReply(reply));
    }

    /// What this member knows of undecided writes, and of the chunks that the primary asks about.
    pub(super) fn report<P: Policy>(&self, also: &[ChunkId], env: &Env<P>) -> Report {
        let mut chunks: BTreeMap<ChunkId, ReportedChunk> = BTreeMap::new();
        let committed = |chunk| env.store.versions(self.id, chunk).committed;
        for chunk in also {
            chunks.insert(*chunk, ReportedChunk { chunk: *chunk, committed: committed(*chunk), undecided: vec![] });
        }
        for prepared in env.store.prepared(self.id) {
            let write = &prepared.write;
            if P::LATE_PREPARE_AFTER_REPORT && self.preparing.contains_key(&(write.chunk, write.version)) {
                continue;
            }
            let reported = chunks.entry(write.chunk).or_insert_with(|| ReportedChunk {
                chunk: write.chunk,
                committed: committed(write.chunk),
                undecided: vec![],
            });
            reported.undecided.push(ReportedWrite {
                version: write.version,
                prev: write.prev,
                data_good: prepared.data_good,
            });
        }
        let state = env.store.pg(self.id);
        Report {
            damaged: self.in_doubt,
            chunks: chunks.into_values().collect(),
            fences: state.map(|s| s.fences.clone()).unwrap_or_default(),
        }
    }

    /// R4: takes over the primary's decisions, durably, before it answers.
    pub(crate) fn on_decide<P: Policy>(&mut self, conn: ConnId, decide: Decide, env: &mut Env<P>) {
        let epoch = decide.epoch;
        let promised = promised(env, self.id);
        if epoch != promised {
            let outcome = Outcome::WrongEpoch { promised };
            env.reply(conn, Message::Decided(Decided { pg: self.id, epoch, outcome }));
            return;
        }
        let answer = Message::Decided(Decided { pg: self.id, epoch, outcome: Outcome::Ok });
        self.apply_decisions(&decide, Pending::Answer { conn, message: answer }, env);
    }

    /// Both sides of R4. The last operation's completion covers all of them: they end in order.
    pub(super) fn apply_decisions<P: Policy>(&mut self, decide: &Decide, done: Pending, env: &mut Env<P>) {
        let (mut commit, mut rollback, mut rolled_back) = (vec![], vec![], vec![]);
        for decision in &decide.decisions {
            let chunk = decision.chunk;
            let versions = env.store.versions(self.id, chunk);
            if versions.committed < decision.commit && versions.newest >= decision.commit {
                commit.push((chunk, decision.commit));
            }
            if versions.newest > decision.keep {
                assert!(versions.committed <= decision.keep, "R4: a committed version of {chunk} is never rolled back");
                rollback.push((chunk, decision.keep));
            }
            rolled_back.extend(decision.rolled_back.iter().map(|v| (chunk, *v)));
        }
        // Kept though its data is bad on this disk, for it is good on another (A2): fetched from there at once.
        let suspects: Vec<_> = env
            .store
            .prepared(self.id)
            .filter(|p| {
                !p.data_good && commit.iter().any(|(chunk, to)| *chunk == p.write.chunk && p.write.version <= *to)
            })
            .map(|p| (p.write.chunk, p.write.change.range()))
            .collect();
        if !commit.is_empty() || !rollback.is_empty() || !rolled_back.is_empty() {
            env.store(self.id, StoreOp::Resolve { pg: self.id, commit, rollback, rolled_back }, Pending::Nothing);
        }
        for (chunk, range) in suspects {
            env.read(self.id, chunk, range, ReadKind::Verify, Pending::Check);
        }
        // Last, since it drops the chunks of layers that others know to be retired.
        self.raise_own_fences(&decide.fences, env);
        // A promise that stands already changes nothing; its completion says that all before it is durable.
        env.store(self.id, StoreOp::Promise { pg: self.id, epoch: decide.epoch }, done);
    }

    /// What is new of them, in records that fit the smallest log.
    fn raise_own_fences<P: Policy>(&mut self, fences: &Fences, env: &mut Env<P>) {
        let fresh = match env.store.pg(self.id) {
            Some(state) => fences.beyond(&state.fences),
            None => fences.clone(),
        };
        env.drop_fenced_sessions(&fresh);
        if fresh.is_empty() {
            return;
        }
        for part in fresh.into_parts(FENCES_PER_RECORD) {
            env.store(self.id, StoreOp::RaiseFloor { pg: self.id, fences: part }, Pending::Nothing);
        }
    }

    pub(crate) fn on_raise_floor<P: Policy>(&mut self, conn: ConnId, request: RaiseFloor, env: &mut Env<P>) {
        let RaiseFloor { pg, epoch, barrier, fences } = request;
        let promised = promised(env, pg);
        if epoch != promised {
            let outcome = Outcome::WrongEpoch { promised };
            env.reply(conn, Message::FloorRaised(FloorRaised { pg, epoch, barrier, outcome }));
            return;
        }
        let answer = Message::FloorRaised(FloorRaised { pg, epoch, barrier, outcome: Outcome::Ok });
        env.drop_fenced_sessions(&fences);
        env.store(pg, StoreOp::RaiseFloor { pg, fences }, Pending::Answer { conn, message: answer });
    }

    /// R8: begins a join session, or goes on with its list.
    pub(crate) fn on_join_start<P: Policy>(&mut self, conn: ConnId, start: JoinStart, env: &mut Env<P>) {
        let JoinStart { pg, epoch, join, after, meta } = start;
        let promised = promised(env, pg);
        let refuse =
            |outcome| Message::JoinChunks(JoinChunks { pg, epoch, join, outcome, after, chunks: vec![], last: false });
        if epoch < promised {
            env.reply(conn, refuse(Outcome::WrongEpoch { promised }));
            return;
        }
        let Some(meta) = meta else {
            if self.joining == Some((epoch, join)) {
                self.answer_join(conn, epoch, join, after, env);
            } else {
                env.reply(conn, refuse(Outcome::Missing));
            }
            return;
        };
        self.wanted = self.wanted.max(epoch);
        if epoch > promised {
            // R5: a former in-sync member may have granted leases. It is out of `in_sync` now, but an older primary may not know.
            let holder = env.net.peer(conn).cloned();
            let Some(crate::net::Peer::Osd { id, boot }) = holder else { return };
            if env.grants.withheld_until(pg, (id, boot), env.now, &env.view).is_some() {
                env.reply(conn, refuse(Outcome::NotYet));
                return;
            }
        }
        if epoch > self.config.epoch {
            // P2. The configuration itself comes with the view; until then `is_mine` finds a higher promise.
            self.leave_role(env);
        }
        if let Some(config) = env.view.pgs.get(&pg).filter(|c| c.epoch == epoch).cloned() {
            self.yield_to(&config, env);
        }
        self.joining = Some((epoch, join));
        env.credit.restart(pg, epoch);
        if epoch > promised {
            env.store(pg, StoreOp::Promise { pg, epoch }, Pending::Nothing);
        }
        let JoinMeta { fences, rolled_back } = meta;
        self.raise_own_fences(&fences, env);
        let meta = JoinMeta { fences: Fences::default(), rolled_back };
        env.store(pg, StoreOp::Join { pg, meta }, Pending::JoinBegun { conn, epoch, join });
    }

    pub(super) fn answer_join<P: Policy>(
        &mut self,
        conn: ConnId,
        epoch: Epoch,
        join: u32,
        after: Option<ChunkId>,
        env: &mut Env<P>,
    ) {
        if self.joining != Some((epoch, join)) {
            return;
        }
        let page = env.store.chunks(self.id, after, JOIN_PAGE);
        let last = page.len() < JOIN_PAGE;
        let chunks = page.into_iter().map(|(chunk, versions)| (chunk, versions.newest)).collect();
        let answer = JoinChunks { pg: self.id, epoch, join, outcome: Outcome::Ok, after, chunks, last };
        env.reply(conn, Message::JoinChunks(answer));
    }

    /// R8: one chunk, once, only upward, from exactly what this member has.
    pub(crate) fn on_push<P: Policy>(&mut self, conn: ConnId, push: Push, env: &mut Env<P>) {
        let Push { pg, epoch, join, chunk, from, to, blocks, ids, payload } = push;
        let answer = |outcome| Message::Pushed(Pushed { pg, epoch, join, chunk, to, outcome });
        let versions = env.store.versions(pg, chunk);
        let promised = promised(env, pg);
        let crcs: Vec<_> = blocks.iter().filter_map(|b| b.state.crc).collect();
        let range = blocks
            .first()
            .zip(blocks.last())
            .and_then(|(first, last)| BlockRange::new(first.block, (last.block.0 + 1).checked_sub(first.block.0)?));
        let pages = range.map_or(0, Store::<P>::pages_of);
        let is_retired = env.store.pg(pg).is_some_and(|s| s.fences.retired.contains(chunk.layer));
        let refused = if is_retired {
            Some(Outcome::Missing)
        } else if epoch != promised || self.joining != Some((epoch, join)) {
            Some(Outcome::WrongEpoch { promised })
        } else if versions.newest != from || (to <= from && to != Version::NONE) {
            Some(Outcome::Mismatch { newest: versions.newest })
        } else if payload.len() != crcs.len() * BLOCK_BYTES as usize || !payload_matches(&payload, &crcs) {
            Some(Outcome::BadChecksum)
        } else if env.credit.available(env.store.space().recovery) < crcs.len() as u64 + pages {
            Some(Outcome::NoSpace)
        } else {
            None
        };
        if let Some(outcome) = refused {
            env.reply(conn, answer(outcome));
            return;
        }
        let op = if to == Version::NONE {
            StoreOp::DropChunk { pg, chunk }
        } else {
            StoreOp::Push { pg, chunk, from, to, blocks, ids, payload }
        };
        env.store(pg, op, Pending::Answer { conn, message: answer(Outcome::Ok) });
    }

    pub(crate) fn on_credit_request<P: Policy>(&mut self, conn: ConnId, request: CreditRequest, env: &mut Env<P>) {
        let CreditRequest { pg, epoch, wanted_total, is_return } = request;
        if epoch != promised(env, pg) {
            // Says nothing of space. The asker's epoch is over, or has not begun here: it asks again while it lasts.
            return;
        }
        if is_return {
            env.credit.give_back(pg, epoch, wanted_total);
            return;
        }
        let free = if self.is_being_joined(epoch, env) { env.store.space().recovery } else { env.open_space() };
        let granted_total = env.credit.request(pg, epoch, wanted_total, free);
        env.reply(conn, Message::CreditGrant(CreditGrant { pg, epoch, wanted_total, granted_total }));
    }

    pub(crate) fn on_reserved_request<P: Policy>(&mut self, conn: ConnId, request: ReservedRequest, env: &mut Env<P>) {
        let ReservedRequest { pg, epoch, wanted_total } = request;
        if epoch != promised(env, pg) {
            // As above.
            return;
        }
        let space = env.store.space();
        let free = if self.is_being_joined(epoch, env) { space.recovery } else { space.free };
        let granted_total = env.credit.request(pg, epoch, wanted_total, free);
        let is_reclaiming = granted_total < wanted_total && env.store.reclaim();
        let grant = ReservedGrant { pg, epoch, wanted_total, granted_total, is_reclaiming };
        env.reply(conn, Message::ReservedGrant(grant));
    }

    /// Who joins is recovered: what else its chunks take comes from the same part of the reserve.
    fn is_being_joined<P: Policy>(&self, epoch: Epoch, env: &Env<P>) -> bool {
        self.joining.is_some_and(|(of, _)| of == epoch) && !self.config.is_in_sync(env.me())
    }

    /// R11: every member is in sync and the primary writes again, so no rolled-back version is left anywhere.
    fn forget_rolled_back<P: Policy>(&mut self, env: &mut Env<P>) {
        if env.store.pg(self.id).is_some_and(|s| !s.rolled_back.is_empty()) {
            env.store(self.id, StoreOp::ForgetRolledBack { pg: self.id }, Pending::Nothing);
        }
    }

    /// R5: whether this OSD may grant `holder` a lease of this PG in this epoch.
    pub(crate) fn may_grant<P: Policy>(&self, holder: OsdId, epoch: Epoch, env: &Env<P>) -> bool {
        epoch == promised(env, self.id) && epoch >= self.wanted && env.view.osds.contains_key(&holder)
    }
}
