//! What is printed, as it is found: a difference may have more parts than memory should hold.

use super::compare::{ChangeKind, Changed};
use crate::output::print_raw;
use ashlar_types::format_bytes;
use serde_json::json;
use std::fmt::Write as _;
use std::io;

const KEPT_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub struct Sheet {
    as_json: bool,
    text: String,
    names: (String, String),
    extents: u64,
    data_bytes: u64,
    zero_bytes: u64,
}

impl Sheet {
    /// Names and sizes of both sides.
    pub fn begin(as_json: bool, (from, from_size): (&str, u64), (to, to_size): (&str, u64)) -> Sheet {
        let mut text = String::new();
        if as_json {
            let head = json!({ "from": from, "from_size": from_size, "to": to, "to_size": to_size }).to_string();
            let _ = write!(text, "{},\"extents\":[", head.trim_end_matches('}'));
        } else {
            let _ = writeln!(text, "{:>16}  {:>16}  KIND", "OFFSET", "LENGTH");
        }
        let names = (from.to_owned(), to.to_owned());
        Sheet { as_json, text, names, extents: 0, data_bytes: 0, zero_bytes: 0 }
    }

    /// False: nobody reads it any more.
    pub fn add(&mut self, changed: Changed) -> io::Result<bool> {
        let Changed { offset, len, kind } = changed;
        let kind = match kind {
            ChangeKind::Data => {
                self.data_bytes += len;
                "data"
            }
            ChangeKind::Zero => {
                self.zero_bytes += len;
                "zero"
            }
        };
        if self.as_json {
            let comma = if self.extents == 0 { "" } else { "," };
            let _ = write!(self.text, "{comma}{}", json!({ "offset": offset, "length": len, "kind": kind }));
        } else {
            let _ = writeln!(self.text, "{offset:>16}  {len:>16}  {kind}");
        }
        self.extents += 1;
        if self.text.len() < KEPT_BYTES {
            return Ok(true);
        }
        print_raw(&std::mem::take(&mut self.text))
    }

    pub fn end(mut self) -> io::Result<()> {
        let Sheet { extents, data_bytes, zero_bytes, .. } = self;
        if self.as_json {
            let _ = writeln!(self.text, "],\"data_bytes\":{data_bytes},\"zero_bytes\":{zero_bytes}}}");
        } else {
            let (from, to) = &self.names;
            let (data, zeroes) = (format_bytes(data_bytes), format_bytes(zero_bytes));
            let _ = writeln!(self.text, "from {from} to {to}: {extents} extents, {data} of data, {zeroes} of zeroes");
        }
        print_raw(&self.text).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_one_object_whatever_was_found() {
        for count in 0..3 {
            let mut sheet = Sheet::begin(true, ("v@a", 4096), ("v", 8192));
            for offset in 0..count {
                let changed = Changed { offset: offset * 8192, len: 4096, kind: ChangeKind::Data };
                assert!(sheet.add(changed).expect("it is kept"));
            }
            let text = format!("{}],\"data_bytes\":1}}", sheet.text);
            let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!((value["from"].as_str(), value["to_size"].as_u64()), (Some("v@a"), Some(8192)));
            assert_eq!(value["extents"].as_array().map(Vec::len), Some(count as usize));
        }
    }
}
