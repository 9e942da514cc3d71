//! What a request to the modelled disk may be answered besides success; `fuse.rs` maps it to errno.

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FsError {
    /// EIO: the power is off, or the file was opened before it last failed.
    #[error("the power failed")]
    PowerLost,
    #[error("no such file or directory")]
    NotFound,
    #[error("it exists already")]
    Exists,
    #[error("not a directory")]
    NotADirectory,
    #[error("a directory")]
    IsADirectory,
    #[error("the directory is not empty")]
    NotEmpty,
    #[error("invalid argument")]
    Invalid,
    #[error("not supported")]
    NotSupported,
    #[error("the disk is full")]
    NoSpace,
    #[error("the name is too long")]
    NameTooLong,
    #[error("hard links to directories do not exist")]
    NotPermitted,
    #[error("the file would be too large")]
    TooLarge,
}
