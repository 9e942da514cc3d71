//! Requests of the caller and how they fall into parts, one of one chunk each. A part is made when there is room for it, so
//! a discard of a whole device costs no more memory than a small one.

use super::ClientLimits;
use super::data::{fragment_crcs, join_extents, zero_crcs, zeroes};
use super::lane::LaneId;
use super::layers::{EXTENTS_MAX, PARTS_MAX, Placement, Unwritten, in_no_layer, join_layers};
use super::range_lock::RangeLock;
use ashlar_types::{
    BlockError, BlockOp, BlockReply, BlockRequest, CHUNK_BYTES, ChunkIndex, Crc, Epoch, Extent, LayerExtent, OsdId,
    StackRevision, Tick,
};
use ashlar_wire::IoKind;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// The part of a request that falls into one chunk.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) request: u64,
    /// Its place among the parts of its request.
    pub(super) slot: usize,
    pub(super) chunk: ChunkIndex,
    pub(super) offset: u32,
    pub(super) len: u32,
    pub(super) kind: IoKind,
    /// Of kind `Extents`: which layer has what is asked.
    pub(super) is_layers: bool,
    /// And what the volume stands on is asked too.
    pub(super) with_base: bool,
    /// How many layers the stack has that it was sent with.
    pub(super) layers_above: u32,
    pub(super) crcs: Vec<Crc>,
    pub(super) payload: Bytes,
    /// Where it waits, or was sent from.
    pub(super) lane: LaneId,
    /// Where it is being done; `None` while it waits in its lane.
    pub(super) sent: Option<Sent>,
    /// The stack that it was sent with.
    pub(super) stack: Option<StackRevision>,
    /// What the base has in the blocks that it covers only partly, once that was needed.
    pub(super) base: Vec<Bytes>,
    /// Waits for that, with its number.
    pub(super) needs_base: bool,
    /// The base was gone when it was asked.
    pub(super) lost_base: bool,
    /// The base was asked at once (B4 in base.rs), by this key.
    pub(super) guess: Option<u64>,
    pub(super) timeouts: u32,
    pub(super) damaged: u32,
}

/// What a part that reads asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Data,
    Extents,
    Layers,
}

impl Part {
    pub(super) fn wanted(&self) -> Wanted {
        match self.kind {
            _ if self.is_layers => Wanted::Layers,
            IoKind::Extents => Wanted::Extents,
            IoKind::Read | IoKind::Write | IoKind::Zero | IoKind::Fill => Wanted::Data,
        }
    }

    pub(super) fn is_write(&self) -> bool {
        self.kind.is_write()
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) osd: OsdId,
    pub(super) epoch: Epoch,
    pub(super) at: Tick,
    pub(super) deadline: Tick,
}

/// What a part that was done gives its request.
#[derive(Debug)]
pub(super) enum PartOutput {
    Done,
    Filled {
        is_busy: bool,
    },
    Data(Vec<Bytes>),
    Extents(Vec<Extent>),
    Layers {
        extents: Vec<LayerExtent>,
        /// What the PG has told of the chunks behind the part's, if it has.
        next: Option<Option<ChunkIndex>>,
    },
}

#[derive(Debug)]
enum Work {
    Read { pieces: Vec<Vec<Bytes>> },
    Write { data: Bytes, crcs: Vec<Crc>, fills: bool },
    WriteZeroes,
    Zero,
    Extents { found: Vec<Vec<Extent>> },
    Layers(LayersWork),
}

#[derive(Debug)]
struct LayersWork {
    with_base: bool,
    found: Vec<Vec<LayerExtent>>,
    extents: usize,
    /// `None` where chunks in which the volume has nothing are asked of its base, and none is passed over.
    unwritten: Option<Unwritten>,
    /// The slot of what was passed over last, while it is the last one.
    passed: Option<usize>,
}

impl Work {
    fn writes(&self) -> bool {
        match self {
            Work::Read { .. } | Work::Extents { .. } | Work::Layers(_) => false,
            Work::Write { .. } | Work::WriteZeroes | Work::Zero => true,
        }
    }
}

#[derive(Debug)]
struct Request {
    tag: u64,
    work: Work,
    offset: u64,
    len: u64,
    /// Bytes of it that are in parts already.
    issued: u64,
    slots: usize,
    outstanding: usize,
    /// Has as many parts out as it may.
    is_parked: bool,
    /// Earlier requests that it still waits for.
    blockers: u32,
    /// A part of a fill was done beside others' requests.
    is_busy: bool,
    /// The first failure of a part. Nothing more is issued then; what is issued is awaited.
    error: Option<BlockError>,
}

impl Request {
    fn next_part(&mut self, key: u64, placement: Placement) -> Option<Part> {
        let left = self.len - self.issued;
        if left == 0 || self.error.is_some() {
            return None;
        }
        let at = self.offset + self.issued;
        let chunk_bytes = u64::from(CHUNK_BYTES);
        let within = u32::try_from(at % chunk_bytes).expect("less than a chunk");
        let len = u32::try_from(left).unwrap_or(u32::MAX).min(CHUNK_BYTES - within);
        let chunk = ChunkIndex(u32::try_from(at / chunk_bytes).expect("within the device, whose size is bounded"));
        let (kind, crcs, payload) = self.work.content(self.offset, self.issued, within, len);
        let slot = self.slots;
        self.issued += u64::from(len);
        self.slots += 1;
        self.outstanding += 1;
        let (is_layers, with_base) = match &self.work {
            Work::Layers(work) => (true, work.with_base),
            _ => (false, false),
        };
        self.pass_over(placement);
        let (lane, sent, stack, timeouts, damaged) = (LaneId::default(), None, None, 0, 0);
        let (base, needs_base, lost_base) = (Vec::new(), false, false);
        Some(Part {
            request: key,
            slot,
            chunk,
            offset: within,
            len,
            kind,
            is_layers,
            with_base,
            layers_above: 0,
            crcs,
            payload,
            lane,
            sent,
            stack,
            base,
            needs_base,
            lost_base,
            guess: None,
            timeouts,
            damaged,
        })
    }

    /// Goes on to the next chunk that has to be asked for (E1 in layers.rs).
    fn pass_over(&mut self, placement: Placement) {
        let Work::Layers(work) = &mut self.work else { return };
        if work.extents >= EXTENTS_MAX {
            self.len = self.issued;
        }
        let Some(unwritten) = &work.unwritten else { return };
        let chunk_bytes = u64::from(CHUNK_BYTES);
        let mut passed = 0;
        while self.issued < self.len {
            let at = self.offset + self.issued;
            let chunk = ChunkIndex(u32::try_from(at / chunk_bytes).expect("within the device, whose size is bounded"));
            if !unwritten.contains(chunk, placement) {
                break;
            }
            let len = (chunk_bytes - at % chunk_bytes).min(self.len - self.issued);
            self.issued += len;
            passed += len;
        }
        if passed == 0 {
            return;
        }
        match work.passed.filter(|slot| slot + 1 == self.slots) {
            Some(slot) => work.found[slot].iter_mut().for_each(|extent| extent.len += passed),
            None => {
                put(&mut work.found, self.slots, vec![in_no_layer(passed)]);
                work.passed = Some(self.slots);
                self.slots += 1;
            }
        }
    }

    /// Whether another part may be made of it now.
    fn has_room(&self) -> bool {
        !matches!(self.work, Work::Layers(_)) || self.outstanding < PARTS_MAX
    }

    fn settle(&mut self, part: &Part, result: Result<PartOutput, BlockError>, placement: Placement) {
        let slot = part.slot;
        self.outstanding -= 1;
        match (result, &mut self.work) {
            (Err(error), _) => {
                self.error.get_or_insert(error);
            }
            (Ok(PartOutput::Filled { is_busy }), _) => self.is_busy |= is_busy,
            (Ok(PartOutput::Data(data)), Work::Read { pieces }) => put(pieces, slot, data),
            (Ok(PartOutput::Extents(extents)), Work::Extents { found }) => put(found, slot, extents),
            (Ok(PartOutput::Layers { extents, next }), Work::Layers(work)) => {
                work.extents += extents.len();
                put(&mut work.found, slot, extents);
                if let (Some(next), Some(unwritten)) = (next, &mut work.unwritten) {
                    unwritten.learn(part.chunk, next, placement);
                }
                self.pass_over(placement);
            }
            (Ok(_), _) => {}
        }
    }

    /// A question that may be long under way holds up no write.
    fn takes_turn(&self) -> bool {
        !matches!(self.work, Work::Layers(_))
    }

    fn is_done(&self) -> bool {
        self.outstanding == 0 && (self.issued == self.len || self.error.is_some())
    }

    fn into_result(self) -> Result<BlockReply, BlockError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        Ok(match self.work {
            Work::Read { mut pieces } if pieces.len() == 1 => BlockReply::Data(pieces.remove(0)),
            Work::Read { pieces } => BlockReply::Data(pieces.into_iter().flatten().collect()),
            Work::Extents { found } => BlockReply::Extents(join_extents(found)),
            Work::Layers(work) => BlockReply::Layers(join_layers(work.found)),
            Work::Write { fills: true, .. } => BlockReply::Filled { is_busy: self.is_busy },
            Work::Write { .. } | Work::WriteZeroes | Work::Zero => BlockReply::Done,
        })
    }
}

fn put<T: Default>(list: &mut Vec<T>, slot: usize, item: T) {
    if list.len() <= slot {
        list.resize_with(slot + 1, T::default);
    }
    list[slot] = item;
}

impl Work {
    /// Kind, CRCs and payload of the part of `len` bytes that begins `issued` bytes into the request and `within` bytes into its chunk.
    fn content(&mut self, start: u64, issued: u64, within: u32, len: u32) -> (IoKind, Vec<Crc>, Bytes) {
        match self {
            Work::Read { .. } => (IoKind::Read, Vec::new(), Bytes::new()),
            Work::Extents { .. } | Work::Layers(_) => (IoKind::Extents, Vec::new(), Bytes::new()),
            Work::Zero => (IoKind::Zero, Vec::new(), Bytes::new()),
            Work::WriteZeroes => (IoKind::Write, zero_crcs(within, len), zeroes(len)),
            Work::Write { data, crcs, fills } => {
                let kind = if *fills { IoKind::Fill } else { IoKind::Write };
                if issued == 0 && data.len() == len as usize {
                    return (kind, std::mem::take(crcs), std::mem::take(data));
                }
                let from = usize::try_from(issued).expect("data is in memory");
                let payload = data.slice(from..from + len as usize);
                // A chunk holds whole blocks, so fragments of one block are never in two parts.
                let block = u64::from(ashlar_types::BLOCK_BYTES);
                let first = usize::try_from((start + issued) / block - start / block).expect("data is in memory");
                let count = ashlar_types::BlockRange::covering(within, len).expect("inside its chunk").count();
                (kind, crcs[first..first + usize::from(count)].to_vec(), payload)
            }
        }
    }
}

/// A request that is over, or one refused at once.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) tag: u64,
    pub(super) result: Result<BlockReply, BlockError>,
}

/// All requests that the caller has no answer to.
#[derive(Debug)]
pub(super) struct Requests {
    size: u64,
    /// What reaches behind it is refused (V5).
    held_from: Option<u64>,
    read_only: bool,
    /// What none of the volume's layers has may be in what it stands on.
    has_base: bool,
    extents_bytes_max: u64,
    layers_bytes_max: u64,
    next_key: u64,
    /// In order of arrival.
    pending: BTreeMap<u64, Request>,
    lock: RangeLock,
    /// Wait for nobody and have bytes that are in no part yet. Served in turn, so that a long one doesn't hold up the others.
    ready: VecDeque<u64>,
}

impl Requests {
    pub(super) fn new(size: u64, read_only: bool, has_base: bool, limits: &ClientLimits) -> Requests {
        let extents_bytes_max = u64::from(limits.extents_chunks_max) * u64::from(CHUNK_BYTES);
        let layers_bytes_max = u64::from(limits.layers_chunks_max) * u64::from(CHUNK_BYTES);
        let (pending, lock, ready) = (BTreeMap::new(), RangeLock::default(), VecDeque::new());
        let mut new = Requests {
            size: 0,
            held_from: None,
            read_only,
            has_base,
            extents_bytes_max,
            layers_bytes_max,
            next_key: 0,
            pending,
            lock,
            ready,
        };
        new.resize(size);
        new
    }

    pub(super) fn set_has_base(&mut self, has_base: bool) {
        self.has_base = has_base;
    }

    /// A chunk index has 32 bits; nothing beyond can be reached.
    pub(super) fn resize(&mut self, size: u64) {
        self.size = size.min(u64::from(CHUNK_BYTES) << 32);
    }

    pub(super) fn hold(&mut self, from: Option<u64>) {
        self.held_from = from;
    }

    /// Whether nothing that is under way reaches behind where it is held. Asked only while a hold is waited for, so it may look at each.
    pub(super) fn is_held(&self) -> bool {
        self.held_from.is_some_and(|from| self.pending.values().all(|request| request.offset + request.len <= from))
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Takes a request in, or says how it ends at once.
    pub(super) fn submit(&mut self, request: BlockRequest, is_behind: bool) -> Option<Finished> {
        let tag = request.tag;
        let end = if is_behind { self.size } else { self.size.min(self.held_from.unwrap_or(u64::MAX)) };
        let (work, offset, len) = match request.op {
            // R1: what completed is durable, so there is nothing to wait for.
            BlockOp::Flush => return Some(Finished { tag, result: Ok(BlockReply::Done) }),
            BlockOp::Read { offset, len } => (Work::Read { pieces: Vec::new() }, offset, u64::from(len)),
            BlockOp::Write { offset, data } => self.write(offset, data, false, end),
            BlockOp::Fill { offset, data } => self.write(offset, data, true, end),
            BlockOp::Discard { offset, len } => (Work::Zero, offset, len),
            BlockOp::WriteZeroes { offset, len, keep_allocated: false } => (Work::Zero, offset, len),
            BlockOp::WriteZeroes { offset, len, keep_allocated: true } => (Work::WriteZeroes, offset, len),
            BlockOp::Extents { offset, len } => (Work::Extents { found: Vec::new() }, offset, len),
            BlockOp::Layers { offset, len, with_base } => {
                let unwritten = (!with_base || !self.has_base).then(Unwritten::default);
                let work = LayersWork { with_base, found: Vec::new(), extents: 0, unwritten, passed: None };
                (Work::Layers(work), offset, len)
            }
        };
        if let Some(error) = self.refusal(offset, len, work.writes(), end) {
            return Some(Finished { tag, result: Err(error) });
        }
        let len = match work {
            Work::Extents { .. } => len.min(self.extents_bytes_max),
            Work::Layers(_) => len.min(self.layers_bytes_max),
            _ => len,
        };
        let (blockers, is_parked) = (0, false);
        let mut request = Request {
            tag,
            work,
            offset,
            len,
            issued: 0,
            slots: 0,
            outstanding: 0,
            is_parked,
            blockers,
            is_busy: false,
            error: None,
        };
        if len == 0 {
            return Some(Finished { tag, result: request.into_result() });
        }
        let key = self.next_key;
        self.next_key += 1;
        if request.takes_turn() {
            request.blockers = self.lock.acquire(key, offset, len, request.work.writes());
        }
        if request.blockers == 0 {
            self.ready.push_back(key);
        }
        self.pending.insert(key, request);
        None
    }

    fn write(&self, offset: u64, data: Bytes, fills: bool, end: u64) -> (Work, u64, u64) {
        let len = data.len() as u64;
        let crcs =
            if self.refusal(offset, len, true, end).is_none() { fragment_crcs(offset, &data) } else { Vec::new() };
        (Work::Write { data, crcs, fills }, offset, len)
    }

    /// `size`: what may be reached.
    fn refusal(&self, offset: u64, len: u64, writes: bool, size: u64) -> Option<BlockError> {
        if writes && self.read_only {
            return Some(BlockError::ReadOnly);
        }
        let inside = offset.checked_add(len).is_some_and(|end| end <= size);
        (!inside).then_some(BlockError::OutOfRange)
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next part to be sent.
    pub(super) fn next_part(&mut self, placement: Placement) -> Option<Part> {
        while let Some(key) = self.ready.pop_front() {
            // A request that failed is over, or ends with the parts it has out.
            let Some(request) = self.pending.get_mut(&key) else { continue };
            if let Some(part) = request.next_part(key, placement) {
                if request.issued < request.len {
                    request.is_parked = !request.has_room();
                    if !request.is_parked {
                        self.ready.push_back(key);
                    }
                }
                return Some(part);
            }
        }
        None
    }

    /// A part is over. Gives the request if that ends it.
    pub(super) fn settle(
        &mut self,
        part: &Part,
        result: Result<PartOutput, BlockError>,
        placement: Placement,
    ) -> Option<Finished> {
        let request = self.pending.get_mut(&part.request).expect("a request is pending until its parts are settled");
        request.settle(part, result, placement);
        if !request.is_done() {
            if std::mem::take(&mut request.is_parked) {
                self.ready.push_back(part.request);
            }
            return None;
        }
        let request = self.pending.remove(&part.request).expect("just seen");
        if !request.takes_turn() {
            return Some(Finished { tag: request.tag, result: request.into_result() });
        }
        let (pending, ready) = (&mut self.pending, &mut self.ready);
        self.lock.release(part.request, |later| {
            let waiting = pending.get_mut(&later).expect("what holds a range is pending");
            waiting.blockers -= 1;
            if waiting.blockers == 0 {
                ready.push_back(later);
            }
        });
        Some(Finished { tag: request.tag, result: request.into_result() })
    }

    /// Ends everything, in order of arrival.
    pub(super) fn fail_all(&mut self, error: &BlockError) -> impl Iterator<Item = Finished> {
        self.lock = RangeLock::default();
        self.ready.clear();
        let error = error.clone();
        std::mem::take(&mut self.pending)
            .into_values()
            .map(move |request| Finished { tag: request.tag, result: Err(error.clone()) })
    }
}
