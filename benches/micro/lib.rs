//! What the micro-benchmarks run: the data path without sockets, disks and clocks, in one thread. The same inputs give the same steps.
//!
//! [`cores`] has the whole of it, three OSDs and a client; [`stream`] carries their bytes, [`memory_disk`] keeps their blocks.

#![forbid(unsafe_code)]

pub mod cores;
pub mod memory_disk;
pub mod stream;
