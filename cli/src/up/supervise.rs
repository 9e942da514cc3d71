//! `up --foreground`: stays, restarts what dies, and stops everything at Ctrl-C or SIGTERM. What `osd kill` has killed stays
//! down until `osd start` or `up`. It holds `run/up.pid`, so that `down` stops it first.

use super::Services;
use crate::cluster_file::ClusterFile;
use crate::down;
use crate::error::CliError;
use crate::layout::Service;
use crate::output::{Output, note};
use crate::process;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

const POLL: Duration = Duration::from_millis(500);
/// A daemon that dies again soon is restarted after twice the time, up to this.
const PAUSE_MAX: Duration = Duration::from_secs(30);
const PAUSE_MIN: Duration = Duration::from_secs(1);
const STOP_PATIENCE: Duration = Duration::from_secs(down::STOP_SECONDS);

struct Restart {
    pause: Duration,
    not_before: Instant,
}

pub async fn run(mut services: Services<'_>) -> Result<Output, CliError> {
    let wrap = |source| CliError::System { what: "cannot wait for signals", source };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(wrap)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(wrap)?;
    let mut restarts: BTreeMap<Service, Restart> = BTreeMap::new();
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = tokio::time::sleep(POLL) => watch(&mut services, &mut restarts).await?,
        }
    }
    note("stopping the cluster; its data stays");
    let (layout, cluster) = (services.layout, services.cluster.clone());
    let _lock = process::lock_folder(&layout.lock_file(), layout.root(), STOP_PATIENCE)?;
    let killed = down::stop_all(layout, &cluster, STOP_PATIENCE)?;
    Ok(Output::new("", json!({ "stopped": true, "killed": killed })))
}

async fn watch(services: &mut Services<'_>, restarts: &mut BTreeMap<Service, Restart>) -> Result<(), CliError> {
    // Another `up` may have added OSDs.
    if let Some(cluster) = ClusterFile::load(services.layout)? {
        services.cluster = cluster;
    }
    for service in services.cluster.services() {
        // Reaps it, should it be a child of ours that has ended.
        if let Some(child) = services.children.get_mut(&service)
            && let Ok(Some(status)) = child.try_wait()
        {
            services.children.remove(&service);
            note(&format!("{service} ended ({status})"));
        }
        if process::running(&services.layout.pid_file(service))?.is_some() {
            continue;
        }
        if services.layout.stopped_file(service).exists() {
            continue;
        }
        let now = Instant::now();
        let restart = restarts.entry(service).or_insert(Restart { pause: PAUSE_MIN, not_before: now });
        if now < restart.not_before {
            continue;
        }
        if now > restart.not_before + PAUSE_MAX {
            restart.pause = PAUSE_MIN;
        }
        restart.not_before = now + restart.pause;
        restart.pause = (restart.pause * 2).min(PAUSE_MAX);
        note(&format!("{service} is down, starting it"));
        // Someone else's `osd start` or `down` is at work: look again later.
        let lock = process::lock_folder(&services.layout.lock_file(), services.layout.root(), Duration::ZERO);
        let Ok(_lock) = lock else { continue };
        match services.bring_up(&[service]).await {
            Ok(failures) => failures.iter().for_each(|failure| note(&format!("ashlar: {}", failure.one_line()))),
            Err(failure) => note(&format!("ashlar: {}", failure.one_line())),
        }
    }
    Ok(())
}
