//! OSDs and their processes. A boot id is one process; a newer one proves the older dead (R5, R7), so a boot that was
//! replaced never comes back, however late its messages arrive.

use super::{ClusterState, Outcome, Revised, check_text, invalid, not_found};
use ashlar_types::control::{ControlError, ControlReply};
use ashlar_types::view::OsdInfo;
use ashlar_types::{BootId, OsdId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

const OSDS_MAX: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OsdRecord {
    pub(super) info: OsdInfo,
    /// Its present process said that it stops; it isn't taken for up again.
    stopped: bool,
    /// All boots that were replaced. Eight bytes for each start of a process are worth never being fooled by a late message.
    replaced: BTreeSet<BootId>,
}

impl ClusterState {
    pub(super) fn osd_create(&mut self, host: String) -> Outcome {
        check_text("the host's name", &host, false)?;
        if self.osds.len() >= OSDS_MAX {
            return Err(invalid(format!("there are {OSDS_MAX} OSDs already, which is the most a cluster has")));
        }
        let id = OsdId(self.next.osd);
        self.next.osd += 1;
        let modified = self.touch_view();
        let info = OsdInfo { id, boot: BootId(0), up: false, address: String::new(), host, capacity: 0 };
        let value = OsdRecord { info, stopped: false, replaced: BTreeSet::new() };
        self.osds.insert(id, Revised { modified, value });
        Ok(ControlReply::OsdCreated { osd: id, cluster: self.cluster })
    }

    pub(super) fn osd_register(
        &mut self,
        osd: OsdId,
        boot: BootId,
        address: String,
        host: String,
        capacity: u64,
    ) -> Outcome {
        check_text("the OSD's address", &address, false)?;
        check_text("the host's name", &host, false)?;
        let record = &self.osds.get(&osd).ok_or_else(|| not_found("OSD", osd))?.value;
        check_boot(record, boot)?;
        let was = &record.info;
        if was.boot == boot && record.stopped {
            return Err(invalid(format!("{osd} ({boot}) has said that it stops")));
        }
        let info = OsdInfo { id: osd, boot, up: true, address, host, capacity };
        if *was == info {
            return self.unchanged();
        }
        let (old_boot, was_up) = (was.boot, was.up);
        let modified = self.touch_view();
        let record = self.osds.get_mut(&osd).expect("looked up above");
        record.modified = modified;
        record.value.info = info;
        if old_boot != boot {
            record.value.stopped = false;
            if old_boot != BootId(0) {
                record.value.replaced.insert(old_boot);
            }
            self.pgs_on_new_boot(osd);
        } else if !was_up {
            self.pgs_on_up_again(osd);
        }
        self.done()
    }

    pub(super) fn osd_stopping(&mut self, osd: OsdId, boot: BootId) -> Outcome {
        let record = self.osds.get_mut(&osd).ok_or_else(|| not_found("OSD", osd))?;
        check_boot(&record.value, boot)?;
        if record.value.info.boot != boot {
            return Err(invalid(format!("{osd} has never started as {boot}")));
        }
        record.value.stopped = true;
        self.osd_down(osd, boot)
    }

    pub(super) fn osd_down(&mut self, osd: OsdId, boot: BootId) -> Outcome {
        if !self.is_present(osd, boot) || !self.is_up(osd) {
            return self.unchanged();
        }
        self.set_up(osd, false);
        self.pgs_on_down(osd);
        self.done()
    }

    pub(super) fn osd_up(&mut self, osd: OsdId, boot: BootId) -> Outcome {
        let stopped = self.osds.get(&osd).is_none_or(|o| o.value.stopped);
        if !self.is_present(osd, boot) || self.is_up(osd) || stopped {
            return self.unchanged();
        }
        self.set_up(osd, true);
        self.pgs_on_up_again(osd);
        self.done()
    }

    /// Whether `boot` is the process that is taken to be the OSD's present one.
    pub(crate) fn is_present(&self, osd: OsdId, boot: BootId) -> bool {
        boot != BootId(0) && self.osds.get(&osd).is_some_and(|o| o.value.info.boot == boot)
    }

    pub(crate) fn is_up(&self, osd: OsdId) -> bool {
        self.osds.get(&osd).is_some_and(|o| o.value.info.up)
    }

    /// Whether a heartbeat of its present process would make it up again.
    pub(crate) fn can_be_up_again(&self, osd: OsdId) -> bool {
        self.osds.get(&osd).is_some_and(|o| !o.value.info.up && !o.value.stopped)
    }

    /// The OSDs that are up, with their processes.
    pub(crate) fn osds_up(&self) -> impl Iterator<Item = (OsdId, BootId)> + '_ {
        self.osds.values().map(|o| &o.value.info).filter(|o| o.up).map(|o| (o.id, o.boot))
    }

    pub(super) fn boot_of(&self, osd: OsdId) -> BootId {
        self.osds.get(&osd).map_or(BootId(0), |o| o.value.info.boot)
    }

    fn set_up(&mut self, osd: OsdId, up: bool) {
        let modified = self.touch_view();
        let record = self.osds.get_mut(&osd).expect("the caller looked it up");
        record.modified = modified;
        record.value.info.up = up;
    }
}

fn check_boot(record: &OsdRecord, boot: BootId) -> Result<(), ControlError> {
    let osd = record.info.id;
    if boot == BootId(0) {
        return Err(invalid(format!("{osd}: {boot} stands for no process")));
    }
    if record.replaced.contains(&boot) {
        return Err(invalid(format!("R7: {osd} has been started again since {boot}")));
    }
    Ok(())
}
