//! One connection's life: the handshake within its time, then a reader and a writer until either ends.

use super::accounts::Seat;
use super::flight::{Flight, WriterSide};
use super::reader::{Ended, Reader};
use super::registry::Place;
use super::writer::write_replies;
use super::{OpenError, Shared};
use crate::protocol::{Event, ReplyStyle, Session};
use ashlar_types::BlockDevice;
use bytes::BytesMut;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;

/// Room for options; grows for long ones, never beyond one option's largest.
const HANDSHAKE_BYTES: usize = 1024;
/// How long a client that was told of the end may go on talking.
const CLOSING_TIME: Duration = Duration::from_secs(1);

pub(super) async fn serve<R, W>(shared: Arc<Shared>, place: Place, mut read: R, mut write: W)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let handshake = shake_hands(&shared, &place, &mut read, &mut write);
    let Ok(outcome) = tokio::time::timeout(shared.limits.handshake_time, handshake).await else {
        tracing::debug!("an NBD handshake took too long");
        return;
    };
    match outcome {
        Ok(established) => {
            let name = established.name.clone();
            tracing::debug!(volume = %name, "NBD client connected");
            let reason = transmit(&shared, &place, established, read, write).await;
            match &reason {
                Ended::Violation(violation) => tracing::info!(volume = %name, %violation, "NBD connection closed"),
                Ended::Stalled => tracing::info!(volume = %name, %reason, "NBD connection closed"),
                other => tracing::debug!(volume = %name, reason = %other, "NBD connection ended"),
            }
        }
        Err(reason) => {
            tracing::debug!(%reason, "NBD handshake ended");
            place.leave();
            close(read, write).await;
        }
    }
}

struct Established {
    name: String,
    device: Arc<dyn BlockDevice>,
    seat: Seat,
    session: Session,
    input: BytesMut,
    style: ReplyStyle,
}

async fn shake_hands<R, W>(shared: &Shared, place: &Place, read: &mut R, write: &mut W) -> Result<Established, Ended>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut shutdown = shared.shutdown.subscribe();
    let mut input = BytesMut::with_capacity(HANDSHAKE_BYTES);
    let mut out = BytesMut::with_capacity(HANDSHAKE_BYTES);
    let mut session = Session::new(&mut out);
    // The options of one client name one export, again and again: it is opened once.
    let mut opened: Option<(String, Arc<dyn BlockDevice>)> = None;
    loop {
        send(write, &mut out).await?;
        if *shutdown.borrow_and_update() {
            session.on_shutdown();
        }
        match session.on_bytes(&mut input, &mut out)? {
            Event::Incomplete => {
                input.reserve(HANDSHAKE_BYTES);
                if read.read_buf(&mut input).await? == 0 {
                    return Err(if input.is_empty() { Ended::Closed } else { Ended::CutOff });
                }
                place.expose();
            }
            Event::Answered => {}
            Event::List => {
                let entries = shared.exports.list().await;
                let pairs = entries
                    .as_ref()
                    .map(|entries| entries.iter().map(|entry| (entry.name.as_str(), entry.description.as_str())));
                session.on_exports(pairs.map_err(OpenError::clone), &mut out);
            }
            Event::Open(name) => {
                place.keep();
                let device = match opened.take() {
                    Some((known, device)) if known == name => Ok(device),
                    _ => shared.exports.open(&name).await,
                };
                let seated = device.and_then(|device| Ok((seat(shared, &name)?, device)));
                let info = seated.as_ref().map(|(_, device)| device.info());
                let style = session.on_opened(info.as_ref().map_err(|error| (*error).clone()), &mut out)?;
                match (style, seated) {
                    (Some(style), Ok((seat, device))) => {
                        send(write, &mut out).await?;
                        return Ok(Established { name, device, seat, session, input, style });
                    }
                    (_, seated) => opened = seated.ok().map(|(_, device)| (name, device)),
                }
                place.expose();
            }
            Event::Disconnect => {
                send(write, &mut out).await?;
                return Err(Ended::Disconnected);
            }
            event => unreachable!("{event:?} belongs to the transmission phase"),
        }
    }
}

fn seat(shared: &Shared, name: &str) -> Result<Seat, OpenError> {
    shared.accounts.seat(name).ok_or_else(|| {
        let most = shared.limits.connections_per_export_max;
        OpenError::Busy(format!(
            "{name:?} has {most} connections, or requests of ended ones under way, and may have no more"
        ))
    })
}

async fn send<W: AsyncWrite + Unpin>(write: &mut W, out: &mut BytesMut) -> Result<(), Ended> {
    if !out.is_empty() {
        write.write_all(out).await?;
        out.clear();
    }
    Ok(())
}

/// The transmission phase. Whichever way it ends, a client that still listens gets the replies that are owed.
async fn transmit<R, W>(shared: &Shared, place: &Place, established: Established, socket: R, mut write: W) -> Ended
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let Established { device, seat, session, input, style, .. } = established;
    let limits = &shared.limits;
    let flight = Arc::new(Flight::new(limits.requests_max, limits.payload_bytes_max, seat));
    // A task of its own: with reader and writer in one, a request took more CPU (tests/throughput.rs, one run each on a busy
    // machine, compared with nbdkit's in the same run). In a set so that it ends with this task, should that be aborted.
    let mut writer = JoinSet::new();
    writer.spawn({
        let (side, stall_time) = (WriterSide(flight.clone()), limits.stall_time);
        async move {
            write_replies(&side.0, style, stall_time, &mut write).await?;
            Ok::<W, Ended>(write)
        }
    });
    let mut shutdown = shared.shutdown.subscribe();
    let (completions, stall_time) = (flight.clone(), limits.stall_time);
    let mut reader =
        Reader { socket, session, input, device: &device, completions, flight: &flight, place, stall_time };
    let shutting_down = async move {
        // An error means that the server is gone, which is a shutdown too.
        let _ = shutdown.wait_for(|shutdown| *shutdown).await;
    };
    let linger = async { tokio::time::sleep(shared.limits.shutdown_linger).await };
    let ended = tokio::select! {
        ended = reader.read_requests(shutting_down, linger) => ended,
        failed = writer.join_next() => match failed {
            Some(Ok(Err(ended))) => return ended,
            Some(Err(_)) | None => return Ended::Shutdown, // the runtime is going down
            Some(Ok(Ok(_))) => unreachable!("the writer goes on until the reader is done"),
        },
    };
    if let Ended::Stalled | Ended::Socket(_) = ended {
        return ended; // and the replies with it, which hold memory, and which nobody takes
    }
    // A client that ended the connection may still listen, or may be gone: who knows, if the device takes long to answer?
    place.leave();
    flight.reader_is_done();
    let written = writer.join_next().await;
    let Reader { socket, .. } = reader;
    drop(device); // whoever waits for it need not wait for the client's manners
    if let Some(Ok(Ok(write))) = written {
        close(socket, write).await;
    }
    ended
}

/// Closes so that what was said last arrives: closing with input unread would reset the connection and take replies along
/// that the client has not read yet. Nothing can go wrong here that still matters.
async fn close<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(mut read: R, mut write: W) {
    let _ = write.shutdown().await;
    let _ = tokio::time::timeout(CLOSING_TIME, async move {
        let mut unread = [0; 4096];
        while read.read(&mut unread).await.is_ok_and(|count| count > 0) {}
    })
    .await;
}
