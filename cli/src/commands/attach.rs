//! `ashlar volume attach`: gives a volume to a gateway, waits until it really serves it, and says how to reach it.

use super::volume::attachment_json;
use crate::args::AttachArgs;
use crate::control::Control;
use crate::error::CliError;
use crate::nbd_probe;
use crate::output::Output;
use crate::place::Place;
use ashlar_types::control::{AttachMode, AttachmentInfo, ControlReply, ControlRequest};
use std::time::Duration;

/// The gateway passes the volume's barrier first, which waits for OSDs that must be told.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn run(control: &Control, place: &Place, args: AttachArgs) -> Result<Output, CliError> {
    let gateway = match args.gateway.clone().or_else(|| place.gateway()) {
        Some(gateway) => gateway,
        None => return Err(CliError::WhichGateway { known: known_gateways(control).await? }),
    };
    let mode = match (args.shared, args.force) {
        (true, _) => AttachMode::Shared,
        (_, true) => AttachMode::Force,
        _ => AttachMode::Exclusive,
    };
    let request = ControlRequest::Attach { name: args.name.clone(), gateway, mode, read_only: args.read_only };
    let reply = control.ask(request).await?;
    let ControlReply::Attachment(attachment) = reply else { return Err(CliError::unexpected("attach", &reply)) };
    wait_until_served(&attachment).await?;
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

/// Asks the gateway itself, as a client would: it answers when the volume can be read and written.
async fn wait_until_served(attachment: &AttachmentInfo) -> Result<(), CliError> {
    let volume = attachment.volume_name.as_str();
    let failed = |reason: String| CliError::Gateway {
        address: attachment.nbd_address.clone(),
        volume: volume.to_owned(),
        reason,
    };
    if attachment.nbd_address.is_empty() {
        return Err(failed(format!(
            "gateway {:?} has not started yet; it serves the volume when it does",
            attachment.gateway
        )));
    }
    let served = nbd_probe::wait_for_export(&attachment.nbd_address, volume, PATIENCE).await;
    served.map_err(|error| failed(error.to_string()))
}

fn describe(attachment: &AttachmentInfo) -> Output {
    let name = &attachment.volume_name;
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
