//! Epochs of placement groups and versions of chunks (design.md §5).

use serde::{Deserialize, Serialize};
use std::fmt;

/// The number of a PG's configuration. Only the metadata service raises it (R2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The last epoch that an index entry can hold (20 bits of its 48-bit version). The metadata service refuses to go on.
    pub const MAX: Epoch = Epoch((1 << 20) - 1);

    /// # Panics
    /// At [`Epoch::MAX`]; the metadata service checks first.
    pub fn next(self) -> Epoch {
        assert!(self < Epoch::MAX, "epoch numbers are used up");
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The number of a write to one chunk in one epoch, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u32);

impl Seq {
    /// The last number that an index entry can hold (28 bits). A primary asks for a new epoch long before.
    pub const MAX: Seq = Seq((1 << 28) - 1);
}

/// The version of a chunk: the epoch in which it was written and its number there. Versions of one chunk form a chain in
/// which each write names the one before (R9); they rise along it. [`Version::NONE`] is a chunk never written.
///
/// Kept as one integer, epoch in the upper half, so that the order of integers is the order of versions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(u64);

impl Version {
    pub const NONE: Version = Version(0);

    pub fn new(epoch: Epoch, seq: Seq) -> Version {
        Version(u64::from(epoch.0) << 32 | u64::from(seq.0))
    }

    pub fn epoch(self) -> Epoch {
        Epoch((self.0 >> 32) as u32)
    }

    pub fn seq(self) -> Seq {
        Seq((self.0 & 0xffff_ffff) as u32)
    }

    pub fn to_bits(self) -> u64 {
        self.0
    }

    pub fn from_bits(bits: u64) -> Version {
        Version(bits)
    }

    /// The version of the next write to this chunk in `epoch`, or `None` when the numbers of this epoch are used up.
    pub fn successor(self, epoch: Epoch) -> Option<Version> {
        assert!(epoch >= self.epoch(), "R3: a write in an epoch older than its chunk's");
        if epoch > self.epoch() {
            return Some(Version::new(epoch, Seq(1)));
        }
        (self.seq() < Seq::MAX).then(|| Version(self.0 + 1))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}", self.epoch().0, self.seq().0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
