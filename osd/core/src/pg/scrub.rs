//! Scrub: the primary compares what every in-sync member says of each chunk (versions, stamps and checksums of its blocks), and
//! with `deep` has each of them read and verify its medium. Begins when the view holds a wish for it, and reports to the metadata service.
//! Damaged blocks are repaired by whoever owns them (`repair`); the scrub looks again whether they are good then.
//!
//! SC1: all copies of a chunk are asked for at one place of the primary's streams, with every commit before it told: then copies that
//!      are as they should be say the same, also while writes are under way.
//! SC2: a scrub that is reported has compared every chunk that was there when it began. One that was seen at different versions (a copy was
//!      not read at once, and a commit came between) is looked at again; after some looks new writes to it wait, so that it holds still.
//! SC3: while clients work, a scrub rests most of the time.

use super::{Pg, Role};
use crate::ConnId;
use crate::env::{DigestRead, Env};
use crate::policy::Policy;
use crate::store::api::ReadOutcome;
use ashlar_types::control::ControlRequest;
use ashlar_types::scrub::{ScrubReport, ScrubWish};
use ashlar_types::{ChunkId, Crc, Duration, OsdId, PgId, Tick, Version};
use ashlar_wire::{DigestEntry, DigestReply, DigestRequest, Message, Outcome};
use std::collections::{BTreeMap, BTreeSet};

/// Chunks asked for at a time.
const BATCH: usize = 8;
const BATCH_DEEP: usize = 2;
/// Chunks that wait for another look; beyond that no new ones are taken up.
const KEPT_MAX: usize = 16;
/// A member that does not answer in this time is asked again.
const PATIENCE: Duration = Duration::from_millis(2000);
/// How soon a chunk is looked at again that was seen at different versions.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// After so many such looks its writes wait.
const LOOKS_BEFORE_HOLD: u32 = 3;
/// After so many its copies do differ.
const LOOKS_MAX: u32 = 10;
/// How soon, and how often, a chunk with damaged blocks is read again to see whether they are repaired.
const REPAIR_TIME: Duration = Duration::from_millis(250);
const REPAIR_LOOKS_MAX: u32 = 12;
/// Rests for so many times as long as the questions before took, while clients work.
const REST_FACTOR: u64 = 16;
const REST_MAX: Duration = Duration::from_millis(5000);
/// Clients work if one has asked for something within this time.
const CLIENTS_LATELY: Duration = Duration::from_millis(1000);
/// Between questions in any case, so that everybody else gets a turn.
const REST_MIN: Duration = Duration::from_millis(1);
/// A report is repeated after this time, until the view has it.
const REPORT_AGAIN: Duration = Duration::from_millis(300);
/// Before the first chunk that can be: nobody has it, and what all say comes next is the first.
const BEFORE_ALL: ChunkId = ChunkId { layer: ashlar_types::LayerId(0), index: ashlar_types::ChunkIndex(0) };

/// The scrub of one PG at its primary.
#[derive(Debug)]
pub(super) enum Scrub {
    Idle,
    Running(Box<Round>),
    /// Reported; waits for the view to have it.
    Done {
        report: ScrubReport,
        told: Tick,
    },
}

#[derive(Debug)]
pub(super) struct Round {
    /// What was found so far.
    report: ScrubReport,
    /// Chunks up to this one were taken up.
    after: Option<ChunkId>,
    /// All of them were.
    is_listed: bool,
    /// Numbers the questions: answers to older ones are passed over.
    number: u64,
    asked: BTreeSet<ChunkId>,
    asked_at: Tick,
    /// When to ask next; `None` while answers are awaited.
    ask_at: Option<Tick>,
    checks: BTreeMap<ChunkId, Check>,
}

/// A chunk that is not done.
#[derive(Debug, Default)]
struct Check {
    answers: BTreeMap<OsdId, DigestEntry>,
    look_at: Tick,
    is_compared: bool,
    /// How often it was seen at different versions.
    looks: u32,
    is_held: bool,
    repair_looks: u32,
    /// The most damaged blocks that each copy was seen with.
    bad: BTreeMap<OsdId, u64>,
    /// How its copies differ.
    mismatch: Option<String>,
}

/// What a look at a chunk has shown.
enum Verdict {
    Again,
    /// With the damaged blocks that are left.
    Done(u64),
}

impl Scrub {
    pub(super) fn is_running(&self) -> bool {
        matches!(self, Scrub::Running(_))
    }

    pub(super) fn has_work(&self) -> bool {
        !matches!(self, Scrub::Idle)
    }
}

impl Round {
    fn new(wish: ScrubWish, now: Tick) -> Round {
        let report = ScrubReport {
            number: wish.number,
            deep: wish.deep,
            ended_at: 0,
            copies: 0,
            chunks: 0,
            mismatches: 0,
            bad_blocks: 0,
            repaired_blocks: 0,
        };
        Round {
            report,
            after: None,
            is_listed: false,
            number: 0,
            asked: BTreeSet::new(),
            asked_at: now,
            ask_at: Some(now),
            checks: BTreeMap::from([(BEFORE_ALL, Check::default())]),
        }
    }

    /// Chooses what to ask for next: what is to be looked at again, then new chunks.
    fn choose<P: Policy>(&mut self, pg: PgId, env: &Env<P>) {
        let size = if self.report.deep { BATCH_DEEP } else { BATCH };
        let due = self.checks.iter().filter(|(_, c)| c.look_at <= env.now).map(|(chunk, _)| *chunk);
        self.asked = due.take(size).collect();
        let room = if self.checks.len() < KEPT_MAX { size - self.asked.len() } else { 0 };
        if self.is_listed || room == 0 {
            return;
        }
        let page = env.store.chunks(pg, self.after, room);
        self.is_listed = page.len() < room;
        for (chunk, _) in page {
            self.after = Some(chunk);
            self.checks.insert(chunk, Check::default());
            self.asked.insert(chunk);
        }
    }

    /// Chunks to ask this member for, those that are only compared apart from those whose medium is read.
    fn missing_of(&self, member: OsdId) -> [(bool, Vec<ChunkId>); 2] {
        let missing = |deep: bool| {
            let of = self.asked.iter().filter(|chunk| {
                self.checks
                    .get(chunk)
                    .is_some_and(|c| !c.answers.contains_key(&member) && (self.report.deep && !c.is_held) == deep)
            });
            (deep, of.copied().collect())
        };
        [missing(true), missing(false)]
    }

    fn is_answered(&self, in_sync: &[OsdId]) -> bool {
        let checks = self.asked.iter().filter_map(|chunk| self.checks.get(chunk));
        checks.into_iter().all(|check| in_sync.iter().all(|m| check.answers.contains_key(m)))
    }
}

impl Check {
    /// All in-sync members have answered.
    fn judge(&mut self, chunk: ChunkId, me: OsdId, deep: bool, now: Tick) -> Verdict {
        let answers = std::mem::take(&mut self.answers);
        let Some(mine) = answers.get(&me).copied() else { return Verdict::Again };
        let mut left_bad = 0;
        for (member, entry) in &answers {
            let bad = u64::from(entry.bad);
            left_bad += bad;
            if bad > 0 {
                let most = self.bad.entry(*member).or_default();
                *most = bad.max(*most);
            }
        }
        // A held chunk was only compared: of its medium this look says nothing.
        let was_read = deep && !self.is_held;
        let may_be_repaired = left_bad > 0 && self.repair_looks < REPAIR_LOOKS_MAX;
        if !self.is_compared {
            let differs = |e: &&DigestEntry| e.committed != mine.committed || e.next != mine.next;
            if answers.values().any(|e| differs(&e)) {
                self.looks += 1;
                if self.looks < LOOKS_MAX {
                    self.is_held = self.looks >= LOOKS_BEFORE_HOLD;
                    self.look_at = now + LOOK_AGAIN;
                    return Verdict::Again;
                }
                self.is_compared = true;
                self.mismatch = answers.iter().find(|(_, e)| differs(e)).map(|(member, e)| {
                    format!(
                        "{member} has {chunk} at {} and then {:?}, {me} has it at {} and then {:?}",
                        e.committed, e.next, mine.committed, mine.next
                    )
                });
            } else if !may_be_repaired {
                self.is_compared = true;
                self.mismatch = answers
                    .iter()
                    .find(|(_, e)| e.digest != mine.digest)
                    .map(|(member, e)| format!("{member} and {me} differ in {chunk} at {}", e.committed));
            }
        }
        self.is_held = false;
        if may_be_repaired {
            self.repair_looks += 1;
            self.look_at = now + REPAIR_TIME;
            return Verdict::Again;
        }
        if deep && !was_read && !self.bad.is_empty() {
            self.look_at = now + LOOK_AGAIN;
            return Verdict::Again;
        }
        Verdict::Done(left_bad)
    }
}

impl Pg {
    /// Takes up a wish, goes on with it, forgets one that was withdrawn or is known to be fulfilled.
    pub(super) fn drive_scrub<P: Policy>(&mut self, env: &mut Env<P>) {
        let (pg, now) = (self.id, env.now);
        let wish = env.view.scrubs.get(&pg).and_then(|scrub| scrub.wish);
        let Some(primary) = self.primary() else { return };
        if let Scrub::Done { report, .. } = &primary.scrub
            && wish.is_none_or(|wish| wish.number > report.number)
        {
            primary.scrub = Scrub::Idle;
        }
        match &mut primary.scrub {
            Scrub::Idle => {
                if let Some(wish) = wish.filter(|_| self.is_whole(env))
                    && env.take_scrub_slot(pg)
                    && let Some(primary) = self.primary()
                {
                    primary.scrub = Scrub::Running(Box::new(Round::new(wish, now)));
                    self.ask_digests(env);
                }
            }
            Scrub::Running(round) => {
                if wish.is_none_or(|wish| wish.number < round.report.number) {
                    self.end_scrub(env);
                } else if round.ask_at.is_some_and(|at| at <= now) {
                    self.ask_digests(env);
                } else if round.ask_at.is_none() && round.asked_at + PATIENCE <= now {
                    self.ask_missing_digests(env);
                }
            }
            Scrub::Done { report, told } if *told + REPORT_AGAIN <= now => {
                let report = *report;
                self.report_scrub(report, env);
            }
            Scrub::Done { .. } => {}
        }
        self.keep_timer(env);
    }

    /// Every member that could be in sync is: a scrub that a joining one is not part of would have to be done again.
    fn is_whole<P: Policy>(&self, env: &Env<P>) -> bool {
        self.config.joining().all(|member| env.view.osds.get(&member).is_none_or(|osd| !osd.up))
    }

    fn round(&mut self) -> Option<&mut Round> {
        match &mut self.primary()?.scrub {
            Scrub::Running(round) => Some(round),
            Scrub::Idle | Scrub::Done { .. } => None,
        }
    }

    fn ask_digests<P: Policy>(&mut self, env: &mut Env<P>) {
        let (pg, now) = (self.id, env.now);
        let Some(round) = self.round() else { return };
        round.choose(pg, env);
        if round.asked.is_empty() {
            let Some(at) = round.checks.values().map(|check| check.look_at).min() else {
                return self.finish_scrub(env);
            };
            round.ask_at = Some(at);
            env.wake(pg, at);
            return;
        }
        env.digests.last_question += 1;
        round.number = env.digests.last_question;
        round.ask_at = None;
        round.asked_at = now;
        let asked: Vec<ChunkId> = round.asked.iter().copied().collect();
        for chunk in asked {
            let Some(check) = self.round().and_then(|round| round.checks.get_mut(&chunk)) else { continue };
            check.answers.clear();
            if check.is_held {
                self.hold_writes(chunk, true, env);
            }
        }
        self.ask_missing_digests(env);
    }

    /// Asks everybody for what he has not answered (SC1).
    fn ask_missing_digests<P: Policy>(&mut self, env: &mut Env<P>) {
        let (pg, epoch, me, now) = (self.id, self.config.epoch, env.me(), env.now);
        self.tell_commits_now(env);
        let in_sync = self.config.in_sync.clone();
        for member in in_sync {
            let Some(round) = self.round() else { return };
            round.asked_at = now;
            let number = round.number;
            for (deep, chunks) in round.missing_of(member) {
                if chunks.is_empty() {
                    continue;
                }
                let request = DigestRequest { pg, epoch, round: number, chunks, deep };
                if member == me {
                    read_digests(None, request, env);
                } else {
                    env.send(pg, member, Message::DigestRequest(request));
                }
            }
        }
        self.keep_timer(env);
    }

    /// SC2.
    fn hold_writes<P: Policy>(&mut self, chunk: ChunkId, is_held: bool, env: &mut Env<P>) {
        let Some(primary) = self.primary() else { return };
        if is_held {
            primary.chunks.entry(chunk).or_default().is_held = true;
        } else if primary.chunks.get_mut(&chunk).is_some_and(|ops| std::mem::replace(&mut ops.is_held, false)) {
            self.start_queued(chunk, env);
        }
    }

    /// Any member: reads the digests of some chunks.
    pub(crate) fn on_digest_request<P: Policy>(&mut self, conn: ConnId, request: DigestRequest, env: &mut Env<P>) {
        read_digests(Some(conn), request, env);
    }

    pub(super) fn on_digest_read<P: Policy>(&mut self, read: &DigestRead, outcome: ReadOutcome, env: &mut Env<P>) {
        env.digest_is_read();
        let entry = DigestEntry { next: read.next, ..digest(&outcome) };
        if !outcome.bad.is_empty() {
            self.repair_for(super::repair::Waiting::Nobody, &outcome, env);
        }
        let (pg, epoch, round) = (self.id, read.epoch, read.round);
        let reply = DigestReply { pg, epoch, round, outcome: Outcome::Ok, entries: vec![entry] };
        match read.conn {
            Some(conn) => env.reply(conn, Message::DigestReply(reply)),
            None => {
                let me = env.me();
                self.on_digest_reply(me, reply, env);
            }
        }
    }

    pub(crate) fn on_digest_reply<P: Policy>(&mut self, from: OsdId, reply: DigestReply, env: &mut Env<P>) {
        let in_sync = self.config.in_sync.clone();
        if reply.outcome != Outcome::Ok || self.primary().is_none_or(|p| p.epoch != reply.epoch) {
            return;
        }
        let Some(round) = self.round().filter(|r| r.number == reply.round && r.ask_at.is_none()) else { return };
        for entry in reply.entries.into_iter().filter(|e| round.asked.contains(&e.chunk)) {
            if let Some(check) = round.checks.get_mut(&entry.chunk) {
                check.answers.entry(from).or_insert(entry);
            }
        }
        if round.is_answered(&in_sync) {
            self.judge_digests(env);
        }
    }

    fn judge_digests<P: Policy>(&mut self, env: &mut Env<P>) {
        let (pg, me, now) = (self.id, env.me(), env.now);
        let Some(round) = self.round() else { return };
        let deep = round.report.deep;
        let mut released = Vec::new();
        for chunk in std::mem::take(&mut round.asked) {
            let Some(check) = round.checks.get_mut(&chunk) else { continue };
            let is_there = check.answers.values().any(|entry| entry.committed != Version::NONE);
            let verdict = check.judge(chunk, me, deep, now);
            if !check.is_held {
                released.push(chunk);
            }
            let Verdict::Done(left_bad) = verdict else { continue };
            let found: u64 = check.bad.values().sum();
            let mismatch = check.mismatch.take();
            round.report.chunks += u64::from(is_there);
            round.report.bad_blocks += found;
            round.report.repaired_blocks += found.saturating_sub(left_bad);
            round.checks.remove(&chunk);
            if let Some(text) = mismatch {
                round.report.mismatches += 1;
                env.warn(format!("{pg}: scrub: {text}"));
            }
        }
        let is_holding = round.checks.values().any(|check| check.is_held);
        let rest = if is_holding { REST_MIN } else { rest_after(now - round.asked_at, env) };
        round.ask_at = Some(now + rest);
        env.wake(pg, now + rest);
        for chunk in released {
            self.hold_writes(chunk, false, env);
        }
    }

    fn finish_scrub<P: Policy>(&mut self, env: &mut Env<P>) {
        let copies = u8::try_from(self.config.in_sync.len()).unwrap_or(u8::MAX);
        let Some(round) = self.round() else { return };
        let ended_at = env.config.unix_at_tick_0 + env.now.0 / 1_000_000;
        let report = ScrubReport { ended_at, copies, ..round.report };
        self.end_scrub(env);
        self.report_scrub(report, env);
    }

    fn report_scrub<P: Policy>(&mut self, report: ScrubReport, env: &mut Env<P>) {
        let (pg, epoch, from, told) = (self.id, self.config.epoch, env.me(), env.now);
        let Role::Active(primary) = &mut self.role else { return };
        primary.scrub = Scrub::Done { report, told };
        env.control(ControlRequest::ScrubDone { pg, epoch, from, report });
        self.keep_timer(env);
    }

    /// The round is over, done or not.
    fn end_scrub<P: Policy>(&mut self, env: &mut Env<P>) {
        let Some(primary) = self.primary() else { return };
        let Scrub::Running(round) = std::mem::replace(&mut primary.scrub, Scrub::Idle) else { return };
        env.release_scrub_slot();
        for chunk in round.checks.into_keys() {
            self.hold_writes(chunk, false, env);
        }
    }
}

/// SC3.
fn rest_after<P: Policy>(took: Duration, env: &Env<P>) -> Duration {
    let do_clients_work = env.client_at > Tick(0) && env.now < env.client_at + CLIENTS_LATELY;
    let rest = if do_clients_work { Duration::from_micros(took.as_micros() * REST_FACTOR) } else { REST_MIN };
    rest.clamp(REST_MIN, REST_MAX)
}

fn read_digests<P: Policy>(conn: Option<ConnId>, request: DigestRequest, env: &mut Env<P>) {
    let DigestRequest { pg, epoch, round, chunks, deep } = request;
    for chunk in chunks.into_iter().take(BATCH) {
        let next = next_committed(pg, chunk, env);
        env.read_digest(DigestRead { pg, conn, epoch, round, chunk, deep, next });
    }
}

/// Not those of which something is only prepared: who has them is being decided.
fn next_committed<P: Policy>(pg: PgId, after: ChunkId, env: &Env<P>) -> Option<ChunkId> {
    const PAGE: usize = 8;
    let mut after = after;
    loop {
        let page = env.store.chunks(pg, Some(after), PAGE);
        if let Some((chunk, _)) = page.iter().find(|(_, versions)| versions.committed != Version::NONE) {
            return Some(*chunk);
        }
        after = page.last().filter(|_| page.len() == PAGE)?.0;
    }
}

/// CRC32C over (index, stamp, CRC or absence) of every block that was ever written, in order.
fn digest(outcome: &ReadOutcome) -> DigestEntry {
    let mut digest = Crc::of(&[]);
    for (block, state) in outcome.range.iter().zip(&outcome.states) {
        if state.stamp == Version::NONE {
            continue;
        }
        digest = digest.append(&block.0.to_le_bytes()).append(&state.stamp.to_bits().to_le_bytes());
        digest = match state.crc {
            Some(crc) => digest.append(&[1]).append(&crc.0.to_le_bytes()),
            None => digest.append(&[0]),
        };
    }
    let bad = u16::try_from(outcome.bad.len()).expect("a chunk has 1024 blocks");
    DigestEntry { chunk: outcome.chunk, committed: outcome.committed, digest, bad, next: None }
}

#[cfg(test)]
mod tests;
