//! Everything that a measurement leaves behind: processes, loop devices, folders, attachments to a cluster of others. All of it is taken away at the
//! end, after a failure, after a panic and at Ctrl-C; after a SIGKILL, by the next run.
//! B1: a thing is noted before it is made, and taken away in reverse order.

use crate::error::BenchError;
use crate::library::Attachments;
use crate::process::{self, Handle};
use rustix::fs::FlockOperation;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PREFIX: &str = "ashlar-bench.";
/// In the environment of scripts, and so of all that they start: the folder that it belongs to.
const MARK: &str = "ASHLAR_BENCH_FOLDER";

#[derive(Debug)]
enum Leftover {
    /// A child whose end somebody waits for.
    Child(u64, Handle),
    /// The folder of `ashlar up`, whose daemons are to be killed.
    Cluster(PathBuf),
    Loop(PathBuf),
    /// Volumes of somebody's cluster.
    Attached(Attachments),
    /// What scripts have started, and their loop devices over files in this folder.
    Scripts(PathBuf),
    /// A folder, with the lock that tells other runs that its owner lives.
    Folder(PathBuf, File),
}

#[derive(Debug, Default)]
struct State {
    leftovers: Vec<Leftover>,
    /// Nothing is made any more.
    ended: bool,
    /// Why, if somebody wants it.
    signal: Option<i32>,
    children: u64,
}

/// A handle; clones are the same sandbox.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    state: Arc<Mutex<State>>,
}

impl Sandbox {
    /// A sandbox that also cleans up at Ctrl-C and at a panic. Once in a process.
    pub fn guarded() -> Result<Sandbox, BenchError> {
        let sandbox = Sandbox::default();
        let wrap = |source| BenchError::Spawn { program: "the thread that waits for signals".to_owned(), source };
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(wrap)?;
        let at_signal = sandbox.clone();
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                eprintln!("interrupted; cleaning up");
                at_signal.lock().signal = Some(signal);
                at_signal.clean();
                std::process::exit(128 + signal);
            }
        });
        let (at_panic, report) = (sandbox.clone(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |info| {
            report(info);
            at_panic.clean();
        }));
        Ok(sandbox)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fresh folder in `parent`. First takes away what runs that were killed have left there.
    pub fn folder(&self, parent: &Path) -> Result<PathBuf, BenchError> {
        sweep(parent);
        let mut state = self.lock();
        state.refuse_after_end()?;
        let path = (0..1000)
            .map(|n| parent.join(format!("{PREFIX}{}.{n}", std::process::id())))
            .find(|path| !path.exists())
            .ok_or_else(|| BenchError::Wrong(format!("too many folders in {}", parent.display())))?;
        std::fs::create_dir(&path).map_err(BenchError::file("make folder", &path))?;
        let owner = path.join("owner");
        let lock = File::create(&owner).map_err(BenchError::file("make", &owner))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| BenchError::file("lock", &owner)(errno.into()))?;
        state.leftovers.push(Leftover::Folder(path.clone(), lock));
        Ok(path)
    }

    /// From now on the daemons of this folder are killed at the end.
    pub fn add_cluster(&self, folder: &Path) -> Result<(), BenchError> {
        let mut state = self.lock();
        state.refuse_after_end()?;
        state.leftovers.push(Leftover::Cluster(folder.to_owned()));
        Ok(())
    }

    /// From now on these volumes are given back at the end.
    pub fn add_attachments(&self, attachments: Attachments) -> Result<(), BenchError> {
        let mut state = self.lock();
        state.refuse_after_end()?;
        state.leftovers.push(Leftover::Attached(attachments));
        Ok(())
    }

    /// For programs that start others and don't take them along when they are killed: from now on, all that was started with a
    /// command of [`Sandbox::script`] is killed at the end, and loop devices over files in the folder are detached.
    pub fn add_scripts(&self, folder: &Path) -> Result<(), BenchError> {
        let mut state = self.lock();
        state.refuse_after_end()?;
        state.leftovers.push(Leftover::Scripts(folder.to_owned()));
        Ok(())
    }

    /// Its temporary files come into the folder, since a script that is killed leaves them.
    pub fn script(path: &Path, folder: &Path) -> Command {
        let mut command = Command::new("bash");
        command.arg(path).env(MARK, folder).env("TMPDIR", folder);
        command
    }

    /// A loop device over a file, past the page cache where the file system allows that.
    pub fn loop_device(&self, file: &Path) -> Result<PathBuf, BenchError> {
        let mut state = self.lock();
        state.refuse_after_end()?;
        let attach = |direct: &str| Command::new("losetup").args(["--find", "--show", direct]).arg(file).output();
        let mut output = attach("--direct-io=on").map_err(spawn_error("losetup"))?;
        if !output.status.success() {
            output = attach("--direct-io=off").map_err(spawn_error("losetup"))?;
        }
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        if !output.status.success() || !path.is_absolute() {
            return Err(failed("losetup", &output));
        }
        state.leftovers.push(Leftover::Loop(path.clone()));
        Ok(path)
    }

    /// Runs a program to its end; its standard output, or an error with the last line of what it said. It is killed if the
    /// measurement is.
    pub fn run(&self, command: &mut Command) -> Result<Vec<u8>, BenchError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut state = self.lock();
        state.refuse_after_end()?;
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.map_err(spawn_error(&program))?;
        state.children += 1;
        let number = state.children;
        if let Some(handle) = Handle::of_child(child.id()) {
            state.leftovers.push(Leftover::Child(number, handle));
        }
        drop(state);
        let stderr = child.stderr.take();
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What can't be read is missing in a message for people, nowhere else.
            let _ = stderr.map(|mut pipe| pipe.read_to_end(&mut bytes));
            bytes
        });
        let output = child.wait_with_output();
        self.lock().leftovers.retain(|leftover| !matches!(leftover, Leftover::Child(n, _) if *n == number));
        let mut output = output.map_err(spawn_error(&program))?;
        output.stderr = reader.join().unwrap_or_default();
        if output.status.success() { Ok(output.stdout) } else { Err(failed(&describe(command), &output)) }
    }

    /// The signal that ends this, if one does: what fails then fails because of it.
    pub fn signal(&self) -> Option<i32> {
        self.lock().signal
    }

    /// Takes everything away. Again does nothing.
    pub fn clean(&self) {
        let mut state = self.lock();
        state.ended = true;
        while let Some(leftover) = state.leftovers.pop() {
            leftover.take_away();
        }
    }

    /// Takes away what was made since there were `keep` things, to go on with something else.
    pub fn clean_to(&self, keep: usize) {
        let mut state = self.lock();
        while state.leftovers.len() > keep {
            if let Some(leftover) = state.leftovers.pop() {
                leftover.take_away();
            }
        }
    }

    /// How many things there are, for [`Sandbox::clean_to`].
    pub fn len(&self) -> usize {
        self.lock().leftovers.len()
    }
}

impl State {
    fn refuse_after_end(&self) -> Result<(), BenchError> {
        if self.ended { Err(BenchError::Wrong("interrupted".to_owned())) } else { Ok(()) }
    }
}

impl Leftover {
    fn take_away(self) {
        match self {
            Leftover::Child(_, handle) => handle.kill(),
            Leftover::Cluster(folder) => kill_cluster(&folder),
            Leftover::Loop(device) => detach(&device),
            Leftover::Attached(attachments) => {
                if let Err(error) = attachments.detach() {
                    eprintln!("{error}");
                }
            }
            Leftover::Scripts(folder) => kill_scripts(&folder),
            Leftover::Folder(path, _lock) => {
                if let Err(error) = std::fs::remove_dir_all(&path) {
                    eprintln!("cannot remove {}: {error}", path.display());
                }
            }
        }
    }
}

/// A daemon that a killed `ashlar up` has just started may not have written its pid file yet: looks until nobody is found.
fn kill_cluster(folder: &Path) {
    for _ in 0..5 {
        let running = process::daemons(folder);
        if running.is_empty() {
            return;
        }
        for daemon in running {
            if let Some(handle) = daemon.open() {
                handle.kill();
            }
        }
    }
}

fn kill_scripts(folder: &Path) {
    // What was killed may just have started something.
    for _ in 0..5 {
        let running = process::marked(MARK, folder);
        running.iter().filter_map(process::Daemon::open).for_each(|handle| handle.kill());
        if running.is_empty() {
            break;
        }
    }
    loops_over(folder).iter().for_each(|device| detach(device));
}

fn detach(device: &Path) {
    match Command::new("losetup").arg("--detach").arg(device).status() {
        Ok(status) if status.success() => {}
        other => eprintln!("cannot detach {}: {other:?}", device.display()),
    }
}

/// Folders whose owner doesn't live any more, with their daemons and loop devices.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let Ok(owner) = File::open(path.join("owner")) else { continue };
        if !is_ours || rustix::fs::flock(&owner, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        eprintln!("taking away what an earlier run has left in {}", path.display());
        kill_cluster(&path.join("cluster"));
        kill_scripts(&path);
        Leftover::Folder(path, owner).take_away();
    }
}

/// Loop devices over files in a folder, as sysfs knows them.
fn loops_over(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir("/sys/block") else { return Vec::new() };
    let is_over = |entry: &std::fs::DirEntry| {
        let file = std::fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        Path::new(file.trim()).starts_with(folder)
    };
    entries.flatten().filter(is_over).map(|entry| Path::new("/dev").join(entry.file_name())).collect()
}

fn spawn_error(program: &str) -> impl FnOnce(std::io::Error) -> BenchError {
    let program = program.to_owned();
    move |source| BenchError::Spawn { program, source }
}

fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let first = command.get_args().next().map(|arg| arg.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{program} {first}")
}

fn failed(command: &str, output: &std::process::Output) -> BenchError {
    let text = String::from_utf8_lossy(&output.stderr);
    let message =
        text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned();
    BenchError::Command { command: command.to_owned(), status: output.status.to_string(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_taken_away_and_nothing_made_afterwards() {
        let parent = tempfile::tempdir().expect("temporary folder");
        let sandbox = Sandbox::default();
        let first = sandbox.folder(parent.path()).expect("made");
        let second = sandbox.folder(parent.path()).expect("made");
        assert!(first != second && first.exists() && second.exists());
        sandbox.clean_to(1);
        assert!(first.exists() && !second.exists());
        sandbox.clean();
        assert!(!first.exists());
        assert!(sandbox.folder(parent.path()).is_err());
    }

    #[test]
    fn what_a_killed_run_has_left_is_swept_and_a_living_one_is_not() {
        let parent = tempfile::tempdir().expect("temporary folder");
        let dead = parent.path().join(format!("{PREFIX}1.0"));
        std::fs::create_dir(&dead).expect("writable");
        File::create(dead.join("owner")).expect("writable");
        let alive = Sandbox::default().folder(parent.path()).expect("made");
        // Its lock went with the sandbox, so this one counts as left behind too once nobody holds it.
        let holder = File::open(alive.join("owner")).expect("readable");
        rustix::fs::flock(&holder, FlockOperation::NonBlockingLockExclusive).expect("free");
        sweep(parent.path());
        assert!(!dead.exists() && alive.exists());
    }

    #[test]
    fn a_failing_program_is_named_with_its_last_line() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one >&2; echo two >&2; exit 3"]);
        let error = Sandbox::default().run(&mut command).expect_err("it failed").to_string();
        assert!(error.contains("two") && error.contains('3'), "{error}");
    }
}
