//! Messages of the data path into frames and out of them.

use crate::benchmark::{Benchmark, Call};
use ashlar_types::{
    AttachmentId, BLOCK_BYTES, BlockIndex, BlockRange, ChunkId, ChunkIndex, ClusterId, Crc, Epoch, Generation, LayerId,
    OpId, OpNumber, PgId, PoolId, Seq, SessionId, StackRevision, Version, VolumeId, aligned_payload,
};
use ashlar_wire::{
    Change, Commit, Decoder, Encoder, IoKind, IoReply, IoRequest, IoStatus, Message, Outcome, Prepare, Prepared,
    WriteMeta,
};
use bytes::Bytes;
use std::hint::black_box;

const CLUSTER: ClusterId = ClusterId(0xa5);
const PG: PgId = PgId { pool: PoolId(1), index: 7 };
const CHUNK: ChunkId = ChunkId { layer: LayerId(1), index: ChunkIndex(3) };
const OP: OpId = OpId { session: SessionId(1), number: OpNumber(1000) };
const ONE: u16 = 1;
const MIB: u16 = 256;

pub const BENCHMARKS: &[Benchmark] = &[
    benchmark("frame/encode/io-request-write-4k", || encode(io_request(ONE))),
    benchmark("frame/decode/io-request-write-4k", || decode(&io_request(ONE))),
    benchmark("frame/encode/io-request-write-1m", || encode(io_request(MIB))),
    benchmark("frame/decode/io-request-write-1m", || decode(&io_request(MIB))),
    benchmark("frame/encode/io-reply-read-4k", || encode(io_reply())),
    benchmark("frame/decode/io-reply-read-4k", || decode(&io_reply())),
    benchmark("frame/encode/prepare-4k", || encode(prepare())),
    benchmark("frame/decode/prepare-4k", || decode(&prepare())),
    benchmark("frame/encode/prepared", || encode(prepared())),
    benchmark("frame/decode/prepared", || decode(&prepared())),
    benchmark("frame/encode/commit", || encode(commit())),
    benchmark("frame/decode/commit", || decode(&commit())),
];

const fn benchmark(name: &'static str, make: fn() -> Call) -> Benchmark {
    Benchmark { name, operations: 1, calls: 32, make }
}

/// The encoder of one connection, emptied after each message as when there is one to a batch.
fn encode(message: Message) -> Call {
    let mut encoder = Encoder::new(CLUSTER);
    let mut pieces: Vec<Bytes> = Vec::new();
    Box::new(move || {
        encoder.push(black_box(&message));
        encoder.take(&mut pieces);
        black_box(&pieces);
        pieces.clear();
    })
}

/// The decoder of one connection, to which nothing but this comes.
fn decode(message: &Message) -> Call {
    let mut encoder = Encoder::new(CLUSTER);
    encoder.push(message);
    let mut pieces: Vec<Bytes> = Vec::new();
    encoder.take(&mut pieces);
    let frame = pieces.concat();
    let mut decoder = Decoder::new(CLUSTER);
    Box::new(move || {
        let mut left = &frame[..];
        while !left.is_empty() {
            let buffer = decoder.buffer();
            let (now, later) = left.split_at(left.len().min(buffer.capacity() - buffer.len()));
            crate::stream::stand_in_for_kernel(buffer, now);
            left = later;
            let message = decoder.next().expect("a frame of our own encoder");
            assert!(message.is_some() == left.is_empty(), "one message of one frame");
            black_box(&message);
        }
    })
}

fn payload(blocks: u16) -> Bytes {
    let len = usize::from(blocks) * BLOCK_BYTES as usize;
    let mut bytes = aligned_payload(len);
    bytes.resize(len, 0x5a);
    bytes.freeze()
}

fn crcs(payload: &Bytes) -> Vec<Crc> {
    payload.chunks_exact(BLOCK_BYTES as usize).map(Crc::of).collect()
}

fn io_request(blocks: u16) -> Message {
    let payload = payload(blocks);
    Message::IoRequest(IoRequest {
        op: OP,
        lowest_unanswered: OpNumber(990),
        pg: PG,
        epoch: Epoch(3),
        volume: VolumeId(1),
        attachment: AttachmentId(1),
        generation: Generation(1),
        stack_revision: StackRevision(1),
        chunk: CHUNK,
        offset: 0,
        len: u32::from(blocks) * BLOCK_BYTES,
        kind: IoKind::Write,
        crcs: crcs(&payload),
        payload,
    })
}

fn io_reply() -> Message {
    let payload = payload(1);
    let blocks = crcs(&payload).into_iter().map(Some).collect();
    Message::IoReply(IoReply { op: OP, status: IoStatus::Ok, epoch: Epoch(3), blocks, payload })
}

fn prepare() -> Message {
    let payload = payload(1);
    let range = BlockRange::new(BlockIndex(5), 1).expect("within the chunk");
    let write = WriteMeta {
        chunk: CHUNK,
        version: Version::new(Epoch(3), Seq(18)),
        prev: Version::new(Epoch(3), Seq(17)),
        op: OP,
        lowest_unanswered: OpNumber(990),
        volume: VolumeId(1),
        attachment: AttachmentId(1),
        generation: Generation(1),
        change: Change::Write { range, crcs: crcs(&payload) },
    };
    Message::Prepare(Prepare { pg: PG, epoch: Epoch(3), write, payload })
}

fn prepared() -> Message {
    let version = Version::new(Epoch(3), Seq(18));
    Message::Prepared(Prepared { pg: PG, epoch: Epoch(3), chunk: CHUNK, version, outcome: Outcome::Ok })
}

fn commit() -> Message {
    Message::Commit(Commit { pg: PG, epoch: Epoch(3), committed: vec![(CHUNK, Version::new(Epoch(3), Seq(18)))] })
}
