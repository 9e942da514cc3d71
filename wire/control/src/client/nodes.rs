//! The metadata nodes a client knows, its connections to them, and which it takes for the leader.

use super::ControlClientError;
use crate::MESSAGE_BYTES_MAX;
use crate::proto::control_client::ControlClient as Stub;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// A refused connection says so at once; this is for hosts that don't answer at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A node that is stopped but not closed is given up after this: twice, once to ask and once to wait.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// Nodes learned from answers are kept up to this many.
const NODES_MAX: usize = 16;

#[derive(Debug)]
struct Known {
    addresses: Vec<String>,
    supposed_leader: usize,
    channels: BTreeMap<String, Channel>,
}

#[derive(Debug)]
pub(super) struct Nodes {
    known: Mutex<Known>,
}

impl Nodes {
    pub(super) fn new(addresses: impl IntoIterator<Item = String>) -> Result<Nodes, ControlClientError> {
        let addresses: Vec<String> = addresses.into_iter().collect();
        if addresses.is_empty() {
            return Err(ControlClientError::Address { address: String::new() });
        }
        if let Some(bad) = addresses.iter().find(|a| endpoint(a).is_none()) {
            return Err(ControlClientError::Address { address: bad.clone() });
        }
        Ok(Nodes { known: Mutex::new(Known { addresses, supposed_leader: 0, channels: BTreeMap::new() }) })
    }

    pub(super) fn addresses(&self) -> Vec<String> {
        self.lock().addresses.clone()
    }

    /// The supposed leader, connected. An error had no effect anywhere.
    pub(super) async fn connect(&self) -> (String, Result<Stub<Channel>, tonic::transport::Error>) {
        let (address, channel) = {
            let known = self.lock();
            let address = known.addresses[known.supposed_leader].clone();
            let channel = known.channels.get(&address).cloned();
            (address, channel)
        };
        let channel = match channel {
            Some(channel) => channel,
            None => match endpoint(&address).expect("checked when it was taken in").connect().await {
                Ok(channel) => {
                    self.lock().channels.insert(address.clone(), channel.clone());
                    channel
                }
                Err(error) => return (address, Err(error)),
            },
        };
        let stub = Stub::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        (address, Ok(stub))
    }

    /// The connection broke: the next use connects again, to another node.
    pub(super) fn forget(&self, address: &str) {
        self.lock().channels.remove(address);
        self.try_next(address);
    }

    /// The supposed leader is of no use for now.
    pub(super) fn skip(&self) {
        let address = {
            let known = self.lock();
            known.addresses[known.supposed_leader].clone()
        };
        self.forget(&address);
    }

    /// `from` is of no use for now. Nothing happens if somebody else has gone on already.
    pub(super) fn try_next(&self, from: &str) {
        let mut known = self.lock();
        if known.addresses[known.supposed_leader] == from {
            known.supposed_leader = (known.supposed_leader + 1) % known.addresses.len();
        }
    }

    /// `from` says who leads.
    pub(super) fn follow(&self, from: &str, leader: Option<String>) {
        let Some(leader) = leader.filter(|l| l != from && endpoint(l).is_some()) else {
            return self.try_next(from);
        };
        let mut known = self.lock();
        let position = known.addresses.iter().position(|a| *a == leader);
        match position {
            Some(position) => known.supposed_leader = position,
            None if known.addresses.len() < NODES_MAX => {
                known.addresses.push(leader);
                known.supposed_leader = known.addresses.len() - 1;
            }
            None => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing in here leaves the map half changed, so a panic elsewhere is no reason to stop.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn endpoint(address: &str) -> Option<Endpoint> {
    let (host, port) = address.rsplit_once(':')?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return None;
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
    Some(
        endpoint
            .connect_timeout(CONNECT_LIMIT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true),
    )
}
