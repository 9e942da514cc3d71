//! Mount: from the superblock to a state in memory. Writes nothing. M1: the state is that of the checkpoint and the good batches behind
//! it, in order. M2: what may be lost at the next power failure is made durable before anybody hears of it (`running`).
//! M3: bad data of what was never known to be flushed makes a prepared write suspect, and undoes a push or repair with all that followed
//! in its chunk; that, too, is made durable (by a checkpoint) before anybody hears of it.

use super::allocator::Allocator;
use super::api::{MountReport, StoreConfig, StoreError};
use super::cache::{CachedPage, PageCache};
use super::checkpoint::Root;
use super::counts::Counts;
use super::device::{Device, Purpose};
use super::directory::Stored;
use super::log::{Log, LogPoint};
use super::log_scan::{LogScan, Ring, scan};
use super::replay::{Replay, Suspicion};
use super::space::take_fixed;
use super::state::State;
use crate::format::checkpoint::{ChainPage, CheckpointBody};
use crate::format::directory_page::{DirectoryPage, PageRef};
use crate::format::index_page::{IndexPage, PagePlace};
use crate::format::superblock::{LOG_AT, SLOTS as SUPERBLOCKS, Superblock};
use crate::format::{BlockAddr, FORMAT_VERSION, FormatError, Identity, PAGE_BYTES};
use crate::{DiskError, DiskOp, DiskResult};
use ashlar_types::{ChunkId, PgId};
use bytes::Bytes;

/// Reads that are under way together.
const READS_IN_FLIGHT_MAX: usize = 64;
/// Large ones: so many are in memory beside the log itself.
const LOG_READS_IN_FLIGHT_MAX: usize = 8;
const LOG_READ_BYTES: u64 = 1 << 20;
/// Index pages that are looked at together.
const SCAN_PAGES: usize = 2048;
/// Neighbouring index pages are read together up to this many.
const PAGES_PER_READ_MAX: usize = 64;

/// What mount hands over.
#[derive(Debug)]
pub(super) struct Mounted {
    pub superblock: Superblock,
    pub root: Root,
    pub log: Log,
    pub allocator: Allocator,
    pub pending: Pending,
}

/// What must happen before the mount is told of.
#[derive(Debug)]
pub(super) struct Pending {
    pub report: MountReport,
    /// Something was cut off, undone or found suspect: the log must not say otherwise to the next mount.
    pub wants_checkpoint: bool,
    pub is_flushed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Superblocks,
    Chain,
    Leaves,
    Log,
    /// The 4 KiB pieces of parts of the log that could not be read whole.
    LogPieces,
    Data,
    Pages,
}

/// A page of the index to be looked at.
#[derive(Debug, Clone, Copy)]
struct WantedPage {
    pg: PgId,
    chunk: ChunkId,
    quarter: u8,
    page: PageRef,
}

#[derive(Debug)]
pub(super) struct Mount {
    step: Step,
    /// The reads of this step.
    reads: Vec<(u64, u32)>,
    results: Vec<Option<DiskResult>>,
    started: usize,
    outstanding: usize,
    error: Option<StoreError>,

    superblock: Option<Superblock>,
    chain: Vec<BlockAddr>,
    payload: Vec<u8>,
    body: CheckpointBody,
    ring: Vec<u8>,
    replay: Option<Replay>,
    allocator: Option<Allocator>,
    /// Where the look at the index pages goes on, and what is looked at now.
    scan_after: Option<(PgId, ChunkId)>,
    scan_done: bool,
    wanted: Vec<WantedPage>,
    /// Of what the index pages name.
    counts: Counts,
    report: MountReport,
    wants_checkpoint: bool,
}

pub(super) struct MountContext<'a> {
    pub config: &'a StoreConfig,
    pub state: &'a mut State,
    pub cache: &'a mut PageCache,
    pub device: &'a mut Device,
}

impl MountContext<'_> {
    fn identity(&self) -> Identity {
        Identity { cluster: self.config.cluster, osd: self.config.osd }
    }
}

impl Mount {
    pub(super) fn begin(config: &StoreConfig, device: &mut Device) -> Mount {
        let mut mount = Mount {
            step: Step::Superblocks,
            reads: Vec::new(),
            results: Vec::new(),
            started: 0,
            outstanding: 0,
            error: None,
            superblock: None,
            chain: Vec::new(),
            payload: Vec::new(),
            body: CheckpointBody::default(),
            ring: Vec::new(),
            replay: None,
            allocator: None,
            scan_after: None,
            scan_done: false,
            wanted: Vec::new(),
            counts: Counts::default(),
            report: MountReport::default(),
            wants_checkpoint: false,
        };
        let slots = SUPERBLOCKS.iter().filter(|at| **at + PAGE_BYTES as u64 <= config.capacity);
        mount.fetch(Step::Superblocks, slots.map(|at| (*at, PAGE_BYTES as u32)).collect());
        mount.start_reads(device);
        mount
    }

    fn fetch(&mut self, step: Step, reads: Vec<(u64, u32)>) {
        self.step = step;
        self.results = vec![None; reads.len()];
        self.reads = reads;
        self.started = 0;
    }

    fn start_reads(&mut self, device: &mut Device) {
        let most = if self.step == Step::Log { LOG_READS_IN_FLIGHT_MAX } else { READS_IN_FLIGHT_MAX };
        while self.started < self.reads.len() && self.outstanding < most {
            let (at, len) = self.reads[self.started];
            device.start(Purpose::Mount(self.started), DiskOp::Read { at, len });
            self.started += 1;
            self.outstanding += 1;
        }
    }

    pub(super) fn on_read(&mut self, nth: usize, result: DiskResult, error: impl FnOnce(DiskError) -> StoreError) {
        self.outstanding -= 1;
        let needed = matches!(self.step, Step::Chain | Step::Leaves);
        if let (Err(source), true) = (&result, needed) {
            self.error.get_or_insert_with(|| error(source.clone()));
        }
        self.results[nth] = Some(match result {
            Ok(bytes) if self.step == Step::Log => {
                self.fill_ring(self.reads[nth].0, &bytes);
                Ok(Bytes::new())
            }
            other => other,
        });
    }

    /// Goes on when the reads of the present step are done.
    pub(super) fn advance(&mut self, cx: &mut MountContext<'_>) -> Result<Option<Box<Mounted>>, StoreError> {
        loop {
            self.start_reads(cx.device);
            if self.outstanding > 0 {
                return Ok(None);
            }
            if let Some(error) = self.error.take() {
                return Err(error);
            }
            let results: Vec<DiskResult> =
                std::mem::take(&mut self.results).into_iter().map(|r| r.expect("all reads are done")).collect();
            match self.step {
                Step::Superblocks => self.on_superblocks(cx, &results)?,
                Step::Chain => self.on_chain(cx, &results)?,
                Step::Leaves => self.on_leaves(cx, &results)?,
                Step::Log => self.on_log(cx, results)?,
                Step::LogPieces => self.on_log_pieces(cx, &results)?,
                Step::Data => self.on_data(cx, &results)?,
                Step::Pages => self.on_pages(cx, &results)?,
            }
            if self.scan_done {
                return Ok(Some(Box::new(self.finish(cx))));
            }
        }
    }

    fn superblock(&self) -> Superblock {
        self.superblock.expect("superblocks are read first")
    }

    fn on_superblocks(&mut self, cx: &mut MountContext<'_>, results: &[DiskResult]) -> Result<(), StoreError> {
        let superblock = choose_superblock(results, cx.identity())?;
        if cx.config.capacity < superblock.capacity {
            return Err(StoreError::TooSmall { have: cx.config.capacity, need: superblock.capacity });
        }
        self.superblock = Some(superblock);
        cx.state.damaged = superblock.damaged;
        if superblock.checkpoint.is_none() {
            self.fetch_log();
        } else {
            self.fetch(Step::Chain, vec![(superblock.checkpoint.byte_offset(), PAGE_BYTES as u32)]);
            self.chain.push(superblock.checkpoint);
        }
        Ok(())
    }

    fn on_chain(&mut self, cx: &mut MountContext<'_>, results: &[DiskResult]) -> Result<(), StoreError> {
        let addr = *self.chain.last().expect("a page was asked for");
        let corrupt = |e| corrupt("checkpoint page", addr, e);
        let page = read_ok(results, 0).ok_or_else(|| corrupt(FormatError::Short { need: PAGE_BYTES, have: 0 }))?;
        let (number, superblock) = (self.chain.len() as u32 - 1, self.superblock());
        let (page, payload) = ChainPage::decode(page, cx.identity(), superblock.seq, number).map_err(corrupt)?;
        self.payload.extend_from_slice(payload);
        if !page.next.is_none() {
            if page.next.byte_offset() >= superblock.capacity {
                return Err(corrupt(FormatError::Invalid("its successor lies outside the disk")));
            }
            self.chain.push(page.next);
            self.fetch(Step::Chain, vec![(page.next.byte_offset(), PAGE_BYTES as u32)]);
            return Ok(());
        }
        self.body =
            CheckpointBody::decode(&self.payload).map_err(|e| self::corrupt("checkpoint", superblock.checkpoint, e))?;
        self.payload = Vec::new();
        if let Some(leaf) = self.body.leaves.iter().find(|l| l.addr.byte_offset() >= superblock.capacity) {
            return Err(self::corrupt(
                "checkpoint",
                leaf.addr,
                FormatError::Invalid("it names a page outside the disk"),
            ));
        }
        let reads = self.body.leaves.iter().map(|l| (l.addr.byte_offset(), PAGE_BYTES as u32)).collect();
        self.fetch(Step::Leaves, reads);
        Ok(())
    }

    fn on_leaves(&mut self, cx: &mut MountContext<'_>, results: &[DiskResult]) -> Result<(), StoreError> {
        for (leaf, result) in self.body.leaves.iter().zip(results) {
            let corrupt = |e| corrupt("directory page", leaf.addr, e);
            let bytes = result.as_ref().map_err(|_| corrupt(FormatError::Short { need: PAGE_BYTES, have: 0 }))?;
            let (page, crc) = DirectoryPage::decode(bytes, cx.identity()).map_err(corrupt)?;
            if crc != leaf.crc || page.pg != leaf.pg {
                return Err(corrupt(FormatError::Invalid("it is not the one that the checkpoint names")));
            }
            let capacity = self.superblock.expect("superblocks are read first").capacity;
            if page.entries.iter().any(|e| e.pages.iter().any(|p| p.addr().byte_offset() >= capacity)) {
                return Err(corrupt(FormatError::Invalid("it names a page outside the disk")));
            }
            let entries = page.entries.into_iter().map(Into::into).collect();
            let stored = Stored { addr: leaf.addr, crc };
            if !cx.state.pg_mut(leaf.pg).directory.append(entries, stored) {
                return Err(corrupt(FormatError::Invalid("its chunks are out of order")));
            }
        }
        self.fetch_log();
        Ok(())
    }

    fn fetch_log(&mut self) {
        let log_bytes = self.superblock().log_bytes;
        self.ring = vec![0; log_bytes as usize];
        let reads = (0..log_bytes).step_by(LOG_READ_BYTES as usize);
        let reads = reads.map(|at| (LOG_AT + at, (log_bytes - at).min(LOG_READ_BYTES) as u32)).collect();
        self.fetch(Step::Log, reads);
    }

    fn on_log(&mut self, cx: &mut MountContext<'_>, results: Vec<DiskResult>) -> Result<(), StoreError> {
        let mut again = Vec::new();
        for ((at, len), result) in self.reads.clone().into_iter().zip(results) {
            match result {
                // In the ring since it came.
                Ok(_) => {}
                Err(_) => again.extend((at..at + u64::from(len)).step_by(PAGE_BYTES).map(|at| (at, PAGE_BYTES as u32))),
            }
        }
        if again.is_empty() {
            return self.replay(cx);
        }
        self.fetch(Step::LogPieces, again);
        Ok(())
    }

    /// Pages of zeroes, which is what a log is made of before its first round, stay unwritten and take no memory.
    fn fill_ring(&mut self, at: u64, bytes: &[u8]) {
        let from = (at - LOG_AT) as usize;
        for (page, new) in self.ring[from..from + bytes.len()].chunks_mut(PAGE_BYTES).zip(bytes.chunks(PAGE_BYTES)) {
            if new.iter().any(|b| *b != 0) {
                page.copy_from_slice(new);
            }
        }
    }

    fn on_log_pieces(&mut self, cx: &mut MountContext<'_>, results: &[DiskResult]) -> Result<(), StoreError> {
        for ((at, len), result) in self.reads.clone().into_iter().zip(results) {
            match result {
                Ok(bytes) if bytes.len() == len as usize => self.fill_ring(at, bytes),
                // Stays zero: the scan tells whether anything durable was there.
                _ => self.report.findings.push(format!("the log cannot be read at {at}")),
            }
        }
        self.replay(cx)
    }

    fn replay(&mut self, cx: &mut MountContext<'_>) -> Result<(), StoreError> {
        let superblock = self.superblock();
        let ring = std::mem::take(&mut self.ring);
        let scan = scan(&Ring(&ring), &superblock);
        if scan.checkpoint_seen > superblock.seq {
            let detail =
                format!("the log knows checkpoint {}, the best superblock {}", scan.checkpoint_seen, superblock.seq);
            return Err(StoreError::Corrupt { structure: "superblock", at: superblock.slot(), detail });
        }
        if let Some(damage) = &scan.damage {
            self.report.findings.push(damage.clone());
            self.wants_checkpoint = true;
        }
        self.report.torn_bytes = if scan.damage.is_none() { scan.torn_bytes } else { 0 };
        let body = std::mem::take(&mut self.body);
        let mut replay = Replay::new(ring, scan, body, cx.state);
        replay.run(&superblock, cx.state)?;
        self.report.records = replay.records();
        let reads = replay.unproven(cx.state, superblock.capacity);
        self.replay = Some(replay);
        self.fetch(Step::Data, reads);
        Ok(())
    }

    fn on_data(&mut self, cx: &mut MountContext<'_>, results: &[DiskResult]) -> Result<(), StoreError> {
        let superblock = self.superblock();
        let replay = self.replay.as_mut().expect("the log was replayed");
        let Suspicion { suspect, undone } = replay.judge(&superblock, cx.state, results)?;
        self.report.suspect = suspect.len() as u64;
        for what in suspect.into_iter().chain(undone) {
            self.report.findings.push(what);
            self.wants_checkpoint = true;
        }
        let mut allocator = Allocator::new(superblock.capacity / PAGE_BYTES as u64);
        take_fixed(&mut allocator, superblock.log_bytes);
        let root = self.chain.iter().copied().chain(replay.leaves());
        for addr in root.chain(cx.state.blocks_in_memory()) {
            take(&mut allocator, addr)?;
        }
        self.allocator = Some(allocator);
        self.fetch_pages(cx.state);
        Ok(())
    }

    /// The next index pages to look at, neighbours on disk together.
    fn fetch_pages(&mut self, state: &State) {
        self.wanted.clear();
        let from = self.scan_after.map(|(pg, _)| pg).unwrap_or_default();
        'pgs: for (pg, mem) in state.pgs.range(from..) {
            let after = self.scan_after.filter(|(at, _)| at == pg).map(|(_, chunk)| chunk);
            for entry in mem.directory.iter_after(after) {
                if self.wanted.len() >= SCAN_PAGES {
                    break 'pgs;
                }
                for (quarter, page) in entry.pages.iter().enumerate().filter(|(_, p)| !p.is_none()) {
                    let wanted = WantedPage { pg: *pg, chunk: entry.chunk(), quarter: quarter as u8, page: *page };
                    self.wanted.push(wanted);
                }
                self.scan_after = Some((*pg, entry.chunk()));
            }
        }
        // Pages that only the log's drops name need no look: their blocks are free, since nothing else names them.
        self.wanted.sort_unstable_by_key(|w| w.page.addr());
        self.scan_done = self.wanted.is_empty();
        let mut reads: Vec<(u64, u32)> = Vec::new();
        for wanted in &self.wanted {
            let at = wanted.page.addr().byte_offset();
            match reads.last_mut() {
                Some((from, len))
                    if *from + u64::from(*len) == at && (*len as usize) < PAGES_PER_READ_MAX * PAGE_BYTES =>
                {
                    *len += PAGE_BYTES as u32;
                }
                _ => reads.push((at, PAGE_BYTES as u32)),
            }
        }
        self.fetch(Step::Pages, reads);
    }

    fn on_pages(&mut self, cx: &mut MountContext<'_>, results: &[DiskResult]) -> Result<(), StoreError> {
        let runs = std::mem::take(&mut self.reads);
        let mut reads = runs.iter().zip(results).flat_map(|((at, len), result)| {
            (0..*len as usize).step_by(PAGE_BYTES).map(move |from| (*at + from as u64, from, result))
        });
        for wanted in std::mem::take(&mut self.wanted) {
            let (at, from, result) = reads.next().expect("each page was read");
            assert_eq!(at, wanted.page.addr().byte_offset(), "pages and reads are in the same order");
            let place =
                PagePlace { chunk: wanted.chunk, quarter: wanted.quarter, checkpoint: wanted.page.checkpoint() };
            let bytes = match result {
                Ok(bytes) if bytes.len() >= from + PAGE_BYTES => {
                    Bytes::copy_from_slice(&bytes[from..from + PAGE_BYTES])
                }
                _ => Bytes::new(),
            };
            let allocator = self.allocator.as_mut().expect("it was made before");
            take(allocator, wanted.page.addr())?;
            self.counts.add_page();
            let page = match IndexPage::decode(&bytes, cx.identity(), place) {
                Ok(page) => {
                    for addr in page.slots.iter().filter_map(|slot| slot.addr()) {
                        take(allocator, addr)?;
                        self.counts.add(wanted.chunk.layer, 1);
                    }
                    CachedPage::Good(bytes)
                }
                Err(_) => {
                    self.lost_page(cx, wanted);
                    CachedPage::Damaged
                }
            };
            if !cx.cache.is_full() {
                cx.cache.insert(wanted.page.addr(), page);
            }
        }
        self.fetch_pages(cx.state);
        Ok(())
    }

    fn lost_page(&mut self, cx: &mut MountContext<'_>, wanted: WantedPage) {
        let WantedPage { pg, chunk, quarter, page } = wanted;
        self.report
            .findings
            .push(format!("the index page of quarter {quarter} of {chunk} ({pg}) at {} is damaged", page.addr()));
        cx.device.stats.bad_pages += 1;
        cx.state.pg_mut(pg).directory.get_mut(chunk).expect("it named the page").set_lost();
        cx.state.damaged = true;
        self.wants_checkpoint = true;
    }

    fn finish(&mut self, cx: &mut MountContext<'_>) -> Mounted {
        let superblock = self.superblock();
        let replay = self.replay.take().expect("the log was replayed");
        let scan = replay.scan();
        let mut leaves: Vec<BlockAddr> = replay.leaves().collect();
        leaves.sort_unstable();
        self.report.damaged = cx.state.damaged;
        // The allocator was made from what is named now; what replay freed is free already.
        cx.state.freed.clear();
        cx.state.purge.clear();
        cx.state.count_anew(std::mem::take(&mut self.counts));
        let pending = Pending {
            report: std::mem::take(&mut self.report),
            wants_checkpoint: self.wants_checkpoint,
            is_flushed: false,
        };
        Mounted {
            superblock,
            root: Root { leaves, chain: std::mem::take(&mut self.chain) },
            log: Log::new(superblock.identity, superblock.log_bytes, superblock.log_position, head(scan)),
            allocator: self.allocator.take().expect("it was made before"),
            pending,
        }
    }
}

/// Where the log goes on: behind the chain; behind everything that was ever sent, if the chain was cut short.
fn head(scan: &LogScan) -> LogPoint {
    if scan.damage.is_some() {
        return LogPoint { position: scan.position_seen, seq: scan.seq_seen + 1, previous: scan.previous };
    }
    LogPoint { position: scan.position, seq: scan.seq, previous: scan.previous }
}

fn read_ok(results: &[DiskResult], nth: usize) -> Option<&Bytes> {
    results.get(nth).and_then(|r| r.as_ref().ok())
}

fn corrupt(structure: &'static str, at: BlockAddr, error: FormatError) -> StoreError {
    StoreError::Corrupt { structure, at: at.byte_offset(), detail: error.to_string() }
}

/// Marks a block that something names; nothing else may name it.
fn take(allocator: &mut Allocator, addr: BlockAddr) -> Result<(), StoreError> {
    if allocator.take(addr) {
        return Ok(());
    }
    let detail = "it is named twice, or lies outside the disk".to_owned();
    Err(StoreError::Corrupt { structure: "block", at: addr.byte_offset(), detail })
}

/// The best of the superblocks, if it is ours.
pub(super) fn choose_superblock(results: &[DiskResult], identity: Identity) -> Result<Superblock, StoreError> {
    let mut found = Vec::new();
    let mut details = Vec::new();
    for (nth, at) in SUPERBLOCKS.iter().enumerate() {
        let Some(result) = results.get(nth) else { continue };
        match result.as_ref().map(|bytes| Superblock::decode(bytes)) {
            Ok(Ok(superblock)) if superblock.slot() == *at => found.push(superblock),
            Ok(Ok(_)) => details.push(format!("at {at}: it belongs into the other slot")),
            Ok(Err(FormatError::Version { found })) => {
                return Err(StoreError::UnknownVersion { found, known: FORMAT_VERSION });
            }
            Ok(Err(error)) => details.push(format!("at {at}: {error}")),
            Err(error) => details.push(format!("at {at}: {error}")),
        }
    }
    let Some(best) = found.into_iter().max_by_key(|s| s.seq) else {
        return Err(StoreError::NotAnOsd { detail: details.join("; ") });
    };
    if best.identity != identity {
        return Err(StoreError::Foreign {
            cluster: identity.cluster,
            osd: identity.osd,
            found_cluster: best.identity.cluster,
            found_osd: best.identity.osd,
        });
    }
    Ok(best)
}
