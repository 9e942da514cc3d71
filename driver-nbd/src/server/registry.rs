//! Which connections there are, and who must go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

#[derive(Debug)]
pub(super) struct Registry {
    connections_max: usize,
    state: Mutex<State>,
    /// Told when the last connection has ended.
    emptied: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Counts connections and what became of them: larger is later.
    next: u64,
    connections: BTreeMap<u64, Connection>,
    closed: bool,
}

#[derive(Debug)]
struct Connection {
    task: AbortHandle,
    stage: Stage,
    /// When it came to this stage, or was last heard of in it.
    since: u64,
}

/// How much is lost with a connection; one that is less goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Says no more, or isn't heard because its device does not go on. It may be there to hear the rest, or not.
    Leaving,
    /// In the handshake, and hasn't said a word.
    Silent,
    /// In the handshake, where we wait for it.
    Talking,
    /// It waits for us, or the handshake is over: it stays.
    Kept,
}

/// A connection's place; given back when dropped, which also happens when its task is aborted.
pub(super) struct Place {
    registry: Arc<Registry>,
    id: u64,
}

impl Registry {
    pub fn new(connections_max: usize) -> Registry {
        Registry { connections_max, state: Mutex::default(), emptied: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Starts a connection's task with its place, unless there are too many. May push out another one for it.
    pub fn admit(self: &Arc<Self>, spawn: impl FnOnce(Place) -> AbortHandle) -> bool {
        let mut state = self.state();
        if state.closed || (state.connections.len() >= self.connections_max && !state.push_one_out()) {
            return false;
        }
        let id = state.tick();
        // Under the lock, so that the task can't give its place back before it has it.
        let task = spawn(Place { registry: self.clone(), id });
        state.connections.insert(id, Connection { task, stage: Stage::Silent, since: id });
        true
    }

    pub fn connections(&self) -> usize {
        self.state().connections.len()
    }

    pub fn abort_handshakes(&self) {
        let waits_for_client = |c: &&Connection| matches!(c.stage, Stage::Silent | Stage::Talking);
        self.state().connections.values().filter(waits_for_client).for_each(|c| c.task.abort());
    }

    pub fn abort_all(&self) {
        self.state().connections.values().for_each(|connection| connection.task.abort());
    }

    /// Admits nobody from now on.
    pub async fn wait_until_empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            {
                let mut state = self.state();
                state.closed = true;
                if state.connections.is_empty() {
                    return;
                }
            }
            emptied.await;
        }
    }
}

impl State {
    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Makes room. Looks at all of them, which happens only while every place is taken.
    fn push_one_out(&mut self) -> bool {
        let dispensable = self.connections.iter().filter(|(_, connection)| connection.stage < Stage::Kept);
        let Some(id) = dispensable.min_by_key(|(_, c)| (c.stage, c.since)).map(|(id, _)| *id) else { return false };
        if let Some(connection) = self.connections.remove(&id) {
            connection.task.abort();
        }
        true
    }
}

impl Place {
    fn enter(&self, stage: Stage) {
        let mut state = self.registry.state();
        let since = state.tick();
        // Gone if it was pushed out just now.
        if let Some(connection) = state.connections.get_mut(&self.id) {
            (connection.stage, connection.since) = (stage, since);
        }
    }

    /// Newer connections push this one out no longer: the handshake is over, or waits for us.
    pub fn keep(&self) {
        self.enter(Stage::Kept);
    }

    /// The handshake goes on: it waits for the client, which has been heard of just now.
    pub fn expose(&self) {
        self.enter(Stage::Talking);
    }

    /// Its client has ended the connection, or we have, or we can't tell. Any newer one may push it out, however long its last
    /// replies take.
    pub fn leave(&self) {
        self.enter(Stage::Leaving);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let empty = {
            let mut state = self.registry.state();
            state.connections.remove(&self.id);
            state.connections.is_empty()
        };
        if empty {
            self.registry.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tasks that wait for ever, and the places they would hold.
    struct Rig {
        runtime: tokio::runtime::Runtime,
        registry: Arc<Registry>,
        places: Vec<Place>,
    }

    impl Rig {
        fn new(connections_max: usize) -> Rig {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let registry = Arc::new(Registry::new(connections_max));
            Rig { runtime, registry, places: Vec::new() }
        }

        fn admit(&mut self) -> bool {
            let Rig { runtime, registry, places } = self;
            registry.admit(|place| {
                places.push(place);
                runtime.spawn(std::future::pending::<()>()).abort_handle()
            })
        }

        fn pushed_out(&self) -> Vec<usize> {
            let state = self.registry.state();
            (0..self.places.len()).filter(|n| !state.connections.contains_key(&self.places[*n].id)).collect()
        }
    }

    #[test]
    fn nobody_is_pushed_out_while_there_is_a_place() {
        let mut rig = Rig::new(2000);
        (0..2000).for_each(|_| assert!(rig.admit()));
        assert_eq!(rig.pushed_out(), []);
        assert!(rig.admit());
        assert_eq!(rig.pushed_out(), [0]);
        assert_eq!(rig.registry.connections(), 2000);
    }

    #[test]
    fn who_is_leaving_keeps_nobody_out() {
        let mut rig = Rig::new(3);
        (0..3).for_each(|_| assert!(rig.admit()));
        rig.places[0].keep();
        rig.places[1].keep();
        rig.places[1].leave();
        assert!(rig.admit());
        assert_eq!(rig.pushed_out(), [1]);
    }

    #[test]
    fn who_has_said_nothing_goes_first_then_who_was_heard_of_longest_ago_and_nobody_else() {
        let mut rig = Rig::new(4);
        (0..4).for_each(|_| assert!(rig.admit()));
        rig.places[0].keep();
        rig.places[1].expose();
        rig.places[2].expose();
        rig.places[1].keep();
        rig.places[1].expose(); // its export was looked at, and it goes on
        assert!(rig.admit());
        assert_eq!(rig.pushed_out(), [3], "the silent one");
        rig.places[4].expose();
        assert!(rig.admit());
        assert_eq!(rig.pushed_out(), [2, 3]);
        rig.places[5].keep();
        assert!(rig.admit());
        assert_eq!(rig.pushed_out(), [1, 2, 3]);
        rig.places[4].keep();
        rig.places[6].keep();
        assert!(!rig.admit(), "all are kept");
        rig.places[3].keep();
        assert_eq!(rig.registry.connections(), 4, "who was pushed out does not come back");
    }
}
