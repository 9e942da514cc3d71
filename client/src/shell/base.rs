//! The disks that linked clones stand on: frozen layers of other volumes, read by all clones of a process through one session and one cache.
//!
//! D1: what is cached never changes, so it is never dropped but for room: a layer's id is never used again, and what a frozen layer and those below it
//! have of a block together stays the same. D2: a block is asked for once at a time, however many wait for it.
//! D3: what lies deeper in a chain of clones, by the presence maps (X1 to X6 in core/presence.rs), is asked of the disk that has it; that one keeps it,
//! so the cache has it once. The first read of a chunk goes from disk to disk, and the maps of all disks of the chain are asked for beside it (X7); what
//! comes to a disk whose map is on its way waits for that, which has no longer way than the data, and is led on from there. D4: of a base
//! that stands on nothing nobody waits for the map, and none is asked for unless other bases stand on it: it would save only reads of zeroes.

mod cache;
mod route;

use self::cache::BlockCache;
use self::route::Route;
use super::cluster::{Cluster, wrong_answer};
use super::engine::Command;
use super::presence::{Map, Maps};
use super::volume::{OpenError, Volume, random};
use crate::core::{Ahead, ClientLimits, Level, Place, Presence, StackState, zeroes};
use ashlar_types::control::{AttachGrant, BaseLayer, ControlReply, ControlRequest};
use ashlar_types::{
    BLOCK_BYTES, BLOCKS_PER_CHUNK, BlockDevice, BlockError, BlockOp, BlockReply, BlockRequest, CHUNK_BYTES,
    Completions, DiskName, LayerId, SessionId, VolumeId,
};
use ashlar_wire_control::ControlClientError;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::mpsc::WeakUnboundedSender;

const BLOCK: u64 = BLOCK_BYTES as u64;
const IN_CHUNK: u64 = BLOCKS_PER_CHUNK as u64;

/// The bases in use in this process.
#[derive(Debug)]
pub(super) struct Bases {
    cluster: Cluster,
    limits: ClientLimits,
    cache: Arc<BlockCache>,
    maps: Arc<Maps>,
    /// Held while one is opened, so that two clones don't open the same one.
    open: tokio::sync::Mutex<BTreeMap<(VolumeId, LayerId), Weak<BaseDisk>>>,
}

impl Bases {
    /// `cache_bytes` is what the blocks of all of them may take.
    pub(super) fn new(cluster: Cluster, limits: ClientLimits, cache_bytes: u64) -> Bases {
        let cache = Arc::new(BlockCache::new(cache_bytes));
        Bases { cluster, limits, cache, maps: Arc::default(), open: tokio::sync::Mutex::default() }
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
            let volume = Volume::start_base(&self.cluster, grant, self.limits, below.clone(), base);
            let disk = Arc::new_cyclic(|me| BaseDisk {
                me: me.clone(),
                layer: base.layer,
                size: base.size,
                volume,
                below,
                cache: self.cache.clone(),
                maps: self.maps.clone(),
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

/// Where an answer goes.
#[derive(Clone, Debug)]
pub(super) enum ReplyTo {
    /// To the engine of a clone.
    Clone { key: u64, engine: WeakUnboundedSender<Command> },
    /// To a disk higher in the chain, which has found that this one has what it lacks.
    Above { tag: u64, disk: Weak<BaseDisk> },
}

impl ReplyTo {
    fn reply(&self, result: Result<BlockReply, BlockError>) {
        match self {
            ReplyTo::Clone { key, engine } => {
                // A clone that was closed meanwhile needs no answer.
                if let Some(engine) = engine.upgrade() {
                    let _ = engine.send(Command::BaseRead { key: *key, result });
                }
            }
            ReplyTo::Above { tag, disk } => {
                if let Some(disk) = disk.upgrade() {
                    disk.complete(*tag, result);
                }
            }
        }
    }
}

/// One base, for all its clones in this process.
#[derive(Debug)]
pub(super) struct BaseDisk {
    me: Weak<BaseDisk>,
    layer: LayerId,
    /// Bytes.
    size: u64,
    volume: Arc<Volume>,
    /// What it stood on when it was opened.
    below: Option<Arc<BaseDisk>>,
    cache: Arc<BlockCache>,
    maps: Arc<Maps>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    reads: BTreeMap<u64, Read>,
    /// Blocks that are on their way, and the reads that wait for each (D2).
    coming: BTreeMap<u64, Vec<u64>>,
    asked: BTreeMap<u64, Asked>,
    /// Chunks whose maps are on their way, and what waits for each (D3).
    mapping: BTreeMap<u64, Vec<Run>>,
    ahead: Ahead,
}

/// Neighbouring blocks.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u64,
    count: u64,
}

/// What was asked.
#[derive(Debug)]
enum Asked {
    /// The volume, so many blocks from there.
    Blocks(Run),
    /// The same of a disk deeper in the chain.
    Deeper(Run),
    /// The volume, extents that somebody wants.
    Extents(ReplyTo),
    /// The volume, for the map of a chunk, when it had this stack.
    Map { chunk: u64, stack: StackState },
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

    /// As the map of a chunk says.
    fn level<'a>(&self, map: Option<&'a Map>) -> Level<'a> {
        let below = self.below.as_ref().filter(|_| map.is_some_and(|map| map.stack.has_base));
        Level { presence: map.map(|map| &map.presence), below: below.map(|below| below.size) }
    }

    /// Takes what a clone's core asks of its base; the answer goes to its engine.
    pub(super) fn submit(self: &Arc<BaseDisk>, op: BlockOp, to: ReplyTo) {
        match op {
            BlockOp::Read { offset, len } => self.read(offset, len, to),
            op => {
                let tag = self.lock().tag(Asked::Extents(to));
                self.ask(tag, op);
            }
        }
    }

    fn read(self: &Arc<BaseDisk>, offset: u64, len: u32, to: ReplyTo) {
        let (first, end) = (offset / BLOCK, (offset + u64::from(len)).div_ceil(BLOCK));
        let route = Route::new(self, first / IN_CHUNK);
        let places = route.places(first, end);
        let at_once = |(block, place): (u64, &Place)| match *place {
            Place::Zeroes => Some(zeroes(BLOCK_BYTES)),
            Place::Level(level) => self.cache.get(route.disk(level).layer, block),
        };
        let blocks: Vec<Option<Bytes>> = (first..end).zip(&places).map(at_once).collect();
        let missing = blocks.iter().filter(|block| block.is_none()).count();
        let mut read = Read { offset, len, first, blocks, missing, error: None, to };
        if missing == 0 {
            return read.finish();
        }
        let mut state = self.lock();
        let id = state.key();
        let mut runs: Vec<(usize, Run)> = Vec::new();
        for ((block, slot), place) in (first..end).zip(&mut read.blocks).zip(&places) {
            let Place::Level(level) = *place else { continue };
            if slot.is_some() {
                continue;
            }
            if let Some(waiting) = state.coming.get_mut(&block) {
                waiting.push(id);
                continue;
            }
            state.coming.insert(block, vec![id]);
            add_to(&mut runs, level, block);
        }
        state.reads.insert(id, read);
        drop(state);
        self.ask_for(&route, runs);
    }

    /// Asks for blocks that are marked as coming, where the route of their chunk leads.
    fn ask_for(&self, route: &Route<'_>, runs: Vec<(usize, Run)>) {
        let mut state = self.lock();
        let mut asked = Vec::with_capacity(runs.len());
        let mut is_known = true;
        for (level, run) in runs {
            is_known &= level + 1 < route.disks.len();
            // D3: soon it will be known who has it.
            if level == 0
                && route.is_open()
                && let Some(waiting) = state.mapping.get_mut(&route.chunk)
            {
                waiting.push(run);
                continue;
            }
            let tag = state.tag(if level == 0 { Asked::Blocks(run) } else { Asked::Deeper(run) });
            asked.push((level, tag, run));
        }
        drop(state);
        for (level, tag, run) in asked {
            let op = run.op(self.size);
            match level {
                0 => self.ask(tag, op),
                _ => route.disk(level).submit(op, ReplyTo::Above { tag, disk: self.me.clone() }),
            }
        }
        if !is_known {
            route.ask_for_maps();
        }
    }

    /// Of a chunk, in this disk and all those below it. Whether that of this one was neither known nor on its way.
    fn ask_for_maps(&self, chunk: u64) -> bool {
        let is_news = self.ask_for_map(chunk);
        let mut next = self.below.as_ref().filter(|_| is_news && self.volume.stack().has_base);
        while let Some(disk) = next {
            disk.ask_for_map(chunk);
            next = disk.below.as_ref().filter(|_| disk.volume.stack().has_base);
        }
        is_news
    }

    fn ask_for_map(&self, chunk: u64) -> bool {
        let (at, stack) = (chunk * u64::from(CHUNK_BYTES), self.volume.stack());
        let len = self.size.saturating_sub(at).min(CHUNK_BYTES.into());
        if len == 0 || self.maps.get(self.layer, chunk, stack).is_some() {
            return false;
        }
        let mut state = self.lock();
        if state.mapping.contains_key(&chunk) {
            return false;
        }
        state.mapping.insert(chunk, Vec::new());
        let tag = state.tag(Asked::Map { chunk, stack });
        drop(state);
        self.ask(tag, BlockOp::Layers { offset: at, len, with_base: false });
        true
    }

    fn on_map(&self, chunk: u64, stack: StackState, result: Result<BlockReply, BlockError>) {
        let presence = match result {
            Ok(BlockReply::Layers(extents)) => Some(Presence::told(&extents)),
            // The session ends: it will be asked for by another one.
            Err(BlockError::Fenced | BlockError::ShuttingDown) => None,
            // X1: then all of it is asked in the ordinary way. Not to be tried with each read.
            _ => Some(Presence::All),
        };
        // X2: if it isn't, which stack the answer is of is not known.
        if let Some(presence) = presence.filter(|_| self.volume.stack() == stack) {
            self.maps.put(self.layer, chunk, Map { stack, presence });
        }
        let mut state = self.lock();
        let waiting = state.mapping.remove(&chunk).unwrap_or_default();
        drop(state);
        if let Some(me) = self.me.upgrade().filter(|_| !waiting.is_empty()) {
            me.go_on(chunk, &waiting);
        }
    }

    /// Asks for what has waited for the map of its chunk.
    fn go_on(self: &Arc<BaseDisk>, chunk: u64, waiting: &[Run]) {
        let route = Route::new(self, chunk);
        let (mut runs, mut done) = (Vec::new(), Vec::new());
        let mut state = self.lock();
        for Run { first, count } in waiting {
            for (block, place) in (*first..).zip(route.places(*first, first + count)) {
                match place {
                    Place::Zeroes => state.arrive(block, &Ok(zeroes(BLOCK_BYTES)), &mut done),
                    Place::Level(level) => add_to(&mut runs, level, block),
                }
            }
        }
        drop(state);
        done.into_iter().for_each(Read::finish);
        self.ask_for(&route, runs);
    }

    fn ask(&self, tag: u64, op: BlockOp) {
        // Nobody has it any more: then nobody waits for the answer.
        let Some(me) = self.me.upgrade() else { return };
        let completions: Arc<dyn Completions> = me;
        self.volume.submit(BlockRequest { tag, op }, &completions);
    }
}

impl State {
    fn key(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn tag(&mut self, asked: Asked) -> u64 {
        let tag = self.key();
        self.asked.insert(tag, asked);
        tag
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

impl Run {
    fn op(self, size: u64) -> BlockOp {
        let offset = self.first * BLOCK;
        let len = (self.count * BLOCK).min(size.saturating_sub(offset));
        BlockOp::Read { offset, len: u32::try_from(len).expect("of one part of one request") }
    }
}

fn add_to(runs: &mut Vec<(usize, Run)>, level: usize, block: u64) {
    match runs.last_mut() {
        Some((of, run)) if *of == level && run.first + run.count == block => run.count += 1,
        _ => runs.push((level, Run { first: block, count: 1 })),
    }
}

impl Completions for BaseDisk {
    fn complete(&self, tag: u64, result: Result<BlockReply, BlockError>) {
        let mut state = self.lock();
        let (Run { first, count }, is_own) = match state.asked.remove(&tag) {
            None => return,
            Some(Asked::Extents(to)) => {
                drop(state);
                return to.reply(result);
            }
            Some(Asked::Map { chunk, stack }) => {
                drop(state);
                return self.on_map(chunk, stack, result);
            }
            // X4: the blocks are still coming, by another way.
            Some(Asked::Deeper(run)) if matches!(result, Err(BlockError::Fenced)) => {
                let tag = state.tag(Asked::Blocks(run));
                drop(state);
                self.maps.forget(self.layer, run.first / IN_CHUNK);
                return self.ask(tag, run.op(self.size));
            }
            Some(Asked::Deeper(run)) => (run, false),
            Some(Asked::Blocks(run)) => (run, true),
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
            // D3: a disk that lies deeper keeps what it has itself.
            if let Ok(data) = data
                && is_own
            {
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
}
