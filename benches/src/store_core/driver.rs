//! Drives a store as a replication core does: prepares, makes durable, commits.

use super::disk::Disk;
use super::{Counts, Shape};
use crate::error::BenchError;
use ashlar_osd_core::store::Store;
use ashlar_osd_core::store::api::{StoreConfig, StoreError, StoreEvent, StoreOp, Token};
use ashlar_osd_core::{Action, DiskResult, Honest, IoId, store::StoreStats};
use ashlar_types::{
    AttachmentId, BLOCK_BYTES, BLOCKS_PER_CHUNK, BlockIndex, BlockRange, ChunkId, ChunkIndex, ClusterId, Crc, Epoch,
    Generation, LayerId, OpId, OpNumber, OsdId, PgId, PoolId, SessionId, Version, VolumeId, aligned_payload,
};
use ashlar_wire::{Change, WriteMeta};
use bytes::Bytes;
use std::ops::Range;

/// Chunks belong to them in turns.
const PGS: u32 = 64;
const CHUNK_BLOCKS: u16 = BLOCKS_PER_CHUNK as u16;
/// Writes until a checkpoint comes; a store that has none in so many is not this one.
const WRITES_TO_CHECKPOINT_MAX: u64 = 100_000_000;

pub struct Driver {
    store: Store<Honest>,
    disk: Disk,
    done: Vec<(IoId, DiskResult)>,
    actions: Vec<Action>,
    events: Vec<StoreEvent>,
    last_token: u64,
    answered: u64,
    /// Newest, by the chunk.
    versions: Vec<Version>,
    /// Prepared and not committed.
    undecided: Vec<u32>,
    writes: u64,
    random: u64,
    payload: Bytes,
    crc: Crc,
}

fn chunk_id(chunk: u32) -> ChunkId {
    ChunkId { layer: LayerId(1), index: ChunkIndex(chunk) }
}

fn pg(chunk: u32) -> PgId {
    PgId { pool: PoolId(1), index: chunk % PGS }
}

fn range(first: u16, count: u16) -> BlockRange {
    BlockRange::new(BlockIndex(first), count).expect("within a chunk")
}

fn failed(error: &StoreError) -> BenchError {
    BenchError::Wrong(format!("the store has failed: {error}"))
}

impl Driver {
    /// A store with nothing in it.
    pub fn new(shape: &Shape) -> Result<Driver, BenchError> {
        let config = StoreConfig {
            cluster: ClusterId(0xa5),
            osd: OsdId(1),
            capacity: shape.capacity,
            log_bytes: shape.log_bytes,
            index_cache_bytes: shape.index_cache_bytes,
            volatile_cache: true,
            write_through: true,
        };
        let bytes = usize::from(CHUNK_BLOCKS) * BLOCK_BYTES as usize;
        let mut payload = aligned_payload(bytes);
        payload.resize(bytes, 0x5a);
        let payload = payload.freeze();
        let data_block = payload.slice(..BLOCK_BYTES as usize);
        let crc = Crc::of(&data_block);
        let mut disk = Disk::new(data_block, shape.log_bytes);
        for op in Store::<Honest>::format(&config).map_err(|error| failed(&error))? {
            disk.perform(op).map_err(|error| BenchError::Wrong(format!("the disk: {error}")))?;
        }
        let mut driver = Driver {
            store: Store::new(config),
            disk,
            done: Vec::new(),
            actions: Vec::new(),
            events: Vec::new(),
            last_token: 0,
            answered: 0,
            versions: Vec::new(),
            undecided: Vec::new(),
            writes: 0,
            random: 1,
            payload,
            crc,
        };
        driver.run()?;
        assert!(driver.store.is_mounted(), "nothing is under way any more");
        Ok(driver)
    }

    /// Writes whole chunks, those after the ones that there are.
    pub fn fill(&mut self, chunks: Range<u32>) -> Result<(), BenchError> {
        for chunk in chunks {
            self.versions.push(Version::NONE);
            self.prepare(chunk, range(0, CHUNK_BLOCKS));
            self.run()?;
            self.commit();
        }
        Ok(())
    }

    /// Writes so many single blocks at random, `depth` together.
    pub fn overwrite(&mut self, writes: u64, depth: u64) -> Result<(), BenchError> {
        for _ in 0..writes / depth {
            for _ in 0..depth {
                let random = self.random();
                let chunk = (random >> 32) % self.versions.len() as u64;
                self.prepare(chunk as u32, range(random as u16 % CHUNK_BLOCKS, 1));
            }
            self.run()?;
            self.commit();
            self.writes += depth;
        }
        Ok(())
    }

    /// Goes on until a checkpoint ends.
    pub fn overwrite_to_checkpoint(&mut self, depth: u64) -> Result<(), BenchError> {
        let (checkpoints, begin) = (self.store.stats().checkpoints, self.writes);
        while self.store.stats().checkpoints == checkpoints {
            if self.writes - begin > WRITES_TO_CHECKPOINT_MAX {
                return Err(BenchError::Wrong("the store makes no checkpoints".to_owned()));
            }
            self.overwrite(depth, depth)?;
        }
        Ok(())
    }

    pub fn counts(&self) -> Counts {
        let stats = self.store.stats();
        Counts {
            writes: self.writes,
            checkpoints: stats.checkpoints,
            index_pages: stats.index_pages_written,
            written: self.disk.written,
            read_bytes: self.disk.read_bytes,
        }
    }

    pub fn stats(&self) -> StoreStats {
        self.store.stats()
    }

    pub fn disk_memory(&self) -> u64 {
        self.disk.memory_bytes()
    }

    /// splitmix64 (Steele, Lea, Flood 2014).
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn prepare(&mut self, chunk: u32, range: BlockRange) {
        let prev = self.versions[chunk as usize];
        let version = prev.successor(Epoch(1)).expect("an epoch has numbers for more");
        self.versions[chunk as usize] = version;
        self.undecided.push(chunk);
        self.last_token += 1;
        let number = OpNumber(self.last_token);
        let blocks = usize::from(range.count());
        let write = WriteMeta {
            chunk: chunk_id(chunk),
            version,
            prev,
            op: OpId { session: SessionId(1), number },
            lowest_unanswered: OpNumber(self.answered + 1),
            volume: VolumeId(1),
            attachment: AttachmentId(1),
            generation: Generation(1),
            change: Change::Write { range, crcs: vec![self.crc; blocks] },
        };
        let payload = self.payload.slice(..blocks * BLOCK_BYTES as usize);
        self.store.submit(Token(self.last_token), StoreOp::Prepare { pg: pg(chunk), write, payload });
    }

    /// All that is prepared. The record waits for the next batch, as a primary lets it.
    fn commit(&mut self) {
        self.undecided.sort_unstable_by_key(|chunk| (chunk % PGS, *chunk));
        self.undecided.dedup();
        for chunks in self.undecided.chunk_by(|a, b| a % PGS == b % PGS) {
            let newest: Vec<_> =
                chunks.iter().map(|chunk| (chunk_id(*chunk), self.versions[*chunk as usize])).collect();
            self.store.commit(pg(chunks[0]), &newest);
        }
        self.undecided.clear();
    }

    /// Until nothing is under way and all is answered.
    fn run(&mut self) -> Result<(), BenchError> {
        loop {
            self.store.poll(&mut self.actions);
            self.store.take_events(&mut self.events);
            for event in self.events.drain(..) {
                match event {
                    StoreEvent::Mounted(report) => assert!(!report.damaged, "memory keeps what it was given"),
                    StoreEvent::Stored(_) => self.answered += 1,
                    StoreEvent::Read(..) | StoreEvent::MergeRefused(..) | StoreEvent::Wiped(_) => {}
                    StoreEvent::Failed(error) => return Err(failed(&error)),
                }
            }
            for action in self.actions.drain(..) {
                let Action::Disk(io, op) = action else { panic!("a store only asks for disk operations") };
                self.done.push((io, self.disk.perform(op)));
            }
            if self.done.is_empty() {
                break;
            }
            for (io, result) in self.done.drain(..) {
                self.store.on_disk(io, result);
            }
        }
        match self.answered == self.last_token {
            true => Ok(()),
            false => Err(BenchError::Wrong("the store has nothing under way and has not answered a write".to_owned())),
        }
    }
}
