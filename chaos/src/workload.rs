//! What clients ask for: few volumes, few chunks, few hot blocks, so that requests meet.

use crate::check::{OpKind, SECTORS_PER_BLOCK};
use crate::clock::MS;
use crate::rng::Rng;
use ashlar_types::{BLOCKS_PER_CHUNK, CHUNK_BYTES};
use std::collections::BTreeMap;

const BLOCKS: u64 = BLOCKS_PER_CHUNK as u64;

/// A mix, drawn by each seed; all clients of a seed share it.
#[derive(Clone, Debug)]
pub struct WorkloadProfile {
    pub chunks: u64,
    /// First blocks of the places where requests go, in the volume.
    pub places: Vec<u64>,
    pub in_flight_max: usize,
    /// Typical time between requests of a client, in microseconds.
    pub pause: u64,
    pub read_permille: u64,
    pub partial_permille: u64,
    pub zero_permille: u64,
    pub wide_permille: u64,
    /// Writes of whole fresh blocks all over the volume: they fill disks.
    pub filling_permille: u64,
}

/// More zeroes at one block would make its check slow.
const ZEROES_PER_BLOCK_MAX: u32 = 12;

impl WorkloadProfile {
    pub fn draw(rng: &mut Rng) -> WorkloadProfile {
        let chunks = rng.between(1, 4);
        let mut places = Vec::new();
        for chunk in 0..chunks {
            for _ in 0..rng.between(1, 4) {
                places.push(chunk * BLOCKS + rng.below(BLOCKS - 8));
            }
        }
        if chunks > 1 && rng.permille(500) {
            places.push(BLOCKS - 2);
        }
        WorkloadProfile {
            chunks,
            places,
            in_flight_max: usize::try_from(rng.between(1, 12)).expect("small"),
            pause: *rng.choose(&[300, MS, 3 * MS, 10 * MS]).expect("not empty"),
            read_permille: rng.between(200, 600),
            partial_permille: if rng.permille(600) { rng.between(50, 400) } else { 0 },
            zero_permille: if rng.permille(500) { rng.between(10, 100) } else { 0 },
            wide_permille: rng.between(0, 400),
            filling_permille: 0,
        }
    }

    pub fn volume_bytes(&self) -> u64 {
        self.chunks * u64::from(CHUNK_BYTES)
    }
}

/// A request, in sectors of its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub kind: OpKind,
    pub first_sector: u64,
    pub sectors: u64,
}

#[derive(Debug)]
pub struct Workload {
    rng: Rng,
    profile: WorkloadProfile,
    zeroes: BTreeMap<u64, u32>,
    next_fill: u64,
}

impl Workload {
    pub fn new(rng: Rng, profile: WorkloadProfile) -> Workload {
        Workload { rng, profile, zeroes: BTreeMap::new(), next_fill: 0 }
    }

    pub fn in_flight_max(&self) -> usize {
        self.profile.in_flight_max
    }

    pub fn next_pause(&mut self) -> u64 {
        self.rng.delay(self.profile.pause)
    }

    pub fn next_request(&mut self) -> Request {
        if self.rng.permille(self.profile.filling_permille) {
            return self.fill();
        }
        let kind = self.kind();
        let place = *self.rng.choose(&self.profile.places).expect("a profile has places");
        let blocks = if self.rng.permille(self.profile.wide_permille) { self.rng.between(2, 4) } else { 1 };
        let first = place + self.rng.below(2);
        let (first_sector, sectors) = (first * SECTORS_PER_BLOCK, blocks * SECTORS_PER_BLOCK);
        if kind == OpKind::Zero && !self.may_zero(first, blocks) {
            return Request { kind: OpKind::Read, first_sector, sectors };
        }
        if self.rng.permille(self.profile.partial_permille) {
            let skip = self.rng.below(sectors);
            let sectors = self.rng.between(1, sectors - skip);
            return Request { kind, first_sector: first_sector + skip, sectors };
        }
        Request { kind, first_sector, sectors }
    }

    fn kind(&mut self) -> OpKind {
        if self.rng.permille(self.profile.read_permille) {
            OpKind::Read
        } else if self.rng.permille(self.profile.zero_permille) {
            OpKind::Zero
        } else {
            OpKind::Write
        }
    }

    fn may_zero(&mut self, first: u64, blocks: u64) -> bool {
        let allowed = (first..first + blocks).all(|b| self.zeroes.get(&b).is_none_or(|n| *n < ZEROES_PER_BLOCK_MAX));
        if allowed {
            (first..first + blocks).for_each(|b| *self.zeroes.entry(b).or_default() += 1);
        }
        allowed
    }

    fn fill(&mut self) -> Request {
        let all = self.profile.chunks * BLOCKS;
        let blocks = 16.min(all - self.next_fill % all);
        let first = self.next_fill % all;
        self.next_fill += blocks;
        Request { kind: OpKind::Write, first_sector: first * SECTORS_PER_BLOCK, sectors: blocks * SECTORS_PER_BLOCK }
    }
}
