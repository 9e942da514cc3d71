//! Jobs.

use super::{ProtoError, name, required};
use crate::proto;
use ashlar_types::job::{JobInfo, JobKind, JobState, JobWork, Shrink};
use ashlar_types::{AttachmentId, JobId, SessionId, VolumeId};

impl From<JobInfo> for proto::JobInfo {
    fn from(job: JobInfo) -> Self {
        let (kind, shrink) = match job.kind {
            JobKind::Flatten => (proto::JobKind::Flatten, None),
            JobKind::Zero => (proto::JobKind::Zero, None),
            JobKind::Shrink(shrink) => (proto::JobKind::Shrink, Some(shrink.into())),
        };
        let state = match job.state {
            JobState::Waiting => proto::JobState::Waiting,
            JobState::Running => proto::JobState::Running,
            JobState::Paused => proto::JobState::Paused,
            JobState::Ending => proto::JobState::Ending,
            JobState::Failed => proto::JobState::Failed,
        };
        proto::JobInfo {
            id: job.id.0,
            kind: kind.into(),
            volume: job.volume.0,
            volume_name: job.volume_name.into(),
            state: state.into(),
            position: job.position,
            total: job.total,
            filled: job.filled,
            rate: job.rate,
            gateway: job.gateway,
            trouble: job.trouble,
            paused: job.paused,
            waits_for: job.waits_for,
            shrink,
        }
    }
}

impl TryFrom<proto::JobInfo> for JobInfo {
    type Error = ProtoError;
    fn try_from(job: proto::JobInfo) -> Result<Self, ProtoError> {
        let kind = match job.kind() {
            proto::JobKind::Flatten => JobKind::Flatten,
            proto::JobKind::Zero => JobKind::Zero,
            proto::JobKind::Shrink => JobKind::Shrink(required("JobInfo.shrink", job.shrink)?.into()),
            proto::JobKind::Unknown => return Err(ProtoError::Missing("JobInfo.kind")),
        };
        let state = match job.state() {
            proto::JobState::Waiting => JobState::Waiting,
            proto::JobState::Running => JobState::Running,
            proto::JobState::Paused => JobState::Paused,
            proto::JobState::Ending => JobState::Ending,
            proto::JobState::Failed => JobState::Failed,
            proto::JobState::Unknown => return Err(ProtoError::Missing("JobInfo.state")),
        };
        Ok(JobInfo {
            id: JobId(job.id),
            kind,
            volume: VolumeId(job.volume),
            volume_name: name("JobInfo.volume_name", &job.volume_name)?,
            state,
            position: job.position,
            total: job.total,
            filled: job.filled,
            rate: job.rate,
            gateway: job.gateway,
            trouble: job.trouble,
            paused: job.paused,
            waits_for: job.waits_for,
        })
    }
}

impl From<Shrink> for proto::Shrink {
    fn from(shrink: Shrink) -> Self {
        let Shrink { size, force, attachment, session, failed } = shrink;
        proto::Shrink { size, force, attachment: attachment.0, session: session.0, failed }
    }
}

impl From<proto::Shrink> for Shrink {
    fn from(shrink: proto::Shrink) -> Self {
        let (attachment, session) = (AttachmentId(shrink.attachment), SessionId(shrink.session));
        Shrink { size: shrink.size, force: shrink.force, attachment, session, failed: shrink.failed }
    }
}

impl From<JobWork> for proto::JobWork {
    fn from(work: JobWork) -> Self {
        proto::JobWork { job: Some(work.job.into()), grant: Some(work.grant.into()) }
    }
}

impl TryFrom<proto::JobWork> for JobWork {
    type Error = ProtoError;
    fn try_from(work: proto::JobWork) -> Result<Self, ProtoError> {
        Ok(JobWork {
            job: required("JobWork.job", work.job)?.try_into()?,
            grant: required("JobWork.grant", work.grant)?.try_into()?,
        })
    }
}

pub(super) fn taken_to_proto(taken: Option<(JobId, SessionId)>) -> proto::JobTaken {
    let work = |(job, session): (JobId, SessionId)| proto::job_taken::Work { job: job.0, session: session.0 };
    proto::JobTaken { work: taken.map(work) }
}

pub(super) fn taken_from_proto(taken: proto::JobTaken) -> Option<(JobId, SessionId)> {
    taken.work.map(|work| (JobId(work.job), SessionId(work.session)))
}
