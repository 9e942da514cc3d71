//! What every structure begins with: 40 bytes.

use super::codec::{Reader, u32_at, u64_at};
use super::{FORMAT_VERSION, FormatError, Identity};
use ashlar_types::{ClusterId, Crc, OsdId};

/// Offsets of the prefix: magic u64, version u32, CRC u32, cluster u128, OSD u32, reserved u32.
pub const PREFIX_BYTES: usize = 40;
pub(super) const VERSION_AT: usize = 8;
pub(super) const CRC_AT: usize = 12;
pub(super) const CLUSTER_AT: usize = 16;
pub(super) const OSD_AT: usize = 32;
const RESERVED_AT: usize = 36;

/// Fills in the prefix of a structure whose other bytes are final.
pub fn seal(bytes: &mut [u8], magic: u64, identity: Identity) -> Crc {
    assert!(bytes.len() >= PREFIX_BYTES, "F1");
    bytes[..VERSION_AT].copy_from_slice(&magic.to_le_bytes());
    bytes[VERSION_AT..CRC_AT].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[CLUSTER_AT..OSD_AT].copy_from_slice(&identity.cluster.0.to_le_bytes());
    bytes[OSD_AT..RESERVED_AT].copy_from_slice(&identity.osd.0.to_le_bytes());
    bytes[RESERVED_AT..PREFIX_BYTES].fill(0);
    let crc = calculate(bytes);
    bytes[CRC_AT..CLUSTER_AT].copy_from_slice(&crc.0.to_le_bytes());
    crc
}

/// Checks the prefix and the checksum of a whole structure. Says "foreign" only of what is undamaged.
pub(super) fn open(bytes: &[u8], magic: u64, identity: Identity) -> Result<Crc, FormatError> {
    let crc = open_any(bytes, magic)?;
    let found = owner(bytes)?;
    if found != identity {
        return Err(FormatError::Foreign { cluster: found.cluster, osd: found.osd });
    }
    Ok(crc)
}

/// As [`open`], whoever wrote it.
pub(super) fn open_any(bytes: &[u8], magic: u64) -> Result<Crc, FormatError> {
    if bytes.len() < PREFIX_BYTES {
        return Err(FormatError::Short { need: PREFIX_BYTES, have: bytes.len() });
    }
    let found_magic = u64_at(bytes, 0);
    if found_magic != magic {
        return Err(FormatError::Magic { expected: magic, found: found_magic });
    }
    let (found, calculated) = (Crc(u32_at(bytes, CRC_AT)), calculate(bytes));
    if found != calculated {
        return Err(FormatError::Checksum { found, calculated });
    }
    let version = u32_at(bytes, VERSION_AT);
    if version != FORMAT_VERSION {
        return Err(FormatError::Version { found: version });
    }
    if u32_at(bytes, RESERVED_AT) != 0 {
        return Err(FormatError::Reserved);
    }
    Ok(found)
}

/// Who wrote a structure.
pub(super) fn owner(bytes: &[u8]) -> Result<Identity, FormatError> {
    let mut reader = Reader::new(bytes.get(CLUSTER_AT..).unwrap_or(&[]));
    Ok(Identity { cluster: ClusterId(reader.u128()?), osd: OsdId(reader.u32()?) })
}

fn calculate(bytes: &[u8]) -> Crc {
    Crc::of(&bytes[..CRC_AT]).append(&[0; 4]).append(&bytes[CLUSTER_AT..])
}
