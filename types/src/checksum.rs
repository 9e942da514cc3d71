//! CRC32C (Castagnoli), the checksum of every block, frame and disk structure.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The CRC32C of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Crc(pub u32);

impl Crc {
    pub fn of(bytes: &[u8]) -> Crc {
        Crc(crc32c::crc32c(bytes))
    }

    /// The CRC of what this is the CRC of, followed by `bytes`.
    pub fn append(self, bytes: &[u8]) -> Crc {
        Crc(crc32c::crc32c_append(self.0, bytes))
    }
}

impl fmt::Display for Crc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Crc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::Crc;

    #[test]
    fn known_answer_of_rfc_3720_appendix_b4() {
        assert_eq!(Crc::of(&[0u8; 32]), Crc(0x8a91_36aa));
        assert_eq!(Crc::of(b"1234").append(b"56789"), Crc(0xe306_9283));
    }
}
