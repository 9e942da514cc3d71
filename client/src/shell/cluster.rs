//! The cluster as one process sees it: one watch of the view for all volumes.

use super::control::{Control, ControlFuture};
use super::engine::Command;
use ashlar_types::control::{ControlError, ControlReply, ControlRequest};
use ashlar_types::view::ClusterView;
use ashlar_types::{ClusterId, Revision};
use ashlar_wire_control::ControlClientError;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc::WeakUnboundedSender;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

/// A handle; clones are the same cluster. The watch ends with the last of them and of the volumes.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    control: Arc<dyn Control>,
    id: ClusterId,
    wanted: Arc<Notify>,
    state: Mutex<State>,
}

/// Held only to look at or to hand on a view, never across an await.
struct State {
    follower: Option<AbortHandle>,
    view: Arc<ClusterView>,
    volumes: Vec<WeakUnboundedSender<Command>>,
}

impl Cluster {
    /// Waits for the first view.
    pub async fn connect(control: Arc<dyn Control>) -> Result<Cluster, ControlClientError> {
        let view = match control.request(ControlRequest::ViewSince { revision: Revision(0) }).await? {
            ControlReply::View(view) => view,
            _ => return Err(wrong_answer("a view")),
        };
        let views = control.watch(view.revision);
        let state = State { follower: None, view: Arc::from(view), volumes: Vec::new() };
        let (id, wanted) = (state.view.cluster, Arc::new(Notify::new()));
        let inner = Arc::new(Inner { control, id, wanted: wanted.clone(), state: Mutex::new(state) });
        let follower = tokio::spawn(follow(Arc::downgrade(&inner), views, wanted)).abort_handle();
        inner.lock().follower = Some(follower);
        Ok(Cluster { inner })
    }

    pub fn id(&self) -> ClusterId {
        self.inner.id
    }

    /// As it is known now.
    pub fn view(&self) -> Arc<ClusterView> {
        self.inner.lock().view.clone()
    }

    pub(super) fn control(&self) -> &Arc<dyn Control> {
        &self.inner.control
    }

    /// A volume finds the view stale.
    pub(super) fn want_view(&self) {
        self.inner.wanted.notify_one();
    }

    /// From now on the volume gets each view, beginning with all that is known.
    pub(super) fn add_volume(&self, volume: &mpsc::UnboundedSender<Command>) {
        let mut state = self.inner.lock();
        state.volumes.retain(|known| known.strong_count() > 0);
        state.volumes.push(volume.downgrade());
        // An engine that has ended already needs no view.
        let _ = volume.send(Command::View(state.view.clone()));
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(follower) = self.lock().follower.take() {
            follower.abort();
        }
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_view(&self, difference: ClusterView) {
        let mut state = self.lock();
        if difference.revision <= state.view.revision {
            return;
        }
        let difference = Arc::new(difference);
        let mut view = ClusterView::clone(&state.view);
        view.apply(ClusterView::clone(&difference));
        state.view = Arc::new(view);
        state.volumes.retain(|volume| {
            volume.upgrade().is_some_and(|volume| volume.send(Command::View(difference.clone())).is_ok())
        });
    }
}

/// The metadata service answered something else than what was asked for.
pub(super) fn wrong_answer(expected: &str) -> ControlClientError {
    ControlError::Invalid(format!("the metadata service answered something else than {expected}")).into()
}

/// Hands on what the watch brings, and asks at once when a volume wants to know. Both at a time: the node that is asked may
/// hang for as long as a request may take, while the watch has another one.
async fn follow(cluster: std::sync::Weak<Inner>, mut views: mpsc::Receiver<ClusterView>, wanted: Arc<Notify>) {
    let mut asked: Option<ControlFuture<'static>> = None;
    loop {
        tokio::select! {
            view = views.recv() => {
                let Some(cluster) = cluster.upgrade() else { return };
                match view {
                    Some(view) => cluster.on_view(view),
                    None => views = cluster.control.watch(cluster.lock().view.revision),
                }
            }
            () = wanted.notified(), if asked.is_none() => {
                let Some(cluster) = cluster.upgrade() else { return };
                let (control, revision) = (cluster.control.clone(), cluster.lock().view.revision);
                let request = ControlRequest::ViewSince { revision };
                asked = Some(Box::pin(async move { control.request(request).await }));
            }
            answer = answer_to(&mut asked) => {
                asked = None;
                let Some(cluster) = cluster.upgrade() else { return };
                match answer {
                    Ok(ControlReply::View(view)) => cluster.on_view(*view),
                    Ok(_) => tracing::warn!(error = %wrong_answer("a view"), "no newer view"),
                    // The watch goes on trying, and volumes ask again.
                    Err(error) => tracing::debug!(%error, "no newer view"),
                }
            }
        }
    }
}

/// Never comes while nothing is asked.
async fn answer_to(asked: &mut Option<ControlFuture<'static>>) -> Result<ControlReply, ControlClientError> {
    match asked {
        Some(asked) => asked.await,
        None => std::future::pending().await,
    }
}
