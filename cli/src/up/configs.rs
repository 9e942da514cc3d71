//! The daemons' configuration files as `up` decides them.

use crate::cluster_file::ClusterFile;
use crate::config::{self, GatewayConfig, MdsConfig, OsdDaemonConfig, PeerConfig};
use crate::error::CliError;
use crate::layout::{Layout, Service};
use ashlar_types::{MdsId, OsdId};
use std::path::Path;

/// Writes the file of one daemon, or corrects the addresses and paths in it.
pub fn write(layout: &Layout, cluster: &ClusterFile, service: Service) -> Result<(), CliError> {
    match service {
        Service::Mds(id) => write_mds(layout, cluster, id),
        Service::Osd(id) => write_osd(layout, cluster, id),
        Service::Gateway => write_gateway(layout, cluster),
    }
}

fn write_mds(layout: &Layout, cluster: &ClusterFile, id: MdsId) -> Result<(), CliError> {
    let Some(entry) = cluster.mds.iter().find(|mds| mds.id == id) else { return Ok(()) };
    let fresh = MdsConfig {
        id: id.0,
        data_dir: layout.mds_data(id),
        listen: entry.address.clone(),
        peers: cluster.mds.iter().map(|mds| PeerConfig { id: mds.id.0, address: mds.address.clone() }).collect(),
        cluster: Some(cluster.cluster.clone()),
        bin_window: ashlar_mds::bin_window_default(),
    };
    // All but the window is up's own.
    config::write_decided(&layout.config(Service::Mds(id)), fresh, |config, fresh| {
        let bin_window = std::mem::take(&mut config.bin_window);
        *config = MdsConfig { bin_window, ..fresh };
    })
}

fn write_osd(layout: &Layout, cluster: &ClusterFile, id: OsdId) -> Result<(), CliError> {
    let Some(entry) = cluster.osd.iter().find(|osd| osd.id == id) else { return Ok(()) };
    let fresh = osd_config(layout, cluster, id, &entry.disk, &entry.address)?;
    config::write_decided(&layout.config(Service::Osd(id)), fresh, |config, fresh| {
        config.disk = fresh.disk;
        config.osd = fresh.osd;
        config.cluster = fresh.cluster;
        config.mds = fresh.mds;
        config.listen = fresh.listen;
    })
}

/// An OSD of this folder, with defaults for all that `up` has no opinion about.
pub fn osd_config(
    layout: &Layout,
    cluster: &ClusterFile,
    id: OsdId,
    disk: &Path,
    address: &str,
) -> Result<OsdDaemonConfig, CliError> {
    let config = OsdDaemonConfig::new(disk, id, cluster.id(layout)?, cluster.mds_addresses());
    Ok(OsdDaemonConfig { listen: address.to_owned(), ..config })
}

fn write_gateway(layout: &Layout, cluster: &ClusterFile) -> Result<(), CliError> {
    let nbd_listen = cluster.gateway.nbd.parse().map_err(|_| CliError::Config {
        path: layout.cluster_file(),
        reason: format!("gateway.nbd: {:?} is not ADDRESS:PORT", cluster.gateway.nbd),
    })?;
    let fresh = GatewayConfig {
        name: cluster.gateway.name.clone(),
        mds: cluster.mds_addresses(),
        nbd_listen,
        nbd_advertise: None,
        nbd_socket: cluster.gateway.nbd_socket.clone(),
        nbd_connections_max: GatewayConfig::CONNECTIONS_DEFAULT,
        clone_cache_bytes: None,
        jobs_max: None,
    };
    config::write_decided(&layout.config(Service::Gateway), fresh, |config, fresh| {
        config.name = fresh.name;
        config.mds = fresh.mds;
        config.nbd_listen = fresh.nbd_listen;
        config.nbd_socket = fresh.nbd_socket;
    })
}

/// This machine's name.
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}
