//! The volume library: what a gateway needs to do I/O on a volume. It cuts requests into parts of chunks, sends each to the
//! primary of its PG, retries across reconfigurations without the caller noticing, and verifies checksums end to end.
//!
//! - [`core`] is the state machine of one attachment session; it does no I/O, and the simulator runs it too.
//! - [`shell`] runs it on tokio: [`Volume`] is a [`BlockDevice`](ashlar_types::BlockDevice), [`Gateway`] shares volumes
//!   among connections.

#![forbid(unsafe_code)]

pub mod core;
pub mod shell;

pub use shell::{
    Cluster, Control, DiskId, DiskState, Gateway, GatewayOptions, Observer, OpenError, OpenVolume, SizeMark, Volume,
};
