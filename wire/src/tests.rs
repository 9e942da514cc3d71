pub(crate) mod sample;

mod golden;
mod malformed;
mod stream;

use crate::{Decoder, Encoder, Kind, Message, encode};
use ashlar_types::ClusterId;
use sample::{Rng, message};

pub(crate) const CLUSTER: ClusterId = ClusterId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);

/// All bytes of a message's frame.
pub(crate) fn frame_of(message: &Message) -> Vec<u8> {
    let frame = encode(message, CLUSTER);
    let bytes = [&frame.head[..], &frame.payload[..], frame.tail()].concat();
    assert_eq!(bytes.len(), frame.frame_bytes());
    bytes
}

/// Feeds bytes in pieces of at most `piece` and collects what comes out.
pub(crate) fn decode_all(
    decoder: &mut Decoder,
    mut bytes: &[u8],
    piece: usize,
) -> Result<Vec<Message>, crate::FrameError> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let buffer = decoder.buffer();
        let take = (buffer.capacity() - buffer.len()).min(piece).min(bytes.len());
        assert!(take > 0, "there is always room");
        buffer.extend_from_slice(&bytes[..take]);
        bytes = &bytes[take..];
        while let Some(message) = decoder.next()? {
            messages.push(message);
        }
    }
    Ok(messages)
}

#[test]
fn every_kind_of_message_comes_back_as_it_was_sent() {
    for kind in Kind::ALL {
        let mut rng = Rng::new(kind as u64);
        for _ in 0..200 {
            let sent = message(kind, &mut rng);
            let received = decode_all(&mut Decoder::new(CLUSTER), &frame_of(&sent), usize::MAX);
            assert_eq!(received, Ok(vec![sent]));
        }
    }
}

#[test]
fn long_lists_and_whole_chunks_come_back() {
    let mut longest = 0;
    for seed in 0..30 {
        let mut rng = Rng { list_max: 1024, nested_max: 32, ..Rng::new(seed) };
        for kind in Kind::ALL {
            let sent = message(kind, &mut rng);
            if let Message::Prepare(prepare) = &sent {
                longest = longest.max(prepare.payload.len());
            }
            let received = decode_all(&mut Decoder::new(CLUSTER), &frame_of(&sent), 100_000);
            assert_eq!(received, Ok(vec![sent]));
        }
    }
    assert!(longest > 900 * 4096, "a write of nearly a whole chunk was among them: {longest} bytes");
}

#[test]
fn an_encoder_writes_the_same_bytes_in_fewer_pieces() {
    let mut rng = Rng::new(3);
    let messages: Vec<_> = (0..500).map(|_| message(*rng.pick(&Kind::ALL), &mut rng)).collect();
    let mut encoder = Encoder::new(CLUSTER);
    messages.iter().for_each(|m| encoder.push(m));
    let expected = messages.iter().flat_map(frame_of).collect::<Vec<u8>>();
    assert_eq!(encoder.len(), expected.len());
    let mut pieces: Vec<bytes::Bytes> = Vec::new();
    encoder.take(&mut pieces);
    assert!(encoder.is_empty());
    assert!(pieces.len() < messages.len());
    assert_eq!(pieces.concat(), expected);
}

#[test]
fn an_encoder_passes_payloads_by_handle() {
    let mut rng = Rng::new(4);
    let sent = loop {
        if let Message::Prepare(m) = message(Kind::Prepare, &mut rng)
            && !m.payload.is_empty()
        {
            break m;
        }
    };
    let mut encoder = Encoder::new(CLUSTER);
    encoder.push(&Message::Prepare(sent.clone()));
    let mut pieces: Vec<bytes::Bytes> = Vec::new();
    encoder.take(&mut pieces);
    assert!(pieces.iter().any(|p| p.as_ptr() == sent.payload.as_ptr()));
}
