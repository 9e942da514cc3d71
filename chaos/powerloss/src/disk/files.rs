//! The disk's file requests: reading, writing, sizes, syncs.

use super::{Body, Disk, NewFileEntry};
use crate::content::{Content, PAGE_BYTES, SECTOR_BYTES};
use crate::error::FsError;
use std::time::SystemTime;

/// The largest file, as everywhere on Linux.
const SIZE_MAX: u64 = i64::MAX as u64;

/// How a write was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WriteMode {
    /// O_DIRECT: refused where a disk would refuse it.
    pub direct: bool,
    /// O_DSYNC, O_SYNC or their per-request forms.
    pub synced: bool,
}

/// What fallocate(2) asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preallocate {
    /// Space only. There is nothing to do: no write here fails for want of contiguous space.
    Reserve {
        grow: bool,
    },
    PunchHole,
    ZeroRange {
        grow: bool,
    },
}

impl Disk {
    pub(crate) fn read(
        &mut self,
        era: u64,
        inode: u64,
        offset: u64,
        len: usize,
        direct: bool,
    ) -> Result<Vec<u8>, FsError> {
        self.check_open(era)?;
        if direct {
            check_aligned(offset, len)?;
        }
        self.stats.reads += 1;
        Ok(self.content(inode)?.read(offset, len))
    }

    pub(crate) fn write(
        &mut self,
        era: u64,
        inode: u64,
        offset: u64,
        data: &[u8],
        mode: WriteMode,
    ) -> Result<(), FsError> {
        self.check_open(era)?;
        if mode.direct {
            check_aligned(offset, data.len())?;
        }
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > SIZE_MAX) {
            return Err(FsError::TooLarge);
        }
        self.check_space(inode, offset, data.len() as u64)?;
        let number = self.begin_change()?;
        let honoured = self.sync_honoured;
        self.change_content(inode, |content| {
            content.write(number, offset, data);
            if mode.synced && honoured {
                content.sync_range(offset, data.len() as u64);
            }
        })?;
        self.stats.writes += 1;
        self.stats.bytes_written += data.len() as u64;
        if mode.synced {
            self.stats.synced_writes += 1;
            if honoured {
                self.commit_entry_of(inode, true);
            }
        }
        Ok(())
    }

    pub(crate) fn truncate(&mut self, era: u64, inode: u64, size: u64) -> Result<(), FsError> {
        self.check_open(era)?;
        if size > SIZE_MAX {
            return Err(FsError::TooLarge);
        }
        self.content(inode)?;
        let number = self.begin_change()?;
        self.change_content(inode, |content| content.truncate(number, size))
    }

    pub(crate) fn preallocate(
        &mut self,
        era: u64,
        inode: u64,
        offset: u64,
        len: u64,
        what: Preallocate,
    ) -> Result<(), FsError> {
        self.check_open(era)?;
        let end = offset.checked_add(len).filter(|&end| end <= SIZE_MAX).ok_or(FsError::TooLarge)?;
        if len == 0 {
            return Err(FsError::Invalid);
        }
        if end > self.options.capacity_bytes.max(self.content(inode)?.size()) {
            return Err(FsError::NoSpace);
        }
        let number = self.begin_change()?;
        self.change_content(inode, |content| {
            if !matches!(what, Preallocate::Reserve { .. }) {
                content.zero(number, offset, len);
            }
            if matches!(what, Preallocate::Reserve { grow: true } | Preallocate::ZeroRange { grow: true }) {
                content.grow(number, end);
            }
        })
    }

    /// fsync, or fdatasync if `data_only`.
    pub(crate) fn sync_file(&mut self, era: u64, inode: u64, data_only: bool) -> Result<(), FsError> {
        self.check_open(era)?;
        self.content(inode)?;
        self.begin_change()?;
        self.stats.file_syncs += 1;
        if self.sync_honoured {
            self.change_content_silently(inode, Content::sync)?;
            self.commit_entry_of(inode, data_only);
        }
        Ok(())
    }

    /// Makes durable what a sync of a file takes along of its directory entries. `data_only`: its creation, nothing else.
    fn commit_entry_of(&mut self, inode: u64, data_only: bool) {
        if self.options.new_file_entry == NewFileEntry::WithFile {
            self.commit(|op| if data_only { op.creates == Some(inode) } else { op.inodes.contains(&inode) });
        }
    }

    /// A file handle works only in the era it was opened in: no process survives a power loss.
    pub(crate) fn check_open(&self, era: u64) -> Result<(), FsError> {
        self.check_power()?;
        if era == self.era { Ok(()) } else { Err(FsError::PowerLost) }
    }

    /// Exact only near the limit: counting the pages that a write adds takes a walk over them.
    fn check_space(&self, inode: u64, offset: u64, len: u64) -> Result<(), FsError> {
        let free = self.options.capacity_bytes.saturating_sub(self.stored_bytes);
        if len + 2 * PAGE_BYTES as u64 <= free || self.content(inode)?.bytes_added_by(offset, len) <= free {
            Ok(())
        } else {
            Err(FsError::NoSpace)
        }
    }

    fn content(&self, inode: u64) -> Result<&Content, FsError> {
        match &self.inode(inode)?.body {
            Body::File(content) => Ok(content),
            Body::Directory(_) => Err(FsError::IsADirectory),
            Body::Symlink(_) | Body::Special(_) => Err(FsError::Invalid),
        }
    }

    fn change_content(&mut self, inode: u64, change: impl FnOnce(&mut Content)) -> Result<(), FsError> {
        self.change_content_silently(inode, change)?;
        let inode = self.inode_mut(inode)?;
        inode.modified = SystemTime::now();
        inode.changed = inode.modified;
        Ok(())
    }

    /// Without touching the times: the content stays the same to processes.
    fn change_content_silently(&mut self, inode: u64, change: impl FnOnce(&mut Content)) -> Result<(), FsError> {
        let content = match &mut self.inode_mut(inode)?.body {
            Body::File(content) => content,
            Body::Directory(_) => return Err(FsError::IsADirectory),
            Body::Symlink(_) | Body::Special(_) => return Err(FsError::Invalid),
        };
        let before = content.stored_bytes();
        change(content);
        let after = content.stored_bytes();
        self.stored_bytes = self.stored_bytes - before + after;
        Ok(())
    }
}

fn check_aligned(offset: u64, len: usize) -> Result<(), FsError> {
    let sector = SECTOR_BYTES as u64;
    if offset.is_multiple_of(sector) && (len as u64).is_multiple_of(sector) { Ok(()) } else { Err(FsError::Invalid) }
}
