//! Wipes: volumes that are deleted so that nothing of them is left on any disk (docs/decisions/036-secure-delete.md). Such a volume is deleted as any other, with a
//! record beside; when it is gone, the view asks every OSD that there is to wipe its free space, and the record takes what they tell.
//! V1: a record that waits has its volume; one that has begun has none. V2: it is asked for in the view as long as an OSD that is waited for has not told.
//! No clock here: who asks says when that is.

use super::{ClusterState, Outcome, invalid, not_found};
use ashlar_types::control::{ControlError, ControlReply};
use ashlar_types::wipe::{Wipe, WipeInfo, WipePart, WipeReport, WipeState};
use ashlar_types::{Name, OsdId, PoolId, VolumeId, WipeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const WIPES_MAX: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Part {
    Awaited,
    Told(WipeReport),
    GivenUp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WipeRecord {
    id: WipeId,
    volume: VolumeId,
    name: Name,
    pool: PoolId,
    size: u64,
    asked_at: u64,
    clones: u64,
    /// `None` until its volume is gone.
    parts: Option<BTreeMap<OsdId, Part>>,
}

impl WipeRecord {
    fn awaited(&self) -> impl Iterator<Item = OsdId> + '_ {
        let parts = self.parts.iter().flatten();
        parts.filter(|(_, part)| matches!(part, Part::Awaited)).map(|(osd, _)| *osd)
    }

    fn is_done(&self) -> bool {
        self.parts.is_some() && self.awaited().next().is_none()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wipes {
    next: u64,
    all: BTreeMap<WipeId, WipeRecord>,
}

impl Default for Wipes {
    fn default() -> Wipes {
        Wipes { next: 1, all: BTreeMap::new() }
    }
}

impl Wipes {
    /// V2
    pub(super) fn wished(&self) -> Vec<Wipe> {
        let wish = |record: &WipeRecord| Wipe {
            id: record.id,
            volume: record.volume,
            pool: record.pool,
            osds: record.awaited().collect(),
        };
        self.all.values().filter(|record| record.awaited().next().is_some()).map(wish).collect()
    }

    fn waiting(&self, volume: VolumeId) -> Option<WipeId> {
        self.all.values().find(|record| record.volume == volume && record.parts.is_none()).map(|record| record.id)
    }
}

impl ClusterState {
    /// Also of one that is being deleted already.
    pub(super) fn volume_wipe(&mut self, name: &Name, with_snapshots: bool, at: u64) -> Outcome {
        let volume = self.volume(name)?;
        let (id, is_closed) = (volume.id, volume.floor.closed);
        if !is_closed {
            self.check_delete(volume, with_snapshots)?;
        }
        self.wipe_after(id, is_closed, at)
    }

    pub(super) fn bin_wipe(&mut self, id: VolumeId, at: u64) -> Outcome {
        self.binned(id)?;
        self.wipe_after(id, false, at)
    }

    /// The caller has checked that it can be deleted, or it is being.
    fn wipe_after(&mut self, volume: VolumeId, is_closed: bool, at: u64) -> Outcome {
        if let Some(id) = self.wipes.waiting(volume) {
            return self.wipe_reply(id);
        }
        self.make_room_for_wipe()?;
        let id = WipeId(self.wipes.next);
        self.wipes.next += 1;
        let record = &self.volumes[&volume];
        let (name, pool, size) = (record.name.clone(), record.pool, record.size);
        let clones = record.clone_count();
        self.wipes.all.insert(id, WipeRecord { id, volume, name, pool, size, asked_at: at, clones, parts: None });
        if !is_closed {
            self.end(volume);
        }
        self.wipe_reply(id)
    }

    /// The oldest that is done makes room; those that are not are never forgotten by themselves.
    fn make_room_for_wipe(&mut self) -> Result<(), ControlError> {
        if self.wipes.all.len() < WIPES_MAX {
            return Ok(());
        }
        let oldest = self.wipes.all.values().find(|record| record.is_done()).map(|record| record.id);
        let oldest =
            oldest.ok_or_else(|| invalid(format!("{WIPES_MAX} volumes are being wiped, which is the most")))?;
        self.wipes.all.remove(&oldest);
        Ok(())
    }

    /// No layer of it is left with those who are in sync: now everybody wipes, and who is absent when it is back and has heard of it.
    pub(super) fn begin_wipe(&mut self, volume: VolumeId) {
        let Some(id) = self.wipes.waiting(volume) else { return };
        let parts = self.osds.keys().map(|osd| (*osd, Part::Awaited)).collect();
        self.wipes.all.get_mut(&id).expect("found by this id").parts = Some(parts);
        self.touch_view();
    }

    /// Told once for several, and again until the view doesn't ask any more.
    pub(super) fn wipe_done(&mut self, osd: OsdId, wipes: &[WipeId], report: WipeReport) -> Outcome {
        let mut is_news = false;
        for id in wipes {
            let parts = self.wipes.all.get_mut(id).and_then(|record| record.parts.as_mut());
            if let Some(part @ Part::Awaited) = parts.and_then(|parts| parts.get_mut(&osd)) {
                *part = Part::Told(report);
                is_news = true;
            }
        }
        if !is_news {
            return self.unchanged();
        }
        self.touch_view();
        self.done()
    }

    /// Takes a record away that is done. One that waits for OSDs: nobody waits for those any more, if so it is wished.
    pub(super) fn wipe_forget(&mut self, id: WipeId, give_up: bool) -> Outcome {
        let record = self.wipes.all.get(&id).ok_or_else(|| not_found("wipe", id))?;
        let name = record.name.clone();
        let Some(parts) = &record.parts else {
            return Err(invalid(format!("volume {name} of {id} is not gone yet: nothing of it is wiped")));
        };
        if record.is_done() {
            self.wipes.all.remove(&id);
            return self.done();
        }
        if !give_up {
            let left: Vec<String> = record.awaited().map(|osd| osd.to_string()).collect();
            let way = "--give-up ends it as it is, with a record that names them";
            return Err(invalid(format!("{id} (volume {name}) waits for {}; {way}", left.join(", "))));
        }
        let given_up = |part: Part| if matches!(part, Part::Awaited) { Part::GivenUp } else { part };
        let parts = parts.iter().map(|(osd, part)| (*osd, given_up(*part))).collect();
        self.wipes.all.get_mut(&id).expect("looked up above").parts = Some(parts);
        self.touch_view();
        self.wipe_reply(id)
    }

    fn wipe_reply(&self, id: WipeId) -> Outcome {
        Ok(ControlReply::Wipes(vec![self.wipe_info(&self.wipes.all[&id])]))
    }

    pub(super) fn wipe_list(&self) -> Outcome {
        Ok(ControlReply::Wipes(self.wipes.all.values().map(|record| self.wipe_info(record)).collect()))
    }

    fn wipe_info(&self, record: &WipeRecord) -> WipeInfo {
        let is_up = |osd: &OsdId| self.osds.get(osd).is_some_and(|osd| osd.value.info.up);
        let part = |(osd, part): (&OsdId, &Part)| WipePart {
            osd: *osd,
            up: is_up(osd),
            report: if let Part::Told(report) = part { Some(*report) } else { None },
            given_up: matches!(part, Part::GivenUp),
        };
        let state = match &record.parts {
            Some(_) if record.is_done() => WipeState::Done,
            Some(_) => WipeState::Wiping,
            None if self.volumes[&record.volume].hidden => WipeState::Kept,
            None => WipeState::Deleting,
        };
        WipeInfo {
            id: record.id,
            volume: record.volume,
            volume_name: record.name.clone(),
            pool_name: self.pools.get(&record.pool).expect("pools are not deleted").value.info.name.clone(),
            size: record.size,
            asked_at: record.asked_at,
            state,
            clones: record.clones,
            parts: record.parts.iter().flatten().map(part).collect(),
        }
    }

    pub(super) fn assert_wipes(&self) {
        for (id, record) in &self.wipes.all {
            assert!(*id == record.id && id.0 < self.wipes.next, "{id} is filed where it belongs");
            let has_volume = self.volumes.contains_key(&record.volume);
            assert!(has_volume == record.parts.is_none(), "V1: {id} begins when its volume is gone");
            let is_ending = self.volumes.get(&record.volume).is_none_or(|volume| volume.floor.closed || volume.hidden);
            assert!(is_ending, "V1: the volume of {id} is deleted");
        }
    }
}
