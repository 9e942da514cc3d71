//! `ashlar snapshot group`: what several volumes held at one moment.

use super::barrier;
use super::scrub::unix_now;
use super::snapshot::{disk_name, snapshot_json, state_word};
use super::time::utc;
use crate::args::SnapshotGroupCommand;
use crate::control::Control;
use crate::error::CliError;
use crate::output::{self, Output, Table};
use ashlar_types::control::{ControlReply, ControlRequest, SnapshotGroupInfo, SnapshotState};
use ashlar_types::{Name, format_bytes};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::Instant;

/// As for a single snapshot; and the volumes' writes wait meanwhile.
const PAUSE: Duration = Duration::from_millis(2);

pub async fn run(control: &Control, command: SnapshotGroupCommand) -> Result<Output, CliError> {
    match command {
        SnapshotGroupCommand::Create { name, volumes, timeout } => {
            create(control, name, volumes, Duration::from_secs(timeout)).await
        }
        SnapshotGroupCommand::List => {
            let groups = match control.ask(ControlRequest::SnapshotGroupList).await? {
                ControlReply::SnapshotGroups(groups) => groups,
                reply => return Err(CliError::unexpected("snapshot group list", &reply)),
            };
            let mut table = Table::new(&["NAME", "TAKEN", "STATE", "VOLUMES"]);
            for group in &groups {
                let mut volumes = volumes_of(group);
                volumes.extend((group.in_bin > 0).then(|| format!("({} in the bin)", group.in_bin)));
                let volumes = volumes.join(",");
                let state = state_word(group.state).to_owned();
                table.row([group.name.to_string(), utc(group.taken_at), state, volumes]);
            }
            Ok(Output::new(table.render(), groups.iter().map(group_json).collect()))
        }
        SnapshotGroupCommand::Show { name } => {
            let group = ask(control, "snapshot group show", ControlRequest::SnapshotGroupShow { name }).await?;
            Ok(Output::new(describe(&group), group_json(&group)))
        }
        SnapshotGroupCommand::Delete { name } => {
            control.ask(ControlRequest::SnapshotGroupDelete { name: name.clone() }).await?;
            let value = json!({ "name": name, "deleted": true });
            Ok(Output::new(format!("snapshot group {name} deleted, with its snapshots"), value))
        }
    }
}

async fn create(control: &Control, name: Name, volumes: Vec<Name>, patience: Duration) -> Result<Output, CliError> {
    let deadline = Instant::now() + patience;
    let request = ControlRequest::SnapshotGroupCreate { name: name.clone(), volumes, taken_at: unix_now() };
    let mut group = ask(control, "snapshot group create", request).await?;
    let left_out = std::mem::take(&mut group.left_out);
    for volume in &left_out {
        output::note(&format!("ashlar: volume {volume} is an independent disk, and left out"));
    }
    while group.state == SnapshotState::Creating {
        if Instant::now() >= deadline {
            let pgs = pending(control, &group).await?;
            return Err(CliError::GroupNotAvailable { name: name.to_string(), waited: patience, pgs });
        }
        tokio::time::sleep(PAUSE).await;
        let request = ControlRequest::SnapshotGroupShow { name: name.clone() };
        group = ask(control, "snapshot group show", request).await?;
    }
    let names: Vec<String> = group.snapshots.iter().map(|snapshot| disk_name(snapshot).to_string()).collect();
    let mut value = group_json(&group);
    value["left_out"] = json!(left_out);
    Ok(Output::new(format!("snapshot group {name} created: {}", names.join(", ")), value))
}

/// What the first of its volumes that waits is waiting for.
async fn pending(control: &Control, group: &SnapshotGroupInfo) -> Result<String, CliError> {
    for snapshot in group.snapshots.iter().filter(|snapshot| snapshot.state == SnapshotState::Creating) {
        if let Some(pgs) = barrier::pending(control, snapshot.volume).await? {
            return Ok(pgs);
        }
    }
    Ok("nothing any more".to_owned())
}

async fn ask(control: &Control, what: &'static str, request: ControlRequest) -> Result<SnapshotGroupInfo, CliError> {
    match control.ask(request).await? {
        ControlReply::SnapshotGroup(group) => Ok(group),
        reply => Err(CliError::unexpected(what, &reply)),
    }
}

fn volumes_of(group: &SnapshotGroupInfo) -> Vec<String> {
    group.snapshots.iter().map(|snapshot| snapshot.volume_name.to_string()).collect()
}

fn describe(group: &SnapshotGroupInfo) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "name        {}", group.name);
    let _ = writeln!(text, "taken       {}", utc(group.taken_at));
    let _ = writeln!(text, "state       {}", state_word(group.state));
    for snapshot in &group.snapshots {
        let state = if snapshot.state == SnapshotState::Creating { ", creating" } else { "" };
        let _ = writeln!(text, "snapshot    {}, {}{state}", disk_name(snapshot), format_bytes(snapshot.size));
    }
    if group.in_bin > 0 {
        let _ = writeln!(text, "in the bin  {}", group.in_bin);
    }
    text
}

fn group_json(group: &SnapshotGroupInfo) -> Value {
    json!({
        "name": group.name,
        "taken_at": group.taken_at,
        "state": state_word(group.state),
        "snapshots": group.snapshots.iter().map(snapshot_json).collect::<Vec<_>>(),
        "in_bin": group.in_bin,
    })
}
