//! `ashlar pool`.

use crate::args::PoolCommand;
use crate::control::Control;
use crate::error::CliError;
use crate::output::{Output, Table};
use ashlar_types::Name;
use ashlar_types::control::{ControlReply, ControlRequest};
use ashlar_types::view::PoolInfo;
use serde_json::{Value, json};

pub async fn run(control: &Control, command: PoolCommand) -> Result<Output, CliError> {
    match command {
        PoolCommand::Create { name, replicas, min_size, bin_retention } => {
            let request = ControlRequest::PoolCreate { name: name.clone(), replicas, min_size };
            let mut pool = ask_pool(control, "pool create", request).await?;
            if let Some(bin_retention) = bin_retention.filter(|seconds| *seconds > 0) {
                pool = set(control, name, bin_retention).await?;
            }
            let kept = match pool.bin_retention {
                0 => String::new(),
                seconds => format!("; deleted volumes are kept in the bin for {}", span_text(seconds)),
            };
            let text = format!(
                "pool {} created: {} replicas, writes need {}, {} placement groups{kept}",
                pool.name, pool.replicas, pool.min_size, pool.pg_count
            );
            Ok(Output::new(text, pool_json(&pool)))
        }
        PoolCommand::Set { name, bin_retention } => {
            let pool = set(control, name, bin_retention).await?;
            let text = match pool.bin_retention {
                0 => format!("pool {}: deleted volumes are not kept", pool.name),
                seconds => {
                    format!("pool {}: deleted volumes are kept in the bin for {}", pool.name, span_text(seconds))
                }
            };
            Ok(Output::new(text, pool_json(&pool)))
        }
        PoolCommand::List => {
            let pools = control.pools().await?;
            let mut table = Table::new(&["NAME", "REPLICAS", "MIN-SIZE", "PGS", "BIN"]);
            for pool in &pools {
                let numbers = [u32::from(pool.replicas), u32::from(pool.min_size), pool.pg_count];
                let bin = if pool.bin_retention == 0 { "-".to_owned() } else { span_text(pool.bin_retention) };
                table.row([pool.name.to_string()].into_iter().chain(numbers.map(|n| n.to_string())).chain([bin]));
            }
            Ok(Output::new(table.render(), pools.iter().map(pool_json).collect()))
        }
    }
}

async fn set(control: &Control, name: Name, bin_retention: u64) -> Result<PoolInfo, CliError> {
    ask_pool(control, "pool set", ControlRequest::PoolSet { name, bin_retention }).await
}

async fn ask_pool(control: &Control, what: &'static str, request: ControlRequest) -> Result<PoolInfo, CliError> {
    match control.ask(request).await? {
        ControlReply::Pool(pool) => Ok(pool),
        reply => Err(CliError::unexpected(what, &reply)),
    }
}

/// In the largest unit that it is a whole number of.
fn span_text(seconds: u64) -> String {
    let units = [(24 * 60 * 60, 'd'), (60 * 60, 'h'), (60, 'm')];
    let unit = units.into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{seconds}s"), |(unit, letter)| format!("{}{letter}", seconds / unit))
}

pub fn pool_json(pool: &PoolInfo) -> Value {
    json!({
        "id": pool.id.0,
        "name": pool.name,
        "replicas": pool.replicas,
        "min_size": pool.min_size,
        "pg_count": pool.pg_count,
        "bin_retention": pool.bin_retention,
    })
}
