//! A cluster for measuring, driven by the `ashlar` command as a person would.

use crate::accounting::resident;
use crate::disks::{Disk, Disks};
use crate::error::BenchError;
use crate::process::{self, Daemon};
use crate::sandbox::Sandbox;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Cluster {
    ashlar: PathBuf,
    folder: PathBuf,
    sandbox: Sandbox,
    /// By the name of the OSD.
    disks: Vec<(String, Disk)>,
    mds: Vec<String>,
}

impl Cluster {
    /// `ashlar up` on these disks.
    pub fn up(sandbox: &Sandbox, ashlar: &Path, disks: &Disks) -> Result<Cluster, BenchError> {
        let folder = disks.folder.join("cluster");
        sandbox.add_cluster(&folder)?;
        let mut cluster =
            Cluster { ashlar: ashlar.to_owned(), folder, sandbox: sandbox.clone(), disks: Vec::new(), mds: Vec::new() };
        let mut command = Command::new(ashlar);
        command.arg("up").arg("--json").arg("--dir").arg(&cluster.folder);
        for disk in &disks.osds {
            command.arg("--disk").arg(&disk.path);
        }
        let told = cluster.json(&mut command)?;
        cluster.mds = strings(&told["mds"]);
        for osd in told["osds"].as_array().into_iter().flatten() {
            let path = osd["disk"].as_str().unwrap_or_default();
            let disk = disks.osds.iter().find(|disk| disk.path == Path::new(path)).cloned();
            let disk = disk.unwrap_or(Disk { path: path.into(), loop_name: None });
            cluster.disks.push((format!("osd.{}", osd["id"]), disk));
        }
        if cluster.mds.is_empty() || cluster.disks.len() < disks.osds.len().max(1) {
            let reason = format!("metadata nodes or OSDs are missing in {told}");
            return Err(BenchError::Output { command: "ashlar up".to_owned(), reason });
        }
        Ok(cluster)
    }

    /// `ashlar ARGS --cluster FOLDER --json`.
    pub fn ashlar(&self, args: &[&str]) -> Result<Value, BenchError> {
        let mut command = Command::new(&self.ashlar);
        command.args(args).arg("--json").arg("--cluster").arg(&self.folder);
        self.json(&mut command)
    }

    fn json(&self, command: &mut Command) -> Result<Value, BenchError> {
        let printed = self.sandbox.run(command)?;
        serde_json::from_slice(&printed).map_err(|error| BenchError::Output {
            command: format!("{command:?}"),
            reason: format!("{error} in {:?}", String::from_utf8_lossy(&printed)),
        })
    }

    pub fn down(&self) -> Result<(), BenchError> {
        self.ashlar(&["down"]).map(|_| ())
    }

    /// The daemons that run.
    pub fn daemons(&self) -> Vec<Daemon> {
        process::daemons(&self.folder)
    }

    pub fn disks(&self) -> impl Iterator<Item = &(String, Disk)> {
        self.disks.iter()
    }

    pub fn osds(&self) -> impl Iterator<Item = u32> + '_ {
        self.disks.iter().filter_map(|(name, _)| name.strip_prefix("osd.")?.parse().ok())
    }

    pub fn mds(&self) -> &[String] {
        &self.mds
    }

    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// SIGKILL, straight to the process: nobody testifies its death.
    pub fn kill_osd(&self, osd: u32) -> Result<(), BenchError> {
        let name = format!("osd.{osd}");
        let handle = self.daemons().into_iter().find(|daemon| daemon.name == name).and_then(|daemon| daemon.open());
        handle.ok_or_else(|| BenchError::Wrong(format!("{name} does not run")))?.kill();
        Ok(())
    }

    pub fn start_osd(&self, osd: u32) -> Result<(), BenchError> {
        self.ashlar(&["osd", "start", &osd.to_string()]).map(|_| ())
    }

    /// Waits until `ashlar status` finds every PG with all its copies.
    pub fn wait_in_sync(&self, patience: Duration) -> Result<Duration, BenchError> {
        let begin = Instant::now();
        loop {
            let status = self.ashlar(&["status"])?;
            let pgs = &status["pgs"];
            let total = pgs["total"].as_u64().unwrap_or(0);
            if total > 0 && pgs["active"].as_u64() == Some(total) {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > patience {
                let what = format!("getting all PGs in sync ({pgs})");
                return Err(BenchError::Late { what, waited: patience });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Resident memory of each daemon: name, bytes now, bytes at most.
    pub fn memory(&self) -> Vec<(String, u64, u64)> {
        let memory = |daemon: Daemon| resident(daemon.pid).map(|(now, most)| (daemon.name, now, most));
        self.daemons().into_iter().filter_map(memory).collect()
    }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}
