//! NBD: a front end over [`ashlar_types::BlockDevice`]. `protocol` turns bytes into requests and answers into bytes and does
//! no I/O; `server` is the thin tokio shell around it. Neither knows anything of the cluster.
//!
//! The clauses named in comments are those of the NBD specification, `doc/proto.md` of NetworkBlockDevice/nbd.

#[cfg(any(test, feature = "testing"))]
pub mod memory;
pub mod protocol;
pub mod server;

pub use protocol::Session;
pub use server::{ExportEntry, ExportFuture, Exports, Limits, OpenError, Server};
