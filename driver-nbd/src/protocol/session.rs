//! One connection's protocol: first the handshake, then requests.
//!
//! S1: each event but `Incomplete` consumed input or asks the shell for one answer, so a loop over `on_bytes` ends.
//! S2: input that is left with the session while it is `Incomplete` is shorter than one message's longest header or option.
//! S3: a request is handed out once it is known to lie inside the device, or it is refused; sizes are asked for anew
//!     before anything is refused for lying outside, so a device may grow under its clients.

use super::handshake::{Handshake, OpenError, Settled, Violation};
use super::reply::ReplyStyle;
use super::request::{Command, Failure, Header, Request, check, past_the_end};
use super::spec::*;
use ashlar_types::DeviceInfo;
use bytes::{Buf, BytesMut};

/// What the shell does next. In the handshake it also sends what was put into `out`.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// More bytes are needed.
    Incomplete,
    /// An option was answered.
    Answered,
    /// The exports are wanted: [`Session::on_exports`].
    List,
    /// This export is wanted: [`Session::on_opened`].
    Open(String),
    /// The device's size now is wanted: [`Session::on_size`].
    Size,
    /// For the device. A read of `len` bytes never exceeds [`PAYLOAD_BYTES_MAX`].
    Request(Request),
    /// A write for the device. The next `len` bytes of the connection are its payload and belong to the shell, which
    /// reports them by [`Session::on_payload`]; they are 1 to [`PAYLOAD_BYTES_MAX`].
    Payload(Request),
    /// To be answered as done without troubling the device: it touches no byte.
    Empty(Request),
    /// To be answered with this.
    Refused { cookie: u64, failure: Failure },
    /// The client is done; it gets the replies it still waits for, then the connection ends.
    Disconnect,
}

/// See the module's header.
#[derive(Debug)]
pub struct Session {
    state: State,
    shutting_down: bool,
}

#[derive(Debug)]
enum State {
    Handshake(Handshake),
    Transmission(Transmission),
}

#[derive(Debug)]
struct Transmission {
    settled: Settled,
    awaits: Awaits,
}

#[derive(Debug)]
enum Awaits {
    Header,
    /// The shell looks up the device's size for this request.
    Size(Header, Command),
    /// The size was looked up.
    Fresh(Header, Command),
    /// The shell receives a payload.
    Payload,
    /// A refused write's payload passes by; it is answered after that. (A client need not expect an answer to what it has
    /// not finished asking: libnbd then gives the connection up.)
    Skip {
        left: u32,
        cookie: u64,
        failure: Failure,
    },
}

impl Session {
    /// Puts the greeting into `out`.
    pub fn new(out: &mut BytesMut) -> Session {
        Session { state: State::Handshake(Handshake::new(out)), shutting_down: false }
    }

    /// Takes one message, or part of one, from the front of `input`. Replies to options go to `out`. After a `Violation`
    /// the connection is closed.
    pub fn on_bytes(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Result<Event, Violation> {
        match &mut self.state {
            State::Handshake(handshake) => handshake.on_bytes(self.shutting_down, input, out),
            State::Transmission(transmission) => transmission.on_bytes(self.shutting_down, input),
        }
    }

    /// The answer to [`Event::List`].
    pub fn on_exports<'a>(
        &mut self,
        exports: Result<impl Iterator<Item = (&'a str, &'a str)>, OpenError>,
        out: &mut BytesMut,
    ) {
        match &mut self.state {
            State::Handshake(handshake) => handshake.on_exports(exports, out),
            State::Transmission(_) => unreachable!("exports are listed in the handshake"),
        }
    }

    /// The answer to [`Event::Open`]. When it returns how replies look, the transmission phase has begun.
    pub fn on_opened(
        &mut self,
        opened: Result<&DeviceInfo, OpenError>,
        out: &mut BytesMut,
    ) -> Result<Option<ReplyStyle>, Violation> {
        let State::Handshake(handshake) = &mut self.state else {
            unreachable!("exports are opened in the handshake");
        };
        let Some(settled) = handshake.on_opened(opened, out)? else {
            return Ok(None);
        };
        self.state = State::Transmission(Transmission { settled, awaits: Awaits::Header });
        Ok(Some(ReplyStyle { structured: settled.structured }))
    }

    /// The answer to [`Event::Size`].
    pub fn on_size(&mut self, size: u64) {
        let State::Transmission(transmission) = &mut self.state else {
            unreachable!("sizes are asked for in the transmission phase");
        };
        match transmission.awaits {
            Awaits::Size(header, command) => {
                transmission.settled.size = size;
                transmission.awaits = Awaits::Fresh(header, command);
            }
            _ => unreachable!("a size that was not asked for"),
        }
    }

    /// The payload of [`Event::Payload`] is with the shell; the next byte starts a request.
    pub fn on_payload(&mut self) {
        match &mut self.state {
            State::Transmission(Transmission { awaits: awaits @ Awaits::Payload, .. }) => *awaits = Awaits::Header,
            _ => unreachable!("a payload that was not asked for"),
        }
    }

    /// From now on requests are refused with `NBD_ESHUTDOWN` and options with `NBD_REP_ERR_SHUTDOWN`.
    pub fn on_shutdown(&mut self) {
        self.shutting_down = true;
    }
}

impl Transmission {
    fn on_bytes(&mut self, shutting_down: bool, input: &mut BytesMut) -> Result<Event, Violation> {
        match std::mem::replace(&mut self.awaits, Awaits::Header) {
            Awaits::Header => {
                // A wrong magic is seen as early as possible.
                let seen = input.len().min(4);
                if input[..seen] != NBD_REQUEST_MAGIC.to_be_bytes()[..seen] {
                    let mut start = [0; 4];
                    start[..seen].copy_from_slice(&input[..seen]);
                    return Err(Violation::RequestMagic(u32::from_be_bytes(start)));
                }
                let Some(bytes) = input.first_chunk::<REQUEST_BYTES>() else {
                    return Ok(Event::Incomplete);
                };
                let header = Header::decode(bytes)?;
                input.advance(REQUEST_BYTES);
                self.on_header(shutting_down, header, input)
            }
            Awaits::Fresh(header, command) => Ok(self.admit(header, command, true, input)),
            Awaits::Skip { left, cookie, failure } => Ok(self.skip(left, cookie, failure, input)),
            Awaits::Size(..) | Awaits::Payload => {
                unreachable!("the shell answers on_size or on_payload before it brings more bytes")
            }
        }
    }

    fn on_header(&mut self, shutting_down: bool, header: Header, input: &mut BytesMut) -> Result<Event, Violation> {
        if header.kind == NBD_CMD_DISC {
            return Ok(Event::Disconnect);
        }
        if header.payload_bytes() > SKIPPED_BYTES_MAX {
            return Err(Violation::PayloadTooLong(header.len));
        }
        let command = if shutting_down {
            Err(Failure::new(NBD_ESHUTDOWN, "the server is shutting down"))
        } else {
            header.command(self.settled.structured, self.settled.contexts).and_then(|command| {
                check(&header, command, self.settled.read_only)?;
                Ok(command)
            })
        };
        match command {
            Ok(command) => Ok(self.admit(header, command, false, input)),
            Err(failure) => Ok(self.skip(header.payload_bytes(), header.cookie, failure, input)),
        }
    }

    /// Looks at where the request lies (S3).
    fn admit(&mut self, header: Header, command: Command, size_is_fresh: bool, input: &mut BytesMut) -> Event {
        let inside = header.offset.checked_add(u64::from(header.len)).is_some_and(|end| end <= self.settled.size);
        if !inside && !size_is_fresh {
            self.awaits = Awaits::Size(header, command);
            return Event::Size;
        }
        if !inside {
            return self.skip(header.payload_bytes(), header.cookie, past_the_end(command), input);
        }
        let request = Request { cookie: header.cookie, command, offset: header.offset, len: header.len };
        match command {
            Command::Flush => Event::Request(request),
            // "the behavior [..] is unspecified although the server SHOULD NOT disconnect".
            _ if header.len == 0 => Event::Empty(request),
            Command::Write => {
                self.awaits = Awaits::Payload;
                Event::Payload(request)
            }
            _ => Event::Request(request),
        }
    }

    fn skip(&mut self, left: u32, cookie: u64, failure: Failure, input: &mut BytesMut) -> Event {
        let here = left.min(u32::try_from(input.len()).unwrap_or(u32::MAX));
        input.advance(here as usize);
        let left = left - here;
        if left == 0 {
            return Event::Refused { cookie, failure };
        }
        self.awaits = Awaits::Skip { left, cookie, failure };
        Event::Incomplete
    }
}
