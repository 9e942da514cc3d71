//! What a connection carries: bytes of frames, made and read by the code that the daemons use (`ashlar_wire`).
//!
//! A frame leaves as pieces whose payload is not copied; it is copied once, into the receiver's buffer, as the kernel does. A receive may end in the
//! middle of a frame. In some seeds a bit flips on the way.

use crate::rng::Rng;
use ashlar_types::ClusterId;
use ashlar_wire::{Decoder, FrameError, HEADER_BYTES, Message, encode};
use bytes::Bytes;

/// How often a frame arrives in two parts, in a thousand.
const CUT_PERMILLE: u64 = 50;

/// A part of the stream: what one receive brings.
pub(super) type Pieces = Vec<Bytes>;

/// The bytes of a message, in the one or two parts in which they will arrive; and whether a bit of them is wrong.
pub(super) fn send(
    message: &Message,
    cluster: ClusterId,
    rng: &mut Rng,
    flips_per_million: u64,
) -> (Vec<Pieces>, bool) {
    let frame = encode(message, cluster);
    let tail = Bytes::from_static(frame.tail());
    let mut pieces = vec![frame.head, frame.payload, tail];
    pieces.retain(|p| !p.is_empty());
    let is_damaged = flips_per_million > 0 && rng.below(1_000_000) < flips_per_million;
    if is_damaged {
        flip(&mut pieces, rng);
    }
    if !rng.permille(CUT_PERMILLE) {
        return (vec![pieces], is_damaged);
    }
    let at = rng.index(pieces.iter().map(Bytes::len).sum());
    (cut(pieces, at), is_damaged)
}

/// Heads are short and payloads long, and most of a head is padding: each part is hit often.
fn flip(pieces: &mut [Bytes], rng: &mut Rng) {
    let nth = rng.index(pieces.len());
    let mut bytes = pieces[nth].to_vec();
    let at = if rng.permille(500) { rng.index(bytes.len().min(HEADER_BYTES)) } else { rng.index(bytes.len()) };
    bytes[at] ^= 1 << rng.below(8);
    pieces[nth] = bytes.into();
}

fn cut(pieces: Pieces, at: usize) -> Vec<Pieces> {
    let (mut first, mut second, mut left) = (Vec::new(), Vec::new(), at);
    for mut piece in pieces {
        let here = left.min(piece.len());
        left -= here;
        let rest = piece.split_off(here);
        first.extend(Some(piece).filter(|p| !p.is_empty()));
        second.extend(Some(rest).filter(|p| !p.is_empty()));
    }
    [first, second].into_iter().filter(|part| !part.is_empty()).collect()
}

/// Takes in what has arrived, and gives the messages that are complete.
pub(super) fn receive(decoder: &mut Decoder, pieces: &[Bytes], messages: &mut Vec<Message>) -> Result<(), FrameError> {
    for piece in pieces {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let buffer = decoder.buffer();
            let (now, later) = rest.split_at(rest.len().min(buffer.capacity() - buffer.len()));
            buffer.extend_from_slice(now);
            rest = later;
            if !rest.is_empty() {
                take(decoder, messages)?;
            }
        }
    }
    take(decoder, messages)
}

fn take(decoder: &mut Decoder, messages: &mut Vec<Message>) -> Result<(), FrameError> {
    while let Some(message) = decoder.next()? {
        messages.push(message);
    }
    Ok(())
}
