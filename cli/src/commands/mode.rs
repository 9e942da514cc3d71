//! Disk modes: what becomes of what is written to a volume, and whether snapshot groups take it along.

use super::{barrier, reserve};
use crate::control::Control;
use crate::error::CliError;
use ashlar_types::Name;
use ashlar_types::control::{ControlReply, ControlRequest, DiskMode, Provision, VolumeInfo};
use std::time::Duration;

/// As many as the metadata service sets at once.
const VOLUMES_PER_REQUEST: usize = 64;

/// Before a volume is made.
pub fn check(provision: Provision, mode: DiskMode) -> Result<(), CliError> {
    if provision == Provision::Eager && mode == DiskMode::IndependentNonpersistent {
        let what =
            format!("a volume that is {} can't be eager: zeroes would be dropped as all that is written", mode.word());
        return Err(CliError::Conflict { what });
    }
    Ok(())
}

/// Returns when nothing that is still on its way can come into what the volume falls back to.
pub async fn set(
    control: &Control,
    volume: VolumeInfo,
    mode: DiskMode,
    patience: Duration,
) -> Result<VolumeInfo, CliError> {
    let (name, id, was) = (volume.name, volume.id, volume.provision);
    let mut volumes = ask(control, vec![name.clone()], mode).await?;
    let Some(volume) = volumes.pop().filter(|volume| volume.id == id) else {
        return Err(CliError::unexpected("volume set", &ControlReply::Volumes(volumes)));
    };
    barrier::wait_until_passed(control, &name.clone().into(), id, "given another mode").await?;
    let volume = reserve::wait(control, volume, patience).await?;
    if was != Provision::Thin && volume.provision == Provision::Thin {
        let done = format!("volume {name} is {} now", volume.disk_mode.word());
        return Err(CliError::BecameThin { name: name.to_string(), done });
    }
    Ok(volume)
}

/// Of a volume that was just made, in the mode that all are made in.
pub async fn set_new(
    control: &Control,
    volume: VolumeInfo,
    mode: DiskMode,
    patience: Duration,
) -> Result<VolumeInfo, CliError> {
    if volume.disk_mode == mode {
        return Ok(volume);
    }
    let (made, name) = (format!("volume {} is made", volume.name), volume.name.to_string());
    set(control, volume, mode, patience).await.map_err(|error| not_set(made, name, mode, error))
}

/// The same of clones, to which nobody has written: so there is nothing to wait for.
pub async fn set_clones(
    control: &Control,
    clones: Vec<VolumeInfo>,
    mode: DiskMode,
) -> Result<Vec<VolumeInfo>, CliError> {
    if mode == DiskMode::Dependent {
        return Ok(clones);
    }
    let mut volumes = Vec::with_capacity(clones.len());
    for some in clones.chunks(VOLUMES_PER_REQUEST) {
        let names: Vec<Name> = some.iter().map(|volume| volume.name.clone()).collect();
        match ask(control, names, mode).await {
            Ok(set) => volumes.extend(set),
            Err(error) => {
                let made = format!("of {} clones that are made {} are {}", clones.len(), volumes.len(), mode.word());
                return Err(not_set(made, some[0].name.to_string(), mode, error));
            }
        }
    }
    Ok(volumes)
}

fn not_set(made: String, name: String, mode: DiskMode, error: CliError) -> CliError {
    CliError::ModeNotSet { made, name, mode: mode.word(), source: Box::new(error) }
}

async fn ask(control: &Control, names: Vec<Name>, mode: DiskMode) -> Result<Vec<VolumeInfo>, CliError> {
    let count = names.len();
    match control.ask(ControlRequest::VolumeSetMode { names, mode }).await? {
        ControlReply::Volumes(volumes) if volumes.len() == count => Ok(volumes),
        reply => Err(CliError::unexpected("volume set", &reply)),
    }
}
