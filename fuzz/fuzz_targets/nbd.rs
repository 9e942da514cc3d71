//! What an NBD client sends, from its flags to the last request, in pieces of any length.
#![no_main]

use ashlar_driver_nbd::Session;
use ashlar_driver_nbd::protocol::{Event, OpenError};
use ashlar_types::DeviceInfo;
use bytes::{Buf, BytesMut};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((piece, data)) = data.split_first() else { return };
    let piece = usize::from(*piece).max(1);
    let info = DeviceInfo { size: 1 << 20, read_only: piece.is_multiple_of(5), description: "a disk".to_owned() };
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    let mut session = Session::new(&mut out);
    // What passes by as the payload of a write, on its way to the device.
    let mut payload = 0;
    for bytes in data.chunks(piece) {
        input.extend_from_slice(bytes);
        loop {
            if payload > 0 {
                let passes = payload.min(input.len());
                input.advance(passes);
                payload -= passes;
                if payload > 0 {
                    break;
                }
                session.on_payload();
            }
            out.clear();
            let Ok(event) = session.on_bytes(&mut input, &mut out) else { return };
            match event {
                Event::Incomplete => break,
                Event::Answered | Event::Request(_) | Event::Empty(_) | Event::Refused { .. } => {}
                Event::List => session.on_exports(Ok([("disk", "a disk"), ("", "")].into_iter()), &mut out),
                Event::Open(name) if name == "disk" || name.is_empty() => {
                    if session.on_opened(Ok(&info), &mut out).is_err() {
                        return;
                    }
                }
                Event::Open(name) => {
                    if session.on_opened(Err(OpenError::Unknown(name)), &mut out).is_err() {
                        return;
                    }
                }
                Event::Size => session.on_size(info.size),
                Event::Payload(request) => {
                    payload = request.len as usize;
                    assert!(payload > 0, "a payload is not empty");
                }
                Event::Disconnect => return,
            }
        }
    }
});
