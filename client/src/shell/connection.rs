//! One TCP connection to an OSD. What is to be sent is collected and written in one vectored write; what comes is read as much as
//! there is, into buffers of which payloads are slices.

use ashlar_types::ClusterId;
use ashlar_wire::{Decoder, Encoder, FrameError, Message};
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

/// Pieces for one write; the kernel takes 1,024 at most (IOV_MAX), and this many fit on the stack.
const PIECES_PER_WRITE: usize = 64;

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("closed by the other side")]
    Closed,
    #[error(transparent)]
    Frame(#[from] FrameError),
}

type Dial = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

pub(super) enum Connection {
    Dialing(Dial),
    Open(Box<Open>),
}

pub(super) struct Open {
    stream: TcpStream,
    decoder: Decoder,
    encoder: Encoder,
    out: VecDeque<Bytes>,
}

impl Connection {
    pub(super) fn dial(address: String) -> Connection {
        Connection::Dialing(Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        }))
    }
}

impl Open {
    pub(super) fn new(stream: TcpStream, cluster: ClusterId) -> Open {
        Open { stream, decoder: Decoder::greeting_first(cluster), encoder: Encoder::new(cluster), out: VecDeque::new() }
    }

    pub(super) fn send(&mut self, message: &Message) {
        self.encoder.push(message);
    }

    /// Reads and decodes until there is nothing more for now. What was decoded before an error counts.
    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>, inbox: &mut Vec<Message>) -> Result<(), LinkError> {
        loop {
            let read = pin!(self.stream.read_buf(self.decoder.buffer())).poll(cx);
            match read {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(LinkError::Closed),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(error.into()),
            }
            while let Some(message) = self.decoder.next()? {
                inbox.push(message);
            }
        }
    }

    /// Writes what was collected, as far as the socket takes it.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Result<(), LinkError> {
        if !self.encoder.is_empty() {
            self.encoder.take(&mut self.out);
        }
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES_PER_WRITE];
            let count = self.out.iter().take(PIECES_PER_WRITE).zip(&mut slices).fold(0, |count, (piece, slice)| {
                *slice = IoSlice::new(piece);
                count + 1
            });
            match Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(LinkError::Closed),
                Poll::Ready(Ok(written)) => self.drop_written(written),
                Poll::Ready(Err(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn drop_written(&mut self, mut written: usize) {
        while let Some(front) = self.out.front_mut() {
            if front.len() > written {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.out.pop_front();
        }
    }
}
