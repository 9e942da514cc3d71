//! The primary of an active epoch: what it has under way, who takes part, what it admits.
//!
//! W1: a chunk's undecided writes form a chain; they commit in its order, each when all who take part have it durable (R1).
//! W2: requests to one chunk whose blocks overlap take effect in the order in which they were admitted.
//! W3: at most one entry of `ops` for a retry id, from admission to the answer; a repeated request only moves the answer (R10).

use super::floor::FloorOp;
use super::join::Join;
use super::layers::Form;
use super::merge::{MERGE_PATIENCE, Merges};
use super::over::{self, Over, SentBase};
use super::scrub::Scrub;
use super::stack::StackRead;
use super::{Pending, Pg, Role};
use crate::ConnId;
use crate::env::Env;
use crate::net::{Below, Peer};
use crate::perf::{Moment, Stopwatch};
use crate::policy::Policy;
use crate::store::api::{ReadKind, Token};
use ashlar_types::control::PgChange;
use ashlar_types::{
    AttachmentId, BLOCK_BYTES, BlockRange, CHUNK_BYTES, ChunkId, Duration, Epoch, OpId, OsdId, PgId, StackRevision,
    Tick, Version,
};
use ashlar_wire::{Change, Commit, IoKind, IoReply, IoRequest, IoStatus, LeaseGrant, Message, Prepare, WriteMeta};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Requests that one PG holds at a time; more are answered `Retry`.
const OPS_MAX: usize = 8192;
/// Commits told in one message.
const COMMITS_MAX: usize = 256;
/// Commits remembered for a member whose link breaks. What a member may not have heard of it was told after it was sent the last write that
/// it has answered; so these are commits of writes that were under way at one time.
const TOLD_MAX: usize = OPS_MAX;
/// How long a commit waits at least for a message to ride on before it gets one of its own,
const COMMIT_DELAY: Duration = Duration::from_millis(3);
/// and the raster of the times at which that is looked at: a time of its own for each write is a wake-up for each write.
const COMMIT_RASTER: Duration = Duration::from_millis(4);
/// How long a write may wait for a member before the member's removal is asked for.
pub(super) const MEMBER_PATIENCE: Duration = Duration::from_millis(1500);
/// How often an active primary with work under way looks after it.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Primary {
    pub epoch: Epoch,
    pub chunks: BTreeMap<ChunkId, ChunkOps>,
    /// Every admitted request that changes something, with the connection to answer on (W3).
    pub ops: BTreeMap<OpId, AnswerTo>,
    pub reads: BTreeMap<Token, ReadOp>,
    /// Reads through more than one layer that are under way, of clients and for merges.
    pub stack_reads: BTreeMap<Token, StackRead>,
    /// Reads that wait for leases (R5).
    pub unleased: VecDeque<Queued>,
    pub unleased_since: Tick,
    /// Zeroes that change nothing, whose answers wait for leases; their blocks are taken.
    pub idle_zeroes: Vec<Proposal>,
    /// Until when each member's lease runs, by this OSD's clock.
    pub leases: BTreeMap<OsdId, Tick>,
    pub lease_asked: BTreeMap<OsdId, Tick>,
    pub joins: BTreeMap<OsdId, Join>,
    /// Proposed for `in_sync`; awaited like an in-sync member until the epoch ends (R1).
    pub pending_add: BTreeSet<OsdId>,
    pub floors: BTreeMap<u64, FloorOp>,
    pub credit: BTreeMap<OsdId, CreditLine>,
    pub credit_used_at: Tick,
    /// Writes that wait for space credit, in order.
    pub uncredited: VecDeque<Proposal>,
    /// Since when the first of them has waited.
    pub uncredited_since: Tick,
    pub untold: BTreeMap<OsdId, BTreeMap<ChunkId, Version>>,
    /// Told lately, in order; told again when the link was made anew, for it may have been lost with the old one.
    pub told: BTreeMap<OsdId, VecDeque<Told>>,
    /// How often commits were told.
    pub tellings: u64,
    pub untold_since: Option<Tick>,
    pub joins_begun: u32,
    pub scrub: Scrub,
    pub merges: Merges,
    pub timer_at: Option<Tick>,
    /// Chunks whose queues are to be looked at; a list, so that a long row of refused requests takes no stack.
    to_start: Vec<ChunkId>,
    is_starting: bool,
}

/// A commit that a member was told of and has not shown to have heard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// Which telling it was part of.
    pub telling: u64,
    pub chunk: ChunkId,
    pub version: Version,
}

/// Credit that one member has given (design.md §4), in blocks of this epoch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CreditLine {
    pub granted: u64,
    pub used: u64,
    pub wanted: u64,
}

/// What is under way on one chunk.
#[derive(Debug, Default)]
pub(super) struct ChunkOps {
    /// Prepared here and elsewhere, undecided, in the order of their chain.
    pub chain: VecDeque<InFlight>,
    /// Writes that first read what they cover only partly, or wait for credit: their blocks are taken.
    pub begun: Vec<(OpId, BlockRange)>,
    pub merging: BTreeMap<OpId, super::write::Merging>,
    /// Requests that wait for an overlapping one.
    pub queue: VecDeque<Queued>,
    /// Joining members for which the chunk is being read: its committed state must not change meanwhile (R8).
    pub pinned: u32,
    /// A scrub that has tried in vain to see all copies at one version holds new writes back for a moment.
    pub is_held: bool,
    /// New writes wait until the chunk below is merged into this one.
    pub is_held_for_merge: bool,
}

impl ChunkOps {
    pub(super) fn is_idle(&self) -> bool {
        self.chain.is_empty()
            && self.begun.is_empty()
            && self.merging.is_empty()
            && self.queue.is_empty()
            && self.pinned == 0
            && !self.is_held
            && !self.is_held_for_merge
    }

    /// Nothing that could change the chunk is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.chain.is_empty() && self.begun.is_empty() && self.merging.is_empty() && self.pinned == 0 && !self.is_held
    }

    /// A merge is in nobody's way who only reads (M2 in merge.rs).
    fn is_busy(&self, range: BlockRange, is_write: bool) -> bool {
        self.chain.iter().any(|w| w.write.change.range().overlaps(range) && (is_write || !w.write.change.is_merge()))
            || self.begun.iter().any(|(_, r)| r.overlaps(range))
    }
}

/// A write that is prepared and not decided.
#[derive(Debug)]
pub(super) struct InFlight {
    pub write: WriteMeta,
    pub payload: Bytes,
    /// Whether `payload` is here; for a write kept from an earlier epoch it must be read first.
    pub is_loaded: bool,
    pub waiting: BTreeSet<OsdId>,
    pub since: Tick,
    /// Of a write kept from an earlier epoch: how often its data could not be read, and when it is tried again.
    pub unread: Option<(u32, Tick)>,
    /// Commits told up to this telling were sent before it: who answers it has heard of them.
    pub telling: u64,
    /// `None` for a write kept from an earlier epoch.
    pub watch: Option<Stopwatch>,
    pub sent: Moment,
}

#[derive(Clone, Debug)]
pub(super) struct Queued {
    pub conn: ConnId,
    pub request: IoRequest,
    pub range: BlockRange,
    pub below: Below,
    pub over: Over,
    /// Asks which layer has each block.
    pub is_layers: bool,
    pub watch: Stopwatch,
}

impl Queued {
    pub(super) fn is_write(&self) -> bool {
        self.request.kind.is_write()
    }
}

/// A whole-block change, ready to be replicated.
#[derive(Debug)]
pub(super) struct Proposal {
    pub request: IoRequest,
    pub change: Change,
    pub payload: Bytes,
    pub below: Below,
    /// Whether what it leaves unwritten is read from a base.
    pub is_over: bool,
    pub watch: Stopwatch,
}

/// Who asked for a write.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerTo {
    pub conn: ConnId,
    pub is_fill: bool,
}

impl AnswerTo {
    fn new(conn: ConnId, request: &IoRequest) -> AnswerTo {
        AnswerTo { conn, is_fill: request.kind == IoKind::Fill }
    }
}

#[derive(Debug)]
pub(super) struct ReadOp {
    pub queued: Queued,
    /// Of a read through more than one layer: in which one each block was found, 0 for the top.
    pub depths: Vec<u16>,
}

impl Primary {
    pub(super) fn new(epoch: Epoch) -> Primary {
        Primary {
            epoch,
            chunks: BTreeMap::new(),
            ops: BTreeMap::new(),
            reads: BTreeMap::new(),
            stack_reads: BTreeMap::new(),
            unleased: VecDeque::new(),
            unleased_since: Tick(0),
            idle_zeroes: Vec::new(),
            leases: BTreeMap::new(),
            lease_asked: BTreeMap::new(),
            joins: BTreeMap::new(),
            pending_add: BTreeSet::new(),
            floors: BTreeMap::new(),
            credit: BTreeMap::new(),
            credit_used_at: Tick(0),
            uncredited: VecDeque::new(),
            uncredited_since: Tick(0),
            untold: BTreeMap::new(),
            told: BTreeMap::new(),
            tellings: 0,
            untold_since: None,
            joins_begun: 0,
            to_start: Vec::new(),
            is_starting: false,
            scrub: Scrub::Idle,
            merges: Merges::default(),
            timer_at: None,
        }
    }

    /// Whether a write to some of these blocks is prepared and not decided. A merge changes nothing for a reader.
    pub(super) fn is_undecided(&self, chunk: ChunkId, range: BlockRange) -> bool {
        let changes = |w: &InFlight| !w.write.change.is_merge() && w.write.change.range().overlaps(range);
        self.chunks.get(&chunk).is_some_and(|ops| ops.chain.iter().any(changes))
    }

    pub(super) fn awaits_leases(&self) -> bool {
        !self.unleased.is_empty() || !self.idle_zeroes.is_empty()
    }

    /// A read that is repeated while it waits is answered once, on the newer connection.
    fn moves_answer(&mut self, repeated: &Queued) -> bool {
        let in_chunk = self.chunks.get_mut(&repeated.request.chunk).into_iter().flat_map(|c| &mut c.queue);
        let waiting = in_chunk.chain(&mut self.unleased).find(|q| q.request.op == repeated.request.op);
        waiting.map(|q| q.conn = repeated.conn).is_some()
    }

    /// P2: nobody is left without an answer; the clients ask the next primary.
    pub(super) fn refuse_all<P: Policy>(self, pg: PgId, env: &mut Env<P>) {
        let held: usize = self.joins.values().map(Join::slots).sum();
        env.release_push_slots(held);
        if self.scrub.is_running() {
            env.release_scrub_slot();
        }
        if self.merges.has_slot() {
            env.release_merge_slot();
        }
        let epoch = env.view.pgs.get(&pg).map_or(self.epoch, |c| c.epoch);
        for (op, to) in self.ops {
            env.reply(to.conn, refusal(op, IoStatus::Retry, epoch));
        }
        let queued = self.chunks.into_values().flat_map(|c| c.queue).filter(|q| !q.is_write());
        for read in self.reads.into_values().map(|r| r.queued).chain(self.unleased).chain(queued) {
            env.reply(read.conn, refusal(read.request.op, IoStatus::Retry, epoch));
        }
    }
}

pub(crate) fn refusal(op: OpId, status: IoStatus, epoch: Epoch) -> Message {
    Message::IoReply(IoReply { op, status, epoch, blocks: vec![], payload: Bytes::new() })
}

impl Pg {
    pub(super) fn primary(&mut self) -> Option<&mut Primary> {
        match &mut self.role {
            Role::Active(primary) => Some(primary),
            _ => None,
        }
    }

    /// In-sync members, this OSD among them.
    pub(super) fn is_awaited(&self, member: OsdId) -> bool {
        self.config.is_in_sync(member) || matches!(&self.role, Role::Active(p) if p.pending_add.contains(&member))
    }

    /// Activation is done: goes on with what it kept, brings back members, passes barriers.
    pub(super) fn begin_primary<P: Policy>(&mut self, env: &mut Env<P>) {
        self.adopt_undecided(env);
        self.begin_joins(env);
        self.drive_floors(env);
        self.drive_scrub(env);
        self.drive_merges(env);
        if self.config.in_sync.len() == self.config.members.len()
            && env.store.pg(self.id).is_some_and(|s| !s.rolled_back.is_empty())
        {
            let op = crate::store::api::StoreOp::ForgetRolledBack { pg: self.id };
            env.store(self.id, op, Pending::Nothing);
        }
    }

    /// A3, R12: what was kept but not committed waits for more members; whoever has it already is not awaited again.
    fn adopt_undecided<P: Policy>(&mut self, env: &mut Env<P>) {
        let now = env.now;
        let undecided: Vec<WriteMeta> = env.store.prepared(self.id).map(|p| p.write.clone()).collect();
        let Some(primary) = self.primary() else { return };
        let epoch = primary.epoch;
        for write in &undecided {
            let in_flight = InFlight {
                write: write.clone(),
                payload: Bytes::new(),
                is_loaded: !matches!(write.change, Change::Write { .. }),
                waiting: BTreeSet::new(),
                since: now,
                unread: None,
                telling: 0,
                watch: None,
                sent: env.perf.when_sent(now),
            };
            primary.chunks.entry(write.chunk).or_default().chain.push_back(in_flight);
        }
        for WriteMeta { chunk, version, change, .. } in undecided {
            if matches!(change, Change::Write { .. }) {
                let pending = Pending::AdoptedData { epoch, chunk, version };
                env.read(self.id, chunk, change.range(), ReadKind::Prepared(version), pending);
            }
        }
    }

    /// Nobody can be brought back without the data of such a write, so it is read until the disk gives it.
    fn reread_adopted<P: Policy>(&mut self, env: &mut Env<P>) {
        let now = env.now;
        let Some(primary) = self.primary() else { return };
        let epoch = primary.epoch;
        let mut due = Vec::new();
        for in_flight in primary.chunks.values_mut().flat_map(|c| &mut c.chain) {
            if let Some((tries, _)) = in_flight.unread.filter(|(_, at)| *at <= now) {
                in_flight.unread = Some((tries, Tick(u64::MAX)));
                due.push((in_flight.write.chunk, in_flight.write.version, in_flight.write.change.range()));
            }
        }
        for (chunk, version, range) in due {
            let pending = Pending::AdoptedData { epoch, chunk, version };
            env.read(self.id, chunk, range, ReadKind::Prepared(version), pending);
        }
    }

    /// The entrance for clients: checks what can be checked at once, then queues or starts.
    pub(crate) fn on_request<P: Policy>(&mut self, conn: ConnId, mut request: IoRequest, form: Form, env: &mut Env<P>) {
        let epoch = self.config.epoch;
        let is_layers = matches!(form, Form::Layers);
        let base = if let Form::Over(base) = form { Some(base) } else { None };
        let is_over = base.is_some();
        let base = over::split(&mut request, base.unwrap_or_default());
        let is_right = !is_layers || request.kind == IoKind::Extents;
        let judged =
            if is_right { self.judge_request(conn, &request, base.as_ref(), env) } else { Err(IoStatus::Invalid) };
        let below = match judged {
            Ok(below) => below,
            Err(status) => {
                // A write that came into the layer before it was frozen is there: written again into the next one, it would be there twice.
                let is_write = request.kind.is_write();
                let is_done = status == IoStatus::StaleStack && is_write && self.is_repeated(conn, &request, env);
                if !is_done {
                    env.reply(conn, refusal(request.op, status, epoch));
                }
                return;
            }
        };
        let Some(range) = BlockRange::covering(request.offset, request.len) else { return };
        let over = is_over.then(|| base.unwrap_or_default().into_blocks());
        let queued = Queued { conn, request, range, below, over, is_layers, watch: Stopwatch::start(env.now) };
        if queued.is_write() && self.is_repeated(conn, &queued.request, env) {
            return;
        }
        let Some(primary) = self.primary() else { return };
        if primary.moves_answer(&queued) {
            return;
        }
        let waiting = primary.chunks.get(&queued.request.chunk).map_or(0, |c| c.queue.len());
        if primary.ops.len() >= OPS_MAX || primary.reads.len() + primary.unleased.len() + waiting >= OPS_MAX {
            env.reply(conn, refusal(queued.request.op, IoStatus::Retry, epoch));
            return;
        }
        if queued.is_write() {
            primary.ops.insert(queued.request.op, AnswerTo::new(conn, &queued.request));
        }
        let chunk = queued.request.chunk;
        primary.chunks.entry(chunk).or_default().queue.push_back(queued);
        self.start_queued(chunk, env);
    }

    /// Fencing comes first (design.md §7), then epochs, then the request itself. Gives the layers below the one it names.
    fn judge_request<P: Policy>(
        &self,
        conn: ConnId,
        request: &IoRequest,
        base: Option<&SentBase>,
        env: &Env<P>,
    ) -> Result<Below, IoStatus> {
        let Some(Peer::Client(client)) = env.net.peer(conn) else { return Err(IoStatus::Invalid) };
        let hello = &client.hello;
        let is_capable = hello.session == request.op.session
            && hello.volume == request.volume
            && hello.attachment == request.attachment
            && hello.generation == request.generation
            && (hello.read_only || hello.attachment != AttachmentId::FROZEN)
            && !(hello.read_only && request.kind.is_write());
        let is_aligned = request.offset.is_multiple_of(BLOCK_BYTES) && request.len.is_multiple_of(BLOCK_BYTES);
        let is_whole = request.offset.checked_add(request.len).is_some_and(|end| end <= CHUNK_BYTES)
            && request.len > 0
            && (request.kind != IoKind::Fill || is_aligned);
        let carries = if request.kind.carries_data() { request.len as usize } else { 0 };
        let base = base.filter(|base| base.fits()).ok_or(IoStatus::Invalid)?;
        if !is_capable || !is_whole || request.payload.len() != carries {
            return Err(IoStatus::Invalid);
        }
        // Without the layers below it a block would read as zeroes.
        let stack = client.stack(request.stack_revision).filter(|stack| stack.top == request.chunk.layer);
        let Some(stack) = stack else { return Err(IoStatus::Invalid) };
        if request.epoch != self.config.epoch || !self.is_active() {
            return Err(IoStatus::WrongEpoch);
        }
        self.judge_standing(request, env)?;
        if let Some(state) = env.store.pg(self.id) {
            let lowest = state.sessions.get(&request.op.session).map(|s| s.lowest_unanswered);
            if lowest.is_some_and(|lowest| request.op.number < lowest) {
                return Err(IoStatus::StaleOp);
            }
        }
        if (request.kind.carries_data() && !super::write::fragments_match(request)) || !base.is_undamaged() {
            return Err(IoStatus::BadChecksum);
        }
        Ok(stack.below.clone())
    }

    /// Design.md §7: by what is durable, and by what is about to be.
    pub(super) fn judge_floors<P: Policy>(&self, request: &IoRequest, env: &Env<P>) -> Result<(), IoStatus> {
        let Role::Active(primary) = &self.role else { return Err(IoStatus::WrongEpoch) };
        let fences = env.store.pg(self.id).map(|s| &s.fences);
        if fences.is_some_and(|f| f.gone.contains(request.volume)) {
            return Err(IoStatus::Fenced);
        }
        let durable = fences.and_then(|f| f.floors.get(&request.volume));
        let coming = primary.floors.values().filter(|f| f.volume() == request.volume);
        durable
            .into_iter()
            .chain(coming.clone().map(FloorOp::floor))
            .try_for_each(|floor| judge_floor::<P>(floor, request))?;
        // L2: a new stack is served when nobody can write or read by the old one any more.
        let passed = durable.map_or(StackRevision::FIRST, |f| f.stack_revision.max(StackRevision::FIRST));
        let is_coming = coming.into_iter().any(|f| f.is_raising(request.stack_revision));
        if request.stack_revision > passed || is_coming { Err(IoStatus::Retry) } else { Ok(()) }
    }

    /// R10: a request that was done is answered again; one that is under way is answered on the newer connection.
    fn is_repeated<P: Policy>(&mut self, conn: ConnId, request: &IoRequest, env: &mut Env<P>) -> bool {
        let (pg, op) = (self.id, request.op);
        let done = env.store.pg(pg).and_then(|s| s.sessions.get(&op.session)).and_then(|s| {
            let (chunk, version) = s.writes.get(&op.number)?;
            if P::FORGOTTEN_RETRY_ID && s.writes.keys().rev().take(2).all(|n| *n != op.number) {
                return None;
            }
            Some(*version <= env.store.versions(pg, *chunk).committed)
        });
        let epoch = self.config.epoch;
        let Some(primary) = self.primary() else { return true };
        match done {
            Some(true) => {
                primary.ops.remove(&op);
                env.reply(conn, refusal(op, IoStatus::Ok, epoch));
                true
            }
            Some(false) => {
                primary.ops.insert(op, AnswerTo::new(conn, request));
                true
            }
            None => match primary.ops.get_mut(&op) {
                Some(to) => {
                    to.conn = conn;
                    true
                }
                None => false,
            },
        }
    }

    /// W2: starts every queued request of a chunk that nothing before it stands in the way of.
    pub(super) fn start_queued<P: Policy>(&mut self, chunk: ChunkId, env: &mut Env<P>) {
        let Some(primary) = self.primary() else { return };
        primary.to_start.push(chunk);
        if std::mem::replace(&mut primary.is_starting, true) {
            return;
        }
        while let Some(chunk) = self.primary().and_then(|p| p.to_start.pop()) {
            self.start_chunk(chunk, env);
        }
        if let Some(primary) = self.primary() {
            primary.is_starting = false;
        }
    }

    fn start_chunk<P: Policy>(&mut self, chunk: ChunkId, env: &mut Env<P>) {
        let Some(primary) = self.primary() else { return };
        let Some(ops) = primary.chunks.get_mut(&chunk) else { return };
        let mut kept: VecDeque<Queued> = VecDeque::new();
        let mut ready = Vec::new();
        for queued in std::mem::take(&mut ops.queue) {
            let is_behind = kept.iter().any(|k| k.range.overlaps(queued.range) && (k.is_write() || queued.is_write()));
            let is_held = queued.is_write() && (ops.pinned > 0 || ops.is_held || ops.is_held_for_merge);
            if is_behind || is_held || ops.is_busy(queued.range, queued.is_write()) {
                kept.push_back(queued);
                continue;
            }
            if queued.is_write() {
                ops.begun.push((queued.request.op, queued.range));
            }
            ready.push(queued);
        }
        ops.queue = kept;
        for queued in ready {
            if queued.is_write() {
                self.begin_write(queued, env);
            } else {
                self.begin_read(queued, env);
            }
        }
        if self.primary().and_then(|p| p.chunks.get(&chunk)).is_some_and(|ops| ops.is_held_for_merge) {
            self.begin_held_merge(env);
        }
        self.forget_idle_chunk(chunk);
    }

    pub(super) fn forget_idle_chunk(&mut self, chunk: ChunkId) {
        if let Some(primary) = self.primary()
            && primary.chunks.get(&chunk).is_some_and(ChunkOps::is_idle)
        {
            primary.chunks.remove(&chunk);
        }
    }

    /// Tells members what is committed: with the next message to them, or when it has waited long enough.
    pub(crate) fn tell_commits<P: Policy>(&mut self, env: &mut Env<P>) {
        let (pg, now) = (self.id, env.now);
        let Some(primary) = self.primary() else { return };
        let Some(since) = primary.untold_since else { return };
        let is_due = since + COMMIT_DELAY <= now;
        let epoch = primary.epoch;
        primary.tellings += 1;
        let (told, telling) = (&mut primary.told, primary.tellings);
        primary.untold.retain(|member, committed| {
            let rides = is_due || env.net.is_touched(*member) || committed.len() >= COMMITS_MAX;
            if !env.net.is_ready(*member) || !rides {
                return true;
            }
            let told = told.entry(*member).or_default();
            told.extend(committed.iter().map(|(chunk, version)| Told { telling, chunk: *chunk, version: *version }));
            while told.len() > TOLD_MAX {
                told.pop_front();
            }
            let committed = std::mem::take(committed).into_iter().collect();
            env.net.send(*member, Message::Commit(Commit { pg, epoch, committed }), env.now, &mut env.actions);
            false
        });
        if primary.untold.is_empty() {
            primary.untold_since = None;
        } else if !is_due {
            env.dirty.insert(pg);
            env.wake(pg, (since + COMMIT_DELAY).up_to_multiple_of(COMMIT_RASTER));
        }
    }

    /// The member has answered what was sent after these, on the same link.
    pub(super) fn has_heard(&mut self, member: OsdId, telling: u64) {
        if let Some(told) = self.primary().and_then(|p| p.told.get_mut(&member)) {
            while told.front().is_some_and(|t| t.telling <= telling) {
                told.pop_front();
            }
        }
    }

    pub(super) fn tell_commits_now<P: Policy>(&mut self, env: &mut Env<P>) {
        if let Some(primary) = self.primary()
            && primary.untold_since.is_some()
        {
            primary.untold_since = Some(Tick(0));
        }
        self.tell_commits(env);
    }

    /// A member's link is ready again: what it has not answered is sent again, in the order of each chain.
    pub(super) fn resend_to<P: Policy>(&mut self, member: OsdId, env: &mut Env<P>) {
        let pg = self.id;
        let has_heard_first = self.hears_commits_first();
        if has_heard_first {
            self.tell_again(member, env);
            self.tell_commits_now(env);
        }
        let Some(primary) = self.primary() else { return };
        let epoch = primary.epoch;
        for ops in primary.chunks.values() {
            for in_flight in ops.chain.iter().filter(|w| w.waiting.contains(&member)) {
                let prepare = Prepare { pg, epoch, write: in_flight.write.clone(), payload: in_flight.payload.clone() };
                env.net.send(member, Message::Prepare(prepare), env.now, &mut env.actions);
            }
        }
        if !has_heard_first {
            self.tell_again(member, env);
        }
        self.resend_floors(member, env);
        self.resend_credit(member, env);
        if let Some(primary) = self.primary() {
            primary.lease_asked.remove(&member);
        }
        self.begin_joins(env);
        self.ask_leases(env);
    }

    /// The member may not have heard of the commits that it was told of lately.
    fn tell_again<P: Policy>(&mut self, member: OsdId, env: &mut Env<P>) {
        let pg = self.id;
        let Some(primary) = self.primary() else { return };
        let told = primary.told.remove(&member).unwrap_or_default();
        let untold = primary.untold.entry(member).or_default();
        for Told { chunk, version, .. } in told {
            let newest = untold.entry(chunk).or_default();
            *newest = (*newest).max(version);
        }
        primary.untold_since.get_or_insert(env.now);
        env.dirty.insert(pg);
    }

    pub(super) fn on_primary_view<P: Policy>(&mut self, env: &mut Env<P>) {
        self.begin_joins(env);
        self.drive_floors(env);
        self.drive_scrub(env);
        self.drive_merges(env);
    }

    pub(super) fn on_primary_timer<P: Policy>(&mut self, env: &mut Env<P>) {
        for member in self.others_in_sync(env) {
            env.want_link(self.id, member);
        }
        self.tell_commits(env);
        self.repeat_credit(env);
        self.return_credit(env);
        self.lose_patience_with_members(env);
        self.reread_adopted(env);
        self.begin_joins(env);
        self.drive_joins(env);
        self.drive_floors(env);
        self.ask_leases(env);
        self.drive_scrub(env);
        self.drive_merges(env);
        self.keep_timer(env);
    }

    /// Looks again soon while anything is under way; an idle primary sleeps.
    pub(super) fn keep_timer<P: Policy>(&mut self, env: &mut Env<P>) {
        let (pg, now) = (self.id, env.now);
        let has_merges = self.has_merges_to_do(env);
        let Some(primary) = self.primary() else { return };
        let has_work = primary.chunks.values().any(|c| !c.chain.is_empty())
            || primary.awaits_leases()
            || !primary.uncredited.is_empty()
            || primary.credit.values().any(|line| line.granted > line.used)
            || !primary.joins.is_empty()
            || !primary.floors.is_empty()
            || primary.scrub.has_work()
            || primary.merges.has_slot()
            || has_merges;
        if has_work && primary.timer_at.is_none_or(|at| at <= now) {
            primary.timer_at = Some(now + TICK);
            env.wake(pg, now + TICK);
        }
    }

    /// R2: a member that leaves writes unanswered is taken out by the metadata service, and awaited until then.
    fn lose_patience_with_members<P: Policy>(&mut self, env: &mut Env<P>) {
        let (now, me) = (env.now, env.me());
        let in_sync = self.config.in_sync.clone();
        let first = self.primary().and_then(|p| p.uncredited.front()).map(|p| (p.request.chunk, p.change.clone()));
        let first_cost = first.map_or(0, |(chunk, change)| self.cost_of(chunk, &change, env));
        let Some(primary) = self.primary() else { return };
        let mut late: BTreeSet<OsdId> = BTreeSet::new();
        for ops in primary.chunks.values() {
            let patience = |w: &InFlight| if w.write.change.is_merge() { MERGE_PATIENCE } else { MEMBER_PATIENCE };
            for in_flight in ops.chain.iter().filter(|w| w.since + patience(w) <= now) {
                late.extend(in_flight.waiting.iter().copied().filter(|m| *m != me));
            }
        }
        if primary.awaits_leases() && primary.unleased_since + MEMBER_PATIENCE <= now {
            let awaited = in_sync.iter().chain(&primary.pending_add);
            late.extend(
                awaited.copied().filter(|m| *m != me && primary.leases.get(m).is_none_or(|until| *until <= now)),
            );
        }
        if primary.uncredited_since + MEMBER_PATIENCE <= now
            && let Some(first) = primary.uncredited.front()
        {
            let blocks = first_cost;
            let joining = primary.joins.iter().filter(|(_, j)| j.covers(first.request.chunk)).map(|(m, _)| m);
            let is_short = |m: &OsdId| primary.credit.get(m).is_none_or(|l| l.granted - l.used < blocks);
            late.extend(in_sync.iter().chain(joining).copied().filter(|m| *m != me && is_short(m)));
        }
        let late_floor = primary.floors.values().flat_map(|f| f.late(now)).filter(|m| *m != me);
        late.extend(late_floor);
        if !late.is_empty() {
            self.give_up_on(late, env);
        }
    }

    fn give_up_on<P: Policy>(&mut self, late: BTreeSet<OsdId>, env: &mut Env<P>) {
        let (pg, epoch) = (self.id, self.config.epoch);
        for member in &late {
            env.want_link(pg, *member);
        }
        let lost: Vec<OsdId> = self.config.in_sync.iter().copied().filter(|m| late.contains(m)).collect();
        if let Some(change) = self.without(&lost, env) {
            env.ask(pg, epoch, change);
            return;
        }
        for member in late {
            if self.primary().is_some_and(|p| p.pending_add.contains(&member)) {
                // J3
                env.ask(pg, epoch, PgChange::NextEpoch);
                return;
            }
            self.lose_joiner(member, env);
        }
    }

    /// What to ask for when these in-sync members do not answer: to go on without the first of them; or, where too few would be left and
    /// the metadata service takes the others for up, that one of them leads, for the trouble may be on this side.
    pub(super) fn without<P: Policy>(&self, lost: &[OsdId], env: &Env<P>) -> Option<PgChange> {
        let first = lost.first()?;
        let left = self.config.in_sync.len() - lost.len();
        let are_up = lost.iter().all(|m| env.view.osds.get(m).is_some_and(|o| o.up));
        if left < usize::from(self.config.min_size) && lost.len() > 1 && are_up {
            return Some(PgChange::Resign);
        }
        Some(PgChange::Remove(*first))
    }

    /// R5, the holder's side: the lease counts from when it was asked for.
    pub(crate) fn on_lease_grant<P: Policy>(
        &mut self,
        from: OsdId,
        grant: &LeaseGrant,
        epoch: Epoch,
        env: &mut Env<P>,
    ) {
        let Some(primary) = self.primary().filter(|p| p.epoch == epoch) else { return };
        let until = grant.asked_at + crate::lease::LEASE;
        let lease = primary.leases.entry(from).or_default();
        *lease = (*lease).max(until);
        primary.lease_asked.remove(&from);
        self.retry_unleased(env);
    }
}

pub(super) fn judge_floor<P: Policy>(floor: &ashlar_types::view::Floor, request: &IoRequest) -> Result<(), IoStatus> {
    if floor.fences(request.attachment, request.generation) {
        return Err(IoStatus::Fenced);
    }
    let is_let_pass = P::STALE_STACK_READ && request.kind == IoKind::Read;
    if request.stack_revision < floor.stack_revision && !is_let_pass {
        return Err(IoStatus::StaleStack);
    }
    Ok(())
}
