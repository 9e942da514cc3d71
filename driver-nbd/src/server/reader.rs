//! Requests: socket to device. Stops reading while the connection has too much under way (F2).

use super::flight::{Flight, Outcome, Reserved};
use super::pace::{Pace, Stalled};
use super::registry::Place;
use crate::protocol::spec::REQUEST_BYTES;
use crate::protocol::{Command, Event, Request, Session, Violation};
use ashlar_types::{BlockDevice, BlockOp, BlockReply, BlockRequest, Completions, aligned_payload};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Read ahead at most: many small requests with one call.
const READ_AHEAD_BYTES: usize = 64 << 10;
/// After a payload as long as this the next request's head is read alone, so that its payload, likely as long, is received
/// where it belongs rather than copied there.
const LARGE_PAYLOAD_BYTES: u32 = 32 << 10;

/// Why a connection stopped being read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the client closed the connection")]
    Closed,
    #[error("the client disconnected")]
    Disconnected,
    #[error("the connection ended in the middle of a message")]
    CutOff,
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error(transparent)]
    Socket(#[from] io::Error),
    #[error("the client held memory that others may need, and went on too slowly")]
    Stalled,
    #[error("the server shut down")]
    Shutdown,
}

impl From<Stalled> for Ended {
    fn from(Stalled: Stalled) -> Ended {
        Ended::Stalled
    }
}

pub(super) struct Reader<'a, R> {
    pub socket: R,
    pub session: Session,
    /// Received and not yet understood.
    pub input: BytesMut,
    pub device: &'a Arc<dyn BlockDevice>,
    pub flight: &'a Arc<Flight>,
    /// The same flight, as the device knows it.
    pub completions: Arc<dyn Completions>,
    pub place: &'a Place,
    pub stall_time: Duration,
}

impl<'a, R: AsyncRead + Unpin> Reader<'a, R> {
    /// Ends when the client does, or a while after `shutdown` resolves: how long is `linger`'s to say. Until then requests
    /// are refused with `NBD_ESHUTDOWN`.
    pub async fn read_requests(
        &mut self,
        shutdown: impl Future<Output = ()>,
        linger: impl Future<Output = ()>,
    ) -> Ended {
        let mut shutdown = pin!(shutdown);
        let mut linger = pin!(linger);
        let mut shutting_down = false;
        let mut read_ahead = READ_AHEAD_BYTES;
        loop {
            match self.on_input(&mut read_ahead).await {
                Ok(()) => {}
                Err(ended) => return ended,
            }
            let woken = {
                let mut read = pin!(fill(&mut self.socket, &mut self.input, read_ahead));
                poll_fn(|context| {
                    if let Poll::Ready(result) = read.as_mut().poll(context) {
                        return Poll::Ready(Woken::Read(result));
                    }
                    let shutdown: Pin<&mut dyn Future<Output = ()>> =
                        if shutting_down { linger.as_mut() } else { shutdown.as_mut() };
                    shutdown.poll(context).map(|()| Woken::Shutdown)
                })
                .await
            };
            match woken {
                Woken::Read(Ok(0)) if self.input.is_empty() => return Ended::Closed,
                Woken::Read(Ok(0)) => return Ended::CutOff,
                Woken::Read(Ok(_)) => {}
                Woken::Read(Err(error)) => return Ended::Socket(error),
                Woken::Shutdown if shutting_down => return Ended::Shutdown,
                Woken::Shutdown => {
                    shutting_down = true;
                    self.session.on_shutdown();
                }
            }
        }
    }

    /// Hands all requests that are wholly here to the device.
    async fn on_input(&mut self, read_ahead: &mut usize) -> Result<(), Ended> {
        let mut nothing = BytesMut::new();
        loop {
            match self.session.on_bytes(&mut self.input, &mut nothing)? {
                Event::Incomplete => return Ok(()),
                Event::Size => self.session.on_size(self.device.info().size),
                Event::Request(request) => {
                    *read_ahead = READ_AHEAD_BYTES;
                    let reserved = self.reserve(request).await;
                    self.submit(reserved, operation(&request));
                }
                Event::Payload(request) => {
                    *read_ahead = if request.len >= LARGE_PAYLOAD_BYTES { REQUEST_BYTES } else { READ_AHEAD_BYTES };
                    let reserved = self.reserve(request).await;
                    let data = self.receive(request.len as usize).await?;
                    self.session.on_payload();
                    self.submit(reserved, BlockOp::Write { offset: request.offset, data });
                }
                Event::Empty(request) => {
                    let reserved = self.reserve(request).await;
                    self.flight.finish(reserved.keep(), Outcome::Device(Ok(BlockReply::Done)));
                }
                Event::Refused { cookie, failure } => {
                    // What was asked no longer matters, only that an answer is owed.
                    let request = Request { cookie, command: Command::Flush, offset: 0, len: 0 };
                    let reserved = self.reserve(request).await;
                    self.flight.finish(reserved.keep(), Outcome::Refused(failure));
                }
                Event::Disconnect => return Err(Ended::Disconnected),
                event @ (Event::Answered | Event::List | Event::Open(_)) => {
                    unreachable!("{event:?} belongs to the handshake")
                }
            }
        }
    }

    async fn reserve(&self, request: Request) -> Reserved<'a> {
        let mut reserving = pin!(self.flight.reserve(request));
        match tokio::time::timeout(self.stall_time, &mut reserving).await {
            Ok(reserved) => reserved,
            Err(_) => {
                // Nothing was read for so long that the client may have gone unseen.
                self.place.leave();
                let reserved = reserving.await;
                self.place.keep();
                reserved
            }
        }
    }

    /// A write's payload, straight into the buffer that goes to the device; only what was read ahead is copied.
    async fn receive(&mut self, len: usize) -> Result<Bytes, Ended> {
        let mut payload = aligned_payload(len);
        let here = len.min(self.input.len());
        payload.extend_from_slice(&self.input[..here]);
        self.input.advance(here);
        let mut pace = Pace::new(self.stall_time);
        while payload.len() < len {
            let missing = len - payload.len();
            let mut room = (&mut payload).limit(missing);
            let received = self.socket.read_buf(&mut room);
            match pace.keep(received, || self.flight.holds_pooled()).await?? {
                0 => return Err(Ended::CutOff),
                count => pace.on_bytes(count),
            }
        }
        Ok(payload.freeze())
    }

    fn submit(&self, reserved: Reserved<'_>, op: BlockOp) {
        self.device.submit(BlockRequest { tag: u64::from(reserved.keep()), op }, &self.completions);
    }
}

enum Woken {
    Read(io::Result<usize>),
    Shutdown,
}

/// Reads up to `len` bytes more.
async fn fill<R: AsyncRead + Unpin>(socket: &mut R, input: &mut BytesMut, len: usize) -> io::Result<usize> {
    input.reserve(len);
    socket.read_buf(&mut input.limit(len)).await
}

fn operation(request: &Request) -> BlockOp {
    let (offset, len) = (request.offset, u64::from(request.len));
    match request.command {
        Command::Read => BlockOp::Read { offset, len: request.len },
        Command::Flush => BlockOp::Flush,
        Command::Trim => BlockOp::Discard { offset, len },
        Command::WriteZeroes { keep_allocated } => BlockOp::WriteZeroes { offset, len, keep_allocated },
        Command::BlockStatus { contexts, .. } if contexts.depth => BlockOp::Layers { offset, len, with_base: true },
        Command::BlockStatus { .. } => BlockOp::Extents { offset, len },
        Command::Write => unreachable!("a write comes with its payload"),
    }
}
