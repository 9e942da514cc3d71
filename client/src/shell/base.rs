//! The disks that linked clones stand on: frozen layers of other volumes, read by all clones of a process through one session and one cache.
//!
//! D1: what is cached never changes, so it is never dropped but for room: a layer's id is never used again, and what a frozen layer and those below it
//! have of a block together stays the same. D2: a block is asked for once at a time, however many wait for it.

use super::cluster::{Cluster, wrong_answer};
use super::engine::Command;
use super::volume::{OpenError, Volume, random};
use crate::core::{ClientLimits, is_zeroes};
use ashlar_types::control::{AttachGrant, BaseLayer, ControlReply, ControlRequest};
use ashlar_types::{
    BLOCK_BYTES, BlockDevice, BlockError, BlockOp, BlockReply, BlockRequest, Completions, DiskName, LayerId, SessionId,
    VolumeId,
};
use ashlar_wire_control::ControlClientError;
use bytes::{Bytes, BytesMut};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::mpsc::WeakUnboundedSender;

/// What an entry takes beside its data, as far as it can be known.
const ENTRY_BYTES: u64 = 96;
const BLOCK: u64 = BLOCK_BYTES as u64;

type BlockKey = (LayerId, u64);

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<BlockKey, Bytes> for Weight {
    fn weight(&self, _: &BlockKey, block: &Bytes) -> u64 {
        // Zeroes are one page for all.
        ENTRY_BYTES + if is_zeroes(block) { 0 } else { block.len() as u64 }
    }
}

/// Blocks of frozen layers, by layer and place in the volume; the same for all exports of a process.
#[derive(Debug)]
struct BlockCache {
    blocks: Cache<BlockKey, Bytes, Weight>,
}

impl BlockCache {
    fn new(bytes: u64) -> BlockCache {
        let blocks = usize::try_from(bytes / (BLOCK + ENTRY_BYTES)).unwrap_or(usize::MAX);
        BlockCache { blocks: Cache::with_weighter(blocks, bytes, Weight) }
    }

    fn get(&self, layer: LayerId, block: u64) -> Option<Bytes> {
        self.blocks.get(&(layer, block))
    }

    /// Keeps a copy: a slice of an answer would hold all of it.
    fn put(&self, layer: LayerId, block: u64, data: &Bytes) {
        let kept = if is_zeroes(data) { data.clone() } else { Bytes::copy_from_slice(data) };
        self.blocks.insert((layer, block), kept);
    }
}

/// The bases in use in this process.
#[derive(Debug)]
pub(super) struct Bases {
    cluster: Cluster,
    limits: ClientLimits,
    cache: Arc<BlockCache>,
    /// Held while one is opened, so that two clones don't open the same one.
    open: tokio::sync::Mutex<BTreeMap<(VolumeId, LayerId), Weak<BaseDisk>>>,
}

impl Bases {
    /// `cache_bytes` is what the blocks of all of them may take.
    pub(super) fn new(cluster: Cluster, limits: ClientLimits, cache_bytes: u64) -> Bases {
        let cache = Arc::new(BlockCache::new(cache_bytes));
        Bases { cluster, limits, cache, open: tokio::sync::Mutex::default() }
    }

    /// What a granted volume stands on, and what that stands on itself, ready to be read.
    pub(super) async fn under(&self, grant: &AttachGrant) -> Result<Option<Arc<BaseDisk>>, OpenError> {
        let Some(base) = grant.base else { return Ok(None) };
        let mut open = self.open.lock().await;
        open.retain(|_, disk| disk.strong_count() > 0);
        self.open(base, &grant.name, &mut open).await.map(Some)
    }

    /// Calls itself for what the base stands on; the metadata service bounds how deep that goes.
    fn open<'a>(
        &'a self,
        base: BaseLayer,
        clone: &'a DiskName,
        open: &'a mut BTreeMap<(VolumeId, LayerId), Weak<BaseDisk>>,
    ) -> Pin<Box<dyn Future<Output = Result<Arc<BaseDisk>, OpenError>> + Send + 'a>> {
        Box::pin(async move {
            let key = (base.volume, base.layer);
            // One of which all clones had gone is over, though there may be new ones now.
            if let Some(disk) = open.get(&key).and_then(Weak::upgrade).filter(|disk| !disk.volume.is_fenced()) {
                return Ok(disk);
            }
            let named = |source| OpenError::Control { name: clone.clone(), source };
            let grant = request_base(&self.cluster, base).await.map_err(named)?;
            let below = match grant.base {
                Some(below) => Some(self.open(below, clone, open).await?),
                None => None,
            };
            let grant = AttachGrant { session: SessionId::drawn(random()), ..grant };
            let volume = Volume::start_base(&self.cluster, grant, self.limits, below, base);
            let disk = Arc::new(BaseDisk {
                layer: base.layer,
                size: base.size,
                volume,
                cache: self.cache.clone(),
                state: Mutex::default(),
            });
            open.insert(key, Arc::downgrade(&disk));
            Ok(disk)
        })
    }
}

/// Asks for the layers of a base as they are now.
pub(super) async fn request_base(cluster: &Cluster, base: BaseLayer) -> Result<AttachGrant, ControlClientError> {
    let BaseLayer { volume, layer, .. } = base;
    match cluster.control().request(ControlRequest::BaseGrant { volume, layer }).await? {
        ControlReply::Opened(grant) if !grant.layers.is_empty() => Ok(grant),
        _ => Err(wrong_answer("a grant")),
    }
}

/// Where the answer for a clone goes.
#[derive(Clone, Debug)]
pub(super) struct ReplyTo {
    pub(super) key: u64,
    pub(super) engine: WeakUnboundedSender<Command>,
}

impl ReplyTo {
    fn reply(&self, result: Result<BlockReply, BlockError>) {
        // A clone that was closed meanwhile needs no answer.
        if let Some(engine) = self.engine.upgrade() {
            let _ = engine.send(Command::BaseRead { key: self.key, result });
        }
    }
}

/// One base, for all its clones in this process.
#[derive(Debug)]
pub(super) struct BaseDisk {
    layer: LayerId,
    /// Bytes.
    size: u64,
    volume: Arc<Volume>,
    cache: Arc<BlockCache>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    reads: BTreeMap<u64, Read>,
    /// Blocks that are on their way, and the reads that wait for each (D2).
    coming: BTreeMap<u64, Vec<u64>>,
    /// What was asked of the volume: so many blocks from there; or the extents that somebody wants.
    asked: BTreeMap<u64, Asked>,
}

#[derive(Debug)]
enum Asked {
    Blocks { first: u64, count: u64 },
    Extents(ReplyTo),
}

#[derive(Debug)]
struct Read {
    offset: u64,
    len: u32,
    first: u64,
    blocks: Vec<Option<Bytes>>,
    missing: usize,
    error: Option<BlockError>,
    to: ReplyTo,
}

impl Read {
    fn finish(self) {
        if let Some(error) = self.error {
            return self.to.reply(Err(error));
        }
        let mut pieces = Vec::with_capacity(self.blocks.len());
        for (at, block) in (self.first..).zip(self.blocks.into_iter().flatten()) {
            let start = self.offset.saturating_sub(at * BLOCK);
            let end = (self.offset + u64::from(self.len) - at * BLOCK).min(block.len() as u64);
            pieces.push(block.slice(start as usize..end as usize));
        }
        self.to.reply(Ok(BlockReply::Data(pieces)));
    }
}

impl BaseDisk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a clone's core asks of its base; the answer goes to its engine.
    pub(super) fn submit(self: &Arc<BaseDisk>, op: BlockOp, to: ReplyTo) {
        match op {
            BlockOp::Read { offset, len } => self.read(offset, len, to),
            op => {
                let mut state = self.lock();
                let tag = state.key();
                state.asked.insert(tag, Asked::Extents(to));
                drop(state);
                self.ask(tag, op);
            }
        }
    }

    fn read(self: &Arc<BaseDisk>, offset: u64, len: u32, to: ReplyTo) {
        let (first, end) = (offset / BLOCK, (offset + u64::from(len)).div_ceil(BLOCK));
        let blocks: Vec<Option<Bytes>> = (first..end).map(|block| self.cache.get(self.layer, block)).collect();
        let missing = blocks.iter().filter(|block| block.is_none()).count();
        let mut read = Read { offset, len, first, blocks, missing, error: None, to };
        if missing == 0 {
            return read.finish();
        }
        let mut state = self.lock();
        let id = state.key();
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (block, slot) in (first..end).zip(&mut read.blocks) {
            if slot.is_some() {
                continue;
            }
            if let Some(waiting) = state.coming.get_mut(&block) {
                waiting.push(id);
                continue;
            }
            state.coming.insert(block, vec![id]);
            match runs.last_mut() {
                Some((first, count)) if *first + *count == block => *count += 1,
                _ => runs.push((block, 1)),
            }
        }
        state.reads.insert(id, read);
        let asked: Vec<(u64, BlockOp)> =
            runs.into_iter().map(|(first, count)| state.blocks(first, count, self.size)).collect();
        drop(state);
        for (tag, op) in asked {
            self.ask(tag, op);
        }
    }

    fn ask(self: &Arc<BaseDisk>, tag: u64, op: BlockOp) {
        let completions: Arc<dyn Completions> = self.clone();
        self.volume.submit(BlockRequest { tag, op }, &completions);
    }
}

impl State {
    fn key(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn blocks(&mut self, first: u64, count: u64, size: u64) -> (u64, BlockOp) {
        let tag = self.key();
        self.asked.insert(tag, Asked::Blocks { first, count });
        let len = (count * BLOCK).min(size.saturating_sub(first * BLOCK));
        (tag, BlockOp::Read { offset: first * BLOCK, len: u32::try_from(len).expect("of one part of one request") })
    }

    /// Gives a block, or the error instead of it, to who waits for it, and takes out those that are complete.
    fn arrive(&mut self, block: u64, data: &Result<Bytes, BlockError>, done: &mut Vec<Read>) {
        for id in self.coming.remove(&block).unwrap_or_default() {
            let Some(read) = self.reads.get_mut(&id) else { continue };
            match data {
                Ok(data) => read.blocks[(block - read.first) as usize] = Some(data.clone()),
                Err(error) => read.error = Some(error.clone()),
            }
            read.missing -= 1;
            if read.missing == 0 {
                done.extend(self.reads.remove(&id));
            }
        }
    }
}

impl Completions for BaseDisk {
    fn complete(&self, tag: u64, result: Result<BlockReply, BlockError>) {
        let mut state = self.lock();
        let (first, count) = match state.asked.remove(&tag) {
            None => return,
            Some(Asked::Extents(to)) => {
                drop(state);
                return to.reply(result);
            }
            Some(Asked::Blocks { first, count }) => (first, count),
        };
        let mut blocks: Vec<Result<Bytes, BlockError>> = match result {
            Ok(BlockReply::Data(pieces)) => into_blocks(pieces).into_iter().map(Ok).collect(),
            Ok(_) => Vec::new(),
            Err(error) => vec![Err(error); count as usize],
        };
        // Whoever waits hears of each block.
        let short = BlockError::Medium { detail: "what the clone stands on gave less than was asked for".to_owned() };
        blocks.resize(count as usize, Err(short));
        let mut done = Vec::new();
        for (block, data) in (first..).zip(&blocks) {
            if let Ok(data) = data {
                self.cache.put(self.layer, block, data);
            }
            state.arrive(block, data, &mut done);
        }
        drop(state);
        done.into_iter().for_each(Read::finish);
    }
}

/// Pieces of any length as blocks; the last one may be shorter, at the end of the base.
fn into_blocks(pieces: Vec<Bytes>) -> Vec<Bytes> {
    let mut blocks = Vec::new();
    let mut begun = BytesMut::new();
    for mut piece in pieces {
        while !piece.is_empty() {
            if begun.is_empty() && piece.len() >= BLOCK_BYTES as usize {
                blocks.push(piece.split_to(BLOCK_BYTES as usize));
                continue;
            }
            let take = piece.len().min(BLOCK_BYTES as usize - begun.len());
            begun.extend_from_slice(&piece.split_to(take));
            if begun.len() == BLOCK_BYTES as usize {
                blocks.push(begun.split().freeze());
            }
        }
    }
    if !begun.is_empty() {
        blocks.push(begun.freeze());
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_length_become_blocks() {
        let data: Vec<u8> = (0..10_000u32).map(|i| (i / 7) as u8).collect();
        for cuts in [vec![], vec![1], vec![4096], vec![100, 5000, 8192], vec![4095, 4097, 9999]] {
            let ends = cuts.iter().copied().chain([data.len()]);
            let starts = std::iter::once(0).chain(cuts.iter().copied());
            let pieces = starts.zip(ends).map(|(start, end)| Bytes::copy_from_slice(&data[start..end])).collect();
            let blocks = into_blocks(pieces);
            assert_eq!(blocks.iter().map(Bytes::len).collect::<Vec<_>>(), [4096, 4096, 1808], "{cuts:?}");
            assert_eq!(blocks.concat(), data);
        }
    }

    #[test]
    fn the_cache_keeps_within_its_bytes_and_zeroes_cost_nearly_nothing() {
        let cache = BlockCache::new(100 * (BLOCK + ENTRY_BYTES));
        let zero = crate::core::zeroes(BLOCK_BYTES);
        (0..1000).for_each(|block| cache.put(LayerId(1), block, &zero));
        assert!((0..1000).all(|block| cache.get(LayerId(1), block).is_some()));
        let data = Bytes::from(vec![1; BLOCK_BYTES as usize]);
        (0..1000).for_each(|block| cache.put(LayerId(2), block, &data));
        assert!(cache.blocks.weight() <= 100 * (BLOCK + ENTRY_BYTES));
        assert!((0..1000).any(|block| cache.get(LayerId(2), block).is_some()));
    }
}
