//! The event log that `--trace` prints.

use crate::clock::Instant;
use ashlar_wire::Message;
use bytes::Bytes;

#[derive(Debug)]
pub struct Trace {
    is_on: bool,
}

impl Trace {
    pub fn new(is_on: bool) -> Trace {
        Trace { is_on }
    }

    pub fn line(&mut self, now: Instant, line: impl FnOnce() -> String) {
        if self.is_on {
            println!("{:>6}.{:06} {}", now / 1_000_000, now % 1_000_000, line());
        }
    }
}

/// A message on one line, without its data.
pub fn brief(message: &Message) -> String {
    let mut message = message.clone();
    match &mut message {
        Message::IoRequest(m) => (m.payload, m.crcs) = (Bytes::new(), Vec::new()),
        Message::IoReply(m) => m.payload = Bytes::new(),
        Message::OverRequest(m) => (m.request.payload, m.request.crcs) = (Bytes::new(), Vec::new()),
        Message::OverReply(m) => m.reply.payload = Bytes::new(),
        Message::Prepare(m) => m.payload = Bytes::new(),
        Message::Push(m) => m.payload = Bytes::new(),
        Message::FetchReply(m) => m.payload = Bytes::new(),
        _ => {}
    }
    format!("{message:?}")
}
