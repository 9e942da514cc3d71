//! Processes by pid and start time, so that a reused pid is never signalled or accounted.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// A daemon, as its pid file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// `osd.1`, `mds.1`, `gateway`.
    pub name: String,
    pub pid: i32,
    /// In clock ticks since the machine's start.
    pub start: u64,
}

impl Daemon {
    /// A handle to the process, if it still is the one that the pid file means.
    pub fn open(&self) -> Option<Handle> {
        let pid = Pid::from_raw(self.pid)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // After the pidfd was opened: it then is of this process, not of one that got the number later.
        (start_time(self.pid)? == self.start).then_some(Handle { pidfd })
    }
}

#[derive(Debug)]
pub struct Handle {
    pidfd: OwnedFd,
}

impl Handle {
    /// Of a child that nobody has waited for yet, so that its pid is still its own.
    pub fn of_child(pid: u32) -> Option<Handle> {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
        Some(Handle { pidfd: pidfd_open(pid, PidfdFlags::empty()).ok()? })
    }

    /// Kills it and waits until it is gone; it may be gone already.
    pub fn kill(&self) {
        // Only a process that has ended can't be signalled, and then all is well.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        self.wait(Duration::from_secs(10));
    }

    /// Whether it ended in time.
    pub fn wait(&self, timeout: Duration) -> bool {
        let Ok(timeout) = Timespec::try_from(timeout) else { return false };
        let mut watched = [PollFd::new(&self.pidfd, PollFlags::IN)];
        poll(&mut watched, Some(&timeout)).is_ok_and(|ready| ready > 0)
    }
}

/// The daemons of a cluster's folder that run, in the order of their names.
pub fn daemons(folder: &Path) -> Vec<Daemon> {
    let Ok(entries) = std::fs::read_dir(folder.join("run")) else { return Vec::new() };
    let mut found: Vec<Daemon> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?.strip_suffix(".pid")?.to_owned();
            let text = std::fs::read_to_string(entry.path()).ok()?;
            let (pid, start) = text.trim().split_once(' ')?;
            Some(Daemon { name, pid: pid.parse().ok()?, start: start.parse().ok()? })
        })
        .filter(|daemon| start_time(daemon.pid) == Some(daemon.start))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Every process that has this in its environment, so everything that was started with it, and what that has started.
pub fn marked(name: &str, value: &Path) -> Vec<Daemon> {
    let mark = [name.as_bytes(), b"=", value.as_os_str().as_encoded_bytes()].concat();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let start = start_time(pid)?;
        let environment = std::fs::read(entry.path().join("environ")).ok()?;
        let has_mark = environment.split(|byte| *byte == 0).any(|variable| variable == mark);
        has_mark.then(|| Daemon { name: name.to_owned(), pid, start })
    });
    found.collect()
}

/// Field 22 of proc(5)'s `stat`.
pub fn start_time(pid: i32) -> Option<u64> {
    stat_fields(pid)?.get(19)?.parse().ok()
}

/// The fields of `/proc/PID/stat` from the third on: the second, the name, may hold anything.
pub fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_of_another_process_names_nobody() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let run = folder.path().join("run");
        std::fs::create_dir(&run).expect("writable");
        let me = i32::try_from(std::process::id()).expect("a pid");
        let start = start_time(me).expect("this process runs");
        std::fs::write(run.join("osd.1.pid"), format!("{me} {start}\n")).expect("writable");
        std::fs::write(run.join("osd.2.pid"), format!("{me} {}\n", start + 1)).expect("writable");
        std::fs::write(run.join("osd.3.pid"), "").expect("writable");
        std::fs::write(run.join("lock"), format!("{me} {start}\n")).expect("writable");
        assert_eq!(daemons(folder.path()), [Daemon { name: "osd.1".into(), pid: me, start }]);
    }

    #[test]
    fn what_a_marked_process_has_started_is_marked() {
        let value = Path::new("/tmp/of-this-test");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "sleep 60 & wait"]).env("ASHLAR_BENCH_TEST", value);
        let mut child = command.spawn().expect("sh runs");
        let begin = std::time::Instant::now();
        let found = loop {
            let found = marked("ASHLAR_BENCH_TEST", value);
            if found.len() >= 2 || begin.elapsed() > Duration::from_secs(30) {
                break found;
            }
            std::thread::yield_now();
        };
        assert!(found.iter().any(|process| process.pid == i32::try_from(child.id()).expect("a pid")));
        found.iter().filter_map(Daemon::open).for_each(|handle| handle.kill());
        child.wait().expect("reaped");
        assert_eq!(found.len(), 2, "sh and sleep");
        assert_eq!(marked("ASHLAR_BENCH_TEST", Path::new("/tmp/of-this")), []);
    }

    #[test]
    fn a_child_is_killed_by_its_handle() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let handle = Handle::of_child(child.id()).expect("it runs");
        assert!(!handle.wait(Duration::ZERO));
        handle.kill();
        assert!(handle.wait(Duration::ZERO));
        child.wait().expect("reaped");
    }
}
