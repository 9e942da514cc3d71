//! `ashlar volume delete --secure`, `bin purge --secure` and `ashlar wipe`: nothing is left of what a volume held, and the record that says so.

use super::time::utc;
use crate::args::WipeCommand;
use crate::control::Control;
use crate::error::CliError;
use crate::health::Problem;
use crate::output::{Output, Table, note};
use crate::transfer::Progress;
use ashlar_types::control::{ControlReply, ControlRequest, OsdUsage};
use ashlar_types::wipe::{WipeInfo, WipePart, WipeState};
use ashlar_types::{OsdId, WipeId, format_bytes};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(200);

pub async fn run(control: &Control, command: WipeCommand) -> Result<Output, CliError> {
    match command {
        WipeCommand::List => {
            let wipes = list(control).await?;
            let mut table = Table::new(&["WIPE", "VOLUME", "SIZE", "POOL", "ASKED", "STATE", "OSDS"]);
            for wipe in &wipes {
                let osds = format!("{} of {}", told(wipe).count(), wipe.parts.len());
                let names = [wipe.id.to_string(), wipe.volume_name.to_string(), format_bytes(wipe.size)];
                let rest = [wipe.pool_name.to_string(), utc(wipe.asked_at), state_word(wipe.state).to_owned(), osds];
                table.row(names.into_iter().chain(rest));
            }
            Ok(Output::new(table.render(), wipes.iter().map(wipe_json).collect()))
        }
        WipeCommand::Show { wipe } => {
            let found = find(control, wipe).await?;
            let usage = control.status().await?.usage;
            Ok(Output::new(describe(&found, &usage), wipe_json(&found)))
        }
        WipeCommand::Forget { wipe, give_up } => match control.ask(ControlRequest::WipeForget { wipe, give_up }).await?
        {
            ControlReply::Wipes(left) => {
                let names = |info: &WipeInfo| given_up(info).map(|part| part.osd.to_string()).collect::<Vec<_>>();
                let names: Vec<String> = left.iter().flat_map(names).collect();
                let text =
                    format!("{wipe} waits no more; its record says that these have not wiped: {}", names.join(", "));
                Ok(Output::new(text, left.iter().map(wipe_json).collect()))
            }
            _ => Ok(Output::new(format!("{wipe} forgotten"), json!({ "id": wipe.0, "forgotten": true }))),
        },
    }
}

pub async fn list(control: &Control) -> Result<Vec<WipeInfo>, CliError> {
    infos(control.ask(ControlRequest::WipeList).await?)
}

fn infos(reply: ControlReply) -> Result<Vec<WipeInfo>, CliError> {
    match reply {
        ControlReply::Wipes(wipes) => Ok(wipes),
        reply => Err(CliError::unexpected("wipe list", &reply)),
    }
}

async fn find(control: &Control, id: WipeId) -> Result<WipeInfo, CliError> {
    let found = list(control).await?.into_iter().find(|wipe| wipe.id == id);
    found.ok_or(CliError::NoWipe { wipe: id })
}

/// Deletes what each request names, and waits until it is wiped everywhere, if that is wanted.
pub async fn delete(control: &Control, requests: Vec<ControlRequest>, no_wait: bool) -> Result<Output, CliError> {
    let mut begun = Vec::new();
    for request in requests {
        match control.ask(request).await? {
            // It is in the bin, and its time isn't over.
            ControlReply::Bin(purged) if purged.is_empty() => {}
            reply => begun.extend(infos(reply)?),
        }
    }
    let ended = if no_wait { begun } else { attend(control, begun).await? };
    let mut lines: Vec<String> = ended.iter().map(summary).collect();
    if lines.is_empty() {
        lines.push("nothing to purge".to_owned());
    }
    let values: Vec<Value> = ended.iter().map(wipe_json).collect();
    let value = if let [one] = &values[..] { one.clone() } else { Value::Array(values) };
    let failures: Vec<String> = ended.iter().filter_map(unclean).map(|problem| problem.what).collect();
    let failure = (!failures.is_empty()).then(|| failures.join("; "));
    Ok(Output::new(lines.join("\n"), value).failed(failure))
}

/// Until each is done, or waits for its clones, which may be for ever.
async fn attend(control: &Control, begun: Vec<WipeInfo>) -> Result<Vec<WipeInfo>, CliError> {
    let ids: BTreeSet<WipeId> = begun.iter().map(|wipe| wipe.id).collect();
    let mut known = begun;
    let mut progress: Option<(Progress, u64)> = None;
    let mut said = None;
    while known.iter().any(|wipe| matches!(wipe.state, WipeState::Deleting | WipeState::Wiping)) {
        tokio::time::sleep(PAUSE).await;
        let now: Vec<WipeInfo> = list(control).await?.into_iter().filter(|wipe| ids.contains(&wipe.id)).collect();
        if let Some(gone) = ids.iter().find(|id| !now.iter().any(|wipe| wipe.id == **id)) {
            return Err(CliError::NoWipe { wipe: *gone });
        }
        known = now;
        let left: u64 = control.status().await?.usage.values().map(|usage| usage.wipe_left).sum();
        match &mut progress {
            Some((progress, before)) => {
                progress.add(before.saturating_sub(left));
                *before = left.min(*before);
            }
            None if left > 0 => progress = Some((Progress::new("wiping free space".to_owned(), left), left)),
            None => {}
        }
        let waits: BTreeSet<OsdId> =
            known.iter().flat_map(awaited).filter(|part| !part.up).map(|part| part.osd).collect();
        if !waits.is_empty() && said.as_ref() != Some(&waits) {
            if let Some((progress, _)) = &mut progress {
                progress.end();
            }
            let names: Vec<String> = waits.iter().map(ToString::to_string).collect();
            note(&format!("waiting for {}, down now: wiped when back (no need to wait here)", names.join(", ")));
            said = Some(waits);
        }
    }
    Ok(known)
}

fn awaited(wipe: &WipeInfo) -> impl Iterator<Item = &WipePart> {
    wipe.parts.iter().filter(|part| part.report.is_none() && !part.given_up)
}

fn told(wipe: &WipeInfo) -> impl Iterator<Item = &WipePart> {
    wipe.parts.iter().filter(|part| part.report.is_some())
}

fn given_up(wipe: &WipeInfo) -> impl Iterator<Item = &WipePart> {
    wipe.parts.iter().filter(|part| part.given_up)
}

fn state_word(state: WipeState) -> &'static str {
    match state {
        WipeState::Kept => "kept for its clones",
        WipeState::Deleting => "deleting",
        WipeState::Wiping => "wiping",
        WipeState::Done => "done",
    }
}

/// In one line.
pub fn summary(wipe: &WipeInfo) -> String {
    let WipeInfo { id, volume_name: name, .. } = wipe;
    let reports = || wipe.parts.iter().filter_map(|part| part.report);
    match wipe.state {
        WipeState::Kept => format!(
            "volume {name} is deleted; clones stand on it ({}), and it is wiped when the last is gone ({id})",
            wipe.clones
        ),
        WipeState::Deleting => format!("volume {name} is being deleted, and wiped then ({id})"),
        WipeState::Wiping => {
            format!("volume {name} is being wiped: {} of {} OSDs are done ({id})", told(wipe).count(), wipe.parts.len())
        }
        WipeState::Done => {
            let overwritten: u64 = reports().map(|report| report.overwritten).sum();
            let count = told(wipe).count();
            let osds = if count == 1 { "1 OSD".to_owned() } else { format!("{count} OSDs") };
            format!(
                "volume {name} is wiped: {osds} overwrote and read back {} of free space ({id})",
                format_bytes(overwritten)
            )
        }
    }
}

fn describe(wipe: &WipeInfo, usage: &BTreeMap<OsdId, OsdUsage>) -> String {
    let mut text = format!("wipe      {}\nvolume    {} ({})\n", wipe.id, wipe.volume_name, wipe.volume);
    let _ = writeln!(text, "size      {}", format_bytes(wipe.size));
    let _ = writeln!(text, "pool      {}", wipe.pool_name);
    let _ = writeln!(text, "asked     {}", utc(wipe.asked_at));
    let _ = writeln!(text, "state     {}", state_word(wipe.state));
    if wipe.clones > 0 {
        let _ = writeln!(text, "clones    {}: what they shared was kept until the last of them was gone", wipe.clones);
    }
    for part in &wipe.parts {
        let _ = writeln!(text, "{:9} {}", part.osd.to_string(), describe_part(part, usage.get(&part.osd)));
    }
    text
}

fn describe_part(part: &WipePart, usage: Option<&OsdUsage>) -> String {
    let Some(report) = part.report else {
        return match (part.given_up, part.up) {
            (true, _) => "given up: what the volume held may be on it".to_owned(),
            (false, false) => "down: it wipes when it is back".to_owned(),
            (false, true) => match usage.map_or(0, |usage| usage.wipe_left) {
                0 => "to begin".to_owned(),
                left => format!("wiping, {} left", format_bytes(left)),
            },
        };
    };
    let (overwritten, zero) = (format_bytes(report.overwritten), format_bytes(report.found_zero));
    let mut text = format!("done {}: {overwritten} overwritten and read back, {zero} were zero", utc(report.ended_at));
    if report.unverified > 0 {
        let _ = write!(text, "; {} overwritten, and not read back", format_bytes(report.unverified));
    }
    if report.damaged_pages > 0 {
        let _ = write!(text, "; {} damaged index pages", report.damaged_pages);
    }
    text
}

/// What a record says that should not be.
fn unclean(wipe: &WipeInfo) -> Option<Problem> {
    let bad: Vec<String> = wipe
        .parts
        .iter()
        .filter(|part| part.report.is_some_and(|report| !report.is_clean()))
        .map(|part| part.osd.to_string())
        .collect();
    (!bad.is_empty()).then(|| Problem {
        what: format!("{} (volume {}) could not read everything back on {}", wipe.id, wipe.volume_name, bad.join(", ")),
        means: "some of what the volume held may still be on these disks".into(),
        what_to_do: format!(
            "replace and destroy them; `ashlar wipe show {0}` has the figures, `ashlar wipe forget {0}` ends this",
            wipe.id
        ),
    })
}

pub fn problems(wipes: &[WipeInfo]) -> impl Iterator<Item = Problem> + '_ {
    let waiting = wipes.iter().filter_map(|wipe| {
        let down: Vec<String> = awaited(wipe).filter(|part| !part.up).map(|part| part.osd.to_string()).collect();
        (!down.is_empty()).then(|| Problem {
            what: format!("{} (volume {}) waits for {}, down now", wipe.id, wipe.volume_name, down.join(", ")),
            means: "what the volume held may still be on these disks".into(),
            what_to_do: format!(
                "start them again, and they wipe; if they never come back, destroy their disks and `ashlar wipe forget {} --give-up`",
                wipe.id
            ),
        })
    });
    waiting.chain(wipes.iter().filter_map(unclean))
}

pub fn wipe_json(wipe: &WipeInfo) -> Value {
    let part = |part: &WipePart| {
        json!({
            "osd": part.osd.0,
            "up": part.up,
            "given_up": part.given_up,
            "ended_at": part.report.map(|report| report.ended_at),
            "overwritten": part.report.map(|report| report.overwritten),
            "found_zero": part.report.map(|report| report.found_zero),
            "unverified": part.report.map(|report| report.unverified),
            "damaged_pages": part.report.map(|report| report.damaged_pages),
        })
    };
    json!({
        "id": wipe.id.0,
        "volume": wipe.volume_name,
        "volume_id": wipe.volume.0,
        "pool": wipe.pool_name,
        "size": wipe.size,
        "asked_at": wipe.asked_at,
        "state": state_word(wipe.state),
        "clones": wipe.clones,
        "osds": wipe.parts.iter().map(part).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::wipe::WipeReport;
    use ashlar_types::{Name, VolumeId};

    fn part(osd: u32, up: bool, unverified: Option<u64>) -> WipePart {
        let report = |unverified| WipeReport {
            ended_at: 1_800_000_000,
            overwritten: 1 << 30,
            found_zero: 0,
            unverified,
            damaged_pages: 0,
        };
        WipePart { osd: OsdId(osd), up, report: unverified.map(report), given_up: false }
    }

    fn wipe(state: WipeState, parts: Vec<WipePart>) -> WipeInfo {
        let name = |text: &str| Name::new(text).expect("a good name");
        WipeInfo {
            id: WipeId(3),
            volume: VolumeId(4),
            volume_name: name("v"),
            pool_name: name("p"),
            size: 1 << 30,
            asked_at: 1_800_000_000,
            state,
            clones: 0,
            parts,
        }
    }

    #[test]
    fn those_that_are_waited_for_are_a_problem_only_if_they_are_down() {
        let info = wipe(WipeState::Wiping, vec![part(1, true, Some(0)), part(2, true, None), part(3, false, None)]);
        let problems: Vec<Problem> = problems(std::slice::from_ref(&info)).collect();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].what, "wipe.3 (volume v) waits for osd.3, down now");
        assert_eq!(summary(&info), "volume v is being wiped: 1 of 3 OSDs are done (wipe.3)");
    }

    #[test]
    fn what_could_not_be_read_back_is_said() {
        let info = wipe(WipeState::Done, vec![part(1, true, Some(0)), part(2, true, Some(8192))]);
        let problems: Vec<Problem> = problems(std::slice::from_ref(&info)).collect();
        assert_eq!(problems[0].what, "wipe.3 (volume v) could not read everything back on osd.2");
        assert!(
            describe(&info, &BTreeMap::new()).contains("8KiB overwritten, and not read back"),
            "{}",
            describe(&info, &BTreeMap::new())
        );
    }
}
