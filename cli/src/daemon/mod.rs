//! What every daemon does around its own work: configuration, pid file, log, an orderly end.
//! D1: a panic in any thread ends the process, however it was built: a daemon never goes on with a part of itself dead.

pub mod gateway;
pub mod mds;
pub mod osd;

use crate::args::DaemonArgs;
use crate::config::{self, ConfigFile};
use crate::error::CliError;
use crate::output::Output;
use crate::process;
use serde_json::Value;
use std::io::IsTerminal;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Runs `body` as a daemon with the configuration that the command line names.
fn run<C: ConfigFile>(
    name: &'static str,
    args: &DaemonArgs,
    body: impl FnOnce(C) -> Result<(), CliError>,
) -> Result<Output, CliError> {
    let config: C = config::load(&args.config)?;
    let (text, value) = (config.to_toml(), config.to_json());
    if args.print_config {
        return Ok(Output::new(text, value));
    }
    if args.own_session {
        // Fails only for a process that leads its group already, which is as good.
        let _ = rustix::process::setsid();
    }
    let _held = args.pid_file.as_deref().map(process::hold_pid_file).transpose()?;
    start_log(&args.log)?;
    abort_on_panic();
    tracing::info!(daemon = name, pid = std::process::id(), version = env!("CARGO_PKG_VERSION"), "starting");
    for line in text.lines().filter(|line| !line.is_empty()) {
        tracing::info!(config = line);
    }
    body(config)?;
    tracing::info!(daemon = name, "ended");
    Ok(Output::new("", Value::Null))
}

fn start_log(filter: &str) -> Result<(), CliError> {
    let filter =
        EnvFilter::try_new(filter).map_err(|error| CliError::Conflict { what: format!("--log {filter}: {error}") })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

/// D1.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// The runtime of a daemon's control threads.
fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|source| CliError::System { what: "cannot start threads", source })
}

/// Returns when the process is asked to end. A second signal ends it at once.
async fn asked_to_end() -> Result<(), CliError> {
    let wrap = |source| CliError::System { what: "cannot wait for signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(wrap)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(wrap)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("asked to end");
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("asked twice, ending at once");
        std::process::exit(1);
    });
    Ok(())
}

/// For what must differ each time a process starts.
fn random_u64() -> Result<u64, CliError> {
    let mut bytes = [0u8; 8];
    crate::random::fill(&mut bytes)?;
    // 0 stands for none.
    Ok(u64::from_le_bytes(bytes).max(1))
}
