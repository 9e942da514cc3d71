//! What this project wants to reach, figure by figure, and what was measured beside it.
//! F1: what the clock says is judged only where the rest of the machine was quiet; processor time and counts are always, and so are ratios of
//! what was measured in turns.

use crate::report::render;
use serde::Serialize;

/// Processors that others may keep busy while the clock is believed.
pub const OTHERS_CORES_MAX: f64 = 0.1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    CpuWrite,
    CpuRead,
    IopsWrite,
    IopsRead,
    WallWrite,
    WallRead,
    SpeedWrite,
    SpeedRead,
    DeviceBytesQd1,
    DeviceBytesQd32,
    DeviceBytes1M,
    DeviceBytesStore,
    FlushesQd1,
    MemoryOsd,
    MemoryGateway,
    Idle,
    NbdAddedWrite,
    NbdAddedRead,
    NbdIopsRead,
    ScalingClients,
    ScalingVolumes,
    ManyVolumesWrite,
    ManyVolumesRead,
    FullWrite,
    FullRead,
    SnapshotWall,
    SnapshotWallWorst,
    SnapshotStall,
    SnapshotStallWorst,
    CloneOne,
    CloneHundreds,
    CloneThousand,
    CloneFirstWrite,
    ReadDepth1,
    ReadDepth16,
    ReadDepth256,
    ReadWritten1,
    ReadWritten16,
    ReadWritten256,
    ReadClones1Cold,
    ReadClones16Cold,
    ReadClones1Warm,
    ReadClones16Warm,
    MergeBytes,
    SharedParentBytes,
    ManyLayersWrite,
    ManyLayersRead,
    EagerSpeed,
    EagerClient,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Better {
    Less,
    More,
}

/// Whether other work on the machine changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Clock,
    /// A time so far above what is expected that other work only matters where it is missed.
    Slowed,
    /// Counts, and what was measured in turns with what it is compared with: others disturb both.
    Count,
}

use Better::{Less, More};
use By::{Clock, Count, Slowed};

#[derive(Clone, Copy, Debug)]
struct Target {
    what: &'static str,
    unit: &'static str,
    better: Better,
    by: By,
    goal: f64,
    /// What is asked for at least, where that is less than the goal.
    least: Option<f64>,
}

impl Subject {
    fn target(self) -> Target {
        let target = |what, unit, better, by, goal, least| Target { what, unit, better, by, goal, least };
        let at_most = |what, unit, by, goal| Target { what, unit, better: Less, by, goal, least: None };
        match self {
            Subject::CpuWrite => target("cpu per 4k write QD32", "us", Less, Count, 40.0, Some(55.0)),
            Subject::CpuRead => target("cpu per 4k read QD32", "us", Less, Count, 15.0, Some(20.0)),
            Subject::IopsWrite => target("4k write QD32", "IOPS", More, Clock, 48_000.0, Some(34_000.0)),
            Subject::IopsRead => target("4k read QD32", "IOPS", More, Clock, 130_000.0, Some(95_000.0)),
            Subject::WallWrite => target("4k write QD1, wall", "us", Less, Clock, 70.0, Some(100.0)),
            Subject::WallRead => target("4k read QD1, wall", "us", Less, Clock, 33.0, Some(42.0)),
            Subject::SpeedWrite => target("1M write QD8", "MB/s", More, Clock, 850.0, Some(650.0)),
            Subject::SpeedRead => target("1M read QD8", "MB/s", More, Clock, 2300.0, Some(2050.0)),
            Subject::DeviceBytesQd1 => {
                target("device bytes per byte and copy: 4k QD1", "x", Less, Count, 2.1, Some(2.2))
            }
            Subject::DeviceBytesQd32 => {
                target("device bytes per byte and copy: 4k QD32", "x", Less, Count, 1.15, Some(1.4))
            }
            Subject::DeviceBytes1M => target("device bytes per byte and copy: 1M", "x", Less, Count, 1.02, Some(1.05)),
            Subject::DeviceBytesStore => {
                target("device bytes per byte: store, simulated disk", "x", Less, Count, 1.6, Some(2.0))
            }
            Subject::FlushesQd1 => target("flushes per QD1 write and copy", "", Less, Count, 1.0, None),
            Subject::MemoryOsd => target("memory of an OSD, at most", "MiB", Less, Count, 100.0, Some(120.0)),
            Subject::MemoryGateway => target("memory of the gateway, at most", "MiB", Less, Count, 60.0, None),
            Subject::Idle => target("idle, whole cluster", "cores", Less, Count, 0.01, None),
            Subject::NbdAddedWrite => target("NBD: added wall, 4k write QD1", "us", Less, Clock, 20.0, Some(30.0)),
            Subject::NbdAddedRead => target("NBD: added wall, 4k read QD1", "us", Less, Clock, 20.0, Some(30.0)),
            Subject::NbdIopsRead => target("NBD: 4k read QD32", "IOPS", More, Clock, 65_000.0, Some(50_000.0)),
            // Their bar is the noise of the run: `Figure::with_bar`.
            Subject::ScalingClients => target("scaling with clients, largest fall", "%", Less, Clock, 0.0, None),
            Subject::ScalingVolumes => target("scaling with volumes, largest fall", "%", Less, Clock, 0.0, None),
            Subject::ManyVolumesWrite => {
                target("many volumes: cpu per 4k write, more by", "%", Less, Count, 10.0, None)
            }
            Subject::ManyVolumesRead => target("many volumes: cpu per 4k read, more by", "%", Less, Count, 10.0, None),
            Subject::FullWrite => target("full, overwritten: cpu per 4k write, more by", "%", Less, Count, 10.0, None),
            Subject::FullRead => target("full, overwritten: cpu per 4k read, more by", "%", Less, Count, 10.0, None),
            Subject::SnapshotWall => at_most("snapshot of a written volume, median", "ms", Slowed, 10.0),
            Subject::SnapshotWallWorst => at_most("snapshot of a written volume, worst", "ms", Slowed, 10.0),
            Subject::SnapshotStall => at_most("slowest write around a snapshot, median", "ms", Slowed, 20.0),
            Subject::SnapshotStallWorst => at_most("slowest write around a snapshot, worst", "ms", Slowed, 20.0),
            Subject::CloneOne => at_most("one clone, median", "ms", Slowed, 5.0),
            Subject::CloneHundreds => at_most("200 clones, worst", "s", Slowed, 1.0),
            Subject::CloneThousand => at_most("1,000 clones, worst", "s", Slowed, 5.0),
            Subject::CloneFirstWrite => at_most("first 4k write on a fresh clone / on a volume", "x", Count, 2.0),
            Subject::ReadDepth1 => at_most("4k read QD1 under 1 snapshot / none", "x", Count, 1.05),
            Subject::ReadDepth16 => at_most("4k read QD1 under 16 snapshots / none", "x", Count, 1.1),
            Subject::ReadDepth256 => at_most("4k read QD1 under 256 snapshots / none", "x", Count, 1.1),
            Subject::ReadWritten1 => at_most("the same, 1 written layer / none", "x", Count, 1.05),
            Subject::ReadWritten16 => at_most("the same, 16 written layers / none", "x", Count, 1.1),
            Subject::ReadWritten256 => at_most("the same, 256 written layers / none", "x", Count, 1.1),
            Subject::ReadClones1Cold => at_most("4k read QD1 through 1 clone, cold / no clone", "x", Count, 1.3),
            Subject::ReadClones16Cold => at_most("4k read QD1 through 16 clones, cold / no clone", "x", Count, 2.0),
            Subject::ReadClones1Warm => at_most("4k read QD1 through 1 clone, warm / no clone", "x", Count, 1.05),
            Subject::ReadClones16Warm => at_most("4k read QD1 through 16 clones, warm / no clone", "x", Count, 1.1),
            Subject::MergeBytes => at_most("disk bytes of deleting a snapshot / its data", "%", Count, 1.0),
            Subject::SharedParentBytes => at_most("bytes read for 100 clones / their parent's", "x", Count, 1.05),
            Subject::ManyLayersWrite => at_most("many layers: cpu per 4k write, more by", "%", Count, 10.0),
            Subject::ManyLayersRead => at_most("many layers: cpu per 4k read, more by", "%", Count, 10.0),
            Subject::EagerClient => at_most("client's p99 beside eager-zeroing / without", "x", Count, 1.5),
            Subject::EagerSpeed => {
                Target { better: More, ..at_most("speed of eager-zeroing / of 1M write QD8", "%", Count, 70.0) }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    Goal,
    Least,
    Missed,
    /// Others were busy (F1), or the run was too noisy.
    NotJudged,
}

/// One measured figure beside what is wanted.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub subject: Subject,
    what: &'static str,
    unit: &'static str,
    better: Better,
    measured: f64,
    goal: f64,
    least: Option<f64>,
    pub judgement: Judgement,
    /// The same of the raw device in this run, and the measured one divided by it.
    raw: Option<f64>,
    of_raw: Option<f64>,
    /// The same of Ceph in this run.
    ceph: Option<f64>,
    others_cores: f64,
}

impl Figure {
    pub fn new(subject: Subject, measured: f64, others_cores: f64) -> Figure {
        Figure::judge(subject, subject.target(), measured, others_cores)
    }

    /// With a bar that the run has found itself.
    pub fn with_bar(subject: Subject, measured: f64, bar: f64, others_cores: f64) -> Figure {
        Figure::judge(subject, Target { goal: bar, least: None, ..subject.target() }, measured, others_cores)
    }

    fn judge(subject: Subject, target: Target, measured: f64, others_cores: f64) -> Figure {
        let Target { what, unit, better, by, goal, least } = target;
        // A comparison with what is not a number is false, so what could not be measured is missed.
        let reaches = |bar: f64| if better == Less { measured <= bar } else { measured >= bar };
        let judgement = match by {
            Clock if others_cores > OTHERS_CORES_MAX => Judgement::NotJudged,
            _ if reaches(goal) => Judgement::Goal,
            _ if least.is_some_and(reaches) => Judgement::Least,
            Slowed if others_cores > OTHERS_CORES_MAX => Judgement::NotJudged,
            _ => Judgement::Missed,
        };
        let (raw, of_raw, ceph) = (None, None, None);
        Figure { subject, what, unit, better, measured, goal, least, judgement, raw, of_raw, ceph, others_cores }
    }

    /// The run itself was too noisy.
    pub fn not_judged(self) -> Figure {
        Figure { judgement: Judgement::NotJudged, ..self }
    }

    /// The run tells only that the true value lies somewhere here: if the goal does too, it says nothing.
    pub fn between(self, low: f64, high: f64) -> Figure {
        if low <= self.goal && self.goal < high { self.not_judged() } else { self }
    }

    /// What it was compared with is as bad.
    pub fn not_judged_if_missed(self) -> Figure {
        if self.judgement == Judgement::Missed { self.not_judged() } else { self }
    }

    pub fn beside_raw(self, raw: Option<f64>) -> Figure {
        let raw = raw.filter(|raw| *raw > 0.0);
        Figure { raw, of_raw: raw.map(|raw| self.measured / raw), ..self }
    }

    pub fn beside_ceph(self, ceph: Option<f64>) -> Figure {
        Figure { ceph, ..self }
    }

    pub fn is_measured(&self) -> bool {
        self.measured.is_finite()
    }

    /// For a message.
    pub fn name(&self) -> &str {
        self.what
    }
}

const HEADER: [&str; 10] =
    ["figure", "judged", "measured", "unit", "goal", "at least", "raw", "of raw", "Ceph", "others"];

/// One line for each figure.
pub fn table(figures: &[Figure]) -> String {
    let mut cells = vec![HEADER.map(str::to_owned).to_vec()];
    cells.extend(figures.iter().map(cells_of));
    render(&cells)
}

fn cells_of(figure: &Figure) -> Vec<String> {
    let judged = match figure.judgement {
        Judgement::Goal => "goal",
        Judgement::Least => "at least",
        Judgement::Missed => "MISSED",
        Judgement::NotJudged => "not judged",
    };
    let sign = if figure.better == Less { "<=" } else { ">=" };
    let bar = |value: f64| format!("{sign} {}", number(value));
    let optional = |value: Option<f64>| value.map_or("-".to_owned(), number);
    vec![
        figure.what.to_owned(),
        judged.to_owned(),
        number(figure.measured),
        figure.unit.to_owned(),
        bar(figure.goal),
        figure.least.map_or("-".to_owned(), bar),
        optional(figure.raw),
        optional(figure.of_raw),
        optional(figure.ceph),
        format!("{:.2}", figure.others_cores),
    ]
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judgement(subject: Subject, measured: f64, others: f64) -> Judgement {
        Figure::new(subject, measured, others).judgement
    }

    #[test]
    fn goal_least_and_missed_are_told_apart_both_ways() {
        assert_eq!(judgement(Subject::CpuWrite, 40.0, 0.0), Judgement::Goal);
        assert_eq!(judgement(Subject::CpuWrite, 40.1, 0.0), Judgement::Least);
        assert_eq!(judgement(Subject::CpuWrite, 55.1, 0.0), Judgement::Missed);
        assert_eq!(judgement(Subject::IopsRead, 130_000.0, 0.0), Judgement::Goal);
        assert_eq!(judgement(Subject::IopsRead, 95_000.0, 0.0), Judgement::Least);
        assert_eq!(judgement(Subject::IopsRead, 94_999.0, 0.0), Judgement::Missed);
        assert_eq!(judgement(Subject::Idle, 0.011, 0.0), Judgement::Missed, "there is no least");
    }

    #[test]
    fn what_others_disturb_is_judged_only_where_it_is_counted() {
        assert_eq!(judgement(Subject::WallWrite, 10.0, 0.11), Judgement::NotJudged);
        assert_eq!(judgement(Subject::WallWrite, 10.0, 0.1), Judgement::Goal);
        assert_eq!(judgement(Subject::CpuRead, 10.0, 1.5), Judgement::Goal);
        assert_eq!(judgement(Subject::DeviceBytesQd1, 2.3, 1.5), Judgement::Missed);
    }

    #[test]
    fn what_others_can_only_slow_down_may_be_reached_beside_them() {
        assert_eq!(judgement(Subject::SnapshotWall, 9.0, 1.5), Judgement::Goal);
        assert_eq!(judgement(Subject::SnapshotWall, 11.0, 1.5), Judgement::NotJudged);
        assert_eq!(judgement(Subject::SnapshotWall, 11.0, 0.0), Judgement::Missed);
    }

    #[test]
    fn a_goal_between_what_may_be_is_not_judged() {
        let judged = |low, high| Figure::new(Subject::ReadDepth1, 1.04, 0.0).between(low, high).judgement;
        assert_eq!(judged(1.0, 1.05), Judgement::Goal);
        assert_eq!(judged(1.0, 1.06), Judgement::NotJudged);
        let missed = Figure::new(Subject::EagerSpeed, 60.0, 0.0).between(55.0, 69.0);
        assert_eq!(missed.judgement, Judgement::Missed);
    }

    #[test]
    fn what_was_not_measured_is_missed() {
        assert_eq!(judgement(Subject::CpuRead, f64::NAN, 0.0), Judgement::Missed);
        assert_eq!(judgement(Subject::IopsRead, f64::NAN, 0.0), Judgement::Missed);
    }

    #[test]
    fn the_table_has_the_bars_the_raw_device_and_ceph() {
        let figure = Figure::new(Subject::WallRead, 40.0, 0.02).beside_raw(Some(20.0)).beside_ceph(Some(157.0));
        let scaling = Figure::with_bar(Subject::ScalingClients, 3.0, 4.5, 0.0);
        let text = table(&[figure, scaling]);
        let words: Vec<&str> = text.lines().nth(1).expect("two lines").split_whitespace().collect();
        let line = ["4k", "read", "QD1,", "wall", "at", "least", "40.0", "us", "<=", "33.0", "<=", "42.0", "20.0"];
        assert_eq!(words, [&line[..], &["2.00", "157", "0.02"]].concat());
        assert!(text.lines().nth(2).is_some_and(|line| line.contains("goal") && line.contains("<= 4.50")), "{text}");
    }
}
