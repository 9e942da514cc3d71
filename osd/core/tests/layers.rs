//! Which layer has each block, as a client is told that compares snapshots.

mod support;

use ashlar_types::{ChunkId, ChunkIndex, IdSet, LayerId, OpNumber};
use ashlar_wire::{IoKind, IoStatus, LayerRun, Message};
use support::MIB;
use support::node::{Node, PG, chunk};

fn in_layer(layer: u64, index: u32) -> ChunkId {
    ChunkId { layer: LayerId(layer), index: ChunkIndex(index) }
}

/// Blocks 0 to 3 written in layer 1, and something far away; over it a layer in which 1 is written anew, 2 is zeroed, and 6 is new.
fn stacked(members: &[u32], in_sync: &[u32]) -> Node {
    let mut node = Node::new(16 * MIB);
    node.lead(1, members, in_sync, 1);
    assert_eq!(node.request(chunk(0), IoKind::Write, 0..4, 1), Some(IoStatus::Ok));
    assert_eq!(node.request(chunk(70), IoKind::Write, 0..1, 1), Some(IoStatus::Ok));
    node.raise_stack(2, IdSet::default());
    node.name_stack(2, &[2, 1]);
    assert_eq!(node.request(in_layer(2, 0), IoKind::Write, 1..2, 2), Some(IoStatus::Ok));
    assert_eq!(node.request(in_layer(2, 0), IoKind::Zero, 2..3, 0), Some(IoStatus::Ok));
    assert_eq!(node.request(in_layer(2, 0), IoKind::Write, 6..7, 3), Some(IoStatus::Ok));
    node
}

fn ask(node: &mut Node, chunk: ChunkId) -> Option<(Vec<LayerRun>, Option<ChunkIndex>)> {
    let number: OpNumber = node.ask_layers(chunk, IoKind::Extents);
    node.pass(100);
    node.layers.remove(&number)
}

fn run(count: u16, depth: Option<u16>, has_data: bool) -> LayerRun {
    LayerRun { count, depth, has_data }
}

fn is_merge(message: &Message) -> bool {
    matches!(message, Message::Prepare(prepare) if prepare.write.change.is_merge())
}

fn before_the_merge() -> Vec<LayerRun> {
    vec![
        run(1, Some(1), true),
        run(1, Some(0), true),
        run(1, Some(0), false),
        run(1, Some(1), true),
        run(2, None, false),
        run(1, Some(0), true),
        run(1024 - 7, None, false),
    ]
}

#[test]
fn each_block_is_told_with_the_highest_layer_that_has_it() {
    let mut node = stacked(&[7], &[7]);
    assert_eq!(ask(&mut node, in_layer(2, 0)), Some((before_the_merge(), Some(ChunkIndex(70)))));
    let below = (vec![run(1, Some(1), true), run(1023, None, false)], None);
    assert_eq!(ask(&mut node, in_layer(2, 70)), Some(below));
}

#[test]
fn where_nothing_is_written_the_next_chunk_that_has_something_is_named() {
    let mut node = stacked(&[7], &[7]);
    let nothing = || vec![run(1024, None, false)];
    assert_eq!(ask(&mut node, in_layer(2, 3)), Some((nothing(), Some(ChunkIndex(70)))));
    assert_eq!(node.request(in_layer(2, 20), IoKind::Write, 0..1, 1), Some(IoStatus::Ok));
    assert_eq!(ask(&mut node, in_layer(2, 3)), Some((nothing(), Some(ChunkIndex(20)))), "in the layer on top");
    assert_eq!(ask(&mut node, in_layer(2, 71)), Some((nothing(), None)));
}

#[test]
fn a_frozen_layer_is_asked_for_itself() {
    let mut node = stacked(&[7], &[7]);
    node.name_stack(2, &[1]);
    let expected = (vec![run(4, Some(0), true), run(1020, None, false)], Some(ChunkIndex(70)));
    assert_eq!(ask(&mut node, chunk(0)), Some(expected));
}

/// Before a merge is decided and after it: never a mixture.
#[test]
fn what_a_merge_moves_is_told_as_of_one_layer_or_of_the_other() {
    let mut node = stacked(&[7, 8], &[7, 8]);
    node.script = Box::new(|_, m| is_merge(m).then(Vec::new));
    node.want_merge(1, 1, 2);
    node.pass(200);
    assert!(node.sent.iter().any(|(_, m)| is_merge(m)), "it is prepared and not decided");
    assert_eq!(ask(&mut node, in_layer(2, 0)).map(|(runs, _)| runs), Some(before_the_merge()));
    node.name_stack(2, &[1]);
    let number = node.ask_layers(chunk(0), IoKind::Extents);
    assert_eq!(node.answers.get(&number), Some(&IoStatus::LayerGone), "M4: nobody begins at a layer that is merged");
    node.name_stack(2, &[2, 1]);
    node.script = Box::new(|_, _| None);
    node.lead(2, &[7, 8], &[7, 8], 1);
    node.pass(3000);
    assert!(node.has_merged(1), "{:?}", node.warnings);
    let moved = before_the_merge().into_iter().map(|r| LayerRun { depth: r.depth.map(|_| 0), ..r });
    assert_eq!(ask(&mut node, in_layer(2, 0)).map(|(runs, _)| runs), Some(join(moved)));
}

fn join(runs: impl Iterator<Item = LayerRun>) -> Vec<LayerRun> {
    let mut joined: Vec<LayerRun> = Vec::new();
    for run in runs {
        match joined.last_mut() {
            Some(last) if (last.depth, last.has_data) == (run.depth, run.has_data) => last.count += run.count,
            _ => joined.push(run),
        }
    }
    joined
}

/// R6
#[test]
fn the_question_waits_for_a_write_that_is_undecided() {
    let mut node = stacked(&[7, 8], &[7, 8]);
    node.script = Box::new(|_, m| matches!(m, Message::Prepare(_)).then(Vec::new));
    let write = node.ask(PG, in_layer(2, 0), IoKind::Write, 4..5, 4);
    let number = node.ask_layers(in_layer(2, 0), IoKind::Extents);
    node.pass(200);
    assert!(!node.answers.contains_key(&write) && !node.answers.contains_key(&number));
    node.script = Box::new(|_, _| None);
    node.lead(2, &[7, 8], &[7, 8], 1);
    node.pass(500);
    let (runs, _) = ask(&mut node, in_layer(2, 0)).expect("it is decided");
    assert_eq!(runs, before_the_merge(), "not everybody had it: it was rolled back");
}

#[test]
fn other_questions_and_older_stacks_are_refused() {
    let mut node = stacked(&[7], &[7]);
    for kind in [IoKind::Read, IoKind::Zero] {
        let number = node.ask_layers(in_layer(2, 0), kind);
        assert_eq!(node.answers.get(&number), Some(&IoStatus::Invalid), "{kind:?}");
    }
    node.raise_stack(3, IdSet::default());
    let number = node.ask_layers(in_layer(2, 0), IoKind::Extents);
    assert_ne!(node.answers.get(&number), Some(&IoStatus::Ok));
    assert!(!node.layers.contains_key(&number));
}
