//! `ashlar volume detach`: takes a volume or a snapshot from its gateways, and returns when none of them can write to it any more.

use super::barrier;
use crate::control::Control;
use crate::error::CliError;
use crate::output::Output;
use ashlar_types::DiskName;
use ashlar_types::control::{ControlReply, ControlRequest};
use serde_json::json;

pub async fn run(control: &Control, name: DiskName, gateway: Option<String>) -> Result<Output, CliError> {
    let volume = match control.ask(ControlRequest::VolumeShow { name: name.volume.clone() }).await? {
        ControlReply::Volume(volume) => volume.id,
        reply => return Err(CliError::unexpected("volume show", &reply)),
    };
    control.ask(ControlRequest::Detach { name: name.clone(), gateway }).await?;
    barrier::wait_until_passed(control, &name, volume, "detached").await?;
    let kind = if name.snapshot.is_some() { "snapshot" } else { "volume" };
    Ok(Output::new(format!("{kind} {name} detached"), json!({ "name": name.to_string(), "detached": true })))
}
