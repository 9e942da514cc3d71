//! The daemons' configuration files: TOML, nothing unknown accepted. The same files whether `up` writes them or a person. What
//! stands in them is defined beside each daemon.

mod gateway;

pub use ashlar_mds::{MdsConfig, PeerConfig};
pub use ashlar_osd::OsdDaemonConfig;
pub use gateway::{GatewayConfig, SOCKET_PATH_BYTES_MAX};

use crate::cluster_file::{from_toml, replace_file, to_toml};
use crate::error::CliError;
use ashlar_types::ClusterId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// A configuration file of one kind of daemon.
pub trait ConfigFile: Clone + Serialize + DeserializeOwned + PartialEq {
    /// What is wrong with it, beyond its form.
    fn refusal(&self) -> Option<String>;

    fn to_toml(&self) -> String {
        to_toml(self)
    }

    fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("our own structures have a JSON form")
    }
}

impl ConfigFile for MdsConfig {
    fn refusal(&self) -> Option<String> {
        self.validate().err().map(|error| error.to_string())
    }
}

impl ConfigFile for OsdDaemonConfig {
    fn refusal(&self) -> Option<String> {
        self.check().err().map(|error| error.to_string())
    }
}

pub fn load<C: ConfigFile>(path: &Path) -> Result<C, CliError> {
    let text = std::fs::read_to_string(path).map_err(|source| CliError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let config: C = from_toml(path, &text)?;
    match config.refusal() {
        None => Ok(config),
        Some(reason) => Err(CliError::Config { path: path.to_owned(), reason }),
    }
}

/// Makes a file say what `up` decided and leaves everything else that a person put there: `fresh` is the whole content of
/// a new file, `decide` sets the fields that are `up`'s own.
pub fn write_decided<C: ConfigFile>(path: &Path, fresh: C, decide: impl FnOnce(&mut C, C)) -> Result<(), CliError> {
    if !path.exists() {
        return replace_file(path, &to_toml(&fresh));
    }
    let before: C = load(path)?;
    let mut config = before.clone();
    decide(&mut config, fresh);
    if config == before { Ok(()) } else { replace_file(path, &to_toml(&config)) }
}

/// 32 hexadecimal digits.
pub fn parse_cluster(text: &str) -> Result<ClusterId, String> {
    let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten();
    id.filter(|id| *id != 0).map(ClusterId).ok_or_else(|| format!("cluster: {text:?} is not 32 hexadecimal digits"))
}

fn check_address(field: &str, address: &str) -> Result<(), String> {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(()),
        _ => Err(format!("{field}: {address:?} is not HOST:PORT")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::OsdId;

    const INSTALL: &str = include_str!("../../../docs/install.md");
    const OPERATE: &str = include_str!("../../../docs/operate.md");

    /// The indented blocks that begin like TOML.
    fn toml_blocks(page: &str) -> Vec<String> {
        const INDENT: &str = "       ";
        let mut blocks = vec![String::new()];
        for line in page.lines() {
            let block = blocks.last_mut().expect("one at least");
            match line.strip_prefix(INDENT) {
                Some(line) => block.push_str(&format!("{line}\n")),
                None if line.is_empty() => block.push('\n'),
                None => blocks.push(String::new()),
            }
        }
        blocks.retain(|block| block.trim_start().lines().next().is_some_and(|line| line.contains(" = ")));
        blocks
    }

    fn assert_accepted<C: ConfigFile>(text: &str) {
        let config: C =
            from_toml(Path::new("docs/install.md"), text).unwrap_or_else(|e| panic!("{}\n{text}", e.one_line()));
        assert_eq!(config.refusal(), None, "{text}");
    }

    #[test]
    fn the_examples_of_the_install_page_are_accepted() {
        let blocks = toml_blocks(INSTALL);
        assert_eq!(blocks.len(), 2, "of a metadata node and of a gateway: {blocks:?}");
        assert_accepted::<MdsConfig>(&blocks[0]);
        assert_accepted::<GatewayConfig>(&blocks[1]);
    }

    #[test]
    fn every_setting_is_listed_for_who_operates() {
        let mds = MdsConfig {
            id: 1,
            data_dir: "/d".into(),
            listen: "h:1".into(),
            peers: Vec::new(),
            cluster: Some("c".into()),
            bin_window: "01:00-05:00".into(),
        };
        let osd = OsdDaemonConfig {
            advertise: Some("h:1".into()),
            capacity: Some(1),
            log_bytes: Some(1),
            index_cache_bytes: Some(1),
            ..OsdDaemonConfig::new("/d", OsdId(1), ClusterId(1), Vec::new())
        };
        let gateway = GatewayConfig {
            name: "g".into(),
            mds: Vec::new(),
            nbd_listen: "127.0.0.1:1".parse().expect("an address"),
            nbd_advertise: Some("h:1".into()),
            nbd_socket: "/s".into(),
            nbd_connections_max: 1,
            clone_cache_bytes: Some(1),
            jobs_max: Some(1),
        };
        let page = OPERATE.split("## Settings").nth(1).expect("a section");
        for (daemon, config) in [("mds", mds.to_json()), ("osd", osd.to_json()), ("gateway", gateway.to_json())] {
            let section = page.split(&format!("`ashlar {daemon} --config FILE`")).nth(1).expect(daemon);
            let section = section.split("--config FILE").next().expect("a first part");
            for key in config.as_object().expect("a structure").keys() {
                assert!(section.contains(&format!("\n| `{key}` |")), "{daemon}: {key}");
            }
        }
    }
}
