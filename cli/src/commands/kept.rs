//! Volumes that were deleted while clones stood on them. No list has them; their clones say where they are.

use crate::control::Control;
use crate::error::CliError;
use ashlar_types::control::{BaseLayer, ControlError, ControlReply, ControlRequest, VolumeInfo};
use ashlar_types::{LayerId, Name, VolumeId};
use ashlar_wire_control::ControlClientError;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
pub struct Kept {
    pub name: Name,
    /// As far as clones read there: top first.
    pub stacks: Vec<Vec<LayerId>>,
    /// Of a clone that was deleted.
    pub base: Option<BaseLayer>,
}

/// Those below the volumes that are listed, however far down.
pub async fn find(control: &Control, volumes: &[VolumeInfo]) -> Result<BTreeMap<VolumeId, Kept>, CliError> {
    let listed: BTreeSet<VolumeId> = volumes.iter().map(|volume| volume.id).collect();
    let mut waiting: Vec<BaseLayer> = volumes.iter().filter_map(|v| v.origin.as_ref()).map(|o| o.base).collect();
    let (mut kept, mut asked) = (BTreeMap::<VolumeId, Kept>::new(), BTreeSet::new());
    while let Some(base) = waiting.pop() {
        if listed.contains(&base.volume) || !asked.insert((base.volume, base.layer)) {
            continue;
        }
        let request = ControlRequest::BaseGrant { volume: base.volume, layer: base.layer };
        let grant = match control.ask(request).await {
            Ok(ControlReply::Opened(grant)) => grant,
            Ok(reply) => return Err(CliError::unexpected("a frozen layer", &reply)),
            // Its last clone has gone since they were listed.
            Err(CliError::Control(ControlClientError::Refused(ControlError::NotFound { .. }))) => continue,
            Err(error) => return Err(error),
        };
        let name = grant.name.volume;
        let known = kept.entry(base.volume).or_insert(Kept { name, stacks: Vec::new(), base: grant.base });
        known.stacks.push(grant.layers);
        waiting.extend(grant.base);
    }
    Ok(kept)
}
