//! Records of the log. One that is taken says the same when it is written again.
#![no_main]

use ashlar_osd_core::format::log_record::Record;
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Ok(record) = Record::decode(&mut rest) {
        let mut again = BytesMut::new();
        record.encode(&mut again);
        assert_eq!(Record::decode(&mut &again[..]), Ok(record));
        if rest.is_empty() {
            break;
        }
    }
});
