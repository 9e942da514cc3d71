//! Overlapping requests of one attachment take effect in the order of their arrival, unless both only read.
//! A request waits for each earlier one that it conflicts with, running or waiting itself, so nobody is overtaken.

use std::collections::BTreeMap;

/// Requests that hold or await their range. A gateway's volume may have 1,000 connections with 256 requests each, so none of
/// them may look at all the others.
#[derive(Debug, Default)]
pub(super) struct RangeLock {
    /// By key, that is in order of arrival.
    held: BTreeMap<u64, Held>,
    reads: Ranges,
    writes: Ranges,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    start: u64,
    end: u64,
    writes: bool,
}

/// Ranges of similar length (from `1 << class` to less than twice that) by where they start: those of a class that reach into a
/// given range start inside it or less than their length before it, and of those that start there, most do.
#[derive(Debug, Default)]
struct Ranges {
    /// By class, then start and key; gives the end. No class is empty.
    classes: BTreeMap<u32, BTreeMap<(u64, u64), u64>>,
}

impl Ranges {
    fn class(held: &Held) -> u32 {
        (held.end - held.start).ilog2()
    }

    fn insert(&mut self, key: u64, held: &Held) {
        self.classes.entry(Ranges::class(held)).or_default().insert((held.start, key), held.end);
    }

    fn remove(&mut self, key: u64, held: &Held) {
        let class = Ranges::class(held);
        let ranges = self.classes.get_mut(&class).expect("what is removed was inserted");
        ranges.remove(&(held.start, key));
        if ranges.is_empty() {
            self.classes.remove(&class);
        }
    }

    /// Keys and ends of all that reach into the range, and of some that end before it.
    fn candidates(&self, range: &Held) -> impl Iterator<Item = (u64, u64)> {
        let (start, end) = (range.start, range.end);
        self.classes.iter().flat_map(move |(class, ranges)| {
            let longest = u64::MAX >> (u64::BITS - 1 - class);
            ranges.range((start.saturating_sub(longest), 0)..(end, 0)).map(|(&(_, key), &end)| (key, end))
        })
    }
}

impl RangeLock {
    /// Takes in a request of at least a byte, later than all before. Gives the number of releases it must await.
    pub(super) fn acquire(&mut self, key: u64, start: u64, len: u64, writes: bool) -> u32 {
        assert!(len > 0, "a request for nothing is answered at once");
        assert!(self.held.last_key_value().is_none_or(|(last, _)| *last < key), "keys rise in order of arrival");
        let new = Held { start, end: start + len, writes };
        let blockers = self.conflicting(&new).count();
        if writes { &mut self.writes } else { &mut self.reads }.insert(key, &new);
        self.held.insert(key, new);
        u32::try_from(blockers).expect("fewer requests than u32 counts")
    }

    /// Ends a request; calls `released` with each later one that was waiting for it, in order of arrival.
    pub(super) fn release(&mut self, key: u64, released: impl FnMut(u64)) {
        let ended = self.held.remove(&key).expect("only what was acquired is released");
        if ended.writes { &mut self.writes } else { &mut self.reads }.remove(key, &ended);
        let mut later: Vec<u64> = self.conflicting(&ended).filter(|later| *later > key).collect();
        later.sort_unstable();
        later.into_iter().for_each(released);
    }

    /// Keys of the requests that overlap this one, unless both only read.
    fn conflicting(&self, with: &Held) -> impl Iterator<Item = u64> {
        let start = with.start;
        let reads = with.writes.then(|| self.reads.candidates(with));
        let all = reads.into_iter().flatten().chain(self.writes.candidates(with));
        all.filter(move |(_, end)| *end > start).map(|(key, _)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_behind_a_waiting_write_waits_too() {
        let mut lock = RangeLock::default();
        assert_eq!(lock.acquire(1, 0, 8, false), 0);
        assert_eq!(lock.acquire(2, 4, 8, true), 1, "the write waits for the read");
        assert_eq!(lock.acquire(3, 11, 1, false), 1, "the later read waits for the waiting write");
        assert_eq!(lock.acquire(4, 0, 4, false), 0, "reads share");
        let mut released = Vec::new();
        lock.release(1, |key| released.push(key));
        assert_eq!(released, [2]);
        lock.release(2, |key| released.push(key));
        assert_eq!(released, [2, 3]);
    }

    #[test]
    fn neighbours_do_not_wait() {
        let mut lock = RangeLock::default();
        assert_eq!(lock.acquire(1, 0, 512, true), 0);
        assert_eq!(lock.acquire(2, 512, 512, true), 0);
    }

    /// Looks at every pair.
    fn naive(held: &[(u64, Held)], key: u64, with: &Held) -> Vec<u64> {
        let conflicts =
            |other: &Held| (with.writes || other.writes) && with.start < other.end && other.start < with.end;
        held.iter().filter(|(other, range)| *other != key && conflicts(range)).map(|(other, _)| *other).collect()
    }

    #[test]
    fn finds_what_a_look_at_every_pair_finds() {
        let mut seed = 1u64;
        let mut dice = |bound: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % bound
        };
        let mut lock = RangeLock::default();
        let mut held: Vec<(u64, Held)> = Vec::new();
        for key in 0..5000 {
            let longest = [1, 8, 100, 5000][dice(4) as usize];
            let len = 1 + dice(longest);
            let start = if dice(50) == 0 { 0 } else { dice(5000) };
            let new = Held { start, end: start + len, writes: dice(3) == 0 };
            let expected = naive(&held, key, &new);
            assert_eq!(lock.acquire(key, start, len, new.writes) as usize, expected.len());
            held.push((key, new));
            while held.len() > 60 || (!held.is_empty() && dice(3) == 0) {
                let (key, ended) = held.remove(dice(held.len() as u64) as usize);
                let mut later = naive(&held, key, &ended);
                later.retain(|other| *other > key);
                let mut released = Vec::new();
                lock.release(key, |key| released.push(key));
                assert_eq!(released, later);
            }
        }
        lock.acquire(5000, 0, u64::MAX, true);
        lock.release(5000, |_| panic!("nobody came later"));
    }

    #[test]
    fn a_request_looks_at_few_of_a_hundred_thousand_others() {
        let mut lock = RangeLock::default();
        for key in 0..100_000 {
            lock.acquire(key, key * 8192, 4096, key % 2 == 0);
        }
        lock.acquire(100_000, 0, 1 << 40, false);
        let request = Held { start: 50_000 * 8192, end: 50_000 * 8192 + 16_384, writes: true };
        let seen = lock.reads.candidates(&request).count() + lock.writes.candidates(&request).count();
        assert!(seen <= 5, "{seen}");
        assert_eq!(lock.conflicting(&request).count(), 3);
    }
}
