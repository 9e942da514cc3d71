//! What an observer who sees everything checks beside the history: rules of single answers, and equal members when quiet.

use super::World;
use crate::run::Reason;
use ashlar_osd_core::store::Store;
use ashlar_osd_core::store::api::{ReadKind, ReadOutcome, StoreEvent, Token};
use ashlar_osd_core::store::fsck::{FsckReport, fsck};
use ashlar_osd_core::{Action, Honest};
use ashlar_sim_disk::SimDisk;
use ashlar_types::view::PgConfig;
use ashlar_types::{BLOCK_BYTES, BlockIndex, BlockRange, ChunkId, LayerId, OpId, OsdId, PgId, Version};
use ashlar_wire::{IoKind, IoStatus, Message, Outcome, OverRequest};
use std::collections::{BTreeMap, BTreeSet};

/// What the observer remembers of what it saw on the wires.
#[derive(Debug, Default)]
pub struct Noted {
    /// Requests on their way through OSDs: on which connection, for what.
    requests: BTreeMap<(u64, OpId), (PgId, IoKind)>,
    /// Which version an operation was given last.
    versions: BTreeMap<OpId, (ChunkId, Version)>,
    /// Members other than the primary that said a version is durable.
    copies: BTreeMap<(ChunkId, Version), BTreeSet<OsdId>>,
    /// Up to which version of a chunk a member said to have everything.
    reached: BTreeMap<(ChunkId, OsdId), Version>,
}

impl World {
    pub(super) fn note_request(&mut self, conn: u64, message: &Message) {
        if let Message::IoRequest(request) | Message::OverRequest(OverRequest { request, .. }) = message {
            self.noted.requests.insert((conn, request.op), (request.pg, request.kind));
        }
    }

    pub(super) fn note_link_send(&mut self, message: &Message) {
        if let Message::Prepare(prepare) = message {
            let write = &prepare.write;
            self.noted.versions.insert(write.op, (write.chunk, write.version));
        }
    }

    fn note_durable(&mut self, osd: OsdId, message: &Message) {
        match message {
            Message::Prepared(m) if m.outcome == Outcome::Ok => {
                self.noted.copies.entry((m.chunk, m.version)).or_default().insert(osd);
            }
            // A push brings everything up to its version.
            Message::Pushed(m) if m.outcome == Outcome::Ok => self.note_reached(m.chunk, osd, m.to),
            // What a member reports to a new primary is durable there, whether its first answer arrived or not.
            Message::PromiseReply(m) => {
                for chunk in m.report.iter().flat_map(|r| &r.chunks) {
                    let newest = chunk.undecided.last().map_or(chunk.committed, |w| w.version);
                    self.note_reached(chunk.chunk, osd, newest);
                }
            }
            _ => {}
        }
    }

    fn note_reached(&mut self, chunk: ChunkId, osd: OsdId, version: Version) {
        let reached = self.noted.reached.entry((chunk, osd)).or_default();
        *reached = (*reached).max(version);
    }

    /// Members that said that they have this version: beside the primary that made it, which says nothing.
    fn copies_of(&self, (chunk, version): (ChunkId, Version)) -> usize {
        let answered = self.noted.copies.get(&(chunk, version)).into_iter().flatten().copied();
        let came_by = self.noted.reached.range((chunk, OsdId(0))..=(chunk, OsdId(u32::MAX)));
        let came_by = came_by.filter(|(_, upto)| **upto >= version).map(|((_, member), _)| *member);
        answered.chain(came_by).collect::<BTreeSet<_>>().len()
    }

    /// R12: a write is answered only when enough members have it.
    pub(super) fn check_reply(&mut self, osd: OsdId, conn: u64, message: &Message) {
        self.note_durable(osd, message);
        let Message::IoReply(reply) = message else { return };
        let Some((pg, kind)) = self.noted.requests.remove(&(conn, reply.op)) else { return };
        if reply.status != IoStatus::Ok || !kind.is_write() {
            return;
        }
        let Some(config) = self.configs.get(&(pg, reply.epoch)) else { return };
        if config.in_sync.len() >= usize::from(config.min_size) {
            return;
        }
        // A repeated request may be answered in a smaller configuration than the one that did it.
        let version = self.noted.versions.get(&reply.op);
        let others = version.map_or(0, |v| self.copies_of(*v));
        if others + 1 < usize::from(config.min_size) {
            let text = format!(
                "R12: {osd} answered {} of {pg} with in_sync {:?}, others have {others} copies",
                reply.op, config.in_sync
            );
            self.fail(Reason::Answers(text));
        }
    }

    /// In-sync members have the same versions of the same chunks, the same states of all blocks, and the data that belongs to
    /// them: first as the running processes see it, then as it is read from their disks by another.
    pub(super) fn compare_members(&mut self) -> Result<(), Reason> {
        for (osd, process) in &self.osds {
            let promised = process.machine.as_ref().map_or(0, |m| m.promised_blocks());
            if promised > 0 {
                return Err(Reason::Stores(format!("{osd}: {promised} blocks are promised and nobody writes")));
            }
        }
        let configs: Vec<_> = self.truth.pgs.values().cloned().collect();
        for config in &configs {
            let of = |osd: &OsdId| self.osds[osd].machine.as_ref().map(|m| m.chunks(config.pg)).unwrap_or_default();
            let first = of(&config.in_sync[0]);
            for other in &config.in_sync[1..] {
                let theirs = of(other);
                if theirs != first {
                    let text = format!("{config:?}: {} has {first:?}, {other} has {theirs:?}", config.in_sync[0]);
                    return Err(Reason::Stores(text));
                }
            }
            self.check_fences(config)?;
        }
        let mut stores = BTreeMap::new();
        let osds: Vec<OsdId> = self.osds.keys().copied().collect();
        for osd in osds {
            stores.insert(osd, self.mount_aside(osd)?);
        }
        for config in &configs {
            let (first, others) = config.in_sync.split_first().expect("a PG has an in-sync member");
            let chunks = stores[first].store.chunks(config.pg, None, usize::MAX);
            for (chunk, versions) in chunks {
                let expected = stores.get_mut(first).expect("mounted").read(config.pg, chunk)?;
                self.check_data(*first, &expected)?;
                for other in others {
                    let found = stores.get_mut(other).expect("mounted").read(config.pg, chunk)?;
                    self.check_data(*other, &found)?;
                    if found.committed == versions.committed && !same_states(&expected, &found) {
                        let text =
                            format!("{} {chunk} at {}: {first} and {other} differ", config.pg, versions.committed);
                        return Err(Reason::Stores(text));
                    }
                }
            }
        }
        Ok(())
    }

    /// Every in-sync member refuses what every other does, and all that was deleted, in a few ranges.
    fn check_fences(&self, config: &PgConfig) -> Result<(), Reason> {
        let of = |osd: &OsdId| self.osds[osd].machine.as_ref().map(|m| m.fences(config.pg)).unwrap_or_default();
        let first = of(&config.in_sync[0]);
        for osd in &config.in_sync {
            let fences = of(osd);
            let lacks = self.operator.deleted.iter().find(|v| !fences.gone.contains(**v));
            if fences != first || lacks.is_some() {
                let text = format!("{config:?}: {osd} refuses {fences:?}, without {lacks:?}; the first {first:?}");
                return Err(Reason::Stores(text));
            }
        }
        // A late copy of a request may have left a scratch volume.
        let living = self.volumes_alive().len();
        let ranges = first.gone.ranges().len().max(first.retired.ranges().len());
        // Each snapshot has a layer between those of other volumes, and so has what a non-persistent volume falls back to. A late copy of a request may
        // have made a snapshot again that was deleted.
        if ranges > living + self.snapshots_ever() + self.operator.modes.bases() + 1 || first.floors.len() > living {
            return Err(Reason::Stores(format!("{}: more than {living} volumes can need: {first:?}", config.pg)));
        }
        Ok(())
    }

    fn check_data(&self, osd: OsdId, read: &ReadOutcome) -> Result<(), Reason> {
        // Also those that rotted: the last scrub has read every block, and had it repaired where there was another copy.
        if read.bad.is_empty() {
            return Ok(());
        }
        Err(Reason::Stores(format!("{osd}: {} has bad blocks {:?}", read.chunk, read.bad)))
    }

    /// Every block that a process holds is named by something on its disk, and once only; fsck finds nothing wrong. Without this, space
    /// is lost until the next start, or handed out twice.
    pub(super) fn check_space(&self) -> Result<(), Reason> {
        for osd in self.osds.keys() {
            let (used, report) = self.space_of(*osd);
            let named = report.blocks_data + report.blocks_structure;
            let is_damaged = self.damaged.contains(osd);
            // A lost index page takes the places of its blocks along.
            if used != named && !(is_damaged && used > named) {
                return Err(Reason::Stores(format!("{osd}: {used} blocks are taken, {named} have a use")));
            }
            if let Some(problem) = report.problems.first().filter(|_| !is_damaged) {
                return Err(Reason::Stores(format!("{osd}: fsck: {problem}")));
            }
        }
        Ok(())
    }

    /// Nothing is kept of a layer that no volume has: of a deleted snapshot, or of what was written to a non-persistent volume that fell back since.
    pub(super) fn check_layers(&self) -> Result<(), Reason> {
        let had: BTreeSet<LayerId> = self.volumes_alive().into_iter().flat_map(|volume| volume.layers).collect();
        for config in self.truth.pgs.values() {
            for osd in &config.members {
                let kept = self.osds[osd].machine.as_ref().map(|m| m.chunks(config.pg)).unwrap_or_default();
                if let Some((chunk, _)) = kept.iter().find(|(chunk, _)| !had.contains(&chunk.layer)) {
                    let text = format!("{osd}: {} has chunk {chunk} of a layer that nobody has", config.pg);
                    return Err(Reason::Stores(text));
                }
            }
        }
        Ok(())
    }

    /// Nothing but what every empty store has is left.
    pub(super) fn unfreed(&self) -> Option<String> {
        for osd in self.osds.keys() {
            let (used, report) = self.space_of(*osd);
            let is_damaged = self.damaged.contains(osd);
            if report.blocks_data > 0 || report.chunks > 0 || (used != report.blocks_structure && !is_damaged) {
                return Some(format!(
                    "{osd}: {} chunks and {} blocks are left; {used} blocks are taken, {} of them by structures",
                    report.chunks, report.blocks_data, report.blocks_structure
                ));
            }
        }
        None
    }

    /// Nothing that a client ever wrote is left on a disk, if all volumes were deleted securely and all that are asked have told.
    pub(super) fn unwiped(&self) -> Option<String> {
        if !self.shape.wipes {
            return None;
        }
        // A block that a damaged index page named is free only after a start, and one that cannot be read is told as such.
        let honest = self.osds.keys().filter(|osd| !self.damaged.contains(osd));
        let left =
            honest.map(|osd| (osd, self.blocks_that(*osd, super::osd::is_data).len())).find(|(_, left)| *left > 0);
        left.map(|(osd, left)| format!("{osd}: {left} blocks of deleted volumes are not wiped"))
    }

    /// In blocks: what the process has taken, and what its disk says.
    fn space_of(&self, osd: OsdId) -> (u64, FsckReport) {
        let o = &self.osds[&osd];
        let used = o.machine.as_ref().map_or(0, |m| m.usage().used / u64::from(BLOCK_BYTES));
        (used, fsck(&mut |at, len| o.disk.read_now(at, len), false))
    }

    /// Mounts a disk as the next process of its OSD would find it.
    pub(super) fn mount_aside(&self, osd: OsdId) -> Result<Aside, Reason> {
        let store = Store::<Honest>::new(self.store_config(osd));
        let mut aside = Aside { store, disk: self.osds[&osd].disk.clone() };
        match aside.run_until(|event| matches!(event, StoreEvent::Mounted(_))) {
            Ok(_) => Ok(aside),
            Err(text) => Err(Reason::Stores(format!("{osd} cannot be mounted again: {text}"))),
        }
    }
}

/// What an index page said that is damaged is not known (and was found bad, which only a damaged disk may have).
fn same_states(one: &ReadOutcome, other: &ReadOutcome) -> bool {
    let lost = |read: &ReadOutcome, at: usize| {
        read.states[at].crc.is_none() && read.bad.binary_search(&BlockIndex(at as u16)).is_ok()
    };
    let pairs = one.states.iter().zip(&other.states).enumerate();
    one.states.len() == other.states.len()
        && pairs.into_iter().all(|(at, (a, b))| a == b || lost(one, at) || lost(other, at))
}

/// A store on a copy of a disk, whose operations are done at once.
pub(super) struct Aside {
    store: Store<Honest>,
    disk: SimDisk,
}

impl Aside {
    pub(super) fn is_free(&self, at: u64) -> bool {
        self.store.is_free(at)
    }

    fn run_until(&mut self, wanted: impl Fn(&StoreEvent) -> bool) -> Result<StoreEvent, String> {
        const ROUNDS_MAX: usize = 1_000_000;
        let mut actions = Vec::new();
        let mut events = Vec::new();
        for _ in 0..ROUNDS_MAX {
            self.store.poll(&mut actions);
            self.store.take_events(&mut events);
            for event in events.drain(..) {
                match event {
                    StoreEvent::Failed(error) => return Err(error.to_string()),
                    event if wanted(&event) => return Ok(event),
                    _ => {}
                }
            }
            for action in actions.drain(..) {
                let Action::Disk(io, op) = action else { continue };
                self.disk.submit(io, op);
                let result = self.disk.complete(io);
                self.store.on_disk(io, result);
            }
        }
        Err("it never ends".to_owned())
    }

    fn read(&mut self, pg: PgId, chunk: ChunkId) -> Result<ReadOutcome, Reason> {
        let token = Token(u64::MAX);
        self.store.read(token, pg, chunk, BlockRange::WHOLE, ReadKind::Verify);
        match self.run_until(|event| matches!(event, StoreEvent::Read(t, _) if *t == token)) {
            Ok(StoreEvent::Read(_, outcome)) => Ok(outcome),
            Ok(other) => Err(Reason::Stores(format!("{chunk}: {other:?} instead of a read"))),
            Err(text) => Err(Reason::Stores(format!("{chunk} cannot be read: {text}"))),
        }
    }
}
