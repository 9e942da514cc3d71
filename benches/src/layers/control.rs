//! The control interface in this process, so that what is measured is the service and not the start of a program.

use crate::error::BenchError;
use crate::library::{all_in_order, control_runtime};
use ashlar_client::OpenError;
use ashlar_types::control::{ControlReply, ControlRequest, Provision, SnapshotState, VolumeInfo};
use ashlar_types::job::JobInfo;
use ashlar_types::view::ClusterView;
use ashlar_types::{DiskName, JobId, Name, Revision};
use ashlar_wire_control::ControlClient;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Between two looks at what takes milliseconds.
const PAUSE: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Control {
    runtime: Runtime,
    client: ControlClient,
}

impl Control {
    pub fn connect(mds: &[String]) -> Result<Control, BenchError> {
        let runtime = control_runtime()?;
        let client = runtime.block_on(async { ControlClient::new(mds.iter().cloned()) })?;
        let control = Control { runtime, client };
        // The connection is made with the first request, which is not to be measured.
        control.view()?;
        Ok(control)
    }

    fn ask(&self, request: ControlRequest) -> Result<ControlReply, BenchError> {
        Ok(self.runtime.block_on(self.client.request(request))?)
    }

    pub fn create(&self, volume: &str, bytes: u64, provision: Provision) -> Result<VolumeInfo, BenchError> {
        let name = name(volume)?;
        match self.ask(ControlRequest::VolumeCreate { name, size: bytes, pool: None, provision })? {
            ControlReply::Volume(volume) => Ok(volume),
            reply => Err(unexpected("a volume", &reply)),
        }
    }

    pub fn volume(&self, volume: &str) -> Result<VolumeInfo, BenchError> {
        match self.ask(ControlRequest::VolumeShow { name: name(volume)? })? {
            ControlReply::Volume(volume) => Ok(volume),
            reply => Err(unexpected("a volume", &reply)),
        }
    }

    /// With its snapshots.
    pub fn delete_volume(&self, volume: &str) -> Result<(), BenchError> {
        self.ask(ControlRequest::VolumeDelete { name: name(volume)?, with_snapshots: true }).map(|_| ())
    }

    /// How long it took until nothing that is written can still come into it.
    pub fn snapshot(&self, volume: &str, snapshot: &str) -> Result<Duration, BenchError> {
        let begin = Instant::now();
        self.runtime.block_on(take_snapshot(self.client.clone(), name(volume)?, name(snapshot)?))?;
        Ok(begin.elapsed())
    }

    /// Snapshots of these names of each of the volumes: those of one volume one after the other, of different ones at a time.
    pub fn snapshots(&self, volumes: &[String], snapshots: &[String]) -> Result<(), BenchError> {
        let snapshots = snapshots.iter().map(|snapshot| name(snapshot)).collect::<Result<Vec<_>, _>>()?;
        let volumes = volumes.iter().map(|volume| name(volume)).collect::<Result<Vec<_>, _>>()?;
        let of_volume = |volume: Name| {
            let (client, snapshots) = (self.client.clone(), snapshots.clone());
            async move {
                for snapshot in snapshots {
                    take_snapshot(client.clone(), volume.clone(), snapshot).await?;
                }
                Ok(())
            }
        };
        self.runtime.block_on(all_in_order(volumes.into_iter().map(of_volume))).map(|_| ())
    }

    pub fn delete_snapshot(&self, volume: &str, snapshot: &str) -> Result<(), BenchError> {
        self.ask(ControlRequest::SnapshotDelete { volume: name(volume)?, name: name(snapshot)? }).map(|_| ())
    }

    /// `source` is `VOLUME@SNAPSHOT`. All of them with one request; how long that took.
    pub fn clones(&self, source: &str, names: &[String]) -> Result<Duration, BenchError> {
        let source: DiskName = source.parse().map_err(OpenError::from)?;
        let names = names.iter().map(|clone| name(clone)).collect::<Result<Vec<_>, _>>()?;
        let wanted = names.len();
        let begin = Instant::now();
        match self.ask(ControlRequest::VolumeClone { source, names, pool: None })? {
            ControlReply::Volumes(made) if made.len() == wanted => Ok(begin.elapsed()),
            reply => Err(unexpected("clones", &reply)),
        }
    }

    pub fn jobs(&self) -> Result<Vec<JobInfo>, BenchError> {
        match self.ask(ControlRequest::JobList)? {
            ControlReply::Jobs(jobs) => Ok(jobs),
            reply => Err(unexpected("jobs", &reply)),
        }
    }

    pub fn cancel(&self, job: JobId) -> Result<(), BenchError> {
        self.ask(ControlRequest::JobCancel { job }).map(|_| ())
    }

    pub fn view(&self) -> Result<ClusterView, BenchError> {
        match self.ask(ControlRequest::ViewSince { revision: Revision(0) })? {
            ControlReply::View(view) => Ok(*view),
            reply => Err(unexpected("a view", &reply)),
        }
    }

    /// Until there is something to be had; how long it took.
    pub fn wait_for<T>(
        &self,
        what: &str,
        pause: Duration,
        mut look: impl FnMut(&Control) -> Result<Option<T>, BenchError>,
    ) -> Result<T, BenchError> {
        let begin = Instant::now();
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            if begin.elapsed() > super::PATIENCE {
                return Err(BenchError::Late { what: what.to_owned(), waited: super::PATIENCE });
            }
            std::thread::sleep(pause);
        }
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

pub fn name(text: &str) -> Result<Name, BenchError> {
    Ok(Name::new(text).map_err(OpenError::from)?)
}

async fn take_snapshot(client: ControlClient, volume: Name, name: Name) -> Result<(), BenchError> {
    let deadline = Instant::now() + PATIENCE;
    let create =
        ControlRequest::SnapshotCreate { volume: volume.clone(), name: name.clone(), taken_at: 0, thin: false };
    let mut reply = client.request(create).await?;
    loop {
        match reply {
            ControlReply::Snapshot(info) if info.state == SnapshotState::Available => return Ok(()),
            ControlReply::Snapshot(_) => {}
            other => return Err(unexpected("a snapshot", &other)),
        }
        if Instant::now() > deadline {
            let what = format!("passing the barrier of snapshot {volume}@{name}");
            return Err(BenchError::Late { what, waited: PATIENCE });
        }
        tokio::time::sleep(PAUSE).await;
        reply = client.request(ControlRequest::SnapshotShow { volume: volume.clone(), name: name.clone() }).await?;
    }
}

fn unexpected(wanted: &str, reply: &ControlReply) -> BenchError {
    BenchError::Wrong(format!("the metadata service answered {reply:?} instead of {wanted}"))
}
