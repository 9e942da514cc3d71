//! What must hold after every command. Called by the simulator and the tests after each, by the node after each snapshot.

use super::ClusterState;
use super::clone::LEVELS_MAX;
use super::volume::VolumeRecord;
use ashlar_types::control::SnapshotState;
use ashlar_types::view::PgConfig;
use ashlar_types::{BootId, Epoch, Generation, LayerId, STACK_LAYERS_MAX};
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
        assert!(self.volume_names.len() == self.listed_volumes().count(), "each volume that is listed has one name");
        self.assert_layers();
        self.assert_clones();
        self.assert_merges();
        self.assert_reserves();
        self.assert_groups();
        self.assert_jobs();
        self.assert_bin();
        self.assert_wipes();
        self.assert_modes();
        self.assert_wipe_freed();
        for barrier in self.barriers.values() {
            let volume = self.volumes.get(&barrier.volume).expect("S2: a barrier's volume exists");
            assert!(volume.barrier == Some(barrier.id), "S2: a volume has at most one barrier, its last");
            assert!(barrier.floor == volume.floor, "S2: the barrier carries the volume's floor");
            assert!(volume.retiring.iter().all(|l| barrier.retire.contains(*l)), "L3: and the layers that it gives up");
            assert!(!barrier.retire.contains(LayerId(self.next.layer)), "no layer to come is retired");
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

    fn assert_layers(&self) {
        for (id, layer) in &self.layers {
            assert!(id.0 < self.next.layer, "{id} was given out");
            let volume = self.volumes.get(&layer.volume).expect("L1: a layer's volume exists");
            if let Some(parent) = layer.parent {
                assert!(parent < *id, "L1: {id} is younger than its parent");
                let below = self.layers.get(&parent).expect("L1: a parent exists");
                assert!(below.volume == layer.volume, "L1: {id} and its parent are of one volume");
                assert!(volume.top != parent, "L1: what lies below {id} is frozen");
            }
        }
        let mut known = 0;
        let (mut tops, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for volume in self.volumes.values() {
            let name = &volume.name;
            assert!(self.layers[&volume.top].volume == volume.id, "the top of {name} is its own");
            assert!(tops.insert(volume.top), "no two volumes share a top");
            let used = self.layers_in_use(volume);
            if volume.floor.closed {
                assert!(volume.snapshots.is_empty(), "the snapshots of {name} go with it");
                assert!(used.is_subset(&volume.retiring), "L3: {name} gives up all its layers");
                known += volume.retiring.len();
            } else {
                assert!(used.is_disjoint(&volume.retiring), "L3: what {name} gives up is in none of its stacks");
                known += used.len() + volume.retiring.len();
            }
            assert!(
                volume.retiring.is_empty() || volume.barrier.is_some(),
                "L3: {name} gives up layers with a barrier"
            );
            assert!(volume.retiring.iter().all(|l| self.layers[l].volume == volume.id), "L3: they are its own");
            assert!(self.chain(volume.top).count() <= STACK_LAYERS_MAX, "the stack of {name} is not too high");
            for (key, snapshot) in &volume.snapshots {
                assert!(*key == snapshot.name, "{key} is filed where it belongs");
                assert!(
                    ids.insert(snapshot.id) && snapshot.id.0 < self.next.snapshot,
                    "{} is given out once",
                    snapshot.id
                );
                assert!(snapshot.layer != volume.top, "P1: {name}@{key} is frozen");
                assert!(self.layers[&snapshot.layer].volume == volume.id, "{name}@{key} is of its volume");
                assert!(snapshot.revision <= volume.stack_revision, "{name}@{key} was taken");
            }
        }
        assert!(known == self.layers.len(), "L2: there is no other layer");
        for barrier in self.barriers.values() {
            for (id, layer) in &self.layers {
                let volume = &self.volumes[&layer.volume];
                let stays = volume.pool == self.volumes[&barrier.volume].pool
                    && !(layer.volume == barrier.volume && volume.retiring.contains(id));
                assert!(!stays || !barrier.retire.contains(*id), "{id} is not dropped before its time");
            }
        }
    }

    fn assert_clones(&self) {
        let mut named: i64 = 0;
        for volume in self.volumes.values() {
            let (id, name) = (volume.id, &volume.name);
            for (layer, clones) in &volume.clones {
                let below = self.layers.get(layer).expect("O1: what clones stand on exists");
                assert!(
                    below.volume == id && *layer != volume.top,
                    "O1: clones of {name} stand on a frozen layer of it"
                );
                assert!(!clones.is_empty(), "O1: who stands on {layer} is named");
                named += clones.len() as i64;
            }
            assert!(!volume.floor.closed || volume.clones.is_empty(), "O2: {name} is kept for its clones");
            if volume.hidden {
                assert!(volume.snapshots.is_empty() && volume.attachments.is_empty(), "O3: nothing is left of {name}");
                assert!(volume.floor.closed || !volume.clones.is_empty(), "O3: {name} is kept for somebody");
                assert!(self.layers[&volume.top].parent.is_none(), "O3: the top of {name} is empty");
            }
            assert!(self.origins(volume).take(LEVELS_MAX + 1).count() <= LEVELS_MAX, "O4: {name} is not too high");
            let Some(origin) = volume.origin else { continue };
            named -= 1;
            let below = self.volumes.get(&origin.volume).expect("O1: an origin exists");
            let is_named = below.clones.get(&origin.layer).is_some_and(|clones| clones.contains(&id));
            assert!(is_named && origin.volume < id, "O1: {name} is named by the older volume that it stands on");
            let sizes = volume.snapshots.values().map(|snapshot| snapshot.size).chain([volume.size]);
            assert!(sizes.min() >= Some(origin.size), "a clone never gets smaller than it was");
            let first = below.clones[&origin.layer].first().and_then(|first| self.volumes.get(first));
            let same = first.and_then(|first| first.origin).is_some_and(|first| first == origin);
            assert!(same, "O1: all that stand on {} say the same of it", origin.layer);
        }
        assert!(named == 0, "O1: nobody else is named");
    }

    fn assert_volume(&self, volume: &VolumeRecord) {
        let name = &volume.name;
        if !self.is_listed(volume) {
            assert!(
                self.volume_names.get(name) != Some(&volume.id),
                "O3, B1: {name} leads nowhere, or to another volume"
            );
        } else {
            assert!(self.volume_names.get(name) == Some(&volume.id), "{name} leads to its volume");
        }
        assert!(self.pools.contains_key(&volume.pool), "the pool of {name} exists");
        assert!(volume.barrier.is_none_or(|b| self.barriers.contains_key(&b)), "S2: the barrier of {name} exists");
        assert!(!volume.floor.closed || volume.attachments.is_empty(), "nobody has {name} while it is deleted");
        assert!(!volume.floor.closed || volume.barrier.is_some(), "S2: {name} is gone once it is closed everywhere");
        let exclusive = volume.own_attachments().filter(|a| !a.shared).count();
        assert!(exclusive == 0 || volume.own_attachments().count() == 1, "{name} is shared by those who said so");
        assert!(volume.settled <= volume.stack_revision, "P2: the PGs of {name} are not ahead of it");
        assert!(volume.barrier.is_some() || volume.settled == volume.stack_revision, "S2: the stack of {name} is told");
        for attachment in volume.attachments.values() {
            let fenced = volume.floor.fences(attachment.id, attachment.generation);
            assert!(!fenced, "the floor of {name} lets its present attachments pass");
            assert!(!attachment.active || attachment.boot != BootId(0), "an active attachment has a process");
            if let Some(snapshot) = attachment.snapshot.map(|id| volume.snapshot_by_id(id)) {
                assert!(attachment.read_only && attachment.shared, "A4: snapshots of {name} are only read");
                let is_available = volume.snapshot_state(snapshot) == SnapshotState::Available;
                assert!(!attachment.active || is_available, "P2: nobody reads {name} while it may change");
            }
            let older = Generation(attachment.generation.0 - 1);
            let fences_older = older == Generation(0) || volume.floor.fences(attachment.id, older);
            assert!(fences_older, "A2: the floor of {name} refuses the generation before");
        }
    }
}
