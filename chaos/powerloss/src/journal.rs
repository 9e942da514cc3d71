//! Journal: directory operations that no sync has covered yet, in the order they happened.
//! J1: an operation is durable, or lost, as a whole. J2: it is durable only with every earlier one it *depends* on, so that
//! what survives is a directory tree: no file is lost by a rename, no directory contains itself. J3: operations become
//! durable in their order.

use crate::fate::Fate;
use std::collections::BTreeSet;
use std::ffi::OsString;

/// One name of one directory set to an inode or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    pub directory: u64,
    pub name: OsString,
    pub inode: Option<u64>,
}

/// One create, link, unlink, rename or exchange.
#[derive(Clone, Debug)]
pub(crate) struct DirectoryOp {
    pub number: u64,
    pub edits: Vec<Edit>,
    /// Every inode that gains or loses a name.
    pub inodes: Vec<u64>,
    pub creates: Option<u64>,
    /// A directory that moves: ordered with everything before and after it, else two moves, one of them lost, could make a
    /// directory its own ancestor.
    pub moves_directory: bool,
}

/// How unsynced directory operations survive a power loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirectoryOrder {
    /// Each survives or is lost on its own, except that one which builds upon another never survives without it. Harsher
    /// than any journaling file system, and all that POSIX lets a program rely on.
    #[default]
    Independent,
    /// They survive as a prefix of what happened, as on ext4, XFS, btrfs and f2fs, which order metadata strictly
    /// (Dave Chinner, linux-kernel, 2018-09-14, "metadata operation reordering regards to crash").
    Journaled,
}

#[derive(Debug, Default)]
pub(crate) struct Journal {
    ops: Vec<DirectoryOp>,
}

impl Journal {
    pub(crate) fn len(&self) -> usize {
        self.ops.len()
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.ops.iter().map(|op| op.number)
    }

    pub(crate) fn push(&mut self, op: DirectoryOp) {
        assert!(self.ops.last().is_none_or(|last| last.number < op.number), "J3");
        self.ops.push(op);
    }

    pub(crate) fn names(&self, inode: u64) -> bool {
        self.ops.iter().any(|op| op.inodes.contains(&inode) || op.edits.iter().any(|edit| edit.directory == inode))
    }

    /// Takes out the operations that `wanted` picks and what they depend on, in order: they are durable now.
    pub(crate) fn commit(&mut self, order: DirectoryOrder, wanted: impl Fn(&DirectoryOp) -> bool) -> Vec<DirectoryOp> {
        let Some(last) = self.ops.iter().rposition(&wanted) else { return Vec::new() };
        if order == DirectoryOrder::Journaled {
            return self.ops.drain(..=last).collect();
        }
        let mut chosen = BTreeSet::new();
        for index in (0..=last).rev() {
            let op = &self.ops[index];
            if wanted(op) || chosen.iter().any(|&later: &usize| self.ops[later].depends_on(op)) {
                chosen.insert(index);
            }
        }
        let mut committed = Vec::new();
        let mut kept = Vec::new();
        for (index, op) in std::mem::take(&mut self.ops).into_iter().enumerate() {
            if chosen.contains(&index) { committed.push(op) } else { kept.push(op) }
        }
        self.ops = kept;
        committed
    }

    /// The power fails: the survivors, in order, and how many were lost.
    pub(crate) fn lose(&mut self, order: DirectoryOrder, fate: &Fate) -> (Vec<DirectoryOp>, u64) {
        let ops = std::mem::take(&mut self.ops);
        let count = ops.len() as u64;
        let mut survivors: Vec<DirectoryOp> = Vec::new();
        let mut lost: Vec<DirectoryOp> = Vec::new();
        let prefix = fate.up_to(count);
        for (index, op) in ops.into_iter().enumerate() {
            let survives = match order {
                DirectoryOrder::Journaled => (index as u64) < prefix,
                DirectoryOrder::Independent => {
                    fate.coin(op.number) && !lost.iter().any(|earlier| op.depends_on(earlier))
                }
            };
            if survives { survivors.push(op) } else { lost.push(op) }
        }
        (survivors, lost.len() as u64)
    }
}

impl DirectoryOp {
    /// Whether this, the later one, makes no sense without `earlier`.
    fn depends_on(&self, earlier: &DirectoryOp) -> bool {
        self.moves_directory
            || earlier.moves_directory
            || self.inodes.iter().any(|inode| earlier.inodes.contains(inode))
            || self.edits.iter().any(|edit| {
                earlier.inodes.contains(&edit.directory) // in a directory that the earlier one made or unmade
                    || earlier.edits.iter().any(|old| old.directory == edit.directory && old.name == edit.name)
            })
            || earlier.edits.iter().any(|edit| self.inodes.contains(&edit.directory)) // removes what the earlier one emptied
    }
}

#[cfg(test)]
#[path = "journal/tests.rs"]
mod tests;
