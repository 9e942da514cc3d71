//! The command line: its spelling, which other people's scripts rely on, and nothing else.

mod bin;
mod diff;
mod group;
mod job;
mod mode;
mod provision;
mod transfer;
mod wipe;
mod wipe_freed;

pub use bin::{BinCommand, DeleteArgs, PurgeArgs};
pub use diff::{Compared, SnapshotDiffArgs, VolumeDiffArgs};
pub use group::SnapshotGroupCommand;
pub use job::{FlattenArgs, JobArgs, JobCommand};
pub use mode::DiskModeArg;
pub use provision::{OverCommitArg, ProvisionArg, ReserveArgs, VolumeSetArgs};
pub use transfer::{ExportArgs, ImportArgs};
pub use wipe::WipeCommand;
pub use wipe_freed::SwitchArg;

use crate::down::STOP_SECONDS;
use crate::error::CliError;
use crate::name_template::NameTemplate;
use crate::place::Place;
use ashlar_chaos::{Aim, Plant};
use ashlar_types::scrub::ScrubTarget;
use ashlar_types::{ChunkId, ChunkIndex, DiskName, LayerId, Name, OsdId, PgId, PoolId, parse_size};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Distributed block storage: `ashlar up` starts a whole cluster on this machine.
#[derive(Debug, Parser)]
#[command(name = "ashlar", version, arg_required_else_help = true, infer_subcommands = false)]
pub struct CommandLine {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The cluster: its folder, or HOST:PORT of its metadata nodes (several with commas) [default: $ASHLAR_CLUSTER, else
    /// ~/.ashlar, the folder of `ashlar up`]
    #[arg(long, global = true, value_name = "DIR|HOST:PORT", value_parser = Place::parse)]
    pub cluster: Option<Place>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a whole cluster in a folder of this machine, or what is missing of it; prints how to reach it
    Up(UpArgs),
    /// Stop the cluster of a folder; its data stays
    Down(DownArgs),
    /// How the cluster is, what is wrong and what to do about it
    Status,
    /// OSDs: one process and one disk each
    Osd(Box<OsdCommand>),
    /// Pools: how often data is kept
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Volumes: the disks that machines attach
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Snapshots: what volumes held at a moment, named VOLUME@SNAPSHOT
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Jobs: what gateways do for volumes in the background
    #[command(subcommand)]
    Job(JobCommand),
    /// Volumes that were deleted and can be brought back
    #[command(subcommand)]
    Bin(BinCommand),
    /// Volumes that were deleted so that nothing of them is left on any disk
    #[command(subcommand)]
    Wipe(WipeCommand),
    /// Compare the copies of what is stored, and repair what is damaged
    Scrub(ScrubArgs),
    /// Where the time of requests goes, in each OSD and in all of them
    Perf(PerfArgs),
    /// Try the code against faults
    #[command(subcommand)]
    Chaos(ChaosCommand),
    /// Run a metadata node in the foreground
    Mds(DaemonArgs),
    /// Run a gateway, which serves volumes over NBD, in the foreground
    Gateway(DaemonArgs),
}

#[derive(Debug, Args)]
pub struct ScrubArgs {
    /// Read every block of every copy too, and verify its checksum
    #[arg(long)]
    pub deep: bool,
    /// Only the placement groups of this pool [default: all]
    #[arg(long, value_parser = name, conflicts_with_all = ["pg", "osd"])]
    pub pool: Option<Name>,
    /// Only this placement group, as pg.1.0
    #[arg(long, value_parser = pg, conflicts_with = "osd")]
    pub pg: Option<PgId>,
    /// Only the placement groups with a copy on this OSD
    #[arg(long, value_name = "ID")]
    pub osd: Option<u32>,
    /// Return when it is done, with an exit status that says whether all copies are good
    #[arg(long)]
    pub wait: bool,
    /// Withdraw what was asked for and is not done
    #[arg(long, conflicts_with_all = ["deep", "wait"])]
    pub cancel: bool,
}

impl ScrubArgs {
    pub fn target(&self) -> ScrubTarget {
        match (&self.pool, self.pg, self.osd) {
            (Some(pool), ..) => ScrubTarget::Pool(pool.clone()),
            (None, Some(pg), _) => ScrubTarget::Pgs(vec![pg]),
            (None, None, Some(osd)) => ScrubTarget::Osd(OsdId(osd)),
            (None, None, None) => ScrubTarget::All,
        }
    }
}

/// What is waited for at most between two looks.
const WATCH_SECONDS_MAX: u64 = 24 * 60 * 60;

#[derive(Debug, Args)]
pub struct PerfArgs {
    /// Only this OSD [default: the cluster and each OSD]
    #[arg(long, value_name = "ID")]
    pub osd: Option<u32>,
    /// What has come in the next so many seconds, again and again [default: what has come since each OSD's start]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=WATCH_SECONDS_MAX), allow_hyphen_values = true)]
    pub watch: Option<u64>,
    /// So often [default: until it is stopped]
    #[arg(long, value_name = "N", requires = "watch", value_parser = clap::value_parser!(u64).range(1..), allow_hyphen_values = true)]
    pub times: Option<u64>,
}

impl PerfArgs {
    pub fn osd(&self) -> Option<OsdId> {
        self.osd.map(OsdId)
    }
}

#[derive(Debug, Args)]
pub struct UpArgs {
    /// The cluster's folder [default: --cluster, else ~/.ashlar]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How many OSDs; more than there are adds some [default: 3, or as many as there are]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64), allow_hyphen_values = true)]
    pub osds: Option<u32>,
    /// Size of the file behind each new OSD [default: 10GiB]
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    pub osd_size: Option<u64>,
    /// Reserve the whole file on the host's disk now, rather than as it fills
    #[arg(long)]
    pub preallocate: bool,
    /// A block device or file to use as an OSD's disk; repeat it for more OSDs
    #[arg(long, value_name = "PATH", conflicts_with_all = ["osd_size", "preallocate"])]
    pub disk: Vec<PathBuf>,
    /// Stay, restart what dies, and stop everything at Ctrl-C
    #[arg(long)]
    pub foreground: bool,
}

/// A day: whoever waits longer waits for ever.
const TIMEOUT_SECONDS_MAX: u64 = 24 * 60 * 60;

#[derive(Debug, Args)]
pub struct DownArgs {
    /// The cluster's folder [default: --cluster, else ~/.ashlar]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How long each process may take to end by itself before it is killed
    #[arg(long, value_name = "SECONDS", default_value_t = STOP_SECONDS, value_parser = clap::value_parser!(u64).range(..=TIMEOUT_SECONDS_MAX))]
    pub timeout: u64,
}

#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// Its configuration, a TOML file; docs/operate.md lists the fields
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print the configuration with every default filled in, and exit
    #[arg(long)]
    pub print_config: bool,
    /// Hold a lock on this file and write the process id into it, as long as the process lives
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// What to log, to stderr: error, warn, info, debug or trace, also per module, as info,ashlar_mds=debug
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// Leave the terminal: its end and its Ctrl-C don't reach the process
    #[arg(long)]
    pub own_session: bool,
}

#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Make a pool
    Create {
        #[arg(value_parser = name)]
        name: Name,
        /// How many copies of each block, each on another OSD
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16), allow_hyphen_values = true)]
        replicas: u8,
        /// How many copies a write needs [default: 2 of 3, 1 of 1 and 2]
        #[arg(long, value_name = "M", value_parser = clap::value_parser!(u8).range(1..=16), allow_hyphen_values = true)]
        min_size: Option<u8>,
        /// How many times what its OSDs hold its volumes may have in all, as 20 or 1.5 [default: none, which is no limit]
        #[arg(long, value_name = "RATIO", value_parser = provision::over_commit, allow_hyphen_values = true)]
        over_commit: Option<OverCommitArg>,
        /// Keep deleted volumes in the bin for so long, like 12h or 7d [default: not at all]
        #[arg(long, value_name = "TIME", value_parser = bin::retention, allow_hyphen_values = true)]
        bin_retention: Option<u64>,
    },
    /// List the pools
    List,
    /// What is used of a pool, and for what
    Show {
        #[arg(value_parser = name)]
        name: Name,
    },
    /// Change a pool
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true).args(["over_commit", "bin_retention"]))]
    Set {
        #[arg(value_parser = name)]
        name: Name,
        /// How many times what its OSDs hold its volumes may have in all, as 20 or 1.5, or none. Volumes that are there stay
        #[arg(long, value_name = "RATIO", value_parser = provision::over_commit, allow_hyphen_values = true)]
        over_commit: Option<OverCommitArg>,
        /// Keep volumes that are deleted from now on in the bin for so long, like 12h or 7d; 0: not at all
        #[arg(long, value_name = "TIME", value_parser = bin::retention, allow_hyphen_values = true)]
        bin_retention: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Make a volume; it takes space as it is written, unless it is told otherwise
    Create {
        #[arg(value_parser = name)]
        name: Name,
        /// Like 10GiB, 1.5TiB or 4096
        #[arg(long, value_parser = size, allow_hyphen_values = true)]
        size: u64,
        /// [default: the pool `default`]
        #[arg(long, value_parser = name)]
        pool: Option<Name>,
        /// When it gets its space
        #[arg(long, value_name = "MODE", default_value = "thin")]
        provision: ProvisionArg,
        /// What becomes of what is written to it, and whether snapshot groups take it along
        #[arg(long, value_name = "MODE", default_value = "dependent")]
        disk_mode: DiskModeArg,
        /// Overwrite what it frees, on every OSD, soon after: earlier versions, what is discarded, and in the end all of it
        #[arg(long)]
        wipe_freed: bool,
        #[command(flatten)]
        reserve: ReserveArgs,
        #[command(flatten)]
        job: JobArgs,
    },
    /// Make volumes that are at first what a snapshot is, and share what it holds; takes no space and no time
    Clone(CloneArgs),
    /// List the volumes
    List,
    /// Everything about one volume
    Show {
        #[arg(value_parser = name)]
        name: Name,
    },
    /// Draw the layers of a volume, or of all, which snapshots they are and which clones stand on them
    Tree {
        #[arg(value_parser = name)]
        name: Option<Name>,
    },
    /// Delete a volume and its data; refused while it is attached or has snapshots. What its clones need is kept as long as they do
    Delete(DeleteArgs),
    /// Change when a volume gets its space, also while it is in use, its size, or its disk mode
    Set(VolumeSetArgs),
    /// Give a clone what it reads from its origin, so that it needs that no more; also while it is in use
    Flatten(FlattenArgs),
    /// Make a volume larger
    Extend {
        #[arg(value_parser = name)]
        name: Name,
        /// The new size, not the difference
        #[arg(long, value_parser = size, allow_hyphen_values = true)]
        size: u64,
    },
    /// What a volume has changed since a snapshot of it, attached or not
    Diff(VolumeDiffArgs),
    /// Make a volume of a disk image
    Import(ImportArgs),
    /// Make a disk image of a volume or a snapshot
    Export(ExportArgs),
    /// Give a volume, or VOLUME@SNAPSHOT to read, to a gateway and print how to reach it
    Attach(AttachArgs),
    /// Take a volume, or VOLUME@SNAPSHOT, from the gateway that serves it
    Detach {
        #[arg(value_parser = disk)]
        name: DiskName,
        /// Only from this one [default: from all]
        #[arg(long)]
        gateway: Option<String>,
    },
}

/// More than a pool has volumes.
const CLONES_MAX: u64 = 40_000;
/// Of the numbers in names.
const NUMBER_MAX: u64 = 1_000_000_000;

#[derive(Debug, Args)]
pub struct CloneArgs {
    /// The snapshot that they are at first
    #[arg(value_name = "VOLUME@SNAPSHOT", value_parser = disk)]
    pub source: DiskName,
    /// The clone's name
    #[arg(value_parser = name, required_unless_present = "count", conflicts_with_all = ["count", "name_template", "first"])]
    pub name: Option<Name>,
    /// Make so many
    #[arg(long, value_name = "N", requires = "name_template", value_parser = clap::value_parser!(u64).range(1..=CLONES_MAX), allow_hyphen_values = true)]
    pub count: Option<u64>,
    /// Their names, with a place for the number, as vdi-%04d
    #[arg(long, value_name = "TEMPLATE", requires = "count")]
    pub name_template: Option<NameTemplate>,
    /// The number of the first
    #[arg(long, value_name = "N", requires = "count", default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=NUMBER_MAX), allow_hyphen_values = true)]
    pub first: u64,
    /// [default: that of the snapshot's volume]
    #[arg(long, value_parser = name)]
    pub pool: Option<Name>,
    /// When each gets its space. All of them get it or none is made; eager ones are flattened first
    #[arg(long, value_name = "MODE", default_value = "thin")]
    pub provision: ProvisionArg,
    /// What becomes of what is written to each, and whether snapshot groups take it along
    #[arg(long, value_name = "MODE", default_value = "dependent")]
    pub disk_mode: DiskModeArg,
    #[command(flatten)]
    pub reserve: ReserveArgs,
}

impl CloneArgs {
    pub fn names(&self) -> Result<Vec<Name>, CliError> {
        match (&self.name, &self.name_template, self.count) {
            (Some(name), None, None) => Ok(vec![name.clone()]),
            (None, Some(template), Some(count)) => {
                let names = (self.first..).take(usize::try_from(count).unwrap_or(usize::MAX)).map(|n| template.name(n));
                names.collect::<Result<_, _>>().map_err(|source| CliError::NameTemplate { source })
            }
            _ => Err(CliError::Conflict { what: "give the clone a name, or --count and --name-template".into() }),
        }
    }
}

/// What a snapshot is waited for by default, as a takeover is.
const SNAPSHOT_SECONDS: u64 = 60;

#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Keep what a volume holds now, attached or not; returns when nothing can change the snapshot any more
    Create {
        #[command(flatten)]
        snapshot: SnapshotArg,
        /// A volume that has its space reserved becomes thin with it, instead of having as much reserved again for what it overwrites
        #[arg(long)]
        thin_snapshots: bool,
        /// How long that is waited for
        #[arg(long, value_name = "SECONDS", default_value_t = SNAPSHOT_SECONDS, value_parser = clap::value_parser!(u64).range(..=TIMEOUT_SECONDS_MAX))]
        timeout: u64,
    },
    /// List the snapshots of a volume, or of all
    List {
        #[arg(value_parser = name)]
        volume: Option<Name>,
    },
    /// Everything about one snapshot
    Show {
        #[command(flatten)]
        snapshot: SnapshotArg,
    },
    /// What has changed between two snapshots of a volume
    Diff(SnapshotDiffArgs),
    /// Delete a snapshot, whichever; its space is given back in the background. Refused while it is attached
    Delete {
        #[command(flatten)]
        snapshot: SnapshotArg,
    },
    /// Make a volume what its snapshot is; what was written since is lost
    Revert {
        #[command(flatten)]
        snapshot: SnapshotArg,
        /// Take the volume from whoever has it: nothing they still send is carried out
        #[arg(long)]
        force: bool,
    },
    /// Snapshots of several volumes at one moment
    #[command(subcommand)]
    Group(SnapshotGroupCommand),
}

/// A snapshot, as VOLUME@SNAPSHOT or in two words.
#[derive(Debug, Args)]
pub struct SnapshotArg {
    /// VOLUME@SNAPSHOT, or VOLUME followed by SNAPSHOT
    #[arg(value_name = "VOLUME[@SNAPSHOT]", value_parser = disk)]
    pub disk: DiskName,
    #[arg(value_name = "SNAPSHOT", value_parser = name)]
    pub name: Option<Name>,
}

impl SnapshotArg {
    /// The volume and the snapshot of it.
    pub fn resolve(&self) -> Result<(Name, Name), CliError> {
        let volume = self.disk.volume.clone();
        match (self.disk.snapshot.clone(), self.name.clone()) {
            (Some(snapshot), None) | (None, Some(snapshot)) => Ok((volume, snapshot)),
            (None, None) => {
                Err(CliError::Conflict { what: format!("which snapshot of {volume}? name it {volume}@NAME") })
            }
            (Some(snapshot), Some(name)) => {
                let what = format!("{volume}@{snapshot} names a snapshot already; {name} is one name too many");
                Err(CliError::Conflict { what })
            }
        }
    }
}

#[derive(Debug, Args)]
pub struct AttachArgs {
    #[arg(value_parser = disk)]
    pub name: DiskName,
    /// Over NBD; so far the only way, and the default
    #[arg(long)]
    pub nbd: bool,
    /// The gateway that shall serve it [default: the one of the cluster's folder]
    #[arg(long)]
    pub gateway: Option<String>,
    /// Others may have it at the same time, if they also say so
    #[arg(long, conflicts_with = "force")]
    pub shared: bool,
    /// Take it from whoever has it: nothing they still send is carried out
    #[arg(long)]
    pub force: bool,
    /// Refuse writes
    #[arg(long)]
    pub read_only: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, arg_required_else_help = true)]
pub struct OsdCommand {
    #[command(subcommand)]
    pub command: Option<OsdAction>,
    #[command(flatten)]
    pub daemon: Option<DaemonArgs>,
}

#[derive(Debug, Subcommand)]
pub enum OsdAction {
    /// List the OSDs
    List,
    /// Kill an OSD of this machine with SIGKILL, to try what happens; `start` brings it back
    Kill { id: u32 },
    /// Start an OSD of this machine that was killed or died
    Start { id: u32 },
    /// Prepare a disk: take the next OSD id from the cluster and write an empty store
    Create(OsdCreateArgs),
    /// Show the structures on a disk; only reads
    Inspect(InspectArgs),
    /// Check everything on the disk of a stopped OSD; only reads
    Fsck(FsckArgs),
}

#[derive(Debug, Args)]
pub struct OsdCreateArgs {
    /// A block device, or a file (made if --size is given)
    #[arg(long, value_name = "PATH")]
    pub disk: PathBuf,
    /// Make a sparse file of this size first
    #[arg(long, value_parser = size, allow_hyphen_values = true)]
    pub size: Option<u64>,
    /// Reserve the whole file at once
    #[arg(long, requires = "size")]
    pub preallocate: bool,
    /// The machine's name, a failure domain [default: this machine's]
    #[arg(long)]
    pub host: Option<String>,
    /// Also if the disk holds something else, which is lost
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A block device or file
    pub path: PathBuf,
    /// What to show
    #[arg(default_value = "superblock")]
    pub what: InspectKind,
    /// Which chunk, as LAYER/INDEX, for `chunk`
    #[arg(required_if_eq("what", "chunk"), value_parser = chunk)]
    pub chunk: Option<ChunkId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InspectKind {
    /// Whose disk it is, and where everything lies
    Superblock,
    /// The good batches of the log, and their records
    Log,
    /// The last checkpoint's pages and prepared writes
    Checkpoint,
    /// All chunks, by placement group
    Directory,
    /// The state of every placement group
    Pgs,
    /// One chunk, block by block
    Chunk,
}

#[derive(Debug, Args)]
pub struct FsckArgs {
    /// A block device or file
    pub path: PathBuf,
    /// Leave out the data blocks' checksums, which need the whole disk to be read
    #[arg(long)]
    pub no_data: bool,
}

impl OsdAction {
    pub fn id(id: u32) -> OsdId {
        OsdId(id)
    }
}

#[derive(Debug, Subcommand)]
pub enum ChaosCommand {
    /// Run the cores through faults drawn from seeds, and check what clients saw
    Sim(SimArgs),
}

#[derive(Debug, Args)]
pub struct SimArgs {
    /// How many seeds
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// The first of them
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub first_seed: u64,
    /// Only this one: replays a failure
    #[arg(long, value_name = "S", conflicts_with_all = ["seeds", "first_seed"])]
    pub seed: Option<u64>,
    /// Build the cores with this bug in them; the simulator has to find it
    #[arg(long, value_name = "NAME")]
    pub plant: Option<Plant>,
    /// Aim the faults like this; otherwise each seed draws its own way
    #[arg(long, value_name = "NAME")]
    pub aim: Option<Aim>,
    /// How many seeds at a time [default: one for each processor]
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Print every event
    #[arg(long)]
    pub trace: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("a chunk is named LAYER/INDEX, as 1/0")]
struct ChunkError;

fn chunk(text: &str) -> Result<ChunkId, ChunkError> {
    let (layer, index) = text.split_once('/').ok_or(ChunkError)?;
    let number = |text: &str, prefix: &str| text.strip_prefix(prefix).unwrap_or(text).parse::<u64>().ok();
    let layer = number(layer, "layer.").ok_or(ChunkError)?;
    let index = number(index, "chunk.").and_then(|index| u32::try_from(index).ok()).ok_or(ChunkError)?;
    Ok(ChunkId { layer: LayerId(layer), index: ChunkIndex(index) })
}

#[derive(Debug, thiserror::Error)]
#[error("a placement group is named pg.POOL.INDEX, as pg.1.0")]
struct PgError;

fn pg(text: &str) -> Result<PgId, PgError> {
    let (pool, index) = text.strip_prefix("pg.").unwrap_or(text).split_once('.').ok_or(PgError)?;
    let (pool, index) = (pool.parse().map_err(|_| PgError)?, index.parse().map_err(|_| PgError)?);
    Ok(PgId { pool: PoolId(pool), index })
}

fn size(text: &str) -> Result<u64, ashlar_types::SizeError> {
    parse_size(text)
}

fn name(text: &str) -> Result<Name, ashlar_types::NameError> {
    Name::new(text)
}

fn disk(text: &str) -> Result<DiskName, ashlar_types::NameError> {
    text.parse()
}

/// What clap says of a mistake, without the usage that it adds, in one line.
pub fn first_paragraph(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let joined = lines.collect::<Vec<_>>().join(" ");
    joined.strip_prefix("error: ").unwrap_or(&joined).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn mistake(line: &str) -> String {
        let error = CommandLine::try_parse_from(line.split(' ')).expect_err(line);
        first_paragraph(&error.to_string())
    }

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn the_spellings_that_scripts_use_are_understood() {
        for line in [
            "ashlar up",
            "ashlar up --dir /d --osds 5 --osd-size 10GiB --foreground",
            "ashlar up --disk /dev/a --disk /dev/b",
            "ashlar down --dir /d",
            "ashlar status --json",
            "ashlar --json status --cluster host:7400",
            "ashlar osd list",
            "ashlar osd kill 1",
            "ashlar osd start 1 --cluster /d",
            "ashlar osd --config /c",
            "ashlar osd inspect /disk",
            "ashlar osd inspect /disk log --json",
            "ashlar osd inspect /disk chunk layer.1/chunk.0",
            "ashlar osd fsck /disk",
            "ashlar pool create p --replicas 3 --min-size 2",
            "ashlar pool create p --replicas 3 --over-commit 1.5",
            "ashlar pool set p --over-commit none",
            "ashlar volume create v --size 1G --provision eager --rate 50MiB",
            "ashlar volume set v --provision eager --no-wait",
            "ashlar volume flatten v --rate 1GiB --no-wait --json",
            "ashlar job list --json",
            "ashlar job show job.3",
            "ashlar job pause 3",
            "ashlar job resume 3",
            "ashlar job rate 3 none",
            "ashlar job rate job.3 50MiB",
            "ashlar job cancel 3",
            "ashlar pool show p --json",
            "ashlar pool list",
            "ashlar volume create v --size 10GiB --pool p",
            "ashlar volume create v --size 1G --provision lazy --timeout 5",
            "ashlar volume set v --provision thin",
            "ashlar volume set v --size 1G --shrink --force",
            "ashlar volume set v --size 1G --provision lazy",
            "ashlar snapshot create v@s --thin-snapshots",
            "ashlar volume list --json",
            "ashlar volume show v",
            "ashlar volume delete v",
            "ashlar volume extend v --size 1.5TiB",
            "ashlar volume attach v --nbd",
            "ashlar volume attach v --force --read-only --gateway g",
            "ashlar volume detach v",
            "ashlar volume attach v@s",
            "ashlar volume detach v@s --gateway g",
            "ashlar volume delete v --snapshots",
            "ashlar volume clone v@s c",
            "ashlar volume clone v@s c --pool p",
            "ashlar volume clone v@s --count 1000 --name-template vdi-%04d --pool p",
            "ashlar volume clone v@s --count 1000 --name-template vdi-%04d --first 0 --json",
            "ashlar volume tree",
            "ashlar volume tree v --json",
            "ashlar snapshot create v s",
            "ashlar snapshot create v@s --timeout 5",
            "ashlar snapshot list",
            "ashlar snapshot list v --json",
            "ashlar snapshot show v@s",
            "ashlar snapshot delete v@s",
            "ashlar snapshot delete v s --json",
            "ashlar snapshot revert v@s --force",
            "ashlar snapshot diff v@a v@b --json",
            "ashlar snapshot diff v a b",
            "ashlar volume diff v@s --json",
            "ashlar volume diff c --origin",
            "ashlar scrub",
            "ashlar scrub --deep --wait --json",
            "ashlar scrub --pool p --wait",
            "ashlar scrub --pg pg.1.0 --deep",
            "ashlar scrub --osd 2",
            "ashlar scrub --cancel",
            "ashlar perf",
            "ashlar perf --osd 2 --json",
            "ashlar perf --watch 5",
            "ashlar perf --watch 5 --times 3 --json",
            "ashlar mds --config /c --print-config",
            "ashlar gateway --config /c",
            "ashlar chaos sim --seeds 2000 --first-seed 7",
        ] {
            CommandLine::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn mistakes_make_one_clear_line() {
        assert!(mistake("ashlar volume create v --size -1").contains("\"-1\" is not a size"));
        assert!(mistake("ashlar volume create v --size 0").contains("a size must be more than 0"));
        assert!(mistake("ashlar volume create v --size ten").contains("\"ten\" is not a size"));
        assert!(mistake("ashlar volume create v").contains("--size <SIZE>"));
        assert!(mistake("ashlar volume create a@b --size 1G").contains("a name takes letters"));
        assert!(mistake("ashlar pool create p --replicas -3").contains("'-3'"));
        assert!(mistake("ashlar pool set p --over-commit -1").contains("an over-commit ratio is 0.01 to 10000"));
        assert!(mistake("ashlar pool set p").contains("--over-commit <RATIO>"));
        assert!(mistake("ashlar job show vol.3").contains("a job is named like job.7"));
        assert!(mistake("ashlar job rate 3 fast").contains("or `none`"));
        assert!(
            mistake("ashlar volume create v --size 1G --provision thick")
                .contains("[possible values: thin, lazy, eager]")
        );
        assert!(mistake("ashlar volume set v").contains("--provision <MODE>"));
        assert!(mistake("ashlar volume set v --shrink").contains("--size <SIZE>"));
        assert!(mistake("ashlar volume set v --size 1G --force").contains("--shrink"));
        assert!(mistake("ashlar up --osds 0").contains("'0'"));
        assert!(mistake("ashlar down --timeout 18446744073709551615").contains("is not in 0..=86400"));
        assert!(mistake("ashlar chaos sim --seeds 0").contains("'0'"));
        assert!(mistake("ashlar osd kill x").contains("'x'"));
        assert!(mistake("ashlar vol").contains("'vol'"));
        assert!(mistake("ashlar snapshot create v@").contains("name"));
        assert!(mistake("ashlar volume attach v@s@t").contains("a name takes letters"));
        assert!(mistake("ashlar volume extend v@s --size 1G").contains("a name takes letters"));
        assert!(mistake("ashlar volume clone v@s").contains("<NAME>"));
        assert!(mistake("ashlar volume clone v@s a b").contains("'b'"));
        assert!(mistake("ashlar volume clone v@s a@b").contains("a name takes letters"));
        assert!(mistake("ashlar volume clone v@s --count 3").contains("--name-template <TEMPLATE>"));
        assert!(mistake("ashlar volume clone v@s --name-template c%d").contains("--count <N>"));
        assert!(mistake("ashlar volume clone v@s a --count 3 --name-template c%d").contains("--count"));
        assert!(mistake("ashlar volume clone v@s --count 3 --name-template c").contains("as %d or"));
        for count in ["0", "-1", "40001", "x"] {
            let line = format!("ashlar volume clone v@s --count {count} --name-template c%d");
            assert!(mistake(&line).contains(&format!("'{count}'")), "{line}");
        }
        assert!(mistake("ashlar volume clone v@s a --first 7").contains("--first <N>"));
        assert!(mistake("ashlar snapshot diff v@a").contains("2"));
        assert!(mistake("ashlar snapshot diff v a b c").contains("'c'"));
        assert!(mistake("ashlar volume diff v@a@b").contains("a name takes letters"));
        assert!(mistake("ashlar scrub --pg 7").contains("pg.POOL.INDEX"));
        assert!(mistake("ashlar scrub --pg pg.1.0 --osd 2").contains("--osd"));
        assert!(mistake("ashlar scrub --cancel --deep").contains("--deep"));
        assert!(mistake("ashlar perf --watch 0").contains("0 is not in 1..=86400"));
        assert!(mistake("ashlar perf --watch -1").contains("'-1'"));
        assert!(mistake("ashlar perf --times 2").contains("--watch <SECONDS>"));
        assert!(mistake("ashlar perf --osd two").contains("'two'"));
    }
}
