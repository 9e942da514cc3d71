use super::*;
use ashlar_types::{BLOCK_BYTES, CHUNK_BYTES, Crc, Extent, OpNumber};
use ashlar_wire::{IoKind, PeerHello};
use bytes::Bytes;

const CHUNK: u64 = CHUNK_BYTES as u64;

fn write(offset: u64, len: usize, fill: u8) -> BlockOp {
    BlockOp::Write { offset, data: Bytes::from(vec![fill; len]) }
}

fn numbers(requests: &[IoRequest]) -> Vec<u64> {
    requests.iter().map(|r| r.op.number.0).collect()
}

#[test]
fn a_write_across_chunks_goes_in_parts_and_completes_once() {
    let mut rig = Rig::connected(64 * MIB);
    rig.submit(9, write(CHUNK - 1000, CHUNK as usize + 1500, 3));
    let sent = rig.sent();
    let places: Vec<_> = sent.iter().map(|r| (r.chunk.index.0, r.offset, r.len)).collect();
    assert_eq!(places, [(0, CHUNK_BYTES - 1000, 1000), (1, 0, CHUNK_BYTES), (2, 0, 500)]);
    for request in &sent {
        assert_eq!(request.payload.len(), request.len as usize);
        assert_eq!(request.crcs, super::super::data::fragment_crcs(u64::from(request.offset), &request.payload));
        assert_eq!((request.epoch, request.generation, request.attachment), (Epoch(1), Generation(2), AttachmentId(5)));
        assert_eq!(
            (request.volume, request.chunk.layer, request.stack_revision),
            (VolumeId(3), LayerId(7), StackRevision(1))
        );
    }
    for request in [&sent[2], &sent[0]] {
        rig.reply(0, ok(request));
        assert!(rig.completed.is_empty(), "not before all parts are done");
    }
    rig.reply(0, ok(&sent[1]));
    assert!(matches!(rig.completed[..], [(9, Ok(BlockReply::Done))]));
    rig.reply(0, ok(&sent[1]));
    assert_eq!(rig.completed.len(), 1, "V1: a repeated answer is ignored");
}

#[test]
fn hello_carries_the_grant_and_a_rising_connection_number() {
    let mut rig = Rig::connected(MIB);
    rig.submit(1, write(0, 512, 1));
    rig.step(ClientEvent::LinkDown(OsdId(0)));
    rig.sleep();
    rig.welcome(0);
    let numbers: Vec<u64> = rig.hellos.iter().map(|(_, hello)| hello.connection).collect();
    assert_eq!(numbers, [1, 2]);
    let PeerHello::Client(client) = &rig.hellos[0].1.from else { panic!("a client's greeting") };
    assert_eq!((client.session, client.attachment, client.generation), (SESSION, AttachmentId(5), Generation(2)));
    assert_eq!(rig.hellos[0].1.cluster, ClusterId(99));
}

#[test]
fn a_broken_link_repeats_what_is_unanswered_under_its_number_and_nothing_else() {
    let mut rig = Rig::connected(MIB);
    for i in 0..4 {
        rig.submit(i, write(i * 8192, 4096, 1));
    }
    let first = rig.sent();
    rig.reply(0, ok(&first[1]));
    rig.step(ClientEvent::LinkDown(OsdId(0)));
    assert!(rig.requests.is_empty());
    rig.sleep();
    rig.welcome(0);
    let again = rig.sent();
    assert_eq!(numbers(&again), [first[0].op.number.0, first[2].op.number.0, first[3].op.number.0]);
    assert_eq!(again[0].payload, first[0].payload);
    assert!(again.iter().all(|r| r.lowest_unanswered == first[0].op.number), "the lowest is unanswered still");
}

#[test]
fn lowest_unanswered_passes_answered_numbers_only() {
    let mut rig = Rig::connected(MIB);
    for i in 0..3 {
        rig.submit(i, write(i * 8192, 4096, 1));
    }
    let sent = rig.sent();
    rig.reply(0, ok(&sent[1]));
    rig.submit(3, write(65536, 512, 1));
    assert_eq!(rig.sent()[0].lowest_unanswered, sent[0].op.number);
    rig.reply(0, ok(&sent[0]));
    rig.submit(4, write(131_072, 512, 1));
    assert_eq!(rig.sent()[0].lowest_unanswered, sent[2].op.number, "past both answered ones");
}

#[test]
fn a_new_primary_gets_the_same_number_in_the_new_epoch() {
    let mut rig = Rig::connected(MIB);
    rig.submit(1, write(0, 4096, 1));
    rig.submit(2, write(8192, 4096, 1));
    let first = rig.sent();
    rig.step(ClientEvent::View(Arc::new(view(2, 1, 2, Some(1)))));
    rig.welcome(1);
    let probe = rig.sent();
    assert_eq!(numbers(&probe), [first[0].op.number.0], "one tries the new primary");
    assert_eq!(probe[0].epoch, Epoch(2));
    rig.reply(1, refusal(&probe[0], IoStatus::WrongEpoch, 2));
    assert!(rig.requests.is_empty(), "not active yet: a pause");
    rig.sleep();
    let probe = rig.sent();
    assert_eq!(numbers(&probe), [first[0].op.number.0]);
    rig.reply(1, ok(&probe[0]));
    assert_eq!(numbers(&rig.sent()), [first[1].op.number.0], "the others follow");
    for late in [IoStatus::Retry, IoStatus::NoSpace] {
        rig.reply(0, refusal(&first[1], late, 1));
        assert_eq!(rig.completed.len(), 1, "a late refusal says nothing of what the new primary does");
    }
    rig.submit(3, write(16384, 4096, 1));
    assert_eq!(rig.sent().len(), 1, "nor does it close the lane");
    rig.reply(0, ok(&first[1]));
    assert_eq!(rig.completed.len(), 2, "but what it did is done");
}

#[test]
fn refusals_are_paced_and_ask_for_the_view_when_it_is_older() {
    let mut rig = Rig::connected(MIB);
    for i in 0..50 {
        rig.submit(i, write(i * 4096, 4096, 1));
    }
    for request in rig.sent() {
        rig.reply(0, refusal(&request, IoStatus::WrongEpoch, 5));
    }
    assert_eq!(rig.views_wanted, 1, "one demand for 50 refusals");
    let begin = rig.now;
    let mut tries = 0;
    while (rig.now - begin).as_micros() < 1_000_000 {
        rig.sleep();
        for request in rig.sent() {
            tries += 1;
            rig.reply(0, refusal(&request, IoStatus::WrongEpoch, 5));
        }
    }
    assert!((15..40).contains(&tries), "{tries} tries in a second for 50 requests");
    assert!((5..15).contains(&rig.views_wanted), "the view is asked for {} times", rig.views_wanted);
}

#[test]
fn a_probe_that_is_neither_refused_nor_done_soon_lets_the_others_follow() {
    let mut rig = Rig::connected(MIB);
    rig.submit(1, write(0, 4096, 1));
    rig.submit(2, write(8192, 4096, 1));
    let first = rig.sent();
    rig.step(ClientEvent::View(Arc::new(view(2, 1, 2, Some(0)))));
    assert_eq!(rig.sent().len(), 1);
    rig.sleep();
    assert_eq!(rig.now, Tick(1_000_000) + ClientLimits::default().retry_max);
    assert_eq!(numbers(&rig.sent()), [first[1].op.number.0], "it was taken in, and may take its time");
}

#[test]
fn a_dial_without_answer_is_given_up_and_tried_again() {
    let mut rig = Rig::new(grant(MIB), ClientLimits::default());
    rig.step(ClientEvent::View(Arc::new(view(1, 1, 1, Some(0)))));
    rig.submit(1, write(0, 512, 1));
    assert_eq!(rig.links.pop(), Some(OsdId(0)));
    while rig.links.is_empty() {
        rig.sleep();
    }
    assert!(rig.now >= Tick(1_000_000) + ClientLimits::default().connect_timeout && rig.views_wanted > 0);
    rig.welcome(0);
    assert_eq!(rig.sent().len(), 1);
}

#[test]
fn reads_go_on_while_a_pg_takes_no_writes() {
    let mut rig = Rig::connected(MIB);
    rig.submit(1, write(0, 4096, 1));
    let refused = rig.sent();
    rig.reply(0, refusal(&refused[0], IoStatus::Retry, 1));
    rig.submit(2, BlockOp::Read { offset: 8192, len: 512 });
    let read = rig.sent();
    assert_eq!(read.len(), 1);
    rig.reply(0, ok(&read[0]));
    assert!(matches!(rig.completed[..], [(2, Ok(BlockReply::Data(_)))]));
}

#[test]
fn a_pg_without_primary_is_waited_for() {
    let mut rig = Rig::connected(MIB);
    rig.step(ClientEvent::View(Arc::new(view(2, 1, 2, None))));
    rig.submit(1, write(0, 4096, 1));
    for _ in 0..20 {
        rig.sleep();
    }
    assert!(rig.requests.is_empty() && rig.links.is_empty() && rig.completed.is_empty());
    rig.step(ClientEvent::View(Arc::new(view(3, 1, 3, Some(0)))));
    let sent = rig.sent();
    assert_eq!(sent.len(), 1, "the link stands still");
    rig.reply(0, ok(&sent[0]));
    assert!(matches!(rig.completed[..], [(1, Ok(BlockReply::Done))]));
}

#[test]
fn nothing_is_sent_to_another_process_than_may_serve_the_epoch() {
    let mut rig = Rig::connected(MIB);
    let mut restarted = view(2, 1, 1, Some(0));
    restarted.pgs.clear();
    restarted.osds.get_mut(&OsdId(0)).expect("known").boot = BootId(5);
    rig.step(ClientEvent::View(Arc::new(restarted)));
    rig.submit(1, write(0, 4096, 1));
    assert!(rig.requests.is_empty() && rig.links.is_empty(), "R7: the configuration names the older boot");
    assert!(rig.views_wanted >= 1);
}

#[test]
fn a_starting_osd_is_dialled_again_after_a_pause() {
    let mut rig = Rig::new(grant(MIB), ClientLimits::default());
    rig.step(ClientEvent::View(Arc::new(view(1, 1, 1, Some(0)))));
    rig.submit(1, write(0, 512, 1));
    for _ in 0..3 {
        assert_eq!(rig.links.pop(), Some(OsdId(0)));
        rig.step(ClientEvent::LinkUp(OsdId(0)));
        rig.hello_reply(OsdId(0), HelloStatus::Starting);
        assert!(rig.links.is_empty(), "not at once");
        while rig.links.is_empty() {
            rig.sleep();
        }
    }
    rig.welcome(0);
    assert_eq!(rig.sent().len(), 1);
}

#[test]
fn an_osd_that_welcomes_and_hangs_up_is_dialled_ever_less_often() {
    let mut rig = Rig::connected(MIB);
    rig.submit(1, write(0, 512, 1));
    let begin = rig.now;
    let mut dials = 0;
    while (rig.now - begin).as_micros() < 1_000_000 {
        rig.step(ClientEvent::LinkDown(OsdId(0)));
        while rig.links.is_empty() {
            rig.sleep();
        }
        rig.welcome(0);
        dials += 1;
    }
    assert!((5..12).contains(&dials), "{dials} dials in a second");
}

#[test]
fn a_silent_osd_is_dialled_anew_and_asked_again() {
    let mut rig = Rig::connected(MIB);
    rig.submit(1, write(0, 512, 1));
    let first = rig.sent();
    while rig.links.is_empty() {
        rig.sleep();
    }
    assert!(rig.now >= Tick(1_000_000) + ClientLimits::default().answer_timeout);
    rig.welcome(0);
    assert_eq!(numbers(&rig.sent()), numbers(&first));
}

#[test]
fn overlapping_requests_take_turns_and_others_pass() {
    let mut rig = Rig::connected(MIB);
    rig.submit(1, write(0, 8192, 1));
    rig.submit(2, BlockOp::Read { offset: 4096, len: 8192 });
    rig.submit(3, write(8192, 512, 2));
    rig.submit(4, BlockOp::Discard { offset: 65536, len: 4096 });
    let sent = rig.sent();
    assert_eq!(sent.iter().map(|r| r.offset).collect::<Vec<_>>(), [0, 65536], "2 waits for 1, and 3 for 2");
    rig.reply(0, ok(&sent[0]));
    let read = rig.sent();
    assert_eq!((read.len(), read[0].kind), (1, IoKind::Read));
    rig.reply(0, ok(&read[0]));
    assert_eq!(rig.sent()[0].payload.len(), 512);
}

#[test]
fn damaged_answers_are_asked_again_then_a_medium_error() {
    let mut rig = Rig::connected(MIB);
    rig.submit(1, BlockOp::Read { offset: 0, len: 4096 });
    let payload = Bytes::from(vec![7; BLOCK_BYTES as usize]);
    let damaged = |request: &IoRequest| IoReply { blocks: vec![Some(Crc(1))], payload: payload.clone(), ..ok(request) };
    for _ in 0..ClientLimits::default().damaged_retries_max {
        let request = rig.sent().pop().expect("asked again");
        rig.reply(0, damaged(&request));
        assert!(rig.completed.is_empty());
    }
    let request = rig.sent().pop().expect("asked a last time");
    rig.reply(0, damaged(&request));
    assert!(matches!(&rig.completed[..], [(1, Err(BlockError::Medium { .. }))]), "{:?}", rig.completed);

    rig.submit(2, BlockOp::Read { offset: 100, len: 200 });
    let request = rig.sent().pop().expect("sent");
    rig.reply(0, damaged(&request));
    let request = rig.sent().pop().expect("asked again");
    rig.reply(0, IoReply { blocks: vec![Some(Crc::of(&payload))], payload: payload.clone(), ..ok(&request) });
    let Some((2, Ok(BlockReply::Data(pieces)))) = rig.completed.last() else { panic!("{:?}", rig.completed) };
    assert_eq!(pieces.concat(), [7; 200]);
    assert_eq!(pieces[0].as_ptr(), payload[100..].as_ptr(), "a slice, not a copy");
}

#[test]
fn fencing_fails_everything_for_good_in_order() {
    let mut rig = Rig::connected(MIB);
    rig.submit(1, write(0, 4096, 1));
    rig.submit(2, write(0, 4096, 1));
    rig.submit(3, BlockOp::Read { offset: 8192, len: 512 });
    let sent = rig.sent();
    rig.reply(0, refusal(&sent[0], IoStatus::Fenced, 1));
    assert!(rig.fenced && rig.client.is_fenced());
    assert_eq!(rig.completed.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [1, 2, 3]);
    rig.submit(4, BlockOp::Flush);
    assert!(rig.completed.iter().all(|(_, result)| matches!(result, Err(BlockError::Fenced))));
    rig.step(ClientEvent::Timer);
    rig.reply(0, ok(&sent[1]));
    assert_eq!((rig.completed.len(), rig.requests.len()), (4, 0));
}

#[test]
fn a_full_pool_fails_the_whole_request_after_its_parts_are_settled() {
    let mut rig = Rig::connected(64 * MIB);
    rig.submit(1, write(CHUNK - 512, 1024, 1));
    let sent = rig.sent();
    rig.reply(0, refusal(&sent[0], IoStatus::NoSpace, 1));
    assert!(rig.completed.is_empty(), "the other part may still land");
    rig.reply(0, ok(&sent[1]));
    assert!(matches!(rig.completed[..], [(1, Err(BlockError::NoSpace))]));
}

#[test]
fn unanswered_parts_are_bounded_and_a_whole_discard_is_cut_as_room_comes() {
    let size = 10_000 * CHUNK;
    let mut rig = Rig::connected(size);
    rig.submit(1, BlockOp::Discard { offset: 0, len: size });
    rig.submit(2, BlockOp::Flush);
    assert!(matches!(rig.completed[..], [(2, Ok(BlockReply::Done))]), "R1: nothing to wait for");
    let mut open = rig.sent();
    assert_eq!(open.len(), ClientLimits::default().unanswered_max);
    let mut done = 0;
    while let Some(request) = open.pop() {
        assert_eq!((request.kind, request.len), (IoKind::Zero, CHUNK_BYTES));
        rig.reply(0, ok(&request));
        done += 1;
        open.extend(rig.sent());
        assert!(rig.client.unanswered().count() <= ClientLimits::default().unanswered_max);
    }
    assert_eq!((done, rig.completed.len()), (10_000, 2));
}

#[test]
fn numbers_of_unanswered_parts_do_not_spread_beyond_the_span() {
    let limits = ClientLimits { span_max: 10, ..ClientLimits::default() };
    let mut rig = Rig::new(grant(MIB), limits);
    rig.step(ClientEvent::View(Arc::new(view(1, 1, 1, Some(0)))));
    rig.submit(0, write(0, 512, 1));
    rig.welcome(0);
    let stuck = rig.sent().pop().expect("sent");
    for i in 1..30 {
        rig.submit(i, write(i * 512, 512, 1));
        for request in rig.sent() {
            rig.reply(0, ok(&request));
        }
    }
    assert_eq!(rig.completed.len(), 9, "the ninth after the stuck one is the last of the span");
    rig.reply(0, ok(&stuck));
    assert_eq!(rig.sent().len(), 10, "and on");
}

#[test]
fn zeroes_that_keep_their_space_are_written_and_others_are_not() {
    let mut rig = Rig::connected(64 * MIB);
    rig.submit(1, BlockOp::WriteZeroes { offset: 100, len: CHUNK, keep_allocated: true });
    let sent = rig.sent();
    assert_eq!(sent.len(), 2);
    for request in &sent {
        assert_eq!(request.kind, IoKind::Write);
        assert!(request.payload.len() == request.len as usize && request.payload.iter().all(|b| *b == 0));
        assert_eq!(request.crcs, super::super::data::fragment_crcs(u64::from(request.offset), &request.payload));
    }
    rig.submit(2, BlockOp::WriteZeroes { offset: 32 * MIB + 1, len: 10, keep_allocated: false });
    let sent = rig.sent();
    assert_eq!((sent[0].kind, sent[0].offset, sent[0].len), (IoKind::Zero, 1, 10));
}

#[test]
fn extents_are_merged_across_chunks_and_cut_at_the_bound() {
    let mut rig = Rig::connected(4000 * MIB);
    rig.submit(1, BlockOp::Extents { offset: CHUNK - 8192, len: 4096 * 3 });
    let sent = rig.sent();
    let blocks = vec![None, Some(Crc(5))];
    rig.reply(0, IoReply { blocks: vec![Some(Crc(6))], ..ok(&sent[1]) });
    rig.reply(0, IoReply { blocks, ..ok(&sent[0]) });
    let Some((1, Ok(BlockReply::Extents(extents)))) = rig.completed.pop() else { panic!("extents") };
    assert_eq!(
        extents,
        [Extent { len: 4096, allocated: false, zero: true }, Extent { len: 8192, allocated: true, zero: false }]
    );
    rig.submit(2, BlockOp::Extents { offset: 0, len: 4000 * MIB });
    for request in rig.sent() {
        rig.reply(0, ok(&request));
    }
    let Some((2, Ok(BlockReply::Extents(extents)))) = rig.completed.pop() else { panic!("extents") };
    let bound = u64::from(ClientLimits::default().extents_chunks_max) * CHUNK;
    assert_eq!(extents, [Extent { len: bound, allocated: false, zero: true }]);
}

#[test]
fn what_lies_outside_or_may_not_be_written_is_refused_at_once() {
    let mut rig = Rig::connected(MIB);
    rig.submit(1, BlockOp::Read { offset: MIB - 512, len: 1024 });
    rig.submit(2, BlockOp::Discard { offset: u64::MAX, len: 2 });
    assert!(rig.completed.iter().all(|(_, result)| matches!(result, Err(BlockError::OutOfRange))));
    rig.step(ClientEvent::Resized(2 * MIB));
    rig.submit(3, BlockOp::Read { offset: MIB - 512, len: 1024 });
    assert_eq!((rig.completed.len(), rig.sent().len()), (2, 1));
    rig.submit(4, BlockOp::Read { offset: 0, len: 0 });
    assert!(matches!(&rig.completed[2], (4, Ok(BlockReply::Data(pieces))) if pieces.is_empty()));

    let mut rig = Rig::new(AttachGrant { read_only: true, ..grant(MIB) }, ClientLimits::default());
    rig.submit(1, write(0, 512, 1));
    assert!(matches!(rig.completed[..], [(1, Err(BlockError::ReadOnly))]));
}

#[test]
fn a_pool_that_grows_takes_waiting_and_sent_parts_to_their_new_pg() {
    let mut rig = Rig::connected(64 * MIB);
    for i in 0..8 {
        rig.submit(i, write(i * CHUNK, 512, 1));
    }
    let first = rig.sent();
    rig.step(ClientEvent::View(Arc::new(view(2, 2, 2, Some(0)))));
    let mut again = rig.sent();
    while let Some(request) = again.pop() {
        let pg = ashlar_types::view::place_chunk(42, request.chunk.index, 2);
        assert_eq!((request.pg.index, request.epoch), (pg, Epoch(2)));
        rig.reply(0, ok(&request));
        again.extend(rig.sent());
    }
    assert_eq!(rig.completed.len(), first.len());
}

#[test]
fn a_resumed_session_uses_no_number_twice() {
    let mut rig = Rig::connected(MIB);
    rig.submit(1, write(0, 512, 1));
    let last = rig.sent().pop().expect("sent").op.number;
    rig.client = VolumeClient::resume(grant(MIB), ClientLimits::default(), rig.client.progress());
    rig.step(ClientEvent::View(Arc::new(view(1, 1, 1, Some(0)))));
    rig.submit(2, write(0, 512, 1));
    rig.welcome(0);
    let next = rig.sent().pop().expect("sent");
    assert_eq!((next.op.number, next.lowest_unanswered), (OpNumber(last.0 + 1), OpNumber(last.0 + 1)));
    assert_eq!(rig.hellos.last().expect("greeted").1.connection, 2);
}

#[test]
#[should_panic(expected = "R10")]
fn a_claim_that_an_unanswered_write_was_answered_stops_the_session() {
    let mut rig = Rig::connected(MIB);
    rig.submit(1, write(0, 512, 1));
    let request = rig.sent().pop().expect("sent");
    rig.reply(0, refusal(&request, IoStatus::StaleOp, 1));
}
