//! `ashlar down`: SIGTERM, patience, then SIGKILL. Those who need others stop first. Data stays.

use crate::args::DownArgs;
use crate::cluster_file::ClusterFile;
use crate::error::CliError;
use crate::layout::{Layout, Service};
use crate::output::{Output, note};
use crate::place::Place;
use crate::process::{self, Running};
use rustix::process::Signal;
use serde_json::json;
use std::time::{Duration, Instant};

/// How long each process may take, unless told otherwise.
pub const STOP_SECONDS: u64 = 10;
const FOLDER_PATIENCE: Duration = Duration::from_secs(90);

pub fn run(args: &DownArgs, place: Option<Place>) -> Result<Output, CliError> {
    let folder = Place::folder_for(args.dir.clone(), place, "down")?;
    let layout = Layout::new(&folder)?;
    let Some(cluster) = ClusterFile::load(&layout)? else { return Err(CliError::NoCluster { folder }) };
    layout.make_folders()?;
    stop_supervisor(&layout, Duration::from_secs(args.timeout))?;
    let _lock = process::lock_folder(&layout.lock_file(), &folder, FOLDER_PATIENCE)?;
    let killed = stop_all(&layout, &cluster, Duration::from_secs(args.timeout))?;
    let text = format!("The cluster in {} is down; its data stays. `ashlar up` brings it back.", folder.display());
    Ok(Output::new(text, json!({ "folder": layout.root(), "killed": killed })))
}

/// An `up --foreground` would start again what we stop; it stops everything itself.
fn stop_supervisor(layout: &Layout, patience: Duration) -> Result<(), CliError> {
    let Some(supervisor) = process::running(&layout.supervisor_file())? else { return Ok(()) };
    supervisor.signal(Signal::TERM)?;
    // Its three groups of daemons may take this long each.
    if !supervisor.wait(patience.saturating_mul(3))? {
        note(&format!("`ashlar up --foreground` (pid {}) does not end, killing it", supervisor.pid));
        supervisor.signal(Signal::KILL)?;
        supervisor.wait(Duration::from_secs(10))?;
    }
    Ok(())
}

/// Stops every daemon of the folder; returns those that had to be killed.
pub fn stop_all(layout: &Layout, cluster: &ClusterFile, patience: Duration) -> Result<Vec<String>, CliError> {
    let services = cluster.services();
    let pick = |wanted: fn(&Service) -> bool| services.iter().copied().filter(wanted).collect::<Vec<_>>();
    let mut killed = Vec::new();
    // The gateway answers what it has. The metadata service before the OSDs: it would take each that stops out of its PGs, and
    // the data would hang on the last one. As it is, all copies are in sync when they come back.
    killed.extend(stop(layout, &pick(|s| matches!(s, Service::Gateway)), patience)?);
    killed.extend(stop(layout, &pick(|s| matches!(s, Service::Mds(_))), patience)?);
    killed.extend(stop(layout, &pick(|s| matches!(s, Service::Osd(_))), patience)?);
    Ok(killed)
}

fn stop(layout: &Layout, services: &[Service], patience: Duration) -> Result<Vec<String>, CliError> {
    let mut running: Vec<(Service, Running)> = Vec::new();
    for service in services {
        if let Some(process) = process::running(&layout.pid_file(*service))? {
            process.signal(Signal::TERM)?;
            running.push((*service, process));
        }
    }
    let deadline = Instant::now() + patience;
    let mut killed = Vec::new();
    for (service, process) in running {
        if !process.wait(deadline.saturating_duration_since(Instant::now()))? {
            note(&format!("{service} (pid {}) did not end within {} s, killing it", process.pid, patience.as_secs()));
            process.signal(Signal::KILL)?;
            process.wait(Duration::from_secs(10))?;
            killed.push(service.to_string());
        }
    }
    Ok(killed)
}
