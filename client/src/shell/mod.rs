//! The session on tokio. One task for each volume runs its core, its connections and its clock; whoever submits only puts
//! the request into a queue. Views come once for all volumes of a process.

mod base;
mod cluster;
mod connection;
mod control;
mod engine;
mod gateway;
mod observer;
mod presence;
mod shrink;
mod volume;
mod worker;

pub use cluster::Cluster;
pub use control::{Control, ControlFuture};
pub use gateway::{Gateway, GatewayOptions, OpenVolume};
pub use observer::{DiskId, DiskState, Observer};
pub use volume::{OpenError, SizeMark, Volume};
