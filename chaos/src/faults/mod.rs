//! What goes wrong, and when. Each seed has one aim and draws the rest.
//!
//! F1: disks are damaged at one OSD at a time, and only while every PG has all its members in sync: the failure model
//! (design.md §9) promises nothing for more.
//! F2: a cut, a pause or a stop ends by itself; the last of them when the load ends.

mod clones;
mod episodes;
mod modes;
mod snapshots;

use crate::aim::Aim;
use crate::clock::{Instant, MS};
use crate::net::ProcId;
use crate::rng::Rng;
use crate::world::World;
use ashlar_types::{Epoch, OsdId, PgId};

/// Something that a fault plan does later.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// With or without its machine's power, for so long.
    Crash {
        osd: OsdId,
        power: bool,
        down: Instant,
    },
    CrashPrimary {
        pg: PgId,
        power: bool,
        down: Instant,
    },
    LosePrimaryBoot {
        pg: PgId,
        boot: LostBoot,
    },
    PauseOsd {
        osd: OsdId,
        span: Instant,
    },
    CutFromPrimary {
        osd: OsdId,
        pg: PgId,
        span: Instant,
    },
    TakeOver {
        volume: u32,
    },
    Clone {
        draw: u64,
    },
    Flatten {
        draw: u64,
    },
    MakeEager {
        draw: u64,
    },
    EndAttachment {
        volume: u32,
        draw: u64,
    },
}

/// A process restarts at once, and the metadata service doesn't hear of it: no supervisor testifies, and for a while so many calls in a
/// thousand are lost, its own, and mostly also those of its peers, who see its connections break.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LostBoot {
    power: bool,
    down: Instant,
    mute_permille: u64,
    are_peers_mute: bool,
    span: Instant,
}

/// What an act may wait for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Condition {
    /// The PG has another epoch.
    EpochAfter(PgId, Epoch),
    /// The OSD is up and not in sync.
    Joining(PgId, OsdId),
    /// It left after this epoch, and is in sync again.
    InSyncAgain(PgId, OsdId, Epoch),
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    condition: Condition,
    /// How long after the condition holds.
    delay: Instant,
    act: Act,
    expires: Instant,
}

#[derive(Debug)]
pub struct Faults {
    pub(crate) rng: Rng,
    aim: Aim,
    next_episode: Instant,
    planned: Vec<(Instant, Act)>,
    waiting: Vec<Waiting>,
    /// How often something unrelated happens, in thousandths of ticks.
    background_permille: u64,
    /// How often a volume is made and deleted, in thousandths of ticks.
    churn_permille: u64,
    /// Draws of its own, so that the other faults of a seed stay what they are.
    snapshots: Rng,
    /// How often a volume is snapshotted, in thousandths of ticks.
    snapshot_permille: u64,
    /// Draws when volumes are snapshotted together, and which.
    groups: Rng,
    /// How often that is, in thousandths of ticks.
    group_permille: u64,
    /// Draws which snapshots are deleted, and when.
    deletions: Rng,
    /// How often one is deleted, in thousandths of ticks.
    deletion_permille: u64,
    /// Draws when volumes become eager, or thin again.
    provisions: Rng,
    /// Weights of uniform faults: each seed its own mix.
    mix: [u64; UNIFORM_KINDS],
}

const UNIFORM_KINDS: usize = 9;
const SNAPSHOT_STREAM: u64 = 0x5a;
const DELETION_STREAM: u64 = 0x5b;
const GROUP_STREAM: u64 = 0x5c;
const PROVISION_STREAM: u64 = 0x5d;
/// How often the plan looks at the world.
pub const TICK: Instant = 2 * MS;

impl Faults {
    pub fn new(mut rng: Rng, aim: Aim) -> Faults {
        let mut mix = [0; UNIFORM_KINDS];
        for weight in &mut mix {
            *weight = if rng.permille(500) { rng.between(1, 10) } else { 0 };
        }
        let background_permille = match aim {
            Aim::Gentle | Aim::DamagedTail | Aim::BitRot | Aim::BadDisk => 0,
            _ if rng.permille(300) => rng.between(1, 5),
            _ => 0,
        };
        let churn_permille = if rng.permille(300) { rng.between(1, 8) } else { 0 };
        let (planned, waiting) = (Vec::new(), Vec::new());
        // Of a copy: what else a seed draws is as it was before there were snapshots.
        let mut snapshots = rng.clone().fork(SNAPSHOT_STREAM);
        let snapshot_permille = match aim {
            _ if snapshots.permille(300) => snapshots.between(1, 4),
            _ => 0,
        };
        let mut deletions = rng.clone().fork(DELETION_STREAM);
        let deletion_permille = match aim {
            Aim::Snapshots | Aim::Clones => deletions.between(2, 12),
            _ if deletions.permille(500) => deletions.between(1, 6),
            _ => 0,
        };
        let mut groups = rng.clone().fork(GROUP_STREAM);
        let group_permille = match aim {
            Aim::Snapshots if groups.permille(500) => groups.between(4, 20),
            _ if groups.permille(150) => groups.between(1, 4),
            _ => 0,
        };
        let provisions = rng.clone().fork(PROVISION_STREAM);
        Faults {
            provisions,
            groups,
            group_permille,
            snapshots,
            snapshot_permille,
            deletions,
            deletion_permille,
            rng,
            aim,
            next_episode: 0,
            planned,
            waiting,
            background_permille,
            churn_permille,
            mix,
        }
    }

    pub(crate) fn aim(&self) -> Aim {
        self.aim
    }

    /// Called every [`TICK`] while clients work.
    pub fn tick(&mut self, world: &mut World) {
        self.act_on_conditions(world);
        let now = world.now;
        let (due, later) = self.planned.drain(..).partition(|(at, _)| *at <= now);
        self.planned = later;
        let due: Vec<(Instant, Act)> = due;
        for (_, act) in due {
            self.perform(world, act);
        }
        if self.rng.permille(self.background_permille) {
            self.uniform(world);
        }
        if self.rng.permille(self.churn_permille) && world.is_operator_idle() {
            world.churn();
        }
        if self.snapshots.permille(self.snapshot_permille) {
            let volume = self.snapshots.below(u64::from(world.shape.volumes));
            world.snapshot(u32::try_from(volume).expect("few"));
        }
        if self.groups.permille(self.group_permille) {
            self.snapshot_group(world);
        }
        if self.deletions.permille(self.deletion_permille) {
            world.delete_snapshot(&mut self.deletions);
        }
        if now >= self.next_episode {
            let span = self.episode(world);
            self.next_episode = now + span;
        }
    }

    pub(crate) fn plan(&mut self, at: Instant, act: Act) {
        self.planned.push((at, act));
    }

    pub(crate) fn when(&mut self, world: &World, condition: Condition, delay: Instant, act: Act) {
        self.waiting.push(Waiting { condition, delay, act, expires: world.now + 5_000 * MS });
    }

    fn act_on_conditions(&mut self, world: &World) {
        let now = world.now;
        let mut ready = Vec::new();
        self.waiting.retain(|w| {
            let holds = w.condition.holds(world);
            if holds {
                ready.push((now + w.delay, w.act));
            }
            !holds && now < w.expires
        });
        self.planned.extend(ready);
    }

    fn perform(&mut self, world: &mut World, act: Act) {
        match act {
            Act::Crash { osd, power, down } => world.crash_osd_for(osd, power, down),
            Act::CrashPrimary { pg, power, down } => {
                if let Some(osd) = world.truth.pgs.get(&pg).and_then(|c| c.primary) {
                    world.crash_osd_for(osd, power, down);
                }
            }
            Act::LosePrimaryBoot { pg, boot } => {
                if let Some(osd) = world.truth.pgs.get(&pg).and_then(|c| c.primary) {
                    boot.happen(world, osd);
                }
            }
            Act::PauseOsd { osd, span } => world.pause(ProcId::Osd(osd), span),
            Act::CutFromPrimary { osd, pg, span } => {
                if let Some(primary) = world.truth.pgs.get(&pg).and_then(|c| c.primary).filter(|p| *p != osd) {
                    world.cut_both(ProcId::Osd(osd), ProcId::Osd(primary), span);
                }
            }
            Act::TakeOver { volume } => world.take_over(volume),
            Act::Clone { draw } => world.clone_a_snapshot(&mut Rng::new(draw)),
            Act::EndAttachment { volume, draw } => world.end_attachment(volume, &mut Rng::new(draw)),
            Act::MakeEager { draw } => world.zero_a_volume(&mut Rng::new(draw)),
            Act::Flatten { draw } => world.flatten_a_clone(&mut Rng::new(draw)),
        }
    }
}

impl LostBoot {
    pub(crate) fn happen(self, world: &mut World, osd: OsdId) {
        world.crash_osd_silently(osd, self.power, self.down);
        let muted: Vec<OsdId> = world.osds.keys().copied().filter(|o| self.are_peers_mute || *o == osd).collect();
        for osd in muted {
            world.mute(ProcId::Osd(osd), self.mute_permille, self.span);
        }
    }
}

impl Condition {
    fn holds(self, world: &World) -> bool {
        match self {
            Condition::EpochAfter(pg, epoch) => world.truth.pgs.get(&pg).is_some_and(|c| c.epoch > epoch),
            Condition::Joining(pg, osd) => {
                world.truth.osds.get(&osd).is_some_and(|o| o.up)
                    && world.osds.get(&osd).is_some_and(|o| o.process.is_up)
                    && world.truth.pgs.get(&pg).is_some_and(|c| !c.is_in_sync(osd))
            }
            Condition::InSyncAgain(pg, osd, left_after) => {
                world.truth.pgs.get(&pg).is_some_and(|c| c.is_in_sync(osd) && c.epoch.0 >= left_after.0 + 2)
            }
        }
    }
}
