//! Volumes that wipe as they free (docs/decisions/039-wipe-freed.md): the view names their layers, and every OSD overwrites what those give up.
//! W1: what wipes is a volume that exists, deleted ones that are kept for their clones too. W2: the view names each layer of it, and says from which layer on
//! it says nothing; so it is told with every layer that is made once there was such a volume. W3: `sweep` rises when a volume that is
//! there becomes one, since what it gave up before, or gives up before every OSD has heard of it, may lie anywhere; and with the first of all.
//! A clone is its own volume and wipes what its own layers give up; it begins as what it was cloned from.

use super::{ClusterState, Outcome, invalid};
use ashlar_types::control::ControlReply;
use ashlar_types::wipe::FreedWipes;
use ashlar_types::{IdSet, LayerId, Name, Revision, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// In one request: its answer tells of each.
const VOLUMES_PER_REQUEST_MAX: usize = 1_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WipingVolumes {
    volumes: BTreeSet<VolumeId>,
    sweep: u64,
    /// When the view's part last changed.
    modified: Revision,
}

impl ClusterState {
    pub(super) fn wipes_freed(&self, volume: VolumeId) -> bool {
        self.wiping.volumes.contains(&volume)
    }

    pub(super) fn volume_set_wipe_freed(&mut self, names: &[Name], on: bool) -> Outcome {
        if names.is_empty() || names.len() > VOLUMES_PER_REQUEST_MAX {
            let most = format!("a request sets this of 1 to {VOLUMES_PER_REQUEST_MAX} volumes");
            return Err(invalid(format!("{most}, not {}", names.len())));
        }
        let volumes = names.iter().map(|name| Ok(self.open_volume(name)?.id)).collect::<Result<Vec<_>, _>>()?;
        let is_news = volumes.iter().any(|volume| self.wipes_freed(*volume) != on);
        // W3
        self.wiping.sweep += u64::from(is_news && on);
        for volume in &volumes {
            match on {
                true => self.wiping.volumes.insert(*volume),
                false => self.wiping.volumes.remove(volume),
            };
        }
        if is_news {
            self.touch_wiping();
        }
        Ok(ControlReply::Volumes(volumes.iter().map(|volume| self.volume_info(&self.volumes[volume])).collect()))
    }

    /// It was just made: nobody has written to it.
    pub(super) fn wipe_from_the_start(&mut self, volume: VolumeId) {
        self.wiping.volumes.insert(volume);
        self.wiping.sweep = self.wiping.sweep.max(1);
        self.touch_wiping();
    }

    /// A clone was made.
    pub(super) fn inherit_wipe_freed(&mut self, clone: VolumeId, from: VolumeId) {
        if self.wipes_freed(from) {
            self.wiping.volumes.insert(clone);
            self.touch_wiping();
        }
    }

    /// It is gone.
    pub(super) fn forget_wipe_freed(&mut self, volume: VolumeId) {
        if self.wiping.volumes.remove(&volume) {
            self.touch_wiping();
        }
    }

    /// W2
    pub(super) fn layer_made(&mut self) {
        if self.wiping.sweep > 0 {
            self.touch_wiping();
        }
    }

    /// Some layers of the volume are no more.
    pub(super) fn layers_gone(&mut self, volume: VolumeId) {
        if self.wipes_freed(volume) {
            self.touch_wiping();
        }
    }

    fn touch_wiping(&mut self) {
        self.wiping.modified = self.touch_view();
    }

    /// W2
    pub(super) fn wipe_freed_since(&self, revision: Revision) -> Option<FreedWipes> {
        let WipingVolumes { volumes, sweep, modified } = &self.wiping;
        (*modified > revision).then(|| {
            let mut layers = IdSet::default();
            for (layer, _) in self.layers.iter().filter(|(_, record)| volumes.contains(&record.volume)) {
                layers.insert(*layer, *layer);
            }
            FreedWipes { layers, known_below: LayerId(self.next.layer), sweep: *sweep }
        })
    }

    pub(super) fn assert_wipe_freed(&self) {
        let WipingVolumes { volumes, sweep, .. } = &self.wiping;
        for volume in volumes {
            assert!(self.volumes.contains_key(volume), "W1: {volume}, which wipes, exists");
        }
        assert!(volumes.is_empty() || *sweep > 0, "W3: there are volumes that wipe");
    }
}
