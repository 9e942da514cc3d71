//! Snapshots of a volume that is being written: how long one takes, and how long the slowest write around it, beside the slowest of a like
//! span without any.

use super::control::Control;
use super::turns::worst;
use super::{Found, MIB, Shape, fresh_cluster};
use crate::accounting;
use crate::error::BenchError;
use crate::figures::{Figure, Subject};
use crate::load::{Job, Slow, Until};
use crate::measure::{self, make_volume};
use crate::noise::median;
use crate::progress;
use crate::report::render;
use crate::sandbox::Sandbox;
use crate::settings::Settings;
use ashlar_types::BLOCK_BYTES;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const DEPTH: usize = 8;
/// Faster writes are listed nowhere; a span without slower ones counts as this. As many as there can be of them have room in the list.
const SLOW: Duration = Duration::from_millis(2);
/// What a snapshot causes may come a while after it.
const AFTER: Duration = Duration::from_millis(50);
/// From the end of one span to the beginning of the next.
const CALM: Duration = Duration::from_millis(150);

/// A stretch of time in which writes are looked at.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: Instant,
    to: Instant,
}

struct Turn {
    wall: Duration,
    with: Span,
    without: Span,
}

pub fn run(sandbox: &Sandbox, settings: &Settings, shape: &Shape) -> Result<Found, BenchError> {
    let cluster = fresh_cluster(sandbox, settings, shape, "snapshots of a volume that is being written")?;
    let mut library = make_volume(&cluster, "written", shape.volume_bytes)?;
    measure::fill(&mut library, true)?;
    let control = Control::connect(cluster.mds())?;
    progress::say(&format!("{} snapshots under 4 KiB writes, QD{DEPTH}", shape.snapshots));
    let stop = Arc::new(AtomicBool::new(false));
    let job = job(library.blocks(), stop.clone());
    let before = accounting::Snapshot::take(Some(&cluster));
    let (outcome, turns) = std::thread::scope(|scope| {
        let taker = scope.spawn(|| {
            let turns = take_in_turns(&control, shape.snapshots);
            stop.store(true, Ordering::Relaxed);
            turns
        });
        let outcome = library.run(job);
        // Should the load have failed, the snapshots end too.
        stop.store(true, Ordering::Relaxed);
        let turns =
            taker.join().unwrap_or_else(|_| Err(BenchError::Wrong("the thread of snapshots panicked".to_owned())));
        (outcome, turns)
    });
    let (outcome, turns) = (outcome?, turns?);
    let usage = before.until(&accounting::Snapshot::take(Some(&cluster)), 0.0);
    measure::read_back(&mut library)?;
    let alone = alone(&control, shape.snapshots)?;
    library.detach()?;
    cluster.down()?;
    let others = usage.others_cores + usage.steal_cores;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let walls: Vec<f64> = turns.iter().map(|turn| ms(turn.wall)).collect();
    let with: Vec<f64> = turns.iter().map(|turn| ms(slowest(&outcome.slow, turn.with))).collect();
    let without: Vec<f64> = turns.iter().map(|turn| ms(slowest(&outcome.slow, turn.without))).collect();
    let alone: Vec<f64> = alone.into_iter().map(ms).collect();
    let rows: [(&str, &[f64]); 4] = [
        ("snapshot", &walls),
        ("snapshot while nobody writes", &alone),
        ("slowest write, with one", &with),
        ("slowest write, without", &without),
    ];
    print!("{}", table(&rows));
    let stall_worst = Figure::new(Subject::SnapshotStallWorst, worst(&with), others);
    let figures = vec![
        Figure::new(Subject::SnapshotWall, median(&walls), others),
        Figure::new(Subject::SnapshotWallWorst, worst(&walls), others),
        Figure::new(Subject::SnapshotStall, median(&with), others),
        // A span without a snapshot that is as slow says that the snapshot is not what was slow.
        if worst(&without) >= worst(&with) { stall_worst.not_judged_if_missed() } else { stall_worst },
    ];
    let details = json!({
        "writes": outcome.writes, "writes_per_s": outcome.writes as f64 / outcome.elapsed.as_secs_f64(),
        "wall_ms": walls, "wall_alone_ms": alone, "slowest_write_with_ms": with, "slowest_write_without_ms": without,
        "others_cores": others, "volume_mib": shape.volume_bytes / MIB,
    });
    Ok(Found { figures, details })
}

fn job(blocks: u64, stop: Arc<AtomicBool>) -> Job {
    Job {
        write_percent: 100,
        request_bytes: BLOCK_BYTES,
        depth: DEPTH,
        rate: None,
        random: true,
        verify: true,
        blocks: 0..blocks,
        until: Until::Told(stop),
        slow: SLOW,
        seed: 7,
    }
}

/// A span without, then one with a snapshot, which is as long.
fn take_in_turns(control: &Control, count: usize) -> Result<Vec<Turn>, BenchError> {
    let mut turns = Vec::with_capacity(count);
    for nth in 0..count {
        std::thread::sleep(CALM);
        let quiet = Instant::now();
        std::thread::sleep(AFTER + CALM);
        let from = Instant::now();
        let wall = control.snapshot("written", &format!("s{nth}"))?;
        std::thread::sleep(AFTER);
        let with = Span { from, to: from + wall + AFTER };
        let without = Span { from: quiet, to: quiet + (wall + AFTER).min(AFTER + CALM) };
        turns.push(Turn { wall, with, without });
    }
    std::thread::sleep(CALM);
    Ok(turns)
}

/// Beside those under load they say what of it is waiting for a turn.
fn alone(control: &Control, count: usize) -> Result<Vec<Duration>, BenchError> {
    let take = |nth: usize| {
        std::thread::sleep(CALM);
        control.snapshot("written", &format!("alone{nth}"))
    };
    (0..count).map(take).collect()
}

/// A write is of a span if it was under way at any moment of it. Eight are under way at any time, so nobody waits longer between two completions than the
/// slowest of them took.
fn slowest(slow: &[Slow], span: Span) -> Duration {
    let touches = |slow: &&Slow| slow.sent < span.to && slow.sent + slow.took > span.from;
    slow.iter().filter(touches).map(|slow| slow.took).max().unwrap_or(SLOW)
}

fn table(rows: &[(&str, &[f64])]) -> String {
    let mut cells = vec![["ms", "", "median", "worst", "times"].map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(|(what, values)| {
        let numbers = [median(values), worst(values)].map(|value| format!("{value:.1}"));
        [vec![(*what).to_owned(), String::new()], numbers.to_vec(), vec![values.len().to_string()]].concat()
    }));
    render(&cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_counts_in_each_span_that_it_touches() {
        let begin = Instant::now();
        let ms = Duration::from_millis;
        let span = |from: u64, to: u64| Span { from: begin + ms(from), to: begin + ms(to) };
        let slow = [Slow { sent: begin + ms(10), took: ms(20) }, Slow { sent: begin + ms(28), took: ms(5) }];
        assert_eq!(slowest(&slow, span(0, 10)), SLOW);
        assert_eq!(slowest(&slow, span(0, 11)), ms(20));
        assert_eq!(slowest(&slow, span(29, 40)), ms(20));
        assert_eq!(slowest(&slow, span(30, 40)), ms(5));
        assert_eq!(slowest(&slow, span(33, 40)), SLOW);
    }
}
