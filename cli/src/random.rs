//! Randomness of the kernel, for ids that must never meet again.

use crate::error::CliError;
use std::fs::File;
use std::io::Read;

pub fn fill(bytes: &mut [u8]) -> Result<(), CliError> {
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(bytes))
        .map_err(|source| CliError::System { what: "cannot read /dev/urandom", source })
}
