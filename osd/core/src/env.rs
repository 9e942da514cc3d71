//! What every placement group of an OSD shares: the store, the network, the view, leases, credit, time.

use crate::credit::CreditLedger;
use crate::lease::Grants;
use crate::net::Net;
use crate::osd::OsdConfig;
use crate::perf::Perf;
use crate::pg::Pending;
use crate::policy::Policy;
use crate::store::Store;
use crate::store::api::{ReadKind, StoreOp, Token};
use crate::{Action, ConnId};
use ashlar_types::control::{ControlRequest, PgChange};
use ashlar_types::view::{ClusterView, Fences, RESERVED_BLOCKS_PER_CHUNK, RESERVED_HEADROOM_BLOCKS};
use ashlar_types::{BlockRange, ChunkId, Duration, Epoch, OsdId, PgId, Tick};
use ashlar_wire::{IoKind, IoRequest, LeaseRequest, Message};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Clients with small requests are at work for so long after each of them.
const SMALL_LATELY: Duration = Duration::from_millis(200);

/// How long an unanswered request to the metadata service waits before it is sent again.
const CONTROL_RETRY: Duration = Duration::from_millis(300);

/// Chunks that one OSD reads for joining members or has on the way to them at a time; each holds up to 4 MiB.
const PUSHES_MAX: usize = 8;

/// Chunks that one OSD merges as the primary of their PGs at a time.
const MERGES_MAX: usize = 4;

/// PGs that one OSD scrubs as their primary at a time.
const SCRUBS_MAX: usize = 1;
/// Chunks that one OSD reads for scrubs at a time, its own and those of others; each takes up to 4 MiB while it is read.
const DIGESTS_MAX: usize = 4;
const DIGESTS_WAITING_MAX: usize = 1024;

#[derive(Debug)]
pub(crate) struct Env<P: Policy> {
    pub now: Tick,
    pub config: OsdConfig,
    pub store: Store<P>,
    pub mounted: bool,
    /// The log was damaged: this OSD cannot tell what it had (R4).
    pub damaged: bool,
    pub view: ClusterView,
    pub net: Net,
    pub grants: Grants,
    pub credit: CreditLedger,
    pub actions: Vec<Action>,
    pub repaired_blocks: u64,
    pub lost_blocks: u64,
    /// When a client last asked for something.
    pub client_at: Tick,
    /// The same of what is small, and no fill: of somebody who feels it when he waits behind a large write.
    small_at: Option<Tick>,
    pub digests: Digests,
    pub perf: Perf,
    tokens: BTreeMap<Token, (PgId, Pending)>,
    last_token: u64,
    last_control: u64,
    asked: BTreeMap<PgId, Asked>,
    timers: BTreeSet<(Tick, PgId)>,
    /// Barriers passed, to be told with the next poll.
    passed: BTreeMap<u64, BTreeSet<PgId>>,
    leases_wanted: BTreeMap<OsdId, Vec<(PgId, Epoch)>>,
    pub(crate) dirty: BTreeSet<PgId>,
    /// Merges that a PG is done with, likewise.
    merged: BTreeMap<u64, BTreeSet<PgId>>,
    merges: usize,
    merge_waiters: BTreeSet<PgId>,
    pushes: usize,
    push_waiters: BTreeSet<PgId>,
    scrubs: usize,
    scrub_waiters: BTreeSet<PgId>,
}

/// The digest of a chunk for a scrub: for this OSD as primary, or for whoever asked on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DigestRead {
    pub pg: PgId,
    pub conn: Option<ConnId>,
    pub epoch: Epoch,
    pub round: u64,
    pub chunk: ChunkId,
    pub deep: bool,
    pub next: Option<ChunkId>,
}

#[derive(Debug, Default)]
pub(crate) struct Digests {
    /// Numbers the questions of all scrubs of this process.
    pub last_question: u64,
    reading: usize,
    waiting: VecDeque<DigestRead>,
}

/// When each change of a PG's epoch was last asked for.
#[derive(Debug, Default)]
struct Asked {
    epoch: Epoch,
    at: BTreeMap<PgChange, Tick>,
}

impl<P: Policy> Env<P> {
    pub(crate) fn new(config: OsdConfig, now: Tick) -> Env<P> {
        Env {
            now,
            store: Store::new(config.store.clone()),
            mounted: false,
            damaged: false,
            view: ClusterView::default(),
            net: Net::new(config.store.osd, config.boot, config.store.cluster),
            grants: Grants::new(now),
            credit: CreditLedger::default(),
            actions: Vec::new(),
            repaired_blocks: 0,
            lost_blocks: 0,
            client_at: Tick(0),
            small_at: None,
            digests: Digests::default(),
            perf: Perf::new(now),
            tokens: BTreeMap::new(),
            last_token: 0,
            last_control: 0,
            asked: BTreeMap::new(),
            timers: BTreeSet::new(),
            passed: BTreeMap::new(),
            leases_wanted: BTreeMap::new(),
            dirty: BTreeSet::new(),
            merged: BTreeMap::new(),
            merges: 0,
            merge_waiters: BTreeSet::new(),
            pushes: 0,
            push_waiters: BTreeSet::new(),
            scrubs: 0,
            scrub_waiters: BTreeSet::new(),
            config,
        }
    }

    /// Whether a write may take what is kept free for its volume. That is for the top layer: what fills one below it is something more.
    pub(crate) fn is_reserved(&self, request: &IoRequest) -> bool {
        let top = self.view.reservations.as_ref().and_then(|reserved| reserved.volumes.get(&request.volume));
        top.is_some_and(|top| request.kind != IoKind::Fill || *top == request.chunk.layer)
    }

    /// Blocks for volumes that have nothing reserved.
    pub(crate) fn open_space(&self) -> u64 {
        let space = self.store.space();
        if P::RESERVATION_GIVEN_AWAY { space.free } else { space.open() }
    }

    /// What the view says is reserved on this OSD, as a member of its PGs.
    pub(crate) fn refresh_reservations(&mut self) {
        let Some(reserved) = &self.view.reservations else { return };
        let me = self.me();
        let is_here = |pg: &PgId| self.view.pgs.get(pg).is_some_and(|config| config.is_member(me));
        let chunks: u64 = reserved.chunks.iter().filter(|(pg, _)| is_here(pg)).map(|(_, chunks)| *chunks).sum();
        let layers = reserved.volumes.values().copied().collect();
        let headroom = if chunks > 0 { RESERVED_HEADROOM_BLOCKS } else { 0 };
        self.store.set_reserved(chunks * RESERVED_BLOCKS_PER_CHUNK + headroom, layers);
    }

    /// Layers of which what they give up is wiped.
    pub(crate) fn refresh_wiped_layers(&mut self) {
        if let Some(told) = &self.view.wipe_freed {
            self.store.set_wiped_layers(told);
        }
    }

    pub(crate) fn me(&self) -> OsdId {
        self.config.store.osd
    }

    fn token(&mut self, pg: PgId, pending: Pending) -> Token {
        self.last_token += 1;
        let token = Token(self.last_token);
        self.tokens.insert(token, (pg, pending));
        token
    }

    pub(crate) fn take_pending(&mut self, token: Token) -> Option<(PgId, Pending)> {
        self.tokens.remove(&token)
    }

    /// Submits a change; `pending` comes back to the PG when it is durable.
    pub(crate) fn store(&mut self, pg: PgId, op: StoreOp, pending: Pending) {
        let token = self.token(pg, pending);
        self.store.submit(token, op);
    }

    pub(crate) fn forget_damage(&mut self) {
        let token = self.token(PgId::default(), Pending::Nothing);
        self.store.submit(token, StoreOp::ForgetDamage);
    }

    pub(crate) fn read(
        &mut self,
        pg: PgId,
        chunk: ChunkId,
        range: BlockRange,
        kind: ReadKind,
        pending: Pending,
    ) -> Token {
        let token = self.token(pg, pending);
        self.store.read(token, pg, chunk, range, kind);
        token
    }

    /// Goes on with a read under its token, in another chunk.
    pub(crate) fn read_on(
        &mut self,
        token: Token,
        pg: PgId,
        chunk: ChunkId,
        range: BlockRange,
        kind: ReadKind,
        pending: Pending,
    ) {
        let older = self.tokens.insert(token, (pg, pending));
        assert!(older.is_none(), "a read goes on when its last part has ended");
        self.store.read(token, pg, chunk, range, kind);
    }

    pub(crate) fn reply(&mut self, conn: ConnId, message: Message) {
        self.net.reply(conn, message, &mut self.actions);
    }

    /// Sends a request to another OSD if the link is ready; wants the link in any case.
    pub(crate) fn send(&mut self, pg: PgId, osd: OsdId, message: Message) {
        self.want_link(pg, osd);
        self.net.send(osd, message, self.now, &mut self.actions);
    }

    pub(crate) fn want_link(&mut self, pg: PgId, osd: OsdId) {
        if let Some(at) = self.net.want(osd, self.now, &self.view, &mut self.actions) {
            self.wake(pg, at);
        }
    }

    /// Calls the PG's `on_timer` at this time or earlier.
    pub(crate) fn wake(&mut self, pg: PgId, at: Tick) {
        self.timers.insert((at, pg));
    }

    pub(crate) fn wake_in(&mut self, pg: PgId, span: Duration) {
        self.wake(pg, self.now + span);
    }

    pub(crate) fn due(&mut self) -> BTreeSet<PgId> {
        let mut due = BTreeSet::new();
        while let Some((at, pg)) = self.timers.first().copied().filter(|(at, _)| *at <= self.now) {
            self.timers.remove(&(at, pg));
            due.insert(pg);
        }
        due
    }

    pub(crate) fn next_timer(&self) -> Option<Tick> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Asks for a new configuration; repeated calls repeat the request every so often, until the epoch has changed.
    pub(crate) fn ask(&mut self, pg: PgId, epoch: Epoch, change: PgChange) {
        let now = self.now;
        let asked = self.asked.entry(pg).or_default();
        if asked.epoch != epoch {
            *asked = Asked { epoch, at: BTreeMap::new() };
        }
        let at = asked.at.entry(change).or_insert(Tick(0));
        let is_due = *at == Tick(0) || *at + CONTROL_RETRY <= now;
        if is_due {
            *at = now.max(Tick(1));
        }
        // Always the same tick for the same request, so that asking often does not breed timers.
        let again = *at + CONTROL_RETRY;
        if is_due {
            let from = self.me();
            self.control(ControlRequest::PgChange { pg, epoch, from, change });
        }
        self.wake(pg, again);
    }

    pub(crate) fn client_asks(&mut self, is_small: bool) {
        self.client_at = self.now;
        if is_small {
            self.small_at = Some(self.now);
        }
    }

    /// Whether clients wait for small things here.
    pub(crate) fn is_busy(&self) -> bool {
        self.small_at.is_some_and(|at| self.now < at + SMALL_LATELY)
    }

    /// Returns the number that the answer will carry.
    pub(crate) fn control(&mut self, request: ControlRequest) -> u64 {
        self.last_control += 1;
        self.actions.push(Action::Control(self.last_control, request));
        self.last_control
    }

    /// R5, the holder's side: requests of one poll to one OSD leave in one message.
    pub(crate) fn ask_lease(&mut self, member: OsdId, pg: PgId, epoch: Epoch) {
        self.leases_wanted.entry(member).or_default().push((pg, epoch));
    }

    pub(crate) fn send_lease_requests(&mut self) {
        let asked_at = self.now;
        for (member, pgs) in std::mem::take(&mut self.leases_wanted) {
            let request = LeaseRequest { asked_at, pgs };
            self.net.send(member, Message::LeaseRequest(request), self.now, &mut self.actions);
        }
    }

    pub(crate) fn barrier_passed(&mut self, barrier: u64, pg: PgId) {
        self.passed.entry(barrier).or_default().insert(pg);
    }

    pub(crate) fn tell_passed_barriers(&mut self) {
        for (barrier, pgs) in std::mem::take(&mut self.passed) {
            self.control(ControlRequest::BarrierPassed { barrier, pgs: pgs.into_iter().collect() });
        }
        for (merge, pgs) in std::mem::take(&mut self.merged) {
            self.control(ControlRequest::MergeDone { merge, pgs: pgs.into_iter().collect() });
        }
    }

    pub(crate) fn merged(&mut self, merge: u64, pg: PgId) {
        self.merged.entry(merge).or_default().insert(pg);
    }

    /// Takes the right to merge one more chunk; without it the PG is woken when one is merged.
    pub(crate) fn take_merge_slot(&mut self, pg: PgId) -> bool {
        if self.merges < MERGES_MAX {
            self.merges += 1;
            return true;
        }
        self.merge_waiters.insert(pg);
        false
    }

    pub(crate) fn release_merge_slot(&mut self) {
        assert!(self.merges > 0, "a merge ends once");
        self.merges -= 1;
        if let Some(pg) = self.merge_waiters.pop_first() {
            self.wake(pg, self.now);
        }
    }

    pub(crate) fn drop_fenced_sessions(&mut self, fences: &Fences) {
        self.net.drop_fenced_sessions(fences);
    }

    /// Takes the right to have one more push under way; without it the PG is woken when one ends.
    pub(crate) fn take_push_slot(&mut self, pg: PgId) -> bool {
        if self.pushes < PUSHES_MAX {
            self.pushes += 1;
            return true;
        }
        self.push_waiters.insert(pg);
        false
    }

    pub(crate) fn release_push_slots(&mut self, count: usize) {
        assert!(count <= self.pushes, "a push ends once");
        self.pushes -= count;
        for _ in 0..count {
            if let Some(pg) = self.push_waiters.pop_first() {
                self.wake(pg, self.now);
            }
        }
    }

    /// Takes the right to scrub one more PG; without it the PG is woken when a scrub ends.
    pub(crate) fn take_scrub_slot(&mut self, pg: PgId) -> bool {
        if self.scrubs < SCRUBS_MAX {
            self.scrubs += 1;
            return true;
        }
        self.scrub_waiters.insert(pg);
        false
    }

    pub(crate) fn release_scrub_slot(&mut self) {
        assert!(self.scrubs > 0, "a scrub ends once");
        self.scrubs -= 1;
        // One that does not want it any more lets the next one try.
        for pg in std::mem::take(&mut self.scrub_waiters) {
            self.wake(pg, self.now);
        }
    }

    /// Reads the digest of a chunk, or keeps it until others are read. One that finds no room is asked for again.
    pub(crate) fn read_digest(&mut self, digest: DigestRead) {
        if self.digests.reading < DIGESTS_MAX {
            self.start_digest(digest);
        } else if self.digests.waiting.len() < DIGESTS_WAITING_MAX && !self.digests.waiting.contains(&digest) {
            self.digests.waiting.push_back(digest);
        }
    }

    fn start_digest(&mut self, digest: DigestRead) {
        self.digests.reading += 1;
        let DigestRead { pg, chunk, deep, .. } = digest;
        let kind = if deep { ReadKind::Verify } else { ReadKind::States };
        self.read(pg, chunk, BlockRange::WHOLE, kind, Pending::Digest(digest));
    }

    pub(crate) fn digest_is_read(&mut self) {
        self.digests.reading -= 1;
        if let Some(next) = self.digests.waiting.pop_front() {
            self.start_digest(next);
        }
    }

    pub(crate) fn warn(&mut self, text: String) {
        self.actions.push(Action::Warn(text));
    }
}
