//! What placement groups keep of volumes that are gone stays small, however many there were.

use ashlar_mds_core::state::{ClusterState, Command};
use ashlar_types::control::{ControlReply, ControlRequest, Provision, VolumeInfo};
use ashlar_types::view::Fences;
use ashlar_types::{AttachmentId, BootId, ClusterId, Generation, Name, OsdId, PoolId, Revision};
use ashlar_wire::{Decide, JoinMeta, JoinStart, Message, PromiseReply, Report};
use std::collections::{BTreeMap, VecDeque};

const DELETIONS: u64 = 200_000;
/// Volumes that live at a time, in two pools.
const LIVING: usize = 60;

struct Cluster {
    state: ClusterState,
    /// What every PG of each pool refuses.
    fences: BTreeMap<PoolId, Fences>,
}

impl Cluster {
    fn ask(&mut self, request: ControlRequest) -> ControlReply {
        self.state.apply(self.state.applied() + 1, Command::Request(request)).expect("nothing stands in the way")
    }

    fn create(&mut self, number: u64, pool: &str) -> VolumeInfo {
        let name = Name::new(&format!("v{number}")).expect("a good name");
        let pool = Some(Name::new(pool).expect("a good name"));
        match self.ask(ControlRequest::VolumeCreate { name, size: 512, pool, provision: Provision::Thin }) {
            ControlReply::Volume(info) => info,
            other => panic!("{other:?}"),
        }
    }

    fn delete(&mut self, volume: &VolumeInfo) {
        self.ask(ControlRequest::VolumeDelete { name: volume.name.clone(), with_snapshots: false });
    }

    /// Every PG passes the barriers that are pending, the newest first now and then.
    fn pass_barriers(&mut self, newest_first: bool) {
        let mut barriers = self.state.view_since(Revision(0)).barriers;
        if newest_first {
            barriers.reverse();
        }
        for barrier in barriers {
            let fences = self.fences.entry(barrier.pgs[0].pool).or_default();
            let part = barrier.fences();
            fences.raise(&part.beyond(&fences.clone()));
            self.ask(ControlRequest::BarrierPassed { barrier: barrier.id, pgs: barrier.pgs });
        }
    }
}

fn is_refused(fences: &Fences, volume: &VolumeInfo) -> bool {
    fences.fences(volume.id, AttachmentId(u64::MAX), Generation(u32::MAX))
        && volume.layers.iter().all(|layer| fences.retired.contains(*layer))
}

#[test]
fn two_hundred_thousand_deletions_leave_a_few_ranges() {
    let mut cluster = Cluster { state: ClusterState::new(ClusterId(7)), fences: BTreeMap::new() };
    let host = || "h".to_owned();
    cluster.ask(ControlRequest::OsdCreate { host: host() });
    let (osd, boot, address) = (OsdId(1), BootId(1), "h:1".to_owned());
    cluster.ask(ControlRequest::OsdRegister { osd, boot, address, host: host(), capacity: 1 << 40 });
    for name in ["a", "b"] {
        let name = Name::new(name).expect("a good name");
        cluster.ask(ControlRequest::PoolCreate { name, replicas: 1, min_size: None, over_commit: None });
    }
    let mut x = 3u64;
    let mut below = move |n: usize| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) as usize % n
    };
    let mut living: Vec<VolumeInfo> = Vec::new();
    let mut dead: VecDeque<VolumeInfo> = VecDeque::new();
    let mut deletions = 0;
    for number in 0.. {
        if deletions == DELETIONS {
            break;
        }
        let pool = ["a", "b"][below(2)];
        living.push(cluster.create(number, pool));
        if living.len() > LIVING {
            let at = below(living.len());
            let volume = living.swap_remove(at);
            cluster.delete(&volume);
            dead.push_back(volume);
            deletions += 1;
        }
        if below(4) == 0 {
            cluster.pass_barriers(below(2) == 0);
            // The last dead of each round, and one of long ago.
            dead.truncate(1000);
            for volume in &dead {
                assert!(is_refused(&cluster.fences[&volume.pool], volume), "{volume:?}");
            }
            dead.rotate_left(dead.len().min(1));
            dead.truncate(10);
        }
        if number % 1000 == 0 {
            for volume in &living {
                let fences = cluster.fences.get(&volume.pool).cloned().unwrap_or_default();
                assert!(!fences.fences(volume.id, AttachmentId(1), Generation(1)), "{volume:?} lives");
                assert!(volume.layers.iter().all(|layer| !fences.retired.contains(*layer)), "{volume:?} lives");
            }
        }
    }
    cluster.pass_barriers(false);
    for (pool, fences) in &cluster.fences {
        let alive = living.iter().filter(|v| v.pool == *pool).count();
        assert!(fences.gone.ranges().len() <= alive + 1 && fences.retired.ranges().len() <= alive + 1, "{fences:?}");
        assert!(fences.floors.is_empty(), "{fences:?}");
        for message in carriers(fences) {
            let bytes = ashlar_wire::encode(&message, ClusterId(7)).frame_bytes();
            assert!(bytes < 8192, "{bytes} bytes");
        }
    }
}

/// The messages in which all of it travels.
fn carriers(fences: &Fences) -> [Message; 3] {
    let fences = || fences.clone();
    let report = Report { fences: fences(), ..Report::default() };
    let (pg, epoch) = Default::default();
    let reply = PromiseReply { pg, epoch, outcome: ashlar_wire::Outcome::Ok, report: Some(report) };
    let meta = JoinMeta { fences: fences(), rolled_back: vec![] };
    [
        Message::PromiseReply(reply),
        Message::Decide(Decide { pg, epoch, decisions: vec![], fences: fences() }),
        Message::JoinStart(JoinStart { pg, epoch, join: 1, after: None, meta: Some(meta) }),
    ]
}
