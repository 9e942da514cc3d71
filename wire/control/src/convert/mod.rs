//! Proto messages to plain types and back. Plain to proto never fails; proto to plain checks every field that can be wrong.

mod bin;
mod error;
mod job;
mod mode;
mod perf;
mod reply;
mod request;
mod scrub;
mod snapshot;
mod space;
mod view;
mod wipe;

use ashlar_types::{ClusterId, DiskName, Name, PgId, PoolId};

use crate::proto;

/// What a peer sent is not a message of this protocol. Either side may be newer than the other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    #[error("{0} is missing, or of a kind that this program does not know")]
    Missing(&'static str),
    #[error("{field} has {found} bytes, not {expected}")]
    Length { field: &'static str, found: usize, expected: usize },
    #[error("{field}: {found} is out of range")]
    Range { field: &'static str, found: u64 },
    #[error("{field}: {source}")]
    Name { field: &'static str, source: ashlar_types::NameError },
}

fn name(field: &'static str, text: &str) -> Result<Name, ProtoError> {
    Name::new(text).map_err(|source| ProtoError::Name { field, source })
}

fn names(field: &'static str, texts: &[String]) -> Result<Vec<Name>, ProtoError> {
    texts.iter().map(|text| name(field, text)).collect()
}

fn disk_name(field: &'static str, text: &str) -> Result<DiskName, ProtoError> {
    text.parse().map_err(|source| ProtoError::Name { field, source })
}

fn byte(field: &'static str, found: u32) -> Result<u8, ProtoError> {
    u8::try_from(found).map_err(|_| ProtoError::Range { field, found: found.into() })
}

fn required<T>(field: &'static str, value: Option<T>) -> Result<T, ProtoError> {
    value.ok_or(ProtoError::Missing(field))
}

/// The identity of a cluster as `bytes`, big-endian, as it is printed.
pub fn cluster_to_bytes(cluster: ClusterId) -> Vec<u8> {
    cluster.0.to_be_bytes().to_vec()
}

pub fn cluster_from_bytes(field: &'static str, bytes: &[u8]) -> Result<ClusterId, ProtoError> {
    let wrong = |_| ProtoError::Length { field, found: bytes.len(), expected: 16 };
    bytes.try_into().map(|b| ClusterId(u128::from_be_bytes(b))).map_err(wrong)
}

fn pg_to_proto(pg: PgId) -> proto::PgId {
    proto::PgId { pool: pg.pool.0, index: pg.index }
}

fn pg_from_proto(pg: proto::PgId) -> PgId {
    PgId { pool: PoolId(pg.pool), index: pg.index }
}

fn pg_required(field: &'static str, pg: Option<proto::PgId>) -> Result<PgId, ProtoError> {
    required(field, pg).map(pg_from_proto)
}

/// Converts each element.
fn each<T, U: TryFrom<T, Error = ProtoError>>(items: Vec<T>) -> Result<Vec<U>, ProtoError> {
    items.into_iter().map(U::try_from).collect()
}
