//! Micro-benchmarks: the data path without sockets, disks and clocks, in one thread. The same inputs give the same steps, so that
//! instructions can be counted; `docs/performance.md` says how.
//!
//! - [`benchmark`] has the list of them, each in the file of its part: [`frames`], [`checksum`], [`store`], and [`cores`], the whole of it.
//! - [`stream`] carries bytes between cores, [`memory_disk`] keeps blocks, [`scatter`] says which.

#![forbid(unsafe_code)]

pub mod benchmark;
pub mod checksum;
pub mod cores;
pub mod frames;
pub mod memory_disk;
pub mod scatter;
pub mod store;
pub mod stream;
