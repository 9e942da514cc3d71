//! Who makes the cluster and attaches its volumes: what `ashlar up` and an administrator do.

use super::client::volume_name;
use super::clones::Clone;
use super::jobs::Jobs;
use super::modes::Modes;
use super::{Happening, Input, Phase, Process, Purpose, World};
use crate::aim::Aim;
use crate::check::{ClientNumber, SnapshotRef};
use crate::clock::{Instant, MS};
use crate::net::ProcId;
use crate::rng::Rng;
use crate::run::Reason;
use ashlar_types::control::{AttachMode, ControlError, ControlReply, ControlRequest, Provision, SnapshotState};
use ashlar_types::{AttachmentId, DiskName, Name, VolumeId};
use std::collections::VecDeque;

#[derive(Debug)]
pub struct Operator {
    pub process: Process,
    /// What it is going to ask; the first is being asked.
    pub(super) script: VecDeque<ControlRequest>,
    /// Sessions that were opened: client, volume, gateway.
    pub sessions: Vec<(ClientNumber, u32, String)>,
    last_gateway: u32,
    last_scratch: u32,
    last_snapshot: u32,
    /// Volumes that were made and deleted again.
    pub deleted: Vec<VolumeId>,
    /// The scratch volume that exists.
    scratch: Option<VolumeId>,
    pub snapshots: Vec<Snapshot>,
    pub(super) clones: Vec<Clone>,
    pub(super) jobs: Jobs,
    pub(super) modes: Modes,
    /// When snapshots under way are asked after again.
    look_at: Instant,
}

#[derive(Clone, Debug)]
pub struct Snapshot {
    volume: u32,
    name: Name,
    of: SnapshotRef,
    state: SnapshotProgress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SnapshotProgress {
    Asked,
    /// The metadata service has it; its barrier is under way.
    Creating,
    /// It is there, and a gateway is to read it.
    Made,
    Attached,
    /// It is taken from its reader and deleted.
    Deleting,
}

/// Snapshots of one simulation: each is read by a gateway of its own.
const SNAPSHOTS_MAX: usize = 6;
const SNAPSHOT_LOOK: Instant = 5 * MS;

impl Snapshot {
    fn disk_name(&self) -> DiskName {
        DiskName { volume: volume_name(self.volume), snapshot: Some(self.name.clone()) }
    }
}

impl Operator {
    pub fn new() -> Operator {
        let process = Process::new(crate::clock::Clock::new(0, 0));
        Operator {
            process,
            script: VecDeque::new(),
            sessions: Vec::new(),
            last_gateway: 0,
            last_scratch: 0,
            last_snapshot: 0,
            deleted: Vec::new(),
            scratch: None,
            snapshots: Vec::new(),
            clones: Vec::new(),
            jobs: Jobs::default(),
            modes: Modes::default(),
            look_at: 0,
        }
    }
}

impl World {
    pub(super) fn begin_operator(&mut self) {
        self.operator.process.begin();
        for osd in 0..self.shape.osds {
            self.operator.script.push_back(ControlRequest::OsdCreate { host: format!("host-{osd}") });
        }
        self.put(self.now + 50 * MS, ProcId::Operator, Input::WatchAgain);
    }

    /// The OSDs are registered: pool, volumes, attachments.
    pub(super) fn make_volumes(&mut self) {
        let name = Name::new("pool").expect("a good name");
        let min_size = if self.shape.replicas == 2 { Some(1) } else { None };
        self.operator.script.push_back(ControlRequest::PoolCreate {
            name,
            replicas: self.shape.replicas,
            min_size,
            over_commit: None,
        });
        for volume in 0..self.shape.volumes {
            let size = self.workload.volume_bytes();
            let name = volume_name(volume);
            let provision = if self.is_lazy(volume) { Provision::Lazy } else { Provision::Thin };
            self.operator.script.push_back(ControlRequest::VolumeCreate {
                name: name.clone(),
                size,
                pool: None,
                provision,
            });
            self.wipe_what_it_frees(name.clone());
            if provision == Provision::Lazy {
                self.operator.script.push_back(ControlRequest::VolumeShow { name });
            }
            self.push_first_mode(volume);
            let mode = if self.shape.sharers > 1 { AttachMode::Shared } else { AttachMode::Exclusive };
            for _ in 0..self.shape.sharers {
                self.push_attach(volume, mode);
            }
        }
        self.ask_next();
    }

    /// Whether a volume has its space reserved, so that no write to it may find none.
    pub(super) fn is_lazy(&self, volume: u32) -> bool {
        self.shape.has_lazy && volume == 0
    }

    pub(super) fn push_attach(&mut self, volume: u32, mode: AttachMode) {
        self.operator.last_gateway += 1;
        let gateway = format!("gateway-{}", self.operator.last_gateway);
        let request = ControlRequest::Attach { name: volume_name(volume).into(), gateway, mode, read_only: false };
        self.operator.script.push_back(request);
    }

    /// Another gateway takes the volume over, whoever has it.
    pub fn take_over(&mut self, volume: u32) {
        self.trace(|| format!("volume {volume} is taken over"));
        self.push_attach(volume, AttachMode::Force);
        if self.operator.script.len() == 1 {
            self.ask_next();
        }
    }

    /// Every volume is detached from whoever has it, and deleted.
    pub(super) fn delete_volumes(&mut self) {
        // Those that clones stand on go first, and are kept until the clones have gone.
        for volume in 0..self.volume_count() {
            let name = volume_name(volume);
            self.operator.script.push_back(ControlRequest::Detach { name: name.clone().into(), gateway: None });
            for snapshot in self.operator.snapshots.iter().filter(|s| s.volume == volume) {
                let name = snapshot.disk_name();
                self.operator.script.push_back(ControlRequest::Detach { name, gateway: None });
            }
            let delete = self.delete_request(name, true);
            self.operator.script.push_back(delete);
        }
        self.ask_next();
    }

    /// A snapshot is made, whatever the volume's clients do.
    pub fn snapshot(&mut self, volume: u32) {
        // After a snapshot as much would have to be reserved again, for which there is no room here.
        let is_full = self.operator.snapshots.len() == SNAPSHOTS_MAX || self.is_lazy(volume);
        if is_full || !self.is_operator_idle() {
            return;
        }
        self.operator.last_snapshot += 1;
        let name = Name::new(&format!("snapshot-{}", self.operator.last_snapshot)).expect("a good name");
        let of = self.history.begin_snapshot(volume);
        self.trace(|| format!("volume {volume}: {name} is asked for"));
        let state = SnapshotProgress::Asked;
        self.operator.snapshots.push(Snapshot { volume, name: name.clone(), of, state });
        self.ask_as_operator(ControlRequest::SnapshotCreate {
            volume: volume_name(volume),
            name,
            taken_at: 0,
            thin: false,
        });
    }

    /// Snapshots of several volumes are made at one moment.
    pub fn snapshot_group(&mut self, volumes: &[u32]) {
        if self.operator.snapshots.len() + volumes.len() > SNAPSHOTS_MAX || !self.is_operator_idle() {
            return;
        }
        self.operator.last_snapshot += 1;
        let name = Name::new(&format!("snapshot-{}", self.operator.last_snapshot)).expect("a good name");
        self.trace(|| format!("volumes {volumes:?}: {name} is asked for"));
        let dependent: Vec<u32> = volumes.iter().copied().filter(|v| !self.operator.modes.is_independent(*v)).collect();
        if dependent.is_empty() {
            return;
        }
        let refs = self.history.begin_snapshots(&dependent);
        let state = SnapshotProgress::Asked;
        let snapshots =
            dependent.iter().zip(refs).map(|(v, of)| Snapshot { volume: *v, name: name.clone(), of, state });
        self.operator.snapshots.extend(snapshots);
        let volumes = volumes.iter().map(|volume| volume_name(*volume)).collect();
        self.ask_as_operator(ControlRequest::SnapshotGroupCreate { name, volumes, taken_at: 0 });
    }

    /// Goes on with the snapshots that are not read yet.
    pub(super) fn drive_snapshots(&mut self) {
        if !self.is_operator_idle() || self.now < self.operator.look_at {
            return;
        }
        // Soon after it is made it has to be known: what is written later must not be in it.
        self.operator.look_at = self.now + SNAPSHOT_LOOK;
        let next = self.operator.snapshots.iter().find(|s| s.state != SnapshotProgress::Attached).cloned();
        let Some(snapshot) = next else { return };
        match snapshot.state {
            SnapshotProgress::Creating => {
                let (volume, name) = (volume_name(snapshot.volume), snapshot.name);
                self.ask_as_operator(ControlRequest::SnapshotShow { volume, name });
            }
            SnapshotProgress::Made => {
                self.operator.last_gateway += 1;
                let gateway = format!("gateway-{}", self.operator.last_gateway);
                let (name, mode) = (snapshot.disk_name(), AttachMode::Shared);
                self.ask_as_operator(ControlRequest::Attach { name, gateway, mode, read_only: true });
            }
            SnapshotProgress::Asked | SnapshotProgress::Attached | SnapshotProgress::Deleting => {}
        }
    }

    pub(super) fn snapshots_that_are_there(&self) -> Vec<(DiskName, SnapshotRef)> {
        let is_there = |s: &&Snapshot| matches!(s.state, SnapshotProgress::Made | SnapshotProgress::Attached);
        self.operator.snapshots.iter().filter(is_there).map(|s| (s.disk_name(), s.of)).collect()
    }

    /// Some snapshot is deleted, in whatever order they were made.
    pub fn delete_snapshot(&mut self, rng: &mut Rng) {
        let is_there = |s: &Snapshot| matches!(s.state, SnapshotProgress::Made | SnapshotProgress::Attached);
        let there: Vec<usize> =
            (0..self.operator.snapshots.len()).filter(|n| is_there(&self.operator.snapshots[*n])).collect();
        if there.is_empty() || !self.is_operator_idle() {
            return;
        }
        let nth = *rng.choose(&there).expect("not empty");
        let snapshot = &mut self.operator.snapshots[nth];
        snapshot.state = SnapshotProgress::Deleting;
        let (name, volume) = (snapshot.name.clone(), snapshot.volume);
        self.trace(|| format!("volume {volume}: {name} is deleted"));
        self.ask_to_delete(volume, &name);
    }

    fn ask_to_delete(&mut self, volume: u32, name: &Name) {
        let volume = volume_name(volume);
        let disk = DiskName { volume: volume.clone(), snapshot: Some(name.clone()) };
        self.ask_as_operator(ControlRequest::Detach { name: disk, gateway: None });
        self.ask_as_operator(ControlRequest::SnapshotDelete { volume, name: name.clone() });
    }

    pub fn snapshots_ever(&self) -> usize {
        self.operator.last_snapshot as usize
    }

    pub(super) fn are_snapshots_read(&self) -> bool {
        self.operator.snapshots.iter().all(|s| s.state == SnapshotProgress::Attached)
    }

    fn snapshot_mut(&mut self, volume: &Name, name: &Name) -> &mut Snapshot {
        let is_it = |s: &&mut Snapshot| volume_name(s.volume) == *volume && s.name == *name;
        self.operator.snapshots.iter_mut().find(is_it).expect("one of ours")
    }

    /// A gateway has got what it asked for.
    fn on_attached(&mut self, name: &DiskName, gateway: &str, attachment: Option<AttachmentId>) {
        self.on_clone_attached(&name.volume);
        if let Some(id) = self.clients.iter().find(|(_, c)| c.gateway == gateway).map(|(id, _)| *id) {
            return self.attached_again(id, attachment);
        }
        let volume = (0..self.volume_count()).find(|v| volume_name(*v) == name.volume).expect("one of ours");
        let snapshot = name.snapshot.as_ref().map(|snapshot| {
            let it = self.snapshot_mut(&name.volume, snapshot);
            it.state = SnapshotProgress::Attached;
            (it.name.clone(), it.of)
        });
        self.add_client(gateway.to_owned(), volume, snapshot, attachment);
    }

    /// A volume is made and deleted at once; its ids are never seen again.
    pub fn churn(&mut self) {
        self.operator.last_scratch += 1;
        let name = Name::new(&format!("scratch-{}", self.operator.last_scratch)).expect("a good name");
        let size = self.workload.volume_bytes();
        let create = ControlRequest::VolumeCreate { name: name.clone(), size, pool: None, provision: Provision::Thin };
        let delete = match self.operator.last_scratch.is_multiple_of(3) {
            true => self.delete_request(name, false),
            false => ControlRequest::VolumeDelete { name, with_snapshots: false },
        };
        self.operator.script.extend([create, delete]);
        if self.operator.script.len() == 2 {
            self.ask_next();
        }
    }

    fn delete_request(&self, name: Name, with_snapshots: bool) -> ControlRequest {
        match self.shape.wipes {
            true => ControlRequest::VolumeWipe { name, with_snapshots, at: 0 },
            false => ControlRequest::VolumeDelete { name, with_snapshots },
        }
    }

    /// Asks when everything before it is answered.
    pub(super) fn ask_as_operator(&mut self, request: ControlRequest) {
        self.operator.script.push_back(request);
        if self.operator.script.len() == 1 {
            self.ask_next();
        }
    }

    fn ask_next(&mut self) {
        if let Some(request) = self.operator.script.front().cloned() {
            self.before_mode(&request);
            self.call(ProcId::Operator, Purpose::Shell, request);
        }
    }

    pub(super) fn on_operator_input(&mut self, input: Input) {
        match input {
            Input::Answer { call, result } => {
                if let Some((_, request, result)) = self.on_answer(ProcId::Operator, call, *result) {
                    self.on_operator_answer(&request, result);
                }
            }
            Input::CallTimeout(of) => self.on_call_timeout(ProcId::Operator, of),
            Input::CallAgain(of) => self.on_call_again(ProcId::Operator, of),
            Input::WatchAgain => self.ask_next(),
            _ => {}
        }
    }

    fn on_operator_answer(&mut self, request: &ControlRequest, result: Result<ControlReply, ControlError>) {
        match (request, result) {
            (_, Err(ControlError::Busy)) => {
                return self.put(self.now + 20 * MS, ProcId::Operator, Input::WatchAgain);
            }
            (ControlRequest::OsdCreate { .. }, Ok(ControlReply::OsdCreated { osd, .. })) => {
                self.make_osd(osd);
                if self.osds.len() == self.shape.osds as usize {
                    // Set-up is without losses, so each OSD was created once.
                    self.queue.put(self.now + 10 * MS, Happening::Phase);
                }
            }
            (ControlRequest::Attach { name, gateway, .. }, Ok(ControlReply::Attachment(info))) => {
                self.on_attached(name, gateway, Some(info.id));
            }
            // Asked twice, because the first answer was lost.
            (ControlRequest::Attach { name, gateway, .. }, Err(ControlError::Attached { holder, .. }))
                if holder.contains(gateway.as_str()) =>
            {
                self.on_attached(name, gateway, None);
            }
            // A late copy of a request has attached it again.
            (ControlRequest::Attach { name, gateway, .. }, Err(ControlError::Attached { .. }))
                if self.aim() == Some(Aim::DiskModes) =>
            {
                let (name, gateway, mode) = (name.clone(), gateway.clone(), AttachMode::Force);
                let by_force = ControlRequest::Attach { name, gateway, mode, read_only: false };
                self.operator.script.insert(1, by_force);
            }
            (ControlRequest::VolumeSetMode { names, mode }, Ok(_)) => self.on_mode_set(names, *mode),
            // A late copy of a request has attached it; or a PG has no primary.
            (ControlRequest::VolumeSetMode { names, .. }, Err(ControlError::Invalid(_))) => self.on_mode_refused(names),
            // Asked twice, because the first answer was lost.
            (ControlRequest::SnapshotCreate { volume, name, .. }, Ok(_) | Err(ControlError::Exists { .. })) => {
                self.snapshot_mut(volume, name).state = SnapshotProgress::Creating;
            }
            // Asked twice, because the first answer was lost.
            (ControlRequest::VolumeClone { names, .. }, Ok(_) | Err(ControlError::Exists { .. })) => {
                self.on_cloned(names);
            }
            (ControlRequest::VolumeClone { names, .. }, Err(ControlError::Invalid(_))) => self.on_not_cloned(names),
            // A PG has no primary.
            (ControlRequest::SnapshotCreate { volume, name, .. }, Err(ControlError::Invalid(_))) => {
                let is_it = |s: &Snapshot| volume_name(s.volume) == *volume && s.name == *name;
                self.operator.snapshots.retain(|s| !is_it(s));
            }
            // Asked twice, because the first answer was lost.
            (
                ControlRequest::SnapshotGroupCreate { name, volumes, .. },
                result @ (Ok(_) | Err(ControlError::Exists { .. })),
            ) => {
                if let Ok(ControlReply::SnapshotGroup(info)) = result {
                    self.judge_left_out(volumes, &info.left_out);
                }
                let of_it = self.operator.snapshots.iter_mut().filter(|s| s.name == *name);
                of_it.for_each(|s| s.state = SnapshotProgress::Creating);
            }
            // A PG has no primary.
            (ControlRequest::SnapshotGroupCreate { name, .. }, Err(ControlError::Invalid(_))) => {
                self.operator.snapshots.retain(|s| s.name != *name);
            }
            // Asked twice, because the first answer was lost.
            (ControlRequest::SnapshotDelete { volume, name }, Ok(_) | Err(ControlError::NotFound { .. })) => {
                let is_it = |s: &Snapshot| volume_name(s.volume) == *volume && s.name == *name;
                self.operator.snapshots.retain(|s| !is_it(s));
            }
            // A late copy of a request has attached it again.
            (ControlRequest::SnapshotDelete { volume, name }, Err(ControlError::Invalid(_))) => {
                let volume = self.snapshot_mut(volume, name).volume;
                let name = name.clone();
                self.operator.script.pop_front();
                return self.ask_to_delete(volume, &name);
            }
            (ControlRequest::SnapshotShow { volume, name }, Ok(ControlReply::Snapshot(info))) => {
                if info.state == SnapshotState::Available {
                    let it = self.snapshot_mut(volume, name);
                    it.state = SnapshotProgress::Made;
                    let (of, volume) = (it.of, it.volume);
                    self.trace(|| format!("volume {volume}: {name} is there"));
                    self.history.end_snapshot(of);
                }
            }
            (ControlRequest::VolumeShow { .. }, Ok(ControlReply::Volume(info))) => {
                if info.is_reserving {
                    return self.put(self.now + 20 * MS, ProcId::Operator, Input::WatchAgain);
                }
            }
            (ControlRequest::VolumeCreate { name, .. }, Ok(ControlReply::Volume(info)))
                if name.to_string().starts_with("scratch") =>
            {
                self.operator.scratch = Some(info.id);
            }
            // Asked twice and already gone, because the first answer was lost.
            (
                ControlRequest::VolumeDelete { .. } | ControlRequest::VolumeWipe { .. },
                Ok(_) | Err(ControlError::NotFound { .. }),
            ) => {
                self.operator.deleted.extend(self.operator.scratch.take());
            }
            // Done meanwhile, or before it was asked for again; or the one before it is still ending; or there is no room.
            (
                ControlRequest::VolumeFlatten { .. } | ControlRequest::VolumeSet { .. },
                Ok(_) | Err(ControlError::Invalid(_)),
            ) => {}
            (
                ControlRequest::JobCancel { .. },
                Ok(_) | Err(ControlError::NotFound { .. } | ControlError::Invalid(_)),
            ) => {}
            (ControlRequest::JobList, Ok(ControlReply::Jobs(jobs))) => self.on_jobs(&jobs),
            (ControlRequest::ScrubStart { .. }, Ok(ControlReply::Scrub { number, .. })) => self.on_scrub_wished(number),
            (ControlRequest::ScrubCancel { .. }, Ok(ControlReply::Scrub { .. })) => {}
            (ControlRequest::PoolCreate { .. } | ControlRequest::VolumeCreate { .. }, Ok(_)) => {}
            (ControlRequest::VolumeSetWipeFreed { .. }, Ok(ControlReply::Volumes(_))) => {}
            // Nobody had it; or it was asked twice.
            (ControlRequest::Detach { .. }, Ok(_) | Err(ControlError::NotFound { .. })) => {}
            (
                ControlRequest::PoolCreate { .. } | ControlRequest::VolumeCreate { .. },
                Err(ControlError::Exists { .. }),
            ) => {}
            (request, result) => {
                return self.fail(Reason::Setup(format!("{request:?} was answered {result:?}")));
            }
        }
        self.operator.script.pop_front();
        self.ask_next();
        if self.phase == Phase::Setup && self.operator.script.is_empty() && !self.clients.is_empty() {
            self.begin_load();
        }
    }

    pub fn is_operator_idle(&self) -> bool {
        self.operator.script.is_empty()
    }
}
