//! `ashlar volume tree`: the layers of volumes, each below the one that it was put on, with what names it and who was cloned from it.

use super::kept::{self, Kept, KeptForClones};
use super::merges::{self, Merging};
use super::time::utc;
use super::volume::{describe_origin, origin_json};
use super::{bin, snapshot};
use crate::control::Control;
use crate::error::CliError;
use crate::output::Output;
use ashlar_types::control::{BinInfo, ControlError, ControlReply, ControlRequest, DiskMode, SnapshotInfo, VolumeInfo};
use ashlar_types::view::ClusterView;
use ashlar_types::{LayerId, Name, VolumeId, format_bytes};
use ashlar_wire_control::ControlClientError;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The questions may see different moments; what a stack names is drawn all the same. What is in the bin is drawn as any volume is, and says so.
pub async fn run(control: &Control, name: Option<Name>) -> Result<Output, CliError> {
    let binned = bin::list(control).await?;
    let wanted = match &name {
        Some(name) => Some(find(control, name, &binned).await?),
        None => None,
    };
    let is_listed = name.is_none() || wanted.iter().flatten().any(|volume| !is_in(&binned, volume.id));
    let mut snapshots = if is_listed { snapshot::list(control, name).await? } else { Vec::new() };
    snapshots.extend(binned.iter().flat_map(|info| info.own.iter().cloned()));
    let mut volumes = control.volumes().await?;
    volumes.extend(binned.iter().filter_map(|info| info.volume.as_deref().cloned()));
    let kept = kept::find(control, &volumes).await?;
    let bin: Bin = binned.iter().map(|info| (info.id, info.expires_at)).collect();
    let clones = Clones::new(&volumes, &kept.volumes, &bin);
    let facts = Facts { snapshots, kept, clones, bin, view: control.view().await? };
    let tree = |volume| Tree::new(volume, &facts);
    let trees: Vec<Tree> = match &wanted {
        Some(volumes) => volumes.iter().map(tree).collect(),
        None => {
            let deleted = facts.kept.volumes.iter().map(|(id, kept)| Tree::of_kept(*id, kept, &facts));
            volumes.iter().map(tree).chain(deleted).collect()
        }
    };
    let text: Vec<String> = trees.iter().map(Tree::draw).collect();
    Ok(Output::new(text.join("\n"), trees.iter().map(Tree::json).collect()))
}

/// When they expire.
type Bin = BTreeMap<VolumeId, u64>;

fn is_in(binned: &[BinInfo], id: VolumeId) -> bool {
    binned.iter().any(|info| info.id == id)
}

/// The volume of this name; or those in the bin that had it, or the one there that has it as its id.
async fn find(control: &Control, name: &Name, binned: &[BinInfo]) -> Result<Vec<VolumeInfo>, CliError> {
    let refused = match control.ask(ControlRequest::VolumeShow { name: name.clone() }).await {
        Ok(ControlReply::Volume(volume)) => return Ok(vec![volume]),
        Ok(reply) => return Err(CliError::unexpected("volume show", &reply)),
        Err(error) => error,
    };
    if !matches!(&refused, CliError::Control(ControlClientError::Refused(ControlError::NotFound { .. }))) {
        return Err(refused);
    }
    let found: Vec<VolumeInfo> =
        bin::named(binned, name.as_str()).filter_map(|info| info.volume.as_deref().cloned()).collect();
    if found.is_empty() { Err(refused) } else { Ok(found) }
}

/// A volume as far as it is drawn below what it was cloned from.
#[derive(Clone, Debug)]
struct Clone {
    name: Name,
    deleted: bool,
    in_bin: bool,
}

/// By the layer that they stand on.
#[derive(Default)]
struct Clones(BTreeMap<(VolumeId, LayerId), Vec<Clone>>);

impl Clones {
    fn new(volumes: &[VolumeInfo], kept: &BTreeMap<VolumeId, Kept>, bin: &Bin) -> Clones {
        let living =
            volumes.iter().filter_map(|v| Some((v.origin.as_ref()?.base, &v.name, bin.contains_key(&v.id), false)));
        let deleted = kept.values().filter_map(|kept| Some((kept.base?, &kept.name, false, true)));
        let mut clones = Clones::default();
        for (base, name, in_bin, is_kept) in living.chain(deleted) {
            let name = name.clone();
            clones.0.entry((base.volume, base.layer)).or_default().push(Clone {
                name,
                deleted: in_bin || is_kept,
                in_bin,
            });
        }
        clones
    }
}

#[derive(Default)]
struct Facts {
    snapshots: Vec<SnapshotInfo>,
    kept: KeptForClones,
    clones: Clones,
    bin: Bin,
    view: ClusterView,
}

/// A volume's layers.
struct Tree<'a> {
    id: VolumeId,
    name: &'a Name,
    heading: String,
    origin: Value,
    deleted: bool,
    in_bin: bool,
    top: Option<LayerId>,
    /// What a non-persistent volume falls back to.
    base: Option<LayerId>,
    snapshots: BTreeMap<LayerId, &'a SnapshotInfo>,
    parents: BTreeMap<LayerId, Option<LayerId>>,
    children: BTreeMap<Option<LayerId>, BTreeSet<LayerId>>,
    clones: &'a Clones,
    /// By the layer that is being merged.
    merges: BTreeMap<LayerId, Merging>,
}

/// What is drawn below a layer, in this order.
enum Child<'a> {
    Clone(&'a Clone),
    Layer(LayerId),
}

impl<'a> Tree<'a> {
    fn new(volume: &'a VolumeInfo, facts: &'a Facts) -> Tree<'a> {
        let own: Vec<&SnapshotInfo> = facts.snapshots.iter().filter(|snapshot| snapshot.volume == volume.id).collect();
        let nameless = facts.kept.nameless.get(&volume.id).into_iter().flatten();
        let (parents, children) =
            family(own.iter().map(|snapshot| &snapshot.layers).chain(nameless).chain([&volume.layers]));
        let of = volume.origin.as_deref().map_or_else(String::new, |o| format!("  clone of {}", describe_origin(o)));
        let mode = match volume.disk_mode {
            DiskMode::Dependent => String::new(),
            mode => format!("  {}", mode.word()),
        };
        let expires = facts.bin.get(&volume.id);
        let in_bin = expires.map_or_else(String::new, |at| format!("  ({} in the bin until {})", volume.id, utc(*at)));
        let is_nonpersistent = volume.disk_mode == DiskMode::IndependentNonpersistent;
        Tree {
            id: volume.id,
            name: &volume.name,
            heading: format!("{}  {}{of}{mode}{in_bin}", volume.name, format_bytes(volume.size)),
            origin: volume.origin.as_deref().map_or(Value::Null, origin_json),
            deleted: expires.is_some(),
            in_bin: expires.is_some(),
            top: volume.layers.first().copied(),
            base: volume.layers.get(1).copied().filter(|_| is_nonpersistent),
            snapshots: own.into_iter().filter_map(|snapshot| Some((*snapshot.layers.first()?, snapshot))).collect(),
            parents,
            children,
            clones: &facts.clones,
            merges: merging(&facts.view, volume.id),
        }
    }

    /// Of a deleted volume, what clones read.
    fn of_kept(id: VolumeId, kept: &'a Kept, facts: &'a Facts) -> Tree<'a> {
        let (parents, children) = family(kept.stacks.iter());
        let base = |base: ashlar_types::control::BaseLayer| json!({ "volume_id": base.volume.0, "layer": base.layer.0, "size": base.size });
        Tree {
            id,
            name: &kept.name,
            heading: format!("{}  (deleted, kept for its clones)", kept.name),
            origin: kept.base.map_or(Value::Null, base),
            deleted: true,
            in_bin: false,
            top: None,
            base: None,
            snapshots: BTreeMap::new(),
            parents,
            children,
            clones: &facts.clones,
            merges: merging(&facts.view, id),
        }
    }

    /// A layer stands below its parent; where several things stand on one, each begins a branch.
    fn draw(&self) -> String {
        let mut text = format!("{}\n", self.heading);
        // What is still to be drawn, the next one last: what stands before it, and before those that follow it.
        let mut rest: Vec<(Child, String, String)> = Vec::new();
        for root in self.children_of(None).into_iter().rev() {
            rest.push((root, "  ".to_owned(), "  ".to_owned()));
        }
        while let Some((child, first, indent)) = rest.pop() {
            let layer = match child {
                Child::Clone(clone) => {
                    let is_gone = match (clone.in_bin, clone.deleted) {
                        (true, _) => " (in the bin)",
                        (false, true) => " (deleted)",
                        (false, false) => "",
                    };
                    let _ = writeln!(text, "{first}clone {}{is_gone}", clone.name);
                    continue;
                }
                Child::Layer(layer) => layer,
            };
            let _ = writeln!(text, "{first}{}", self.describe(layer));
            let mut children = self.children_of(Some(layer));
            if let [Child::Layer(only)] = children[..] {
                rest.push((Child::Layer(only), indent.clone(), indent));
                continue;
            }
            let mut is_last = true;
            while let Some(child) = children.pop() {
                let (branch, beside) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
                rest.push((child, format!("{indent}{branch}"), format!("{indent}{beside}")));
                is_last = false;
            }
        }
        text
    }

    fn children_of(&self, layer: Option<LayerId>) -> Vec<Child<'_>> {
        let clones = layer.into_iter().flat_map(|layer| self.clones_on(layer)).map(Child::Clone);
        clones.chain(self.children.get(&layer).into_iter().flatten().copied().map(Child::Layer)).collect()
    }

    fn clones_on(&self, layer: LayerId) -> &[Clone] {
        self.clones.0.get(&(self.id, layer)).map_or(&[], Vec::as_slice)
    }

    fn describe(&self, layer: LayerId) -> String {
        let mut text = layer.to_string();
        if let Some(snapshot) = self.snapshots.get(&layer) {
            let _ = write!(text, "  {}", snapshot::disk_name(snapshot));
        }
        if self.top == Some(layer) {
            text.push_str("  (top)");
        }
        if self.base == Some(layer) {
            text.push_str("  (base)");
        }
        if let Some(Merging { into, done, all, .. }) = self.merges.get(&layer) {
            let _ = write!(text, "  (being merged into {into}: {done} of {all} placement groups done)");
        }
        text
    }

    fn json(&self) -> Value {
        let layer = |(layer, parent): (&LayerId, &Option<LayerId>)| {
            let clones = self.clones_on(*layer).iter();
            json!({
                "id": layer.0,
                "parent": parent.map(|parent| parent.0),
                "snapshot": self.snapshots.get(layer).map(|snapshot| &snapshot.name),
                "top": self.top == Some(*layer),
                "base": self.base == Some(*layer),
                "clones": clones.map(|c| json!({ "name": c.name, "deleted": c.deleted, "in_bin": c.in_bin })).collect::<Vec<_>>(),
                "merging": self.merges.get(layer).map(merges::merge_json),
            })
        };
        json!({
            "volume": self.name,
            "volume_id": self.id.0,
            "deleted": self.deleted,
            "in_bin": self.in_bin,
            "origin": self.origin,
            "layers": self.parents.iter().map(layer).collect::<Vec<_>>(),
        })
    }
}

fn merging(view: &ClusterView, volume: VolumeId) -> BTreeMap<LayerId, Merging> {
    merges::of(view, volume).into_iter().map(|merge| (merge.from, merge)).collect()
}

type Parents = BTreeMap<LayerId, Option<LayerId>>;
type Children = BTreeMap<Option<LayerId>, BTreeSet<LayerId>>;

/// Who stands on whom in these stacks.
fn family<'a>(stacks: impl Iterator<Item = &'a Vec<LayerId>>) -> (Parents, Children) {
    let (mut parents, mut children) = (Parents::new(), Children::new());
    for stack in stacks {
        for (at, layer) in stack.iter().enumerate() {
            parents.insert(*layer, stack.get(at + 1).copied());
        }
    }
    for (layer, parent) in &parents {
        children.entry(*parent).or_default().insert(*layer);
    }
    (parents, children)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::control::{BaseLayer, OriginInfo, Provision, SnapshotState, VolumeState};
    use ashlar_types::view::{Merge, PoolInfo};
    use ashlar_types::{PgId, PoolId, SnapshotId, StackRevision};

    fn name(text: &str) -> Name {
        Name::new(text).expect("a good name")
    }

    fn volume(layers: &[u64]) -> VolumeInfo {
        VolumeInfo {
            id: VolumeId(1),
            name: name("v"),
            size: 1 << 30,
            pool: PoolId(1),
            pool_name: name("p"),
            state: VolumeState::Available,
            placement_key: 0,
            stack_revision: StackRevision(1),
            layers: layers.iter().map(|layer| LayerId(*layer)).collect(),
            attachments: Vec::new(),
            origin: None,
            provision: Provision::Thin,
            is_reserving: false,
            disk_mode: DiskMode::Dependent,
            wipe_freed: false,
            clones: 0,
        }
    }

    fn snapshot(text: &str, layers: &[u64]) -> SnapshotInfo {
        SnapshotInfo {
            id: SnapshotId(layers[0]),
            name: name(text),
            volume: VolumeId(1),
            volume_name: name("v"),
            size: 1 << 30,
            taken_at: 0,
            state: SnapshotState::Available,
            layers: layers.iter().map(|layer| LayerId(*layer)).collect(),
            group: None,
        }
    }

    #[test]
    fn chains_stand_in_line_and_branches_beside_each_other() {
        assert_eq!(Tree::new(&volume(&[1]), &Facts::default()).draw(), "v  1GiB\n  layer.1  (top)\n");
        let snapshots = vec![snapshot("a", &[1]), snapshot("b", &[2, 1]), snapshot("c", &[3, 2, 1])];
        let (volume, facts) = (volume(&[6, 1]), Facts { snapshots, ..Facts::default() });
        let drawn = "v  1GiB\n  layer.1  v@a\n  ├─ layer.2  v@b\n  │  layer.3  v@c\n  └─ layer.6  (top)\n";
        let tree = Tree::new(&volume, &facts);
        assert_eq!(tree.draw(), drawn);
        let layer = json!({ "id": 2, "parent": 1, "snapshot": "b", "top": false, "base": false, "clones": [], "merging": null });
        assert_eq!(tree.json()["layers"][1], layer);
    }

    fn base(volume: u64, layer: u64) -> BaseLayer {
        BaseLayer { volume: VolumeId(volume), layer: LayerId(layer), size: 1 << 30 }
    }

    fn clone(id: u64, text: &str, layer: u64, origin: OriginInfo) -> VolumeInfo {
        VolumeInfo { id: VolumeId(id), name: name(text), origin: Some(Box::new(origin)), ..volume(&[layer]) }
    }

    #[test]
    fn clones_stand_below_the_snapshot_also_where_its_volume_is_deleted() {
        let on = |base, text: &str, snapshot: Option<&str>, deleted| OriginInfo {
            base,
            volume_name: name(text),
            snapshot: snapshot.map(name),
            deleted,
        };
        let volumes = [
            volume(&[2, 1]),
            clone(3, "one", 10, on(base(1, 1), "v", Some("a"), false)),
            clone(4, "two", 11, on(base(2, 7), "gone", None, true)),
        ];
        let deleted = Kept { name: name("gone"), stacks: vec![vec![LayerId(7), LayerId(6)]], base: Some(base(1, 1)) };
        let kept = KeptForClones { volumes: BTreeMap::from([(VolumeId(2), deleted)]), nameless: BTreeMap::new() };
        let (clones, snapshots) = (Clones::new(&volumes, &kept.volumes, &Bin::new()), vec![snapshot("a", &[1])]);
        let facts = Facts { snapshots, kept, clones, ..Facts::default() };
        let drawn = "v  1GiB\n  layer.1  v@a\n  ├─ clone one\n  ├─ clone gone (deleted)\n  └─ layer.2  (top)\n";
        assert_eq!(Tree::new(&volumes[0], &facts).draw(), drawn);
        let drawn = "two  1GiB  clone of gone (deleted)\n  layer.11  (top)\n";
        assert_eq!(Tree::new(&volumes[2], &facts).draw(), drawn);
        let tree = Tree::of_kept(VolumeId(2), &facts.kept.volumes[&VolumeId(2)], &facts);
        assert_eq!(tree.draw(), "gone  (deleted, kept for its clones)\n  layer.6\n  layer.7\n  └─ clone two\n");
        let json = tree.json();
        assert_eq!((&json["deleted"], &json["origin"]["layer"]), (&json!(true), &json!(1)));
        assert_eq!(json["layers"][1]["clones"], json!([{ "name": "two", "deleted": false, "in_bin": false }]));
    }

    #[test]
    fn what_is_in_the_bin_is_drawn_with_its_snapshots_and_below_what_it_stands_on() {
        let on = OriginInfo { base: base(1, 1), volume_name: name("v"), snapshot: None, deleted: true };
        let (volumes, bin) =
            ([volume(&[2, 1]), clone(3, "one", 10, on)], Bin::from([(VolumeId(1), 60), (VolumeId(3), 0)]));
        let clones = Clones::new(&volumes, &BTreeMap::new(), &bin);
        let facts = Facts { snapshots: vec![snapshot("a", &[1])], clones, bin, ..Facts::default() };
        let tree = Tree::new(&volumes[0], &facts);
        let drawn = "  layer.1  v@a\n  ├─ clone one (in the bin)\n  └─ layer.2  (top)\n";
        let heading = format!("v  1GiB  (vol.1 in the bin until {})\n", utc(60));
        assert_eq!(tree.draw(), format!("{heading}{drawn}"));
        assert_eq!((&tree.json()["deleted"], &tree.json()["in_bin"]), (&json!(true), &json!(true)));
    }

    #[test]
    fn a_layer_that_only_clones_need_is_drawn_with_them() {
        let on = OriginInfo { base: base(1, 2), volume_name: name("v"), snapshot: None, deleted: false };
        let volumes = [volume(&[3, 1]), clone(3, "one", 10, on)];
        let nameless = BTreeMap::from([(VolumeId(1), vec![vec![LayerId(2), LayerId(1)]])]);
        let kept = KeptForClones { volumes: BTreeMap::new(), nameless };
        let facts = Facts { clones: Clones::new(&volumes, &kept.volumes, &Bin::new()), kept, ..Facts::default() };
        let drawn = "v  1GiB\n  layer.1\n  ├─ layer.2\n  │  └─ clone one\n  └─ layer.3  (top)\n";
        assert_eq!(Tree::new(&volumes[0], &facts).draw(), drawn);
    }

    #[test]
    fn what_a_volume_falls_back_to_is_said() {
        let volume = VolumeInfo { disk_mode: DiskMode::IndependentNonpersistent, ..volume(&[3, 2, 1]) };
        let facts = Facts { snapshots: vec![snapshot("a", &[1])], ..Facts::default() };
        let tree = Tree::new(&volume, &facts);
        let drawn = "v  1GiB  independent-nonpersistent\n  layer.1  v@a\n  layer.2  (base)\n  layer.3  (top)\n";
        assert_eq!((tree.draw().as_str(), &tree.json()["layers"][1]["base"]), (drawn, &json!(true)));
    }

    #[test]
    fn what_is_being_merged_is_said_with_its_progress() {
        let (pool, pg_count) = (PoolId(1), 32);
        let pgs = (3..pg_count).map(|index| PgId { pool, index }).collect();
        let merge = Merge { id: 1, volume: VolumeId(1), from: LayerId(1), into: LayerId(2), pgs };
        let info = PoolInfo { id: pool, name: name("p"), replicas: 3, min_size: 2, pg_count };
        let pools = BTreeMap::from([(pool, info)]);
        let facts =
            Facts { view: ClusterView { merges: vec![merge], pools, ..ClusterView::default() }, ..Facts::default() };
        let first = "  layer.1  (being merged into layer.2: 3 of 32 placement groups done)\n";
        assert_eq!(Tree::new(&volume(&[2, 1]), &facts).draw(), format!("v  1GiB\n{first}  layer.2  (top)\n"));
    }
}
