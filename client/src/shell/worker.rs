//! Works on jobs (design.md §6): a gateway's process asks for one that nobody works on, fills what the job is about, and tells how far it is. What is
//! to be filled with what, core/fill.rs knows; when nothing is heard of a worker any more, another one gets its job.

use super::base::Bases;
use super::cluster::{Cluster, wrong_answer};
use super::volume::{GrantedBy, Holder, Volume};
use crate::core::{ClientLimits, FillAction, FillKind, Filler, SessionProgress};
use ashlar_types::control::{ControlError, ControlReply, ControlRequest};
use ashlar_types::job::{JobInfo, JobKind, JobWork};
use ashlar_types::{BlockDevice, BlockError, BlockReply, BlockRequest, Completions, JobId, SessionId, Tick};
use ashlar_wire_control::ControlClientError;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How often a process asks for a job while it has time for one.
const TAKE_PAUSE: Duration = Duration::from_secs(2);
/// How often a worker tells how far it is: many times before it is taken for gone.
const TELL_PAUSE: Duration = Duration::from_secs(1);
/// Between two tries of what is refused for the moment.
const AGAIN_PAUSE: Duration = Duration::from_millis(200);
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// A base is read once from its beginning to its end, so it needs no room; and its blocks must not take that of the clones in use.
const CACHE_BYTES: u64 = 1 << 20;
/// Of a text that is told.
const TROUBLE_CHARS_MAX: usize = 60;

/// The jobs of one process.
pub(super) struct Worker {
    cluster: Cluster,
    bases: Arc<Bases>,
    holder: Holder,
    limits: ClientLimits,
}

/// The job is somebody else's, or nobody's.
struct Lost;

impl Worker {
    pub(super) fn new(cluster: Cluster, holder: Holder, limits: ClientLimits) -> Worker {
        let bases = Arc::new(Bases::new(cluster.clone(), limits, CACHE_BYTES));
        Worker { cluster, bases, holder, limits }
    }

    /// Works on up to so many jobs at a time, until it is dropped.
    pub(super) async fn run(self, jobs_max: usize) {
        let worker = Arc::new(self);
        let mut jobs = JoinSet::new();
        loop {
            while jobs.try_join_next().is_some() {}
            let taken = if jobs.len() < jobs_max { worker.take().await } else { None };
            let Some((job, session)) = taken else {
                tokio::time::sleep(TAKE_PAUSE).await;
                continue;
            };
            let worker = worker.clone();
            jobs.spawn(async move {
                match worker.work(job, session).await {
                    Ok(()) => tracing::info!(%job, "done"),
                    Err(Lost) => tracing::info!(%job, "given up: it was taken over, cancelled or paused"),
                }
            });
        }
    }

    async fn take(&self) -> Option<(JobId, SessionId)> {
        let Holder { gateway, boot } = self.holder.clone();
        match self.cluster.control().request(ControlRequest::JobTake { gateway, boot }).await {
            Ok(ControlReply::JobTaken(taken)) => taken,
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(%error, "no job");
                None
            }
        }
    }

    async fn work(&self, job: JobId, session: SessionId) -> Result<(), Lost> {
        let JobWork { job: info, grant } = self.granted(job, session).await?;
        tracing::info!(%job, kind = ?info.kind, volume = %info.volume_name, position = info.position, "working");
        let kind = match info.kind {
            JobKind::Flatten => FillKind::Base { own_layers: u32::try_from(grant.layers.len()).unwrap_or(u32::MAX) },
            JobKind::Zero => FillKind::Zeroes,
        };
        let filler = Filler::new(kind, info.position, grant.size, info.rate);
        let base = loop {
            match self.bases.under(&grant).await {
                Ok(base) => break base,
                Err(error) => {
                    tracing::warn!(%job, %error, "what the clone stands on cannot be opened");
                    tokio::time::sleep(TELL_PAUSE).await;
                    tell(&self.cluster, job, session, &filler, Some(error.to_string())).await?;
                }
            }
        };
        let (limits, progress) = (self.limits, SessionProgress::default());
        let volume = Volume::run(&self.cluster, grant, limits, progress, base, GrantedBy::Job(job));
        let mut filling = Filling::new(&self.cluster, job, session, volume.clone(), filler);
        let result = filling.run().await;
        drop(filling);
        volume.close(CLOSE_PATIENCE).await;
        result?;
        loop {
            match self.cluster.control().request(ControlRequest::JobDone { job, session }).await {
                Ok(_) => return Ok(()),
                // Done before, and the answer was lost; or somebody else's.
                Err(ControlClientError::Refused(ControlError::NotFound { .. })) => return Err(Lost),
                Err(error) => tracing::debug!(%job, %error, "not told yet that it is done"),
            }
            tokio::time::sleep(AGAIN_PAUSE).await;
        }
    }

    async fn granted(&self, job: JobId, session: SessionId) -> Result<JobWork, Lost> {
        loop {
            match request_work(&self.cluster, job, session).await {
                Ok(work) if !work.grant.layers.is_empty() => return Ok(work),
                Err(ControlClientError::Refused(ControlError::NotFound { .. })) => return Err(Lost),
                Ok(_) => {}
                Err(error) => tracing::debug!(%job, %error, "not granted yet"),
            }
            tokio::time::sleep(AGAIN_PAUSE).await;
        }
    }
}

pub(super) async fn request_work(
    cluster: &Cluster,
    job: JobId,
    session: SessionId,
) -> Result<JobWork, ControlClientError> {
    match cluster.control().request(ControlRequest::JobGrant { job, session }).await? {
        ControlReply::JobWork(work) => Ok(*work),
        _ => Err(wrong_answer("what a job needs")),
    }
}

/// `None`: it could not be told now.
async fn tell(
    cluster: &Cluster,
    job: JobId,
    session: SessionId,
    filler: &Filler,
    trouble: Option<String>,
) -> Result<Option<JobInfo>, Lost> {
    let (position, filled) = (filler.position(), filler.filled());
    let printable = |text: String| text.chars().filter(|c| !c.is_control()).take(TROUBLE_CHARS_MAX).collect();
    let trouble = trouble.map(printable);
    let request = ControlRequest::JobProgress { job, session, position, filled, trouble };
    match cluster.control().request(request).await {
        Ok(ControlReply::Job(info)) => Ok(Some(*info)),
        Err(ControlClientError::Refused(ControlError::NotFound { .. })) => Err(Lost),
        Ok(_) => Ok(None),
        Err(error) => {
            tracing::debug!(%job, %error, "not told how far it is");
            Ok(None)
        }
    }
}

type Done = (u64, Result<BlockReply, BlockError>);

/// A [`Filler`] at work on a disk.
struct Filling<'a> {
    cluster: &'a Cluster,
    job: JobId,
    session: SessionId,
    volume: Arc<Volume>,
    filler: Filler,
    completions: Arc<dyn Completions>,
    done: mpsc::UnboundedReceiver<Done>,
    started: Instant,
    wake_at: Option<Instant>,
}

struct ToChannel(mpsc::UnboundedSender<Done>);

impl Completions for ToChannel {
    fn complete(&self, tag: u64, result: Result<BlockReply, BlockError>) {
        // Who has lost the job waits for nothing.
        let _ = self.0.send((tag, result));
    }
}

impl<'a> Filling<'a> {
    fn new(cluster: &'a Cluster, job: JobId, session: SessionId, volume: Arc<Volume>, filler: Filler) -> Filling<'a> {
        let (sender, done) = mpsc::unbounded_channel();
        let completions = Arc::new(ToChannel(sender));
        let (started, wake_at) = (Instant::now(), None);
        Filling { cluster, job, session, volume, filler, completions, done, started, wake_at }
    }

    async fn run(&mut self) -> Result<(), Lost> {
        let mut tell_at = Instant::now() + TELL_PAUSE;
        self.step(|filler, now, actions| filler.on_timer(now, actions));
        while !self.filler.is_done() {
            if self.volume.is_fenced() {
                return Err(Lost);
            }
            let wake_at = self.wake_at;
            tokio::select! {
                Some((tag, result)) = self.done.recv() => {
                    self.step(|filler, now, actions| filler.on_done(now, tag, result, actions));
                }
                () = tokio::time::sleep_until(wake_at.unwrap_or(tell_at)), if wake_at.is_some() => {
                    self.wake_at = None;
                    self.step(|filler, now, actions| filler.on_timer(now, actions));
                }
                () = tokio::time::sleep_until(tell_at) => {
                    tell_at = Instant::now() + TELL_PAUSE;
                    let trouble = self.filler.trouble().map(ToString::to_string);
                    // What is done meanwhile waits in the channel; the disk has its hands full.
                    if let Some(info) = tell(self.cluster, self.job, self.session, &self.filler, trouble).await? {
                        self.filler.set_rate(info.rate);
                        self.step(|filler, now, actions| filler.on_timer(now, actions));
                    }
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, step: impl FnOnce(&mut Filler, Tick, &mut Vec<FillAction>)) {
        let elapsed = self.started.elapsed();
        let now = Tick(u64::try_from(elapsed.as_micros()).expect("a process doesn't live for 500,000 years"));
        let mut actions = Vec::new();
        step(&mut self.filler, now, &mut actions);
        for action in actions {
            match action {
                FillAction::Submit { tag, op } => self.volume.submit(BlockRequest { tag, op }, &self.completions),
                FillAction::WakeAt(at) => self.wake_at = Some(self.started + Duration::from_micros(at.0)),
            }
        }
    }
}
