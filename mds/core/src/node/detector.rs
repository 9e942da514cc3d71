//! Who is up: the leader's memory of heartbeats (N3).
//! F1: only time in which this node ran counts. After a pause of its own, every OSD has as much time left as before it.
//! F2: a suspicion is followed up only if nothing is heard after it; a refused connection proves nothing (R5).

use super::NodeConfig;
use crate::state::{ClusterState, Command, Verdict};
use ashlar_types::control::{OsdHeartbeat, OsdUsage};
use ashlar_types::perf::{OsdPerf, PerfReport};
use ashlar_types::{BootId, Duration, LayerId, OsdId, Revision, SessionId, Tick, VolumeId};
use std::collections::BTreeMap;

/// Suspicions taken from one heartbeat.
const SUSPECTS_MAX: usize = 256;
/// A proposal may be lost with the lead.
const VERDICT_AGAIN: Duration = Duration::from_millis(1000);

pub(super) struct Heard {
    boot: BootId,
    at: Tick,
    suspected: Option<Tick>,
    /// When its going down or coming up was last proposed; not again until `osd_silence_max` later.
    proposed: Option<Tick>,
    /// `None` until it was heard.
    pub(super) usage: Option<OsdUsage>,
    /// Of the view that it has told of last.
    pub(super) view: Revision,
    /// Blocks of each layer.
    pub(super) layers: BTreeMap<LayerId, u64>,
    /// All that it has told, each stage as it was told last.
    perf: PerfReport,
}

#[derive(Default)]
pub(super) struct Detector {
    /// The time for which this node has led and run (F1).
    ran: Tick,
    osds: BTreeMap<OsdId, Heard>,
    /// The view's revision when it last changed, and since when it is that.
    quiet: Option<(Revision, Tick)>,
    /// When verdicts on reservations were last proposed.
    verdicts: BTreeMap<(VolumeId, Revision), Tick>,
    /// When workers of jobs were heard last, or first missed.
    workers: BTreeMap<SessionId, Tick>,
}

impl Detector {
    pub(super) fn worker_heard(&mut self, worker: SessionId) {
        self.workers.insert(worker, self.ran);
    }

    /// Adds those that were never heard, so that their time runs.
    pub(super) fn forget_workers_but(&mut self, workers: impl Iterator<Item = SessionId>) {
        let before = std::mem::take(&mut self.workers);
        self.workers = workers.map(|worker| (worker, before.get(&worker).copied().unwrap_or(self.ran))).collect();
    }

    pub(super) fn is_worker_silent(&self, worker: SessionId, patience: Duration) -> bool {
        self.workers.get(&worker).is_some_and(|at| *at + patience <= self.ran)
    }

    /// A heartbeat of the OSD's present process. Gives a command if it was taken for dead.
    pub(super) fn on_heartbeat(
        &mut self,
        state: &ClusterState,
        heartbeat: OsdHeartbeat,
        config: &NodeConfig,
    ) -> Option<Command> {
        let (osd, boot, now) = (heartbeat.osd, heartbeat.boot, self.ran);
        let heard = self.entry(osd, boot);
        heard.at = now;
        heard.suspected = None;
        heard.usage = Some(*heartbeat.usage);
        heard.view = heartbeat.view;
        for (layer, blocks) in heartbeat.layers {
            match blocks {
                0 => heard.layers.remove(&layer),
                _ => heard.layers.insert(layer, blocks),
            };
        }
        heard.perf.extend(heartbeat.perf);
        if !state.is_up(osd) {
            let due = heard.proposed.is_none_or(|at| now - at > config.osd_suspect_grace);
            let again = due && state.can_be_up_again(osd);
            heard.proposed = if again { Some(now) } else { heard.proposed };
            return again.then_some(Command::OsdUp { osd, boot });
        }
        heard.proposed = None;
        for (suspect, boot) in heartbeat.suspects.into_iter().take(SUSPECTS_MAX) {
            self.on_suspicion(state, suspect, boot);
        }
        None
    }

    pub(super) fn on_suspicion(&mut self, state: &ClusterState, osd: OsdId, boot: BootId) {
        if state.is_present(osd, boot) && state.is_up(osd) {
            let now = self.ran;
            self.entry(osd, boot).suspected.get_or_insert(now);
        }
    }

    /// Called once per tick of `span`. Gives the commands for those who are no longer heard.
    pub(super) fn check(&mut self, state: &ClusterState, span: Duration, config: &NodeConfig) -> Vec<Command> {
        self.ran = self.ran + span;
        let now = self.ran;
        for (_, heard) in self.osds.iter_mut().filter(|(osd, _)| !state.is_up(**osd)) {
            // Silence counts from when it comes up.
            heard.at = now;
            heard.suspected = None;
        }
        let mut silent = Vec::new();
        for (osd, boot) in state.osds_up() {
            let heard = self.entry(osd, boot);
            let silence = now - heard.at >= config.osd_silence_max;
            let suspicion = heard.suspected.is_some_and(|at| now - at >= config.osd_suspect_grace);
            let due = heard.proposed.is_none_or(|at| now - at >= config.osd_silence_max);
            if (silence || suspicion) && due {
                heard.proposed = Some(now);
                silent.push(Command::OsdDown { osd, boot });
            }
        }
        silent
    }

    /// Called after [`Detector::check`]. Gives a command once the cluster has been quiet for long and primaries are not where
    /// they were meant to be. An eighth at a time, so that only so many PGs activate at once.
    pub(super) fn rebalance(&mut self, state: &ClusterState, config: &NodeConfig) -> Option<Command> {
        const PGS_AT_ONCE_MIN: usize = 8;
        let (revision, now) = (state.view_revision(), self.ran);
        let (_, since) = *self.quiet.insert(match self.quiet {
            Some((seen, since)) if seen == revision => (seen, since),
            _ => (revision, now),
        });
        if now - since < config.rebalance_after {
            return None;
        }
        self.quiet = None;
        let mut pgs: Vec<_> = state.out_of_place().collect();
        pgs.truncate((pgs.len() / 8).max(PGS_AT_ONCE_MIN));
        (!pgs.is_empty()).then_some(Command::Rebalance { pgs })
    }

    pub(super) fn usage(&self) -> impl Iterator<Item = (OsdId, OsdUsage)> + '_ {
        self.osds.iter().filter_map(|(osd, heard)| Some((*osd, heard.usage?)))
    }

    pub(super) fn heard(&self) -> impl Iterator<Item = (OsdId, &Heard)> {
        self.osds.iter().map(|(osd, heard)| (*osd, heard))
    }

    /// Whether this was not proposed a moment ago.
    pub(super) fn proposes(&mut self, verdict: &Verdict) -> bool {
        let now = self.ran;
        self.verdicts.retain(|_, at| now - *at < VERDICT_AGAIN);
        let key = (verdict.volume, verdict.since);
        self.verdicts.insert(key, now).is_none()
    }

    pub(super) fn perf(&self) -> impl Iterator<Item = OsdPerf> + '_ {
        let heard = self.osds.iter().filter(|(_, heard)| heard.usage.is_some());
        heard.map(|(osd, heard)| OsdPerf { osd: *osd, boot: heard.boot, stages: heard.perf.clone() })
    }

    /// A process seen for the first time begins with a full grace period.
    fn entry(&mut self, osd: OsdId, boot: BootId) -> &mut Heard {
        let now = self.ran;
        let fresh = || Heard {
            boot,
            at: now,
            suspected: None,
            proposed: None,
            usage: None,
            view: Revision(0),
            layers: BTreeMap::new(),
            perf: PerfReport::new(),
        };
        let heard = self.osds.entry(osd).or_insert_with(fresh);
        if heard.boot != boot {
            *heard = fresh();
        }
        heard
    }
}
