//! One client: volumes through the library, as a gateway would have them, with connections and one thread of its own.

use crate::contents::Contents;
use crate::error::BenchError;
use crate::joined::Joined;
use crate::load::{self, Job, Outcome};
use ashlar_client::{Cluster, Volume};
use ashlar_types::control::{AttachMode, ControlReply, ControlRequest, Provision};
use ashlar_types::view::ClusterView;
use ashlar_types::{BLOCK_BYTES, BlockDevice, BootId, DiskName, Name};
use ashlar_wire_control::ControlClient;
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(30);
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// Control requests that are under way at a time.
const CONTROL_DEPTH: usize = 32;
/// Clients of this process so far: a gateway has a name for each.
static CLIENTS: AtomicU32 = AtomicU32::new(0);

pub struct Library {
    runtime: Runtime,
    control: ControlClient,
    volumes: Vec<Arc<Volume>>,
    gateway: String,
    device: Arc<dyn BlockDevice>,
    contents: Option<Contents>,
}

/// A job that runs.
#[derive(Debug)]
pub struct Running(JoinHandle<(Result<Outcome, BenchError>, Option<Contents>)>);

impl Library {
    /// Attaches a volume that nobody has, and opens it. `contents`: what it should hold, if that is known.
    pub fn attach(mds: &[String], name: &str, contents: Option<Contents>) -> Result<Library, BenchError> {
        Library::attach_all(&Attachments::new(mds, &[name.to_owned()]), AttachMode::Exclusive, contents)
    }

    /// Attaches volumes of one size, which are one device for jobs, one behind the other.
    pub fn attach_all(
        attachments: &Attachments,
        mode: AttachMode,
        contents: Option<Contents>,
    ) -> Result<Library, BenchError> {
        let Attachments { mds, names, gateway } = attachments.clone();
        let runtime = load_runtime()?;
        let control = ControlClient::new(mds)?;
        let volumes = runtime.block_on(open_all(&control, &names, &gateway, mode))?;
        let device = Joined::of(volumes.iter().map(|volume| volume.clone() as Arc<dyn BlockDevice>).collect())?;
        let blocks = device.info().size / u64::from(BLOCK_BYTES);
        let contents = contents.unwrap_or_else(|| Contents::unknown(blocks));
        if contents.blocks() != blocks {
            return Err(BenchError::Wrong(format!("{names:?} have {blocks} blocks, not {}", contents.blocks())));
        }
        Ok(Library { runtime, control, volumes, gateway, device, contents: Some(contents) })
    }

    pub fn blocks(&self) -> u64 {
        self.device.info().size / u64::from(BLOCK_BYTES)
    }

    /// What the volumes should hold; none while a job runs.
    pub fn contents(&self) -> Option<&Contents> {
        self.contents.as_ref()
    }

    /// Runs a job on the library's thread, and waits for its end.
    pub fn run(&mut self, job: Job) -> Result<Outcome, BenchError> {
        let running = self.start(job)?;
        self.finish(running)
    }

    /// The same in two steps, so that several clients can run at a time.
    pub fn start(&mut self, job: Job) -> Result<Running, BenchError> {
        let contents =
            self.contents.take().ok_or_else(|| BenchError::Wrong("an earlier job did not end".to_owned()))?;
        Ok(Running(self.runtime.spawn(load::run(self.device.clone(), job, contents))))
    }

    pub fn finish(&mut self, running: Running) -> Result<Outcome, BenchError> {
        let joined = self.runtime.block_on(running.0);
        let (result, contents) =
            joined.map_err(|error| BenchError::Wrong(format!("the load generator ended: {error}")))?;
        self.contents = contents;
        result
    }

    /// For other threads, while a job runs.
    pub fn watcher(&self) -> Watcher {
        Watcher { runtime: self.runtime.handle().clone(), control: self.control.clone() }
    }

    /// Ends the sessions; the volumes stay attached.
    pub fn close(&self) {
        self.runtime.block_on(async {
            for volume in &self.volumes {
                volume.close(CLOSE_PATIENCE).await;
            }
        });
    }

    /// Gives the volumes back, and what they hold.
    pub fn detach(mut self) -> Result<Option<Contents>, BenchError> {
        let detach = |volume: Arc<Volume>| {
            let (control, gateway) = (self.control.clone(), self.gateway.clone());
            async move {
                volume.close(CLOSE_PATIENCE).await;
                let request = ControlRequest::Detach { name: volume.name().clone(), gateway: Some(gateway) };
                control.request(request).await.map(|_| ()).map_err(BenchError::from)
            }
        };
        self.runtime.block_on(all_in_order(self.volumes.drain(..).map(detach)))?;
        Ok(self.contents.take())
    }
}

/// Of a client that isn't there yet.
pub fn gateway_name() -> String {
    format!("bench.{}.{}", std::process::id(), CLIENTS.fetch_add(1, Ordering::Relaxed))
}

/// Makes volumes of one size, many at a time.
pub fn create_volumes(mds: &[String], names: Vec<String>, bytes: u64) -> Result<(), BenchError> {
    let runtime = control_runtime()?;
    runtime.block_on(async {
        let control = ControlClient::new(mds.iter().cloned())?;
        let create = |name: String| {
            let control = control.clone();
            async move {
                let name = Name::new(&name).map_err(ashlar_client::OpenError::from)?;
                control
                    .request(ControlRequest::VolumeCreate { name, size: bytes, pool: None, provision: Provision::Thin })
                    .await?;
                Ok::<(), BenchError>(())
            }
        };
        all_in_order(names.into_iter().map(create)).await.map(|_| ())
    })
}

/// What a client has of a cluster, or is about to have, for who takes it away when the client can't.
#[derive(Clone, Debug)]
pub struct Attachments {
    mds: Vec<String>,
    names: Vec<String>,
    gateway: String,
}

impl Attachments {
    /// Of a client that isn't there yet.
    pub fn new(mds: &[String], names: &[String]) -> Attachments {
        Attachments { mds: mds.to_vec(), names: names.to_vec(), gateway: gateway_name() }
    }

    pub fn detach(self) -> Result<(), BenchError> {
        let runtime = control_runtime()?;
        runtime.block_on(async {
            let control = ControlClient::new(self.mds)?;
            let detach = |name: String| {
                let (control, gateway) = (control.clone(), Some(self.gateway.clone()));
                async move {
                    let name: DiskName = name.parse().map_err(ashlar_client::OpenError::from)?;
                    control.request(ControlRequest::Detach { name, gateway }).await?;
                    Ok::<(), BenchError>(())
                }
            };
            all_in_order(self.names.into_iter().map(detach)).await.map(|_| ())
        })
    }
}

/// One worker: the load comes from the thread that completes requests (load.rs, G3).
pub fn load_runtime() -> Result<Runtime, BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.map_err(|source| BenchError::Spawn { program: "a runtime".to_owned(), source })
}

pub fn control_runtime() -> Result<Runtime, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|source| BenchError::Spawn { program: "a runtime".to_owned(), source })
}

async fn open_all(
    control: &ControlClient,
    names: &[String],
    gateway: &str,
    mode: AttachMode,
) -> Result<Vec<Arc<Volume>>, BenchError> {
    let boot = BootId(RandomState::new().build_hasher().finish() | 1);
    let cluster = Cluster::connect(Arc::new(control.clone())).await?;
    let open = |name: String| {
        let (cluster, control, gateway) = (cluster.clone(), control.clone(), gateway.to_owned());
        async move {
            let name: DiskName = name.parse().map_err(ashlar_client::OpenError::from)?;
            let request =
                ControlRequest::Attach { name: name.clone(), gateway: gateway.clone(), mode, read_only: false };
            control.request(request).await?;
            Ok::<_, BenchError>(Volume::open(&cluster, &name, &gateway, boot, PATIENCE).await?)
        }
    };
    all_in_order(names.iter().cloned().map(open)).await
}

/// What all of them come to, [`CONTROL_DEPTH`] at a time; or the first failure.
pub async fn all_in_order<F, T>(tasks: impl Iterator<Item = F>) -> Result<Vec<T>, BenchError>
where
    F: Future<Output = Result<T, BenchError>> + Send + 'static,
    T: Send + 'static,
{
    let mut under_way = VecDeque::with_capacity(CONTROL_DEPTH);
    let mut results = Vec::new();
    let mut tasks = tasks.map(tokio::spawn);
    loop {
        let next = tasks.next();
        let is_last = next.is_none();
        under_way.extend(next);
        if under_way.len() < CONTROL_DEPTH && !is_last {
            continue;
        }
        let Some(oldest) = under_way.pop_front() else { return Ok(results) };
        let result = oldest.await.map_err(|error| BenchError::Wrong(format!("a control request ended: {error}")))?;
        results.push(result?);
    }
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Library").field("gateway", &self.gateway).finish_non_exhaustive()
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

    /// Bytes used and bytes in all, of each OSD that has told.
    pub fn usage(&self) -> Result<Vec<(u64, u64)>, BenchError> {
        match self.runtime.block_on(self.control.request(ControlRequest::ServiceStatus))? {
            ControlReply::Status(status) => {
                Ok(status.usage.iter().map(|(_, usage)| (usage.used, usage.total)).collect())
            }
            other => Err(BenchError::Wrong(format!("the metadata service answered {other:?} instead of its status"))),
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
