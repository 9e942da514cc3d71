//! `ashlar snapshot`: what a volume held at a moment, under a name.

use super::scrub::unix_now;
use super::time::utc;
use super::volume::{ask_volume, volume_json};
use super::{barrier, diff, group, reserve};
use crate::args::{SnapshotArg, SnapshotCommand};
use crate::control::Control;
use crate::error::CliError;
use crate::output::{Output, Table};
use ashlar_types::control::{ControlError, ControlReply, ControlRequest, Provision, SnapshotInfo, SnapshotState};
use ashlar_types::{DiskName, Name, format_bytes};
use ashlar_wire_control::ControlClientError;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::Instant;

/// Barriers take milliseconds, and who takes a snapshot may hold something up meanwhile.
const PAUSE: Duration = Duration::from_millis(2);

pub async fn run(control: &Control, command: SnapshotCommand, json: bool) -> Result<Output, CliError> {
    match command {
        SnapshotCommand::Create { snapshot, thin_snapshots, timeout } => {
            create(control, &snapshot, thin_snapshots, Duration::from_secs(timeout)).await
        }
        SnapshotCommand::List { volume } => {
            let snapshots = list(control, volume).await?;
            let mut table = Table::new(&["NAME", "SIZE", "TAKEN", "STATE", "GROUP"]);
            for snapshot in &snapshots {
                let (size, state) = (format_bytes(snapshot.size), state_word(snapshot.state).to_owned());
                let cells = [disk_name(snapshot).to_string(), size, utc(snapshot.taken_at), state];
                table.row(cells.into_iter().chain(snapshot.group.as_ref().map(ToString::to_string)));
            }
            Ok(Output::new(table.render(), snapshots.iter().map(snapshot_json).collect()))
        }
        SnapshotCommand::Show { snapshot } => {
            let (volume, name) = snapshot.resolve()?;
            let info = ask(control, "snapshot show", ControlRequest::SnapshotShow { volume, name }).await?;
            Ok(Output::new(describe(&info), snapshot_json(&info)))
        }
        SnapshotCommand::Diff(args) => diff::run(control, args.compared()?, json).await,
        SnapshotCommand::Delete { snapshot } => delete(control, &snapshot).await,
        SnapshotCommand::Revert { snapshot, force } => revert(control, &snapshot, force).await,
        SnapshotCommand::Group(command) => group::run(control, command).await,
    }
}

async fn create(control: &Control, snapshot: &SnapshotArg, thin: bool, patience: Duration) -> Result<Output, CliError> {
    let (volume, name) = snapshot.resolve()?;
    let deadline = Instant::now() + patience;
    let taken_at = unix_now();
    let request = ControlRequest::SnapshotCreate { volume: volume.clone(), name: name.clone(), taken_at, thin };
    let mut info = ask(control, "snapshot create", request).await?;
    while info.state == SnapshotState::Creating {
        if Instant::now() >= deadline {
            let pgs = barrier::pending(control, info.volume).await?.unwrap_or_else(|| "nothing any more".to_owned());
            return Err(CliError::NotAvailable { name: disk_name(&info).to_string(), waited: patience, pgs });
        }
        tokio::time::sleep(PAUSE).await;
        let request = ControlRequest::SnapshotShow { volume: volume.clone(), name: name.clone() };
        info = ask(control, "snapshot show", request).await?;
    }
    check_reserved(control, &info, deadline.saturating_duration_since(Instant::now())).await?;
    let text = format!("snapshot {} created: {}", disk_name(&info), format_bytes(info.size));
    Ok(Output::new(text, snapshot_json(&info)))
}

/// A volume that has its space reserved has as much reserved again for what it overwrites now, or is thin.
async fn check_reserved(control: &Control, snapshot: &SnapshotInfo, patience: Duration) -> Result<(), CliError> {
    let name = snapshot.volume_name.clone();
    let volume = ask_volume(control, "volume show", ControlRequest::VolumeShow { name }).await?;
    if volume.is_reserving && reserve::wait(control, volume, patience).await?.provision == Provision::Thin {
        let done = format!("snapshot {} is created", disk_name(snapshot));
        return Err(CliError::BecameThin { name: snapshot.volume_name.to_string(), done });
    }
    Ok(())
}

/// Returns when the name is gone. What only it held follows in the background.
async fn delete(control: &Control, snapshot: &SnapshotArg) -> Result<Output, CliError> {
    let (volume, name) = snapshot.resolve()?;
    let disk = DiskName { volume: volume.clone(), snapshot: Some(name.clone()) };
    control.ask(ControlRequest::SnapshotDelete { volume: volume.clone(), name: name.clone() }).await?;
    let value = json!({ "volume": volume, "name": name, "deleted": true });
    Ok(Output::new(format!("snapshot {disk} deleted"), value))
}

async fn revert(control: &Control, snapshot: &SnapshotArg, force: bool) -> Result<Output, CliError> {
    let (volume, name) = snapshot.resolve()?;
    let disk = DiskName { volume: volume.clone(), snapshot: Some(name.clone()) };
    let request = ControlRequest::VolumeRevert { volume: volume.clone(), snapshot: name, force };
    let info = match control.ask(request).await {
        Ok(ControlReply::Volume(info)) => info,
        Ok(reply) => return Err(CliError::unexpected("snapshot revert", &reply)),
        Err(error) => return Err(explain_attached(error)),
    };
    barrier::wait_until_passed(control, &volume.into(), info.id, "reverted").await?;
    let text = format!("volume {} is what {disk} is: {}", info.name, format_bytes(info.size));
    Ok(Output::new(text, volume_json(&info)))
}

/// The general text names the option of another command.
fn explain_attached(error: CliError) -> CliError {
    match error {
        CliError::Control(ControlClientError::Refused(ControlError::Attached { name, holder })) => {
            let way = "detach it there, or take it away with `snapshot revert --force`";
            CliError::Conflict { what: format!("volume {name:?} is attached to {holder}; {way}") }
        }
        other => other,
    }
}

async fn ask(control: &Control, what: &'static str, request: ControlRequest) -> Result<SnapshotInfo, CliError> {
    match control.ask(request).await? {
        ControlReply::Snapshot(info) => Ok(info),
        reply => Err(CliError::unexpected(what, &reply)),
    }
}

/// In the order in which they were taken, volume by volume.
pub async fn list(control: &Control, volume: Option<Name>) -> Result<Vec<SnapshotInfo>, CliError> {
    match control.ask(ControlRequest::SnapshotList { volume }).await? {
        ControlReply::Snapshots(snapshots) => Ok(snapshots),
        reply => Err(CliError::unexpected("snapshot list", &reply)),
    }
}

pub fn disk_name(snapshot: &SnapshotInfo) -> DiskName {
    DiskName { volume: snapshot.volume_name.clone(), snapshot: Some(snapshot.name.clone()) }
}

pub fn state_word(state: SnapshotState) -> &'static str {
    match state {
        SnapshotState::Creating => "creating",
        SnapshotState::Available => "available",
    }
}

fn describe(snapshot: &SnapshotInfo) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "name        {}", disk_name(snapshot));
    let _ = writeln!(text, "id          {}", snapshot.id);
    let _ = writeln!(text, "size        {} ({} bytes)", format_bytes(snapshot.size), snapshot.size);
    let _ = writeln!(text, "taken       {}", utc(snapshot.taken_at));
    let _ = writeln!(text, "state       {}", state_word(snapshot.state));
    let layers: Vec<String> = snapshot.layers.iter().map(ToString::to_string).collect();
    let _ = writeln!(text, "layers      {}", layers.join(", "));
    if let Some(group) = &snapshot.group {
        let _ = writeln!(text, "group       {group}");
    }
    text
}

/// One line of `volume show`.
pub fn describe_briefly(snapshot: &SnapshotInfo) -> String {
    let state = if snapshot.state == SnapshotState::Creating { ", creating" } else { "" };
    format!("{}, {}, taken {}{state}", snapshot.name, format_bytes(snapshot.size), utc(snapshot.taken_at))
}

pub fn snapshot_json(snapshot: &SnapshotInfo) -> Value {
    json!({
        "id": snapshot.id.0,
        "name": snapshot.name,
        "volume": snapshot.volume_name,
        "size": snapshot.size,
        "taken_at": snapshot.taken_at,
        "state": state_word(snapshot.state),
        "layers": snapshot.layers.iter().map(|layer| layer.0).collect::<Vec<_>>(),
        "group": snapshot.group,
    })
}
