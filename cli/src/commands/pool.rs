//! `ashlar pool`.

use crate::args::PoolCommand;
use crate::control::Control;
use crate::error::CliError;
use crate::output::{Output, Table};
use ashlar_types::control::{ControlReply, ControlRequest};
use ashlar_types::view::PoolInfo;
use serde_json::{Value, json};

pub async fn run(control: &Control, command: PoolCommand) -> Result<Output, CliError> {
    match command {
        PoolCommand::Create { name, replicas, min_size } => {
            let reply = control.ask(ControlRequest::PoolCreate { name, replicas, min_size }).await?;
            let ControlReply::Pool(pool) = reply else { return Err(CliError::unexpected("pool create", &reply)) };
            let text = format!(
                "pool {} created: {} replicas, writes need {}, {} placement groups",
                pool.name, pool.replicas, pool.min_size, pool.pg_count
            );
            Ok(Output::new(text, pool_json(&pool)))
        }
        PoolCommand::List => {
            let pools = control.pools().await?;
            let mut table = Table::new(&["NAME", "REPLICAS", "MIN-SIZE", "PGS"]);
            for pool in &pools {
                let numbers = [u32::from(pool.replicas), u32::from(pool.min_size), pool.pg_count];
                table.row([pool.name.to_string()].into_iter().chain(numbers.map(|n| n.to_string())));
            }
            Ok(Output::new(table.render(), pools.iter().map(pool_json).collect()))
        }
    }
}

pub fn pool_json(pool: &PoolInfo) -> Value {
    json!({
        "id": pool.id.0,
        "name": pool.name,
        "replicas": pool.replicas,
        "min_size": pool.min_size,
        "pg_count": pool.pg_count,
    })
}
