//! What layers cost: snapshots, clones, deep chains, merges and eager volumes, each on a cluster of its own, beside the same without them.
//!
//! - [`snapshot`], [`clone`], [`first_write`]: how long the control takes, and what who writes meanwhile feels of it.
//! - [`depth`], [`chain`], [`shared`]: reading what lies deep, in a volume's own layers and in those it was cloned from.
//! - [`merge`], [`many`], [`eager`]: what goes on behind a client's back.
//! - [`turns`] compares; [`control`] asks the metadata service, [`served`] is a gateway of this process.

mod chain;
mod clone;
mod control;
mod depth;
mod eager;
mod first_write;
mod many;
mod merge;
mod served;
mod shared;
mod snapshot;
mod turns;

use crate::accept::Verdict;
use crate::cluster::Cluster;
use crate::disks::Disks;
use crate::error::BenchError;
use crate::figures::Figure;
use crate::measure::{COPIES, RAW_UNUSED};
use crate::sandbox::Sandbox;
use crate::settings::{LayersArgs, Settings};
use clap::ValueEnum;
use serde_json::{Value, json};
use std::time::Duration;

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(120);

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Snapshots of a volume that is being written
    Snapshot,
    /// One clone, hundreds, and a thousand
    Clone,
    /// The first write to a fresh clone
    FirstWrite,
    /// Reads of what lies under snapshots
    Depth,
    /// Reads through clones of clones
    Chain,
    /// Deleting a snapshot that holds data
    Merge,
    /// Many clones that read the same through one gateway
    Shared,
    /// What a request costs in a cluster with many layers
    Many,
    /// Zeroing an eager volume, alone and beside a client
    Eager,
}

#[derive(Clone, Debug)]
pub struct Shape {
    pub parts: Vec<Part>,
    pub osd_bytes: u64,
    /// Of what is written, cloned, merged and zeroed.
    pub volume_bytes: u64,
    /// Of each of the volumes that are read at depths.
    pub read_bytes: u64,
    /// Turns of reads that are compared: many short ones, so that what disturbs the machine is not in one of them alone.
    pub rounds: usize,
    pub turn: Duration,
    /// Turns of zeroing an eager volume, which are long.
    pub eager_rounds: usize,
    pub eager_turn: Duration,
    /// Turns of `many`.
    pub many_rounds: usize,
    pub snapshots: usize,
    /// Made at once: those of the second and the third figure.
    pub clones: [usize; 2],
    /// Snapshots above the data.
    pub depths: [usize; 3],
    /// Clones of clones above the data.
    pub levels: [usize; 2],
    pub shared_clones: usize,
    pub shared_bytes: u64,
    pub cache_bytes: u64,
    /// In the whole cluster, snapshots' and volumes' together.
    pub layers: usize,
    /// As long as a job of `size` is.
    pub many_time: Duration,
    /// What follows a merge by itself belongs to it for so long.
    pub settle: Duration,
}

impl Shape {
    pub fn whole(settings: &Settings, args: &LayersArgs) -> Shape {
        Shape {
            parts: if args.only.is_empty() { Part::value_variants().to_vec() } else { args.only.clone() },
            osd_bytes: settings.osd_bytes,
            volume_bytes: 1 << 30,
            read_bytes: 256 * MIB,
            rounds: args.rounds as usize,
            eager_rounds: 7,
            eager_turn: Duration::from_secs(2),
            many_rounds: 3,
            turn: Duration::from_millis(100),
            snapshots: 40,
            clones: [200, 1_000],
            depths: [1, 16, 256],
            levels: [1, 16],
            shared_clones: 100,
            shared_bytes: args.shared_bytes,
            cache_bytes: args.cache,
            layers: args.layers as usize,
            many_time: Duration::from_secs(settings.seconds),
            settle: Duration::from_secs(5),
        }
    }

    /// Some seconds over everything but eager volumes, which would be zeroed before a client has felt it.
    pub fn smoke() -> Shape {
        let turn = Duration::from_millis(20);
        Shape {
            parts: Part::value_variants().iter().copied().filter(|part| *part != Part::Eager).collect(),
            osd_bytes: 1 << 30,
            volume_bytes: 32 * MIB,
            read_bytes: 16 * MIB,
            rounds: 2,
            turn,
            eager_rounds: 1,
            eager_turn: turn,
            many_rounds: 1,
            snapshots: 3,
            clones: [5, 20],
            depths: [1, 2, 5],
            levels: [1, 3],
            shared_clones: 5,
            shared_bytes: 16 * MIB,
            cache_bytes: 32 * MIB,
            layers: 201,
            many_time: Duration::from_millis(300),
            settle: Duration::from_millis(100),
        }
    }
}

/// What one part has found.
#[derive(Debug, Default)]
struct Found {
    figures: Vec<Figure>,
    details: Value,
}

type Measure = fn(&Sandbox, &Settings, &Shape) -> Result<Found, BenchError>;

pub fn run(sandbox: &Sandbox, settings: &Settings, shape: &Shape) -> Result<Verdict, BenchError> {
    let keep = sandbox.len();
    let mut verdict = Verdict { bars: Vec::new(), figures: Vec::new(), details: json!({}) };
    for &part in &shape.parts {
        let (name, measure): (&str, Measure) = match part {
            Part::Snapshot => ("snapshot", snapshot::run),
            Part::Clone => ("clone", clone::run),
            Part::FirstWrite => ("first_write", first_write::run),
            Part::Depth => ("depth", depth::run),
            Part::Chain => ("chain", chain::run),
            Part::Merge => ("merge", merge::run),
            Part::Shared => ("shared", shared::run),
            Part::Many => ("many", many::run),
            Part::Eager => ("eager", eager::run),
        };
        let found = measure(sandbox, settings, shape)?;
        sandbox.clean_to(keep);
        verdict.figures.extend(found.figures);
        verdict.details[name] = found.details;
    }
    Ok(verdict)
}

/// Of three OSDs, for one part; `title` is printed above what it finds.
fn fresh_cluster(sandbox: &Sandbox, settings: &Settings, shape: &Shape, title: &str) -> Result<Cluster, BenchError> {
    let disks = Disks::make(sandbox, settings.medium, &settings.file_parent, COPIES, shape.osd_bytes, RAW_UNUSED)?;
    println!("\n== layers: {title}; on {}", disks.description);
    let cluster = Cluster::up(sandbox, &settings.ashlar, &disks)?;
    cluster.wait_in_sync(PATIENCE)?;
    Ok(cluster)
}
