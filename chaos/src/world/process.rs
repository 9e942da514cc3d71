//! What all simulated processes have in common: a life that ends and begins anew, a clock, a pause in which everything
//! waits, and calls to the metadata service.

use crate::clock::{Clock, Instant};
use crate::net::{NetEvent, ProcId};
use ashlar_osd_core::IoId;
use ashlar_types::control::{ControlError, ControlReply, ControlRequest};
use ashlar_types::{MdsId, Revision, Tick};
use std::collections::{BTreeMap, VecDeque};

/// Everything that reaches a process. It is for one life of it: what comes later is lost.
#[derive(Debug)]
pub enum Input {
    Net(NetEvent),
    /// The time that the process asked for; the number tells whether it has asked for another since.
    Wake(u64),
    /// The end of a batch of events of an OSD.
    Poll,
    /// The time of a disk operation has come.
    Disk(IoId),
    Raft {
        from: MdsId,
        bytes: Vec<u8>,
    },
    Persisted {
        token: u64,
    },
    /// A request of this process, this life of it, with its own number.
    Request {
        from: ProcId,
        life: u32,
        call: u64,
        request: Box<ControlRequest>,
    },
    Answer {
        call: u64,
        result: Box<Result<ControlReply, ControlError>>,
    },
    CallTimeout(Try),
    CallAgain(Try),
    WatchAgain,
    /// An OSD says that it lives.
    Heartbeat,
    /// A client submits its next request.
    Submit,
}

/// One of the transmissions of a call. What comes of it counts only while it is the last: else each would bring about several, and while
/// there is no leader they would grow without end.
#[derive(Clone, Copy, Debug)]
pub struct Try {
    pub call: u64,
    pub tries: u32,
}

/// Why a process asks the metadata service something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The core asked, under this number; it asks again by itself.
    Core(u64),
    /// What changed in the view.
    Watch,
    /// Nobody waits for the answer.
    Heartbeat,
    /// The shell needs an answer: it asks until there is one.
    Shell,
}

#[derive(Clone, Debug)]
pub struct Call {
    pub purpose: Purpose,
    pub request: ControlRequest,
    pub tries: u32,
}

/// The watch of a process gets nothing until a primary makes it join.
#[derive(Clone, Copy, Debug)]
pub struct Withheld {
    /// How long after that the news comes.
    pub after: Instant,
    /// Given up at this time.
    pub until: Instant,
    /// Whether a new process gets its first view nevertheless. Without, it knows none of its PGs when it is made to join.
    pub but_first: bool,
}

#[derive(Debug)]
pub struct Process {
    pub is_up: bool,
    /// The number of its present life.
    pub life: u32,
    pub clock: Clock,
    pub paused_until: Instant,
    /// What came while it was paused.
    pub held: VecDeque<Input>,
    pub wake_number: u64,
    pub wake_at: Option<Tick>,
    pub is_poll_coming: bool,
    pub target: MdsId,
    pub last_call: u64,
    pub calls: BTreeMap<u64, Call>,
    /// The view that its core has.
    pub revision: Revision,
    /// Its watch gets nothing until then.
    pub blind_until: Instant,
    pub withheld: Option<Withheld>,
    /// Its calls are lost until then, with these chances in a thousand.
    pub mute_until: Instant,
    pub mute_permille: u64,
}

impl Process {
    pub fn new(clock: Clock) -> Process {
        Process {
            is_up: false,
            life: 0,
            clock,
            paused_until: 0,
            held: VecDeque::new(),
            wake_number: 0,
            wake_at: None,
            is_poll_coming: false,
            target: MdsId(1),
            last_call: 0,
            calls: BTreeMap::new(),
            revision: Revision(0),
            blind_until: 0,
            withheld: None,
            mute_until: 0,
            mute_permille: 0,
        }
    }

    pub fn begin(&mut self) {
        assert!(!self.is_up, "a process begins when the one before has ended");
        self.is_up = true;
        self.life += 1;
        self.is_poll_coming = false;
        self.wake_at = None;
        self.revision = Revision(0);
        self.paused_until = 0;
    }

    pub fn end(&mut self) {
        self.is_up = false;
        self.life += 1;
        self.held.clear();
        self.calls.clear();
        self.paused_until = 0;
    }

    pub fn open_call(&mut self, purpose: Purpose, request: ControlRequest) -> u64 {
        self.last_call += 1;
        self.calls.insert(self.last_call, Call { purpose, request, tries: 0 });
        self.last_call
    }
}
