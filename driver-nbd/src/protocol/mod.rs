//! The protocol core: a [`Session`] per connection. Bytes in, [`Event`]s and bytes out; no I/O, no clock, no async.
//!
//! P1: nothing is allocated from a length that the client chose before that length was checked against a constant.
//! P2: each request of the transmission phase gets exactly one reply, and carries its cookie until then.
//! P3: no input panics. What breaks framing is a [`Violation`], after which nothing more is read.
//!
//! Called by `server::connection` (the handshake), `server::reader` (requests) and `server::writer` (replies).

mod handshake;
mod option;
mod reply;
mod request;
mod session;
pub mod spec;

#[cfg(test)]
mod tests;

pub use handshake::{OpenError, Violation};
pub use option::{Contexts, OptionError};
pub use reply::ReplyStyle;
pub use request::{Command, Failure, Request};
pub use session::{Event, Session};
