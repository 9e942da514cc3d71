//! `ashlar scrub`: asks for a comparison of all copies, waits for it, says what it found. The wish lives in the metadata service, so
//! the command may end, and OSDs and metadata nodes may restart, while it goes on.

use crate::args::ScrubArgs;
use crate::control::Control;
use crate::error::CliError;
use crate::health::name_some;
use crate::output::{Output, note};
use ashlar_types::PgId;
use ashlar_types::control::ControlRequest;
use ashlar_types::scrub::{PgScrub, ScrubReport};
use ashlar_types::view::ClusterView;
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often the view is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How often progress is told.
const TELL: Duration = Duration::from_secs(1);

pub async fn run(control: &Control, args: &ScrubArgs) -> Result<Output, CliError> {
    let target = args.target();
    if args.cancel {
        let (_, pgs) = control.scrub(ControlRequest::ScrubCancel { target }).await?;
        let text = format!("scrubs of {} placement groups withdrawn", pgs.len());
        return Ok(Output::new(text, json!({ "withdrawn": pgs.len() })));
    }
    let begin = Instant::now();
    let (number, pgs) = control.scrub(ControlRequest::ScrubStart { target, deep: args.deep }).await?;
    if !args.wait {
        let text = format!(
            "scrub {number} of {} placement groups is asked for; `ashlar status` shows how far it is",
            pgs.len()
        );
        return Ok(Output::new(text, json!({ "number": number, "deep": args.deep, "pgs": pgs.len() })));
    }
    let outcome = wait(control, number, &pgs).await?;
    Ok(outcome.output(number, args.deep, begin.elapsed()))
}

#[derive(Debug, Default)]
struct Outcome {
    reports: Vec<(PgId, ScrubReport)>,
    withdrawn: Vec<PgId>,
    /// PGs of which not all members were compared.
    degraded: Vec<PgId>,
}

async fn wait(control: &Control, number: u64, pgs: &[PgId]) -> Result<Outcome, CliError> {
    let mut view = control.view().await?;
    let mut told = None;
    loop {
        let (outcome, waiting) = look(&view, number, pgs);
        let is_due = told.is_none_or(|(at, count): (Instant, usize)| at.elapsed() >= TELL && count != waiting.len());
        if is_due || waiting.is_empty() {
            told = Some((Instant::now(), waiting.len()));
            note(&progress(&view, pgs.len(), &waiting));
        }
        if waiting.is_empty() {
            return Ok(outcome);
        }
        tokio::time::sleep(LOOK).await;
        let newer = control.view_since(view.revision).await?;
        view.apply(newer);
    }
}

/// What is known of the scrub, and the PGs that are not done.
fn look(view: &ClusterView, number: u64, pgs: &[PgId]) -> (Outcome, Vec<PgId>) {
    let (mut outcome, mut waiting) = (Outcome::default(), Vec::new());
    for pg in pgs {
        let scrub = view.scrubs.get(pg).copied().unwrap_or_default();
        match (scrub.last, scrub.wish) {
            (Some(report), _) if report.number >= number => {
                let members = view.pgs.get(pg).map_or(0, |config| config.members.len());
                if usize::from(report.copies) < members {
                    outcome.degraded.push(*pg);
                }
                outcome.reports.push((*pg, report));
            }
            (_, Some(_)) => waiting.push(*pg),
            (_, None) => outcome.withdrawn.push(*pg),
        }
    }
    (outcome, waiting)
}

fn progress(view: &ClusterView, all: usize, waiting: &[PgId]) -> String {
    let is_up = |osd: &ashlar_types::OsdId| view.osds.get(osd).is_some_and(|osd| osd.up);
    let cannot_begin = |pg: &&PgId| {
        let Some(config) = view.pgs.get(pg) else { return false };
        config.primary.is_none() || config.joining().any(|member| is_up(&member))
    };
    let held_up: Vec<PgId> = waiting.iter().filter(cannot_begin).copied().collect();
    let mut text = format!("scrubbed {} of {all} PGs", all - waiting.len());
    if !held_up.is_empty() {
        let names = name_some(held_up.into_iter());
        text.push_str(&format!("; {names} must first have a primary and all members that are up in sync"));
    }
    text
}

impl Outcome {
    fn sum(&self, of: impl Fn(&ScrubReport) -> u64) -> u64 {
        self.reports.iter().map(|(_, report)| of(report)).sum()
    }

    fn output(&self, number: u64, deep: bool, took: Duration) -> Output {
        let chunks = self.sum(|r| r.chunks);
        let mismatches = self.sum(|r| r.mismatches);
        let (bad, repaired) = (self.sum(|r| r.bad_blocks), self.sum(|r| r.repaired_blocks));
        let left = self.sum(ScrubReport::unrepaired_blocks);
        let inconsistent: Vec<PgId> = self.reports.iter().filter(|(_, r)| !r.is_clean()).map(|(pg, _)| *pg).collect();
        let kind = if deep { "deep scrub" } else { "scrub" };
        let mut text = format!(
            "{kind} of {} placement groups: {chunks} chunks compared, {mismatches} differ; {bad} damaged blocks found, {repaired} repaired",
            self.reports.len()
        );
        if !self.degraded.is_empty() {
            let names = name_some(self.degraded.iter().copied());
            text.push_str(&format!("\nnot all members were up, and compared, in {names}"));
        }
        let json = json!({
            "number": number,
            "deep": deep,
            "pgs": self.reports.len() + self.withdrawn.len(),
            "done": self.reports.len(),
            "withdrawn": self.withdrawn.len(),
            "seconds": took.as_secs_f64(),
            "chunks": chunks,
            "mismatches": mismatches,
            "bad_blocks": bad,
            "repaired_blocks": repaired,
            "unrepaired_blocks": left,
            "inconsistent_pgs": inconsistent.iter().map(PgId::to_string).collect::<Vec<_>>(),
            "degraded_pgs": self.degraded.iter().map(PgId::to_string).collect::<Vec<_>>(),
        });
        let failure = if !inconsistent.is_empty() {
            let names = name_some(inconsistent.into_iter());
            Some(format!("inconsistencies are left in {names}; `ashlar status` says what to do"))
        } else if !self.withdrawn.is_empty() {
            Some(format!("the scrub of {} placement groups was withdrawn", self.withdrawn.len()))
        } else {
            None
        };
        Output::new(text, json).failed(failure)
    }
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// One line for `status`.
pub fn summary(view: &ClusterView, now: u64) -> String {
    let scrubs: Vec<PgScrub> = view.pgs.keys().map(|pg| view.scrubs.get(pg).copied().unwrap_or_default()).collect();
    if scrubs.is_empty() {
        return "nothing to scrub".to_owned();
    }
    let wishes: Vec<_> = scrubs.iter().filter_map(|scrub| scrub.wish).collect();
    let oldest = |last: &dyn Fn(&PgScrub) -> Option<ScrubReport>| {
        let never = scrubs.iter().filter(|scrub| last(scrub).is_none()).count();
        let ages = scrubs.iter().filter_map(last).map(|report| now.saturating_sub(report.ended_at));
        match (never, ages.max()) {
            (0, Some(age)) => format!("all within {}", span(age)),
            (never, _) if never == scrubs.len() => "none yet".to_owned(),
            (never, _) => format!("{never} PGs never"),
        }
    };
    let mut text = match wishes.len() {
        0 => String::new(),
        left => {
            let deep = wishes.iter().filter(|wish| wish.deep).count();
            format!("{left} of {} PGs to go ({deep} deep); ", scrubs.len())
        }
    };
    text.push_str(&format!("{}; deep: {}", oldest(&|s| s.last), oldest(&|s| s.last_deep)));
    text
}

fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds.div_ceil(60)),
        7200..=172_799 => format!("{} h", seconds.div_ceil(3600)),
        _ => format!("{} d", seconds.div_ceil(86_400)),
    }
}

pub fn scrubs_json(view: &ClusterView) -> Value {
    let report = |r: &ScrubReport| {
        json!({
            "number": r.number,
            "deep": r.deep,
            "ended_at": r.ended_at,
            "copies": r.copies,
            "chunks": r.chunks,
            "mismatches": r.mismatches,
            "bad_blocks": r.bad_blocks,
            "repaired_blocks": r.repaired_blocks,
        })
    };
    let of_pg = |(pg, scrub): (&PgId, &PgScrub)| {
        json!({
            "pg": pg.to_string(),
            "wish": scrub.wish.map(|wish| json!({ "number": wish.number, "deep": wish.deep })),
            "last": scrub.last.as_ref().map(report),
            "last_deep": scrub.last_deep.as_ref().map(report),
        })
    };
    let sum = |of: &dyn Fn(&PgScrub) -> u64| view.scrubs.values().map(of).sum::<u64>();
    json!({
        "to_go": view.scrubs.values().filter(|scrub| scrub.wish.is_some()).count(),
        "mismatches": sum(&PgScrub::mismatches),
        "unrepaired_blocks": sum(&PgScrub::unrepaired_blocks),
        "pgs": view.scrubs.iter().map(of_pg).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::scrub::ScrubWish;
    use ashlar_types::{BootId, Epoch, OsdId, PoolId};

    const PG: PgId = PgId { pool: PoolId(1), index: 0 };

    fn report(number: u64, mismatches: u64) -> ScrubReport {
        let (bad_blocks, repaired_blocks) = (2, 2);
        ScrubReport { number, deep: true, ended_at: 100, copies: 2, chunks: 5, mismatches, bad_blocks, repaired_blocks }
    }

    fn view(scrub: PgScrub) -> ClusterView {
        let mut view = ClusterView::default();
        let members = vec![OsdId(1), OsdId(2), OsdId(3)];
        let config = ashlar_types::view::PgConfig {
            pg: PG,
            epoch: Epoch(1),
            in_sync: members.clone(),
            members,
            primary: Some(OsdId(1)),
            primary_boot: BootId(1),
            min_size: 2,
        };
        view.pgs.insert(PG, config);
        view.scrubs.insert(PG, scrub);
        view
    }

    #[test]
    fn a_pg_is_done_waited_for_or_withdrawn() {
        let wish = Some(ScrubWish { number: 7, deep: false });
        let done = PgScrub { wish: None, last: Some(report(7, 0)), last_deep: None };
        let (outcome, waiting) = look(&view(done), 7, &[PG]);
        assert_eq!((outcome.reports.len(), outcome.degraded, waiting), (1, vec![PG], vec![]));
        let older = PgScrub { wish, last: Some(report(6, 0)), last_deep: None };
        assert_eq!(look(&view(older), 7, &[PG]).1, [PG]);
        let replaced = PgScrub { wish: Some(ScrubWish { number: 9, deep: true }), ..older };
        assert_eq!(look(&view(replaced), 7, &[PG]).1, [PG]);
        let (outcome, waiting) = look(&view(PgScrub { wish: None, ..older }), 7, &[PG]);
        assert_eq!((outcome.withdrawn, waiting), (vec![PG], vec![]));
    }

    #[test]
    fn what_is_left_makes_the_command_fail() {
        let outcome = |mismatches| Outcome { reports: vec![(PG, report(7, mismatches))], ..Outcome::default() };
        let good = outcome(0).output(7, true, Duration::ZERO);
        assert!(good.failure.is_none() && good.human.contains("2 damaged blocks found, 2 repaired"), "{good:?}");
        let bad = outcome(3).output(7, true, Duration::ZERO);
        assert!(bad.failure.is_some_and(|text| text.contains("pg.1.0")));
        let withdrawn = Outcome { withdrawn: vec![PG], ..Outcome::default() };
        assert!(withdrawn.output(7, true, Duration::ZERO).failure.is_some());
    }

    #[test]
    fn status_tells_what_is_to_go_and_how_old_the_last_ones_are() {
        let fresh = PgScrub { wish: None, last: Some(report(1, 0)), last_deep: None };
        assert_eq!(summary(&view(fresh), 160), "all within 60 s; deep: none yet");
        let wished = PgScrub { wish: Some(ScrubWish { number: 2, deep: true }), ..PgScrub::default() };
        assert_eq!(summary(&view(wished), 0), "1 of 1 PGs to go (1 deep); none yet; deep: none yet");
        assert_eq!(
            (span(119), span(120), span(7200), span(172_800)),
            ("119 s".into(), "2 min".into(), "2 h".into(), "2 d".into())
        );
    }
}
