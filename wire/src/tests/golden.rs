//! One frame of each kind, kept forever: golden/NAME.hex. Line 1: the message as text. Then 32 bytes a line; `*N` repeats the line
//! before N times more. A new field or kind is a new protocol version and a new file.

use super::sample::{Rng, message};
use super::{CLUSTER, decode_all, frame_of};
use crate::{Decoder, Kind, Message};
use std::fmt::Write;
use std::path::PathBuf;

const BYTES_PER_LINE: usize = 32;

fn path(kind: Kind) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("golden/{kind:?}-{:?}.hex", kind.version()).to_lowercase())
}

/// The message without its payload, which would fill pages.
fn text_of(message: &Message) -> String {
    let text = format!("{message:?}");
    match text.find(", payload: b\"") {
        Some(end) => format!("# {} .. }})", &text[..end]),
        None => format!("# {text}"),
    }
}

fn write_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut lines = bytes.chunks(BYTES_PER_LINE).peekable();
    while let Some(line) = lines.next() {
        for byte in line {
            write!(text, "{byte:02x}").expect("a String takes all");
        }
        text.push('\n');
        let mut repeats = 0;
        while lines.next_if_eq(&line).is_some() {
            repeats += 1;
        }
        if repeats > 0 {
            writeln!(text, "*{repeats}").expect("a String takes all");
        }
    }
    text
}

fn read_hex(text: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        if let Some(repeats) = line.strip_prefix('*') {
            let last = bytes[bytes.len() - BYTES_PER_LINE..].to_vec();
            (0..repeats.parse().expect("a number")).for_each(|_: u32| bytes.extend_from_slice(&last));
            continue;
        }
        bytes.extend((0..line.len()).step_by(2).map(|i| u8::from_str_radix(&line[i..i + 2], 16).expect("hex")));
    }
    bytes
}

#[test]
fn the_bytes_of_each_kind_are_those_of_the_golden_files() {
    for kind in Kind::ALL {
        let text = std::fs::read_to_string(path(kind)).unwrap_or_else(|e| panic!("{}: {e}", path(kind).display()));
        let bytes = read_hex(&text);
        let messages = decode_all(&mut Decoder::new(CLUSTER), &bytes, usize::MAX).expect("old bytes are read");
        assert_eq!(messages.len(), 1);
        assert_eq!(frame_of(&messages[0]), bytes, "{kind:?}");
        assert_eq!(Some(&*text_of(&messages[0])), text.lines().next());
    }
}

#[test]
#[ignore = "writes the golden files that are missing; for a new kind or version"]
fn write_missing_golden_files() {
    for kind in Kind::ALL.into_iter().filter(|k| !path(*k).exists()) {
        let mut rng = Rng { list_max: 2, nested_max: 2, ..Rng::new(1000 + kind as u64) };
        // The longest of some, so that no list and no choice is empty in all files.
        let message = (0..8).map(|_| message(kind, &mut rng)).max_by_key(|m| format!("{m:?}").len()).expect("eight");
        let text = format!("{}\n{}", text_of(&message), write_hex(&frame_of(&message)));
        std::fs::write(path(kind), text).expect("the folder golden is writable");
    }
}
