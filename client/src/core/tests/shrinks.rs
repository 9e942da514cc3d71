//! Holds, step by step.

use super::*;
use bytes::Bytes;

fn write(offset: u64, len: usize) -> BlockOp {
    BlockOp::Write { offset, data: Bytes::from(vec![1; len]) }
}

#[test]
fn a_hold_is_there_when_what_reaches_behind_it_has_ended_and_refuses_what_comes() {
    let mut rig = Rig::connected(MIB);
    rig.submit(1, write(0, 4096));
    rig.submit(2, write(512 * 1024 - 512, 1024));
    let sent = rig.sent();
    rig.step(ClientEvent::Hold(512 * 1024));
    rig.submit(3, write(512 * 1024 - 512, 1024));
    rig.submit(4, BlockOp::Read { offset: MIB - 512, len: 512 });
    assert!(rig.completed.iter().all(|(tag, result)| *tag > 2 && matches!(result, Err(BlockError::OutOfRange))));
    assert_eq!((rig.completed.len(), rig.holds), (2, 0), "one is still under way");
    rig.reply(0, ok(&sent[1]));
    assert_eq!(rig.holds, 1, "whoever stays in front of it may take his time");
    rig.submit(5, write(512 * 1024 - 512, 512));
    rig.step(ClientEvent::SubmitBehind(BlockRequest {
        tag: 6,
        op: BlockOp::Discard { offset: 512 * 1024, len: 4096 },
    }));
    assert_eq!(rig.sent().len(), 2, "in front of it clients go on, and behind it who holds them off");
    assert_eq!(rig.holds, 1, "it is said once");
}

#[test]
fn after_a_hold_the_volume_has_the_size_that_was_said() {
    for (size, reaches_end) in [(512 * 1024, false), (MIB, true)] {
        let mut rig = Rig::connected(MIB);
        rig.step(ClientEvent::Hold(512 * 1024));
        assert_eq!(rig.holds, 1, "nothing is under way");
        // Of somebody who asked before.
        rig.step(ClientEvent::Resized(MIB));
        rig.submit(1, BlockOp::Read { offset: MIB - 512, len: 512 });
        assert_eq!(rig.sent().len(), 0, "the hold stays");
        rig.step(ClientEvent::Release(size));
        rig.submit(2, BlockOp::Read { offset: MIB - 512, len: 512 });
        assert_eq!((rig.client.size(), rig.sent().len() == 1), (size, reaches_end));
        rig.step(ClientEvent::Resized(2 * MIB));
        rig.submit(3, BlockOp::Read { offset: 2 * MIB - 512, len: 512 });
        assert_eq!(rig.sent().len(), 1, "and it may grow again");
    }
}

#[test]
fn a_hold_of_who_is_fenced_is_never_said_to_be_there() {
    let mut rig = Rig::connected(MIB);
    rig.submit(1, write(MIB - 512, 512));
    rig.step(ClientEvent::Hold(512));
    rig.step(ClientEvent::Gone);
    rig.step(ClientEvent::SubmitBehind(BlockRequest { tag: 2, op: BlockOp::Discard { offset: 512, len: 512 } }));
    assert!(rig.fenced && rig.completed.iter().all(|(_, result)| matches!(result, Err(BlockError::Fenced))));
    assert_eq!((rig.completed.len(), rig.holds), (2, 0));
}
