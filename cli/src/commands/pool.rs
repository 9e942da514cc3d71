//! `ashlar pool`.

use super::space;
use crate::args::{OverCommitArg, PoolCommand};
use crate::control::Control;
use crate::error::CliError;
use crate::output::{Output, Table};
use ashlar_types::Name;
use ashlar_types::control::{ControlReply, ControlRequest};
use ashlar_types::view::PoolInfo;
use serde_json::{Value, json};
use std::fmt::Write as _;

pub async fn run(control: &Control, command: PoolCommand) -> Result<Output, CliError> {
    match command {
        PoolCommand::Create { name, replicas, min_size, over_commit, bin_retention } => {
            let over_commit = over_commit.and_then(|arg| arg.0);
            let reply = control.ask(ControlRequest::PoolCreate { name, replicas, min_size, over_commit }).await?;
            let ControlReply::Pool(pool) = reply else { return Err(CliError::unexpected("pool create", &reply)) };
            let kept = match bin_retention {
                None | Some(0) => String::new(),
                Some(seconds) => {
                    keep_deleted(control, &pool.name, seconds).await?;
                    format!("; deleted volumes are kept in the bin for {}", span_text(seconds))
                }
            };
            let text = format!(
                "pool {} created: {} replicas, writes need {}, {} placement groups{kept}",
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
        PoolCommand::Show { name } => {
            let pools = control.pools().await?;
            let pool = pools.iter().find(|pool| pool.name == name).ok_or_else(|| CliError::NoPool { name })?;
            let report = space::of_pools(control).await?;
            let used = report.pools.iter().find(|(id, _)| *id == pool.id).map(|(_, space)| *space).unwrap_or_default();
            let mut value = pool_json(pool);
            value["space"] = space::pool_space_json(&used);
            Ok(Output::new(describe(pool) + &space::describe_pool(&used), value))
        }
        PoolCommand::Set { name, over_commit, bin_retention } => {
            let (mut said, mut json) = (Vec::new(), json!({ "name": name }));
            if let Some(OverCommitArg(over_commit)) = over_commit {
                control.ask(ControlRequest::PoolSet { name: name.clone(), over_commit }).await?;
                let ratio = over_commit.map(|ratio| f64::from(ratio.0) / 100.0);
                said.push(match ratio {
                    Some(ratio) => format!("volumes of pool {name} may have {ratio} times what its OSDs hold"),
                    None => format!("volumes of pool {name} may have any size"),
                });
                json["over_commit"] = json!(ratio);
            }
            if let Some(seconds) = bin_retention {
                keep_deleted(control, &name, seconds).await?;
                said.push(match seconds {
                    0 => format!("deleted volumes of pool {name} are not kept"),
                    _ => format!("deleted volumes of pool {name} are kept in the bin for {}", span_text(seconds)),
                });
                json["bin_retention"] = json!(seconds);
            }
            Ok(Output::new(said.join("\n"), json))
        }
    }
}

fn describe(pool: &PoolInfo) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "name        {}", pool.name);
    let _ = writeln!(text, "id          {}", pool.id);
    let _ = writeln!(text, "replicas    {}, writes need {}", pool.replicas, pool.min_size);
    let _ = writeln!(text, "pgs         {}", pool.pg_count);
    text
}

async fn keep_deleted(control: &Control, name: &Name, retention: u64) -> Result<(), CliError> {
    control.ask(ControlRequest::PoolKeepDeleted { name: name.clone(), retention }).await.map(drop)
}

/// In the largest unit that it is a whole number of.
pub fn span_text(seconds: u64) -> String {
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
    })
}
