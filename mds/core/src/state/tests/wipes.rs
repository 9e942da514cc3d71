//! V1 and V2: what is deleted securely, who is asked, and what the record says.

use super::*;
use ashlar_types::WipeId;
use ashlar_types::wipe::{WipeInfo, WipeReport, WipeState};

const NOW: u64 = 1_800_000_000;

fn report(overwritten: u64) -> WipeReport {
    WipeReport { ended_at: NOW + 9, overwritten, found_zero: 7, unverified: 0, damaged_pages: 0 }
}

fn infos(outcome: Outcome) -> Result<Vec<WipeInfo>, ControlError> {
    match outcome? {
        ControlReply::Wipes(infos) => Ok(infos),
        other => panic!("{other:?}"),
    }
}

impl Cluster {
    pub(super) fn wipe(&mut self, volume: &str, with_snapshots: bool) -> Result<WipeInfo, ControlError> {
        let request = ControlRequest::VolumeWipe { name: name(volume), with_snapshots, at: NOW };
        infos(self.ask(request)).map(|infos| infos[0].clone())
    }

    pub(super) fn wipe_done(&mut self, osd: u32, wipes: &[WipeId]) -> Outcome {
        let (osd, wipes) = (OsdId(osd), wipes.to_vec());
        self.ask(ControlRequest::WipeDone { osd, wipes, report: report(4096) })
    }

    fn wipe_forget(&mut self, wipe: WipeId, give_up: bool) -> Outcome {
        self.ask(ControlRequest::WipeForget { wipe, give_up })
    }

    fn wipes(&self) -> Vec<WipeInfo> {
        infos(self.state.query(&ControlRequest::WipeList).expect("a read")).expect("a list")
    }

    /// Who is asked, by the view.
    fn wished(&self) -> Vec<(WipeId, Vec<u32>)> {
        let wipes = self.state.view_since(Revision(0)).wipes;
        wipes.into_iter().map(|wipe| (wipe.id, wipe.osds.iter().map(|osd| osd.0).collect())).collect()
    }
}

#[test]
fn all_osds_are_asked_when_the_volume_is_gone_until_each_has_told() {
    let mut cluster = Cluster::with_volume(3, 2);
    let info = cluster.wipe("v", false).expect("nobody has it");
    assert_eq!((info.state, info.asked_at, info.size), (WipeState::Deleting, NOW, 1 << 30));
    assert!(cluster.wished().is_empty(), "its layers are still there");
    cluster.pass_barriers();
    assert!(cluster.show("v").is_err(), "its name is free");
    assert_eq!(cluster.wished(), [(info.id, vec![1, 2, 3])], "also one that may never have had it");
    cluster.wipe_done(2, &[info.id]).expect("noted");
    cluster.wipe_done(2, &[info.id]).expect("told again");
    assert_eq!(cluster.wished(), [(info.id, vec![1, 3])]);
    cluster.wipe_done(1, &[info.id]).expect("noted");
    assert_eq!(cluster.wipes()[0].state, WipeState::Wiping);
    cluster.wipe_done(3, &[info.id]).expect("noted");
    assert!(cluster.wished().is_empty());
    let [done] = &cluster.wipes()[..] else { panic!("one") };
    assert_eq!((done.state, done.volume_name.as_str(), done.pool_name.as_str()), (WipeState::Done, "v", "p"));
    assert!(done.parts.iter().all(|part| part.report == Some(report(4096))));
    cluster.wipe_forget(info.id, false).expect("done");
    assert!(cluster.wipes().is_empty());
}

#[test]
fn one_report_is_for_several_wipes_and_only_for_those_that_have_begun() {
    let mut cluster = Cluster::with_volume(2, 2);
    cluster.volume("w", 512).expect("made");
    let first = cluster.wipe("v", false).expect("nobody has it").id;
    cluster.pass_barriers();
    let second = cluster.wipe("w", false).expect("nobody has it").id;
    cluster.wipe_done(1, &[first, second, WipeId(99)]).expect("noted as far as it is asked for");
    cluster.pass_barriers();
    assert_eq!(cluster.wished(), [(first, vec![2]), (second, vec![1, 2])]);
    cluster.wipe_done(2, &[first, second]).expect("noted");
    cluster.wipe_done(1, &[first, second]).expect("noted");
    assert!(cluster.wished().is_empty());
}

#[test]
fn what_clones_stand_on_is_wiped_when_the_last_is_gone() {
    let mut cluster = Cluster::with_volume(2, 2);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    let names = vec![name("c")];
    cluster.ask(ControlRequest::VolumeClone { source: disk("v@s"), names, pool: None }).expect("cloned");
    let info = cluster.wipe("v", true).expect("nobody has it");
    assert_eq!((info.state, info.clones), (WipeState::Kept, 1));
    cluster.pass_barriers();
    assert!(cluster.wished().is_empty());
    let text = refusal(cluster.wipe_forget(info.id, true));
    assert!(text.contains("is not gone yet"), "{text}");
    cluster.ask(ControlRequest::VolumeDelete { name: name("c"), with_snapshots: false }).expect("nobody has it");
    for _ in 0..4 {
        cluster.pass_barriers();
    }
    assert_eq!(cluster.wished(), [(info.id, vec![1, 2])]);
}

#[test]
fn a_volume_that_is_being_deleted_can_still_be_wiped() {
    let mut cluster = Cluster::with_volume(2, 2);
    cluster.ask(ControlRequest::VolumeDelete { name: name("v"), with_snapshots: false }).expect("nobody has it");
    let info = cluster.wipe("v", false).expect("it is being deleted");
    assert_eq!(cluster.wipe("v", false).expect("asked again").id, info.id);
    cluster.pass_barriers();
    assert_eq!(cluster.wished(), [(info.id, vec![1, 2])]);
}

#[test]
fn a_volume_in_the_bin_can_be_wiped() {
    let mut cluster = Cluster::with_volume(2, 2);
    let info = cluster.put_in_bin("v", Some(60)).expect("nobody has it").remove(0);
    cluster.ask(ControlRequest::BinWipe { volume: info.id, at: NOW }).expect("in the bin");
    let text = refusal(cluster.ask(ControlRequest::BinWipe { volume: info.id, at: NOW }));
    assert!(text.contains("does not exist"), "{text}");
    cluster.pass_barriers();
    assert_eq!(cluster.wished().len(), 1);
}

#[test]
fn what_is_refused_leaves_no_record() {
    let mut cluster = Cluster::with_volume(2, 2);
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    assert!(cluster.wipe("v", false).expect_err("has a snapshot").to_string().contains("--snapshots"));
    cluster.attach_disk("v", "g").expect("free");
    assert!(matches!(cluster.wipe("v", true), Err(ControlError::Attached { .. })));
    assert!(matches!(cluster.wipe("nobody", true), Err(ControlError::NotFound { .. })));
    assert!(cluster.wipes().is_empty());
    assert!(refusal(cluster.wipe_forget(WipeId(1), true)).contains("does not exist"));
}

#[test]
fn osds_that_never_come_back_are_given_up_by_name() {
    let mut cluster = Cluster::with_volume(3, 2);
    let id = cluster.wipe("v", false).expect("nobody has it").id;
    cluster.pass_barriers();
    cluster.down(2);
    cluster.wipe_done(1, &[id]).expect("noted");
    let text = refusal(cluster.wipe_forget(id, false));
    assert!(text.contains("waits for osd.2, osd.3") && text.contains("--give-up"), "{text}");
    cluster.wipe_forget(id, true).expect("given up");
    let [info] = &cluster.wipes()[..] else { panic!("kept as a record") };
    assert_eq!(info.state, WipeState::Done);
    let parts: Vec<_> = info.parts.iter().map(|part| (part.osd.0, part.up, part.given_up)).collect();
    assert_eq!(parts, [(1, true, false), (2, false, true), (3, true, true)]);
    cluster.wipe_done(3, &[id]).expect("too late, and no harm");
    assert!(cluster.wipes()[0].parts[2].given_up);
}
