//! What the machine must have, and how a test says that it hasn't.

use std::fs::OpenOptions;
use std::io::Write;

/// Whether nothing can be mounted here; says so.
pub fn fuse_is_missing() -> bool {
    let error = OpenOptions::new().read(true).write(true).open("/dev/fuse").err();
    if let Some(error) = &error {
        skipped(&format!("/dev/fuse: {error}"));
    }
    error.is_some()
}

/// Past the test harness, which keeps what is printed by tests that pass.
pub fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    writeln!(std::io::stderr(), "SKIPPED {test}: {why}").expect("stderr is open");
}
