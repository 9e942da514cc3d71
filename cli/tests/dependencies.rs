//! The direction of dependencies (docs/architecture.md): cores never see shells, front ends know nothing of the cluster, and only
//! the top may depend on everything. A new edge is a decision: add it here in its own commit, and say why.

use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;

/// What each package may depend on, of this workspace. `dev` edges are for tests only.
const ALLOWED: &[(&str, &[&str], &[&str])] = &[
    ("ashlar-types", &[], &[]),
    ("ashlar-wire", &["ashlar-types"], &[]),
    ("ashlar-wire-control", &["ashlar-types"], &[]),
    // A simulated disk for crash tests drives the store through the same interface as the simulator does.
    ("ashlar-osd-core", &["ashlar-types", "ashlar-wire"], &["ashlar-sim-disk"]),
    ("ashlar-osd", &["ashlar-osd-core", "ashlar-types", "ashlar-wire", "ashlar-wire-control"], &["ashlar-client"]),
    ("ashlar-mds-core", &["ashlar-types", "ashlar-wire"], &[]),
    ("ashlar-mds", &["ashlar-mds-core", "ashlar-types", "ashlar-wire-control"], &[]),
    ("ashlar-client", &["ashlar-types", "ashlar-wire", "ashlar-wire-control"], &[]),
    ("ashlar-driver-nbd", &["ashlar-types"], &[]),
    ("ashlar-sim-disk", &["ashlar-osd-core", "ashlar-types"], &[]),
    ("ashlar-powerloss", &[], &[]),
];

/// May depend on everything below; but only the command line may depend on the other two.
const TOP: &[&str] = &["ashlar", "ashlar-chaos", "ashlar-benches"];

#[test]
fn dependencies_point_down_only() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs, since it runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let allowed: BTreeMap<&str, (&[&str], &[&str])> =
        ALLOWED.iter().map(|(name, normal, dev)| (*name, (*normal, *dev))).collect();
    let ours: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let on = dependency["name"].as_str().expect("a name");
            // A package may test itself with another set of features.
            if !ours.contains(&on) || on == name {
                continue;
            }
            let is_dev = dependency["kind"] == "dev";
            let is_allowed = match allowed.get(name) {
                Some((normal, dev)) => normal.contains(&on) || (is_dev && dev.contains(&on)),
                None if TOP.contains(&name) => name == "ashlar" || !TOP.contains(&on) || is_dev,
                None => false,
            };
            if !is_allowed {
                let kind = if is_dev { " (for tests)" } else { "" };
                wrong.push(format!("{name} -> {on}{kind}"));
            }
        }
    }
    assert!(wrong.is_empty(), "edges that are not in {}: {wrong:#?}", file!());
}
