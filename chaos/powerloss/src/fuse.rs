//! The kernel's side: FUSE requests in, requests to the disk out. It decides nothing.
//! No caches: names and attributes are valid for no time, and files are FOPEN_DIRECT_IO, so that every read and write of a process
//! comes here as it is and the disk alone decides what a loss takes. Shared mappings therefore fail with ENODEV. Locks (flock, fcntl)
//! are the kernel's own.

use crate::disk::{Attributes, Changes, Disk, Kind, Owner, Preallocate, RenameMode, WriteMode};
use crate::error::FsError;
use crate::mount::Shared;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, OFlags};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

/// The kernel asks again each time: after a loss, names and sizes are others.
const VALID_FOR: Duration = Duration::ZERO;
/// A larger write comes in pieces, each with its own fate.
const WRITE_BYTES_MAX: u32 = 1 << 20;
/// Requests in flight that the kernel allows; its default of 12 would throttle an io_uring of depth 32.
const REQUESTS_IN_FLIGHT_MAX: u16 = 256;
const BLOCK_BYTES: u32 = 4096;

/// A listing is made where reading a directory begins; later reads go on in it, whatever has changed meanwhile.
#[derive(Debug, Default)]
struct Listings {
    last: u64,
    open: HashMap<u64, Vec<crate::disk::Entry>>,
}

#[derive(Debug)]
pub(crate) struct Adapter {
    shared: Arc<Shared>,
    listings: Mutex<Listings>,
}

impl Adapter {
    pub(crate) fn new(shared: Arc<Shared>) -> Adapter {
        Adapter { shared, listings: Mutex::default() }
    }

    /// Runs a request on the disk, under its lock.
    fn ask<T>(&self, request: impl FnOnce(&mut Disk) -> Result<T, FsError>) -> Result<T, Errno> {
        let answer = request(&mut self.shared.disk());
        if answer.as_ref().is_err_and(|error| *error == FsError::PowerLost) {
            self.shared.announce_loss(); // it may have been this request that sprang the trap
        }
        answer.map_err(errno)
    }

    fn ask_entry(&self, reply: ReplyEntry, request: impl FnOnce(&mut Disk) -> Result<u64, FsError>) {
        match self.ask(|disk| request(disk).and_then(|inode| disk.attributes(inode))) {
            Ok(attributes) => reply.entry(&VALID_FOR, &file_attr(&attributes), Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn ask_empty(&self, reply: ReplyEmpty, request: impl FnOnce(&mut Disk) -> Result<(), FsError>) {
        match self.ask(request) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn listings(&self) -> MutexGuard<'_, Listings> {
        self.listings.lock().expect("no holder panics")
    }
}

fn errno(error: FsError) -> Errno {
    match error {
        FsError::PowerLost => Errno::EIO,
        FsError::NotFound => Errno::ENOENT,
        FsError::Exists => Errno::EEXIST,
        FsError::NotADirectory => Errno::ENOTDIR,
        FsError::IsADirectory => Errno::EISDIR,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::Invalid => Errno::EINVAL,
        FsError::NotSupported => Errno::EOPNOTSUPP,
        FsError::NoSpace => Errno::ENOSPC,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::NotPermitted => Errno::EPERM,
        FsError::TooLarge => Errno::EFBIG,
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Socket => FileType::Socket,
        Kind::Fifo => FileType::NamedPipe,
    }
}

fn file_attr(attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.inode),
        size: attributes.size,
        blocks: attributes.stored_bytes / 512,
        atime: attributes.accessed,
        mtime: attributes.modified,
        ctime: attributes.changed,
        crtime: attributes.changed,
        kind: file_type(attributes.kind),
        perm: attributes.mode,
        nlink: attributes.names,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

fn owner(request: &Request, mode: u32, umask: u32) -> Owner {
    let mode = u16::try_from(mode & !umask & 0o7777).expect("masked to 12 bits");
    Owner { mode, uid: request.uid(), gid: request.gid() }
}

fn open_flags(flags: i32) -> OFlags {
    OFlags::from_bits_retain(flags.cast_unsigned())
}

fn time(time: Option<TimeOrNow>) -> Option<SystemTime> {
    time.map(|time| match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    })
}

fn preallocation(mode: i32) -> Result<Preallocate, FsError> {
    let flags = FallocateFlags::from_bits_retain(mode.cast_unsigned());
    let keep_size = flags.contains(FallocateFlags::KEEP_SIZE);
    let rest = flags - FallocateFlags::KEEP_SIZE;
    if rest.is_empty() {
        Ok(Preallocate::Reserve { grow: !keep_size })
    } else if rest == FallocateFlags::PUNCH_HOLE && keep_size {
        Ok(Preallocate::PunchHole)
    } else if rest == FallocateFlags::ZERO_RANGE {
        Ok(Preallocate::ZeroRange { grow: !keep_size })
    } else {
        Err(FsError::NotSupported)
    }
}

fn opened() -> FopenFlags {
    FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each is a matter of speed only: what an older kernel does not offer, it does without.
        for wish in [InitFlags::FUSE_ASYNC_DIO, InitFlags::FUSE_PARALLEL_DIROPS] {
            config.add_capabilities(wish).unwrap_or_default();
        }
        config.set_max_write(WRITE_BYTES_MAX).map_err(|_| io::Error::other("fuser refuses the size of writes"))?;
        config
            .set_max_background(REQUESTS_IN_FLIGHT_MAX)
            .map_err(|_| io::Error::other("fuser refuses the number of requests in flight"))?;
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.ask_entry(reply, |disk| disk.lookup(parent.0, name));
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.ask(|disk| disk.attributes(inode.0)) {
            Ok(attributes) => reply.attr(&VALID_FOR, &file_attr(&attributes)),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes = Changes {
            mode: mode.map(|mode| u16::try_from(mode & 0o7777).expect("masked to 12 bits")),
            uid,
            gid,
            accessed: time(accessed),
            modified: time(modified),
        };
        let answer = self.ask(|disk| {
            if let Some(size) = size {
                disk.truncate(handle.map_or(disk.era(), |handle| handle.0), inode.0, size)?;
            }
            disk.change_attributes(inode.0, changes)?;
            disk.attributes(inode.0)
        });
        match answer {
            Ok(attributes) => reply.attr(&VALID_FOR, &file_attr(&attributes)),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        match self.ask(|disk| disk.symlink_target(inode.0)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let kind = match rustix::fs::FileType::from_raw_mode(mode) {
            rustix::fs::FileType::RegularFile => Kind::File,
            rustix::fs::FileType::Socket => Kind::Socket,
            rustix::fs::FileType::Fifo => Kind::Fifo,
            _ => return reply.error(Errno::EPERM),
        };
        self.ask_entry(reply, |disk| disk.create(parent.0, name, kind, owner(request, mode, umask)));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.ask_entry(reply, |disk| disk.create(parent.0, name, Kind::Directory, owner(request, mode, umask)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.ask_empty(reply, |disk| disk.remove(parent.0, name, false));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.ask_empty(reply, |disk| disk.remove(parent.0, name, true));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.ask_entry(reply, |disk| disk.create_symlink(parent.0, name, target.as_os_str(), owner(request, 0o777, 0)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            return reply.error(Errno::EINVAL);
        };
        self.ask_empty(reply, |disk| disk.rename((parent.0, name), (new_parent.0, new_name), mode));
    }

    fn link(&self, _: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.ask_entry(reply, |disk| disk.link(inode.0, parent.0, name).map(|()| inode.0));
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.ask(|disk| disk.open(inode.0).map(|()| disk.era())) {
            Ok(era) => reply.opened(FileHandle(era), opened()),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let answer = self.ask(|disk| {
            let inode = match disk.create(parent.0, name, Kind::File, owner(request, mode, umask)) {
                // Without O_EXCL, losing a race to make the file is opening it.
                Err(FsError::Exists) if !open_flags(flags).contains(OFlags::EXCL) => disk.lookup(parent.0, name)?,
                made => made?,
            };
            disk.open(inode)?;
            Ok((disk.attributes(inode)?, disk.era()))
        });
        match answer {
            Ok((attributes, era)) => {
                reply.created(&VALID_FOR, &file_attr(&attributes), Generation(0), FileHandle(era), opened());
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let direct = open_flags(flags.0).contains(OFlags::DIRECT);
        match self.ask(|disk| disk.read(handle.0, inode.0, offset, size as usize, direct)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let flags = open_flags(flags.0);
        // O_SYNC contains O_DSYNC's bit; the kernel sets it for RWF_DSYNC too (fuse_write_flags, fs/fuse/file.c).
        let mode = WriteMode { direct: flags.contains(OFlags::DIRECT), synced: flags.intersects(OFlags::DSYNC) };
        match self.ask(|disk| disk.write(handle.0, inode.0, offset, data, mode)) {
            Ok(()) => reply.written(u32::try_from(data.len()).expect("a request is smaller than that")),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, handle: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.ask_empty(reply, |disk| disk.check_open(handle.0));
    }

    fn release(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.shared.disk().close(handle.0, inode.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, inode: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.ask_empty(reply, |disk| disk.sync_file(handle.0, inode.0, data_only));
    }

    fn opendir(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.ask(|disk| disk.attributes(inode.0)) {
            Ok(_) => {
                let mut listings = self.listings();
                listings.last += 1;
                reply.opened(FileHandle(listings.last), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _: &Request, inode: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let answer =
            self.ask(|disk| if start == 0 { disk.list(inode.0).map(Some) } else { disk.check_power().map(|()| None) });
        let mut listings = self.listings();
        match answer {
            Ok(Some(entries)) => {
                listings.open.insert(handle.0, entries);
            }
            Ok(None) => {}
            Err(error) => return reply.error(error),
        }
        let Some(entries) = listings.open.get(&handle.0) else { return reply.error(Errno::EBADF) };
        for (index, entry) in entries.iter().enumerate().skip(start) {
            if reply.add(INodeNo(entry.inode), index as u64 + 1, file_type(entry.kind), &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.listings().open.remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.ask_empty(reply, |disk| disk.sync_directory(inode.0));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let (capacity, stored) = self.shared.disk().capacity();
        let blocks = capacity / u64::from(BLOCK_BYTES);
        let free = capacity.saturating_sub(stored) / u64::from(BLOCK_BYTES);
        reply.statfs(blocks, free, free, u64::MAX >> 1, u64::MAX >> 1, BLOCK_BYTES, 255, BLOCK_BYTES);
    }

    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.ask_empty(reply, |disk| disk.preallocate(handle.0, inode.0, offset, length, preallocation(mode)?));
    }

    // ENOSYS from here on tells the kernel to do it itself, or without it, and not to ask again.

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
