//! The OSD without I/O: the store, the replication core, recovery and scrub, as one state machine.
//!
//! The daemon (`osd/daemon`) and the simulator (`chaos`) drive the same [`Osd`] (conventions §2).

#![forbid(unsafe_code)]

mod credit;
mod env;
mod event;
mod housekeeping;
mod lease;
mod net;
mod osd;
mod perf;
mod pg;
mod policy;
mod wiping;
mod wiping_freed;

pub mod format;
pub mod store;

pub use event::{Action, ConnId, DiskError, DiskOp, DiskResult, Event, IoId};
pub use osd::{Osd, OsdConfig, SpaceNews};
pub use perf::{Moment, Perf};
pub use policy::{Honest, Policy};
