//! Histogram: how often which value came, in buckets whose width grows with the value. Of fixed size, so that it can be kept for each kind
//! of thing that is measured and left on: adding is an index and three words.
//! H1: a bucket is at most a sixteenth of its smallest value wide, so a quantile differs from the value that it stands for by a
//! thirty-second part at most (not in the last bucket, which holds whatever is larger as well). H2: of the largest value and the sum nothing is rounded.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Each power of two is divided into `1 << SUB_BITS` buckets; below that every value has its own.
const SUB_BITS: u32 = 4;
const SUB: usize = 1 << SUB_BITS;
/// Values of more bits share the last bucket: as microseconds, those above two minutes.
const VALUE_BITS: u32 = 27;
const BUCKETS: usize = (VALUE_BITS - SUB_BITS + 1) as usize * SUB;

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Sparse", into = "Sparse")]
pub struct Histogram {
    sum: u64,
    max: u64,
    buckets: [u64; BUCKETS],
}

/// Only the buckets that hold something, with their numbers.
#[derive(Serialize, Deserialize)]
struct Sparse {
    sum: u64,
    max: u64,
    buckets: Vec<(u16, u64)>,
}

impl From<Histogram> for Sparse {
    fn from(histogram: Histogram) -> Sparse {
        Sparse { sum: histogram.sum, max: histogram.max, buckets: histogram.buckets().collect() }
    }
}

impl From<Sparse> for Histogram {
    fn from(sparse: Sparse) -> Histogram {
        Histogram::from_buckets(sparse.sum, sparse.max, sparse.buckets)
    }
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { sum: 0, max: 0, buckets: [0; BUCKETS] }
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Histogram(count {}, sum {}, max {})", self.count(), self.sum, self.max)
    }
}

fn bucket_of(value: u64) -> usize {
    if value < SUB as u64 {
        return value as usize;
    }
    let bits = u64::BITS - value.leading_zeros();
    if bits > VALUE_BITS {
        return BUCKETS - 1;
    }
    let shift = bits - 1 - SUB_BITS;
    (shift as usize) * SUB + (value >> shift) as usize
}

/// The smallest value of a bucket, and how many values it has.
fn values_of(bucket: usize) -> (u64, u64) {
    if bucket < SUB {
        return (bucket as u64, 1);
    }
    let shift = bucket / SUB - 1;
    (((bucket % SUB + SUB) as u64) << shift, 1 << shift)
}

impl Histogram {
    pub fn add(&mut self, value: u64) {
        self.sum = self.sum.saturating_add(value);
        self.max = self.max.max(value);
        let bucket = &mut self.buckets[bucket_of(value)];
        *bucket = bucket.wrapping_add(1);
    }

    /// What [`Histogram::buckets`] gave, perhaps of a peer: numbers that are not of this version are taken for the last bucket's.
    pub fn from_buckets(sum: u64, max: u64, buckets: impl IntoIterator<Item = (u16, u64)>) -> Histogram {
        let mut histogram = Histogram { sum, max, ..Histogram::default() };
        for (number, count) in buckets {
            let bucket = &mut histogram.buckets[usize::from(number).min(BUCKETS - 1)];
            *bucket = bucket.saturating_add(count);
        }
        histogram
    }

    /// Those that hold something, in the order of their values.
    pub fn buckets(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        (0..).zip(self.buckets).filter(|(_, count)| *count > 0)
    }

    pub fn merge(&mut self, other: &Histogram) {
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
        for (bucket, count) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket = bucket.saturating_add(count);
        }
    }

    /// What was added after `earlier`, an older state of this histogram. How large the largest of it was is known as well as its bucket.
    #[must_use]
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let mut later = Histogram { sum: self.sum.saturating_sub(earlier.sum), max: 0, buckets: self.buckets };
        for (bucket, count) in later.buckets.iter_mut().zip(earlier.buckets) {
            *bucket = bucket.saturating_sub(count);
        }
        if let Some(last) = later.buckets.iter().rposition(|count| *count > 0) {
            let (first, count) = values_of(last);
            later.max = if last == BUCKETS - 1 { self.max } else { self.max.min(first + count - 1) };
        }
        later
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum: u64, count| sum.saturating_add(*count))
    }

    pub fn sum(&self) -> u64 {
        self.sum
    }

    pub fn max(&self) -> u64 {
        self.max
    }

    /// Zero of nothing.
    pub fn mean(&self) -> f64 {
        match self.count() {
            0 => 0.0,
            count => self.sum as f64 / count as f64,
        }
    }

    /// The value that so many thousandths of all do not exceed (H1). Zero of nothing.
    pub fn quantile(&self, thousandths: u32) -> u64 {
        let rank = (u128::from(self.count()) * u128::from(thousandths)).div_ceil(1000).max(1);
        let mut seen = 0u128;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                let (first, count) = values_of(bucket);
                return if bucket == BUCKETS - 1 { self.max } else { (first + count / 2).min(self.max) };
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|value| histogram.add(*value));
        histogram
    }

    /// Small ones, and of every power of two, some of them beyond the last bucket.
    fn values() -> impl Strategy<Value = Vec<u64>> {
        let value =
            (0u32..34, any::<u32>()).prop_map(|(bits, low)| u64::from(low) & ((1 << bits) - 1) | (1 << bits) >> 1);
        proptest::collection::vec(value, 1..200)
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        let mut next = 0;
        for bucket in 0..BUCKETS {
            let (first, count) = values_of(bucket);
            assert_eq!(first, next);
            assert_eq!((bucket_of(first), bucket_of(first + count - 1)), (bucket, bucket));
            assert!(count == 1 || count * SUB as u64 <= first, "H1");
            next = first + count;
        }
        assert_eq!(next, 1 << VALUE_BITS);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn an_empty_one_says_zero() {
        let empty = Histogram::default();
        assert_eq!((empty.count(), empty.max(), empty.quantile(500)), (0, 0, 0));
        assert_eq!(empty.mean(), 0.0);
        assert_eq!(empty.since(&empty), empty);
    }

    #[test]
    fn values_that_do_not_fit_are_counted_and_the_largest_is_kept() {
        let histogram = of(&[u64::MAX, u64::MAX, 3]);
        assert_eq!((histogram.count(), histogram.quantile(999), histogram.sum()), (3, u64::MAX, u64::MAX));
    }

    #[test]
    fn buckets_of_another_version_are_taken_for_the_last() {
        let histogram = Histogram::from_buckets(9, 8, [(3, 1), (u16::MAX, u64::MAX), (u16::MAX, 1)]);
        assert_eq!((histogram.count(), histogram.quantile(999)), (u64::MAX, 8));
    }

    proptest! {
        #[test]
        fn quantiles_are_right_to_a_thirty_second(mut values in values(), thousandths in 0u32..=1000) {
            let histogram = of(&values);
            values.sort_unstable();
            let rank = (values.len() * thousandths as usize).div_ceil(1000).max(1);
            let exact = values[rank - 1];
            let found = histogram.quantile(thousandths);
            if exact < values_of(BUCKETS - 1).0 {
                prop_assert!(found.abs_diff(exact) * 32 <= exact, "{found} for {exact}");
            }
            prop_assert!(found <= histogram.max());
            prop_assert_eq!(histogram.max(), *values.last().expect("at least one"));
            prop_assert_eq!(histogram.sum(), values.iter().sum::<u64>());
            prop_assert_eq!(histogram.count(), values.len() as u64);
        }

        #[test]
        fn parts_merged_are_the_whole_and_the_difference_is_the_rest(first in values(), second in values()) {
            let whole = of(&[first.clone(), second.clone()].concat());
            let mut merged = of(&first);
            merged.merge(&of(&second));
            prop_assert_eq!(&merged, &whole);
            let (rest, exact) = (whole.since(&of(&first)), of(&second));
            prop_assert_eq!((rest.count(), rest.sum()), (exact.count(), exact.sum()));
            prop_assert!(rest.buckets().eq(exact.buckets()));
            prop_assert!(rest.max() >= exact.max() && rest.max() <= whole.max());
        }

        #[test]
        fn the_sparse_form_comes_back_the_same(values in values()) {
            let histogram = of(&values);
            prop_assert_eq!(Histogram::from(Sparse::from(histogram.clone())), histogram);
        }
    }
}
