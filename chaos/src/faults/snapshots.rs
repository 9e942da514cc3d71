//! Snapshots while not everybody hears of them: a gateway that goes on by the old stack beside one that has the new one, primaries that fail
//! between a member's knowing of the new stack and another's.

use super::{Act, Faults};
use crate::clock::{Instant, MS};
use crate::net::ProcId;
use crate::world::World;
use ashlar_types::OsdId;

impl Faults {
    pub(super) fn snapshots(&mut self, world: &mut World) -> Instant {
        let volume = u32::try_from(self.rng.below(u64::from(world.volume_count()))).expect("few");
        let clients: Vec<u32> =
            world.clients.iter().filter(|(_, c)| c.volume == volume && c.is_running()).map(|(id, _)| *id).collect();
        let span = self.rng.between(50, 2000) * MS;
        for client in clients {
            let id = ProcId::Client(client);
            match self.rng.below(6) {
                0 | 1 => world.blind(id, span),
                2 => {
                    world.blind(id, span);
                    self.cut_from_mds(world, id, span);
                }
                3 => world.pause(id, self.rng.between(1, 60) * MS),
                4 => world.net.hold(id, world.now + self.rng.between(1, 100) * MS),
                _ => {}
            }
        }
        let osds: Vec<OsdId> = world.osds.keys().copied().collect();
        for osd in &osds {
            if self.rng.permille(150) {
                world.blind(ProcId::Osd(*osd), self.rng.between(5, 800) * MS);
            }
        }
        world.snapshot(volume);
        if self.rng.permille(400) {
            let osd = *self.rng.choose(&osds).expect("a cluster has OSDs");
            let (power, down) = (self.rng.permille(500), self.down_time());
            let at = world.now + self.rng.below(40 * MS);
            self.plan(at, Act::Crash { osd, power, down });
        }
        self.rng.between(200, 2000) * MS
    }

    /// Two volumes at one moment, of which some gateways and OSDs hear late: so one of them may still be written by its old stack where the
    /// other has its new one everywhere.
    pub(super) fn snapshot_group(&mut self, world: &mut World) {
        let count = u64::from(world.volume_count());
        if count < 2 {
            return;
        }
        let (one, distance) = (self.groups.below(count), self.groups.between(1, count - 1));
        let volumes = [one, (one + distance) % count].map(|volume| u32::try_from(volume).expect("few"));
        let blinded: Vec<ProcId> = world
            .clients
            .iter()
            .filter(|(_, c)| c.is_running() && volumes.contains(&c.volume))
            .map(|(id, _)| ProcId::Client(*id))
            .chain(world.osds.keys().map(|osd| ProcId::Osd(*osd)))
            .filter(|_| self.groups.permille(300))
            .collect();
        for id in blinded {
            world.blind(id, self.groups.between(5, 400) * MS);
        }
        world.snapshot_group(&volumes);
    }
}
