//! Frames of the data protocol: a stream as it comes, and one frame whose lengths and checksum fit, so that bodies are looked at. A message that
//! is taken says the same when it is sent again.
#![no_main]

use ashlar_types::{ClusterId, Crc};
use ashlar_wire::{Decoder, Message, encode};
use libfuzzer_sys::fuzz_target;

/// That of the golden files.
const CLUSTER: ClusterId = ClusterId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
/// Where docs/protocol.md puts them.
const HEADER_BYTES: usize = 64;
const FRAME_ALIGN: usize = 512;
const CRC_AT: usize = 60;

fuzz_target!(|data: &[u8]| {
    stream(data);
    // A whole frame as input: its header and body, with what the checksum says made true.
    if data.len() < HEADER_BYTES {
        return;
    }
    let (header, rest) = data.split_at(HEADER_BYTES);
    let body_bytes =
        (u32::from_le_bytes(*header[24..].first_chunk().expect("within the header")) as usize).min(rest.len());
    let payload_bytes = u32::from_le_bytes(*header[28..].first_chunk().expect("within the header")) as usize;
    if payload_bytes > 64 << 10 {
        return;
    }
    let mut frame = header.to_vec();
    // Greetings are read whatever cluster they come from.
    frame[8..24].copy_from_slice(&CLUSTER.0.to_le_bytes());
    if frame[32..36] != [0; 4] {
        let payload_crc = Crc::of(&vec![0; payload_bytes]);
        frame[32..36].copy_from_slice(&payload_crc.0.to_le_bytes());
    }
    frame[24..28].copy_from_slice(&(body_bytes as u32).to_le_bytes());
    let crc = Crc::of(&frame[..CRC_AT]).append(&rest[..body_bytes]);
    frame[CRC_AT..].copy_from_slice(&crc.0.to_le_bytes());
    frame.extend_from_slice(&rest[..body_bytes]);
    frame.resize(frame.len().next_multiple_of(FRAME_ALIGN), 0);
    frame.resize(frame.len() + payload_bytes.next_multiple_of(FRAME_ALIGN), 0);
    for message in stream(&frame) {
        let sent = encode(&message, CLUSTER);
        assert_eq!([&sent.head[..], &sent.payload[..], sent.tail()].concat(), frame);
    }
});

fn stream(mut bytes: &[u8]) -> Vec<Message> {
    let mut decoder = Decoder::new(CLUSTER);
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let buffer = decoder.buffer();
        let take = (buffer.capacity() - buffer.len()).min(bytes.len());
        buffer.extend_from_slice(&bytes[..take]);
        bytes = &bytes[take..];
        loop {
            match decoder.next() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return messages,
            }
        }
    }
    messages
}
