//! Replies: what is ready together leaves in one write, payloads by reference.

use super::flight::{Finished, Flight, Outcome};
use super::pace::Pace;
use super::reader::Ended;
use crate::protocol::{Command, Failure, ReplyStyle, Request};
use ashlar_types::BlockReply;
use bytes::{Bytes, BytesMut};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Pieces handed to one write call; more is only a further call.
const SLICES_MAX: usize = 64;

/// An arena that grew beyond this is given back: what is longer than most batches need is rarely needed twice.
const HEADS_KEPT_BYTES: usize = 64 << 10;

/// Writes replies until the reader is done and everything is answered, or the client can't be written to.
pub(super) async fn write_replies<W: AsyncWrite + Unpin>(
    flight: &Flight,
    style: ReplyStyle,
    stall_time: Duration,
    socket: &mut W,
) -> Result<(), Ended> {
    let mut batch = Vec::new();
    let mut outgoing = Outgoing::default();
    loop {
        flight.next_batch(&mut batch).await;
        if batch.is_empty() {
            return Ok(());
        }
        for finished in &mut batch {
            outgoing.push(style, finished);
        }
        outgoing.send(flight, Pace::new(stall_time), socket).await?;
    }
}

/// Replies on their way out, in order. The heads of all of them stand in one arena.
#[derive(Default)]
struct Outgoing {
    heads: BytesMut,
    pieces: Vec<Piece>,
}

enum Piece {
    Heads(Range<usize>),
    Payload(Bytes),
}

impl Outgoing {
    fn push(&mut self, style: ReplyStyle, finished: &mut Finished) {
        let start = self.heads.len();
        let request = finished.request;
        let payload = match std::mem::replace(&mut finished.outcome, Outcome::Device(Ok(BlockReply::Done))) {
            Outcome::Refused(failure) => {
                style.failure(request.cookie, &failure, &mut self.heads);
                Vec::new()
            }
            Outcome::Device(Err(error)) => {
                style.failure(request.cookie, &Failure::from_device(&error, request.command), &mut self.heads);
                Vec::new()
            }
            Outcome::Device(Ok(reply)) => self.push_success(style, &request, reply),
        };
        match self.pieces.last_mut() {
            Some(Piece::Heads(range)) if range.end == start => range.end = self.heads.len(),
            _ => self.pieces.push(Piece::Heads(start..self.heads.len())),
        }
        self.pieces.extend(payload.into_iter().filter(|bytes| !bytes.is_empty()).map(Piece::Payload));
    }

    fn push_success(&mut self, style: ReplyStyle, request: &Request, reply: BlockReply) -> Vec<Bytes> {
        match (request.command, reply) {
            (Command::Read, BlockReply::Data(data)) => {
                let len: usize = data.iter().map(Bytes::len).sum();
                assert_eq!(len, request.len as usize, "a device answers a read with exactly the bytes asked for");
                style.data_header(request, &mut self.heads);
                data
            }
            (Command::BlockStatus { .. }, BlockReply::Extents(extents)) => {
                style.block_status(request, &extents, &mut self.heads);
                Vec::new()
            }
            (Command::BlockStatus { .. }, BlockReply::Layers(extents)) => {
                style.layers_status(request, &extents, &mut self.heads);
                Vec::new()
            }
            (command, BlockReply::Done) if command != Command::Read || request.len == 0 => {
                style.done(request, &mut self.heads);
                Vec::new()
            }
            (command, reply) => panic!("a device answered {command:?} with {reply:?}"),
        }
    }

    async fn send<W: AsyncWrite + Unpin>(
        &mut self,
        flight: &Flight,
        mut pace: Pace,
        socket: &mut W,
    ) -> Result<(), Ended> {
        let mut first = 0; // the piece that is not wholly written
        let mut skip = 0; // bytes of it that are
        while first < self.pieces.len() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.pieces[first..]) {
                let bytes = self.bytes(piece);
                *slice = IoSlice::new(if count == 0 { &bytes[skip..] } else { bytes });
                count += 1;
            }
            let mut written = pace.keep(socket.write_vectored(&slices[..count]), || flight.holds_pooled()).await??;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            pace.on_bytes(written);
            while written > 0 {
                let left = self.bytes(&self.pieces[first]).len() - skip;
                if written < left {
                    skip += written;
                    break;
                }
                written -= left;
                skip = 0;
                first += 1;
            }
        }
        self.pieces.clear();
        self.heads.clear();
        if self.heads.capacity() > HEADS_KEPT_BYTES {
            self.heads = BytesMut::new();
        }
        Ok(())
    }

    fn bytes<'a>(&'a self, piece: &'a Piece) -> &'a [u8] {
        match piece {
            Piece::Heads(range) => &self.heads[range.clone()],
            Piece::Payload(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Contexts;
    use crate::server::accounts::Accounts;
    use ashlar_types::{BlockError, Completions};
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    /// Takes at most so many bytes with each write.
    struct Sink {
        at_most: usize,
        writes: usize,
        bytes: Vec<u8>,
    }

    impl AsyncWrite for Sink {
        fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(context, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.writes += 1;
            let before = self.bytes.len();
            let end = before + self.at_most;
            for slice in slices {
                let room = slice.len().min(end - self.bytes.len());
                self.bytes.extend_from_slice(&slice[..room]);
            }
            Poll::Ready(Ok(self.bytes.len() - before))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn seat() -> crate::server::accounts::Seat {
        Arc::new(Accounts::new(1, 0, 0)).seat("disk").expect("the first")
    }

    /// A read in pieces, a write, a refused read and block status, all completed; what the writer makes of them.
    fn written(at_most: usize) -> Sink {
        let flight = Flight::new(100, 1 << 20, seat());
        let mut sink = Sink { at_most, writes: 0, bytes: Vec::new() };
        let style = ReplyStyle { structured: true };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let contexts = Contexts { allocation: true, depth: false };
            let commands =
                [Command::Read, Command::Write, Command::Read, Command::BlockStatus { one: false, contexts }];
            for (cookie, command) in (0..).zip(commands) {
                flight.reserve(Request { cookie, command, offset: 0, len: 5 }).await.keep();
            }
            let pieces = [&b"ab"[..], b"", b"cde"].map(Bytes::from_static);
            flight.complete(0, Ok(BlockReply::Data(pieces.to_vec())));
            flight.complete(2, Err(BlockError::NoSpace));
            flight.complete(1, Ok(BlockReply::Done));
            let extent = ashlar_types::Extent { len: 5, allocated: true, zero: false };
            flight.complete(3, Ok(BlockReply::Extents(vec![extent])));
            flight.reader_is_done();
            write_replies(&flight, style, Duration::from_secs(30), &mut sink).await.expect("the sink takes all");
        });
        sink
    }

    #[test]
    fn a_long_reply_leaves_no_long_arena_behind() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let flight = Flight::new(1, 1 << 20, seat());
        let mut sink = Sink { at_most: usize::MAX / 2, writes: 0, bytes: Vec::new() };
        let mut outgoing = Outgoing::default();
        outgoing.heads.extend_from_slice(&[0; 1 << 20]);
        outgoing.pieces.push(Piece::Heads(0..1 << 20));
        runtime.block_on(async {
            let pace = Pace::new(Duration::from_secs(30));
            outgoing.send(&flight, pace, &mut sink).await.expect("the sink takes all");
        });
        assert!(sink.bytes.len() == 1 << 20 && outgoing.heads.capacity() <= HEADS_KEPT_BYTES);
    }

    #[test]
    fn replies_that_are_ready_together_leave_in_one_write() {
        let sink = written(usize::MAX / 2);
        assert_eq!(sink.writes, 1);
        let message = "the pool is full";
        assert_eq!(sink.bytes.len(), (20 + 8 + 5) + 16 + (20 + 6 + message.len()) + (20 + 4 + 8));
        assert_eq!(&sink.bytes[28..33], b"abcde");
    }

    #[test]
    fn writes_cut_anywhere_leave_the_same_bytes() {
        let whole = written(usize::MAX / 2).bytes;
        for at_most in 1..whole.len() {
            assert_eq!(written(at_most).bytes, whole, "{at_most} bytes at a time");
        }
    }
}
