//! The simulator: a whole cluster (metadata service, OSDs, clients, their disks, clocks and wires) in one thread, from one
//! number. It runs the very state machines that the daemons run, breaks everything around them, and checks what
//! clients saw. docs/testing.md says how to use it.

pub mod aim;
pub mod check;
pub mod clock;
mod faults;
mod machine;
pub mod net;
pub mod plant;
pub mod queue;
pub use ashlar_sim_disk::rng;
pub mod run;
mod workload;
mod world;

pub use aim::Aim;
pub use plant::{Plant, aims_for};
pub use run::{Options, Reason, SeedReport, Summary, find_plant, run, run_seed};
