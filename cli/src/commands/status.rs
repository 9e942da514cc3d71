//! `ashlar status`: how the cluster is, what is wrong, what it means and what to do.

use super::pool::pool_json;
use super::volume::{attachment_json, describe_attachment};
use super::{job, scrub, space, wipe, wipe_freed};
use crate::control::{Control, ServiceStatus};
use crate::error::CliError;
use crate::health::{self, PgSummary, Problem};
use crate::output::{Output, Table};
use ashlar_types::control::{AttachmentInfo, VolumeInfo};
use ashlar_types::job::{JobInfo, JobState};
use ashlar_types::view::ClusterView;
use ashlar_types::wipe::{WipeInfo, WipeState};
use ashlar_types::{OsdId, PoolId, format_bytes};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// `ashlar job list` shows all.
const JOBS_SHOWN: usize = 10;

struct Facts {
    service: ServiceStatus,
    view: ClusterView,
    volumes: Vec<VolumeInfo>,
    pgs: PgSummary,
    problems: Vec<Problem>,
    jobs: Vec<JobInfo>,
    wipes: Vec<WipeInfo>,
}

impl Facts {
    /// Whether there is, or was, a volume that wipes as it frees.
    fn wipes_freed(&self) -> bool {
        self.view.wipe_freed.is_some()
    }
}

pub async fn run(control: &Control) -> Result<Output, CliError> {
    let view = control.view().await?;
    let volumes = control.volumes().await?;
    let service = control.status().await?;
    let mut problems = health::problems(&view);
    problems.extend(damage(&service));
    let name_of = |pool: PoolId| view.pools.get(&pool).map_or_else(|| pool.to_string(), |info| info.name.to_string());
    problems.extend(space::problems(&space::of_pools(control).await?, name_of));
    let mut jobs = job::list(control).await?;
    // Who asked for it was told, and nothing is to be done.
    jobs.retain(|job| job.state != JobState::Failed);
    problems.extend(job::problems(&jobs));
    let wipes = wipe::list(control).await?;
    problems.extend(wipe::problems(&wipes));
    problems.extend(wipe_freed::problems(&service));
    let facts = Facts { pgs: health::summarize(&view), problems, service, view, volumes, jobs, wipes };
    Ok(Output::new(for_people(&facts), for_programs(&facts)))
}

fn damage(service: &ServiceStatus) -> Vec<Problem> {
    let lost = service.usage.iter().filter(|(_, usage)| usage.lost_blocks > 0);
    lost.map(|(osd, usage)| Problem {
        what: format!("{osd} has {} damaged blocks that no copy could repair", usage.lost_blocks),
        means: "reads of these blocks fail".into(),
        what_to_do: "restore them from a backup, and replace the disk".into(),
    })
    .collect()
}

fn attachments(volumes: &[VolumeInfo]) -> impl Iterator<Item = &AttachmentInfo> {
    volumes.iter().flat_map(|volume| &volume.attachments)
}

fn for_people(facts: &Facts) -> String {
    let mut text = String::new();
    let health = match facts.problems.len() {
        0 => "healthy".to_owned(),
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    };
    let view = &facts.view;
    let _ = writeln!(text, "cluster  {} at {}: {health}", view.cluster, view.revision);
    let _ = writeln!(text, "mds      leader {}", facts.service.leader);
    let up = view.osds.values().filter(|osd| osd.up).count();
    let _ = writeln!(text, "osds     {} of {} up", up, view.osds.len());
    text.push_str(&indent(&osd_table(view, &facts.service).render()));
    let pools: Vec<String> =
        view.pools.values().map(|pool| format!("{} ({} replicas)", pool.name, pool.replicas)).collect();
    let _ = writeln!(text, "pools    {}", if pools.is_empty() { "none".to_owned() } else { pools.join(", ") });
    let pgs = &facts.pgs;
    let _ = write!(text, "pgs      {} of {} fully in sync", pgs.active, pgs.total);
    for (count, word) in
        [(pgs.degraded, "degraded"), (pgs.below_min_size, "below min-size"), (pgs.without_primary, "without primary")]
    {
        if count > 0 {
            let _ = write!(text, ", {count} {word}");
        }
    }
    let _ = write!(text, "\nscrub    {}", scrub::summary(view, scrub::unix_now()));
    let bytes: u64 = facts.volumes.iter().map(|volume| volume.size).sum();
    let kept = match facts.service.volumes_kept {
        0 => String::new(),
        1 => "; 1 deleted volume is kept for its clones".to_owned(),
        n => format!("; {n} deleted volumes are kept for their clones"),
    };
    let in_bin = match facts.service.volumes_in_bin {
        0 => String::new(),
        n => format!("; {n} in the bin, {}", format_bytes(facts.service.bin_bytes)),
    };
    let _ = writeln!(text, "\nvolumes  {}, {} in all{kept}{in_bin}", facts.volumes.len(), format_bytes(bytes));
    for attachment in attachments(&facts.volumes) {
        let _ = writeln!(text, "         {}: {}", attachment.name, describe_attachment(attachment));
    }
    if !facts.jobs.is_empty() {
        let _ = writeln!(text, "jobs     {}", facts.jobs.len());
    }
    for work in facts.jobs.iter().take(JOBS_SHOWN) {
        let _ = writeln!(text, "         {}: {}", work.volume_name, job::summary(work));
    }
    let unfinished = || facts.wipes.iter().filter(|wipe| wipe.state != WipeState::Done);
    for (nth, unfinished) in unfinished().take(JOBS_SHOWN).enumerate() {
        let _ = writeln!(text, "{}{}", if nth == 0 { "wipes    " } else { "         " }, wipe::summary(unfinished));
    }
    let waiting = wipe_freed::waiting(view, &facts.service);
    if facts.wipes_freed() {
        let _ = writeln!(text, "freed    {}", wipe_freed::describe(&waiting));
    }
    for problem in &facts.problems {
        let _ =
            writeln!(text, "\nproblem  {}\n  means  {}\n  do     {}", problem.what, problem.means, problem.what_to_do);
    }
    text
}

fn indent(table: &str) -> String {
    table.lines().map(|line| format!("         {line}\n")).collect()
}

pub fn osd_table(view: &ClusterView, service: &ServiceStatus) -> Table {
    let mut table = Table::new(&["OSD", "STATE", "USED", "SIZE", "PGS", "HOST", "ADDRESS"]);
    for osd in view.osds.values() {
        let usage = service.usage.get(&osd.id);
        let used = usage.map_or("-".to_owned(), |usage| format_bytes(usage.used));
        let state = if osd.up { "up" } else { "down" };
        let cells =
            [osd.id.to_string(), state.to_owned(), used, format_bytes(osd.capacity), pgs_of(view, osd.id).to_string()];
        table.row(cells.into_iter().chain([osd.host.clone(), osd.address.clone()]));
    }
    table
}

fn pgs_of(view: &ClusterView, osd: OsdId) -> usize {
    view.pgs.values().filter(|pg| pg.is_member(osd)).count()
}

pub fn osds_json(view: &ClusterView, service: &ServiceStatus) -> Vec<Value> {
    let describe = |osd: &ashlar_types::view::OsdInfo| {
        let usage = service.usage.get(&osd.id);
        json!({
            "id": osd.id.0,
            "up": osd.up,
            "address": osd.address,
            "host": osd.host,
            "capacity": osd.capacity,
            "used": usage.map(|usage| usage.used),
            "repaired_blocks": usage.map(|usage| usage.repaired_blocks),
            "space": usage.map(space::osd_json),
            "lost_blocks": usage.map(|usage| usage.lost_blocks),
            "pgs": pgs_of(view, osd.id),
        })
    };
    view.osds.values().map(describe).collect()
}

fn for_programs(facts: &Facts) -> Value {
    let view = &facts.view;
    let barriers: Vec<Value> = view
        .barriers
        .iter()
        .map(|barrier| {
            let waits_for: Vec<String> = barrier.pgs.iter().map(ToString::to_string).collect();
            json!({ "id": barrier.id, "volume": barrier.volume.0, "waits_for": waits_for })
        })
        .collect();
    json!({
        "cluster": view.cluster.to_string(),
        "revision": view.revision.0,
        "healthy": facts.problems.is_empty(),
        "mds_leader": facts.service.leader,
        "osds": osds_json(view, &facts.service),
        "pools": view.pools.values().map(pool_json).collect::<Vec<_>>(),
        "pgs": facts.pgs,
        "volumes": facts.volumes.len(),
        "volumes_kept": facts.service.volumes_kept,
        "volumes_in_bin": facts.service.volumes_in_bin,
        "bin_bytes": facts.service.bin_bytes,
        "attachments": attachments(&facts.volumes).map(attachment_json).collect::<Vec<_>>(),
        "barriers": barriers,
        "jobs": facts.jobs.iter().map(job::job_json).collect::<Vec<_>>(),
        "unwiped": facts.wipes_freed().then(|| wipe_freed::waiting_json(&wipe_freed::waiting(view, &facts.service))),
        "wipes": facts.wipes.iter().map(wipe::wipe_json).collect::<Vec<_>>(),
        "scrub": scrub::scrubs_json(view),
        "problems": facts.problems,
    })
}
