//! The connection to one OSD: dialled when something waits for it, greeted, watched for silence.

use super::limits::Backoff;
use super::stacks::Told;
use ashlar_types::{BootId, Tick};

#[derive(Debug)]
pub(super) struct Link {
    pub(super) state: LinkState,
    /// The process that was dialled, as the view knew it. While `Up`, the one that answered.
    pub(super) boot: BootId,
    pub(super) address: String,
    /// When the OSD was last heard.
    pub(super) heard_at: Tick,
    pub(super) backoff: Backoff,
    pub(super) told: Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    /// Not dialled again before then.
    Closed {
        not_before: Tick,
    },
    /// Awaits `LinkUp`.
    Dialing {
        deadline: Tick,
    },
    /// Awaits the answer to `Hello`.
    Greeting {
        deadline: Tick,
    },
    Up,
}

impl Default for Link {
    fn default() -> Link {
        let state = LinkState::Closed { not_before: Tick(0) };
        let (backoff, told) = Default::default();
        Link { state, boot: BootId(0), address: String::new(), heard_at: Tick(0), backoff, told }
    }
}
