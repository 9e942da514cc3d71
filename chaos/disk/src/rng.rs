//! Random numbers that are the same on every machine and in every version: a failing seed must fail for ever.
//!
//! xoshiro256++ (Blackman, Vigna 2019), seeded by splitmix64. Not a dependency, because a crate may change its algorithm.

#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

/// The finalizer of splitmix64 (Steele, Lea, Flood 2014).
pub fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Rng {
    pub fn new(seed: u64) -> Rng {
        let mut state = [0; 4];
        let mut x = seed;
        for word in &mut state {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            *word = mix(x);
        }
        Rng { state }
    }

    /// An independent stream: so that one more draw in the network does not change the workload.
    pub fn fork(&mut self, stream: u64) -> Rng {
        Rng::new(self.next_u64() ^ mix(stream))
    }

    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Below `bound`, which is not zero. The bias of the modulo is of no matter here.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "an empty choice");
        self.next_u64() % bound
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("below len")
    }

    /// True with this many chances in a thousand.
    pub fn permille(&mut self, chances: u64) -> bool {
        self.below(1000) < chances
    }

    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() { None } else { Some(&items[self.index(items.len())]) }
    }

    /// Mostly near `typical`, now and then many times as long: delays of networks and disks.
    pub fn delay(&mut self, typical: u64) -> u64 {
        let base = self.between(typical / 2, typical * 2);
        match self.below(100) {
            0 => base * 20,
            1..=5 => base * 4,
            _ => base,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn the_numbers_of_a_seed_never_change() {
        let mut rng = Rng::new(4711);
        let numbers: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        assert_eq!(numbers, GOLDEN);
    }

    const GOLDEN: [u64; 3] = [542082205739683008, 12433955113746671267, 14836909728888809424];
}
