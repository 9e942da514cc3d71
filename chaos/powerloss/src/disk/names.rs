//! The disk's directory requests: lookups, creates, links, unlinks, renames, directory syncs.
//! Each change is made at once to what processes see, and noted in the journal for what is durable.

use super::{Body, Directory, Disk, Inode, JOURNAL_OPS_MAX, Kind, NAME_BYTES_MAX, Owner};
use crate::content::Content;
use crate::error::FsError;
use crate::journal::{DirectoryOp, DirectoryOrder, Edit};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::time::SystemTime;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RenameMode {
    Replace,
    NoReplace,
    Exchange,
}

/// One entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub inode: u64,
    pub kind: Kind,
    pub name: OsString,
}

impl Disk {
    pub(crate) fn lookup(&self, directory: u64, name: &OsStr) -> Result<u64, FsError> {
        self.check_power()?;
        self.directory(directory)?.now.get(name).copied().ok_or(FsError::NotFound)
    }

    /// All entries, `.` and `..` first.
    pub(crate) fn list(&self, directory: u64) -> Result<Vec<Entry>, FsError> {
        self.check_power()?;
        let listed = self.directory(directory)?;
        let dot = Entry { inode: directory, kind: Kind::Directory, name: ".".into() };
        let dotdot = Entry { inode: listed.parent, kind: Kind::Directory, name: "..".into() };
        let entries = listed.now.iter().map(|(name, &inode)| {
            let kind = self.inode(inode).expect("D2: a name refers to an inode").kind();
            Entry { inode, kind, name: name.clone() }
        });
        Ok([dot, dotdot].into_iter().chain(entries).collect())
    }

    pub(crate) fn symlink_target(&self, inode: u64) -> Result<OsString, FsError> {
        self.check_power()?;
        match &self.inode(inode)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(FsError::Invalid),
        }
    }

    /// Makes a file, directory, socket or FIFO.
    pub(crate) fn create(&mut self, parent: u64, name: &OsStr, kind: Kind, owner: Owner) -> Result<u64, FsError> {
        let body = match kind {
            Kind::File => Body::File(Content::default()),
            Kind::Directory => Body::Directory(Directory { parent, now: BTreeMap::new(), durable: BTreeMap::new() }),
            Kind::Socket | Kind::Fifo => Body::Special(kind),
            Kind::Symlink => return Err(FsError::Invalid),
        };
        self.add(parent, name, body, owner)
    }

    pub(crate) fn create_symlink(
        &mut self,
        parent: u64,
        name: &OsStr,
        target: &OsStr,
        owner: Owner,
    ) -> Result<u64, FsError> {
        self.add(parent, name, Body::Symlink(target.to_owned()), owner)
    }

    fn add(&mut self, parent: u64, name: &OsStr, body: Body, owner: Owner) -> Result<u64, FsError> {
        self.check_new_name(parent, name)?;
        let number = self.begin_change()?;
        self.inode_last += 1;
        let inode = self.inode_last;
        self.inodes.insert(inode, Inode::new(body, owner));
        self.enter(DirectoryOp {
            number,
            edits: vec![Edit { directory: parent, name: name.to_owned(), inode: Some(inode) }],
            inodes: vec![inode],
            creates: Some(inode),
            moves_directory: false,
        });
        Ok(inode)
    }

    pub(crate) fn link(&mut self, inode: u64, parent: u64, name: &OsStr) -> Result<(), FsError> {
        self.check_new_name(parent, name)?;
        let linked = self.inode(inode)?;
        if linked.kind() == Kind::Directory {
            return Err(FsError::NotPermitted);
        }
        if linked.names == 0 {
            return Err(FsError::NotFound);
        }
        let number = self.begin_change()?;
        self.enter(DirectoryOp {
            number,
            edits: vec![Edit { directory: parent, name: name.to_owned(), inode: Some(inode) }],
            inodes: vec![inode],
            creates: None,
            moves_directory: false,
        });
        Ok(())
    }

    /// unlink, or rmdir if `directory`.
    pub(crate) fn remove(&mut self, parent: u64, name: &OsStr, directory: bool) -> Result<(), FsError> {
        let inode = self.lookup(parent, name)?;
        match (&self.inode(inode)?.body, directory) {
            (Body::Directory(removed), true) if !removed.now.is_empty() => return Err(FsError::NotEmpty),
            (Body::Directory(_), false) => return Err(FsError::IsADirectory),
            (Body::Directory(_), true) | (_, false) => {}
            (_, true) => return Err(FsError::NotADirectory),
        }
        let number = self.begin_change()?;
        self.enter(DirectoryOp {
            number,
            edits: vec![Edit { directory: parent, name: name.to_owned(), inode: None }],
            inodes: vec![inode],
            creates: None,
            moves_directory: false,
        });
        Ok(())
    }

    pub(crate) fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr), mode: RenameMode) -> Result<(), FsError> {
        let moved = self.lookup(from.0, from.1)?;
        if to.1.len() > NAME_BYTES_MAX {
            return Err(FsError::NameTooLong);
        }
        let target = self.directory(to.0)?.now.get(to.1).copied();
        if self.inode(to.0)?.names == 0 {
            return Err(FsError::NotFound); // a directory that was removed while somebody stood in it
        }
        let (mut edits, other) = match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameMode::Exchange, None) => return Err(FsError::NotFound),
            (_, Some(target)) if target == moved => return Ok(()),
            (RenameMode::Exchange, Some(target)) => {
                (vec![Edit { directory: from.0, name: from.1.to_owned(), inode: Some(target) }], Some(target))
            }
            (_, target) => {
                if let Some(target) = target {
                    self.check_replaceable(moved, target)?;
                }
                (vec![Edit { directory: from.0, name: from.1.to_owned(), inode: None }], target)
            }
        };
        edits.push(Edit { directory: to.0, name: to.1.to_owned(), inode: Some(moved) });
        let number = self.begin_change()?;
        let moves_directory = [Some(moved), other]
            .into_iter()
            .flatten()
            .any(|inode| self.inodes.get(&inode).is_some_and(|inode| inode.kind() == Kind::Directory));
        self.enter(DirectoryOp {
            number,
            edits,
            inodes: std::iter::once(moved).chain(other).collect(),
            creates: None,
            moves_directory,
        });
        Ok(())
    }

    /// fsync of a directory: its entries are durable, and its own, as on every journaling file system.
    pub(crate) fn sync_directory(&mut self, inode: u64) -> Result<(), FsError> {
        self.directory(inode)?;
        self.begin_change()?;
        self.stats.directory_syncs += 1;
        if self.sync_honoured {
            self.commit(|op| op.inodes.contains(&inode) || op.edits.iter().any(|edit| edit.directory == inode));
        }
        Ok(())
    }

    /// Makes the picked pending operations durable, with what they depend on.
    pub(super) fn commit(&mut self, wanted: impl Fn(&DirectoryOp) -> bool) {
        let committed = self.journal.commit(self.options.directory_order, wanted);
        for op in &committed {
            self.apply_durably(op);
        }
        for inode in committed.iter().flat_map(|op| &op.inodes) {
            self.collect(*inode);
        }
    }

    /// Applies an operation to the durable names.
    pub(super) fn apply_durably(&mut self, op: &DirectoryOp) {
        for edit in &op.edits {
            let directory = self.directory_mut(edit.directory).expect("D2: a pending operation keeps its directory");
            let old = match edit.inode {
                Some(inode) => directory.durable.insert(edit.name.clone(), inode),
                None => directory.durable.remove(&edit.name),
            };
            if let Some(new) = edit.inode {
                self.inode_mut(new).expect("D2: a pending operation keeps its inodes").durable_names += 1;
            }
            if let Some(old) = old {
                let old = self.inode_mut(old).expect("D2: a durable name keeps its inode");
                old.durable_names = old.durable_names.checked_sub(1).expect("D1: counted when the name was made");
            }
        }
    }

    /// Makes an operation visible to processes, and pending.
    fn enter(&mut self, op: DirectoryOp) {
        let now = SystemTime::now();
        for edit in &op.edits {
            let directory = self.directory_mut(edit.directory).expect("the caller has looked it up");
            let old = match edit.inode {
                Some(inode) => directory.now.insert(edit.name.clone(), inode),
                None => directory.now.remove(&edit.name),
            };
            if let Some(new) = edit.inode {
                let named = self.inode_mut(new).expect("the caller has looked it up");
                named.names += 1;
                named.changed = now;
                if let Body::Directory(moved) = &mut named.body {
                    moved.parent = edit.directory;
                }
            }
            if let Some(old) = old {
                let old = self.inode_mut(old).expect("D2: a name keeps its inode");
                old.names = old.names.checked_sub(1).expect("counted when the name was made");
                old.changed = now;
            }
            let directory = self.inode_mut(edit.directory).expect("the caller has looked it up");
            directory.modified = now;
            directory.changed = now;
        }
        self.stats.directory_ops += 1;
        self.journal.push(op);
        if self.journal.len() > JOURNAL_OPS_MAX {
            let half = self.journal.numbers().nth(JOURNAL_OPS_MAX / 2).expect("it is longer than that");
            let order = std::mem::replace(&mut self.options.directory_order, DirectoryOrder::Journaled);
            self.commit(|op| op.number <= half);
            self.options.directory_order = order;
        }
    }

    fn check_new_name(&self, parent: u64, name: &OsStr) -> Result<(), FsError> {
        self.check_power()?;
        if name.len() > NAME_BYTES_MAX {
            return Err(FsError::NameTooLong);
        }
        if self.directory(parent)?.now.contains_key(name) {
            return Err(FsError::Exists);
        }
        // A directory that was removed while somebody stood in it takes no new names.
        if self.inode(parent)?.names == 0 { Err(FsError::NotFound) } else { Ok(()) }
    }

    fn check_replaceable(&self, moved: u64, target: u64) -> Result<(), FsError> {
        match (self.inode(moved)?.kind(), &self.inode(target)?.body) {
            (Kind::Directory, Body::Directory(target)) if target.now.is_empty() => Ok(()),
            (Kind::Directory, Body::Directory(_)) => Err(FsError::NotEmpty),
            (Kind::Directory, _) => Err(FsError::NotADirectory),
            (_, Body::Directory(_)) => Err(FsError::IsADirectory),
            _ => Ok(()),
        }
    }
}
