//! A volume or a snapshot of one that is only asked which layer has what, by whoever likes, whoever has it: without an attachment, as what is frozen is
//! read (docs/decisions/030-differences.md). It gives no data and changes nothing, so there is nobody to fence and nothing to give back.

use super::cluster::{Cluster, wrong_answer};
use super::volume::{GrantedBy, OpenError, Volume, random};
use crate::core::{ClientLimits, SessionProgress};
use ashlar_types::control::{AttachGrant, BaseLayer, ControlReply, ControlRequest, SnapshotState};
use ashlar_types::{
    AttachmentId, BlockDevice, BlockError, BlockOp, BlockReply, BlockRequest, Completions, DiskName, Generation,
    LayerExtent, LayerId, SessionId, SnapshotId, StackRevision, VolumeId,
};
use ashlar_wire_control::ControlClientError;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// Which disk is meant: its name may become another one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskId {
    pub volume: VolumeId,
    pub snapshot: Option<SnapshotId>,
}

/// A disk as the metadata service knows it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskState {
    pub id: DiskId,
    /// Bytes.
    pub size: u64,
    /// Top first.
    pub layers: Vec<LayerId>,
    /// Of a clone.
    pub base: Option<BaseLayer>,
    /// A snapshot that is still being created isn't: something may yet come into it.
    pub is_settled: bool,
    pool: ashlar_types::PoolId,
    placement_key: u64,
    revision: StackRevision,
}

impl DiskState {
    pub async fn look(cluster: &Cluster, name: &DiskName) -> Result<DiskState, ControlClientError> {
        let show = ControlRequest::VolumeShow { name: name.volume.clone() };
        let volume = match cluster.control().request(show).await? {
            ControlReply::Volume(volume) => volume,
            _ => return Err(wrong_answer("a volume")),
        };
        let mut state = DiskState {
            id: DiskId { volume: volume.id, snapshot: None },
            size: volume.size,
            layers: volume.layers,
            base: volume.origin.map(|origin| origin.base),
            is_settled: true,
            pool: volume.pool,
            placement_key: volume.placement_key,
            revision: volume.stack_revision,
        };
        if let Some(snapshot) = &name.snapshot {
            let show = ControlRequest::SnapshotShow { volume: name.volume.clone(), name: snapshot.clone() };
            let snapshot = match cluster.control().request(show).await? {
                ControlReply::Snapshot(snapshot) => snapshot,
                _ => return Err(wrong_answer("a snapshot")),
            };
            state.id.snapshot = Some(snapshot.id);
            state.size = snapshot.size;
            state.layers = snapshot.layers;
            state.is_settled = snapshot.state == SnapshotState::Available;
        }
        match state.layers.is_empty() {
            true => Err(wrong_answer("layers")),
            false => Ok(state),
        }
    }

    /// The newest stack revision, as that of what is frozen under clones: who only looks causes nothing that others could see.
    pub(super) fn grant(self, name: DiskName, session: SessionId) -> AttachGrant {
        AttachGrant {
            volume: self.id.volume,
            name,
            attachment: AttachmentId::FROZEN,
            generation: Generation(0),
            session,
            pool: self.pool,
            placement_key: self.placement_key,
            stack_revision: self.revision,
            layers: self.layers,
            size: self.size,
            read_only: true,
            // What the volume stands on is not asked.
            base: None,
        }
    }
}

/// Ends with the last handle.
#[derive(Debug)]
pub struct Observer {
    volume: Arc<Volume>,
    state: DiskState,
}

impl Observer {
    pub async fn open(cluster: &Cluster, name: &DiskName) -> Result<Observer, OpenError> {
        let named = |source| OpenError::Control { name: name.clone(), source };
        let state = DiskState::look(cluster, name).await.map_err(named)?;
        let grant = state.clone().grant(name.clone(), SessionId::drawn(random()));
        let (limits, progress) = (ClientLimits::default(), SessionProgress::default());
        let volume = Volume::run(cluster, grant, limits, progress, None, GrantedBy::Looking(state.id));
        Ok(Observer { volume, state })
    }

    /// As it was when it was opened.
    pub fn state(&self) -> &DiskState {
        &self.state
    }

    /// Which of its layers has what, of the beginning of the range at least. [`BlockError::Fenced`]: the disk is gone.
    pub async fn layers(&self, offset: u64, len: u64) -> Result<Vec<LayerExtent>, BlockError> {
        let (answer, answered) = oneshot::channel();
        let completions: Arc<dyn Completions> = Arc::new(Once(Mutex::new(Some(answer))));
        let op = BlockOp::Layers { offset, len, with_base: false };
        self.volume.submit(BlockRequest { tag: 0, op }, &completions);
        match answered.await {
            Ok(Ok(BlockReply::Layers(extents))) => Ok(extents),
            Ok(Ok(_)) => unreachable!("a question for layers is answered with some"),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(BlockError::ShuttingDown),
        }
    }
}

struct Once(Mutex<Option<oneshot::Sender<Result<BlockReply, BlockError>>>>);

impl Completions for Once {
    fn complete(&self, _: u64, result: Result<BlockReply, BlockError>) {
        let answer = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Who asked may have given up.
        let _ = answer.map(|answer| answer.send(result));
    }
}
