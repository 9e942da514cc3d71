//! `ashlar mds --config FILE`.

use super::{asked_to_end, runtime};
use crate::args::DaemonArgs;
use crate::config::MdsConfig;
use crate::error::CliError;
use crate::output::Output;

pub fn run(args: &DaemonArgs) -> Result<Output, CliError> {
    super::run("mds", args, |config: MdsConfig| {
        let shutdown = async {
            // Signals that can't be had are no order to end.
            if asked_to_end().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        // One thread for the network beside the node's own: two would hand each message to each other.
        Ok(runtime(1)?.block_on(ashlar_mds::run(config, shutdown))?)
    })
}
