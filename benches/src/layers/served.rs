//! A gateway of this process: volumes that share a cache for what clones stand on, each a device for jobs.

use super::control::name;
use crate::contents::Contents;
use crate::error::BenchError;
use crate::library::{all_in_order, gateway_name, load_runtime};
use crate::load::{self, Job, Outcome};
use ashlar_client::{Gateway, GatewayOptions, OpenVolume};
use ashlar_types::control::{AttachMode, ControlRequest};
use ashlar_types::{
    BLOCK_BYTES, BlockDevice, BlockError, BlockOp, BlockReply, BlockRequest, BootId, Completions, DiskName,
};
use ashlar_wire_control::ControlClient;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

pub struct Served {
    runtime: Runtime,
    control: ControlClient,
    gateway: Gateway,
    name: String,
    volumes: Vec<Open>,
}

struct Open {
    name: DiskName,
    device: Arc<OpenVolume>,
    /// What it should hold; none while a job runs.
    contents: Option<Contents>,
}

impl Served {
    pub fn connect(mds: &[String], cache_bytes: u64) -> Result<Served, BenchError> {
        let runtime = load_runtime()?;
        let (name, boot) = (gateway_name(), BootId(RandomState::new().build_hasher().finish() | 1));
        let options = GatewayOptions { base_cache_bytes: cache_bytes, jobs_max: 0, ..GatewayOptions::default() };
        let (control, gateway) = runtime.block_on(async {
            let control = ControlClient::new(mds.iter().cloned())?;
            let gateway = Gateway::connect(Arc::new(control.clone()), name.clone(), boot, options).await?;
            Ok::<_, BenchError>((control, gateway))
        })?;
        Ok(Served { runtime, control, gateway, name, volumes: Vec::new() })
    }

    /// Attaches volumes that nobody has, and opens them; `contents` is what each of them holds, if that is known.
    pub fn open(&mut self, names: &[String], contents: Option<&Contents>) -> Result<(), BenchError> {
        let names = names.iter().map(|text| name(text)).collect::<Result<Vec<_>, _>>()?;
        let open = |volume: ashlar_types::Name| {
            let (control, gateway, holder) = (self.control.clone(), self.gateway.clone(), self.name.clone());
            async move {
                let name = DiskName::from(volume);
                let mode = AttachMode::Exclusive;
                let attach = ControlRequest::Attach { name: name.clone(), gateway: holder, mode, read_only: false };
                control.request(attach).await?;
                let device = gateway.open(&name.to_string()).await?;
                Ok::<_, BenchError>((name, device))
            }
        };
        let opened = self.runtime.block_on(all_in_order(names.into_iter().map(open)))?;
        self.volumes.extend(opened.into_iter().map(|(name, device)| {
            let blocks = device.info().size / u64::from(BLOCK_BYTES);
            let contents = contents.cloned().unwrap_or_else(|| Contents::unknown(blocks));
            Open { name, device, contents: Some(contents) }
        }));
        Ok(())
    }

    /// A job on the volume that was opened as this one.
    pub fn run(&mut self, volume: usize, job: Job) -> Result<Outcome, BenchError> {
        let running = self.start(volume, job)?;
        self.finish(volume, running)
    }

    /// A job on each of the volumes, all at the same time.
    pub fn run_on_all(&mut self, job: &Job) -> Result<Outcome, BenchError> {
        let mut running = Vec::with_capacity(self.volumes.len());
        for volume in 0..self.volumes.len() {
            running.push(self.start(volume, job.clone())?);
        }
        // All end before one of them fails this.
        let ended: Vec<_> = running.into_iter().enumerate().map(|(volume, job)| self.finish(volume, job)).collect();
        let all = ended.into_iter().reduce(|all, one| Ok(all?.and(one?)));
        all.unwrap_or(Err(BenchError::Wrong("no volume is open".to_owned())))
    }

    fn start(&mut self, volume: usize, job: Job) -> Result<Started, BenchError> {
        let open = &mut self.volumes[volume];
        let contents = open
            .contents
            .take()
            .ok_or_else(|| BenchError::Wrong(format!("an earlier job on {} did not end", open.name)))?;
        Ok(self.runtime.spawn(load::run(open.device.clone(), job, contents)))
    }

    fn finish(&mut self, volume: usize, running: Started) -> Result<Outcome, BenchError> {
        let joined = self.runtime.block_on(running);
        let (result, contents) =
            joined.map_err(|error| BenchError::Wrong(format!("the load generator ended: {error}")))?;
        self.volumes[volume].contents = contents;
        result
    }

    /// One request alone, and how long it took from its sending to its completion.
    pub fn request(&self, volume: usize, op: BlockOp) -> Result<(BlockReply, Duration), BenchError> {
        let Open { name, device, .. } = &self.volumes[volume];
        let device = device.clone();
        let sent = async move {
            let (done, completed) = oneshot::channel();
            let once: Arc<dyn Completions> = Arc::new(Once(Mutex::new(Some(done))));
            let begin = Instant::now();
            device.submit(BlockRequest { tag: 0, op }, &once);
            completed.await.map(|(result, at)| (result, at.duration_since(begin)))
        };
        // On the thread that completes it, as in a job.
        let ended = self.runtime.block_on(self.runtime.spawn(sent));
        match ended {
            Ok(Ok((Ok(reply), took))) => Ok((reply, took)),
            Ok(Ok((Err(reason), _))) => Err(BenchError::Wrong(format!("a request to {name} failed: {reason}"))),
            Ok(Err(_)) | Err(_) => Err(BenchError::Wrong(format!("a request to {name} was never answered"))),
        }
    }

    /// Gives all of them back.
    pub fn close(mut self) -> Result<(), BenchError> {
        self.runtime.block_on(self.gateway.shutdown());
        let names: Vec<DiskName> = self.volumes.drain(..).map(|open| open.name).collect();
        let detach = |name: DiskName| {
            let (control, gateway) = (self.control.clone(), Some(self.name.clone()));
            async move { Ok(control.request(ControlRequest::Detach { name, gateway }).await.map(|_| ())?) }
        };
        self.runtime.block_on(all_in_order(names.into_iter().map(detach))).map(|_| ())
    }
}

type Started = tokio::task::JoinHandle<(Result<Outcome, BenchError>, Option<Contents>)>;

type Answer = (Result<BlockReply, BlockError>, Instant);

/// Takes the moment of a completion along.
struct Once(Mutex<Option<oneshot::Sender<Answer>>>);

impl Completions for Once {
    fn complete(&self, _: u64, result: Result<BlockReply, BlockError>) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            // Who waits may have given up.
            let _ = sender.send((result, Instant::now()));
        }
    }
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("gateway", &self.name).finish_non_exhaustive()
    }
}
