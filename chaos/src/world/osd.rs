//! OSD processes: the core, its disk, and the shell between them.

use super::bad_disk::Trouble;
use super::{Happening, Input, Process, Purpose, Withheld, World};
use crate::clock::{Instant, MS};
use crate::machine::OsdMachine;
use crate::net::{NetEvent, ProcId};
use crate::plant::new_machine;
use crate::rng::Rng;
use crate::run::Reason;
use ashlar_osd_core::format::log_batch::BatchHeader;
use ashlar_osd_core::format::{Identity, superblock};
use ashlar_osd_core::store::Store;
use ashlar_osd_core::store::api::{StoreConfig, StoreError};
use ashlar_osd_core::{Action, ConnId, DiskOp, Event, Honest, IoId, OsdConfig, SpaceNews};
use ashlar_sim_disk::SimDisk;
use ashlar_types::control::{ControlError, ControlReply, ControlRequest, OsdHeartbeat};
use ashlar_types::perf::PerfReport;
use ashlar_types::{BootId, OsdId};
use ashlar_wire::Message;
use std::collections::BTreeMap;

const HEARTBEAT: Instant = 100 * MS;
/// Where the log begins on a disk.
const LOG_AT: u64 = superblock::LOG_AT;
const BLOCK: usize = ashlar_types::BLOCK_BYTES as usize;

#[derive(Debug)]
pub struct OsdProcess {
    pub process: Process,
    pub machine: Option<Box<dyn OsdMachine>>,
    pub disk: SimDisk,
    boot: BootId,
    pub(super) is_mounted: bool,
    /// Peers whose connection broke, with the process that was meant.
    suspects: BTreeMap<OsdId, BootId>,
    linked: BTreeMap<OsdId, BootId>,
    slow_until: Instant,
    slow_factor: u64,
    pub(super) trouble: Trouble,
}

impl World {
    pub(super) fn store_config(&self, osd: OsdId) -> StoreConfig {
        StoreConfig {
            cluster: self.cluster,
            osd,
            capacity: self.shape.disk_bytes,
            log_bytes: self.shape.log_bytes,
            index_cache_bytes: 4 << 20,
            volatile_cache: true,
            write_through: self.shape.write_through,
        }
    }

    /// A new OSD on a new disk.
    pub(super) fn make_osd(&mut self, osd: OsdId) {
        if self.osds.contains_key(&osd) {
            return;
        }
        let disk = match self.format_disk(&self.store_config(osd)) {
            Ok(disk) => disk,
            Err(error) => return self.fail(Reason::Setup(format!("{osd}: mkfs: {error}"))),
        };
        let process = Process::new(self.new_clock());
        let boot = BootId(0);
        let new = OsdProcess {
            process,
            machine: None,
            disk,
            boot,
            is_mounted: false,
            suspects: BTreeMap::new(),
            linked: BTreeMap::new(),
            slow_until: 0,
            slow_factor: 1,
            trouble: Trouble::default(),
        };
        self.osds.insert(osd, new);
        self.queue.put(self.now, Happening::StartOsd(osd));
    }

    pub(super) fn start_osd(&mut self, osd: OsdId) {
        let boot = BootId(self.rng.next_u64() | 1);
        let config = OsdConfig { store: self.store_config(osd), boot, unix_at_tick_0: 0 };
        let now = self.tick_of(ProcId::Osd(osd));
        let Some(o) = self.osds.get_mut(&osd).filter(|o| !o.process.is_up) else { return };
        o.process.begin();
        o.boot = boot;
        o.is_mounted = false;
        o.suspects.clear();
        o.linked.clear();
        o.trouble.on_start();
        o.machine = Some(new_machine(self.plant, config, now));
        self.trace(|| format!("{osd} starts as {boot}"));
        self.step_osd(osd, Event::Start);
    }

    /// Its process is killed or its machine loses power; it starts again later. Its supervisor may tell the metadata service.
    pub fn crash_osd_for(&mut self, osd: OsdId, power: bool, down: Instant) {
        if self.crash_osd(osd, power) && !power && self.rng.permille(500) {
            let life = self.osds[&osd].process.life;
            self.queue.put(self.now + self.rng.between(1, 20) * MS, Happening::Testify(osd, life));
        }
        self.queue.put(self.now + down, Happening::StartOsd(osd));
    }

    /// The same without testimony.
    pub fn crash_osd_silently(&mut self, osd: OsdId, power: bool, down: Instant) {
        self.crash_osd(osd, power);
        self.queue.put(self.now + down, Happening::StartOsd(osd));
    }

    fn crash_osd(&mut self, osd: OsdId, power: bool) -> bool {
        let disk_seed = self.rng.next_u64();
        let Some(o) = self.osds.get_mut(&osd).filter(|o| o.process.is_up) else { return false };
        o.process.end();
        o.machine = None;
        let mut disk_rng = Rng::new(disk_seed);
        if power {
            o.disk.crash(&mut disk_rng)
        } else {
            o.disk.kill(&mut disk_rng)
        }
        self.stats.crashes += 1;
        self.trace(|| format!("{osd} {}", if power { "loses power" } else { "is killed" }));
        let is_silent = power && self.rng.permille(600);
        self.net.on_process_end(self.now, ProcId::Osd(osd), is_silent);
        self.schedule_net();
        true
    }

    /// The supervisor saw this life of the process end.
    pub(super) fn testify(&mut self, osd: OsdId, life: u32) {
        let Some(o) = self.osds.get(&osd).filter(|o| o.process.life == life) else { return };
        let request = ControlRequest::OsdStopping { osd, boot: o.boot };
        // Whoever watches the process has its connection to the metadata service; nobody waits for the answer.
        let target = o.process.target;
        if !self.net.is_cut(ProcId::Osd(osd), ProcId::Mds(target)) {
            self.trace(|| format!("{osd}: its supervisor saw it end"));
            let request = Box::new(request);
            let input = Input::Request { from: ProcId::Osd(osd), life: u32::MAX, call: 0, request };
            let at = self.now + self.net.delay();
            self.put(at, ProcId::Mds(target), input);
        }
    }

    pub(super) fn on_osd_input(&mut self, osd: OsdId, input: Input) {
        let me = ProcId::Osd(osd);
        match input {
            Input::Net(event) => {
                let event = self.osd_net_event(osd, event);
                self.step_osd(osd, event);
            }
            Input::Wake(_) => self.step_osd(osd, Event::Timer),
            Input::Poll => self.poll_osd(osd),
            Input::Disk(io) => {
                let is_fatal = self.is_fatal(osd, io);
                let o = self.osds.get_mut(&osd).expect("inputs are for processes that exist");
                let result = o.disk.complete(io);
                self.step_osd(osd, Event::Disk(io, result));
                if is_fatal {
                    self.check_stopped(osd);
                }
            }
            Input::Answer { call, result } => {
                if let Some((purpose, request, result)) = self.on_answer(me, call, *result) {
                    self.on_osd_answer(osd, purpose, &request, result);
                }
            }
            Input::CallTimeout(of) => self.on_call_timeout(me, of),
            Input::CallAgain(of) => self.on_call_again(me, of),
            Input::WatchAgain => self.watch(me),
            Input::Heartbeat => self.heartbeat(osd),
            _ => {}
        }
    }

    fn osd_net_event(&mut self, osd: OsdId, event: NetEvent) -> Event {
        use super::trace::brief;
        match event {
            NetEvent::LinkUp(peer) => {
                self.osds.get_mut(&osd).expect("it exists").suspects.remove(&peer);
                Event::LinkUp(peer)
            }
            NetEvent::LinkDown(peer) => {
                let o = self.osds.get_mut(&osd).expect("it exists");
                if let Some(boot) = o.linked.get(&peer) {
                    o.suspects.insert(peer, *boot);
                }
                self.trace(|| format!("{osd}: link to {peer} is down"));
                Event::LinkDown(peer)
            }
            NetEvent::LinkReceived(peer, message) => {
                self.trace(|| format!("{osd} <- {peer} {}", brief(&message)));
                Event::LinkReceived(peer, message)
            }
            NetEvent::Received(conn, message) => {
                self.trace(|| format!("{osd} <- conn {conn} {}", brief(&message)));
                self.note_request(conn, &message);
                if matches!(message, Message::JoinStart(_)) {
                    self.end_withheld_news(ProcId::Osd(osd));
                }
                Event::Received(ConnId(conn), message)
            }
            NetEvent::Closed(conn) => Event::Closed(ConnId(conn)),
        }
    }

    fn on_osd_answer(
        &mut self,
        osd: OsdId,
        purpose: Purpose,
        request: &ControlRequest,
        result: Result<ControlReply, ControlError>,
    ) {
        let o = self.osds.get_mut(&osd).expect("inputs are for processes that exist");
        match purpose {
            Purpose::Core(number) => {
                self.trace(|| format!("{osd} <- mds: {request:?}: {result:?}"));
                self.step_osd(osd, Event::ControlAnswer(number, result));
            }
            Purpose::Watch => {
                if let Ok(ControlReply::View(view)) = result
                    && view.revision > o.process.revision
                {
                    o.process.revision = view.revision;
                    self.trace(|| {
                        format!("{osd} sees {:?}", view.pgs.values().map(|c| (c.pg, c.epoch)).collect::<Vec<_>>())
                    });
                    self.step_osd(osd, Event::View(*view));
                }
            }
            Purpose::Heartbeat => {}
            Purpose::Shell => {
                // Refused: a later boot of this OSD is registered; this process is not wanted. It cannot be here.
                if let Err(error) = result {
                    self.trace(|| format!("{osd}: {request:?}: {error}"));
                }
            }
        }
    }

    pub(super) fn step_osd(&mut self, osd: OsdId, event: Event) {
        let now = self.tick_of(ProcId::Osd(osd));
        let Some(machine) = self.osds.get_mut(&osd).and_then(|o| o.machine.as_mut()) else { return };
        let mut actions = Vec::new();
        machine.step(now, event, &mut actions);
        self.perform_osd_actions(osd, actions);
        // A batch of events is followed by one poll, as in the daemon.
        let batch = self.rng.permille(self.shape.batch_permille);
        let Some(o) = self.osds.get_mut(&osd) else { return };
        if o.process.is_poll_coming {
            return;
        }
        if batch {
            o.process.is_poll_coming = true;
            let at = self.now + self.rng.between(1, 40);
            self.put(at, ProcId::Osd(osd), Input::Poll);
        } else {
            self.poll_osd(osd);
        }
    }

    fn poll_osd(&mut self, osd: OsdId) {
        let now = self.tick_of(ProcId::Osd(osd));
        let Some(o) = self.osds.get_mut(&osd) else { return };
        o.process.is_poll_coming = false;
        let Some(machine) = o.machine.as_mut() else { return };
        let mut actions = Vec::new();
        machine.poll(now, &mut actions);
        self.perform_osd_actions(osd, actions);
    }

    fn perform_osd_actions(&mut self, osd: OsdId, actions: Vec<Action>) {
        for action in actions {
            if self.osds.get(&osd).is_none_or(|o| o.machine.is_none()) {
                return;
            }
            self.on_osd_action(osd, action);
        }
    }

    fn on_osd_action(&mut self, osd: OsdId, action: Action) {
        use super::trace::brief;
        let me = ProcId::Osd(osd);
        match action {
            Action::Disk(io, op) => self.submit_disk(osd, io, op),
            Action::Send(conn, message) => {
                self.trace(|| format!("{osd} -> conn {} {}", conn.0, brief(&message)));
                self.check_reply(osd, conn.0, &message);
                self.net.send_on_conn(self.now, conn.0, &message);
            }
            Action::Close(conn) => self.net.close(self.now, conn.0),
            Action::Link { osd: peer, boot, .. } => {
                self.osds.get_mut(&osd).expect("it has just acted").linked.insert(peer, boot);
                self.net.open(self.now, me, peer);
            }
            Action::LinkSend(peer, message) => {
                self.trace(|| format!("{osd} -> {peer} {}", brief(&message)));
                self.note_link_send(&message);
                self.net.send_on_link(self.now, me, peer, &message);
            }
            Action::Control(number, request) => {
                self.trace(|| format!("{osd} -> mds: {request:?}"));
                self.call(me, Purpose::Core(number), request);
            }
            Action::WakeAt(tick) => self.wake_at(me, tick),
            Action::Mounted { damaged } => {
                self.trace(|| format!("{osd} is mounted{}", if damaged { ", damaged" } else { "" }));
                let o = self.osds.get_mut(&osd).expect("it has just acted");
                o.is_mounted = true;
                self.on_mounted(osd);
            }
            Action::Fail(text) => self.on_core_failed(osd, &text),
            Action::Warn(text) => self.trace(|| format!("{osd} warns: {text}")),
        }
    }

    fn on_mounted(&mut self, osd: OsdId) {
        let o = &self.osds[&osd];
        let request = ControlRequest::OsdRegister {
            osd,
            boot: o.boot,
            address: format!("osd-{}", osd.0),
            host: format!("host-{}", osd.0),
            capacity: self.shape.disk_bytes,
        };
        self.call(ProcId::Osd(osd), Purpose::Shell, request);
        self.watch(ProcId::Osd(osd));
        self.heartbeat(osd);
    }

    fn heartbeat(&mut self, osd: OsdId) {
        let o = self.osds.get_mut(&osd).expect("it was made");
        let suspects = o.suspects.iter().map(|(osd, boot)| (*osd, *boot)).collect();
        let SpaceNews { view, usage, layers } = o.machine.as_mut().map(|m| m.space_news()).unwrap_or_default();
        let (usage, perf) = (Box::new(usage), PerfReport::new());
        let heartbeat = OsdHeartbeat { osd, boot: o.boot, suspects, usage, view, layers, perf };
        let request = ControlRequest::OsdHeartbeat(heartbeat);
        self.call(ProcId::Osd(osd), Purpose::Heartbeat, request);
        self.put(self.now + HEARTBEAT, ProcId::Osd(osd), Input::Heartbeat);
    }

    fn submit_disk(&mut self, osd: OsdId, io: IoId, op: DiskOp) {
        let typical = match &op {
            DiskOp::Write { .. } => self.shape.disk_write,
            DiskOp::Read { .. } => self.shape.disk_write,
            DiskOp::Flush => self.shape.disk_flush,
            DiskOp::Discard { .. } => 50,
        };
        let mut delay = self.rng.delay(typical);
        self.trouble_for(osd, io, &op);
        let o = self.osds.get_mut(&osd).expect("it has just acted");
        if self.now < o.slow_until {
            delay *= o.slow_factor;
        }
        o.disk.submit(io, op);
        self.put(self.now + delay, ProcId::Osd(osd), Input::Disk(io));
    }

    pub fn slow_disk(&mut self, osd: OsdId, factor: u64, span: Instant) {
        let until = self.now + span;
        if let Some(o) = self.osds.get_mut(&osd) {
            (o.slow_factor, o.slow_until) = (factor, until);
        }
        self.trace(|| format!("{osd}: its disk is {factor} times slower for {} ms", span / MS));
    }

    /// The view of this process stays as it is.
    pub fn blind(&mut self, id: ProcId, span: Instant) {
        self.trace(|| format!("{id:?} gets no news for {} ms", span / MS));
        let until = self.now + span;
        if let Some(process) = self.process(id) {
            process.blind_until = until;
        }
    }

    /// The next news that this process hears of comes right after a primary has made it join.
    pub fn withhold_news(&mut self, id: ProcId, withheld: Withheld) {
        self.trace(|| format!("{id:?}: {withheld:?}"));
        if let Some(process) = self.process(id) {
            process.withheld = Some(withheld);
        }
    }

    fn end_withheld_news(&mut self, id: ProcId) {
        let Some(withheld) = self.process(id).and_then(|p| p.withheld.take()) else { return };
        self.blind(id, withheld.after);
        // One more watch beside the usual one, so that the news comes at that very time.
        self.put(self.now + withheld.after, id, Input::WatchAgain);
    }

    /// What this process asks the metadata service, or the answer, is lost with these chances.
    pub fn mute(&mut self, id: ProcId, permille: u64, span: Instant) {
        self.trace(|| format!("{id:?} loses {permille} in 1000 of its calls for {} ms", span / MS));
        let until = self.now + span;
        if let Some(process) = self.process(id) {
            (process.mute_until, process.mute_permille) = (until, permille);
        }
    }

    /// One of the last batches of the log that the log itself knows to have been durable: of later ones nobody could tell
    /// whether they are damaged or torn.
    pub fn damage_log_tail(&mut self, osd: OsdId, rng: &mut Rng) {
        let end = LOG_AT + self.shape.log_bytes;
        let identity = Identity { cluster: self.cluster, osd };
        let Some(o) = self.osds.get_mut(&osd) else { return };
        let in_log = (LOG_AT..end).step_by(BLOCK);
        let mut batches: Vec<(u64, BatchHeader)> =
            in_log.filter_map(|at| Some((at, batch_at(&o.disk, at, identity)?))).collect();
        batches.sort_by_key(|(_, header)| header.seq);
        let known = batches.iter().map(|(_, header)| header.flushed).max().unwrap_or_default();
        let durable: Vec<u64> = batches.iter().filter(|(_, h)| h.seq <= known).map(|(at, _)| *at).collect();
        let Some(at) = rng.choose(&durable[durable.len().saturating_sub(6)..]).copied() else { return };
        o.disk.rot(at + rng.below(96), 3);
        self.trace(|| format!("{osd}: its log is damaged at {at}"));
    }

    /// Some blocks of clients' data are not any more what was written.
    pub fn rot(&mut self, osd: OsdId, rng: &mut Rng) {
        let data = self.blocks_that(osd, is_data);
        let Some(o) = self.osds.get_mut(&osd) else { return };
        let count = rng.between(1, 3);
        for _ in 0..count {
            let Some(at) = rng.choose(&data).copied() else { return };
            o.disk.rot(at + rng.below(BLOCK as u64), 5);
            self.damaged.insert(osd);
        }
        self.trace(|| format!("{osd}: {count} blocks rot"));
    }
}

fn batch_at(disk: &SimDisk, at: u64, identity: Identity) -> Option<BatchHeader> {
    let len = BatchHeader::peek_len(&disk.read_now(at, BLOCK as u32).ok()?)?;
    let bytes = disk.read_now(at, u32::try_from(len.next_multiple_of(BLOCK)).ok()?).ok()?;
    BatchHeader::decode(bytes.get(..len)?, identity).ok().map(|(header, _)| header)
}

/// Whether a block holds what the workload writes: in each sector the words after the first are all alike.
pub(super) fn is_data(block: &[u8]) -> bool {
    block.chunks_exact(512).all(|s| s[8..504] == s[16..]) && block.iter().any(|b| *b != 0)
}

impl World {
    pub(super) fn format_disk(&mut self, config: &StoreConfig) -> Result<SimDisk, StoreError> {
        let mut disk = SimDisk::new(config.capacity, config.volatile_cache);
        disk.perform(Store::<Honest>::format(config)?);
        Ok(disk)
    }
}
