//! The folder of a one-machine cluster: which file is where.

use crate::error::CliError;
use ashlar_types::{MdsId, OsdId};
use std::fmt;
use std::path::{Path, PathBuf};

/// A daemon of the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    Mds(MdsId),
    Osd(OsdId),
    Gateway,
}

impl Service {
    /// The subcommand that runs it.
    pub fn subcommand(self) -> &'static str {
        match self {
            Service::Mds(_) => "mds",
            Service::Osd(_) => "osd",
            Service::Gateway => "gateway",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Service::Mds(id) => write!(f, "{id}"),
            Service::Osd(id) => write!(f, "{id}"),
            Service::Gateway => f.write_str("gateway"),
        }
    }
}

/// The paths below one cluster's folder; absolute, so that daemons don't depend on where they are started.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    pub fn new(root: &Path) -> Result<Layout, CliError> {
        let root =
            std::path::absolute(root).map_err(|source| CliError::File { action: "find", path: root.into(), source })?;
        Ok(Layout { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn cluster_file(&self) -> PathBuf {
        self.root.join("cluster.toml")
    }

    /// Held by the one command that is changing the folder.
    pub fn lock_file(&self) -> PathBuf {
        self.root.join("run/lock")
    }

    /// Held by `up --foreground`.
    pub fn supervisor_file(&self) -> PathBuf {
        self.root.join("run/up.pid")
    }

    /// Where a daemon keeps its configuration and its data.
    pub fn folder(&self, service: Service) -> PathBuf {
        self.root.join(service.to_string())
    }

    pub fn config(&self, service: Service) -> PathBuf {
        self.folder(service).join("config.toml")
    }

    pub fn mds_data(&self, id: MdsId) -> PathBuf {
        self.folder(Service::Mds(id)).join("data")
    }

    pub fn osd_disk(&self, id: OsdId) -> PathBuf {
        self.folder(Service::Osd(id)).join("disk")
    }

    pub fn log(&self, service: Service) -> PathBuf {
        self.root.join("logs").join(format!("{service}.log"))
    }

    pub fn pid_file(&self, service: Service) -> PathBuf {
        self.root.join("run").join(format!("{service}.pid"))
    }

    /// Exists while a daemon is meant to be down (`osd kill`), so that nobody restarts it.
    pub fn stopped_file(&self, service: Service) -> PathBuf {
        self.root.join("run").join(format!("{service}.stopped"))
    }

    /// Makes the folders that everything else needs.
    pub fn make_folders(&self) -> Result<(), CliError> {
        for folder in ["run", "logs"] {
            let path = self.root.join(folder);
            std::fs::create_dir_all(&path).map_err(|source| CliError::File { action: "make folder", path, source })?;
        }
        Ok(())
    }
}
