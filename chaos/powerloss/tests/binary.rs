//! The `powerloss` binary and its control socket, as scripts use them.

mod support;

use ashlar_powerloss::ask;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_powerloss");

struct Daemon {
    process: Child,
    folder: TempDir,
}

impl Daemon {
    fn start() -> Option<Daemon> {
        if support::fuse_is_missing() {
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("mnt")).expect("mkdir");
        let mut process = Command::new(BINARY)
            .arg("mount")
            .arg(folder.path().join("mnt"))
            .arg("--control")
            .arg(folder.path().join("control"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("it says something");
        assert_eq!(line, "ready\n");
        Some(Daemon { process, folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("mnt").join(name)
    }

    fn ask(&self, command: &str) -> String {
        ask(&self.folder.path().join("control"), command).expect("it answers")
    }

    fn is_mounted(&self) -> bool {
        let mount_point = format!(" {} ", self.folder.path().join("mnt").display());
        fs::read_to_string("/proc/self/mounts").expect("proc").contains(&mount_point)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            let pid = Pid::from_child(&self.process);
            kill_process(pid, Signal::TERM).expect("it runs");
            self.process.wait().expect("it ends");
        }
    }
}

#[test]
fn the_socket_fails_and_revives_the_mount() {
    let Some(daemon) = Daemon::start() else { return };
    let mut file = File::create(daemon.path("synced")).expect("create");
    file.write_all(b"synced").expect("write");
    file.sync_all().expect("fsync");
    drop(file);
    fs::write(daemon.path("unsynced"), vec![1; 100_000]).expect("write");
    assert_eq!(daemon.ask("unsynced"), "ok unsynced_files=1 unsynced_bytes=100352 unsynced_directory_ops=1");

    let report = daemon.ask("loss 42");
    assert!(report.starts_with("ok seed=42 unsynced_files=1 unsynced_bytes=100352 "), "{report}");
    assert!(fs::read(daemon.path("synced")).is_err());
    assert_eq!(daemon.ask("power-on"), "ok");
    assert_eq!(fs::read(daemon.path("synced")).expect("read"), b"synced");

    assert_eq!(daemon.ask("arm 0 7"), "ok");
    assert!(fs::write(daemon.path("more"), "x").is_err());
    assert!(daemon.ask("wait 10").starts_with("ok seed=7 "));
    assert_eq!(daemon.ask("remount"), "ok");
    assert_eq!(fs::read(daemon.path("synced")).expect("read"), b"synced");
    assert!(daemon.ask("stats").contains(" losses=2 "));
}

#[test]
fn bad_commands_get_one_line_and_harm_nothing() {
    let Some(daemon) = Daemon::start() else { return };
    assert_eq!(daemon.ask("loss"), "error unknown command \"loss\"");
    assert!(daemon.ask("loss -1").starts_with("error \"-1\": "));
    assert_eq!(daemon.ask(&"x".repeat(10_000)), "error command too long");
    assert_eq!(daemon.ask("wait 0"), "error no power loss struck in time");
    assert_eq!(daemon.ask("sync"), "ok");
}

#[test]
fn quit_and_sigterm_unmount() {
    let Some(mut daemon) = Daemon::start() else { return };
    assert!(daemon.is_mounted());
    assert_eq!(daemon.ask("quit"), "ok");
    assert!(daemon.process.wait().expect("it ends").success());
    assert!(!daemon.is_mounted());

    let Some(mut daemon) = Daemon::start() else { return };
    kill_process(Pid::from_child(&daemon.process), Signal::TERM).expect("it runs");
    assert!(daemon.process.wait().expect("it ends").success());
    assert!(!daemon.is_mounted());
}

fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().expect("the binary starts")
}

#[test]
fn bad_arguments_fail_with_a_reason() {
    for (arguments, reason) in [
        (&["mount", "/nonexistent", "--control", "/nonexistent/c"][..], "/nonexistent"),
        (&["mount", "/tmp"], "--control is missing"),
        (&["mount", "/tmp", "--control", "c", "--capacity", "1G"], "--capacity \"1G\""),
        (&["mount", "/tmp", "--control"], "--control: not understood"),
        (&["ask", "/nonexistent/socket", "stats"], "control socket /nonexistent/socket"),
        (&[], "powerloss mount MOUNTPOINT"),
    ] {
        let output = run(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(said.contains(reason), "{arguments:?}: {said}");
    }
}
