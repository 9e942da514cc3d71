//! Random requests, many at a time, against a vector of bytes.

mod support;
use ashlar_driver_nbd::Limits;
use ashlar_driver_nbd::memory::Completing;
use ashlar_driver_nbd::protocol::spec::*;
use std::collections::BTreeMap;
use support::raw::{Raw, request};
use support::{Dice, Running};

const SIZE: u64 = 256 << 10;

/// What a request's reply must be: its error, and the bytes of a read.
struct Expected {
    error: u32,
    data: Vec<u8>,
}

/// One random request: its bytes on the wire, and its effect on the model, in the order of submission.
fn step(dice: &mut Dice, model: &mut [u8], cookie: u64) -> (Vec<u8>, Expected) {
    let kind = [NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLUSH][dice.below(5) as usize];
    let align = [1, 512, 4096][dice.below(3) as usize];
    let mut len = dice.below(40_000) / align * align;
    let mut offset = dice.below(SIZE) / align * align;
    if kind == NBD_CMD_FLUSH {
        (offset, len) = (0, 0);
    } else if offset + len > SIZE && dice.below(4) > 0 {
        len = SIZE - offset; // the rest reaches past the end
    }
    let flags = if dice.below(4) == 0 { NBD_CMD_FLAG_FUA } else { 0 };
    let mut bytes = request(flags, kind, cookie, offset, len as u32);
    let payload = if kind == NBD_CMD_WRITE { dice.bytes(len as usize) } else { Vec::new() };
    bytes.extend(&payload);
    let Some(range) = model.get_mut(offset as usize..(offset + len) as usize) else {
        let error = if matches!(kind, NBD_CMD_WRITE | NBD_CMD_WRITE_ZEROES) { NBD_ENOSPC } else { NBD_EINVAL };
        return (bytes, Expected { error, data: Vec::new() });
    };
    match kind {
        NBD_CMD_READ => return (bytes, Expected { error: 0, data: range.to_vec() }),
        NBD_CMD_WRITE => range.copy_from_slice(&payload),
        NBD_CMD_TRIM | NBD_CMD_WRITE_ZEROES => range.fill(0),
        _ => {}
    }
    (bytes, Expected { error: 0, data: Vec::new() })
}

#[test]
fn every_reply_is_the_models_whatever_the_order_of_completions() {
    for seed in 0..20 {
        let running = Running::new(Limits { requests_max: 1 + seed as usize * 3, ..Limits::default() });
        let completing = if seed % 4 == 0 { Completing::AtOnce } else { Completing::Later { seed } };
        let device = running.add("disk", SIZE, false, completing);
        let mut client = Raw::open(&running, "disk");
        let mut dice = Dice(seed);
        let mut model = vec![0; SIZE as usize];
        let mut cookie = 0;
        for _ in 0..30 {
            let mut sending = Vec::new();
            let mut expected = BTreeMap::new();
            for _ in 0..1 + dice.below(40) {
                cookie += 1;
                let (bytes, reply) = step(&mut dice, &mut model, cookie);
                sending.extend(bytes);
                expected.insert(cookie, reply);
            }
            let mut sender = client.socket.try_clone().expect("a socket");
            // Beside the reading, since neither side takes unlimited amounts.
            let sender = std::thread::spawn(move || std::io::Write::write_all(&mut sender, &sending));
            while !expected.is_empty() {
                let (error, cookie) = client.reply();
                let reply = expected.remove(&cookie).unwrap_or_else(|| panic!("seed {seed}: cookie {cookie} again"));
                assert_eq!(error, reply.error, "seed {seed}, cookie {cookie}");
                assert!(client.receive(reply.data.len()) == reply.data, "seed {seed}, cookie {cookie}: other bytes");
            }
            sender.join().expect("it does not panic").expect("the server reads");
        }
        assert!(device.contents(0, SIZE as usize) == model, "seed {seed}");
    }
}
