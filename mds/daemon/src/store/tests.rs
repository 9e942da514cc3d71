//! Folders: begun, opened again, foreign, damaged.

use super::*;
use crate::MdsConfig;
use crate::config::PeerConfig;
use ashlar_mds_core::node::{HardState, SnapshotRecord};

fn settings(folder: &Path, id: u64, cluster: u128) -> Settings {
    let config = MdsConfig {
        id,
        data_dir: folder.to_owned(),
        listen: "127.0.0.1:7400".into(),
        peers: vec![PeerConfig { id, address: "a:1".into() }],
        cluster: Some(format!("{cluster:032x}")),
        bin_window: crate::bin_window_default(),
    };
    config.check().expect("good")
}

fn entry(index: u64, term: u64) -> LogEntry {
    LogEntry { index, term, data: vec![index as u8; 3] }
}

fn persist(keep: std::ops::Range<u64>, entries: Vec<LogEntry>) -> Persist {
    let hard_state = HardState { term: 5, vote: 1, commit: keep.end };
    Persist { token: 1, hard_state, snapshot: None, keep, entries }
}

fn snapshot(index: u64) -> SnapshotRecord {
    SnapshotRecord { index, term: 4, voters: vec![MdsId(1)], data: vec![7; 100] }
}

fn changes() -> Vec<Persist> {
    vec![
        persist(1..2, vec![entry(2, 2), entry(3, 2), entry(4, 2)]),
        persist(1..3, vec![entry(3, 3), entry(4, 3), entry(5, 3)]),
        Persist { snapshot: Some(snapshot(4)), ..persist(3..6, vec![]) },
        persist(3..6, vec![entry(6, 3)]),
        Persist { snapshot: Some(snapshot(9)), ..persist(0..0, vec![entry(10, 4)]) },
        persist(9..11, vec![entry(11, 5)]),
    ]
}

#[test]
fn what_was_persisted_is_there_after_each_reopening() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = settings(folder.path(), 1, 0xabc);
    let mut model = open(&settings).expect("begun").durable;
    for change in changes() {
        let mut opened = open(&settings).expect("opened again");
        assert_eq!(opened.durable, model);
        model.apply(change.clone());
        opened.store.persist(vec![change]).expect("written");
    }
    assert_eq!(open(&settings).expect("opened again").durable, model);
    let other = tempfile::tempdir().expect("a folder");
    let settings = self::settings(other.path(), 1, 0xabc);
    open(&settings).expect("begun").store.persist(changes()).expect("all with one flush");
    assert_eq!(open(&settings).expect("opened again").durable, model);
}

#[test]
fn a_folder_of_another_node_or_cluster_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(open(&settings(folder.path(), 1, 0xabc)).expect("begun"));
    for other in [settings(folder.path(), 2, 0xabc), settings(folder.path(), 1, 0xdef)] {
        assert!(matches!(open(&other), Err(StoreError::Foreign { .. })));
    }
    let any = Settings { cluster: None, ..settings(folder.path(), 1, 1) };
    assert_eq!(open(&any).expect("it knows its cluster").node_config.cluster, ClusterId(0xabc));
}

#[test]
fn a_folder_with_other_files_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("letter.txt"), "dear").expect("written");
    assert!(matches!(open(&settings(folder.path(), 1, 1)), Err(StoreError::NotOurs { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 1);
}

#[test]
fn a_folder_in_use_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = settings(folder.path(), 1, 1);
    let _first = open(&settings).expect("begun");
    assert!(matches!(open(&settings), Err(StoreError::Open { .. })));
}

#[test]
fn damage_is_reported_and_never_skipped() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = settings(folder.path(), 1, 1);
    open(&settings).expect("begun").store.persist(changes()).expect("written");
    let spoil = |key: Key, change: &dyn Fn(&mut Vec<u8>)| {
        let opened = open_db(folder.path()).expect("a database");
        let good = opened.get(key.bytes()).expect("readable").expect("there");
        let mut bad = good.clone();
        change(&mut bad);
        opened.put(key.bytes(), &bad).expect("written");
        drop(opened);
        let result = open(&settings).map(|_| ());
        open_db(folder.path()).expect("a database").put(key.bytes(), good).expect("mended");
        match result {
            Err(StoreError::Damaged { source, .. }) => source,
            other => panic!("{other:?}"),
        }
    };
    for key in [Key::Identity, Key::HardState, Key::Snapshot, Key::Entry(10)] {
        let flipped = spoil(key, &|v| *v.last_mut().expect("not empty") ^= 1);
        assert!(matches!(flipped, Damage::Checksum { .. }), "{flipped}");
        assert!(matches!(spoil(key, &|v| v[0] = 9), Damage::Version { found: 9, .. }));
        assert!(matches!(spoil(key, &|v| v.truncate(3)), Damage::Contents { .. }));
        assert!(matches!(spoil(key, &|v| *v = seal_elsewhere(v)), Damage::Checksum { .. }), "under another's key");
    }
    assert!(open(&settings).is_ok());
}

fn seal_elsewhere(value: &[u8]) -> Vec<u8> {
    format::seal(Key::Entry(999), &value[6..])
}

#[test]
fn a_missing_part_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = settings(folder.path(), 1, 1);
    drop(open(&settings).expect("begun"));
    open_db(folder.path()).expect("a database").delete(Key::Snapshot.bytes()).expect("written");
    let text = open(&settings).map(|_| ()).expect_err("refused").to_string();
    assert!(text.contains("the snapshot is missing"), "{text}");
}

/// Never edit: folders in the field hold these bytes.
#[test]
fn golden_bytes_of_all_values() {
    let identity = Identity { cluster: ClusterId(0x0123_4567_89ab_cdef_0011_2233_4455_6677), id: MdsId(3) };
    let hard = HardState { term: 5, vote: 2, commit: 1000 };
    let values = [
        (Key::Identity, identity.encode()),
        (Key::HardState, format::encode_hard_state(&hard)),
        (Key::Snapshot, format::encode_snapshot(&SnapshotRecord { data: vec![1, 2, 3], ..snapshot(77) })),
        (Key::Entry(300), format::encode_entry(&entry(300, 6))),
    ];
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let line = |(key, payload): &(Key, Vec<u8>)| format!("{} {}", hex(&key.bytes()), hex(&format::seal(*key, payload)));
    let lines: Vec<String> = values.iter().map(line).collect();
    let golden: Vec<&str> = include_str!("../../golden/store-v1.hex").lines().collect();
    assert_eq!(lines, golden, "\n{}", lines.join("\n"));
}
