//! `ashlar job`, and waiting for one.

use super::volume::ask_volume;
use crate::args::{JobArgs, JobCommand};
use crate::control::Control;
use crate::error::CliError;
use crate::health::Problem;
use crate::output::{Output, Table, note};
use crate::transfer::Progress;
use ashlar_types::control::{ControlReply, ControlRequest, Provision, VolumeInfo};
use ashlar_types::job::{JobInfo, JobKind, JobState};
use ashlar_types::{JobId, VolumeId, format_bytes};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::Instant;

const PAUSE: Duration = Duration::from_millis(200);
/// Gateways ask for jobs every other second, and take one away from a worker that has been silent for ten.
const UNNOTICED: Duration = Duration::from_secs(15);

pub async fn run(control: &Control, command: JobCommand) -> Result<Output, CliError> {
    match command {
        JobCommand::List => {
            let jobs = list(control).await?;
            let mut table =
                Table::new(&["JOB", "KIND", "VOLUME", "STATE", "DONE", "SIZE", "RATE", "GATEWAY", "WAITS FOR"]);
            for job in &jobs {
                let rate = job.rate.map_or_else(|| "-".to_owned(), |rate| format!("{}/s", format_bytes(rate)));
                let gateway = job.gateway.clone().unwrap_or_else(|| "-".to_owned());
                let volume = job.volume_name.to_string();
                let (done, size) = (format!("{} %", percent(job)), format_bytes(job.total));
                let (kind, state) = (kind_word(job.kind).to_owned(), state_word(job.state).to_owned());
                let waits_for = job.trouble.clone().or_else(|| job.waits_for.clone()).unwrap_or_else(|| "-".to_owned());
                table.row([job.id.to_string(), kind, volume, state, done, size, rate, gateway, waits_for]);
            }
            Ok(Output::new(table.render(), jobs.iter().map(job_json).collect()))
        }
        JobCommand::Show { job } => {
            let job = find(control, job).await?;
            Ok(Output::new(describe(&job), job_json(&job)))
        }
        JobCommand::Pause { job } => set(control, job, |job| (job.rate, true), "paused").await,
        JobCommand::Resume { job } => set(control, job, |job| (job.rate, false), "going on").await,
        JobCommand::Rate { job, rate } => {
            let text = match rate.0 {
                Some(rate) => format!("writing at most {} a second", format_bytes(rate)),
                None => "writing as fast as it goes".to_owned(),
            };
            set(control, job, |job| (rate.0, job.paused), &text).await
        }
        JobCommand::Cancel { job } => {
            control.ask(ControlRequest::JobCancel { job }).await?;
            Ok(Output::new(format!("{job} given up"), json!({ "id": job.0, "cancelled": true })))
        }
    }
}

async fn set(
    control: &Control,
    job: JobId,
    change: impl Fn(&JobInfo) -> (Option<u64>, bool),
    is_now: &str,
) -> Result<Output, CliError> {
    let (rate, paused) = change(&find(control, job).await?);
    let job = ask(control, ControlRequest::JobSet { job, rate, paused }).await?;
    // What was set counts when it is taken out.
    let rests = if job.state == JobState::Paused && !job.paused { ", once its volume is out of the bin" } else { "" };
    Ok(Output::new(format!("{} is {is_now}{rests}", job.id), job_json(&job)))
}

pub async fn ask(control: &Control, request: ControlRequest) -> Result<JobInfo, CliError> {
    match control.ask(request).await? {
        ControlReply::Job(job) => Ok(*job),
        reply => Err(CliError::unexpected("a job", &reply)),
    }
}

pub async fn list(control: &Control) -> Result<Vec<JobInfo>, CliError> {
    match control.ask(ControlRequest::JobList).await? {
        ControlReply::Jobs(jobs) => Ok(jobs),
        reply => Err(CliError::unexpected("job list", &reply)),
    }
}

async fn find(control: &Control, id: JobId) -> Result<JobInfo, CliError> {
    let found = list(control).await?.into_iter().find(|job| job.id == id);
    found.ok_or(CliError::NoJob { job: id })
}

pub async fn of_volume(control: &Control, volume: VolumeId) -> Result<Option<JobInfo>, CliError> {
    let is_its = |job: &JobInfo| job.volume == volume && job.state != JobState::Failed;
    Ok(list(control).await?.into_iter().find(is_its))
}

/// Sets a job's rate, and waits until it is there no more, or has failed and is given, if that is wanted. Whether it was done or given up the caller
/// looks at.
pub async fn attend(control: &Control, mut job: JobInfo, args: JobArgs) -> Result<Option<JobInfo>, CliError> {
    if args.rate.is_some() && args.rate != job.rate {
        let (rate, paused) = (args.rate, job.paused);
        job = ask(control, ControlRequest::JobSet { job: job.id, rate, paused }).await?;
    }
    if args.no_wait {
        return Ok(None);
    }
    let (id, begun_at) = (job.id, job.position);
    let mut progress = Progress::new(format!("{} {}", doing(job.kind), job.volume_name), job.total);
    progress.add(begun_at);
    let (mut position, mut unnoticed_since, mut waits_since, mut said) =
        (begun_at, Instant::now(), Instant::now(), None);
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(now) = list(control).await?.into_iter().find(|job| job.id == id) else { break };
        if now.state == JobState::Failed {
            progress.end();
            return Ok(Some(now));
        }
        progress.add(now.position.saturating_sub(position));
        position = position.max(now.position);
        // Nobody has taken it, or who has it is silent.
        let is_noticed = now.state != JobState::Waiting || now.gateway.is_some();
        if is_noticed {
            unnoticed_since = Instant::now();
        }
        if now.waits_for.is_none() {
            waits_since = Instant::now();
        }
        let trouble = match (&now.trouble, &now.waits_for) {
            (Some(trouble), _) => Some(format!("{id} doesn't get on: {trouble}; it goes on by itself when it can")),
            (None, _) if now.paused => Some(format!("{id} is paused; `ashlar job resume {id}` goes on with it")),
            (None, _) if unnoticed_since.elapsed() > UNNOTICED => {
                Some(format!("no gateway works on {id}: is one running? `ashlar status` shows it"))
            }
            (None, Some(what)) if is_noticed && waits_since.elapsed() > UNNOTICED => {
                Some(format!("{id} waits for {what}"))
            }
            _ => None,
        };
        if trouble != said {
            if let Some(trouble) = &trouble {
                progress.end();
                note(trouble);
            }
            said = trouble;
        }
    }
    Ok(None)
}

/// Says that `--rate` and `--no-wait` are for what is waited for.
pub fn check(provision: Option<Provision>, shrinks: bool, args: JobArgs) -> Result<(), CliError> {
    let is_eager = provision == Some(Provision::Eager);
    if args.rate.is_some() && shrinks && !is_eager {
        return Err(CliError::Conflict {
            what: "--rate is for `--provision eager`: shrinking writes nothing".to_owned(),
        });
    }
    match (args.rate.is_some() || args.no_wait) && !is_eager && !shrinks {
        true => Err(CliError::Conflict { what: "--rate and --no-wait are for `--provision eager`".to_owned() }),
        false => Ok(()),
    }
}

/// The volume, when it is written with zeroes or that has begun; others as they are.
pub async fn zeroed(control: &Control, volume: VolumeInfo, args: JobArgs) -> Result<VolumeInfo, CliError> {
    if volume.provision != Provision::Eager {
        return Ok(volume);
    }
    let Some(job) = of_volume(control, volume.id).await? else { return Ok(volume) };
    let (id, name) = (job.id, volume.name.clone());
    attend(control, job, args).await?;
    let now = ask_volume(control, "volume show", ControlRequest::VolumeShow { name: name.clone() }).await?;
    match now.id == volume.id && now.provision == Provision::Eager {
        true => Ok(now),
        false => Err(CliError::JobGivenUp { job: id, volume: name }),
    }
}

fn percent(job: &JobInfo) -> u64 {
    job.position.saturating_mul(100).checked_div(job.total).unwrap_or(100)
}

fn kind_word(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Flatten => "flatten",
        JobKind::Zero => "zero",
        JobKind::Shrink(_) => "shrink",
    }
}

fn doing(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Flatten => "flattening",
        JobKind::Zero => "zeroing",
        JobKind::Shrink(_) => "shrinking",
    }
}

fn state_word(state: JobState) -> &'static str {
    match state {
        JobState::Waiting => "waiting",
        JobState::Running => "running",
        JobState::Paused => "paused",
        JobState::Ending => "ending",
        JobState::Failed => "failed",
    }
}

/// In one line.
pub fn summary(job: &JobInfo) -> String {
    let (doing, state) = (doing(job.kind), state_word(job.state));
    let waits = job.waits_for.as_ref().map_or_else(String::new, |what| format!(", waits for {what}"));
    format!("{} {doing}, {state}, {} % of {}{waits}", job.id, percent(job), format_bytes(job.total))
}

pub fn problems(jobs: &[JobInfo]) -> impl Iterator<Item = Problem> + '_ {
    jobs.iter().filter_map(|job| {
        let trouble = job.trouble.as_ref()?;
        let volume = &job.volume_name;
        let what_to_do = format!("mend that; or `ashlar job cancel {}`, and what is done stays", job.id);
        Some(Problem {
            what: format!("{} ({} {volume}) doesn't get on: {trouble}", job.id, doing(job.kind)),
            means: "it is tried again by itself, again and again".into(),
            what_to_do,
        })
    })
}

fn describe(job: &JobInfo) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "id          {}", job.id);
    let _ = writeln!(text, "kind        {}", kind_word(job.kind));
    let _ = writeln!(text, "volume      {}", job.volume_name);
    let _ = writeln!(text, "state       {}", state_word(job.state));
    let (position, total) = (format_bytes(job.position), format_bytes(job.total));
    let _ = writeln!(text, "done        {position} of {total} ({} %)", percent(job));
    if let JobKind::Shrink(shrink) = job.kind {
        let _ = writeln!(text, "new size    {}", format_bytes(shrink.size));
    }
    let written = if matches!(job.kind, JobKind::Shrink(_)) { "discarded  " } else { "written    " };
    let _ = writeln!(text, "{written} {}", format_bytes(job.filled));
    let rate = job.rate.map_or_else(|| "none".to_owned(), |rate| format!("{}/s", format_bytes(rate)));
    let _ = writeln!(text, "rate        {rate}");
    if let Some(gateway) = &job.gateway {
        let _ = writeln!(text, "gateway     {gateway}");
    }
    if job.paused {
        let _ = writeln!(text, "paused      by an operator; `ashlar job resume {}` goes on with it", job.id);
    }
    if let Some(what) = &job.waits_for {
        let _ = writeln!(text, "waits for   {what}");
    }
    if let Some(trouble) = &job.trouble {
        let _ = writeln!(text, "trouble     {trouble}");
    }
    if job.state == JobState::Failed {
        let _ = writeln!(text, "            it is over; `ashlar job cancel {}` forgets it", job.id);
    }
    text
}

pub fn job_json(job: &JobInfo) -> Value {
    json!({
        "id": job.id.0,
        "kind": kind_word(job.kind),
        "volume": job.volume_name,
        "state": state_word(job.state),
        "position": job.position,
        "total": job.total,
        "filled": job.filled,
        "rate": job.rate,
        "gateway": job.gateway,
        "trouble": job.trouble,
        "paused": job.paused,
        "waits_for": job.waits_for,
        "new_size": match job.kind {
            JobKind::Shrink(shrink) => Some(shrink.size),
            JobKind::Flatten | JobKind::Zero => None,
        },
    })
}
