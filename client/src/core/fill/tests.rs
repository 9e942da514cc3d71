use super::*;
use ashlar_types::{LayerId, LayerPlace};

const CHUNK: u64 = CHUNK_BYTES as u64;

/// What a block of the disk is: in none of its layers, in one of the base, or its own; and a byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Nowhere,
    Base(u8),
    Own(u8),
}

/// A disk of some chunks that takes operations one at a time.
struct Rig {
    blocks: Vec<Block>,
    filler: Filler,
    now: Tick,
    waiting: Vec<(u64, BlockOp)>,
    wake: Option<Tick>,
    fills: Vec<(u64, u64)>,
    is_full: bool,
    /// Others' small requests are served where it fills.
    others_work: bool,
    /// Byte at which the base ends.
    base_end: u64,
}

impl Rig {
    fn new(blocks: Vec<Block>, kind: FillKind, position: u64, rate: Option<u64>) -> Rig {
        let base_end = blocks.len() as u64 * BLOCK;
        Rig::with_base_end(base_end, blocks, kind, position, rate)
    }

    fn with_base_end(base_end: u64, blocks: Vec<Block>, kind: FillKind, position: u64, rate: Option<u64>) -> Rig {
        let filler = Filler::new(kind, position, blocks.len() as u64 * BLOCK, rate);
        let (now, waiting, wake, fills) = (Tick(1), Vec::new(), None, Vec::new());
        let mut rig = Rig { blocks, filler, now, waiting, wake, fills, is_full: false, others_work: false, base_end };
        let mut actions = Vec::new();
        rig.filler.on_timer(rig.now, &mut actions);
        rig.take(actions);
        rig
    }

    fn take(&mut self, actions: Vec<FillAction>) {
        for action in actions {
            match action {
                FillAction::Submit { tag, op } => self.waiting.push((tag, op)),
                FillAction::WakeAt(at) => self.wake = Some(at),
            }
        }
    }

    fn range(offset: u64, len: u64) -> Range<usize> {
        assert!(offset.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK), "whole blocks");
        (offset / BLOCK) as usize..((offset + len) / BLOCK) as usize
    }

    fn work(&mut self, op: BlockOp) -> Result<BlockReply, BlockError> {
        match op {
            BlockOp::Layers { offset, len, with_base: true } => {
                let range = Rig::range(offset, len);
                let extents = |at: usize| {
                    let (block, start) = (self.blocks[at], at as u64 * BLOCK);
                    let place = |depth| Some(LayerPlace { id: LayerId(u64::from(depth) + 1), depth });
                    let layer = match block {
                        Block::Nowhere => None,
                        Block::Own(_) => place(0),
                        Block::Base(_) => place(1),
                    };
                    let extent = LayerExtent { len: BLOCK, layer, has_data: block != Block::Own(0) && layer.is_some() };
                    // What comes from the base ends with it.
                    let inside = match block {
                        Block::Base(_) => self.base_end.saturating_sub(start).min(BLOCK),
                        _ => BLOCK,
                    };
                    let beyond = LayerExtent { len: BLOCK - inside, layer: None, has_data: false };
                    [LayerExtent { len: inside, ..extent }, beyond].into_iter().filter(|extent| extent.len > 0)
                };
                Ok(BlockReply::Layers(range.flat_map(extents).collect()))
            }
            BlockOp::Read { offset, len } => {
                let data = |block: &Block| match block {
                    Block::Nowhere => vec![0; BLOCK as usize],
                    Block::Base(byte) | Block::Own(byte) => vec![*byte; BLOCK as usize],
                };
                let blocks = &self.blocks[Rig::range(offset, u64::from(len))];
                Ok(BlockReply::Data(blocks.iter().map(|block| Bytes::from(data(block))).collect()))
            }
            BlockOp::Fill { offset, data } => {
                let range = Rig::range(offset, data.len() as u64);
                if self.is_full {
                    return Err(BlockError::NoSpace);
                }
                if self.blocks[range.clone()].iter().any(|block| matches!(block, Block::Own(_))) {
                    return Err(BlockError::Written);
                }
                self.fills.push((self.now.0, data.len() as u64));
                for (block, data) in range.zip(data.chunks(BLOCK as usize)) {
                    self.blocks[block] = Block::Own(data[0]);
                }
                Ok(BlockReply::Filled { is_busy: self.others_work })
            }
            other => panic!("a worker doesn't ask for {other:?}"),
        }
    }

    /// Does one operation, or lets the time come that is waited for. False: nothing is left to do.
    fn turn(&mut self) -> bool {
        let mut actions = Vec::new();
        if self.waiting.is_empty() {
            let Some(at) = self.wake.take() else { return false };
            self.now = self.now.max(at);
            self.filler.on_timer(self.now, &mut actions);
        } else {
            let (tag, op) = self.waiting.remove(self.waiting.len() / 2);
            let result = self.work(op);
            self.now.0 += 10;
            self.filler.on_done(self.now, tag, result, &mut actions);
        }
        self.take(actions);
        true
    }

    fn run(&mut self) {
        for _ in 0..100_000 {
            if !self.turn() {
                return;
            }
        }
        panic!("it never ends: {:?}", self.filler);
    }
}

const BASE: FillKind = FillKind::Base { own_layers: 1 };

fn mixed(chunks: usize) -> Vec<Block> {
    let block = |at: usize| match at % 11 {
        0..3 => Block::Nowhere,
        3..8 => Block::Base((at % 250 + 1) as u8),
        8 => Block::Own(0),
        _ => Block::Own(255),
    };
    (0..chunks * 1024 + 77).map(block).collect()
}

#[test]
fn what_the_base_has_is_taken_over_and_nothing_else_is_changed() {
    let blocks = mixed(6);
    let mut rig = Rig::new(blocks.clone(), BASE, 0, None);
    rig.run();
    assert!(rig.filler.is_done());
    for (now, before) in rig.blocks.iter().zip(&blocks) {
        match before {
            Block::Base(byte) => assert_eq!(*now, Block::Own(*byte)),
            other => assert_eq!(now, other),
        }
    }
    let filled = blocks.iter().filter(|block| matches!(block, Block::Base(_))).count();
    assert_eq!(rig.filler.filled(), filled as u64 * BLOCK);
}

#[test]
fn zeroes_are_written_where_nothing_is() {
    let blocks: Vec<Block> =
        mixed(2).into_iter().map(|b| if let Block::Base(x) = b { Block::Own(x) } else { b }).collect();
    let mut rig = Rig::new(blocks.clone(), FillKind::Zeroes, 0, None);
    rig.run();
    assert!(rig.filler.is_done());
    for (now, before) in rig.blocks.iter().zip(&blocks) {
        assert_eq!(*now, if *before == Block::Nowhere { Block::Own(0) } else { *before });
    }
}

#[test]
fn all_below_the_position_is_filled_whenever_one_looks() {
    let mut rig = Rig::new(mixed(9), BASE, 0, None);
    let mut last = 0;
    while rig.turn() {
        let position = rig.filler.position();
        assert!(position >= last, "it doesn't fall");
        last = position;
        let below = &rig.blocks[..(position / BLOCK) as usize];
        assert!(!below.iter().any(|block| matches!(block, Block::Base(_))), "J2");
    }
}

#[test]
fn a_worker_that_goes_on_begins_where_the_other_one_was() {
    let blocks = mixed(5);
    let mut rig = Rig::new(blocks.clone(), BASE, 3 * CHUNK, None);
    rig.run();
    assert_eq!(rig.blocks[..3 * 1024], blocks[..3 * 1024]);
    assert!(!rig.blocks[3 * 1024..].iter().any(|block| matches!(block, Block::Base(_))));
}

#[test]
fn what_is_written_meanwhile_stays_and_the_rest_is_filled() {
    let mut rig = Rig::new(vec![Block::Base(3); 3000], BASE, 0, None);
    let mut at = 0;
    while rig.turn() {
        at = (at * 37 + 11) % 3000;
        rig.blocks[at] = Block::Own(200);
    }
    assert!(rig.filler.is_done());
    assert!(!rig.blocks.contains(&Block::Base(3)));
    assert!(rig.blocks.iter().filter(|block| **block == Block::Own(200)).count() > 10);
}

#[test]
fn a_full_pool_is_told_and_waited_for() {
    let mut rig = Rig::new(mixed(1), BASE, 0, None);
    rig.is_full = true;
    while rig.now.0 < 30_000_000 {
        assert!(rig.turn(), "it tries again");
    }
    assert_eq!(rig.filler.trouble(), Some(&BlockError::NoSpace));
    assert_eq!(rig.filler.position(), 0);
    rig.is_full = false;
    rig.run();
    assert!(rig.filler.is_done() && rig.filler.trouble().is_none());
}

#[test]
fn it_keeps_to_its_rate() {
    let mut rig = Rig::new(vec![Block::Base(3); 4 * 1024], BASE, 0, Some(4 << 20));
    rig.run();
    // Each piece pays for itself before the next one.
    let (first, last) = (rig.fills[0], rig.fills[rig.fills.len() - 1]);
    let before_last = rig.fills.iter().map(|(_, len)| len).sum::<u64>() - last.1;
    let least = before_last * 1_000_000 / (4 << 20);
    assert!((least - 10_000..least + 100_000).contains(&(last.0 - first.0)), "{} us", last.0 - first.0);
}

/// Sizes of volumes are multiples of 512, so the last block of a base may have data in a part of it only.
#[test]
fn the_last_block_of_a_base_that_ends_inside_of_one_is_filled_whole() {
    for size in [512, BLOCK + 512, 1_049_088, 4_199_936, CHUNK - 512, CHUNK + 512, 2 * CHUNK - BLOCK + 1024] {
        let blocks = vec![Block::Base(7); size.div_ceil(BLOCK) as usize];
        let mut rig = Rig::with_base_end(size, blocks, BASE, 0, None);
        rig.run();
        assert!(rig.filler.is_done() && rig.filler.trouble().is_none(), "{size}: {:?}", rig.filler);
        assert!(rig.blocks.iter().all(|block| *block == Block::Own(7)), "{size}");
        assert_eq!(rig.filler.filled(), size.next_multiple_of(BLOCK));
    }
}

#[test]
fn an_answer_of_another_length_than_was_asked_for_is_not_filled_in() {
    let mut rig = Rig::new(vec![Block::Base(7); 3], BASE, 0, None);
    let mut actions = Vec::new();
    let (tag, op) = rig.waiting.remove(0);
    let result = rig.work(op);
    rig.filler.on_done(rig.now, tag, result, &mut actions);
    let short = Ok(BlockReply::Data(vec![Bytes::from(vec![7; BLOCK as usize])]));
    rig.filler.on_done(rig.now, tag, short, &mut actions);
    assert!(matches!(rig.filler.trouble(), Some(BlockError::Medium { .. })));
    rig.run();
    rig.filler.on_timer(rig.now + AGAIN, &mut actions);
    rig.waiting.clear();
    let last = actions.pop();
    assert!(matches!(last, Some(FillAction::Submit { op: BlockOp::Layers { .. }, .. })), "looked at again: {last:?}");
}

#[test]
fn beside_others_it_fills_little_at_a_time_and_rests_and_goes_on_as_before_when_they_have_gone() {
    for kind in [BASE, FillKind::Zeroes] {
        let block = if kind == BASE { Block::Base(3) } else { Block::Nowhere };
        let mut rig = Rig::new(vec![block; 8 * 1024], kind, 0, None);
        rig.others_work = true;
        let fills = |rig: &Rig| rig.waiting.iter().filter(|(_, op)| matches!(op, BlockOp::Fill { .. })).count();
        while rig.fills.len() < 40 {
            assert!(rig.turn());
            assert!(rig.fills.len() < CHUNKS_AT_A_TIME || fills(&rig) <= 1, "J4: one after the other");
        }
        let gentle = &rig.fills[CHUNKS_AT_A_TIME..];
        assert!(gentle.iter().all(|(_, len)| *len == GENTLE_BYTES as u64), "{gentle:?}");
        // Work takes 10 us here, so what lies between two is the shortest rest.
        let pauses = gentle.windows(2).map(|pair| pair[1].0 - pair[0].0);
        assert!(pauses.into_iter().all(|pause| pause >= REST_MIN.0), "{gentle:?}");
        rig.others_work = false;
        rig.now = rig.now + GENTLE_TIME;
        let before = rig.fills.len();
        rig.run();
        assert!(rig.filler.is_done() && !rig.blocks.contains(&block));
        let large = rig.fills[before + 1..].iter().filter(|(_, len)| *len == PIECE_BYTES).count();
        assert!(large >= 26, "of 32 MiB: {:?}", &rig.fills[before..]);
        assert_eq!(rig.filler.filled(), 8 * CHUNK);
    }
}

/// The base's OSDs serve the worker's own small reads, and cannot tell whose they are.
#[test]
fn its_own_small_reads_are_not_others() {
    let block = |at: usize| if at.is_multiple_of(2) { Block::Base(9) } else { Block::Own(1) };
    let mut rig = Rig::new((0..2048).map(block).collect(), BASE, 0, None);
    rig.others_work = true;
    rig.run();
    assert!(rig.filler.is_done());
    let time = rig.fills[rig.fills.len() - 1].0 - rig.fills[0].0;
    assert!(time < rig.fills.len() as u64 * REST_MIN.0 / 2, "{time} us for {} fills: it never rests", rig.fills.len());
}
