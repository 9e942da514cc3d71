//! A set of ids kept as ranges: small where ids are given out in order and end in any order, as those of volumes and layers.
//! I1: ranges neither overlap nor touch, so a set has one form, and one with n gaps takes n + 1 ranges whatever it holds.

use crate::{LayerId, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// An id that is a number.
pub trait Numbered: Copy {
    fn number(self) -> u64;
    fn of(number: u64) -> Self;
}

impl Numbered for VolumeId {
    fn number(self) -> u64 {
        self.0
    }
    fn of(number: u64) -> VolumeId {
        VolumeId(number)
    }
}

impl Numbered for LayerId {
    fn number(self) -> u64 {
        self.0
    }
    fn of(number: u64) -> LayerId {
        LayerId(number)
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdSet<T> {
    /// First to last, both inside.
    ranges: BTreeMap<u64, u64>,
    #[serde(skip)]
    of: PhantomData<T>,
}

impl<T> Default for IdSet<T> {
    fn default() -> IdSet<T> {
        IdSet { ranges: BTreeMap::new(), of: PhantomData }
    }
}

impl<T: Numbered> IdSet<T> {
    pub fn range(first: T, last: T) -> IdSet<T> {
        let mut set = IdSet::default();
        set.insert(first, last);
        set
    }

    /// Adds all ids from `first` to `last`; none if `last` comes before `first`.
    pub fn insert(&mut self, first: T, last: T) {
        let (mut first, mut last) = (first.number(), last.number());
        if first > last {
            return;
        }
        // The last range that begins at or before the id behind the new one may reach it, and so may those before that.
        while let Some((from, to)) = self.ranges.range(..=last.saturating_add(1)).next_back().map(|(f, t)| (*f, *t)) {
            if to.saturating_add(1) < first {
                break;
            }
            self.ranges.remove(&from);
            (first, last) = (first.min(from), last.max(to));
        }
        self.ranges.insert(first, last);
    }

    pub fn contains(&self, id: T) -> bool {
        self.covers(id, id)
    }

    fn covers(&self, first: T, last: T) -> bool {
        let before = self.ranges.range(..=first.number()).next_back();
        before.is_some_and(|(_, to)| *to >= last.number())
    }

    pub fn extend(&mut self, other: &IdSet<T>) {
        other.ranges().for_each(|(first, last)| self.insert(first, last));
    }

    /// Those ranges of this set that `known` does not have whole.
    pub fn beyond(&self, known: &IdSet<T>) -> IdSet<T> {
        let fresh = self.ranges().filter(|(first, last)| !known.covers(*first, *last));
        IdSet { ranges: fresh.map(|(first, last)| (first.number(), last.number())).collect(), of: PhantomData }
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// In order.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = (T, T)> + '_ {
        self.ranges.iter().map(|(first, last)| (T::of(*first), T::of(*last)))
    }

    /// The set with exactly these ranges; `None` if they contradict I1.
    pub fn from_ranges(ranges: impl IntoIterator<Item = (T, T)>) -> Option<IdSet<T>> {
        let mut set = IdSet::default();
        let mut behind: Option<u64> = None;
        for (first, last) in ranges {
            let (first, last) = (first.number(), last.number());
            if first > last || behind.is_some_and(|end| end.checked_add(1).is_none_or(|next| first <= next)) {
                return None;
            }
            behind = Some(last);
            set.ranges.insert(first, last);
        }
        Some(set)
    }
}

impl<T: Numbered + fmt::Debug> fmt::Debug for IdSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.ranges().map(|(first, last)| first..=last)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn set(ranges: &[(u64, u64)]) -> IdSet<LayerId> {
        IdSet::from_ranges(ranges.iter().map(|(f, l)| (LayerId(*f), LayerId(*l)))).expect("ranges in order")
    }

    #[test]
    fn ranges_that_touch_or_overlap_become_one() {
        let mut ids = set(&[(1, 3), (5, 5), (9, 12)]);
        ids.insert(LayerId(4), LayerId(4));
        assert_eq!(ids, set(&[(1, 5), (9, 12)]));
        ids.insert(LayerId(2), LayerId(30));
        assert_eq!(ids, set(&[(1, 30)]));
        ids.insert(LayerId(7), LayerId(6));
        ids.insert(LayerId(u64::MAX), LayerId(u64::MAX));
        assert_eq!(ids, set(&[(1, 30), (u64::MAX, u64::MAX)]));
        ids.insert(LayerId(0), LayerId(u64::MAX));
        assert_eq!(ids, set(&[(0, u64::MAX)]));
    }

    #[test]
    fn ranges_out_of_order_are_refused() {
        for bad in [&[(2, 1)][..], &[(1, 2), (3, 4)], &[(5, 6), (1, 2)], &[(1, 4), (2, 9)], &[(0, u64::MAX), (1, 1)]] {
            assert_eq!(IdSet::from_ranges(bad.iter().map(|(f, l)| (LayerId(*f), LayerId(*l)))), None, "{bad:?}");
        }
    }

    #[test]
    fn a_set_holds_what_was_put_in() {
        let mut x = 5u64;
        let mut below = move |n: u64| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 33) % n
        };
        for _ in 0..200 {
            let (mut ids, mut model) = (IdSet::default(), BTreeSet::new());
            for _ in 0..30 {
                let first = below(100);
                let last = first + below(4);
                let before = ids.clone();
                let added = IdSet::range(LayerId(first), LayerId(last));
                ids.extend(&added);
                assert_eq!(added.beyond(&before).is_empty(), before == ids, "beyond is empty where nothing is new");
                model.extend(first..=last);
                assert!((0..110).all(|id| ids.contains(LayerId(id)) == model.contains(&id)));
                assert_eq!(IdSet::from_ranges(ids.ranges()), Some(ids.clone()), "I1");
            }
        }
    }
}
