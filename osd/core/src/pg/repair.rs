//! Read-repair: a block whose medium failed is fetched from another member, verified, written to a fresh place, counted, reported.
//! A copy is good if it has the version and the checksum that this OSD's index expects; nothing else is taken (design.md §4).

use super::primary::Queued;
use super::{Pending, Pg};
use crate::ConnId;
use crate::env::Env;
use crate::policy::Policy;
use crate::store::api::{ReadKind, ReadOutcome, StoreOp};
use ashlar_types::{BLOCK_BYTES, BlockIndex, BlockRange, ChunkId, Crc, Duration, OsdId, Tick, Version};
use ashlar_wire::{FetchReply, FetchRequest, IoStatus, Message, Outcome};
use bytes::Bytes;
use std::collections::BTreeMap;

/// How long one member may take to answer before another is asked.
const FETCH_PATIENCE: Duration = Duration::from_millis(300);
/// How often every member must have answered that it has no good copy before a block is given up as lost: one that had not yet heard of the
/// block's commit has it the next time. One that doesn't answer may have it; it is waited for as long as it is in sync.
const ROUNDS: u32 = 3;

/// Requests that go on when a repair is done.
#[derive(Debug)]
pub(super) enum Waiting {
    Read(Queued),
    Merge(Queued),
    /// A member that joins: it is told of the chunk later; that a block is lost is said and counted.
    Joiner,
    /// A scrub or a fetch found it; nobody waits.
    Nobody,
}

#[derive(Debug)]
struct Repair {
    stamp: Version,
    crc: Crc,
    asked: Option<(OsdId, Tick)>,
    /// A good copy has come and is being written.
    is_writing: bool,
    tries: u32,
    /// How often each member has answered in vain.
    in_vain: BTreeMap<OsdId, u32>,
    waiting: Vec<Waiting>,
}

#[derive(Debug, Default)]
pub(super) struct Repairs {
    blocks: BTreeMap<(ChunkId, BlockIndex), Repair>,
    wake_at: Tick,
}

impl Repairs {
    /// The role ends, what is damaged stays so: repairs go on, nobody waits for them. Returns the reads that waited; writes that did are
    /// among the primary's `ops`.
    pub(super) fn take_waiting(&mut self) -> Vec<Queued> {
        let waiting = self.blocks.values_mut().flat_map(|r| std::mem::take(&mut r.waiting));
        waiting.filter_map(|w| if let Waiting::Read(queued) = w { Some(queued) } else { None }).collect()
    }

    /// The chunk was merged into another one: whoever waits looks there.
    pub(super) fn take_chunk(&mut self, chunk: ChunkId) -> Vec<Waiting> {
        let (of_chunk, others) = std::mem::take(&mut self.blocks).into_iter().partition(|((c, _), _)| *c == chunk);
        self.blocks = others;
        let of_chunk: BTreeMap<(ChunkId, BlockIndex), Repair> = of_chunk;
        of_chunk.into_values().flat_map(|repair| repair.waiting).collect()
    }

    pub(super) fn on_link_lost(&mut self, osd: OsdId) {
        for repair in self.blocks.values_mut() {
            repair.asked.take_if(|(member, _)| *member == osd);
        }
    }
}

impl Pg {
    /// Repairs every bad block of `outcome`; `waiting` goes on after the first of them (and finds the others, if any are left).
    pub(super) fn repair_for<P: Policy>(&mut self, waiting: Waiting, outcome: &ReadOutcome, env: &mut Env<P>) {
        let mut waiting = Some(waiting);
        let state_of = |block: &BlockIndex| outcome.states.get(usize::from(block.0 - outcome.range.first().0));
        if outcome.bad.iter().any(|block| state_of(block).is_none_or(|state| state.crc.is_none())) {
            // Not the block but what the index said of it is lost: no copy can be compared.
            self.doubt(env);
            self.fail_waiting(
                waiting,
                if self.config.in_sync.len() > 1 { IoStatus::Retry } else { IoStatus::Medium },
                env,
            );
            return;
        }
        for block in &outcome.bad {
            let Some((state, crc)) = state_of(block).and_then(|state| Some((state, state.crc?))) else { continue };
            let repair = self.repairs.blocks.entry((outcome.chunk, *block)).or_insert_with(|| Repair {
                stamp: state.stamp,
                crc,
                asked: None,
                is_writing: false,
                tries: 0,
                in_vain: BTreeMap::new(),
                waiting: vec![],
            });
            repair.waiting.extend(waiting.take());
        }
        self.tell_commits_now(env);
        self.drive_repairs(env);
    }

    pub(super) fn drive_repairs<P: Policy>(&mut self, env: &mut Env<P>) {
        if self.repairs.blocks.is_empty() {
            return;
        }
        let others = self.others_in_sync(env);
        let (pg, epoch, now) = (self.id, self.config.epoch, env.now);
        let mut lost = Vec::new();
        for ((chunk, block), repair) in &mut self.repairs.blocks {
            if repair.is_writing || repair.asked.is_some_and(|(_, at)| now < at + FETCH_PATIENCE) {
                continue;
            }
            let has_hope = |m: &OsdId| repair.in_vain.get(m).is_none_or(|times| *times < ROUNDS);
            let may_have_it: Vec<OsdId> = others.iter().copied().filter(has_hope).collect();
            if may_have_it.is_empty() {
                lost.push((*chunk, *block));
                continue;
            }
            let member = may_have_it[repair.tries as usize % may_have_it.len()];
            repair.tries = repair.tries.wrapping_add(1);
            repair.asked = Some((member, now));
            let request =
                FetchRequest { pg, epoch, chunk: *chunk, block: *block, stamp: repair.stamp, crc: repair.crc };
            env.send(pg, member, Message::FetchRequest(request));
        }
        if self.repairs.wake_at <= now {
            self.repairs.wake_at = now + FETCH_PATIENCE;
            env.wake(pg, self.repairs.wake_at);
        }
        for (chunk, block) in lost {
            let Some(repair) = self.repairs.blocks.remove(&(chunk, block)) else { continue };
            if repair.waiting.iter().all(|w| matches!(w, Waiting::Nobody)) {
                // Written anew meanwhile, or not to be had now; whoever reads or scrubs it next finds out.
                continue;
            }
            env.lost_blocks += 1;
            env.warn(format!("{pg}: no good copy of block {} of {chunk} is left", block.0));
            for waiting in repair.waiting {
                self.fail_waiting(Some(waiting), IoStatus::Medium, env);
            }
        }
    }

    fn fail_waiting<P: Policy>(&mut self, waiting: Option<Waiting>, status: IoStatus, env: &mut Env<P>) {
        match waiting {
            Some(Waiting::Read(queued)) => self.fail_read(&queued, status, env),
            Some(Waiting::Merge(queued)) => self.fail_write(queued.request.chunk, queued.request.op, status, env),
            Some(Waiting::Joiner | Waiting::Nobody) | None => {}
        }
    }

    /// Another OSD's block is bad: does this one have the very same?
    pub(crate) fn on_fetch<P: Policy>(&mut self, conn: ConnId, request: FetchRequest, env: &mut Env<P>) {
        let (pg, chunk) = (self.id, request.chunk);
        let Some(range) = BlockRange::new(request.block, 1) else { return };
        env.read(pg, chunk, range, ReadKind::Data, Pending::Fetch { conn, request });
    }

    pub(super) fn answer_fetch<P: Policy>(
        &mut self,
        conn: ConnId,
        request: FetchRequest,
        outcome: ReadOutcome,
        env: &mut Env<P>,
    ) {
        let FetchRequest { pg, epoch, chunk, block, stamp, crc } = request;
        let state = outcome.states.first().copied().unwrap_or_default();
        let is_same = state.stamp == stamp && state.crc == Some(crc);
        // A bad copy here is left to this OSD's own reads and scrubs: two bad copies would send each other fetches without end.
        let good = outcome.data.into_iter().next().filter(|_| is_same && outcome.bad.is_empty());
        let (outcome, payload) = match good {
            Some(payload) => (Outcome::Ok, payload),
            None => (Outcome::Missing, Bytes::new()),
        };
        let reply = FetchReply { pg, epoch, chunk, block, stamp, outcome, payload };
        env.reply(conn, Message::FetchReply(reply));
    }

    pub(crate) fn on_fetch_reply<P: Policy>(&mut self, from: OsdId, reply: FetchReply, env: &mut Env<P>) {
        let FetchReply { chunk, block, stamp, outcome, payload, .. } = reply;
        let Some(repair) = self.repairs.blocks.get_mut(&(chunk, block)) else { return };
        if repair.stamp != stamp || repair.is_writing || repair.asked.is_none_or(|(member, _)| member != from) {
            return;
        }
        let is_good =
            outcome == Outcome::Ok && payload.len() == BLOCK_BYTES as usize && Crc::of(&payload) == repair.crc;
        if !is_good || env.credit.available(env.store.space().recovery) == 0 {
            repair.asked = None;
            *repair.in_vain.entry(from).or_default() += 1;
            self.drive_repairs(env);
            return;
        }
        repair.is_writing = true;
        let op = StoreOp::Repair { pg: self.id, chunk, block, stamp, crc: repair.crc, payload };
        env.store(self.id, op, Pending::Repaired { chunk, block });
    }

    pub(super) fn on_repaired<P: Policy>(&mut self, chunk: ChunkId, block: BlockIndex, env: &mut Env<P>) {
        let Some(repair) = self.repairs.blocks.remove(&(chunk, block)) else { return };
        env.repaired_blocks += 1;
        env.warn(format!(
            "{}: block {} of {chunk} was damaged on this disk; repaired from another copy",
            self.id, block.0
        ));
        for waiting in repair.waiting {
            match waiting {
                Waiting::Read(queued) => self.begin_read(queued, env),
                Waiting::Merge(queued) => self.begin_write(queued, env),
                Waiting::Joiner | Waiting::Nobody => {}
            }
        }
    }
}
