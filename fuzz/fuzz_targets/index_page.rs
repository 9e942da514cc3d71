//! An index page. One that is taken can be asked for each of its entries, and says the same when it is written again.
#![no_main]

use ashlar_fuzz::IDENTITY;
use ashlar_osd_core::format::index_page::{IndexPage, MAGIC, SLOTS, slot_of};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    ashlar_fuzz::page(data, MAGIC, |page| {
        if let Ok(found) = IndexPage::decode_any(page, IDENTITY) {
            assert!((0..SLOTS).all(|slot| slot_of(page, slot) == found.slots[slot]));
            let mut again = page.to_vec();
            found.encode(IDENTITY, &mut again);
            assert_eq!(IndexPage::decode(&again, IDENTITY, found.place), Ok(found));
        }
    });
});
