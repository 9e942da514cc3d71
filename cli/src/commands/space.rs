//! What is used, for what, and what is reserved.

use super::pool;
use crate::control::Control;
use crate::error::CliError;
use crate::health::Problem;
use ashlar_types::control::{ControlReply, ControlRequest, OsdUsage, PoolSpace, SpaceReport, SpaceUse};
use ashlar_types::{Name, PoolId, VolumeId, format_bytes};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// From this part of what a pool may promise on people are warned.
const PROMISED_WARN_PERCENT: u64 = 80;

pub async fn of_volume(control: &Control, name: &Name, id: VolumeId) -> Result<SpaceUse, CliError> {
    let report = ask(control, Some(name.clone())).await?;
    Ok(report.volumes.iter().find(|(volume, _)| *volume == id).map(|(_, used)| *used).unwrap_or_default())
}

pub async fn of_pools(control: &Control) -> Result<SpaceReport, CliError> {
    ask(control, None).await
}

async fn ask(control: &Control, volume: Option<Name>) -> Result<SpaceReport, CliError> {
    match control.ask(ControlRequest::SpaceUse { volume }).await? {
        ControlReply::Space(report) => Ok(report),
        reply => Err(CliError::unexpected("space", &reply)),
    }
}

/// Lines as those of `volume show`.
pub fn describe(used: &SpaceUse) -> String {
    let mut text = String::new();
    let SpaceUse { live, snapshots, shared, garbage, reserved } = *used;
    let all = live + snapshots + shared + garbage;
    let _ = writeln!(text, "used        {} on all OSDs: {}", format_bytes(all), parts(used));
    if reserved > 0 {
        let _ = writeln!(text, "reserved    {} more", format_bytes(reserved));
    }
    text
}

fn parts(used: &SpaceUse) -> String {
    let parts = [
        (used.live, "since the last snapshot"),
        (used.snapshots, "snapshots'"),
        (used.shared, "shared with clones"),
        (used.garbage, "about to be freed"),
    ];
    let some = parts.iter().enumerate().filter(|(nth, (bytes, _))| *nth == 0 || *bytes > 0);
    some.map(|(_, (bytes, what))| format!("{} {what}", format_bytes(*bytes))).collect::<Vec<_>>().join(", ")
}

pub fn space_json(used: &SpaceUse) -> Value {
    json!({
        "live": used.live,
        "snapshots": used.snapshots,
        "shared": used.shared,
        "garbage": used.garbage,
        "reserved": used.reserved,
    })
}

/// What the used bytes of an OSD are.
pub fn osd_json(usage: &OsdUsage) -> Value {
    let parts = usage.fixed + usage.index + usage.data;
    json!({
        "free": usage.free,
        "unfilled": usage.unfilled,
        "fixed": usage.fixed,
        "index": usage.index,
        "data": usage.data,
        "garbage": usage.used.saturating_sub(parts),
        "unwiped": usage.unwiped,
        "wipe_unverified": usage.wipe_unverified,
    })
}

pub fn describe_pool(space: &PoolSpace) -> String {
    let mut text = describe(&space.used);
    let _ = writeln!(text, "capacity    {} of its OSDs, which other pools may share", format_bytes(space.capacity));
    let of =
        space.provisioned_max().map_or("no limit is set".to_owned(), |most| format!("{} at most", format_bytes(most)));
    let _ = writeln!(text, "promised    {} to volumes, with all copies; {of}", format_bytes(space.provisioned));
    let _ = match space.retention {
        0 => write!(text, "bin         deleted volumes are not kept"),
        seconds => write!(text, "bin         deleted volumes are kept for {}", pool::span_text(seconds)),
    };
    let _ = match space.in_bin {
        0 => writeln!(text),
        bytes => writeln!(text, "; {} of what is promised are in it", format_bytes(bytes)),
    };
    text
}

pub fn pool_space_json(space: &PoolSpace) -> Value {
    let mut value = space_json(&space.used);
    value["capacity"] = space.capacity.into();
    value["provisioned"] = space.provisioned.into();
    value["provisioned_max"] = space.provisioned_max().into();
    value["over_commit"] = space.over_commit.map(|ratio| f64::from(ratio.0) / 100.0).into();
    value["bin_retention"] = space.retention.into();
    value["in_bin"] = space.in_bin.into();
    value
}

/// What people should know before volumes or writes are refused.
pub fn problems(report: &SpaceReport, name_of: impl Fn(PoolId) -> String) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (osd, usage) in report.osds.iter().filter(|(_, usage)| usage.unfilled > usage.free) {
        problems.push(Problem {
            what: format!("{osd} lacks {} of what is reserved on it", format_bytes(usage.unfilled - usage.free)),
            means: "volumes that have their space reserved may find no space there all the same".into(),
            what_to_do: "delete what isn't needed, or make volumes thin: `ashlar volume set NAME --provision thin`"
                .into(),
        });
    }
    for (pool, space) in &report.pools {
        let Some(most) = space.provisioned_max() else { continue };
        if space.provisioned >= most / 100 * PROMISED_WARN_PERCENT {
            let (name, promised) = (name_of(*pool), format_bytes(space.provisioned));
            let purge = match space.in_bin {
                0 => String::new(),
                bytes => format!("empty the bin, which has {} of them (`ashlar bin purge`), ", format_bytes(bytes)),
            };
            problems.push(Problem {
                what: format!(
                    "volumes of pool {name} are promised {promised} of the {} that it may promise",
                    format_bytes(most)
                ),
                means: "volumes beyond that are refused".into(),
                what_to_do: format!(
                    "{purge}add OSDs, delete volumes, or allow more: `ashlar pool set {name} --over-commit RATIO`"
                ),
            });
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::OsdId;
    use ashlar_types::control::OverCommit;

    #[test]
    fn people_are_warned_before_promises_end_and_when_a_reservation_is_not_kept() {
        let space =
            |provisioned, over_commit| PoolSpace { capacity: 1000, provisioned, over_commit, ..PoolSpace::default() };
        let pools =
            [(1, space(1599, Some(OverCommit(200)))), (2, space(1600, Some(OverCommit(200)))), (3, space(9999, None))];
        let usage = |free, unfilled| OsdUsage { free, unfilled, ..OsdUsage::default() };
        let report = SpaceReport {
            pools: pools.into_iter().map(|(id, space)| (PoolId(id), space)).collect(),
            osds: vec![(OsdId(1), usage(10, 10)), (OsdId(2), usage(10, 11))],
            ..SpaceReport::default()
        };
        let problems = problems(&report, |pool| pool.to_string());
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].what.contains("osd.2"), "{problems:?}");
        assert!(problems[1].what.contains("pool.2"), "{problems:?}");
    }
}
