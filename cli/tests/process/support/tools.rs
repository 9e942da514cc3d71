//! Programs of this machine.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How a program ended.
#[derive(Debug)]
pub struct Ran {
    pub ok: bool,
    pub status: String,
    pub stdout: String,
    pub stderr: String,
}

/// Whether one of these programs is missing; says so where the test's reader sees it.
pub fn missing(test: &str, programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = [Path::new("/sbin").to_owned(), "/usr/sbin".into()];
    let folders: Vec<_> = std::env::split_paths(&path).chain(extra).collect();
    let absent: Vec<&&str> = programs.iter().filter(|p| !folders.iter().any(|f| f.join(p).exists())).collect();
    if absent.is_empty() {
        return false;
    }
    skipped(test, &format!("{absent:?} missing"));
    true
}

/// Past the test runner's capture.
pub fn skipped(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED {test}: {reason}");
}

/// How often the randomized tests repeat what they do.
pub fn rounds() -> u64 {
    std::env::var("ASHLAR_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

pub fn run(command: &mut Command) -> Ran {
    let described = format!("{command:?}");
    let output = command
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{described}: {error}"));
    Ran {
        ok: output.status.success(),
        status: output.status.to_string(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Runs a program that must succeed; its standard output.
pub fn run_ok(command: &mut Command) -> String {
    let described = format!("{command:?}");
    let ran = run(command);
    assert!(ran.ok, "{described}: {}\n{}\n{}", ran.status, ran.stdout, ran.stderr);
    ran.stdout
}

/// Waits until something holds; fails with its last reason. Not a sleep: the condition is asked again and again.
pub fn wait_until(what: &str, patience: Duration, mut holds: impl FnMut() -> Result<(), String>) {
    let begin = Instant::now();
    loop {
        match holds() {
            Ok(()) => return,
            Err(reason) if begin.elapsed() > patience => panic!("{what} after {patience:?}: {reason}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
