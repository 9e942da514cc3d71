//! Why an OSD daemon or `mkfs` gave up. Each says what and where; a variant is what an operator does next.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum OsdError {
    #[error("configuration: {key}: {reason}")]
    Config { key: &'static str, reason: String },
    #[error("configuration file {}: {source}", path.display())]
    ConfigFile { path: PathBuf, source: io::Error },
    #[error("configuration file {}: {source}", path.display())]
    ConfigSyntax { path: PathBuf, source: Box<toml::de::Error> },

    #[error("disk {}: cannot be {action}: {source}", disk.display())]
    Disk { disk: PathBuf, action: &'static str, source: io::Error },
    #[error("disk {}: is neither a block device nor a regular file", disk.display())]
    NotADisk { disk: PathBuf },
    #[error("disk {}: is read-only", disk.display())]
    ReadOnly { disk: PathBuf },
    #[error("disk {}: another process uses it (a running OSD, a mounted file system, LVM, or RAID)", disk.display())]
    InUse { disk: PathBuf },
    #[error("disk {}: has {have} bytes, the configuration says {need}", disk.display())]
    TooSmall { disk: PathBuf, have: u64, need: u64 },
    #[error("disk {}: holds {found}; nothing was written. Use --force to destroy it", disk.display())]
    Occupied { disk: PathBuf, found: String },
    /// The file system under a disk file is full; the disk itself is undamaged.
    #[error("disk {}: the file system that holds this file is full; free some space and start the OSD again", disk.display())]
    HostFull { disk: PathBuf },
    /// The store gave up: wrong disk, damage, a failed write or flush.
    #[error("disk {}: {reason}", disk.display())]
    Failed { disk: PathBuf, reason: String },

    #[error("listening on {address}: {source}")]
    Listen { address: String, source: io::Error },
    #[error(
        "the kernel refuses io_uring ({source}); it may be disabled by kernel.io_uring_disabled or a seccomp filter"
    )]
    Ring { source: io::Error },
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },
    #[error("{source}")]
    Control { source: ashlar_wire_control::ControlClientError },
    /// Another process serves this OSD now, or the cluster doesn't know it.
    #[error("{osd} is refused by the metadata service: {source}")]
    Refused { osd: ashlar_types::OsdId, source: ashlar_types::control::ControlError },
}
