//! An OSD that never flushes its disk: what the power-loss test has to catch, or it proves nothing. For that test only; the
//! shipped program has no such thing in it.
//!
//! `osd_no_flush CONFIG` takes the configuration of `ashlar osd`.

use ashlar_osd::{OsdDaemonConfig, Shutdown};
use ashlar_osd_core::Policy;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug)]
struct NoFlush;

impl Policy for NoFlush {
    const NO_FLUSH: bool = true;
}

fn main() -> ExitCode {
    let Some(config) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: osd_no_flush CONFIG");
        return ExitCode::from(2);
    };
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let ended = OsdDaemonConfig::from_file(&config)
        .and_then(|config| ashlar_osd::run_planted::<NoFlush>(config, Shutdown::new()));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("osd_no_flush: {error}");
            ExitCode::FAILURE
        }
    }
}
