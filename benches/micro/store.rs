//! The store of one disk, by its public interface: looking up, writing, and finding room.

use crate::benchmark::{Benchmark, Call};
use crate::memory_disk::MemoryDisk;
use crate::scatter::scattered;
use ashlar_osd_core::store::Store;
use ashlar_osd_core::store::api::{ReadKind, StoreConfig, StoreEvent, StoreOp, Token};
use ashlar_osd_core::{Action, DiskResult, Honest, IoId};
use ashlar_types::{
    AttachmentId, BLOCK_BYTES, BLOCKS_PER_CHUNK, BlockIndex, BlockRange, ChunkId, ChunkIndex, ClusterId, Crc, Epoch,
    Generation, LayerId, OpId, OpNumber, OsdId, PgId, PoolId, SessionId, Version, VolumeId, aligned_payload,
};
use ashlar_wire::{Change, WriteMeta};
use bytes::Bytes;
use std::collections::BTreeMap;

pub const BENCHMARKS: &[Benchmark] = &[
    // Where the state of a block is found: in its index page, beside that in what has changed since, or in that alone.
    Benchmark { name: "store/read/indexed", operations: 1, calls: 256, make: || reads(INDEXED) },
    Benchmark { name: "store/read/delta-over-index", operations: 1, calls: 256, make: || reads(CHANGED) },
    Benchmark { name: "store/read/delta", operations: 1, calls: 256, make: || reads(NEW) },
    // Prepared, made durable and committed: each alone, and 32 in one batch of the log.
    Benchmark { name: "store/write-4k/alone", operations: 1, calls: 256, make: || writes(Rig::new(), 1, 1) },
    Benchmark { name: "store/write-4k/32-together", operations: 32, calls: 16, make: || writes(Rig::new(), 32, 1) },
    Benchmark { name: "store/write-1m", operations: 1, calls: 16, make: || writes(Rig::new(), 1, 256) },
    // The same on a disk that is nine tenths full, whose free blocks lie one by one.
    Benchmark { name: "store/full/write-4k", operations: 1, calls: 256, make: || writes(Rig::full(), 1, 1) },
    Benchmark { name: "store/full/write-1m", operations: 1, calls: 8, make: || writes(Rig::full(), 1, 256) },
];

const PG: PgId = PgId { pool: PoolId(1), index: 0 };
const MIB: u64 = 1 << 20;
const CAPACITY: u64 = 64 * MIB;
const INDEXED: u32 = 0;
const CHANGED: u32 = 1;
const NEW: u32 = 2;
/// Written and zeroed, so that the store writes its index down.
const SCRAP: u32 = 3;
const CHUNK_BLOCKS: u64 = BLOCKS_PER_CHUNK as u64;
const WHOLE_CHUNK: u16 = BLOCKS_PER_CHUNK as u16;

/// A store and its disk, which never lets it wait.
struct Rig {
    store: Store<Honest>,
    disk: MemoryDisk,
    done: Vec<(IoId, DiskResult)>,
    actions: Vec<Action>,
    events: Vec<StoreEvent>,
    /// Operations that were answered.
    answers: u64,
    last_token: u64,
    /// Newest.
    versions: BTreeMap<ChunkId, Version>,
    /// Prepared and not committed.
    undecided: Vec<(ChunkId, Version)>,
    lowest_unanswered: OpNumber,
    payload: Bytes,
    crc: Crc,
}

fn chunk(index: u32) -> ChunkId {
    ChunkId { layer: LayerId(1), index: ChunkIndex(index) }
}

fn chunk_of(block: u64) -> u32 {
    u32::try_from(block / CHUNK_BLOCKS).expect("a few chunks")
}

fn range(first: u64, count: u16) -> BlockRange {
    let first = u16::try_from(first).expect("a place in a chunk");
    BlockRange::new(BlockIndex(first), count).expect("within the chunk")
}

impl Rig {
    /// Nothing on it.
    fn new() -> Rig {
        let config = StoreConfig {
            cluster: ClusterId(0xa5),
            osd: OsdId(1),
            capacity: CAPACITY,
            log_bytes: 4 * MIB,
            index_cache_bytes: 4 * MIB,
            volatile_cache: true,
            write_through: true,
        };
        let mut disk = MemoryDisk::new(CAPACITY);
        for op in Store::<Honest>::format(&config).expect("the configuration is good") {
            disk.perform(op).expect("memory does not fail");
        }
        let mut payload = aligned_payload(CHUNK_BLOCKS as usize * BLOCK_BYTES as usize);
        payload.resize(CHUNK_BLOCKS as usize * BLOCK_BYTES as usize, 0x5a);
        let payload = payload.freeze();
        let crc = Crc::of(&payload[..BLOCK_BYTES as usize]);
        let mut rig = Rig {
            store: Store::new(config),
            disk,
            done: Vec::new(),
            actions: Vec::new(),
            events: Vec::new(),
            answers: 0,
            last_token: 0,
            versions: BTreeMap::new(),
            undecided: Vec::new(),
            lowest_unanswered: OpNumber(1),
            payload,
            crc,
        };
        rig.run();
        assert!(rig.store.is_mounted());
        rig
    }

    /// Nine tenths full, and overwritten until every free block is where one was overwritten.
    fn full() -> Rig {
        const BLOCKS: u64 = 27 * CHUNK_BLOCKS / 2;
        let mut rig = Rig::new();
        for block in (0..BLOCKS).step_by(512) {
            rig.write(chunk_of(block), block % CHUNK_BLOCKS, 512);
        }
        let free = rig.store.space().total - rig.store.space().used;
        for batch in 0..3 * free / 32 {
            for nth in 0..32 {
                let block = scattered(batch * 32 + nth, BLOCKS);
                rig.prepare(chunk_of(block), range(block % CHUNK_BLOCKS, 1), false);
            }
            rig.run();
            rig.commit();
        }
        let space = rig.store.space();
        assert!((88..93).contains(&(space.used * 100 / space.total)), "nine tenths are used: {space:?}");
        rig
    }

    /// Three chunks to read: see `BENCHMARKS`.
    fn to_read() -> Rig {
        let mut rig = Rig::new();
        for index in [INDEXED, CHANGED, SCRAP] {
            rig.write(index, 0, WHOLE_CHUNK);
        }
        rig.prepare(SCRAP, range(0, WHOLE_CHUNK), true);
        rig.run();
        rig.commit();
        rig.store.settle();
        rig.run();
        // An OSD does so when it has nothing else to do (housekeeping.rs).
        rig.store.reclaim();
        rig.run();
        assert!(rig.store.stats().checkpoints > 0, "the index is on the disk");
        for nth in 0..CHUNK_BLOCKS / 8 {
            rig.write(CHANGED, scattered(nth, CHUNK_BLOCKS), 1);
        }
        rig.write(NEW, 0, WHOLE_CHUNK);
        rig
    }

    fn token(&mut self) -> Token {
        self.last_token += 1;
        Token(self.last_token)
    }

    fn prepare(&mut self, index: u32, range: BlockRange, zero: bool) {
        let chunk = chunk(index);
        let prev = self.versions.get(&chunk).copied().unwrap_or_default();
        let version = prev.successor(Epoch(1)).expect("not used up");
        let (change, payload) = if zero {
            (Change::Zero { range }, Bytes::new())
        } else {
            let crcs = vec![self.crc; usize::from(range.count())];
            let bytes = usize::from(range.count()) * BLOCK_BYTES as usize;
            (Change::Write { range, crcs }, self.payload.slice(..bytes))
        };
        self.versions.insert(chunk, version);
        match self.undecided.iter_mut().find(|(of, _)| *of == chunk) {
            Some((_, newest)) => *newest = version,
            None => self.undecided.push((chunk, version)),
        }
        let token = self.token();
        let write = WriteMeta {
            chunk,
            version,
            prev,
            op: OpId { session: SessionId(1), number: OpNumber(token.0) },
            lowest_unanswered: self.lowest_unanswered,
            volume: VolumeId(1),
            attachment: AttachmentId(1),
            generation: Generation(1),
            change,
        };
        self.store.submit(token, StoreOp::Prepare { pg: PG, write, payload });
    }

    /// All that is prepared, as a primary does: the record waits for the next batch.
    fn commit(&mut self) {
        self.store.commit(PG, &self.undecided);
        self.undecided.clear();
        self.lowest_unanswered = OpNumber(self.last_token + 1);
    }

    fn write(&mut self, index: u32, first: u64, count: u16) {
        self.prepare(index, range(first, count), false);
        self.run();
        self.commit();
    }

    /// Until nothing is under way.
    fn run(&mut self) {
        loop {
            self.store.poll(&mut self.actions);
            self.store.take_events(&mut self.events);
            for event in self.events.drain(..) {
                match event {
                    StoreEvent::Mounted(report) => assert!(!report.damaged, "memory keeps what it was given"),
                    StoreEvent::Stored(_) => self.answers += 1,
                    StoreEvent::Read(_, outcome) => {
                        assert!(outcome.bad.is_empty() && !outcome.data[0].is_empty(), "the block is there");
                        self.answers += 1;
                    }
                    StoreEvent::MergeRefused(..) | StoreEvent::Wiped(_) => panic!("nothing is merged or wiped here"),
                    StoreEvent::Failed(error) => panic!("nothing fails here, but the store says {error}"),
                }
            }
            for action in self.actions.drain(..) {
                let Action::Disk(io, op) = action else { panic!("a store only asks for disk operations") };
                self.done.push((io, self.disk.perform(op)));
            }
            if self.done.is_empty() {
                return;
            }
            for (io, result) in self.done.drain(..) {
                self.store.on_disk(io, result);
            }
        }
    }

    fn read(&mut self, index: u32, block: u64) {
        let token = self.token();
        self.store.read(token, PG, chunk(index), range(block, 1), ReadKind::Data);
        self.run();
    }

    /// Every operation so far was answered.
    fn assert_answered(&self) {
        assert!(self.answers == self.last_token, "{} of {} are answered", self.answers, self.last_token);
    }
}

fn reads(index: u32) -> Call {
    let mut rig = Rig::to_read();
    (0..CHUNK_BLOCKS).step_by(256).for_each(|block| rig.read(index, block));
    let mut nth = 0;
    Box::new(move || {
        nth += 1;
        rig.read(index, scattered(nth, CHUNK_BLOCKS));
        rig.assert_answered();
    })
}

/// So many writes of so many blocks with one poll, over and over in one chunk.
fn writes(mut rig: Rig, together: u64, blocks: u16) -> Call {
    let places = CHUNK_BLOCKS / u64::from(blocks);
    let mut nth = 0;
    let mut turn = move || {
        for _ in 0..together {
            nth += 1;
            let first = scattered(nth, places) * u64::from(blocks);
            rig.prepare(0, range(first, blocks), false);
        }
        rig.run();
        rig.commit();
        rig.assert_answered();
    };
    // Over everything once, so that each write that is measured replaces one.
    (0..places.div_ceil(together)).for_each(|_| turn());
    Box::new(turn)
}
