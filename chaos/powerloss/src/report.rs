//! Figures by which a test proves that its power losses lost something.

use std::fmt;

/// Counts since the file system was made, over all mounts and losses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub reads: u64,
    pub writes: u64,
    pub bytes_written: u64,
    /// Writes with O_SYNC, O_DSYNC or RWF_DSYNC.
    pub synced_writes: u64,
    /// fsync and fdatasync of files.
    pub file_syncs: u64,
    pub directory_syncs: u64,
    /// Creates, links, unlinks, renames.
    pub directory_ops: u64,
    pub losses: u64,
    /// Bytes over all losses; see [`LossReport::lost_bytes`].
    pub lost_bytes: u64,
    pub lost_directory_ops: u64,
}

/// What is at stake right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsynced {
    pub files: u64,
    /// In whole sectors.
    pub bytes: u64,
    pub directory_ops: u64,
}

/// What one power loss did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossReport {
    pub seed: u64,
    /// What was at stake.
    pub unsynced: Unsynced,
    /// Unsynced writes that survived whole, vanished, and survived in part (by lot: a part may be all or nothing).
    pub writes_kept: u64,
    pub writes_dropped: u64,
    pub writes_torn: u64,
    /// Bytes, in whole sectors, that differ from what processes saw before the loss.
    pub lost_bytes: u64,
    pub lost_directory_ops: u64,
    /// Inodes that had a name and have none any more.
    pub lost_inodes: u64,
}

impl LossReport {
    /// Whether anything at all was lost.
    pub fn has_lost(&self) -> bool {
        self.lost_bytes > 0 || self.lost_directory_ops > 0
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "reads={} writes={} bytes_written={} synced_writes={} file_syncs={} directory_syncs={} directory_ops={} \
             losses={} lost_bytes={} lost_directory_ops={}",
            self.reads,
            self.writes,
            self.bytes_written,
            self.synced_writes,
            self.file_syncs,
            self.directory_syncs,
            self.directory_ops,
            self.losses,
            self.lost_bytes,
            self.lost_directory_ops
        )
    }
}

impl fmt::Display for Unsynced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "unsynced_files={} unsynced_bytes={} unsynced_directory_ops={}",
            self.files, self.bytes, self.directory_ops
        )
    }
}

impl fmt::Display for LossReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed={} {} writes_kept={} writes_dropped={} writes_torn={} lost_bytes={} lost_directory_ops={} \
             lost_inodes={}",
            self.seed,
            self.unsynced,
            self.writes_kept,
            self.writes_dropped,
            self.writes_torn,
            self.lost_bytes,
            self.lost_directory_ops,
            self.lost_inodes
        )
    }
}
