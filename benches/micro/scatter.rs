//! Which blocks come one after the other where a workload is random: always the same ones.

/// The place of the nth of `count` things, in strides of about the golden section: neighbours in time are far from each other, and hardly one
/// comes again before all others came.
pub fn scattered(nth: u64, count: u64) -> u64 {
    let spread = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((u128::from(spread) * u128::from(count)) >> u64::BITS) as u64
}

#[cfg(test)]
mod tests {
    use super::scattered;
    use std::collections::BTreeSet;

    #[test]
    fn thirty_two_in_a_row_are_different_and_together_they_reach_everything() {
        let places: Vec<u64> = (0..20_000).map(|nth| scattered(nth, 4096)).collect();
        assert!(places.windows(32).all(|row| row.iter().collect::<BTreeSet<_>>().len() == 32));
        assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), 4096);
    }
}
