//! Brings each part to the primary of its PG and its answer back, whatever happens on the way: one number for each part, sent
//! again under the same number until it is answered (R10).
//!
//! T1: a part waits in the lane of its PG, or is sent, or waits for its base; one of them. T2: a part that is answered is out of the window, so it
//! can't be sent again. T3: a link that is `Up` leads to the process that the view names. T4: a connection is told a stack before a request
//! that names it.

use super::ClientLimits;
use super::base::Stretch;
use super::data::{DamagedReply, verified_extents, verified_extents_over, verified_read, verified_read_over};
use super::lane::{Gate, Lane, LaneId};
use super::layers::{Placement, open_layers, verified_layers};
use super::link::{Link, LinkState};
use super::presence::StackState;
use super::request::{Part, PartOutput, Sent, Wanted};
use super::stacks::Stacks;
use super::window::Window;
use super::{ClientAction, SessionProgress};
use ashlar_types::control::{AttachGrant, BaseLayer};
use ashlar_types::view::{ClusterView, OsdInfo, PgConfig, place_chunk};
use ashlar_types::{
    BlockError, BlockRange, ChunkId, ClusterId, Crc, Duration, Epoch, LayerId, OpId, OpNumber, OsdId, PgId, Revision,
    StackRevision, Tick,
};
use ashlar_wire::{
    ClientHello, Hello, HelloReply, HelloStatus, IoKind, IoReply, IoRequest, IoStatus, LayersReply, LayersRequest,
    Message, OverRequest, PeerHello, Stack,
};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// What an answer means for the request behind it.
pub(super) enum Verdict {
    Settled(Part, Result<PartOutput, BlockError>),
    /// A part that reads was answered; what is open is the base's.
    Open(Part, Vec<Stretch>),
    /// A write that needs blocks of the base, and goes on with [`Router::resend`].
    NeedsBase(OpNumber),
    /// The session is over.
    Fenced,
}

#[derive(Debug)]
pub(super) struct Router {
    grant: AttachGrant,
    limits: ClientLimits,
    cluster: ClusterId,
    revision: Revision,
    /// PGs of the volume's pool; `None` until the view names the pool.
    pg_count: Option<u32>,
    osds: BTreeMap<OsdId, OsdInfo>,
    /// Of the volume's pool, by index.
    configs: BTreeMap<u32, PgConfig>,
    lanes: BTreeMap<LaneId, Lane>,
    links: BTreeMap<OsdId, Link>,
    window: Window,
    stacks: Stacks,
    /// Of a clone that was flattened: the first stack with which it stands on nothing. What an OSD calls unwritten in answer to a part with an older
    /// one may have been filled since.
    flattened: Option<StackRevision>,
    /// Parts whose stack was too old, to be sent with a newer one under a new number.
    restarts: VecDeque<Part>,
    /// No demand for the stack before then.
    stack_not_before: Tick,
    next_connection: u64,
    /// No demand for the view before then.
    view_not_before: Tick,
    /// The earliest time at which something must be looked at, as far as found in this step.
    wake_wanted: Option<Tick>,
    wake_armed: Option<Tick>,
}

impl Router {
    pub(super) fn new(grant: AttachGrant, limits: ClientLimits, progress: SessionProgress) -> Router {
        let stacks = Stacks::new(grant.stack_revision, grant.layers.clone());
        Router {
            stacks,
            flattened: None,
            restarts: VecDeque::new(),
            stack_not_before: Tick(0),
            grant,
            limits,
            cluster: ClusterId::default(),
            revision: Revision(0),
            pg_count: None,
            osds: BTreeMap::new(),
            configs: BTreeMap::new(),
            lanes: BTreeMap::new(),
            links: BTreeMap::new(),
            window: Window::new(progress.next_number, limits.unanswered_max, limits.span_max),
            next_connection: progress.next_connection,
            view_not_before: Tick(0),
            wake_wanted: None,
            wake_armed: None,
        }
    }

    pub(super) fn progress(&self) -> SessionProgress {
        SessionProgress { next_number: self.window.next().0, next_connection: self.next_connection }
    }

    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    /// Whether another part may be given a number now.
    pub(super) fn has_room(&self) -> bool {
        self.pg_count.is_some() && self.window.has_room()
    }

    pub(super) fn has_base(&self) -> bool {
        self.grant.base.is_some()
    }

    pub(super) fn stack(&self) -> StackState {
        StackState { revision: self.stacks.newest(), has_base: self.has_base() }
    }

    /// Known when parts are: they are made when the pool is known.
    pub(super) fn placement(&self) -> Placement {
        Placement { key: self.grant.placement_key, pg_count: self.pg_count.unwrap_or(1) }
    }

    pub(super) fn knows_pool(&self) -> bool {
        self.pg_count.is_some()
    }

    /// A part that begins anew with the newest stack, once that is not the one that was too old.
    pub(super) fn next_restart(&mut self) -> Option<Part> {
        if self.stacks.is_wanted() { None } else { self.restarts.pop_front() }
    }

    pub(super) fn take(&mut self, now: Tick, mut part: Part, actions: &mut Vec<ClientAction>) {
        let id = self.lane_of(&part);
        part.lane = id;
        let number = self.window.admit(part);
        if self.lanes.entry(id).or_default().is_free()
            && let Some((osd, epoch)) = self.open_way(now, id.pg, actions)
        {
            return self.send(now, number, osd, epoch, actions);
        }
        self.enqueue(number);
        self.pump(now, id, actions);
    }

    // ---- what happens

    pub(super) fn on_view(&mut self, now: Tick, view: &ClusterView, actions: &mut Vec<ClientAction>) {
        if view.revision <= self.revision {
            return;
        }
        self.revision = view.revision;
        self.cluster = view.cluster;
        for (osd, info) in &view.osds {
            self.osds.insert(*osd, info.clone());
            let leads_there = |link: &Link| link.boot == info.boot && link.address == info.address;
            if self.links.get(osd).is_some_and(|link| !leads_there(link)) {
                self.close_link(*osd, now);
            }
        }
        if let Some(pool) = view.pools.get(&self.grant.pool) {
            self.resize_pool(pool.pg_count);
        }
        for (pg, config) in &view.pgs {
            if pg.pool != self.grant.pool {
                continue;
            }
            // Differences may overlap and be late; epochs only rise (R2).
            let known = self.configs.get(&pg.index).map(|known| known.epoch);
            if known.is_some_and(|known| known >= config.epoch) {
                continue;
            }
            self.configs.insert(pg.index, config.clone());
            for writes in [false, true] {
                if let Some(lane) = self.lanes.get_mut(&LaneId { pg: pg.index, writes }) {
                    lane.reconfigured(known.is_none());
                }
            }
        }
        let mut is_barrier_pending = false;
        for barrier in view.barriers.iter().filter(|b| b.volume == self.grant.volume) {
            is_barrier_pending = true;
            if self.stacks.want(barrier.floor.stack_revision) {
                self.stack_not_before = Tick(0);
            }
        }
        if !is_barrier_pending {
            // The stack of a shared volume is told when its barrier has passed everywhere.
            self.stack_not_before = Tick(0);
        }
        self.want_stack(now, actions);
        // What was sent under an older configuration may be lost, and is refused if it is late: send it again.
        let epochs: BTreeMap<u32, Epoch> = self.configs.iter().map(|(pg, config)| (*pg, config.epoch)).collect();
        self.unsend_where(|part, sent| epochs.get(&part.lane.pg) != Some(&sent.epoch));
        self.pump_all(now, actions);
    }

    pub(super) fn on_stack(
        &mut self,
        now: Tick,
        revision: StackRevision,
        layers: Vec<LayerId>,
        base: Option<BaseLayer>,
        actions: &mut Vec<ClientAction>,
    ) {
        if self.stacks.learn(revision, layers) {
            if base.is_none() && self.grant.base.take().is_some() {
                self.flattened = Some(revision);
            }
            let held = self.window.iter().filter_map(|(_, part)| part.stack).collect();
            self.stacks.forget_but(&held);
            self.pump_all(now, actions);
        }
    }

    pub(super) fn on_link_up(&mut self, now: Tick, osd: OsdId, actions: &mut Vec<ClientAction>) {
        let Some(link) = self.links.get_mut(&osd) else { return };
        let LinkState::Dialing { .. } = link.state else { return };
        let deadline = now + self.limits.connect_timeout;
        link.state = LinkState::Greeting { deadline };
        link.told.clear();
        let client = ClientHello {
            session: self.grant.session,
            volume: self.grant.volume,
            attachment: self.grant.attachment,
            generation: self.grant.generation,
            read_only: self.grant.read_only,
        };
        let hello =
            Hello { cluster: self.cluster, to: osd, from: PeerHello::Client(client), connection: self.next_connection };
        self.next_connection += 1;
        self.wake_by(deadline);
        actions.push(ClientAction::LinkSend(osd, Message::Hello(hello)));
    }

    pub(super) fn on_link_down(&mut self, now: Tick, osd: OsdId, actions: &mut Vec<ClientAction>) {
        let Some(link) = self.links.get(&osd) else { return };
        if let LinkState::Closed { .. } = link.state {
            return;
        }
        self.back_off_link(now, osd);
        if self.lanes.values().any(|lane| !lane.waiting.is_empty()) {
            self.want_view(now, actions);
        }
        self.pump_all(now, actions);
    }

    pub(super) fn on_hello_reply(
        &mut self,
        now: Tick,
        from: OsdId,
        reply: &HelloReply,
        actions: &mut Vec<ClientAction>,
    ) {
        let Some(link) = self.links.get_mut(&from) else { return };
        let LinkState::Greeting { .. } = link.state else { return };
        // R7: another process than the view names can't serve; dialling again gives the view time to catch up.
        let expected = reply.osd == from && reply.boot == link.boot;
        match reply.status {
            HelloStatus::Welcome if expected => {
                link.state = LinkState::Up;
                link.heard_at = now;
            }
            HelloStatus::Starting if expected => self.back_off_link(now, from),
            HelloStatus::Welcome
            | HelloStatus::Starting
            | HelloStatus::Stale
            | HelloStatus::WrongCluster
            | HelloStatus::WrongOsd => {
                self.back_off_link(now, from);
                self.want_view(now, actions);
            }
        }
        self.pump_all(now, actions);
    }

    pub(super) fn on_io_reply(
        &mut self,
        now: Tick,
        from: OsdId,
        reply: IoReply,
        unwritten: &[BlockRange],
        actions: &mut Vec<ClientAction>,
    ) -> Option<Verdict> {
        self.on_heard(now, from);
        if reply.op.session != self.grant.session {
            return None;
        }
        let number = reply.op.number;
        // No such part: answered before, and this is the answer to a repetition.
        let part = self.window.get(number)?;
        // A refusal counts only if it is of the attempt under way: a late one says nothing of what that attempt does.
        let current = part.sent.is_some_and(|sent| sent.osd == from);
        match reply.status {
            IoStatus::Ok | IoStatus::OkBusy => self.on_done(now, number, &reply, unwritten, actions),
            IoStatus::Fenced => Some(Verdict::Fenced),
            _ if !current => None,
            IoStatus::StaleStack | IoStatus::LayerGone => {
                self.restart(now, number, actions);
                None
            }
            IoStatus::NeedsBase if self.grant.base.is_some() => self.hold_for_base(now, number, actions),
            // Said before the clone was flattened; what it has not now is zeroes.
            IoStatus::NeedsBase if self.flattened.is_some() => {
                self.on_refused(now, number, reply.epoch, actions);
                None
            }
            IoStatus::StaleOp => panic!("R10: {from} holds unanswered {number} for answered; a write may be lost"),
            IoStatus::WrongEpoch | IoStatus::Retry => {
                self.on_refused(now, number, reply.epoch, actions);
                None
            }
            IoStatus::BadChecksum => self.on_damaged(now, number, "the data was damaged on its way".into(), actions),
            IoStatus::Written if part.kind == IoKind::Fill => {
                self.settle(now, number, Err(BlockError::Written), actions)
            }
            IoStatus::NoSpace => self.settle(now, number, Err(BlockError::NoSpace), actions),
            IoStatus::Medium => {
                let detail = format!("{} at byte {}", self.chunk_of(part), part.offset);
                self.settle(now, number, Err(BlockError::Medium { detail }), actions)
            }
            IoStatus::Invalid | IoStatus::NeedsBase | IoStatus::Written => {
                let detail = format!("{from} calls a request for {} invalid", self.chunk_of(part));
                self.settle(now, number, Err(BlockError::Medium { detail }), actions)
            }
        }
    }

    pub(super) fn on_layers_reply(
        &mut self,
        now: Tick,
        from: OsdId,
        reply: &LayersReply,
        actions: &mut Vec<ClientAction>,
    ) -> Option<Verdict> {
        self.on_heard(now, from);
        let number = reply.op.number;
        if reply.op.session != self.grant.session {
            return None;
        }
        let part = self.window.get(number)?;
        // K1: whichever attempt it answers, it was made with this stack.
        let layers = match part.stack.filter(|_| part.wanted() == Wanted::Layers) {
            Some(stack) => verified_layers(part.offset, part.len, &reply.runs, self.stacks.layers(stack)),
            None => Err(DamagedReply::Form),
        };
        let (offset, is_open) = (part.offset, part.with_base && self.grant.base.is_some());
        match layers {
            Ok(extents) if is_open && extents.iter().any(|extent| extent.layer.is_none()) => {
                Some(Verdict::Open(self.take_out(now, number, actions)?, open_layers(offset, extents)))
            }
            Ok(extents) if self.is_before_flatten(part) && extents.iter().any(|extent| extent.layer.is_none()) => {
                self.restart(now, number, actions);
                None
            }
            Ok(extents) => {
                self.settle(now, number, Ok(PartOutput::Layers { extents, next: Some(reply.next) }), actions)
            }
            Err(damage) => self.on_damaged(now, number, damage.to_string(), actions),
        }
    }

    fn on_heard(&mut self, now: Tick, from: OsdId) {
        if let Some(link) = self.links.get_mut(&from) {
            link.heard_at = now;
            // Not for a greeting alone: who welcomes us and then hangs up would be dialled, and sent everything, in a tight loop.
            link.backoff.reset();
        }
    }

    pub(super) fn on_timer(&mut self, now: Tick, actions: &mut Vec<ClientAction>) {
        self.wake_armed = None;
        self.give_up_slow_links(now, actions);
        self.repeat_unanswered(now, actions);
        self.want_stack(now, actions);
        self.pump_all(now, actions);
    }

    // ---- answers

    fn on_done(
        &mut self,
        now: Tick,
        number: OpNumber,
        reply: &IoReply,
        unwritten: &[BlockRange],
        actions: &mut Vec<ClientAction>,
    ) -> Option<Verdict> {
        let part = self.window.get(number)?;
        if part.wanted() == Wanted::Layers {
            return self.on_damaged(now, number, DamagedReply::Form.to_string(), actions);
        }
        if !unwritten.is_empty() && self.flattened.is_some() && !part.is_write() {
            self.restart(now, number, actions);
            return None;
        }
        if !unwritten.is_empty() && self.grant.base.is_some() && !part.is_write() {
            let (offset, len, blocks) = (part.offset, part.len, &reply.blocks);
            let stretches = match part.kind {
                IoKind::Extents => verified_extents_over(offset, len, blocks, unwritten),
                _ => verified_read_over(offset, len, blocks, unwritten, &reply.payload),
            };
            return match stretches {
                Ok(stretches) => Some(Verdict::Open(self.take_out(now, number, actions)?, stretches)),
                Err(damage) => self.on_damaged(now, number, damage.to_string(), actions),
            };
        }
        let output = match part.kind {
            IoKind::Fill => Ok(PartOutput::Filled { is_busy: reply.status == IoStatus::OkBusy }),
            IoKind::Write | IoKind::Zero => Ok(PartOutput::Done),
            IoKind::Read => verified_read(part.offset, part.len, &reply.blocks, &reply.payload).map(PartOutput::Data),
            IoKind::Extents => verified_extents(part.offset, part.len, &reply.blocks).map(PartOutput::Extents),
        };
        match output {
            Ok(output) => self.settle(now, number, Ok(output), actions),
            Err(damage) => self.on_damaged(now, number, damage.to_string(), actions),
        }
    }

    /// Data that isn't what its checksums say, on the way there or back: ask again, a few times.
    fn on_damaged(
        &mut self,
        now: Tick,
        number: OpNumber,
        what: String,
        actions: &mut Vec<ClientAction>,
    ) -> Option<Verdict> {
        let part = self.window.get_mut(number)?;
        part.damaged += 1;
        if part.damaged > self.limits.damaged_retries_max {
            let part = self.window.get(number)?;
            let detail = format!("{}: {what}", self.chunk_of(part));
            return self.settle(now, number, Err(BlockError::Medium { detail }), actions);
        }
        let lane = self.unsend(number);
        self.pump(now, lane, actions);
        None
    }

    /// The PG has a newer stack, and says that the part was not done by the older one.
    fn restart(&mut self, now: Tick, number: OpNumber, actions: &mut Vec<ClientAction>) {
        let Some(mut part) = self.window.settle(number) else { return };
        let lane = self.lanes.entry(part.lane).or_default();
        lane.answered(number);
        let id = part.lane;
        if let Some(stale) = part.stack.take().filter(|stale| *stale == self.stacks.newest())
            && self.stacks.want(StackRevision(stale.0 + 1))
        {
            self.stack_not_before = Tick(0);
        }
        part.sent = None;
        self.restarts.push_back(part);
        self.want_stack(now, actions);
        self.pump(now, id, actions);
    }

    fn on_refused(&mut self, now: Tick, number: OpNumber, known: Epoch, actions: &mut Vec<ClientAction>) {
        let lane = self.unsend(number);
        let limits = self.limits;
        self.lanes.entry(lane).or_default().refused(now, &limits);
        if self.configs.get(&lane.pg).is_none_or(|config| config.epoch < known) {
            self.want_view(now, actions);
        }
        self.pump(now, lane, actions);
    }

    fn settle(
        &mut self,
        now: Tick,
        number: OpNumber,
        result: Result<PartOutput, BlockError>,
        actions: &mut Vec<ClientAction>,
    ) -> Option<Verdict> {
        Some(Verdict::Settled(self.take_out(now, number, actions)?, result))
    }

    /// A part has its answer.
    fn take_out(&mut self, now: Tick, number: OpNumber, actions: &mut Vec<ClientAction>) -> Option<Part> {
        let part = self.window.settle(number)?;
        let lane = self.lanes.entry(part.lane).or_default();
        if part.sent.is_none() {
            lane.waiting.remove(&number);
        }
        lane.answered(number);
        if !lane.waiting.is_empty() {
            self.pump(now, part.lane, actions);
        }
        Some(part)
    }

    /// A write keeps its number, so that of all copies of it one takes effect (R10).
    fn hold_for_base(&mut self, now: Tick, number: OpNumber, actions: &mut Vec<ClientAction>) -> Option<Verdict> {
        let part = self.window.get_mut(number)?;
        (part.sent, part.needs_base) = (None, true);
        let id = part.lane;
        self.lanes.entry(id).or_default().answered(number);
        self.pump(now, id, actions);
        Some(Verdict::NeedsBase(number))
    }

    fn is_before_flatten(&self, part: &Part) -> bool {
        self.flattened.is_some_and(|flattened| part.stack.is_some_and(|stack| stack < flattened))
    }

    /// B3 in base.rs: what was unwritten of a part that reads is asked for anew.
    pub(super) fn ask_anew(&mut self, mut part: Part) -> Option<Verdict> {
        if std::mem::replace(&mut part.lost_base, true) {
            return Some(Verdict::Settled(part, Err(base_is_gone())));
        }
        (part.sent, part.stack) = (None, None);
        self.restarts.push_back(part);
        None
    }

    /// The base's blocks for a write have come, or can't be had.
    pub(super) fn resend(
        &mut self,
        now: Tick,
        number: OpNumber,
        base: Result<Vec<Bytes>, BlockError>,
        actions: &mut Vec<ClientAction>,
    ) -> Option<Verdict> {
        let part = self.window.get_mut(number)?;
        part.needs_base = false;
        match base {
            Ok(base) => {
                part.base = base;
                let lane = self.enqueue(number);
                self.pump(now, lane, actions);
                None
            }
            // B3 in base.rs.
            Err(BlockError::Fenced) if !std::mem::replace(&mut part.lost_base, true) => {
                let lane = self.enqueue(number);
                self.pump(now, lane, actions);
                None
            }
            Err(BlockError::Fenced) => self.settle(now, number, Err(base_is_gone()), actions),
            Err(error) => self.settle(now, number, Err(error), actions),
        }
    }

    // ---- lanes

    fn chunk_of(&self, part: &Part) -> ChunkId {
        let layer = self.stacks.top(part.stack.unwrap_or_else(|| self.stacks.newest()));
        ChunkId { layer, index: part.chunk }
    }

    fn lane_of(&self, part: &Part) -> LaneId {
        let pg_count = self.pg_count.expect("parts are admitted when the pool is known");
        LaneId { pg: place_chunk(self.grant.placement_key, part.chunk, pg_count), writes: part.is_write() }
    }

    /// Puts a part that isn't sent into its lane.
    fn enqueue(&mut self, number: OpNumber) -> LaneId {
        let lane = self.lane_of(self.window.get(number).expect("an unanswered part"));
        let part = self.window.get_mut(number).expect("an unanswered part");
        assert!(part.sent.is_none(), "T1: a part that waits isn't sent");
        part.lane = lane;
        self.lanes.entry(lane).or_default().wait(number);
        lane
    }

    /// A part must be sent again, maybe to another PG, if its own has split.
    fn unsend(&mut self, number: OpNumber) -> LaneId {
        let part = self.window.get_mut(number).expect("an unanswered part");
        part.sent = None;
        if let Some(lane) = self.lanes.get_mut(&part.lane) {
            lane.probe_lost(number);
        }
        self.enqueue(number)
    }

    fn unsend_where(&mut self, must: impl Fn(&Part, Sent) -> bool) {
        let is_meant = |part: &Part| part.sent.is_some_and(|sent| must(part, sent));
        let again: Vec<OpNumber> =
            self.window.iter().filter(|(_, part)| is_meant(part)).map(|(number, _)| number).collect();
        for number in again {
            self.unsend(number);
        }
    }

    /// Linear hashing moves chunks from a PG to its new half: what waits is sorted again, what is sent is sent again.
    fn resize_pool(&mut self, pg_count: u32) {
        if self.pg_count == Some(pg_count) || pg_count == 0 {
            return;
        }
        self.pg_count = Some(pg_count);
        let waiting: Vec<OpNumber> =
            self.lanes.values_mut().flat_map(|lane| std::mem::take(&mut lane.waiting)).collect();
        for number in waiting {
            self.enqueue(number);
        }
        let key = self.grant.placement_key;
        self.unsend_where(|part, _| place_chunk(key, part.chunk, pg_count) != part.lane.pg);
    }

    fn pump_all(&mut self, now: Tick, actions: &mut Vec<ClientAction>) {
        let waiting: Vec<LaneId> =
            self.lanes.iter().filter(|(_, lane)| !lane.waiting.is_empty()).map(|(id, _)| *id).collect();
        for lane in waiting {
            self.pump(now, lane, actions);
        }
    }

    /// Sends what waits in a lane, as far as that can be done now; else sees to it that it will be.
    fn pump(&mut self, now: Tick, id: LaneId, actions: &mut Vec<ClientAction>) {
        loop {
            let Some(lane) = self.lanes.get_mut(&id) else { return };
            if lane.waiting.is_empty() {
                return;
            }
            match lane.gate {
                Gate::Probing { until, .. } if now < until => return self.wake_by(until),
                Gate::Probing { .. } => lane.gate = Gate::Open,
                Gate::Paused { until } if now < until => return self.wake_by(until),
                Gate::Paused { .. } => lane.gate = Gate::Probe,
                Gate::Open | Gate::Probe => {}
            }
            let Some((osd, epoch)) = self.open_way(now, id.pg, actions) else { return };
            let until = now + self.limits.retry_max;
            let lane = self.lanes.get_mut(&id).expect("just seen");
            let number = lane.waiting.pop_first().expect("just seen");
            if lane.gate == Gate::Probe {
                lane.gate = Gate::Probing { number, until };
            }
            self.send(now, number, osd, epoch, actions);
        }
    }

    fn send(&mut self, now: Tick, number: OpNumber, osd: OsdId, epoch: Epoch, actions: &mut Vec<ClientAction>) {
        let lowest_unanswered = self.window.lowest();
        let newest = self.stacks.newest();
        let part = self.window.get_mut(number).expect("T1: what waits is unanswered");
        // K1.
        let stack_revision = *part.stack.get_or_insert(newest);
        let layers = self.stacks.layers(stack_revision);
        part.layers_above = u32::try_from(layers.len()).expect("a stack has few layers");
        if self.links.get_mut(&osd).is_some_and(|link| link.told.is_news(stack_revision)) {
            let stack = Stack { revision: stack_revision, layers: layers.to_vec() };
            actions.push(ClientAction::LinkSend(osd, Message::Stack(stack)));
        }
        assert!(part.sent.is_none(), "T1: a part that waits isn't sent");
        let patience = Duration(self.limits.answer_timeout.0 << part.timeouts.min(3));
        let deadline = now + patience;
        part.sent = Some(Sent { osd, epoch, at: now, deadline });
        let mut request = IoRequest {
            op: OpId { session: self.grant.session, number },
            lowest_unanswered,
            pg: PgId { pool: self.grant.pool, index: part.lane.pg },
            epoch,
            volume: self.grant.volume,
            attachment: self.grant.attachment,
            generation: self.grant.generation,
            stack_revision,
            chunk: ChunkId { layer: layers[0], index: part.chunk },
            offset: part.offset,
            len: part.len,
            kind: part.kind,
            crcs: part.crcs.clone(),
            payload: part.payload.clone(),
        };
        let message = match self.grant.base {
            _ if part.wanted() == Wanted::Layers => Message::LayersRequest(LayersRequest { request }),
            None => Message::IoRequest(request),
            // What is unwritten is all that it asks.
            Some(_) if part.kind == IoKind::Fill => Message::IoRequest(request),
            Some(_) => {
                let base = part.base.iter().map(|block| Crc::of(block)).collect();
                if !part.base.is_empty() {
                    request.payload = [&request.payload].into_iter().chain(&part.base).flatten().copied().collect();
                }
                Message::OverRequest(OverRequest { request, base })
            }
        };
        self.wake_by(deadline);
        actions.push(ClientAction::LinkSend(osd, message));
    }

    // ---- links

    /// The primary of a PG and its epoch if a request can be sent there now. If not, what is missing is asked for.
    fn open_way(&mut self, now: Tick, pg: u32, actions: &mut Vec<ClientAction>) -> Option<(OsdId, Epoch)> {
        let served_by = self.configs.get(&pg).and_then(|config| {
            let info = self.osds.get(&config.primary?)?;
            // R7: if the process isn't the one that may serve this epoch, a newer epoch is under way.
            (info.boot == config.primary_boot).then_some((info, config.epoch))
        });
        let Some((info, epoch)) = served_by else {
            self.want_view(now, actions);
            return None;
        };
        let osd = info.id;
        let link = self.links.entry(osd).or_default();
        match link.state {
            LinkState::Up => {
                assert!(link.boot == info.boot, "T3: a link that is up leads to the process that the view names");
                return Some((osd, epoch));
            }
            LinkState::Dialing { .. } | LinkState::Greeting { .. } => {}
            LinkState::Closed { not_before } if now < not_before => self.wake_by(not_before),
            LinkState::Closed { .. } => {
                let deadline = now + self.limits.connect_timeout;
                link.state = LinkState::Dialing { deadline };
                link.boot = info.boot;
                link.address.clone_from(&info.address);
                actions.push(ClientAction::Link { osd, boot: info.boot, address: info.address.clone() });
                self.wake_by(deadline);
            }
        }
        None
    }

    /// A link is of no use any more; what was sent over it is sent again.
    fn close_link(&mut self, osd: OsdId, not_before: Tick) {
        if let Some(link) = self.links.get_mut(&osd) {
            link.state = LinkState::Closed { not_before };
        }
        self.unsend_where(|_, sent| sent.osd == osd);
    }

    fn back_off_link(&mut self, now: Tick, osd: OsdId) {
        let limits = self.limits;
        let link = self.links.entry(osd).or_default();
        let pause = link.backoff.pause(limits.reconnect_min, limits.reconnect_max);
        self.close_link(osd, now + pause);
    }

    fn give_up_slow_links(&mut self, now: Tick, actions: &mut Vec<ClientAction>) {
        let mut slow = Vec::new();
        let mut next = None;
        for (osd, link) in &self.links {
            if let LinkState::Dialing { deadline } | LinkState::Greeting { deadline } = link.state {
                if deadline <= now {
                    slow.push(*osd);
                } else {
                    next = Some(next.map_or(deadline, |at: Tick| at.min(deadline)));
                }
            }
        }
        if let Some(at) = next {
            self.wake_by(at);
        }
        for osd in slow {
            self.back_off_link(now, osd);
            self.want_view(now, actions);
        }
    }

    /// Parts whose answer is overdue. If the OSD has been silent since, the connection may be dead: take another.
    fn repeat_unanswered(&mut self, now: Tick, actions: &mut Vec<ClientAction>) {
        let mut overdue = Vec::new();
        let mut next = None;
        for (number, part) in self.window.iter() {
            let Some(sent) = part.sent else { continue };
            if sent.deadline <= now {
                overdue.push((number, sent));
            } else {
                next = Some(next.map_or(sent.deadline, |at: Tick| at.min(sent.deadline)));
            }
        }
        if let Some(at) = next {
            self.wake_by(at);
        }
        for (number, sent) in &overdue {
            if let Some(part) = self.window.get_mut(*number) {
                part.timeouts += 1;
            }
            let silent = self.links.get(&sent.osd).is_some_and(|l| l.state == LinkState::Up && l.heard_at <= sent.at);
            if silent {
                self.close_link(sent.osd, now);
            } else if self.window.get(*number).is_some_and(|part| part.sent.is_some()) {
                self.unsend(*number);
            }
        }
        if !overdue.is_empty() {
            self.want_view(now, actions);
        }
    }

    // ---- the view and the clock

    pub(super) fn want_view(&mut self, now: Tick, actions: &mut Vec<ClientAction>) {
        if now >= self.view_not_before {
            self.view_not_before = now + self.limits.view_interval;
            actions.push(ClientAction::WantView);
        }
        self.wake_by(self.view_not_before);
    }

    /// Asks for a newer stack if one is wanted.
    fn want_stack(&mut self, now: Tick, actions: &mut Vec<ClientAction>) {
        if !self.stacks.is_wanted() {
            return;
        }
        if now >= self.stack_not_before {
            self.stack_not_before = now + self.limits.view_interval;
            actions.push(ClientAction::WantStack);
        }
        self.wake_by(self.stack_not_before);
    }

    fn wake_by(&mut self, at: Tick) {
        self.wake_wanted = Some(self.wake_wanted.map_or(at, |wanted| wanted.min(at)));
    }

    /// At the end of each step: asks for the clock if it is needed earlier than it was asked for.
    pub(super) fn arm(&mut self, actions: &mut Vec<ClientAction>) {
        let Some(wanted) = self.wake_wanted.take() else { return };
        if self.wake_armed.is_none_or(|armed| wanted < armed) {
            self.wake_armed = Some(wanted);
            actions.push(ClientAction::WakeAt(wanted));
        }
    }

    pub(super) fn assert_invariants(&self) {
        self.window.assert_invariants();
        if cfg!(debug_assertions) {
            for (number, part) in self.window.iter() {
                let waits = self.lanes.get(&part.lane).is_some_and(|lane| lane.waiting.contains(&number));
                let states = [waits, part.sent.is_some(), part.needs_base];
                assert!(states.iter().filter(|is| **is).count() == 1, "T1: {number} waits or is sent: {states:?}");
            }
            let waiting: usize = self.lanes.values().map(|lane| lane.waiting.len()).sum();
            assert!(waiting <= self.window.unanswered(), "T2: only unanswered parts wait");
            for lane in self.lanes.values() {
                if let Gate::Probing { number, .. } = lane.gate {
                    let probing = self.window.get(number).is_some_and(|part| part.sent.is_some());
                    assert!(probing, "a lane waits only for a part that is being done");
                }
            }
        }
    }
}

fn base_is_gone() -> BlockError {
    BlockError::Medium { detail: "what the clone stands on cannot be read".to_owned() }
}
