//! The OSD as one state machine: routes what happens to the store, the placement groups and the network.
//! Driven by the daemon and by the simulator, by nobody else: `step` for each event, `poll` once after each batch of them.
//!
//! O1: nothing is served before the store is mounted; nothing at all is done after it has failed.

use crate::env::Env;
use crate::housekeeping::Housekeeping;
use crate::net::Peer;
use crate::perf::Perf;
use crate::pg::{Form, Pg};
use crate::policy::{Honest, Policy};
use crate::store::Store;
use crate::store::api::{StoreConfig, StoreEvent};
use crate::wiping::Wiping;
use crate::wiping_freed::WipingFreed;
use crate::{Action, ConnId, Event};
use ashlar_types::control::{ControlRequest, OsdUsage};
use ashlar_types::scrub::ScrubTarget;
use ashlar_types::view::ClusterView;
use ashlar_types::{BLOCK_BYTES, BootId, Duration, Epoch, LayerId, OsdId, PgId, Revision, Tick};
use ashlar_wire::{IoKind, IoStatus, LayersRequest, LeaseGrant, LeaseRequest, Message, OverRequest};
use std::collections::BTreeMap;

const ROUNDS_MAX: usize = 16;
/// A request of fewer bytes takes so little time that one notices when it waits behind a large one.
const SMALL_BYTES: u32 = 256 << 10;

/// Layers that one heartbeat tells of.
const LAYERS_TOLD_MAX: usize = 2048;

/// How full the disk is, and with what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpaceNews {
    /// By what this view says is reserved.
    pub view: Revision,
    pub usage: OsdUsage,
    /// Blocks of layers that have changed; 0 of one that is gone.
    pub layers: Vec<(LayerId, u64)>,
}

#[derive(Clone, Debug)]
pub struct OsdConfig {
    pub store: StoreConfig,
    /// Drawn at random by the shell at each start.
    pub boot: BootId,
    /// Seconds since 1970 at tick 0, for reports that people read.
    pub unix_at_tick_0: u64,
}

/// A scrub that the shell wants, until the metadata service has taken it down as wishes.
#[derive(Debug, Default)]
struct WantedScrub {
    deep: Option<bool>,
    ask_at: Tick,
    /// The request that waits for its answer.
    number: Option<u64>,
}

impl WantedScrub {
    const ASK_AGAIN: Duration = Duration::from_millis(5000);

    fn begin(&mut self, deep: bool, now: Tick) {
        *self = WantedScrub { deep: Some(deep || self.deep == Some(true)), ask_at: now, number: None };
    }

    fn due(&self, now: Tick) -> Option<bool> {
        self.deep.filter(|_| self.ask_at <= now)
    }

    /// Returns when it is asked for again, unless it is answered.
    fn on_asked(&mut self, number: u64, now: Tick) -> Tick {
        self.number = Some(number);
        self.ask_at = now + Self::ASK_AGAIN;
        self.ask_at
    }

    fn on_answer(&mut self, number: u64, is_done: bool) {
        if is_done && self.number == Some(number) {
            *self = WantedScrub::default();
        }
    }
}

#[derive(Debug)]
pub struct Osd<P: Policy = Honest> {
    env: Env<P>,
    pgs: BTreeMap<PgId, Pg>,
    keeping: Housekeeping,
    has_failed: bool,
    store_events: Vec<StoreEvent>,
    wanted_scrub: WantedScrub,
    wiping: Wiping,
    wiping_freed: WipingFreed,
}

impl<P: Policy> Osd<P> {
    /// `now` is the start of the process, from which R5's waiting after a restart counts.
    pub fn new(config: OsdConfig, now: Tick) -> Osd<P> {
        Osd {
            env: Env::new(config, now),
            pgs: BTreeMap::new(),
            keeping: Housekeeping::default(),
            has_failed: false,
            store_events: Vec::new(),
            wanted_scrub: WantedScrub::default(),
            wiping: Wiping::default(),
            wiping_freed: WipingFreed::default(),
        }
    }

    /// The only way in, together with [`Osd::poll`].
    pub fn step(&mut self, now: Tick, event: Event, actions: &mut Vec<Action>) {
        if self.has_failed {
            return;
        }
        self.env.now = self.env.now.max(now);
        if matches!(event, Event::Received(..) | Event::LinkReceived(..)) {
            self.env.perf.on_message(self.env.now);
        }
        match event {
            Event::Start => {}
            Event::Disk(io, result) => self.env.store.on_disk(io, result),
            Event::Received(conn, message) => self.on_received(conn, message),
            Event::Closed(conn) => self.env.net.on_closed(conn),
            Event::LinkUp(osd) => self.env.net.on_link_up(osd, self.env.now, &mut self.env.actions),
            Event::LinkDown(osd) => self.on_link_down(osd),
            Event::LinkReceived(osd, message) => self.on_reply(osd, message),
            Event::View(view) => self.on_view(view),
            // A refused request was of an older epoch, which the view tells; a lost one is repeated by its PG.
            Event::ControlAnswer(number, result) => self.wanted_scrub.on_answer(number, result.is_ok()),
            Event::Timer => {}
            Event::Scrub { deep } => self.wanted_scrub.begin(deep, self.env.now),
        }
        self.handle_store_events();
        actions.append(&mut self.env.actions);
    }

    /// After each batch of events: starts disk operations, tells commits, asks for leases, says when to be woken.
    pub fn poll(&mut self, now: Tick, actions: &mut Vec<Action>) {
        if self.has_failed {
            return;
        }
        self.env.now = self.env.now.max(now);
        for osd in self.env.net.silent(now) {
            self.env.warn(format!("{osd} has answered nothing for long; opening a new connection"));
            self.on_link_down(osd);
        }
        for pg in self.env.due() {
            if let Some(pg) = self.pgs.get_mut(&pg) {
                pg.on_timer(&mut self.env);
            }
        }
        self.keeping.act(self.env.now, &mut self.env.store);
        self.ask_for_scrub();
        self.wiping.act(&mut self.env);
        self.wiping_freed.act(&mut self.env, self.wiping.is_held_up());
        // What the store reports may make work for it: until it has nothing to say, which takes two rounds at most times.
        for _ in 0..ROUNDS_MAX {
            self.handle_store_events();
            for pg in std::mem::take(&mut self.env.dirty) {
                if let Some(pg) = self.pgs.get_mut(&pg) {
                    pg.tell_commits(&mut self.env);
                }
            }
            self.forget_damage();
            self.env.send_lease_requests();
            self.env.tell_passed_barriers();
            self.env.store.poll(&mut self.env.actions);
            if !self.handle_store_events() {
                break;
            }
        }
        self.env.net.clear_touched();
        actions.append(&mut self.env.actions);
        let keeping = self.keeping.next(self.env.now, &self.env.store);
        let wiping = self.wiping.next(self.env.now).into_iter().chain(self.wiping_freed.next(&self.env));
        if let Some(at) = self.env.next_timer().into_iter().chain(keeping).chain(wiping).min() {
            actions.push(Action::WakeAt(at));
        }
    }

    /// Returns whether there were any.
    fn handle_store_events(&mut self) -> bool {
        let mut had_any = false;
        loop {
            let mut events = std::mem::take(&mut self.store_events);
            self.env.store.take_events(&mut events);
            if events.is_empty() {
                self.store_events = events;
                return had_any;
            }
            had_any = true;
            for event in events.drain(..) {
                self.on_store_event(event);
            }
            self.store_events = events;
        }
    }

    fn on_store_event(&mut self, event: StoreEvent) {
        match event {
            StoreEvent::Mounted(report) => {
                for finding in &report.findings {
                    self.env.warn(finding.clone());
                }
                self.env.mounted = true;
                self.env.damaged = report.damaged;
                self.env.actions.push(Action::Mounted { damaged: report.damaged });
                self.refresh_pgs();
            }
            StoreEvent::Stored(token) => {
                if let Some((pg, pending)) = self.env.take_pending(token)
                    && let Some(pg) = self.pgs.get_mut(&pg)
                {
                    pg.on_stored(pending, &mut self.env);
                }
            }
            StoreEvent::Read(token, outcome) => {
                if let Some((pg, pending)) = self.env.take_pending(token)
                    && let Some(pg) = self.pgs.get_mut(&pg)
                {
                    pg.on_read(token, pending, outcome, &mut self.env);
                }
            }
            StoreEvent::MergeRefused(token, why) => {
                if let Some((pg, pending)) = self.env.take_pending(token)
                    && let Some(pg) = self.pgs.get_mut(&pg)
                {
                    pg.on_merge_refused(&pending, why, &mut self.env);
                }
            }
            StoreEvent::Wiped(report) => {
                self.wiping_freed.on_wiped(report.unverified);
                self.wiping.on_wiped(report, &mut self.env);
            }
            StoreEvent::Failed(error) => {
                self.has_failed = true;
                self.env.actions.push(Action::Fail(error.to_string()));
            }
        }
    }

    fn on_view(&mut self, view: ClusterView) {
        let is_news = self.env.view.apply(view);
        if P::BOOT_ID_IGNORED
            && let Some(info) = self.env.view.osds.get(&self.env.me())
        {
            self.env.net.pose_as(info.boot);
        }
        if is_news {
            self.wiping.on_view(self.env.me(), &self.env.view.wipes, self.env.now);
        }
        if is_news && self.env.mounted {
            self.refresh_pgs();
        }
    }

    /// Takes up the PGs that the view gives this OSD, and tells each of them that the view has changed.
    fn refresh_pgs(&mut self) {
        self.env.refresh_reservations();
        self.env.refresh_wiped_layers();
        let me = self.env.me();
        for (id, config) in &self.env.view.pgs {
            if config.is_member(me) && !self.pgs.contains_key(id) {
                self.pgs.insert(*id, Pg::new(*id, config.clone(), self.env.damaged));
            }
        }
        for pg in self.pgs.values_mut() {
            pg.on_view(&mut self.env);
        }
    }

    fn on_received(&mut self, conn: ConnId, message: Message) {
        if let Message::Hello(hello) = message {
            self.env.net.on_hello(conn, hello, self.env.mounted, &mut self.env.actions);
            return;
        }
        match (self.env.net.peer(conn), message) {
            (Some(Peer::Client(_)), Message::IoRequest(request)) => self.on_io_request(conn, request, Form::Plain),
            (Some(Peer::Client(_)), Message::OverRequest(OverRequest { request, base })) => {
                self.on_io_request(conn, request, Form::Over(base));
            }
            (Some(Peer::Client(_)), Message::LayersRequest(LayersRequest { request })) => {
                self.on_io_request(conn, request, Form::Layers);
            }
            (Some(Peer::Client(_)), Message::Stack(stack)) => self.env.net.on_stack(conn, &stack),
            (Some(Peer::Osd { id, boot }), message) => {
                let from = (*id, *boot);
                self.on_peer_request(conn, from, message);
            }
            // N1: nothing counts before a hello or on a connection that was replaced.
            (_, _) => self.env.actions.push(Action::Close(conn)),
        }
    }

    fn on_io_request(&mut self, conn: ConnId, request: ashlar_wire::IoRequest, form: Form) {
        let is_small = request.len < SMALL_BYTES && request.kind != IoKind::Fill && !matches!(form, Form::Layers);
        self.env.client_asks(is_small);
        match self.pgs.get_mut(&request.pg) {
            Some(pg) => pg.on_request(conn, request, form, &mut self.env),
            None => {
                let refusal = crate::pg::refusal(request.op, IoStatus::WrongEpoch, Epoch(0));
                self.env.reply(conn, refusal);
            }
        }
    }

    /// Requests of other OSDs. A PG that this OSD has not heard of yet is taken up when its first message names a configuration.
    fn on_peer_request(&mut self, conn: ConnId, from: (OsdId, BootId), message: Message) {
        let pg = match &message {
            Message::LeaseRequest(request) => {
                let request = request.clone();
                self.on_lease_request(conn, from, request);
                return;
            }
            Message::Promise(m) => {
                let in_doubt = self.env.damaged;
                self.pgs.entry(m.config.pg).or_insert_with(|| Pg::new(m.config.pg, m.config.clone(), in_doubt));
                m.config.pg
            }
            Message::Prepare(m) => m.pg,
            Message::Commit(m) => m.pg,
            Message::CreditRequest(m) => m.pg,
            Message::ReservedRequest(m) => m.pg,
            Message::Decide(m) => m.pg,
            Message::RaiseFloor(m) => m.pg,
            Message::JoinStart(m) => m.pg,
            Message::Push(m) => m.pg,
            Message::FetchRequest(m) => m.pg,
            Message::DigestRequest(m) => m.pg,
            _ => {
                self.env.actions.push(Action::Close(conn));
                return;
            }
        };
        // Unknown: the view is behind. The primary sends again when its patience ends or the link is made anew.
        let Some(pg) = self.pgs.get_mut(&pg) else { return };
        let env = &mut self.env;
        match message {
            Message::Promise(m) => pg.on_promise(conn, m, env),
            Message::Prepare(m) => pg.on_prepare(conn, m, env),
            Message::Commit(m) => pg.on_commit(m, env),
            Message::CreditRequest(m) => pg.on_credit_request(conn, m, env),
            Message::ReservedRequest(m) => pg.on_reserved_request(conn, m, env),
            Message::Decide(m) => pg.on_decide(conn, m, env),
            Message::RaiseFloor(m) => pg.on_raise_floor(conn, m, env),
            Message::JoinStart(m) => pg.on_join_start(conn, m, env),
            Message::Push(m) => pg.on_push(conn, m, env),
            Message::FetchRequest(m) => pg.on_fetch(conn, m, env),
            Message::DigestRequest(m) => pg.on_digest_request(conn, m, env),
            _ => unreachable!("sorted out above"),
        }
    }

    /// R5, L2: a lease is granted to the process that the view names, for the epochs that this OSD has promised.
    fn on_lease_request(&mut self, conn: ConnId, (holder, boot): (OsdId, BootId), request: LeaseRequest) {
        if self.env.view.osds.get(&holder).is_none_or(|info| info.boot != boot) {
            return;
        }
        let mut granted = Vec::with_capacity(request.pgs.len());
        for (pg, epoch) in request.pgs {
            if self.pgs.get(&pg).is_some_and(|p| p.may_grant(holder, epoch, &self.env)) {
                self.env.grants.grant(pg, holder, boot, self.env.now);
                granted.push((pg, epoch));
            }
        }
        let grant = LeaseGrant { asked_at: request.asked_at, pgs: granted };
        self.env.reply(conn, Message::LeaseGrant(grant));
    }

    fn on_reply(&mut self, from: OsdId, message: Message) {
        if let Message::HelloReply(reply) = &message {
            if self.env.net.on_hello_reply(from, reply, self.env.now) {
                for pg in self.pgs.values_mut() {
                    pg.on_link_ready(from, &mut self.env);
                }
            }
            return;
        }
        if !self.env.net.is_ready(from) {
            return;
        }
        self.env.net.on_heard(from);
        if let Message::LeaseGrant(grant) = &message {
            for (pg, epoch) in &grant.pgs {
                if let Some(pg) = self.pgs.get_mut(pg) {
                    pg.on_lease_grant(from, grant, *epoch, &mut self.env);
                }
            }
            return;
        }
        let pg = match &message {
            Message::Prepared(m) => m.pg,
            Message::CreditGrant(m) => m.pg,
            Message::ReservedGrant(m) => m.pg,
            Message::PromiseReply(m) => m.pg,
            Message::Decided(m) => m.pg,
            Message::FloorRaised(m) => m.pg,
            Message::JoinChunks(m) => m.pg,
            Message::Pushed(m) => m.pg,
            Message::FetchReply(m) => m.pg,
            Message::DigestReply(m) => m.pg,
            _ => return,
        };
        let Some(pg) = self.pgs.get_mut(&pg) else { return };
        let env = &mut self.env;
        match message {
            Message::Prepared(m) => pg.on_prepared(from, &m, env),
            Message::CreditGrant(m) => pg.on_credit_grant(from, &m, env),
            Message::ReservedGrant(m) => pg.on_reserved_grant(from, &m, env),
            Message::PromiseReply(m) => pg.on_promise_reply(from, m, env),
            Message::Decided(m) => pg.on_decided(from, m.epoch, m.outcome, env),
            Message::FloorRaised(m) => pg.on_floor_raised(from, m.epoch, m.barrier, m.outcome, env),
            Message::JoinChunks(m) => pg.on_join_chunks(from, m, env),
            Message::Pushed(m) => pg.on_pushed(from, &m, env),
            Message::FetchReply(m) => pg.on_fetch_reply(from, m, env),
            Message::DigestReply(m) => pg.on_digest_reply(from, m, env),
            _ => unreachable!("sorted out above"),
        }
    }

    fn on_link_down(&mut self, osd: OsdId) {
        self.env.net.on_link_down(osd, self.env.now);
        for pg in self.pgs.values_mut() {
            pg.on_link_lost(osd, &mut self.env);
        }
    }

    /// Every PG has been brought back whole since damage was found (R4).
    fn forget_damage(&mut self) {
        let is_told = self.env.mounted && self.env.view.revision.0 > 0;
        if self.env.damaged && is_told && !self.pgs.values().any(Pg::is_in_doubt) {
            self.env.damaged = false;
            self.env.forget_damage();
        }
    }

    /// What this OSD leads is to be scrubbed again: wished for like an operator does, so that it survives this process and its leading.
    fn ask_for_scrub(&mut self) {
        let Some(deep) = self.wanted_scrub.due(self.env.now) else { return };
        let is_wished = |pg: &PgId| self.env.view.scrubs.get(pg).and_then(|s| s.wish).is_some_and(|w| w.deep || !deep);
        let pgs: Vec<PgId> = self.active_pgs().map(|(pg, _)| pg).filter(|pg| !is_wished(pg)).collect();
        if pgs.is_empty() {
            self.wanted_scrub = WantedScrub::default();
            return;
        }
        let number = self.env.control(ControlRequest::ScrubStart { target: ScrubTarget::Pgs(pgs), deep });
        let again = self.wanted_scrub.on_asked(number, self.env.now);
        // No PG has this id: the timer only brings `poll` here again.
        self.env.wake(PgId::default(), again);
    }

    /// For heartbeats.
    pub fn usage(&self) -> OsdUsage {
        let (space, accounting) = (self.env.store.space(), self.env.store.accounting());
        let bytes = |blocks: u64| blocks * u64::from(BLOCK_BYTES);
        OsdUsage {
            total: bytes(space.total),
            used: bytes(space.used),
            free: bytes(self.env.credit.available(space.free)),
            unfilled: bytes(space.unfilled),
            fixed: bytes(accounting.fixed),
            index: bytes(accounting.index),
            data: bytes(accounting.data),
            repaired_blocks: self.env.repaired_blocks,
            lost_blocks: self.env.lost_blocks,
            wipe_left: bytes(self.env.store.wipe_left().unwrap_or(0)),
            unwiped: bytes(self.wiping_freed.unwiped(&self.env)),
            wipe_unverified: bytes(self.wiping_freed.unverified(&self.env)),
        }
    }

    /// For a heartbeat.
    pub fn space_news(&mut self) -> SpaceNews {
        let layers = self.env.store.take_changed_layers(LAYERS_TOLD_MAX);
        SpaceNews { view: self.env.view.revision, usage: self.usage(), layers }
    }

    /// What [`Osd::space_news`] gave was lost.
    pub fn on_space_news_lost(&mut self, news: &SpaceNews) {
        self.env.store.on_changed_layers_lost(&news.layers);
    }

    /// For whoever drives this: what it measures itself, and the end of each turn, go in here; reports come out.
    pub fn perf(&mut self) -> &mut Perf {
        &mut self.env.perf
    }

    /// Blocks that placement groups may still fill by what this OSD has granted them.
    pub fn promised_blocks(&self) -> u64 {
        self.env.credit.outstanding()
    }

    /// For the simulator's checkers and for `ashlar` commands: what is on disk.
    pub fn store(&self) -> &Store<P> {
        &self.env.store
    }

    pub fn is_mounted(&self) -> bool {
        self.env.mounted
    }

    /// PGs that this OSD leads and serves at this moment.
    pub fn active_pgs(&self) -> impl Iterator<Item = (PgId, Epoch)> {
        self.pgs.iter().filter(|(_, pg)| pg.is_active()).map(|(id, pg)| (*id, pg.epoch()))
    }
}
