//! A client that may do anything: it writes and reads bytes, and knows simple replies.

use super::Running;
use ashlar_driver_nbd::protocol::spec::*;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

pub struct Raw {
    pub socket: TcpStream,
}

pub fn request(flags: u16, kind: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(REQUEST_BYTES);
    bytes.extend(NBD_REQUEST_MAGIC.to_be_bytes());
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

/// An option request.
pub fn option(kind: u32, data: &[u8]) -> Vec<u8> {
    let header = [kind.to_be_bytes(), (data.len() as u32).to_be_bytes()].concat();
    [&IHAVEOPT.to_be_bytes()[..], &header, data].concat()
}

impl Raw {
    /// Connected, the greeting unread.
    pub fn connect(running: &Running) -> Raw {
        let socket = TcpStream::connect(running.tcp).expect("the server listens");
        // Far beyond what any test takes: a hang becomes a failure.
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
        Raw { socket }
    }

    /// In the transmission phase, with simple replies.
    pub fn open(running: &Running, name: &str) -> Raw {
        let mut raw = Raw::connect(running);
        raw.send(&3u32.to_be_bytes());
        raw.send(&option(NBD_OPT_EXPORT_NAME, name.as_bytes()));
        raw.receive(18 + 10);
        raw
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the server reads");
    }

    pub fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.socket.read_exact(&mut bytes).expect("the server answers");
        bytes
    }

    /// A simple reply's error and cookie.
    pub fn reply(&mut self) -> (u32, u64) {
        let bytes = self.receive(16);
        assert_eq!(bytes[..4], NBD_SIMPLE_REPLY_MAGIC.to_be_bytes());
        let error = u32::from_be_bytes(bytes[4..8].try_into().expect("four bytes"));
        (error, u64::from_be_bytes(bytes[8..].try_into().expect("eight bytes")))
    }

    /// Whether something is here to be received.
    pub fn has_reply(&mut self) -> bool {
        self.socket.set_nonblocking(true).expect("a socket");
        let has = self.socket.peek(&mut [0; 1]).is_ok();
        self.socket.set_nonblocking(false).expect("a socket");
        has
    }

    pub fn half_close(&mut self) {
        self.socket.shutdown(Shutdown::Write).expect("connected");
    }

    /// Whether the server has closed the connection, which is waited for, with nothing more to say.
    pub fn is_closed(&mut self) -> bool {
        match self.socket.read(&mut [0; 1]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
