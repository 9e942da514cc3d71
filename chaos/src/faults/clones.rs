//! Linked clones, of clones too, while volumes are snapshotted under them and everybody fails.

use super::{Act, Faults};
use crate::clock::{Instant, MS};
use crate::net::ProcId;
use crate::world::World;

impl Faults {
    pub(super) fn clones(&mut self, world: &mut World) -> Instant {
        let span = self.snapshots(world);
        if self.rng.permille(700) {
            let mut rng = self.rng.fork(0xc1);
            let at = world.now + self.rng.below(100 * MS);
            self.plan(at, Act::Clone { draw: rng.next_u64() });
        }
        let clones: Vec<u32> = (world.shape.volumes..world.volume_count()).collect();
        if let Some(clone) = self.rng.choose(&clones).copied() {
            let running = world.clients.iter().filter(|(_, c)| c.volume == clone && c.is_running());
            let running: Vec<u32> = running.map(|(id, _)| *id).collect();
            match self.rng.below(8) {
                0 if world.clients.len() < 14 => world.take_over(clone),
                1 | 2 => {
                    for client in running {
                        world.crash_client(client);
                        world.restart_client_in(client, self.rng.between(10, 800) * MS);
                    }
                }
                _ => {}
            }
        }
        let mut rng = self.rng.fork(0xf1);
        if self.rng.permille(700) {
            let at = world.now + self.rng.below(200 * MS);
            self.plan(at, Act::Flatten { draw: rng.next_u64() });
        }
        if self.provisions.permille(400) {
            let at = world.now + self.provisions.below(200 * MS);
            let draw = self.provisions.next_u64();
            self.plan(at, Act::MakeEager { draw });
        }
        if self.rng.permille(40) {
            world.give_a_job_up(&mut rng);
        }
        let working: Vec<u32> = world.worker_ids().into_iter().filter(|id| world.is_working(*id)).collect();
        if let Some(worker) = self.rng.choose(&working).copied() {
            match self.rng.below(6) {
                0 => {
                    world.crash_worker(worker);
                    world.restart_worker_in(worker, self.rng.between(10, 800) * MS);
                }
                // It is taken for gone, and wakes up.
                1 | 2 => world.pause(ProcId::Worker(worker), self.rng.between(20, 1500) * MS),
                _ => {}
            }
        }
        span
    }
}
