//! The handshake: fixed newstyle negotiation, from the greeting to the choice of an export.
//!
//! H1: one option at a time; nothing of the next is looked at before the last one is answered.
//! H2: which metadata contexts are selected depends on the last `NBD_OPT_SET_META_CONTEXT` alone, failed ones included.
//! "Fixed newstyle negotiation", "Option types", "Option reply types".

use super::option::{self, Contexts, OptionError, Wanted};
use super::reply::clip;
use super::session::Event;
use super::spec::*;
use ashlar_types::DeviceInfo;
use bytes::{Buf, BufMut, BytesMut};

/// The client broke a rule in a way that leaves only closing the connection ("Termination of the session").
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("client flags {0:#x} hold unknown bits")]
    ClientFlags(u32),
    #[error("an option starts with {0:#x}")]
    OptionMagic(u64),
    #[error("NBD_OPT_EXPORT_NAME with {0} bytes")]
    ExportNameTooLong(u32),
    #[error("NBD_OPT_EXPORT_NAME: {0}")]
    ExportName(OptionError),
    /// The option has no way to say no.
    #[error("NBD_OPT_EXPORT_NAME: {0}")]
    ExportRefused(OpenError),
    #[error("a request starts with {0:#x}")]
    RequestMagic(u32),
    #[error("a write of {0} bytes")]
    PayloadTooLong(u32),
}

/// Why an export can't be had; the text reaches the client's user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is no such export.
    #[error("{0}")]
    Unknown(String),
    /// It exists, and may not be used this way now: attached elsewhere, for example.
    #[error("{0}")]
    Busy(String),
    /// Whether it exists can't be found out now.
    #[error("{0}")]
    Unavailable(String),
    #[error("the server is shutting down")]
    ShuttingDown,
}

impl OpenError {
    fn reply_type(&self) -> u32 {
        match self {
            OpenError::Unknown(_) => NBD_REP_ERR_UNKNOWN,
            OpenError::Busy(_) | OpenError::Unavailable(_) => NBD_REP_ERR_POLICY,
            OpenError::ShuttingDown => NBD_REP_ERR_SHUTDOWN,
        }
    }
}

/// What the handshake settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub structured: bool,
    pub contexts: Contexts,
    pub read_only: bool,
    pub size: u64,
}

#[derive(Debug)]
enum Stage {
    ClientFlags,
    Option,
    /// Data too long to look at: `left` bytes of it are still to come, then `option` is refused.
    Skip {
        option: u32,
        left: u32,
    },
    /// The shell was asked for the list of exports.
    Listing,
    /// The shell was asked for the export.
    Opening {
        name: String,
        purpose: Purpose,
    },
}

#[derive(Debug)]
enum Purpose {
    ExportName,
    Info { option: u32, wanted: Wanted },
    MetaContext { option: u32, matched: Contexts },
}

#[derive(Debug)]
pub(super) struct Handshake {
    stage: Stage,
    send_zeroes: bool,
    structured: bool,
    /// The contexts that were selected last, and for which export.
    selected: Option<(String, Contexts)>,
}

impl Handshake {
    /// Starts with the server's greeting.
    pub fn new(out: &mut BytesMut) -> Handshake {
        out.put_u64(NBDMAGIC);
        out.put_u64(IHAVEOPT);
        out.put_u16(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
        Handshake { stage: Stage::ClientFlags, send_zeroes: true, structured: false, selected: None }
    }

    pub fn on_bytes(
        &mut self,
        shutting_down: bool,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Event, Violation> {
        match self.stage {
            Stage::ClientFlags => self.on_client_flags(input),
            Stage::Option => self.on_option(shutting_down, input, out),
            Stage::Skip { option, left } => Ok(self.on_skipped(option, left, input, out)),
            Stage::Listing | Stage::Opening { .. } => {
                unreachable!("H1: the shell answers on_exports or on_opened before it brings more bytes")
            }
        }
    }

    fn on_client_flags(&mut self, input: &mut BytesMut) -> Result<Event, Violation> {
        if input.len() < 4 {
            return Ok(Event::Incomplete);
        }
        let flags = input.get_u32();
        // "the server MUST drop the TCP connection if the client sets an unknown flag". Without C_FIXED_NEWSTYLE we still
        // answer options as fixed newstyle does: "Servers MAY choose to honour fixed newstyle".
        if flags & !(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES) != 0 {
            return Err(Violation::ClientFlags(flags));
        }
        self.send_zeroes = flags & NBD_FLAG_C_NO_ZEROES == 0;
        self.stage = Stage::Option;
        Ok(Event::Answered)
    }

    fn on_option(&mut self, shutting_down: bool, input: &mut BytesMut, out: &mut BytesMut) -> Result<Event, Violation> {
        // A wrong magic is seen as early as possible: garbage need not be long to be refused.
        let seen = input.len().min(8);
        if input[..seen] != IHAVEOPT.to_be_bytes()[..seen] {
            let mut start = [0; 8];
            start[..seen].copy_from_slice(&input[..seen]);
            return Err(Violation::OptionMagic(u64::from_be_bytes(start)));
        }
        if input.len() < OPTION_HEADER_BYTES {
            return Ok(Event::Incomplete);
        }
        let mut header = &input[8..OPTION_HEADER_BYTES];
        let (option, len) = (header.get_u32(), header.get_u32());
        match option {
            NBD_OPT_EXPORT_NAME if len as usize > STRING_BYTES_MAX => return Err(Violation::ExportNameTooLong(len)),
            NBD_OPT_ABORT => {
                // "a server SHOULD ignore any data sent by the client"; it closes anyway, so unread.
                answer(option, NBD_REP_ACK, &[], out);
                return Ok(Event::Disconnect);
            }
            _ if len > OPTION_BYTES_MAX => {
                input.advance(OPTION_HEADER_BYTES);
                self.stage = Stage::Skip { option, left: len };
                return Ok(self.on_skipped(option, len, input, out));
            }
            _ => {}
        }
        let whole = OPTION_HEADER_BYTES + len as usize;
        if input.len() < whole {
            return Ok(Event::Incomplete);
        }
        let data = &input.split_to(whole)[OPTION_HEADER_BYTES..];
        if shutting_down {
            if option == NBD_OPT_EXPORT_NAME {
                return Err(Violation::ExportRefused(OpenError::ShuttingDown));
            }
            refuse(option, NBD_REP_ERR_SHUTDOWN, &OpenError::ShuttingDown.to_string(), out);
            return Ok(Event::Answered);
        }
        self.on_option_data(option, data, out)
    }

    fn on_option_data(&mut self, option: u32, data: &[u8], out: &mut BytesMut) -> Result<Event, Violation> {
        match option {
            NBD_OPT_EXPORT_NAME => {
                let name = option::export_name(data).map_err(Violation::ExportName)?;
                Ok(self.open(name, Purpose::ExportName))
            }
            NBD_OPT_LIST | NBD_OPT_STRUCTURED_REPLY | NBD_OPT_STARTTLS if !data.is_empty() => {
                refuse(option, NBD_REP_ERR_INVALID, "the option takes no data", out);
                Ok(Event::Answered)
            }
            NBD_OPT_LIST => {
                self.stage = Stage::Listing;
                Ok(Event::List)
            }
            NBD_OPT_STRUCTURED_REPLY => {
                self.structured = true;
                answer(option, NBD_REP_ACK, &[], out);
                Ok(Event::Answered)
            }
            NBD_OPT_INFO | NBD_OPT_GO => match option::info(data) {
                Ok((name, wanted)) => Ok(self.open(name, Purpose::Info { option, wanted })),
                Err(error) => Ok(invalid(option, &error, out)),
            },
            NBD_OPT_LIST_META_CONTEXT | NBD_OPT_SET_META_CONTEXT => Ok(self.on_meta_context(option, data, out)),
            // NBD_OPT_STARTTLS among them: "`NBD_REP_ERR_UNSUP` (if it does not support the option at all)".
            _ => {
                refuse(option, NBD_REP_ERR_UNSUP, "the option is not supported", out);
                Ok(Event::Answered)
            }
        }
    }

    fn on_meta_context(&mut self, option: u32, data: &[u8], out: &mut BytesMut) -> Event {
        if option == NBD_OPT_SET_META_CONTEXT {
            self.selected = None; // H2
        }
        if !self.structured {
            refuse(option, NBD_REP_ERR_INVALID, "structured replies must be negotiated first", out);
            return Event::Answered;
        }
        match option::meta_context(option, data) {
            Ok((name, matched)) => self.open(name, Purpose::MetaContext { option, matched }),
            Err(error) => invalid(option, &error, out),
        }
    }

    fn on_skipped(&mut self, option: u32, left: u32, input: &mut BytesMut, out: &mut BytesMut) -> Event {
        let here = left.min(u32::try_from(input.len()).unwrap_or(u32::MAX));
        input.advance(here as usize);
        let left = left - here;
        if left > 0 {
            self.stage = Stage::Skip { option, left };
            return Event::Incomplete;
        }
        self.stage = Stage::Option;
        match option {
            NBD_OPT_LIST | NBD_OPT_STRUCTURED_REPLY | NBD_OPT_STARTTLS => {
                refuse(option, NBD_REP_ERR_INVALID, "the option takes no data", out);
            }
            NBD_OPT_INFO | NBD_OPT_GO | NBD_OPT_LIST_META_CONTEXT | NBD_OPT_SET_META_CONTEXT => {
                if option == NBD_OPT_SET_META_CONTEXT {
                    self.selected = None; // H2
                }
                refuse(option, NBD_REP_ERR_TOO_BIG, "the option's data is too long", out);
            }
            _ => refuse(option, NBD_REP_ERR_UNSUP, "the option is not supported", out),
        }
        Event::Answered
    }

    fn open(&mut self, name: String, purpose: Purpose) -> Event {
        self.stage = Stage::Opening { name: name.clone(), purpose };
        Event::Open(name)
    }

    /// The answer to [`Event::List`]: names and descriptions.
    pub fn on_exports<'a>(
        &mut self,
        exports: Result<impl Iterator<Item = (&'a str, &'a str)>, OpenError>,
        out: &mut BytesMut,
    ) {
        assert!(matches!(self.stage, Stage::Listing), "H1");
        self.stage = Stage::Option;
        let exports = match exports {
            Ok(exports) => exports,
            Err(error) => return refuse(NBD_OPT_LIST, error.reply_type(), &error.to_string(), out),
        };
        for (name, description) in exports {
            let (name, description) = (clip(name, STRING_BYTES_MAX), clip(description, STRING_BYTES_MAX));
            let length = (name.len() as u32).to_be_bytes();
            answer(NBD_OPT_LIST, NBD_REP_SERVER, &[&length, name.as_bytes(), description.as_bytes()], out);
        }
        answer(NBD_OPT_LIST, NBD_REP_ACK, &[], out);
    }

    /// The answer to [`Event::Open`]. `Some` enters the transmission phase.
    pub fn on_opened(
        &mut self,
        opened: Result<&DeviceInfo, OpenError>,
        out: &mut BytesMut,
    ) -> Result<Option<Settled>, Violation> {
        let Stage::Opening { name, purpose } = std::mem::replace(&mut self.stage, Stage::Option) else {
            unreachable!("H1: an export was opened that nobody asked for");
        };
        let info = match (opened, &purpose) {
            (Ok(info), _) => info,
            (Err(refusal), Purpose::ExportName) => return Err(Violation::ExportRefused(refusal)),
            (Err(refusal), Purpose::Info { option, .. } | Purpose::MetaContext { option, .. }) => {
                refuse(*option, refusal.reply_type(), &refusal.to_string(), out);
                return Ok(None);
            }
        };
        let flags = self.transmission_flags(info);
        let settled = Settled {
            structured: self.structured,
            contexts: self
                .selected
                .iter()
                .find(|(of, _)| *of == name)
                .map(|(_, contexts)| *contexts)
                .unwrap_or_default(),
            read_only: info.read_only,
            size: info.size,
        };
        match purpose {
            Purpose::ExportName => {
                out.put_u64(info.size);
                out.put_u16(flags);
                out.put_bytes(0, if self.send_zeroes { 124 } else { 0 });
                Ok(Some(settled))
            }
            Purpose::Info { option, wanted } => {
                describe(option, &name, wanted, info, flags, out);
                answer(option, NBD_REP_ACK, &[], out);
                Ok((option == NBD_OPT_GO).then_some(settled))
            }
            Purpose::MetaContext { option, matched } => {
                let set = option == NBD_OPT_SET_META_CONTEXT;
                for (context, id) in matched.iter() {
                    let id = if set { id } else { 0 }; // in a list "reserved and SHOULD be set to zero"
                    answer(option, NBD_REP_META_CONTEXT, &[&id.to_be_bytes(), context.as_bytes()], out);
                }
                if set && !matched.is_empty() {
                    self.selected = Some((name, matched));
                }
                answer(option, NBD_REP_ACK, &[], out);
                Ok(None)
            }
        }
    }

    /// `NBD_FLAG_CAN_MULTI_CONN`: a flush covers what completed on any connection, and completed writes are seen by all;
    /// `BlockDevice` promises both.
    fn transmission_flags(&self, info: &DeviceInfo) -> u16 {
        let changes = if info.read_only {
            NBD_FLAG_READ_ONLY
        } else {
            NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO
        };
        // "MUST leave this flag clear if structured replies have not been negotiated".
        let fragments = if self.structured { NBD_FLAG_SEND_DF } else { 0 };
        NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_CAN_MULTI_CONN | changes | fragments
    }
}

/// The `NBD_REP_INFO` replies of `NBD_OPT_INFO` and `NBD_OPT_GO`.
fn describe(option: u32, name: &str, wanted: Wanted, info: &DeviceInfo, flags: u16, out: &mut BytesMut) {
    let mut tell = |kind: u16, parts: [&[u8]; 3]| {
        answer(option, NBD_REP_INFO, &[&kind.to_be_bytes(), parts[0], parts[1], parts[2]], out);
    };
    tell(NBD_INFO_EXPORT, [&info.size.to_be_bytes(), &flags.to_be_bytes(), &[]]);
    if wanted.name && !name.is_empty() {
        tell(NBD_INFO_NAME, [name.as_bytes(), &[], &[]]);
    }
    if wanted.description && !info.description.is_empty() {
        tell(NBD_INFO_DESCRIPTION, [clip(&info.description, STRING_BYTES_MAX).as_bytes(), &[], &[]]);
    }
    if wanted.block_size {
        let (min, preferred, max) = (BLOCK_SIZE_MIN, BLOCK_SIZE_PREFERRED, PAYLOAD_BYTES_MAX);
        tell(NBD_INFO_BLOCK_SIZE, [&min.to_be_bytes(), &preferred.to_be_bytes(), &max.to_be_bytes()]);
    }
}

fn invalid(option: u32, error: &OptionError, out: &mut BytesMut) -> Event {
    refuse(option, NBD_REP_ERR_INVALID, &error.to_string(), out);
    Event::Answered
}

/// "All error replies MAY have some data set, in which case that data is an error message string".
fn refuse(option: u32, reply_type: u32, message: &str, out: &mut BytesMut) {
    answer(option, reply_type, &[clip(message, STRING_BYTES_MAX).as_bytes()], out);
}

/// An option reply, its data in parts.
fn answer(option: u32, reply_type: u32, parts: &[&[u8]], out: &mut BytesMut) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.put_u64(NBD_OPT_REPLY_MAGIC);
    out.put_u32(option);
    out.put_u32(reply_type);
    out.put_u32(u32::try_from(len).expect("two strings of at most 4096 bytes and a few numbers"));
    for part in parts {
        out.extend_from_slice(part);
    }
}
