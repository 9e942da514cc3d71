//! Z1 to Z4: who works on a job, what he is granted, and what is left when it ends in one way or another.

use super::*;
use ashlar_types::job::{JobInfo, JobKind, JobState, JobWork};
use ashlar_types::{JobId, SessionId};

const MIB: u64 = 1 << 20;

impl Cluster {
    /// With a clone `c` of `v@s`, that is being flattened.
    fn with_flatten() -> (Cluster, JobInfo) {
        let mut cluster = Cluster::with_volume(1, 1);
        cluster.snapshot("v", "s").expect("taken");
        cluster.pass_barriers();
        let clone = ControlRequest::VolumeClone { source: disk("v@s"), names: vec![name("c")], pool: None };
        cluster.ask(clone).expect("cloned");
        let job = cluster.flatten("c").expect("a clone");
        (cluster, job)
    }

    pub(super) fn flatten(&mut self, volume: &str) -> Result<JobInfo, ControlError> {
        match self.ask(ControlRequest::VolumeFlatten { name: name(volume), rate: None })? {
            ControlReply::Job(job) => Ok(*job),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn eager(&mut self, volume: &str, size: u64) -> Outcome {
        self.ask(ControlRequest::VolumeCreate { name: name(volume), size, pool: None, provision: Provision::Eager })
    }

    /// The OSDs keep what was reserved.
    pub(super) fn keep_reserves(&mut self) {
        let asked: Vec<_> = self.state.asked_reserves().map(|(volume, since, _)| (volume, since)).collect();
        for (volume, since) in asked {
            self.command(Command::ReserveJudged(Verdict { volume, since, is_kept: true })).expect("asked");
        }
    }

    fn jobs(&self) -> Vec<JobInfo> {
        match self.state.query(&ControlRequest::JobList).expect("a read") {
            Ok(ControlReply::Jobs(jobs)) => jobs,
            other => panic!("{other:?}"),
        }
    }

    /// As the leader decides.
    pub(super) fn take(&mut self, job: JobId, replaces: Option<SessionId>) -> Option<SessionId> {
        let (gateway, boot) = ("g".to_owned(), BootId(5));
        match self.command(Command::JobTake { job, replaces, gateway, boot }).expect("never refused") {
            ControlReply::JobTaken(taken) => taken.map(|(_, session)| session),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn work(&self, job: JobId, session: SessionId) -> Result<JobWork, ControlError> {
        match self.state.query(&ControlRequest::JobGrant { job, session }).expect("a read")? {
            ControlReply::JobWork(work) => Ok(*work),
            other => panic!("{other:?}"),
        }
    }

    fn progress(&mut self, job: JobId, session: SessionId, position: u64) -> Outcome {
        self.ask(ControlRequest::JobProgress { job, session, position, filled: position, trouble: None })
    }

    fn floor_fences(&self, work: &JobWork) -> bool {
        let floor = &self.state.volumes[&work.grant.volume].floor;
        floor.fences(work.grant.attachment, work.grant.generation)
    }
}

#[test]
fn a_clone_that_is_flattened_lets_go_of_its_origin_when_its_pgs_know_no_older_stack() {
    let (mut cluster, job) = Cluster::with_flatten();
    assert_eq!((job.kind, job.state, job.total), (JobKind::Flatten, JobState::Waiting, 1 << 30));
    assert_eq!(cluster.flatten("c").expect("the same again").id, job.id);
    let session = cluster.take(job.id, None).expect("nobody has it");
    let work = cluster.work(job.id, session).expect("nobody is before him");
    assert_eq!((work.grant.layers.len(), work.grant.size, work.grant.read_only), (1, 1 << 30, false));
    let origin = cluster.show("c").expect("is there").origin.expect("a clone").base;
    assert_eq!(work.grant.base, Some(origin));
    cluster.progress(job.id, session, 600 * MIB).expect("he has it");
    let before = cluster.show("c").expect("is there").stack_revision;
    cluster.ask(ControlRequest::JobDone { job: job.id, session }).expect("he has it");
    assert_eq!(cluster.jobs()[0].state, JobState::Ending);
    let info = cluster.show("c").expect("is there");
    assert!(info.origin.is_none() && info.stack_revision > before, "who asks now reads no base");
    assert_eq!(cluster.show("v").expect("is there").clones, 1, "Z4");
    assert!(cluster.progress(job.id, session, 0).is_err());
    cluster.pass_barriers();
    assert!(cluster.jobs().is_empty());
    assert_eq!(cluster.show("v").expect("is there").clones, 0);
    assert!(
        refusal(cluster.ask(ControlRequest::VolumeFlatten { name: name("c"), rate: None }))
            .contains("stands on no other")
    );
}

#[test]
fn a_deleted_origin_goes_with_its_last_clone_that_is_flattened() {
    let (mut cluster, job) = Cluster::with_flatten();
    cluster.ask(ControlRequest::VolumeDelete { name: name("v"), with_snapshots: true }).expect("hidden");
    cluster.pass_barriers();
    assert_eq!(cluster.state.volumes_kept(), 1);
    let session = cluster.take(job.id, None).expect("nobody has it");
    cluster.ask(ControlRequest::JobDone { job: job.id, session }).expect("he has it");
    cluster.pass_barriers();
    assert!(cluster.state.volumes_kept() == 1, "it is closed now");
    cluster.pass_barriers();
    assert_eq!((cluster.state.volumes_kept(), cluster.state.volumes.len()), (0, 1));
}

#[test]
fn a_worker_that_takes_over_is_granted_nothing_before_the_last_one_is_fenced() {
    let (mut cluster, job) = Cluster::with_flatten();
    let first = cluster.take(job.id, None).expect("nobody has it");
    let work = cluster.work(job.id, first).expect("nobody is before him");
    cluster.progress(job.id, first, 100 * MIB).expect("he has it");
    assert_eq!(cluster.take(job.id, None), None, "the leader didn't know of him");
    let second = cluster.take(job.id, Some(first)).expect("silent");
    assert!(cluster.floor_fences(&work));
    assert!(matches!(cluster.work(job.id, second), Err(ControlError::Fencing { .. })), "Z2");
    assert!(matches!(cluster.progress(job.id, first, MIB), Err(ControlError::NotFound { .. })));
    cluster.pass_barriers();
    let work = cluster.work(job.id, second).expect("the first is fenced");
    assert!(!cluster.floor_fences(&work));
    assert_eq!((work.job.position, work.job.filled), (100 * MIB, 100 * MIB), "what was done is done");
    cluster.progress(job.id, second, 50 * MIB).expect("he has it");
    let job = &cluster.jobs()[0];
    assert_eq!((job.position, job.filled), (100 * MIB, 150 * MIB), "it doesn't fall");
}

/// By their age alone attachments are fenced that are older than all that live.
#[test]
fn a_worker_is_not_fenced_with_who_detaches() {
    let (mut cluster, job) = Cluster::with_flatten();
    let session = cluster.take(job.id, None).expect("nobody has it");
    let (gateway, mode) = ("g".to_owned(), AttachMode::Exclusive);
    let attach = ControlRequest::Attach { name: disk("c"), gateway: gateway.clone(), mode, read_only: false };
    cluster.ask(attach).expect("nobody has it");
    cluster
        .ask(ControlRequest::OpenAttachment { name: disk("c"), gateway: gateway.clone(), boot: BootId(9) })
        .expect("his");
    cluster.ask(ControlRequest::Detach { name: disk("c"), gateway: Some(gateway) }).expect("he has it");
    cluster.pass_barriers();
    let work = cluster.work(job.id, session).expect("he still works");
    assert!(!cluster.floor_fences(&work));
}

#[test]
fn a_job_is_paused_and_goes_on_with_somebody_else() {
    let (mut cluster, job) = Cluster::with_flatten();
    let first = cluster.take(job.id, None).expect("nobody has it");
    cluster.ask(ControlRequest::JobSet { job: job.id, rate: Some(MIB), paused: true }).expect("is there");
    assert_eq!(cluster.jobs()[0].state, JobState::Paused);
    assert_eq!((cluster.take(job.id, None), cluster.state.jobs_to_take().count()), (None, 0));
    assert!(cluster.work(job.id, first).is_err());
    let refused = refusal(cluster.ask(ControlRequest::JobSet { job: job.id, rate: Some(1), paused: false }));
    assert!(refused.contains("1 MiB"), "{refused}");
    cluster.ask(ControlRequest::JobSet { job: job.id, rate: None, paused: false }).expect("is there");
    assert!(cluster.take(job.id, None).is_some());
}

#[test]
fn a_flatten_that_is_given_up_leaves_the_clone_what_it_was() {
    let (mut cluster, job) = Cluster::with_flatten();
    let session = cluster.take(job.id, None).expect("nobody has it");
    cluster.ask(ControlRequest::JobCancel { job: job.id }).expect("is there");
    assert!(cluster.work(job.id, session).is_err());
    assert_eq!(cluster.jobs()[0].state, JobState::Ending, "its worker is being fenced");
    assert!(refusal(cluster.ask(ControlRequest::VolumeFlatten { name: name("c"), rate: None })).contains("wait"));
    cluster.pass_barriers();
    assert!(cluster.jobs().is_empty() && cluster.show("c").expect("is there").origin.is_some());
    assert!(cluster.flatten("c").expect("again").id > job.id);
    cluster.ask(ControlRequest::JobCancel { job: cluster.jobs()[0].id }).expect("is there");
    assert!(cluster.jobs().is_empty(), "nobody worked on it");
}

#[test]
fn from_the_lowest_layer_of_a_clone_that_is_flattened_nothing_is_merged_away() {
    let (mut cluster, job) = Cluster::with_flatten();
    for snapshot in ["a", "b"] {
        cluster.snapshot("c", snapshot).expect("taken");
        cluster.pass_barriers();
    }
    let lowest = cluster.show("c").expect("is there").layers[2];
    cluster.snapshot_delete("c", "a").expect("nobody has it");
    assert!(cluster.state.view_since(Revision(0)).merges.is_empty(), "Z3");
    let session = cluster.take(job.id, None).expect("nobody has it");
    assert_eq!(cluster.work(job.id, session).expect("granted").grant.layers, [lowest]);
    cluster.ask(ControlRequest::JobDone { job: job.id, session }).expect("he has it");
    cluster.pass_barriers();
    let merges = cluster.state.view_since(Revision(0)).merges;
    assert_eq!(merges.iter().map(|merge| merge.from).collect::<Vec<_>>(), [lowest], "now it is");
}

#[test]
fn a_flatten_waits_for_a_merge_of_the_layer_that_it_fills() {
    let (mut cluster, job) = Cluster::with_flatten();
    cluster.ask(ControlRequest::JobCancel { job: job.id }).expect("is there");
    for snapshot in ["a", "b"] {
        cluster.snapshot("c", snapshot).expect("taken");
        cluster.pass_barriers();
    }
    cluster.snapshot_delete("c", "a").expect("nobody has it");
    let [merge] = &cluster.state.view_since(Revision(0)).merges[..] else { panic!("one") };
    let merge = merge.clone();
    let job = cluster.flatten("c").expect("a clone");
    let session = cluster.take(job.id, None).expect("nobody has it");
    assert!(matches!(cluster.work(job.id, session), Err(ControlError::Fencing { .. })));
    cluster.ask(ControlRequest::MergeDone { merge: merge.id, pgs: merge.pgs }).expect("never refused");
    cluster.pass_barriers();
    assert_eq!(cluster.work(job.id, session).expect("granted").grant.layers, [merge.into]);
}

#[test]
fn a_volume_that_is_deleted_or_kept_for_its_clones_has_no_job() {
    for has_clones in [false, true] {
        let (mut cluster, job) = Cluster::with_flatten();
        let session = cluster.take(job.id, None).expect("nobody has it");
        let work = cluster.work(job.id, session).expect("granted");
        if has_clones {
            cluster.snapshot("c", "t").expect("taken");
            cluster.pass_barriers();
            let clone = ControlRequest::VolumeClone { source: disk("c@t"), names: vec![name("d")], pool: None };
            cluster.ask(clone).expect("cloned");
        }
        cluster.ask(ControlRequest::VolumeDelete { name: name("c"), with_snapshots: true }).expect("nobody has it");
        assert!(cluster.jobs().is_empty() && cluster.floor_fences(&work));
    }
}

#[test]
fn what_stands_on_a_flattened_clone_reads_no_further() {
    let (mut cluster, job) = Cluster::with_flatten();
    cluster.snapshot("c", "t").expect("taken");
    cluster.pass_barriers();
    let clone = ControlRequest::VolumeClone { source: disk("c@t"), names: vec![name("d")], pool: None };
    cluster.ask(clone).expect("cloned");
    let base = cluster.show("d").expect("is there").origin.expect("a clone").base;
    let ask = ControlRequest::BaseGrant { volume: base.volume, layer: base.layer };
    let below = |cluster: &Cluster| match cluster.state.query(&ask) {
        Some(Ok(ControlReply::Opened(grant))) => grant.base,
        other => panic!("{other:?}"),
    };
    assert!(below(&cluster).is_some());
    let session = cluster.take(job.id, None).expect("nobody has it");
    cluster.ask(ControlRequest::JobDone { job: job.id, session }).expect("he has it");
    assert!(below(&cluster).is_none());
}

#[test]
fn an_eager_volume_is_zeroed_when_it_has_its_space() {
    let mut cluster = Cluster::with_pool(1, 1);
    cluster.eager("e", 10 * MIB).expect("asked for");
    let job = cluster.jobs().remove(0);
    assert_eq!((job.kind, job.total), (JobKind::Zero, 10 * MIB));
    let session = cluster.take(job.id, None).expect("nobody has it");
    assert!(matches!(cluster.work(job.id, session), Err(ControlError::Fencing { .. })), "it may be gone again");
    cluster.keep_reserves();
    let work = cluster.work(job.id, session).expect("it stays");
    assert_eq!((work.grant.base, work.grant.layers), (None, cluster.show("e").expect("is there").layers));
    assert_eq!(cluster.show("e").expect("is there").provision, Provision::Eager);
    cluster.ask(ControlRequest::JobDone { job: job.id, session }).expect("he has it");
    cluster.pass_barriers();
    assert!(cluster.jobs().is_empty());
    assert_eq!(cluster.show("e").expect("is there").provision, Provision::Eager);
}

#[test]
fn what_an_eager_volume_grows_by_is_zeroed_and_all_of_it_after_a_revert() {
    let mut cluster = Cluster::with_pool(1, 1);
    cluster.eager("e", 10 * MIB).expect("asked for");
    cluster.keep_reserves();
    let first = cluster.jobs().remove(0);
    let session = cluster.take(first.id, None).expect("nobody has it");
    cluster.ask(ControlRequest::JobDone { job: first.id, session }).expect("he has it");
    cluster.pass_barriers();
    cluster.ask(ControlRequest::VolumeExtend { name: name("e"), size: 12 * MIB }).expect("there is room");
    let job = cluster.jobs().remove(0);
    assert_eq!((job.position, job.total), (10 * MIB, 12 * MIB));
    cluster.snapshot("e", "s").expect("taken");
    cluster.keep_reserves();
    cluster.pass_barriers();
    let session = cluster.take(job.id, None).expect("nobody has it");
    cluster.progress(job.id, session, 11 * MIB).expect("he has it");
    cluster
        .ask(ControlRequest::VolumeRevert { volume: name("e"), snapshot: name("s"), force: false })
        .expect("nobody has it");
    let job = cluster.jobs().remove(0);
    assert_eq!((job.position, job.gateway), (0, None), "his stack is an old one");
}

#[test]
fn a_volume_that_becomes_thin_or_lazy_is_zeroed_no_more() {
    for (provision, left) in [(Provision::Thin, Provision::Thin), (Provision::Lazy, Provision::Lazy)] {
        let mut cluster = Cluster::with_pool(1, 1);
        cluster.eager("e", 10 * MIB).expect("asked for");
        cluster.keep_reserves();
        let job = cluster.jobs().remove(0);
        let session = cluster.take(job.id, None).expect("nobody has it");
        cluster.ask(ControlRequest::VolumeSet { name: name("e"), provision }).expect("is there");
        assert!(cluster.jobs().is_empty() && cluster.work(job.id, session).is_err());
        assert_eq!(cluster.show("e").expect("is there").provision, left);
        cluster.ask(ControlRequest::VolumeSet { name: name("e"), provision: Provision::Eager }).expect("is there");
        assert_eq!(cluster.jobs().len(), 1);
    }
}

#[test]
fn zeroing_that_is_given_up_leaves_a_lazy_volume() {
    let mut cluster = Cluster::with_pool(1, 1);
    cluster.eager("e", 10 * MIB).expect("asked for");
    cluster.keep_reserves();
    cluster.ask(ControlRequest::JobCancel { job: cluster.jobs()[0].id }).expect("is there");
    assert!(cluster.jobs().is_empty());
    assert_eq!(cluster.show("e").expect("is there").provision, Provision::Lazy);
}

#[test]
fn zeroes_would_hide_the_origin_of_a_clone() {
    let (mut cluster, job) = Cluster::with_flatten();
    let set = || ControlRequest::VolumeSet { name: name("c"), provision: Provision::Eager };
    assert!(refusal(cluster.ask(set())).contains("flatten"));
    let session = cluster.take(job.id, None).expect("nobody has it");
    cluster.ask(ControlRequest::JobDone { job: job.id, session }).expect("he has it");
    assert!(refusal(cluster.ask(set())).contains("being flattened"), "Z1");
    cluster.pass_barriers();
    cluster.ask(set()).expect("it stands on nothing");
}

#[test]
fn a_job_says_what_it_waits_for_though_nobody_has_told() {
    let mut cluster = Cluster::with_pool(1, 1);
    let waits_for = |cluster: &Cluster| cluster.jobs()[0].waits_for.clone();
    cluster.eager("e", 10 * MIB).expect("asked for");
    let job = cluster.jobs()[0].id;
    assert_eq!(waits_for(&cluster).as_deref(), Some("its reservation"));
    cluster.keep_reserves();
    assert_eq!(waits_for(&cluster).as_deref(), Some("a gateway"));
    let first = cluster.take(job, None);
    assert_eq!(waits_for(&cluster), None);
    cluster.take(job, first);
    assert!(waits_for(&cluster).expect("an earlier worker is being fenced").contains("primary osd.1"));
    cluster.pass_barriers();
    assert_eq!(waits_for(&cluster), None);
    cluster.ask(ControlRequest::JobCancel { job }).expect("is there");
    assert!(waits_for(&cluster).expect("it ends behind a barrier").contains("primary osd.1"));
}

#[test]
fn a_job_that_waits_for_a_merge_or_holds_one_back_says_so() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    let clone = ControlRequest::VolumeClone { source: disk("v@s"), names: vec![name("c")], pool: None };
    cluster.ask(clone).expect("cloned");
    for snapshot in ["a", "b"] {
        cluster.snapshot("c", snapshot).expect("taken");
        cluster.pass_barriers();
    }
    let delete = |snapshot| ControlRequest::SnapshotDelete { volume: name("c"), name: name(snapshot) };
    cluster.ask(delete("a")).expect("nobody has it");
    let job = cluster.flatten("c").expect("a clone").id;
    assert_eq!(cluster.jobs()[0].waits_for.as_deref(), Some("a merge of its lowest layer"));
    for merge in cluster.state.view_since(Revision(0)).merges {
        cluster.ask(ControlRequest::MergeDone { merge: merge.id, pgs: merge.pgs }).expect("never refused");
    }
    cluster.pass_barriers();
    let session = cluster.take(job, None).expect("nobody has it");
    cluster.work(job, session).expect("nothing is being merged");
    let full = ControlRequest::JobProgress { job, session, position: 0, filled: 0, trouble: Some("full".into()) };
    cluster.ask(full).expect("he has it");
    assert_eq!(cluster.jobs()[0].trouble.as_deref(), Some("full"));
    cluster.ask(delete("b")).expect("nobody has it");
    let told = cluster.jobs()[0].trouble.clone().expect("told");
    assert_eq!(told, "full; what deleted snapshots held is freed when this job has ended");
}

#[test]
fn whether_a_job_is_paused_by_the_operator_is_told_while_its_volume_is_in_the_bin() {
    let (mut cluster, job) = Cluster::with_flatten();
    let to_bin = |name| ControlRequest::VolumeToBin { name, with_snapshots: false, retention: Some(9), at: 1 };
    cluster.ask(to_bin(name("c"))).expect("nobody has it");
    let told = cluster.jobs().remove(0);
    assert_eq!((told.state, told.paused), (JobState::Paused, false));
    assert_eq!(told.waits_for.as_deref(), Some("its volume to be restored from the bin"));
    cluster.ask(ControlRequest::JobSet { job: job.id, rate: None, paused: true }).expect("is there");
    cluster.ask(ControlRequest::BinRestore { volume: job.volume, name: None }).expect("in the bin");
    let told = cluster.jobs().remove(0);
    assert_eq!((told.state, told.paused, told.waits_for), (JobState::Paused, true, None));
}
