//! A cluster of three OSDs that agree by magic: one map of blocks, one configuration. Everything between it and the client goes
//! wrong: links break with what is in them, answers are late, doubled or damaged, primaries move, requests are refused.

use super::*;
use ashlar_types::{BLOCK_BYTES, BlockIndex, BlockRange, CHUNK_BYTES, ChunkIndex, Crc, OpNumber};
use ashlar_wire::{IoKind, LayerRun, LayersReply, LayersRequest, OverReply, OverRequest};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeSet, VecDeque};

/// splitmix64
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Default)]
struct Wire {
    up: bool,
    greeted: bool,
    /// The stacks that the client has named.
    stacks: BTreeSet<StackRevision>,
    to_osd: VecDeque<Message>,
    to_client: VecDeque<Message>,
}

pub(super) struct FakeCluster {
    pub(super) epoch: u32,
    pub(super) primary: Option<u32>,
    pub(super) revision: u64,
    pub(super) pg_count: u32,
    /// What is older is refused. All stacks have the same content here.
    pub(super) stack: StackRevision,
    /// Present blocks by (chunk, block).
    blocks: BTreeMap<(ChunkIndex, u16), Bytes>,
    /// Blocks that were ever written or zeroed: the others are the base's, where there is one.
    written: BTreeSet<(ChunkIndex, u16)>,
    /// Retry ids (R10).
    done: BTreeSet<OpNumber>,
    lowest: OpNumber,
    connections: BTreeMap<OsdId, u64>,
    wires: [Wire; 3],
    pub(super) faults: bool,
}

impl FakeCluster {
    pub(super) fn new(pg_count: u32) -> FakeCluster {
        FakeCluster {
            epoch: 1,
            primary: Some(0),
            revision: 1,
            pg_count,
            stack: StackRevision::FIRST,
            blocks: BTreeMap::new(),
            written: BTreeSet::new(),
            done: BTreeSet::new(),
            lowest: OpNumber(0),
            connections: BTreeMap::new(),
            wires: Default::default(),
            faults: true,
        }
    }

    pub(super) fn view(&self) -> ClusterView {
        view(self.revision, self.pg_count, self.epoch, self.primary)
    }

    pub(super) fn reconfigure(&mut self, primary: Option<u32>) {
        self.epoch += 1;
        self.revision += 1;
        self.primary = primary;
    }

    pub(super) fn connect(&mut self, osd: OsdId) {
        self.wires[osd.0 as usize] = Wire { up: true, ..Wire::default() };
    }

    /// True if there was something to break.
    pub(super) fn cut(&mut self, osd: OsdId) -> bool {
        std::mem::take(&mut self.wires[osd.0 as usize]).up
    }

    pub(super) fn send(&mut self, osd: OsdId, message: Message) {
        let wire = &mut self.wires[osd.0 as usize];
        if wire.up {
            wire.to_osd.push_back(message);
        }
    }

    /// An OSD handles its next message.
    pub(super) fn work(&mut self, osd: OsdId, random: &mut Random) {
        match self.wires[osd.0 as usize].to_osd.pop_front() {
            None => {}
            Some(Message::Hello(hello)) => {
                let last = self.connections.insert(osd, hello.connection);
                assert!(last.is_none_or(|last| last < hello.connection), "connection numbers rise");
                let starting = self.faults && random.one_in(4);
                let status = if starting { HelloStatus::Starting } else { HelloStatus::Welcome };
                self.wires[osd.0 as usize].greeted = !starting;
                let reply = HelloReply { osd, boot: boot_of(osd), status };
                self.wires[osd.0 as usize].to_client.push_back(Message::HelloReply(reply));
            }
            Some(Message::Stack(stack)) => {
                assert_eq!(stack.layers.len(), stack.revision.0 as usize);
                self.wires[osd.0 as usize].stacks.insert(stack.revision);
            }
            Some(Message::OverRequest(OverRequest { request, base })) => {
                let reply = self.serve_over(osd, request, &base, random);
                self.answer(osd, reply, random);
            }
            Some(Message::IoRequest(request)) => {
                let named = &self.wires[osd.0 as usize].stacks;
                assert!(named.contains(&request.stack_revision), "T4: a stack is named before it is used");
                assert!(self.wires[osd.0 as usize].greeted, "nothing is sent before the greeting is answered");
                let reply = self.serve(osd, &request, random);
                self.answer(osd, Message::IoReply(reply), random);
            }
            Some(Message::LayersRequest(LayersRequest { request })) => {
                let reply = self.serve_layers(osd, &request, random);
                self.answer(osd, reply, random);
            }
            Some(message) => panic!("a client doesn't send {message:?}"),
        }
    }

    /// Answers may be doubled, and overtake one another.
    fn answer(&mut self, osd: OsdId, reply: Message, random: &mut Random) {
        let queue = &mut self.wires[osd.0 as usize].to_client;
        let copies = if self.faults && random.one_in(10) { 2 } else { 1 };
        for _ in 0..copies {
            let at = random.below(queue.len() as u64 + 1) as usize;
            let at = if queue.iter().any(|m| matches!(m, Message::HelloReply(_))) { queue.len() } else { at };
            queue.insert(at, reply.clone());
        }
    }

    pub(super) fn next_answer(&mut self, osd: OsdId) -> Option<Message> {
        self.wires[osd.0 as usize].to_client.pop_front()
    }

    fn serve(&mut self, osd: OsdId, request: &IoRequest, random: &mut Random) -> IoReply {
        assert!(request.lowest_unanswered <= request.op.number, "R10: a request is itself unanswered");
        if request.epoch != Epoch(self.epoch) || self.primary != Some(osd.0) {
            return refusal(request, IoStatus::WrongEpoch, self.epoch);
        }
        if self.faults && random.one_in(12) {
            return refusal(request, IoStatus::Retry, self.epoch);
        }
        if request.stack_revision < self.stack && !self.done.contains(&request.op.number) {
            return refusal(request, IoStatus::StaleStack, self.epoch);
        }
        self.lowest = self.lowest.max(request.lowest_unanswered);
        self.done = self.done.split_off(&self.lowest);
        if request.op.number < self.lowest {
            return refusal(request, IoStatus::StaleOp, self.epoch);
        }
        let range = BlockRange::covering(request.offset, request.len).expect("inside its chunk");
        match request.kind {
            IoKind::Read | IoKind::Extents => self.read(request, range, random),
            IoKind::Fill if self.is_written(request.chunk.index, range) && !self.done.contains(&request.op.number) => {
                refusal(request, IoStatus::Written, self.epoch)
            }
            IoKind::Write | IoKind::Zero | IoKind::Fill => {
                if request.kind.carries_data() {
                    let crcs = super::super::data::fragment_crcs(u64::from(request.offset), &request.payload);
                    assert_eq!(request.crcs, crcs);
                }
                if self.done.insert(request.op.number) {
                    self.write(request, range);
                    self.written.extend(range.iter().map(|block| (request.chunk.index, block.0)));
                }
                // Others are at work now and then.
                let is_busy = request.kind == IoKind::Fill && request.op.number.0.is_multiple_of(2);
                IoReply { status: if is_busy { IoStatus::OkBusy } else { IoStatus::Ok }, ..ok(request) }
            }
        }
    }

    /// The same for a volume that stands on a base.
    fn serve_over(&mut self, osd: OsdId, mut request: IoRequest, base: &[Crc], random: &mut Random) -> Message {
        let block_bytes = BLOCK_BYTES as usize;
        let base_data = request.payload.split_off(request.payload.len() - base.len() * block_bytes);
        assert!(base_data.chunks(block_bytes).map(Crc::of).eq(base.iter().copied()));
        let range = BlockRange::covering(request.offset, request.len).expect("inside its chunk");
        let key = |block: u16| (request.chunk.index, block);
        let unwritten: Vec<u16> = range.iter().map(|b| b.0).filter(|b| !self.written.contains(&key(*b))).collect();
        if matches!(request.kind, IoKind::Read | IoKind::Extents) {
            let reply = self.serve(osd, &request, random);
            if reply.status != IoStatus::Ok || unwritten.is_empty() {
                return Message::IoReply(reply);
            }
            let runs = unwritten.chunk_by(|a, b| a + 1 == *b);
            let run = |run: &[u16]| BlockRange::new(BlockIndex(run[0]), run.len() as u16).expect("inside the range");
            return Message::OverReply(OverReply { reply, unwritten: runs.map(run).collect() });
        }
        let mut edges = BTreeSet::new();
        if !request.offset.is_multiple_of(BLOCK_BYTES) {
            edges.insert(range.first().0);
        }
        if !(request.offset + request.len).is_multiple_of(BLOCK_BYTES) {
            edges.insert(range.end() - 1);
        }
        assert!(base.is_empty() || base.len() == edges.len(), "a block for each that is covered partly");
        let is_done = self.done.contains(&request.op.number);
        let needed: Vec<u16> = edges.iter().copied().filter(|block| unwritten.contains(block)).collect();
        let before = self.blocks.clone();
        if !is_done && !needed.is_empty() && !base.is_empty() {
            for (block, data) in edges.iter().zip(base_data.chunks(block_bytes)) {
                if needed.contains(block) {
                    self.blocks.insert(key(*block), Bytes::copy_from_slice(data));
                }
            }
        }
        let is_refused = |reply: &IoReply| reply.status != IoStatus::Ok;
        if !is_done && !needed.is_empty() && base.is_empty() {
            // Looked at like any other first: it may be refused for another reason.
            let probe = IoRequest { kind: IoKind::Extents, crcs: vec![], payload: Bytes::new(), ..request.clone() };
            let reply = self.serve(osd, &probe, random);
            let status = if is_refused(&reply) { reply.status } else { IoStatus::NeedsBase };
            return Message::IoReply(refusal(&request, status, self.epoch));
        }
        let reply = self.serve(osd, &request, random);
        if is_refused(&reply) {
            self.blocks = before;
        } else if !is_done {
            self.written.extend(range.iter().map(|block| key(block.0)));
        }
        Message::IoReply(reply)
    }

    /// All in the lowest layer.
    fn serve_layers(&mut self, osd: OsdId, request: &IoRequest, random: &mut Random) -> Message {
        let reply = self.serve(osd, request, random);
        if reply.status != IoStatus::Ok {
            return Message::IoReply(reply);
        }
        let depth = u16::try_from(request.stack_revision.0 - 1).expect("few stacks");
        let range = BlockRange::covering(request.offset, request.len).expect("inside its chunk");
        let run = |block: BlockIndex| {
            let key = (request.chunk.index, block.0);
            let has_data = self.blocks.contains_key(&key);
            LayerRun { count: 1, depth: (has_data || self.written.contains(&key)).then_some(depth), has_data }
        };
        let runs = range.iter().map(run).collect();
        let all = self.blocks.keys().chain(&self.written).map(|(chunk, _)| *chunk);
        let next = all.filter(|chunk| *chunk > request.chunk.index).min();
        Message::LayersReply(LayersReply { op: request.op, epoch: request.epoch, runs, next })
    }

    /// Where nothing was ever written, what the base has is: a clone is flattened.
    pub(super) fn fill_from(&mut self, base: &[u8]) {
        let blocks_per_chunk = (CHUNK_BYTES / BLOCK_BYTES) as usize;
        for (at, data) in base.chunks(BLOCK_BYTES as usize).enumerate() {
            let key = (ChunkIndex((at / blocks_per_chunk) as u32), (at % blocks_per_chunk) as u16);
            if self.written.insert(key) {
                let mut block = data.to_vec();
                block.resize(BLOCK_BYTES as usize, 0);
                self.blocks.entry(key).or_insert_with(|| Bytes::from(block));
            }
        }
    }

    fn is_written(&self, chunk: ChunkIndex, range: BlockRange) -> bool {
        let is_there = |block: BlockIndex| {
            let key = (chunk, block.0);
            self.blocks.contains_key(&key) || self.written.contains(&key)
        };
        range.iter().any(is_there)
    }

    fn read(&self, request: &IoRequest, range: BlockRange, random: &mut Random) -> IoReply {
        let found: Vec<Option<&Bytes>> =
            range.iter().map(|block| self.blocks.get(&(request.chunk.index, block.0))).collect();
        let blocks = found.iter().map(|data| data.map(|data| Crc::of(data))).collect();
        let mut payload = BytesMut::new();
        if request.kind == IoKind::Read {
            found.iter().flatten().for_each(|data| payload.extend_from_slice(data));
        }
        if self.faults && random.one_in(20) && !payload.is_empty() {
            let at = random.below(payload.len() as u64) as usize;
            payload[at] ^= 1;
        }
        IoReply { blocks, payload: payload.freeze(), ..ok(request) }
    }

    fn write(&mut self, request: &IoRequest, range: BlockRange) {
        let mut chunk = vec![0; CHUNK_BYTES as usize];
        let block_bytes = BLOCK_BYTES as usize;
        for block in range.iter() {
            if let Some(data) = self.blocks.get(&(request.chunk.index, block.0)) {
                chunk[usize::from(block.0) * block_bytes..][..block_bytes].copy_from_slice(data);
            }
        }
        let target = &mut chunk[request.offset as usize..][..request.len as usize];
        match request.kind {
            IoKind::Write | IoKind::Fill => target.copy_from_slice(&request.payload),
            _ => target.fill(0),
        }
        for block in range.iter() {
            let data = &chunk[usize::from(block.0) * block_bytes..][..block_bytes];
            if request.kind == IoKind::Zero && data.iter().all(|byte| *byte == 0) {
                self.blocks.remove(&(request.chunk.index, block.0));
            } else {
                self.blocks.insert((request.chunk.index, block.0), Bytes::copy_from_slice(data));
            }
        }
    }
}
