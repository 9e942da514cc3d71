//! Bytes of log entries and snapshots: an envelope {magic, version, CRC32C of the rest} around postcard.
//! Versioned by the envelope: a change of any type inside is a new version here, and the golden bytes of the old one stay
//! readable. See conventions §3.

mod command_v2;
mod command_v3;
mod command_v4;
mod snapshot_v1;
mod snapshot_v2;
mod snapshot_v3;
mod snapshot_v4;
mod snapshot_v5;
mod snapshot_v6;

use super::{ClusterState, Command};
use serde::Serialize;
use serde::de::DeserializeOwned;

const COMMAND_MAGIC: [u8; 2] = *b"AC";
/// 2: scrubs. Requests were added behind those of version 1, whose bytes mean the same. 3: snapshots, and names of disks.
/// 4: clones, and snapshots that are deleted. 5: snapshot groups, reservations, and limits of pools. 6: jobs and the bin, 7: wipes and disk modes,
/// both behind what there was, whose bytes mean the same. 8: volumes that wipe as they free, likewise.
const COMMAND_VERSION: u16 = 8;
const SNAPSHOT_MAGIC: [u8; 2] = *b"AS";
/// 2: layers are a tree, and snapshots. 3: clones, deleted volumes that are kept for them, and merges. 4: snapshot groups,
/// reservations, and limits of pools. 5: jobs, and the bin. 6: wipes and disk modes. 7: volumes that wipe as they free.
const SNAPSHOT_VERSION: u16 = 7;
/// magic (2), version (2, LE), CRC32C of the payload (4, LE).
const ENVELOPE_BYTES: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("{what}: {len} bytes are too few")]
    Short { what: &'static str, len: usize },
    #[error("{what}: does not begin with its magic")]
    Magic { what: &'static str },
    #[error("{what}: format version {found} is not known here; this program knows {known}. Use a newer one")]
    Version { what: &'static str, found: u16, known: u16 },
    #[error("{what}: checksum {found:08x}, expected {expected:08x}")]
    Checksum { what: &'static str, expected: u32, found: u32 },
    #[error("{what}: checksum is right but the contents are not readable: {source}")]
    Contents { what: &'static str, source: postcard::Error },
    #[error("{what}: checksum is right but the contents contradict themselves")]
    Contradiction { what: &'static str },
}

impl Command {
    pub fn encode(&self) -> Vec<u8> {
        seal(COMMAND_MAGIC, COMMAND_VERSION, self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Command, FormatError> {
        let what = "log entry";
        match open(what, COMMAND_MAGIC, COMMAND_VERSION, bytes)? {
            (1 | 2, payload) => Ok(contents::<command_v2::CommandV2>(what, payload)?.into()),
            (3, payload) => Ok(contents::<command_v3::CommandV3>(what, payload)?.into()),
            (4, payload) => Ok(contents::<command_v4::CommandV4>(what, payload)?.into()),
            (_, payload) => contents(what, payload),
        }
    }
}

impl ClusterState {
    /// The whole state, for a Raft snapshot.
    pub fn encode(&self) -> Vec<u8> {
        seal(SNAPSHOT_MAGIC, SNAPSHOT_VERSION, self)
    }

    pub fn decode(bytes: &[u8]) -> Result<ClusterState, FormatError> {
        let what = "snapshot";
        match open(what, SNAPSHOT_MAGIC, SNAPSHOT_VERSION, bytes)? {
            (1, payload) => snapshot_v1::upgrade(contents(what, payload)?).ok_or(FormatError::Contradiction { what }),
            (2, payload) => Ok(contents::<snapshot_v2::StateV2>(what, payload)?.into()),
            (3, payload) => Ok(contents::<snapshot_v3::StateV3>(what, payload)?.into()),
            (4, payload) => Ok(contents::<snapshot_v4::StateV4>(what, payload)?.into()),
            (5, payload) => Ok(contents::<snapshot_v5::StateV5>(what, payload)?.into()),
            (6, payload) => Ok(contents::<snapshot_v6::StateV6>(what, payload)?.into()),
            (_, payload) => contents(what, payload),
        }
    }
}

fn seal(magic: [u8; 2], version: u16, value: &impl Serialize) -> Vec<u8> {
    let payload = postcard::to_stdvec(value).expect("maps, strings and numbers in memory always encode");
    let mut bytes = Vec::with_capacity(ENVELOPE_BYTES + payload.len());
    bytes.extend_from_slice(&magic);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
    bytes.extend_from_slice(&payload);
    bytes
}

/// The version, which is known, and the payload, which is whole.
fn open<'a>(what: &'static str, magic: [u8; 2], known: u16, bytes: &'a [u8]) -> Result<(u16, &'a [u8]), FormatError> {
    let Some(([m0, m1, v0, v1, c0, c1, c2, c3], payload)) = bytes.split_first_chunk::<ENVELOPE_BYTES>() else {
        return Err(FormatError::Short { what, len: bytes.len() });
    };
    if [*m0, *m1] != magic {
        return Err(FormatError::Magic { what });
    }
    let version = u16::from_le_bytes([*v0, *v1]);
    if !(1..=known).contains(&version) {
        return Err(FormatError::Version { what, found: version, known });
    }
    let expected = u32::from_le_bytes([*c0, *c1, *c2, *c3]);
    let found = crc32c::crc32c(payload);
    if found != expected {
        return Err(FormatError::Checksum { what, expected, found });
    }
    Ok((version, payload))
}

fn contents<T: DeserializeOwned>(what: &'static str, payload: &[u8]) -> Result<T, FormatError> {
    postcard::from_bytes(payload).map_err(|source| FormatError::Contents { what, source })
}
