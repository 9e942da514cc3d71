//! Of which chunks a clone is expected to have nothing itself, so that the base may be asked for what is read there at the same time as the clone (B4 in
//! base.rs). Only a hint: by the answers to the reads before, and forgotten at will.
//!
//! H1: of the reads of one chunk at most one in 23 asks the base in vain, however the clone's own blocks lie in it at random: where it asked in
//! vain, [`SILENT`] reads in a row have to need the base before it is asked at once again. (Of a chunk of which the share p is the clone's own, that
//! is p (1 - p)^8 of the reads, at most 0.043.)
//! H2: a chunk of which nothing is known is expected to be like the last ones of which nothing was known, within the same bound.

use ashlar_types::ChunkIndex;
use std::collections::BTreeMap;

/// Chunks that are remembered: a volume of 32 GiB.
const CHUNKS_MAX: u32 = 8192;
/// Reads in a row that have to need the base, where it was once asked in vain.
const SILENT: u8 = 8;

#[derive(Clone, Copy, Debug, Default)]
struct Streak {
    /// Reads in a row that needed the base, up to as many as are looked for.
    needed: u8,
    /// It was asked in vain.
    was_in_vain: bool,
}

impl Streak {
    fn expects_nothing(self) -> bool {
        self.needed >= if self.was_in_vain { SILENT } else { 1 }
    }

    fn learn(&mut self, is_needed: bool, was_asked: bool) {
        self.needed = if is_needed { (self.needed + 1).min(SILENT) } else { 0 };
        self.was_in_vain |= was_asked && !is_needed;
    }
}

#[derive(Debug, Default)]
pub(super) struct Hints {
    /// By the chunk's number modulo [`CHUNKS_MAX`], with the chunk: of those that share a place the newest is remembered.
    chunks: BTreeMap<u32, (ChunkIndex, Streak)>,
    /// First reads of chunks (H2).
    unknown: Streak,
}

impl Hints {
    fn known(&mut self, chunk: ChunkIndex) -> Option<&mut Streak> {
        let (of, streak) = self.chunks.get_mut(&(chunk.0 % CHUNKS_MAX))?;
        (*of == chunk).then_some(streak)
    }

    pub(super) fn expects_nothing(&mut self, chunk: ChunkIndex) -> bool {
        let streak = self.known(chunk).copied();
        streak.unwrap_or(self.unknown).expects_nothing()
    }

    /// Whether the base was needed for a read of the chunk, and whether it had been asked at once.
    pub(super) fn learn(&mut self, chunk: ChunkIndex, is_needed: bool, was_asked: bool) {
        if let Some(streak) = self.known(chunk) {
            return streak.learn(is_needed, was_asked);
        }
        self.unknown.learn(is_needed, was_asked);
        let mut streak = Streak::default();
        streak.learn(is_needed, was_asked);
        self.chunks.insert(chunk.0 % CHUNKS_MAX, (chunk, streak));
    }

    pub(super) fn clear(&mut self) {
        *self = Hints::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: ChunkIndex = ChunkIndex(5);

    #[test]
    fn one_read_that_needed_the_base_lets_expect_the_next() {
        let mut hints = Hints::default();
        assert!(!hints.expects_nothing(CHUNK), "of what was never read nothing is expected");
        hints.learn(CHUNK, true, false);
        assert!(hints.expects_nothing(CHUNK));
        hints.learn(CHUNK, false, true);
        assert!(!hints.expects_nothing(CHUNK));
    }

    #[test]
    fn after_asking_in_vain_as_many_in_a_row_have_to_need_the_base() {
        let mut hints = Hints::default();
        hints.learn(CHUNK, true, false);
        hints.learn(CHUNK, false, true);
        (0..SILENT - 1).for_each(|_| hints.learn(CHUNK, true, false));
        assert!(!hints.expects_nothing(CHUNK));
        hints.learn(CHUNK, false, false);
        (0..SILENT - 1).for_each(|_| hints.learn(CHUNK, true, false));
        assert!(!hints.expects_nothing(CHUNK), "not in a row");
        hints.learn(CHUNK, true, false);
        assert!(hints.expects_nothing(CHUNK));
    }

    #[test]
    fn few_reads_ask_in_vain_whatever_share_of_a_chunk_is_the_clones_own() {
        for own_percent in [1, 5, 11, 25, 50, 75, 99] {
            let (mut hints, mut random, mut in_vain) = (Hints::default(), 12345_u64, 0);
            for _ in 0..100_000 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let is_own = (random >> 33) % 100 < own_percent;
                let asks = hints.expects_nothing(CHUNK);
                in_vain += u32::from(asks && is_own);
                hints.learn(CHUNK, !is_own, asks);
            }
            assert!(in_vain <= 4600, "{own_percent} %: {in_vain}");
        }
    }

    #[test]
    fn a_chunk_that_was_never_read_is_expected_to_be_like_the_last_such_ones() {
        let mut hints = Hints::default();
        hints.learn(ChunkIndex(0), true, false);
        assert!(hints.expects_nothing(ChunkIndex(1)));
        hints.learn(ChunkIndex(1), false, true);
        assert!(!hints.expects_nothing(ChunkIndex(2)));
        for chunk in 2..2 + u32::from(SILENT) {
            assert!(!hints.expects_nothing(ChunkIndex(chunk)));
            hints.learn(ChunkIndex(chunk), true, false);
            assert!(hints.expects_nothing(ChunkIndex(chunk)), "of this one something is known");
        }
        assert!(hints.expects_nothing(ChunkIndex(100)));
        hints.learn(ChunkIndex(0), false, false);
        assert!(hints.expects_nothing(ChunkIndex(100)), "that was not its first read");
    }

    #[test]
    fn chunks_that_share_a_place_forget_each_other() {
        let (mut hints, other) = (Hints::default(), ChunkIndex(CHUNK.0 + CHUNKS_MAX));
        hints.learn(CHUNK, false, true);
        hints.learn(other, false, false);
        assert_eq!(hints.chunks.len(), 1);
        assert!(hints.known(CHUNK).is_none() && hints.known(other).is_some());
    }
}
