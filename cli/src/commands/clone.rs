//! `ashlar volume clone`: one, or many by a template.

use super::volume::{ask_volume, if_reserved, volume_json};
use super::{job, mode, reserve};
use crate::args::{CloneArgs, JobArgs};
use crate::control::Control;
use crate::error::CliError;
use crate::output::Output;
use ashlar_types::control::{ControlError, ControlReply, ControlRequest, Provision, VolumeInfo};
use ashlar_types::{Name, format_bytes};
use ashlar_wire_control::ControlClientError;
use std::time::Duration;

/// As many as the metadata service makes at once.
const CLONES_PER_REQUEST: usize = 1_000;

pub async fn run(control: &Control, args: CloneArgs) -> Result<Output, CliError> {
    let provision = args.provision.into();
    mode::check(provision, args.disk_mode.into())?;
    let names = args.names()?;
    let mut clones = Vec::with_capacity(names.len());
    for batch in names.chunks(CLONES_PER_REQUEST) {
        let made = match clone(control, &args, batch).await {
            Ok(made) => made,
            Err(source) => return Err(stopped(&args, &names, clones.len(), source)),
        };
        let reserved = reserve_all(control, &made, provision, Duration::from_secs(args.reserve.timeout)).await;
        if let Err(source) = reserved {
            // Those of earlier batches too: all of them are made so or none.
            clones.extend(made);
            return Err(undone(control, &clones, source).await);
        }
        clones.extend(mode::set_clones(control, made, args.disk_mode.into()).await?);
    }
    if provision == Provision::Eager {
        make_eager(control, &clones).await?;
    }
    if provision != Provision::Thin {
        for volume in &mut clones {
            *volume = show(control, volume).await?;
        }
    }
    let json = match (&args.name, &clones[..]) {
        (Some(_), [only]) => volume_json(only),
        _ => clones.iter().map(volume_json).collect(),
    };
    Ok(Output::new(describe(&args, &clones), json))
}

/// That each has its space; all are asked for before the first is waited for. An eager one is lazy until it is flattened.
async fn reserve_all(
    control: &Control,
    clones: &[VolumeInfo],
    provision: Provision,
    patience: Duration,
) -> Result<(), CliError> {
    if provision == Provision::Thin {
        return Ok(());
    }
    let mut asked = Vec::with_capacity(clones.len());
    for volume in clones {
        let request = ControlRequest::VolumeSet { name: volume.name.clone(), provision: Provision::Lazy };
        asked.push(ask_volume(control, "volume set", request).await?);
    }
    for volume in asked {
        let volume = reserve::wait(control, volume, patience).await?;
        if volume.provision == Provision::Thin {
            return Err(CliError::NotReserved { name: volume.name.to_string() });
        }
    }
    Ok(())
}

/// Nobody has had the time to keep anything in them.
async fn undone(control: &Control, clones: &[VolumeInfo], source: CliError) -> CliError {
    let mut left = Vec::new();
    for volume in clones {
        let request = ControlRequest::VolumeDelete { name: volume.name.clone(), with_snapshots: false };
        match control.ask(request).await {
            Ok(_) | Err(CliError::Control(ControlClientError::Refused(ControlError::NotFound { .. }))) => {}
            // Why there are none is more to the point than what this met.
            Err(_) => left.push(volume.name.to_string()),
        }
    }
    CliError::NotCloned { left, source: Box::new(source) }
}

/// Zeroes would hide what a clone reads from its origin, so it is flattened before it is zeroed. All jobs are begun before the first is waited for.
async fn make_eager(control: &Control, clones: &[VolumeInfo]) -> Result<(), CliError> {
    let how = JobArgs { rate: None, no_wait: false };
    let mut jobs = Vec::with_capacity(clones.len());
    for volume in clones {
        let request = ControlRequest::VolumeFlatten { name: volume.name.clone(), rate: None };
        jobs.push(job::ask(control, request).await?);
    }
    for (volume, work) in clones.iter().zip(jobs) {
        let id = work.id;
        job::attend(control, work, how).await?;
        if show(control, volume).await?.origin.is_some() {
            return Err(CliError::JobGivenUp { job: id, volume: volume.name.clone() });
        }
    }
    let mut eager = Vec::with_capacity(clones.len());
    for volume in clones {
        let request = ControlRequest::VolumeSet { name: volume.name.clone(), provision: Provision::Eager };
        eager.push(ask_volume(control, "volume set", request).await?);
    }
    for volume in eager {
        job::zeroed(control, volume, how).await?;
    }
    Ok(())
}

async fn show(control: &Control, volume: &VolumeInfo) -> Result<VolumeInfo, CliError> {
    ask_volume(control, "volume show", ControlRequest::VolumeShow { name: volume.name.clone() }).await
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
    let (size, pool, how) = (format_bytes(first.size), &first.pool_name, if_reserved(first));
    match clones.len() {
        1 => format!("volume {} cloned from {}: {size} in pool {pool}{how}", first.name, args.source),
        n => {
            let from = &args.source;
            format!("{n} volumes cloned from {from}, {} to {}: {size} each in pool {pool}{how}", first.name, last.name)
        }
    }
}
