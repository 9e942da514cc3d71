//! Programs on the disk, without FUSE, so that thousands of losses take seconds.

use super::*;
use crate::fate::Fate;
use std::ffi::OsStr;

const OWNER: Owner = Owner { mode: 0o644, uid: 0, gid: 0 };

fn name(name: &str) -> &OsStr {
    OsStr::new(name)
}

fn file(disk: &mut Disk, path: &str) -> u64 {
    let inode = disk.create(ROOT, name(path), Kind::File, OWNER).expect("a new name");
    disk.open(inode).expect("it exists");
    inode
}

fn write(disk: &mut Disk, inode: u64, offset: u64, data: &[u8]) -> Result<(), FsError> {
    disk.write(disk.era(), inode, offset, data, WriteMode::default())
}

fn sync(disk: &mut Disk, inode: u64) -> Result<(), FsError> {
    disk.sync_file(disk.era(), inode, false)
}

fn content(disk: &mut Disk, path: &str) -> Option<Vec<u8>> {
    let inode = disk.lookup(ROOT, name(path)).ok()?;
    let size = disk.attributes(inode).expect("it exists").size;
    Some(disk.read(disk.era(), inode, 0, usize::try_from(size).expect("small"), false).expect("a file"))
}

/// A log of 700-byte records, each filled with its number. Appends up to `records`; gives how many it acknowledged when the
/// power failed.
fn append(disk: &mut Disk, records: u8, syncs: bool) -> Result<u8, u8> {
    let mut acknowledged = 0;
    let mut run = || -> Result<(), FsError> {
        let inode = disk.create(ROOT, name("log"), Kind::File, OWNER)?;
        for record in 1..=records {
            write(disk, inode, u64::from(record - 1) * 700, &[record; 700])?;
            if syncs {
                sync(disk, inode)?;
            }
            acknowledged = record;
        }
        Ok(())
    };
    match run() {
        Ok(()) => Ok(acknowledged),
        Err(FsError::PowerLost) => Err(acknowledged),
        Err(error) => panic!("{error}"),
    }
}

fn whole_records(disk: &mut Disk) -> u8 {
    let bytes = content(disk, "log").unwrap_or_default();
    let whole = bytes.chunks(700).zip(1..).take_while(|(found, record)| *found == [*record; 700]);
    u8::try_from(whole.count()).expect("few")
}

#[test]
fn a_log_that_syncs_before_it_acknowledges_never_loses_a_record() {
    for seed in 0..5000 {
        let mut disk = Disk::new(Options::default());
        disk.arm(seed % 45, seed);
        let acknowledged = append(&mut disk, 20, true).unwrap_or_else(|acknowledged| acknowledged);
        disk.power_loss(seed);
        disk.power_on();
        assert!(whole_records(&mut disk) >= acknowledged, "seed {seed}");
    }
}

#[test]
fn a_log_that_forgets_to_sync_is_caught() {
    let caught = (0..200).filter(|&seed| {
        let mut disk = Disk::new(Options::default());
        let acknowledged = append(&mut disk, 20, false).expect("the power is on");
        disk.power_loss(seed);
        disk.power_on();
        whole_records(&mut disk) < acknowledged
    });
    assert!(caught.count() > 150);
}

#[test]
fn a_log_on_a_disk_that_lies_about_syncs_is_caught() {
    let caught = (0..200).filter(|&seed| {
        let mut disk = Disk::new(Options::default());
        disk.honour_sync(false);
        let acknowledged = append(&mut disk, 20, true).expect("the power is on");
        disk.power_loss(seed);
        disk.power_on();
        whole_records(&mut disk) < acknowledged
    });
    assert!(caught.count() > 150);
}

/// Writes new contents beside the old and renames over it; with `syncs`, as one must.
fn replace(disk: &mut Disk, version: u8, syncs: bool) -> Result<(), FsError> {
    let inode = disk.create(ROOT, name("new"), Kind::File, OWNER)?;
    write(disk, inode, 0, &[version; 3000])?;
    if syncs {
        sync(disk, inode)?;
    }
    disk.rename((ROOT, name("new")), (ROOT, name("current")), RenameMode::Replace)?;
    if syncs {
        disk.sync_directory(ROOT)?;
    }
    Ok(())
}

/// Whether the loss left a whole version, at least the last acknowledged one.
fn replacing_is_safe(seed: u64, syncs: bool, order: DirectoryOrder, entry: NewFileEntry) -> bool {
    let mut disk = Disk::new(Options { directory_order: order, new_file_entry: entry, ..Options::default() });
    disk.arm(seed % 40, seed);
    let acknowledged = (1..=8).take_while(|&version| replace(&mut disk, version, syncs).is_ok()).count();
    disk.power_loss(seed);
    disk.power_on();
    match content(&mut disk, "current") {
        None => acknowledged == 0,
        Some(bytes) => {
            bytes.len() == 3000 && bytes.iter().all(|b| *b == bytes[0]) && usize::from(bytes[0]) >= acknowledged
        }
    }
}

#[test]
fn replacing_a_file_by_rename_with_all_syncs_is_safe_under_every_model() {
    for order in [DirectoryOrder::Independent, DirectoryOrder::Journaled] {
        for entry in [NewFileEntry::WithFile, NewFileEntry::WithDirectory] {
            for seed in 0..1500 {
                assert!(replacing_is_safe(seed, true, order, entry), "seed {seed}, {order:?}, {entry:?}");
            }
        }
    }
}

#[test]
fn replacing_a_file_by_rename_without_syncs_is_caught() {
    for order in [DirectoryOrder::Independent, DirectoryOrder::Journaled] {
        let caught = (0..500).filter(|&seed| !replacing_is_safe(seed, false, order, NewFileEntry::WithFile));
        assert!(caught.count() > 100, "{order:?}");
    }
}

#[test]
fn the_entry_of_a_synced_new_file_survives_only_where_the_option_says_so() {
    for (entry, always) in [(NewFileEntry::WithFile, true), (NewFileEntry::WithDirectory, false)] {
        let survived = (0..200).filter(|&seed| {
            let mut disk = Disk::new(Options { new_file_entry: entry, ..Options::default() });
            let inode = file(&mut disk, "f");
            write(&mut disk, inode, 0, b"x").expect("write");
            disk.sync_file(disk.era(), inode, true).expect("fdatasync");
            disk.power_loss(seed);
            disk.power_on();
            content(&mut disk, "f").is_some()
        });
        assert_eq!(survived.count() == 200, always);
    }
}

#[test]
fn the_same_seed_loses_the_same() {
    let run = || {
        let mut disk = Disk::new(Options::default());
        let inodes: Vec<u64> = (0..20).map(|index| file(&mut disk, &index.to_string())).collect();
        inodes.iter().for_each(|&inode| write(&mut disk, inode, 0, &[7; 5000]).expect("write"));
        let report = disk.power_loss(3);
        disk.power_on();
        let contents: Vec<_> = (0..20).map(|index| content(&mut disk, &index.to_string())).collect();
        (report, contents)
    };
    assert_eq!(run(), run());
}

/// Random directory operations and syncs. Whatever is lost: a file renamed but never removed is somewhere, exactly once for
/// each of its names, and everything is reachable from the root.
#[test]
fn random_directory_histories_leave_a_tree_and_lose_no_synced_file() {
    for seed in 0..1500 {
        let dice = Fate::new(seed, 5);
        let mut disk = Disk::new(Options::default());
        let keeper = file(&mut disk, "keeper");
        sync(&mut disk, keeper).expect("fsync");
        let mut directories = vec![ROOT];
        let mut place = (ROOT, "keeper".to_owned());
        for step in 0..40_u64 {
            let directory = directories[(dice.up_to(1000 + step) % directories.len() as u64) as usize];
            let fresh = format!("n{step}");
            match dice.up_to(2000 + step) % 6 {
                0 => {
                    directories.push(disk.create(directory, name(&fresh), Kind::Directory, OWNER).expect("a new name"))
                }
                1 | 2 => {
                    disk.rename((place.0, name(&place.1)), (directory, name(&fresh)), RenameMode::Replace)
                        .expect("the keeper moves");
                    place = (directory, fresh);
                }
                3 => {
                    let _inode = disk.create(directory, name(&fresh), Kind::File, OWNER).expect("a new name");
                }
                4 if step % 3 == 0 => disk.sync_directory(directory).expect("fsync of a directory"),
                _ => {
                    // Any entry but the keeper and directories.
                    let entries = disk.list(directory).expect("a directory");
                    if let Some(entry) = entries.iter().find(|e| e.kind == Kind::File && e.inode != keeper) {
                        disk.remove(directory, &entry.name, false).expect("it is there");
                    }
                }
            }
        }
        disk.power_loss(seed);
        disk.power_on();
        let mut found = 0;
        let mut to_visit = vec![ROOT];
        let mut visited = 0;
        while let Some(directory) = to_visit.pop() {
            visited += 1;
            for entry in disk.list(directory).expect("a directory").into_iter().skip(2) {
                found += usize::from(entry.inode == keeper);
                if entry.kind == Kind::Directory {
                    to_visit.push(entry.inode);
                }
            }
        }
        assert_eq!(found, 1, "seed {seed}");
        assert!(visited <= directories.len(), "seed {seed}: no cycles");
        assert_eq!(disk.attributes(keeper).expect("it survived").names, 1);
    }
}

#[test]
fn removed_files_give_their_memory_back_once_the_removal_is_durable() {
    let mut disk = Disk::new(Options::default());
    let inode = file(&mut disk, "f");
    write(&mut disk, inode, 0, &[1; 1 << 20]).expect("write");
    disk.sync_all().expect("powered");
    disk.remove(ROOT, name("f"), false).expect("unlink");
    disk.close(disk.era(), inode);
    assert_eq!(disk.capacity().1, 1 << 20, "the removal may yet be lost");
    disk.sync_directory(ROOT).expect("fsync of a directory");
    assert_eq!(disk.capacity().1, 0);
}

#[test]
fn a_journal_that_grows_too_long_is_committed_from_its_beginning() {
    let mut disk = Disk::new(Options::default());
    for index in 0..JOURNAL_OPS_MAX + 10 {
        disk.create(ROOT, name(&index.to_string()), Kind::File, OWNER).expect("a new name");
    }
    assert!(disk.unsynced().directory_ops <= JOURNAL_OPS_MAX as u64);
    disk.power_loss(1);
    disk.power_on();
    assert!(content(&mut disk, "0").is_some() && content(&mut disk, "2000").is_some());
}
