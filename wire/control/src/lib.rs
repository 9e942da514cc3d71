//! The control protocol on the network: gRPC around the plain types of `ashlar_types::control` and `ashlar_types::view`.
//!
//! - [`proto`]: what is generated from proto/control.proto; servers implement its service traits.
//! - [`convert`]: proto to plain types and back. What comes from the network is checked; a [`ProtoError`] names the field.
//! - [`ControlClient`]: finds the leader, retries what is safe to retry, watches the view, sends heartbeats.

mod client;
pub mod convert;

pub use client::{ControlClient, ControlClientError, HeartbeatStream};
pub use convert::ProtoError;

/// The largest message taken, in bytes: a view or a Raft snapshot of a large cluster.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Generated from proto/control.proto.
pub mod proto {
    // Generated code keeps its own style.
    #![allow(clippy::all, missing_debug_implementations)]
    tonic::include_proto!("ashlar.control.v1");
}

#[cfg(test)]
mod tests;
