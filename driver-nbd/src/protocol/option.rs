//! Option data: what stands between an option's header and the next. Trusts no length inside it.

use super::spec::{
    ALLOCATION_DEPTH, ALLOCATION_DEPTH_ID, BASE_ALLOCATION, BASE_ALLOCATION_ID, NBD_INFO_BLOCK_SIZE,
    NBD_INFO_DESCRIPTION, NBD_INFO_NAME, NBD_OPT_LIST_META_CONTEXT, STRING_BYTES_MAX,
};

/// Why option data was refused; the text goes to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error("the option's data ends too early")]
    Short,
    #[error("the option's data goes on after its end")]
    Long,
    #[error("a string has more than 4096 bytes")]
    StringTooLong,
    #[error("an export's name must be UTF-8 without NUL")]
    Name,
}

/// What `NBD_OPT_INFO` and `NBD_OPT_GO` ask to be told, beside `NBD_INFO_EXPORT`, which everyone is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub name: bool,
    pub description: bool,
    pub block_size: bool,
}

/// Metadata contexts: those that a client asks for, or that it gets with each block status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contexts {
    /// `base:allocation`
    pub allocation: bool,
    /// `qemu:allocation-depth`
    pub depth: bool,
}

impl Contexts {
    pub fn is_empty(self) -> bool {
        self == Contexts::default()
    }

    /// Names and ids.
    pub fn iter(self) -> impl Iterator<Item = (&'static str, u32)> {
        let all = [
            (self.allocation, (BASE_ALLOCATION, BASE_ALLOCATION_ID)),
            (self.depth, (ALLOCATION_DEPTH, ALLOCATION_DEPTH_ID)),
        ];
        all.into_iter().filter_map(|(is_in, context)| is_in.then_some(context))
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], OptionError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(OptionError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, OptionError> {
        self.take(2).map(|bytes| bytes.iter().fold(0, |value, byte| value << 8 | u16::from(*byte)))
    }

    fn u32(&mut self) -> Result<u32, OptionError> {
        self.take(4).map(|bytes| bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    fn string(&mut self) -> Result<&'a [u8], OptionError> {
        let len = self.u32()? as usize;
        if len > STRING_BYTES_MAX {
            return Err(if len > self.0.len() { OptionError::Short } else { OptionError::StringTooLong });
        }
        self.take(len)
    }

    fn end(&self) -> Result<(), OptionError> {
        if self.0.is_empty() { Ok(()) } else { Err(OptionError::Long) }
    }
}

/// "Conventions": UTF-8, no `NUL`, at most 4096 bytes.
pub fn export_name(bytes: &[u8]) -> Result<String, OptionError> {
    if bytes.len() > STRING_BYTES_MAX {
        return Err(OptionError::StringTooLong);
    }
    match std::str::from_utf8(bytes) {
        Ok(name) if !name.contains('\0') => Ok(name.to_owned()),
        _ => Err(OptionError::Name),
    }
}

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
pub fn info(data: &[u8]) -> Result<(String, Wanted), OptionError> {
    let mut cursor = Cursor(data);
    let name = export_name(cursor.string()?)?;
    let mut wanted = Wanted::default();
    for _ in 0..cursor.u16()? {
        match cursor.u16()? {
            NBD_INFO_NAME => wanted.name = true,
            NBD_INFO_DESCRIPTION => wanted.description = true,
            NBD_INFO_BLOCK_SIZE => wanted.block_size = true,
            _ => {} // "The server MUST ignore any information requests it does not understand."
        }
    }
    cursor.end()?;
    Ok((name, wanted))
}

/// The data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`: the export, and the contexts that a query matches. Queries of other
/// namespaces, and of other leaves of ours, select nothing ("Metadata querying").
pub fn meta_context(option: u32, data: &[u8]) -> Result<(String, Contexts), OptionError> {
    let listing = option == NBD_OPT_LIST_META_CONTEXT;
    let mut cursor = Cursor(data);
    let name = export_name(cursor.string()?)?;
    let queries = cursor.u32()?;
    // Without queries a list names all contexts there are, a set selects none.
    let all = queries == 0 && listing;
    let mut matched = Contexts { allocation: all, depth: all };
    for _ in 0..queries {
        let query = cursor.string()?; // ends the loop at the end of the data, whatever `queries` says
        matched.allocation |= query == BASE_ALLOCATION.as_bytes() || (listing && query == b"base:");
        matched.depth |= query == ALLOCATION_DEPTH.as_bytes() || (listing && query == b"qemu:");
    }
    cursor.end()?;
    Ok((name, matched))
}
