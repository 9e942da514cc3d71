//! Volumes that wipe as they free: setting that, and what still waits to be wiped on which OSD.

use crate::control::{Control, ServiceStatus};
use crate::error::CliError;
use crate::health::Problem;
use ashlar_types::control::{ControlReply, ControlRequest, VolumeInfo};
use ashlar_types::view::ClusterView;
use ashlar_types::{OsdId, format_bytes};
use serde_json::{Value, json};

pub async fn set(control: &Control, volume: VolumeInfo, on: bool) -> Result<VolumeInfo, CliError> {
    if volume.wipe_freed == on {
        return Ok(volume);
    }
    match control.ask(ControlRequest::VolumeSetWipeFreed { names: vec![volume.name.clone()], on }).await? {
        ControlReply::Volumes(mut volumes) if volumes.len() == 1 && volumes[0].id == volume.id => Ok(volumes.remove(0)),
        reply => Err(CliError::unexpected("volume set", &reply)),
    }
}

/// What an OSD still has to overwrite of what such volumes gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    Bytes(u64),
    /// It wipes when it is back; how much, nobody knows.
    IsDown,
}

/// Those of the OSDs that have something to overwrite, in order.
pub fn waiting(view: &ClusterView, service: &ServiceStatus) -> Vec<(OsdId, Waiting)> {
    let waits = |osd: &ashlar_types::view::OsdInfo| match service.usage.get(&osd.id) {
        _ if !osd.up && osd.boot.0 > 0 => Some((osd.id, Waiting::IsDown)),
        Some(usage) if osd.up && usage.unwiped > 0 => Some((osd.id, Waiting::Bytes(usage.unwiped))),
        _ => None,
    };
    view.osds.values().filter_map(waits).collect()
}

pub fn describe(waiting: &[(OsdId, Waiting)]) -> String {
    if waiting.is_empty() {
        return "nothing waits to be overwritten".to_owned();
    }
    let each: Vec<String> = waiting
        .iter()
        .map(|(osd, waits)| match waits {
            Waiting::Bytes(bytes) => format!("{} on {osd}", format_bytes(*bytes)),
            Waiting::IsDown => format!("{osd} is down and wipes when it is back"),
        })
        .collect();
    format!("still to be overwritten: {}", each.join(", "))
}

pub fn waiting_json(waiting: &[(OsdId, Waiting)]) -> Value {
    let one = |(osd, waits): &(OsdId, Waiting)| match waits {
        Waiting::Bytes(bytes) => json!({ "osd": osd.0, "up": true, "unwiped": bytes }),
        Waiting::IsDown => json!({ "osd": osd.0, "up": false, "unwiped": null }),
    };
    waiting.iter().map(one).collect()
}

pub fn problems(service: &ServiceStatus) -> impl Iterator<Item = Problem> + '_ {
    let bad = service.usage.iter().filter(|(_, usage)| usage.wipe_unverified > 0);
    bad.map(|(osd, usage)| Problem {
        what: format!("{osd} overwrote {} and could not read it back", format_bytes(usage.wipe_unverified)),
        means: "something that volumes which wipe as they free have given up may still be on its disk".into(),
        what_to_do: "replace and destroy the disk".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_osd_that_has_something_to_overwrite_is_named() {
        assert_eq!(describe(&[]), "nothing waits to be overwritten");
        let waiting = [(OsdId(1), Waiting::Bytes(64 << 10)), (OsdId(3), Waiting::IsDown)];
        let text = describe(&waiting);
        assert_eq!(text, "still to be overwritten: 64KiB on osd.1, osd.3 is down and wipes when it is back");
        assert_eq!(waiting_json(&waiting)[1], json!({ "osd": 3, "up": false, "unwiped": null }));
    }
}
