//! Volumes that get smaller while a gateway has them (docs/decisions/040-shrink-in-use.md). The gateway refuses what lies behind the new end, looks at it or
//! discards it, and says that it is done; only then the volume has the new size. A job remembers the wish and who has it.
//! H1: a volume that is being shrunk is attached once, by the attachment that the job names, for writing; and has no other size meanwhile. H2: the size
//! changes only by the word of the process that took the job, for the session in which it holds off its clients, and while that session has the
//! volume. So who was fenced changes nothing. H3: with the attachment, or the process that took it, the job ends; it is kept as failed and says why,
//! until the next job of the volume, or until somebody gives it up.
//! Whether the process is still heard the leader knows (node/work.rs).

use super::attachment::AttachmentRecord;
use super::volume::{VolumeRecord, check_size};
use super::{ClusterState, Outcome, check_text, invalid, not_found};
use ashlar_types::control::ControlError;
use ashlar_types::job::{JobKind, Shrink};
use ashlar_types::{AttachmentId, BootId, JobId, Name, SessionId, VolumeId};

impl ClusterState {
    pub(super) fn shrink_start(&mut self, name: &Name, size: u64, force: bool) -> Outcome {
        let volume = self.usable_volume(name)?;
        check_size(size)?;
        if let Some((job, shrink)) = self.shrink_of(volume.id)
            && (shrink.size, shrink.force) == (size, force)
        {
            return self.job_reply(job);
        }
        if size >= volume.size {
            return Err(invalid(format!("volume {name} has {} bytes: shrinking makes it smaller", volume.size)));
        }
        self.check_persistent(volume, "shrunk: what it falls back to holds its end")?;
        self.check_no_job(volume)?;
        self.check_room_for_jobs()?;
        let attachment = sole_writer(volume)?.id;
        let (volume, total) = (volume.id, volume.size - size);
        let session = SessionId(self.next.session);
        self.next.session += 1;
        let shrink = Shrink { size, force, attachment, session, failed: false };
        let job = self.begin_job(JobKind::Shrink(shrink), volume, 0, total, None);
        self.job_reply(job)
    }

    /// Only one who is under way.
    fn shrink_of(&self, volume: VolumeId) -> Option<(JobId, Shrink)> {
        match self.jobs.of(volume) {
            Some(job) => match job.kind {
                JobKind::Shrink(shrink) => Some((job.id, shrink)),
                JobKind::Flatten | JobKind::Zero => None,
            },
            None => None,
        }
    }

    /// While a volume is being shrunk it is given to nobody else, and has no other size (H1).
    pub(super) fn check_not_shrinking(&self, volume: &VolumeRecord) -> Result<(), ControlError> {
        match self.shrink_of(volume.id) {
            Some(_) => self.check_no_job(volume),
            None => Ok(()),
        }
    }

    // ---- who does it

    /// All that are under way, by the session of the work.
    pub(crate) fn shrinks(&self) -> impl Iterator<Item = (JobId, SessionId)> + '_ {
        let shrinks = self.jobs.all().filter_map(|job| self.shrink_of(job.volume));
        shrinks.map(|(job, shrink)| (job, shrink.session))
    }

    /// What this process of a gateway is to take: nobody else can.
    pub(crate) fn shrink_to_take(&self, gateway: &str, boot: BootId) -> Option<JobId> {
        let all = self.jobs.all().filter_map(|job| Some((job.volume, self.shrink_of(job.volume)?)));
        let mut free = all.filter(|(volume, _)| self.jobs.of(*volume).is_some_and(|job| job.worker.is_none()));
        let found = free.find(|(volume, (_, shrink))| {
            let attachment = self.volumes[volume].attachments.get(&shrink.attachment);
            attachment.is_some_and(|a| a.gateway == gateway && !a.replaced.contains(&boot))
        });
        found.map(|(_, (job, _))| job)
    }

    /// The attachment and the session of the work, if this process may have it.
    pub(super) fn shrink_for(&self, job: JobId, gateway: &str, boot: BootId) -> Option<(AttachmentId, SessionId)> {
        let volume = self.jobs.get(job)?.volume;
        let (_, shrink) = self.shrink_of(volume)?;
        let attachment = self.volumes[&volume].attachments.get(&shrink.attachment)?;
        let is_theirs = attachment.gateway == gateway && !attachment.replaced.contains(&boot);
        is_theirs.then_some((shrink.attachment, shrink.session))
    }

    // ---- ends

    pub(super) fn shrink_end(
        &mut self,
        job: JobId,
        session: SessionId,
        disk: SessionId,
        refusal: Option<String>,
    ) -> Outcome {
        let unknown = || not_found("worker", format!("{session} of {job}"));
        let volume = self.jobs.get(job).ok_or_else(unknown)?.volume;
        let found = self.shrink_of(volume).filter(|(id, shrink)| (*id, shrink.session) == (job, session));
        let (_, shrink) = found.ok_or_else(unknown)?;
        if let Some(why) = refusal {
            check_text("why it is not shrunk", &why, false)?;
            self.fail_shrink(volume, why);
            return self.done();
        }
        let worker = self.jobs.of(volume).and_then(|job| job.worker.as_ref()).ok_or_else(unknown)?;
        let attachment = self.volumes[&volume].attachments.get(&shrink.attachment).ok_or_else(unknown)?;
        // H2
        if !attachment.active || attachment.boot != worker.boot || attachment.session != disk {
            return Err(not_found("session", format!("{disk} of {job}")));
        }
        self.drop_job(volume);
        let record = self.volumes.get_mut(&volume).expect("looked up above");
        assert!(shrink.size < record.size, "H1: {volume} has had no other size");
        record.size = shrink.size;
        self.revise_reserve(volume, false);
        self.zero_from(volume, shrink.size);
        self.done()
    }

    fn fail_shrink(&mut self, volume: VolumeId, why: String) {
        let Some(job) = self.jobs.of_mut(volume) else { return };
        let JobKind::Shrink(shrink) = &mut job.kind else { return };
        shrink.failed = true;
        (job.worker, job.trouble) = (None, Some(why));
    }

    /// H3: attachments of the volume have ended.
    pub(super) fn end_shrink_with_attachments(&mut self, volume: VolumeId) {
        let Some((_, shrink)) = self.shrink_of(volume) else { return };
        if !self.volumes[&volume].attachments.contains_key(&shrink.attachment) {
            let name = &self.volumes[&volume].name;
            self.fail_shrink(volume, format!("volume {name} keeps its size: it was taken from its gateway"));
        }
    }

    /// H3: another process is to have the attachment.
    pub(super) fn end_shrink_with_process(&mut self, volume: VolumeId, attachment: AttachmentId) {
        let Some((_, shrink)) = self.shrink_of(volume) else { return };
        let holder = self.volumes[&volume].attachments.get(&attachment).map(|attachment| attachment.boot);
        let worker = self.jobs.of(volume).and_then(|job| job.worker.as_ref()).map(|worker| worker.boot);
        if shrink.attachment == attachment && worker.is_some() && worker == holder {
            let why = "its gateway ended, or it was taken over";
            self.fail_shrink(volume, format!("volume {} keeps its size: {why}", self.volumes[&volume].name));
        }
    }

    pub(super) fn assert_shrink(&self, volume: &VolumeRecord, shrink: &Shrink) {
        assert!(shrink.session.0 < self.next.session, "A1");
        if shrink.failed {
            return;
        }
        let holders: Vec<&AttachmentRecord> = volume.own_attachments().collect();
        let is_sole = matches!(holders[..], [holder] if holder.id == shrink.attachment && !holder.read_only);
        assert!(is_sole, "H1: {} is shrunk by who alone has it", volume.name);
        assert!(shrink.size < volume.size && !self.is_nonpersistent(volume.id), "H1: {} can be shrunk", volume.name);
    }
}

fn sole_writer(volume: &VolumeRecord) -> Result<&AttachmentRecord, ControlError> {
    let name = &volume.name;
    let holders: Vec<&AttachmentRecord> = volume.own_attachments().collect();
    match holders[..] {
        [holder] if holder.read_only => {
            let way = format!("`volume detach {name}` takes it from there");
            Err(invalid(format!(
                "volume {name} is attached to {} read-only and can't be shrunk there; {way}",
                holder.gateway
            )))
        }
        [holder] => Ok(holder),
        [] => Err(invalid(format!("volume {name} is attached to no gateway that could shrink it; try again"))),
        _ => {
            let all = holders.len();
            Err(invalid(format!(
                "volume {name} is shared by {all} gateways and can't be shrunk; detach it from all but one"
            )))
        }
    }
}
