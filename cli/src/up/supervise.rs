//! `up --foreground`: stays, restarts what dies, and stops everything at Ctrl-C or SIGTERM. What `osd kill` has killed stays
//! down until `osd start` or `up`. It holds `run/up.pid`, so that `down` stops it first.
//! F1: from the first daemon on that it starts, a signal stops them all.
//! F2: nothing that it finds in the folder ends it.

use super::Services;
use crate::cluster_file::ClusterFile;
use crate::down;
use crate::error::CliError;
use crate::layout::Service;
use crate::output::{Output, note};
use crate::process;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

const POLL: Duration = Duration::from_millis(500);
/// A daemon that dies again soon is restarted after twice the time, up to this.
const PAUSE_MAX: Duration = Duration::from_secs(30);
const PAUSE_MIN: Duration = Duration::from_secs(1);
const STOP_PATIENCE: Duration = Duration::from_secs(down::STOP_SECONDS);

/// The signals that end it; caught from when this is made.
#[derive(Debug)]
pub struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl EndSignals {
    pub fn catch() -> Result<EndSignals, CliError> {
        let wrap = |source| CliError::System { what: "cannot wait for signals", source };
        Ok(EndSignals {
            interrupt: signal(SignalKind::interrupt()).map_err(wrap)?,
            terminate: signal(SignalKind::terminate()).map_err(wrap)?,
        })
    }

    /// Never, where none are caught.
    pub async fn recv_if(caught: &mut Option<EndSignals>) {
        match caught {
            Some(signals) => signals.recv().await,
            None => std::future::pending().await,
        }
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

struct Restart {
    pause: Duration,
    not_before: Instant,
}

/// What it remembers from one look at the folder to the next.
#[derive(Default)]
struct Memory {
    restarts: BTreeMap<Service, Restart>,
    /// What was unreadable at the last look and has been told.
    told: BTreeSet<String>,
}

pub async fn run(mut services: Services<'_>, mut end: EndSignals) -> Result<Output, CliError> {
    let mut memory = Memory::default();
    loop {
        tokio::select! {
            () = end.recv() => break,
            () = tokio::time::sleep(POLL) => {}
        }
        // A start may take long; its end is not waited for.
        tokio::select! {
            () = end.recv() => break,
            () = watch(&mut services, &mut memory) => {}
        }
    }
    let layout = services.layout;
    let _lock = process::lock_folder(&layout.lock_file(), layout.root(), STOP_PATIENCE)?;
    stop(&mut services)
}

/// Stops every daemon of the folder. The caller holds its lock.
pub fn stop(services: &mut Services<'_>) -> Result<Output, CliError> {
    note("stopping the cluster; its data stays");
    let killed = down::stop_all(services.layout, &services.cluster, STOP_PATIENCE)?;
    // One that was started a moment ago doesn't hold its pid file yet, and serves nobody.
    for (service, child) in &mut services.children {
        let ended = child.kill().and_then(|()| child.wait());
        ended.map_err(|source| CliError::Stop { service: *service, source })?;
    }
    Ok(Output::new("", json!({ "stopped": true, "killed": killed })))
}

async fn watch(services: &mut Services<'_>, memory: &mut Memory) {
    let mut unreadable = BTreeSet::new();
    // Another `up` may have added OSDs.
    match ClusterFile::load(services.layout) {
        Ok(Some(cluster)) => services.cluster = cluster,
        Ok(None) => {}
        Err(failure) => drop(unreadable.insert(failure.one_line())),
    }
    for service in services.cluster.services() {
        // Reaps it, should it be a child of ours that has ended.
        if let Some(child) = services.children.get_mut(&service)
            && let Ok(Some(status)) = child.try_wait()
        {
            services.children.remove(&service);
            note(&format!("{service} ended ({status})"));
        }
        match process::running(&services.layout.pid_file(service)) {
            Ok(None) => start_again(services, memory, service).await,
            Ok(Some(_)) => {}
            Err(failure) => drop(unreadable.insert(failure.one_line())),
        }
    }
    unreadable.difference(&memory.told).for_each(|line| note(&format!("ashlar: {line}")));
    memory.told = unreadable;
}

async fn start_again(services: &mut Services<'_>, memory: &mut Memory, service: Service) {
    if services.layout.stopped_file(service).exists() {
        return;
    }
    let now = Instant::now();
    let restart = memory.restarts.entry(service).or_insert(Restart { pause: PAUSE_MIN, not_before: now });
    if now < restart.not_before {
        return;
    }
    if now > restart.not_before + PAUSE_MAX {
        restart.pause = PAUSE_MIN;
    }
    restart.not_before = now + restart.pause;
    restart.pause = (restart.pause * 2).min(PAUSE_MAX);
    note(&format!("{service} is down, starting it"));
    // Someone else's `osd start` or `down` is at work: look again later.
    let lock = process::lock_folder(&services.layout.lock_file(), services.layout.root(), Duration::ZERO);
    let Ok(_lock) = lock else { return };
    match services.bring_up(&[service]).await {
        Ok(failures) => failures.iter().for_each(|failure| note(&format!("ashlar: {}", failure.one_line()))),
        Err(failure) => note(&format!("ashlar: {}", failure.one_line())),
    }
}
