//! Seeds that once found a bug are replayed for ever: `chaos/seeds/NNN-name.toml`.

use ashlar_chaos::{Aim, Options, run_seed};
use std::fs;
use std::path::Path;

/// `seed = 4711`, `aim = "joiner"` (optional), `found = "what it was"`; nothing else.
fn parse(text: &str) -> Result<(u64, Option<Aim>), String> {
    let mut seed = None;
    let mut aim = None;
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (key, value) = line.split_once('=').ok_or_else(|| format!("{line:?} is not key = value"))?;
        let value = value.trim().trim_matches('"');
        match key.trim() {
            "seed" => seed = Some(value.parse::<u64>().map_err(|e| e.to_string())?),
            "aim" => aim = Some(value.parse::<Aim>().map_err(|e| e.to_string())?),
            "found" => {}
            other => return Err(format!("unknown key {other:?}")),
        }
    }
    seed.map(|seed| (seed, aim)).ok_or_else(|| "no seed".to_owned())
}

#[test]
fn seeds_that_found_bugs_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let mut files: Vec<_> = fs::read_dir(folder).expect("the folder is part of the source").flatten().collect();
    files.sort_by_key(fs::DirEntry::file_name);
    let mut failed = Vec::new();
    for file in files.iter().filter(|f| f.path().extension().is_some_and(|e| e == "toml")) {
        let text = fs::read_to_string(file.path()).expect("a readable file");
        let (seed, aim) = parse(&text).unwrap_or_else(|e| panic!("{:?}: {e}", file.path()));
        let report = run_seed(seed, Options { aim, ..Options::default() });
        if report.failure.is_some() {
            failed.push(format!("{:?}: {report}", file.file_name()));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
