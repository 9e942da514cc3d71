//! Disk: the whole state of one modelled disk: inodes, names, and for each what running processes see and what is durable.
//! No FUSE, no clock but `SystemTime` for timestamps, no threads; `fuse.rs` calls it under one lock.
//! D1: `durable_names` of an inode counts the durable directory entries that refer to it. D2: an inode is kept while a name, an
//! open file, a durable name or a pending directory operation refers to it. D3: inode numbers are never used twice.
//! Owner, mode and times are not modelled: a change of them is durable at once.

mod files;
mod loss;
mod names;

use crate::content::Content;
use crate::error::FsError;
use crate::journal::{DirectoryOrder, Journal};
use crate::report::{LossReport, Stats};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::time::SystemTime;

pub(crate) use files::{Preallocate, WriteMode};
pub(crate) use names::{Entry, RenameMode};

pub(crate) const ROOT: u64 = 1;
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// More pending directory operations than this, and the older half is committed, as a journal's own timer would.
const JOURNAL_OPS_MAX: usize = 4096;

/// How the modelled disk behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// How directory operations that no sync covered survive. Default: [`DirectoryOrder::Independent`].
    pub directory_order: DirectoryOrder,
    /// Whether the entry of a new file needs a sync of its directory. Default: [`NewFileEntry::WithFile`], as ext4.
    pub new_file_entry: NewFileEntry,
    /// Bytes of file data beyond which writes get ENOSPC, counted in pages of 4 KiB; it also bounds this process's memory, to
    /// about nine times that if everything is rewritten again and again without a sync. Default: 64 GiB, sparse.
    pub capacity_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            directory_order: DirectoryOrder::default(),
            new_file_entry: NewFileEntry::default(),
            capacity_bytes: 64 << 30,
        }
    }
}

/// Whether fsync of a file makes its directory entry durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NewFileEntry {
    /// fsync of a file makes every pending directory operation on it durable (its creation, links, renames), fdatasync its
    /// creation.
    ///
    /// So ext4 does: creating an inode puts its transaction's number into both `i_sync_tid` and `i_datasync_tid`
    /// (`__ext4_new_inode`, fs/ext4/ialloc.c), and `ext4_sync_file` (fs/ext4/fsync.c) commits the journal up to the one or the
    /// other; a rename only touches the former. Without a journal it syncs the new file's parents explicitly (commit
    /// 14ece1028b3e, "ext4: Make fsync sync new parent directories in no-journal mode").
    #[default]
    WithFile,
    /// Only fsync of the directory does: all that fsync(2) promises.
    WithDirectory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    Socket,
    Fifo,
}

#[derive(Debug)]
enum Body {
    File(Content),
    Directory(Directory),
    Symlink(OsString),
    /// A socket or a FIFO: nothing but a name.
    Special(Kind),
}

#[derive(Debug)]
struct Directory {
    parent: u64,
    now: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
}

#[derive(Debug)]
struct Inode {
    body: Body,
    mode: u16,
    uid: u32,
    gid: u32,
    accessed: SystemTime,
    modified: SystemTime,
    changed: SystemTime,
    /// Names that running processes see.
    names: u32,
    durable_names: u32,
    opens: u32,
}

/// What stat(2) shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes {
    pub inode: u64,
    pub kind: Kind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub stored_bytes: u64,
    pub names: u32,
    pub accessed: SystemTime,
    pub modified: SystemTime,
    pub changed: SystemTime,
}

/// Who makes an inode, and its permissions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Changes {
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub accessed: Option<SystemTime>,
    pub modified: Option<SystemTime>,
}

#[derive(Debug)]
pub(crate) struct Disk {
    options: Options,
    inodes: HashMap<u64, Inode>,
    journal: Journal,
    inode_last: u64,
    /// Numbers every change, for its fate.
    number_last: u64,
    powered: bool,
    /// Rises with each loss; files opened in an older era are dead.
    era: u64,
    sync_honoured: bool,
    trap: Option<Trap>,
    stored_bytes: u64,
    stats: Stats,
    loss_last: Option<LossReport>,
}

/// A power loss that waits for the n-th change.
#[derive(Clone, Copy, Debug)]
struct Trap {
    changes_left: u64,
    seed: u64,
}

impl Disk {
    pub(crate) fn new(options: Options) -> Disk {
        let root = Inode::new(
            Body::Directory(Directory { parent: ROOT, now: BTreeMap::new(), durable: BTreeMap::new() }),
            Owner { mode: 0o755, uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() },
        );
        let root = Inode { names: 1, durable_names: 1, ..root };
        Disk {
            options,
            inodes: HashMap::from([(ROOT, root)]),
            journal: Journal::default(),
            inode_last: ROOT,
            number_last: 0,
            powered: true,
            era: 1,
            sync_honoured: true,
            trap: None,
            stored_bytes: 0,
            stats: Stats::default(),
            loss_last: None,
        }
    }

    pub(crate) fn era(&self) -> u64 {
        self.era
    }

    pub(crate) fn capacity(&self) -> (u64, u64) {
        (self.options.capacity_bytes, self.stored_bytes)
    }

    pub(crate) fn check_power(&self) -> Result<(), FsError> {
        if self.powered { Ok(()) } else { Err(FsError::PowerLost) }
    }

    /// Before each change and each sync: springs the trap, and numbers the change.
    fn begin_change(&mut self) -> Result<u64, FsError> {
        self.check_power()?;
        if let Some(trap) = &mut self.trap {
            match trap.changes_left.checked_sub(1) {
                Some(left) => trap.changes_left = left,
                None => {
                    let seed = trap.seed;
                    self.power_loss(seed);
                    return Err(FsError::PowerLost);
                }
            }
        }
        self.number_last += 1;
        Ok(self.number_last)
    }

    fn inode(&self, inode: u64) -> Result<&Inode, FsError> {
        self.inodes.get(&inode).ok_or(FsError::NotFound)
    }

    fn inode_mut(&mut self, inode: u64) -> Result<&mut Inode, FsError> {
        self.inodes.get_mut(&inode).ok_or(FsError::NotFound)
    }

    fn directory(&self, inode: u64) -> Result<&Directory, FsError> {
        match &self.inode(inode)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(FsError::NotADirectory),
        }
    }

    fn directory_mut(&mut self, inode: u64) -> Result<&mut Directory, FsError> {
        match &mut self.inode_mut(inode)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(FsError::NotADirectory),
        }
    }

    pub(crate) fn attributes(&self, inode: u64) -> Result<Attributes, FsError> {
        self.check_power()?;
        let number = inode;
        let inode = self.inode(inode)?;
        let (size, stored_bytes) = match &inode.body {
            Body::File(content) => (content.size(), content.stored_bytes()),
            Body::Symlink(target) => (target.len() as u64, 0),
            Body::Directory(_) | Body::Special(_) => (0, 0),
        };
        Ok(Attributes {
            inode: number,
            kind: inode.kind(),
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            size,
            stored_bytes,
            names: inode.names, // 1 for a directory: subdirectories are not counted, as on btrfs
            accessed: inode.accessed,
            modified: inode.modified,
            changed: inode.changed,
        })
    }

    pub(crate) fn change_attributes(&mut self, inode: u64, changes: Changes) -> Result<(), FsError> {
        self.check_power()?;
        let inode = self.inode_mut(inode)?;
        inode.mode = changes.mode.unwrap_or(inode.mode);
        inode.uid = changes.uid.unwrap_or(inode.uid);
        inode.gid = changes.gid.unwrap_or(inode.gid);
        inode.accessed = changes.accessed.unwrap_or(inode.accessed);
        inode.modified = changes.modified.unwrap_or(inode.modified);
        inode.changed = SystemTime::now();
        Ok(())
    }

    pub(crate) fn open(&mut self, inode: u64) -> Result<(), FsError> {
        self.check_power()?;
        let inode = self.inode_mut(inode)?;
        inode.opens += 1;
        Ok(())
    }

    pub(crate) fn close(&mut self, era: u64, inode: u64) {
        if era != self.era {
            return; // the loss closed it
        }
        if let Some(open) = self.inodes.get_mut(&inode) {
            open.opens = open.opens.checked_sub(1).expect("each release follows its open");
            self.collect(inode);
        }
    }

    /// Frees an inode to which nothing refers any more (D2).
    fn collect(&mut self, number: u64) {
        let Some(inode) = self.inodes.get(&number) else { return };
        if inode.names == 0 && inode.durable_names == 0 && inode.opens == 0 && !self.journal.names(number) {
            if let Body::File(content) = &inode.body {
                self.stored_bytes -= content.stored_bytes();
            }
            self.inodes.remove(&number);
        }
    }
}

impl Inode {
    fn new(body: Body, owner: Owner) -> Inode {
        let now = SystemTime::now();
        Inode {
            body,
            mode: owner.mode & 0o7777,
            uid: owner.uid,
            gid: owner.gid,
            accessed: now,
            modified: now,
            changed: now,
            names: 0,
            durable_names: 0,
            opens: 0,
        }
    }

    fn kind(&self) -> Kind {
        match &self.body {
            Body::File(_) => Kind::File,
            Body::Directory(_) => Kind::Directory,
            Body::Symlink(_) => Kind::Symlink,
            Body::Special(kind) => *kind,
        }
    }
}

#[cfg(test)]
mod tests;
