//! A group of metadata nodes in memory: a network that loses messages, disks that forget what was not yet durable.

use ashlar_mds_core::node::{DurableState, MetadataNode, NodeAction, NodeConfig, NodeEvent, Persist};
use ashlar_types::control::{ControlError, ControlReply, ControlRequest};
use ashlar_types::{ClusterId, Duration, MdsId, Tick};
use std::collections::{BTreeMap, VecDeque};

pub const CLUSTER: ClusterId = ClusterId(0xc1);

/// splitmix64: the tests' only randomness.
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % sides
    }
}

pub struct Machine {
    pub config: NodeConfig,
    pub disk: DurableState,
    /// Written but not yet durable, in order.
    unsynced: VecDeque<Persist>,
    pub node: Option<MetadataNode>,
    timer: Tick,
}

pub struct Group {
    pub now: Tick,
    pub machines: BTreeMap<MdsId, Machine>,
    /// Percent of messages lost.
    pub loss: u64,
    pub cut: Vec<MdsId>,
    network: Vec<(Tick, MdsId, MdsId, Vec<u8>)>,
    replies: BTreeMap<u64, Result<ControlReply, ControlError>>,
    next_request: u64,
    pub dice: Dice,
    /// Of all actions, in order: two runs with one seed are the same (N4).
    pub trace: Vec<String>,
    pub snapshots_sent: u64,
}

impl Group {
    pub fn new(size: u64, seed: u64, adjust: impl Fn(&mut NodeConfig)) -> Group {
        let peers: BTreeMap<_, _> = (1..=size).map(|id| (MdsId(id), format!("node{id}:7400"))).collect();
        let machine = |id: &MdsId| {
            let mut config = NodeConfig::new(*id, peers.clone(), CLUSTER, seed);
            adjust(&mut config);
            let disk = DurableState::bootstrap(&config);
            (*id, Machine { config, disk, unsynced: VecDeque::new(), node: None, timer: Tick(0) })
        };
        let mut group = Group {
            now: Tick(1_000_000),
            machines: peers.keys().map(machine).collect(),
            loss: 0,
            cut: Vec::new(),
            network: Vec::new(),
            replies: BTreeMap::new(),
            next_request: 1,
            dice: Dice(seed),
            trace: Vec::new(),
            snapshots_sent: 0,
        };
        let ids: Vec<_> = group.machines.keys().copied().collect();
        ids.into_iter().for_each(|id| group.start(id));
        group
    }

    pub fn start(&mut self, id: MdsId) {
        let machine = self.machines.get_mut(&id).expect("known");
        machine.disk = machine.disk.clone();
        let node = MetadataNode::restore(machine.config.clone(), machine.disk.clone()).expect("its own state");
        machine.node = Some(node);
        self.step(id, NodeEvent::Timer);
    }

    /// The process dies; what was not durable may or may not have reached the disk, in order.
    pub fn crash(&mut self, id: MdsId) {
        let machine = self.machines.get_mut(&id).expect("known");
        machine.node = None;
        let kept = self.dice.roll(machine.unsynced.len() as u64 + 1);
        for persist in machine.unsynced.drain(..).take(kept as usize) {
            machine.disk.apply(persist);
        }
        machine.unsynced.clear();
    }

    pub fn step(&mut self, id: MdsId, event: NodeEvent) {
        let machine = self.machines.get_mut(&id).expect("known");
        let Some(node) = machine.node.as_mut() else { return };
        let mut actions = Vec::new();
        node.step(self.now, event, &mut actions);
        node.state().assert_invariants();
        for action in actions {
            self.trace.push(format!("{} {id} {action:?}", self.now.0));
            self.act(id, action);
        }
    }

    fn act(&mut self, id: MdsId, action: NodeAction) {
        let machine = self.machines.get_mut(&id).expect("known");
        match action {
            NodeAction::Persist(persist) => machine.unsynced.push_back(persist),
            NodeAction::NextTimer(at) => machine.timer = at,
            NodeAction::Send { to, bytes } => {
                let lost = self.dice.roll(100) < self.loss || self.cut.contains(&id) || self.cut.contains(&to);
                if !lost {
                    let at = self.now + Duration::from_micros(200 + self.dice.roll(5000));
                    self.network.push((at, id, to, bytes));
                }
            }
            NodeAction::Reply { id, result } => {
                assert!(self.replies.insert(id, result).is_none(), "each request has one answer");
            }
            NodeAction::Failed(error) => panic!("{id} failed: {error}"),
            NodeAction::ViewChanged { .. } | NodeAction::LeaderChanged { .. } => {}
        }
    }

    /// Lets `span` pass in steps of a millisecond.
    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now = self.now + Duration::from_millis(1);
            let ids: Vec<_> = self.machines.keys().copied().collect();
            for id in ids {
                self.sync_disk(id);
                if self.machines[&id].node.is_some() && self.now >= self.machines[&id].timer {
                    self.step(id, NodeEvent::Timer);
                }
            }
            let now = self.now;
            let (due, later) = std::mem::take(&mut self.network).into_iter().partition(|m| m.0 <= now);
            self.network = later;
            let due: Vec<_> = due;
            for (_, from, to, bytes) in due {
                if !self.cut.contains(&from) && !self.cut.contains(&to) {
                    self.step(to, NodeEvent::RaftMessage { from, bytes });
                }
            }
        }
    }

    fn sync_disk(&mut self, id: MdsId) {
        let machine = self.machines.get_mut(&id).expect("known");
        if machine.node.is_none() || machine.unsynced.is_empty() || self.dice.roll(3) == 0 {
            return;
        }
        let mut token = 0;
        for persist in machine.unsynced.drain(..) {
            token = persist.token;
            self.snapshots_sent += u64::from(persist.snapshot.is_some() && persist.keep.is_empty());
            machine.disk.apply(persist);
        }
        self.step(id, NodeEvent::Persisted { token });
    }

    pub fn leader(&self) -> Option<MdsId> {
        let leads = |m: &&Machine| m.node.as_ref().is_some_and(|n| n.is_leader()) && !self.cut.contains(&m.config.id);
        let leaders = self.machines.values().filter(leads);
        leaders.max_by_key(|m| m.disk.hard_state.term).map(|m| m.config.id)
    }

    pub fn wait_for_leader(&mut self) -> MdsId {
        for _ in 0..1000 {
            if let Some(leader) = self.leader() {
                return leader;
            }
            self.run(Duration::from_millis(10));
        }
        panic!("no leader within 10 s");
    }

    pub fn send_request(&mut self, to: MdsId, request: ControlRequest) -> u64 {
        let id = self.next_request;
        self.next_request += 1;
        self.step(to, NodeEvent::Request { id, request });
        id
    }

    pub fn answer(&mut self, id: u64) -> Option<Result<ControlReply, ControlError>> {
        self.replies.get(&id).cloned()
    }

    /// Asks leaders until one decides.
    pub fn request(&mut self, request: ControlRequest) -> Result<ControlReply, ControlError> {
        for _ in 0..20 {
            let leader = self.wait_for_leader();
            let id = self.send_request(leader, request.clone());
            for _ in 0..700 {
                self.run(Duration::from_millis(10));
                match self.answer(id) {
                    None => {}
                    Some(Err(ControlError::NotLeader { .. } | ControlError::Undecided)) => break,
                    Some(decided) => return decided,
                }
            }
        }
        panic!("not decided: {request:?}");
    }
}
