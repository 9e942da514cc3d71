//! `ashlar gateway --config FILE`.

use super::{ConfigFile, check_address};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// A gateway: serves the volumes that are attached to its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Its name in the cluster; `volume attach --gateway` names it. One process at a time has it.
    pub name: String,
    /// The metadata nodes, `HOST:PORT` each.
    pub mds: Vec<String>,
    /// `ADDRESS:PORT` to serve NBD on.
    pub nbd_listen: SocketAddr,
    /// `HOST:PORT` at which clients reach that, if it isn't what `nbd_listen` says. Must be given where that is all addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbd_advertise: Option<String>,
    /// A Unix socket to serve NBD on; at most 107 bytes long.
    pub nbd_socket: PathBuf,
    /// NBD connections at a time; one more is closed at once. Default 4096.
    #[serde(default = "default_connections")]
    pub nbd_connections_max: usize,
    /// Bytes that blocks of what linked clones stand on may take in memory, at most 1 TiB. Default 256 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "ashlar_types::size_text")]
    pub clone_cache_bytes: Option<u64>,
    /// Jobs that it works on at a time, at most 64; with 0 it leaves them to others. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs_max: Option<usize>,
}

fn default_connections() -> usize {
    GatewayConfig::CONNECTIONS_DEFAULT
}

impl GatewayConfig {
    pub const CONNECTIONS_DEFAULT: usize = 4096;
}

/// What `sun_path` of unix(7) holds, less the byte that ends it.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

impl ConfigFile for GatewayConfig {
    fn refusal(&self) -> Option<String> {
        self.check().err()
    }
}

impl GatewayConfig {
    fn check(&self) -> Result<(), String> {
        if self.name.is_empty() {
            return Err("name: must not be empty".to_owned());
        }
        if self.mds.is_empty() {
            return Err("mds: name at least one address".to_owned());
        }
        self.mds.iter().try_for_each(|address| check_address("mds", address))?;
        self.nbd_advertise.iter().try_for_each(|address| check_address("nbd_advertise", address))?;
        if self.nbd_advertise.is_none() && self.nbd_listen.ip().is_unspecified() {
            let ip = self.nbd_listen.ip();
            return Err(format!("nbd_advertise: is needed, because nobody can connect to {ip}"));
        }
        if !self.nbd_socket.is_absolute() {
            return Err(format!("nbd_socket: {} is not an absolute path", self.nbd_socket.display()));
        }
        if self.nbd_socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(format!("nbd_socket: longer than {SOCKET_PATH_BYTES_MAX} bytes"));
        }
        if self.nbd_connections_max == 0 {
            return Err("nbd_connections_max: must be at least 1".to_owned());
        }
        if self.clone_cache_bytes.is_some_and(|bytes| bytes > 1 << 40) {
            return Err("clone_cache_bytes: at most 1 TiB".to_owned());
        }
        match self.jobs_max.is_some_and(|jobs| jobs > 64) {
            true => Err("jobs_max: at most 64".to_owned()),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> GatewayConfig {
        GatewayConfig {
            name: "host-1".into(),
            mds: vec!["127.0.0.1:7400".into()],
            nbd_listen: "127.0.0.1:10809".parse().expect("an address"),
            nbd_advertise: None,
            nbd_socket: "/run/nbd.sock".into(),
            nbd_connections_max: GatewayConfig::CONNECTIONS_DEFAULT,
            clone_cache_bytes: None,
            jobs_max: None,
        }
    }

    #[test]
    fn mistakes_are_named_by_field() {
        assert_eq!(config().refusal(), None);
        let refused = |change: fn(&mut GatewayConfig)| {
            let mut config = config();
            change(&mut config);
            config.refusal().expect("refused")
        };
        assert!(refused(|c| c.name.clear()).starts_with("name:"));
        assert!(refused(|c| c.mds.clear()).starts_with("mds:"));
        assert!(refused(|c| c.mds[0] = "7400".into()).starts_with("mds:"));
        assert!(refused(|c| c.nbd_advertise = Some("here".into())).starts_with("nbd_advertise:"));
        assert!(refused(|c| c.nbd_listen = "0.0.0.0:10809".parse().expect("all")).starts_with("nbd_advertise:"));
        assert!(refused(|c| c.nbd_listen = "[::]:10809".parse().expect("all")).starts_with("nbd_advertise:"));
        let everywhere = GatewayConfig {
            nbd_listen: "0.0.0.0:10809".parse().expect("all"),
            nbd_advertise: Some("host-1:10809".into()),
            ..config()
        };
        assert_eq!(everywhere.refusal(), None);
        assert!(refused(|c| c.nbd_socket = "nbd.sock".into()).starts_with("nbd_socket:"));
        assert!(refused(|c| c.nbd_socket = format!("/{}", "x".repeat(108)).into()).starts_with("nbd_socket:"));
        assert!(refused(|c| c.nbd_connections_max = 0).starts_with("nbd_connections_max:"));
        assert!(refused(|c| c.clone_cache_bytes = Some(u64::MAX)).starts_with("clone_cache_bytes:"));
        assert!(refused(|c| c.jobs_max = Some(65)).starts_with("jobs_max:"));
    }
}
