//! The control: making, mounting, failing and reviving a [`PowerLossFs`].

use crate::disk::{Disk, Options};
use crate::fuse::Adapter;
use crate::import;
use crate::report::{LossReport, Stats, Unsynced};
use fuser::{BackgroundSession, Config, MountOption};
use rustix::mount::UnmountFlags;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Threads that take requests from the kernel. The disk has one lock, but copying to and from the kernel happens outside.
const THREADS: usize = 2;

/// Why a file system could not be made, mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("mounting on {}: {source}", mount_point.display())]
    Mount { mount_point: PathBuf, source: io::Error },
    #[error("unmounting {}: {source} (a process still uses it?)", mount_point.display())]
    Unmount { mount_point: PathBuf, source: io::Error },
    #[error("taking over {}: {source}", path.display())]
    Import { path: PathBuf, source: io::Error },
    #[error("the power is off")]
    PowerOff,
    #[error("no power loss struck in time")]
    NoLoss,
}

#[derive(Debug)]
pub(crate) struct Shared {
    disk: Mutex<Disk>,
    lost: Condvar,
}

impl Shared {
    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("a broken invariant of the disk has panicked before")
    }

    pub(crate) fn announce_loss(&self) {
        self.lost.notify_all();
    }
}

/// A modelled disk: its content outlives mounts and power losses, in memory. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct PowerLossFs {
    shared: Arc<Shared>,
}

impl PowerLossFs {
    /// An empty file system.
    pub fn new(options: Options) -> PowerLossFs {
        PowerLossFs { shared: Arc::new(Shared { disk: Mutex::new(Disk::new(options)), lost: Condvar::new() }) }
    }

    /// A file system that starts with a copy of what is in `directory` (files, directories, symbolic links), all of it durable.
    pub fn from_directory(directory: &Path, options: Options) -> Result<PowerLossFs, Error> {
        let mut disk = Disk::new(options);
        import::import(&mut disk, directory)?;
        Ok(PowerLossFs { shared: Arc::new(Shared { disk: Mutex::new(disk), lost: Condvar::new() }) })
    }

    /// Mounts it on an existing directory: directly as root, through fusermount3 otherwise. Needs /dev/fuse.
    pub fn mount(&self, mount_point: &Path) -> Result<Mounted, Error> {
        let session = Some(self.start_session(mount_point)?);
        Ok(Mounted { fs: self.clone(), mount_point: mount_point.to_owned(), session })
    }

    fn start_session(&self, mount_point: &Path) -> Result<BackgroundSession, Error> {
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::FSName("ashlar-powerloss".into()), MountOption::NoSuid, MountOption::NoAtime];
        config.n_threads = Some(THREADS);
        fuser::spawn_mount(Adapter::new(self.shared.clone()), mount_point, &config)
            .map_err(|source| Error::Mount { mount_point: mount_point.to_owned(), source })
    }

    /// The power fails. Of what was not synced, `seed` decides what survives; the same history and seed always give the same
    /// result. From here on every request on every mount fails with EIO until [`power_on`](Self::power_on), and files opened before
    /// stay dead even then, so kill the processes that have them.
    pub fn power_loss(&self, seed: u64) -> LossReport {
        let report = self.shared.disk().power_loss(seed);
        self.shared.announce_loss();
        report
    }

    /// The machine starts again, on what survived. The mount stays where it is; files can be opened anew.
    pub fn power_on(&self) {
        self.shared.disk().power_on();
    }

    pub fn is_powered(&self) -> bool {
        self.shared.disk().is_powered()
    }

    /// Lets the power fail by itself just before the change (write, size change, directory operation or sync) that comes
    /// after `changes` more of them. A test that tries 0, 1, 2, … visits every crash point of a program that runs the
    /// same way each time. The next power loss disarms it.
    pub fn arm(&self, changes: u64, seed: u64) {
        self.shared.disk().arm(changes, seed);
    }

    /// Waits until the armed loss has struck; `None` if it has not within `timeout`.
    pub fn wait_for_loss(&self, timeout: Duration) -> Option<LossReport> {
        let deadline = Instant::now() + timeout;
        let mut disk = self.shared.disk();
        loop {
            if let (false, Some(report)) = (disk.is_powered(), disk.loss_last()) {
                return Some(report);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            disk = self.shared.lost.wait_timeout(disk, left).expect("the disk's lock is not poisoned").0;
        }
    }

    /// With `false`, fsync, fdatasync and O_DSYNC answer that all is well and do nothing: a lying disk. A test of a program that
    /// is believed to be crash-safe should fail on it; if it does not, the test proves nothing.
    pub fn honour_sync(&self, honour: bool) {
        self.shared.disk().honour_sync(honour);
    }

    /// Makes everything durable, as sync(2) or an orderly shutdown would.
    pub fn sync_all(&self) -> Result<(), Error> {
        self.shared.disk().sync_all().map_err(|_| Error::PowerOff)
    }

    pub fn stats(&self) -> Stats {
        self.shared.disk().stats()
    }

    /// What a power loss at this moment could take.
    pub fn unsynced(&self) -> Unsynced {
        self.shared.disk().unsynced()
    }
}

/// A mount of a [`PowerLossFs`]; dropping it unmounts, forgetting nothing. If processes still use it, dropping detaches it: it is
/// gone from the tree, and what they have open goes on working until they close it or this process ends.
#[derive(Debug)]
pub struct Mounted {
    fs: PowerLossFs,
    mount_point: PathBuf,
    session: Option<BackgroundSession>,
}

impl Mounted {
    pub fn fs(&self) -> &PowerLossFs {
        &self.fs
    }

    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// See [`PowerLossFs::power_loss`].
    pub fn power_loss(&self, seed: u64) -> LossReport {
        self.fs.power_loss(seed)
    }

    /// See [`PowerLossFs::power_on`].
    pub fn power_on(&self) {
        self.fs.power_on();
    }

    /// Unmounts and mounts anew, which also turns the power on. Unlike [`power_on`](Self::power_on) it proves that nobody uses
    /// the old mount any more, and fails otherwise.
    pub fn remount(&mut self) -> Result<(), Error> {
        self.unmount()?;
        self.fs.power_on();
        self.session = Some(self.fs.start_session(&self.mount_point)?);
        Ok(())
    }

    /// Unmounts; the disk stays in the [`PowerLossFs`], as running processes last saw it: unmounting is no power loss, and no sync
    /// either. Fails, and stays mounted, while a process has a file open or stands in a directory.
    pub fn unmount(&mut self) -> Result<(), Error> {
        let failed = |source| Error::Unmount { mount_point: self.mount_point.clone(), source };
        if self.session.is_none() {
            return Ok(());
        }
        // Not by the session, which would be used up by a failed attempt.
        unmount(&self.mount_point, UnmountFlags::empty()).map_err(failed)?;
        let session = self.session.take().expect("just seen");
        session.join().map_err(failed)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.unmount().is_err()
            && let Err(error) = unmount(&self.mount_point, UnmountFlags::DETACH)
        {
            eprintln!("powerloss: {} stays mounted: {error}", self.mount_point.display());
        }
    }
}

fn unmount(mount_point: &Path, flags: UnmountFlags) -> io::Result<()> {
    match rustix::mount::unmount(mount_point, flags) {
        // Without root, only the helper that mounted it may.
        Err(rustix::io::Errno::PERM) => {
            let option = if flags.contains(UnmountFlags::DETACH) { "-uz" } else { "-u" };
            let helper = Command::new("fusermount3").args([option, "--"]).arg(mount_point).output()?;
            if helper.status.success() {
                Ok(())
            } else {
                Err(io::Error::other(String::from_utf8_lossy(&helper.stderr).trim().to_owned()))
            }
        }
        outcome => Ok(outcome?),
    }
}
