//! What must hold after every command. Called by the simulator and the tests after each, by the node after each snapshot.

use super::ClusterState;
use super::volume::VolumeRecord;
use ashlar_types::view::PgConfig;
use ashlar_types::{BootId, Epoch, Generation};
use std::collections::BTreeSet;

impl ClusterState {
    /// # Panics
    /// Where the state contradicts itself: our bug, never somebody's input.
    pub fn assert_invariants(&self) {
        assert!(self.view_revision.0 <= self.applied, "the view is not ahead of the log");
        for (id, pg) in &self.pgs {
            assert!(pg.value.pg == *id && pg.modified <= self.view_revision, "{id} is filed where it belongs");
            self.assert_pg(&pg.value);
        }
        for pool in self.pools.values().map(|p| &p.value.info) {
            let of_pool = self.pgs.keys().filter(|pg| pg.pool == pool.id).count();
            assert!(of_pool == pool.pg_count as usize, "{} has all its PGs", pool.id);
            assert!((1..=pool.replicas).contains(&pool.min_size), "R12: min_size lies within the copies");
        }
        self.assert_scrubs();
        let mut sessions = BTreeSet::new();
        for volume in self.volumes.values() {
            self.assert_volume(volume);
            for attachment in volume.attachments.values().filter(|a| a.boot != BootId(0)) {
                assert!(sessions.insert(attachment.session), "A1: no two processes share a session");
                assert!(attachment.session.0 < self.next.session, "A1: session ids are given out in order");
            }
        }
        assert!(self.volume_names.len() == self.volumes.len(), "each volume has one name");
        for barrier in self.barriers.values() {
            let volume = self.volumes.get(&barrier.volume).expect("S2: a barrier's volume exists");
            assert!(volume.barrier == Some(barrier.id), "S2: a volume has at most one barrier, its last");
            assert!(barrier.floor == volume.floor, "S2: the barrier carries the volume's floor");
            assert!(!barrier.pgs.is_empty(), "S2: a barrier that all have passed is gone");
            assert!(barrier.pgs.iter().all(|pg| self.pgs.contains_key(pg)), "S2: a barrier's PGs exist");
        }
    }

    fn assert_pg(&self, config: &PgConfig) {
        let pg = config.pg;
        assert!(!config.in_sync.is_empty(), "R2: {pg} has an in-sync member");
        assert!(config.in_sync.iter().all(|m| config.is_member(*m)), "R2: in_sync of {pg} lies within its members");
        let distinct: BTreeSet<_> = config.members.iter().collect();
        assert!(distinct.len() == config.members.len(), "{pg} has each member once");
        assert!(config.epoch >= Epoch(1) && config.epoch <= Epoch::MAX, "epochs of {pg} begin at 1");
        if config.epoch == Epoch::MAX {
            return;
        }
        let up = config.in_sync.iter().filter(|m| self.is_up(**m)).count();
        assert!(up == 0 || up == config.in_sync.len(), "S1: {pg} waits for nobody known dead");
        match config.primary {
            Some(primary) => {
                assert!(config.is_in_sync(primary), "R2: the primary of {pg} is in sync");
                assert!(self.is_up(primary), "the primary of {pg} is up");
                assert!(self.is_present(primary, config.primary_boot), "R7: {pg} names its primary's present process");
            }
            None => assert!(up == 0, "{pg} has a primary where anybody can be it"),
        }
    }

    fn assert_volume(&self, volume: &VolumeRecord) {
        let name = &volume.name;
        assert!(self.volume_names.get(name) == Some(&volume.id), "{name} leads to its volume");
        assert!(self.pools.contains_key(&volume.pool), "the pool of {name} exists");
        assert!(volume.barrier.is_none_or(|b| self.barriers.contains_key(&b)), "S2: the barrier of {name} exists");
        assert!(!volume.floor.closed || volume.attachments.is_empty(), "nobody has {name} while it is deleted");
        assert!(!volume.floor.closed || volume.barrier.is_some(), "S2: {name} is gone once it is closed everywhere");
        let exclusive = volume.attachments.values().filter(|a| !a.shared).count();
        assert!(exclusive == 0 || volume.attachments.len() == 1, "{name} is shared by those who said so");
        for attachment in volume.attachments.values() {
            let fenced = volume.floor.fences(attachment.id, attachment.generation);
            assert!(!fenced, "the floor of {name} lets its present attachments pass");
            assert!(!attachment.active || attachment.boot != BootId(0), "an active attachment has a process");
            let older = Generation(attachment.generation.0 - 1);
            let fences_older = older == Generation(0) || volume.floor.fences(attachment.id, older);
            assert!(fences_older, "A2: the floor of {name} refuses the generation before");
        }
    }
}
