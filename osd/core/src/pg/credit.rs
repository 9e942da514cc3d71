//! Space credit at the primary (design.md §4): each participant grants a PG so many blocks, and a write takes what it needs out of what all of them have granted
//! before any of it is applied. What is kept free for volumes that have their space reserved is granted only for them, by name, and just as much as
//! their next writes need (docs/decisions/033-reservations.md). The granter's side: credit.rs above, member.rs.

use super::Pg;
use super::join::Join;
use super::primary::{CreditLine, Proposal};
use crate::env::Env;
use crate::policy::Policy;
use crate::store::Store;
use ashlar_types::{Duration, Epoch, OsdId};
use ashlar_wire::{Change, CreditGrant, CreditRequest, IoStatus, Message, ReservedGrant, ReservedRequest};

/// How many blocks of credit are asked for beyond what is needed: a few large writes' worth; where little is free only a small part of that, so
/// that one PG doesn't hold what others need.
const CREDIT_AHEAD: u64 = 512;
const CREDIT_AHEAD_PART: u64 = 64;
/// A PG that has not written for so long gives its credit back.
const CREDIT_IDLE: Duration = Duration::from_millis(1000);

/// Why a member has granted less than was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// It has no more that is not reserved.
    Open,
    /// Nor that is.
    Reserved,
    /// It has none of either now, and will have some in a moment.
    ForNow,
}

impl Pg {
    /// Takes blocks out of the credit of every participant, or asks those for more whose credit doesn't suffice.
    pub(super) fn take_credit<P: Policy>(&mut self, proposal: &Proposal, blocks: u64, env: &mut Env<P>) -> bool {
        let (pg, me, epoch, now) = (self.id, env.me(), self.config.epoch, env.now);
        let (in_sync, joiners) = self.participants(proposal.request.chunk, !P::WRITE_ON_MISSING_CHUNK);
        let everyone: Vec<OsdId> = in_sync.into_iter().chain(joiners).collect();
        let space = env.store.space();
        let (free, is_reserved) = (env.open_space(), env.is_reserved(&proposal.request));
        let Some(primary) = self.primary() else { return false };
        let mut suffices = true;
        let mut short = Vec::new();
        for member in &everyone {
            let line = primary.credit.entry(*member).or_default();
            if line.granted - line.used < blocks && *member == me {
                line.granted = env.credit.request(pg, epoch, line.used + blocks + credit_ahead(free), free);
                if line.granted - line.used < blocks && is_reserved {
                    // Nothing ahead: what is taken out of what is reserved is spent on it.
                    line.granted = env.credit.request(pg, epoch, line.used + blocks, space.free);
                }
            }
            if line.granted - line.used >= blocks {
                continue;
            }
            suffices = false;
            if *member != me {
                short.push(*member);
            }
        }
        for member in short {
            self.ask_credit(member, blocks, env);
        }
        let Some(primary) = self.primary() else { return false };
        if suffices {
            primary.credit_used_at = now;
            for member in &everyone {
                primary.credit.entry(*member).or_default().used += blocks;
            }
            assert!(env.credit.spend(pg, epoch, blocks), "C1: own credit was just checked");
        }
        suffices
    }

    pub(crate) fn on_credit_grant<P: Policy>(&mut self, from: OsdId, grant: &CreditGrant, env: &mut Env<P>) {
        // Less than was asked: the member is full, as far as it can know. What is still short is refused.
        let is_full = grant.granted_total < grant.wanted_total;
        self.on_granted(from, grant.epoch, grant.granted_total, is_full.then_some(Refused::Open), env);
    }

    pub(crate) fn on_reserved_grant<P: Policy>(&mut self, from: OsdId, grant: &ReservedGrant, env: &mut Env<P>) {
        let refused = match grant.granted_total < grant.wanted_total {
            true if grant.is_reclaiming => Some(Refused::ForNow),
            true => Some(Refused::Reserved),
            false => None,
        };
        self.on_granted(from, grant.epoch, grant.granted_total, refused, env);
    }

    fn on_granted<P: Policy>(
        &mut self,
        from: OsdId,
        epoch: Epoch,
        granted_total: u64,
        refused: Option<Refused>,
        env: &mut Env<P>,
    ) {
        let Some(primary) = self.primary().filter(|p| p.epoch == epoch) else { return };
        if primary.joins.get(&from).is_some_and(Join::is_beginning) {
            return;
        }
        let line = primary.credit.entry(from).or_default();
        line.granted = line.granted.max(granted_total);
        line.wanted = 0;
        if refused == Some(Refused::ForNow) {
            // It is asked again with the next tick.
            return self.await_space(env);
        }
        if refused.is_some() && self.back_off_full_joiner(from, env) {
            return;
        }
        self.retry_uncredited(refused.map(|refused| (from, refused)), env);
        self.drive_joins(env);
    }

    /// Asks a member for credit that some writes lack.
    pub(super) fn ask_credit<P: Policy>(&mut self, member: OsdId, blocks: u64, env: &mut Env<P>) {
        // The members of a PG are about equally full.
        let free = env.store.space().free;
        let (pg, epoch) = (self.id, self.config.epoch);
        let Some(primary) = self.primary() else { return };
        let ahead = credit_ahead(free);
        // Each block may be in a quarter of its own.
        let queued: u64 = primary.uncredited.iter().map(|p| 2 * u64::from(p.change.range().count())).sum();
        let line = primary.credit.entry(member).or_default();
        let wanted = line.used + blocks + queued.min(CREDIT_AHEAD) + ahead;
        if line.wanted < wanted {
            line.wanted = wanted;
            let request = CreditRequest { pg, epoch, wanted_total: wanted, is_return: false };
            env.send(pg, member, Message::CreditRequest(request));
        }
    }

    /// What the first waiting write needs, and those right behind it that have their space reserved too: they take it before anybody else. Not a
    /// block more, since others could take that.
    fn reserved_need<P: Policy>(&mut self, first: u64, env: &mut Env<P>) -> u64 {
        let Some(primary) = self.primary() else { return first };
        let cost = |p: &Proposal| match &p.change {
            Change::Write { range, .. } if env.is_reserved(&p.request) => {
                Some(u64::from(range.count()) + Store::<P>::pages_of(*range))
            }
            _ => None,
        };
        let mut need = first;
        for more in primary.uncredited.iter().skip(1).map_while(cost) {
            if need + more > CREDIT_AHEAD {
                break;
            }
            need += more;
        }
        need
    }

    /// Asks a member for just the credit that waiting writes lack, out of what is reserved there.
    fn ask_reserved<P: Policy>(&mut self, member: OsdId, blocks: u64, env: &mut Env<P>) {
        let (pg, epoch) = (self.id, self.config.epoch);
        let Some(primary) = self.primary() else { return };
        let line = primary.credit.entry(member).or_default();
        line.wanted = line.used + blocks;
        let wanted_total = line.wanted;
        env.send(pg, member, Message::ReservedRequest(ReservedRequest { pg, epoch, wanted_total }));
    }

    /// Space that is reserved for the first waiting write is being given back: nobody is late meanwhile.
    fn await_space<P: Policy>(&mut self, env: &mut Env<P>) {
        let now = env.now;
        if let Some(primary) = self.primary() {
            primary.uncredited_since = now;
        }
        self.keep_timer(env);
    }

    /// An idle PG keeps no space from others.
    pub(super) fn return_credit<P: Policy>(&mut self, env: &mut Env<P>) {
        let (pg, me, now) = (self.id, env.me(), env.now);
        let Some(primary) = self.primary() else { return };
        if !primary.chunks.is_empty() || !primary.uncredited.is_empty() || now < primary.credit_used_at + CREDIT_IDLE {
            return;
        }
        let epoch = primary.epoch;
        let idle: Vec<(OsdId, u64)> = primary
            .credit
            .iter_mut()
            .filter(|(_, line)| line.wanted == 0 && line.granted > line.used)
            .map(|(member, line)| {
                line.granted = line.used;
                (*member, line.used)
            })
            .collect();
        for (member, wanted_total) in idle {
            if member == me {
                env.credit.give_back(pg, epoch, wanted_total);
            } else {
                let request = CreditRequest { pg, epoch, wanted_total, is_return: true };
                env.net.send(member, Message::CreditRequest(request), env.now, &mut env.actions);
            }
        }
    }

    /// Answers may have been lost, or not given because a member had not heard of the epoch.
    pub(super) fn repeat_credit<P: Policy>(&mut self, env: &mut Env<P>) {
        let Some(primary) = self.primary().filter(|p| !p.uncredited.is_empty()) else { return };
        primary.credit.values_mut().for_each(|line| line.wanted = 0);
        self.retry_uncredited(None, env);
    }

    pub(super) fn resend_credit<P: Policy>(&mut self, member: OsdId, env: &mut Env<P>) {
        let (pg, epoch) = (self.id, self.config.epoch);
        if let Some(line) = self.primary().and_then(|p| p.credit.get_mut(&member)) {
            line.wanted = 0;
            // What it granted in an answer that was lost nobody would use or give back.
            let wanted_total = line.granted;
            let request = CreditRequest { pg, epoch, wanted_total, is_return: true };
            env.net.send(member, Message::CreditRequest(request), env.now, &mut env.actions);
        }
        self.retry_uncredited(None, env);
    }

    /// Goes on with writes that wait for credit. `refused_by` has just said what it gives, with or without what is reserved: a write that finds it
    /// short is refused for space before any of it is applied (design.md §4); one that has space reserved asks for that first.
    fn retry_uncredited<P: Policy>(&mut self, mut refused_by: Option<(OsdId, Refused)>, env: &mut Env<P>) {
        while let Some(proposal) = self.primary().and_then(|p| p.uncredited.pop_front()) {
            let (chunk, op) = (proposal.request.chunk, proposal.request.op);
            let is_reserved = env.is_reserved(&proposal.request);
            let blocks = self.cost_of(chunk, &proposal.change, env);
            let is_short = |line: Option<&CreditLine>| line.is_none_or(|l| l.granted - l.used < blocks);
            let (in_sync, joiners) = self.participants(chunk, !P::WRITE_ON_MISSING_CHUNK);
            let takes_part = |m: &OsdId| in_sync.contains(m) || joiners.contains(m);
            if self.is_fenced_off(&proposal, env) {
                continue;
            }
            let refused = refused_by
                .filter(|(m, _)| takes_part(m))
                .filter(|(m, _)| self.primary().is_some_and(|p| is_short(p.credit.get(m))));
            match refused {
                Some((member, Refused::Open)) if is_reserved => {
                    self.put_back(proposal);
                    let blocks = self.reserved_need(blocks, env);
                    return self.ask_reserved(member, blocks, env);
                }
                Some(_) => {
                    self.fail_write(chunk, op, IoStatus::NoSpace, env);
                    continue;
                }
                None => {}
            }
            if self.take_credit(&proposal, blocks, env) {
                self.replicate(proposal, env);
                let now = env.now;
                if let Some(primary) = self.primary() {
                    primary.uncredited_since = now;
                }
                // What was said of reserved space was said to the first one, with what those behind it need.
                refused_by = refused_by.map(|(member, _)| (member, Refused::Open));
                continue;
            }
            let me = env.me();
            let own_is_short = self.primary().is_some_and(|p| is_short(p.credit.get(&me)));
            if !own_is_short {
                return self.put_back(proposal);
            }
            if is_reserved && env.store.reclaim() {
                self.put_back(proposal);
                return self.await_space(env);
            }
            self.fail_write(chunk, op, IoStatus::NoSpace, env);
        }
    }

    /// The next one to get credit.
    fn put_back(&mut self, proposal: Proposal) {
        if let Some(primary) = self.primary() {
            primary.uncredited.push_front(proposal);
        }
    }
}

fn credit_ahead(free: u64) -> u64 {
    CREDIT_AHEAD.min(free / CREDIT_AHEAD_PART)
}
