//! `ashlar osd inspect` and `fsck`: look at a disk without the cluster. Both only read.

use crate::args::{FsckArgs, InspectArgs, InspectKind};
use crate::error::CliError;
use crate::output::Output;
use ashlar_osd_core::store::fsck::{FsckReport, fsck as check};
use ashlar_osd_core::store::inspect::{InspectWhat, inspect as look};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde_json::Value;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub fn inspect(args: &InspectArgs) -> Result<Output, CliError> {
    let file = open(&args.path)?;
    let what = match (args.what, args.chunk) {
        (InspectKind::Superblock, _) => InspectWhat::Superblock,
        (InspectKind::Log, _) => InspectWhat::Log,
        (InspectKind::Checkpoint, _) => InspectWhat::Checkpoint,
        (InspectKind::Directory, _) => InspectWhat::Directory,
        (InspectKind::Pgs, _) => InspectWhat::Pgs,
        (InspectKind::Chunk, Some(chunk)) => InspectWhat::Chunk(chunk),
        (InspectKind::Chunk, None) => {
            return Err(CliError::Conflict { what: "say which chunk, as LAYER/INDEX".into() });
        }
    };
    let inspection = look(&mut |at, len| read(&file, at, len), what);
    let failure = match (inspection.items.is_empty(), inspection.problems.first()) {
        (true, Some(first)) => Some(format!("{}: {first}", args.path.display())),
        _ => None,
    };
    Ok(Output::new(inspection.to_string(), to_json(&inspection)).failed(failure))
}

pub fn fsck(args: &FsckArgs) -> Result<Output, CliError> {
    let file = open(&args.path)?;
    // A running OSD holds the disk: what it is changing would look like damage.
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(CliError::DiskInUse { path: args.path.clone() }),
        Err(errno) => return Err(CliError::File { action: "lock", path: args.path.clone(), source: errno.into() }),
    }
    let report = check(&mut |at, len| read(&file, at, len), !args.no_data);
    Ok(Output::new(report.to_string(), to_json(&report)).failed(verdict(&args.path, &report)))
}

fn verdict(path: &Path, report: &FsckReport) -> Option<String> {
    let first = report.problems.first()?;
    Some(match report.problems.len() {
        1 => format!("{}: {first}", path.display()),
        count => format!("{}: {count} problems, the first: {first}", path.display()),
    })
}

fn open(path: &Path) -> Result<File, CliError> {
    File::open(path).map_err(|source| CliError::File { action: "open", path: path.to_owned(), source })
}

fn read(file: &File, at: u64, len: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; len as usize];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

fn to_json(report: &impl serde::Serialize) -> Value {
    serde_json::to_value(report).expect("reports have a JSON form")
}
