//! Questions which layer has what: how few are asked, how many at a time, and what a clone adds.

use super::*;
use ashlar_types::control::BaseLayer;
use ashlar_types::{CHUNK_BYTES, ChunkIndex, LayerExtent, LayerPlace};
use ashlar_wire::{LayerRun, LayersReply};

const CHUNK: u64 = CHUNK_BYTES as u64;
const TIB: u64 = 1 << 40;

fn ask(rig: &mut Rig, len: u64) {
    rig.submit(1, BlockOp::Layers { offset: 0, len, with_base: true });
}

fn asked(rig: &mut Rig) -> Vec<IoRequest> {
    std::mem::take(&mut rig.layers).into_iter().map(|(_, request)| request).collect()
}

fn answer(rig: &mut Rig, request: &IoRequest, runs: Vec<LayerRun>, next: Option<u32>) {
    let next = next.map(ChunkIndex);
    let reply = LayersReply { op: request.op, epoch: request.epoch, runs, next };
    rig.step(ClientEvent::Received(OsdId(0), Message::LayersReply(reply)));
}

fn run(count: u16, depth: Option<u16>, has_data: bool) -> LayerRun {
    LayerRun { count, depth, has_data }
}

fn nothing() -> Vec<LayerRun> {
    vec![run(1024, None, false)]
}

fn in_layer(len: u64, id: u64, depth: u32) -> LayerExtent {
    LayerExtent { len, layer: Some(LayerPlace { id: LayerId(id), depth }), has_data: true }
}

fn in_none(len: u64) -> LayerExtent {
    LayerExtent { len, layer: None, has_data: false }
}

fn answered(rig: &mut Rig) -> Vec<LayerExtent> {
    match rig.completed.pop() {
        Some((1, Ok(BlockReply::Layers(extents)))) => extents,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_pg_says_it_does_not_have_is_not_asked_for() {
    let mut rig = Rig::connected(4 * TIB);
    ask(&mut rig, 4 * TIB);
    let first = asked(&mut rig);
    assert_eq!(first.len(), 64, "no more at a time, while nothing is known");
    let far = 200_000;
    for request in &first {
        answer(&mut rig, request, nothing(), Some(far));
    }
    let second = asked(&mut rig);
    assert_eq!(second[0].chunk.index, ChunkIndex(far));
    assert!(second.len() <= 64);
    answer(&mut rig, &second[0], vec![run(1, Some(0), true), run(1023, None, false)], None);
    for request in &second[1..] {
        answer(&mut rig, request, nothing(), None);
    }
    let far = u64::from(far) * CHUNK;
    assert_eq!(answered(&mut rig), [in_none(far), in_layer(4096, 7, 0), in_none(TIB - far - 4096)], "a TiB at a time");
    assert!(asked(&mut rig).is_empty() && rig.client.is_idle());
}

#[test]
fn an_answer_ends_early_rather_than_to_grow_without_bound() {
    let mut rig = Rig::connected(TIB);
    ask(&mut rig, TIB);
    let mut parts = 0;
    let runs: Vec<LayerRun> = (0..1024).map(|block| run(1, Some(0), block % 2 == 0)).collect();
    loop {
        let requests = asked(&mut rig);
        if requests.is_empty() {
            break;
        }
        for request in requests {
            parts += 1;
            answer(&mut rig, &request, runs.clone(), Some(request.chunk.index.0 + 1));
        }
    }
    let extents = answered(&mut rig);
    assert_eq!(extents.len(), parts * 1024);
    assert!((64..=128).contains(&parts), "{parts}");
}

#[test]
fn it_neither_waits_for_a_write_nor_holds_one_up() {
    let mut rig = Rig::connected(MIB);
    rig.submit(5, BlockOp::Write { offset: 0, data: bytes::Bytes::from(vec![1; 4096]) });
    ask(&mut rig, MIB);
    rig.submit(6, BlockOp::Write { offset: 8192, data: bytes::Bytes::from(vec![1; 4096]) });
    assert_eq!((rig.sent().len(), asked(&mut rig).len()), (2, 1));
}

#[test]
fn an_answer_that_is_none_is_asked_for_again() {
    let mut rig = Rig::connected(MIB);
    ask(&mut rig, MIB);
    let request = asked(&mut rig).pop().expect("sent");
    rig.reply(0, ok(&request));
    let request = asked(&mut rig).pop().expect("sent again");
    answer(&mut rig, &request, vec![run(256, Some(1), true)], None);
    let request = asked(&mut rig).pop().expect("and again: there is no such layer");
    answer(&mut rig, &request, vec![run(256, Some(0), true)], None);
    assert_eq!(answered(&mut rig), [in_layer(MIB, 7, 0)]);
}

#[test]
fn what_a_clone_does_not_have_is_asked_of_its_base_below_its_own_layers() {
    let base = BaseLayer { volume: VolumeId(1), layer: LayerId(2), size: 8192 };
    let layers = vec![LayerId(9), LayerId(7)];
    let grant = AttachGrant { base: Some(base), layers, ..grant(MIB) };
    let mut rig = Rig::new(grant, ClientLimits::default());
    rig.step(ClientEvent::View(Arc::new(view(1, 1, 1, Some(0)))));
    ask(&mut rig, MIB);
    rig.welcome(0);
    let request = asked(&mut rig).pop().expect("sent");
    answer(&mut rig, &request, vec![run(1, Some(1), true), run(255, None, false)], None);
    let (key, op) = rig.base_reads.pop().expect("asked");
    assert!(matches!(op, BlockOp::Layers { offset: 4096, len: 4096, with_base: true }), "{op:?}");
    let reply = BlockReply::Layers(vec![in_layer(4096, 2, 3)]);
    rig.step(ClientEvent::BaseRead { key, result: Ok(reply) });
    assert_eq!(answered(&mut rig), [in_layer(4096, 7, 1), in_layer(4096, 2, 5), in_none(MIB - 8192)]);
    rig.submit(1, BlockOp::Layers { offset: 0, len: MIB, with_base: false });
    let request = asked(&mut rig).pop().expect("sent");
    answer(&mut rig, &request, vec![run(1, Some(1), true), run(255, None, false)], None);
    assert_eq!(answered(&mut rig), [in_layer(4096, 7, 1), in_none(MIB - 4096)]);
    assert!(rig.base_reads.is_empty());
}
