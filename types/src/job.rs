//! Jobs: what takes its time and is done by a worker, some gateway's process, that may change while it is done (design.md §6).

use crate::control::AttachGrant;
use crate::{AttachmentId, JobId, Name, SessionId, VolumeId};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobKind {
    /// A clone gets what it reads from its base, and lets go of it.
    Flatten,
    /// What was never written of a volume is written with zeroes.
    Zero,
    /// A volume gets smaller while a gateway has it, whose process is the worker.
    Shrink(Shrink),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shrink {
    /// Bytes that the volume shall have.
    pub size: u64,
    /// Data behind that may be discarded.
    pub force: bool,
    /// By which the volume is shrunk, and by no other.
    pub attachment: AttachmentId,
    /// Of the work, not of the disk: whoever takes it has it by this.
    pub session: SessionId,
    /// It has ended, the volume has the size that it had, and [`JobInfo::trouble`] says why.
    pub failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    /// No gateway works on it.
    Waiting,
    Running,
    /// By the operator ([`JobInfo::paused`]), or while its volume is in the bin.
    Paused,
    /// It is done or given up, and its last worker is being fenced.
    Ending,
    /// It has ended without having done what it was to do, and is kept so that people can read why.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobInfo {
    pub id: JobId,
    pub kind: JobKind,
    pub volume: VolumeId,
    pub volume_name: Name,
    pub state: JobState,
    /// Bytes of the volume that are done, from its beginning, of `total`.
    pub position: u64,
    pub total: u64,
    /// Bytes that were written for it.
    pub filled: u64,
    /// Bytes a second that may be written; `None`: as fast as it goes.
    pub rate: Option<u64>,
    /// Whose process works on it.
    pub gateway: Option<String>,
    /// Why it doesn't get on at present, as its worker has told, and what would help.
    pub trouble: Option<String>,
    /// By the operator, whatever its state.
    pub paused: bool,
    /// What it goes on after by itself.
    pub waits_for: Option<String>,
}

/// What a worker needs to work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobWork {
    pub job: JobInfo,
    /// Of the layers that it fills; its size is that of what is filled, in whole blocks.
    pub grant: AttachGrant,
}
