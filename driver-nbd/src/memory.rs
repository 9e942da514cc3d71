//! A disk in memory, for tests of front ends. It tells its story honestly: what is zero is known, what was discarded has no
//! space, completions may come late, out of order and from another thread, and it can be made to fail.

use ashlar_types::{
    BlockDevice, BlockError, BlockOp, BlockReply, BlockRequest, Completions, DeviceInfo, Extent, LayerExtent, LayerId,
    LayerPlace,
};
use bytes::{Bytes, BytesMut};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

const BLOCK: usize = 4096;

/// When a request that has taken effect is completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completing {
    /// Before `submit` returns.
    AtOnce,
    /// By another thread, which takes all that wait in an order of this seed's.
    Later { seed: u64 },
    /// By [`MemoryDevice::release`].
    WhenReleased,
}

#[derive(Clone, Debug)]
enum Block {
    Hole,
    /// Zeroes with space of their own.
    Zero,
    Data(Box<[u8]>),
}

type Completion = (Arc<dyn Completions>, u64, Result<BlockReply, BlockError>);

pub struct MemoryDevice {
    state: Mutex<State>,
    read_only: bool,
    completing: Completing,
    later: Option<std::sync::mpsc::Sender<Completion>>,
}

#[derive(Default)]
struct State {
    size: u64,
    blocks: Vec<Block>,
    waiting: Vec<Completion>,
    failing: Option<BlockError>,
    submitted: Vec<&'static str>,
}

impl fmt::Debug for MemoryDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDevice").field("info", &self.info()).finish_non_exhaustive()
    }
}

impl MemoryDevice {
    pub fn new(size: u64, read_only: bool, completing: Completing) -> Arc<MemoryDevice> {
        let later = match completing {
            Completing::Later { seed } => Some(completer(seed)),
            _ => None,
        };
        let device = MemoryDevice { state: Mutex::default(), read_only, completing, later };
        device.resize(size);
        Arc::new(device)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    pub fn resize(&self, size: u64) {
        let mut state = self.state();
        state.size = size;
        let blocks = usize::try_from(size.div_ceil(BLOCK as u64)).expect("a test's device");
        state.blocks.resize(blocks, Block::Hole);
    }

    /// Completes what waits ([`Completing::WhenReleased`]); returns how much that was.
    pub fn release(&self) -> usize {
        let waiting = std::mem::take(&mut self.state().waiting);
        let count = waiting.len();
        for (completions, tag, result) in waiting {
            completions.complete(tag, result);
        }
        count
    }

    pub fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    /// From now on each request fails so; `None` mends it.
    pub fn fail_with(&self, error: Option<BlockError>) {
        self.state().failing = error;
    }

    /// The kinds of requests that arrived since this was last asked.
    pub fn submitted(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.state().submitted)
    }

    pub fn contents(&self, offset: u64, len: usize) -> Vec<u8> {
        self.state().read(offset, len).to_vec()
    }
}

/// The thread behind [`Completing::Later`]; ends with the device.
fn completer(mut seed: u64) -> std::sync::mpsc::Sender<Completion> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut waiting: Vec<Completion> = Vec::new();
        while let Ok(first) = receiver.recv() {
            waiting.push(first);
            waiting.extend(receiver.try_iter());
            while !waiting.is_empty() {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (completions, tag, result) = waiting.swap_remove((seed >> 33) as usize % waiting.len());
                completions.complete(tag, result);
            }
        }
    });
    sender
}

impl State {
    fn run(&mut self, op: BlockOp, read_only: bool) -> Result<BlockReply, BlockError> {
        let (kind, offset, len, writes) = match &op {
            BlockOp::Read { offset, len } => ("read", *offset, u64::from(*len), false),
            BlockOp::Write { offset, data } => ("write", *offset, data.len() as u64, true),
            BlockOp::Fill { offset, data } => ("fill", *offset, data.len() as u64, true),
            BlockOp::Flush => ("flush", 0, 0, false),
            BlockOp::Discard { offset, len } => ("discard", *offset, *len, true),
            BlockOp::WriteZeroes { offset, len, keep_allocated: false } => ("zeroes", *offset, *len, true),
            BlockOp::WriteZeroes { offset, len, .. } => ("zeroes kept", *offset, *len, true),
            BlockOp::Extents { offset, len } => ("extents", *offset, *len, false),
            BlockOp::Layers { offset, len, .. } => ("layers", *offset, *len, false),
        };
        if self.submitted.len() < 4096 {
            self.submitted.push(kind);
        }
        if let Some(error) = &self.failing {
            return Err(error.clone());
        }
        if read_only && writes {
            return Err(BlockError::ReadOnly);
        }
        if offset.checked_add(len).is_none_or(|end| end > self.size) {
            return Err(BlockError::OutOfRange);
        }
        match op {
            BlockOp::Read { offset, len } => return Ok(BlockReply::Data(vec![self.read(offset, len as usize)])),
            BlockOp::Write { offset, data } => self.write(offset, &data),
            BlockOp::Fill { offset, data } => {
                let mut pieces = State::pieces(offset, data.len() as u64);
                if !pieces.all(|(index, _)| matches!(self.blocks[index], Block::Hole)) {
                    return Err(BlockError::Written);
                }
                self.write(offset, &data);
            }
            BlockOp::Flush => {}
            BlockOp::Discard { offset, len } => self.zero(offset, len, &Block::Hole),
            BlockOp::WriteZeroes { offset, len, keep_allocated } => {
                self.zero(offset, len, if keep_allocated { &Block::Zero } else { &Block::Hole });
            }
            BlockOp::Extents { offset, len } => return Ok(BlockReply::Extents(self.extents(offset, len))),
            BlockOp::Layers { offset, len, .. } => return Ok(BlockReply::Layers(self.layers(offset, len))),
        }
        Ok(BlockReply::Done)
    }

    /// The pieces of a range, block by block: index, and where in it.
    fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
        let end = offset + len;
        let mut at = offset;
        std::iter::from_fn(move || {
            let within = (at % BLOCK as u64) as usize;
            let take = (BLOCK - within).min(usize::try_from(end - at).ok()?);
            let piece = (usize::try_from(at / BLOCK as u64).ok()?, within..within + take);
            at += take as u64;
            (take > 0).then_some(piece)
        })
    }

    fn read(&self, offset: u64, len: usize) -> Bytes {
        let mut data = BytesMut::with_capacity(len);
        for (index, range) in State::pieces(offset, len as u64) {
            match &self.blocks[index] {
                Block::Data(bytes) => data.extend_from_slice(&bytes[range]),
                _ => data.resize(data.len() + range.len(), 0),
            }
        }
        data.freeze()
    }

    fn write(&mut self, offset: u64, mut data: &[u8]) {
        for (index, range) in State::pieces(offset, data.len() as u64) {
            let (now, rest) = data.split_at(range.len());
            self.data(index)[range].copy_from_slice(now);
            data = rest;
        }
    }

    fn zero(&mut self, offset: u64, len: u64, whole: &Block) {
        for (index, range) in State::pieces(offset, len) {
            if range.len() == BLOCK {
                self.blocks[index] = whole.clone();
            } else if matches!(self.blocks[index], Block::Data(_)) || matches!(whole, Block::Zero) {
                self.data(index)[range].fill(0);
            }
        }
    }

    fn data(&mut self, index: usize) -> &mut [u8] {
        if !matches!(self.blocks[index], Block::Data(_)) {
            self.blocks[index] = Block::Data(vec![0; BLOCK].into_boxed_slice());
        }
        match &mut self.blocks[index] {
            Block::Data(bytes) => bytes,
            _ => unreachable!("made so above"),
        }
    }

    /// A device of one layer.
    fn layers(&self, offset: u64, len: u64) -> Vec<LayerExtent> {
        let top = LayerPlace { id: LayerId(1), depth: 0 };
        let layer = |extent: Extent| extent.allocated.then_some(top);
        let extents = self.extents(offset, len).into_iter();
        extents.map(|e| LayerExtent { len: e.len, layer: layer(e), has_data: !e.zero }).collect()
    }

    fn extents(&self, offset: u64, len: u64) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        for (index, range) in State::pieces(offset, len) {
            let (allocated, zero) = match self.blocks[index] {
                Block::Hole => (false, true),
                Block::Zero => (true, true),
                Block::Data(_) => (true, false),
            };
            match extents.last_mut() {
                Some(last) if (last.allocated, last.zero) == (allocated, zero) => last.len += range.len() as u64,
                _ => extents.push(Extent { len: range.len() as u64, allocated, zero }),
            }
        }
        extents
    }
}

impl BlockDevice for MemoryDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { size: self.state().size, read_only: self.read_only, description: "a disk in memory".to_owned() }
    }

    fn submit(&self, request: BlockRequest, completions: &Arc<dyn Completions>) {
        let mut state = self.state();
        let result = state.run(request.op, self.read_only);
        match (&self.later, self.completing) {
            (Some(later), _) => {
                // Under the lock, so that requests of two connections queue in the order in which they took effect.
                later.send((completions.clone(), request.tag, result)).expect("its thread ends after the device");
            }
            (None, Completing::WhenReleased) => state.waiting.push((completions.clone(), request.tag, result)),
            (None, _) => {
                drop(state);
                completions.complete(request.tag, result);
            }
        }
    }
}
