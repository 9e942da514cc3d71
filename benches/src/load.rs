//! The load generator: keeps a number of requests under way on a device, or sends them at a rate, and measures each.
//!
//! G1: the next request of a place in the queue is sent from the completion of the one before it, so no thread is woken for
//! it. G2: nothing is locked while a request is handed to the device, which may complete it at once. G3: one thread sends
//! everything (that of the device's completions), so that the order in which contents are noted is the order of submission,
//! in which overlapping requests take effect: a read is compared with exactly what it has to bring. G4: at a rate, the time of a
//! request counts from the moment it should have been sent, so a device that answers late is charged for what waited behind it.

mod pace;

use crate::contents::Contents;
use crate::error::BenchError;
use ashlar_types::{BLOCK_BYTES, BlockDevice, BlockError, BlockOp, BlockReply, BlockRequest, Completions};
use bytes::Bytes;
use hdrhistogram::Histogram;
use pace::Ticks;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

pub use pace::Rate;

/// Random data that unverified writes send pieces of, in bytes.
const NOISE: usize = 4 << 20;
/// How long a job may go on after its end until its last request is answered.
const DRAIN: Duration = Duration::from_secs(60);
const SLOW_MAX: usize = 100_000;
/// Longer ones count as this.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

#[derive(Clone, Debug)]
pub struct Job {
    /// Of a hundred requests; the others read.
    pub write_percent: u32,
    /// A multiple of a block.
    pub request_bytes: u32,
    /// Requests under way; with a rate, at most so many.
    pub depth: usize,
    /// Without, the next request is sent when one is answered.
    pub rate: Option<Rate>,
    pub random: bool,
    /// Write contents that can be recognised, and check what is read.
    pub verify: bool,
    /// The part of the volume to work on, in blocks.
    pub blocks: Range<u64>,
    pub until: Until,
    /// Requests that take longer are listed.
    pub slow: Duration,
    pub seed: u64,
}

#[derive(Clone, Debug)]
pub enum Until {
    Elapsed(Duration),
    Requests(u64),
    Told(Arc<AtomicBool>),
}

#[derive(Debug)]
pub struct Outcome {
    pub reads: u64,
    pub writes: u64,
    pub elapsed: Duration,
    /// Requests that the rate asked for and that found no place among those under way before the end.
    pub unsent: u64,
    /// Nanoseconds.
    pub latency: Histogram<u64>,
    pub slow: Vec<Slow>,
}

/// A request that took long.
#[derive(Clone, Copy, Debug)]
pub struct Slow {
    pub sent: Instant,
    pub took: Duration,
}

impl Outcome {
    pub fn requests(&self) -> u64 {
        self.reads + self.writes
    }

    /// With what another client did at the same time.
    pub fn and(mut self, other: Outcome) -> Outcome {
        self.reads += other.reads;
        self.writes += other.writes;
        self.unsent += other.unsent;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.latency += other.latency;
        self.slow.extend(other.slow);
        self
    }
}

/// Runs a job to its end. `contents` comes back as it is then.
pub async fn run(
    device: Arc<dyn BlockDevice>,
    job: Job,
    contents: Contents,
) -> (Result<Outcome, BenchError>, Option<Contents>) {
    let limit = match &job.until {
        Until::Elapsed(time) => *time + DRAIN,
        Until::Requests(_) | Until::Told(_) => Duration::from_secs(3600),
    };
    let (done, ended) = oneshot::channel();
    let generator = Arc::new_cyclic(|me| Generator::new(device, job, contents, me.clone(), done));
    let ticks = generator.ticks();
    for place in 0..generator.depth {
        generator.send_next(place);
    }
    let in_time = tokio::time::timeout(limit, generator.until(ended, ticks)).await.is_ok();
    let mut state = generator.lock();
    let contents = state.contents.take();
    let failure = state.failure.take();
    let result = match failure {
        Some(error) => Err(error),
        None if !in_time => Err(BenchError::Late { what: "answering the last requests".to_owned(), waited: limit }),
        None => Ok(state.outcome()),
    };
    (result, contents)
}

struct Generator {
    device: Arc<dyn BlockDevice>,
    /// Itself, as the device wants it.
    me: Weak<Generator>,
    depth: usize,
    state: Mutex<State>,
}

struct State {
    job: Job,
    begin: Instant,
    end: Instant,
    places: Vec<Place>,
    /// Places that wait for their time to send; only with a rate.
    free: Vec<usize>,
    contents: Option<Contents>,
    noise: Bytes,
    random: u64,
    next_block: u64,
    sent: u64,
    under_way: usize,
    reads: u64,
    writes: u64,
    latency: Histogram<u64>,
    slow: Vec<Slow>,
    failure: Option<BenchError>,
    done: Option<oneshot::Sender<()>>,
}

/// A place in the queue: the request that is under way there.
#[derive(Clone, Debug)]
struct Place {
    /// Or should have been (G4).
    sent: Instant,
    is_write: bool,
    first: u64,
    /// What a verified read has to bring.
    expected: Vec<u32>,
}

impl Generator {
    fn new(
        device: Arc<dyn BlockDevice>,
        job: Job,
        contents: Contents,
        me: Weak<Generator>,
        done: oneshot::Sender<()>,
    ) -> Generator {
        let begin = Instant::now();
        let place = Place { sent: begin, is_write: false, first: 0, expected: Vec::new() };
        let depth = job.depth;
        let state = State {
            begin,
            end: begin,
            places: vec![place; depth],
            free: Vec::new(),
            contents: Some(contents),
            noise: if job.verify || job.write_percent == 0 { Bytes::new() } else { noise(job.seed) },
            random: job.seed,
            next_block: job.blocks.start,
            sent: 0,
            under_way: 0,
            reads: 0,
            writes: 0,
            latency: Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("bounds and 3 digits are allowed"),
            slow: Vec::new(),
            failure: None,
            done: Some(done),
            job,
        };
        Generator { device, me, depth, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send_next(&self, place: usize) {
        let Some(me) = self.me.upgrade() else { return };
        let Some(request) = self.lock().next(place) else { return };
        let completions: Arc<dyn Completions> = me;
        self.device.submit(request, &completions);
    }

    fn ticks(&self) -> Option<Ticks> {
        let state = self.lock();
        state.job.rate.map(|rate| Ticks::start(rate, state.begin))
    }

    /// Sends at each tick what is due, on the thread of the completions (G3), until the job has ended.
    async fn until(&self, mut ended: oneshot::Receiver<()>, ticks: Option<Ticks>) {
        let Some(ticks) = ticks else {
            // The other end only goes with the generator.
            let _ = ended.await;
            return;
        };
        while ended.try_recv().is_err() {
            ticks.next().await;
            loop {
                // The lock goes with this line (G2).
                let due = self.lock().take_due();
                let Some(place) = due else { break };
                self.send_next(place);
            }
        }
    }
}

impl Completions for Generator {
    fn complete(&self, tag: u64, result: Result<BlockReply, BlockError>) {
        let place = usize::try_from(tag).expect("our own tag");
        self.lock().on_completed(place, result);
        self.send_next(place);
    }
}

impl State {
    fn is_over(&self) -> bool {
        self.failure.is_some()
            || match &self.job.until {
                Until::Elapsed(time) => self.elapsed() >= *time,
                Until::Requests(requests) => self.sent >= *requests,
                Until::Told(stop) => stop.load(Ordering::Relaxed),
            }
    }

    /// Until the last completion, which saves looking at the clock; at a rate there may be none for long.
    fn elapsed(&self) -> Duration {
        if self.job.rate.is_some() { self.begin.elapsed() } else { self.end.duration_since(self.begin) }
    }

    /// When the next request is to be sent, if that is set.
    fn due(&self) -> Option<Instant> {
        self.job.rate.map(|rate| self.begin + rate.due(self.sent))
    }

    /// A place that has waited and has something to do now: to send, or to see that the job is over.
    fn take_due(&mut self) -> Option<usize> {
        let is_due = self.is_over() || self.due().is_none_or(|due| due <= Instant::now());
        self.free.pop_if(|_| is_due)
    }

    /// The next request for this place, unless the job is over or nothing is due.
    fn next(&mut self, place: usize) -> Option<BlockRequest> {
        if self.is_over() || self.contents.is_none() {
            if self.under_way == 0
                && let Some(done) = self.done.take()
            {
                // Who waits may have given up.
                let _ = done.send(());
            }
            return None;
        }
        let due = self.due();
        if due.is_some_and(|due| due > Instant::now()) {
            self.free.push(place);
            return None;
        }
        let is_write = match self.job.write_percent {
            0 => false,
            100 => true,
            percent => self.random() % 100 < u64::from(percent),
        };
        let count = self.job.request_bytes / BLOCK_BYTES;
        let first = self.choose(u64::from(count));
        self.sent += 1;
        self.under_way += 1;
        let contents = self.contents.as_mut().expect("checked above");
        let slot = &mut self.places[place];
        (slot.is_write, slot.first) = (is_write, first);
        let offset = first * u64::from(BLOCK_BYTES);
        let op = if !is_write {
            slot.expected.clear();
            if self.job.verify {
                slot.expected.extend_from_slice(contents.expect(first, count));
            }
            BlockOp::Read { offset, len: self.job.request_bytes }
        } else if self.job.verify {
            BlockOp::Write { offset, data: contents.write(first, count) }
        } else {
            contents.forget(first, count);
            let bytes = self.job.request_bytes as usize;
            let spare = (self.noise.len() - bytes) as u64 / 512 + 1;
            let at = (self.random() % spare) as usize * 512;
            BlockOp::Write { offset, data: self.noise.slice(at..at + bytes) }
        };
        self.places[place].sent = due.unwrap_or_else(Instant::now);
        Some(BlockRequest { tag: place as u64, op })
    }

    fn choose(&mut self, count: u64) -> u64 {
        let Range { start, end } = self.job.blocks;
        let slots = (end - start) / count;
        if self.job.random {
            return start + self.random() % slots * count;
        }
        let first = self.next_block;
        self.next_block = if first + 2 * count > end { start } else { first + count };
        first
    }

    /// splitmix64 (Steele, Lea, Flood 2014).
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn on_completed(&mut self, place: usize, result: Result<BlockReply, BlockError>) {
        let now = Instant::now();
        self.end = now;
        self.under_way -= 1;
        let slot = &self.places[place];
        let took = now.duration_since(slot.sent);
        if slot.is_write {
            self.writes += 1
        } else {
            self.reads += 1
        }
        self.latency.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        if took >= self.job.slow && self.slow.len() < SLOW_MAX {
            self.slow.push(Slow { sent: slot.sent, took });
        }
        if let Err(error) = self.judge(place, result) {
            self.failure.get_or_insert(error);
        }
    }

    fn judge(&self, place: usize, result: Result<BlockReply, BlockError>) -> Result<(), BenchError> {
        let slot = &self.places[place];
        let op = if slot.is_write { "write" } else { "read" };
        let offset = slot.first * u64::from(BLOCK_BYTES);
        match result {
            Err(reason) => Err(BenchError::Io { op, offset, len: self.job.request_bytes, reason }),
            Ok(BlockReply::Done) if slot.is_write => Ok(()),
            Ok(BlockReply::Data(pieces)) if !slot.is_write => match &self.contents {
                Some(contents) if self.job.verify => contents.check(slot.first, &slot.expected, &pieces),
                _ => Ok(()),
            },
            Ok(reply) => Err(BenchError::Wrong(format!("a {op} at {offset} was answered with {reply:?}"))),
        }
    }

    fn outcome(&mut self) -> Outcome {
        Outcome {
            reads: self.reads,
            writes: self.writes,
            elapsed: self.end.duration_since(self.begin),
            unsent: match (&self.job.until, self.job.rate) {
                (Until::Elapsed(time), Some(rate)) => rate.requests(*time).saturating_sub(self.sent),
                _ => 0,
            },
            latency: self.latency.clone(),
            slow: std::mem::take(&mut self.slow),
        }
    }
}

fn noise(seed: u64) -> Bytes {
    let mut x = seed | 1;
    let words = (0..NOISE / 8).flat_map(|_| {
        // xorshift64 (Marsaglia 2003).
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    });
    words.collect::<Vec<u8>>().into()
}

#[cfg(test)]
mod tests;
