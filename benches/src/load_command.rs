//! `load`: one job on volumes of somebody's cluster, by one or several clients.

use crate::accounting;
use crate::error::BenchError;
use crate::library::{Attachments, Library};
use crate::load::{Job, Outcome, Rate, Until};
use crate::progress;
use crate::report::{self, Latency, Path, Row};
use crate::sandbox::Sandbox;
use crate::settings::LoadArgs;
use ashlar_types::BLOCK_BYTES;
use ashlar_types::control::AttachMode;
use std::num::NonZeroU64;
use std::ops::Range;
use std::time::Duration;

/// Reads under way when what was written is read again.
const READ_BACK_DEPTH: usize = 32;

pub fn run(sandbox: &Sandbox, args: &LoadArgs, seconds: u64) -> Result<(), BenchError> {
    let keep = sandbox.len();
    let count = args.clients as usize;
    let mode = if count > 1 { AttachMode::Shared } else { AttachMode::Exclusive };
    let mds = std::slice::from_ref(&args.mds);
    let mut clients = Vec::new();
    for _ in 0..count {
        let attachments = Attachments::new(mds, &args.volume);
        sandbox.add_attachments(attachments.clone())?;
        clients.push(Library::attach_all(&attachments, mode, None)?);
    }
    let result = load(args, &mut clients, seconds);
    clients.iter().for_each(Library::close);
    sandbox.clean_to(keep);
    result
}

fn load(args: &LoadArgs, clients: &mut [Library], seconds: u64) -> Result<(), BenchError> {
    let request_blocks = args.request_size / u64::from(BLOCK_BYTES);
    let volume_blocks = clients[0].blocks() / args.volume.len() as u64;
    if args.volume.len() > 1 && !volume_blocks.is_multiple_of(request_blocks) {
        let reason = "several volumes have to be a multiple of --request-size long".to_owned();
        return Err(BenchError::Wrong(reason));
    }
    let blocks = args.size.map_or(clients[0].blocks(), |size| clients[0].blocks().min(size / u64::from(BLOCK_BYTES)));
    let slices = slices(blocks, clients.len() as u64, request_blocks)?;
    let rates = rates(args.rate, clients.len() as u64)?;
    let jobs: Vec<Job> = slices.iter().zip(&rates).map(|(slice, rate)| job(args, slice, *rate, seconds)).collect();
    progress::say(&format!("{} clients for {seconds} s", clients.len()));
    let before = accounting::Snapshot::take(None);
    let outcome = run_together(clients, jobs)?;
    let usage = before.until(&accounting::Snapshot::take(None), 0.0);
    let (requests, time) = (outcome.requests(), outcome.elapsed.as_secs_f64());
    let depth = args.depth as usize * clients.len();
    let row = Row::new("load", Path::Library, depth, requests, requests * args.request_size, time, &usage);
    print!("{}", report::table(&[Row { latency: Latency::from(&outcome), ..row }]));
    println!("cpu: of this process; {} reads, {} writes", outcome.reads, outcome.writes);
    if outcome.unsent > 0 {
        println!("{} requests of the rate were not sent: all {depth} places were under way", outcome.unsent);
    }
    if args.verify {
        let mut read = 0;
        for (client, slice) in clients.iter_mut().zip(&slices) {
            progress::say(&format!("reading back what was written in blocks {} to {}", slice.start, slice.end));
            read += read_back_known(client, slice.clone(), request_blocks)?;
        }
        println!("verified: {read} blocks were read again, and all reads brought what was written");
    }
    Ok(())
}

fn job(args: &LoadArgs, blocks: &Range<u64>, rate: Option<Rate>, seconds: u64) -> Job {
    Job {
        write_percent: args.write_percent,
        request_bytes: u32::try_from(args.request_size).expect("at most 4 MiB"),
        depth: args.depth as usize,
        rate,
        random: !args.sequential,
        verify: args.verify,
        blocks: blocks.clone(),
        until: Until::Elapsed(Duration::from_secs(seconds)),
        slow: Duration::from_secs(1),
        seed: u64::from(std::process::id()) ^ blocks.start,
    }
}

/// Each client's job at the same time; all that happened.
pub fn run_together(clients: &mut [Library], jobs: Vec<Job>) -> Result<Outcome, BenchError> {
    let mut running = Vec::new();
    for (client, job) in clients.iter_mut().zip(jobs) {
        running.push(client.start(job)?);
    }
    // All end before one of them fails this.
    let outcomes: Vec<_> = clients.iter_mut().zip(running).map(|(client, job)| client.finish(job)).collect();
    outcomes.into_iter().reduce(|all, one| Ok(all?.and(one?))).unwrap_or(Err(BenchError::Wrong("no client".to_owned())))
}

/// A part of the device for each client, since each only knows what it wrote itself.
fn slices(blocks: u64, clients: u64, request_blocks: u64) -> Result<Vec<Range<u64>>, BenchError> {
    let each = blocks / clients / request_blocks * request_blocks;
    if each == 0 {
        return Err(BenchError::Wrong(format!("{blocks} blocks are too few for {clients} clients")));
    }
    Ok((0..clients).map(|client| client * each..(client + 1) * each).collect())
}

/// The first ones take what can't be divided.
fn rates(rate: Option<u64>, clients: u64) -> Result<Vec<Option<Rate>>, BenchError> {
    let Some(all) = rate else { return Ok((0..clients).map(|_| None).collect()) };
    let each = |client: u64| NonZeroU64::new(all / clients + u64::from(client < all % clients)).map(Rate);
    let rates: Vec<Option<Rate>> = (0..clients).map(each).collect();
    if rates.iter().any(Option::is_none) {
        return Err(BenchError::Wrong(format!("a rate of {all} is less than one for each of {clients} clients")));
    }
    Ok(rates)
}

/// Reads the requests' places of whose contents something is known, and compares; how many blocks those are.
fn read_back_known(client: &mut Library, slice: Range<u64>, request_blocks: u64) -> Result<u64, BenchError> {
    let Some(contents) = client.contents() else { return Err(BenchError::Wrong("a job did not end".to_owned())) };
    let places = slice.step_by(request_blocks as usize).map(|first| first..first + request_blocks);
    let ranges = in_runs(places.filter(|place| contents.knows_any(place.clone())));
    let mut read = 0;
    for blocks in ranges {
        read += blocks.end - blocks.start;
        client.run(Job {
            write_percent: 0,
            request_bytes: u32::try_from(request_blocks).expect("at most 4 MiB") * BLOCK_BYTES,
            depth: READ_BACK_DEPTH,
            rate: None,
            random: false,
            verify: true,
            until: Until::Requests((blocks.end - blocks.start) / request_blocks),
            blocks,
            slow: Duration::from_secs(1),
            seed: 1,
        })?;
    }
    Ok(read)
}

/// Neighbours become one.
fn in_runs(places: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for place in places {
        match runs.last_mut() {
            Some(last) if last.end == place.start => last.end = place.end,
            _ => runs.push(place),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_share_blocks_and_rate_without_overlap() {
        assert_eq!(slices(100, 3, 8).expect("enough"), [0..32, 32..64, 64..96]);
        assert!(slices(10, 3, 8).is_err());
        let each = |rates: Vec<Option<Rate>>| rates.into_iter().map(|rate| rate.map(|r| r.0.get())).collect::<Vec<_>>();
        assert_eq!(each(rates(Some(10), 3).expect("enough")), [Some(4), Some(3), Some(3)]);
        assert_eq!(each(rates(None, 2).expect("none")), [None, None]);
        assert!(rates(Some(2), 3).is_err());
    }

    #[test]
    fn neighbours_are_read_in_one_go() {
        assert_eq!(in_runs([0..2, 2..4, 6..8].into_iter()), [0..4, 6..8]);
    }
}
