//! Presence maps: which blocks of a chunk the own layers of a base have, whatever the base stands on itself. With them what a deep chain of clones has
//! is read where it lies, at once, and not by asking one after the other. Who asks for maps and keeps them: shell/base.rs.
//!
//! X1: only absence is believed. What a map calls there is asked of the base in the ordinary way, which is right for what is not there too; so a map
//! may call there what it doesn't know.
//! X2: a map is of one stack revision of its base (docs/decisions/026-stacks-are-named-by-clients.md): its PG told it in answer to a question with that
//! stack. It counts as long as the base's session knows no newer one.
//! X3: two things can end an absence in frozen layers. A merge moves entries between layers of one stack, and the stack as a whole has what it had. A
//! flatten fills what is absent with what is read there anyway (docs/decisions/034-jobs.md). So what lies below is right for an absent block, also when
//! the absence is over, for as long as it can be read.
//! X4: what cannot be read there any more ([`ashlar_types::BlockError::Fenced`], B3 in base.rs) was let go of after all was filled, and the map is older
//! than that: it is forgotten, and the base itself is asked in the ordinary way, once; what that gives counts.
//! X5: what is absent and has nothing below it is zeroes: beyond the end of what the base stands on (B2 in base.rs), and in a base that stands on nothing
//! by the stack that the map is of; a clone is given such a stack only when all is filled.
//! X6: a block in which what the base stands on ends is asked of the base, whose core puts it together.
//! X7: for a chunk of which a map is missing when it is read, maps of at most [`AHEAD_MAX`] chunks beside it are asked for, of the first one in its
//! neighbourhood one. So there are at most four times as many maps as chunks that were read, and twice as many where reads lie far apart.

use ashlar_types::{BLOCK_BYTES, BLOCKS_PER_CHUNK, LayerExtent, StackRevision};
use std::collections::VecDeque;

const BLOCK: u64 = BLOCK_BYTES as u64;
const IN_CHUNK: u64 = BLOCKS_PER_CHUNK as u64;
const WORDS: usize = BLOCKS_PER_CHUNK as usize / 64;

/// Which stack of a base a map is of (X2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StackState {
    pub(crate) revision: StackRevision,
    /// With this stack the disk stands on something.
    pub(crate) has_base: bool,
}

impl StackState {
    /// As one number, so that both are read at one moment.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.revision.0) << 1 | u64::from(self.has_base)
    }

    pub(crate) fn from_bits(bits: u64) -> StackState {
        let revision = u32::try_from(bits >> 1).expect("made of a revision");
        StackState { revision: StackRevision(revision), has_base: bits & 1 == 1 }
    }
}

/// The blocks of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    All,
    Nothing,
    Some(Box<[u64; WORDS]>),
}

impl Presence {
    /// By what the base told of a chunk from its beginning. What it didn't tell of is there (X1).
    pub(crate) fn told(extents: &[LayerExtent]) -> Presence {
        let mut words = Box::new([u64::MAX; WORDS]);
        let mut start = 0;
        for extent in extents {
            let end = start + extent.len;
            if extent.layer.is_none() {
                // Whole blocks: what is known of a part of one tells nothing of the rest.
                for block in start.div_ceil(BLOCK)..(end / BLOCK).min(IN_CHUNK) {
                    words[(block / 64) as usize] &= !(1 << (block % 64));
                }
            }
            start = end;
        }
        if words.iter().all(|word| *word == 0) {
            Presence::Nothing
        } else if words.iter().all(|word| *word == u64::MAX) {
            Presence::All
        } else {
            Presence::Some(words)
        }
    }

    /// `block` counts from the beginning of the chunk.
    fn has(&self, block: u64) -> bool {
        match self {
            Presence::All => true,
            Presence::Nothing => false,
            Presence::Some(words) => words[(block / 64) as usize] >> (block % 64) & 1 == 1,
        }
    }

    /// What it takes in memory beside itself.
    pub(crate) fn heap_bytes(&self) -> u64 {
        match self {
            Presence::All | Presence::Nothing => 0,
            Presence::Some(words) => size_of_val(&**words) as u64,
        }
    }
}

/// A disk of a chain: a base, what it stands on, and so on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level<'a> {
    /// Of the chunk in question; `None`: not known.
    pub(crate) presence: Option<&'a Presence>,
    /// Bytes of what it stands on, if it stands on something.
    pub(crate) below: Option<u64>,
}

/// Where a block of the first disk of a chain is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the disk so many levels below the first, in the ordinary way.
    Level(usize),
    Zeroes,
}

/// `block` counts from the beginning of the disk. `levels` are as many as are known; none is passed over without the one below it.
pub(crate) fn place(levels: &[Level<'_>], block: u64) -> Place {
    let mut depth = 0;
    while let Some(level) = levels.get(depth) {
        if level.presence.is_none_or(|presence| presence.has(block % IN_CHUNK)) {
            break;
        }
        match level.below {
            Some(size) if (block + 1) * BLOCK <= size && depth + 1 < levels.len() => depth += 1,
            // X6.
            Some(size) if block * BLOCK < size => break,
            // X5.
            Some(_) | None => return Place::Zeroes,
        }
    }
    Place::Level(depth)
}

/// Maps that are asked for ahead with each one that is missing, at most.
const AHEAD_MAX: u64 = 3;
/// Chunks of a neighbourhood: 256 MiB.
const NEIGHBOURS: u64 = 64;
/// Neighbourhoods that are remembered.
const NEIGHBOURHOODS_MAX: usize = 16;

/// Which maps are asked for before they are missing (X7).
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// By the number of the neighbourhood, chunks of which a map was missing; the newest last.
    missed: VecDeque<(u64, u64)>,
}

impl Ahead {
    /// A map is missing: of how many chunks more to ask for it, and the others of the neighbourhood, the nearest behind it first.
    pub(crate) fn on_missing(&mut self, chunk: u64) -> (u64, impl Iterator<Item = u64> + use<>) {
        let neighbourhood = chunk / NEIGHBOURS;
        let known = self.missed.iter().position(|(of, _)| *of == neighbourhood).and_then(|at| self.missed.remove(at));
        let missed = known.map_or(1, |(_, missed)| missed + 1);
        self.missed.push_back((neighbourhood, missed));
        if self.missed.len() > NEIGHBOURHOODS_MAX {
            self.missed.pop_front();
        }
        let others = (1..NEIGHBOURS).map(move |step| neighbourhood * NEIGHBOURS + (chunk + step) % NEIGHBOURS);
        (missed.min(AHEAD_MAX), others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::{LayerId, LayerPlace};

    #[test]
    fn the_more_maps_were_missing_in_a_neighbourhood_the_more_are_asked_for_ahead() {
        let mut ahead = Ahead::default();
        let counts: Vec<u64> = [5, 9, 70, 30, 31].into_iter().map(|chunk| ahead.on_missing(chunk).0).collect();
        assert_eq!(counts, [1, 2, 1, 3, 3]);
        for neighbourhood in 2..2 + NEIGHBOURHOODS_MAX as u64 {
            assert_eq!(ahead.on_missing(neighbourhood * NEIGHBOURS).0, 1);
        }
        assert_eq!(ahead.on_missing(5).0, 1, "it is forgotten");
        assert_eq!(ahead.missed.len(), NEIGHBOURHOODS_MAX);
    }

    #[test]
    fn the_others_of_a_neighbourhood_are_all_but_the_chunk_itself() {
        let (_, others) = Ahead::default().on_missing(126);
        let mut others: Vec<u64> = others.collect();
        assert_eq!(others[..3], [127, 64, 65]);
        others.sort_unstable();
        assert_eq!(others, (64..128).filter(|chunk| *chunk != 126).collect::<Vec<u64>>());
    }

    fn extent(blocks: u64, is_there: bool) -> LayerExtent {
        let layer = is_there.then_some(LayerPlace { id: LayerId(3), depth: 0 });
        LayerExtent { len: blocks * BLOCK, layer, has_data: is_there }
    }

    /// Of a disk that stands on one of 3 chunks.
    fn level(presence: &Presence) -> Level<'_> {
        Level { presence: Some(presence), below: Some(3 * IN_CHUNK * BLOCK) }
    }

    #[test]
    fn a_map_is_what_was_told_and_what_was_not_told_is_there() {
        let presence = Presence::told(&[extent(70, true), extent(2, false), extent(28, true), extent(3, false)]);
        let absent: Vec<u64> = (0..IN_CHUNK).filter(|block| !presence.has(*block)).collect();
        assert_eq!(absent, [70, 71, 100, 101, 102]);
        assert_eq!(Presence::told(&[]), Presence::All);
        assert_eq!(Presence::told(&[extent(IN_CHUNK, false)]), Presence::Nothing);
        assert_eq!(Presence::told(&[extent(2 * IN_CHUNK, false)]), Presence::Nothing, "more than a chunk has");
    }

    #[test]
    fn a_zero_that_a_layer_holds_is_there() {
        let zero = LayerExtent { has_data: false, ..extent(1, true) };
        assert!(Presence::told(&[zero, extent(1023, false)]).has(0), "it hides what lies below");
    }

    #[test]
    fn a_block_of_which_only_a_part_is_absent_is_there() {
        let half = LayerExtent { len: BLOCK / 2, ..extent(1, false) };
        assert!(Presence::told(&[extent(4, true), half]).has(4));
    }

    #[test]
    fn a_block_is_read_at_the_first_level_that_has_it_or_may_have_it() {
        let (odd, nothing) = (Presence::told(&[extent(1, false), extent(1, true)]), Presence::Nothing);
        let levels = [level(&nothing), level(&odd), level(&nothing), level(&Presence::All)];
        assert_eq!((place(&levels, 0), place(&levels, 1)), (Place::Level(3), Place::Level(1)));
        let unknown = Level { presence: None, ..levels[0] };
        assert_eq!(place(&[levels[0], levels[2], unknown, levels[3]], 0), Place::Level(2), "it may have it");
        assert_eq!(place(&[unknown], 0), Place::Level(0));
    }

    #[test]
    fn what_no_level_has_is_zeroes() {
        let nothing = Presence::Nothing;
        let bottom = Level { below: None, ..level(&nothing) };
        assert_eq!(place(&[level(&nothing), bottom], 7), Place::Zeroes);
        assert_eq!(place(&[bottom], 7), Place::Zeroes);
    }

    #[test]
    fn beyond_the_end_of_what_a_level_stands_on_are_zeroes_whatever_lies_deeper() {
        let nothing = Presence::Nothing;
        let short = Level { below: Some(2 * BLOCK), ..level(&nothing) };
        let levels = [short, level(&nothing), level(&Presence::All)];
        assert_eq!((place(&levels, 1), place(&levels, 2)), (Place::Level(2), Place::Zeroes));
    }

    #[test]
    fn a_block_in_which_the_disk_below_ends_is_asked_above_it() {
        let nothing = Presence::Nothing;
        let within = Level { below: Some(2 * BLOCK + 512), ..level(&nothing) };
        let levels = [level(&nothing), within, level(&Presence::All)];
        assert_eq!((place(&levels, 1), place(&levels, 2)), (Place::Level(2), Place::Level(1)));
        assert_eq!(place(&levels, 3), Place::Zeroes);
    }

    #[test]
    fn a_stack_state_is_one_number_and_back() {
        for has_base in [false, true] {
            for revision in [1, u32::MAX] {
                let state = StackState { revision: StackRevision(revision), has_base };
                assert_eq!(StackState::from_bits(state.to_bits()), state);
            }
        }
    }
}
