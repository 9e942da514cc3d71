//! An OSD core as the simulator sees it, whatever bug is planted in it: one world serves all policies.

use ashlar_osd_core::store::api::ChunkVersions;
use ashlar_osd_core::{Action, Event, Osd, Policy, SpaceNews};
use ashlar_types::control::OsdUsage;
use ashlar_types::view::Fences;
use ashlar_types::{ChunkId, Epoch, PgId, Tick};

pub trait OsdMachine: std::fmt::Debug {
    fn step(&mut self, now: Tick, event: Event, actions: &mut Vec<Action>);
    fn poll(&mut self, now: Tick, actions: &mut Vec<Action>);
    fn usage(&self) -> OsdUsage;
    /// Nothing is under way on its disk.
    fn is_disk_idle(&self) -> bool;
    fn space_news(&mut self) -> SpaceNews;
    /// PGs that it leads and serves.
    fn active_pgs(&self) -> Vec<(PgId, Epoch)>;
    fn chunks(&self, pg: PgId) -> Vec<(ChunkId, ChunkVersions)>;
    /// Blocks of its disk that are promised to somebody.
    fn promised_blocks(&self) -> u64;
    /// What it refuses for good.
    fn fences(&self, pg: PgId) -> Fences;
}

impl<P: Policy> OsdMachine for Osd<P> {
    fn step(&mut self, now: Tick, event: Event, actions: &mut Vec<Action>) {
        Osd::step(self, now, event, actions);
    }

    fn poll(&mut self, now: Tick, actions: &mut Vec<Action>) {
        Osd::poll(self, now, actions);
        self.perf().on_turn_end(now);
    }

    fn usage(&self) -> OsdUsage {
        Osd::usage(self)
    }

    fn is_disk_idle(&self) -> bool {
        self.store().is_idle()
    }

    fn space_news(&mut self) -> SpaceNews {
        Osd::space_news(self)
    }

    fn active_pgs(&self) -> Vec<(PgId, Epoch)> {
        Osd::active_pgs(self).collect()
    }

    fn chunks(&self, pg: PgId) -> Vec<(ChunkId, ChunkVersions)> {
        self.store().chunks(pg, None, usize::MAX)
    }

    fn promised_blocks(&self) -> u64 {
        Osd::promised_blocks(self)
    }

    fn fences(&self, pg: PgId) -> Fences {
        self.store().pg(pg).map(|state| state.fences.clone()).unwrap_or_default()
    }
}
