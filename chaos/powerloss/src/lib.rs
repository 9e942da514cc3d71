//! A FUSE file system that models what a power loss does to a machine's disk: it forgets, tears and reorders what was not
//! synced. Put it under the disk files of OSDs and the folders of metadata services, run them, let the power fail, and see
//! whether everything they acknowledged is still there.
//!
//! ```no_run
//! use ashlar_powerloss::{Options, PowerLossFs};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let disk = PowerLossFs::new(Options::default());
//! let mounted = disk.mount(std::path::Path::new("/tmp/disk"))?;
//! // ... start daemons on /tmp/disk, put load on them, then:
//! let report = mounted.power_loss(42);    // every request fails with EIO from here on
//! assert!(report.has_lost(), "a loss that lost nothing proves nothing: {report}");
//! // ... kill the daemons, then:
//! mounted.power_on();                     // the survivors of seed 42 are the disk now
//! // ... start the daemons again and check.
//! # Ok(()) }
//! ```
//!
//! Everything is in memory, sparse, by pages of 4 KiB; a loss costs time only for what is unsynced. The same history of requests
//! and the same seed lose the same bytes; with several writers it is the kernel that orders the history, so keep the seed *and*
//! the [`LossReport`] of a failure.
//!
//! # What survives a loss
//!
//! | what | rule |
//! | --- | --- |
//! | synced data | always: fsync and fdatasync cover all of the file that was written when they were called, and its size; O_SYNC, O_DSYNC and RWF_DSYNC cover their own write |
//! | an unsynced write | whole, not at all, or torn: each 512-byte sector on its own, in any order, whatever happened to earlier or later writes; of several surviving writes to a sector the newest wins |
//! | an unsynced growth | on its own: the size may survive without the data (zeroes) or the data without the size (cut off) |
//! | an unsynced truncation | whole or not at all; without it, nothing later of that file survives |
//! | punching, zeroing | as writes |
//! | a directory operation | as a whole (J1 in `journal.rs`): a rename leaves the old or the new name and what it replaced, never neither; see [`DirectoryOrder`] |
//! | the entry of a new file that was synced | as [`NewFileEntry`] says; by default it survives, as on ext4 |
//! | an open file without a name | never |
//! | owner, mode, times | always; they are not modelled |
//!
//! It is *harsher* than ext4 on one disk. There, an fsync also flushes what other files had in the disk's cache; a commit of the
//! journal takes all earlier directory operations along ([`DirectoryOrder::Journaled`] models that); replacing a file by
//! rename without fsync usually keeps one of its contents (`auto_da_alloc`, a heuristic and no promise); data written back
//! in time survives unsynced. A program may rely on none of this, so none is given.
//! It is *kinder* in two points: no write is misdirected, and what was once durable is never damaged.
//!
//! # What it takes
//!
//! What RocksDB and an OSD need: O_DIRECT (refused unless 512-byte aligned, as by a disk), io_uring, fallocate (reserve, punch, zero),
//! hard links, rename with its flags, symbolic links, sockets, flock and fcntl locks. No shared memory mappings, no extended
//! attributes, no device nodes; permissions are not checked, since only the user who mounted it gets in.
//!
//! Mounting needs /dev/fuse, and root or fusermount3. The `powerloss` binary runs it as a process of its own, with a control socket.
#![forbid(unsafe_code)]

mod content;
mod control;
mod disk;
mod error;
mod fate;
mod fuse;
mod import;
mod journal;
mod mount;
mod report;

pub use control::{COMMANDS, ControlError, ControlServer, ask};
pub use disk::{NewFileEntry, Options};
pub use journal::DirectoryOrder;
pub use mount::{Error, Mounted, PowerLossFs};
pub use report::{LossReport, Stats, Unsynced};
