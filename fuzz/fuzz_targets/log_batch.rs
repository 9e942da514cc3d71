//! A batch of the log as mount meets it: first its length, then its checksum, then its records.
#![no_main]

use ashlar_fuzz::IDENTITY;
use ashlar_osd_core::format::log_batch::{BatchHeader, HEADER_BYTES, MAGIC};
use ashlar_osd_core::format::log_record::Record;
use ashlar_osd_core::format::prefix;
use libfuzzer_sys::fuzz_target;

/// As long as the longest input.
const BYTES_MAX: usize = 64 << 10;

fuzz_target!(|data: &[u8]| {
    batch(data);
    let mut sealed = data.to_vec();
    sealed.resize(data.len().max(HEADER_BYTES).next_multiple_of(4096).min(BYTES_MAX), 0);
    prefix::seal(&mut sealed, MAGIC, IDENTITY);
    let Some(len) = BatchHeader::peek_len(&sealed).filter(|len| *len <= BYTES_MAX) else { return };
    sealed.resize(len, 0);
    prefix::seal(&mut sealed, MAGIC, IDENTITY);
    batch(&sealed);
});

fn batch(bytes: &[u8]) {
    let _ = BatchHeader::peek_seq(bytes);
    let Some(batch) = BatchHeader::peek_len(bytes).and_then(|len| bytes.get(..len)) else { return };
    let Ok((header, _)) = BatchHeader::decode(batch, IDENTITY) else { return };
    let mut records = &batch[HEADER_BYTES..header.used as usize];
    while !records.is_empty() && Record::decode(&mut records).is_ok() {}
}
