use super::*;
use ashlar_types::{BootId, Epoch, PgId};
use ashlar_wire::{CreditGrant, Hello, PeerHello};

const CLIENT: ProcId = ProcId::Client(1);
const SERVER: OsdId = OsdId(2);
const CLUSTER: ClusterId = ClusterId(7);

fn profile() -> NetProfile {
    NetProfile { delay: 100, late_rest_permille: 1000, patience: 300 * MS, flips_per_million: 0 }
}

fn message(n: u64) -> Message {
    Message::CreditGrant(CreditGrant { pg: PgId::default(), epoch: Epoch(1), wanted_total: n, granted_total: n })
}

fn number(event: &NetEvent) -> Option<u64> {
    match event {
        NetEvent::Received(_, Message::CreditGrant(m)) | NetEvent::LinkReceived(_, Message::CreditGrant(m)) => {
            Some(m.granted_total)
        }
        _ => None,
    }
}

/// Runs until nothing happens any more, or until `end`.
fn run(net: &mut Net, queue: &mut Queue<NetTimer>, end: Instant) -> Vec<(ProcId, NetEvent)> {
    let mut told = Vec::new();
    net.schedule(queue, |t| t);
    while let Some((now, timer)) = queue.take() {
        if now > end {
            queue.put(now, timer);
            break;
        }
        net.on_timer(now, timer, |_| true);
        told.append(&mut net.told);
        net.schedule(queue, |t| t);
    }
    told
}

/// A network with one connection, whose server was greeted.
fn connected(profile: NetProfile) -> (Net, Queue<NetTimer>) {
    let mut net = Net::new(Rng::new(1), CLUSTER, profile);
    let mut queue = Queue::default();
    net.open(0, CLIENT, SERVER);
    let told = run(&mut net, &mut queue, SECOND / 2);
    assert!(matches!(told[..], [(CLIENT, NetEvent::LinkUp(SERVER))]));
    greet(&mut net, SECOND / 2);
    let told = run(&mut net, &mut queue, SECOND);
    assert!(matches!(told[..], [(_, NetEvent::Received(_, Message::Hello(_)))]));
    (net, queue)
}

fn greet(net: &mut Net, now: Instant) {
    let from = PeerHello::Osd { id: OsdId(1), boot: BootId(1) };
    net.send_on_link(now, CLIENT, SERVER, &Message::Hello(Hello { cluster: CLUSTER, to: SERVER, from, connection: 1 }));
}

#[test]
fn a_connection_delivers_in_order() {
    let (mut net, mut queue) = connected(profile());
    (0..50).for_each(|n| net.send_on_link(SECOND, CLIENT, SERVER, &message(n)));
    let arrived: Vec<u64> = run(&mut net, &mut queue, 2 * SECOND).iter().filter_map(|(_, e)| number(e)).collect();
    assert_eq!(arrived, (0..50).collect::<Vec<_>>());
}

#[test]
fn the_rest_of_an_old_connection_arrives_after_the_new_one_stands() {
    let (mut net, mut queue) = connected(profile());
    net.send_on_link(SECOND, CLIENT, SERVER, &message(1));
    net.open(SECOND, CLIENT, SERVER);
    run(&mut net, &mut queue, SECOND + 5 * MS);
    greet(&mut net, SECOND + 5 * MS);
    net.send_on_link(SECOND + 5 * MS, CLIENT, SERVER, &message(2));
    let arrived: Vec<u64> = run(&mut net, &mut queue, 9 * SECOND).iter().filter_map(|(_, e)| number(e)).collect();
    assert_eq!(arrived, [2, 1]);
}

#[test]
fn what_is_sent_into_a_cut_waits_and_arrives_when_it_heals() {
    let (mut net, mut queue) = connected(profile());
    net.cut(CLIENT, ProcId::Osd(SERVER));
    net.send_on_link(SECOND, CLIENT, SERVER, &message(1));
    assert!(run(&mut net, &mut queue, SECOND + 200 * MS).is_empty());
    net.heal(SECOND + 200 * MS, CLIENT, ProcId::Osd(SERVER));
    assert_eq!(run(&mut net, &mut queue, 2 * SECOND).len(), 1);
}

#[test]
fn a_sender_gives_up_and_the_receiver_hears_of_it_later() {
    let (mut net, mut queue) = connected(profile());
    net.cut(CLIENT, ProcId::Osd(SERVER));
    net.send_on_link(SECOND, CLIENT, SERVER, &message(1));
    let told = run(&mut net, &mut queue, 9 * SECOND);
    assert!(matches!(told[..], [(CLIENT, NetEvent::LinkDown(_)), (ProcId::Osd(_), NetEvent::Closed(_))]), "{told:?}");
    assert!(net.conns.is_empty());
}

#[test]
fn a_damaged_frame_ends_its_connection() {
    let mut dropped = 0;
    for seed in 0..50 {
        let (mut net, mut queue) = connected(profile());
        net.rng = Rng::new(seed);
        net.profile.flips_per_million = 1_000_000;
        net.send_on_link(SECOND, CLIENT, SERVER, &message(1));
        net.profile.flips_per_million = 0;
        // Behind it, should its length be what is damaged.
        (2..20_000).for_each(|n| net.send_on_link(SECOND, CLIENT, SERVER, &message(n)));
        let told = run(&mut net, &mut queue, 9 * SECOND);
        assert_eq!(net.flipped, 1);
        assert!(told.iter().all(|(_, event)| number(event).is_none()), "seed {seed}: {:?}", net.notes);
        let ends: Vec<_> = told.iter().map(|(to, _)| *to).collect();
        assert_eq!(ends, [ProcId::Osd(SERVER), CLIENT], "seed {seed}: {:?}", net.notes);
        dropped += net.malformed;
    }
    assert_eq!(dropped, 50);
}

use crate::clock::SECOND;
