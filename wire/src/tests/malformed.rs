use super::sample::{Rng, message};
use super::{CLUSTER, decode_all, frame_of};
use crate::frame::HEADER_BYTES;
use crate::{Decoder, FRAME_ALIGN, FrameError, Kind, MAX_BODY_BYTES, Message};
use ashlar_types::{ClusterId, Crc};

fn decode(bytes: &[u8]) -> Result<Vec<Message>, FrameError> {
    decode_all(&mut Decoder::new(CLUSTER), bytes, usize::MAX)
}

/// Gives a changed frame a right CRC, so that the change reaches what lies behind the CRC's check.
fn seal(frame: &mut [u8]) {
    let body = u32::from_le_bytes(*frame[24..].first_chunk().expect("a header")) as usize;
    let Some(covered) = frame.get(HEADER_BYTES..HEADER_BYTES + body) else { return };
    let crc = Crc::of(&frame[..HEADER_BYTES - 4]).append(covered);
    frame[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.0.to_le_bytes());
}

fn sealed(kind: Kind, change: impl FnOnce(&mut [u8])) -> Result<Vec<Message>, FrameError> {
    let mut frame = frame_of(&message(kind, &mut Rng::new(21)));
    change(&mut frame);
    seal(&mut frame);
    decode(&frame)
}

#[test]
fn each_fault_of_a_header_is_named() {
    let kind = Kind::Prepared;
    assert!(matches!(sealed(kind, |f| f[0] = b'G'), Err(FrameError::Magic { found: [b'G', ..] })));
    assert!(matches!(sealed(kind, |f| f[4] = 9), Err(FrameError::Version { found: 9, known: 4 })));
    assert!(matches!(sealed(kind, |f| f[6] = 0), Err(FrameError::Kind { found: 0 })));
    assert!(matches!(sealed(kind, |f| f[6] = 200), Err(FrameError::Kind { found: 200 })));
    assert!(matches!(sealed(kind, |f| f[8] ^= 1), Err(FrameError::WrongCluster { expected: CLUSTER, .. })));
    assert!(matches!(sealed(kind, |f| f[27] = 0xff), Err(FrameError::TooLong { what: "body", .. })));
    assert!(matches!(sealed(kind, |f| f[28] = 1), Err(FrameError::TooLong { what: "payload", most: 0, .. })));
    assert!(matches!(sealed(kind, |f| f[32] = 1), Err(FrameError::Reserved { .. })));
    assert!(matches!(sealed(kind, |f| f[40] = 1), Err(FrameError::Reserved { .. })));
    assert!(matches!(sealed(kind, |f| f[511] = 1), Err(FrameError::Reserved { .. })));
}

#[test]
fn each_fault_of_a_body_is_named() {
    let outcome_at = HEADER_BYTES + 8 + 4 + 12 + 8;
    assert!(matches!(
        sealed(Kind::Prepared, |f| f[outcome_at] = 99),
        Err(FrameError::Tag { kind: Kind::Prepared, what: "outcome", value: 99 })
    ));
    let cut = |f: &mut [u8]| {
        f[24] -= 1;
        f[HEADER_BYTES + usize::from(f[24])] = 0;
    };
    assert!(matches!(sealed(Kind::CreditGrant, cut), Err(FrameError::Short { .. })));
    assert!(matches!(sealed(Kind::CreditGrant, |f| f[24] += 1), Err(FrameError::Trailing { left: 1, .. })));
    // The count of `pgs`, behind the clock.
    let count_at = HEADER_BYTES + 8;
    let counted = |f: &mut [u8]| f[count_at..count_at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(sealed(Kind::LeaseRequest, counted), Err(FrameError::List { .. })));
}

#[test]
fn damage_is_caught_by_a_checksum() {
    let mut frame = frame_of(&message(Kind::Prepared, &mut Rng::new(1)));
    frame[HEADER_BYTES + 3] ^= 4;
    assert!(matches!(decode(&frame), Err(FrameError::Checksum { what: "header and body", .. })));
    let mut rng = Rng::new(2);
    let mut frame = loop {
        let frame = frame_of(&message(Kind::FetchReply, &mut rng));
        if frame.len() > FRAME_ALIGN {
            break frame;
        }
    };
    frame[FRAME_ALIGN + 1000] ^= 1;
    assert!(matches!(decode(&frame), Err(FrameError::Checksum { what: "payload", .. })));
}

#[test]
fn a_payload_that_contradicts_its_message_is_refused() {
    let mut rng = Rng::new(5);
    for kind in [Kind::IoReply, Kind::OverReply, Kind::OverRequest, Kind::Prepare, Kind::Push, Kind::FetchReply] {
        let sent = message(kind, &mut rng);
        let changed = match sent {
            Message::IoReply(m) => Message::IoReply(crate::IoReply { payload: vec![0; 512].into(), ..m }),
            Message::OverReply(m) => {
                let reply = crate::IoReply { payload: vec![0; 512].into(), ..m.reply };
                Message::OverReply(crate::OverReply { reply, ..m })
            }
            Message::OverRequest(m) => Message::OverRequest(crate::OverRequest { base: vec![Crc(0); 3], ..m }),
            Message::Prepare(m) => Message::Prepare(crate::Prepare { payload: vec![0; 512].into(), ..m }),
            Message::Push(m) => Message::Push(crate::Push { payload: vec![0; 512].into(), ..m }),
            Message::FetchReply(m) => Message::FetchReply(crate::FetchReply { payload: vec![0; 512].into(), ..m }),
            other => other,
        };
        assert!(matches!(decode(&frame_of(&changed)), Err(FrameError::Contradiction { .. })), "{kind:?}");
    }
}

#[test]
fn strangers_may_say_nothing_but_a_hello_and_that_of_any_cluster() {
    let mut rng = Rng::new(6);
    let other = frame_of(&message(Kind::Commit, &mut rng));
    let refused = decode_all(&mut Decoder::greeting_first(CLUSTER), &other, usize::MAX);
    assert_eq!(refused, Err(FrameError::NotGreeted { kind: Kind::Commit }));

    let mut decoder = Decoder::greeting_first(ClusterId(1));
    let hello = frame_of(&message(Kind::Hello, &mut rng));
    assert_eq!(decode_all(&mut decoder, &hello, usize::MAX).map(|m| m.len()), Ok(1));
    let foreign = decode_all(&mut decoder, &other, usize::MAX);
    assert!(matches!(foreign, Err(FrameError::WrongCluster { found: CLUSTER, .. })));

    let long = sealed(Kind::Hello, |f| f[24..28].copy_from_slice(&(MAX_BODY_BYTES as u32).to_le_bytes()));
    assert!(matches!(long, Err(FrameError::TooLong { kind: Kind::Hello, .. })));
}

#[test]
fn no_change_of_a_frame_makes_the_decoder_panic_or_hold_much() {
    for seed in 0..20_000 {
        let mut rng = Rng::new(seed);
        let kind = *rng.pick(&Kind::ALL);
        let mut frame = frame_of(&message(kind, &mut rng));
        let covered = (frame.len() as u64).min(FRAME_ALIGN as u64);
        for _ in 0..1 + rng.below(4) {
            let at = rng.below(covered) as usize;
            frame[at] = match rng.below(3) {
                0 => 0xff,
                1 => frame[at] ^ (1 << rng.below(8)),
                _ => rng.next() as u8,
            };
        }
        if rng.below(4) != 0 {
            seal(&mut frame);
        }
        if rng.below(4) == 0 {
            frame.truncate(rng.below(frame.len() as u64) as usize);
        }
        let mut decoder = Decoder::new(CLUSTER);
        let piece = 1 + rng.below(5000) as usize;
        // Whatever is taken for a message must have one encoding only (F3).
        for message in decode_all(&mut decoder, &frame, piece).unwrap_or_default() {
            let again = decode(&frame_of(&message)).expect("what was decoded can be encoded");
            assert_eq!(again, [message]);
        }
        // And what aligning it to a page takes.
        assert!(decoder.buffer().capacity() <= (frame.len() * 4).max(64 << 10) + 4096, "seed {seed}");
    }
}

#[test]
fn noise_is_refused() {
    for seed in 0..5_000 {
        let mut rng = Rng::new(seed);
        let bytes: Vec<u8> = (0..HEADER_BYTES as u64 + rng.below(2000)).map(|_| rng.next() as u8).collect();
        assert!(decode(&bytes).is_err());
    }
}
