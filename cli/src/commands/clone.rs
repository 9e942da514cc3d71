//! `ashlar volume clone`: one, or many by a template.

use super::mode;
use super::volume::volume_json;
use crate::args::CloneArgs;
use crate::control::Control;
use crate::error::CliError;
use crate::output::Output;
use ashlar_types::control::{ControlReply, ControlRequest, VolumeInfo};
use ashlar_types::{Name, format_bytes};

/// As many as the metadata service makes at once.
const CLONES_PER_REQUEST: usize = 1_000;

pub async fn run(control: &Control, args: CloneArgs) -> Result<Output, CliError> {
    let names = args.names()?;
    let mut clones = Vec::with_capacity(names.len());
    for batch in names.chunks(CLONES_PER_REQUEST) {
        match clone(control, &args, batch).await {
            Ok(made) => clones.extend(mode::set_clones(control, made, args.disk_mode.into()).await?),
            Err(source) => return Err(stopped(&args, &names, clones.len(), source)),
        }
    }
    let json = match (&args.name, &clones[..]) {
        (Some(_), [only]) => volume_json(only),
        _ => clones.iter().map(volume_json).collect(),
    };
    Ok(Output::new(describe(&args, &clones), json))
}

async fn clone(control: &Control, args: &CloneArgs, names: &[Name]) -> Result<Vec<VolumeInfo>, CliError> {
    let (source, pool) = (args.source.clone(), args.pool.clone());
    match control.ask(ControlRequest::VolumeClone { source, names: names.to_vec(), pool }).await? {
        ControlReply::Volumes(made) if made.len() == names.len() => Ok(made),
        reply => Err(CliError::unexpected("volume clone", &reply)),
    }
}

fn stopped(args: &CloneArgs, names: &[Name], made: usize, source: CliError) -> CliError {
    let Some(last) = made.checked_sub(1).and_then(|at| names.get(at)) else { return source };
    CliError::Cloned {
        made,
        wanted: names.len(),
        last: last.clone(),
        first_left: args.first + made as u64,
        source: Box::new(source),
    }
}

fn describe(args: &CloneArgs, clones: &[VolumeInfo]) -> String {
    let (Some(first), Some(last)) = (clones.first(), clones.last()) else { return String::new() };
    let (size, pool) = (format_bytes(first.size), &first.pool_name);
    match clones.len() {
        1 => format!("volume {} cloned from {}: {size} in pool {pool}", first.name, args.source),
        n => {
            let from = &args.source;
            format!("{n} volumes cloned from {from}, {} to {}: {size} each in pool {pool}", first.name, last.name)
        }
    }
}
