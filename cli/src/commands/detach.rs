//! `ashlar volume detach`: takes a volume from its gateways, and returns when none of them can write to it any more.

use crate::control::Control;
use crate::error::CliError;
use crate::output::Output;
use ashlar_types::control::{ControlReply, ControlRequest};
use ashlar_types::{Name, VolumeId};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// Every PG of the pool passes the barrier, which may first have to replace a primary that died.
const PATIENCE: Duration = Duration::from_secs(60);
/// Barriers take milliseconds.
const PAUSE: Duration = Duration::from_millis(10);

pub async fn run(control: &Control, name: Name, gateway: Option<String>) -> Result<Output, CliError> {
    let volume = match control.ask(ControlRequest::VolumeShow { name: name.clone() }).await? {
        ControlReply::Volume(volume) => volume.id,
        reply => return Err(CliError::unexpected("volume show", &reply)),
    };
    control.ask(ControlRequest::Detach { name: name.clone(), gateway }).await?;
    wait_until_fenced(control, &name, volume).await?;
    Ok(Output::new(format!("volume {name} detached"), json!({ "name": name, "detached": true })))
}

/// The answer says that the floor has risen; OSDs refuse what lies below it once they have passed the barrier that carries it.
/// Until then a gateway that lives may still write.
async fn wait_until_fenced(control: &Control, name: &Name, volume: VolumeId) -> Result<(), CliError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let view = control.view().await?;
        let Some(barrier) = view.barriers.iter().find(|barrier| barrier.volume == volume) else { return Ok(()) };
        if Instant::now() >= deadline {
            let pgs = barrier.pgs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(CliError::NotFenced { name: name.to_string(), waited: PATIENCE, pgs });
        }
        tokio::time::sleep(PAUSE).await;
    }
}
