//! Fate: what a power loss does to each unsynced thing. A pure function of the seed and of the thing's number, so the
//! same history and the same seed always lose the same bytes, in whatever order questions are asked.

/// What becomes of one unsynced write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteFate {
    Kept,
    Dropped,
    /// Each sector survives on its own.
    Torn,
}

/// The fates of one inode's writes. Each draws its own temper: were every sector a fair coin, a write of more than a few
/// sectors would never survive whole, and a file would never lose everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate {
    seed: u64,
    temper: Temper,
}

/// Out of 16 each; the rest is torn. `density`: how many of a torn write's sectors survive, out of 16.
#[derive(Clone, Copy, Debug)]
struct Temper {
    keep: u64,
    drop: u64,
    density: u64,
}

impl Fate {
    pub(crate) fn new(seed: u64, inode: u64) -> Fate {
        let seed = mix(mix(seed ^ 0x706f_7765_726c_6f73) ^ inode);
        let density = [2, 8, 14][(mix(seed ^ 1) % 3) as usize];
        let temper = match mix(seed ^ 2) % 8 {
            0 => Temper { keep: 0, drop: 16, density },
            1 => Temper { keep: 14, drop: 2, density },
            2 => Temper { keep: 0, drop: 0, density },
            3 => Temper { keep: 15, drop: 0, density },
            _ => Temper { keep: 5, drop: 5, density },
        };
        Fate { seed, temper }
    }

    pub(crate) fn of_write(&self, write: u64) -> WriteFate {
        let draw = self.draw(3, write, 0) % 16;
        if draw < self.temper.keep {
            WriteFate::Kept
        } else if draw < self.temper.keep + self.temper.drop {
            WriteFate::Dropped
        } else {
            WriteFate::Torn
        }
    }

    /// Which of eight neighbouring sectors of a torn write survive.
    pub(crate) fn torn_sectors(&self, write: u64, page: u64) -> u8 {
        (0..8)
            .filter(|&sector| self.draw(4 + sector, write, page) % 16 < self.temper.density)
            .fold(0, |m, s| m | 1 << s)
    }

    /// A fair coin for things that happen whole: a change of size, a directory operation.
    pub(crate) fn coin(&self, number: u64) -> bool {
        self.draw(20, number, 0).is_multiple_of(2)
    }

    /// A number in `0..=max`.
    pub(crate) fn up_to(&self, max: u64) -> u64 {
        self.draw(21, max, 0) % (max + 1)
    }

    fn draw(&self, kind: u64, a: u64, b: u64) -> u64 {
        mix(mix(mix(self.seed ^ kind) ^ a) ^ b)
    }
}

/// SplitMix64's step and finalizer (Steele, Lea and Flood, OOPSLA 2014).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
