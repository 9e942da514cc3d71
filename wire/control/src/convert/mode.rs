//! Disk modes, of `ashlar_types::control`.

use super::ProtoError;
use crate::proto;
use ashlar_types::control::DiskMode;

/// What only a newer version knows is refused: taken for dependent it would keep what is not to be kept.
pub(super) fn disk_mode(field: &'static str, value: i32) -> Result<DiskMode, ProtoError> {
    match proto::DiskMode::try_from(value) {
        Ok(proto::DiskMode::Dependent) => Ok(DiskMode::Dependent),
        Ok(proto::DiskMode::IndependentPersistent) => Ok(DiskMode::IndependentPersistent),
        Ok(proto::DiskMode::IndependentNonpersistent) => Ok(DiskMode::IndependentNonpersistent),
        Err(_) => Err(ProtoError::Range { field, found: u64::from(value.unsigned_abs()) }),
    }
}

impl From<DiskMode> for proto::DiskMode {
    fn from(mode: DiskMode) -> Self {
        match mode {
            DiskMode::Dependent => proto::DiskMode::Dependent,
            DiskMode::IndependentPersistent => proto::DiskMode::IndependentPersistent,
            DiskMode::IndependentNonpersistent => proto::DiskMode::IndependentNonpersistent,
        }
    }
}
