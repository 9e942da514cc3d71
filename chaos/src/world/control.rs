//! Calls to the metadata service: they may be lost, each way; a caller follows the leader.

use super::{Input, Purpose, Try, World};
use crate::clock::MS;
use crate::net::ProcId;
use ashlar_types::MdsId;
use ashlar_types::control::{ControlError, ControlReply, ControlRequest};

/// After this time without an answer a shell asks another node.
const PATIENCE: u64 = 400 * MS;
/// How often a call goes to another node, for a core that asks again by itself.
const TRIES: u32 = 4;

impl World {
    pub(super) fn call(&mut self, from: ProcId, purpose: Purpose, request: ControlRequest) {
        let Some(process) = self.process(from) else { return };
        let call = process.open_call(purpose, request);
        self.transmit(from, call);
    }

    fn transmit(&mut self, from: ProcId, call: u64) {
        let now = self.now;
        let Some(process) = self.process(from) else { return };
        let (target, life, is_mute) = (process.target, process.life, now < process.mute_until);
        let permille = process.mute_permille;
        let Some(open) = process.calls.get_mut(&call) else { return };
        open.tries += 1;
        let is_watch = open.purpose == Purpose::Watch;
        let request = Box::new(open.request.clone());
        let patience = if open.purpose == Purpose::Watch { PATIENCE / 2 } else { PATIENCE };
        let this = Try { call, tries: open.tries };
        self.put(now + patience, from, Input::CallTimeout(this));
        let lost = is_mute && !is_watch && self.rng.permille(permille);
        if lost {
            self.trace(|| format!("{from:?} asks {request:?}: lost"));
        }
        if lost || self.net.is_cut(from, ProcId::Mds(target)) {
            return;
        }
        let at = now + self.net.delay();
        self.put(at, ProcId::Mds(target), Input::Request { from, life, call, request });
    }

    pub(super) fn send_answer(
        &mut self,
        from: MdsId,
        to: ProcId,
        call: u64,
        result: Result<ControlReply, ControlError>,
    ) {
        let now = self.now;
        let lost = match self.process(to) {
            Some(p) if p.calls.get(&call).is_some_and(|c| c.purpose == Purpose::Watch) => {
                let waits = p.withheld.is_some_and(|w| now < w.until && !(w.but_first && p.revision.0 == 0));
                now < p.blind_until || waits
            }
            Some(p) if now < p.mute_until => {
                let permille = p.mute_permille;
                self.rng.permille(permille)
            }
            _ => false,
        };
        if lost || self.net.is_cut(ProcId::Mds(from), to) {
            return;
        }
        let at = now + self.net.delay();
        self.put(at, to, Input::Answer { call, result: Box::new(result) });
    }

    /// An answer that the process can use, and why it asked; `None` while the call goes on, or was given up.
    pub(super) fn on_answer(
        &mut self,
        id: ProcId,
        call: u64,
        result: Result<ControlReply, ControlError>,
    ) -> Option<(Purpose, ControlRequest, Result<ControlReply, ControlError>)> {
        let nodes = self.shape.mds_nodes;
        let process = self.process(id)?;
        let open = process.calls.get(&call)?;
        let is_transient = matches!(result, Err(ControlError::NotLeader { .. } | ControlError::Undecided));
        if is_transient {
            process.target = match &result {
                Err(ControlError::NotLeader { leader: Some(address) }) => node_at(address, process.target),
                _ => MdsId(process.target.0 % nodes + 1),
            };
            let tries = match open.purpose {
                Purpose::Core(_) => TRIES,
                Purpose::Heartbeat => 1,
                Purpose::Watch | Purpose::Shell => u32::MAX,
            };
            if open.tries < tries {
                let this = Try { call, tries: open.tries };
                let at = self.now + self.rng.between(5, 20) * MS;
                self.put(at, id, Input::CallAgain(this));
                return None;
            }
        }
        let open = self.process(id)?.calls.remove(&call)?;
        if matches!(open.purpose, Purpose::Watch) {
            let at = self.now + self.rng.between(10, 40) * MS;
            self.put(at, id, Input::WatchAgain);
        }
        Some((open.purpose, open.request, result))
    }

    fn is_last_try(&mut self, id: ProcId, of: Try) -> bool {
        self.process(id).and_then(|p| p.calls.get(&of.call)).is_some_and(|open| open.tries == of.tries)
    }

    pub(super) fn on_call_timeout(&mut self, id: ProcId, of: Try) {
        let Try { call, .. } = of;
        if !self.is_last_try(id, of) {
            return;
        }
        let nodes = self.shape.mds_nodes;
        let Some(process) = self.process(id) else { return };
        let Some(open) = process.calls.get(&call) else { return };
        if matches!(open.purpose, Purpose::Core(_) | Purpose::Heartbeat) {
            process.calls.remove(&call);
            return;
        }
        process.target = MdsId(process.target.0 % nodes + 1);
        self.transmit(id, call);
    }

    pub(super) fn on_call_again(&mut self, id: ProcId, of: Try) {
        if self.is_last_try(id, of) {
            self.transmit(id, of.call);
        }
    }

    pub(super) fn watch(&mut self, id: ProcId) {
        let Some(revision) = self.process(id).map(|p| p.revision) else { return };
        self.call(id, Purpose::Watch, ControlRequest::ViewSince { revision });
    }
}

fn node_at(address: &str, otherwise: MdsId) -> MdsId {
    address.strip_prefix("mds.").and_then(|n| n.parse().ok()).map_or(otherwise, MdsId)
}
