//! The production form: every daemon by hand with its own configuration file, three metadata nodes, nothing of `up`.

use crate::support::cluster::{Daemons, binary, free_port};
use crate::support::history::History;
use crate::support::nbd::Nbd;
use crate::support::tools::wait_until;
use crate::support::{run, run_ok};
use serde_json::Value;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const IDENTITY: &str = "00000000000000000000000000c0ffee";

/// Three metadata nodes, three OSDs and a gateway, each started by its configuration file.
struct ByHand {
    daemons: Daemons,
    folder: tempfile::TempDir,
    mds: Vec<String>,
}

impl ByHand {
    fn start() -> ByHand {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mds: Vec<String> = (0..3).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let mut by_hand = ByHand { daemons: Daemons::default(), folder, mds };
        (1..=3).for_each(|id| by_hand.start_mds(id));
        (1..=3).for_each(|id| by_hand.start_new_osd(id));
        let config = format!(
            "name = \"here\"\nmds = {:?}\nnbd_listen = \"127.0.0.1:{}\"\nnbd_socket = \"{}\"\n",
            by_hand.mds,
            free_port(),
            by_hand.folder.path().join("nbd.sock").display()
        );
        by_hand.run_daemon("gateway", "gateway", &config);
        by_hand
    }

    fn start_mds(&mut self, id: usize) {
        let mut config = format!(
            "id = {id}\ndata_dir = \"{}\"\nlisten = \"{}\"\ncluster = \"{IDENTITY}\"\n",
            self.folder.path().join(format!("data-{id}")).display(),
            self.mds[id - 1]
        );
        for (peer, address) in (1..).zip(&self.mds) {
            config.push_str(&format!("[[peers]]\nid = {peer}\naddress = \"{address}\"\n"));
        }
        self.run_daemon(&format!("mds-{id}"), "mds", &config);
    }

    /// `osd create` prints the configuration that the daemon takes.
    fn start_new_osd(&mut self, id: usize) {
        let disk = self.folder.path().join(format!("disk-{id}")).display().to_string();
        let host = format!("host-{id}");
        let printed = self.json(&["osd", "create", "--disk", &disk, "--size", "1GiB", "--host", &host]);
        assert_eq!(printed["osd"], id);
        let again = run(&mut self.command(&["osd", "create", "--disk", &disk]));
        assert!(again.stderr.contains("--force"), "a disk in use is not taken: {}", again.stderr);
        let config = printed["config_toml"].as_str().expect("the configuration").to_owned();
        self.run_daemon(&format!("osd-{id}"), "osd", &config);
    }

    fn run_daemon(&mut self, name: &str, subcommand: &str, config: &str) {
        let path = self.folder.path().join(format!("{name}.toml"));
        std::fs::write(&path, config).expect("ours");
        let log = std::fs::File::create(self.folder.path().join(format!("{name}.log"))).expect("ours");
        let mut command = Command::new(binary());
        command.arg(subcommand).arg("--config").arg(path).stderr(log);
        self.daemons.start(name, &mut command);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).args(["--cluster", &self.mds.join(",")]);
        command
    }

    fn ok(&self, arguments: &[&str]) -> String {
        run_ok(&mut self.command(arguments))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&run_ok(self.command(arguments).arg("--json"))).expect("JSON")
    }

    fn leader(&self) -> usize {
        let status = self.json(&["status"]);
        let leader = status["mds_leader"].as_str().expect("a leader");
        self.mds.iter().position(|address| address == leader).expect("one of ours") + 1
    }

    /// Waits for the gateway, too, which starts when it likes.
    fn attach(&self, name: &str) -> String {
        let mut address = String::new();
        wait_until("the gateway serves", Duration::from_secs(30), || {
            let attach = ["volume", "attach", name, "--gateway", "here", "--shared"];
            let attached = run(self.command(&attach).arg("--json"));
            if !attached.ok {
                return Err(attached.stderr);
            }
            let attached: Value = serde_json::from_str(&attached.stdout).map_err(|error| error.to_string())?;
            address = attached["nbd_address"].as_str().unwrap_or_default().to_owned();
            Ok(())
        });
        address
    }
}

#[test]
fn three_metadata_nodes_lose_their_leader_and_io_goes_on() {
    let mut cluster = ByHand::start();
    wait_until("three OSDs are up", Duration::from_secs(30), || {
        let osds = cluster.json(&["osd", "list"]);
        let up = osds.as_array().map_or(0, |all| all.iter().filter(|osd| osd["up"] == true).count());
        if up == 3 { Ok(()) } else { Err(osds.to_string()) }
    });
    cluster.ok(&["pool", "create", "default", "--replicas", "3"]);
    cluster.ok(&["volume", "create", "v", "--size", "64MiB"]);
    let refused = run(&mut cluster.command(&["volume", "attach", "v"]));
    assert!(refused.stderr.contains("--gateway"), "{}", refused.stderr);
    let address = cluster.attach("v");

    // A writer goes on while the leader dies, an OSD dies, and the leader comes back.
    let stop = AtomicBool::new(false);
    let written = AtomicU64::new(0);
    let mut history = History::default();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut nbd = Nbd::connect(&address, "v").expect("served");
            history.write_until(&mut nbd, 0, 4000, &stop, &written)
        });
        let more = |what: &str| {
            let before = written.load(Ordering::Relaxed);
            wait_until(what, Duration::from_secs(30), || match written.load(Ordering::Relaxed) {
                now if now > before + 200 => Ok(()),
                now => Err(format!("{now} writes")),
            });
        };
        more("writes are answered");
        let leader = cluster.leader();
        cluster.daemons.kill(&format!("mds-{leader}"));
        more("writes go on without the leader");
        // Another leads, and takes notice of an OSD's death.
        assert_ne!(cluster.leader(), leader);
        cluster.daemons.kill("osd-3");
        more("writes go on without an OSD");
        cluster.start_mds(leader);
        cluster.ok(&["volume", "create", "w", "--size", "1GiB"]);
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("no panic").expect("no write failed");
    });
    let mut nbd = Nbd::connect(&address, "v").expect("served");
    history.check(&mut nbd).expect("every acknowledged write is there");
}
