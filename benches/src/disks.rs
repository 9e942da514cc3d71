//! The disks under a measured cluster, and one more of the same kind for measuring it raw.

use crate::error::BenchError;
use crate::sandbox::Sandbox;
use clap::ValueEnum;
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Medium {
    /// Loop devices over files in RAM where that is allowed, so that the device isn't the limit; else the files themselves.
    Ram,
    /// Files on the host's disk.
    File,
}

#[derive(Clone, Debug)]
pub struct Disk {
    pub path: PathBuf,
    /// `loop3`.
    pub loop_name: Option<String>,
}

#[derive(Debug)]
pub struct Disks {
    /// For the header of a table.
    pub description: String,
    pub osds: Vec<Disk>,
    pub raw: Disk,
    /// Where the cluster's folder comes: beside the disks.
    pub folder: PathBuf,
}

pub const RAM: &str = "/dev/shm";

impl Disks {
    pub fn make(
        sandbox: &Sandbox,
        medium: Medium,
        file_parent: &Path,
        osds: usize,
        osd_bytes: u64,
        raw_bytes: u64,
    ) -> Result<Disks, BenchError> {
        let parent = if medium == Medium::Ram { Path::new(RAM) } else { file_parent };
        let folder = sandbox.folder(parent)?;
        let with_loops = medium == Medium::Ram && rustix::process::geteuid().is_root();
        let make = |name: String, bytes: u64| -> Result<Disk, BenchError> {
            let path = folder.join(name);
            let file = File::create_new(&path).map_err(BenchError::file("make", &path))?;
            file.set_len(bytes).map_err(BenchError::file("size", &path))?;
            if medium == Medium::File {
                rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)
                    .map_err(|errno| BenchError::file("reserve", &path)(errno.into()))?;
            }
            if !with_loops {
                return Ok(Disk { path, loop_name: None });
            }
            let device = sandbox.loop_device(&path)?;
            let loop_name = device.file_name().map(|name| name.to_string_lossy().into_owned());
            Ok(Disk { path: device, loop_name })
        };
        let raw = make("raw".to_owned(), raw_bytes)?;
        let osds = (1..=osds).map(|n| make(format!("disk.{n}"), osd_bytes)).collect::<Result<_, _>>()?;
        let description = match (medium, with_loops) {
            (Medium::Ram, true) => "loop devices (direct I/O) over files in RAM",
            (Medium::Ram, false) => "files in RAM",
            (Medium::File, _) => "files on the disk",
        };
        Ok(Disks { description: description.to_owned(), osds, raw, folder })
    }
}

/// What a loop device has done since it was set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceCounts {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub flushes: u64,
}

impl DeviceCounts {
    /// From `/sys/block/NAME/stat` (Documentation/block/stat.rst): field 3 is sectors read, field 7 sectors written, field 16 flushes.
    pub fn of(loop_name: &str) -> Option<DeviceCounts> {
        DeviceCounts::parse(&std::fs::read_to_string(format!("/sys/block/{loop_name}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<DeviceCounts> {
        let fields: Vec<u64> = text.split_whitespace().map_while(|field| field.parse().ok()).collect();
        Some(DeviceCounts {
            read_bytes: fields.get(2)? * 512,
            written_bytes: fields.get(6)? * 512,
            flushes: fields.get(15).copied().unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_and_flushes_are_found_in_stat() {
        let counts = DeviceCounts::parse("1 2 3 4 5 6 16 8 9 10 11 12 13 14 15 77 17\n").expect("17 fields");
        assert_eq!((counts.read_bytes, counts.written_bytes, counts.flushes), (1536, 8192, 77));
        assert!(DeviceCounts::parse("1 2").is_none());
    }
}
