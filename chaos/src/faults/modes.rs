//! Volumes change hands and modes: what is written to a non-persistent one is there while its gateway crashes and comes back, and gone when it is
//! detached or taken over, whatever of the old gateway is still on its way.

use super::{Act, Faults};
use crate::clock::{Instant, MS};
use crate::net::ProcId;
use crate::world::World;

/// Gateways of one simulation, those that are over among them.
const CLIENTS_MAX: usize = 24;

impl Faults {
    pub(super) fn disk_modes(&mut self, world: &mut World) -> Instant {
        let volume = u32::try_from(self.rng.below(u64::from(world.shape.volumes))).expect("few");
        let holds = |c: &crate::world::ClientProcess| c.volume == volume && c.snapshot.is_none() && c.is_running();
        let holders: Vec<u32> = world.clients.iter().filter(|(_, c)| holds(c)).map(|(id, _)| *id).collect();
        let span = self.rng.between(50, 1500) * MS;
        for holder in holders {
            if self.rng.permille(250) {
                world.crash_client(holder);
                world.restart_client_in(holder, self.rng.between(5, 600) * MS);
            } else {
                self.hinder(world, ProcId::Client(holder), span);
            }
        }
        if world.clients.len() < CLIENTS_MAX && self.rng.permille(850) {
            let at = world.now + self.rng.below(60 * MS);
            let draw = self.rng.next_u64();
            self.plan(at, Act::EndAttachment { volume, draw });
        }
        if self.rng.permille(150) {
            world.snapshot(volume);
        }
        self.maybe_crash(world, 250);
        self.rng.between(100, 1500) * MS
    }
}
