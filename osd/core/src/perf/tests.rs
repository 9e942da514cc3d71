use super::*;

const WHOLES: [(Stage, &[Stage]); 3] = [
    (Stage::Write, &[Stage::WriteAdmit, Stage::WriteStore, Stage::WriteMembers, Stage::WriteAnswer]),
    (Stage::Read, &[Stage::ReadAdmit, Stage::ReadLease, Stage::ReadStore, Stage::ReadAnswer]),
    (Stage::Member, &[Stage::MemberAdmit, Stage::MemberStore, Stage::MemberAnswer]),
];

fn sums(perf: &Perf, stages: &[Stage]) -> Vec<u64> {
    stages.iter().map(|stage| perf.of(*stage).sum()).collect()
}

#[test]
fn what_this_process_works_is_in_the_stage_that_its_turn_ends() {
    let mut perf = Perf::new(Tick(0));
    let mut watch = Stopwatch::start(Tick(100));
    watch.go(Lap::Store, &perf, Tick(100));
    perf.on_turn_end(Tick(130));
    watch.come(Lap::Members, &perf, Tick(230));
    perf.on_turn_end(Tick(235));
    watch.come(Lap::Answer, &perf, Tick(300));
    perf.finish(Job::Write, watch);
    assert_eq!(perf.of(Stage::Write).count(), 0, "its answer has not left");
    perf.on_turn_end(Tick(307));
    assert_eq!(sums(&perf, WHOLES[0].1), [30, 100, 70, 7]);
    assert_eq!(perf.of(Stage::Write).sum(), 207);
}

#[test]
fn what_needs_nobody_is_answered_in_its_turn() {
    let mut perf = Perf::new(Tick(0));
    let mut watch = Stopwatch::start(Tick(100));
    watch.go(Lap::Store, &perf, Tick(100));
    watch.come(Lap::Answer, &perf, Tick(100));
    perf.finish(Job::Read, watch);
    perf.on_turn_end(Tick(120));
    assert_eq!(sums(&perf, WHOLES[1].1), [0, 0, 0, 20]);
}

#[test]
fn an_answer_that_leaves_before_the_end_of_its_turn_waits_no_longer() {
    let mut perf = Perf::new(Tick(0));
    let mut watch = Stopwatch::start(Tick(100));
    watch.come(Lap::Answer, &perf, Tick(100));
    perf.finish(Job::Read, watch);
    perf.on_answered(Tick(104));
    perf.on_turn_end(Tick(120));
    assert_eq!((perf.of(Stage::Read).count(), perf.of(Stage::Read).sum()), (1, 4));
}

#[test]
fn the_end_of_a_turn_that_is_long_gone_is_its_beginning() {
    let mut perf = Perf::new(Tick(0));
    let begun = perf.when_sent(Tick(10));
    perf.on_turn_end(Tick(15));
    perf.on_done(Stage::DiskWrite, begun, Tick(20));
    assert_eq!(perf.of(Stage::DiskWrite).max(), 5);
    (0..TURNS).for_each(|_| perf.on_turn_end(Tick(1000)));
    perf.on_done(Stage::DiskFlush, begun, Tick(2010));
    assert_eq!(perf.of(Stage::DiskFlush).max(), 2000);
}

/// Whatever happens in between, and however long: all laps of all requests add up to their wholes.
#[test]
fn the_parts_add_up_to_the_whole() {
    let mut perf = Perf::new(Tick(0));
    let (mut now, mut state) = (0u64, 1u64);
    let mut roll = |sides: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % sides
    };
    let laps = [Lap::Admit, Lap::Store, Lap::Answer];
    let mut under_way: Vec<(Job, u64, Stopwatch)> = Vec::new();
    let mut whole = [0; 3];
    for _ in 0..20_000 {
        now += roll(500);
        let mut answered = Vec::new();
        for _ in 0..roll(4) {
            let job = [Job::Write, Job::Read, Job::Member][roll(3) as usize];
            under_way.push((job, now, Stopwatch::start(Tick(now))));
        }
        for _ in 0..roll(6).min(under_way.len() as u64) {
            let index = roll(under_way.len() as u64) as usize;
            let lap = laps[roll(3) as usize];
            match roll(3) {
                0 => under_way[index].2.come(lap, &perf, Tick(now)),
                1 => under_way[index].2.go(lap, &perf, Tick(now)),
                _ => answered.push(under_way.swap_remove(index)),
            }
            if under_way.is_empty() {
                break;
            }
        }
        let end = now + roll(50);
        for (job, began, watch) in answered {
            whole[job as usize] += end - began;
            perf.finish(job, watch);
        }
        perf.on_turn_end(Tick(end));
        now = end;
    }
    for ((stage, parts), whole) in WHOLES.into_iter().zip(whole) {
        assert_eq!(perf.of(stage).sum(), whole, "{}", stage.name());
        assert_eq!(sums(&perf, parts).iter().sum::<u64>(), whole, "{}", stage.name());
        assert!(parts.iter().all(|part| perf.of(*part).count() == perf.of(stage).count()));
        assert!(perf.of(stage).count() > 1000);
    }
}

#[test]
fn news_come_each_second_and_only_of_what_has_changed() {
    let mut perf = Perf::new(Tick(0));
    assert_eq!(perf.news(Tick(5)), None);
    // A turn in which nothing came is none to tell of.
    perf.on_turn_end(Tick(10));
    assert_eq!(perf.news(Tick(10)), None);
    perf.on_message(Tick(20));
    perf.on_turn_end(Tick(25));
    let news = perf.news(Tick(30)).expect("a message has come");
    assert!(news.keys().eq(&[Stage::TurnBusy, Stage::TurnMessages]), "{news:?}");
    let begun = perf.when_sent(Tick(40));
    perf.on_done(Stage::DiskRead, begun, Tick(50));
    assert_eq!(perf.news(Tick(60)), None, "the last are not a second old");
    let news = perf.news(Tick(2_000_000)).expect("a second later");
    assert!(news.keys().eq(&[Stage::DiskRead]), "{news:?}");
    perf.on_news_lost(&news);
    assert_eq!(perf.news(Tick(4_000_000)), Some(news));
    assert_eq!(perf.news(Tick(6_000_000)), None);
}

#[test]
fn who_never_ends_a_turn_keeps_no_more_than_a_bound() {
    let mut perf = Perf::new(Tick(0));
    for now in 0..10_000 {
        perf.on_message(Tick(now));
        perf.finish(Job::Read, Stopwatch::start(Tick(now)));
    }
    assert!(perf.finished.len() < FINISHED_MAX);
    assert_eq!(perf.of(Stage::Read).count() + perf.finished.len() as u64, 10_000);
}
