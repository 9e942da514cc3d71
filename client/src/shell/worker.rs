//! Works on jobs (design.md §6): a gateway's process asks for one that nobody works on, fills what the job is about, and tells how far it is. What is
//! to be filled with what, core/fill.rs knows; when nothing is heard of a worker any more, another one gets its job.

use super::base::Bases;
use super::cluster::{Cluster, wrong_answer};
use super::gateway::Gateway;
use super::shrink::Shrinking;
use super::volume::{GrantedBy, Holder, Volume};
use crate::core::{ClientLimits, FillAction, FillKind, Filler, SessionProgress};
use ashlar_types::control::{ControlError, ControlReply, ControlRequest};
use ashlar_types::job::{JobInfo, JobKind, JobWork};
use ashlar_types::{BlockDevice, BlockError, BlockReply, BlockRequest, Completions, JobId, PoolId, SessionId, Tick};
use ashlar_wire_control::ControlClientError;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How often a process asks for a job while it has time for one.
const TAKE_PAUSE: Duration = Duration::from_secs(2);
/// How often a worker tells how far it is: many times before it is taken for gone.
pub(super) const TELL_PAUSE: Duration = Duration::from_secs(1);
/// Between two tries of what is refused for the moment.
pub(super) const AGAIN_PAUSE: Duration = Duration::from_millis(200);
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// After which time a worker that is granted nothing leaves its place to others.
const GRANT_PATIENCE: Duration = Duration::from_secs(2);
/// Jobs that cannot go on and are kept all the same, for each one that may be worked on.
const STUCK_FOR_EACH: usize = 8;
/// A base is read once from its beginning to its end, so it needs no room; and its blocks must not take that of the clones in use.
const CACHE_BYTES: u64 = 1 << 20;
/// Of a text that is told.
const TROUBLE_BYTES_MAX: usize = 200;

/// The jobs of one process.
pub(super) struct Worker {
    cluster: Cluster,
    bases: Arc<Bases>,
    holder: Holder,
    /// Which has the volumes that are shrunk.
    gateway: Gateway,
    limits: ClientLimits,
}

/// The job is somebody else's, or nobody's.
pub(super) struct Lost;

/// How many jobs a process may have. One that cannot go on, since it is granted nothing or is in trouble, takes no place: else a few of them would keep
/// all others waiting.
#[derive(Debug)]
struct Places {
    jobs_max: usize,
    stuck: Arc<AtomicUsize>,
}

impl Places {
    fn new(jobs_max: usize) -> Places {
        Places { jobs_max, stuck: Arc::default() }
    }

    /// Whether there is one for a job more, beside so many.
    fn has_room(&self, jobs: usize) -> bool {
        let stuck = self.stuck.load(Ordering::Relaxed);
        jobs.saturating_sub(stuck) < self.jobs_max && stuck < self.jobs_max.saturating_mul(STUCK_FOR_EACH)
    }

    fn place(&self) -> Place {
        Place { stuck: self.stuck.clone(), is_stuck: false }
    }
}

/// Of one job.
#[derive(Debug)]
struct Place {
    stuck: Arc<AtomicUsize>,
    is_stuck: bool,
}

impl Place {
    fn set_stuck(&mut self, is_stuck: bool) {
        match (std::mem::replace(&mut self.is_stuck, is_stuck), is_stuck) {
            (false, true) => _ = self.stuck.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.stuck.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.set_stuck(false);
    }
}

impl Worker {
    pub(super) fn new(cluster: Cluster, holder: Holder, gateway: Gateway, limits: ClientLimits) -> Worker {
        let bases = Arc::new(Bases::new(cluster.clone(), limits, CACHE_BYTES));
        Worker { cluster, bases, holder, gateway, limits }
    }

    /// Takes no more jobs while it works on so many, until it is dropped.
    pub(super) async fn run(self, jobs_max: usize) {
        let worker = Arc::new(self);
        let (mut jobs, places) = (JoinSet::new(), Places::new(jobs_max));
        loop {
            while jobs.try_join_next().is_some() {}
            let taken = worker.take(!places.has_room(jobs.len())).await;
            let Some((job, session)) = taken else {
                tokio::time::sleep(TAKE_PAUSE).await;
                continue;
            };
            let (worker, mut place) = (worker.clone(), places.place());
            jobs.spawn(async move {
                match worker.work(job, session, &mut place).await {
                    Ok(()) => tracing::info!(%job, "done"),
                    Err(Lost) => tracing::info!(%job, "given up: it was taken over, cancelled or paused"),
                }
            });
        }
    }

    /// Volumes that this gateway has attached nobody else can shrink: for them there is always time.
    async fn take(&self, shrinks_only: bool) -> Option<(JobId, SessionId)> {
        let Holder { gateway, boot } = self.holder.clone();
        match self.cluster.control().request(ControlRequest::JobTake { gateway, boot, shrinks_only }).await {
            Ok(ControlReply::JobTaken(taken)) => taken,
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(%error, "no job");
                None
            }
        }
    }

    async fn work(&self, job: JobId, session: SessionId, place: &mut Place) -> Result<(), Lost> {
        let JobWork { job: info, grant } = self.granted(job, session, place).await?;
        tracing::info!(%job, kind = ?info.kind, volume = %info.volume_name, position = info.position, "working");
        let kind = match info.kind {
            JobKind::Flatten => FillKind::Base { own_layers: u32::try_from(grant.layers.len()).unwrap_or(u32::MAX) },
            JobKind::Zero => FillKind::Zeroes,
            JobKind::Shrink(shrink) => {
                // It takes no place, and seldom long.
                place.set_stuck(true);
                return Shrinking::new(&self.cluster, &self.gateway, job, shrink).run(&info.volume_name).await;
            }
        };
        let (filler, pool) = (Filler::new(kind, info.position, grant.size, info.rate), grant.pool);
        let base = loop {
            match self.bases.under(&grant).await {
                Ok(base) => break base,
                Err(error) => {
                    tracing::warn!(%job, %error, "what the clone stands on cannot be opened");
                    place.set_stuck(true);
                    tokio::time::sleep(TELL_PAUSE).await;
                    tell(&self.cluster, job, session, &filler, Some(error.to_string())).await?;
                }
            }
        };
        place.set_stuck(false);
        let (limits, progress) = (self.limits, SessionProgress::default());
        let volume = Volume::run(&self.cluster, grant, limits, progress, base, GrantedBy::Job(job));
        let mut filling = Filling::new(&self.cluster, (job, session), pool, volume.clone(), filler);
        let result = filling.run(place).await;
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

    async fn granted(&self, job: JobId, session: SessionId, place: &mut Place) -> Result<JobWork, Lost> {
        let began = Instant::now();
        loop {
            match request_work(&self.cluster, job, session).await {
                Ok(work) if !work.grant.layers.is_empty() => {
                    place.set_stuck(false);
                    return Ok(work);
                }
                Err(ControlClientError::Refused(ControlError::NotFound { .. })) => return Err(Lost),
                Ok(_) => {}
                Err(error) => tracing::debug!(%job, %error, "not granted yet"),
            }
            place.set_stuck(began.elapsed() >= GRANT_PATIENCE);
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
    let trouble = trouble.map(|text| cut(&text));
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

/// Printable, and not too long to be kept; cut between words where that is possible.
pub(super) fn cut(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    if text.len() <= TROUBLE_BYTES_MAX {
        return text;
    }
    let most = "…".len();
    let end = (0..=TROUBLE_BYTES_MAX - most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let head = &text[..end];
    let head = head.rsplit_once(' ').map_or(head, |(words, _)| words);
    format!("{head}…")
}

pub(super) type Done = (u64, Result<BlockReply, BlockError>);

/// A [`Filler`] at work on a disk.
struct Filling<'a> {
    cluster: &'a Cluster,
    job: JobId,
    session: SessionId,
    pool: PoolId,
    volume: Arc<Volume>,
    filler: Filler,
    completions: Arc<dyn Completions>,
    done: mpsc::UnboundedReceiver<Done>,
    started: Instant,
    wake_at: Option<Instant>,
}

pub(super) struct ToChannel(pub(super) mpsc::UnboundedSender<Done>);

impl Completions for ToChannel {
    fn complete(&self, tag: u64, result: Result<BlockReply, BlockError>) {
        // Who has lost the job waits for nothing.
        let _ = self.0.send((tag, result));
    }
}

impl<'a> Filling<'a> {
    fn new(
        cluster: &'a Cluster,
        (job, session): (JobId, SessionId),
        pool: PoolId,
        volume: Arc<Volume>,
        filler: Filler,
    ) -> Filling<'a> {
        let (sender, done) = mpsc::unbounded_channel();
        let completions = Arc::new(ToChannel(sender));
        let (started, wake_at) = (Instant::now(), None);
        Filling { cluster, job, session, pool, volume, filler, completions, done, started, wake_at }
    }

    async fn run(&mut self, place: &mut Place) -> Result<(), Lost> {
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
                    let trouble = self.filler.trouble().map(|error| self.describe(error));
                    place.set_stuck(trouble.is_some());
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

    /// A job on a full pool gets on when somebody makes room, so it says how.
    fn describe(&self, error: &BlockError) -> String {
        if *error != BlockError::NoSpace {
            return error.to_string();
        }
        let view = self.cluster.view();
        let pool = view.pools.get(&self.pool).map_or_else(|| self.pool.to_string(), |info| info.name.to_string());
        let ways = "delete volumes, empty the bin (`ashlar bin purge`), add OSDs";
        format!("{error} ({pool}): {ways}, or `ashlar job cancel {}`", self.job)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_that_cannot_go_on_leave_their_places_to_others_up_to_a_bound() {
        let places = Places::new(2);
        let mut stuck: Vec<Place> = (0..2).map(|_| places.place()).collect();
        assert!(places.has_room(1) && !places.has_room(2));
        stuck.iter_mut().for_each(|place| place.set_stuck(true));
        stuck[0].set_stuck(true);
        assert!(places.has_room(2) && places.has_room(3) && !places.has_room(4));
        stuck[0].set_stuck(false);
        assert!(!places.has_room(3), "it goes on");
        stuck.pop();
        assert!(!places.has_room(2), "neither of the two that are left is stuck");
        let mut many: Vec<Place> = (0..16).map(|_| places.place()).collect();
        many.iter_mut().for_each(|place| place.set_stuck(true));
        assert!(!places.has_room(many.len()), "no more of those either");
        assert!(!Places::new(0).has_room(0), "a gateway that leaves jobs to others");
    }

    #[test]
    fn a_trouble_is_told_in_whole_words() {
        assert_eq!(cut("the pool is full"), "the pool is full");
        let long = format!("{} \n{}", "word ".repeat(30), "é".repeat(150));
        let told = cut(&long);
        assert!(told.len() <= TROUBLE_BYTES_MAX && told.ends_with("word …"), "{told}");
        assert!(cut(&"é".repeat(300)).len() <= TROUBLE_BYTES_MAX);
    }
}
