//! Configuration of one OSD. Read once at start, checked whole, printed; nothing in it changes while the daemon runs.

use crate::error::OsdError;
use ashlar_types::{ClusterId, OsdId};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// Everything that `ashlar osd --config FILE` reads. Sizes are numbers of bytes or text such as `"64MiB"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OsdDaemonConfig {
    /// Path of a block device, or of a file standing in for one. No default.
    pub disk: PathBuf,
    /// The OSD's id, as `OsdCreate` gave it out. No default.
    pub osd: OsdId,
    /// The cluster's id, 32 hexadecimal digits. No default.
    #[serde(with = "cluster_text")]
    pub cluster: ClusterId,
    /// Endpoints of the metadata service, `HOST:PORT` each; at least one. No default.
    pub mds: Vec<String>,
    /// Where to listen for the data protocol, `IP:PORT`; port 0 chooses a free one. Default `0.0.0.0:0`.
    #[serde(default = "default_listen")]
    pub listen: String,
    /// What others are told to connect to, `HOST:PORT`; port 0 stands for the one listened on. Default: `listen`, which must then
    /// name an address that others can reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// The failure domain "host". Default: the machine's host name.
    #[serde(default = "default_host")]
    pub host: String,
    /// Bytes of the disk that the store uses, a multiple of 4096. Default: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "ashlar_types::size_text")]
    pub capacity: Option<u64>,
    /// Bytes of the log ring, a multiple of 4096, 4 MiB to 16 GiB; fixed when the disk is formatted. Default: 1/64 of the
    /// capacity, at least 16 MiB, at most 128 MiB (a mount holds it in memory).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "ashlar_types::size_text")]
    pub log_bytes: Option<u64>,
    /// Bytes of index pages kept in memory, 1 MiB to 1 TiB. Default 48 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "ashlar_types::size_text")]
    pub index_cache_bytes: Option<u64>,
}

impl OsdDaemonConfig {
    /// A configuration with defaults for all that has one.
    pub fn new(disk: impl Into<PathBuf>, osd: OsdId, cluster: ClusterId, mds: Vec<String>) -> OsdDaemonConfig {
        OsdDaemonConfig {
            disk: disk.into(),
            osd,
            cluster,
            mds,
            listen: default_listen(),
            advertise: None,
            host: default_host(),
            capacity: None,
            log_bytes: None,
            index_cache_bytes: None,
        }
    }

    /// Reads and checks a TOML file.
    pub fn from_file(path: &Path) -> Result<OsdDaemonConfig, OsdError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| OsdError::ConfigFile { path: path.to_owned(), source })?;
        let config: OsdDaemonConfig = toml::from_str(&text)
            .map_err(|source| OsdError::ConfigSyntax { path: path.to_owned(), source: Box::new(source) })?;
        config.check()?;
        Ok(config)
    }

    /// Refuses what cannot work, naming the key.
    pub fn check(&self) -> Result<(), OsdError> {
        let refuse = |key, reason: String| Err(OsdError::Config { key, reason });
        if self.disk.as_os_str().is_empty() {
            return refuse("disk", "is empty".into());
        }
        if self.cluster == ClusterId::default() {
            return refuse("cluster", "is zero".into());
        }
        if self.mds.is_empty() {
            return refuse("mds", "names no endpoint".into());
        }
        if let Some(bad) = self.mds.iter().find(|e| !is_host_port(e)) {
            return refuse("mds", format!("{bad:?} is not HOST:PORT"));
        }
        let listen = self.listen_address()?;
        match &self.advertise {
            Some(address) if !is_host_port(address) => {
                return refuse("advertise", format!("{address:?} is not HOST:PORT"));
            }
            None if listen.ip().is_unspecified() => {
                return refuse("advertise", format!("is needed, because nobody can connect to {}", listen.ip()));
            }
            _ => {}
        }
        if self.host.is_empty() || self.host.len() > 255 {
            return refuse("host", "must have 1 to 255 bytes".into());
        }
        check_size("capacity", self.capacity, 64 * MIB, u64::MAX >> 1)?;
        check_size("log_bytes", self.log_bytes, 4 * MIB, 16 << 30)?;
        check_size("index_cache_bytes", self.index_cache_bytes, MIB, 1 << 40)
    }

    pub(crate) fn listen_address(&self) -> Result<SocketAddr, OsdError> {
        self.listen
            .parse()
            .map_err(|_| OsdError::Config { key: "listen", reason: format!("{:?} is not IP:PORT", self.listen) })
    }

    /// What to tell others, when this is where the daemon listens.
    pub(crate) fn advertised(&self, bound: SocketAddr) -> String {
        let address = self.advertise.clone().unwrap_or_else(|| bound.to_string());
        match address.strip_suffix(":0") {
            Some(host) => format!("{host}:{}", bound.port()),
            None => address,
        }
    }

    /// Bytes of the log on a disk of this capacity.
    pub(crate) fn log_bytes(&self, capacity: u64) -> u64 {
        let default = (capacity / 64).clamp(16 * MIB, 128 * MIB) / PAGE * PAGE;
        self.log_bytes.unwrap_or(default)
    }

    pub(crate) fn index_cache_bytes(&self) -> u64 {
        self.index_cache_bytes.unwrap_or(48 * MIB)
    }
}

fn check_size(key: &'static str, value: Option<u64>, least: u64, most: u64) -> Result<(), OsdError> {
    let reason = match value {
        Some(v) if v % PAGE != 0 => format!("{v} is not a multiple of {PAGE}"),
        Some(v) if v < least || v > most => format!("{v} is not within {least} to {most}"),
        _ => return Ok(()),
    };
    Err(OsdError::Config { key, reason })
}

fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn default_listen() -> String {
    "0.0.0.0:0".into()
}

fn default_host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".into() } else { name.trim().into() }
}

/// A cluster id as 32 hexadecimal digits: TOML's integers are too short for it.
mod cluster_text {
    use super::ClusterId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(id: &ClusterId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ClusterId, D::Error> {
        let text = String::deserialize(from)?;
        let is_hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let id = is_hex.then(|| u128::from_str_radix(&text, 16).ok()).flatten();
        id.map(ClusterId).ok_or_else(|| D::Error::custom(format!("{text:?} is not 32 hexadecimal digits")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"
        disk = "/dev/sdz"
        osd = 3
        cluster = "0123456789abcdef0123456789abcdef"
        mds = ["10.0.0.1:7400"]
        advertise = "10.0.0.2:0"
    "#;

    fn parse(text: &str) -> Result<OsdDaemonConfig, String> {
        let config: OsdDaemonConfig = toml::from_str(text).map_err(|e| e.to_string())?;
        config.check().map_err(|e| e.to_string())?;
        Ok(config)
    }

    #[test]
    fn a_minimal_file_gets_defaults_and_survives_being_written() {
        let config = parse(MINIMAL).expect("valid");
        assert_eq!((config.osd, config.listen.as_str()), (OsdId(3), "0.0.0.0:0"));
        assert_eq!(config.advertised("0.0.0.0:7410".parse().expect("an address")), "10.0.0.2:7410");
        assert_eq!(config.log_bytes(4 << 30), 64 << 20);
        let written = toml::to_string(&config).expect("TOML");
        assert_eq!(parse(&written), Ok(config));
    }

    #[test]
    fn sizes_are_numbers_or_text() {
        let config = parse(&format!("{MINIMAL}\nlog_bytes = \"64MiB\"\ncapacity = 1073741824")).expect("valid");
        assert_eq!((config.log_bytes, config.capacity), (Some(64 << 20), Some(1 << 30)));
    }

    #[test]
    fn what_cannot_work_is_refused_by_its_key() {
        for (line, key) in [
            ("log_bytes = 4097", "log_bytes"),
            ("log_bytes = 4096", "log_bytes"),
            ("index_cache_bytes = 0", "index_cache_bytes"),
            ("listen = \"here\"", "listen"),
            ("host = \"\"", "host"),
            ("surprise = 1", "surprise"),
        ] {
            let refused = parse(&format!("{MINIMAL}\n{line}")).expect_err(line);
            assert!(refused.contains(key), "{refused}");
        }
        assert!(parse(&MINIMAL.replace("10.0.0.1:7400", "nowhere")).expect_err("endpoint").contains("mds"));
        assert!(parse(&MINIMAL.replace("advertise", "#")).expect_err("0.0.0.0").contains("advertise"));
        assert!(parse(&MINIMAL.replace("0123456789abcdef0", "x")).expect_err("cluster").contains("hexadecimal"));
    }
}
