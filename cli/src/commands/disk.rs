//! `ashlar osd create`: makes a disk an OSD's.

use crate::args::OsdCreateArgs;
use crate::config::ConfigFile as _;
use crate::config::OsdDaemonConfig;
use crate::control::Control;
use crate::disk::{self, NewDisk};
use crate::error::CliError;
use crate::output::Output;
use crate::place::Place;
use crate::up::host_name;
use ashlar_types::OsdId;
use serde_json::json;

pub async fn create(control: &Control, place: &Place, args: OsdCreateArgs) -> Result<Output, CliError> {
    let absolute = |source| CliError::File { action: "find", path: args.disk.clone(), source };
    let path = std::path::absolute(&args.disk).map_err(absolute)?;
    if let (false, Some((cluster, osd))) = (args.force, disk::owner(&path)) {
        let what = format!("disk {} holds {osd} of cluster {cluster}; --force destroys it", path.display());
        return Err(CliError::Conflict { what });
    }
    let host = args.host.clone().unwrap_or_else(host_name);
    let cluster = control.view().await?.cluster;
    let config = OsdDaemonConfig::new(path.clone(), OsdId(0), cluster, place.mds_addresses()?);
    // An example; where it listens only its machine knows.
    let config = OsdDaemonConfig { listen: "127.0.0.1:0".to_owned(), host: host.clone(), ..config };
    let new = NewDisk { bytes: args.size, preallocate: args.preallocate, force: args.force };
    disk::check(config.clone(), new).await?;
    let (id, cluster) = control.osd_create(host).await?;
    let config = OsdDaemonConfig { osd: id, cluster, ..config };
    disk::prepare(config.clone(), new).await?;
    let text = format!(
        "# {id} of cluster {cluster}: save this, correct the addresses, and run `ashlar osd --config FILE`.\n{}",
        config.to_toml()
    );
    Ok(Output::new(
        text,
        json!({ "osd": id.0, "disk": path, "config": config.to_json(), "config_toml": config.to_toml() }),
    ))
}
