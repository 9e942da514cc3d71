//! What happens to an OSD core, and what it wants done.

use ashlar_types::control::{ControlError, ControlReply, ControlRequest};
use ashlar_types::view::ClusterView;
use ashlar_types::{BootId, OsdId};
use ashlar_wire::Message;
use bytes::Bytes;

/// A connection that somebody else opened to this OSD; numbered by the shell, never twice in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// A disk operation under way; numbered by the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoId(pub u64);

/// An operation on the OSD's disk. Offsets and lengths are multiples of 4096; operations that are under way together take
/// effect in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskOp {
    /// The pieces go one behind the other. Each is a multiple of 512 bytes long and lies at such an address in memory where the shell
    /// received or allocated it so; a shell copies those that its disk does not take.
    ///
    /// `through`: on stable storage when it completes, without a flush (FUA). Says nothing of other writes.
    Write {
        at: u64,
        data: Vec<Bytes>,
        through: bool,
    },
    Read {
        at: u64,
        len: u32,
    },
    /// Everything whose write completed before this was submitted is on stable storage when it completes.
    Flush,
    /// The disk may forget this range.
    Discard {
        at: u64,
        len: u64,
    },
}

/// The bytes of a read; empty for everything else.
pub type DiskResult = Result<Bytes, DiskError>;

/// What the operating system said. Never retried: a failed write or flush latches the store (design.md §4).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind:?} (os error {code:?})")]
pub struct DiskError {
    pub kind: std::io::ErrorKind,
    pub code: Option<i32>,
}

/// Everything that an OSD core hears of.
#[derive(Clone, Debug)]
pub enum Event {
    /// First of all: mount the store.
    Start,
    Disk(IoId, DiskResult),
    /// A message on a connection that a client or another OSD opened. The first is its hello. Replies leave on the same connection.
    Received(ConnId, Message),
    Closed(ConnId),
    /// The connection that this OSD opened to another one stands; the hello can be sent.
    LinkUp(OsdId),
    /// It broke, or could not be made; with everything that was in it. The core asks for a new one when it wants one.
    LinkDown(OsdId),
    /// A reply on the connection that this OSD opened.
    LinkReceived(OsdId, Message),
    /// What changed in the cluster view (or all of it).
    View(ClusterView),
    /// The answer to `Action::Control`.
    ControlAnswer(u64, Result<ControlReply, ControlError>),
    /// The time asked for by `Action::WakeAt` has come. May come early or needlessly.
    Timer,
    /// It is time again to compare the copies of all PGs that this OSD leads, and with `deep` to read their medium.
    Scrub {
        deep: bool,
    },
}

/// Everything that an OSD core wants done. The order within a step means nothing for durability, but messages to one
/// receiver leave in the order of their actions.
#[derive(Clone, Debug)]
pub enum Action {
    Disk(IoId, DiskOp),
    Send(ConnId, Message),
    Close(ConnId),
    /// Open a connection to this OSD process, dropping the one that stands. Answered by `LinkUp` or `LinkDown`.
    Link {
        osd: OsdId,
        boot: BootId,
        address: String,
    },
    LinkSend(OsdId, Message),
    /// Ask the metadata service. Answered by `ControlAnswer` with the same number, unless the shell loses it: the core asks again.
    Control(u64, ControlRequest),
    /// Call again with `Event::Timer` at this time; replaces the time asked for before.
    WakeAt(ashlar_types::Tick),
    /// The store is mounted; its usage and whether it found damage (the daemon registers with the metadata service now).
    Mounted {
        damaged: bool,
    },
    /// The disk failed or an operator must act: stop this process. The text says what and where.
    Fail(String),
    /// Something that an operator must hear of.
    Warn(String),
}
