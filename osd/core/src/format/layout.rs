//! The whole layout in names, sizes and offsets, from the constants that encode and decode use. The snapshot test and the tables of
//! docs/formats.md are this text.

use super::{checkpoint, directory_page, index_page, log_batch, log_record, prefix, superblock};
use std::fmt::Write;

/// One line per field: structure, offset, name.
pub fn layout() -> String {
    let mut out = String::new();
    let mut table = |name: &str, fields: &[(usize, &str)]| {
        for (at, field) in fields {
            writeln!(out, "{name:<15} {at:>6}  {field}").expect("a String takes every write");
        }
    };
    table(
        "prefix",
        &[
            (0, "magic u64"),
            (prefix::VERSION_AT, "format version u32"),
            (prefix::CRC_AT, "CRC32C of the whole structure with this field zero, u32"),
            (prefix::CLUSTER_AT, "cluster u128"),
            (prefix::OSD_AT, "OSD u32"),
            (prefix::PREFIX_BYTES, "end; the last four bytes are reserved"),
        ],
    );
    table(
        "disk",
        &[
            (superblock::SLOTS[0] as usize, "superblocks of even sequence"),
            (superblock::SLOTS[1] as usize, "superblocks of odd sequence"),
            (superblock::LOG_AT as usize, "log ring; behind it, blocks"),
        ],
    );
    table(
        "superblock",
        &[
            (superblock::SEQ_AT, "sequence u64"),
            (superblock::CAPACITY_AT, "bytes of the disk u64"),
            (superblock::LOG_BYTES_AT, "bytes of the log u64"),
            (superblock::LOG_POSITION_AT, "logical position of the first batch to replay u64"),
            (superblock::LOG_SEQ_AT, "its sequence u64"),
            (superblock::CHECKPOINT_AT, "block of the first checkpoint page u64, 0 if there is none"),
            (superblock::LOG_PREVIOUS_AT, "CRC of the batch before u32"),
            (superblock::FLAGS_AT, "flags u32: 1 damaged"),
        ],
    );
    table(
        "log batch",
        &[
            (log_batch::SEQ_AT, "sequence u64"),
            (log_batch::POSITION_AT, "logical position u64"),
            (log_batch::FLUSHED_AT, "sequence of the last batch known to be on stable storage u64"),
            (log_batch::CHECKPOINT_AT, "sequence of the last durable superblock u64"),
            (log_batch::PREVIOUS_AT, "CRC of the batch before u32"),
            (log_batch::RECORDS_AT, "number of records u32"),
            (log_batch::USED_AT, "bytes of header and records u32"),
            (log_batch::HEADER_BYTES, "records: kind u8, three zero bytes, bytes of the body u32, body"),
        ],
    );
    table("log record", &[(log_record::RECORD_HEADER_BYTES, "body")]);
    table(
        "index page",
        &[
            (index_page::LAYER_AT, "layer u64"),
            (index_page::CHUNK_AT, "chunk u32"),
            (index_page::QUARTER_AT, "quarter u32"),
            (index_page::CHECKPOINT_AT, "checkpoint u64"),
            (index_page::ENTRIES_AT, "256 entries: address 36 bits, flags 4 bits, CRC 32 bits, epoch and seq 48 bits"),
            (index_page::ENTRY_BYTES, "bytes of an entry"),
        ],
    );
    table(
        "directory page",
        &[
            (directory_page::POOL_AT, "pool u32"),
            (directory_page::PG_AT, "PG u32"),
            (directory_page::CHECKPOINT_AT, "checkpoint u64"),
            (directory_page::COUNT_AT, "number of entries u16"),
            (
                directory_page::ENTRIES_AT,
                "up to 70 entries: layer u64, chunk u32, flags u32 (1 lost), version u64, four pages u64 (address 36 bits, checkpoint 28 bits)",
            ),
            (directory_page::ENTRY_BYTES, "bytes of an entry"),
        ],
    );
    table(
        "checkpoint page",
        &[
            (checkpoint::CHECKPOINT_AT, "checkpoint u64"),
            (checkpoint::NEXT_AT, "block of the next page u64, 0 after the last"),
            (checkpoint::NUMBER_AT, "number of this page u32"),
            (checkpoint::USED_AT, "bytes of payload u32"),
            (checkpoint::PAYLOAD_AT, "payload"),
        ],
    );
    out
}
