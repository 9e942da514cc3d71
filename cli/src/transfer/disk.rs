//! A disk of the cluster in this process, which is its gateway while it works.

use crate::control::Control;
use crate::error::CliError;
use crate::random;
use ashlar_client::{Gateway, GatewayOptions, OpenVolume};
use ashlar_types::control::{AttachMode, ControlError, ControlRequest};
use ashlar_types::{BlockDevice, BlockError, BlockOp, BlockReply, BlockRequest, BootId, Completions, DiskName, Extent};
use ashlar_wire_control::ControlClientError;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

type Answer = Result<BlockReply, BlockError>;

/// Clones are the same disk.
#[derive(Clone)]
pub struct Disk {
    inner: Arc<Inner>,
}

struct Inner {
    control: Control,
    gateway: Gateway,
    /// Of this process, as the cluster knows it.
    id: String,
    name: DiskName,
    open: Arc<OpenVolume>,
    replies: Arc<Replies>,
    last_tag: AtomicU64,
}

#[derive(Default)]
struct Replies {
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<Answer>>>,
}

impl Completions for Replies {
    fn complete(&self, tag: u64, result: Answer) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&tag);
        // Who asked may have given up.
        let _ = waiting.map(|answer| answer.send(result));
    }
}

impl Disk {
    /// Attaches the disk to a gateway of this name and opens it. A process of the same name that had it before loses it.
    pub async fn attach(
        control: &Control,
        name: &DiskName,
        id: String,
        mode: AttachMode,
        read_only: bool,
    ) -> Result<Disk, CliError> {
        let request = ControlRequest::Attach { name: name.clone(), gateway: id.clone(), mode, read_only };
        match control.ask(request).await {
            Ok(_) => {}
            Err(CliError::Control(ControlClientError::Refused(ControlError::Attached { holder, .. })))
                if holder == id => {}
            Err(error) => return Err(error),
        }
        match Disk::open(control, name, id.clone()).await {
            Ok(disk) => Ok(disk),
            Err(error) => {
                // Nothing is said of what this meets: why it could not be opened is what matters.
                let _ = control.ask(ControlRequest::Detach { name: name.clone(), gateway: Some(id) }).await;
                Err(error)
            }
        }
    }

    async fn open(control: &Control, name: &DiskName, id: String) -> Result<Disk, CliError> {
        let mut boot = [0; 8];
        random::fill(&mut boot)?;
        let (boot, options) = (BootId(u64::from_le_bytes(boot)), GatewayOptions::default());
        let gateway = Gateway::connect(Arc::new(control.client().clone()), id.clone(), boot, options).await?;
        let open =
            gateway.open(&name.to_string()).await.map_err(|source| CliError::Open { source: Box::new(source) })?;
        let (replies, last_tag) = (Arc::default(), AtomicU64::new(0));
        let inner = Inner { control: control.clone(), gateway, id, name: name.clone(), open, replies, last_tag };
        Ok(Disk { inner: Arc::new(inner) })
    }

    /// What a gateway is called that works on this disk: names of gateways are no longer than those of disks may be.
    pub fn gateway_name(work: &str, name: &DiskName) -> String {
        let name: String = name.to_string().chars().take(200).collect();
        format!("{work}-{name}")
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.inner.open.info().size
    }

    async fn run(&self, op: BlockOp) -> Answer {
        let tag = self.inner.last_tag.fetch_add(1, Ordering::Relaxed) + 1;
        let (answer, answered) = oneshot::channel();
        self.inner.replies.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(tag, answer);
        let completions: Arc<dyn Completions> = self.inner.replies.clone();
        self.inner.open.submit(BlockRequest { tag, op }, &completions);
        answered.await.unwrap_or(Err(BlockError::ShuttingDown))
    }

    pub async fn read(&self, offset: u64, len: u32) -> Result<Bytes, BlockError> {
        let BlockReply::Data(mut pieces) = self.run(BlockOp::Read { offset, len }).await? else {
            unreachable!("a read is answered with data");
        };
        if let [_] = pieces[..] {
            return Ok(pieces.remove(0));
        }
        let mut whole = BytesMut::with_capacity(len as usize);
        pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
        Ok(whole.freeze())
    }

    pub async fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        self.run(BlockOp::Write { offset, data }).await.map(drop)
    }

    pub async fn zero(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.run(BlockOp::Discard { offset, len }).await.map(drop)
    }

    /// Of the beginning of the range at least.
    pub async fn extents(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BlockError> {
        match self.run(BlockOp::Extents { offset, len }).await? {
            BlockReply::Extents(extents) => Ok(extents),
            _ => unreachable!("a question for extents is answered with some"),
        }
    }

    pub async fn flush(&self) -> Result<(), BlockError> {
        self.run(BlockOp::Flush).await.map(drop)
    }

    /// Waits for what is under way and gives the disk back.
    pub async fn detach(self) -> Result<(), CliError> {
        self.inner.gateway.shutdown().await;
        if self.inner.open.is_fenced() {
            // Somebody else has it by now, maybe by the same gateway's name.
            return Ok(());
        }
        let (name, gateway) = (self.inner.name.clone(), Some(self.inner.id.clone()));
        self.inner.control.ask(ControlRequest::Detach { name, gateway }).await.map(drop)
    }
}
