//! Metadata nodes: the core, and a disk that keeps what was persisted and forgets what was not, a write batch at a time.

use super::{Happening, Input, Process, World};
use crate::clock::{Instant, MS};
use crate::net::ProcId;
use crate::plant::Plant;
use crate::run::Reason;
use ashlar_mds_core::node::{DurableState, MetadataNode, NodeAction, NodeConfig, NodeEvent, Persist};
use ashlar_types::MdsId;
use ashlar_types::control::{ControlReply, ControlRequest, VolumeInfo};
use std::collections::BTreeMap;

#[derive(Debug)]
pub struct MdsProcess {
    pub process: Process,
    config: NodeConfig,
    node: Option<MetadataNode>,
    durable: DurableState,
    /// Waits for the disk, in order.
    unsynced: Vec<Persist>,
    /// The batch that the disk is writing: happens whole or not at all.
    syncing: Vec<Persist>,
    /// Who waits for the answer to which request.
    waiting: BTreeMap<u64, (ProcId, u32, u64)>,
    last_request: u64,
}

impl World {
    pub(super) fn make_mds(&mut self) {
        let peers: BTreeMap<MdsId, String> =
            (1..=self.shape.mds_nodes).map(|n| (MdsId(n), format!("mds.{n}"))).collect();
        for id in peers.keys() {
            let mut config = NodeConfig::new(*id, peers.clone(), self.cluster, self.rng.next_u64());
            // Several times in one simulation.
            config.worker_silence_max = ashlar_types::Duration::from_millis(800);
            // Snapshots often enough to be part of the simulation.
            config.snapshot_entries = self.rng.between(20, 400);
            config.log_entries_kept = self.rng.between(5, 100);
            let process = Process::new(self.new_clock());
            let durable = DurableState::bootstrap(&config);
            let node = MdsProcess {
                process,
                config,
                node: None,
                durable,
                unsynced: Vec::new(),
                syncing: Vec::new(),
                waiting: BTreeMap::new(),
                last_request: 0,
            };
            self.mds.insert(*id, node);
        }
        peers.keys().for_each(|id| self.queue.put(0, Happening::StartMds(*id)));
    }

    pub(super) fn start_mds(&mut self, id: MdsId) {
        let Some(mds) = self.mds.get_mut(&id).filter(|m| !m.process.is_up) else { return };
        mds.process.begin();
        match MetadataNode::restore(mds.config.clone(), mds.durable.clone()) {
            Ok(node) => mds.node = Some(node),
            Err(error) => return self.fail(Reason::Stopped(format!("{id} cannot start: {error}"))),
        }
        self.trace(|| format!("{id} starts"));
        self.step_mds(id, NodeEvent::Timer);
    }

    /// The process is killed, or its machine loses power: for a log that is synced before it counts these are the same, but for
    /// what was on its way to the disk.
    pub fn crash_mds(&mut self, id: MdsId) {
        let Some(mds) = self.mds.get_mut(&id).filter(|m| m.process.is_up) else { return };
        mds.process.end();
        mds.node = None;
        mds.waiting.clear();
        mds.unsynced.clear();
        let batch = std::mem::take(&mut mds.syncing);
        if self.rng.permille(500) {
            batch.into_iter().for_each(|persist| mds.durable.apply(persist));
        }
        self.stats.crashes += 1;
        self.trace(|| format!("{id} crashes"));
        self.net.on_process_end(self.now, ProcId::Mds(id), false);
    }

    pub fn restart_mds_in(&mut self, id: MdsId, span: Instant) {
        self.queue.put(self.now + span, Happening::StartMds(id));
    }

    pub(super) fn on_mds_input(&mut self, id: MdsId, input: Input) {
        match input {
            Input::Wake(_) => self.step_mds(id, NodeEvent::Timer),
            Input::Raft { from, bytes } => self.step_mds(id, NodeEvent::RaftMessage { from, bytes }),
            Input::Persisted { token } => {
                let mds = self.mds.get_mut(&id).expect("inputs are for processes that exist");
                std::mem::take(&mut mds.syncing).into_iter().for_each(|persist| mds.durable.apply(persist));
                self.step_mds(id, NodeEvent::Persisted { token });
                self.sync_mds(id);
            }
            Input::Request { from, life, call, mut request } => {
                if self.plant == Some(Plant::ScratchKept) {
                    self.mistaken.mistake(&mut request);
                }
                let mds = self.mds.get_mut(&id).expect("inputs are for processes that exist");
                mds.last_request += 1;
                let number = mds.last_request;
                mds.waiting.insert(number, (from, life, call));
                self.step_mds(id, NodeEvent::Request { id: number, request: *request });
            }
            _ => {}
        }
    }

    fn step_mds(&mut self, id: MdsId, event: NodeEvent) {
        let now = self.tick_of(ProcId::Mds(id));
        let Some(node) = self.mds.get_mut(&id).and_then(|m| m.node.as_mut()) else { return };
        let mut actions = Vec::new();
        node.step(now, event, &mut actions);
        for action in actions {
            self.on_mds_action(id, action);
        }
    }

    fn on_mds_action(&mut self, id: MdsId, action: NodeAction) {
        match action {
            NodeAction::Persist(persist) => {
                self.mds.get_mut(&id).expect("it has just acted").unsynced.push(persist);
                self.sync_mds(id);
            }
            NodeAction::Send { to, bytes } => self.send_raft(id, to, bytes),
            NodeAction::Reply { id: number, result } => {
                let mds = self.mds.get_mut(&id).expect("it has just acted");
                let Some((to, life, call)) = mds.waiting.remove(&number) else { return };
                if self.process(to).is_some_and(|p| p.life == life) {
                    self.send_answer(id, to, call, result);
                }
            }
            NodeAction::ViewChanged { .. } => self.learn_truth(id),
            NodeAction::LeaderChanged { leader } => self.trace(|| format!("{id} sees {leader:?} lead")),
            NodeAction::NextTimer(tick) => self.wake_at(ProcId::Mds(id), tick),
            NodeAction::Failed(error) => self.fail(Reason::Stopped(format!("{id}: {error}"))),
        }
    }

    /// As the daemon does with RocksDB: all that waits is one synced write batch, one at a time, and only its last part is told of.
    /// Unlike there, the node hears of other things meanwhile.
    fn sync_mds(&mut self, id: MdsId) {
        let delay = self.rng.delay(self.shape.disk_flush);
        let mds = self.mds.get_mut(&id).expect("it has just acted");
        let Some(token) = mds.unsynced.last().map(|p| p.token).filter(|_| mds.syncing.is_empty()) else { return };
        mds.syncing = std::mem::take(&mut mds.unsynced);
        self.put(self.now + delay, ProcId::Mds(id), Input::Persisted { token });
    }

    /// May be lost, doubled, or overtaken by later ones.
    fn send_raft(&mut self, from: MdsId, to: MdsId, bytes: Vec<u8>) {
        if self.net.is_cut(ProcId::Mds(from), ProcId::Mds(to)) || self.rng.permille(5) {
            return;
        }
        if self.rng.permille(5) {
            let at = self.now + self.net.delay() + self.rng.below(300 * MS);
            self.put(at, ProcId::Mds(to), Input::Raft { from, bytes: bytes.clone() });
        }
        let at = self.now + self.net.delay();
        self.put(at, ProcId::Mds(to), Input::Raft { from, bytes });
    }

    fn learn_truth(&mut self, id: MdsId) {
        let Some(node) = self.mds.get(&id).and_then(|m| m.node.as_ref()) else { return };
        let news = node.view_since(self.truth.revision);
        for config in news.pgs.values() {
            self.stats.epochs += 1;
            self.configs.insert((config.pg, config.epoch), config.clone());
        }
        self.judge_scrubs(&news);
        self.truth.apply(news);
        self.trace(|| "the view changes".to_owned());
    }

    /// Volumes that exist, by the node that has applied most.
    pub(super) fn volumes_alive(&self) -> Vec<VolumeInfo> {
        let states = self.mds.values().filter_map(|m| m.node.as_ref()).map(MetadataNode::state);
        let newest = states.max_by_key(|state| state.applied());
        match newest.and_then(|state| state.query(&ControlRequest::VolumeList)) {
            Some(Ok(ControlReply::Volumes(volumes))) => volumes,
            _ => Vec::new(),
        }
    }
}
