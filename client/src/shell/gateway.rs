//! The volumes and snapshots of one gateway process, by name. Connections to one volume share its session; it is closed when the last of them
//! has been gone for a while, and opened again with the numbers it had not used.
//!
//! G1: at most one session of a volume is open. G2: a session number is never served from its beginning twice (R10).

use super::base::Bases;
use super::cluster::{Cluster, wrong_answer};
use super::control::Control;
use super::volume::{Holder, OpenError, Volume, request_grant};
use super::worker::Worker;
use crate::core::{ClientLimits, SessionProgress};
use ashlar_types::control::{AttachmentInfo, ControlReply, ControlRequest};
use ashlar_types::{BlockDevice, BlockRequest, BootId, Completions, DeviceInfo, DiskName, SessionId};
use ashlar_wire_control::ControlClientError;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayOptions {
    /// How long a volume stays open without connections. Default 10 s.
    pub close_after: Duration,
    /// How long requests under way may take when a volume is closed. Default 5 s.
    pub close_patience: Duration,
    /// How long an open waits for a takeover. Default 20 s, which fits into the handshake of a front end.
    pub open_patience: Duration,
    /// How long the metadata service is asked for a volume that is open already. Default 1 s.
    pub renew_patience: Duration,
    /// What blocks of frozen layers that linked clones stand on may take in memory, of all volumes together. Default 256 MiB.
    pub base_cache_bytes: u64,
    /// Jobs that the process works on at a time. Default 2; with 0 it leaves them to others.
    pub jobs_max: usize,
    pub limits: ClientLimits,
}

impl Default for GatewayOptions {
    fn default() -> GatewayOptions {
        GatewayOptions {
            close_after: Duration::from_secs(10),
            close_patience: Duration::from_secs(5),
            open_patience: Duration::from_secs(20),
            renew_patience: Duration::from_secs(1),
            base_cache_bytes: 256 << 20,
            jobs_max: 2,
            limits: ClientLimits::default(),
        }
    }
}

/// A handle; clones are the same gateway.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Cluster,
    bases: Bases,
    holder: Holder,
    options: GatewayOptions,
    slots: Mutex<BTreeMap<DiskName, Arc<Slot>>>,
    ending: AtomicBool,
}

/// The place of one volume. Slots stay that hold how far a session got.
#[derive(Default)]
struct Slot {
    /// G1: held while the volume is opened or closed.
    changing: tokio::sync::Mutex<()>,
    state: Mutex<SlotState>,
}

#[derive(Default)]
struct SlotState {
    volume: Option<Arc<Volume>>,
    /// Connections to `volume`.
    users: usize,
    /// Counts how often it was left without users, so that an old timer doesn't close it.
    left: u64,
    /// The last session that was closed, and what it had used (G2).
    used: Option<(SessionId, SessionProgress)>,
}

impl SlotState {
    fn is_empty(&self) -> bool {
        self.volume.is_none() && self.used.is_none()
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gateway {
    /// Connects to the cluster. `id` names the gateway, `boot` is of this process: drawn at random at its start.
    pub async fn connect(
        control: Arc<dyn Control>,
        id: String,
        boot: BootId,
        options: GatewayOptions,
    ) -> Result<Gateway, ControlClientError> {
        let cluster = Cluster::connect(control).await?;
        let (slots, ending) = (Mutex::new(BTreeMap::new()), AtomicBool::new(false));
        let holder = Holder { gateway: id, boot };
        let bases = Bases::new(cluster.clone(), options.limits, options.base_cache_bytes);
        Ok(Gateway { inner: Arc::new(Inner { cluster, bases, holder, options, slots, ending }) })
    }

    /// Works on jobs of the cluster, until it is dropped.
    pub async fn work(&self) {
        let Inner { cluster, holder, options, .. } = &*self.inner;
        Worker::new(cluster.clone(), holder.clone(), self.clone(), options.limits).run(options.jobs_max).await;
    }

    pub fn cluster(&self) -> &Cluster {
        &self.inner.cluster
    }

    /// The attachments that this gateway may serve.
    pub async fn list(&self) -> Result<Vec<AttachmentInfo>, ControlClientError> {
        let request = ControlRequest::AttachmentList { gateway: Some(self.inner.holder.gateway.clone()) };
        match self.inner.cluster.control().request(request).await? {
            ControlReply::Attachments(attachments) => Ok(attachments),
            _ => Err(wrong_answer("attachments")),
        }
    }

    /// One connection's use of `VOLUME` or `VOLUME@SNAPSHOT`, until it is dropped. Asks the metadata service each time, so that a size is up to
    /// date and an attachment that is gone isn't served; while that can't be reached, what is open stays in use.
    pub async fn open(&self, name: &str) -> Result<Arc<OpenVolume>, OpenError> {
        let name: DiskName = name.parse()?;
        let slot = SlotUse::new(&self.inner, &name);
        if let Some(open) = self.share_open(&slot.slot, &name).await {
            return Ok(open);
        }
        self.open_in(&slot.slot, name).await
    }

    /// What is open already, unless it is lost, or the metadata service says anything else of it. Nobody waits for another
    /// here: all connections of a volume may come back at a time, when that service doesn't answer.
    async fn share_open(&self, slot: &Arc<Slot>, name: &DiskName) -> Option<Arc<OpenVolume>> {
        let volume = slot.lock().volume.clone()?;
        if volume.is_fenced() {
            return None;
        }
        let Inner { cluster, holder, options, .. } = &*self.inner;
        let asked = volume.size_mark();
        let grant = request_grant(cluster, name, holder, options.renew_patience);
        match tokio::time::timeout(options.renew_patience, grant).await {
            Ok(Ok(grant)) if grant.session == volume.session() => volume.resize(grant.size, asked),
            Ok(Err(OpenError::Control { .. })) | Err(_) => {}
            Ok(Ok(_) | Err(_)) => return None,
        }
        let mut state = slot.lock();
        // It may have been lost or closed meanwhile, and another one opened.
        if volume.is_fenced() || !state.volume.as_ref().is_some_and(|open| Arc::ptr_eq(open, &volume)) {
            return None;
        }
        state.users += 1;
        drop(state);
        Some(Arc::new(OpenVolume { volume, slot: slot.clone(), options: *options }))
    }

    async fn open_in(&self, slot: &Arc<Slot>, name: DiskName) -> Result<Arc<OpenVolume>, OpenError> {
        let _changing = slot.changing.lock().await;
        if self.inner.ending.load(Ordering::Acquire) {
            return Err(OpenError::ShuttingDown);
        }
        let open = slot.lock().volume.clone();
        let Inner { cluster, holder, options, .. } = &*self.inner;
        let asked = open.as_ref().map(|volume| volume.size_mark());
        let grant = match (request_grant(cluster, &name, holder, options.open_patience).await, open) {
            (Ok(grant), Some(volume)) if volume.session() == grant.session => {
                if volume.is_fenced() {
                    return Err(OpenError::Fenced { name });
                }
                asked.into_iter().for_each(|asked| volume.resize(grant.size, asked));
                return Ok(self.share(slot, volume));
            }
            (Ok(grant), _) => grant,
            (Err(OpenError::Control { .. }), Some(volume)) if !volume.is_fenced() => {
                return Ok(self.share(slot, volume));
            }
            (Err(_), Some(volume)) if volume.is_fenced() => return Err(OpenError::Fenced { name }),
            (Err(error), _) => return Err(error),
        };
        let used = slot.lock().used.filter(|(session, _)| *session == grant.session);
        let progress = used.map_or_else(SessionProgress::default, |(_, progress)| progress);
        let base = self.inner.bases.under(&grant).await?;
        let volume = Volume::start(cluster, grant, options.limits, progress, base);
        let mut state = slot.lock();
        // Connections to a session that is over keep it until they go; it has nothing more to do.
        state.volume = Some(volume.clone());
        state.users = 0;
        drop(state);
        Ok(self.share(slot, volume))
    }

    /// Closes all volumes; nothing is opened any more.
    pub async fn shutdown(&self) {
        self.inner.ending.store(true, Ordering::Release);
        let slots: Vec<Arc<Slot>> = self.inner.slots().values().cloned().collect();
        let closing: Vec<_> = slots
            .into_iter()
            .map(|slot| tokio::spawn(close(slot, self.inner.options.close_patience, |_| true)))
            .collect();
        for task in closing {
            // It can only have been cancelled with the runtime.
            let _ = task.await;
        }
    }

    fn share(&self, slot: &Arc<Slot>, volume: Arc<Volume>) -> Arc<OpenVolume> {
        slot.lock().users += 1;
        Arc::new(OpenVolume { volume, slot: slot.clone(), options: self.inner.options })
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("holder", &self.inner.holder).finish_non_exhaustive()
    }
}

impl Inner {
    fn slots(&self) -> MutexGuard<'_, BTreeMap<DiskName, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open's use of a slot, which it may give up at any time. Names that lead to nothing must not fill the memory: the last
/// one that uses a slot takes it away if nothing came of it.
struct SlotUse {
    inner: Arc<Inner>,
    name: DiskName,
    slot: Arc<Slot>,
}

impl SlotUse {
    fn new(inner: &Arc<Inner>, name: &DiskName) -> SlotUse {
        let slot = inner.slots().entry(name.clone()).or_default().clone();
        SlotUse { inner: inner.clone(), name: name.clone(), slot }
    }
}

impl Drop for SlotUse {
    fn drop(&mut self) {
        let mut slots = self.inner.slots();
        // Given back under the lock, so that of several that end at a time the last one finds the map's alone.
        drop(std::mem::take(&mut self.slot));
        let is_unused = |slot: &Arc<Slot>| Arc::strong_count(slot) == 1 && slot.lock().is_empty();
        if slots.get(&self.name).is_some_and(is_unused) {
            slots.remove(&self.name);
        }
    }
}

/// Closes what is in the slot, if that is still right once nobody else changes it.
async fn close(slot: Arc<Slot>, patience: Duration, is_right: impl Fn(&SlotState) -> bool) {
    let _changing = slot.changing.lock().await;
    let volume = {
        let mut state = slot.lock();
        if !is_right(&state) {
            return;
        }
        state.volume.take()
    };
    let Some(volume) = volume else { return };
    if let Some(progress) = volume.close(patience).await {
        slot.lock().used = Some((volume.session(), progress));
    }
    tracing::info!(volume = %volume.name(), "closed");
}

/// A volume in use by one connection.
pub struct OpenVolume {
    volume: Arc<Volume>,
    slot: Arc<Slot>,
    options: GatewayOptions,
}

impl OpenVolume {
    pub(super) fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    pub fn name(&self) -> &DiskName {
        self.volume.name()
    }

    /// Whether the attachment was lost; all requests fail then.
    pub fn is_fenced(&self) -> bool {
        self.volume.is_fenced()
    }
}

impl std::fmt::Debug for OpenVolume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenVolume").field("volume", &self.volume).finish_non_exhaustive()
    }
}

impl BlockDevice for OpenVolume {
    fn info(&self) -> DeviceInfo {
        self.volume.info()
    }

    fn submit(&self, request: BlockRequest, completions: &Arc<dyn Completions>) {
        self.volume.submit(request, completions);
    }
}

impl Drop for OpenVolume {
    fn drop(&mut self) {
        let mut state = self.slot.lock();
        if !state.volume.as_ref().is_some_and(|volume| Arc::ptr_eq(volume, &self.volume)) {
            return;
        }
        state.users -= 1;
        if state.users > 0 {
            return;
        }
        state.left += 1;
        let left = state.left;
        drop(state);
        // Without a runtime the process is ending, and the volume with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (slot, options) = (self.slot.clone(), self.options);
        runtime.spawn(async move {
            tokio::time::sleep(options.close_after).await;
            close(slot, options.close_patience, |state| state.users == 0 && state.left == left).await;
        });
    }
}

#[cfg(test)]
mod tests;
