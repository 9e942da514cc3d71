//! Processes of this machine: who runs, how they are started and stopped.
//! P1: a daemon holds a record lock on its pid file as long as it lives; the kernel, not the file's text, says who holds it.
//! P2: a process is signalled only through a pidfd, and only if it held the lock both before and after the pidfd was opened,
//! so that a reused pid is never hit.

use crate::error::CliError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, Pid, PidfdFlags, Signal, fcntl_getlk, pidfd_open, pidfd_send_signal};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Held by a daemon until it ends.
#[derive(Debug)]
pub struct HeldPidFile {
    _file: File,
}

/// Takes the lock for this process and writes its pid and start time, for people and for other programs.
pub fn hold_pid_file(path: &Path) -> Result<HeldPidFile, CliError> {
    let wrap = |source| CliError::File { action: "hold pid file", path: path.to_owned(), source };
    let mut file = open_pid_file(path).map_err(wrap)?;
    match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::AGAIN | Errno::ACCESS) => {
            let holder = holder_of(&file).map_err(wrap)?.map_or(0, Pid::as_raw_pid);
            return Err(CliError::AlreadyRuns { path: path.to_owned(), holder });
        }
        Err(errno) => return Err(wrap(errno.into())),
    }
    let mut write = || {
        file.set_len(0)?;
        writeln!(file, "{} {}", std::process::id(), start_time()?)
    };
    write().map_err(wrap)?;
    Ok(HeldPidFile { _file: file })
}

/// When this process started, in clock ticks since the machine's start: field 22 of proc(5)'s `stat`.
fn start_time() -> io::Result<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = after_name.split_whitespace().nth(19).and_then(|text| text.parse().ok());
    field.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/self/stat has no start time"))
}

/// A process that holds a pid file.
#[derive(Debug)]
pub struct Running {
    pub pid: i32,
    pidfd: OwnedFd,
}

/// Who holds a pid file, if anyone does.
pub fn running(pid_file: &Path) -> Result<Option<Running>, CliError> {
    let wrap = |source| CliError::File { action: "ask who holds", path: pid_file.to_owned(), source };
    let file = match open_pid_file_to_ask(pid_file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrap(error)),
    };
    loop {
        let Some(pid) = holder_of(&file).map_err(wrap)? else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => continue,
            Err(errno) => return Err(wrap(errno.into())),
        };
        // P2: the pid had the lock before and has it after; a process never passes a record lock on.
        if holder_of(&file).map_err(wrap)? == Some(pid) {
            return Ok(Some(Running { pid: pid.as_raw_pid(), pidfd }));
        }
    }
}

impl Running {
    pub fn signal(&self, signal: Signal) -> Result<(), CliError> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(CliError::System { what: "cannot signal the process", source: errno.into() }),
        }
    }

    /// Waits for the process's end; whether it came in time.
    pub fn wait(&self, timeout: Duration) -> Result<bool, CliError> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 });
            let mut watched = [PollFd::new(&self.pidfd, PollFlags::IN)];
            match poll(&mut watched, Some(&left)) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(CliError::System { what: "cannot wait for a process", source: errno.into() }),
            }
        }
    }
}

/// What to start, detached from this terminal and this process.
#[derive(Debug)]
pub struct DaemonCommand<'a> {
    pub subcommand: &'static str,
    pub config: &'a Path,
    pub pid_file: &'a Path,
    pub log: &'a Path,
}

/// Logs above this many bytes are set aside as `.old` when the daemon starts.
const LOG_BYTES_KEPT: u64 = 16 << 20;

/// Starts a daemon of this very binary. It appends to its log, so that earlier runs stay readable.
pub fn start(daemon: &DaemonCommand<'_>) -> io::Result<Child> {
    if std::fs::metadata(daemon.log).is_ok_and(|log| log.len() > LOG_BYTES_KEPT) {
        std::fs::rename(daemon.log, daemon.log.with_extension("log.old"))?;
    }
    let log = OpenOptions::new().create(true).append(true).open(daemon.log)?;
    Command::new(program(&std::env::current_exe()?))
        .arg(daemon.subcommand)
        .arg("--config")
        .arg(daemon.config)
        .arg("--pid-file")
        .arg(daemon.pid_file)
        .arg("--own-session")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}

/// What to run, of the path that the kernel gives for this process's program. It says "(deleted)" once an upgrade has put another file
/// in its place, which is then meant; where there is none, this very program is still there without a name.
fn program(path: &Path) -> PathBuf {
    if path.exists() {
        return path.to_owned();
    }
    let text = path.as_os_str().as_bytes();
    let replaced = text.strip_suffix(b" (deleted)").map(|text| PathBuf::from(OsStr::from_bytes(text)));
    replaced.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

/// The last line that a log holds, for messages.
pub fn last_line(log: &Path) -> String {
    const TAIL: u64 = 4096;
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("").trim().to_owned())
    };
    match read() {
        Ok(line) if !line.is_empty() => line,
        _ => "it left no message".to_owned(),
    }
}

/// Takes the lock that makes one command at a time change a folder; waits for the other up to `patience`.
pub fn lock_folder(path: &Path, folder: &Path, patience: Duration) -> Result<HeldPidFile, CliError> {
    let begin = Instant::now();
    loop {
        match hold_pid_file(path) {
            Err(CliError::AlreadyRuns { .. }) if begin.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(CliError::AlreadyRuns { .. }) => {
                return Err(CliError::FolderBusy { folder: folder.to_owned(), waited: begin.elapsed() });
            }
            other => return other,
        }
    }
}

fn open_pid_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn open_pid_file_to_ask(path: &Path) -> io::Result<File> {
    File::open(path)
}

fn holder_of(file: &File) -> io::Result<Option<Pid>> {
    let asked = Flock::from(FlockType::WriteLock);
    Ok(fcntl_getlk(file, &asked)?.and_then(|held| held.pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_that_nobody_holds_names_nobody() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("x.pid");
        assert!(running(&path).expect("no file").is_none());
        // A dead process's file that names a living one, as after a reboot.
        std::fs::write(&path, format!("{} 1\n", std::process::id())).expect("writable");
        assert!(running(&path).expect("no holder").is_none());
    }

    #[test]
    fn the_holder_of_a_pid_file_is_found_and_stopped() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("x.pid");
        // flock(1) takes another kind of lock; python takes record locks.
        let code = "import fcntl,sys,time\nf=open(sys.argv[1],'w')\nfcntl.lockf(f,fcntl.LOCK_EX)\nprint('held',flush=True)\ntime.sleep(60)";
        let spawned = Command::new("python3").arg("-c").arg(code).arg(&path).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = spawned else {
            note_skip("python3");
            return;
        };
        let mut word = [0u8; 4];
        child.stdout.as_mut().expect("piped").read_exact(&mut word).expect("the lock is held");
        let found = running(&path).expect("askable").expect("held");
        assert_eq!(found.pid, i32::try_from(child.id()).expect("a pid"));
        assert!(matches!(hold_pid_file(&path), Err(CliError::AlreadyRuns { holder, .. }) if holder == found.pid));
        assert!(!found.wait(Duration::ZERO).expect("waitable"));
        found.signal(Signal::KILL).expect("ours");
        assert!(found.wait(Duration::from_secs(5)).expect("waitable"));
        child.wait().expect("reaped");
        assert!(running(&path).expect("askable").is_none());
    }

    fn note_skip(tool: &str) {
        // Past the test harness, which keeps what is printed by tests that pass.
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        writeln!(io::stderr(), "SKIPPED {test}: {tool} is missing").expect("stderr is open");
    }

    #[test]
    fn a_program_that_was_replaced_or_removed_can_still_be_started() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("ashlar");
        let deleted = folder.path().join("ashlar (deleted)");
        assert_eq!(program(&deleted), Path::new("/proc/self/exe"));
        std::fs::write(&path, "the next version").expect("writable");
        assert_eq!(program(&deleted), path);
        assert_eq!(program(&path), path);
    }

    #[test]
    fn the_last_line_of_a_log_is_found() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("log");
        assert_eq!(last_line(&path), "it left no message");
        std::fs::write(&path, "one\ntwo\n\n").expect("writable");
        assert_eq!(last_line(&path), "two");
    }
}
