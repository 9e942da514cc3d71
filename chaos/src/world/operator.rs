//! Who makes the cluster and attaches its volumes: what `ashlar up` and an administrator do.

use super::client::volume_name;
use super::{Happening, Input, Phase, Process, Purpose, World};
use crate::check::ClientNumber;
use crate::clock::MS;
use crate::net::ProcId;
use crate::run::Reason;
use ashlar_types::control::{AttachMode, ControlError, ControlReply, ControlRequest};
use ashlar_types::{Name, VolumeId};
use std::collections::VecDeque;

#[derive(Debug)]
pub struct Operator {
    pub process: Process,
    /// What it is going to ask; the first is being asked.
    script: VecDeque<ControlRequest>,
    /// Sessions that were opened: client, volume, gateway.
    pub sessions: Vec<(ClientNumber, u32, String)>,
    last_gateway: u32,
    last_scratch: u32,
    /// Volumes that were made and deleted again.
    pub deleted: Vec<VolumeId>,
    /// The scratch volume that exists.
    scratch: Option<VolumeId>,
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
            deleted: Vec::new(),
            scratch: None,
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
        self.operator.script.push_back(ControlRequest::PoolCreate { name, replicas: self.shape.replicas, min_size });
        for volume in 0..self.shape.volumes {
            let size = self.workload.volume_bytes();
            self.operator.script.push_back(ControlRequest::VolumeCreate {
                name: volume_name(volume),
                size,
                pool: None,
            });
            let mode = if self.shape.sharers > 1 { AttachMode::Shared } else { AttachMode::Exclusive };
            for _ in 0..self.shape.sharers {
                self.push_attach(volume, mode);
            }
        }
        self.ask_next();
    }

    fn push_attach(&mut self, volume: u32, mode: AttachMode) {
        self.operator.last_gateway += 1;
        let gateway = format!("gateway-{}", self.operator.last_gateway);
        let request = ControlRequest::Attach { name: volume_name(volume), gateway, mode, read_only: false };
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
        for volume in 0..self.shape.volumes {
            let name = volume_name(volume);
            self.operator.script.push_back(ControlRequest::Detach { name: name.clone(), gateway: None });
            self.operator.script.push_back(ControlRequest::VolumeDelete { name });
        }
        self.ask_next();
    }

    /// A volume is made and deleted at once; its ids are never seen again.
    pub fn churn(&mut self) {
        self.operator.last_scratch += 1;
        let name = Name::new(&format!("scratch-{}", self.operator.last_scratch)).expect("a good name");
        let size = self.workload.volume_bytes();
        let create = ControlRequest::VolumeCreate { name: name.clone(), size, pool: None };
        self.operator.script.extend([create, ControlRequest::VolumeDelete { name }]);
        if self.operator.script.len() == 2 {
            self.ask_next();
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
            Input::CallTimeout(call) => self.on_call_timeout(ProcId::Operator, call),
            Input::CallAgain(call) => self.on_call_again(ProcId::Operator, call),
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
            (ControlRequest::Attach { name, gateway, .. }, Ok(_)) => {
                let volume = (0..self.shape.volumes).find(|v| volume_name(*v) == *name).expect("one of ours");
                self.add_client(gateway.clone(), volume);
            }
            // Asked twice, because the first answer was lost.
            (ControlRequest::Attach { name, gateway, .. }, Err(ControlError::Attached { holder, .. }))
                if holder.contains(gateway.as_str()) =>
            {
                let volume = (0..self.shape.volumes).find(|v| volume_name(*v) == *name).expect("one of ours");
                self.add_client(gateway.clone(), volume);
            }
            (ControlRequest::VolumeCreate { name, .. }, Ok(ControlReply::Volume(info)))
                if name.to_string().starts_with("scratch") =>
            {
                self.operator.scratch = Some(info.id);
            }
            // Asked twice and already gone, because the first answer was lost.
            (ControlRequest::VolumeDelete { .. }, Ok(_) | Err(ControlError::NotFound { .. })) => {
                self.operator.deleted.extend(self.operator.scratch.take());
            }
            (ControlRequest::ScrubStart { .. }, Ok(ControlReply::Scrub { number, .. })) => self.on_scrub_wished(number),
            (ControlRequest::ScrubCancel { .. }, Ok(ControlReply::Scrub { .. })) => {}
            (ControlRequest::PoolCreate { .. } | ControlRequest::VolumeCreate { .. }, Ok(_)) => {}
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
