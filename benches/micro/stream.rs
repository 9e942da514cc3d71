//! One direction of a connection, with the encoder and the decoder of the daemons, and a kernel that carries all that is sent at once.

use ashlar_types::ClusterId;
use ashlar_wire::{Decoder, Encoder, Message};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;

#[derive(Debug)]
pub struct Stream {
    encoder: Encoder,
    under_way: VecDeque<Bytes>,
    decoder: Decoder,
}

impl Stream {
    pub fn new(cluster: ClusterId) -> Stream {
        Stream { encoder: Encoder::new(cluster), under_way: VecDeque::new(), decoder: Decoder::greeting_first(cluster) }
    }

    pub fn push(&mut self, message: &Message) {
        self.encoder.push(message);
    }

    /// All that was pushed leaves together.
    pub fn send(&mut self) {
        if !self.encoder.is_empty() {
            self.encoder.take(&mut self.under_way);
        }
    }

    /// Hands over every message that was sent.
    ///
    /// # Panics
    /// If one is malformed: nothing here damages it.
    pub fn receive(&mut self, mut take: impl FnMut(Message)) {
        while !self.under_way.is_empty() {
            self.carry();
            while let Some(message) = self.decoder.next().expect("frames of our own encoder") {
                take(message);
            }
        }
    }

    /// One receive: as much as the decoder has room for.
    fn carry(&mut self) {
        let buffer = self.decoder.buffer();
        while let Some(piece) = self.under_way.front_mut() {
            let room = buffer.capacity() - buffer.len();
            let taken = room.min(piece.len());
            stand_in_for_kernel(buffer, &piece[..taken]);
            piece.advance(taken);
            if !piece.is_empty() {
                return;
            }
            self.under_way.pop_front();
        }
    }
}

/// What a kernel does and no instruction of ours: callgrind stops to collect while this runs.
#[inline(never)]
pub fn stand_in_for_kernel(to: &mut BytesMut, from: &[u8]) {
    to.extend_from_slice(from);
}
