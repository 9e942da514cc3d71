//! What a job costs: the processor time of every process of the cluster and of the load, what their disks did, and how much
//! of the machine others used meanwhile.
//!
//! Processor time comes from the scheduler's own count of nanoseconds (`/proc/PID/task/*/schedstat`). A thread that ends
//! takes its count along, so where the ticks of `/proc/PID/stat`, which keep those of ended threads, say more, they count.

use crate::cluster::Cluster;
use crate::disks::DeviceCounts;
use crate::process::{Daemon, stat_fields};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const PF_KTHREAD: u64 = 0x0020_0000;
/// Differences of ticks are wrong by up to two of them.
const TICKS_SLACK_NS: u64 = 20_000_000;

/// Everything at one moment.
#[derive(Debug)]
pub struct Snapshot {
    at: Instant,
    /// The daemons, and this process as `client`.
    processes: BTreeMap<String, Clocks>,
    /// By pid: kernel threads come and go. They do the work of loop devices.
    kernel: BTreeMap<i32, u64>,
    machine: Machine,
    disks: BTreeMap<String, DeviceCounts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Clocks {
    scheduler_ns: u64,
    ticks_ns: u64,
}

/// In nanoseconds, over all processors.
#[derive(Clone, Copy, Debug, Default)]
struct Machine {
    busy: u64,
    steal: u64,
}

/// What happened between two snapshots.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Usage {
    pub seconds: f64,
    /// Processor seconds.
    pub osds: f64,
    pub mds: f64,
    pub gateway: f64,
    /// The process that makes the load, with the library in it.
    pub client: f64,
    /// All kernel threads of the machine, among them those of loop devices.
    pub kernel_threads: f64,
    /// Processors that others kept busy.
    pub others_cores: f64,
    /// Processors that the host took away.
    pub steal_cores: f64,
    /// Bytes written to the disks of all OSDs; `None` where nobody counts them.
    pub device_bytes: Option<u64>,
    /// Per OSD, in order.
    pub device_bytes_by_osd: Option<Vec<u64>>,
    pub flushes: Option<u64>,
    /// Bytes read from the disks of all OSDs.
    pub device_read_bytes: Option<u64>,
}

impl Usage {
    /// Of the cluster and the load, without kernel threads: as the peers were measured.
    pub fn processes(&self) -> f64 {
        self.osds + self.mds + self.gateway + self.client
    }
}

impl Snapshot {
    pub fn take(cluster: Option<&Cluster>) -> Snapshot {
        let daemons = cluster.map(Cluster::daemons).unwrap_or_default();
        let mut processes: BTreeMap<String, Clocks> =
            daemons.iter().map(|daemon| (daemon.name.clone(), Clocks::of(daemon.pid))).collect();
        if let Ok(me) = i32::try_from(std::process::id()) {
            processes.insert("client".to_owned(), Clocks::of(me));
        }
        let disks = cluster.map(|cluster| disk_counts(cluster, &daemons)).unwrap_or_default();
        Snapshot { at: Instant::now(), processes, kernel: kernel_threads(), machine: Machine::now(), disks }
    }

    /// `extra_client`: processor seconds of programs that made load and have ended (fio).
    pub fn until(&self, later: &Snapshot, extra_client: f64) -> Usage {
        let elapsed = later.at.duration_since(self.at).as_secs_f64();
        let mut usage = Usage { seconds: elapsed, ..Usage::default() };
        for (name, after) in &later.processes {
            let before = self.processes.get(name).copied().unwrap_or_default();
            let seconds = before.until(*after);
            match name.split('.').next() {
                Some("osd") => usage.osds += seconds,
                Some("mds") => usage.mds += seconds,
                Some("gateway") => usage.gateway += seconds,
                _ => usage.client += seconds,
            }
        }
        usage.client += extra_client;
        let kernel: u64 =
            later.kernel.iter().map(|(pid, ns)| ns.saturating_sub(self.kernel.get(pid).copied().unwrap_or(0))).sum();
        usage.kernel_threads = seconds(kernel);
        let busy = seconds(later.machine.busy.saturating_sub(self.machine.busy));
        usage.others_cores = ((busy - usage.processes() - usage.kernel_threads) / elapsed).max(0.0);
        usage.steal_cores = seconds(later.machine.steal.saturating_sub(self.machine.steal)) / elapsed;
        self.add_disks(later, &mut usage);
        usage
    }

    fn add_disks(&self, later: &Snapshot, usage: &mut Usage) {
        if later.disks.is_empty() {
            return;
        }
        let mut by_osd = Vec::new();
        let (mut flushes, mut read) = (0, 0);
        for (name, after) in &later.disks {
            let before = self.disks.get(name).copied().unwrap_or_default();
            by_osd.push(after.written_bytes.saturating_sub(before.written_bytes));
            flushes += after.flushes.saturating_sub(before.flushes);
            read += after.read_bytes.saturating_sub(before.read_bytes);
        }
        usage.device_bytes = Some(by_osd.iter().sum());
        usage.device_read_bytes = Some(read);
        usage.device_bytes_by_osd = Some(by_osd);
        usage.flushes = later.disks.keys().all(|name| name.contains("loop")).then_some(flushes);
    }
}

fn seconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
}

impl Clocks {
    fn of(pid: i32) -> Clocks {
        let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
        let ticks = stat_fields(pid).map_or(0, |fields| number(&fields, 11) + number(&fields, 12));
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
        let scheduler_ns = tasks.into_iter().flatten().flatten().map(|task| scheduled(&task.path())).sum();
        Clocks { scheduler_ns, ticks_ns: ticks * tick_ns }
    }

    fn until(self, later: Clocks) -> f64 {
        let by_scheduler = later.scheduler_ns.saturating_sub(self.scheduler_ns);
        let by_ticks = later.ticks_ns.saturating_sub(self.ticks_ns);
        seconds(if by_ticks > by_scheduler + TICKS_SLACK_NS { by_ticks } else { by_scheduler })
    }
}

fn number(fields: &[String], index: usize) -> u64 {
    fields.get(index).and_then(|field| field.parse().ok()).unwrap_or(0)
}

/// The first field of a `schedstat`.
fn scheduled(task: &std::path::Path) -> u64 {
    let text = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    text.split_whitespace().next().and_then(|field| field.parse().ok()).unwrap_or(0)
}

fn kernel_threads() -> BTreeMap<i32, u64> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let flags = number(&stat_fields(pid)?, 6);
        (flags & PF_KTHREAD != 0).then(|| (pid, scheduled(&entry.path())))
    })
    .collect()
}

impl Machine {
    fn now() -> Machine {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        Machine::parse(text.lines().next().unwrap_or(""), rustix::param::clock_ticks_per_second())
    }

    /// proc(5): user nice system idle iowait irq softirq steal.
    fn parse(line: &str, ticks_per_second: u64) -> Machine {
        let tick_ns = 1_000_000_000 / ticks_per_second.max(1);
        let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        let field = |index: usize| fields.get(index).copied().unwrap_or(0) * tick_ns;
        Machine { busy: field(0) + field(1) + field(2) + field(5) + field(6), steal: field(7) }
    }
}

/// By OSD. What a loop device counts is exact; for a file, what the kernel counts for the OSD's process.
fn disk_counts(cluster: &Cluster, daemons: &[Daemon]) -> BTreeMap<String, DeviceCounts> {
    let mut counts = BTreeMap::new();
    for (name, disk) in cluster.disks() {
        if let Some(device) = &disk.loop_name {
            counts.insert(format!("{name} on {device}"), DeviceCounts::of(device).unwrap_or_default());
        } else if !disk.path.starts_with("/dev/shm")
            && let Some(of_process) =
                daemons.iter().find(|daemon| daemon.name == *name).and_then(|daemon| process_counts(daemon.pid))
        {
            counts.insert(name.clone(), of_process);
        }
    }
    counts
}

/// proc(5), `/proc/PID/io`. It counts nothing for files in RAM.
fn process_counts(pid: i32) -> Option<DeviceCounts> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok();
    Some(DeviceCounts { read_bytes: field("read_bytes: ")?, written_bytes: field("write_bytes: ")?, flushes: 0 })
}

/// Resident memory of a process: now, and at most so far. Bytes.
pub fn resident(pid: i32) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib * 1024)
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}

/// The load of the machine as it says itself, for the header.
pub fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_work_is_accounted_to_the_client() {
        let before = Snapshot::take(None);
        let begin = Instant::now();
        let mut x = 1u64;
        while begin.elapsed() < Duration::from_millis(100) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        let usage = before.until(&Snapshot::take(None), 0.0);
        assert!(usage.client > 0.005 && usage.client < usage.seconds * 64.0, "{usage:?}");
        assert!(usage.device_bytes.is_none());
    }

    #[test]
    fn ticks_count_where_threads_have_ended() {
        let before = Clocks { scheduler_ns: 1_000_000_000, ticks_ns: 1_000_000_000 };
        let after = Clocks { scheduler_ns: 900_000_000, ticks_ns: 3_000_000_000 };
        assert!((before.until(after) - 2.0).abs() < 1e-9);
        let precise = Clocks { scheduler_ns: 1_004_000_000, ticks_ns: 1_010_000_000 };
        assert!((before.until(precise) - 0.004).abs() < 1e-9);
    }

    #[test]
    fn busy_and_steal_are_told_apart() {
        let machine = Machine::parse("cpu  1 2 3 400 500 6 7 8 9 10", 100);
        assert_eq!((machine.busy, machine.steal), (190_000_000, 80_000_000));
    }
}
