use super::sample::{Rng, message};
use super::{CLUSTER, decode_all, frame_of};
use crate::{Decoder, FRAME_ALIGN, Kind, MAX_PAYLOAD_BYTES, Message};

fn payload_of(message: &Message) -> Option<&bytes::Bytes> {
    match message {
        Message::IoRequest(m) => Some(&m.payload),
        Message::IoReply(m) => Some(&m.payload),
        Message::Prepare(m) => Some(&m.payload),
        Message::Push(m) => Some(&m.payload),
        Message::FetchReply(m) => Some(&m.payload),
        _ => None,
    }
}

#[test]
fn a_stream_may_be_cut_anywhere() {
    let mut rng = Rng { list_max: 1, ..Rng::new(11) };
    let sent: Vec<_> = [Kind::Hello, Kind::Prepare, Kind::Commit].map(|k| message(k, &mut rng)).into();
    let bytes: Vec<u8> = sent.iter().flat_map(frame_of).collect();
    for cut in 1..bytes.len() {
        let mut decoder = Decoder::new(CLUSTER);
        let mut received = decode_all(&mut decoder, &bytes[..cut], usize::MAX).expect("good frames");
        received.extend(decode_all(&mut decoder, &bytes[cut..], usize::MAX).expect("good frames"));
        assert_eq!(received, sent, "cut at {cut}");
    }
}

#[test]
fn bytes_may_come_one_by_one() {
    let mut rng = Rng::new(12);
    let sent: Vec<_> = Kind::ALL.map(|k| message(k, &mut rng)).into();
    let bytes: Vec<u8> = sent.iter().flat_map(frame_of).collect();
    assert_eq!(decode_all(&mut Decoder::new(CLUSTER), &bytes, 1), Ok(sent));
}

#[test]
fn every_payload_of_a_long_stream_is_aligned_whatever_the_receives() {
    let mut rng = Rng { list_max: 40, ..Rng::new(13) };
    let mut decoder = Decoder::new(CLUSTER);
    let mut held: Vec<(Message, Message)> = Vec::new();
    for round in 0..300 {
        let sent: Vec<_> = (0..rng.below(12)).map(|_| message(*rng.pick(&Kind::ALL), &mut rng)).collect();
        let bytes: Vec<u8> = sent.iter().flat_map(frame_of).collect();
        let piece = 1 + rng.below(300_000) as usize;
        let received = decode_all(&mut decoder, &bytes, piece).expect("good frames");
        for payload in received.iter().filter_map(payload_of).filter(|p| !p.is_empty()) {
            assert_eq!(payload.as_ptr() as usize % FRAME_ALIGN, 0, "round {round}");
        }
        held.extend(received.into_iter().zip(sent));
        // Some payloads are held for long: a buffer that is used again must not change them.
        held.retain(|(received, sent)| {
            assert_eq!(received, sent);
            rng.below(4) != 0
        });
    }
}

#[test]
fn a_buffer_by_value_works_as_one_by_reference() {
    let mut rng = Rng::new(14);
    let sent: Vec<_> = Kind::ALL.map(|k| message(k, &mut rng)).into();
    let bytes: Vec<u8> = sent.iter().flat_map(frame_of).collect();
    let mut decoder = Decoder::new(CLUSTER);
    let mut received = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let mut buffer = decoder.take_buffer();
        let take = (buffer.capacity() - buffer.len()).min(rest.len());
        buffer.extend_from_slice(&rest[..take]);
        rest = &rest[take..];
        decoder.put_buffer(buffer);
        while let Some(message) = decoder.next().expect("good frames") {
            received.push(message);
        }
    }
    assert_eq!(received, sent);
}

#[test]
fn memory_follows_what_arrived_not_what_was_promised() {
    let mut rng = Rng { list_max: 1000, ..Rng::new(15) };
    let large = loop {
        let frame = frame_of(&message(Kind::Prepare, &mut rng));
        if frame.len() > MAX_PAYLOAD_BYTES / 2 {
            break frame;
        }
    };
    let mut decoder = Decoder::new(CLUSTER);
    for arrived in [100, 10_000, 100_000] {
        let so_far = decoder.pending_bytes();
        decode_all(&mut decoder, &large[so_far..arrived], 1000).expect("a good beginning");
        // Beside it one small buffer and the pages lost to alignment.
        assert!(decoder.buffer().capacity() <= 4 * arrived + (24 << 10), "{arrived} bytes arrived");
    }
    let so_far = decoder.pending_bytes();
    assert_eq!(decode_all(&mut decoder, &large[so_far..], usize::MAX).expect("the rest").len(), 1);
}
