//! A1 to A3: generations, sessions, floors and barriers.

use super::*;

impl Cluster {
    pub(super) fn attach(&mut self, gateway: &str, mode: AttachMode) -> Outcome {
        self.ask(ControlRequest::Attach { name: disk("v"), gateway: gateway.into(), mode, read_only: false })
    }

    pub(super) fn open(&mut self, gateway: &str, boot: u64) -> Result<AttachGrant, ControlError> {
        let request = ControlRequest::OpenAttachment { name: disk("v"), gateway: gateway.into(), boot: BootId(boot) };
        match self.ask(request)? {
            ControlReply::Opened(grant) => Ok(grant),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn detach(&mut self, gateway: Option<&str>) -> Outcome {
        self.ask(ControlRequest::Detach { name: disk("v"), gateway: gateway.map(str::to_owned) })
    }

    /// What a PG refuses once it has passed all barriers so far.
    fn fenced(&self, floor: &ashlar_types::view::Floor, grant: &AttachGrant) -> bool {
        floor.fences(grant.attachment, grant.generation)
    }

    /// Passes what is pending and raises `floor` as a PG does.
    fn pass_into(&mut self, floor: &mut ashlar_types::view::Floor) {
        for barrier in self.state.view_since(Revision(0)).barriers {
            floor.raise(&barrier.floor);
        }
        self.pass_barriers();
    }
}

fn is_fencing(result: &Result<AttachGrant, ControlError>) -> bool {
    matches!(result, Err(ControlError::Fencing { .. }))
}

#[test]
fn a_fresh_attachment_opens_without_waiting() {
    let mut cluster = Cluster::with_volume(3, 3);
    cluster.attach("g", AttachMode::Exclusive).expect("free");
    assert_eq!(cluster.show("v").expect("exists").state, VolumeState::Attached);
    let grant = cluster.open("g", 1).expect("nothing to fence");
    assert_eq!((grant.attachment, grant.generation), (AttachmentId(1), Generation(1)));
    assert_eq!(cluster.open("g", 1), Ok(grant), "the same process asks again");
    assert!(matches!(cluster.open("other", 1), Err(ControlError::NotFound { .. })));
    assert!(cluster.open("g", 0).is_err());
}

#[test]
fn a_second_attachment_is_refused_unless_both_share() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.attach("a", AttachMode::Exclusive).expect("free");
    for mode in [AttachMode::Exclusive, AttachMode::Shared] {
        assert!(matches!(cluster.attach("b", mode), Err(ControlError::Attached { holder, .. }) if holder == "a"));
    }
    assert!(cluster.attach("a", AttachMode::Exclusive).is_err());
    cluster.detach(Some("a")).expect("attached");
    cluster.attach("a", AttachMode::Shared).expect("free");
    cluster.attach("b", AttachMode::Shared).expect("both share");
    cluster.attach("b", AttachMode::Shared).expect("again, the same");
    assert!(cluster.attach("c", AttachMode::Exclusive).is_err());
    assert_eq!(cluster.show("v").expect("exists").attachments.len(), 2);
    assert!(matches!(
        cluster.ask(ControlRequest::VolumeDelete { name: name("v"), with_snapshots: false }),
        Err(ControlError::Attached { .. })
    ));
}

#[test]
fn a_shared_attachment_is_not_taken_for_one_of_the_other_kind() {
    let mut cluster = Cluster::with_volume(1, 1);
    let mut attach = |gateway: &str, read_only| {
        let (mode, gateway) = (AttachMode::Shared, gateway.to_owned());
        cluster.ask(ControlRequest::Attach { name: disk("v"), gateway, mode, read_only })
    };
    attach("a", false).expect("free");
    let refused = attach("a", true).expect_err("it would be written to").to_string();
    assert_eq!(refused, "volume \"v\" is attached to a for reading and writing, not read-only; detach it there first");
    attach("b", true).expect("another gateway may differ");
    assert!(attach("b", false).is_err());
    attach("b", true).expect("again, the same");
}

#[test]
fn a_new_process_of_the_gateway_waits_until_the_old_one_is_fenced() {
    let mut cluster = Cluster::with_volume(3, 3);
    cluster.attach("g", AttachMode::Exclusive).expect("free");
    let old = cluster.open("g", 1).expect("first");
    let waiting = cluster.open("g", 2);
    let Err(ControlError::Fencing { waiting_for }) = &waiting else { panic!("{waiting:?}") };
    assert!(waiting_for.contains("pg.1.0 (primary osd.") && waiting_for.contains("29 more"), "{waiting_for}");
    let mut floor = ashlar_types::view::Floor::default();
    cluster.pass_into(&mut floor);
    let new = cluster.open("g", 2).expect("fenced");
    assert!(new.generation > old.generation && new.session > old.session);
    assert!(cluster.fenced(&floor, &old) && !cluster.fenced(&floor, &new));
    assert!(matches!(cluster.open("g", 1), Err(ControlError::Attached { .. })), "the old one doesn't take it back");
}

#[test]
fn force_fences_everybody_else_for_good() {
    let mut cluster = Cluster::with_volume(3, 3);
    let mut floor = ashlar_types::view::Floor::default();
    cluster.attach("a", AttachMode::Exclusive).expect("free");
    let first = cluster.open("a", 1).expect("first");
    assert!(is_fencing(&cluster.open("a", 2)));
    cluster.pass_into(&mut floor);
    let second = cluster.open("a", 2).expect("its second process");
    cluster.attach("b", AttachMode::Force).expect("taken over");
    assert!(is_fencing(&cluster.open("b", 3)));
    assert!(matches!(cluster.open("a", 2), Err(ControlError::NotFound { .. })));
    cluster.pass_into(&mut floor);
    let third = cluster.open("b", 3).expect("fenced");
    assert!(cluster.fenced(&floor, &first) && cluster.fenced(&floor, &second) && !cluster.fenced(&floor, &third));
    cluster.attach("a", AttachMode::Force).expect("taken back");
    cluster.pass_into(&mut floor);
    let fourth = cluster.open("a", 2).expect("a new attachment");
    assert!(fourth.attachment > third.attachment);
    for old in [&first, &second, &third] {
        assert!(cluster.fenced(&floor, old));
    }
    assert!(!cluster.fenced(&floor, &fourth));
}

#[test]
fn force_at_the_same_gateway_keeps_the_attachment_and_raises_its_generation() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.attach("a", AttachMode::Exclusive).expect("free");
    let old = cluster.open("a", 1).expect("first");
    cluster.attach("a", AttachMode::Force).expect("its own");
    assert!(is_fencing(&cluster.open("a", 1)));
    cluster.pass_barriers();
    let new = cluster.open("a", 1).expect("the same process may have it again");
    assert_eq!((new.attachment, new.generation), (old.attachment, Generation(2)));
    assert!(new.session > old.session, "A2");
}

#[test]
fn who_detached_is_fenced_before_the_next_one_starts() {
    let mut cluster = Cluster::with_volume(1, 1);
    let mut floor = ashlar_types::view::Floor::default();
    cluster.attach("a", AttachMode::Exclusive).expect("free");
    let old = cluster.open("a", 1).expect("first");
    cluster.detach(None).expect("attached");
    assert!(cluster.detach(None).is_err());
    cluster.attach("a", AttachMode::Exclusive).expect("free");
    assert!(is_fencing(&cluster.open("a", 1)));
    cluster.pass_into(&mut floor);
    let new = cluster.open("a", 1).expect("fenced");
    assert!(cluster.fenced(&floor, &old) && !cluster.fenced(&floor, &new));
}

#[test]
fn an_attachment_never_opened_leaves_nothing_to_fence() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.attach("a", AttachMode::Exclusive).expect("free");
    cluster.attach("b", AttachMode::Force).expect("taken over");
    assert!(cluster.state.view_since(Revision(0)).barriers.is_empty());
    cluster.open("b", 1).expect("nothing to wait for");
}

#[test]
fn one_of_several_sharers_is_fenced_without_the_others() {
    let mut cluster = Cluster::with_volume(1, 1);
    let mut floor = ashlar_types::view::Floor::default();
    for gateway in ["a", "b", "c"] {
        cluster.attach(gateway, AttachMode::Shared).expect("all share");
    }
    let grants: Vec<_> = ["a", "b", "c"].iter().map(|g| cluster.open(g, 1).expect("fresh")).collect();
    cluster.detach(Some("b")).expect("attached");
    cluster.pass_into(&mut floor);
    let fenced: Vec<_> = grants.iter().map(|g| cluster.fenced(&floor, g)).collect();
    assert_eq!(fenced, [false, true, false]);
    cluster.detach(Some("a")).expect("attached");
    cluster.pass_into(&mut floor);
    let fenced: Vec<_> = grants.iter().map(|g| cluster.fenced(&floor, g)).collect();
    assert_eq!(fenced, [true, true, false]);
}

#[test]
fn a_barrier_that_was_replaced_lets_nobody_start() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.attach("a", AttachMode::Exclusive).expect("free");
    cluster.open("a", 1).expect("first");
    assert!(is_fencing(&cluster.open("a", 2)));
    let first = cluster.state.view_since(Revision(0)).barriers.remove(0);
    assert!(is_fencing(&cluster.open("a", 3)));
    cluster.ask(ControlRequest::BarrierPassed { barrier: first.id, pgs: first.pgs }).expect("late, ignored");
    assert!(is_fencing(&cluster.open("a", 3)), "A3");
    cluster.pass_barriers();
    assert_eq!(cluster.open("a", 3).expect("fenced").generation, Generation(3));
}

#[test]
fn attachments_show_where_their_gateway_listens() {
    let mut cluster = Cluster::with_volume(1, 1);
    cluster.attach("a", AttachMode::Exclusive).expect("free");
    cluster
        .ask(ControlRequest::RegisterGateway {
            gateway: "a".into(),
            boot: BootId(1),
            nbd_address: "127.0.0.1:10809".into(),
            nbd_socket: "/run/a".into(),
        })
        .expect("noted");
    let list = |gateway: Option<&str>| cluster.state.attachment_list(gateway);
    assert_eq!(list(Some("a"))[0].nbd_address, "127.0.0.1:10809");
    assert_eq!((list(None).len(), list(Some("b")).len()), (1, 0));
    assert!(!list(None)[0].active);
}
