//! The admin commands: each asks the metadata service and says the answer to people or to programs.

pub mod attach;
mod barrier;
pub mod bin;
pub mod chaos;
mod clone;
pub mod detach;
pub mod disk;
pub mod export;
mod group;
pub mod import;
pub mod inspect;
mod kept;
mod merges;
pub mod osd;
pub mod perf;
pub mod pool;
pub mod scrub;
pub mod snapshot;
pub mod status;
mod time;
mod tree;
pub mod volume;
