//! `ashlar_types::control::ControlError`: typed on the network too, so that callers decide by kind, never by text.

use super::{ProtoError, pg_required, pg_to_proto, required};
use crate::proto;
use crate::proto::control_error::Error as Kind;
use ashlar_types::Epoch;
use ashlar_types::control::ControlError;

impl From<ControlError> for proto::ControlError {
    fn from(error: ControlError) -> Self {
        use ControlError as E;
        let kind = match error {
            E::NotFound { what, name } => Kind::NotFound(proto::NotFound { what, name }),
            E::Exists { what, name } => Kind::Exists(proto::Exists { what, name }),
            E::Invalid(text) => Kind::Invalid(proto::Invalid { text }),
            E::Attached { name, holder } => Kind::Attached(proto::Attached { name, holder }),
            E::Fencing { waiting_for } => Kind::Fencing(proto::Fencing { waiting_for }),
            E::WrongEpoch { pg, request, current } => Kind::WrongEpoch(proto::WrongEpoch {
                pg: Some(pg_to_proto(pg)),
                request: request.0,
                current: current.0,
            }),
            E::NotLeader { leader } => Kind::NotLeader(proto::NotLeader { leader }),
            E::Undecided => Kind::Undecided(proto::Nothing {}),
            E::Busy => Kind::Busy(proto::Nothing {}),
        };
        proto::ControlError { error: Some(kind) }
    }
}

impl TryFrom<proto::ControlError> for ControlError {
    type Error = ProtoError;
    fn try_from(error: proto::ControlError) -> Result<Self, ProtoError> {
        use ControlError as E;
        Ok(match required("ControlError.error", error.error)? {
            Kind::NotFound(e) => E::NotFound { what: e.what, name: e.name },
            Kind::Exists(e) => E::Exists { what: e.what, name: e.name },
            Kind::Invalid(e) => E::Invalid(e.text),
            Kind::Attached(e) => E::Attached { name: e.name, holder: e.holder },
            Kind::Fencing(e) => E::Fencing { waiting_for: e.waiting_for },
            Kind::WrongEpoch(e) => E::WrongEpoch {
                pg: pg_required("WrongEpoch.pg", e.pg)?,
                request: Epoch(e.request),
                current: Epoch(e.current),
            },
            Kind::NotLeader(e) => E::NotLeader { leader: e.leader },
            Kind::Undecided(_) => E::Undecided,
            Kind::Busy(_) => E::Busy,
        })
    }
}
