//! What a metadata daemon is told. Checked whole before anything is touched.

use ashlar_mds_core::node::DailyWindow;
use ashlar_types::{ClusterId, MdsId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The `[mds]` configuration, in TOML. Nothing of it changes while the daemon runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MdsConfig {
    /// This node's number in its group, from 1. No default.
    pub id: u64,
    /// Where log and state are kept; made if it does not exist. No default.
    pub data_dir: PathBuf,
    /// `IP:PORT` to listen on, for clients and for the other nodes; port 0 is refused. No default.
    pub listen: String,
    /// All nodes of the group, this one included: 1, 3 or 5. The same at all of them. No default.
    pub peers: Vec<PeerConfig>,
    /// The identity of the cluster, 32 hexadecimal digits. May be left out where the data folder has one already, and in a
    /// group of one, which then draws one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// When volumes in the bin whose time is over are purged: a part of each day in UTC, as `01:00-05:00`. May go around midnight; the same at all
    /// nodes, since the leader's counts. The whole day, `00:00-24:00`, unless given.
    #[serde(default = "bin_window_default")]
    pub bin_window: String,
}

/// The whole day.
pub fn bin_window_default() -> String {
    DailyWindow::WHOLE_DAY.to_string()
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// From 1.
    pub id: u64,
    /// `HOST:PORT` at which clients and other nodes reach it.
    pub address: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct ConfigError {
    pub key: &'static str,
    pub reason: String,
}

/// A configuration that makes sense.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) id: MdsId,
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) peers: BTreeMap<MdsId, String>,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) bin_window: DailyWindow,
}

impl MdsConfig {
    pub fn from_toml(text: &str) -> Result<MdsConfig, toml::de::Error> {
        toml::from_str(text)
    }

    /// Checks every key; the first that is wrong is named.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check().map(|_| ())
    }

    pub(crate) fn check(&self) -> Result<Settings, ConfigError> {
        let wrong = |key, reason: String| Err(ConfigError { key, reason });
        if self.id == 0 {
            return wrong("id", "metadata nodes are numbered from 1".into());
        }
        if self.data_dir.as_os_str().is_empty() {
            return wrong("data_dir", "must not be empty".into());
        }
        let Ok(listen) = self.listen.parse::<SocketAddr>() else {
            return wrong("listen", format!("{:?} is not IP:PORT", self.listen));
        };
        if listen.port() == 0 {
            return wrong("listen", "a port must be named; 0 would give another one at each start".into());
        }
        let cluster = match &self.cluster {
            None => None,
            Some(text) => Some(parse_cluster(text)?),
        };
        let peers = self.check_peers()?;
        if cluster.is_none() && peers.len() > 1 && !self.data_dir.join("CURRENT").exists() {
            return wrong("cluster", "must be given: all nodes of a new group have to agree on it".into());
        }
        let bin_window = match self.bin_window.parse::<DailyWindow>() {
            Ok(window) => window,
            Err(reason) => return wrong("bin_window", format!("{:?} {reason}", self.bin_window)),
        };
        Ok(Settings { id: MdsId(self.id), data_dir: self.data_dir.clone(), listen, peers, cluster, bin_window })
    }

    fn check_peers(&self) -> Result<BTreeMap<MdsId, String>, ConfigError> {
        let wrong = |reason: String| Err(ConfigError { key: "peers", reason });
        if !matches!(self.peers.len(), 1 | 3 | 5) {
            return wrong(format!("a group has 1, 3 or 5 nodes, not {}", self.peers.len()));
        }
        let mut addresses = BTreeSet::new();
        let mut peers = BTreeMap::new();
        for PeerConfig { id, address } in &self.peers {
            let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
            if !port.is_some_and(|p| p.parse::<u16>().is_ok_and(|p| p > 0)) {
                return wrong(format!("{address:?} is not HOST:PORT"));
            }
            if *id == 0 || peers.insert(MdsId(*id), address.clone()).is_some() {
                return wrong(format!("the id {id} is 0 or given twice"));
            }
            if !addresses.insert(address) {
                return wrong(format!("the address {address} is given twice"));
            }
        }
        if !peers.contains_key(&MdsId(self.id)) {
            return wrong(format!("this node's own id {} is not among them", self.id));
        }
        Ok(peers)
    }
}

fn parse_cluster(text: &str) -> Result<ClusterId, ConfigError> {
    let valid = text.len() == 32 && text.chars().all(|c| c.is_ascii_hexdigit());
    match u128::from_str_radix(text, 16) {
        Ok(id) if valid && id != 0 => Ok(ClusterId(id)),
        _ => Err(ConfigError { key: "cluster", reason: format!("{text:?} is not 32 hexadecimal digits, not all 0") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> MdsConfig {
        MdsConfig {
            id: 1,
            data_dir: "/var/lib/ashlar/mds".into(),
            listen: "127.0.0.1:7400".into(),
            peers: vec![PeerConfig { id: 1, address: "localhost:7400".into() }],
            cluster: None,
            bin_window: bin_window_default(),
        }
    }

    fn refused(change: impl FnOnce(&mut MdsConfig)) -> &'static str {
        let mut config = good();
        change(&mut config);
        config.validate().expect_err("refused").key
    }

    #[test]
    fn a_configuration_goes_through_toml() {
        let config = MdsConfig { cluster: Some("0123456789abcdef0123456789abcdef".into()), ..good() };
        let text = toml::to_string(&config).expect("writes");
        assert_eq!(MdsConfig::from_toml(&text), Ok(config.clone()));
        assert_eq!(config.validate(), Ok(()));
        assert!(MdsConfig::from_toml(&format!("colour = 1\n{text}")).is_err(), "unknown keys are mistakes");
    }

    #[test]
    fn the_bin_is_emptied_all_day_unless_a_window_is_given() {
        let text = toml::to_string(&good()).expect("writes");
        assert!(text.contains("bin_window = \"00:00-24:00\""), "{text}");
        let without: String =
            text.lines().filter(|line| !line.contains("bin_window")).map(|l| format!("{l}\n")).collect();
        assert_eq!(MdsConfig::from_toml(&without), Ok(good()));
        let config = MdsConfig { bin_window: "24:00-01:00".into(), ..good() };
        let refused = config.validate().expect_err("no part of a day").to_string();
        let expected =
            "bin_window: \"24:00-01:00\" is not a part of the day as 01:00-05:00, from 00:00 up to 24:00 in UTC";
        assert_eq!(refused, expected);
    }

    #[test]
    fn what_is_wrong_is_named_by_key() {
        assert_eq!(refused(|c| c.id = 0), "id");
        assert_eq!(refused(|c| c.id = 2), "peers");
        assert_eq!(refused(|c| c.data_dir = "".into()), "data_dir");
        assert_eq!(refused(|c| c.listen = "localhost".into()), "listen");
        assert_eq!(refused(|c| c.listen = "127.0.0.1:0".into()), "listen");
        assert_eq!(refused(|c| c.peers.clear()), "peers");
        assert_eq!(refused(|c| c.peers[0].address = "nowhere".into()), "peers");
        assert_eq!(refused(|c| c.peers.push(PeerConfig { id: 2, address: "b:1".into() })), "peers");
        assert_eq!(refused(|c| c.cluster = Some("12".into())), "cluster");
        assert_eq!(refused(|c| c.bin_window = "at night".into()), "bin_window");
        let three = |c: &mut MdsConfig| {
            c.peers = (1..=3).map(|id| PeerConfig { id, address: format!("host{id}:7400") }).collect();
        };
        assert_eq!(refused(three), "cluster");
    }
}
