//! Replies of the transmission phase. A `ReplyStyle` is what the handshake settled about them; it is copied to whoever
//! writes replies, so that the reading and the writing side of a connection share no state of the protocol.

use super::request::{Command, Failure, Request, past_the_end};
use super::spec::*;
use ashlar_types::{BlockError, Extent, LayerExtent};
use bytes::{BufMut, BytesMut};

/// Longest error text sent; the specification would allow 4096.
const MESSAGE_BYTES_MAX: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyStyle {
    pub structured: bool,
}

impl ReplyStyle {
    /// The answer to anything but a successful read of at least a byte or block status.
    pub fn done(self, request: &Request, out: &mut BytesMut) {
        if self.structured && request.command == Command::Read {
            chunk(NBD_REPLY_TYPE_NONE, NBD_REPLY_FLAG_DONE, request.cookie, 0, out); // "MUST NOT use a simple reply for `NBD_CMD_READ`"
        } else {
            simple(0, request.cookie, out);
        }
    }

    /// What stands before the `request.len` bytes of a successful read. One chunk holds them all, so a read is never
    /// fragmented, asked (`NBD_CMD_FLAG_DF`) or not; and they are in hand, so that the chunk may be the final one.
    pub fn data_header(self, request: &Request, out: &mut BytesMut) {
        if self.structured {
            chunk(NBD_REPLY_TYPE_OFFSET_DATA, NBD_REPLY_FLAG_DONE, request.cookie, 8 + request.len, out);
            out.put_u64(request.offset);
        } else {
            simple(0, request.cookie, out);
        }
    }

    /// `NBD_REPLY_TYPE_BLOCK_STATUS` of `base:allocation`. `extents` start at the request's offset; what reaches past its end is cut.
    pub fn block_status(self, request: &Request, extents: &[Extent], out: &mut BytesMut) {
        let flags = |extent: &Extent| (extent.len, allocation(extent.allocated, extent.zero));
        self.one_status(request, BASE_ALLOCATION_ID, NBD_REPLY_FLAG_DONE, extents.iter().map(flags), out);
    }

    /// The same of each context that was selected: "the server MUST send one chunk [..] for each".
    pub fn layers_status(self, request: &Request, extents: &[LayerExtent], out: &mut BytesMut) {
        let Command::BlockStatus { contexts, .. } = request.command else {
            unreachable!("the answer to a block status")
        };
        let last = contexts.iter().last().map(|(_, id)| id);
        for (_, id) in contexts.iter() {
            let done = if Some(id) == last { NBD_REPLY_FLAG_DONE } else { 0 };
            let flags = |extent: &LayerExtent| match id {
                ALLOCATION_DEPTH_ID => (extent.len, extent.layer.map_or(0, |layer| layer.depth.saturating_add(1))),
                _ => (extent.len, allocation(extent.has_data, !extent.has_data)),
            };
            self.one_status(request, id, done, extents.iter().map(flags), out);
        }
    }

    /// Lengths and what is said of each; equal neighbours become one.
    fn one_status(
        self,
        request: &Request,
        context: u32,
        done: u16,
        extents: impl Iterator<Item = (u64, u32)>,
        out: &mut BytesMut,
    ) {
        assert!(self.structured, "P2: block status is refused without structured replies");
        let one = matches!(request.command, Command::BlockStatus { one: true, .. });
        let descriptors_max = if one { 1 } else { DESCRIPTORS_MAX };
        let mut left = request.len;
        let mut descriptors: Vec<(u32, u32)> = Vec::new();
        for (len, flags) in extents {
            let len = u32::try_from(len).unwrap_or(u32::MAX).min(left);
            left -= len;
            let is_full = descriptors.len() == descriptors_max;
            match descriptors.last_mut() {
                _ if len == 0 => {}
                Some((last_len, last_flags)) if *last_flags == flags => *last_len += len,
                _ if is_full => break,
                _ => descriptors.push((len, flags)),
            }
        }
        assert!(!descriptors.is_empty(), "a device describes at least a byte of a range");
        let len = u32::try_from(4 + 8 * descriptors.len()).expect("at most DESCRIPTORS_MAX of them");
        chunk(NBD_REPLY_TYPE_BLOCK_STATUS, done, request.cookie, len, out);
        out.put_u32(context);
        for (len, flags) in descriptors {
            out.put_u32(len);
            out.put_u32(flags);
        }
    }

    /// "The server SHOULD prefer sending errors via a structured reply, as the error can then be accompanied by a string".
    pub fn failure(self, cookie: u64, failure: &Failure, out: &mut BytesMut) {
        if !self.structured {
            return simple(failure.error, cookie, out);
        }
        let message = clip(&failure.message, MESSAGE_BYTES_MAX);
        chunk(NBD_REPLY_TYPE_ERROR, NBD_REPLY_FLAG_DONE, cookie, 6 + message.len() as u32, out);
        out.put_u32(failure.error);
        out.put_u16(message.len() as u16);
        out.extend_from_slice(message.as_bytes());
    }
}

/// "Simple reply message".
fn simple(error: u32, cookie: u64, out: &mut BytesMut) {
    out.put_u32(NBD_SIMPLE_REPLY_MAGIC);
    out.put_u32(error);
    out.put_u64(cookie);
}

/// Flags of `base:allocation`.
fn allocation(allocated: bool, zero: bool) -> u32 {
    let (hole, zero) = (if allocated { 0 } else { NBD_STATE_HOLE }, if zero { NBD_STATE_ZERO } else { 0 });
    hole | zero
}

/// The head of a "Structured reply chunk message".
fn chunk(kind: u16, done: u16, cookie: u64, len: u32, out: &mut BytesMut) {
    out.put_u32(NBD_STRUCTURED_REPLY_MAGIC);
    out.put_u16(done);
    out.put_u16(kind);
    out.put_u64(cookie);
    out.put_u32(len);
}

/// The longest beginning of `text` that has at most `max` bytes.
pub(super) fn clip(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl Failure {
    /// The device's refusals in the protocol's words.
    pub fn from_device(error: &BlockError, command: Command) -> Failure {
        let code = match error {
            BlockError::NoSpace => NBD_ENOSPC,
            BlockError::ReadOnly => NBD_EPERM,
            BlockError::OutOfRange => return past_the_end(command),
            // Not ESHUTDOWN: a client may come back after that, and find the same.
            BlockError::Fenced | BlockError::Medium { .. } | BlockError::Written => NBD_EIO,
            BlockError::ShuttingDown => NBD_ESHUTDOWN,
        };
        Failure { error: code, message: error.to_string().into() }
    }
}
