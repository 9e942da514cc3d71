//! The course of a simulation: make a cluster, load it while things break, let it heal, read everything once more.

use super::client::ClientState;
use super::{Happening, Phase, World};
use crate::aim::Aim;
use crate::clock::{Instant, SECOND};
use crate::faults::TICK;
use crate::net::ProcId;
use crate::run::Reason;
use ashlar_types::view::PgConfig;
use ashlar_types::{BLOCKS_PER_CHUNK, ChunkIndex, MdsId, OsdId};
use std::collections::BTreeSet;

/// Two disks that are nearly full, each with what was written while it was alone, have no room for what the other one has. After so long without
/// faults somebody deletes what he doesn't need.
const FULL_TIME: Instant = 15 * SECOND;
/// By when a cluster without faults has healed.
const HEAL_TIME: Instant = 60 * SECOND;
const SETUP_TIME: Instant = 20 * SECOND;
/// How often progress is looked at.
const LOOK: Instant = SECOND / 20;

/// Quiet time before members are compared: repairs of blocks that were found bad go on by themselves.
const SETTLE_TIME: u64 = 3 * SECOND;
/// So much longer when a checkpoint is under way then: the pages that it writes are taken, and have no use before it ends.
const STORES_TIME: Instant = SECOND;
/// How soon it is looked at again.
const STORES_LOOK: Instant = SECOND / 100;
/// By when the space of deleted volumes is free.
const DELETE_TIME: Instant = 10 * SECOND;
/// And wiped, volume after volume.
const WIPE_TIME: Instant = 30 * SECOND;

impl World {
    /// Looks whether the next phase can begin.
    pub(super) fn check_progress(&mut self) {
        let next = match self.phase {
            Phase::Setup => {
                let all_up = self.truth.osds.values().filter(|o| o.up).count() == self.shape.osds as usize;
                if all_up && self.truth.pools.is_empty() && self.is_operator_idle() {
                    self.make_volumes();
                }
                self.phase != Phase::Load
            }
            Phase::Load => false,
            Phase::Heal => {
                self.drive_snapshots();
                self.drive_jobs();
                let healed = self.unhealed().is_none();
                if !healed && self.aim() == Some(Aim::FullDisk) && self.now + HEAL_TIME >= self.phase_until + FULL_TIME
                {
                    self.free_space();
                }
                if healed && !self.end_last_attachments() {
                    self.begin_last_reads();
                }
                true
            }
            Phase::LastReads => {
                let is_done = |c: &super::client::ClientProcess| {
                    !c.is_running() || c.last_reads.is_empty() && c.in_flight.is_empty()
                };
                let done = self.clients.values().all(is_done);
                if done && self.unhealed().is_none() {
                    self.begin_last_scrub();
                }
                true
            }
            Phase::Scrub => {
                if self.unscrubbed().is_none() {
                    self.judge_last_scrub();
                    self.phase = Phase::Settle;
                    self.settled_at = self.now + SETTLE_TIME;
                    self.phase_until = self.settled_at;
                }
                true
            }
            Phase::Settle => true,
            Phase::Delete => {
                let is_idle = self.is_operator_idle() && self.truth.barriers.is_empty() && self.truth.merges.is_empty();
                if is_idle && self.truth.wipes.is_empty() {
                    // At once: what is trimmed later looks as if it had been wiped.
                    if let Some(left) = self.unwiped() {
                        self.fail(Reason::Stores(left));
                    }
                    if self.unfreed().is_none() {
                        self.phase = Phase::Done;
                    }
                }
                true
            }
            Phase::Done => false,
        };
        if next && self.phase != Phase::Load {
            self.queue.put(self.now + LOOK, Happening::Phase);
        }
    }

    pub(super) fn begin_load(&mut self) {
        self.phase = Phase::Load;
        self.phase_until = self.now + self.shape.load_time;
        self.trace(|| "faults begin".to_owned());
        if self.aim() == Some(Aim::Clones) {
            self.add_workers();
        }
        self.queue.put(self.now, Happening::Fault);
    }

    pub(super) fn on_phase_end(&mut self) -> Result<(), Reason> {
        match self.phase {
            Phase::Setup => Err(Reason::Setup(format!("no cluster after {} s", SETUP_TIME / SECOND))),
            Phase::Load => {
                self.begin_heal();
                Ok(())
            }
            Phase::Heal | Phase::LastReads => {
                let what = self.unhealed().unwrap_or_else(|| "the last reads are not answered".to_owned());
                Err(Reason::Stuck(format!("not healed {} s after the last fault: {what}", HEAL_TIME / SECOND)))
            }
            Phase::Scrub => Err(Reason::Stuck(self.unscrubbed().unwrap_or_default())),
            Phase::Settle => {
                let is_idle = self.osds.values().flat_map(|osd| &osd.machine).all(|machine| machine.is_disk_idle());
                if self.is_owed_a_wipe() && self.now < self.settled_at + super::wipe_freed::WITHIN {
                    self.phase_until = self.now + STORES_LOOK;
                    return Ok(());
                }
                if !is_idle && self.now < self.settled_at + STORES_TIME {
                    self.phase_until = self.now + STORES_LOOK;
                    return Ok(());
                }
                self.check_freed()?;
                self.compare_members()?;
                self.check_space()?;
                self.check_layers()?;
                if self.shape.deletes {
                    self.trace(|| "volumes are deleted".to_owned());
                    self.phase = Phase::Delete;
                    self.phase_until = self.now + self.delete_time();
                    self.delete_volumes();
                } else {
                    self.phase = Phase::Done;
                }
                Ok(())
            }
            Phase::Delete => {
                let wipe = || self.truth.wipes.first().map(|wipe| format!("not all have wiped: {wipe:?}"));
                let what = self.unfreed().or_else(wipe);
                let what = what.unwrap_or_else(|| "the operator is not answered".to_owned());
                let seconds = self.delete_time() / SECOND;
                Err(Reason::Stores(format!("{seconds} s after all volumes were deleted: {what}")))
            }
            Phase::Done => Ok(()),
        }
    }

    pub(super) fn on_fault_tick(&mut self) {
        if self.phase != Phase::Load {
            return;
        }
        // Taken out, because it moves the world that it is a part of.
        let mut faults = self.faults.take().expect("put back after each tick");
        faults.tick(self);
        self.faults = Some(faults);
        self.scrub_at_random();
        self.drive_snapshots();
        self.drive_jobs();
        self.schedule_net();
        self.queue.put(self.now + TICK, Happening::Fault);
    }

    fn begin_heal(&mut self) {
        self.phase = Phase::Heal;
        self.phase_until = self.now + HEAL_TIME;
        self.trace(|| "faults end".to_owned());
        self.mend_disks();
        self.net.profile.flips_per_million = 0;
        self.osds.values_mut().for_each(|o| o.process.withheld = None);
        for (from, to) in self.net.cuts() {
            self.net.heal(self.now, from, to);
        }
        let everybody: Vec<ProcId> = self
            .mds
            .keys()
            .map(|n| ProcId::Mds(*n))
            .chain(self.osds.keys().map(|o| ProcId::Osd(*o)))
            .chain(self.clients.keys().map(|c| ProcId::Client(*c)))
            .chain(self.bases.keys().map(|b| ProcId::Base(*b)))
            .chain(self.workers.keys().map(|w| ProcId::Worker(*w)))
            .collect();
        let now = self.now;
        for id in everybody {
            let Some(process) = self.process(id) else { continue };
            process.paused_until = now;
            process.mute_until = now;
            process.blind_until = now;
            self.queue.put(now, Happening::Resume(id));
        }
        let nodes: Vec<MdsId> = self.mds.keys().copied().collect();
        nodes.into_iter().for_each(|n| self.queue.put(now, Happening::StartMds(n)));
        let osds: Vec<OsdId> = self.osds.keys().copied().collect();
        osds.into_iter().for_each(|o| self.queue.put(now, Happening::StartOsd(o)));
        let clients: Vec<u32> = self.clients.keys().copied().collect();
        clients.into_iter().for_each(|c| self.queue.put(now, Happening::StartClient(c)));
        self.worker_ids().into_iter().for_each(|w| self.queue.put(now, Happening::StartWorker(w)));
        self.schedule_net();
        self.queue.put(now + LOOK, Happening::Phase);
    }

    /// Every other block that was written is discarded; once.
    fn free_space(&mut self) {
        if std::mem::replace(&mut self.is_freed, true) {
            return;
        }
        self.trace(|| "the disks are full: much is discarded".to_owned());
        let is_writer = |c: &super::client::ClientProcess| c.is_running() && c.snapshot.is_none();
        let writers: Vec<u32> = self.clients.iter().filter(|(_, c)| is_writer(c)).map(|(id, _)| *id).collect();
        for id in writers {
            let register = self.clients[&id].register;
            let blocks: Vec<u64> = self.history.blocks_of(register).into_iter().step_by(2).collect();
            self.clients.get_mut(&id).expect("it is running").discards = blocks;
            self.submit_in(id, 0);
        }
    }

    /// What is not as it should be when nothing is broken.
    fn unhealed(&self) -> Option<String> {
        for (id, osd) in &self.osds {
            if !osd.process.is_up {
                return Some(format!("{id} is down"));
            }
        }
        for config in self.truth.pgs.values() {
            if config.in_sync.len() != config.members.len() {
                return Some(format!("{config:?} is not in sync"));
            }
            let Some(primary) = config.primary else { return Some(format!("{} has no primary", config.pg)) };
            let active = self.osds.get(&primary).and_then(|o| o.machine.as_ref()).map(|m| m.active_pgs());
            if !active.is_some_and(|pgs| pgs.contains(&(config.pg, config.epoch))) {
                return Some(format!("{config:?} is not active at {primary}"));
            }
        }
        for (id, client) in &self.clients {
            if matches!(client.state, ClientState::Opening | ClientState::Down) {
                return Some(format!("client {id} is {:?}", client.state));
            }
            if let Some((op, _)) = client.in_flight.iter().next() {
                return Some(format!("client {id}: operation {op} is not answered"));
            }
        }
        if !self.is_operator_idle() {
            return Some("the operator is not answered".to_owned());
        }
        if !self.are_snapshots_read() {
            return Some(format!("snapshots are not there: {:?}", self.operator.snapshots));
        }
        if let Some(jobs) = self.open_jobs() {
            return Some(jobs);
        }
        if !self.truth.merges.is_empty() {
            return Some(format!("layers are not merged: {:?}", self.truth.merges));
        }
        (!self.truth.barriers.is_empty()).then(|| format!("barriers are not passed: {:?}", self.truth.barriers))
    }

    fn delete_time(&self) -> Instant {
        if self.shape.wipes { WIPE_TIME } else { DELETE_TIME }
    }

    pub fn is_all_in_sync(&self) -> bool {
        self.osds.values().all(|o| o.process.is_up)
            && self.truth.osds.values().all(|o| o.up)
            && self.truth.pgs.values().all(|c| c.in_sync.len() == c.members.len())
    }

    fn begin_last_reads(&mut self) {
        self.phase = Phase::LastReads;
        self.phase_until = self.now + HEAL_TIME;
        self.trace(|| "all has healed; everything is read".to_owned());
        let readers: Vec<u32> = self.clients.iter().filter(|(_, c)| c.is_running()).map(|(id, _)| *id).collect();
        for id in readers {
            let register = self.clients[&id].register;
            let blocks: Vec<u64> = self.history.blocks_of(register).into_iter().collect();
            self.clients.get_mut(&id).expect("it is running").last_reads = blocks;
            self.submit_in(id, 0);
        }
    }

    pub(super) fn check_history(&mut self) -> Result<(), Reason> {
        let checked = self.history.check().map_err(Reason::History)?;
        self.stats.registers = checked.registers;
        self.stats.unknown = checked.unknown;
        Ok(())
    }

    /// The configuration of a PG that clients use.
    pub fn hot_config(&self, rng: &mut crate::rng::Rng) -> Option<PgConfig> {
        let placements: BTreeSet<_> = self.clients.values().filter_map(|c| c.placement).collect();
        let placements: Vec<_> = placements.into_iter().collect();
        let (pool, key) = *rng.choose(&placements)?;
        let place = *rng.choose(&self.workload.places)?;
        let chunk = ChunkIndex(u32::try_from(place / u64::from(BLOCKS_PER_CHUNK)).expect("few chunks"));
        self.truth.pgs.get(&self.truth.pg_of(pool, key, chunk)?).cloned()
    }

    pub(super) fn aim(&self) -> Option<Aim> {
        self.faults.as_ref().map(|f| f.aim())
    }
}
