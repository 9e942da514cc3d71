//! Planted bugs of the metadata service. Its core has no policy that could be another one: they lie between it and who asks it.

use ashlar_types::Name;
use ashlar_types::control::{AttachMode, ControlRequest};
use std::collections::BTreeMap;

/// `Plant::ScratchKept`: who takes a volume over from another gateway is taken for another process of that one. It is fenced as it should be, but
/// its attachment doesn't end, and what was written to a non-persistent volume stays.
#[derive(Debug, Default)]
pub struct MistakenGateways {
    holders: BTreeMap<Name, String>,
    taken_for: BTreeMap<String, String>,
}

impl MistakenGateways {
    pub fn mistake(&mut self, request: &mut ControlRequest) {
        match request {
            ControlRequest::Attach { name, gateway, mode, .. } if name.snapshot.is_none() => {
                match self.holders.get(&name.volume) {
                    Some(holder) if *mode == AttachMode::Force => {
                        self.taken_for.insert(std::mem::replace(gateway, holder.clone()), holder.clone());
                    }
                    _ => drop(self.holders.insert(name.volume.clone(), gateway.clone())),
                }
            }
            ControlRequest::OpenAttachment { gateway, .. } => {
                if let Some(holder) = self.taken_for.get(gateway) {
                    gateway.clone_from(holder);
                }
            }
            ControlRequest::Detach { name, .. } if name.snapshot.is_none() => drop(self.holders.remove(&name.volume)),
            _ => {}
        }
    }
}
