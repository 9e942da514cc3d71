//! `ashlar`: every daemon a subcommand, and the admin commands.

mod args;
mod cluster_file;
mod commands;
mod config;
mod control;
mod daemon;
mod disk;
mod down;
mod error;
mod health;
mod layout;
mod name_template;
mod nbd_probe;
mod output;
mod place;
mod process;
mod random;
mod transfer;
mod up;

/// Payload buffers come and go by the thousand each second, up to 1 MiB each: docs/decisions/005-mimalloc.md.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

use args::{ChaosCommand, Command, CommandLine, Global, OsdAction};
use clap::Parser;
use clap::error::ErrorKind;
use control::Control;
use error::CliError;
use output::Output;
use place::Place;
use std::process::ExitCode;

fn main() -> ExitCode {
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(error) => return usage(&error),
    };
    let as_json = command_line.global.json;
    let done = run(command_line).and_then(|output| {
        output.print(as_json).map_err(|source| CliError::System { what: "cannot print", source })?;
        Ok(output.failure)
    });
    match done {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(failure)) => {
            output::note(&format!("ashlar: {failure}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            output::note(&format!("ashlar: {}", error.one_line()));
            ExitCode::from(error.exit_status())
        }
    }
}

/// Help goes to stdout as it is; a mistake becomes one line.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match output::print_line(&error.to_string()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        output::note(error.to_string().trim_end());
        return ExitCode::from(2);
    }
    output::note(&format!("ashlar: {}; see --help", args::first_paragraph(&error.to_string())));
    ExitCode::from(2)
}

fn run(command_line: CommandLine) -> Result<Output, CliError> {
    let Global { cluster: place, json } = command_line.global;
    match command_line.command {
        Command::Mds(args) => daemon::mds::run(&args),
        Command::Gateway(args) => daemon::gateway::run(&args),
        Command::Osd(osd) => match (osd.command, osd.daemon) {
            (Some(action), _) => osd_action(place, action),
            (None, Some(args)) => daemon::osd::run(&args),
            (None, None) => {
                Err(CliError::Conflict { what: "say what to do with OSDs; see `ashlar osd --help`".into() })
            }
        },
        Command::Down(args) => down::run(&args, place),
        Command::Up(args) => block_on(up::run(args, place, json)),
        Command::Status => ask(place, async |control, _| commands::status::run(control).await),
        Command::Pool(command) => ask(place, async |control, _| commands::pool::run(control, command).await),
        Command::Volume(command) => {
            ask(place, async |control, place| commands::volume::run(control, place, command, json).await)
        }
        Command::Snapshot(command) => {
            ask(place, async |control, _| commands::snapshot::run(control, command, json).await)
        }
        Command::Job(command) => ask(place, async |control, _| commands::job::run(control, command).await),
        Command::Bin(command) => ask(place, async |control, _| commands::bin::run(control, command).await),
        Command::Wipe(command) => ask(place, async |control, _| commands::wipe::run(control, command).await),
        Command::Scrub(args) => ask(place, async |control, _| commands::scrub::run(control, &args).await),
        Command::Perf(args) => ask(place, async |control, _| commands::perf::run(control, &args, json).await),
        Command::Chaos(ChaosCommand::Sim(args)) => commands::chaos::sim(&args, json),
    }
}

fn osd_action(place: Option<Place>, action: OsdAction) -> Result<Output, CliError> {
    match action {
        OsdAction::List => ask(place, async |control, _| commands::osd::list(control).await),
        OsdAction::Kill { id } => commands::osd::kill(place, OsdAction::id(id)),
        OsdAction::Start { id } => block_on(commands::osd::start(place, OsdAction::id(id))),
        OsdAction::Create(args) => {
            ask(place, async |control, place| commands::disk::create(control, place, args).await)
        }
        OsdAction::Inspect(args) => commands::inspect::inspect(&args),
        OsdAction::Fsck(args) => commands::inspect::fsck(&args),
    }
}

/// Runs a command that needs the metadata service.
fn ask(
    place: Option<Place>,
    command: impl AsyncFnOnce(&Control, &Place) -> Result<Output, CliError>,
) -> Result<Output, CliError> {
    let place = Place::or_default(place)?;
    let control = Control::new(place.mds_addresses()?)?;
    block_on(command(&control, &place))
}

fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| CliError::System { what: "cannot start", source })?;
    let done = runtime.block_on(work);
    // A thread may wait for a pipe that nobody writes to: the command doesn't wait for it.
    runtime.shutdown_background();
    done
}
