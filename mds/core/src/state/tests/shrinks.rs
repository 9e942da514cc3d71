//! H1 to H3: who may shrink a volume that is in use, and when it has the new size.

use super::*;
use ashlar_types::SessionId;
use ashlar_types::job::{JobInfo, JobKind, JobState};

const MIB: u64 = 1 << 20;
const HALF: u64 = 1 << 29;

fn session(grant: &AttachGrant) -> SessionId {
    grant.session
}

impl Cluster {
    /// With `v` of 1 GiB at gateway `g`, opened by its process `boot`.
    fn in_use(boot: u64) -> (Cluster, AttachGrant) {
        let mut cluster = Cluster::with_volume(1, 1);
        cluster.attach_writable("g", AttachMode::Exclusive).expect("free");
        let grant = cluster.open_by("g", boot).expect("attached");
        (cluster, grant)
    }

    fn attach_writable(&mut self, gateway: &str, mode: AttachMode) -> Outcome {
        let (name, gateway) = (disk("v"), gateway.to_owned());
        self.ask(ControlRequest::Attach { name, gateway, mode, read_only: false })
    }

    fn open_by(&mut self, gateway: &str, boot: u64) -> Result<AttachGrant, ControlError> {
        let (name, gateway, boot) = (disk("v"), gateway.to_owned(), BootId(boot));
        let request = ControlRequest::OpenAttachment { name, gateway, boot };
        match self.state.query(&request).unwrap_or_else(|| self.command(Command::Request(request)))? {
            ControlReply::Opened(grant) => Ok(grant),
            other => panic!("{other:?}"),
        }
    }

    fn shrink(&mut self, size: u64) -> Result<JobInfo, ControlError> {
        match self.ask(ControlRequest::ShrinkStart { name: name("v"), size, force: false })? {
            ControlReply::Job(job) => Ok(*job),
            other => panic!("{other:?}"),
        }
    }

    /// As the leader has it done where a gateway asks.
    fn take_shrink(&mut self, gateway: &str, boot: u64) -> Option<(JobId, SessionId)> {
        let job = self.state.shrink_to_take(gateway, BootId(boot))?;
        let (gateway, boot) = (gateway.to_owned(), BootId(boot));
        match self.command(Command::JobTake { job, replaces: None, gateway, boot }).expect("never refused") {
            ControlReply::JobTaken(taken) => taken,
            other => panic!("{other:?}"),
        }
    }

    fn end(&mut self, (job, session): (JobId, SessionId), disk: SessionId, refusal: Option<&str>) -> Outcome {
        self.ask(ControlRequest::ShrinkEnd { job, session, disk, refusal: refusal.map(str::to_owned) })
    }

    fn size(&self) -> u64 {
        self.show("v").expect("is there").size
    }

    fn all_jobs(&self) -> Vec<JobInfo> {
        match self.state.query(&ControlRequest::JobList).expect("a read") {
            Ok(ControlReply::Jobs(jobs)) => jobs,
            other => panic!("{other:?}"),
        }
    }

    /// Why the shrink that was asked for has failed.
    fn failure(&self) -> String {
        let job = self.all_jobs().pop().expect("it is kept");
        assert_eq!((job.state, job.gateway, self.size()), (JobState::Failed, None, 1 << 30));
        job.trouble.expect("it says why")
    }
}

#[test]
fn the_gateway_that_has_a_volume_shrinks_it_under_its_own_attachment() {
    let (mut cluster, grant) = Cluster::in_use(5);
    let job = cluster.shrink(HALF).expect("in use");
    assert_eq!((job.state, job.total, job.waits_for.as_deref()), (JobState::Waiting, HALF, Some("a gateway")));
    assert!(
        matches!(job.kind, JobKind::Shrink(shrink) if shrink.size == HALF && shrink.attachment == grant.attachment)
    );
    assert_eq!(cluster.shrink(HALF).expect("the same again").id, job.id);
    assert_eq!(cluster.state.jobs_to_take().count(), 0, "nobody else may have it");
    assert_eq!((cluster.take_shrink("h", 5), cluster.take(job.id, None)), (None, Some(session_of(&job))));
    assert_eq!(cluster.take_shrink("g", 5), None, "it is taken");
    let work = (job.id, session_of(&job));
    let progress =
        ControlRequest::JobProgress { job: job.id, session: work.1, position: MIB, filled: 0, trouble: None };
    cluster.ask(progress).expect("its worker");
    let told = cluster.all_jobs().remove(0);
    assert_eq!((told.state, told.position, told.gateway.as_deref()), (JobState::Running, MIB, Some("g")));
    assert_eq!(cluster.size(), 1 << 30, "not before it is done");
    cluster.end(work, session(&grant), None).expect("done");
    assert_eq!((cluster.size(), cluster.all_jobs().len()), (HALF, 0));
    assert!(matches!(cluster.end(work, session(&grant), None), Err(ControlError::NotFound { .. })), "said before");
    let floor = &cluster.state.volumes[&grant.volume].floor;
    assert!(!floor.fences(grant.attachment, grant.generation), "its clients go on");
    assert!(cluster.state.volumes[&grant.volume].barrier.is_none());
}

fn session_of(job: &JobInfo) -> SessionId {
    match job.kind {
        JobKind::Shrink(shrink) => shrink.session,
        kind => panic!("{kind:?}"),
    }
}

#[test]
fn a_session_that_lost_the_volume_changes_nothing() {
    for takes_over in [false, true] {
        let (mut cluster, grant) = Cluster::in_use(5);
        cluster.shrink(HALF).expect("in use");
        let work = cluster.take_shrink("g", 5).expect("its volume");
        match takes_over {
            true => _ = cluster.attach_writable("h", AttachMode::Force).expect("taken over"),
            false => {
                assert!(cluster.open_by("g", 6).is_err(), "its older process has to be fenced first");
            }
        }
        assert!(cluster.failure().contains("keeps its size"));
        assert!(matches!(cluster.end(work, session(&grant), None), Err(ControlError::NotFound { .. })));
        cluster.pass_barriers();
        let gateway = if takes_over { "h" } else { "g" };
        let next = cluster.open_by(gateway, 6).expect("its own");
        assert!(cluster.end(work, session(&next), None).is_err());
        assert_eq!((next.size, cluster.size()), (1 << 30, 1 << 30));
    }
}

/// Taken over for the very same process, which doesn't know yet that its session is another one.
#[test]
fn the_session_that_held_off_its_clients_must_be_the_one_that_has_the_volume() {
    let (mut cluster, grant) = Cluster::in_use(5);
    cluster.shrink(HALF).expect("in use");
    let work = cluster.take_shrink("g", 5).expect("its volume");
    cluster.attach_writable("g", AttachMode::Force).expect("its own");
    assert!(cluster.failure().contains("taken over"));
    cluster.pass_barriers();
    let again = cluster.open_by("g", 5).expect("its own");
    assert_ne!(session(&again), session(&grant));
    cluster.shrink(HALF).expect("another one");
    let next = cluster.take_shrink("g", 5).expect("its volume");
    assert_ne!(work, next);
    assert!(cluster.end(next, session(&grant), None).is_err(), "H2");
    assert!(cluster.end(work, session(&again), None).is_err(), "H2");
    assert_eq!(cluster.size(), 1 << 30);
    cluster.end(next, session(&again), None).expect("this one is it");
    assert_eq!(cluster.size(), HALF);
}

#[test]
fn a_process_that_comes_after_another_one_can_shrink_what_it_has_not_opened_yet() {
    let (mut cluster, _) = Cluster::in_use(5);
    cluster.shrink(HALF).expect("in use");
    let work = cluster.take_shrink("g", 6).expect("the gateway's");
    assert!(cluster.open_by("g", 6).is_err(), "the older process has to be fenced first");
    assert!(matches!(cluster.all_jobs()[0].state, JobState::Running), "it is still wanted");
    cluster.pass_barriers();
    let grant = cluster.open_by("g", 6).expect("its own");
    cluster.end(work, session(&grant), None).expect("it has it");
    assert_eq!(cluster.size(), HALF);
}

#[test]
fn a_volume_that_is_detached_or_whose_gateway_is_silent_keeps_its_size_and_says_why() {
    let (mut cluster, _) = Cluster::in_use(5);
    let job = cluster.shrink(HALF).expect("in use");
    assert_eq!(cluster.state.shrinks().collect::<Vec<_>>(), [(job.id, session_of(&job))], "its time runs");
    cluster.end((job.id, session_of(&job)), SessionId(0), Some("silent")).expect("the leader says so");
    assert_eq!((cluster.failure().as_str(), cluster.state.shrinks().count()), ("silent", 0));
    let next = cluster.shrink(HALF).expect("in its place");
    assert!(next.id > job.id && cluster.all_jobs().len() == 1);
    cluster.take_shrink("g", 5).expect("its volume");
    cluster.ask(ControlRequest::Detach { name: disk("v"), gateway: None }).expect("attached");
    assert!(cluster.failure().contains("it was taken from its gateway"));
    cluster.ask(ControlRequest::VolumeExtend { name: name("v"), size: 2 << 30 }).expect("it is over");
    cluster.ask(ControlRequest::JobCancel { job: next.id }).expect("forgotten");
    assert!(cluster.all_jobs().is_empty());
}

#[test]
fn a_shrink_that_is_given_up_leaves_the_volume_what_it_was() {
    let (mut cluster, grant) = Cluster::in_use(5);
    let job = cluster.shrink(HALF).expect("in use");
    let work = cluster.take_shrink("g", 5).expect("its volume");
    let refused = refusal(cluster.ask(ControlRequest::JobSet { job: job.id, rate: None, paused: true }));
    assert!(refused.contains("given up"), "{refused}");
    assert!(refusal(cluster.ask(ControlRequest::JobDone { job: job.id, session: work.1 })).contains("ends with"));
    cluster.ask(ControlRequest::JobCancel { job: job.id }).expect("is there");
    assert!(cluster.end(work, session(&grant), None).is_err());
    assert_eq!((cluster.size(), cluster.all_jobs().len()), (1 << 30, 0));
    let floor = &cluster.state.volumes[&grant.volume].floor;
    assert!(!floor.fences(grant.attachment, grant.generation), "its clients go on");
}

#[test]
fn what_cannot_be_shrunk_is_refused_in_one_line_each() {
    let (mut cluster, _) = Cluster::in_use(5);
    for (size, says) in
        [(0, "512 bytes"), (513, "multiple"), (1 << 30, "makes it smaller"), (2 << 30, "makes it smaller")]
    {
        let refused = cluster.shrink(size).expect_err("no size for it").to_string();
        assert!(refused.contains(says), "{refused}");
    }
    cluster.shrink(HALF).expect("in use");
    let refused = cluster.shrink(MIB).expect_err("one at a time").to_string();
    assert!(refused.contains("volume v is being shrunk (job.1)"), "{refused}");
    let extend = ControlRequest::VolumeExtend { name: name("v"), size: 2 << 30 };
    assert!(refusal(cluster.ask(extend)).contains("being shrunk"));
    let at_rest = ControlRequest::VolumeShrink { name: name("v"), size: MIB, gateway: "g".into() };
    assert!(refusal(cluster.ask(at_rest)).contains("being shrunk"));
    let eager = ControlRequest::VolumeSet { name: name("v"), provision: Provision::Eager };
    assert!(refusal(cluster.ask(eager)).contains("being shrunk"));
    cluster.snapshot("v", "s").expect("a snapshot keeps the size that there was");
    cluster.pass_barriers();
}

#[test]
fn a_volume_of_several_gateways_or_of_none_or_read_only_is_not_shrunk_in_use() {
    let mut cluster = Cluster::with_volume(1, 1);
    assert!(cluster.shrink(HALF).expect_err("nobody has it").to_string().contains("no gateway"));
    cluster.attach_writable("g", AttachMode::Shared).expect("free");
    cluster.shrink(HALF).expect("alone");
    let refused = refusal(cluster.attach_writable("h", AttachMode::Shared));
    assert!(refused.contains("being shrunk"), "{refused}");
    cluster.attach_writable("g", AttachMode::Shared).expect("the same again");
    cluster.ask(ControlRequest::JobCancel { job: JobId(1) }).expect("is there");
    cluster.attach_writable("h", AttachMode::Shared).expect("shared");
    let refused = cluster.shrink(HALF).expect_err("two").to_string();
    assert!(refused.contains("shared by 2 gateways"), "{refused}");
    let (name, mode) = (disk("v"), AttachMode::Force);
    cluster.ask(ControlRequest::Attach { name, gateway: "g".into(), mode, read_only: true }).expect("taken over");
    assert!(cluster.shrink(HALF).expect_err("read-only").to_string().contains("read-only"));
}

#[test]
fn jobs_are_one_at_a_time_and_an_eager_volume_has_nothing_left_to_be_zeroed_behind_its_new_end() {
    let (mut cluster, grant) = Cluster::in_use(5);
    cluster.ask(ControlRequest::VolumeSet { name: name("v"), provision: Provision::Eager }).expect("is made so");
    cluster.keep_reserves();
    let refused = cluster.shrink(HALF).expect_err("it is zeroed").to_string();
    assert!(refused.contains("being written with zeroes (job.1)"), "{refused}");
    let zeroing = cluster.take(JobId(1), None).expect("nobody has it");
    cluster.ask(ControlRequest::JobDone { job: JobId(1), session: zeroing }).expect("his");
    cluster.pass_barriers();
    cluster.shrink(HALF).expect("in use");
    let work = cluster.take_shrink("g", 5).expect("its volume");
    cluster.end(work, session(&grant), None).expect("done");
    assert_eq!((cluster.size(), cluster.all_jobs().len()), (HALF, 0));
    cluster.ask(ControlRequest::VolumeExtend { name: name("v"), size: 1 << 30 }).expect("larger again");
    let job = cluster.all_jobs().remove(0);
    assert_eq!((job.kind, job.position), (JobKind::Zero, HALF), "what it grows by is zeroed");
}

/// Nothing of a shrink is in a log entry or a state of those who know none, so old ones are read as they were.
#[test]
fn a_shrink_comes_back_the_same_from_a_log_and_a_state() {
    let (mut cluster, grant) = Cluster::in_use(5);
    let job = cluster.shrink(HALF).expect("in use");
    let (session, disk) = (session_of(&job), session(&grant));
    for request in [
        ControlRequest::ShrinkStart { name: name("v"), size: HALF, force: true },
        ControlRequest::ShrinkEnd { job: job.id, session, disk, refusal: None },
        ControlRequest::ShrinkEnd { job: job.id, session, disk, refusal: Some("data".into()) },
    ] {
        let command = Command::Request(request);
        assert_eq!(Command::decode(&command.encode()), Ok(command));
    }
    assert_eq!(ClusterState::decode(&cluster.state.encode()), Ok(cluster.state.clone()));
    cluster.end((job.id, session), disk, Some("data")).expect("said");
    assert_eq!(ClusterState::decode(&cluster.state.encode()), Ok(cluster.state));
}
