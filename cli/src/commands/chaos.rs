//! `ashlar chaos`: the simulator.

use crate::args::SimArgs;
use crate::error::CliError;
use crate::output::{Output, print_line};
use ashlar_chaos::{Options, SeedReport};
use serde_json::json;

pub fn sim(args: &SimArgs, as_json: bool) -> Result<Output, CliError> {
    let (first, count) = args.seed.map_or((args.first_seed, args.seeds), |seed| (seed, 1));
    let options = Options { plant: args.plant, aim: args.aim, trace: args.trace, ..Options::default() };
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    // A trace of two seeds at a time could not be read.
    let jobs = if args.trace { 1 } else { jobs };
    let mut reader_left = None;
    let summary = ashlar_chaos::run(first, count, options, jobs, |report: &SeedReport| {
        if !as_json && (count == 1 || report.failure.is_some()) {
            reader_left = print_line(&report.to_string()).err();
        }
    });
    if let Some(source) = reader_left {
        return Err(CliError::System { what: "cannot print", source });
    }
    let failures: Vec<_> = summary
        .failures
        .iter()
        .map(|report| json!({ "seed": report.seed, "replay": report.replay(), "reason": report.failure.as_ref().map(ToString::to_string) }))
        .collect();
    let value = json!({
        "first_seed": first,
        "seeds": summary.seeds,
        "failed": summary.failures.len(),
        "failures": failures,
        "events": summary.events,
        "requests": summary.requests,
        "crashes": summary.crashes,
        "blocks_checked": summary.registers,
    });
    let failure =
        (!summary.failures.is_empty()).then(|| format!("{} of {} seeds failed", summary.failures.len(), summary.seeds));
    Ok(Output::new(summary.to_string(), value).failed(failure))
}
