//! Garbage: seeded mutations of good conversations, cut into random pieces. No panic, bounded memory, and the next client
//! is served as if nothing had happened.

mod support;
use ashlar_driver_nbd::Limits;
use ashlar_driver_nbd::memory::Completing;
use ashlar_driver_nbd::protocol::spec::*;
use ashlar_driver_nbd::protocol::{Command, Event, OpenError, ReplyStyle, Session};
use ashlar_types::DeviceInfo;
use bytes::{Buf, BytesMut};
use std::io::{Read, Write};
use support::raw::{Raw, option, request};
use support::{Dice, MIB, Running};

fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

/// A conversation's client side, as a well-behaved client would have it.
fn conversation(dice: &mut Dice) -> Vec<u8> {
    let mut bytes = (dice.below(4) as u32).to_be_bytes().to_vec();
    for _ in 0..dice.below(6) {
        let name = [&b"disk"[..], b"", b"nothing"][dice.below(3) as usize];
        let depth = [&b"qemu:allocation-depth"[..], b"qemu:"][dice.below(2) as usize];
        let queries = [string(b"base:"), string(b"base:allocation"), string(depth)].concat();
        let contexts = [string(name), vec![0, 0, 0, 3], queries].concat();
        let info = [string(name), vec![0, 2, 0, 1, 0, 3]].concat();
        bytes.extend(match dice.below(8) {
            0 => option(NBD_OPT_LIST, &[]),
            1 => option(NBD_OPT_STARTTLS, &[]),
            2 => option(NBD_OPT_INFO, &info),
            3 | 4 => option(NBD_OPT_STRUCTURED_REPLY, &[]),
            5 => option(NBD_OPT_LIST_META_CONTEXT, &contexts),
            6 => option(NBD_OPT_SET_META_CONTEXT, &contexts),
            _ => option(dice.next() as u32, &contexts),
        });
    }
    bytes.extend(match dice.below(8) {
        0 => option(NBD_OPT_ABORT, &[]),
        1..3 => option(NBD_OPT_EXPORT_NAME, b"disk"),
        _ => option(NBD_OPT_GO, &[string(b"disk"), vec![0, 0]].concat()),
    });
    for cookie in 0..dice.below(12) {
        let kind = dice.below(9) as u16;
        let len = dice.below(5000) as u32;
        bytes.extend(request(dice.below(32) as u16 & dice.next() as u16, kind, cookie, dice.below(2 * MIB), len));
        if kind == NBD_CMD_WRITE {
            bytes.extend(vec![7; len as usize]);
        }
    }
    bytes
}

/// Flips, drops, repeats and inserts bytes; sets lengths to extremes.
fn mutate(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..dice.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = dice.below(bytes.len() as u64) as usize;
        let end = (at + 1 + dice.below(40) as usize).min(bytes.len());
        match dice.below(6) {
            0 => bytes[at] ^= 1 << dice.below(8),
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            4 => {
                let noise = dice.bytes(8);
                bytes.splice(at..at, noise);
            }
            _ => bytes[at..end.min(at + 4)].fill([0x00, 0xff, 0x7f, 0x80][dice.below(4) as usize]),
        }
    }
}

/// Plays the shell for one conversation. Returns how many requests it was given.
fn converse(dice: &mut Dice, mut sent: &[u8]) -> u64 {
    let info = DeviceInfo { size: MIB, read_only: dice.below(4) == 0, description: "a disk".to_owned() };
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    let mut session = Session::new(&mut out);
    let mut style = None;
    let mut payload_left = 0;
    let mut requests = 0;
    loop {
        if payload_left > 0 {
            let here = payload_left.min(input.len());
            input.advance(here);
            payload_left -= here;
            if payload_left == 0 {
                session.on_payload();
            }
        }
        let before = input.len();
        let event = if payload_left > 0 { Ok(Event::Incomplete) } else { session.on_bytes(&mut input, &mut out) };
        let Ok(event) = event else { return requests };
        assert!(out.len() < 16 << 10, "an option is answered with {} bytes", out.len());
        out.clear();
        match event {
            Event::Incomplete => {
                assert!(input.len() <= OPTION_HEADER_BYTES + OPTION_BYTES_MAX as usize, "S2: {} are kept", input.len());
                if sent.is_empty() {
                    return requests;
                }
                let (piece, rest) = sent.split_at(1 + dice.below(sent.len().min(200) as u64) as usize);
                input.extend_from_slice(piece);
                sent = rest;
            }
            Event::Answered => {}
            Event::List => session.on_exports(Ok([("disk", "a disk")].into_iter()), &mut out),
            Event::Open(name) => {
                let opened = if name == "disk" { Ok(&info) } else { Err(OpenError::Unknown(name)) };
                match session.on_opened(opened, &mut out) {
                    Ok(None) => {}
                    Ok(Some(settled)) => style = Some(settled),
                    Err(_) => return requests,
                }
            }
            Event::Size => session.on_size(MIB),
            Event::Payload(request) => {
                assert!(request.len > 0 && request.len <= PAYLOAD_BYTES_MAX && !info.read_only, "P1");
                payload_left = request.len as usize;
                requests += 1;
            }
            Event::Request(request) | Event::Empty(request) => {
                assert!(style.is_some() && before >= input.len());
                let end = request.offset.checked_add(u64::from(request.len));
                assert!(end.is_some_and(|end| end <= MIB), "S3: {request:?}");
                let changes = !matches!(request.command, Command::Read | Command::Flush | Command::BlockStatus { .. });
                assert!(!(changes && info.read_only), "a read-only device was to be changed: {request:?}");
                requests += 1;
            }
            Event::Refused { cookie, failure } => {
                let style: ReplyStyle = style.expect("requests follow the handshake");
                style.failure(cookie, &failure, &mut out);
                assert!(out.len() <= 26 + 512);
                out.clear();
                requests += 1;
            }
            Event::Disconnect => return requests,
        }
    }
}

/// More on demand: `NBD_SEEDS=5000000 cargo test --release -p ashlar-driver-nbd --test hostile`.
fn seeds() -> u64 {
    std::env::var("NBD_SEEDS").map_or(40_000, |seeds| seeds.parse().expect("a number of seeds"))
}

#[test]
fn no_conversation_makes_the_core_panic_or_keep_too_much() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..seeds() {
        let mut dice = Dice(seed);
        let mut sent = conversation(&mut dice);
        good += converse(&mut dice, &sent);
        mutate(&mut dice, &mut sent);
        bad += converse(&mut dice, &sent);
    }
    assert!(good > 2 * seeds() && bad > seeds(), "most conversations get far: {good} and {bad} requests");
}

#[test]
fn mutated_conversations_disturb_no_other_client() {
    let running = Running::new(Limits { requests_max: 8, ..Limits::default() });
    running.add("disk", MIB, false, Completing::Later { seed: 1 });
    let mut steady = Raw::open(&running, "disk");
    for seed in 0..600 {
        let mut dice = Dice(seed);
        let mut sent = conversation(&mut dice);
        mutate(&mut dice, &mut sent);
        let mut hostile = Raw::connect(&running);
        // The server may close at any point: what matters is what it does then.
        let _ = hostile.socket.write_all(&sent);
        if dice.below(2) == 0 {
            let _ = hostile.socket.shutdown(std::net::Shutdown::Write);
            let mut sink = Vec::new();
            if let Err(error) = hostile.socket.read_to_end(&mut sink) {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "seed {seed}: the server closes");
            }
        }
        if seed % 20 == 0 {
            steady.send(&request(0, NBD_CMD_READ, seed, 0, 512));
            assert_eq!(steady.reply(), (0, seed));
            steady.receive(512);
        }
    }
}
