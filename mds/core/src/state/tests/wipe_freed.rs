//! W1 to W3: which layers the view says are wiped as they free, and when all free space is.

use super::*;
use ashlar_types::IdSet;
use ashlar_types::wipe::FreedWipes;

impl Cluster {
    pub(super) fn set_wipe_freed(&mut self, volumes: &[&str], on: bool) -> Result<Vec<VolumeInfo>, ControlError> {
        let names = volumes.iter().map(|volume| name(volume)).collect();
        match self.ask(ControlRequest::VolumeSetWipeFreed { names, on })? {
            ControlReply::Volumes(infos) => Ok(infos),
            other => panic!("{other:?}"),
        }
    }

    fn told(&self) -> FreedWipes {
        self.state.view_since(Revision(0)).wipe_freed.expect("there was such a volume")
    }

    fn top(&self, volume: &str) -> LayerId {
        self.show(volume).expect("exists").layers[0]
    }
}

#[test]
fn the_view_names_the_layers_of_such_volumes_and_says_up_to_where_it_knows() {
    let mut cluster = Cluster::with_volume(3, 3);
    cluster.volume("w", 1 << 30).expect("made");
    assert_eq!(cluster.state.view_since(Revision(0)).wipe_freed, None);
    let infos = cluster.set_wipe_freed(&["v"], true).expect("there");
    assert!(infos[0].wipe_freed && !cluster.show("w").expect("there").wipe_freed);
    let told = cluster.told();
    assert!(told.layers.contains(cluster.top("v")) && !told.layers.contains(cluster.top("w")));
    assert!(cluster.top("w") < told.known_below);
    let before = cluster.state.view_revision();
    cluster.volume("x", 1 << 30).expect("made");
    let now = cluster.state.view_since(before).wipe_freed.expect("told anew");
    assert!(cluster.top("x") < now.known_below && !now.layers.contains(cluster.top("x")));
    let before = cluster.state.view_revision();
    cluster.pool("p2", 3).expect("made");
    assert_eq!(cluster.state.view_since(before).wipe_freed, None, "nothing of it has changed");
}

#[test]
fn a_new_layer_of_such_a_volume_is_told_and_one_that_is_gone_is_not() {
    let mut cluster = Cluster::with_volume(3, 3);
    cluster.set_wipe_freed(&["v"], true).expect("there");
    let old = cluster.top("v");
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    assert!(cluster.told().layers.contains(old) && cluster.told().layers.contains(cluster.top("v")));
    let delete = ControlRequest::VolumeDelete { name: name("v"), with_snapshots: true };
    cluster.ask(delete).expect("nobody has it");
    assert!(cluster.told().layers.contains(old), "it is not gone yet");
    cluster.pass_barriers();
    assert_eq!(cluster.told().layers, IdSet::default());
    assert_eq!(cluster.told().sweep, 1, "whoever starts looks at all that is free");
}

#[test]
fn all_free_space_is_wiped_once_more_when_a_volume_that_is_there_becomes_one() {
    let mut cluster = Cluster::with_volume(3, 3);
    cluster.set_wipe_freed(&["v"], true).expect("there");
    cluster.set_wipe_freed(&["v"], true).expect("it is one");
    assert_eq!(cluster.told().sweep, 1);
    let (name, pool, provision) = (name("w"), None, Provision::Thin);
    let made = cluster.ask(ControlRequest::VolumeCreateWiping { name, size: 1 << 30, pool, provision });
    assert!(matches!(made, Ok(ControlReply::Volume(info)) if info.wipe_freed));
    assert!(cluster.told().layers.contains(cluster.top("w")));
    assert_eq!(cluster.told().sweep, 1, "it has given up nothing");
    cluster.set_wipe_freed(&["w"], false).expect("there");
    assert!(!cluster.told().layers.contains(cluster.top("w")));
    cluster.set_wipe_freed(&["v", "w"], true).expect("there");
    assert_eq!(cluster.told().sweep, 2);
}

#[test]
fn a_clone_begins_as_what_it_was_cloned_from_and_one_that_is_kept_for_its_clones_stays() {
    let mut cluster = Cluster::with_volume(3, 3);
    cluster.set_wipe_freed(&["v"], true).expect("there");
    let base = cluster.top("v");
    cluster.snapshot("v", "s").expect("taken");
    cluster.pass_barriers();
    let names = vec![name("c")];
    cluster.ask(ControlRequest::VolumeClone { source: disk("v@s"), names, pool: None }).expect("made");
    assert!(cluster.show("c").expect("made").wipe_freed);
    cluster.ask(ControlRequest::VolumeDelete { name: name("v"), with_snapshots: true }).expect("nobody has it");
    cluster.pass_barriers();
    assert!(cluster.told().layers.contains(base), "what its clone needs is still its own");
    cluster.set_wipe_freed(&["c"], false).expect("there");
    assert!(!cluster.told().layers.contains(cluster.top("c")) && cluster.told().layers.contains(base));
}

#[test]
fn what_is_wrong_is_refused_whole() {
    let mut cluster = Cluster::with_volume(3, 3);
    assert!(matches!(cluster.set_wipe_freed(&["v", "none"], true), Err(ControlError::NotFound { .. })));
    assert!(matches!(cluster.set_wipe_freed(&[], true), Err(ControlError::Invalid(_))));
    assert_eq!(cluster.state.view_since(Revision(0)).wipe_freed, None);
    cluster.ask(ControlRequest::VolumeDelete { name: name("v"), with_snapshots: false }).expect("free");
    assert!(cluster.set_wipe_freed(&["v"], true).expect_err("refused").to_string().contains("being deleted"));
}
