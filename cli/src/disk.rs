//! Disks of OSDs: block devices, or files that stand in for them.

use crate::config::OsdDaemonConfig;
use crate::error::CliError;
use ashlar_osd_core::format::superblock::{SLOTS, Superblock};
use ashlar_types::{ClusterId, OsdId};
use rustix::fs::FallocateFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How a disk is made ready.
#[derive(Clone, Copy, Debug)]
pub struct NewDisk {
    /// Make it a file of this size, if it isn't there.
    pub bytes: Option<u64>,
    pub preallocate: bool,
    /// Also if it holds something.
    pub force: bool,
}

/// The size of a file or block device.
pub fn bytes(path: &Path) -> io::Result<u64> {
    File::open(path)?.seek(SeekFrom::End(0))
}

/// Refuses what [`prepare`] would refuse, and writes nothing: an id that was taken for a disk can't be given back. The ids in
/// `config` don't matter.
pub async fn check(config: OsdDaemonConfig, new: NewDisk) -> Result<(), CliError> {
    aside(move || check_now(&config, &new)).await
}

/// Writes an empty store for an OSD that has never run.
pub async fn prepare(config: OsdDaemonConfig, new: NewDisk) -> Result<(), CliError> {
    aside(move || prepare_now(&config, &new)).await
}

/// On another thread: it may take seconds, and connections want to be kept alive meanwhile.
async fn aside(work: impl FnOnce() -> Result<(), CliError> + Send + 'static) -> Result<(), CliError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

fn check_now(config: &OsdDaemonConfig, new: &NewDisk) -> Result<(), CliError> {
    let path = &config.disk;
    let found = match std::fs::metadata(path) {
        Ok(found) => Some(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(CliError::File { action: "find", path: path.clone(), source }),
    };
    match (new.bytes, found) {
        (Some(_), Some(found)) if !found.is_file() => {
            Err(CliError::Conflict { what: format!("{} is no file that could be given a size", path.display()) })
        }
        (Some(_), Some(found)) if found.len() > 0 => Ok(ashlar_osd::check_disk(config, new.force)?),
        // It is made, or filled, with this size.
        (Some(bytes), _) => Ok(ashlar_osd::check_size(config, bytes)?),
        (None, _) => Ok(ashlar_osd::check_disk(config, new.force)?),
    }
}

fn prepare_now(config: &OsdDaemonConfig, new: &NewDisk) -> Result<(), CliError> {
    let path = &config.disk;
    make_file(path, new).map_err(|source| CliError::File { action: "make disk file", path: path.clone(), source })?;
    // Its own superblock, though it never ran: the last attempt was interrupted, maybe before it was whole.
    let is_remade = owner(path) == Some((config.cluster, config.osd));
    Ok(ashlar_osd::mkfs(config, new.force || is_remade)?)
}

fn make_file(path: &Path, new: &NewDisk) -> io::Result<()> {
    let Some(bytes) = new.bytes else { return Ok(()) };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    // One that has a size is somebody's, or was made by an attempt before this; whether it may be used, mkfs decides.
    let is_fresh = file.metadata()?.len() == 0;
    let made = fill(&file, bytes, new.preallocate, is_fresh);
    if made.is_err() && is_fresh {
        // Another attempt may want another size, and the host its space back.
        let _ = std::fs::remove_file(path);
    }
    made
}

fn fill(file: &File, bytes: u64, preallocate: bool, is_fresh: bool) -> io::Result<()> {
    if is_fresh {
        file.set_len(bytes)?;
    }
    if preallocate {
        rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes)?;
    }
    file.sync_all()
}

/// Whose disk it is, as far as its superblocks are readable.
pub fn owner(path: &Path) -> Option<(ClusterId, OsdId)> {
    let file = File::open(path).ok()?;
    SLOTS.iter().find_map(|at| {
        let mut bytes = vec![0u8; 4096];
        file.read_exact_at(&mut bytes, *at).ok()?;
        let identity = Superblock::decode(&bytes).ok()?.identity;
        Some((identity.cluster, identity.osd))
    })
}
