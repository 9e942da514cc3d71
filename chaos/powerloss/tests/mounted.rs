//! The file system through the kernel: what real programs' system calls come to. Skipped, visibly, where FUSE cannot be mounted.

mod support;

use ashlar_powerloss::{Mounted, Options, PowerLossFs};
use rustix::fs::{FallocateFlags, OFlags, RenameFlags};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use tempfile::TempDir;

struct Machine {
    mounted: Mounted,
    /// Dropped after the mount.
    _folder: TempDir,
}

impl Machine {
    fn start() -> Option<Machine> {
        Machine::with(Options::default())
    }

    fn with(options: Options) -> Option<Machine> {
        if support::fuse_is_missing() {
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mounted = PowerLossFs::new(options).mount(folder.path()).expect("root or fusermount3 can mount");
        Some(Machine { mounted, _folder: folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mounted.mount_point().join(name)
    }

    fn sync_root(&self) {
        File::open(self.mounted.mount_point()).and_then(|root| root.sync_all()).expect("sync of the directory");
    }
}

/// `len` bytes at an address that O_DIRECT takes.
fn aligned(buffer: &mut Vec<u8>, len: usize, fill: u8) -> &[u8] {
    buffer.clear();
    buffer.resize(len + 4096, fill);
    let start = buffer.as_ptr().align_offset(4096);
    &buffer[start..start + len]
}

fn direct(path: &PathBuf) -> File {
    let flags = OFlags::DIRECT.bits().cast_signed();
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags)
        .open(path)
        .expect("open O_DIRECT")
}

#[test]
fn synced_direct_writes_survive_and_unsynced_ones_tear() {
    let Some(machine) = Machine::start() else { return };
    let mut buffer = Vec::new();
    let mut seen_torn = false;
    for seed in 0..200 {
        let file = direct(&machine.path("disk"));
        file.set_len(1 << 20).expect("set_len");
        file.write_all_at(aligned(&mut buffer, 65536, 0xaa), 65536).expect("first write");
        file.sync_data().expect("fdatasync");
        file.write_all_at(aligned(&mut buffer, 65536, 0xbb), 65536).expect("second write");
        file.write_all_at(aligned(&mut buffer, 65536, 0xcc), 262_144).expect("third write");
        let report = machine.mounted.power_loss(seed);
        assert_eq!(report.unsynced.bytes, 131_072);
        let dead = file.write_at(aligned(&mut buffer, 512, 1), 0).expect_err("the power is off");
        assert_eq!(dead.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        machine.mounted.power_on();
        assert!(file.sync_all().is_err(), "a file opened before the loss stays dead");

        let bytes = fs::read(machine.path("disk")).expect("read");
        assert_eq!(bytes.len(), 1 << 20);
        let kept = bytes[65536..131_072].chunks(512).filter(|s| s.iter().all(|b| *b == 0xbb)).count();
        let old = bytes[65536..131_072].chunks(512).filter(|s| s.iter().all(|b| *b == 0xaa)).count();
        assert_eq!(kept + old, 128, "each sector is whole, of the synced or of the unsynced write");
        seen_torn |= kept > 0 && old > 0;
        assert!(bytes[..65536].iter().all(|b| *b == 0));
        fs::remove_file(machine.path("disk")).expect("remove");
        machine.sync_root();
    }
    assert!(seen_torn);
    assert!(machine.mounted.fs().stats().lost_bytes > 1 << 20);
}

#[test]
fn misaligned_direct_writes_are_refused_as_by_a_disk() {
    let Some(machine) = Machine::start() else { return };
    let mut buffer = Vec::new();
    let file = direct(&machine.path("disk"));
    let error = file.write_at(aligned(&mut buffer, 100, 1), 0).expect_err("100 bytes");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(file.write_at(aligned(&mut buffer, 512, 1), 512).expect("512 bytes"), 512);
}

#[test]
fn dsync_makes_its_own_write_durable_and_no_other() {
    let Some(machine) = Machine::start() else { return };
    let mut lost = 0;
    for seed in 0..50 {
        fs::write(machine.path("log"), vec![1; 8192]).expect("write");
        machine.mounted.fs().sync_all().expect("powered");
        let plain = OpenOptions::new().write(true).open(machine.path("log")).expect("open");
        let flags = OFlags::DSYNC.bits().cast_signed();
        let synced = OpenOptions::new().write(true).custom_flags(flags).open(machine.path("log")).expect("open");
        plain.write_all_at(&[2; 4096], 0).expect("write");
        if seed % 2 == 0 {
            synced.write_all_at(&[3; 4096], 4096).expect("write");
        } else {
            // What FUA becomes on a file.
            let data = [io::IoSlice::new(&[3; 4096])];
            rustix::io::pwritev2(&plain, &data, 4096, rustix::io::ReadWriteFlags::DSYNC).expect("write");
        }
        machine.mounted.power_loss(seed);
        machine.mounted.power_on();
        let bytes = fs::read(machine.path("log")).expect("read");
        assert!(bytes[4096..].iter().all(|b| *b == 3), "seed {seed}");
        lost += usize::from(bytes[..4096].contains(&1));
    }
    assert!(lost > 10);
}

#[test]
fn a_file_replaced_by_rename_is_the_old_or_the_new_one() {
    let Some(machine) = Machine::start() else { return };
    let (mut old, mut new) = (0, 0);
    for seed in 0..200 {
        fs::write(machine.path("current"), "old").expect("write");
        machine.mounted.fs().sync_all().expect("powered");
        let mut file = File::create(machine.path("current.tmp")).expect("create");
        file.write_all(b"new").expect("write");
        file.sync_all().expect("fsync");
        fs::rename(machine.path("current.tmp"), machine.path("current")).expect("rename");
        if seed % 2 == 0 {
            machine.sync_root();
        }
        machine.mounted.power_loss(seed);
        machine.mounted.power_on();
        match fs::read_to_string(machine.path("current")).expect("one of the two").as_str() {
            "old" => old += 1,
            "new" => new += 1,
            other => panic!("{other:?}"),
        }
        assert!(seed % 2 == 1 || !machine.path("current.tmp").exists(), "seed {seed}: the rename was synced");
    }
    assert!(old > 20, "unsynced renames get lost");
    assert!(new > 100 + 20, "synced renames survive, and some unsynced ones");
}

#[test]
fn names_links_listings_and_sizes_behave_as_on_any_file_system() {
    let Some(machine) = Machine::start() else { return };
    fs::create_dir_all(machine.path("a/b")).expect("mkdir");
    for index in 0..500 {
        fs::write(machine.path(&format!("a/{index:03}")), [1; 10]).expect("write");
    }
    let listed: Vec<_> =
        fs::read_dir(machine.path("a")).expect("list").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(listed.len(), 501);
    fs::hard_link(machine.path("a/000"), machine.path("a/b/link")).expect("link");
    assert_eq!(fs::metadata(machine.path("a/000")).expect("stat").nlink(), 2);
    fs::rename(machine.path("a/b"), machine.path("c")).expect("rename of a directory");
    assert_eq!(fs::read(machine.path("c/link")).expect("read"), [1; 10]);
    assert_eq!(fs::remove_dir(machine.path("c")).expect_err("not empty").kind(), io::ErrorKind::DirectoryNotEmpty);
    std::os::unix::fs::symlink("../a/001", machine.path("c/soft")).expect("symlink");
    assert_eq!(fs::read(machine.path("c/soft")).expect("read"), [1; 10]);
    let root = File::open(machine.mounted.mount_point()).expect("open");
    let no_replace = rustix::fs::renameat_with(&root, "a/002", &root, "a/003", RenameFlags::NOREPLACE);
    assert_eq!(no_replace, Err(rustix::io::Errno::EXIST));
    rustix::fs::renameat_with(&root, "a/002", &root, "c", RenameFlags::EXCHANGE).expect("exchange");
    assert!(machine.path("c").is_file() && machine.path("a/002/link").is_file());

    let mut appended = OpenOptions::new().append(true).open(machine.path("a/004")).expect("open");
    appended.write_all(&[2; 5]).expect("append");
    assert_eq!(fs::metadata(machine.path("a/004")).expect("stat").len(), 15);
    appended.set_len(4).expect("shrink");
    appended.set_len(8).expect("grow");
    assert_eq!(fs::read(machine.path("a/004")).expect("read"), [1, 1, 1, 1, 0, 0, 0, 0]);
    rustix::fs::fallocate(&appended, FallocateFlags::empty(), 0, 1 << 30).expect("fallocate");
    assert_eq!(appended.metadata().expect("stat").len(), 1 << 30);
    rustix::fs::fallocate(&appended, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 1, 2).expect("punch");
    let mut head = [9; 4];
    File::open(machine.path("a/004")).and_then(|f| f.read_exact_at(&mut head, 0)).expect("read");
    assert_eq!(head, [1, 0, 0, 1]);
}

#[test]
fn locks_exclude_each_other() {
    let Some(machine) = Machine::start() else { return };
    let first = File::create(machine.path("LOCK")).expect("create");
    let second = File::open(machine.path("LOCK")).expect("open");
    first.lock().expect("flock");
    assert!(second.try_lock().is_err());
    rustix::fs::fcntl_lock(&first, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("fcntl lock");
}

#[test]
fn an_unlinked_open_file_works_until_the_power_fails() {
    let Some(machine) = Machine::start() else { return };
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(machine.path("f")).expect("create");
    fs::remove_file(machine.path("f")).expect("unlink");
    file.write_all_at(b"still here", 0).expect("write");
    let mut bytes = [0; 10];
    file.read_exact_at(&mut bytes, 0).expect("read");
    assert_eq!(&bytes, b"still here");
    file.sync_all().expect("fsync");
    machine.mounted.power_loss(1);
    machine.mounted.power_on();
    assert!(!machine.path("f").exists());
}

#[test]
fn a_full_disk_says_so_and_takes_writes_again_when_there_is_space() {
    let Some(machine) = Machine::with(Options { capacity_bytes: 1 << 20, ..Options::default() }) else { return };
    let file = File::create(machine.path("f")).expect("create");
    file.write_all_at(&[1; 1 << 20], 0).expect("it fits");
    let error = fs::write(machine.path("g"), [1; 4096]).expect_err("it is full");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    file.set_len(0).expect("truncate");
    file.sync_all().expect("fsync");
    fs::write(machine.path("g"), [1; 4096]).expect("there is space again");
}

#[test]
fn remounting_keeps_what_survived() {
    let Some(mut machine) = Machine::start() else { return };
    let file = File::create(machine.path("synced")).expect("create");
    file.write_all_at(b"synced", 0).expect("write");
    file.sync_all().expect("fsync");
    machine.mounted.power_loss(7);
    assert!(machine.mounted.remount().is_err(), "somebody still has a file open");
    drop(file);
    machine.mounted.remount().expect("nobody uses it");
    assert_eq!(fs::read(machine.path("synced")).expect("read"), b"synced");
}

#[test]
fn a_disk_can_begin_with_a_folder() {
    let source = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(source.path().join("d")).expect("mkdir");
    fs::write(source.path().join("d/f"), "content").expect("write");
    File::create(source.path().join("sparse")).and_then(|f| f.set_len(1 << 24)).expect("create");
    if Machine::start().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = PowerLossFs::from_directory(source.path(), Options::default()).expect("it can be read");
    let mounted = disk.mount(folder.path()).expect("root or fusermount3 can mount");
    assert_eq!(mounted.power_loss(1).unsynced, Default::default());
    mounted.power_on();
    assert_eq!(fs::read_to_string(folder.path().join("d/f")).expect("read"), "content");
    assert_eq!(fs::metadata(folder.path().join("sparse")).expect("stat").len(), 1 << 24);
}

/// Eight writers, each with a log that it syncs before it counts a record, while the power fails at any time.
#[test]
fn what_many_writers_synced_survives_losses_at_any_time() {
    const WRITERS: usize = 8;
    let Some(machine) = Machine::start() else { return };
    let mut acknowledged = [0_u64; WRITERS];
    for seed in 0..60 {
        machine.mounted.fs().arm(seed * 7 % 400, seed);
        let machine = &machine;
        std::thread::scope(|scope| {
            for (writer, acknowledged) in acknowledged.iter_mut().enumerate() {
                scope.spawn(move || {
                    let mut buffer = Vec::new();
                    let mut run = || -> io::Result<()> {
                        let flags = OFlags::DIRECT.bits().cast_signed();
                        let log = machine.path(&format!("log{writer}"));
                        let file = OpenOptions::new().write(true).create(true).custom_flags(flags).open(log)?;
                        loop {
                            let record = *acknowledged + 1;
                            file.write_all_at(aligned(&mut buffer, 1024, record as u8), record * 1024)?;
                            file.sync_data()?;
                            *acknowledged = record;
                        }
                    };
                    assert!(run().is_err(), "it ends with the power");
                });
            }
        });
        machine.mounted.fs().wait_for_loss(std::time::Duration::from_secs(10)).expect("it has struck");
        machine.mounted.power_on();
        for (writer, &acknowledged) in acknowledged.iter().enumerate() {
            let bytes =
                if acknowledged == 0 { vec![] } else { fs::read(machine.path(&format!("log{writer}"))).expect("read") };
            for record in 1..=acknowledged {
                let at = usize::try_from(record * 1024).expect("small");
                assert_eq!(bytes[at..at + 1024], [record as u8; 1024], "seed {seed}, writer {writer}, record {record}");
            }
        }
    }
    assert!(acknowledged.iter().sum::<u64>() > 500, "{acknowledged:?}");
    assert!(machine.mounted.fs().stats().lost_bytes > 0);
}

#[test]
fn io_uring_at_depth_reads_back_what_it_wrote() {
    let Some(machine) = Machine::start() else { return };
    let disk = format!("--filename={}", machine.path("disk").display());
    let arguments = [
        "--name=verify",
        "--ioengine=io_uring",
        "--direct=1",
        "--rw=randwrite",
        "--bs=4k",
        "--size=16M",
        "--iodepth=32",
        "--fdatasync=16",
        "--verify=crc32c",
        "--do_verify=1",
        "--verify_state_save=0",
    ];
    match std::process::Command::new("fio").args(arguments).arg(disk).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => support::skipped("fio is not installed"),
        outcome => {
            let output = outcome.expect("fio starts");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            assert!(machine.mounted.fs().stats().file_syncs > 200);
        }
    }
}
