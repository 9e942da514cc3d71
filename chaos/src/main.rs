//! `ashlar chaos sim` without the rest of Ashlar: builds in half the time.

use ashlar_chaos::{Aim, Options, Plant, Summary};
use std::process::ExitCode;

const USAGE: &str =
    "usage: ashlar-chaos sim [--seeds N] [--first-seed N] [--seed N] [--plant NAME] [--aim NAME] [--jobs N] [--trace]
       ashlar-chaos plants [--seeds N]     finds each planted bug";

struct Arguments {
    command: String,
    first_seed: u64,
    seeds: u64,
    jobs: usize,
    options: Options,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(arguments) if arguments.command == "plants" => find_plants(&arguments),
        Ok(arguments) => simulate(&arguments),
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let command = words.next().filter(|c| c == "sim" || c == "plants").ok_or("sim or plants?")?;
    let seeds = if command == "plants" { 5000 } else { 100 };
    let mut arguments = Arguments { command, first_seed: 0, seeds, jobs: 2, options: Options::default() };
    while let Some(word) = words.next() {
        if word == "--trace" {
            arguments.options.trace = true;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{word} takes a number, not {value:?}"));
        match word.as_str() {
            "--seeds" => match number()? {
                // None that failed among none would look like a success.
                0 => return Err("--seeds takes a number from 1".to_owned()),
                seeds => arguments.seeds = seeds,
            },
            "--first-seed" => arguments.first_seed = number()?,
            "--seed" => (arguments.first_seed, arguments.seeds) = (number()?, 1),
            "--jobs" => arguments.jobs = usize::try_from(number()?).map_err(|e| e.to_string())?,
            "--plant" => arguments.options.plant = Some(value.parse::<Plant>().map_err(|e| e.to_string())?),
            "--aim" => arguments.options.aim = Some(value.parse::<Aim>().map_err(|e| e.to_string())?),
            _ => return Err(format!("unknown option {word}")),
        }
    }
    Ok(arguments)
}

fn simulate(arguments: &Arguments) -> ExitCode {
    let began = std::time::Instant::now();
    let one = arguments.seeds == 1;
    let jobs = if one { 1 } else { arguments.jobs };
    let summary: Summary =
        ashlar_chaos::run(arguments.first_seed, arguments.seeds, arguments.options, jobs, |report| {
            if one || report.failure.is_some() {
                println!("{report}");
            }
        });
    eprintln!(
        "{} events, {} requests, {} crashes, {} blocks checked ({} undecided) in {:.1} s",
        summary.events,
        summary.requests,
        summary.crashes,
        summary.registers,
        summary.unknown,
        began.elapsed().as_secs_f64()
    );
    println!("{summary}");
    ExitCode::from(u8::from(!summary.failures.is_empty()))
}

fn find_plants(arguments: &Arguments) -> ExitCode {
    let mut missed = 0;
    for plant in Plant::ALL {
        match ashlar_chaos::find_plant(*plant, 0..arguments.seeds, arguments.jobs) {
            Some((seeds, report)) => println!("{plant}: found after {seeds} seeds; {report}"),
            None => {
                missed += 1;
                println!("{plant}: not found in {} seeds", arguments.seeds);
            }
        }
    }
    ExitCode::from(u8::from(missed > 0))
}
