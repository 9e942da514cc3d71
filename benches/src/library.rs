//! A volume through the library, as a gateway would have it, on one thread of its own.

use crate::contents::Contents;
use crate::error::BenchError;
use crate::load::{self, Job, Outcome};
use ashlar_client::{Cluster, Volume};
use ashlar_types::control::{AttachMode, ControlReply, ControlRequest};
use ashlar_types::view::ClusterView;
use ashlar_types::{BLOCK_BYTES, BlockDevice, BootId, Name};
use ashlar_wire_control::ControlClient;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Library {
    runtime: Runtime,
    control: ControlClient,
    volume: Arc<Volume>,
    name: Name,
    gateway: String,
    contents: Option<Contents>,
}

impl Library {
    /// Attaches a volume that nobody has, and opens it. `contents`: what it should hold, if that is known.
    pub fn attach(mds: &[String], name: &str, contents: Option<Contents>) -> Result<Library, BenchError> {
        // One worker: the load comes from the thread that completes requests (load.rs, G3).
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|source| BenchError::Spawn { program: "a runtime".to_owned(), source })?;
        let control = ControlClient::new(mds.iter().cloned())?;
        let name = Name::new(name).map_err(ashlar_client::OpenError::from)?;
        let gateway = format!("bench.{}", std::process::id());
        let boot = BootId(RandomState::new().build_hasher().finish() | 1);
        let volume = runtime.block_on(async {
            let cluster = Cluster::connect(Arc::new(control.clone())).await?;
            let (name, mode) = (name.clone(), AttachMode::Exclusive);
            let request =
                ControlRequest::Attach { name: name.clone(), gateway: gateway.clone(), mode, read_only: false };
            control.request(request).await?;
            let volume = Volume::open(&cluster, &name, &gateway, boot, PATIENCE).await?;
            Ok::<_, BenchError>(volume)
        })?;
        let blocks = volume.info().size / u64::from(BLOCK_BYTES);
        let contents = contents.unwrap_or_else(|| {
            let mut unknown = Contents::new(0, blocks);
            unknown.forget_all();
            unknown
        });
        if contents.blocks() != blocks {
            return Err(BenchError::Wrong(format!("{name} has {blocks} blocks, not {}", contents.blocks())));
        }
        Ok(Library { runtime, control, volume, name, gateway, contents: Some(contents) })
    }

    pub fn blocks(&self) -> u64 {
        self.volume.info().size / u64::from(BLOCK_BYTES)
    }

    /// Runs a job on the library's thread, and waits for its end.
    pub fn run(&mut self, job: Job) -> Result<Outcome, BenchError> {
        let contents =
            self.contents.take().ok_or_else(|| BenchError::Wrong("an earlier job did not end".to_owned()))?;
        let device: Arc<dyn BlockDevice> = self.volume.clone();
        let task = self.runtime.spawn(load::run(device, job, contents));
        let joined = self.runtime.block_on(task);
        let (result, contents) =
            joined.map_err(|error| BenchError::Wrong(format!("the load generator ended: {error}")))?;
        self.contents = contents;
        result
    }

    /// For other threads, while a job runs.
    pub fn watcher(&self) -> Watcher {
        Watcher { runtime: self.runtime.handle().clone(), control: self.control.clone() }
    }

    /// Gives the volume back, and what it holds.
    pub fn detach(mut self) -> Result<Option<Contents>, BenchError> {
        let (volume, control) = (&self.volume, &self.control);
        let request = ControlRequest::Detach { name: self.name.clone(), gateway: Some(self.gateway.clone()) };
        self.runtime.block_on(async {
            volume.close(Duration::from_secs(5)).await;
            control.request(request).await
        })?;
        Ok(self.contents.take())
    }
}

/// Watches a cluster's configuration, cheaply.
#[derive(Clone, Debug)]
pub struct Watcher {
    runtime: tokio::runtime::Handle,
    control: ControlClient,
}

impl Watcher {
    pub fn view(&self) -> Result<ClusterView, BenchError> {
        let request = ControlRequest::ViewSince { revision: ashlar_types::Revision(0) };
        match self.runtime.block_on(self.control.request(request))? {
            ControlReply::View(view) => Ok(*view),
            other => Err(BenchError::Wrong(format!("the metadata service answered {other:?} instead of a view"))),
        }
    }

    /// Waits until every PG has all its copies in sync and a primary; how long it took.
    pub fn wait_in_sync(&self, patience: Duration) -> Result<Duration, BenchError> {
        self.wait_for("getting all PGs in sync", patience, is_in_sync)
    }

    pub fn wait_for(
        &self,
        what: &str,
        patience: Duration,
        is_so: impl Fn(&ClusterView) -> bool,
    ) -> Result<Duration, BenchError> {
        let begin = Instant::now();
        while !is_so(&self.view()?) {
            if begin.elapsed() > patience {
                return Err(BenchError::Late { what: what.to_owned(), waited: patience });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(begin.elapsed())
    }
}

pub fn is_in_sync(view: &ClusterView) -> bool {
    let is_whole = |pg: &ashlar_types::view::PgConfig| {
        let primary = pg.primary.and_then(|osd| view.osds.get(&osd));
        pg.in_sync.len() == pg.members.len() && primary.is_some_and(|osd| osd.up && osd.boot == pg.primary_boot)
    };
    !view.pgs.is_empty() && view.osds.values().all(|osd| osd.up) && view.pgs.values().all(is_whole)
}
