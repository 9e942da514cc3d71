//! Scrubs as the metadata service keeps them: a wish for each PG that is to be scrubbed, and what its last scrubs found.

use crate::{Name, OsdId, PgId};
use serde::{Deserialize, Serialize};

/// Which PGs a request for a scrub means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScrubTarget {
    All,
    Pool(Name),
    /// PGs that keep a copy on this OSD.
    Osd(OsdId),
    Pgs(Vec<PgId>),
}

/// Somebody wants a PG scrubbed. Stays until its primary reports a scrub of this number or a later one, whoever is primary then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubWish {
    /// Rises with each request.
    pub number: u64,
    /// Read and verify the medium of every copy too.
    pub deep: bool,
}

/// What one scrub of a PG found. Every chunk that the PG had when it began was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// The wish that it fulfils.
    pub number: u64,
    pub deep: bool,
    /// When it ended, in seconds since 1970 by its primary's clock.
    pub ended_at: u64,
    /// Copies that were compared: the in-sync members.
    pub copies: u8,
    pub chunks: u64,
    /// Chunks whose copies said different things of the same version.
    pub mismatches: u64,
    /// Blocks whose medium or checksum failed, over all copies.
    pub bad_blocks: u64,
    /// How many of them were good when they were read again.
    pub repaired_blocks: u64,
}

impl ScrubReport {
    pub fn unrepaired_blocks(&self) -> u64 {
        self.bad_blocks.saturating_sub(self.repaired_blocks)
    }

    pub fn is_clean(&self) -> bool {
        self.mismatches == 0 && self.unrepaired_blocks() == 0
    }
}

/// Everything about the scrubs of one PG.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PgScrub {
    pub wish: Option<ScrubWish>,
    /// The last one that was reported.
    pub last: Option<ScrubReport>,
    pub last_deep: Option<ScrubReport>,
}

impl PgScrub {
    /// The highest wish that was fulfilled; 0 before the first.
    pub fn done(&self) -> u64 {
        self.last.map_or(0, |report| report.number)
    }

    /// Chunks whose copies differ, as far as the last scrub knows.
    pub fn mismatches(&self) -> u64 {
        self.last.map_or(0, |report| report.mismatches)
    }

    /// Damaged blocks that are left, as far as the last deep scrub knows: others don't read the medium.
    pub fn unrepaired_blocks(&self) -> u64 {
        self.last_deep.map_or(0, |report| report.unrepaired_blocks())
    }
}
