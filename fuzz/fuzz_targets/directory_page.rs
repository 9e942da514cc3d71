//! A directory page. One that is taken says the same when it is written again.
#![no_main]

use ashlar_fuzz::IDENTITY;
use ashlar_osd_core::format::directory_page::{DirectoryPage, MAGIC, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    ashlar_fuzz::page(data, MAGIC, |page| {
        if let Ok((found, _)) = DirectoryPage::decode(page, IDENTITY) {
            let mut again = page.to_vec();
            encode(found.pg, found.checkpoint, found.entries.iter().copied(), IDENTITY, &mut again);
            let (once_more, _) = DirectoryPage::decode(&again, IDENTITY).expect("what is written is read");
            assert_eq!(once_more.entries, found.entries);
        }
    });
});
