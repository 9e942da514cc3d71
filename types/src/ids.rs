//! Ids. Each is its own type, so that an OSD is never taken for a pool. Ids are handed out by the metadata service and
//! never used twice.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(/// One metadata node, numbered from 1 (Raft reserves 0).
    MdsId(u64), "mds.");
id!(/// One OSD: one disk, one process.
    OsdId(u32), "osd.");
id!(/// One start of one OSD process, drawn at random at start. A newer boot of an OSD proves the older one dead (R5, R7).
    BootId(u64), "boot.");
id!(/// A pool.
    PoolId(u32), "pool.");
id!(/// A volume.
    VolumeId(u64), "vol.");
id!(/// A layer of a volume: a map from blocks to data (design.md §1.1). Never used again after it is purged.
    LayerId(u64), "layer.");
id!(/// A snapshot of a volume.
    SnapshotId(u64), "snap.");
id!(/// A job: what a worker does for a volume, however long that takes.
    JobId(u64), "job.");
id!(/// A volume that is deleted securely, with the record of that.
    WipeId(u64), "wipe.");
id!(/// An attachment of a volume to a gateway. It keeps its id while its generation rises.
    AttachmentId(u64), "att.");
id!(/// Rises each time an attachment is taken over; below the floor of a PG, requests are refused (design.md §7).
    Generation(u32), "gen.");
id!(/// Rises each time the stack of layers of a volume changes.
    StackRevision(u32), "stack.");
id!(/// One client of one attachment generation. A session numbers its requests (R10).
    SessionId(u64), "session.");
id!(/// The number of a request in its session, from 1, rising.
    OpNumber(u64), "op.");
id!(/// The revision of the metadata state: the Raft index of the command that last changed it.
    Revision(u64), "rev.");
id!(/// The place of a chunk in its layer: byte offset / [`CHUNK_BYTES`](crate::CHUNK_BYTES).
    ChunkIndex(u32), "chunk.");

/// The identity of a cluster, drawn at random when it is made. Every structure on disk and every frame carries it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub u128);

impl AttachmentId {
    /// Of nobody in particular: what is frozen changes for nobody, so who reads it needs no attachment that could be fenced. Never given out.
    pub const FROZEN: AttachmentId = AttachmentId(0);
}

impl SessionId {
    /// A session that a process draws at random for itself, to read what is frozen. The metadata service counts its own from 1 and never
    /// gets here.
    pub fn drawn(random: u64) -> SessionId {
        SessionId(random | 1 << 63)
    }
}

impl StackRevision {
    /// Of a volume that never had another stack than its first layer.
    pub const FIRST: StackRevision = StackRevision(1);
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A placement group: the unit of replication.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct PgId {
    pub pool: PoolId,
    pub index: u32,
}

impl fmt::Display for PgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pg.{}.{}", self.pool.0, self.index)
    }
}

impl fmt::Debug for PgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A chunk: 4 MiB of one layer at one index, the unit of placement and of versions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ChunkId {
    pub layer: LayerId,
    pub index: ChunkIndex,
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.layer, self.index)
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The retry id of a request (R10): unique in the life of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct OpId {
    pub session: SessionId,
    pub number: OpNumber,
}

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.session, self.number)
    }
}

impl fmt::Debug for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
