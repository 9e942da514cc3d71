//! What a linked clone reads where none of its layers was ever written: the same place of its base (design.md §6), which is another disk to this
//! core. It asks its shell for it, and goes on with the part when it has come.
//! B1: a base never changes, so what it has may be fetched after the clone's own answer; what counts is the moment of that one.
//! B2: beyond the end of its base a clone reads as zeroes.
//! B3: a base that is gone ([`BlockError::Fenced`]) was needed no more when it went: the clone was flattened, and its PGs refuse who doesn't know
//! that. So the clone's own PG is asked again, once.

use super::ClientAction;
use super::data::{join_extents, zeroes};
use super::layers::{below, in_no_layer, join_layers};
use super::request::{Part, PartOutput, Wanted};
use ashlar_types::control::BaseLayer;
use ashlar_types::{BLOCK_BYTES, BlockError, BlockOp, BlockReply, CHUNK_BYTES, Extent, OpNumber};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;

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

#[derive(Debug)]
pub(super) struct Base {
    layer: Option<BaseLayer>,
    next_key: u64,
    waiting: BTreeMap<u64, Waiting>,
    questions: BTreeMap<u64, Question>,
}

impl Base {
    pub(super) fn new(layer: Option<BaseLayer>) -> Base {
        Base { layer, next_key: 0, waiting: BTreeMap::new(), questions: BTreeMap::new() }
    }

    /// Nobody waits any more; answers that still come are for nobody.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.questions.clear();
    }

    fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    /// Completes a part that reads: now, or when the base has answered.
    pub(super) fn complete(
        &mut self,
        part: Part,
        stretches: Vec<Stretch>,
        actions: &mut Vec<ClientAction>,
    ) -> Option<Fetched> {
        let (key, chunk, wanted) = (self.key(), u64::from(part.chunk.0), part.wanted());
        let mut outputs = Vec::with_capacity(stretches.len());
        for (place, stretch) in stretches.into_iter().enumerate() {
            outputs.push(match stretch {
                Stretch::Own(output) => Some(output),
                Stretch::Base { offset, len } => self.ask((key, place), wanted, (chunk, offset, len), actions),
            });
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

    /// What the base has there, if that is known without asking.
    fn ask(
        &mut self,
        (waiting, place): (u64, usize),
        wanted: Wanted,
        (chunk, offset, len): (u64, u32, u32),
        actions: &mut Vec<ClientAction>,
    ) -> Option<PartOutput> {
        let size = self.layer.map_or(0, |layer| layer.size);
        let at = chunk * u64::from(CHUNK_BYTES) + u64::from(offset);
        let inside = u32::try_from(size.saturating_sub(at)).unwrap_or(u32::MAX).min(len);
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
    pub(super) fn on_answer(&mut self, key: u64, result: Result<BlockReply, BlockError>) -> Option<Fetched> {
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
            Ok(BlockReply::Done) => unreachable!("a base is only read"),
            Err(error) => {
                waiting.error.get_or_insert(error);
                PartOutput::Done
            }
        };
        waiting.outputs[place] = Some(output);
        if waiting.outputs.iter().any(Option::is_none) {
            return None;
        }
        self.waiting.remove(&of).map(Waiting::finish)
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
            PartOutput::Done => {}
        }
    }
    if !layers.is_empty() {
        return PartOutput::Layers { extents: join_layers(layers), next: None };
    }
    if extents.is_empty() { PartOutput::Data(data) } else { PartOutput::Extents(join_extents(extents)) }
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
