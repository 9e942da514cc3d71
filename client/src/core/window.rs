//! The numbered parts of requests that have no answer yet (R10). Numbers rise by one; `lowest` is the lowest unanswered
//! number, or the next one to be given. Both the count of unanswered parts and the span of their numbers are bounded: an
//! OSD keeps the id of each write from `lowest` on, so one part that is stuck must not let the others run away.

use super::request::Part;
use ashlar_types::OpNumber;
use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct Window {
    lowest: u64,
    /// By number from `lowest`; `None` is answered. The first, if any, is unanswered.
    parts: VecDeque<Option<Part>>,
    unanswered: usize,
    unanswered_max: usize,
    span_max: usize,
}

impl Window {
    pub(super) fn new(first: u64, unanswered_max: usize, span_max: usize) -> Window {
        assert!(first >= 1, "op numbers begin at 1");
        Window { lowest: first, parts: VecDeque::new(), unanswered: 0, unanswered_max, span_max }
    }

    pub(super) fn has_room(&self) -> bool {
        self.unanswered < self.unanswered_max && self.parts.len() < self.span_max
    }

    /// Gives the part the next number.
    pub(super) fn admit(&mut self, part: Part) -> OpNumber {
        assert!(self.has_room(), "R10: the number of unanswered requests is bounded");
        let number = self.next();
        self.parts.push_back(Some(part));
        self.unanswered += 1;
        number
    }

    pub(super) fn lowest(&self) -> OpNumber {
        OpNumber(self.lowest)
    }

    /// The number that the next part gets.
    pub(super) fn next(&self) -> OpNumber {
        OpNumber(self.lowest + self.parts.len() as u64)
    }

    pub(super) fn unanswered(&self) -> usize {
        self.unanswered
    }

    fn index(&self, number: OpNumber) -> Option<usize> {
        usize::try_from(number.0.checked_sub(self.lowest)?).ok()
    }

    /// The part, if it has no answer yet.
    pub(super) fn get(&self, number: OpNumber) -> Option<&Part> {
        self.parts.get(self.index(number)?)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: OpNumber) -> Option<&mut Part> {
        let index = self.index(number)?;
        self.parts.get_mut(index)?.as_mut()
    }

    /// Takes out a part that has its answer: its number is never sent again.
    pub(super) fn settle(&mut self, number: OpNumber) -> Option<Part> {
        let index = self.index(number)?;
        let part = self.parts.get_mut(index)?.take()?;
        self.unanswered -= 1;
        while let Some(None) = self.parts.front() {
            self.parts.pop_front();
            self.lowest += 1;
        }
        Some(part)
    }

    /// Unanswered parts, lowest number first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (OpNumber, &Part)> {
        let numbers = self.lowest..;
        numbers.zip(&self.parts).filter_map(|(number, part)| Some((OpNumber(number), part.as_ref()?)))
    }

    pub(super) fn assert_invariants(&self) {
        assert!(self.unanswered <= self.unanswered_max, "R10: the number of unanswered requests is bounded");
        assert!(self.parts.front().is_none_or(Option::is_some), "R10: the lowest unanswered number is unanswered");
        debug_assert_eq!(self.parts.iter().flatten().count(), self.unanswered);
    }
}
