//! Why bytes are not a frame. After any of these the stream cannot be trusted: the connection is closed.

use crate::frame::Kind;
use ashlar_types::{ClusterId, Crc};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("not the data protocol: a frame begins with {found:02x?}")]
    Magic { found: [u8; 4] },
    #[error("data protocol version {found}, known is {known}")]
    Version { found: u16, known: u16 },
    #[error("unknown kind of frame: {found}")]
    Kind { found: u16 },
    #[error("a frame of cluster {found}, this is {expected}")]
    WrongCluster { expected: ClusterId, found: ClusterId },
    #[error("{kind:?} before the hello")]
    NotGreeted { kind: Kind },
    #[error("{kind:?}: {what} of {found} bytes, at most {most}")]
    TooLong { kind: Kind, what: &'static str, found: u64, most: u64 },
    #[error("{kind:?}: {what} checksum {found}, expected {expected}")]
    Checksum { kind: Kind, what: &'static str, expected: Crc, found: Crc },
    #[error("{kind:?}: reserved or padding bytes are not zero")]
    Reserved { kind: Kind },
    #[error("{kind:?}: the body ends within a field")]
    Short { kind: Kind },
    #[error("{kind:?}: {left} bytes behind the last field")]
    Trailing { kind: Kind, left: usize },
    #[error("{kind:?}: {value} is no {what}")]
    Tag { kind: Kind, what: &'static str, value: u64 },
    #[error("{kind:?}: {items} items in a list, at most {most}")]
    List { kind: Kind, items: u64, most: u64 },
    #[error("{kind:?}: {what}")]
    Contradiction { kind: Kind, what: &'static str },
}
