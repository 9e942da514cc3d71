//! Processes of gateways that work on jobs: the library's filler on a session of its own, as client/src/shell/worker.rs has them.

use super::{Happening, Input, Process, Purpose, World};
use crate::clock::{Instant, MS};
use crate::net::{NetEvent, ProcId};
use ashlar_client::core::{ClientAction, ClientEvent, ClientLimits, FillAction, FillKind, Filler, VolumeClient};
use ashlar_types::control::{ControlError, ControlReply, ControlRequest};
use ashlar_types::job::{JobKind, JobWork};
use ashlar_types::{BlockRequest, BootId, JobId, SessionId, Tick};
use std::sync::Arc;

const WORKERS: u32 = 2;
const TELL_PAUSE: Instant = 200 * MS;

#[derive(Debug)]
pub struct WorkerProcess {
    pub process: Process,
    boot: BootId,
    state: WorkerState,
}

#[derive(Debug)]
enum WorkerState {
    /// It has nothing to do, and asks for a job.
    Free,
    /// It has a job, and asks for what it needs.
    Taken(JobId, SessionId),
    Working(Box<Work>),
    /// It has told that all is done.
    Done,
}

#[derive(Debug)]
struct Work {
    job: JobId,
    session: SessionId,
    client: VolumeClient,
    filler: Filler,
    base: Option<u32>,
    /// When the client and the filler want to be woken.
    wakes: [Option<Tick>; 2],
}

impl World {
    pub(super) fn add_workers(&mut self) {
        for id in 1..=WORKERS {
            let process = Process::new(self.new_clock());
            self.workers.insert(id, WorkerProcess { process, boot: BootId(0), state: WorkerState::Free });
            self.queue.put(self.now, Happening::StartWorker(id));
        }
    }

    pub fn worker_ids(&self) -> Vec<u32> {
        self.workers.keys().copied().collect()
    }

    pub fn is_working(&self, id: u32) -> bool {
        matches!(self.workers.get(&id).map(|w| &w.state), Some(WorkerState::Working(_)))
    }

    pub(super) fn start_worker(&mut self, id: u32) {
        let boot = BootId(self.rng.next_u64() | 1);
        let Some(worker) = self.workers.get_mut(&id).filter(|w| !w.process.is_up) else { return };
        worker.process.begin();
        (worker.boot, worker.state) = (boot, WorkerState::Free);
        self.go_on_in(id, 0);
    }

    pub fn crash_worker(&mut self, id: u32) {
        let Some(worker) = self.workers.get_mut(&id).filter(|w| w.process.is_up) else { return };
        worker.process.end();
        self.stats.crashes += 1;
        self.trace(|| format!("worker {id} crashes"));
        self.end_work(id);
    }

    pub fn restart_worker_in(&mut self, id: u32, span: Instant) {
        self.queue.put(self.now + span, Happening::StartWorker(id));
    }

    /// It has lost its job, or is done with it.
    fn end_work(&mut self, id: u32) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let was = std::mem::replace(&mut worker.state, WorkerState::Free);
        self.net.on_process_end(self.now, ProcId::Worker(id), false);
        if let WorkerState::Working(work) = was {
            work.base.into_iter().for_each(|base| self.end_base(base));
        }
    }

    /// Asks, or tells, what it asks or tells next.
    fn go_on_in(&mut self, id: u32, span: Instant) {
        self.put(self.now + span, ProcId::Worker(id), Input::Submit);
    }

    fn go_on(&mut self, id: u32) {
        let worker = &self.workers[&id];
        let request = match &worker.state {
            WorkerState::Free => {
                ControlRequest::JobTake { gateway: format!("worker-{id}"), boot: worker.boot, shrinks_only: false }
            }
            WorkerState::Taken(job, session) => ControlRequest::JobGrant { job: *job, session: *session },
            WorkerState::Working(work) => {
                let (job, session) = (work.job, work.session);
                if work.filler.is_done() {
                    ControlRequest::JobDone { job, session }
                } else {
                    let (position, filled) = (work.filler.position(), work.filler.filled());
                    let trouble = work.filler.trouble().map(ToString::to_string);
                    ControlRequest::JobProgress { job, session, position, filled, trouble }
                }
            }
            WorkerState::Done => return,
        };
        if matches!(request, ControlRequest::JobDone { .. }) {
            self.end_work(id);
            self.workers.get_mut(&id).expect("just seen").state = WorkerState::Done;
        }
        self.call(ProcId::Worker(id), Purpose::Shell, request);
    }

    pub(super) fn on_worker_input(&mut self, id: u32, input: Input) {
        match input {
            Input::Net(NetEvent::LinkUp(osd)) => self.step_worker(id, ClientEvent::LinkUp(osd)),
            Input::Net(NetEvent::LinkDown(osd)) => self.step_worker(id, ClientEvent::LinkDown(osd)),
            Input::Net(NetEvent::LinkReceived(osd, message)) => {
                self.step_worker(id, ClientEvent::Received(osd, message));
            }
            Input::Wake(_) => {
                self.step_worker(id, ClientEvent::Timer);
                self.step_filler(id, |filler, now, actions| filler.on_timer(now, actions));
            }
            Input::Answer { call, result } => {
                if let Some((purpose, request, result)) = self.on_answer(ProcId::Worker(id), call, *result) {
                    self.on_worker_answer(id, purpose, &request, result);
                }
            }
            Input::CallTimeout(of) => self.on_call_timeout(ProcId::Worker(id), of),
            Input::CallAgain(of) => self.on_call_again(ProcId::Worker(id), of),
            Input::WatchAgain if self.is_working(id) => self.watch(ProcId::Worker(id)),
            Input::Submit => self.go_on(id),
            _ => {}
        }
    }

    fn on_worker_answer(
        &mut self,
        id: u32,
        purpose: Purpose,
        request: &ControlRequest,
        result: Result<ControlReply, ControlError>,
    ) {
        use ControlRequest as R;
        let pause = self.rng.between(5, 50) * MS;
        let worker = self.workers.get_mut(&id).expect("inputs are for processes that exist");
        let is_its = |session: SessionId| match &worker.state {
            WorkerState::Taken(_, own) => *own == session,
            WorkerState::Working(work) => work.session == session,
            WorkerState::Free | WorkerState::Done => false,
        };
        match (request, result) {
            (_, Ok(ControlReply::View(view))) if purpose == Purpose::Watch => return self.on_worker_view(id, *view),
            _ if purpose == Purpose::Watch => return,
            (R::JobTake { .. }, Ok(ControlReply::JobTaken(Some((job, session))))) => {
                worker.state = WorkerState::Taken(job, session);
                self.trace(|| format!("worker {id} has {job} as {session}"));
                return self.go_on_in(id, 0);
            }
            (R::JobTake { .. }, _) => return self.go_on_in(id, 4 * pause),
            (R::JobDone { .. }, Ok(_) | Err(ControlError::NotFound { .. })) => {
                worker.state = WorkerState::Free;
                return self.go_on_in(id, pause);
            }
            (R::JobDone { job, session }, Err(_)) => {
                let again = R::JobDone { job: *job, session: *session };
                return self.call(ProcId::Worker(id), Purpose::Shell, again);
            }
            (R::JobGrant { session, .. } | R::JobProgress { session, .. }, result) if is_its(*session) => {
                let is_taken = matches!(worker.state, WorkerState::Taken(..));
                match result {
                    Ok(ControlReply::JobWork(work)) if is_taken => return self.begin_work(id, *work),
                    Ok(ControlReply::JobWork(work)) => {
                        let (revision, layers, base) = (work.grant.stack_revision, work.grant.layers, work.grant.base);
                        return self.step_worker(id, ClientEvent::Stack { revision, layers, base });
                    }
                    Err(ControlError::NotFound { .. }) => {
                        self.trace(|| format!("worker {id} has lost its job"));
                        self.end_work(id);
                        return self.go_on_in(id, pause);
                    }
                    _ if is_taken => return self.go_on_in(id, pause),
                    _ => {}
                }
            }
            _ => {}
        }
        if matches!(request, R::JobProgress { .. }) && self.is_working(id) {
            self.go_on_in(id, TELL_PAUSE);
        }
    }

    fn begin_work(&mut self, id: u32, work: JobWork) {
        let JobWork { job, grant } = work;
        self.trace(|| format!("worker {id} works on {job:?} with {grant:?}"));
        let kind = match job.kind {
            JobKind::Flatten => FillKind::Base { own_layers: u32::try_from(grant.layers.len()).expect("few") },
            JobKind::Zero => FillKind::Zeroes,
            JobKind::Shrink(_) => unreachable!("it has attached nothing"),
        };
        let filler = Filler::new(kind, job.position, grant.size, job.rate);
        let session = grant.session;
        let base = grant.base.map(|layer| self.begin_base(ProcId::Worker(id), layer));
        let client = VolumeClient::new(grant, ClientLimits::default());
        let work = Work { job: job.id, session, client, filler, base, wakes: [None; 2] };
        let worker = self.workers.get_mut(&id).expect("it was just answered");
        worker.state = WorkerState::Working(Box::new(work));
        worker.process.revision = ashlar_types::Revision(0);
        self.watch(ProcId::Worker(id));
        self.step_filler(id, |filler, now, actions| filler.on_timer(now, actions));
        self.go_on_in(id, TELL_PAUSE);
    }

    pub(super) fn step_worker(&mut self, id: u32, event: ClientEvent) {
        let now = self.tick_of(ProcId::Worker(id));
        let Some(WorkerState::Working(work)) = self.workers.get_mut(&id).map(|w| &mut w.state) else { return };
        let mut actions = Vec::new();
        work.client.step(now, event, &mut actions);
        for action in actions {
            self.on_worker_action(id, action);
        }
    }

    fn on_worker_action(&mut self, id: u32, action: ClientAction) {
        let me = ProcId::Worker(id);
        let Some(WorkerState::Working(work)) = self.workers.get_mut(&id).map(|w| &mut w.state) else { return };
        match action {
            ClientAction::Link { osd, .. } => self.net.open(self.now, me, osd),
            ClientAction::LinkSend(osd, message) => {
                self.trace(|| format!("worker {id} -> {osd} {}", super::trace::brief(&message)));
                self.net.send_on_link(self.now, me, osd, &message);
            }
            ClientAction::Complete(tag, result) => {
                self.step_filler(id, |filler, now, actions| filler.on_done(now, tag, result, actions));
            }
            ClientAction::ReadBase { key, op } => {
                let base = work.base.expect("its grant named it");
                self.read_base(base, key, op);
            }
            ClientAction::Held => {}
            ClientAction::WantView => self.watch(me),
            ClientAction::WantStack => {
                let request = ControlRequest::JobGrant { job: work.job, session: work.session };
                self.call(me, Purpose::Shell, request);
            }
            ClientAction::WakeAt(tick) => {
                work.wakes[0] = Some(tick);
                self.arm_worker(id);
            }
            ClientAction::Fenced => {
                self.trace(|| format!("worker {id} is fenced"));
                self.end_work(id);
                self.go_on_in(id, 10 * MS);
            }
        }
    }

    fn step_filler(&mut self, id: u32, step: impl FnOnce(&mut Filler, Tick, &mut Vec<FillAction>)) {
        let now = self.tick_of(ProcId::Worker(id));
        let Some(WorkerState::Working(work)) = self.workers.get_mut(&id).map(|w| &mut w.state) else { return };
        let mut actions = Vec::new();
        step(&mut work.filler, now, &mut actions);
        for action in actions {
            match action {
                FillAction::Submit { tag, op } => {
                    self.trace(|| format!("worker {id} asks: {op:?}").chars().take(120).collect());
                    self.step_worker(id, ClientEvent::Submit(BlockRequest { tag, op }));
                }
                FillAction::WakeAt(tick) => {
                    let Some(WorkerState::Working(work)) = self.workers.get_mut(&id).map(|w| &mut w.state) else {
                        return;
                    };
                    work.wakes[1] = Some(tick);
                    self.arm_worker(id);
                }
            }
        }
    }

    /// A process has one timer; who is woken for the other looks, and asks again.
    fn arm_worker(&mut self, id: u32) {
        let now = self.tick_of(ProcId::Worker(id));
        let Some(WorkerState::Working(work)) = self.workers.get_mut(&id).map(|w| &mut w.state) else { return };
        work.wakes.iter_mut().for_each(|wake| *wake = wake.filter(|at| *at > now));
        let next = work.wakes.iter().flatten().min().copied().unwrap_or(now);
        self.wake_at(ProcId::Worker(id), next);
    }

    fn on_worker_view(&mut self, id: u32, view: ashlar_types::view::ClusterView) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if view.revision > worker.process.revision {
            worker.process.revision = view.revision;
            self.step_worker(id, ClientEvent::View(Arc::new(view)));
        }
    }
}
