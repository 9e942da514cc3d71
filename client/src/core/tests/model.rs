//! Random requests through a cluster that misbehaves, against a plain array. Overlapping requests take effect in the order
//! of submission (V3), so what a read must give is known when it is submitted.

mod shrinks;

use super::fake::{FakeCluster, Random};
use super::*;
use ashlar_types::control::BaseLayer;
use ashlar_types::{CHUNK_BYTES, Extent, LayerExtent, LayerPlace, OpNumber};
use ashlar_wire::LayersRequest;
use bytes::Bytes;
use std::collections::BTreeSet;

/// Two chunks and a bit around the border between the first two is where requests fall.
const SIZE: u64 = 3 * CHUNK_BYTES as u64;
const BASE: u64 = CHUNK_BYTES as u64 - 10 * 4096;
const SPAN: u64 = 20 * 4096;
const BLOCK: usize = 4096;

enum Expected {
    Done,
    Written,
    Data(Vec<u8>),
    Extents {
        len: u64,
    },
    /// It reaches behind the end.
    Refused,
    /// Of who shrinks the disk.
    Shrinks,
}

struct Run {
    rig: Rig,
    cluster: FakeCluster,
    random: Random,
    model: Vec<u8>,
    /// Blocks of the span that were written.
    touched: BTreeSet<usize>,
    expected: BTreeMap<u64, Expected>,
    next_tag: u64,
    /// What the volume stands on, if it is a clone.
    base: Vec<u8>,
    /// As a grant says it.
    rig_base: Option<BaseLayer>,
    /// It will be flattened.
    flattens: bool,
    fills: bool,
    /// Numbers whose answer the client has.
    answered: BTreeSet<OpNumber>,
    /// What requests may reach.
    end: u64,
    answer_of_shrink: Option<Result<BlockReply, BlockError>>,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut random = Random(seed);
        let limits = ClientLimits {
            unanswered_max: 1 + random.below(12) as usize,
            span_max: 12 + random.below(12) as usize,
            damaged_retries_max: 1000,
            ..ClientLimits::default()
        };
        // Of every other run; it ends within a block, somewhere in what is looked at.
        let size = if seed.is_multiple_of(2) { 0 } else { BASE + SPAN / 2 + random.below(SPAN / 1024) * 512 };
        let base: Vec<u8> = (0..size).map(|at| (at / 512 % 251 + 1) as u8).collect();
        let layer = BaseLayer { volume: VolumeId(2), layer: LayerId(4), size };
        let rig_base = (size > 0).then_some(layer);
        let grant = AttachGrant { base: rig_base, ..grant(SIZE) };
        let mut model = base.get(BASE as usize..).map(<[u8]>::to_vec).unwrap_or_default();
        model.resize(SPAN as usize, 0);
        Run {
            base,
            rig_base,
            fills: size == 0 || seed % 4 != 1,
            flattens: size > 0 && seed % 4 == 1,
            rig: Rig::new(grant, limits),
            cluster: FakeCluster::new(1 + random.below(3) as u32),
            random,
            model,
            touched: BTreeSet::new(),
            expected: BTreeMap::new(),
            next_tag: 0,
            answered: BTreeSet::new(),
            end: SIZE,
            answer_of_shrink: None,
        }
    }

    fn step(&mut self, event: ClientEvent) {
        if let ClientEvent::Received(_, Message::IoReply(_) | Message::OverReply(_) | Message::LayersReply(_)) = event {
            let before: BTreeSet<OpNumber> = self.rig.client.unanswered().collect();
            self.rig.step(event);
            let after: BTreeSet<OpNumber> = self.rig.client.unanswered().collect();
            self.answered.extend(before.difference(&after));
        } else {
            self.rig.step(event);
        }
        for osd in std::mem::take(&mut self.rig.links) {
            self.cluster.cut(osd);
            if self.cluster.faults && self.random.one_in(4) {
                self.step(ClientEvent::LinkDown(osd));
            } else {
                self.cluster.connect(osd);
                self.step(ClientEvent::LinkUp(osd));
            }
        }
        for (osd, hello) in std::mem::take(&mut self.rig.hellos) {
            self.cluster.send(osd, Message::Hello(hello));
        }
        for (osd, stack) in std::mem::take(&mut self.rig.stacks) {
            self.cluster.send(osd, Message::Stack(stack));
        }
        for (osd, request) in std::mem::take(&mut self.rig.requests) {
            self.check_number(&request);
            self.cluster.send(osd, Message::IoRequest(request));
        }
        for (osd, over) in std::mem::take(&mut self.rig.over) {
            self.check_number(&over.request);
            self.cluster.send(osd, Message::OverRequest(over));
        }
        for (osd, request) in std::mem::take(&mut self.rig.layers) {
            self.check_number(&request);
            self.cluster.send(osd, Message::LayersRequest(LayersRequest { request }));
        }
        for (tag, result) in std::mem::take(&mut self.rig.completed) {
            self.check_completion(tag, result);
        }
    }

    fn check_number(&self, request: &IoRequest) {
        let number = request.op.number;
        assert!(!self.answered.contains(&number), "V2: {number} is answered and sent again");
        assert!(
            (1..request.lowest_unanswered.0).all(|n| self.answered.contains(&OpNumber(n))),
            "R10: below {} all is answered",
            request.lowest_unanswered
        );
        assert!(!self.answered.contains(&request.lowest_unanswered), "R10: the lowest is unanswered");
    }

    fn check_completion(&mut self, tag: u64, result: Result<BlockReply, BlockError>) {
        match (self.expected.remove(&tag).expect("V1: one completion each"), result) {
            (Expected::Done, Ok(BlockReply::Done | BlockReply::Filled { .. })) => {}
            (Expected::Written, Err(BlockError::Written)) => {}
            (Expected::Refused, Err(BlockError::OutOfRange)) => {}
            (Expected::Shrinks, result) => self.answer_of_shrink = Some(result),
            (Expected::Data(expected), Ok(BlockReply::Data(pieces))) => {
                assert!(pieces.concat() == expected, "V3: request {tag} read something else");
            }
            (Expected::Extents { len }, Ok(BlockReply::Extents(extents))) => {
                assert_eq!(extents.iter().map(|e| e.len).sum::<u64>(), len);
            }
            (Expected::Extents { len }, Ok(BlockReply::Layers(extents))) => {
                assert_eq!(extents.iter().map(|e| e.len).sum::<u64>(), len);
            }
            (_, other) => panic!("V4: request {tag} ended with {other:?}"),
        }
    }

    fn submit(&mut self) {
        let tag = self.next_tag;
        self.next_tag += 1;
        let unit = if self.random.one_in(2) { 4096 } else { 512 };
        let start = self.random.below(SPAN / unit) * unit;
        let len = ((1 + self.random.below(24)) * unit).min(SPAN - start);
        let offset = BASE + start;
        if offset + len > self.end {
            return self.submit_outside(tag, offset, len);
        }
        let here = start as usize..(start + len) as usize;
        let (op, expected) = match self.random.below(11) {
            // What a flatten fills isn't known when it is submitted.
            10 if self.fills => self.fill(start),
            0..4 => {
                let data: Vec<u8> = (0..len).map(|i| (tag * 7 + i / 512 + 1) as u8).collect();
                self.model[here.clone()].copy_from_slice(&data);
                self.touch(here);
                (BlockOp::Write { offset, data: Bytes::from(data) }, Expected::Done)
            }
            4..8 => {
                let len = u32::try_from(len).expect("small");
                (BlockOp::Read { offset, len }, Expected::Data(self.model[here].to_vec()))
            }
            8 => {
                self.model[here.clone()].fill(0);
                self.touch(here);
                let op = match self.random.below(3) {
                    0 => BlockOp::Discard { offset, len },
                    kind => BlockOp::WriteZeroes { offset, len, keep_allocated: kind == 1 },
                };
                (op, Expected::Done)
            }
            _ => {
                let with_base = self.random.one_in(2);
                let op = match self.random.below(2) {
                    0 => BlockOp::Extents { offset, len },
                    _ => BlockOp::Layers { offset, len, with_base },
                };
                (op, Expected::Extents { len })
            }
        };
        self.expected.insert(tag, expected);
        self.step(ClientEvent::Submit(BlockRequest { tag, op }));
    }

    fn touch(&mut self, bytes: std::ops::Range<usize>) {
        self.touched.extend(bytes.start / BLOCK..bytes.end.div_ceil(BLOCK));
    }

    /// Some whole blocks of one chunk. `start` is somewhere in the span.
    fn fill(&mut self, start: u64) -> (BlockOp, Expected) {
        let first = start as usize / BLOCK;
        let at = |block: usize| BASE + (block * BLOCK) as u64;
        let chunk = |block| at(block) / u64::from(CHUNK_BYTES);
        let most = 1 + self.random.below(4) as usize;
        let blocks: Vec<usize> =
            (first..SPAN as usize / BLOCK).take(most).take_while(|block| chunk(*block) == chunk(first)).collect();
        let data = vec![self.next_tag as u8 | 1; blocks.len() * BLOCK];
        let op = BlockOp::Fill { offset: at(first), data: Bytes::from(data.clone()) };
        if blocks.iter().any(|block| self.touched.contains(block)) {
            return (op, Expected::Written);
        }
        let here = first * BLOCK..(first + blocks.len()) * BLOCK;
        self.model[here.clone()].copy_from_slice(&data);
        self.touch(here);
        (op, Expected::Done)
    }

    fn turn(&mut self) {
        if self.random.one_in(4) {
            self.answer_base();
        }
        let osd = OsdId(self.random.below(3) as u32);
        match self.random.below(if self.cluster.faults { 20 } else { 16 }) {
            0..7 => {
                let mut random = Random(self.random.below(u64::MAX));
                self.cluster.work(osd, &mut random);
            }
            7..13 => {
                if let Some(message) = self.cluster.next_answer(osd) {
                    self.step(ClientEvent::Received(osd, message));
                }
            }
            13 => self.pass_time(),
            14 => self.rig.now = self.rig.now + ashlar_types::Duration(self.random.below(500)),
            15 => {
                let view = Arc::new(self.cluster.view());
                self.step(ClientEvent::View(view));
            }
            16 => {
                let primary = [None, Some(0), Some(1), Some(2)][self.random.below(4) as usize];
                self.cluster.reconfigure(primary);
            }
            17 if self.cluster.cut(osd) => self.step(ClientEvent::LinkDown(osd)),
            19 if self.random.one_in(4) => self.cluster.stack.0 += 1,
            // Seldom, so that much is done before.
            18 if self.flattens && self.random.one_in(8) => self.flatten(),
            18 => self.rig.step(ClientEvent::Timer),
            _ => {}
        }
    }

    /// From now on the clone stands on nothing; the client hears of it when it asks.
    fn flatten(&mut self) {
        self.flattens = false;
        self.cluster.fill_from(&self.base);
        self.cluster.stack.0 += 1;
        self.rig_base = None;
        let end = (self.base.len().saturating_sub(BASE as usize)).div_ceil(BLOCK);
        self.touched.extend(0..end);
    }

    /// The base answers one of the questions that it was asked.
    fn answer_base(&mut self) {
        if self.rig.base_reads.is_empty() {
            return;
        }
        let at = self.random.below(self.rig.base_reads.len() as u64) as usize;
        let (key, op) = self.rig.base_reads.swap_remove(at);
        if self.rig_base.is_none() && self.random.one_in(2) {
            // It is gone.
            return self.step(ClientEvent::BaseRead { key, result: Err(BlockError::Fenced) });
        }
        let reply = match op {
            BlockOp::Read { offset, len } => {
                let from = offset as usize;
                let data = &self.base[from..from + len as usize];
                let cut = self.random.below(data.len() as u64) as usize;
                BlockReply::Data(vec![Bytes::copy_from_slice(&data[..cut]), Bytes::copy_from_slice(&data[cut..])])
            }
            BlockOp::Extents { offset, len } => {
                assert!(offset + len <= self.base.len() as u64, "inside the base");
                BlockReply::Extents(vec![Extent { len, allocated: true, zero: false }])
            }
            BlockOp::Layers { offset, len, with_base } => {
                assert!(offset + len <= self.base.len() as u64 && with_base, "inside the base");
                let layer = Some(LayerPlace { id: LayerId(1), depth: 0 });
                BlockReply::Layers(vec![LayerExtent { len, layer, has_data: true }])
            }
            other => panic!("a base is only read, not {other:?}"),
        };
        self.step(ClientEvent::BaseRead { key, result: Ok(reply) });
    }

    fn tell_stack(&mut self) {
        let revision = self.cluster.stack;
        let layers = (0..u64::from(revision.0)).map(|below| LayerId(1_000_000 - below)).collect();
        let base = self.rig_base;
        self.step(ClientEvent::Stack { revision, layers, base });
    }

    fn pass_time(&mut self) {
        if std::mem::take(&mut self.rig.stacks_wanted) > 0 {
            self.tell_stack();
        }
        if let Some(at) = self.rig.wake.take() {
            self.rig.now = self.rig.now.max(at);
            self.step(ClientEvent::Timer);
        }
    }

    fn calm(&mut self) {
        self.cluster.faults = false;
        self.cluster.reconfigure(Some(1));
        let view = Arc::new(self.cluster.view());
        self.step(ClientEvent::View(view));
    }

    /// Without faults, everything ends.
    fn finish(&mut self) {
        self.calm();
        for _ in 0..200_000 {
            if self.expected.is_empty() {
                break;
            }
            self.turn();
        }
        assert!(self.expected.is_empty(), "{} requests never ended", self.expected.len());
        assert!(self.rig.client.is_idle() && self.rig.client.unanswered().next().is_none());
    }
}

#[test]
fn random_requests_through_a_faulty_cluster_behave_like_an_array() {
    for seed in 0..150 {
        let mut run = Run::new(seed);
        for turn in 0..1500 {
            if turn % 5 == 0 && run.expected.len() < 40 {
                run.submit();
            }
            run.turn();
        }
        run.finish();
        // What is there now, all of it.
        let expected = run.model.clone();
        run.expected.insert(run.next_tag, Expected::Data(expected));
        let op = BlockOp::Read { offset: BASE, len: SPAN as u32 };
        run.step(ClientEvent::Submit(BlockRequest { tag: run.next_tag, op }));
        run.finish();
    }
}
