//! What is wrong with a cluster, what it means and what to do: from the cluster view alone.

use ashlar_types::view::{ClusterView, PgConfig};
use ashlar_types::{OsdId, PgId};
use serde::Serialize;
use std::collections::BTreeMap;

/// One thing that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub what: String,
    pub means: String,
    pub what_to_do: String,
}

/// How many placement groups are in which state; a group counts once, in the worst that applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PgSummary {
    pub total: usize,
    /// All members in sync.
    pub active: usize,
    /// Serves, with fewer copies than the pool wants.
    pub degraded: usize,
    /// Reads only.
    pub below_min_size: usize,
    /// Serves nothing.
    pub without_primary: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PgState {
    Active,
    Degraded,
    BelowMinSize,
    WithoutPrimary,
}

pub fn pg_state(pg: &PgConfig, view: &ClusterView) -> PgState {
    let has_primary =
        pg.primary.and_then(|osd| view.osds.get(&osd)).is_some_and(|osd| osd.up && osd.boot == pg.primary_boot);
    if !has_primary {
        PgState::WithoutPrimary
    } else if pg.in_sync.len() < usize::from(pg.min_size) {
        PgState::BelowMinSize
    } else if pg.in_sync.len() < pg.members.len() || pg.members.len() < wanted_copies(pg, view) {
        PgState::Degraded
    } else {
        PgState::Active
    }
}

fn wanted_copies(pg: &PgConfig, view: &ClusterView) -> usize {
    view.pools.get(&pg.pg.pool).map_or(0, |pool| usize::from(pool.replicas))
}

pub fn summarize(view: &ClusterView) -> PgSummary {
    let mut summary = PgSummary { total: view.pgs.len(), ..PgSummary::default() };
    for pg in view.pgs.values() {
        match pg_state(pg, view) {
            PgState::Active => summary.active += 1,
            PgState::Degraded => summary.degraded += 1,
            PgState::BelowMinSize => summary.below_min_size += 1,
            PgState::WithoutPrimary => summary.without_primary += 1,
        }
    }
    summary
}

/// Worst first.
pub fn problems(view: &ClusterView) -> Vec<Problem> {
    let mut problems = Vec::new();
    problems.extend(pg_problem(view, PgState::WithoutPrimary));
    problems.extend(pg_problem(view, PgState::BelowMinSize));
    problems.extend(scrub_problems(view));
    problems.extend(pg_problem(view, PgState::Degraded));
    problems.extend(view.osds.values().filter(|osd| !osd.up).map(|osd| down_osd(osd.id, osd.boot.0 == 0, view)));
    if view.osds.is_empty() {
        problems.push(Problem {
            what: "there are no OSDs".into(),
            means: "nothing can be stored".into(),
            what_to_do:
                "add disks: `ashlar up --osds 3`, or `ashlar osd create --disk PATH` and `ashlar osd --config FILE`"
                    .into(),
        });
    } else if view.pools.is_empty() {
        problems.push(Problem {
            what: "there is no pool".into(),
            means: "no volume can be created".into(),
            what_to_do: "`ashlar pool create default --replicas 3`".into(),
        });
    }
    problems.extend(view.barriers.iter().map(|barrier| {
        let pgs: Vec<String> = barrier.pgs.iter().map(PgId::to_string).collect();
        Problem {
            what: format!("a barrier of {} is not passed", barrier.volume),
            means: format!("an attach, take-over or deletion of it waits for {}", pgs.join(", ")),
            what_to_do: "wait a moment; if it stays, start the OSDs of these placement groups".into(),
        }
    }));
    problems
}

fn pg_problem(view: &ClusterView, state: PgState) -> Option<Problem> {
    let pgs: Vec<&PgConfig> = view.pgs.values().filter(|pg| pg_state(pg, view) == state).collect();
    let some = pgs.first()?;
    let count = format!("{} of {} placement groups", pgs.len(), view.pgs.len());
    let down = blame(&pgs, view);
    let start = if down.is_empty() {
        "wait a moment: they are being reconfigured or filled".to_owned()
    } else {
        format!("start {}: `ashlar osd start ID`, or its service on its machine", join(&down))
    };
    Some(match state {
        PgState::WithoutPrimary => Problem {
            what: format!("{count} have no primary, the first is {}", some.pg),
            means: "reads and writes of their part of each volume wait".into(),
            what_to_do: start,
        },
        PgState::BelowMinSize => Problem {
            what: format!("{count} have fewer than {} copies in sync, the first is {}", some.min_size, some.pg),
            means: "writes to their part of each volume wait, reads go on".into(),
            what_to_do: start,
        },
        PgState::Degraded if pgs.iter().any(|pg| pg.members.len() < wanted_copies(pg, view)) => Problem {
            what: format!("{count} have fewer members than their pool has replicas, the first is {}", some.pg),
            means: "everything works, with fewer copies than wanted".into(),
            what_to_do: "add OSDs: `ashlar up --osds N`".into(),
        },
        _ => Problem {
            what: format!("{count} are degraded, the first is {}", some.pg),
            means: "everything works, with fewer copies than wanted".into(),
            what_to_do: start,
        },
    })
}

/// What scrubs have found and could not mend.
fn scrub_problems(view: &ClusterView) -> Vec<Problem> {
    let mut problems = Vec::new();
    let differ: Vec<_> = view.scrubs.iter().filter(|(_, scrub)| scrub.mismatches() > 0).collect();
    if let Some((first, _)) = differ.first() {
        let chunks: u64 = differ.iter().map(|(_, scrub)| scrub.mismatches()).sum();
        let primary = view.pgs.get(first).and_then(|pg| pg.primary).map_or("the primary".to_owned(), |p| p.to_string());
        problems.push(Problem {
            what: format!("copies differ in {chunks} chunks of {}", name_some(differ.iter().map(|(pg, _)| **pg))),
            means: "each copy is whole by its own checksums, but they are not the same: which data is read depends on which OSD serves it".into(),
            what_to_do: format!(
                "`ashlar scrub --deep --pg {first} --wait` looks again; if it stays, the log of {primary} names the chunks and OSDs: \
                 copy the volumes' data elsewhere, keep the disks, and report it"
            ),
        });
    }
    let damaged: Vec<_> = view.scrubs.iter().filter(|(_, scrub)| scrub.unrepaired_blocks() > 0).collect();
    if let Some((first, _)) = damaged.first() {
        let blocks: u64 = damaged.iter().map(|(_, scrub)| scrub.unrepaired_blocks()).sum();
        problems.push(Problem {
            what: format!("{blocks} damaged blocks are left in {}", name_some(damaged.iter().map(|(pg, _)| **pg))),
            means: "no good copy of them could be had when they were scrubbed; where there is none, reads of them fail".into(),
            what_to_do: format!(
                "bring all OSDs back, then `ashlar scrub --deep --pg {first} --wait`; what is damaged then is to be restored from a backup"
            ),
        });
    }
    problems
}

/// The first three of them, and how many more there are.
pub fn name_some(pgs: impl ExactSizeIterator<Item = PgId>) -> String {
    const NAMED: usize = 3;
    let count = pgs.len();
    let mut names: Vec<String> = pgs.take(NAMED).map(|pg| pg.to_string()).collect();
    if count > NAMED {
        names.push(format!("{} more", count - NAMED));
    }
    names.join(", ")
}

/// The members that are down, most often named first.
fn blame(pgs: &[&PgConfig], view: &ClusterView) -> Vec<OsdId> {
    let mut counts: BTreeMap<OsdId, usize> = BTreeMap::new();
    for member in pgs.iter().flat_map(|pg| &pg.members) {
        if view.osds.get(member).is_none_or(|osd| !osd.up) {
            *counts.entry(*member).or_default() += 1;
        }
    }
    let mut ids: Vec<(OsdId, usize)> = counts.into_iter().collect();
    ids.sort_by_key(|(id, count)| (std::cmp::Reverse(*count), *id));
    ids.into_iter().map(|(id, _)| id).collect()
}

fn join(ids: &[OsdId]) -> String {
    ids.iter().map(OsdId::to_string).collect::<Vec<_>>().join(", ")
}

fn down_osd(id: OsdId, never_started: bool, view: &ClusterView) -> Problem {
    let pgs = view.pgs.values().filter(|pg| pg.is_member(id)).count();
    let what = if never_started { format!("{id} was never started") } else { format!("{id} is down") };
    let means = match pgs {
        0 => "it holds no data".to_owned(),
        pgs => format!("{pgs} placement groups have a copy less"),
    };
    let what_to_do = format!("`ashlar osd start {}`, or its service on its machine; its log says why it ended", id.0);
    Problem { what, means, what_to_do }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::scrub::{PgScrub, ScrubReport};
    use ashlar_types::view::{OsdInfo, PoolInfo};
    use ashlar_types::{BootId, Epoch, Name, PoolId};

    fn view(in_sync: &[u32], up: &[u32]) -> ClusterView {
        let mut view = ClusterView::default();
        for id in 1..=3 {
            let info = OsdInfo {
                id: OsdId(id),
                boot: BootId(7),
                up: up.contains(&id),
                address: String::new(),
                host: String::new(),
                capacity: 0,
            };
            view.osds.insert(OsdId(id), info);
        }
        let name = Name::new("default").expect("a name");
        let pool = PoolInfo { id: PoolId(1), name, replicas: 3, min_size: 2, pg_count: 1, bin_retention: 0 };
        view.pools.insert(PoolId(1), pool);
        let pg = PgId { pool: PoolId(1), index: 0 };
        let config = PgConfig {
            pg,
            epoch: Epoch(1),
            members: vec![OsdId(1), OsdId(2), OsdId(3)],
            in_sync: in_sync.iter().map(|id| OsdId(*id)).collect(),
            primary: in_sync.first().map(|id| OsdId(*id)),
            primary_boot: BootId(7),
            min_size: 2,
        };
        view.pgs.insert(pg, config);
        view
    }

    #[test]
    fn a_healthy_cluster_has_no_problems() {
        let view = view(&[1, 2, 3], &[1, 2, 3]);
        assert_eq!(problems(&view), vec![]);
        assert_eq!(summarize(&view), PgSummary { total: 1, active: 1, ..PgSummary::default() });
    }

    #[test]
    fn a_lost_osd_is_named_with_what_to_do() {
        let view = view(&[1, 2], &[1, 2]);
        let problems = problems(&view);
        assert_eq!(summarize(&view).degraded, 1);
        assert!(problems[0].what_to_do.contains("osd.3"), "{problems:?}");
        assert!(problems.iter().any(|p| p.what == "osd.3 is down"));
    }

    #[test]
    fn what_a_scrub_could_not_mend_is_a_problem_with_the_name_of_its_pg() {
        let mut view = view(&[1, 2, 3], &[1, 2, 3]);
        let pg = PgId { pool: PoolId(1), index: 0 };
        let report = |mismatches, repaired_blocks| ScrubReport {
            number: 1,
            deep: true,
            ended_at: 0,
            copies: 3,
            chunks: 1,
            mismatches,
            bad_blocks: 2,
            repaired_blocks,
        };
        let mut after = |report| {
            view.scrubs.insert(pg, PgScrub { wish: None, last: Some(report), last_deep: Some(report) });
            problems(&view)
        };
        assert_eq!(after(report(0, 2)), vec![]);
        let differ = after(report(1, 2));
        assert!(differ.len() == 1 && differ[0].what == "copies differ in 1 chunks of pg.1.0", "{differ:?}");
        assert!(differ[0].what_to_do.contains("--pg pg.1.0"));
        let damaged = after(report(0, 1));
        assert!(damaged.len() == 1 && damaged[0].what == "1 damaged blocks are left in pg.1.0", "{damaged:?}");
    }

    #[test]
    fn below_min_size_and_no_primary_come_first() {
        assert_eq!(summarize(&view(&[1], &[1])).below_min_size, 1);
        assert_eq!(summarize(&view(&[1, 2], &[2])).without_primary, 1);
        assert!(problems(&view(&[1], &[1]))[0].means.contains("writes"));
    }
}
