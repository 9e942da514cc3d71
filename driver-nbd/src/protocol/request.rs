//! Requests of the transmission phase: decoding, and which are refused before they reach the device.

use super::handshake::Violation;
use super::option::Contexts;
use super::spec::*;

/// What a request asks of the device. FUA is not among it: a write that has completed is durable (R1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Read,
    Write,
    Flush,
    Trim,
    /// `keep_allocated`: `NBD_CMD_FLAG_NO_HOLE`.
    WriteZeroes {
        keep_allocated: bool,
    },
    /// `one`: `NBD_CMD_FLAG_REQ_ONE`.
    BlockStatus {
        one: bool,
        contexts: Contexts,
    },
}

/// A request, and what its reply needs to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client's own number, sent back with the reply ("cookie", in older texts "handle").
    pub cookie: u64,
    pub command: Command,
    pub offset: u64,
    pub len: u32,
}

/// Why a request failed, in the protocol's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One of the specification's "Error values".
    pub error: u32,
    /// For people; sent where structured replies were negotiated.
    pub message: std::borrow::Cow<'static, str>,
}

impl Failure {
    pub const fn new(error: u32, message: &'static str) -> Failure {
        Failure { error, message: std::borrow::Cow::Borrowed(message) }
    }
}

/// A request as it stood on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub flags: u16,
    pub kind: u16,
    pub cookie: u64,
    pub offset: u64,
    pub len: u32,
}

impl Header {
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Result<Header, Violation> {
        let number = |from: usize, to: usize| bytes[from..to].iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        if number(0, 4) != u64::from(NBD_REQUEST_MAGIC) {
            return Err(Violation::RequestMagic(number(0, 4) as u32));
        }
        Ok(Header {
            flags: number(4, 6) as u16,
            kind: number(6, 8) as u16,
            cookie: number(8, 16),
            offset: number(16, 24),
            len: number(24, 28) as u32,
        })
    }

    /// Bytes that follow the header, whatever becomes of the request.
    pub fn payload_bytes(&self) -> u32 {
        if self.kind == NBD_CMD_WRITE { self.len } else { 0 }
    }

    /// The request to answer, for a kind that exists and flags that are "documented for the particular command".
    pub fn command(&self, structured: bool, contexts: Contexts) -> Result<Command, Failure> {
        let (command, flags) = match self.kind {
            // "Clients MUST NOT set `NBD_CMD_FLAG_DF` unless [`NBD_FLAG_SEND_DF`] is set".
            NBD_CMD_READ => (Command::Read, if structured { NBD_CMD_FLAG_DF } else { 0 }),
            NBD_CMD_WRITE => (Command::Write, 0),
            NBD_CMD_FLUSH => (Command::Flush, 0),
            NBD_CMD_TRIM => (Command::Trim, 0),
            NBD_CMD_WRITE_ZEROES => (
                Command::WriteZeroes { keep_allocated: self.flags & NBD_CMD_FLAG_NO_HOLE != 0 },
                NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
            ),
            NBD_CMD_BLOCK_STATUS if !contexts.is_empty() => {
                let one = self.flags & NBD_CMD_FLAG_REQ_ONE != 0;
                (Command::BlockStatus { one, contexts }, NBD_CMD_FLAG_REQ_ONE)
            }
            NBD_CMD_BLOCK_STATUS => {
                return Err(Failure::new(NBD_EINVAL, "block status was asked for without a negotiated context"));
            }
            _ => return Err(Failure::new(NBD_EINVAL, "unknown command")),
        };
        // `NBD_CMD_FLAG_FUA`: "the server MUST accept all commands with this bit set (even by ignoring the bit)".
        if self.flags & !(flags | NBD_CMD_FLAG_FUA) != 0 {
            return Err(Failure::new(NBD_EINVAL, "unknown or misplaced command flag"));
        }
        Ok(command)
    }
}

/// What of a request does not depend on the device's size.
pub(super) fn check(header: &Header, command: Command, read_only: bool) -> Result<(), Failure> {
    let writes = matches!(command, Command::Write | Command::Trim | Command::WriteZeroes { .. });
    if read_only && writes {
        return Err(Failure::new(NBD_EPERM, "the export is read-only"));
    }
    match command {
        Command::Read if header.len > PAYLOAD_BYTES_MAX => {
            // "SHOULD NOT return `NBD_EOVERFLOW` except [..] when `NBD_CMD_FLAG_DF`".
            let error = if header.flags & NBD_CMD_FLAG_DF != 0 { NBD_EOVERFLOW } else { NBD_EINVAL };
            Err(Failure::new(error, "a read of more than 32 MiB"))
        }
        Command::Write if header.len > PAYLOAD_BYTES_MAX => {
            Err(Failure::new(NBD_EINVAL, "a write of more than 32 MiB"))
        }
        Command::Flush if header.len != 0 || header.offset != 0 => {
            Err(Failure::new(NBD_EINVAL, "a flush has no offset and no length"))
        }
        Command::BlockStatus { .. } if header.len == 0 => {
            Err(Failure::new(NBD_EINVAL, "the status of nothing was asked for"))
        }
        // The device does not say how fast it zeroes a range, so we never promise it ("`NBD_FLAG_SEND_FAST_ZERO`":
        // "even if it will always use `NBD_ENOTSUP` failures").
        Command::WriteZeroes { .. } if header.flags & NBD_CMD_FLAG_FAST_ZERO != 0 => {
            Err(Failure::new(NBD_ENOTSUP, "zeroing is not known to be faster than writing"))
        }
        _ => Ok(()),
    }
}

/// What a request gets that reaches past the end ("Error values").
pub(crate) fn past_the_end(command: Command) -> Failure {
    match command {
        Command::Write | Command::WriteZeroes { .. } => Failure::new(NBD_ENOSPC, "past the end of the export"),
        _ => Failure::new(NBD_EINVAL, "past the end of the export"),
    }
}
