//! A server over devices in memory, and the tools that tests ask it with.

#![allow(dead_code)] // each test file uses another part of it

pub mod raw;

use ashlar_driver_nbd::memory::{Completing, MemoryDevice};
use ashlar_driver_nbd::{ExportEntry, ExportFuture, Exports, Limits, OpenError, Server};
use ashlar_types::BlockDevice;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};

pub const MIB: u64 = 1 << 20;

/// Devices by name.
pub struct Shelf {
    /// The export "slow" opens when it gets a permit from here.
    pub slow: tokio::sync::Semaphore,
    pub slow_waits: AtomicUsize,
    devices: Mutex<BTreeMap<String, Arc<dyn BlockDevice>>>,
}

impl Exports for Shelf {
    fn list(&self) -> ExportFuture<'_, Vec<ExportEntry>> {
        let entries = self.devices.lock().expect("not poisoned");
        let entries = entries
            .iter()
            .map(|(name, device)| ExportEntry { name: name.clone(), description: device.info().description });
        let entries = entries.collect();
        Box::pin(async move { Ok(entries) })
    }

    fn open<'a>(&'a self, name: &'a str) -> ExportFuture<'a, Arc<dyn BlockDevice>> {
        Box::pin(async move {
            if name == "busy" {
                return Err(OpenError::Busy("volume busy is attached elsewhere".to_owned()));
            }
            if name == "slow" {
                self.slow_waits.fetch_add(1, Ordering::SeqCst);
                self.slow.acquire().await.expect("never closed").forget();
            }
            match self.devices.lock().expect("not poisoned").get(name) {
                Some(device) => Ok(device.clone()),
                None => Err(OpenError::Unknown(format!("no volume is called {name:?}"))),
            }
        })
    }
}

/// Panics on the server's threads: tokio would keep them to itself.
static PANICS: AtomicUsize = AtomicUsize::new(0);
const SERVER_THREAD: &str = "nbd-server";

fn count_panics_of_the_server() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name() == Some(SERVER_THREAD) {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
            report(panic);
        }));
    });
}

/// A running server; stops when dropped.
pub struct Running {
    pub server: Server,
    pub tcp: SocketAddr,
    pub unix: PathBuf,
    pub shelf: Arc<Shelf>,
    pub runtime: tokio::runtime::Runtime,
    pub folder: tempfile::TempDir,
}

impl Running {
    pub fn new(limits: Limits) -> Running {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let shelf = Arc::new(Shelf {
            slow: tokio::sync::Semaphore::new(0),
            slow_waits: AtomicUsize::new(0),
            devices: Mutex::default(),
        });
        let folder = tempfile::tempdir().expect("a temporary folder");
        let unix = folder.path().join("nbd.sock");
        let server = Server::new(shelf.clone(), limits);
        let tcp = runtime.block_on(async {
            server.listen_unix(&unix).await.expect("a free socket");
            server.listen_tcp("127.0.0.1:0".parse().expect("an address")).await.expect("a free port")
        });
        Running { server, tcp, unix, shelf, runtime, folder }
    }

    /// Exports a new device.
    pub fn add(&self, name: &str, size: u64, read_only: bool, completing: Completing) -> Arc<MemoryDevice> {
        let device = MemoryDevice::new(size, read_only, completing);
        self.add_device(name, device.clone());
        device
    }

    pub fn add_device(&self, name: &str, device: Arc<dyn BlockDevice>) {
        self.shelf.devices.lock().expect("not poisoned").insert(name.to_owned(), device);
    }

    pub fn unix_uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.unix.display())
    }

    pub fn tcp_uri(&self, name: &str) -> String {
        format!("nbd://{}/{name}", self.tcp)
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.runtime.block_on(self.server.shutdown());
        if !std::thread::panicking() {
            assert_eq!(PANICS.load(Ordering::SeqCst), 0, "the server panicked");
        }
    }
}

/// Whether a tool is there; a test without its tool says so and passes.
pub fn has(tool: &str, arguments: &[&str]) -> bool {
    let there = works(tool, arguments);
    if !there {
        skipped(&format!("{tool} {} does not work here", arguments.join(" ")));
    }
    there
}

/// Past the test harness, which keeps what is printed by tests that pass.
pub fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    writeln!(std::io::stderr(), "SKIPPED {test}: {why}").expect("stderr is open");
}

pub fn works(tool: &str, arguments: &[&str]) -> bool {
    Command::new(tool).args(arguments).output().is_ok_and(|output| output.status.success())
}

pub fn run(tool: &str, arguments: &[&str]) -> Output {
    Command::new(tool).args(arguments).output().unwrap_or_else(|error| panic!("{tool}: {error}"))
}

/// Runs a tool that must succeed; what it printed.
pub fn succeed(tool: &str, arguments: &[&str]) -> String {
    let output = run(tool, arguments);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{tool} {arguments:?}: {text}");
    text
}

/// Numbers from a seed.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}
