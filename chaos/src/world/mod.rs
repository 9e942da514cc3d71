//! A cluster in one thread: every process, disk and wire of it, moved by one queue of events and one seed.
//!
//! W1: nothing here depends on anything but the seed and the options: no hash order, no clock, no address.
//! W2: a process hears of nothing while it is paused, and of nothing that was meant for an earlier life of it.
//! The shells here do what the daemons' shells do, and have no more opinion about the protocol than those.

mod bad_disk;
mod base;
mod client;
mod clones;
mod control;
mod jobs;
mod mds;
mod modes;
mod operator;
mod osd;
mod phases;
mod planted;
mod process;
mod scrub;
mod trace;
mod verify;
mod wipe_freed;
mod worker;

pub use bad_disk::DiskFault;
pub use client::ClientProcess;
pub use process::{Input, Process, Purpose, Try, Withheld};

use crate::check::{ClientNumber, History};
use crate::clock::{Clock, Instant, MS, SECOND};
use crate::faults::Faults;
use crate::net::{Net, NetProfile, NetTimer, ProcId};
use crate::plant::Plant;
use crate::queue::Queue;
use crate::rng::{Rng, mix};
use crate::run::{Options, Reason};
use crate::workload::WorkloadProfile;
use ashlar_types::view::{ClusterView, PgConfig};
use ashlar_types::{ClusterId, Epoch, MdsId, OsdId, PgId, Tick};
use mds::MdsProcess;
use operator::Operator;
use osd::OsdProcess;
use std::collections::{BTreeMap, BTreeSet};
use trace::Trace;

/// A hundred times what a seed takes: something makes more and more of itself.
const EVENTS_MAX: u64 = 20_000_000;

/// What happens next.
#[derive(Debug)]
enum Happening {
    Net(NetTimer),
    Input {
        to: ProcId,
        life: u32,
        input: Input,
    },
    /// A pause ends.
    Resume(ProcId),
    Fault,
    Heal {
        from: ProcId,
        to: ProcId,
    },
    StartOsd(OsdId),
    StartMds(MdsId),
    /// A gateway process starts again, or for the first time.
    StartClient(u32),
    StartWorker(u32),
    /// A supervisor tells what it saw.
    Testify(OsdId, u32),
    Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Setup,
    /// Clients work, faults happen.
    Load,
    /// No more faults, everything runs; what was asked is answered.
    Heal,
    /// Everything is read once more.
    LastReads,
    /// All copies are compared and their medium is read.
    Scrub,
    /// Nobody asks for anything; what is under way ends.
    Settle,
    /// The volumes are deleted; their space comes back.
    Delete,
    Done,
}

#[derive(Debug)]
pub struct World {
    pub now: Instant,
    queue: Queue<Happening>,
    pub rng: Rng,
    plant: Option<Plant>,
    mistaken: planted::MistakenGateways,
    cluster: ClusterId,
    pub net: Net,
    pub mds: BTreeMap<MdsId, MdsProcess>,
    pub osds: BTreeMap<OsdId, OsdProcess>,
    pub clients: BTreeMap<u32, ClientProcess>,
    bases: BTreeMap<u32, base::BaseProcess>,
    workers: BTreeMap<u32, worker::WorkerProcess>,
    operator: Operator,
    pub history: History,
    last_client_number: u32,
    pub workload: WorkloadProfile,
    pub shape: Shape,
    pub phase: Phase,
    phase_until: Instant,
    /// The members are compared from then on.
    settled_at: Instant,
    faults: Option<Faults>,
    trace: Trace,
    pub stats: Stats,
    failure: Option<Reason>,
    /// What the metadata service has decided, as far as any of its nodes has applied it.
    pub truth: ClusterView,
    /// Every configuration that there ever was.
    pub configs: BTreeMap<(PgId, Epoch), PgConfig>,
    noted: verify::Noted,
    /// OSDs that may have bad blocks: their disks were damaged.
    damaged: BTreeSet<OsdId>,
    scrubs: scrub::Scrubs,
    /// Space was made on full disks.
    is_freed: bool,
}

/// How large a cluster the seed has drawn.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub mds_nodes: u64,
    pub osds: u32,
    pub replicas: u8,
    pub volumes: u32,
    /// Gateways that share each volume at the same time.
    pub sharers: u32,
    pub disk_bytes: u64,
    pub log_bytes: u64,
    /// Chances in a thousand that an OSD handles several events before it is polled.
    pub batch_permille: u64,
    pub load_time: Instant,
    /// Typical times of a disk's operations, in microseconds.
    pub disk_write: u64,
    pub disk_flush: u64,
    /// Whether OSDs write few blocks through the disk's cache.
    pub write_through: bool,
    /// Chances in a thousand that a timer comes some milliseconds late; all come some microseconds late.
    pub late_timer_permille: u64,
    /// Whether the volumes are deleted in the end.
    pub deletes: bool,
    /// Whether that is done securely, and the same with volumes that come and go.
    pub wipes: bool,
    /// Whether all volumes wipe as they free.
    pub wipes_freed: bool,
    /// Whether the first volume has its space reserved, beside others that fill the disks.
    pub has_lazy: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub events: u64,
    pub requests: u64,
    pub answered: u64,
    pub crashes: u64,
    pub epochs: u64,
    pub registers: u64,
    pub unknown: u64,
    /// Two runs of one seed give the same number.
    pub hash: u64,
}

impl World {
    pub fn new(seed: u64, options: Options) -> World {
        let mut rng = Rng::new(seed);
        let aim = options.aim.unwrap_or_else(|| draw_aim(&mut rng, options.plant.or(options.aim_as_if)));
        let shape = Shape::draw(&mut rng, aim);
        let mut workload = WorkloadProfile::draw(&mut rng);
        if aim == crate::aim::Aim::FullDisk {
            workload.filling_permille = 300;
            workload.chunks = 4;
        }
        let profile = NetProfile {
            delay: *rng.choose(&[30, 100, 100, 400]).expect("not empty"),
            late_rest_permille: *rng.choose(&[0, 200, 600]).expect("not empty"),
            patience: *rng.choose(&[300 * MS, 800 * MS, 2 * SECOND]).expect("not empty"),
            flips_per_million: 0,
        };
        let cluster = ClusterId(u128::from(mix(seed)));
        let net = Net::new(rng.fork(1), cluster, profile);
        let faults = Faults::new(rng.fork(2), aim);
        let mut world = World {
            now: 0,
            queue: Queue::default(),
            plant: options.plant,
            mistaken: planted::MistakenGateways::default(),
            trace: Trace::new(options.trace),
            cluster,
            net,
            mds: BTreeMap::new(),
            osds: BTreeMap::new(),
            clients: BTreeMap::new(),
            bases: BTreeMap::new(),
            workers: BTreeMap::new(),
            operator: Operator::new(),
            history: History::default(),
            last_client_number: 0,
            workload,
            shape,
            phase: Phase::Setup,
            phase_until: 10 * SECOND,
            settled_at: 0,
            faults: Some(faults),
            stats: Stats::default(),
            failure: None,
            truth: ClusterView::default(),
            configs: BTreeMap::new(),
            noted: verify::Noted::default(),
            damaged: BTreeSet::new(),
            is_freed: false,
            scrubs: scrub::Scrubs::new(rng.fork(3), aim),
            rng,
        };
        world.trace.line(0, || format!("seed {seed}: {aim}, {:?}", world.shape));
        world.make_mds();
        world.begin_operator();
        world
    }

    /// Runs to the end, or to the first thing found wrong.
    ///
    /// # Errors
    /// What was found.
    pub fn run(&mut self) -> Result<(), Reason> {
        while self.phase != Phase::Done {
            let Some((at, happening)) = self.queue.take() else {
                return Err(Reason::Stuck("nothing is going to happen any more".to_owned()));
            };
            self.now = at;
            self.handle(happening);
            if self.stats.events > EVENTS_MAX {
                return Err(Reason::Stuck(format!("no end after {EVENTS_MAX} events")));
            }
            if let Some(reason) = self.failure.take() {
                return Err(reason);
            }
            if at >= self.phase_until {
                self.on_phase_end()?;
            }
            if let Some(reason) = self.failure.take() {
                return Err(reason);
            }
        }
        self.check_history()
    }

    pub fn trace(&mut self, line: impl FnOnce() -> String) {
        self.trace.line(self.now, line);
    }

    pub fn fail(&mut self, reason: Reason) {
        self.failure.get_or_insert(reason);
    }

    fn handle(&mut self, happening: Happening) {
        self.stats.events += 1;
        match happening {
            Happening::Net(timer) => {
                let osds = &self.osds;
                self.net.on_timer(self.now, timer, |osd| osds.get(&osd).is_some_and(|o| o.process.is_up));
                self.deliver_net();
            }
            Happening::Input { to, life, input } => self.on_input(to, life, input),
            Happening::Resume(process) => self.on_resume(process),
            Happening::Fault => self.on_fault_tick(),
            Happening::Heal { from, to } => {
                self.trace(|| format!("cut {from:?} -> {to:?} heals"));
                self.net.heal(self.now, from, to);
                self.schedule_net();
            }
            Happening::StartOsd(osd) => self.start_osd(osd),
            Happening::StartMds(node) => self.start_mds(node),
            Happening::StartClient(client) => self.start_client(client),
            Happening::StartWorker(worker) => self.start_worker(worker),
            Happening::Testify(osd, life) => self.testify(osd, life),
            Happening::Phase => self.check_progress(),
        }
    }

    fn deliver_net(&mut self) {
        for note in std::mem::take(&mut self.net.notes) {
            self.trace(|| note);
        }
        for (to, event) in std::mem::take(&mut self.net.told) {
            self.give(to, Input::Net(event));
        }
        self.schedule_net();
    }

    fn schedule_net(&mut self) {
        self.net.schedule(&mut self.queue, Happening::Net);
        // Opening or breaking may tell somebody at once.
        for (to, event) in std::mem::take(&mut self.net.told) {
            self.give(to, Input::Net(event));
        }
    }

    pub fn process(&mut self, id: ProcId) -> Option<&mut Process> {
        match id {
            ProcId::Mds(node) => self.mds.get_mut(&node).map(|p| &mut p.process),
            ProcId::Osd(osd) => self.osds.get_mut(&osd).map(|p| &mut p.process),
            ProcId::Client(client) => self.clients.get_mut(&client).map(|p| &mut p.process),
            ProcId::Base(base) => self.bases.get_mut(&base).map(|p| &mut p.process),
            ProcId::Worker(worker) => self.workers.get_mut(&worker).map(|p| &mut p.process),
            ProcId::Operator => Some(&mut self.operator.process),
        }
    }

    /// Something reaches the present life of a process, later.
    fn put(&mut self, at: Instant, to: ProcId, input: Input) {
        let Some(life) = self.process(to).map(|p| p.life) else { return };
        self.queue.put(at, Happening::Input { to, life, input });
    }

    /// Something reaches the present life of a process, now.
    fn give(&mut self, to: ProcId, input: Input) {
        let Some(life) = self.process(to).map(|p| p.life) else { return };
        self.on_input(to, life, input);
    }

    fn on_input(&mut self, to: ProcId, life: u32, input: Input) {
        let now = self.now;
        let Some(process) = self.process(to) else { return };
        if process.life != life || !process.is_up {
            return;
        }
        if now < process.paused_until {
            process.held.push_back(input);
            return;
        }
        if let Input::Wake(number) = input {
            if number != process.wake_number {
                return;
            }
            process.wake_at = None;
        }
        self.hash(to, &input);
        match to {
            ProcId::Mds(node) => self.on_mds_input(node, input),
            ProcId::Osd(osd) => self.on_osd_input(osd, input),
            ProcId::Client(client) => self.on_client_input(client, input),
            ProcId::Base(base) => self.on_base_input(base, input),
            ProcId::Worker(worker) => self.on_worker_input(worker, input),
            ProcId::Operator => self.on_operator_input(input),
        }
        self.schedule_net();
    }

    fn hash(&mut self, to: ProcId, input: &Input) {
        let kind = match input {
            Input::Net(_) => 1,
            Input::Wake(_) => 2,
            Input::Poll => 3,
            Input::Disk(id) => 4 ^ id.0 << 8,
            Input::Raft { bytes, .. } => 5 ^ (bytes.len() as u64) << 8,
            Input::Persisted { token } => 6 ^ token << 8,
            Input::Request { call, .. } => 7 ^ call << 8,
            Input::Answer { call, .. } => 8 ^ call << 8,
            Input::CallTimeout(of) | Input::CallAgain(of) => 9 ^ of.call << 8,
            Input::WatchAgain => 10,
            Input::Submit => 11,
            Input::Heartbeat => 12,
        };
        let place = match to {
            ProcId::Mds(node) => node.0,
            ProcId::Osd(osd) => 100 + u64::from(osd.0),
            ProcId::Client(client) => 200 + u64::from(client),
            ProcId::Operator => 300,
            ProcId::Base(base) => 400 + u64::from(base),
            ProcId::Worker(worker) => 300 + u64::from(worker),
        };
        self.stats.hash = mix(self.stats.hash ^ mix(self.now) ^ mix(kind << 16 ^ place));
    }

    fn on_resume(&mut self, id: ProcId) {
        let now = self.now;
        let Some(process) = self.process(id) else { return };
        if now < process.paused_until {
            return;
        }
        let held = std::mem::take(&mut process.held);
        let life = process.life;
        for input in held {
            self.on_input(id, life, input);
        }
    }

    /// A process stands still; what comes for it waits.
    pub fn pause(&mut self, id: ProcId, span: Instant) {
        self.trace(|| format!("{id:?} is paused for {} ms", span / MS));
        let until = self.now + span;
        if let Some(process) = self.process(id) {
            process.paused_until = process.paused_until.max(until);
            self.queue.put(until, Happening::Resume(id));
        }
    }

    pub fn cut(&mut self, from: ProcId, to: ProcId, span: Instant) {
        self.net.cut(from, to);
        self.queue.put(self.now + span, Happening::Heal { from, to });
    }

    pub fn cut_both(&mut self, a: ProcId, b: ProcId, span: Instant) {
        self.cut(a, b, span);
        self.cut(b, a, span);
    }

    pub fn tick_of(&mut self, id: ProcId) -> Tick {
        let now = self.now;
        self.process(id).map_or(Tick(0), |p| p.clock.read(now))
    }

    /// The process wants to be woken at this time of its own clock.
    fn wake_at(&mut self, id: ProcId, tick: Tick) {
        let now = self.now;
        let Some(process) = self.process(id) else { return };
        if process.wake_at == Some(tick) {
            return;
        }
        process.wake_number += 1;
        process.wake_at = Some(tick);
        let (number, at) = (process.wake_number, process.clock.when(now, tick));
        let late = self.rng.between(1, 50)
            + if self.rng.permille(self.shape.late_timer_permille) { self.rng.below(20 * MS) } else { 0 };
        self.put(at + late, id, Input::Wake(number));
    }

    /// A clock jumps forward.
    pub fn jump_clock(&mut self, id: ProcId, forward: u64) {
        let now = self.now;
        let Some(process) = self.process(id) else { return };
        process.clock.jump(now, forward);
        if let Some(tick) = process.wake_at.take() {
            self.wake_at(id, tick);
        }
    }

    fn new_clock(&mut self) -> Clock {
        let drift = i64::try_from(self.rng.below(401)).expect("small") - 200;
        Clock::new(SECOND + self.rng.below(1000 * SECOND), drift)
    }

    fn next_client_number(&mut self) -> ClientNumber {
        self.last_client_number += 1;
        ClientNumber(self.last_client_number)
    }
}

impl Shape {
    fn draw(rng: &mut Rng, aim: crate::aim::Aim) -> Shape {
        use crate::aim::Aim;
        let replicas = if rng.permille(850) { 3 } else { 2 };
        let shared = match aim {
            Aim::IsolatePrimary | Aim::RestartGrantor | Aim::LostBoot => 800,
            _ => 300,
        };
        let has_lazy = aim == Aim::FullDisk && rng.permille(600);
        let mut shape = Shape {
            has_lazy,
            mds_nodes: if rng.permille(700) { 1 } else { 3 },
            osds: u32::from(replicas) + u32::from(rng.permille(150)),
            replicas,
            volumes: match has_lazy {
                true => 3,
                false if rng.permille(800) => 1,
                false => 2,
            },
            sharers: if !matches!(aim, Aim::TakeOver | Aim::DiskModes) && rng.permille(shared) { 2 } else { 1 },
            disk_bytes: match aim {
                // A lazy volume of 16 MiB, its headroom, and less than the others would like to have.
                Aim::FullDisk if has_lazy => 40 << 20,
                Aim::FullDisk => 24 << 20,
                _ => 256 << 20,
            },
            log_bytes: *rng.choose(&[1 << 20, 4 << 20]).expect("not empty"),
            batch_permille: *rng.choose(&[0, 300, 900]).expect("not empty"),
            load_time: rng.between(4, 15) * SECOND,
            disk_write: *rng.choose(&[20, 60, 400]).expect("not empty"),
            disk_flush: *rng.choose(&[40, 300, 3000]).expect("not empty"),
            write_through: rng.below(2) == 0,
            late_timer_permille: *rng.choose(&[0, 5, 50]).expect("not empty"),
            deletes: rng.permille(250),
            wipes: false,
            wipes_freed: false,
        };
        // Not drawn, so that seeds go on being what they were.
        if shape.deletes && (shape.load_time / SECOND).is_multiple_of(2) {
            shape.wipes = true;
            // All of it is read several times.
            shape.disk_bytes = shape.disk_bytes.min(64 << 20);
        }
        wipe_freed::shape(&mut shape);
        shape
    }
}

fn draw_aim(rng: &mut Rng, plant: Option<Plant>) -> crate::aim::Aim {
    let drawn = crate::aim::Aim::draw(rng);
    match plant {
        // Where a bug is planted, three of four seeds aim at it.
        Some(plant) if rng.permille(750) => *rng.choose(crate::plant::aims_for(plant)).expect("each has an aim"),
        _ => drawn,
    }
}
