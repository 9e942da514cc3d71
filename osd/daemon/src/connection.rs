//! One connection: its stream of messages in, its queue of messages out, and how it ends.
//! C1: at most one receive and one send are in flight. C2: what waits to be sent is bounded by the shell, which asks `queued_bytes`.
//! C3: a connection whose operations are in flight is kept until they have completed, even when it is dead.

use crate::ring::{Descriptor, MAX_PIECES, Op};
use ashlar_types::{ClusterId, OsdId, Tick};
use ashlar_wire::{Decoder, Encoder, FrameError, Message};
use bytes::{Buf, Bytes, BytesMut};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A client or another OSD opened it.
    Inbound,
    /// This OSD opened it to another one.
    Link(OsdId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waits for the peer's first message; ended at this time.
    Greeting {
        until: Tick,
    },
    Open,
    /// Sends what is queued, then ends; at this time in any case.
    Closing {
        until: Tick,
    },
    /// Shut down; waits for its operations.
    Dead,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub role: Role,
    /// Who it is, for the log.
    pub peer: String,
    socket: Descriptor,
    decoder: Decoder,
    encoder: Encoder,
    /// Cut off the encoder, not yet handed to the kernel.
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    sending_bytes: usize,
    is_receiving: bool,
    /// The last receive took all that there was.
    is_drained: bool,
    is_sending: bool,
    state: State,
}

impl Connection {
    pub(crate) fn new(role: Role, socket: Descriptor, cluster: ClusterId, greet_until: Tick) -> Connection {
        prepare_socket(&socket);
        let peer = match rustix::net::getpeername(&socket) {
            Ok(Some(address)) => std::net::SocketAddr::try_from(address).map_or("?".into(), |a| a.to_string()),
            _ => "?".into(),
        };
        Connection {
            role,
            peer,
            socket,
            decoder: Decoder::greeting_first(cluster),
            encoder: Encoder::new(cluster),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            sending_bytes: 0,
            is_receiving: false,
            is_drained: false,
            is_sending: false,
            state: State::Greeting { until: greet_until },
        }
    }

    /// Whether the core should still hear of it and may still send on it.
    pub(crate) fn is_usable(&self) -> bool {
        matches!(self.state, State::Greeting { .. } | State::Open)
    }

    /// Whether the core has heard of it.
    pub(crate) fn is_greeted(&self) -> bool {
        !matches!(self.state, State::Greeting { .. })
    }

    /// Whether it can be forgotten (C3).
    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Dead && !self.is_receiving && !self.is_sending
    }

    /// When it must be looked at, if at all.
    pub(crate) fn deadline(&self) -> Option<Tick> {
        match self.state {
            State::Greeting { until } | State::Closing { until } => Some(until),
            State::Open | State::Dead => None,
        }
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.encoder.len() + self.waiting_bytes + self.sending_bytes
    }

    pub(crate) fn push(&mut self, message: &Message) {
        self.encoder.push(message);
    }

    /// The next message of what was received.
    pub(crate) fn next(&mut self) -> Result<Option<Message>, FrameError> {
        let message = self.decoder.next()?;
        if message.is_some() && !self.is_greeted() {
            self.state = State::Open;
        }
        Ok(message)
    }

    /// A receive to start, unless one runs.
    pub(crate) fn receive(&mut self) -> Option<Op> {
        if self.is_receiving || !self.is_usable() {
            return None;
        }
        self.is_receiving = true;
        let buffer = self.decoder.take_buffer();
        Some(Op::Receive { socket: self.socket.clone(), buffer, is_drained: self.is_drained })
    }

    pub(crate) fn on_received(&mut self, buffer: BytesMut) {
        assert!(self.is_receiving, "C1");
        self.is_receiving = false;
        self.is_drained = buffer.len() < buffer.capacity();
        self.decoder.put_buffer(buffer);
    }

    /// Sends what the socket takes at once: a call of its own costs less than an operation's completion. What is left, unless all is
    /// sent, goes on as the operation that is returned; no send begins while one runs.
    ///
    /// # Errors
    /// As the system says; the connection must be ended.
    pub(crate) fn send(&mut self) -> io::Result<(usize, Option<Op>)> {
        let mut sent = 0;
        while let Some(mut pieces) = self.next_pieces() {
            match send_now(&self.socket, &pieces) {
                Ok(bytes) if bytes == self.sending_bytes => {
                    sent += bytes;
                    self.on_sent();
                }
                Ok(bytes) => {
                    sent += bytes;
                    self.sending_bytes -= bytes;
                    advance(&mut pieces, bytes);
                    return Ok((sent, Some(Op::Send { socket: self.socket.clone(), pieces })));
                }
                Err(error) => {
                    self.on_sent();
                    return Err(error);
                }
            }
        }
        Ok((sent, None))
    }

    fn next_pieces(&mut self) -> Option<Vec<Bytes>> {
        if self.is_sending || self.state == State::Dead {
            return None;
        }
        self.waiting_bytes += self.encoder.len();
        self.encoder.take(&mut self.waiting);
        if self.waiting.is_empty() {
            return None;
        }
        let count = self.waiting.len().min(MAX_PIECES);
        let pieces: Vec<Bytes> = self.waiting.drain(..count).collect();
        self.sending_bytes = pieces.iter().map(Bytes::len).sum();
        self.waiting_bytes -= self.sending_bytes;
        self.is_sending = true;
        Some(pieces)
    }

    pub(crate) fn on_sent(&mut self) {
        assert!(self.is_sending, "C1");
        self.is_sending = false;
        self.sending_bytes = 0;
    }

    /// Ends it once everything queued is sent.
    pub(crate) fn close_when_sent(&mut self, until: Tick) {
        if self.state != State::Dead {
            self.state = State::Closing { until };
        }
    }

    /// Whether a connection that is closing has nothing left to say.
    pub(crate) fn has_said_all(&self) -> bool {
        matches!(self.state, State::Closing { .. }) && self.queued_bytes() == 0
    }

    /// Ends it now; what runs in the kernel completes soon.
    pub(crate) fn kill(&mut self) {
        self.state = State::Dead;
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.encoder.take(&mut Vec::new());
        // Fails where the peer has ended it already, which is as good.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }
}

/// How many bytes the socket took without waiting.
fn send_now(socket: &Descriptor, pieces: &[Bytes]) -> io::Result<usize> {
    let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        match sendmsg(socket, &slices, &mut SendAncillaryBuffer::default(), flags) {
            Ok(bytes) => return Ok(bytes),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Drops the first `bytes` of the pieces.
fn advance(pieces: &mut Vec<Bytes>, mut bytes: usize) {
    let whole = pieces
        .iter()
        .take_while(|piece| {
            let is_over = piece.len() <= bytes;
            bytes -= if is_over { piece.len() } else { 0 };
            is_over
        })
        .count();
    pieces.drain(..whole);
    if let Some(first) = pieces.first_mut() {
        first.advance(bytes);
    }
}

/// Small messages leave at once; a peer whose machine is gone is noticed.
fn prepare_socket(socket: &Descriptor) {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_nodelay};
    let results = [
        set_tcp_nodelay(socket, true),
        set_socket_keepalive(socket, true),
        set_tcp_keepidle(socket, Duration::from_secs(20)),
        set_tcp_keepintvl(socket, Duration::from_secs(5)),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "a socket option was refused");
    }
}
