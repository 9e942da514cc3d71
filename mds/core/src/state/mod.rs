//! The replicated state machine: what must not be lost or disagree. One [`Command`] of the Raft log in, one answer out.
//! S1: the in-sync members of a PG are all up, or none of them is; so a PG with a primary waits for nobody known dead.
//! S2: a volume's floor is passed by all its PGs, or the volume has a pending barrier that carries it.
//! S3: a handler checks everything before it changes anything, so a refusal leaves no trace.
//! Every node applies the same commands in the same order and must reach the same state: no clock, no randomness, no
//! unordered maps. PG rules: pg.rs. Placement: placement.rs. Volumes and fencing: volume.rs, attachment.rs, barrier.rs.
//! Layers, snapshots and clones: layer.rs, snapshot.rs, group.rs, merge.rs, clone.rs. Scrubs: scrub.rs. Space: reserve.rs. Jobs: job.rs, shrink.rs.
//! The bin: bin.rs. Wipes: wipe.rs, wipe_freed.rs. Disk modes: mode.rs.

mod attachment;
mod barrier;
mod bin;
mod clone;
mod command;
mod format;
mod group;
mod invariants;
mod job;
mod layer;
mod merge;
mod mode;
mod osd;
mod pg;
mod placement;
mod pool;
mod reserve;
mod scrub;
mod shrink;
mod snapshot;
mod volume;
mod wipe;
mod wipe_freed;

#[cfg(test)]
mod tests;

pub use command::{Command, Verdict};
pub use format::FormatError;
pub(crate) use job::NO_GATEWAY;
pub use placement::FailureDomain;
pub(crate) use placement::mix;
pub(crate) use reserve::Demand;

use ashlar_types::control::{ControlError, ControlReply, ControlRequest};
use ashlar_types::view::{Barrier, ClusterView, PgConfig, PoolInfo};
use ashlar_types::{ClusterId, LayerId, Name, OsdId, PgId, PoolId, Revision, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use attachment::GatewayRecord;
use bin::Bin;
use group::Groups;
use job::Jobs;
use layer::LayerRecord;
use merge::Merges;
use mode::Modes;
use osd::OsdRecord;
use reserve::Reserves;
use scrub::Scrubs;
use volume::VolumeRecord;
use wipe::Wipes;
use wipe_freed::WipingVolumes;

/// A value and the revision that last changed it, so that a view can be told as a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Revised<T> {
    modified: Revision,
    value: T,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PoolRecord {
    info: PoolInfo,
    failure_domain: FailureDomain,
}

/// The ids to be given out next. None is ever used twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct NextIds {
    osd: u32,
    pool: u32,
    volume: u64,
    layer: u64,
    snapshot: u64,
    attachment: u64,
    session: u64,
    barrier: u64,
}

/// The state of a cluster. See the header of this file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    cluster: ClusterId,
    /// The Raft index of the last command applied.
    applied: u64,
    /// The Raft index of the last command that changed what [`ClusterView`] shows.
    view_revision: Revision,
    osds: BTreeMap<OsdId, Revised<OsdRecord>>,
    pools: BTreeMap<PoolId, Revised<PoolRecord>>,
    pgs: BTreeMap<PgId, Revised<PgConfig>>,
    volumes: BTreeMap<VolumeId, VolumeRecord>,
    volume_names: BTreeMap<Name, VolumeId>,
    layers: BTreeMap<LayerId, LayerRecord>,
    gateways: BTreeMap<String, GatewayRecord>,
    barriers: BTreeMap<u64, Barrier>,
    next: NextIds,
    scrubs: Scrubs,
    merges: Merges,
    reserves: Reserves,
    groups: Groups,
    jobs: Jobs,
    bin: Bin,
    wipes: Wipes,
    modes: Modes,
    wiping: WipingVolumes,
}

/// What a handler gives back.
type Outcome = Result<ControlReply, ControlError>;

impl ClusterState {
    /// A cluster with nothing in it: as if made by index 1, so that a watcher of revision 0 is told which cluster it is. The
    /// first command has index 2. All ids begin at 1.
    pub fn new(cluster: ClusterId) -> ClusterState {
        ClusterState {
            cluster,
            applied: 1,
            view_revision: Revision(1),
            osds: BTreeMap::new(),
            pools: BTreeMap::new(),
            pgs: BTreeMap::new(),
            volumes: BTreeMap::new(),
            volume_names: BTreeMap::new(),
            layers: BTreeMap::new(),
            gateways: BTreeMap::new(),
            barriers: BTreeMap::new(),
            next: NextIds { osd: 1, pool: 1, volume: 1, layer: 1, snapshot: 1, attachment: 1, session: 1, barrier: 1 },
            scrubs: Scrubs::default(),
            merges: Merges::default(),
            reserves: Reserves::default(),
            groups: Groups::default(),
            jobs: Jobs::default(),
            bin: Bin::default(),
            wipes: Wipes::default(),
            modes: Modes::default(),
            wiping: WipingVolumes::default(),
        }
    }

    /// Applies the command at Raft index `index`. Indexes rise; entries that carry no command are skipped by the caller.
    pub fn apply(&mut self, index: u64, command: Command) -> Result<ControlReply, ControlError> {
        assert!(index > self.applied, "commands are applied once, in the order of the log");
        self.applied = index;
        match command {
            Command::Request(request) => self.apply_request(request),
            Command::OsdDown { osd, boot } => self.osd_down(osd, boot),
            Command::OsdUp { osd, boot } => self.osd_up(osd, boot),
            Command::Rebalance { pgs } => self.rebalance(&pgs),
            Command::ReserveJudged(verdict) => self.reserve_judged(&verdict),
            Command::JobTake { job, replaces, gateway, boot } => self.job_take(job, replaces, gateway, boot),
            Command::BinExpire { volumes, now } => self.bin_expire(&volumes, now),
        }
    }

    fn apply_request(&mut self, request: ControlRequest) -> Outcome {
        use ControlRequest as R;
        match request {
            R::PoolCreate { name, replicas, min_size, over_commit } => {
                self.pool_create(name, replicas, min_size, over_commit)
            }
            R::PoolSet { name, over_commit } => self.pool_set(&name, over_commit),
            R::VolumeCreate { name, size, pool, provision } => self.volume_create(name, size, pool, provision, false),
            R::VolumeSet { name, provision } => self.volume_set(&name, provision),
            R::VolumeDelete { name, with_snapshots } => self.volume_delete(&name, with_snapshots),
            R::VolumeExtend { name, size } => self.volume_extend(&name, size),
            R::VolumeShrink { name, size, gateway } => self.volume_shrink(&name, size, &gateway),
            R::SnapshotCreate { volume, name, taken_at, thin } => self.snapshot_create(&volume, name, taken_at, thin),
            R::SnapshotDelete { volume, name } => self.snapshot_delete(&volume, &name),
            R::SnapshotGroupCreate { name, volumes, taken_at } => self.snapshot_group_create(name, volumes, taken_at),
            R::SnapshotGroupDelete { name } => self.snapshot_group_delete(&name),
            R::PoolKeepDeleted { name, retention } => self.pool_keep_deleted(&name, retention),
            R::VolumeToBin { name, with_snapshots, retention, at } => {
                self.volume_to_bin(&name, with_snapshots, retention, at)
            }
            R::BinRestore { volume, name } => self.bin_restore(volume, name),
            R::BinPurge { volume } => self.bin_purge(volume),
            R::VolumeWipe { name, with_snapshots, at } => self.volume_wipe(&name, with_snapshots, at),
            R::BinWipe { volume, at } => self.bin_wipe(volume, at),
            R::WipeDone { osd, wipes, report } => self.wipe_done(osd, &wipes, report),
            R::WipeForget { wipe, give_up } => self.wipe_forget(wipe, give_up),
            R::VolumeSetMode { names, mode } => self.volume_set_mode(&names, mode),
            R::VolumeCreateWiping { name, size, pool, provision } => {
                self.volume_create(name, size, pool, provision, true)
            }
            R::VolumeSetWipeFreed { names, on } => self.volume_set_wipe_freed(&names, on),
            R::MergeDone { merge, pgs } => self.merge_done(merge, &pgs),
            R::VolumeFlatten { name, rate } => self.volume_flatten(&name, rate),
            R::JobSet { job, rate, paused } => self.job_set(job, rate, paused),
            R::JobCancel { job } => self.job_cancel(job),
            R::JobProgress { job, session, position, filled, trouble } => {
                self.job_progress(job, session, position, filled, trouble)
            }
            R::JobDone { job, session } => self.job_done(job, session),
            R::ShrinkStart { name, size, force } => self.shrink_start(&name, size, force),
            R::ShrinkEnd { job, session, disk, refusal } => self.shrink_end(job, session, disk, refusal),
            R::VolumeRevert { volume, snapshot, force } => self.volume_revert(&volume, &snapshot, force),
            R::VolumeClone { source, names, pool } => self.volume_clone(&source, names, pool.as_ref()),
            R::Attach { name, gateway, mode, read_only } => self.attach(&name, gateway, mode, read_only),
            R::Detach { name, gateway } => self.detach(&name, gateway.as_deref()),
            R::OpenAttachment { name, gateway, boot } => self.open_attachment(&name, &gateway, boot),
            R::RegisterGateway { gateway, boot, nbd_address, nbd_socket } => {
                self.register_gateway(gateway, boot, nbd_address, nbd_socket)
            }
            R::OsdCreate { host } => self.osd_create(host),
            R::OsdRegister { osd, boot, address, host, capacity } => {
                self.osd_register(osd, boot, address, host, capacity)
            }
            R::OsdStopping { osd, boot } => self.osd_stopping(osd, boot),
            R::PgChange { pg, epoch, from, change } => self.pg_change(pg, epoch, from, change),
            R::BarrierPassed { barrier, pgs } => self.barrier_passed(barrier, &pgs),
            R::ScrubStart { target, deep } => self.scrub_start(&target, deep),
            R::ScrubCancel { target } => self.scrub_cancel(&target),
            R::ScrubDone { pg, epoch, from, report } => self.scrub_done(pg, epoch, from, report),
            R::PoolList
            | R::VolumeList
            | R::VolumeShow { .. }
            | R::SnapshotList { .. }
            | R::SnapshotShow { .. }
            | R::SnapshotGroupList
            | R::SnapshotGroupShow { .. }
            | R::BinList
            | R::BinPurgeExpired { .. }
            | R::WipeList
            | R::SessionGrant { .. }
            | R::JobList
            | R::JobGrant { .. }
            | R::JobTake { .. }
            | R::BaseGrant { .. }
            | R::AttachmentList { .. }
            | R::ViewSince { .. }
            | R::ServiceStatus
            | R::PerfStatus
            | R::SpaceUse { .. }
            | R::OsdHeartbeat(_) => self.query(&request).unwrap_or_else(|| self.unchanged()),
        }
    }

    /// The answer to a request that changes nothing: the reads, and an [`ControlRequest::OpenAttachment`] that only asks
    /// again. `None` where the request has to go through the log.
    pub fn query(&self, request: &ControlRequest) -> Option<Result<ControlReply, ControlError>> {
        use ControlRequest as R;
        Some(match request {
            R::PoolList => Ok(ControlReply::Pools(self.pools.values().map(|p| p.value.info.clone()).collect())),
            R::VolumeList => Ok(ControlReply::Volumes(self.listed_volumes().map(|v| self.volume_info(v)).collect())),
            R::VolumeShow { name } => self.volume(name).map(|v| ControlReply::Volume(self.volume_info(v))),
            R::SnapshotList { volume } => self.snapshot_list(volume.as_ref()),
            R::SnapshotShow { volume, name } => self.snapshot_show(volume, name),
            R::SnapshotGroupList => self.snapshot_group_list(),
            R::SnapshotGroupShow { name } => self.snapshot_group_show(name),
            R::BinList => self.bin_list(),
            R::WipeList => self.wipe_list(),
            R::AttachmentList { gateway } => Ok(ControlReply::Attachments(self.attachment_list(gateway.as_deref()))),
            R::ViewSince { revision } => Ok(ControlReply::View(Box::new(self.view_since(*revision)))),
            R::SessionGrant { name, session } => self.session_grant(name, *session),
            R::BaseGrant { volume, layer } => self.base_grant(*volume, *layer),
            R::JobList => self.job_list(),
            R::JobGrant { job, session } => self.job_grant(*job, *session),
            // Which one is to be had the leader says, by what it has heard of workers (node/work.rs).
            R::JobTake { .. } => Ok(ControlReply::JobTaken(None)),
            R::OpenAttachment { name, gateway, boot } => return self.opened_before(name, gateway, *boot),
            _ => return None,
        })
    }

    /// What changed after `revision`; everything for revision 0.
    pub fn view_since(&self, revision: Revision) -> ClusterView {
        ClusterView {
            cluster: self.cluster,
            revision: self.view_revision,
            osds: changed(&self.osds, revision, |o| o.info.clone()),
            pools: changed(&self.pools, revision, |p| p.info.clone()),
            pgs: changed(&self.pgs, revision, PgConfig::clone),
            barriers: self.barriers.values().cloned().collect(),
            merges: self.merges.pending.values().cloned().collect(),
            scrubs: self.scrubs.since(revision),
            reservations: self.reservations_since(revision),
            wipes: self.wipes.wished(),
            wipe_freed: self.wipe_freed_since(revision),
        }
    }

    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The Raft index of the last command applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The revision of the view: rises when an OSD, a pool, a PG, a barrier, a merge, a scrub or a wipe changes.
    pub fn view_revision(&self) -> Revision {
        self.view_revision
    }

    /// Over which failure domain a pool's copies were spread when it was made; `None` for an unknown pool.
    pub fn failure_domain(&self, pool: PoolId) -> Option<FailureDomain> {
        Some(self.pools.get(&pool)?.value.failure_domain)
    }

    /// The revision of the command being applied, for what it changes in the view.
    fn touch_view(&mut self) -> Revision {
        self.view_revision = Revision(self.applied);
        self.view_revision
    }

    /// The command took effect.
    fn done(&self) -> Outcome {
        Ok(ControlReply::Done { revision: Revision(self.applied) })
    }

    /// There was nothing to do. The revision is one that a watcher surely reaches.
    fn unchanged(&self) -> Outcome {
        Ok(ControlReply::Done { revision: self.view_revision })
    }
}

fn changed<K: Ord + Copy, T, V>(
    from: &BTreeMap<K, Revised<T>>,
    revision: Revision,
    show: impl Fn(&T) -> V,
) -> BTreeMap<K, V> {
    from.iter().filter(|(_, r)| r.modified > revision).map(|(k, r)| (*k, show(&r.value))).collect()
}

fn invalid(text: impl Into<String>) -> ControlError {
    ControlError::Invalid(text.into())
}

fn not_found(what: &str, name: impl ToString) -> ControlError {
    ControlError::NotFound { what: what.to_owned(), name: name.to_string() }
}

fn exists(what: &str, name: impl ToString) -> ControlError {
    ControlError::Exists { what: what.to_owned(), name: name.to_string() }
}

/// Free text that is kept in the state is bounded and printable.
fn check_text(what: &str, text: &str, empty_allowed: bool) -> Result<(), ControlError> {
    const BYTES_MAX: usize = 255;
    if text.is_empty() && !empty_allowed {
        return Err(invalid(format!("{what} must not be empty")));
    }
    if text.len() > BYTES_MAX {
        return Err(invalid(format!("{what} has {} bytes; at most {BYTES_MAX} are kept", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(format!("{what} {text:?} has control characters")));
    }
    Ok(())
}
