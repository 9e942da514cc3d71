//! The control protocol's requests and answers as plain types. `wire/control` gives them their form on the network
//! (gRPC); the metadata core takes and gives them as they are.

use crate::job::{JobInfo, JobWork};
use crate::perf::{OsdPerf, PerfReport};
use crate::scrub::{ScrubReport, ScrubTarget};
use crate::view::{ClusterView, PoolInfo};
use crate::wipe::{WipeInfo, WipeReport};
use crate::{
    AttachmentId, BootId, ClusterId, DiskName, Epoch, Generation, JobId, LayerId, MdsId, Name, OsdId, PgId, PoolId,
    Revision, SessionId, SnapshotId, StackRevision, VolumeId, WipeId,
};
use serde::{Deserialize, Serialize};

/// What daemons and the command line ask of the metadata service. Each changes state through Raft, except those marked
/// *read*.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlRequest {
    PoolCreate {
        name: Name,
        replicas: u8,
        min_size: Option<u8>,
        /// `None`: any number of volumes of any size.
        over_commit: Option<OverCommit>,
    },
    /// Read.
    PoolList,
    /// A volume that is to have its space reserved is `Creating` until all OSDs keep it free; if they can't, it is gone again.
    /// Ask by `VolumeShow`.
    VolumeCreate {
        name: Name,
        size: u64,
        pool: Option<Name>,
        provision: Provision,
    },
    /// Read.
    VolumeList,
    /// Read.
    VolumeShow {
        name: Name,
    },
    /// For good, whatever its pool says. Refused while it has snapshots, unless they are to go with it.
    VolumeDelete {
        name: Name,
        with_snapshots: bool,
    },
    VolumeExtend {
        name: Name,
        size: u64,
    },
    /// Freezes what a volume holds under a name, and gives the volume a new top layer. The answer says `Creating` until every PG has passed
    /// the barrier: only then nothing that is written can still come into the snapshot. Ask by `SnapshotShow`.
    SnapshotCreate {
        volume: Name,
        name: Name,
        /// Seconds since 1970 by the clock of who asks; kept as it is.
        taken_at: u64,
        /// A volume that has its space reserved keeps that for what it overwrites, so a snapshot needs as much again. With this it becomes thin instead.
        thin: bool,
    },
    /// Read: of one volume, or of all.
    SnapshotList {
        volume: Option<Name>,
    },
    /// Read.
    SnapshotShow {
        volume: Name,
        name: Name,
    },
    /// Makes a volume what its snapshot is; what was written since is dropped. Refused while it is attached, unless `force` fences the holders.
    VolumeRevert {
        volume: Name,
        snapshot: Name,
        force: bool,
    },
    /// Makes volumes that are at first what a snapshot is and share its layers (linked clones). All of them or none. Answered by
    /// [`ControlReply::Volumes`], in the order of the names.
    VolumeClone {
        source: DiskName,
        names: Vec<Name>,
        /// `None`: that of the snapshot's volume.
        pool: Option<Name>,
    },
    /// Gives a volume to a gateway, or, always read-only, one of its snapshots. A volume is refused if it is attached, unless `mode` says
    /// otherwise; a snapshot may be attached by many.
    Attach {
        name: DiskName,
        gateway: String,
        mode: AttachMode,
        read_only: bool,
    },
    Detach {
        name: DiskName,
        gateway: Option<String>,
    },
    /// A gateway process begins (or, with the same boot, continues) to serve an attachment it was given. A new boot raises the generation and
    /// passes the barrier; [`ControlError::Fencing`] until that is done: ask again.
    OpenAttachment {
        name: DiskName,
        gateway: String,
        boot: BootId,
    },
    /// Read: the attachments a gateway may serve.
    AttachmentList {
        gateway: Option<String>,
    },
    /// Where gateways tell how they are reached.
    RegisterGateway {
        gateway: String,
        boot: BootId,
        nbd_address: String,
        nbd_socket: String,
    },
    /// Gives out the next OSD id to a new disk (before `mkfs`).
    OsdCreate {
        host: String,
    },
    /// An OSD process has started. A boot id that differs from the known one proves the older process dead.
    OsdRegister {
        osd: OsdId,
        boot: BootId,
        address: String,
        host: String,
        capacity: u64,
    },
    /// Not in Raft: the leader's memory only. Every 100 ms or so.
    OsdHeartbeat(OsdHeartbeat),
    /// The OSD's own orderly end.
    OsdStopping {
        osd: OsdId,
        boot: BootId,
    },
    /// A primary (or a member that finds itself damaged) asks for a new configuration: compare-and-set on `epoch`.
    PgChange {
        pg: PgId,
        epoch: Epoch,
        from: OsdId,
        change: PgChange,
    },
    /// A primary has passed a barrier in these PGs.
    BarrierPassed {
        barrier: u64,
        pgs: Vec<PgId>,
    },
    /// Read: what changed since a revision; answered at once, even when nothing did. `Watch` on the network is a stream of these.
    ViewSince {
        revision: Revision,
    },
    /// Read, of the leader's memory: who leads and what OSDs last told of their space.
    ServiceStatus,
    /// Asks for a scrub of these PGs: by an operator, or by an OSD when it is time again.
    ScrubStart {
        target: ScrubTarget,
        deep: bool,
    },
    /// Withdraws the wishes of these PGs that are not fulfilled.
    ScrubCancel {
        target: ScrubTarget,
    },
    /// A primary has scrubbed a PG in this epoch. Refused in a later one: its members are others.
    ScrubDone {
        pg: PgId,
        epoch: Epoch,
        from: OsdId,
        report: ScrubReport,
    },
    /// Read, of the leader's memory: the histograms that OSDs have told.
    PerfStatus,
    /// Read: what is needed to read a frozen layer on which clones stand, and what lies below it in its volume. The grant is of
    /// [`AttachmentId::FROZEN`], and names no session: who asks draws one. Not found once no clone stands on it.
    BaseGrant {
        volume: VolumeId,
        layer: LayerId,
    },
    /// Read: what [`ControlRequest::OpenAttachment`] gave this session, as it is now; for the stack, which may have become another one.
    /// [`ControlError::Fencing`] while a stack that sharers are not told yet is under way, or the session is being fenced; not found once it is.
    SessionGrant {
        name: DiskName,
        session: SessionId,
    },
    /// Takes the name out at once; the space follows in the background. Refused while it is attached.
    SnapshotDelete {
        volume: Name,
        name: Name,
    },
    /// Nothing is left in these PGs of the layer that the merge takes apart.
    MergeDone {
        merge: u64,
        pgs: Vec<PgId>,
    },
    /// Reserves a volume's space, or gives up that it is. To reserve it takes until all OSDs keep it free, as at its making.
    VolumeSet {
        name: Name,
        provision: Provision,
    },
    /// Takes the end of a volume away. Asked by the gateway that alone has it, after it has discarded what was there: so that a volume that grows
    /// again reads as zeroes there.
    VolumeShrink {
        name: Name,
        size: u64,
        gateway: String,
    },
    /// `None`: any number of volumes of any size.
    PoolSet {
        name: Name,
        over_commit: Option<OverCommit>,
    },
    /// Read, of the leader's memory: what is used on the OSDs, by pools and by this volume.
    SpaceUse {
        volume: Option<Name>,
    },
    /// Takes a snapshot of this name of each of the volumes, all at one moment: none holds a write without those that were answered before it
    /// was sent, whichever of the volumes they went to. All of them or none, but for independent disks, which are left out. Answered by [`ControlReply::SnapshotGroup`], which says `Creating`
    /// until all are available; ask by `SnapshotGroupShow`.
    SnapshotGroupCreate {
        name: Name,
        volumes: Vec<Name>,
        /// As in `SnapshotCreate`.
        taken_at: u64,
    },
    /// Read.
    SnapshotGroupList,
    /// Read.
    SnapshotGroupShow {
        name: Name,
    },
    /// Deletes the snapshots that are left of it; refused whole while one of them is attached. Those of volumes in the bin stay there.
    SnapshotGroupDelete {
        name: Name,
    },
    /// Begins the job that gives a clone what it reads from its base; or, while that runs, is answered with it.
    VolumeFlatten {
        name: Name,
        /// Bytes a second; `None`: as fast as it goes.
        rate: Option<u64>,
    },
    /// Read.
    JobList,
    JobSet {
        job: JobId,
        rate: Option<u64>,
        paused: bool,
    },
    /// What it has done stays.
    JobCancel {
        job: JobId,
    },
    /// A gateway process has time for a job that nobody works on. Answered by [`ControlReply::JobTaken`].
    JobTake {
        gateway: String,
        boot: BootId,
        /// It has time for nothing but volumes of its own that are to be shrunk.
        shrinks_only: bool,
    },
    /// Read: what the worker of this session needs, as it is now. [`ControlError::Fencing`] while an earlier worker may still be at it, or what it
    /// works on is still changing: ask again. Not found once another one has the job, or nobody.
    JobGrant {
        job: JobId,
        session: SessionId,
    },
    /// How far a worker is, often enough that nobody else is given its job. Refused as `JobGrant` is; answered with the job.
    JobProgress {
        job: JobId,
        session: SessionId,
        /// Bytes.
        position: u64,
        /// Bytes that this worker has written.
        filled: u64,
        trouble: Option<String>,
    },
    /// All of it is done.
    JobDone {
        job: JobId,
        session: SessionId,
    },
    /// How long the volumes of a pool are kept when they are deleted.
    PoolKeepDeleted {
        name: Name,
        /// Seconds; 0: not at all.
        retention: u64,
    },
    /// Deletes a volume so that it can be brought back, with its snapshots: for so many seconds, or as long as its pool says. Where that is
    /// nothing it is deleted as by `VolumeDelete`, and answered so; else by [`ControlReply::Bin`]. Refused while it is attached.
    VolumeToBin {
        name: Name,
        /// Where it is deleted for good.
        with_snapshots: bool,
        retention: Option<u64>,
        /// Seconds since 1970; the leader replaces it by its own clock.
        at: u64,
    },
    /// Read: the volumes in the bin.
    BinList,
    /// Brings a volume back, under the name that it had or another one. Answered by [`ControlReply::Volume`].
    BinRestore {
        volume: VolumeId,
        name: Option<Name>,
    },
    /// Deletes a volume in the bin as `VolumeDelete` would, with its snapshots.
    BinPurge {
        volume: VolumeId,
    },
    /// Deletes a volume as `VolumeDelete` would, and then has all OSDs wipe their free space, in which its blocks lie. Of one that is being
    /// deleted: the latter. Answered by [`ControlReply::Wipes`] with the record of it.
    VolumeWipe {
        name: Name,
        with_snapshots: bool,
        /// Seconds since 1970; the leader replaces it by its own clock.
        at: u64,
    },
    /// The same of a volume in the bin.
    BinWipe {
        volume: VolumeId,
        at: u64,
    },
    /// Read: all records of wipes.
    WipeList,
    /// An OSD has wiped all that was free when these volumes were gone from it.
    WipeDone {
        osd: OsdId,
        wipes: Vec<WipeId>,
        report: WipeReport,
    },
    /// Takes away the record of a wipe that is done. With `give_up` one that waits for OSDs is done without them.
    WipeForget {
        wipe: WipeId,
        give_up: bool,
    },
    /// Makes volumes disks of a mode: all of them or none. Refused while one is attached. Answered by [`ControlReply::Volumes`], in the order of the
    /// names.
    VolumeSetMode {
        names: Vec<Name>,
        mode: DiskMode,
    },
    /// Purges a volume in the bin, or wipes it as `BinWipe` does, if it has expired by the leader's clock. Answered as a wipe is, or by
    /// [`ControlReply::Bin`] with what was purged, which is nothing where it has not expired. The leader makes another command of it: in no log.
    BinPurgeExpired {
        volume: VolumeId,
        secure: bool,
    },
    /// Begins the job by which the gateway that alone has a volume takes its end away; or, while that runs, is answered with it.
    ShrinkStart {
        name: Name,
        size: u64,
        /// Discard the data that lies there.
        force: bool,
    },
    /// A shrink is over. Not found where that is known already, or the worker is another one.
    ShrinkEnd {
        job: JobId,
        session: SessionId,
        /// The session of the disk behind whose new end there is nothing any more and nobody writes. The volume gets its size if that is who has it.
        disk: SessionId,
        /// Why the volume keeps its size.
        refusal: Option<String>,
    },
    /// From now on what these volumes give up is overwritten by itself, or is not: all of them or none. Answered by [`ControlReply::Volumes`], in the
    /// order of the names.
    VolumeSetWipeFreed {
        names: Vec<Name>,
        on: bool,
    },
    /// As `VolumeCreate`, of a volume that wipes as it frees from its first block on.
    VolumeCreateWiping {
        name: Name,
        size: u64,
        pool: Option<Name>,
        provision: Provision,
    },
}

/// What becomes of what is written to a volume, and whether it belongs to snapshots of several volumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskMode {
    /// In snapshots of several volumes.
    #[default]
    Dependent,
    /// Left out of snapshots of several volumes.
    IndependentPersistent,
    /// Left out as well; and what an attachment has written goes with it.
    IndependentNonpersistent,
}

impl DiskMode {
    /// As people write it.
    pub fn word(self) -> &'static str {
        match self {
            DiskMode::Dependent => "dependent",
            DiskMode::IndependentPersistent => "independent-persistent",
            DiskMode::IndependentNonpersistent => "independent-nonpersistent",
        }
    }
}

/// When a volume gets its space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Provision {
    /// As it is written.
    #[default]
    Thin,
    /// At once, without being written: no write to it meets a full disk.
    Lazy,
    /// At once, and a job writes zeroes wherever nothing was ever written.
    Eager,
}

/// How much more volumes of a pool may be promised than its OSDs hold, in hundredths: 100 is as much as there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OverCommit(pub u32);

impl OverCommit {
    /// What may be promised of so many bytes.
    pub fn of(self, bytes: u64) -> u64 {
        let most = u128::from(bytes) * u128::from(self.0) / 100;
        u64::try_from(most).unwrap_or(u64::MAX)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OsdHeartbeat {
    pub osd: OsdId,
    pub boot: BootId,
    /// Processes whose connections broke or who don't answer: starts detection, proves nothing.
    pub suspects: Vec<(OsdId, BootId)>,
    /// In a box, since it would make every request larger.
    pub usage: Box<OsdUsage>,
    /// Of the view that `usage` is by.
    pub view: Revision,
    /// Blocks of layers that have changed since they were last told to this leader; 0 of one that is gone. Seldom more often than each second.
    pub layers: Vec<(LayerId, u64)>,
    /// Histograms that have changed since they were last told to this leader. Seldom more often than each second; nothing of an idle OSD.
    pub perf: PerfReport,
}

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OsdUsage {
    pub total: u64,
    pub used: u64,
    /// Blocks found damaged and repaired since the process started.
    pub repaired_blocks: u64,
    /// Blocks found damaged that no copy could repair.
    pub lost_blocks: u64,
    /// What writes may take now.
    pub free: u64,
    /// What volumes that have their size reserved may still take. More than is free: the reservation isn't kept.
    pub unfilled: u64,
    /// Of what is used: superblocks and log,
    pub fixed: u64,
    /// index,
    pub index: u64,
    /// and data of layers. The rest is about to be free, or undecided.
    pub data: u64,
    /// Of what is free: what a wipe under way has not looked at yet.
    pub wipe_left: u64,
    /// Of what volumes that wipe as they free have given up: what is not wiped yet, about.
    pub unwiped: u64,
    /// Of the same: what was overwritten and could not be read back.
    pub wipe_unverified: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PgChange {
    /// Out of `in_sync` (R2: refused for the last one).
    Remove(OsdId),
    /// A caught-up joining member into `in_sync`.
    Add(OsdId),
    /// Same members, next epoch: the version numbers of a chunk are used up, or undecided writes must be settled.
    NextEpoch,
    /// The primary cannot go on (it is damaged); another in-sync member takes over, or it stays if it is the last.
    Resign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachMode {
    /// Refused while anybody has the volume.
    Exclusive,
    /// Others may have it too, if they also said shared.
    Shared,
    /// Takes it from whoever has it: their generation is fenced before this attachment starts.
    Force,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlReply {
    Done {
        revision: Revision,
    },
    Pool(PoolInfo),
    Pools(Vec<PoolInfo>),
    Volume(VolumeInfo),
    Volumes(Vec<VolumeInfo>),
    Snapshot(SnapshotInfo),
    Snapshots(Vec<SnapshotInfo>),
    SnapshotGroup(SnapshotGroupInfo),
    SnapshotGroups(Vec<SnapshotGroupInfo>),
    Bin(Vec<BinInfo>),
    Wipes(Vec<WipeInfo>),
    Attachment(AttachmentInfo),
    Attachments(Vec<AttachmentInfo>),
    Opened(AttachGrant),
    OsdCreated {
        osd: OsdId,
        cluster: ClusterId,
    },
    View(Box<ClusterView>),
    Status(ServiceStatus),
    /// The number of the last wish, and the PGs that the request was for.
    Scrub {
        number: u64,
        pgs: Vec<PgId>,
    },
    /// Of the OSDs that the leader has heard, each with what it has told.
    Perf(Vec<OsdPerf>),
    Space(SpaceReport),
    Job(Box<JobInfo>),
    Jobs(Vec<JobInfo>),
    /// `None`: there is none to be had.
    JobTaken(Option<(JobId, SessionId)>),
    JobWork(Box<JobWork>),
}

/// What is used on the OSDs that the leader has heard, over all copies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceReport {
    /// The one that was asked for.
    pub volumes: Vec<(VolumeId, SpaceUse)>,
    /// Of all volumes of a pool, deleted ones too.
    pub pools: Vec<(PoolId, PoolSpace)>,
    /// Data of layers that no volume has: they are about to be dropped.
    pub orphaned: u64,
    pub osds: Vec<(OsdId, OsdUsage)>,
}

/// Bytes over all copies. The parts are disjoint: each block is of one layer, and each layer is in one part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceUse {
    /// What was written since the newest snapshot, and what a non-persistent volume falls back to: nobody else has it.
    pub live: u64,
    /// Of layers that snapshots froze and that no clone needs.
    pub snapshots: u64,
    /// Of layers on which clones stand.
    pub shared: u64,
    /// Of layers that were given up and are being dropped.
    pub garbage: u64,
    /// What is kept free for it beyond what it has.
    pub reserved: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSpace {
    pub used: SpaceUse,
    /// The sizes of its volumes, each as often as copies are kept.
    pub provisioned: u64,
    /// Bytes of the OSDs that keep its PGs.
    pub capacity: u64,
    pub over_commit: Option<OverCommit>,
    /// Seconds for which its volumes are kept when they are deleted; 0: not at all.
    pub retention: u64,
    /// Of `provisioned`: what lies in the bin.
    pub in_bin: u64,
}

impl PoolSpace {
    /// What may be provisioned.
    pub fn provisioned_max(&self) -> Option<u64> {
        self.over_commit.map(|over_commit| over_commit.of(self.capacity))
    }
}

/// What the leader knows beyond the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub leader: MdsId,
    /// `HOST:PORT` of the leader.
    pub address: String,
    /// By OSD; those that this leader has heard.
    pub usage: Vec<(OsdId, OsdUsage)>,
    /// Deleted volumes that are in no list and kept for the clones that stand on them, as far as this node has applied.
    pub volumes_kept: u64,
    /// Volumes in the bin, and their sizes together, as far as this node has applied.
    pub volumes_in_bin: u64,
    pub bin_bytes: u64,
}

/// Why the metadata service refused. The texts are for people and name what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ControlError {
    #[error("{what} {name:?} does not exist")]
    NotFound { what: String, name: String },
    #[error("{what} {name:?} exists already")]
    Exists { what: String, name: String },
    #[error("{0}")]
    Invalid(String),
    #[error("volume {name:?} is attached to {holder}; detach it there, or take it over with `volume attach --force`")]
    Attached { name: String, holder: String },
    #[error("the volume is being taken over: waiting for {waiting_for}")]
    Fencing { waiting_for: String },
    #[error("{pg} is at {current}, not {request}")]
    WrongEpoch { pg: PgId, request: Epoch, current: Epoch },
    #[error("not the leader; ask {leader:?}")]
    NotLeader { leader: Option<String> },
    #[error("the request was not decided in time; it may still take effect")]
    Undecided,
    #[error("the metadata service has too many requests waiting; try again")]
    Busy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeState {
    /// The OSDs are being told to keep its space free. It ends by itself: if they can't, the volume is gone.
    Creating,
    Available,
    Attached,
    /// Its chunks are being dropped by their PGs; it ends by itself.
    Deleting,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeInfo {
    pub id: VolumeId,
    pub name: Name,
    /// Bytes.
    pub size: u64,
    pub pool: PoolId,
    pub pool_name: Name,
    pub state: VolumeState,
    pub placement_key: u64,
    pub stack_revision: StackRevision,
    /// Top first.
    pub layers: Vec<LayerId>,
    pub attachments: Vec<AttachmentInfo>,
    /// Of a clone. In a box, since most volumes are none and it would make each answer larger.
    pub origin: Option<Box<OriginInfo>>,
    /// Volumes that were cloned from its snapshots.
    pub clones: u64,
    pub provision: Provision,
    /// The OSDs are being told to keep its space free.
    pub is_reserving: bool,
    pub disk_mode: DiskMode,
    /// What it gives up is overwritten soon.
    pub wipe_freed: bool,
}

/// What a volume was cloned from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginInfo {
    pub base: BaseLayer,
    pub volume_name: Name,
    /// `None` when the snapshot was deleted, or is in the bin.
    pub snapshot: Option<Name>,
    /// Whether the volume was deleted: it is in no list, and kept while clones stand on it or it is in the bin.
    pub deleted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotState {
    /// Its barrier is under way: a write that began before may still come into it.
    Creating,
    Available,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    pub id: SnapshotId,
    pub name: Name,
    pub volume: VolumeId,
    pub volume_name: Name,
    /// Bytes that the volume had.
    pub size: u64,
    /// Seconds since 1970, as its maker said.
    pub taken_at: u64,
    pub state: SnapshotState,
    /// The layer that it froze, and those below it, in order.
    pub layers: Vec<LayerId>,
    /// With which others it was taken at one moment.
    pub group: Option<Name>,
}

/// Snapshots of several volumes, taken at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotGroupInfo {
    pub name: Name,
    /// Seconds since 1970, as its maker said.
    pub taken_at: u64,
    /// Available when all its snapshots are.
    pub state: SnapshotState,
    /// Those that are left, by volume.
    pub snapshots: Vec<SnapshotInfo>,
    /// So many more are of volumes in the bin.
    pub in_bin: u64,
    /// Volumes that were named and are independent disks; only in the answer to who has it taken.
    pub left_out: Vec<Name>,
}

/// A volume that was deleted and can be brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinInfo {
    pub id: VolumeId,
    /// That it had; others may have it by now.
    pub name: Name,
    /// Bytes.
    pub size: u64,
    pub pool_name: Name,
    /// Seconds since 1970.
    pub deleted_at: u64,
    pub expires_at: u64,
    pub snapshots: u64,
    /// Volumes that were cloned from its snapshots.
    pub clones: u64,
    /// As it would be shown if it were in the list, under the name that it had. `None`: the leader is of a version that doesn't tell.
    pub volume: Option<Box<VolumeInfo>>,
    pub own: Vec<SnapshotInfo>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentInfo {
    pub id: AttachmentId,
    pub volume: VolumeId,
    pub name: DiskName,
    pub gateway: String,
    pub generation: Generation,
    pub shared: bool,
    pub read_only: bool,
    /// A gateway process serves it and its barrier is passed.
    pub active: bool,
    /// Where the gateway listens: `HOST:PORT` and a socket's path; empty while no gateway has registered.
    pub nbd_address: String,
    pub nbd_socket: String,
}

/// What a gateway needs to do I/O on a volume. Signed in a later version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachGrant {
    pub volume: VolumeId,
    pub name: DiskName,
    pub attachment: AttachmentId,
    pub generation: Generation,
    pub session: SessionId,
    pub pool: PoolId,
    pub placement_key: u64,
    pub stack_revision: StackRevision,
    /// Top first.
    pub layers: Vec<LayerId>,
    /// Bytes.
    pub size: u64,
    pub read_only: bool,
    /// Of a clone: what is read where none of its layers was ever written.
    pub base: Option<BaseLayer>,
}

/// What a linked clone stands on: a frozen layer of another volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BaseLayer {
    pub volume: VolumeId,
    pub layer: LayerId,
    /// Bytes that the snapshot had; the clone reads as zeroes beyond.
    pub size: u64,
}
