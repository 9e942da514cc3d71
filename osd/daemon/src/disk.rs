//! The OSD's disk: a block device or a file, opened for direct I/O and locked.
//! Knows what the device wants (alignment, flushes, discards); knows nothing of what is on it.

use crate::error::OsdError;
use crate::ring::{Descriptor, MAX_PIECES};
use ashlar_types::aligned_payload;
use bytes::Bytes;
use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags, SeekFrom, StatxFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a disk may seem to be in use by a process that has ended: the kernel ends what an io_uring has under way, and lets go of its
/// files, only after that. One disk that is slow to answer holds it up longest.
const IN_USE_PATIENCE: Duration = Duration::from_secs(2);
const IN_USE_PAUSE: Duration = Duration::from_millis(5);

/// Alignment where the kernel doesn't tell: that of the largest sectors and of pages.
const ALIGN_UNKNOWN: usize = 4096;

#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub path: PathBuf,
    pub file: Descriptor,
    /// Bytes.
    pub size: u64,
    pub is_block_device: bool,
    /// False where the file system refuses O_DIRECT.
    pub is_direct: bool,
    /// Whether it may lose writes that were not flushed.
    pub has_volatile_cache: bool,
    /// What addresses in memory must be multiples of.
    memory_align: usize,
    /// What the length of each piece must be a multiple of.
    piece_align: usize,
}

impl Disk {
    /// Opens and locks a disk for reading and writing.
    pub(crate) fn open(path: &Path) -> Result<Disk, OsdError> {
        let failed = |action, source: Errno| OsdError::Disk { disk: path.to_owned(), action, source: source.into() };
        let status = fs::stat(path).map_err(|e| failed("found", e))?;
        let is_block_device = match FileType::from_raw_mode(status.st_mode) {
            FileType::BlockDevice => true,
            FileType::RegularFile => false,
            _ => return Err(OsdError::NotADisk { disk: path.to_owned() }),
        };
        let (file, is_direct) = open_patiently(path, is_block_device).map_err(|e| match e {
            Errno::BUSY | Errno::WOULDBLOCK => OsdError::InUse { disk: path.to_owned() },
            Errno::ROFS | Errno::ACCESS | Errno::PERM if fs::access(path, fs::Access::READ_OK).is_ok() => {
                OsdError::ReadOnly { disk: path.to_owned() }
            }
            e => failed("opened", e),
        })?;
        let size = fs::seek(&file, SeekFrom::End(0)).map_err(|e| failed("measured", e))?;
        let (memory_align, piece_align) = if is_direct { direct_alignment(&file) } else { (1, 1) };
        if !is_direct {
            tracing::warn!(disk = %path.display(), "the file system refuses direct I/O: going through the page cache");
        }
        let has_volatile_cache = !is_block_device || block_device_has_volatile_cache(status.st_rdev);
        let (path, file) = (path.to_owned(), Arc::new(file));
        Ok(Disk { path, file, size, is_block_device, is_direct, has_volatile_cache, memory_align, piece_align })
    }

    /// The same data in pieces that the disk takes as they are, and how many bytes had to be copied for that.
    pub(crate) fn aligned(&self, pieces: Vec<Bytes>) -> (Vec<Bytes>, usize) {
        let fits = |piece: &Bytes| {
            (piece.as_ptr() as usize).is_multiple_of(self.memory_align) && piece.len().is_multiple_of(self.piece_align)
        };
        if pieces.len() <= MAX_PIECES && pieces.iter().all(fits) {
            return (pieces, 0);
        }
        let mut out: Vec<Bytes> = Vec::with_capacity(pieces.len());
        let mut copied = 0;
        let lengths_fit = pieces.iter().all(|p| p.len().is_multiple_of(self.piece_align));
        if pieces.len() > MAX_PIECES || !lengths_fit {
            out.push(copy(&pieces));
            copied = out[0].len();
        } else {
            for piece in pieces {
                if fits(&piece) {
                    out.push(piece);
                } else {
                    copied += piece.len();
                    out.push(copy(&[piece]));
                }
            }
        }
        (out, copied)
    }

    /// The error for people, with its place.
    pub(crate) fn describe(&self, action: &str, error: &io::Error) -> String {
        format!("disk {}: {action}: {error}", self.path.display())
    }
}

/// Opens and locks, waiting for who is about to let go ([`IN_USE_PATIENCE`]); whether it is for direct I/O.
fn open_patiently(path: &Path, is_block_device: bool) -> Result<(OwnedFd, bool), Errno> {
    let until = Instant::now() + IN_USE_PATIENCE;
    loop {
        match open_and_lock(path, is_block_device) {
            Err(Errno::BUSY | Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(IN_USE_PAUSE),
            result => return result,
        }
    }
}

fn open_and_lock(path: &Path, is_block_device: bool) -> Result<(OwnedFd, bool), Errno> {
    // On a block device, O_EXCL is refused while it is mounted or part of something.
    let mut flags = OFlags::RDWR | OFlags::CLOEXEC;
    flags.set(OFlags::EXCL, is_block_device);
    let (file, is_direct) = match fs::open(path, flags | OFlags::DIRECT, Mode::empty()) {
        Err(Errno::INVAL) => (fs::open(path, flags, Mode::empty())?, false),
        opened => (opened?, true),
    };
    fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok((file, is_direct))
}

fn copy(pieces: &[Bytes]) -> Bytes {
    let mut buffer = aligned_payload(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|p| buffer.extend_from_slice(p));
    buffer.freeze()
}

/// What the kernel asks of memory addresses and of lengths for direct I/O.
fn direct_alignment(file: impl std::os::fd::AsFd) -> (usize, usize) {
    let asked = StatxFlags::DIOALIGN;
    match fs::statx(file, "", AtFlags::EMPTY_PATH, asked) {
        Ok(s) if s.stx_mask & asked.bits() != 0 && s.stx_dio_mem_align > 0 && s.stx_dio_offset_align > 0 => {
            (s.stx_dio_mem_align as usize, s.stx_dio_offset_align as usize)
        }
        _ => (ALIGN_UNKNOWN, ALIGN_UNKNOWN),
    }
}

/// Only a device that says "write through" and is not a file in disguise keeps what was not flushed.
fn block_device_has_volatile_cache(device: u64) -> bool {
    let base = PathBuf::from(format!("/sys/dev/block/{}:{}", fs::major(device), fs::minor(device)));
    if base.join("loop").exists() {
        return true;
    }
    // A partition has no queue of its own.
    let setting = ["queue/write_cache", "../queue/write_cache"]
        .iter()
        .find_map(|name| std::fs::read_to_string(base.join(name)).ok());
    setting.is_none_or(|text| text.trim() != "write through")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_file(bytes: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(bytes).expect("sparse");
        file
    }

    #[test]
    fn a_file_is_measured_and_locked() {
        let file = disk_file(1 << 20);
        let disk = Disk::open(file.path()).expect("opened");
        assert_eq!((disk.size, disk.has_volatile_cache, disk.is_block_device), (1 << 20, true, false));
        assert!(matches!(Disk::open(file.path()), Err(OsdError::InUse { .. })));
        drop(disk);
        assert!(Disk::open(file.path()).is_ok());
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        assert!(matches!(Disk::open(Path::new("/")), Err(OsdError::NotADisk { .. })));
        assert!(matches!(Disk::open(Path::new("/dev/null")), Err(OsdError::NotADisk { .. })));
        let missing = Disk::open(Path::new("/nonexistent/disk")).expect_err("missing");
        assert!(missing.to_string().contains("/nonexistent/disk: cannot be found"), "{missing}");
    }

    #[test]
    fn pieces_that_the_disk_does_not_take_are_copied_and_no_others() {
        let file = disk_file(1 << 20);
        let disk = Disk { memory_align: 512, piece_align: 512, ..Disk::open(file.path()).expect("opened") };
        let good = copy(&[Bytes::from(vec![1; 4096])]);
        let bad = copy(&[Bytes::from(vec![2; 4608])]).slice(8..4104);
        let (pieces, copied) = disk.aligned(vec![good.clone(), bad.clone()]);
        assert_eq!((pieces.len(), copied), (2, 4096));
        assert_eq!(pieces[0].as_ptr(), good.as_ptr());
        assert_eq!(pieces.concat(), [good.clone(), bad].concat());

        let short = good.slice(..100);
        let (pieces, copied) = disk.aligned(vec![good.clone(), short.clone(), good.clone()]);
        assert_eq!((pieces.len(), copied), (1, 8292));
        assert_eq!(pieces.concat(), [good.clone(), short, good].concat());

        let many: Vec<Bytes> = (0..MAX_PIECES + 1).map(|_| pieces[0].slice(..512)).collect();
        assert_eq!(disk.aligned(many).0.len(), 1);
    }
}
