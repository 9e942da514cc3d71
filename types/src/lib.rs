//! Words that every part of Ashlar shares: ids, epochs and versions, geometry, checksums, payload buffers, the cluster
//! view that the metadata service publishes, the control requests it takes, and the [`BlockDevice`] trait that
//! front ends serve. Nothing here does I/O, and nothing here knows another Ashlar package.

mod block_device;
mod busy_poll;
mod checksum;
mod disk_name;
mod geometry;
mod histogram;
mod id_set;
mod ids;
mod name;
mod payload;
mod size;
mod time;
mod version;

pub mod control;
pub mod job;
pub mod perf;
pub mod scrub;
pub mod view;
pub mod wipe;

pub use block_device::{
    BlockDevice, BlockError, BlockOp, BlockReply, BlockRequest, Completions, DeviceInfo, Extent, LayerExtent,
    LayerPlace,
};
pub use busy_poll::BusyPoll;
pub use checksum::Crc;
pub use disk_name::DiskName;
pub use geometry::{
    BLOCK_BYTES, BLOCKS_PER_CHUNK, BlockIndex, BlockRange, CHUNK_BYTES, ChunkSlice, SECTOR_BYTES, STACK_LAYERS_MAX,
    split_by_chunk,
};
pub use histogram::Histogram;
pub use id_set::{IdSet, Numbered};
pub use ids::{
    AttachmentId, BootId, ChunkId, ChunkIndex, ClusterId, Generation, JobId, LayerId, MdsId, OpId, OpNumber, OsdId,
    PgId, PoolId, Revision, SessionId, SnapshotId, StackRevision, VolumeId, WipeId,
};
pub use name::{Name, NameError};
pub use payload::aligned_payload;
pub use size::{SizeError, format_bytes, parse_size, size_text};
pub use time::{Duration, Tick};
pub use version::{Epoch, Seq, Version};
