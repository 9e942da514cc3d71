//! Random messages that contradict nothing, from a seed.

use crate::message::{Change, Message, Outcome, PeerHello};
use crate::{FetchReply, IoReply, IoRequest, Kind, LayersReply, OverReply, OverRequest, Prepare, Push, Stack};
use ashlar_types::{
    BLOCK_BYTES, BLOCKS_PER_CHUNK, BlockIndex, BlockRange, Crc, IdSet, LayerId, Numbered, STACK_LAYERS_MAX, Version,
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// splitmix64.
pub(crate) struct Rng {
    pub state: u64,
    /// The longest list of a message; payloads are that many blocks at most.
    pub list_max: u64,
    /// The longest list within a list: all of them together must fit a frame.
    pub nested_max: u64,
    /// In how many lists what is drawn now lies.
    pub depth: u32,
}

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng { state: seed, list_max: 4, nested_max: 4, depth: 0 }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

pub(crate) trait Sample {
    fn sample(rng: &mut Rng) -> Self;
}

macro_rules! integers {
    ($($name:ty)*) => {$(
        impl Sample for $name {
            fn sample(rng: &mut Rng) -> $name {
                match rng.below(4) {
                    0 => 0,
                    1 => <$name>::MAX,
                    _ => rng.next() as $name,
                }
            }
        }
    )*};
}
integers!(u8 u16 u32 u64);

impl Sample for u128 {
    fn sample(rng: &mut Rng) -> u128 {
        u128::from(rng.next()) << 64 | u128::from(rng.next())
    }
}

impl Sample for bool {
    fn sample(rng: &mut Rng) -> bool {
        rng.below(2) == 1
    }
}

impl<T: Sample> Sample for Option<T> {
    fn sample(rng: &mut Rng) -> Option<T> {
        bool::sample(rng).then(|| T::sample(rng))
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn sample(rng: &mut Rng) -> Vec<T> {
        let longest = if rng.depth == 0 { rng.list_max } else { rng.nested_max };
        let count = rng.below(longest + 1);
        rng.depth += 1;
        let items = (0..count).map(|_| T::sample(rng)).collect();
        rng.depth -= 1;
        items
    }
}

impl<A: Sample, B: Sample> Sample for (A, B) {
    fn sample(rng: &mut Rng) -> (A, B) {
        (A::sample(rng), B::sample(rng))
    }
}

impl<K: Sample + Ord, V: Sample> Sample for BTreeMap<K, V> {
    fn sample(rng: &mut Rng) -> BTreeMap<K, V> {
        Vec::sample(rng).into_iter().collect()
    }
}

impl<T: Numbered> Sample for IdSet<T> {
    fn sample(rng: &mut Rng) -> IdSet<T> {
        let ends: Vec<(u64, u64)> = Sample::sample(rng);
        let mut set = IdSet::default();
        ends.into_iter().for_each(|(first, last)| set.insert(T::of(first), T::of(last)));
        set
    }
}

impl Sample for Version {
    fn sample(rng: &mut Rng) -> Version {
        Version::from_bits(u64::sample(rng))
    }
}

impl Sample for BlockIndex {
    fn sample(rng: &mut Rng) -> BlockIndex {
        BlockIndex(rng.below(u64::from(BLOCKS_PER_CHUNK)) as u16)
    }
}

impl Sample for BlockRange {
    fn sample(rng: &mut Rng) -> BlockRange {
        let count = 1 + rng.below(rng.list_max);
        let first = rng.below(u64::from(BLOCKS_PER_CHUNK) - count + 1);
        BlockRange::new(BlockIndex(first as u16), count as u16).expect("within the chunk")
    }
}

impl Sample for PeerHello {
    fn sample(rng: &mut Rng) -> PeerHello {
        match rng.below(2) {
            0 => PeerHello::Osd { id: Sample::sample(rng), boot: Sample::sample(rng) },
            _ => PeerHello::Client(Sample::sample(rng)),
        }
    }
}

impl Sample for Change {
    fn sample(rng: &mut Rng) -> Change {
        let range = BlockRange::sample(rng);
        match rng.below(2) {
            0 => Change::Write { range, crcs: range.iter().map(|_| Crc::sample(rng)).collect() },
            // Drawn from what was drawn before, so that the golden samples stay what they are.
            _ if range.count() % 4 == 3 => {
                Change::Merge { from: LayerId(0), at: Version::from_bits(range.first().0.into()) }
            }
            _ => Change::Zero { range },
        }
    }
}

impl Sample for Outcome {
    fn sample(rng: &mut Rng) -> Outcome {
        let (promised, newest) = (Sample::sample(rng), Sample::sample(rng));
        *rng.pick(&[
            Outcome::Ok,
            Outcome::WrongEpoch { promised },
            Outcome::Mismatch { newest },
            Outcome::NoSpace,
            Outcome::BadChecksum,
            Outcome::NotYet,
            Outcome::Missing,
        ])
    }
}

fn payload(rng: &mut Rng, bytes: usize) -> Bytes {
    Bytes::from(vec![rng.next() as u8; bytes])
}

fn blocks(rng: &mut Rng, count: usize) -> Bytes {
    payload(rng, count * BLOCK_BYTES as usize)
}

/// A message of this kind.
pub(crate) fn message(kind: Kind, rng: &mut Rng) -> Message {
    match kind {
        Kind::Hello => Message::Hello(Sample::sample(rng)),
        Kind::HelloReply => Message::HelloReply(Sample::sample(rng)),
        Kind::IoRequest => {
            let bytes = rng.below(rng.list_max * u64::from(BLOCK_BYTES)) as usize;
            Message::IoRequest(IoRequest { payload: payload(rng, bytes), ..Sample::sample(rng) })
        }
        Kind::IoReply => {
            let reply = IoReply::sample(rng);
            let present = reply.blocks.iter().flatten().count();
            Message::IoReply(IoReply { payload: blocks(rng, present), ..reply })
        }
        Kind::Prepare => {
            let mut prepare = Prepare::sample(rng);
            if prepare.write.change.is_merge() {
                // Something lies below it.
                prepare.write.chunk.layer.0 = prepare.write.chunk.layer.0.max(1);
            }
            let count = match &prepare.write.change {
                Change::Write { range, .. } => usize::from(range.count()),
                Change::Zero { .. } | Change::Merge { .. } => 0,
            };
            Message::Prepare(Prepare { payload: blocks(rng, count), ..prepare })
        }
        Kind::Prepared => Message::Prepared(Sample::sample(rng)),
        Kind::Commit => Message::Commit(Sample::sample(rng)),
        Kind::LeaseRequest => Message::LeaseRequest(Sample::sample(rng)),
        Kind::LeaseGrant => Message::LeaseGrant(Sample::sample(rng)),
        Kind::CreditRequest => Message::CreditRequest(Sample::sample(rng)),
        Kind::CreditGrant => Message::CreditGrant(Sample::sample(rng)),
        Kind::ReservedRequest => Message::ReservedRequest(Sample::sample(rng)),
        Kind::ReservedGrant => Message::ReservedGrant(Sample::sample(rng)),
        Kind::Promise => Message::Promise(Sample::sample(rng)),
        Kind::PromiseReply => Message::PromiseReply(Sample::sample(rng)),
        Kind::Decide => Message::Decide(Sample::sample(rng)),
        Kind::Decided => Message::Decided(Sample::sample(rng)),
        Kind::RaiseFloor => Message::RaiseFloor(Sample::sample(rng)),
        Kind::FloorRaised => Message::FloorRaised(Sample::sample(rng)),
        Kind::JoinStart => Message::JoinStart(Sample::sample(rng)),
        Kind::JoinChunks => Message::JoinChunks(Sample::sample(rng)),
        Kind::Push => {
            let mut push = Push::sample(rng);
            push.blocks.sort_by_key(|b| b.block);
            push.blocks.dedup_by_key(|b| b.block);
            let present = push.blocks.iter().filter(|b| b.state.crc.is_some()).count();
            Message::Push(Push { payload: blocks(rng, present), ..push })
        }
        Kind::Pushed => Message::Pushed(Sample::sample(rng)),
        Kind::FetchRequest => Message::FetchRequest(Sample::sample(rng)),
        Kind::FetchReply => {
            let reply = FetchReply::sample(rng);
            let count = usize::from(reply.outcome == Outcome::Ok);
            Message::FetchReply(FetchReply { payload: blocks(rng, count), ..reply })
        }
        Kind::DigestRequest => Message::DigestRequest(Sample::sample(rng)),
        Kind::DigestReply => Message::DigestReply(Sample::sample(rng)),
        Kind::OverRequest => {
            let mut sent = OverRequest::sample(rng);
            sent.base.truncate(2);
            let bytes = rng.below(rng.list_max * u64::from(BLOCK_BYTES)) as usize;
            Message::OverRequest(OverRequest {
                request: IoRequest { payload: payload(rng, bytes), ..sent.request },
                ..sent
            })
        }
        Kind::OverReply => {
            let OverReply { reply, mut unwritten } = OverReply::sample(rng);
            unwritten.sort_by_key(|range| range.first());
            let mut end = None;
            unwritten.retain(|range| {
                let is_apart = end.is_none_or(|end| end < range.first().0);
                if is_apart {
                    end = Some(range.end());
                }
                is_apart
            });
            let present = reply.blocks.iter().flatten().count();
            Message::OverReply(OverReply { reply: IoReply { payload: blocks(rng, present), ..reply }, unwritten })
        }
        Kind::LayersRequest => Message::LayersRequest(Sample::sample(rng)),
        Kind::LayersReply => {
            let mut reply = LayersReply::sample(rng);
            for run in &mut reply.runs {
                run.count = 1;
                run.depth = run.depth.map(|depth| depth % STACK_LAYERS_MAX as u16);
                run.has_data &= run.depth.is_some();
            }
            Message::LayersReply(reply)
        }
        Kind::Stack => loop {
            let stack = Stack::sample(rng);
            if !stack.layers.is_empty() {
                break Message::Stack(stack);
            }
        },
    }
}
