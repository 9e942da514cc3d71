//! `ashlar volume flatten`.

use super::job;
use super::volume::{ask_volume, describe_origin, volume_json};
use crate::args::FlattenArgs;
use crate::control::Control;
use crate::error::CliError;
use crate::output::Output;
use ashlar_types::control::ControlRequest;

pub async fn run(control: &Control, args: FlattenArgs) -> Result<Output, CliError> {
    let FlattenArgs { name, job: how } = args;
    let show = || ControlRequest::VolumeShow { name: name.clone() };
    let before = ask_volume(control, "volume show", show()).await?;
    let begun = job::ask(control, ControlRequest::VolumeFlatten { name: name.clone(), rate: how.rate }).await?;
    if how.no_wait {
        job::attend(control, begun.clone(), how).await?;
        return Ok(Output::new(format!("volume {name} is being flattened by {}", begun.id), job::job_json(&begun)));
    }
    let id = begun.id;
    job::attend(control, begun, how).await?;
    let volume = ask_volume(control, "volume show", show()).await?;
    if volume.id != before.id || volume.origin.is_some() {
        return Err(CliError::JobGivenUp { job: id, volume: name });
    }
    let stood_on =
        before.origin.as_deref().map_or_else(String::new, |origin| format!(" of {}", describe_origin(origin)));
    Ok(Output::new(format!("volume {name} is flattened: no clone{stood_on} any more"), volume_json(&volume)))
}
