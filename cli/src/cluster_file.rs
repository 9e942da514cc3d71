//! `cluster.toml`: what a one-machine cluster's folder consists of. `up` writes it, every command reads it.
//! C1: it is replaced as a whole, by a rename, so that a crash leaves the old or the new one.

use crate::config::parse_cluster;
use crate::error::CliError;
use crate::layout::{Layout, Service};
use ashlar_types::{ClusterId, MdsId, OsdId};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
/// The first OSD's, and the next free ones for the others.
const OSD_PORT: u16 = 7410;

fn usual_osd_port() -> u16 {
    OSD_PORT
}

// serde hands fields over by reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_usual_osd_port(port: &u16) -> bool {
    *port == OSD_PORT
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterFile {
    /// Of this file's form.
    pub version: u32,
    /// The cluster's identity, 32 hexadecimal digits.
    pub cluster: String,
    /// Where `up` begins to look for OSDs' ports, for who keeps a range for this cluster.
    #[serde(default = "usual_osd_port", skip_serializing_if = "is_usual_osd_port")]
    pub osd_port_first: u16,
    /// Given out by the metadata service for disks that were refused in the end; the next OSDs get them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub osd_ids_unused: Vec<OsdId>,
    pub gateway: GatewayEntry,
    pub mds: Vec<MdsEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub osd: Vec<OsdEntry>,
    /// OSDs that `up` has begun to add; after a crash the next `up` finishes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<PendingOsd>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MdsEntry {
    pub id: MdsId,
    /// `HOST:PORT` of the control protocol.
    pub address: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OsdEntry {
    pub id: OsdId,
    /// `HOST:PORT` of the data protocol.
    pub address: String,
    /// A block device or a file.
    pub disk: PathBuf,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PendingOsd {
    /// Set as soon as the metadata service has given one out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<OsdId>,
    /// As given with `--disk`; otherwise a file in the OSD's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<PathBuf>,
    /// Of that file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(default)]
    pub preallocate: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayEntry {
    pub name: String,
    /// `HOST:PORT` of NBD.
    pub nbd: String,
    pub nbd_socket: PathBuf,
}

impl ClusterFile {
    pub fn new(cluster: ClusterId, mds: MdsEntry, gateway: GatewayEntry) -> ClusterFile {
        ClusterFile {
            version: VERSION,
            cluster: cluster.to_string(),
            osd_port_first: OSD_PORT,
            osd_ids_unused: Vec::new(),
            gateway,
            mds: vec![mds],
            osd: Vec::new(),
            pending: Vec::new(),
        }
    }

    /// `None` where there is no cluster.
    pub fn load(layout: &Layout) -> Result<Option<ClusterFile>, CliError> {
        let path = layout.cluster_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CliError::File { action: "read", path, source }),
        };
        let cluster: ClusterFile = from_toml(&path, &text)?;
        if cluster.version != VERSION {
            let reason = format!("version {} is not known to this ashlar, which writes {VERSION}", cluster.version);
            return Err(CliError::Config { path, reason });
        }
        Ok(Some(cluster))
    }

    pub fn save(&self, layout: &Layout) -> Result<(), CliError> {
        let text = format!("# The parts of this cluster. Written by `ashlar up`.\n{}", to_toml(self));
        replace_file(&layout.cluster_file(), &text)
    }

    pub fn id(&self, layout: &Layout) -> Result<ClusterId, CliError> {
        parse_cluster(&self.cluster).map_err(|reason| CliError::Config { path: layout.cluster_file(), reason })
    }

    pub fn mds_addresses(&self) -> Vec<String> {
        self.mds.iter().map(|mds| mds.address.clone()).collect()
    }

    /// In the order in which they start: who is needed first, first.
    pub fn services(&self) -> Vec<Service> {
        let mds = self.mds.iter().map(|mds| Service::Mds(mds.id));
        let osds = self.osd.iter().map(|osd| Service::Osd(osd.id));
        mds.chain(osds).chain([Service::Gateway]).collect()
    }

    /// Refuses an OSD that is not of this folder.
    pub fn osd_service(&self, id: OsdId) -> Result<Service, CliError> {
        let service = Service::Osd(id);
        if self.osd.iter().any(|osd| osd.id == id) {
            return Ok(service);
        }
        let ids: Vec<String> = self.osd.iter().map(|osd| osd.id.to_string()).collect();
        let have = if ids.is_empty() { "none yet".to_owned() } else { ids.join(", ") };
        Err(CliError::UnknownService { service, have })
    }
}

/// Reads TOML; an error names the file, the line and what is wrong there, in one line.
pub fn from_toml<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, CliError> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        CliError::Config { path: path.to_owned(), reason: format!("line {line}: {}", error.message()) }
    })
}

pub fn to_toml<T: Serialize>(value: &T) -> String {
    toml::to_string(value).expect("our own structures have a TOML form")
}

/// Puts `text` in the place of `path`, durably (C1).
pub fn replace_file(path: &Path, text: &str) -> Result<(), CliError> {
    let attempt = || {
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)?;
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(folder)?.sync_all()
    };
    attempt().map_err(|source| CliError::File { action: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> ClusterFile {
        let gateway =
            GatewayEntry { name: "gw".into(), nbd: "127.0.0.1:10809".into(), nbd_socket: "/c/nbd.sock".into() };
        ClusterFile::new(ClusterId(7), MdsEntry { id: MdsId(1), address: "127.0.0.1:7400".into() }, gateway)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let layout = Layout::new(folder.path()).expect("absolute");
        assert!(ClusterFile::load(&layout).expect("readable").is_none());
        let mut cluster = example();
        cluster.osd.push(OsdEntry { id: OsdId(1), address: "127.0.0.1:7410".into(), disk: "/c/osd.1/disk".into() });
        cluster.osd_ids_unused.push(OsdId(2));
        cluster.save(&layout).expect("writable");
        assert_eq!(ClusterFile::load(&layout).expect("readable"), Some(cluster));
    }

    #[test]
    fn a_damaged_file_is_named_with_its_line() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let layout = Layout::new(folder.path()).expect("absolute");
        std::fs::write(layout.cluster_file(), "version = 1\nmds = 3\n").expect("writable");
        let error = ClusterFile::load(&layout).expect_err("damaged").one_line();
        assert!(error.contains("cluster.toml: line 2"), "{error}");
    }

    #[test]
    fn an_unknown_osd_is_refused_by_name() {
        let error = example().osd_service(OsdId(9)).expect_err("unknown").one_line();
        assert_eq!(error, "osd.9 is not of this folder; it has none yet");
    }
}
