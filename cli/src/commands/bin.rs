//! `ashlar volume delete` and `ashlar bin`: what was deleted and is kept for a while.

use super::scrub::unix_now;
use super::time::utc;
use super::volume::volume_json;
use super::wipe;
use crate::args::{BinCommand, DeleteArgs, PurgeArgs};
use crate::control::Control;
use crate::error::CliError;
use crate::output::{Output, Table};
use ashlar_types::control::{BinInfo, ControlError, ControlReply, ControlRequest};
use ashlar_types::{Name, VolumeId, format_bytes};
use ashlar_wire_control::ControlClientError;
use serde_json::{Value, json};

pub async fn delete(control: &Control, args: DeleteArgs) -> Result<Output, CliError> {
    let DeleteArgs { name, snapshots: with_snapshots, defer: retention, now, secure, no_wait } = args;
    if secure {
        let request = ControlRequest::VolumeWipe { name, with_snapshots, at: unix_now() };
        return wipe::delete(control, vec![request], no_wait).await;
    }
    let request = match now {
        true => ControlRequest::VolumeDelete { name: name.clone(), with_snapshots },
        false => ControlRequest::VolumeToBin { name: name.clone(), with_snapshots, retention, at: unix_now() },
    };
    match control.ask(request).await? {
        ControlReply::Bin(infos) => {
            let [info] = &infos[..] else {
                return Err(CliError::unexpected("volume delete", &ControlReply::Bin(infos)));
            };
            let until = utc(info.expires_at);
            let text =
                format!("volume {name} is in the bin until {until}; `ashlar bin restore {}` brings it back", info.id);
            Ok(Output::new(text, bin_json(info)))
        }
        _ => Ok(Output::new(format!("volume {name} deleted"), json!({ "name": name, "deleted": true }))),
    }
}

pub async fn run(control: &Control, command: BinCommand) -> Result<Output, CliError> {
    match command {
        BinCommand::List => {
            let infos = list(control).await?;
            let mut table = Table::new(&["NAME", "ID", "SIZE", "DELETED", "EXPIRES", "SNAPSHOTS", "CLONES"]);
            for info in &infos {
                let times = [utc(info.deleted_at), utc(info.expires_at)];
                let counts = [info.snapshots, info.clones].map(|count| count.to_string());
                let cells = [info.name.to_string(), info.id.to_string(), format_bytes(info.size)];
                table.row(cells.into_iter().chain(times).chain(counts));
            }
            Ok(Output::new(table.render(), infos.iter().map(bin_json).collect()))
        }
        BinCommand::Restore { volume, name } => restore(control, &volume, name).await,
        BinCommand::Purge(args) => purge(control, args).await,
    }
}

pub async fn list(control: &Control) -> Result<Vec<BinInfo>, CliError> {
    match control.ask(ControlRequest::BinList).await? {
        ControlReply::Bin(infos) => Ok(infos),
        reply => Err(CliError::unexpected("bin list", &reply)),
    }
}

/// Those that were named so, and the one that has this id.
pub fn named<'a>(infos: &'a [BinInfo], text: &str) -> impl Iterator<Item = &'a BinInfo> {
    let is_meant = move |info: &&BinInfo| {
        info.name.as_str() == text || info.id.to_string() == text || info.id.0.to_string() == text
    };
    infos.iter().filter(is_meant)
}

/// By its name, or by its id where several have had one name.
fn find<'a>(infos: &'a [BinInfo], text: &str) -> Result<&'a BinInfo, CliError> {
    let is_named = |info: &BinInfo| info.name.as_str() == text;
    let found: Vec<&BinInfo> = named(infos, text).collect();
    let what = match &found[..] {
        [info] => return Ok(info),
        [] => format!("volume {text:?} is not in the bin; `ashlar bin list` says what is"),
        several if several.iter().all(|info| is_named(info)) => {
            let ids: Vec<String> = several.iter().map(|info| info.id.to_string()).collect();
            format!("{} volumes in the bin were named {text}; say which by its id: {}", ids.len(), ids.join(", "))
        }
        several => {
            let ways =
                |info: &&BinInfo| format!("{} (named {}) is `{}` or `{}`", info.id, info.name, info.id, info.id.0);
            let ways: Vec<String> = several.iter().map(ways).collect();
            format!("{text} is the name of one volume in the bin and the id of another: {}", ways.join(", "))
        }
    };
    Err(CliError::Conflict { what })
}

async fn restore(control: &Control, text: &str, name: Option<Name>) -> Result<Output, CliError> {
    let infos = list(control).await?;
    let volume = find(&infos, text)?.id;
    match control.ask(ControlRequest::BinRestore { volume, name }).await {
        Ok(ControlReply::Volume(volume)) => {
            let text =
                format!("volume {} is back: {} in pool {}", volume.name, format_bytes(volume.size), volume.pool_name);
            Ok(Output::new(text, volume_json(&volume)))
        }
        Ok(reply) => Err(CliError::unexpected("bin restore", &reply)),
        Err(CliError::Control(ControlClientError::Refused(ControlError::Exists { what, name }))) => {
            let way = "bring this one back under another name with --name";
            Err(CliError::Conflict { what: format!("{what} {name:?} exists already; {way}") })
        }
        Err(error) => Err(error),
    }
}

async fn purge(control: &Control, args: PurgeArgs) -> Result<Output, CliError> {
    let infos = list(control).await?;
    if args.secure {
        let at = unix_now();
        let requests = match &args.volume {
            Some(text) => vec![ControlRequest::BinWipe { volume: find(&infos, text)?.id, at }],
            None if args.all => infos.iter().map(|info| ControlRequest::BinWipe { volume: info.id, at }).collect(),
            None => infos.iter().map(|info| if_expired(info, true)).collect(),
        };
        return wipe::delete(control, requests, args.no_wait).await;
    }
    if let Some(text) = args.volume {
        let info = find(&infos, &text)?;
        control.ask(ControlRequest::BinPurge { volume: info.id }).await?;
        return Ok(told(&[info]));
    }
    let mut purged = Vec::new();
    for info in &infos {
        let is_purged = match args.all {
            true => purge_if_there(control, info.id).await?,
            false => purge_if_expired(control, info).await?,
        };
        if is_purged {
            purged.push(info);
        }
    }
    Ok(told(&purged))
}

/// By the clock that said when it was deleted, and not by the one of this machine.
fn if_expired(info: &BinInfo, secure: bool) -> ControlRequest {
    ControlRequest::BinPurgeExpired { volume: info.id, secure }
}

async fn purge_if_expired(control: &Control, info: &BinInfo) -> Result<bool, CliError> {
    match control.ask(if_expired(info, false)).await? {
        ControlReply::Bin(purged) => Ok(!purged.is_empty()),
        reply => Err(CliError::unexpected("bin purge", &reply)),
    }
}

/// Somebody may have brought it back since it was listed, or it has expired.
async fn purge_if_there(control: &Control, volume: VolumeId) -> Result<bool, CliError> {
    match control.ask(ControlRequest::BinPurge { volume }).await {
        Ok(_) => Ok(true),
        Err(CliError::Control(ControlClientError::Refused(ControlError::NotFound { .. }))) => Ok(false),
        Err(error) => Err(error),
    }
}

fn told(purged: &[&BinInfo]) -> Output {
    let text = match purged {
        [] => "nothing to purge".to_owned(),
        [info] => format!("volume {} ({}) deleted", info.name, info.id),
        several => format!("{} volumes deleted", several.len()),
    };
    let value: Value =
        purged.iter().map(|info| json!({ "name": info.name, "id": info.id.0, "deleted": true })).collect();
    Output::new(text, value)
}

fn bin_json(info: &BinInfo) -> Value {
    json!({
        "name": info.name,
        "id": info.id.0,
        "size": info.size,
        "pool": info.pool_name,
        "deleted_at": info.deleted_at,
        "expires_at": info.expires_at,
        "snapshots": info.snapshots,
        "clones": info.clones,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binned(id: u64, name: &str) -> BinInfo {
        let good = |text: &str| Name::new(text).expect("a good name");
        BinInfo {
            id: VolumeId(id),
            name: good(name),
            size: 512,
            pool_name: good("p"),
            deleted_at: 1,
            expires_at: 2,
            snapshots: 0,
            clones: 0,
            volume: None,
            own: Vec::new(),
        }
    }

    #[test]
    fn a_volume_that_is_named_as_the_id_of_another_is_ambiguous() {
        let infos = [binned(3, "vol.7"), binned(7, "v"), binned(9, "9")];
        for text in ["vol.3", "3", "v", "7", "9", "vol.9"] {
            assert!(find(&infos, text).is_ok(), "{text}");
        }
        let line = find(&infos, "vol.7").expect_err("two of them").to_string();
        assert!(line.contains("vol.3 (named vol.7)") && line.contains("vol.7 (named v)"), "{line}");
        assert!(find(&infos, "w").expect_err("none").to_string().contains("not in the bin"));
    }
}
