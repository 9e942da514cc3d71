//! The first write to a fresh clone, beside one to a volume that was written. Both are open, and have read a block beside it, so that connections are there:
//! they are as many for a clone as for a volume.

use super::control::Control;
use super::served::Served;
use super::turns::{self, Compared};
use super::{Found, Shape, fresh_cluster};
use crate::accounting::Snapshot;
use crate::error::BenchError;
use crate::figures::Subject;
use crate::measure::{self, make_volume};
use crate::progress;
use crate::sandbox::Sandbox;
use crate::settings::Settings;
use ashlar_types::{BLOCK_BYTES, BlockOp, BlockReply};
use bytes::Bytes;
use serde_json::json;

const CLONES: usize = 200;
const CACHE_BYTES: u64 = 64 << 20;
/// Of a chunk, so that places are of different ones.
const CHUNK_BLOCKS: u64 = 1024;
const BLOCK: u64 = BLOCK_BYTES as u64;

pub fn run(sandbox: &Sandbox, settings: &Settings, shape: &Shape) -> Result<Found, BenchError> {
    let cluster = fresh_cluster(sandbox, settings, shape, "the first write to a fresh clone")?;
    for name in ["golden", "ordinary"] {
        let mut library = make_volume(&cluster, name, shape.read_bytes)?;
        measure::fill(&mut library, true)?;
        library.detach()?;
    }
    let control = Control::connect(cluster.mds())?;
    control.snapshot("golden", "base")?;
    let clones: Vec<String> = (0..CLONES).map(|nth| format!("fresh-{nth}")).collect();
    control.clones("golden@base", &clones)?;
    let mut served = Served::connect(cluster.mds(), CACHE_BYTES)?;
    served.open(&["ordinary".to_owned()], None)?;
    served.open(&clones, None)?;
    progress::say(&format!("{CLONES} first writes, and as many others"));
    let before = Snapshot::take(Some(&cluster));
    let chunks = (shape.read_bytes / BLOCK / CHUNK_BLOCKS).max(1);
    let took = turns::take(CLONES, 2, |round, thing| {
        let volume = if thing == 0 { 0 } else { 1 + round };
        // Spread over all chunks, and with them over all PGs.
        let place = (round as u64 % chunks * CHUNK_BLOCKS + 7 * (round as u64 / chunks)) * BLOCK;
        write_beside_read(&served, volume, place)
    })?;
    let usage = before.until(&Snapshot::take(Some(&cluster)), 0.0);
    served.close()?;
    cluster.down()?;
    let compared = Compared::of("first write", &took[0], &took[1]);
    print!("{}", turns::table("us", std::slice::from_ref(&compared)));
    let others = usage.others_cores + usage.steal_cores;
    let figures = vec![compared.figure(Subject::CloneFirstWrite, 1.0, others)];
    Ok(Found { figures, details: json!({ "compared": compared, "us": took, "others_cores": others }) })
}

/// Microseconds of the write.
fn write_beside_read(served: &Served, volume: usize, offset: u64) -> Result<f64, BenchError> {
    served.request(volume, BlockOp::Read { offset: offset + BLOCK, len: BLOCK_BYTES })?;
    let data = Bytes::from(vec![0xa5; BLOCK_BYTES as usize]);
    match served.request(volume, BlockOp::Write { offset, data: data.clone() })? {
        (BlockReply::Done, took) => {
            check(served, volume, offset, &data)?;
            Ok(took.as_secs_f64() * 1e6)
        }
        (reply, _) => Err(BenchError::Wrong(format!("a write was answered with {reply:?}"))),
    }
}

fn check(served: &Served, volume: usize, offset: u64, data: &Bytes) -> Result<(), BenchError> {
    match served.request(volume, BlockOp::Read { offset, len: BLOCK_BYTES })? {
        (BlockReply::Data(pieces), _) if pieces.concat() == data[..] => Ok(()),
        _ => Err(BenchError::Wrong(format!("the block at {offset} is not what was written to it"))),
    }
}
