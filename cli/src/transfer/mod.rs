//! Copies between files and disks of the cluster: a thread reads or writes the file, tasks move the pieces, with so many under way that the
//! slower side is busy and memory stays bounded.

mod disk;
mod progress;
mod qcow2;
mod sink;
mod source;

pub use disk::Disk;
pub use progress::Progress;
pub use sink::{Sink, SinkError};
pub use source::{Source, SourceError};

use crate::error::CliError;
use ashlar_types::BlockError;
use bytes::Bytes;
use std::fmt;
use std::str::FromStr;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinError;

/// Bytes of a request at most.
pub const PIECE_BYTES: u32 = 1 << 20;
/// Pieces under way at most, and as many more between the thread and the tasks.
pub const WINDOW: usize = 16;
/// Zeroes of this length, aligned to it, are left out.
const GRANULE: usize = 64 << 10;

/// Why a copy ended early.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("at byte {offset}")]
    Volume { offset: u64, source: BlockError },
    #[error("interrupted")]
    Interrupted,
    #[error("our own bug")]
    Task(#[from] JoinError),
}

/// Ctrl-C, from now on: whatever the command has begun by then it ends in order.
pub fn interrupts() -> Result<Signal, CliError> {
    signal(SignalKind::interrupt()).map_err(|source| CliError::System { what: "cannot wait for Ctrl-C", source })
}

/// Of a disk, in order and without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes from the beginning of the disk.
    pub offset: u64,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// At most [`PIECE_BYTES`].
    Data(Bytes),
    /// So many bytes.
    Zero(u64),
}

impl Piece {
    pub fn len(&self) -> u64 {
        match &self.content {
            Content::Data(data) => data.len() as u64,
            Content::Zero(len) => *len,
        }
    }
}

/// What files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    Raw,
    Qcow2,
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ImageFormat::Raw => "raw",
            ImageFormat::Qcow2 => "qcow2",
        })
    }
}

impl FromStr for ImageFormat {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<ImageFormat, &'static str> {
        match text {
            "raw" => Ok(ImageFormat::Raw),
            "qcow2" => Ok(ImageFormat::Qcow2),
            _ => Err("the formats are raw and qcow2"),
        }
    }
}

/// The piece, with its long runs of zeroes apart.
pub fn split_zeroes(offset: u64, data: &Bytes) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut at = 0;
    for run in data.chunks(GRANULE).collect::<Vec<_>>().chunk_by(|a, b| is_zero(a) == is_zero(b)) {
        let len: usize = run.iter().map(|granule| granule.len()).sum();
        let content = if is_zero(run[0]) { Content::Zero(len as u64) } else { Content::Data(data.slice(at..at + len)) };
        pieces.push(Piece { offset: offset + at as u64, content });
        at += len;
    }
    pieces
}

pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_zeroes_are_told_from_data_and_short_ones_are_not() {
        let mut bytes = vec![0; 5 * GRANULE + 100];
        bytes[GRANULE] = 1;
        bytes[3 * GRANULE - 1] = 2;
        let bytes = Bytes::from(bytes);
        let granule = GRANULE as u64;
        let expected = [
            Piece { offset: 7, content: Content::Zero(granule) },
            Piece { offset: 7 + granule, content: Content::Data(bytes.slice(GRANULE..3 * GRANULE)) },
            Piece { offset: 7 + 3 * granule, content: Content::Zero(2 * granule + 100) },
        ];
        assert_eq!(split_zeroes(7, &bytes), expected);
        assert_eq!(split_zeroes(0, &Bytes::new()), []);
    }
}
