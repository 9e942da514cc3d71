//! Makes a disk an OSD, once. Refuses a disk that holds anything known, unless forced.

use crate::config::OsdDaemonConfig;
use crate::disk::Disk;
use crate::error::OsdError;
use crate::ring::{Completion, Done, Op, Ring};
use crate::signature;
use ashlar_osd_core::store::Store;
use ashlar_osd_core::store::api::StoreConfig;
use ashlar_osd_core::{DiskOp, Honest};
use ashlar_types::aligned_payload;
use bytes::Bytes;
use std::io;
use std::path::Path;

const PAGE: u64 = 4096;

/// What the store of this configuration is on this disk.
pub(crate) fn store_config(config: &OsdDaemonConfig, disk: &Disk) -> Result<StoreConfig, OsdError> {
    let capacity = config.capacity.unwrap_or(disk.size / PAGE * PAGE);
    if disk.size < capacity {
        return Err(OsdError::TooSmall { disk: disk.path.clone(), have: disk.size, need: capacity });
    }
    Ok(StoreConfig {
        cluster: config.cluster,
        osd: config.osd,
        capacity,
        log_bytes: config.log_bytes(capacity),
        index_cache_bytes: config.index_cache_bytes(),
        volatile_cache: disk.has_volatile_cache,
        write_through: disk.has_volatile_cache && disk.is_block_device && disk.is_direct,
    })
}

/// Creates a sparse file to stand in for a disk. An existing file is left alone and is an error.
pub fn create_disk_file(path: &Path, bytes: u64) -> Result<(), OsdError> {
    let failed = |source| OsdError::Disk { disk: path.to_owned(), action: "created", source };
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    file.set_len(bytes).and_then(|()| file.sync_all()).map_err(|source| {
        // A file of the wrong size would be taken for a disk next time.
        let _ = std::fs::remove_file(path);
        failed(source)
    })
}

/// Writes an empty store. Without `force`, a disk that holds an OSD, a file system, a partition table or the like is
/// left as it is.
pub fn mkfs(config: &OsdDaemonConfig, force: bool) -> Result<(), OsdError> {
    let (mut maker, store) = examine(config, force)?;
    let ops = format(config, &store)?;
    let is_zeroed = maker.zero(store.capacity);
    for op in ops {
        maker.perform(op, is_zeroed)?;
    }
    maker.perform(DiskOp::Flush, is_zeroed)?;
    tracing::info!(osd = config.osd.0, disk = %config.disk.display(), capacity = store.capacity, "formatted");
    Ok(())
}

/// Refuses what [`mkfs`] would refuse, and writes nothing: for who has yet to take an id for this disk, and could not give it back.
/// Which OSD of which cluster it is to be makes no difference.
pub fn check_disk(config: &OsdDaemonConfig, force: bool) -> Result<(), OsdError> {
    let (_, store) = examine(config, force)?;
    format(config, &store).map(drop)
}

/// The same for a disk file of so many bytes that is yet to be made.
pub fn check_size(config: &OsdDaemonConfig, bytes: u64) -> Result<(), OsdError> {
    config.check()?;
    let capacity = bytes / PAGE * PAGE;
    let store = StoreConfig {
        cluster: config.cluster,
        osd: config.osd,
        capacity,
        log_bytes: config.log_bytes(capacity),
        index_cache_bytes: config.index_cache_bytes(),
        volatile_cache: true,
        write_through: false,
    };
    format(config, &store).map(drop)
}

/// The disk, opened, and what its store would be.
fn examine(config: &OsdDaemonConfig, force: bool) -> Result<(Maker, StoreConfig), OsdError> {
    config.check()?;
    let disk = Disk::open(&config.disk)?;
    let store = store_config(config, &disk)?;
    let mut maker = Maker { ring: Ring::new().map_err(|source| OsdError::Ring { source })?, disk };
    if !force && let Some(found) = signature::find(&maker.beginning()?) {
        return Err(OsdError::Occupied { disk: maker.disk.path.clone(), found });
    }
    Ok((maker, store))
}

/// What has to be written; refuses a size on which no store fits.
fn format(config: &OsdDaemonConfig, store: &StoreConfig) -> Result<Vec<DiskOp>, OsdError> {
    Store::<Honest>::format(store).map_err(|e| OsdError::Failed { disk: config.disk.clone(), reason: e.to_string() })
}

/// One disk and a ring that works on it, one operation at a time.
struct Maker {
    ring: Ring<()>,
    disk: Disk,
}

impl Maker {
    fn run(&mut self, op: Op) -> io::Result<Op> {
        self.ring.submit((), op);
        let mut completions: Vec<Completion<()>> = Vec::new();
        while completions.is_empty() {
            self.ring.enter(1, None)?;
            self.ring.completions(&mut completions);
        }
        let Completion { op, result, .. } = completions.remove(0);
        match result? {
            Done::Bytes(_) => Ok(op),
            Done::Accepted(_) => unreachable!("nothing is accepted here"),
        }
    }

    fn beginning(&mut self) -> Result<Bytes, OsdError> {
        let len = signature::LOOK_BYTES.min(usize::try_from(self.disk.size / PAGE * PAGE).unwrap_or(usize::MAX));
        if len == 0 {
            return Ok(Bytes::new());
        }
        let read = Op::Read { file: self.disk.file.clone(), at: 0, len, buffer: aligned_payload(len) };
        match self.run(read) {
            Ok(Op::Read { buffer, .. }) => Ok(buffer.freeze()),
            Ok(_) => unreachable!("the ring gives back what was submitted"),
            Err(source) => Err(self.failed("read", source)),
        }
    }

    /// Gives everything back to the device or file system, after which it reads as zeroes; false where it can't.
    fn zero(&mut self, len: u64) -> bool {
        self.run(Op::Discard { file: self.disk.file.clone(), at: 0, len }).is_ok()
    }

    fn perform(&mut self, op: DiskOp, is_zeroed: bool) -> Result<(), OsdError> {
        let file = self.disk.file.clone();
        let (action, op) = match op {
            DiskOp::Write { data, .. } if is_zeroed && data.iter().all(|d| d.iter().all(|b| *b == 0)) => return Ok(()),
            DiskOp::Write { at, data, through } => {
                ("written", Op::Write { file, at, pieces: self.disk.aligned(data).0, through })
            }
            DiskOp::Flush => ("flushed", Op::Flush { file }),
            DiskOp::Discard { .. } | DiskOp::Read { .. } => unreachable!("formatting writes and flushes"),
        };
        self.run(op).map(drop).map_err(|source| self.failed(action, source))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> OsdError {
        let disk = self.disk.path.clone();
        if source.kind() == io::ErrorKind::StorageFull && !self.disk.is_block_device {
            return OsdError::HostFull { disk };
        }
        OsdError::Disk { disk, action, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::{ClusterId, OsdId};

    fn config(dir: &tempfile::TempDir) -> OsdDaemonConfig {
        let mds = vec!["127.0.0.1:1".to_owned()];
        let config = OsdDaemonConfig::new(dir.path().join("disk"), OsdId(4), ClusterId(99), mds);
        OsdDaemonConfig { listen: "127.0.0.1:0".into(), ..config }
    }

    #[test]
    fn a_new_disk_is_formatted_once_and_again_only_by_force() {
        let dir = tempfile::tempdir().expect("a folder");
        let config = config(&dir);
        create_disk_file(&config.disk, 128 << 20).expect("created");
        assert!(create_disk_file(&config.disk, 128 << 20).is_err());
        mkfs(&config, false).expect("formatted");
        let refused = mkfs(&config, false).expect_err("it holds an OSD").to_string();
        assert!(refused.contains("osd.4 of cluster 00000000000000000000000000000063"), "{refused}");
        mkfs(&config, true).expect("forced");
    }

    #[test]
    fn a_file_system_is_not_destroyed() {
        let dir = tempfile::tempdir().expect("a folder");
        let config = config(&dir);
        create_disk_file(&config.disk, 128 << 20).expect("created");
        let mut content = vec![0; 8192];
        content[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        let file = std::fs::OpenOptions::new().write(true).open(&config.disk).expect("opened");
        std::os::unix::fs::FileExt::write_all_at(&file, &content, 0).expect("written");
        let refused = mkfs(&config, false).expect_err("it holds a file system");
        assert!(matches!(refused, OsdError::Occupied { .. }), "{refused}");
        assert_eq!(std::fs::read(&config.disk).expect("readable")[..8192], content);
    }

    #[test]
    fn what_would_be_refused_is_known_before_anything_is_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let config = config(&dir);
        check_size(&config, 128 << 20).expect("large enough");
        assert!(matches!(check_size(&config, 16 << 20), Err(OsdError::Failed { .. })), "no store fits into 16 MiB");
        assert!(!config.disk.exists(), "a size is judged without a file");
        create_disk_file(&config.disk, 128 << 20).expect("created");
        check_disk(&config, false).expect("empty");
        let content = std::fs::read(&config.disk).expect("readable");
        assert!(content.iter().all(|byte| *byte == 0), "a check writes nothing");
        mkfs(&config, false).expect("formatted");
        assert!(matches!(check_disk(&config, false), Err(OsdError::Occupied { .. })));
        check_disk(&config, true).expect("forced");
        let small = OsdDaemonConfig { disk: dir.path().join("small"), ..config };
        create_disk_file(&small.disk, 16 << 20).expect("created");
        assert!(matches!(check_disk(&small, false), Err(OsdError::Failed { .. })));
    }

    #[test]
    fn a_disk_that_is_too_small_is_refused_by_its_size() {
        let dir = tempfile::tempdir().expect("a folder");
        let config = OsdDaemonConfig { capacity: Some(128 << 20), ..config(&dir) };
        create_disk_file(&config.disk, 64 << 20).expect("created");
        let refused = mkfs(&config, false).expect_err("too small");
        assert!(matches!(refused, OsdError::TooSmall { have: 67_108_864, need: 134_217_728, .. }), "{refused}");
    }
}
