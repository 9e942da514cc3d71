//! One direction of a connection, with the encoder and the decoder of the daemons. Carrying bytes from one to the other copies them, as a
//! kernel does.

use ashlar_types::ClusterId;
use ashlar_wire::{Decoder, Encoder, Message};
use bytes::{Buf, Bytes};
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

    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// The next message of what was sent.
    ///
    /// # Panics
    /// If it is malformed: nothing here damages it.
    pub fn next(&mut self) -> Option<Message> {
        loop {
            let message = self.decoder.next().expect("frames of our own encoder");
            if message.is_some() || self.under_way.is_empty() {
                return message;
            }
            self.carry();
        }
    }

    /// One receive: as much as the decoder has room for.
    #[inline(never)] // a line of its own in a profile
    fn carry(&mut self) {
        let buffer = self.decoder.buffer();
        while let Some(piece) = self.under_way.front_mut() {
            let room = buffer.capacity() - buffer.len();
            let taken = room.min(piece.len());
            buffer.extend_from_slice(&piece[..taken]);
            piece.advance(taken);
            if !piece.is_empty() {
                return;
            }
            self.under_way.pop_front();
        }
    }
}
