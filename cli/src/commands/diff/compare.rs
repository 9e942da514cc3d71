//! What differs, from which layer has each part of either side. C1: a part differs if the layer it comes from is not one of the other side's: what
//! both have in common lies in the layers that they share, and those never change.

use ashlar_client::DiskState;
use ashlar_types::{LayerExtent, LayerId};
use std::collections::{BTreeSet, VecDeque};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Data,
    /// It reads as zeroes.
    Zero,
}

/// A part that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    pub offset: u64,
    pub len: u64,
    pub kind: ChangeKind,
}

/// The layers of both sides.
#[derive(Debug)]
pub struct Sides {
    from: BTreeSet<LayerId>,
    to: BTreeSet<LayerId>,
    are_branches: bool,
    /// Up to here, what is in none of the layers of `to` comes from what its volume stands on.
    base_end: u64,
}

impl Sides {
    pub fn new(from: &[LayerId], to: &DiskState) -> Sides {
        let (base_end, to) = (to.base.map_or(0, |base| base.size), to.layers.iter().copied().collect());
        Sides::of(from, to, base_end)
    }

    fn of(from: &[LayerId], to: BTreeSet<LayerId>, base_end: u64) -> Sides {
        let are_branches = from.first().is_some_and(|top| !to.contains(top));
        Sides { from: from.iter().copied().collect(), to, are_branches, base_end }
    }

    /// Whether `from` has layers that `to` doesn't stand on: it is newer, or of another branch.
    pub fn are_branches(&self) -> bool {
        self.are_branches
    }

    fn differs(&self, from: Option<&LayerExtent>, to: &LayerExtent) -> bool {
        let is_of = |layers: &BTreeSet<LayerId>, extent: &LayerExtent| {
            extent.layer.is_none_or(|layer| layers.contains(&layer.id))
        };
        !is_of(&self.from, to) || from.is_some_and(|from| !is_of(&self.to, from))
    }

    fn kind(&self, offset: u64, to: &LayerExtent) -> ChangeKind {
        let may_be_of_base = to.layer.is_none() && offset < self.base_end;
        if to.has_data || may_be_of_base { ChangeKind::Data } else { ChangeKind::Zero }
    }
}

/// Goes through both sides, however they are cut.
#[derive(Debug)]
pub struct Comparison<'a> {
    sides: &'a Sides,
    at: u64,
    from: VecDeque<LayerExtent>,
    from_has_more: bool,
    to: VecDeque<LayerExtent>,
    /// Not given out yet: it may go on.
    open: Option<Changed>,
}

impl<'a> Comparison<'a> {
    pub fn new(sides: &'a Sides) -> Comparison<'a> {
        let (from, to) = (VecDeque::new(), VecDeque::new());
        Comparison { sides, at: 0, from, from_has_more: true, to, open: None }
    }

    /// Bytes that are compared.
    pub fn at(&self) -> u64 {
        self.at
    }

    pub fn add_from(&mut self, extents: Vec<LayerExtent>) {
        self.from.extend(extents);
    }

    pub fn add_to(&mut self, extents: Vec<LayerExtent>) {
        self.to.extend(extents);
    }

    /// What `to` has beyond is compared with nothing.
    pub fn end_of_from(&mut self) {
        self.from_has_more = false;
    }

    /// The next part that differs, as far as both sides are known; neighbours of one kind are one part.
    pub fn next_changed(&mut self) -> Option<Changed> {
        loop {
            let to = *self.to.front()?;
            let from = self.from.front().copied();
            if from.is_none() && self.from_has_more {
                return None;
            }
            let mut len = from.map_or(to.len, |from| from.len.min(to.len));
            if to.layer.is_none() && self.at < self.sides.base_end {
                len = len.min(self.sides.base_end - self.at);
            }
            let changed = self.sides.differs(from.as_ref(), &to).then(|| {
                let kind = self.sides.kind(self.at, &to);
                Changed { offset: self.at, len, kind }
            });
            take(&mut self.to, len);
            take(&mut self.from, len);
            self.at += len;
            let Some(changed) = changed else { continue };
            match &mut self.open {
                Some(open) if open.kind == changed.kind && open.offset + open.len == changed.offset => open.len += len,
                open => {
                    if let Some(done) = open.replace(changed) {
                        return Some(done);
                    }
                }
            }
        }
    }

    pub fn last(self) -> Option<Changed> {
        self.open
    }
}

fn take(extents: &mut VecDeque<LayerExtent>, len: u64) {
    let Some(first) = extents.front_mut() else { return };
    first.len -= len;
    if first.len == 0 {
        extents.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::LayerPlace;

    fn extent(len: u64, layer: u64, has_data: bool) -> LayerExtent {
        let layer = (layer > 0).then_some(LayerPlace { id: LayerId(layer), depth: 0 });
        LayerExtent { len, layer, has_data }
    }

    fn sides(from: &[u64], to: &[u64], base_end: u64) -> Sides {
        let from: Vec<LayerId> = from.iter().copied().map(LayerId).collect();
        Sides::of(&from, to.iter().copied().map(LayerId).collect(), base_end)
    }

    fn compare(sides: &Sides, from: &[LayerExtent], to: &[LayerExtent]) -> Vec<(u64, u64, ChangeKind)> {
        let mut comparison = Comparison::new(sides);
        let mut changed = Vec::new();
        if from.is_empty() {
            comparison.end_of_from();
        }
        for extent in to {
            comparison.add_to(vec![*extent]);
            changed.extend(std::iter::from_fn(|| comparison.next_changed()));
        }
        from.iter().for_each(|extent| comparison.add_from(vec![*extent]));
        comparison.end_of_from();
        changed.extend(std::iter::from_fn(|| comparison.next_changed()));
        changed.extend(comparison.last());
        changed.into_iter().map(|c| (c.offset, c.len, c.kind)).collect()
    }

    #[test]
    fn what_lies_above_the_older_one_has_changed() {
        let sides = sides(&[2, 1], &[5, 4, 2, 1], 0);
        assert!(!sides.are_branches());
        let to = [extent(8, 1, true), extent(4, 4, true), extent(4, 5, true), extent(4, 5, false), extent(9, 0, false)];
        assert_eq!(compare(&sides, &[], &to), [(8, 8, ChangeKind::Data), (16, 4, ChangeKind::Zero)]);
    }

    #[test]
    fn on_branches_what_either_side_has_above_the_fork_has_changed() {
        let sides = sides(&[3, 1], &[4, 1], 0);
        assert!(sides.are_branches());
        let from = [extent(8, 3, true), extent(8, 1, true), extent(8, 3, false), extent(4, 3, true)];
        let to = [extent(4, 1, true), extent(8, 0, false), extent(8, 1, false), extent(20, 4, true)];
        let expected =
            [(0, 4, ChangeKind::Data), (4, 4, ChangeKind::Zero), (16, 4, ChangeKind::Zero), (20, 20, ChangeKind::Data)];
        assert_eq!(compare(&sides, &from, &to), expected);
    }

    #[test]
    fn what_no_layer_of_a_clone_has_may_be_data_of_its_origin() {
        let sides = sides(&[3, 1], &[1], 6);
        let from = [extent(10, 3, true)];
        assert_eq!(
            compare(&sides, &from, &[extent(10, 0, false)]),
            [(0, 6, ChangeKind::Data), (6, 4, ChangeKind::Zero)]
        );
    }
}
