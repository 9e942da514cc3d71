//! Waits until a volume's floor holds everywhere: then nobody whom it fences can write any more, and who was given the volume has it.

use crate::control::Control;
use crate::error::CliError;
use crate::health::name_some;
use ashlar_types::{DiskName, VolumeId};
use std::time::Duration;
use tokio::time::Instant;

/// Every PG of the pool passes the barrier, which may first have to replace a primary that died.
const PATIENCE: Duration = Duration::from_secs(60);
/// Barriers take milliseconds.
const PAUSE: Duration = Duration::from_millis(10);

/// The answer to a request says that the floor has risen; OSDs refuse what lies below it once they have passed the barrier that
/// carries it. Until then a gateway that lives may still write. `done` says what was asked for, for the error.
pub async fn wait_until_passed(
    control: &Control,
    name: &DiskName,
    volume: VolumeId,
    done: &'static str,
) -> Result<(), CliError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Some(pgs) = pending(control, volume).await? else { return Ok(()) };
        if Instant::now() >= deadline {
            return Err(CliError::NotFenced { name: name.to_string(), done, waited: PATIENCE, pgs });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The PGs that have not passed the volume's barrier; `None` when all have.
pub async fn pending(control: &Control, volume: VolumeId) -> Result<Option<String>, CliError> {
    let view = control.view().await?;
    let barrier = view.barriers.iter().find(|barrier| barrier.volume == volume);
    Ok(barrier.map(|barrier| name_some(barrier.pgs.iter().copied())))
}
