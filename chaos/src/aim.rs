//! What a seed aims its faults at (design.md §5): uniform ones find little.

use crate::rng::Rng;
use std::fmt;
use std::str::FromStr;

macro_rules! aims {
    ($($aim:ident, $name:literal, $weight:literal, $doc:literal;)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Aim {
            $(#[doc = $doc] $aim,)+
        }

        impl Aim {
            pub const ALL: &[Aim] = &[$(Aim::$aim),+];

            pub fn name(self) -> &'static str {
                match self { $(Aim::$aim => $name,)+ }
            }

            pub fn describe(self) -> &'static str {
                match self { $(Aim::$aim => $doc,)+ }
            }

            fn weight(self) -> u64 {
                match self { $(Aim::$aim => $weight,)+ }
            }
        }
    };
}

aims! {
    Gentle, "gentle", 1, "no faults, many requests at once";
    Uniform, "uniform", 3, "any fault at any time, each seed its own mix";
    IsolatePrimary, "isolate-primary", 3, "a primary is cut from its peers and the metadata service, not from clients, some of which don't hear of its successor";
    PausedPrimary, "paused-primary", 2, "a primary stands still in mid-write, is replaced, and goes on; or is cut off from the metadata service while a member's disk is slow";
    Joiner, "joiner", 3, "a joining member, or its primary, fails during catch-up or right after it";
    RestartGrantor, "restart-grantor", 2, "who granted a lease restarts while the holder is cut off";
    LostBoot, "lost-boot", 2, "a primary restarts and its registration is lost or late";
    LostAdd, "lost-add", 2, "requests for configurations and news of them are lost";
    SecondFailure, "second-failure", 3, "another failure during activation or recovery";
    PowerLoss, "power-loss", 3, "all OSDs lose power at once, with what their disks had not flushed";
    DamagedTail, "damaged-tail", 2, "the end of one OSD's log is damaged while it is down";
    BitRot, "bit-rot", 1, "blocks of one OSD rot";
    BelowMinSize, "below-min-size", 2, "all members but one fail under load, then it too";
    TakeOver, "take-over", 3, "a volume is taken over while the old host is alive, paused, or cut off";
    Snapshots, "snapshots", 3, "volumes are snapshotted while gateways hear of it late or never, and OSDs fail";
    Clones, "clones", 3, "volumes are cloned, the clones snapshotted and cloned, while gateways hear of it late or crash, and OSDs fail";
    BreakConnections, "break-connections", 2, "connections break all the time, and answers with them";
    Scrub, "scrub", 1, "scrubs are asked for and withdrawn, and whoever does them fails";
    FullDisk, "full-disk", 1, "disks fill up";
    BadDisk, "bad-disk", 3, "one OSD's disk fails: reads, writes and flushes, wrong places, rotten index pages, all writes for seconds";
    DamagedFrames, "damaged-frames", 2, "bits of frames flip on the way";
    LateView, "late-view", 2, "a joining member hears of its configuration right after its primary has made it join";
    DiskModes, "disk-modes", 0, "volumes are attached, detached and taken over in all disk modes, by gateways that are paused, cut off or crash";
}

/// Draws whether a seed aims at what came after the others; of a copy, so that the rest of them stay what they were.
const LATER_STREAM: u64 = 0x1a;
/// Of a thousand seeds.
const DISK_MODES_PERMILLE: u64 = 60;

impl Aim {
    /// The aim of a seed that wasn't given one.
    pub fn draw(rng: &mut Rng) -> Aim {
        let is_later = rng.clone().fork(LATER_STREAM).permille(DISK_MODES_PERMILLE);
        let drawn = Aim::draw_by_weight(rng);
        if is_later { Aim::DiskModes } else { drawn }
    }

    fn draw_by_weight(rng: &mut Rng) -> Aim {
        let total = Aim::ALL.iter().map(|a| a.weight()).sum();
        let mut left = rng.below(total);
        for aim in Aim::ALL {
            if left < aim.weight() {
                return *aim;
            }
            left -= aim.weight();
        }
        unreachable!("the draw is below the sum of the weights")
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Names no aim.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no aim; there are: {}", Aim::ALL.iter().map(|a| a.name()).collect::<Vec<_>>().join(", "))]
pub struct UnknownAim {
    name: String,
}

impl FromStr for Aim {
    type Err = UnknownAim;
    fn from_str(name: &str) -> Result<Aim, UnknownAim> {
        Aim::ALL.iter().copied().find(|a| a.name() == name).ok_or_else(|| UnknownAim { name: name.to_owned() })
    }
}
