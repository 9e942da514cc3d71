//! One placement group on one OSD (design.md §5). Every member answers the primary (`member`); one of them, by the configuration,
//! is the primary: it first settles what is undecided (`activation`, R4), then serves (`primary`, `write`, `read`), brings
//! back members (`join`, R8) and passes barriers (`floor`).
//!
//! P1: a PG acts as primary only in the newest configuration it knows, in which it is named with this boot (R7).
//! P2: what a primary does ends with its epoch: a newer configuration drops the whole role; clients ask again.

mod activation;
mod credit;
mod floor;
mod join;
mod laps;
mod layers;
mod member;
mod merge;
mod over;
mod primary;
mod read;
mod repair;
mod scrub;
mod stack;
mod write;

use crate::ConnId;
use crate::env::{DigestRead, Env};
use crate::perf::Stopwatch;
use crate::policy::Policy;
use crate::store::api::ReadOutcome;
use activation::Activation;
use ashlar_types::control::PgChange;
use ashlar_types::view::PgConfig;
use ashlar_types::{BlockIndex, ChunkId, Crc, Epoch, OpId, OsdId, PgId, Version};
use ashlar_wire::{FetchRequest, IoStatus, Message, Outcome, Promise};
pub(crate) use layers::Form;
use primary::Primary;
pub(crate) use primary::refusal;
use repair::Repairs;
use std::collections::BTreeMap;

/// What a completion of the store means to its PG.
#[derive(Clone, Debug)]
pub(crate) enum Pending {
    /// Nobody waits.
    Nothing,
    /// The primary's own prepare.
    OwnPrepare {
        epoch: Epoch,
        chunk: ChunkId,
        version: Version,
    },
    /// A member's prepare; the answer goes to whoever asked last ([`Pg::preparing`]).
    MemberPrepare {
        epoch: Epoch,
        chunk: ChunkId,
        version: Version,
        attempt: u64,
        watch: Stopwatch,
    },
    /// A member's answer that may go once the operation is durable.
    Answer {
        conn: ConnId,
        message: Message,
    },
    /// A member's promise: what it reports is built then, when every earlier prepare is settled.
    MemberPromise {
        conn: ConnId,
        promise: Promise,
    },
    /// The primary's own promise.
    OwnPromise {
        epoch: Epoch,
    },
    /// The primary's own share of R4's decisions.
    OwnDecision {
        epoch: Epoch,
    },
    OwnFloor {
        epoch: Epoch,
        barrier: u64,
    },
    /// A member that begins to join.
    JoinBegun {
        conn: ConnId,
        epoch: Epoch,
        join: u32,
    },
    /// A client's read or extents request.
    ClientRead {
        epoch: Epoch,
    },
    /// Old contents of the blocks that a write covers only partly.
    Merge {
        epoch: Epoch,
        chunk: ChunkId,
        op: OpId,
    },
    /// The data of a write that was kept undecided from an earlier epoch.
    AdoptedData {
        epoch: Epoch,
        chunk: ChunkId,
        version: Version,
    },
    /// A primary collects what a joining member lacks of a chunk.
    PushStates {
        epoch: Epoch,
        member: OsdId,
        join: u32,
    },
    PushData {
        epoch: Epoch,
        member: OsdId,
        join: u32,
    },
    /// The medium of blocks whose data was in doubt when they were committed.
    Check,
    /// Another OSD wants a good copy of a block.
    Fetch {
        conn: ConnId,
        request: FetchRequest,
    },
    /// A repaired block is durable.
    Repaired {
        chunk: ChunkId,
        block: BlockIndex,
    },
    /// Scrub reads.
    Digest(DigestRead),
}

#[derive(Debug)]
enum Role {
    /// A member that follows, or a primary that waits for a newer configuration.
    Follower,
    Activating(Box<Activation>),
    Active(Box<Primary>),
}

/// A promise that must wait until a lease runs out (R5).
#[derive(Debug)]
struct Withheld {
    until: ashlar_types::Tick,
    conn: Option<ConnId>,
    promise: Promise,
}

#[derive(Debug)]
pub(crate) struct Pg {
    pub id: PgId,
    /// The newest configuration known, from the view or from a primary.
    config: PgConfig,
    role: Role,
    /// Prepares that this member has under way, with the connection to answer on.
    preparing: BTreeMap<(ChunkId, Version), (ConnId, u64)>,
    attempts: u64,
    /// The highest epoch that anybody has asked to promise: no lease of an older one is granted any more (R5).
    wanted: Epoch,
    withheld: Option<Withheld>,
    /// The session of the join that this member is in, if its epoch is the promised one.
    joining: Option<(Epoch, u32)>,
    /// Something of this PG that was durable is lost on this disk: it cannot tell what it had (R4), until a join has brought it back.
    in_doubt: bool,
    repairs: Repairs,
}

impl Pg {
    pub(crate) fn new(id: PgId, config: PgConfig, in_doubt: bool) -> Pg {
        Pg {
            id,
            config,
            role: Role::Follower,
            preparing: BTreeMap::new(),
            attempts: 0,
            wanted: Epoch(0),
            withheld: None,
            joining: None,
            in_doubt,
            repairs: Repairs::default(),
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.config.epoch
    }

    pub(crate) fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// What is lost here cannot be told apart from what never was: somebody else must lead, and this member begin again.
    fn doubt<P: Policy>(&mut self, env: &mut Env<P>) {
        if !std::mem::replace(&mut self.in_doubt, true) {
            env.warn(format!(
                "{}: part of its index is lost on this disk; leaving in_sync to be brought back whole",
                self.id
            ));
        }
        env.damaged = true;
        self.leave_in_doubt(env);
    }

    /// R4: who cannot tell leaves `in_sync`, unless it is the last.
    fn leave_in_doubt<P: Policy>(&mut self, env: &mut Env<P>) {
        if self.in_doubt && self.config.in_sync.len() > 1 && self.config.is_in_sync(env.me()) {
            let is_primary = !matches!(self.role, Role::Follower);
            let change = if is_primary { PgChange::Resign } else { PgChange::Remove(env.me()) };
            env.ask(self.id, self.config.epoch, change);
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        matches!(self.role, Role::Active(_))
    }

    /// The configuration in the view may be newer, or other OSDs may have come or gone.
    pub(crate) fn on_view<P: Policy>(&mut self, env: &mut Env<P>) {
        let Some(newer) = env.view.pgs.get(&self.id).cloned() else { return };
        let begins = newer.epoch > self.config.epoch || matches!(self.role, Role::Follower);
        if newer.epoch > self.config.epoch {
            self.leave_role(env);
            self.config = newer;
        } else if newer.epoch < self.config.epoch {
            return;
        }
        if begins && self.is_mine(env) {
            self.begin_activation(env);
        }
        match &self.role {
            Role::Follower => self.leave_in_doubt(env),
            Role::Activating(_) => self.drive_activation(env),
            Role::Active(_) => self.on_primary_view(env),
        }
    }

    /// P1. A configuration that names an older boot of this OSD is not for this process (R7).
    fn is_mine<P: Policy>(&self, env: &Env<P>) -> bool {
        self.config.primary == Some(env.me())
            && (self.config.primary_boot == env.config.boot || P::BOOT_ID_IGNORED)
            && promised(env, self.id) <= self.config.epoch
    }

    /// P2.
    fn leave_role<P: Policy>(&mut self, env: &mut Env<P>) {
        if let Role::Active(primary) = std::mem::replace(&mut self.role, Role::Follower) {
            primary.refuse_all(self.id, env);
        }
        let epoch = self.config.epoch;
        for read in self.repairs.take_waiting() {
            env.reply(read.conn, refusal(read.request.op, IoStatus::Retry, epoch));
        }
    }

    /// A newer epoch was promised to another primary before the view told.
    fn yield_to<P: Policy>(&mut self, config: &PgConfig, env: &mut Env<P>) {
        if config.epoch > self.config.epoch {
            self.leave_role(env);
            self.config = config.clone();
        }
    }

    /// A link to `osd` is ready: what was sent on an older one may be lost.
    pub(crate) fn on_link_ready<P: Policy>(&mut self, osd: OsdId, env: &mut Env<P>) {
        match &self.role {
            Role::Follower => {}
            Role::Activating(_) => self.resend_activation(osd, env),
            Role::Active(_) => self.resend_to(osd, env),
        }
        self.repairs.on_link_lost(osd);
        self.drive_repairs(env);
    }

    pub(crate) fn on_link_lost<P: Policy>(&mut self, osd: OsdId, env: &mut Env<P>) {
        if matches!(self.role, Role::Active(_)) {
            self.lose_joiner(osd, env);
        }
        if !matches!(self.role, Role::Follower) && self.config.is_member(osd) {
            env.want_link(self.id, osd);
        }
        self.repairs.on_link_lost(osd);
    }

    pub(crate) fn on_timer<P: Policy>(&mut self, env: &mut Env<P>) {
        self.retry_withheld(env);
        match &self.role {
            Role::Follower => {}
            Role::Activating(_) => self.drive_activation(env),
            Role::Active(_) => self.on_primary_timer(env),
        }
        self.drive_repairs(env);
        self.leave_in_doubt(env);
    }

    /// A change is durable.
    pub(crate) fn on_stored<P: Policy>(&mut self, pending: Pending, env: &mut Env<P>) {
        match pending {
            Pending::OwnPrepare { epoch, chunk, version } => {
                let me = env.me();
                self.on_prepared_by(me, epoch, chunk, version, Outcome::Ok, env);
            }
            Pending::MemberPrepare { epoch, chunk, version, attempt, watch } => {
                self.answer_prepare(epoch, chunk, version, attempt, watch, env);
            }
            Pending::Answer { conn, message } => env.reply(conn, message),
            Pending::MemberPromise { conn, promise } => self.answer_promise(conn, promise, env),
            Pending::OwnPromise { epoch } => self.on_own_promise(epoch, env),
            Pending::OwnDecision { epoch } => {
                let me = env.me();
                self.on_decided(me, epoch, Outcome::Ok, env);
            }
            Pending::OwnFloor { epoch, barrier } => {
                let me = env.me();
                self.on_floor_raised(me, epoch, barrier, Outcome::Ok, env);
            }
            Pending::JoinBegun { conn, epoch, join } => {
                self.in_doubt = false;
                self.answer_join(conn, epoch, join, None, env);
            }
            Pending::Repaired { chunk, block } => self.on_repaired(chunk, block, env),
            Pending::Nothing
            | Pending::ClientRead { .. }
            | Pending::Merge { .. }
            | Pending::AdoptedData { .. }
            | Pending::PushStates { .. }
            | Pending::PushData { .. }
            | Pending::Check
            | Pending::Fetch { .. }
            | Pending::Digest(_) => {}
        }
    }

    /// A read is done.
    pub(crate) fn on_read<P: Policy>(
        &mut self,
        token: crate::store::api::Token,
        pending: Pending,
        outcome: ReadOutcome,
        env: &mut Env<P>,
    ) {
        let Some(outcome) = self.look_below(token, &pending, outcome, env) else { return };
        match pending {
            Pending::ClientRead { epoch } => self.on_client_read(token, epoch, outcome, env),
            Pending::Merge { epoch, chunk, op } => self.on_merge_read(token, epoch, chunk, op, outcome, env),
            Pending::AdoptedData { epoch, chunk, version } => self.on_adopted_data(epoch, chunk, version, outcome, env),
            Pending::PushStates { epoch, member, join } => {
                self.on_push_states(token, epoch, member, join, outcome, env)
            }
            Pending::PushData { epoch, member, join } => self.on_push_data(token, epoch, member, join, outcome, env),
            Pending::Check if !outcome.bad.is_empty() => self.repair_for(repair::Waiting::Nobody, &outcome, env),
            Pending::Check => {}
            Pending::Fetch { conn, request } => self.answer_fetch(conn, request, outcome, env),
            Pending::Digest(digest) => self.on_digest_read(&digest, outcome, env),
            _ => unreachable!("only reads end here"),
        }
    }
}

/// R3: the highest epoch that this OSD has promised for a PG.
fn promised<P: Policy>(env: &Env<P>, pg: PgId) -> Epoch {
    env.store.pg(pg).map_or(Epoch(0), |state| state.promised)
}

/// Whether each block of a payload has the CRC that was said of it.
fn payload_matches(payload: &[u8], crcs: &[Crc]) -> bool {
    let block = ashlar_types::BLOCK_BYTES as usize;
    payload.len() == crcs.len() * block
        && payload.chunks_exact(block).zip(crcs).all(|(bytes, crc)| Crc::of(bytes) == *crc)
}
