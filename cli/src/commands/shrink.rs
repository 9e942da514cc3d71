//! `ashlar volume set --shrink` of a volume that a gateway has: that one shrinks it, by a job.

use super::job;
use super::volume::ask_volume;
use crate::args::JobArgs;
use crate::control::Control;
use crate::error::CliError;
use crate::transfer::Disk;
use ashlar_types::control::{ControlRequest, VolumeInfo};
use ashlar_types::job::{JobInfo, JobState};

/// By somebody else than a command that was interrupted while it shrank the volume, which goes on when it is given again.
pub fn is_in_use(volume: &VolumeInfo) -> bool {
    let own = Disk::gateway_name("shrink", &volume.name.clone().into());
    let mut holders = volume.attachments.iter().filter(|attachment| attachment.name.snapshot.is_none());
    holders.any(|attachment| attachment.gateway != own)
}

/// The volume with its new size; or, where that isn't waited for, as it is, and the job.
pub async fn run(
    control: &Control,
    volume: &VolumeInfo,
    size: u64,
    force: bool,
    how: JobArgs,
) -> Result<(VolumeInfo, Option<JobInfo>), CliError> {
    let name = volume.name.clone();
    let begun = job::ask(control, ControlRequest::ShrinkStart { name: name.clone(), size, force }).await?;
    if how.no_wait {
        return Ok((volume.clone(), Some(begun)));
    }
    let id = begun.id;
    // A rate is of what is written, and was refused.
    let ended = job::attend(control, begun, JobArgs { rate: None, no_wait: false }).await?;
    if let Some(failed) = ended.filter(|job| job.state == JobState::Failed) {
        let what = failed.trouble.unwrap_or_else(|| format!("volume {name} keeps its size"));
        return Err(CliError::Conflict { what });
    }
    let now = ask_volume(control, "volume show", ControlRequest::VolumeShow { name: name.clone() }).await?;
    match now.id == volume.id && now.size == size {
        true => Ok((now, None)),
        false => Err(CliError::ShrinkGivenUp { job: id, volume: name }),
    }
}
