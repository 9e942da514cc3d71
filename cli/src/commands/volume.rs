//! `ashlar volume`, but for `attach` and `detach`.

use super::merges::{self, Merging};
use super::{
    attach, bin, clone, detach, diff, export, flatten, import, job, mode, reserve, set, snapshot, space, tree,
    wipe_freed,
};
use crate::args::VolumeCommand;
use crate::control::Control;
use crate::error::CliError;
use crate::output::{Output, Table};
use crate::place::Place;
use ashlar_types::control::{
    AttachmentInfo, ControlReply, ControlRequest, OriginInfo, Provision, SnapshotInfo, SpaceUse, VolumeInfo,
    VolumeState,
};
use ashlar_types::format_bytes;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

pub async fn run(control: &Control, place: &Place, command: VolumeCommand, json: bool) -> Result<Output, CliError> {
    match command {
        VolumeCommand::Create { name, size, pool, provision, disk_mode, wipe_freed, reserve, job: how } => {
            job::check(Some(provision.into()), false, how)?;
            mode::check(provision.into(), disk_mode.into())?;
            let patience = Duration::from_secs(reserve.timeout);
            let provision = provision.into();
            let request = match wipe_freed {
                false => ControlRequest::VolumeCreate { name, size, pool, provision },
                true => ControlRequest::VolumeCreateWiping { name, size, pool, provision },
            };
            let volume = ask_volume(control, "volume create", request).await?;
            let volume = reserve::wait(control, volume, patience).await?;
            let volume = mode::set_new(control, volume, disk_mode.into(), patience).await?;
            let volume = job::zeroed(control, volume, how).await?;
            let (size, how) = (format_bytes(volume.size), if_reserved(&volume));
            let text = format!("volume {} created: {size} in pool {}{how}", volume.name, volume.pool_name);
            Ok(Output::new(text, volume_json(&volume)))
        }
        VolumeCommand::Flatten(args) => flatten::run(control, args).await,
        VolumeCommand::Set(args) => set::run(control, args).await,
        VolumeCommand::Diff(args) => diff::run(control, args.compared()?, json).await,
        VolumeCommand::Clone(args) => clone::run(control, args).await,
        VolumeCommand::List => {
            let volumes = control.volumes().await?;
            let mut table = Table::new(&["NAME", "SIZE", "POOL", "STATE", "GATEWAYS", "CLONE OF"]);
            for volume in &volumes {
                let own = volume.attachments.iter().filter(|a| a.name.snapshot.is_none());
                let gateways: Vec<&str> = own.map(|a| a.gateway.as_str()).collect();
                let (size, state) = (format_bytes(volume.size), state_word(volume.state).to_owned());
                let cells = [volume.name.to_string(), size, volume.pool_name.to_string(), state, gateways.join(",")];
                table.row(cells.into_iter().chain(volume.origin.as_deref().map(describe_origin)));
            }
            Ok(Output::new(table.render(), volumes.iter().map(volume_json).collect()))
        }
        VolumeCommand::Show { name } => {
            let volume = ask_volume(control, "volume show", ControlRequest::VolumeShow { name }).await?;
            let snapshots = snapshot::list(control, Some(volume.name.clone())).await?;
            let mut value = volume_json(&volume);
            value["snapshots"] = snapshots.iter().map(snapshot::snapshot_json).collect();
            let merges = merges::of(&control.view().await?, volume.id);
            value["merges"] = merges.iter().map(merges::merge_json).collect();
            let used = space::of_volume(control, &volume.name, volume.id).await?;
            value["space"] = space::space_json(&used);
            let work = job::of_volume(control, volume.id).await?;
            value["job"] = work.as_ref().map_or(Value::Null, job::job_json);
            let mut text = describe(&volume, &snapshots, &merges, &used);
            if volume.wipe_freed {
                let waiting = wipe_freed::waiting(&control.view().await?, &control.status().await?);
                value["unwiped"] = wipe_freed::waiting_json(&waiting);
                let _ = writeln!(text, "wipe freed  on; {}", wipe_freed::describe(&waiting));
            }
            if let Some(work) = &work {
                let _ = writeln!(text, "job         {}", job::summary(work));
            }
            Ok(Output::new(text, value))
        }
        VolumeCommand::Tree { name } => tree::run(control, name).await,
        VolumeCommand::Delete(args) => bin::delete(control, args).await,
        VolumeCommand::Extend { name, size } => {
            let volume = ask_volume(control, "volume extend", ControlRequest::VolumeExtend { name, size }).await?;
            let text = format!(
                "volume {} has {} now; clients see it when they connect again",
                volume.name,
                format_bytes(volume.size)
            );
            Ok(Output::new(text, volume_json(&volume)))
        }
        VolumeCommand::Import(args) => import::run(control, args).await,
        VolumeCommand::Export(args) => export::run(control, args).await,
        VolumeCommand::Attach(args) => attach::run(control, place, args).await,
        VolumeCommand::Detach { name, gateway } => detach::run(control, name, gateway).await,
    }
}

/// The answer to create, show and extend: some of them may only say that they are done.
pub async fn ask_volume(
    control: &Control,
    what: &'static str,
    request: ControlRequest,
) -> Result<VolumeInfo, CliError> {
    match control.ask(request).await? {
        ControlReply::Volume(volume) => Ok(volume),
        reply => Err(CliError::unexpected(what, &reply)),
    }
}

fn state_word(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Creating => "creating",
        VolumeState::Available => "available",
        VolumeState::Attached => "attached",
        VolumeState::Deleting => "deleting",
    }
}

pub fn provision_word(provision: Provision) -> &'static str {
    match provision {
        Provision::Thin => "thin",
        Provision::Lazy => "lazy",
        Provision::Eager => "eager",
    }
}

pub fn if_reserved(volume: &VolumeInfo) -> &'static str {
    match volume.provision {
        Provision::Thin => "",
        Provision::Lazy | Provision::Eager => ", all of it reserved",
    }
}

fn describe(volume: &VolumeInfo, snapshots: &[SnapshotInfo], merges: &[Merging], used: &SpaceUse) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "name        {}", volume.name);
    let _ = writeln!(text, "id          {}", volume.id);
    let _ = writeln!(text, "size        {} ({} bytes)", format_bytes(volume.size), volume.size);
    let _ = writeln!(text, "pool        {}", volume.pool_name);
    let _ = writeln!(text, "state       {}", state_word(volume.state));
    let being = if volume.is_reserving { ", being reserved" } else { "" };
    let _ = writeln!(text, "provision   {}{being}", provision_word(volume.provision));
    let _ = writeln!(text, "disk mode   {}", volume.disk_mode.word());
    text.push_str(&space::describe(used));
    let layers: Vec<String> = volume.layers.iter().map(ToString::to_string).collect();
    let _ = writeln!(text, "layers      {}", layers.join(", "));
    if let Some(origin) = volume.origin.as_deref() {
        let (layer, size) = (origin.base.layer, format_bytes(origin.base.size));
        let _ = writeln!(text, "clone of    {}, {layer}, {size}", describe_origin(origin));
    }
    if volume.clones > 0 {
        let _ = writeln!(text, "clones      {}", volume.clones);
    }
    for snapshot in snapshots {
        let _ = writeln!(text, "snapshot    {}", snapshot::describe_briefly(snapshot));
    }
    for merge in merges {
        let _ = writeln!(text, "merging     {}", merges::describe(merge));
    }
    for attachment in &volume.attachments {
        let of = attachment.name.snapshot.as_ref().map_or_else(String::new, |_| format!("{}: ", attachment.name));
        let _ = writeln!(text, "attachment  {of}{}", describe_attachment(attachment));
    }
    text
}

/// What is shown of a deleted volume is the name that it had; there may be another one of that name.
pub fn describe_origin(origin: &OriginInfo) -> String {
    let volume = &origin.volume_name;
    match (&origin.snapshot, origin.deleted) {
        (Some(snapshot), _) => format!("{volume}@{snapshot}"),
        (None, true) => format!("{volume} (deleted)"),
        (None, false) => format!("{volume} (the snapshot is deleted)"),
    }
}

pub fn describe_attachment(attachment: &AttachmentInfo) -> String {
    let mut text = format!("{} at {}, {}", attachment.id, attachment.gateway, attachment.generation);
    for (is_so, word) in
        [(attachment.shared, "shared"), (attachment.read_only, "read-only"), (attachment.active, "in use")]
    {
        if is_so {
            text.push_str(", ");
            text.push_str(word);
        }
    }
    text
}

pub fn volume_json(volume: &VolumeInfo) -> Value {
    json!({
        "id": volume.id.0,
        "name": volume.name,
        "size": volume.size,
        "pool": volume.pool_name,
        "state": state_word(volume.state),
        "provision": provision_word(volume.provision),
        "reserving": volume.is_reserving,
        "disk_mode": volume.disk_mode.word(),
        "wipe_freed": volume.wipe_freed,
        "layers": volume.layers.iter().map(|layer| layer.0).collect::<Vec<_>>(),
        "attachments": volume.attachments.iter().map(attachment_json).collect::<Vec<_>>(),
        "origin": volume.origin.as_deref().map(origin_json),
        "clones": volume.clones,
    })
}

pub fn origin_json(origin: &OriginInfo) -> Value {
    json!({
        "volume": origin.volume_name,
        "volume_id": origin.base.volume.0,
        "snapshot": origin.snapshot,
        "layer": origin.base.layer.0,
        "size": origin.base.size,
        "deleted": origin.deleted,
    })
}

pub fn attachment_json(attachment: &AttachmentInfo) -> Value {
    json!({
        "id": attachment.id.0,
        "volume": attachment.name.volume,
        "snapshot": attachment.name.snapshot,
        "gateway": attachment.gateway,
        "generation": attachment.generation.0,
        "shared": attachment.shared,
        "read_only": attachment.read_only,
        "active": attachment.active,
        "nbd_address": attachment.nbd_address,
        "nbd_socket": attachment.nbd_socket,
    })
}
