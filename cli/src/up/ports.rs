//! Free ports, from the usual ones upwards.

use crate::error::CliError;
use crate::layout::Service;
use std::net::{Ipv4Addr, TcpListener};

pub const MDS_PORT: u16 = 7400;
/// Registered for NBD with IANA.
pub const NBD_PORT: u16 = 10809;

const TRIES: u16 = 2000;

/// Whether nobody listens there now. Somebody may a moment later: a daemon that finds its port taken ends with a status that says
/// so, and gets another.
pub fn is_free(address: &str) -> bool {
    TcpListener::bind(address).is_ok()
}

/// The first free port of this machine from `first` on that isn't one of `taken` (addresses of this cluster).
pub fn choose(service: Service, first: u16, taken: &[String]) -> Result<String, CliError> {
    (first..=first.saturating_add(TRIES))
        .map(|port| format!("{}:{port}", Ipv4Addr::LOCALHOST))
        .find(|address| !taken.contains(address) && is_free(address))
        .ok_or(CliError::NoPort { service, first })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_passed_over() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        assert!(!is_free(&address.to_string()));
        if let Ok(chosen) = choose(Service::Gateway, address.port(), &[]) {
            assert_ne!(chosen, address.to_string());
        }
    }
}
