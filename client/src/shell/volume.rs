//! A volume, or a snapshot of one, that this process has attached, as a disk.

use super::base::{BaseDisk, Bases, request_base};
use super::cluster::{Cluster, wrong_answer};
use super::engine::{Command, Engine};
use super::observer::{DiskId, DiskState};
use super::worker::request_work;
use crate::core::{ClientLimits, SessionProgress, StackState, VolumeClient};
use ashlar_types::control::{AttachGrant, BaseLayer, ControlError, ControlReply, ControlRequest};
use ashlar_types::{
    BlockDevice, BlockError, BlockRequest, BootId, Completions, DeviceInfo, DiskName, JobId, NameError, SessionId,
    format_bytes,
};
use ashlar_wire_control::ControlClientError;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// How often a volume that is being taken over is asked for.
const FENCING_PAUSE: Duration = Duration::from_millis(50);

/// What a volume that is opened by itself may keep of the disk that it stands on.
const BASE_CACHE_BYTES: u64 = 64 << 20;

/// Why a volume can't be had. The texts are for people.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    Name(#[from] NameError),
    /// There is no such volume, or it isn't attached to this gateway.
    #[error("{} is not attached to gateway {gateway}: {reason}", called(.name))]
    NotAttached { name: DiskName, gateway: String, reason: ControlError },
    /// Its older holder isn't fenced yet; maybe later.
    #[error("{} is still being taken over: waiting for {waiting_for}", called(.name))]
    Fencing { name: DiskName, waiting_for: String },
    /// This process had it and lost it, and was not given it anew.
    #[error("{} was fenced here: it was taken over or deleted; attach it again to use it", called(.name))]
    Fenced { name: DiskName },
    #[error("{}: {reason}", called(.name))]
    Refused { name: DiskName, reason: ControlError },
    #[error("{}: {source}", called(.name))]
    Control { name: DiskName, source: ControlClientError },
    #[error("the gateway is shutting down")]
    ShuttingDown,
}

fn called(name: &DiskName) -> String {
    let kind = if name.snapshot.is_some() { "snapshot" } else { "volume" };
    format!("{kind} {name}")
}

/// Who asks for attachments: a process of a gateway.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    /// The gateway's name in the cluster.
    pub(super) gateway: String,
    pub(super) boot: BootId,
}

/// What the engine tells those who hold the volume.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: DiskName,
    /// Bytes.
    pub(super) size: AtomicU64,
    pub(super) fenced: AtomicBool,
    /// [`StackState`] in bits: the newest one that the core knows.
    pub(super) stack: AtomicU64,
    read_only: bool,
    pub(super) session: SessionId,
    pub(super) granted_by: GrantedBy,
}

/// By what right a volume is in use, and so who is asked for its present stack.
#[derive(Clone, Copy, Debug)]
pub(super) enum GrantedBy {
    Attachment,
    /// It is read as what clones stand on, without an attachment.
    Clones(BaseLayer),
    /// It is only asked for its layers, without an attachment.
    Looking(DiskId),
    /// A worker fills it.
    Job(JobId),
}

/// A volume's session. When the last handle is dropped, the session ends with it, and requests under way fail; so end with
/// [`Volume::close`].
#[derive(Debug)]
pub struct Volume {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
    holds: Mutex<Holds>,
    /// One shrink after the other.
    shrinking: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Holds {
    /// How often it was held, or let go.
    changes: u64,
    is_held: bool,
}

/// When somebody began to ask how large a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeMark(u64);

impl Volume {
    /// Opens what is attached to `gateway`. `boot` is of this process; the same one may open a volume a second time only
    /// through a [`Gateway`](super::Gateway), which knows which numbers the session has used. Waits for a takeover for up to
    /// `patience`.
    pub async fn open(
        cluster: &Cluster,
        name: &DiskName,
        gateway: &str,
        boot: BootId,
        patience: Duration,
    ) -> Result<Arc<Volume>, OpenError> {
        let holder = Holder { gateway: gateway.to_owned(), boot };
        let grant = request_grant(cluster, name, &holder, patience).await?;
        let limits = ClientLimits::default();
        let base = Bases::new(cluster.clone(), limits, BASE_CACHE_BYTES).under(&grant).await?;
        Ok(Volume::start(cluster, grant, limits, SessionProgress::default(), base))
    }

    /// Serves a grant, from where an earlier session of the same number in this process has ended.
    pub(super) fn start(
        cluster: &Cluster,
        grant: AttachGrant,
        limits: ClientLimits,
        progress: SessionProgress,
        base: Option<Arc<BaseDisk>>,
    ) -> Arc<Volume> {
        Volume::run(cluster, grant, limits, progress, base, GrantedBy::Attachment)
    }

    /// Reads a frozen layer for clones, which stands on `base` if it is a clone's itself.
    pub(super) fn start_base(
        cluster: &Cluster,
        grant: AttachGrant,
        limits: ClientLimits,
        base: Option<Arc<BaseDisk>>,
        layer: BaseLayer,
    ) -> Arc<Volume> {
        Volume::run(cluster, grant, limits, SessionProgress::default(), base, GrantedBy::Clones(layer))
    }

    pub(super) fn run(
        cluster: &Cluster,
        grant: AttachGrant,
        limits: ClientLimits,
        progress: SessionProgress,
        base: Option<Arc<BaseDisk>>,
        granted_by: GrantedBy,
    ) -> Arc<Volume> {
        assert!(grant.base.is_some() == base.is_some(), "who is granted a volume over a base opens the base first");
        let size = grant.size;
        tracing::info!(
            volume = %grant.name, id = %grant.volume, session = %grant.session, generation = %grant.generation,
            size, read_only = grant.read_only, "opened"
        );
        let stack = StackState { revision: grant.stack_revision, has_base: grant.base.is_some() };
        let shared = Arc::new(Shared {
            name: grant.name.clone(),
            size: AtomicU64::new(size),
            fenced: AtomicBool::new(false),
            stack: AtomicU64::new(stack.to_bits()),
            read_only: grant.read_only,
            session: grant.session,
            granted_by,
        });
        let (commands, receiver) = mpsc::unbounded_channel();
        cluster.add_volume(&commands);
        let core = VolumeClient::resume(grant, limits, progress);
        let engine = Engine::new(core, shared.clone(), cluster.clone(), base, (commands.downgrade(), receiver));
        tokio::spawn(engine.run());
        let (holds, shrinking) = (Mutex::default(), tokio::sync::Mutex::new(()));
        Arc::new(Volume { shared, commands, holds, shrinking })
    }

    pub fn name(&self) -> &DiskName {
        &self.shared.name
    }

    pub fn session(&self) -> SessionId {
        self.shared.session
    }

    /// Whether the attachment was lost; all requests fail then.
    pub fn is_fenced(&self) -> bool {
        self.shared.fenced.load(Ordering::Acquire)
    }

    /// The newest stack that the session knows. What was completed was asked with this one or an older one.
    pub(super) fn stack(&self) -> StackState {
        StackState::from_bits(self.shared.stack.load(Ordering::Acquire))
    }

    pub fn size_mark(&self) -> SizeMark {
        SizeMark(self.holds().changes)
    }

    fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The volume was extended, as was said to somebody who asked at `asked`. A size that is smaller is older: within a session volumes only grow, since
    /// who reverts one ends its sessions; but for those that are shrunk here, and what was asked before that is over says nothing any more.
    pub fn resize(&self, size: u64, asked: SizeMark) {
        let holds = self.holds();
        if holds.changes != asked.0 {
            return;
        }
        if size > self.shared.size.load(Ordering::Acquire) {
            // First, so that it stands in the queue before any request of who has seen the new size. Fails when the engine has
            // ended, and then nothing is served at any size.
            let _ = self.commands.send(Command::Resized(size));
            // At once, so that who opens now sees it.
            self.shared.size.fetch_max(size, Ordering::AcqRel);
        } else if holds.is_held {
            // It was asked for since the hold began, so it is what has come of that: who opens now sees it.
            self.shared.size.store(size, Ordering::Release);
        }
    }

    /// Whoever shrinks it waits for his turn.
    pub(super) async fn shrinking(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.shrinking.lock().await
    }

    /// Holds off what reaches behind this byte. Resolves when nothing of it is under way; never answered by a session that ends.
    pub(super) fn hold(&self, end: u64) -> oneshot::Receiver<()> {
        let (held, answer) = oneshot::channel();
        let mut holds = self.holds();
        *holds = Holds { changes: holds.changes + 1, is_held: true };
        // Fails when the engine has ended: then the answer does, too.
        let _ = self.commands.send(Command::Hold { end, held });
        answer
    }

    /// Of who holds off the others.
    pub(super) fn submit_behind(&self, request: BlockRequest, completions: &Arc<dyn Completions>) {
        let tag = request.tag;
        if self.commands.send(Command::SubmitBehind(request, completions.clone())).is_err() {
            completions.complete(tag, Err(BlockError::ShuttingDown));
        }
    }

    /// Ends the hold. `size` was asked for after all that might change it.
    pub(super) fn release(&self, size: u64) {
        let mut holds = self.holds();
        *holds = Holds { changes: holds.changes + 1, is_held: false };
        let _ = self.commands.send(Command::Release(size));
        self.shared.size.store(size, Ordering::Release);
    }

    /// Takes nothing more, waits for requests under way until `patience` is over, and fails the others. Gives how far the session
    /// has used its numbers; `None` if it was closed before.
    pub async fn close(&self, patience: Duration) -> Option<SessionProgress> {
        let (closed, answer) = oneshot::channel();
        self.commands.send(Command::Close { deadline: Instant::now() + patience, closed }).ok()?;
        answer.await.ok()
    }
}

impl BlockDevice for Volume {
    fn info(&self) -> DeviceInfo {
        let size = self.shared.size.load(Ordering::Acquire);
        DeviceInfo {
            size,
            read_only: self.shared.read_only,
            description: format!("Ashlar {}, {}", called(&self.shared.name), format_bytes(size)),
        }
    }

    /// Puts the request into the engine's queue, which is as long as the callers have requests under way.
    fn submit(&self, request: BlockRequest, completions: &Arc<dyn Completions>) {
        let tag = request.tag;
        if self.commands.send(Command::Submit(request, completions.clone())).is_err() {
            completions.complete(tag, Err(BlockError::ShuttingDown));
        }
    }
}

/// Asks what the session has now. Changes nothing: a session that has ended without hearing of it takes nothing back. `None`: it was
/// answered with something else.
pub(super) async fn request_stack(
    cluster: &Cluster,
    shared: &Shared,
) -> Result<Option<AttachGrant>, ControlClientError> {
    let (name, session) = (&shared.name, shared.session);
    match shared.granted_by {
        GrantedBy::Attachment => {}
        GrantedBy::Clones(base) => return request_base(cluster, base).await.map(Some),
        GrantedBy::Job(job) => return Ok(Some(request_work(cluster, job, session).await?.grant)),
        GrantedBy::Looking(id) => {
            let state = DiskState::look(cluster, name).await?;
            let gone = || ControlError::NotFound { what: "disk".to_owned(), name: name.to_string() };
            // Its name is another one's by now.
            let state = Some(state).filter(|state| state.id == id).ok_or_else(gone)?;
            return Ok(Some(state.grant(name.clone(), session)));
        }
    }
    match cluster.control().request(ControlRequest::SessionGrant { name: name.clone(), session }).await? {
        ControlReply::Opened(grant) if !grant.layers.is_empty() && grant.session == session => Ok(Some(grant)),
        _ => Ok(None),
    }
}

/// Of the keys that the standard library draws for its hash maps.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Asks for the attachment until its older holder is fenced.
pub(super) async fn request_grant(
    cluster: &Cluster,
    name: &DiskName,
    holder: &Holder,
    patience: Duration,
) -> Result<AttachGrant, OpenError> {
    let deadline = Instant::now() + patience;
    loop {
        let Holder { gateway, boot } = holder.clone();
        let request = ControlRequest::OpenAttachment { name: name.clone(), gateway, boot };
        let refusal = match cluster.control().request(request).await {
            Ok(ControlReply::Opened(grant)) if !grant.layers.is_empty() => return Ok(grant),
            Ok(_) => return Err(OpenError::Control { name: name.clone(), source: wrong_answer("a grant") }),
            Err(ControlClientError::Refused(refusal)) => refusal,
            Err(source) => return Err(OpenError::Control { name: name.clone(), source }),
        };
        let is_passing = matches!(refusal, ControlError::Fencing { .. } | ControlError::Busy);
        if is_passing && Instant::now() + FENCING_PAUSE < deadline {
            tokio::time::sleep(FENCING_PAUSE).await;
            continue;
        }
        let name = name.clone();
        return Err(match refusal {
            ControlError::Fencing { waiting_for } => OpenError::Fencing { name, waiting_for },
            reason @ (ControlError::NotFound { .. } | ControlError::Attached { .. }) => {
                OpenError::NotAttached { name, gateway: holder.gateway.clone(), reason }
            }
            reason => OpenError::Refused { name, reason },
        });
    }
}
