//! The admin commands: each asks the metadata service and says the answer to people or to programs.

pub mod attach;
mod barrier;
pub mod chaos;
mod clone;
pub mod detach;
mod diff;
pub mod disk;
pub mod export;
mod flatten;
mod group;
pub mod import;
pub mod inspect;
pub mod job;
mod kept;
mod merges;
pub mod osd;
pub mod perf;
pub mod pool;
mod reserve;
pub mod scrub;
mod set;
pub mod snapshot;
mod space;
pub mod status;
mod time;
mod tree;
pub mod volume;
