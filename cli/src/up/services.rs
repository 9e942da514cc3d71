//! Brings daemons of a folder up and waits until each serves. Used by `up`, `osd start` and the supervisor.
//! S1: a daemon counts as up when it answers *as itself* (its cluster, its new boot id, its own socket): somebody else may have
//! taken its port in between. One that finds its port taken ends with [`EXIT_ADDRESS_IN_USE`] and gets another port.
//! S2: a metadata node keeps its address as long as any daemon runs that was told it.

use super::{configs, ports};
use crate::cluster_file::ClusterFile;
use crate::control::Control;
use crate::error::{CliError, EXIT_ADDRESS_IN_USE};
use crate::layout::{Layout, Service};
use crate::output::note;
use crate::process;
use ashlar_types::view::ClusterView;
use ashlar_types::{BootId, OsdId};
use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;

/// Replaying a log may take a while; everything else is done in a second.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
const PORTS_TRIED: u32 = 50;

/// The daemons of one folder, which this process alone is changing.
#[derive(Debug)]
pub struct Services<'a> {
    pub layout: &'a Layout,
    pub cluster: ClusterFile,
    /// Those that this process has started, for `--foreground`.
    pub children: BTreeMap<Service, Child>,
}

/// A daemon on its way up.
struct Waiting {
    service: Service,
    /// Present if this process has started it just now.
    is_new: bool,
    /// Of the OSD's process before this one.
    boot_before: Option<BootId>,
    restarts: u32,
}

impl<'a> Services<'a> {
    pub fn new(layout: &'a Layout, cluster: ClusterFile) -> Services<'a> {
        Services { layout, cluster, children: BTreeMap::new() }
    }

    pub fn control(&self) -> Result<Control, CliError> {
        Control::new(self.cluster.mds_addresses())
    }

    /// Starts what does not run and waits until all serve. What fails is returned with its reason; the others are waited for.
    pub async fn bring_up(&mut self, services: &[Service]) -> Result<Vec<CliError>, CliError> {
        let before = if services.iter().any(|s| matches!(s, Service::Osd(_))) {
            self.control()?.view().await?
        } else {
            ClusterView::default()
        };
        let mut failures = Vec::new();
        let mut waiting = Vec::new();
        for service in services {
            match self.start_if_down(*service) {
                Ok(is_new) => {
                    let boot_before = boot_of(&before, *service).filter(|_| is_new);
                    waiting.push(Waiting { service: *service, is_new, boot_before, restarts: 0 });
                }
                Err(error) => failures.push(error),
            }
        }
        let begin = Instant::now();
        while !waiting.is_empty() {
            let view = self.view_if_needed(&waiting).await;
            let mut still = Vec::new();
            for mut one in waiting {
                match self.check(&mut one, view.as_ref()).await {
                    Ok(true) => {}
                    Ok(false) if begin.elapsed() > PATIENCE => failures.push(self.not_ready(one.service, begin)),
                    Ok(false) => still.push(one),
                    Err(error) => failures.push(error),
                }
            }
            waiting = still;
            if !waiting.is_empty() {
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(failures)
    }

    /// Whether it serves. Restarts it on another port if its own is taken.
    async fn check(&mut self, one: &mut Waiting, view: Option<&ClusterView>) -> Result<bool, CliError> {
        if one.is_new && self.has_ended(one.service)? {
            one.restarts += 1;
            if one.restarts > PORTS_TRIED {
                return Err(CliError::NoPort { service: one.service, first: self.first_port(one.service) });
            }
            self.give_new_port(one.service)?;
            self.spawn(one.service)?;
            return Ok(false);
        }
        Ok(match one.service {
            Service::Mds(_) => view.is_some(),
            Service::Osd(id) => view.is_some_and(|view| is_up(view, id, one.boot_before)),
            Service::Gateway => UnixStream::connect(&self.cluster.gateway.nbd_socket).await.is_ok(),
        })
    }

    async fn view_if_needed(&self, waiting: &[Waiting]) -> Option<ClusterView> {
        if waiting.iter().all(|one| one.service == Service::Gateway) {
            return None;
        }
        let view = self.control().ok()?.with_patience(Duration::from_millis(500)).view().await.ok()?;
        // Another cluster's node may have taken the port (S1).
        (view.cluster.to_string() == self.cluster.cluster).then_some(view)
    }

    /// Whether a process that was started here has ended because its port was taken; any other end is an error.
    fn has_ended(&mut self, service: Service) -> Result<bool, CliError> {
        let Some(child) = self.children.get_mut(&service) else { return Ok(false) };
        let ended = child.try_wait().map_err(|source| CliError::Start { service, source })?;
        let Some(status) = ended else { return Ok(false) };
        self.children.remove(&service);
        if status.code() == Some(i32::from(EXIT_ADDRESS_IN_USE)) {
            return Ok(true);
        }
        let log = self.layout.log(service);
        Err(CliError::Died { service, status: status.to_string(), last_line: process::last_line(&log), log })
    }

    /// Whether it had to be started.
    fn start_if_down(&mut self, service: Service) -> Result<bool, CliError> {
        let stopped = self.layout.stopped_file(service);
        if let Err(source) = std::fs::remove_file(&stopped)
            && source.kind() != std::io::ErrorKind::NotFound
        {
            return Err(CliError::File { action: "remove", path: stopped, source });
        }
        if process::running(&self.layout.pid_file(service))?.is_some() {
            return Ok(false);
        }
        if !ports::is_free(self.address(service)) {
            self.give_new_port(service)?;
        }
        self.spawn(service)?;
        Ok(true)
    }

    fn spawn(&mut self, service: Service) -> Result<(), CliError> {
        configs::write(self.layout, &self.cluster, service)?;
        let (config, pid_file, log) =
            (self.layout.config(service), self.layout.pid_file(service), self.layout.log(service));
        let command = process::DaemonCommand {
            subcommand: service.subcommand(),
            config: &config,
            pid_file: &pid_file,
            log: &log,
        };
        let child = process::start(&command).map_err(|source| CliError::Start { service, source })?;
        self.children.insert(service, child);
        Ok(())
    }

    fn address(&self, service: Service) -> &str {
        let found = match service {
            Service::Mds(id) => self.cluster.mds.iter().find(|m| m.id == id).map(|m| &m.address),
            Service::Osd(id) => self.cluster.osd.iter().find(|o| o.id == id).map(|o| &o.address),
            Service::Gateway => Some(&self.cluster.gateway.nbd),
        };
        found.expect("services come from the cluster's own list")
    }

    fn give_new_port(&mut self, service: Service) -> Result<(), CliError> {
        let old = self.address(service).to_owned();
        self.check_movable(service, &old)?;
        let taken = all_addresses(&self.cluster);
        let new = ports::choose(service, self.first_port(service), &taken)?;
        note(&format!("{service}: {old} is taken by another program, using {new}"));
        match service {
            Service::Mds(id) => {
                self.cluster.mds.iter_mut().filter(|m| m.id == id).for_each(|m| m.address.clone_from(&new));
            }
            Service::Osd(id) => {
                self.cluster.osd.iter_mut().filter(|o| o.id == id).for_each(|o| o.address.clone_from(&new));
            }
            Service::Gateway => self.cluster.gateway.nbd = new,
        }
        self.cluster.save(self.layout)
    }

    /// S2: OSDs and gateway read the metadata nodes' addresses at their start, and would look for it at the old one for ever. To start
    /// them anew cuts off every client, at a time that a person should choose: attached volumes go on working meanwhile.
    fn check_movable(&self, service: Service, address: &str) -> Result<(), CliError> {
        if !matches!(service, Service::Mds(_)) {
            return Ok(());
        }
        let mut told = Vec::new();
        for other in self.cluster.services().into_iter().filter(|other| !matches!(other, Service::Mds(_))) {
            if process::running(&self.layout.pid_file(other))?.is_some() {
                told.push(other.to_string());
            }
        }
        if told.is_empty() {
            return Ok(());
        }
        Err(CliError::AddressTaken { service, address: address.to_owned(), told: told.join(", ") })
    }

    /// Where the search for a free port begins.
    fn first_port(&self, service: Service) -> u16 {
        match service {
            Service::Mds(_) => ports::MDS_PORT,
            Service::Osd(_) => self.cluster.osd_port_first,
            Service::Gateway => ports::NBD_PORT,
        }
    }

    fn not_ready(&self, service: Service, begin: Instant) -> CliError {
        let what = match service {
            Service::Mds(_) => format!("{service} does not answer"),
            Service::Osd(_) => format!("{service} has not registered with the metadata service"),
            Service::Gateway => format!("{service} does not listen on its socket"),
        };
        CliError::NotReady { what, waited: begin.elapsed(), log: self.layout.log(service) }
    }
}

pub fn all_addresses(cluster: &ClusterFile) -> Vec<String> {
    let mds = cluster.mds.iter().map(|m| m.address.clone());
    let osds = cluster.osd.iter().map(|o| o.address.clone());
    mds.chain(osds).chain([cluster.gateway.nbd.clone()]).collect()
}

fn boot_of(view: &ClusterView, service: Service) -> Option<BootId> {
    match service {
        Service::Osd(id) => view.osds.get(&id).map(|osd| osd.boot),
        _ => None,
    }
}

fn is_up(view: &ClusterView, id: OsdId, boot_before: Option<BootId>) -> bool {
    view.osds.get(&id).is_some_and(|osd| osd.up && Some(osd.boot) != boot_before)
}
