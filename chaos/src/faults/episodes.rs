//! One episode of each aim. An episode sets something off and says how long to wait before the next.

use super::{Act, Condition, Faults, LostBoot, UNIFORM_KINDS};
use crate::aim::Aim;
use crate::clock::{Instant, MS, SECOND};
use crate::net::ProcId;
use crate::world::{DiskFault, Withheld, World};
use ashlar_types::view::PgConfig;
use ashlar_types::{MdsId, OsdId};

impl Faults {
    /// Returns the time until the next.
    pub(super) fn episode(&mut self, world: &mut World) -> Instant {
        match self.aim() {
            Aim::Gentle | Aim::FullDisk => 60 * SECOND,
            Aim::Uniform => {
                self.uniform(world);
                self.rng.between(20, 800) * MS
            }
            Aim::BreakConnections => {
                world.net.break_random(world.now);
                self.maybe_crash(world, 10);
                self.rng.between(2, 60) * MS
            }
            Aim::PowerLoss => self.power_loss(world),
            Aim::DamagedTail => self.damaged_tail(world),
            Aim::BitRot => self.bit_rot(world),
            Aim::BadDisk => self.bad_disk(world),
            Aim::DamagedFrames => self.damaged_frames(world),
            Aim::TakeOver => self.take_over(world),
            Aim::LostAdd => self.lost_add(world),
            Aim::Scrub => self.scrub(world),
            Aim::Snapshots => self.snapshots(world),
            Aim::Clones => self.clones(world),
            Aim::DiskModes => self.disk_modes(world),
            Aim::IsolatePrimary
            | Aim::PausedPrimary
            | Aim::Joiner
            | Aim::RestartGrantor
            | Aim::LostBoot
            | Aim::SecondFailure
            | Aim::LateView
            | Aim::BelowMinSize => {
                let Some(config) = world.hot_config(&mut self.rng) else { return 50 * MS };
                let Some(primary) = config.primary else { return 50 * MS };
                self.at_primary(world, &config, primary)
            }
        }
    }

    fn at_primary(&mut self, world: &mut World, config: &PgConfig, primary: OsdId) -> Instant {
        match self.aim() {
            Aim::IsolatePrimary => self.isolate(world, config, primary),
            Aim::PausedPrimary => self.paused_primary(world, config, primary),
            Aim::Joiner => self.joiner(world, config),
            Aim::LateView => self.late_view(world, config),
            Aim::RestartGrantor => self.restart_grantor(world, config, primary),
            Aim::LostBoot => self.lost_boot(world, config, primary),
            Aim::SecondFailure => self.second_failure(world, config, primary),
            _ => self.below_min_size(world, config, primary),
        }
    }

    pub(super) fn down_time(&mut self) -> Instant {
        if self.rng.permille(300) { self.rng.between(5, 100) * MS } else { self.rng.between(100, 2500) * MS }
    }

    pub(super) fn maybe_crash(&mut self, world: &mut World, permille: u64) {
        if self.rng.permille(permille) {
            let osd = self.any_osd(world);
            let (power, down) = (self.rng.permille(500), self.down_time());
            world.crash_osd_for(osd, power, down);
        }
    }

    fn any_osd(&mut self, world: &World) -> OsdId {
        let osds: Vec<OsdId> = world.osds.keys().copied().collect();
        *self.rng.choose(&osds).expect("a cluster has OSDs")
    }

    /// The primary is cut from its peers and from the metadata service, not from clients; some clients don't hear of the new one.
    fn isolate(&mut self, world: &mut World, config: &PgConfig, primary: OsdId) -> Instant {
        let span = self.rng.between(300, 4000) * MS;
        let one_way = self.rng.permille(250);
        for other in config.members.iter().copied().filter(|m| *m != primary) {
            world.cut(ProcId::Osd(primary), ProcId::Osd(other), span);
            if !one_way {
                world.cut(ProcId::Osd(other), ProcId::Osd(primary), span);
            }
        }
        if self.rng.permille(900) {
            self.cut_from_mds(world, ProcId::Osd(primary), span);
        }
        let clients: Vec<u32> = world.clients.keys().copied().collect();
        for client in clients {
            if self.rng.permille(500) {
                world.blind(ProcId::Client(client), span);
            }
        }
        if self.rng.permille(200) {
            let at = world.now + self.rng.below(span);
            let act = Act::Crash { osd: self.any_osd(world), power: true, down: self.down_time() };
            self.plan(at, act);
        }
        span + self.rng.between(200, 2500) * MS
    }

    pub(super) fn cut_from_mds(&mut self, world: &mut World, process: ProcId, span: Instant) {
        let nodes: Vec<MdsId> = world.mds.keys().copied().collect();
        for node in nodes {
            world.cut_both(process, ProcId::Mds(node), span);
        }
    }

    /// What the primary has said stays on the way, or it stands still itself, until it was replaced.
    fn paused_primary(&mut self, world: &mut World, config: &PgConfig, primary: OsdId) -> Instant {
        let span = self.rng.between(300, 3500) * MS;
        let id = ProcId::Osd(primary);
        let others: Vec<OsdId> = config.members.iter().copied().filter(|m| *m != primary).collect();
        match self.rng.below(4) {
            0 => world.pause(id, span.max(1600 * MS)),
            1 => {
                world.net.hold(id, world.now + span);
                self.cut_from_mds(world, id, span);
            }
            // It goes on with its peers until they promise; one of those has prepares under way when it does.
            2 => {
                let span = span.max(2600 * MS);
                self.cut_from_mds(world, id, span);
                if let Some(other) = self.rng.choose(&others).copied() {
                    world.slow_disk(other, self.rng.between(10, 200), span);
                }
            }
            // A member stands still instead: the prepares that it has taken lie in its queue.
            _ => {
                if let Some(other) = self.rng.choose(&others).copied() {
                    world.pause(ProcId::Osd(other), self.rng.between(20, 700) * MS);
                }
                let act = Act::Crash { osd: primary, power: self.rng.permille(500), down: self.down_time() };
                let at = world.now + self.rng.between(0, 30) * MS;
                self.plan(at, act);
            }
        }
        span + self.rng.between(200, 2000) * MS
    }

    /// An OSD is away while clients write; when it catches up, or right after, something fails.
    fn joiner(&mut self, world: &mut World, config: &PgConfig) -> Instant {
        let Some(osd) = self.rng.choose(&config.members).copied() else { return 50 * MS };
        let down = self.rng.between(300, 2000) * MS;
        let power = self.rng.permille(500);
        world.crash_osd_for(osd, power, down);
        let (power, again) = (self.rng.permille(600), self.down_time());
        let second = match self.rng.below(5) {
            0 => Act::Crash { osd, power, down: again },
            1 | 2 => Act::CrashPrimary { pg: config.pg, power, down: again },
            3 => Act::PauseOsd { osd, span: self.rng.between(20, 1800) * MS },
            _ => Act::CutFromPrimary { osd, pg: config.pg, span: self.rng.between(50, 1500) * MS },
        };
        let (condition, delay) = if self.rng.permille(500) {
            (Condition::Joining(config.pg, osd), self.rng.between(0, 400) * MS)
        } else {
            (Condition::InSyncAgain(config.pg, osd, config.epoch), self.rng.below(10 * MS))
        };
        self.when(world, condition, delay, second);
        down + self.rng.between(800, 3500) * MS
    }

    /// The holder of leases is cut off, and those who granted them forget.
    fn restart_grantor(&mut self, world: &mut World, config: &PgConfig, primary: OsdId) -> Instant {
        let span = self.isolate(world, config, primary);
        for other in config.members.iter().copied().filter(|m| *m != primary) {
            if self.rng.permille(800) {
                let act = Act::Crash { osd: other, power: self.rng.permille(300), down: self.rng.between(5, 80) * MS };
                let at = world.now + self.rng.between(0, 250) * MS;
                self.plan(at, act);
            }
        }
        span
    }

    /// The primary restarts at once, and nobody hears of it for a while; often while a member joins, which has writes that the primary
    /// and the others lost, and takes no part in reconciliation.
    fn lost_boot(&mut self, world: &mut World, config: &PgConfig, primary: OsdId) -> Instant {
        let boot = LostBoot {
            power: self.rng.permille(700),
            down: self.rng.between(2, 60) * MS,
            mute_permille: self.rng.between(700, 1000),
            are_peers_mute: self.rng.permille(800),
            span: self.rng.between(100, 1500) * MS,
        };
        let rest = boot.span + self.rng.between(100, 1500) * MS;
        let others: Vec<OsdId> = config.members.iter().copied().filter(|m| *m != primary).collect();
        let other = self.rng.choose(&others).copied().filter(|_| self.rng.permille(600));
        let Some(joiner) = other else {
            boot.happen(world, primary);
            return rest;
        };
        let down = self.rng.between(50, 600) * MS;
        world.crash_osd_for(joiner, self.rng.permille(300), down);
        let delay = self.rng.between(0, 300) * MS;
        let act = Act::LosePrimaryBoot { pg: config.pg, boot };
        self.when(world, Condition::Joining(config.pg, joiner), delay, act);
        down + delay + rest + 500 * MS
    }

    fn lost_add(&mut self, world: &mut World) -> Instant {
        let span = self.rng.between(500, 3000) * MS;
        let osds: Vec<OsdId> = world.osds.keys().copied().collect();
        for osd in &osds {
            if self.rng.permille(600) {
                world.mute(ProcId::Osd(*osd), self.rng.between(300, 900), span);
            }
            if self.rng.permille(300) {
                world.blind(ProcId::Osd(*osd), self.rng.between(50, 2000) * MS);
            }
        }
        self.maybe_crash(world, 700);
        span / 2 + self.rng.between(100, 1500) * MS
    }

    /// A scrub begins; soon after, whoever does it or answers for it fails, or nobody wants it any more.
    fn scrub(&mut self, world: &mut World) -> Instant {
        world.start_scrub(self.rng.permille(600));
        let (osd, power, down) = (self.any_osd(world), self.rng.permille(500), self.down_time());
        let (at, span) = (world.now + self.rng.below(200 * MS), self.rng.between(20, 1800) * MS);
        match self.rng.below(6) {
            0 => self.plan(at, Act::Crash { osd, power, down }),
            1 => self.plan(at, Act::PauseOsd { osd, span }),
            2 => self.crash_some_mds(world),
            3 => world.cancel_scrubs(),
            4 => world.net.break_random(world.now),
            _ => {}
        }
        self.rng.between(100, 2500) * MS
    }

    fn second_failure(&mut self, world: &mut World, config: &PgConfig, primary: OsdId) -> Instant {
        let power = self.rng.permille(600);
        let down = self.down_time();
        world.crash_osd_for(primary, power, down);
        let Some(other) = self.rng.choose(&config.members).copied() else { return SECOND };
        let (power, down) = (self.rng.permille(600), self.down_time());
        let act = match self.rng.below(3) {
            0 => Act::CrashPrimary { pg: config.pg, power, down },
            1 => Act::Crash { osd: other, power, down },
            _ => Act::PauseOsd { osd: other, span: self.rng.between(50, 800) * MS },
        };
        let delay = if self.rng.permille(600) { self.rng.below(10 * MS) } else { self.rng.between(10, 400) * MS };
        self.when(world, Condition::EpochAfter(config.pg, config.epoch), delay, act);
        self.rng.between(1000, 4000) * MS
    }

    fn below_min_size(&mut self, world: &mut World, config: &PgConfig, primary: OsdId) -> Instant {
        let down = self.rng.between(600, 3000) * MS;
        for other in config.members.iter().copied().filter(|m| *m != primary) {
            let at =
                world.now + if self.rng.permille(500) { self.rng.below(20 * MS) } else { self.rng.below(800 * MS) };
            let act = Act::Crash { osd: other, power: self.rng.permille(500), down };
            self.plan(at, act);
        }
        if self.rng.permille(600) {
            let at = world.now + self.rng.between(100, 1500) * MS;
            let act = Act::Crash { osd: primary, power: self.rng.permille(500), down: self.down_time() };
            self.plan(at, act);
        }
        down + self.rng.between(500, 3000) * MS
    }

    fn power_loss(&mut self, world: &mut World) -> Instant {
        let osds: Vec<OsdId> = world.osds.keys().copied().collect();
        let all = self.rng.permille(800);
        for osd in osds {
            if all || self.rng.permille(600) {
                let down = self.rng.between(20, 800) * MS;
                world.crash_osd_for(osd, true, down);
            }
        }
        match self.rng.below(8) {
            0 | 1 => self.crash_some_mds(world),
            // The whole room is dark.
            2 => {
                let nodes: Vec<MdsId> = world.mds.keys().copied().collect();
                for node in nodes {
                    world.crash_mds(node);
                    world.restart_mds_in(node, self.rng.between(10, 1500) * MS);
                }
            }
            _ => {}
        }
        self.rng.between(700, 4000) * MS
    }

    fn crash_some_mds(&mut self, world: &mut World) {
        let nodes: Vec<MdsId> = world.mds.keys().copied().collect();
        if let Some(node) = self.rng.choose(&nodes).copied() {
            world.crash_mds(node);
            world.restart_mds_in(node, self.rng.between(10, 1500) * MS);
        }
    }

    fn damaged_tail(&mut self, world: &mut World) -> Instant {
        if !world.is_all_in_sync() {
            return 20 * MS;
        }
        let damaged = self.any_osd(world);
        let osds: Vec<OsdId> = world.osds.keys().copied().collect();
        let all = self.rng.permille(700);
        for osd in osds {
            // The others are back before anybody can take them for dead: else the damaged one may be the last in sync (F1).
            if osd == damaged {
                world.crash_osd_silently(osd, self.rng.permille(700), self.rng.between(50, 600) * MS);
            } else if all {
                world.crash_osd_silently(osd, self.rng.permille(700), self.rng.between(5, 100) * MS);
            }
        }
        world.damage_log_tail(damaged, &mut self.rng);
        self.rng.between(2000, 4000) * MS
    }

    fn bit_rot(&mut self, world: &mut World) -> Instant {
        if !world.is_all_in_sync() {
            return 20 * MS;
        }
        // Always the same one: another may not have its blocks repaired yet (F1).
        let first = *world.osds.keys().next().expect("a cluster has OSDs");
        world.rot(first, &mut self.rng);
        self.rng.between(500, 2500) * MS
    }

    /// Always the same OSD, as in [`Faults::bit_rot`].
    fn bad_disk(&mut self, world: &mut World) -> Instant {
        if !world.is_all_in_sync() {
            return 20 * MS;
        }
        let osd = *world.osds.keys().next().expect("a cluster has OSDs");
        match self.rng.below(12) {
            0 => world.slow_disk(osd, self.rng.between(10, 400), self.rng.between(200, 4000) * MS),
            1 => world.break_disk(osd, self.rng.between(100, 3000) * MS),
            2 | 3 => world.make_unreadable(osd, &mut self.rng),
            // Read anew by the next process only: this one has them in memory.
            4 => {
                let (power, down) = (self.rng.permille(500), self.rng.between(20, 800) * MS);
                world.crash_osd_for(osd, power, down);
                world.rot_index(osd, &mut self.rng);
            }
            _ => {
                let fault = *self.rng.choose(&DiskFault::ALL).expect("there are some");
                world.arm_disk(osd, fault);
            }
        }
        self.rng.between(100, 1500) * MS
    }

    fn damaged_frames(&mut self, world: &mut World) -> Instant {
        world.net.profile.flips_per_million = *self.rng.choose(&[0, 200, 2_000, 20_000]).expect("not empty");
        self.maybe_crash(world, 50);
        self.rng.between(100, 1500) * MS
    }

    /// A member is away for long enough to be removed; when it is back it gets no news but those that come right after its join began.
    fn late_view(&mut self, world: &mut World, config: &PgConfig) -> Instant {
        let Some(osd) = self.rng.choose(&config.members).copied() else { return 50 * MS };
        let down = self.rng.between(300, 2000) * MS;
        let power = self.rng.permille(500);
        world.crash_osd_for(osd, power, down);
        let after = if self.rng.permille(500) { self.rng.below(2 * MS) } else { self.rng.below(100 * MS) };
        let until = world.now + down + 3 * SECOND;
        let withheld = Withheld { after, until, but_first: self.rng.permille(700) };
        world.withhold_news(ProcId::Osd(osd), withheld);
        if self.rng.permille(300) {
            let act = Act::CrashPrimary { pg: config.pg, power: self.rng.permille(500), down: self.down_time() };
            let delay = self.rng.between(0, 200) * MS;
            self.when(world, Condition::Joining(config.pg, osd), delay, act);
        }
        down + self.rng.between(800, 3500) * MS
    }

    fn take_over(&mut self, world: &mut World) -> Instant {
        let volume = u32::try_from(self.rng.below(u64::from(world.shape.volumes))).expect("few");
        let holders: Vec<u32> =
            world.clients.iter().filter(|(_, c)| c.volume == volume && c.is_running()).map(|(id, _)| *id).collect();
        let span = self.rng.between(200, 3000) * MS;
        holders.into_iter().for_each(|holder| self.hinder(world, ProcId::Client(holder), span));
        if world.clients.len() < 10 {
            let at = world.now + self.rng.below(30 * MS);
            self.plan(at, Act::TakeOver { volume });
        }
        self.maybe_crash(world, 200);
        self.rng.between(400, 3000) * MS
    }

    /// A gateway doesn't learn that it is replaced, or what it has sent is still on its way then.
    pub(super) fn hinder(&mut self, world: &mut World, id: ProcId, span: Instant) {
        match self.rng.below(6) {
            0 => {}
            1 => world.pause(id, span),
            2 => self.cut_from_mds(world, id, span),
            3 | 4 => world.net.hold(id, world.now + span),
            _ => {
                let osds: Vec<OsdId> = world.osds.keys().copied().collect();
                for osd in osds {
                    if self.rng.permille(700) {
                        world.cut(id, ProcId::Osd(osd), span);
                    }
                }
            }
        }
    }

    /// One fault of this seed's mix.
    pub(super) fn uniform(&mut self, world: &mut World) {
        let total: u64 = self.mix.iter().sum();
        if total == 0 {
            return;
        }
        let mut left = self.rng.below(total);
        let kind = (0..UNIFORM_KINDS).find(|k| {
            let hit = left < self.mix[*k];
            left = left.saturating_sub(self.mix[*k]);
            hit
        });
        let (a, b) = (self.any_osd(world), self.any_osd(world));
        let span = self.rng.between(20, 2500) * MS;
        match kind.expect("the draw is below the sum") {
            0 => world.crash_osd_for(a, false, self.down_time()),
            1 => world.crash_osd_for(a, true, self.down_time()),
            2 => world.pause(ProcId::Osd(a), span),
            3 if a != b => world.cut(ProcId::Osd(a), ProcId::Osd(b), span),
            3 => self.cut_from_mds(world, ProcId::Osd(a), span),
            4 => world.net.break_random(world.now),
            5 => self.crash_some_mds(world),
            6 => world.jump_clock(ProcId::Osd(a), self.rng.below(10 * MS)),
            7 => {
                let clients: Vec<u32> = world.clients.keys().copied().collect();
                let Some(client) = self.rng.choose(&clients).copied() else { return };
                if self.rng.permille(500) {
                    world.crash_client(client);
                    world.restart_client_in(client, self.rng.between(10, 1500) * MS);
                } else {
                    world.cut_both(ProcId::Client(client), ProcId::Osd(a), span);
                }
            }
            _ => world.slow_disk(a, self.rng.between(2, 40), span),
        }
    }
}
