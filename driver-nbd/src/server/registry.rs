//! Which connections there are, and who must go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

#[derive(Debug)]
pub(super) struct Registry {
    connections_max: usize,
    handshakes_max: usize,
    state: Mutex<State>,
    /// Told when the last connection has ended.
    emptied: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Of the next connection; larger is younger.
    next: u64,
    /// Wait for their clients, in the handshake; the oldest goes when there are too many.
    handshakes: BTreeMap<u64, AbortHandle>,
    kept: BTreeMap<u64, AbortHandle>,
    closed: bool,
}

/// A connection's place; given back when dropped, which also happens when its task is aborted.
pub(super) struct Place {
    registry: Arc<Registry>,
    id: u64,
}

impl Registry {
    pub fn new(connections_max: usize, handshakes_max: usize) -> Registry {
        Registry {
            connections_max,
            handshakes_max: handshakes_max.max(1),
            state: Mutex::default(),
            emptied: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Starts a connection's task with its place, unless there are too many. May push out the oldest handshake.
    pub fn admit(self: &Arc<Self>, spawn: impl FnOnce(Place) -> AbortHandle) -> bool {
        let mut state = self.state();
        if state.closed {
            return false;
        }
        if state.handshakes.len() >= self.handshakes_max
            && let Some((_, oldest)) = state.handshakes.pop_first()
        {
            oldest.abort();
        }
        if state.handshakes.len() + state.kept.len() >= self.connections_max {
            return false;
        }
        let id = state.next;
        state.next += 1;
        // Under the lock, so that the task can't give its place back before it has it.
        let handle = spawn(Place { registry: self.clone(), id });
        state.handshakes.insert(id, handle);
        true
    }

    pub fn connections(&self) -> usize {
        let state = self.state();
        state.handshakes.len() + state.kept.len()
    }

    pub fn abort_handshakes(&self) {
        self.state().handshakes.values().for_each(AbortHandle::abort);
    }

    pub fn abort_all(&self) {
        let state = self.state();
        state.handshakes.values().chain(state.kept.values()).for_each(AbortHandle::abort);
    }

    /// Admits nobody from now on.
    pub async fn wait_until_empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            {
                let mut state = self.state();
                state.closed = true;
                if state.handshakes.is_empty() && state.kept.is_empty() {
                    return;
                }
            }
            emptied.await;
        }
    }
}

impl Place {
    /// Newer connections push this one out no longer: the handshake is over, or waits for us.
    pub fn keep(&self) {
        let mut state = self.registry.state();
        if let Some(handle) = state.handshakes.remove(&self.id) {
            state.kept.insert(self.id, handle);
        }
    }

    /// The handshake waits for the client again.
    pub fn expose(&self) {
        let mut state = self.registry.state();
        if let Some(handle) = state.kept.remove(&self.id) {
            state.handshakes.insert(self.id, handle);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let empty = {
            let mut state = self.registry.state();
            state.handshakes.remove(&self.id);
            state.kept.remove(&self.id);
            state.handshakes.is_empty() && state.kept.is_empty()
        };
        if empty {
            self.registry.emptied.notify_waiters();
        }
    }
}
