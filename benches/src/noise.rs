//! Repeated measurements: what they come to, and how far the same thing differs from itself.

use serde::Serialize;

/// The same thing measured several times, between measurements of others.
#[derive(Clone, Debug, Serialize)]
pub struct Repeated {
    pub median: f64,
    /// From the least to the most, in percent of the median.
    pub spread_percent: f64,
    runs: Vec<f64>,
}

impl Repeated {
    pub fn of(runs: Vec<f64>) -> Repeated {
        let mut sorted = runs.clone();
        sorted.sort_by(f64::total_cmp);
        let median = median_of_sorted(&sorted);
        let spread = sorted.last().zip(sorted.first()).map_or(f64::NAN, |(most, least)| most - least);
        Repeated { median, spread_percent: spread / median * 100.0, runs }
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    median_of_sorted(&sorted)
}

fn median_of_sorted(sorted: &[f64]) -> f64 {
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (count, middle) if count % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        (_, middle) => sorted[middle],
    }
}

/// How far a figure falls where it should not, beside what may be noise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fall {
    /// From the best of the smaller ones; negative where it only rises.
    pub percent: f64,
    /// The larger of the two spreads.
    pub noise_percent: f64,
}

/// Of all falls from the best so far, the one that goes furthest beyond its noise.
pub fn worst_fall(levels: &[Repeated]) -> Option<Fall> {
    let mut best = levels.first()?;
    let mut worst: Option<Fall> = None;
    for level in &levels[1..] {
        let percent = (1.0 - level.median / best.median) * 100.0;
        let fall = Fall { percent, noise_percent: level.spread_percent.max(best.spread_percent) };
        let beyond = |fall: &Fall| fall.percent - fall.noise_percent;
        if worst.is_none_or(|worst| beyond(&fall) > beyond(&worst)) {
            worst = Some(fall);
        }
        if level.median > best.median {
            best = level;
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(runs: &[[f64; 3]]) -> Vec<Repeated> {
        runs.iter().map(|runs| Repeated::of(runs.to_vec())).collect()
    }

    #[test]
    fn the_median_and_the_spread_are_of_all_runs() {
        let odd = Repeated::of(vec![12.0, 8.0, 10.0]);
        assert!((odd.median - 10.0).abs() < 1e-9 && (odd.spread_percent - 40.0).abs() < 1e-9);
        assert!((Repeated::of(vec![4.0, 1.0, 2.0, 3.0]).median - 2.5).abs() < 1e-9);
        assert!(Repeated::of(Vec::new()).median.is_nan());
    }

    #[test]
    fn what_rises_does_not_fall() {
        let fall = worst_fall(&levels(&[[9.0, 10.0, 11.0], [19.0, 20.0, 21.0]])).expect("two levels");
        assert!(fall.percent < 0.0);
        assert_eq!(worst_fall(&[]), None);
    }

    #[test]
    fn a_slow_decline_is_compared_with_the_best() {
        let fall = worst_fall(&levels(&[[100.0; 3], [110.0; 3], [108.0; 3], [99.0; 3]])).expect("four levels");
        assert!((fall.percent - 10.0).abs() < 1e-9 && fall.noise_percent == 0.0, "{fall:?}");
    }

    #[test]
    fn a_fall_counts_beside_the_noise_of_its_own_levels() {
        // The second falls by 20 with a noise of 30, the third by 10 without any.
        let fall = worst_fall(&levels(&[[100.0; 3], [68.0, 80.0, 92.0], [90.0; 3]])).expect("three levels");
        assert!((fall.percent - 10.0).abs() < 1e-9, "{fall:?}");
    }
}
