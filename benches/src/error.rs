//! What can go wrong in a measurement. The texts are for people.

use ashlar_client::OpenError;
use ashlar_types::BlockError;
use ashlar_wire_control::ControlClientError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("cannot {action} {path}: {source}")]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot run {program}: {source}")]
    Spawn { program: String, source: io::Error },
    #[error("`{command}` failed ({status}): {message}")]
    Command { command: String, status: String, message: String },
    #[error("`{command}` printed something else than expected: {reason}")]
    Output { command: String, reason: String },
    #[error("{what} took longer than {} s", .waited.as_secs())]
    Late { what: String, waited: Duration },
    #[error(transparent)]
    Control(#[from] ControlClientError),
    #[error(transparent)]
    Open(Box<OpenError>),
    #[error("{op} of {len} bytes at {offset}: {reason}")]
    Io { op: &'static str, offset: u64, len: u32, reason: BlockError },
    /// The worst thing that a measurement can find.
    #[error("wrong data in block {block}: {found}, expected {expected}")]
    WrongData { block: u64, found: String, expected: String },
    #[error("{0}")]
    Wrong(String),
    #[error("not reached: {0}")]
    Missed(String),
}

impl BenchError {
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> BenchError {
        let path = path.into();
        move |source| BenchError::File { action, path, source }
    }
}

impl From<OpenError> for BenchError {
    fn from(error: OpenError) -> BenchError {
        BenchError::Open(Box::new(error))
    }
}
