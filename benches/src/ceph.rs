//! Debian's Ceph on disks of the same kind, brought up, measured and taken down by the scripts that the peers were measured with.

use crate::error::BenchError;
use crate::progress;
use crate::report::{Cpu, Latency, Path as RowPath, Row};
use crate::sandbox::Sandbox;
use std::path::{Path, PathBuf};
use std::process::Command;

const UP: &str = "ceph-up.sh";
const BENCH: &str = "ceph-bench.sh";
const DOWN: &str = "ceph-down.sh";
/// What they need beside fio, and Debian's packages that have it.
const PROGRAMS: [&str; 7] = ["ceph-mon", "ceph-osd", "ceph-mgr", "ceph", "rbd", "jq", "fio"];
const PACKAGES: &str = "ceph-mon ceph-osd ceph-mgr ceph-common jq fio";
/// By the scripts' names and ours.
const JOBS: [(&str, &str, usize); 6] = [
    ("rw1", "4k write QD1", 1),
    ("rw32", "4k write QD32", 32),
    ("rr1", "4k read QD1", 1),
    ("rr32", "4k read QD32", 32),
    ("sw8", "1M write QD8", 8),
    ("sr8", "1M read QD8", 8),
];
const MIB: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub struct Ceph {
    pub rows: Vec<Row>,
    /// Of the largest OSD, in MiB.
    pub osd_mib: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub osds: usize,
    pub osd_bytes: u64,
    pub volume_bytes: u64,
    pub seconds: u64,
}

/// Whether [`measure`] can run here, to be known before anything else is measured.
pub fn check(scripts: &Path) -> Result<(), BenchError> {
    if let Some(missing) = [UP, BENCH, DOWN].into_iter().find(|name| !scripts.join(name).is_file()) {
        let place = scripts.display();
        return Err(BenchError::Wrong(format!(
            "--vs-ceph: there is no {missing} in {place}; name its folder with --peers"
        )));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(BenchError::Wrong("--vs-ceph: Ceph's disks are loop devices, which only root can make".to_owned()));
    }
    let folders: Vec<PathBuf> = std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
    let is_missing = |program: &&str| !folders.iter().any(|folder| folder.join(program).is_file());
    let missing: Vec<&str> = PROGRAMS.into_iter().filter(is_missing).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(BenchError::Wrong(format!(
            "--vs-ceph: {} not found; `apt-get install --no-install-recommends {PACKAGES}` brings what is needed",
            missing.join(", ")
        ))),
    }
}

/// In a folder of its own in `parent`. Variables that the scripts know (`PRELOAD`, `MAXWAIT`) reach them.
pub fn measure(sandbox: &Sandbox, scripts: &Path, parent: &Path, shape: &Shape) -> Result<Ceph, BenchError> {
    let folder = sandbox.folder(parent)?;
    sandbox.add_scripts(&folder)?;
    let (state, disks) = (folder.join("ceph"), folder.join("ceph-disks"));
    let script = |name: &str| Sandbox::script(&scripts.join(name), &folder);
    progress::say("Ceph: starting a cluster");
    let mut up = script(UP);
    up.arg(&state).arg(&disks).args([(shape.osd_bytes / MIB).to_string(), shape.osds.to_string()]);
    sandbox.run(&mut up)?;
    progress::say("Ceph: six jobs, after writing an image");
    let mut bench = script(BENCH);
    bench.arg(&state).arg("perf");
    bench.env("RT", shape.seconds.to_string()).env("IMG_MIB", (shape.volume_bytes / MIB).to_string());
    // As ours are measured: at the usual priority, and whatever else goes on.
    default_env(&mut bench, "NICE", "0");
    default_env(&mut bench, "MAXWAIT", "0");
    let printed = sandbox.run(&mut bench)?;
    progress::say("Ceph: taking it down");
    sandbox.run(script(DOWN).arg(&state))?;
    parse(&String::from_utf8_lossy(&printed)).map_err(|reason| BenchError::Output { command: BENCH.to_owned(), reason })
}

fn default_env(command: &mut Command, name: &str, value: &str) {
    if std::env::var_os(name).is_none() {
        command.env(name, value);
    }
}

/// Lines of 13 fields that tabs part, and one about memory.
fn parse(printed: &str) -> Result<Ceph, String> {
    let lines: Vec<Vec<&str>> = printed.lines().map(|line| line.split('\t').collect()).collect();
    let row = |(theirs, ours, depth): (&str, &str, usize)| {
        let line = lines.iter().find(|fields| fields.len() == 13 && fields[1] == theirs);
        line.and_then(|fields| parse_row(ours, depth, &fields[2..])).ok_or_else(|| {
            let told: Vec<&str> = printed.lines().filter(|line| line.contains(theirs)).collect();
            format!("no figures of {theirs} ({})", told.join("; "))
        })
    };
    let rows = JOBS.into_iter().map(row).collect::<Result<_, _>>()?;
    let memory = printed.lines().find_map(|line| line.strip_prefix("# RSS of each OSD, MiB:"));
    let sizes = memory.into_iter().flat_map(str::split_whitespace).filter_map(|mib| mib.parse::<f64>().ok());
    Ok(Ceph { rows, osd_mib: sizes.reduce(f64::max) })
}

/// IOPS, MB/s, mean, p50, p99 in us, most in ms, CPU seconds of servers and of the client for 1000 requests, cores of servers, client
/// and others.
fn parse_row(job: &str, depth: usize, fields: &[&str]) -> Option<Row> {
    let number = |index: usize| fields.get(index)?.parse::<f64>().ok();
    let (servers, client) = (number(6)? * 1e3, number(7)? * 1e3);
    Some(Row {
        job: job.to_owned(),
        path: RowPath::Ceph,
        depth,
        iops: number(0)?,
        mb_per_s: number(1)?,
        latency: Latency { mean: number(2)?, p50: number(3)?, p99: number(4)?, p99_9: f64::NAN, max: number(5)? * 1e3 },
        cpu: Cpu { all: servers + client, osds: servers, client, ..Cpu::default() },
        device_bytes_per_client_byte_per_copy: None,
        flushes_per_write_per_copy: None,
        of_raw: None,
        others_cores: number(10)?,
        steal_cores: 0.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str =
        "set\tjob\tIOPS\tMB/s\tavg_us\tp50_us\tp99_us\tmax_ms\tosd_s/1k\tcli_s/1k\tcores_ceph\tcores_cli\tother_cpu
3x cache=off\trr1\t6364\t26.1\t146\t140\t300\t9.1\t0.1\t0.05\t0.9\t0.3\t0.1
3x cache=off\trr32\t21836\t89\t1500\t1400\t3000\t20\t0.062\t0.02\t1.3\t0.5\t0.05
3x cache=off\trw1\t972\t4\t1002\t990\t2000\t12\t0.9\t0.1\t1\t0.1\t0
3x cache=off\trw32\t2227\t9\t14300\t14000\t30000\t90\t0.8\t0.074\t1.8\t0.2\t0
3x cache=off\tsr8\t1111\t1165\t7000\t6900\t9000\t30\t1\t1\t1\t1\t0
3x cache=off\tsw8\t330\t346\t24000\t23000\t40000\t80\t5\t1\t1\t1\t0
# RSS of each OSD, MiB: 700 712 690
";

    #[test]
    fn the_table_of_the_scripts_is_read() {
        let ceph = parse(PRINTED).expect("whole");
        let row = ceph.rows.iter().find(|row| row.job == "4k write QD32").expect("measured");
        assert!((row.cpu.all - 874.0).abs() < 1e-6 && (row.iops - 2227.0).abs() < 1e-9, "{row:?}");
        assert!((row.latency.max - 90_000.0).abs() < 1e-6);
        assert_eq!((ceph.rows.len(), ceph.osd_mib), (6, Some(712.0)));
    }

    #[test]
    fn a_job_that_failed_is_named() {
        let error = parse(&PRINTED.replace("3x cache=off\trw1\t972", "3x cache=off rw1 FAILED\t972"))
            .expect_err("a job is missing");
        assert!(error.contains("rw1") && error.contains("FAILED"), "{error}");
    }

    #[test]
    fn scripts_that_are_not_there_are_named() {
        let error = check(Path::new("/nonexistent")).expect_err("nothing there").to_string();
        assert!(error.contains(UP) && error.contains("--peers"), "{error}");
    }
}
