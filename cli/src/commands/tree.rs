//! `ashlar volume tree`: the layers of volumes, each below the one that it was put on, with what names it.

use super::merges::{self, Merging};
use super::snapshot;
use crate::control::Control;
use crate::error::CliError;
use crate::output::Output;
use ashlar_types::control::{ControlReply, ControlRequest, SnapshotInfo, VolumeInfo};
use ashlar_types::{LayerId, Name, format_bytes};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

pub async fn run(control: &Control, name: Option<Name>) -> Result<Output, CliError> {
    let snapshots = snapshot::list(control, name.clone()).await?;
    let volumes = match name {
        Some(name) => match control.ask(ControlRequest::VolumeShow { name }).await? {
            ControlReply::Volume(volume) => vec![volume],
            reply => return Err(CliError::unexpected("volume show", &reply)),
        },
        None => control.volumes().await?,
    };
    let view = control.view().await?;
    let tree = |volume| Tree::new(volume, &snapshots, merges::of(&view, volume.id));
    let trees: Vec<Tree> = volumes.iter().map(tree).collect();
    let text: Vec<String> = trees.iter().map(Tree::draw).collect();
    Ok(Output::new(text.join("\n"), trees.iter().map(Tree::json).collect()))
}

/// A volume's layers. The two questions may see different moments; what a stack names is drawn all the same.
struct Tree<'a> {
    volume: &'a VolumeInfo,
    snapshots: BTreeMap<LayerId, &'a SnapshotInfo>,
    parents: BTreeMap<LayerId, Option<LayerId>>,
    children: BTreeMap<Option<LayerId>, BTreeSet<LayerId>>,
    /// By the layer that is being merged.
    merges: BTreeMap<LayerId, Merging>,
}

impl<'a> Tree<'a> {
    fn new(volume: &'a VolumeInfo, snapshots: &'a [SnapshotInfo], merges: Vec<Merging>) -> Tree<'a> {
        let own: Vec<&SnapshotInfo> = snapshots.iter().filter(|snapshot| snapshot.volume == volume.id).collect();
        let mut parents = BTreeMap::new();
        for stack in own.iter().map(|snapshot| &snapshot.layers).chain([&volume.layers]) {
            for (at, layer) in stack.iter().enumerate() {
                parents.insert(*layer, stack.get(at + 1).copied());
            }
        }
        let mut children: BTreeMap<_, BTreeSet<LayerId>> = BTreeMap::new();
        for (layer, parent) in &parents {
            children.entry(*parent).or_default().insert(*layer);
        }
        let names = own.into_iter().filter_map(|snapshot| Some((*snapshot.layers.first()?, snapshot))).collect();
        let merges = merges.into_iter().map(|merge| (merge.from, merge)).collect();
        Tree { volume, snapshots: names, parents, children, merges }
    }

    /// A layer stands below its parent; where several stand on one, each begins a branch.
    fn draw(&self) -> String {
        let mut text = format!("{}  {}\n", self.volume.name, format_bytes(self.volume.size));
        // What is still to be drawn, the next one last: a layer, what stands before it, and before those that follow it.
        let mut rest: Vec<(LayerId, String, String)> = Vec::new();
        for root in self.children_of(None).rev() {
            rest.push((root, "  ".to_owned(), "  ".to_owned()));
        }
        while let Some((layer, first, indent)) = rest.pop() {
            let _ = writeln!(text, "{first}{}", self.describe(layer));
            let children: Vec<LayerId> = self.children_of(Some(layer)).collect();
            if let [only] = children[..] {
                rest.push((only, indent.clone(), indent));
                continue;
            }
            for (at, child) in children.iter().enumerate().rev() {
                let (branch, beside) = if at + 1 == children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
                rest.push((*child, format!("{indent}{branch}"), format!("{indent}{beside}")));
            }
        }
        text
    }

    fn children_of(&self, layer: Option<LayerId>) -> impl DoubleEndedIterator<Item = LayerId> + '_ {
        self.children.get(&layer).into_iter().flatten().copied()
    }

    fn describe(&self, layer: LayerId) -> String {
        let mut text = layer.to_string();
        if let Some(snapshot) = self.snapshots.get(&layer) {
            let _ = write!(text, "  {}", snapshot::disk_name(snapshot));
        }
        if self.is_top(layer) {
            text.push_str("  (top)");
        }
        if let Some(Merging { into, done, all, .. }) = self.merges.get(&layer) {
            let _ = write!(text, "  (being merged into {into}: {done} of {all} placement groups done)");
        }
        text
    }

    fn is_top(&self, layer: LayerId) -> bool {
        self.volume.layers.first() == Some(&layer)
    }

    fn json(&self) -> Value {
        let layer = |(layer, parent): (&LayerId, &Option<LayerId>)| {
            json!({
                "id": layer.0,
                "parent": parent.map(|parent| parent.0),
                "snapshot": self.snapshots.get(layer).map(|snapshot| &snapshot.name),
                "top": self.is_top(*layer),
                "merging": self.merges.get(layer).map(merges::merge_json),
            })
        };
        json!({ "volume": self.volume.name, "layers": self.parents.iter().map(layer).collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::control::{SnapshotState, VolumeState};
    use ashlar_types::{PoolId, SnapshotId, StackRevision, VolumeId};

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
        }
    }

    #[test]
    fn chains_stand_in_line_and_branches_beside_each_other() {
        assert_eq!(Tree::new(&volume(&[1]), &[], vec![]).draw(), "v  1GiB\n  layer.1  (top)\n");
        let (volume, snapshots) =
            (volume(&[6, 1]), [snapshot("a", &[1]), snapshot("b", &[2, 1]), snapshot("c", &[3, 2, 1])]);
        let drawn = "v  1GiB\n  layer.1  v@a\n  ├─ layer.2  v@b\n  │  layer.3  v@c\n  └─ layer.6  (top)\n";
        let tree = Tree::new(&volume, &snapshots, vec![]);
        assert_eq!(tree.draw(), drawn);
        assert_eq!(
            tree.json()["layers"][1],
            json!({ "id": 2, "parent": 1, "snapshot": "b", "top": false, "merging": null })
        );
    }

    #[test]
    fn what_is_being_merged_is_said_with_its_progress() {
        let merge = Merging { from: LayerId(1), into: LayerId(2), done: 3, all: 32 };
        let volume = volume(&[2, 1]);
        let tree = Tree::new(&volume, &[], vec![merge]);
        let first = "  layer.1  (being merged into layer.2: 3 of 32 placement groups done)\n";
        assert_eq!(tree.draw(), format!("v  1GiB\n{first}  layer.2  (top)\n"));
    }
}
