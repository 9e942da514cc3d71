//! Overlapping requests of one attachment take effect in the order of their arrival, unless both only read.
//! A request waits for each earlier one that it conflicts with, running or waiting itself, so nobody is overtaken.

/// Requests that hold or await their range, in order of arrival.
#[derive(Debug, Default)]
pub(super) struct RangeLock {
    // Scanned from end to end for each request: as many as the caller has in flight, next to each other in memory.
    held: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    key: u64,
    start: u64,
    end: u64,
    writes: bool,
}

impl Held {
    fn conflicts(&self, other: &Held) -> bool {
        (self.writes || other.writes) && self.start < other.end && other.start < self.end
    }
}

impl RangeLock {
    /// Takes in a request, later than all before. Gives the number of releases it must await.
    pub(super) fn acquire(&mut self, key: u64, start: u64, len: u64, writes: bool) -> u32 {
        let new = Held { key, start, end: start + len, writes };
        assert!(self.held.last().is_none_or(|last| last.key < key), "keys rise in order of arrival");
        let blockers = self.held.iter().filter(|held| held.conflicts(&new)).count();
        self.held.push(new);
        u32::try_from(blockers).expect("fewer requests than u32 counts")
    }

    /// Ends a request; calls `released` with each later one that was waiting for it.
    pub(super) fn release(&mut self, key: u64, mut released: impl FnMut(u64)) {
        let at = self.held.binary_search_by_key(&key, |held| held.key).expect("only what was acquired is released");
        let ended = self.held.remove(at);
        for later in &self.held[at..] {
            if later.conflicts(&ended) {
                released(later.key);
            }
        }
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
}
