//! What the store's tests share: a store on a simulated disk, a model of it, and random operations for both.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod model;
pub mod node;
pub mod tags;
pub mod workload;

use ashlar_osd_core::store::api::{
    MountReport, ReadKind, ReadOutcome, StoreConfig, StoreError, StoreEvent, StoreOp, Token,
};
use ashlar_osd_core::store::{Store, WipeReport};
use ashlar_osd_core::{Action, Honest, IoId, Policy};
use ashlar_sim_disk::{Rng, SimDisk};
use ashlar_types::{BlockRange, ChunkId, ClusterId, OsdId, PgId, Version};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub const MIB: u64 = 1 << 20;

pub fn config(capacity: u64, log_bytes: u64, volatile_cache: bool) -> StoreConfig {
    let (cluster, osd) = (ClusterId(0xc1), OsdId(7));
    StoreConfig { cluster, osd, capacity, log_bytes, index_cache_bytes: MIB, volatile_cache, write_through: false }
}

pub fn formatted(config: &StoreConfig) -> SimDisk {
    let mut disk = SimDisk::new(config.capacity, config.volatile_cache);
    disk.perform(Store::<Honest>::format(config).expect("the configuration is good"));
    disk
}

/// A store, its disk, and what it has reported.
pub struct Rig<P: Policy = Honest> {
    pub store: Store<P>,
    pub config: StoreConfig,
    pub disk: SimDisk,
    pub rng: Rng,
    /// In the order in which they came.
    pub stored: VecDeque<Token>,
    /// Commits that nobody waits for: durable when a later operation is.
    lazy: BTreeSet<Token>,
    pub reads: BTreeMap<Token, ReadOutcome>,
    pub mounted: Option<MountReport>,
    pub failed: Option<StoreError>,
    pub wiped: Option<WipeReport>,
    pub next_token: u64,
    /// Disk operations so far.
    pub actions: u64,
}

impl<P: Policy> Rig<P> {
    pub fn new(config: StoreConfig, disk: SimDisk, seed: u64) -> Rig<P> {
        Rig {
            store: Store::new(config.clone()),
            config,
            disk,
            rng: Rng::new(seed),
            stored: VecDeque::new(),
            lazy: BTreeSet::new(),
            reads: BTreeMap::new(),
            mounted: None,
            failed: None,
            wiped: None,
            next_token: 1,
            actions: 0,
        }
    }

    /// Mounted; panics if it fails.
    pub fn mount(config: StoreConfig, disk: SimDisk, seed: u64) -> Rig<P> {
        let mut rig = Rig::new(config, disk, seed);
        rig.run();
        assert!(rig.mounted.is_some(), "mount: {:?}", rig.failed);
        rig
    }

    pub fn poll(&mut self) {
        let mut actions = Vec::new();
        self.store.poll(&mut actions);
        for action in actions {
            let Action::Disk(io, op) = action else { panic!("a store only asks for disk operations") };
            self.disk.submit(io, op);
            self.actions += 1;
        }
        let mut events = Vec::new();
        self.store.take_events(&mut events);
        for event in events {
            match event {
                StoreEvent::Mounted(report) => self.mounted = Some(report),
                StoreEvent::Stored(token) => {
                    self.lazy_are_stored(token);
                    self.stored.push_back(token);
                }
                StoreEvent::Read(token, outcome) => {
                    self.reads.insert(token, outcome);
                }
                StoreEvent::MergeRefused(token, why) => panic!("merge {token:?} is refused: {why:?}"),
                StoreEvent::Wiped(report) => self.wiped = Some(report),
                StoreEvent::Failed(error) => self.failed = Some(error),
            }
        }
    }

    fn lazy_are_stored(&mut self, before: Token) {
        let later = self.lazy.split_off(&before);
        self.stored.extend(std::mem::replace(&mut self.lazy, later));
    }

    pub fn pick(&mut self) -> Option<IoId> {
        let pending = self.disk.pending().count() as u64;
        if pending == 0 {
            return None;
        }
        let nth = self.rng.below(pending) as usize;
        self.disk.pending().nth(nth).map(|(io, _)| io)
    }

    /// Completes one operation of the disk, any; false if none is under way.
    pub fn step(&mut self) -> bool {
        let Some(io) = self.pick() else { return false };
        let result = self.disk.complete(io);
        self.store.on_disk(io, result);
        self.poll();
        true
    }

    /// Until nothing is under way.
    pub fn run(&mut self) {
        self.poll();
        for _ in 0..10_000_000 {
            if self.step() {
                continue;
            }
            if !self.store.has_unsettled() {
                self.lazy_are_stored(Token(u64::MAX));
                return;
            }
            self.store.settle();
            self.poll();
        }
        panic!("the store never comes to rest");
    }

    pub fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token - 1)
    }

    pub fn submit(&mut self, op: StoreOp) -> Token {
        let token = self.token();
        let merge = match &op {
            StoreOp::Prepare { pg, write, .. } if write.change.is_merge() => Some((*pg, write.chunk, write.version)),
            _ => None,
        };
        self.store.submit(token, op);
        if let Some((pg, chunk, version)) = merge {
            self.run_until_merged(pg, chunk, version);
        }
        token
    }

    /// A merge takes effect when its pages are here; what is submitted next would be before it in the log.
    fn run_until_merged(&mut self, pg: PgId, chunk: ChunkId, version: Version) {
        for _ in 0..1_000_000 {
            if !self.store.awaits_merge(pg, chunk, version) {
                return;
            }
            self.poll();
            if self.store.awaits_merge(pg, chunk, version) && !self.step() {
                self.store.settle();
            }
        }
        panic!("the merge into {chunk} never begins");
    }

    /// The same, but half of the commits are such as nobody waits for.
    pub fn submit_some_lazily(&mut self, op: StoreOp) -> Token {
        match &op {
            StoreOp::Resolve { pg, commit, rollback, rolled_back }
                if rollback.is_empty() && rolled_back.is_empty() && self.rng.one_in(2) =>
            {
                self.store.commit(*pg, commit);
                let token = self.token();
                self.lazy.insert(token);
                token
            }
            _ => self.submit(op),
        }
    }

    pub fn read(&mut self, pg: PgId, chunk: ChunkId, range: BlockRange, kind: ReadKind) -> ReadOutcome {
        let token = self.token();
        self.store.read(token, pg, chunk, range, kind);
        self.poll();
        loop {
            if let Some(outcome) = self.reads.remove(&token) {
                return outcome;
            }
            assert!(self.step(), "the read of {chunk} never ends; {:?}", self.failed);
        }
    }

    /// Another process on the same disk.
    pub fn restarted(self, seed: u64) -> Rig<P> {
        Rig::mount(self.config, self.disk, seed)
    }
}
