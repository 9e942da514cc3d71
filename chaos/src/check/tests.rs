use super::register::settle_unanswered;
use super::*;
use crate::rng::Rng;

fn write(value: u64, invoked: u64, until: u64) -> RegisterOp {
    RegisterOp { access: Access::Write(Value(value)), invoked, until, answered: true }
}

fn read(value: u64, invoked: u64, until: u64) -> RegisterOp {
    RegisterOp { access: Access::Read(Value(value)), invoked, until, answered: true }
}

fn unanswered(value: u64, invoked: u64) -> RegisterOp {
    RegisterOp { access: Access::Write(Value(value)), invoked, until: u64::MAX, answered: false }
}

/// Both algorithms, where both apply.
fn is_good(ops: &[RegisterOp]) -> bool {
    let settled = settle_unanswered(ops);
    let by_search = search::check(Value::ZERO, &settled).is_ok();
    if !settled.iter().any(|op| op.access == Access::Write(Value::ZERO)) {
        assert_eq!(by_search, zones::check(&settled).is_ok(), "the algorithms disagree: {ops:?}");
    }
    by_search
}

#[test]
fn what_one_disk_would_do_is_good() {
    assert!(is_good(&[read(0, 1, 2), write(7, 3, 4), read(7, 5, 6), write(8, 7, 8), read(8, 9, 10)]));
    // Two writes at once may be seen in either order, but only in one.
    let both = [write(7, 1, 10), write(8, 2, 9)];
    assert!(is_good(&[both[0], both[1], read(7, 11, 12)]));
    assert!(is_good(&[both[0], both[1], read(8, 11, 12)]));
    assert!(!is_good(&[both[0], both[1], read(8, 11, 12), read(7, 13, 14)]));
}

#[test]
fn a_lost_write_is_found() {
    assert!(!is_good(&[write(7, 1, 2), read(0, 3, 4)]));
    assert!(!is_good(&[write(7, 1, 2), write(8, 3, 4), read(7, 5, 6)]));
}

#[test]
fn a_stale_read_is_found() {
    assert!(!is_good(&[write(7, 1, 2), write(8, 3, 10), read(8, 4, 5), read(7, 6, 7)]));
    assert!(is_good(&[write(7, 1, 2), write(8, 3, 10), read(8, 4, 7), read(7, 5, 6)]));
}

#[test]
fn a_write_that_comes_back_is_found() {
    let ops = [write(7, 1, 2), read(7, 3, 4), write(8, 5, 6), read(8, 7, 8), read(7, 9, 10)];
    assert!(!is_good(&ops));
}

#[test]
fn an_unanswered_write_counts_once_or_never() {
    let base = [write(7, 1, 2), unanswered(9, 3)];
    let seen = |values: &[u64]| {
        let reads = values.iter().enumerate().map(|(i, v)| read(*v, 10 + 2 * i as u64, 11 + 2 * i as u64));
        is_good(&base.into_iter().chain(reads).collect::<Vec<_>>())
    };
    assert!(seen(&[7, 7]));
    assert!(seen(&[7, 9]));
    assert!(seen(&[9, 9]));
    assert!(!seen(&[9, 7]), "it was undone");
    assert!(!seen(&[9, 0]));
}

#[test]
fn a_value_from_the_future_or_from_nowhere_is_found() {
    assert!(!is_good(&[read(7, 1, 2), write(7, 3, 4)]));
    assert!(!is_good(&[read(5, 1, 2)]));
}

#[test]
fn zeroes_may_be_written_many_times() {
    assert!(is_good(&[
        write(7, 1, 2),
        write(0, 3, 4),
        read(0, 5, 6),
        write(8, 7, 8),
        write(0, 9, 10),
        read(0, 11, 12)
    ]));
    assert!(!is_good(&[write(7, 1, 2), write(0, 3, 4), read(7, 5, 6)]), "a lost zero");
    assert!(!is_good(&[write(7, 1, 2), write(0, 3, 4), write(8, 5, 6), read(0, 7, 8)]), "a zero came back");
    assert!(is_good(&[write(7, 1, 2), unanswered(0, 3), write(8, 5, 6), read(0, 7, 8)]), "it came late");
    assert!(
        !is_good(&[write(7, 1, 2), unanswered(0, 3), read(0, 7, 8), write(8, 9, 10), read(0, 11, 12)]),
        "it came twice"
    );
}

#[test]
fn an_unanswered_zero_takes_effect_before_its_fence_or_never() {
    let fenced = RegisterOp { until: 6, ..unanswered(0, 3) };
    assert!(is_good(&[write(7, 1, 2), fenced, read(0, 7, 8)]));
    assert!(is_good(&[write(7, 1, 2), fenced, read(7, 7, 8)]));
    assert!(!is_good(&[write(7, 1, 2), fenced, read(7, 7, 8), read(0, 9, 10)]));
}

/// Histories made by a real register are good; with one read falsified they are judged alike by both algorithms.
#[test]
fn random_histories_are_judged_alike_by_both_algorithms() {
    let mut found_bad = 0;
    for seed in 0..3000 {
        let mut rng = Rng::new(seed);
        let mut ops = real_history(&mut rng);
        assert!(is_good(&ops), "seed {seed}: {ops:?}");
        let i = rng.index(ops.len());
        if let Access::Read(_) = ops[i].access {
            ops[i].access = Access::Read(Value(rng.below(8)));
            found_bad += u32::from(!is_good(&ops));
        }
    }
    assert!(found_bad > 500, "only {found_bad}");
}

/// Each operation takes effect at a moment between its request and its answer.
fn real_history(rng: &mut Rng) -> Vec<RegisterOp> {
    let count = rng.between(3, 14);
    let mut moments: Vec<u64> = (1..=count * 3 * 4).collect();
    for i in (1..moments.len()).rev() {
        moments.swap(i, rng.index(i + 1));
    }
    let mut plans: Vec<(u64, u64, u64)> = Vec::new();
    for _ in 0..count {
        let width = rng.between(3, 12);
        let start = moments.pop().expect("enough");
        let mut triple = [start, moments.pop().expect("enough"), moments.pop().expect("enough")];
        triple.sort_unstable();
        // Keeps most operations short without making two moments equal.
        if triple[2] - triple[0] < width * 8 {
            plans.push((triple[0], triple[1], triple[2]));
        } else {
            plans.push((triple[0], triple[0], triple[1]));
        }
    }
    let mut order: Vec<usize> = (0..plans.len()).collect();
    order.sort_by_key(|i| plans[*i].1);
    let mut holds = 0;
    let mut next = 0;
    let mut ops = Vec::new();
    for i in order {
        let (invoked, _, until) = plans[i];
        if rng.permille(500) {
            next += 1;
            holds = next;
            ops.push(RegisterOp { answered: rng.permille(800), ..write(next, invoked, until) });
            if !ops.last().expect("just pushed").answered {
                ops.last_mut().expect("just pushed").until = u64::MAX;
            }
        } else {
            ops.push(read(holds, invoked, until));
        }
    }
    ops
}

#[test]
fn a_torn_block_is_found_but_not_between_blocks() {
    let mut history = History::default();
    let client = ClientNumber(1);
    let wide = history.invoke(client, OpKind::Write, 0, 0, 16);
    let data = history.payload(wide);
    let reader = history.invoke(client, OpKind::Read, 0, 0, 16);
    let mut half = data.clone();
    half[4096..].fill(0);
    history.answer_read(reader, &half);
    assert!(history.check().is_ok(), "{:?}", history.check());
    let reader = history.invoke(client, OpKind::Read, 0, 0, 8);
    let mut torn = data[..4096].to_vec();
    torn[512..].fill(0);
    history.answer_read(reader, &torn);
    let violations = history.check().expect_err("torn");
    assert!(violations[0].reason.contains("torn"), "{violations:?}");
}

#[test]
fn sectors_of_another_place_are_found() {
    let mut history = History::default();
    let client = ClientNumber(1);
    let op = history.invoke(client, OpKind::Write, 0, 0, 8);
    let data = history.payload(op);
    history.answer(op);
    let reader = history.invoke(client, OpKind::Read, 0, 8, 8);
    history.answer_read(reader, &data);
    assert!(history.check().is_err());
}

#[test]
fn partial_writes_are_checked_by_sector() {
    let mut history = History::default();
    let client = ClientNumber(1);
    let mut block = vec![0u8; 4096];
    for sector in [0usize, 3] {
        let op = history.invoke(client, OpKind::Write, 0, sector as u64, 1);
        block[sector * 512..(sector + 1) * 512].copy_from_slice(&history.payload(op));
        history.answer(op);
    }
    let reader = history.invoke(client, OpKind::Read, 0, 0, 8);
    history.answer_read(reader, &block);
    assert!(history.check().is_ok());
    let reader = history.invoke(client, OpKind::Read, 0, 3, 1);
    history.answer_read(reader, &[0; 512]);
    assert!(history.check().is_err(), "the second write is lost");
}

#[test]
fn no_write_lands_after_a_fence() {
    let (old, new) = (ClientNumber(1), ClientNumber(2));
    let mut history = History::default();
    let late = history.invoke(old, OpKind::Write, 0, 0, 8);
    history.fence(old);
    let mut read_as = |bytes: &[u8]| {
        let reader = history.invoke(new, OpKind::Read, 0, 0, 8);
        history.answer_read(reader, bytes);
        history.check().is_ok()
    };
    assert!(read_as(&[0; 4096]));
    let mut other = History::default();
    other.invoke(old, OpKind::Write, 0, 0, 8);
    assert!(!read_as(&other.payload(OpRef(late.0))));
}

#[test]
fn many_writes_at_once_are_decided() {
    let crowd = |last: u64| {
        let writes = (1..=40).map(|n| write(n, n, 200 - n));
        let zero = write(0, 50, 160);
        writes.chain([zero, read(7, 201, 202), read(last, 203, 204)]).collect::<Vec<_>>()
    };
    assert_eq!(check_register(Value::ZERO, &crowd(7)), Ok(Verdict::Linearizable));
    assert!(check_register(Value::ZERO, &crowd(0)).is_err(), "nobody wrote it after what was read last");
}

#[test]
fn reads_of_one_moment_are_one() {
    let reads = (0..100).map(|_| read(7, 3, 6));
    let ops: Vec<_> = [write(7, 1, 2), write(0, 4, 5)].into_iter().chain(reads).collect();
    assert_eq!(check_register(Value::ZERO, &ops), Ok(Verdict::Linearizable));
}

#[test]
fn a_register_may_begin_with_something() {
    let check = |ops: &[RegisterOp]| check_register(Value(9), ops).is_ok();
    assert!(check(&[read(9, 1, 2), write(7, 3, 4), read(7, 5, 6)]));
    assert!(!check(&[read(0, 1, 2)]), "it was never zero");
    assert!(!check(&[write(7, 3, 4), read(9, 5, 6)]), "it was replaced");
    assert!(check(&[read(9, 1, 2), write(0, 3, 4), read(0, 5, 6)]));
    assert!(!check(&[read(9, 1, 2), write(0, 3, 4), read(9, 5, 6)]), "it was zeroed");
}

/// A volume 0 whose block 0 is written, and two registers that begin as what it was then.
fn with_two_registers() -> (History, Vec<u8>) {
    let mut history = History::default();
    let bytes = write_block(&mut history, 0);
    let of = history.begin_snapshot(0);
    history.end_snapshot(of);
    history.clone_volume(1, of);
    history.clone_volume(2, of);
    (history, bytes)
}

fn write_block(history: &mut History, volume: u32) -> Vec<u8> {
    let op = history.invoke(ClientNumber(1), OpKind::Write, volume, 0, SECTORS_PER_BLOCK);
    let bytes = history.payload(op);
    history.answer(op);
    bytes
}

fn read_block(history: &mut History, volume: u32, bytes: &[u8]) {
    let op = history.invoke(ClientNumber(1), OpKind::Read, volume, 0, SECTORS_PER_BLOCK);
    history.answer_read(op, bytes);
}

#[test]
fn what_was_written_in_one_clone_is_found_in_another_and_in_their_origin() {
    for volume in [0, 1, 2] {
        let (mut history, before) = with_two_registers();
        let written = write_block(&mut history, 1);
        read_block(&mut history, 1, &written);
        read_block(&mut history, 2, &before);
        read_block(&mut history, 0, &before);
        assert!(history.check().is_ok());
        read_block(&mut history, volume, &written);
        assert_eq!(history.check().is_ok(), volume == 1, "volume {volume}");
    }
}

#[test]
fn a_clone_that_has_lost_what_its_origin_had_is_found_though_nobody_else_reads_it() {
    let (mut history, bytes) = with_two_registers();
    read_block(&mut history, 1, &vec![0; bytes.len()]);
    assert!(history.check().is_err());
}

#[test]
fn zeroes_that_were_written_in_a_clone_say_nothing_of_its_origin() {
    let (mut history, bytes) = with_two_registers();
    let op = history.invoke(ClientNumber(1), OpKind::Zero, 1, 0, SECTORS_PER_BLOCK);
    history.answer(op);
    read_block(&mut history, 1, &vec![0; bytes.len()]);
    read_block(&mut history, 2, &bytes);
    assert!(history.check().is_ok());
}
