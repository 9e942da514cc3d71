//! What is kept for clones alone: volumes that were deleted while clones stood on them, and layers whose snapshots were. No list has them; the
//! clones say where they are.

use crate::control::Control;
use crate::error::CliError;
use ashlar_types::control::{BaseLayer, ControlError, ControlReply, ControlRequest, OriginInfo, VolumeInfo};
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

#[derive(Clone, Debug, Default)]
pub struct KeptForClones {
    pub volumes: BTreeMap<VolumeId, Kept>,
    /// Stacks of volumes that are listed, top first, where no snapshot need have the top.
    pub nameless: BTreeMap<VolumeId, Vec<Vec<LayerId>>>,
}

/// What is below the volumes that are listed, however far down.
pub async fn find(control: &Control, volumes: &[VolumeInfo]) -> Result<KeptForClones, CliError> {
    let listed: BTreeSet<VolumeId> = volumes.iter().map(|volume| volume.id).collect();
    let nameless = |origin: &OriginInfo| origin.snapshot.is_none().then_some(origin.base);
    let mut waiting: Vec<BaseLayer> = volumes.iter().filter_map(|v| nameless(v.origin.as_deref()?)).collect();
    let (mut kept, mut asked) = (KeptForClones::default(), BTreeSet::new());
    while let Some(base) = waiting.pop() {
        if !asked.insert((base.volume, base.layer)) {
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
        if listed.contains(&base.volume) {
            kept.nameless.entry(base.volume).or_default().push(grant.layers);
            continue;
        }
        let name = grant.name.volume;
        let known = kept.volumes.entry(base.volume).or_insert(Kept { name, stacks: Vec::new(), base: grant.base });
        known.stacks.push(grant.layers);
        waiting.extend(grant.base);
    }
    Ok(kept)
}
