//! Things that are measured in turns and compared turn by turn: what disturbs a machine for longer than a turn disturbs both.
//! T1: each round begins with another one, so that none always follows the same.

use crate::error::BenchError;
use crate::figures::{Figure, Subject};
use crate::noise::median;
use crate::report::render;
use serde::Serialize;

/// A chance beyond which the true value doesn't lie outside of an interval.
const CHANCE_MAX: f64 = 0.05;

/// Measures each of `count` things once in each round; by thing, in the order of the rounds.
pub fn take(
    rounds: usize,
    count: usize,
    mut once: impl FnMut(usize, usize) -> Result<f64, BenchError>,
) -> Result<Vec<Vec<f64>>, BenchError> {
    let mut runs = vec![Vec::with_capacity(rounds); count];
    for round in 0..rounds {
        for place in 0..count {
            let thing = (round + place) % count;
            runs[thing].push(once(round, thing)?);
        }
    }
    Ok(runs)
}

/// A thing beside what it is compared with.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    what: String,
    /// Medians.
    base: f64,
    measured: f64,
    /// The median of the rounds' ratios, and between what the median of endless rounds lies.
    pub ratio: f64,
    pub low: f64,
    pub high: f64,
    rounds: usize,
}

impl Compared {
    /// `base` and `measured` by round.
    pub fn of(what: impl Into<String>, base: &[f64], measured: &[f64]) -> Compared {
        let mut ratios: Vec<f64> = base.iter().zip(measured).map(|(base, measured)| measured / base).collect();
        ratios.sort_by(f64::total_cmp);
        let (low, high) = interval(&ratios);
        Compared {
            what: what.into(),
            base: median(base),
            measured: median(measured),
            ratio: median(&ratios),
            low,
            high,
            rounds: ratios.len(),
        }
    }

    /// Times 100, where the figure is in percent.
    pub fn figure(&self, subject: Subject, scale: f64, others_cores: f64) -> Figure {
        Figure::new(subject, self.ratio * scale, others_cores).between(self.low * scale, self.high * scale)
    }
}

pub fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}

/// Between which of these the median of what they are drawn from lies, whatever the distribution: as many are left out at both ends as it
/// would have on one side with a chance of at most [`CHANCE_MAX`]. Of few, all.
fn interval(sorted: &[f64]) -> (f64, f64) {
    let count = sorted.len();
    if count == 0 {
        return (f64::NAN, f64::NAN);
    }
    // Of the binomial distribution: that of `count` draws at most `outside` lie below the median.
    let mut chance = 0.5f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut below = chance;
    let mut outside = 0;
    while outside + 1 < count / 2 {
        chance *= (count - outside) as f64 / (outside + 1) as f64;
        below += chance;
        if 2.0 * below > CHANCE_MAX {
            break;
        }
        outside += 1;
    }
    (sorted[outside], sorted[count - 1 - outside])
}

pub fn table(unit: &str, rows: &[Compared]) -> String {
    let (base, measured) = (format!("without, {unit}"), format!("with, {unit}"));
    let header = ["", "", &base, &measured, "ratio", "at least", "at most", "rounds"];
    let mut cells = vec![header.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(|row| {
        let numbers = [row.base, row.measured].map(|value| format!("{value:.1}"));
        let ratios = [row.ratio, row.low, row.high].map(|value| format!("{value:.3}"));
        let mut line = vec![row.what.clone(), String::new()];
        line.extend(numbers.into_iter().chain(ratios).chain([row.rounds.to_string()]));
        line
    }));
    render(&cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Judgement;

    fn ascending(count: u32) -> Vec<f64> {
        (1..=count).map(f64::from).collect()
    }

    #[test]
    fn every_round_has_all_and_begins_with_another() {
        let mut order = Vec::new();
        let runs = take(3, 2, |round, thing| {
            order.push(thing);
            Ok((10 * round + thing) as f64)
        });
        assert_eq!(runs.expect("nothing fails"), [[0.0, 10.0, 20.0], [1.0, 11.0, 21.0]]);
        assert_eq!(order, [0, 1, 1, 0, 0, 1]);
    }

    #[test]
    fn the_interval_of_the_median_is_that_of_the_tables() {
        // As in tables of the sign test: the order statistics are 1, 2, 2, 5 and 10 from the ends.
        for (count, outside) in [(6, 0), (9, 1), (10, 1), (17, 4), (30, 9)] {
            let (low, high) = interval(&ascending(count));
            assert_eq!((low, high), (f64::from(outside + 1), f64::from(count - outside)), "{count}");
        }
    }

    #[test]
    fn few_rounds_tell_no_more_than_their_extremes() {
        assert_eq!(interval(&ascending(3)), (1.0, 3.0));
        assert!(interval(&[]).0.is_nan());
    }

    #[test]
    fn rounds_are_compared_one_by_one() {
        // The machine is half as fast in every other round, and the ratio the same.
        let base: Vec<f64> = (0..10).map(|round| if round % 2 == 0 { 10.0 } else { 20.0 }).collect();
        let measured: Vec<f64> = base.iter().map(|value| value * 1.02).collect();
        let compared = Compared::of("deep", &base, &measured);
        assert!((compared.ratio - 1.02).abs() < 1e-9 && compared.high - compared.low < 1e-9, "{compared:?}");
        assert_eq!(compared.figure(Subject::ReadDepth1, 1.0, 1.5).judgement, Judgement::Goal);
    }

    #[test]
    fn rounds_that_differ_too_much_judge_nothing() {
        let measured = [9.0, 12.0, 9.5, 11.0, 10.0, 12.5, 8.0, 11.5];
        let compared = Compared::of("deep", &[10.0; 8], &measured);
        assert_eq!(compared.figure(Subject::ReadDepth1, 1.0, 0.0).judgement, Judgement::NotJudged);
    }
}
