//! The end is taken away in the midst of all that, and given back.

use super::*;
use crate::core::{ShrinkAction, ShrinkRefusal, Shrinker};

impl Run {
    /// What reaches behind the end is refused, whatever it is.
    pub(super) fn submit_outside(&mut self, tag: u64, offset: u64, len: u64) {
        let op = match self.random.below(4) {
            0 => BlockOp::Read { offset, len: u32::try_from(len).expect("small") },
            1 => BlockOp::Write { offset, data: Bytes::from(vec![0xee; usize::try_from(len).expect("small")]) },
            2 => BlockOp::Discard { offset, len },
            _ => BlockOp::Extents { offset, len },
        };
        self.expected.insert(tag, Expected::Refused);
        self.step(ClientEvent::Submit(BlockRequest { tag, op }));
    }

    /// Down to `end`, while others go on.
    fn shrink(&mut self, end: u64, force: bool) -> Result<(), ShrinkRefusal> {
        let (mut shrinker, first) = Shrinker::new(end, SIZE, force);
        let mut next = Some(first);
        for turn in 0..500_000u64 {
            // Under faults alone primaries move faster than a question for a whole chunk is answered.
            match turn % 6000 {
                0 => self.cluster.faults = true,
                1500 => self.calm(),
                _ => {}
            }
            match next.take() {
                Some(ShrinkAction::Hold(end)) => {
                    self.end = end;
                    self.step(ClientEvent::Hold(end));
                }
                Some(ShrinkAction::Submit(op)) => {
                    let tag = self.next_tag;
                    self.next_tag += 1;
                    self.expected.insert(tag, Expected::Shrinks);
                    self.step(ClientEvent::SubmitBehind(BlockRequest { tag, op }));
                }
                None => {}
            }
            if let Some(outcome) = shrinker.outcome() {
                self.cluster.faults = true;
                return outcome.clone();
            }
            if std::mem::take(&mut self.rig.holds) > 0 {
                next = shrinker.on_held();
            } else if let Some(result) = self.answer_of_shrink.take() {
                next = shrinker.on_done(result);
            } else {
                self.go_on(turn);
            }
        }
        panic!("it never ended");
    }

    fn go_on(&mut self, turn: u64) {
        if turn.is_multiple_of(5) && self.expected.len() < 40 {
            self.submit();
        }
        self.turn();
    }

    fn read_all(&mut self) {
        self.finish();
        let tag = self.next_tag;
        self.next_tag += 1;
        self.expected.insert(tag, Expected::Data(self.model.clone()));
        let op = BlockOp::Read { offset: BASE, len: SPAN as u32 };
        self.step(ClientEvent::Submit(BlockRequest { tag, op }));
        self.finish();
    }
}

#[test]
fn a_disk_that_shrinks_under_its_clients_and_grows_again_reads_as_zeroes_there_and_keeps_the_rest() {
    let (mut kept, mut shrunk) = (0, 0);
    for seed in 0..120 {
        let mut run = Run::new(seed);
        run.fills = false;
        (0..700).for_each(|turn| run.go_on(turn));
        // In a block, or between two; in either chunk, or at their border.
        let end = BASE + run.random.below(SPAN / 512) * 512;
        let force = !run.random.one_in(4);
        match run.shrink(end, force) {
            Ok(()) => {
                run.step(ClientEvent::Release(end));
                (0..300).for_each(|turn| run.go_on(turn));
                assert_eq!(run.rig.client.size(), end);
                run.model[usize::try_from(end - BASE).expect("small")..].fill(0);
                run.step(ClientEvent::Resized(SIZE));
                shrunk += 1;
            }
            Err(ShrinkRefusal::Data { end: asked, at }) => {
                assert!(!force && asked == end && (end..SIZE).contains(&at), "only where it may not be discarded");
                run.step(ClientEvent::Release(SIZE));
                kept += 1;
            }
            Err(other) => panic!("{other}"),
        }
        run.end = SIZE;
        (0..300).for_each(|turn| run.go_on(turn));
        run.read_all();
    }
    assert!(shrunk > 50 && kept > 10, "{shrunk} {kept}");
}

#[test]
fn a_shrink_that_is_given_up_leaves_what_it_has_not_discarded() {
    for seed in 0..30 {
        let mut run = Run::new(seed);
        run.fills = false;
        (0..700).for_each(|turn| run.go_on(turn));
        let end = BASE + run.random.below(SPAN / 512) * 512;
        run.end = end;
        run.step(ClientEvent::Hold(end));
        (0..200).for_each(|turn| run.go_on(turn));
        run.step(ClientEvent::Release(SIZE));
        run.end = SIZE;
        (0..200).for_each(|turn| run.go_on(turn));
        run.read_all();
    }
}
