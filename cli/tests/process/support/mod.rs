//! What the tests share: clusters that clean up, programs that must work, a small NBD client.

pub mod cluster;
pub mod history;
pub mod nbd;
pub mod tools;

pub use cluster::Cluster;
pub use tools::{missing, run, run_ok};
