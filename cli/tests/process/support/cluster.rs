//! A cluster of its own for one test.

use super::tools::{Ran, run, wait_until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// Stopped, and its folder removed, when dropped.
#[derive(Debug)]
pub struct Cluster {
    folder: TempDir,
}

impl Cluster {
    /// A folder without a cluster.
    pub fn nothing() -> Cluster {
        Cluster { folder: tempfile::Builder::new().prefix("ashlar-test-").tempdir().expect("a temporary folder") }
    }

    /// Three OSDs of 2 GiB, or what the options say; with ports that no other test takes while it is down.
    pub fn up(options: &[&str]) -> Cluster {
        let cluster = Cluster::nothing();
        cluster.keep_ports();
        cluster.up_again(options);
        cluster
    }

    /// The same, with the usual ports, or the next free ones.
    pub fn up_at_usual_ports(options: &[&str]) -> Cluster {
        let cluster = Cluster::nothing();
        cluster.up_again(options);
        cluster
    }

    /// Decides the ports before `up` does, as a person may.
    pub fn keep_ports(&self) {
        let identity = format!("{:032x}", u128::from(std::process::id()) << 64 | u128::from(free_port()));
        let socket = self.dir().join("gateway/nbd.sock");
        std::fs::create_dir(self.dir().join("gateway")).expect("ours");
        let text = format!(
            "version = 1\ncluster = \"{identity}\"\nosd_port_first = {}\n\n[gateway]\nname = \"gateway.1\"\nnbd = \"127.0.0.1:{}\"\n\
             nbd_socket = \"{}\"\n\n[[mds]]\nid = 1\naddress = \"127.0.0.1:{}\"\n",
            free_ports(OSD_PORTS),
            free_port(),
            socket.display(),
            free_port(),
        );
        std::fs::write(self.dir().join("cluster.toml"), text).expect("ours");
    }

    pub fn up_again(&self, options: &[&str]) -> Value {
        let mut arguments = vec!["up"];
        arguments.extend(options);
        let has_osds = self.dir().join("osd.1").exists() || options.contains(&"--disk");
        if !has_osds && !options.contains(&"--osd-size") {
            arguments.extend(["--osd-size", "2GiB"]);
        }
        self.json(&arguments)
    }

    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).env("ASHLAR_CLUSTER", self.dir());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    /// Its output; it must succeed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert!(ran.ok, "ashlar {arguments:?}: {}\n{}{}\n{}", ran.status, ran.stdout, ran.stderr, self.logs());
        ran.stdout
    }

    /// Its error; it must fail with one clear line and nothing on stdout.
    pub fn fails(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert!(!ran.ok, "ashlar {arguments:?} succeeded: {}", ran.stdout);
        assert_eq!(ran.stdout, "", "ashlar {arguments:?}");
        // Another test's cluster may have taken a port in between, which `up` tells.
        let lines: Vec<&str> =
            ran.stderr.lines().filter(|line| !line.contains("is taken by another program")).collect();
        assert_eq!(lines.len(), 1, "ashlar {arguments:?}: {}", ran.stderr);
        assert!(lines[0].starts_with("ashlar: "), "{}", ran.stderr);
        assert!(!lines[0].contains("panicked"), "{}", ran.stderr);
        lines[0].to_owned()
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        let text = self.ok(&all);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("ashlar {all:?}: {error}: {text}"))
    }

    /// A new volume, attached.
    pub fn volume(&self, name: &str, size: &str) -> Export {
        self.ok(&["volume", "create", name, "--size", size]);
        self.attach(&[name])
    }

    pub fn attach(&self, options: &[&str]) -> Export {
        let mut arguments = vec!["volume", "attach"];
        arguments.extend(options);
        let attached = self.json(&arguments);
        let text = |field: &str| attached[field].as_str().unwrap_or_else(|| panic!("{field} in {attached}")).to_owned();
        Export { uri: text("uri"), unix_uri: text("unix_uri"), address: text("nbd_address") }
    }

    pub fn status(&self) -> Value {
        self.json(&["status"])
    }

    /// Of all OSDs. One that has just started says soon what it uses.
    pub fn used_bytes(&self) -> u64 {
        let mut used = 0;
        wait_until("every OSD says what it uses", Duration::from_secs(20), || {
            let osds = self.json(&["osd", "list"]);
            let each = osds.as_array().expect("a list").iter().map(|osd| osd["used"].as_u64().ok_or(osd));
            used = each.sum::<Result<u64, _>>().map_err(ToString::to_string)?;
            Ok(())
        });
        used
    }

    /// All placement groups have all their members in sync.
    pub fn wait_in_sync(&self, patience: Duration) {
        wait_until("not in sync", patience, || {
            let status = self.status();
            let pgs = &status["pgs"];
            if pgs["active"] == pgs["total"] && pgs["total"] != 0 { Ok(()) } else { Err(pgs.to_string()) }
        });
    }

    /// The processes of the folder that live.
    pub fn pids(&self) -> Vec<(String, i32)> {
        let Ok(entries) = std::fs::read_dir(self.dir().join("run")) else { return Vec::new() };
        let mut pids = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            let Some(name) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".pid")) else {
                continue;
            };
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let Some(pid) = text.split(' ').next().and_then(|text| text.trim().parse().ok()) else { continue };
            if is_of_folder(pid, self.dir()) {
                pids.push((name.to_owned(), pid));
            }
        }
        pids.sort();
        pids
    }

    pub fn pid(&self, name: &str) -> Option<i32> {
        self.pids().into_iter().find(|(of, _)| of == name).map(|(_, pid)| pid)
    }

    /// SIGKILL to every process at once.
    pub fn kill_everything(&self) {
        let pids = self.pids();
        pids.iter().for_each(|(_, pid)| signal(*pid, rustix::process::Signal::KILL));
        wait_until("processes live", Duration::from_secs(20), || match self.pids() {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        });
    }

    /// Every disk of the stopped cluster is without a fault.
    pub fn fsck_all(&self) {
        let text = std::fs::read_to_string(self.dir().join("cluster.toml")).expect("written by up");
        let disks =
            text.lines().filter_map(|line| line.strip_prefix("disk = \"")).map(|rest| rest.trim_end_matches('"'));
        let mut count = 0;
        for disk in disks {
            self.ok(&["osd", "fsck", disk]);
            count += 1;
        }
        assert!(count > 0, "{text}");
    }

    /// The ends of the daemons' logs, for a failed test's reader.
    pub fn logs(&self) -> String {
        let Ok(entries) = std::fs::read_dir(self.dir().join("logs")) else { return String::new() };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let mut text = String::new();
        for path in paths {
            let log = std::fs::read(&path).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).into_owned();
            let lines: Vec<&str> = log.lines().collect();
            text.push_str(&format!("--- {}\n", path.display()));
            text.push_str(&lines[lines.len().saturating_sub(25)..].join("\n"));
            text.push('\n');
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        self.pids().iter().for_each(|(_, pid)| signal(*pid, rustix::process::Signal::KILL));
    }
}

/// An attached volume.
#[derive(Clone, Debug)]
pub struct Export {
    pub uri: String,
    pub unix_uri: String,
    pub address: String,
}

/// More than any test's cluster has OSDs.
const OSD_PORTS: u16 = 8;

/// Another one at each call, below those that the kernel gives to clients and above the usual ones.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// The first of so many neighbours that no other test gets.
fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = (std::process::id() % 20) as u16 * 500;
    loop {
        let first = 20_000 + (spread + NEXT.fetch_add(count, Ordering::Relaxed)) % 10_000;
        if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
}

/// Daemons that a test has started by itself; killed when dropped.
#[derive(Debug, Default)]
pub struct Daemons(BTreeMap<String, Child>);

impl Daemons {
    pub fn start(&mut self, name: &str, command: &mut Command) {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the program is built");
        self.0.insert(name.to_owned(), child);
    }

    pub fn kill(&mut self, name: &str) {
        let mut child = self.0.remove(name).expect("it was started");
        // It may have ended by itself, when its disk did.
        let _ = child.kill();
        child.wait().expect("our own child");
    }

    pub fn kill_all(&mut self) {
        let names: Vec<String> = self.0.keys().cloned().collect();
        names.iter().for_each(|name| self.kill(name));
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// The program under test.
pub fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_ashlar"))
}

pub fn signal(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether a process was started for this folder: never signal a stranger.
fn is_of_folder(pid: i32, folder: &Path) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&command).contains(&*folder.to_string_lossy())
}
