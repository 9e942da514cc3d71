//! `ashlar volume attach`: gives a volume to a gateway, waits until it really has it, and says how to reach it.

use super::barrier;
use super::volume::attachment_json;
use crate::args::AttachArgs;
use crate::control::Control;
use crate::error::CliError;
use crate::nbd_probe;
use crate::output::{Output, note};
use crate::place::Place;
use ashlar_types::control::{AttachMode, AttachmentInfo, ControlReply, ControlRequest};
use std::time::Duration;

/// A gateway that lives answers at once; one that was just restarted has its own predecessor fenced first.
const PATIENCE: Duration = Duration::from_secs(60);
/// For what only makes a note.
const ELSEWHERE_PATIENCE: Duration = Duration::from_secs(3);

pub async fn run(control: &Control, place: &Place, args: AttachArgs) -> Result<Output, CliError> {
    let ours = place.gateway();
    let gateway = match args.gateway.clone().or_else(|| ours.clone()) {
        Some(gateway) => gateway,
        None => return Err(CliError::WhichGateway { known: known_gateways(control).await? }),
    };
    let is_ours = ours.as_ref() == Some(&gateway);
    let mode = match (args.shared, args.force) {
        (true, _) => AttachMode::Shared,
        (_, true) => AttachMode::Force,
        _ => AttachMode::Exclusive,
    };
    let request = ControlRequest::Attach { name: args.name.clone(), gateway, mode, read_only: args.read_only };
    let reply = control.ask(request).await?;
    let ControlReply::Attachment(attachment) = reply else { return Err(CliError::unexpected("attach", &reply)) };
    wait_until_served(control, &attachment, is_ours).await?;
    Ok(describe(&attachment))
}

async fn known_gateways(control: &Control) -> Result<String, CliError> {
    let reply = control.ask(ControlRequest::AttachmentList { gateway: None }).await?;
    let ControlReply::Attachments(list) = reply else { return Err(CliError::unexpected("attachment list", &reply)) };
    let mut names: Vec<String> = list.into_iter().map(|attachment| attachment.gateway).collect();
    names.sort();
    names.dedup();
    Ok(match names.is_empty() {
        true => "it is the `name` in the gateway's configuration".to_owned(),
        false => format!("in use are {}", names.join(", ")),
    })
}

/// The metadata service says who has the volume. Whether the gateway serves it, the gateway itself is asked, as a client would: one of
/// this machine must; from elsewhere its address may mean somebody else, or nobody.
async fn wait_until_served(control: &Control, attachment: &AttachmentInfo, is_ours: bool) -> Result<(), CliError> {
    let name = &attachment.name;
    barrier::wait_until_passed(control, name, attachment.volume, "attached").await?;
    let (address, export) = (&attachment.nbd_address, name.to_string());
    let failed = |reason| CliError::Gateway { address: address.clone(), volume: export.clone(), reason };
    if address.is_empty() {
        let gateway = &attachment.gateway;
        return Err(failed(format!("gateway {gateway:?} has not started yet; it serves the volume when it does")));
    }
    if is_ours {
        let served = nbd_probe::wait_for_export(address, &export, PATIENCE).await;
        return served.map_err(|error| failed(error.to_string()));
    }
    if let Err(error) = nbd_probe::ask_within(address, &export, ELSEWHERE_PATIENCE).await {
        let what = if name.snapshot.is_some() { "snapshot" } else { "volume" };
        note(&format!("{what} {name} is attached; from here its gateway at {address} can't be asked: {error}"));
    }
    Ok(())
}

fn describe(attachment: &AttachmentInfo) -> Output {
    let name = &attachment.name;
    let tcp = format!("nbd://{}/{name}", attachment.nbd_address);
    let unix = format!("nbd+unix:///{name}?socket={}", percent_encode(&attachment.nbd_socket));
    let mut value = attachment_json(attachment);
    value["uri"] = tcp.clone().into();
    value["unix_uri"] = unix.clone().into();
    let text = if attachment.nbd_socket.is_empty() { tcp } else { format!("{tcp}\n{unix}") };
    Output::new(text, value)
}

/// For the query of a URI (RFC 3986, 2.1), so that a socket's path may have any bytes.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"/._-~:@".contains(&byte);
        if is_plain { encoded.push(char::from(byte)) } else { encoded.push_str(&format!("%{byte:02X}")) }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::percent_encode;

    #[test]
    fn paths_in_uris_are_escaped() {
        assert_eq!(percent_encode("/tmp/a b/nbd.sock"), "/tmp/a%20b/nbd.sock");
        assert_eq!(percent_encode("/tmp/a&b?c"), "/tmp/a%26b%3Fc");
    }
}
