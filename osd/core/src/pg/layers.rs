//! Which layer has each block, for a client that compares snapshots (docs/decisions/030-differences.md). It is a read without data: it waits where reads
//! wait (R5, R6), is refused where they are, and begins anew where a merge moves what it has looked at.

use super::Pg;
use super::primary::Queued;
use crate::env::Env;
use crate::policy::Policy;
use ashlar_types::{ChunkId, ChunkIndex, Crc, LayerId, Version};
use ashlar_wire::{BlockState, LayerRun, LayersReply, Message};

/// In which form a request came, and so which answer it wants.
#[derive(Debug)]
pub(crate) enum Form {
    Plain,
    /// Of a volume that stands on a base, with the CRCs of the base's blocks that came along.
    Over(Vec<Crc>),
    Layers,
}

impl Pg {
    pub(super) fn answer_layers<P: Policy>(
        &self,
        queued: &Queued,
        states: &[BlockState],
        depths: &[u16],
        env: &mut Env<P>,
    ) {
        let next = self.next_written(queued, env);
        let reply =
            LayersReply { op: queued.request.op, epoch: self.config.epoch, runs: layer_runs(states, depths), next };
        env.reply(queued.conn, Message::LayersReply(reply));
    }

    /// The next chunk in which a layer of the stack has anything. One with an undecided write counts: who asks for it waits for that (R6). Every
    /// write that was answered is known here while the leases hold (R5).
    fn next_written<P: Policy>(&self, queued: &Queued, env: &Env<P>) -> Option<ChunkIndex> {
        let chunk = queued.request.chunk;
        let below = queued.below.iter().flat_map(|layers| layers.iter().copied());
        let next_in = |layer: LayerId| {
            let (next, _) = *env.store.chunks(self.id, Some(ChunkId { layer, ..chunk }), 1).first()?;
            (next.layer == layer).then_some(next.index)
        };
        std::iter::once(chunk.layer).chain(below).filter_map(next_in).min()
    }
}

/// `depths` is empty where the stack has one layer.
fn layer_runs(states: &[BlockState], depths: &[u16]) -> Vec<LayerRun> {
    let mut runs: Vec<LayerRun> = Vec::new();
    for (at, state) in states.iter().enumerate() {
        let is_written = state.stamp != Version::NONE;
        let depth = is_written.then(|| depths.get(at).copied().unwrap_or_default());
        let run = LayerRun { count: 1, depth, has_data: state.crc.is_some() };
        match runs.last_mut() {
            Some(last) if (last.depth, last.has_data) == (run.depth, run.has_data) => last.count += 1,
            _ => runs.push(run),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_one_layer_and_sort_are_one_run() {
        let state = |seq, crc: Option<u32>| BlockState { stamp: Version::from_bits(seq), crc: crc.map(Crc) };
        let states = [state(0, None), state(3, Some(1)), state(4, Some(2)), state(5, None), state(6, Some(1))];
        let runs = layer_runs(&states, &[0, 0, 0, 0, 2]);
        let run = |count, depth, has_data| LayerRun { count, depth, has_data };
        let expected = [run(1, None, false), run(2, Some(0), true), run(1, Some(0), false), run(1, Some(2), true)];
        assert_eq!(runs, expected);
        assert_eq!(layer_runs(&states[1..3], &[]), [run(2, Some(0), true)]);
    }
}
