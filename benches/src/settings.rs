//! The command line.

use crate::disks::Medium;
use crate::layers::Part;
use ashlar_types::parse_size;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Measures Ashlar beside the raw disk. Starts clusters of its own and takes everything away at the end.
#[derive(Debug, Parser)]
#[command(name = "ashlar-bench", version)]
pub struct CommandLine {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Clone, Debug, Args)]
pub struct Common {
    /// A short run that checks data and no figures: for CI
    #[arg(long)]
    pub smoke: bool,
    /// The `ashlar` binary [default: the one beside this program]
    #[arg(long, global = true, value_name = "PATH")]
    pub ashlar: Option<PathBuf>,
    /// Under the OSDs [default for `all`: first ram, then file; otherwise ram]
    #[arg(long, global = true, value_enum)]
    pub medium: Option<Medium>,
    /// Where files on the disk come [default: the folder for temporary files]
    #[arg(long, global = true, value_name = "DIR")]
    pub file_parent: Option<PathBuf>,
    /// Puts Debian's Ceph beside the jobs on disks in RAM: brings it up, measures it and takes it down, by the scripts in --peers
    #[arg(long, global = true)]
    pub vs_ceph: bool,
    /// The folder with ceph-up.sh, ceph-bench.sh and ceph-down.sh
    #[arg(long, global = true, value_name = "DIR", default_value = "../shared/peers")]
    pub peers: PathBuf,
    /// Also write all figures into this file, as JSON
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Exit with an error if a bar is missed
    #[arg(long, global = true)]
    pub assert: bool,
    /// Size of each OSD's disk
    #[arg(long, global = true, value_name = "SIZE", value_parser = size, default_value = "5GiB")]
    pub osd_size: u64,
    /// Size of the volume
    #[arg(long, global = true, value_name = "SIZE", value_parser = size, default_value = "2GiB")]
    pub volume_size: u64,
    /// How long each job runs
    #[arg(long, global = true, value_name = "S", default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// All measurements, one after the other; what happens without a command
    All,
    /// The jobs only: raw, through the library, through NBD
    Jobs {
        /// Leave out NBD
        #[arg(long)]
        no_nbd: bool,
        /// Leave out the raw device
        #[arg(long)]
        no_raw: bool,
        /// Verified contents in the library's jobs; costs the client some time
        #[arg(long)]
        verify: bool,
    },
    /// SIGKILL of one OSD after the other under QD1 writes: the longest stall
    KillStall {
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        kills: u32,
    },
    /// A volume is rewritten while an OSD is away: how soon it is in sync
    Resync {
        #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1GiB")]
        bytes: u64,
    },
    /// From the built binary to the first attached volume
    Start,
    /// 4 KiB writes at 1 to 8 clients and at 8 to 512 volumes: what all get must not fall
    Scaling {
        /// Each point is measured so often, in turns
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=100))]
        rounds: u32,
    },
    /// What a request costs with many volumes, and on full disks that were overwritten, each beside a fresh cluster
    Size {
        #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=40_000))]
        volumes: u32,
        /// How often everything is overwritten at random
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000))]
        overwrites: u32,
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=100))]
        rounds: u32,
    },
    /// Snapshots, clones, deep chains, merges and eager volumes, each beside the same without
    Layers(LayersArgs),
    /// Device bytes for each byte written at random, of the store core on a simulated disk far larger than its index cache
    Store(StoreArgs),
    /// One job on a volume of a running cluster, through the library
    Load(LoadArgs),
}

#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// A metadata node, HOST:PORT
    #[arg(long)]
    pub mds: String,
    /// A volume that nobody has attached. Its data is overwritten. Several of one size, by repeating this, share the load
    #[arg(long, required = true)]
    pub volume: Vec<String>,
    #[arg(long, value_parser = request_size, default_value = "4KiB")]
    pub request_size: u64,
    /// Requests under way, of each client
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub depth: u32,
    /// Of a hundred requests; the others read
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub write_percent: u32,
    #[arg(long)]
    pub sequential: bool,
    /// Requests a second, of all clients together [default: the next is sent when one is answered]. Latency counts from when a
    /// request is due, also if it has to wait for a place among those under way
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub rate: Option<u64>,
    /// Connections of their own, each with its part of the volumes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub clients: u32,
    /// Only the first so many bytes of the volumes
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub size: Option<u64>,
    /// Writes contents that can be recognised, block by block, and compares all that is read with what was written; at the end,
    /// everything that was written is read
    #[arg(long)]
    pub verify: bool,
}

#[derive(Clone, Debug, Args)]
pub struct LayersArgs {
    /// Only these parts, one after the other [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    pub only: Vec<Part>,
    /// Reads that are compared take so many turns
    #[arg(long, value_name = "N", default_value_t = 150, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub rounds: u32,
    /// Of `many`, in the whole cluster; a pool has at most 100,000
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(101..=100_000))]
    pub layers: u32,
    /// Of `shared`, the parent
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1GiB")]
    pub shared_bytes: u64,
    /// Of `shared`, the gateway's; takes as much memory
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1.5GiB")]
    pub cache: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct StoreArgs {
    /// Of the simulated disk; 4 TiB take about 3 GiB of memory
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "4TiB")]
    pub capacity: u64,
    /// Of that, what is written before
    #[arg(long, value_name = "PERCENT", default_value_t = 85, value_parser = clap::value_parser!(u64).range(1..=95))]
    pub fill: u64,
    /// What an OSD has on a disk this large
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "128MiB")]
    pub log: u64,
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "100MiB")]
    pub index_cache: u64,
    /// Writes that come together
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub depth: u64,
    /// Before anything is measured
    #[arg(long, value_name = "N", default_value_t = 250_000)]
    pub warm_up_writes: u64,
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    pub writes: u64,
}

impl Default for StoreArgs {
    fn default() -> StoreArgs {
        let (capacity, log, index_cache) = (4 << 40, 128 << 20, 100 << 20);
        StoreArgs { capacity, fill: 85, log, index_cache, depth: 32, warm_up_writes: 250_000, writes: 1_000_000 }
    }
}

/// What the measurements share.
#[derive(Clone, Debug)]
pub struct Settings {
    pub ashlar: PathBuf,
    pub medium: Medium,
    pub file_parent: PathBuf,
    pub osd_bytes: u64,
    pub volume_bytes: u64,
    pub seconds: u64,
    /// The scripts that bring up Ceph, if it is to be measured too.
    pub ceph_scripts: Option<PathBuf>,
}

fn size(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text).map_err(|error| error.to_string())?;
    if bytes % (1 << 20) == 0 { Ok(bytes) } else { Err(format!("{text} is not a multiple of 1MiB")) }
}

fn request_size(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text).map_err(|error| error.to_string())?;
    let is_good = bytes % u64::from(ashlar_types::BLOCK_BYTES) == 0 && bytes <= 4 << 20;
    if is_good { Ok(bytes) } else { Err(format!("{text} is not a multiple of 4KiB up to 4MiB")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn all_measures_the_store_as_its_own_command_does() {
        let line = CommandLine::try_parse_from(["b", "store"]).expect("complete");
        assert!(matches!(line.command, Some(Command::Store(args)) if args == StoreArgs::default()));
    }

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
        for line in [
            "b",
            "b --smoke",
            "b jobs --vs-ceph --peers ../peers",
            "b resync --bytes 64MiB --medium file",
            "b scaling --rounds 5 --json f",
            "b size --volumes 100 --overwrites 1",
            "b layers",
            "b layers --only snapshot,first-write --layers 1000 --shared-bytes 64MiB --cache 1.5GiB",
            "b store --capacity 1GiB --writes 5000",
            "b load --mds a:1 --volume v --depth 32",
            "b load --mds a:1 --volume v --volume w --clients 4 --rate 5000 --size 1GiB --verify",
        ] {
            CommandLine::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "b --volume-size 4097",
            "b load --mds a:1",
            "b load --mds a:1 --volume v --request-size 1000",
            "b load --mds a:1 --volume v --rate 0",
            "b kill-stall --kills 0",
            "b layers --only none",
            "b layers --layers 100001",
        ] {
            assert!(CommandLine::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
