//! `ashlar osd --config FILE`.

use super::{asked_to_end, runtime};
use crate::args::DaemonArgs;
use crate::config::OsdDaemonConfig;
use crate::error::CliError;
use crate::output::Output;
use ashlar_osd::Shutdown;

pub fn run(args: &DaemonArgs) -> Result<Output, CliError> {
    super::run("osd", args, |config: OsdDaemonConfig| {
        let shutdown = Shutdown::new();
        // Only for signals: the OSD has threads of its own, and this one becomes its data thread.
        let signals = runtime(1)?;
        signals.spawn({
            let shutdown = shutdown.clone();
            async move {
                if asked_to_end().await.is_ok() {
                    shutdown.trigger();
                }
            }
        });
        Ok(ashlar_osd::run(config, shutdown)?)
    })
}
