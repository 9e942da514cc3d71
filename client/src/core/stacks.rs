//! The stacks of layers that a session knows (design.md §7): the newest one, with which everything is sent that was not sent before, and older
//! ones while a part that went out with one of them has no answer. K1: a number is sent with one revision only, so that a refusal says which one
//! is too old, however late it comes; and a write that is sent anew, under another number, is not there by the older one: the PG said so.

use ashlar_types::{LayerId, StackRevision};
use ashlar_wire::STACKS_KEPT;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Debug)]
pub(super) struct Stacks {
    /// Never empty. Layers top first, at least one.
    known: BTreeMap<StackRevision, Vec<LayerId>>,
    /// There is one of at least this revision.
    wanted: Option<StackRevision>,
}

impl Stacks {
    /// # Panics
    /// Without a layer.
    pub(super) fn new(revision: StackRevision, layers: Vec<LayerId>) -> Stacks {
        assert!(!layers.is_empty(), "a volume has a layer");
        Stacks { known: BTreeMap::from([(revision, layers)]), wanted: None }
    }

    pub(super) fn newest(&self) -> StackRevision {
        *self.known.last_key_value().expect("there is always one").0
    }

    /// # Panics
    /// For a revision that is neither the newest nor held by anything ([`Stacks::forget_but`]).
    pub(super) fn layers(&self, revision: StackRevision) -> &[LayerId] {
        self.known.get(&revision).expect("K1: what is under way holds its stack")
    }

    pub(super) fn top(&self, revision: StackRevision) -> LayerId {
        self.layers(revision)[0]
    }

    /// There is one of at least this revision; whether that is news.
    pub(super) fn want(&mut self, revision: StackRevision) -> bool {
        let is_news = revision > self.newest() && self.wanted.is_none_or(|wanted| revision > wanted);
        if is_news {
            self.wanted = Some(revision);
        }
        is_news
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// Takes over a newer one; an older one is late.
    pub(super) fn learn(&mut self, revision: StackRevision, layers: Vec<LayerId>) -> bool {
        if revision <= self.newest() || layers.is_empty() {
            return false;
        }
        self.known.insert(revision, layers);
        self.wanted = self.wanted.filter(|wanted| *wanted > revision);
        true
    }

    /// Keeps the newest and these.
    pub(super) fn forget_but(&mut self, held: &BTreeSet<StackRevision>) {
        let newest = self.newest();
        self.known.retain(|revision, _| *revision == newest || held.contains(revision));
    }
}

/// The stacks that one connection was told, as its OSD keeps them: the last few, in the order of telling.
#[derive(Debug, Default)]
pub(super) struct Told {
    revisions: VecDeque<StackRevision>,
}

impl Told {
    /// Whether it has to be told before a request names it.
    pub(super) fn is_news(&mut self, revision: StackRevision) -> bool {
        if self.revisions.contains(&revision) {
            return false;
        }
        if self.revisions.len() == STACKS_KEPT {
            self.revisions.pop_front();
        }
        self.revisions.push_back(revision);
        true
    }

    /// A new connection knows none.
    pub(super) fn clear(&mut self) {
        self.revisions.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: StackRevision = StackRevision::FIRST;

    fn layers(top: u64) -> Vec<LayerId> {
        (1..=top).rev().map(LayerId).collect()
    }

    #[test]
    fn a_newer_stack_is_the_newest_and_an_older_one_is_late() {
        let mut stacks = Stacks::new(FIRST, layers(1));
        assert!(stacks.learn(StackRevision(3), layers(3)));
        assert!(!stacks.learn(StackRevision(2), layers(2)) && !stacks.learn(StackRevision(4), vec![]));
        assert_eq!((stacks.newest(), stacks.top(StackRevision(3))), (StackRevision(3), LayerId(3)));
    }

    #[test]
    fn an_older_stack_stays_while_it_is_held() {
        let mut stacks = Stacks::new(FIRST, layers(1));
        stacks.learn(StackRevision(2), layers(2));
        stacks.forget_but(&BTreeSet::from([FIRST]));
        assert_eq!(stacks.top(FIRST), LayerId(1));
        stacks.forget_but(&BTreeSet::new());
        assert_eq!(stacks.known.len(), 1);
    }

    #[test]
    fn one_is_wanted_until_it_has_come() {
        let mut stacks = Stacks::new(FIRST, layers(1));
        assert!(!stacks.want(FIRST) && !stacks.is_wanted());
        assert!(stacks.want(StackRevision(3)) && !stacks.want(StackRevision(2)));
        stacks.learn(StackRevision(2), layers(2));
        assert!(stacks.is_wanted());
        stacks.learn(StackRevision(3), layers(3));
        assert!(!stacks.is_wanted());
    }

    #[test]
    fn a_connection_is_told_again_what_its_osd_has_forgotten() {
        let mut told = Told::default();
        assert!(told.is_news(FIRST) && !told.is_news(FIRST));
        assert!((2..=5).all(|revision| told.is_news(StackRevision(revision))));
        assert!(told.is_news(FIRST), "the OSD keeps four");
        told.clear();
        assert!(told.is_news(FIRST));
    }
}
