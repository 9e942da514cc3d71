//! `ashlar-instructions`: counts the instructions of every micro-benchmark with callgrind and compares them with the recorded figures.
//! Instructions are the same on a machine that does other work too, so a regression shows where no clock would tell it.
//!
//! [`record`] keeps the figures, [`valgrind`] counts: it runs this program again, which then calls one benchmark after the other.

#![forbid(unsafe_code)]

mod record;
mod valgrind;

/// The one of the daemons.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

use ashlar_micro::benchmark::{self, Benchmark};
use clap::Parser;
use record::Record;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Counts the instructions of the micro-benchmarks, for each operation, and compares them with the recorded figures.
#[derive(Debug, Parser)]
#[command(name = "ashlar-instructions")]
struct CommandLine {
    /// Only benchmarks whose names contain this
    #[arg(default_value = "")]
    filter: String,
    /// Write down what was counted as the new record
    #[arg(long)]
    renew: bool,
    /// Leave the profile of each benchmark here, for callgrind_annotate
    #[arg(long, value_name = "DIR")]
    profiles: Option<PathBuf>,
    /// Run the benchmarks: what this program is started with under callgrind
    #[arg(long, hide = true)]
    called: bool,
}

#[derive(Debug, thiserror::Error)]
enum CountError {
    #[error("cannot {action} {path}: {source}")]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is not a record of figures: {source}")]
    Record { path: PathBuf, source: serde_json::Error },
    #[error("cannot run valgrind: {source}; it is Debian's package of that name")]
    Spawn { source: io::Error },
    #[error("valgrind ended with {status}:\n{stderr}")]
    Valgrind { status: std::process::ExitStatus, stderr: String },
    #[error("{path} has no total of {name}")]
    NoTotal { path: PathBuf, name: &'static str },
    #[error("no benchmark has {filter:?} in its name")]
    NoBenchmark { filter: String },
    #[error("more instructions than recorded: {names}\nWhere this is wanted: {RENEW}")]
    More { names: String },
    #[error("the record knows other benchmarks: {names}\nRenew it: {RENEW}")]
    Unknown { names: String },
}

const RENEW: &str = "cargo run --profile ci -p ashlar-benches --bin ashlar-instructions -- --renew";

impl CountError {
    fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CountError {
        move |source| CountError::File { action, path: path.to_owned(), source }
    }
}

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    match run(&command_line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ashlar-instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command_line: &CommandLine) -> Result<(), CountError> {
    let filter = &command_line.filter;
    let benchmarks: Vec<Benchmark> = benchmark::all().into_iter().filter(|b| b.name.contains(filter)).collect();
    if benchmarks.is_empty() {
        return Err(CountError::NoBenchmark { filter: filter.clone() });
    }
    if command_line.called {
        for benchmark in benchmarks {
            let mut call = (benchmark.make)();
            benchmark::counted(&mut call, benchmark.calls);
        }
        return Ok(());
    }
    let counts = valgrind::count(&benchmarks, filter, command_line.profiles.as_deref())?;
    // The record is of the profile that has debug assertions.
    if !cfg!(debug_assertions) {
        println!("not built with the profile `ci`: nothing to compare with");
        record::print(&counts, &Record::default());
        return Ok(());
    }
    let known = Record::read()?;
    record::print(&counts, &known);
    if command_line.renew {
        return known.renewed(&counts, filter.is_empty()).write();
    }
    known.compare(&counts, filter)
}
