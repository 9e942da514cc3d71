//! Where a cluster is: in a folder of this machine, or behind the addresses of its metadata nodes.

use crate::cluster_file::{ClusterFile, MdsEntry};
use crate::error::CliError;
use crate::layout::{Layout, Service};
use crate::process::running;
use std::path::{Path, PathBuf};

/// What `--cluster` and `$ASHLAR_CLUSTER` name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Folder(PathBuf),
    /// `HOST:PORT` of metadata nodes.
    Addresses(Vec<String>),
}

#[derive(Debug, thiserror::Error)]
#[error("a cluster is named by its folder or by HOST:PORT")]
pub struct PlaceError;

impl Place {
    /// Text with a `/`, and anything that isn't HOST:PORT, is a folder.
    pub fn parse(text: &str) -> Result<Place, PlaceError> {
        if text.trim().is_empty() {
            return Err(PlaceError);
        }
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        if !text.contains('/') && parts.iter().all(|part| is_address(part)) {
            return Ok(Place::Addresses(parts.into_iter().map(str::to_owned).collect()));
        }
        Ok(Place::Folder(PathBuf::from(text)))
    }

    /// The folder of `ashlar up`: `~/.ashlar`.
    pub fn default_folder() -> Result<PathBuf, CliError> {
        match std::env::home_dir() {
            Some(home) if home.is_absolute() => Ok(home.join(".ashlar")),
            _ => Err(CliError::NoHome),
        }
    }

    /// What `--cluster` says, else `$ASHLAR_CLUSTER` (empty is as good as unset), else the folder of `up`.
    pub fn or_default(place: Option<Place>) -> Result<Place, CliError> {
        if let Some(place) = place {
            return Ok(place);
        }
        match std::env::var("ASHLAR_CLUSTER") {
            Ok(text) if !text.trim().is_empty() => {
                Place::parse(&text).map_err(|error| CliError::Conflict { what: format!("$ASHLAR_CLUSTER: {error}") })
            }
            _ => Place::default_folder().map(Place::Folder),
        }
    }

    /// The folder that `up` and `down` work on.
    pub fn folder_for(dir: Option<PathBuf>, place: Option<Place>, command: &'static str) -> Result<PathBuf, CliError> {
        match (dir, Place::or_default(place)) {
            (Some(dir), _) => Ok(dir),
            (None, Ok(Place::Folder(dir))) => Ok(dir),
            (None, Ok(Place::Addresses(_))) => Err(CliError::NeedsFolder { command }),
            (None, Err(error)) => Err(error),
        }
    }

    /// The local folder and what it says of itself, for commands about this machine's processes.
    pub fn local(place: Option<Place>, command: &'static str) -> Result<(Layout, ClusterFile), CliError> {
        let folder = Place::folder_for(None, place, command)?;
        open_folder(&folder)
    }

    /// How to reach the metadata nodes.
    pub fn mds_addresses(&self) -> Result<Vec<String>, CliError> {
        match self {
            Place::Addresses(addresses) => Ok(addresses.clone()),
            Place::Folder(folder) => {
                let (layout, cluster) = open_folder(folder)?;
                // Nodes that a person runs elsewhere have no pid file here; ours, when they are down, answer nobody.
                let is_ours = |mds: &&MdsEntry| layout.pid_file(Service::Mds(mds.id)).exists();
                let is_down = |mds: &MdsEntry| matches!(running(&layout.pid_file(Service::Mds(mds.id))), Ok(None));
                let ours: Vec<&MdsEntry> = cluster.mds.iter().filter(is_ours).collect();
                if ours.len() == cluster.mds.len() && ours.into_iter().all(is_down) {
                    return Err(CliError::Down { folder: folder.clone() });
                }
                Ok(cluster.mds_addresses())
            }
        }
    }

    /// The gateway of the folder, if this names a folder.
    pub fn gateway(&self) -> Option<String> {
        match self {
            Place::Addresses(_) => None,
            Place::Folder(folder) => open_folder(folder).ok().map(|(_, cluster)| cluster.gateway.name),
        }
    }
}

fn open_folder(folder: &Path) -> Result<(Layout, ClusterFile), CliError> {
    let layout = Layout::new(folder)?;
    match ClusterFile::load(&layout)? {
        Some(cluster) => Ok((layout, cluster)),
        None => Err(CliError::NoCluster { folder: folder.to_owned() }),
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_addresses_are_told_apart() {
        let addresses = |list: &[&str]| Place::Addresses(list.iter().map(|s| (*s).to_owned()).collect());
        assert_eq!(Place::parse("host:7400").expect("address"), addresses(&["host:7400"]));
        assert_eq!(Place::parse("[::1]:7400, b:7401").expect("addresses"), addresses(&["[::1]:7400", "b:7401"]));
        assert_eq!(Place::parse("./host:7400").expect("folder"), Place::Folder("./host:7400".into()));
        assert_eq!(Place::parse("here").expect("folder"), Place::Folder("here".into()));
        assert_eq!(Place::parse("host:port").expect("folder"), Place::Folder("host:port".into()));
        assert!(Place::parse(" ").is_err());
    }
}
