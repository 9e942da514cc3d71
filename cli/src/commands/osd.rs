//! `ashlar osd`: the OSDs of the cluster, those of this machine, and their disks.

use super::status::{osd_table, osds_json};
use crate::cluster_file::ClusterFile;
use crate::control::Control;
use crate::error::CliError;
use crate::layout::Layout;
use crate::output::Output;
use crate::place::Place;
use crate::process;
use crate::up::Services;
use ashlar_types::OsdId;
use rustix::process::Signal;
use serde_json::json;
use std::time::Duration;

const FOLDER_PATIENCE: Duration = Duration::from_secs(90);
const KILL_PATIENCE: Duration = Duration::from_secs(10);

pub async fn list(control: &Control) -> Result<Output, CliError> {
    let view = control.view().await?;
    let service = control.status().await?;
    Ok(Output::new(osd_table(&view, &service).render(), osds_json(&view, &service).into()))
}

pub fn kill(place: Option<Place>, id: OsdId) -> Result<Output, CliError> {
    let (layout, cluster) = Place::local(place, "osd kill")?;
    let service = cluster.osd_service(id)?;
    let _lock = process::lock_folder(&layout.lock_file(), layout.root(), FOLDER_PATIENCE)?;
    let stopped = layout.stopped_file(service);
    // First, so that no supervisor starts it again in between.
    std::fs::write(&stopped, "by `ashlar osd kill`\n").map_err(|source| CliError::File {
        action: "write",
        path: stopped,
        source,
    })?;
    let Some(running) = process::running(&layout.pid_file(service))? else {
        return Ok(Output::new(format!("{service} was not running"), json!({ "osd": id.0, "killed": false })));
    };
    running.signal(Signal::KILL)?;
    running.wait(KILL_PATIENCE)?;
    let text = format!("{service} killed; `ashlar osd start {}` brings it back", id.0);
    Ok(Output::new(text, json!({ "osd": id.0, "killed": true, "pid": running.pid })))
}

pub async fn start(place: Option<Place>, id: OsdId) -> Result<Output, CliError> {
    let (layout, _) = Place::local(place, "osd start")?;
    let _lock = process::lock_folder(&layout.lock_file(), layout.root(), FOLDER_PATIENCE)?;
    let cluster = load(&layout)?;
    let service = cluster.osd_service(id)?;
    let was_running = process::running(&layout.pid_file(service))?.is_some();
    let mut services = Services::new(&layout, cluster);
    if let Some(failure) = services.bring_up(&[service]).await?.into_iter().next() {
        return Err(failure);
    }
    let text = if was_running { format!("{service} runs already") } else { format!("{service} is up") };
    Ok(Output::new(text, json!({ "osd": id.0, "started": !was_running })))
}

/// Under the folder's lock, so that nobody changes it any more.
fn load(layout: &Layout) -> Result<ClusterFile, CliError> {
    ClusterFile::load(layout)?.ok_or_else(|| CliError::NoCluster { folder: layout.root().to_owned() })
}
