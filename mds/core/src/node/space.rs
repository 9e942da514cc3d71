//! Space by what OSDs tell in heartbeats: what is used for what, whether a reservation has room before it is made, and whether it is kept after.
//! The first look saves people a volume that appears and goes again. The second one counts: an OSD that has told of a view keeps what that view says is
//! reserved, and what it tells with it says whether there is room for it.

use super::MetadataNode;
use super::detector::Heard;
use crate::state::{Command, Demand, Verdict};
use ashlar_types::control::{ControlError, ControlReply, ControlRequest, Provision};
use ashlar_types::view::RESERVED_HEADROOM_BLOCKS;
use ashlar_types::{BLOCK_BYTES, LayerId, Name, OsdId};
use std::collections::BTreeMap;

impl MetadataNode {
    /// Refuses what reserves more than there is. Otherwise the request goes on.
    pub(super) fn check_space(&self, request: &ControlRequest) -> Result<(), ControlError> {
        use ControlRequest as R;
        let state = &self.state;
        let (what, demand, top) = match request {
            R::VolumeCreate { name, size, pool, provision: Provision::Lazy | Provision::Eager }
            | R::VolumeCreateWiping { name, size, pool, provision: Provision::Lazy | Provision::Eager } => {
                (format!("volume {name}"), state.demand_of_new(pool.as_ref(), *size), None)
            }
            R::VolumeSet { name, provision: Provision::Lazy | Provision::Eager }
                if state.reserved_top(name).is_none() =>
            {
                let Some(size) = state.size_of(name) else { return Ok(()) };
                let Some((demand, top)) = state.demand_of_size(name, size) else { return Ok(()) };
                (format!("volume {name}"), demand, Some(top))
            }
            R::VolumeExtend { name, size } if state.reserved_top(name).is_some() => {
                let Some((demand, _)) = state.demand_of_size(name, *size) else { return Ok(()) };
                (format!("volume {name}"), demand, None)
            }
            // What its top has is freed; only a snapshot that is larger needs more.
            R::VolumeRevert { volume, snapshot, .. } if state.reserved_top(volume).is_some() => {
                let Some(size) = state.snapshot_size(volume, snapshot) else { return Ok(()) };
                let Some((demand, _)) = state.demand_of_size(volume, size) else { return Ok(()) };
                (format!("volume {volume} as large as {volume}@{snapshot}"), demand, None)
            }
            R::SnapshotCreate { volume, thin: false, .. } => {
                return self.check_frozen_space("a snapshot", "`snapshot create --thin-snapshots` or ", [volume]);
            }
            R::SnapshotGroupCreate { volumes, .. } => {
                let taken = volumes.iter().filter(|volume| state.is_dependent(volume));
                return self.check_frozen_space("a snapshot", "`snapshot create --thin-snapshots` or ", taken);
            }
            R::VolumeSetMode { names, mode } => {
                let frozen = names.iter().filter(|name| state.is_frozen_by_mode(name, *mode));
                return self.check_frozen_space("it is non-persistent", "", frozen);
            }
            _ => return Ok(()),
        };
        self.check_demand(&what, &demand, top)
    }

    /// What reserved volumes have in their top layers they may overwrite, all of it.
    fn check_frozen_space<'a>(
        &self,
        after: &str,
        way: &str,
        volumes: impl IntoIterator<Item = &'a Name>,
    ) -> Result<(), ControlError> {
        let mut all = Demand::new();
        let mut names = Vec::new();
        for volume in volumes {
            let Some((top, size)) = self.state.reserved_top(volume) else { continue };
            let Some((mut demand, _)) = self.state.demand_of_size(volume, size) else { continue };
            for (osd, heard) in self.detector.heard() {
                demand.entry(osd).and_modify(|blocks| *blocks = heard.layers.get(&top).copied().unwrap_or(0));
            }
            demand.into_iter().for_each(|(osd, blocks)| *all.entry(osd).or_default() += blocks);
            names.push(volume.as_str());
        }
        let names = names.join(", ");
        let way = format!("{way}`volume set --provision thin` lets one become thin");
        let what = format!("what volume {names} overwrites after {after} ({way})");
        self.check_demand(&what, &all, None)
    }

    /// `top`: what it has already is not wanted again.
    fn check_demand(&self, what: &str, demand: &Demand, top: Option<LayerId>) -> Result<(), ControlError> {
        let heard: BTreeMap<OsdId, &Heard> = self.detector.heard().collect();
        for (osd, blocks) in demand {
            let Some((usage, heard)) = heard.get(osd).and_then(|heard| Some((heard.usage?, heard))) else {
                if self.state.is_up(*osd) {
                    return Err(ControlError::Busy);
                }
                continue;
            };
            if *blocks == 0 {
                continue;
            }
            let has = top.and_then(|top| heard.layers.get(&top)).copied().unwrap_or(0);
            // Of those that have the headroom already the others ask for a little more than they take.
            let blocks = blocks.saturating_sub(has) + RESERVED_HEADROOM_BLOCKS;
            let wanted = blocks * u64::from(BLOCK_BYTES);
            let left = usage.free.saturating_sub(usage.unfilled);
            if wanted > left {
                return Err(ControlError::Invalid(format!(
                    "there is no room to reserve for {what}: {osd} has {left} bytes that nobody else has reserved, and {wanted} are needed there"
                )));
            }
        }
        Ok(())
    }

    /// What OSDs have told about what they are asked to keep.
    pub(super) fn judge_reserves(&mut self) {
        let heard: BTreeMap<OsdId, &Heard> = self.detector.heard().collect();
        let mut verdicts = Vec::new();
        for (volume, since, osds) in self.state.asked_reserves() {
            // Not by a view in which more was reserved: who has gone since would count against those who are left.
            let by = self.state.reserves_modified().max(since);
            let told = |osd: &OsdId| heard.get(osd).filter(|heard| heard.view >= by).and_then(|heard| heard.usage);
            let Some(usages) = osds.iter().map(told).collect::<Option<Vec<_>>>() else { continue };
            verdicts.push(Verdict { volume, since, is_kept: usages.iter().all(|usage| usage.unfilled <= usage.free) });
        }
        // Where several don't fit together the newest goes first; the others are judged by what is then told.
        let refused = verdicts.iter().filter(|verdict| !verdict.is_kept).max_by_key(|verdict| verdict.since).copied();
        let kept = verdicts.into_iter().filter(|verdict| verdict.is_kept);
        let due: Vec<Verdict> = kept.chain(refused).filter(|verdict| self.detector.proposes(verdict)).collect();
        due.into_iter().for_each(|verdict| self.propose_own(Command::ReserveJudged(verdict)));
    }

    pub(super) fn space_use(&self, volume: Option<&Name>) -> Result<ControlReply, ControlError> {
        let mut blocks: BTreeMap<LayerId, u64> = BTreeMap::new();
        for (layer, count) in self.detector.heard().flat_map(|(_, heard)| &heard.layers) {
            *blocks.entry(*layer).or_default() += count;
        }
        let mut report = self.state.space_report(volume, &blocks)?;
        report.osds = self.osd_usage().collect();
        Ok(ControlReply::Space(report))
    }
}
