//! A superblock, of any disk. One that is taken says the same when it is written again.
#![no_main]

use ashlar_osd_core::format::superblock::{MAGIC, Superblock};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    ashlar_fuzz::page(data, MAGIC, |page| {
        if let Ok(found) = Superblock::decode(page) {
            let _ = found.slot();
            assert_eq!(Superblock::decode(&found.encode()), Ok(found));
        }
    });
});
