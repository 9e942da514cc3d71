//! Waits until all OSDs keep the space of a volume free, or it is known that they can't.

use crate::control::Control;
use crate::error::CliError;
use ashlar_types::control::{ControlError, ControlReply, ControlRequest, VolumeInfo, VolumeState};
use ashlar_wire_control::ControlClientError;
use std::time::Duration;
use tokio::time::Instant;

/// OSDs tell with each heartbeat.
const PAUSE: Duration = Duration::from_millis(20);

/// # Errors
/// It was made to be reserved and is gone again, since there was no room; or it takes longer than `patience`.
pub async fn wait(control: &Control, mut volume: VolumeInfo, patience: Duration) -> Result<VolumeInfo, CliError> {
    let deadline = Instant::now() + patience;
    let (name, id) = (volume.name.clone(), volume.id);
    let no_room = || CliError::NotReserved { name: name.to_string() };
    while volume.is_reserving {
        if Instant::now() >= deadline {
            return Err(CliError::StillReserving { name: name.to_string(), waited: patience });
        }
        tokio::time::sleep(PAUSE).await;
        volume = match control.ask(ControlRequest::VolumeShow { name: name.clone() }).await {
            Ok(ControlReply::Volume(volume)) if volume.id == id => volume,
            Ok(ControlReply::Volume(_)) => return Err(no_room()),
            Ok(reply) => return Err(CliError::unexpected("volume show", &reply)),
            Err(CliError::Control(ControlClientError::Refused(ControlError::NotFound { .. }))) => return Err(no_room()),
            Err(error) => return Err(error),
        };
    }
    if volume.state == VolumeState::Deleting { Err(no_room()) } else { Ok(volume) }
}
