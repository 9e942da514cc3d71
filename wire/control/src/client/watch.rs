//! Watching the view: one task that follows the leader for as long as somebody listens.

use super::PAUSE;
use super::nodes::Nodes;
use crate::proto;
use ashlar_types::Revision;
use ashlar_types::control::ControlError;
use ashlar_types::view::ClusterView;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Differences on their way to the listener. A slow listener makes the leader gather several into one.
const VIEWS_WAITING_MAX: usize = 16;

pub(super) fn start(nodes: Arc<Nodes>, from: Revision) -> mpsc::Receiver<ClusterView> {
    let (sender, receiver) = mpsc::channel(VIEWS_WAITING_MAX);
    tokio::spawn(async move {
        let mut from = from;
        while !sender.is_closed() {
            tokio::select! {
                _ = follow(&nodes, &mut from, &sender) => {}
                _ = sender.closed() => return,
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
    receiver
}

/// One stream of one node, until it ends.
async fn follow(nodes: &Nodes, from: &mut Revision, sender: &mpsc::Sender<ClusterView>) {
    let (address, connected) = nodes.connect().await;
    let Ok(mut client) = connected else {
        return nodes.try_next(&address);
    };
    let mut stream = match client.watch(proto::WatchRequest { revision: from.0 }).await {
        Ok(stream) => stream.into_inner(),
        Err(_) => return nodes.forget(&address),
    };
    loop {
        let item = match stream.message().await {
            Ok(Some(proto::WatchItem { item: Some(item) })) => item,
            Ok(_) => return nodes.try_next(&address),
            Err(_) => return nodes.forget(&address),
        };
        let view = match item {
            proto::watch_item::Item::View(view) => ClusterView::try_from(view),
            proto::watch_item::Item::Error(error) => {
                let leader = match ControlError::try_from(error) {
                    Ok(ControlError::NotLeader { leader }) => leader,
                    _ => None,
                };
                return nodes.follow(&address, leader);
            }
        };
        // A view that is not readable comes from a newer program; another node may be of our age.
        let Ok(view) = view else {
            return nodes.try_next(&address);
        };
        *from = view.revision.max(*from);
        if sender.send(view).await.is_err() {
            return;
        }
    }
}
