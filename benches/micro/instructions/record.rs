//! The recorded figures: `benches/instructions.json`, one line for each benchmark, renewed in the commit that changes them.

use crate::CountError;
use crate::valgrind::Counts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How many percent more than recorded are an error. What differs without a change of ours (the C library's `memcpy`, a hash map's
/// seed) is far below.
const MORE_PERCENT_MAX: u64 = 10;

/// Instructions of each operation, by name of the benchmark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Record(BTreeMap<String, u64>);

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json")
}

impl Record {
    /// Empty where there is none.
    pub fn read() -> Result<Record, CountError> {
        let path = path();
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|source| CountError::Record { path, source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Record::default()),
            Err(error) => Err(CountError::file("read", &path)(error)),
        }
    }

    pub fn write(&self) -> Result<(), CountError> {
        let path = path();
        let text = serde_json::to_string_pretty(self).expect("names and numbers are JSON") + "\n";
        std::fs::write(&path, text).map_err(CountError::file("write", &path))
    }

    /// With what was counted; only with that where it is everything.
    pub fn renewed(mut self, counts: &Counts, is_everything: bool) -> Record {
        if is_everything {
            self.0.clear();
        }
        self.0.extend(counts.iter().map(|(name, count)| ((*name).to_owned(), *count)));
        self
    }

    /// # Errors
    /// Something takes more than it may, or one of both knows what the other doesn't.
    pub fn compare(&self, counts: &Counts, filter: &str) -> Result<(), CountError> {
        let is_counted = |name: &str| counts.iter().any(|(counted, _)| *counted == name);
        let gone = self.0.keys().map(String::as_str).filter(|name| name.contains(filter) && !is_counted(name));
        let new = counts.iter().map(|(name, _)| *name).filter(|name| !self.0.contains_key(*name));
        let unknown: Vec<&str> = gone.chain(new).collect();
        if !unknown.is_empty() {
            return Err(CountError::Unknown { names: unknown.join(", ") });
        }
        let is_more = |name: &str, count: u64| count * 100 > self.0[name] * (100 + MORE_PERCENT_MAX);
        let more: Vec<&str> =
            counts.iter().filter(|(name, count)| is_more(name, *count)).map(|(name, _)| *name).collect();
        if !more.is_empty() {
            return Err(CountError::More { names: more.join(", ") });
        }
        Ok(())
    }
}

pub fn print(counts: &Counts, known: &Record) {
    println!("{:40} {:>12} {:>12} {:>8}", "instructions for each operation", "recorded", "now", "change");
    for (name, count) in counts {
        match known.0.get(*name) {
            Some(recorded) => {
                let percent = (*count as f64 / *recorded as f64 - 1.0) * 100.0;
                println!("{name:40} {recorded:>12} {count:>12} {percent:>+7.1}%");
            }
            None => println!("{name:40} {:>12} {count:>12} {:>8}", "-", "-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(entries: &[(&str, u64)]) -> Record {
        Record(entries.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect())
    }

    #[test]
    fn ten_percent_more_are_taken_and_eleven_are_not() {
        let known = record(&[("a", 1000), ("b", 1000)]);
        assert!(known.compare(&vec![("a", 1100), ("b", 1)], "").is_ok());
        let error = known.compare(&vec![("a", 1100), ("b", 1101)], "").expect_err("b is too much");
        assert!(matches!(error, CountError::More { names } if names == "b"));
    }

    #[test]
    fn a_record_of_other_benchmarks_must_be_renewed() {
        let known = record(&[("part/a", 1), ("part/b", 1), ("other", 1)]);
        assert!(known.compare(&vec![("part/a", 1), ("part/b", 1)], "part").is_ok());
        for counts in [vec![("part/a", 1)], vec![("part/a", 1), ("part/b", 1), ("part/c", 1)]] {
            assert!(matches!(known.compare(&counts, "part"), Err(CountError::Unknown { .. })));
            let renewed = known.clone().renewed(&counts, true);
            assert!(renewed.compare(&counts, "").is_ok());
        }
        assert!(known.renewed(&vec![("part/a", 2)], false).0.contains_key("other"));
    }
}
