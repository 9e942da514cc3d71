//! What a front end (NBD, iSCSI, vhost-user) serves: a disk. Front ends know this trait and nothing of the cluster.

use crate::LayerId;
use bytes::Bytes;
use std::sync::Arc;

/// What does not change while a device is open, apart from `size`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Bytes; a multiple of 512. Read it again after a resize.
    pub size: u64,
    pub read_only: bool,
    /// One line for people.
    pub description: String,
}

/// A request to a device. Ranges are in bytes, inside the device, and multiples of nothing: the front end has checked them
/// against `size`, the device takes any alignment.
#[derive(Clone, Debug)]
pub enum BlockOp {
    Read {
        offset: u64,
        len: u32,
    },
    /// A write of whole blocks of which none was ever written in any layer of the device itself. Else [`BlockError::Written`], and of each chunk either
    /// all is done or nothing.
    Fill {
        offset: u64,
        data: Bytes,
    },
    /// Durable on every in-sync member when completed (R1), so FUA asks for nothing more.
    Write {
        offset: u64,
        data: Bytes,
    },
    /// Everything that completed before this was submitted, on any connection, is durable when it completes.
    Flush,
    /// The range reads as zeroes afterwards; its space is given back.
    Discard {
        offset: u64,
        len: u64,
    },
    /// The range reads as zeroes afterwards. `keep_allocated`: the space stays (or becomes) the device's own.
    WriteZeroes {
        offset: u64,
        len: u64,
        keep_allocated: bool,
    },
    /// Which parts of the range hold data.
    Extents {
        offset: u64,
        len: u64,
    },
    /// From which layer each part of the range comes. Waits for no write that is under way and holds none up: of such a one it may tell or not.
    Layers {
        offset: u64,
        len: u64,
        /// Whether what is in no layer of its own is looked for in what the device stands on.
        with_base: bool,
    },
}

#[derive(Clone, Debug)]
pub struct BlockRequest {
    /// The submitter's own number, handed back in [`Completions::complete`].
    pub tag: u64,
    pub op: BlockOp,
}

/// A stretch of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub len: u64,
    /// Whether it has space of its own; a hole has none.
    pub allocated: bool,
    /// Whether it surely reads as zeroes.
    pub zero: bool,
}

/// A stretch of a device that one layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerExtent {
    /// Bytes.
    pub len: u64,
    /// The highest layer in which it was ever written or zeroed; `None` where it was in none.
    pub layer: Option<LayerPlace>,
    /// Whether that layer has data; else it reads as zeroes.
    pub has_data: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerPlace {
    pub id: LayerId,
    /// How many layers lie above it, those of the device itself before those of what it stands on.
    pub depth: u32,
}

#[derive(Clone, Debug)]
pub enum BlockReply {
    Done,
    /// Exactly the bytes asked for, in order; in pieces, so that nobody copies them together.
    Data(Vec<Bytes>),
    /// From the beginning of the range; at least one, neighbours differ; together at most the range.
    Extents(Vec<Extent>),
    /// The same for [`BlockOp::Layers`].
    Layers(Vec<LayerExtent>),
    /// Of a [`BlockOp::Fill`]. Busy: clients with small requests are at work where it was done.
    Filled {
        is_busy: bool,
    },
}

/// Why a device refused or failed a request; a front end maps it to its protocol's errors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    #[error("the pool is full")]
    NoSpace,
    #[error("the device is read-only")]
    ReadOnly,
    #[error("outside the device")]
    OutOfRange,
    #[error("the attachment was taken over or the volume deleted")]
    Fenced,
    #[error("no good copy of the data is left: {detail}")]
    Medium { detail: String },
    #[error("what was to be filled is written already")]
    Written,
    #[error("the gateway is shutting down")]
    ShuttingDown,
}

/// Where a device reports what it has done. Called from the device's threads; must not block.
pub trait Completions: Send + Sync {
    fn complete(&self, tag: u64, result: Result<BlockReply, BlockError>);
}

/// A disk that takes many requests at a time and completes them in any order. A request is never dropped: each gets exactly
/// one completion, maybe before `submit` returns. Requests whose ranges overlap take effect in the order of submission.
pub trait BlockDevice: Send + Sync {
    fn info(&self) -> DeviceInfo;

    /// Never blocks. The caller bounds how much it has in flight.
    fn submit(&self, request: BlockRequest, completions: &Arc<dyn Completions>);
}
