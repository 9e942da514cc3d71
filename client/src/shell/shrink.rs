//! Shrinks a volume that this gateway has open, or opens it for that. What is done with the disk core/shrink.rs knows; this drives it, tells how far it is,
//! and has the metadata service take the new size.
//!
//! The hold stays until the metadata service has said which size the volume has after all: else a client could write behind a new end of which the gateway
//! doesn't know yet, and find that again when the volume grows.

use super::cluster::Cluster;
use super::gateway::{Gateway, OpenVolume};
use super::volume::Volume;
use super::worker::{AGAIN_PAUSE, Done, Lost, TELL_PAUSE, ToChannel, cut};
use crate::core::{ShrinkAction, Shrinker};
use ashlar_types::control::{ControlError, ControlReply, ControlRequest};
use ashlar_types::job::Shrink;
use ashlar_types::{BlockDevice, BlockRequest, Completions, DiskName, JobId, Name, SessionId};
use ashlar_wire_control::ControlClientError;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Of who could not open the disk: no session has this number.
const NO_DISK: SessionId = SessionId(0);

/// The job of shrinking one volume, in the gateway that has it.
pub(super) struct Shrinking<'a> {
    cluster: &'a Cluster,
    gateway: &'a Gateway,
    job: JobId,
    shrink: Shrink,
}

impl<'a> Shrinking<'a> {
    pub(super) fn new(cluster: &'a Cluster, gateway: &'a Gateway, job: JobId, shrink: Shrink) -> Shrinking<'a> {
        Shrinking { cluster, gateway, job, shrink }
    }

    pub(super) async fn run(&self, name: &Name) -> Result<(), Lost> {
        let open = match self.gateway.open(name.as_str()).await {
            Ok(open) => open,
            Err(error) => return self.end(NO_DISK, Some(cut(&error.to_string()))).await,
        };
        let volume = open.volume();
        // Somebody may have given up one that is still at it here, and asked for another.
        let _turn = volume.shrinking().await;
        let size = volume.info().size;
        if self.shrink.size >= size {
            return self.end(volume.session(), Some(format!("volume {name} has {size} bytes here"))).await;
        }
        let (shrinker, first) = Shrinker::new(self.shrink.size, size, self.shrink.force);
        match self.clear(volume, shrinker, first).await {
            Ok(None) => {
                let result = self.end(volume.session(), None).await;
                self.release(&open).await;
                result
            }
            // Nothing is going to be committed, so that clients may go on before; and who has heard of the end finds the disk as it was.
            Ok(Some(why)) => {
                self.release(&open).await;
                self.end(volume.session(), Some(cut(&format!("volume {name} {why}")))).await
            }
            Err(Lost) => {
                self.release(&open).await;
                Err(Lost)
            }
        }
    }

    /// Gives why the volume keeps its size, if it does. Nothing is under way behind the new end when it returns.
    async fn clear(
        &self,
        volume: &Volume,
        mut shrinker: Shrinker,
        first: ShrinkAction,
    ) -> Result<Option<String>, Lost> {
        let (sender, mut done) = mpsc::unbounded_channel::<Done>();
        let completions: Arc<dyn Completions> = Arc::new(ToChannel(sender));
        let mut tell_at = Instant::now() + TELL_PAUSE;
        let mut next = Some(first);
        let mut held: Option<oneshot::Receiver<()>> = None;
        // It was given up: what is under way ends, nothing more is begun.
        let mut is_lost = false;
        loop {
            match next.take() {
                _ if shrinker.outcome().is_some() => {
                    let refusal =
                        shrinker.outcome().and_then(|outcome| outcome.as_ref().err().map(ToString::to_string));
                    return if is_lost { Err(Lost) } else { Ok(refusal) };
                }
                Some(_) if is_lost => return Err(Lost),
                Some(ShrinkAction::Hold(end)) => held = Some(volume.hold(end)),
                Some(ShrinkAction::Submit(op)) => volume.submit_behind(BlockRequest { tag: 0, op }, &completions),
                None => {}
            }
            tokio::select! {
                answer = async { held.as_mut().expect("looked at").await }, if held.is_some() => {
                    held = None;
                    if answer.is_err() {
                        // Nobody is served any more, at any size.
                        return Err(Lost);
                    }
                    next = shrinker.on_held();
                }
                Some((_, result)) = done.recv() => next = shrinker.on_done(result),
                () = tokio::time::sleep_until(tell_at), if !is_lost => {
                    tell_at = Instant::now() + TELL_PAUSE;
                    is_lost = self.tell(&shrinker).await.is_err();
                    if is_lost && held.is_some() {
                        return Err(Lost);
                    }
                }
            }
        }
    }

    async fn tell(&self, shrinker: &Shrinker) -> Result<(), Lost> {
        let (job, session) = (self.job, self.shrink.session);
        let (position, filled) = (shrinker.position(), shrinker.discarded());
        let request = ControlRequest::JobProgress { job, session, position, filled, trouble: None };
        match self.cluster.control().request(request).await {
            Err(ControlClientError::Refused(ControlError::NotFound { .. })) => Err(Lost),
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::debug!(%job, %error, "not told how far it is");
                Ok(())
            }
        }
    }

    /// Says how it ended, until that is heard.
    async fn end(&self, disk: SessionId, refusal: Option<String>) -> Result<(), Lost> {
        let (job, session) = (self.job, self.shrink.session);
        loop {
            let request = ControlRequest::ShrinkEnd { job, session, disk, refusal: refusal.clone() };
            match self.cluster.control().request(request).await {
                Ok(_) => return Ok(()),
                // Said before, and the answer was lost; or given up.
                Err(ControlClientError::Refused(ControlError::NotFound { .. })) => return Err(Lost),
                Err(error) => tracing::debug!(%job, %error, "not told yet how it ended"),
            }
            tokio::time::sleep(AGAIN_PAUSE).await;
        }
    }

    /// Lets clients go on, with the size that the volume has. Who has lost the volume to somebody else is not told it; and serves nobody any more, or is
    /// about to.
    async fn release(&self, open: &OpenVolume) {
        let volume = open.volume();
        while !volume.is_fenced() {
            let (name, session) = (DiskName::clone(open.name()), volume.session());
            match self.cluster.control().request(ControlRequest::SessionGrant { name, session }).await {
                Ok(ControlReply::Opened(grant)) if grant.session == session => {
                    volume.release(grant.size);
                    tracing::info!(volume = %open.name(), size = grant.size, "serves this size from now on");
                    return;
                }
                Err(ControlClientError::Refused(ControlError::NotFound { .. })) => return,
                Ok(_) => {}
                Err(error) => tracing::debug!(volume = %open.name(), %error, "not told yet how large it is"),
            }
            tokio::time::sleep(AGAIN_PAUSE).await;
        }
    }
}
