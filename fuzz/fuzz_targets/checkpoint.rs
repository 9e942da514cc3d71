//! A page of a checkpoint's chain, and what the pages' payloads say when they are joined.
#![no_main]

use ashlar_fuzz::IDENTITY;
use ashlar_osd_core::format::checkpoint::{ChainPage, CheckpointBody, MAGIC};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    ashlar_fuzz::page(data, MAGIC, |page| {
        if let Ok((_, payload)) = ChainPage::decode(page, IDENTITY, 41, 1) {
            body(payload);
        }
    });
    body(data);
});

fn body(payload: &[u8]) {
    if let Ok(found) = CheckpointBody::decode(payload) {
        assert_eq!(CheckpointBody::decode(&found.encode()), Ok(found));
    }
}
