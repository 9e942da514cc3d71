//! Runs this program under callgrind and reads what it has counted.
//! Callgrind collects inside of `benchmark::counted` and leaves out what stands in for devices and kernels. It forgets what it has when
//! `counted` is entered and writes a profile when it is left, so the nth profile is that of the nth benchmark.

use crate::CountError;
use ashlar_micro::benchmark::Benchmark;
use std::path::Path;
use std::process::Command;

const COUNTED: &str = "ashlar_micro::benchmark::counted";
const STAND_INS: [&str; 3] = [
    "ashlar_micro::memory_disk::MemoryDisk::stand_in_for_write",
    "ashlar_micro::memory_disk::MemoryDisk::stand_in_for_read",
    "ashlar_micro::stream::stand_in_for_kernel",
];

/// The C library copies and clears much at once by one instruction for all of it, which callgrind counts once for each byte. In vectors it
/// takes about as many instructions as it takes time.
const COPY_IN_VECTORS: &str =
    "glibc.cpu.x86_rep_movsb_threshold=0x40000000:glibc.cpu.x86_rep_stosb_threshold=0x40000000";

/// Instructions of each operation, by benchmark.
pub type Counts = Vec<(&'static str, u64)>;

/// `filter` has chosen the benchmarks. Their profiles are kept in `keep`, if that is given.
pub fn count(benchmarks: &[Benchmark], filter: &str, keep: Option<&Path>) -> Result<Counts, CountError> {
    let folder = tempfile::tempdir().map_err(CountError::file("make a folder in", &std::env::temp_dir()))?;
    let out = folder.path().join("callgrind");
    let own = std::env::current_exe().map_err(CountError::file("find", Path::new("this program")))?;
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", out.display()))
        // Whole names, and in this order: callgrind 3.19 loses some of several settings of a function otherwise.
        .arg(format!("--dump-after={COUNTED}"))
        .arg(format!("--zero-before={COUNTED}"))
        .arg(format!("--toggle-collect={COUNTED}"))
        .args(STAND_INS.map(|name| format!("--toggle-collect={name}")))
        .arg(own)
        .args(["--called", filter])
        .env("GLIBC_TUNABLES", COPY_IN_VECTORS)
        .output()
        .map_err(|source| CountError::Spawn { source })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(CountError::Valgrind { status: output.status, stderr });
    }
    let mut counts = Counts::new();
    for (benchmark, nth) in benchmarks.iter().zip(1..) {
        let path = out.with_extension(nth.to_string());
        let profile = std::fs::read_to_string(&path).map_err(CountError::file("read", &path))?;
        let name = benchmark.name;
        let total = total(&profile).ok_or(CountError::NoTotal { path, name })?;
        counts.push((name, total / (benchmark.calls * benchmark.operations)));
        if let Some(keep) = keep {
            let path = keep.join(format!("{}.callgrind", name.replace('/', "-")));
            std::fs::create_dir_all(keep).map_err(CountError::file("make", keep))?;
            std::fs::write(&path, profile).map_err(CountError::file("write", &path))?;
        }
    }
    Ok(counts)
}

/// The instructions that a profile holds, if it was written for what we asked.
fn total(profile: &str) -> Option<u64> {
    let mut lines = profile.lines();
    lines.find(|line| line.starts_with("desc: Trigger:") && line.contains("--dump-after"))?;
    // None at all: the name of what is collected has changed.
    lines.find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok().filter(|total| *total > 0)
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    fn only_a_profile_that_was_asked_for_has_a_total() {
        let profile =
            |trigger: &str| format!("# callgrind format\ndesc: Trigger: {trigger}\nevents: Ir\ntotals: 1234\n");
        assert_eq!(total(&profile("--dump-after=counted")), Some(1234));
        assert_eq!(total(&profile("Program termination")), None);
        assert_eq!(total(&profile("--dump-after=counted").replace("1234", "0")), None);
        assert_eq!(total("desc: Trigger: --dump-after=counted\n"), None);
    }
}
