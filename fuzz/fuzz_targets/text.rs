//! Sizes and names as people type them.
#![no_main]

use ashlar_types::{Name, format_bytes, parse_size};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(bytes) = parse_size(text) {
        assert!(!format_bytes(bytes).is_empty());
        assert_eq!(parse_size(&bytes.to_string()), Ok(bytes));
    }
    if let Ok(name) = Name::new(text) {
        assert_eq!(Name::new(name.as_str()), Ok(name));
    }
});
