//! What a linked clone reads where none of its layers was ever written: the same place of its base (design.md §6), which is another disk to this
//! core. It asks its shell for it, and goes on with the part when it has come.
//! B1: a base never changes, so what it has may be fetched after the clone's own answer; what counts is the moment of that one.
//! B2: beyond the end of its base a clone reads as zeroes.
//! B3: a base that is gone ([`BlockError::Fenced`]) was needed no more when it went: the clone was flattened, and its PGs refuse who doesn't know
//! that. So the clone's own PG is asked again, once.
//! B4: where the clone is expected to have nothing (hint.rs), the base is asked at the same time as the clone's PG: a guess. By B1 it may be. What it gives
//! counts only for what that PG then calls unwritten; what the PG has itself wins, whichever came first. A guess that fails says nothing: the base is
//! asked again when it is needed, so that B3 is about an answer that was asked for after the clone's own.
//! B5: a guess ends with its part, so there are at most as many as parts under way, of [`GUESS_BYTES_MAX`] each.

use super::ClientAction;
use super::data::{join_extents, zeroes};
use super::hint::Hints;
use super::layers::{below, in_no_layer, join_layers};
use super::request::{Part, PartOutput, Wanted};
use ashlar_types::control::BaseLayer;
use ashlar_types::{BLOCK_BYTES, BlockError, BlockOp, BlockReply, CHUNK_BYTES, Extent, OpNumber};
use ashlar_wire::IoKind;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;

/// A longer part waits for the clone's own answer: of much data the way is the smaller share, and what is fetched in vain the larger.
const GUESS_BYTES_MAX: u32 = 128 << 10;

/// A stretch of what a part reads.
#[derive(Debug)]
pub(super) enum Stretch {
    Own(PartOutput),
    /// Unwritten: so many bytes from there in the chunk.
    Base {
        offset: u32,
        len: u32,
    },
}

/// A part that is complete.
#[derive(Debug)]
pub(super) enum Fetched {
    /// One that reads.
    Read(Part, Result<PartOutput, BlockError>),
    /// What the base has in the blocks that a write covers partly, whole and in order.
    Write(OpNumber, Result<Vec<Bytes>, BlockError>),
}

#[derive(Debug)]
enum Asker {
    Read(Part),
    Write(OpNumber),
}

/// A part that waits for answers of the base.
#[derive(Debug)]
struct Waiting {
    asker: Asker,
    /// In order; `None` where the answer is missing.
    outputs: Vec<Option<PartOutput>>,
    error: Option<BlockError>,
}

/// A question to the base.
#[derive(Debug)]
struct Question {
    /// Of the part that waits.
    waiting: u64,
    place: usize,
    /// Bytes asked for, and those that belong to the answer beyond the end of the base (B2).
    inside: u32,
    beyond: u32,
}

/// What the base was asked for together with the clone (B4).
#[derive(Debug)]
struct Guess {
    chunk: u64,
    offset: u32,
    len: u32,
    /// Bytes beyond the end of the base (B2).
    beyond: u32,
    state: GuessState,
}

#[derive(Debug)]
enum GuessState {
    /// Neither the clone nor the base has answered.
    Asked,
    /// All of it.
    Fetched(Vec<Bytes>),
    Failed,
    /// The clone needs it: the stretches of the part that waits, by place, first byte in the chunk and length.
    Needed {
        waiting: u64,
        stretches: Vec<(usize, u32, u32)>,
    },
}

#[derive(Debug)]
pub(super) struct Base {
    layer: Option<BaseLayer>,
    next_key: u64,
    waiting: BTreeMap<u64, Waiting>,
    questions: BTreeMap<u64, Question>,
    guesses: BTreeMap<u64, Guess>,
    hints: Hints,
}

impl Base {
    pub(super) fn new(layer: Option<BaseLayer>) -> Base {
        let (waiting, questions, guesses) = Default::default();
        Base { layer, next_key: 0, waiting, questions, guesses, hints: Hints::default() }
    }

    /// Nobody waits any more; answers that still come are for nobody.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.questions.clear();
        self.guesses.clear();
        self.hints.clear();
    }

    fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    /// A part is about to be sent: asks the base too, if the clone is expected to have nothing there (B4).
    pub(super) fn guess(&mut self, part: &mut Part, actions: &mut Vec<ClientAction>) {
        let may_guess = part.kind == IoKind::Read && part.guess.is_none() && !part.lost_base;
        if !may_guess || part.len > GUESS_BYTES_MAX || !self.hints.expects_nothing(part.chunk) {
            return;
        }
        let (chunk, offset, len) = (u64::from(part.chunk.0), part.offset, part.len);
        let (at, inside) = self.inside(chunk, offset, len);
        if inside == 0 {
            return;
        }
        let key = self.key();
        self.guesses.insert(key, Guess { chunk, offset, len, beyond: len - inside, state: GuessState::Asked });
        part.guess = Some(key);
        actions.push(ClientAction::ReadBase { key, op: BlockOp::Read { offset: at, len: inside } });
    }

    /// A part has its answer from the clone alone.
    pub(super) fn on_own(&mut self, part: &mut Part, is_done: bool) {
        if self.layer.is_none() || part.kind != IoKind::Read {
            return;
        }
        let guess = part.guess.take().and_then(|key| self.guesses.remove(&key));
        if is_done {
            self.hints.learn(part.chunk, false, guess.is_some());
        }
    }

    /// Completes a part that reads: now, or when the base has answered.
    pub(super) fn complete(
        &mut self,
        mut part: Part,
        stretches: Vec<Stretch>,
        actions: &mut Vec<ClientAction>,
    ) -> Option<Fetched> {
        let (key, chunk, wanted) = (self.key(), u64::from(part.chunk.0), part.wanted());
        let guess = part.guess.take().and_then(|guess| self.guesses.remove_entry(&guess));
        if part.kind == IoKind::Read {
            self.hints.learn(part.chunk, true, guess.is_some());
        }
        let mut outputs = Vec::with_capacity(stretches.len());
        let mut needed = Vec::new();
        for (place, stretch) in stretches.into_iter().enumerate() {
            let (offset, len) = match stretch {
                Stretch::Own(output) => {
                    outputs.push(Some(output));
                    continue;
                }
                Stretch::Base { offset, len } => (offset, len),
            };
            outputs.push(match guess.as_ref().map(|(_, guess)| (guess.offset, &guess.state)) {
                Some((start, GuessState::Fetched(pieces))) => {
                    Some(PartOutput::Data(slice(pieces, offset - start, len)))
                }
                Some((_, GuessState::Asked)) => {
                    needed.push((place, offset, len));
                    None
                }
                _ => self.ask((key, place), wanted, (chunk, offset, len), actions),
            });
        }
        if let Some((guess_key, guess)) = guess
            && !needed.is_empty()
        {
            let state = GuessState::Needed { waiting: key, stretches: needed };
            self.guesses.insert(guess_key, Guess { state, ..guess });
        }
        self.wait(key, Waiting { asker: Asker::Read(part), outputs, error: None })
    }

    /// Gets the blocks that a write covers only partly.
    pub(super) fn fetch(&mut self, number: OpNumber, part: &Part, actions: &mut Vec<ClientAction>) -> Option<Fetched> {
        let (key, chunk) = (self.key(), u64::from(part.chunk.0));
        let mut outputs = Vec::new();
        for block in partly_covered(part.offset, part.len) {
            let place = outputs.len();
            outputs.push(self.ask((key, place), Wanted::Data, (chunk, block, BLOCK_BYTES), actions));
        }
        self.wait(key, Waiting { asker: Asker::Write(number), outputs, error: None })
    }

    /// Where that begins in the base, and how many bytes of it the base has (B2).
    fn inside(&self, chunk: u64, offset: u32, len: u32) -> (u64, u32) {
        let size = self.layer.map_or(0, |layer| layer.size);
        let at = chunk * u64::from(CHUNK_BYTES) + u64::from(offset);
        (at, u32::try_from(size.saturating_sub(at)).unwrap_or(u32::MAX).min(len))
    }

    /// What the base has there, if that is known without asking.
    fn ask(
        &mut self,
        (waiting, place): (u64, usize),
        wanted: Wanted,
        (chunk, offset, len): (u64, u32, u32),
        actions: &mut Vec<ClientAction>,
    ) -> Option<PartOutput> {
        let (at, inside) = self.inside(chunk, offset, len);
        if inside == 0 {
            return Some(nothing(wanted, len));
        }
        let key = self.key();
        self.questions.insert(key, Question { waiting, place, inside, beyond: len - inside });
        let op = match wanted {
            Wanted::Data => BlockOp::Read { offset: at, len: inside },
            Wanted::Extents => BlockOp::Extents { offset: at, len: u64::from(inside) },
            Wanted::Layers => BlockOp::Layers { offset: at, len: u64::from(inside), with_base: true },
        };
        actions.push(ClientAction::ReadBase { key, op });
        None
    }

    fn wait(&mut self, key: u64, waiting: Waiting) -> Option<Fetched> {
        if waiting.outputs.iter().any(Option::is_none) {
            self.waiting.insert(key, waiting);
            return None;
        }
        Some(waiting.finish())
    }

    /// The base has answered. Gives the part that this completes.
    pub(super) fn on_answer(
        &mut self,
        key: u64,
        result: Result<BlockReply, BlockError>,
        actions: &mut Vec<ClientAction>,
    ) -> Option<Fetched> {
        if self.guesses.contains_key(&key) {
            return self.on_guessed(key, result, actions);
        }
        let Question { waiting: of, place, inside, beyond } = self.questions.remove(&key)?;
        let waiting = self.waiting.get_mut(&of)?;
        let output = match result {
            Ok(BlockReply::Data(mut pieces)) => {
                if beyond > 0 {
                    pieces.push(zeroes(beyond));
                }
                PartOutput::Data(pieces)
            }
            Ok(BlockReply::Extents(mut extents)) => {
                // Of what it doesn't say, that there may be data is never wrong.
                let said = extents.iter().map(|extent| extent.len).sum::<u64>();
                let unsaid = u64::from(inside).saturating_sub(said);
                if unsaid > 0 {
                    extents.push(Extent { len: unsaid, allocated: true, zero: false });
                }
                if beyond > 0 {
                    extents.push(hole(beyond));
                }
                PartOutput::Extents(extents)
            }
            Ok(BlockReply::Layers(mut extents)) => {
                let said = extents.iter().map(|extent| extent.len).sum::<u64>();
                if said < u64::from(inside) {
                    let detail = "what the clone stands on told of less than it was asked for".to_owned();
                    waiting.error.get_or_insert(BlockError::Medium { detail });
                }
                if beyond > 0 {
                    extents.push(in_no_layer(beyond.into()));
                }
                let above = if let Asker::Read(part) = &waiting.asker { part.layers_above } else { 0 };
                PartOutput::Layers { extents: below(above, extents), next: None }
            }
            Ok(BlockReply::Done | BlockReply::Filled { .. }) => unreachable!("a base is only read"),
            Err(error) => {
                waiting.error.get_or_insert(error);
                PartOutput::Done
            }
        };
        waiting.outputs[place] = Some(output);
        self.finish_if_complete(of)
    }

    fn finish_if_complete(&mut self, key: u64) -> Option<Fetched> {
        if self.waiting.get(&key)?.outputs.iter().any(Option::is_none) {
            return None;
        }
        self.waiting.remove(&key).map(Waiting::finish)
    }

    /// The base has answered a guess.
    fn on_guessed(
        &mut self,
        key: u64,
        result: Result<BlockReply, BlockError>,
        actions: &mut Vec<ClientAction>,
    ) -> Option<Fetched> {
        let guess = self.guesses.get_mut(&key)?;
        let fetched = guess.fetched(result);
        let (start, chunk) = (guess.offset, guess.chunk);
        match &mut guess.state {
            GuessState::Asked => {
                guess.state = fetched.map_or(GuessState::Failed, GuessState::Fetched);
                None
            }
            GuessState::Fetched(_) | GuessState::Failed => None,
            GuessState::Needed { waiting, stretches } => {
                let (waiting, stretches) = (*waiting, std::mem::take(stretches));
                self.guesses.remove(&key);
                for (place, offset, len) in stretches {
                    let output = match &fetched {
                        Some(pieces) => Some(PartOutput::Data(slice(pieces, offset - start, len))),
                        None => self.ask((waiting, place), Wanted::Data, (chunk, offset, len), actions),
                    };
                    if let Some(waiting) = self.waiting.get_mut(&waiting) {
                        waiting.outputs[place] = output;
                    }
                }
                self.finish_if_complete(waiting)
            }
        }
    }
}

impl Guess {
    /// All that was asked for, and the zeroes beyond the end of the base; `None`: it failed.
    fn fetched(&self, result: Result<BlockReply, BlockError>) -> Option<Vec<Bytes>> {
        let Ok(BlockReply::Data(mut pieces)) = result else { return None };
        if self.beyond > 0 {
            pieces.push(zeroes(self.beyond));
        }
        let found: usize = pieces.iter().map(Bytes::len).sum();
        (found == self.len as usize).then_some(pieces)
    }
}

impl Waiting {
    fn finish(self) -> Fetched {
        let outputs = self.outputs.into_iter().flatten();
        match (self.asker, self.error) {
            (Asker::Read(part), Some(error)) => Fetched::Read(part, Err(error)),
            (Asker::Write(number), Some(error)) => Fetched::Write(number, Err(error)),
            (Asker::Read(part), None) => Fetched::Read(part, Ok(join(outputs))),
            (Asker::Write(number), None) => Fetched::Write(number, Ok(outputs.map(whole_block).collect())),
        }
    }
}

/// The first bytes of the blocks that a write covers only partly, in order.
fn partly_covered(offset: u32, len: u32) -> Vec<u32> {
    let block = |at: u32| at - at % BLOCK_BYTES;
    let mut blocks = Vec::new();
    if !offset.is_multiple_of(BLOCK_BYTES) {
        blocks.push(block(offset));
    }
    if !(offset + len).is_multiple_of(BLOCK_BYTES) {
        blocks.push(block(offset + len));
    }
    blocks.dedup();
    blocks
}

fn nothing(wanted: Wanted, len: u32) -> PartOutput {
    match wanted {
        Wanted::Data => PartOutput::Data(vec![zeroes(len)]),
        Wanted::Extents => PartOutput::Extents(vec![hole(len)]),
        Wanted::Layers => PartOutput::Layers { extents: vec![in_no_layer(len.into())], next: None },
    }
}

fn hole(len: u32) -> Extent {
    Extent { len: u64::from(len), allocated: false, zero: true }
}

/// Outputs of one kind, one behind the other.
fn join(outputs: impl Iterator<Item = PartOutput>) -> PartOutput {
    let (mut data, mut extents, mut layers) = (Vec::new(), Vec::new(), Vec::new());
    for output in outputs {
        match output {
            PartOutput::Data(pieces) => data.extend(pieces),
            PartOutput::Extents(more) => extents.push(more),
            PartOutput::Layers { extents, .. } => layers.push(extents),
            PartOutput::Done | PartOutput::Filled { .. } => {}
        }
    }
    if !layers.is_empty() {
        return PartOutput::Layers { extents: join_layers(layers), next: None };
    }
    if extents.is_empty() { PartOutput::Data(data) } else { PartOutput::Extents(join_extents(extents)) }
}

/// `len` bytes from byte `from` of these pieces, which have as many.
fn slice(pieces: &[Bytes], from: u32, len: u32) -> Vec<Bytes> {
    let (mut skip, mut left) = (from as usize, len as usize);
    let mut slices = Vec::with_capacity(1);
    for piece in pieces {
        let start = skip.min(piece.len());
        let end = piece.len().min(start + left);
        if start < end {
            slices.push(piece.slice(start..end));
        }
        skip -= start;
        left -= end - start;
    }
    slices
}

fn whole_block(output: PartOutput) -> Bytes {
    let PartOutput::Data(mut pieces) = output else { return zeroes(BLOCK_BYTES) };
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    let mut block = BytesMut::with_capacity(BLOCK_BYTES as usize);
    pieces.iter().for_each(|piece| block.extend_from_slice(piece));
    block.freeze()
}
